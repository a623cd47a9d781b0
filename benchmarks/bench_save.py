# SPDX-License-Identifier: Apache-2.0
"""How long saving takes, beside torch and safetensors, in one interleaved run.

    python benchmarks/bench_save.py [--big] [--rounds N] [--folder DIR]

Give a folder in memory (/dev/shm) to leave the disk out of it.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable

import safetensors.numpy
import safetensors.torch
import torch
from measure import compare, describe, models, show

import pystatedict as psd


def ways(model: dict[str, torch.Tensor], folder: str) -> dict[str, Callable[[], object]]:
    """Each way to write all tensors; every one to a file of its own."""
    torch.save(model, pathlib.Path(folder, "source.pth"))
    arrays = psd.load(pathlib.Path(folder, "source.pth"), copy=True)

    def path(name: str) -> str:
        return str(pathlib.Path(folder, name))

    return {
        "torch.save": lambda: torch.save(model, path("torch.pth")),
        "safetensors.numpy.save_file": lambda: safetensors.numpy.save_file(
            dict(arrays), path("numpy.safetensors")
        ),
        "safetensors.torch.save_file": lambda: safetensors.torch.save_file(
            model, path("torch.safetensors")
        ),
        "pystatedict.save": lambda: psd.save(arrays, path("ours.pth")),
        "pystatedict.save(checksum=False)": lambda: psd.save(
            arrays, path("unchecked.pth"), checksum=False
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the files are made; a temporary one if not given")
    options = parser.parse_args()
    describe()
    for title, model in models(options.big).items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            show(title, compare(ways(model, folder), options.rounds), "torch.save")


if __name__ == "__main__":
    main()
