# SPDX-License-Identifier: Apache-2.0
"""`pystatedict repair`: what is whole of a damaged checkpoint, as a new one."""

from __future__ import annotations

from . import _integrity
from ._cli import FINE, NEGATIVE, TROUBLE, note, print_json, source_of
from ._cliproblems import problem_members, problem_row
from ._cliprogress import Progress
from ._cliwriting import WritingArguments, check_output, save_output
from ._printable import counted, printable
from ._text import RED, YELLOW, Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._clioptions import Parser
    from ._integrity import Repair

NOTES = "exit codes: 0 all tensors kept, 1 some lost and the others written, 2 nothing written"

Options = WritingArguments


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_writing()
    parser.add_json()


def run(arguments: Options) -> int:
    check_output(arguments)

    def save(obj: Any, report: Repair, opaque: bool) -> None:
        if report.kept or not report.lost:
            save_output(arguments, obj, opaque=opaque)

    with Progress("B", quiet=arguments.quiet) as progress:
        report = _integrity.repair_by(
            source_of(arguments), arguments.output, save, progress=progress
        )
    nothing = bool(report.lost) and not report.kept
    if arguments.quiet:
        pass
    elif arguments.json:
        print_json(
            arguments,
            {
                "output": arguments.output,
                "written": not (nothing or arguments.dry_run),
                "kept": list(report.kept),
                "lost": list(report.lost),
                "problems": [problem_members(error) for error in report.problems],
            },
        )
    else:
        _print(Screen(arguments.color), arguments, report, nothing)
    if nothing:
        note("not one tensor is whole, so nothing was written")
        return TROUBLE
    return NEGATIVE if report.lost else FINE


def _print(screen: Screen, arguments: Options, report: Repair, nothing: bool) -> None:
    screen.columns = None
    screen.rows([problem_row(error) for error in report.problems], "<<<<")
    for name in report.lost:
        print(f"  tensor {printable(name)} is {screen.paint('lost', RED)}")
    counts = [f"{counted(len(report.kept), 'tensor')} kept", f"{len(report.lost):,} lost"]
    if nothing:
        done = screen.paint("nothing written", RED)
    else:
        done = "would write" if arguments.dry_run else "wrote"
        done = screen.paint(done, YELLOW if report.lost else "") + f" {printable(arguments.output)}"
    print(f"{done}: {screen.signs.dot.join(counts)}")
