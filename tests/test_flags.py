# SPDX-License-Identifier: Apache-2.0
"""Trainable flags on their way through objects, files and sidecars; none is lost or made up."""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

W = np.arange(6, dtype="<f4").reshape(2, 3)
B = np.ones(3, "f4")
PARAMETERS = kit.archive(
    kit.dict_of(
        {
            "w": kit.parameter(kit.tensor(), True),
            "v": kit.parameter(kit.tensor(), False),
            "leaf": kit.tensor(requires_grad=True),
            "plain": kit.tensor(),
        },
        True,
    ),
    {"0": W.tobytes()},
)
TOLD = {
    "w": ("parameter", True),
    "v": ("parameter", False),
    "leaf": (None, True),
    "plain": (None, None),
}


def sidecar(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".trainable.json")


def told(data: Any) -> dict[str, tuple[str | None, bool | None]]:
    return {name: (i.kind, i.requires_grad) for name, i in psd.open(data).items()}


WAYS = {
    "as loaded": lambda sd: sd,
    "StateDict()": psd.StateDict,
    "copy()": lambda sd: sd.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda sd: pickle.loads(pickle.dumps(sd)),
    "reordered": lambda sd: [sd.update(w=sd.pop("w")), sd][1],
    "replaced arrays": lambda sd: [sd.update({k: v + 1 for k, v in sd.items()}), sd][1],
}


@pytest.mark.parametrize("way", WAYS)
def test_what_the_pickle_told_survives_every_copy(way: str) -> None:
    sd = WAYS[way](psd.load(PARAMETERS))
    assert told(kit.saved(sd)) == TOLD
    sd.trainable["w"] = False
    sd.trainable["leaf"] = None
    again = WAYS[way](sd)
    assert again.trainable["w"] is False
    assert again.trainable["leaf"] is None
    assert told(kit.saved(again)) == {**TOLD, "w": ("parameter", False), "leaf": (None, None)}


def test_an_open_checkpoint_is_saved_with_its_flags() -> None:
    assert told(kit.saved(psd.open(PARAMETERS))) == TOLD
    rows = psd.items(psd.open(PARAMETERS), trainable=True)
    assert [(n, flag) for n, _, flag in rows] == [(n, flag) for n, (_, flag) in TOLD.items()]


def test_an_open_checkpoint_knows_its_sidecar(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W, "b": B}, trainable={"w": False}), path)
    with psd.open(path) as checkpoint:
        assert checkpoint.trainable == {"w": False, "b": None}
        rows = list(psd.items(checkpoint, trainable=True))
        assert [(n, flag) for n, _, flag in rows] == [("w", False), ("b", None)]
        psd.save(checkpoint, tmp_path / "copy.pth")
    assert psd.load(tmp_path / "copy.pth").trainable["w"] is False


# ------------------------------------------------------------------ old sidecars


def test_nobody_knows_is_said_too(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W, "b": B}, trainable={"w": True}), path)
    sd = psd.load(path)
    sd.trainable["w"] = None
    psd.save(sd, path)
    assert not sidecar(path).exists()
    assert psd.load(path).trainable["w"] is None


def test_one_flag_fewer_is_written_as_such(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W, "b": B}, trainable={"w": True, "b": False}), path)
    sd = psd.load(path)
    del sd.trainable["w"]
    psd.save(sd, path)
    assert psd.load_trainable(path) == {"b": False}


@pytest.mark.parametrize("obj", [{"w": W, "b": B}, psd.StateDict({"w": W, "b": B})])
@pytest.mark.parametrize("trainable", [False, "parameters"])
def test_flags_that_are_left_out_leave_no_old_sidecar(
    obj: Any, trainable: Any, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W, "b": B}, trainable={"w": True}), path)
    psd.save(obj, path, trainable=trainable)
    assert not sidecar(path).exists()


def test_who_says_nothing_leaves_the_sidecar(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W, "b": B}, trainable={"w": True}), path)
    psd.save({"w": W, "b": B}, path)
    assert psd.load(path).trainable["w"] is True
    psd.save({"w": W + 1, "b": B}, path)
    with pytest.warns(psd.StateDictWarning, match="another version"):
        assert psd.load(path).trainable["w"] is None


# ------------------------------------------------------------------ several state_dicts


def test_flags_of_two_state_dicts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.pth"
    model = psd.StateDict({"w": W, "b": B}, trainable={"w": True, "b": False})
    ema = psd.StateDict({"w": W + 1, "b": B + 1}, trainable={"w": False})
    psd.save({"model": model, "ema": ema, "epoch": 3}, path, trainable="sidecar")
    said = json.loads(sidecar(path).read_text())
    assert said["root"] == ""
    assert said["trainable"] == {"model.w": True, "model.b": False, "ema.w": False}
    whole = psd.load(path)
    assert dict(whole["model"].trainable) == {"w": True, "b": False}
    assert dict(whole["ema"].trainable) == {"w": False, "b": None}
    assert dict(psd.load(path, root="ema").trainable) == {"w": False, "b": None}
    assert psd.open(path, root="model").trainable == {"w": True, "b": False}
    assert psd.load_trainable(path) == said["trainable"]
    assert psd.load_trainable(path, root="model") == {"w": True, "b": False}
    whole["ema"].trainable["w"] = None
    psd.save(whole, path)
    assert psd.load_trainable(path, root="ema") == {}
    assert psd.load_trainable(path, root="model") == {"w": True, "b": False}


