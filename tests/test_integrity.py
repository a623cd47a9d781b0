# SPDX-License-Identifier: Apache-2.0
"""verify finds every kind of damage; repair keeps what is whole, and says what is not."""

from __future__ import annotations

import io
import pathlib
import pickle
import struct
import zipfile
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

RNG = np.random.default_rng(3)
TENSORS = {name: RNG.normal(size=(40, 8)).astype("f4") for name in ("a", "b", "c")}
PLAIN = {**TENSORS, "epoch": 3, "more": {"note": "kept", "deep": np.arange(5)}}
DATA = kit.saved(PLAIN)
NAMES = ["a", "b", "c", "more.deep"]


def starts(data: bytes) -> dict[str, tuple[int, int]]:
    """Where each record's payload lies: (start, size)."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            found[info.filename] = (info.header_offset + 30 + name + extra, info.file_size)
    return found


def record_of(name: str, data: bytes = DATA) -> tuple[int, int]:
    return starts(data)[f"archive/data/{psd.open(data)[name].storage}"]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def cut_before(name: str) -> bytes:
    """A download that stopped within this tensor."""
    start, size = record_of(name)
    return DATA[: start + size // 2]


# ------------------------------------------------------------------ verify


def test_a_whole_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(DATA)
    report = psd.verify(path)
    assert report
    assert (report.path, report.kind, report.problems) == (str(path), "checkpoint", ())
    assert (report.checked, report.unchecked, report.damaged) == (len(starts(DATA)), 0, ())


@pytest.mark.parametrize("name", NAMES)
def test_one_bit_is_found_and_named(name: str) -> None:
    report = psd.verify(flipped(DATA, record_of(name)[0] + 3))
    assert not report
    assert report.damaged == (name,)
    assert [type(p) for p in report.problems] == [psd.ChecksumError]
    assert report.problems[0].entry == f"archive/data/{psd.open(DATA)[name].storage}"


def test_all_damage_is_told_at_once() -> None:
    data = DATA
    for name in ("a", "c"):
        data = flipped(data, record_of(name)[0])
    report = psd.verify(data)
    assert report.damaged == ("a", "c")
    assert len(report.problems) == 2
    assert report.checked == len(starts(DATA))


def test_ties_are_damaged_together() -> None:
    base = np.arange(12, dtype="f4")
    data = kit.saved({"w": base, "tied": base.reshape(3, 4), "other": np.ones(3)})
    start, _ = record_of("w", data)
    assert psd.verify(flipped(data, start)).damaged == ("w", "tied")


def test_a_cut_file() -> None:
    report = psd.verify(cut_before("b"))
    assert not report
    assert report.kind is None
    assert isinstance(report.problems[0], psd.TruncatedError)


def test_records_without_checksums() -> None:
    report = psd.verify(kit.saved(PLAIN, checksum=False))
    assert report
    assert (report.checked, report.unchecked) == (0, len(starts(DATA)))


def test_files_without_checksums() -> None:
    data = kit.legacy(TENSORS)
    report = psd.verify(data)
    assert report
    assert (report.kind, report.checked, report.unchecked) == ("legacy", 0, 3)
    assert not psd.verify(data[:-1])


def test_what_is_nothing_to_check_is_raised(tmp_path: pathlib.Path) -> None:
    with pytest.raises(psd.NotACheckpointError):
        psd.verify(b"<!DOCTYPE html>")
    with pytest.raises(FileNotFoundError):
        psd.verify(tmp_path / "missing.pth")
    with pytest.raises(psd.LimitError):
        psd.verify(DATA, limits={"entries": 1})


# ------------------------------------------------------------------ repair


def repaired(data: Any, **options: Any) -> tuple[psd.Repair, Any]:
    out = io.BytesIO()
    done = psd.repair(data, out, **options)
    return done, psd.load(out.getvalue())


def same_parts(obj: Any, kept: list[str]) -> None:
    """`obj` is the plain object, less the tensors that are not in `kept`."""
    for name, array in TENSORS.items():
        assert (name in obj) == (name in kept)
        if name in kept:
            kit.same_array(obj[name], array)
    assert obj["epoch"] == 3
    assert obj["more"]["note"] == "kept"
    assert ("deep" in obj["more"]) == ("more.deep" in kept)


def test_a_whole_file_stays_as_it_is() -> None:
    done, obj = repaired(DATA)
    assert (done.kept, done.lost, done.problems) == (tuple(NAMES), (), ())
    same_parts(obj, NAMES)


@pytest.mark.parametrize("cut", [1, 30, 100, 200, 400])
def test_a_lost_directory(cut: int) -> None:
    with zipfile.ZipFile(io.BytesIO(DATA)) as archive:
        directory = archive.start_dir
    assert cut < len(DATA) - directory
    done, obj = repaired(DATA[:-cut])
    assert (done.kept, done.lost) == (tuple(NAMES), ())
    assert [type(p) for p in done.problems] == [psd.TruncatedError]
    same_parts(obj, NAMES)


@pytest.mark.parametrize("index", range(len(NAMES)))
def test_a_cut_tensor_and_all_behind_it_are_lost(index: int) -> None:
    done, obj = repaired(cut_before(NAMES[index]))
    assert done.kept == tuple(NAMES[:index])
    assert done.lost == tuple(NAMES[index:])
    same_parts(obj, NAMES[:index])


def test_a_pickle_that_is_cut_is_beyond_repair() -> None:
    start, size = starts(DATA)["archive/data.pkl"]
    for end in (start + size - 1, start + 5, 10):
        with pytest.raises(psd.StateDictError):
            repaired(DATA[:end])
    with pytest.raises(psd.ChecksumError):
        repaired(flipped(DATA, start + 30))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_tensor_is_left_out(name: str) -> None:
    done, obj = repaired(flipped(DATA, record_of(name)[0] + 9))
    assert done.lost == (name,)
    assert [type(p) for p in done.problems] == [psd.ChecksumError]
    same_parts(obj, [n for n in NAMES if n != name])


def test_damage_and_loss_at_once() -> None:
    data = flipped(cut_before("c"), record_of("a")[0])
    done, obj = repaired(data)
    assert (done.kept, done.lost) == (("b",), ("a", "c", "more.deep"))
    same_parts(obj, ["b"])


def test_a_damaged_directory() -> None:
    with zipfile.ZipFile(io.BytesIO(DATA)) as archive:
        directory = archive.start_dir
    for at in (directory, directory + 30, directory + 42, len(DATA) - 22):
        data = flipped(DATA, at)
        done, obj = repaired(data)
        assert done.lost == ()
        assert len(done.problems) == 1
        same_parts(obj, NAMES)


def test_damage_in_the_middle_costs_no_more_than_it_hits() -> None:
    """A hole over a record's header: those behind it are found again."""
    start, _ = record_of("b")
    hole = DATA[: start - 48] + bytes(68) + DATA[start + 20 : -300]
    done, obj = repaired(hole)
    assert done.lost == ("b",)
    same_parts(obj, ["a", "c", "more.deep"])


