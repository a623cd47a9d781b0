# SPDX-License-Identifier: Apache-2.0
"""Trainable flags beside the checkpoint: layout, binding, ties, damage."""

import hashlib
import json
import os
import stat
import warnings
import zipfile
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pystatedict as psd
from pystatedict import _flags, _sidecar

W = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(4, dtype=np.float32)
FLAGS = {"fc.weight": True, "fc.bias": False}


def sidecar(path):
    return path.with_name(path.name + ".trainable.json")


def document(path):
    return json.loads(sidecar(path).read_text())


@pytest.fixture
def schema():
    text = resources.files("pystatedict").joinpath("trainable.schema.json").read_text()
    return json.loads(text)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.pth"
    psd.save({"fc.weight": W, "fc.bias": B, "fc.mean": B + 1}, path, trainable=False)
    return path


@pytest.fixture
def tied(tmp_path):
    path = tmp_path / "tied.pth"
    psd.save({"emb": W, "head": W, "row": W[0], "free": B}, path, trainable=False)
    return path


# ------------------------------------------------------------------------ layout


def test_what_is_written(model, schema):
    jsonschema = pytest.importorskip("jsonschema")
    path = psd.save_trainable(model, {**FLAGS, "fc.mean": None}, buffers=["fc.mean"])
    assert path == str(sidecar(model))
    text = sidecar(model).read_text()
    said = json.loads(text)
    jsonschema.Draft202012Validator(schema).validate(said)
    assert said["checkpoint"].pop("records_sha256") == by_zipfile(model)
    assert len(said["checkpoint"].pop("tensors_sha256")) == 64
    assert said == {
        "format": "pystatedict.trainable",
        "version": 1,
        "checkpoint": {"name": "model.pth", "bytes": model.stat().st_size},
        "root": "",
        "trainable": FLAGS,
        "buffers": ["fc.mean"],
        "writer": f"pystatedict {psd.__version__}",
    }
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def by_zipfile(path):
    """The digest as the documented torch-side snippet computes it."""
    rec = sorted(
        (i.filename.split("/", 1)[1], i.CRC, i.file_size) for i in zipfile.ZipFile(path).infolist()
    )
    return hashlib.sha256("".join(f"{n}\t{c:08x}\t{s}\n" for n, c, s in rec).encode()).hexdigest()


def test_flags_come_back_in_file_order(model):
    psd.save_trainable(model, {"fc.bias": False, "fc.weight": True})
    assert list(psd.load_trainable(model).items()) == [("fc.weight", True), ("fc.bias", False)]
    psd.save_trainable(str(model), {})
    assert psd.load_trainable(os.fsencode(model)) == {}


def test_tensors_digest_by_hand(tmp_path):
    from zlib import crc32

    path = tmp_path / "m.pth"
    psd.save({"w": W, "last": W[:, 3], "вес": np.array(3, np.int64)}, path, trainable=False)
    psd.save_trainable(path, {})
    w = f"{crc32(W.tobytes()):08x}"
    scalar = f"{crc32(np.array(3, '<i8').tobytes()):08x}"
    lines = f"last\tfloat32\t3\t{w}\t3\t4\nw\tfloat32\t3x4\t{w}\nвес\tint64\t\t{scalar}\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert document(path)["checkpoint"]["tensors_sha256"] == expected


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.booleans()))
def test_any_names(tmp_path_factory, flags):
    path = tmp_path_factory.mktemp("names") / "m.pth"
    psd.save({name: np.array(n) for n, name in enumerate(flags)}, path, trainable=False)
    psd.save_trainable(path, flags, root=None)
    assert sidecar(path).read_bytes().isascii()
    assert psd.load_trainable(path, root=None) == flags


