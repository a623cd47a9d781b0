# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of whole models: rounding, ties, reports, and stretches of any size."""

from __future__ import annotations

import bisect
import os
import pathlib
import subprocess
import sys
from fractions import Fraction
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_growth import Sparse

import pystatedict as psd
from pystatedict import _flat, _running
from pystatedict._arithmetic import add, average, ema, scale, subtract, task_arithmetic
from pystatedict._dtypes import numpy_dtype
from pystatedict._interpolate import interpolate
from pystatedict._lazy import LazyTensor
from pystatedict._rounding import rounded
from pystatedict._running import RunningAverage

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
          "float8_e5m2fnuz"]  # fmt: skip


def some(seed: int, shape: tuple[int, ...] = (5, 7), dtype: Any = "f4") -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        return (made + 1j * some(seed + 1000, shape, "f8")).astype(dtype)
    return made.astype(dtype)


def model(seed: int) -> dict[str, np.ndarray]:
    return {
        "f4": some(seed),
        "f8": some(seed, dtype="f8"),
        "f2": some(seed, dtype="f2"),
        "bf16": some(seed, dtype=ml_dtypes.bfloat16),
        "e4m3": some(seed, dtype=ml_dtypes.float8_e4m3fn),
        "e5m2": some(seed, dtype=ml_dtypes.float8_e5m2),
        "c8": some(seed, dtype="c8"),
        "c16": some(seed, dtype="c16"),
        "i8": np.full(3, seed, "i8"),
        "flag": np.array([seed % 2 == 1, True]),
        "empty": np.zeros((0, 3), "f4"),
        "scalar": np.asarray(some(seed, ())),
    }


def same(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert kit.bits(a) == kit.bits(b)


# ------------------------------------------------------------------ rounding


class Nearest:
    """The nearest number of a dtype, by all the numbers that it has, as fractions."""

    def __init__(self, name: str) -> None:
        dtype = numpy_dtype(name)
        unsigned = f"u{dtype.itemsize}"
        every = np.arange(1 << (8 * dtype.itemsize - 1), dtype=unsigned)
        with np.errstate(invalid="ignore"):
            values = every.view(dtype).astype("f8")
        self.bits = [int(b) for b, v in zip(every, values, strict=True) if np.isfinite(v)]
        self.values = [Fraction(float(v)) for v in values if np.isfinite(v)]
        self.sign = 1 << (8 * dtype.itemsize - 1)
        self.has_minus_0 = not name.endswith("uz")

    def __call__(self, number: Fraction) -> int:
        size = abs(number)
        above = bisect.bisect_left(self.values, size)
        if self.values[above] == size:
            found = above
        else:
            low, high = self.values[above - 1], self.values[above]
            if size - low == high - size:
                found = above if self.bits[above] % 2 == 0 else above - 1
            else:
                found = above if high - size < size - low else above - 1
        return self.bits[found] | (
            self.sign if number < 0 and (self.bits[found] or self.has_minus_0) else 0
        )


NEAREST = {name: Nearest(name) for name in NARROW}


def hard_numbers(name: str) -> np.ndarray:
    """float64 at, just below and just above numbers of a dtype and the middles between them."""
    values = [float(v) for v in NEAREST[name].values]
    chosen = np.random.default_rng(5).choice(len(values) - 1, 300)
    points: list[float] = []
    for i in [0, 1, 2, len(values) - 2, *chosen.tolist()]:
        middle = (values[i] + values[i + 1]) / 2
        for at in (values[i], middle):
            points += [at, np.nextafter(at, 1e9), np.nextafter(at, -1e9), at * (1 + 2**-30)]
    found = np.array([p for p in points if 0 < p < values[-1]])
    return np.concatenate([found, -found])


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("wide", ["f8", "f4"])
def test_rounding_is_to_nearest_even_and_once(name: str, wide: str) -> None:
    numbers = hard_numbers(name).astype(wide)
    numbers = numbers[numbers != 0]  # of the sign of a zero a fraction knows nothing
    got = rounded(numbers.copy(), name).view(f"u{numpy_dtype(name).itemsize}")
    expected = [NEAREST[name](Fraction(float(n))) for n in numbers]
    assert got.tolist() == expected


@given(st.lists(st.floats(allow_nan=False, width=64), min_size=1))
def test_rounding_of_any_float64_to_float16(numbers: list[float]) -> None:
    """NumPy's own conversion, which has no float32 on its way."""
    array = np.array(numbers)
    with np.errstate(all="ignore"):
        expected = array.astype("f2")
    same(rounded(array, "float16"), expected)


def test_rounding_keeps_what_is_no_number() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e300, 5e-324])
    got = rounded(odd, "bfloat16").astype("f8")
    np.testing.assert_array_equal(got, [np.nan, np.inf, -np.inf, -0.0, np.inf, 0])
    assert np.signbit(got[3])


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn"])
def test_a_mean_in_float64_is_that_of_fractions_rounded_once(name: str) -> None:
    dtype = numpy_dtype(name)
    models = [{"w": some(seed, (400,), dtype)} for seed in range(4)]
    got = average(models, accumulate="float64")["w"].numpy()
    for place in range(400):
        exact = sum(Fraction(float(m["w"][place])) for m in models) / 4
        assert got[place : place + 1].view(f"u{dtype.itemsize}")[0] == NEAREST[name](exact)


