# SPDX-License-Identifier: Apache-2.0
"""W + factor · (B @ A), computed by blocks of rows when it is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pystatedict._flat import Flat
from pystatedict._lazy import LazyTensor
from pystatedict._rounding import accumulator, rounded, widened

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# Elements of a block.  Blocks begin at the same rows however a tensor is read: a product of
# other sizes may be added up in another order.
_BLOCK = 1 << 18


class Pair:
    """B (out × r) and A (r × in), and what else a module's LoRA says.

    Attributes:
        factor: what their product is multiplied by.
        transposed: the weight is (in, out).
        magnitude: DoRA's length of each row, or None.
        strength: 1, or how much of DoRA's change is made.
    """

    def __init__(
        self,
        down: Any,
        up: Any,
        factor: float,
        *,
        mid: Any = None,
        transposed: bool = False,
        magnitude: Any = None,
        strength: float = 1.0,
    ) -> None:
        self.down, self.up, self.mid = Flat(down), Flat(up), None if mid is None else Flat(mid)
        self.rank = self.up.shape[1]
        self.factor = factor
        self.transposed = transposed
        self.magnitude = None if magnitude is None else Flat(magnitude)
        self.strength = strength

    def changed(self, weight: Any, accumulate: str) -> LazyTensor:
        """The weight with the product added, in its own dtype."""
        product = _Product(weight, self, accumulate)
        return LazyTensor(product.shape, product.dtype, product.read)


class _Product:
    def __init__(self, weight: Any, pair: Pair, accumulate: str) -> None:
        self._weight = Flat(weight)
        self.shape, self.dtype = self._weight.shape, self._weight.dtype
        self._rows, self._columns = self.shape[0], math.prod(self.shape[1:])
        self._high = max(1, _BLOCK // max(1, self._columns))
        self._pair = pair
        self._wide = accumulator([self.dtype, pair.down.dtype, pair.up.dtype], accumulate)
        self._real = self._wide.type
        self._right: Array | None = None  # r × columns, while it is needed
        self._whole_left: Array | None = None
        self._kept: tuple[int, Array] | None = None  # the last block and its number

    def read(self, start: int, count: int) -> Array:
        """Elements by their place, out of the blocks that they stand in."""
        made = np.empty(count, rounded(np.empty(0, self._wide), self.dtype).dtype)
        size = self._high * self._columns
        done = 0
        while done < count:
            number, within = divmod(start + done, size)
            piece = self._block(number)[within : within + count - done]
            made[done : done + len(piece)] = piece
            done += len(piece)
        if start + count == self._weight.numel:  # mostly this was the end
            self._right = self._whole_left = self._kept = None
        return made

    def _block(self, number: int) -> Array:
        if self._kept is None or self._kept[0] != number:
            self._kept = None
            self._kept = number, self._computed(number)
        return self._kept[1]

    def _computed(self, number: int) -> Array:
        first = number * self._high
        last = min(first + self._high, self._rows)
        place, count = first * self._columns, (last - first) * self._columns
        weight = widened(self._weight.read(place, count), self._wide)
        weight = weight.reshape(last - first, self._columns)
        with np.errstate(all="ignore"):
            change = (self._left(first, last) @ self._factors()) * self._real(self._pair.factor)
            made = weight + change
            if self._pair.magnitude is not None:
                made = self._of_length(made, weight, first, last)
        return rounded(made.reshape(-1), self.dtype)

    def _of_length(self, made: Array, weight: Array, first: int, last: int) -> Array:
        """DoRA: each row in the direction that the sum gave it, of the length that is told."""
        assert self._pair.magnitude is not None
        told = widened(self._pair.magnitude.read(first, last - first), self._wide)
        norm = np.sqrt(np.sum(made * made, axis=1))
        made = made * (told / norm)[:, None]
        if self._pair.strength != 1:
            made = weight + self._real(self._pair.strength) * (made - weight)
        return made

    def _left(self, first: int, last: int) -> Array:
        """Rows of what stands left in the product: of B, or of a transposed A."""
        pair = self._pair
        if not pair.transposed:
            rows = pair.up.read(first * pair.rank, (last - first) * pair.rank)
            return widened(rows, self._wide).reshape(last - first, pair.rank)
        if self._whole_left is None:
            self._whole_left = np.ascontiguousarray(self._matrix(pair.down, pair.rank).T)
        return self._whole_left[first:last]

    def _factors(self) -> Array:
        """What stands right: A with the middle part of Tucker's form in it, or a transposed B."""
        if self._right is None:
            pair = self._pair
            if pair.transposed:
                self._right = np.ascontiguousarray(self._matrix(pair.up, self._columns).T)
            elif pair.mid is None:
                self._right = self._matrix(pair.down, pair.rank)
            else:
                down = self._matrix(pair.down, pair.down.shape[0])
                mid = self._matrix(pair.mid, pair.rank).reshape(pair.mid.shape)
                whole = np.einsum("pq...,qi->pi...", mid, down)
                self._right = np.ascontiguousarray(whole).reshape(pair.rank, -1)
        return self._right

    def _matrix(self, flat: Flat, rows: int) -> Array:
        return widened(flat.read(0, flat.numel), self._wide).reshape(rows, -1)
