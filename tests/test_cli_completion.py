# SPDX-License-Identifier: Apache-2.0
"""Completion scripts: bash's is run by bash; those of absent shells are held to their content."""

import shutil
import subprocess
import sys

import pytest
from cli_kit import shell

from pystatedict import _cli, _clicompletion, _clioptions


def script(name):
    done = shell("completion", name)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


@pytest.fixture
def complete(tmp_path):
    """What bash offers for the last of some words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    (tmp_path / "a model.pth").touch()
    (tmp_path / "amber").mkdir()
    (tmp_path / "b*").touch()
    (tmp_path / "best.pth").touch()
    (tmp_path / "done.sh").write_text(script("bash"))

    def complete(*words):
        program = (
            'source ./done.sh\nCOMP_WORDS=(pystatedict "$@")\n'
            "COMP_CWORD=$#\n_pystatedict\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
        )
        done = subprocess.run(
            [bash, "--norc", "-c", program, "bash", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return sorted(done.stdout.split("\n")[:-1]) if done.stdout != "\n" else []

    return complete


def options_of(command):
    parser = _clioptions.new_parser(command, _cli.room_of(command))
    return {text for action in parser._actions for text in action.option_strings}


def test_bash_knows_its_script():
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    subprocess.run(["bash", "-n"], input=script("bash").encode(), check=True)
    told = subprocess.run(
        ["bash", "-c", script("bash") + "complete -p pystatedict"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "complete -F _pystatedict pystatedict\n"


def test_bash_commands(complete):
    assert complete("") == sorted([*_cli.COMMANDS, "--help", "--version"])
    assert complete("tr") == ["trainable", "tree"]
    assert complete("--v") == ["--version"]
    assert complete("zz") == []


@pytest.mark.parametrize("command", _cli.COMMANDS)
def test_bash_options(complete, command):
    assert set(complete(command, "-")) == options_of(command)


def test_bash_words_and_files(complete):
    assert complete("ls", "--sort", "") == ["name", "size"]
    assert complete("ls", "--sort", "n") == ["name"]
    assert complete("ls", "--color", "a") == ["always", "auto"]
    assert complete("completion", "") == ["bash", "fish", "zsh"]
    assert complete("completion", "z") == ["zsh"]
    assert complete("ls", "a") == ["a model.pth", "amber"]
    assert complete("ls", "-l", "am") == ["amber"]
    assert complete("ls", "b*") == ["b*"]
    assert complete("ls", "nothing") == []
    assert complete("repair", "x.pth", "-o", "a m") == ["a model.pth"]
    assert complete("trainable", "x.pth", "--from-json", "am") == ["amber"]
    assert complete("trainable", "x.pth", "--freeze", "a") == []  # a pattern is no file
    assert complete("tree", "--depth", "") == []


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_there(name):
    text = script(name)
    for command in _cli.COMMANDS:
        assert command in text
        for option in options_of(command):
            spelled = option
            if name == "fish":
                spelled = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            assert spelled in text, (command, option)
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_the_other_shells_can_read_theirs(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    subprocess.run([found, "-n"], input=script(name).encode(), check=True)


def test_zsh_and_fish_to_the_letter():
    zsh = script("zsh").splitlines()
    assert zsh[0] == "#compdef pystatedict"
    assert "        'ls:list the tensors'" in zsh
    assert "            '*--sort=[instead of the order in the file]:value:(size name)' \\" in zsh
    assert "            '*--output=[the file to be written]:file:_files' \\" in zsh
    assert "            '*:file:_files'" in zsh
    assert "            '*:word:(bash zsh fish)'" in zsh
    fish = script("fish").splitlines()
    start = "complete -c pystatedict -n '__fish_seen_subcommand_from"
    assert f"{start} ls' -l sort -x -a 'size name' -d 'instead of the order in the file'" in fish
    assert f"{start} repair' -s o -l output -r -d 'the file to be written'" in fish
    assert f"{start} completion' -f -a 'bash zsh fish'" in fish


def test_quotes_and_brackets_are_escaped():
    option = _clicompletion._completionscripts.Option(["--x"], "it's [a:b]", True, [])
    command = _clicompletion._completionscripts.Command("c", "don't", [option], [])
    assert r"'*--x=[it'\''s \[a\:b\]]:value: '" in _clicompletion._completionscripts.zsh([command])
    assert r"-l x -x -d 'it\'s [a:b]'" in _clicompletion._completionscripts.fish([command])


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from pystatedict._cli import main\nmain(['completion', 'bash'])\n"
        "assert not {'numpy', 'ml_dtypes'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_wrong_shells(capsys):
    for argv in (["completion"], ["completion", "csh"]):
        with pytest.raises(SystemExit) as caught:
            _cli.main(argv)
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("usage: pystatedict completion")