def test_deflated_records_and_known_sizes() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        whole = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(DATA)) as old, zipfile.ZipFile(whole, "w", method) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        done, obj = repaired(whole.getvalue()[:-40])
        assert (done.kept, done.lost) == (tuple(NAMES), ())
        same_parts(obj, NAMES)


def test_tensors_that_stand_elsewhere_become_meta() -> None:
    data = kit.saved({"list": [TENSORS["a"], TENSORS["b"]], "pair": (TENSORS["c"], 1)})
    with psd.open(data) as checkpoint:
        keys = [checkpoint[n].storage for n in ("list.1", "pair.0")]
    for key in keys:
        data = flipped(data, starts(data)[f"archive/data/{key}"][0])
    done, obj = repaired(data)
    assert done.lost == ("list.1", "pair.0")
    kit.same_array(obj["list"][0], TENSORS["a"])
    for info in (obj["list"][1], obj["pair"][0]):
        assert (info.is_meta, info.shape, info.dtype) == (True, (40, 8), "float32")


def test_all_names_of_a_lost_storage_are_lost() -> None:
    base = np.arange(12, dtype="f4")
    data = kit.saved({"w": base, "tied": base.reshape(3, 4), "other": np.ones(3)})
    done, obj = repaired(flipped(data, record_of("w", data)[0]))
    assert done.lost == ("w", "tied")
    assert list(obj) == ["other"]


