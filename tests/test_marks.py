# SPDX-License-Identifier: Apache-2.0
"""What a tensor was besides its bytes survives load and save, wherever it stands."""

from __future__ import annotations

import gc
import weakref
import zipfile
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd
from pystatedict._marks import MARKS, NDARRAY, mark, mark_of

W = np.arange(6, dtype="<f4").reshape(2, 3)
PARAMETER = kit.parameter(kit.tensor(), True)
FROZEN = kit.parameter(kit.tensor(), False)
LEAF = kit.tensor(requires_grad=True)
NUMPY_DTYPE = (
    kit.call("numpy", "dtype", kit.text("f4"), kit.boolean(False), kit.boolean(True))
    + kit.tuple_of(
        kit.integer(3), kit.text("<"), b"N", b"N", b"N", kit.integer(-1), kit.integer(-1), b"K\x00"
    )
    + b"b"
)


def numpy_array() -> bytes:
    raw = W.tobytes()
    made = kit.call(
        "numpy.core.multiarray",
        "_reconstruct",
        kit.named("numpy", "ndarray"),
        kit.tuple_of(kit.integer(0)),
        b"C\x01b",
    )
    state = kit.tuple_of(
        kit.integer(1),
        kit.sizes((2, 3)),
        NUMPY_DTYPE,
        kit.boolean(False),
        b"C" + bytes([len(raw)]) + raw,
    )
    return made + state + b"b"


def loaded(body: bytes, **options: Any) -> Any:
    return psd.load(kit.archive(body, {"0": W.tobytes()}), **options)


def told(data: bytes) -> list[tuple[str | None, bool | None]]:
    """(kind, requires_grad) of each tensor, in file order."""
    return [(info.kind, info.requires_grad) for info in psd.open(data).values()]


PLACES = {
    "root": lambda tensor: tensor,
    "list": lambda tensor: b"](" + tensor + b"e",
    "tuple": lambda tensor: kit.tuple_of(tensor),
    "dict of a list": lambda tensor: kit.dict_of({"params": b"](" + tensor + b"e"}),
    "state_dict": lambda tensor: kit.dict_of({"w": tensor}, True),
    "defaultdict": lambda tensor: (
        kit.call("collections", "defaultdict") + b"(" + kit.text("w") + tensor + b"u"
    ),
}


@pytest.mark.parametrize("mode", ["array", "meta"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (PARAMETER, ("parameter", True)),
        (FROZEN, ("parameter", False)),
        (LEAF, (None, True)),
        (kit.tensor(), (None, None)),
    ],
    ids=["parameter", "frozen", "leaf", "plain"],
)
def test_flags_survive_everywhere(tensor: bytes, what: Any, place: str, mode: str) -> None:
    body = PLACES[place](tensor)
    obj = loaded(body, map_location="meta" if mode == "meta" else None)
    assert told(kit.saved(obj)) == [what]
    assert told(kit.saved(obj, trainable=False)) == [(None, None)]


def test_an_info_gives_marked_arrays() -> None:
    checkpoint = psd.open(kit.archive(kit.dict_of({"w": FROZEN}), {"0": W.tobytes()}))
    array = checkpoint["w"].numpy()
    assert told(kit.saved([array])) == [("parameter", False)]
    assert told(kit.saved(checkpoint)) == [("parameter", False)]


def test_what_is_computed_is_a_tensor_like_any_other() -> None:
    array = loaded(PARAMETER)
    for other in (array + 1, array[:], array.copy(), array.T):
        assert told(kit.saved([other])) == [(None, None)]


def test_numpy_arrays_stay_such_and_what_is_computed_of_them_does_not() -> None:
    array = loaded(numpy_array())
    assert mark_of(array) == NDARRAY
    assert told(kit.saved({"rng": array})) == []
    kit.same_array(kit.reloaded({"rng": array})["rng"], W)
    assert kit.reloaded({"rng": array})["rng"].dtype.metadata is None
    assert told(kit.saved({"w": array * 2})) == [(None, None)]
    assert told(kit.saved({"w": np.ascontiguousarray(array.T)})) == [(None, None)]


def test_marks_die_with_their_arrays() -> None:
    array: Any = loaded(PARAMETER)
    number = id(array)
    assert number in MARKS
    del array
    gc.collect()
    assert number not in MARKS


def test_attributes_that_lead_back_do_not_keep_an_array_alive() -> None:
    state = kit.dict_of({"note": kit.text("x")})
    retyped = kit.call(
        "torch._utils",
        "_rebuild_parameter_with_state",
        kit.tensor(),
        kit.boolean(True),
        kit.call("collections", "OrderedDict"),
        state,
    )
    array = loaded(b"](" + retyped + b"e")[0]
    assert MARKS[id(array)][1] == {"note": "x"}
    mark(array, 1, {"twin": array})
    assert MARKS[id(array)][1] is None


def test_storages_by_themselves_stay_such() -> None:
    body = kit.dict_of({"s": kit.storage("0", "FloatStorage", 6)})
    data = kit.archive(body, {"0": W.tobytes()})
    obj = psd.load(data)
    kit.same_array(obj["s"], W.reshape(-1))
    again = kit.pickle_in(kit.saved(obj))
    assert b"_rebuild_tensor" not in again
    assert b"FloatStorage" in again
    # In an object of unknown class as well: nothing of its bytes is lost.
    inside = kit.call("my.module", "Holder", kit.storage("0", "FloatStorage", 6))
    holder = psd.load(kit.archive(inside, {"0": W.tobytes()}))
    kit.same_array(holder.args[0], W.reshape(-1))
    back = psd.load(kit.saved(holder, opaque=True))
    kit.same_array(back.args[0], W.reshape(-1))
    assert b"_rebuild_tensor" not in kit.pickle_in(kit.saved(holder, opaque=True))


def test_infos_of_deflated_storages_share_memory() -> None:
    body = kit.dict_of({"a": kit.tensor(), "b": kit.tensor()})
    checkpoint = psd.open(kit.archive(body, {"0": W.tobytes()}, method=zipfile.ZIP_DEFLATED))
    a, b = checkpoint["a"].numpy(), checkpoint["b"].numpy()
    assert np.shares_memory(a, b)
    copy = kit.reloaded(checkpoint)
    assert np.shares_memory(copy["a"], copy["b"])
    # Held weakly: nothing is kept for an archive's whole life.
    base = weakref.ref(a.base)
    del a, b
    gc.collect()
    assert base() is None
    assert checkpoint["a"].numpy().tolist() == copy["a"].tolist()


def test_infos_of_dirty_bools_share_memory() -> None:
    tensor = kit.tensor(kind="BoolStorage", shape=(6,), strides=(1,), count=6)
    data = kit.archive(kit.dict_of({"a": tensor, "b": tensor}), {"0": b"\x02\x00\x01\x03\x00\x00"})
    checkpoint = psd.open(data)
    a, b = checkpoint["a"].numpy(), checkpoint["b"].numpy()
    assert a.tolist() == [True, False, True, True, False, False]
    assert np.shares_memory(a, b)
