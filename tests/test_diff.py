# SPDX-License-Identifier: Apache-2.0
"""diff: distances against torch, exact integers, every kind of tensor, bounded memory."""

from __future__ import annotations

import io
import json
import math
import pathlib
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

INF, NAN = math.inf, math.nan


def saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    psd.save(obj, file, **options)
    return file.getvalue()


def between(a: Any, b: Any, **options: Any) -> psd.Distance:
    """The distance of two arrays, whether it is a difference or not."""
    found = psd.diff({"w": a}, {"w": b}, **options)
    return {**found.changed, **found.close}["w"]


# ------------------------------------------------------------------ names, shapes, dtypes


def test_every_kind_of_difference_at_once() -> None:
    a = psd.StateDict(
        {
            "same": np.ones(3, "f4"),
            "value": np.array([1, 2, 3], "f4"),
            "shape": np.ones((2, 3), "f4"),
            "type": np.ones(2, "f4"),
            "old": np.arange(5),
            "gone": np.zeros((1, 2), "u1"),
            "flag": np.zeros(1),
        },
        trainable={"flag": True, "same": False},
    )
    b = psd.StateDict(
        {
            "flag": np.zeros(1),
            "new": np.arange(5),
            "more": np.zeros(7, "i1"),
            "value": np.array([1, 2, 5], "f4"),
            "shape": np.ones((3, 2), "f4"),
            "type": np.ones(2, "f8"),
            "same": np.ones(3, "f4"),
        },
        trainable={"flag": False},
    )
    found = psd.diff(a, b)
    assert found and not found.equal
    assert found.added == {"more": ((7,), "int8")}
    assert found.removed == {"gone": ((1, 2), "uint8")}
    assert found.renamed == {"old": "new"}
    assert found.reshaped == {"shape": ((2, 3), (3, 2))}
    assert found.retyped == {"type": ("float32", "float64")}
    assert found.trainable == {"same": (False, None), "flag": (True, False)}
    assert list(found.changed) == ["value"]
    assert list(found.close) == ["type"]
    assert found.compared == 5
    assert set(found.counts().values()) == {1, 2}
    assert psd.diff(a, b, trainable=False).trainable == {}
    told = found.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert list(told) == list(psd.diff(a, a).to_dict())
    assert told["added"] == {"more": {"shape": [7], "dtype": "int8"}}
    assert told["trainable"] == {"same": [False, None], "flag": [True, False]}


def test_nothing_differs() -> None:
    a = {"w": np.ones(3), "n": np.zeros((0, 4)), "s": np.array(2, "i8")}
    found = psd.diff(a, dict(reversed(a.items())))
    assert not found and found.equal and repr(found) == "<Diff: no difference>"
    assert "no difference: 3 tensors in both, which are equal" in str(found)
    assert "agree in shape and dtype" in str(psd.diff(a, a, values=False))
    assert not psd.diff({}, {})


def test_every_container_with_every_other(tmp_path: pathlib.Path) -> None:
    arrays = {"w": np.arange(6, dtype="f4").reshape(2, 3), "n": np.array([1, -2]), "e": np.zeros(0)}
    for name in ("m.pth", "m.safetensors", "m.npz"):
        psd.save(arrays, tmp_path / name)
    psd.save(arrays, tmp_path / "legacy.pt", format="legacy")
    psd.save({"state_dict": psd.StateDict(arrays)}, tmp_path / "inside.ckpt")
    body = kit.dict_of({"w": kit.tensor()})
    floats = np.arange(6, dtype="<f4").tobytes()
    deflated = kit.archive(body, {"0": floats}, method=8)
    sides: list[Any] = [*sorted(tmp_path.iterdir()), arrays, (tmp_path / "m.pth").read_bytes()]
    for a in sides:
        for b in sides:
            assert not psd.diff(a, b), (a, b)
        found = psd.diff(a, deflated)
        assert (list(found.removed), found.changed, found.close) == (["n", "e"], {}, {})
    with psd.open(tmp_path / "m.npz") as a, psd.open(tmp_path / "legacy.pt") as b:
        assert not psd.diff(a, b)
        assert not a.closed and not b.closed


