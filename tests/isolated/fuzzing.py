# SPDX-License-Identifier: Apache-2.0
"""Changed files: whatever comes in, a result or a StateDictError comes out.

    python fuzzing.py SEED COUNT SECONDS INPUT

Tries COUNT files of the kinds that we read, changed by chance, or as many as fit into SECONDS
if that is not 0; the same seed gives the same files.  Each is left in INPUT before it is tried,
so that a crash names it, and `python fuzzing.py INPUT` tries it again.  Prints what was done.
"""

from __future__ import annotations

import faulthandler
import io
import json
import pathlib
import random
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fuzz"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import kit
import numpy as np
import seeds

import pystatedict as psd

HERE = pathlib.Path(__file__).resolve().parent
MOST = 48 << 10  # bytes of a file that is worth changing
HANG = 30  # seconds that one input may take
MEMORY = 1 << 30  # bytes that the process may take more than it has


# ------------------------------------------------------------------ files


def files() -> list[bytes]:
    """One or more of every kind: real ones, and those of the C fuzzers."""
    found = [
        path.read_bytes()
        for path in sorted((HERE.parent / "data").rglob("*"))
        if path.is_file() and path.suffix not in {".json", ".py"} and path.stat().st_size <= MOST
    ]
    found += [data for _, data in sorted((seeds.archives() | seeds.checkpoints()).items())]
    found += seeds.cut(seeds.archives()).values()
    plain = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array(2.5)}
    found += [kit.saved(plain, format=name) for name in ("zip", "legacy", "safetensors", "npz")]
    return found


EDGES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1]


def changed_bytes(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """A few changes anywhere."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(out) + 1)
        way = chance.randrange(8)
        if way == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif way == 1 and at < len(out):
            out[at] = chance.randrange(256)
        elif way == 2:
            size = chance.choice((1, 2, 4, 8))
            out[at : at + size] = (chance.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(
                size, "little"
            )
        elif way == 3:
            del out[at : at + chance.choice((1, 2, 8, 64))]
        elif way == 4:
            out[at:at] = out[at : at + chance.choice((1, 4, 32))]
        elif way == 5 and chance.randrange(4) == 0:
            del out[at:]
        elif way == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            out[at:at] = other[start : start + chance.choice((4, 32, 256))]
        else:
            out[at : at + 1] = bytes([chance.choice(b"\x80().NRQtb}]eus\x81\x85h0K\x93\x94")])
    return bytes(out)


def changed_records(data: bytes, chance: random.Random, others: list[bytes]) -> bytes | None:
    """A zip archive with one record changed, dropped or renamed, and checksums that fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # zipfile has many ways to dislike a file
        return None
    pickles = [name for name in records if name.endswith((".pkl", ".npy", ".json", ".py"))]
    name = chance.choice(pickles if pickles and chance.randrange(4) else list(records) or [""])
    if not name:
        return None
    way = chance.randrange(12)
    if way == 0:
        del records[name]
    elif way == 1:
        records[changed_bytes(name.encode(), chance, others)[:64].decode("latin1")] = records.pop(
            name
        )
    else:
        records[name] = changed_bytes(records[name], chance, others)
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for entry, content in records.items():
            archive.writestr(zipfile.ZipInfo(entry.replace("\0", "_") or "_"), content, method)
    return sink.getvalue()


def changed(chance: random.Random, whole: list[bytes]) -> bytes:
    data = chance.choice(whole)
    found = changed_records(data, chance, whole) if chance.randrange(2) else None
    return changed_bytes(data, chance, whole) if found is None else found


# ------------------------------------------------------------------ what is promised


def attempt(what: Callable[[], Any], done: Counter[str]) -> Any:
    """The result, or None of what was refused as it should be."""
    try:
        found = what()
    except psd.StateDictError as error:
        assert str(error) and repr(error)
        done[type(error).__name__] += 1
        return None
    done["results"] += 1
    return found


def look(data: Any) -> int:
    with psd.open(data) as checkpoint:
        for name in checkpoint:
            info = checkpoint[name]
            assert repr(info) and info.nbytes >= 0 and len(info.shape) == info.ndim
            if not info.is_meta:
                attempt(info.numpy, Counter())
        return len(checkpoint)


def repaired(data: Any) -> bytes:
    sink = io.BytesIO()
    try:
        psd.repair(data, sink)
    except (TypeError, ValueError) as error:  # save() has no form for what was kept
        assert str(error)
    return sink.getvalue()


def saved(value: Any) -> bytes | None:
    """What save() makes of it; None where it says that it has no form for it."""
    try:
        return kit.saved(value, opaque=True, trainable=False)
    except (TypeError, ValueError, psd.StateDictError) as error:
        assert str(error)
        return None


def same_again(value: Any, done: Counter[str]) -> None:
    """What was loaded can be saved and loaded, and is the same then."""
    first = saved(value)
    if first is None:
        done["not saved"] += 1
        return
    again = psd.load(first, dangerous="opaque")
    mine, theirs = kit.arrays_in(value), kit.arrays_in(again)
    assert len(mine) == len(theirs)
    for (where, a), (_, b) in zip(mine, theirs, strict=True):
        kit.same_array(a, b, where)
    second = kit.saved(again, opaque=True, trainable=False)
    if b"getattr" in first:  # by which names with dots are spelled: an Opaque of its own
        first = second
        second = kit.saved(psd.load(first, dangerous="opaque"), opaque=True, trainable=False)
    assert second == first, "saved otherwise"
    done["saved"] += 1


def judge(data: bytes | pathlib.Path) -> Counter[str]:
    """Try all that can be done with a file; anything but a StateDictError passes on."""
    done: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attempt(lambda: psd.identify(data), done)
        attempt(lambda: look(data), done)
        report = attempt(lambda: psd.scan(data), done)
        assert report is None or repr(report)
        attempt(lambda: psd.verify(data), done)
        attempt(lambda: list(psd.items(data, trainable=True)), done)
        attempt(lambda: psd.load(data, map_location="meta"), done)
        value = attempt(lambda: psd.load(data, dangerous="opaque"), done)
        if value is not None:
            same_again(value, done)
        fixed = attempt(lambda: repaired(data), done)
        if fixed:
            attempt(lambda: psd.load(fixed, dangerous="opaque"), done)
    return done


# ------------------------------------------------------------------ running


def bound_memory() -> None:
    if sys.platform != "linux":
        return
    import resource

    from isolated.run import SANITIZED

    if not SANITIZED:  # whose shadow is larger than any bound
        taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        most = taken * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(seed: int, count: int, seconds: float, place: pathlib.Path) -> Counter[str]:
    chance, whole = random.Random(seed), files()
    total: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while (time.monotonic() < until) if seconds else total["files"] < count:
        data = changed(chance, whole)
        place.write_bytes(data)
        faulthandler.dump_traceback_later(HANG, exit=True)
        total += judge(place if total["files"] % 2 else data)
        total["files"] += 1
    faulthandler.cancel_dump_traceback_later()
    return total


def main() -> None:
    if len(sys.argv) not in {2, 5}:
        sys.exit(__doc__)
    bound_memory()
    if len(sys.argv) == 2:
        print(json.dumps(judge(pathlib.Path(sys.argv[1]).read_bytes())))
        return
    seed, count, seconds, place = sys.argv[1:]
    print(json.dumps(run(int(seed), int(count), float(seconds), pathlib.Path(place))))


if __name__ == "__main__":
    main()
