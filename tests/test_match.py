# SPDX-License-Identifier: Apache-2.0
"""match: the report of load_state_dict for two files, and the suggestions that repair names."""

from __future__ import annotations

import json
import pathlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isolated import run

import pystatedict as psd

Arrays = dict[str, np.ndarray]


def zeros(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)


def model(
    layers: int = 12,
    *,
    stack: str = "layers",
    attn: str = "attn",
    q: str = "q",
    fc: str = "fc1",
    norm: str = "norm",
    prefix: str = "",
) -> Arrays:
    found = {"embed.weight": zeros(100, 8), "head.weight": zeros(10, 8)}
    for i in range(layers):
        parts = {
            f"{attn}.{q}.weight": (8, 8),
            f"{attn}.k.weight": (8, 8),
            f"{attn}.v.weight": (8, 8),
            f"{fc}.weight": (32, 8),
            f"{fc}.bias": (32,),
            f"{norm}1.weight": (8,),
            f"{norm}2.weight": (8,),
        }
        found |= {f"{stack}.{i}.{name}": zeros(*shape) for name, shape in parts.items()}
    return {prefix + name: array for name, array in found.items()}


def repaired(found: psd.Match, arrays: Arrays) -> Arrays:
    return {found.rename.get(name, name): array for name, array in arrays.items()}


def told(found: psd.Match) -> list[str]:
    return [str(suggestion) for suggestion in found.suggestions]


# ------------------------------------------------------------------ the report


def test_all_at_once() -> None:
    a = {
        "same": zeros(2),
        "shape": zeros(2, 3),
        "type": zeros(2),
        "both": zeros(1),
        "extra": zeros(9),
    }
    b = {"same": zeros(2), "shape": zeros(3, 2), "type": np.zeros(2), "both": np.zeros(7)}
    b["wanted"] = zeros(5)
    found = psd.match(a, b)
    assert not found
    assert found.matched == 1
    assert found.missing == {"wanted": ((5,), "float32")}
    assert found.unexpected == {"extra": ((9,), "float32")}
    assert found.reshaped == {"shape": ((2, 3), (3, 2)), "both": ((1,), (7,))}
    assert found.retyped == {"type": ("float32", "float64"), "both": ("float32", "float64")}
    assert found.suggestions == () and found.rename == {}
    told = found.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["fits"] is False and told["missing"] == {
        "wanted": {"shape": [5], "dtype": "float32"}
    }
    text = str(found)
    assert "1 name match; 1 missing, 1 unexpected, 2 reshaped, 2 retyped" in text
    assert "  shape   [2, 3]   -> [3, 2]" in text.splitlines()
    assert repr(found).startswith("<Match: 1 match, 1 missing")


def test_it_agrees_with_load_state_dict() -> None:
    a = {"w": np.ones(2), "x": np.ones(3), "y": np.ones((2, 2)), "t": np.ones(1, "f4")}
    b = {"w": np.zeros(2), "z": np.zeros(4), "y": np.zeros((4, 1)), "t": np.zeros(1)}
    found = psd.match(a, b)
    with pytest.raises(psd.MismatchError) as caught:
        psd.load_state_dict(b, a)
    assert list(found.missing) == list(caught.value.missing_keys)
    assert list(found.unexpected) == list(caught.value.unexpected_keys)
    assert {*found.reshaped, *found.retyped} == set(caught.value.mismatched)
    assert psd.match(a, a) and not psd.load_state_dict(a, a).missing_keys


def test_all_match() -> None:
    found = psd.match(model(), dict(reversed(model().items())))
    assert found and found.matched == 86
    assert str(found).splitlines()[-1] == "all 86 names match"
    assert psd.match({}, {})


def test_files_of_any_kind_and_roots(tmp_path: pathlib.Path) -> None:
    arrays = {"w": np.ones(2, "f4"), "n": np.zeros((1, 3))}
    psd.save({"model": psd.StateDict(arrays), "epoch": 1}, tmp_path / "m.pth")
    psd.save(arrays, tmp_path / "m.safetensors")
    psd.save(arrays, tmp_path / "m.pt", format="legacy")
    sides = [*tmp_path.iterdir(), arrays]
    assert all(psd.match(a, b) for a in sides for b in sides)
    found = psd.match(tmp_path / "m.pth", arrays, root=(None, "auto"))
    assert told(found) == ["strip the prefix 'model.'"]
    assert found.paths == (str(tmp_path / "m.pth"), None)


