# SPDX-License-Identifier: Apache-2.0
"""convert: from every format to every other, in several files, and back with ties."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _convert, _shardwrite, ops
from pystatedict._lazy import LazyTensor

RNG = np.random.default_rng(11)
LARGE = RNG.standard_normal((600, 501)).astype("f4")


def weights() -> psd.StateDict:
    return psd.StateDict(
        {
            "embed.weight": LARGE,
            "body.weight": LARGE[:5, :7].astype(ml_dtypes.bfloat16),
            "body.steps": np.array(12),
            "head.weight": LARGE,
            "empty": np.zeros((0, 4), "f2"),
        },
        metadata={"": {"version": 1}},
        trainable={"head.weight": True, "body.weight": False},
    )


def expect_weights(found: Any) -> None:
    for name, array in weights().items():
        kit.same_array(array, found[name], name, strides=False)
    assert list(found) == list(weights())


FORMATS = {"zip": "a.pth", "legacy": "a.pt", "safetensors": "a.safetensors"}


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_from_each_to_each(source: Any, target: Any, tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / FORMATS[source], tmp_path / ("out-" + FORMATS[target])
    psd.save(weights(), path, format=source)
    ops.convert(path, out, format=target, verify=True)
    found = psd.load(out)
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in weights().items()
    }
    for name, array in weights().items():
        kit.same_array(array, found[name], name, strides=False)
    assert psd.open(out).kind == {"zip": "checkpoint", "legacy": "legacy"}.get(target, target)
    flags = {name: flag for name, flag in found.trainable.items() if flag is not None}
    flags.pop("embed.weight", None)  # where it is tied the flag of the other is its own
    assert flags == {"head.weight": True, "body.weight": False}


def test_to_safetensors_and_back_with_ties(tmp_path: pathlib.Path) -> None:
    path, middle, back = (tmp_path / name for name in ("a.pth", "a.safetensors", "b.pth"))
    psd.save(weights(), path)
    ops.convert(path, middle)
    told = json.loads(psd.load(middle).attributes["__metadata__"][_convert.TIES])
    assert told == {"head.weight": "embed.weight"}
    ops.convert(middle, back)
    found = psd.load(back)
    assert np.shares_memory(found["embed.weight"], found["head.weight"])
    assert _convert.TIES not in (found.attributes.get("__metadata__") or {})
    torch = pytest.importorskip("torch")
    theirs = torch.load(back)
    assert theirs["embed.weight"].data_ptr() == theirs["head.weight"].data_ptr()
    safetensors = pytest.importorskip("safetensors.torch")
    read = safetensors.load_file(middle)
    assert torch.equal(read["head.weight"], theirs["head.weight"])
    assert torch.equal(read["body.weight"], theirs["body.weight"])


@pytest.mark.parametrize(
    "note",
    [
        '{"b": "a"}', '{"b": "none"}', '{"none": "a"}', "[1]", "{", "7", '{"b": 3}', "[" * 5000,
        '{"b": "short"}', '{"b": "b"}',
    ],
)  # fmt: skip
def test_a_note_of_ties_that_lies_is_passed_by(note: str, tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.pth"
    sd = psd.StateDict({"a": LARGE, "b": LARGE + 1, "short": LARGE[0]})
    sd.attributes["__metadata__"] = {"format": "pt", _convert.TIES: note}
    psd.save(sd, path)
    ops.convert(path, out)
    found = psd.load(out)
    kit.same_array(LARGE + 1, found["b"], strides=False)
    assert not np.shares_memory(found["a"], found["b"])


def test_the_whole_object_where_the_format_holds_it(tmp_path: pathlib.Path) -> None:
    nest = {"model": dict(weights()), "epoch": 3, "args": {"lr": 0.1, "names": ["a", None]}}
    path = tmp_path / "a.pth"
    psd.save(nest, path)
    ops.convert(path, tmp_path / "b.pth", format="legacy", verify=True)
    found = psd.load(tmp_path / "b.pth")
    assert (found["epoch"], found["args"]) == (3, nest["args"])
    expect_weights(found["model"])
    ops.convert(path, tmp_path / "c.safetensors")  # only what it can hold: the state_dict inside
    kit.same_array(LARGE, psd.load(tmp_path / "c.safetensors")["embed.weight"], strides=False)
    ops.convert(path, tmp_path / "d.pth", root="model")
    expect_weights(psd.load(tmp_path / "d.pth"))
    ops.convert(nest, tmp_path / "e.safetensors")
    with psd.open(path) as checkpoint:
        ops.convert(checkpoint, tmp_path / "f.safetensors")
    assert "model.embed.weight" in psd.open(tmp_path / "f.safetensors")


def test_npz(tmp_path: pathlib.Path) -> None:
    given = {"w": LARGE, "n": np.arange(3)}
    psd.save(given, tmp_path / "a.pth")
    ops.convert(tmp_path / "a.pth", tmp_path / "a.npz", verify=True)
    with np.load(tmp_path / "a.npz") as found:
        assert set(found) == {"w", "n"}
        kit.same_array(LARGE, found["w"])
    ops.convert(tmp_path / "a.npz", tmp_path / "b.pth", verify=True)
    kit.same_array(LARGE, psd.load(tmp_path / "b.pth")["w"])
    psd.save(weights(), tmp_path / "c.pth")
    with pytest.raises(TypeError, match="bfloat16"):
        ops.convert(tmp_path / "c.pth", tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


def test_files_as_torch_writes_them(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    for old in (True, False):
        path = tmp_path / f"{old}.pth"
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=old)
        for out in (tmp_path / "out.pth", tmp_path / "out.safetensors"):
            ops.convert(path, out, verify=True)
            found = {n: torch.from_numpy(a) for n, a in psd.load(out).items()}
            net.load_state_dict(found)
            assert all(torch.equal(v, found[n]) for n, v in net.state_dict().items())


def test_what_is_there_is_not_lost(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "a.pth", tmp_path / "out.safetensors"
    psd.save(weights(), path)
    out.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        ops.convert(path, out, overwrite=False)
    data = bytearray(path.read_bytes())
    data[data.index(LARGE.tobytes()) + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(psd.ChecksumError):
        ops.convert(path, out)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.pth",
        "a.pth.trainable.json",
        "out.safetensors",
    ]


def test_verify_reads_what_was_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pystatedict import _api

    real = _api.save

    def failing(obj: Any, f: Any, **options: Any) -> None:
        real({**obj, "embed.weight": LARGE + 1}, f, **options)

    psd.save(weights(), tmp_path / "a.pth")
    monkeypatch.setattr(_api, "save", failing)
    ops.convert(tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(psd.CorruptError) as caught:
        ops.convert(tmp_path / "a.pth", tmp_path / "b.pth", verify=True)
    assert (caught.value.code, caught.value.key) == ("written-differs", "embed.weight")

    def cutting(obj: Any, f: Any, **options: Any) -> None:
        real(obj, f, **options)
        os.truncate(f, os.path.getsize(f) - 4)

    monkeypatch.setattr(_api, "save", cutting)
    with pytest.raises(psd.CorruptError) as caught:
        ops.convert(tmp_path / "a.pth", tmp_path / "b.pth", verify=True)
    assert caught.value.code == "written-damaged"


# ------------------------------------------------------------------ shards


@pytest.mark.parametrize("format", ["safetensors", "zip"])
def test_shards(format: str, tmp_path: pathlib.Path) -> None:
    given = psd.StateDict(
        {f"layer.{i}.weight": LARGE + i for i in range(5)}, trainable={"layer.3.weight": True}
    )
    given["layer.1.tied"] = given["layer.1.weight"]
    psd.save(given, tmp_path / "a.pth")
    out = tmp_path / "shards"
    ops.convert(tmp_path / "a.pth", out, shard=3 * LARGE.nbytes, format=format, verify=True)
    stem, suffix = (
        ("model", ".safetensors") if format == "safetensors" else ("pytorch_model", ".bin")
    )
    names = sorted(p.name for p in out.iterdir())
    shards = [n for n in names if not n.endswith(".json")]
    assert shards == [f"{stem}-{i + 1:05}-of-0000{len(shards)}{suffix}" for i in range(len(shards))]
    assert len(shards) == 2
    index = json.loads((out / f"{stem}{suffix}.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * LARGE.nbytes
    assert set(index["weight_map"]) == set(given)
    assert index["weight_map"]["layer.1.tied"] == index["weight_map"]["layer.1.weight"]
    found = psd.load(out)
    for name, array in given.items():
        kit.same_array(array, found[name], name, strides=False)
    assert found.trainable["layer.3.weight"] is True
    for file in shards:
        assert sum(info.nbytes for info in psd.open(out / file).values()) <= 4 * LARGE.nbytes
    ops.convert(out, tmp_path / "back.pth", verify=True)
    assert list(psd.load(tmp_path / "back.pth")) == list(found)


def test_one_shard_has_no_number(tmp_path: pathlib.Path) -> None:
    ops.convert({"w": LARGE}, tmp_path / "one", shard="1GB")
    assert os.listdir(tmp_path / "one") == ["model.safetensors"]
    ops.convert({}, tmp_path / "none", shard="1GB")
    assert len(psd.load(tmp_path / "none" / "model.safetensors")) == 0


def test_a_tensor_larger_than_a_file_may_be(tmp_path: pathlib.Path) -> None:
    ops.convert({"a": LARGE[0], "w": LARGE, "z": LARGE[1]}, tmp_path / "s", shard=4000)
    names = {n: f.name for f in (tmp_path / "s").glob("*.safetensors") for n in psd.open(f)}
    assert len(set(names.values())) == 2 or len(set(names.values())) == 1
    files = _shardwrite.plan(
        psd.StateDict({"a": LARGE[0].copy(), "w": LARGE, "z": LARGE[1].copy()}), 5000, "safetensors"
    )
    assert files == [["a"], ["w"], ["z"]]


def test_shards_appear_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    def fail(start: int, count: int) -> Any:
        raise KeyboardInterrupt

    bad = {"a": LARGE, "b": LazyTensor((4,), "float32", fail)}
    with pytest.raises(KeyboardInterrupt):
        ops.convert(bad, tmp_path / "s", shard=LARGE.nbytes)
    assert os.listdir(tmp_path) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        ops.convert({"w": LARGE}, tmp_path / "there", shard=10)
    for wrong in ("legacy", "npz"):
        with pytest.raises(ValueError, match=wrong):
            ops.convert({"w": LARGE}, tmp_path / "s", shard=10, format=wrong)
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("5gib", 5 << 30),
        ("2.5 MB", 2_500_000),
        ("7", 7),
        (9, 9),
        ("3 KiB", 3072),
        ("1T", 10**12),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert _shardwrite.bytes_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-5GB", "5XB", "5 G B", "0", 0, -1, True, None, "1e9", "5I"]
)
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ValueError):
        _shardwrite.bytes_of(text)


def test_ties_of_arrays_and_parts_of_one_buffer(tmp_path: pathlib.Path) -> None:
    whole = np.arange(1000.0)
    ops.convert({"a": whole, "b": whole[:]}, tmp_path / "tied", shard=8000, format="zip")
    found = psd.load(tmp_path / "tied")
    assert len(list((tmp_path / "tied").glob("*.bin"))) == 1
    kit.same_array(found["a"], found["b"])
    buffer = np.zeros(10_000, "f4")
    parts = {f"p{i}": buffer[i * 1000 : (i + 1) * 1000] for i in range(10)}
    files = _shardwrite.plan(psd.StateDict({**parts, "other": LARGE[0].copy()}), 5000, "zip")
    assert files == [list(parts), ["other"]]  # they cannot be parted, and leave no room


def test_a_folder_that_cannot_be_made_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ops.convert({"w": LARGE}, tmp_path / "none" / "x", shard=10)
    assert caught.value.filename == str(tmp_path / "none" / "x")
