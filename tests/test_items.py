# SPDX-License-Identifier: Apache-2.0
"""items(): the tutorial's loops over names, arrays and flags."""

from __future__ import annotations

import pathlib
from collections import OrderedDict
from types import MappingProxyType

import kit
import numpy as np
import pytest

import pystatedict as psd

W = np.arange(6, dtype="f4").reshape(2, 3)


def test_pairs_in_file_order(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    found = list(psd.items(tutorial))
    assert [name for name, _ in found] == list(sd)
    for name, array in found:
        kit.same_array(sd[name], array, name)


def test_triples_with_flags(tutorial: pathlib.Path) -> None:
    found = {name: flag for name, _, flag in psd.items(tutorial, trainable=True)}
    assert found == {
        "fc1.0.weight": False,
        "fc1.0.bias": False,
        "fc2.0.weight": True,
        "fc2.0.bias": True,
        "fc_final.weight": True,
        "fc_final.bias": True,
    }


def test_flags_that_nobody_said(small: bytes) -> None:
    assert [(name, flag) for name, _, flag in psd.items(small, trainable=True)] == [("w", None)]
    assert [row[2] for row in psd.items({"w": W}, trainable=True)] == [None]


def test_of_a_state_dict_that_was_changed(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    sd.freeze("fc2.*")
    sd["new"] = W
    flags = {name: flag for name, _, flag in psd.items(sd, trainable=True)}
    assert flags["fc2.0.bias"] is False
    assert flags["fc_final.bias"] is True
    assert flags["new"] is None


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType, psd.StateDict])
def test_of_mappings(kind: type) -> None:
    mapping = kind({"a": W, "n": 3, "b": W[0], "text": "x"})
    found = dict(psd.items(mapping))
    assert list(found) == ["a", "b"]  # tensors only
    assert found["a"] is W


def test_of_an_open_checkpoint(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    with psd.open(tutorial) as checkpoint:
        found = dict(psd.items(checkpoint))
    for name, array in sd.items():
        kit.same_array(array, found[name], name)


def test_finds_the_weights_of_a_training_checkpoint() -> None:
    data = kit.saved({"epoch": 1, "model": {"w": W}, "optimizer": {"state": {0: {"m": W}}}})
    assert [name for name, _ in psd.items(data)] == ["w"]
    with pytest.raises(psd.MissingTensorError, match="2 state_dicts"):
        list(psd.items(kit.saved({"a": {"w": W}, "b": {"w": W}})))


def test_patterns(tutorial: pathlib.Path) -> None:
    def names(pattern: object) -> list[str]:
        return [name for name, _ in psd.items(tutorial, pattern=pattern)]

    everything = names(None)
    assert len(everything) == 6
    assert names("*") == everything
    assert names("*.bias") == ["fc1.0.bias", "fc2.0.bias", "fc_final.bias"]
    assert names(["fc1.*", "fc_final.bias"]) == ["fc1.0.weight", "fc1.0.bias", "fc_final.bias"]
    assert names(lambda name: "2" in name) == ["fc2.0.weight", "fc2.0.bias"]
    assert names("FC1.*") == []  # as it is written
    assert names([]) == []
    assert names("fc1.0.weigh?") == ["fc1.0.weight"]


def test_lazy_errors_are_those_of_load(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(iter(psd.items(tmp_path / "absent.pth")))
    with pytest.raises(psd.NotACheckpointError):
        list(psd.items(b"<!DOCTYPE html>"))


def test_arrays_can_be_written_to(tutorial_folder: pathlib.Path) -> None:
    before = (tutorial_folder / "tutorial.pth").read_bytes()
    for _, array in psd.items("tutorial.pth"):
        array *= 0
    assert (tutorial_folder / "tutorial.pth").read_bytes() == before


def test_meta_tensors_come_as_they_are_listed() -> None:
    told = (kit.sizes((2, 3)), kit.sizes((3, 1)), kit.boolean(False))
    of = (kit.named("torch", "float32"), *told)
    meta = kit.call("torch._utils", "_rebuild_meta_tensor_no_storage", *of)
    data = kit.archive(kit.dict_of({"m": meta, "w": kit.tensor("1")}), {"1": W.tobytes()})
    for source in (data, psd.load(data), psd.open(data)):
        (name, info, flag), (_, array, _) = psd.items(source, trainable=True)
        assert (name, info.shape, info.is_meta, flag) == ("m", (2, 3), True, None)
        kit.same_array(W, array)


def test_nothing_of_an_empty_state_dict() -> None:
    assert list(psd.items(kit.saved({}))) == []
    assert list(psd.items({}, trainable=True)) == []
