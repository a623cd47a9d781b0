# SPDX-License-Identifier: Apache-2.0
"""What all checkpoints in several files have in common: the face of one opened archive.

What they consist of are members, each an archive of its own.  A member is opened when it is
asked for; whether it stays open is up to its kind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from pystatedict._errors import (
    ClosedError,
    CorruptError,
    StateDictError,
    UnsafePickleError,
    UnsupportedError,
)
from pystatedict._files import open_source, stamp_of
from pystatedict._printable import counted, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._core import Archive, Source, TensorInfo
    from pystatedict._files import Access

    Limits = dict[str, int] | None
    Record = tuple[str, int, int, int, int, int]
    Member = tuple[str, Callable[[], Archive]]  # name of the file, and what opens it


class How:
    """How the files of a set are opened; see `_opening.open_archive`."""

    __slots__ = ("access", "limits", "salvage")

    def __init__(self, access: Access, limits: Limits, salvage: bool = False) -> None:
        # They are opened when they are wanted, and nobody settles them.
        self.access: Access = "copy" if access == "summed" else access
        self.limits = limits
        self.salvage = salvage


class FileSet:
    """Several files opened as one, with the face of `_core.Archive`.

    Values are numbered from 1, the root.  A subclass gives `members`, `children`, `tensors`
    and `load`.
    """

    kind = ""
    byteorder = "little"
    has_byteorder = False
    prefix = ""
    protocol = 0
    pickle_size = 0
    root = 1
    end = 0
    record = ""
    place: str | None = None

    def __init__(self, path: str) -> None:
        self.path: str | None = path
        self.stamp: tuple[int, ...] | None = stamp_of(path)
        self.extra: Any = None
        self.closed = False
        self._rows: list[tuple[Member, int, Record]] | None = None
        self._last: tuple[Member, Archive] | None = None
        self._count: int | None = None

    # ---------------------------------------------------------------- of each kind

    def members(self) -> list[Member]:
        """Every archive in it, by the name of its file."""
        raise NotImplementedError

    def children(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        raise NotImplementedError

    def tensors(self, ref: int = 0, /) -> dict[str, TensorInfo]:
        raise NotImplementedError

    def load(self, ref: int, values: object, *, copy: bool = False, meta: bool = False) -> Any:
        raise NotImplementedError

    def info(self, index: int, name: str, /) -> TensorInfo:
        raise IndexError("the tensors of a set are those of its files")

    # ---------------------------------------------------------------- of all

    @property
    def storage_count(self) -> int:
        infos = self.tensors().values()
        return len({(id(info._archive), info.storage) for info in infos})

    @property
    def tensor_count(self) -> int:
        if self._count is None:
            self._count = len(self.tensors())
        return self._count

    def direct(self, ref: int = 0, /) -> dict[object, TensorInfo]:
        found: dict[object, TensorInfo] = {}
        found.update(self.tensors(ref))
        return found

    def kind_of(self, ref: int = 0, /) -> str:
        return "dict"

    def has_direct(self, ref: int = 0, /) -> bool:
        return any(kind == "tensor" for _, _, kind in self.children(ref or self.root) or ())

    def state_dict(self, ref: int = 0, /) -> int | None:
        return 0

    def holding(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        rows = self.children(ref)
        return rows and [row for row in rows if row[2] not in ("tensor", "value")]

    def called(self, ref: int = 0, /) -> tuple[str, str, int, int] | None:
        return None

    def untold(self, ref: int = 0, /) -> list[tuple[str, str, bool]]:
        return []

    def methods(self) -> list[str]:
        return []

    def close(self) -> None:
        self.closed = True
        self._last = None

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError("the checkpoint was closed", path=self.path)

    def globals(self, unknown_only: bool = False) -> list[tuple[str, str, int, bool]]:
        """Distinct names of all pickles in all files."""
        found: dict[tuple[str, str], tuple[str, str, int, bool]] = {}
        for member in self.members():
            for row in self._opened(member).globals(unknown_only):
                before = found.get(row[:2])
                if before is None or (row[3] and not before[3]):
                    found[row[:2]] = row
        return list(found.values())

    def records(self) -> list[Record]:
        """Of all files: their names begin with the file's.  A file without records counts as
        one that states no checksum.
        """
        self.check_open()
        return [row for _, _, row in self._all_rows()]

    def _all_rows(self) -> list[tuple[Member, int, Record]]:
        if self._rows is None:
            rows: list[tuple[Member, int, Record]] = []
            for member in self.members():
                archive = self._opened(member)
                records = archive.records()
                for index, row in enumerate(records):
                    rows.append((member, index, (f"{member[0]}/{row[0]}", *row[1:])))
                if not records:
                    size = os.stat(archive.path).st_size if archive.path else 1
                    rows.append((member, -1, (member[0], 0, size, size, 0, 0)))
            self._rows = rows
        return self._rows

    def read(self, index: int, /) -> bytes:
        member, number = self._record(index)
        if number < 0:
            raise IndexError("a file without records")
        return self._opened(member).read(number)

    def verify(self, index: int, /) -> bool:
        member, number = self._record(index)
        archive = self._opened(member)
        try:
            return number >= 0 and archive.verify(number)
        except StateDictError as error:
            error.path = error.path or archive.path
            raise

    def lose(self, member: Member) -> None:
        """Take the tensors of a damaged member for lost, where its archive has not been told."""

    def misfits(self, member: Member, archive: Archive) -> list[StateDictError]:
        """What its archive holds otherwise than the set tells, which is then taken for lost."""
        return []

    def lost(self) -> list[str]:
        """The names of the tensors that were taken for lost."""
        return [name for name, info in self.tensors().items() if info._is_lost]

    def _record(self, index: int) -> tuple[Member, int]:
        member, number, _ = self._all_rows()[index]
        return member, number

    def _opened(self, member: Member) -> Archive:
        """Records are mostly asked for one after another: the last member is kept."""
        self.check_open()
        last = self._last
        if last is None or last[0] is not member:
            last = self._last = (member, member[1]())
        return last[1]


# ------------------------------------------------------------------ files of a folder


def path_within(folder: str, name: str, teller: str) -> str:
    """The path of a file that `teller` (an index, say) names; it may not lead out."""
    parts = name.replace("\\", "/").split("/")
    drive = os.path.splitdrive(name)[0]
    if ".." in parts or not parts[0] or drive:
        raise UnsafePickleError(
            f"{teller} names a file outside its folder",
            code="path-escape",
            evidence=(f"name: {name[:200]!r}",),
            hint="an honest one names files beside it; get it again from a source that you trust",
        )
    if "\0" in name or not os.path.basename(name):
        raise CorruptError(f"{teller} names a file that cannot be", code="index", key=name[:200])
    return os.path.join(folder, name)


def require_files(paths: Iterable[str], teller: str) -> None:
    """All of them are there, and plain files: opening a pipe would wait for ever."""
    missing = [path for path in dict.fromkeys(paths) if not _is_plain(path)]
    if missing:
        raise CorruptError(
            f"{counted(len(missing), 'file')} that {teller} names cannot be found",
            code="missing-part",
            key=os.path.basename(missing[0]),
            evidence=listed(os.path.basename(path) for path in missing),
            hint="copy or download the missing files to the folder of the others",
        )


def _is_plain(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def open_member(path: str, how: How) -> Archive:
    """One file of a set."""
    source, _ = open_source(path, how.access)
    return member_of(source, path, how)


def member_of(source: Source, path: str, how: How) -> Archive:
    """The archive that bytes of a set's file are.

    Raises UnsupportedError for what is no mere data: a set itself, and what holds source
    texts, which load() looks into where it is a checkpoint by itself.
    """
    from pystatedict._opening import archive_of

    try:
        archive = archive_of(source, path, how.limits, salvage=how.salvage)
    except UnsupportedError as error:
        if error.code != "torch-shards":
            raise
        raise _no_member("the index of a set", path) from None
    if archive.kind in _CODE:
        raise _no_member(_CODE[archive.kind], path)
    return archive


_CODE = {"torchscript": "a script", "package": "a package", "export": "an exported program"}


def _no_member(what: str, path: str) -> UnsupportedError:
    return UnsupportedError(
        f"a file of a checkpoint in several files is {what}",
        code="set-member",
        path=path,
        hint="load() reads it by itself",
    )


def tell_danger(error: StateDictError, archive: Archive | None) -> None:
    """Damage must not hide that a pickle asks for code: that is the graver fact."""
    from pystatedict import _opening

    if archive is not None and not error.named:
        error.named = archive.globals(True)
    _opening._tell_danger(error)
