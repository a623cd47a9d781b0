# SPDX-License-Identifier: Apache-2.0
"""npz archives: read as any other file, refused where they hold pickles, and written so that
NumPy reads them.
"""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import random
import re
import struct
import zipfile
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from isolated import run

import pystatedict as psd
from pystatedict._cli import main

FLOATS = np.arange(6, dtype="f4").reshape(2, 3)

ARRAYS: dict[str, Any] = {
    "w": FLOATS,
    "fortran": np.asfortranarray(np.arange(24, dtype="i2").reshape(2, 3, 4)),
    "big": np.arange(4, dtype=">i4"),
    "big complex": (np.arange(4) * (1 + 2j)).astype(">c16"),
    "scalar": np.array(7, "u8"),
    "empty": np.zeros((0, 3), "f8"),
    "flags": np.array([True, False, True]),
    "deep/er": np.arange(3, dtype="u1"),
    "é": np.ones(1, "f2"),
    "W": np.zeros(2, "c8"),  # a name that differs by case alone
    "halves": np.array([(1, 2), (3, 4)], [("real", "f2"), ("imag", "f2")]),
}
OTHERS: dict[str, Any] = {
    "names": np.array(["a", "éé", ""]),
    "octets": np.array([b"ab", b"c"]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[s]"),
    "spans": np.array([3], "m8[D]"),
    "records": np.array([(1, 2.5, "x")], [("a", ">i4"), ("b", "f8", ()), ("c", "U3")]),
    "matrix of records": np.zeros((2, 2), [("a", "i1", (3,))]).T,
    "void": np.zeros(3, "V5"),
    "bfloat16 as NumPy has it": np.arange(3).astype(ml_dtypes.bfloat16).view("V2"),
    "no bytes": np.zeros((2, 0), "U0"),
}
if np.dtype("longdouble").itemsize > 8:
    OTHERS["long"] = np.arange(2, dtype="longdouble")


def npz(arrays: dict[str, Any], *, packed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def headed(header: str, data: bytes = b"", version: int = 1, encoding: str = "latin-1") -> bytes:
    """A .npy file by hand, its header as it is."""
    text = header.encode(encoding)
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def zipped(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return file.getvalue()


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("packed", [False, True])
def test_load(packed: bool) -> None:
    sd = psd.load(npz(ARRAYS | OTHERS, packed=packed), verify=True)
    assert type(sd) is psd.StateDict
    assert list(sd) == [*ARRAYS, *OTHERS]
    for name, array in ARRAYS.items():
        kit.same_array(array, sd[name], name, strides=False)
        if array.ndim > 1:
            assert sd[name].flags.f_contiguous == array.flags.f_contiguous
    for name, array in OTHERS.items():
        assert sd[name].dtype == array.dtype, name
        assert sd[name].shape == array.shape
        assert sd[name].tobytes() == array.tobytes(), name


def test_arrays_that_are_no_tensors_keep_their_places() -> None:
    mixed = {"a": np.array(["x"]), "b": FLOATS, "c": np.array(["y"]), "d": FLOATS}
    file = npz(mixed)
    sd = psd.load(file)
    assert list(sd) == list("abcd")
    assert sd["a"].flags.writeable
    assert [name for name, _ in psd.items(file)] == list("abcd")
    assert list(psd.open(file)) == ["b", "d"]
    assert list(psd.load(file, "meta")) == list("abcd")
    told = psd.load(file, "meta")
    assert {type(told[name]) for name in told} == {psd.TensorInfo, np.ndarray}
    kit.same_array(FLOATS, psd.load(file, root="b"))
    assert type(psd.load(npz({"a": np.array(["x"])}))) is psd.StateDict


def test_open(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz(ARRAYS))
    assert psd.identify(path) == "npz"
    with psd.open(path) as checkpoint:
        assert checkpoint.kind == "npz"
        assert list(checkpoint) == list(ARRAYS)
        for name, info in checkpoint.items():
            array = ARRAYS[name]
            assert (info.shape, info.nbytes) == (array.shape, array.nbytes)
            assert info.storage == name
        assert checkpoint["fortran"].stride == (1, 2, 6)
        assert checkpoint["halves"].dtype == "complex32"
        assert checkpoint.verify() == (len(ARRAYS), 0)
        array = checkpoint["big"].numpy()
    kit.same_array(ARRAYS["big"], array)


def test_stored_arrays_are_mapped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz({"w": FLOATS}))
    before = path.read_bytes()
    sd = psd.load(path)
    sd["w"][0, 0] = 99
    assert path.read_bytes() == before
    base = sd["w"].base
    assert memoryview(base).nbytes == len(before)  # the file itself


def test_a_compressed_array_that_is_taken_twice() -> None:
    """The second time it is found among what was inflated before."""
    file = io.BytesIO()
    np.savez_compressed(file, w=np.arange(1000, dtype="<f4"))
    info = psd.open(file.getvalue())["w"]
    first = info.numpy()
    second = info.numpy()
    assert np.shares_memory(first, second)
    assert np.array_equal(second, np.arange(1000, dtype="<f4"))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header(version: tuple[int, int]) -> None:
    file = zipped({"w.npy": npy(FLOATS, version)})
    kit.same_array(FLOATS, psd.load(file)["w"])


def test_names_of_fields_need_version_3() -> None:
    array = np.array([(1,)], [("é€", "i4")])
    assert psd.load(zipped({"r.npy": npy(array, (3, 0))}))["r"].dtype == array.dtype


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
        "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}",
        '{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}',
        "  {'descr': '<f4', 'fortran_order': False, 'shape': ( 2 , 3 , ) , }  \n",
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_of_other_writers(header: str, method: int) -> None:
    """Of any length: the array may begin anywhere."""
    for blanks in range(5):
        data = headed(header + " " * blanks, FLOATS.tobytes())
        kit.same_array(FLOATS, psd.load(zipped({"w.npy": data}, method))["w"])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("()", ()), ("(5,)", (5,)), ("(0, 4)", (0, 4)), ("(1, 1, 1)", (1, 1, 1))],
)
def test_shapes(shape: str, expected: tuple[int, ...]) -> None:
    count = int(np.prod(expected))
    header = f"{{'descr': '|u1', 'fortran_order': True, 'shape': {shape}, }}"
    array = psd.load(zipped({"w.npy": headed(header, bytes(count))}))["w"]
    assert array.shape == expected and array.dtype == np.uint8


