# SPDX-License-Identifier: Apache-2.0
"""Both directions against real torch: what it writes we read, what we write it reads."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import enum
import functools
import io
import pathlib
import re
from collections import OrderedDict
from typing import Any

import kit
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pystatedict as psd

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.oracle

SOME = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: NumPy's dtype, by torch's name
NAMES = {
    dtype: "bool" if dtype == bool else dtype.name for dtype in [*kit.NUMPY_DTYPES, *kit.ML_DTYPES]
}


def to_torch(obj: Any) -> Any:
    """The nest with torch tensors over the same memory; ties and strides as they are."""
    done: dict[int, Any] = {}
    storages: dict[int, Any] = {}

    def tensor(array: np.ndarray) -> Any:
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        if id(base) not in storages:
            raw = bytearray(base.tobytes(order="A"))
            # All empty bytearrays lie at one address, and torch refuses to save storages of
            # one address and several dtypes.
            held = torch.from_numpy(np.frombuffer(raw, "u1")) if raw else torch.empty(0)
            storages[id(base)] = (held.untyped_storage(), base)
        whole, _ = storages[id(base)]
        dtype = getattr(torch, NAMES[array.dtype])
        empty = torch.empty(0, dtype=dtype)
        offset = kit.address(array) - kit.address(base) if array.size else 0
        steps = [stride // array.itemsize for stride in array.strides]
        return empty.set_(whole, offset // array.itemsize, array.shape, steps)

    def one(part: Any) -> Any:
        if id(part) in done:
            return done[id(part)]
        made: Any = part
        if isinstance(part, np.ndarray):
            made = tensor(part)
        elif type(part) in (list, tuple):
            made = type(part)(one(p) for p in part)
        elif isinstance(part, dict):
            made = type(part)((k, one(v)) for k, v in part.items())
        done[id(part)] = made
        return made

    return one(obj)


def torch_bits(tensor: Any) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1).contiguous()
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def same_tensor(array: np.ndarray, tensor: Any, where: str = "") -> None:
    assert isinstance(tensor, torch.Tensor), f"{where}: {type(tensor)}"
    name = NAMES[array.dtype.newbyteorder("=")]
    assert str(tensor.dtype) == f"torch.{name}", f"{where}: {array.dtype} is {tensor.dtype}"
    assert array.shape == tuple(tensor.shape), where
    assert kit.bits(array) == torch_bits(tensor), f"{where}: values differ"
    if array.size and kit.is_expressible(array):
        mine = [stride // array.itemsize for stride in array.strides]
        for size, a, b in zip(array.shape, mine, tensor.stride(), strict=True):
            assert size < 2 or a == b, f"{where}: strides {mine} are {tensor.stride()}"


def same_nest(mine: Any, theirs: Any) -> None:
    """NumPy's nest and torch's: equal parts in equal order, ties at equal distances."""
    left, right = list(kit.walk(mine)), list(kit.walk(theirs))
    assert [where for where, _ in left] == [where for where, _ in right]
    arrays, tensors = [], []
    for (where, a), (_, t) in zip(left, right, strict=True):
        if isinstance(a, np.ndarray):
            same_tensor(a, t, where)
            if a.size and kit.is_expressible(a):
                arrays.append(a)
                tensors.append(t)
        elif isinstance(a, dict):
            assert isinstance(t, dict), where
            assert [repr(k) for k in a] == [repr(k) for k in t], where
        elif isinstance(a, (list, tuple)):
            assert type(a) is type(t), where
        else:
            assert type(a) is type(t), where
            assert a == t or (a != a and t != t), where
    same_ties(arrays, tensors)


def same_ties(arrays: list[np.ndarray], tensors: list[Any]) -> None:
    for i, a in enumerate(arrays):
        for k in range(i):
            tied = a is arrays[k] or np.may_share_memory(a, arrays[k])
            mine, other = tensors[i], tensors[k]
            store = mine.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
            if tied:
                assert store, (i, k)
                distance = kit.address(a) - kit.address(arrays[k])
                assert mine.data_ptr() - other.data_ptr() == distance, (i, k)
            else:
                low, high = reach(mine)
                start, end = reach(other)
                assert not store or high <= start or end <= low, (i, k)


def reach(tensor: Any) -> tuple[int, int]:
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def torch_saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file, **options)
    return file.getvalue()


def torch_loaded(data: bytes, **options: Any) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True, **options)


# ------------------------------------------------------------------ generated nests


@SOME
@given(kit.nests())
def test_torch_reads_what_we_write(obj: Any) -> None:
    same_nest(obj, torch_loaded(kit.saved(obj)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("mapped")


@SOME
@given(obj=kit.nests())
def test_torch_maps_what_we_write(folder: pathlib.Path, obj: Any) -> None:
    path = folder / "mapped.pth"
    psd.save(obj, path)
    same_nest(obj, torch.load(path, mmap=True, weights_only=True))


#: Empty tensors of several dtypes.
EMPTIES = {"all": [], "arrays": [np.zeros(0, "i2"), np.zeros(0, "i4")]}


@SOME
@example(EMPTIES)
@given(kit.nests())
def test_we_read_what_torch_writes(obj: Any) -> None:
    theirs = to_torch(_expressible(obj))
    data = torch_saved(theirs)
    # Its own safe reader refuses the empty bytes that it wrote; ours are read by it.
    same_nest(psd.load(data, verify=True), torch.load(io.BytesIO(data), weights_only=False))
    same_nest(psd.load(data), theirs)


@SOME
@example(EMPTIES)
@given(kit.nests())
def test_there_and_back(obj: Any) -> None:
    """torch's file, loaded and saved by us, is to torch what it was."""
    theirs = to_torch(_expressible(obj))
    again = torch_loaded(kit.saved(psd.load(torch_saved(theirs))))
    same_nest(psd.load(torch_saved(again)), theirs)


