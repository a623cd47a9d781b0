# SPDX-License-Identifier: Apache-2.0
"""The table of commands: each has its room, its line in --help and its options."""

import pathlib
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _cli, _clioptions

SCRIPT = pathlib.Path(sysconfig.get_path("scripts"), "pystatedict")


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    psd.save({"a.w": np.ones((2, 3), "f4"), "-b": np.zeros(2)}, "m.pth")
    return "m.pth"


def exits(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        _cli.main(argv)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.mark.parametrize("command", _cli.COMMANDS)
def test_every_command_has_a_room(command, capsys):
    room = _cli.room_of(command)
    assert room.__name__ == f"pystatedict._cli{command}"
    assert issubclass(room.Options, _cli.Arguments)
    assert callable(room.run)
    code, out, err = exits(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: pystatedict {command} ")
    assert "--color" in out


def test_every_option_has_its_default_in_the_room():
    """Nothing is set by argparse that was not asked for: FILE alone goes without it."""
    for command in _cli.COMMANDS:
        room = _cli.room_of(command)
        for action in _clioptions.new_parser(command, room)._actions:
            assert action.dest == "help" or hasattr(room.Options, action.dest), command


def test_help_lists_every_command_once_in_its_group(capsys):
    code, out, err = exits(capsys, "--help")
    assert (code, err) == (0, "")
    for command, (group, text, _) in _cli.COMMANDS.items():
        assert out.count(f"\n  {command} ") == 1
        part = out.partition(f"\n{_clioptions.GROUPS[group]}:\n")[2].partition("\n\n")[0]
        assert any(line.split(None, 1) == [command, text] for line in part.splitlines()), command
    assert max(map(len, out.splitlines())) <= 80


def test_the_page_tells_of_every_command():
    page = pathlib.Path(__file__).parents[1] / "docs" / "command-line.md"
    told = [
        line[3:].split("`")[0].split()[0]
        for line in page.read_text().splitlines()
        if line.startswith("| `")
    ]
    assert told == list(_cli.COMMANDS)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "a command is missing"),
        (["lss"], "no command 'lss'; ls?"),
        (["fr\x1bob"], r"no command 'fr\x1bob'; --help lists them"),
        (["--json", "ls", "x"], "unrecognized arguments: --json (a command comes first)"),
        (["ls"], "the following arguments are required: FILE"),
    ],
)
def test_wrong_commands(argv, said, capsys):
    code, out, err = exits(capsys, *argv)
    assert (code, out) == (2, "")
    assert said in err


def test_patterns_anywhere(model, capsys):
    for argv in (
        ["ls", "--json", model, "a"],
        ["ls", model, "--json", "a"],
        ["ls", model, "a", "--json"],
    ):
        assert _cli.main(argv) == 0
        assert '"name": "a.w"' in capsys.readouterr().out
    for argv in (["--color=never", "--", model, "-b"], [model, "--color=never", "--", "-b"]):
        assert _cli.main(["ls", *argv]) == 0
        assert capsys.readouterr().out.startswith("  -b   [2]")


def test_only_the_room_that_was_asked_for(model):
    code = (
        "import sys\nfrom pystatedict._cli import main, COMMANDS\n"
        "main(['stat', '--json', sys.argv[1]])\n"
        "rooms = {f'pystatedict._cli{c}' for c in COMMANDS} & set(sys.modules)\n"
        "assert rooms == {'pystatedict._clistat'}, rooms\n"
    )
    subprocess.run([sys.executable, "-c", code, model], check=True, stdout=subprocess.DEVNULL)


def test_the_console_script(model):
    done = subprocess.run([SCRIPT, "ls", model, "-b"], capture_output=True, check=False)
    assert done.returncode == 2  # an option that there is not
    done = subprocess.run([SCRIPT, "ls", model, "a"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
