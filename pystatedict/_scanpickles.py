# SPDX-License-Identifier: Apache-2.0
"""scan() in pickles: what they name and call, what bytes they hold, where the next begins."""

from __future__ import annotations

import re

from . import _core
from ._archivelook import number
from ._arguments import GETATTR, PAYLOAD, WATCHED, Asked
from ._errors import (
    CorruptError,
    LimitError,
    NotACheckpointError,
    StateDictError,
    UnsafePickleError,
)
from ._globals import normalise, verdict
from ._picklelook import is_legacy, looks_like_pickle
from ._scanparts import RANKS, Part, Parts, Use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._arguments import Call

__all__ = ["PEEK", "Pickles"]

PEEK = 4096
_MAX_PICKLE = 1 << 30  # bytes of one pickle, as the core's own bound
_MAX_DEPTH = 10_000  # values in one another, which no honest writer gets to
_MIN_VALUES = 1 << 20  # of one pickle; a large file may have as many as it has bytes

_SIGNED = re.compile(rb"\x80[\0-\5]")
# Module and name, one of which may have been computed.
_IMPORTABLE = re.compile(r"(?!\?\.\?)(?:\?|[^\W\d]\w*)(?:\.(?:\?|[^\W\d]\w*))+")
_TORCH = ("torch", "torch.cuda")

_STORAGE_SIZES = {
    f"{kind}Storage": size
    for size, kinds in (
        (1, ("Byte", "Char", "Bool")),
        (2, ("Half", "BFloat16", "Short")),
        (4, ("Float", "Int")),
        (8, ("Double", "Long", "ComplexFloat")),
        (16, ("ComplexDouble",)),
    )
    for kind in kinds
}


class _Looked:
    """What the core tells of one pickle, see scan_pickle."""

    __slots__ = ("calls", "depth", "error", "found", "left", "nested", "size", "walked")

    def __init__(
        self,
        found: list[tuple[str, str, int, bool, bool]],
        nested: list[tuple[int, int] | bytes],
        size: int,
        error: Exception | None,
        calls: list[Call],
        walked: int,
        depth: int,
        left: int,
    ) -> None:
        self.found = found
        self.nested = nested
        self.size = size
        self.error = error
        self.calls = calls
        self.walked = walked
        self.depth = depth
        self.left = left


