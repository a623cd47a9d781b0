"""Files, file objects and buffers as Sources; and where the sidecar of a file stands."""

from __future__ import annotations

import io
import os
import stat
import sys

from pystatedict import _core
from pystatedict._core import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Access = Literal["map", "copy", "summed", "read"]

# Linux counts a private writable map against memory unless told not to; the pages of a
# checkpoint are seldom written, and the file may be larger than memory.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0

# Until 3.13 a map keeps a descriptor of its own open; nothing here resizes maps.
_UNTRACKED: dict[str, Any] = (
    {"trackfd": False} if sys.version_info >= (3, 13) and os.name != "nt" else {}
)


def open_source(f: Any, access: Access = "map", beside: bool = False) -> tuple[Source, str | None]:
    """(bytes held open, path or None) of a path, file object or bytes-like object.

    A file is mapped privately, copy-on-write: arrays on it are writable and the file never
    changes.  An open file counts from its current position.  With "copy" the bytes are read
    into memory of their own, with "summed" also each block's checksum is computed, for who
    verifies before settle(); with "read" they are read where they are wanted, so that nothing
    dies of a file that somebody shortens.  `beside`: the file of a path stays open beside its
    map, for what is copied, until settle().
    """
    if isinstance(f, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(f))
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return _from_fd(fd, 0, access, path, beside), path
        finally:
            os.close(fd)
    try:
        return Source(f), None  # a map has read() too, and is better looked into
    except TypeError:
        if hasattr(f, "read"):
            return _from_file(f, access)
        raise TypeError(
            f"expected a path, a file or bytes, not {type(f).__name__}"
            + (" (save() takes the object first)" if isinstance(f, dict) else "")
        ) from None


def stamp_of(path: str, start: int = 0) -> tuple[int, ...]:
    """What tells a file from what stands there later, and where in it the checkpoint begins.

    Of a folder: size and time of last change are those of all files in it.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        with os.scandir(path) as entries:
            inside = [entry.stat() for entry in entries if entry.is_file()]
        latest = max((file.st_mtime_ns for file in inside), default=0)
        return found.st_dev, found.st_ino, sum(file.st_size for file in inside), latest, start
    return _stamp(found, start)


def _stamp(found: os.stat_result, start: int) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, start


def _from_file(f: Any, access: Access) -> tuple[Source, str | None]:
    raw = _raw_of(f)
    if raw is not None:
        return _from_fd(raw.fileno(), f.tell(), access), _path_of(raw)
    data = f.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"the file must be opened in binary mode; read() gave {type(data).__name__}"
        )
    from contextlib import suppress

    with suppress(AttributeError, OSError, ValueError):
        f.seek(-len(data), os.SEEK_CUR)  # where it was, as a mapped file's is
    return Source(bytearray(data)), None


def _raw_of(f: Any) -> io.FileIO | None:
    """The file of the system whose bytes `f` gives as they are.

    What has a descriptor need not give its bytes: a file of gzip's reads others than those.
    """
    f = getattr(f, "file", f) if type(f).__module__ == "tempfile" else f
    raw = f.raw if isinstance(f, (io.BufferedReader, io.BufferedRandom)) else f
    if not isinstance(raw, io.FileIO):
        return None
    return raw if is_regular(raw.fileno()) else None


def _path_of(raw: io.FileIO) -> str | None:
    """Where an open file stands, if it still does."""
    name = raw.name
    if not isinstance(name, (str, bytes)):
        return None  # opened by number
    path = os.fsdecode(name)
    try:
        same = os.path.samestat(os.stat(path), os.fstat(raw.fileno()))
    except OSError:
        return None
    return path if same else None


def is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _from_fd(
    fd: int, start: int, access: Access, path: str | None = None, beside: bool = False
) -> Source:
    found = os.fstat(fd)
    size = found.st_size
    if not stat.S_ISREG(found.st_mode):
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(f"{path!r} is a directory, not a file")
        with os.fdopen(os.dup(fd), "rb") as stream:  # a pipe or a device
            return Source(bytearray(stream.read()))
    stamp = _stamp(found, start)
    if size <= start:
        return Source(b"", stamp=stamp)
    if access == "read" and os.name != "nt":
        return Source.of_file(fd, start, size - start, stamp)
    if access in ("copy", "summed"):
        data, crcs = _read_all(fd, start, size - start, access == "summed")
        return Source(data, stamp=stamp, crcs=crcs)
    beside = beside and size >= _WORTH_A_FILE
    return Source(_map(fd, start, size), stamp=stamp, fd=fd if beside else -1, start=start)


# Of a file so small a map is as good.
_WORTH_A_FILE = 1 << 20


def _map(fd: int, start: int, size: int) -> Any:
    import mmap as module

    page = start - start % module.ALLOCATIONGRANULARITY
    if os.name == "nt":
        mapped = module.mmap(fd, size - page, access=module.ACCESS_COPY, offset=page)
    else:
        mapped = module.mmap(
            fd,
            size - page,
            flags=module.MAP_PRIVATE | _NORESERVE,
            prot=module.PROT_READ | module.PROT_WRITE,
            offset=page,
            **_UNTRACKED,
        )
    return memoryview(mapped)[start - page :] if start != page else mapped


def _read_all(fd: int, start: int, size: int, summed: bool) -> tuple[Any, bytearray | None]:
    """(the bytes, the CRC-32 of each of their blocks); fewer of a file that became shorter."""
    data = _fresh(size)
    if os.name == "nt":
        done, crcs = _read_into(data, fd, start), None
    else:
        crcs = bytearray(size // _core.CRC_BLOCK * 4) if summed else None
        done = _core.read_file(data, fd, start, *([] if crcs is None else [crcs]))
    return (data if done == size else memoryview(data)[:done]), crcs


def _read_into(data: Any, fd: int, start: int) -> int:
    """Where there is no pread: by the position, which is shared with the caller's file."""
    view, done = memoryview(data), 0
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        before = file.tell()
        file.seek(start)
        while done < len(view):
            count = file.readinto(view[done : done + (1 << 30)])
            if not count:
                break
            done += count
        file.seek(before)
    return done


# From this size on pages of their own beat the allocator, which zeroes what is then read over.
_OWN_PAGES = 1 << 20


def _fresh(size: int) -> Any:
    """Writable memory of that size: of many bytes, huge pages where the system has them."""
    if size < _OWN_PAGES or os.name == "nt":
        return bytearray(size)
    import mmap as module

    try:
        data = module.mmap(-1, size, flags=module.MAP_PRIVATE | module.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {size:,} bytes") from error
    if hasattr(module, "MADV_HUGEPAGE"):
        try:
            data.madvise(module.MADV_HUGEPAGE)
        except OSError:
            return data  # a kernel without them
    return data


# ------------------------------------------------------------------ the sidecar's place

# Here, and not in `_sidecar`, so that who finds none need not import what reads it.


def sidecar_of(path: str) -> str:
    """The path of the sidecar of a checkpoint: a file, or a folder."""
    return (path.rstrip(os.sep) or path) + ".trainable.json"


def is_nothing(path: str) -> bool:
    """Does nothing stand there?  False also where that cannot be told, as in a locked folder."""
    try:
        os.stat(path)
    except (FileNotFoundError, ValueError):  # the latter of a NUL in the path
        return True
    except OSError as error:
        import errno

        return error.errno == errno.ENAMETOOLONG
    return False
