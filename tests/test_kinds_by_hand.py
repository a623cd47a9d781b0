# SPDX-License-Identifier: Apache-2.0
"""Tensors, modules and tars put together by hand, as torch's writers and others would not."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from typing import Any

import numpy as np
import pytest
from kit import (
    archive,
    boolean,
    call,
    dict_of,
    integer,
    named,
    parameter,
    sizes,
    storage,
    tensor,
    text,
    tuple_of,
)

import pystatedict as psd

HOOKS = call("collections", "OrderedDict")
SIX = struct.pack("<6f", *range(6))


def real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


# ------------------------------------------------------------------ storages by themselves


@pytest.mark.parametrize("kind", ["QUInt4x2Storage", "QUInt2x4Storage", "ByteStorage"])
def test_a_storage_of_packed_elements_counts_bytes(kind: str) -> None:
    data = archive(storage("0", kind, 6), {"0": b"abcdef"})
    assert psd.load(data).tobytes() == b"abcdef"
    (info,) = psd.open(data).archive.tensors().values()
    assert (info.shape, info.nbytes) == ((6,), 6)


# ------------------------------------------------------------------ quantized


def quantized(scales: bytes, zero_points: bytes) -> bytes:
    scheme = named("torch", "per_channel_affine")
    parameters = tuple_of(scheme, scales, zero_points, integer(0))
    window = (storage("0", "QInt8Storage", 6), integer(0), sizes((2, 3)), sizes((3, 1)))
    return call("torch._utils", "_rebuild_qtensor", *window, parameters, boolean(False), HOOKS)


def list_of(*parts: bytes) -> bytes:
    return b"](" + b"".join(parts) + b"e"


LISTED = list_of(real(0.5), real(0.25)), list_of(integer(1), integer(2))


def test_scales_in_lists() -> None:
    found = psd.load(archive(quantized(*LISTED), {"0": bytes(6)}))
    assert found.scales.tolist() == [0.5, 0.25]
    assert found.zero_points.tolist() == [1, 2]


META = call(
    "torch._utils", "_rebuild_meta_tensor_no_storage",
    named("torch", "float64"), sizes((2,)), sizes((1,)), boolean(False),
)  # fmt: skip


@pytest.mark.parametrize(
    ("scales", "zero_points"),
    [
        (list_of(text("a"), text("b")), LISTED[1]),
        (list_of(b"N", b"N"), LISTED[1]),
        (LISTED[0], list_of(real(0.5), real(0.5))),
        (LISTED[0], list_of(b"\x8a\x09" + b"\x7f" * 9, integer(1))),
        (META, LISTED[1]),
        (LISTED[0], META),
    ],
)
def test_scales_that_are_no_numbers(scales: bytes, zero_points: bytes) -> None:
    with pytest.raises(psd.CorruptError, match="no numbers"):
        psd.load(archive(quantized(scales, zero_points), {"0": bytes(6)}))


def test_one_list_of_scales_for_many() -> None:
    """Each tensor has a copy, so few bytes must not be copied for ever."""
    count, most = 20_000, 500
    scales = list_of(*[real(0.5)] * count) + b"q\x010"
    zeros = list_of(*[b"K\x00"] * count) + b"q\x020"
    window = (storage("0", "QInt8Storage", 1), integer(0), sizes((count,)), sizes((0,)))
    parameters = tuple_of(named("torch", "per_channel_affine"), b"h\x01h\x02", integer(0))
    one = call("torch._utils", "_rebuild_qtensor", *window, parameters, boolean(False), HOOKS)
    body = scales + zeros + b"](" + one * 3 + b"e"
    assert len(psd.load(archive(body, {"0": b"\x01"}))) == 3
    with pytest.raises(psd.LimitError, match="copied all too often"):
        psd.load(archive(scales + zeros + b"](" + one * most + b"e", {"0": b"\x01"}))


# ------------------------------------------------------------------ sparse


@pytest.mark.parametrize("size", [(2**63 - 1, 0), (2**63 - 1, 1)])
def test_sparse_sizes_that_would_wrap(size: tuple[int, int]) -> None:
    layout = call("torch.serialization", "_get_layout", text("torch.sparse_csr"))
    rows = tensor("0", (3,), kind="LongStorage")
    parts = tuple_of(rows, rows, tensor("1", (3,)), sizes(size))
    body = call("torch._utils", "_rebuild_sparse_tensor", layout, parts)
    with pytest.raises(psd.CorruptError, match="one index more than rows"):
        psd.load(archive(body, {"0": bytes(24), "1": bytes(12)}))


# ------------------------------------------------------------------ modules


def pairs_of_python_2(pairs: dict[str, bytes]) -> bytes:
    """OrderedDict([['name', value], ...])"""
    lists = [list_of(b"U" + bytes([len(k)]) + k.encode(), v) for k, v in pairs.items()]
    return call("collections", "OrderedDict", list_of(*lists))


def module(name: str, parameters: bytes, children: bytes) -> bytes:
    state = {"_parameters": parameters, "_buffers": b"}", "_modules": children}
    return named("models", name) + b")\x81" + dict_of(state) + b"b"


def test_a_module_that_python_2_saved() -> None:
    own = pairs_of_python_2({"weight": parameter(tensor()), "bias": b"N"})
    leaf = module("Linear", own, pairs_of_python_2({}))
    body = module("Net", pairs_of_python_2({}), pairs_of_python_2({"fc": leaf}))
    found = psd.load(archive(body, {"0": SIX})).state_dict()
    assert list(found) == ["fc.weight"]
    assert found["fc.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_module_of_many_buffers_that_are_not_saved() -> None:
    """As many are left out as are looked for, and that is no square of it."""
    names = [f"cache{i}" for i in range(3000)]
    buffers = dict.fromkeys(["kept", *names], b"h\x01")
    left_out = call("builtins", "set", list_of(*map(text, names)))
    state = {
        "_parameters": b"}",
        "_buffers": dict_of(buffers),
        "_non_persistent_buffers_set": left_out,
        "_modules": b"}",
    }
    body = tensor() + b"q\x010" + named("models", "Net") + b")\x81" + dict_of(state) + b"b"
    found = psd.load(archive(body, {"0": SIX})).state_dict()
    assert list(found) == ["kept"]


# ------------------------------------------------------------------ tars


def torch_tar(**options: Any) -> bytes:
    """{'w': 2 by 3 floats} as torch 0.1 laid it out."""
    where = tuple_of(integer(1), text("cpu"), named("torch", "FloatStorage")) + b"."
    window = tuple_of(integer(10), integer(1), named("torch", "FloatTensor")) + b"."
    numbers = struct.pack("<i4x2q2qq", 2, 2, 3, 3, 1, 0)
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000}, 2),
        "pickle": b"\x80\x02}" + text("w") + text("10") + b"Qs.",
        "tensors": pickle.dumps(1, 2) + window + numbers,
        "storages": pickle.dumps(1, 2) + where + struct.pack("<q", 6) + SIX + pickle.dumps([], 2),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=options.get("format")) as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), options.get("mtime", 0)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("mtime", [0, 1.5])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_writer(format: int, mtime: float) -> None:
    """Times with fractions stand in a header before the member's own."""
    data = torch_tar(format=format, mtime=mtime)
    assert (b"PaxHeader" in data) == (format == tarfile.PAX_FORMAT and mtime == 1.5)
    found = psd.load(data)
    assert np.array_equal(found["w"], np.arange(6, dtype="f4").reshape(2, 3))
    assert psd.identify(data) == "torch-tar"
