# SPDX-License-Identifier: Apache-2.0
"""No array outlives its bytes, and no bytes outlive their arrays.

Whatever happens to the checkpoint, the map, the file or the object the bytes came from:
an array that was given stays as it was, and what nobody needs any more is let go.
"""

from __future__ import annotations

import array
import gc
import io
import mmap
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from isolated import run

import pystatedict as psd
from pystatedict import _core, _values

W = np.arange(6000, dtype=np.float32).reshape(60, 100)
B = np.arange(50, dtype=np.int64)

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    psd.save({"w": W, "b": B, "tied": W[10:]}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def rezip(path: pathlib.Path, target: pathlib.Path, **changed: bytes) -> None:
    source = path.with_suffix(".old")
    source.write_bytes(path.read_bytes())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name.partition("/")[2], old.read(name)))


def maps_of(path: pathlib.Path) -> int:
    """How many maps of the file this process has."""
    lines = pathlib.Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sum(str(path) in line for line in lines)


def descriptors_of(path: pathlib.Path) -> int:
    found = 0
    for fd in pathlib.Path("/proc/self/fd").iterdir():
        try:
            found += str(path) in os.readlink(fd)
        except FileNotFoundError:
            continue  # the listing's own
    return found


def check(arrays: Any) -> None:
    """All elements are there, and stay so when memory is taken anew."""
    noise = [bytearray(b"\xaa") * W.nbytes for _ in range(8)]
    assert np.array_equal(arrays["w"], W)
    assert np.array_equal(arrays["b"], B)
    assert np.array_equal(arrays["tied"], W[10:])
    del noise


def root_of(a: np.ndarray) -> Any:
    """What owns an array's memory in the end."""
    while isinstance(a, np.ndarray) and a.base is not None:
        a = a.base
    return a


# ------------------------------------------------------------------ closing


def test_arrays_stay_when_the_checkpoint_is_closed(path: pathlib.Path) -> None:
    with psd.open(path) as checkpoint:
        arrays = {name: info.numpy() for name, info in checkpoint.items()}
    assert checkpoint.closed
    check(arrays)
    del checkpoint
    gc.collect()
    check(arrays)


def test_a_closed_checkpoint_gives_no_new_arrays(path: pathlib.Path) -> None:
    checkpoint = psd.open(path)
    info = checkpoint["w"]
    checkpoint.close()
    checkpoint.close()
    for call in (
        info.numpy,
        lambda: np.asarray(info),
        lambda: info[0],
        lambda: checkpoint.archive.load(0, _values),
        lambda: checkpoint.archive.read(0),
        lambda: checkpoint.archive.crc32(0),
        checkpoint.verify,
        checkpoint.__enter__,
    ):
        with pytest.raises(psd.ClosedError):
            call()
    # What was read into memory of its own stays.
    assert list(checkpoint) == ["w", "b", "tied"]
    assert (info.shape, info.device, info.storage) == ((60, 100), "cpu", "0")
    assert checkpoint.records()
    assert repr(checkpoint).endswith("closed>")


def test_a_handle_outlives_its_checkpoint(path: pathlib.Path) -> None:
    info = psd.open(path)["w"]
    gc.collect()
    assert np.array_equal(info.numpy(), W)


