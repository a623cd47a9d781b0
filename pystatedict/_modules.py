# SPDX-License-Identifier: Apache-2.0
"""The modules of a checkpoint: the tree of its dotted names, each node with its totals."""

from __future__ import annotations

from ._summary import Total

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._core import TensorInfo
    from ._summary import Flags

MODULE_DEPTH = 64  # dots of a name that make modules; deeper ones stay in the leaf's name


class Module:
    """A node of the tree of dotted names."""

    __slots__ = ("children", "name", "parent", "total")

    def __init__(self, name: str, parent: Module | None) -> None:
        self.name = name
        self.parent = parent
        self.children: dict[str, Module] = {}
        self.total = Total()

    def child(self, name: str) -> Module:
        found = self.children.get(name)
        if found is None:
            found = self.children[name] = Module(name, self)
        return found

    def path(self) -> str:
        parts: list[str] = []
        node: Module | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return ".".join(reversed(parts))


def modules_of(names: Mapping[str, TensorInfo], flags: Flags, depth: int | None) -> Module:
    """The tree of the names' modules, `depth` levels of it; every node counts all below it."""
    root = Module("", None)
    for name, info in names.items():
        flag = flags[name]
        node = root
        node.total.add(name, info, flag)
        for part in name.split(".", MODULE_DEPTH)[:-1][:depth]:
            node = node.child(part)
            node.total.add(name, info, flag)
    return root
