# SPDX-License-Identifier: Apache-2.0
"""Repeat one scenario, and tell what is left behind each time.

    python -X tracemalloc=1 leaks.py SCENARIO FOLDER [TIMES]

Prints what grew, by measure, in each of the rounds.  What leaks does so in every round; a
cache that fills does not, so rounds go on until each measure has had a quiet one.  With
failing_malloc.c preloaded the extension's own memory is counted, too, block by block.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import pathlib
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from probe import Probe
from scenarios import SCENARIOS, scenario, weights

import pystatedict as psd
from pystatedict import _core

TIMES = int(sys.argv[3]) if len(sys.argv) > 3 else 16
ROUNDS_MOST = 6

#: What growth in a round is quiet: less than half a thing each time, or half a large block;
#: of many times, less than one in a hundred.
QUIET = max(8, TIMES // 100)
QUIET_BYTES = QUIET * 512

#: Things that are shared by everything, so that a reference too many is seen nowhere else.
SHARED: dict[str, Any] = {
    "float32": np.dtype("f4"),
    "Source": _core.Source,
    "TensorInfo": psd.TensorInfo,
    "Archive": type(psd.open(sys.argv[2] + "/weights.pth").archive),
    "_core": _core,
}
if sys.version_info < (3, 12):
    # Later these never die, and their counts say nothing.
    SHARED |= {"None": None, "True": True, "False": False, "()": (), "ndarray": np.ndarray}
#: So many that a missing one is counted before it is felt.
SPARE = [list(SHARED.values()) for _ in range(5000)]


def measures() -> dict[str, Callable[[], int]]:
    told: dict[str, Callable[[], int]] = {
        "objects": sys.getallocatedblocks,
        "bytes": lambda: tracemalloc.get_traced_memory()[0],
        "descriptors": lambda: len(os.listdir("/proc/self/fd")),
        "maps": lambda: sum(1 for line in open("/proc/self/maps") if ".pth" in line),  # noqa: SIM115
    }
    for name, thing in SHARED.items():
        told[f"references to {name}"] = lambda thing=thing: sys.getrefcount(thing)
    library = ctypes.CDLL(None)
    if hasattr(library, "probe_start"):
        probe = Probe(library, _core.__file__)
        probe.start(0)
        told["blocks"] = probe.live
    return told


# ------------------------------------------------------------------ leaks on purpose

_KEPT: list[Any] = []
_TURNS = itertools.count()


@scenario
def leak_object(folder: pathlib.Path) -> object:
    return _KEPT.append(object())


@scenario
def leak_seldom(folder: pathlib.Path) -> object:
    return _KEPT.append(object() if next(_TURNS) % 50 == 0 else None)


@scenario
def leak_map(folder: pathlib.Path) -> object:
    return _KEPT.append(psd.load(folder / "weights.pth"))


@scenario
def leak_archive(folder: pathlib.Path) -> object:
    archive = psd.open(folder / "weights.pth").archive
    archive.close()
    return _KEPT.append(archive)


@scenario
def leak_backwards(folder: pathlib.Path) -> object:
    """One reference too many is let go."""
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(psd.TensorInfo))
    return None


@scenario
def leak_reference(folder: pathlib.Path) -> object:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(psd.TensorInfo))
    return weights().metadata is None


# ------------------------------------------------------------------


def settle() -> None:
    """Empty what fills by itself: cycles, and the cache of attributes by type.

    Without a GIL the dicts of collected objects wait for the next collection.
    """
    gc.collect()
    gc.collect()
    getattr(sys, "_clear_type_cache", int)()


def is_quiet(measure: str, growth: int) -> bool:
    if measure.startswith("references"):
        growth = abs(growth)  # too many let go are worse
    return growth < (QUIET_BYTES if measure == "bytes" else QUIET)


def main(name: str, folder: pathlib.Path) -> None:
    run = SCENARIOS[name]
    run(folder)
    told = measures()
    growth: dict[str, list[int]] = {measure: [] for measure in told}
    restless = set(told)
    while restless and len(growth["bytes"]) < ROUNDS_MOST:
        settle()
        before = {measure: value() for measure, value in told.items()}
        for _ in range(TIMES):
            run(folder)
        settle()
        for measure, value in told.items():
            growth[measure].append(value() - before[measure])
            if is_quiet(measure, growth[measure][-1]):
                restless.discard(measure)
    print(json.dumps({measure: growth[measure] for measure in sorted(restless)}), flush=True)
    os._exit(0)  # with what was let go too often there is no orderly end


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
