# SPDX-License-Identifier: Apache-2.0
"""save then load, and load then save, over generated nests: nothing is lost, nothing added."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import kit
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystatedict as psd

MANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_hand(obj: Any) -> Any:
    """The same nest with what torch cannot express compacted, as save does it."""
    done: dict[int, Any] = {}

    def one(part: Any) -> Any:
        if id(part) in done:
            return done[id(part)]
        made: Any = part
        if isinstance(part, np.ndarray) and not kit.is_expressible(part):
            made = np.array(part, dtype=part.dtype.newbyteorder("="), order="C", copy=True)
        elif type(part) in (list, tuple):
            made = type(part)(one(p) for p in part)
        elif isinstance(part, dict):
            made = type(part)((k, one(v)) for k, v in part.items())
        done[id(part)] = made
        return made

    return one(obj)


@MANY
@given(kit.nests())
def test_load_gives_what_was_saved(obj: Any) -> None:
    kit.same(obj, kit.reloaded(obj))


@MANY
@given(kit.nests())
def test_save_gives_what_was_loaded(obj: Any) -> None:
    once = kit.saved(obj)
    assert kit.saved(psd.load(once)) == once
    assert kit.saved(psd.load(bytearray(once), copy=True)) == once
    assert kit.saved(psd.load(io.BytesIO(once), verify=True)) == once


@MANY
@given(kit.nests())
def test_compacting_is_all_that_happens(obj: Any) -> None:
    """What torch can say is written as it lies; the rest as NumPy's own copy of it."""
    assert kit.saved(by_hand(obj)) == kit.saved(obj)


@MANY
@given(kit.nests())
def test_saving_changes_nothing(obj: Any) -> None:
    arrays = [(array, array.copy(), array.strides) for _, array in kit.arrays_in(obj)]
    shape = repr([path for path, _ in kit.walk(obj)])
    kit.saved(obj)
    assert repr([path for path, _ in kit.walk(obj)]) == shape
    for array, before, strides in arrays:
        assert array.dtype == before.dtype
        assert kit.bits(array) == kit.bits(before)
        assert array.strides == strides


@MANY
@given(kit.array_pools())
def test_no_byte_is_written_twice(pool: list[np.ndarray]) -> None:
    """Storages hold what the arrays look at, each part of memory once."""
    plain = [a for a in pool if a.size and kit.is_expressible(a)]
    data = kit.saved(plain)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        stored = sum(i.file_size for i in file.infolist() if "/data/" in i.filename)
    addresses = [kit.byte_addresses(a) for a in plain]
    spans = sorted((int(a.min()), int(a.max()) + 1) for a in addresses)
    covered, end = 0, 0
    for low, high in spans:
        covered += max(0, high - max(low, end))
        end = max(end, high)
    assert stored == covered


@MANY
@given(kit.array_pools(), st.data())
def test_writing_through_one_tie_is_seen_by_all(pool: list[np.ndarray], data: Any) -> None:
    sd = kit.reloaded(dict(enumerate(pool)))
    expressible = [i for i, a in enumerate(pool) if a.size and kit.is_expressible(a)]
    if not expressible:
        return
    chosen = data.draw(st.sampled_from(expressible))
    view = sd[chosen]
    before = {i: np.frombuffer(kit.bits(sd[i]), "u1") for i in sd}
    touched = kit.byte_addresses(view)
    view[...] = np.zeros((), view.dtype)
    for i, bits in before.items():
        expected = np.where(np.isin(kit.byte_addresses(sd[i]), touched), 0, bits)
        assert kit.bits(sd[i]) == expected.tobytes(), i
    # In the same places as where the arrays came from.
    for i in expressible:
        mine = np.isin(kit.byte_addresses(pool[i]), kit.byte_addresses(pool[chosen]))
        theirs = np.isin(kit.byte_addresses(sd[i]), touched)
        assert mine.tolist() == theirs.tolist(), i


@MANY
@given(kit.nests())
def test_listing_agrees_with_loading(obj: Any) -> None:
    data = kit.saved(obj)
    loaded = psd.load(data)
    with psd.open(data) as checkpoint:
        infos = dict(checkpoint.items())
        found = [array for _, array in kit.arrays_in(loaded)]
        places = {kit.address(a) for a in found if a.size}
        for info in infos.values():
            array = info.numpy()
            assert array.shape == info.shape
            assert array.dtype == _dtype(info.dtype)
            if array.size:
                # Both look into the very bytes that were given.
                assert kit.address(array) in places
        assert len({i._index for i in infos.values()}) == len({id(a) for a in found})
        checked, unchecked = checkpoint.verify()
        assert (checked, unchecked) == (len(checkpoint.records()), 0)


def _dtype(name: str) -> np.dtype:
    from pystatedict._dtypes import numpy_dtype

    return numpy_dtype(name)


@MANY
@given(kit.nests(), st.integers(0, 1 << 30))
def test_one_flipped_bit_is_noticed(obj: Any, where: int) -> None:
    """With verify=True: any bit of any record."""
    data = bytearray(kit.saved(obj))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        infos = [info for info in file.infolist() if info.file_size]
    info = infos[where % len(infos)]
    name, extra = data[info.header_offset + 26 :][:2], data[info.header_offset + 28 :][:2]
    start = info.header_offset + 30 + int.from_bytes(name, "little")
    start += int.from_bytes(extra, "little")
    data[start + where % info.file_size] ^= 1 << (where % 8)
    try:
        psd.load(bytes(data), verify=True)
    except psd.StateDictError:
        return
    raise AssertionError(f"a changed {info.filename} was not noticed")


@MANY
@given(kit.nests())
def test_flags_go_all_ways(obj: Any) -> None:
    sd = psd.StateDict({str(i): a for i, a in enumerate(obj["arrays"])})
    # The same array under two names has one flag.
    flags: dict[int, bool] = {}
    for i, (name, array) in enumerate(sd.items()):
        if array.dtype.kind not in "iub":
            sd.trainable[name] = flags.setdefault(id(array), i % 2 == 0)
    again = kit.reloaded(sd, trainable="parameters")
    for name, array in sd.items():
        assert again.trainable[name] == flags.get(id(array)), name
        kit.same_array(array, again[name], name)