@pytest.mark.parametrize(
    ("said", "valid"),
    [
        ({}, True),
        ({"checkpoint": {"records_sha256": "0" * 64}}, True),
        ({"checkpoint": {"tensors_sha256": "0" * 64, "more": 1}, "unknown": []}, True),
        ({"checkpoint": {}}, False),
        ({"checkpoint": {"records_sha256": "A" * 64}}, False),
        ({"checkpoint": {"records_sha256": "0" * 64, "bytes": -1}}, False),
        ({"checkpoint": {"records_sha256": "0" * 64, "name": 1}}, False),
        ({"checkpoint": []}, False),
        ({"version": 2}, False),
        ({"version": True}, False),
        ({"format": "other"}, False),
        ({"trainable": {"a": 1}}, False),
        ({"trainable": {"a": None}}, False),
        ({"trainable": []}, False),
        ({"buffers": ["a", "b"]}, True),
        ({"buffers": ["a", "a"]}, False),
        ({"buffers": [1]}, False),
        ({"buffers": "a"}, False),
        ({"writer": 1}, False),
    ],
)
def test_reader_and_schema_agree(tmp_path, schema, said, valid):
    jsonschema = pytest.importorskip("jsonschema")
    said = {"format": "pystatedict.trainable", "version": 1, "trainable": {}, **said}
    assert jsonschema.Draft202012Validator(schema).is_valid(said) is valid
    path = tmp_path / "m.trainable.json"
    path.write_text(json.dumps(said))
    if valid:
        assert _sidecar.read_sidecar(str(path)) is not None
    else:
        with pytest.raises(psd.SidecarError):
            _sidecar.read_sidecar(str(path))


# ----------------------------------------------------------------------- binding


def test_survives_copying_and_renaming(model, tmp_path):
    psd.save_trainable(model, FLAGS)
    other = model.rename(tmp_path / "other.pth")
    sidecar(model).rename(sidecar(other))
    assert psd.load_trainable(other) == dict(FLAGS)


def test_survives_saving_the_same_tensors_again(model):
    psd.save_trainable(model, FLAGS)
    before = by_zipfile(model)
    again = {"fc.weight": W, "fc.bias": B, "fc.mean": B + 1, "epoch": 3}
    psd.save(again, model)
    assert by_zipfile(model) != before
    assert psd.load_trainable(model) == dict(FLAGS)


def test_one_changed_value_is_noticed(model):
    psd.save_trainable(model, FLAGS)
    changed = W.copy()
    changed[0, 0] += 1e-6
    psd.save({"fc.weight": changed, "fc.bias": B, "fc.mean": B + 1}, model)
    with pytest.raises(psd.StaleSidecarError) as caught:
        psd.load_trainable(model)
    assert caught.value.path == str(sidecar(model))
    assert caught.value.code == "stale-sidecar"
    then = document(model)["checkpoint"]["tensors_sha256"][:8]
    assert f"tensors {then}… then, " in str(caught.value)
    with pytest.warns(psd.StateDictWarning, match="another version") as warned:
        assert psd.load_trainable(model, on_stale="warn") == FLAGS
    assert [w.filename for w in warned] == [__file__]
    assert psd.load_trainable(model, on_stale="ignore") == FLAGS
    with pytest.raises(ValueError, match="on_stale"):
        psd.load_trainable(model, on_stale="never")


def test_names_that_the_file_lacks_are_stale(model):
    psd.save_trainable(model, FLAGS)
    said = document(model)
    said["trainable"]["gone"] = True
    sidecar(model).write_text(json.dumps(said))
    with pytest.raises(psd.StaleSidecarError, match="'gone'"):
        psd.load_trainable(model)
    assert psd.load_trainable(model, on_stale="ignore") == FLAGS


def test_without_checksums(tmp_path):
    path = tmp_path / "m.pth"
    psd.save({"a": W[0], "b": B}, path, checksum=False)
    psd.save_trainable(path, {"a": True})
    assert set(document(path)["checkpoint"]) == {"name", "bytes", "tensors_sha256"}
    assert psd.load_trainable(path) == {"a": True}
    psd.save({"a": W[1], "b": B}, path, checksum=False)
    with pytest.raises(psd.StaleSidecarError):
        psd.load_trainable(path)


