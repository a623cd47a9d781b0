"""One order for the items of a set, the same in every process.

Python's own follows hashes: secret ones of texts, addresses of objects.  Here items are
sorted by their class's name and then by value: of numbers and text it is their own order,
of all else that of a digest of what would be written.  Objects that would be written
alike, and are told apart by identity, follow in the order in which they were made.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from pystatedict._core import TensorInfo
from pystatedict._keys import TensorKey, is_array
from pystatedict._opaque import Opaque, Own
from pystatedict._tensorkinds import TensorObject

Reduce = Callable[[Any], Any]
#: digest of the content, and when the objects in it were made
Told = tuple[bytes, tuple[int, ...]]

_NATURAL = frozenset({bool, int, str, bytes})

# Births that are compared; of a thousand objects told alike the rest may stand anyhow.
_BIRTHS_MOST = 8


def in_order(items: Iterable[Any], reduce: Reduce) -> tuple[Any, ...]:
    """The items sorted; `reduce` tells how an object is written."""
    teller = _Teller(reduce)
    return tuple(sorted(items, key=teller.key))


class _Teller:
    """Digests of values, each made once: work is linear in what the items hold."""

    def __init__(self, reduce: Reduce) -> None:
        self._reduce = reduce
        self._told: dict[int, Told] = {}
        self._kept: list[Any] = []  # so that no address is used again

    def key(self, item: Any) -> tuple[Any, ...]:
        kind = type(item)
        if kind in _NATURAL:
            return (kind.__name__, 0, item)
        if kind is float:
            return (kind.__name__, 0, struct.pack(">d", item))
        return (kind.__name__, 1, *self._tell(item))

    def _tell(self, root: Any) -> Told:
        """Parts before what they are parts of, without recursion."""
        opened: dict[int, tuple[str, list[Any]]] = {}
        todo = [root]
        while todo:
            value = todo[-1]
            here = id(value)
            if here in self._told:
                todo.pop()
            elif here in opened:
                self._told[here] = self._join(*opened.pop(here))
                todo.pop()
            else:
                self._kept.append(value)
                leaf = _leaf(value)
                if leaf is not None:
                    self._told[here] = leaf
                else:
                    opened[here] = self._parts(value)
                    # One that is open already leads back here.
                    todo.extend(p for p in opened[here][1] if id(p) not in opened)
        return self._told[id(root)]

    def _parts(self, value: Any) -> tuple[str, list[Any]]:
        if type(value) in (tuple, list, set, frozenset):
            return type(value).__name__, list(value)
        if type(value) is dict:
            return "dict", [part for pair in value.items() for part in pair]
        if isinstance(value, Opaque):
            return "name", [value.module, value.name, value.args]
        return "object", list(self._reduce(value))

    def _join(self, kind: str, parts: list[Any]) -> Told:
        from hashlib import blake2b

        # What leads back has no digest yet, and counts as nothing.
        told = [self._told.get(id(part), (b"", ())) for part in parts]
        if kind in ("set", "frozenset"):
            told.sort()
        births = [birth for _, those in told for birth in those[:_BIRTHS_MOST]]
        digest = blake2b(kind.encode(), digest_size=16)
        for content, _ in told:
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.digest(), tuple(births[:_BIRTHS_MOST])


def _leaf(value: Any) -> Told | None:
    """What is told by itself; None for what has parts."""
    kind = type(value)
    content: bytes | None = None
    if value is None or kind is bool:
        content = repr(value).encode()
    elif kind is int:
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    elif kind is float:
        content = struct.pack(">d", value)
    elif kind is complex:
        content = struct.pack(">dd", value.real, value.imag)
    elif kind is str:
        content = value.encode("utf-8", "surrogatepass")
    elif kind in (bytes, bytearray):
        content = bytes(value)
    if content is not None:
        return kind.__name__.encode() + b"\0" + content, ()
    if isinstance(value, TensorKey):
        return repr(value).encode(), (value._birth,)
    if isinstance(value, Opaque) and value.args is not None and not isinstance(value, Own):
        # Its content may be as large as the file: its name and age are enough.
        name = f"{value.form}\0{value.qualified_name}"
        return name.encode("utf-8", "surrogatepass"), (value._birth,)
    if is_array(value) or isinstance(value, (TensorInfo, TensorObject)):
        return f"{kind.__name__}\0{value.dtype}\0{tuple(value.shape)}".encode(), ()
    return None