# ------------------------------------------------------------------ against plain NumPy and torch


def test_average_of_every_dtype() -> None:
    models = [model(seed) for seed in (1, 2, 3)]
    got = average(models)
    assert list(got) == list(models[0])
    for name in ("f4", "f2", "bf16", "e4m3", "e5m2", "c8", "f8", "c16", "empty", "scalar"):
        own = models[0][name].dtype
        wide = {"c8": "c8", "f8": "f8", "c16": "c16"}.get(name, "f4")
        rows = [m[name].astype(wide) for m in models]
        total = (rows[0] + rows[1]) + rows[2]
        divisor = np.float64(3) if wide in ("f8", "c16") else np.float32(3)
        same(got[name].numpy(), np.asarray(total / divisor).astype(own))
        assert isinstance(got[name], LazyTensor)
    assert got["i8"] is models[0]["i8"]
    assert got["flag"] is models[0]["flag"]
    assert average(models, integers="last")["i8"] is models[2]["i8"]


def test_complex32_is_a_number_too() -> None:
    pairs = [np.array([(n, -2 * n)], numpy_dtype("complex32")) for n in (1, 2)]
    got = average([{"w": p} for p in pairs])["w"].numpy()
    same(got, np.array([(1.5, -3)], numpy_dtype("complex32")))


def test_weights_are_normalised_or_not() -> None:
    models = [model(1), model(2)]
    got = average(models, [3, 1])["f4"].numpy()
    expected = models[0]["f4"] * np.float32(0.75) + models[1]["f4"] * np.float32(0.25)
    same(got, expected)
    got = average(models, [3, 1], normalize=False)["f4"].numpy()
    same(got, models[0]["f4"] * np.float32(3) + models[1]["f4"])
    same(average(models, [0, 5])["e4m3"].numpy(), models[1]["e4m3"])


def test_a_model_of_weight_0_is_not_read() -> None:
    def fail(start: int, count: int) -> Any:
        raise AssertionError("read")

    models = [{"w": np.ones(3, "f4")}, {"w": LazyTensor((3,), "float32", fail)}]
    same(average(models, [1, 0])["w"].numpy(), np.ones(3, "f4"))


