# SPDX-License-Identifier: Apache-2.0
"""The command line: `pystatedict ls|tree|stat|scan FILE`.

Data goes to stdout, all else to stderr.  Exit codes: 0 fine, 1 a negative answer (no such
tensor, a dangerous file), 2 wrong usage or an unreadable file, 130 interrupted.  Nothing
here needs NumPy, and no class named in a file is imported.

`--json` prints one document whose `schema` is 1; its names are exact, sizes are integers,
flags are true, false or null.
"""

from __future__ import annotations

import os
import sys

from ._errors import SidecarError, StateDictError
from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import BinaryIO

    from ._checkpoint import Checkpoint

SCHEMA = 1

FINE = 0
NEGATIVE = 1
TROUBLE = 2
INTERRUPTED = 130


# -------------------------------------------------------------------------- main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        if sys.stdout is None:  # closed by whoever started it
            return complain("standard output is closed")
        arguments = _arguments(argv)
        code = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return FINE  # the reader has enough: `| head`
    except KeyboardInterrupt:
        return INTERRUPTED
    except StateDictError as exc:
        return complain(str(exc))
    except OSError as exc:
        name = "" if exc.filename is None else f"'{printable(os.fsdecode(exc.filename))}': "
        return complain(name + (exc.strerror or printable(str(exc))))
    except MemoryError:
        return complain("not enough memory")
    finally:
        _flush()


def _flush() -> None:
    """Make sure that the interpreter's own last flush does not fail, and complain, again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            os.close(devnull)


class Arguments:
    """What was asked for; without options it is this."""

    command = ""
    file = ""
    color = "auto"
    patterns: Sequence[str] = ()
    long = False
    sort: str | None = None
    json = False
    csv = False
    depth: int | None = None


def _arguments(argv: Sequence[str] | None) -> Arguments:
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = Arguments()
    # `pystatedict ls FILE` is over before argparse and what it needs would be imported.
    if len(words) == 2 and words[0] in _COMMANDS and words[1][:1] != "-":
        arguments.command, arguments.file = words
        return arguments
    from ._clioptions import new_parser

    parser = new_parser()
    _, rest = parser.parse_known_args(words, arguments)
    # argparse alone does not take patterns that follow an option that follows FILE.
    if rest and arguments.command == "ls" and not any(text.startswith("-") for text in rest):
        arguments.patterns = [*arguments.patterns, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


# ---------------------------------------------------------------------- commands

# Each in a room of its own, so that nobody waits for those that were not asked for.


def _ls(arguments: Arguments) -> int:
    from ._clils import ls

    return ls(arguments)


def _tree(arguments: Arguments) -> int:
    from ._clitree import tree

    return tree(arguments)


def _stat(arguments: Arguments) -> int:
    from ._clistat import stat

    return stat(arguments)


def _scan(arguments: Arguments) -> int:
    from ._cliscan import scan

    return scan(arguments)


_COMMANDS: dict[str, Callable[[Arguments], int]] = {
    "ls": _ls,
    "tree": _tree,
    "stat": _stat,
    "scan": _scan,
}


# ----------------------------------------------------------- what the commands share


def source_of(arguments: Arguments) -> str | BinaryIO:
    """What `open` and `scan` take: the path, or standard input, which they map or read."""
    if arguments.file != "-":
        return str(arguments.file)
    if sys.stdin is None:
        import errno

        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer


def path_of(arguments: Arguments) -> str | None:
    return None if arguments.file == "-" else arguments.file


def open_file(arguments: Arguments) -> Checkpoint:
    """The checkpoint in FILE, opened for what only tells of it."""
    from ._opening import open_to_tell

    return open_to_tell(source_of(arguments))


def print_json(arguments: Arguments, members: Mapping[str, object]) -> None:
    """The one document that --json asks for."""
    import json

    head = {"schema": SCHEMA, "command": arguments.command, "file": arguments.file}
    print(json.dumps({**head, **members}))


def complain(text: str) -> int:
    """Say what went wrong; the exit code of that."""
    note(text)
    return TROUBLE


def note(text: str) -> None:
    """Say to stderr what is no data."""
    if sys.stderr is None:
        return  # print() would take stdout for it
    try:
        print(f"pystatedict: {text}", file=sys.stderr)
    except OSError:
        return  # the exit code says it, too


def note_sidecar(trouble: SidecarError | str | None) -> None:
    """Say what is wrong with the sidecar, if anything is."""
    if isinstance(trouble, SidecarError):
        note(f"note: trainable flags not applied: {trouble}")
    elif trouble:
        note(f"note: {trouble}")
