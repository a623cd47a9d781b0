# SPDX-License-Identifier: Apache-2.0
"""load() and open(): every kind of input, arrays over it, options, and what is refused."""

from __future__ import annotations

import gc
import io
import os
import pathlib
import struct
import subprocess
import sys
import threading
import zipfile
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

FLOATS = np.arange(6, dtype="<f4").reshape(2, 3)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def check_small(sd: Any) -> None:
    assert type(sd) is psd.StateDict
    assert list(sd) == ["w", "n"]
    assert sd["n"] == 7
    kit.same_array(FLOATS, sd["w"])


def is_mapped(path: pathlib.Path) -> bool:
    return str(path) in pathlib.Path("/proc/self/maps").read_text(encoding="utf-8")


# ------------------------------------------------------------------ inputs


@pytest.mark.parametrize("mmap", [None, True, False])
@pytest.mark.parametrize("copy", [False, True])
def test_paths(small_path: pathlib.Path, mmap: bool | None, copy: bool) -> None:
    for f in (str(small_path), small_path):
        sd = psd.load(f, mmap=mmap, copy=copy)
        check_small(sd)
        assert sd.source == str(small_path)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("before", [0, 1, 16, 4096, 5000])
def test_file_from_its_position(
    small: bytes, tmp_path: pathlib.Path, before: int, mmap: bool
) -> None:
    path = tmp_path / "inside"
    path.write_bytes(b"\xaa" * before + small)
    with open(path, "rb") as file:
        file.seek(before)
        check_small(psd.load(file, mmap=mmap))
        assert file.tell() == before
    with open(path, "rb", buffering=0) as file:
        file.seek(before)
        check_small(psd.load(file, mmap=mmap))
        file.seek(0)
        with psd.open(file) as checkpoint:  # zip readers find an archive behind a prefix
            assert list(checkpoint) == ["w"]
        file.seek(0, 2)
        with pytest.raises(psd.NotACheckpointError) as caught:  # nothing from there on
            psd.load(file, mmap=mmap)
        assert caught.value.code == "empty"


def test_objects_that_read(small: bytes) -> None:
    file = io.BytesIO(small)
    check_small(psd.load(file))
    file = io.BytesIO(b"xyz" + small)
    file.seek(3)
    check_small(psd.load(file))

    class Reader:
        def read(self, size: int = -1) -> bytes:
            return small if size < 0 else small[:size]

    check_small(psd.load(Reader()))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.frombuffer])
def test_buffers(small: bytes, kind: Any) -> None:
    data = kind(small) if kind is not np.frombuffer else np.frombuffer(small, "u1")
    check_small(psd.load(data))
    with psd.open(data) as checkpoint:
        kit.same_array(FLOATS, checkpoint["w"].numpy())


def test_pipe(small: bytes) -> None:
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as sink:
            sink.write(small)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(reading, "rb") as source:
        check_small(psd.load(source))
    thread.join()


