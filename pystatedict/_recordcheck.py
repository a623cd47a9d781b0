# SPDX-License-Identifier: Apache-2.0
"""The records of an archive, held against their checksums: by threads, where they are large."""

from __future__ import annotations

import os
from contextlib import suppress

from pystatedict import _core
from pystatedict._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from pystatedict._cliprogress import Progress
    from pystatedict._opened import Archive


def verify_archive(archive: Archive, alone: bool = False) -> tuple[int, int]:
    """(records checked, records without a CRC); raises at the first bad one.

    `alone`: by this thread, where most of the work was done when the file was read.
    """
    checked = unchecked = 0
    for told in check_records(archive, all=False, alone=alone):
        if isinstance(told, StateDictError):
            told.path = told.path or archive.path
            raise told
        checked += told
        unchecked += not told
    return checked, unchecked


# Bytes from which on threads are worth their starting, and how many there are at the most: the
# memory keeps no more of them busy.
_WORTH_THREADS = 16 << 20
_THREADS_MOST = 4


def check_records(
    archive: Archive, all: bool, alone: bool = False, progress: Progress | None = None
) -> list[bool | StateDictError]:
    """What came of each record in its order: whether it states a CRC, or what is wrong.

    Up to the first bad one, unless `all` are asked for.  `progress` is told of stored bytes.
    """
    records = archive.records()
    threads = 1
    # Of several files the last one is kept open, for who asks in their order.
    together = not alone and isinstance(archive, _core.Archive)
    if together and sum(row[2] for row in records) >= _WORTH_THREADS:
        threads = min(_THREADS_MOST, os.cpu_count() or 1, len(records))
    checks = _Checks(archive, len(records), all)
    if progress is not None:
        checks.tell(progress, [row[2] for row in records])
    if threads > 1:
        checks.run(threads)
    else:
        checks.alone()
    return checks.found()


class _Checks:
    """The records of an archive, checked in their order by some threads."""

    def __init__(self, archive: Archive, count: int, all: bool) -> None:
        self._archive = archive
        self._left = iter(range(count))
        self._all = all
        self._told: list[bool | BaseException | None] = [None] * count
        self._progress: Progress | None = None
        self._sizes: list[int] = []

    def tell(self, progress: Progress, sizes: list[int]) -> None:
        progress.add(sum(sizes))
        self._progress, self._sizes = progress, sizes

    def run(self, threads: int) -> None:
        from threading import Lock, Thread

        lock, others = Lock(), []
        try:
            with suppress(RuntimeError):  # no more threads are to be had
                for _ in range(threads - 1):
                    other = Thread(target=self._work, args=(lock,))
                    other.start()
                    others.append(other)
            self._work(lock)
        finally:
            self._left = iter(())  # for an interrupt; else there is nothing left
            for other in others:
                other.join()

    def _work(self, lock: AbstractContextManager[Any]) -> None:
        index: int | None = None
        while True:
            with lock:
                self._is_done(index)
                index = next(self._left, None)
            if index is None:
                return
            self._check(index)

    def alone(self) -> None:
        """Take one record after another, as long as there are any."""
        while (index := next(self._left, None)) is not None:
            self._check(index)
            self._is_done(index)

    def _is_done(self, index: int | None) -> None:
        """One thread at a time tells it."""
        if self._progress is not None and index is not None:
            self._progress.advance(self._sizes[index])

    def _check(self, index: int) -> None:
        try:
            self._told[index] = self._archive.verify(index)
        except Exception as error:
            self._told[index] = error
            if not self._all:
                self._left = iter(())  # those before it were begun before it

    def found(self) -> list[bool | StateDictError]:
        found: list[bool | StateDictError] = []
        for told in self._told:
            if told is None:
                break  # behind the first bad one
            if not isinstance(told, (bool, StateDictError)):
                raise told
            found.append(told)
        return found