def test_the_root_of_flags_is_recorded(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.pth"
    model = psd.StateDict({"w": W, "b": B}, trainable={"w": True})
    psd.save({"runs": [{"model": model, "other": {"w": B}}]}, path)
    assert json.loads(sidecar(path).read_text())["root"] == "runs.0.model"
    assert psd.load(path)["runs"][0]["model"].trainable["w"] is True
    assert psd.load(path)["runs"][0]["other"].trainable["w"] is None
    assert psd.load(path, root="runs.0.model").trainable["w"] is True
    assert psd.load_trainable(path) == {"w": True}
    psd.save_trainable(path, {"w": False}, root="runs.0.other")
    assert psd.load(path)["runs"][0]["other"].trainable["w"] is False
    assert psd.load(path)["runs"][0]["model"].trainable["w"] is None


def test_a_sidecar_of_a_part_that_is_gone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.pth"
    psd.save({"model": psd.StateDict({"w": W}, trainable={"w": True})}, path)
    psd.save({"net": {"w": W}}, path)
    with pytest.warns(psd.StateDictWarning, match="not applied"):
        assert psd.load(path)["net"].trainable["w"] is None
    with pytest.raises((psd.StaleSidecarError, psd.MissingTensorError)):
        psd.load_trainable(path)


def test_the_argument_stands_above_the_sidecar_name_by_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W, "b": B}, trainable={"w": True, "b": False}), path)
    assert dict(psd.load(path, trainable={"w": False}).trainable) == {"w": False, "b": False}


# ------------------------------------------------------------------ all is checked first

BAD = {
    "no tensor": lambda: psd.StateDict({"w": W, "step": 3}, trainable={"step": True}),
    "contradicting ties": lambda: psd.StateDict(
        {"w": W, "tied": W}, trainable={"w": True, "tied": False}
    ),
    "contradicting windows": lambda: psd.StateDict(
        {"w": W, "tied": W[:]}, trainable={"w": True, "tied": False}
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_the_old_file_survives_flags_that_cannot_be_written(
    bad: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "m.pth"
    psd.save(psd.StateDict({"w": W}, trainable={"w": True}), path)
    before = path.read_bytes(), sidecar(path).read_bytes()
    with pytest.raises(psd.SidecarError) as caught:
        psd.save(BAD[bad](), path, trainable="sidecar")
    assert caught.value.path == str(sidecar(path))
    assert (path.read_bytes(), sidecar(path).read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pth", "m.pth.trainable.json"]


def test_one_array_under_two_names_has_one_flag() -> None:
    sd = psd.StateDict({"w": W, "tied": W}, trainable={"w": True, "tied": False})
    with pytest.raises(ValueError, match="same array"):
        kit.saved(sd, trainable="parameters")


def test_freeze_speaks_of_tensors_only(tmp_path: pathlib.Path) -> None:
    sd = psd.StateDict({"w": W, "step": 3, "note": "x", 7: B})
    assert sd.freeze("*") == ["w"]
    psd.save(sd, tmp_path / "m.pth")
    assert psd.load(tmp_path / "m.pth").trainable["w"] is False


def test_keys_that_are_numbers(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.pth"
    sd = psd.StateDict({7: W, "b": B})
    sd.trainable[7] = True  # type: ignore[index]
    psd.save(sd, path)
    assert psd.load(path).trainable[7] is True


def test_flags_of_other_kinds_of_tensors() -> None:
    q = psd.QuantizedTensor(np.arange(3, dtype="i1"), "qint8", scale=0.5, zero_point=0)
    s = psd.SparseTensor("sparse_coo", (3,), indices=np.array([[1]]), values=np.ones(1, "f4"))
    sd = psd.StateDict({"q": q, "s": s}, trainable={"q": False, "s": True})
    assert told(kit.saved(sd, trainable="parameters")) == {
        "q": ("parameter", False),
        "s": ("parameter", True),
    }
    assert told(kit.saved(sd)) == {"q": (None, None), "s": (None, None)}


def test_infos_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sd = psd.load(PARAMETERS)
    assert sd.info("w") is sd.info("w")


# ------------------------------------------------------------------ other containers


def test_flags_of_files_without_checksums(tmp_path: pathlib.Path) -> None:
    """A legacy stream states no CRC: its storages are read, and a changed value is noticed."""
    path = tmp_path / "old.pth"
    path.write_bytes(kit.legacy({"w": W}))
    psd.save_trainable(path, {"w": True})
    said = json.loads(sidecar(path).read_text())["checkpoint"]
    assert "records_sha256" not in said
    assert psd.load(path).trainable["w"] is True
    path.write_bytes(kit.legacy({"w": W + 1}))
    with pytest.warns(psd.StateDictWarning, match="another version"):
        assert psd.load(path).trainable["w"] is None
