"""NumPy's objects as pickle calls: arrays whose dtype torch lacks, scalars and dtypes.

As NumPy itself pickles them, under names that its releases 1 and 2 both have.  An array of
one of NumPy's own subclasses is written as that; of somebody else's as the nearest of
NumPy's, as a dict is of whatever subclass.
"""

from __future__ import annotations

import sys
from typing import Any

from pystatedict._dtypes import foreign_metadata
from pystatedict._marks import NDARRAY, mark
from pystatedict._opaque import Own

Call = tuple[str, "str | None", Any, tuple[Any, ...], Any, Any, Any, Any]

_OBJECT_DIMENSIONS = 32
_MULTIARRAY = "numpy.core.multiarray"

#: By the names of the classes in NumPy, so that none is fetched which is deprecated.
_SUBCLASSES = {
    "matrix": ("numpy", "matrix"),
    "recarray": ("numpy", "recarray"),
    "chararray": ("numpy.core.defchararray", "chararray"),
}


def call(module: str, name: str, *args: Any, items: Any = None, state: Any = None) -> Call:
    return ("reduce", module, name, args, None, items, None, state)


def reduce(obj: Any) -> Call:
    """How to write the object; TypeError for what no pickle tells."""
    import numpy as np

    if isinstance(obj, np.dtype):
        return _dtype(obj)
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(obj, masked.MaskedArray):
        return _masked(obj)
    if isinstance(obj, np.ndarray):
        kind = Own(*_class_of(obj))
        return call(_MULTIARRAY, "_reconstruct", kind, (0,), b"b", state=_state(obj))
    if isinstance(obj, np.generic):
        return _scalar(obj)
    raise TypeError(f"cannot save a {type(obj).__name__} of NumPy")


def _class_of(array: Any) -> tuple[str, str]:
    for kind in type(array).__mro__:
        if kind.__module__.partition(".")[0] == "numpy" and kind.__name__ in _SUBCLASSES:
            return _SUBCLASSES[kind.__name__]
    return "numpy", "ndarray"


def _scalar(obj: Any) -> Call:
    import numpy as np

    array = np.asarray(obj)
    content = array if array.dtype.hasobject else _settled(array)
    return call(_MULTIARRAY, "scalar", array.dtype, content)


def _settled(array: Any) -> bytes:
    """The bytes of a scalar, zero where a number of the x87 leaves memory as it was."""
    import numpy as np

    data = bytearray(array.tobytes())
    if array.dtype.char in "gG" and np.finfo(np.longdouble).nmant == 63:
        size = np.dtype(np.longdouble).itemsize
        for start in range(0, len(data), size):
            data[start + 10 : start + size] = bytes(size - 10)
    return bytes(data)


# ------------------------------------------------------------------ arrays


def _state(array: Any) -> tuple[Any, ...]:
    import numpy as np

    fortran = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    array = np.asarray(array)
    dtype = array.dtype
    data: Any
    if dtype.hasobject:
        if array.ndim > _OBJECT_DIMENSIONS:
            raise TypeError(
                f"cannot save an array of objects of {array.ndim} dimensions: NumPy itself"
                f" pickles {_OBJECT_DIMENSIONS} at most"
            )
        # One by one in C order, whatever the array's own.
        flat = array.reshape(-1).tolist()
        data = [_row(row, dtype) for row in flat] if dtype.names is not None else flat
    else:
        data = array.tobytes(order="F" if fortran else "C")
    return (1, array.shape, dtype, fortran, data)


def _row(value: Any, dtype: Any) -> Any:
    """An element of a structured array; arrays that are fields are NumPy's, no tensors."""
    if dtype.names is not None:
        fields = [dtype.fields[name][0] for name in dtype.names]
        return tuple(_row(part, field) for part, field in zip(value, fields, strict=True))
    if dtype.subdtype is not None:
        return _no_tensor(value)
    return value


def _no_tensor(array: Any) -> Any:
    """A copy that is written as NumPy pickles it, whatever its dtype."""
    array = array.copy()
    mark(array, NDARRAY)
    return array


def _masked(array: Any) -> Call:
    import numpy as np

    if type(array) is not np.ma.MaskedArray or array.baseclass is not np.ndarray:
        raise TypeError(
            f"cannot save a {type(array).__module__}.{type(array).__qualname__}: save"
            " array.filled(...), and its mask beside it"
        )
    state = _state(array.data)
    mask = np.ma.getmaskarray(array).tobytes(order="F" if state[3] else "C")
    filling: Any = getattr(array, "_fill_value", None)  # the property would set one
    filling = None if filling is None else _no_tensor(np.asarray(filling))
    kind, base = Own("numpy.ma.core", "MaskedArray"), Own("numpy", "ndarray")
    state = (*state, mask, filling)
    return call("numpy.ma.core", "_mareconstruct", kind, base, (0,), "b", state=state)


# ------------------------------------------------------------------ dtypes


def _dtype(dtype: Any) -> Call:
    if dtype.type.__module__ == "ml_dtypes":
        return call("numpy", "dtype", Own("ml_dtypes", dtype.name), False, True)
    if dtype.kind == "T":
        missing = (dtype.na_object,) if hasattr(dtype, "na_object") else ()
        function = "_convert_to_stringdtype_kwargs"
        return call("numpy._core._internal", function, int(dtype.coerce), *missing)
    if dtype.type.__module__ != "numpy" and dtype.type.__name__ != "record":
        raise TypeError(f"cannot save a dtype of {dtype.type.__module__}: {dtype}")
    spec, state = _spec_and_state(dtype)
    metadata = foreign_metadata(dtype)
    if dtype.kind in "mM":
        state = (4, *state[1:], (metadata or {}, _unit_of(dtype)))
    elif metadata is not None:
        state = (4, *state[1:], metadata)
    return call("numpy", "dtype", spec, False, True, state=state)


def _spec_and_state(dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    import numpy as np

    # NumPy 1 tells them as a signed byte, and later ones know more of them.
    order, size, flags = dtype.str[0], dtype.itemsize, dtype.flags & 0xFF
    state: tuple[Any, ...]
    if dtype.subdtype is not None:
        return f"V{size}", (3, "|", dtype.subdtype, None, None, size, dtype.alignment, flags)
    if dtype.names is not None:
        # With a title a field stands twice.
        state = (3, "|", None, dtype.names, dict(dtype.fields), size, dtype.alignment, flags)
        return Own("numpy", "record") if dtype.type is np.record else f"V{size}", state
    if dtype.kind in "SUV":
        state = (3, order, None, None, None, size, dtype.alignment, flags)
        return dtype.str.lstrip("<>|="), state
    spec = f"{dtype.kind}8" if dtype.kind in "mM" else dtype.str.lstrip("<>|=")
    return spec, (3, order, None, None, None, -1, -1, flags)


def _unit_of(dtype: Any) -> tuple[bytes, int, int, int]:
    import numpy as np

    unit, count = np.datetime_data(dtype)
    return (unit.encode(), count, 1, 1)
