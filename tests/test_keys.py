# SPDX-License-Identifier: Apache-2.0
"""Tensors as keys: told by identity, reachable, and written back as the tensors they are."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

W = np.arange(6, dtype="f4").reshape(2, 3)

# A tensor that stands on the stack, is memoized, and is dropped; and how it is fetched.
FIRST, SECOND = kit.tensor() + b"q\x500", kit.tensor("1") + b"q\x510"
ONE, TWO = b"h\x50", b"h\x51"


def loaded(body: bytes, **options: Any) -> Any:
    return psd.load(kit.archive(body, {"0": W.tobytes(), "1": W.tobytes()}), **options)


def seen(obj: Any) -> Any:
    """What a reader would see who hashes its tensors: each storage's key as a text."""

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return pid[2]

        def find_class(self, module: str, name: str) -> Any:
            if module == "torch._utils":
                return lambda storage, *_: f"tensor {storage}"
            return name if module == "torch" else super().find_class(module, name)

    import io

    return Reader(io.BytesIO(kit.pickle_in(kit.saved(obj, opaque=True)))).load()


# ------------------------------------------------------------------ loading

PLACES = {
    "dict": (b"}" + ONE + b"Ns", lambda found: next(iter(found))),
    "set": (b"\x8f(" + ONE + b"\x90", lambda found: next(iter(found))),
    "frozenset": (b"(" + ONE + b"\x91", lambda found: next(iter(found))),
    "set of an old protocol": (
        kit.call("__builtin__", "set", b"]" + ONE + b"a"),
        lambda found: next(iter(found)),
    ),
    "OrderedDict": (kit.call(*kit.ORDERED_DICT) + ONE + b"Ns", lambda found: next(iter(found))),
    "OrderedDict of Python 2": (
        kit.call(*kit.ORDERED_DICT, b"](" + kit.tuple_of(ONE, kit.text("v")) + b"e"),
        lambda found: next(iter(found)),
    ),
    "defaultdict": (
        kit.call("collections", "defaultdict", kit.named("__builtin__", "dict")) + ONE + b"}s",
        lambda found: next(iter(found)),
    ),
    "Counter": (
        kit.call("collections", "Counter", b"}" + ONE + b"K\x02s"),
        lambda found: next(iter(found)),
    ),
    "somebody's dict": (kit.call("my.mod", "Map") + ONE + b"Ns", lambda f: next(iter(f.items))),
    "tuple in a dict": (
        b"}" + kit.tuple_of(ONE, kit.tuple_of(kit.integer(5), ONE)) + b"Ns",
        lambda found: next(iter(found))[1][1],
    ),
}


@pytest.mark.parametrize("name", sorted(PLACES))
def test_a_tensor_may_be_a_key(name: str) -> None:
    body, first = PLACES[name]
    both = loaded(FIRST + kit.dict_of({"keyed": body, "w": ONE}))
    key = first(both["keyed"])
    assert type(key) is psd.TensorKey
    assert key.array is both["w"]
    kit.same_array(W, key.array)
    assert key == psd.TensorKey(both["w"])
    assert key != psd.TensorKey(W)
    if isinstance(both["keyed"], psd.Opaque):
        with pytest.raises(TypeError, match=r"opaque=True"):
            kit.saved(both)
    again = psd.load(kit.saved(both, opaque=True))
    assert first(again["keyed"]).array is again["w"]
    assert kit.saved(again, opaque=True) == kit.saved(both, opaque=True)


def test_two_tensors_of_equal_values_are_two_keys() -> None:
    body = b"}(" + ONE + kit.integer(1) + TWO + kit.integer(2) + ONE + kit.integer(3) + b"u"
    found = loaded(FIRST + SECOND + kit.dict_of({"d": body, "a": ONE, "b": TWO}))
    keyed = found["d"]
    assert len(keyed) == 2
    assert keyed[psd.TensorKey(found["a"])] == 3
    assert keyed[psd.TensorKey(found["b"])] == 2
    assert seen(found)["d"] == {"tensor 0": 3, "tensor 1": 2}