def _expressible(obj: Any) -> Any:
    """The nest without what torch's strides cannot say."""
    done: dict[int, Any] = {}

    def one(part: Any) -> Any:
        if id(part) in done:
            return done[id(part)]
        made: Any = part
        if isinstance(part, np.ndarray) and not kit.is_expressible(part):
            made = np.ascontiguousarray(part.astype(part.dtype.newbyteorder("=")))
        elif type(part) in (list, tuple):
            made = type(part)(one(p) for p in part)
        elif isinstance(part, dict):
            made = type(part)((k, one(v)) for k, v in part.items())
        done[id(part)] = made
        return made

    return one(obj)


@SOME
@given(kit.array_pools(), st.data())
def test_flags_both_ways(pool: list[np.ndarray], data: Any) -> None:
    floating = [a for a in pool if a.dtype.kind not in "iub" and kit.is_expressible(a)]
    flags = {str(i): data.draw(st.sampled_from([True, False, None])) for i in range(len(floating))}
    arrays = {str(i): np.array(a) for i, a in enumerate(floating)}
    sd = psd.StateDict(arrays, trainable={k: v for k, v in flags.items() if v is not None})
    theirs = torch_loaded(kit.saved(sd, trainable="parameters"))
    for name, flag in flags.items():
        same_tensor(arrays[name], theirs[name].detach(), name)
        assert isinstance(theirs[name], torch.nn.Parameter) == (flag is not None)
        assert theirs[name].requires_grad == bool(flag)
    ours = psd.load(torch_saved(theirs))
    assert dict(ours.trainable) == flags


# ------------------------------------------------------------------ every dtype


def torch_dtypes() -> list[str]:
    found = {v for v in vars(torch).values() if isinstance(v, torch.dtype)}
    return sorted(str(dtype).removeprefix("torch.") for dtype in found)


#: dtypes that torch reads, and cannot write
UNSAVED = {f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8)}
QUANTIZED = {"qint8", "quint8", "qint32", "quint4x2", "quint2x4"}


@pytest.mark.parametrize("name", sorted(set(torch_dtypes()) - QUANTIZED))
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_every_dtype_of_torch(name: str) -> None:
    from pystatedict._dtypes import numpy_dtype, torch_dtype

    dtype = getattr(torch, name)
    raw = torch.arange(32, dtype=torch.uint8) % (2 if name == "bool" else 255)
    size = 2 * dtype.itemsize
    tensor = torch.empty(0, dtype=dtype).set_(raw.untyped_storage(), 0, (2,), (1,))
    if name in UNSAVED:
        with pytest.raises(KeyError, match="not recognized"):
            torch_saved({"w": tensor})
        array = np.zeros(2, numpy_dtype(name))
        array.view("u1")[:] = [0, 1]
        sd = psd.load(kit.saved({"w": array}))
    else:
        sd = psd.load(torch_saved({"w": tensor}))
    assert sd.info("w").dtype == name
    assert torch_dtype(sd["w"].dtype) == name
    assert sd["w"].shape == (2,)
    assert sd["w"].itemsize == dtype.itemsize
    assert sd["w"].tobytes() == raw.numpy().tobytes()[:size]
    again = torch_loaded(kit.saved(sd))["w"]
    assert again.dtype == dtype
    assert again.shape == (2,)
    bits = torch.empty(0, dtype=torch.uint8).set_(again.untyped_storage(), 0, (size,), (1,))
    assert bits.tolist() == raw.tolist()[:size]