def test_roots() -> None:
    weights = psd.StateDict({"w": np.ones(2)})
    file = saved({"model": weights, "ema": psd.StateDict({"w": np.zeros(2)}), "step": 3})
    assert not psd.diff(file, weights, root=("model", None))
    assert psd.diff(file, weights, root=("ema", "auto")).changed
    assert psd.diff(file, file, root=None).compared == 2
    with pytest.raises(psd.AmbiguousRootError):
        psd.diff(file, weights)
    for bad in (3, ("a",), ("a", 3)):
        with pytest.raises(TypeError, match="root is None"):
            psd.diff(weights, weights, root=bad)  # type: ignore[arg-type]


def test_arrays_that_are_no_tensors_are_compared() -> None:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"w": np.arange(3)}, file)
    assert not psd.diff(file.getvalue(), {"w": np.arange(3)})
    assert psd.diff(file.getvalue(), {"w": np.arange(1, 4)}).changed


def test_without_values_nothing_is_read() -> None:
    """Not even bytes that are damaged."""
    body = kit.dict_of({"w": kit.tensor()})
    data = kit.archive(body, {"0": np.arange(6, dtype="<f4").tobytes()}, method=8)
    with psd.open(data) as checkpoint:
        row = next(row for row in checkpoint.records() if row[0].endswith("data/0"))
    start = data.index(b"data/0", row[1]) + 6
    damaged = data[:start] + bytes([data[start] ^ 7]) + data[start + 1 :]
    assert not psd.diff(data, damaged, values=False)
    with pytest.raises(psd.CorruptError):
        psd.diff(data, damaged)


@pytest.mark.parametrize("bad", [-1, NAN, INF])
def test_a_tolerance_that_is_none(bad: float) -> None:
    with pytest.raises(ValueError, match="rtol and atol"):
        psd.diff({}, {}, rtol=bad)
    with pytest.raises(ValueError, match="rtol and atol"):
        psd.diff({}, {}, atol=bad)


def test_the_sidecar_is_read(tmp_path: pathlib.Path) -> None:
    for name in ("a.pth", "b.pth"):
        psd.save({"w": np.ones(1)}, tmp_path / name)
    psd.save_trainable(tmp_path / "a.pth", {"w": True})
    assert psd.diff(tmp_path / "a.pth", tmp_path / "b.pth").trainable == {"w": (True, None)}


# ------------------------------------------------------------------ renaming


def test_renamed_by_content_and_by_the_most_similar_name() -> None:
    zeros = {f"layers.{i}.{part}": np.zeros(4) for i in range(12) for part in ("bias", "mean")}
    moved = {name.replace("layers", "blocks"): array for name, array in zeros.items()}
    found = psd.diff(zeros, dict(reversed(moved.items())))
    assert found.renamed == {name: name.replace("layers", "blocks") for name in zeros}
    assert not found.added and not found.removed


def test_of_more_names_than_contents_the_rest_is_added() -> None:
    found = psd.diff({"a.x": np.zeros(2)}, {"b.y": np.zeros(2), "b.x": np.zeros(2)})
    assert found.renamed == {"a.x": "b.x"}
    assert list(found.added) == ["b.y"]


def test_renamed_ones_are_in_the_order_of_their_file() -> None:
    contents = [np.zeros(2), np.ones(2), np.zeros(2), np.ones(2)]
    a = {f"a.{i}": array for i, array in enumerate(contents)}
    b = {f"b.{i}": array for i, array in reversed(list(enumerate(contents)))}
    assert list(psd.diff(a, b).renamed.items()) == [(f"a.{i}", f"b.{i}") for i in range(4)]


def test_mappings_of_any_keys_and_cycles() -> None:
    inner: dict[str, Any] = {"w": np.ones(2)}
    inner["again"] = {"inner": inner}
    a = {1: np.zeros(1), "1": np.ones(1), "list": [np.ones(3), (np.ones(4),)], "deep": inner}
    a["scalar"], a["text"] = np.float32(3), "no tensor"  # type: ignore[assignment]
    found = psd.diff(a, {}, root=None)
    assert list(found.removed) == ["1", "1#2", "list.0", "list.1.0", "deep.w"]


