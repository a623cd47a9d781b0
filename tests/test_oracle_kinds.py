# SPDX-License-Identifier: Apache-2.0
"""Every kind of tensor against real torch, both ways, in every container.

What torch wrote we read to the same values; what we write of it torch's safe loader reads
to the tensor that it was.
"""

from __future__ import annotations

import io
import itertools
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import kit
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystatedict as psd

torch = pytest.importorskip("torch")

from test_oracle import _expressible, same_nest, to_torch  # noqa: E402

#: What torch says of its own state.
CHATTER = "ignore:(?s).*(deprecated|beta state|prototype|experimental|Sparse):UserWarning"

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings(CHATTER)]

SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def zipped(obj: Any) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file)
    return file.getvalue()


def legacy(obj: Any) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def pickled(protocol: int) -> Callable[[Any], bytes]:
    return lambda obj: pickle.dumps(obj, protocol)


WRITERS = {"zip": zipped, "legacy": legacy, **{f"pickle {p}": pickled(p) for p in range(1, 6)}}
writers = st.sampled_from(sorted(WRITERS))


def back(obj: Any, **options: Any) -> Any:
    """Saved by us, loaded by torch's safe loader."""
    return torch.load(io.BytesIO(kit.saved(obj)), weights_only=True, **options)


def name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def raw(tensor: Any) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def same(array: np.ndarray, tensor: Any, where: str = "") -> None:
    assert array.dtype.name == name_of(tensor.dtype), where
    assert array.shape == tuple(tensor.shape), where
    assert kit.bits(array) == raw(tensor), where


# ------------------------------------------------------------------ sparse

FLOATS = ["float32", "float64", "float16", "bfloat16", "complex64", "complex128"]
NUMBERS = [*FLOATS, "int8", "uint8", "int16", "int32", "int64", "bool"]


