# SPDX-License-Identifier: Apache-2.0
"""Where in a checkpoint the state_dict is: ``root=`` of load, open and items."""

from __future__ import annotations

from pystatedict._errors import (
    AmbiguousRootError,
    LimitError,
    MissingTensorError,
    UnsupportedError,
)
from pystatedict._opaque import warn_of_untold
from pystatedict._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pystatedict._opened import Archive

# Where frameworks put the weights, most of them under the first three.
_NAMES = (
    "state_dict", "model_state_dict", "model", "module", "ema", "state_dict_ema",
    "ema_state_dict", "net", "network", "params_ema", "params", "weights", "generator",
)  # fmt: skip

# What a state_dict may hold beside tensors: it is no state_dict of its own.
_EXTRA = "_extra_state"

Path = tuple[str, ...]


def find_root(archive: Archive, root: str | None) -> tuple[int, Path]:
    """(value, path to it) for ``root``: None is the whole object, "auto" the one state_dict
    inside, anything else a dotted path.  A whole module there gives its state_dict.

    Raises MissingTensorError when there is none, or more than one.
    """
    if root is None:
        return archive.root, ()
    if root == "auto":
        return _auto(archive)
    ref, path = _follow(archive, root)
    return _within(archive, ref), path


def is_scalar(value: Any) -> bool:
    """Is it one of NumPy's scalars or classes?  They have an array's methods, and are none."""
    import sys

    numpy = sys.modules.get("numpy")
    return isinstance(value, type) or (numpy is not None and isinstance(value, numpy.generic))


def _is_array_like(value: Any) -> bool:
    return hasattr(value, "__array__") and not is_scalar(value)


