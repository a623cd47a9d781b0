# SPDX-License-Identifier: Apache-2.0
"""Where bytes are written: files that are whole or absent, and file objects."""

from __future__ import annotations

import io
import itertools
import os
import stat
from contextlib import contextmanager, suppress

from pystatedict import _core
from pystatedict._files import is_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

_COUNT = itertools.count()


@contextmanager
def replacing(path: str, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well.

    The old file stays whole until then, whatever happens; its permissions are kept.  On an
    error nothing is left behind; nor when the process is killed, where the system has files
    without names.  A symbolic link is followed, so the link stays.  What is no regular file
    (a pipe, /dev/null) is written to as it is.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.bin")
    >>> with replacing(str(path)) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_bytes()
    b'whole'
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path!r} is there already, and overwrite is False")
    _check_target(path)
    if is_special(path):
        with open(path, "wb", buffering=0) as file:
            yield file
        return
    target = os.path.realpath(path)
    if os.path.islink(target):
        import errno

        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    folder, name = os.path.split(target)
    new = _Unnamed.opened(folder) or _Named(folder, name)
    try:
        with new.open() as stream:
            yield stream
            _keep_mode(target, stream.fileno())
            os.fsync(stream.fileno())
            new.put(target, overwrite)
    except BaseException:
        new.drop()
        raise
    sync_folder(folder)


class _Named:
    """A file beside the target, under a name of its own until it takes the target's."""

    def __init__(self, folder: str, name: str) -> None:
        self._path = free_name(folder, name)
        self._ours = True  # from now on: a signal may come while the file is being made
        self._file: BinaryIO | None = None

    def open(self) -> BinaryIO:
        try:
            self._file = open(self._path, "x+b", buffering=0)  # noqa: SIM115
        except FileExistsError:
            self._ours = False
            raise
        return self._file

    def put(self, target: str, overwrite: bool) -> None:
        assert self._file is not None
        self._file.close()  # some systems rename no file that is open
        if overwrite:
            os.replace(self._path, target)
        else:
            os.link(self._path, target)  # fails if someone else was first
            os.unlink(self._path)

    def drop(self) -> None:
        if self._ours:
            with suppress(FileNotFoundError):
                os.unlink(self._path)


