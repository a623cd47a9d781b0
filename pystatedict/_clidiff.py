# SPDX-License-Identifier: Apache-2.0
"""`pystatedict diff`: what two checkpoints differ in."""

from __future__ import annotations

from ._cli import FINE, NEGATIVE, Arguments, print_json
from ._clichanging import path_in, telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser

NOTES = "exit codes: 0 no difference, 1 some, 2 trouble"


class Options(Arguments):
    other = ""
    rtol = 0.0
    atol = 0.0
    no_values = False
    quiet = False


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="A", help="a checkpoint of any kind")
    parser.add_argument("other", metavar="B", help="another")
    parser.add_argument("--rtol", type=float, metavar="X", help="relative tolerance (0)")
    parser.add_argument("--atol", type=float, metavar="X", help="absolute tolerance (0)")
    parser.add_argument("--no-values", action="store_true", help="names, shapes and dtypes only")
    parser.add_quiet()
    parser.add_json()


def run(arguments: Options) -> int:
    from ._diff import diff

    with telling():
        found = diff(
            path_in(arguments.file), path_in(arguments.other), rtol=arguments.rtol,
            atol=arguments.atol, values=not arguments.no_values,
        )  # fmt: skip
    if arguments.json:
        print_json(arguments, {"other": arguments.other, **found.to_dict()})
    elif not arguments.quiet:
        print(found)
    return NEGATIVE if found else FINE