def test_the_map_cannot_be_closed_under_an_array(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    arrays = psd.load(mapped)
    with pytest.raises(BufferError):
        mapped.close()
    check(arrays)
    kept = arrays.pop("b")
    del arrays
    with pytest.raises(BufferError):
        mapped.close()
    assert np.array_equal(kept, B)
    del kept
    gc.collect()
    mapped.close()


def test_the_map_inside_cannot_be_closed_either(path: pathlib.Path) -> None:
    arrays = psd.load(path)
    source = root_of(arrays["w"])
    assert type(source) is _core.Source
    public = {name for name in dir(source) if not name.startswith("_")}
    # None of them lets go: settle() is of the file beside the map, while it is loaded.
    assert public == {"of_file", "read", "readonly", "settle", "size", "slice", "summed"}
    source.settle()
    view = memoryview(source)
    assert view.nbytes == source.size == path.stat().st_size
    view.release()
    check(arrays)


def test_a_view_of_the_source_cannot_let_go_for_it(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    source = _core.Source(data)
    view = memoryview(source)
    view.release()
    with pytest.raises(BufferError):
        data.append(0)
    with pytest.raises(TypeError):
        type("Mine", (_core.Source,), {})
    with pytest.raises((TypeError, AttributeError)):
        source.size = 3  # type: ignore[misc]


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_object_may_be_closed(path: pathlib.Path, buffering: int) -> None:
    with open(path, "rb", buffering=buffering) as file:
        arrays = psd.load(file)
        assert not file.closed
    check(arrays)


def test_a_file_object_counts_from_its_position(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "offset.bin"
    other.write_bytes(b"x" * 5000 + path.read_bytes())
    with open(other, "rb") as file:
        file.seek(5000)
        arrays = psd.load(file)
        assert file.tell() == 5000
    check(arrays)


def test_a_stream_is_read_once(path: pathlib.Path) -> None:
    stream = io.BytesIO(path.read_bytes())
    arrays = psd.load(stream)
    stream.seek(0)
    stream.truncate()
    stream.close()
    check(arrays)


# ------------------------------------------------------------------ letting go


@linux
def test_the_map_goes_with_the_last_array(path: pathlib.Path) -> None:
    arrays = psd.load(path)
    assert maps_of(path) >= 1
    part = arrays["w"][::2, 3]
    del arrays
    gc.collect()
    assert maps_of(path) >= 1
    assert np.array_equal(part, W[::2, 3])
    del part
    gc.collect()
    assert maps_of(path) == 0
    assert descriptors_of(path) == 0


@linux
def test_no_collector_is_needed(path: pathlib.Path) -> None:
    gc.disable()
    try:
        arrays = psd.load(path)
        with psd.open(path) as checkpoint:
            picked = checkpoint["b"].numpy()
        assert maps_of(path) >= 1
        del arrays, checkpoint, picked
        assert maps_of(path) == 0
    finally:
        gc.enable()


@linux
def test_a_closed_checkpoint_lets_go(path: pathlib.Path) -> None:
    checkpoint = psd.open(path)
    list(checkpoint)
    checkpoint.close()
    assert maps_of(path) == 0
    assert descriptors_of(path) == 0


@linux
@pytest.mark.parametrize("damage", ["half", "broken", "unsafe", "foreign"])
def test_what_is_refused_is_let_go(path: pathlib.Path, damage: str) -> None:
    whole = path.read_bytes()
    if damage == "half":
        path.write_bytes(whole[:-100])
    elif damage == "broken":
        path.write_bytes(whole.replace(b"ctorch._utils\n", b"ctorch._utilx\n"))
    elif damage == "unsafe":
        rezip(path, path, **{"data.pkl": b"\x80\x02cos\nsystem\nU\x02ls\x85R."})
    else:
        path.write_bytes(b"nothing of the kind" * 1000)
    for call in (psd.load, psd.open):
        try:
            call(path)
        except psd.StateDictError:
            pass
    gc.collect()
    assert maps_of(path) == 0
    assert descriptors_of(path) == 0


@linux
@pytest.mark.parametrize("deflated", [False, True])
def test_a_copy_lets_the_file_go(path: pathlib.Path, deflated: bool) -> None:
    if deflated:
        rezip(path, path)
    arrays = psd.load(path, copy=True)
    assert maps_of(path) == 0
    assert descriptors_of(path) == 0
    path.write_bytes(b"\0" * path.stat().st_size)
    check(arrays)
    # Still one storage, and no more is held than that storage.
    assert np.shares_memory(arrays["w"], arrays["tied"])
    assert not np.shares_memory(arrays["w"], arrays["b"])
    arrays["w"][20, 0] = -1
    assert arrays["tied"][10, 0] == -1
    assert root_of(arrays["b"]).size == B.nbytes
    assert arrays["w"].flags.writeable


@linux
def test_read_instead_of_mapped(path: pathlib.Path) -> None:
    arrays = psd.load(path, mmap=False)
    assert maps_of(path) == 0
    assert descriptors_of(path) == 0
    path.write_bytes(b"\0" * path.stat().st_size)
    check(arrays)


@pytest.mark.parametrize("kind", ["deflated", "big"])
def test_bytes_made_on_loading_live_as_long_as_their_arrays(path: pathlib.Path, kind: str) -> None:
    other = path.with_name(kind + ".pth")
    rezip(path, other, **({"byteorder": b"big"} if kind == "big" else {}))
    arrays = psd.load(other)
    expected = W.byteswap().view(W.dtype) if kind == "big" else W
    tied = arrays.pop("tied")
    del arrays
    gc.collect()
    noise = [bytearray(b"\xaa") * W.nbytes for _ in range(8)]
    assert tied.tobytes() == expected[10:].tobytes()
    assert len(noise) == 8


# ------------------------------------------------------------------ deriving and deleting


DERIVED: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda a: a[3:40:5, ::-1],
    lambda a: a.T,
    lambda a: a.reshape(-1)[17:],
    lambda a: a.view(np.uint8)[:, ::4],
    lambda a: a[None, 4],
    lambda a: np.broadcast_to(a[0], (5, 100)),
    lambda a: np.asarray(memoryview(a)[2:9]),
    lambda a: np.lib.stride_tricks.as_strided(a, (5, 5), (400, 4)),
    lambda a: a.real,
    lambda a: np.frombuffer(a.data, np.uint8),
    lambda a: next(a.flat.__array__() for _ in (0,)),
]


@pytest.mark.parametrize("derive", DERIVED)
@pytest.mark.parametrize("copy", [False, True])
def test_what_is_derived_keeps_the_bytes(
    path: pathlib.Path, derive: Callable[[np.ndarray], np.ndarray], copy: bool
) -> None:
    arrays = psd.load(path, copy=copy)
    part = derive(arrays["w"])
    del arrays
    gc.collect()
    noise = [bytearray(b"\xaa") * W.nbytes for _ in range(8)]
    assert part.tobytes() == derive(W).tobytes()
    assert len(noise) == 8


def test_each_array_alone_is_enough(path: pathlib.Path) -> None:
    for name in ("w", "b", "tied"):
        kept = psd.load(path)[name]
        gc.collect()
        assert np.array_equal(kept, {"w": W, "b": B, "tied": W[10:]}[name])


def test_deleting_an_entry_leaves_the_others(path: pathlib.Path) -> None:
    arrays = psd.load(path)
    del arrays["w"]
    gc.collect()
    assert np.array_equal(arrays["tied"], W[10:])
    arrays.clear()
    gc.collect()
    assert arrays.source == str(path)


def test_iterating_without_keeping(path: pathlib.Path) -> None:
    sums = [float(a.sum()) for _, a in psd.items(path)]
    assert sums == [float(W.sum()), float(B.sum()), float(W[10:].sum())]


def test_empty_arrays_hold_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save({"e": np.zeros((0, 3), np.float32), "s": np.float64(2.5).reshape(())}, path)
    arrays = psd.load(path)
    assert arrays["e"].shape == (0, 3)
    assert arrays["s"] == 2.5
    empty = arrays.pop("e")
    del arrays
    gc.collect()
    assert empty.tolist() == []
    if sys.platform == "linux":
        assert maps_of(path) == 0


# ------------------------------------------------------------------ sources in memory


@pytest.mark.parametrize("make", [bytearray, lambda b: array.array("B", b)])
def test_a_growing_source_is_held_still(path: pathlib.Path, make: Callable[[bytes], Any]) -> None:
    data = make(path.read_bytes())
    arrays = psd.load(data)
    for change in (lambda: data.append(1), lambda: data.extend(b"12"), lambda: data.pop()):
        with pytest.raises(BufferError):
            change()
    with pytest.raises(BufferError):
        del data[:]
    check(arrays)
    kept = arrays["b"][1:2]
    del arrays
    gc.collect()
    with pytest.raises(BufferError):
        data.append(1)
    del kept
    data.append(1)


def test_a_bytearray_is_shared(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    arrays = psd.load(data)
    at = data.index(W.tobytes())
    assert arrays["w"].flags.writeable
    arrays["w"][0, 1] = -5
    assert np.frombuffer(data, np.float32, 2, at)[1] == -5
    copied = psd.load(data, copy=True)
    arrays["w"][0, 1] = 7
    assert copied["w"][0, 1] == -5
    del arrays
    data.append(0)  # the copy holds nothing of it
    assert copied["w"][0, 1] == -5


def test_bytes_give_arrays_that_cannot_be_written(path: pathlib.Path) -> None:
    data = path.read_bytes()
    arrays = psd.load(data)
    check(arrays)
    for a in arrays.values():
        assert not a.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            a.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        arrays["w"][0, 0] = 1
    assert psd.load(data, copy=True)["w"].flags.writeable
    before = sys.getrefcount(data)
    kept = arrays["b"]
    del arrays, a
    gc.collect()
    assert sys.getrefcount(data) == before
    del data
    assert np.array_equal(kept, B)


def test_the_source_goes_with_the_last_array(path: pathlib.Path) -> None:
    class Bytes(bytearray):
        __slots__ = ("__weakref__",)

    data = Bytes(path.read_bytes())
    gone = weakref.ref(data)
    arrays = psd.load(data)
    del data
    gc.collect()
    assert gone() is not None
    check(arrays)
    del arrays
    gc.collect()
    assert gone() is None


def test_an_array_as_source(path: pathlib.Path) -> None:
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    arrays = psd.load(data)
    with pytest.raises(ValueError, match="resize"):
        data.resize(3)
    del data
    gc.collect()
    check(arrays)


def test_a_view_as_source_cannot_be_released(path: pathlib.Path) -> None:
    view = memoryview(path.read_bytes())
    arrays = psd.load(view)
    with pytest.raises(BufferError):
        view.release()
    del arrays
    gc.collect()
    view.release()


def test_shared_memory_as_source(path: pathlib.Path) -> None:
    from multiprocessing import shared_memory

    size = path.stat().st_size
    memory = shared_memory.SharedMemory(create=True, size=size)
    try:
        memory.buf[:size] = path.read_bytes()
        with memory.buf[:size] as window:
            arrays = psd.load(window)
            check(arrays)
            with pytest.raises(BufferError):
                window.release()
            del arrays
            gc.collect()
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2], memoryview(b"12345678")[::2]])
def test_what_is_no_buffer_is_refused(data: object) -> None:
    with pytest.raises((TypeError, BufferError)):
        _core.Source(data)  # type: ignore[arg-type]


