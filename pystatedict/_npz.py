# SPDX-License-Identifier: Apache-2.0
"""NumPy's archives: a zip of ``.npy`` files, each an array under its name.

Arrays whose dtype torch has become tensors like any other, mapped where they are stored.
Others (texts, dates, records) are no tensors: they are not listed, and come with `load`
as the arrays that they are.  Arrays of Python objects are pickles, and are refused.

The ``.npy`` format: numpy.lib.format, versions 1.0 to 3.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pystatedict import _archivelook as _look
from pystatedict import _core
from pystatedict._errors import CorruptError, UnsafePickleError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from pystatedict._core import Archive, Source

    Limits = dict[str, int] | None
    Storage = tuple[str, int, int, bool, bool, int]

_MAGIC = b"\x93NUMPY"
_HEADER_MOST = 1 << 20  # bytes of one header
_LITERAL_MOST = 10_000  # of one that is not of the common form, as NumPy itself bounds it

# NumPy's spellings of what torch has, without the byte order.
_TORCH = {
    "b1": "bool", "u1": "uint8", "i1": "int8", "u2": "uint16", "i2": "int16", "u4": "uint32",
    "i4": "int32", "u8": "uint64", "i8": "int64", "f2": "float16", "f4": "float32",
    "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip
_COMPLEX32 = [("real", "f2"), ("imag", "f2")]

# {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, as every writer spells it.
# Possessive, so that no blanks are tried twice.
_COMMON = re.compile(
    r"\s*+\{\s*+'descr'\s*+:\s*+'([^'\\]*+)'\s*+,\s*+'fortran_order'\s*+:\s*+(True|False)\s*+,"
    r"\s*+'shape'\s*+:\s*+\(((?:\s*+\d{1,19}+L?\s*+,)*+\s*+(?:\d{1,19}+L?)?)\s*+\)\s*+,?\s*+\}\s*+",
    re.ASCII,
)


class Header:
    """What stands before an array's bytes: its dtype as spelled, its order and shape."""

    __slots__ = ("descr", "fortran", "shape", "size")

    def __init__(self, descr: Any, fortran: bool, shape: tuple[int, ...], size: int) -> None:
        self.descr = descr
        self.fortran = fortran
        self.shape = shape
        self.size = size  # bytes, up to the array's first

    def torch_dtype(self) -> tuple[str, str] | None:
        """(torch's dtype, byte order); None of what torch has not."""
        descr = self.descr
        if isinstance(descr, str) and descr[:1] in ("<", ">", "|", "=") and descr[1:] in _TORCH:
            return _TORCH[descr[1:]], descr[0]
        if isinstance(descr, list) and [(f[0], f[1][1:]) for f in _fields(descr)] == _COMPLEX32:
            order = descr[0][1][0]
            return ("complex32", order) if descr[1][1][0] == order else None
        return None


def _fields(descr: list[Any]) -> list[tuple[str, str]]:
    """(name, dtype) of plain fields; none where one is not plain."""
    plain = all(
        isinstance(f, tuple) and len(f) == 2 and isinstance(f[0], str) and isinstance(f[1], str)
        for f in descr
    )
    return descr if plain else []


# ------------------------------------------------------------------ reading


def read_npz(source: Source, path: str | None, limits: Limits) -> Archive:
    """The archive of a ``.npz`` file."""
    archive = _core.open_archive(source, path, limits, False, mode="exact")
    storages: list[Storage] = []
    tensors: list[tuple[str, str, tuple[int, ...], tuple[int, ...] | None, int, int]] = []
    others: dict[str, tuple[int, str, Header]] = {}
    order: dict[str, None] = {}
    for index, (record, place, stored, size, _, method) in enumerate(archive.records()):
        if record.endswith("/"):
            continue
        name = _name_of(record)
        entry = _look.Entry(record, place, method, stored)
        header = _header(source.read, entry, size)
        if name in order or not record.endswith(".npy"):
            raise CorruptError(
                "a record of the archive is no array, or two have one name",
                code="npz", entry=record,
            )  # fmt: skip
        order[name] = None
        found = header.torch_dtype()
        if found is None:
            others[name] = (index, record, header)
            continue
        dtype, byteorder = found
        skip = header.size
        storages.append((name, index, size - skip, True, byteorder == ">", skip))
        strides = _fortran(header.shape) if header.fortran else None
        tensors.append((name, dtype, header.shape, strides, len(storages) - 1, 0))
        _check_size(header, size, _core.DTYPES[dtype][0], record)
    archive.describe("npz", storages, tensors, Others(others, list(order)) if others else None)
    return archive