@pytest.mark.parametrize("dtype", kit.ML_DTYPES, ids=str)
def test_all_bit_patterns_mean_the_same(dtype: np.dtype) -> None:
    bits = np.arange(1 << min(16, 8 * dtype.itemsize)).astype(f"u{dtype.itemsize}")
    ours = kit.reloaded({"w": bits.view(dtype)})["w"].astype("f4")
    theirs = torch_loaded(kit.saved({"w": bits.view(dtype)}))["w"].to(torch.float32).numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_mixed_dtypes_over_one_buffer() -> None:
    raw = np.arange(64, dtype="u1")
    parts = {
        "bytes": raw,
        "halves": raw.view("f2")[3:9],
        "longs": raw.view("i8")[1:],
        "unsigned": raw.view("u2")[::2],
        "bf16": raw.view(kit.ML_DTYPES[0])[10:],
        "complex": raw.view("c8")[2:4],
    }
    data = kit.saved(parts)
    for theirs in (torch_loaded(data), _mapped(data)):
        same_nest(parts, theirs)
        assert len({t.untyped_storage().data_ptr() for t in theirs.values()}) == 1
    # torch would not write this itself: each dtype needs a storage of its own there.
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        torch_saved(torch_loaded(data))


def _mapped(data: bytes) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a.pth")
        path.write_bytes(data)
        return torch.load(path, mmap=True, weights_only=True)


# ------------------------------------------------------------------ modules


def network() -> Any:
    nn = torch.nn
    model = nn.Module()
    model.emb = nn.Embedding(10, 8)
    model.bn = nn.BatchNorm1d(8)
    model.head = nn.Linear(8, 10, bias=False)
    model.head.weight = model.emb.weight  # tied
    model.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model.half = nn.Linear(3, 2).to(torch.bfloat16)
    model.bn.weight.requires_grad_(False)
    return model


def test_state_dict_of_a_module() -> None:
    model = network()
    theirs = model.state_dict()
    sd = psd.load(torch_saved(theirs))
    assert list(sd) == list(theirs)
    assert sd.metadata == theirs._metadata
    same_nest(dict(sd), dict(theirs))
    assert np.shares_memory(sd["emb.weight"], sd["head.weight"])
    assert sd["conv.weight"].strides == tuple(4 * s for s in theirs["conv.weight"].stride())
    assert sd["bn.num_batches_tracked"].shape == ()

    again = torch_loaded(kit.saved(sd))
    assert type(again) is OrderedDict
    assert again._metadata == theirs._metadata
    assert again["emb.weight"].data_ptr() == again["head.weight"].data_ptr()
    other = network()
    assert str(other.load_state_dict(again)) == "<All keys matched successfully>"
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in _floats(sd).items()},
                                 strict=False)  # fmt: skip


def _floats(sd: Any) -> dict[str, np.ndarray]:
    return {k: v for k, v in sd.items() if v.dtype == np.float32}


def test_changed_weights_reach_the_module(tmp_path: pathlib.Path) -> None:
    model = network()
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    sd = psd.load(path)
    sd["emb.weight"] *= 2
    before = model.emb.weight.detach().clone()
    psd.save(sd, path)
    model.load_state_dict(torch.load(path))
    assert torch.equal(model.emb.weight, before * 2)
    assert torch.equal(model.head.weight, before * 2)


def test_parameters_of_torch() -> None:
    model = network()
    theirs = dict(model.named_parameters(remove_duplicate=False))
    sd = psd.load(torch_saved(theirs))
    assert dict(sd.trainable) == {name: p.requires_grad for name, p in theirs.items()}
    again = torch_loaded(kit.saved(sd))
    for name, parameter in theirs.items():
        assert type(again[name]) is torch.nn.Parameter
        assert again[name].requires_grad == parameter.requires_grad, name
        assert torch.equal(again[name], parameter), name
    sd.freeze("*")
    assert not any(p.requires_grad for p in torch_loaded(kit.saved(sd)).values())