def test_windows_of_one_storage_are_told_apart(tmp_path):
    path = tmp_path / "m.pth"
    psd.save({"a": W[0], "b": W[1]}, path, checksum=False)
    psd.save_trainable(path, {"a": True})
    psd.save({"a": W[1], "b": W[0]}, path, checksum=False)
    with pytest.raises(psd.StaleSidecarError):
        psd.load_trainable(path)


def test_a_weak_binding_is_said(tmp_path):
    path = tmp_path / "m.pth"
    psd.save({"a": B}, path, trainable=False, checksum=False)
    said = {"format": "pystatedict.trainable", "version": 1, "trainable": {"a": False}}
    sidecar(path).write_text(json.dumps(said))
    with pytest.warns(psd.StateDictWarning, match="only the names were compared"):
        assert psd.load_trainable(path) == {"a": False}
    said["checkpoint"] = {"records_sha256": by_zipfile(path)}
    sidecar(path).write_text(json.dumps(said))
    with pytest.warns(psd.StateDictWarning, match="names and sizes only"):
        assert psd.load_trainable(path) == {"a": False}
    assert psd.load_trainable(path, on_stale="ignore") == {"a": False}


def test_the_state_dict_inside(tmp_path):
    path = tmp_path / "ckpt.pth"
    psd.save({"epoch": 3, "model": {"fc.weight": W, "fc.bias": B}}, path, trainable=False)
    psd.save_trainable(path, FLAGS)
    assert psd.load_trainable(path) == FLAGS
    psd.save_trainable(path, {"model.fc.bias": True}, root=None)
    assert psd.load_trainable(path, root=None) == {"model.fc.bias": True}


# -------------------------------------------------------------------------- ties


def test_a_flag_holds_for_all_tied_names(tied):
    psd.save_trainable(tied, {"head": False})
    assert psd.load_trainable(tied) == {"emb": False, "head": False}
    psd.save_trainable(tied, {"emb": True, "head": True, "row": False})
    assert psd.load_trainable(tied) == {"emb": True, "head": True, "row": False}


def test_tied_names_may_not_contradict(tied):
    with pytest.raises(psd.SidecarError) as caught:
        psd.save_trainable(tied, {"emb": True, "head": False})
    assert caught.value.code == "sidecar-contradiction"
    assert not sidecar(tied).exists()
    psd.save_trainable(tied, {"emb": True})
    said = document(tied)
    said["trainable"]["head"] = False
    sidecar(tied).write_text(json.dumps(said))
    with pytest.raises(psd.SidecarError) as caught:
        psd.load_trainable(tied)
    assert str(caught.value) == (
        f"'{sidecar(tied)}': tied tensors have different flags\n"
        "  'emb' is trainable\n"
        "  'head' is frozen, and is the same tensor\n"
        "  hint: give them the same flag"
    )


def test_empty_tensors_are_not_tied(tmp_path):
    path = tmp_path / "m.pth"
    empty = np.zeros((0, 4), np.float32)
    psd.save({"a": empty, "b": empty}, path, trainable=False)
    psd.save_trainable(path, {"a": True, "b": False})
    assert psd.load_trainable(path) == {"a": True, "b": False}


# ----------------------------------------------------------------- wrong arguments


def test_unknown_names_are_listed_and_nothing_is_written(model):
    with pytest.raises(psd.SidecarError) as caught:
        psd.save_trainable(model, {"fc.wieght": True, "fc.bias": True}, buffers=["x\x1b[2J"])
    assert caught.value.code == "sidecar-unknown-names"
    assert str(caught.value) == (
        f"'{sidecar(model)}': the checkpoint has no tensors of these names, "
        "so nothing was written\n"
        "  'fc.wieght', close: 'fc.weight'\n"
        "  'x\\x1b[2J'\n"
        f"  hint: `pystatedict ls '{model}'` lists its names"
    )
    assert not sidecar(model).exists()
    with pytest.raises(psd.SidecarError, match="and 95 more"):
        psd.save_trainable(model, dict.fromkeys(map(str, range(100)), True))


