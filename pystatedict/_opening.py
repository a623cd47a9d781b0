# SPDX-License-Identifier: Apache-2.0
"""From whatever a caller gives to an opened checkpoint: one road for every kind of file.

The core tells zip archives, legacy streams and torch's tar by their first bytes.  What it
does not know is named by `identify`, and read here where there is a way; else the error
says what the file is.
"""

from __future__ import annotations

import os

from pystatedict import _core
from pystatedict._checkpoint import Checkpoint
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
    from collections.abc import Callable, Mapping
    from typing import Any

    from pystatedict._core import Archive, Source
    from pystatedict._files import Access
    from pystatedict._opened import Archive as Opened

    Limits = dict[str, int] | None
    Reader = Callable[[Source, str | None, Limits], Archive]
    RootedReader = Callable[[Source, str | None, Limits, str | None], tuple[Archive, str | None]]


def open_checkpoint(
    f: Any,
    root: str | None,
    *,
    access: Access = "map",
    limits: Mapping[str, int] | None = None,
) -> Checkpoint:
    """What pystatedict.open() gives."""
    archive, root = open_at(f, root, access=access, limits=limits)
    with Naming(archive.path):
        warn_of_method(archive)
        if root is None:  # the whole object, and nothing to look for
            return Checkpoint(archive, archive.root, ())
        from pystatedict._roots import find_root

        return Checkpoint(archive, *find_root(archive, root))


def open_to_tell(f: Any) -> Checkpoint:
    """open() for what only tells of a file: no map, of which a shortened file would be the end."""
    return open_checkpoint(f, None, access="read")


class Naming:
    """Put the file's path into errors that pass."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, StateDictError) and error.path is None:
            error.path = self.path


def warn_of_method(archive: Opened) -> None:
    """The tutorial's classic mistake, found in a file."""
    for name in archive.methods()[:1]:
        from pystatedict._errors import warn
        from pystatedict._printable import printable

        where = "the file" if archive.path is None else repr(archive.path)
        method = printable(name)
        warn(
            f"{where} holds the bound method {method!r} of a model, and the whole model with it:"
            f" it was saved as torch.save(model.{method}, f), without the parentheses."
            " root='auto' gives its state_dict.\n  hint: save torch.save(model.state_dict(), f),"
            " or pystatedict.save(pystatedict.load(f, root='auto'), f)"
        )


def open_at(
    f: Any,
    root: str | None,
    *,
    access: Access = "map",
    limits: Mapping[str, int] | None = None,
    salvage: bool = False,
    held: list[Source] | None = None,
) -> tuple[Opened, str | None]:
    """The archive, or several files as one, in which ``root=`` is to be followed, and what of
    it is left to follow.

    Some files hold several pickles or models: the first part of `root` says which.  `held`
    gets the Source, for who reads on and settles it then.
    """
    bounds = dict(limits) if limits else None
    files = open_files(f, access, bounds, salvage)
    if files is not None:
        return files, root
    source, path = open_source(f, access, beside=True)
    try:
        archive, rest = _open(source, path, bounds, root, salvage)
        if held is not None:
            held.append(source)
    except UnsupportedError as error:
        if error.code != "torch-shards" or not isinstance(f, (str, os.PathLike)):
            raise
        from pystatedict._fileset import How
        from pystatedict._shards import open_index

        return open_index(os.fsdecode(os.fspath(f)), How(access, bounds, salvage)), root
    finally:
        if not held:
            source.settle()
    if root is not None and root != rest and archive.place is None:
        # TensorInfos that travel to another process need it.
        archive.note_place(root if rest is None else root[: len(root) - len(rest) - 1])
    return archive, rest


def open_files(f: Any, access: Access, limits: Limits, salvage: bool = False) -> Opened | None:
    """Several files as one checkpoint, where `f` is the path of a folder or of an index."""
    if not isinstance(f, (str, os.PathLike)):
        return None
    name = os.fsdecode(os.fspath(f))
    if not name.endswith(".index.json") and not os.path.isdir(name):
        return None
    from pystatedict._fileset import How
    from pystatedict._sets import open_set

    try:
        return open_set(name, How(access, limits, salvage))
    except StateDictError as error:
        error.path = error.path or name
        raise


