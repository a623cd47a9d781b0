# SPDX-License-Identifier: Apache-2.0
"""Programs of torch.export (.pt2): their weights by name, of today's layout and of older ones."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from typing import Any

import kit
import numpy as np
import pytest
from test_script import DATA, ROWS, check, mutated

import pystatedict as psd

PROGRAMS = [row for row in ROWS if row["file"].endswith(".pt2")]


def unsaid(row: dict[str, Any]) -> dict[str, Any]:
    """Of what a checkpoint within the archive holds only parameters tell whether they train."""
    file = row["file"]
    if file != "program_old.pt2":
        return row
    names = ("first.", "tied.", "short")
    tensors = [
        entry | {"trainable": entry["trainable"] if entry["name"].startswith(names) else None}
        for entry in row["tensors"]
    ]
    return row | {"tensors": tensors}


@pytest.mark.parametrize("row", PROGRAMS, ids=lambda row: f"{row['file']}-{row['root']}")
def test_state_dicts_are_what_torch_says(row: dict[str, Any]) -> None:
    path = DATA / row["file"]
    check(psd.load(path, root=row["root"], verify=True), unsaid(row))
    with psd.open(path, root=row["root"]) as checkpoint:
        assert list(checkpoint) == [entry["name"] for entry in row["tensors"]]
        for entry in row["tensors"]:
            info = checkpoint[entry["name"]]
            assert info.dtype == entry["dtype"] and list(info.shape) == entry["shape"]
            assert np.array_equal(pickle.loads(pickle.dumps(info)).numpy(), info.numpy())


def test_views_keep_their_strides() -> None:
    found = psd.load(DATA / "program.pt2")
    assert found.info("view").stride == (4, 2)
    assert found["view"].strides == (16, 8)
    assert np.may_share_memory(found["view"], found["base"])
    assert found.info("view").kind == "buffer"
    assert found.info("first.bias").kind == "parameter"


def test_auto_is_the_state_dict() -> None:
    found = psd.load(DATA / "program.pt2", root="auto")
    assert list(found) == list(psd.load(DATA / "program.pt2"))
    rows = psd.items(DATA / "program.pt2", trainable=True, pattern="first.*")
    assert [(name, flag) for name, _, flag in rows] == [
        ("first.weight", True),
        ("first.bias", False),
    ]
    assert psd.load(DATA / "program.pt2", root="first.bias").shape == (2,)


def test_several_programs_are_named() -> None:
    path = DATA / "programs.pt2"
    with pytest.raises(psd.UnsupportedError, match=r"2 programs: one, two\.b"):
        psd.load(path)
    with pytest.raises(psd.MissingTensorError):
        psd.load(path, root="three")
    assert psd.load(path, root="two.b.weight").shape == (1, 2)
    assert list(psd.load(path, root="one.constants")) == ["constant", "passing"]


# ------------------------------------------------------------------ by hand


def meta(**changes: Any) -> dict[str, Any]:
    told = {
        "dtype": 7,
        "sizes": [{"as_int": 2}, {"as_int": 3}],
        "strides": [{"as_int": 3}, {"as_int": 1}],
        "storage_offset": {"as_int": 0},
        "device": {"type": "cuda", "index": 1},
        "requires_grad": True,
        "layout": 7,
    }
    return told | changes


def payload(**changes: Any) -> dict[str, Any]:
    told = {"path_name": "weight_0", "is_param": True, "use_pickle": False}
    return told | {"tensor_meta": meta()} | changes


def program(config: Any, **more: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("p/archive_format", "pt2")
        out.writestr("p/models/model.json", "{}")
        out.writestr("p/data/weights/weight_0", np.arange(6, dtype="<f4").tobytes())
        text = config if isinstance(config, str) else json.dumps(config)
        out.writestr("p/data/weights/model_weights_config.json", text)
        for name, data in more.items():
            out.writestr(f"p/{name}", data)
    return file.getvalue()


def one(**changes: Any) -> bytes:
    return program({"config": {"w": payload(**changes)}})


def told(**changes: Any) -> bytes:
    return one(tensor_meta=meta(**changes))


def test_a_program_by_hand() -> None:
    found = psd.load(program({"config": {"w": payload(), "b": payload(is_param=False)}}))
    assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert dict(found.trainable) == {"w": True, "b": False}
    assert found.info("w").device == "cuda:1"
    assert np.may_share_memory(found["w"], found["b"])
    assert list(psd.load(program({"w": payload()}))) == ["w"]


def test_the_longest_name_of_a_program_wins() -> None:
    more = {
        "data/weights/model.b_weights_config.json": json.dumps({"v": payload()}).encode(),
        "data/weights/a_weights_config.json": json.dumps({"u": payload()}).encode(),
    }
    data = program({"b.w": payload()}, **more)
    assert list(psd.load(data, root="model.b")) == ["v"]
    assert list(psd.load(data, root="model")) == ["b.w"]
    assert psd.load(data, root="a.u").shape == (2, 3)


def test_big_endian_programs() -> None:
    data = program({"config": {"w": payload()}}, byteorder=b"big")
    native = np.arange(6, dtype="<f4").view(">f4").astype("f4").reshape(2, 3)
    assert np.array_equal(psd.load(data)["w"], native)


BAD: dict[str, Callable[[], bytes]] = {
    "no json": lambda: program("{"),
    "deep json": lambda: program("[" * 100_000),
    "a list": lambda: program([]),
    "a number": lambda: program({"config": 3}),
    "no meta": lambda: one(tensor_meta=None),
    "no record": lambda: one(path_name="weight_9"),
    "a path out": lambda: one(path_name="../../archive_format"),
    "no name": lambda: one(path_name=None),
    "too large": lambda: told(sizes=[{"as_int": 9}, {"as_int": 3}]),
    "negative": lambda: told(storage_offset={"as_int": -1}),
    "an expression": lambda: told(sizes=[{"as_expr": {"expr_str": "s0"}}, {"as_int": 3}]),
    "overflow": lambda: told(sizes=[{"as_int": 1 << 70}, {"as_int": 3}]),
    "a bool": lambda: told(sizes=[{"as_int": True}, {"as_int": 3}]),
    "few strides": lambda: told(strides=[{"as_int": 1}]),
    "half a name": lambda: program('{"config": {"\\ud800": {}}}'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_programs_are_corrupt(name: str) -> None:
    with pytest.raises(psd.CorruptError):
        psd.load(BAD[name]())


def test_what_is_not_read_is_named() -> None:
    for data in (one(use_pickle=True), told(layout=1), told(dtype=99), told(dtype="7")):
        with pytest.raises(psd.UnsupportedError) as raised:
            psd.load(data)
        assert raised.value.key == "w"
    with pytest.raises(psd.LimitError):
        psd.load(told(sizes=[{"as_int": 1}] * 65, strides=[{"as_int": 1}] * 65))
    with pytest.raises(psd.UnsupportedError, match="no constants"):
        psd.load(one(), root="constants")


def test_lists_in_the_place_of_numbers_are_not_shown() -> None:
    for layout in (["x" * 100_000], {"x": "y" * 100_000}, "y" * 100_000):
        with pytest.raises(psd.UnsupportedError) as raised:
            psd.load(told(layout=layout))
        assert len(str(raised.value)) < 500


def test_a_text_that_inflates_to_very_much() -> None:
    """Honest ones pack to a fortieth, and what is read of a text is larger than its bytes."""
    for count, refused in ((3_000_000, True), (2_000_000, False)):
        file = io.BytesIO(program("[" + "[]," * count + "[]]"))
        packed = io.BytesIO()
        with zipfile.ZipFile(file) as read, zipfile.ZipFile(packed, "w", 8) as out:
            for name in read.namelist():
                out.writestr(name, read.read(name))
        with pytest.raises(psd.LimitError if refused else psd.CorruptError) as raised:
            psd.load(packed.getvalue())
        assert refused == ("larger than the limit" in str(raised.value))


def test_compiled_programs_are_named() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("p/archive_format", "pt2")
        out.writestr("p/data/aotinductor/model/x.so", b"\x7fELF")
    with pytest.raises(psd.UnsupportedError, match="holds no weights"):
        psd.load(file.getvalue())


def test_weights_as_a_checkpoint_within() -> None:
    """Archives of development builds between the two layouts."""
    inner = kit.archive(
        kit.dict_of({"w": kit.parameter(kit.tensor())}), {"0": np.arange(6, dtype="<f4").tobytes()}
    )
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as out:
            out.writestr("p/archive_format", "pt2")
            out.writestr("p/data/weights/model.pt", inner)
        found = psd.load(file.getvalue())
        assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found.trainable["w"] is True


@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x05\x06" + bytes(18)])
def test_a_checkpoint_within_that_is_none(data: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("version", "8.4")
        out.writestr("serialized_exported_program.json", "{}")
        out.writestr("serialized_state_dict.pt", data)
    with pytest.raises(psd.StateDictError) as raised:
        psd.load(file.getvalue())
    assert not isinstance(raised.value, psd.NotACheckpointError)


def test_the_old_layout_maps_its_checkpoint() -> None:
    path = DATA / "program_old.pt2"
    assert psd.identify(path) == "torch-export"
    found = psd.load(path)
    found["first.bias"][:] = 7.0
    assert not np.array_equal(psd.load(path)["first.bias"], found["first.bias"])


@pytest.mark.parametrize("name", ["program.pt2", "program_old.pt2"])
def test_mutated_programs(name: str) -> None:
    with zipfile.ZipFile(DATA / name) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    chosen = [n for n in records if n.endswith(("_config.json", "state_dict.pt"))]
    made = random.Random(name)
    for _ in range(300):
        changed = dict(records)
        record = made.choice(chosen)
        changed[record] = mutated(changed[record], made)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as out:
            for key, data in changed.items():
                out.writestr(key, data)
        for root in (None, "auto", "constants"):
            try:
                psd.load(file.getvalue(), root=root)
                list(psd.open(file.getvalue(), root=root))
            except psd.StateDictError:
                pass


@pytest.mark.oracle
def test_against_torch(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval()
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),)), path)
    theirs = torch.export.load(path).state_dict
    ours = psd.load(path)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor.detach().numpy())
        assert ours.trainable[name] is tensor.requires_grad
