# SPDX-License-Identifier: Apache-2.0
"""How much scan() looks at, whatever the file; what damage does to it; no false alarms."""

from __future__ import annotations

import gzip
import pathlib
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scan_kit import (
    CLEAN,
    HIDDEN,
    ID,
    LEGACY,
    SYSTEM,
    TAR,
    benign,
    directory_end,
    directory_entry,
    local_record,
    payload,
    stored,
    tarred,
    text,
    zipped,
)

from pystatedict import _archivelook, _core
from pystatedict._errors import StateDictError
from pystatedict._scan import scan
from pystatedict._scanner import Scanner
from pystatedict._scanparts import Work

# ------------------------------------------------------------------- how much is looked at


class Counter:
    """Counts, at the doors of what does the work, the bytes that it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        run, unpack, opened = _core.scan_pickle, _archivelook.unpack, _core.open_archive

        def scan_pickle(program: Any, *rest: Any) -> Any:
            told = run(program, *rest)
            self.bytes += told[5]
            return told

        def unpacked(kind: str, data: Any, most: int) -> Any:
            told = unpack(kind, data, most)
            self.bytes += len(told[0])
            return told

        def open_archive(source: Any, *rest: Any, **named: Any) -> Any:
            archive = opened(source, *rest, **named)
            self.bytes += archive.pickle_size if named.get("run", True) else 0
            return archive

        monkeypatch.setattr(_core, "scan_pickle", scan_pickle)
        monkeypatch.setattr(_core, "open_archive", open_archive)
        monkeypatch.setattr(_archivelook, "unpack", unpacked)


def work_of(data: bytes) -> tuple[int, list[str]]:
    """(bytes that were looked at by the scanner's own count, its notes)."""
    scanner = Scanner()
    scanner.look(memoryview(data), None, False)
    return scanner.work.done, scanner.finish()[1]


def same_record(count: int) -> bytes:
    """Entries without end, all for one record."""
    content = pickle.dumps(list(range(1000)), 2)
    data = local_record(b"000000.pkl", content)
    entries = b"".join(directory_entry(b"%06d.pkl" % i, 0, len(content)) for i in range(count))
    return data + entries + directory_end(count, len(entries), len(data))


def records_in_records(count: int) -> bytes:
    """Each record's bytes reach to the end, over all that follow."""
    content = pickle.dumps(list(range(1000)), 2)
    total = count * len(local_record(b"000000.pkl", b"")) + len(content)
    data, entries = b"", b""
    for i in range(count):
        name = b"%06d.pkl" % i
        size = total - len(data) - 40
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, size, size, len(name), 0)
        entries += directory_entry(name, len(data), size)
        data += head + name
    data += content
    return data + entries + directory_end(count, len(entries), len(data))


# Files that made an earlier scan, or may make a careless one, read the same bytes again.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "texts in texts": lambda n: pickle.dumps(["\x80\2X\xff\xff\0\0" * n], 2),
    "a text, often encoded": lambda n: (
        b"\x80\2c_codecs\nencode\nq\0"
        + text("\x80" + "x" * n)
        + text("latin1")
        + b"\x86q\1"
        + b"0h\0h\1R" * n
        + b"."
    ),
    "one signature after another": lambda n: b"\x80\2" * n,
    "the same in a tar": lambda n: tarred({"storages": ID + b"\xff" + b"\x80\2]" * n}),
    "many pickles within": lambda n: pickle.dumps(
        [pickle.dumps([i, [b"xyz"]], 3) for i in range(n)]
    ),
    "many pickles in a row": lambda n: b"\x80\2N." * n,
    "many names": lambda n: b"\x80\2" + b"".join(b"ca%d\nb\n0" % i for i in range(n)) + b"N.",
    "many calls": lambda n: (
        b"\x80\2c__builtin__\nbytearray\nq\0"
        + b"".join(b"0h\0J" + i.to_bytes(4, "little") + b"\x85R" for i in range(n))
        + b"."
    ),
    "many entries for one record": same_record,
    "records in records": records_in_records,
    "many records": lambda n: zipped({f"{i}": b"\x80\2N." for i in range(n)}),
    "many archives": lambda n: zipped({"a/data.pkl": CLEAN}) * n,
    "archives in an archive": lambda n: zipped({"a": zipped({"b": zipped({"c": SYSTEM * n})})}),
    "members of a tar": lambda n: tarred({f"{i}": b"\x80\2N." for i in range(n)}),
    "storages of a tar": lambda n: tarred({"storages": ID + stored(1) * n}),
    "payloads": lambda n: b"\x80\2](" + payload(LEGACY)[2:-1] * n + b"e.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_work_grows_with_the_file(kind, monkeypatch):
    make = HOSTILE[kind]
    small, large = make(300), make(3000)
    counter = Counter(monkeypatch)
    few, _ = work_of(small)
    counted = counter.bytes
    many, _ = work_of(large)
    growth = max(10, len(large) / len(small))
    assert many <= 1.3 * growth * few
    assert counter.bytes - counted <= 1.3 * growth * max(counted, 4096)
    # What goes through the doors has been counted by the scanner.
    assert counter.bytes <= few + many