def test_what_is_made_of_lost_parts_is_lost() -> None:
    sparse = psd.SparseTensor(
        "sparse_coo", (9,), indices=np.array([[1, 2]]), values=np.array([3.5, 4.5])
    )
    scales, zeros = np.array([0.5, 0.25]), np.array([0, 1])
    quantized = psd.QuantizedTensor(
        np.arange(4, dtype="i1").reshape(2, 2), "qint8", scales=scales, zero_points=zeros, axis=0
    )
    data = kit.saved({"s": sparse, "q": quantized, "w": TENSORS["a"]})
    with psd.open(data) as checkpoint:
        keys = [checkpoint["s"].parts["values"].storage]
    at = data.index(scales.tobytes())
    for place in (starts(data)[f"archive/data/{keys[0]}"][0], at):
        data = flipped(data, place)
    done, obj = repaired(data)
    assert done.lost == ("s", "q")
    assert list(obj) == ["w"]


def test_flags_and_unknown_objects_are_kept() -> None:
    body = kit.dict_of(
        {
            "w": kit.parameter(kit.tensor(), False),
            "v": kit.parameter(kit.tensor("1"), True),
            "args": kit.call("my.module", "Options", kit.integer(3)),
        }
    )
    w = np.arange(6, dtype="<f4")
    data = kit.archive(body, {"0": w.tobytes(), "1": (w + 1).tobytes()})
    start, _ = starts(data)["model/data/1"]
    done, obj = repaired(flipped(data, start))
    assert (done.kept, done.lost) == (("w",), ("v",))
    assert obj.info("w").kind == "parameter"
    assert obj["args"].qualified_name == "my.module.Options"


@pytest.mark.parametrize("index", range(3))
def test_a_cut_legacy_stream(index: int) -> None:
    data = kit.legacy(TENSORS)
    size = 8 + 40 * 8 * 4
    end = len(data) - size * (3 - index) + size // 2
    done, obj = repaired(data[:end])
    assert done.kept == tuple(NAMES[:index])
    assert done.lost == tuple(NAMES[index:3])
    for name in NAMES[:index]:
        kit.same_array(obj[name], TENSORS[name])


def test_in_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(cut_before("c"))
    assert psd.repair(path, path).lost == ("c", "more.deep")
    assert psd.verify(path)
    with pytest.raises(FileExistsError):
        psd.repair(path, path, overwrite=False)


def test_code_is_not_repaired() -> None:
    data = kit.archive(kit.dict_of({"w": kit.call("os", "system", kit.text("true"))}))
    with pytest.raises(psd.UnsafePickleError):
        repaired(data[:-30])


def test_nothing_to_repair() -> None:
    for data in (b"", b"PK\x03\x04", b"<!DOCTYPE html>", b"PK\x03\x04" + bytes(100)):
        with pytest.raises(psd.StateDictError):
            repaired(data)


def test_hostile_headers_cost_bounded_work() -> None:
    """Headers by the thousand whose descriptors never come: a few are tried, no more."""
    header = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 8, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    with pytest.raises(psd.StateDictError):
        repaired(header * 40_000)


