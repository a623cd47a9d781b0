# SPDX-License-Identifier: Apache-2.0
"""`pystatedict convert`: the same in another format."""

from __future__ import annotations

import os

from ._clichanging import ChangingArguments, path_in, tell_written, telling
from ._cliprogress import Progress
from ._cliwriting import check_output
from ._errors import StateDictError
from ._targets import is_special

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser

NOTES = "the suffix of OUT tells the format: .safetensors, .npz, else torch's own"


class Options(ChangingArguments):
    format: str | None = None
    verify = False


def add_options(parser: Parser) -> None:
    parser.add_file("a checkpoint of any kind, a folder of shards, or an index")
    parser.add_writing()
    parser.add_argument(
        "--format", choices=("zip", "legacy", "safetensors", "npz"), help="whatever OUT is called"
    )
    parser.add_root()
    parser.add_argument("--verify", action="store_true", help="read what was written, and compare")
    parser.add_json()


def run(arguments: Options) -> int:
    from . import ops

    check_output(arguments)
    with telling(), Progress("B", quiet=arguments.quiet) as progress:
        source = path_in(arguments.file)
        out = os.devnull if arguments.dry_run else arguments.output
        from ._api import format_of

        format = format_of(arguments.output, arguments.format)
        if arguments.verify and is_special(arguments.output):
            raise StateDictError("what is written to a pipe cannot be read again", code="usage")
        ops.convert(
            source, out, format=format, root=arguments.root,
            # Someone may have made OUT since it was looked for.
            overwrite=arguments.force or is_special(out),
            verify=arguments.verify and not arguments.dry_run, progress=progress.advance,
        )  # fmt: skip
        whole = format in ("zip", "legacy") or arguments.root
        return tell_written(arguments, *_sizes(source, arguments.root if whole else "auto"))


def _sizes(path: str, root: str | None) -> tuple[int, int]:
    """(how many tensors, their bytes)."""
    from ._opening import open_checkpoint

    with open_checkpoint(path, root, access="read") as checkpoint:
        return len(checkpoint), sum(info.nbytes for info in checkpoint.values())
