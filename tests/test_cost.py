# SPDX-License-Identifier: Apache-2.0
"""Few bytes cost little: shared parts are not hashed, compared, copied or named for ever.

And one storage seen with several dtypes gives each its own values.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from kit import archive, boolean, call, named, sizes, storage, tensor, text, tuple_of

import pystatedict as psd
from pystatedict import _core

PRIME = (1 << 61) - 1  # Python's hash of an integer is the rest after dividing by it
MANY = 2000


def long_integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def load(body: bytes, **storages: bytes) -> object:
    return psd.load(archive(body, {key[1:]: data for key, data in storages.items()}))


def refused(body: bytes, sentence: str) -> None:
    with pytest.raises(psd.LimitError, match=sentence):
        load(body)


# ------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda n: long_integer(PRIME * n), id="integers"),
        pytest.param(lambda n: long_integer(PRIME * n) + b"\x85", id="tuples"),
        pytest.param(
            lambda n: (
                named("builtins", "complex")
                + long_integer(-1_000_003 * n)
                + long_integer(n)
                + b"\x86R"
            ),
            id="complex",
        ),
    ],
)
def test_keys_of_one_hash(key) -> None:
    keys = [key(n) for n in range(1, MANY)]
    refused(b"}(" + b"".join(k + b"N" for k in keys) + b"u", "the same hash")
    refused(b"\x8f(" + b"".join(keys) + b"\x90", "the same hash")
    refused(b"(" + b"".join(keys) + b"\x91", "the same hash")


def test_many_keys_of_many_hashes() -> None:
    found = load(
        b"}("
        + b"".join(struct.pack("<BiBiBB", 0x4A, n, 0x4A, -n, 0x86, 0x4E) for n in range(50_000))
        + b"u"
    )
    assert len(found) == 50_000
    dicts = load(b"](" + b"}(K\x01NK\x02N(K\x03tNu" * 3000 + b"e")
    assert len(dicts) == 3000


def test_one_long_key_again_and_again() -> None:
    long = text("k" * 100_000)
    again = long + b"q\x010" + long + b"q\x020}(" + b"h\x01Nh\x02N" * MANY + b"u"
    refused(again, "the same hash")
    short = text("k") + b"q\x010}(" + b"h\x01N" * MANY + b"u"
    assert load(short) == {"k": None}


def test_a_long_integer_within_a_key() -> None:
    number = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000
    refused(b"}(" + number + b"q\x01h\x01\x86Nu", "too many parts")
    small = b"\x8b" + struct.pack("<i", 400) + b"\x7f" * 400
    assert len(load(b"}(" + small + b"\x85Nu")) == 1


# ----------------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    ("what", "shared"),
    [
        (("_codecs", "encode"), text("x" * 100_000) + text("latin1") + b"\x86"),
        (
            ("builtins", "set"),
            b"](" + b"".join(b"M" + struct.pack("<H", n) for n in range(9000)) + b"e\x85",
        ),
        (("collections", "deque"), b"](" + b"N" * 100_000 + b"e\x85"),
    ],
)
def test_copies_of_one_value(what: tuple[str, str], shared: bytes) -> None:
    start = named(*what) + b"q\x010" + shared + b"q\x020]("
    refused(start + b"h\x01h\x02R" * MANY + b"e", "copied all too often")
    assert len(load(start + b"h\x01h\x02R" * 3 + b"e")) == 3


def test_copies_of_one_state() -> None:
    state = b"}(" + b"".join(text(f"a{n}") + b"N" for n in range(5000)) + b"uq\x020"
    space = named("argparse", "Namespace") + b"q\x010"
    refused(state + space + b"](" + b"h\x01)\x81h\x02b" * MANY + b"e", "copied all too often")


def test_opaque_values_copy_nothing() -> None:
    shared = named("my", "Node") + b"q\x010](" + b"N" * 100_000 + b"e\x85q\x020"
    body = shared + b"](" + b"h\x01h\x02R" * MANY + b"e"
    assert len(psd.load(archive(body, {}), unknown="opaque")) == MANY


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["set", "frozenset"])
def test_items_of_one_hash_in_a_call(name: str) -> None:
    keys = b"".join(long_integer(PRIME * n) for n in range(1, MANY))
    refused(call("builtins", name, b"](" + keys + b"e"), "the same hash")


def test_pairs_of_one_hash_in_a_call() -> None:
    pairs = b"".join(long_integer(PRIME * n) + b"N\x86" for n in range(1, MANY))
    refused(call("collections", "OrderedDict", b"](" + pairs + b"e"), "the same hash")


def test_items_of_one_hash_in_something_opaque() -> None:
    # In many small batches, so that the count must outlast each.
    batches = b"".join(b"(" + long_integer(PRIME * n) + b"Nu" for n in range(1, MANY))
    refused(call("somewhere", "Mapping") + batches, "the same hash")


def opened(body: bytes) -> _core.Archive:
    return _core.open_archive(_core.Source(archive(body, {"0": b"abcd" * 6})))


def test_one_long_name_for_many() -> None:
    long = text("k" * 100_000) + b"q\x010" + tensor() + b"q\x020"
    names = list(opened(long + b"](" + b"}h\x01h\x02s" * MANY + b"e").tensors())
    assert len(names) == MANY
    assert names[0] == "0." + "k" * 100_000
    assert sum(map(len, names)) < 2_000_000
    rows = opened(long + b"}(" + b"h\x01h\x02" * MANY + b"u").children(0)
    assert len(rows) == MANY
    assert sum(len(row[0]) for row in rows) < 2_000_000


def test_an_integer_that_python_does_not_spell() -> None:
    number = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000
    (name,) = opened(b"}" + number + tensor() + b"s").tensors()
    assert name.startswith("<key ")


# --------------------------------------------------------- one storage, several dtypes


def v3(dtype: str, shape: tuple[int, ...], count: int) -> bytes:
    over = tuple_of(
        text("storage"),
        named("torch.storage", "UntypedStorage"),
        text("0"),
        text("cpu"),
        b"K" + bytes([count]),
    )
    hooks = call("collections", "OrderedDict")
    rest = (b"K\x00", sizes(shape), sizes((1,)), boolean(False), hooks, named("torch", dtype))
    return call("torch._utils", "_rebuild_tensor_v3", over + b"Q", *rest)


@pytest.mark.parametrize("order", ["bu", "ub"])
def test_bools_and_bytes_of_one_storage(order: str) -> None:
    parts = {"b": text("b") + v3("bool", (4,), 4), "u": text("u") + v3("uint8", (4,), 4)}
    found = load(b"}(" + b"".join(parts[key] for key in order) + b"u", _0=b"\x00\x02\xff\x01")
    assert found["u"].tolist() == [0, 2, 255, 1]
    assert found["b"].tolist() == [False, True, True, True]
    assert found["b"].view(np.uint8).max() == 1


@pytest.mark.parametrize("order", ["wu", "uw"])
def test_two_item_sizes_in_foreign_byte_order(order: str) -> None:
    parts = {"w": text("w") + v3("uint16", (2,), 4), "u": text("u") + v3("uint8", (4,), 4)}
    body = b"}(" + b"".join(parts[key] for key in order) + b"u"
    with pytest.raises(psd.UnsupportedError, match="two item sizes"):
        psd.load(archive(body, {"0": b"\x00\x01\x00\x02"}, byteorder=b"big"))


def test_a_tensor_that_is_filled_again() -> None:
    other = tuple_of(storage("1", "FloatStorage", 6), b"K\x00", sizes((6,)), sizes((1,)))
    with pytest.raises(psd.CorruptError, match="is given a state"):
        load(tensor() + other + b"b", _0=bytes(24), _1=bytes(24))
