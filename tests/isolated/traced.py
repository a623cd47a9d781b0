# SPDX-License-Identifier: Apache-2.0
"""Save or read once, when told to: python traced.py SCENARIO PATH

For test_faults.py, which watches the process from outside.  Says "ready" and waits until
it is traced; then prints the class of the exception, if there is one: Wrong if what was
read is not what was saved.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

import pystatedict as psd
from pystatedict import _targets

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


def right(found: Any) -> None:
    if not np.array_equal(found["w"], NEW["w"]):
        raise Wrong


def mapped(path: str) -> None:
    right(psd.load(path))


def copied(path: str) -> None:
    right(psd.load(path, mmap=False))


def opened(path: str) -> None:
    with psd.open(path) as checkpoint:
        right({"w": checkpoint["w"].numpy()})


def verified(path: str) -> None:
    with psd.open(path) as checkpoint:
        checkpoint.verify()


def scanned(path: str) -> None:
    if psd.scan(path).verdict == "dangerous":
        raise Wrong


class Wrong(BaseException):
    """Not even caught by what catches all errors."""


def main() -> None:
    scenario, path = sys.argv[1:]
    if scenario == "named":
        none: Any = classmethod(lambda cls, folder: None)
        _targets._Unnamed.opened = none  # as where the file system has no such files
    act = globals()[scenario]
    warm = f"{path}.warm"
    psd.save(NEW, warm)
    if scenario == "first":
        os.unlink(warm)
    act(warm)  # whatever is imported on first use
    for name in os.listdir(os.path.dirname(path)):
        if ".warm" in name:
            os.unlink(os.path.join(os.path.dirname(path), name))
    print("ready", flush=True)
    deadline = time.monotonic() + 30
    while os.getppid() != TRACED:  # until strace, which puts it there, has hold of us
        if time.monotonic() > deadline:
            os._exit(99)
        time.sleep(0.001)
    try:
        act(path)
    except BaseException as error:
        print(type(error).__name__, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
