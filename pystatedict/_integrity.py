# SPDX-License-Identifier: Apache-2.0
"""verify and repair: is a checkpoint whole, and what of a damaged one can be kept?"""

from __future__ import annotations

import os

from pystatedict._core import Archive
from pystatedict._errors import CorruptError, StateDictError
from pystatedict._fileset import FileSet
from pystatedict._opening import Naming, open_at
from pystatedict._recordcheck import check_records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from pystatedict._cliprogress import Progress
    from pystatedict._opened import Archive as Opened

__all__ = ["Repair", "Verification", "repair", "verify"]


class Verification:
    """What :func:`verify` found; true when nothing is wrong.

    Attributes:
        path: the file, or None.
        kind: the container, as ``Checkpoint.kind``; None of a file that cannot be opened.
        checked: how many records were held against their checksums.
        unchecked: how many state none: all of a legacy stream, a tar or a safetensors file,
            whose structure alone is checked.
        problems: an exception each, in file order.
        damaged: names of the tensors whose bytes are concerned.
    """

    __slots__ = ("checked", "damaged", "kind", "path", "problems", "unchecked")

    def __init__(
        self,
        path: str | None,
        kind: str | None,
        checked: int,
        unchecked: int,
        problems: Iterable[StateDictError],
        damaged: Iterable[str] = (),
    ) -> None:
        self.path = path
        self.kind = kind
        self.checked = checked
        self.unchecked = unchecked
        self.problems = tuple(problems)
        self.damaged = tuple(damaged)

    def __bool__(self) -> bool:
        return not self.problems

    def __repr__(self) -> str:
        if self.problems:
            told = f"{len(self.problems)} problems, {len(self.damaged)} tensors damaged"
        else:
            told = f"whole, {self.checked} checked, {self.unchecked} without a checksum"
        return f"<Verification of {self.kind or 'a damaged file'}: {told}>"


class Repair:
    """What :func:`repair` did.

    Attributes:
        kept: names of the tensors that were written, in file order.
        lost: names of those whose bytes are not there, or damaged.
        problems: an exception for each thing that was wrong; none of a file that was whole.
    """

    __slots__ = ("kept", "lost", "problems")

    def __init__(
        self, kept: Iterable[str], lost: Iterable[str], problems: Iterable[StateDictError]
    ) -> None:
        self.kept = tuple(kept)
        self.lost = tuple(lost)
        self.problems = tuple(problems)

    def __repr__(self) -> str:
        return f"<Repair: {len(self.kept)} tensors kept, {len(self.lost)} lost>"


def verify(f: Any, *, limits: Mapping[str, int] | None = None) -> Verification:
    """Check the structure of a checkpoint and every checksum in it; load nothing.

    Args:
        f: what load() takes.
        limits: as in load().

    Returns:
        A Verification, true when the file is whole.  Damage is in it, not raised.

    Raises:
        NotACheckpointError, UnsupportedError, LimitError: it is nothing that can be checked.

    >>> report = verify("tutorial.pth")
    >>> bool(report), report.checked, report.unchecked
    (True, 12, 0)
    """
    return verify_with(f, limits)


def verify_with(
    f: Any, limits: Mapping[str, int] | None = None, progress: Progress | None = None
) -> Verification:
    """verify(), which tells `progress` of the bytes."""
    try:
        archive, _ = open_at(f, None, access="read", limits=limits)
    except CorruptError as error:
        return Verification(_path(error, f), None, 0, 0, [error])
    try:
        found = _examine(archive, progress)
        return Verification(
            archive.path, archive.kind, found.checked, found.unchecked, found.problems, found.lost
        )
    finally:
        archive.close()


def _path(error: StateDictError, f: Any) -> str | None:
    if error.path is not None:
        return str(error.path)
    return os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else None


