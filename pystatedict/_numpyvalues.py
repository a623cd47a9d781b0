"""NumPy's own values in a pickle: arrays, scalars and dtypes, made by hand and checked.

A state is data here, and what it claims is held against the bytes that are there.  What
NumPy has and cannot be told exactly (a class of somebody's own, a dtype that this machine
lacks) raises Untold, and stays an Opaque.
"""

from __future__ import annotations

import sys
from typing import Any

from pystatedict._checks import Untold, expect, raw_bytes, tell, wrong
from pystatedict._dtypes import OWN_METADATA, pickled_ml_dtype, torch_dtype
from pystatedict._marks import NDARRAY, mark
from pystatedict._opaque import Opaque, Unbuilt

_ALIGNED_STRUCT = 0x80  # of the flags in a dtype's state
_ARRAY_KINDS = frozenset("biufcSUVOmMGg?lLqQhHdDfFeBpPaN")
_SIZE_MOST = 1 << 31  # bytes of one item

# Bytes of one array of rows, whose pickle can be much smaller than its memory.
_ROWS_MOST = 1 << 28

# NumPy copies and frees nested dtypes by recursion.
_DEPTH_MOST = 16
_FIELDS_MOST = 1000

# How NumPy's releases name one class.
_MATRIX = {("numpy", "matrix"), ("numpy.matrixlib.defmatrix", "matrix")}
_RECORDS = {(where, "recarray") for where in
            ("numpy", "numpy.rec", "numpy.core.records", "numpy._core.records")}  # fmt: skip
_RECORD = {(where, "record") for where, _ in _RECORDS}
_CHARACTERS = {(where, "chararray") for where in
               ("numpy", "numpy.char", "numpy.core.defchararray",
                "numpy._core.defchararray")}  # fmt: skip
_MASKED = {("numpy.ma", "MaskedArray"), ("numpy.ma.core", "MaskedArray")}
#: A memmap holds its own data in a pickle, and no file.
_PLAIN = {("numpy", "ndarray"), ("numpy", "memmap"), ("numpy.core.memmap", "memmap"),
          ("numpy._core.memmap", "memmap")}  # fmt: skip


def _where(kind: Any) -> tuple[Any, Any]:
    known = isinstance(kind, Opaque) and kind.form == "global"
    return (kind.module, kind.name) if known else (None, None)


def _is_count(value: Any, most: int = 1 << 63) -> bool:
    return type(value) is int and 0 <= value < most


# ------------------------------------------------------------------ scalars


def scalar(dtype: Any = None, data: Any = None) -> Any:
    import numpy as np

    tell(not isinstance(dtype, Opaque))
    expect(isinstance(dtype, np.dtype) and dtype.subdtype is None, "numpy scalar")
    if dtype.hasobject:
        # A row with objects in it stands in its pickle as an array of no dimensions.
        tell(type(data) is np.ndarray and data.shape == () and data.dtype == dtype)
        return data[()]
    raw = _raw(data, dtype, 1, "numpy scalar")
    if dtype.itemsize == 0:
        return np.zeros((), dtype)[()]
    return np.frombuffer(raw, dtype, count=1)[0]


# ------------------------------------------------------------------ arrays


def _count_of(shape: Any, dtype: Any) -> int:
    """How many elements; refuses shapes and dtypes that no array has."""
    import math

    import numpy as np

    count: int

    tell(not isinstance(dtype, Opaque))
    expect(isinstance(dtype, np.dtype) and dtype.subdtype is None, "ndarray", "no dtype")
    expect(isinstance(shape, tuple) and all(_is_count(size) for size in shape), "ndarray")
    tell(len(shape) <= 64)
    count = math.prod(shape)
    expect(dtype.itemsize > 0 or count < 1 << 20, "ndarray", "a shape of its own choosing")
    return count


def _raw(data: Any, dtype: Any, count: int, name: str) -> bytes:
    """The bytes of so many elements; in text only characters that exist."""
    raw = raw_bytes(data, count * dtype.itemsize, name)
    if dtype.kind == "U":  # NumPy finds out when one is looked at
        try:
            raw.decode("utf-32-be" if dtype.str[0] == ">" else "utf-32-le", "surrogatepass")
        except UnicodeDecodeError:
            raise wrong(name, "characters that do not exist") from None
    return raw