def test_tensors_that_require_grad_without_being_parameters() -> None:
    leaf = torch.ones(3, requires_grad=True)
    sd = psd.load(torch_saved({"leaf": leaf, "plain": torch.ones(3)}))
    assert dict(sd.trainable) == {"leaf": True, "plain": None}
    again = torch_loaded(kit.saved(sd))
    assert again["leaf"].requires_grad
    assert type(again["leaf"]) is torch.Tensor
    assert not again["plain"].requires_grad


def test_sidecar_of_torch_and_back(tmp_path: pathlib.Path) -> None:
    model = network()
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    flags = {n: p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)}
    psd.save_trainable(path, flags)
    sd = psd.load(path)
    assert {n: f for n, f in sd.trainable.items() if f is not None} == flags
    theirs = torch_loaded(kit.saved(sd, trainable="parameters"))
    for name, flag in flags.items():
        assert theirs[name].requires_grad == flag, name


# ------------------------------------------------------------------ training checkpoints


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop"])
def test_training_checkpoint(kind: str) -> None:
    model = network().float()
    settings = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **settings)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    model.head(model.bn(model.emb(torch.tensor([1, 2, 3])))).sum().backward()
    optimizer.step()
    schedule.step()
    whole = {
        "epoch": 7,
        "loss": 0.25,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "args": {"lr": 0.1, "betas": (0.9, 0.999), "name": "run"},
    }
    data = torch_saved(whole)
    ours = psd.load(data)
    for (where, theirs), (place, mine) in zip(kit.walk(whole), kit.walk(ours), strict=True):
        assert where == place
        if isinstance(theirs, torch.Tensor):
            same_tensor(mine, theirs, where)
        elif not isinstance(theirs, (dict, list, tuple)):
            assert mine == theirs, where
    again = torch_loaded(kit.saved(ours))
    other = getattr(torch.optim, kind)(network().float().parameters(), lr=0.1, **settings)
    other.load_state_dict(again["optimizer"])
    assert torch.equal(again["rng"], whole["rng"])
    assert list(psd.load(data, root="auto")) == list(whole["model"])


def test_values_that_torch_allows() -> None:
    """Plain values of torch's own: dtype, device, Size, layout; read and written back."""
    values = {
        "dtype": torch.bfloat16,
        "device": torch.device("cuda", 1),
        "cpu": torch.device("cpu"),
        "size": torch.Size([2, 3]),
        "layout": torch.sparse_csr,
        "set": {1, 2},
        "bytes": bytearray(b"abc"),
        "complex": 1 + 2j,
        "counter": __import__("collections").Counter("aab"),
    }
    ours = psd.load(torch_saved(values))
    assert ours["dtype"] == "torch.bfloat16"
    assert ours["device"] == "cuda:1"
    assert ours["size"] == (2, 3)
    assert isinstance(ours["size"], psd.Size)
    again = torch_loaded(kit.saved(ours))
    assert again == values
    assert type(again["size"]) is torch.Size
    assert type(again["dtype"]) is torch.dtype


