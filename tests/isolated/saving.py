# SPDX-License-Identifier: Apache-2.0
"""Save once, when told to: python saving.py SCENARIO PATH

For test_faults.py, which watches the process from outside.  Says "ready" and waits for a
line; then prints the class of the exception, if there is one.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

import pystatedict as psd
from pystatedict import _files

#: What strace is told to answer for the parent's number.
TRACED = 54321

NEW = {"w": np.zeros(300_000), "s": [1, 2.5]}


def overwrite(path: str) -> None:
    psd.save(NEW, path)


def first(path: str) -> None:
    psd.save(NEW, path, overwrite=False)


def sidecar(path: str) -> None:
    sd = psd.StateDict(NEW)
    sd.trainable["w"] = True
    psd.save(sd, path, trainable="sidecar")


def named(path: str) -> None:
    psd.save(NEW, path)


def main() -> None:
    scenario, path = sys.argv[1:]
    if scenario == "named":
        none: Any = classmethod(lambda cls, folder: None)
        _files._Unnamed.opened = none  # as where the file system has no such files
    save = globals()[scenario]
    save(f"{path}.warm")  # whatever is imported on first use
    for name in os.listdir(os.path.dirname(path)):
        if ".warm" in name:
            os.unlink(os.path.join(os.path.dirname(path), name))
    print("ready", flush=True)
    sys.stdin.readline()
    deadline = time.monotonic() + 30
    while os.getppid() != TRACED:  # until strace, which puts it there, has hold of us
        if time.monotonic() > deadline:
            os._exit(99)
        time.sleep(0.001)
    try:
        save(path)
    except BaseException as error:
        print(type(error).__name__, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
