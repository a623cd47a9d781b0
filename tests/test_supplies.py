# SPDX-License-Identifier: Apache-2.0
"""save() of tensors that are not in memory: of other files, and computed ones."""

from __future__ import annotations

import io
import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _flat, _lazy, _reduce, _stored
from pystatedict._lazy import LazyTensor
from pystatedict._opening import open_checkpoint

RNG = np.random.default_rng(7)
LARGE = RNG.standard_normal((700, 999)).astype("f4")  # several pieces, and a part of one
WHOLE = np.arange(24, dtype="f4").reshape(4, 6)


def state_dict() -> dict[str, Any]:
    import ml_dtypes

    return {
        "large": LARGE,
        "whole": WHOLE,
        "rows": WHOLE[1:3],
        "turned": WHOLE.T,
        "columns": WHOLE[:, 2:4],
        "again": WHOLE,
        "ints": WHOLE.view("i4")[1],
        "bytes": WHOLE.view("u1")[2, 3:17],
        "scalar": np.array(3, "i8"),
        "empty": np.zeros((0, 3), "f2"),
        "brain": np.arange(7).astype(ml_dtypes.bfloat16),
        "bools": np.array([True, False, True]),
        "pairs": np.array([1 + 2j, 3], "c8"),
    }


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    psd.save(state_dict(), tmp_path / "in.pth")
    return tmp_path / "in.pth"


