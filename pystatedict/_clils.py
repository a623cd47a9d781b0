# SPDX-License-Identifier: Apache-2.0
"""`pystatedict ls`: the tensors of a checkpoint."""

from __future__ import annotations

import sys

from ._cli import FINE, NEGATIVE, Arguments, note, note_sidecar, open_file, print_json
from ._printable import counted, printable
from ._summary import Total, flags_of
from ._text import (
    DIM,
    GREEN,
    Screen,
    Signs,
    human_bytes,
    parameters_text,
    shape_text,
    short_dtype,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._checkpoint import Checkpoint
    from ._clioptions import Parser
    from ._core import TensorInfo
    from ._summary import Flags


class Options(Arguments):
    patterns: Sequence[str] = ()
    long = False
    sort: str | None = None
    csv = False


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_argument(
        "patterns",
        metavar="PATTERN",
        nargs="*",
        help="only these: a name, a module, or a pattern with * ? []",
    )
    parser.add_argument(
        "-l", "--long", action="store_true", help="dtype, size, storage and offset too"
    )
    parser.add_argument("--sort", choices=("size", "name"), help="instead of the order in the file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a head")


def run(arguments: Options) -> int:
    with open_file(arguments) as checkpoint:
        flags, _, trouble = flags_of(checkpoint)
        chosen = chosen_of(checkpoint, arguments.patterns)
        if arguments.sort == "name":
            chosen.sort(key=lambda item: item[0])
        elif arguments.sort == "size":
            chosen.sort(key=lambda item: (-item[1].nbytes, item[0]))
        note_sidecar(trouble)
        if not checkpoint:
            _note_arrays(checkpoint)
        if arguments.json:
            _ls_json(arguments, chosen, flags)
        elif arguments.csv:
            _ls_csv(chosen, flags)
        else:
            _ls_text(Screen(arguments.color), chosen, flags, long=arguments.long)
    if arguments.patterns and not chosen:
        note("no tensor matches")
        return NEGATIVE
    return FINE


def _note_arrays(checkpoint: Checkpoint) -> None:
    from ._roots import holds_arrays

    if holds_arrays(checkpoint.archive):
        note("no tensors; load() gives its NumPy arrays, which are not listed")


def chosen_of(
    names: Mapping[str, TensorInfo], patterns: Sequence[str]
) -> list[tuple[str, TensorInfo]]:
    """The tensors that any of the patterns picks; all when there is none."""
    if not patterns:
        return list(names.items())
    import re
    from fnmatch import translate
    from functools import partial

    tests: list[Callable[[str], object]] = []
    for pattern in patterns:
        if any(sign in pattern for sign in "*?["):
            tests.append(re.compile(translate(pattern)).match)
        tests.append(partial(_is_or_is_in, pattern))
    return [item for item in names.items() if any(test(item[0]) for test in tests)]


def _is_or_is_in(module: str, name: str) -> bool:
    return name == module or name.startswith(module + ".")


def _ls_text(
    screen: Screen, chosen: Sequence[tuple[str, TensorInfo]], flags: Flags, *, long: bool
) -> None:
    rows: list[list[str]] = []
    total = Total()
    for name, info in chosen:
        total.add(name, info, flags[name])
        row = [
            printable(name) or "(empty name)",
            shape_text(info.shape),
            screen.signs.of(flags[name]),
        ]
        if long:
            row[1:1] = [short_dtype(info.dtype)]
            row[3:3] = [human_bytes(info.nbytes), printable(info.storage), str(info.storage_offset)]
        rows.append(row)
    colors = {True: GREEN, False: "", None: DIM}
    screen.rows(
        rows, "<<<>>><" if long else "<<<", colors=[colors[flags[name]] for name, _ in chosen]
    )
    print(f"{_total_line(total, screen.signs)}        {screen.paint(screen.signs.legend(), DIM)}")


def _ls_json(arguments: Arguments, chosen: Sequence[tuple[str, TensorInfo]], flags: Flags) -> None:
    total = Total()
    tensors: list[dict[str, object]] = []
    for name, info in chosen:
        total.add(name, info, flags[name])
        tensors.append(
            {
                "name": name,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "parameters": info.numel,
                "bytes": info.nbytes,
                "storage": info.storage,
                "offset": info.storage_offset,
                "stride": list(info.stride),
                "device": info.device,
                "kind": info.kind,
                "trainable": flags[name],
            }
        )
    print_json(arguments, {"tensors": tensors, "total": total.members()})


def _ls_csv(chosen: Sequence[tuple[str, TensorInfo]], flags: Flags) -> None:
    import csv

    Screen("never")
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(
        ("name", "dtype", "shape", "parameters", "bytes", "storage", "offset", "trainable")
    )
    for name, info in chosen:
        flag = flags[name]
        rows.writerow(
            (
                printable(name),
                info.dtype,
                "x".join(map(str, info.shape)),
                info.numel,
                info.nbytes,
                printable(info.storage),
                info.storage_offset,
                "" if flag is None else "true" if flag else "false",
            )
        )


def _total_line(total: Total, signs: Signs) -> str:
    return signs.dot.join(
        (
            counted(total.tensors, "tensor"),
            parameters_text(total.parameters),
            human_bytes(total.bytes),
        )
    )
