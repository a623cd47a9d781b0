# SPDX-License-Identifier: Apache-2.0
"""edit: the pickle anew, the tensors where they are, and the way back whenever it dies."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import zipfile
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _edit, ops
from pystatedict._lazy import LazyTensor

LARGE = np.random.default_rng(5).standard_normal((300, 501)).astype("f4")


def weights() -> psd.StateDict:
    return psd.StateDict(
        {
            "module.embed": LARGE,
            "module.head": LARGE,
            "module.row": LARGE[7],
            "module.column": LARGE[:, 3],
            "module.other": LARGE * 2,
            "module.empty": np.zeros((0, 2), "f4"),
            "module.steps": np.array(3),
        },
        metadata={"": {"version": 1}, "module": {"version": 2}},
        trainable={"module.head": False},
    )


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    psd.save(weights(), tmp_path / "m.pth")
    return tmp_path / "m.pth"


def expect(found: Any, rename: Any = lambda name: name.removeprefix("module.")) -> None:
    assert list(found) == [rename(name) for name in weights()]
    for name, array in weights().items():
        kit.same_array(array, found[rename(name)], name)


def test_names_change_and_no_byte_of_a_tensor_does(path: pathlib.Path) -> None:
    before = path.read_bytes()
    ops.edit(path, ops.strip_prefix)
    after = path.read_bytes()
    assert after.startswith(before)  # it only grows,
    assert len(after) - len(before) < 6000  # by a pickle and a directory
    found = psd.load(path, verify=True)
    expect(found)
    assert np.shares_memory(found["embed"], found["column"])
    assert found.trainable["head"] is False
    assert dict(found.metadata) == {"": {"version": 2}} or "" in found.metadata
    assert psd.verify(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.pth", "m.pth.trainable.json"]


def test_torch_reads_the_result(path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    for _ in range(3):
        ops.edit(path, lambda sd: ops.add_prefix(sd, "x."))
    for options in ({}, {"mmap": True}, {"weights_only": False}):
        found = torch.load(path, **options)
        for name, array in weights().items():
            assert np.array_equal(found["x.x.x." + name].numpy(), array)
        head, row = found["x.x.x.module.head"], found["x.x.x.module.row"]
        assert head.untyped_storage().data_ptr() == row.untyped_storage().data_ptr()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(set(archive.namelist()))


def test_files_that_torch_wrote(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = tmp_path / "t.pth"
    nest = {"epoch": 3, "state_dict": net.state_dict(), "optimizer": {"m": torch.ones(50_000)}}
    torch.save(nest, path)
    ops.edit(path, ops.drop_optimizer)
    found = torch.load(path)
    assert list(found) == ["epoch", "state_dict"]
    assert all(torch.equal(v, net.state_dict()[n]) for n, v in found["state_dict"].items())
    assert found["state_dict"]._metadata == net.state_dict()._metadata
    records = [row[0] for row in psd.open(path).records()]
    assert len(records) == len(set(records))
    size = path.stat().st_size
    ops.convert(path, path)  # which reclaims what was dropped
    assert path.stat().st_size < size - 200_000
    assert torch.load(path)["epoch"] == 3


def test_parameters_are_frozen(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "t.pth"
    torch.save(torch.nn.Linear(3, 4).state_dict(keep_vars=True), path)
    ops.edit(path, lambda sd: ops.freeze(sd, "weight"))
    found = torch.load(path)
    assert (found["weight"].requires_grad, found["bias"].requires_grad) == (False, True)
    assert psd.load(path).trainable["weight"] is False


def test_dropped_tensors_are_gone_and_what_shares_with_them_stays(path: pathlib.Path) -> None:
    ops.edit(path, lambda sd: ops.select(sd, "*.row", "*.steps"))
    found = psd.load(path, verify=True)
    kit.same_array(LARGE[7], found["module.row"])
    names = {row[0] for row in psd.open(path).records()}
    assert {"archive/data.pkl", "archive/version", "archive/byteorder"} < names
    assert len(names) == 5  # the storage of `row`, and that of `steps`
    ops.convert(path, path)
    assert path.stat().st_size < LARGE[7].nbytes + 2000


def test_values_and_structure(path: pathlib.Path) -> None:
    def change(sd: Any) -> Any:
        return {"model": sd, "epoch": 4, "config": {"lr": [0.1, None], "text": "x" * 5000}}

    ops.edit(path, change)
    found = psd.load(path)
    assert (found["epoch"], found["config"]["lr"]) == (4, [0.1, None])
    expect(found["model"], lambda name: name)


@pytest.mark.parametrize(
    "change",
    [
        lambda sd: {**sd, "new": LARGE},
        lambda sd: {**sd, "new": np.zeros(0, "f4")},
        lambda sd: ops.cast(sd, "float16"),
        lambda sd: {"w": LazyTensor((1,), "float32", lambda s, c: np.zeros(c, "f4"))},
        lambda sd: ops.arrays(sd),
    ],
)
def test_tensors_that_are_not_the_files(path: pathlib.Path, change: Any) -> None:
    before = path.read_bytes()
    with pytest.raises(psd.UnsupportedError) as caught:
        ops.edit(path, change)
    assert caught.value.code == "edit-foreign"
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_tensors_of_another_file(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    psd.save({"w": LARGE}, tmp_path / "other.pth")
    with pytest.raises(psd.UnsupportedError, match="as such"):
        ops.edit(path, lambda sd: ops.merge(sd, tmp_path / "other.pth"))


@pytest.mark.parametrize("format", ["legacy", "safetensors", "npz"])
def test_other_kinds(format: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    psd.save({"w": LARGE}, path, format=format)
    with pytest.raises(psd.UnsupportedError) as caught:
        ops.edit(path, ops.strip_prefix)
    assert caught.value.code == "edit-kind"


def test_what_change_raises_passes_and_nothing_is_done(path: pathlib.Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        ops.edit(path, lambda sd: 1 / 0)
    with pytest.raises(ValueError, match="no name begins"):
        ops.edit(path, lambda sd: ops.strip_prefix(sd, "nothing."))
    with pytest.raises(TypeError):
        ops.edit(path, lambda sd: {**sd, "f": print})
    assert path.read_bytes() == before


# ------------------------------------------------------------------ dying meanwhile

DYING = """
import os, sys
import pystatedict as psd
from pystatedict import _edit, _targets, ops

