# SPDX-License-Identifier: Apache-2.0
"""content_hash: computed anew by hashlib from its description, and equal across containers."""

from __future__ import annotations

import hashlib
import io
import pathlib
import struct
import subprocess
import sys
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystatedict as psd


def text(string: str) -> bytes:
    data = string.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def tensor(dtype: str, shape: tuple[int, ...], data: bytes, layout: str = "strided") -> bytes:
    sizes = struct.pack(f"<Q{len(shape)}q", len(shape), *shape)
    content = hashlib.sha256(data).digest()
    return hashlib.sha256(text(layout) + text(dtype) + sizes + content).digest()


def whole(tensors: dict[str, bytes]) -> str:
    out = hashlib.sha256(b"pystatedict content 1\n" + struct.pack("<Q", len(tensors)))
    for name in sorted(tensors, key=lambda n: n.encode("utf-8", "surrogatepass")):
        out.update(text(name) + tensors[name])
    return out.hexdigest()


def by_hand(arrays: dict[str, np.ndarray]) -> str:
    return whole({n: tensor(a.dtype.name, a.shape, a.tobytes()) for n, a in arrays.items()})


def sample(dtypes: list[np.dtype]) -> dict[str, np.ndarray]:
    found = {f"w.{d.name}": kit.buffer_of(d, 12, i).reshape(3, 4) for i, d in enumerate(dtypes)}
    return {**found, "scalar": np.array(3, "f4"), "none": np.zeros((0, 3), "f4")}


def saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    psd.save(obj, file, **options)
    return file.getvalue()


def test_every_dtype_by_its_description() -> None:
    arrays = sample(kit.DTYPES)
    assert psd.content_hash(arrays) == by_hand(arrays)
    assert psd.content_hash(saved(arrays)) == by_hand(arrays)


def test_containers_orders_and_names_do_not_count(tmp_path: pathlib.Path) -> None:
    arrays = sample([np.dtype(n) for n in ("f4", "f2", "i8", "u1", "?", "f8")])
    back = dict(reversed(arrays.items()))
    for name in ("m.pth", "other.pth", "m.safetensors", "m.npz"):
        psd.save(back, tmp_path / name)
    psd.save(arrays, tmp_path / "legacy.pt", format="legacy")
    psd.save({"model": psd.StateDict(arrays), "epoch": 3}, tmp_path / "training.pth")
    found = {path.name: psd.content_hash(path) for path in tmp_path.iterdir()}
    assert set(found.values()) == {by_hand(arrays)}, found
    with psd.open(tmp_path / "m.npz") as checkpoint:
        assert psd.content_hash(checkpoint) == by_hand(arrays)
        assert not checkpoint.closed


def test_shards_do_not_count(tmp_path: pathlib.Path) -> None:
    import json

    parts = [{"a": np.arange(3)}, {"b": np.ones((2, 2), "f4")}]
    for number, part in enumerate(parts):
        psd.save(part, tmp_path / f"part-{number}.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "part-0.safetensors", "b": "part-1.safetensors"}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert psd.content_hash(path) == by_hand({**parts[0], **parts[1]})


def test_strides_ties_flags_and_byte_order_do_not_count() -> None:
    plain = {"a": np.arange(12, dtype="i4").reshape(3, 4), "b": np.ones((5, 2), "f4")}
    odd = {
        "a": np.asfortranarray(plain["a"]).astype(">i4", order="K"),
        "b": np.broadcast_to(np.float32(1), (5, 2)),
    }
    assert psd.content_hash(odd) == psd.content_hash(plain) == by_hand(plain)
    flagged = psd.StateDict(plain, trainable={"a": False, "b": True})
    assert psd.content_hash(saved(flagged, trainable="parameters")) == by_hand(plain)
    base = np.arange(6.0)
    tied = {"x": base, "y": base[:3], "z": base[1::2]}
    assert psd.content_hash(saved(tied)) == by_hand(tied)


def test_everything_else_counts() -> None:
    first = {"a": np.arange(6, dtype="f4"), "b": np.zeros(2, "f4")}
    others: list[dict[str, np.ndarray]] = [
        {"a": first["a"]},
        {"a": first["a"], "c": first["b"]},
        {"a": first["a"].reshape(2, 3), "b": first["b"]},
        {"a": first["a"], "b": first["b"].view("i4")},
        {"a": first["a"], "b": -first["b"]},
        {"a": first["b"], "b": first["a"]},
        {"a": first["a"], "b": first["b"], "": np.zeros(0)},
        {"ab": first["a"], "": first["b"]},
        {},
    ]
    assert len({psd.content_hash(each) for each in [first, *others]}) == len(others) + 1


@settings(max_examples=60, deadline=None)
@given(kit.array_pools())
def test_any_view_by_hand(pool: list[np.ndarray]) -> None:
    arrays = {f"t{i}": array for i, array in enumerate(pool)}
    native = {n: a.astype(a.dtype.newbyteorder("=")) if a.dtype.isbuiltin == 0 else a
              for n, a in arrays.items()}  # fmt: skip
    assert psd.content_hash(arrays) == by_hand(native) == psd.content_hash(saved(arrays))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.integers(0, 255), max_size=5))
