# SPDX-License-Identifier: Apache-2.0
"""Make the example files with real torch.  Run by hand: python tests/data/make.py

Nothing here uses pystatedict: these files are what torch writes, and the sidecar
is what a torch user writes who has only the README's few lines.
"""

from __future__ import annotations

import collections
import hashlib
import json
import pathlib
import zipfile
from typing import Any

import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]


class MLP(nn.Module):
    """The tutorial's network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(6, 512), nn.ReLU())
        self.fc2 = nn.Sequential(nn.Linear(512, 128), nn.ReLU())
        self.fc_final = nn.Linear(128, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc_final(self.fc2(self.fc1(x)))


def save_flags(model: nn.Module, path: str) -> None:
    """Write the trainable flags of `model` beside the checkpoint at `path`."""
    records = sorted(
        (i.filename.split("/", 1)[1], i.CRC, i.file_size) for i in zipfile.ZipFile(path).infolist()
    )
    lines = "".join(f"{name}\t{crc:08x}\t{size}\n" for name, crc, size in records)
    sidecar = {
        "format": "pystatedict.trainable",
        "version": 1,
        "checkpoint": {
            "name": pathlib.Path(path).name,
            "bytes": pathlib.Path(path).stat().st_size,
            "records_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        },
        "trainable": {
            n: p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)
        },
        "buffers": [n for n, _ in model.named_buffers(remove_duplicate=False)],
        "writer": f"torch {torch.__version__.split('+')[0]}",
    }
    text = json.dumps(sidecar, indent=2, sort_keys=True) + "\n"
    pathlib.Path(path + ".trainable.json").write_text(text, encoding="utf-8")


def of_bytes(dtype: torch.dtype, count: int) -> torch.Tensor:
    """`count` elements with all sorts of bits, none of them a NaN or a third boolean."""
    raw = torch.arange(count * dtype.itemsize) * 37 % 120
    if dtype is torch.bool:
        raw %= 2
    return raw.to(torch.uint8).view(dtype)


def golden() -> dict[str, Any]:
    """name -> what is saved; small, and each for one side of the format."""
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32)
    grid = base.view(4, 6)
    views = {
        "whole": base,
        "grid": grid,
        "transposed": grid.t(),
        "middle": grid[1:3, 2:5],
        "strided": base[1::5],
        "scalar": base[7],
        "expanded": base[3:4].expand(2, 3),
        "empty": base[:0].view(0, 5),
        "apart": torch.tensor([1.5]),
    }
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(model[1].parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    tied = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    tied["b"].weight = tied["a"].weight
    z = torch.tensor([1 + 2j, 3 - 4j])
    return {
        "dtypes": {name: of_bytes(getattr(torch, name), 4) for name in DTYPES},
        "views": views,
        "state_dict": model.state_dict(),
        "keep_vars": model.state_dict(keep_vars=True),
        "tied": tied.state_dict(),
        "training": {
            "epoch": 3,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [0.5, 0.25],
            "names": ("a", "b"),
        },
        "bits": {
            "conj": z.conj(),
            "neg": z.clone().conj().imag,
            "grad": torch.ones(2, requires_grad=True),
        },
        "names": {"": torch.ones(1), "a.b": torch.ones(1), "é\n": torch.ones(1)},
    }


def described(tensor: torch.Tensor, storages: dict[int, int]) -> dict[str, Any]:
    """What a reader must find, with nothing of a file in it."""
    storage = tensor.untyped_storage().data_ptr()
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "storage_offset": tensor.storage_offset(),
        "storage": storages.setdefault(storage, len(storages)),
        "parameter": isinstance(tensor, nn.Parameter),
        "requires_grad": tensor.requires_grad,
        "bytes": plain.reshape(-1).view(torch.uint8).numpy().tobytes().hex(),
    }


def walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in walk(v, (*path, k))]
    if isinstance(value, (list, tuple)):
        return [found for k, v in enumerate(value) for found in walk(v, (*path, k))]
    return [(path, value)]


def make_golden() -> None:
    expected = []
    for name, obj in golden().items():
        torch.save(obj, HERE / f"{name}.pth")
        storages: dict[int, int] = {}
        tensors, others = [], []
        for path, value in walk(obj):
            if isinstance(value, torch.Tensor):
                tensors.append({"path": path, **described(value, storages)})
            else:
                others.append({"path": path, "value": value})
        metadata = getattr(obj, "_metadata", None)
        expected.append(
            {
                "file": f"{name}.pth",
                "tensors": tensors,
                "others": others,
                "metadata": None if metadata is None else collections.OrderedDict(metadata),
            }
        )
    rows = ",\n".join(json.dumps(row) for row in expected)
    version = torch.__version__.split("+")[0]
    text = f'{{"torch": "{version}", "files": [\n{rows}\n]}}\n'
    (HERE / "expected.json").write_text(text, encoding="utf-8")


def make_example() -> None:
    torch.manual_seed(0)
    model = MLP()
    model.fc1.requires_grad_(False)
    path = str(EXAMPLES / "tutorial.pth")
    torch.save(model.state_dict(), path)
    save_flags(model, path)


if __name__ == "__main__":
    make_example()
    make_golden()