class Pickles(Parts):
    """The account, and the pickles of parts."""

    def __init__(self) -> None:
        super().__init__()
        self._values = _MIN_VALUES
        self._asked = 0  # items that calls ask for

    def _check(self, part: Part, label: str | None, data: memoryview, cost: int) -> int:
        """Note what makes a checkpoint unreadable; where a legacy stream ends, or 0."""
        if not self.work.take(cost):
            self._out_of_work(part, label)
            return 0
        try:
            return _core.open_archive(_core.Source(data)).end
        except (CorruptError, LimitError, UnsafePickleError) as error:
            self._error(part, label, error)
        except StateDictError:
            pass  # of a kind that is not read here; what is in it is named all the same
        return 0

    def _payload(self, part: Part) -> None:
        """What torch is to load from bytes: it must be tensors through and through."""
        if not self.work.take(len(part.data)):
            self._out_of_work(part, part.label)
            return
        try:
            _core.open_archive(_core.Source(part.data))
        except NotACheckpointError:
            self._error(part, part.label, "torch is to load it, and it is no checkpoint")
        except StateDictError as error:
            self._error(part, part.label, error)

    # ---------------------------------------------------------------- several in a row

    def _chain(self, part: Part, must: bool) -> None:
        """Pickles that follow each other, as in torch's legacy files.

        With `must` the first is one, however damaged.
        """
        data = part.data
        legacy = is_legacy(bytes(data[:32]))
        position = count = 0
        while position < len(data) and not (legacy and count == 5):
            size = self._pickle(part, position, legacy or (must and count == 0), count > 0)
            if size == 0:
                break
            position += size
            count += 1
            rest = bytes(data[position : position + PEEK])
            if not legacy and not looks_like_pickle(rest, position + len(rest) == len(data)):
                break
        if legacy and count > 0:
            self._end_of_stream(part, count, position)
        elif count > 0 and bytes(data[position : position + PEEK]).strip(b"\0\r\n\t "):
            self._error(part, part.label, f"bytes that are no pickle follow at {position:,}")

    def _end_of_stream(self, part: Part, count: int, position: int) -> None:
        if count < 5:
            self._error(part, part.label, f"a legacy file with {count} of its five pickles")
            return
        end = self._check(part, part.label, part.data, position)
        if 0 < end < len(part.data):  # storages are passed by; another stream may follow
            self._add_inner(part, part.data[end:], part.label, "member")

    def _stream(self, part: Part) -> None:
        """Pickles with raw bytes between them, as in torch's tar."""
        data, position = part.data, 0
        while position < len(data):
            size, raw = self._step(part, position)
            if size == 0:
                self._error(part, part.label, f"bytes that cannot be told at {position:,}")
                self._sweep(part, position)
                return
            position += size + raw

    def _step(self, part: Part, position: int) -> tuple[int, int]:
        """(bytes of the pickle at `position`, raw bytes that follow it)."""
        looked = self._run(part, position)
        if looked is None or (looked.error is not None and not looked.found):
            return 0, 0
        self._take_in(part, position, looked)
        behind = position + looked.size
        for module, name, *_ in looked.found:
            if module in _TORCH and name in _STORAGE_SIZES:
                count = number(bytes(part.data[behind : behind + 8]), 0, 8)
                return looked.size, 8 + count * _STORAGE_SIZES[name]
            if module in _TORCH and name.endswith("Tensor"):
                # rank and four bytes of nothing, sizes and strides, an offset
                rank = number(bytes(part.data[behind : behind + 4]), 0, 4)
                return looked.size, 8 + 16 * rank + 8
        return looked.size, 0

    def _sweep(self, part: Part, position: int) -> None:
        """Signed pickles wherever they may begin."""
        data = part.data
        # Places that are no pickle after all may lead far before they tell.
        most = self.work.done + 4 * len(data) + (1 << 16)
        if not self.work.take(len(data) - position):
            self._out_of_work(part, part.label)
            return
        while (found := _SIGNED.search(data, position)) is not None:
            here = found.start()
            head = bytes(data[here : here + PEEK])
            size = 0
            if not self.work.begin() or self.work.done > most:
                self._out_of_work(part, part.label)
                return
            if looks_like_pickle(head, here + len(head) == len(data)):
                size = self._pickle(part, here, must=False)
            position = here + max(size, 1)

    # ------------------------------------------------------------------------- one

    def _pickle(self, part: Part, position: int, must: bool, follows: bool = False) -> int:
        """Look at one pickle; its size, or 0 when it is none, or has no end."""
        looked = self._run(part, position)
        if looked is None:
            return 0
        sound = must or (follows and looked.error is None)
        if not sound and not _is_pickle(part, position, looked):
            return 0
        self._recognised = True
        self._take_in(part, position, looked)
        return looked.size

    def _run(self, part: Part, position: int) -> _Looked | None:
        if not self.work.begin():
            self._out_of_work(part, part.label)
            return None
        room = min(self.work.left // 2, _MAX_PICKLE)
        program = part.data[position : position + room]
        looked = _Looked(*_core.scan_pickle(program, {"values": self._values}, WATCHED))
        self.work.take(looked.walked)
        if looked.size == 0 and len(program) < len(part.data) - position:
            # It may have ended for want of what was not given to it.
            self._out_of_work(part, part.label)
        return looked

    def _take_in(self, part: Part, position: int, looked: _Looked) -> None:
        label = part.label
        if looked.error is not None:
            self._error(part, label, looked.error)
        if looked.depth > _MAX_DEPTH:
            self._error(part, label, f"values that lie {looked.depth:,} deep in one another")
        if looked.left > 0:
            self._error(part, label, f"values left on the stack: {looked.left:,}")
        asked = Asked(looked.calls, self._asked)
        self._asked = asked.items
        payloads = self._add_nested(part, position, looked.nested, frozenset(asked.payloads))
        for module, name, offset, called, passed in looked.found:
            use = self._use(part, module, name, position + offset)
            use.called |= called
            rank = self._judge(part, use, called, passed, asked)
            if normalise(module, name) == PAYLOAD:
                use.payloads += payloads
                rank = max(rank, len(payloads) < len(asked.payloads))  # they lie too deep
            use.rank = max(use.rank, rank)
            self._grave(part, rank)

    def _judge(self, part: Part, use: Use, called: bool, passed: bool, asked: Asked) -> int:
        rank = RANKS[verdict(use.module, use.name)]
        finding = asked.findings.get((use.module, use.name))
        if finding is not None:
            rank = max(rank, RANKS[finding[0]])
            self._error(part, part.label, f"{use.module}.{use.name} {finding[1]}")
        name = normalise(use.module, use.name)
        if name == GETATTR and passed:
            return RANKS["dangerous"]  # whoever gets it may ask for anything
        if name == PAYLOAD and called and not passed and finding is None:
            return RANKS["plain"]  # what it loads decides
        return rank

    def _add_nested(
        self,
        part: Part,
        position: int,
        nested: list[tuple[int, int] | bytes],
        payloads: frozenset[int],
    ) -> list[int]:
        """Bytes within a pickle become parts; the numbers of those that are payloads."""

        def make(place: int) -> tuple[memoryview, str]:
            item = nested[place]
            role = "payload" if place + 1 in payloads else "within"
            if isinstance(item, bytes):
                return memoryview(item), role
            start = position + item[0]
            return part.data[start : start + item[1]], role

        first = self._add_within(part, len(nested), make) if nested else None
        return [] if first is None else [first + place - 1 for place in sorted(payloads)]


def _is_pickle(part: Part, position: int, looked: _Looked) -> bool:
    """Whether bytes that need not be a pickle are one after all.

    Random bytes and texts must not be taken for one: those of protocols 0 and 1, which no
    signature tells, must run to their end and name something that can be imported, or name
    what is dangerous.
    """
    head = bytes(part.data[position : position + PEEK])
    signed = _SIGNED.match(head) is not None
    names = [(module, name) for module, name, *_ in looked.found]
    importable = [_IMPORTABLE.fullmatch(f"{module}.{name}") is not None for module, name in names]
    if looked.error is None and not signed:
        # A name that nothing is done with may be two lines of a text.
        used = any(is_called or passed for _, _, _, is_called, passed in looked.found)
        dangerous = any(verdict(*name) == "dangerous" for name in names)
        return all(importable) and (used or dangerous or bool(looked.nested))
    if looked.error is None:
        return True
    if signed:
        complete = position + len(head) == len(part.data)
        return any(importable) or (part.role != "within" and looks_like_pickle(head, complete))
    return all(importable) and any(verdict(*name) == "dangerous" for name in names)
