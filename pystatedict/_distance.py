# SPDX-License-Identifier: Apache-2.0
"""How far two arrays of one shape are apart, in pieces: integers exactly, the rest in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pystatedict._pieces import bytes_of, pieces, without_repeats

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Mask = npt.NDArray[np.bool_]


def same_bytes(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are equal to the bit, in any byte order."""
    import numpy as np

    a, b = without_repeats(a, b)
    return all(np.array_equal(bytes_of(a[i]), bytes_of(b[i])) for i in pieces(a.shape))


class Measure:
    """What is known of two arrays after each piece; see Distance for what the numbers mean."""

    def __init__(self, rtol: float, atol: float) -> None:
        self._rtol, self._atol = rtol, atol
        self.count = self.differing = self.beyond = self.nans = 0
        self.max_abs: int | float | None = 0
        self.max_rel: float | None = 0.0
        self._numbers = 0  # pairs without a NaN
        self._gaps = _Products()
        self._products = _Products()

    def run(self, a: Array, b: Array) -> Measure:
        """Look at all pairs of elements; the arrays have one shape."""
        import numpy as np

        short_a, short_b = without_repeats(a, b)
        with np.errstate(all="ignore"):
            for index in pieces(short_a.shape):
                self._add(short_a[index], short_b[index])
        if short_a.size and short_a.size != a.size:
            times = a.size // short_a.size
            self.count *= times
            self.differing *= times
            self.beyond *= times
            self.nans *= times
        return self

    @property
    def rms(self) -> float | None:
        """The root of the mean square of the gaps, of pairs without a NaN."""
        if self.max_abs is None or not self._numbers:
            return None
        return self._gaps.norm() / math.sqrt(self._numbers)

    @property
    def cosine(self) -> float | None:
        return None if self.max_abs is None else self._products.cosine()

    def _add(self, a: Array, b: Array) -> None:
        import numpy as np

        wide_a, wide_b = numbers(a), numbers(b)
        if wide_a is None or wide_b is None or wide_a.size != wide_b.size:  # float4 and bytes
            self._add_bits(a, b)
            return
        self.count += wide_a.size
        if wide_a.dtype.kind in "iu" and wide_b.dtype.kind in "iu":
            self._add_integers(wide_a, wide_b)
            return
        kind = "c16" if "c" in (wide_a.dtype.kind, wide_b.dtype.kind) else "f8"
        x, y = wide_a.astype(kind), wide_b.astype(kind)
        nan_x, nan_y = np.isnan(x), np.isnan(y)
        either = nan_x | nan_y
        equal = (x == y) | (nan_x & nan_y)
        rounded = equal & ~either & ~(_exact(wide_a, x) & _exact(wide_b, y))
        gap = np.abs(x - y)
        gap[np.isnan(gap)] = np.inf  # of infinite parts
        gap[equal | either] = 0.0
        if rounded.any():  # integers that float64 rounds to the other side's number
            exact = [
                abs(int(p) - int(q)) for p, q in zip(*_chosen(rounded, wide_a, wide_b), strict=True)
            ]
            gap[rounded] = exact
            equal &= gap == 0
        finite = np.isfinite(x) & np.isfinite(y)
        self._count(equal, gap, np.abs(y), np.isfinite(y) & ~nan_x)
        self.nans += int(np.count_nonzero(nan_x ^ nan_y))
        self._numbers += int(x.size - np.count_nonzero(either))
        self._gaps.add(gap, gap)
        self._products.add(np.where(finite, x, 0.0), np.where(finite, y, 0.0))
        self.max_abs = max(float(self.max_abs or 0), float(gap.max()) if gap.size else 0.0)

    def _add_integers(self, a: Array, b: Array) -> None:
        """Gaps in uint64; where a sum of two 64-bit magnitudes goes beyond, it is carried."""
        import numpy as np

        gap, carry = _integer_gap(a, b)
        wide = gap.astype("f8")
        if carry.any():
            wide[carry] += 2.0**64
            largest = (1 << 64) + int(gap[carry].max())
        else:
            largest = int(gap.max()) if gap.size else 0
        y = b.astype("f8")
        self._count((gap == 0) & ~carry, wide, np.abs(y), True)
        self._numbers += a.size
        self._gaps.add(wide, wide)
        self._products.add(a.astype("f8"), y)
        self.max_abs = max(self.max_abs or 0, largest)

    def _count(self, equal: Mask, gap: Array, size: Array, closable: Mask | bool) -> None:
        import numpy as np

        close = equal | ((gap <= self._atol + self._rtol * size) & closable)
        self.differing += int(equal.size - np.count_nonzero(equal))
        self.beyond += int(equal.size - np.count_nonzero(close))
        apart = gap > 0
        if apart.any():
            ratio = gap[apart] / size[apart]
            ratio[np.isnan(ratio)] = np.inf  # of two infinities
            self.max_rel = max(self.max_rel or 0.0, float(ratio.max()))

    def _add_bits(self, a: Array, b: Array) -> None:
        """What are no numbers can only be equal or not."""
        import numpy as np

        self.max_abs = self.max_rel = None
        self.count += a.size
        if a.dtype.itemsize != b.dtype.itemsize:
            unequal = a.size
        elif a.dtype.itemsize == 0:
            unequal = 0
        else:
            rows = (bytes_of(a) != bytes_of(b)).reshape(a.size, a.dtype.itemsize)
            unequal = int(np.count_nonzero(rows.any(axis=1)))
        self.differing += unequal
        self.beyond += unequal


