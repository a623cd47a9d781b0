# SPDX-License-Identifier: Apache-2.0
"""`pystatedict completion`: a script for the shell, made from the parsers themselves."""

from __future__ import annotations

from . import _completionscripts
from ._cli import COMMANDS, FINE, Arguments, room_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser
    from ._completionscripts import Command

NOTES = """\
bash:  eval "$(pystatedict completion bash)"       in ~/.bashrc
zsh:   eval "$(pystatedict completion zsh)"        in ~/.zshrc, after compinit
fish:  pystatedict completion fish | source        in ~/.config/fish/config.fish"""

_SCRIPTS = {
    "bash": _completionscripts.bash,
    "zsh": _completionscripts.zsh,
    "fish": _completionscripts.fish,
}


class Options(Arguments):
    shell = ""


def add_options(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=tuple(_SCRIPTS), help="bash, zsh, fish")


def run(arguments: Options) -> int:
    print(_SCRIPTS[arguments.shell](commands()), end="")
    return FINE


def commands() -> list[Command]:
    """Every command with its options, as its parser has them."""
    from ._clioptions import new_parser
    from ._completionscripts import Command, Option

    found = []
    for name, (_, text, _) in COMMANDS.items():
        options: list[Option] = []
        words: list[str] = []
        for action in new_parser(name, room_of(name))._actions:
            choices = [str(choice) for choice in action.choices or ()]
            if action.option_strings:
                takes = action.nargs != 0
                options.append(
                    Option(action.option_strings, action.help or "", takes, choices, action.metavar)
                )
            elif choices:
                words = choices
        found.append(Command(name, text, options, words))
    return found
