# SPDX-License-Identifier: Apache-2.0
"""Many threads at once: distinct archives freely, one archive by many readers, and a
close() that comes from elsewhere.  Counted, never timed.
"""

from __future__ import annotations

import io
import json
import pathlib
import random
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from isolated import run

import pystatedict as psd
from pystatedict import _core, _values
from pystatedict._opening import open_at

THREADS = 8

#: Free-threaded builds have nothing to release.
needs_gil = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL"
)


def model(seed: int, count: int = 6, size: int = 3000) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.standard_normal((size, 3 + i)).astype(np.float32) for i in range(count)}


def equal(found: Any, expected: dict[str, Any]) -> bool:
    return list(found) == list(expected) and all(
        np.array_equal(found[name], a) for name, a in expected.items()
    )


def together(*works: Callable[[], None]) -> None:
    """Run all at once; the first failure of any is raised here."""
    start = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def hurried() -> Iterator[None]:
    """The GIL changes hands as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    psd.save(model(0), tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.fixture
def deflated(path: pathlib.Path) -> pathlib.Path:
    target = path.with_name("deflated.pth")
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, True, 1) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


# ------------------------------------------------------------------ many at once


@pytest.mark.usefixtures("hurried")
def test_loads_and_saves_at_once(tmp_path: pathlib.Path) -> None:
    def work(number: int) -> None:
        expected = model(number)
        path = tmp_path / f"{number}.pth"
        for turn in range(6):
            psd.save(expected, path)
            found = psd.load(path, verify=turn % 2 == 0, copy=turn % 3 == 0)
            assert equal(found, expected)
            with psd.open(path) as checkpoint:
                assert equal({k: v.numpy() for k, v in checkpoint.items()}, expected)
                assert checkpoint.verify()[1] == 0

    together(*(lambda n=n: work(n) for n in range(THREADS)))


@pytest.mark.usefixtures("hurried")
def test_one_file_by_many(path: pathlib.Path, deflated: pathlib.Path) -> None:
    expected = model(0)

    def work() -> None:
        for turn in range(10):
            assert equal(psd.load(path), expected)
            assert equal(psd.load(deflated, verify=turn == 0), expected)
            assert psd.scan(path).verdict == "clean"

    together(*[work] * THREADS)


@pytest.mark.usefixtures("hurried")
def test_one_archive_by_many(path: pathlib.Path, deflated: pathlib.Path) -> None:
    expected = model(0)
    archives: list[Any] = [open_at(path, None)[0], open_at(deflated, None)[0]]

    def work() -> None:
        for _ in range(10):
            for archive in archives:
                assert equal(archive.load(0, _values), expected)
                infos = archive.tensors()
                assert equal({k: i.numpy() for k, i in infos.items()}, expected)
                for index in range(len(archive.records())):
                    assert archive.verify(index)
                    archive.crc32(index)
                assert len(archive.read(0)) > 100
                assert archive.globals()
                assert archive.children()

    together(*[work] * THREADS)


@pytest.mark.usefixtures("hurried")
def test_one_object_saved_by_many() -> None:
    obj = psd.StateDict(model(0), metadata={"": {"version": 1}}, trainable={"w0": True})
    expected = io.BytesIO()
    psd.save(obj, expected)

    def work() -> None:
        for _ in range(10):
            file = io.BytesIO()
            psd.save(obj, file)
            assert file.getvalue() == expected.getvalue()

    together(*[work] * THREADS)


@pytest.mark.usefixtures("hurried")
def test_an_object_that_changes_while_it_is_saved() -> None:
    """It is saved as it happens to be, and what comes out can be read."""
    obj: dict[str, Any] = model(0)
    obj["list"] = list(range(50))
    done = threading.Event()

    def change() -> None:
        rng = random.Random(0)
        while not done.is_set():
            obj[f"w{rng.randrange(6)}"] = np.full((2, rng.randrange(1, 9)), 1.5, np.float32)
            obj[f"x{rng.randrange(9)}"] = [np.ones(rng.randrange(9))]
            obj.pop(f"x{rng.randrange(9)}", None)
            obj["list"][:] = range(rng.randrange(90))

    def save() -> None:
        try:
            for _ in range(150):
                file = io.BytesIO()
                psd.save(obj, file)
                found = psd.load(file.getvalue(), verify=True)
                assert {f"w{i}" for i in range(6)} <= set(found)
        finally:
            done.set()

    together(change, save)


@pytest.mark.usefixtures("hurried")
def test_errors_of_many(path: pathlib.Path) -> None:
    """Each thread gets its own error, about its own file."""
    whole = path.read_bytes()

    def work(number: int) -> None:
        half = path.with_name(f"half{number}.pth")
        half.write_bytes(whole[: len(whole) // 2 + number])
        for _ in range(15):
            with pytest.raises(psd.CorruptError) as caught:
                psd.load(half)
            assert caught.value.path == str(half)
            with pytest.raises(psd.LimitError):
                psd.load(path, limits={"values": 3})
            with pytest.raises(psd.MissingTensorError, match=f"nothing{number}"):
                psd.load(path, root=f"nothing{number}")

    together(*(lambda n=n: work(n) for n in range(THREADS)))


# ------------------------------------------------------------------ closing elsewhere


CLOSING = """
import sys, threading, zlib
from pystatedict import ClosedError, _values
from pystatedict._opening import open_at

