# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of whole models: means, moving averages, differences and sums of weights.

Every function looks at all names, shapes and dtypes first and computes nothing until a
tensor of the result is read or saved.  An input is a StateDict or dict (of arrays, TensorInfos
or LazyTensors), a Checkpoint, or a path.  Integers and bools are taken, never computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pystatedict._compared import check_alike, kind_of
from pystatedict._lazy import LazyTensor
from pystatedict._operands import combined, finite, taken
from pystatedict._rounding import check_accumulate
from pystatedict._statedict import StateDict
from pystatedict._weighted import weighted

Accumulate = Literal["float32", "float64"]


def average(
    models: Iterable[Any],
    weights: Sequence[float] | None = None,
    *,
    normalize: bool = True,
    accumulate: Accumulate = "float32",
    integers: Literal["first", "last"] = "first",
) -> StateDict:
    """The mean of models, tensor by tensor: (x₀ + x₁ + ...) / n, or Σ wᵢ·xᵢ.

    Integers and bools, such as ``num_batches_tracked``, are not averaged but taken from the
    first model, or the last.  What is no tensor, the order, metadata and trainable flags are
    those of the first model; names that are tied in all models stay tied.

    Args:
        models: at least one; any iterable, also a generator of paths.  Files stay open as
            long as the result lives, and each stretch of elements is read from every one.
        weights: one finite number a model, divided by their sum; a model of weight 0 is not
            read.
        normalize: False takes the weights as they are.
        accumulate: dtype of the sum, "float32" or "float64"; tensors of float64 are summed in
            float64 either way, complex ones in complex64 or complex128.  The sum is rounded
            once, to nearest, to the dtype that the first model has.
        integers: the model that integers and bools are taken from.

    Raises:
        MismatchError: models differ in names, shapes or kinds of numbers; all is told.
        ValueError: no model, or weights that do not fit them.

    >>> import numpy as np
    >>> models = [{"w": np.full((2, 3), n, "f4"), "steps": np.int64([n])} for n in (1, 2, 6)]
    >>> soup = average(models)
    >>> soup["w"]
    LazyTensor(shape=(2, 3), dtype='float32')
    >>> soup["w"].numpy()[0], soup["steps"]
    (array([3., 3., 3.], dtype=float32), array([1]))
    >>> average(models, [2, 1, 1])["w"].numpy()[0, 0].item()
    2.5
    """
    check_accumulate(accumulate)
    if integers not in ("first", "last"):
        raise ValueError(f'integers is "first" or "last", not {integers!r}')
    if isinstance(models, (str, bytes, Mapping)):
        raise TypeError("average(models): models is an iterable of models, not one of them")
    inputs = [taken(model) for model in models]
    if not inputs:
        raise ValueError("average(models): there is no model; give at least one")
    factors, divisor = _factors(weights, len(inputs), normalize)
    check_alike(inputs)

    def mean(_name: Any, values: list[Any]) -> LazyTensor:
        return weighted(list(zip(values, factors, strict=True)), accumulate, divisor=divisor)

    return combined(inputs, mean, taken_from=0 if integers == "first" else -1)


def _factors(
    weights: Sequence[float] | None, count: int, normalize: bool
) -> tuple[list[float], float]:
    """(a factor for each model, what their sum is divided by)."""
    if weights is None:
        return [1.0] * count, float(count) if normalize else 1.0
    factors = [finite(weight, f"weights[{i}]") for i, weight in enumerate(weights)]
    if len(factors) != count:
        raise ValueError(f"{len(factors)} weights for {count} models; give one for each")
    if not normalize:
        return factors, 1.0
    total = sum(factors)
    if not total:
        raise ValueError("the weights have the sum 0; normalize=False takes them as they are")
    return [factor / total for factor in factors], 1.0


def ema(average: Any, model: Any, decay: float, *, accumulate: Accumulate = "float32") -> StateDict:
    """One step of an exponential moving average: decay·average + (1 - decay)·model.

    Integers and bools are those of `model`; order, dtypes, metadata, flags and what is no
    tensor are those of `average`.

    Args:
        average, model: inputs of the same names and shapes.
        decay: between 0 and 1; nearer to 1 changes less.
        accumulate: dtype of the sum, as in :func:`average`.

    Raises:
        MismatchError: the two differ in names, shapes or kinds of numbers; all is told.

    >>> import numpy as np
    >>> step = ema({"w": np.float32([1, 1])}, {"w": np.float32([0, 2])}, 0.75)
    >>> step["w"].numpy()
    array([0.75, 1.25], dtype=float32)
    """
    check_accumulate(accumulate)
    decay = finite(decay, "decay")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is between 0 and 1, not {decay}")
    inputs = [taken(average), taken(model)]
    check_alike(inputs)

    def step(_name: Any, values: list[Any]) -> LazyTensor:
        terms = [(values[0], decay), (values[1], 1 - decay)]
        return weighted(terms, accumulate)

    return combined(inputs, step, taken_from=1)


