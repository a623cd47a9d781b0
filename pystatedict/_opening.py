# SPDX-License-Identifier: Apache-2.0
"""From whatever a caller gives to an opened archive: one road for every kind of file.

The core tells zip archives, legacy streams and torch's tar by their first bytes.  What it
does not know is named by `identify`, and read here where there is a way; else the error
says what the file is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from pystatedict import _core
from pystatedict._errors import (
    CorruptError,
    NotACheckpointError,
    StateDictError,
    TruncatedError,
    UnsafePickleError,
    UnsupportedError,
)
from pystatedict._files import open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._core import Archive, Source
    from pystatedict._opened import Archive as Opened

    Limits = dict[str, int] | None
    Reader = Callable[[Source, str | None, Limits, bool], Archive]


def open_archive(
    f: Any, *, mmap: bool = True, limits: Mapping[str, int] | None = None, run: bool = True
) -> Opened:
    """An opened archive, or several as one; what is no checkpoint is named for what it is."""
    bounds = dict(limits) if limits else None
    if isinstance(f, (str, os.PathLike)):
        name = os.fsdecode(os.fspath(f))
        if name.endswith(".index.json") or os.path.isdir(name):
            from pystatedict._sets import open_set

            try:
                found = open_set(name.rstrip(os.sep) or name, mmap, bounds)
            except StateDictError as error:
                error.path = error.path or name
                raise
            if found is not None:
                return found
    source, path = open_source(f, mmap)
    try:
        return archive_of(source, path, bounds, run)
    except UnsupportedError as error:
        if error.code != "torch-shards" or not isinstance(f, (str, os.PathLike)):
            raise
        from pystatedict._shards import open_index

        return open_index(os.fsdecode(os.fspath(f)), mmap, bounds)


def archive_of(
    source: Source, path: str | None, limits: Limits = None, run: bool = True
) -> Archive:
    """The archive in bytes that are held open."""
    try:
        return _core.open_archive(source, path, limits, run)
    except StateDictError as error:
        error.path = path
        _tell_danger(error)
        vague = isinstance(error, (NotACheckpointError, TruncatedError))
        if not vague and error.code != "archive-kind" and not _is_npz(error, source):
            raise
        return _otherwise(error, source, path, limits, run)


def _is_npz(error: StateDictError, source: Source) -> bool:
    """Names of arrays may differ by case alone, where those of torch's records may not."""
    if error.code != "zip-duplicate":
        return False
    from pystatedict._identify import identify_buffer

    return identify_buffer(source).kind == "npz"


def _tell_danger(error: StateDictError) -> None:
    """Damage must not hide that the pickle asks for code: that is the graver fact."""
    if not error.named:
        return
    from pystatedict._globals import verdict

    asked = [f"{m}.{n}" for m, n, _, _ in error.named if verdict(m, n) == "dangerous"]
    if asked:
        raise UnsafePickleError(
            f"the pickle asks for code, and is damaged: {error.sentence}; nothing was run",
            code="dangerous-global",
            path=error.path,
            entry=error.entry,
            offset=error.offset,
            globals=asked,
        ) from None


def _otherwise(
    error: StateDictError, source: Source, path: str | None, limits: Limits, run: bool
) -> Archive:
    """By another reader, where the bytes tell of a kind that has one."""
    from pystatedict._identify import identify_buffer, not_a_checkpoint

    found = identify_buffer(source)
    reader = _READERS.get(found.kind)
    if reader is not None:
        try:
            return reader(source, path, limits, run)
        except StateDictError as other:
            other.path = other.path or path
            raise other from None
    # A checkpoint, and damaged as the core said; or without the record that tells so.
    if found.kind in _KNOWN or (error.code == "interrupted-save" and found.kind == "zip"):
        raise error from None
    raise not_a_checkpoint(found, path) from None


# Kinds that the core reads itself: what it said of them stands.
_KNOWN = frozenset({"torch-zip", "torch-legacy", "torch-tar", "safetensors"})


# The first pickle an integer of ten bytes, the second 1001: a stream whose magic is broken.
_BROKEN_MAGIC = rb"\x80.(?:\x95.{8})?\x8a\x0a.{10}\.(?:\x80.)?(?:\x95.{8})?M\xe9\x03\."


def _pickle(source: Source, path: str | None, limits: Limits, run: bool) -> Archive:
    import re

    if re.match(_BROKEN_MAGIC, bytes(memoryview(source)[:64]), re.DOTALL):
        raise CorruptError("a legacy file whose magic number is broken", code="legacy-stream")
    try:
        return _core.open_archive(source, path, limits, run, mode="pickle")
    except StateDictError as error:
        error.path = path
        _tell_danger(error)
        raise


def _npz(source: Source, path: str | None, limits: Limits, run: bool) -> Archive:
    from pystatedict._npz import read_npz

    return read_npz(source, path, limits, run)


_READERS: dict[str, Reader] = {"pickle": _pickle, "npz": _npz}
