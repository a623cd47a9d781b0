# SPDX-License-Identifier: Apache-2.0
"""`pystatedict select`: some of the tensors."""

from __future__ import annotations

from ._clichanging import (
    ChangingArguments,
    add_changing,
    change_file,
    path_in,
    telling,
    write_out,
)
from ._cliwriting import check_output
from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._clioptions import Parser

NOTES = "patterns are globs, as in 'layers.0.*'; whole names, too"


class Options(ChangingArguments):
    patterns: Sequence[str] = ()
    drop: Sequence[str] = ()
    trainable = False
    no_optimizer = False


def add_options(parser: Parser) -> None:
    add_changing(parser)
    parser.add_argument("patterns", metavar="PATTERN", nargs="*", help="what is kept")
    parser.add_repeated("--drop", metavar="PATTERN", help="what is left out")
    parser.add_argument("--trainable", action="store_true", help="only what is trained")
    parser.add_argument(
        "--no-optimizer", action="store_true", help="without optimizers, schedulers and scalers"
    )


def run(arguments: Options) -> int:
    some = arguments.patterns or arguments.drop or arguments.trainable
    if not some and not arguments.no_optimizer:
        raise StateDictError(
            "select needs patterns, --drop, --trainable or --no-optimizer", code="usage"
        )
    if not arguments.no_optimizer:
        return change_file(arguments, lambda sd: _chosen(arguments, sd))
    from . import ops

    check_output(arguments)
    with telling():
        obj = ops.drop_optimizer(ops.open(path_in(arguments.file), arguments.root))
        made = ops.within(obj, lambda sd: _chosen(arguments, sd)) if some else obj
        return write_out(arguments, made)


def _chosen(arguments: Options, sd: Any) -> Any:
    from . import ops

    if arguments.patterns:
        sd = ops.select(sd, *arguments.patterns)
    if arguments.drop:
        sd = ops.drop(sd, *arguments.drop)
    return ops.only_trainable(sd) if arguments.trainable else sd