def _shaped(flat: Any, shape: tuple[int, ...], order: str) -> Any:
    try:
        return flat.reshape(shape, order=order)
    except (ValueError, OverflowError):
        tell(len(shape) <= 32)  # the most that all releases of NumPy have
        raise wrong("ndarray", "a shape that NumPy does not have") from None


def _array(shape: Any, dtype: Any, fortran: bool, data: Any) -> Any:
    """An array of a state; its bytes lie in the order that `fortran` tells."""
    count = _count_of(shape, dtype)
    if dtype.hasobject:
        return _of_objects(shape, dtype, data, fortran, count)
    return _of_bytes(shape, dtype, data, fortran, count, "ndarray")


def _of_bytes(
    shape: tuple[int, ...], dtype: Any, data: Any, fortran: bool, count: int, name: str
) -> Any:
    import numpy as np

    raw = _raw(data, dtype, count, name)
    flat = np.frombuffer(bytearray(raw), dtype) if raw else np.empty(count, dtype)
    return _shaped(flat, shape, "F" if fortran else "C")


def _of_objects(shape: tuple[int, ...], dtype: Any, data: Any, fortran: bool, count: int) -> Any:
    """An array whose elements stand in the pickle one by one: in C order, whatever its own."""
    import numpy as np

    expect(isinstance(data, list), "ndarray")
    expect(len(data) == count, "ndarray", "another number of objects than its shape tells")
    if dtype == np.dtype(object):
        return set_objects(np.empty(0, "b"), shape, data, fortran)
    if dtype.names is not None:
        flat = _rows(dtype, data)
    else:
        flat = _strings(dtype, data)
    array = _shaped(flat, shape, "C")
    return np.asfortranarray(array) if fortran else array


def set_objects(array: Any, shape: tuple[int, ...], data: list[Any], fortran: bool) -> Any:
    """Let the array be one of these objects, in place: they may lead back to it.

    The one state that is given to NumPy itself, as there is no other way.
    """
    import numpy as np

    try:
        array.__setstate__((1, shape, np.dtype(object), fortran, data))
    except (ValueError, OverflowError, RuntimeError):
        tell(len(shape) <= 32)
        raise wrong("ndarray", "a shape that NumPy does not have") from None
    return array


def _strings(dtype: Any, data: list[Any]) -> Any:
    """StringDType: texts, and what its dtype says for a missing one."""
    import numpy as np

    tell(dtype.kind == "T")
    missing = getattr(dtype, "na_object", "")

    def stands(item: Any) -> bool:
        nan = type(item) is float and type(missing) is float and item != item
        return type(item) is str or item is missing or (nan and missing != missing)

    tell(all(stands(item) for item in data))
    try:
        return np.array(data, dtype=dtype)
    except (ValueError, TypeError):  # a lone surrogate, say
        raise Untold from None


def _rows(dtype: Any, data: list[Any]) -> Any:
    """Structured elements with objects among their fields, each a tuple."""
    import numpy as np

    tell(len(dtype.names) <= dtype.itemsize and len(data) * dtype.itemsize <= _ROWS_MOST)
    seen: set[int] = set()
    tell(all(_is_row(row, dtype, seen) for row in data))
    flat = np.empty(len(data), dtype)
    try:
        for i, row in enumerate(data):
            flat[i] = row
    except (TypeError, ValueError, OverflowError):
        raise Untold from None
    return flat


def _is_row(value: Any, dtype: Any, seen: set[int]) -> bool:
    """Is this what NumPy pickles for an element of the dtype, with nothing to be asked?

    No tuple twice: one that is shared is copied for each row.
    """
    import numpy as np

    if dtype.names is not None:
        fits = type(value) is tuple and len(value) == len(dtype.names) and id(value) not in seen
        seen.add(id(value))
        return fits and all(
            _is_row(part, dtype.fields[name][0], seen)
            for name, part in zip(dtype.names, value, strict=True)
        )
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return type(value) is np.ndarray and value.shape == shape and value.dtype == base
    if dtype.hasobject:
        return bool(dtype == np.dtype(object))
    return type(value) in _python_types(dtype.kind) or isinstance(value, np.generic)