@pytest.mark.parametrize(
    "other",
    [np.zeros((2, 1)), np.zeros(2, "f4"), np.zeros(2, "i8"), -np.zeros(2), np.zeros(0)],
)
def test_no_renaming_without_the_same_dtype_shape_and_bytes(other: np.ndarray) -> None:
    found = psd.diff({"a": np.zeros(2)}, {"b": other})
    assert not found.renamed and list(found.added) == ["b"]


def test_many_equal_tensors_take_no_time() -> None:
    a = {f"a{i}": np.zeros(1) for i in range(20_000)}
    b = {f"b{i}": np.zeros(1) for i in range(20_000)}
    found = psd.diff(a, b)
    assert len(found.renamed) == 20_000
    assert found.renamed["a7"] == "b7"


# ------------------------------------------------------------------ distances

SPECIAL = [0.0, -0.0, 1.0, -1.5, INF, -INF, NAN, 448.0, 1e-3]


def test_what_is_equal() -> None:
    zero, minus = np.array([0.0, NAN]), np.array([-0.0, NAN])
    found = psd.diff({"w": zero}, {"w": minus})
    assert not found
    assert (found.close["w"].differing, found.close["w"].max_abs) == (0, 0.0)
    other_nan = np.array([0x7FF8000000000001, 0xFFF8000000000000], "u8").view("f8")
    found = psd.diff({"w": np.array([NAN, NAN])}, {"w": other_nan})
    assert not found and "w" in found.close
    assert not psd.diff({"w": zero}, {"w": zero.copy()}).close


def test_nan_on_one_side() -> None:
    found = between(np.array([1.0, NAN, NAN, 4.0]), np.array([NAN, NAN, 3.0, 4.5]))
    assert (found.count, found.differing, found.nans) == (4, 3, 2)
    assert (found.max_abs, found.rms, found.max_rel) == (0.5, 0.5, 0.5 / 4.5)
    found = between(np.array([NAN]), np.array([1.0]), rtol=1e9)
    assert (found.beyond, found.max_abs, found.rms, found.cosine) == (1, 0.0, None, None)


def test_infinities() -> None:
    assert not psd.diff({"w": np.array([INF, -INF])}, {"w": np.array([INF, -INF])})
    found = between(np.array([INF, 1.0, 2.0]), np.array([-INF, 1.0, 3.0]), rtol=1.0)
    assert (found.differing, found.beyond, found.max_abs, found.rms) == (2, 1, INF, INF)
    assert found.max_rel == INF
    assert found.cosine == pytest.approx(7 / math.sqrt(50))
    assert found.to_dict()["max_abs"] == "inf"
    json.dumps(found.to_dict(), allow_nan=False)


def test_against_zero_the_relative_gap_has_no_bound() -> None:
    assert between(np.array([1e-9, 2.0]), np.array([0.0, 1.0])).max_rel == INF
    assert between(np.array([0, 2]), np.array([5, 1])).max_rel == 1.0


def test_numbers_that_would_overflow() -> None:
    found = between(np.array([1e300, 1e300]), np.array([2e300, 1e300]))
    assert found.cosine == pytest.approx(3 / math.sqrt(10))
    assert found.rms == pytest.approx(1e300 / math.sqrt(2))
    found = between(np.array([5e-324, 0]), np.array([5e-324, 5e-324]))
    assert found.cosine == pytest.approx(1 / math.sqrt(2))


INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(INTEGERS), st.sampled_from(INTEGERS))
def test_integers_are_exact(data: st.DataObject, first: str, second: str) -> None:
    def numbers(dtype: str) -> list[int]:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        near = st.sampled_from([low, low + 1, 0, 1, high - 1, high])
        one = st.one_of(near, st.integers(low, high))
        values: list[int] = data.draw(st.lists(one, min_size=4, max_size=4))
        return values

    a, b = numbers(first), numbers(second)
    x, y = np.array(a, first), np.array(b, second)
    found = psd.diff({"w": x}, {"w": y})
    gaps = [abs(p - q) for p, q in zip(a, b, strict=True)]
    if x.dtype == y.dtype and a == b:
        assert not found and not found.close
        return
    distance = {**found.changed, **found.close}["w"]
    assert distance.max_abs == max(gaps) and type(distance.max_abs) is int
    assert distance.differing == sum(gap > 0 for gap in gaps)
    assert ("w" in found.changed) == any(gaps)
    assert distance.rms == pytest.approx(math.sqrt(sum(gap**2 for gap in gaps) / 4))


