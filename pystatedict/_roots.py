"""Where in a checkpoint the state_dict is: ``root=`` of load, open and items."""

from __future__ import annotations

from pystatedict._errors import LimitError, MissingTensorError, UnsupportedError, warn
from pystatedict._opaque import warn_of_untold
from pystatedict._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._core import Archive

# Where frameworks put the weights, most of them under the first three.
_NAMES = (
    "state_dict", "model_state_dict", "model", "module", "ema", "state_dict_ema",
    "ema_state_dict", "net", "network", "params_ema", "params", "weights", "generator",
)  # fmt: skip

Path = tuple[str, ...]


class AmbiguousRootError(MissingTensorError):
    """Several state_dicts are candidates for ``root="auto"``."""


def warn_of_methods(archive: Archive) -> None:
    """Warn of torch.save(model.state_dict, f): the parentheses were forgotten."""
    for name in archive.methods()[:1]:
        called = printable(name)
        warn(
            f"the file holds a method of a model, {called!r} without its parentheses, and so the"
            f" whole model; its tensors were read all the same. Save it right with"
            f" torch.save(model.{called}(), f)."
        )


def find_root(archive: Archive, root: str | None) -> tuple[int, Path]:
    """(value, path to it) for ``root``: None is the whole object, "auto" the one state_dict
    inside, anything else a dotted path.  Of a whole module that is found, the value is what
    its state_dict() would give.

    Raises MissingTensorError when there is none, or more than one.
    """
    if root is None:
        return archive.root, ()
    if root == "auto":
        return _auto(archive)
    ref, path = _follow(archive, root)
    return _state_dict(archive, ref), path


def _state_dict(archive: Archive, ref: int) -> int:
    """Of a whole module what its state_dict() would give; any other value as it is."""
    found = archive.state_dict(ref)
    warn_of_untold(archive.untold(ref))
    if found is None:
        raise LimitError(
            "the state_dict of the module would be too large", hint="load() gives the module"
        )
    return found or ref


Row = tuple[Path, int, str]  # path, value, kind


def _below(archive: Archive, level: list[Row], seen: set[int]) -> list[Row]:
    """What the containers of `level` hold, each value once."""
    rows: list[Row] = []
    for path, ref, _ in level:
        for key, child, kind in archive.children(ref) or ():
            if kind not in ("tensor", "value") and child not in seen:
                seen.add(child)
                rows.append(((*path, str(key)), child, kind))
    return rows


def _is_closed(archive: Archive, row: Row) -> bool:
    """What is not searched: modules and their insides, and what optimizers keep."""
    path, ref, kind = row
    names = {str(key) for key, _, _ in archive.children(ref) or ()}
    inside = {"_parameters", "_modules"} <= names
    optimizer = {"state", "param_groups"} <= names or "".join(path[-1:]).startswith("optim")
    return kind == "module" or inside or optimizer


def _state_dicts(archive: Archive, rows: list[Row]) -> list[Row]:
    """Dicts that hold tensors themselves, and whole modules; those of known names if any."""
    all_ = [r for r in rows if r[2] == "module" or (r[2] == "dict" and archive.direct(r[1]))]
    known = [row for row in all_ if row[0][-1] in _NAMES]
    filled = [row for row in all_ if row[2] == "module" and archive.direct(row[1])]
    return known or filled or [row for row in all_ if row[2] == "dict"] or all_


def _is_unknown(archive: Archive, row: Row) -> bool:
    """Is it where the weights should be, and an object that is no module to us?"""
    named = row[2] == "object" and row[0][-1] in _NAMES
    return named and bool(archive.tensors(row[1]))


def _auto(archive: Archive) -> tuple[int, Path]:
    root = archive.root
    if archive.state_dict(root) != 0:
        return _state_dict(archive, root), ()
    seen, whole = {root}, ((), root, "dict")
    level = [] if _is_closed(archive, whole) else _below(archive, [whole], seen)
    found = _state_dicts(archive, level)
    unknown = [".".join(row[0]) for row in level if _is_unknown(archive, row)]
    if unknown and not any(path[-1] in _NAMES for path, _, _ in found):
        raise UnsupportedError(
            f"the weights in {printable(unknown[0])!r} stand in an object that tells them in a"
            " way of its own",
            code="no-state-dict",
            hint="load() gives the object as it is, unknown classes inert",
        )
    if archive.direct(root) and not any(path[-1] in _NAMES for path, _, _ in found):
        return root, ()
    while level and not found:
        level = _below(archive, [row for row in level if not _is_closed(archive, row)], seen)
        found = _state_dicts(archive, level)
    if len(found) == 1:
        return _state_dict(archive, found[0][1]), found[0][0]
    if found:
        names = [".".join(path) for path, _, _ in found]
        raise AmbiguousRootError(
            f"the file holds {len(names)} state_dicts: {', '.join(map(printable, names))}",
            code="ambiguous-root",
            hint=f"say which: root={names[0]!r}",
            suggestions=names,
        )
    if archive.tensors():
        raise UnsupportedError(
            "the file holds no state_dict; its tensors stand in other objects",
            code="no-state-dict",
            hint="load() gives the object as it is, unknown classes inert",
        )
    raise MissingTensorError("the file holds no state_dict", code="no-state-dict")


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
