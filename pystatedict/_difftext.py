# SPDX-License-Identifier: Apache-2.0
"""A Diff as text: a table for each kind of difference."""

from __future__ import annotations

from pystatedict._printable import counted, printable
from pystatedict._text import GAP, INDENT, shape_text, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pystatedict._difference import Diff, Distance

_NAME = 200  # characters of a name that are shown
_PART = "  ."  # begins the line of a part of the tensor above


def report(found: Diff, most: int | None) -> str:
    """Lines without an end; names of files and tensors escaped."""
    a, b = ("memory" if path is None else printable(path) for path in found.paths)
    lines = [f"a: {a}", f"b: {b}"]
    compared = f"{counted(found.compared, 'tensor')} in both"
    if found.equal:
        looked = "are equal" if found.values else "agree in shape and dtype"
        if found.rtol or found.atol:
            looked += f", within rtol={found.rtol:g} and atol={found.atol:g},"
        lines.append(f"no difference: {compared}, which {looked.rstrip(',')}")
    else:
        kinds = [f"{n:,} {kind}" for kind, n in found.counts().items() if n]
        lines.append(f"{', '.join(kinds)}; {compared}")
    for title, rows in _tables(found):
        if rows:
            count = sum(not row[0].startswith(_PART) for row in rows)
            lines += ["", f"{title}: {count:,}", *_rows(rows, most)]
    return "\n".join(lines)


def _tables(found: Diff) -> Iterable[tuple[str, list[tuple[str, ...]]]]:
    for title, facts in (
        ("removed (only in a)", found.removed),
        ("added (only in b)", found.added),
    ):
        yield title, [(name(n), shape_text(shape), dtype) for n, (shape, dtype) in facts.items()]
    pairs = ((old, ("", name(new))) for old, new in found.renamed.items())
    yield "renamed (equal content)", [(name(old), arrow) for old, (_, arrow) in _arrows(pairs)]
    shapes = ((n, (shape_text(s), shape_text(t))) for n, (s, t) in found.reshaped.items())
    yield "reshaped", [(name(n), *pair) for n, pair in _arrows(shapes)]
    yield "retyped", [(name(n), *pair) for n, pair in _arrows(found.retyped.items())]
    flags = ((n, (_flag(s), _flag(t))) for n, (s, t) in found.trainable.items())
    yield "trainable", [(name(n), *pair) for n, pair in _arrows(flags)]
    yield "changed", _distances(found, found.changed)
    yield "close (no difference)", _distances(found, found.close)


def _arrows(
    rows: Iterable[tuple[str, tuple[str, str]]],
) -> Iterable[tuple[str, tuple[str, str]]]:
    for each, (before, after) in rows:
        yield each, (before, f"-> {after}")


def _rows(rows: Sequence[Sequence[str]], most: int | None) -> Iterable[str]:
    shown = rows if most is None else rows[:most]
    for cells in table(shown, "<" * len(rows[0])):
        yield (INDENT + GAP.join(cells)).rstrip(" ")
    if len(rows) > len(shown):
        yield f"{INDENT}and {len(rows) - len(shown):,} more"


def name(text: str) -> str:
    """A name of a file's, safe to print."""
    return printable(text, _NAME)


def _flag(flag: bool | None) -> str:
    return "unknown" if flag is None else "trainable" if flag else "frozen"


def _distances(found: Diff, distances: dict[str, Distance]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each, distance in distances.items():
        rows.append((name(each), shape_text(found.shapes[each]), _told(distance)))
        rows += [
            (f"{_PART}{name(part)}", "", _told(inside)) for part, inside in distance.parts.items()
        ]
    return rows


def _told(distance: Distance) -> str:
    if distance.note or distance.parts:
        return printable(distance.note or "its parts differ", 2 * _NAME)
    words = [f"{distance.differing:,} of {distance.count:,} differ"]
    if distance.nans:
        words.append(f"{distance.nans:,} NaN on one side")
    for label, number in (
        ("max", distance.max_abs),
        ("rel", distance.max_rel),
        ("rms", distance.rms),
    ):
        if number is not None:
            words.append(
                f"{label} {number:,}" if isinstance(number, int) else f"{label} {number:.3g}"
            )
    if distance.cosine is not None:
        words.append(f"cos {_cosine(distance.cosine)}")
    return ", ".join(words)


def _cosine(number: float) -> str:
    """1 only of what is 1: how far it is from there is what matters."""
    text = f"{number:.6f}"
    return f"1 - {1 - number:.1e}" if text == "1.000000" and number < 1 else text
