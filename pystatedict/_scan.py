# SPDX-License-Identifier: Apache-2.0
"""scan(): what the pickles of a file name, and nothing of it run."""

from __future__ import annotations

import os

from . import _archivelook as _look
from . import _core
from ._errors import LimitError, NotACheckpointError, StateDictError
from ._files import open_source
from ._globals import verdict
from ._identify import identify_buffer, not_a_checkpoint
from ._picklelook import latin_texts, looks_like_pickle, names
from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, NoReturn

    from typing_extensions import Buffer

    from ._globals import Verdict

    Anything = str | os.PathLike[str] | BinaryIO | Buffer

__all__ = ["GlobalUse", "ScanReport", "scan"]

_PEEK = 4096
_MAX_PICKLE = 1 << 30  # bytes of one pickle, as the core's own bound
_MAX_DAMAGED = 16 << 20  # bytes of one that does not run, read on by its opcodes alone
_MAX_BYTES = 4 << 30  # unpacked of one file, so that a bomb ends
_MAX_CHAIN = 1000  # pickles one after another
_MAX_NESTED = 1000  # byte strings that hold pickles
_MAX_DEPTH = 4
_MAX_TRIES = 10_000  # places in raw bytes where a pickle may start
_MAX_ERRORS = 100


class _Frozen:
    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), self._values()

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({facts})"


class GlobalUse(_Frozen):
    """One name in a pickle.

    Attributes:
        module, name: as they stand in the file.
        verdict: ``"plain"``, ``"unknown"`` or ``"dangerous"``.
        called: whether the pickle calls it; False where that could not be told.
        offset: of its first mention, in bytes, within the record or file.
        record: the record of the archive, the file of a folder, or None.
    """

    __slots__ = ("called", "module", "name", "offset", "record", "verdict")
    module: str
    name: str
    verdict: Verdict
    called: bool
    offset: int
    record: str | None

    def __init__(
        self,
        called: bool,
        module: str,
        name: str,
        offset: int,
        record: str | None,
        verdict: Verdict,
    ) -> None:
        for key, value in zip(
            self.__slots__, (called, module, name, offset, record, verdict), strict=True
        ):
            object.__setattr__(self, key, value)

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


class ScanReport(_Frozen):
    """What `scan` found.  Iterate over it for the names.

    Attributes:
        globals: every distinct name of every pickle, in file order.
        errors: what could not be read, and what else is odd, as lines of text.
        verdict: ``"dangerous"`` if any name is; ``"unknown"`` if any name is or something
            could not be read; else ``"clean"``.
    """

    __slots__ = ("errors", "globals")
    errors: tuple[str, ...]
    globals: tuple[GlobalUse, ...]

    def __init__(self, errors: tuple[str, ...], globals: tuple[GlobalUse, ...]) -> None:
        object.__setattr__(self, "errors", errors)
        object.__setattr__(self, "globals", globals)

    @property
    def verdict(self) -> str:
        verdicts = {use.verdict for use in self.globals}
        if "dangerous" in verdicts:
            return "dangerous"
        return "unknown" if "unknown" in verdicts or self.errors else "clean"

    def __iter__(self) -> Iterator[GlobalUse]:
        return iter(self.globals)

    def __len__(self) -> int:
        return len(self.globals)

    def __bool__(self) -> NoReturn:
        # True would read as "safe" to one, as "found something" to another.
        raise TypeError("a ScanReport is neither true nor false; compare its verdict")

    def __str__(self) -> str:
        rows = [
            (
                use.verdict,
                str(use),
                "called" if use.called else "named",
                f"at byte {use.offset:,}" + (f" of {printable(use.record)}" if use.record else ""),
            )
            for use in self.globals
        ]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        count = "1 name" if len(rows) == 1 else f"{len(rows):,} names"
        lines = [f"{self.verdict}: {count}; nothing was run"]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  " + "  ".join([*cells, row[3]]))
        lines += ["  note: " + printable(error) for error in self.errors]
        return "\n".join(lines)


def scan(f: Anything) -> ScanReport:
    """List every name that the pickles of a file mention, and judge each; run nothing.

    Looks into every pickle of a zip archive (not only data.pkl), into the pickles of
    torch's older formats and of plain pickle files, and into pickles within pickles.
    Damaged files are read as far as they go.

    `f` is a path, a file object or bytes; of a folder, its files are scanned.  What holds
    no pickle at all raises `NotACheckpointError` or `UnsupportedError`.

        report = scan("model.pth")
        if report.verdict == "dangerous":
            print(report)
    """
    scanner = _Scanner()
    if isinstance(f, (str, os.PathLike)) and os.path.isdir(f):
        _scan_folder(scanner, os.fspath(f))
    else:
        source, path = open_source(f)
        scanner.file(source, path, None)
    return ScanReport(tuple(scanner.errors), tuple(scanner.uses))


