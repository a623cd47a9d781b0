# SPDX-License-Identifier: Apache-2.0
"""`pystatedict scan`: what the pickles of a file name, and what of it is dangerous."""

from __future__ import annotations

from . import _scan
from ._cli import FINE, NEGATIVE, Arguments, note, print_json, source_of
from ._printable import counted, printable
from ._text import GREEN, RED, YELLOW, Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._clioptions import Parser
    from ._scan import ScanReport


Options = Arguments


def add_options(parser: Parser) -> None:
    parser.add_file()
    parser.add_json()


def run(arguments: Options) -> int:
    report = _scan.scan(source_of(arguments))
    if arguments.json:
        print_json(
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
        note(f"note: {printable(error)}")
    counts = [
        f"{sum(use.verdict == verdict for use in report.globals):,} {verdict}"
        for verdict in ("plain", "unknown", "dangerous")
    ]
    if report.errors:
        counts.append(counted(len(report.errors), "note"))
    verdict = screen.paint(report.verdict, colors.get(report.verdict, GREEN))
    print(f"{verdict}: {screen.signs.dot.join(counts)}; nothing was run")
