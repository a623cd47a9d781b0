# SPDX-License-Identifier: Apache-2.0
"""How the names of one checkpoint become those of another: prefixes, paths, patterns, shapes.

Each step works on what the steps before it left, and looks names up instead of comparing
them with each other: the time is linear in the names.  A name is taken for another only
where the shapes are equal.
"""

from __future__ import annotations

import heapq

from pystatedict._similar import end_of, likeness, pair_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Shape = tuple[int, ...]
    Shapes = dict[str, Shape]
    Pairs = list[tuple[str, str]]
    # (kind, what stands there, what is to stand there)
    Rule = tuple[str, str, str]

_DEEPEST = 10  # parts of a name at which it may be changed
_LONGEST = 2  # parts that are replaced by each other
_CROWD = 4  # names that are alike but for one place, and are looked at
_RANKED = 2000  # rules whose texts are compared for their likeness
_AGAIN = 20  # times that a rule is counted anew
_ALIKE = 0.4  # from which on names of a single shape are alike


class Names:
    """What is left on both sides, and the rules that were found."""

    def __init__(self, unexpected: Shapes, missing: Shapes) -> None:
        self.old = dict(unexpected)
        self.new = dict(missing)
        self.rules: list[tuple[Rule, Pairs]] = []

    def left(self, pairs: Pairs) -> Pairs:
        """Those of which both names are left, each once."""
        found: dict[str, str] = {}
        taken: set[str] = set()
        for old, new in pairs:
            if old in self.old and new in self.new and old not in found and new not in taken:
                found[old] = new
                taken.add(new)
        return list(found.items())

    def take(self, rule: Rule, pairs: Pairs) -> None:
        for old, new in pairs:
            del self.old[old], self.new[new]
        self.rules.append((rule, pairs))


def suggest(unexpected: Shapes, missing: Shapes) -> list[tuple[Rule, Pairs]]:
    """Rules, and the pairs of names that each makes match; a name is in one pair only.

    The kind of a rule is "strip" or "add" (a prefix), "replace" (a path within names),
    "pattern" (names with # for numbers) or "rename" (one name).
    """
    names = Names(unexpected, missing)
    for step in (_prefixes, _paths):
        if names.old and names.new:
            _take_best(names, *step(names))
    for take in (_take_patterns, _take_singles):
        if names.old and names.new:
            take(names)
    return names.rules


def _take_best(names: Names, found: dict[Rule, Pairs], least: int) -> None:
    """The rules in the order of how many names each makes match, of those that are left."""
    ranked = sorted(found, key=lambda rule: -len(found[rule]))
    heap = []
    for order, rule in enumerate(ranked):
        if len(found[rule]) >= least:
            alike = likeness(rule[1], rule[2]) if order < _RANKED else 0.0
            heap.append((-len(found[rule]), -alike, len(rule[1]) + len(rule[2]), order, 0))
    heapq.heapify(heap)
    while heap and names.old and names.new:
        count, alike, length, order, times = heapq.heappop(heap)
        rule = ranked[order]
        left = found[rule] = names.left(found[rule])
        if len(left) == -count:
            names.take(rule, left)
        elif len(left) >= least and times < _AGAIN:
            heapq.heappush(heap, (-len(left), alike, length, order, times + 1))


# ------------------------------------------------------------------ prefixes


def _prefixes(names: Names) -> tuple[dict[Rule, Pairs], int]:
    found: dict[Rule, Pairs] = {}
    for name, shape in names.old.items():
        for prefix, rest in _splits(name):
            if names.new.get(rest) == shape:
                found.setdefault(("strip", prefix, ""), []).append((name, rest))
    for name, shape in names.new.items():
        for prefix, rest in _splits(name):
            if names.old.get(rest) == shape:
                found.setdefault(("add", "", prefix), []).append((rest, name))
    return found, 1


def _splits(name: str) -> Iterator[tuple[str, str]]:
    at = name.find(".") + 1
    for _ in range(_DEEPEST):
        if not at:
            return
        yield name[:at], name[at:]
        at = name.find(".", at) + 1


# ------------------------------------------------------------------ paths within names


