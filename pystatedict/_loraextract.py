# SPDX-License-Identifier: Apache-2.0
"""The difference of two models as a LoRA: each matrix of it by those of the largest weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pystatedict._compared import FLOAT, check_alike, is_float, kind_of
from pystatedict._flat import STRETCH, Flat
from pystatedict._lazy import LazyTensor
from pystatedict._operands import finite, is_tensor, taken
from pystatedict._rounding import accumulator, check_accumulate, rounded, widened
from pystatedict._statedict import StateDict

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystatedict._api import Pattern
    from pystatedict._arithmetic import Accumulate

    Array = npt.NDArray[Any]

_ENDINGS = {"peft": (".lora_A.weight", ".lora_B.weight"),
            "kohya": (".lora_down.weight", ".lora_up.weight")}  # fmt: skip
_PREFIXES = {"peft": "base_model.model.", "kohya": "lora_unet_"}


class ExtractedLora(StateDict):
    """What :func:`extract_lora` gives: a StateDict of LoRA tensors.

    Attributes:
        config: what PEFT wants to read in ``adapter_config.json``, a dict.
    """

    __slots__ = ("_work", "config")

    _work: _Work
    config: dict[str, Any]

    def energy(self) -> dict[str, float]:
        """{weight: part of its difference that the pair tells}, between 0 and 1.

        The part is Σσ² of the singular values that are kept over that of all; 1 where
        nothing differs.  Matrices that were not read yet are decomposed now.
        """
        return {name: self._work.energy_of(name) for name in self._work.names}

    def left_out(self) -> list[str]:
        """Names of tensors that differ and of which no pair tells, such as biases and norms.

        Reads those of both models.
        """
        return self._work.differing()


def extract_lora(
    tuned: Any,
    base: Any,
    rank: int,
    *,
    names: Literal["peft", "kohya"] = "peft",
    alpha: float | None = None,
    pattern: Pattern | None = None,
    prefix: str | None = None,
    dtype: str = "float32",
    accumulate: Accumulate = "float32",
) -> ExtractedLora:
    """A LoRA of the difference between a tuned model and its base, by singular values.

    Every weight ``<module>.weight`` of floats with two or more dimensions gets a pair of the
    given rank: A (rank × in) and B (out × rank); of a convolution A is (rank, in, k, k) and
    B (out, rank, 1, 1).  A matrix that has a smaller side gets zeros behind it.
    One difference at a time is in memory, decomposed when its A or B is read.

    Args:
        tuned, base: inputs of the same names and shapes, as those of :func:`average`.
        rank: at least 1.
        names: "peft", or "kohya" with underscores for dots and an alpha for each module.
        alpha: B @ A · alpha / rank is the difference; by default alpha is the rank.  PEFT reads it
            from adapter_config.json, of which `config` of the result is the content.
        pattern: only weights that match: a glob, several, or a function of the name.
        prefix: what stands before each module, by default "base_model.model." or "lora_unet_".
        dtype: torch's name of the dtype of A and B.
        accumulate: dtype of the decomposition, "float32" or "float64".

    Raises:
        MismatchError: the two differ in names, shapes or kinds of numbers; all is told.
        ValueError: no weight matches, or two get one name; when it is read: a difference that
            is not finite.

    >>> import numpy as np
    >>> base = {"fc.weight": np.zeros((2, 3), "f4"), "fc.bias": np.zeros(2, "f4")}
    >>> tuned = {"fc.weight": np.float32([[2, 0, 0], [0, 1, 0]]), "fc.bias": np.ones(2, "f4")}
    >>> lora = extract_lora(tuned, base, 1)
    >>> {name: tensor.shape for name, tensor in lora.items()}
    {'base_model.model.fc.lora_A.weight': (1, 3), 'base_model.model.fc.lora_B.weight': (2, 1)}
    >>> round(lora.energy()["fc.weight"], 3), lora.left_out()
    (0.8, ['fc.bias'])
    """
    check_accumulate(accumulate)
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is a whole number from 1 on, not {rank!r}")
    if names not in _ENDINGS:
        raise ValueError(f'names is "peft" or "kohya", not {names!r}')
    if not is_float(dtype):
        raise ValueError(f'dtype is the name of a float of torch, such as "float32", not {dtype!r}')
    scale = float(rank) if alpha is None else finite(alpha, "alpha")
    if scale <= 0:
        raise ValueError(f"alpha is more than 0, not {alpha}")
    inputs = taken(tuned), taken(base)
    check_alike(inputs)
    work = _Work(*inputs, rank, scale / rank, accumulate)
    work.names = _chosen(inputs[0], pattern)
    made = ExtractedLora(_tensors(work, names, prefix, dtype, scale))
    made._ordered = False
    made._work = work
    modules = [name.removesuffix(".weight") for name in work.names]
    made.config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale, "target_modules": modules}
    return made


def _chosen(tuned: StateDict, pattern: Pattern | None) -> list[str]:
    from pystatedict._api import _patterns

    wanted = _patterns(pattern)
    found = [
        name
        for name, value in tuned.items()
        if isinstance(name, str) and name.endswith(".weight") and is_tensor(value)
        if kind_of(value) == FLOAT and len(value.shape) > 1 and math.prod(value.shape)
        if wanted(name)
    ]
    if not found:
        raise ValueError("no name ends in .weight, matches, and is a matrix of floats")
    return found


def _tensors(
    work: _Work, names: str, prefix: str | None, dtype: str, alpha: float
) -> dict[str, Any]:
    before = _PREFIXES[names] if prefix is None else prefix
    items: dict[str, Any] = {}
    for name in work.names:
        module = name.removesuffix(".weight")
        module = before + (module.replace(".", "_") if names == "kohya" else module)
        shape = tuple(work.tuned[name].shape)
        shapes = (work.rank, *shape[1:]), (shape[0], work.rank, *(1 for _ in shape[2:]))
        for side, ending in enumerate(_ENDINGS[names]):
            if module + ending in items:
                raise ValueError(f"two weights get the name {module + ending!r}; use names='peft'")
            items[module + ending] = work.tensor(name, side, shapes[side], dtype)
        if names == "kohya":
            items[f"{module}.alpha"] = np.array(alpha, "f4")
    return items


class _Work:
    """Decomposes one matrix at a time, and keeps the last pair until both sides were read."""

    def __init__(
        self, tuned: StateDict, base: StateDict, rank: int, factor: float, accumulate: str
    ) -> None:
        self.tuned, self.base, self.rank = tuned, base, rank
        self.names: list[str] = []
        self._factor = factor
        self._accumulate = accumulate
        self._energy: dict[str, float] = {}
        self._kept: tuple[str, tuple[Array, Array]] | None = None
        self._done: set[int] = set()  # sides of it that were read to the end

    def tensor(self, name: str, side: int, shape: tuple[int, ...], dtype: str) -> LazyTensor:
        """A (side 0) or B (side 1) of the weight `name`."""
        count_of_all = math.prod(shape)

        def read(start: int, count: int) -> Array:
            row = self._pair(name)[side].reshape(-1)[start : start + count]
            if start + count == count_of_all:
                self._finish(side)
            return rounded(row, dtype)

        return LazyTensor(shape, dtype, read)

    def energy_of(self, name: str) -> float:
        if name not in self._energy:
            self._pair(name)
        return self._energy[name]

    def _finish(self, side: int) -> None:
        self._done.add(side)
        if len(self._done) == 2:
            self._kept = None

    def _pair(self, name: str) -> tuple[Array, Array]:
        if self._kept is None or self._kept[0] != name:
            self._kept = None
            self._kept, self._done = (name, self._decomposed(name)), set()
        return self._kept[1]

    def _decomposed(self, name: str) -> tuple[Array, Array]:
        """A and B, by half of each singular value."""
        left, values, right = np.linalg.svd(self._difference(name), full_matrices=False)
        squares = np.square(values, dtype="f8")
        total = float(squares.sum())
        self._energy[name] = float(squares[: self.rank].sum()) / total if total else 1.0
        count = min(self.rank, len(values))
        half = np.sqrt(values[:count] / values.dtype.type(self._factor))
        down = np.zeros((self.rank, right.shape[1]), values.dtype)
        up = np.zeros((left.shape[0], self.rank), values.dtype)
        down[:count] = half[:, None] * right[:count]
        up[:, :count] = left[:, :count] * half
        return down, up

    def _difference(self, name: str) -> Array:
        ours, theirs = Flat(self.tuned[name]), Flat(self.base[name])
        wide = accumulator((ours.dtype, theirs.dtype), self._accumulate)
        made = np.empty(ours.numel, wide)
        for start in range(0, ours.numel, STRETCH):
            count = min(STRETCH, ours.numel - start)
            one, other = (widened(flat.read(start, count), wide) for flat in (ours, theirs))
            with np.errstate(all="ignore"):
                made[start : start + count] = one - other
        if not np.isfinite(made).all():
            raise ValueError(f"the difference of {name!r} is not finite; leave it out by pattern=")
        return made.reshape(ours.shape[0], -1)

    def differing(self) -> list[str]:
        told = set(self.names)
        return [
            str(name)
            for name, value in self.tuned.items()
            if name not in told and is_tensor(value) and not _equal(value, self.base[name])
        ]


def _equal(a: Any, b: Any) -> bool:
    """The same numbers, NaNs too where they stand in both."""
    first, second = Flat(a), Flat(b)
    for start in range(0, first.numel, STRETCH):
        count = min(STRETCH, first.numel - start)
        one, other = first.read(start, count), second.read(start, count)
        if first.dtype != second.dtype:
            wide = accumulator((first.dtype, second.dtype), "float64")
            one, other = widened(one, wide), widened(other, wide)
        elif one.tobytes() == other.tobytes():
            continue
        if not bool(np.all((one == other) | ((one != one) & (other != other)))):
            return False
    return True
