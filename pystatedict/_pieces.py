# SPDX-License-Identifier: Apache-2.0
"""Arrays in pieces, whatever their size and strides: for who looks at every element once."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from pystatedict._core import LIMITS
from pystatedict._errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Index = tuple[Any, ...]

#: Elements of a piece: of float64 two MiB, so that what is made of it stays in the cache.
PIECE = 1 << 18

# Bytes that may be shown of however few; above, LIMITS["inflation"] times those there are.
_FINE = 1 << 31


def pieces(shape: tuple[int, ...], most: int = PIECE) -> Iterator[Index]:
    """Indices of the parts of an array, in row-major order, of at most so many elements.

    They depend on the shape alone, so that two arrays can be walked together.

    >>> list(pieces((5,), 2))
    [(slice(0, 2, None),), (slice(2, 4, None),), (slice(4, 5, None),)]
    """
    if 0 in shape:
        return
    if math.prod(shape) <= most:
        yield (...,)  # not (): an array of no dimensions stays an array
        return
    axis = next(i for i in range(len(shape)) if math.prod(shape[i + 1 :]) <= most)
    step = max(most // math.prod(shape[axis + 1 :]), 1)
    for place in _places(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield (*place, slice(start, min(start + step, shape[axis])))


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """As numpy.ndindex, without an array of them."""
    place = [0] * len(shape)
    while True:
        yield tuple(place)
        for axis in reversed(range(len(shape))):
            place[axis] += 1
            if place[axis] < shape[axis]:
                break
            place[axis] = 0
        else:
            return


def bytes_of(piece: Array) -> Array:
    """The elements as bytes, row-major and little-endian."""
    import numpy as np

    whole = np.ascontiguousarray(piece)
    dtype = whole.dtype
    order = sys.byteorder[0] if dtype.byteorder in "=|" else "b" if dtype.byteorder == ">" else "l"
    if dtype.names is not None:
        whole = whole.astype(dtype.newbyteorder("<"))
    elif order == "b" and dtype.itemsize > 1:
        if dtype.isbuiltin == 2:  # of ml_dtypes: NumPy cannot swap them
            whole = whole.view(f"u{dtype.itemsize}").byteswap()
        elif dtype.byteorder != "|":
            whole = whole.astype(dtype.newbyteorder("<"))
    return whole.reshape(-1).view(np.uint8)


def without_repeats(a: Array, b: Array) -> tuple[Array, Array]:
    """Both without the dimensions that repeat one element in both, which may be vast."""
    repeated = [
        n > 1 and not (s or t) for n, s, t in zip(a.shape, a.strides, b.strides, strict=True)
    ]
    index = tuple(slice(0, 1) if repeats else slice(None) for repeats in repeated)
    return (a[index], b[index]) if any(repeated) else (a, b)


class Work:
    """How many bytes were looked at, held against those that stand behind them.

    A few bytes can be seen as a tensor of any size, by strides of 0 or rows that overlap.
    """

    __slots__ = ("_seen", "_there")

    def __init__(self) -> None:
        self._seen = self._there = 0

    def add(self, array: Array) -> None:
        """Raises LimitError where an array, or many together, show far more than there is."""
        self._seen += array.nbytes
        if array.size:
            steps = zip(array.shape, array.strides, strict=True)
            span = array.itemsize + sum((n - 1) * abs(step) for n, step in steps)
            self._there += min(span, array.nbytes)
        most = max(_FINE, LIMITS["inflation"] * self._there)
        if self._seen > most:
            raise LimitError(
                f"tensors of {self._seen:,} bytes show {self._there:,} bytes over and over",
                code="limit",
                hint="such tensors repeat elements by their strides; leave them out",
            )
