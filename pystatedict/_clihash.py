# SPDX-License-Identifier: Apache-2.0
"""`pystatedict hash`: one number for the tensors of a file."""

from __future__ import annotations

from ._cli import FINE, Arguments, print_json
from ._clichanging import path_in, telling
from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._clioptions import Parser

NOTES = "the same for the same names, dtypes, shapes and bytes, in whatever format and order"


class Options(Arguments):
    files: Sequence[str] = ()


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint of any kind")
    parser.add_argument("files", metavar="FILE", nargs="*", help="others")
    parser.add_json()


def run(arguments: Options) -> int:
    from ._contenthash import content_hash

    found = {}
    with telling():
        for file in (arguments.file, *arguments.files):
            found[file] = content_hash(path_in(file))
            if not arguments.json:
                print(f"{found[file]}  {printable(file)}", flush=True)
    if arguments.json:
        print_json(arguments, {"hashes": found})
    return FINE
