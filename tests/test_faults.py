# SPDX-License-Identifier: Apache-2.0
"""A save that is killed before each of its system calls, or in which each of them fails;
reading in which each fails; and two saves of which one comes between any two calls of the
other.

strace does it from outside: it holds the process, counts its calls, and puts a signal or an
error in the place of one.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from isolated import run, traced

import pystatedict as psd

pytestmark = pytest.mark.skipif(
    os.environ.get("PYSTATEDICT_FAULTS") != "1" or shutil.which("strace") is None,
    reason="slow: set PYSTATEDICT_FAULTS=1 where strace is installed",
)

TRACED = pathlib.Path(run.HERE) / "traced.py"
OLD = {"w": np.arange(10, dtype="f4")}

#: Calls of the interpreter's own: of other threads, of memory, and those that cannot fail.
NOT_OURS = {
    "clock_nanosleep",
    "exit_group",
    "futex",
    "getppid",
    "brk",
    "munmap",
    "rt_sigaction",
    "rt_sigprocmask",
}

Call = tuple[str, int]  # its name, and which one of that name


@contextlib.contextmanager
def tracing(child: subprocess.Popen[str], *arguments: str) -> Iterator[None]:
    """strace takes hold of the process, which waits until it has: then it counts."""
    answer = f"inject=getppid:retval={traced.TRACED}"
    command = ["strace", "-q", "-p", str(child.pid), *arguments, "-e", answer]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True):
        yield


def log_of(path: pathlib.Path) -> pathlib.Path:
    """Where strace writes what the process that saves to `path` called."""
    return path.parent.parent / "trace"


def await_stop(log: pathlib.Path) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or "stopped by SIGSTOP" not in log.read_text():
        assert time.monotonic() < deadline, "it did not stop"
        time.sleep(0.001)


def attempt(
    scenario: str,
    path: pathlib.Path,
    *arguments: str,
    stopped: Callable[[], None] | None = None,
) -> tuple[int, str]:
    """(how the process ended, what it said) of one scenario under strace; `stopped` is
    called while it stands still, of a SIGSTOP among the arguments.
    """
    log = log_of(path)
    log.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, str(TRACED), scenario, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=run.environment(OPENBLAS_NUM_THREADS="1"),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with tracing(child, "-o", str(log), *arguments):
            if stopped is not None:
                await_stop(log)
                stopped()
                os.kill(child.pid, signal.SIGCONT)
            said, _ = child.communicate(timeout=60)
        return child.returncode, said.strip()


def calls_of(scenario: str, path: pathlib.Path) -> list[Call]:
    """What a scenario asks the system for, in order."""
    assert attempt(scenario, path) == (0, "")
    counts: collections.Counter[str] = collections.Counter()
    calls = []
    for name in re.findall(r"^(\w+)\(", log_of(path).read_text(), re.MULTILINE):
        counts[name] += 1
        if name not in NOT_OURS:
            calls.append((name, counts[name]))
    return calls


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "m.pth"


def begin(scenario: str, path: pathlib.Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    if scenario != "first":
        psd.save(OLD, path)


def judge(scenario: str, path: pathlib.Path, finished: bool) -> set[str]:
    """The old file or the new one is there, whole; the names of what else is."""
    if path.exists():
        found = psd.load(path, verify=True, trainable=False)
        assert list(found) in (["w"], ["w", "s"])
        assert not finished or "s" in found
    else:
        assert scenario == "first" and not finished
    return {file.name for file in path.parent.iterdir()} - {path.name}


SCENARIOS = ["overwrite", "first", "sidecar", "named"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_before_each_call(scenario: str, path: pathlib.Path) -> None:
    begin(scenario, path)
    calls = calls_of(scenario, path)
    assert len(calls) > 20
    names = {name for name, _ in calls}
    assert {"write", "fsync"} < names
    assert names & {"rename", "link", "linkat"}
    left: set[str] = set()
    for name, number in calls:
        begin(scenario, path)
        code, _ = attempt(scenario, path, "-e", f"inject={name}:signal=KILL:when={number}")
        assert code == -9, (name, number)
        beside = judge(scenario, path, False)
        left |= beside
        if scenario == "named":
            assert all(re.fullmatch(r"\.m\.pth\.[0-9a-f]+-[0-9a-f]+\.part", n) for n in beside)
            continue
        # Only between a link and the rename behind it has the new file a name of its own.
        other = beside - {"m.pth.trainable.json"}
        assert not other or name in ("rename", "renameat", "renameat2"), (name, number)
        attempt(scenario, path)
        beside = judge(scenario, path, scenario != "first")
        assert beside <= {"m.pth.trainable.json"}, (name, number)
    assert bool(left - {"m.pth.trainable.json"}) == (scenario != "first")


ERRORS = {"write": "ENOSPC", "openat": "EMFILE"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_call_fails(scenario: str, path: pathlib.Path) -> None:
    begin(scenario, path)
    failed = collections.Counter[str]()
    for name, number in calls_of(scenario, path):
        begin(scenario, path)
        error = ERRORS.get(name, "EIO")
        code, said = attempt(scenario, path, "-e", f"inject={name}:error={error}:when={number}")
        assert code == 0, (name, number)
        assert said in ("", "OSError", "MemoryError", "FileNotFoundError"), (name, number)
        failed[said] += 1
        beside = judge(scenario, path, said == "")
        assert beside <= {"m.pth.trainable.json"} or name == "unlink", (name, number, beside)
    assert failed["OSError"] >= 8


@pytest.mark.parametrize("scenario", ["mapped", "copied", "opened", "verified", "scanned"])
def test_each_call_of_reading_fails(scenario: str, path: pathlib.Path) -> None:
    """The right arrays, or an error that says so."""
    psd.save(traced.NEW, path)
    calls = calls_of(scenario, path)
    assert "openat" in {name for name, _ in calls}
    assert {"read", "pread64", "mmap"} & {name for name, _ in calls}
    failed = collections.Counter[str]()
    for name, number in calls:
        error = ERRORS.get(name, "EIO")
        code, said = attempt(scenario, path, "-e", f"inject={name}:error={error}:when={number}")
        assert code == 0, (name, number)
        assert said in ("", "OSError", "MemoryError"), (name, number, said)
        assert said == "OSError" or name not in ("read", "pread64"), (name, number, said)
        failed[said] += 1
    assert failed["OSError"] >= 2


@pytest.mark.parametrize("scenario", ["overwrite", "first", "named"])
def test_another_save_between_any_two_calls(scenario: str, path: pathlib.Path) -> None:
    """The one that ended last is there, whole, and nothing else; who may not overwrite says
    so when it comes too late.
    """
    outcomes: set[tuple[str, bool]] = set()
    begin(scenario, path)
    for name, number in calls_of(scenario, path):
        begin(scenario, path)
        code, said = attempt(
            scenario,
            path,
            "-e",
            f"inject={name}:signal=STOP:when={number}",
            stopped=lambda: psd.save(OLD, path),
        )
        assert code == 0, (name, number)
        assert judge(scenario, path, False) == set(), (name, number)
        outcomes.add((said, "s" in psd.load(path)))
    # Held before its file took the place, the save comes last; held behind that, the other.
    late = ("FileExistsError", False) if scenario == "first" else ("", True)
    assert outcomes == {late, ("", False)}