def test_a_long_header() -> None:
    array = np.zeros(2, [(f"field number {i}", "i4") for i in range(300)])
    assert psd.load(zipped({"r.npy": npy(array, (2, 0))}))["r"].dtype == array.dtype
    common = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
    data = headed(common + " " * 50_000, FLOATS.tobytes(), 2)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kit.same_array(FLOATS, psd.load(zipped({"w.npy": data}, method))["w"])


def test_other_doors(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz({"a.w": FLOATS, "a.b": FLOATS[0]}))
    for command in ("ls", "tree", "stat"):
        assert main([command, str(path)]) == 0
    assert "a.w" in capsys.readouterr().out
    main(["stat", "--json", str(path)])
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["kind"], told["checksums"]) == ("npz", "npz", "stated")
    psd.save_trainable(path, {"a.w": True})
    assert psd.load(path).trainable["a.w"] is True
    path.write_bytes(npz({"a.w": FLOATS + 1, "a.b": FLOATS[0]}))
    with pytest.raises(psd.StaleSidecarError):
        psd.load_trainable(path)


def test_listing_imports_no_numpy(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz({k: v for k, v in ARRAYS.items() if k != "halves"}, packed=True))
    code = (
        "import sys, pystatedict as psd\n"
        "with psd.open(sys.argv[1]) as checkpoint:\n"
        "    assert checkpoint['w'].shape == (2, 3)\n"
        "heavy = {'numpy', 'ast', 'zipfile', 'typing', 'dataclasses'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run.succeed("-S", "-c", code, path, PYTHONPATH=str(pathlib.Path(psd.__file__).parents[1]))


# ------------------------------------------------------------------ refusing


class Harmful:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("exit 3",)


def objects(*values: Any) -> bytes:
    array = np.empty(len(values), object)
    array[:] = values
    return npy(array)


def test_arrays_of_objects_are_refused_by_name() -> None:
    file = zipped({"w.npy": npy(FLOATS), "o.npy": objects({"a": 1}, None)})
    with pytest.raises(psd.UnsupportedError, match="'o' holds Python objects") as caught:
        psd.load(file)
    assert caught.value.code == "npz-objects" and caught.value.entry == "o.npy"
    with psd.open(file) as checkpoint:  # the others are there
        kit.same_array(FLOATS, checkpoint["w"].numpy())


def test_a_pickle_that_asks_for_code_is_told_of() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = zipped({"o.npy": objects(Harmful())}, method)
        with pytest.raises(psd.UnsafePickleError) as caught:
            psd.load(file)
        assert caught.value.globals == ("posix.system",)


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
BROKEN: dict[str, bytes] = {
    "no array": b"something else, and long enough for a header",
    "nothing": b"",
    "magic only": b"\x93NUMPY",
    "version 4": b"\x93NUMPY\4\0" + npy(FLOATS)[8:],
    "header beyond the record": b"\x93NUMPY\1\0\xff\xff" + HEADER.encode() + bytes(24),
    "header of a gigabyte": b"\x93NUMPY\2\0\0\0\0\x40" + HEADER.encode() + bytes(24),
    "too few bytes": npy(FLOATS)[:-1],
    "too many bytes": npy(FLOATS) + b"\0",
    "no literal": headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)", bytes(24)),
    "a call": headed("{'descr': '<f4', 'fortran_order': False, 'shape': tuple((2, 3))}", bytes(24)),
    "other keys": headed("{'descr': '<f4', 'fortran_order': False, 'size': (2, 3)}", bytes(24)),
    "more keys": headed(HEADER[:-1] + "'x': 1}", bytes(24)),
    "a list": headed("['<f4', False, (2, 3)]", bytes(24)),
    "shape of a number": headed(HEADER.replace("(2, 3)", "(6)"), bytes(24)),
    "shape of a list": headed(HEADER.replace("(2, 3)", "[2, 3]"), bytes(24)),
    "shape of a text": headed(HEADER.replace("(2, 3)", "(2, '3')"), bytes(24)),
    "shape of a bool": headed(HEADER.replace("(2, 3)", "(2, True)"), bytes(24)),
    "negative": headed(HEADER.replace("(2, 3)", "(-2, -3)"), bytes(24)),
    "huge": headed(HEADER.replace("(2, 3)", "(4294967296, 4294967296)"), bytes(24)),
    "too huge": headed(HEADER.replace("(2, 3)", f"({1 << 64},)"), bytes(24)),
    "order of a number": headed(HEADER.replace("False", "0"), bytes(24)),
    "dtype of nothing": headed(HEADER.replace("<f4", "<q9"), bytes(24)),
    "dtype of a number": headed(HEADER.replace("'<f4'", "7"), bytes(24)),
    "dtype of odd fields": headed(HEADER.replace("'<f4'", "[('a',)]"), bytes(24)),
    "dtype of nested nonsense": headed(HEADER.replace("'<f4'", "[('a', [('b', {})])]"), bytes(24)),
    "deep": headed("(" * 5000, bytes(24)),
    "long and odd": headed(HEADER.replace("'<f4'", "'" + "f" * 20_000 + "'") + "x", bytes(24), 2),
    "no UTF-8": headed("{'descr': [('\xff', 'i4')], 'fortran_order': False, 'shape': (1,)}",
                       bytes(4), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_broken_records(name: str, method: int) -> None:
    with pytest.raises((psd.CorruptError, psd.UnsupportedError)) as caught:
        psd.load(zipped({"fine.npy": npy(FLOATS), "bad.npy": BROKEN[name]}, method))
    assert caught.value.entry == "bad.npy" or "dimensions" in caught.value.sentence
    assert caught.value.hint


def test_blanks_are_not_tried_twice() -> None:
    """Else the matcher would take the square of their number, and this would not end."""
    from pystatedict import _npz

    assert re.findall(r"\\s[*+](?!\+)", _npz._COMMON.pattern) == []
    bad = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + " " * 900_000 + "x"
    with pytest.raises(psd.CorruptError):
        psd.load(zipped({"w.npy": headed(bad, version=2)}))


def test_a_name_twice() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.npy", npy(FLOATS))
            archive.writestr("a.npy", npy(FLOATS))
    with pytest.raises(psd.CorruptError) as caught:
        psd.load(file.getvalue())
    assert caught.value.code == "zip-duplicate"


def test_other_zip_archives_with_a_name_twice_stay_refused() -> None:
    with pytest.raises(psd.CorruptError) as caught:
        psd.load(zipped({"a.txt": b"1", "A.txt": b"2"}))
    assert caught.value.code == "zip-duplicate"


def test_folders_and_other_files() -> None:
    kit.same_array(FLOATS, psd.load(zipped({"x/": b"", "x/w.npy": npy(FLOATS)}))["x/w"])
    with pytest.raises(psd.NotACheckpointError):
        psd.load(zipped({"readme.txt": b"hello", "w.npy": npy(FLOATS)}))


def test_other_methods() -> None:
    with pytest.raises(psd.UnsupportedError) as caught:
        psd.load(zipped({"w.npy": npy(FLOATS)}, zipfile.ZIP_BZIP2))
    assert caught.value.code == "zip-method"


def test_a_flipped_bit() -> None:
    for packed in (False, True):
        data = bytearray(npz({"w": np.arange(500)}, packed=packed))
        data[len(data) // 2] ^= 4
        with pytest.raises(psd.CorruptError):
            psd.load(bytes(data), verify=True)


def test_a_single_array_is_no_checkpoint() -> None:
    with pytest.raises(psd.NotACheckpointError) as caught:
        psd.load(npy(FLOATS))
    assert caught.value.code == "npy" and "numpy.load" in str(caught.value)


def test_hostile_files_raise_errors_of_ours() -> None:
    small = {"w": FLOATS, "F": np.asfortranarray(FLOATS), "s": np.array(["ab", "c"])}
    passed = 0
    for packed in (False, True):
        data = npz(small, packed=packed)
        for seed in range(1500):
            r = random.Random(seed)
            work = bytearray(data)
            for _ in range(r.randint(1, 3)):
                at = r.randrange(len(work))
                if r.random() < 0.6:
                    work[at] ^= 1 << r.randrange(8)
                else:
                    part = r.choice([b"\0", b"\xff\xff", b"'", b"(9,)", b"O", b"<M8", b"|V3"])
                    work[at : at + len(part)] = part
            try:
                sd = psd.load(bytes(work))
            except psd.StateDictError:
                continue
            passed += 1
            for array in sd.values():
                array.tobytes()
    assert passed > 100


# ------------------------------------------------------------------ writing


def test_numpy_reads_what_is_written(tmp_path: pathlib.Path) -> None:
    arrays = {k: v for k, v in (ARRAYS | OTHERS).items() if k != "no bytes"}
    arrays |= {"strided": FLOATS[:, ::-1], "broadcast": np.broadcast_to(FLOATS, (4, 2, 3))}
    psd.save(arrays, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as back:
        assert list(back) == list(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            assert back[name].shape == array.shape
            assert back[name].tobytes() == array.tobytes()
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert archive.testzip() is None
    ours = psd.load(tmp_path / "out.npz")
    for name, array in arrays.items():
        if array.dtype.names is None:
            assert kit.bits(ours[name]) == kit.bits(array)


def test_arrays_are_aligned_for_mapping(tmp_path: pathlib.Path) -> None:
    arrays = {"x" * n: np.arange(n, dtype="f8") for n in range(1, 20)}
    psd.save(arrays, tmp_path / "out.npz")
    sd = psd.load(tmp_path / "out.npz")
    assert all(kit.address(array) % 64 == 0 for array in sd.values())


def test_the_same_object_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    psd.save(ARRAYS, tmp_path / "a.npz")
    psd.save(ARRAYS, tmp_path / "b.NPZ")
    found = {path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {kit.saved(ARRAYS, format="npz")}


def test_ties_are_written_in_full() -> None:
    sd = psd.load(bytearray(kit.saved({"a": FLOATS, "b": FLOATS.T}, format="npz")))
    assert not np.may_share_memory(sd["a"], sd["b"])
    assert sd["b"].flags.f_contiguous


REJECTED: dict[str, tuple[Any, str]] = {
    "bfloat16": ({"w": FLOATS.astype(ml_dtypes.bfloat16)}, "bfloat16.*float32"),
    "float8": ({"w": FLOATS.astype(ml_dtypes.float8_e4m3fn)}, "float8_e4m3fn"),
    "float4": (
        {"w": np.zeros(2, np.dtype("u1", metadata={"torch_dtype": "float4_e2m1fn_x2"}))}, "float4",
    ),
    "objects": ({"w": np.array([None])}, "without pickles"),
    "an int": ({"step": 7}, "numpy.asarray"),
    "a nest": ({"model": {"w": FLOATS}}, r"obj\['model'\]"),
    "a list": ([FLOATS], "an npz file holds a mapping"),
    "a path out": ({"../w": FLOATS}, "cannot name"),
    "an absolute path": ({"/w": FLOATS}, "cannot name"),
    "no name": ({"": FLOATS}, "cannot name"),
    "NUL": ({"a\0b": FLOATS}, "cannot name"),
    "half a character": ({"\ud800": FLOATS}, "UTF-8"),
    "quantized": (
        {"q": psd.QuantizedTensor(np.zeros(2, "u1"), "quint8", scale=1.0, zero_point=0)},
        "dequantize",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_what_it_cannot_hold(name: str, tmp_path: pathlib.Path) -> None:
    obj, said = REJECTED[name]
    with pytest.raises(TypeError, match=said):
        psd.save(obj, tmp_path / "out.npz")
    assert list(tmp_path.iterdir()) == []


def test_arrays_that_stood_in_a_pickle_are_arrays(tmp_path: pathlib.Path) -> None:
    """Their dtype remembers it, which no other format can tell."""
    body = pickle.dumps({"w": FLOATS, "t": np.arange(3)}, 2)
    sd = psd.load(body)
    for name in ("out.npz", "out.safetensors"):
        psd.save(sd, tmp_path / name)
        kit.same_array(FLOATS, psd.load(tmp_path / name)["w"])


def test_targets_that_cannot_seek() -> None:
    class Pipe:
        def __init__(self) -> None:
            self.data = bytearray()

        def write(self, data: memoryview) -> int:
            self.data += data[:1000]
            return len(data[:1000])

    pipe = Pipe()
    psd.save({"w": np.arange(5000), "f": FLOATS}, pipe, format="npz")
    assert bytes(pipe.data) == kit.saved({"w": np.arange(5000), "f": FLOATS}, format="npz")
    assert np.load(io.BytesIO(bytes(pipe.data)))["w"].sum() == 5000 * 4999 // 2


def test_growth_is_counted() -> None:
    """Work on an archive grows as its records do: calls made, counted by the interpreter."""
    import sys

    def calls(count: int) -> int:
        data = kit.saved({f"array {i}": FLOATS[0, :1] for i in range(count)}, format="npz")
        made = 0

        def tally(_: Any, event: str, __: Any) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(tally)
        try:
            checkpoint = psd.open(data)
        finally:
            sys.setprofile(before)
        assert len(checkpoint) == count
        return made

    assert calls(2000) < 2.2 * calls(1000)


def test_names_that_are_no_utf_8(tmp_path: pathlib.Path) -> None:
    """Other tools spell them in the code page of old; NumPy reads them so."""
    path = tmp_path / "a.npz"
    np.savez(path, aXb=np.ones(2), tXt=np.array("text"))
    data = path.read_bytes().replace(b"aXb.npy", b"a\xe9b.npy").replace(b"tXt.npy", b"t\xe9t.npy")
    path.write_bytes(data)
    with np.load(path) as arrays:
        names = list(arrays)
    assert list(psd.load(path)) == names == ["a\u0398b", "t\u0398t"]
    assert list(psd.open(path)) == names[:1]
    assert psd.verify(path)
    assert psd.repair(path, tmp_path / "b.npz").kept == (names[0],)
