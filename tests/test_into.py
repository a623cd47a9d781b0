# SPDX-License-Identifier: Apache-2.0
"""load_state_dict: weights into a target of arrays, in place, all or nothing."""

import copy
import pickle
import warnings

import ml_dtypes
import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _into


def f4(*shape):
    return np.zeros(shape, np.float32)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


class Linear:
    def __init__(self, rows, columns):
        self.weight = f4(rows, columns)
        self.bias = f4(rows)
        self.name = "linear"
        self._cache = f4(1)


class Net:
    def __init__(self):
        self.layers = [Linear(2, 3), Linear(4, 2)]
        self.heads = {"a": Linear(1, 4)}
        self.scale = np.array(0.0)
        self.me = self


NAMES = [
    "layers.0.weight",
    "layers.0.bias",
    "layers.1.weight",
    "layers.1.bias",
    "heads.a.weight",
    "heads.a.bias",
    "scale",
]


# ------------------------------------------------------------------------ filling


def test_fills_a_dict_in_place():
    target = {"w": f4(2, 3), "b": f4(3)}
    w = target["w"]
    got = psd.load_state_dict(target, {"w": ones(2, 3), "b": np.arange(3, dtype="f4")})
    assert target["w"] is w
    assert w.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert target["b"].tolist() == [0, 1, 2]
    assert repr(got) == "<All keys matched successfully>"


def test_fills_objects_lists_and_dicts():
    net = Net()
    weights = {
        name: np.full(array.shape, n, array.dtype)
        for n, (name, array) in enumerate(_into._arrays_of(net).items())
    }
    assert list(weights) == NAMES
    psd.load_state_dict(net, weights)
    assert net.layers[1].bias.tolist() == [3, 3, 3, 3]
    assert net.heads["a"].weight.tolist() == [[4, 4, 4, 4]]
    assert net.scale == 6


def test_fills_from_a_file(tmp_path):
    path = tmp_path / "m.pth"
    psd.save({"epoch": 3, "model": {"w": ones(2)}}, path, trainable=False)
    for source in (path, str(path)):
        target = {"w": f4(2)}
        psd.load_state_dict(target, source)
        assert target["w"].tolist() == [1, 1]
    with psd.open(path) as checkpoint:
        target = {"model": {"w": f4(2)}}
        psd.load_state_dict(target, checkpoint)
        assert target["model"]["w"].tolist() == [1, 1]


def test_names_beyond_the_walk_can_be_filled():
    class Model:
        hidden = f4(1)  # of the class

        def __init__(self):
            self.shared = Linear(1, 1)
            self.again = self.shared
            self._private = f4(1)

        @property
        def computed(self):
            return self.shared.bias

    model = Model()
    assert list(_into._arrays_of(model)) == ["shared.weight", "shared.bias"]
    names = ["again.weight", "_private", "computed", "hidden"]
    got = psd.load_state_dict(
        model, {n: ones(*(1, 1) if n == "again.weight" else (1,)) for n in names}, strict=False
    )
    assert got.missing_keys == ["shared.weight", "shared.bias"]
    assert got.unexpected_keys == []
    for array in (model.shared.weight, model.shared.bias, model._private, Model.hidden):
        assert array.sum() == 1


def test_keys_with_dots_below_the_top():
    target = {"model": {"layers.0.weight": f4(1)}, 3: [f4(1)]}
    psd.load_state_dict(target, {"model.layers.0.weight": ones(1), "3.0": ones(1)})
    assert target["model"]["layers.0.weight"] == 1
    assert target[3][0] == 1
    hidden = Linear(1, 1)
    hidden._cache = {"a.b": f4(1)}
    psd.load_state_dict(hidden, {"_cache.a.b": ones(1)}, strict=False)
    assert hidden._cache["a.b"] == 1


def test_slots():
    class Slotted:
        __slots__ = ("unset", "weight")

        def __init__(self):
            self.weight = f4(2)

    target = Slotted()
    psd.load_state_dict(target, {"weight": ones(2)})
    assert target.weight.tolist() == [1, 1]


def test_views_strides_and_byte_order_of_the_target_are_kept():
    whole = f4(4, 4)
    target = {"t": whole.T[1:, ::-2], "big": np.zeros(2, ">f4"), "empty": f4(0, 3)}
    psd.load_state_dict(
        target,
        {
            "t": np.arange(6, dtype="f4").reshape(3, 2),
            "big": np.array([1, 2], "<f4"),
            "empty": f4(0, 3),
        },
    )
    assert whole.T[1:, ::-2].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert target["big"].dtype == ">f4"
    assert target["big"].tolist() == [1, 2]


