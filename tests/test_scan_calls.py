# SPDX-License-Identifier: Apache-2.0
"""scan() judges some names by what they are called with, as the core tells it."""

from __future__ import annotations

import pickle
import struct

import pytest
from scan_kit import text, zipped

from pystatedict import _core
from pystatedict._arguments import MOST_ITEMS
from pystatedict._scan import ScanReport, scan

# ----------------------------------------------------------------- what names are called with


def called(module: str, name: str, arguments: bytes) -> bytes:
    return f"\x80\2c{module}\n{name}\n".encode("latin-1") + arguments + b"R."


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


HUGE = number(1 << 40)


@pytest.mark.parametrize(
    ("module", "name", "plain", "odd"),
    [
        ("_codecs", "encode", text("a") + text("latin1") + b"\x86",
         text("a") + text("zlib") + b"\x86"),
        ("_codecs", "encode", text("a") + b"\x85", b"C\1a" + text("hex") + b"\x86"),
        ("_codecs", "encode", text("a") + text("UTF_8") + b"\x86", b")"),
        ("builtins", "bytearray", b"C\1a\x85", HUGE + b"\x85"),
        ("__builtin__", "bytearray", b"K\5\x85", HUGE + b"\x85"),
        ("builtins", "bytes", b"]\x85", HUGE + b"\x85"),
        ("builtins", "range", b"K\0M\xff\xff\x86", b"K\0" + HUGE + b"\x86"),
        ("builtins", "range", b"K\0J\xff\xff\xff\0J\xff\xff\0\0\x87",
         b"K\0" + HUGE + HUGE + b"\x87"),
        ("builtins", "str", text("a") + b"\x85", b"](]]e\x85"),
        ("numpy", "ndarray", b"K\3K\4\x86\x85", HUGE + b"K\0\x86\x85"),
        ("numpy", "dtype", text("V100") + b"\x85", text("V10000000000") + b"\x85"),
        ("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\nK\0\x85C\1b\x87",
         b"cnumpy\nndarray\n" + HUGE + b"\x85C\1b\x87"),
        ("numpy.core.multiarray", "scalar", b"NC\x01a\x86", b"N\x85"),
        ("torch", "FloatStorage", b"K\3\x85", HUGE + b"\x85"),
        ("torch", "FloatTensor", b"K\3K\3\x86", b"](]]e\x85"),
        ("torch", "Tensor", b")", HUGE + b"\x85"),
        ("fractions", "Fraction", text("1/3") + b"\x85", text("1e999999999") + b"\x85"),
        ("torch.distributed.device_mesh", "DeviceMesh", b")", text("cpu") + b"]\x86"),
        ("copyreg", "__newobj__", b"cbuiltins\nbytearray\n\x85",
         b"cbuiltins\nbytearray\n" + HUGE + b"\x86"),
        ("copyreg", "_reconstructor", b"cA\nB\ncbuiltins\nobject\nN\x87",
         b"cA\nB\ncbuiltins\nbytearray\n" + HUGE + b"\x87"),
        ("torch._tensor", "_rebuild_from_type_v2", b"(cbuiltins\nbytearray\nN)}t",
         b"(cbuiltins\nbytearray\nN" + HUGE + b"\x85}t"),
    ],
)  # fmt: skip
def test_a_plain_name_is_judged_by_its_arguments(module, name, plain, odd):
    def of(arguments: bytes) -> ScanReport:
        return scan(called(module, name, arguments))

    sound, strange = of(plain), of(odd)
    assert sound.errors == ()
    assert {use.verdict for use in sound if str(use) != "A.B"} == {"plain"}
    assert strange.verdict == "unknown"
    assert len(strange.errors) == 1
    assert "unknown" in {use.verdict for use in strange if str(use) != "A.B"}


