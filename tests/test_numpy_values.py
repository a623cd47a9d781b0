# SPDX-License-Identifier: Apache-2.0
"""NumPy's own objects in a pickle, against NumPy: orders, subclasses, rows with objects, dtypes.

What this package loads is compared with what `pickle.loads` makes of the same bytes, and
what it saves with what `pickle.loads` reads of it.
"""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from test_values import numpy_array, raw_archive

import pystatedict as psd

pytestmark = pytest.mark.filterwarnings("ignore")

PROTOCOLS = range(6)


def loaded(program: bytes) -> Any:
    return psd.load(raw_archive(program))


def by_pickle(obj: Any) -> Any:
    """What Python's own machine makes of the object as this package saves it."""
    return pickle.loads(kit.pickle_in(kit.saved([obj])))[0]


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ma.MaskedArray):
        same(np.asarray(a.data), np.asarray(b.data))
        assert np.ma.getmaskarray(a).tolist() == np.ma.getmaskarray(b).tolist()
        assert str(a.fill_value) == str(b.fill_value)
    elif isinstance(a, np.ndarray):
        same(a.dtype, b.dtype)
        assert a.shape == b.shape
        assert repr(np.asarray(a).tolist()) == repr(np.asarray(b).tolist())
        assert a.flags.f_contiguous == b.flags.f_contiguous
        assert b.flags.writeable
    elif isinstance(a, np.dtype):
        assert a == b or a.newbyteorder("=") == b.newbyteorder("=")  # NumPy turns what it reads
        assert a.type is b.type
        assert dict(a.fields or {}) == dict(b.fields or {})
        assert a.isalignedstruct == b.isalignedstruct
        assert noted(a) == noted(b)
    else:
        assert repr(a) == repr(b)


def noted(dtype: np.dtype) -> dict[str, Any]:
    own = ("torch_dtype",)
    return {key: value for key, value in (dtype.metadata or {}).items() if key not in own}


# ------------------------------------------------------------------ orders

