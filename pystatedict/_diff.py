# SPDX-License-Identifier: Apache-2.0
"""diff: what differs between two checkpoints, tensor by tensor."""

from __future__ import annotations

import math

from pystatedict._difference import Diff, Distance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._entries import Entries, Entry
    from pystatedict._pieces import Work

    Root = str | None | tuple[str | None, str | None]

_DEPTH = 50  # subclasses within one another


def diff(
    a: Any,
    b: Any,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    values: bool = True,
    trainable: bool = True,
    root: Root = "auto",
) -> Diff:
    """Compare two checkpoints: names, shapes, dtypes, trainable flags and values.

    Args:
        a, b: each what open() takes (a zip, legacy, safetensors or npz file, an index, a
            folder, bytes), a Checkpoint, or a mapping of names to arrays.
        rtol, atol: how far values may be apart and still be close: ``|a - b| <= atol + rtol *
            |b|``, as numpy.isclose has it.  0 and 0: not at all.
        values: False compares names, shapes, dtypes and flags alone; no tensor is read, and a
            renamed one is told as removed and added.
        trainable: False leaves out the trainable flags.
        root: "auto" compares the one state_dict inside each, None all tensors, a dotted path
            those below it; a pair gives each file its own.  A Checkpoint has its own.

    Returns:
        A Diff, which is true when there is a difference.

    Raises:
        ValueError: a tolerance that is negative or NaN.
        LimitError: tensors that repeat few bytes without end.
        TypeError: a value of a mapping that NumPy cannot make an array of.
        What open() raises, of a file that cannot be opened.

    Values are computed in float64 or complex128, integers and bools exactly.  NaN equals NaN
    at the same place; 0.0 equals -0.0.  Tensors with other bytes but equal values are listed as
    ``close``, and are no difference.  Quantized, sparse and nested tensors and subclasses are
    compared by their parts.  One pair of storages is in memory at a time.

    >>> import numpy as np
    >>> from pystatedict import load
    >>> new = load("tutorial.pth")
    >>> new["fc_final.bias"] = new["fc_final.bias"] + np.float32(0.5)
    >>> new["head.weight"] = new.pop("fc_final.weight")
    >>> found = diff("tutorial.pth", new, trainable=False)
    >>> found
    <Diff: 1 renamed, 1 changed>
    >>> found.renamed, found.changed["fc_final.bias"].differing
    ({'fc_final.weight': 'head.weight'}, 1)
    >>> bool(diff("tutorial.pth", "tutorial.pth"))
    False
    """
    from pystatedict._entries import entries_of, roots_of

    for tolerance in (rtol, atol):
        if not tolerance >= 0 or math.isinf(tolerance):
            raise ValueError(f"rtol and atol are finite numbers from 0 on, not {tolerance!r}")
    roots = roots_of(root)
    with entries_of(a, roots[0], trainable) as old, entries_of(b, roots[1], trainable) as new:
        found = Diff((old.path, new.path), float(rtol), float(atol))
        found.values = bool(values)
        _Comparison(found, old, new).run(trainable)
    return found