def _python_types(kind: str) -> tuple[type, ...]:
    """What NumPy gives for an element of a dtype of that kind, where it is no NumPy scalar."""
    import datetime

    special: dict[str, tuple[type, ...]] = {
        "S": (bytes,),
        "U": (str,),
        "V": (bytes,),
        "M": (int, type(None), datetime.datetime, datetime.date),
        "m": (int, type(None), datetime.timedelta),
    }
    return special.get(kind, (bool, int, float, complex))


# ------------------------------------------------------------------ arrays by their states


def reconstruct(*args: Any) -> Any:
    """Stands for the array until BUILD tells what it is: (class, (0,), type code)."""
    import numpy as np

    known = len(args) == 3 and isinstance(args[0], Opaque) and args[0].form == "global"
    expect(known and type(args[1]) is tuple and len(args[1]) == 1, "numpy _reconstruct")
    expect(type(args[1][0]) is int and args[1][0] == 0, "numpy _reconstruct")
    if _where(args[0]) in _PLAIN:
        return np.empty(0, "b")
    return UnbuiltArray("numpy.core.multiarray", "_reconstruct", args)


def _state_of(state: Any, size: int) -> tuple[Any, ...]:
    """(shape, dtype, is it in Fortran's order, data, ...), without the version before."""
    expect(isinstance(state, tuple) and len(state) in (size, size - 1), "ndarray", "no state")
    rest = state[-(size - 1) :]
    expect(type(rest[2]) in (bool, int), "ndarray", "no state")
    return (*rest[:2], bool(rest[2]), *rest[3:])


def build_array(target: Any, state: Any) -> Any:
    """The array of a state; `target` is what stood for it, and objects may know that."""
    import numpy as np

    shape, dtype, fortran, data = _state_of(state, 5)
    expect(target.size == 0 and target.base is None, "ndarray", "a state that it cannot have")
    try:
        count = _count_of(shape, dtype)
        if isinstance(data, list) and dtype == np.dtype(object) and len(data) == count:
            return set_objects(target, shape, data, fortran)
        return _marked(_array(shape, dtype, fortran, data))
    except Untold:
        kind = Opaque("numpy", "ndarray")
        return _with_state(
            Opaque("numpy.core.multiarray", "_reconstruct", (kind, (0,), b"b")), state
        )


def _marked(array: Any) -> Any:
    """save() would take it for a tensor, if torch has its dtype."""
    if torch_dtype(array.dtype) is not None:
        mark(array, NDARRAY)
    return array


def _with_state(opaque: Opaque, state: Any) -> Opaque:
    opaque.state = state
    return opaque


class UnbuiltArray(Unbuilt):
    """An array of a subclass until its state tells of it."""

    __slots__ = ()

    def build(self, state: Any) -> Any:
        import numpy as np

        where = _where(self.args[0])
        tell(where in _MATRIX or where in _RECORDS or where in _CHARACTERS)
        array = _array(*_state_of(state, 5))
        if where in _RECORDS:
            return _marked(array.view(np.recarray))
        if where in _MATRIX:
            tell(array.ndim == 2)
            return _marked(array.view(np.matrix))
        tell(array.dtype.kind in "SU" and hasattr(np, "char"))
        kind = getattr(np.char, "chararray", None)
        tell(kind is not None)
        return array.view(kind)


def masked_reconstruct(*args: Any) -> Any:
    """Stands for a masked array until BUILD tells of it: (class, base, (0,), type code)."""
    tell(len(args) == 4 and _where(args[0]) in _MASKED and _where(args[1]) in _PLAIN)
    return UnbuiltMasked("numpy.ma.core", "_mareconstruct", args)


class UnbuiltMasked(Unbuilt):
    """A masked array until its state tells of it: an array's, its mask and its filling."""

    __slots__ = ()

    def build(self, state: Any) -> Any:
        import numpy as np

        shape, dtype, fortran, data, mask_bytes, filling = _state_of(state, 7)
        tell(filling is None or (type(filling) is np.ndarray and filling.shape == ()))
        array = _array(shape, dtype, fortran, data)
        tell(filling is None or not filling.dtype.hasobject or dtype == np.dtype(object))
        masks = np.ma.make_mask_descr(dtype)
        mask = _of_bytes(shape, masks, mask_bytes, fortran, array.size, "masked array")
        try:
            made = np.ma.MaskedArray(array, mask=mask, copy=False, shrink=False)
            if filling is not None:
                made.fill_value = filling
        except (TypeError, ValueError, OverflowError):
            raise Untold from None
        return _marked(made)


