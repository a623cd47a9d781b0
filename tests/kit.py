# SPDX-License-Identifier: Apache-2.0
"""Parts that several tests are made of: pickles by hand, archives, comparison, nests."""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import pystatedict as psd

# ------------------------------------------------------------------ pickles by hand


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if not -(1 << 31) <= value < 1 << 31:
        return b"\x8a\x08" + struct.pack("<q", value)
    return b"J" + struct.pack("<i", value)


def boolean(value: bool) -> bytes:
    return b"\x88" if value else b"\x89"


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *args: bytes) -> bytes:
    return named(module, name) + tuple_of(*args) + b"R"


def sizes(values: tuple[int, ...]) -> bytes:
    return tuple_of(*map(integer, values))


def storage(key: str, kind: str, count: int, where: str = "cpu") -> bytes:
    parts = (text("storage"), named("torch", kind), text(key), text(where), integer(count))
    return tuple_of(*parts) + b"Q"


def tensor(
    key: str = "0",
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] | None = None,
    *,
    offset: int = 0,
    count: int | None = None,
    kind: str = "FloatStorage",
    where: str = "cpu",
    requires_grad: bool = False,
) -> bytes:
    """A tensor as torch writes it, over the storage `key` of `count` elements."""
    if strides is None:
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    over = storage(key, kind, math.prod(shape) if count is None else count, where)
    rest = (integer(offset), sizes(shape), sizes(strides), boolean(requires_grad))
    return call("torch._utils", "_rebuild_tensor_v2", over, *rest, call(*ORDERED_DICT))


def parameter(inner: bytes, requires_grad: bool = True) -> bytes:
    rest = (boolean(requires_grad), call(*ORDERED_DICT))
    return call("torch._utils", "_rebuild_parameter", inner, *rest)


ORDERED_DICT = ("collections", "OrderedDict")


def dict_of(pairs: dict[str, bytes], ordered: bool = False) -> bytes:
    start = call(*ORDERED_DICT) if ordered else b"}"
    return start + b"(" + b"".join(text(k) + v for k, v in pairs.items()) + b"u"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def archive(
    body: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    top: str = "model/",
    byteorder: bytes | None = b"little",
    method: int = zipfile.ZIP_STORED,
    extra: dict[str, bytes] | None = None,
) -> bytes:
    """A checkpoint as torch lays it out, the pickle's body given without its frame."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        out.writestr(f"{top}data.pkl", program(body))
        if byteorder is not None:
            out.writestr(f"{top}byteorder", byteorder)
        for key, data in (storages or {}).items():
            out.writestr(f"{top}data/{key}", data)
        out.writestr(f"{top}version", b"3\n")
        for name, data in (extra or {}).items():
            out.writestr(f"{top}{name}", data)
    return file.getvalue()


def legacy(tensors: dict[str, np.ndarray]) -> bytes:
    """A legacy stream of float32 tensors, as torch wrote it before 1.6."""
    pairs, storages = {}, []
    for number, (name, array) in enumerate(tensors.items()):
        key = str(100 + number)
        pid = (text("storage"), named("torch", "FloatStorage"), text(key), text("cpu"))
        over = tuple_of(*pid, integer(array.size), b"N") + b"Q"
        strides = tuple(stride // 4 for stride in array.strides)
        rest = (integer(0), sizes(array.shape), sizes(strides), boolean(False))
        pairs[name] = call("torch._utils", "_rebuild_tensor_v2", over, *rest, call(*ORDERED_DICT))
        storages.append((key, array.size.to_bytes(8, "little") + array.tobytes()))
    storages.sort()
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(
        [
            *(pickle.dumps(part, 2) for part in head),
            program(dict_of(pairs, ordered=True)),
            pickle.dumps([key for key, _ in storages], 2),
            *(data for _, data in storages),
        ]
    )


def letting_go() -> dict[str, str]:
    """The environment of a process whose memory is measured: AddressSanitizer's malloc keeps
    what was let go, unless it is told not to.
    """
    told = ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"
    return {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + told}


def saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    psd.save(obj, file, **options)
    return file.getvalue()


def reloaded(obj: Any, **options: Any) -> Any:
    """The object saved and loaded, its arrays writable."""
    return psd.load(bytearray(saved(obj, **options)))


def pickle_in(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return file.read(next(n for n in file.namelist() if n.endswith("data.pkl")))


def records_in(data: bytes) -> list[str]:
    """Names of the records, without their top folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [name.split("/", 1)[1] for name in file.namelist()]


