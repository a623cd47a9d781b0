# SPDX-License-Identifier: Apache-2.0
"""Progress: seen by a person at a terminal, by nobody else, and only when it takes long."""

import os
import pathlib
import pty
import subprocess
import sys

import numpy as np
import pytest
from cli_kit import SCRIPT, shell

import pystatedict as psd
from pystatedict import _cliprogress

FAKE = """
class tqdm:
    def __init__(self, total, initial, unit, file, leave, **options):
        self.total, self.file = total, file
        self.update(initial)
    def update(self, n):
        print(f"<{n} of {self.total}>", file=self.file)
    def close(self):
        print("<end>", file=self.file, flush=True)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A file, and a tqdm that says what it is told."""
    monkeypatch.chdir(tmp_path)
    psd.save({f"w{i}": np.ones(1000) for i in range(3)}, "m.pth")
    pathlib.Path("fake").mkdir()
    pathlib.Path("fake/tqdm.py").write_text(FAKE)
    # No patience: any work is long.
    pathlib.Path("fake/sitecustomize.py").write_text(
        "import pystatedict._cliprogress as p\np.PATIENCE = 0\n"
    )
    return "m.pth"


def at_terminal(*argv, path="fake"):
    """(exit code, stdout, what the terminal at stderr shows)."""
    outside, inside = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(
        [SCRIPT, *argv], stdout=subprocess.PIPE, stderr=inside, env=environment
    ) as process:
        os.close(inside)
        shown = b""
        while True:
            try:
                part = os.read(outside, 1000)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not part:
                break
            shown += part
        out = process.stdout.read()
    os.close(outside)
    return process.returncode, out, shown.decode().replace("\r\n", "\n")


def test_at_a_terminal(model):
    code, out, shown = at_terminal("verify", model)
    assert (code, out[:6]) == (0, b"whole:")
    lines = shown.split()
    total = sum(record[2] for record in psd.open(model).records())
    assert shown.startswith("<") and shown.endswith("<end>\n")
    assert f" of {total}>" in shown.replace("\n", " ")
    parts = [int(line[1:]) for line in lines if line[1:].isdigit()]
    assert sum(parts) == total


def test_not_when_it_is_quiet_nor_when_nobody_looks_on(model):
    assert at_terminal("verify", "-q", model) == (0, b"", "")
    done = shell("verify", model, env={"PYTHONPATH": "fake"})
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_tqdm(model):
    pathlib.Path("fake/tqdm.py").write_text("raise ImportError")
    code, out, shown = at_terminal("verify", model)
    assert (code, out[:6], shown) == (0, b"whole:", "")


def test_short_work_imports_nothing(monkeypatch):
    monkeypatch.setattr(_cliprogress, "_someone_looks_on", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # an import would be an error
    shown = []
    monkeypatch.setattr(_cliprogress.Progress, "_show", lambda self: shown.append(self))
    with _cliprogress.Progress("B") as progress:
        progress.add(6)
        assert list(progress.over([1, 2, 3], int)) == [1, 2, 3]
        assert (progress._done, shown) == (6, [])
        monkeypatch.setattr(_cliprogress, "PATIENCE", 0)
        progress.advance(0)
        assert shown == [progress]


def test_a_closed_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert not _cliprogress._someone_looks_on()
    with open(os.devnull, "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    assert not _cliprogress._someone_looks_on()
