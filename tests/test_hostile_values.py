# SPDX-License-Identifier: Apache-2.0
"""Generated programs: whatever a pickle calls with whatever, a value comes or a StateDictError.

Every name that has a function here is called with arguments that fit, that nearly fit, and
that do not fit at all: arrays, tensors, Opaques, huge integers, lists that hold themselves.
"""

from __future__ import annotations

import random
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import kit
import pytest

import pystatedict as psd
from pystatedict import _values

Maker = Callable[[], bytes]

NAMES = [
    *_values._CALLS,
    *(("torch", f"{k}{s}") for k in ("", "Float", "QInt8", "Own") for s in ("Tensor", "Storage")),
    ("copyreg", "__newobj__"), ("copyreg", "__newobj_ex__"), ("copyreg", "_reconstructor"),
    ("my", "Thing"), ("builtins", "object"), ("builtins", "dict"),
    ("numpy", "record"), ("numpy", "void"), ("numpy", "matrix"), ("numpy", "recarray"),
    ("numpy.char", "chararray"), ("numpy.ma", "MaskedArray"), ("torch", "float32"),
    ("torch", "complex32"), ("torch", "bfloat16"), ("ml_dtypes", "int4"), ("ml_dtypes", "none"),
    ("zoneinfo", "ZoneInfo"), ("__builtin__", "unicode"), ("torch._utils", "_rebuild_parameter"),
]  # fmt: skip
TEXTS = [
    "", "a", "b", "f4", "<f8", "O", "U3", "V8", "S0", "M8", "f12", "T", "latin1", "utf-8", "rot13",
    "1/3", "--5", "\u00b2", "1E+99999999999999999999", "NaN", "sNaN", "1" * 4400 + "/3", "cpu",
    "C", "F", "K", "<", ">", "=", "|", "x\ud800", "漢", "Europe/Berlin", "../x", "int", "is_safe",
    "_unpickle", "Inner", "a.b", "a\0b", "names", "?",
]  # fmt: skip
INTEGERS = [0, 1, -1, 2, 3, 8, 255, 1 << 31, -(1 << 31), 1 << 62, 1 << 63, 1 << 200, -(1 << 2000)]
CLASSES = [
    ("numpy", "ndarray"), ("numpy", "ndarray"), ("numpy", "ndarray"), ("numpy", "matrix"),
    ("numpy", "recarray"), ("numpy.char", "chararray"), ("numpy", "memmap"), ("my", "Array"),
]  # fmt: skip
SPECS = ["f4", "i8", "O", "U2", "V8", "S3", "b1", "M8", "c8", ">f4", "V12"]
DEPTH, VALUES = 4, 60


