# SPDX-License-Identifier: Apache-2.0
"""Plain values both ways; what is unknown stays inert, what is dangerous is refused."""

from __future__ import annotations

import argparse
import datetime
import decimal
import enum
import fractions
import gc
import os
import pathlib
import pickle
import subprocess
import sys
import types
import uuid
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Mapping
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest

import pystatedict as psd

UTC = datetime.UTC
W = np.arange(6, dtype="f4").reshape(2, 3)

PLAIN: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "byte": 255,
    "short": 65535,
    "long": -(1 << 31),
    "longer": 1 << 40,
    "least": -(1 << 63),
    "beyond": 1 << 63,
    "huge": -(1 << 2047) - 1,
    "float": 0.1,
    "negative zero": -0.0,
    "inf": float("inf"),
    "text": "häß 漢 🙂",
    "empty text": "",
    "long text": "x" * 70_000,
    "lone surrogate": "a\ud800b",
    "nul": "a\0b",
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "long bytes": b"\xff" * 70_000,
    "bytearray": bytearray(b"abc"),
    "complex": complex(1.5, -0.0),
    "list": [1, [2, []]],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "dict": {"a": 1, 2: "b", (1, 2): None, None: 0, True: 1.5, 2.5: (), b"k": "bytes"},
    "set": {1, "a", (2, 3)},
    "empty set": set(),
    "frozenset": frozenset({1, frozenset({2})}),
    "slice": slice(1, None, -2),
    "range": range(3, 30, 4),
    "ellipsis": Ellipsis,
    "not implemented": NotImplemented,
    "type": dict,
    "size": psd.Size((2, 3)),
    "dtype": psd.Dtype("torch.bfloat16"),
    "device": psd.Device("cuda:1"),
    "device without index": psd.Device("cpu"),
    "layout": psd.Layout("torch.sparse_coo"),
    "qscheme": psd.QScheme("torch.per_tensor_affine"),
    "counter": Counter("mississippi"),
    "defaultdict": defaultdict(list, {"a": [1]}),
    "defaultdict without": defaultdict(None, {"a": 1}),
    "deque": deque([1, [2]], 5),
    "deque of none": deque(maxlen=0),
    "endless deque": deque([1, 2]),
    "namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
    "simple namespace": types.SimpleNamespace(a=1),
    "path": pathlib.Path("a/b"),
    "pure path": pathlib.PurePosixPath("/x/y"),
    "windows path": pathlib.PureWindowsPath("c:\\x"),
    "datetime": datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
    "datetime with zone": datetime.datetime(2024, 2, 29, tzinfo=UTC),
    "date": datetime.date(2024, 2, 29),
    "time": datetime.time(1, 2, 3, 4),
    "timedelta": datetime.timedelta(-1, 2, 3),
    "timezone": datetime.timezone(datetime.timedelta(hours=-5), "EST"),
    "decimal": decimal.Decimal("-1.50E+7"),
    "decimal nan": decimal.Decimal("sNaN"),
    "fraction": fractions.Fraction(-1, 3),
    "uuid": uuid.UUID(int=12345),
}


OF_PYTHON = sorted(k for k, v in PLAIN.items() if "torch" not in type(v).__module__)


def check(value: Any, found: Any) -> None:
    """By its text, which tells -0.0 and nan apart; the order in sets is nobody's."""
    assert type(found) is type(value)
    if isinstance(value, (set, frozenset)):
        assert found == value
    else:
        assert repr(found) == repr(value)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_plain_values_round_trip(name: str) -> None:
    value = PLAIN[name]
    again = kit.reloaded([value, value])
    for found in again:
        check(value, found)
    assert kit.saved(again) == kit.saved([value, value])


@pytest.mark.parametrize("name", OF_PYTHON)
def test_plain_values_as_pickle_reads_them(name: str) -> None:
    """Python's own pickle makes the same of what save writes: no dialect of our own."""
    value = PLAIN[name]
    check(value, pickle.loads(kit.pickle_in(kit.saved({"v": value})))["v"])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", OF_PYTHON)
def test_plain_values_of_every_protocol(name: str, protocol: int) -> None:
    value = PLAIN[name]
    check(value, psd.load(raw_archive(pickle.dumps({"v": value}, protocol)))["v"])


def raw_archive(program: bytes) -> bytes:
    """An archive of a whole pickle, with its own protocol and STOP."""
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("m/data.pkl", program)
        out.writestr("m/version", b"3\n")
    return file.getvalue()


def test_fold_is_kept() -> None:
    day = datetime.datetime(2024, 10, 27, 2, 30, fold=1)
    hour = datetime.time(2, 30, fold=1)
    again = kit.reloaded([day, hour])
    assert [value.fold for value in again] == [1, 1]
    assert [value.fold for value in pickle.loads(kit.pickle_in(kit.saved([day, hour])))] == [1, 1]


def test_nan_keeps_its_bits() -> None:
    import struct

    for bits in (0x7FF8000000000000, 0xFFF8000000000001):
        nan = struct.unpack("<d", struct.pack("<Q", bits))[0]
        again = kit.reloaded([nan])[0]
        assert struct.pack("<d", again) == struct.pack("<Q", bits)


# ------------------------------------------------------------------ identity and cycles


def test_the_same_object_stays_the_same() -> None:
    one, by, space = ["x"], bytearray(b"y"), argparse.Namespace()
    size, pairs = psd.Size((1,)), OrderedDict(a=1)
    for part in (one, by, space, size, pairs, {1}, deque([1]), defaultdict(list), W):
        a, b, c = kit.reloaded([part, {"k": part}, (part,)])
        assert a is b["k"] is c[0]


def test_equal_objects_stay_two() -> None:
    a, b = kit.reloaded([[], []])
    assert a is not b
    x, y = kit.reloaded([W, W.copy()])
    assert not np.may_share_memory(x, y)


