"""Tensors that an array cannot tell: quantized, sparse, nested, and subclasses of torch's.

Each keeps the arrays that stand in the file, mapped as any other, and makes a dense one
only when it is asked to.  None is an array itself: NumPy would take the integers of a
quantized tensor for its values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pystatedict._errors import CorruptError, UnsupportedError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["NestedTensor", "QuantizedTensor", "SparseTensor", "TensorObject", "TensorSubclass"]


class TensorObject:
    """What the four kinds have in common.

    Attributes:
        dtype: torch's name of the values' dtype, such as ``"float32"`` or ``"qint8"``.
        shape: sizes, a tuple of int; -1 where a nested tensor is ragged.
        requires_grad: True, False, or None: nobody has said.
        is_parameter: whether it was saved as a Parameter.
        layout: ``"strided"``, ``"sparse_coo"``, ..., ``"nested"``, ``"jagged"``, ``"subclass"``.
    """

    __slots__ = ("__weakref__", "dtype", "is_parameter", "layout", "requires_grad", "shape")

    dtype: str
    shape: tuple[int, ...]
    layout: str

    def __init__(self, dtype: str, shape: tuple[int, ...], layout: str) -> None:
        self.dtype = dtype
        self.shape = tuple(shape)
        self.layout = layout
        self.requires_grad: bool | None = None
        self.is_parameter = False

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError(
            f"a {self.layout} tensor of dtype {self.dtype} is no array by itself;"
            f" {self._dense_by()}"
        )

    def _dense_by(self) -> str:
        return "its parts are"

    def _parts(self) -> dict[str, Any]:
        """The arrays that it is made of, by name."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that it is made of."""
        return sum(int(part.nbytes) for part in self._parts().values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.layout} {self.dtype} {list(self.shape)}>"


# ------------------------------------------------------------------ quantized

#: dtype: (NumPy's integers, elements a byte)
_QUANTIZED = {
    "qint8": ("i1", 1),
    "quint8": ("u1", 1),
    "qint32": ("i4", 1),
    "quint4x2": ("u1", 2),
    "quint2x4": ("u1", 4),
}


