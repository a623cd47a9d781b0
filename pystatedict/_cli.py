# SPDX-License-Identifier: Apache-2.0
"""The command line: `pystatedict ls|tree|stat|scan FILE`.

Data goes to stdout, all else to stderr.  Exit codes: 0 fine, 1 a negative answer (no such
tensor, a dangerous file), 2 wrong usage or an unreadable file, 130 interrupted.  Nothing
here needs NumPy, and no class named in a file is imported.

`--json` prints one document whose `schema` is 1; its names are exact, sizes are integers,
flags are true, false or null.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from ._errors import SidecarError, StateDictError
from ._printable import counted, printable
from ._roots import holds_arrays
from ._summary import MODULE_DEPTH, Total, facts_of, flags_of, modules_of
from ._text import (
    DIM,
    GREEN,
    RED,
    YELLOW,
    Screen,
    Signs,
    human_bytes,
    human_count,
    percent,
    shape_text,
    short_dtype,
    terminal_width,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    from ._checkpoint import Checkpoint
    from ._core import TensorInfo
    from ._scan import ScanReport
    from ._summary import Flags, Module

SCHEMA = 1

FINE = 0
NEGATIVE = 1
TROUBLE = 2
INTERRUPTED = 130


# -------------------------------------------------------------------------- main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        if sys.stdout is None:  # closed by whoever started it
            return _complain("standard output is closed")
        arguments = _arguments(argv)
        code = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return FINE  # the reader has enough: `| head`
    except KeyboardInterrupt:
        return INTERRUPTED
    except StateDictError as exc:
        return _complain(str(exc))
    except OSError as exc:
        name = "" if exc.filename is None else f"'{printable(os.fsdecode(exc.filename))}': "
        return _complain(name + (exc.strerror or printable(str(exc))))
    except MemoryError:
        return _complain("not enough memory")
    finally:
        _flush()


def _flush() -> None:
    """Make sure that the interpreter's own last flush does not fail, and complain, again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            os.close(devnull)


def _complain(text: str) -> int:
    _note(text)
    return TROUBLE


def _note(text: str) -> None:
    if sys.stderr is None:
        return  # print() would take stdout for it
    with suppress(OSError):  # the exit code says it, too
        print(f"pystatedict: {text}", file=sys.stderr)


class _Arguments:
    """What was asked for; without options it is this."""

    command = ""
    file = ""
    color = "auto"
    patterns: Sequence[str] = ()
    long = False
    sort: str | None = None
    json = False
    csv = False
    depth: int | None = None