def test_cycles() -> None:
    loop: list[Any] = []
    loop.append(loop)
    found = kit.reloaded(loop)
    assert found[0] is found
    ring: dict[str, Any] = {}
    ring["me"] = {"back": ring}
    found = kit.reloaded(ring)
    assert found["me"]["back"] is found
    knot: tuple[Any, ...] = ([],)
    knot[0].append(knot)
    found = kit.reloaded(knot)
    assert type(found) is tuple
    assert found[0][0] is found
    space = argparse.Namespace()
    space.me = space
    found = kit.reloaded(space)
    assert found.me is found
    line: deque[Any] = deque()
    line.append(line)
    found = kit.reloaded(line)
    assert found[0] is found
    pairs: OrderedDict[str, Any] = OrderedDict(w=W)
    pairs["me"] = pairs
    found = kit.reloaded(pairs)
    assert found["me"] is found
    several: defaultdict[str, Any] = defaultdict(list)
    several["me"] = several
    found = kit.reloaded(several)
    assert found["me"] is found
    opaque = psd.Opaque("some.where", "Node", ())
    opaque.state = {"me": opaque}
    found = kit.reloaded(opaque, opaque=True)
    assert found.me is found


DEEP = 100_000


def nested(kind: str) -> Any:
    part: Any = None
    for _ in range(DEEP):
        if kind == "list":
            part = [part]
        elif kind == "tuple":
            part = (part,)
        elif kind == "dict":
            part = {"in": part}
        elif kind == "ordered":
            part = OrderedDict({"in": part})
        elif kind == "namespace":
            part = argparse.Namespace(within=part)
        else:
            opaque = psd.Opaque("some.where", "Node", (part,))
            part = opaque
    return part


def inner(part: Any) -> Any:
    if isinstance(part, (list, tuple)):
        return part[0]
    if isinstance(part, dict):
        return part["in"]
    return part.args[0] if isinstance(part, psd.Opaque) else part.within


@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "ordered", "namespace", "opaque"])
def test_depth_is_no_danger(kind: str) -> None:
    made = nested(kind)
    part = kit.reloaded(made, opaque=True)
    depth = 0
    while part is not None:
        part = inner(part)
        depth += 1
    assert depth == DEEP
    while made is not None:  # by hand: Python itself would go down with it
        made = inner(made)
    gc.collect()


def test_constructors_of_older_protocols_are_spelled_out() -> None:
    """copyreg's ways to say what NEWOBJ says."""
    space = kit.named("argparse", "Namespace")
    told = kit.dict_of({"a": kit.integer(1)}) + b"b"
    nothing = kit.named("__builtin__", "object")
    for body in (
        space + b")\x81" + told,
        kit.call("copy_reg", "__newobj__", space) + told,
        kit.call("copy_reg", "__newobj_ex__", space, b")", b"}") + told,
        kit.call("copy_reg", "_reconstructor", space, nothing, b"N") + told,
    ):
        assert psd.load(kit.archive(body)) == argparse.Namespace(a=1)


def test_constructors_of_constructors_stay_opaque() -> None:
    """Spelling them out would recurse as often as the file likes."""
    new = kit.named("copyreg", "__newobj__")
    data = kit.archive(new + b"(" + new * 100_000 + b"tR")
    found = psd.load(data, dangerous="opaque")
    assert found.qualified_name == "copyreg.__newobj__"


# ------------------------------------------------------------------ NumPy's values

SCALARS = [
    np.float64(1.5), np.float32(-0.0), np.float16(2), np.longdouble(3), np.int64(-7), np.uint8(255),
    np.bool_(True), np.complex64(1 - 2j), np.complex128(3j), np.str_("häß"), np.bytes_(b"ab"),
    np.datetime64("2024-02-29T01:02"), np.datetime64("NaT", "s"), np.timedelta64(3, "h"),
    np.void(b"ab"), ml_dtypes.bfloat16(1.5), ml_dtypes.float8_e5m2(0.5), ml_dtypes.int4(-3),
    np.array((1, 2.5), dtype=[("a", "i4"), ("b", "f8")])[()],
]  # fmt: skip


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_numpy_scalars(value: Any) -> None:
    found = kit.reloaded({"v": value})["v"]
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert repr(found) == repr(value)