# ------------------------------------------------------------------- overlapping


def test_swapped_aliases():
    a, b = np.arange(4.0), np.arange(4.0) + 10
    psd.load_state_dict({"a": a, "b": b}, {"a": b, "b": a})
    assert a.tolist() == [10, 11, 12, 13]
    assert b.tolist() == [0, 1, 2, 3]


def test_overlapping_windows():
    line = np.arange(10.0)
    target = {"head": line[:6], "other": f4(1), "tail": line[6:]}
    psd.load_state_dict(target, {"tail": line[:4], "other": ones(1), "head": line[4:]})
    assert line.tolist() == [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]


def test_reversed_source():
    line = np.arange(5.0)
    psd.load_state_dict({"a": line}, {"a": line[::-1]})
    assert line.tolist() == [4, 3, 2, 1, 0]
    line, other = np.arange(6.0), np.zeros(4)
    psd.load_state_dict({"a": line[:4], "b": other}, {"a": np.ones(4), "b": line[5:1:-1]})
    assert other.tolist() == [5, 4, 3, 2]


def test_one_destination_within_another():
    line = np.arange(8.0)
    target = {"all": line, "part": line[2:4]}
    psd.load_state_dict(target, {"all": np.zeros(8), "part": line[5:7]})
    assert line.tolist() == [0, 0, 5, 6, 0, 0, 0, 0]


class Watched(np.ndarray):
    def copy(self, *_):
        raise AssertionError("needless copy")


def test_distinct_sources_are_not_copied():
    line = np.arange(12.0)
    source = line[4:8].view(Watched)
    psd.load_state_dict({"a": line[:4], "b": line[8:]}, {"a": source, "b": source})
    assert line.tolist() == [4, 5, 6, 7] * 3


# ---------------------------------------------------------------------- refusing


def refused(target, weights, **options):
    before = copy.deepcopy(_into._arrays_of(target))
    with pytest.raises(psd.MismatchError) as caught:
        psd.load_state_dict(target, weights, **options)
    for name, array in _into._arrays_of(target).items():
        assert np.array_equal(array, before[name]), name
    return caught.value


def test_everything_at_once_and_nothing_copied():
    target = {"good": f4(1), "shape": f4(3), "dtype": f4(2), "gone": f4(1), "frozen": f4(1)}
    target["frozen"].flags.writeable = False
    weights = {
        "good": ones(1),
        "shape": ones(4),
        "dtype": ones(2, dtype=np.float64),
        "new\x1b[2J": ones(1),
        "frozen": ones(1),
    }
    error = refused(target, weights)
    assert error.missing_keys == ["gone"]
    assert error.unexpected_keys == ["new\x1b[2J"]
    assert error.mismatched == ["shape", "dtype", "frozen"]
    assert str(error) == (
        "does not fit the dict target; nothing was copied\n"
        "  size mismatch for shape: file (4,), target (3,)\n"
        "  dtype mismatch for dtype: file float64, target float32\n"
        "  cannot copy frozen: the target's array is read-only\n"
        "  missing:    gone\n"
        "  unexpected: new\\x1b[2J\n"
        "  mismatched: shape, dtype, frozen\n"
        "  hint: strict=False ignores missing and unexpected keys; shapes must match; "
        "cast=True converts dtypes within a kind"
    )


def test_the_file_is_named(tmp_path):
    path = tmp_path / "m.pth"
    psd.save({"w": ones(2)}, path, trainable=False)
    error = refused({"w": f4(3)}, path)
    assert str(error).startswith(f"'{path}': does not fit the dict target; nothing was copied\n")
    assert error.path == str(path)


def test_strict():
    target, weights = {"a": f4(1), "b": f4(1)}, {"b": ones(1), "c": ones(1)}
    error = refused(target, weights)
    assert (error.missing_keys, error.unexpected_keys) == (["a"], ["c"])
    assert refused({"a": f4(1)}, {}).missing_keys == ["a"]
    assert refused({}, {"c": f4(1)}).unexpected_keys == ["c"]
    got = psd.load_state_dict(target, weights, strict=False)
    assert got == (["a"], ["c"])
    assert got.missing_keys == ["a"]
    assert got.unexpected_keys == ["c"]
    assert target["b"] == 1
    assert repr(got) == "IncompatibleKeys(missing_keys=['a'], unexpected_keys=['c'])"
    assert pickle.loads(pickle.dumps(got)) == got
    missing, unexpected = copy.copy(got)
    assert (missing, unexpected) == (["a"], ["c"])


