# SPDX-License-Identifier: Apache-2.0
"""Mappings of names to arrays, for the containers that hold nothing else; and their bytes
on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pystatedict._dtypes import _TORCH_KEY, as_ndarray, without_metadata
from pystatedict._printable import printable

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystatedict._flat import Flat

    Array = npt.NDArray[Any]

_PIECE = 1 << 20  # bytes of an array that are put in order at a time
_GATHER = 1 << 18  # small pieces gathered into one write()


class Later:
    """A tensor of a file, or a lazy one, with the face of an array; read when it is written."""

    __slots__ = ("_flat", "dtype", "nbytes", "shape")

    def __init__(self, flat: Flat) -> None:
        from pystatedict._dtypes import numpy_dtype

        self._flat = flat
        self.dtype = numpy_dtype(flat.dtype)
        self.shape = flat.shape
        self.nbytes = flat.numel * self.dtype.itemsize

    def stretches(self) -> Iterator[Array]:
        """The elements in row-major order, some at a time."""
        count = max(_PIECE // self.dtype.itemsize, 1)
        for start in range(0, self._flat.numel, count):
            yield self._flat.read(start, min(count, self._flat.numel - start))


def arrays_of(obj: Any, format: str) -> list[tuple[str, Array | Later]]:
    """(name, array) of a mapping that holds nothing else; Later of what is not in memory.

    Raises TypeError for what a container of that format cannot hold, and says what to do.
    """
    if not isinstance(obj, Mapping):
        raise TypeError(
            f"{_a(format)} file holds a mapping of names to arrays, not a {_kind(obj)};"
            " save it as a .pth file, or give {'name': array}"
        )
    found = []
    for name, value in obj.items():
        if not isinstance(name, str):
            raise TypeError(
                f"{_a(format)} file names its arrays by str, and one name is a {_kind(name)}:"
                f" {printable(repr(name), 60)}; use str(name), or save it as a .pth file"
            )
        found.append((name, _array(name, value, obj, format)))
    return found


def _array(name: str, value: Any, obj: Any, format: str) -> Array | Later:
    import numpy as np

    from pystatedict._flat import Flat, is_flat

    if isinstance(value, np.ndarray):
        array = as_ndarray(value)
        if array.dtype.metadata and _TORCH_KEY not in array.dtype.metadata:
            return array.view(without_metadata(array.dtype))  # where it stood in a pickle
        return array
    if is_flat(value):
        return Later(Flat(value))
    if hasattr(value, "_archive") and hasattr(value, "numpy"):  # a TensorInfo of another kind
        return _array(name, value.numpy(), obj, format)
    raise TypeError(
        f"{_a(format)} file holds arrays only, and {printable(repr(name), 80)} is a"
        f" {_kind(value)}; {_advice(name, value, obj)}"
    )


def _advice(name: str, value: Any, obj: Any) -> str:
    kind = type(value)
    if isinstance(value, Mapping):
        inner = [k for k, v in obj.items() if isinstance(v, Mapping)]
        shown = printable(repr(inner[0]), 60)
        return (
            f"save one mapping by itself, as in save(obj[{shown}], f), or flatten it to names"
            " such as 'a.b'; a .pth file keeps the nest"
        )
    if kind.__module__.split(".")[0] == "torch":
        return "give NumPy arrays, as in {name: tensor.detach().cpu().numpy()}"
    if hasattr(value, "dequantize"):
        return (
            "save its integers, scales and zero points under names of their own, or"
            " value.dequantize(); a .pth file keeps it"
        )
    if hasattr(value, "to_dense"):
        return "save value.to_dense(), or its parts under names of their own; a .pth file keeps it"
    if isinstance(value, (bool, int, float, complex)) or kind.__module__ == "numpy":
        return "leave it out, or save numpy.asarray(value); a .pth file keeps it"
    return "leave it out, or save it as a .pth file"


def _a(format: str) -> str:
    return f"an {format}" if format[0] in "aeiou" or format == "npz" else f"a {format}"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


# ------------------------------------------------------------------ bytes


def pieces(array: Array | Later) -> Iterator[memoryview | bytes]:
    """The bytes of an array, row after row and little-endian.

    What lies so already is given as it lies; else a piece at a time is put in order, so a
    large array is never held twice.
    """
    import numpy as np

    if array.nbytes == 0:
        return
    if isinstance(array, Later):
        for stretch in array.stretches():
            yield from pieces(stretch)
        return
    if array.dtype.type.__module__ != "numpy":
        array = array.view(f"u{array.dtype.itemsize}")  # NumPy cannot swap those of others
    little = array.dtype.newbyteorder("<")
    if array.dtype == little and array.flags.c_contiguous:
        yield array.tobytes() if array.nbytes < _GATHER else array.reshape(-1).view(np.uint8).data
        return
    flags: Any = ["external_loop", "buffered"]
    operand: Any = [["readonly", "contig"]]
    count = max(_PIECE // array.dtype.itemsize, 1)
    for piece in np.nditer(
        array, flags, operand, [little], order="C", casting="equiv", buffersize=count
    ):
        yield np.asarray(piece).tobytes()


class Pouring:
    """write() of a target as one that takes all; small pieces are gathered."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self._write = write
        self._gathered = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        """Take all of the bytes."""
        size = len(data)
        if size < _GATHER:
            self._gathered += data
            if len(self._gathered) >= _GATHER:
                self.flush()
            return size
        self.flush()
        self._pour(memoryview(data))
        return size

    def flush(self) -> None:
        """Hand on what is gathered.  A writer that keeps what it was given may do so."""
        gathered, self._gathered = self._gathered, bytearray()
        if gathered:
            self._pour(memoryview(gathered))

    def _pour(self, rest: memoryview) -> None:
        while rest:
            # Some systems take no more than 2 GiB in one call.
            taken = self._write(rest[: 1 << 30])
            if taken is None:
                taken = min(len(rest), 1 << 30)
            if not isinstance(taken, int) or isinstance(taken, bool):
                raise TypeError(
                    f"write() must give the number of bytes it took, or None, not {taken!r}"
                )
            if not 0 < taken <= len(rest):
                raise OSError(f"write() says it took {taken} of {len(rest)} bytes")
            rest = rest[taken:]