@pytest.mark.parametrize(
    ("arguments", "named", "said"),
    [
        (([],), {}, "no model"),
        (([{}, {}], [1]), {}, "1 weights for 2 models"),
        (([{}, {}], [1, -1]), {}, "sum 0"),
        (([{}], [float("nan")]), {}, "finite"),
        (([{}],), {"accumulate": "float16"}, "float32"),
        (([{}],), {"integers": "mean"}, "first"),
    ],
)
def test_wrong_arguments(arguments: Any, named: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        average(*arguments, **named)


def test_one_model_in_the_place_of_many() -> None:
    with pytest.raises(TypeError, match="iterable of models"):
        average({"w": np.ones(2, "f4")})
    with pytest.raises(TypeError, match="iterable of models"):
        average("model.pth")
    with pytest.raises(TypeError, match="holds no weights"):
        average([3])


@pytest.mark.oracle
def test_torch_computes_the_same() -> None:
    torch = pytest.importorskip("torch")
    a, b = some(1, (1000,)), some(2, (1000,))
    ta, tb = torch.from_numpy(a.copy()), torch.from_numpy(b.copy())
    vector = subtract({"w": a}, {"w": b})["w"].numpy()
    same(vector, (ta - tb).numpy())
    same(ema({"w": a}, {"w": b}, 0.999)["w"].numpy(), (ta * 0.999 + tb * (1 - 0.999)).numpy())
    same(scale({"w": a}, 0.3)["w"].numpy(), (ta * 0.3).numpy())
    same(average([{"w": a}, {"w": b}])["w"].numpy(), ((ta + tb) / 2).numpy())
    same(add({"w": a}, {"w": b}, 0.7)["w"].numpy(), (ta + tb * 0.7).numpy())
    for t in (0.25, 0.75, 1.5):
        got = interpolate({"w": a}, {"w": b}, t)["w"].numpy()
        # torch may fuse the product and the sum, which rounds once less
        np.testing.assert_allclose(got, torch.lerp(ta, tb, t).numpy(), rtol=0, atol=2**-22)
        exact = torch.lerp(ta.double(), tb.double(), t).float().numpy()
        got = interpolate({"w": a}, {"w": b}, t, accumulate="float64")["w"].numpy()
        same(got, exact)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_torch_rounds_the_same(name: str, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, name)
    models = [torch.from_numpy(some(seed, (999,))).to(kind) for seed in range(3)]
    for i, tensor in enumerate(models):
        torch.save({"w": tensor}, tmp_path / f"{i}.pth")
    psd.save(average(tmp_path / f"{i}.pth" for i in range(3)), tmp_path / "mean.pth")
    got = torch.load(tmp_path / "mean.pth")["w"]
    expected = (sum(tensor.float() for tensor in models) / 3).to(kind)
    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))


def test_task_vectors() -> None:
    base, one, two = model(1), model(2), model(3)
    got = task_arithmetic(base, [(one, 0.5), (two, -2)])
    expected = (base["bf16"].astype("f4") + one["bf16"].astype("f4") * np.float32(0.5)) + two[
        "bf16"
    ].astype("f4") * np.float32(-2)
    same(got["bf16"].numpy(), expected.astype(ml_dtypes.bfloat16))
    assert got["i8"] is base["i8"]
    vector = subtract(one, base, dtype="float32")
    same(vector["bf16"].numpy(), one["bf16"].astype("f4") - base["bf16"].astype("f4"))
    assert vector["c8"].dtype == "complex64"
    same(add(base, vector)["bf16"].numpy(), one["bf16"])
    same(scale(base, 2, dtype="float64")["f2"].numpy(), base["f2"].astype("f8") * 2)
    with pytest.raises(ValueError, match="name of a float"):
        subtract(one, base, dtype="int8")


def test_names_that_only_one_has() -> None:
    a = {"w": np.ones(2, "f4"), "head": np.ones(3, "f4"), "n": np.int64([1])}
    b = {"w": np.ones(2, "f4"), "tail": np.full(1, 3, "f2"), "m": np.int64([2])}
    with pytest.raises(psd.MismatchError) as caught:
        subtract(a, b)
    assert caught.value.missing_keys == ["head", "n"]
    assert caught.value.unexpected_keys == ["tail", "m"]
    got = subtract(a, b, missing="keep")
    assert {n: np.asarray(v).tolist() for n, v in got.items()} == {
        "w": [0, 0], "head": [1, 1, 1], "n": [1], "tail": [-3], "m": [2]
    }  # fmt: skip
    with pytest.raises(psd.MismatchError, match="tail"):  # of the second and the third
        task_arithmetic(a, [(b, 1), ({"tail": np.ones(4, "f4")}, 1)], missing="keep")
    with pytest.raises(ValueError, match="missing"):
        add(a, b, missing="ignore")  # type: ignore[arg-type]


