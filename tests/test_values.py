# SPDX-License-Identifier: Apache-2.0
"""Plain values both ways; what is unknown stays inert, what is dangerous is refused."""

from __future__ import annotations

import argparse
import datetime
import decimal
import enum
import fractions
import gc
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


def test_structured_arrays_of_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="holds Python objects"):
        kit.saved([np.zeros(1, dtype=[("a", "O")])])


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
