# SPDX-License-Identifier: Apache-2.0
"""What can be said of many numbers, by two passes over pieces, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Pieces = Callable[[], Iterable[Array]]

BINS = 16


class Stats:
    """Counts of all numbers; the others are of the finite ones, None where there are none.

    `std` is that of the numbers themselves (divided by their count), as ``numpy.std``.  Of
    complex numbers all is said of their magnitudes.  `edges` stand around the bins of `counts`;
    whole numbers of a small range have a bin each.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.of = "values"
        self.count = self.finite = self.nan = self.inf = self.zeros = 0
        self.min: float | int | None = None
        self.max: float | int | None = None
        self.mean: float | None = None
        self.std: float | None = None
        self.edges: list[float] = []
        self.counts: list[int] = []
        self._whole = True  # integers, as far as seen
        with np.errstate(all="ignore"):
            self._count(pieces())
            if self.finite:
                self._fill(pieces())

    def members(self) -> dict[str, object]:
        """As JSON, which knows no infinite number."""
        names = ("of", "count", "finite", "nan", "inf", "zeros", "min", "max", "mean", "std")
        found: dict[str, object] = {name: _said(getattr(self, name)) for name in names}
        found["histogram"] = {"edges": [_said(e) for e in self.edges], "counts": self.counts}
        return found

    def _count(self, pieces: Iterable[Array]) -> None:
        mean = squares = 0.0
        for piece in pieces:
            if piece.dtype.kind not in "iub":
                self._whole = False
            if piece.dtype.kind == "c":
                self.of = "magnitudes"
            self.count += int(piece.size)
            numbers = self._finite_of(piece, count=True)
            if not numbers.size:
                continue
            # Of integers exactly: float64 has not all of them.
            exact = piece if piece.dtype.kind in "iub" else numbers
            low, high = exact.min().item(), exact.max().item()
            low, high = (int(low), int(high)) if self._whole else (low, high)
            self.min = low if self.min is None else min(self.min, low)
            self.max = high if self.max is None else max(self.max, high)
            # Chan's way to join the means and squares of two parts.
            size = int(numbers.size)
            own = float(numbers.mean())
            apart = own - mean
            before, self.finite = self.finite, self.finite + size
            mean += apart * (size / self.finite)
            squares += float(np.square(numbers - own).sum())
            squares += apart * apart * (before * (size / self.finite))
        if self.finite:
            self.mean, self.std = mean, math.sqrt(squares / self.finite)

    def _finite_of(self, piece: Array, count: bool = False) -> Array:
        """The finite numbers as float64."""
        if piece.dtype.kind == "c":
            lost = np.isnan(piece)
            numbers = np.abs(piece.astype("c16"))
            numbers[lost] = np.nan  # also where the other half is infinite
        else:
            numbers = piece.astype("f8", copy=False).reshape(-1)
        is_finite = np.isfinite(numbers)
        if count:
            nan = int(np.isnan(numbers).sum())
            self.nan += nan
            self.inf += int(numbers.size - is_finite.sum()) - nan
            self.zeros += int(np.count_nonzero(numbers == 0))
        finite: Array = numbers if is_finite.all() else numbers[is_finite]
        return finite

    def _fill(self, pieces: Iterable[Array]) -> None:
        assert self.min is not None and self.max is not None
        if self._whole and self.max - self.min < BINS:
            self._fill_each(pieces, int(self.min), int(self.max - self.min) + 1)
            return
        low, high = float(self.min), float(self.max)
        bins = 1 if low == high else BINS
        # Halves, where the whole range is more than a float64 holds.
        scale = 1.0 if math.isfinite(high - low) else 0.5
        span = high * scale - low * scale
        counts = np.zeros(bins, "i8")
        for piece in pieces:
            numbers = self._finite_of(piece)
            share = (numbers * scale - low * scale) / span if span else np.zeros(numbers.size)
            index = np.clip((share * bins).astype("i8"), 0, bins - 1)
            counts += np.bincount(index, minlength=bins)
        self.counts = [int(count) for count in counts]
        self.edges = [(low * scale + span / bins * step) / scale for step in range(bins)] + [high]

    def _fill_each(self, pieces: Iterable[Array], first: int, bins: int) -> None:
        """A bin for each of few whole numbers, which float64 might not tell apart."""
        counts = np.zeros(bins, "i8")
        for piece in pieces:
            numbers = piece.astype("u1") if piece.dtype.kind == "b" else piece
            counts += np.bincount((numbers.reshape(-1) - first).astype("i8"), minlength=bins)
        self.counts = [int(count) for count in counts]
        self.edges = [first - 0.5 + step for step in range(bins + 1)]


def _said(number: Any) -> Any:
    return None if isinstance(number, float) and not math.isfinite(number) else number


def bars(counts: list[int], columns: int, blocks: str) -> Iterator[str]:
    """A bar for each count, the greatest of all columns; `blocks` grow from nothing to full.

    >>> list(bars([4, 0, 1], 2, " #"))
    ['##', '', '#']
    """
    most = max(counts, default=0)
    parts = len(blocks) - 1
    for count in counts:
        # Not even the least is nothing.
        eighths = max(count * columns * parts // most, 1) if count else 0
        full, rest = divmod(eighths, parts)
        yield (blocks[-1] * full + blocks[rest]).rstrip(" ")
