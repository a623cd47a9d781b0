# SPDX-License-Identifier: Apache-2.0
"""A save happens wholly or not at all: the old file survives whatever goes wrong, and
nothing is left beside it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from isolated import run

import pystatedict as psd
from pystatedict import _targets

OLD = {"w": np.arange(10, dtype=np.float32)}
# Several writes: large arrays are handed on as they lie, small ones gathered.
NEW: dict[str, Any] = {
    "large": np.arange(300_000, dtype=np.float32),
    "small": np.ones(5),
    "more": [np.full(100_000, i, np.int16) for i in range(4)],
    "text": "x" * 300_000,
}

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


def whole(obj: Any = NEW) -> bytes:
    file = io.BytesIO()
    psd.save(obj, file)
    return file.getvalue()


def same(found: Any) -> bool:
    return (
        np.array_equal(found["large"], NEW["large"])
        and all(np.array_equal(a, b) for a, b in zip(found["more"], NEW["more"], strict=True))
        and found["text"] == NEW["text"]
    )


#: As where the file system has no files without names.
NAMED = "from pystatedict import _targets; _targets._Unnamed.opened = lambda folder: None\n"


@pytest.fixture(autouse=True, params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds in both ways of making a new file."""
    if request.param == "named":
        monkeypatch.setattr(_targets._Unnamed, "opened", lambda folder: None)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path


@pytest.fixture
def path(folder: pathlib.Path) -> pathlib.Path:
    psd.save(OLD, folder / "model.pth")
    return folder / "model.pth"


@contextlib.contextmanager
def untouched(path: pathlib.Path) -> Iterator[None]:
    """What happens in the block leaves the file and its folder as they were."""

    def look() -> Any:
        beside = sorted(p.name for p in path.parent.iterdir())
        if not path.exists():
            return beside, None, None
        found = path.stat()
        return beside, path.read_bytes(), (found.st_ino, found.st_mode, found.st_mtime_ns)

    before = look()
    yield
    assert look() == before


class Trouble(Exception):
    """No exception of the package or the system."""


# ------------------------------------------------------------------ a write that fails


class Failing(io.RawIOBase):
    """A raw file that takes `most` bytes a time, and fails at the n-th write."""

    def __init__(self, file: Any, n: int, error: BaseException, most: int) -> None:
        self.file, self.left, self.error, self.most = file, n, error, most

    def write(self, data: Any) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.file.write(memoryview(data)[: self.most])

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()
        super().close()


def count_writes(most: int) -> int:
    counted = Failing(io.BytesIO(), 1 << 30, Trouble(), most)
    psd.save(NEW, counted)
    return (1 << 30) - counted.left


@pytest.mark.parametrize("most", [1 << 30, 100_000])
@pytest.mark.parametrize("make", [lambda: OSError(28, "full"), Trouble, KeyboardInterrupt])
def test_every_write_may_fail(
    path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], BaseException],
    most: int,
) -> None:
    writes = count_writes(most)
    assert writes > (5 if most == 1 << 30 else 25)
    for n in range(writes):
        error = make()

        def failing(
            name: str, mode: str, *, error: BaseException = error, n: int = n, **options: Any
        ) -> Failing:
            return Failing(open(name, mode, **options), n, error, most)

        monkeypatch.setattr(_targets, "open", failing, raising=False)
        with untouched(path), pytest.raises(type(error)) as caught:
            psd.save(NEW, path)
        monkeypatch.undo()
        # The very exception, as it was raised.
        assert caught.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
    psd.save(NEW, path)
    assert same(psd.load(path))