def _arguments(argv: Sequence[str] | None) -> _Arguments:
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _Arguments()
    # `pystatedict ls FILE` is over before argparse and what it needs would be imported.
    if len(words) == 2 and words[0] in _COMMANDS and words[1][:1] != "-":
        arguments.command, arguments.file = words
        return arguments
    parser = _parser()
    _, rest = parser.parse_known_args(words, arguments)
    # argparse alone does not take patterns that follow an option that follows FILE.
    if rest and arguments.command == "ls" and not any(text.startswith("-") for text in rest):
        arguments.patterns = [*arguments.patterns, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _parser() -> ArgumentParser:
    import argparse

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
            argument_default=argparse.SUPPRESS,  # _Arguments has them
        )
        sub.set_defaults(command=name)
        sub.add_argument("file", metavar="FILE", help="a checkpoint; - reads standard input")
        sub.add_argument("--color", choices=("auto", "always", "never"))
        return sub

    def depth(text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise argparse.ArgumentTypeError(f"not a number of levels: {text!r}")
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


# ------------------------------------------------------------------------ output


def _print_json(command: str, arguments: _Arguments, members: Mapping[str, object]) -> None:
    import json

    head = {"schema": SCHEMA, "command": command, "file": arguments.file}
    print(json.dumps({**head, **members}))


# ----------------------------------------------------------------------- opening


def _source(arguments: _Arguments) -> str | BinaryIO:
    """What `open` and `scan` take: the path, or standard input, which they map or read."""
    if arguments.file != "-":
        return str(arguments.file)
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer


def _path(arguments: _Arguments) -> str | None:
    return None if arguments.file == "-" else arguments.file


def _open(arguments: _Arguments) -> Checkpoint:
    from ._api import open_to_tell

    return open_to_tell(_source(arguments))


def _note_sidecar(trouble: SidecarError | str | None) -> None:
    if isinstance(trouble, SidecarError):
        _note(f"note: trainable flags not applied: {trouble}")
    elif trouble:
        _note(f"note: {trouble}")


def _total_line(total: Total, signs: Signs) -> str:
    return signs.dot.join(
        (counted(total.tensors, "tensor"), _parameters(total.parameters), human_bytes(total.bytes))
    )


def _share(total: Total, signs: Signs) -> str:
    """How much of the parameters is trainable, in words that fit a column."""
    if total.unknown == total.parameters:
        return signs.unknown
    text = percent(total.trainable, total.parameters)
    if total.unknown:
        text += f" ({percent(total.unknown, total.parameters)} {signs.unknown})"
    return text


def _parameters(count: int) -> str:
    return human_count(count) + f" parameter{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------------- ls


def _ls(arguments: _Arguments) -> int:
    with _open(arguments) as checkpoint:
        flags, _, trouble = flags_of(checkpoint)
        chosen = _chosen(checkpoint, arguments.patterns)
        if arguments.sort == "name":
            chosen.sort(key=lambda item: item[0])
        elif arguments.sort == "size":
            chosen.sort(key=lambda item: (-item[1].nbytes, item[0]))
        _note_sidecar(trouble)
        if not checkpoint and holds_arrays(checkpoint.archive):
            _note("no tensors; load() gives its NumPy arrays, which are not listed")
        if arguments.json:
            _ls_json(arguments, chosen, flags)
        elif arguments.csv:
            _ls_csv(chosen, flags)
        else:
            _ls_text(Screen(arguments.color), chosen, flags, long=arguments.long)
    if arguments.patterns and not chosen:
        _note("no tensor matches")
        return NEGATIVE
    return FINE


def _chosen(
    names: Mapping[str, TensorInfo], patterns: Sequence[str]
) -> list[tuple[str, TensorInfo]]:
    """The tensors that any of the patterns picks; all when there is none."""
    if not patterns:
        return list(names.items())
    import re
    from fnmatch import translate
    from functools import partial

    tests: list[Callable[[str], object]] = []
    for pattern in patterns:
        if any(sign in pattern for sign in "*?["):
            tests.append(re.compile(translate(pattern)).match)
        tests.append(partial(_is_or_is_in, pattern))
    return [item for item in names.items() if any(test(item[0]) for test in tests)]


def _is_or_is_in(module: str, name: str) -> bool:
    return name == module or name.startswith(module + ".")


def _ls_text(
    screen: Screen, chosen: Sequence[tuple[str, TensorInfo]], flags: Flags, *, long: bool
) -> None:
    rows: list[list[str]] = []
    total = Total()
    for name, info in chosen:
        total.add(name, info, flags[name])
        row = [
            printable(name) or "(empty name)",
            shape_text(info.shape),
            screen.signs.of(flags[name]),
        ]
        if long:
            row[1:1] = [short_dtype(info.dtype)]
            row[3:3] = [human_bytes(info.nbytes), printable(info.storage), str(info.storage_offset)]
        rows.append(row)
    colors = {True: GREEN, False: "", None: DIM}
    screen.rows(
        rows, "<<<>>><" if long else "<<<", colors=[colors[flags[name]] for name, _ in chosen]
    )
    print(f"{_total_line(total, screen.signs)}        {screen.paint(screen.signs.legend(), DIM)}")


def _ls_json(arguments: _Arguments, chosen: Sequence[tuple[str, TensorInfo]], flags: Flags) -> None:
    total = Total()
    tensors: list[dict[str, object]] = []
    for name, info in chosen:
        total.add(name, info, flags[name])
        tensors.append(
            {
                "name": name,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "parameters": info.numel,
                "bytes": info.nbytes,
                "storage": info.storage,
                "offset": info.storage_offset,
                "stride": list(info.stride),
                "device": info.device,
                "kind": info.kind,
                "trainable": flags[name],
            }
        )
    _print_json("ls", arguments, {"tensors": tensors, "total": total.members()})


def _ls_csv(chosen: Sequence[tuple[str, TensorInfo]], flags: Flags) -> None:
    import csv

    Screen("never")
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(
        ("name", "dtype", "shape", "parameters", "bytes", "storage", "offset", "trainable")
    )
    for name, info in chosen:
        flag = flags[name]
        rows.writerow(
            (
                printable(name),
                info.dtype,
                "x".join(map(str, info.shape)),
                info.numel,
                info.nbytes,
                printable(info.storage),
                info.storage_offset,
                "" if flag is None else "true" if flag else "false",
            )
        )


# -------------------------------------------------------------------------- tree


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


def _tree(arguments: _Arguments) -> int:
    with _open(arguments) as checkpoint:
        flags, _, trouble = flags_of(checkpoint)
        root = modules_of(checkpoint, flags, arguments.depth)
        _note_sidecar(trouble)
        screen = Screen(arguments.color)
        nodes = [("", root), *_walk(root, screen.signs)]
        if arguments.json:
            modules = [{"name": node.path(), **node.total.members()} for _, node in nodes]
            _print_json("tree", arguments, {"modules": modules})
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
                    _parameters(total.parameters),
                    human_bytes(total.bytes),
                    _share(total, screen.signs),
                ]
            )
        screen.rows(rows, "<>>><")
    return FINE


# -------------------------------------------------------------------------- stat


