# SPDX-License-Identifier: Apache-2.0
"""How many instructions the core takes, a tensor: figures that no busy machine can blur.

    python benchmarks/instructions.py [--update]

Compiles the core, has callgrind count one run of each road over a file of 2,000 tensors, and
compares with what stands in `instructions.json`.  Exits 1 if a road takes more than a tenth
above that; with another compiler than the figures were made with, it only tells them.
--update writes the figures of this machine.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

import pystatedict as psd

ROOT = pathlib.Path(__file__).resolve().parents[1]
STORED = ROOT / "benchmarks" / "instructions.json"
TENSORS = 2000
MARGIN = 1.10

#: What is counted: the file's format, whether it is written again, and the functions.
ROADS = {
    "open": ("zip", False, ("psd_archive_open", "psd_archive_run")),
    "open legacy": ("legacy", False, ("psd_archive_open", "psd_archive_run")),
    "save": ("zip", True, ("psd_archive_write",)),
}


def compiler() -> str:
    return subprocess.run(
        ["gcc", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]


def build(folder: pathlib.Path) -> pathlib.Path:
    program = folder / "count_core"
    core = ROOT / "csrc" / "core"
    sources = [ROOT / "benchmarks" / "count_core.c", *sorted(core.glob("*.c"))]
    subprocess.run(
        ["gcc", "-std=c11", "-O3", f"-I{core}", *map(str, sources), "-lm", "-o", str(program)],
        check=True,
    )
    return program


def count(program: pathlib.Path, file: pathlib.Path, save: bool, functions: tuple[str, ...]) -> int:
    """Instructions of these functions and of all that they call."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={file}.callgrind"]
    command += [f"--toggle-collect={function}" for function in functions]
    command += [str(program), str(file), *(["save"] if save else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return int(found[1])


def figures() -> dict[str, int]:
    """Instructions a tensor, by road."""
    model = {f"blocks.{i}.weight": np.full((8, 8), i, "f4") for i in range(TENSORS)}
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        program = build(folder)
        for format in ("zip", "legacy"):
            psd.save(model, folder / f"{format}.pth", format=format)
        for road, (format, save, functions) in ROADS.items():
            total = count(program, folder / f"{format}.pth", save, functions)
            found[road] = round(total / TENSORS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    found = figures()
    if options.update:
        stored = {"compiler": compiler(), "instructions a tensor": found}
        STORED.write_text(json.dumps(stored, indent=4) + "\n", encoding="utf-8")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    same = stored["compiler"] == compiler()
    failed = False
    for road, now in found.items():
        before = stored["instructions a tensor"][road]
        more = same and now > MARGIN * before
        failed = failed or more
        print(f"{road}: {now:,} instructions a tensor, {before:,} stored{' !' if more else ''}")
    if not same:
        print(f"not compared: the figures are those of {stored['compiler']}")
    if failed:
        sys.exit("more than a tenth above what is stored; if it is worth it: --update")


if __name__ == "__main__":
    main()