def _paths(names: Names) -> tuple[dict[Rule, Pairs], int]:
    """Names that differ in one place, where up to two parts stand for up to two others."""
    places: dict[tuple[str, str, Shape], list[tuple[str, str]]] = {}
    sought = set(names.old.values())
    for name, shape in names.new.items():
        for before, path, behind in _windows(name) if shape in sought else ():
            crowd = places.setdefault((before, behind, shape), [])
            if len(crowd) < _CROWD and not path.isdigit():
                crowd.append((path, name))
    found: dict[Rule, Pairs] = {}
    for name, shape in names.old.items():
        for before, path, behind in _windows(name):
            for other, new in places.get((before, behind, shape), ()):
                if not path.isdigit() and not _share_an_end(path, other):
                    found.setdefault(("replace", path, other), []).append((name, new))
    return found, 2


def _windows(name: str) -> Iterator[tuple[str, str, str]]:
    """(what stands before, up to two parts or none, what stands behind), wherever they are.

    Of the beginning of a name any number of parts, if at least two stand behind.
    """
    starts = [0]
    while len(starts) <= _DEEPEST:
        at = name.find(".", starts[-1]) + 1
        if not at:
            break
        starts.append(at)
    if len(starts) <= _DEEPEST:
        starts.append(len(name) + 1)
    for i, start in enumerate(starts):
        for stop in starts[i : i + _LONGEST + 1]:
            if start or stop <= len(name):  # never the whole name
                end = stop - 1 if stop > start else start
                yield name[:start], name[start:end], name[stop:]
    for stop in starts[_LONGEST + 1 : -2]:
        yield "", name[: stop - 1], name[stop:]


def _share_an_end(a: str, b: str) -> bool:
    """Then a shorter path says it: `a.b` for `a.c` is `b` for `c`."""
    if not a or not b:
        return a == b
    first, last = a.partition(".")[0], a.rpartition(".")[2]
    return first == b.partition(".")[0] or last == b.rpartition(".")[2]


# ------------------------------------------------------------------ patterns


def _take_patterns(names: Names) -> None:
    """Names alike but for their numbers, whose numbers and shapes are all the same."""
    sides = _patterns(names.old), _patterns(names.new)
    by_content: list[dict[frozenset[tuple[str, Shape]], list[str]]] = [{}, {}]
    for side, groups in zip(sides, by_content, strict=True):
        for pattern, members in side.items():
            content = frozenset((numbers, shape) for numbers, (shape, _) in members.items())
            groups.setdefault(content, []).append(pattern)
    for content, patterns in by_content[0].items():
        others = by_content[1].get(content, [])
        if len(patterns) != len(others) or len(content) < 2:
            continue
        for old, new in pair_names(patterns, others):
            if len(patterns) > 1 and end_of(old, 1) != end_of(new, 1):
                continue  # of several that could be meant, none
            members = sides[1][new]
            pairs = [(name, members[n][1]) for n, (_, name) in sides[0][old].items()]
            names.take(("pattern", old, new), pairs)


def _patterns(shapes: Shapes) -> dict[str, dict[str, tuple[Shape, str]]]:
    """By the name with # for its numbers: {its numbers: (shape, name)}."""
    found: dict[str, dict[str, tuple[Shape, str]]] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        numbers = [part for part in parts if part.isdigit()]
        if numbers:
            pattern = ".".join("#" if part.isdigit() else part for part in parts)
            found.setdefault(pattern, {})[".".join(numbers)] = shape, name
    return found


# ------------------------------------------------------------------ single names


def _take_singles(names: Names) -> None:
    """What is left and has a shape that no other has: the same tensor, if names are alike."""
    old, new = _by_shape(names.old), _by_shape(names.new)
    for shape, sides in old.items():
        others = new.get(shape, [])
        if len(sides) == len(others) == 1:
            pair = sides[0], others[0]
            if end_of(pair[0], 1) == end_of(pair[1], 1) or likeness(*pair) >= _ALIKE:
                names.take(("rename", *pair), [pair])


def _by_shape(shapes: Shapes) -> dict[Shape, list[str]]:
    found: dict[Shape, list[str]] = {}
    for name, shape in shapes.items():
        found.setdefault(shape, []).append(name)
    return found
