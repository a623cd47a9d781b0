# SPDX-License-Identifier: Apache-2.0
"""Weights in several files beside an index, as Hugging Face's libraries write them.

The index is JSON; its ``weight_map`` tells for every name the file that holds it.  The
files are checkpoints of any kind by themselves, in the same folder.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pystatedict._errors import CorruptError, LimitError, StateDictError, warn
from pystatedict._fileset import (
    FileSet,
    open_member,
    path_within,
    require_files,
    tell_danger,
)
from pystatedict._printable import counted, listed
from pystatedict._roots import find_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._core import Archive, TensorInfo
    from pystatedict._fileset import How, Limits, Member


#: What an OrderedDict carries besides its items.
_ATTRIBUTES = ("_metadata", "__metadata__")


class _Shard:
    """One file: its archive, and what its state_dict holds by name."""

    __slots__ = ("archive", "children", "name", "ref")

    def __init__(self, name: str, archive: Archive) -> None:
        self.name = name
        self.archive = archive
        self.ref = _state_dict_of(archive)
        if archive.kind_of(self.ref) != "dict":
            raise self._odd("holds no state_dict")
        self.children = {
            str(key): (ref, kind)
            for key, ref, kind in archive.children(self.ref) or ()
            if kind == "tensor" or key not in _ATTRIBUTES
        }
        infos = self.infos()
        if any(kind == "tensor" and key not in infos for key, (_, kind) in self.children.items()):
            raise self._odd("names a tensor by something that is neither text nor a number")

    def infos(self) -> dict[str, TensorInfo]:
        return {str(key): info for key, info in self.archive.direct(self.ref).items()}

    def load(self, values: object, copy: bool, meta: bool) -> tuple[Any, dict[str, Any]]:
        """The file's state_dict, and its keys by name: some are numbers."""
        part = self.archive.load(self.ref, values, copy=copy, meta=meta)
        keys = {str(key): key for key in part}
        if not self.children.keys() <= keys.keys():
            raise self._odd("names a value by something that is neither text nor a number")
        return part, keys

    def _odd(self, why: str) -> CorruptError:
        return CorruptError(
            f"'{self.name}' {why}",
            code="index",
            path=self.archive.path,
            hint="load() reads the file by itself, if it is a checkpoint of another kind",
        )


def _state_dict_of(archive: Archive) -> int:
    """The value that holds the weights, in one of the places where frameworks put them; the
    root where there are none, so that what is missing is told of.
    """
    if archive.kind_of(archive.root) != "dict" or not archive.direct(archive.root):
        with suppress(StateDictError):
            return find_root(archive, "auto")[0]
    return archive.root