sys.setswitchinterval(1e-6)
path, how = sys.argv[1:]
outcomes = {"closed": [], "done": []}
opened, _ = open_at(path, None)
records = len(opened.records())
expected = {name: zlib.crc32(a.tobytes()) for name, a in opened.load(0, _values).items()}

def whole(arrays):
    assert {name: zlib.crc32(a.tobytes()) for name, a in arrays.items()} == expected

calls = {
    "load": lambda archive: whole(archive.load(0, _values)),
    "copy": lambda archive: whole(archive.load(0, _values, copy=True)),
    "numpy": lambda archive: whole({k: i.numpy() for k, i in archive.tensors().items()}),
    "verify": lambda archive: [archive.verify(i) for i in range(records)],
    "crc32": lambda archive: [archive.crc32(i) for i in range(records)],
    "read": lambda archive: [archive.read(i) for i in range(records)],
}
call = calls[how]
for turn in range(40):
    archive = open_at(path, None)[0]
    start = threading.Barrier(4)

    def work(call=call, archive=archive):
        start.wait()
        try:
            while True:
                call(archive)
                outcomes["done"].append(1)
        except ClosedError:
            outcomes["closed"].append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    start.wait()
    for _ in range(turn * 20):
        archive.closed
    archive.close()
    for thread in threads:
        thread.join()
import json
print(json.dumps({name: len(each) for name, each in outcomes.items()}))
"""


@pytest.mark.parametrize("kind", ["stored", "deflated"])
@pytest.mark.parametrize("how", ["load", "copy", "numpy", "verify", "crc32", "read"])
def test_closed_while_others_read(
    path: pathlib.Path, deflated: pathlib.Path, how: str, kind: str
) -> None:
    """Who has begun comes to a good end, who comes later gets ClosedError; in a process of
    its own, for what can go wrong here is a crash.
    """
    said = run.succeed("-c", CLOSING, path if kind == "stored" else deflated, how)
    outcomes = json.loads(said)
    assert outcomes["closed"] == 40 * 3


def test_closed_by_what_it_calls(path: pathlib.Path) -> None:
    """A close() from within the load itself, at every place where Python code runs."""
    expected = model(0)
    places = 0
    for n in range(100):
        archive = open_at(path, None)[0]
        left = n

        class Values:
            def __getattr__(self, name: str) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    archive.close()  # noqa: B023
                return getattr(_values, name)

        assert equal(archive.load(0, Values()), expected)
        assert archive.closed == (left < 0)
        if left >= 0:
            break
        places += 1
        with pytest.raises(psd.ClosedError):
            archive.load(0, _values)
    assert places >= 2


# ------------------------------------------------------------------ a write that fails


@pytest.mark.usefixtures("hurried")
def test_a_failing_write_is_nobody_elses() -> None:
    """Half of the threads fail at a place of their own; the others never notice."""

    class Stops(Exception):
        pass

    class Target:
        def __init__(self, n: int, error: BaseException | None) -> None:
            self.left, self.error, self.taken = n, error, bytearray()

        def write(self, data: memoryview) -> int:
            if self.error is not None:
                self.left -= 1
                if self.left < 0:
                    raise self.error
            self.taken += data[:40_000]
            return min(len(data), 40_000)

    def work(number: int) -> None:
        obj = model(number)
        expected = io.BytesIO()
        psd.save(obj, expected)
        for turn in range(8):
            error = Stops(number, turn) if number % 2 else None
            target = Target(turn, error)
            if error is None:
                psd.save(obj, target)
                assert bytes(target.taken) == expected.getvalue()
            else:
                with pytest.raises(Stops) as caught:
                    psd.save(obj, target)
                assert caught.value is error
                assert caught.value.args == (number, turn)
                assert error.__context__ is None
                assert expected.getvalue().startswith(bytes(target.taken))

    together(*(lambda n=n: work(n) for n in range(THREADS)))


def test_a_write_that_saves_itself() -> None:
    """The GIL was taken with this thread's own state, so anything may be done with it."""
    inner: list[bytes] = []
    obj = model(0)
    expected = io.BytesIO()
    psd.save(obj, expected)

    class Target(io.BytesIO):
        def write(self, data: Any) -> int:
            file = io.BytesIO()
            psd.save(obj, file)
            assert equal(psd.load(file.getvalue()), obj)
            inner.append(file.getvalue())
            with pytest.raises(psd.StateDictError):
                psd.load(b"PK nothing")
            return super().write(data)

    target = Target()
    psd.save(obj, target)
    assert target.getvalue() == expected.getvalue()
    assert len(inner) > 1
    assert set(inner) == {expected.getvalue()}


