# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common that write FILE, changed, as OUT.

The whole object in FILE is kept, and the one state_dict in it is what is changed; with --root
a part of it is written alone.  Tensors pass a piece at a time, whatever their size.
"""

from __future__ import annotations

from ._cli import FINE, note, print_json
from ._cliprogress import Progress
from ._cliwriting import WritingArguments, check_output, save_output
from ._errors import StateDictError
from ._printable import counted, printable
from ._text import Screen, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from ._clioptions import Parser


class ChangingArguments(WritingArguments):
    root: str | None = None


def add_changing(parser: Parser) -> None:
    parser.add_file("a checkpoint")
    parser.add_writing()
    parser.add_root()
    parser.add_json()


def change_file(arguments: ChangingArguments, change: Callable[[Any], Any]) -> int:
    """Write what `change` makes of the state_dict in FILE; the exit code."""
    from . import ops

    check_output(arguments)
    with telling():
        obj = ops.open(path_in(arguments.file), arguments.root)
        return write_out(arguments, ops.within(obj, change))


def write_out(arguments: WritingArguments, made: Any, **options: Any) -> int:
    """Write an object as OUT, and say so; the exit code."""
    from ._taken import named_tensors

    tensors = named_tensors(made)
    size = sum(value.nbytes for value in tensors.values())
    with Progress("B", quiet=arguments.quiet) as progress:
        progress.add(size)
        save_output(
            arguments, made, opaque=_has_opaque(arguments), progress=progress.advance, **options
        )
    return tell_written(arguments, len(tensors), size)


def tell_written(arguments: WritingArguments, count: int, size: int, **members: Any) -> int:
    if arguments.quiet:
        return FINE
    if arguments.json:
        told = {"output": arguments.output, "written": not arguments.dry_run}
        print_json(arguments, {**told, "tensors": count, "bytes": size, **members})
        return FINE
    dot = Screen(arguments.color).signs.dot
    done = "would write" if arguments.dry_run else "wrote"
    print(
        f"{done} {printable(arguments.output)}: {counted(count, 'tensor')}{dot}{human_bytes(size)}"
    )
    return FINE


def _has_opaque(arguments: WritingArguments) -> bool:
    """What FILE held goes into OUT as it was, where the format has a place for it."""
    from ._api import format_of

    return format_of(arguments.output, None) in ("zip", "legacy")


def path_in(file: str) -> str:
    """FILE, of which tensors are read in any order: standard input cannot give them."""
    if file == "-":
        raise StateDictError(
            "the tensors are read in any order, which standard input cannot give",
            code="input",
            hint="write it to a file first",
        )
    return file


def telling() -> AbstractContextManager[None]:
    """Warnings become notes, and what an operation refuses a sentence."""
    return _Telling()


class _Telling:
    def __enter__(self) -> None:
        import warnings

        self._caught: Any = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: note(f"note: {message}")

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._caught.__exit__(None, None, None)
        if isinstance(error, (TypeError, ValueError, OverflowError)) and not isinstance(
            error, StateDictError
        ):
            raise StateDictError(str(error), code="change") from error
