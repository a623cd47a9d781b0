"""Where in a checkpoint the state_dict is: ``root=`` of load, open and items."""

from __future__ import annotations

from pystatedict._errors import MissingTensorError, UnsupportedError
from pystatedict._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._opened import Archive

# Where frameworks put the weights, most of them under the first three.
_NAMES = (
    "state_dict", "model_state_dict", "model", "module", "ema", "state_dict_ema",
    "ema_state_dict", "net", "network", "params_ema", "params", "weights", "generator",
)  # fmt: skip

Path = tuple[str, ...]


class AmbiguousRootError(MissingTensorError):
    """Several state_dicts are candidates for ``root="auto"``."""


def find_root(archive: Archive, root: str | None) -> tuple[int, Path]:
    """(value, path to it) for ``root``: None is the whole object, "auto" the one state_dict
    inside, anything else a dotted path.

    Raises MissingTensorError when there is none, or more than one.
    """
    if root is None:
        return archive.root, ()
    if root == "auto":
        return _auto(archive)
    return _follow(archive, root)


def _tensor_dicts(archive: Archive, ref: int) -> list[tuple[str, int]]:
    """(name, value) of the dicts below `ref` that hold tensors themselves."""
    return [
        (str(key), child)
        for key, child, kind in archive.children(ref) or ()
        if kind == "dict" and archive.direct(child)
    ]


def _auto(archive: Archive) -> tuple[int, Path]:
    root = archive.root
    children = archive.children(root)
    if children is None:
        raise MissingTensorError("the file holds no state_dict", code="no-state-dict")
    found = _tensor_dicts(archive, root)
    known = [(name, ref) for name, ref in found if name in _NAMES]
    if not known and archive.direct(root):
        return root, ()
    if not known:
        known = found
    if len(known) == 1:
        return known[0][1], (known[0][0],)
    if known:
        names = [name for name, _ in known]
        raise AmbiguousRootError(
            f"the file holds {len(known)} state_dicts: {', '.join(map(printable, names))}",
            code="ambiguous-root",
            hint=f"say which: root={names[0]!r}",
            suggestions=names,
        )
    if any(kind == "object" for _, _, kind in children) or archive.tensors():
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