# ------------------------------------------------------------------ the GIL


class Counter:
    """A thread that counts while it has the GIL, and else lets it go at once.

    With a switch interval without end nobody is ever asked to give the GIL up: the count
    moves only while another thread has released it by itself.
    """

    def __enter__(self) -> Counter:
        self.count = 0
        self._stop = False
        self._before = sys.getswitchinterval()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        self._wait()
        sys.setswitchinterval(1000)
        self._wait()  # a request under the old interval may still have been on its way
        return self

    def _wait(self) -> None:
        before = self.count
        while self.count == before:
            time.sleep(0.001)

    def _work(self) -> None:
        while not self._stop:
            self.count += 1
            time.sleep(0)

    def __exit__(self, *_: object) -> None:
        self._stop = True
        sys.setswitchinterval(self._before)
        self._thread.join()

    def moved_during(self, call: Callable[[], object], patience: int = 3000) -> bool:
        """Whether the count ever moved while call() ran; the system may need several tries
        to get around to the other thread.
        """
        for _ in range(patience):
            before = self.count
            call()
            if self.count != before:
                return True
        return False


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A large storage, a deflated one, and a long pickle."""
    folder = tmp_path_factory.mktemp("large")
    obj: dict[str, Any] = {"w": np.ones(4 << 20, np.float32)}
    obj["numbers"] = [float(i) for i in range(100_000)]
    psd.save(obj, folder / "stored.pth")
    small = {"w": np.ones(1 << 20, np.float32)}
    psd.save(small, folder / "small.pth")
    with (
        zipfile.ZipFile(folder / "small.pth") as old,
        zipfile.ZipFile(folder / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return folder


@needs_gil
def test_who_keeps_the_gil_is_found_out() -> None:
    """The control: a call that takes long and never lets go."""
    data = bytes(1 << 22)
    with Counter() as counter:
        assert not counter.moved_during(lambda: data.count(b"x"), 20)
        assert counter.moved_during(lambda: time.sleep(0.001))


def record_of(archive: _core.Archive, ending: str) -> int:
    return next(i for i, r in enumerate(archive.records()) if r[0].endswith(ending))


@needs_gil
@pytest.mark.parametrize("how", ["open", "verify", "crc32", "copy", "crc32()", "scan_pickle"])
def test_the_gil_is_released(large: pathlib.Path, how: str) -> None:
    source = _core.Source((large / "stored.pth").read_bytes())
    archive = _core.open_archive(source)
    storage = record_of(archive, "data/0")
    program = archive.read(record_of(archive, "data.pkl"))
    info = archive.tensors()["w"]
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: _core.open_archive(source),
        "verify": lambda: archive.verify(storage),
        "crc32": lambda: archive.crc32(storage),
        "copy": lambda: archive.load(0, _values, copy=True),
        "crc32()": lambda: _core.crc32(info.numpy()),
        "scan_pickle": lambda: _core.scan_pickle(program),
    }
    with Counter() as counter:
        assert counter.moved_during(calls[how])


@needs_gil
def test_the_gil_is_released_while_saving() -> None:
    """Between one write() and the next: the checksums are computed there."""
    obj = {"w": np.ones(8 << 20, np.float32)}
    with Counter() as counter:
        seen = [0]
        moved = 0

        class Target:
            def write(self, data: memoryview) -> None:
                nonlocal moved
                moved += counter.count != seen[0]
                seen[0] = counter.count

        for _ in range(500):
            seen[0] = counter.count
            psd.save(obj, Target())
            if moved > 0:
                break
        assert moved > 0


@needs_gil
def test_the_gil_is_held_while_writing() -> None:
    """write() runs with the GIL, as any Python code does."""
    with Counter() as counter:
        moved = []

        class Target:
            def write(self, data: memoryview) -> None:
                before = counter.count
                bytes(data).count(b"x")
                moved.append(counter.count - before)

        psd.save({"w": np.ones(4 << 20, np.float32)}, Target())
        assert len(moved) > 4
        assert set(moved) == {0}


def test_deflated_records_by_many(large: pathlib.Path) -> None:
    """The inflater takes the GIL with the state of its own thread."""
    archive: Any = open_at(large / "deflated.pth", None)[0]

    def work() -> None:
        for _ in range(3):
            assert archive.load(0, _values)["w"].sum() == 1 << 20
            assert archive.verify(record_of(archive, "data/0"))

    together(*[work] * 6)


# ------------------------------------------------------------------ importing


def test_first_use_in_many_threads_at_once(path: pathlib.Path) -> None:
    """Names are fetched, NumPy is imported, tables are filled: once is enough, and right."""
    code = (
        "import sys, threading\n"
        "import pystatedict as psd\n"
        "start, sums = threading.Barrier(8), []\n"
        "def work():\n"
        "    start.wait()\n"
        "    sums.append(sum(float(a.sum()) for a in psd.load(sys.argv[1]).values()))\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(len(sums), len(set(sums)))\n"
    )
    assert run.succeed("-c", code, path) == "8 1\n"
