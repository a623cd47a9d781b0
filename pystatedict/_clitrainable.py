# SPDX-License-Identifier: Apache-2.0
"""`pystatedict trainable`: which tensors are trainable, who says it, and to say it anew."""

from __future__ import annotations

import os

from ._cli import FINE, NEGATIVE, Arguments, note, note_sidecar, open_file, print_json
from ._clils import chosen_of
from ._errors import MissingTensorError
from ._printable import printable
from ._sidecar import close_names, write_document
from ._text import DIM, GREEN, Screen, shape_text
from ._trainableedit import FlagEditor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._checkpoint import Checkpoint
    from ._clioptions import Parser

    Flag = bool | None
    Changes = list[tuple[str, Flag]]

NOTES = """\
A PATTERN is a name, a module, or a glob with * ? []. Changes are made in their order and
written to FILE.trainable.json; `none` takes back what stands there. --from-json takes
{"name": true, ...} or such a file; - reads standard input."""

_WORDS = {"true": True, "false": False, "none": None}


class Options(Arguments):
    patterns: Sequence[str] = ()
    changes: Sequence[tuple[str, Flag]] = ()
    from_json: str | None = None
    clear = False
    dry_run = False
    quiet = False


def add_options(parser: Parser) -> None:
    from argparse import Action, ArgumentTypeError

    class Change(Action):
        """Appends (pattern, flag), so that all changes stay in their order."""

        def __call__(self, _: object, options: object, value: object, *__: object) -> None:
            change = value if isinstance(value, tuple) else (value, self.const)
            changes: Changes = [*getattr(options, "changes", ())]
            setattr(options, "changes", [*changes, change])  # noqa: B010

    def setting(text: str) -> tuple[str, Flag]:
        pattern, _, word = text.rpartition("=")
        if not pattern or word not in _WORDS:
            raise ArgumentTypeError(f"not PATTERN=true, =false or =none: {text!r}")
        return pattern, _WORDS[word]

    parser.add_file()
    parser.add_argument("patterns", metavar="PATTERN", nargs="*", help="list only these")
    change = parser.add_argument_group("changes")

    change.add_argument(
        "--set",
        metavar="PATTERN=FLAG",
        action=Change,
        dest="changes",
        type=setting,
        help="true, false or none; may be given again",
    )
    for name, word in (("--freeze", "false"), ("--unfreeze", "true")):
        change.add_argument(
            name,
            metavar="PATTERN",
            action=Change,
            dest="changes",
            const=_WORDS[word],
            help=f"the same as --set PATTERN={word}",
        )
    change.add_argument("--from-json", metavar="F", help="take flags from a JSON file")
    change.add_argument("--clear", action="store_true", help="first forget what was written")
    parser.add_dry_run()
    parser.add_quiet()
    parser.add_json()


def run(arguments: Options) -> int:
    with open_file(arguments) as checkpoint:
        editor = FlagEditor(checkpoint)
        chosen = [name for name, _ in chosen_of(checkpoint, arguments.patterns)]
        if not (arguments.changes or arguments.clear or arguments.from_json is not None):
            if not arguments.quiet:
                note_sidecar(editor.trouble)
                _tell(arguments, checkpoint, editor, chosen)
            if arguments.patterns and not chosen:
                note("no tensor matches")
                return NEGATIVE
            return FINE
        before = {name: (editor.flag(name), editor.source(name)) for name in checkpoint}
        editor.begin(arguments.clear)
        if arguments.from_json is not None:
            editor.take(*_read(arguments))
        for pattern, flag in arguments.changes:
            editor.set(_matching(checkpoint, pattern), flag)
        done = _write(arguments, checkpoint, editor)
        if not arguments.quiet:
            changed = [n for n in chosen if (editor.flag(n), editor.source(n)) != before[n]]
            _tell(arguments, checkpoint, editor, changed, done)
    return FINE


def _matching(checkpoint: Checkpoint, pattern: str) -> list[str]:
    names = [name for name, _ in chosen_of(checkpoint, [pattern])]
    if not names:
        raise MissingTensorError(
            f"no tensor matches {pattern!r}, so nothing was written",
            path=checkpoint.path,
            key=pattern,
            suggestions=close_names(pattern, checkpoint),
        )
    return names


def _read(arguments: Options) -> tuple[bytes, str]:
    path = arguments.from_json or ""
    if path != "-":
        with open(path, "rb") as file:
            return file.read(), path
    from ._cli import source_of

    options = Arguments()
    options.file = "-"
    source = source_of(options)
    assert not isinstance(source, str)
    return source.read(), "standard input"


def _write(arguments: Options, checkpoint: Checkpoint, editor: FlagEditor) -> str:
    """Write or remove the sidecar; in a word what was done, or would be."""
    assert editor.path is not None and checkpoint.path is not None
    if editor.said:
        document = editor.document()
        if arguments.dry_run:
            return "would write"
        write_document(checkpoint.path, document)
        return "wrote"
    if not os.path.lexists(editor.path):
        return "there is no"
    if arguments.dry_run:
        return "would remove"
    os.unlink(editor.path)
    return "removed"


def _tell(
    arguments: Options,
    checkpoint: Checkpoint,
    editor: FlagEditor,
    names: list[str],
    done: str = "",
) -> None:
    if arguments.json:
        members: dict[str, object] = {
            "sidecar": editor.path,
            "state": editor.state,
            "tensors": [
                {
                    "name": name,
                    "shape": list(checkpoint[name].shape),
                    "trainable": editor.flag(name),
                    "from": editor.source(name),
                }
                for name in names
            ],
        }
        if done:
            # What it was is no more; what it is, is told by what was done.
            del members["state"]
            members["written"] = done == "wrote"
            members["removed"] = done == "removed"
        print_json(arguments, members)
        return
    screen = Screen(arguments.color)
    colors = {True: GREEN, False: "", None: DIM}
    rows = [
        (
            printable(name) or "(empty name)",
            shape_text(checkpoint[name].shape),
            screen.signs.of(editor.flag(name)),
            editor.source(name) or "nobody",
        )
        for name in names
    ]
    screen.rows(rows, "<<<<", painted=2, colors=[colors[editor.flag(name)] for name in names])
    if done:
        print(f"{done} {printable(editor.path or '')}: {_counts(screen, editor, list(checkpoint))}")
    else:
        legend = screen.paint(screen.signs.legend(), DIM)
        print(f"{_counts(screen, editor, names)}        {legend}")


def _counts(screen: Screen, editor: FlagEditor, names: list[str]) -> str:
    words = {True: "trainable", False: "frozen", None: "unknown"}
    flags = [editor.flag(name) for name in names]
    return screen.signs.dot.join(f"{flags.count(flag):,} {words[flag]}" for flag in words)