class _Comparison:
    def __init__(self, found: Diff, old: Entries, new: Entries) -> None:
        from pystatedict._entries import Hand
        from pystatedict._pieces import Work

        self._found, self._old, self._new = found, old, new
        self._hands = Hand(), Hand()
        self._work = Work()

    def run(self, flags: bool) -> None:
        found, old, new = self._found, self._old, self._new
        both = [name for name in old if name in new]
        found.compared = len(both)
        found.removed = {n: (e.shape, e.dtype) for n, e in old.items() if n not in new}
        found.added = {n: (e.shape, e.dtype) for n, e in new.items() if n not in old}
        for name in both:
            a, b = old[name], new[name]
            if a.shape != b.shape:
                found.reshaped[name] = a.shape, b.shape
            if a.dtype != b.dtype:
                found.retyped[name] = a.dtype, b.dtype
            if flags and a.flag is not b.flag:
                found.trainable[name] = a.flag, b.flag
        if found.values:
            self._compare([name for name in both if old[name].shape == new[name].shape])
            self._find_renamed()

    def _compare(self, names: list[str]) -> None:
        from pystatedict._entries import together

        found = self._found
        told: dict[str, Distance] = {}
        by_new = together(self._new[name] for name in names)
        for entry in together(self._old[entry.name] for entry in by_new):
            other = self._new[entry.name]
            distance = self._distance(entry, other)
            if distance is not None:
                told[entry.name] = distance
        for name in names:
            if name in told:
                (found.changed if told[name] else found.close)[name] = told[name]
                found.shapes[name] = self._old[name].shape

    def _distance(self, a: Entry, b: Entry) -> Distance | None:
        """None of equal tensors."""
        if a.layout != b.layout:
            return Distance(note=f"not compared: {a.layout} in a, {b.layout} in b")
        if a.layout == "meta":
            return None
        first = _taken(self._hands[0], a, self._found.paths[0])
        second = _taken(self._hands[1], b, self._found.paths[1])
        return distance(first, second, self._found.rtol, self._found.atol, self._work)

    def _find_renamed(self) -> None:
        """Pair what is removed with what was added, by content."""
        from pystatedict._similar import pair_names

        found = self._found
        kinds = {self._kind(self._old[n]) for n in found.removed}
        kinds &= {self._kind(self._new[n]) for n in found.added}
        if not kinds:
            return
        removed = self._by_content(0, self._old, found.removed, kinds)
        added = self._by_content(1, self._new, found.added, kinds)
        renamed: dict[str, str] = {}
        for content, names in removed.items():
            if content in added:
                renamed.update(pair_names(names, added[content]))
        found.renamed = {name: renamed[name] for name in found.removed if name in renamed}
        for name, other in renamed.items():
            del found.removed[name], found.added[other]

    @staticmethod
    def _kind(entry: Entry) -> tuple[Any, ...]:
        return entry.layout, entry.dtype, entry.shape

    def _by_content(
        self, side: int, entries: Entries, names: dict[str, Any], kinds: set[tuple[Any, ...]]
    ) -> dict[bytes, list[str]]:
        from pystatedict._contents import digest
        from pystatedict._entries import together

        found: dict[str, bytes] = {}
        some = (entries[n] for n in names if self._kind(entries[n]) in kinds)
        for entry in together(e for e in some if e.layout != "meta"):
            value = _taken(self._hands[side], entry, self._found.paths[side])
            found[entry.name] = digest(entry.name, value, self._work)
        groups: dict[bytes, list[str]] = {}
        for name in names:
            if name in found:
                groups.setdefault(found[name], []).append(name)
        return groups


def _taken(hand: Any, entry: Entry, path: str | None) -> Any:
    from pystatedict._opening import Naming

    with Naming(path):
        return hand.take(entry)


def distance(
    a: Any, b: Any, rtol: float, atol: float, work: Work, depth: int = 0
) -> Distance | None:
    """Between two values that tensors have: arrays, or what is made of them; None of equal ones."""
    from pystatedict._contents import is_meta
    from pystatedict._entries import as_value, dtype_name
    from pystatedict._tensorkinds import TensorObject

    if is_meta(a) or is_meta(b):
        return None if is_meta(a) and is_meta(b) else Distance(note="one side has no bytes")
    if isinstance(a, TensorObject) or isinstance(b, TensorObject):
        if type(a) is not type(b) or depth > _DEPTH:
            return Distance(note=f"not compared: {type(a).__name__} and {type(b).__name__}")
        return _distance_of_parts(a, b, rtol, atol, work, depth)
    from pystatedict._distance import Measure, same_bytes
    from pystatedict._pieces import without_repeats

    a, b = as_value(a, "a"), as_value(b, "b")
    if a.shape != b.shape:
        return Distance(note=f"shapes {list(a.shape)} and {list(b.shape)}")
    for array in without_repeats(a, b):
        work.add(array)
    if dtype_name(a) == dtype_name(b) and same_bytes(a, b):
        return None
    m = Measure(rtol, atol).run(a, b)
    return Distance(m.count, m.differing, m.beyond, m.nans, m.max_abs, m.max_rel, m.rms, m.cosine)


def _distance_of_parts(
    a: Any, b: Any, rtol: float, atol: float, work: Work, depth: int
) -> Distance | None:
    from pystatedict._contents import parts_of

    (facts, parts), (others, counterparts) = parts_of(a), parts_of(b)
    facts["parts"], others["parts"] = ", ".join(parts), ", ".join(counterparts)
    notes = [
        f"{key} {_fact(key, facts.get(key))} and {_fact(key, others.get(key))}"
        for key in dict.fromkeys([*facts, *others])
        if facts.get(key) != others.get(key)
    ]
    found: dict[str, Distance] = {}
    for name, part in parts.items():
        if name in counterparts:
            between = distance(part, counterparts[name], rtol, atol, work, depth + 1)
            if between is not None:
                found[name] = between
    if not found and not notes:
        return None
    inside = found.values()
    return Distance(
        sum(each.count for each in inside),
        sum(each.differing for each in inside),
        sum(each.beyond for each in inside),
        sum(each.nans for each in inside),
        note="; ".join(notes),
        parts=found,
    )


def _fact(key: str, text: str | None) -> str:
    """A scale is kept as exact hexadecimal digits, and told as a number."""
    return repr(float.fromhex(text)) if key == "scale" and text else str(text)