@pytest.mark.filterwarnings("ignore:numpy.core")
def test_values_that_torch_allows_on_demand() -> None:
    values = {
        "space": argparse.Namespace(lr=0.1),
        "text": np.array(["a", "b"]),
        "scalar": np.float64(1.5),
        "objects": np.array([1, None], dtype=object),
        "array": np.arange(3),
        "day": np.datetime64("2024-02-29"),
    }
    ours = psd.load(torch_saved(values))
    file = io.BytesIO(kit.saved(ours))
    again = torch.load(file, weights_only=False)
    for name, value in values.items():
        assert type(again[name]) is type(value), name
        assert str(again[name]) == str(value), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_torch(protocol: int) -> None:
    model = network()
    data = torch_saved({"model": model.state_dict(), "n": 1 << 70}, pickle_protocol=protocol)
    sd = psd.load(data)
    same_nest(dict(sd["model"]), dict(model.state_dict()))
    assert sd["n"] == 1 << 70
    assert sd["model"].metadata == model.state_dict()._metadata


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore")
def test_whole_optimizer(options: dict[str, Any], protocol: int) -> None:
    """torch.save(optimizer, f): its state is kept by the parameters themselves."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    data = torch_saved(optimizer, pickle_protocol=protocol, **options)
    ours = psd.load(data)
    assert isinstance(ours, psd.Opaque)
    weight, bias = ours.state["param_groups"][0]["params"]
    same_tensor(weight, model.weight.detach())
    buffer = ours.state["state"][psd.TensorKey(weight)]["momentum_buffer"]
    same_tensor(buffer, optimizer.state[model.weight]["momentum_buffer"])
    assert list(ours.state["state"]) == [psd.TensorKey(weight), psd.TensorKey(bias)]
    again = torch.load(io.BytesIO(kit.saved(ours, opaque=True)), weights_only=False)
    parameters = again.param_groups[0]["params"]
    assert [id(key) for key in again.state] == [id(p) for p in parameters]
    assert [type(key) for key in again.state] == [torch.nn.Parameter] * 2
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    again.step()
    assert torch.equal(again.state[parameters[1]]["momentum_buffer"], torch.full((2,), 1.9))


def test_tensors_as_keys_and_items() -> None:
    tensor = torch.ones(2)
    values = {"d": {tensor: 1}, "s": {tensor, "x"}, "f": {(tensor, 2): 3}, "t": tensor}
    ours = psd.load(torch_saved(values))
    key = psd.TensorKey(ours["t"])
    assert (ours["d"], ours["s"], ours["f"]) == ({key: 1}, {key, "x"}, {(key, 2): 3})
    again = torch_loaded(kit.saved(ours))
    assert again["d"] == {again["t"]: 1}
    assert any(item is again["t"] for item in again["s"])


class Kind(enum.Enum):
    ONE = 1


class Level(enum.IntEnum):
    TWO = 2


Pair = collections.namedtuple("Pair", "a b")


@dataclasses.dataclass
class Settings:
    lr: float
    inner: Any = None

    class Inner:
        def __eq__(self, other: object) -> bool:
            return type(other) is Settings.Inner

        __hash__ = None  # type: ignore[assignment]


class Note(str):
    __slots__ = ()


class Names(dict):
    pass


def of_all_kinds() -> dict[str, Any]:
    names = Names(a=1)
    names.note = "kept"
    ordered = OrderedDict(a=1)
    ordered.note = "kept"
    return {
        "enum": Kind.ONE, "integers": Level.TWO, "pair": Pair(1, [2]), "data": Settings(0.1),
        "inner": Settings.Inner(), "class": Settings.Inner, "text": Note("a"), "names": names,
        "ordered": ordered, "partial": functools.partial(int, base=2), "error": ValueError("a"),
        "array": array.array("i", [1, 2]), "pattern": re.compile("a.b"), "function": len,
        "user": collections.UserDict(a=1), "chain": collections.ChainMap({"a": 1}, {"b": 2}),
        "type": np.float32, "dtype": np.dtype("f4"), "random": np.random.RandomState(3),
        "generator": np.random.default_rng(3), "torch's": torch.Generator().manual_seed(5),
        "size": torch.Size([1, 2]), "device": torch.device("cuda:3"), "layout": torch.sparse_csr,
        "scheme": torch.per_tensor_affine, "element": torch.float8_e5m2, "empty": torch.Tensor(),
        "factory": collections.defaultdict(Pair, a=1), "long": -(1 << 5000),
        "range": range(1 << 99), "complex": complex("nan+infj"),
        "sets": {frozenset({1, (2, "x")}), "a"},
    }  # fmt: skip


def same_object(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.random.RandomState, np.random.Generator)):
        return a.random() == b.random()
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, functools.partial):
        return (a.func, a.args, a.keywords) == (b.func, b.args, b.keywords)
    if isinstance(a, (complex, Exception)):
        return repr(a) == repr(b)
    return bool(a == b and getattr(a, "note", None) == getattr(b, "note", None))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", sorted(of_all_kinds()))
@pytest.mark.filterwarnings("ignore")
def test_objects_of_all_kinds_come_back(name: str, protocol: int) -> None:
    """Known or opaque: torch reads from what is saved what it had written."""
    value = of_all_kinds()[name]
    ours = psd.load(torch_saved({"v": value}, pickle_protocol=protocol))
    saved = kit.saved(ours, opaque=True)
    again = torch.load(io.BytesIO(saved), weights_only=False)
    assert same_object(value, again["v"])
    assert kit.saved(psd.load(saved), opaque=True) == saved


# ------------------------------------------------------------------ odd tensors


def test_lazy_conj_and_neg() -> None:
    z = torch.complex(torch.arange(6.0), -torch.arange(6.0)).reshape(2, 3)
    theirs = {
        "z": z,
        "conj": z.conj(),
        "both": z.conj()[:, 1:],
        "neg": z.clone().conj().imag,
        "twice": torch._neg_view(z.conj()),
    }
    assert theirs["neg"].is_neg()
    assert theirs["twice"].is_conj()
    sd = psd.load(torch_saved(theirs))
    for name, tensor in theirs.items():
        resolved = tensor.resolve_conj().resolve_neg().numpy()
        assert np.array_equal(sd[name], resolved), name
    again = torch_loaded(kit.saved(sd))
    for name, tensor in theirs.items():
        assert torch.equal(again[name], tensor), name


def test_meta_tensors() -> None:
    theirs = {
        "w": torch.empty(2, 3, device="meta").t(),
        "p": torch.nn.Parameter(torch.empty(2, dtype=torch.bfloat16, device="meta")),
        "q": torch.nn.Parameter(torch.empty(2, device="meta"), requires_grad=False),
    }
    sd = psd.load(torch_saved(theirs))
    assert (sd["w"].shape, sd["w"].stride, sd["w"].is_meta) == ((3, 2), (1, 3), True)
    assert dict(sd.trainable) == {"w": None, "p": True, "q": False}
    again = torch_loaded(kit.saved(sd))
    for name, tensor in theirs.items():
        assert again[name].is_meta
        assert type(again[name]) is type(tensor)
        assert (again[name].shape, again[name].stride()) == (tensor.shape, tensor.stride())
        assert (again[name].dtype, again[name].requires_grad) == (
            tensor.dtype,
            tensor.requires_grad,
        )


def test_attributes_of_tensors() -> None:
    tensor = torch.arange(3.0)
    tensor.note = {"kept": [1, "x"]}
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    parameter.rank = 4
    sd = psd.load(torch_saved({"t": tensor, "p": parameter}))
    assert sd.tensor_attributes == {"t": {"note": {"kept": [1, "x"]}}, "p": {"rank": 4}}
    again = torch_loaded(kit.saved(sd))
    assert again["t"].note == {"kept": [1, "x"]}
    assert again["p"].rank == 4
    assert type(again["p"]) is torch.nn.Parameter
    assert not again["p"].requires_grad


@pytest.mark.parametrize("key", ["a", 1, None, True, 2.5, (1, "x"), b"x"], ids=repr)
@pytest.mark.parametrize("trained", [True, False])
def test_parameters_with_attributes_under_keys_of_all_kinds(key: Any, trained: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=trained)
    parameter.rank = 4
    ours = psd.load(torch_saved({key: parameter, "text": parameter}))
    assert dict(ours.trainable) == {key: trained, "text": trained}
    assert ours.tensor_attributes == {key: {"rank": 4}, "text": {"rank": 4}}
    again = torch_loaded(kit.saved(ours))
    assert again[key] is again["text"]
    assert type(again[key]) is torch.nn.Parameter
    assert (again[key].requires_grad, again[key].rank) == (trained, 4)


def test_a_small_view_of_a_large_storage() -> None:
    large = torch.arange(1 << 18, dtype=torch.float32)
    data = torch_saved({"part": large[5:9]})
    sd = psd.load(data)
    assert sd.info("part").storage_nbytes == 1 << 20
    kit.same_array(np.arange(5, 9, dtype="f4"), sd["part"])
    assert len(kit.saved(sd)) < 4096  # what nobody sees is not written


def test_nested_tuples_named_and_empty() -> None:
    obj = {"a": (), "b": ((),), "c": [], "d": {}, "e": OrderedDict(), 1: {2: {3: torch.ones(1)}}}
    ours = psd.load(torch_saved(obj))
    assert ours[1][2][3].tolist() == [1]
    again = torch_loaded(kit.saved(ours))
    assert again["a"] == ()
    assert type(again["e"]) is OrderedDict
    assert again[1][2][3].tolist() == [1]


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order_that_torch_was_told(order: str) -> None:
    """torch can be made to write big-endian archives; it and we read them alike."""
    import zipfile

    data = torch_saved({"f": torch.arange(4.0), "h": torch.arange(4, dtype=torch.bfloat16)})
    if order == "big":
        turned = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(turned, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name.endswith("byteorder"):
                    content = b"big"
                elif name.endswith("/data/0"):
                    content = np.frombuffer(content, "u4").byteswap().tobytes()
                elif name.endswith("/data/1"):
                    content = np.frombuffer(content, "u2").byteswap().tobytes()
                if not name.startswith("archive/.data") and ".format_version" not in name:
                    new.writestr(name, content)
        data = turned.getvalue()
    sd = psd.load(data)
    assert sd["f"].tolist() == [0, 1, 2, 3]
    assert sd["h"].astype("f4").tolist() == [0, 1, 2, 3]
    theirs = torch_loaded(data)
    assert theirs["f"].tolist() == [0, 1, 2, 3]


# ------------------------------------------------------------------ containers


def test_uncompressed_options_of_torch(tmp_path: pathlib.Path) -> None:
    """Without checksums, and with another alignment: torch 2.6 and later can be told so."""
    config = pytest.importorskip("torch.utils.serialization.config")
    tensors = {"a": torch.arange(5.0), "b": torch.arange(3)}
    with config.patch({"save.storage_alignment": 4096}):
        sd = psd.load(torch_saved(tensors), verify=True)
    assert sd["a"].tolist() == [0, 1, 2, 3, 4]
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = tmp_path / "unsummed.pth"
        torch.save(tensors, path)
    finally:
        torch.serialization.set_crc32_options(before)
    sd = psd.load(path, verify=True)
    assert sd["b"].tolist() == [0, 1, 2]
    assert torch_loaded(kit.saved(sd, checksum=False))["b"].tolist() == [0, 1, 2]


def test_torch_computes_the_same_offsets(tmp_path: pathlib.Path) -> None:
    """Its way to load without reading headers, where the file's layout is foretold."""
    path = tmp_path / "a.pth"
    arrays = {str(i): np.arange(i, i + 7, dtype="f4") for i in range(20)}
    psd.save(arrays, path)
    config = pytest.importorskip("torch.utils.serialization.config")
    with config.patch({"load.calculate_storage_offsets": True}):
        for options in ({"mmap": True}, {}):
            theirs = torch.load(path, weights_only=True, **options)
            for name, array in arrays.items():
                same_tensor(array, theirs[name], name)


