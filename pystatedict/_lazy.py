# SPDX-License-Identifier: Apache-2.0
"""LazyTensor: a tensor whose elements are computed when they are read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]


class LazyTensor:
    """A tensor that is not there yet: its dtype and shape are known, its elements are computed
    a stretch at a time when somebody reads them.

    The functions of :mod:`pystatedict.ops` give such tensors, and ``save`` writes them without
    ever holding one.  Under two names of one mapping the same LazyTensor is one tied tensor.

    Attributes:
        shape: sizes, a tuple of int.
        dtype: torch's name of the dtype, such as "bfloat16".

    >>> import numpy as np
    >>> row = LazyTensor((2, 3), "int64", lambda start, count: np.arange(start, start + count))
    >>> row.numpy()
    array([[0, 1, 2],
           [3, 4, 5]])
    >>> row.read(4, 2)
    array([4, 5])
    """

    __slots__ = ("_read", "dtype", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: str, read: Callable[[int, int], Array]
    ) -> None:
        """`read(start, count)` gives elements by their place in row-major order, 1-D and of
        the NumPy dtype that load() gives for `dtype`.
        """
        self.shape = shape
        self.dtype = dtype
        self._read = read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        from pystatedict._core import DTYPES

        return DTYPES[self.dtype][0]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.numel * self.itemsize

    @property
    def stride(self) -> tuple[int, ...]:
        """Strides in elements: those of a contiguous tensor."""
        stride, steps = 1, []
        for size in reversed(self.shape):
            steps.append(stride)
            stride *= max(size, 1)
        return tuple(reversed(steps))

    def read(self, start: int, count: int) -> Array:
        """The elements [start, start + count) in row-major order, 1-D."""
        if start < 0 or count < 0 or start + count > self.numel:
            raise IndexError(f"elements {start} to {start + count} of {self.numel}")
        made = self._read(start, count)
        shape, dtype = getattr(made, "shape", None), getattr(made, "dtype", None)
        if shape != (count,) or dtype != self._dtype():
            raise ValueError(
                f"read({start}, {count}) of a lazy tensor gave a {type(made).__name__} of shape"
                f" {shape} and dtype {dtype}, not {count} elements of {self.dtype}"
            )
        return made

    def _dtype(self) -> Any:
        from pystatedict._dtypes import numpy_dtype

        return numpy_dtype(self.dtype)

    def numpy(self) -> Array:
        """The whole tensor, computed now, as an array of its own."""
        import numpy as np

        from pystatedict._flat import STRETCH

        whole = np.empty(self.numel, self._dtype())
        for start in range(0, self.numel, STRETCH):
            count = min(STRETCH, self.numel - start)
            whole[start : start + count] = self.read(start, count)
        return whole.reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a lazy tensor is computed, so a copy is needed")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __repr__(self) -> str:
        return f"LazyTensor(shape={self.shape}, dtype={self.dtype!r})"


class Computed:
    """A lazy tensor as a supply: see `_stored`."""

    __slots__ = ("_itemsize", "_tensor", "nbytes")

    key = None  # it is no storage of a file

    def __init__(self, tensor: LazyTensor) -> None:
        self._tensor = tensor
        self._itemsize = tensor.itemsize
        self.nbytes = tensor.nbytes

    def read(self, offset: int, size: int) -> Any:
        """`size` bytes from `offset` on; whole elements, as the core asks for."""
        import numpy as np

        item = self._itemsize
        made = self._tensor.read(offset // item, size // item)
        return np.ascontiguousarray(made).view("u1").data
