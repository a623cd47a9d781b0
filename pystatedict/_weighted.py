# SPDX-License-Identifier: Apache-2.0
"""Weighted sums of tensors, as tensors that are computed when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pystatedict._flat import Flat
from pystatedict._lazy import LazyTensor
from pystatedict._rounding import accumulator, rounded, widened

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


def weighted(
    terms: Sequence[tuple[Any, float]],
    accumulate: str,
    *,
    dtype: str | None = None,
    divisor: float = 1.0,
) -> LazyTensor:
    """Σ factor · tensor / divisor, added from the first term to the last and rounded once.

    Terms of factor 0 are not read.  One tensor that stays as it is keeps its very bits.
    `dtype` is torch's name of the result's, by default that of the first term.
    """
    flats = [(Flat(value), factor) for value, factor in terms]
    shape, name = flats[0][0].shape, dtype or flats[0][0].dtype
    wide = accumulator([*(flat.dtype for flat, _ in flats), name], accumulate)
    flats = [(flat, factor) for flat, factor in flats if factor]
    if [(flat.dtype, factor) for flat, factor in flats] == [(name, 1.0)] and divisor == 1:
        return LazyTensor(shape, name, flats[0][0].read)
    real = np.dtype("f8" if wide in ("f8", "c16") else "f4").type

    def read(start: int, count: int) -> Array:
        with np.errstate(all="ignore"):  # infinities and NaNs of weights are theirs
            total: Any = np.zeros(count, wide) if not flats else None
            for flat, factor in flats:
                piece = widened(flat.read(start, count), wide)
                if factor != 1:
                    piece = piece * real(factor)
                total = piece if total is None else total + piece
            if divisor != 1:
                total = total / real(divisor)
        return rounded(total, name)

    return LazyTensor(shape, name, read)