ARRAYS = {
    "text": np.array(["a", "häß", ""]),
    "text by columns": np.asfortranarray(np.array([["a", "b"], ["c", "d"], ["e", "f"]])),
    "big-endian text": np.array(["a", "bc"]).astype(">U2"),
    "byte strings": np.array([b"a", b"bcd"]),
    "objects": np.array([None, {"a": [1]}, "x", W], dtype=object),
    "objects in two dimensions": np.array([["a", 1], [None, 2.5]], dtype=object),
    "object alone": np.array(None, dtype=object),
    "no objects": np.array([], dtype=object),
    "structured": np.array([(1, 2.5), (3, 4)], dtype=[("a", "<i4"), ("b", ">f8")]),
    "nested": np.zeros(2, dtype=[("a", [("x", "u1"), ("y", "<f4", (2, 2))]), ("t", "U3")]),
    "aligned": np.zeros(2, np.dtype([("a", "u1"), ("b", "f8")], align=True)),
    "dates": np.array(["2024-02-29", "NaT"], dtype="M8[D]"),
    "spans": np.array([1, 2], dtype="m8[25us]"),
    "long doubles": np.array([1, 2], np.longdouble),
    "long complex": np.array([1j], np.clongdouble),
    "voids": np.zeros(2, "V5"),
    "int4": np.array([1, -2], ml_dtypes.int4),
    "float4": np.array([0.5, 6], ml_dtypes.float4_e2m1fn),
    "empty text": np.zeros((2, 0, 3), "U4"),
    "backward": np.array(["a", "b", "c"])[::-1],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_numpy_arrays_that_torch_has_no_dtype_for(name: str) -> None:
    array = ARRAYS[name]
    a, b = kit.reloaded([array, array])
    assert a is b
    assert isinstance(a, np.ndarray)
    assert a.dtype == array.dtype
    assert a.dtype.byteorder == array.dtype.byteorder
    assert a.shape == array.shape
    if array.dtype.hasobject:
        kit.same(list(array.flat), list(a.flat))
    else:
        assert a.tobytes() == array.tobytes()
    assert a.flags.writeable
    assert kit.saved([a]) == kit.saved([array])


@pytest.mark.parametrize("name", sorted(set(ARRAYS) - {"objects"}))
@pytest.mark.filterwarnings("ignore:numpy.core")
def test_numpy_arrays_as_pickle_reads_them(name: str) -> None:
    array = ARRAYS[name]
    found = pickle.loads(kit.pickle_in(kit.saved([array])))[0]
    # NumPy itself turns big-endian arrays, though not their fields, while it reads.
    assert found.dtype in (array.dtype, array.dtype.newbyteorder("="))
    assert found.shape == array.shape
    assert repr(found.tolist()) == repr(array.tolist())


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", sorted(set(ARRAYS) - {"objects"}))
def test_numpy_arrays_of_every_protocol(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    found = psd.load(raw_archive(pickle.dumps({"v": array}, protocol)))["v"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    if array.dtype.hasobject:
        assert found.tolist() == array.tolist()
    else:
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [*kit.DTYPES, np.dtype(">f4"), np.dtype(">i8")], ids=str)
@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_arrays_in_a_pickle_stay_no_tensors(dtype: np.dtype, protocol: int) -> None:
    """An ndarray of a dtype that torch has, pickled as such: written back as such."""
    array = kit.buffer_of(dtype.newbyteorder("="), 12, 5).astype(dtype).reshape(3, 4)
    sd = psd.load(raw_archive(pickle.dumps({"v": array}, protocol)))
    assert sd["v"].dtype == array.dtype
    assert kit.bits(sd["v"]) == kit.bits(array)
    again = kit.saved(sd)
    assert kit.records_in(again) == ["data.pkl", "byteorder", "version"]
    seen = pickle.loads(kit.pickle_in(again))["v"]
    assert type(seen) is np.ndarray
    assert kit.bits(seen) == kit.bits(array)


@pytest.mark.parametrize(
    "dtype",
    [
        "f4", ">i2", "U5", "S3", "?", "O", "V7", "M8[3D]", "m8", "c16",
        [("a", "i4"), ("b", ">f8", (2,))], np.dtype([("a", "u1"), ("b", "f8")], align=True),
        ("f4", (2, 3)), ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.int4,
    ],
    ids=str,
)  # fmt: skip
def test_numpy_dtypes(dtype: Any) -> None:
    dtype = np.dtype(dtype)
    found = kit.reloaded([dtype])[0]
    assert found == dtype
    assert found.itemsize == dtype.itemsize
    assert found.fields == dtype.fields
    assert psd.load(raw_archive(pickle.dumps([dtype], 2)))[0] == dtype


def test_arrays_in_object_arrays_are_tensors_and_tied() -> None:
    holder = np.array([W, None], dtype=object)
    found = kit.reloaded({"holder": holder, "w": W})
    assert np.shares_memory(found["holder"][0], found["w"])


# ------------------------------------------------------------------ kinds of kinds


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self  # a subclass again, for ever


class Color(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class View(Mapping):
    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Any:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


Pair = namedtuple("Pair", "a b")


def test_subclasses_are_written_as_what_they_are() -> None:
    class Number(int):
        def __int__(self) -> int:
            return 99

    class Half(float):
        pass

    class Raw(bytes):
        def __bytes__(self) -> bytes:
            return b"other"

    for value, expected in (
        (Text("abc"), "abc"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Number(7), 7),
        (Half(0.5), 0.5),
        (Raw(b"abc"), b"abc"),
        (Pair(1, [2]), (1, [2])),
        (View({"a": 1}), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    ):
        found = kit.reloaded([value])[0]
        assert type(found) is type(expected)
        assert found == expected


def test_mappings_in_several_places_stay_one() -> None:
    view = View({"w": W})
    a, b = kit.reloaded([view, view])
    assert a is b
    pair = Pair(1, 2)
    c, d = kit.reloaded([pair, pair])
    assert c is d


def test_infos_are_written_as_their_arrays(small: bytes) -> None:
    with psd.open(small) as checkpoint:
        info = checkpoint["w"]
        found = kit.reloaded({"a": info, "b": info})
    kit.same_array(W, found["a"])
    assert np.shares_memory(found["a"], found["b"])


@pytest.mark.parametrize(
    "value",
    [
        object(),
        open,
        print,
        lambda: None,
        Color,
        psd.load,
        types,
        iter([]),
        (x for x in ()),
        ValueError,
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_no_data_is_refused(value: Any) -> None:
    for nest in (value, [value], {"a": {"b": (value,)}}):
        with pytest.raises(TypeError, match=r"cannot save|parentheses|save\(obj, f\)"):
            kit.saved(nest)


class Day(datetime.date):
    def __reduce__(self) -> Any:
        raise AssertionError("of no interest")


class Moment(datetime.datetime):
    """Of more than microseconds, as those of other libraries are."""

    nanosecond = 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        return "of no interest"

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.nanosecond == getattr(other, "nanosecond", 0)

    __hash__ = datetime.datetime.__hash__


class Hour(datetime.time):
    pass


class Span(datetime.timedelta):
    pass


class Folder(type(pathlib.Path())):  # type: ignore[misc]
    pass


class Drive(pathlib.PureWindowsPath):
    pass


class Number(decimal.Decimal):
    def __str__(self) -> str:
        return "another"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Day(2024, 2, 29), datetime.date(2024, 2, 29)),
        (Moment(2024, 2, 29, 1, fold=1), datetime.datetime(2024, 2, 29, 1, fold=1)),
        (Moment(2024, 2, 29, tzinfo=UTC), datetime.datetime(2024, 2, 29, tzinfo=UTC)),
        (Hour(1, 2, 3, tzinfo=UTC), datetime.time(1, 2, 3, tzinfo=UTC)),
        (Span(1, 2, 3), datetime.timedelta(1, 2, 3)),
        (Folder("a/b"), pathlib.Path("a/b")),
        (Drive("c:/x"), pathlib.PureWindowsPath("c:/x")),
        (Number("1.5"), decimal.Decimal("1.5")),
    ],
    ids=lambda v: type(v).__name__,
)
def test_subclasses_are_written_as_the_nearest_class_there_is(value: Any, expected: Any) -> None:
    """Their own names would be looked for in a module that has them not."""
    saved = kit.saved([value])
    for found in (psd.load(saved)[0], pickle.loads(kit.pickle_in(saved))[0]):
        assert type(found) is type(expected)
        assert found == expected
        assert getattr(found, "fold", 0) == getattr(expected, "fold", 0)


def test_subclasses_that_say_more_are_refused() -> None:
    moment = Moment(2024, 2, 29)
    moment.nanosecond = 5

    class Cloud(pathlib.PurePosixPath):
        def __eq__(self, other: object) -> bool:
            return type(other) is Cloud

        __hash__ = pathlib.PurePosixPath.__hash__

    for value in (moment, Cloud("a")):
        with pytest.raises(TypeError, match="lose something"):
            kit.saved([value])


# ------------------------------------------------------------------ opaque values

OPTIONS = (
    kit.call("my.config", "Options", kit.integer(3)) + kit.dict_of({"lr": kit.integer(5)}) + b"b"
)


def test_unknown_classes_are_opaque() -> None:
    body = kit.dict_of({"w": kit.tensor(), "o": OPTIONS, "c": kit.named("my.config", "Kind")})
    sd = psd.load(kit.archive(body, {"0": W.tobytes()}))
    o = sd["o"]
    assert isinstance(o, psd.Opaque)
    assert (o.module, o.name, o.args, o.form) == ("my.config", "Options", (3,), "reduce")
    assert o.qualified_name == "my.config.Options"
    assert o.state == {"lr": 5}
    assert o.lr == 5
    assert "lr" in dir(o)
    assert repr(o) == "<Opaque my.config.Options(...): 1 attribute>"
    with pytest.raises(AttributeError, match="absent"):
        o.absent  # noqa: B018
    c = sd["c"]
    assert (c.form, c.args, repr(c)) == ("global", None, "<Opaque my.config.Kind>")


def test_tensors_inside_opaque_values_stay_reachable() -> None:
    inside = kit.call("my.model", "Net") + kit.dict_of({"weight": kit.tensor()}) + b"b"
    data = kit.archive(kit.dict_of({"net": inside}), {"0": W.tobytes()})
    kit.same_array(W, psd.load(data)["net"].weight)
    again = kit.reloaded(psd.load(data), opaque=True)
    kit.same_array(W, again["net"].weight)


def opaque_kinds() -> dict[str, bytes]:
    new = kit.named("my.mod", "New") + kit.tuple_of(kit.integer(1)) + b"\x81"
    named_args = (
        kit.named("my.mod", "Ex")
        + kit.tuple_of(kit.integer(1))
        + kit.dict_of({"key": kit.integer(2)})
        + b"\x92"
    )
    listed = kit.call("my.mod", "List") + b"(" + kit.integer(1) + kit.integer(2) + b"e"
    mapped = kit.call("my.mod", "Map") + b"(" + kit.text("k") + kit.integer(2) + b"u"
    slots = kit.call("my.mod", "Slots") + kit.tuple_of(b"N", kit.dict_of({"s": b"N"})) + b"b"
    through = kit.call("my.mod", "make") + kit.tuple_of(kit.integer(4)) + b"R"
    return {
        "reduce": OPTIONS,
        "newobj": new,
        "newobj_ex": named_args,
        "appended": listed,
        "items": mapped,
        "slots": slots,
        "global": kit.named("my.mod", "kind"),
        "of an opaque": through,
    }


@pytest.mark.parametrize("name", sorted(opaque_kinds()))
def test_opaque_values_are_written_back_as_they_were(name: str) -> None:
    body = kit.dict_of({"o": opaque_kinds()[name]})
    data = raw_archive(b"\x80\x04" + body + b".")  # NEWOBJ_EX is of protocol 4
    first = psd.load(data)
    with pytest.raises(TypeError, match="opaque=True"):
        kit.saved(first)
    again = kit.saved(first, opaque=True)
    if name != "of an opaque":
        mine, theirs = (seen(archive)["o"] for archive in (data, again))
        assert mine == theirs
    second = psd.load(again)
    for key in ("module", "args", "kwargs", "state", "items", "appends", "form"):
        assert getattr(first["o"], key) == getattr(second["o"], key), key
    assert kit.saved(second, opaque=True) == again


def seen(data: bytes) -> dict[str, Any]:
    """Each object as pickle meets it: class, arguments, state, items, elements."""
    found = {}
    for key, value in kit.as_pickle_sees(data).items():
        if isinstance(value, type):
            found[key] = value.__name__
        else:
            found[key] = (value.told, value.state, value.items, value.appends)
    return found


def test_opaque_items_elements_and_attributes() -> None:
    slots = kit.call("my.mod", "Slots") + kit.tuple_of(
        kit.dict_of({"a": kit.integer(1)}), kit.dict_of({"s": kit.integer(2)})
    )
    kinds = {**opaque_kinds(), "slots": slots + b"b"}
    mapped, listed, both = (
        psd.load(kit.archive(kinds[name])) for name in ("items", "appended", "slots")
    )
    assert (mapped["k"], len(mapped), list(mapped), "k" in mapped) == (2, 1, ["k"], True)
    assert (listed[0], listed[1:], len(listed), list(listed)) == (1, [2], 2, [1, 2])
    for missing in (mapped, listed, both):
        with pytest.raises(KeyError):
            missing["absent"]
        assert missing  # never mistaken for nothing
    assert (both.a, both.s) == (1, 2)  # of __dict__, and of __slots__
    assert {"a", "s"} <= set(dir(both))


def test_opaque_in_depth_is_refused_too() -> None:
    opaque = psd.Opaque("my.mod", "Thing", ())
    for nest in (opaque, [opaque], {"a": argparse.Namespace(b=(opaque,))}):
        with pytest.raises(TypeError, match=r"my\.mod\.Thing"):
            kit.saved(nest)
        kit.saved(nest, opaque=True)


# ------------------------------------------------------------------ unknown and dangerous


def test_unknown_error_names_every_global(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    body = kit.dict_of(
        {
            "w": kit.tensor(),
            "a": OPTIONS,
            "b": kit.named("other.place", "Thing"),
            "c": kit.call("third.party", "make"),
        }
    )
    path.write_bytes(kit.archive(body, {"0": W.tobytes()}))
    assert isinstance(psd.load(path)["a"], psd.Opaque)
    with pytest.raises(psd.UnsafePickleError) as caught:
        psd.load(path, unknown="error")
    error = caught.value
    assert set(error.globals) == {"my.config.Options", "other.place.Thing", "third.party.make"}
    assert error.code == "unknown-global"
    assert error.path == str(path)
    for name in error.globals:
        assert name in str(error)


def test_unknown_error_lets_plain_values_pass(tutorial: pathlib.Path) -> None:
    psd.load(tutorial, unknown="error")
    everything = dict(PLAIN)
    psd.load(kit.saved(everything), unknown="error")
    psd.load(kit.saved([ARRAYS["objects"], *SCALARS]), unknown="error")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"), ("os", "system"), ("nt", "system"), ("builtins", "eval"),
        ("__builtin__", "exec"), ("subprocess", "Popen"),
        ("importlib", "import_module"), ("webbrowser", "open"), ("torch.hub", "load"),
    ],
)  # fmt: skip
def test_dangerous_is_refused_and_never_run(module: str, name: str, tmp_path: pathlib.Path) -> None:
    canary = tmp_path / "canary"
    bomb = kit.call(module, name, kit.text(f"touch {canary}"))
    data = kit.archive(kit.dict_of({"w": kit.tensor(), "x": bomb}), {"0": W.tobytes()})
    for options in ({}, {"unknown": "error"}, {"unknown": "error", "dangerous": "opaque"}):
        with pytest.raises(psd.UnsafePickleError) as caught:
            psd.load(data, **options)
        assert caught.value.globals == (f"{module}.{name}",)
        assert caught.value.code == "dangerous-global"
        assert "nothing was run" in str(caught.value)
    kept = psd.load(data, dangerous="opaque")
    assert isinstance(kept["x"], psd.Opaque)
    assert kept["x"].args == (f"touch {canary}",)
    kit.same_array(W, kept["w"])
    with psd.open(data) as checkpoint:  # listing asks for nothing to be made
        kit.same_array(W, checkpoint["w"].numpy())
    assert not canary.exists()


def test_nothing_that_a_file_names_is_imported(tmp_path: pathlib.Path) -> None:
    """A module that would leave a trace stands on the path, and is not touched."""
    (tmp_path / "tempting.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('canary').touch()\nclass Thing: pass\n"
        "def make(*a): pass\n",
        encoding="utf-8",
    )
    made = kit.call("tempting", "make", kit.named("tempting", "Thing")) + b"}b"
    path = tmp_path / "a.pth"
    path.write_bytes(kit.archive(kit.dict_of({"x": made, "y": kit.named("tempting", "Thing")})))
    program = (
        "import sys\nsys.path.insert(0, sys.argv[1])\n"
        "import pystatedict as psd\n"
        "obj = psd.load(sys.argv[2])\n"
        "repr(obj); repr(dict(obj)); list(psd.scan(sys.argv[2])); psd.open(sys.argv[2]).close()\n"
        "psd.save(obj, sys.argv[2], opaque=True)\n"
        "assert 'tempting' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(path)], check=True, timeout=60
    )
    assert not (tmp_path / "canary").exists()


# ------------------------------------------------------------------ values that lie

LIES = {
    "size of text": kit.call("torch", "Size", kit.tuple_of(kit.text("a"))),
    "bytes of a number": kit.call("builtins", "bytearray", b"\x8a\x05\xff\xff\xff\xff\x00"),
    "range of no step": kit.call("builtins", "range", *map(kit.integer, (0, 5, 0))),
    "set of a list": kit.call("builtins", "set", b"](]e"),
    "counter of a list": kit.call("collections", "Counter", b"](K\x01e"),
    "deque of negative length": kit.call("collections", "deque", b"]", kit.integer(-1)),
    "day that is not": kit.call("datetime", "date", b"C\x04\x00\x00\x00\x00"),
    "fraction of zero": kit.call("fractions", "Fraction", kit.integer(1), kit.integer(0)),
    "decimal of no number": kit.call("decimal", "Decimal", kit.text("one")),
    "path of a number": kit.call("pathlib", "PosixPath", kit.integer(1)),
    "dtype of no kind": kit.call("numpy", "dtype", kit.text("x")),
    "dtype of code": kit.call("numpy", "dtype", kit.text("f4,f4")),
    "enormous dtype": kit.call("numpy", "dtype", kit.text("V99999999999")),
    "unhashable key": b"}(]K\x01u",
    "too many arguments": kit.call("torch", "Size", b")", b")"),
    "tensor of a size": kit.call("torch", "FloatTensor", kit.integer(1 << 30)),
    "array of a shape": kit.call("numpy", "ndarray", kit.sizes((1 << 30,))),
    "defaultdict as a key's set": kit.call("collections", "OrderedDict", kit.integer(3)),
    "month that is not": kit.call("datetime", "datetime", b"C\x0a\x07\xe8\x0d\x01" + bytes(6)),
    "year that is not": kit.call("datetime", "datetime", b"C\x0a\xb8\x00\x01\x01" + bytes(6)),
    "second that is not": kit.call("datetime", "time", b"C\x06\x00\x00\x3c\x00\x00\x00"),
    "fraction of two signs": kit.call("fractions", "Fraction", kit.text("--5")),
    "fraction of raised digits": kit.call("fractions", "Fraction", kit.text("\u00b2")),
    "complex beyond floats": kit.call("builtins", "complex", b"\x8a\x81" + bytes(128) + b"\x01"),
    "deque beyond memory": kit.call("collections", "deque", b"]", b"\x8a\x09" + b"\x01" * 9),
    "device beyond numbers": kit.call(
        "torch", "device", kit.text("cuda"), b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096
    ),
    "uuid beyond bits": (
        kit.named("uuid", "UUID") + b")\x81" + kit.dict_of({"int": kit.integer(-1)}) + b"b"
    ),
    "uuid of no safety": (
        kit.named("uuid", "UUID")
        + b")\x81"
        + kit.dict_of({"int": kit.integer(1), "is_safe": kit.integer(7)})
        + b"b"
    ),
    "state of a date": kit.call("datetime", "date", b"C\x04\x07\xe8\x01\x01") + b"}b",
    "element of a frozenset": kit.call("builtins", "frozenset", b"](K\x01e") + b"(K\x02\x90",
    "element of a path": kit.call("pathlib", "PosixPath", kit.text("a")) + b"K\x01a",
    "text of no characters": kit.call(
        "numpy.core.multiarray",
        "scalar",
        kit.call("numpy", "dtype", kit.text("U1")),
        b"C\x04\xff\xff\xff\xff",
    ),
    "arguments in a list": kit.named("my.mod", "Thing") + b"](K\x01eR",
    "storage of nothing": kit.call("torch.storage", "_load_from_bytes", b"C\x00"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LIES))
def test_values_that_cannot_be_are_damage(name: str) -> None:
    with pytest.raises((psd.CorruptError, psd.UnsupportedError)) as caught:
        psd.load(kit.archive(kit.dict_of({"v": LIES[name]})))
    assert caught.value.sentence


def numpy_array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    made = kit.call(
        "numpy.core.multiarray",
        "_reconstruct",
        kit.named("numpy", "ndarray"),
        kit.sizes((0,)),
        b"C\x01b",
    )
    return made + kit.tuple_of(kit.integer(1), shape, dtype, kit.boolean(False), data) + b"b"


def test_arrays_that_lie_about_their_size() -> None:
    dtype = kit.call("numpy", "dtype", kit.text("f4"))
    kit.same_array(
        np.zeros(2, "f4"),
        psd.load(kit.archive(numpy_array(kit.sizes((2,)), dtype, b"C\x08" + bytes(8)))),
    )
    for shape, size in (((3,), 8), ((1,), 8), ((1 << 30, 1 << 30), 8), ((-2,), 8), ((0,), 4)):
        body = numpy_array(kit.sizes(shape), dtype, b"C" + bytes([size]) + bytes(size))
        with pytest.raises(psd.CorruptError):
            psd.load(kit.archive(body))
    objects = kit.call("numpy", "dtype", kit.text("O8"))
    with pytest.raises(psd.CorruptError):
        psd.load(kit.archive(numpy_array(kit.sizes((1,)), objects, b"C\x08" + bytes(8))))


def test_keys_without_end_are_refused() -> None:
    """A few bytes whose hash would take for ever."""
    part = b"K\x01"
    for _ in range(40):
        part += b"2\x86"  # DUP, TUPLE2: twice itself
    with pytest.raises(psd.LimitError) as caught:
        psd.load(kit.archive(b"}(" + part + b"Nu"))
    assert "too many parts" in caught.value.sentence
    assert not caught.value.hint  # no bound of the caller's would help
    with pytest.raises(psd.LimitError) as caught:
        psd.load(kit.archive(kit.call("builtins", "frozenset", b"](" + part + b"e")))
    assert not caught.value.hint


ORDERS = """
import enum, io, sys, datetime, pathlib, decimal
import numpy as np
import pystatedict as psd

class Color(str, enum.Enum):
    RED, BLUE, GREEN = "red", "blue", "green"

class Level(enum.IntEnum):
    LOW, HIGH = 1, 2

class Text(str):
    pass

def noted(name, n):
    opaque = psd.Opaque("my.mod", name, (n,))
    opaque.state = {"n": n}
    return opaque

deep = "end"
for _ in range(5000):
    deep = (deep,)
other = "End"
for _ in range(5000):
    other = (other,)
shared = frozenset()
for i in range(200):  # a tree without end, if each part were told in each place
    shared = frozenset({shared, (shared,), str(i)})
arrays = [np.zeros(3, "f4") for _ in range(5)]
opaques = [noted("Thing", i) for i in range(20)] + [noted("Other", 5), psd.Opaque("my.mod", "kind")]
values = [
    {frozenset({"a", "b", "c"}), frozenset({"d", "e"}), frozenset({"a", "c"})},
    frozenset(Color), set(Level), {Text("x"), Text("y"), "z"},
    {("a", i, frozenset(str(i))) for i in range(30)},
    {deep, other}, {shared, frozenset("abc"), frozenset("ab")},
    set(opaques), {(o, "x") for o in opaques}, {frozenset({o, "x"}) for o in opaques},
    {psd.TensorKey(a) for a in arrays}, {(psd.TensorKey(a), "k") for a in arrays},
    {1 << 20000, -(1 << 20000), 5, 1.5, float("nan"), 2j, None, True, "t", b"b", 0.5, -0.5},
    {np.float64(1.5), np.int8(3), np.str_("s"), np.datetime64("2024"), np.dtype("U3")},
    {datetime.date(2024, 1, i) for i in range(1, 28)},
    {pathlib.PurePosixPath(c) for c in "abcdef"}, {decimal.Decimal(i) for i in range(9)},
    {psd.Size((1, 2)), psd.Device("cpu"), psd.Dtype("torch.int8"), int, str, dict, Ellipsis},
]
file = io.BytesIO()
psd.save(values, file, opaque=True)
import hashlib
print(hashlib.sha256(file.getvalue()).hexdigest())
"""


def test_sets_are_written_in_one_order_by_every_process() -> None:
    """Whatever the secret of the hashes and wherever objects lie."""
    told = set()
    for seed in ("0", "1", "2", "4711"):
        more = f"junk = [object() for _ in range({int(seed) % 7919})]\n"
        done = subprocess.run(
            [sys.executable, "-c", more + ORDERS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        told.add(done.stdout)
    assert len(told) == 1


def test_order_of_a_set_takes_steps_by_its_size() -> None:
    """Counted: each part of what is told is asked for once."""
    from pystatedict._ordering import in_order

    def steps(count: int) -> int:
        inner = frozenset(f"{i}" for i in range(50))
        for i in range(count):
            inner = frozenset({inner, (inner, str(i))})
        asked = 0

        def trace(frame: Any, event: str, _: Any) -> None:
            nonlocal asked
            asked += event == "call"

        sys.setprofile(trace)
        try:
            in_order({inner, "x"}, lambda value: [value])
        finally:
            sys.setprofile(None)
        return asked

    assert steps(400) < 3 * steps(200)


def test_sets_are_written_in_one_order() -> None:
    names = [f"n{i}" for i in range(50)]
    orders = {kit.saved([set(names[i:] + names[:i]), frozenset(names)]) for i in range(50)}
    assert len(orders) == 1
    mixed = {1, "1", 1.5, (1, "a"), frozenset({"x", "y", "z"}), None, b"1"}
    assert kit.reloaded([mixed])[0] == mixed


@pytest.mark.filterwarnings("ignore:numpy.core")
def test_objects_below_numpys_own_pickles() -> None:
    """What NumPy itself pickles, by either of its spellings, comes the same."""
    for spelled in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        program = pickle.dumps({"v": np.array(["a"])}, 2)
        program = program.replace(b"numpy._core.multiarray", spelled).replace(
            b"numpy.core.multiarray", spelled
        )
        assert psd.load(raw_archive(program))["v"].tolist() == ["a"]


# ------------------------------------------------------------------ zones, and sound oddities


def test_zones_of_this_machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoneinfo

    try:
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no database of zones")
    if not any(pathlib.Path(path, "Europe/Berlin").is_file() for path in zoneinfo.TZPATH):
        pytest.skip("the database of zones is a package")
    when = datetime.datetime(2024, 7, 1, 12, tzinfo=zone)
    own = zoneinfo.ZoneInfo.no_cache("Europe/Berlin")
    for protocol in range(6):
        program = pickle.dumps([zone, when, own], protocol)
        found = psd.load(raw_archive(program))
        assert found[0] is zone
        assert found[1] == when
        assert found[1].tzinfo is zone
        assert found[2] is not zone
        assert found[2].key == own.key
    again = pickle.loads(kit.pickle_in(kit.saved([zone, when, own])))
    assert again[0] is zone
    assert again[1].utcoffset() == when.utcoffset()
    assert again[2] is not zone

    # No database: nothing is wrong, and nothing is lost.
    monkeypatch.setattr(zoneinfo, "TZPATH", (str(tmp_path),))
    found = psd.load(raw_archive(program))
    assert isinstance(found[0], psd.Opaque)
    assert (found[0].name, found[0].args) == ("ZoneInfo._unpickle", ("Europe/Berlin", 1))
    assert found[1].qualified_name == "datetime.datetime"
    assert found[1].args[1] is found[0]
    again = pickle.loads(kit.pickle_in(kit.saved(found, opaque=True)))
    assert again[1] == when


def test_zones_are_looked_for_where_zones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.resources
    import zoneinfo

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was looked for")

    monkeypatch.setattr(zoneinfo, "ZoneInfo", never)
    monkeypatch.setattr(importlib.resources, "open_binary", never)
    for key in (
        "../../etc/passwd",
        "/etc/passwd",
        "",
        ".",
        "a//b",
        "a/../b",
        "a\0b",
        "os",
        "x" * 999,
    ):
        unpickle = kit.call(
            "__builtin__", "getattr", kit.named("zoneinfo", "ZoneInfo"), kit.text("_unpickle")
        )
        body = unpickle + kit.tuple_of(kit.text(key), kit.integer(1)) + b"R"
        assert isinstance(psd.load(kit.archive(body)), psd.Opaque)


def test_a_file_that_is_no_zone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoneinfo

    (tmp_path / "Odd").write_bytes(b"no zone")
    zoneinfo.reset_tzpath([tmp_path])
    try:
        body = kit.call(
            "__builtin__", "getattr", kit.named("zoneinfo", "ZoneInfo"), kit.text("_unpickle")
        )
        body += kit.tuple_of(kit.text("Odd"), kit.integer(1)) + b"R"
        assert isinstance(psd.load(kit.archive(body)), psd.Opaque)
    finally:
        zoneinfo.reset_tzpath()


class Zone(datetime.tzinfo):
    """A zone as other libraries have them."""

    def utcoffset(self, _: Any) -> datetime.timedelta:
        return datetime.timedelta(hours=1)

    def __eq__(self, other: object) -> bool:
        return type(other) is Zone

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("protocol", range(6))
def test_zones_of_others_leave_the_day_opaque(protocol: int) -> None:
    for value in (datetime.datetime(2024, 2, 29, tzinfo=Zone()), datetime.time(1, tzinfo=Zone())):
        found = psd.load(raw_archive(pickle.dumps([value], protocol)))[0]
        assert isinstance(found, psd.Opaque)
        assert found.name == type(value).__name__
        assert found.args[1].name == "Zone"
        again = pickle.loads(kit.pickle_in(kit.saved([found], opaque=True)))[0]
        assert (again, again.tzinfo) == (value, Zone())
        with pytest.raises(TypeError, match="Zone"):
            kit.saved([value])


def test_arguments_of_unknown_classes_leave_the_call_opaque() -> None:
    """A path of somebody's text, a fraction of somebody's integers: sound, and not told."""
    own = kit.named("my.mod", "Text") + kit.tuple_of(kit.text("a")) + b"\x81"
    for where in (
        ("pathlib", "PosixPath"),
        ("decimal", "Decimal"),
        ("torch", "device"),
        ("collections", "deque"),
        ("datetime", "timedelta"),
        ("builtins", "bytes"),
    ):
        found = psd.load(kit.archive(kit.call(*where, own)))
        assert isinstance(found, psd.Opaque)
        assert found.qualified_name == ".".join(where)
        assert found.args[0].name == "Text"


def test_long_numbers() -> None:
    """Longer than Python spells or reads by default."""
    big = 3**20_000
    values = [fractions.Fraction(big, 7), decimal.Decimal(big), {big, -big}, range(big)]
    for value in values:
        found = kit.reloaded([value])[0]
        assert found == value
        assert pickle.loads(kit.pickle_in(kit.saved([value])))[0] == value
    text = kit.call("fractions", "Fraction", kit.text("1" * 5000 + "/3"))
    assert isinstance(psd.load(kit.archive(text)), psd.Opaque)


def test_uuids_keep_what_they_know_of_their_making() -> None:
    for safe in uuid.SafeUUID:
        value = uuid.UUID(int=5, is_safe=safe)
        for found in (
            psd.load(raw_archive(pickle.dumps([value], 4)))[0],
            kit.reloaded([value])[0],
            pickle.loads(kit.pickle_in(kit.saved([value])))[0],
        ):
            assert (found, found.is_safe) == (value, safe)
    called = kit.call("uuid", "UUID", kit.text("0" * 32))
    found = psd.load(kit.archive(called))
    assert isinstance(found, psd.Opaque)
    assert found.form == "reduce"


def test_pairs_and_attributes_of_python_2() -> None:
    """Its OrderedDict told the pairs in the call and the attributes afterwards."""
    pairs = b"](" + b"](" + kit.text("a") + kit.integer(1) + b"ee"
    body = kit.call("collections", "OrderedDict", pairs) + kit.dict_of({"note": kit.integer(5)})
    found = psd.load(kit.archive(kit.dict_of({"o": body + b"b"})))["o"]
    assert isinstance(found, psd.StateDict)
    assert (dict(found), found.attributes) == ({"a": 1}, {"note": 5})


def test_settings_that_files_may_not_meet() -> None:
    """A program's own decimal context is not asked whether text is a number."""
    with decimal.localcontext() as context:
        context.traps[decimal.InvalidOperation] = False
        with pytest.raises(psd.CorruptError):
            psd.load(kit.archive(LIES["decimal of no number"]))


EMPTY = {
    "FloatTensor": "f4", "DoubleTensor": "f8", "LongTensor": "i8", "ByteTensor": "u1",
    "BoolTensor": "?", "Tensor": "f4", "HalfTensor": "f2", "IntStorage": "i4",
    "BFloat16Storage": ml_dtypes.bfloat16, "ComplexFloatStorage": "c8",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EMPTY))
@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_tensors_and_storages_of_nothing(module: str, name: str) -> None:
    for args, shape in (
        ((), (0,)),
        ((kit.integer(0),), (0,)),
        ((kit.integer(2), kit.integer(0)), (2, 0)),
        ((kit.call("torch", "Size", kit.sizes((0, 3))),), (0, 3)),
    ):
        for form in (b"R", b"\x81"):
            body = kit.named(module, name) + kit.tuple_of(*args) + form
            found = psd.load(kit.archive(kit.dict_of({"v": body})))["v"]
            assert type(found) is np.ndarray
            assert (found.dtype, found.shape) == (np.dtype(EMPTY[name]), shape)
    again = kit.reloaded({"v": found})["v"]
    assert (again.dtype, again.shape) == (found.dtype, found.shape)


def test_tensors_of_sizes_that_only_torch_could_fill() -> None:
    for args in ((5,), (2, 3), (-1,), (0, -1), (0, 1 << 40)):
        body = kit.call("torch", "FloatTensor", *map(kit.integer, args))
        with pytest.raises(psd.CorruptError, match="sizes of its own"):
            psd.load(kit.archive(body))
    data = kit.call("torch", "FloatTensor", b"](K\x01K\x02e")
    assert isinstance(psd.load(kit.archive(data)), psd.Opaque)
    quantized = kit.call("torch", "QInt8Storage")
    assert isinstance(psd.load(kit.archive(quantized)), psd.Opaque)


def test_bytes_within_are_looked_at_once_each() -> None:
    """Each call would look through all of them: counted, as copies are."""
    inner = b"\x80\x02" + kit.text("x" * 50_000) + b"."
    data = b"B" + len(inner).to_bytes(4, "little") + inner
    start = kit.named("torch.storage", "_load_from_bytes") + b"q\x010" + data + b"\x85q\x020]("
    assert len(psd.load(kit.archive(start + b"h\x01h\x02R" * 3 + b"e"))) == 3
    with pytest.raises(psd.LimitError, match="too often"):
        psd.load(kit.archive(start + b"h\x01h\x02R" * 2000 + b"e"))


def test_opaque_calls_that_cannot_be_told() -> None:
    opaque = psd.Opaque("my.mod", "Thing", [1])
    with pytest.raises(TypeError, match="are no tuple"):
        kit.saved(opaque, opaque=True)
    with pytest.raises(TypeError, match="a call of a"):
        kit.saved(psd.Opaque(None, [1], ()), opaque=True)


def test_opaque_values_with_arrays_in_them_can_be_looked_at() -> None:
    opaque = psd.Opaque("my.mod", "Thing", np.zeros(3))
    opaque.appends = [np.zeros(3), "k", 5]
    assert repr(opaque) == "<Opaque my.mod.Thing(...): 3 elements>"
    assert "k" in opaque
    assert 5 in opaque
    assert opaque.appends[0] in opaque
    assert "x" not in opaque


def test_subclasses_of_sets_and_bytes() -> None:
    class Names(set):
        pass

    class Fixed(frozenset):
        pass

    class Raw(bytearray):
        pass

    for value, expected in ((Names("a"), {"a"}), (Fixed("a"), frozenset("a")), (Raw(b"a"), b"a")):
        found = kit.reloaded([value])[0]
        assert type(found).__name__ in ("set", "frozenset", "bytearray")
        assert found == expected


def quantized(scales: bytes, zero_points: bytes) -> bytes:
    scheme = kit.named("torch", "per_channel_affine")
    told = kit.tuple_of(scheme, scales, zero_points, kit.integer(0))
    over = kit.storage("0", "QInt8Storage", 2)
    rest = (kit.integer(0), kit.sizes((2,)), kit.sizes((1,)), told, b"\x89")
    return kit.call("torch._utils", "_rebuild_qtensor", over, *rest, kit.call(*kit.ORDERED_DICT))


def test_scales_that_stand_in_lists() -> None:
    """As old files have them; a list can hold anything, and be filled after it was used."""

    def found(scales: bytes, zero_points: bytes = b"](K\x00K\x01e") -> Any:
        body = b"]" + quantized(scales, zero_points) + b"a"
        return psd.load(kit.archive(body, {"0": b"\1\2"}))[0]

    half = b"G" + b"\x3f\xe0" + bytes(6)
    assert found(b"](" + half + b"K\x01e").dequantize().tolist() == [0.5, 1.0]
    for scales in (b"](" + kit.text("a") + b"K\x01e", b"](]K\x01e", b"](N\x88e"):
        with pytest.raises(psd.CorruptError, match="scales"):
            found(scales)
    with pytest.raises(psd.CorruptError, match="scales"):
        found(b"](K\x01K\x02e", b"](K\x00\x8a\x09" + bytes(8) + b"\x01e")
    late = b"]q\x010" + b"](" + quantized(b"h\x01", b"](K\x00K\x01e") + b"h\x01(K\x01K\x02e" + b"e"
    with pytest.raises(psd.CorruptError, match="scales"):
        psd.load(kit.archive(late, {"0": b"\1\2"}))


@pytest.mark.parametrize("where", [("argparse", "Namespace"), ("types", "SimpleNamespace")])
def test_names_that_mean_something_to_python_are_no_attributes(where: tuple[str, str]) -> None:
    """An object that says where its memory lies is believed by NumPy."""
    told = kit.dict_of({"__array_interface__": b"}", "a": kit.integer(1)})
    found = psd.load(kit.archive(kit.named(*where) + b")\x81" + told + b"b"))
    assert isinstance(found, psd.Opaque)
    assert (found.module, found.name, found.a) == (*where, 1)
    assert not hasattr(found, "__array_interface__")
    again = pickle.loads(kit.pickle_in(kit.saved(found, opaque=True)))
    assert type(again).__name__ == where[1]
    assert again.a == 1
