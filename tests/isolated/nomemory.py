# SPDX-License-Identifier: Apache-2.0
"""Run one scenario again and again; in each run another allocation of the extension fails.

    python nomemory.py SCENARIO FOLDER      with failing_malloc.c preloaded

Prints one JSON object.  Each number is written to stderr before its run, so that a crash
tells where it was.
"""

from __future__ import annotations

import ctypes
import gc
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from probe import Probe
from scenarios import SCENARIOS

from pystatedict import _core


def main(name: str, folder: pathlib.Path) -> None:
    run = SCENARIOS[name]
    probe = Probe(ctypes.CDLL(None), _core.__file__)
    expected = run(folder)  # all imports are done, all caches are warm
    run(folder)
    probe.start(0)
    again = run(folder)
    gc.collect()  # what an exception and its traceback hold of each other
    allocations, live = probe.count(), probe.live()
    told = {"allocations": allocations, "live": live, "absorbed": [], "left": [], "other": []}
    for n in range(1, allocations + 1):
        print(n, file=sys.stderr, flush=True)
        probe.start(n)
        try:
            run(folder)
        except MemoryError:
            pass
        except BaseException as error:
            told["other"].append([n, repr(error)])
        else:
            told["absorbed"].append(n)
        fired = probe.failures()
        probe.start(0)
        if fired != 1:
            told["other"].append([n, f"{fired} failures"])
        if probe.live() != live:
            gc.collect()  # a traceback may have been part of a cycle
        if probe.live() != live:
            told["left"].append([n, probe.live() - live])
            live = probe.live()
    told["sound"] = run(folder) == expected == again
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
