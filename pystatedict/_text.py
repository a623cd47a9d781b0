# SPDX-License-Identifier: Apache-2.0
"""Text for people: sizes, counts, tables, and what the terminal can show.

Everything here takes and gives plain `str`; what comes from a file must have gone
through `printable` before.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DIM, GREEN, RED, YELLOW = "2", "32", "1;31", "33"  # SGR codes

INDENT = "  "
GAP = "   "

_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_COUNT_UNITS = ("K", "M", "B", "T")

_SHORT_DTYPES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "complex128": "c128",
    "complex64": "c64",
    "complex32": "c32",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint64": "u64",
    "uint32": "u32",
    "uint16": "u16",
    "uint8": "u8",
}


class Signs:
    """The few characters beyond ASCII, each with a plain form."""

    __slots__ = ("branch", "cut", "dot", "frozen", "last", "pipe", "trainable", "unknown")

    def __init__(self, *, ascii_only: bool) -> None:
        self.trainable = "+" if ascii_only else "●"
        self.frozen = "-" if ascii_only else "○"
        self.unknown = "?" if ascii_only else "·"
        self.dot = ", " if ascii_only else " · "
        self.cut = "~" if ascii_only else "…"
        self.branch = "|- " if ascii_only else "├─ "
        self.last = "`- " if ascii_only else "└─ "
        self.pipe = "|  " if ascii_only else "│  "

    def of(self, flag: bool | None) -> str:
        if flag is None:
            return self.unknown
        return self.trainable if flag else self.frozen

    def legend(self) -> str:
        return f"{self.trainable} trainable  {self.frozen} frozen  {self.unknown} unknown"


def signs_for(encoding: str | None) -> Signs:
    """The full signs where `encoding` can carry them, else the plain ones."""
    try:
        "●○·…├─└│".encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return Signs(ascii_only=True)
    return Signs(ascii_only=False)


class Screen:
    """How to write to stdout: which signs, how wide, in colour or not."""

    __slots__ = ("color", "columns", "signs")

    def __init__(self, color: str) -> None:
        stream = sys.stdout
        # Names may hold what the encoding cannot carry, lone surrogates even.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
        terminal = stream.isatty()
        self.signs: Signs = signs_for(getattr(stream, "encoding", None))
        self.columns = terminal_width(stream.fileno()) if terminal else None
        self.color = color == "always" or (
            color == "auto"
            and terminal
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )

    def paint(self, text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self.color and color else text

    def rows(
        self,
        rows: Sequence[Sequence[str]],
        align: str,
        *,
        painted: int = -1,
        colors: Sequence[str] = (),
    ) -> None:
        """Print a table; `colors` has one for each row's cell in the column `painted`."""
        for index, cells in enumerate(
            table(rows, align, columns=self.columns, sign=self.signs.cut)
        ):
            if colors:
                cells[painted] = self.paint(cells[painted], colors[index])
            print((INDENT + GAP.join(cells)).rstrip(" "))


def terminal_width(descriptor: int) -> int | None:
    """Columns of the terminal behind `descriptor`, unless COLUMNS says otherwise."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def _scaled(number: int, base: int, units: Sequence[str]) -> str:
    value, unit = number / base, 0
    # Compare what would be printed: 999,960 is "1.0 M" and not "1000.0 K".
    while round(value, 1) >= base and unit + 1 < len(units):
        value, unit = value / base, unit + 1
    return f"{value:.1f} {units[unit]}"


def human_bytes(size: int) -> str:
    """`524288` -> `512.0 KiB`."""
    return f"{size} B" if size < 1024 else _scaled(size, 1024, _BYTE_UNITS)


def human_count(count: int) -> str:
    """`1234567` -> `1.2 M`."""
    return str(count) if count < 1000 else _scaled(count, 1000, _COUNT_UNITS)


def parameters_text(count: int) -> str:
    """`1234567` -> `1.2 M parameters`."""
    return human_count(count) + f" parameter{'' if count == 1 else 's'}"


def percent(part: int, whole: int) -> str:
    """A share; `0%` and `100%` are said only when they are exact."""
    share = part * 100 // whole if whole else 0
    if part and share == 0:
        return "<1%"
    if part < whole and part * 200 >= 199 * whole:
        return ">99%"
    return f"{share}%"


def short_dtype(dtype: str) -> str:
    return _SHORT_DTYPES.get(dtype, dtype)


def shape_text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def width_of(text: str) -> int:
    """Columns that a terminal gives to `text`."""
    if text.isascii() or max(text) < "\u0300":
        return len(text)  # below the first that combines, and far below the first wide one
    from unicodedata import combining, east_asian_width

    wide = sum(east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(combining(c) != 0 for c in text)


def cut_middle(text: str, columns: int, sign: str) -> str:
    """`text` in at most `columns`, its middle left out: ends tell layers apart."""
    if width_of(text) <= columns:
        return text
    room = max(columns - len(sign), 2)
    tail = (room + 1) // 2
    head = room - tail
    front: list[str] = []
    for char in text[:head]:
        head -= width_of(char)
        if head < 0:
            break
        front.append(char)
    back: list[str] = []
    for char in reversed(text[-tail:]):
        tail -= width_of(char)
        if tail < 0:
            break
        back.append(char)
    return "".join(front) + sign + "".join(reversed(back))


def table(
    rows: Sequence[Sequence[str]], align: str, *, columns: int | None = None, sign: str = ""
) -> Iterator[list[str]]:
    """The rows with their cells made equally wide, to be joined by GAP after INDENT.

    `align` has `<` or `>` for each column.  `columns` is the terminal's width, if there is
    one: then the first column is cut so that a line fits, but never below 16.
    """
    if not rows:
        return
    widths = [max(map(width_of, cells)) for cells in zip(*rows, strict=True)]
    if columns is not None:
        others = len(INDENT) + sum(widths[1:]) + len(GAP) * (len(widths) - 1)
        widths[0] = min(widths[0], max(columns - others, 16))
    last = len(widths) - 1
    for row in rows:
        cells = list(row)
        if columns is not None:
            cells[0] = cut_middle(cells[0], widths[0], sign)
        for i, text in enumerate(cells):
            padding = " " * (widths[i] - width_of(text))
            if align[i] == ">":
                cells[i] = padding + text
            elif i != last:
                cells[i] = text + padding
        yield cells
