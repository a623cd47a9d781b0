# SPDX-License-Identifier: Apache-2.0
"""`pystatedict verify`: is a checkpoint whole?"""

from __future__ import annotations

from . import _integrity
from ._cli import FINE, NEGATIVE, Arguments, print_json, source_of
from ._cliproblems import problem_members, problem_row
from ._cliprogress import Progress
from ._printable import counted, printable
from ._text import GREEN, RED, Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser
    from ._integrity import Verification

NOTES = "exit codes: 0 whole, 1 damaged, 2 no checkpoint, or it cannot be read"


class Options(Arguments):
    quiet = False


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_json()
    parser.add_quiet()


def run(arguments: Options) -> int:
    with Progress("B", quiet=arguments.quiet) as progress:
        report = _integrity.verify_with(source_of(arguments), progress=progress)
    if arguments.quiet:
        pass
    elif arguments.json:
        print_json(
            arguments,
            {
                "whole": bool(report),
                "kind": report.kind,
                "checked": report.checked,
                "unchecked": report.unchecked,
                "problems": [problem_members(error) for error in report.problems],
                "damaged": list(report.damaged),
            },
        )
    else:
        _print(Screen(arguments.color), report)
    return FINE if report else NEGATIVE


def _print(screen: Screen, report: Verification) -> None:
    screen.columns = None  # what is wrong is told in full
    screen.rows([problem_row(error) for error in report.problems], "<<<<")
    for name in report.damaged:
        print(f"  tensor {printable(name)} is damaged")
    counts = [
        f"{counted(report.checked, 'record')} checked",
        f"{report.unchecked:,} without a checksum",
    ]
    if report.problems:
        counts[:0] = [
            counted(len(report.problems), "problem"),
            counted(len(report.damaged), "tensor") + " damaged",
        ]
    verdict = screen.paint("whole", GREEN) if report else screen.paint("damaged", RED)
    print(f"{verdict}: {screen.signs.dot.join(counts)}")
