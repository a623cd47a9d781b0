# SPDX-License-Identifier: Apache-2.0
"""The preloaded allocator of tests/c/failing_malloc.c, as Python sees it."""

from __future__ import annotations

import ctypes
import os
import pathlib


def code_of(path: str) -> tuple[int, int]:
    """Where the code of a shared library lies in this process."""
    real = os.path.realpath(path)
    low, high = 0, 0
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        where, rights, *_ = line.split()
        if "x" in rights and line.endswith(real):
            start, _, end = where.partition("-")
            low = int(start, 16) if low == 0 else low
            high = int(end, 16)
    if high == 0:
        raise RuntimeError(f"{path} is not mapped")
    return low, high


class Probe:
    """Counts the extension's allocations, and makes one of them fail."""

    def __init__(self, library: ctypes.CDLL, path: str) -> None:
        self._range = code_of(path)
        self._start = library.probe_start
        self._start.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_long]
        self._start.restype = None
        self.count = library.probe_count
        self.failures = library.probe_failures
        self.live = library.probe_live
        for function in (self.count, self.failures, self.live):
            function.argtypes = []
            function.restype = ctypes.c_long

    def start(self, n: int) -> None:
        """Count anew; the n-th allocation from now on fails, none for 0."""
        self._start(*self._range, n)
