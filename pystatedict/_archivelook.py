# SPDX-License-Identifier: Apache-2.0
"""A look into zip and tar archives that need not be sound: names, and bytes.

The core reads checkpoints and refuses what contradicts itself.  This walk serves when
somebody asks what a refused file is, or what the pickles in it name: it believes a
little, checks that it stays within the file, and stops early.  Source of the layout:
PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.4; POSIX.1-1988 (ustar) for tar.
"""

from __future__ import annotations

import itertools
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from typing_extensions import Buffer

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
_LOCATOR_SIZE = 20
_DEFERRED = 8  # flag: sizes follow the payload
_WIDE = 0xFFFFFFFF  # size: see the zip64 extra field

TAIL = 22 + 65535 + 65536  # end record, its comment, and as much debris after it
MAX_ENTRIES = 65536
_MAX_DIRECTORY = 8 << 20
_MAX_SEARCH = 256 << 20
_PIECE = 1 << 20
_MAX_MEMBERS = 64


class Entry:
    """One record, as far as it could be told.  `stored` is None where nothing says it."""

    __slots__ = ("flags", "header", "method", "name", "stored")

    def __init__(
        self, name: str, header: int, method: int, stored: int | None, flags: int = 0
    ) -> None:
        self.name = name
        self.header = header
        self.method = method
        self.stored = stored
        self.flags = flags


class Directory:
    """A central directory: its entries, and whether these are all that it has room for.

    `start` is where the archive's own counting begins, `stop` where its end record ends.
    """

    __slots__ = ("complete", "entries", "start", "stop")

    def __init__(self, entries: list[Entry], complete: bool, start: int, stop: int) -> None:
        self.entries = entries
        self.complete = complete
        self.start = start
        self.stop = stop


def number(data: bytes, offset: int, size: int) -> int:
    """An unsigned little-endian number; 0 beyond the end of the data."""
    return int.from_bytes(data[offset : offset + size], "little")


def directory(at: ReadAt, size: int) -> list[Entry] | None:
    """The entries of the central directory; None when there is no end record.

    A directory that cannot be read gives what the local headers tell.
    """
    found = archive(at, size, MAX_ENTRIES)
    return None if found is None else found.entries


def archive(at: ReadAt, size: int, most: int) -> Directory | None:
    """The same, of up to `most` entries, with what else is to be known of it."""
    end = _find_end(at, size)
    if end is None:
        return None
    position, length, offset, stop = end
    # Bytes before the archive move everything; the directory still ends where it ends.
    start = position - length
    if start < 0 or at(start, 4) != _CENTRAL:
        start = offset
    shift = start - offset
    room = max(position - start, 0)
    data = at(start, min(room, max(_MAX_DIRECTORY, 2 * _CENTRAL_SIZE * most)))
    entries: list[Entry] = []
    here = 0
    while data[here : here + 4] == _CENTRAL and len(entries) < most:
        name_size = number(data, here + 28, 2)
        extra_size = number(data, here + 30, 2)
        after = here + _CENTRAL_SIZE + name_size
        name, extra = data[here + _CENTRAL_SIZE : after], data[after : after + extra_size]
        stored = number(data, here + 20, 4)
        header = number(data, here + 42, 4)
        if _WIDE in (number(data, here + 24, 4), stored, header):
            stored, header = _wide(extra, number(data, here + 24, 4), stored, header)
        method, flags = number(data, here + 10, 2), number(data, here + 8, 2)
        entries.append(Entry(_text(name), header + shift, method, stored, flags))
        here += _CENTRAL_SIZE + name_size + extra_size + number(data, here + 32, 2)
    complete = here >= room
    if not entries and length > 0:
        entries, _ = walk(at, size, most)
    return Directory(entries, complete, shift, stop)


def _find_end(at: ReadAt, size: int) -> tuple[int, int, int, int] | None:
    """Where the directory ends, its size, the offset it states, where the archive ends."""
    # Most archives end with it; the long way round is for those with something behind it.
    for reach in (_END_SIZE + _LOCATOR_SIZE, TAIL):
        start = max(0, size - reach)
        tail = at(start, size - start)
        here = tail.rfind(END)
        # The signature may stand in a comment as well: the directory ends at the right one.
        while here >= 0 and not _is_end(at, tail, here, start):
            here = tail.rfind(END, 0, here)
        if here >= 0:
            break
    if here < 0:
        here = tail.rfind(END)
        if here < 0 or here + _END_SIZE > len(tail):
            return None
    length, offset = number(tail, here + 12, 4), number(tail, here + 16, 4)
    position = start + here
    stop = position + _END_SIZE + number(tail, here + 20, 2)
    if tail[here - 20 : here - 16] == _LOCATOR64 and here >= 20:
        where = number(tail, here - 12, 8)
        for candidate in (where, position - 20 - 56):
            record = at(candidate, 56) if 0 <= candidate < size else b""
            if record[:4] == _END64:
                return candidate, number(record, 40, 8), number(record, 48, 8), stop
    return position, length, offset, stop


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
    entry = Entry(_text(name), position, number(head, 8, 2), stored, number(head, 6, 2))
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


def bounds(at: ReadAt, entry: Entry) -> tuple[int, int]:
    """Where the payload of a record lies, packed: from, to; ValueError if nothing says so."""
    found = local(at, entry.header)
    if found is None:
        raise ValueError("no local header where the directory says")
    stated, data = found
    stored = entry.stored if entry.stored is not None else stated.stored
    if stored is None:
        raise ValueError("nothing says how long the record is")
    return data, data + stored


