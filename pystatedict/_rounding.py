# SPDX-License-Identifier: Apache-2.0
"""Into the dtype that is computed in, and back to a tensor's own with one rounding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pystatedict._dtypes import numpy_dtype, widen

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_WIDE = frozenset({"float64", "complex128"})


def check_accumulate(accumulate: str) -> None:
    if accumulate not in ("float32", "float64"):
        raise ValueError(f'accumulate is "float32" or "float64", not {accumulate!r}')


def accumulator(dtypes: Iterable[str], accumulate: str) -> np.dtype[Any]:
    """The dtype that is computed in: never narrower than one of the tensors."""
    names = set(dtypes)
    wide = accumulate == "float64" or bool(names & _WIDE)
    if any(name.startswith("complex") for name in names):
        return np.dtype("c16" if wide else "c8")
    return np.dtype("f8" if wide else "f4")


def widened(array: Array, accumulator: np.dtype[Any]) -> Array:
    """The same numbers in the wider dtype; the array itself where it has it already."""
    if array.dtype.names is not None:
        array = widen(array)
    with np.errstate(all="ignore"):  # NaNs are the weights' own
        return array.astype(accumulator, copy=False)


def rounded(array: Array, name: str) -> Array:
    """float32, float64 or their complex kin in torch's dtype `name`, to the nearest, ties to even.

    >>> import numpy as np
    >>> just_above_the_middle = np.array([1 + 2**-8 + 2**-40])
    >>> rounded(just_above_the_middle, "bfloat16").astype("f8")
    array([1.0078125])
    """
    from pystatedict._narrow import convert

    with np.errstate(all="ignore"):  # what is too large becomes infinite, or NaN of some float8
        if name == "complex32":
            made = np.empty(array.shape, numpy_dtype(name))
            made["real"], made["imag"] = (
                convert(array.real, "float16"),
                convert(array.imag, "float16"),
            )
            return made
        return convert(array, name)