def _stat(arguments: _Arguments) -> int:
    try:
        with _open(arguments) as checkpoint:
            facts = facts_of(checkpoint)
    except StateDictError as exc:
        return _stat_unread(arguments, exc)
    _note_sidecar(facts.pop("trouble"))
    if arguments.json:
        _print_json("stat", arguments, facts)
    else:
        screen = Screen(arguments.color)
        screen.columns = None
        screen.rows(_stat_rows(arguments.file, facts, screen.signs), "<<")
    return FINE


def _stat_unread(arguments: _Arguments, error: StateDictError) -> int:
    """What can be told of a file that is no checkpoint, or none that is read here."""
    path = _path(arguments)
    if path is None:
        raise error
    from ._identify import identification

    found = identification(path)
    size = os.stat(path).st_size
    if arguments.json:
        facts = {"size": size, "format": found.kind, "error": error.code}
        _print_json("stat", arguments, facts)
    else:
        rows = [("file", printable(path)), ("size", _bytes(size)), ("format", found.kind)]
        rows.append(("", printable(found.sentence)))
        screen = Screen(arguments.color)
        screen.columns = None
        screen.rows(rows, "<<")
    return _complain(str(error))


def _stat_rows(name: str, facts: Mapping[str, Any], signs: Signs) -> list[tuple[str, str]]:
    total: dict[str, int] = facts["total"]
    rows = [("file", printable(name))]
    if facts["size"] is not None:
        rows.append(("size", _bytes(facts["size"])))
    rows += [
        ("format", ", ".join(dict.fromkeys((facts["format"], facts["kind"])))),
        ("byte order", facts["byteorder"] + ("" if facts["byteorder_stated"] else ", not stated")),
    ]
    if facts["pickle"] is not None:
        text = f"protocol {facts['pickle']['protocol']}, {_bytes(facts['pickle']['bytes'])}"
        rows.append(("pickle", text))
    rows.append(
        (
            "records",
            f"{facts['records']:,}"
            + (f", {facts['compressed']:,} compressed" if facts["compressed"] else ""),
        )
    )
    if facts["alignment"] is not None:
        rows.append(("alignment", counted(facts["alignment"], "byte")))
    rows.append(("checksums", facts["checksums"]))
    if facts["serialization_id"] is not None:
        rows.append(("serialization id", printable(facts["serialization_id"])))
    rows += [
        ("tensors", f"{total['tensors']:,}"),
        ("parameters", f"{total['parameters']:,}"),
        ("tensor bytes", _bytes(total["bytes"])),
    ]
    for position, (dtype, part) in enumerate(facts["dtypes"].items()):
        text = f"{dtype}: {counted(part['tensors'], 'tensor')}, {human_bytes(part['bytes'])}"
        rows.append(("" if position else "dtypes", text))
    rows.append(
        (
            "storages",
            f"{facts['storages']:,}" + (f", {facts['shared']:,} shared" if facts["shared"] else ""),
        )
    )
    words = [f"{total[kind]:,} {kind}" for kind in ("trainable", "frozen", "unknown")]
    rows += [("flags", signs.dot.join(words)), ("sidecar", facts["sidecar"])]
    return rows


def _bytes(size: int) -> str:
    return counted(size, "byte") if size < 1024 else f"{human_bytes(size)} ({size:,} bytes)"


# -------------------------------------------------------------------------- scan


def _scan(arguments: _Arguments) -> int:
    from ._scan import scan

    report = scan(_source(arguments))
    if arguments.json:
        _print_json(
            "scan",
            arguments,
            {
                "verdict": report.verdict,
                "globals": [
                    {
                        "module": use.module,
                        "name": use.name,
                        "verdict": use.verdict,
                        "called": use.called,
                        "record": use.record,
                        "offset": use.offset,
                    }
                    for use in report.globals
                ],
                "errors": [str(error) for error in report.errors],
            },
        )
    else:
        _scan_text(Screen(arguments.color), report)
    return NEGATIVE if report.verdict == "dangerous" else FINE


def _scan_text(screen: Screen, report: ScanReport) -> None:
    colors = {"dangerous": RED, "unknown": YELLOW}
    rows = [
        (
            printable(f"{use.module}.{use.name}"),
            use.verdict,
            "called" if use.called else "named",
            f"at byte {use.offset:,}",
            printable(use.record or ""),
        )
        for use in report.globals
    ]
    screen.rows(
        rows,
        "<<<><",
        painted=1,
        colors=[colors.get(use.verdict, "") for use in report.globals],
    )
    for error in report.errors:
        _note(f"note: {printable(error)}")
    counts = [
        f"{sum(use.verdict == verdict for use in report.globals):,} {verdict}"
        for verdict in ("plain", "unknown", "dangerous")
    ]
    if report.errors:
        counts.append(counted(len(report.errors), "note"))
    verdict = screen.paint(report.verdict, colors.get(report.verdict, GREEN))
    print(f"{verdict}: {screen.signs.dot.join(counts)}; nothing was run")


_COMMANDS: dict[str, Callable[[_Arguments], int]] = {
    "ls": _ls,
    "tree": _tree,
    "stat": _stat,
    "scan": _scan,
}
