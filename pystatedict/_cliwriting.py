# SPDX-License-Identifier: Apache-2.0
"""What the commands that write a checkpoint have in common.

A file that is there is replaced only with --force, and then in one step, as save() does.
With --dry-run all the work is done and what comes out is dropped, so that what would fail
fails.
"""

from __future__ import annotations

import os

from ._cli import Arguments
from ._errors import StateDictError
from ._targets import is_special

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class WritingArguments(Arguments):
    output = ""
    force = False
    dry_run = False
    quiet = False


def check_output(arguments: WritingArguments) -> None:
    """Refuse OUT before the work begins."""
    path = arguments.output
    if path == "-":
        raise StateDictError(
            "standard output is taken by what the command says",
            code="output",
            hint="-o /dev/fd/3 writes to what the shell opened as 3>; or name a file",
        )
    if not arguments.force and os.path.lexists(path) and not is_special(path):
        raise StateDictError(
            "is there already, and was not touched",
            code="output-exists",
            path=path,
            hint="--force replaces it, or name another file",
        )


def save_output(arguments: WritingArguments, obj: Any, **options: Any) -> None:
    """save() `obj` as OUT; options are save()'s."""
    from . import _api

    path = arguments.output
    try:
        if arguments.dry_run:
            format = _api.format_of(path, options.pop("format", None))
            _api.save(obj, _Nowhere(), format=format, **options)
        else:
            # Someone may have made OUT since it was looked for.
            overwrite = arguments.force or is_special(path)
            _api.save(obj, path, overwrite=overwrite, **options)
    except StateDictError:
        raise
    except (TypeError, ValueError) as error:  # something that the format has no place for
        raise StateDictError(f"cannot be written: {error}", code="output", path=path) from error


class _Nowhere:
    """A file that takes everything and keeps nothing."""

    def write(self, data: memoryview) -> int:
        return memoryview(data).nbytes