def test_numpy_is_not_imported(tmp_path: pathlib.Path) -> None:
    psd.save({"module.w": np.ones(2)}, tmp_path / "a.pth")
    psd.save({"w": np.ones(2)}, tmp_path / "b.pth")
    code = (
        "import sys, pystatedict as psd\n"
        "found = psd.match(*sys.argv[1:])\n"
        "assert found.rename == {'module.w': 'w'}, str(found)\n"
        "assert 'numpy' not in sys.modules\n"
    )
    run.succeed("-c", code, tmp_path / "a.pth", tmp_path / "b.pth")


# ------------------------------------------------------------------ suggestions


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "state_dict.", "module._orig_mod.", "net.0."]
)
def test_prefixes(prefix: str) -> None:
    wrapped, plain = model(prefix=prefix), model()
    found = psd.match(wrapped, plain)
    assert told(found) == [f"strip the prefix '{prefix}'"]
    assert found.suggestions[0].count == 86
    assert psd.match(repaired(found, wrapped), plain)
    found = psd.match(plain, wrapped)
    assert told(found) == [f"add the prefix '{prefix}'"]
    assert psd.match(repaired(found, plain), wrapped)


def test_a_prefix_is_no_set_of_letters() -> None:
    """As lstrip("module.") takes it, which spoils `model.weight` and `loud.weight`."""
    plain = {"loud.weight": zeros(2), "module": zeros(3), "dull.e": zeros(4)}
    wrapped = {f"module.{name}": array for name, array in plain.items()}
    found = psd.match(wrapped, plain)
    assert found.rename == {f"module.{name}": name for name in plain}


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_only_equal_shapes_match(shape: tuple[int, ...]) -> None:
    assert psd.match({"module.w": zeros(2)}, {"w": zeros(*shape)}).rename == {}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"stack": "blocks"}, ["replace 'blocks' by 'layers'"]),
        ({"stack": "encoder.blocks"}, ["replace 'encoder.blocks' by 'layers'"]),
        ({"stack": "a.b.c.d"}, ["replace 'a.b.c.d' by 'layers'"]),
        ({"attn": "self_attn"}, ["replace 'self_attn' by 'attn'"]),
        ({"attn": "attn.inner"}, ["leave out 'inner'"]),
        ({"q": "query"}, ["replace 'query' by 'q'"]),
        ({"fc": "mlp.up"}, ["replace 'mlp.up' by 'fc1'"]),
        ({"stack": "h", "prefix": "module."}, None),
        ({"stack": "encoder.blocks", "fc": "mlp.up", "q": "query"}, None),
        ({"norm": "ln_", "stack": "h"}, None),
    ],
)
def test_paths(changed: dict[str, str], expected: list[str] | None) -> None:
    other, plain = model(**changed), model()  # type: ignore[arg-type]
    found = psd.match(other, plain)
    if expected is not None:
        assert told(found) == expected
    assert list(repaired(found, other)) == list(plain)
    assert psd.match(repaired(found, other), plain)
    back = psd.match(plain, other)
    assert back.rename == {new: old for old, new in found.rename.items()}


def test_of_a_model_with_fewer_layers_what_is_there_is_found() -> None:
    a, b = model(4, stack="blocks", prefix="m."), model(6)
    found = psd.match(a, b)
    rest = psd.match(repaired(found, a), b)
    assert not rest.unexpected
    assert len(rest.missing) == 14 and all(
        n.startswith(("layers.4", "layers.5")) for n in rest.missing
    )


def test_old_names_of_norms() -> None:
    a = {f"layer.{i}.LayerNorm.{n}": zeros(8) for i in range(3) for n in ("gamma", "beta")}
    b = {f"layer.{i}.LayerNorm.{n}": zeros(8) for i in range(3) for n in ("weight", "bias")}
    found = psd.match(a, b)
    assert sorted(told(found)) == ["replace 'beta' by 'bias'", "replace 'gamma' by 'weight'"]


def test_of_equal_shapes_the_names_that_are_alike_are_taken() -> None:
    a = {f"h.{i}.{n}.w": zeros(8, 8) for i in range(3) for n in ("q", "k", "v")}
    b = {f"h.{i}.{n}.w": zeros(8, 8) for i in range(3) for n in ("value", "query", "key")}
    expected = ["replace 'k' by 'key'", "replace 'q' by 'query'", "replace 'v' by 'value'"]
    assert sorted(told(psd.match(a, b))) == expected


def test_what_could_be_either_is_not_guessed() -> None:
    a = {f"a.{i}.p.x.{n}": zeros(8) for i in range(3) for n in ("one", "two")}
    b = {f"b.{i}.q.y.z.{n}": zeros(8) for i in range(3) for n in ("uno", "dos")}
    assert psd.match(a, b).suggestions == ()
    ends = {f"b.{i}.q.y.z.{n}": zeros(8) for i in range(3) for n in ("two", "one")}
    assert len(psd.match(a, ends).rename) == 6
    assert psd.match({"q.x.a.w": zeros(2), "q.a.x.w": zeros(2)}, {"q.a.w": zeros(2)}).rename == {}