def test_the_largest_integers_differ() -> None:
    found = psd.diff({"w": np.array([2**63 - 1])}, {"w": np.array([2**63 - 2])})
    assert found.changed["w"].max_abs == 1
    found = psd.diff({"w": np.array([2**63 - 1])}, {"w": np.array([float(2**63)])})
    assert found.changed["w"].differing == 1
    assert found.changed["w"].max_abs == 1.0
    found = psd.diff({"w": np.array([2**64 - 1], "u8")}, {"w": np.array([2**64], "c16")})
    assert found.changed["w"].differing == 1
    found = psd.diff({"w": np.array([2**62, -(2**63)])}, {"w": np.array([2.0**62, -(2.0**63)])})
    assert found.close["w"].differing == 0


def test_gaps_beyond_64_bits() -> None:
    low, high = np.array([-(2**63), 5]), np.array([2**64 - 1, 5], "u8")
    for a, b in ((low, high), (high, low)):
        found = between(a, b)
        assert (found.max_abs, found.differing) == (2**64 - 1 + 2**63, 1)
        assert found.rms == pytest.approx(1.5 * 2**64 / math.sqrt(2))
    assert between(np.array([-3]), np.array([2**64 - 2], "u8")).max_abs == 2**64 + 1


def test_bools() -> None:
    found = between(np.array([True, False, True]), np.array([True, True, False]))
    assert (found.differing, found.max_abs, found.count) == (2, 1, 3)
    assert type(found.max_abs) is int


FLOATS = [
    "float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "complex64", "complex128",
]  # fmt: skip


def arrays_of(name: str, seed: int, count: int = 257) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    a = random.normal(size=count) + (1j * random.normal(size=count) if "complex" in name else 0)
    b = np.where(random.random(count) < 0.5, a, a + random.normal(size=count) * 0.1)
    return a.astype(dtype), b.astype(dtype)


@pytest.mark.oracle
@pytest.mark.parametrize("name", FLOATS)
def test_distances_against_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    a, b = arrays_of(name, 1)
    file = [io.BytesIO(), io.BytesIO()]
    wide = "c16" if "complex" in name else "f8"
    x, y = (torch.from_numpy(each.astype(wide)) for each in (a, b))
    for each, out in zip((x, y), file, strict=True):
        torch.save({"w": each.to(getattr(torch, name))}, out)
    found = psd.diff(file[0].getvalue(), file[1].getvalue()).changed["w"]
    gap = (x - y).abs()
    assert found.count == 257
    assert found.differing == int((x != y).sum())
    assert found.max_abs == pytest.approx(float(gap.max()), rel=1e-12)
    assert found.max_rel == pytest.approx(float((gap / y.abs())[gap > 0].max()), rel=1e-12)
    assert found.rms == pytest.approx(float((gap**2).mean().sqrt()), rel=1e-12)
    flat = (torch.view_as_real(each).flatten() if wide == "c16" else each for each in (x, y))
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=0)
    assert found.cosine == pytest.approx(float(cosine), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SPECIAL), st.sampled_from(SPECIAL)), min_size=1, max_size=8),
    st.sampled_from([0.0, 1e-3, 0.5, 2.0]),
    st.sampled_from([0.0, 1e-3, 1.0]),
    st.sampled_from(["f4", "f8", "c8", "bfloat16"]),
)
def test_tolerances_are_those_of_isclose(
    pairs: list[tuple[float, float]], rtol: float, atol: float, name: str
) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    a, b = (np.array(side).astype(dtype) for side in zip(*pairs, strict=True))
    wide = [each.astype("c16" if dtype.kind == "c" else "f8") for each in (a, b)]
    with np.errstate(all="ignore"):
        close = np.isclose(*wide, rtol=rtol, atol=atol, equal_nan=True)
        equal = np.isclose(*wide, rtol=0, atol=0, equal_nan=True)
    found = psd.diff({"w": a}, {"w": b}, rtol=rtol, atol=atol)
    assert bool(found) == (not close.all())
    if a.tobytes() != b.tobytes():
        distance = {**found.changed, **found.close}["w"]
        assert distance.beyond == np.count_nonzero(~close)
        assert distance.differing == np.count_nonzero(~equal)


