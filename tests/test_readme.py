# SPDX-License-Identifier: Apache-2.0
"""Every code block of the README, and every example of docs/, as a reader would run them.

README.md: `python` blocks run in order in one namespace, in a folder that holds
examples/; an `output` block says what the block before it printed.  Blocks marked
`python torch` need torch.  `console` blocks hold commands and what they print.
The two `sh` blocks set up environments; .ci/run runs them, each in a clone of its own.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import pystatedict as psd

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Block(NamedTuple):
    kind: str
    text: str
    line: int


def blocks_of(path: pathlib.Path) -> list[Block]:
    found = []
    kind, start, lines = "", 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif kind:
            assert line == "```", f"{path.name}:{number}: a block within a block"
            found.append(Block(kind, "".join(text + "\n" for text in lines), start))
            kind = ""
        else:
            kind, start, lines = line[3:] or "text", number, []
    assert not kind, f"{path.name}: the block of line {start} has no end"
    return found


README = blocks_of(ROOT / "README.md")


@pytest.fixture
def reader(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder as a reader's clone looks, and the installed command on the path."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", scripts + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONUTF8", "1")
    return tmp_path


def execute(block: Block, namespace: dict[str, Any]) -> str:
    # Line numbers of a traceback are those of the README.
    code = compile("\n" * block.line + block.text, "README.md", "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def test_kinds_of_blocks() -> None:
    kinds = {block.kind for block in README}
    assert kinds == {"sh", "python", "python torch", "output", "console"}
    for block, before in zip(README[1:], README, strict=False):
        if block.kind == "output":
            assert before.kind in {"sh", "python"}, f"README.md:{block.line}"


def outputs(blocks: list[Block]) -> Iterator[tuple[Block, str | None]]:
    """Each block with what it should print; None where the README does not show it."""
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.kind != "output":
            shown = after is not None and after.kind == "output"
            yield block, after.text if shown and after is not None else None


@pytest.mark.usefixtures("reader")
def test_python_blocks() -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    ran = 0
    for block, expected in outputs(README):
        if block.kind == "python":
            printed = execute(block, namespace)
            ran += 1
            assert printed == (expected or ""), f"README.md:{block.line}"
    assert ran >= 8


@pytest.mark.oracle
def test_torch_blocks(reader: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = nn.Module()
    model.fc1 = nn.Sequential(nn.Linear(6, 512), nn.ReLU())
    model.fc2 = nn.Sequential(nn.Linear(512, 128), nn.ReLU())
    model.fc_final = nn.Linear(128, 1)
    model.fc1.requires_grad_(False)
    path = str(reader / "model.pth")
    namespace: dict[str, Any] = {"model": model, "path": path, "psd": psd}
    for block in README:
        if block.kind == "python torch":
            execute(block, namespace)
    # What torch users write without us, we read.
    assert psd.load_trainable(path) == {
        name: not name.startswith("fc1.") for name in model.state_dict()
    }
    assert psd.load(path).trainable["fc1.0.bias"] is False


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


@pytest.mark.usefixtures("reader")
def test_console_blocks() -> None:
    ran = 0
    page = blocks_of(ROOT / "docs" / "command-line.md")
    for block in [*README, *page]:
        if block.kind != "console":
            continue
        for command, expected in commands(block):
            done = subprocess.run(
                command, shell=True, capture_output=True, text=True, encoding="utf-8", check=False
            )
            ran += 1
            where = f"line {block.line}: {command}"
            assert (done.returncode, done.stderr) == (0, ""), where
            assert done.stdout == expected, where
    assert ran >= 9


def test_shell_blocks_are_the_two_commands() -> None:
    shell = [block.text for block in README if block.kind == "sh"]
    assert len(shell) == 2
    for text in shell:
        # Each stands alone: it makes its own environment.
        assert text.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert "examples/tutorial.py" in shell[0]
    assert "pytest" in shell[1]


@pytest.mark.usefixtures("reader")
def test_example_prints_what_the_readme_shows() -> None:
    program = [sys.executable, "examples/tutorial.py"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    expected = next(text for block, text in outputs(README) if block.kind == "sh")
    assert done.stdout == expected


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture
def example(reader: pathlib.Path) -> None:
    """The example's files at hand by their names alone."""
    for file in (reader / "examples").glob("tutorial.pth*"):
        shutil.copy(file, reader)


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    "page", ["api.md", "arithmetic.md", "change.md", "format.md", "howto.md", "scan.md"]
)
def test_examples_of_docs(page: str) -> None:
    failed, ran = doctest.testfile(
        str(ROOT / "docs" / page), module_relative=False, encoding="utf-8", optionflags=FLAGS
    )
    assert failed == 0
    assert ran > 3
