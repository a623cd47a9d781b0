# SPDX-License-Identifier: Apache-2.0
"""What scan() keeps account of: parts that wait, work that is left, names and notes found.

Bytes are parts: a file, a member of an archive, bytes in a pickle.  What is found in a part
becomes parts in turn.  They wait their turn, so nothing recurses, and those that lie deeper
wait longer, so that none keeps others from being looked at that a reader gets to sooner.
Every byte that is looked at is counted, and there is an end to the count.
"""

from __future__ import annotations

from collections import deque

from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._archivelook import ReadAt
    from ._globals import Verdict

__all__ = ["RANKS", "Part", "Parts", "Use", "Work", "within"]

_MAX_DEPTH = 8  # parts in one another, the file not counted
_MAX_NOTES = 100

_VERDICTS: tuple[Verdict, ...] = ("plain", "unknown", "dangerous")
OUT_OF_WORK = "not all was looked at: one scan does not do more work"

RANKS: dict[str, int] = {name: rank for rank, name in enumerate(_VERDICTS)}


class Work:
    """How many bytes may be looked at: so many for each byte of a file, and some more.

    Each thing that is looked at counts at least for EACH bytes, so that there is an end to
    things that have none.

    Attributes:
        left: bytes that may still be looked at.
        done: bytes that were.
    """

    BASE = 32 << 20
    FACTOR = 16
    EACH = 64

    def __init__(self) -> None:
        self.left = self.BASE
        self.done = 0

    def allow(self, size: int) -> None:
        """Count in a file of `size` bytes."""
        self.left += self.FACTOR * size

    def take(self, count: int) -> bool:
        """Take so many bytes of what is left; False, and none, where these are not there."""
        if count > self.left:
            return False
        self.done += count
        self.left -= count
        return True

    def begin(self) -> bool:
        """Take what each thing counts at least."""
        return self.take(self.EACH)


class Use:
    """A name that was found, and what is to be said of it in the end."""

    __slots__ = ("called", "module", "name", "offset", "path", "payloads", "rank", "record")

    def __init__(
        self, module: str, name: str, offset: int, record: str | None, path: tuple[int, ...]
    ) -> None:
        self.path = path  # of the part that it is in
        self.module = module
        self.name = name
        self.offset = offset
        self.record = record
        self.called = False
        self.rank = 0
        self.payloads: list[int] = []  # parts whose verdict it shares

    @property
    def verdict(self) -> Verdict:
        return _VERDICTS[self.rank]


class Part:
    """Some bytes to be looked at.

    `role` says where they come from: "file", "member" of an archive, "pickle" (a member or
    file that must be one), "within" a pickle, "payload" (within one, for torch to load),
    "stream" (the storages or tensors of torch's tar).
    """

    __slots__ = ("data", "label", "path", "role")

    def __init__(
        self, data: memoryview, label: str | None, path: tuple[int, ...], role: str
    ) -> None:
        self.data = data
        self.label = label
        self.path = path  # numbers of the parts that it is in, and its own
        self.role = role


class _Batch:
    """Parts of one part, made one after another as they are wanted."""

    __slots__ = ("count", "first", "label", "make", "next", "path")

    def __init__(
        self,
        path: tuple[int, ...],
        label: str | None,
        first: int,
        count: int,
        make: Callable[[int], tuple[memoryview, str]],
    ) -> None:
        self.path = path
        self.label = label
        self.first = first  # the number of the first
        self.count = count
        self.make = make  # the bytes and the role, by place in the batch
        self.next = 0

    def take(self) -> Part:
        data, role = self.make(self.next)
        part = Part(data, self.label, (*self.path, self.first + self.next), role)
        self.next += 1
        return part


