# SPDX-License-Identifier: Apache-2.0
"""Trainable flags of the StateDicts in an object: from and to the pickle and the sidecar.

A sidecar's names are dotted, relative to the state_dict that it names as its ``root``; one
without a root speaks of the state_dict that ``root="auto"`` finds.
"""

from __future__ import annotations

import os

from pystatedict._errors import MissingTensorError, SidecarError, UnsupportedError, warn
from pystatedict._files import sidecar_of
from pystatedict._roots import find_root
from pystatedict._sidecar import find_trouble, read_sidecar, spread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pystatedict._opened import Archive
    from pystatedict._sidecar import OnStale, Sidecar
    from pystatedict._statedict import StateDict

    Path = tuple[str, ...]
    Flags = dict[str, bool | None]


# ------------------------------------------------------------------ the object


class Way:
    """Where something stands in a nest: the keys to it, put together only when asked for."""

    __slots__ = ("_above", "_keys")

    def __init__(self, above: Way | None, keys: Path) -> None:
        self._above = above
        self._keys = keys

    def path(self) -> Path:
        parts: list[Path] = []
        way: Way | None = self
        while way is not None:
            parts.append(way._keys)
            way = way._above
        return tuple(key for keys in reversed(parts) for key in keys)


def state_dicts(obj: Any, path: Path = ()) -> Iterator[tuple[Way, StateDict]]:
    """(the way to it, StateDict) of every one in a nest of dicts, lists and tuples.

    The outer comes before the inner; one that stands in two places comes once.
    """
    from pystatedict._opaque import OpaqueModule
    from pystatedict._statedict import StateDict

    holders = (dict, list, tuple, OpaqueModule)
    seen: set[int] = set()
    todo: list[tuple[Way, Any]] = [(Way(None, path), obj)]
    while todo:
        where, part = todo.pop()
        if isinstance(part, OpaqueModule):
            part = part._state_dict
        if id(part) in seen or not isinstance(part, (dict, list, tuple)):
            continue
        seen.add(id(part))
        if isinstance(part, StateDict):
            yield where, part
        # Copied at one stroke: another thread may change it meanwhile.  And without the keys
        # at first: pairs of an array's name and the array are many, and lead nowhere.
        values = list(part.values() if isinstance(part, dict) else part)
        if any(issubclass(kind, holders) for kind in set(map(type, values))):
            below = list(part.items() if isinstance(part, dict) else enumerate(part))
            todo += [
                (Way(where, (str(key),)), value)
                for key, value in reversed(below)
                if isinstance(value, holders)
            ]


def joined(*names: str) -> str:
    """Dotted, without the empty ones.

    >>> joined("", "model", "fc.weight")
    'model.fc.weight'
    """
    return ".".join(name for name in names if name)


# ------------------------------------------------------------------ from a sidecar


def root_of(archive: Archive, sidecar: Sidecar) -> tuple[int, Path]:
    """The state_dict that a sidecar speaks of.

    Raises MissingTensorError when the file has none by that name.
    """
    if sidecar.root is not None:
        return find_root(archive, sidecar.root or None)
    try:
        return find_root(archive, "auto")
    except (MissingTensorError, UnsupportedError):
        return archive.root, ()


def said_by(
    archive: Archive, sidecar: Sidecar
) -> tuple[dict[str, bool], SidecarError | str | None]:
    """(flags by dotted name from the whole object, what is wrong with them).

    Names that the checkpoint lacks are left out; the flag of one of several tied tensors
    holds for all.
    """
    try:
        ref, path = root_of(archive, sidecar)
    except MissingTensorError:
        from pystatedict._sidecar import stale

        return {}, stale(
            sidecar, "speaks of a part that the checkpoint lacks", [sidecar.root or ""]
        )
    names = archive.tensors(ref)
    trouble = find_trouble(archive, sidecar, names)
    prefix = joined(*path)
    flags = {joined(prefix, name): flag for name, flag in spread(sidecar, names).items()}
    return flags, trouble


def find_flags(archive: Archive, path: str, on_stale: OnStale = "warn") -> dict[str, bool] | None:
    """The flags of the sidecar at `path`, by dotted name; None when they cannot be trusted.

    With "warn", a stale or damaged sidecar is a warning and its flags are not applied.
    """
    try:
        sidecar = read_sidecar(path)
        if sidecar is None:
            raise missing_sidecar(path)
        flags, trouble = said_by(archive, sidecar)
        if isinstance(trouble, SidecarError) and on_stale != "ignore":
            raise trouble
        if trouble is not None and on_stale != "ignore":
            warn(trouble)
        return flags
    except SidecarError as error:
        if on_stale == "raise" or error.code == "sidecar-missing":
            raise
        warn(f"{error}\n  The flags were not applied.")
        return None


def missing_sidecar(path: str) -> SidecarError:
    return SidecarError(
        "there is no such file of trainable flags",
        code="sidecar-missing",
        path=path,
        hint="write it with save_trainable(f, flags), where flags is "
        "{n: p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)}",
    )


