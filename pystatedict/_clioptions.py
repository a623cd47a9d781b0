# SPDX-License-Identifier: Apache-2.0
"""The options of the command line, by argparse, which a command and FILE alone do without."""

from __future__ import annotations

import argparse

from ._text import terminal_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser


def new_parser() -> ArgumentParser:
    class Version(argparse.Action):
        def __call__(self, parser: ArgumentParser, *_: object) -> None:
            from . import __version__

            print(f"pystatedict {__version__}")
            parser.exit()

    # Without a width argparse imports shutil, which takes longer than all of it.
    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.HelpFormatter(prog, width=min(terminal_width(1) or 80, 100) - 2)

    parser = argparse.ArgumentParser(
        prog="pystatedict",
        formatter_class=formatter,
        description="Look into PyTorch checkpoints without torch. Nothing in a file is executed.",
        epilog="exit codes: 0 fine, 1 a negative answer, 2 wrong usage or an unreadable file",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=formatter,
            argument_default=argparse.SUPPRESS,  # Arguments has them
        )
        sub.set_defaults(command=name)
        sub.add_argument("file", metavar="FILE", help="a checkpoint; - reads standard input")
        sub.add_argument("--color", choices=("auto", "always", "never"))
        return sub

    def depth(text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise argparse.ArgumentTypeError(f"not a number of levels: {text!r}")
        from ._modules import MODULE_DEPTH

        return min(int(text[:9]), MODULE_DEPTH)

    ls = command("ls", "list the tensors")
    ls.add_argument(
        "patterns",
        metavar="PATTERN",
        nargs="*",
        help="only these: a name, a module, or a pattern with * ? []",
    )
    ls.add_argument("-l", "--long", action="store_true", help="dtype, size, storage and offset too")
    ls.add_argument("--sort", choices=("size", "name"), help="instead of the order in the file")
    form = ls.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a head")

    tree = command("tree", "list the modules with their sizes")
    tree.add_argument("--depth", type=depth, metavar="N", help="no deeper than N dots")
    tree.add_argument("--json", action="store_true", help="one JSON document")

    stat = command("stat", "tell what the file is and holds")
    stat.add_argument("--json", action="store_true", help="one JSON document")

    scan = command("scan", "list what the pickles name, and what of it is dangerous")
    scan.add_argument("--json", action="store_true", help="one JSON document")
    return parser