@pytest.mark.parametrize("n", range(4))
def test_a_file_object_that_fails(n: int) -> None:
    error = Trouble("as it was")
    with pytest.raises(Trouble) as caught:
        psd.save(NEW, Failing(io.BytesIO(), n, error, 1 << 30))
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("name", ["fsync", "fchmod", "replace"])
def test_what_comes_after_the_writes_may_fail(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    error = OSError(errno.EIO, "trouble")

    def failing(*_: object) -> None:
        raise error

    with untouched(path), pytest.raises(OSError, match="trouble") as caught:
        monkeypatch.setattr(os, name, failing)
        try:
            psd.save(NEW, path)
        finally:
            monkeypatch.undo()
    assert caught.value is error


@posix
def test_a_folder_that_is_removed_meanwhile(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "gone" / "model.pth"
    path.parent.mkdir()
    fsync = os.fsync

    def removing(fd: int) -> None:
        shutil.rmtree(path.parent)
        fsync(fd)

    with pytest.raises(FileNotFoundError):
        monkeypatch.setattr(os, "fsync", removing)
        try:
            psd.save(NEW, path)
        finally:
            monkeypatch.undo()
    assert list(folder.iterdir()) == []
    path.parent.mkdir()
    psd.save(NEW, path)
    assert same(psd.load(path))


def test_an_object_that_cannot_be_written(path: pathlib.Path) -> None:
    with untouched(path), pytest.raises(TypeError):
        psd.save({"w": NEW["large"], "f": [object()]}, path)
    with untouched(path), pytest.raises(TypeError):
        psd.save({"m": OLD}.get, path)
    with untouched(path), pytest.raises(psd.UnsupportedError):
        psd.save(OLD, path, format="tar")


def test_nothing_appears_where_nothing_was(folder: pathlib.Path) -> None:
    path = folder / "new.pth"
    with untouched(path), pytest.raises(TypeError):
        psd.save({"f": object()}, path)


def test_a_failed_save_leaves_the_sidecar(path: pathlib.Path) -> None:
    sd = psd.StateDict(OLD, trainable={"w": True})
    psd.save(sd, path, trainable="sidecar")
    sidecar = path.with_name(path.name + ".trainable.json")
    before = sidecar.read_bytes()
    with untouched(path), pytest.raises(TypeError):
        psd.save(psd.StateDict({"w": object()}, trainable={"w": False}), path, trainable="sidecar")
    assert sidecar.read_bytes() == before
    assert psd.load(path).trainable["w"] is True


# ------------------------------------------------------------------ interruption


class Interrupting:
    """A trace that raises KeyboardInterrupt before the n-th instruction of _targets.py."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(("_targets.py", "contextlib.py")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def done(self) -> bool:
        """Whether there were fewer instructions than n."""
        return self.left > 0


# Between open() and its `with` only the file itself can close itself, and it says so.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("overwrite", [True, False])
def test_interrupted_at_every_instruction(folder: pathlib.Path, overwrite: bool) -> None:
    path = folder / "model.pth"
    interrupted = 0
    for n in range(5000):  # 0: never; 3.12 tells of instructions from the second time on
        if overwrite:
            psd.save(OLD, path)
        before = sys.gettrace()
        trace = Interrupting(n)
        try:
            sys.settrace(trace)
            psd.save({"n": np.array([n])}, path, overwrite=overwrite)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        assert {p.name for p in folder.iterdir()} <= {"model.pth"}, n
        if path.exists():
            found = psd.load(path, verify=True)
            assert list(found) in (["w"], ["n"])
            assert "w" in found or found["n"][0] == n
        if not overwrite:
            path.unlink(missing_ok=True)
        if trace.done():
            break
    assert interrupted == n - 1 > 100


@posix
def test_interrupted_in_the_middle(folder: pathlib.Path) -> None:
    """Ctrl-C in another process, while its save goes on for as long as it is let."""
    path = folder / "model.pth"
    psd.save(OLD, path)
    code = (
        "import sys, itertools, numpy as np, pystatedict as psd\n"
        "large = np.ones(1 << 20, np.float32)\n"
        "obj = [large[:-i] + 0 for i in range(1, 9)]\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    for n in itertools.count():\n"
        "        psd.save(obj, sys.argv[1] + '.other')\n"
        "        psd.save(obj, sys.argv[1] + '.other', overwrite=True)\n"
        "        print(n, flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(7)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=run.environment(),
        # pytest may run where SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert child.stdout.readline() == "0\n"
        child.send_signal(signal.SIGINT)
        child.stdout.read()
        assert child.wait(60) == 7
    assert {p.name for p in folder.iterdir()} == {"model.pth", "model.pth.other"}
    assert psd.load(folder / "model.pth.other", verify=True)[0].sum() == (1 << 20) - 1


@posix
def test_a_signal_is_seen_between_writes() -> None:
    """Also where write() itself never looks, as no bytecode runs in it: the core asks."""
    obj = [np.zeros(1 << 23), *(np.zeros(1 << 17) for _ in range(16))]
    pieces: list[memoryview] = []

    class Target:
        write = staticmethod(pieces.append)

    def trouble(*_: object) -> None:
        raise Trouble

    psd.save(obj, Target)
    every = len(pieces)
    assert every > 50
    previous = signal.signal(signal.SIGALRM, trouble)
    stopped = []
    try:
        for n in range(200):
            pieces.clear()
            # It may come before or after the save, so it is sent until it comes within.
            with contextlib.suppress(Trouble):
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + n * 0.0001)
                psd.save(obj, Target)
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if 0 < len(pieces) < every:
                stopped.append(len(pieces))
            if len(stopped) == 3:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(stopped) == 3


@posix
def test_killed_in_the_middle(folder: pathlib.Path, way: str) -> None:
    """No cleaning up is possible then; the old file is whole all the same."""
    path = folder / "model.pth"
    psd.save(OLD, path)
    code = (
        "import os, sys, numpy as np, pystatedict as psd\n"
        "def kill(fd): os.kill(os.getpid(), 9)\n"
        "os.fsync = kill\n"
        "psd.save({'w': np.zeros(100_000)}, sys.argv[1])\n"
    )
    done = run.python("-c", (NAMED if way == "named" else "") + code, path)
    assert done.returncode == -signal.SIGKILL
    assert np.array_equal(psd.load(path, verify=True)["w"], OLD["w"])
    left = [p.name for p in folder.iterdir() if p != path]
    if way == "unnamed":
        assert left == []
    else:
        # What is left is not mistaken for anything, and in nobody's way.
        assert len(left) == 1
        assert left[0].startswith(".model.pth.") and left[0].endswith(".part")
    psd.save(NEW, path)
    assert same(psd.load(path))


# ------------------------------------------------------------------ no room


def fill(path: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Save NEW's like in a process whose files may not grow beyond 1 MiB."""
    code = (
        "import resource, sys, numpy as np, pystatedict as psd\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    psd.save({'w': np.zeros(1 << 20)}, sys.argv[1])\n"
        "except OSError as error:\n"
        "    print(error.errno, flush=True)\n"
    )
    return run.python("-c", code, path)


@posix
def test_a_file_that_may_not_grow(path: pathlib.Path) -> None:
    with untouched(path):
        done = fill(path)
    assert done.stdout == f"{errno.EFBIG}\n", done.stderr


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip("this root may not mount either")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: pathlib.Path) -> None:
    path = small_disk / "model.pth"
    psd.save({"w": np.ones(50_000, np.float32)}, path)
    for _ in range(5):
        with untouched(path), pytest.raises(OSError, match="No space left") as caught:
            psd.save({"w": np.ones(250_000, np.float32)}, path)
        assert caught.value.errno == errno.ENOSPC
    # Not even half of it, twice over: the first attempt's room was given back.
    psd.save({"w": np.ones(150_000, np.float32)}, path)
    assert psd.load(path)["w"].sum() == 150_000


def test_the_device_that_is_always_full() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    for buffering in (0, -1):
        file = open("/dev/full", "wb", buffering=buffering)  # noqa: SIM115
        with pytest.raises(OSError, match="No space left"):
            psd.save(NEW, file)
        with contextlib.suppress(OSError):
            file.close()


# ------------------------------------------------------------------ places and permissions


@pytest.fixture
def nobody() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """A way to be someone whom permissions bind; root is bound by none."""
    if os.name != "posix":
        pytest.skip("POSIX permissions")

    @contextlib.contextmanager
    def become() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.setegid(65534)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    yield become


@pytest.fixture
def public() -> Iterator[pathlib.Path]:
    """A folder that is reachable for everybody; pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)


def test_a_folder_that_may_not_be_written(nobody: Any, public: pathlib.Path) -> None:
    path = public / "model.pth"
    psd.save(OLD, path)
    path.chmod(0o644)
    public.chmod(0o555)
    with untouched(path), nobody(), pytest.raises(PermissionError):
        psd.save(NEW, path)
    with untouched(path), nobody(), pytest.raises(PermissionError):
        psd.save(NEW, public / "other.pth")


def test_a_file_that_may_not_be_read(nobody: Any, public: pathlib.Path) -> None:
    path = public / "model.pth"
    psd.save(OLD, path)
    path.chmod(0o000)
    with nobody():
        if os.geteuid() == path.stat().st_uid and os.access(path, os.R_OK):
            pytest.skip("permissions do not bind here")
        for call in (psd.load, psd.open, psd.scan, psd.identify):
            with pytest.raises(PermissionError):
                call(path)


def test_a_file_of_somebody_else(nobody: Any, public: pathlib.Path) -> None:
    """It may be replaced, as the folder allows; its owner is not asked to change."""
    path = public / "model.pth"
    psd.save(OLD, path)
    path.chmod(0o644)
    with nobody():
        me = os.geteuid()
        psd.save(NEW, path)
    assert same(psd.load(path))
    assert path.stat().st_uid == me
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in public.iterdir()] == ["model.pth"]


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root gives away")
def test_the_owner_is_kept(public: pathlib.Path) -> None:
    path = public / "model.pth"
    psd.save(OLD, path)
    os.chown(path, 65534, 65534)
    psd.save(NEW, path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o444, 0o400])
def test_the_mode_is_kept(path: pathlib.Path, mode: int) -> None:
    path.chmod(mode)
    psd.save(NEW, path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_usual_mode(folder: pathlib.Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        psd.save(OLD, folder / "new.pth")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "new.pth").stat().st_mode) == 0o666 & ~umask


def test_a_read_only_file_is_replaced(path: pathlib.Path) -> None:
    path.chmod(0o444)
    psd.save(NEW, path)
    assert same(psd.load(path))


def test_a_missing_folder(folder: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        psd.save(NEW, folder / "nowhere" / "model.pth")
    assert list(folder.iterdir()) == []


def test_a_folder_in_the_place(folder: pathlib.Path) -> None:
    place = folder / "model.pth"
    place.mkdir()
    (place / "inside").write_text("x")
    with pytest.raises(OSError):
        psd.save(NEW, place)
    assert [p.name for p in folder.iterdir()] == ["model.pth"]
    assert (place / "inside").read_text() == "x"


def test_a_file_in_the_place_of_a_folder(path: pathlib.Path) -> None:
    with untouched(path), pytest.raises(OSError):
        psd.save(NEW, path / "model.pth")


@pytest.mark.parametrize("kind", ["str", "bytes path", "Path", "relative", "bare"])
def test_kinds_of_paths(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(folder)

    class Bytes:
        def __fspath__(self) -> bytes:
            return os.fsencode(folder / "model.pth")

    where: Any = {
        "str": str(folder / "model.pth"),
        "bytes path": Bytes(),
        "Path": folder / "model.pth",
        "relative": "./model.pth",
        "bare": "model.pth",
    }[kind]
    psd.save(NEW, where)
    assert same(psd.load(where))
    assert [p.name for p in folder.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("name", ["a" * 255, "ö" * 127, "中" * 85, "\U0001f600" * 63, "x.pth"])
def test_names_of_the_greatest_length(folder: pathlib.Path, name: str) -> None:
    path = folder / name
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    psd.save(NEW, path, trainable=False)
    assert same(psd.load(path, trainable=False))
    assert [p.name for p in folder.iterdir()] == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_no_text(folder: pathlib.Path) -> None:
    path = folder / os.fsdecode(b"caf\xe9\xff.pth")
    psd.save(OLD, path)
    assert np.array_equal(psd.load(path)["w"], OLD["w"])
    assert os.listdir(os.fsencode(folder)) == [b"caf\xe9\xff.pth"]


@posix
class TestSpecialFiles:
    """They are written to; a file that took their place would be a disaster."""

    def test_a_named_pipe(self, folder: pathlib.Path) -> None:
        pipe = folder / "pipe"
        os.mkfifo(pipe)
        taken: list[bytes] = []
        thread = threading.Thread(target=lambda: taken.append(pipe.read_bytes()), daemon=True)
        thread.start()
        psd.save(NEW, pipe)
        thread.join(30)  # it would wait for ever if the pipe were replaced
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert taken == [whole()]
        assert [p.name for p in folder.iterdir()] == ["pipe"]

    def test_a_device(self, folder: pathlib.Path) -> None:
        null = folder / "null"
        null.symlink_to("/dev/null")
        before = os.stat("/dev/null").st_ino
        psd.save(NEW, null)
        assert os.stat("/dev/null").st_ino == before
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        assert [p.name for p in folder.iterdir()] == ["null"]

    @pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev/stdout")
    def test_the_standard_output(self) -> None:
        code = "import numpy as np, pystatedict as psd\npsd.save({'w': np.ones(3)}, '/dev/stdout')"
        done = subprocess.run(
            [sys.executable, "-c", code], env=run.environment(), capture_output=True, check=False
        )
        assert done.stdout == whole({"w": np.ones(3)}), done.stderr

    def test_no_overwriting(self, folder: pathlib.Path) -> None:
        with pytest.raises(FileExistsError):
            psd.save(NEW, "/dev/null", overwrite=False)


@posix
class TestLinks:
    def test_a_link_stays_a_link(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        (folder / "elsewhere").mkdir()
        link = folder / "elsewhere" / "link.pth"
        link.symlink_to(path)
        psd.save(NEW, link)
        assert link.is_symlink()
        assert link.readlink() == path
        assert not path.is_symlink()
        assert same(psd.load(path))
        assert [p.name for p in link.parent.iterdir()] == ["link.pth"]

    def test_a_chain_of_relative_links(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        (folder / "a").symlink_to("b")
        (folder / "b").symlink_to("model.pth")
        psd.save(NEW, folder / "a")
        assert (folder / "a").is_symlink()
        assert (folder / "b").is_symlink()
        assert same(psd.load(path))

    def test_a_link_to_nothing_yet(self, folder: pathlib.Path) -> None:
        link = folder / "link.pth"
        link.symlink_to("model.pth")
        psd.save(NEW, link)
        assert link.is_symlink()
        assert same(psd.load(folder / "model.pth"))

    def test_a_link_to_itself(self, folder: pathlib.Path) -> None:
        link = folder / "link.pth"
        link.symlink_to("link.pth")
        with pytest.raises(OSError):
            psd.save(NEW, link)
        assert link.is_symlink()

    def test_a_failure_behind_a_link(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        link = folder / "link.pth"
        link.symlink_to(path)
        with untouched(path), pytest.raises(TypeError):
            psd.save({"f": object()}, link)
        assert link.is_symlink()

    def test_a_hard_link_keeps_the_old(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        other = folder / "other.pth"
        other.hardlink_to(path)
        psd.save(NEW, path)
        assert np.array_equal(psd.load(other)["w"], OLD["w"])
        assert same(psd.load(path))

    def test_no_overwriting_through_links(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        link = folder / "link.pth"
        link.symlink_to(path)
        with untouched(path), pytest.raises(FileExistsError):
            psd.save(NEW, link, overwrite=False)
        path.unlink()
        with pytest.raises(FileExistsError):
            psd.save(NEW, link, overwrite=False)
        assert [p.name for p in folder.iterdir()] == ["link.pth"]


# ------------------------------------------------------------------ overwrite=False


def test_not_overwriting(path: pathlib.Path, folder: pathlib.Path) -> None:
    with untouched(path), pytest.raises(FileExistsError, match="overwrite"):
        psd.save(NEW, path, overwrite=False)
    psd.save(NEW, folder / "new.pth", overwrite=False)
    assert same(psd.load(folder / "new.pth"))
    assert {p.name for p in folder.iterdir()} == {"model.pth", "new.pth"}


def test_not_overwriting_who_came_meanwhile(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "new.pth"
    fsync = os.fsync

    def meanwhile(fd: int) -> None:
        fsync(fd)
        if not path.exists():
            path.write_bytes(b"mine")

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(FileExistsError):
        psd.save(NEW, path, overwrite=False)
    assert path.read_bytes() == b"mine"
    assert [p.name for p in folder.iterdir()] == ["new.pth"]


@posix
def test_a_new_file_keeps_its_mode_without_overwriting(folder: pathlib.Path) -> None:
    before = os.umask(0o027)
    try:
        psd.save(NEW, folder / "new.pth", overwrite=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "new.pth").stat().st_mode) == 0o640
    assert (folder / "new.pth").stat().st_nlink == 1


def test_only_one_of_many_comes_first(folder: pathlib.Path) -> None:
    path = folder / "new.pth"
    start = threading.Barrier(8)
    won: list[int] = []

    def work(number: int) -> None:
        start.wait()
        with contextlib.suppress(FileExistsError):
            psd.save({"w": np.full(1000, number)}, path, overwrite=False)
            won.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (psd.load(path)["w"] == won[0]).all()
    assert [p.name for p in folder.iterdir()] == ["new.pth"]


# ------------------------------------------------------------------ two writers


def test_two_writers_at_once(path: pathlib.Path) -> None:
    """Readers meet one or the other, whole; nothing is left when both are done."""
    start = threading.Barrier(4)
    done = threading.Event()
    failures: list[BaseException] = []

    def write(number: int) -> None:
        obj = {f"w{i}": np.full(20_000, number, np.float32) for i in range(8)}
        start.wait()
        for _ in range(15):
            psd.save(obj, path)

    def read() -> None:
        start.wait()
        while not done.is_set():
            found = psd.load(path, verify=True)
            if "w" not in found:
                values = {float(v) for a in found.values() for v in (a[0], a[-1], a[9999])}
                assert len(found) == 8
                assert len(values) == 1

    def guarded(work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=guarded, args=(write, i)) for i in range(3)]
    reader = threading.Thread(target=guarded, args=(read,))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert [p.name for p in path.parent.iterdir()] == ["model.pth"]


def test_leftovers_of_a_killed_process_are_left_alone(folder: pathlib.Path) -> None:
    """Also of one that had our number, as processes of containers do."""
    code = (
        "import os, sys, numpy as np, pystatedict as psd\n"
        "for n in range(120):\n"
        "    open(f'.model.pth.{os.getpid():x}-{n:x}.part', 'w').write('not mine')\n"
        "psd.save({'w': np.ones(3)}, 'model.pth')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=run.environment(), cwd=folder, check=False
    )
    assert done.returncode == 0
    assert psd.load(folder / "model.pth")["w"].sum() == 3
    others = [p for p in folder.iterdir() if p.name != "model.pth"]
    assert len(others) == 120
    assert {p.read_text() for p in others} == {"not mine"}


@posix
class TestLeftovers:
    """What a process has left that was killed between the link and the rename."""

    @pytest.fixture(autouse=True)
    def way(self) -> str:
        return "unnamed"

    @pytest.fixture
    def left(self, path: pathlib.Path) -> pathlib.Path:
        return path.with_name(".model.pth.pystatedict.part")

    def test_of_a_dead_process(self, path: pathlib.Path, left: pathlib.Path) -> None:
        left.write_bytes(b"half a model")
        psd.save(NEW, path)
        assert same(psd.load(path))
        assert [p.name for p in path.parent.iterdir()] == ["model.pth"]

    def test_of_a_living_process(self, path: pathlib.Path, left: pathlib.Path) -> None:
        import fcntl

        left.write_bytes(b"not mine")
        with open(left, "rb") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)
            psd.save(NEW, path)
        assert same(psd.load(path))
        assert left.read_bytes() == b"not mine"
        assert len(list(path.parent.iterdir())) == 2

    @pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
    def test_of_another_kind(self, path: pathlib.Path, left: pathlib.Path, kind: str) -> None:
        if kind == "pipe":
            os.mkfifo(left)
        elif kind == "link":
            left.symlink_to(path)
        else:
            left.mkdir()
        psd.save(NEW, path)
        assert same(psd.load(path))
        assert {p.name for p in path.parent.iterdir()} == {
            "model.pth",
            ".model.pth.pystatedict.part",
        }

    def test_not_of_this_target(self, path: pathlib.Path, left: pathlib.Path) -> None:
        left.write_bytes(b"half a model")
        psd.save(NEW, path.with_name("other.pth"))
        assert left.read_bytes() == b"half a model"


# ------------------------------------------------------------------ what write() says


class Saying:
    """A file whose write() says what it is told, and takes as many."""

    def __init__(self, say: Callable[[int, int], Any]) -> None:
        self.say, self.taken, self.calls = say, bytearray(), 0

    def write(self, data: memoryview) -> Any:
        self.calls += 1
        said = self.say(len(data), self.calls)
        try:
            self.taken += data[: len(data) if said is None else int(said)]
        except (TypeError, ValueError):
            pass
        return said


SHORT: dict[str, Callable[[int, int], Any]] = {
    "all": lambda size, _: size,
    "None": lambda _size, _: None,
    "half": lambda size, _: (size + 1) // 2,
    "at most 77,777": lambda size, _: min(size, 77_777),
    "one, then all": lambda size, n: 1 if n % 2 else size,
    "None, sometimes": lambda size, n: None if n % 2 else (size + 1) // 2,
    "NumPy's integers": lambda size, _: np.int64(min(size, 100_000)),
}


@pytest.mark.parametrize("say", SHORT)
def test_short_writes(say: str) -> None:
    target = Saying(SHORT[say])
    psd.save(NEW, target)
    assert bytes(target.taken) == whole()


def test_one_byte_at_a_time() -> None:
    target = Saying(lambda _size, _: 1)
    psd.save(OLD, target)
    assert bytes(target.taken) == whole(OLD)
    assert target.calls == len(whole(OLD))


@pytest.mark.parametrize("said", [0, -1, -(1 << 70), 1 << 70, 1 << 63, "more"])
def test_numbers_that_cannot_be(said: Any) -> None:
    target = Saying(lambda size, _: size + 1 if said == "more" else said)
    with pytest.raises(OSError, match="says it took"):
        psd.save(OLD, target)
    assert target.calls == 1


@pytest.mark.parametrize("said", [True, False, "5", b"5", 5.0, [], object()])
def test_answers_that_are_no_numbers(said: Any) -> None:
    """A writer that answers True has said nothing of how many bytes it took."""
    target = Saying(lambda _size, _: said)
    with pytest.raises(TypeError, match="number of bytes"):
        psd.save(OLD, target)
    assert target.calls == 1


def test_a_coroutine_is_no_writer() -> None:
    class Target:
        async def write(self, data: memoryview) -> int:
            return len(data)

    with (
        pytest.warns(RuntimeWarning, match="never awaited"),
        pytest.raises(TypeError, match="number of bytes"),
    ):
        psd.save(OLD, Target())


def test_an_index_that_fails() -> None:
    class Bad:
        def __index__(self) -> int:
            raise Trouble

    with pytest.raises(Trouble):
        psd.save(OLD, Saying(lambda _size, _: Bad()))


@pytest.mark.parametrize("target", [None, 5, object(), {"w": 1}, b"bytes"])
def test_what_is_no_target(target: Any) -> None:
    with pytest.raises(TypeError):
        psd.save(OLD, target)


def test_a_file_of_text(folder: pathlib.Path) -> None:
    for file in (io.StringIO(), open(folder / "text", "w")):  # noqa: SIM115
        with file, pytest.raises(TypeError):
            psd.save(OLD, file)


def test_a_closed_file(folder: pathlib.Path) -> None:
    with open(folder / "closed", "wb") as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        psd.save(OLD, file)


@posix
def test_a_pipe_that_does_not_block() -> None:
    """A raw file's None means that nothing was taken."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with (
        os.fdopen(reading, "rb"),
        os.fdopen(writing, "wb", buffering=0) as file,
        pytest.raises(BlockingIOError),
    ):
        psd.save(NEW, file)