def bomb(content: bytes) -> bytes:
    records = {"m/bomb.pkl": content, "m/data.pkl": SYSTEM}
    return zipped(records, compression=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    "data",
    [
        bomb(b"]" * (64 << 20)),
        bomb(b"cm\nn\n" + b")R" * (32 << 20)),
        bomb(b"\x80\2](" + b"C\5U\3aaa" * (8 << 20) + b"e."),
        zipped({"m.gz": gzip.compress(bytes(64 << 20)), "m/data.pkl": SYSTEM}),
    ],
)
def test_a_bomb_is_told_and_hides_nothing(data):
    work, notes = work_of(data)
    assert work <= Work.BASE + Work.FACTOR * len(data)
    assert any("not all was looked at" in note for note in notes)
    assert scan(data).verdict == "dangerous"
    assert scan(data.replace(b"m/data.pkl", b"m/data.txt")).verdict == "dangerous"


def test_what_is_left_out_is_never_clean(monkeypatch):
    """Whatever the work that is allowed, the verdict is clean only where all was seen."""
    data = [
        zipped({"m/data.pkl": CLEAN, "m/x.pkl": CLEAN, "m/y": zipped({"n/data.pkl": CLEAN})}),
        pickle.dumps([pickle.dumps([CLEAN], 4) for _ in range(20)], 4),
        LEGACY,
        payload(LEGACY),
        TAR,
        gzip.compress(CLEAN),
        zipped({"a/data.pkl": CLEAN}) * 5,
    ]
    monkeypatch.setattr(Work, "FACTOR", 0)
    for file in data:
        enough = None
        for base in range(0, 60_000, 97):
            monkeypatch.setattr(Work, "BASE", base)
            try:
                report = scan(file)
            except StateDictError:
                assert enough is None
                continue
            assert report.verdict in ("clean", "unknown")
            if report.verdict == "clean":
                enough = enough or base
            elif enough is not None:
                pytest.fail(f"clean with {enough} bytes of work, and not with {base}")
            else:
                assert report.errors
        assert enough is not None
        monkeypatch.setattr(Work, "BASE", enough - 97)
        if enough >= 97:
            assert scan(file).verdict == "unknown"


def test_nesting_deeper_than_the_bound_is_told_where_it_is():
    data = SYSTEM
    for depth in range(12):
        data = pickle.dumps(data, 4)
        report = scan(data)
        assert report.verdict == ("dangerous" if depth < 8 else "unknown")


def test_many_notes_end():
    report = scan(zipped({f"../{i}": b"" for i in range(300)}))
    assert len(report.errors) == 101
    assert "left out" in report.errors[-1]


# ----------------------------------------------------------------------------- hostile input


