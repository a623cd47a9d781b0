# SPDX-License-Identifier: Apache-2.0
"""Where in a checkpoint the state_dict is: ``root=`` of load, open and items."""

from __future__ import annotations

from pystatedict._errors import LimitError, MissingTensorError, UnsupportedError
from pystatedict._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pystatedict._core import Archive

# Where frameworks put the weights, most of them under the first three.
_NAMES = (
    "state_dict", "model_state_dict", "model", "module", "ema", "state_dict_ema",
    "ema_state_dict", "net", "network", "params_ema", "params", "weights", "generator",
)  # fmt: skip

# What a state_dict may hold beside tensors: it is no state_dict of its own.
_EXTRA = "_extra_state"

Path = tuple[str, ...]


class AmbiguousRootError(MissingTensorError):
    """Several state_dicts are candidates for ``root="auto"``."""


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


def find_in(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The one state_dict in a mapping, by the rules of ``root="auto"``."""
    from collections.abc import Mapping

    from pystatedict._opaque import OpaqueModule

    found: dict[str, Mapping[Any, Any]] = {}
    for key, value in mapping.items():
        inner = value.state_dict() if isinstance(value, OpaqueModule) else value
        if isinstance(inner, Mapping) and any(hasattr(v, "__array__") for v in inner.values()):
            found.setdefault(str(key), inner)
    chosen = _choose(list(found), any(hasattr(v, "__array__") for v in mapping.values()))
    return mapping if chosen is None else found[chosen]


def _within(archive: Archive, ref: int) -> int:
    """What a whole module's state_dict() would give; of anything else itself."""
    state_dict = archive.state_dict(ref)
    if state_dict is None:
        raise LimitError(
            "the state_dict of this module would be too large: its parts are shared so that"
            " their names multiply",
            code="limit",
            hint="",
        )
    return state_dict or ref


def _choose(found: list[str], direct: bool) -> str | None:
    """Which of the state_dicts by name; None: the root itself, which holds tensors."""
    found = [name for name in found if not name.endswith(_EXTRA)]
    known = [name for name in found if name in _NAMES] or found
    if direct and not any(name in _NAMES for name in found):
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
    raise MissingTensorError("the file holds no state_dict", code="no-state-dict")


def _ambiguous(sentence: str, names: list[str]) -> AmbiguousRootError:
    return AmbiguousRootError(
        sentence,
        code="ambiguous-root",
        hint=f"say which: root={names[0]!r}; root=None is the whole object",
        suggestions=names,
    )


def _auto(archive: Archive) -> tuple[int, Path]:
    root = archive.root
    if archive.kind_of(root) in ("module", "method"):
        return _within(archive, root), ()
    if archive.kind == "torchscript" and not archive.record and not archive.has_direct(root):
        from pystatedict._script import untold

        raise untold(archive)
    children = archive.children(root)
    if children is None:
        raise MissingTensorError("the file holds no state_dict", code="no-state-dict")
    held: dict[int, bool] = {}  # a dict may stand under many names
    found: dict[str, int] = {}
    for key, child, kind in children:
        if child not in held:
            held[child] = kind in ("module", "method") or (
                kind == "dict" and archive.has_direct(child)
            )
        if held[child]:
            found.setdefault(str(key), child)
    direct = archive.has_direct(root)
    if (
        not found
        and not direct
        and (any(kind == "object" for _, _, kind in children) or archive.tensors())
    ):
        raise UnsupportedError(
            "the file holds no state_dict; its tensors stand in other objects",
            code="no-state-dict",
            hint="load() gives the object as it is, unknown classes inert",
        )
    chosen = _choose(list(found), direct)
    if chosen is None:
        return root, ()
    return _within(archive, found[chosen]), (chosen,)


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
