# SPDX-License-Identifier: Apache-2.0
"""StateDict: a dict, with flags, metadata and what the file told."""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
import warnings
from collections import OrderedDict

import kit
import numpy as np
import pytest

import pystatedict as psd

W = np.arange(6, dtype="f4").reshape(2, 3)


def flags_of(sd: psd.StateDict) -> dict[str, bool | None]:
    return dict(sd.trainable)


def write_sidecar(path: pathlib.Path, flags: dict[str, bool]) -> pathlib.Path:
    return pathlib.Path(psd.save_trainable(path, flags))


@pytest.fixture
def parameters() -> bytes:
    """p: a trained Parameter, f: a frozen one, t: a tensor of which nothing is known."""
    body = kit.dict_of(
        {
            "p": kit.parameter(kit.tensor("0")),
            "f": kit.parameter(kit.tensor("1"), requires_grad=False),
            "t": kit.tensor("2"),
        },
        ordered=True,
    )
    return kit.archive(body, {k: W.tobytes() for k in "012"})


@pytest.fixture
def parameters_path(parameters: bytes, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "parameters.pth"
    path.write_bytes(parameters)
    return path


# ------------------------------------------------------------------ a dict


def test_it_is_a_dict() -> None:
    sd = psd.StateDict({"b": W, "a": 3})
    assert isinstance(sd, dict)
    assert list(sd) == ["b", "a"]
    assert dict(sd) == {"b": W, "a": 3}
    sd["c"] = W[0]
    del sd["b"]
    assert list(sd.items()) == [("a", 3), ("c", sd["c"])]
    assert sd.pop("a") == 3
    assert json.dumps(psd.StateDict({"x": 1})) == '{"x": 1}'
    assert {**sd}.keys() == {"c"}
    sd.update(d=1)
    assert sd == {"c": sd["c"], "d": 1}


def test_construction() -> None:
    assert psd.StateDict() == {}
    assert psd.StateDict([("a", 1)]) == {"a": 1}
    sd = psd.StateDict({"w": W, "v": W}, metadata={"": {"version": 1}}, trainable={"w": False})
    assert sd.metadata == {"": {"version": 1}}
    assert flags_of(sd) == {"w": False, "v": None}
    assert sd.source is None
    again = psd.StateDict(sd)
    assert again.metadata == sd.metadata
    assert flags_of(again) == flags_of(sd)


def test_flags_speak_of_its_own_names() -> None:
    sd = psd.StateDict({"w": W, "v": W})
    assert len(sd.trainable) == 2
    assert list(sd.trainable) == ["w", "v"]
    sd.trainable["w"] = True
    assert sd.trainable["w"] is True
    sd.trainable["w"] = None
    assert sd.trainable["w"] is None
    sd.trainable.update(w=False, v=True)
    assert flags_of(sd) == {"w": False, "v": True}
    del sd.trainable["w"]
    assert flags_of(sd) == {"w": None, "v": True}
    for name in ("absent", "W"):
        with pytest.raises(psd.MissingTensorError):
            sd.trainable[name] = True
        with pytest.raises(KeyError):
            sd.trainable[name]
        assert sd.trainable.get(name) is None
    for wrong in (1, 0, "yes", np.True_):
        with pytest.raises(TypeError, match="True, False or None"):
            sd.trainable["w"] = wrong
    assert repr(sd.trainable) == "{'w': None, 'v': True}"


def test_freeze_and_unfreeze(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    assert sd.freeze("fc2.*") == ["fc2.0.weight", "fc2.0.bias"]
    assert [k for k, v in sd.trainable.items() if v] == ["fc_final.weight", "fc_final.bias"]
    assert sd.unfreeze("*.bias") == ["fc1.0.bias", "fc2.0.bias", "fc_final.bias"]
    assert sd.trainable["fc1.0.bias"] is True
    assert sd.trainable["fc1.0.weight"] is False
    assert sd.freeze("nothing*") == []
    assert len(sd.freeze()) == 6
    assert set(sd.trainable.values()) == {False}
    assert len(sd.unfreeze()) == 6


def test_named_parameters(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    rows = [(name, p.shape, p.requires_grad) for name, p in sd.named_parameters()]
    assert rows[0] == ("fc1.0.weight", (512, 6), False)
    assert rows[-1] == ("fc_final.bias", (1,), True)
    for name, parameter in sd.named_parameters():
        assert parameter.data is sd[name]
        assert parameter.name == name
        assert parameter.numel() == sd[name].size
        assert parameter.dtype == np.float32
        assert np.asarray(parameter).base is sd[name].base
        assert repr(name) in repr(parameter)
    mixed = psd.StateDict({"w": W, "step": 3, "text": "x"})
    assert [name for name, _ in mixed.named_parameters()] == ["w"]


def test_info(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    info = sd.info("fc1.0.weight")
    assert (info.shape, info.dtype, info.name) == ((512, 6), "float32", "fc1.0.weight")
    with pytest.raises(psd.MissingTensorError) as caught:
        sd.info("fc1.0.wieght")
    assert "fc1.0.weight" in caught.value.suggestions
    with pytest.raises(KeyError):
        psd.StateDict({"w": W}).info("w")
    assert psd.load(tutorial, copy=True).info("fc1.0.weight").shape == (512, 6)


def test_repr_names_its_source(tutorial: pathlib.Path) -> None:
    assert repr(psd.load(tutorial)) == f"<StateDict of 6 entries from {str(tutorial)!r}>"
    assert repr(psd.StateDict({"w": W})) == "<StateDict of 1 entry>"


# ------------------------------------------------------------------ copies


def check_copy(mine: psd.StateDict, theirs: psd.StateDict) -> None:
    assert type(theirs) is psd.StateDict
    assert list(theirs) == list(mine)
    assert theirs.metadata == mine.metadata
    assert flags_of(theirs) == flags_of(mine)
    assert theirs.source == mine.source
    for name, value in mine.items():
        if isinstance(value, np.ndarray):
            kit.same_array(value, theirs[name], name)


@pytest.fixture
def full(parameters: bytes) -> psd.StateDict:
    sd = psd.load(parameters)
    sd.metadata = OrderedDict({"": {"version": 1}, "fc": {"version": 2}})
    sd.trainable["t"] = False
    return sd


@pytest.mark.parametrize("way", [copy.copy, psd.StateDict.copy])
def test_shallow_copy(full: psd.StateDict, way: object) -> None:
    other = way(full)
    check_copy(full, other)
    assert other["p"] is full["p"]
    assert other.info("p").shape == (2, 3)
    other.trainable["p"] = False
    other["new"] = 1
    assert full.trainable["p"] is True
    assert "new" not in full


def test_deep_copy(full: psd.StateDict) -> None:
    other = copy.deepcopy(full)
    check_copy(full, other)
    assert other["p"] is not full["p"]
    assert not np.may_share_memory(other["p"], full["p"])
    other.metadata[""]["version"] = 9
    assert full.metadata[""]["version"] == 1
    tied = psd.StateDict({"a": W, "b": W})
    twin = copy.deepcopy(tied)
    assert twin["a"] is twin["b"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(full: psd.StateDict, protocol: int) -> None:
    other = pickle.loads(pickle.dumps(full, protocol))
    check_copy(full, other)
    other.trainable["p"] = None
    assert flags_of(kit.reloaded(full, trainable="parameters")) == flags_of(full)


def test_pickled_infos_open_the_file_again(tutorial_folder: pathlib.Path) -> None:
    with psd.open("tutorial.pth") as checkpoint:
        expected = checkpoint["fc1.0.weight"].numpy()
        data = pickle.dumps(checkpoint["fc1.0.weight"])
    again = pickle.loads(data)
    assert again.name == "fc1.0.weight"
    kit.same_array(expected, again.numpy())
    psd.save({"w": W}, "tutorial.pth", trainable=False)
    with pytest.raises(psd.CorruptError, match="has changed"):
        pickle.loads(data)
    with pytest.raises(TypeError, match="path"):
        pickle.dumps(psd.load(kit.saved({"w": W})).info("w"))


# ------------------------------------------------------------------ metadata


def test_metadata_both_ways() -> None:
    metadata = OrderedDict({"": {"version": 1}, "fc": {"version": 2}})
    sd = psd.StateDict({"fc.weight": W}, metadata=metadata)
    again = kit.reloaded(sd)
    assert again.metadata == metadata
    assert again._metadata == metadata  # by torch's name
    assert "_metadata" not in again
    seen = kit.as_pickle_sees(kit.saved(sd))
    assert isinstance(seen, OrderedDict)
    assert vars(seen) == {"_metadata": metadata}
    assert kit.reloaded(again).metadata == metadata
    assert kit.reloaded({"w": W}).metadata is None


def test_other_attributes_both_ways() -> None:
    sd = psd.StateDict({"w": W})
    sd.attributes["note"] = ["kept"]
    again = kit.reloaded(sd)
    assert again.attributes == {"note": ["kept"]}
    assert vars(kit.as_pickle_sees(kit.saved(again)))["note"] == ["kept"]


def test_plain_dicts_stay_plain_dicts(small: bytes) -> None:
    sd = psd.load(small)
    assert type(kit.as_pickle_sees(kit.saved(sd))) is dict
    ordered = psd.StateDict({"w": W})
    assert type(kit.as_pickle_sees(kit.saved(ordered))) is OrderedDict


def test_loaded_dict_in_itself_and_twice(small: bytes) -> None:
    sd = psd.load(small)
    sd["me"] = sd
    again = kit.reloaded(sd)
    assert again["me"] is again
    sd = psd.load(small)
    model = kit.reloaded({"model": sd, "ema": sd})
    assert model["model"] is model["ema"]


# ------------------------------------------------------------------ where flags come from


def test_precedence_argument_sidecar_pickle(parameters_path: pathlib.Path) -> None:
    assert flags_of(psd.load(parameters_path)) == {"p": True, "f": False, "t": None}
    write_sidecar(parameters_path, {"p": False})
    assert flags_of(psd.load(parameters_path)) == {"p": False, "f": False, "t": None}
    given = psd.load(parameters_path, trainable={"p": True, "t": False})
    assert flags_of(given) == {"p": True, "f": False, "t": False}
    unread = psd.load(parameters_path, trainable=False)
    assert flags_of(unread) == {"p": True, "f": False, "t": None}


def test_a_plain_tensor_is_never_guessed_frozen(small: bytes) -> None:
    assert psd.load(small).trainable["w"] is None


def test_argument_of_flags(parameters: bytes, parameters_path: pathlib.Path) -> None:
    with pytest.raises(psd.MissingTensorError):
        psd.load(parameters, trainable={"absent": True})
    with pytest.raises(TypeError):
        psd.load(parameters, trainable={"p": "yes"})
    with pytest.raises(TypeError, match="root="):
        psd.load(kit.saved([W]), trainable={"p": True})
    elsewhere = parameters_path.with_name("flags.json")
    write_sidecar(parameters_path, {"t": True}).rename(elsewhere)
    assert psd.load(parameters_path).trainable["t"] is None
    assert psd.load(parameters_path, trainable=elsewhere).trainable["t"] is True
    assert psd.load(parameters, trainable=str(elsewhere)).trainable["t"] is True
    with pytest.raises(psd.SidecarError) as caught:
        psd.load(parameters_path, trainable="absent.json")
    assert caught.value.code == "sidecar-missing"


def test_sidecar_of_weights_inside(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "training.pth"
    psd.save({"epoch": 1, "model": {"w": W, "b": W[0].copy()}}, path)
    write_sidecar(path, {"w": False, "b": True})
    whole = psd.load(path)
    assert flags_of(whole["model"]) == {"w": False, "b": True}
    assert flags_of(psd.load(path, root="model")) == {"w": False, "b": True}
    assert flags_of(psd.load(path, root="auto")) == {"w": False, "b": True}


def test_stale_sidecar_warns_and_is_not_applied(parameters_path: pathlib.Path) -> None:
    write_sidecar(parameters_path, {"p": False, "t": True})
    sd = psd.load(parameters_path, copy=True)
    sd["t"] += 1
    sidecar = parameters_path.with_name(parameters_path.name + ".trainable.json")
    kept = sidecar.read_bytes()
    psd.save(sd, parameters_path, trainable=False)
    sidecar.write_bytes(kept)
    with pytest.warns(psd.StateDictWarning, match="not applied"):
        stale = psd.load(parameters_path)
    assert flags_of(stale) == {"p": None, "f": None, "t": None}
    with pytest.raises(psd.StaleSidecarError):
        psd.load_trainable(parameters_path)


# ------------------------------------------------------------------ where save puts them


def sidecar_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".trainable.json")


def test_flags_are_written_where_they_were(
    parameters_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """None, the default: Parameters stay Parameters, what was said since goes beside."""
    out = tmp_path / "out.pth"
    sd = psd.load(parameters_path)
    psd.save(sd, out)
    assert not sidecar_of(out).exists()
    assert flags_of(psd.load(out)) == {"p": True, "f": False, "t": None}
    assert b"_rebuild_parameter" in kit.pickle_in(out.read_bytes())
    sd.trainable["t"] = False
    psd.save(sd, out)
    assert psd.load_trainable(out) == {"t": False}
    assert flags_of(psd.load(out)) == {"p": True, "f": False, "t": False}


def test_flags_beside(parameters_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.pth"
    psd.save(psd.load(parameters_path), out, trainable="sidecar")
    assert psd.load_trainable(out) == {"p": True, "f": False}
    assert flags_of(psd.load(out)) == {"p": True, "f": False, "t": None}


def test_flags_inside(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.pth"
    sd = psd.StateDict({"p": W, "f": W.copy(), "t": W.copy()}, trainable={"p": True, "f": False})
    psd.save(sd, out, trainable="parameters")
    assert not sidecar_of(out).exists()
    again = psd.load(out)
    assert flags_of(again) == {"p": True, "f": False, "t": None}
    assert [again.info(k).kind == "parameter" for k in "pft"] == [True, True, False]


def test_no_flags_at_all(parameters_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.pth"
    psd.save(psd.load(parameters_path), out, trainable=False)
    assert not sidecar_of(out).exists()
    assert b"_rebuild_parameter" not in kit.pickle_in(out.read_bytes())
    assert flags_of(psd.load(out)) == {"p": None, "f": None, "t": None}


def test_old_sidecar_never_wins_over_what_was_said_since(parameters_path: pathlib.Path) -> None:
    """It stays bound, when the tensors are the same, so it has to follow."""
    wanted = {"p": True, "f": False, "t": None}
    for mode in (None, "sidecar", "parameters"):
        write_sidecar(parameters_path, {"p": False})
        sd = psd.load(parameters_path)
        assert sd.trainable["p"] is False
        sd.trainable["p"] = True
        psd.save(sd, parameters_path, trainable=mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert flags_of(psd.load(parameters_path)) == wanted, mode
    assert not sidecar_of(parameters_path).exists()
    write_sidecar(parameters_path, {"p": False})
    psd.save(psd.load(parameters_path), parameters_path, trainable=False)
    assert flags_of(psd.load(parameters_path)) == {"p": None, "f": None, "t": None}


def test_old_sidecar_of_other_tensors_is_noticed(parameters_path: pathlib.Path) -> None:
    """Nobody said anything of the new ones: it is left, and not applied."""
    write_sidecar(parameters_path, {"t": True})
    psd.save({"other": W}, parameters_path)
    with pytest.warns(psd.StateDictWarning, match="another version"):
        assert flags_of(psd.load(parameters_path)) == {"other": None}
    assert sidecar_of(parameters_path).exists()


def test_flags_of_weights_inside_go_beside(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "training.pth"
    model = psd.StateDict({"w": W, "b": W[0].copy()}, trainable={"w": False, "b": True})
    psd.save({"model": model, "epoch": 1}, path)
    assert psd.load_trainable(path) == {"w": False, "b": True}
    whole = psd.load(path)
    whole["epoch"] = 2
    whole["model"].trainable["b"] = False
    psd.save(whole, path)
    assert psd.load(path)["epoch"] == 2
    assert flags_of(psd.load(path)["model"]) == {"w": False, "b": False}


def test_sidecar_needs_a_path() -> None:
    sd = psd.StateDict({"w": W}, trainable={"w": True})
    with pytest.raises(ValueError, match="path"):
        kit.saved(sd, trainable="sidecar")


def test_integers_cannot_be_trained() -> None:
    sd = psd.StateDict({"w": W, "steps": np.array(3)}, trainable={"w": True, "steps": True})
    with pytest.raises(ValueError, match="'steps' holds integers"):
        kit.saved(sd, trainable="parameters")
    sd.trainable["steps"] = False
    assert flags_of(kit.reloaded(sd, trainable="parameters")) == {"w": True, "steps": False}


def test_saving_over_the_file_keeps_its_flags(tutorial_folder: pathlib.Path) -> None:
    path = tutorial_folder / "tutorial.pth"
    before = psd.load_trainable(path)
    sd = psd.load(path)
    sd["fc_final.bias"] += 1
    psd.save(sd, path)
    assert psd.load_trainable(path) == before
    assert flags_of(psd.load(path)) == before


def test_parameters_keep_flags_that_were_changed(
    parameters_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out.pth"
    sd = psd.load(parameters_path)
    sd.trainable["p"] = False
    psd.save(sd, out)
    assert flags_of(psd.load(out)) == {"p": False, "f": False, "t": None}
    psd.save(sd, out, trainable="parameters")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flags_of(psd.load(out)) == {"p": False, "f": False, "t": None}


def test_flags_of_nested_state_dicts(parameters: bytes) -> None:
    sd = psd.load(parameters)
    again = kit.reloaded({"model": sd, "epoch": 1})
    assert flags_of(again["model"]) == {"p": True, "f": False, "t": None}
    said = psd.StateDict({"w": W}, trainable={"w": True})
    inside = kit.reloaded({"model": said}, trainable="parameters")
    assert flags_of(inside["model"]) == {"w": True}


def test_tensor_attributes_both_ways() -> None:
    """Python attributes of a tensor, as torch keeps them, stay with it."""
    attributes = kit.call("collections", "OrderedDict")
    over = kit.storage("0", "FloatStorage", 6)
    args = (kit.integer(0), kit.sizes((2, 3)), kit.sizes((3, 1)), kit.boolean(False), attributes)
    inner = kit.tuple_of(over, *args)
    state = kit.dict_of({"note": kit.text("kept")})
    function = kit.named("torch._utils", "_rebuild_tensor_v2")
    whole = kit.call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        function,
        kit.named("torch", "Tensor"),
        inner,
        state,
    )
    sd = psd.load(kit.archive(kit.dict_of({"w": whole}), {"0": W.tobytes()}))
    kit.same_array(W, sd["w"])
    assert sd.tensor_attributes == {"w": {"note": "kept"}}
    again = kit.reloaded(sd)
    assert again.tensor_attributes == {"w": {"note": "kept"}}
    assert kit.reloaded(copy.copy(sd)).tensor_attributes == {"w": {"note": "kept"}}
    assert kit.reloaded(sd, trainable=False).tensor_attributes == {"w": {"note": "kept"}}


def test_what_is_spoken_is_what_trainable_says() -> None:
    """All at once and one by one, whoever says it: the pickle, a mark, or the user."""
    names = ["told", "silent", "said", "forgotten", "unsaid"]
    parameter = kit.parameter(kit.tensor())
    body = kit.dict_of(
        {name: kit.tensor() if name == "silent" else parameter for name in names}, True
    )
    sd = psd.load(kit.archive(body, {"0": bytes(24)}))
    sd.trainable["said"] = False
    sd.trainable["forgotten"] = None
    marked = psd.StateDict({"marked": sd["told"], "plain": np.zeros(2)})
    for each in (sd, marked, psd.StateDict({"w": np.zeros(2)})):
        assert each._spoken() == {k: v for k, v in each.trainable.items() if v is not None}
        assert list(each._spoken()) == [k for k in each if each.trainable[k] is not None]
    assert sd._spoken() == {"told": True, "said": False, "unsaid": True}
    assert marked._spoken() == {"marked": True}
