# SPDX-License-Identifier: Apache-2.0
"""Completion scripts for three shells: commands, their options, the options' words, files.

Nothing is run while a line is completed.  Where no option and no word is due, a file is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Option(NamedTuple):
    spellings: Sequence[str]
    text: str
    takes: bool  # a value
    choices: Sequence[str]  # for the value
    metavar: object = None

    @property
    def takes_file(self) -> bool:
        return self.takes and not self.choices and self.metavar in ("OUT", "F")


class Command(NamedTuple):
    name: str
    text: str
    options: Sequence[Option]
    words: Sequence[str]  # in the place of a file


TOP = ("--help", "--version")


def bash(commands: Sequence[Command]) -> str:
    names = " ".join([*(command.name for command in commands), *TOP])
    values, options, words = [], [], []
    for command in commands:
        spelled = [text for option in command.options for text in option.spellings]
        options.append(f"        {command.name}) words='{' '.join(spelled)}' ;;")
        if command.words:
            words.append(f"        {command.name}) words='{' '.join(command.words)}' ;;")
        for option in command.options:
            if option.takes and not option.takes_file:
                cases = "|".join(f"{command.name}:{text}" for text in option.spellings)
                values.append(f"        {cases}) words='{' '.join(option.choices)}'; files= ;;")
    return "\n".join(
        [
            "_pystatedict() {",
            "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
            "    local command=${COMP_WORDS[1]} words= files=yes",
            "    COMPREPLY=()",
            "    if [[ $COMP_CWORD -eq 1 ]]; then",
            f"        words='{names}' files=",
            "    elif [[ $current == -* ]]; then",
            "        files=",
            "        case $command in",
            *options,
            "        esac",
            "    else",
            "        case $command in",
            *words,
            "        esac",
            "        [[ -n $words ]] && files=",
            "        case $command:$before in",
            *values,
            "        esac",
            "    fi",
            '    [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "    if [[ -n $files ]]; then",
            "        compopt -o filenames 2>/dev/null",
            # Line by line, and unlike $(...) without a look at signs such as * in names.
            "        IFS=$'\\n' read -r -d '' -a COMPREPLY < <(compgen -f -- \"$current\")",
            "        return 0  # read ends at the end of what there is, and calls it a failure",
            "    fi",
            "}",
            "complete -F _pystatedict pystatedict",
            "",
        ]
    )


def zsh(commands: Sequence[Command]) -> str:
    lines = [
        "#compdef pystatedict",
        "_pystatedict() {",
        "    local -a commands",
        "    commands=(",
        *(f"        {_quoted(f'{command.name}:{command.text}')}" for command in commands),
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        f"        compadd -- {' '.join(TOP)}",
        "        return",
        "    fi",
        "    local command=$words[2]",
        "    shift words; (( CURRENT-- ))",
        "    case $command in",
    ]
    for command in commands:
        lines.append(f"    {command.name})")
        specs = [_spec(option, text) for option in command.options for text in option.spellings]
        rest = f"*:word:({' '.join(command.words)})" if command.words else "*:file:_files"
        lines.append("        _arguments -s \\")
        lines += [f"            {_quoted(spec)} \\" for spec in specs]
        lines += [f"            {_quoted(rest)}", "        ;;"]
    lines += ["    esac", "}", "compdef _pystatedict pystatedict", ""]
    return "\n".join(lines)


def _spec(option: Option, spelling: str) -> str:
    """One option as _arguments takes it; brackets and colons of its text have a meaning there."""
    text = "".join("\\" + c if c in "\\[]:" else c for c in option.text)
    spec = f"*{spelling}" + ("=" if option.takes and spelling.startswith("--") else "")
    spec += f"[{text}]"
    if option.choices:
        spec += f":value:({' '.join(option.choices)})"
    elif option.takes:
        spec += ":file:_files" if option.takes_file else ":value: "
    return spec


def fish(commands: Sequence[Command]) -> str:
    lines = [
        "complete -c pystatedict -e",
        "complete -c pystatedict -n __fish_use_subcommand -f",
        *(f"complete -c pystatedict -n __fish_use_subcommand -l {text[2:]}" for text in TOP),
    ]
    for command in commands:
        lines.append(
            f"complete -c pystatedict -n __fish_use_subcommand -a {command.name}"
            f" -d {_fish_quoted(command.text)}"
        )
        start = f"complete -c pystatedict -n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"{start} -f -a '{' '.join(command.words)}'")
        for option in command.options:
            spelled = " ".join(
                f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}"
                for text in option.spellings
            )
            value = " -r" if option.takes_file else " -x" if option.takes else ""
            if option.choices:
                value += f" -a '{' '.join(option.choices)}'"
            lines.append(f"{start} {spelled}{value} -d {_fish_quoted(option.text)}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
