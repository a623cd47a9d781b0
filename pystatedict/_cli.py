# SPDX-License-Identifier: Apache-2.0
"""The command line: `pystatedict COMMAND FILE ...`.

Data goes to stdout, all else to stderr.  Exit codes: 0 fine, 1 a negative answer (no such
tensor, a dangerous or damaged file), 2 wrong usage or an unreadable file, 130 interrupted.
Nothing here needs NumPy, and no class named in a file is imported.

A command is a line of COMMANDS and a room of its own, the module `_cli<command>`, which is
imported when it is asked for.  The room has `Options` (Arguments with the defaults of its
own), `add_options(parser)` (see `_clioptions`) and `run(options)`, which gives the exit code.

`--json` prints one document whose `schema` is 1; its names are exact, sizes are integers,
flags are true, false or null.
"""

from __future__ import annotations

import os
import sys

from ._errors import MissingTensorError, SidecarError, StateDictError
from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType
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
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return FINE  # the reader has enough: `| head`
    except KeyboardInterrupt:
        return INTERRUPTED
    except MissingTensorError as exc:
        note(str(exc))
        return NEGATIVE
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


# ---------------------------------------------------------------------- commands

#: command: (group in --help, its line there, whether FILE alone is all that it needs)
COMMANDS = {
    "ls": ("look", "list the tensors", True),
    "tree": ("look", "list the modules with their sizes", True),
    "stat": ("look", "tell what the file is and holds", True),
    "cat": ("look", "print the values of a tensor, or what can be said of them", False),
    "scan": ("check", "list what the pickles name, and what of it is dangerous", True),
    "verify": ("check", "hold every record against its checksum", True),
    "diff": ("check", "tell what two checkpoints differ in", False),
    "match": ("check", "tell whether a checkpoint's names and shapes fit another's", False),
    "hash": ("check", "one number for the tensors, whatever the file's format", True),
    "rename": ("change", "write it with other names", False),
    "select": ("change", "write some of its tensors", False),
    "cast": ("change", "write it with another dtype", False),
    "merge": ("change", "write several as one", False),
    "average": ("change", "write the mean of several", False),
    "lora": ("change", "put a LoRA into it, or take one out of a difference", False),
    "convert": ("change", "write it in another format", False),
    "shard": ("change", "write it into several files with an index", False),
    "edit": ("change", "change names, flags and structure in the file itself", False),
    "repair": ("change", "write what is whole of a damaged file as a new one", False),
    "trainable": ("change", "tell which tensors are trainable and who says it, or say it", True),
    "completion": ("shell", "print a script that completes commands, options and files", False),
}


class Arguments:
    """What was asked for; a room adds the defaults of its own options."""

    command = ""
    file = ""
    color = "auto"
    json = False


def _run(words: list[str]) -> int:
    command = words[0] if words else ""
    if command not in COMMANDS:
        from ._clioptions import without_command

        without_command(words)
    room = room_of(command)
    arguments: Arguments = room.Options()
    arguments.command = command
    # `pystatedict ls FILE` is over before argparse and what it needs would be imported.
    if len(words) == 2 and COMMANDS[command][2] and words[1][:1] != "-":
        arguments.file = words[1]
    else:
        from ._clioptions import new_parser

        new_parser(command, room).parse_into(arguments, words[1:])
    code: int = room.run(arguments)
    return code


def room_of(command: str) -> ModuleType:
    """The module of a command; importlib would be one more to import."""
    return __import__(f"{__package__}._cli{command}", fromlist=("run",))


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
