# SPDX-License-Identifier: Apache-2.0
"""`pystatedict lora`: a LoRA put into weights, or taken out of a difference."""

from __future__ import annotations

from ._clichanging import path_in, telling, write_out
from ._cliwriting import WritingArguments, check_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from ._clioptions import Parser

NOTES = (
    "LORA is a file of PEFT's or kohya's names, or PEFT's folder with its adapter_config.json;\n"
    "with --extract, FILE is the tuned model, and LORA the base that it was made of"
)


class Options(WritingArguments):
    lora = ""
    scale = 1.0
    alpha: float | None = None
    extract: int | None = None
    names: Literal["peft", "kohya"] = "peft"


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint of the model")
    parser.add_argument("lora", metavar="LORA", help="what is put into it")
    parser.add_writing()
    parser.add_argument("--scale", type=float, metavar="X", help="how much of it (1)")
    parser.add_argument("--alpha", type=float, metavar="X", help="where no file tells it")
    parser.add_argument("--extract", type=int, metavar="RANK", help="make one of the difference")
    parser.add_argument("--names", choices=("peft", "kohya"), help="of what is made (peft)")
    parser.add_json()


def run(arguments: Options) -> int:
    from . import ops

    check_output(arguments)
    file, lora = path_in(arguments.file), path_in(arguments.lora)
    with telling():
        if arguments.extract is not None:
            made: Any = ops.extract_lora(
                file, lora, arguments.extract, names=arguments.names, alpha=arguments.alpha
            )
        else:
            made = ops.apply_lora(file, lora, scale=arguments.scale, alpha=arguments.alpha)
        return write_out(arguments, made)