class Shards(FileSet):
    """The files of an index as one state_dict.

    Names come in the order of the ``weight_map``.  Where that is merely alphabetical, as
    the usual writers sort it, they come file by file instead, each in its own order: so the
    order of the state_dict that was split is kept.
    """

    kind = "shards"

    def __init__(self, path: str, places: dict[str, str] | None, shards: list[_Shard]) -> None:
        super().__init__(path)
        self._shards = {shard.name: shard for shard in shards}
        self._places = _all_places(shards) if places is None else places
        if places is not None:
            _check_places(path, places, shards)
            if list(places) == sorted(places):
                self._places = {
                    name: shard.name
                    for shard in shards
                    for name in shard.children
                    if places.get(name) == shard.name
                }
        self._names = list(self._places)

    def members(self) -> list[Member]:
        return [(s.name, lambda archive=s.archive: archive) for s in self._shards.values()]  # type: ignore[misc]

    def children(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        if ref not in (0, self.root):
            return None
        return [
            (name, number, self._shards[self._places[name]].children[name][1])
            for number, name in enumerate(self._names, self.root + 1)
        ]

    def tensors(self, ref: int = 0, /) -> dict[str, TensorInfo]:
        self.check_open()
        if ref not in (0, self.root):
            name, shard = self._leaf(ref)
            return shard.archive.tensors(shard.children[name][0])
        infos = {place: shard.infos() for place, shard in self._shards.items()}
        found: dict[str, TensorInfo] = {}
        for name in self._names:
            info = infos[self._places[name]].get(name)
            if info is not None:
                found[name] = info
        return found

    def _leaf(self, ref: int) -> tuple[str, _Shard]:
        name = self._names[ref - self.root - 1]
        return name, self._shards[self._places[name]]

    def load(self, ref: int, values: object, *, copy: bool = False, meta: bool = False) -> Any:
        self.check_open()
        if ref != self.root:
            name, shard = self._leaf(ref)
            return shard.archive.load(shard.children[name][0], values, copy=copy, meta=meta)
        from pystatedict._statedict import StateDict

        parts = {place: shard.load(values, copy, meta) for place, shard in self._shards.items()}
        whole = StateDict._born(self, True, self.root)
        for name in self._names:
            part, keys = parts[self._places[name]]
            key = keys[name]
            whole[key] = part[key]
            if key in part.tensor_attributes:
                whole.tensor_attributes[key] = part.tensor_attributes[key]
        _merge_metadata(whole, [part for part, _ in parts.values()])
        return whole

    def close(self) -> None:
        super().close()
        for shard in self._shards.values():
            shard.archive.close()


def _merge_metadata(whole: Any, parts: list[Any]) -> None:
    """torch's versions by prefix are those of all files; other attributes, where all agree."""
    for part in parts:
        if isinstance(part.metadata, dict):
            whole.metadata = type(part.metadata)(whole.metadata or {})
            whole.metadata.update(part.metadata)
    if parts and all(part.attributes == parts[0].attributes for part in parts):
        whole.attributes.update(parts[0].attributes)


def _all_places(shards: list[_Shard]) -> dict[str, str]:
    """Without an index: every name of every file, which none may have twice."""
    places: dict[str, str] = {}
    for shard in shards:
        twice = [name for name in shard.children if name in places]
        if twice:
            raise CorruptError(
                f"{counted(len(twice), 'tensor')} of '{shard.name}' are in another file too",
                code="index",
                key=twice[0],
                evidence=listed(twice),
                hint="keep the files of one checkpoint in a folder of their own",
            )
        places.update(dict.fromkeys(shard.children, shard.name))
    return places


def _check_places(path: str, places: dict[str, str], shards: list[_Shard]) -> None:
    """What the index places in a file is there; what else is there is told of."""
    expected: dict[str, dict[str, None]] = {shard.name: {} for shard in shards}
    for name, place in places.items():
        expected[place][name] = None
    for shard in shards:
        missing = [name for name in expected[shard.name] if name not in shard.children]
        if missing:
            raise CorruptError(
                f"'{shard.name}' lacks {counted(len(missing), 'tensor')} that the index places in"
                " it",
                code="index",
                key=missing[0],
                evidence=listed(missing),
                hint="index and files are of different versions; get all of them again",
            )
    stale = {
        shard.name: [name for name in shard.children if name not in expected[shard.name]]
        for shard in shards
    }
    lines = [f"{file}: {', '.join(listed(names))}" for file, names in stale.items() if names]
    if lines:
        warn(
            f"'{path}': files hold tensors that the index does not place in them; they were left"
            " out\n  " + "\n  ".join(lines)
        )


# ------------------------------------------------------------------ opening


def open_index(path: str, how: How) -> Shards:
    """The files that the index at `path` names.

    Raises CorruptError for an index that is none, for files that are missing and for tensors
    that are not where it says; UnsafePickleError for names that lead out of the folder.
    """
    try:
        places = _read_index(path, how.limits)
        folder, names = os.path.dirname(path), sorted({*places.values()})
        files = {name: path_within(folder, name, "the index") for name in names}
        require_files(files.values(), "the index")
    except StateDictError as error:
        error.path = error.path or path
        raise
    return _joined(path, places, files, how)


def open_parts(folder: str, names: list[str], how: How) -> Shards:
    """Files that are numbered as parts of one checkpoint, whose index is lost."""
    files = {name: os.path.join(folder, name) for name in names}
    require_files(files.values(), "the numbering of the others")
    return _joined(folder, None, files, how)


def _joined(path: str, places: dict[str, str] | None, files: dict[str, str], how: How) -> Shards:
    archives = {name: open_member(file, how) for name, file in files.items()}
    try:
        return Shards(path, places, [_Shard(name, a) for name, a in archives.items()])
    except StateDictError as error:
        error.path = error.path or path
        for archive in archives.values():
            tell_danger(error, archive)
        raise


def _read_index(path: str, limits: Limits) -> dict[str, str]:
    import json

    from pystatedict._core import LIMITS
    from pystatedict._sidecar import unique_members

    size = os.stat(path).st_size
    require_files([path], "the folder")
    most = (limits or {}).get("pickle_size", LIMITS["pickle_size"])
    if size > most:
        raise LimitError(
            "the index is larger than the limit", limit=most, value=size, name="pickle_size"
        )
    with open(path, "rb") as file:
        data = file.read(most + 1)
    try:
        told = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_members)
    except RecursionError:
        raise _no_index("is nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, a number too long, a name twice
        raise _no_index(f"cannot be read: {error}") from None
    places = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(places, dict):
        raise _no_index('has no "weight_map" of names to files')
    for name, place in places.items():
        if not isinstance(place, str):
            raise _no_index(f"places {name[:80]!r} in something that is no file's name")
    return places


def _no_index(why: str) -> CorruptError:
    return CorruptError(
        f"the index {why}",
        code="index",
        hint="get the index again from the source of the files",
    )