class Parts:
    """The account."""

    def __init__(self) -> None:
        self.work = Work()
        self._recognised = False  # whether the file is one that there is something to say of
        self._uses: dict[tuple[str, str, str | None], Use] = {}
        self._notes: dict[str, None] = {}
        self._waiting: list[deque[_Batch]] = [deque() for _ in range(_MAX_DEPTH + 1)]
        self._ranks: list[int] = []  # by part: the gravest in it, an index of _VERDICTS
        self._parents: list[int] = []

    def finish(self) -> tuple[list[Use], list[str]]:
        """All names and all notes, in the order in which they were found."""
        for number in range(len(self._ranks) - 1, 0, -1):
            # A part is numbered after the one that it is in.
            parent = self._parents[number]
            if parent >= 0:
                self._ranks[parent] = max(self._ranks[parent], self._ranks[number])
        for use in self._uses.values():
            ranks = (self._ranks[number] for number in use.payloads)
            use.rank = max(use.rank, max(ranks, default=0))
        return sorted(self._uses.values(), key=lambda use: use.path), list(self._notes)

    def note(self, label: str | None, what: object) -> None:
        """Note what could not be looked at, or is odd, of a file or record."""
        line = str(what)
        if isinstance(what, StateDictError):
            line = what.sentence
            if what.entry and not (label or "").endswith(what.entry):
                label = within(label, what.entry)
        line = f"{label}: {line}" if label else line
        if len(self._notes) < _MAX_NOTES:
            self._notes[line] = None
        elif line not in self._notes:
            self._notes[f"more than {_MAX_NOTES} notes: the rest is left out"] = None

    def _use(self, part: Part, module: str, name: str, offset: int) -> Use:
        key = (module, name, part.label)
        if key not in self._uses:
            self._uses[key] = Use(module, name, offset, part.label, part.path)
        return self._uses[key]

    def _reader(self, data: memoryview) -> ReadAt:
        """Gives bytes of the data, and counts them."""

        def at(offset: int, count: int) -> bytes:
            piece = bytes(data[offset : offset + count]) if offset >= 0 and count > 0 else b""
            return piece if self.work.take(len(piece)) else b""

        return at

    # ------------------------------------------------------------------------- parts

    def _add_file(self, data: memoryview, label: str | None, role: str) -> None:
        self._add_batch((), label, 1, lambda _: (data, role))

    def _add_inner(self, part: Part, data: memoryview, label: str | None, role: str) -> None:
        """A part of a part, if that is not one too many in one another."""
        if len(part.path) <= _MAX_DEPTH:
            self._add_batch(part.path, label, 1, lambda _: (data, role))
        else:
            self._error(part, part.label, "not looked at: archives within archives")

    def _add_within(
        self, part: Part, count: int, make: Callable[[int], tuple[memoryview, str]]
    ) -> int | None:
        """Parts of a pickle; the number of the first, or None as above."""
        if len(part.path) <= _MAX_DEPTH:
            label = within(part.label, "pickle within")
            return self._add_batch(part.path, label, count, make)
        text = "too many pickles within pickles: not all were looked at"
        self._error(part, part.label, text)
        return None

    def _add_batch(
        self,
        path: tuple[int, ...],
        label: str | None,
        count: int,
        make: Callable[[int], tuple[memoryview, str]],
    ) -> int:
        first = len(self._ranks)
        self._ranks += [0] * count
        self._parents += [path[-1] if path else -1] * count
        self._waiting[len(path)].append(_Batch(path, label, first, count, make))
        return first

    def _parts(self) -> Iterator[Part]:
        """All parts, those that lie least deep first, as long as there is work left."""
        while any(self._waiting):
            batches = next(filter(None, self._waiting))
            batch = batches[0]
            if batch.next == batch.count:
                batches.popleft()
            elif self.work.begin():
                yield batch.take()
            else:
                batches.popleft()
                self._recognised = True
                last = batch.first + batch.count
                self._ranks[batch.first + batch.next : last] = [RANKS["unknown"]] * (
                    batch.count - batch.next
                )
                self.note(batch.label, OUT_OF_WORK)

    def _grave(self, part: Part, rank: int) -> None:
        number = part.path[-1]
        self._ranks[number] = max(self._ranks[number], rank)

    def _error(self, part: Part, label: str | None, what: object) -> None:
        self._grave(part, RANKS["unknown"])
        self.note(label, what)

    def _out_of_work(self, part: Part, label: str | None) -> None:
        self._recognised = True
        self._error(part, label, OUT_OF_WORK)


def within(label: str | None, name: str) -> str:
    """The label of something by the name within what the label is of."""
    return f"{label}: {name}" if label else name