def test_map_location_meta_of_torch() -> None:
    theirs = torch_loaded(kit.saved({"w": np.ones((2, 3), "f4")}), map_location="meta")
    assert theirs["w"].is_meta
    assert theirs["w"].shape == (2, 3)


def test_more_than_65535_records(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "many.pth"
    base = np.arange(140_000, dtype="i4")
    psd.save({i: base[2 * i : 2 * i + 1] for i in range(70_000)}, path)
    theirs = torch.load(path, weights_only=True, mmap=True)
    assert len(theirs) == 70_000
    assert [int(theirs[i][0]) for i in range(0, 70_000, 777)] == list(range(0, 140_000, 1554))
    torch.save({i: theirs[i].clone() for i in range(70_000)}, path)
    ours = psd.load(path)
    assert [int(ours[i][0]) for i in range(0, 70_000, 777)] == list(range(0, 140_000, 1554))


def test_no_crc_seekless_target() -> None:
    class Sink:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    for checksum in (True, False):
        sink = Sink()
        psd.save({"w": np.arange(5, dtype="f4")}, sink, checksum=checksum)
        assert torch_loaded(sink.data)["w"].tolist() == [0, 1, 2, 3, 4]


def test_beyond_four_gib_by_torch(tmp_path: pathlib.Path) -> None:
    """A file with a hole of more than four GiB, written by us, mapped by torch."""
    from test_save import sparse_archive

    path, count = sparse_archive(tmp_path)
    theirs = torch.load(path, mmap=True, weights_only=True)
    assert theirs["large"].shape == (count,)
    assert int(theirs["large"][-1]) == 7
    assert int(theirs["large"][5]) == 6
    assert theirs["after"].tolist() == [[0, 1, 2], [3, 4, 5]]
