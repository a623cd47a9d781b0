"""NumPy's own values in a pickle: arrays, scalars and dtypes, made by hand and checked.

NumPy's ``__setstate__`` methods are never called: a state is data here, and what it claims
is held against the bytes that are there.
"""

from __future__ import annotations

from typing import Any

from pystatedict._checks import expect, raw_bytes, wrong
from pystatedict._dtypes import pickled_ml_dtype, torch_dtype
from pystatedict._marks import NDARRAY, mark
from pystatedict._opaque import Opaque

_ALIGNED_STRUCT = 0x80  # of the flags in a dtype's state
_ARRAY_KINDS = frozenset("biufcSUVOmMGg?lLqQhHdDfFeBpPaN")


def scalar(dtype: Any = None, data: Any = None) -> Any:
    import numpy as np

    expect(isinstance(dtype, np.dtype) and not dtype.hasobject, "numpy scalar")
    raw = raw_bytes(data)
    expect(len(raw) == dtype.itemsize, "numpy scalar", "bytes of another size than its dtype")
    if dtype.itemsize == 0:
        return dtype.type()
    return np.frombuffer(raw, dtype, count=1)[0]


def _array(shape: Any, dtype: Any, data: Any, order: str) -> Any:
    import math

    import numpy as np

    expect(isinstance(shape, tuple) and len(shape) <= 32, "ndarray")
    expect(all(type(size) is int and size >= 0 for size in shape), "ndarray")
    expect(isinstance(dtype, np.dtype), "ndarray", "no dtype")
    count = math.prod(shape)
    expect(dtype.itemsize > 0 or count < 1 << 20, "ndarray", "a shape of its own choosing")
    if dtype.hasobject:
        expect(dtype == np.dtype(object) and isinstance(data, list), "ndarray")
        expect(len(data) == count, "ndarray", "another number of objects than its shape tells")
        flat = np.empty(count, dtype)
        for i, item in enumerate(data):
            flat[i] = item
        return flat.reshape(shape, order="F" if order == "F" else "C")
    raw = raw_bytes(data)
    expect(len(raw) == count * dtype.itemsize, "ndarray", "bytes of another size than its shape")
    flat = np.frombuffer(bytearray(raw), dtype) if raw else np.empty(count, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def reconstruct(*args: Any) -> Any:
    """Stands for the array until BUILD tells what it is."""
    expect(
        len(args) == 3 and isinstance(args[0], Opaque) and args[1] == (0,),
        "numpy _reconstruct",
    )
    return Opaque("numpy._core.multiarray", "_reconstruct", args)


def frombuffer(data: Any = None, dtype: Any = None, shape: Any = None, order: Any = None) -> Any:
    expect(isinstance(data, (bytes, bytearray)) and order in ("C", "F"), "numpy _frombuffer")
    return _marked(_array(shape, dtype, data, order))


def dtype(spec: Any = None, *_: Any) -> Any:
    """Complete for simple dtypes; BUILD tells byte order, fields and units."""
    import numpy as np

    if isinstance(spec, Opaque) and spec.module == "ml_dtypes":
        return pickled_ml_dtype(str(spec.name))
    expect(isinstance(spec, str) and 0 < len(spec) <= 24, "numpy.dtype")
    kind, size = spec.lstrip("<>=|")[:1], spec.lstrip("<>=|")[1:]
    expect(kind in _ARRAY_KINDS and (size == "" or size.isdigit()), "numpy.dtype")
    expect(size == "" or int(size) < 1 << 31, "numpy.dtype", "an item size beyond all bounds")
    try:
        return np.dtype(spec)
    except (TypeError, ValueError):
        raise wrong("numpy.dtype", f"{spec!r}, which is no dtype") from None


def build_dtype(dtype: Any, state: Any) -> Any:
    """(version, byteorder, subdtype, names, fields, itemsize, alignment, flags[, metadata])"""
    import numpy as np

    expect(isinstance(state, tuple) and 7 <= len(state) <= 9, "numpy.dtype", "no state")
    order, subdtype, names, fields, itemsize = state[1:6]
    expect(order in ("<", ">", "|", "="), "numpy.dtype", "an unknown byte order")
    try:
        if dtype.kind in "mM" and len(state) == 9 and isinstance(state[8], tuple):
            unit, count = state[8][1][:2]
            unit = unit.decode("ascii") if isinstance(unit, bytes) else unit
            expect(type(count) is int and isinstance(unit, str), "numpy.dtype")
            dtype = np.dtype(f"{dtype.kind}8[{count}{unit}]" if unit != "generic" else dtype)
        if subdtype is not None:
            return np.dtype((subdtype[0], tuple(subdtype[1])))
        if names is not None:
            expect(all(isinstance(fields[n][0], np.dtype) for n in names), "numpy.dtype")
            told = {
                "names": list(names),
                "formats": [fields[n][0] for n in names],
                "offsets": [fields[n][1] for n in names],
                "itemsize": itemsize,
            }
            aligned = len(state) > 7 and bool(state[7] & _ALIGNED_STRUCT)
            return np.dtype(told, align=aligned)  # type: ignore[call-overload]
        if order in "<>":
            dtype = dtype.newbyteorder(order)
        return dtype.newbyteorder("=") if dtype.isnative else dtype  # spelled as NumPy does
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        raise wrong("numpy.dtype", "a state that no dtype has") from None


def build_array(state: Any) -> Any:
    expect(isinstance(state, tuple) and len(state) == 5, "ndarray", "no state")
    _, shape, dtype, fortran, data = state
    return _marked(_array(shape, dtype, data, "F" if fortran else "C"))


def _marked(array: Any) -> Any:
    """save() would take it for a tensor, if torch has its dtype."""
    if torch_dtype(array.dtype) is not None:
        mark(array, NDARRAY)
    return array
