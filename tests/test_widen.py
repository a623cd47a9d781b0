# SPDX-License-Identifier: Apache-2.0
"""widen: numbers of dtypes that NumPy has not, in one that it has."""

from __future__ import annotations

import kit
import ml_dtypes
import numpy as np
import pytest

import pystatedict as psd

NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@pytest.mark.parametrize("name", NARROW)
def test_every_value_of_small_floats(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    codes = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
    found = psd.widen(codes.view(dtype))
    assert found.dtype == np.float32
    number = ~np.isnan(found)
    assert number.sum() > 200
    back = found[number].astype(dtype).view(codes.dtype)
    np.testing.assert_array_equal(back, codes[number])


def test_complex32() -> None:
    pairs = np.zeros((2, 3), dtype=[("real", "f2"), ("imag", "f2")])
    pairs["real"], pairs["imag"] = np.arange(6).reshape(2, 3), -0.5
    back = kit.reloaded({"c": pairs})["c"]
    found = psd.widen(back)
    assert found.dtype == np.complex64
    np.testing.assert_array_equal(found, np.arange(6).reshape(2, 3) - 0.5j)


def test_float4_pairs() -> None:
    values = psd.load(
        kit.archive(
            kit.call(
                "torch._utils",
                "_rebuild_tensor_v3",
                kit.storage("0", "UntypedStorage", 8),
                kit.integer(0),
                kit.sizes((2, 4)),
                kit.sizes((4, 1)),
                kit.boolean(False),
                kit.call("collections", "OrderedDict"),
                kit.named("torch", "float4_e2m1fn_x2"),
            ),
            {"0": bytes(low | low + 1 << 4 for low in range(0, 16, 2))},
        )
    )
    found = psd.widen(values)
    assert found.shape == (2, 8)
    expected = np.arange(16, dtype="u1").view(ml_dtypes.float4_e2m1fn).astype("f4")
    np.testing.assert_array_equal(found.reshape(-1), expected)
    assert np.signbit(found.reshape(-1)[8])


@pytest.mark.parametrize(
    ("shape", "wide"),
    [((0, 3), (0, 6)), ((2, 0), (2, 0)), ((0,), (0,)), ((2, 3), (2, 6)), ((), (2,))],
)
def test_float4_of_every_shape(shape: tuple[int, ...], wide: tuple[int, ...]) -> None:
    dtype = np.dtype("u1", metadata={"torch_dtype": "float4_e2m1fn_x2"})
    assert psd.widen(np.zeros(shape, dtype)).shape == wide


def test_other_arrays_stay() -> None:
    for dtype in ("f2", "f4", "f8", "i1", "u8", "c8", "?", "U3"):
        array = np.zeros(3, dtype)
        assert psd.widen(array) is array


def test_bits_are_no_numbers() -> None:
    from pystatedict._dtypes import numpy_dtype

    with pytest.raises(TypeError, match="bits8"):
        psd.widen(np.zeros(3, numpy_dtype("bits8")))