def archive_of(
    source: Source,
    path: str | None,
    limits: Limits = None,
    salvage: bool = False,
) -> Archive:
    """The archive in bytes that are held open."""
    return _open(source, path, limits, None, salvage)[0]


def _open(
    source: Source,
    path: str | None,
    limits: Limits,
    root: str | None,
    salvage: bool = False,
) -> tuple[Archive, str | None]:
    try:
        archive = _core.open_archive(source, path, limits, salvage=salvage)
        if archive.kind == "torchscript":
            from pystatedict._script import script_at

            return script_at(archive, source, limits, root)
        return archive, root
    except StateDictError as error:
        error.path = path
        _tell_danger(error)
        if error.code == "archive-kind":
            return _without_pickle(source, path, limits, root)
        vague = isinstance(error, (NotACheckpointError, TruncatedError))
        if not vague and not _is_npz(error, source):
            raise
        return _otherwise(error, source, path, limits, root)


def _is_npz(error: StateDictError, source: Source) -> bool:
    """Names of arrays may differ by case alone, where those of torch's records may not."""
    if error.code != "zip-duplicate":
        return False
    from pystatedict._identify import identify_source

    return identify_source(source).kind == "npz"


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


def _without_pickle(
    source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    """By the reader of a kind that has no one pickle, which is told by the records."""
    kind = _core.open_archive(source, path, limits, False).kind
    return _at_root(_WITHOUT_PICKLE[kind], source, path, limits, root)


def _otherwise(
    error: StateDictError, source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    """By another reader, where the bytes tell of a kind that has one."""
    from pystatedict._identify import identify_source, not_a_checkpoint

    found = identify_source(source)
    if found.kind in _ROOTED:
        return _at_root(_ROOTED[found.kind], source, path, limits, root)
    reader = _READERS.get(found.kind)
    if reader is not None:
        try:
            return reader(source, path, limits), root
        except StateDictError as other:
            other.path = other.path or path
            raise other from None
    # A checkpoint, and damaged as the core said; or without the record that tells so.
    if found.kind in _KNOWN or (error.code == "interrupted-save" and found.kind == "zip"):
        raise error from None
    raise not_a_checkpoint(found, path) from None


def _at_root(
    reader: RootedReader, source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    try:
        return reader(source, path, limits, root)
    except StateDictError as error:
        error.path = error.path or path
        raise error from None


# Kinds that the core reads itself: what it said of them stands.
_KNOWN = frozenset({"torch-zip", "torch-legacy", "torch-tar", "safetensors"})


# The first pickle an integer of ten bytes, the second 1001: a stream whose magic is broken.
_BROKEN_MAGIC = rb"\x80.(?:\x95.{8})?\x8a\x0a.{10}\.(?:\x80.)?(?:\x95.{8})?M\xe9\x03\."


def _pickle(source: Source, path: str | None, limits: Limits) -> Archive:
    import re

    if re.match(_BROKEN_MAGIC, source.read(0, 64), re.DOTALL):
        raise CorruptError("a legacy file whose magic number is broken", code="legacy-stream")
    try:
        return _core.open_archive(source, path, limits, mode="pickle")
    except StateDictError as error:
        error.path = path
        _tell_danger(error)
        raise


def _npz(source: Source, path: str | None, limits: Limits) -> Archive:
    from pystatedict._npz import read_npz

    return read_npz(source, path, limits)


def _package(
    source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    from pystatedict._package import resource_at

    return resource_at(source, path, limits, root)


def _export(
    source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    from pystatedict._export import program_at

    return program_at(source, path, limits, root)


def _old_script(
    source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    from pystatedict._oldscript import read_model

    return read_model(source, path, limits), root


#: by what the core says of the archive: files in which `root` says what is read
_WITHOUT_PICKLE: dict[str, RootedReader] = {
    "package": _package,
    "export": _export,
    "torchscript": _old_script,
}
#: by what identify() says of the file, likewise
_ROOTED: dict[str, RootedReader] = {"torch-export": _export}
_READERS: dict[str, Reader] = {"pickle": _pickle, "npz": _npz}
