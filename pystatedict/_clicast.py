# SPDX-License-Identifier: Apache-2.0
"""`pystatedict cast`: the tensors in another floating-point dtype."""

from __future__ import annotations

from ._clichanging import ChangingArguments, add_changing, change_file
from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._clioptions import Parser

NOTES = "dtypes are torch's: bfloat16, float16, float32, float64, float8_e4m3fn, ..."


class Options(ChangingArguments):
    dtype: str | None = None
    rules: Sequence[str] = ()
    integers = False
    buffers = False
    overflow = "warn"


def add_options(parser: Parser) -> None:
    add_changing(parser)
    parser.add_argument("--dtype", metavar="DTYPE", help="of all tensors that no rule is for")
    parser.add_repeated(
        "--rule", dest="rules", metavar="PATTERN=DTYPE",
        help="of those that match; without a DTYPE they stay; the first counts",
    )  # fmt: skip
    parser.add_argument("--integers", action="store_true", help="integers and bool, too")
    parser.add_argument("--buffers", action="store_true", help="known buffers, too")
    parser.add_argument(
        "--overflow", choices=("warn", "error", "saturate", "ignore"),
        help="what becomes of numbers that the dtype has no room for (warn)",
    )  # fmt: skip


def run(arguments: Options) -> int:
    from . import ops

    rules: dict[str, str | None] = {}
    for rule in arguments.rules:
        pattern, sign, dtype = rule.rpartition("=")
        if not sign or not pattern:
            raise StateDictError("--rule takes PATTERN=DTYPE", code="usage")
        rules.setdefault(pattern, dtype or None)
    if arguments.dtype is not None:
        rules["*"] = arguments.dtype
    if not rules:
        raise StateDictError("cast needs --dtype or --rule", code="usage")
    return change_file(
        arguments,
        lambda sd: ops.cast(
            sd, rules, integers=arguments.integers, buffers=arguments.buffers,
            on_overflow=arguments.overflow,  # type: ignore[arg-type]
        ),
    )  # fmt: skip
