# SPDX-License-Identifier: Apache-2.0
"""Models between two models: on the straight line, or on the arc."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pystatedict._compared import check_alike, is_computed
from pystatedict._flat import Flat
from pystatedict._lazy import LazyTensor
from pystatedict._operands import by_name, combined, taken
from pystatedict._rounding import accumulator, check_accumulate, rounded, widened
from pystatedict._statedict import StateDict
from pystatedict._weighted import weighted

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystatedict._arithmetic import Accumulate

    Array = npt.NDArray[Any]

#: Below this angle, and as near to the opposite direction, slerp is the straight line.
SMALLEST_ANGLE = 1e-4

_PASS = 1 << 18  # elements of the first pass; fixed, so that sums are the same however it is read


def interpolate(
    a: Any,
    b: Any,
    t: float | Mapping[str, float],
    *,
    method: Literal["linear", "slerp"] = "linear",
    accumulate: Accumulate = "float32",
) -> StateDict:
    """The model at `t` on the way from `a` (t = 0) to `b` (t = 1).

    "linear" is a + t·(b - a), from t = 0.5 on computed as b - (1 - t)·(b - a), so that both
    ends are exact: at 0 the bits are those of `a`, at 1 those of `b`, where dtypes are the same.
    "slerp" goes along the arc between the two tensors as vectors of all their elements:
    (sin((1 - t)·ω)·a + sin(t·ω)·b) / sin(ω), where ω is the angle between them, found in float64 by
    reading both once more, when the first element is asked for.  Where ω is below 1e-4, or as
    near to π, or one of them is zero or not finite, it is linear.

    Integers and bools are those of `a`, and so are order, dtypes, metadata and flags.

    Args:
        a, b: inputs of the same names and shapes.
        t: a finite number, also outside [0, 1]; or numbers by globs of names, of which the
            first that matches counts, the last mostly "*".
        method: "linear" or "slerp".
        accumulate: dtype that is computed in, as in :func:`average`.

    Raises:
        MismatchError: the two differ in names, shapes or kinds of numbers; all is told.
        ValueError: a name that no glob matches, or a glob that matches none.

    >>> import numpy as np
    >>> a = {"w": np.float32([1, 0]), "b": np.float32([0])}
    >>> b = {"w": np.float32([0, 1]), "b": np.float32([4])}
    >>> interpolate(a, b, {"b": 0.25, "*": 0.5})["b"].numpy()
    array([1.], dtype=float32)
    >>> interpolate(a, b, 0.5, method="slerp")["w"].numpy().round(3)
    array([0.707, 0.707], dtype=float32)
    """
    check_accumulate(accumulate)
    if method not in ("linear", "slerp"):
        raise ValueError(f'method is "linear" or "slerp", not {method!r}')
    inputs = [taken(a), taken(b)]
    check_alike(inputs)
    at = by_name(t, (name for name, value in inputs[0].items() if is_computed(value)), "t")

    def between(name: Any, values: list[Any]) -> LazyTensor:
        place = at(name)
        if place in (0, 1):
            return weighted([(values[0], 1 - place), (values[1], place)], accumulate)
        return _between(values[0], values[1], place, method == "slerp", accumulate)

    return combined(inputs, between, extra=at)


def _between(a: Any, b: Any, t: float, arc: bool, accumulate: str) -> LazyTensor:
    first, second = Flat(a), Flat(b)
    wide = accumulator((first.dtype, second.dtype), accumulate)
    real = np.dtype("f8" if wide in ("f8", "c16") else "f4").type
    name = first.dtype
    kept: list[tuple[float, float] | None] = []  # what the first pass found

    def read(start: int, count: int) -> Array:
        if arc and not kept:
            kept.append(_on_the_arc(first, second, t))
        x, y = (widened(flat.read(start, count), wide) for flat in (first, second))
        with np.errstate(all="ignore"):
            if arc and kept[0] is not None:
                ours, theirs = kept[0]
                made = x * real(ours) + y * real(theirs)
            elif abs(t) < 0.5:
                made = x + real(t) * (y - x)
            else:
                made = y - real(1 - t) * (y - x)
        return rounded(made, name)

    return LazyTensor(first.shape, name, read)


def _on_the_arc(first: Flat, second: Flat, t: float) -> tuple[float, float] | None:
    """The factors of the two tensors; None where the straight line is to be taken."""
    sums: tuple[list[float], list[float], list[float]] = ([], [], [])
    with np.errstate(all="ignore"):
        for start in range(0, first.numel, _PASS):
            count = min(_PASS, first.numel - start)
            x, y = (_real(flat.read(start, count)) for flat in (first, second))
            for row, (one, other) in zip(sums, ((x, y), (x, x), (y, y)), strict=True):
                row.append(float(np.sum(one * other)))
    if not all(map(math.isfinite, (number for row in sums for number in row))):
        return None
    dot, ours, theirs = map(math.fsum, sums)
    norms = math.sqrt(ours) * math.sqrt(theirs)
    if not norms or not math.isfinite(norms):
        return None
    angle = math.acos(max(-1.0, min(1.0, dot / norms)))
    if angle < SMALLEST_ANGLE or math.pi - angle < SMALLEST_ANGLE:
        return None
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _real(array: Array) -> Array:
    """In float64; of complex numbers their parts side by side."""
    if array.dtype.kind in "cV":
        return widened(array, np.dtype("c16")).view("f8")
    return widened(array, np.dtype("f8"))
