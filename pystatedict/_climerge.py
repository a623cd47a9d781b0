# SPDX-License-Identifier: Apache-2.0
"""`pystatedict merge`: several checkpoints as one."""

from __future__ import annotations

from ._clichanging import path_in, telling, write_out
from ._cliwriting import WritingArguments, check_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._clioptions import Parser

NOTES = "of each file the one state_dict inside is meant; they have no name in common"


class Options(WritingArguments):
    files: Sequence[str] = ()
    update = False


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint")
    parser.add_argument("files", metavar="FILE", nargs="+", help="the others, in their order")
    parser.add_writing()
    parser.add_argument("--update", action="store_true", help="of one name the last file's counts")
    parser.add_json()


def run(arguments: Options) -> int:
    from . import ops

    check_output(arguments)
    files = [path_in(file) for file in (arguments.file, *arguments.files)]
    with telling():
        made = ops.update(*files) if arguments.update else ops.merge(*files)
        return write_out(arguments, made)