WAYS: dict[str, Callable[[pathlib.Path], Any]] = {
    "map": psd.open,
    "read": lambda path: open_checkpoint(str(path), None, access="read"),
    "bytes": lambda path: psd.open(path.read_bytes()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_a_file_copied_is_what_its_arrays_give(path: pathlib.Path, way: str, format: Any) -> None:
    """Byte for byte, ties and views too."""
    infos, arrays = dict(WAYS[way](path)), psd.load(path)
    if format == "legacy":  # which has no storages of several dtypes
        for name in ("ints", "bytes"):
            del infos[name], arrays[name]
    assert kit.saved(infos, format=format) == kit.saved(dict(arrays), format=format)


def test_views_share_what_they_shared(path: pathlib.Path) -> None:
    found = kit.reloaded(dict(psd.open(path)))
    for name, array in state_dict().items():
        kit.same_array(array, found[name])
    for name in ("rows", "turned", "columns", "again", "ints", "bytes"):
        assert np.shares_memory(found["whole"], found[name])
    found["again"][1, 2] = -1
    assert found["columns"][1, 0] == -1


def test_a_view_by_itself_leaves_the_rest_behind(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save({"all": LARGE, "row": LARGE[3]}, path)
    data = kit.saved({"row": psd.open(path)["row"]})
    assert len(data) < LARGE[3].nbytes + 3000
    kit.same_array(LARGE[3], psd.load(data)["row"])


def test_what_is_stored_in_another_way_comes_as_it_is(tmp_path: pathlib.Path) -> None:
    """Conjugated views, sparse and quantized tensors, and attributes of tensors."""
    torch = pytest.importorskip("torch")
    path, out = tmp_path / "m.pth", tmp_path / "out.pth"
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.note = "kept"
    made = {
        "conj": torch.tensor([1 + 2j]).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "nested": [torch.ones(2), {"x": torch.zeros(3)}],
        "parameter": parameter,
        "buffer": torch.nn.Buffer(torch.zeros(2)),
    }
    torch.save(made, path)
    psd.save(psd.load(path, map_location="meta"), out)
    found = torch.load(out)
    assert torch.equal(found["conj"], made["conj"])
    assert torch.equal(found["sparse"].to_dense(), torch.eye(3))
    assert torch.equal(found["nested"][1]["x"], torch.zeros(3))
    assert isinstance(found["parameter"], torch.nn.Parameter)
    assert found["parameter"].note == "kept"


def test_deflated_records_are_inflated_once(
    path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for row in old.infolist():
            new.writestr(row.filename, old.read(row))
    inflated = []
    real = _stored.Stored._piece

    def piece(self: Any, offset: int, size: int) -> Any:
        inflated.append(self._kept is None)
        return real(self, offset, size)

    monkeypatch.setattr(_stored.Stored, "_piece", piece)
    assert kit.saved(dict(psd.open(packed))) == kit.saved(dict(psd.load(packed)))
    pieces = -(-LARGE.nbytes // (512 << 10))
    assert pieces > 3
    assert inflated[:pieces] == [True] + [False] * (pieces - 1)


@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_damage_is_found_on_the_way(path: pathlib.Path, at: str, tmp_path: pathlib.Path) -> None:
    """And the file that stood there survives."""
    data = bytearray(path.read_bytes())
    start = data.index(LARGE.tobytes())
    data[start + {"first": 0, "middle": LARGE.nbytes // 2, "last": LARGE.nbytes - 1}[at]] ^= 4
    path.write_bytes(data)
    out = tmp_path / "out.pth"
    out.write_bytes(b"old")
    with psd.open(path) as checkpoint, pytest.raises(psd.ChecksumError) as caught:
        psd.save(checkpoint, out)
    assert caught.value.entry == "archive/data/0"
    assert caught.value.path == str(path)
    assert caught.value.stored != caught.value.computed
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pth", "out.pth"]


def test_a_file_that_ends_early(path: pathlib.Path) -> None:
    checkpoint = open_checkpoint(str(path), None, access="read")
    os.truncate(path, 5000)
    with pytest.raises(psd.TruncatedError):
        kit.saved(dict(checkpoint))


def test_over_the_file_itself(path: pathlib.Path) -> None:
    before = psd.load(path, copy=True)
    psd.save(open_checkpoint(str(path), None, access="read"), path)
    for name, array in psd.load(path).items():
        kit.same_array(before[name], array)


def test_a_closed_checkpoint_has_nothing_to_give(path: pathlib.Path) -> None:
    with psd.open(path) as checkpoint:
        infos = dict(checkpoint)
    with pytest.raises(psd.ClosedError):
        kit.saved(infos)


@pytest.mark.parametrize("format", ["zip", "legacy", "safetensors", "npz"])
def test_lazy_tensors(format: Any) -> None:
    reads: list[tuple[int, int]] = []

    def read(start: int, count: int) -> Any:
        reads.append((start, count))
        return LARGE.reshape(-1)[start : start + count] * np.float32(2)

    lazy = LazyTensor(LARGE.shape, "float32", read)
    data = kit.saved({"a": lazy, "array": WHOLE, "b": lazy}, format=format)
    found = psd.load(data)
    kit.same_array(LARGE * np.float32(2), found["a"])
    kit.same_array(WHOLE, found["array"])
    kit.same_array(found["a"], found["b"])
    if format in ("zip", "legacy"):
        assert np.shares_memory(found["a"], found["b"])
        assert sum(count for _, count in reads) == LARGE.size  # once, though it has two names
        assert [start for start, _ in reads] == [*np.cumsum([0] + [n for _, n in reads])[:-1]]
        assert max(count for _, count in reads) * 4 <= 512 << 10


def test_lazy_tensors_tell_what_arrays_do() -> None:
    lazy = LazyTensor((2, 0, 3), "bfloat16", lambda start, count: np.zeros(count))
    assert (lazy.ndim, lazy.numel, lazy.itemsize, lazy.nbytes) == (3, 0, 2, 0)
    assert lazy.stride == (3, 3, 1)
    assert lazy.numpy().shape == (2, 0, 3)
    row = LazyTensor(
        (3,), "int16", lambda start, count: np.arange(start, start + count, dtype="i2")
    )
    assert np.asarray(row, dtype="f8").tolist() == [0, 1, 2]
    assert row[1:].tolist() == [1, 2]
    assert repr(row) == "LazyTensor(shape=(3,), dtype='int16')"
    for start, count in ((-1, 1), (0, 4), (3, 1), (0, -1)):
        with pytest.raises(IndexError):
            row.read(start, count)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(row, copy=False) if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else (
            row.__array__(copy=False)
        )


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda start, count: np.zeros(count - 1, "f4"), ValueError),
        (lambda start, count: np.zeros((1, count), "f4"), ValueError),
        (lambda start, count: np.zeros(count, "f8"), ValueError),
        (lambda start, count: 1 / 0, ZeroDivisionError),
        (lambda start, count: (_ for _ in ()).throw(KeyboardInterrupt), KeyboardInterrupt),
    ],
)
def test_a_lazy_tensor_that_fails(
    read: Any, kind: type[BaseException], tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out.pth"
    out.write_bytes(b"old")
    with pytest.raises(kind):
        psd.save({"a": WHOLE, "w": LazyTensor((5,), "float32", read)}, out)
    assert out.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.pth"]


class Larder:
    """A supply that gives what it is told to."""

    nbytes = 40

    def __init__(self, given: Any) -> None:
        self.given = given

    def read(self, offset: int, size: int) -> Any:
        return self.given(offset, size)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (lambda offset, size: bytes(size - 1), ValueError),
        (lambda offset, size: bytes(size + 1), ValueError),
        (lambda offset, size: None, TypeError),
        (lambda offset, size: "x" * size, TypeError),
    ],
)
def test_a_supply_that_gives_other_than_was_asked(
    given: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reduce, "Computed", lambda lazy: Larder(given))
    with pytest.raises(kind):
        kit.saved({"w": LazyTensor((10,), "float32", lambda start, count: np.zeros(count, "f4"))})


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "words"),
    [
        ((11,), (1,), 0, "beyond"),
        ((10,), (1,), 1, "beyond"),
        ((2,), (1 << 62,), 0, "beyond"),
        ((1 << 40, 1 << 40), (1, 1), 0, "overflows"),
        ((-1,), (1,), 0, "negative"),
        ((10,), (-1,), 0, "negative"),
        ((10,), (1,), -1, "negative"),
        ((10,), (), 0, "as many numbers"),
        ((1,) * 65, (1,) * 65, 0, "64"),
    ],
)
def test_a_window_that_is_none(
    shape: Any, stride: Any, offset: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _stored.supplied(Larder(None), "float32", 0, shape, stride, offset)
    monkeypatch.setattr(_reduce.Reducer, "_lazy", lambda self, lazy: told)
    lazy = LazyTensor((10,), "float32", lambda start, count: np.zeros(count, "f4"))
    with pytest.raises((ValueError, TypeError), match=words):
        kit.saved({"w": lazy})


COPYING = """
import re, sys
import numpy, ml_dtypes
import pystatedict as psd
from pystatedict import ops

def most():  # ru_maxrss would begin with that of the process that started this one
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])

psd.save(ops.cast({"w": numpy.zeros(3)}, "bfloat16"), sys.argv[2])
before = most()
psd.save(eval(sys.argv[3])(sys.argv[1]), sys.argv[2])
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="told by /proc")
@pytest.mark.parametrize(
    "what",
    ["ops.open", "ops.strip_prefix", "lambda f: ops.cast(f, 'bfloat16')", "lambda f: ops.merge(f)"],
)
def test_a_change_holds_no_tensor(what: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.pth"
    psd.save({"module.a": np.zeros(12 << 20, "f4"), "module.b": np.zeros(12 << 20, "f4")}, path)
    done = subprocess.run(
        [sys.executable, "-c", COPYING, str(path), str(tmp_path / "out.pth"), what],
        env=kit.letting_go(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 24 << 10  # KiB; a tensor has 48 MiB


def test_stretches_of_all_kinds(path: pathlib.Path) -> None:
    """Flat gives the same elements of an array, of a file, and of what is computed."""
    for name, array in state_dict().items():
        row = np.ascontiguousarray(array).reshape(-1)
        lazy = LazyTensor(
            array.shape,
            psd.open(path)[name].dtype,
            lambda start, count, row=row: row[start:][:count],
        )
        for value in (
            array,
            psd.open(path)[name],
            lazy,
            array[::-1][::-1] if array.ndim else array,
        ):
            flat = _flat.Flat(value)
            assert (flat.shape, flat.numel) == (array.shape, array.size)
            for count in (1, 7, max(array.size, 1)):
                parts = [
                    np.array(flat.read(start, min(count, array.size - start)))
                    for start in range(0, array.size, count)
                ]
                found = np.concatenate(parts) if parts else np.zeros(0, array.dtype)
                kit.same_array(row, found)
            with pytest.raises(IndexError):
                flat.read(0, array.size + 1)


def test_bytes_that_are_no_bools_are_true(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    data = bytearray(kit.saved({"b": np.array([True, False] * 3)}, checksum=False))
    at = data.index(b"\1\0\1\0\1\0")
    data[at] = 7
    path.write_bytes(data)
    assert _flat.Flat(psd.open(path)["b"]).read(0, 2).tolist() == [True, False]


@pytest.mark.parametrize("value", [3, "x", None, [1], {"a": 1}])
def test_what_is_no_tensor(value: Any) -> None:
    with pytest.raises(TypeError, match="no tensor"):
        _flat.Flat(value)


def test_computed_is_asked_for_whole_elements() -> None:
    lazy = LazyTensor(
        (4,), "int16", lambda start, count: np.arange(start, start + count, dtype="<i2")
    )
    assert bytes(_lazy.Computed(lazy).read(2, 4)) == b"\1\0\2\0"


@pytest.mark.parametrize("format", ["zip", "legacy", "safetensors", "npz"])
def test_progress_tells_of_every_byte(format: Any, tmp_path: pathlib.Path) -> None:
    told: list[int] = []
    psd.save({"w": LARGE, "b": WHOLE}, tmp_path / "m", format=format, progress=told.append)
    assert sum(told) == (tmp_path / "m").stat().st_size
    assert len(told) > 1
    told.clear()
    psd.save({"w": LARGE}, io.BytesIO(), format=format, progress=told.append)
    assert sum(told) > LARGE.nbytes
