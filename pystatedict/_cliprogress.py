# SPDX-License-Identifier: Apache-2.0
"""How far a long job is: by tqdm, where a person looks on and tqdm is installed.

Short jobs import nothing: tqdm comes when the work has taken a while.  It writes to stderr,
and only to a terminal.
"""

from __future__ import annotations

import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self, TypeVar

    T = TypeVar("T")

#: Seconds of work after which a person wants to know.
PATIENCE = 1.0


class Progress:
    """A context manager that is told of the work: add(what there is), advance(what is done).

    `unit` is that of the numbers, such as "B".  One that is not to be seen costs a
    comparison a call.
    """

    def __init__(self, unit: str, *, quiet: bool = False) -> None:
        self._unit = unit
        self._total = self._done = 0
        self._bar: Any = None
        self._wanted = not quiet and _someone_looks_on()
        self._begun = monotonic()

    def add(self, total: int) -> None:
        """There is so much more to do."""
        self._total += total
        if self._bar is not None:
            self._bar.total = self._total

    def advance(self, done: int) -> None:
        """So much more is done."""
        self._done += done
        if self._bar is not None:
            self._bar.update(done)
        elif self._wanted and monotonic() - self._begun >= PATIENCE:
            self._show()

    def over(self, things: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
        """The things, each advanced by its size when the next is asked for."""
        for thing in things:
            yield thing
            self.advance(size(thing))

    def _show(self) -> None:
        self._wanted = False
        try:
            from tqdm import tqdm
        except ImportError:
            return
        tqdm.monitor_interval = 0  # no thread of its own, for a bar that is drawn when work is done
        self._bar = tqdm(
            total=self._total,
            initial=self._done,
            unit=self._unit,
            unit_scale=True,
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
        )

    def close(self) -> None:
        """Take the bar away, so that what is said next stands by itself."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _someone_looks_on() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False
