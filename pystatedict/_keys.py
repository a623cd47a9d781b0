"""Tensors as keys of dicts and items of sets, where torch knows them by identity."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

from pystatedict._checks import check_key
from pystatedict._dtypes import torch_dtype
from pystatedict._marks import NDARRAY, mark_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["TensorKey", "as_key", "hashable", "is_array"]

_BIRTHS = itertools.count()


class TensorKey:
    """An array as the key of a dict or an item of a set.

    torch's tensors are told apart by identity, and a pickled optimizer keeps its state by
    them; NumPy's arrays cannot be keys.  So one of these stands where a tensor was a key:
    equal to another of the same array object, and to nothing else.  ``save`` writes it
    back as the tensor.

    Args:
        array: the array, as it stands elsewhere in the same object.

    Raises:
        TypeError: it is no NumPy array.

    >>> import numpy as np
    >>> weight = np.zeros((2, 3), "f4")
    >>> state = {TensorKey(weight): {"step": 5}}
    >>> state[TensorKey(weight)]["step"]
    5
    >>> next(iter(state)).array is weight
    True
    """

    __slots__ = ("__weakref__", "_array", "_birth")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        if not is_array(array):
            raise TypeError(f"a TensorKey is of an array, not of a {type(array).__name__}")
        self._array = array
        self._birth = next(_BIRTHS)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The array itself."""
        return self._array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorKey) and other._array is self._array

    def __hash__(self) -> int:
        return hash(id(self._array))

    def __reduce__(self) -> Any:
        return TensorKey, (self._array,)

    def __repr__(self) -> str:
        return f"<TensorKey {self._array.dtype} {list(self._array.shape)}>"


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")  # where it is not imported there are no arrays
    return numpy is not None and isinstance(value, numpy.ndarray)


def _is_tensor(value: Any) -> bool:
    known = is_array(value) and torch_dtype(value.dtype) is not None
    return known and not mark_of(value) & NDARRAY


def hashable(key: Any) -> Any:
    """The key, or what stands for it because of arrays in it; TypeError where nothing can."""
    check_key(key)
    try:
        hash(key)
    except TypeError:
        key = as_key(key)
        hash(key)
    return key


def as_key(key: Any) -> Any:
    """What stands for an array, or for a tuple that holds arrays, as a key.

    Only for arrays that were tensors: NumPy's own arrays in a pickle can be no keys in
    torch either.  What cannot be hashed is given back as it is.
    """
    parts = [check_key(key)]  # bounds how many parts it has
    for part in parts:
        if type(part) is tuple:
            parts.extend(part)
    made: dict[int, Any] = {}
    for part in reversed(parts):
        if type(part) is tuple:
            made[id(part)] = tuple(made[id(below)] for below in part)
        else:
            made[id(part)] = TensorKey(part) if _is_tensor(part) else part
    return made[id(key)]