# ------------------------------------------------------------------ comparing


def walk(obj: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, part) of every part, arrays and leaves included, in order; no part twice."""
    todo, seen = [(path, obj)], set()
    while todo:
        path, part = todo.pop()
        yield path, part
        if id(part) in seen:
            continue
        seen.add(id(part))
        below: list[tuple[str, Any]] = []
        if isinstance(part, dict):
            below = [(f"{path}[{key!r}]", value) for key, value in part.items()]
        elif isinstance(part, (list, tuple)):
            below = [(f"{path}[{i}]", value) for i, value in enumerate(part)]
        todo.extend(reversed(below))


def arrays_in(obj: Any) -> list[tuple[str, np.ndarray]]:
    return [(path, part) for path, part in walk(obj) if isinstance(part, np.ndarray)]


def bits(array: np.ndarray) -> bytes:
    """The bytes of the elements in C order, native byte order."""
    array = np.asarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return array.tobytes()


def useful_strides(array: np.ndarray) -> list[int] | None:
    """Strides that say something: of dimensions with more than one index."""
    if array.size == 0:
        return None
    pairs = zip(array.shape, array.strides, strict=True)
    return [stride for size, stride in pairs if size > 1]


def same_array(a: np.ndarray, b: np.ndarray, where: str = "", strides: bool = True) -> None:
    assert isinstance(b, np.ndarray), f"{where}: {type(b)}"
    assert a.dtype.newbyteorder("=") == b.dtype, f"{where}: {a.dtype} is {b.dtype}"
    assert a.shape == b.shape, f"{where}: {a.shape} is {b.shape}"
    assert bits(a) == bits(b), f"{where}: values differ"
    if strides and is_expressible(a):
        assert useful_strides(a) == useful_strides(b), where


def is_expressible(array: np.ndarray) -> bool:
    """Whether torch's strides can say where the elements are."""
    return array.dtype.isnative and all(
        size < 2 or (stride >= 0 and stride % array.itemsize == 0)
        for size, stride in zip(array.shape, array.strides, strict=True)
    )


def same(a: Any, b: Any) -> None:
    """Equal parts in equal order; the same object met twice is the same object in both."""
    mine, theirs = list(walk(a)), list(walk(b))
    assert len(mine) == len(theirs)
    partner: dict[int, int] = {}
    for (where, x), (place, y) in zip(mine, theirs, strict=True):
        assert where == place
        if isinstance(x, np.ndarray):
            same_array(x, y, where)
        elif isinstance(x, dict):
            assert isinstance(y, dict), where
            assert [repr(k) for k in x] == [repr(k) for k in y], where
        elif isinstance(x, (list, tuple)):
            assert type(x) is type(y), where
            assert len(x) == len(y), where
        else:
            assert type(x) is type(y), f"{where}: {type(x)} is {type(y)}"
            assert x == y or (x != x and y != y), f"{where}: {x!r} is {y!r}"
        if isinstance(x, (dict, list)):
            assert partner.setdefault(id(x), id(y)) == id(y), f"{where}: another object"
    assert len(set(partner.values())) == len(partner), "objects were made one"
    same_ties([x for _, x in arrays_in(a)], [y for _, y in arrays_in(b)])