path, at = sys.argv[1], int(sys.argv[2])
calls = 0

def step(*args):
    global calls
    calls += 1
    if calls == at:
        os._exit(9)

def hooked(function):
    def call(*args, **options):
        step()
        result = function(*args, **options)
        step()
        return result
    return call

import io, zipfile
for name in ("fsync", "ftruncate", "unlink", "replace", "link"):
    setattr(os, name, hooked(getattr(os, name)))
write = zipfile.ZipFile._write_end_record
zipfile.ZipFile._write_end_record = hooked(write)
zipfile.ZipFile.writestr = hooked(zipfile.ZipFile.writestr)
if len(sys.argv) > 3:  # part of what is written, as a kill in the middle of a write leaves it
    real = _edit._append
    def cut(*args):
        real(*args)
        os.truncate(path, os.path.getsize(path) - int(sys.argv[3]))
        os._exit(9)
    _edit._append = cut
ops.edit(path, ops.strip_prefix)
print(calls)
"""


def die(path: pathlib.Path, *arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(path), *arguments], capture_output=True, text=True
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode


def test_killed_at_any_moment(path: pathlib.Path) -> None:
    """The old file, or the new one; and after undo() nothing else lies about."""
    before, sidecar = path.read_bytes(), pathlib.Path(f"{path}.trainable.json").read_bytes()
    killed = 0
    for at in range(1, 200):
        path.write_bytes(before)
        pathlib.Path(f"{path}.trainable.json").write_bytes(sidecar)
        if die(path, str(at)) == 0:
            break
        killed += 1
        was_there = bool(list(path.parent.glob(".*.undo")))
        assert ops.undo(path) is was_there
        assert not list(path.parent.glob(".*.undo"))
        if path.read_bytes() != before:
            assert not was_there
            expect(psd.load(path, verify=True, trainable=False))
        else:
            expect(psd.load(path, verify=True, trainable=False), lambda name: name)
    assert killed > 12


@pytest.mark.parametrize("cut", [1, 21, 22, 23, 100, 500, 800])
def test_killed_within_a_write(path: pathlib.Path, cut: int) -> None:
    before = path.read_bytes()
    assert die(path, "-1", str(cut)) == 9
    assert path.read_bytes() != before
    assert ops.undo(path)
    assert path.read_bytes() == before
    assert not ops.undo(path)


def test_the_next_edit_takes_the_file_back_first(path: pathlib.Path) -> None:
    assert die(path, "-1", "30") == 9
    ops.edit(path, ops.strip_prefix)
    expect(psd.load(path, verify=True))
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"7", b'{"size": 3}', b'{"pystatedict_undo": 1}', b"[" * 9000,
        b'{"pystatedict_undo": 1, "file": "other.pth", "size": 100}',
        b'{"pystatedict_undo": 1, "file": "m.pth", "size": -1, "crc32": 1}',
        b'{"pystatedict_undo": 1, "file": "m.pth", "size": 0, "crc32": 1}',
        b'{"pystatedict_undo": 1, "file": "m.pth", "size": 1e3, "crc32": 1}',
        b'{"pystatedict_undo": 2, "file": "m.pth", "size": 100}',
    ],
)  # fmt: skip
def test_an_undo_record_that_is_none(path: pathlib.Path, record: bytes) -> None:
    before = path.read_bytes()
    (path.parent / ".m.pth.pystatedict.undo").write_bytes(record)
    for call in (lambda: ops.undo(path), lambda: ops.edit(path, ops.strip_prefix)):
        with pytest.raises(psd.CorruptError) as caught:
            call()
        assert caught.value.code == "edit-undo"
    assert path.read_bytes() == before


def test_what_fails_while_it_is_written_is_taken_back(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    real = zipfile.ZipFile._write_end_record  # type: ignore[attr-defined]

    def fail(self: Any) -> None:
        real(self)
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "_write_end_record", fail)
    with pytest.raises(OSError, match="space"):
        ops.edit(path, ops.strip_prefix)
    monkeypatch.undo()
    assert path.read_bytes() == before
    monkeypatch.setattr(psd.Checkpoint, "shapes", lambda self: {})
    with pytest.raises(psd.CorruptError) as caught:
        ops.edit(path, ops.strip_prefix)
    assert caught.value.code == "edit-differs"
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("how", ["replaced", "in its place", "shorter"])
def test_a_file_that_was_written_anew_is_not_cut(path: pathlib.Path, how: str) -> None:
    """What an undo record tells of is gone by then."""
    pathlib.Path(f"{path}.trainable.json").unlink()
    assert die(path, "-1", "30") == 9
    large = psd.StateDict({"w": np.arange(500_000, dtype="f4")})
    data = kit.saved({"w": LARGE[0, :2]} if how == "shorter" else large)
    if how == "replaced":
        psd.save(large, path)
    else:
        path.write_bytes(data)
    before = path.read_bytes()
    assert not ops.undo(path)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))
    ops.edit(path, lambda sd: ops.add_prefix(sd, "x."))
    assert list(psd.load(path, trainable=False)) == ["x.w"]


def test_long_names_have_records_of_their_own(tmp_path: pathlib.Path) -> None:
    names = ["e" * 60 + "1.pth", "e" * 60 + "2.pth", "é" * 110 + "1.pth", "é" * 110 + "2.pth"]
    found = {_edit._undo_path(str(tmp_path / name)) for name in names}
    assert len(found) == 4
    for name in names:
        psd.save({"module.w": LARGE[0]}, tmp_path / name)
        assert die(tmp_path / name, "-1", "30") == 9
    for name in names:
        assert ops.undo(tmp_path / name)
        assert list(psd.load(tmp_path / name)) == ["module.w"]
    assert not list(tmp_path.glob(".*"))


FULL = """
import os, resource, sys
from pystatedict import ops
size = os.path.getsize(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    ops.edit(sys.argv[1], ops.strip_prefix)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit stands for a full disk")
@pytest.mark.parametrize("room", [0, 1, 300, 900])
def test_a_full_disk(path: pathlib.Path, room: int) -> None:
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(room)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "27\n"
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_what_stands_beside_the_state_dict(tmp_path: pathlib.Path) -> None:
    """NumPy's scalars, names that coincide, keys that are numbers, parts shared many times."""
    path = tmp_path / "m.pth"
    deep: list[object] = [LARGE[0]]
    for _ in range(40):
        deep = [deep, deep]
    nest = {
        "model": {"w": LARGE},
        "best": np.float64(3.5),
        "x": {"a.b": LARGE[1].copy(), "a": {"b": LARGE[2].copy()}},
        0: {"1": LARGE[3].copy()},
        "0": {1: LARGE[4].copy()},
        "deep": deep,
    }
    psd.save(nest, path)
    ops.edit(path, lambda obj: ops.within(obj, lambda sd: ops.add_prefix(sd, "y."), "model"))
    ops.convert(path, path, verify=True)
    found = psd.load(path)
    assert list(found["model"]) == ["y.w"]
    assert found["best"] == 3.5
    kit.same_array(LARGE[2], found["x"]["a"]["b"])


@pytest.mark.skipif(os.name == "nt", reason="files are locked in another way")
def test_one_at_a_time(path: pathlib.Path) -> None:
    import fcntl

    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for call in (lambda: ops.edit(path, ops.strip_prefix), lambda: ops.undo(path)):
            with pytest.raises(BlockingIOError, match="another process"):
                call()


def test_who_has_the_file_mapped_sees_what_he_saw(path: pathlib.Path) -> None:
    sd, checkpoint = psd.load(path), psd.open(path)
    ops.edit(path, lambda sd: ops.drop(sd, "*.other"))
    kit.same_array(LARGE * 2, sd["module.other"])
    kit.same_array(LARGE * 2, checkpoint["module.other"].numpy())


def test_by_a_link_and_a_relative_path(
    path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.pth").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    ops.edit("link.pth", lambda sd: ops.strip_prefix("m.pth"))
    assert (tmp_path / "link.pth").is_symlink()
    expect(psd.load("m.pth"))


def test_the_sidecar_follows(path: pathlib.Path) -> None:
    told = json.loads(pathlib.Path(f"{path}.trainable.json").read_text())["trainable"]
    assert told == {"module.head": False} or "module.head" in told
    ops.edit(path, ops.strip_prefix)
    assert psd.load_trainable(path)["head"] is False
    ops.edit(path, lambda sd: ops.drop(sd, "head", "embed", "row", "column"))
    assert dict(psd.load(path).trainable) == {"other": None, "empty": None, "steps": None}


def test_flags_that_contradict_leave_the_file_as_it_was(path: pathlib.Path) -> None:
    before = path.read_bytes()
    with pytest.raises(psd.SidecarError, match="tied tensors have different flags"):
        ops.edit(path, lambda sd: ops.unfreeze(ops.freeze(sd), "*.embed"))
    assert path.read_bytes() == before
    assert psd.load_trainable(path)["module.head"] is False


def test_names_in_other_alphabets(tmp_path: pathlib.Path) -> None:
    """Also of the file, which torch makes the name of the archive's folder."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "модель.pth"
    torch.save({"вес": torch.ones(3)}, path)
    ops.edit(path, lambda sd: ops.add_prefix(sd, "é."))
    assert torch.load(path)["é.вес"].tolist() == [1, 1, 1]
    assert _edit._undo_path(str(path)).endswith(".модель.pth.pystatedict.undo")