def test_no_inputs(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        psd.load(tmp_path / "absent.pth")
    with pytest.raises(IsADirectoryError):
        psd.load(tmp_path)
    for wrong in (7, None, 1.5, ["a"]):
        with pytest.raises(TypeError, match="expected a path, a file or bytes"):
            psd.load(wrong)
    with pytest.raises(TypeError, match="object first"):
        psd.load({"w": FLOATS})
    (tmp_path / "t").write_text("text", encoding="utf-8")
    with pytest.raises(TypeError, match="binary mode"):
        psd.load(io.StringIO("text"))


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize("options", [{}, {"mmap": False}, {"copy": True}])
def test_arrays_are_writable_and_the_file_never_changes(
    small_path: pathlib.Path, options: dict[str, bool]
) -> None:
    before = small_path.read_bytes()
    first, second = psd.load(small_path, **options), psd.load(small_path, **options)
    assert first["w"].flags.writeable
    assert first["w"].flags.aligned
    first["w"][:] = -1
    first["w"] *= 2
    assert (first["w"] == -2).all()
    kit.same_array(FLOATS, second["w"])
    assert small_path.read_bytes() == before
    check_small(psd.load(small_path))


@LINUX
def test_mapping_and_letting_go(tutorial_folder: pathlib.Path) -> None:
    path = tutorial_folder / "tutorial.pth"
    sd = psd.load(path)
    assert is_mapped(path)
    del sd
    gc.collect()
    assert not is_mapped(path)
    for options in ({"mmap": False}, {"copy": True}):
        kept = psd.load(path, **options)
        assert not is_mapped(path), options
        assert kept["fc1.0.weight"].any()
    meta = psd.load(path, map_location="meta", copy=True)
    assert not is_mapped(path)
    assert meta["fc1.0.weight"].shape == (512, 6)


def test_copy_gives_each_storage_its_own_memory() -> None:
    base = np.arange(12, dtype="f4")
    data = bytearray(kit.saved({"a": base[:8], "b": base[4:], "c": np.ones(3)}))
    sd = psd.load(data, copy=True)
    data[:] = bytes(len(data))
    data.clear()  # nobody holds the buffer
    kit.same_array(base[:8], sd["a"])
    assert np.shares_memory(sd["a"], sd["b"])
    assert not np.may_share_memory(sd["a"], sd["c"])
    assert sd["a"].flags.writeable
    sd["a"][7] = 99
    assert sd["b"][3] == 99


def test_buffers_are_viewed() -> None:
    data = kit.saved({"w": np.arange(6, dtype="f4")})
    sd = psd.load(data)
    whole = np.frombuffer(data, "u1")
    assert np.shares_memory(whole, sd["w"])
    assert not sd["w"].flags.writeable  # bytes cannot change
    held = bytearray(data)
    sd = psd.load(held)
    assert sd["w"].flags.writeable
    assert np.shares_memory(np.frombuffer(held, "u1"), sd["w"])
    with pytest.raises(BufferError):
        held.clear()
    del sd
    gc.collect()
    held.clear()


def test_no_array_outlives_its_bytes(tutorial_folder: pathlib.Path) -> None:
    path = tutorial_folder / "tutorial.pth"
    expected = psd.load(path, copy=True)
    with psd.open(path) as checkpoint:
        taken = {name: info.numpy() for name, info in checkpoint.items()}
        part = checkpoint["fc1.0.weight"][3]
    sd = psd.load(path)
    piece = sd["fc2.0.weight"][::2, 5:].T
    wanted = expected["fc2.0.weight"][::2, 5:].T
    del checkpoint, sd
    gc.collect()
    os.unlink(path)
    for name, array in taken.items():
        kit.same_array(expected[name], array, name)
    kit.same_array(expected["fc1.0.weight"][3], part)
    assert kit.bits(piece) == kit.bits(wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork(small_path: pathlib.Path) -> None:
    program = (
        "import os, sys, pystatedict as psd\n"
        "sd = psd.load(sys.argv[1])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sd['w'][:] = 5\n"
        "    os._exit(0 if sd['w'].sum() == 30 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert sd['w'].tolist() == [[0, 1, 2], [3, 4, 5]]\n"
    )
    subprocess.run([sys.executable, "-c", program, str(small_path)], check=True, timeout=60)


def test_threads(tutorial: pathlib.Path) -> None:
    expected = kit.bits(psd.load(tutorial)["fc2.0.weight"])
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                sd = psd.load(tutorial, verify=True, copy=True)
                assert kit.bits(sd["fc2.0.weight"]) == expected
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ------------------------------------------------------------------ tensors of all kinds

STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(STORAGES))
@pytest.mark.parametrize("order", ["little", "big"])
def test_storage_classes(kind: str, order: str) -> None:
    dtype = np.dtype(STORAGES[kind])
    values = (np.arange(6) % 2 if dtype == bool else np.arange(6) * 37).astype(dtype)
    stored = values if order == "little" else values.astype(dtype.newbyteorder(">"))
    body = kit.dict_of({"w": kit.tensor(kind=kind)})
    data = kit.archive(body, {"0": stored.tobytes()}, byteorder=order.encode())
    sd = psd.load(data)
    kit.same_array(values.reshape(2, 3), sd["w"])
    assert sd["w"].dtype.isnative
    with psd.open(data) as checkpoint:
        assert checkpoint.byteorder == order
        kit.same_array(values.reshape(2, 3), checkpoint["w"].numpy())


@pytest.mark.parametrize("kind", ["UInt16Storage", "Float8_e4m3fnStorage"])
def test_a_storage_whose_class_torch_lacks_keeps_its_dtype_when_it_is_saved_again(
    kind: str,
) -> None:
    size = 2 if kind == "UInt16Storage" else 1
    once = psd.load(kit.archive(kit.storage("0", kind, 3), {"0": bytes(range(3 * size))}))
    again = kit.reloaded(once)
    assert once.shape == again.shape == (3,)
    kit.same_array(once, again)


def test_bfloat16_of_either_order() -> None:
    import ml_dtypes

    values = np.arange(6).astype(ml_dtypes.bfloat16)
    body = kit.dict_of({"w": kit.tensor(kind="BFloat16Storage")})
    for order, raw in (("little", values.view("u2")), ("big", values.view("u2").byteswap())):
        sd = psd.load(kit.archive(body, {"0": raw.tobytes()}, byteorder=order.encode()))
        kit.same_array(values.reshape(2, 3), sd["w"])


def test_views_share_their_storage() -> None:
    body = kit.dict_of(
        {
            "all": kit.tensor("7", (12,)),
            "rows": kit.tensor("7", (3, 4), count=12),
            "turned": kit.tensor("7", (4, 3), (1, 4), count=12),
            "some": kit.tensor("7", (2, 2), (4, 2), offset=3, count=12),
            "one": kit.tensor("7", (), (), offset=11, count=12),
            "none": kit.tensor("7", (0, 5), count=12),
            "spread": kit.tensor("7", (3, 2), (0, 1), offset=4, count=12),
            "sliding": kit.tensor("7", (10, 3), (1, 1), count=12),
            "odd": kit.tensor("7", (1, 2), (1 << 20, 3), offset=8, count=12),
        }
    )
    base = np.arange(12, dtype="f4")
    sd = psd.load(kit.archive(body, {"7": base.tobytes()}, method=zipfile.ZIP_DEFLATED))
    view = np.lib.stride_tricks.as_strided
    expected = {
        "all": base,
        "rows": base.reshape(3, 4),
        "turned": base.reshape(3, 4).T,
        "some": view(base[3:], (2, 2), (16, 8)),
        "one": base[11, ...],
        "none": np.zeros((0, 5), "f4"),
        "spread": view(base[4:], (3, 2), (0, 4)),
        "sliding": view(base, (10, 3), (4, 4)),
        "odd": view(base[8:], (1, 2), (4, 12)),
    }
    for name, array in expected.items():
        kit.same_array(array, sd[name], name)
    for name in expected.keys() - {"none", "all"}:
        assert kit.address(sd[name]) - kit.address(sd["all"]) == (
            kit.address(expected[name]) - kit.address(base)
        ), name
    sd["all"][11] = 50
    assert sd["one"] == 50
    assert sd["sliding"][9, 2] == 50


def test_same_tensor_twice_is_one_array() -> None:
    both = kit.text("a") + kit.tensor() + b"q\x01" + kit.text("b") + b"h\x01"
    sd = psd.load(kit.archive(b"}(" + both + b"u", {"0": FLOATS.tobytes()}))
    assert sd["a"] is sd["b"]


def test_any_nonzero_bool_is_true() -> None:
    body = kit.dict_of({"w": kit.tensor(shape=(4,), kind="BoolStorage")})
    sd = psd.load(kit.archive(body, {"0": bytes([0, 1, 2, 255])}))
    assert sd["w"].tolist() == [False, True, True, True]
    assert sd["w"].view("u1").tolist() == [0, 1, 1, 1]


def test_lazy_conj_and_neg_are_resolved() -> None:
    def marked(**flags: bool) -> bytes:
        over = kit.storage("0", "ComplexFloatStorage", 2)
        backward = kit.call("collections", "OrderedDict")
        told = b"}(" + b"".join(kit.text(k) + kit.boolean(v) for k, v in flags.items()) + b"u"
        rest = (kit.integer(0), kit.sizes((2,)), kit.sizes((1,)), kit.boolean(False), backward)
        return kit.call("torch._utils", "_rebuild_tensor_v2", over, *rest, told)

    values = np.array([1 + 2j, -3 - 4j], "<c8")
    body = kit.dict_of(
        {"c": marked(conj=True), "n": marked(neg=True), "cn": marked(conj=True, neg=True)}
    )
    sd = psd.load(kit.archive(body, {"0": values.tobytes()}))
    assert sd["c"].tolist() == values.conj().tolist()
    assert sd["n"].tolist() == (-values).tolist()
    assert sd["cn"].tolist() == (-values.conj()).tolist()


def test_third_rebuild_function_names_its_dtype() -> None:
    def third(dtype: str, shape: tuple[int, ...], offset: int = 0) -> bytes:
        over = kit.storage("0", "ByteStorage", 8)
        backward = kit.call("collections", "OrderedDict")
        rest = (kit.integer(offset), kit.sizes(shape), kit.sizes((1,)), kit.boolean(False))
        kind = kit.named("torch", dtype)
        return kit.call("torch._utils", "_rebuild_tensor_v3", over, *rest, backward, kind)

    raw = struct.pack("<4H", 1, 65535, 3, 4)
    body = kit.dict_of({"a": third("uint16", (4,)), "b": third("uint32", (1,), 1)})
    sd = psd.load(kit.archive(body, {"0": raw}))
    kit.same_array(np.array([1, 65535, 3, 4], "u2"), sd["a"])
    kit.same_array(np.frombuffer(raw, "<u4")[1:], sd["b"])
    assert np.shares_memory(sd["a"], sd["b"])


def test_parameters_tell_their_flag() -> None:
    body = kit.dict_of(
        {
            "p": kit.parameter(kit.tensor("0")),
            "f": kit.parameter(kit.tensor("0"), requires_grad=False),
            "g": kit.tensor("0", requires_grad=True),
            "t": kit.tensor("0"),
        }
    )
    sd = psd.load(kit.archive(body, {"0": FLOATS.tobytes()}))
    assert dict(sd.trainable) == {"p": True, "f": False, "g": True, "t": None}


def test_device_is_remembered() -> None:
    data = kit.archive(kit.dict_of({"w": kit.tensor(where="cuda:3")}), {"0": FLOATS.tobytes()})
    sd = psd.load(data)
    kit.same_array(FLOATS, sd["w"])
    assert sd.info("w").device == "cuda:3"


def test_meta_tensors_are_infos() -> None:
    meta = kit.call(
        "torch._utils",
        "_rebuild_meta_tensor_no_storage",
        kit.named("torch", "float32"),
        kit.sizes((2, 3)),
        kit.sizes((1, 2)),
        kit.boolean(False),
    )
    body = kit.dict_of({"w": meta, "p": kit.parameter(meta, requires_grad=False)})
    sd = psd.load(kit.archive(body))
    for name in ("w", "p"):
        assert isinstance(sd[name], psd.TensorInfo)
        assert sd[name].is_meta
        assert (sd[name].shape, sd[name].stride, sd[name].dtype) == ((2, 3), (1, 2), "float32")
        with pytest.raises(psd.UnsupportedError):
            sd[name].numpy()
    assert dict(sd.trainable) == {"w": None, "p": False}
    again = kit.reloaded(sd)
    assert (again["w"].is_meta, again["w"].stride) == (True, (1, 2))
    assert dict(again.trainable) == {"w": None, "p": False}


@pytest.mark.parametrize("top", ["archive/", "a b/ä/", ""])
def test_any_top_folder(top: str) -> None:
    data = kit.archive(kit.dict_of({"w": kit.tensor()}), {"0": FLOATS.tobytes()}, top=top)
    kit.same_array(FLOATS, psd.load(data)["w"])


def test_without_byteorder_record_and_deflated() -> None:
    body = kit.dict_of({"w": kit.tensor()}, ordered=True)
    data = kit.archive(body, {"0": FLOATS.tobytes()}, byteorder=None, method=zipfile.ZIP_DEFLATED)
    sd = psd.load(data, verify=True)
    kit.same_array(FLOATS, sd["w"])
    assert sd["w"].flags.writeable  # inflated into memory of our own


# ------------------------------------------------------------------ the tutorial's file


def test_tutorial(tutorial: pathlib.Path) -> None:
    sd = psd.load(tutorial)
    assert {name: tensor.shape for name, tensor in sd.items()} == {
        "fc1.0.weight": (512, 6),
        "fc1.0.bias": (512,),
        "fc2.0.weight": (128, 512),
        "fc2.0.bias": (128,),
        "fc_final.weight": (1, 128),
        "fc_final.bias": (1,),
    }
    assert all(tensor.dtype == np.float32 for tensor in sd.values())
    assert sd["fc2.0.weight"].std() > 0.01


# ------------------------------------------------------------------ root


def training() -> bytes:
    weights = {"fc.weight": FLOATS, "fc.bias": FLOATS[0]}
    return kit.saved(
        {
            "epoch": 3,
            "model": weights,
            "optimizer": {"state": {0: {"exp_avg": FLOATS * 2, "step": 5}}, "param_groups": []},
            "a.b": {"c": {"d": FLOATS * 3}},
        }
    )


def test_root_none_is_the_object_as_it_was() -> None:
    whole = psd.load(training())
    assert whole["epoch"] == 3
    kit.same_array(FLOATS * 2, whole["optimizer"]["state"][0]["exp_avg"])
    assert type(whole) is psd.StateDict  # the root
    assert type(whole["model"]) is psd.StateDict
    assert type(whole["optimizer"]["state"][0]) is psd.StateDict  # it holds tensors
    assert type(whole["optimizer"]) is dict


def test_root_auto_finds_the_weights() -> None:
    assert list(psd.load(training(), root="auto")) == ["fc.weight", "fc.bias"]
    with psd.open(training(), root="auto") as checkpoint:
        assert list(checkpoint) == ["fc.weight", "fc.bias"]
        assert checkpoint.root == ("model",)
    plain = kit.saved({"w": FLOATS, "b": FLOATS})
    assert list(psd.load(plain, root="auto")) == ["w", "b"]


def test_root_path() -> None:
    data = training()
    assert list(psd.load(data, root="model")) == ["fc.weight", "fc.bias"]
    assert psd.load(data, root="optimizer.state.0")["step"] == 5
    kit.same_array(FLOATS * 3, psd.load(data, root="a.b.c")["d"])
    kit.same_array(FLOATS * 3, psd.load(data, root="a.b.c.d"))
    assert psd.load(data, root="epoch") == 3
    with psd.open(data, root="optimizer") as checkpoint:
        assert list(checkpoint) == ["state.0.exp_avg"]


def test_root_path_takes_the_longest_key() -> None:
    both = kit.saved({"a": {"b": {"w": FLOATS}}, "a.b": {"w": FLOATS * 2}})
    kit.same_array(FLOATS * 2, psd.load(both, root="a.b")["w"])
    kit.same_array(FLOATS, psd.load(both, root="a")["b"]["w"])


def test_root_that_is_not_there() -> None:
    with pytest.raises(psd.MissingTensorError, match="nothing is named 'ema'") as caught:
        psd.load(training(), root="model.ema")
    assert caught.value.code == "no-such-root"
    assert "fc.weight" in caught.value.suggestions
    with pytest.raises(KeyError):
        psd.open(training(), root="nothing")


def test_root_auto_ambiguous_or_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "gan.pth"
    psd.save({"generator": {"w": FLOATS}, "model": {"w": FLOATS}, "step": 1}, path)
    with pytest.raises(psd.MissingTensorError) as caught:
        psd.load(path, root="auto")
    assert caught.value.code == "ambiguous-root"
    assert caught.value.suggestions == ("generator", "model")
    assert "generator" in str(caught.value)
    assert "model" in str(caught.value)
    assert caught.value.path == str(path)
    assert list(psd.load(path, root="model")) == ["w"]
    for nothing in ({"step": 1}, [1, 2], 5):
        with pytest.raises(psd.MissingTensorError) as caught:
            psd.load(kit.saved(nothing), root="auto")
        assert caught.value.code == "no-state-dict"


# ------------------------------------------------------------------ options


def test_map_location(small: bytes) -> None:
    class device:
        def __init__(self, name: str) -> None:
            self.name = name

        def __str__(self) -> str:
            return self.name

    for place in (None, "cpu", device("cpu")):
        kit.same_array(FLOATS, psd.load(small, place)["w"])
    for place in ("meta", device("meta")):
        sd = psd.load(small, map_location=place)
        assert isinstance(sd["w"], psd.TensorInfo)
        assert (sd["w"].shape, sd["w"].dtype, sd["w"].nbytes) == ((2, 3), "float32", 24)
        assert sd["n"] == 7
    for place in ("cuda", "cuda:0", "mps", {"cuda:0": "cpu"}, lambda s, _: s, device("cuda:1")):
        with pytest.raises(psd.UnsupportedError) as caught:
            psd.load(small, map_location=place)
        assert caught.value.code == "map-location"
        assert isinstance(caught.value, NotImplementedError)


def test_weights_only_false_is_refused(small: bytes) -> None:
    check_small(psd.load(small, weights_only=True))
    for value in (False, 0, "yes"):
        with pytest.raises(psd.UnsafePickleError) as caught:
            psd.load(small, weights_only=value)
        assert caught.value.code == "weights-only"
        assert "Opaque" in str(caught.value)


def test_options_of_no_meaning(small: bytes) -> None:
    for options in ({"unknown": "keep"}, {"dangerous": "ignore"}, {"unknown": None}):
        with pytest.raises(ValueError, match=r"opaque.*error"):
            psd.load(small, **options)
    with pytest.raises(TypeError):
        psd.load(small, None, None, True)


def test_storages_that_inflate_to_very_much() -> None:
    """A small file may not take all memory; a large one may be as large as it is."""
    count = 100 << 20
    body = kit.dict_of({"w": kit.tensor(kind="ByteStorage", shape=(count,))})
    data = kit.archive(body, {"0": bytes(count)}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(psd.LimitError, match="too large for a file of this size") as caught:
        psd.load(data)
    assert (caught.value.name, caught.value.value) == ("inflation", count)
    assert psd.load(data, limits={"inflation": 2000})["w"].nbytes == count
    few = 60 << 20
    body = kit.dict_of({"w": kit.tensor(kind="ByteStorage", shape=(few,))})
    assert psd.load(kit.archive(body, {"0": bytes(few)}, method=zipfile.ZIP_DEFLATED))
    file = io.BytesIO()
    np.savez_compressed(file, w=np.zeros(count, "u1"))
    with pytest.raises(psd.LimitError):
        psd.load(file.getvalue())


def test_limits(small: bytes) -> None:
    for name in psd.LIMITS:
        check_small(psd.load(small, limits={name: psd.LIMITS[name]}))
    with pytest.raises(psd.LimitError) as caught:
        psd.load(small, limits={"pickle_size": 20})
    assert caught.value.name == "pickle_size"
    assert caught.value.limit == 20
    assert caught.value.value == len(kit.pickle_in(small))
    with pytest.raises(psd.LimitError) as caught:
        psd.open(small, limits={"values": 3})
    assert caught.value.name == "values"
    with pytest.raises((TypeError, ValueError, KeyError)):
        psd.load(small, limits={"no_such_limit": 3})


def test_verify_finds_a_flipped_bit(flipped: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flipped.pth"
    path.write_bytes(flipped)
    assert not np.array_equal(psd.load(path)["w"], FLOATS)  # as torch, which does not look
    with pytest.raises(psd.ChecksumError) as caught:
        psd.load(path, verify=True)
    error = caught.value
    assert error.path == str(path)
    assert error.entry == "model/data/0"
    assert error.stored != error.computed
    with zipfile.ZipFile(path) as file:
        assert error.stored == file.getinfo("model/data/0").CRC
    assert f"{error.stored:08x}" in str(error)
    with psd.open(path) as checkpoint, pytest.raises(psd.ChecksumError) as caught:
        checkpoint.verify()
    assert caught.value.path == str(path)


def test_verify_counts_what_states_no_checksum(small: bytes) -> None:
    with psd.open(small) as checkpoint:
        assert checkpoint.verify() == (4, 0)
    unsummed = kit.saved({"w": FLOATS}, checksum=False)
    check = psd.load(unsummed, verify=True)
    kit.same_array(FLOATS, check["w"])
    with psd.open(unsummed) as checkpoint:
        checked, unchecked = checkpoint.verify()
        assert checked == 0
        assert unchecked == len(checkpoint.records())


def test_damage(damage: tuple[bytes, str, str], tmp_path: pathlib.Path) -> None:
    data, kind, code = damage
    path = tmp_path / "damaged.pth"
    path.write_bytes(data)
    for f in (path, data):
        with pytest.raises(psd.StateDictError) as caught:
            psd.load(f, verify=True)
        assert (type(caught.value).__name__, caught.value.code) == (kind, code)
        assert caught.value.path == (str(path) if f is path else None)
        assert caught.value.hint


def test_closed(small_path: pathlib.Path) -> None:
    with psd.open(small_path) as checkpoint:
        info = checkpoint["w"]
        array = info.numpy()
    assert checkpoint.closed
    kit.same_array(FLOATS, array)
    assert info.shape == (2, 3)  # what was told stays told
    with pytest.raises(psd.ClosedError) as caught:
        info.numpy()
    assert isinstance(caught.value, ValueError)
    with pytest.raises(psd.ClosedError), checkpoint:
        pass
    checkpoint.close()


# ------------------------------------------------------------------ open()


def test_checkpoint_is_a_mapping(tutorial: pathlib.Path) -> None:
    with psd.open(tutorial) as checkpoint:
        assert len(checkpoint) == 6
        assert "fc1.0.weight" in checkpoint
        assert "fc1" not in checkpoint
        assert checkpoint.get("fc1") is None
        assert list(checkpoint) == list(checkpoint.keys())
        assert dict(checkpoint.items())["fc1.0.bias"].shape == (512,)
        assert [info.name for info in checkpoint.values()] == list(checkpoint)
        with pytest.raises(psd.MissingTensorError) as caught:
            checkpoint["fc1.0.wieght"]
        assert "fc1.0.weight" in caught.value.suggestions
        assert caught.value.path == str(tutorial)
        assert isinstance(caught.value, KeyError)
        assert checkpoint.kind == "checkpoint"
        assert repr(checkpoint) == f"<Checkpoint {str(tutorial)!r}: 6 tensors>"
    assert "closed" in repr(checkpoint)


def test_infos_tell_all() -> None:
    base = np.arange(12, dtype="i8")
    data = kit.saved({"a": base.reshape(3, 4).T, "b": base[6:8]})
    with psd.open(data) as checkpoint:
        a, b = checkpoint["a"], checkpoint["b"]
        assert (a.shape, a.stride, a.storage_offset, a.dtype) == ((4, 3), (1, 4), 0, "int64")
        assert (b.shape, b.stride, b.storage_offset) == ((2,), (1,), 6)
        assert a.storage == b.storage
        assert (a.storage_nbytes, a.nbytes, b.nbytes, a.itemsize) == (96, 96, 16, 8)
        assert (a.ndim, a.numel, a.device, a.requires_grad) == (2, 12, "cpu", None)
        kit.same_array(base.reshape(3, 4).T[1:, ::2], a[1:, ::2])
        kit.same_array(base[6:8], np.asarray(b))
        assert np.asarray(b, "f4").dtype == np.float32


def test_listing_imports_no_numpy(tutorial: pathlib.Path) -> None:
    program = (
        "import sys, pystatedict as psd\n"
        "with psd.open(sys.argv[1]) as c:\n"
        "    assert sum(i.numel for i in c.values()) == 69377 + 0 * len(c), sum("
        "i.numel for i in c.values())\n"
        "    c.verify()\n"
        "assert 'numpy' not in sys.modules\n"
        "assert 'importlib.metadata' not in sys.modules\n"
        "assert 'ml_dtypes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tutorial)], check=True, timeout=60)


# ------------------------------------------------------------------ depth and size


def deep(body: bytes, times: int, tail: bytes) -> bytes:
    return kit.archive(body * times + b"N" + tail * times)


@pytest.mark.parametrize(
    ("start", "end"),
    [(b"](", b"e"), (b"(", b"t"), (b"}(K\x00", b"u")],
    ids=["list", "tuple", "dict"],
)
def test_deep_nests(start: bytes, end: bytes) -> None:
    part: Any = psd.load(deep(start, 100_000, end))
    depth = 0
    while part is not None:
        part = part[0]
        depth += 1
    assert depth == 100_000


def test_many_tensors_cost_linear_time() -> None:
    count = 20_000
    body = kit.dict_of({f"layer.{i}": kit.tensor(str(i), (1,)) for i in range(count)})
    data = kit.archive(body, {str(i): struct.pack("<f", i) for i in range(count)})
    sd = psd.load(data)
    assert len(sd) == count
    assert [float(sd[f"layer.{i}"][0]) for i in range(0, count, 997)] == list(range(0, count, 997))


def test_a_shape_that_numpy_cannot_hold() -> None:
    shape = (0, 1 << 62, 1 << 62)
    empty = kit.tensor(shape=shape, strides=(1, 1, 1), count=0)
    data = kit.archive(b"}" + kit.text("w") + empty + b"s", {"0": b""})
    with pytest.raises(psd.UnsupportedError, match="shape"):
        psd.load(data)
    with psd.open(data) as listing:
        assert listing["w"].shape == shape