def test_shapes_must_match_without_strict_too():
    error = refused({"a": f4(1, 3), "b": f4(1)}, {"a": ones(3)}, strict=False, cast=True)
    assert error.missing_keys == []
    assert "file (3,), target (1, 3)" in str(error)


def test_many_mismatches_are_counted():
    target = {str(n): f4(2) for n in range(100)}
    error = refused(target, {name: ones(3) for name in target})
    assert "size mismatch for 96 more" in str(error)
    assert len(error.mismatched) == 100
    assert str(error).count("\n") < 10


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (3.0, ones(1), "the target has a value of type float there, no array"),
        (f4(1), {"deep": 1}, "the state_dict has a value of type dict there, no array"),
        (f4(1), None, "type NoneType there"),
        (f4(1), "text", "type str there"),
        (f4(), object(), "the state_dict has a value of type object"),
        (np.broadcast_to(f4(1), 3).view(), ones(3), "read-only"),
        (np.lib.stride_tricks.as_strided(f4(1), (3,), (0,)), ones(3), "repeats one element"),
    ],
)
def test_what_cannot_be_copied(place, value, text):
    error = refused({"x": place}, {"x": value})
    assert text in str(error)
    assert error.mismatched == ["x"]


def test_wrong_arguments():
    with pytest.raises(TypeError, match="second argument must be a mapping"):
        psd.load_state_dict({}, [("a", ones(1))])
    for target in (f4(1), 3, "model.pth", None, Net):
        with pytest.raises(TypeError, match="the target must be"):
            psd.load_state_dict(target, {})
    with pytest.raises(ValueError, match=r"two arrays named 'a\.b'"):
        psd.load_state_dict({"a.b": f4(1), "a": {"b": f4(1)}}, {})


def test_names_that_are_no_text_are_unexpected():
    assert refused({}, {3: ones(1)}).unexpected_keys == ["3"]


# ----------------------------------------------------------------------- casting


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("float64", "float32", True),
        ("float32", "float64", True),
        ("int64", "int32", True),
        ("int64", "float32", True),
        ("bool", "float32", True),
        ("float32", "int64", False),
        ("complex64", "float32", False),
        ("int64", "bool", False),
        ("int8", "uint8", False),
        ("bfloat16", "float32", True),
        ("float32", "bfloat16", True),
        ("bfloat16", "float16", True),
        ("bfloat16", "float8_e5m2", True),
        ("int64", "bfloat16", True),
        ("bool", "bfloat16", True),
        ("bfloat16", "complex64", True),
        ("bfloat16", "int32", False),
        ("bfloat16", "bool", False),
        ("complex64", "bfloat16", False),
        ("float32", "int4", False),
        ("int4", "int8", True),
    ],
)
def test_casting(source, target, allowed):
    def dtype(name):
        return np.dtype(getattr(ml_dtypes, name, name))

    value = np.array([0, 1]).astype(dtype(source))
    place = np.ones(2, dtype(target))
    assert "dtype mismatch for x" in str(refused({"x": place}, {"x": value}))
    if allowed:
        psd.load_state_dict({"x": place}, {"x": value}, cast=True)
        assert place.dtype == dtype(target)
        assert [complex(x) for x in place] == [0, 1]
    else:
        assert "another kind" in str(refused({"x": place}, {"x": value}, cast=True))


def test_a_warning_while_casting_changes_nothing():
    target = {"a": f4(1), "b": f4(1)}
    weights = {"a": ones(1, dtype=np.float64), "b": np.array([1e300])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            psd.load_state_dict(target, weights, cast=True)
    assert target["a"] == 0


# -------------------------------------------------------------------- odd targets


def test_deep_and_circular_targets_end():
    deep = node = {}
    for _ in range(5000):
        node["x"] = {}
        node = node["x"]
    node["w"] = f4(1)
    assert psd.load_state_dict(deep, {}) == ([], [])
    circle = [f4(1)]
    circle.append(circle)
    name = ".".join(["1"] * 100_000)
    got = psd.load_state_dict(circle, {"0": ones(1), name: ones(1)}, strict=False)
    assert got == ([], [name])
    assert circle[0] == 1


def test_an_index_that_is_none():
    target = [f4(1)]
    names = ["-1", "1", "00", "٠", "9" * 100_000, "", "0.", "0.x"]
    got = psd.load_state_dict(target, {name: ones(1) for name in names if name != "00"}, False)
    assert got == (["0"], [name for name in names if name != "00"])