def after(at: ReadAt, entry: Entry, end: int) -> int:
    """Where what follows a record begins, its payload ending at `end`."""
    return _skip_descriptor(at, end, entry.stored or 0)


def payload(at: ReadAt, entry: Entry, most: int) -> bytes:
    """The first `most` bytes of a record, unpacked, no checksum asked; ValueError if none."""
    return beginning(at, entry, *bounds(at, entry), most)


def beginning(at: ReadAt, entry: Entry, data: int, end: int, most: int) -> bytes:
    """The same of a record whose payload lies between these two."""
    if entry.method == 0:
        return at(data, min(end - data, most))
    if entry.method not in PACKED:
        raise ValueError(f"packed by method {entry.method}")
    # Where little is wanted, little is enough of what is deflated.
    enough = most + 1024 if entry.method == 8 else end - data
    return unpack(PACKED[entry.method], at(data, min(end - data, enough)), most)[0]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace").replace("\\", "/")


def tar_members(at: ReadAt, size: int) -> list[tuple[str, int, int, bool]]:
    """(name, offset, size at hand, whether a plain file) of a tar archive's first members."""
    return list(itertools.islice(tar_walk(at, size), _MAX_MEMBERS))


def tar_walk(at: ReadAt, size: int) -> Iterator[tuple[str, int, int, bool]]:
    """The same, of all members."""
    here = 0
    wide = None  # the next member's size, where it has a header for it
    while _tar_header(block := at(here, 512)):
        length = _tar_number(block[124:136]) if wide is None else wide
        if length < 0:
            return
        kind, wide = block[156:157], None
        if kind == b"x":
            told = re.search(
                rb"(?:^|\n)[0-9]+ size=([0-9]{1,18})\n", at(here + 512, min(length, _PIECE))
            )
            wide = int(told[1]) if told else None
        if kind not in (b"x", b"g", b"L", b"K"):  # headers of the next member
            name = block[:100].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
            at_hand = max(min(length, size - here - 512), 0)
            yield name, here + 512, at_hand, kind in (b"0", b"\0")
        here += 512 + (length + 511) // 512 * 512


def tar_begins(block: bytes) -> bool:
    """Whether these are the first bytes of a tar archive."""
    return _tar_header(block[:512])


def _tar_header(block: bytes) -> bool:
    if len(block) < 512 or not block[:1].strip(b"\0"):
        return False
    rest = block[:148] + block[156:]
    signed = sum(rest) - 256 * sum(octet > 127 for octet in rest)
    stated = _tar_number(block[148:156])
    return stated >= 0 and stated in (sum(rest) + 8 * 32, signed + 8 * 32)


def _tar_number(field: bytes) -> int:
    """Octal digits, or, of GNU, the number itself; -1 if neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits, 8) if digits and not digits.strip(b"01234567") else -1


# ------------------------------------------------------------------------------- packed

# What the methods of a zip archive are called here.
PACKED = {8: "deflate", 12: "bzip2", 14: "zip-lzma"}
_MAX_DICTIONARY = 64 << 20  # of LZMA, which takes memory as a file says


def unpack(kind: str, data: Buffer, most: int) -> tuple[bytes, bool]:
    """The first `most` bytes of what is packed, and whether that is all; ValueError if none.

    `kind` is "deflate" (raw), "gzip", "zlib", "bzip2", "xz" or "zip-lzma".  Streams that
    follow each other are one, as gzip and bzip2 have it.
    """
    pieces: list[bytes] = []
    here = got = 0
    with memoryview(data) as view:
        while here < len(view):
            decoder, damage, skip = _decoder(kind, bytes(view[here : here + 16]))
            here += skip
            while not decoder.eof and here < len(view) and got < most:
                try:
                    pieces.append(decoder.decompress(view[here : here + _PIECE], most - got))
                except damage as error:
                    raise ValueError("the packed bytes are damaged") from error
                got += len(pieces[-1])
                here += min(_PIECE, len(view) - here) - len(decoder.unused_data)
            if not decoder.eof or kind not in ("gzip", "bzip2", "xz"):
                return b"".join(pieces), decoder.eof
            if not bytes(view[here : here + 4]).strip(b"\0"):
                break  # the end, or padding
        return b"".join(pieces), True


def _decoder(kind: str, head: bytes) -> tuple[Any, tuple[type[Exception], ...], int]:
    """A decoder, what it raises at damage, and how many bytes are not for it."""
    try:
        if kind == "bzip2":
            import bz2

            return bz2.BZ2Decompressor(), (OSError, EOFError, ValueError), 0
        if kind in ("xz", "zip-lzma"):
            import lzma

            return _lzma(lzma, kind, head)
        import zlib
    except ImportError:
        raise ValueError(f"packed as {kind}, which this Python cannot read") from None
    return zlib.decompressobj(-15 if kind == "deflate" else 47), (zlib.error,), 0


def _lzma(lzma: Any, kind: str, head: bytes) -> tuple[Any, tuple[type[Exception], ...], int]:
    damage = (lzma.LZMAError, EOFError, ValueError)
    if kind == "xz":
        return lzma.LZMADecompressor(memlimit=2 * _MAX_DICTIONARY), damage, 0
    # version, size of the properties, and these: three numbers in one, the dictionary
    dictionary = number(head, 5, 4)
    if len(head) < 9 or number(head, 2, 2) != 5 or head[4] >= 9 * 5 * 5:
        raise ValueError("the packed bytes are damaged")
    if dictionary > _MAX_DICTIONARY:
        raise ValueError("to unpack it takes more memory than is allowed")
    properties, lc = divmod(head[4], 9)
    pb, lp = divmod(properties, 5)
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), damage, 9
