# SPDX-License-Identifier: Apache-2.0
"""Numbers of one dtype as those of another, rounded once: to nearest, ties to even."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pystatedict._dtypes import _ML_DTYPES, numpy_dtype, torch_dtype, widen

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: dtypes that are numbers with a fraction, to and from which cast() converts.
FLOATS = frozenset({"float16", "float32", "float64", *_ML_DTYPES})
INTEGERS = frozenset(
    {"uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool"}
)


def convert(array: Array, dtype: str) -> Array:
    """The elements in torch's dtype of that name.

    From float64 to a dtype of less than 32 bits they are rounded once, not to float32 first,
    which can differ in the last bit.  What is beyond the range becomes what the dtype has for
    it: infinity, or NaN where it has none.

    >>> import numpy as np
    >>> convert(np.array([1 + 2**-8 + 2**-40]), "bfloat16")
    array([1.00781], dtype=bfloat16)
    """
    import numpy as np

    target = numpy_dtype(dtype)
    if array.dtype == target and torch_dtype(array.dtype) == dtype:
        return array
    if dtype == "complex32":
        pairs = np.empty(array.shape, target)
        with np.errstate(over="ignore"):
            wide = widen(array)
            pairs["real"], pairs["imag"] = wide.real, wide.imag
        return pairs
    wide = widen(array)
    if dtype == "bool":
        return np.asarray(wide != 0)
    if dtype in _ML_DTYPES:
        if wide.dtype.kind in "iub" or wide.dtype == np.float64:
            wide = _to_odd(wide)
        wide = wide.astype("f4", copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(wide.astype(target))


def _to_odd(array: Array) -> Array:
    """float32 rounded so that a second rounding, to fewer bits, is as if it were the only one.

    Toward zero, and the last bit set where anything was lost: then no number lies half-way
    between two narrower ones unless it did before.
    """
    import numpy as np

    if array.dtype.kind in "iub":
        array = _of_integers(array)
    with np.errstate(over="ignore", invalid="ignore"):
        near = array.astype("f4")
    back = near.astype("f8")
    inexact = (back != array) & np.isfinite(array)
    bits = near.view("u4").copy()
    bits[inexact & (np.abs(back) > np.abs(array))] -= 1
    bits[inexact] |= 1
    return bits.view("f4")


def _of_integers(array: Array) -> Array:
    """float64, whose last bit says whether an integer of 64 bits had more of them."""
    import numpy as np

    near = array.astype("f8")
    if array.dtype.itemsize < 8 or array.dtype.kind == "b":
        return near
    # Beyond 53 bits: exact in two halves, the lower of which is never lost to sight.
    high = (array >> 32).astype("f8") * 4294967296.0
    low = (array & 0xFFFFFFFF).astype("f8")
    lost = (near - high) != low
    bits = near.view("i8").copy()
    over = lost & (np.abs(near - high) > np.abs(low)) & ((near - high > low) == (near > 0))
    bits[over] -= 1
    bits[lost] |= 1
    return bits.view("f8")


def overflowed(before: Array, after: Array) -> int:
    """How many finite numbers became infinite or NaN."""
    import numpy as np

    lost = ~np.isfinite(widen(after))
    return int(np.count_nonzero(np.isfinite(widen(before)) & lost)) if lost.any() else 0