@pytest.mark.parametrize(
    ("flags", "buffers", "text"),
    [
        ({"fc.bias": 1}, None, "the flag of 'fc.bias' must be True, False or None, got int"),
        ({"fc.bias": "no"}, None, "got str"),
        ({3: True}, None, "tensor names are str, got int"),
        (["fc.bias"], None, "flags must map tensor names"),
        ({}, "fc.bias", "not one str"),
        ({}, [3], "tensor names are str, got int"),
    ],
)
def test_wrong_types(model, flags, buffers, text):
    with pytest.raises(TypeError, match=text):
        psd.save_trainable(model, flags, buffers=buffers)


def test_no_sidecar(model):
    with pytest.raises(psd.SidecarError) as caught:
        psd.load_trainable(model)
    assert caught.value.code == "sidecar-missing"
    assert "save_trainable" in caught.value.hint
    with pytest.raises(FileNotFoundError):
        psd.load_trainable(model.with_name("none.pth"))


# ------------------------------------------------------------------------ damage


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no JSON text"),
        (b'{"format": "pystatedict.trainable", "ver', "no JSON text"),
        (b"\xff\xfe{}", "no JSON text"),
        (b"[]", '"format" is not'),
        (b"{}", '"format" is not'),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"format": "pystatedict.trainable", "format": "x"}', "'format' stands twice"),
        (b'{"trainable": {"a": true, "a": false}}', "'a' stands twice"),
        (b"1" * 10_000, "no JSON text"),
    ],
)
def test_damaged(model, data, text):
    sidecar(model).write_bytes(data)
    with pytest.raises(psd.SidecarError, match=text) as caught:
        psd.load_trainable(model)
    assert caught.value.code == "sidecar-malformed"
    assert caught.value.path == str(sidecar(model))


def test_another_version_of_the_layout(model):
    psd.save_trainable(model, FLAGS)
    sidecar(model).write_text(json.dumps({**document(model), "version": 2}))
    with pytest.raises(psd.SidecarError, match="layout version 2; only version 1") as caught:
        psd.load_trainable(model)
    assert caught.value.code == "sidecar-version"


def test_unknown_members_and_a_mark_at_the_start_are_ignored(model):
    psd.save_trainable(model, FLAGS)
    said = {**document(model), "comment": {"deep": [1.5, None]}}
    sidecar(model).write_text(json.dumps(said), encoding="utf-8-sig")
    assert psd.load_trainable(model) == FLAGS


def test_reading_is_bounded(model, monkeypatch):
    psd.save_trainable(model, FLAGS)
    size = sidecar(model).stat().st_size
    monkeypatch.setattr(_sidecar, "LIMIT", size)
    assert psd.load_trainable(model) == FLAGS
    monkeypatch.setattr(_sidecar, "LIMIT", size - 1)
    with pytest.raises(psd.SidecarError, match="more than"):
        psd.load_trainable(model)


def test_only_regular_files_are_read(model):
    sidecar(model).mkdir()
    with pytest.raises(psd.SidecarError, match="no regular file"):
        psd.load_trainable(model)
    sidecar(model).rmdir()
    os.mkfifo(sidecar(model))  # would block for ever
    with pytest.raises(psd.SidecarError, match="no regular file"):
        psd.load_trainable(model)


# ----------------------------------------------------------------------- writing