def test_single_names_of_a_shape_of_their_own() -> None:
    a = {"classifier.weight": zeros(10, 3), "x": zeros(5), "p1": zeros(7), "p2": zeros(7)}
    b = {"head.weight": zeros(10, 3), "completely": zeros(5), "q1": zeros(7), "q2": zeros(7)}
    found = psd.match(a, b)
    assert told(found) == ["rename 'classifier.weight' to 'head.weight'"]


def test_no_name_is_given_twice() -> None:
    a = {"module.w": zeros(2), "model.w": zeros(2), "net.w": zeros(2)}
    assert len(psd.match(a, {"w": zeros(2)}).rename) == 1
    found = psd.match({**a, "w": zeros(2)}, {"w": zeros(2)})
    assert found.rename == {}


NAMES = st.lists(st.sampled_from(["a", "b", "w", "0", "1", ""]), min_size=1, max_size=5).map(
    ".".join
)
SIDES = st.dictionaries(NAMES, st.sampled_from([(), (1,), (2,)]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES)
def test_suggestions_are_true_whatever_the_names(
    a: dict[str, tuple[int, ...]], b: dict[str, tuple[int, ...]]
) -> None:
    old, new = ({n: zeros(*s) for n, s in side.items()} for side in (a, b))
    found = psd.match(old, new)
    rename = found.rename
    assert len(rename) == sum(s.count for s in found.suggestions) == len({*rename.values()})
    for name, other in rename.items():
        assert name in found.unexpected and other in found.missing
        assert a[name] == b[other]
    for each in found.suggestions:
        for name, other in each.names.items():
            if each.kind == "strip":
                assert name == each.old + other
            elif each.kind == "add":
                assert other == each.new + name
            elif each.kind == "replace":
                assert _replaced(name, each.old, each.new, other)
    after = psd.match(repaired(found, old), new)
    assert after.matched == found.matched + len(rename)
    assert psd.match(old, new).to_dict() == found.to_dict()


def _replaced(name: str, old: str, new: str, other: str) -> bool:
    """Whether `other` is `name` with the path `new` at one of the places of `old`."""
    parts, olds, news = (
        name.split("."),
        old.split(".") if old else [],
        new.split(".") if new else [],
    )
    empty = [[""]] if not old or not new else []
    return any(
        ".".join(parts[:i] + put + parts[i + len(gone) :]) == other
        for gone in [olds, *(empty if not old else [])]
        for put in [news, *(empty if not new else [])]
        for i in range(len(parts) + 1)
        if parts[i : i + len(gone)] == gone
    )


# ------------------------------------------------------------------ text and time


def test_hostile_names_are_escaped() -> None:
    name = "module.\x1b[31m\n\u202e.w"
    found = psd.match({name: zeros(2)}, {"other.\x00.v": zeros(2), "\ud800": zeros(3)})
    assert str(found).replace("\n", "").isprintable()
    assert repr(found.suggestions).isprintable()
    found = psd.match({"\x1b[0m.w": zeros(2)}, {"w": zeros(2)})
    assert told(found) == ["strip the prefix '\\x1b[0m.'"]


def test_long_lists_are_cut_unless_all_is_asked_for() -> None:
    found = psd.match(model(), {})
    assert "and 66 more" in str(found)
    assert "more" not in found.report()


def _random(seed: int, count: int) -> Arrays:
    random = np.random.default_rng(seed)
    parts = random.choice(list("abcdefgh0123"), (count, 6))
    return {".".join(row) + f".{i}": zeros(1) for i, row in enumerate(parts)}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (model(2860, prefix="module."), model(2860)),
        (model(2860, stack="encoder.blocks", fc="mlp.up"), model(2860)),
        (_random(1, 20_000), _random(2, 20_000)),
        (
            {f"a{i}.w": zeros(1) for i in range(20_000)},
            {f"b{i}.w": zeros(1) for i in range(20_000)},
        ),
        ({f"a.{i}": zeros(i) for i in range(20_000)}, {f"b.{i}": zeros(i) for i in range(20_000)}),
        ({"." * 200_000 + str(i): zeros(1) for i in range(9)}, {"." * 200_001: zeros(1)}),
    ],
    ids=["prefix", "paths", "random", "alike", "shapes", "dots"],
)
def test_the_time_is_linear_in_the_names(a: Arrays, b: Arrays) -> None:
    """Each with each would take minutes."""
    before = time.process_time()
    psd.match(a, b).report()
    assert time.process_time() - before < 10
