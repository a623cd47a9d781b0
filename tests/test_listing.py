# SPDX-License-Identifier: Apache-2.0
"""What a Checkpoint lists: every name once, in file order, with its shape."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import pystatedict as psd


def listed(path: pathlib.Path, **options: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that the infos tell, held against those that are told at once."""
    with psd.open(path, **options) as checkpoint:
        at_once = checkpoint.shapes()
        one_by_one = {name: info.shape for name, info in checkpoint.items()}
        assert list(at_once.items()) == list(one_by_one.items())
        assert list(checkpoint.shapes().items()) == list(one_by_one.items())  # after the infos
        assert [info.name for info in checkpoint.values()] == list(at_once)
    return at_once


def saved(tmp_path: pathlib.Path, obj: Any, **options: Any) -> pathlib.Path:
    path = tmp_path / "a.pth"
    psd.save(obj, path, **options)
    return path


@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_shapes_of_every_rank(tmp_path: pathlib.Path, format: str) -> None:
    model = {f"rank {rank}": np.zeros((1, 2, 3, 1, 2, 1, 3, 2, 1, 2)[:rank]) for rank in range(11)}
    model |= {"empty": np.zeros((0, 5)), "none": np.zeros(0)}
    assert listed(saved(tmp_path, model, format=format)) == {
        name: array.shape for name, array in model.items()
    }


def test_more_shapes_than_are_kept(tmp_path: pathlib.Path) -> None:
    """Those told last are kept: others take their places, and they come back."""
    shapes = [(i % 7, i % 31, i % 3) for i in range(600)]
    shapes += [(i, 1) for i in range(300)] + [(1, i) for i in range(300)]
    model = {f"w{i}": np.zeros(shape, "u1") for i, shape in enumerate(shapes)}
    assert list(listed(saved(tmp_path, model)).values()) == shapes


def test_equal_shapes_are_one_tuple(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path, {f"w{i}": np.zeros((3, 400), "u1") for i in range(5)})
    with psd.open(path) as checkpoint:
        shapes = checkpoint.shapes()
    assert all(type(size) is int for size in shapes["w0"])
    assert len({id(shape) for shape in shapes.values()}) == 1


def test_names_that_meet(tmp_path: pathlib.Path) -> None:
    """A dot in a key and a step down are spelled alike; nothing is lost."""
    one, two, three = np.zeros(1), np.zeros(2), np.zeros(3)
    path = saved(tmp_path, {"a.b": one, "a": {"b": two}, "x": {"y": {"z": one}, "y.z": three}})
    shapes = listed(path)
    assert list(shapes.values()) == [(1,), (2,), (1,), (3,)]
    names = list(shapes)
    assert names[0] == "a.b" and names[1].startswith("a.b#")
    assert names[2] == "x.y.z" and names[3].startswith("x.y.z#")
    with psd.open(path) as checkpoint:
        assert checkpoint[names[1]].numpy().shape == (2,)
        assert checkpoint[names[3]].numpy().shape == (3,)


def test_many_names_that_meet(tmp_path: pathlib.Path) -> None:
    nest: dict[str, Any] = {f"a.{i}": np.zeros(1) for i in range(300)}
    nest["a"] = [np.zeros(2) for _ in range(300)]
    shapes = listed(saved(tmp_path, nest))
    assert list(shapes.values()) == [(1,)] * 300 + [(2,)] * 300
    assert list(shapes)[:300] == [f"a.{i}" for i in range(300)]


def test_shapes_below_a_root(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path, {"model": {"w": np.zeros((2, 3))}, "step": np.zeros(())})
    assert listed(path, root="model") == {"w": (2, 3)}
    assert listed(path) == {"model.w": (2, 3), "step": ()}


def test_shapes_of_one_tensor_and_of_none(tmp_path: pathlib.Path) -> None:
    assert listed(saved(tmp_path, np.zeros((2, 2)))) == {"": (2, 2)}
    assert listed(saved(tmp_path, {"epoch": 3})) == {}


def test_shapes_of_a_set(tmp_path: pathlib.Path) -> None:
    psd.save({"a": np.zeros(1)}, tmp_path / "m-00001-of-00002.pth")
    psd.save({"b": np.zeros((2, 2))}, tmp_path / "m-00002-of-00002.pth")
    places = {"a": "m-00001-of-00002.pth", "b": "m-00002-of-00002.pth"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    assert listed(index) == {"a": (1,), "b": (2, 2)}


def test_shapes_of_a_closed_checkpoint(tmp_path: pathlib.Path) -> None:
    """What a file holds is known from its opening on, and needs it no more."""
    checkpoint = psd.open(saved(tmp_path, {"a": np.zeros(1)}))
    checkpoint.close()
    assert checkpoint.shapes() == {"a": (1,)}