def apply_sidecar(archive: Archive, obj: Any, path: Path, sidecar: str) -> None:
    """Give the StateDicts in `obj`, which stands at `path`, what a sidecar says."""
    flags = find_flags(archive, sidecar)
    if not flags:
        return
    for where, sd in state_dicts(obj, path):
        prefix = joined(*where.path())
        for key in sd:
            flag = flags.get(joined(prefix, str(key)))
            if flag is not None:
                sd._said[key] = flag


# ------------------------------------------------------------------ into the pickle


def flags_to_write(obj: Any, trainable: Any) -> dict[int, tuple[int, Any]] | None:
    """{id of an array: (flag bits, Python attributes)}, where more is to be said of an array
    than the file told of it, or something else.

    With "parameters" all flags; else what the pickle had told, so Parameters stay such.
    """
    flags: dict[int, tuple[int, Any]] = {}
    for _, sd in state_dicts(obj):
        told = sd._told()
        names = sd if trainable == "parameters" else [*told, *sd.tensor_attributes]
        for name in dict.fromkeys(names):
            if name in sd:
                bits = _bits_to_write(sd, name, told, trainable == "parameters")
                value = sd[name]
                other = flags.setdefault(id(value), (bits, sd.tensor_attributes.get(name)))
                if other[0] != bits:
                    raise _contradiction(name)
    return flags or None


def _bits_to_write(sd: StateDict, name: Any, told: dict[Any, int], all_flags: bool) -> int:
    from pystatedict._marks import BUFFER, NDARRAY, PARAMETER, REQUIRES_GRAD, STORAGE, mark_of

    bits = told.get(name, mark_of(sd[name]))
    if bits & BUFFER and name not in sd._said:
        return 0  # a buffer is no Parameter, whatever its flag
    said = sd.trainable[name]
    if said is None or not (bits or all_flags):
        return 0
    if said and getattr(getattr(sd[name], "dtype", None), "kind", "f") in "iub":
        raise ValueError(
            f"{name!r} holds integers, and torch refuses a file in which they require grad;"
            " set its flag to False or None"
        )
    parameter = PARAMETER if all_flags else bits & PARAMETER
    return parameter | (bits & (STORAGE | NDARRAY)) | (REQUIRES_GRAD if said else 0)


def _contradiction(name: Any) -> ValueError:
    return ValueError(
        f"{name!r} is the same array as another entry, and has another trainable flag; give"
        " them the same"
    )


# ------------------------------------------------------------------ into a sidecar


def sidecar_to_write(
    obj: Any, path: str, trainable: Any, *, inside: bool = True
) -> tuple[str, Flags] | None:
    """(root, flags by name) for the sidecar of `path`; None: it is to be left as it is.

    Empty flags: there must be none.  Flags of the file that stood there before may still
    be bound to the new one, when its tensors are the same; they must not win over what
    was said since.  `inside`: the file itself holds what its pickle told.
    """
    from pystatedict._marks import flag_of

    there = os.path.exists(sidecar_of(path))
    if trainable in (False, "parameters"):
        return ("", {}) if there else None
    spoken: list[tuple[Path, Flags]] = []
    any_said = False
    for where, sd in state_dicts(obj):
        any_said = any_said or bool(sd._said)
        told = sd._told()
        any_said = any_said or (bool(told) and not inside)
        keep_all = there or trainable == "sidecar" or not inside
        flags: Flags = {
            str(key): flag
            for key, flag in sd._spoken().items()
            if (keep_all or flag_of(told.get(key, 0)) != flag)
        }
        if flags:
            spoken.append((where.path(), flags))
    if not spoken:
        return ("", {}) if there and (any_said or trainable == "sidecar") else None
    if len(spoken) == 1:
        return joined(*spoken[0][0]), spoken[0][1]
    return "", {
        joined(*where, name): flag for where, flags in spoken for name, flag in flags.items()
    }


# ------------------------------------------------------------------ of a listing


def put_over(
    flags: Flags, archive: Archive, root: Path, path: str
) -> tuple[str, SidecarError | str | None]:
    """Put what the sidecar at `path` says over the flags of a listing of `root`.

    (state of the sidecar, what is wrong with it): see `_summary.flags_of`.
    """
    said, state, trouble = told_beside(archive, root, path)
    for name in flags:
        if name in said:
            flags[name] = said[name]
    return state, trouble


def told_beside(
    archive: Archive, root: Path, path: str
) -> tuple[dict[str, bool], str, SidecarError | str | None]:
    """(flags of the sidecar at `path` by the names of a listing of `root`, its state, trouble)."""
    try:
        sidecar = read_sidecar(path)
        if sidecar is None:
            return {}, "none", None
        said, trouble = said_by(archive, sidecar)
    except SidecarError as error:
        return {}, "broken", error
    if isinstance(trouble, SidecarError):
        return {}, "stale", trouble
    if root:
        start = joined(*root) + "."
        said = {n.removeprefix(start): flag for n, flag in said.items() if n.startswith(start)}
    return said, "unsure" if trouble else "current", trouble
