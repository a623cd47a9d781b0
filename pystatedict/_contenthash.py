# SPDX-License-Identifier: Apache-2.0
"""content_hash: one number for the tensors of a checkpoint, whatever file they stand in."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._entries import Entry

#: What every hash begins with: another layout will have another.
HEAD = b"pystatedict content 1\n"


def content_hash(f: Any, *, root: str | None = "auto") -> str:
    """SHA-256 of the tensors' names, dtypes, shapes and bytes, as 64 hexadecimal digits.

    The same weights give the same hash in a zip, legacy, safetensors or npz file, in shards
    and in memory: the container, the order, the file's name, strides, offsets, shared
    storages, devices and trainable flags do not count.  docs/format.md tells what is hashed.

    Args:
        f: what open() takes, a Checkpoint, or a mapping of names to arrays.
        root: "auto" for the one state_dict inside, None for all tensors of the file, or a
            dotted path.  A Checkpoint has its own.

    Raises:
        LimitError: tensors that repeat few bytes without end.
        TypeError: a value of a mapping that NumPy cannot make an array of.
        What open() raises, of a file that cannot be opened.

    The bytes are read once, in pieces; the memory that is needed is that of the largest storage.

    >>> from pystatedict import load
    >>> content_hash("tutorial.pth")[:16]
    '5c7f968d2d6bbaf3'
    >>> content_hash(load("tutorial.pth")) == content_hash("tutorial.pth")
    True
    """
    import hashlib
    import struct

    from pystatedict._contents import digest, encoded, framed, meta_digest
    from pystatedict._entries import Hand, entries_of, together
    from pystatedict._opening import Naming
    from pystatedict._pieces import Work

    with entries_of(f, root) as entries, Naming(entries.path):
        hand, work = Hand(), Work()

        def of(entry: Entry) -> bytes:
            if entry.layout == "meta":
                return meta_digest(entry.dtype, entry.shape)
            return digest(entry.name, hand.take(entry), work)

        found = {entry.name: of(entry) for entry in together(iter(entries.values()))}
    whole = hashlib.sha256(HEAD + struct.pack("<Q", len(found)))
    for name in sorted(found, key=encoded):
        whole.update(framed(name) + found[name])
    return whole.hexdigest()
