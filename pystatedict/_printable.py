# SPDX-License-Identifier: Apache-2.0
"""Text from strangers, made safe to print."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def printable(text: str | bytes, limit: int | None = None) -> str:
    r"""Escape what a terminal would obey instead of show.

    Control characters, line breaks, bidirectional and invisible characters, lone
    surrogates and bytes that are no UTF-8 come out as ``\x1b``, ``\u202e`` and the
    like.  Text without any of them is given back as it is, so a second call changes
    nothing.  With `limit`, longer text is cut in the middle to that many characters.
    """
    if not isinstance(text, str):
        text = bytes(text).decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(ord(c)) for c in text)
    if limit is not None and len(text) > limit:
        head = max(limit - 1, 0) // 2
        tail = max(limit - 1 - head, 0)
        text = text[:head] + "…" + text[len(text) - tail :]
    return text


def _escape(code: int) -> str:
    if code in (9, 10, 13):
        return {9: "\\t", 10: "\\n", 13: "\\r"}[code]
    if code < 0x100:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural but for 1.

    >>> counted(1, "file"), counted(1200, "tensor")
    ('1 file', '1,200 tensors')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_LISTED = 5  # names that a message lists


def listed(names: Iterable[str]) -> list[str]:
    """A few names as lines of evidence."""
    names = list(names)
    lines = [f"'{printable(name, 200)}'" for name in names[:_LISTED]]
    if len(names) > _LISTED:
        lines.append(f"and {len(names) - _LISTED:,} more")
    return lines