def test_a_moving_average() -> None:
    a, b = model(1), model(2)
    got = ema(a, b, 0.9)
    assert got["i8"] is b["i8"]
    for decay, other in ((1, a), (0, b)):
        same(ema(a, b, decay)["bf16"].numpy(), other["bf16"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        ema(a, b, 1.5)


# ------------------------------------------------------------------ between two models


def test_the_ends_are_the_models_to_the_bit() -> None:
    a, b = model(1), model(2)
    a["f4"].view("u4")[0, :2] = 0x7FC12345, 0x80000000  # a NaN with a payload, and -0.0
    b["f4"].view("u4")[0, 2] = 0xFFA00001
    for method in ("linear", "slerp"):
        for t, end in ((0, a), (1, b)):
            got = interpolate(a, b, t, method=method)
            for name in ("f4", "f8", "bf16", "e4m3", "c8", "scalar", "empty"):
                same(got[name].numpy(), end[name])
            assert got["i8"] is a["i8"]


def test_the_straight_line() -> None:
    a, b = some(1), some(2)
    t = np.float32(0.3)
    same(interpolate({"w": a}, {"w": b}, 0.3)["w"].numpy(), a + t * (b - a))
    equal = interpolate({"w": a}, {"w": a.copy()}, 0.7)["w"].numpy()
    same(equal, a)


def test_the_arc() -> None:
    a, b = some(1, (300, 1000)), some(2, (300, 1000))
    x, y = a.astype("f8").reshape(-1), b.astype("f8").reshape(-1)
    angle = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    expected = (np.sin(0.6 * angle) * x + np.sin(0.4 * angle) * y) / np.sin(angle)
    got = interpolate({"w": a}, {"w": b}, 0.4, method="slerp")["w"].numpy().reshape(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    c, d = some(1, (9,), "c8"), some(2, (9,), "c8")
    got = interpolate({"w": c}, {"w": d}, 0.5, method="slerp")["w"].numpy()
    u, v = c.view("f4"), d.view("f4")
    flat = interpolate({"w": u}, {"w": v}, 0.5, method="slerp")["w"].numpy()
    np.testing.assert_allclose(got.view("f4"), flat, rtol=1e-6)


@pytest.mark.parametrize("other", [[1, 1e-6], [-1, 1e-6], [0, 0], [np.inf, 1], [2, 0]])
def test_the_arc_is_straight_where_there_is_none(other: list[float]) -> None:
    a, b = {"w": np.float32([1, 0])}, {"w": np.float32(other)}
    with np.errstate(all="ignore"):
        expected = interpolate(a, b, 0.3)["w"].numpy()
    same(interpolate(a, b, 0.3, method="slerp")["w"].numpy(), expected)


def test_numbers_by_globs() -> None:
    a = {"enc.w": np.zeros(1, "f4"), "dec.w": np.zeros(1, "f4"), "n": np.int64([1])}
    b = {"enc.w": np.ones(1, "f4"), "dec.w": np.ones(1, "f4"), "n": np.int64([2])}
    got = interpolate(a, b, {"enc.*": 0.25, "*.w": 0.75})
    assert [got[n].numpy()[0] for n in ("enc.w", "dec.w")] == [0.25, 0.75]
    with pytest.raises(ValueError, match=r"no number for 'dec\.w'"):
        interpolate(a, b, {"enc.*": 0.25})
    with pytest.raises(ValueError, match=r"no name matches 'head\.\*'"):
        interpolate(a, b, {"head.*": 0.25, "*": 0.5})
    with pytest.raises(ValueError, match="method"):
        interpolate(a, b, 0.5, method="cubic")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="t is a number"):
        interpolate(a, b, "half")  # type: ignore[arg-type]


# ------------------------------------------------------------------ how it is read


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_it_does_not_matter_how_it_is_read(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = ({"w": some(seed, (700, 800))} for seed in (1, 2))
    for make in (
        lambda: interpolate(a, b, 0.3, method=method)["w"],
        lambda: average([a, b, a], [1, 2, 4])["w"],
        lambda: subtract(a, b)["w"],
    ):
        whole = make().read(0, 560_000)
        again = make()
        starts = range(0, 560_000, 77_777)
        rows = [again.read(start, min(77_777, 560_000 - start)) for start in starts]
        same(np.concatenate(rows), whole)
        same(make().read(12_345, 3), whole[12_345:12_348])
    monkeypatch.setattr(_flat, "STRETCH", 1001)
    same(make().numpy().reshape(-1), whole)


def test_views_are_read_as_they_look() -> None:
    base = some(1, (6, 8))
    for view in (base.T, base[::2, 1:], base[:, ::-1], np.broadcast_to(base[0], (3, 8))):
        same(scale({"w": view}, 2)["w"].numpy(), np.ascontiguousarray(view) * 2)
    swapped = base.astype(">f4")
    same(scale({"w": swapped}, 2)["w"].numpy(), base * 2)
    same(scale({"w": swapped.T}, 2)["w"].numpy(), np.ascontiguousarray(base.T) * 2)
    flat = _flat.Flat(swapped)
    swapped[0, 0] = 5  # read when it is asked for, not copied before
    assert flat.read(0, 1) == 5
    same(flat.read(1, 3), base.reshape(-1)[1:4])


# ------------------------------------------------------------------ inputs, ties, flags


def test_containers_of_all_kinds_meet(tmp_path: pathlib.Path) -> None:
    arrays = [{"w": some(seed), "n": np.int64([seed])} for seed in range(4)]
    psd.save(arrays[0], tmp_path / "0.pth")
    psd.save(arrays[1], tmp_path / "1.pth", format="legacy")
    psd.save(arrays[2], tmp_path / "2.safetensors")
    psd.save({"model": arrays[3], "epoch": 7}, tmp_path / "3.pth")
    expected = average(arrays)["w"].numpy()
    names = ("0.pth", "1.pth", "2.safetensors", "3.pth")
    same(average(str(tmp_path / name) for name in names)["w"].numpy(), expected)
    with psd.open(tmp_path / "0.pth") as checkpoint:
        infos = psd.load(tmp_path / "1.pth", map_location="meta")
        nested = psd.load(tmp_path / "3.pth", map_location="meta")
        lazy = scale(arrays[2], 1.0)
        got = average([checkpoint, infos, lazy, nested])
        same(got["w"].numpy(), expected)
        psd.save(got, tmp_path / "mean.pth")
    back = psd.load(tmp_path / "mean.pth")
    same(back["w"], expected)
    same(back["n"], arrays[0]["n"])


@pytest.mark.oracle
def test_files_of_torch(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        net(torch.randn(5, 4))
        torch.save(net.state_dict(), tmp_path / f"{seed}.pth")
        made.append(net.state_dict())
    got = average([tmp_path / "0.pth", tmp_path / "1.pth"])
    psd.save(got, tmp_path / "mean.pth")
    back = torch.load(tmp_path / "mean.pth")
    assert got.metadata is not None
    assert back._metadata == made[0]._metadata
    assert list(back) == list(made[0])
    for name, tensor in back.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, (made[0][name] + made[1][name]) / 2)
    assert back["1.num_batches_tracked"].item() == 1


def test_ties_and_flags_stay(tmp_path: pathlib.Path) -> None:
    def one(seed: int) -> psd.StateDict:
        w = some(seed)
        items = {"w": w, "tied": w, "part": w[1:], "n": np.int64([1])}
        return psd.StateDict(items, metadata={"": {"version": 1}}, trainable={"w": True})

    for seed in (1, 2):
        psd.save(one(seed), tmp_path / f"{seed}.pth")
    for inputs in (
        [one(1), one(2)],
        [tmp_path / "1.pth", tmp_path / "2.pth"],
        [psd.load(tmp_path / f"{s}.pth") for s in (1, 2)],
    ):
        got = average(inputs)
        assert got["w"] is got["tied"]
        assert got["part"] is not got["w"]
        assert got.trainable["w"] is True
        assert got.trainable["part"] is None
        psd.save(got, tmp_path / "mean.pth", trainable="sidecar")
        with psd.open(tmp_path / "mean.pth") as checkpoint:
            assert checkpoint["w"].storage == checkpoint["tied"].storage
            assert checkpoint.trainable["w"] is True
        assert psd.load(tmp_path / "mean.pth").metadata == {"": {"version": 1}}
    with psd.open(tmp_path / "1.pth") as first, psd.open(tmp_path / "2.pth") as second:
        got = average([first, second])
        assert got["w"] is got["tied"]
        assert got["part"] is not got["w"]
    apart = one(2)
    apart["tied"] = apart["w"] + 1
    got = average([one(1), apart])
    assert got["w"] is not got["tied"]
    # what differs in the number is not the same tensor either
    got = interpolate(one(1), one(2), {"tied": 0.25, "*": 0.5})
    assert got["w"] is not got["tied"]


def test_what_is_no_tensor_is_kept() -> None:
    first = {"w": np.ones(1, "f4"), "epoch": 3, "x._extra_state": {"a": 1}, "none": None}
    got = average([first, {"w": np.ones(1, "f4"), "epoch": 9}])
    assert {n: v for n, v in got.items() if n != "w"} == {
        "epoch": 3, "x._extra_state": {"a": 1}, "none": None
    }  # fmt: skip


def test_all_that_does_not_fit_is_told_at_once() -> None:
    first = {"a": np.ones(2, "f4"), "b": np.ones(2, "f4"), "c": np.ones(2, "f4"), "d": 1,
             "e": np.ones(2, "f4"), "n": np.ones(2, "i8"), "q": np.zeros(2, "f4")}  # fmt: skip
    second = {"b": np.ones(3, "f4"), "c": np.ones(2, "i4"), "d": np.ones(1, "f4"), "e": 5,
              "n": np.ones(3, "i8"), "q": np.zeros(2, "c8"), "z": np.ones(1, "f4")}  # fmt: skip
    with pytest.raises(psd.MismatchError) as caught:
        average([first, first, second])
    error = caught.value
    assert error.missing_keys == ["a"]
    assert error.unexpected_keys == ["z"]
    assert error.mismatched == ["b", "c", "d", "e", "n", "q"]
    text = str(error)
    assert "b: shape (2,), in input 2 (3,)" in text
    assert "c: dtype float32, in input 2 int32" in text
    assert "input 2: 1 missing, 1 unexpected" in text
    for function in (lambda: ema(first, second, 0.5), lambda: interpolate(first, second, 0.5)):
        with pytest.raises(psd.MismatchError, match="nothing was computed"):
            function()


def test_tensors_that_are_not_plain_numbers_are_told(tmp_path: pathlib.Path) -> None:
    packed = np.zeros(2, numpy_dtype("float4_e2m1fn_x2"))
    with pytest.raises(psd.MismatchError, match="float4_e2m1fn_x2"):
        scale({"w": np.ones(1, "f4"), "p": packed}, 2)
    torch = pytest.importorskip("torch")
    odd = {"s": torch.eye(3).to_sparse(), "m": torch.ones(3, device="meta")}
    torch.save(odd, tmp_path / "odd.pth")
    for given_ in (tmp_path / "odd.pth", psd.load(tmp_path / "odd.pth")):
        with pytest.raises(psd.MismatchError) as caught:
            scale(given_, 2)
        assert caught.value.mismatched == ["s", "m"]


def test_tensors_of_others_are_not_passed_over() -> None:
    class Foreign:
        shape, dtype = (1,), np.dtype("f4")

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.ones(1, "f4")

    parameter = psd.Parameter("w", np.ones(1, "f4"), True)
    wide = np.ones(1, np.longdouble)
    for value, said in ((Foreign(), "Foreign, and no array"), (parameter, "Parameter, and no"),
                        (wide, str(wide.dtype))):  # fmt: skip
        if np.longdouble != np.float64 or value is not wide:
            with pytest.raises(psd.MismatchError, match=said):
                average([{"w": value, "x": np.ones(1, "f4")}])
    assert scale({"x": np.ones(1, "f4"), "n": np.float32(3)}, 2)["n"] == 3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_files_of_many_kinds(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Module()
    net.register_parameter("w", torch.nn.Parameter(torch.ones(2, 3)))
    net.register_buffer("n", torch.tensor([5]))
    torch.save(net, tmp_path / "module.pth")
    torch.save({"state_dict": net.state_dict(), "lr": 1}, tmp_path / "more.pth")
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    dcp.save(net.state_dict(), checkpoint_id=tmp_path / "dcp")
    psd.save({"w": np.ones((2, 3), "f4"), "n": np.int64([5])}, tmp_path / "a.npz")
    shards = {"w": np.ones((2, 3), "f4")}, {"n": np.int64([5])}
    (tmp_path / "shards").mkdir()
    for i, shard in enumerate(shards, 1):
        psd.save(shard, tmp_path / "shards" / f"model-0000{i}-of-00002.safetensors")
    other = {"w": np.full((2, 3), 4, "f4"), "n": np.int64([7])}
    for name in ("module.pth", "more.pth", "old.pth", "dcp", "a.npz", "shards"):
        psd.save(average([tmp_path / name, other]), tmp_path / "mean.pth")
        back = psd.load(tmp_path / "mean.pth")
        same(back["w"], np.full((2, 3), 2.5, "f4"))
        assert back["n"].tolist() == [5], name
        running = RunningAverage(integers="last")
        running.add(other)
        running.add(tmp_path / name)
        got = running.result()
        same(got["w"], np.full((2, 3), 2.5, "f4"))
        assert got["n"].tolist() == [5]
    got = average([tmp_path / "module.pth"])
    psd.save(got, tmp_path / "mean.pth")
    assert psd.load(tmp_path / "mean.pth").trainable["w"] is True


def test_dtypes_may_differ_within_a_kind() -> None:
    a, b = {"w": some(1, dtype="f2")}, {"w": some(2, dtype="f8")}
    got = average([a, b])["w"].numpy()
    expected = (a["w"].astype("f8") + b["w"]) / 2
    same(got, rounded(expected, "float16"))


# ------------------------------------------------------------------ one after another


def test_a_running_average_is_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_running, "STRETCH", 4)
    models = [model(seed) for seed in range(3)]
    for accumulate in ("float32", "float64"):
        running = RunningAverage(accumulate=accumulate)
        for each in models:
            running.add(each)
        got, expected = running.result(), average(models, accumulate=accumulate)
        assert list(got) == list(expected)
        for name in got:
            same(got[name], np.asarray(expected[name]))
    before = got["f4"].copy()
    running.add(models[0])
    same(got["f4"], before)  # a result is its own
    assert running.count == 4


def test_a_running_average_has_weights_ties_flags_and_integers() -> None:
    def one(seed: int, apart: bool = False) -> psd.StateDict:
        w = some(seed)
        items = {"w": w, "tied": w + 1 if apart else w, "n": np.int64([seed]), "text": "x"}
        return psd.StateDict(items, trainable={"w": True})

    running = RunningAverage(integers="last")
    running.add(one(1), 3)
    running.add(one(2))
    got = running.result()
    assert got["w"] is got["tied"]
    assert (got["n"].tolist(), got["text"], got.trainable["w"]) == ([2], "x", True)
    same(got["w"], (one(1)["w"] * np.float32(3) + one(2)["w"]) / np.float32(4))
    running.add(one(3, apart=True))
    got = running.result()
    np.testing.assert_allclose(got["tied"] - got["w"], 0.2, rtol=1e-5)


def test_a_running_average_adds_all_or_nothing() -> None:
    running = RunningAverage()
    with pytest.raises(ValueError, match="no model"):
        running.result()
    running.add({"w": np.ones(2, "f4")})
    with pytest.raises(psd.MismatchError):
        running.add({"w": np.ones(3, "f4")})
    running.add({"w": np.full(2, 3, "f8")})
    same(running.result()["w"], np.full(2, 2, "f4"))

    def fail(start: int, count: int) -> Any:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        running.add({"w": LazyTensor((2,), "float32", fail)})
    with pytest.raises(psd.StateDictError, match="in part only"):
        running.result()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="nothing tells what is open")
def test_no_file_stays_open_longer_than_it_is_needed(tmp_path: pathlib.Path) -> None:
    def still_open() -> int:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(link).startswith(str(tmp_path)) for link in links)

    for seed in range(3):
        psd.save({"w": some(seed), "n": np.int64([seed])}, tmp_path / f"{seed}.pth")
    paths = [tmp_path / f"{seed}.pth" for seed in range(3)]
    got = average(iter(paths))
    assert still_open() <= 3
    expected = got["w"].numpy()
    del got
    assert still_open() == 0
    running = RunningAverage()
    for path in paths:
        running.add(path)
        assert still_open() == 0
    same(running.result()["w"], expected)
    with pytest.raises(psd.MismatchError):
        average([*paths, {"w": some(1)}])
    assert still_open() == 0


def test_no_tensor_has_all_records_listed(tmp_path: pathlib.Path) -> None:
    """Of many tensors that would take a time that grows with their square."""
    psd.save({f"w{i}": some(1) for i in range(20)}, tmp_path / "many.pth")
    called: dict[str, int] = {}

    def count(frame: Any, event: str, function: Any) -> None:
        if event == "c_call":
            called[function.__name__] = called.get(function.__name__, 0) + 1

    with psd.open(tmp_path / "many.pth") as checkpoint:
        sys.setprofile(count)
        try:
            got = average([checkpoint])
        finally:
            sys.setprofile(None)
        assert called["record_of"] >= 20
        assert called.get("records", 0) <= 1
        same(got["w7"].numpy(), some(1))


def test_a_result_may_take_the_place_of_an_input(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f"{seed}.pth" for seed in range(2)]
    for seed, path in enumerate(paths):
        psd.save({"w": some(seed)}, path)
    psd.save(average(paths), paths[0])
    same(psd.load(paths[0])["w"], (some(0) + some(1)) / np.float32(2))


# ------------------------------------------------------------------ memory

PEAK = """
import sys
import pystatedict as psd
from pystatedict._arithmetic import average
from pystatedict._interpolate import interpolate
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
psd.save(average(sys.argv[1:2]), sys.argv[2])  # all is imported
before = peak()
psd.save(average(sys.argv[3:5], accumulate="float64"), sys.argv[2])
psd.save(interpolate(sys.argv[3], sys.argv[4], 0.5, method="slerp"), sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="nothing tells the peak")
def test_a_large_tensor_is_never_whole_in_memory(tmp_path: pathlib.Path) -> None:
    size = 200 << 20
    psd.save({"w": np.ones(1 << 20, "f4")}, tmp_path / "small.pth")
    for name in ("a.pth", "b.pth"):
        file = Sparse(tmp_path / name)
        program = kit.program(kit.dict_of({"w": kit.tensor("0", (size // 4,))}))
        file.add("huge/data.pkl", len(program), program)
        file.add("huge/data/0", size, np.float32([1 if name == "a.pth" else 3]).tobytes())
        file.close()
    paths = [str(tmp_path / n) for n in ("small.pth", "out.pth", "a.pth", "b.pth")]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *paths],
        env=kit.letting_go(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 30 << 10  # KiB
    with psd.open(tmp_path / "out.pth") as checkpoint:
        assert checkpoint["w"].shape == (size // 4,)
        assert checkpoint["w"][0] == 2
