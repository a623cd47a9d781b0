# SPDX-License-Identifier: Apache-2.0
"""save(..., format="legacy"): the stream of torch before 1.6, by the standard library and us."""

from __future__ import annotations

import io
import pathlib
import pickle
import struct
from collections import OrderedDict
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import pystatedict as psd

#: dtypes of which a storage class tells, so that a stream can hold them
HELD = [d for d in kit.NUMPY_DTYPES if d.name not in ("uint16", "uint32", "uint64")]
HELD = [*HELD, np.dtype(ml_dtypes.bfloat16)]
NOT_HELD = [d for d in kit.DTYPES if d not in HELD]

SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def legacy(obj: Any, **options: Any) -> bytes:
    return kit.saved(obj, format="legacy", **options)


def there_and_back(obj: Any) -> Any:
    return psd.load(bytearray(legacy(obj)))


# ------------------------------------------------------------------ by the standard library


class _Stream(pickle.Unpickler):
    """One pickle of a stream, classes and calls as tuples."""

    def find_class(self, module: str, name: str) -> Any:
        return lambda *args: (f"{module}.{name}", *args)

    def persistent_load(self, pid: Any) -> Any:
        return ("id", *pid)


def test_layout_of_a_stream() -> None:
    """Five pickles, then for each key a count and the bytes; keys are sorted."""
    arrays = {str(i): np.full(i % 3, i, "i2") for i in range(12)}
    file = io.BytesIO(legacy(arrays))
    assert pickle.load(file) == 0x1950A86A20F9469CFC6C
    assert pickle.load(file) == 1001
    assert pickle.load(file) == {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    obj = _Stream(file).load()
    keys = pickle.load(file)
    assert keys == sorted(keys)
    assert len(set(keys)) == 12
    told = {}
    for name, (function, storage, offset, shape, stride, grad, _hooks) in obj.items():
        assert function == "torch._utils._rebuild_tensor_v2"
        assert (offset, shape, stride, grad) == (0, (int(name) % 3,), (1,), False)
        tag, word, kind, key, where, count, view = storage
        assert (tag, word, where, view) == ("id", "storage", "cpu", None)
        assert kind.__name__ == "<lambda>"
        told[key] = (name, count)
    assert list(told) == keys
    for key in keys:
        name, count = told[key]
        assert struct.unpack("<q", file.read(8)) == (count,)
        assert file.read(2 * count) == arrays[name].tobytes()
    assert file.read() == b""


# ------------------------------------------------------------------ by ourselves


@SOME
@given(kit.nests(HELD))
def test_load_gives_what_was_saved(obj: Any) -> None:
    kit.same(obj, there_and_back(obj))


@SOME
@given(kit.nests(HELD))
def test_the_same_bytes_again(obj: Any) -> None:
    once = legacy(obj)
    assert legacy(obj) == once
    assert legacy(psd.load(once)) == once
    assert legacy(psd.load(bytearray(once), copy=True)) == once


@SOME
@given(kit.nests(HELD))
def test_one_road_to_both_containers(obj: Any) -> None:
    """From a stream to an archive and back, not a byte is lost."""
    once = legacy(obj)
    archived = kit.saved(psd.load(once))
    assert archived == kit.saved(obj)
    assert legacy(psd.load(archived)) == once


def test_what_a_state_dict_tells() -> None:
    sd = psd.StateDict({"w": W, "tied": W.T, "b": np.zeros(0, ml_dtypes.bfloat16)})
    sd.metadata = OrderedDict({"": {"version": 1}})
    again = there_and_back(sd)
    assert list(again) == ["w", "tied", "b"]
    assert again.metadata == sd.metadata
    assert np.may_share_memory(again["w"], again["tied"])
    assert again["b"].dtype == ml_dtypes.bfloat16


def test_flags(tmp_path: pathlib.Path) -> None:
    sd = psd.StateDict({"w": W, "b": W[0]}, trainable={"w": True, "b": False})
    again = psd.load(legacy(sd, trainable="parameters"))
    assert dict(again.trainable) == {"w": True, "b": False}
    path = tmp_path / "m.pth"
    psd.save(sd, path, format="legacy", trainable="sidecar")
    assert dict(psd.load(path).trainable) == {"w": True, "b": False}


def test_seekless_targets_and_paths(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save({"w": W}, path, format="legacy")
    assert path.read_bytes() == legacy({"w": W})
    assert psd.open(path).archive.kind == "legacy"
    kit.same_array(W, psd.load(path)["w"])
    pieces: list[bytes] = []

    class Pipe:
        def write(self, data: Any) -> int:
            pieces.append(bytes(data))
            return len(data)

    psd.save({"w": W}, Pipe(), format="legacy")
    assert b"".join(pieces) == path.read_bytes()


def test_large_storages_are_handed_on() -> None:
    """What is larger than the buffer of small pieces, between small ones."""
    arrays = {str(i): np.arange(n, dtype="i4") for i, n in enumerate([3, 200_000, 0, 5, 100_001])}
    kit.same(arrays, there_and_back(arrays))


def test_an_array_in_pieces_of_foreign_order() -> None:
    kit.same_array(W, there_and_back({"w": W.astype(">f4")})["w"], strides=False)
    kit.same_array(W[:, ::-1], there_and_back({"w": W[:, ::-1]})["w"], strides=False)


# ------------------------------------------------------------------ what it cannot hold


@pytest.mark.parametrize("dtype", NOT_HELD, ids=lambda d: d.name)
def test_dtypes_that_are_refused(tmp_path: pathlib.Path, dtype: np.dtype) -> None:
    path = tmp_path / "m.pth"
    obj = {"fine": W, "layer.x": np.zeros(4, dtype)}
    with pytest.raises(psd.UnsupportedError, match=f"torch reads no {dtype.name} ") as caught:
        psd.save(obj, path, format="legacy")
    assert caught.value.code == "legacy-dtype"
    assert caught.value.key == "layer.x"
    assert 'format="zip"' in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    # Nowhere named: in a list within.
    with pytest.raises(psd.UnsupportedError, match=dtype.name):
        legacy({"a": [np.zeros(4, dtype)]})


def test_two_dtypes_over_one_memory() -> None:
    with pytest.raises(psd.UnsupportedError, match="several dtypes share memory") as caught:
        legacy({"w": W, "bits": W.view("i4")})
    assert caught.value.key == "w"
    # Where they share nothing there is no harm.
    both = {"w": W, "bits": W.view("i4").copy()}
    kit.same(both, there_and_back(both))


def test_formats_that_are_none() -> None:
    with pytest.raises(psd.UnsupportedError, match="'zip', 'legacy', 'safetensors', 'npz'"):
        kit.saved({"w": W}, format="stream")