# ------------------------------------------------------------------ writing to arrays and files


def test_arrays_are_private(path: pathlib.Path) -> None:
    before = path.read_bytes()
    first, second = psd.load(path), psd.load(path)
    first["w"][...] = -1
    assert path.read_bytes() == before
    check(second)
    check(psd.load(path))
    assert first["tied"][0, 0] == -1
    del first
    gc.collect()
    assert path.read_bytes() == before


def test_a_read_only_file_gives_writable_arrays(path: pathlib.Path) -> None:
    path.chmod(0o444)
    arrays = psd.load(path)
    arrays["w"] += 1
    assert np.array_equal(arrays["w"], W + 1)


def test_saving_over_the_mapped_file(path: pathlib.Path) -> None:
    old = psd.load(path)
    psd.save({"w": W * 2, "b": B * 2, "tied": W[10:]}, path)
    check(old)
    new = psd.load(path)
    assert np.array_equal(new["w"], W * 2)
    psd.save(old, path)
    check(old)
    check(psd.load(path))
    assert np.array_equal(new["w"], W * 2)


def test_saving_what_is_mapped_to_its_own_file(path: pathlib.Path) -> None:
    for _ in range(3):
        arrays = psd.load(path)
        arrays["b"][0] += 1
        psd.save(arrays, path)
    assert psd.load(path)["b"][0] == B[0] + 3
    with psd.open(path) as checkpoint:
        psd.save(checkpoint, path)
    assert np.array_equal(psd.load(path)["w"], W)


