# SPDX-License-Identifier: Apache-2.0
"""What it takes to change checkpoints that are larger than memory should be.

    python benchmarks/streaming.py [--gib N] [--folder DIR]

First the peak memory of each streaming operation over a sparse checkpoint of N GiB (20),
written to where nothing is kept, each in a process of its own.  Then the time of a rename of
2 GiB beside a copy of the file, both on the disk before they end (fsync), round by round; and
of a rename in the file itself beside torch.load and torch.save, and our own rewrite.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import pystatedict as psd
from pystatedict import ops
from pystatedict._lazy import LazyTensor

SHAPE = (8192, 16384)  # 256 MiB of bfloat16
MEMORY_MOST = 300.0  # MiB


class Sparse:
    """A file to write to in which blocks of zeros are holes."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115
        self._zeros = bytes(1 << 20)

    def write(self, data: memoryview) -> int:
        for start in range(0, len(data), 1 << 20):
            piece = data[start : start + (1 << 20)]
            if piece == self._zeros[: len(piece)]:
                self._file.seek(len(piece), os.SEEK_CUR)
            else:
                self._file.write(piece)
        return len(data)

    def close(self) -> None:
        self._file.truncate()
        self._file.close()


def make(path: str, gib: int) -> None:
    """Zeros in bfloat16, under names as training wraps them."""
    from pystatedict._dtypes import numpy_dtype

    kind = numpy_dtype("bfloat16")

    def zeros(start: int, count: int) -> Any:
        return np.zeros(count, kind)

    file = Sparse(path)
    names = [f"module.layers.{i}.weight" for i in range(4 * gib)]
    psd.save({name: LazyTensor(SHAPE, "bfloat16", zeros) for name in names}, file)
    file.close()


OPERATIONS: dict[str, Callable[[str], Any]] = {
    "copy": ops.open,
    "strip_prefix": ops.strip_prefix,
    "rename": lambda path: ops.rename(path, r"layers\.", "blocks."),
    "select": lambda path: ops.drop(path, "*.1.weight"),
    "cast to float32": lambda path: ops.cast(path, "float32"),
    "cast to float8_e4m3fn": lambda path: ops.cast(path, "float8_e4m3fn"),
    "merge of two": lambda path: ops.merge(path, ops.add_prefix(path, "ema.")),
}


def most_memory() -> float:
    """The most of this process so far, in MiB; ru_maxrss begins with its parent's."""
    with open("/proc/self/status") as status:
        return int(re.findall(r"VmHWM:\s*(\d+)", status.read())[0]) / 1024


def peak(name: str, path: str) -> None:
    """In a process of its own: do it, print MiB over the start and seconds."""
    before = most_memory()
    start = time.perf_counter()
    with open(os.devnull, "wb", buffering=0) as nothing:
        psd.save(OPERATIONS[name](path), nothing)
    spent = time.perf_counter() - start
    print(most_memory() - before, spent)


def peaks(folder: str, gib: int) -> bool:
    path = str(pathlib.Path(folder, "sparse.pth"))
    make(path, gib)
    print(f"A sparse checkpoint of {os.path.getsize(path) / 2**30:.1f} GiB\n")
    print("| operation | peak memory, MiB | seconds |\n|---|---|---|")
    sound = True
    for name in OPERATIONS:
        done = subprocess.run(
            [sys.executable, __file__, "--peak", name, path],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        memory, spent = map(float, done.stdout.split())
        sound = sound and memory < MEMORY_MOST
        print(f"| {name} | {memory:.0f} | {spent:.1f} |", flush=True)
    os.unlink(path)
    return sound


def copied(source: str, target: str) -> None:
    """What `cp` does, into a new file that is on the disk before it takes the old one's place."""
    with open(source, "rb", buffering=0) as old, open(target + ".new", "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        if hasattr(os, "copy_file_range"):
            done = 0
            while done < size:
                done += os.copy_file_range(old.fileno(), new.fileno(), size - done)
        else:
            import shutil

            shutil.copyfileobj(old, new, 1 << 20)
        os.fsync(new.fileno())
    os.replace(target + ".new", target)


def renaming(folder: str, rounds: int) -> None:
    source, ours, theirs = (str(pathlib.Path(folder, n)) for n in ("in.pth", "a.pth", "b.pth"))
    rng = np.random.default_rng(0)
    psd.save({f"module.{i}": rng.integers(0, 1 << 16, 1 << 23, "u2") for i in range(128)}, source)
    spent: dict[str, list[float]] = {"rename": [], "copy": []}
    for _ in range(rounds):
        for name, call in {
            "rename": lambda: psd.save(ops.strip_prefix(source), ours),
            "copy": lambda: copied(source, theirs),
        }.items():
            start = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - start)
    mine, other = (statistics.median(spent[name]) for name in ("rename", "copy"))
    print(
        f"\n2 GiB renamed and saved: {mine:.2f} s; copied: {other:.2f} s; ratio {mine / other:.2f}"
    )


def editing(folder: str, rounds: int) -> None:
    """The same rename in the file itself, beside torch's load and save, and our own rewrite."""
    import torch

    source, out = (str(pathlib.Path(folder, n)) for n in ("in.pth", "a.pth"))

    def by_torch() -> None:
        old = torch.load(source, weights_only=True)
        torch.save({f"x.{name}": tensor for name, tensor in old.items()}, out)

    ways: dict[str, Callable[[], None]] = {
        "edit": lambda: ops.edit(source, lambda sd: ops.add_prefix(sd, "x.")),
        "torch": by_torch,
        "rewrite": lambda: psd.save(ops.add_prefix(source, "x."), out),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - start)
    mine, theirs, rewrite = (statistics.median(spent[name]) for name in ways)
    print(
        f"\n2 GiB renamed in the file: {1000 * mine:.1f} ms; torch.load and torch.save:"
        f" {theirs:.2f} s, {theirs / mine:.0f} times that; our own rewrite: {rewrite:.2f} s,"
        f" {rewrite / mine:.0f} times"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=int, default=20)
    parser.add_argument("--folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(*arguments.peak)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        sound = peaks(folder, arguments.gib)
        renaming(folder, arguments.rounds)
        editing(folder, arguments.rounds)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
