# SPDX-License-Identifier: Apache-2.0
"""How long loading takes, beside torch and safetensors, in one interleaved run.

    python benchmarks/bench_load.py [--big] [--touch] [--rounds N] [--folder DIR]

Files are made by torch and lie in the page cache.  --touch sums every tensor, so
that mapped bytes are read too; --big adds 2.2 GB of bfloat16.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from measure import compare, describe, models, show

import pystatedict as psd


def touch(state_dict: dict[str, Any]) -> int:
    """Read every byte once."""
    total = 0
    for tensor in state_dict.values():
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.view(torch.uint8).numpy() if tensor.ndim else tensor.numpy()
        total += int(np.bitwise_xor.reduce(tensor.reshape(-1).view(np.uint8)))
    return total


def ways(pth: str, plain: str, after: Callable[[Any], object]) -> dict[str, Callable[[], object]]:
    """Each way to get a dict of all tensors."""

    def listing() -> None:
        with psd.open(pth) as checkpoint:
            len(checkpoint)

    found: dict[str, Callable[[], object]] = {
        "torch.load": lambda: after(torch.load(pth, weights_only=True)),
        "torch.load(mmap=True)": lambda: after(torch.load(pth, weights_only=True, mmap=True)),
        "safetensors.numpy.load_file": lambda: after(safetensors.numpy.load_file(plain)),
        "safetensors.torch.load_file": lambda: after(safetensors.torch.load_file(plain)),
        "pystatedict.load": lambda: after(psd.load(pth)),
        "pystatedict.load(copy=True)": lambda: after(psd.load(pth, copy=True)),
        "pystatedict.load(verify=True)": lambda: after(psd.load(pth, verify=True)),
        "pystatedict.open": listing,
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--touch", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the files are made; a temporary one if not given")
    options = parser.parse_args()
    describe()
    after: Callable[[Any], object] = touch if options.touch else (lambda _: None)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for title, model in models(options.big).items():
            pth = str(pathlib.Path(folder, "model.pth"))
            plain = str(pathlib.Path(folder, "model.safetensors"))
            torch.save(model, pth)
            safetensors.torch.save_file(model, plain)
            show(title, compare(ways(pth, plain, after), options.rounds), "torch.load")


if __name__ == "__main__":
    main()
