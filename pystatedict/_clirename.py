# SPDX-License-Identifier: Apache-2.0
"""`pystatedict rename`: the same tensors under other names."""

from __future__ import annotations

from ._clichanging import ChangingArguments, add_changing, change_file
from ._clinames import NameArguments, add_names, renaming
from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser

NOTES = "edit does the same in FILE itself, in no time, where it is a zip archive"


class Options(ChangingArguments, NameArguments):
    pass


def add_options(parser: Parser) -> None:
    add_changing(parser)
    add_names(parser)


def run(arguments: Options) -> int:
    if not arguments.steps:
        raise StateDictError("rename needs --strip, --add, --replace or --name", code="usage")
    return change_file(arguments, renaming(arguments))