def frombuffer(
    data: Any = None, dtype: Any = None, shape: Any = None, order: Any = None, axes: Any = None
) -> Any:
    """How protocol 5 spells arrays; with order "K" the axes are those of another order."""
    expect(isinstance(data, (bytes, bytearray)), "numpy _frombuffer")
    expect(type(order) is str and order in ("C", "F", "K"), "numpy _frombuffer")
    array = _array(shape, dtype, order == "F", data)
    if order != "K":
        return _marked(array)
    each = isinstance(axes, tuple) and all(type(axis) is int for axis in axes)
    expect(each and sorted(axes) == list(range(array.ndim)), "numpy _frombuffer")
    return _marked(array.transpose(axes))


# ------------------------------------------------------------------ dtypes


def string_dtype(coerce: Any = None, *missing: Any) -> Any:
    """StringDType: (are other objects made texts, and what stands for a missing one)."""
    import numpy as np

    expect(type(coerce) in (bool, int) and len(missing) <= 1, "numpy StringDType")
    kind: Any = getattr(getattr(np, "dtypes", None), "StringDType", None)
    tell(kind is not None and all(m is None or type(m) in (float, str) for m in missing))
    try:
        return kind(coerce=bool(coerce), **({"na_object": missing[0]} if missing else {}))
    except (TypeError, ValueError):
        raise Untold from None


def dtype(spec: Any = None, *_: Any) -> Any:
    """Complete for simple dtypes; BUILD tells byte order, fields and units."""
    import numpy as np

    if isinstance(spec, Opaque):
        where = _where(spec)
        if where in _RECORD:
            return np.dtype((np.record, np.dtype([])))
        tell(where[0] == "ml_dtypes")
        return pickled_ml_dtype(str(where[1]))
    expect(type(spec) is str and 0 < len(spec) <= 24, "numpy.dtype")
    kind, size = spec.lstrip("<>=|")[:1], spec.lstrip("<>=|")[1:]
    expect(kind in _ARRAY_KINDS and (size == "" or size.isdecimal()), "numpy.dtype")
    expect(size == "" or int(size) < _SIZE_MOST, "numpy.dtype", "an item size beyond all bounds")
    try:
        return np.dtype(spec)
    except (TypeError, ValueError):
        tell(kind + size not in ("f10", "f12", "f16", "c20", "c24", "c32"))  # of other machines
        raise wrong("numpy.dtype", f"{spec!r}, which is no dtype") from None


def is_dtype(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.dtype)


def built_dtype(dtype: Any, state: Any) -> Any:
    try:
        return build_dtype(dtype, state)
    except Untold:
        return _with_state(Opaque("numpy", "dtype", (_spec_of(dtype), False, True)), state)


def _spec_of(dtype: Any) -> Any:
    """What the call named that gave this dtype."""
    if dtype.names is not None:
        return Opaque("numpy", "record")
    if dtype.type.__module__ == "ml_dtypes":
        return Opaque("ml_dtypes", dtype.name)
    return dtype.str.lstrip("<>|=")


def build_dtype(dtype: Any, state: Any) -> Any:
    """(version, byteorder, subdtype, names, fields, itemsize, alignment, flags[, metadata])"""
    import numpy as np

    expect(isinstance(state, tuple) and 7 <= len(state) <= 9, "numpy.dtype", "no state")
    order, subdtype, names, fields, itemsize = state[1:6]
    metadata = state[8] if len(state) == 9 else None
    expect(type(order) is str and order in ("<", ">", "|", "="), "numpy.dtype", "no byte order")
    try:
        if dtype.kind in "mM" and isinstance(metadata, tuple):
            dtype, metadata = _with_unit(dtype, metadata)
        if subdtype is not None:
            made = _subarray(subdtype)
        elif names is not None:
            made = _structure(names, fields, itemsize, state[7] if len(state) > 7 else 0)
            if dtype.type is np.record:
                made = np.dtype((np.record, made))
        else:
            made = _in_order(dtype, order)
        return _with_metadata(made, metadata)
    except (TypeError, ValueError, OverflowError):
        raise wrong("numpy.dtype", "a state that no dtype has") from None