def _name_of(record: str) -> str:
    """The array's name: of bytes that are no UTF-8 what NumPy takes them for."""
    name = record.removesuffix(".npy")
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("cp437")
    return name


def _fortran(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in shape:
        strides.append(min(step, (1 << 63) - 1))
        step *= max(size, 1)
    return tuple(strides)


def _check_size(header: Header, size: int, itemsize: int, record: str) -> None:
    expected = itemsize
    for count in header.shape:
        expected *= count
    if expected != size - header.size:
        raise CorruptError(
            "a record of the archive has not as many bytes as its header tells",
            code="npz",
            entry=record,
            evidence=(f"found {size - header.size:,}, expected {expected:,}",),
        )


def _header(at: Callable[[int, int], bytes], entry: _look.Entry, size: int) -> Header:
    def broken(why: str) -> CorruptError:
        return CorruptError(f"a record of the archive {why}", code="npz", entry=entry.name)

    def first(count: int) -> bytes:
        try:
            return _look.payload(at, entry, count)
        except ValueError as error:
            raise broken(f"cannot be read: {error}") from None

    if entry.method not in (0, 8):
        raise UnsupportedError(
            f"a record of the archive is packed by method {entry.method}; NumPy stores or deflates",
            code="zip-method",
            entry=entry.name,
        )
    data = first(4096)
    if data[:6] != _MAGIC or len(data) < 12 or data[6] not in (1, 2, 3):
        raise broken("is no array of NumPy")
    wide = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + wide], "little")
    start = 8 + wide
    if length > _HEADER_MOST or start + length > size:
        raise broken("has a header longer than itself, or than any array needs")
    if start + length > len(data):
        data = first(start + length)
    text = data[start : start + length]
    if len(text) < length:
        raise broken("ends within its header")
    try:
        return _parsed(text.decode("utf-8" if data[6] == 3 else "latin-1"), start + length)
    except ValueError:
        raise broken("has a header that cannot be understood") from None


def _parsed(text: str, size: int) -> Header:
    """ValueError for what is no header."""
    common = _COMMON.fullmatch(text)
    if common is not None:
        sizes = [int(n.strip().rstrip("L")) for n in common[3].split(",") if n.strip()]
        if common[3].count(",") == 0 and len(sizes) == 1:
            raise ValueError("(3) is a number, not a shape")
        return Header(common[1], common[2] == "True", _checked_shape(tuple(sizes)), size)
    if len(text) > _LITERAL_MOST:
        raise ValueError("too long")
    from ast import literal_eval

    try:
        told = literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("no literal") from None
    if not isinstance(told, dict) or told.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("other keys")
    shape = told["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("no shape")
    if not isinstance(told["fortran_order"], bool):
        raise ValueError("no order")
    return Header(told["descr"], told["fortran_order"], _checked_shape(shape), size)


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if any(size >= 1 << 63 for size in shape):
        raise ValueError("too large")
    return shape


class Others:
    """The arrays of an archive that are no tensors; what load() adds at its end."""

    def __init__(self, rows: dict[str, tuple[int, str, Header]], order: list[str]) -> None:
        self._rows = rows
        self._order = order

    def complete(self, archive: Archive, obj: Any, bad: Container[str] = ()) -> list[str]:
        """Put them into what was loaded, at their places; the names of those whose records
        are `bad`, which are left out.
        """
        tensors = dict(obj)
        obj.clear()
        lost = []
        for name in self._order:
            if name in tensors:
                obj[name] = tensors[name]
            elif name in self._rows and self._rows[name][1] not in bad:
                obj[name] = self._array(archive, name)
            elif name in self._rows:
                lost.append(name)
        return lost

    def _array(self, archive: Archive, name: str) -> Any:
        import numpy as np

        index, record, header = self._rows[name]
        try:
            dtype = np.lib.format.descr_to_dtype(header.descr)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            SyntaxError,
            TypeError,
            ValueError,
        ):
            raise CorruptError(
                "a record of the archive has a dtype that NumPy does not know",
                code="npz", entry=record,
            ) from None  # fmt: skip
        data = archive.read(index)
        if dtype.hasobject:
            raise _objects(data[header.size :], name, record)
        _check_size(header, len(data), dtype.itemsize, record)
        try:
            if dtype.itemsize == 0:
                return np.zeros(header.shape, dtype)
            octets = np.frombuffer(bytearray(data), "u1")[header.size :]
            return octets.view(dtype).reshape(header.shape, order="F" if header.fortran else "C")
        except ValueError:
            raise UnsupportedError(
                "NumPy cannot hold an array of this shape", code="npz", entry=record, hint=""
            ) from None


