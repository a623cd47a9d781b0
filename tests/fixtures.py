# SPDX-License-Identifier: Apache-2.0
"""Hold what we load against what torch said of it: see data/describe.py for the words."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

DATA = pathlib.Path(__file__).resolve().parent / "data"


def rows_in(pattern: str) -> list[dict[str, Any]]:
    """What is said in the JSON files of tests/data: one row a checkpoint, with its path."""
    rows = []
    for said in sorted(DATA.glob(pattern)):
        told = json.loads(said.read_text(encoding="utf-8"))
        for row in told["files"]:
            path = said.with_suffix("") / row["file"]
            rows.append({**row, "path": path, "torch": told["torch"]})
    return rows


def name_of(row: dict[str, Any]) -> str:
    return f"{row['path'].parent.name}/{row['file']}"


@contextlib.contextmanager
def expected_warning(row: dict[str, Any]) -> Iterator[None]:
    """The warning that a row speaks of, or none."""
    text = "parentheses" if "method" in row["object"] else row.get("warns")
    if text is None:
        yield
    else:
        with pytest.warns(psd.StateDictWarning, match=text):
            yield


def dtype_of(value: Any) -> str:
    if isinstance(value, (psd.TensorInfo, psd.QuantizedTensor, psd.SparseTensor, psd.NestedTensor)):
        return str(value.dtype)
    if value.dtype.names == ("real", "imag"):
        return "complex32"
    return str((value.dtype.metadata or {}).get("torch_dtype", value.dtype.name))


def same_bytes(array: np.ndarray, said: dict[str, Any], where: str) -> None:
    data = kit.bits(array)
    if "hex" in said:
        assert data.hex() == said["hex"], where
    else:
        assert hashlib.sha256(data).hexdigest() == said["sha256"], where


def stride_of(told: dict[str, Any]) -> list[int]:
    """Those of a dense tensor in C order are not told."""
    strides, step = [], 1
    for size in reversed(told["shape"]):
        strides.insert(0, step)
        step *= max(size, 1)
    return told.get("stride", strides)


class Check:
    """One object against what torch said of it."""

    def __init__(self) -> None:
        self.starts: dict[int, int] = {}  # number of a storage: where it begins
        self.tensors = 0

    def finish(self) -> None:
        assert len(set(self.starts.values())) == len(self.starts), "storages were made one"

    def value(self, obj: Any, said: dict[str, Any], where: str = "") -> None:
        (kind, told) = next(iter(said.items()))
        getattr(self, f"_{kind}")(obj, said if kind in ("d", "method") else told, where)

    # ------------------------------------------------------------------ containers

    def _d(self, obj: Any, said: dict[str, Any], where: str) -> None:
        assert isinstance(obj, dict), f"{where}: {type(obj)}"
        assert [self._key(k) for k in obj] == [k for k, _ in said["d"]], where
        for (key, value), (_, told) in zip(obj.items(), said["d"], strict=True):
            self.value(value, told, f"{where}.{key}")
            if "t" in told and isinstance(obj, psd.StateDict):
                assert obj.trainable[key] == told["t"].get("requires_grad"), f"{where}.{key}"
        if "metadata" in said:
            assert dict(obj.metadata) == said["metadata"], where

    def _key(self, key: Any) -> Any:
        return key.qualified_name if isinstance(key, psd.Opaque) else key

    def _l(self, obj: Any, told: list[Any], where: str) -> None:
        assert type(obj) is list, where
        self._parts(obj, told, where)

    def _u(self, obj: Any, told: list[Any], where: str) -> None:
        assert isinstance(obj, tuple), where
        self._parts(obj, told, where)

    def _parts(self, obj: Any, told: list[Any], where: str) -> None:
        assert len(obj) == len(told), where
        for index, (value, part) in enumerate(zip(obj, told, strict=True)):
            self.value(value, part, f"{where}.{index}")

    # ------------------------------------------------------------------ plain values

    def _v(self, obj: Any, told: Any, where: str) -> None:
        assert type(obj) is type(told), f"{where}: {obj!r} is {told!r}"
        same = isinstance(told, float) and math.isnan(told) and math.isnan(obj)
        assert same or obj == told, where

    def _r(self, obj: Any, told: str, where: str) -> None:
        assert str(tuple(obj) if isinstance(obj, tuple) else obj) == told, where

    def _o(self, obj: Any, told: str, where: str) -> None:
        kind = type(obj)
        name = f"{kind.__module__}.{kind.__qualname__}"
        found = obj.qualified_name if isinstance(obj, psd.Opaque) else name
        assert found.split(".")[-1] == told.split(".")[-1], where

    def _a(self, obj: Any, told: dict[str, Any], where: str) -> None:
        assert isinstance(obj, np.ndarray), where
        assert (obj.dtype.name, obj.tolist()) == (told["dtype"], told["values"]), where

    # ------------------------------------------------------------------ tensors

    def _t(self, obj: Any, told: dict[str, Any], where: str) -> None:
        self.tensors += 1
        assert dtype_of(obj) == told["dtype"], where
        assert list(obj.shape) == told["shape"], where
        if told.get("meta"):
            assert isinstance(obj, psd.TensorInfo), where
            assert obj.is_meta, where
            assert list(obj.stride) == stride_of(told), where
            return
        assert isinstance(obj, np.ndarray), f"{where}: {type(obj)}"
        same_bytes(obj, told, where)
        if obj.size == 0 or told["storage"] is None:
            return
        for size, mine, theirs in zip(obj.shape, obj.strides, stride_of(told), strict=True):
            assert size < 2 or mine == theirs * obj.itemsize, where
        start = kit.address(obj) - told.get("offset", 0) * obj.itemsize
        assert self.starts.setdefault(told["storage"], start) == start, where

    def _s(self, obj: Any, told: dict[str, Any], where: str) -> None:
        self.tensors += 1
        assert isinstance(obj, psd.SparseTensor), where
        assert (obj.layout, obj.dtype) == (told["layout"], told["dtype"]), where
        assert list(obj.shape) == told["shape"], where
        assert set(obj.parts) == set(told["parts"]), where
        for name, part in told["parts"].items():
            assert dtype_of(obj.parts[name]) == part["dtype"], where
            assert list(obj.parts[name].shape) == part["shape"], where
            same_bytes(obj.parts[name], part, where)
        same_bytes(obj.to_dense(), told["dense"], where)
        # What state_dict() detaches is a Parameter in the module still.
        assert obj.is_parameter or not told.get("parameter"), where

    def _q(self, obj: Any, told: dict[str, Any], where: str) -> None:
        self.tensors += 1
        assert isinstance(obj, psd.QuantizedTensor), where
        assert obj.dtype == told["dtype"], where
        assert list(obj.shape) == told["shape"], where
        assert obj.qscheme == told["scheme"], where
        same_bytes(obj.dequantize(), told["values"], where)
        if "integers" in told:
            same_bytes(obj.array, told["integers"], where)

    def _n(self, obj: Any, told: dict[str, Any], where: str) -> None:
        self.tensors += 1
        assert isinstance(obj, psd.NestedTensor), where
        assert (obj.layout, obj.dtype) == (told["layout"], told["dtype"]), where
        parts = list(obj)
        assert len(parts) == len(told["parts"]), where
        for part, said in zip(parts, told["parts"], strict=True):
            assert list(part.shape) == said["shape"], where
            same_bytes(part, said, where)

    def _w(self, obj: Any, told: dict[str, Any], where: str) -> None:
        self.tensors += 1
        assert isinstance(obj, psd.TensorSubclass), f"{where}: {type(obj)}"
        assert obj.type.split(".")[-1] == told["class"].split(".")[-1], where
        assert (obj.dtype, list(obj.shape)) == (told["dtype"], told["shape"]), where
        assert set(obj.inner) == set(told["inner"]), where
        for name, inner in told["inner"].items():
            self.value(obj.inner[name], inner, f"{where}.{name}")

    # ------------------------------------------------------------------ modules

    def _m(self, obj: Any, told: dict[str, Any], where: str) -> None:
        assert isinstance(obj, psd.OpaqueModule), f"{where}: {type(obj)}"
        self._module(obj.state_dict(), told, where)

    def _method(self, obj: Any, said: dict[str, Any], where: str) -> None:
        self._m(obj, said["of"]["m"], where)
        assert obj.args[1] == said["method"]

    def _module(self, sd: Any, told: dict[str, Any], where: str) -> None:
        self._entries(sd, told["state_dict"], where)
        values = dict(told["state_dict"]["d"])
        for name, flag in told["trainable"].items():
            if "o" in values[name]:
                continue  # of no shape and bytes as yet
            assert sd.trainable[name] is flag, f"{where}.{name}"

    def _entries(self, sd: Any, said: dict[str, Any], where: str) -> None:
        """As any dict, but the flags, which a state_dict() of torch has lost."""
        assert isinstance(sd, psd.StateDict), where
        assert list(sd) == [name for name, _ in said["d"]], where
        for name, told in said["d"]:
            self.value(sd[name], told, f"{where}.{name}")
        assert dict(sd.metadata or {}) == said.get("metadata", {}), where


def check(obj: Any, said: dict[str, Any]) -> None:
    checked = Check()
    checked.value(obj, said)
    checked.finish()


def check_state_dict(sd: Any, said: dict[str, Any]) -> None:
    """A state_dict, or the one of a module or of a method of one."""
    checked = Check()
    if "d" in said:
        checked._entries(sd, said, "")
    else:
        checked._module(sd, said["of"]["m"] if "method" in said else said["m"], "")
    checked.finish()


# ------------------------------------------------------------------ names, as open() lists them


def listed(said: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(dotted name, what is said) of every tensor that is reached by keys."""
    kind, told = next(iter(said.items()))
    if kind in "tsqnw" and len(kind) == 1:
        yield ".".join(path), said
    elif kind == "d":
        for key, value in told:
            yield from listed(value, (*path, str(key)))
    elif kind in ("l", "u"):
        for index, value in enumerate(told):
            yield from listed(value, (*path, str(index)))
    elif kind == "m":
        yield from listed(told["state_dict"], path)
    elif kind == "method":
        yield from listed(said["of"], path)


def untold(said: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of what torch tells nothing of: its script objects, whose tensors we list."""
    kind, told = next(iter(said.items()))
    if kind == "o":
        yield ".".join(path)
    elif kind == "d":
        for key, value in told:
            yield from untold(value, (*path, str(key)))
    elif kind == "m":
        yield from untold(told["state_dict"], path)


def check_listing(checkpoint: Any, said: dict[str, Any]) -> None:
    names = dict(listed(said))
    more = tuple(f"{name}." for name in untold(said))
    assert [name for name in checkpoint if not name.startswith(more)] == list(names)
    for name, told in names.items():
        info = checkpoint[name]
        kind, facts = next(iter(told.items()))
        assert info.dtype == facts["dtype"], name
        if kind != "n":
            assert list(info.shape) == facts["shape"], name
        if kind == "t":
            assert list(info.stride) == stride_of(facts), name
            assert info.is_meta == facts.get("meta", False), name