class QuantizedTensor(TensorObject):
    """Integers that stand for reals: ``(integer - zero_point) * scale``.

    Attributes:
        qscheme: ``"per_tensor_affine"``, ``"per_channel_affine"`` or
            ``"per_channel_affine_float_qparams"`` (zero points are floats).
        scale, zero_point: of a per-tensor scheme, a float and an int; else None.
        scales, zero_points: of a per-channel scheme, arrays of one number a channel; else None.
        axis: the dimension that counts the channels; None of a per-tensor scheme.
        packed: of quint4x2 and quint2x4 the bytes, 1-D, two or four elements each with the
            first in the lowest bits; else None.

    >>> import numpy as np
    >>> q = QuantizedTensor(np.array([0, 10, 20], "u1"), "quint8", scale=0.5, zero_point=10)
    >>> q.dequantize()
    array([-5.,  0.,  5.], dtype=float32)
    """

    __slots__ = ("_array", "_offset", "_strides", "axis", "packed", "qscheme", "scale", "scales",
                 "zero_point", "zero_points")  # fmt: skip

    def __init__(
        self,
        array: Array,
        dtype: str,
        *,
        scale: float | None = None,
        zero_point: int | None = None,
        scales: Array | None = None,
        zero_points: Array | None = None,
        axis: int | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        if dtype not in _QUANTIZED:
            raise ValueError(f"{dtype!r} is no quantized dtype; those are {', '.join(_QUANTIZED)}")
        spelling, per_byte = _QUANTIZED[dtype]
        if array.dtype.newbyteorder("=").str.lstrip("<>|=") != spelling:
            raise TypeError(f"{dtype} is kept as {spelling}, not as {array.dtype}")
        if (per_byte > 1) != (shape is not None):
            raise TypeError("shape= goes with the packed dtypes, and only with them")
        super().__init__(dtype, array.shape if shape is None else shape, "strided")
        self._array = array
        self.packed = array if per_byte > 1 else None
        self._offset = 0
        self._strides = _contiguous(self.shape)
        self.scale, self.zero_point = scale, zero_point
        self.scales, self.zero_points, self.axis = scales, zero_points, axis
        if scales is None:
            self.qscheme = "per_tensor_affine"
            if scale is None or zero_point is None:
                raise TypeError("give scale and zero_point, or scales, zero_points and axis")
        else:
            if zero_points is None or axis is None:
                raise TypeError("a per-channel scheme has scales, zero_points and an axis")
            by_float = zero_points.dtype.kind == "f"
            self.qscheme = "per_channel_affine" + ("_float_qparams" if by_float else "")

    def _parts(self) -> dict[str, Any]:
        parts = {"array": self._array, "scales": self.scales, "zero_points": self.zero_points}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def array(self) -> Array:
        """The integers, in the tensor's shape; of the packed dtypes a copy, one a byte."""
        if self.packed is None:
            return self._array
        import numpy as np

        bits = 8 // _QUANTIZED[self.dtype][1]
        if 0 in self.shape:
            return np.zeros(self.shape, "u1")
        each = [(self.packed >> (bits * i)) & ((1 << bits) - 1) for i in range(8 // bits)]
        flat = np.stack(each, axis=-1).reshape(-1)[self._offset :]
        view = np.lib.stride_tricks.as_strided(flat, self.shape, self._strides, writeable=False)
        return np.array(view)

    def dequantize(self) -> Array:
        """The real values, as float32, as torch's ``dequantize()`` gives them."""
        import numpy as np

        integers = self.array
        if self.scales is None:
            wide = integers.astype("i8") - int(self.zero_point or 0)
            return np.asarray(wide.astype("f4") * np.float32(self.scale or 0))
        shape = [1] * len(self.shape)
        shape[self.axis or 0] = -1
        scales = np.asarray(self.scales).reshape(shape).astype("f4")
        zeros = np.asarray(self.zero_points).reshape(shape)
        if self.qscheme == "per_channel_affine":
            return np.asarray((integers.astype("i8") - zeros).astype("f4") * scales)
        return np.asarray((integers.astype("f4") - zeros.astype("f4")) * scales)

    def _dense_by(self) -> str:
        return ".array gives its integers, .dequantize() its values"


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


# ------------------------------------------------------------------ sparse

#: layout: (compressed indices, plain indices)
_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}

#: Elements of a dense array that is made without being asked for explicitly.
_DENSE_MOST = 1 << 33


class SparseTensor(TensorObject):
    """A sparse tensor: its indices and values, as they stand in the file.

    Attributes:
        parts: by torch's names, ``indices`` [dimensions, entries] and ``values`` of COO;
            ``crow_indices``, ``col_indices`` and ``values`` of CSR and BSR; ``ccol_indices``,
            ``row_indices`` and ``values`` of CSC and BSC.
        coalesced: of COO, whether every entry stands once; None: the file does not say.

    >>> import numpy as np
    >>> s = SparseTensor("sparse_coo", (2, 3), indices=np.array([[0, 1], [2, 0]]),
    ...                  values=np.array([5.0, 7.0]))
    >>> s.to_dense()
    array([[0., 0., 5.],
           [7., 0., 0.]])
    """

    __slots__ = ("coalesced", "parts")

    def __init__(
        self,
        layout: str,
        shape: tuple[int, ...],
        *,
        coalesced: bool | None = None,
        **parts: Array,
    ) -> None:
        names = _COMPRESSED.get(layout, ("indices",))
        if layout != "sparse_coo" and layout not in _COMPRESSED:
            raise ValueError(f"{layout!r} is no sparse layout")
        if set(parts) != {*names, "values"}:
            raise TypeError(f"a {layout} tensor has the parts {', '.join(names)} and values")
        from pystatedict._dtypes import torch_dtype

        dtype = torch_dtype(parts["values"].dtype)
        super().__init__(str(dtype or parts["values"].dtype), shape, layout)
        self.coalesced = coalesced
        self.parts: dict[str, Array] = dict(parts)

    def _parts(self) -> dict[str, Any]:
        return self.parts

    @property
    def indices(self) -> Array:
        """Of COO: [dimensions, entries]."""
        return self.parts["indices"]

    @property
    def values(self) -> Array:
        """The values of the entries; of BSR and BSC blocks."""
        return self.parts["values"]

    @property
    def nnz(self) -> int:
        """Entries that are stored, those of value 0 too."""
        plain = self.parts[_COMPRESSED[self.layout][1]] if self.layout in _COMPRESSED else None
        return int(self.values.shape[0] if plain is None else plain.shape[-1])

    def check(self) -> None:
        """Raise CorruptError unless every index lies within the shape."""
        if self.layout == "sparse_coo":
            sizes = self.shape[: self.indices.shape[0]]
            for size, row in zip(sizes, self.indices, strict=True):
                _within(row, size)
            return
        compressed, plain = (self.parts[name] for name in _COMPRESSED[self.layout])
        _, columns = self._by()
        steps = compressed[..., 1:] - compressed[..., :-1]
        ends = (compressed[..., 0] == 0).all() and (compressed[..., -1] == plain.shape[-1]).all()
        if not ends or (steps < 0).any() or (steps > columns).any():
            raise CorruptError("the compressed indices of a sparse tensor go wrong", code="tensor")
        _within(plain, columns)

    def _by(self) -> tuple[int, int]:
        """(compressed, plain) numbers of rows and columns, in blocks."""
        batch = self.parts[_COMPRESSED[self.layout][0]].ndim - 1
        sizes = self.shape[batch : batch + 2]
        blocks = self.values.shape[batch + 1 : batch + 3] if "bs" in self.layout else (1, 1)
        counts = [size // max(block, 1) for size, block in zip(sizes, blocks, strict=True)]
        by_rows = self.layout in ("sparse_csr", "sparse_bsr")
        return (counts[0], counts[1]) if by_rows else (counts[1], counts[0])

    def to_dense(self, *, limit: int = _DENSE_MOST) -> Array:
        """The tensor with its zeros; entries that stand twice are added, as in torch.

        Raises CorruptError for indices beyond the shape, and UnsupportedError for a tensor
        of more than `limit` elements.
        """
        import math

        import numpy as np

        if math.prod(self.shape) > limit:
            raise UnsupportedError(
                f"a dense tensor of shape {self.shape} has more than {limit:,} elements",
                code="too-dense",
                hint="limit=... allows it; to_scipy() keeps it sparse",
            )
        self.check()
        dense = np.zeros(self.shape, self.values.dtype)
        if self.layout == "sparse_coo":
            if self.nnz and len(self.indices):
                np.add.at(dense, tuple(self.indices), self.values)
            elif self.nnz:
                dense += self.values.sum(axis=0, dtype=dense.dtype)  # no index: all is one
            return dense
        for place in np.ndindex(*self.parts[_COMPRESSED[self.layout][0]].shape[:-1]):
            self._fill(dense[place], place)
        return dense

    def _fill(self, dense: Array, place: tuple[int, ...]) -> None:
        import numpy as np

        compressed, plain = (self.parts[name][place] for name in _COMPRESSED[self.layout])
        first = np.repeat(np.arange(len(compressed) - 1), np.diff(compressed))
        rows, columns = (
            (first, plain) if self.layout in ("sparse_csr", "sparse_bsr") else (plain, first)
        )
        values = self.values[place]
        if "bs" not in self.layout:
            dense[rows, columns] = values
            return
        high, wide = values.shape[1:3]
        for row, column, block in zip(rows, columns, values, strict=True):
            dense[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = block

    def to_scipy(self) -> Any:
        """The same as a matrix of scipy.sparse, which must be installed; two dimensions only."""
        import scipy.sparse  # type: ignore[import-untyped,import-not-found,unused-ignore]

        batch = self.layout in _COMPRESSED and self.parts[_COMPRESSED[self.layout][0]].ndim > 1
        if len(self.shape) != 2 or batch or (self.layout == "sparse_coo" and self.values.ndim > 1):
            raise UnsupportedError("scipy.sparse knows matrices only", code="no-matrix")
        self.check()
        if self.layout == "sparse_coo":
            return scipy.sparse.coo_matrix((self.values, tuple(self.indices)), self.shape)
        compressed, plain = (self.parts[name] for name in _COMPRESSED[self.layout])
        parts = (self.values, plain, compressed)
        if self.layout == "sparse_csr":
            return scipy.sparse.csr_matrix(parts, self.shape)
        if self.layout == "sparse_csc":
            return scipy.sparse.csc_matrix(parts, self.shape)
        if self.layout == "sparse_bsr":
            return scipy.sparse.bsr_matrix(parts, self.shape)
        return scipy.sparse.csc_matrix(self.to_dense())  # scipy has no blocks by columns

    def _dense_by(self) -> str:
        return ".to_dense() makes one"


def _within(indices: Array, size: int) -> None:
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise CorruptError("an index of a sparse tensor lies beyond its shape", code="tensor")


# ------------------------------------------------------------------ nested


class NestedTensor(TensorObject):
    """Arrays of different sizes in one tensor: a sequence of arrays.

    Attributes:
        parts: what stands in the file: ``buffer``, ``sizes``, ``strides`` and ``offsets`` of
            torch's strided layout; ``values``, ``offsets`` and perhaps ``lengths`` of its
            jagged one.
        ragged_axis: of the jagged layout, the dimension whose size differs.

    >>> import numpy as np
    >>> parts = {"values": np.arange(5), "offsets": np.array([0, 2, 5])}
    >>> n = NestedTensor("jagged", (2, -1), parts)
    >>> [part.tolist() for part in n]
    [[0, 1], [2, 3, 4]]
    """

    __slots__ = ("parts", "ragged_axis")

    def __init__(
        self, layout: str, shape: tuple[int, ...], parts: dict[str, Array], ragged_axis: int = 1
    ) -> None:
        from pystatedict._dtypes import torch_dtype

        data = parts["buffer" if layout == "nested" else "values"]
        super().__init__(str(torch_dtype(data.dtype) or data.dtype), shape, layout)
        self.parts = parts
        self.ragged_axis = ragged_axis

    def _parts(self) -> dict[str, Any]:
        return self.parts

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: int) -> Array:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"there are {count} parts")
        index %= count
        return self._strided(index) if self.layout == "nested" else self._jagged(index)

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    def _strided(self, index: int) -> Array:
        import numpy as np

        buffer = self.parts["buffer"]
        sizes = [int(n) for n in self.parts["sizes"][index]]
        strides = [int(n) for n in self.parts["strides"][index]]
        offset = int(self.parts["offsets"][index])
        if any(n < 0 for n in [*sizes, *strides, offset]):
            raise _bad_nested()
        if 0 in sizes:
            return np.zeros(sizes, buffer.dtype)
        last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if last >= buffer.size:
            raise _bad_nested()
        steps = [stride * buffer.strides[0] for stride in strides]
        return np.lib.stride_tricks.as_strided(buffer[offset:], sizes, steps)

    def _jagged(self, index: int) -> Array:
        offsets, values = self.parts["offsets"], self.parts["values"]
        axis = self.ragged_axis - 1
        start, stop = int(offsets[index]), int(offsets[index + 1])
        if "lengths" in self.parts:
            stop = start + int(self.parts["lengths"][index])
        if not 0 <= start <= stop <= values.shape[axis]:
            raise _bad_nested()
        return values[(slice(None),) * axis + (slice(start, stop),)]

    def _dense_by(self) -> str:
        return "it is a sequence of arrays"


def _bad_nested() -> CorruptError:
    return CorruptError("a part of a nested tensor reaches beyond its buffer", code="tensor")


# ------------------------------------------------------------------ subclasses


class TensorSubclass(TensorObject):
    """A tensor whose class wraps others, such as a DTensor: the real ones stand within.

    Attributes:
        type: the class, as ``module.name``; it was not imported.
        inner: the tensors among its attributes, by name: ``_local_tensor`` of a DTensor, which
            is this file's part of the whole.
        state: its attributes as the pickle tells them, a dict or a tuple of two.
    """

    __slots__ = ("inner", "state", "stride", "type")

    def __init__(
        self,
        type: str,
        dtype: str,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        inner: dict[str, Any],
        state: Any,
    ) -> None:
        super().__init__(dtype, shape, "subclass")
        self.type = type
        self.stride = stride
        self.inner = inner
        self.state = state

    def _parts(self) -> dict[str, Any]:
        return self.inner

    def _dense_by(self) -> str:
        return f"its tensors are in .inner: {', '.join(self.inner) or 'none'}"

    def __repr__(self) -> str:
        from pystatedict._printable import printable

        return f"<TensorSubclass {printable(self.type)} {self.dtype} {list(self.shape)}>"