def _scan_folder(scanner: _Scanner, folder: str) -> None:
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if entry.is_file())
    for name in files:
        source, path = open_source(os.path.join(folder, name))
        try:
            scanner.file(source, path, name)
        except StateDictError:
            continue  # a text, an index: no pickle in it


class _Scanner:
    def __init__(self) -> None:
        self.uses: list[GlobalUse] = []
        self.errors: list[str] = []
        self._seen: set[tuple[str, str, str | None]] = set()
        self._nested = _MAX_NESTED
        self._bytes = _MAX_BYTES

    # ------------------------------------------------------------------ what it is

    def file(self, source: Buffer, path: str | None, label: str | None) -> None:
        found = identify_buffer(source)
        with memoryview(source) as view, view.cast("B") as data:
            if found.kind in _ARCHIVES:
                if found.kind in _CODE:
                    self._error(label, f"{found.sentence}: the code in it was not looked at")
                self._zip(source, data, label, 0)
            elif found.kind in ("torch-tar", "tar"):
                self._tar(data, label)
            elif found.kind == "torch-shards" and path is not None:
                self._shards(bytes(data), path)
            elif found.kind in ("torch-legacy", "pickle") or self._begins(data):
                self._chain(data, label, 0)
            else:
                raise not_a_checkpoint(found, path)

    def _begins(self, data: memoryview) -> bool:
        """Whether bytes of no known kind name something when read as a pickle."""
        return bool(_core.scan_pickle(data[:_MAX_PICKLE])[0])

    def _tar(self, data: memoryview, label: str | None) -> None:
        for name, offset, size, plain in _look.tar_members(_reader(data), len(data)):
            record = _within(label, name)
            if _leads_out(name):
                self._error(record, _LEADS_OUT)
            if not plain and name.strip("./"):
                self._error(record, "no plain file: a folder, a link or a device")
            head = bytes(data[offset : offset + min(size, _PEEK)])
            if plain and looks_like_pickle(head, size <= _PEEK):
                self._sweep(data[offset : offset + size], record)

    def _shards(self, index: bytes, path: str) -> None:
        import json

        try:
            files = set(json.loads(index)["weight_map"].values())
            files = {name for name in files if name == os.path.basename(name)}
        except (ValueError, TypeError, KeyError, AttributeError):
            self._error(None, "an index of shards that cannot be read")
            return
        for name in sorted(files):
            try:
                shard, where = open_source(os.path.join(os.path.dirname(path), name))
                self.file(shard, where, name)
            except (OSError, StateDictError) as error:
                self._error(name, error)

    # ------------------------------------------------------------------ zip archives

    def _zip(self, source: Buffer, data: memoryview, label: str | None, depth: int) -> None:
        archive = None
        at = _reader(data)
        try:
            whole = source if isinstance(source, _core.Source) else _core.Source(source)
            archive = _core.open_archive(whole, run=False, mode="records")
            entries = [
                _look.Entry(name, header, method, stored)
                for name, header, stored, _, _, method in archive.records()
            ]
        except StateDictError as error:
            if not isinstance(error, NotACheckpointError):  # an archive all the same
                self._error(label, error)
            entries = _look.directory(at, len(data)) or _cut_entries(at, len(data))
        for index, entry in enumerate(entries):
            self._record(archive, at, index, entry, label, depth)
        if archive is not None:
            archive.close()

    def _record(
        self,
        archive: _core.Archive | None,
        at: _look.ReadAt,
        index: int,
        entry: _look.Entry,
        label: str | None,
        depth: int,
    ) -> None:
        record = _within(label, entry.name)
        if _leads_out(entry.name):
            self._error(record, _LEADS_OUT)
        is_pickle = entry.name.lower().endswith(".pkl")
        if entry.name.endswith("/") or (not is_pickle and _is_storage(entry.name)):
            return
        try:
            head = _look.payload(at, entry, _PEEK)
            wanted = is_pickle or head.startswith(_look.LOCAL)
            if not wanted and not looks_like_pickle(head, len(head) < _PEEK):
                return
            if self._bytes <= 0:
                self._error(record, "not looked at: the records before it are too large")
                return
            data = self._read(archive, at, index, entry, record)
        except ValueError as error:
            if is_pickle:
                self._error(record, error)
            return
        self._bytes -= len(data)
        if head.startswith(_look.LOCAL):
            if depth < _MAX_DEPTH:
                self._zip(data, memoryview(data), record, depth + 1)
            else:
                self._error(record, "not looked at: archives within archives")
        else:
            self._chain(memoryview(data), record, depth)

    def _read(
        self,
        archive: _core.Archive | None,
        at: _look.ReadAt,
        index: int,
        entry: _look.Entry,
        record: str,
    ) -> bytes:
        if archive is not None:
            try:
                return archive.read(index)
            except LimitError:
                raise
            except StateDictError as error:
                self._error(record, error)
        return _look.payload(at, entry, min(_MAX_PICKLE, self._bytes))

    # ----------------------------------------------------------------------- pickles

    def _chain(self, data: memoryview, record: str | None, depth: int) -> None:
        """Pickles that follow each other, as in torch's legacy files."""
        position = 0
        for _ in range(_MAX_CHAIN):
            size = self._pickle(data, position, record, depth, must=position == 0)
            position += size
            head = bytes(data[position : position + _PEEK])
            if size == 0 or not looks_like_pickle(head, position + len(head) == len(data)):
                return
        self._error(record, f"more than {_MAX_CHAIN:,} pickles: the rest was not looked at")

    def _sweep(self, data: memoryview, record: str | None) -> None:
        """Pickles with raw bytes between them, as in torch's tar files."""
        position = 0
        for _ in range(_MAX_TRIES):
            size = self._pickle(data, position, record, 0, must=position == 0)
            position = _find_start(data, position + max(size, 1))
            if position < 0:
                return
        self._error(record, "too many places that may be pickles: the rest was not looked at")

    def _pickle(
        self, data: memoryview, position: int, record: str | None, depth: int, must: bool
    ) -> int:
        """Scan one pickle; its size, or 0 when it has no end.

        When it need not be a pickle (`must` is false), failing is no error.
        """
        program = data[position : position + _MAX_PICKLE]
        found, nested, size, error = _core.scan_pickle(program)
        if error is not None and not must and not found:
            return 0
        for module, name, offset, called in found:
            self._add(module, name, position + offset, called, record)
        text = bytes(program[: size if error is None else _MAX_DAMAGED])
        if error is not None:
            self._error(record, error)
            for module, name, offset in names(text):
                self._add(module, name, position + offset, False, record)
        for inner in [*nested, *latin_texts(text)]:
            self._inner(inner, record, depth)
        return size

    def _inner(self, data: bytes, record: str | None, depth: int) -> None:
        if depth >= _MAX_DEPTH or self._nested <= 0:
            self._error(record, "too many pickles within pickles: not all were looked at")
            return
        self._nested -= 1
        found, _, _, error = _core.scan_pickle(data)
        if error is None or found:
            label = f"{record}: pickle within" if record else "pickle within"
            self._chain(memoryview(data), label, depth + 1)

    # ------------------------------------------------------------------------ results

    def _add(self, module: str, name: str, offset: int, called: bool, record: str | None) -> None:
        key = (module, name, record)
        if key not in self._seen:
            self._seen.add(key)
            self.uses.append(GlobalUse(called, module, name, offset, record, verdict(module, name)))

    def _error(self, record: str | None, error: object) -> None:
        line = error.sentence if isinstance(error, StateDictError) else str(error)
        entry = error.entry if isinstance(error, StateDictError) else None
        where = record or entry
        line = f"{where}: {line}" if where else line
        if line not in self.errors and len(self.errors) < _MAX_ERRORS:
            self.errors.append(line)


