# SPDX-License-Identifier: Apache-2.0
"""The numbers of a tensor of any kind, in dtypes that NumPy computes with: whole, its corners,
or in pieces of bounded size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pystatedict._dtypes import widen
from pystatedict._tensorkinds import (
    NestedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorObject,
    TensorSubclass,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Numbers of a piece.
PIECE = 1 << 17


class Plane:
    """Arrays of one shape, and what makes numbers of them."""

    def __init__(self, arrays: list[Array], numbers: Callable[..., Array]) -> None:
        self.arrays = arrays
        self.numbers = numbers
        self.size = int(arrays[0].size)

    def whole(self) -> Array:
        return self.numbers(*self.arrays)

    def corners(self, edge: int) -> Array:
        """Of every dimension the first and last numbers, and one that stands for the others.

        NumPy prints it as it prints the whole with `edgeitems=edge`, abbreviated.
        """
        picked = [
            np.arange(size) if size <= 2 * edge else np.r_[0 : edge + 1, size - edge : size]
            for size in self.arrays[0].shape
        ]
        where = np.ix_(*picked)
        return self.numbers(*(array[where] for array in self.arrays))

    def pieces(self) -> Iterator[Array]:
        """All numbers once, in some order; each piece is gone when the next is asked for."""
        steps = np.nditer(
            self.arrays,
            flags=["external_loop", "buffered", "zerosize_ok"],
            op_flags=[["readonly"]] * len(self.arrays),
            buffersize=PIECE,
        )
        for step in steps:
            chunks: tuple[Array, ...] = step if isinstance(step, tuple) else (step,)
            yield self.numbers(
                *(
                    # nditer forgets torch's name, which dtypes carry in their metadata.
                    chunk.view(array.dtype) if array.dtype.metadata else chunk
                    for chunk, array in zip(chunks, self.arrays, strict=True)
                )
            )


def planes_of(value: Any) -> Iterator[tuple[str, Plane]]:
    """(name of the part, its numbers); the name is empty where there is one part."""
    if isinstance(value, QuantizedTensor):
        yield "", _quantized(value)
    elif isinstance(value, SparseTensor):
        for name, array in value.parts.items():
            yield name, Plane([array], widened)
    elif isinstance(value, NestedTensor):
        for index, array in enumerate(value):
            yield f"[{index}]", Plane([array], widened)
    elif isinstance(value, TensorSubclass):
        for name, inner in value.inner.items():
            for part, plane in planes_of(inner):
                yield ".".join(filter(None, (name, part))), plane
    elif isinstance(value, np.ndarray):
        yield "", Plane([value], widened)


def counted_planes(value: Any) -> list[Plane]:
    """Those whose numbers are the tensor's own values: of a sparse tensor no indices."""
    if isinstance(value, SparseTensor):
        return [Plane([value.values], widened)]
    if isinstance(value, TensorSubclass):
        return [plane for inner in value.inner.values() for plane in counted_planes(inner)]
    return [plane for _, plane in planes_of(value)]


def widened(array: Array) -> Array:
    """widen(), and raw integers of what says nothing about its bits."""
    try:
        return widen(array)
    except TypeError:
        return array


def how_told(value: Any) -> str:
    """What a reader must know to take the numbers for what they are; often nothing."""
    if isinstance(value, QuantizedTensor):
        if value.scales is None:
            return f"dequantized with scale {value.scale:g} and zero point {value.zero_point}"
        return f"dequantized with a scale for each of axis {value.axis}"
    if isinstance(value, SparseTensor):
        return f"{value.layout}, {value.nnz:,} values stored"
    if isinstance(value, NestedTensor):
        return f"{value.layout}, {len(value):,} parts"
    if isinstance(value, TensorObject):
        return f"a {getattr(value, 'type', value.layout)}"
    from pystatedict._dtypes import torch_dtype

    name = torch_dtype(value.dtype) or ""
    if name.startswith("bits"):
        return "raw integers: the dtype does not say what its bits mean"
    shown = widened(value[(slice(0, 0),) * value.ndim] if value.ndim else value)
    if shown.dtype == value.dtype:
        return ""
    return f"shown as {shown.dtype}" + (", two numbers a byte" if name.startswith("float4") else "")


def _quantized(value: QuantizedTensor) -> Plane:
    """dequantize() without an array of everything."""
    integers = value.array
    if value.scales is None:
        scales: Array = np.asarray(np.float32(value.scale or 0))
        zeros: Array = np.asarray(np.int64(value.zero_point or 0))
    else:
        shape = [1] * len(value.shape)
        shape[value.axis or 0] = -1
        scales = np.asarray(value.scales).reshape(shape)
        zeros = np.asarray(value.zero_points).reshape(shape)
    return Plane([*np.broadcast_arrays(integers, scales, zeros)], _reals)


def _reals(integers: Array, scales: Array, zeros: Array) -> Array:
    if zeros.dtype.kind == "f":
        distance = integers.astype("f4") - zeros.astype("f4")
    else:
        distance = (integers.astype("i8") - zeros).astype("f4")
    return np.asarray(distance * scales.astype("f4"))
