# SPDX-License-Identifier: Apache-2.0
"""Which names of two lists mean the same: by what they end with, and their order."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DEEPEST = 12  # parts of a name that are compared
_FEW = 8  # names that are compared with each other


def pair_names(old: Iterable[str], new: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names, each once, those with the longest common end first.

    Of several with the same end the most alike are taken, or of many those that stand first.
    As many pairs as the shorter list has names; the same lists always give the same.
    """
    left, right = dict.fromkeys(old), dict.fromkeys(new)
    for name in [name for name in left if name in right]:
        del left[name], right[name]
        yield name, name
    for depth in range(_DEEPEST, -1, -1):
        if not left or not right:
            return
        groups: dict[str, list[str]] = {}
        for name in right:
            groups.setdefault(end_of(name, depth), []).append(name)
        sought: dict[str, list[str]] = {}
        for name in left:
            end = end_of(name, depth)
            if end in groups:
                sought.setdefault(end, []).append(name)
        for end, names in sought.items():
            for pair in list(_nearest(names, groups[end])):
                del left[pair[0]], right[pair[1]]
                yield pair


def end_of(name: str, parts: int) -> str:
    """The last parts of a dotted name; all of it when it has no more than these."""
    at = len(name)
    for _ in range(parts):
        at = name.rfind(".", 0, at)
        if at < 0:
            return "\0" + name  # another name's end is no whole name
    return name[at:] if parts else ""


def _nearest(left: list[str], right: list[str]) -> Iterator[tuple[str, str]]:
    if len(left) > _FEW or len(right) > _FEW or len(left) == len(right) == 1:
        yield from zip(left, right, strict=False)
        return
    ranked = sorted(
        ((-likeness(a, b), i, k) for i, a in enumerate(left) for k, b in enumerate(right)),
    )
    taken: tuple[set[int], set[int]] = set(), set()
    for _, i, k in ranked:
        if i not in taken[0] and k not in taken[1]:
            taken[0].add(i)
            taken[1].add(k)
            yield left[i], right[k]


def likeness(a: str, b: str) -> float:
    """How alike two names are, from 0 to 1; of long ones the ends are compared."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, a[-100:], b[-100:], autojunk=False).ratio()
