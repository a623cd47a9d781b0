# SPDX-License-Identifier: Apache-2.0
"""What the operations on weights are given, as StateDicts, and their results as such.

An input may be a mapping, a Checkpoint or a path.  Files are opened so that bytes are read
where they are wanted: a map would keep all that was ever read of it among the resident pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pystatedict import _taken
from pystatedict._dtypes import torch_dtype
from pystatedict._statedict import StateDict
from pystatedict._tensorkinds import TensorObject


def taken(f: Any) -> StateDict:
    """A StateDict of what `f` holds; of a mapping of mappings, of the one state_dict in it."""
    if isinstance(f, Mapping) and not any(is_tensor(value) for value in f.values()):
        from pystatedict._roots import find_in

        f = find_in(f)
    return _taken.taken(f)


def is_tensor(value: Any) -> bool:
    """Is it a tensor of any kind, or another library's?  NumPy's scalars are mere numbers."""
    if isinstance(value, np.ndarray):
        return torch_dtype(value.dtype) is not None or value.dtype.kind in "fc"
    if isinstance(value, (np.generic, type)):
        return False
    return hasattr(value, "__array__") and hasattr(value, "shape")


def is_own(value: Any) -> bool:
    """Is a tensor an array, or a kind that this package makes?"""
    return isinstance(value, (np.ndarray, TensorObject)) or isinstance(value.dtype, str)


def dtype_of(value: Any) -> str:
    """torch's name of a tensor's dtype; where torch has none, its own."""
    if isinstance(value, np.ndarray):
        return torch_dtype(value.dtype) or str(value.dtype)
    return str(value.dtype)


def result_like(first: StateDict, items: Mapping[Any, Any]) -> StateDict:
    """A StateDict of `items` with the metadata, attributes and flags of `first`; of no file."""
    made = _taken.remade(first, ((name, name, value) for name, value in items.items()))
    made.source = None
    return made


def combined(
    inputs: Sequence[StateDict],
    compute: Callable[[Any, list[Any]], Any],
    *,
    taken_from: int = 0,
    extra: Callable[[Any], object] = lambda _name: None,
) -> StateDict:
    """The first input with every tensor of numbers computed from those of its name.

    `compute(name, values)` is asked once for names that are tied in every input and of the
    same `extra(name)`.  Integers are taken from the input `taken_from`; of a name that an
    input lacks the value is None.
    """
    from pystatedict._compared import TAKEN, kind_of

    items: dict[Any, Any] = {}
    made: dict[object, Any] = {}
    names = dict.fromkeys(inputs[0])
    for other in inputs[1:]:
        names.update(dict.fromkeys(n for n, v in other.items() if n in names or is_tensor(v)))
    for name in names:
        values = [each.get(name) for each in inputs]
        lead = next(each[name] for each in inputs if name in each)
        if not is_tensor(lead):
            items[name] = lead
            continue
        if kind_of(lead) == TAKEN:
            there = values[taken_from]
            items[name] = lead if there is None else there
            continue
        key = (extra(name), *(_taken.tie(value) for value in values))
        if key not in made:
            made[key] = compute(name, values)
        items[name] = made[key]
    return result_like(inputs[0], items)


def by_name(number: Any, names: Iterable[Any], what: str) -> Callable[[Any], float]:
    """A number for each name: one for all, or of the first glob that matches."""
    names = list(names)
    if not isinstance(number, Mapping):
        whole = finite(number, what)
        return lambda _name: whole
    globs = [(str(glob), finite(value, f"{what}[{glob!r}]")) for glob, value in number.items()]
    found: dict[Any, float] = {}
    used: set[str] = set()
    for name in names:
        fitting = [(glob, value) for glob, value in globs if fnmatchcase(str(name), glob)]
        used.update(glob for glob, _ in fitting)
        if fitting:
            found[name] = fitting[0][1]
    left = [str(name) for name in names if name not in found]
    if left:
        raise ValueError(
            f"{what} has no number for {_some(left)}; end it with a default, as in '*': 0.5"
        )
    idle = [glob for glob, _ in globs if glob not in used and glob != "*"]
    if idle:
        raise ValueError(f"{what}: no name matches {_some(idle)}")
    return found.__getitem__


def finite(number: Any, what: str) -> float:
    """A number that is one; `what` is the argument's name."""
    try:
        value = float(number)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is a number, not {number!r}") from None
    if not np.isfinite(value):
        raise ValueError(f"{what} is a finite number, not {value}")
    return value


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