GRID = np.array([[1, 2, 3], [4, 5, 6]], dtype=object)
CUBE = np.array(np.arange(24).reshape(2, 3, 4), dtype=object)
ORDERED = {
    "rows": GRID,
    "columns": np.asfortranarray(GRID),
    "turned": GRID.T,
    "cube": CUBE,
    "cube by columns": np.asfortranarray(CUBE),
    "cube with two axes swapped": CUBE.transpose(1, 0, 2),
    "cube turned": CUBE.T,
    "every second": CUBE[:, ::2, ::-1],
    "text by columns": np.asfortranarray(np.array([["a", "b", "c"], ["d", "e", "f"]])),
    "numbers with two axes swapped": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "numbers by columns": np.asfortranarray(np.arange(6, dtype="i4").reshape(2, 3)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", sorted(ORDERED))
def test_objects_stand_in_c_order_whatever_the_flag_says(name: str, protocol: int) -> None:
    program = pickle.dumps(ORDERED[name], protocol)
    same(pickle.loads(program), loaded(program))


@pytest.mark.parametrize("name", sorted(set(ORDERED) - {n for n in ORDERED if "numbers" in n}))
def test_orders_are_saved_as_numpy_reads_them(name: str) -> None:
    same(pickle.loads(pickle.dumps(ORDERED[name], 2)), by_pickle(ORDERED[name]))


@pytest.mark.parametrize("flag", [False, True])
def test_both_flags_of_objects_by_hand(flag: bool) -> None:
    """The flag is about memory, not about the list."""
    items = b"](" + b"".join(map(kit.integer, range(6))) + b"e"
    told = numpy_array(kit.sizes((2, 3)), kit.call("numpy", "dtype", kit.text("O8")), items)
    program = kit.program(told.replace(b"\x89" + items, kit.boolean(flag) + items))
    found = loaded(program)
    assert found.tolist() == pickle.loads(program).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.flags.f_contiguous == flag


def test_objects_may_lead_back_to_their_array() -> None:
    ring = np.empty(2, dtype=object)
    ring[0], ring[1] = ring, [ring]
    for found in (loaded(pickle.dumps(ring, 4)), kit.reloaded(ring), by_pickle(ring)):
        assert type(found) is np.ndarray
        assert found[0] is found
        assert found[1][0] is found


# ------------------------------------------------------------------ subclasses and rows


def string_type(**options: Any) -> Any:
    dtypes = getattr(np, "dtypes", None)
    if not hasattr(dtypes, "StringDType"):
        pytest.skip("NumPy 1 has no StringDType")
    return dtypes.StringDType(**options)


ROWS = [("i", ">i4"), ("o", "O"), ("n", [("b", "u1"), ("o", "O")]), ("s", "S3"), ("u", "U4")]


def special(name: str) -> Any:
    match name:
        case "matrix":
            return np.matrix([[1.0, 2], [3, 4]])
        case "matrix of text":
            return np.matrix([["a", "b"]])
        case "records":
            return np.rec.array([(1, 2.5), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
        case "records with objects":
            return np.rec.array([(1, "x"), (3, None)], dtype=[("a", "i4"), ("b", "O")])
        case "characters":
            return np.char.array(["a", "bc"])
        case "characters of bytes":
            return np.char.array([b"a", b"bc"])
        case "masked":
            return np.ma.array([1.0, 2, 3], mask=[0, 1, 0], fill_value=9.0)
        case "masked by columns":
            return np.ma.array([[1, 2, 3], [4, 5, 6]], mask=[[0, 1, 0], [1, 1, 0]], order="F")
        case "masked rows":
            return np.ma.array([(1, 2.0)], mask=[(0, 1)], dtype=[("a", "i4"), ("b", "f8")])
        case "masked objects":
            return np.ma.array(np.asfortranarray(GRID), mask=[[0, 0, 1], [1, 0, 0]])
        case "masked text":
            return np.ma.array(["a", "b"], mask=[1, 0])
        case "nothing masked":
            return np.ma.array([1, 2, 3])
        case "masked alone":
            return np.ma.array(3.5)
        case "nothing that could be masked":
            return np.ma.array([], dtype="f4")
        case "rows with objects":
            row = (1, [1], (2, {"k": 1}), b"a", "u")
            return np.array([[row], [(2, "x", (3, None), b"", "")]], dtype=ROWS)
        case "rows by columns":
            flat = [[(3 * i + k, str(i)) for k in range(3)] for i in range(2)]
            return np.asfortranarray(np.array(flat, dtype=[("a", "i4"), ("o", "O")]))
        case "rows with arrays":
            rows = [(1, [1, 2]), ("x", [3, 4])]
            return np.array(rows, dtype=[("o", "O"), ("x", "f4", (2,))])
        case "rows with arrays of objects":
            return np.array([(1, [None, 2])], dtype=[("n", "i4"), ("x", "O", (2,))])
        case "rows with days":
            days = [("2024-02-29", "x"), (None, None)]
            return np.array(days, dtype=[("d", "M8[D]"), ("o", "O")])
        case "one row with objects":
            return np.array([(1, ["a"])], dtype=[("a", "i4"), ("o", "O")])[0]
        case "one record":
            return special("records")[0]
        case "strings":
            return np.array(["a", "häß", ""], dtype=string_type())
        case "strings or nothing":
            some = [["a", None], ["b", ""]]
            return np.asfortranarray(np.array(some, dtype=string_type(na_object=None)))
        case "strings or nan":
            return np.array(["a", np.nan], dtype=string_type(na_object=np.nan, coerce=False))
        case "forty dimensions":
            if np.lib.NumpyVersion(np.__version__) < "2.0.0":
                pytest.skip("NumPy 1 has 32 dimensions")
            return np.zeros((1,) * 40, "U3")
    raise AssertionError(name)


SPECIAL = [
    "matrix", "matrix of text", "records", "records with objects", "characters",
    "characters of bytes", "masked", "masked by columns", "masked rows", "masked objects",
    "masked text", "nothing masked", "masked alone", "nothing that could be masked",
    "rows with objects", "rows by columns", "rows with arrays", "rows with arrays of objects",
    "rows with days", "one row with objects", "one record", "strings", "strings or nothing",
    "strings or nan", "forty dimensions",
]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_arrays_of_every_protocol(name: str, protocol: int) -> None:
    program = pickle.dumps(special(name), protocol)
    same(pickle.loads(program), loaded(program))


@pytest.mark.parametrize("name", SPECIAL)
def test_special_arrays_are_written_back(name: str) -> None:
    found = loaded(pickle.dumps(special(name), 4))
    same(pickle.loads(pickle.dumps(special(name), 2)), by_pickle(found))
    once = kit.saved([found])
    assert kit.saved(psd.load(once)) == once
    assert kit.records_in(once) == ["data.pkl", "byteorder", "version"]  # no tensor of it


@pytest.mark.parametrize("name", ["records", "characters", "matrix of text", "masked text"])
def test_special_arrays_of_the_users_own_keep_their_class(name: str) -> None:
    same(special(name), by_pickle(special(name)))


def test_arrays_of_numbers_become_tensors_whatever_their_class() -> None:
    class Mine(np.ndarray):
        pass

    for array in (special("matrix"), np.arange(4.0).view(Mine)):
        found = kit.reloaded([array])[0]
        assert type(found) is np.ndarray
        assert found.tolist() == array.tolist()
    with pytest.raises(TypeError, match="masked array"):
        kit.saved([special("masked")])
    text = np.array(["a"]).view(Mine)
    assert type(by_pickle(text)) is np.ndarray  # as a dict's subclass is a dict


def test_masked_arrays_of_somebodys_class_are_refused() -> None:
    class Mine(np.ma.MaskedArray):
        pass

    masked = np.ma.array(["a", "b"], mask=[0, 1])
    for array in (masked.view(Mine), np.ma.array(np.matrix([["a"]]))):
        with pytest.raises(TypeError, match="filled"):
            kit.saved([array])


def test_what_numpy_cannot_pickle_is_refused() -> None:
    array = np.empty((1,) * 32, dtype=object)
    assert by_pickle(array).shape == array.shape
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(TypeError, match="32 at most"):
            kit.saved([np.empty((1,) * 33, dtype=object)])


@pytest.mark.parametrize("kind", ["g", "G"])
def test_what_a_number_leaves_open_is_not_written(kind: str) -> None:
    """Of 16 bytes the x87 fills 10; the others are whatever memory held."""
    from pystatedict._reducenumpy import _settled

    if np.finfo(np.longdouble).nmant != 63:
        pytest.skip("long doubles fill their bytes here")
    clean = np.zeros(1, kind)
    clean += 1.5
    raw = bytearray(clean.tobytes())
    for start in range(0, len(raw), 16):
        raw[start + 10 : start + 16] = bytes(6)
    dirty = bytearray(raw)
    for start in range(0, len(raw), 16):
        dirty[start + 10 : start + 16] = b"memory"
    assert _settled(np.frombuffer(dirty, kind).reshape(())) == raw
    assert kit.saved([clean[0]]) == kit.saved([np.frombuffer(dirty, kind)[0]])
    assert kit.reloaded([clean[0]]) == [clean[0]]


def test_memory_maps_are_their_arrays(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "a.bin", "U2", "w+", shape=(2,))
    mapped[:] = ["a", "bc"]
    assert type(by_pickle(mapped)) is np.ndarray
    program = pickle.dumps(mapped, 4)
    with pytest.raises(psd.UnsafePickleError):  # the name alone could open a file
        loaded(program)
    found = psd.load(raw_archive(program), dangerous="opaque")
    same(np.array(["a", "bc"]), found)


class Shape(np.ndarray):
    pass


def test_arrays_of_unknown_classes_stay_opaque() -> None:
    array = np.arange(3.0).view(Shape)
    found = loaded(pickle.dumps(array, 4))
    assert isinstance(found, psd.Opaque)
    assert found.args[0].name == "Shape"
    assert found.state[1] == (3,)
    again = by_pickle_opaque(found)
    assert type(again) is Shape
    assert again.tolist() == array.tolist()


def by_pickle_opaque(obj: Any) -> Any:
    return pickle.loads(kit.pickle_in(kit.saved([obj], opaque=True)))[0]


def test_rows_that_would_need_more_than_the_pickle_stay_opaque() -> None:
    """A row that stands for thousands, or fields that take no room, are not multiplied."""
    rows = np.array([(1, None), (2, None)], dtype=[("a", "i4"), ("o", "O")])
    program = pickle.dumps(rows, 2)
    shared = numpy_array(
        kit.sizes((3,)),
        dtype_of_rows(),
        b"](" + kit.tuple_of(kit.integer(1), b"N") + b"2" + b"2" + b"e",  # DUP: one tuple
    )
    found = psd.load(kit.archive(shared))
    assert isinstance(found, psd.Opaque)
    assert found.state[1] == (3,)
    assert isinstance(loaded(program), np.ndarray)


def dtype_of_rows() -> bytes:
    fields = kit.dict_of(
        {
            "a": kit.tuple_of(kit.call("numpy", "dtype", kit.text("i4")), kit.integer(0)),
            "o": kit.tuple_of(kit.call("numpy", "dtype", kit.text("O8")), kit.integer(8)),
        }
    )
    names = kit.tuple_of(kit.text("a"), kit.text("o"))
    state = (kit.integer(3), kit.text("|"), b"N", names, fields, *map(kit.integer, (16, 1, 27)))
    return kit.call("numpy", "dtype", kit.text("V16")) + kit.tuple_of(*state) + b"b"


def test_rows_cost_what_they_take() -> None:
    """Many arrays of the same few rows are counted by their memory."""
    wide = "V60000"
    fields = kit.dict_of(
        {
            "v": kit.tuple_of(kit.call("numpy", "dtype", kit.text(wide)), kit.integer(0)),
            "o": kit.tuple_of(kit.call("numpy", "dtype", kit.text("O8")), kit.integer(60000)),
        }
    )
    names = kit.tuple_of(kit.text("v"), kit.text("o"))
    told = (kit.integer(3), kit.text("|"), b"N", names, fields, *map(kit.integer, (60008, 1, 27)))
    dtype = kit.call("numpy", "dtype", kit.text("V60008")) + kit.tuple_of(*told) + b"b"
    row = b"](" + kit.tuple_of(b"C\x00", b"N") + b"e"
    state = kit.tuple_of(kit.integer(1), kit.sizes((1,)), dtype, kit.boolean(False), row)
    start = state + b"q\x010" + kit.named("numpy.core.multiarray", "_reconstruct") + b"q\x020"
    start += kit.tuple_of(kit.named("numpy", "ndarray"), kit.sizes((0,)), b"C\x01b") + b"q\x030"
    each = b"h\x02h\x03Rh\x01b"
    assert len(psd.load(kit.archive(start + b"](" + each * 3 + b"e"))) == 3
    with pytest.raises(psd.LimitError, match="too often"):
        psd.load(kit.archive(start + b"](" + each * 5000 + b"e"))


# ------------------------------------------------------------------ dtypes

DTYPES = {
    "noted": np.dtype("i4", metadata={"unit": "m"}),
    "noted text": np.dtype("U3", metadata={"a": [1]}),
    "noted fields": np.dtype([("a", "i4")], metadata={"a": 1}),
    "noted spans": np.dtype("m8[25us]", metadata={"a": 1}),
    "titled": np.dtype([(("long name", "a"), "i4"), ("b", "f8")]),
    "aligned": np.dtype([("a", "u1"), ("b", "O")], align=True),
    "overlapping": np.dtype({"names": ["a", "b"], "formats": ["i4", "u1"], "offsets": [0, 3]}),
    "padded": np.dtype({"names": ["a"], "formats": ["u1"], "offsets": [3], "itemsize": 9}),
    "records": np.dtype((np.record, [("a", "<i4"), ("b", ">f8")])),
    "no fields": np.dtype([]),
    "block": np.dtype((">i4", (2, 3))),
    "block of objects": np.dtype(("O", (2,))),
    "block of fields": np.dtype(([("a", "i4"), ("b", "U2")], (2,))),
    "deep": np.dtype([("a", [("b", [("c", [("d", "i4", (2,))])])])]),
    "generic": np.dtype("M8"),
    "big": np.dtype(">c16"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_dtypes_of_every_protocol(name: str, protocol: int) -> None:
    program = pickle.dumps([DTYPES[name]], protocol)
    found = loaded(program)[0]
    same(DTYPES[name], found)
    assert found.byteorder == DTYPES[name].byteorder


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_dtypes_are_saved_as_numpy_reads_them(name: str) -> None:
    if DTYPES[name].isalignedstruct and np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("NumPy 1 cannot read how NumPy 2 tells alignment, nor the other way round")
    same(DTYPES[name], by_pickle(DTYPES[name]))
    same(DTYPES[name], kit.reloaded([DTYPES[name]])[0])
    if DTYPES[name].fields and not DTYPES[name].hasobject:
        array = np.zeros(3, DTYPES[name])
        same(array, by_pickle(array))


def test_string_types() -> None:
    for options in ({}, {"na_object": None}, {"coerce": False, "na_object": "missing"}):
        dtype = string_type(**options)
        for protocol in PROTOCOLS:
            assert loaded(pickle.dumps([dtype], protocol))[0] == dtype
        assert by_pickle(dtype) == dtype


@pytest.mark.parametrize(
    "layout",
    [
        {"names": ["real", "imag"], "formats": ["f2", "f2"], "offsets": [2, 0]},
        {"names": ["real", "imag"], "formats": ["f2", "f2"], "offsets": [0, 0], "itemsize": 4},
        {"names": ["real", "imag"], "formats": ["f2", "f2"], "offsets": [0, 2], "itemsize": 8},
        [("real", ">f2"), ("imag", ">f2")],
        [("imag", "f2"), ("real", "f2")],
        [(("title", "real"), "f2"), ("imag", "f2")],
        [("real", "f2"), ("imag", "i2")],
        (np.record, [("real", "f2"), ("imag", "f2")]),
    ],
    ids=str,
)
def test_other_pairs_of_halves_are_no_complex_numbers(layout: Any) -> None:
    array = np.zeros(2, np.dtype(layout))
    array["real"], array["imag"] = [1, 2], [3, 4]
    found = kit.reloaded([array])[0]
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()
    assert kit.records_in(kit.saved([array])) == ["data.pkl", "byteorder", "version"]


def test_pairs_of_halves_are_complex_numbers() -> None:
    array = np.array([(1, 2)], dtype=[("real", "f2"), ("imag", "f2")])
    assert "data/0" in kit.records_in(kit.saved([array]))


def test_notes_of_this_package_bind_only_where_they_are_true() -> None:
    """A dtype's metadata can say anything; the item size tells whether it may be so."""
    lying = np.zeros(3, np.dtype("f8", metadata={"torch_dtype": "bits8"}))
    found = kit.reloaded([lying])[0]
    assert found.dtype == np.dtype("f8")
    assert found.tolist() == [0, 0, 0]
    for noted_there in ({"torch_dtype": "bits8"}, {"torch_dtype": [1]}):
        array = np.zeros(3, np.dtype("u1", metadata={**noted_there, "mine": 1}))
        for protocol in PROTOCOLS:
            read = loaded(pickle.dumps({"v": array}, protocol))["v"]
            assert noted(read.dtype) == {"mine": 1}
            again = kit.reloaded({"v": read})["v"]
            assert noted(again.dtype) == {"mine": 1}  # and it is still no tensor


def test_dtypes_of_other_machines_stay_opaque() -> None:
    """Long doubles have other sizes elsewhere; an array of them keeps its bytes."""
    foreign = "f12" if np.dtype(np.longdouble).itemsize != 12 else "f16"
    dtype = kit.call("numpy", "dtype", kit.text(foreign), b"\x89", b"\x88")
    size = int(foreign[1:])
    body = numpy_array(kit.sizes((1,)), dtype, b"C" + bytes([size]) + bytes(size))
    found = psd.load(kit.archive(kit.dict_of({"v": body})))["v"]
    assert isinstance(found, psd.Opaque)
    assert found.state[4] == bytes(size)
    assert found.state[2].args[0] == foreign
    again = kit.reloaded({"v": found}, opaque=True)["v"]
    assert again.state[4] == bytes(size)


def test_dtypes_within_dtypes_without_end() -> None:
    """NumPy frees them by recursion: a few kilobytes would end the process."""
    inner = kit.call("numpy", "dtype", kit.text("u1"))
    state = (kit.integer(3), kit.text("|"), b"N", kit.tuple_of(kit.text("a")))
    rest = (*map(kit.integer, (1, 1, 16)),)
    depth = 30_000
    start = kit.named("numpy", "dtype") + kit.tuple_of(kit.text("V1"), b"\x89", b"\x88") + b"R"
    body = (start + b"(" + b"".join(state) + b"}" + kit.text("a")) * depth + inner
    body += (kit.integer(0) + b"\x86" + b"s" + b"".join(rest) + b"tb") * depth
    found = psd.load(kit.archive(body))
    assert isinstance(found, psd.Opaque)


def test_dtypes_that_double() -> None:
    """Each holds the one before twice: to count the fields would take for ever."""
    body = kit.call("numpy", "dtype", kit.text("V0")) + b"q\x01"
    for _ in range(40):
        fields = kit.dict_of({n: kit.tuple_of(b"h\x01", kit.integer(0)) for n in "ab"})
        names = kit.tuple_of(kit.text("a"), kit.text("b"))
        rest = (kit.integer(0), kit.integer(1), kit.integer(16))
        state = kit.tuple_of(kit.integer(3), kit.text("|"), b"N", names, fields, *rest)
        body += b"0" + kit.call("numpy", "dtype", kit.text("V0")) + state + b"bq\x01"
    assert isinstance(psd.load(kit.archive(body)), (psd.Opaque, np.dtype))


# ------------------------------------------------------------------ scalars and old spellings


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        np.str_(""), np.void(b""), np.void(b"ab"), np.longdouble(3), np.clongdouble(1j),
        np.datetime64("2024-02-29T01"), np.datetime64("NaT", "s"), np.timedelta64(3, "25s"),
        np.float64(-0.0), np.bool_(True), np.bytes_(b"a\0b"), ml_dtypes.int4(-3),
    ],
    ids=repr,
)  # fmt: skip
def test_scalars_of_every_protocol(value: Any, protocol: int) -> None:
    found = loaded(pickle.dumps([value], protocol))[0]
    same(value, found)
    assert found.dtype == value.dtype
    same(value, by_pickle(value))


def test_bytes_that_python_2_called_text() -> None:
    """Decoded as UTF-8 where they are that, as latin-1 where not: the size tells which."""
    dtype = kit.call("numpy", "dtype", kit.text("u1"))
    for raw in (b"\xc3\xa9", b"\xe9", b"\xc3\x28", b"abc", b"\xe4\xbd\xa0", bytes(range(128, 256))):
        body = numpy_array(kit.sizes((len(raw),)), dtype, b"U" + bytes([len(raw)]) + raw)
        assert psd.load(kit.archive(body)).tobytes() == raw
    with pytest.raises(psd.CorruptError):
        psd.load(kit.archive(numpy_array(kit.sizes((1,)), dtype, kit.text("漢"))))


def test_states_of_the_oldest_numpy() -> None:
    """Before they had a version in front."""
    made = kit.call(
        "numpy.core.multiarray",
        "_reconstruct",
        kit.named("numpy", "ndarray"),
        kit.sizes((0,)),
        b"C\x01b",
    )
    dtype = kit.call("numpy", "dtype", kit.text("i2"))
    state = kit.tuple_of(kit.sizes((2,)), dtype, kit.boolean(False), b"C\x04\x01\x00\x02\x00")
    assert psd.load(kit.archive(made + state + b"b")).tolist() == [1, 2]


def test_one_dtype_for_all_arrays() -> None:
    arrays = [np.arange(3, dtype="i4") for _ in range(50)]
    sd = loaded(pickle.dumps({"all": arrays}, 4))
    program = kit.pickle_in(kit.saved(sd))
    assert program.count(b"numpy\ndtype") == 1
    assert program.count(b"i4") == 1


def test_numpys_own_warnings_are_not_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        psd.load(raw_archive(pickle.dumps([np.arange(3), np.array(["a"])], 4)))
        kit.saved([np.array(["a"]), np.float64(1)])
