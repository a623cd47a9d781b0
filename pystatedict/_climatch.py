# SPDX-License-Identifier: Apache-2.0
"""`pystatedict match`: does a checkpoint fit where another does?"""

from __future__ import annotations

from ._cli import FINE, NEGATIVE, Arguments, print_json
from ._clichanging import path_in, telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser

NOTES = "exit codes: 0 all names and shapes match, 1 not all, 2 trouble"


class Options(Arguments):
    other = ""
    quiet = False


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="CHECKPOINT", help="what is to be loaded")
    parser.add_argument("other", metavar="MODEL", help="a checkpoint of the model it is for")
    parser.add_quiet()
    parser.add_json()


def run(arguments: Options) -> int:
    from ._match import match

    with telling():
        found = match(path_in(arguments.file), path_in(arguments.other))
    if arguments.json:
        print_json(arguments, {"other": arguments.other, **found.to_dict()})
    elif not arguments.quiet:
        print(found)
    return FINE if found else NEGATIVE
