# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are one checkpoint: found by their names, opened by their kind."""

from __future__ import annotations

import os
import re

from pystatedict._errors import NotACheckpointError, UnsafePickleError
from pystatedict._printable import listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._fileset import How
    from pystatedict._opened import Archive

#: Hugging Face's names, in the order in which its libraries look for them.
_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
_FIRST = tuple(
    f"{stem}{ending}"
    for ending in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
    for stem in _STEMS
)
_INDEX = (".safetensors.index.json", ".bin.index.json", ".index.json")
_CHECKPOINT = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".npz")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)", re.ASCII)
_RANK = re.compile(r"__\d+\.metadata", re.ASCII)
_SHARD = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors", re.ASCII)


class Found:
    """What a folder holds: a kind, the folder, and the names of files in it that tell it."""

    __slots__ = ("folder", "kind", "names")

    def __init__(self, kind: str, folder: str, names: list[str]) -> None:
        self.kind = kind  # "dcp", "dcp-safetensors", "index", "parts", "deepspeed" or "file"
        self.folder = folder
        self.names = names


def find(folder: str) -> Found | None:
    """What the folder is as a checkpoint; None if it holds none.

    Raises NotACheckpointError where several could be meant.
    """
    from pystatedict._deepspeed import is_deepspeed, tagged_folder

    folder = _named(folder)
    names = sorted(os.listdir(folder))
    metadata = [".metadata"] if ".metadata" in names else []
    metadata = metadata or sorted(filter(_RANK.fullmatch, names), key=lambda n: int(n[2:-9]))
    if metadata:
        return Found("dcp", folder, metadata)
    for name in _FIRST:
        if name in names:
            return Found("index" if name.endswith(".json") else "file", folder, [name])
    for ending in _INDEX:
        found = [name for name in names if name.endswith(ending)]
        if found:
            return _only("index", folder, found)
    if is_deepspeed(names):
        return Found("deepspeed", folder, names)
    outside = None
    try:
        tagged = tagged_folder(folder)
    except UnsafePickleError as error:  # of a file `latest` that may be somebody else's
        tagged, outside = None, error
    if tagged is not None:
        inside = sorted(os.listdir(tagged))
        if is_deepspeed(inside):
            return Found("deepspeed", tagged, inside)
    shards = list(filter(_SHARD.fullmatch, names))
    if shards:
        return Found("dcp-safetensors", folder, shards)
    alone = _by_suffix(folder, names)
    if alone is None and outside is not None:
        raise outside
    return alone


def _named(folder: str) -> str:
    """The path of a folder, its last part a name: a sidecar stands beside it by that name."""
    folder = folder.rstrip(os.sep) or folder
    return os.path.realpath(folder) if os.path.basename(folder) in (".", "..") else folder


def _by_suffix(folder: str, names: list[str]) -> Found | None:
    found = [name for name in names if name.endswith(_CHECKPOINT)]
    parts = [(name, part) for name in found if (part := _PART.fullmatch(name))]
    stems = {(part[1], part[3], part[4]) for _, part in parts}
    if len(stems) == 1:
        stem, last, ending = stems.pop()
        wanted = [f"{stem}-{n:05}-of-{last}{ending}" for n in range(1, int(last) + 1)]
        if set(found) <= set(wanted):
            return Found("parts", folder, wanted)
    return _only("file", folder, found) if found else None


def _only(kind: str, folder: str, names: list[str]) -> Found:
    if len(names) == 1:
        return Found(kind, folder, names)
    raise NotACheckpointError(
        "a folder of several checkpoints",
        code="directory",
        path=folder,
        identified="directory",
        evidence=listed(names),
        hint="name the file inside that you mean",
    )


def path_of(path: str) -> str:
    """The path of the checkpoint that a folder is or holds: its own, or that of a file."""
    found = find(path)
    if found is None:
        return path
    alone = found.kind in ("file", "index")
    return os.path.join(found.folder, found.names[0]) if alone else found.folder


def open_set(path: str, how: How) -> Archive | None:
    """The checkpoint that a folder or an index is; None of a folder that holds none."""
    if not os.path.isdir(path):
        from pystatedict._shards import open_index

        return open_index(path, how)
    found = find(path)
    return None if found is None else _open_found(found, how)


def _open_found(found: Found, how: How) -> Archive:
    folder, names = found.folder, found.names
    if found.kind == "dcp":
        from pystatedict._dcp import open_distributed

        return open_distributed(folder, names, how)
    if found.kind == "dcp-safetensors":
        from pystatedict._dcp import open_sharded_safetensors

        return open_sharded_safetensors(folder, names, how)
    if found.kind == "deepspeed":
        from pystatedict._deepspeed import open_deepspeed

        return open_deepspeed(folder, names, how)
    if found.kind == "file":
        return _open_file(os.path.join(folder, names[0]), how)
    from pystatedict._shards import open_index, open_parts

    if found.kind == "index":
        return open_index(os.path.join(folder, names[0]), how)
    return open_parts(folder, names, how)


def _open_file(path: str, how: How) -> Archive:
    """The one file that the folder is about: of any kind but a set."""
    from pystatedict._files import open_source
    from pystatedict._fileset import require_files
    from pystatedict._opening import archive_of

    require_files([path], "the folder")
    source, _ = open_source(path, how.access)
    return archive_of(source, path, how.limits, salvage=how.salvage)
