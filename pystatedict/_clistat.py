# SPDX-License-Identifier: Apache-2.0
"""`pystatedict stat`: what a file is and holds."""

from __future__ import annotations

import os

from ._cli import FINE, Arguments, complain, note_sidecar, open_file, path_of, print_json
from ._errors import StateDictError
from ._facts import facts_of
from ._printable import counted, printable
from ._text import Screen, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ._clioptions import Parser
    from ._text import Signs


Options = Arguments


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_json()


def run(arguments: Options) -> int:
    try:
        with open_file(arguments) as checkpoint:
            facts = facts_of(checkpoint)
    except StateDictError as exc:
        return _stat_unread(arguments, exc)
    note_sidecar(facts.pop("trouble"))
    if arguments.json:
        print_json(arguments, facts)
    else:
        screen = Screen(arguments.color)
        screen.columns = None
        screen.rows(_stat_rows(arguments.file, facts, screen.signs), "<<")
    return FINE


def _stat_unread(arguments: Arguments, error: StateDictError) -> int:
    """What can be told of a file that is no checkpoint, or none that is read here."""
    path = path_of(arguments)
    if path is None:
        raise error
    from ._identify import identification

    found = identification(path)
    size = os.stat(path).st_size
    if arguments.json:
        facts = {"size": size, "format": found.kind, "error": error.code}
        print_json(arguments, facts)
    else:
        rows = [("file", printable(path)), ("size", _bytes(size)), ("format", found.kind)]
        rows.append(("", printable(found.sentence)))
        screen = Screen(arguments.color)
        screen.columns = None
        screen.rows(rows, "<<")
    return complain(str(error))


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
