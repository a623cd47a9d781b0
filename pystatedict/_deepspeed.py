# SPDX-License-Identifier: Apache-2.0
"""Folders of DeepSpeed: what each file holds, and the weights where they are whole.

ZeRO's stages 1 and 2 share out the optimizer alone: the model's state_dict stands whole in
``mp_rank_00_model_states.pt``, under "module".  Stage 3, tensor and pipeline parallelism
share out the weights too; putting those together is DeepSpeed's own trade.
"""

from __future__ import annotations

import os
import re

from pystatedict._errors import UnsupportedError
from pystatedict._fileset import (
    FileSet,
    open_member,
    path_within,
    require_files,
)
from pystatedict._printable import counted, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._core import Archive, TensorInfo
    from pystatedict._fileset import How, Member

_STATES = re.compile(r".*[_-](model|optim)_states\.pt", re.ASCII)
_WHOLE = "mp_rank_00_model_states.pt"
_TAG_MOST = 255  # bytes of the name in `latest`


def is_deepspeed(names: list[str]) -> bool:
    """Do these files make up such a folder?"""
    return any(_STATES.fullmatch(name) for name in names)


def tagged_folder(folder: str) -> str | None:
    """The folder that the text file `latest` names, if it is such a file."""
    path = os.path.join(folder, "latest")
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        tag = file.read(_TAG_MOST + 1).decode("utf-8", "replace").strip()
    if not tag or len(tag) > _TAG_MOST or not tag.isprintable():
        return None
    found = path_within(folder, tag, "the file `latest`")
    return found if os.path.isdir(found) else None


def open_deepspeed(folder: str, names: list[str], how: How) -> FileSet:
    """The weights where they are whole; else a listing of all files."""
    files = sorted(name for name in names if _STATES.fullmatch(name))
    models = [name for name in files if name.endswith("model_states.pt")]
    if models == [_WHOLE]:
        require_files([os.path.join(folder, _WHOLE)], "the folder")
        archive = open_member(os.path.join(folder, _WHOLE), how)
        module = next(
            (ref for key, ref, kind in archive.children(archive.root) or () if key == "module"), 0
        )
        if module and archive.direct(module):
            return Module(folder, archive, module, files)
        archive.close()
    return Scattered(folder, files, how)


class Module(FileSet):
    """The weights of the one file that holds them whole."""

    kind = "deepspeed"

    def __init__(self, path: str, archive: Archive, ref: int, files: list[str]) -> None:
        super().__init__(path)
        self._archive = archive
        self.root = ref
        self.extra = {"files": files}

    def members(self) -> list[Member]:
        return [(_WHOLE, lambda: self._archive)]

    def children(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        return self._archive.children(ref or self.root)

    def tensors(self, ref: int = 0, /) -> dict[str, TensorInfo]:
        return self._archive.tensors(ref or self.root)

    def direct(self, ref: int = 0, /) -> dict[object, TensorInfo]:
        return self._archive.direct(ref or self.root)

    def load(self, ref: int, values: object, *, copy: bool = False, meta: bool = False) -> Any:
        return self._archive.load(ref or self.root, values, copy=copy, meta=meta)

    def close(self) -> None:
        super().close()
        self._archive.close()


class Scattered(FileSet):
    """Files whose weights are parts: they can be listed, each under its file's name."""

    kind = "deepspeed"

    def __init__(self, path: str, files: list[str], how: How) -> None:
        super().__init__(path)
        paths = [os.path.join(path, name) for name in files]
        require_files(paths, "the folder")
        self._archives = {
            name: open_member(file, how) for name, file in zip(files, paths, strict=True)
        }
        self.extra = {"files": files}

    def members(self) -> list[Member]:
        return [(name, lambda a=archive: a) for name, archive in self._archives.items()]  # type: ignore[misc]

    def children(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        return [] if ref in (0, self.root) else None

    def tensors(self, ref: int = 0, /) -> dict[str, TensorInfo]:
        self.check_open()
        return {
            f"{file}/{name}": info
            for file, archive in self._archives.items()
            for name, info in archive.tensors().items()
        }

    def load(self, ref: int, values: object, *, copy: bool = False, meta: bool = False) -> Any:
        files = [name for name in self._archives if name.endswith("model_states.pt")]
        raise UnsupportedError(
            f"the weights of this DeepSpeed checkpoint are shared out over"
            f" {counted(len(self._archives), 'file')}",
            code="deepspeed",
            path=self.path,
            evidence=listed(files or self._archives),
            hint="`python zero_to_fp32.py {file} OUT`, a script that DeepSpeed puts beside them,"
            " makes one file of stage 3; open() lists what each file holds, and load() reads each"
            " by itself",
        )

    def close(self) -> None:
        super().close()
        for archive in self._archives.values():
            archive.close()
