# SPDX-License-Identifier: Apache-2.0
"""A mean of models that come one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pystatedict._compared import TAKEN, check_alike, kind_of
from pystatedict._errors import StateDictError
from pystatedict._flat import STRETCH, Flat
from pystatedict._operands import dtype_of, finite, is_tensor, result_like, taken
from pystatedict._rounding import accumulator, check_accumulate, rounded, widened
from pystatedict._statedict import StateDict
from pystatedict._taken import tie

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystatedict._arithmetic import Accumulate

    Array = npt.NDArray[Any]


class _Sum:
    """Σ weight · tensor of one tensor, and the names that it stands for."""

    def __init__(self, value: Any, accumulate: str) -> None:
        self.shape = tuple(value.shape)
        self.dtype = dtype_of(value)
        self.total: Array = np.zeros(self.shape, accumulator([self.dtype], accumulate)).reshape(-1)

    def copy(self) -> _Sum:
        other = _Sum.__new__(_Sum)
        other.shape, other.dtype, other.total = self.shape, self.dtype, self.total.copy()
        return other

    def add(self, value: Any, weight: float) -> None:
        flat = Flat(value)
        wide = accumulator([self.dtype, flat.dtype], "float32")
        if wide.itemsize > self.total.itemsize:
            self.total = self.total.astype(wide)
        real = np.dtype("f8" if self.total.dtype in ("f8", "c16") else "f4").type
        with np.errstate(all="ignore"):
            for start in range(0, flat.numel, STRETCH):
                count = min(STRETCH, flat.numel - start)
                piece = widened(flat.read(start, count), self.total.dtype)
                if weight != 1:
                    piece = piece * real(weight)
                self.total[start : start + count] += piece

    def mean(self, weight: float) -> Array:
        real = np.dtype("f8" if self.total.dtype in ("f8", "c16") else "f4").type
        made = np.empty(self.total.shape, rounded(self.total[:0], self.dtype).dtype)
        with np.errstate(all="ignore"):
            for start in range(0, made.size, STRETCH):
                piece = self.total[start : start + STRETCH] / real(weight)
                made[start : start + STRETCH] = rounded(piece, self.dtype)
        return made.reshape(self.shape)


class RunningAverage:
    """The mean of models that come over time, such as the epochs of a training.

    Holds one sum a tensor in memory, in float32 or float64, and of the models themselves
    nothing: plain sums, each model added once.  Means of many models of very different size
    are more exact in float64.  What is no tensor, integers (or those of the last model), order,
    dtypes, metadata and flags are those of the first model.

    Args:
        accumulate: dtype of the sums, "float32" or "float64"; tensors of float64 are summed
            in float64 either way.
        integers: "first" or "last", the model that integers and bools are taken from.

    Attributes:
        count: number of models that were added.

    >>> import numpy as np
    >>> mean = RunningAverage()
    >>> for epoch in range(4):
    ...     mean.add({"w": np.full(2, epoch, "f4")})
    >>> mean.count, mean.result()["w"]
    (4, array([1.5, 1.5], dtype=float32))
    """

    def __init__(
        self,
        *,
        accumulate: Accumulate = "float32",
        integers: Literal["first", "last"] = "first",
    ) -> None:
        check_accumulate(accumulate)
        if integers not in ("first", "last"):
            raise ValueError(f'integers is "first" or "last", not {integers!r}')
        self.count = 0
        self._accumulate = accumulate
        self._last = integers == "last"
        self._weight = 0.0
        self._broken = False
        self._like: StateDict | None = None  # the first model, with stand-ins for its tensors
        self._kept: dict[Any, Any] = {}
        self._sums: dict[Any, _Sum] = {}

    def add(self, model: Any, weight: float = 1.0) -> None:
        """Add a model: a StateDict or dict, a Checkpoint, or a path.

        Raises MismatchError, and adds nothing, when names, shapes or kinds of numbers are not
        those of the first.  After a file that could not be read to its end the sums are of
        no use: further calls raise StateDictError.
        """
        self._check()
        weight = finite(weight, "weight")
        given = taken(model)
        check_alike([given if self._like is None else self._like, given])
        self._broken = True
        if self._like is None:
            self._begin(given)
        self._part(given)
        done: set[int] = set()
        for name, total in self._sums.items():
            if id(total) not in done:
                done.add(id(total))
                total.add(given[name], weight)
        if self._last and self.count:
            self._keep(given)
        self._broken = False
        self._weight += weight
        self.count += 1

    def result(self) -> StateDict:
        """The mean until now, as arrays of their own; more can be added afterwards.

        Raises ValueError when nothing was added, or weights have the sum 0.
        """
        self._check()
        if self._like is None or not self._weight:
            what = "no model was added" if self._like is None else "the weights have the sum 0"
            raise ValueError(f"there is no average: {what}")
        made: dict[int, Array] = {}
        items: dict[Any, Any] = {}
        for name in self._like:
            total = self._sums.get(name)
            if total is None:
                items[name] = self._kept[name]
                continue
            if id(total) not in made:
                made[id(total)] = total.mean(self._weight)
            items[name] = made[id(total)]
        return result_like(self._like, items)

    def _check(self) -> None:
        if self._broken:
            raise StateDictError(
                "a model was added in part only, because it could not be read",
                hint="begin a new RunningAverage, and leave that model out",
            )

    def _begin(self, first: StateDict) -> None:
        tied: dict[object, _Sum] = {}
        stand_ins: dict[Any, Any] = {}
        for name, value in first.items():
            stand_ins[name] = value
            if not is_tensor(value):
                self._kept[name] = value
                continue
            if kind_of(value) != TAKEN:
                window = tie(value)
                if window not in tied:
                    tied[window] = _Sum(value, self._accumulate)
                self._sums[name] = tied[window]
            stand_ins[name] = _stand_in(value)
        self._keep(first)
        self._like = result_like(first, stand_ins)

    def _keep(self, model: StateDict) -> None:
        """Copies of the integers, so that no file stays open for them."""
        for name, value in model.items():
            if is_tensor(value) and kind_of(value) == TAKEN:
                self._kept[name] = np.array(value.numpy() if hasattr(value, "numpy") else value)

    def _part(self, model: StateDict) -> None:
        """Names that were tied until now, and are not in this model, get sums of their own."""
        seen: dict[tuple[int, object], _Sum] = {}
        owners: set[int] = set()
        for name, total in list(self._sums.items()):
            key = (id(total), tie(model[name]))
            if key not in seen:
                seen[key] = total.copy() if id(total) in owners else total
                owners.add(id(total))
            self._sums[name] = seen[key]


def _stand_in(value: Any) -> Any:
    """A tensor of this dtype and shape that holds nothing."""
    from pystatedict._lazy import LazyTensor

    def none(start: int, count: int) -> Array:
        raise AssertionError("a stand-in has no elements")

    return LazyTensor(tuple(value.shape), dtype_of(value), none)