def find_in(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The one state_dict in a mapping, by the rules of ``root="auto"``."""
    from collections.abc import Mapping

    from pystatedict._opaque import OpaqueModule

    found: dict[str, Mapping[Any, Any]] = {}
    for key, value in mapping.items():
        inner = value.state_dict() if isinstance(value, OpaqueModule) else value
        if isinstance(inner, Mapping) and any(map(_is_array_like, inner.values())):
            found.setdefault(str(key), inner)
    direct = not mapping or any(map(_is_array_like, mapping.values()))
    chosen = _choose(list(found), direct)
    return mapping if chosen is None else found[chosen]


def _within(archive: Archive, ref: int) -> int:
    """What a whole module's state_dict() would give; of anything else itself."""
    state_dict = archive.state_dict(ref)
    warn_of_untold(archive.untold(ref))
    if state_dict is None:
        raise LimitError(
            "the state_dict of this module would be too large: its parts are shared so that"
            " their names multiply",
            code="limit",
            hint="",
        )
    return state_dict or ref


def _is_usual(name: str) -> bool:
    return name.rpartition(".")[2] in _NAMES


def _choose(found: list[str], direct: bool) -> str | None:
    """Which of the state_dicts by name; None: the root itself, which holds tensors."""
    found = [name for name in found if not name.endswith(_EXTRA)]
    known = [name for name in found if _is_usual(name)] or found
    if direct and not any(map(_is_usual, found)):
        if not known:
            return None
        raise _ambiguous(
            f"tensors stand in the root and in {', '.join(map(printable, known))}", known
        )
    if len(known) == 1:
        return known[0]
    if known:
        raise _ambiguous(
            f"the file holds {len(known)} state_dicts: {', '.join(map(printable, known))}", known
        )
    raise MissingTensorError(
        "the file holds no state_dict",
        code="no-state-dict",
        hint="load() without root= gives the object as it is",
    )


def _ambiguous(sentence: str, names: list[str]) -> AmbiguousRootError:
    return AmbiguousRootError(
        sentence,
        code="ambiguous-root",
        hint=f"say which: root={max(names[:2], key=bool)!r}; root=None is the whole object",
        suggestions=names,
    )


_MODULES = ("module", "method")


class _Row:
    """A value on the way down: its key, and the row of what holds it."""

    __slots__ = ("key", "kind", "owner", "ref")

    def __init__(self, owner: _Row | None, key: str, ref: int, kind: str) -> None:
        self.owner = owner  # None: of the root
        self.key = key
        self.ref = ref
        self.kind = kind

    def path(self) -> Path:
        keys: list[str] = []
        row = self
        while row.owner is not None:
            keys.append(row.key)
            row = row.owner
        return tuple(reversed(keys))


def _below(archive: Archive, level: list[_Row], seen: set[int]) -> list[_Row]:
    """What the containers of `level` hold, each value once."""
    rows: list[_Row] = []
    for row in level:
        for key, child, kind in archive.holding(row.ref) or ():
            if child not in seen:
                seen.add(child)
                rows.append(_Row(row, str(key), child, kind))
    return rows


def _is_closed(archive: Archive, row: _Row) -> bool:
    """What is not searched: modules and their insides, and what optimizers keep."""
    names = {str(key) for key, _, _ in archive.holding(row.ref) or ()}
    inside = {"_parameters", "_modules"} <= names
    optimizer = {"state", "param_groups"} <= names or row.key.startswith("optim")
    return row.kind in _MODULES or inside or optimizer


def _is_unknown(archive: Archive, row: _Row) -> bool:
    """Is it where the weights should be, and an object that is no module to us?"""
    named = row.kind == "object" and row.key in _NAMES
    return named and bool(archive.tensors(row.ref))


def _holds(archive: Archive, ref: int) -> bool:
    """Does it hold tensors itself; in a file without tensors, NumPy arrays?"""
    if archive.has_direct(ref):
        return True
    return archive.tensor_count == 0 and any(
        kind == "object" and _is_array(archive, child)
        for _, child, kind in archive.children(ref) or ()
    )


def _is_array(archive: Archive, ref: int) -> bool:
    module, name, *_ = archive.called(ref) or ("", "")
    return _makes_array(module, name)


def _makes_array(module: str, name: str) -> bool:
    return module.startswith("numpy") and name in ("_reconstruct", "_frombuffer")


def holds_arrays(archive: Archive) -> bool:
    """Does its pickle make NumPy arrays, which are no tensors and not listed?"""
    return any(_makes_array(module, name) for module, name, _, _ in archive.globals())


def _found(archive: Archive, rows: list[_Row]) -> dict[str, _Row]:
    """By dotted path: dicts that hold tensors themselves, and whole modules."""
    held: list[_Row] = []
    filled: list[_Row] = []
    for row in rows:
        module = row.kind in _MODULES
        holds = (module or row.kind == "dict") and _holds(archive, row.ref)
        if module or holds:
            held.append(row)
        if holds or (module and row.key in _NAMES):
            filled.append(row)
    found: dict[str, _Row] = {}
    # A module without tensors, such as a loss, is meant only where nothing else is.
    for row in filled or held:
        found.setdefault(".".join(row.path()), row)
    return found


def _auto(archive: Archive) -> tuple[int, Path]:
    root = archive.root
    if archive.kind_of(root) in _MODULES:
        return _within(archive, root), ()
    if archive.kind == "torchscript" and not archive.record and not archive.has_direct(root):
        from pystatedict._script import untold

        raise untold(archive)
    seen, whole = {root}, _Row(None, "", root, "dict")
    level = [] if _is_closed(archive, whole) else _below(archive, [whole], seen)
    found = _found(archive, level)
    unknown = [row.key for row in level if _is_unknown(archive, row)]
    if unknown and not any(map(_is_usual, found)):
        raise UnsupportedError(
            f"the weights in {printable(unknown[0])!r} stand in an object that tells them in a"
            " way of its own",
            code="no-state-dict",
            hint="load() gives the object as it is, unknown classes inert",
        )
    direct = _holds(archive, root)
    while level and not found and not direct:
        level = _below(archive, [row for row in level if not _is_closed(archive, row)], seen)
        found = _found(archive, level)
    if not found and not direct and archive.tensors():
        raise UnsupportedError(
            "the file holds no state_dict; its tensors stand in other objects",
            code="no-state-dict",
            hint="load() gives the object as it is, unknown classes inert",
        )
    empty = not direct and archive.kind_of(root) == "dict" and not archive.children(root)
    chosen = _choose(list(found), direct or empty)
    if chosen is None:
        return root, ()
    row = found[chosen]
    return _within(archive, row.ref), row.path()


def _follow(archive: Archive, root: str) -> tuple[int, Path]:
    """Keys may hold dots themselves, so the longest that fits is taken first."""
    ref, rest = archive.root, root
    path: list[str] = []
    while rest:
        children = {str(key): child for key, child, _ in archive.children(ref) or ()}
        parts = rest.split(".")
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in children:
                ref, rest = children[name], ".".join(parts[end:])
                path.append(name)
                break
        else:
            raise MissingTensorError(
                f"there is no {root!r} in the file: nothing is named {rest!r}"
                + (f" in {'.'.join(path)!r}" if path else ""),
                code="no-such-root",
                key=root,
                suggestions=list(children)[:8],
            )
    return ref, tuple(path)