def ties(arrays: list[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs that look at the same memory."""
    found = []
    for i, a in enumerate(arrays):
        for k in range(i):
            b = arrays[k]
            if a.size and b.size and (a is b or np.may_share_memory(a, b)):
                found.append((k, i))
    return found


def same_ties(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """What shared memory before shares it now, at the same distance; and nothing else does."""
    plain = [i for i, a in enumerate(mine) if is_expressible(a)]
    mine, theirs = [mine[i] for i in plain], [theirs[i] for i in plain]
    assert ties(mine) == ties(theirs)
    for i, k in ties(mine):
        assert address(mine[i]) - address(mine[k]) == address(theirs[i]) - address(theirs[k])


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def byte_addresses(array: np.ndarray) -> np.ndarray:
    """The address of every byte of every element, in C order."""
    steps = np.array(address(array))
    for size, stride in zip(array.shape, array.strides, strict=True):
        steps = np.add.outer(steps, np.arange(size) * stride)
    return np.add.outer(steps, np.arange(array.itemsize)).reshape(-1)


# ------------------------------------------------------------------ generated nests

NUMPY_DTYPES = [
    np.dtype(name)
    for name in (
        "u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "?",
    )
]  # fmt: skip
ML_DTYPES = [
    np.dtype(kind)
    for kind in (
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float8_e8m0fnu,
    )
]
DTYPES = [*NUMPY_DTYPES, *ML_DTYPES]


def buffer_of(dtype: np.dtype, count: int, seed: int) -> np.ndarray:
    """Elements of any bits, but bools 0 or 1."""
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    return (raw % 2 if dtype == bool else raw).view(dtype)


def _view(base: np.ndarray, draw: Callable[[Any], Any]) -> np.ndarray:
    """A look at a part of the buffer, in one of NumPy's ways."""
    rows = draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if base.size % n == 0]))
    grid = base.reshape(rows, -1)
    way = draw(st.integers(0, 10))
    if way == 0:
        return base
    if way == 1:
        return grid.T
    if way == 2:
        return grid[:, :: draw(st.integers(1, 3))]
    if way == 3:
        return grid[draw(st.integers(0, rows - 1)) :, 1:]
    if way == 4:
        return base[draw(st.integers(0, base.size)) :][:1].reshape(-1)[:0]  # nothing of it
    if way == 5:
        return base[draw(st.integers(0, base.size - 1)), ...]  # 0-d
    if way == 6:
        return np.broadcast_to(grid[:, :1], (rows, 3))  # stride 0, and read-only
    if way == 7:
        step = base.itemsize  # rows that overlap
        return np.ndarray((base.size // 2, 2), base.dtype, base.view("u1").data, 0, (step, step))
    if way == 8:
        return base[:: -draw(st.integers(1, 2))]  # torch has no such strides
    if way == 9:
        return grid[None, :, None, :]
    return np.asfortranarray(grid)


def _swapped(array: np.ndarray) -> np.ndarray:
    if array.dtype.itemsize == 1 or array.dtype.kind not in "iufc":
        return array
    return array.astype(array.dtype.newbyteorder(">"))


@st.composite
def array_pools(draw: Any, dtypes: list[np.dtype] = DTYPES, most: int = 6) -> list[np.ndarray]:
    """Arrays, some of which look at the same buffer."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(dtypes))
        base = buffer_of(dtype, draw(st.sampled_from([12, 24])), draw(st.integers(0, 99)))
        for _ in range(draw(st.integers(1, most // 2))):
            array = _view(base, draw)
            found.append(_swapped(array) if draw(st.integers(0, 7)) == 0 else array)
    return found


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 80), 1 << 80),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
)
keys = st.one_of(st.text(max_size=6), st.integers(-5, 300))


@st.composite
def nests(draw: Any, dtypes: list[np.dtype] = DTYPES) -> Any:
    """Containers of leaves and arrays; any part may stand in several places."""
    pool = draw(array_pools(dtypes))
    parts: list[Any] = [*pool, *draw(st.lists(leaves, max_size=4))]
    for _ in range(draw(st.integers(1, 5))):
        chosen = draw(st.lists(st.sampled_from(range(len(parts))), max_size=5))
        members = [parts[i] for i in chosen]
        kind = draw(st.sampled_from(["list", "tuple", "dict", "ordered"]))
        if kind == "list":
            parts.append(members)
        elif kind == "tuple":
            parts.append(tuple(members))
        else:
            names = draw(st.lists(keys, min_size=len(members), max_size=len(members)))
            pairs = zip(names, members, strict=True)
            parts.append(dict(pairs) if kind == "dict" else OrderedDict(pairs))
    return {"all": parts[-1], "arrays": pool}


# ------------------------------------------------------------------ what pickle would see


class Seen:
    """An object of any class, as pickle would be told of it."""

    def __init__(self, *told: Any) -> None:
        self.told = told
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        self.appends: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.appends.append(value)

    def extend(self, values: Any) -> None:
        self.appends.extend(values)


class _Recorder(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("collections", "builtins", "__builtin__", "_codecs", "copyreg", "copy_reg"):
            return super().find_class(module, name)

        class Found(Seen):
            def __new__(cls, *args: Any, **named: Any) -> Any:
                self = object.__new__(cls)
                Seen.__init__(self, module, name, args, named)
                return self

            def __init__(self, *args: Any, **named: Any) -> None:
                pass

        Found.__name__ = name
        return Found

    def persistent_load(self, pid: Any) -> Any:
        return ("storage", *pid[2:])


def as_pickle_sees(data: bytes) -> Any:
    """The object in an archive as the standard library's machine makes it, classes recorded."""
    return _Recorder(io.BytesIO(pickle_in(data))).load()