def values_of(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    """Small whole numbers, none of them zero: sums of them are exact."""
    made = torch.from_numpy(np.random.default_rng(seed).integers(1, 9, shape))
    return (made > 4) if dtype == "bool" else made.to(getattr(torch, dtype))


@st.composite
def coo(draw: Any) -> Any:
    sparse = draw(st.lists(st.integers(1, 4), max_size=3))
    dense = draw(st.lists(st.integers(0, 3), max_size=2))
    count = draw(st.integers(0, 5))
    rows = [[draw(st.integers(0, size - 1)) for _ in range(count)] for size in sparse]
    indices = torch.tensor(rows, dtype=torch.int64).reshape(len(sparse), count)
    dtype = draw(st.sampled_from(NUMBERS))
    values = values_of(dtype, (count, *dense), draw(st.integers(0, 99)))
    made = torch.sparse_coo_tensor(indices, values, (*sparse, *dense))
    return made.coalesce() if draw(st.booleans()) and dtype != "bool" else made


def index_pair(draw: Any, batch: tuple[int, ...], compressed: int, plain: int, most: int) -> Any:
    """(compressed indices, plain indices) of so many entries in each of the batch's."""
    places = list(itertools.product(range(compressed), range(plain)))
    count = min(most, len(places))
    starts, others = [], []
    for _ in range(int(np.prod(batch))):
        chosen = sorted(draw(st.permutations(places))[:count])
        starts.append([sum(row < limit for row, _ in chosen) for limit in range(compressed + 1)])
        others.append([column for _, column in chosen])
    kind = draw(st.sampled_from([torch.int64, torch.int32]))
    return (
        torch.tensor(starts, dtype=kind).reshape(*batch, compressed + 1),
        torch.tensor(others, dtype=kind).reshape(*batch, count),
    )


@st.composite
def compressed(draw: Any) -> Any:
    layout = draw(st.sampled_from(["sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"]))
    batch = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    blocks = layout in ("sparse_bsr", "sparse_bsc")
    block = (draw(st.integers(1, 3)), draw(st.integers(1, 3))) if blocks else (1, 1)
    dense = tuple(draw(st.lists(st.integers(1, 2), max_size=1)))
    by_rows = layout in ("sparse_csr", "sparse_bsr")
    first, second = (rows, columns) if by_rows else (columns, rows)
    starts, others = index_pair(draw, batch, first, second, draw(st.integers(0, 5)))
    shape = (*others.shape, *(block if blocks else ()), *dense)
    values = values_of(draw(st.sampled_from(NUMBERS)), shape, draw(st.integers(0, 99)))
    size = (*batch, rows * block[0], columns * block[1], *dense)
    kind = getattr(torch, layout)
    return torch.sparse_compressed_tensor(starts, others, values, size, layout=kind)


def parts_of(tensor: Any) -> Iterator[tuple[str, Any]]:
    layout = name_of(tensor.layout)
    if layout == "sparse_coo":
        yield "indices", tensor._indices()
        yield "values", tensor._values()
        return
    by_rows = layout in ("sparse_csr", "sparse_bsr")
    names = ("crow_indices", "col_indices") if by_rows else ("ccol_indices", "row_indices")
    for name in (*names, "values"):
        yield name, getattr(tensor, name)()


def same_sparse(ours: Any, theirs: Any) -> None:
    assert isinstance(ours, psd.SparseTensor)
    assert ours.layout == name_of(theirs.layout)
    assert ours.dtype == name_of(theirs.dtype)
    assert ours.shape == tuple(theirs.shape)
    for name, part in parts_of(theirs.detach()):
        same(ours.parts[name], part, name)


def dense_of(tensor: Any) -> Any:
    """As torch makes it; what it cannot make of bools and small floats it makes of others."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8).to_dense().to(torch.bool)
    return tensor.to_dense()


def same_flags(sd: Any, name: str, tensor: Any) -> None:
    told = tensor.requires_grad if isinstance(tensor, torch.nn.Parameter) else None
    assert sd[name].is_parameter == isinstance(tensor, torch.nn.Parameter)
    assert sd.trainable[name] == told


def maybe_parameter(draw: Any, tensor: Any) -> Any:
    trained = draw(st.sampled_from([None, None, True, False]))
    if trained is None or not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
        return tensor
    return torch.nn.Parameter(tensor, requires_grad=trained)


@SOME
@given(st.data(), st.sampled_from(["zip", "legacy"]))
def test_sparse_both_ways(data: Any, writer: str) -> None:
    theirs = {
        "coo": maybe_parameter(data.draw, data.draw(coo())),
        "compressed": maybe_parameter(data.draw, data.draw(compressed())),
    }
    ours = psd.load(WRITERS[writer](theirs))
    again = back(ours)
    for name, tensor in theirs.items():
        same_sparse(ours[name], tensor)
        same_flags(ours, name, tensor)
        same_sparse(ours[name], again[name])
        assert type(again[name]) is type(tensor)
        assert again[name].requires_grad == tensor.requires_grad
        assert again[name].layout == tensor.layout
    assert again["coo"].is_coalesced() == theirs["coo"].is_coalesced()
    assert ours["coo"].coalesced == theirs["coo"].is_coalesced()


@SOME
@given(st.one_of(coo(), compressed()))
def test_sparse_to_dense_as_torch_does(tensor: Any) -> None:
    try:
        theirs = dense_of(tensor)
    except RuntimeError:
        return  # of some dtypes and layouts torch makes none
    if (tensor.dtype, tensor.layout) == (torch.bool, torch.sparse_coo):
        theirs = theirs.to(torch.bool)
    ours = psd.load(zipped({"w": tensor}))["w"].to_dense()
    assert ours.dtype.name == name_of(tensor.dtype)
    assert np.array_equal(ours.astype("c16"), theirs.to(torch.complex128).numpy())


@SOME
@given(st.one_of(coo(), compressed()))
def test_sparse_to_scipy(tensor: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    ours = psd.load(zipped({"w": tensor}))["w"]
    matrix = tensor.ndim == 2 and ours.values.ndim - (2 if "bs" in ours.layout else 0) == 1
    if not matrix or ours.dtype in ("float16", "bfloat16") or ours.shape.count(0):
        return
    if ours.layout == "sparse_coo" and len(ours.indices) != 2:
        return
    found = ours.to_scipy()
    assert sparse.issparse(found)
    assert np.array_equal(found.toarray(), ours.to_dense())


# ------------------------------------------------------------------ quantized


@st.composite
def quantized(draw: Any) -> Any:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = 4 * torch.randn(shape, generator=generator)
    scheme = draw(st.sampled_from(["tensor", "channel", "float"]))
    if scheme == "tensor":
        dtype = draw(st.sampled_from([torch.quint8, torch.qint8, torch.qint32]))
        least = 0 if dtype == torch.quint8 else -9
        scale = draw(st.sampled_from([0.1, 0.25, 1.0 / 3, 3e-5]))
        return torch.quantize_per_tensor(x, scale, draw(st.integers(least, 9)), dtype)
    axis = draw(st.integers(0, len(shape) - 1)) if scheme == "channel" else 0
    count = shape[axis]
    scales = torch.rand(count, generator=generator) + 0.05
    if scheme == "channel":
        dtype = draw(st.sampled_from([torch.quint8, torch.qint8, torch.qint32]))
        zeros = torch.arange(count) % 7
        return torch.quantize_per_channel(x, scales, zeros, axis, dtype)
    kinds = [torch.quint8]
    if len(shape) == 2:
        kinds += [torch.quint4x2, torch.quint2x4]
    zeros = torch.rand(count, generator=generator)
    return torch.quantize_per_channel(x, scales, zeros, axis, draw(st.sampled_from(kinds)))


def same_quantized(ours: Any, theirs: Any) -> None:
    assert isinstance(ours, psd.QuantizedTensor)
    assert ours.dtype == name_of(theirs.dtype)
    assert ours.shape == tuple(theirs.shape)
    assert ours.qscheme == name_of(theirs.qscheme())
    assert np.array_equal(ours.dequantize(), theirs.dequantize().numpy())
    if ours.packed is None:
        same(ours.array, theirs.int_repr())
    if ours.scales is None:
        assert (ours.scale, ours.zero_point) == (theirs.q_scale(), theirs.q_zero_point())
    else:
        assert ours.axis == theirs.q_per_channel_axis()
        assert np.array_equal(ours.scales, theirs.q_per_channel_scales().numpy())
        assert np.array_equal(ours.zero_points, theirs.q_per_channel_zero_points().numpy())


@SOME
@given(quantized(), writers)
def test_quantized_both_ways(tensor: Any, writer: str) -> None:
    ours = psd.load(WRITERS[writer]({"q": tensor}))
    same_quantized(ours["q"], tensor)
    again = back(ours)["q"]
    same_quantized(ours["q"], again)
    assert torch.equal(again.dequantize(), tensor.dequantize())
    assert again.qscheme() == tensor.qscheme()


@SOME
@given(st.data(), st.sampled_from(["zip", "legacy"]))
def test_views_of_quantized(data: Any, writer: str) -> None:
    base = torch.quantize_per_tensor(torch.randn(4, 6), 0.1, 3, torch.quint8)
    ways = {"t": base.t(), "part": base[1:3], "steps": base[:, ::2], "one": base[1, 2]}
    chosen = data.draw(st.lists(st.sampled_from(sorted(ways)), min_size=1, unique=True))
    theirs = {"base": base, **{name: ways[name] for name in chosen}}
    ours = psd.load(WRITERS[writer](theirs))
    again = back(ours)
    address = again["base"].untyped_storage().data_ptr()
    for name, tensor in theirs.items():
        same_quantized(ours[name], tensor)
        assert torch.equal(again[name].dequantize(), tensor.dequantize()), name
        assert again[name].stride() == tensor.stride() or tensor.numel() < 2, name
        assert again[name].untyped_storage().data_ptr() == address, name


# ------------------------------------------------------------------ nested


@st.composite
def ragged(draw: Any) -> list[Any]:
    dtype = draw(st.sampled_from(["float32", "float64", "float16", "bfloat16", "int64"]))
    inner = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return [values_of(dtype, (n, *inner), i) for i, n in enumerate(sizes)]


@SOME
@given(ragged(), st.sampled_from(["zip", "legacy"]), st.booleans())
def test_nested_both_ways(parts: list[Any], writer: str, train: bool) -> None:
    train = train and parts[0].dtype.is_floating_point
    theirs = {
        "strided": torch.nested.nested_tensor(parts, requires_grad=train),
        "jagged": torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=train),
    }
    ours = psd.load(WRITERS[writer](theirs))
    again = back(ours)
    for name, tensor in theirs.items():
        assert isinstance(ours[name], psd.NestedTensor)
        assert len(ours[name]) == len(parts)
        assert ours[name].layout == ("nested" if name == "strided" else "jagged")
        assert again[name].is_nested
        assert again[name].layout == tensor.layout
        for mine, part, other in zip(ours[name], parts, again[name].unbind(), strict=True):
            same(mine, part, name)
            same(mine, other, name)
    if train:
        assert again["jagged"].requires_grad
        assert ours.trainable["jagged"] is True


def test_nested_of_other_axes() -> None:
    parts = [torch.arange(6.0).reshape(3, 2), torch.arange(12.0).reshape(3, 4)]
    tensor = torch.nested.nested_tensor([p.t() for p in parts], layout=torch.jagged)
    theirs = {"turned": tensor.transpose(1, 2), "plain": tensor}
    ours = psd.load(zipped(theirs))
    again = back(ours)
    for name, nested in theirs.items():
        for mine, part, other in zip(
            ours[name], nested.unbind(), again[name].unbind(), strict=True
        ):
            same(mine, part, name)
            same(mine, other, name)


# ------------------------------------------------------------------ dense, in old containers


@SOME
@given(kit.nests(), st.sampled_from(sorted(set(WRITERS) - {"zip"})))
def test_old_containers(obj: Any, writer: str) -> None:
    """Generated nests in legacy streams and plain pickles, where torch can write them."""
    theirs = to_torch(_expressible(obj))
    data = WRITERS[writer](theirs)
    if writer == "legacy":
        same_nest(psd.load(data), theirs)
        return
    # Each tensor brings its whole storage: torch forgets what was tied.
    ours = psd.load(data)
    for (where, mine), (place, tensor) in zip(kit.walk(ours), kit.walk(theirs), strict=True):
        assert where == place
        if isinstance(mine, np.ndarray):
            same(mine, tensor, where)


@SOME
@given(kit.array_pools())
def test_views_in_a_legacy_stream(pool: list[np.ndarray]) -> None:
    """Dense tensors over shared storages, there and back."""
    theirs = to_torch({str(i): a for i, a in enumerate(pool) if kit.is_expressible(a)})
    ours = psd.load(legacy(theirs))
    same_nest(dict(ours), theirs)
    same_nest(dict(ours), back(ours))


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_storages_by_themselves(writer: str) -> None:
    shared = torch.arange(4.0)
    typed = {
        name: torch.arange(3).to(getattr(torch, name)).storage()
        for name in ("uint8", "int16", "int64", "float16", "bfloat16", "float64", "complex64")
    }
    theirs = {**typed, "shared": shared.storage(), "tensor": shared[1:3]}
    ours = psd.load(WRITERS[writer](theirs))
    for name, storage in typed.items():
        tensor = torch.tensor([], dtype=storage.dtype).set_(storage)
        same(ours[name], tensor, name)
    same(ours["shared"], shared)
    assert np.shares_memory(ours["shared"], ours["tensor"])
    assert kit.address(ours["tensor"]) - kit.address(ours["shared"]) == 4
    again = torch.load(io.BytesIO(kit.saved(ours)), weights_only=True)
    for name in typed:
        assert again[name].tolist() == list(theirs[name]), name


def test_untyped_storages() -> None:
    theirs = {"u": torch.arange(4, dtype=torch.uint8).untyped_storage()}
    assert psd.load(zipped(theirs))["u"].tolist() == [0, 1, 2, 3]


# ------------------------------------------------------------------ flags, lists, attributes


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_parameters_in_lists_stay_parameters(writer: str) -> None:
    """An array in a list has no place for flags; save() knows them all the same."""
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    theirs = [torch.nn.Parameter(torch.zeros(2)), (frozen, torch.ones(1)), torch.ones(1)]
    ours = psd.load(WRITERS[writer](theirs))
    again = back(ours)
    flat = [again[0], *again[1], again[2]]
    kinds = [type(t) is torch.nn.Parameter for t in flat]
    assert kinds == [True, True, False, False]
    assert [t.requires_grad for t in flat] == [True, False, False, False]
    plain = torch.load(io.BytesIO(kit.saved(ours, trainable=False)), weights_only=True)
    assert not any(isinstance(t, torch.nn.Parameter) for t in [plain[0], *plain[1]])
    del ours
    assert not any(t.requires_grad for t in back([np.ones(2, "f4")]))


def test_flags_of_lists_do_not_outlive_their_arrays() -> None:
    from pystatedict._marks import MARKS

    before = len(MARKS)
    ours = psd.load(zipped([torch.nn.Parameter(torch.zeros(2))]))
    assert len(MARKS) == before + 1
    del ours
    assert len(MARKS) == before


@pytest.mark.parametrize("writer", sorted(WRITERS))
@pytest.mark.parametrize("trained", [True, False])
def test_meta_tensors(writer: str, trained: bool) -> None:
    theirs = {
        "w": torch.empty(2, 3, device="meta").t(),
        "p": torch.nn.Parameter(torch.empty(2, device="meta"), requires_grad=trained),
        "half": torch.empty(0, 3, dtype=torch.bfloat16, device="meta"),
    }
    if writer.startswith("pickle"):
        theirs.pop("w")
    ours = psd.load(WRITERS[writer](theirs))
    again = back(ours)
    for name, tensor in theirs.items():
        info = ours[name]
        assert (info.dtype, info.shape) == (name_of(tensor.dtype), tuple(tensor.shape)), name
        assert info.is_meta, name
        assert again[name].is_meta, name
        assert again[name].shape == tensor.shape, name
        assert again[name].dtype == tensor.dtype, name
        assert again[name].stride() == tensor.stride(), name
        assert type(again[name]) is type(tensor), name
        assert again[name].requires_grad == tensor.requires_grad, name


@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_lazy_bits(writer: str) -> None:
    z = torch.complex(torch.arange(6.0), -torch.arange(6.0)).reshape(2, 3)
    theirs = {"z": z, "conj": z.conj(), "part": z.conj()[:, 1:], "neg": z.clone().conj().imag,
              "both": torch._neg_view(z.conj())}  # fmt: skip
    ours = psd.load(WRITERS[writer](theirs))
    again = back(ours)
    for name, tensor in theirs.items():
        same(ours[name], tensor, name)
        assert torch.equal(again[name], tensor), name
    assert not np.shares_memory(ours["z"], ours["conj"])


class Marked(torch.Tensor):
    pass


class Scaled(torch.Tensor):
    @staticmethod
    def __new__(cls, values: Any, factor: Any) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)
        made.values, made.factor = values, factor
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        raise NotImplementedError(function)


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_subclasses(writer: str) -> None:
    marked = torch.arange(3.0).as_subclass(Marked)
    marked.note = "kept"
    theirs = {
        "marked": marked,
        "wrapped": Scaled(torch.tensor([1, 2], dtype=torch.int8), torch.tensor(0.5)),
    }
    ours = psd.load(WRITERS[writer](theirs))
    same(ours["marked"], marked.as_subclass(torch.Tensor))
    assert ours.tensor_attributes["marked"] == {"note": "kept"}
    assert ours.info("marked").type.endswith(".Marked")
    same(ours["wrapped"].inner["values"], theirs["wrapped"].values)
    same(ours["wrapped"].inner["factor"], theirs["wrapped"].factor)
    assert ours["wrapped"].shape == (2,)
    with pytest.raises(TypeError, match="no array by itself"):
        np.asarray(ours["wrapped"])
    with pytest.raises(TypeError, match="which torch would import"):
        kit.saved(ours)
    file = io.BytesIO(kit.saved(ours, opaque=True))
    again = torch.load(file, weights_only=False)
    assert type(again["wrapped"]) is Scaled
    assert torch.equal(again["wrapped"].values, theirs["wrapped"].values)
    assert torch.equal(again["wrapped"].factor, theirs["wrapped"].factor)


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_dtensors(writer: str, tmp_path: pathlib.Path) -> None:
    """What a DTensor tells of its places is torch's own: it needs no leave to be written."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        x = torch.arange(6.0).reshape(2, 3)
        theirs = {
            "sharded": distribute_tensor(x, mesh, [Shard(0)]),
            "copied": distribute_tensor(x.clone(), mesh, [Replicate()]),
            "trained": torch.nn.Parameter(distribute_tensor(x.clone(), mesh, [Shard(1)])),
        }
        ours = psd.load(WRITERS[writer](theirs))
        again = back(ours)
        for name, tensor in theirs.items():
            same(ours[name].inner["_local_tensor"], tensor.to_local(), name)
            assert ours[name].shape == (2, 3)
            assert type(again[name]) is DTensor
            assert again[name].placements == tensor.placements
            assert torch.equal(again[name].to_local(), tensor.to_local())
            assert again[name].requires_grad == tensor.requires_grad
            assert isinstance(again[name], torch.nn.Parameter) == (name == "trained")
        assert ours.trainable["trained"] is True
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("writer", ["zip", "legacy"])
@pytest.mark.parametrize("trained", [True, False])
def test_parameters_of_every_kind(writer: str, trained: bool) -> None:
    parts = [torch.ones(2, 3), torch.ones(4, 3)]
    kinds = {
        "dense": torch.ones(2),
        "expanded": torch.ones(1).expand(3),
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
        "coo": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "bsr": torch.ones(4, 4).to_sparse_bsr((2, 2)),
        "nested": torch.nested.nested_tensor(parts),
        "jagged": torch.nested.nested_tensor(parts, layout=torch.jagged),
        "meta": torch.empty(2, device="meta"),
    }
    if not trained:
        kinds["float8"] = torch.ones(2).to(torch.float8_e5m2)
        kinds["quantized"] = torch.quantize_per_tensor(torch.ones(2), 0.5, 1, torch.qint8)
    theirs = {k: torch.nn.Parameter(v, requires_grad=trained) for k, v in kinds.items()}
    ours = psd.load(WRITERS[writer](theirs))
    assert dict(ours.trainable) == dict.fromkeys(theirs, trained)
    again = back(ours)
    for name, parameter in theirs.items():
        assert isinstance(again[name], torch.nn.Parameter), name
        assert type(again[name]) is type(parameter), name
        assert again[name].requires_grad == trained, name
        assert again[name].layout == parameter.layout, name
