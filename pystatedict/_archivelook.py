# SPDX-License-Identifier: Apache-2.0
"""A look into zip and tar archives that need not be sound: names, and bytes.

The core reads checkpoints and refuses what contradicts itself.  This walk serves when
somebody asks what a refused file is, or what the pickles in it name: it believes a
little, checks that it stays within the file, and stops early.  Source of the layout:
PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.4; POSIX.1-1988 (ustar) for tar.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # (offset, count) -> at most count bytes from there; fewer where the file ends
    ReadAt = Callable[[int, int], bytes]

LOCAL = b"PK\3\4"
END = b"PK\5\6"
_DESCRIPTOR = b"PK\7\x08"
_CENTRAL = b"PK\1\2"
_END64 = b"PK\6\6"
_LOCATOR64 = b"PK\6\7"

_LOCAL_SIZE = 30
_CENTRAL_SIZE = 46
_END_SIZE = 22
_DEFERRED = 8  # flag: sizes follow the payload
_WIDE = 0xFFFFFFFF  # size: see the zip64 extra field

_TAIL = 22 + 65535 + 65536  # end record, its comment, and as much debris after it
MAX_ENTRIES = 65536
_MAX_DIRECTORY = 8 << 20
_MAX_SEARCH = 256 << 20
_PIECE = 1 << 20
_MAX_MEMBERS = 64


class Entry:
    """One record, as far as it could be told.  `stored` is None where nothing says it."""

    __slots__ = ("header", "method", "name", "stored")

    def __init__(self, name: str, header: int, method: int, stored: int | None) -> None:
        self.name = name
        self.header = header
        self.method = method
        self.stored = stored


def number(data: bytes, offset: int, size: int) -> int:
    """An unsigned little-endian number; 0 beyond the end of the data."""
    return int.from_bytes(data[offset : offset + size], "little")


def directory(at: ReadAt, size: int) -> list[Entry] | None:
    """The entries of the central directory; None when there is no end record.

    A directory that cannot be read gives what the local headers tell.
    """
    end = _find_end(at, size)
    if end is None:
        return None
    position, length, offset = end
    # Bytes before the archive move everything; the directory still ends where it ends.
    start = position - length
    if start < 0 or at(start, 4) != _CENTRAL:
        start = offset
    shift = start - offset
    data = at(start, min(max(position - start, 0), _MAX_DIRECTORY))
    entries: list[Entry] = []
    here = 0
    while data[here : here + 4] == _CENTRAL and len(entries) < MAX_ENTRIES:
        name_size = number(data, here + 28, 2)
        extra_size = number(data, here + 30, 2)
        after = here + _CENTRAL_SIZE + name_size
        name, extra = data[here + _CENTRAL_SIZE : after], data[after : after + extra_size]
        stored = number(data, here + 20, 4)
        header = number(data, here + 42, 4)
        if _WIDE in (number(data, here + 24, 4), stored, header):
            stored, header = _wide(extra, number(data, here + 24, 4), stored, header)
        entries.append(Entry(_text(name), header + shift, number(data, here + 10, 2), stored))
        here += _CENTRAL_SIZE + name_size + extra_size + number(data, here + 32, 2)
    if not entries and length > 0:
        entries, _ = walk(at, size)
    return entries


def _find_end(at: ReadAt, size: int) -> tuple[int, int, int] | None:
    """Where the directory ends, its size, and the offset it states."""
    start = max(0, size - _TAIL)
    tail = at(start, size - start)
    here = tail.rfind(END)
    # The signature may stand in a comment as well: the directory ends at the right one.
    while here >= 0 and not _is_end(at, tail, here, start):
        here = tail.rfind(END, 0, here)
    if here < 0:
        here = tail.rfind(END)
        if here < 0 or here + _END_SIZE > len(tail):
            return None
    length, offset = number(tail, here + 12, 4), number(tail, here + 16, 4)
    position = start + here
    if tail[here - 20 : here - 16] == _LOCATOR64 and here >= 20:
        where = number(tail, here - 12, 8)
        for candidate in (where, position - 20 - 56):
            record = at(candidate, 56) if 0 <= candidate < size else b""
            if record[:4] == _END64:
                return candidate, number(record, 40, 8), number(record, 48, 8)
    return position, length, offset


def _is_end(at: ReadAt, tail: bytes, here: int, start: int) -> bool:
    if here + _END_SIZE > len(tail):
        return False
    if tail[here - 20 : here - 16] == _LOCATOR64 and here >= 20:
        return True
    length = number(tail, here + 12, 4)
    if length == 0:
        return here + _END_SIZE + number(tail, here + 20, 2) == len(tail)
    return at(start + here - length, 4) == _CENTRAL


def _wide(extra: bytes, size: int, stored: int, header: int) -> tuple[int, int]:
    here = 0
    while here + 4 <= len(extra):
        length = number(extra, here + 2, 2)
        if number(extra, here, 2) == 1:
            at = here + 4 + (8 if size == _WIDE else 0)
            if stored == _WIDE:
                stored = number(extra, at, 8)
                at += 8
            if header == _WIDE:
                header = number(extra, at, 8)
            break
        here += 4 + length
    return stored, header


def local(at: ReadAt, position: int) -> tuple[Entry, int] | None:
    """The local header at `position` and where its payload starts; None if it is none."""
    head = at(position, _LOCAL_SIZE)
    if len(head) < _LOCAL_SIZE or head[:4] != LOCAL:
        return None
    name_size, extra_size = number(head, 26, 2), number(head, 28, 2)
    name = at(position + _LOCAL_SIZE, name_size)
    if len(name) < name_size:
        return None
    stored: int | None = number(head, 18, 4)
    if stored == _WIDE or (number(head, 6, 2) & _DEFERRED and stored == 0):
        stored = None
    entry = Entry(_text(name), position, number(head, 8, 2), stored)
    return entry, position + _LOCAL_SIZE + name_size + extra_size


def walk(at: ReadAt, size: int, most: int = MAX_ENTRIES) -> tuple[list[Entry], Entry | None]:
    """The records from the start: those that are whole, and the one that is cut off.

    torch.save leaves the sizes out of the local headers, so the end of such a record is
    the first data descriptor that states the very number of bytes that lie before it.
    """
    whole: list[Entry] = []
    position = 0
    searched = 0
    while len(whole) < most and searched < _MAX_SEARCH:
        found = local(at, position)
        if found is None:
            break
        entry, data = found
        if entry.stored is None:
            end = _find_descriptor(at, data, min(size, data + _MAX_SEARCH))
            if end is None:
                return whole, entry
            searched += end[0] - data
            entry.stored = end[0] - data
            position = end[1]
        else:
            position = data + entry.stored
            if position > size:
                return whole, entry
            position = _skip_descriptor(at, position, entry.stored)
        whole.append(entry)
    return whole, None


def _find_descriptor(at: ReadAt, data: int, stop: int) -> tuple[int, int] | None:
    """Where the payload from `data` on ends, and where the next record starts."""
    here = data
    while here < stop:
        piece = at(here, min(_PIECE, stop - here))
        if not piece:
            return None
        found = piece.find(_DESCRIPTOR)
        while found >= 0:
            position = here + found
            after = _skip_descriptor(at, position, position - data)
            if after != position:
                return position, after
            found = piece.find(_DESCRIPTOR, found + 1)
        here += max(len(piece) - 3, 1) if here + len(piece) < stop else len(piece)
    return None


def _skip_descriptor(at: ReadAt, position: int, stored: int) -> int:
    record = at(position, 24)
    if record[:4] != _DESCRIPTOR:
        return position
    if len(record) == 24 and number(record, 8, 8) == stored and record[16:20] != LOCAL:
        return position + 24
    if len(record) >= 16 and number(record, 8, 4) == stored & 0xFFFFFFFF:
        return position + 16
    return position


def payload(at: ReadAt, entry: Entry, most: int) -> bytes:
    """The first `most` bytes of a record, inflated, no checksum asked; ValueError if none."""
    found = local(at, entry.header)
    if found is None:
        raise ValueError("no local header where the directory says")
    stated, data = found
    stored = entry.stored if entry.stored is not None else stated.stored
    if stored is None:
        raise ValueError("nothing says how long the record is")
    if entry.method == 0:
        return at(data, min(stored, most))
    if entry.method != 8:
        raise ValueError(f"packed by method {entry.method}")
    import zlib

    inflater = zlib.decompressobj(-15)
    try:
        return inflater.decompress(at(data, min(stored, most)), most)
    except zlib.error as error:
        raise ValueError("the deflated bytes are damaged") from error


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace").replace("\\", "/")


def tar_members(at: ReadAt, size: int) -> list[tuple[str, int, int, bool]]:
    """(name, offset, size at hand, whether a plain file) of a tar archive's first members."""
    members: list[tuple[str, int, int, bool]] = []
    here = 0
    for _ in range(_MAX_MEMBERS):
        block = at(here, 512)
        if len(block) < 512 or not _tar_header(block):
            break
        length = _octal(block[124:136])
        if length < 0:
            break
        if block[156:157] not in (b"x", b"g", b"L", b"K"):  # headers of the next member
            name = block[:100].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
            plain = block[156:157] in (b"0", b"\0")
            members.append((name, here + 512, min(length, size - here - 512), plain))
        here += 512 + (length + 511) // 512 * 512
    return members


def _tar_header(block: bytes) -> bool:
    if not block[:1].strip(b"\0"):
        return False
    return _octal(block[148:156]) == sum(block[:148]) + 8 * 32 + sum(block[156:])


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else -1
