# SPDX-License-Identifier: Apache-2.0
"""Files that somebody shortens while they are looked at.

What only tells of a file reads it, and raises; through a map the process would die by SIGBUS.
Each runs in a process of its own, so that such a death would be seen.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys

import numpy as np
import pytest
from isolated import run

import pystatedict as psd

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGBUS")

START = """
import os, sys
import pystatedict as psd
from pystatedict import _cli, _clils, _clistat, _clitree, _integrity

path, size = sys.argv[1], os.stat(sys.argv[1]).st_size

def shorten(module, name):
    called = getattr(module, name)
    def late(*arguments, **keywords):
        os.truncate(path, 100)
        return called(*arguments, **keywords)
    setattr(module, name, late)
"""


def shrinking(path: pathlib.Path, code: str, *arguments: str) -> tuple[int, str]:
    done = run.python("-c", START + code, path, *arguments)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=["zip", "legacy", "safetensors", "npz"])
def path(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "m.pth"
    psd.save({"w": np.zeros(1 << 18, "f4"), "b": np.ones(9)}, path, format=request.param)
    return path


def test_verify(path: pathlib.Path) -> None:
    kind = psd.open(path).kind
    code, said = shrinking(
        path,
        "shorten(_integrity, '_examine')\n"
        "report = psd.verify(path)\n"
        "print(bool(report), {type(e).__name__ for e in report.problems}, len(report.damaged))\n",
    )
    assert code == 0, said
    if kind in ("checkpoint", "npz"):
        assert said == "False {'TruncatedError'} 2\n"
    else:
        assert said == "True set() 0\n"  # it states no checksums: the structure was there


@pytest.mark.parametrize("command", ["ls", "tree", "stat"])
def test_commands(path: pathlib.Path, command: str) -> None:
    name = "facts_of" if command == "stat" else "flags_of"
    code, said = shrinking(
        path,
        f"shorten(_cli{command}, '{name}')\nsys.exit(_cli.main(['{command}', path]))\n",
    )
    assert code in (0, 2), said
    assert "Traceback" not in said


def test_an_archive_that_is_read(path: pathlib.Path) -> None:
    code, said = shrinking(
        path,
        "from pystatedict._opening import open_to_tell\n"
        "checkpoint = open_to_tell(path)\n"
        "whole = checkpoint['b'].numpy()\n"
        "assert whole.sum() == 9 and whole.flags.writeable\n"
        "os.truncate(path, 100)\n"
        "try:\n"
        "    checkpoint['w'].numpy()\n"
        "except psd.TruncatedError as error:\n"
        "    print(error.sentence)\n"
        "print(whole.sum())\n",
    )
    assert (code, said) == (0, "the file became shorter while it was read\n9.0\n")


@pytest.mark.parametrize("option", ["mmap=False", "copy=True"])
def test_ways_out(path: pathlib.Path, option: str) -> None:
    code, said = shrinking(
        path, f"sd = psd.load(path, {option})\nos.truncate(path, 100)\nprint(sd['w'].sum())\n"
    )
    assert (code, said) == (0, "0.0\n")


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
def test_what_is_told_is_true(path: pathlib.Path) -> None:
    """SECURITY.md: a map of a file that was shortened ends the process."""
    code, _ = shrinking(path, "sd = psd.load(path)\nos.truncate(path, 100)\nprint(sd['w'][-1])\n")
    # A sanitizer that is loaded into Python tells of the signal itself.
    assert code == -signal.SIGBUS or (run.SANITIZED and code != 0)
