# SPDX-License-Identifier: Apache-2.0
"""What is taken for a file's bytes and for its path, and how errors name it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pathlib
import pickle
import struct
import tempfile
import zipfile
import zlib
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _core, _files, _targets

W = np.arange(6, dtype="<f4").reshape(2, 3)
DATA = kit.saved({"w": W})


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "m.pth"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_files_that_unpack_while_they_are_read(module: Any, tmp_path: pathlib.Path) -> None:
    """They have a descriptor, and its bytes are not theirs."""
    path = tmp_path / "m.pth.packed"
    with module.open(path, "wb") as file:
        file.write(b"before" + DATA)
    with module.open(path, "rb") as file:
        file.seek(6)
        kit.same_array(psd.load(file)["w"], W)
    with module.open(path, "rb") as file:
        file.seek(6)
        assert psd.open(file).path is None


def test_members_of_archives_have_no_path(tmp_path: pathlib.Path, path: pathlib.Path) -> None:
    psd.save_trainable(path, {"w": True})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.write(path, str(path)[1:])
    with zipfile.ZipFile(tmp_path / "a.zip") as packed, packed.open(str(path)[1:]) as member:
        sd = psd.load(member)
    assert sd.source is None
    assert sd.trainable["w"] is None


def test_a_name_alone_is_no_path(path: pathlib.Path) -> None:
    psd.save_trainable(path, {"w": True})
    file = io.BytesIO(DATA)
    file.name = str(path)
    sd = psd.load(file)
    assert (sd.source, sd.trainable["w"]) == (None, None)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(psd.open(file)["w"])


def test_open_files_know_their_path(path: pathlib.Path) -> None:
    psd.save_trainable(path, {"w": True})
    for mode in ({}, {"buffering": 0}):
        with open(path, "rb", **mode) as file:
            sd = psd.load(file)
            assert (sd.source, sd.trainable["w"]) == (str(path), True)
    with open(path, "r+b") as file:
        assert psd.open(file).path == str(path)
    with tempfile.NamedTemporaryFile() as file:
        file.write(DATA)
        file.flush()
        file.seek(0)
        assert psd.open(file).path == file.name


def test_a_file_that_was_replaced_or_deleted_has_no_path(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        os.replace(path, path.with_name("moved.pth"))
        assert psd.open(file).path is None
        kit.same_array(psd.load(file)["w"], W)
        path.write_bytes(kit.saved({"other": W}))
        assert psd.open(file).path is None


def test_a_descriptor_is_no_path(path: pathlib.Path) -> None:
    with open(os.open(path, os.O_RDONLY), "rb") as file:
        assert psd.open(file).path is None
        assert list(psd.load(file)) == ["w"]


# ------------------------------------------------------------------ infos for other processes


def test_infos_travel(path: pathlib.Path) -> None:
    info = pickle.loads(pickle.dumps(psd.open(path)["w"]))
    kit.same_array(info.numpy(), W)
    path.write_bytes(b"in front" + DATA)
    with open(path, "rb") as file:
        file.seek(8)
        text = pickle.dumps(psd.open(file)["w"])
    kit.same_array(pickle.loads(text).numpy(), W)


@pytest.mark.parametrize("when", ["before pickling", "after pickling"])
def test_infos_of_a_file_that_changed(when: str, path: pathlib.Path) -> None:
    info = psd.open(path)["w"]
    text = pickle.dumps(info)
    other = path.with_name("other.pth")
    # Another tensor of the same size, and the old time of change.
    other.write_bytes(kit.saved({"v": W + 1}))
    os.utime(other, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    os.replace(other, path)
    if when == "before pickling":
        text = pickle.dumps(info)
    with pytest.raises(psd.CorruptError) as caught:
        pickle.loads(text)
    assert caught.value.code == "file-changed"
    assert caught.value.path == str(path)


# ------------------------------------------------------------------ errors name the file


def test_errors_after_closing_name_the_file(path: pathlib.Path) -> None:
    with psd.open(path) as checkpoint:
        info = checkpoint["w"]
    with pytest.raises(psd.ClosedError) as caught:
        info.numpy()
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_errors_of_names_and_options_name_the_file(path: pathlib.Path) -> None:
    sd = psd.load(path)
    for ask in (
        lambda: sd.info("x"),
        lambda: sd.trainable["x"],
        lambda: sd.trainable.__setitem__("x", True),
        lambda: psd.open(path)["x"],
        lambda: psd.load(path, root="x"),
        lambda: psd.load(path, map_location="cuda"),
        lambda: psd.load(path, weights_only=False),
    ):
        with pytest.raises(psd.StateDictError) as caught:
            ask()
        assert caught.value.path == str(path)


@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_missing_folder_is_said_of_the_path_that_was_given(
    suffix: str, tmp_path: pathlib.Path
) -> None:
    target = str(tmp_path / "missing" / "m.pth") + suffix
    with pytest.raises(OSError) as caught:
        psd.save({"w": W}, target)
    assert caught.value.filename == target
    assert ".part" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_target(tmp_path: pathlib.Path, path: pathlib.Path) -> None:
    for target in (str(tmp_path), str(tmp_path) + "/", str(tmp_path / "new") + "/"):
        with pytest.raises(IsADirectoryError):
            psd.save({"w": W}, target)
    with pytest.raises(NotADirectoryError):
        psd.save({"w": W}, path / "below.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


# ------------------------------------------------------------------ positions


@pytest.mark.parametrize("how", ["file", "bytes", "gzip"])
def test_streams_one_after_another(how: str, tmp_path: pathlib.Path) -> None:
    """As with torch: each load leaves the file behind what it has read."""
    path = tmp_path / "several"
    parts = [kit.legacy({"w": W + i}) for i in range(3)]
    opener: Any = gzip.open if how == "gzip" else open
    with opener(path, "wb") as out:
        out.write(b"".join(parts) + b"behind")
    file = io.BytesIO(path.read_bytes()) if how == "bytes" else opener(path, "rb")
    with file:
        for i in range(3):
            kit.same_array(psd.load(file)["w"], W + i)
        assert file.read() == b"behind"


def test_a_zip_leaves_the_position(path: pathlib.Path) -> None:
    for file in (path.open("rb"), io.BytesIO(DATA)):
        with file:
            for _ in range(2):
                kit.same_array(psd.load(file)["w"], W)
            assert file.tell() == 0


# ------------------------------------------------------------------ windows of sources


@pytest.mark.parametrize("access", ["map", "copy", "read"])
def test_windows_are_cut_to_the_bytes_that_are_there(tmp_path: pathlib.Path, access: Any) -> None:
    """Whatever numbers a file tells: none wraps, none raises."""
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    source, _ = _files.open_source(path, access)
    far = (10, 11, 1 << 62, 1 << 63, 1 << 64, (1 << 64) + 3, 1 << 200, -1, -(1 << 64))
    for start in far:
        assert source.read(start, 5) == b""
        assert source.slice(start, 5).size == 0
    for size in (7, 8, 1 << 63, 1 << 64, (1 << 64) + 2, 1 << 200):
        assert source.read(3, size) == b"3456789"
        assert source.slice(3, size).slice(1, size).read(0, size) == b"456789"
    for size in (0, -1, -(1 << 64)):
        assert source.read(3, size) == b""
    for wrong in ((), (1,), ("a", 1), (1, None)):
        for call in (source.read, source.slice):
            with pytest.raises(TypeError):
                call(*wrong)


# ------------------------------------------------------------------ files into memory

BLOCK = _core.CRC_BLOCK
LARGE = np.random.default_rng(3).integers(0, 256, 70 * BLOCK + 99, "u1").tobytes()

needs_pread = pytest.mark.skipif(os.name == "nt", reason="Windows has no pread")


@needs_pread
@pytest.mark.parametrize("start", [0, 1, BLOCK, 65 * BLOCK + 7])
@pytest.mark.parametrize("cut", [0, 1, 98, 99, 100, 3 * BLOCK])
def test_bytes_and_the_checksum_of_each_block(tmp_path: pathlib.Path, start: int, cut: int) -> None:
    """As the file has them, from a position that stays; also of one shorter than it was."""
    path = tmp_path / "large"
    path.write_bytes(LARGE[: len(LARGE) - cut])
    expected = LARGE[start : len(LARGE) - cut]
    with path.open("rb") as file:
        file.seek(5)
        for crcs in (None, bytearray(b"?" * (len(LARGE) // BLOCK * 4 + 4))):
            into = bytearray(len(LARGE) - start)
            assert _core.read_file(into, file.fileno(), start, *([crcs] if crcs else [])) == len(
                expected
            )
            assert into.startswith(expected)
            assert not any(into[len(expected) :])
        assert file.tell() == 5
    assert crcs is not None
    whole = len(expected) // BLOCK
    found = struct.unpack(f"={whole}I", crcs[: 4 * whole])
    assert list(found) == [zlib.crc32(expected[i * BLOCK : (i + 1) * BLOCK]) for i in range(whole)]
    assert set(crcs[4 * whole :]) == {ord("?")}


@needs_pread
def test_checksums_need_room_where_numbers_can_stand(path: pathlib.Path) -> None:
    into = bytearray(3 * BLOCK)
    twelve = memoryview(bytearray(16))
    with path.open("rb") as file:
        for room in (bytearray(11), twelve[1:13]):
            with pytest.raises(ValueError, match="room"):
                _core.read_file(into, file.fileno(), 0, room)
            with pytest.raises(ValueError, match="as many checksums"):
                _core.Source(into, crcs=room)
        with pytest.raises(TypeError):
            _core.read_file(into, file.fileno(), 0, bytes(12))  # cannot be written to
        with pytest.raises(TypeError):
            _core.read_file(b"abc", file.fileno(), 0)
    with pytest.raises(OSError, match="descriptor"):
        _core.read_file(into, -1, 0)


@needs_pread
def test_checksums_are_believed_until_settled(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(kit.saved({"w": np.frombuffer(LARGE, "u1")}))
    source, _ = _files.open_source(str(path), "summed")
    assert source.summed
    assert not _files.open_source(str(path), "copy")[0].summed
    archive = _core.open_archive(source)
    record = next(i for i, row in enumerate(archive.records()) if row[0].endswith("data/0"))
    where = archive.locate(record)
    assert where is not None
    assert archive.verify(record)
    memoryview(source)[where + 9 * BLOCK] ^= 1  # within a block whose checksum is known
    assert archive.verify(record)
    source.settle()
    assert not source.summed
    with pytest.raises(psd.CorruptError, match="checksum"):
        archive.verify(record)


@pytest.mark.parametrize("summed", [True, False])
def test_damage_is_seen_wherever_it_is(tmp_path: pathlib.Path, summed: bool) -> None:
    """At the edges of a record, of blocks, and within them."""
    path = tmp_path / "m.pth"
    data = kit.saved({"w": np.frombuffer(LARGE, "u1"), "v": W})
    first = data.index(LARGE)
    edge = -first % BLOCK
    for at in (0, edge - 1, edge, edge + 1, edge + BLOCK, edge + 40 * BLOCK - 1, len(LARGE) - 1):
        broken = bytearray(data)
        broken[first + at] ^= 0x40
        path.write_bytes(broken)
        with pytest.raises(psd.CorruptError, match="checksum"):
            psd.load(path, mmap=not summed, verify=True)
    path.write_bytes(data)
    sd = psd.load(path, mmap=not summed, verify=True)
    assert sd["w"].tobytes() == LARGE
    sd["w"][:] = 0  # of its own memory, and nobody checks it any more
    assert path.read_bytes() == data


# ------------------------------------------------------------------ ahead of the sync


def test_the_disk_begins_while_the_rest_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is told of once, in order, and a file of fewer than that is not."""
    told: list[tuple[int, int]] = []

    class Core:
        @staticmethod
        def begin_writeback(fd: int, start: int, size: int) -> None:
            assert os.fstat(fd).st_size == start + size
            told.append((start, size))

    if os.name == "nt":
        pytest.skip("Windows has no such call")
    monkeypatch.setattr(_targets, "_BEHIND", 1 << 20)
    monkeypatch.setattr(_targets, "_core", Core)
    psd.save({"w": W}, tmp_path / "small.pth")
    assert told == []
    big = {f"w{i}": np.full(150_000, i, "<f4") for i in range(9)}
    psd.save(big, tmp_path / "big.pth")
    assert [start for start, _ in told] == [0, *np.cumsum([size for _, size in told])[:-1]]
    assert all(1 << 20 <= size < 2 << 20 for _, size in told)
    assert len(told) >= 3
    kit.same_array(psd.load(tmp_path / "big.pth", verify=True)["w8"], big["w8"])


@needs_pread
def test_what_cannot_be_begun_is_left_to_the_sync() -> None:
    _core.begin_writeback(-1, 0, 1)
    reads, writes = os.pipe()
    _core.begin_writeback(writes, 0, 1 << 20)
    os.close(reads)
    os.close(writes)
