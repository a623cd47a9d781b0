# SPDX-License-Identifier: Apache-2.0
"""Every speed that is promised: ours, the other's, the ratio, and what it must be.

    python benchmarks/targets.py [--small] [--rounds N] [--folder DIR] [WORD]...

Makes the files, runs both sides of each line in turn, round by round, and prints a table.
WORDs choose the lines that have one of them in their names; --small leaves out the file of
2.2 GB.  Exits 0 whatever it finds: whether a machine is quiet enough is for the reader.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from measure import amount, compare, describe, models

import pystatedict as psd

Call = Callable[[], object]


class Line(NamedTuple):
    """One promise: how many times as fast as the other `ours` must be."""

    name: str
    ours: Call
    other: Call
    wanted: float


class Files:
    """The same tensors in each format."""

    def __init__(self, folder: str, name: str, model: dict[str, torch.Tensor]) -> None:
        self.model = model
        self.pth = str(pathlib.Path(folder, f"{name}.pth"))
        self.legacy = str(pathlib.Path(folder, f"{name}-legacy.pth"))
        self.plain = str(pathlib.Path(folder, f"{name}.safetensors"))
        self.out = str(pathlib.Path(folder, f"{name}-out"))
        torch.save(model, self.pth)
        safetensors.torch.save_file(model, self.plain)


def names_and_shapes(path: str) -> dict[str, tuple[int, ...]]:
    with psd.open(path) as checkpoint:
        return checkpoint.shapes()


def header(path: str) -> dict[str, list[int]]:
    with safetensors.safe_open(path, "numpy") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def raw_read(path: str) -> mmap.mmap:
    """The file in fresh memory, in huge pages where there are any: as fast as can be."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(memory) as view:
            done = 0
            while done < size:
                done += file.readinto(view[done : done + (1 << 30)])
    return memory


def raw_write(path: str, data: mmap.mmap) -> None:
    """The same bytes to a new file that is on the disk before it takes the old one's place."""
    with open(path + ".new", "wb", buffering=0) as file:
        done = 0
        with memoryview(data) as view:
            while done < len(view):
                done += file.write(view[done : done + (1 << 30)])
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def verify_map(path: str) -> None:
    with psd.open(path) as checkpoint:
        checkpoint.verify()


def torch_load(path: str, mmap: bool = False) -> Call:
    return lambda: torch.load(path, weights_only=True, mmap=mmap)


def lines_of_small(f: Files) -> Iterator[Line]:
    yield Line("load, 6 tensors, against torch", lambda: psd.load(f.pth), torch_load(f.pth), 8)


def lines_of_middle(f: Files) -> Iterator[Line]:
    yield Line(
        "load, 320 tensors, against safetensors.torch",
        lambda: psd.load(f.pth), lambda: safetensors.torch.load_file(f.plain), 5,
    )  # fmt: skip
    yield Line(
        "load(mmap=False), 102 MB, against a raw read",
        lambda: psd.load(f.pth, mmap=False), lambda: raw_read(f.pth), 1 / 1.1,
    )  # fmt: skip
    yield Line(
        "load(mmap=False, verify=True), 102 MB, against a raw read",
        lambda: psd.load(f.pth, mmap=False, verify=True), lambda: raw_read(f.pth), 1 / 1.25,
    )  # fmt: skip
    yield Line(
        "verify, 102 MB, against a raw read",
        lambda: psd.verify(f.pth), lambda: raw_read(f.pth), 1 / 1.3,
    )  # fmt: skip
    yield Line(
        "verify of a map, 102 MB, against a raw read",
        lambda: verify_map(f.pth), lambda: raw_read(f.pth), 1 / 1.3,
    )  # fmt: skip


def lines_of_many(f: Files) -> Iterator[Line]:
    torch.save(f.model, f.legacy, _use_new_zipfile_serialization=False)
    arrays = psd.load(f.pth, copy=True)
    yield Line(
        "names and shapes, 20,000 tensors, against safetensors",
        lambda: names_and_shapes(f.pth), lambda: header(f.plain), 5,
    )  # fmt: skip
    yield Line(
        "names and shapes, 20,000 tensors, against torch",
        lambda: names_and_shapes(f.pth), torch_load(f.pth), 200,
    )  # fmt: skip
    yield Line(
        "load, 20,000 tensors, against torch", lambda: psd.load(f.pth), torch_load(f.pth), 100
    )
    yield Line(
        "load, 20,000 tensors, against safetensors.numpy",
        lambda: psd.load(f.pth), lambda: safetensors.numpy.load_file(f.plain), 4,
    )  # fmt: skip
    yield Line(
        "load, legacy, 20,000 tensors, against torch",
        lambda: psd.load(f.legacy), torch_load(f.legacy), 100,
    )  # fmt: skip
    yield Line(
        "save, 20,000 tensors, against torch",
        lambda: psd.save(arrays, f.out + ".pth"), lambda: torch.save(f.model, f.out), 20,
    )  # fmt: skip
    yield Line(
        "save, 20,000 tensors, against safetensors.numpy",
        lambda: psd.save(arrays, f.out + ".pth"),
        lambda: safetensors.numpy.save_file(dict(arrays), f.out), 1,
    )  # fmt: skip


