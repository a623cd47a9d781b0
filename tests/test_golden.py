# SPDX-License-Identifier: Apache-2.0
"""Small files that real torch wrote, with what torch says is in them: no torch needed.

tests/data/make.py makes both.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import pystatedict as psd

DATA = pathlib.Path(__file__).resolve().parent / "data"
FILES = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))["files"]


@pytest.fixture(params=FILES, ids=lambda row: row["file"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    row: dict[str, Any] = request.param
    return row


def at(obj: Any, path: list[Any]) -> Any:
    for key in path:
        obj = obj[key]
    return obj


def bytes_of(array: np.ndarray[Any, Any]) -> str:
    return np.ascontiguousarray(array).tobytes().hex()


def check(obj: Any, row: dict[str, Any]) -> None:
    starts: dict[int, int] = {}
    for expected in row["tensors"]:
        array = at(obj, expected["path"])
        where = f"{row['file']}: {expected['path']}"
        assert array.dtype.name == expected["dtype"], where
        assert list(array.shape) == expected["shape"], where
        assert bytes_of(array) == expected["bytes"], where
        # Values of conj and neg bits are resolved, into memory of their own.
        if array.size > 0 and row["file"] != "bits.pth":
            assert [s // array.itemsize for s in array.strides] == expected["stride"], where
            start = array.ctypes.data - expected["storage_offset"] * array.itemsize
            assert starts.setdefault(expected["storage"], start) == start, where
    assert len(set(starts.values())) == len(starts)
    for expected in row["others"]:
        found = at(obj, expected["path"])
        assert found == expected["value"], f"{row['file']}: {expected['path']}"


def test_load(golden: dict[str, Any]) -> None:
    check(psd.load(DATA / golden["file"], verify=True), golden)


def test_load_then_save_then_load(golden: dict[str, Any], tmp_path: pathlib.Path) -> None:
    psd.save(psd.load(DATA / golden["file"]), tmp_path / "again.pth")
    check(psd.load(tmp_path / "again.pth", verify=True), golden)


def test_open(golden: dict[str, Any]) -> None:
    """The lazy door tells the same, from the pickle alone."""
    with psd.open(DATA / golden["file"]) as checkpoint:
        infos = list(checkpoint.values())
    assert len(infos) == len(golden["tensors"])
    keys: dict[str, int] = {}
    for info, expected in zip(infos, golden["tensors"], strict=True):
        where = f"{golden['file']}: {expected['path']}"
        assert info.dtype == expected["dtype"], where
        assert list(info.shape) == expected["shape"], where
        assert list(info.stride) == expected["stride"], where
        assert info.storage_offset == expected["storage_offset"], where
        # One key a storage, and one storage a key.
        assert keys.setdefault(info.storage, expected["storage"]) == expected["storage"], where
        flag = expected["requires_grad"] if expected["parameter"] else None
        assert info.requires_grad in {flag, expected["requires_grad"] or None}, where
    assert len(set(keys.values())) == len(keys)


def test_metadata(golden: dict[str, Any]) -> None:
    found = psd.load(DATA / golden["file"])
    if golden["metadata"] is None:
        assert getattr(found, "metadata", None) is None
    else:
        assert dict(found.metadata) == golden["metadata"]


def test_tied_weights_share_memory() -> None:
    tied = psd.load(DATA / "tied.pth")
    tied["a.weight"][0, 0] = 42
    assert tied["b.weight"][0, 0] == 42


def test_parameters_tell_their_flags() -> None:
    flags = dict(psd.load(DATA / "keep_vars.pth").trainable)
    assert flags["0.weight"] is False
    assert flags["0.bias"] is True
    assert flags["1.running_mean"] is None
    assert set(dict(psd.load(DATA / "state_dict.pth").trainable).values()) == {None}
