# SPDX-License-Identifier: Apache-2.0
"""A state_dict in several files beside an index, as Hugging Face's libraries write and read.

Names and layout: ``model-00001-of-00003.safetensors`` with ``model.safetensors.index.json``,
or ``pytorch_model-00001-of-00003.bin`` with ``pytorch_model.bin.index.json``; one file alone
has no number and no index (huggingface_hub, serialization/_base.py).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pystatedict._printable import printable
from pystatedict._taken import is_info, is_tensor, remade, tie

if TYPE_CHECKING:
    from typing import Literal

    from pystatedict._statedict import StateDict

_STEMS = {"safetensors": ("model", ".safetensors"), "zip": ("pytorch_model", ".bin")}

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}  # fmt: skip


def bytes_of(size: int | str) -> int:
    """A number of bytes: "5GB" counts by thousands as huggingface_hub does, "5GiB" by 1,024.

    >>> bytes_of("5GB"), bytes_of("1.5 KiB"), bytes_of(7)
    (5000000000, 1536, 7)
    """
    if isinstance(size, int) and not isinstance(size, bool):
        number: float = size
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", str(size).upper())
        if found is None or found[2] not in _UNITS:
            raise ValueError(f"{printable(repr(size), 40)} is no size: give bytes, or '5GB'")
        number = float(found[1]) * _UNITS[found[2]]
    if number < 1:
        raise ValueError(f"a file cannot be of at most {number} bytes")
    return int(number)


def plan(sd: StateDict, most: int, format: str) -> list[list[Any]]:
    """Names by file, in their order: each file as full as `most` bytes allow, tensors that
    share memory in one, and a tensor that is larger than that in a file of its own.
    """
    groups: dict[Any, list[Any]] = {}
    sizes: dict[Any, int] = {}
    seen: set[Any] = set()
    for name, value in sd.items():
        key, most_of_it = _together(name, value)
        groups.setdefault(key, []).append(name)
        size = value.nbytes if is_tensor(value) else 0
        if format == "zip":  # a storage is written once; safetensors holds each tensor in full
            size = 0 if tie(value) in seen else min(size, most_of_it - sizes.get(key, 0))
            seen.add(tie(value))
        sizes[key] = sizes.get(key, 0) + size
    files: list[list[Any]] = []
    room = -1
    for key, names in groups.items():
        if not files or sizes[key] > room:
            files.append([])
            room = most
        files[-1] += names
        room -= sizes[key]
    return files


def _together(name: Any, value: Any) -> tuple[Any, int]:
    """(equal for tensors that are to be in one file, the most bytes that all of them have)."""
    if not is_tensor(value):
        return ("value", name), 0
    if is_info(value) and value._storage_index is not None:
        return ("file", id(value._archive), value._storage_index), value.storage_nbytes
    base = value
    while getattr(base, "base", None) is not None:
        base = base.base
    return ("memory", id(base)), max(getattr(base, "nbytes", 0), value.nbytes)


def save_shards(
    sd: StateDict,
    folder: str,
    most: int,
    format: str,
    flags: dict[str, bool] | None = None,
    progress: Any = None,
) -> None:
    """Write the files into a new folder, which appears whole or not at all.

    `flags`: for a sidecar of them all.

    Raises FileExistsError when something stands there.
    """
    from pystatedict._api import save
    from pystatedict._sidecar import save_trainable

    if format not in _STEMS:
        raise ValueError(f"shards are of format 'zip' or 'safetensors', not {format!r}")
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder!r} is there already; shards are written into a new folder")
    target = os.path.abspath(folder)
    stem, suffix = _STEMS[format]
    files = plan(sd, most, format) or [[]]
    names = [
        f"{stem}{suffix}" if len(files) == 1 else f"{stem}-{i:05}-of-{len(files):05}{suffix}"
        for i in range(1, len(files) + 1)
    ]
    with _NewFolder(target) as part:
        for file, keys in zip(names, files, strict=True):
            rows = [(key, key, sd[key]) for key in keys]
            trainable: Literal[False] | None = False if format == "safetensors" else None
            save(
                remade(sd, rows),
                os.path.join(part, file),
                format=format,
                trainable=trainable,
                progress=progress,
            )
        if len(files) > 1:
            index = os.path.join(part, f"{stem}{suffix}.index.json")
            _write_index(index, sd, dict(zip(names, files, strict=True)))
        if flags:
            save_trainable(part, flags)


def _write_index(path: str, sd: StateDict, files: dict[str, list[Any]]) -> None:
    import json

    from pystatedict._targets import replacing

    seen: set[Any] = set()
    total = 0
    for value in sd.values():
        if is_tensor(value) and tie(value) not in seen:
            seen.add(tie(value))
            total += value.nbytes
    places = {str(key): file for file, keys in files.items() for key in keys}
    document = {"metadata": {"total_size": total}, "weight_map": places}
    with replacing(path) as file:
        file.write((json.dumps(document, indent=2) + "\n").encode())


class _NewFolder:
    """A folder that has another name until it is whole, and is taken away if it never is."""

    def __init__(self, target: str) -> None:
        from pystatedict._targets import free_name

        self._target = target
        self._path = free_name(*os.path.split(target))

    def __enter__(self) -> str:
        try:
            os.mkdir(self._path)
        except OSError as error:  # told of the folder that was asked for
            raise OSError(error.errno, error.strerror, self._target) from None
        return self._path

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        from pystatedict._targets import sync_folder

        if kind is None:
            sync_folder(self._path)
            try:
                os.rename(self._path, self._target)
                sync_folder(os.path.dirname(self._target))
                return
            except OSError:
                self._remove()
                raise
        self._remove()

    def _remove(self) -> None:
        import shutil

        shutil.rmtree(self._path, ignore_errors=True)