def lines_of_big(f: Files) -> Iterator[Line]:
    data = raw_read(f.pth)
    arrays = psd.load(f.pth)
    yield Line(
        "names and shapes, 2.2 GB, against safetensors",
        lambda: names_and_shapes(f.pth), lambda: header(f.plain), 2,
    )  # fmt: skip
    yield Line(
        "load, 2.2 GB, against safetensors.torch",
        lambda: psd.load(f.pth), lambda: safetensors.torch.load_file(f.plain), 10,
    )  # fmt: skip
    yield Line(
        "load, 2.2 GB, against torch's mmap",
        lambda: psd.load(f.pth), torch_load(f.pth, mmap=True), 30,
    )  # fmt: skip
    yield Line(
        "save, 2.2 GB, against a raw write",
        lambda: psd.save(arrays, f.out + ".pth"), lambda: raw_write(f.out, data), 1 / 1.1,
    )  # fmt: skip
    yield Line(
        "save, 2.2 GB, against safetensors.torch",
        lambda: psd.save(arrays, f.out + ".pth"),
        lambda: safetensors.torch.save_file(f.model, f.out), 1,
    )  # fmt: skip


# ------------------------------------------------------------------ the shell


# Runs a command and tells what it took.  By a small process: what one of ours starts would
# have our own memory as its peak.
_WATCH = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                       file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
used = os.wait4(child, 0)[2]
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def cost(command: list[str]) -> tuple[float, float]:
    """(seconds of CPU, MiB of memory at the most) of a process."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *command], capture_output=True, text=True, check=True
    )
    seconds, most = map(float, done.stdout.split())
    return seconds, most


def shell(path: str, rounds: int) -> None:
    """What starting costs: the command and the import beside Python doing nothing."""
    command = str(pathlib.Path(sys.executable).with_name("pystatedict"))
    commands = {
        "bare": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import pystatedict"],
        "module": [sys.executable, "-m", "pystatedict", "ls", path],
        "command": [command, "ls", path],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(3 * rounds + 1):
        for name, words in commands.items():
            found[name].append(cost(words))
    seconds = {name: median(spent for spent, _ in rows) for name, rows in found.items()}
    most = max(memory for _, memory in found["command"])
    times = {name: seconds[name] / seconds["bare"] for name in commands}
    print(f"| `pystatedict ls`, CPU, in `python -c pass` | {times['command']:.2f} | at most 2 |")
    print(f"| `python -m pystatedict ls`, the same | {times['module']:.2f} | at most 2 |")
    print(f"| `pystatedict ls`, peak memory, MiB | {most:.1f} | at most 20 |")
    more = max(seconds["import"] - seconds["bare"], 0)
    print(f"| `import pystatedict`, CPU over `python -c pass` | {amount(more)} | at most 5 ms |")


# ------------------------------------------------------------------ the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the files are made; a temporary one if not given")
    parser.add_argument("words", nargs="*", metavar="WORD")
    options = parser.parse_args()
    describe()
    made = models(big=not options.small)
    sides = [lines_of_small, lines_of_middle, lines_of_many, lines_of_big]
    print("\n| what | ours | the other | times as fast | wanted | |")
    print("|---|---|---|---|---|---|")
    for lines, (name, model) in zip(sides, made.items(), strict=False):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for line in lines(Files(folder, name.split()[0], model)):
                if options.words and not any(word in line.name for word in options.words):
                    continue
                found = compare({"ours": line.ours, "other": line.other}, options.rounds)
                ours, other = median(found["ours"] or [0]), median(found["other"] or [0])
                ratio = other / ours
                print(
                    f"| {line.name} | {amount(ours)} | {amount(other)} | {ratio:.3g} "
                    f"| {line.wanted:.3g} | {'' if ratio >= line.wanted else 'missed'} |",
                    flush=True,
                )
    if not options.words or "shell" in options.words:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print("\n| from the shell | found | wanted |\n|---|---|---|")
            small = str(pathlib.Path(folder, "small.pth"))
            torch.save(next(iter(made.values())), small)
            shell(small, options.rounds)


if __name__ == "__main__":
    main()