class _Examination:
    """Records that were checked, what was wrong, and which tensors are lost by it."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.checked = self.unchecked = 0
        self.problems: list[StateDictError] = []
        self.lost: list[str] = []
        self.bad: set[str] = set()  # names of records

    def look_at(self, archive: Archive) -> bool:
        """Check the records of one file; take what stands in damaged ones for lost."""
        bad: set[str] = set()
        records = archive.records()
        checks = check_records(archive, all=True, progress=self.progress)
        for record, told in zip(records, checks, strict=True):
            if isinstance(told, StateDictError):
                told.path = archive.path
                self.problems.append(told)
                bad.add(record[0])
            self.checked += told is not False
            self.unchecked += told is False
        if not records:
            self.unchecked += archive.storage_count
        archive.lose([i for i, name in enumerate(archive.storage_records()) if name in bad])
        self.bad |= bad
        return not bad


def _examine(archive: Opened, progress: Progress | None) -> _Examination:
    found = _Examination(progress)
    if isinstance(archive, Archive):
        found.look_at(archive)
        found.lost = [name for name, info in archive.tensors().items() if info._is_lost]
        return found
    assert isinstance(archive, FileSet)
    for member in archive.members():
        try:
            opened = member[1]()
            whole = found.look_at(opened)
            if whole:
                found.problems += archive.misfits(member, opened)
        except CorruptError as error:
            found.problems.append(error)
            whole = False
        if not whole:
            archive.lose(member)
    found.lost = archive.lost()
    return found


# ------------------------------------------------------------------ repair


def repair(
    f: Any,
    out: Any,
    *,
    overwrite: bool = True,
    limits: Mapping[str, int] | None = None,
) -> Repair:
    """Write what is whole of a damaged checkpoint as a new one.

    A directory that was lost, as when a write or download stopped, is rebuilt from the
    records' own headers.  Tensors whose bytes are missing or do not match their checksum are
    left out of the dicts that hold them; where they stand in lists or objects, a meta tensor
    of their shape takes their place.  All else stays as it was.  `f` itself is not changed.

    Args:
        f: what load() takes.
        out: the new file, as in save(); it may be `f`.
        overwrite: as in save().
        limits: as in load().

    Raises:
        CorruptError: the pickle, which tells what the bytes mean, is damaged itself.
        UnsafePickleError: it asks for code.

    >>> with open("tutorial.pth", "rb") as file:
    ...     most = file.read()[:-200]
    >>> repair(most, "repaired.pth")
    <Repair: 6 tensors kept, 0 lost>
    """
    from pystatedict import _api

    def save(obj: Any, report: Repair, opaque: bool) -> None:
        _api.save(obj, out, opaque=opaque, overwrite=overwrite)

    return repair_by(f, out, save, limits)


def repair_by(
    f: Any,
    out: Any,
    save: Callable[[Any, Repair, bool], None],
    limits: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Repair:
    """repair(), where `save` is given the object, what is to be said of it, and whether
    Opaque objects may stand in the format that `out` tells.
    """
    from pystatedict import _api, _values

    archive, problems = _open_what_is_left(f, limits)
    try:
        with Naming(archive.path):
            found = _examine(archive, progress)
            _api._check_globals(archive, "opaque", "error")
            problems += found.problems
            obj = archive.load(archive.root, _values)
            _leave_out(obj)
            complete = getattr(archive.extra, "complete", None)
            if complete is not None:
                found.lost += complete(archive, obj, found.bad)
        opaque = _api.format_of(out, None) == "zip"  # the other formats have no place for it
        gone = set(found.lost)
        kept = [name for name in archive.tensors() if name not in gone]
        report = Repair(kept, found.lost, problems)
        save(obj, report, opaque)
        return report
    finally:
        archive.close()


def _open_what_is_left(
    f: Any, limits: Mapping[str, int] | None
) -> tuple[Opened, list[StateDictError]]:
    """(archive, what is wrong with the file as it is)."""
    try:
        return open_at(f, None, limits=limits)[0], []
    except CorruptError as error:
        try:
            return open_at(f, None, limits=limits, salvage=True)[0], [error]
        except StateDictError:
            raise error from None


def _leave_out(obj: Any) -> None:
    """Take lost tensors out of the dicts in a nest of dicts, lists and tuples."""
    seen: set[int] = set()
    todo = [obj]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            for key in [key for key, value in part.items() if _was_lost(value)]:
                del part[key]
            todo += part.values()
        elif isinstance(part, (list, tuple)):
            todo += part


def _was_lost(value: Any) -> bool:
    return bool(getattr(type(value), "_is_lost", False)) and bool(value._is_lost)
