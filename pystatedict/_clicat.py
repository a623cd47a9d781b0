# SPDX-License-Identifier: Apache-2.0
"""`pystatedict cat`: the values of one tensor, or what can be said of them."""

from __future__ import annotations

import sys

from ._cli import FINE, NEGATIVE, Arguments, note, print_json, source_of
from ._cliprogress import Progress
from ._opening import open_checkpoint
from ._printable import counted, printable
from ._text import GAP, INDENT, Screen, shape_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ._clioptions import Parser
    from ._core import TensorInfo
    from ._tensorstats import Stats
    from ._tensorvalues import Plane

NOTES = """\
Without --full, tensors of more than 1,000 values are abbreviated; --json leaves them out.
--stats is of the finite values; std is divided by their count. In JSON nan, inf and -inf are
texts, complex values pairs."""

#: As NumPy has them.
THRESHOLD = 1000
EDGE = 3

BAR = 32  # columns
BLOCKS = " ▏▎▍▌▋▊▉█"


class Options(Arguments):
    name = ""
    stats = False
    full = False


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_argument("name", metavar="NAME", help="a tensor, as `pystatedict ls` names it")
    parser.add_argument("--stats", action="store_true", help="count, range, mean, histogram")
    parser.add_argument("--full", action="store_true", help="every value, however many")
    parser.add_json()


def run(arguments: Options) -> int:
    with open_checkpoint(source_of(arguments), None) as checkpoint:
        info = checkpoint[arguments.name]
        if info.is_meta:
            note(f"'{printable(info.name)}' is a meta tensor: it has a shape, and no values")
            return NEGATIVE
        value = info.numpy()
        if arguments.json:
            members: dict[str, object]
            members = {"name": info.name, "dtype": info.dtype, "shape": list(info.shape)}
            if arguments.stats:
                members["stats"] = _stats(value).members()
            else:
                members["values"] = _json_values(value, arguments.full)
            print_json(arguments, members)
            return FINE
        screen = Screen(arguments.color)
        _print_head(info, value)
        if arguments.stats:
            _print_stats(screen, _stats(value))
        else:
            _print_values(value, arguments.full, screen.columns)
    return FINE


def _print_head(info: TensorInfo, value: Any) -> None:
    from ._tensorvalues import how_told

    words = [printable(info.name) or "(empty name)", info.dtype, shape_text(info.shape)]
    print(GAP.join([*words, *filter(None, [printable(how_told(value))])]))


# ------------------------------------------------------------------------ values


def _print_values(value: Any, full: bool, columns: int | None) -> None:
    import numpy as np

    from ._tensorvalues import planes_of

    parts = list(planes_of(value))
    left_out = 0 if full else len(parts) - 2 * EDGE
    for index, (name, plane) in enumerate(parts):
        if left_out > 0 and EDGE <= index < len(parts) - EDGE:
            if index == EDGE:
                print(f"... {counted(left_out, 'part')} left out")
            continue
        if name:
            print(f"{printable(name)}   {shape_text(plane.arrays[0].shape)}")
        short = plane.size > THRESHOLD and not full
        numbers = plane.corners(EDGE) if short else plane.whole()
        print(
            np.array2string(
                numbers,
                max_line_width=columns or 75,
                threshold=0 if short else sys.maxsize,
                edgeitems=EDGE,
                separator=" ",
            )
        )


def _json_values(value: Any, full: bool) -> object:
    """Nested lists; of a tensor of several parts a member each; None of too many."""
    from ._tensorvalues import planes_of

    parts = list(planes_of(value))
    if sum(plane.size for _, plane in parts) > THRESHOLD and not full:
        return None
    if [name for name, _ in parts] == [""]:
        return _nested(parts[0][1])
    return {name: _nested(plane) for name, plane in parts}


def _nested(plane: Plane) -> object:
    import numpy as np

    numbers = plane.whole()
    if numbers.dtype.kind == "c":
        numbers = np.stack([numbers.real, numbers.imag], axis=-1)
    values: object = numbers.tolist()
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        return _spelled(values)
    return values


def _spelled(values: object) -> object:
    """JSON has no NaN and no infinity; float() reads these texts."""
    if isinstance(values, list):
        return [_spelled(value) for value in values]
    return str(values) if values in (float("inf"), float("-inf")) or values != values else values


# ------------------------------------------------------------------------- stats


def _stats(value: Any) -> Stats:
    from ._tensorstats import Stats
    from ._tensorvalues import counted_planes

    planes = counted_planes(value)
    with Progress("values") as progress:
        progress.add(2 * sum(plane.size for plane in planes))  # in two passes

        def pieces() -> Iterator[Any]:
            for plane in planes:
                yield from progress.over(plane.pieces(), lambda piece: int(piece.size))

        return Stats(pieces)


def _print_stats(screen: Screen, stats: Stats) -> None:
    screen.columns = None
    told = [
        ("min", stats.min),
        ("max", stats.max),
        ("mean", stats.mean),
        ("std", stats.std),
    ]
    rows = [("count", f"{stats.count:,}")]
    rows += [(name, _number(number)) for name, number in told if number is not None]
    rows += [
        ("zeros", f"{stats.zeros:,}"),
        ("NaN", f"{stats.nan:,}"),
        ("Inf", f"{stats.inf:,}"),
    ]
    if stats.of != "values":
        rows.insert(1, ("of", stats.of))
    screen.rows(rows, "<<")
    print(f"{INDENT}histogram" if stats.counts else f"{INDENT}no finite values")
    _print_histogram(screen, stats)


def _print_histogram(screen: Screen, stats: Stats) -> None:
    from ._tensorstats import bars

    edges, counts = stats.edges, stats.counts
    # Whole numbers that have a bin each are told by themselves.
    single = isinstance(stats.min, int) and isinstance(stats.max, int)
    if single and len(counts) == int(stats.max or 0) - int(stats.min or 0) + 1:
        places = [(_number(int(stats.min or 0) + i), "") for i in range(len(counts))]
    else:
        places = [(_number(edges[i]), _number(edges[i + 1])) for i in range(len(counts))]
        if edges and edges[0] == edges[-1]:
            places = [(_number(edges[0]), "")]
    drawn = bars(counts, BAR, _blocks(getattr(sys.stdout, "encoding", None)))
    rows = [
        (low, high and f"to {high}", f"{count:,}", bar)
        for (low, high), count, bar in zip(places, counts, drawn, strict=True)
    ]
    screen.rows(rows, "><><")


def _blocks(encoding: str | None) -> str:
    try:
        BLOCKS.encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return " #"
    return BLOCKS


def _number(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"
