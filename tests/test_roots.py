# SPDX-License-Identifier: Apache-2.0
"""Where the state_dict is: root= of load and open, and what items() iterates over."""

from __future__ import annotations

import pathlib
import pickle
import warnings
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd
from pystatedict._roots import _below, _Row, find_root

W = np.arange(6, dtype="<f4").reshape(2, 3)
T = kit.tensor()
SD = kit.dict_of({"w": T}, True)


def archive(body: bytes) -> bytes:
    return kit.archive(body, {"0": W.tobytes()})


def module(name: str = "Net", parameters: bytes | None = None, **children: bytes) -> bytes:
    empty = kit.dict_of({}, True)
    state = kit.dict_of(
        {
            "training": kit.boolean(True),
            "_parameters": parameters or kit.dict_of({"w": kit.parameter(T)}, True),
            "_buffers": kit.dict_of({"b": T}, True),
            "_non_persistent_buffers_set": kit.call("__builtin__", "set", b"]"),
            "_modules": kit.dict_of(children, True),
            "_forward_hooks": empty,
        }
    )
    return kit.named("my.model", name) + b")\x81" + state + b"b"


def method(of: bytes, name: str = "state_dict") -> bytes:
    return kit.call("__builtin__", "getattr", of, kit.text(name))


AUTO = {
    "the root": (SD, (), ["w"]),
    "one inside": (kit.dict_of({"epoch": kit.integer(1), "weights": SD}), ("weights",), ["w"]),
    "a well-known name": (kit.dict_of({"other": SD, "state_dict": SD}), ("state_dict",), ["w"]),
    "beside a tensor": (kit.dict_of({"model": SD, "step": T}), ("model",), ["w"]),
    "in a list": (b"](" + SD + kit.integer(3) + b"e", ("0",), ["w"]),
    "extra state": (kit.dict_of({"w": T, "_extra_state": SD}, True), (), ["w"]),
    "extra state further in": (kit.dict_of({"w": T, "a._extra_state": SD}, True), (), ["w"]),
    "a module": (module(), (), ["w", "b"]),
    "a module inside": (kit.dict_of({"epoch": kit.integer(1), "model": module()}), ("model",),
                        ["w", "b"]),
    "nested modules": (module(fc=module()), (), ["w", "b", "fc.w", "fc.b"]),
}  # fmt: skip


@pytest.mark.parametrize("name", AUTO)
def test_auto(name: str) -> None:
    body, path, names = AUTO[name]
    data = archive(body)
    found = psd.load(data, root="auto")
    assert isinstance(found, psd.StateDict)
    assert [k for k, v in found.items() if hasattr(v, "__array__")] == names
    with psd.open(data, root="auto") as checkpoint:
        assert checkpoint.root == path
        assert [n for n in checkpoint if "_extra_state" not in n] == names
    assert [n for n, _ in psd.items(data)] == names
    if path and not isinstance(psd.load(data), (list, psd.OpaqueModule)):
        picked = psd.load(data, root=".".join(path))
        assert list(picked) == list(found)


