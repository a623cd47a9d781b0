# SPDX-License-Identifier: Apache-2.0
"""scan() in files: archives, packed bytes and arrays, and the pickles in them.

A part is looked at in every way in which some reader may take it: by the end of a zip
archive behind it, by a tar, a packed stream or a pickle at its start.
"""

from __future__ import annotations

import re

from . import _archivelook as _look
from . import _core
from ._errors import NotACheckpointError, StateDictError
from ._picklelook import may_begin
from ._scanparts import Part, within
from ._scanpickles import PEEK, Pickles
from ._signatures import SIGNATURES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Folders = dict[str, set[str]]

__all__ = ["Scanner"]

_MAX_UNPACKED = 1 << 30  # bytes of one packed member or file

_PACKED = frozenset({"gzip", "zlib", "bzip2", "xz"})
_CLOSED = frozenset({"7z", "rar", "zstd", "lz4", "elf", "mach-o"})  # noted where they lie

_LEADS_OUT = "its name leads out of the archive's folder"
_ENCRYPTED = 1  # flag of a zip record


class Scanner(Pickles):
    """What was found so far; `look` at bytes, then `finish`."""

    def look(self, data: memoryview, label: str | None, must: bool) -> bool:
        """Look at a file; whether anything in it is a pickle or an archive.

        With `must`, it is a pickle, however damaged.
        """
        self.work.allow(len(data))
        self._values = max(self._values, len(data))
        self._recognised = must
        self._add_file(data, label, "pickle" if must else "file")
        for part in self._parts():
            self._look_at(part)
        return self._recognised

    def _look_at(self, part: Part) -> None:
        if part.role == "stream":
            self._stream(part)
            return
        head = bytes(part.data[:PEEK])
        zipped = self._archives(part, head)
        if not head.startswith(_look.LOCAL):
            # Readers of archives ask for these first bytes, others do not get beyond them.
            self._from_the_start(part, head, zipped)
        if part.role == "payload":
            self._payload(part)

    def _from_the_start(self, part: Part, head: bytes, zipped: bool) -> None:
        kind = _kind_of(head)
        other = True
        if _look.tar_begins(head):
            self._tar(part)
        elif kind in _PACKED:
            self._unpack(part, kind)
        elif kind == "npy":
            self._array(part, head)
        elif kind is not None and part.role in ("member", "within"):
            self._error(part, part.label, f"{kind}: not looked at")
        else:
            other = zipped
        self._chain(part, must=not other and part.role in ("pickle", "payload"))

    # ------------------------------------------------------------------- zip archives

    def _archives(self, part: Part, head: bytes) -> bool:
        """Look at zip archives, the last first; whether there is any.

        Several may stand one after another, as in a distributed checkpoint's files.
        """
        starts = head.startswith(_look.LOCAL) and len(part.data) > len(_look.LOCAL)
        if not starts and part.role in ("within", "payload"):
            return False
        region, last = part.data, None
        headers: set[int] = set()
        while self.work.begin():
            at = self._reader(region)
            found = _look.archive(at, len(region), self.work.left // self.work.EACH)
            behind = found is not None and found.stop != len(region)
            if found is None or (last and behind) or not (found.entries or starts):
                break
            self._recognised = True
            last = last or found
            headers.update(entry.header for entry in found.entries)
            self._archive(part, region, found)
            begin = min((entry.header for entry in found.entries), default=0)
            if not 0 < begin < len(region):
                break
            region = region[:begin]
        else:
            self._out_of_work(part, part.label)
        if last is not None:
            self._elsewhere(part, last, headers)
        if starts and 0 not in headers:
            self._without_directory(part, region, last is not None)
        return last is not None or starts

    def _without_directory(self, part: Part, region: memoryview, behind: bool) -> None:
        """Records at the start of a part that no directory names."""
        self._recognised = True
        self._error(
            part,
            part.label,
            "records before the archive, which its directory does not name"
            if behind
            else "the file ends before the archive's end record",
        )
        at = self._reader(region)
        self._members(_Zip(part, region, at, _cut_entries(at, len(region)), None))

    def _elsewhere(self, part: Part, found: _look.Directory, headers: set[int]) -> None:
        """Records where the directory says, for readers who do not ask what comes before."""
        at, shift = self._reader(part.data), found.start
        moved = [
            _look.Entry(entry.name, entry.header - shift, entry.method, entry.stored, entry.flags)
            for entry in found.entries
            if shift > 0 and entry.header - shift not in headers
        ]
        moved = [entry for entry in moved if at(entry.header, 4) == _look.LOCAL]
        if moved:
            self._error(part, part.label, "records that some readers look for elsewhere")
            self._members(_Zip(part, part.data, at, moved, None))

    def _archive(self, part: Part, region: memoryview, found: _look.Directory) -> None:
        """Look at one archive by itself, without what comes before it."""
        region = region[found.start :] if found.start > 0 else region
        shift = max(found.start, 0)
        at, opened = self._reader(region), None
        entries = [
            _look.Entry(entry.name, entry.header - shift, entry.method, entry.stored, entry.flags)
            for entry in found.entries
        ]
        try:
            opened = _core.open_archive(_core.Source(region), run=False, mode="records")
            entries = [
                _look.Entry(name, header, method, stored)
                for name, header, stored, _, _, method in opened.records()
            ]
        except StateDictError as error:
            if not isinstance(error, NotACheckpointError):  # an archive all the same
                self._error(part, part.label, error)
            if not found.complete:
                self._error(part, part.label, "a directory that cannot be read to its end")
        if _look.END in at(found.stop - shift, _look.TAIL):
            self._error(part, part.label, "the end of another archive behind the first")
        archive = _Zip(part, region, at, entries, opened)
        pickled = self._members(archive)
        if "data.pkl" in archive.folders:
            self._check(part, part.label, region, pickled)
        if opened is not None:
            self._hidden(archive)
            opened.close()

    def _members(self, archive: _Zip) -> int:
        """Look at all records; how many bytes of pickles there are."""
        part = archive.part
        code = _code_in(archive.folders)
        if code:
            self._error(part, part.label, f"{code}: the code in it was not looked at")
        pickled = 0
        for index, entry in enumerate(archive.entries):
            pickled += self._member(archive, entry, index)
        return pickled

    def _member(self, archive: _Zip, entry: _look.Entry, index: int) -> int:
        """Look at one record; its size where it is a pickle."""
        part = archive.part
        label = within(part.label, entry.name)
        if _leads_out(entry.name):
            self._error(part, label, _LEADS_OUT)
        must = entry.name.lower().endswith((".pkl", ".pickle"))
        if entry.name.endswith("/") or (not must and _is_storage(entry.name, archive.folders)):
            return 0
        if entry.flags & _ENCRYPTED:
            self._error(part, label, "is marked as encrypted")
        try:
            content, whole = self._content(archive, entry, label, must)
        except ValueError as error:
            self._error(part, label, error)
            return 0
        if content is None:
            return 0
        self._add_inner(part, content, label, "pickle" if must else "member")
        if must and whole and archive.opened is not None and self.work.take(len(content)):
            try:
                archive.opened.verify(index)
            except StateDictError as error:
                self._error(part, label, error)
        return len(content) if must else 0

    def _content(
        self, archive: _Zip, entry: _look.Entry, label: str, must: bool
    ) -> tuple[memoryview | None, bool]:
        """A member's bytes, None where they hold nothing or are another's; if that is all."""
        part, region = archive.part, archive.region
        if not self.work.begin():
            self._out_of_work(part, label)
            return None, False
        data, end = _look.bounds(archive.at, entry)
        if not must and not _may_hold(_look.beginning(archive.at, entry, data, end, PEEK)):
            return None, False
        if (data, end) in archive.seen:
            self._error(part, label, "its bytes are those of another record")
            return None, False
        archive.seen.add((data, end))
        archive.given += end - data
        if archive.given > 2 * len(region):  # a record that goes too far is told elsewhere
            self._error(part, label, "not looked at: records that lie over one another")
            return None, False
        if end > len(region):
            self._error(part, label, "the file ends before the record does")
        if entry.method == 0:
            return region[data:end], end <= len(region)
        if entry.method not in _look.PACKED:
            raise ValueError(f"packed by method {entry.method}")
        return self._unpacked(part, label, region[data:end], _look.PACKED[entry.method])

    def _unpacked(
        self, part: Part, label: str | None, packed: memoryview, kind: str
    ) -> tuple[memoryview, bool]:
        # Half of what is left, so that a bomb leaves something for what follows it.
        most = min(self.work.left // 2, _MAX_UNPACKED)
        content, whole = _look.unpack(kind, packed, most)
        self.work.take(len(content))
        if not whole and len(content) < most:
            self._error(part, label, "the packed bytes end too early")
        elif not whole:
            self._out_of_work(part, label)
        return memoryview(content), whole

    def _hidden(self, archive: _Zip) -> None:
        """Records between those of the directory, for readers that go without one."""
        at, part = archive.at, archive.part
        hidden: list[_look.Entry] = []
        known = sorted(archive.entries, key=lambda entry: entry.header)
        position = known[0].header if known else 0
        for entry in known:
            while position < entry.header and at(position, 4) == _look.LOCAL:
                position = self._pass(at, position, hidden)
            if not self.work.begin():
                return
            try:
                end = _look.bounds(at, entry)[1]
            except ValueError:
                continue
            position = max(position, _look.after(at, entry, end))
        while at(position, 4) == _look.LOCAL:
            position = self._pass(at, position, hidden)
        if hidden:
            names = ", ".join(entry.name for entry in hidden[:3])
            self._error(part, part.label, f"records that the directory does not name: {names}")
            self._members(_Zip(part, archive.region, at, hidden, None))

    def _pass(self, at: _look.ReadAt, position: int, hidden: list[_look.Entry]) -> int:
        found = _look.local(at, position)
        if found is None or not self.work.begin():
            return position + 1
        entry, data = found
        hidden.append(entry)
        return _look.after(at, entry, data + (entry.stored or 0))

    # -------------------------------------------------------------- tar, packed, arrays

    def _tar(self, part: Part) -> None:
        at = self._reader(part.data)
        self._recognised = True
        stop = pickled = 0
        for name, offset, length, plain in _look.tar_walk(at, len(part.data)):
            label = within(part.label, name)
            if not self.work.begin():
                self._out_of_work(part, part.label)
                return
            if _leads_out(name):
                self._error(part, label, _LEADS_OUT)
            if not plain and name.strip("./"):
                self._error(part, label, "no plain file: a folder, a link or a device")
            stop = offset + (length + 511) // 512 * 512
            content = part.data[offset : offset + length]
            pickled += length if name == "pickle" else 0
            if plain and name in ("storages", "tensors"):
                self._add_inner(part, content, label, "stream")
            elif plain and _may_hold(bytes(content[:PEEK])):
                role = "pickle" if name in ("pickle", "sys_info") else "member"
                self._add_inner(part, content, label, role)
        if at(stop, 512).strip(b"\0"):
            self._error(part, part.label, f"a tar archive that cannot be read on at byte {stop:,}")
        if pickled:
            self._check(part, part.label, part.data, pickled)

    def _unpack(self, part: Part, kind: str) -> None:
        try:
            if kind == "zlib" and not self._is_zlib(part):
                return
            content, _ = self._unpacked(part, part.label, part.data, kind)
        except ValueError as error:
            self._error(part, part.label, error)
            return
        self._recognised = True
        self._add_inner(part, content, within(part.label, "unpacked"), "member")

    def _is_zlib(self, part: Part) -> bool:
        """Two bytes are a weak signature: it must be sound, and hold something."""
        most = min(len(part.data), 1 << 16)
        if not self.work.take(most):
            return False
        try:
            content, ended = _look.unpack("zlib", part.data[:most], PEEK)
        except ValueError:
            return False
        # A stream that ends early is none; of a long one this is but the start.
        whole = ended or len(content) == PEEK or most < len(part.data)
        return whole and _may_hold(content)

    def _array(self, part: Part, head: bytes) -> None:
        """An .npy file: a pickle behind its header, where it holds objects."""
        wide = head[6:7] != b"\1"
        start = 12 + _look.number(head, 8, 4) if wide else 10 + _look.number(head, 8, 2)
        if _OBJECTS.search(head[:start]) or start > len(head):
            self._recognised = True
            self._add_inner(part, part.data[start:], within(part.label, "objects"), "pickle")


class _Zip:
    """A zip archive that is being looked at."""

    __slots__ = ("at", "entries", "folders", "given", "opened", "part", "region", "seen")

    def __init__(
        self,
        part: Part,
        region: memoryview,
        at: _look.ReadAt,
        entries: list[_look.Entry],
        opened: _core.Archive | None,
    ) -> None:
        self.part = part
        self.region = region
        self.at = at
        self.entries = entries
        self.opened = opened  # whose numbers are those of the entries
        self.folders = _folders(entry.name for entry in entries)
        self.seen: set[tuple[int, int]] = set()
        self.given = 0  # bytes of records that were looked at


# --------------------------------------------------------------------------- first bytes

_OBJECTS = re.compile(rb"[|'\"]O[0-9]*['\"]")  # in an .npy file's header
_FIRST_OF_OTHERS = frozenset(b"\x1f\x78\x93\xfd\x7f7R\x28\x04\xcf\xce\xca")


def _may_hold(head: bytes) -> bool:
    """Whether bytes with these first ones may be a pickle, or something to look into."""
    if not head:
        return False
    return may_begin(head) or head[0] in _FIRST_OF_OTHERS or _look.tar_begins(head)


def _is_whole(kind: str, head: bytes) -> bool:
    """Whether the rest of a short signature is there."""
    if kind == "gzip":
        return head[2:3] == b"\x08"
    # The first block of a bzip2 stream, or its end.
    return kind != "bzip2" or head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")


def _kind_of(head: bytes) -> str | None:
    """The word for gzip and the like, "npy", or a phrase for what cannot be looked into."""
    for offset, magic, kind, phrase, _ in SIGNATURES:
        if head.startswith(magic, offset):
            if kind in _PACKED or kind == "npy":
                return kind if _is_whole(kind, head) else None
            return phrase if kind in _CLOSED else None
    if head[:1] == b"x" and len(head) > 2 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    return None


# ---------------------------------------------------------------------------- zip records


def _cut_entries(at: _look.ReadAt, size: int) -> list[_look.Entry]:
    """Records from the start on, the one that is cut off included."""
    entries, cut = _look.walk(at, size)
    if cut is not None:
        found = _look.local(at, cut.header)
        if found is not None:
            cut.stored = max(size - found[1], 0)
            entries.append(cut)
    return entries


_TELLING = frozenset({"data.pkl", "constants.pkl", "extern_modules", "archive_format"})


def _folders(names: Iterable[str]) -> Folders:
    """The folders of the names that tell what kind of archive it is."""
    folders: Folders = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if last in _TELLING:
            folders.setdefault(last, set()).add(folder + "/" if folder else "")
    return folders


def _code_in(folders: Folders) -> str:
    if folders.get("data.pkl", set()) & folders.get("constants.pkl", set()):
        return "a TorchScript archive (torch.jit.save)"
    if any(folder.endswith(".data/") for folder in folders.get("extern_modules", ())):
        return "an archive of torch.package"
    return ""


_EXPORTED = re.compile(r"(?:.*/)?data/(?:weights/\w+_[0-9]+|constants/tensor_[0-9]+)")


def _is_storage(name: str, folders: Folders) -> bool:
    """Raw bytes of tensors, which no reader takes for a pickle."""
    folder, _, last = name.rpartition("/")
    pickled = folders.get("data.pkl", set())
    if folder.endswith("data") and folder[:-4] in pickled:
        return "." not in last  # torch numbers them
    if folder.endswith("constants") and folder[:-9] in folders.get("constants.pkl", ()):
        return "." not in last
    if folder.endswith(".data") and name.endswith(".storage"):
        return folder + "/" in folders.get("extern_modules", ()) or folder[:-5] in pickled
    return "archive_format" in folders and _EXPORTED.fullmatch(name) is not None


def _leads_out(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or name[1:3] == ":/"