def test_an_optimizer_by_hand() -> None:
    """state[parameter] and param_groups: one object in both, before and after."""
    state = kit.dict_of({"momentum_buffer": TWO})
    states = kit.call("collections", "defaultdict", kit.named("__builtin__", "dict"))
    groups = b"]" + kit.dict_of({"params": b"]" + ONE + b"a", "lr": kit.integer(1)}) + b"a"
    parts = kit.dict_of({"state": states + ONE + state + b"s", "param_groups": groups})
    body = FIRST + SECOND + kit.named("torch.optim.sgd", "SGD") + b")\x81" + parts + b"b"
    optimizer = loaded(body)
    for _ in range(2):
        (weight,) = optimizer.state["param_groups"][0]["params"]
        kept = optimizer.state["state"][psd.TensorKey(weight)]
        kit.same_array(W, kept["momentum_buffer"])
        optimizer = psd.load(kit.saved(optimizer, opaque=True))


def test_meta_tensors_are_keys_as_they_are() -> None:
    found = loaded(FIRST + kit.dict_of({"d": b"}" + ONE + b"Ns", "w": ONE}), map_location="meta")
    assert next(iter(found["d"])) is found["w"]
    assert isinstance(found["w"], psd.TensorInfo)


def test_what_is_no_tensor_is_no_key() -> None:
    array = kit.call("numpy", "dtype", kit.text("i4"))
    array = kit.call(
        "numpy.core.multiarray",
        "_reconstruct",
        kit.named("numpy", "ndarray"),
        kit.sizes((0,)),
        b"C\x01b",
    ) + (kit.tuple_of(kit.integer(1), b")", array, kit.boolean(False), b"C\x04\0\0\0\0") + b"b")
    for key in (b"]", b"}", array, kit.tuple_of(ONE, b"]"), kit.tuple_of(ONE, array)):
        for body in (b"}" + key + b"Ns", b"\x8f(" + key + b"\x90", b"(" + key + b"\x91"):
            with pytest.raises(psd.CorruptError, match="cannot be hashed"):
                loaded(FIRST + body)


def test_keys_of_many_parts_are_counted_before_they_are_hashed() -> None:
    part = ONE
    for _ in range(40):
        part += b"2\x86"  # DUP, TUPLE2: twice itself
    with pytest.raises(psd.LimitError, match="too many parts"):
        loaded(FIRST + b"}(" + part + b"Nu")
    deep = ONE + b"\x85" * 200
    found = loaded(FIRST + b"}(" + deep + b"Nu")
    key = next(iter(found))
    while type(key) is tuple:
        (key,) = key
    assert type(key) is psd.TensorKey


# ------------------------------------------------------------------ the class


def test_keys_of_ones_own() -> None:
    state = {psd.TensorKey(W): {"step": 5}, "w": W}
    again = kit.reloaded(state)
    assert again[psd.TensorKey(again["w"])] == {"step": 5}
    assert seen(state) == {"tensor 0": {"step": 5}, "w": "tensor 0"}
    assert repr(psd.TensorKey(W)) == "<TensorKey float32 [2, 3]>"


def test_copies_keep_the_tie() -> None:
    state = OrderedDict([("w", W), ("d", {psd.TensorKey(W): 1})])
    for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert other["d"][psd.TensorKey(other["w"])] == 1
        assert other["w"] is not W


def test_keys_are_of_arrays() -> None:
    for value in ([1], 3, "a", None):
        with pytest.raises(TypeError, match="of an array"):
            psd.TensorKey(value)
    with pytest.raises(AttributeError):
        psd.TensorKey(W).array = W  # type: ignore[misc]
    with pytest.raises(TypeError, match="torch has no such"):
        kit.saved({psd.TensorKey(np.array(["a"])): 1})
