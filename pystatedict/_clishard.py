# SPDX-License-Identifier: Apache-2.0
"""`pystatedict shard`: a checkpoint in several files beside an index."""

from __future__ import annotations

from ._clichanging import ChangingArguments, path_in, tell_written, telling
from ._cliconvert import _sizes
from ._cliprogress import Progress
from ._cliwriting import check_output
from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser

NOTES = "OUT is a new folder; a folder of shards is read as one checkpoint by every command"


class Options(ChangingArguments):
    size = "5GB"
    format = "safetensors"
    verify = False


def add_options(parser: Parser) -> None:
    parser.add_file("a checkpoint of any kind, a folder of shards, or an index")
    parser.add_writing()
    parser.add_argument("--size", metavar="SIZE", help="the most of a file (5GB)")
    parser.add_argument(
        "--format", choices=("safetensors", "zip"), help="of the files (safetensors)"
    )
    parser.add_root()
    parser.add_argument("--verify", action="store_true", help="read what was written, and compare")
    parser.add_json()


def run(arguments: Options) -> int:
    from . import ops
    from ._shardwrite import bytes_of, plan
    from ._taken import taken

    if arguments.force:
        raise StateDictError("a folder that is there is not replaced; name a new one", code="usage")
    check_output(arguments)
    with telling():
        source = path_in(arguments.file)
        if arguments.dry_run:
            sd = taken(ops.open(source, arguments.root or "auto"))
            files = plan(sd, bytes_of(arguments.size), arguments.format)
            size = sum(getattr(value, "nbytes", 0) for value in sd.values())
            return tell_written(arguments, len(sd), size, files=len(files))
        with Progress("B", quiet=arguments.quiet) as progress:
            ops.convert(
                source, arguments.output, shard=arguments.size, format=arguments.format,
                root=arguments.root, verify=arguments.verify, progress=progress.advance,
            )  # fmt: skip
        return tell_written(arguments, *_sizes(arguments.output, None))
