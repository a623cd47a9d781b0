# SPDX-License-Identifier: Apache-2.0
"""The options of the command line, by argparse, which a command and FILE alone do without."""

from __future__ import annotations

import argparse

from ._cli import COMMANDS
from ._text import INDENT, terminal_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

    from ._cli import Arguments

#: Group of COMMANDS: what --help says of it, in this order.
GROUPS = {
    "look": "look into a checkpoint",
    "check": "check it",
    "change": "change it",
    "shell": "for the shell",
}


# Without a width argparse imports shutil, which takes longer than all of it.
class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(terminal_width(1) or 80, 100) - 2)


class Parser(argparse.ArgumentParser):
    """The parser of a command, with the options that several commands have."""

    def parse_into(self, arguments: Arguments, words: list[str]) -> None:
        """Options may stand anywhere; what comes behind -- is none, whatever it looks like."""
        if "--" in words:
            # argparse loses the -- when it intermixes.  No word of a command line holds NUL.
            end = words.index("--")
            words = words[:end] + ["\0" + word for word in words[end + 1 :]]
        self.parse_intermixed_args(words, arguments)
        for name, value in list(vars(arguments).items()):
            if isinstance(value, str):
                setattr(arguments, name, value.removeprefix("\0"))
            elif isinstance(value, list):
                plain = [v.removeprefix("\0") if isinstance(v, str) else v for v in value]
                setattr(arguments, name, plain)

    def add_file(self, text: str = "a checkpoint; - reads standard input") -> None:
        self.add_argument("file", metavar="FILE", help=text)

    def add_repeated(self, option: str, **options: Any) -> None:
        """An option that may be given again, whose values become a list."""
        self.add_argument(option, action=_Repeated, **options)

    def add_root(self) -> None:
        self.add_argument(
            "--root",
            metavar="PART",
            help="write this part alone: a dotted path, or auto for the one state_dict inside",
        )

    def add_json(self) -> None:
        self.add_argument("--json", action="store_true", help="one JSON document")

    def add_quiet(self) -> None:
        self.add_argument("-q", "--quiet", action="store_true", help="the exit code says it all")

    def add_dry_run(self) -> None:
        self.add_argument(
            "-n", "--dry-run", action="store_true", help="say what would be done, write nothing"
        )

    def add_writing(self) -> None:
        """Of commands that write a checkpoint; see `_cliwriting`."""
        self.add_argument(
            "-o", "--output", metavar="OUT", required=True, help="the file to be written"
        )
        self.add_argument("-f", "--force", action="store_true", help="replace OUT if it is there")
        self.add_dry_run()
        self.add_quiet()


def new_parser(command: str, room: ModuleType) -> Parser:
    """The parser of one command: its room says what it takes."""
    text = COMMANDS[command][1]
    parser = Parser(
        prog=f"pystatedict {command}",
        description=text[0].upper() + text[1:] + ".",
        epilog=getattr(room, "NOTES", None),
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,  # the room's Options have them
    )
    room.add_options(parser)
    parser.add_argument("--color", choices=("auto", "always", "never"))
    return parser


def without_command(words: list[str]) -> NoReturn:
    """Answer --help and --version; all else that is no command is wrong usage."""
    parser = argparse.ArgumentParser(
        prog="pystatedict",
        usage="%(prog)s COMMAND ...",
        formatter_class=_Formatter,
        description="Look into PyTorch checkpoints, check and change them, without torch.\n"
        "Nothing in a file is executed. `pystatedict COMMAND --help` tells of a command.\n\n"
        + _commands_text(),
        epilog="exit codes: 0 fine, 1 a negative answer, 2 wrong usage or an unreadable file",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _, rest = parser.parse_known_args(words)
    word = next((word for word in rest if not word.startswith("-")), None)
    if rest and rest[0] != word:
        parser.error(f"unrecognized arguments: {rest[0]} (a command comes first)")
    if word is None:
        parser.error("a command is missing; --help lists them")
    from difflib import get_close_matches

    close = get_close_matches(word, COMMANDS, 1)
    parser.error(f"no command {word!r}" + (f"; {close[0]}?" if close else "; --help lists them"))


class _Repeated(argparse.Action):
    """As "append", which would append to the room's own default."""

    def __call__(self, _: object, namespace: Any, value: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), value])


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from . import __version__

        print(f"pystatedict {__version__}")
        parser.exit()


def _commands_text() -> str:
    width = max(map(len, COMMANDS))
    lines = []
    for group, title in GROUPS.items():
        lines.append(f"{title}:")
        for command, (of, text, _) in COMMANDS.items():
            if of == group:
                lines.append(f"{INDENT}{command:{width}}   {text}")
        lines.append("")
    return "\n".join(lines[:-1])
