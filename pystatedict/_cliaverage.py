# SPDX-License-Identifier: Apache-2.0
"""`pystatedict average`: the mean of several checkpoints of one model."""

from __future__ import annotations

from ._clichanging import path_in, telling, write_out
from ._cliwriting import WritingArguments, check_output
from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from ._clioptions import Parser

NOTES = "integers and bool are the first file's, or with --integers last the last one's"


class Options(WritingArguments):
    files: Sequence[str] = ()
    weights: str | None = None
    accumulate: Literal["float32", "float64"] = "float32"
    integers: Literal["first", "last"] = "first"


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint")
    parser.add_argument("files", metavar="FILE", nargs="+", help="others of the same model")
    parser.add_writing()
    parser.add_argument("--weights", metavar="W,W,...", help="one for each file (all the same)")
    parser.add_argument(
        "--accumulate", choices=("float32", "float64"), help="what it is computed in (float32)"
    )
    parser.add_argument("--integers", choices=("first", "last"), help="whose they are (first)")
    parser.add_json()


def run(arguments: Options) -> int:
    from . import ops

    check_output(arguments)
    files = [path_in(file) for file in (arguments.file, *arguments.files)]
    weights = None if arguments.weights is None else _numbers(arguments.weights)
    with telling():
        made = ops.average(
            files, weights, accumulate=arguments.accumulate, integers=arguments.integers
        )
        return write_out(arguments, made)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise StateDictError(
            "--weights takes numbers with commas between them", code="usage"
        ) from None
