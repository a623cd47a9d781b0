# SPDX-License-Identifier: Apache-2.0
"""`pystatedict tree`: the modules of a checkpoint with their sizes."""

from __future__ import annotations

import os

from ._cli import FINE, Arguments, note_sidecar, open_file, print_json
from ._modules import MODULE_DEPTH, modules_of
from ._printable import counted, printable
from ._summary import flags_of
from ._text import Screen, human_bytes, parameters_text, percent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._clioptions import Parser
    from ._modules import Module
    from ._summary import Total
    from ._text import Signs


class Options(Arguments):
    depth: int | None = None


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_argument("--depth", type=_depth, metavar="N", help="no deeper than N dots")
    parser.add_json()


def _depth(text: str) -> int:
    from argparse import ArgumentTypeError

    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"not a number of levels: {text!r}")
    return min(int(text[:9]), MODULE_DEPTH)


def run(arguments: Options) -> int:
    with open_file(arguments) as checkpoint:
        flags, _, trouble = flags_of(checkpoint)
        root = modules_of(checkpoint, flags, arguments.depth)
        note_sidecar(trouble)
        screen = Screen(arguments.color)
        nodes = [("", root), *_walk(root, screen.signs)]
        if arguments.json:
            modules = [{"name": node.path(), **node.total.members()} for _, node in nodes]
            print_json(arguments, {"modules": modules})
            return FINE
        title = os.path.basename(arguments.file.rstrip(os.sep))
        rows = []
        for before, node in nodes:
            name = title if node is root else node.name or "(empty name)"
            total = node.total
            rows.append(
                [
                    before + printable(name),
                    counted(total.tensors, "tensor"),
                    parameters_text(total.parameters),
                    human_bytes(total.bytes),
                    _share(total, screen.signs),
                ]
            )
        screen.rows(rows, "<>>><")
    return FINE


def _walk(root: Module, signs: Signs) -> Iterator[tuple[str, Module]]:
    """(the lines before the name, the module), each below its parent."""
    children = list(root.children.values())
    stack = [(child, "", child is children[-1]) for child in reversed(children)]
    while stack:
        node, before, last = stack.pop()
        yield before + (signs.last if last else signs.branch), node
        below = before + ("   " if last else signs.pipe)
        children = list(node.children.values())
        stack.extend((child, below, child is children[-1]) for child in reversed(children))


def _share(total: Total, signs: Signs) -> str:
    """How much of the parameters is trainable, in words that fit a column."""
    if total.unknown == total.parameters:
        return signs.unknown
    text = percent(total.trainable, total.parameters)
    if total.unknown:
        text += f" ({percent(total.unknown, total.parameters)} {signs.unknown})"
    return text
