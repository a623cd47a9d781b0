# SPDX-License-Identifier: Apache-2.0
"""Operations on the names of a state_dict: none of them reads a byte of a tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pystatedict._errors import LimitError, MissingTensorError, UnsupportedError, warn
from pystatedict._printable import printable
from pystatedict._taken import is_tensor, remade, taken

if TYPE_CHECKING:
    from pystatedict._statedict import StateDict

    How = Mapping[str, str] | Callable[[str], str | None] | str | re.Pattern[str]


def rename(f: Any, how: How, replacement: str | None = None) -> StateDict:
    """The same tensors under other names, in the same order.

    Args:
        f: a path, a Checkpoint, or a mapping of names to tensors.
        how: ``{old: new}``; a function of the name, which leaves a tensor out by None; or a
            regular expression, every match of which becomes `replacement` (as re.sub has it).
        replacement: of a regular expression.

    Raises:
        MissingTensorError: `how` is a mapping and has a name that is not there.
        ValueError: two tensors would get one name; all such names are told.

    >>> import numpy as np
    >>> sd = {"module.fc.weight": np.zeros(2), "module.fc.bias": np.zeros(1)}
    >>> list(rename(sd, r"^module\\.", ""))
    ['fc.weight', 'fc.bias']
    >>> list(rename(sd, {"module.fc.bias": "b"}))
    ['module.fc.weight', 'b']
    """
    sd = taken(f)
    if isinstance(how, Mapping):
        _check_names(sd, how)
        return _renamed(sd, lambda name: how.get(name, name))
    if isinstance(how, (str, re.Pattern)):
        if replacement is None:
            raise TypeError("rename() by a regular expression needs what replaces its matches")
        pattern, new = _pattern(how, replacement), replacement
        return _renamed(sd, lambda name: pattern.sub(new, name))
    if not callable(how):
        raise TypeError(
            "rename() takes {old: new}, a function, or a regular expression and its replacement,"
            f" not a {type(how).__name__}"
        )
    return _renamed(sd, how)


def _pattern(how: str | re.Pattern[str], replacement: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(how)
        pattern.sub(replacement, "")  # which reads the replacement, too
    except (re.error, IndexError) as error:
        raise ValueError(
            f"no regular expression, or none that {printable(repr(replacement), 60)} can stand"
            f" for: {error}"
        ) from None
    return pattern


def _check_names(sd: StateDict, names: Iterable[str]) -> None:
    absent = [name for name in names if name not in sd]
    if absent:
        raise _missing(sd, absent)


def _missing(sd: StateDict, absent: Sequence[str], what: str = "tensor") -> MissingTensorError:
    from difflib import get_close_matches

    known = [name for name in sd if isinstance(name, str)][:2000]
    others = f", nor {len(absent) - 1} more that were asked for" if len(absent) > 1 else ""
    return MissingTensorError(
        f"no {what} {printable(repr(absent[0]), 80)} among {len(sd):,}{others}",
        path=sd.source,
        key=absent[0],
        suggestions=get_close_matches(absent[0], known, 3),
    )


def _renamed(sd: StateDict, new_name: Callable[[str], str | None]) -> StateDict:
    rows: list[tuple[Any, Any, Any]] = []
    olds: dict[Any, list[Any]] = {}
    for old, value in sd.items():
        new = new_name(old) if isinstance(old, str) else old
        if new is None:
            continue
        if isinstance(old, str) and not isinstance(new, str):
            raise TypeError(f"a name is a str, and {old!r} would become a {type(new).__name__}")
        olds.setdefault(new, []).append(old)
        rows.append((new, old, value))
    _check_collisions(olds)
    return remade(sd, rows, _module_names(rows, sd))


def _check_collisions(olds: Mapping[Any, Sequence[Any]]) -> None:
    twice = {new: names for new, names in olds.items() if len(names) > 1}
    if twice:
        told = [
            f"{printable(repr(new), 60)} from {', '.join(printable(repr(n), 60) for n in names)}"
            for new, names in list(twice.items())[:10]
        ]
        more = f"\n  and {len(twice) - 10:,} more" if len(twice) > 10 else ""
        raise ValueError(
            f"{len(twice):,} name{'s' if len(twice) > 1 else ''} would be given to several"
            " tensors:\n  " + "\n  ".join(told) + more
        )


def _modules_of(name: Any) -> Iterable[str]:
    while isinstance(name, str) and "." in name:
        name = name.rpartition(".")[0]
        yield name


def _module_names(
    rows: Iterable[tuple[Any, Any, Any]], sd: StateDict
) -> Callable[[str], str | None]:
    """What modules are called after their tensors were: as all of a module's agree, or as
    they were; None of a module that has lost all of its tensors.
    """
    found: dict[str, set[str]] = {}
    for new, old, _ in rows:
        if not isinstance(old, str):
            continue
        for module in _modules_of(old):
            rest = old[len(module) :]
            names = found.setdefault(module, set())
            if new.endswith(rest):
                names.add(new[: -len(rest)])
            elif "." + new == rest:
                names.add("")  # the prefix itself is gone
            else:
                names.add(module)

    lost = {module for name in sd for module in _modules_of(name)} - found.keys()

    def name_of(module: str) -> str | None:
        if module in lost:
            return None
        names = found.get(module)
        if names is None or len(names) != 1:
            return module
        return next(iter(names))

    return name_of


# ------------------------------------------------------------------ prefixes


def strip_prefix(f: Any, prefix: str = "module.") -> StateDict:
    """Names without a prefix that they begin with; those that do not are kept as they are.

    A prefix, not letters: ``str.lstrip`` takes away more.  When some names have it and others
    have not, a warning tells how many.

    Raises ValueError when no name has it, and says what names do begin with.

    >>> import numpy as np
    >>> list(strip_prefix({"module.model.w": np.zeros(1)}, "module."))
    ['model.w']
    """
    sd = taken(f)
    with_it = [name for name in sd if isinstance(name, str) and name.startswith(prefix)]
    if not with_it and len(sd) > 0:
        raise ValueError(
            f"no name begins with {printable(repr(prefix), 60)}; {_common_beginnings(sd)}"
        )
    if len(with_it) < len(sd):
        others = [name for name in sd if not (isinstance(name, str) and name.startswith(prefix))]
        warn(
            f"{len(others):,} of {len(sd):,} names do not begin with {printable(repr(prefix), 60)}"
            f" and stay as they are: {printable(repr(others[0]), 60)}"
            + (", ..." if len(others) > 1 else "")
        )
    return _renamed(sd, lambda name: name.removeprefix(prefix))


def _common_beginnings(sd: StateDict) -> str:
    counts: dict[str, int] = {}
    for name in sd:
        if isinstance(name, str) and "." in name:
            first = name.partition(".")[0] + "."
            counts[first] = counts.get(first, 0) + 1
    if not counts:
        return "they have no dots"
    most = sorted(counts, key=lambda first: -counts[first])[:3]
    return "they begin with " + ", ".join(
        f"{printable(repr(first), 40)} ({counts[first]:,})" for first in most
    )


def add_prefix(f: Any, prefix: str) -> StateDict:
    """Every name with a prefix before it, which mostly ends in a dot.

    >>> import numpy as np
    >>> list(add_prefix({"w": np.zeros(1)}, "model."))
    ['model.w']
    """
    sd = taken(f)
    rows = [(prefix + old if isinstance(old, str) else old, old, v) for old, v in sd.items()]
    _check_collisions({new: [old] for new, old, _ in rows})
    end = prefix.removesuffix(".")
    return remade(sd, rows, lambda module: prefix + module if module else end)


# ------------------------------------------------------------------ choosing


def select(f: Any, *patterns: str) -> StateDict:
    """Only the tensors whose names match one of the globs; whole names do, too.

    Raises MissingTensorError for a pattern that matches none.

    >>> import numpy as np
    >>> list(select({"a.weight": np.zeros(1), "a.bias": np.zeros(1)}, "*.bias"))
    ['a.bias']
    """
    sd = taken(f)
    wanted = matching(sd, patterns)
    return _renamed(sd, lambda name: name if name in wanted else None)


def drop(f: Any, *patterns: str) -> StateDict:
    """All tensors but those whose names match one of the globs.

    Raises MissingTensorError for a pattern that matches none.

    >>> import numpy as np
    >>> list(drop({"a.weight": np.zeros(1), "a.bias": np.zeros(1)}, "*.bias"))
    ['a.weight']
    """
    sd = taken(f)
    unwanted = matching(sd, patterns)
    return _renamed(sd, lambda name: None if name in unwanted else name)


def matching(sd: StateDict, patterns: Sequence[str]) -> set[str]:
    from fnmatch import translate

    names = [name for name in sd if isinstance(name, str)]
    found: set[str] = set()
    absent = []
    for pattern in patterns:
        matches = re.compile(translate(pattern)).match
        matching = [name for name in names if name == pattern or matches(name)]
        if not matching:
            absent.append(pattern)
        found.update(matching)
    if absent:
        raise _missing(sd, absent, "tensor that matches")
    return found


def only_trainable(f: Any) -> StateDict:
    """Only the tensors whose trainable flag is True.

    Raises ValueError when nobody has said of any tensor that it is: a state_dict alone does
    not tell; a sidecar or a whole model does.

    >>> import numpy as np
    >>> from pystatedict import StateDict
    >>> sd = StateDict({"a": np.zeros(1), "b": np.zeros(1)}, trainable={"a": True, "b": False})
    >>> list(only_trainable(sd))
    ['a']
    """
    sd = taken(f)
    flags = sd._spoken()
    if True not in flags.values():
        raise ValueError(
            "no tensor is known to be trainable: a state_dict does not tell.\n  hint: write a"
            " sidecar from the model (save_trainable), or say it: sd.unfreeze('*.weight')"
        )
    return _renamed(sd, lambda name: name if flags.get(name) else None)


# ------------------------------------------------------------------ joining


def merge(*parts: Any) -> StateDict:
    """The tensors of several state_dicts, in their order, which have no name in common.

    Metadata and attributes are joined, the last one's first.  Raises ValueError for names
    that are in several parts; update() lets the later one win.

    >>> import numpy as np
    >>> list(merge({"a": np.zeros(1)}, {"b": np.zeros(1)}))
    ['a', 'b']
    """
    if not parts:
        raise TypeError("merge() needs at least one state_dict")
    taken_parts = [taken(part) for part in parts]
    seen: dict[Any, int] = {}
    for part in taken_parts:
        for name in part:
            seen[name] = seen.get(name, 0) + 1
    twice = [name for name, count in seen.items() if count > 1]
    if twice:
        told = ", ".join(printable(repr(name), 60) for name in twice[:5])
        raise ValueError(
            f"{len(twice):,} name{'s are' if len(twice) > 1 else ' is'} in several parts: {told}"
            f"{', ...' if len(twice) > 5 else ''}; update() lets the later one win"
        )
    return _joined(taken_parts)


def update(f: Any, *others: Any) -> StateDict:
    """The first one's tensors, with those of the others put in their places or behind them.

    >>> import numpy as np
    >>> update({"a": np.zeros(1)}, {"a": np.ones(1), "b": np.zeros(1)})["a"]
    array([1.])
    """
    return _joined([taken(f), *map(taken, others)])


def _joined(parts: Sequence[StateDict]) -> StateDict:
    made = remade(parts[0], [(name, name, value) for name, value in parts[0].items()])
    for part in parts[1:]:
        other = remade(part, [(name, name, value) for name, value in part.items()])
        for name in other:
            for known in (made._said, made._told(), made.tensor_attributes):
                known.pop(name, None)
        made.update(other)
        made._said.update(other._said)
        made._told().update(other._told())
        made.tensor_attributes.update(other.tensor_attributes)
        made.attributes.update(other.attributes)
        if isinstance(made.metadata, dict) and isinstance(other.metadata, dict):
            made.metadata = type(made.metadata)({**made.metadata, **other.metadata})
        elif made.metadata is None:
            made.metadata = other.metadata
    return made


# ------------------------------------------------------------------ nests


def flatten(obj: Any, separator: str = ".") -> StateDict:
    """The tensors of a nest of dicts, lists and tuples under joined names; all else is left
    out.

    Raises ValueError where two of them would get one name.

    >>> import numpy as np
    >>> list(flatten({"model": {"w": np.zeros(1)}, "history": [np.zeros(1)], "epoch": 3}))
    ['model.w', 'history.0']
    """
    rows: list[tuple[str, Any]] = []
    todo: list[tuple[tuple[str, ...], Any, tuple[int, ...]]] = [((), obj, ())]
    while todo:
        path, value, above = todo.pop()
        if len(rows) + len(todo) > _FLAT_MOST:
            raise LimitError(
                "the nest has too many names: its parts stand in one another again and again",
                name="values",
                value=len(rows) + len(todo),
                limit=_FLAT_MOST,
            )
        if is_tensor(value):
            rows.append((separator.join(path), value))
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in above:
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
            inside = (*above, id(value))
            todo += [((*path, str(key)), part, inside) for key, part in reversed([*inner])]
    olds: dict[Any, list[Any]] = {}
    for name, _ in rows:
        olds.setdefault(name, []).append(name)
    _check_collisions(olds)
    return taken(dict(rows))


def unflatten(f: Any, separator: str = ".") -> dict[str, Any]:
    """Dicts within dicts, by the parts of the names.

    Raises ValueError where a name is another's beginning.

    >>> import numpy as np
    >>> unflatten({"model.w": np.zeros(1), "model.b": np.zeros(1)})
    {'model': {'w': array([0.]), 'b': array([0.])}}
    """
    root: dict[str, Any] = {}
    for name, value in taken(f).items():
        *path, last = str(name).split(separator)
        inside = root
        for part in path:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise ValueError(f"{name!r} stands below {part!r}, which is a tensor")
        if last in inside:
            raise ValueError(f"{name!r} is a tensor, and others stand below it")
        inside[last] = value
    return root


# Names beyond which a nest is taken for one whose parts are shared to make many of few.
_FLAT_MOST = 10_000_000

# What training programs call what only training needs.
_OPTIMIZER = re.compile(
    r"(opt(im(izer)?)?s?|optimizers?|(lr_?)?schedulers?|lr_sched(uler)?s?|(grad_?)?scalers?|amp)"
    r"(_?(states?|state_?dicts?|scaling_state))*",
    re.IGNORECASE,
)


def drop_optimizer(obj: Any) -> Any:
    """A training checkpoint without its optimizers, schedulers and scalers: what is mostly two
    thirds of it.

    `obj`: a path, or the nest that a checkpoint holds.  What is left out are the entries of
    the outermost dict that training programs call so (``optimizer_state_dict``,
    ``optimizer_states``, ``lr_schedulers``, ``scaler``, ...).  Raises ValueError when there is
    none.

    >>> import numpy as np
    >>> checkpoint = {"model": {"w": np.zeros(1)}, "optimizer": {"lr": 0.1}, "epoch": 3}
    >>> drop_optimizer(checkpoint)
    {'model': {'w': array([0.])}, 'epoch': 3}
    """
    import os

    if isinstance(obj, (str, os.PathLike)):
        from pystatedict._api import load_lazily

        obj = load_lazily(obj)
    if not isinstance(obj, dict):
        raise TypeError(f"expected a path or a dict, not a {type(obj).__name__}")
    unwanted = [key for key in obj if isinstance(key, str) and _OPTIMIZER.fullmatch(key)]
    if not unwanted:
        told = ", ".join(printable(repr(key), 40) for key in list(obj)[:8])
        raise ValueError(f"no entry is called as an optimizer is; there are {told}")
    from pystatedict._statedict import StateDict

    if isinstance(obj, StateDict):
        rows = [(key, key, value) for key, value in obj.items() if key not in unwanted]
        return remade(obj, rows)
    return type(obj)((key, value) for key, value in obj.items() if key not in unwanted)


def within(obj: Any, change: Callable[[Any], Any], root: str | None = None) -> Any:
    """The nest that a checkpoint holds, with its state_dict as `change` makes it, and all else
    as it was.

    `root`: the dotted path to the state_dict; None: the one inside, as ``root="auto"`` finds it.
    Raises MissingTensorError when there is nothing at `root`.

    >>> import numpy as np
    >>> checkpoint = {"epoch": 3, "model": {"module.w": np.zeros(1)}}
    >>> within(checkpoint, strip_prefix)["model"]
    <StateDict of 1 entry>
    """
    from pystatedict._roots import find_in

    if root is None:
        found = find_in(obj) if isinstance(obj, Mapping) else obj
        if found is obj:
            return change(obj)
        for key, value in obj.items():
            if value is found:
                return _with(obj, key, change(found))
        raise UnsupportedError(
            "the state_dict is that of a whole module, which cannot be changed in its place",
            code="within-module",
            hint='ops.open(f, root="auto") gives it by itself',
        )
    first, _, rest = root.partition(".")
    # A key may have dots of its own.
    for text in (root, first):
        place: Any = text
        if isinstance(obj, list) and text.isdigit() and int(text) < len(obj):
            place = int(text)
        elif not isinstance(obj, Mapping) or text not in obj:
            continue
        below = rest if text is first and rest else None
        inner = obj[place]
        return _with(obj, place, within(inner, change, below) if below else change(inner))
    raise MissingTensorError(f"there is nothing at {printable(repr(root), 80)}", key=root)


def _with(obj: Any, key: Any, value: Any) -> Any:
    import copy

    made = copy.copy(obj)
    made[key] = value
    return made