def test_items_are_counted_over_all_calls_of_a_file():
    one = b"cbuiltins\nbytearray\n" + number(MOST_ITEMS // 4) + b"\x85R"
    assert scan(b"\x80\2(" + one * 4 + b"t.").verdict == "clean"
    assert scan(b"\x80\2(" + one * 5 + b"t.").verdict == "unknown"
    files = {f"{i}.pkl": b"\x80\2" + one + b"." for i in range(5)}
    assert scan(zipped(files)).verdict == "unknown"
    wide = b"cnumpy\ndtype\n" + text("V1000000") + b"\x85R"
    shape = b"cnumpy\nndarray\nM\xe8\x03\x85h\0\x86R"
    assert scan(b"\x80\2" + wide + b"q\0" + shape + b"\x86.").verdict == "unknown"


def test_an_array_that_claims_more_objects_than_it_has():
    start = b"\x80\2cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
    assert scan(start + b"(K\1K\2\x85N\x89](NNetb.").verdict == "clean"
    assert scan(start + b"(K\1K\0\x85N\x89]tb.").verdict == "clean"
    assert scan(start + b"(K\1" + HUGE + b"\x85N\x89]tb.").verdict == "unknown"


@pytest.mark.parametrize("attribute", ["state_dict", "forward", "eval", "NAME", "__call__"])
def test_getattr_of_a_method_is_unknown(attribute):
    data = b"\x80\2c__builtin__\ngetattr\ncmy\nNet\n)\x81" + text(attribute) + b"\x86R."
    report = scan(data)
    assert {use.verdict for use in report} == {"unknown"}
    assert report.errors == ()


@pytest.mark.parametrize(
    "arguments",
    [
        b"cmy\nNet\n" + text("__globals__") + b"\x86",
        b"cmy\nNet\n" + text("__init__") + b"\x86",
        b"cmy\nNet\n" + text("a.system") + b"\x86",
        b"cbuiltins\nobject\n" + text("__subclasses__") + b"\x86",
        b"cmy\nmodule\n" + text("eval") + b"\x86",
        b"cmy\nmodule\n" + text("_os") + b"\x86",
        b"cmy\nNet\ncmy\nname\n)R\x86",
        b"cmy\nNet\n" + text("x" * 100) + b"\x86",
        b")",
        b"cmy\nNet\ncbuiltins\ngetattr\n\x86",
    ],
)
def test_getattr_of_what_leads_on_is_dangerous(arguments):
    assert scan(called("builtins", "getattr", arguments)).verdict == "dangerous"


def test_getattr_that_is_handed_on_is_dangerous():
    assert scan(b"\x80\2cfunctools\nreduce\ncbuiltins\ngetattr\n]\x86R.").verdict == "dangerous"


# --------------------------------------------------------------------- pickles as opcodes


def test_scan_pickle_reads_on_where_a_machine_would_stop():
    def names(program: bytes) -> list[tuple[str, str, int]]:
        return [row[:3] for row in _core.scan_pickle(program)[0]]

    assert names(b"\x80\x02)scA\nB\n.") == [("A", "B", 4)]
    assert names(b"\x80\x04\x8c\x01A\x94\x8c\x01B\x93.") == [("A", "B", 9)]
    assert names(b"(iA b\nB\n.") == [("A b", "B", 1)]
    assert names(b"\xff") == []
    assert names(b"cA\nB") == []
    assert names(b"K\1\x8c\1B\x93.") == [("?", "B", 5)]


def test_scan_pickle_gives_the_bytes_that_may_be_pickles():
    def within(program: bytes) -> list[bytes]:
        nested = _core.scan_pickle(program)[1]
        return [i if isinstance(i, bytes) else program[i[0] : i[0] + i[1]] for i in nested]

    inner = b"\x80\x04cA\nB\n." + bytes(range(256))
    for protocol in range(6):
        assert within(pickle.dumps([inner], protocol)) == [inner]
        assert within(pickle.dumps([inner, inner[:100]], protocol)) == [inner, inner[:100]]
    assert within(pickle.dumps("\x80\2cA\nB\n." + "x" * 70_000, 2)) == [
        b"\x80\2cA\nB\n." + b"x" * 70_000
    ]
    assert within(b"S'\\x80\\x02cA\\nB\\n.'\n.") == [b"\x80\2cA\nB\n."]
    assert within(pickle.dumps(["\x80\2nothing", b"\x80\2N.", b"ordinary", b""], 4)) == []
    assert within(b"\xc2\x80\x02") == []
    assert within(b"X\xff\xff\xff\xff\xc2\x80\x02") == []


def test_scan_pickle_tells_the_calls_that_are_watched():
    program = (
        b"\x80\4cA\nB\n(K\1X\1\0\0\0aC\3I1\n(K\2Nltq\0RcA\nB\nh\0R"
        b"cA\nB\n)}X\1\0\0\0kK\3s\x92K\1K\2\x86bcA\nC\n)RcA\nB\nNR."
    )
    name = ("A", "B")
    items = ("items", 2, (("int", 2), ("plain", None)))
    keywords = ("items", 2, (("text", "k"), ("int", 3)))
    assert _core.scan_pickle(program, None, {name})[4] == [
        ((name, (("int", 1), ("text", "a"), ("bytes", 0), items)), 2),
        ((name, (keywords, ("state", (("int", 1), ("int", 2))))), 1),
        ((name, None), 1),
    ]
    assert _core.scan_pickle(program)[4] == []
    rows = _core.scan_pickle(b"cA\nB\n(cC\nD\nVx\nNtR.", None, {("A", "B")})[4]
    assert rows == [((("A", "B"), (("global", ("C", "D")), ("text", "x"), ("plain", None))), 1)]
