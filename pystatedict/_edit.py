# SPDX-License-Identifier: Apache-2.0
"""edit: another pickle for the tensors that a file has, at the cost of the pickle alone.

The new pickle and a new directory are put behind the file's end; the old ones stay where they
are, and nobody reads them any more.  Until all of it is on the disk an undo record beside the
file tells how long the file was: to cut it there is to have it back as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import FileIO, RawIOBase
from typing import TYPE_CHECKING, Any

from pystatedict import _core
from pystatedict._errors import CorruptError, UnsupportedError
from pystatedict._files import sidecar_of

if TYPE_CHECKING:
    from pystatedict._core import Archive


def edit(path: str | os.PathLike[str], change: Callable[[Any], Any]) -> None:
    """Change names, flags, values and structure of a checkpoint in its file, and drop tensors,
    without writing their bytes anew.

    The cost is that of the pickle and the directory, whatever the file's size.  What is
    dropped, and the old pickle, stay in the file as bytes that nobody reads;
    ``ops.convert(path, path)`` reclaims them.  torch reads the result.

    A process that dies meanwhile leaves ``.<name>.pystatedict.undo`` beside the file; the next
    edit(), or undo(), takes the file back to what it was.

    Args:
        path: of a zip archive that torch.save, or save(), wrote.
        change: gets the object in the file, as ``ops.open`` gives it, and gives the new one,
            whose tensors are all the file's; ops.rename, select, drop and freeze do so.

    Raises:
        UnsupportedError: the file is of another kind, or the new object holds a tensor that
            does not stand in it as such (arrays, LazyTensors, sparse and quantized ones).

    >>> import shutil, pystatedict
    >>> from pystatedict import ops
    >>> _ = shutil.copy("tutorial.pth", "mine.pth")
    >>> edit("mine.pth", lambda sd: ops.add_prefix(ops.drop(sd, "fc_final.*"), "net."))
    >>> list(pystatedict.load("mine.pth"))
    ['net.fc1.0.weight', 'net.fc1.0.bias', 'net.fc2.0.weight', 'net.fc2.0.bias']
    """
    name = os.path.realpath(os.fsdecode(os.fspath(path)))
    with open(name, "r+b", buffering=0) as file:
        _lock(file, name)
        _take_back(file, name)
        archive = _opened(name)
        followed = _sidecar_is_current(name)
        try:
            from pystatedict._api import load_lazily

            made = change(load_lazily(name))
            program, dropped, told = _prepared(archive, made, name)
        finally:
            archive.close()
        if told is None and followed:
            told = "", {}  # what it said of tensors that are gone
        with _Undo(name, file):
            _append(file, archive.prefix + "data.pkl", program, dropped)
            _check(name, made)
            document = None if told is None else _document(name, *told)
    if document is not None:
        _write_sidecar(name, document)


def undo(path: str | os.PathLike[str]) -> bool:
    """Take a file back to what it was before an edit() that died; False when none did.

    >>> undo("tutorial.pth")
    False
    """
    name = os.path.realpath(os.fsdecode(os.fspath(path)))
    with open(name, "r+b", buffering=0) as file:
        _lock(file, name)
        return _take_back(file, name)


def _lock(file: FileIO, name: str) -> None:
    """Two edits of one file at a time would each append where the other does."""
    from pystatedict._targets import try_lock

    if os.name != "nt" and not try_lock(file.fileno()):
        import errno

        raise BlockingIOError(errno.EAGAIN, "another process edits the file", name)


def _opened(name: str) -> Archive:
    from pystatedict._opening import open_at

    archive, _ = open_at(name, None, access="read")
    if not isinstance(archive, _core.Archive) or archive.kind != "checkpoint":
        kind = archive.kind
        archive.close()
        raise UnsupportedError(
            f"edit() is for the zip archives of torch.save, and this is of kind {kind!r}",
            path=name,
            code="edit-kind",
            hint="ops.convert(f, out) writes a changed copy of any kind",
        )
    return archive


# ------------------------------------------------------------------ the new pickle


def _prepared(archive: Archive, made: Any, name: str) -> tuple[bytes, set[str], Any]:
    """(the pickle, names of records that nothing refers to any more, the sidecar's content)."""
    from pystatedict._flags import flags_to_write, sidecar_to_write
    from pystatedict._reduce import Reducer

    flags = flags_to_write(made, None)
    reducer = Reducer(True, flags)
    program = bytearray()

    def take(data: memoryview) -> int:
        program.extend(data)
        return len(data)

    try:
        _core.write(made, take, reducer, parameters=flags, kept_keys=True)
    except ValueError as error:
        if "not one of the file's" not in str(error):
            raise
        raise _foreign(name) from None
    records = archive.storage_records()
    used = set()
    for path, number in reducer.used_storages():
        # Those of a checkpoint within the pickle have no record.
        if path is None or os.path.realpath(path) != name or records[number] is None:
            raise _foreign(name)
        used.add(number)
    dropped = {
        record for number, record in enumerate(records) if record is not None and number not in used
    }
    return bytes(program), dropped, sidecar_to_write(made, name, None)


def _foreign(name: str) -> UnsupportedError:
    return UnsupportedError(
        "the new object holds a tensor that does not stand in the file as such",
        path=name,
        code="edit-foreign",
        hint="edit() renames, regroups and drops tensors; ops.convert(obj, out) writes others, too",
    )


# ------------------------------------------------------------------ into the file


class _Grown(RawIOBase):
    """A file as it would be with what is written behind its end, which is only gathered."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._end = os.fstat(file.fileno()).st_size
        self._at = 0
        self.tail = bytearray()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = self._end + len(self.tail)
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        most = self._end + len(self.tail) - self._at
        size = most if size is None or size < 0 else max(min(size, most), 0)
        self._file.seek(self._at)
        found = b""
        while len(found) < min(size, self._end - self._at):
            piece = self._file.read(min(size, self._end - self._at) - len(found))
            if not piece:
                break
            found += piece
        if len(found) < size:
            first = max(self._at - self._end, 0)
            found += self.tail[first : first + size - len(found)]
        self._at += len(found)
        return found

    def truncate(self, size: int | None = None) -> int:
        end = self._at if size is None else size
        del self.tail[max(end - self._end, 0) :]
        return end

    def write(self, data: Any) -> int:
        first = self._at - self._end
        if first < 0:
            raise ValueError("what stands in the file is not written over")
        self.tail[first : first + len(data)] = data
        self._at += len(data)
        return len(data)


def _append(file: FileIO, record: str, program: bytes, dropped: set[str]) -> None:
    """The pickle and a directory that names it, behind all that is there."""
    import zipfile

    grown = _Grown(file)
    end = grown.seek(0, os.SEEK_END)
    with zipfile.ZipFile(grown, "a") as archive:
        kept = [
            row
            for row in archive.filelist
            if row.filename != record and row.filename not in dropped
        ]
        if len(kept) != len(archive.filelist) - 1 - len(dropped):
            archive.start_dir = end
            raise UnsupportedError(
                "the archive's names are spelled in a way that edit() cannot follow",
                path=str(file.name),
                code="edit-kind",
                hint="ops.convert(path, path) writes the file anew",
            )
        archive.filelist[:] = kept
        archive.NameToInfo.clear()
        archive.NameToInfo.update((row.filename, row) for row in kept)
        archive.start_dir = end  # where it goes on, and not over the old directory
        info = zipfile.ZipInfo(record)  # of 1980: the same edit gives the same bytes
        info.create_system, info.external_attr = 0, 0
        archive.writestr(info, program)
    tail = memoryview(grown.tail)
    file.seek(end)
    while tail:
        tail = tail[file.write(tail) :]
    os.fsync(file.fileno())


def _check(name: str, made: Any) -> None:
    """Is what stands there now what was meant?  Else the undo record is made use of."""
    from pystatedict._opening import open_checkpoint
    from pystatedict._taken import named_tensors

    with open_checkpoint(name, None, access="read") as found:
        shapes, wanted = found.shapes(), named_tensors(made)
        for key, value in wanted.items():
            # A part that stands in several places is listed under one of their names.
            shape = shapes.get(key, tuple(value.shape) if shapes else None)
            if shape != tuple(value.shape):
                raise CorruptError(
                    "the edited file was not what it was to be, and was taken back to what it was",
                    path=name,
                    key=key,
                    code="edit-differs",
                    hint="the disk or the memory may be failing; ops.convert(f, out) writes a copy",
                )


def _sidecar_is_current(name: str) -> bool:
    """Is there one whose flags the object was given?  A stale one is left as it is."""
    from pystatedict._errors import SidecarError
    from pystatedict._sidecar import load_trainable

    if not os.path.exists(sidecar_of(name)):
        return False
    try:
        load_trainable(name, on_stale="raise")
    except SidecarError:
        return False
    return True


def _document(name: str, root: str, flags: dict[str, Any]) -> dict[str, Any]:
    """The sidecar's content, bound to the file as it is now; empty of no flags."""
    from pystatedict._opening import open_checkpoint
    from pystatedict._sidecar import document_of

    said = {key: flag for key, flag in flags.items() if flag is not None}
    if not said:
        return {}
    with open_checkpoint(name, root or None, access="read") as found:
        size = os.stat(name).st_size
        return document_of(found.archive, name, said, names=dict(found), root=root, size=size)


def _write_sidecar(name: str, document: dict[str, Any]) -> None:
    from pystatedict._sidecar import write_document

    if document:
        write_document(name, document)
    elif os.path.exists(sidecar_of(name)):
        os.unlink(sidecar_of(name))


# ------------------------------------------------------------------ undo


def _undo_path(name: str) -> str:
    folder, last = os.path.split(name)
    if len(os.fsencode(last)) > 200:  # names are bounded in bytes
        from hashlib import blake2b

        last = last[:40] + "-" + blake2b(os.fsencode(last), digest_size=8).hexdigest()
    return os.path.join(folder, f".{last}.pystatedict.undo")


# Bytes before the file's old end by which it is known again.
_KNOWN_BY = 64 << 10


class _Undo:
    """A record of how long the file was, on the disk before it grows."""

    def __init__(self, name: str, file: FileIO) -> None:
        self._name, self._file = name, file

    def __enter__(self) -> None:
        import json

        from pystatedict._targets import replacing

        size = os.fstat(self._file.fileno()).st_size
        told = {
            "pystatedict_undo": 1,
            "file": os.path.basename(self._name),
            "size": size,
            "crc32": _crc_before(self._file, size),
        }
        with replacing(_undo_path(self._name)) as record:
            record.write(json.dumps(told).encode())

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            _take_back(self._file, self._name)
            return
        _forget(self._name)


def _crc_before(file: FileIO, size: int) -> int:
    """The CRC-32 of the last bytes before `size`, in which the old directory ends."""
    start = max(size - _KNOWN_BY, 0)
    file.seek(start)
    found = b""
    while len(found) < size - start:
        piece = file.read(size - start - len(found))
        if not piece:
            break
        found += piece
    return _core.crc32(found)


def _forget(name: str) -> None:
    from pystatedict._targets import sync_folder

    os.unlink(_undo_path(name))
    sync_folder(os.path.dirname(name))


def _take_back(file: FileIO, name: str) -> bool:
    """Cut the file to what the undo record tells, if there is one.

    A record of a file that was written anew since is forgotten: what it tells of is gone.
    """
    import json

    try:
        with open(_undo_path(name), "rb") as record:
            told = json.loads(record.read(4096))
        size = told["size"] if told["pystatedict_undo"] == 1 else None
        ours, crc = told["file"] == os.path.basename(name), told["crc32"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, RecursionError):
        size, ours, crc = None, False, 0
    if not ours or type(size) is not int or size <= 0:
        raise CorruptError(
            f"'{_undo_path(name)}' is no undo record of this file",
            path=name,
            code="edit-undo",
            hint="if the file is whole (pystatedict.verify), remove the record",
        )
    there = os.fstat(file.fileno()).st_size
    same = size <= there and _crc_before(file, size) == crc
    if same:
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())
    _forget(name)
    return same