def damaged(data: bytes, generator: random.Random) -> bytes:
    file = bytearray(data)
    for _ in range(generator.randrange(1, 5)):
        at = generator.randrange(len(file))
        what = generator.randrange(5)
        if what == 0:
            file[at] = generator.randrange(256)
        elif what == 1:
            file[at] ^= 1 << generator.randrange(8)
        elif what == 2:
            del file[at : at + generator.randrange(1, 20)]
        elif what == 3:
            file[at:at] = generator.choice(
                [b"\x80\4", b"\xff" * 8, b"PK\3\4", b"(", b"c\n\n", SYSTEM]
            )
        else:
            other = generator.randrange(len(file))
            file[at : at + 8] = file[other : other + 8]
        file = file or bytearray(b"\0")
    return bytes(file[: generator.randrange(len(file) + 1)] if generator.random() < 0.2 else file)


def test_damage_never_makes_it_fail(monkeypatch):
    generator = random.Random(11)
    counter = Counter(monkeypatch)
    for data in [*HIDDEN.values(), *benign()]:
        for _ in range(25):
            file = damaged(data, generator)
            counter.bytes = 0
            work, _ = work_of(file)
            # None of these is a bomb, so none comes near to the bound.
            assert max(work, counter.bytes) <= (1 << 16) + 40 * len(file)
            try:
                report = scan(file)
            except StateDictError:
                continue
            assert report.verdict in ("clean", "unknown", "dangerous")
            assert str(report).startswith(report.verdict)


def test_damage_behind_a_name_does_not_hide_it():
    generator = random.Random(12)
    for start in (SYSTEM, b"\x80\4\x8c\5posix\x94\x8c\6system\x94\x93)R."):
        for _ in range(300):
            rest = generator.randbytes(generator.randrange(40))
            assert scan(start[:-1] + rest).verdict == "dangerous"


# --------------------------------------------------------------------- no false alarms


TEXTS = [
    "",
    "cat\ndog\n.",
    "c1\nc2\n(tR.",
    "import os\nimport sys\n",
    "cos(x)\nsin(x)\n.",
    "(c) A. Name, 2021\nAll rights reserved.\n",
    "PROJECT\n.",
    "I am.\nN.\n",
    "Version 1.0\n\nS'quoted'\n.",
    "]]]]....",
    "K1. L2L. N.",
    "x^2 + y^2",
    "BZh is how some files begin",
    '{"json": [1, 2, 3]}',
    "a,b,c\n1,2,3\n" * 20,
]


def ordinary(signed: bool = True) -> Iterator[bytes | str]:
    yield from TEXTS
    yield from (value.encode() for value in TEXTS)
    folder = pathlib.Path(__file__).parent
    for path in sorted(folder.glob("*.py"))[:20]:
        yield path.read_text(encoding="utf-8")
        yield path.read_bytes()
    generator = random.Random(13)
    for _ in range(1500):
        data = generator.randbytes(generator.choice([2, 5, 20, 600]))
        yield data
        first = generator.choice([b"\x80\2", b"\x80\4\x95", b"(", b"c", b"x\x9c", b"]", b"BZ"])
        if signed or len(first) == 1:
            yield first + data
        yield struct.pack("<80f", *(generator.gauss(0, 1) for _ in range(80)))
        yield struct.pack("<80q", *(generator.randrange(-9, 300) for _ in range(80)))


BYTES_ALONE = {"_codecs.encode", "builtins.bytes", "__builtin__.bytes"}


@pytest.mark.parametrize("protocol", range(5))
def test_ordinary_bytes_and_texts_are_not_taken_for_pickles(protocol):
    for value in ordinary():
        report = scan(pickle.dumps([value], protocol))
        assert report.verdict == "clean", (value, report)
        assert {str(use) for use in report} <= BYTES_ALONE, (value, report)


def test_ordinary_files_in_archives_are_not_taken_for_pickles():
    files = {f"m/{i}.bin": v for i, v in enumerate(ordinary(False)) if isinstance(v, bytes)}
    report = scan(zipped({**files, "m/data.pkl": CLEAN}))
    assert report.verdict == "clean", report
    assert [str(use) for use in report] == ["collections.OrderedDict"]