_LEADS_OUT = "its name leads out of the archive's folder"
_CODE = frozenset({"torchscript", "torch-package"})
_ARCHIVES = frozenset(
    {
        "torch-zip",
        "torchscript",
        "torch-package",
        "torch-export",
        "torch-interrupted",
        "zip",
        "zip-truncated",
        "npz",
    }
)


def _reader(data: memoryview) -> _look.ReadAt:
    def at(offset: int, count: int) -> bytes:
        return bytes(data[offset : offset + count]) if offset >= 0 and count > 0 else b""

    return at


def _cut_entries(at: _look.ReadAt, size: int) -> list[_look.Entry]:
    entries, cut = _look.walk(at, size)
    if cut is not None:
        found = _look.local(at, cut.header)
        if found is not None:
            cut.stored = max(size - found[1], 0)
            entries.append(cut)
    return entries


def _within(label: str | None, name: str) -> str:
    return f"{label}: {name}" if label else name


def _is_storage(name: str) -> bool:
    """Raw bytes of tensors, which no reader takes for a pickle."""
    folders = name.split("/")[:-1]
    return folders[-1:] in (["data"], ["constants"], [".data"])


def _leads_out(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or name[1:3] == ":/"


def _find_start(data: memoryview, position: int) -> int:
    """The next place where a signed pickle may start, or -1."""
    while position < len(data):
        piece = bytes(data[position : position + (1 << 20)])
        here = piece.find(b"\x80")
        while here >= 0:
            head = bytes(data[position + here : position + here + _PEEK])
            if looks_like_pickle(head, position + here + len(head) == len(data)):
                return position + here
            here = piece.find(b"\x80", here + 1)
        position += len(piece)
    return -1