def add(
    a: Any,
    b: Any,
    scale: float = 1.0,
    *,
    missing: Literal["error", "keep"] = "error",
    dtype: str | None = None,
    accumulate: Accumulate = "float32",
) -> StateDict:
    """a + scale·b: a model and a task vector, such as :func:`subtract` gives.

    Integers and bools are those of `a`, and so are order, dtypes, metadata and flags.

    Args:
        a, b: inputs of the same names and shapes.
        scale: a finite number.
        missing: "keep" also takes names that only one of them has, and lets zeros stand for
            the other; by default they are an error.
        dtype: torch's name of the dtype for results, such as "float32"; by default each
            tensor has that of `a`.
        accumulate: dtype of the sum, as in :func:`average`.

    Raises:
        MismatchError: the two differ in names, shapes or kinds of numbers; all is told.

    >>> import numpy as np
    >>> base, tuned = {"w": np.float32([1, 2])}, {"w": np.float32([1, 4])}
    >>> vector = subtract(tuned, base)
    >>> add(base, vector, 0.5)["w"].numpy()
    array([1., 3.], dtype=float32)
    """
    return task_arithmetic(a, [(b, scale)], missing=missing, dtype=dtype, accumulate=accumulate)


def subtract(
    a: Any,
    b: Any,
    *,
    missing: Literal["error", "keep"] = "error",
    dtype: str | None = None,
    accumulate: Accumulate = "float32",
) -> StateDict:
    """a - b: the task vector from the model `b` to the model `a`.

    The arguments are those of :func:`add`; ``dtype="float32"`` keeps of models in a narrower
    dtype what their own would round away.

    >>> import numpy as np
    >>> vector = subtract({"w": np.float16([3])}, {"w": np.float16([1])}, dtype="float32")
    >>> vector["w"].numpy()
    array([2.], dtype=float32)
    """
    return task_arithmetic(a, [(b, -1.0)], missing=missing, dtype=dtype, accumulate=accumulate)


def task_arithmetic(
    base: Any,
    vectors: Iterable[tuple[Any, float]],
    *,
    missing: Literal["error", "keep"] = "error",
    dtype: str | None = None,
    accumulate: Accumulate = "float32",
) -> StateDict:
    """base + s₀·v₀ + s₁·v₁ + ..., summed in this order and rounded once.

    Args:
        base: an input.
        vectors: pairs of an input and its scale, a finite number.
        missing, dtype, accumulate: as in :func:`add`.

    Raises:
        MismatchError: they differ in names, shapes or kinds of numbers; all is told.

    >>> import numpy as np
    >>> base, one, two = ({"w": np.float32([n])} for n in (10, 1, 2))
    >>> task_arithmetic(base, [(one, 2.0), (two, -0.5)])["w"].numpy()
    array([11.], dtype=float32)
    """
    check_accumulate(accumulate)
    if missing not in ("error", "keep"):
        raise ValueError(f'missing is "error" or "keep", not {missing!r}')
    pairs = [(taken(vector), finite(scale, "scale")) for vector, scale in vectors]
    inputs = [taken(base), *(vector for vector, _ in pairs)]
    factors = [1.0, *(factor for _, factor in pairs)]
    check_alike(inputs, names=missing == "error")

    def total(_name: Any, values: list[Any]) -> LazyTensor:
        terms = [(v, f) for v, f in zip(values, factors, strict=True) if v is not None]
        name = None if dtype is None else _as_wanted(dtype, kind_of(terms[0][0]))
        return weighted(terms, accumulate, dtype=name)

    return combined(inputs, total)


def scale(
    a: Any, factor: float, *, dtype: str | None = None, accumulate: Accumulate = "float32"
) -> StateDict:
    """factor·a; integers, bools and what is no tensor stay as they are.

    Args:
        a: an input.
        factor: a finite number.
        dtype, accumulate: as in :func:`add`.

    Raises:
        MismatchError: a tensor cannot be computed with, such as a sparse one.

    >>> import numpy as np
    >>> scale({"w": np.float32([1, 2])}, 0.5)["w"].numpy()
    array([0.5, 1. ], dtype=float32)
    """
    check_accumulate(accumulate)
    number = finite(factor, "factor")
    inputs = [taken(a)]
    check_alike(inputs)

    def scaled(_name: Any, values: list[Any]) -> LazyTensor:
        name = None if dtype is None else _as_wanted(dtype, kind_of(values[0]))
        return weighted([(values[0], number)], accumulate, dtype=name)

    return combined(inputs, scaled)


_COMPLEX = {"float16": "complex32", "float32": "complex64", "float64": "complex128"}


def _as_wanted(dtype: str, kind: str) -> str:
    """The dtype that was asked for; of complex tensors the one whose parts have it."""
    from pystatedict._compared import COMPLEX, is_float

    if not is_float(dtype):
        raise ValueError(f'dtype is the name of a float of torch, such as "float32", not {dtype!r}')
    return _COMPLEX.get(dtype, "complex64") if kind == COMPLEX else dtype
