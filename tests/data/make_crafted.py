# SPDX-License-Identifier: Apache-2.0
"""Make example files of forms that no torch at hand writes: by the format's facts.

Run by hand: python tests/data/make_crafted.py.  What is in them is said by today's torch,
which still reads them.
"""

from __future__ import annotations

import collections
import copyreg
import io
import pathlib
import pickle
import struct
import sys
import tarfile
from typing import Any

import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from describe import describe, write  # noqa: E402

FOLDER = HERE / "kinds" / "crafted"
ROWS: list[dict[str, Any]] = []


def keep(name: str, data: bytes) -> None:
    path = FOLDER / name
    path.write_bytes(data)
    ROWS.append({"file": name, "object": describe(torch.load(path, weights_only=False))})


# ------------------------------------------------------------------ the tar of 0.1.x


class Number:
    """A persistent id of the tar: a number in decimal."""

    def __init__(self, number: int) -> None:
        self.number = number


class Made:
    """The result of a call, with a state, as pickle tells of one."""

    def __init__(self, function: Any, args: tuple[Any, ...], state: Any) -> None:
        self.told = (function, args, state)

    def __reduce__(self) -> Any:
        return self.told


class TarPickler(pickle._Pickler):
    told: frozenset[Any] = frozenset()  # classes whose source was told: once each

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, type) and issubclass(obj, torch.nn.Module) and obj not in self.told:
            self.told |= {obj}
            return (obj, "linear.py", "class Linear:\n    pass\n")
        return str(obj.number) if isinstance(obj, Number) else None


def tar_program(obj: Any) -> bytes:
    program = io.BytesIO()
    TarPickler(program, 2).dump(obj)
    return program.getvalue()


def tar_tensor(key: int, storage: int | None, kind: Any, shape: Any, strides: Any, offset: int):
    """As torch 0.1 wrote it: the second half of the rank's word is what memory held."""
    told = pickle.dumps((key, storage, kind), 2)
    sizes = struct.pack(f"<{2 * len(shape)}q", *shape, *strides)
    return told + struct.pack("<ii", len(shape), 12345) + sizes + struct.pack("<q", offset)


def old_module() -> Made:
    """A layer as torch 0.1 had it: few attributes, and Parameters of that time."""
    ordered = collections.OrderedDict
    parameters = ordered()
    for name, number, trained in (("weight", 101, True), ("bias", 103, False)):
        hooks = ordered()
        parameters[name] = Made(torch.nn.Parameter, (Number(number),), (trained, False, hooks))
    state = {
        "_parameters": parameters, "_buffers": ordered(), "_modules": ordered(),
        "_backward_hooks": ordered(), "_forward_hooks": ordered(), "training": True,
        "_backend": None, "in_features": 3, "out_features": 2,
    }  # fmt: skip
    return Made(copyreg._reconstructor, (torch.nn.Linear, object, None), state)


def tar(obj: Any) -> bytes:
    stored = [
        (1, torch.FloatStorage, torch.arange(6.0)),
        (3, torch.ByteStorage, torch.arange(3, dtype=torch.uint8)),
    ]
    storages = pickle.dumps(len(stored), 2)
    for key, kind, values in stored:
        storages += pickle.dumps((key, "cpu", kind), 2)
        storages += struct.pack("<q", values.numel()) + values.numpy().tobytes()
    storages += pickle.dumps([(11, 1, 2, 3)], 2)  # a view: three elements from the second on
    tensors = [
        tar_tensor(101, 1, torch.FloatTensor, (2, 3), (3, 1), 0),
        tar_tensor(102, 1, torch.FloatTensor, (3, 2), (1, 3), 0),
        tar_tensor(103, 11, torch.FloatTensor, (2,), (1,), 1),
        tar_tensor(104, 3, torch.ByteTensor, (3,), (1,), 0),
    ]
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "pickle": tar_program(obj),
        "tensors": pickle.dumps(len(tensors), 2) + b"".join(tensors),
        "storages": storages,
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file.getvalue()


# ------------------------------------------------------------------ the first streams

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
HEAD = MAGIC + pickle.dumps(1001, 2) + pickle.dumps(SYSTEM, 2)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def storage(key: str, kind: str, count: int, view: bytes = b"N") -> bytes:
    parts = text("storage") + named("torch", kind) + text(key) + text("cpu") + number(count)
    return b"(" + parts + view + b"tQ"


def stream(pairs: dict[str, bytes], storages: dict[str, bytes]) -> bytes:
    body = b"\x80\x02}(" + b"".join(text(k) + v for k, v in pairs.items()) + b"u."
    tail = pickle.dumps(sorted(storages), 2)
    return HEAD + body + tail + b"".join(storages[key] for key in sorted(storages))


def first_stream() -> bytes:
    floats = storage("10", "FloatStorage", 6)
    longs = storage("20", "LongStorage", 3)
    view = storage("10", "FloatStorage", 6, b"(" + text("11") + number(2) + number(3) + b"t")
    ordered = named("collections", "OrderedDict") + b")R"
    built = named("torch", "FloatTensor") + b")R(" + floats + number(0) + numbers(2, 3)
    built += numbers(3, 1) + b"tb"
    plain = named("torch._utils", "_rebuild_tensor") + b"(" + floats + number(1)
    plain += numbers(2, 2) + numbers(1, 2) + b"tR"
    of_view = named("torch._utils", "_rebuild_tensor") + b"(" + view + number(1)
    of_view += numbers(2) + numbers(1) + b"tR"
    integers = named("torch._utils", "_rebuild_tensor") + b"(" + longs + number(0)
    integers += numbers(3) + numbers(1) + b"tR"
    parameter = named("torch.nn.parameter", "Parameter") + b"(" + plain + b"tR("
    parameter += b"\x89\x89" + ordered + b"tb"  # requires_grad, volatile, hooks
    pairs = {
        "built": built,
        "plain": plain,
        "view": of_view,
        "integers": integers,
        "parameter": parameter,
    }
    data = torch.arange(6.0).numpy().tobytes(), torch.arange(3).numpy().tobytes()
    held = {"10": struct.pack("<q", 6) + data[0], "20": struct.pack("<q", 3) + data[1]}
    return stream(pairs, held)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    values = {
        "w": Number(101), "turned": Number(102), "part": Number(103), "bytes": Number(104),
        "epoch": 3, "names": ["a", "b"],
    }  # fmt: skip
    keep("ancient.tar", tar(values))
    keep("ancient_model.tar", tar(old_module()))
    keep("first_stream.pth", first_stream())
    write(str(HERE / "kinds" / "crafted.json"), {"torch": "0.1", "files": ROWS})


if __name__ == "__main__":
    main()
