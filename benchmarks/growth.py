# SPDX-License-Identifier: Apache-2.0
"""How opening grows: time and memory of 1,000 to 1,000,000 tensors, a process each.

    python benchmarks/growth.py [--most N] [--folder DIR]

Files are made by save().  The memory is what the process takes more than it had before it
opened the file; the mapped bytes of the directory and the pickle are in it.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import pystatedict as psd

OPENING = """
import re, sys, time
import pystatedict as psd
def most():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])
def names(path):
    with psd.open(path) as checkpoint:
        return len(checkpoint)
names(sys.argv[1])  # what is imported on first use, and the allocator's first pages
before, start = most(), time.perf_counter()
count = names(sys.argv[2])
print(count, time.perf_counter() - start, (most() - before) * 1024)
"""
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the files are made; a temporary one if not given")
    options = parser.parse_args()
    print("| tensors | file | opened and listed in | a tensor | memory | a tensor |")
    print("|---|---|---|---|---|---|")
    count = 1000
    while count <= options.most:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path, small = pathlib.Path(folder, "model.pth"), pathlib.Path(folder, "small.pth")
            psd.save({"w": np.zeros(1, "f4")}, small)
            psd.save({f"blocks.{i}.weight": np.zeros((8, 8), "f4") for i in range(count)}, path)
            rows = []
            for _ in range(ROUNDS):
                done = subprocess.run(
                    [sys.executable, "-c", OPENING, str(small), str(path)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                rows.append([float(word) for word in done.stdout.split()])
            assert rows[0][0] == count
            seconds = min(row[1] for row in rows)
            memory = min(row[2] for row in rows)
            print(
                f"| {count:,} | {path.stat().st_size / 1e6:,.1f} MB | {seconds * 1e3:,.1f} ms "
                f"| {seconds / count * 1e6:.2f} µs | {memory / 1e6:,.1f} MB "
                f"| {memory / count:,.0f} bytes |",
                flush=True,
            )
        count *= 10


if __name__ == "__main__":
    main()
