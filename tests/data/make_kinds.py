# SPDX-License-Identifier: Apache-2.0
"""Make an example file of every kind of tensor with today's torch, and say what is in it.

Run by hand: python tests/data/make_kinds.py
"""

from __future__ import annotations

import os
import pathlib
import pickle
import sys
from typing import Any

import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from describe import describe, write  # noqa: E402

FOLDER = HERE / "kinds" / "tensors"
ROWS: list[dict[str, Any]] = []
LEGACY = {"_use_new_zipfile_serialization": False}


def keep(name: str, obj: Any, legacy: bool = True, pickled: bool = True) -> None:
    """In both containers, and by pickle itself."""
    torch.save(obj, FOLDER / f"{name}.pth")
    ROWS.append({"file": f"{name}.pth", "object": describe(obj)})
    if legacy:
        torch.save(obj, FOLDER / f"{name}.old.pth", **LEGACY)
        ROWS.append({"file": f"{name}.old.pth", "object": describe(obj)})
    if pickled:
        data = pickle.dumps(obj, 4)
        (FOLDER / f"{name}.pkl").write_bytes(data)
        ROWS.append({"file": f"{name}.pkl", "object": describe(pickle.loads(data))})


def small_dtypes() -> dict[str, Any]:
    """Dtypes that go through _rebuild_tensor_v3; torch cannot read them in legacy files."""
    found: dict[str, Any] = {}
    raw = torch.arange(16, dtype=torch.uint8)
    for name in (
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
        "float4_e2m1fn_x2", "uint16", "uint32", "uint64", "complex32", "bits8", "bits16",
        "bits1x8", "bits2x4", "bits4x2",
    ):  # fmt: skip
        dtype = getattr(torch, name)
        empty = torch.empty(0, dtype=dtype)
        found[name] = empty.set_(raw.clone().untyped_storage(), 0, (2,), (1,))
    return found


def quantized() -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    rows, columns = torch.rand(4) + 0.1, torch.rand(6) + 0.1
    by_channel = torch.quantize_per_channel
    q = {
        "quint8": torch.quantize_per_tensor(x, 0.1, 3, torch.quint8),
        "qint8": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "qint32": torch.quantize_per_tensor(x, 0.01, 5, torch.qint32),
        "rows": by_channel(x, rows, torch.arange(4), 0, torch.qint8),
        "columns": by_channel(x, columns, torch.arange(6), 1, torch.quint8),
        "float": by_channel(x, rows, torch.rand(4), 0, torch.quint8),
        "quint4x2": by_channel(x, rows, torch.rand(4), 0, torch.quint4x2),
        "quint2x4": by_channel(x, rows, torch.rand(4), 0, torch.quint2x4),
        "odd": by_channel(x[:, :3], rows, torch.rand(4), 0, torch.quint4x2),
        "empty": torch.quantize_per_tensor(x[:0], 0.5, 1, torch.qint8),
        "one": torch.quantize_per_tensor(x[0, 0], 0.5, 1, torch.qint8),
    }
    q["turned"] = q["quint8"].t()
    q["part"] = q["quint8"][1:3]
    return q


def sparse() -> dict[str, Any]:
    torch.manual_seed(0)
    d = torch.where(torch.rand(6, 8) > 0.6, torch.randn(6, 8), 0.0)
    batch = torch.stack([(d != 0).float(), 2 * (d != 0).float()])
    rows = torch.randn(3, 5)
    return {
        "coo": d.to_sparse(),
        "csr": d.to_sparse_csr(),
        "csc": d.to_sparse_csc(),
        "bsr": d.to_sparse_bsr((2, 4)),
        "bsc": d.to_sparse_bsc((3, 2)),
        "hybrid": torch.sparse_coo_tensor([[0, 2, 0]], rows, (4, 5)),
        "scalar": torch.sparse_coo_tensor(torch.zeros(0, 1).long(), torch.ones(1), ()),
        "batch": batch.to_sparse_csr(dense_dim=0),
        "batch columns": batch.to_sparse_csc(dense_dim=0),
        "batch blocks": batch.to_sparse_bsr((2, 2)),
        "half": d.half().to_sparse(),
        "complex": d.to(torch.complex64).to_sparse_csr(),
        "bool": (d != 0).to_sparse(),
        "int": (10 * d).int().to_sparse(),
        "parameter": nn.Parameter(d.to_sparse()),
        "frozen": nn.Parameter(d.to_sparse_csr(), requires_grad=False),
        "none": torch.zeros(3, 4).to_sparse(),
        "none rows": torch.zeros(3, 4).to_sparse_csr(),
    }