class _Unnamed:
    """A file without a name: if the process dies, the system takes it away.

    To take the place of another it needs a name for the time between two calls.  That is
    always the same beside one target, so that what a process killed just then has left is
    found by the next; and it is locked, so that of a process which lives is told apart.
    """

    def __init__(self, file: BinaryIO, folder: str) -> None:
        self._file = file
        self._stat = os.fstat(file.fileno())
        self._folder = folder
        self._path: str | None = None

    @classmethod
    def opened(cls, folder: str) -> _Unnamed | None:
        """None where the system or the file system has no such files."""
        if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
            return None
        try:
            file = open(folder or ".", "r+b", buffering=0, opener=_open_unnamed)  # noqa: SIM115
        except OSError:
            return None  # a file with a name will tell what is wrong, if anything is
        try_lock(file.fileno())
        return cls(file, folder)

    def open(self) -> BinaryIO:
        return self._file

    def put(self, target: str, overwrite: bool) -> None:
        folder = os.open(self._folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not overwrite:
                self._link(folder, target)  # fails if someone else was first
                return
            name = os.path.basename(target)
            self._path = os.path.join(self._folder, f".{name[:50]}.pystatedict.part")
            if not self._link_for_now(folder):
                self._path = free_name(self._folder, name)
                self._link(folder, self._path)
            os.replace(self._path, target)
        finally:
            os.close(folder)

    def _link(self, folder: int, path: str) -> None:
        # Only with a folder is the link of /proc followed, and not linked itself.
        source = f"/proc/self/fd/{self._file.fileno()}"
        os.link(source, path, src_dir_fd=folder, follow_symlinks=True)

    def _link_for_now(self, folder: int) -> bool:
        """By the usual name; False while another process needs it."""
        assert self._path is not None
        try:
            self._link(folder, self._path)
        except FileExistsError:
            if not _remove_unlocked(self._path):
                return False
            try:
                self._link(folder, self._path)
            except FileExistsError:
                return False
        return True

    def drop(self) -> None:
        """Take the name away, if there is one and it is still this file's."""
        if self._path is not None:
            with suppress(OSError):
                if os.path.samestat(os.stat(self._path), self._stat):
                    os.unlink(self._path)


def _open_unnamed(folder: str, flags: int) -> int:
    return os.open(folder, flags | os.O_TMPFILE, 0o666)


def try_lock(fd: int) -> bool:
    """Lock a file for as long as it is open here; False where another has it locked."""
    try:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _remove_unlocked(path: str) -> bool:
    """Remove what a process that died has left; False of what may be a living one's."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not is_regular(fd) or not try_lock(fd):
            return False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                os.unlink(path)
        return True
    finally:
        os.close(fd)


def _check_target(path: str) -> None:
    """What can be said of the path itself, before a name is made of it."""
    import errno

    folder, name = os.path.split(path)
    if not name or os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    try:
        is_folder = stat.S_ISDIR(os.stat(folder or ".").st_mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    if not is_folder:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)


def is_special(path: str) -> bool:
    """A device, a pipe, a socket: something that a file must not take the place of."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def free_name(folder: str, name: str) -> str:
    """A name beside `name` that nobody else uses: other threads count on, and what a killed
    process of this number has left is passed by.
    """
    while True:
        # Short, so that a name of the greatest length still has room for it: names are
        # bounded in bytes, and a character has up to four.
        unique = f"{os.getpid():x}-{next(_COUNT):x}"
        path = os.path.join(folder, f".{name[:50]}.{unique}.part")
        if not os.path.lexists(path):
            return path


def _keep_mode(target: str, fd: int) -> None:
    """Give the new file the permissions and, where allowed, the owner of the old one."""
    if not hasattr(os, "fchmod"):
        return
    try:
        old = os.stat(target)
    except OSError:
        return
    new = os.fstat(fd)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):
            os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, old.st_mode & 0o7777)


def sync_folder(folder: str) -> None:
    """The rename itself should survive a crash, where the system can promise it."""
    if os.name == "nt":
        return
    try:
        fd = os.open(folder or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


@contextmanager
def reading(file: BinaryIO) -> Iterator[BinaryIO]:
    """The bytes of a file that is being written, from its start."""
    with os.fdopen(os.dup(file.fileno()), "rb", buffering=0) as whole:
        before = whole.tell()
        whole.seek(0)
        try:
            yield whole
        finally:
            whole.seek(before)  # the position is shared


def writer_of(file: Any) -> Callable[[memoryview], object]:
    """The write method of a file object that was opened for bytes."""
    write = getattr(file, "write", None)
    if write is None:
        raise TypeError(f"expected a path or a file to write to, not {type(file).__name__}")
    if isinstance(file, io.RawIOBase):
        return _Raw(file)
    return write  # type: ignore[no-any-return]


# Bytes after which the disk may begin: so many that it is kept busy, and not asked too often.
_BEHIND = 2 << 20


class Ahead:
    """write() of a file that will be synced: the disk is at work while the rest is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = self._begun = 0

    def __call__(self, data: memoryview) -> int:
        count = self._file.write(data)
        self._written += count
        if self._written - self._begun >= _BEHIND and os.name != "nt":
            _core.begin_writeback(self._file.fileno(), self._begun, self._written - self._begun)
            self._begun = self._written
        return count


def told(
    write: Callable[[memoryview], object], progress: Callable[[int], object] | None
) -> Callable[[memoryview], object]:
    """A write method that tells how many bytes it was given."""
    if progress is None:
        return write

    def telling(data: memoryview) -> object:
        taken = write(data)
        progress(taken if isinstance(taken, int) else len(data))
        return taken

    return telling


class _Raw:
    """write() of a raw file, whose None means that nothing was taken, not all."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def __call__(self, data: memoryview) -> int:
        count = self._file.write(data)
        if count is None:
            import errno

            raise BlockingIOError(errno.EAGAIN, "the file takes nothing now, and does not block")
        return count