def numbers(piece: Array) -> Array | None:
    """The elements in a row, in a native dtype to compute with; None of what are no numbers."""
    from pystatedict._dtypes import widen

    try:
        wide = widen(piece).reshape(-1)
    except TypeError:
        return None
    dtype = wide.dtype
    if dtype.isbuiltin == 2:  # of ml_dtypes, and none of torch's
        return wide.astype("c16" if "complex" in dtype.name else "f8")
    if dtype.kind == "b":
        return wide.astype("u1")
    if dtype.kind in "iu":
        return wide.astype(dtype.newbyteorder("="), copy=False)
    return wide if dtype.kind in "fc" else None


def _integer_gap(a: Array, b: Array) -> tuple[Array, Mask]:
    """(|a - b| modulo 2**64, where 2**64 is to be added), exactly."""
    import numpy as np

    signed = [x.dtype.kind == "i" or x.dtype.itemsize < 8 for x in (a, b)]
    if signed[0] == signed[1]:
        kind = "i8" if signed[0] else "u8"
        a, b = a.astype(kind), b.astype(kind)
        gap = np.maximum(a, b).view("u8") - np.minimum(a, b).view("u8")
        return gap, np.zeros(gap.shape, bool)
    s, u = (a, b) if signed[0] else (b, a)
    s = s.astype("i8")
    negative, bits = s < 0, s.view("u8")
    gap = np.where(negative, u - bits, np.maximum(u, bits) - np.minimum(u, bits))
    return gap, negative & (gap < u)


def _exact(whole: Array, wide: Array) -> Mask | np.bool_:
    """Where an integer came through float64 as it was."""
    import numpy as np

    if whole.dtype.kind not in "iu" or whole.dtype.itemsize < 8:
        return np.True_
    real = wide.real
    top = 2.0**63 if whole.dtype.kind == "i" else 2.0**64
    below = real < top
    real = real * below
    back: Mask = below & (real.astype(whole.dtype) == whole)
    return back


def _chosen(mask: Mask, a: Array, b: Array) -> tuple[Any, Any]:
    """Those elements as Python's numbers, real parts alone: they are equal, and integers."""
    return a[mask].real.tolist(), b[mask].real.tolist()


class _Products:
    """Sums of products of two arrays, scaled so that none overflows: for norms and the cosine."""

    __slots__ = ("_dot", "_scale_x", "_scale_y", "_xx", "_yy")

    def __init__(self) -> None:
        self._scale_x = self._scale_y = 0.0
        self._dot = self._xx = self._yy = 0.0

    def add(self, x: Array, y: Array) -> None:
        import numpy as np

        first, self._scale_x, old_x = _scaled(x.reshape(-1), self._scale_x)
        if y is x:  # for the norm alone
            self._xx = self._xx * old_x * old_x + float(np.vdot(first, first).real)
            return
        second, self._scale_y, old_y = _scaled(y.reshape(-1), self._scale_y)
        self._dot = self._dot * old_x * old_y + float(np.vdot(second, first).real)
        self._xx = self._xx * old_x * old_x + float(np.vdot(first, first).real)
        self._yy = self._yy * old_y * old_y + float(np.vdot(second, second).real)

    def norm(self) -> float:
        """Of the first."""
        return math.sqrt(self._xx) * self._scale_x if self._xx else 0.0

    def cosine(self) -> float | None:
        if not self._xx or not self._yy:
            return None
        found = self._dot / (math.sqrt(self._xx) * math.sqrt(self._yy))
        return max(-1.0, min(1.0, found))


def _scaled(x: Array, scale: float) -> tuple[Array, float, float]:
    """(the array over the new scale, that scale, by what old sums of it are to be multiplied)."""
    import numpy as np

    most = max(float(np.abs(x).max()), scale) if x.size else scale
    if math.isinf(most):  # beside infinite gaps the others are nothing
        return np.isinf(x).astype("f8"), most, float(math.isinf(scale))
    return (x / most, most, scale / most) if most else (x, most, 1.0)