def _objects(program: bytes, name: str, record: str) -> UnsafePickleError | UnsupportedError:
    """The error for an array of Python objects, which is a pickle: for what it asks."""
    from pystatedict._globals import verdict

    named, *_ = _core.scan_pickle(program)
    asked = [f"{m}.{n}" for m, n, *_ in named if verdict(m, n) == "dangerous"]
    if asked:
        return UnsafePickleError(
            f"the array {name!r} holds Python objects, and its pickle asks for code; nothing was"
            " run",
            code="dangerous-global",
            entry=record,
            globals=asked,
        )
    return UnsupportedError(
        f"the array {name!r} holds Python objects",
        code="npz-objects",
        entry=record,
        hint="open() lists and gives the other arrays; numpy.load(f, allow_pickle=True) reads it,"
        " and runs what it names",
    )


# ------------------------------------------------------------------ writing

_ALIGNMENT = 64
_PADDING = b"FB"  # the field that torch's own archives are padded by; readers pass it by


def npz_writer(obj: Any) -> Callable[[Callable[[memoryview], object]], None]:
    """What pours a mapping of names to arrays into a write().

    ``numpy.load`` reads what comes out, without ``allow_pickle``.  Every array starts at a
    multiple of 64 bytes, so that it can be mapped.

    Raises TypeError for what the format cannot hold, before anything is written.
    """
    from pystatedict._named import Pouring, arrays_of

    rows = arrays_of(obj, "npz")
    for name, array in rows:
        _check_name(name)
        _check_dtype(name, array)

    def pour(write: Callable[[memoryview], object]) -> None:
        import zipfile

        target: Any = Pouring(write)
        with zipfile.ZipFile(target, "w") as archive:
            for name, array in rows:
                _write_array(archive, f"{name}.npy", array)
        target.flush()

    return pour


def _check_name(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise TypeError(f"{name!r} cannot name an array of an npz file: no UTF-8") from None
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or ".." in parts or parts[0] == "" or size > 60_000:
        raise TypeError(f"{name[:80]!r} cannot name an array of an npz file, where it is a path")


def _check_dtype(name: str, array: Any) -> None:
    dtype = array.dtype
    if dtype.hasobject:
        raise TypeError(f"{name!r} holds Python objects, and npz files are written without pickles")
    told = (dtype.metadata or {}).get("torch_dtype")
    if dtype.type.__module__ == "ml_dtypes" or told is not None:
        raise TypeError(
            f"{name!r} is an array of dtype {told or dtype.name}, which npz files cannot tell: it"
            " would come back as bytes; save array.astype('float32'), or a .safetensors file"
        )


def _write_array(archive: Any, name: str, array: Any) -> None:
    import zipfile

    from numpy.lib import format as npy

    from pystatedict._named import Later, pieces

    info = zipfile.ZipInfo(name)  # of 1980, so the same object gives the same bytes
    info.create_system = 3
    info.external_attr = 0o600 << 16
    wide = array.nbytes > 1 << 30
    before = archive.fp.tell() + 30 + len(name.encode()) + 4 + (20 if wide else 0)
    padding = -before % _ALIGNMENT
    info.extra = _PADDING + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w", force_zip64=wide) as record:
        if isinstance(array, Later):
            like = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False}
            npy.write_array_header_1_0(record, {**like, "shape": array.shape})
            for piece in pieces(array):
                record.write(piece)
        else:
            npy.write_array(record, array, allow_pickle=False)
