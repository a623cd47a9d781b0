"""What a pickle gives as an argument is checked here, in one way and with one message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pystatedict._errors import CorruptError, LimitError

# A key of a set or dict made of more parts than this is refused: Python hashes all of a
# tuple's tree, and a few bytes of pickle can share parts into a tree without end.
_KEY_PARTS_MOST = 256


def wrong(name: str, why: str) -> CorruptError:
    return CorruptError(
        f"{name} is called with {why}",
        code="pickle-call",
        hint="the file was damaged or made to mislead; get it again from its source",
    )


class Untold(Exception):
    """Perhaps sound, but not to be told exactly here: what asked for it stays an Opaque."""


def tell(condition: bool) -> None:
    if not condition:
        raise Untold


def expect(condition: bool, name: str, why: str = "arguments that it cannot have") -> None:
    if not condition:
        raise wrong(name, why)


def check_key(key: Any) -> Any:
    """Refuse keys whose hash would take long or fail; give the key back."""
    if isinstance(key, (tuple, frozenset)):
        seen, todo = 0, [key]
        while todo:
            part = todo.pop()
            seen += 1
            if isinstance(part, (tuple, frozenset)):
                if seen + len(part) > _KEY_PARTS_MOST:
                    raise LimitError("a key of a dict or set has too many parts", hint="")
                todo.extend(part)
    return key


# Anyone can write down numbers of one hash, and a table of n of them takes n * n steps.
_SAME_HASH_MOST = 500


def check_hashes(keys: Iterable[Any], counts: dict[int, int]) -> None:
    """Refuse keys of one hash; `counts` remembers what one container has met."""
    for key in keys:
        if type(key) is str or type(key) is bytes:
            continue  # their hashes are secret
        value = hash(key)
        counts[value] = counts.get(value, 0) + 1
        if counts[value] > _SAME_HASH_MOST:
            raise LimitError("too many keys have the same hash", code="limit")


def raw_bytes(data: Any, size: int, name: str) -> bytes:
    """Just `size` bytes, or the str that Python 2 used for them and that was decoded here.

    It was decoded as UTF-8 where it is that, and as latin-1 otherwise.  One text can have
    come from both, though never from as many bytes.
    """
    expect(isinstance(data, (bytes, bytearray, str)), name, "no bytes")
    raw: bytes
    if isinstance(data, str):
        by_latin1 = len(data) == size
        try:
            raw = data.encode("latin-1" if by_latin1 else "utf-8")
        except UnicodeEncodeError:
            raise wrong(name, "text where bytes belong") from None
    else:
        raw = bytes(data)
    expect(len(raw) == size, name, "bytes of another size than it has")
    return raw