class Program:
    """One pickle by chance; values that it made can stand in it again."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.numbers = 0
        self.done: list[int] = []  # places in the memo of complete values
        self.open: list[int] = []  # and of those that are being filled
        self.left = VALUES
        self.called: set[tuple[str, str]] = set()

    def bytes(self) -> bytes:
        protocol = self.pick([2, 4])
        return b"\x80" + bytes([protocol]) + kit.tuple_of(*self.many(DEPTH, 3)) + b"."

    def pick(self, some: list[Any]) -> Any:
        return self.chance.choice(some)

    def one_of(self, *makers: Maker) -> bytes:
        return self.chance.choice(makers)()

    def often(self, share: float) -> bool:
        return self.chance.random() < share

    def many(self, depth: int, count: int | None = None) -> list[bytes]:
        count = self.chance.randrange(4) if count is None else count
        return [self.value(depth) for _ in range(count)]

    def put(self) -> tuple[bytes, int]:
        self.numbers += 1
        return b"r" + struct.pack("<I", self.numbers), self.numbers

    def filled(self, start: bytes, fill: Callable[[], bytes]) -> bytes:
        """A value that what it is filled with may lead back to."""
        memo, place = self.put()
        self.open.append(place)
        made = start + memo + fill()
        self.open.pop()
        self.done.append(place)
        return made

    # -------------------------------------------------------------- leaves

    def integer(self, value: int | None = None) -> bytes:
        value = self.pick(INTEGERS) if value is None else value
        if -(1 << 31) <= value < 1 << 31:
            return kit.integer(value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8b" + struct.pack("<i", len(data)) + data

    def text(self) -> bytes:
        return kit.text(self.pick(TEXTS))

    def raw(self, size: int | None = None) -> bytes:
        size = self.pick([0, 1, 2, 3, 4, 6, 8, 10, 16, 24, 32]) if size is None else size
        data = self.chance.randbytes(size) if self.often(0.5) else bytes(size)
        heads = [b"C" + bytes([size]), b"\x96" + struct.pack("<Q", size), b"U" + bytes([size])]
        return self.pick(heads) + data

    def real(self) -> bytes:
        return b"G" + struct.pack(">d", self.pick([0.0, -0.0, 1.5, 1e300, float("nan")]))

    def named(self, where: tuple[str, str] | None = None) -> bytes:
        module, name = self.pick(NAMES) if where is None else where
        return kit.named(module, name)

    def again(self) -> bytes:
        places = self.pick([self.done, self.open]) or [0]
        return b"j" + struct.pack("<I", self.pick(places)) if places != [0] else b"N"

    def leaf(self) -> bytes:
        return self.one_of(
            lambda: b"N", lambda: b"\x88", self.integer, self.text, self.raw, self.real,
            self.named, self.again, kit.tensor,
        )  # fmt: skip

    # -------------------------------------------------------------- containers and calls

    def value(self, depth: int) -> bytes:
        self.left -= 1
        if depth <= 0 or self.left < 0 or self.often(0.15):
            return self.leaf()
        below = depth - 1
        return self.one_of(
            lambda: kit.tuple_of(*self.many(below)),
            lambda: self.list_of(below),
            lambda: self.dict_of(below),
            lambda: b"\x8f(" + b"".join(self.many(below)) + b"\x90",
            lambda: b"(" + b"".join(self.many(below)) + b"\x91",
            lambda: self.call(below),
            lambda: self.fitting(below),
            lambda: self.fitting(below),
            lambda: self.array(below),
            lambda: self.masked(below),
            lambda: self.dtype(below),
        )

    def list_of(self, depth: int) -> bytes:
        return self.filled(b"]", lambda: b"(" + b"".join(self.many(depth)) + b"e")

    def dict_of(self, depth: int) -> bytes:
        def pairs() -> bytes:
            keys = [self.text() if self.often(0.7) else self.value(depth) for _ in range(3)]
            return b"(" + b"".join(key + self.value(depth) for key in keys) + b"u"

        return self.filled(b"}", pairs)

    def call(self, depth: int) -> bytes:
        where = self.pick(NAMES)
        self.called.add(where)
        named = self.named(where) if self.often(0.9) else self.value(depth)
        arguments = kit.tuple_of(*self.many(depth)) if self.often(0.95) else self.value(depth)
        form = self.pick([b"R", b"R", b"\x81"])
        if self.often(0.05):
            arguments, form = arguments + self.dict_of(depth), b"\x92"
        return self.filled(named + arguments + form, lambda: self.filling(depth))

    def filling(self, depth: int) -> bytes:
        parts = b"(" + b"".join(self.many(depth)) + b"e" if self.often(0.3) else b""
        if self.often(0.2):
            parts += b"(" + b"".join(self.many(depth, 2)) + b"u"
        if self.often(0.4):
            parts += (self.dict_of(depth) if self.often(0.5) else self.value(depth)) + b"b"
        return parts

    def spoiled(self, parts: list[bytes], depth: int, share: float = 0.15) -> bytes:
        """The tuple, now and then with something else in one place."""
        if parts and self.often(share):
            parts[self.chance.randrange(len(parts))] = self.value(depth)
        return kit.tuple_of(*parts)

    # -------------------------------------------------------------- what fits

    def fitting(self, depth: int) -> bytes:
        """A call of a known name with arguments that it may well have."""
        arguments: dict[tuple[str, str], Callable[[], list[bytes]]] = {
            ("datetime", "datetime"): lambda: [self.raw(10), self.value(depth)],
            ("datetime", "date"): lambda: [self.raw(4)],
            ("datetime", "time"): lambda: [self.raw(6)],
            ("datetime", "timedelta"): lambda: [self.one_of(self.integer, self.real)],
            ("datetime", "timezone"): lambda: [kit.call("datetime", "timedelta"), self.text()],
            ("decimal", "Decimal"): lambda: [self.text()],
            ("fractions", "Fraction"): lambda: [self.integer(), self.integer()],
            ("pathlib", "PosixPath"): lambda: [self.text(), self.text()],
            ("zoneinfo", "ZoneInfo._unpickle"): lambda: [self.text(), self.integer(1)],
            ("torch", "device"): lambda: [self.text(), self.integer()],
            ("torch", "FloatTensor"): lambda: [self.integer(self.pick([0, 1]))],
            ("torch", "Size"): lambda: [self.sizes()],
            ("collections", "deque"): lambda: [self.list_of(depth), self.integer()],
            ("collections", "OrderedDict"): lambda: [self.rows(depth)],
            ("collections", "Counter"): lambda: [self.dict_of(depth)],
            ("builtins", "complex"): lambda: [self.integer(), self.real()],
            ("builtins", "getattr"): lambda: [self.named(), self.text()],
            ("builtins", "frozenset"): lambda: [self.list_of(depth)],
            ("_codecs", "encode"): lambda: [self.text(), self.text()],
            ("numpy.core.multiarray", "scalar"): lambda: [self.dtype(depth), self.raw()],
            ("numpy.core.numeric", "_frombuffer"): lambda: [
                self.raw(), self.dtype(depth), self.sizes(), self.text(), self.sizes(),
            ],
            ("torch._utils", "_rebuild_xla_tensor"): lambda: [
                self.array(depth), self.named(("torch", "float32")), self.text(),
            ],
            ("numpy._core._internal", "_convert_to_stringdtype_kwargs"): lambda: [
                self.integer(1), self.value(depth),
            ],
            ("torch.jit._pickle", "restore_type_tag"): lambda: [self.value(depth), self.text()],
            ("torch.storage", "_load_from_bytes"): lambda: [self.raw()],
            ("uuid", "UUID"): list,
        }  # fmt: skip
        where = self.pick(list(arguments))
        self.called.add(where)
        made = self.named(where) + self.spoiled(arguments[where](), depth) + b"R"
        return made + self.value(depth) + b"b" if self.often(0.15) else made

    def sizes(self) -> bytes:
        return kit.sizes(tuple(self.pick([0, 1, 2, 3]) for _ in range(self.chance.randrange(4))))

    def rows(self, depth: int) -> bytes:
        each = [kit.tuple_of(*self.many(depth)) for _ in range(self.chance.randrange(4))]
        return b"](" + b"".join(each) + b"e"

    def dtype(self, depth: int) -> bytes:
        special = [("numpy", "record"), ("ml_dtypes", "int4"), ("numpy", "void")]
        spec = kit.text(self.pick(SPECS)) if self.often(0.8) else self.named(self.pick(special))
        made = kit.call("numpy", "dtype", spec, b"\x89", b"\x88")
        if self.often(0.5):
            return made
        order = kit.text(self.pick(["<", ">", "|"]))
        parts = [kit.integer(3), order, b"N", b"N", b"N", *map(kit.integer, (-1, -1, 0))]
        if depth > 0 and self.often(0.5):
            names = ["a", "b", "real", "imag"][: self.chance.randrange(5)]
            fields = {n: kit.tuple_of(self.dtype(depth - 1), kit.integer(4 * i)) for i, n in
                      enumerate(names)}  # fmt: skip
            parts[3], parts[4] = kit.tuple_of(*map(kit.text, names)), kit.dict_of(fields)
            parts[5:] = map(kit.integer, (self.pick([4, 16, 32]), 1, self.pick([0, 16, 128])))
        elif depth > 0 and self.often(0.3):
            parts[2] = kit.tuple_of(self.dtype(depth - 1), self.sizes())
        elif self.often(0.3):
            unit = kit.tuple_of(b"C\x02us", *map(kit.integer, (self.pick([1, 25, 0]), 1, 1)))
            parts.append(kit.tuple_of(self.value(depth), unit))
        return made + self.spoiled(parts, depth) + b"b"

    def array(self, depth: int) -> bytes:
        made = self.named(("numpy.core.multiarray", "_reconstruct"))
        kind = self.named(self.pick(CLASSES)) if self.often(0.9) else self.value(depth)
        made += kit.tuple_of(kind, kit.sizes((0,)), b"C\x01b") + b"R"

        def state() -> bytes:
            data = self.one_of(self.raw, lambda: self.list_of(depth), lambda: self.rows(depth))
            flag = kit.boolean(self.often(0.3))
            parts = [kit.integer(1), self.sizes(), self.dtype(depth), flag, data]
            return self.spoiled(parts, depth) + b"b"

        return self.filled(made, state)

    def masked(self, depth: int) -> bytes:
        kinds = self.named(("numpy.ma", "MaskedArray")) + self.named(("numpy", "ndarray"))
        made = self.named(("numpy.ma.core", "_mareconstruct"))
        made += kit.tuple_of(kinds, kit.sizes((0,)), kit.text("b")) + b"R"
        filling = self.one_of(lambda: b"N", lambda: self.array(depth), lambda: self.value(depth))
        parts = [kit.integer(1), self.sizes(), self.dtype(depth), kit.boolean(self.often(0.3)),
                 self.raw(), self.raw(), filling]  # fmt: skip
        return made + self.spoiled(parts, depth) + b"b"


def archive_of(program: bytes) -> bytes:
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("m/data.pkl", program)
        out.writestr("m/version", b"3\n")
        out.writestr("m/data/0", bytes(24))
    return file.getvalue()


EACH, BATCHES = 1000, 10


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_value_or_an_error_of_ours(batch: int) -> None:
    ended: Counter[str] = Counter()
    for seed in range(batch * EACH, (batch + 1) * EACH):
        data = archive_of(Program(seed).bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = psd.load(data, dangerous="opaque")
            except psd.StateDictError as error:
                assert error.sentence
                ended[type(error).__name__] += 1
                continue
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
            ended["value"] += 1
            hold(found, seed)
    assert ended["value"] > EACH // 20, ended  # it is no exercise in refusing
    assert ended["CorruptError"] > EACH // 20, ended


def hold(found: Any, seed: int) -> None:
    """What came can be saved, or it is said why not."""
    try:
        kit.saved(found, opaque=True)
    except TypeError:
        pass
    except ValueError as error:  # a program that leads back into its own arguments
        assert "of itself" in str(error), f"seed {seed}: {error!r}"


def test_every_name_is_called() -> None:
    called = set[tuple[str, str]]()
    for seed in range(EACH * BATCHES):
        program = Program(seed)
        program.bytes()
        called |= program.called
    assert set(_values._CALLS) <= called