def drain(read: Callable[[], bytes]) -> tuple[threading.Thread, list[bytes]]:
    taken: list[bytes] = []

    def work() -> None:
        while piece := read():
            taken.append(piece)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, taken


@posix
@pytest.mark.parametrize("buffering", [0, -1])
def test_a_pipe(buffering: int) -> None:
    reading, writing = os.pipe()
    thread, taken = drain(lambda: os.read(reading, 12_345))
    with os.fdopen(writing, "wb", buffering=buffering) as file:
        psd.save(NEW, file)
    thread.join()
    os.close(reading)
    assert b"".join(taken) == whole()


@posix
def test_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread, taken = drain(lambda: theirs.recv(54_321))
        with ours.makefile("wb", buffering=0) as file:
            psd.save(NEW, file)
        ours.shutdown(socket.SHUT_WR)
        thread.join()
    assert b"".join(taken) == whole()


@posix
def test_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as file, pytest.raises(BrokenPipeError):
        psd.save(NEW, file)


def test_other_writers(folder: pathlib.Path) -> None:
    import bz2
    import gzip
    import zipfile

    for kind in (gzip, bz2):
        with kind.open(folder / "m", "wb") as file:
            psd.save(NEW, file)
        with kind.open(folder / "m", "rb") as file:
            assert file.read() == whole()
    with zipfile.ZipFile(folder / "outer.zip", "w") as outer:
        with outer.open("m.pth", "w") as file:
            psd.save(NEW, file)
        assert outer.read("m.pth") == whole()
    with tempfile.SpooledTemporaryFile(max_size=1000) as file:
        psd.save(NEW, file)
        file.seek(0)
        assert file.read() == whole()


def test_a_file_object_is_written_from_its_position(folder: pathlib.Path) -> None:
    with open(folder / "m", "wb") as file:
        file.write(b"before")
        psd.save(OLD, file)
        file.write(b"after")
        assert not file.closed
    assert (folder / "m").read_bytes() == b"before" + whole(OLD) + b"after"


# ------------------------------------------------------------------ replacing() itself


def test_the_folder_is_synced_after_the_rename(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def noted_replace(*names: Any) -> None:
        done.append("replace")
        replace(*names)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    psd.save(NEW, path)
    assert done[:3] == (
        ["file", "replace", "folder"] if os.name == "posix" else ["file", "replace"]
    )


def test_no_descriptor_is_left(path: pathlib.Path) -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    before = sorted(os.listdir("/proc/self/fd"))
    psd.save(NEW, path)
    for obj in ({"f": object()}, Trouble):
        with pytest.raises(TypeError):
            psd.save(obj, path)
    with pytest.raises(Trouble), _targets.replacing(str(path)):
        raise Trouble
    assert sorted(os.listdir("/proc/self/fd")) == before
