# SPDX-License-Identifier: Apache-2.0
"""scan(): what the pickles of a file name, and nothing of it run."""

from __future__ import annotations

import os

from ._errors import StateDictError
from ._files import open_source
from ._fileset import path_within
from ._identify import identify_source, not_a_checkpoint
from ._printable import printable
from ._scanner import Scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, NoReturn

    from typing_extensions import Buffer

    from ._core import Source
    from ._globals import Verdict

    Anything = str | os.PathLike[str] | BinaryIO | Buffer

__all__ = ["GlobalUse", "ScanReport", "scan"]


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
        errors: what could not be looked at, and what else is odd, as lines of text.
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

    A file is looked at in every way in which some reader may take it: all pickles of zip
    archives, of torch's older formats and of plain files, and what is within them, such as
    bytes that are pickles or archives in their turn.  Damaged ones are read as far as they
    go.  At most 32 MiB and sixteen times the file's size are looked at; what is left out
    then is noted.  docs/scan.md tells what is looked at, and what the verdicts mean.

    Args:
        f: a path, a file object or bytes; of a folder, all files in it are scanned.

    Returns:
        A `ScanReport`.  Its verdict is ``"clean"`` only if every name is plain and
        everything was looked at.

    Raises:
        NotACheckpointError, UnsupportedError, TruncatedError: the file holds no pickle and no
            archive, or no more than the first bytes of one.

    >>> report = scan(b"cos\\nsystem\\n(S'echo gotcha'\\ntR.")
    >>> report.verdict, [str(use) for use in report]
    ('dangerous', ['os.system'])
    """
    scanner = Scanner()
    if isinstance(f, (str, os.PathLike)) and os.path.isdir(f):
        _scan_folder(scanner, os.fspath(f))
    else:
        source, path = open_source(f)
        _scan_file(scanner, source, path, None)
    uses, notes = scanner.finish()
    return ScanReport(
        tuple(notes),
        tuple(
            GlobalUse(use.called, use.module, use.name, use.offset, use.record, use.verdict)
            for use in uses
        ),
    )


def _scan_file(scanner: Scanner, source: Source, path: str | None, label: str | None) -> None:
    found = identify_source(source)
    if found.kind == "torch-shards" and path is not None:
        _scan_shards(scanner, bytes(memoryview(source)), path)
        return
    must = found.kind in ("torch-legacy", "pickle")
    if not scanner.look(memoryview(source).cast("B"), label, must):
        raise not_a_checkpoint(found, path)


def _scan_folder(scanner: Scanner, folder: str) -> None:
    """Every file of a folder, and of the folders in it."""
    folders = [""]
    while folders:
        inner = folders.pop()
        try:
            with os.scandir(os.path.join(folder, inner)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            scanner.note(inner, f"cannot be read: {error.strerror}")
            continue
        for entry in entries:
            name = f"{inner}/{entry.name}" if inner else entry.name
            try:
                is_file = entry.is_file()
            except OSError as error:  # a link to itself
                scanner.note(name, f"cannot be read: {error.strerror}")
                continue
            if is_file:
                _scan_of_folder(scanner, entry.path, name)
        inside = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        folders += [f"{inner}/{name}" if inner else name for name in reversed(inside)]


def _scan_of_folder(scanner: Scanner, path: str, name: str) -> None:
    try:
        source, _ = open_source(path)
        _scan_file(scanner, source, None, name)
    except OSError as error:
        scanner.note(name, f"cannot be read: {error.strerror}")
    except StateDictError as error:
        if error.code in _CLOSED:  # else a text, a picture, ...: no pickle in it
            scanner.note(name, f"{error.sentence}: not looked at")


# Files that may hold anything.
_CLOSED = frozenset({"gzip", "bzip2", "xz", "zstd", "lz4", "7z", "rar"})


def _scan_shards(scanner: Scanner, index: bytes, path: str) -> None:
    import json

    try:
        files = set(json.loads(index)["weight_map"].values())
        names = sorted(name for name in files if isinstance(name, str))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        scanner.note(None, "an index of shards that cannot be read")
        return
    if len(names) < len(files):
        scanner.note(None, "an index that names its shards by something else than texts")
    for name in names:
        try:
            shard = path_within(os.path.dirname(path), name, "the index")
        except StateDictError:
            scanner.note(name, "leads out of the folder: not looked at")
            continue
        if not os.path.isfile(shard):
            scanner.note(name, "there is no such file")
        else:
            _scan_shard(scanner, shard, name)


def _scan_shard(scanner: Scanner, path: str, name: str) -> None:
    try:
        source, where = open_source(path)
        if identify_source(source).kind == "torch-shards":
            scanner.note(name, "an index within an index: not looked at")
        else:
            _scan_file(scanner, source, where, name)
    except OSError as error:
        scanner.note(name, f"cannot be read: {error.strerror}")
    except StateDictError as error:
        if error.code != "safetensors":  # which can hold no pickle
            scanner.note(name, error)