@pytest.mark.parametrize("seed", range(60))
def test_any_damage_ends_in_a_file_or_an_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(DATA if seed % 3 else kit.legacy(TENSORS))
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(data)))
        if rng.random() < 0.3:
            del data[at : at + int(rng.integers(1, 300))]
        else:
            data[at] ^= 1 << int(rng.integers(0, 8))
    if rng.random() < 0.5:
        del data[int(rng.integers(len(data) // 2, len(data))) :]
    try:
        done, obj = repaired(bytes(data))
    except psd.StateDictError:
        return
    for name in done.kept:
        if seed % 3 and name in TENSORS:  # a legacy stream has no checksums
            kit.same_array(obj[name], TENSORS[name])


# ------------------------------------------------------------------ storages within pickles


@pytest.mark.parametrize("numel", [4000, 200_000_000])
def test_a_stream_within_a_pickle_is_whole_or_nothing(numel: int) -> None:
    """Bytes that are not there must not be taken from whatever lies behind."""
    pid = (kit.text("storage"), kit.named("torch", "FloatStorage"), kit.text("0"), kit.text("cpu"))
    bare = kit.tuple_of(*pid, kit.integer(numel), b"N") + b"Q"
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    stream = b"".join(
        [
            *(pickle.dumps(part, 2) for part in head),
            kit.program(bare),
            pickle.dumps(["0"], 2),
            struct.pack("<q", numel),
        ]
    )
    payload = b"B" + struct.pack("<I", len(stream)) + stream
    over = kit.call("torch.storage", "_load_from_bytes", payload)
    window = (kit.integer(0), kit.sizes((numel,)), kit.sizes((1,)), kit.boolean(False))
    body = kit.call("torch._utils", "_rebuild_tensor_v2", over, *window,
                    kit.call(*kit.ORDERED_DICT))  # fmt: skip
    data = kit.archive(kit.dict_of({"w": body}))
    with pytest.raises(psd.CorruptError):
        psd.load(data)
    with pytest.raises(psd.CorruptError):
        psd.repair(data, io.BytesIO())
    # Nor where another fault has the file opened as one that is damaged.
    with pytest.raises(psd.CorruptError):
        psd.repair(data[:-30], io.BytesIO())


# ------------------------------------------------------------------ other formats


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("source", [".pth", ".safetensors", ".npz"])
def test_the_name_tells_the_new_files_format(
    tmp_path: pathlib.Path, source: str, ending: str
) -> None:
    psd.save(TENSORS, tmp_path / f"old{source}")
    done = psd.repair(tmp_path / f"old{source}", tmp_path / f"new{ending}")
    assert (done.kept, done.lost) == (tuple(TENSORS), ())
    psd.save(psd.load(tmp_path / f"old{source}"), tmp_path / f"same{ending}")
    new, same = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("new", "same"))
    assert new == same


def test_arrays_that_are_no_tensors_are_kept(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "old.npz", tmp_path / "new.npz"
    np.savez(
        path, a=TENSORS["a"], text=np.array(["x" * 40, "y"]), b=TENSORS["b"], more=np.array("z")
    )
    assert psd.repair(path, out).lost == ()
    with np.load(out) as arrays:
        assert list(arrays) == ["a", "text", "b", "more"]
    data = path.read_bytes()
    path.write_bytes(flipped(data, data.index("x".encode("utf-32-le") * 40)))
    done = psd.repair(path, out)
    assert (done.kept, done.lost, len(done.problems)) == (("a", "b"), ("text",), 1)
    with np.load(out) as arrays:
        assert list(arrays) == ["a", "b", "more"]


# ------------------------------------------------------------------ by several threads


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """40 records of a MiB, three of them damaged."""
    path = tmp_path_factory.mktemp("large") / "large.pth"
    psd.save({f"w{i}": np.full(1 << 18, i, "f4") for i in range(40)}, path)
    with psd.open(path) as checkpoint:
        starts = [checkpoint.archive.locate(2 + i) for i in (7, 8, 30)]
    with path.open("r+b") as file:
        for start in starts:
            file.seek(start + 1000)
            file.write(b"!")
    return path


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_first_bad_record_is_told_however_many_look(
    large: pathlib.Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    for _ in range(10):
        with psd.open(large) as checkpoint, pytest.raises(psd.ChecksumError) as caught:
            checkpoint.verify()
        assert caught.value.entry == "archive/data/7"
        report = psd.verify(large)
        assert [error.entry for error in report.problems] == [
            "archive/data/7", "archive/data/8", "archive/data/30",
        ]  # fmt: skip
        assert (report.checked, report.damaged) == (43, ("w7", "w8", "w30"))


def test_an_interrupt_ends_all_that_look(
    large: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from pystatedict import _recordcheck

    class Interrupted:
        """An archive whose sixth record is never told of, for somebody pressed Ctrl-C."""

        def __init__(self) -> None:
            self.main = threading.main_thread()
            self.begun = 0

        def verify(self, index: int) -> bool:
            self.begun += 1
            if index >= 5 and threading.current_thread() is self.main:
                raise KeyboardInterrupt
            return True

    archive: Any = Interrupted()
    checks = _recordcheck._Checks(archive, 10_000_000, all=True)
    with pytest.raises(KeyboardInterrupt):
        checks.run(4)
    assert archive.begun < 10_000_000
    assert not any("_work" in thread.name for thread in threading.enumerate())


def test_where_no_thread_is_to_be_had_one_does_it_all(
    large: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert psd.verify(large).damaged == ("w7", "w8", "w30")