def test_any_names(names: dict[str, int]) -> None:
    arrays = {name: np.array([value], "u1") for name, value in names.items()}
    assert psd.content_hash(arrays) == by_hand(arrays)


def test_names_that_are_no_unicode() -> None:
    assert psd.content_hash({"\ud800": np.ones(1)}) == by_hand({"\ud800": np.ones(1)})


def test_roots() -> None:
    arrays = {"w": np.ones(2, "f4")}
    obj = {"model": psd.StateDict(arrays), "optimizer": {"state": {0: {"m": np.zeros(2, "f4")}}}}
    everything = {"model.w": arrays["w"], "optimizer.state.0.m": np.zeros(2, "f4")}
    for f in (obj, saved(obj)):
        assert psd.content_hash(f) == by_hand(arrays)
        assert psd.content_hash(f, root="model") == by_hand(arrays)
        assert psd.content_hash(f, root=None) == by_hand(everything)
        with pytest.raises(psd.MissingTensorError):
            psd.content_hash(f, root="nowhere")


def test_kinds_by_hand() -> None:
    q = psd.QuantizedTensor(np.array([1, 2, 3], "i1"), "qint8", scale=0.25, zero_point=-1)
    inner = struct.pack("<Q", 4)
    for key, value in (
        ("layout", "quantized"),
        ("qscheme", "per_tensor_affine"),
        ("scale", "0x1.0000000000000p-2"),
        ("zero_point", "-1"),
    ):
        inner += text(key) + text(value)
    inner += struct.pack("<Q", 1) + text("array") + tensor("int8", (3,), b"\1\2\3")
    expected = whole({"q": tensor("qint8", (3,), inner, "quantized")})
    assert psd.content_hash({"q": q}) == expected == psd.content_hash(saved({"q": q}))
    more = [psd.QuantizedTensor(np.array([1, 2, 3], "i1"), "qint8", scale=0.5, zero_point=-1)]
    more += [psd.QuantizedTensor(np.array([1, 2, 3], "i1"), "qint8", scale=0.25, zero_point=0)]
    assert len({psd.content_hash({"q": each}) for each in [q, *more]}) == 3


def test_tensors_without_bytes_have_a_hash() -> None:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"m": torch.empty(3, 2, device="meta")}, file)
    found = psd.content_hash(file.getvalue())
    assert found == whole({"m": tensor("float32", (3, 2), b"", "meta")})


@pytest.mark.oracle
def test_against_torch() -> None:
    torch = pytest.importorskip("torch")
    names = [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "uint8",
        "bool",
        "complex64",
        "float8_e4m3fn",
    ]
    tensors = {}
    for number, name in enumerate(names):
        raw = torch.arange(64, dtype=torch.uint8) % 2 + number * (name != "bool")
        tensors[name] = raw.view(getattr(torch, name))[: 64 // 16].reshape(2, -1).T
    tensors["conj"] = torch.tensor([1 + 2j, 3 - 4j]).conj()
    tensors["neg"] = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    expected = whole(
        {
            n: tensor(
                str(t.dtype).removeprefix("torch."),
                tuple(t.shape),
                bytes(t.resolve_conj().resolve_neg().contiguous().view(torch.uint8).flatten()
                      .tolist()),
            )
            for n, t in tensors.items()
        }
    )  # fmt: skip
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        assert psd.content_hash(file.getvalue()) == expected


def test_few_bytes_seen_as_many_are_refused() -> None:
    body = kit.dict_of({"w": kit.tensor("0", (1 << 31, 1 << 20), (0, 0), count=1)})
    data = kit.archive(body, {"0": bytes(4)})
    with pytest.raises(psd.LimitError, match="over and over"):
        psd.content_hash(data)
    many = {f"w{i}": np.broadcast_to(np.float32(0), (1 << 28,)) for i in range(3)}
    with pytest.raises(psd.LimitError):
        psd.content_hash(many)


def test_a_value_that_is_no_array() -> None:
    class Odd:
        def __array__(self, *args: Any, **named: Any) -> Any:
            raise RuntimeError("on a device\x1b")

    with pytest.raises(TypeError, match=r"'w\\n' cannot be made .* on a device\\x1b"):
        psd.content_hash({"w\n": Odd()})


def test_wide_types_of_mappings() -> None:
    arrays = {"s": np.array(["ab", "c"]), "i": np.ones(2, ml_dtypes.int4)}
    parts = {"s": tensor("<U2", (2,), arrays["s"].tobytes()), "i": tensor("int4", (2,), b"\1\1")}
    assert psd.content_hash(arrays) == whole(parts)


MEMORY = """
import re, sys
import numpy
import pystatedict as psd
def most():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])
psd.content_hash({"w": numpy.ones(3, "f4")}), psd.content_hash(sys.argv[2])
before = most()
psd.content_hash(sys.argv[1])
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_one_storage(tmp_path: pathlib.Path, tutorial: pathlib.Path) -> None:
    path = tmp_path / "big.pth"
    psd.save({f"w{i}": np.full(8 << 20, i, "f4") for i in range(4)}, path)  # 32 MiB each
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path, tutorial],
        env=kit.letting_go(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 48 << 20
