# SPDX-License-Identifier: Apache-2.0
"""convert: a checkpoint in another format, or in several files, without being loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pystatedict._flat import STRETCH, Flat, is_flat
from pystatedict._statedict import StateDict
from pystatedict._taken import is_tensor, taken, tie

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: in ``__metadata__`` of a safetensors file: {name: the tensor that it is another name of}.
TIES = "pystatedict.ties"

_TORCHS = ("zip", "legacy")


def convert(
    f: Any,
    out: Any,
    *,
    format: str | None = None,
    root: str | None = None,
    shard: int | str | None = None,
    overwrite: bool = True,
    verify: bool = False,
    limits: Mapping[str, int] | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write what is in a checkpoint into a file of another format, or into several files.

    Nothing is loaded: tensors pass a piece at a time, and each is held against the checksum
    that its file states.  Ties come through safetensors, which has none: they are noted in its
    ``__metadata__``, and a file with that note is tied again where the bytes are equal.

    Args:
        f: a path: of a file of any kind that load() reads, or of a folder or index; a
            Checkpoint; or an object as save() takes it, with LazyTensors too.
        out: the path to write to; with `shard` that of a new folder.
        format: as save() takes it; None goes by the suffix of `out`.  With `shard` it is
            "safetensors" if None, or "zip".
        root: what of the file is meant, as load() takes it.  None: all of it where the format
            is torch's; else the one state_dict inside.
        shard: the most bytes of a file, such as "5GB"; the files and their index are named as
            Hugging Face's libraries expect.
        overwrite: False raises FileExistsError when `out` is there.
        verify: read what was written again, and compare it with what it was made of.
        limits: as load() takes them.
        progress: is called with the number of bytes, each time that some were written.

    Raises:
        ChecksumError: a tensor of `f` is damaged; nothing was written.
        CorruptError: with `verify`, what was written is something else than was meant.
        TypeError: the format cannot hold what is in `f`.

    >>> import pystatedict
    >>> convert("tutorial.pth", "tutorial.safetensors", verify=True)
    >>> pystatedict.open("tutorial.safetensors")["fc2.0.weight"].shape
    (128, 512)
    """
    from pystatedict._api import format_of, save

    path = os.fsdecode(os.fspath(out))
    if shard is not None:
        made: Any = taken(_object(f, root or "auto", limits))
        _write_shards(made, path, shard, format or "safetensors", progress)
    else:
        kind = format_of(path, format)
        torchs = kind in _TORCHS
        made = _object(f, root if torchs or root else "auto", limits)
        if isinstance(made, StateDict):
            made = _retied(made) if torchs else _noted(made, kind)
        save(made, path, format=kind, overwrite=overwrite, progress=progress)
    if verify:
        _compare(made, path)


def _write_shards(sd: StateDict, folder: str, shard: int | str, format: str, progress: Any) -> None:
    """The files, and one sidecar for all of them: of what their pickles do not tell."""
    from pystatedict._shardwrite import bytes_of, save_shards

    most = bytes_of(shard)
    flags = sd._spoken() if format == "safetensors" else {**sd._said}
    plain = _noted(sd, format).copy()
    plain._said.clear()
    told = {str(name): flag for name, flag in flags.items() if flag is not None}
    save_shards(plain, folder, most, format, told, progress)


def _object(f: Any, root: str | None, limits: Mapping[str, int] | None) -> Any:
    from pystatedict._api import load_lazily, state_dict_of
    from pystatedict._checkpoint import Checkpoint

    if isinstance(f, Checkpoint):
        return state_dict_of(f)
    if isinstance(f, (str, os.PathLike)):
        return load_lazily(f, root, limits=limits)
    if root == "auto" and not isinstance(f, StateDict):
        from pystatedict._roots import find_in

        return find_in(f)
    return f


# ------------------------------------------------------------------ ties


def _noted(sd: StateDict, format: str) -> StateDict:
    """With a note of which names are one tensor, where the format cannot say it."""
    if format != "safetensors":
        return sd
    first: dict[Any, str] = {}
    ties: dict[str, str] = {}
    for name, value in sd.items():
        if is_tensor(value):
            one = first.setdefault(tie(value), name)
            if one is not name:
                ties[name] = one
    if not ties:
        return sd
    import json

    made = sd.copy()
    told = dict(made.attributes.get("__metadata__") or {"format": "pt"})
    told[TIES] = json.dumps(ties)
    made.attributes["__metadata__"] = told
    return made


def _retied(sd: StateDict) -> StateDict:
    """Tensors that are noted to be one, and are equal, as one; a note that lies is passed by."""
    told = sd.attributes.get("__metadata__")
    if not isinstance(told, dict) or TIES not in told:
        return sd
    note = told[TIES]
    import json

    made = sd.copy()
    made.attributes["__metadata__"] = {key: told[key] for key in told if key != TIES}
    try:
        ties = json.loads(note)
    except (TypeError, ValueError, RecursionError):
        return made
    for name, one in ties.items() if isinstance(ties, dict) else ():
        if isinstance(one, str) and name in sd and one in sd and _equal(sd[name], sd[one]):
            made[name] = sd[one]
    return made


def _equal(a: Any, b: Any) -> bool:
    return a is b or (is_flat(a) and is_flat(b) and _same(a, b))


def _same(a: Any, b: Any) -> bool:
    """The same dtype, shape and bytes, read a stretch at a time."""
    one, other = Flat(a), Flat(b)
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    for start in range(0, one.numel, STRETCH):
        count = min(STRETCH, one.numel - start)
        if one.read(start, count).tobytes() != other.read(start, count).tobytes():
            return False
    return True


# ------------------------------------------------------------------ what was written


def _compare(made: Any, path: str) -> None:
    """Raise when the file does not hold, under each name, the bytes that it was made of."""
    from pystatedict._checkpoint import Checkpoint
    from pystatedict._errors import CorruptError
    from pystatedict._integrity import verify
    from pystatedict._opening import open_checkpoint
    from pystatedict._taken import named_tensors

    report = verify(path)
    if not report:
        raise CorruptError(
            f"what was written is damaged: {report}", path=path, code="written-damaged"
        )
    wanted = named_tensors(made)
    with open_checkpoint(path, None, access="read") as found:
        assert isinstance(found, Checkpoint)
        for name, value in wanted.items():
            if getattr(value, "is_meta", False) or not _comparable(value):
                continue
            if name not in found and name not in made:
                continue  # a part that stands in several places is listed in one of them
            if name not in found or not _same(value, found[name]):
                raise CorruptError(
                    "what was written is not what was meant to be",
                    path=path,
                    key=str(name),
                    code="written-differs",
                    hint="the disk or the memory may be failing; write it again elsewhere",
                )


def _comparable(value: Any) -> bool:
    try:
        Flat(value)
    except TypeError:
        return False
    return True
