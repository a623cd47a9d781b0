# SPDX-License-Identifier: Apache-2.0
"""Whether bytes begin as a pickle, by the lengths of its first opcodes; nothing is run.

Source: CPython's Lib/pickletools.py documents each opcode and its argument.
"""

from __future__ import annotations

from ._archivelook import number

_NO_ARGUMENT = frozenset(
    b"(.012NQRabd}]e)lostu\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"
)
_ARGUMENT = {
    **dict.fromkeys(b"Khq\x80\x82", 1),
    **dict.fromkeys(b"M\x83", 2),
    **dict.fromkeys(b"Jjr\x84", 4),
    **dict.fromkeys(b"G\x95", 8),
}
_COUNTED = {
    **dict.fromkeys(b"UC\x8c\x8a", 1),
    **dict.fromkeys(b"TXB\x8b", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
_LINES = {**dict.fromkeys(b"IFLSVPgp", 1), **dict.fromkeys(b"ci", 2)}
_FIRST = frozenset(b"\x80(NIJKMLFGSTUVXcCB})]\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96")
_FIRST_OF_NO_WRITER = frozenset(b"P\x82\x83\x84")  # a persistent id, the registry
_ENOUGH = 16  # opcodes in a row that make sense

_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"  # torch's, with its STOP
_TEXT_MAGIC = b"L119547037146038801333356L\n."


def is_legacy(head: bytes) -> bool:
    """Whether these first bytes are those of torch's old format: the magic number's pickle."""
    # PROTO, from protocol 4 on a FRAME, then the number
    signed = head[:1] == b"\x80" and _MAGIC in (head[2:15], head[11:24])
    return signed or head.startswith(_TEXT_MAGIC)


def may_begin(head: bytes) -> bool:
    """Whether some pickle begins with this byte: with an opcode that needs nothing before."""
    return len(head) > 0 and (head[0] in _FIRST or head[0] in _FIRST_OF_NO_WRITER)


def looks_like_pickle(data: bytes, complete: bool) -> bool:
    """Whether bytes begin as a pickle; `complete` when nothing follows them.

    Protocols 0 and 1 have no signature, and their opcodes are letters: there the whole
    of it must make sense.
    """
    if len(data) < 2 or data[0] not in _FIRST:
        return False
    signed = data[0] == 0x80
    if signed and data[1] > 5:
        return False
    if data[0] == 0x63:  # GLOBAL: two names, a line each
        names = data.split(b"\n", 2)
        if len(names) == 3 and all(_dotted(name) for name in names[:2]):
            return True
    here = opcodes = 0
    while opcodes < _ENOUGH:
        if here >= len(data):
            return opcodes > 1 and (signed or not complete)
        opcode = data[here]
        after = _after(data, here)
        if after is None:
            # Damage does not make a signed pickle something else.
            return signed and opcodes > 1
        if after > len(data):
            return signed or (not complete and opcodes > 1)
        opcodes += 1
        if opcode == 0x2E:
            rest = data[after:].strip()
            if signed or not rest:
                return True
            if rest[0] not in _FIRST:
                return False
        here = after
    return True


def _after(data: bytes, here: int) -> int | None:
    """Where the opcode after this one is; beyond the data if cut off, None if none."""
    opcode = data[here]
    if opcode in _NO_ARGUMENT:
        return here + 1
    if opcode in _ARGUMENT:
        return here + 1 + _ARGUMENT[opcode]
    if opcode in _COUNTED:
        width = _COUNTED[opcode]
        return here + 1 + width + number(data, here + 1, width)
    if opcode not in _LINES:
        return None
    start = here + 1
    for _ in range(_LINES[opcode]):
        end = data.find(b"\n", start)
        if end < 0:
            return len(data) + 1
        line = data[start:end].strip(b"\r")
        start = end + 1
        if opcode in b"IFLgp" and line.strip(b"0123456789.-+eLinfa"):
            return None
        if opcode == 0x53 and line[:1] not in (b"'", b'"'):
            return None
        if opcode in b"ci" and not _dotted(line):
            return None
    return start


def _dotted(line: bytes) -> bool:
    return bool(line) and line.decode("latin-1").strip().replace(".", "").isidentifier()