AMBIGUOUS = {
    "two": (kit.dict_of({"a": SD, "b": SD}), ["a", "b"]),
    "two well-known": (kit.dict_of({"model": SD, "ema": SD}), ["model", "ema"]),
    "the root and one inside": (kit.dict_of({"w": T, "inner": SD}), ["inner"]),
    "a module and a dict": (kit.dict_of({"net": module(), "model": SD}), ["net", "model"]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_candidates_are_listed(name: str) -> None:
    body, names = AMBIGUOUS[name]
    for look in (psd.load, psd.open):
        with pytest.raises(psd.MissingTensorError) as caught:
            look(archive(body), root="auto")
        assert caught.value.code == "ambiguous-root"
        assert list(caught.value.suggestions) == names
        assert "root=" in str(caught.value.hint)
        assert all(n in str(caught.value) for n in names)
    with pytest.raises(psd.MissingTensorError):
        list(psd.items(archive(body)))
    assert len(psd.load(archive(body))) == 2


def test_the_hint_names_a_root_that_picks() -> None:
    with pytest.raises(psd.MissingTensorError) as caught:
        psd.load(archive(kit.dict_of({"": SD, "b": SD})), root="auto")
    assert "root='b'" in str(caught.value.hint)


def test_items_of_a_mapping_finds_what_load_would() -> None:
    for name, (body, _, names) in AUTO.items():
        obj = psd.load(archive(body))
        if isinstance(obj, dict):
            assert [n for n, _ in psd.items(obj)] == names, name
    for body, _ in AMBIGUOUS.values():
        obj = psd.load(archive(body))
        with pytest.raises(psd.MissingTensorError):
            list(psd.items(obj))
    with pytest.raises(psd.MissingTensorError):
        list(psd.items({"epoch": 3}))


def test_a_whole_module_tells_what_is_trained() -> None:
    frozen = kit.dict_of({"w": kit.parameter(T, False), "v": kit.parameter(T, True)}, True)
    found = psd.load(archive(module(parameters=frozen)), root="auto")
    assert dict(found.trainable) == {"w": False, "v": True, "b": False}
    assert [n for n, _ in found.named_parameters()] == ["w", "v"]
    rows = list(psd.items(archive(module(parameters=frozen)), trainable=True))
    assert [(n, flag) for n, _, flag in rows] == [("w", False), ("v", True), ("b", False)]


def test_a_bound_method_is_recovered_with_a_warning(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "wrong.pth"
    path.write_bytes(archive(method(module())))
    with pytest.warns(psd.StateDictWarning, match="without the parentheses") as warned:
        found = psd.load(path, root="auto")
    assert [w.filename for w in warned] == [__file__]
    assert repr(str(path)) in str(warned[0].message)
    assert list(found) == ["w", "b"]
    kit.same_array(found["w"], W)
    with pytest.warns(psd.StateDictWarning, match=r"model\.state_dict\(\)"):
        whole = psd.load(path)
    assert list(whole.state_dict()) == ["w", "b"]
    psd.save(found, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(psd.load(path)) == ["w", "b"]


def test_nothing_to_find() -> None:
    cases: list[tuple[bytes, type]] = [
        (kit.integer(3), psd.MissingTensorError),
        (kit.dict_of({"epoch": kit.integer(3)}), psd.MissingTensorError),
        (kit.dict_of({"a": kit.tuple_of(T)}), psd.UnsupportedError),
        (kit.dict_of({"a": kit.call("my.module", "Holder", T)}), psd.UnsupportedError),
    ]
    for body, error in cases:
        with pytest.raises(error) as caught:
            psd.load(archive(body), root="auto")
        assert caught.value.code == "no-state-dict"


def test_a_dict_under_two_names_is_listed_under_both() -> None:
    shared = SD + b"q\x07"
    body = b"}(" + kit.text("model") + shared + kit.text("ema") + b"h\x07" + b"u"
    assert list(psd.open(archive(body))) == ["model.w", "ema.w"]


def test_cycles_and_doublings_are_listed_in_bounded_work() -> None:
    cycle = b"}q\x01(" + kit.text("me") + b"h\x01" + kit.text("w") + T + b"u"
    assert list(psd.open(archive(cycle))) == ["w"]
    # Each level stands twice in the next: 2 ** 40 names, were nobody to count.
    level = kit.dict_of({"w": T})
    body = level + b"q\x00"
    for depth in range(1, 41):
        pair = b"](h" + bytes([depth - 1]) + b"h" + bytes([depth - 1]) + b"e"
        body = body + b"0" + pair + b"q" + bytes([depth])
    names = list(psd.open(archive(body)))
    assert 1 <= len(names) < 5000


class Counting:
    """An archive that counts what is asked of it."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._archive, name)


def test_a_shared_dict_is_looked_into_once() -> None:
    big = kit.dict_of({"x": kit.integer(1)}) + b"q\x07"
    names = b"".join(kit.text(f"n{i}") + b"h\x07" for i in range(300))
    counting: Any = Counting(psd.open(archive(b"}(" + kit.text("b") + big + names + b"u")).archive)
    with pytest.raises(psd.MissingTensorError):
        find_root(counting, "auto")
    assert counting.asked.count("has_direct") == 2  # the dict, and the root


def test_a_deep_nest_is_searched_level_by_level() -> None:
    """No level carries the keys of all above it."""
    depth = 20_000
    body = b"}K\x01" * depth + kit.dict_of({"w": T}) + b"s" * depth
    opened = psd.open(archive(body)).archive
    ref, path = find_root(opened, "auto")
    assert path == ("1",) * depth and list(opened.tensors(ref)) == ["w"]
    rows = [_Row(None, "", opened.root, "dict")]
    for _ in range(100):
        rows = _below(opened, rows, set())
    assert [row.ref for row in rows] and rows[0].path() == ("1",) * 100
    assert all(not isinstance(getattr(rows[0], name), tuple) for name in _Row.__slots__)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_state_dicts_of_numpy_arrays(protocol: int) -> None:
    """As Detectron2's model zoo has them: a plain pickle of arrays, no tensor anywhere."""
    weights = {"stem.w": W, "stem.b": np.zeros(2, "f8")}
    optimizer = {"optimizer": {"state": {0: {"m": W}}, "param_groups": []}}
    for obj, path in (
        (weights, ()),
        ({"model": weights, "__author__": "zoo", **optimizer}, ("model",)),
        ({"a": {"b": weights}, "scalar": np.float32(1)}, ("a", "b")),
    ):
        data = pickle.dumps(obj, protocol)
        found = psd.load(data, root="auto")
        assert isinstance(found, psd.StateDict)
        kit.same(dict(found), weights)
        kit.same(dict(psd.items(data)), weights)
        with psd.open(data, root="auto") as checkpoint:
            assert checkpoint.root == path
    both = pickle.dumps({"a": weights, "b": weights.copy()}, protocol)
    with pytest.raises(psd.MissingTensorError, match="2 state_dicts: a, b"):
        psd.load(both, root="auto")
    beside = archive(kit.dict_of({"w": T, "note": pickle.dumps({"x": W}, 2)[2:-1]}))
    assert list(psd.load(beside, root="auto")) == ["w", "note"]


def test_an_empty_state_dict_is_one() -> None:
    assert dict(psd.load(archive(kit.dict_of({}, True)), root="auto")) == {}
    for other in (b"]", b"N", kit.dict_of({"epoch": kit.integer(1)})):
        with pytest.raises(psd.MissingTensorError) as caught:
            psd.load(archive(other), root="auto")
        assert caught.value.hint == "load() without root= gives the object as it is"


def test_holding_is_children_without_tensors_and_values() -> None:
    many = kit.dict_of({"a": T, "n": kit.integer(3), "d": SD, "l": b"](K\x01K\x02e", "m": module()})
    mixed = b"](" + T + many + kit.integer(1) + SD + b"e"
    for body in (SD, many, mixed):
        with psd.open(archive(body)) as checkpoint:
            opened = checkpoint.archive
            rows = opened.children() or []
            wanted = [row for row in rows if row[2] not in ("tensor", "value")]
            assert opened.holding() == wanted
            assert len(wanted) < len(rows)
