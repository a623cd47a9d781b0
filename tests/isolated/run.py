# SPDX-License-Identifier: Apache-2.0
"""Start the scripts of this folder, each in a process of its own."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent

#: The sanitizers are loaded into Python itself: memory is theirs to count.
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")


def environment(preload: pathlib.Path | None = None, **extra: str) -> dict[str, str]:
    """Ours, with CPython's own allocator, and `preload` before everything else."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONMALLOC"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if preload is not None:
        env["LD_PRELOAD"] = f"{preload} {env.get('LD_PRELOAD', '')}".strip()
        env["ASAN_OPTIONS"] = f"{env.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0"
    return env | extra


def python(
    *arguments: str | os.PathLike[str],
    preload: pathlib.Path | None = None,
    timeout: float = 300,
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """A Python of our kind, with what it said; faulthandler tells where a crash was."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", *map(str, arguments)],
        env=environment(preload, **extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def succeed(*arguments: str | os.PathLike[str], **options: object) -> str:
    """What it printed, once it has ended well."""
    done = python(*arguments, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, (
        f"exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"
    )
    return done.stdout


def build_probe(folder: pathlib.Path) -> pathlib.Path | None:
    """failing_malloc.c as a library to be preloaded; None where that cannot be."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or shutil.which(compiler[0]) is None:
        return None
    library = folder / "failing_malloc.so"
    source = TESTS / "c" / "failing_malloc.c"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    done = subprocess.run(
        [*compiler, *flags, str(source), "-o", str(library), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return library