def _in_order(dtype: Any, order: str) -> Any:
    """In that byte order; the same object where that is the dtype's own."""
    turned = dtype.newbyteorder(order) if order in "<>" else dtype
    if turned.isnative:  # spelled as NumPy does
        return dtype if dtype.isnative else turned.newbyteorder("=")
    return turned


def _with_unit(dtype: Any, metadata: tuple[Any, ...]) -> tuple[Any, Any]:
    import numpy as np

    expect(len(metadata) == 2 and isinstance(metadata[1], tuple), "numpy.dtype")
    expect(len(metadata[1]) == 4, "numpy.dtype")
    unit, count, parts, _ = metadata[1]
    unit = unit.decode("ascii") if isinstance(unit, bytes) else unit
    expect(type(unit) is str and _is_count(count, _SIZE_MOST), "numpy.dtype")
    expect(type(parts) is int and parts == 1, "numpy.dtype")
    if unit != "generic":
        dtype = np.dtype(f"{dtype.kind}8[{count}{unit}]")
    return dtype, metadata[0]


def _subarray(told: Any) -> Any:
    import numpy as np

    expect(isinstance(told, tuple) and len(told) == 2, "numpy.dtype")
    base, shape = told
    tell(not isinstance(base, Opaque))
    expect(isinstance(base, np.dtype), "numpy.dtype")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    expect(all(_is_count(size, _SIZE_MOST) for size in sizes), "numpy.dtype")
    _check_nesting([base])
    return np.dtype((base, sizes))


def _structure(names: Any, fields: Any, itemsize: Any, flags: Any) -> Any:
    import numpy as np

    fields = {} if fields is None else fields
    expect(isinstance(names, tuple) and isinstance(fields, dict), "numpy.dtype")
    expect(_is_count(itemsize, _SIZE_MOST) and type(flags) is int, "numpy.dtype")
    expect(all(type(name) is str and name in fields for name in names), "numpy.dtype")
    rows = [fields[name] for name in names]
    expect(all(isinstance(row, tuple) and len(row) in (2, 3) for row in rows), "numpy.dtype")
    tell(not any(isinstance(row[0], Opaque) for row in rows))
    known = all(isinstance(row[0], np.dtype) and _is_count(row[1], _SIZE_MOST) for row in rows)
    expect(known, "numpy.dtype")
    titles = [row[2] if len(row) == 3 else None for row in rows]
    tell(all(title is None or type(title) is str for title in titles))
    _check_nesting([row[0] for row in rows])
    told: dict[str, Any] = {
        "names": list(names),
        "formats": [row[0] for row in rows],
        "offsets": [row[1] for row in rows],
        "itemsize": itemsize,
    }
    if any(title is not None for title in titles):
        told["titles"] = titles
    # An alignment of 0, as NumPy 1 gives to no fields, would end the process.
    least = min((row[0].alignment for row in rows), default=0)
    aligned = bool(flags & _ALIGNED_STRUCT) and least > 0
    try:
        made: Any = np.dtype(told, align=aligned)  # type: ignore[call-overload]
        return made
    except ValueError:
        if not aligned:
            raise
        return np.dtype(told)  # type: ignore[call-overload]  # aligned as on another machine


def _check_nesting(below: list[Any]) -> None:
    """Of dtypes within dtypes only a few levels, and fields that can be counted."""
    fields = 0
    for _ in range(_DEPTH_MOST):
        below = [part for part in below if part.names is not None or part.subdtype is not None]
        if not below:
            return
        inner: list[Any] = []
        for part in below:
            parts = [part.subdtype[0]] if part.names is None else part.fields.values()
            fields += len(parts)
            tell(fields <= _FIELDS_MOST)
            inner.extend(p if part.names is None else p[0] for p in parts)
        below = inner
    raise Untold


def _with_metadata(dtype: Any, metadata: Any) -> Any:
    """What somebody noted in a dtype; notes of this package's own are for memory only."""
    import numpy as np

    noted = metadata if isinstance(metadata, dict) else {}
    tell(all(type(key) is str for key in noted))
    noted = {key: value for key, value in noted.items() if key not in OWN_METADATA}
    return np.dtype(dtype, metadata=noted) if noted else dtype
