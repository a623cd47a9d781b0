# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint and its file are: the facts that `stat` tells."""

from __future__ import annotations

import os

from ._summary import Total, flags_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ._checkpoint import Checkpoint
    from ._opened import Archive
    from ._sidecar import Record

_TEXT_RECORD = 256  # bytes of a small text record that are shown


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that `stat` tells; plain values but for `trouble`, see `_summary.flags_of`."""
    path = checkpoint.path
    archive = checkpoint.archive
    records = archive.records()
    flags, sidecar, trouble = flags_of(checkpoint)
    form = archive.kind if archive.kind in _OTHER_FORMATS else "zip"
    total = Total()
    dtypes: dict[str, Total] = {}
    users: dict[tuple[int, str], int] = {}
    for name, info in checkpoint.items():
        total.add(name, info, flags[name])
        dtypes.setdefault(info.dtype, Total()).add(name, info, flags[name])
        if not info.is_meta:
            storage = (id(info._archive), info.storage)
            users[storage] = users.get(storage, 0) + 1
    return {
        "size": None if path is None else _size(archive, path),
        "format": form,
        "kind": archive.kind,
        "byteorder": archive.byteorder,
        "byteorder_stated": archive.has_byteorder,
        "pickle": _pickle(archive),
        "records": len(records),
        "compressed": sum(method != 0 for *_, method in records),
        "alignment": _alignment(path, archive.prefix, records) if form == "zip" else None,
        "checksums": _checksums(records),
        "serialization_id": _text_record(archive, ".data/serialization_id"),
        "total": total.members(),
        "dtypes": {dtype: part.members() for dtype, part in dtypes.items()},
        "storages": archive.storage_count,
        "shared": sum(count > 1 for count in users.values()),
        "sidecar": sidecar,
        "trouble": trouble,
    }


_OTHER_FORMATS = frozenset(
    {"legacy", "tar", "pickle", "safetensors", "npz", "shards", "dcp", "deepspeed"}
)


def _pickle(archive: Archive) -> dict[str, int] | None:
    """None where there is none, or a header in its place."""
    if not archive.pickle_size or archive.kind == "safetensors":
        return None
    return {"protocol": archive.protocol, "bytes": archive.pickle_size}


def _checksums(records: Sequence[Record]) -> str:
    stated = [bool(crc) for _, _, _, size, crc, _ in records if size]
    if not records or not (all(stated) or any(stated)):
        return "absent"
    return "stated" if all(stated) else "partly"


def _text_record(archive: Archive, name: str) -> str | None:
    for index, record in enumerate(archive.records()):
        if record[0] == archive.prefix + name and record[3] <= _TEXT_RECORD:
            return archive.read(index).decode("utf-8", "backslashreplace")
    return None


def _size(archive: Archive, path: str) -> int:
    """Bytes of a file, of an index and the files that it names, or of all files of a folder."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    paths = {path}
    if archive.kind == "shards":
        from ._fileset import FileSet

        assert isinstance(archive, FileSet)
        paths.update(opened().path or path for _, opened in archive.members())
    return sum(os.stat(part).st_size for part in paths)


def _alignment(path: str | None, prefix: str, records: Iterable[Record]) -> int | None:
    """The power of two, up to 4,096, at which the bytes of every storage begin."""
    if path is None:
        return None
    common = 0
    with open(path, "rb") as file:
        for name, offset, _, size, _, _ in records:
            if not size or not name.startswith(prefix + "data/"):
                continue
            file.seek(offset)
            header = file.read(30)
            # A local header ends with the lengths of the name and the extra field, which
            # stand between it and the bytes.
            lengths = header[26:28], header[28:30]
            common |= offset + 30 + sum(int.from_bytes(two, "little") for two in lengths)
    return min(common & -common, 4096) or None
