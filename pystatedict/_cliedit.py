# SPDX-License-Identifier: Apache-2.0
"""`pystatedict edit`: names, flags and structure, in the file itself."""

from __future__ import annotations

from ._cli import FINE, Arguments, print_json
from ._clichanging import path_in, telling
from ._clinames import NameArguments, add_names, renaming
from ._errors import StateDictError
from ._printable import counted, printable
from ._text import Screen, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._clioptions import Parser

NOTES = "what is dropped stays in FILE as bytes that nobody reads, until --compact writes it anew"


class Options(Arguments, NameArguments):
    select: Sequence[str] = ()
    drop: Sequence[str] = ()
    freeze: Sequence[str] = ()
    unfreeze: Sequence[str] = ()
    no_optimizer = False
    compact = False
    undo = False
    root: str | None = None
    quiet = False
    dry_run = False


def add_options(parser: Parser) -> None:
    parser.add_file("a zip archive of torch.save")
    add_names(parser)
    for option, text in (
        ("--select", "keep only tensors that match"),
        ("--drop", "leave out tensors that match"),
        ("--freeze", "say that those that match are not trained"),
        ("--unfreeze", "say that those that match are trained"),
    ):
        parser.add_repeated(option, metavar="PATTERN", help=text)
    parser.add_argument(
        "--no-optimizer", action="store_true", help="drop optimizers, schedulers and scalers"
    )
    parser.add_argument(
        "--root", metavar="PART", help="where in the file the state_dict is (the one inside)"
    )
    parser.add_argument("--compact", action="store_true", help="write FILE without what is unread")
    parser.add_argument(
        "--undo", action="store_true", help="take FILE back whose edit was interrupted"
    )
    parser.add_dry_run()
    parser.add_quiet()
    parser.add_json()


def run(arguments: Options) -> int:
    from . import ops
    from ._taken import named_tensors

    path = path_in(arguments.file)
    if arguments.undo:
        done = ops.undo(path)
        return _tell(arguments, "taken back" if done else "nothing to take back", undone=done)
    changes = _any_change(arguments)
    if not changes and not arguments.compact:
        raise StateDictError("edit needs something to do; --help lists it", code="usage")
    with telling():
        if arguments.dry_run:
            made = _changed(arguments, ops.open(path))
            count = len(named_tensors(made))
            return _tell(arguments, f"would have {counted(count, 'tensor')}", tensors=count)
        if changes:
            ops.edit(path, lambda obj: _changed(arguments, obj))
        if arguments.compact:
            ops.convert(path, path, format="zip")
    return _tell(arguments, "edited")


def _any_change(arguments: Options) -> bool:
    lists = (
        arguments.steps,
        arguments.select,
        arguments.drop,
        arguments.freeze,
        arguments.unfreeze,
    )
    return any(lists) or arguments.no_optimizer


def _changed(arguments: Options, obj: Any) -> Any:
    from . import ops

    if arguments.no_optimizer:
        obj = ops.drop_optimizer(obj)
    without = (
        arguments.steps,
        arguments.select,
        arguments.drop,
        arguments.freeze,
        arguments.unfreeze,
    )
    if not any(without):
        return obj

    def change(sd: Any) -> Any:
        if arguments.select:
            sd = ops.select(sd, *arguments.select)
        if arguments.drop:
            sd = ops.drop(sd, *arguments.drop)
        for pattern in arguments.freeze:
            sd = ops.freeze(sd, pattern)
        for pattern in arguments.unfreeze:
            sd = ops.unfreeze(sd, pattern)
        return renaming(arguments)(sd)

    return ops.within(obj, change, arguments.root)


def _tell(arguments: Options, text: str, **members: Any) -> int:
    import os

    size = os.stat(arguments.file).st_size
    if arguments.json:
        print_json(arguments, {"edited": not arguments.dry_run, "bytes": size, **members})
    elif not arguments.quiet:
        dot = Screen(arguments.color).signs.dot
        print(f"{printable(arguments.file)}: {text}{dot}{human_bytes(size)}")
    return FINE
