# SPDX-License-Identifier: Apache-2.0
"""What is repeated in a process of its own: each scenario is a function of a folder of
files that `make_files` has filled, and lets go of all it made.

Used by leaks.py (nothing may be left behind), nomemory.py (every allocation fails once)
and session.py (under valgrind).
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

import pystatedict as psd
from pystatedict import _core, _values
from pystatedict._reduce import Reducer

Folder = pathlib.Path
SCENARIOS: dict[str, Callable[[Folder], object]] = {}


def scenario(function: Callable[[Folder], object]) -> Callable[[Folder], object]:
    SCENARIOS[function.__name__] = function
    return function


# ------------------------------------------------------------------ files


def weights() -> psd.StateDict:
    base = np.arange(60, dtype=np.float32)
    return psd.StateDict(
        {
            "fc.weight": base[:48].reshape(6, 8),
            "fc.tied": base[8:48].reshape(5, 8).T,
            "bias": np.ones(7, dtype=ml_dtypes.bfloat16),
            "mask": np.array([True, False, True]),
            "steps": np.array(3, dtype=np.int64),
            "empty": np.zeros((0, 4), np.float16),
        },
        metadata=OrderedDict([("", {"version": 1})]),
        trainable={"fc.weight": True, "bias": False},
    )


def training() -> dict[str, Any]:
    shared = [1, 2.5, "three", None, True]
    cycle: list[Any] = [shared]
    cycle.append(cycle)
    return {
        "epoch": 3,
        "model": weights(),
        "optimizer": {"state": {0: {"step": np.zeros(3, np.float64)}}, "groups": [shared]},
        "rng": (np.arange(20, dtype=np.uint8), 1 << 80, -(1 << 70)),
        "names": {"a", "b"},
        "frozen": frozenset({1, 2}),
        "bytes": b"\x00\xff" * 20,
        "raw": bytearray(b"xyz"),
        "text": "\ud800 lone",
        "scalar": np.float32(1.5),
        "words": np.array(["x", "yy"]),
        "complex": 1j,
        "range": range(4),
        "cycle": cycle,
        "deep": [[[[[[["leaf"]]]]]]],
    }


def rezip(
    source: Folder, target: Folder, compression: int = zipfile.ZIP_STORED, **changed: bytes
) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            record = name.partition("/")[2]
            new.writestr(name, changed.get(record, old.read(name)))


def make_files(folder: Folder) -> None:
    psd.save(weights(), folder / "weights.pth", trainable=False)
    psd.save(weights(), folder / "flags.pth", trainable="sidecar")
    psd.save(weights(), folder / "parameters.pth", trainable="parameters")
    psd.save(training(), folder / "training.pth", trainable=False)
    meeting = {"a.b": np.zeros(1, np.float32), "a": {"b": np.zeros((2, 3), np.float32)}}
    psd.save(meeting, folder / "meeting.pth")
    rezip(folder / "weights.pth", folder / "deflated.pth", zipfile.ZIP_DEFLATED)
    rezip(folder / "weights.pth", folder / "big.pth", byteorder=b"big")
    whole = (folder / "weights.pth").read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "weights.pth") as archive:
        storage = next(i for i in archive.infolist() if i.filename.endswith("data/0"))
        pickle = archive.read("archive/data.pkl")
    at = whole.index(pickle)
    broken = bytearray(whole)
    broken[at + len(pickle) // 2] ^= 0x5A
    (folder / "broken.pth").write_bytes(broken)
    flipped = bytearray(whole)
    data = np.arange(60, dtype=np.float32)[:48].tobytes()
    flipped[whole.index(data, storage.header_offset) + 5] ^= 1
    (folder / "flipped.pth").write_bytes(flipped)
    (folder / "text.pth").write_text("no checkpoint\n" * 20)
    rezip(
        folder / "weights.pth", folder / "nonsense.pth", **{"data.pkl": b"\x80\x02]q\x00(K\x01u."}
    )
    rezip(folder / "weights.pth", folder / "unhashable.pth", **{"data.pkl": b"\x80\x02}(]K\x01u."})
    rezip(
        folder / "weights.pth",
        folder / "dangerous.pth",
        **{"data.pkl": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."},
    )
    rezip(
        folder / "weights.pth",
        folder / "opaque.pth",
        **{"data.pkl": b"\x80\x02cmy.module\nThing\n)\x81}X\x01\x00\x00\x00aK\x01sb."},
    )


# ------------------------------------------------------------------ reading


def total(obj: Any) -> float:
    return sum(float(np.asarray(a, np.float64).sum()) for a in obj.values())


@scenario
def load(folder: Folder) -> object:
    return total(psd.load(folder / "weights.pth"))


@scenario
def load_copy(folder: Folder) -> object:
    return total(psd.load(folder / "weights.pth", copy=True))


@scenario
def load_read(folder: Folder) -> object:
    return total(psd.load(folder / "weights.pth", mmap=False))


@scenario
def load_bytes(folder: Folder) -> object:
    return total(psd.load((folder / "weights.pth").read_bytes()))


@scenario
def load_file_object(folder: Folder) -> object:
    with open(folder / "weights.pth", "rb") as file:
        return total(psd.load(file))


@scenario
def load_stream(folder: Folder) -> object:
    return total(psd.load(io.BytesIO((folder / "weights.pth").read_bytes())))


@scenario
def load_meta(folder: Folder) -> object:
    return [info.shape for info in psd.load(folder / "weights.pth", "meta").values()]


@scenario
def load_deflated(folder: Folder) -> object:
    return total(psd.load(folder / "deflated.pth", verify=True))


@scenario
def load_big_endian(folder: Folder) -> object:
    return [a.shape for a in psd.load(folder / "big.pth").values()]


@scenario
def load_flags(folder: Folder) -> object:
    sd = psd.load(folder / "flags.pth")
    return dict(sd.trainable), [name for name, _ in sd.named_parameters()]


@scenario
def load_parameters(folder: Folder) -> object:
    sd = psd.load(folder / "parameters.pth")
    return dict(sd.trainable), sd.info("bias").requires_grad


@scenario
def load_training(folder: Folder) -> object:
    obj = psd.load(folder / "training.pth")
    names = sorted(map(str, obj))
    obj["cycle"].clear()  # not even the collector is needed
    return names


@scenario
def load_opaque(folder: Folder) -> object:
    return repr(psd.load(folder / "opaque.pth"))


@scenario
def load_root(folder: Folder) -> object:
    return sorted(psd.load(folder / "training.pth", root="model"))


@scenario
def look(folder: Folder) -> object:
    with psd.open(folder / "training.pth") as checkpoint:
        told = [
            (i.name, i.shape, i.stride, i.dtype, i.storage, i.device, i.nbytes, repr(i))
            for i in checkpoint.values()
        ]
        checkpoint.verify()
        checkpoint.records()
        checkpoint.archive.globals()
        for index in range(len(checkpoint.records())):
            checkpoint.archive.crc32(index)
        checkpoint.archive.read(0)
        return told


@scenario
def look_at_shapes(folder: Folder) -> object:
    with psd.open(folder / "training.pth") as checkpoint:
        return checkpoint.shapes()


@scenario
def look_at_names_that_meet(folder: Folder) -> object:
    with psd.open(folder / "meeting.pth") as checkpoint:
        return checkpoint.shapes(), list(checkpoint)


@scenario
def pick(folder: Folder) -> object:
    with psd.open(folder / "weights.pth") as checkpoint:
        return [float(np.asarray(info.numpy(), np.float64).sum()) for info in checkpoint.values()]


@scenario
def walk(folder: Folder) -> object:
    return [name for name, _ in psd.items(folder / "training.pth", pattern="*weight")]


@scenario
def scan(folder: Folder) -> object:
    return [len(psd.scan(folder / name)) for name in ("training.pth", "dangerous.pth")]


@scenario
def scan_pickle(folder: Folder) -> object:
    program = b"\x80\x02cos\nsystem\nC\x04\x80\x02K\x01\x85R."
    return _core.scan_pickle(program)[2], _core.scan_pickle(program[:-3])[2]


@scenario
def identify(folder: Folder) -> object:
    return [psd.identify(folder / n) for n in ("weights.pth", "half.pth", "text.pth")]


# ------------------------------------------------------------------ writing


def written(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    psd.save(obj, file, **options)
    return file.getvalue()


@scenario
def save(folder: Folder) -> object:
    return len(written(weights()))


@scenario
def save_training(folder: Folder) -> object:
    obj = training()
    size = len(written(obj))
    obj["cycle"].clear()
    return size


@scenario
def save_loaded(folder: Folder) -> object:
    return len(written(psd.load(folder / "parameters.pth")))


@scenario
def save_path(folder: Folder) -> object:
    psd.save(weights(), folder / "new.pth", trainable="sidecar")
    return (folder / "new.pth").stat().st_size


@scenario
def save_over_mapped(folder: Folder) -> object:
    sd = psd.load(folder / "flags.pth")
    psd.save(sd, folder / "flags.pth", trainable="sidecar")
    return total(sd)


@scenario
def save_awkward(folder: Folder) -> object:
    a = np.arange(24, dtype=">f4").reshape(4, 6)
    return len(written({"swapped": a, "reversed": a[::-1], "odd": a[:, 1::2], "same": a}))


class Keeper:
    """Keeps views of what it was given, and never copies."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []

    def write(self, view: memoryview) -> None:
        self.views.append(view[:])


