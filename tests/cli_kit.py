# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line are made of: processes, folders, damage."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SCRIPT = pathlib.Path(sysconfig.get_path("scripts"), "pystatedict")

#: A name that a terminal would obey.
HOSTILE = "a\n\x1b[31m\u202eb"


def shell(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The console script in a process of its own, buffered as a shell's user has it."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONUTF8": "1"} | options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([SCRIPT, *argv], check=False, env=environment, **options)


def damage(path: str | os.PathLike[str], found: bytes) -> None:
    """Change a bit of the first place where these bytes stand."""
    data = bytearray(pathlib.Path(path).read_bytes())
    data[data.index(found)] ^= 1
    pathlib.Path(path).write_bytes(data)


def contents(folder: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def unchanged(folder: pathlib.Path) -> Iterator[None]:
    """Nothing in the folder was made, taken away or written."""
    before = contents(folder)
    yield
    assert contents(folder) == before
