# SPDX-License-Identifier: Apache-2.0
"""Tensors of every origin as rows of elements that are read a stretch at a time.

What computes with tensors larger than memory asks for elements by their place in row-major
order, and needs not know whether they stand in a file, in an array, or are computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pystatedict._core import TensorInfo
from pystatedict._dtypes import numpy_dtype, torch_dtype
from pystatedict._stored import Storages

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Reader = Callable[[int, int], Array]

#: elements that are computed at a time.
STRETCH = 1 << 20


class Flat:
    """One tensor's elements in row-major order.

    Attributes:
        dtype: torch's name of it, such as "bfloat16".
        shape: sizes, a tuple of int.
        numel: number of elements.
    """

    __slots__ = ("_reader", "_value", "_whole", "dtype", "numel", "shape")

    def __init__(self, value: Any) -> None:
        if is_flat(value):
            dtype = value.dtype
        elif isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "__array__"):
            dtype = _dtype_of(value)
        else:
            dtype = None
        if dtype is None:
            raise TypeError(f"a {type(value).__name__} is no tensor of plain elements")
        self.dtype: str = dtype
        self.shape: tuple[int, ...] = tuple(value.shape)
        self.numel = 1
        for size in self.shape:
            self.numel *= size
        self._value = value
        self._reader = _reader_of(value)
        self._whole: Array | None = None

    def read(self, start: int, count: int) -> Array:
        """The elements [start, start + count), 1-D, in native byte order; not to be written to.

        Raises ChecksumError when the last ones of a damaged record are read in order.
        """
        if start < 0 or count < 0 or start + count > self.numel:
            raise IndexError(f"elements {start} to {start + count} of {self.numel}")
        if self._reader is not None:
            return self._reader(start, count)
        if self._whole is None:
            # Of a view with gaps, or of what the file tells in another way: as one array.
            import numpy as np

            self._whole = np.ascontiguousarray(self._value.numpy()).reshape(-1)
        piece = self._whole[start : start + count]
        if start + count == self.numel:
            self._whole = None  # mostly they are read in order, and this was the end
        return piece


def is_flat(value: Any) -> bool:
    """Is it a TensorInfo or LazyTensor whose elements are numbers side by side?"""
    from pystatedict._lazy import LazyTensor

    if isinstance(value, LazyTensor):
        return True
    return isinstance(value, TensorInfo) and not value.is_meta and value.layout == "strided"


def _dtype_of(value: Any) -> str | None:
    dtype = value.dtype
    return dtype if isinstance(dtype, str) else torch_dtype(dtype)


def _reader_of(value: Any) -> Reader | None:
    """What reads a stretch; None where only the whole can be had."""
    import numpy as np

    from pystatedict._lazy import LazyTensor

    if isinstance(value, LazyTensor):
        return value.read
    if isinstance(value, np.ndarray):
        row: Any = value.reshape(-1) if value.flags.c_contiguous else value.flat
        native = value.dtype.newbyteorder("=")

        def of_array(start: int, count: int) -> Array:
            return np.asarray(row[start : start + count]).astype(native, copy=False)

        return of_array
    if isinstance(value, TensorInfo) and _is_contiguous(value.shape, value.stride):
        return _stored_reader(value)
    return None


def _stored_reader(info: TensorInfo) -> Reader | None:
    import numpy as np

    stored = Storages().of(info)
    if stored is None:
        return None
    name, first, itemsize = info.dtype, info.storage_offset, info.itemsize

    def read(start: int, count: int) -> Array:
        data = stored.read((first + start) * itemsize, count * itemsize)
        if name == "bool":  # a byte of any other value than 0 and 1 is true, too
            return np.asarray(np.frombuffer(data, "u1") != 0)
        return np.frombuffer(data, numpy_dtype(name))

    return read


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return 0 in shape
        expected *= size
    return True
