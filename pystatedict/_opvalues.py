# SPDX-License-Identifier: Apache-2.0
"""Operations on the elements of tensors: each is computed when it is read or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pystatedict._errors import UnsupportedError, warn
from pystatedict._flat import Flat
from pystatedict._lazy import LazyTensor
from pystatedict._marks import BUFFER
from pystatedict._printable import printable
from pystatedict._taken import changed, is_info, is_tensor, taken, tie

if TYPE_CHECKING:
    from typing import Literal

    import numpy.typing as npt

    from pystatedict._statedict import StateDict

    Array = npt.NDArray[Any]
    OnOverflow = Literal["warn", "error", "saturate", "ignore"]


def cast(
    f: Any,
    dtype: str | Mapping[str, str | None],
    *,
    integers: bool = False,
    buffers: bool = False,
    on_overflow: OnOverflow = "warn",
) -> StateDict:
    """The tensors in another floating-point dtype, rounded once: to nearest, ties to even.

    Args:
        f: a path, a Checkpoint, or a mapping of names to tensors.
        dtype: torch's name of one, such as "bfloat16" or "float8_e4m3fn"; or ``{glob: name}``,
            of which the first that matches counts, and None leaves a tensor as it is.
        integers: also integers and bool; they stay as they are otherwise, as do complex ones.
        buffers: also tensors that the file tells to be buffers, such as running means.
        on_overflow: what becomes of finite numbers that the dtype has no room for.  "warn"
            tells of each tensor that has such, "ignore" does not: they are infinite then, or
            NaN in dtypes without infinity; "saturate" makes them the largest there is;
            "error" raises OverflowError, when the tensor is read or written.

    Raises UnsupportedError for a dtype that is no floating-point one.

    >>> import numpy as np
    >>> half = cast({"w": np.array([1.0, 1e6], "f4"), "n": np.array(3)}, "float16",
    ...             on_overflow="saturate")
    >>> half["w"].numpy().tolist(), half["n"]
    ([1.0, 65504.0], array(3))
    """
    from pystatedict._narrow import FLOATS, INTEGERS

    if on_overflow not in ("warn", "error", "saturate", "ignore"):
        raise ValueError("on_overflow is 'warn', 'error', 'saturate' or 'ignore'")
    rules = {"*": dtype} if isinstance(dtype, str) else dict(dtype)
    for name in rules.values():
        if name is not None and name not in FLOATS:
            raise UnsupportedError(
                f"cast() to {name!r}: it is for {', '.join(sorted(FLOATS))}", code="dtype"
            )
    sd = taken(f)
    told = sd._told()

    def change(name: Any, value: Any) -> Any:
        target = _first_match(rules, str(name))
        flat = _flat_or_none(value)
        if target is None or flat is None or flat.dtype == target:
            return value
        if flat.dtype not in FLOATS and not (integers and flat.dtype in INTEGERS):
            return value
        if told.get(name, 0) & BUFFER and not buffers:
            return value
        return LazyTensor(flat.shape, target, _Cast(str(name), flat, target, on_overflow).read)

    return changed(sd, change)


def _first_match(rules: Mapping[str, str | None], name: str) -> str | None:
    from fnmatch import fnmatchcase

    return next((rule for glob, rule in rules.items() if fnmatchcase(name, glob)), None)


def _flat_or_none(value: Any) -> Flat | None:
    """None of a tensor that is no row of numbers: a sparse or quantized one, say."""
    if getattr(value, "is_meta", False):
        return None
    try:
        return Flat(value)
    except TypeError:
        return None


class _Cast:
    """Reads a tensor in another dtype, and tells once of what overflows."""

    def __init__(self, name: str, flat: Flat, dtype: str, on_overflow: str) -> None:
        self._name, self._flat, self._dtype = name, flat, dtype
        self._on_overflow = on_overflow
        self._told = False

    def read(self, start: int, count: int) -> Array:
        from pystatedict._narrow import convert, overflowed

        before = self._flat.read(start, count)
        after = convert(before, self._dtype)
        if self._on_overflow == "ignore":
            return after
        lost = overflowed(before, after)
        if not lost:
            return after
        if self._on_overflow == "saturate":
            return _saturated(before, after, self._dtype)
        sentence = (
            f"{printable(repr(self._name), 80)}: {lost:,} of the elements {start:,} to"
            f" {start + count:,} are beyond the range of {self._dtype}"
        )
        if self._on_overflow == "error":
            raise OverflowError(
                f"{sentence}.\n  hint: on_overflow='saturate' makes them the largest it has;"
                " {'pattern': None} in dtype leaves the tensor as it is"
            )
        if not self._told:
            self._told = True
            warn(sentence)
        return after


def _saturated(before: Array, after: Array, dtype: str) -> Array:
    import numpy as np

    from pystatedict._dtypes import widen

    wide, made = widen(before), widen(after)
    lost = np.isfinite(wide) & ~np.isfinite(made)
    most = _largest(dtype)
    out = np.array(after)
    out[lost] = np.where(wide[lost] > 0, most, -most).astype("f8").astype(out.dtype)
    return out


def _largest(dtype: str) -> float:
    import numpy as np

    from pystatedict._dtypes import _ML_DTYPES, numpy_dtype

    if dtype in _ML_DTYPES:
        import ml_dtypes

        finfo: Any = ml_dtypes.finfo
        return float(finfo(numpy_dtype(dtype)).max)
    return float(np.finfo(numpy_dtype(dtype)).max)


def map(f: Any, function: Callable[[str, Array], Any], *, dtype: str | None = None) -> StateDict:
    """Each tensor as `function(name, array)` makes it, when it is read or written.

    Args:
        f: a path, a Checkpoint, or a mapping of names to tensors.
        function: gets one whole tensor at a time, and gives an array of the same shape.
        dtype: torch's name of the result's; None: each tensor's own.

    Tied tensors are computed once, under the first of their names, and stay tied.

    >>> import numpy as np
    >>> map({"w": np.array([1.0, 2.0])}, lambda name, array: array * 2)["w"].numpy()
    array([2., 4.])
    """
    from pystatedict._dtypes import numpy_dtype

    if dtype is not None:
        numpy_dtype(dtype)  # refuses what is none

    def change(name: Any, value: Any) -> Any:
        flat = _flat_or_none(value)
        if flat is None:
            return value
        made = _Mapped(str(name), flat, function, dtype or flat.dtype)
        return LazyTensor(flat.shape, dtype or flat.dtype, made.read)

    return changed(taken(f), change)


class _Mapped:
    """Reads what a function makes of a whole tensor, which is kept until its last element."""

    def __init__(
        self, name: str, flat: Flat, function: Callable[[str, Array], Any], dtype: str
    ) -> None:
        self._name, self._flat, self._function, self._dtype = name, flat, function, dtype
        self._made: Array | None = None

    def read(self, start: int, count: int) -> Array:
        import numpy as np

        if self._made is None:
            self._made = self._make()
        piece = np.asarray(self._made[start : start + count])
        if start + count == self._flat.numel:
            self._made = None
        return piece

    def _make(self) -> Array:
        import numpy as np

        from pystatedict._narrow import convert

        whole = np.array(self._flat.read(0, self._flat.numel)).reshape(self._flat.shape)
        made = np.asarray(self._function(self._name, whole))
        if made.shape != self._flat.shape:
            raise ValueError(
                f"the function made an array of shape {made.shape} of"
                f" {printable(repr(self._name), 80)}, whose shape is {self._flat.shape}"
            )
        return convert(made, self._dtype).reshape(-1)


def compact(f: Any) -> StateDict:
    """Views with gaps as contiguous tensors, so that a file holds no byte that none needs.

    save() already leaves out what lies before the first and behind the last element of a
    view; what lies between them, as of a column of a matrix, is left out by this.  Tensors
    that share memory stay as they are, tied.

    >>> import numpy as np
    >>> column = np.zeros((1000, 1000), "f4")[:, 0]
    >>> compact({"column": column})["column"].stride
    (1,)
    """
    sd = taken(f)
    shared = _sharing(sd)

    def change(name: Any, value: Any) -> Any:
        flat = _flat_or_none(value)
        if flat is None or id(value) in shared or _is_dense(value):
            return value
        return LazyTensor(flat.shape, flat.dtype, flat.read)

    return changed(sd, change)


def _is_dense(value: Any) -> bool:
    """Does a tensor reach no more elements than it has?"""
    if isinstance(value, LazyTensor):
        return True
    stride = value.stride if is_info(value) else _strides_of(value)
    reach = 1
    for size, step in zip(value.shape, stride, strict=True):
        if size == 0:
            return True
        reach += (size - 1) * abs(step)
    count = 1
    for size in value.shape:
        count *= size
    return reach <= count


def _strides_of(array: Array) -> tuple[int, ...]:
    return tuple(step // max(array.itemsize, 1) for step in array.strides)


def _sharing(sd: StateDict) -> set[int]:
    """Ids of the tensors whose bytes overlap another's that is not the same window."""
    extents = []
    for value in sd.values():
        if is_tensor(value) and _flat_or_none(value) is not None:
            extent = _extent(value)
            if extent is not None:
                extents.append((extent, tie(value), id(value)))
    extents.sort(key=lambda row: row[0])
    found: set[int] = set()
    group: list[tuple[Any, int]] = []
    end: tuple[int, int] = (-1, -1)
    for (space, low, high), key, number in extents:
        if space != end[0] or low >= end[1]:
            found |= _mixed(group)
            group, end = [], (space, high)
        group.append((key, number))
        end = (space, max(end[1], high))
    return found | _mixed(group)


def _mixed(group: list[tuple[Any, int]]) -> set[int]:
    return {number for _, number in group} if len({key for key, _ in group}) > 1 else set()


def _extent(value: Any) -> tuple[int, int, int] | None:
    """(whose bytes, first, behind the last): in memory those of space 0."""
    import numpy as np

    if isinstance(value, LazyTensor):
        return None
    if not is_info(value):
        if not isinstance(value, np.ndarray) or value.size == 0:
            return None
        steps = [(n - 1) * step for n, step in zip(value.shape, value.strides, strict=True)]
        first: int = value.__array_interface__["data"][0]
        low = first + sum(step for step in steps if step < 0)
        return 0, low, first + sum(step for step in steps if step > 0) + value.itemsize
    number = value._storage_index
    if number is None or value.numel == 0:
        return None
    reach = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride, strict=True))
    low = value.storage_offset * value.itemsize
    space = (id(value._archive) << 32) + number
    return space, low, low + reach * value.itemsize