def nested() -> dict[str, Any]:
    parts = [torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3)]
    turned = [torch.arange(6).reshape(3, 2), torch.arange(12).reshape(3, 4)]
    return {
        "strided": torch.nested.nested_tensor(parts),
        "jagged": torch.nested.nested_tensor(parts, layout=torch.jagged),
        "half": torch.nested.nested_tensor([p.half() for p in parts]),
        "other axis": torch.nested.nested_tensor(turned, layout=torch.jagged).transpose(1, 2),
        "narrow": torch.nested.narrow(
            torch.arange(20.0).reshape(2, 5, 2), 1, torch.tensor([0, 1]), torch.tensor([3, 2]),
            layout=torch.jagged,
        ),
    }  # fmt: skip


def meta() -> dict[str, Any]:
    return {
        "w": torch.empty(2, 3, device="meta").t(),
        "p": nn.Parameter(torch.empty(2, dtype=torch.bfloat16, device="meta")),
        "frozen": nn.Parameter(torch.empty((), device="meta"), requires_grad=False),
    }


def lazy() -> dict[str, Any]:
    z = torch.complex(torch.arange(6.0), -torch.arange(6.0)).reshape(2, 3)
    return {
        "z": z,
        "conj": z.conj(),
        "part": z.conj()[:, 1:],
        "neg": z.clone().conj().imag,
        "both": torch._neg_view(z.conj()),
        "negative": torch._neg_view(torch.arange(3.0)),
    }


class Marked(torch.Tensor):
    """A subclass that adds nothing but its name and attributes."""


class Scaled(torch.Tensor):
    """A wrapper: what it shows is made of two tensors inside."""

    INNER = ("values", "factor")

    @staticmethod
    def __new__(cls, values: Any, factor: Any) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)
        made.values, made.factor = values, factor
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].factor)
        raise NotImplementedError(function)


def subclasses() -> dict[str, Any]:
    marked = torch.arange(3.0).as_subclass(Marked)
    marked.note = "kept"
    parameter = nn.Parameter(torch.ones(2), requires_grad=False)
    parameter.rank = 4
    return {
        "marked": marked,
        "with attributes": parameter,
        "buffer": nn.Buffer(torch.ones(2)),
        "wrapper": Scaled(torch.tensor([1, 2], dtype=torch.int8), torch.tensor(0.5)),
    }


def distributed() -> dict[str, Any]:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
    dist.init_process_group("gloo", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    x = torch.arange(6.0).reshape(2, 3)
    made = {
        "sharded": distribute_tensor(x, mesh, [Shard(0)]),
        "copied": distribute_tensor(x.clone(), mesh, [Replicate()]),
    }
    keep("dtensor", made, pickled=False)
    dist.destroy_process_group()
    return made


def storages() -> dict[str, Any]:
    shared = torch.arange(4.0)
    return {
        "typed": torch.arange(3).storage(),
        "untyped": torch.arange(4, dtype=torch.uint8).untyped_storage(),
        "of a tensor": shared.storage(),
        "tensor": shared[1:3],
    }


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    keep("small_dtypes", small_dtypes(), legacy=False, pickled=False)
    keep("quantized", quantized())
    keep("sparse", sparse(), pickled=False)
    keep("nested", nested(), pickled=False)
    keep("meta", meta(), pickled=False)
    keep("lazy", lazy())
    keep("subclasses", subclasses(), pickled=False)
    keep("storages", storages(), legacy=False, pickled=False)
    distributed()
    told = {"torch": torch.__version__.split("+")[0], "files": ROWS}
    write(str(HERE / "kinds" / "tensors.json"), told)


if __name__ == "__main__":
    main()