@settings(max_examples=100, deadline=None)
@given(kit.array_pools())
def test_any_view_differs_from_none_of_itself(pool: list[np.ndarray]) -> None:
    arrays = {f"t{i}": array for i, array in enumerate(pool)}
    copies = {name: np.array(array, order="F") for name, array in arrays.items()}
    found = psd.diff(arrays, copies)
    assert not found and not found.close
    assert not psd.diff(saved(arrays), copies)
    bits = {n: a.reshape(-1).copy() for n, a in copies.items() if a.size}
    for array in bits.values():
        array.view("u1")[-1 if array.dtype.byteorder != ">" else 0] ^= 1
    flipped = {n: bits[n].reshape(a.shape) if n in bits else a for n, a in copies.items()}
    found = psd.diff(arrays, flipped)
    assert {*found.changed, *found.close} == set(bits)


def test_pieces_are_put_together() -> None:
    from pystatedict._pieces import PIECE

    for shape in ((3 * PIECE + 5,), (3, PIECE + 1), (PIECE + 3, 2), (2, 1, 5, PIECE // 4)):
        a = np.random.default_rng(3).normal(size=shape)
        b = a.copy()
        b.reshape(-1)[[0, PIECE, -1]] += [1, -3, 2]
        for x, y in ((a, b), (np.asfortranarray(a), b)):
            found = between(x, y)
            assert (found.count, found.differing) == (a.size, 3)
            assert found.max_abs == pytest.approx(3)
            assert found.rms == pytest.approx(math.sqrt(14 / a.size))
            expected = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
            assert found.cosine == pytest.approx(expected)


def test_other_dtypes_are_compared_all_the_same() -> None:
    a = np.array([1, 2, 3.5], "f4")
    found = psd.diff({"w": a}, {"w": a.astype("f2")})
    assert found.retyped == {"w": ("float32", "float16")}
    assert found.close["w"].differing == 0 and not found.changed
    found = psd.diff({"w": a}, {"w": a.astype("i4")})
    assert (found.changed["w"].differing, found.changed["w"].max_abs) == (1, 0.5)
    assert "w" in psd.diff({"w": a}, {"w": np.array(["a", "b", "c"])}).changed


def test_what_are_no_numbers_is_equal_or_not() -> None:
    from pystatedict._dtypes import numpy_dtype

    a = np.array([1, 2, 3], "u1").view(numpy_dtype("bits8"))
    b = np.array([1, 2, 4], "u1").view(numpy_dtype("bits8"))
    found = between(a, b)
    assert (found.count, found.differing, found.max_abs, found.cosine) == (3, 1, None, None)
    found = between(np.array(["ab", "cd"]), np.array(["ab", "ce"]))
    assert (found.differing, found.rms) == (1, None)


def test_halves_in_pairs_and_float4() -> None:
    from pystatedict._dtypes import numpy_dtype

    pair = numpy_dtype("complex32")
    found = between(np.array([(1, 2), (3, 4)], pair), np.array([(1, 2), (3, 5)], pair))
    assert (found.differing, found.max_abs) == (1, 1.0)
    packed = numpy_dtype("float4_e2m1fn_x2")
    found = between(np.array([0x21], "u1").view(packed), np.array([0x31], "u1").view(packed))
    assert (found.count, found.differing, found.max_abs) == (2, 1, 0.5)
    assert between(np.array([0x21], "u1").view(packed), np.array([0x21], "u1")).differing == 0


def test_scalars_and_nothing() -> None:
    found = between(np.array(1.0), np.array(1.5, "f4"))
    assert (found.count, found.max_abs) == (1, 0.5)
    for name in ("f4", "i8", "?", ml_dtypes.bfloat16):
        assert not psd.diff({"w": np.zeros((0, 3), name)}, {"w": np.zeros((0, 3), name)})
    found = between(np.zeros((0, 3), "f4"), np.zeros((0, 3), "f8"))
    assert (found.count, found.rms, found.cosine) == (0, None, None)


# ------------------------------------------------------------------ kinds that are no arrays


def kinds() -> dict[str, Any]:
    q = psd.QuantizedTensor(np.array([1, 2], "i1"), "qint8", scale=0.5, zero_point=0)
    s = psd.SparseTensor(
        "sparse_coo", (2, 3), indices=np.array([[0, 1], [2, 0]]), values=np.array([5.0, 7.0])
    )
    n = psd.NestedTensor(
        "jagged", (2, -1), {"values": np.arange(5), "offsets": np.array([0, 2, 5])}
    )
    c = psd.TensorSubclass("m.T", "float32", (2,), (1,), {"_local": np.ones(2, "f4")}, {})
    return {"q": q, "s": s, "n": n, "c": c}


def test_tensors_of_several_arrays_are_compared_by_parts() -> None:
    assert not psd.diff(kinds(), kinds())
    other = kinds()
    other["q"] = psd.QuantizedTensor(np.array([1, 4], "i1"), "qint8", scale=0.25, zero_point=0)
    other["s"].parts["values"][1] = 9
    other["n"].parts["offsets"][1] = 3
    other["c"].inner["_local"][0] = np.nan
    found = psd.diff(kinds(), other).changed
    assert list(found) == ["q", "s", "n", "c"]
    assert found["q"].note == "scale 0.5 and 0.25"
    assert found["q"].parts["array"].max_abs == 2
    assert found["s"].parts["values"].max_abs == 2.0
    assert list(found["n"].parts) == ["offsets"]
    assert found["c"].nans == 1
    assert found["s"].max_abs is None
    assert not psd.diff({"s": kinds()["s"]}, {"s": other["s"]}, atol=2)
    json.dumps(psd.diff(kinds(), other).to_dict(), allow_nan=False)
    assert ".values" in str(psd.diff(kinds(), other))


def test_other_layouts_are_told() -> None:
    dense = {"s": np.zeros((2, 3)), "q": np.zeros(2, "i1"), "n": np.zeros((2, 2))}
    found = psd.diff({k: v for k, v in kinds().items() if k != "c"}, dense)
    assert found.changed["s"].note == "not compared: sparse_coo in a, strided in b"
    assert found.retyped == {"q": ("qint8", "int8"), "n": ("int64", "float64")}
    assert found.reshaped == {"n": ((2, -1), (2, 2))}
    fewer = kinds()
    fewer["s"].parts["indices"] = np.array([[0], [2]])
    fewer["s"].parts["values"] = np.array([5.0])
    found = psd.diff(kinds(), fewer)
    assert found.changed["s"].parts["values"].note == "shapes [2] and [1]"


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what is in beta or goes
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kinds_of_torch() -> None:
    torch = pytest.importorskip("torch")

    def made(by: float) -> bytes:
        w = torch.tensor([[1.0, 0, by], [0, 2, 0]])
        file = io.BytesIO()
        torch.save(
            {
                "csr": w.to_sparse_csr(),
                "coo": w.to_sparse(),
                "q": torch.quantize_per_channel(w, torch.ones(2), torch.zeros(2), 0, torch.qint8),
                "meta": w.to("meta"),
                "nested": torch.nested.nested_tensor([w[0], w[1, :2]]),
                "conj": torch.complex(w, w).conj(),
                "row": w[:, ::2],
            },
            file,
        )
        return file.getvalue()

    assert not psd.diff(made(3), made(3))
    assert not psd.diff(made(3), psd.load(made(3)))
    assert set(psd.diff(made(3), made(4)).changed) == {"csr", "coo", "q", "nested", "conj", "row"}
    file = io.BytesIO()
    torch.save({"meta": torch.zeros(2, 3)}, file)
    found = psd.diff(made(3), file.getvalue())
    assert found.changed["meta"].note == "not compared: meta in a, strided in b"


# ------------------------------------------------------------------ text, bounds


def test_the_text_is_safe_and_aligned() -> None:
    name = "evil\x1b[31m\n\u202e"
    found = psd.diff({name: np.ones(2), "w": np.ones(2)}, {name: np.zeros(2), "v.w": np.zeros(3)})
    text = str(found)
    assert text.replace("\n", "").isprintable()
    assert "evil\\x1b[31m\\n\\u202e   [2]   2 of 2 differ, max 1, rel inf, rms 1" in text
    assert text.splitlines()[:3] == [
        "a: memory", "b: memory", "1 added, 1 removed, 1 changed; 1 tensor in both",
    ]  # fmt: skip


def test_long_lists_are_cut_unless_all_is_asked_for() -> None:
    found = psd.diff({f"n{i}": np.ones(i) for i in range(300)}, {})
    assert "and 200 more" in str(found)
    assert "n299" in found.report() and "more" not in found.report()
    assert str(found).count("\n") < 110


def test_almost_one_is_not_told_as_one() -> None:
    a = np.ones(1000)
    b = a.copy()
    b[0] += 1e-3
    assert "cos 1 - " in str(psd.diff({"w": a}, {"w": b}))


def test_few_bytes_seen_as_many() -> None:
    """Repeated elements are compared once; rows that overlap are refused."""
    a = np.broadcast_to(np.array([[1.0], [2.0]]), (2, 1 << 40))
    b = np.broadcast_to(np.array([[1.0], [3.0]]), (2, 1 << 40))
    assert not psd.diff({"w": a}, {"w": np.broadcast_to(a[:, :1].copy(), a.shape)})
    found = between(a, b)
    assert (found.count, found.differing) == (2 << 40, 1 << 40)
    assert found.rms == pytest.approx(math.sqrt(0.5))
    found = between(np.broadcast_to(NAN, (1 << 40,)), np.broadcast_to(1.0, (1 << 40,)))
    assert (found.nans, found.beyond) == (1 << 40, 1 << 40)
    base = np.zeros(1 << 20, "u1")
    wide = np.lib.stride_tricks.as_strided(base, (1 << 19, 1 << 19), (1, 1))
    with pytest.raises(psd.LimitError, match="over and over"):
        psd.diff({"w": wide}, {"w": wide})


@pytest.mark.skipif(sys.platform == "win32", reason="files are mapped there")
def test_no_storage_is_read_for_each_of_its_tensors(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views of two storages, in turns, and on the other side in other turns."""
    from pystatedict._entries import Hand

    bases = [np.arange(600.0), np.arange(600.0) + 1]
    for name, by in (("a.pth", 2), ("b.pth", 3)):
        parts = {f"v{i}": bases[i % by == 0][i : i + 7] for i in range(60)}
        psd.save(parts, tmp_path / name)
    reads = []
    take = Hand.take

    def counted(hand: Hand, entry: Any) -> Any:
        if entry.storage != hand._storage:
            reads.append(entry)
        return take(hand, entry)

    monkeypatch.setattr(Hand, "take", counted)
    assert psd.diff(tmp_path / "a.pth", tmp_path / "b.pth").compared == 60
    assert len(reads) <= 6


MEMORY = """
import re, sys
import numpy
import pystatedict as psd
def most():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])
psd.diff({"w": numpy.ones(3, "f4")}, {"w": numpy.zeros(3, "f4")})
psd.diff(sys.argv[3], sys.argv[3])
before = most()
found = psd.diff(sys.argv[1], sys.argv[2])
print(most() - before, len(found.changed), len(found.renamed))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_two_storages(tmp_path: pathlib.Path, tutorial: pathlib.Path) -> None:
    paths = tmp_path / "a.pth", tmp_path / "b.pth"
    for add, path in enumerate(paths):
        arrays = {f"w{i}": np.full(2 << 20, i + add, "f4") for i in range(8)}  # 8 MiB each
        arrays |= {f"{path.stem}{i}": np.full(2 << 20, i, "f4") for i in range(4)}
        psd.save(arrays, path)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *paths, tutorial],
        env=kit.letting_go(),
        capture_output=True,
        text=True,
        check=True,
    )
    peak, changed, renamed = map(int, done.stdout.split())
    assert (changed, renamed) == (8, 4)
    assert peak < 60 << 20