def test_unlinking_the_file(path: pathlib.Path) -> None:
    arrays = psd.load(path)
    checkpoint = psd.open(path)
    path.unlink()
    check(arrays)
    check({name: info.numpy() for name, info in checkpoint.items()})
    assert checkpoint.verify()[0] > 0


def test_renaming_over_the_file(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    arrays = psd.load(path)
    other = tmp_path / "other"
    other.write_bytes(b"\0" * path.stat().st_size)
    other.replace(path)
    check(arrays)


def test_a_handle_knows_that_its_file_changed(path: pathlib.Path) -> None:
    pickled = pickle.dumps(psd.open(path)["w"])
    assert np.array_equal(pickle.loads(pickled).numpy(), W)
    psd.save({"w": W[:1]}, path)
    with pytest.raises(psd.CorruptError, match="changed"):
        pickle.loads(pickled)


def test_arrays_pickle_without_the_file(path: pathlib.Path) -> None:
    pickled = pickle.dumps(psd.load(path))
    path.unlink()
    check(pickle.loads(pickled))


# ------------------------------------------------------------------ saving


class Keeper:
    """A target that keeps what it was given, and slices of it, without copying."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []
        self.slices: list[np.ndarray] = []

    def write(self, view: memoryview) -> None:
        self.views.append(view)
        self.slices.append(np.frombuffer(view[:], np.uint8))


@pytest.mark.parametrize(
    "obj",
    [
        {"small": B},
        {f"layer.{i}": W + i for i in range(30)},
        {"large": np.arange(500_000, dtype=np.float32), "small": B},
        # A pickle and a directory that are long themselves.
        {f"a name that is rather long, number {i}": np.array([i]) for i in range(5000)},
    ],
    ids=["small", "middle", "large", "many"],
)
def test_a_writer_may_keep_what_it_was_given(obj: dict[str, np.ndarray]) -> None:
    expected = io.BytesIO()
    psd.save(obj, expected)
    keeper = Keeper()
    psd.save({name: a.copy() for name, a in obj.items()}, keeper)
    gc.collect()
    noise = [bytearray(b"\xaa") * 300_000 for _ in range(30)]
    assert b"".join(keeper.views) == expected.getvalue()
    assert b"".join(a.tobytes() for a in keeper.slices) == expected.getvalue()
    assert len(noise) == 30


def test_a_writer_may_keep_an_array_that_stood_in_nothing() -> None:
    keeper = Keeper()
    psd.save(np.arange(500_000, dtype=np.float32), keeper)
    gc.collect()
    noise = [bytearray(b"\xaa") * 300_000 for _ in range(30)]
    data = b"".join(a.tobytes() for a in keeper.slices)
    assert np.array_equal(psd.load(data), np.arange(500_000, dtype=np.float32))
    assert len(noise) == 30


def test_a_writer_cannot_change_what_is_saved() -> None:
    class Writer:
        def write(self, view: memoryview) -> None:
            assert view.readonly
            assert view.format == "B"
            assert view.contiguous

    large = np.ones(200_000)
    psd.save({"large": large, "small": B}, Writer())


def test_arrays_may_go_while_they_are_saved() -> None:
    obj: dict[str, Any] = {"nest": [{"w": W.copy() + i} for i in range(20)]}
    expected = io.BytesIO()
    psd.save(obj, expected)

    class Writer(io.BytesIO):
        def write(self, view: Any) -> int:
            obj.clear()
            gc.collect()
            return super().write(view)

    writer = Writer()
    psd.save(obj, writer)
    assert writer.getvalue() == expected.getvalue()


def test_nothing_is_held_after_saving() -> None:
    w = W.copy()
    gone = weakref.ref(w)
    data = bytearray(b"12345678")
    psd.save({"w": w, "v": w[1:], "d": np.frombuffer(data, np.uint8)}, io.BytesIO())
    del w
    gc.collect()
    assert gone() is None
    data.append(1)


def test_nothing_is_held_after_a_failed_save() -> None:
    w = W.copy()
    gone = weakref.ref(w)

    class Writer:
        def write(self, _: memoryview) -> int:
            raise OSError(28, "no room")

    with pytest.raises(OSError, match="no room"):
        psd.save({"w": w}, Writer())
    del w
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------ processes


@pytest.fixture
def report(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "report"


def in_a_child(work: Callable[[], None]) -> int:
    """Exit status of a forked child that does the work."""
    with warnings.catch_warnings():
        # Other tests may have left threads of libraries; the child calls none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return status


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
class TestFork:
    def test_a_child_reads_and_writes(self, path: pathlib.Path) -> None:
        before = path.read_bytes()
        arrays = psd.load(path)
        arrays["b"][0] = 77  # a page that is ours already

        def work() -> None:
            assert arrays["b"][0] == 77
            assert np.array_equal(arrays["w"], W)
            arrays["w"][...] = -1
            arrays["b"][...] = -2
            assert (arrays["tied"] == -1).all()
            check(psd.load(path))

        assert in_a_child(work) == 0
        assert np.array_equal(arrays["w"], W)
        assert arrays["b"][0] == 77
        assert np.array_equal(arrays["b"][1:], B[1:])
        assert path.read_bytes() == before

    def test_a_child_does_not_see_the_parent(self, path: pathlib.Path) -> None:
        arrays = psd.load(path)
        ready, go = os.pipe(), os.pipe()

        def work() -> None:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            assert np.array_equal(arrays["w"], W)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        os.read(ready[0], 1)
        arrays["w"][...] = -1
        os.write(go[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        for fd in (*ready, *go):
            os.close(fd)

    def test_a_child_closes_and_lets_go(self, path: pathlib.Path) -> None:
        checkpoint = psd.open(path)
        arrays = {name: info.numpy() for name, info in checkpoint.items()}

        def work() -> None:
            checkpoint.close()
            arrays.clear()
            gc.collect()
            assert maps_of(path) == 0

        if sys.platform == "linux":
            assert in_a_child(work) == 0
        check(arrays)
        check({name: info.numpy() for name, info in checkpoint.items()})

    def test_a_child_saves_over_the_file(self, path: pathlib.Path) -> None:
        arrays = psd.load(path)

        def work() -> None:
            arrays["w"] += 1
            psd.save(arrays, path)

        assert in_a_child(work) == 0
        check(arrays)
        assert np.array_equal(psd.load(path)["w"], W + 1)

    def test_a_child_outlives_the_parent(self, path: pathlib.Path, report: pathlib.Path) -> None:
        code = (
            "import os, sys, time, numpy as np, pystatedict as psd\n"
            "arrays = psd.load(sys.argv[1])\n"
            "parent = os.getpid()\n"
            "if os.fork() == 0:\n"
            "    while os.getppid() == parent:\n"
            "        time.sleep(0.01)\n"
            "    psd.load(sys.argv[1])\n"
            "    open(sys.argv[2], 'w').write(str(float(arrays['w'].sum())))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, path, report],
            env=run.environment(),
            capture_output=True,  # ends when the child has ended, too
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert report.read_text() == str(float(W.sum()))


def test_another_process_gets_handles_and_arrays(path: pathlib.Path) -> None:
    import multiprocessing

    with psd.open(path) as checkpoint, multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(np.sum, (checkpoint["b"],)) == B.sum()
        assert pool.apply(np.sum, (checkpoint["b"].numpy(),)) == B.sum()


# ------------------------------------------------------------------ other places


@pytest.fixture
def pipe(path: pathlib.Path) -> Iterator[int]:
    import threading

    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(path.read_bytes())

    thread = threading.Thread(target=feed)
    thread.start()
    yield reading
    thread.join()


def test_a_pipe(pipe: int) -> None:
    with os.fdopen(pipe, "rb") as file:
        arrays = psd.load(file)
    check(arrays)


def test_a_temporary_file() -> None:
    with tempfile.TemporaryFile() as file:
        psd.save({"w": W, "b": B, "tied": W[10:]}, file)
        file.seek(0)
        arrays = psd.load(file)
    check(arrays)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="mmap keeps a descriptor until 3.13")
def test_many_at_once(path: pathlib.Path) -> None:
    """More maps than this process may open files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loaded: list[Any] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        loaded.extend(psd.load(path) for _ in range(400))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    check(loaded[0])
    check(loaded[-1])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nothing tells the descriptors")
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_of_a_large_file_no_more_stays_open_than_its_map(tmp_path: pathlib.Path, kind: str) -> None:
    """While it is loaded the file stands open beside its map; not when that is done or fails."""
    path = tmp_path / "large.pth"
    psd.save({"w": np.arange(1 << 19, dtype="f4"), "b": B}, path, format=kind)
    held = 0 if sys.version_info >= (3, 13) else 1
    gc.collect()
    before = descriptors()
    arrays = psd.load(path)
    assert descriptors() == before + held
    assert arrays["w"][-1] == (1 << 19) - 1
    with psd.open(path) as checkpoint:
        assert descriptors() == before + 2 * held
        assert checkpoint["w"].numpy()[1] == 1
    del arrays, checkpoint
    gc.collect()
    assert descriptors() == before
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(psd.CorruptError):
        psd.load(path)
    gc.collect()
    assert descriptors() == before