def test_written_in_one_step(model, monkeypatch):
    psd.save_trainable(model, FLAGS)
    old = sidecar(model).read_bytes()
    around = set(model.parent.iterdir())

    def fail(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space"):
                psd.save_trainable(model, {})
        assert sidecar(model).read_bytes() == old
        assert set(model.parent.iterdir()) == around


def test_mode_and_link_are_kept(model, tmp_path):
    psd.save_trainable(model, FLAGS)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(sidecar(model).stat().st_mode) == 0o666 & ~mask
    sidecar(model).chmod(0o640)
    real = sidecar(model).rename(tmp_path / "real.json")
    sidecar(model).symlink_to(real)
    psd.save_trainable(model, {})
    assert sidecar(model).is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert psd.load_trainable(model) == {}


# -------------------------------------------------------------------- for load()


def find(path, **options):
    with psd.open(path) as checkpoint:
        return _flags.find_flags(checkpoint.archive, str(sidecar(path)), **options)


def test_find_flags(model):
    with pytest.raises(psd.SidecarError) as caught:
        find(model)
    assert caught.value.code == "sidecar-missing"
    psd.save_trainable(model, FLAGS)
    assert find(model) == FLAGS


@pytest.mark.parametrize("damage", ["stale", "broken"])
def test_find_flags_warns_once_and_gives_none(model, damage):
    psd.save_trainable(model, FLAGS)
    if damage == "stale":
        psd.save({"fc.weight": W, "fc.bias": B + 1}, model)
    else:
        sidecar(model).write_text("{")
    with pytest.warns(psd.StateDictWarning, match="The flags were not applied") as warned:
        assert find(model) is None
    assert [w.filename for w in warned] == [__file__]
    with pytest.raises(psd.SidecarError):
        find(model, on_stale="raise")
    if damage == "stale":
        assert find(model, on_stale="ignore") == FLAGS


# ------------------------------------------------------------------------- torch


def torch_model(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = torch.nn.Embedding(5, 4)
            self.bn = torch.nn.BatchNorm1d(4)
            self.head = torch.nn.Linear(4, 5, bias=False)
            self.head.weight = self.emb.weight
            self.head.weight.requires_grad_(False)

    return Model()


@pytest.mark.oracle
def test_torch_writes_and_we_read(tmp_path, schema):
    torch = pytest.importorskip("torch")
    jsonschema = pytest.importorskip("jsonschema")
    model, p = torch_model(torch), str(tmp_path / "m.pth")
    torch.save(model.state_dict(), p)
    with zipfile.ZipFile(p) as z:
        rec = sorted((i.filename.split("/", 1)[1], i.CRC, i.file_size) for i in z.infolist())
    fp = hashlib.sha256("".join(f"{n}\t{c:08x}\t{s}\n" for n, c, s in rec).encode()).hexdigest()
    flags = {n: q.requires_grad for n, q in model.named_parameters(remove_duplicate=False)}
    said = {
        "format": "pystatedict.trainable",
        "version": 1,
        "checkpoint": {"records_sha256": fp},
        "trainable": flags,
    }
    sidecar(tmp_path / "m.pth").write_text(json.dumps(said))
    jsonschema.Draft202012Validator(schema).validate(said)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = psd.load_trainable(p)
    expected = {"emb.weight": False, "bn.weight": True, "bn.bias": True, "head.weight": False}
    assert got == flags == expected
    with torch.no_grad():
        model.bn.bias[2] += 1e-6
    torch.save(model.state_dict(), p)
    with pytest.raises(psd.StaleSidecarError):
        psd.load_trainable(p)


@pytest.mark.oracle
def test_we_write_and_torch_reads(tmp_path):
    torch = pytest.importorskip("torch")
    model, p = torch_model(torch), str(tmp_path / "m.pth")
    torch.save(model.state_dict(), p)
    psd.save_trainable(
        p,
        {"emb.weight": True, "head.weight": True, "bn.weight": False, "bn.bias": True},
        buffers=[n for n, _ in model.named_buffers()],
    )
    said = document(tmp_path / "m.pth")
    for n, q in model.named_parameters():
        q.requires_grad_(said["trainable"][n])
    assert model.emb.weight.requires_grad
    assert not model.bn.weight.requires_grad
    assert said["buffers"] == ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var"]


@pytest.mark.oracle
def test_torch_without_checksums(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
        psd.save_trainable(path, {"a": True})
        assert "records_sha256" not in document(path)["checkpoint"]
        torch.save({"a": torch.zeros(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(psd.StaleSidecarError):
        psd.load_trainable(path)
    # The same tensors with checksums have the same digest.
    torch.save({"a": torch.ones(3)}, path)
    assert psd.load_trainable(path) == {"a": True}