@scenario
def save_kept_views(folder: Folder) -> object:
    keeper = Keeper()
    psd.save({"large": np.arange(100_000, dtype=np.float32), "small": np.ones(3)}, keeper)
    return len(b"".join(keeper.views))


# ------------------------------------------------------------------ failing


def refused(*kinds: type[BaseException]) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def expecting() -> Iterator[None]:
        try:
            yield
        except kinds:
            return
        raise AssertionError(f"nothing was raised, not even {kinds[0].__name__}")

    return expecting()


@scenario
def bad_files(folder: Folder) -> object:
    for name in ("half", "broken", "text", "nonsense", "unhashable", "dangerous"):
        with refused(psd.StateDictError):
            psd.load(folder / f"{name}.pth")
    with refused(psd.ChecksumError):
        psd.load(folder / "flipped.pth", verify=True)
    with refused(FileNotFoundError):
        psd.load(folder / "nowhere.pth")
    with refused(psd.LimitError):
        psd.load(folder / "training.pth", limits={"values": 10})
    return None


@scenario
def bad_arguments(folder: Folder) -> object:
    path = folder / "weights.pth"
    with refused(TypeError):
        psd.load(path, limits={"no such": 1})
    with refused(TypeError):
        psd.load(path, limits={b"entries": 1})  # type: ignore[dict-item]
    with refused(OverflowError):
        psd.load(path, limits={"entries": -1})
    with refused(TypeError):
        psd.load(12.5)
    with refused(psd.MissingTensorError):
        psd.load(path, root="nowhere")
    archive = psd.open(path).archive
    with refused(IndexError):
        archive.read(10_000)
    with refused(TypeError):
        archive.verify("one")  # type: ignore[arg-type]
    with refused(IndexError):
        archive.info(10_000, "x")
    with refused(IndexError):
        archive.tensors(1 << 40)
    with refused(TypeError):
        _core.Source("text")  # type: ignore[arg-type]
    with refused(ValueError):
        _core.crc32_by("no such", b"")
    info = archive.info(0, "x")
    archive.close()
    for call in (info.numpy, lambda: archive.read(0), lambda: archive.load(0, _values)):
        with refused(psd.ClosedError):
            call()
    return None


class Fails:
    """A file whose n-th write fails."""

    def __init__(self, n: int, error: BaseException) -> None:
        self.left, self.error = n, error

    def write(self, data: memoryview) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return min(len(data), 1000)


class Answers:
    """A file whose write() gives whatever it was told to."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def write(self, _: memoryview) -> object:
        return self.answer


@scenario
def bad_writes(folder: Folder) -> object:
    for n in range(3):
        with refused(OSError):
            psd.save(training(), Fails(n, OSError(28, "no room")))
    with refused(KeyboardInterrupt):
        psd.save(weights(), Fails(0, KeyboardInterrupt()))
    for answer in (0, -1, 1 << 70, "all", True):
        with refused(OSError, TypeError):
            psd.save(weights(), Answers(answer))
    return None


@scenario
def bad_objects(folder: Folder) -> object:
    for obj in ({"f": len}, {"o": object()}, {"nested": [{"x": {1, object}}, Fails]}):
        with refused(TypeError):
            written(obj)
    with refused(TypeError):
        written(psd.load(folder / "opaque.pth"))
    with refused(TypeError):
        _core.write({1: 2}, None, Reducer())
    return None
