# SPDX-License-Identifier: Apache-2.0
"""Whole models against real torch: what state_dict() gives, told from the pickle alone."""

from __future__ import annotations

import collections
import io
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

torch = pytest.importorskip("torch")

from test_oracle_kinds import legacy, name_of, raw, zipped  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.oracle


@pytest.fixture(autouse=True)
def our_warnings_only() -> Iterator[None]:
    """torch and what it imports say much of themselves; what we say is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", psd.StateDictWarning)
        yield


CONTAINERS = {
    "zip": zipped,
    "legacy": legacy,
    "protocol 4": lambda obj: _saved(obj, pickle_protocol=4),
    "protocol 5": lambda obj: _saved(obj, pickle_protocol=5),
}


def _saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file, **options)
    return file.getvalue()


# ------------------------------------------------------------------ models


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.note = "plain"
        self.fc = nn.Linear(3, 2)
        self.lists = [nn.Linear(1, 1)]  # in a list: no child

    def forward(self, x):  # torch.fx would take the text of a type for one
        return self.fc(x)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.register_buffer("b", torch.arange(3))
        self.register_buffer("passing", torch.ones(1), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("no_parameter", None)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.plain = torch.ones(4)


class Slots(nn.Module):
    __slots__ = ("number",)

    def __init__(self) -> None:
        super().__init__()
        self.number = 5
        self.fc = nn.Linear(1, 1)


class Norm(nn.BatchNorm2d):
    pass


class OwnVersion(nn.Module):
    _version = 5


class Reduced(nn.Module):
    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.fc = nn.Linear(size, 1)

    def __reduce__(self) -> Any:
        return (Reduced, (1,), self.__dict__)


class OwnState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def __getstate__(self) -> Any:
        return {"mine": self.__dict__}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state["mine"])


class Trainer:
    def __init__(self) -> None:
        self.epoch = 3
        self.model = Net()
        self.history = [1, 2]


class Parallel(nn.Module):
    """As DistributedDataParallel keeps what it wraps."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def hook(*args: Any) -> None:
    return None


def change(module: Any, state_dict: Any, prefix: str, metadata: Any) -> None:
    state_dict[prefix + "more"] = torch.ones(1)


def prepare(module: Any, prefix: str, keep: bool) -> None:
    return None


def hooked() -> nn.Module:
    model = Net()
    model.register_forward_hook(hook)
    model.register_forward_pre_hook(hook, with_kwargs=True)
    model.register_full_backward_hook(hook)
    model.fc.register_load_state_dict_post_hook(hook)
    return model


def tied() -> nn.Module:
    embedding, head = nn.Embedding(4, 3, padding_idx=0), nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    return nn.ModuleDict({"in": embedding, "out": head})


def shared() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.ModuleDict({"a": layer, "b": layer, "inner": nn.Sequential(layer)})


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 1)
    prune.ln_structured(layer, "weight", 1, n=2, dim=0)
    prune.random_unstructured(layer, "bias", 1)
    return nn.Sequential(layer)


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    model[1].weight.requires_grad_(False)
    return model


def sparse() -> nn.Module:
    model = Net()
    model.coo = nn.Parameter(torch.eye(3).to_sparse())
    model.register_buffer("csr", torch.eye(3).to_sparse_csr())
    return model


def eight_bits() -> nn.Module:
    model = Net()
    data = model.fc.weight.detach().to(torch.float8_e4m3fn)
    model.fc.weight = nn.Parameter(data, requires_grad=False)
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "net": Net,
    "own": Own,
    "slots": Slots,
    "reduced": Reduced,
    "norm of its own": lambda: nn.Sequential(Norm(2)),
    "hooks": hooked,
    "tied": tied,
    "shared": shared,
    "pruned": pruned,
    "frozen": frozen,
    "sparse": sparse,
    "float8": eight_bits,
    "half": lambda: Net().half(),
    "double": lambda: Net().double(),
    "bfloat16": lambda: Net().to(torch.bfloat16),
    "complex": lambda: nn.Linear(2, 2, dtype=torch.complex64),
    "meta": lambda: nn.Linear(2, 2, device="meta"),
    "channels last": lambda: nn.Sequential(nn.Conv2d(3, 4, 3)).to(
        memory_format=torch.channels_last
    ),
    "data parallel": lambda: nn.DataParallel(Net()),
    "as distributed": lambda: Parallel(Parallel(Net())),
    "average": lambda: torch.optim.swa_utils.AveragedModel(Net()),
    "compiled": lambda: torch.compile(Net()),
    "compiled within": lambda: nn.Sequential(torch.compile(nn.Linear(1, 1)), nn.Linear(1, 1)),
    "weight norm": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))),
    "spectral norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2))),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(2, affine=False)),
    "untracked": lambda: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)),
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(2), nn.InstanceNorm1d(2, affine=True)),
    "other norms": lambda: nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(3), nn.RMSNorm(3)),
    "lstm": lambda: nn.LSTM(2, 3, 2, bidirectional=True),
    "gru": lambda: nn.Sequential(nn.GRU(2, 3), nn.RNN(2, 3), nn.LSTMCell(2, 3)),
    "attention": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True),
    "transformer": lambda: nn.Transformer(4, 2, 1, 1, 8),
    "embeddings": lambda: nn.Sequential(nn.Embedding(3, 2, padding_idx=1), nn.EmbeddingBag(3, 2)),
    "losses": lambda: nn.ModuleList(
        [nn.CrossEntropyLoss(weight=torch.ones(3)), nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))]
    ),
    "no tensors": lambda: nn.Sequential(nn.Dropout(0.1), nn.Flatten()),
    "containers": lambda: nn.ModuleDict(
        {
            "list": nn.ModuleList([nn.Linear(1, 1), nn.Conv2d(1, 1, 1)]),
            "numbered": nn.ParameterList([nn.Parameter(torch.ones(1)), torch.ones(2), "text"]),
            "named": nn.ParameterDict({"x": nn.Parameter(torch.ones(1)), "y": torch.zeros(1)}),
        }
    ),
}


# ------------------------------------------------------------------ comparing


def same_value(mine: Any, theirs: Any, where: str) -> None:
    if theirs.is_meta:
        assert mine.is_meta, where
        assert (mine.dtype, mine.shape) == (name_of(theirs.dtype), tuple(theirs.shape)), where
    elif theirs.layout != torch.strided:
        assert mine.layout == name_of(theirs.layout), where
        assert np.array_equal(mine.to_dense(), theirs.detach().to_dense().numpy()), where
    else:
        assert mine.dtype.name == name_of(theirs.dtype), where
        assert mine.shape == tuple(theirs.shape), where
        assert kit.bits(mine) == raw(theirs), where


def same_state_dict(sd: Any, model: Any) -> None:
    theirs = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert isinstance(sd, psd.StateDict)
    assert list(sd) == list(theirs)
    assert sd.metadata == theirs._metadata
    assert list(sd.metadata) == list(theirs._metadata)
    for name, tensor in theirs.items():
        same_value(sd[name], tensor, name)
        flag = parameters[name].requires_grad if name in parameters else False
        assert sd.trainable[name] is flag, name
    same_ties(sd, theirs)


def same_ties(sd: Any, theirs: Any) -> None:
    dense = [n for n, t in theirs.items() if t.layout == torch.strided and not t.is_meta]
    for one in dense:
        for other in dense:
            tied = theirs[one].data_ptr() == theirs[other].data_ptr()
            assert np.shares_memory(sd[one], sd[other]) == tied, (one, other)


# ------------------------------------------------------------------ whole models


@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("name", sorted(MODELS))
def test_whole_models(name: str, container: str) -> None:
    model = MODELS[name]()
    data = CONTAINERS[container](model)
    same_state_dict(psd.load(data, root="auto"), model)
    same_state_dict(psd.load(data).state_dict(), model)
    with psd.open(data) as checkpoint:
        assert list(checkpoint) == list(model.state_dict())


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_methods_of_models(name: str, container: str) -> None:
    """torch.save(model.state_dict, f): read all the same, and said."""
    model = MODELS[name]()
    data = CONTAINERS[container](model.state_dict)
    with pytest.warns(psd.StateDictWarning, match=r"torch\.save\(model\.state_dict\(\), f\)"):
        same_state_dict(psd.load(data, root="auto"), model)
    with pytest.warns(psd.StateDictWarning, match="parentheses"):
        same_state_dict(psd.load(data).state_dict(), model)
    with pytest.warns(psd.StateDictWarning, match="parentheses"), psd.open(data) as checkpoint:
        assert list(checkpoint) == list(model.state_dict())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_in_checkpoints(name: str) -> None:
    model = MODELS[name]()
    whole = {"epoch": 3, "model": model, "optimizer": {"state": {}, "param_groups": []}}
    data = zipped({**whole, "averages": {"w": torch.ones(2)}})
    for root in ("auto", "model"):
        same_state_dict(psd.load(data, root=root), model)
    loaded = psd.load(data)
    assert loaded["epoch"] == 3
    same_state_dict(loaded["model"].state_dict(), model)
    with psd.open(data, root="auto") as checkpoint:
        assert list(checkpoint) == list(model.state_dict())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_written_back_as_they_were(name: str, tmp_path: pathlib.Path) -> None:
    """The inert model goes out as it came in, and torch makes the model of it again."""
    model = MODELS[name]()
    path = tmp_path / "model.pth"
    with pytest.raises(TypeError, match="which torch would import"):
        psd.save(psd.load(zipped(model)), path)
    psd.save(psd.load(zipped(model)), path, opaque=True)
    again = torch.load(path, weights_only=False)
    assert type(again) is type(model)
    same_state_dict(psd.load(path, root="auto"), again)
    same_state_dict(psd.load(path, root="auto"), model)


def test_state_dict_goes_into_the_model_again(tmp_path: pathlib.Path) -> None:
    model = frozen()
    sd = psd.load(zipped(model), root="auto")
    psd.save(sd, tmp_path / "sd.pth")
    again = torch.load(tmp_path / "sd.pth", weights_only=True)
    assert str(frozen().load_state_dict(again)) == "<All keys matched successfully>"
    assert {n: again[n].requires_grad for n in again} == {
        n: bool(f) for n, f in sd.trainable.items()
    }


def test_sidecar_of_a_whole_model(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(Net(), path)
    psd.save_trainable(path, {"fc.weight": False, "fc.bias": True})
    for sd in (psd.load(path, root="auto"), psd.load(path).state_dict()):
        assert dict(sd.trainable) == {"fc.weight": False, "fc.bias": True}
    flags = {"fc.weight": True, "fc.bias": False}
    sd = psd.load(path, root="auto", trainable=flags)
    assert dict(sd.trainable) == flags


def test_several_models_are_ambiguous() -> None:
    both = zipped({"generator": Net(), "model": Net()})
    with pytest.raises(psd.MissingTensorError, match="generator, model") as caught:
        psd.load(both, root="auto")
    assert caught.value.code == "ambiguous-root"
    assert list(psd.load(both, root="generator")) == ["fc.weight", "fc.bias"]


def test_a_model_in_an_object_that_is_none() -> None:
    trainer = Trainer()
    same_state_dict(psd.load(zipped(trainer), root="auto"), trainer.model)
    with psd.open(zipped(trainer), root="auto") as checkpoint:
        assert list(checkpoint) == ["fc.weight", "fc.bias"]


def test_distributed_data_parallel(tmp_path: pathlib.Path) -> None:
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Net())
        data = zipped(model)
        same_state_dict(psd.load(data, root="auto"), model)
        assert next(iter(psd.load(data, root="auto"))) == "module.fc.weight"
    finally:
        dist.destroy_process_group()


# ------------------------------------------------------------------ graphs and quantized models


def test_graph_modules() -> None:
    from torch import fx

    for model in (fx.symbolic_trace(Net()), fx.symbolic_trace(nn.Sequential(nn.Linear(1, 1)))):
        data = zipped(model)
        with pytest.raises(psd.UnsafePickleError, match="graph module") as caught:
            psd.load(data, root="auto")
        assert 'dangerous="opaque"' in caught.value.hint
        same_state_dict(psd.load(data, root="auto", dangerous="opaque"), model)


def _quantized() -> dict[str, Any]:
    import torch.ao.quantization as quantization

    torch.backends.quantized.engine = "fbgemm"
    layers = {"fc": nn.Linear(4, 3), "lstm": nn.LSTM(2, 3), "cell": nn.GRUCell(2, 2)}
    kinds = {nn.Linear, nn.LSTM, nn.GRUCell}
    models = {
        name: quantization.quantize_dynamic(nn.ModuleDict(layers), kinds, dtype=dtype)
        for name, dtype in (("dynamic", torch.qint8), ("half", torch.float16))
    }
    parts = [quantization.QuantStub(), nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2)]
    parts += [nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), quantization.DeQuantStub()]
    for name, fuse in (("static", False), ("fused", True)):
        model = nn.Sequential(*parts).eval()
        if fuse:
            model = quantization.fuse_modules(model, [["1", "2", "3"]])
        model.qconfig = quantization.get_default_qconfig("fbgemm")
        prepared = quantization.prepare(model)
        prepared(torch.randn(2, 1, 3, 3))
        models[name] = quantization.convert(prepared)
    for layer, settings in (
        (nn.EmbeddingBag(4, 4, mode="sum"), quantization.float_qparams_weight_only_qconfig),
        (nn.Embedding(4, 4), quantization.float_qparams_weight_only_qconfig_4bit),
    ):
        model = nn.Sequential(layer)
        layer.qconfig = settings
        quantization.prepare(model, inplace=True)
        models[type(layer).__name__] = quantization.convert(model)
    return models


def same_quantized_value(mine: Any, theirs: Any, where: str) -> None:
    if isinstance(theirs, tuple):
        assert len(mine) == len(theirs), where
        for one, other in zip(mine, theirs, strict=True):
            same_quantized_value(one, other, where)
    elif isinstance(theirs, torch.ScriptObject):
        assert mine.qualified_name == "torch.ScriptObject", where
    elif not isinstance(theirs, torch.Tensor):
        assert str(mine) == str(theirs), where
    elif theirs.is_quantized:
        assert mine.dtype == name_of(theirs.dtype), where
        assert np.array_equal(mine.dequantize(), theirs.dequantize().numpy()), where
    else:
        same_value(mine, theirs, where)


@pytest.mark.parametrize("container", ["zip", "legacy", "protocol 4"])
def test_quantized_models(container: str) -> None:
    """Weights in script objects and tuples, scales as tensors of their own."""
    for model in _quantized().values():
        theirs = model.state_dict()
        data = CONTAINERS[container](model)
        sd = psd.load(data, root="auto")
        assert list(sd) == list(theirs)
        assert sd.metadata == theirs._metadata
        for name, value in theirs.items():
            same_quantized_value(sd[name], value, name)


# ------------------------------------------------------------------ what only code could tell


def test_what_hooks_do_is_not_told() -> None:
    model = nn.Sequential(Own())
    model[0].register_state_dict_post_hook(change)
    data = zipped(model)
    assert "0.more" in model.state_dict()
    with pytest.warns(psd.StateDictWarning, match=r"0 \(.*change, a hook\)"):
        sd = psd.load(data, root="auto")
    assert list(sd) == ["0.w", "0.b", "0.flags"]
    loaded = psd.load(data)  # nobody has asked for the state_dict
    with pytest.warns(psd.StateDictWarning, match="hook"):
        loaded.state_dict()
    model = Own()
    model.register_state_dict_pre_hook(prepare)
    with pytest.warns(psd.StateDictWarning, match="the model .*prepare, a hook"):
        psd.load(zipped(model), root="auto")


def test_children_of_an_unknown_form_are_named() -> None:
    model = nn.Sequential(nn.Linear(1, 1), OwnState())
    with pytest.warns(psd.StateDictWarning, match=r": 1 \(.*OwnState\)\. The tensors that are"):
        sd = psd.load(zipped(model), root="auto")
    assert list(sd) == ["0.weight", "0.bias"]


def test_a_model_of_an_unknown_form_is_no_state_dict() -> None:
    for obj in (
        OwnState(),
        {"model": OwnState()},
        {"model": OwnState(), "b": {"w": torch.ones(1)}},
    ):
        with pytest.raises(psd.UnsupportedError) as caught:
            psd.load(zipped(obj), root="auto")
        assert caught.value.code == "no-state-dict"


def test_versions_of_own_classes_are_taken_for_1() -> None:
    """A class's own number stands in its code alone."""
    sd = psd.load(zipped(OwnVersion()), root="auto")
    assert sd.metadata == {"": {"version": 1}}


def test_lazy_modules_have_no_shapes_yet() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", psd.StateDictWarning)
        sd = psd.load(zipped(model), root="auto")
    assert list(sd) == list(model.state_dict())
    assert sd["0.weight"].qualified_name == "torch.nn.parameter.UninitializedParameter"
    assert sd["1.running_mean"].qualified_name == "torch.nn.parameter.UninitializedBuffer"
    assert sd["2.weight"].shape == (1, 1)


# ------------------------------------------------------------------ other keepers of weights


def test_optimizers_are_no_state_dicts() -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for obj in (optimizer.state_dict(), {"optimizer": optimizer.state_dict(), "epoch": 1}):
        with pytest.raises((psd.UnsupportedError, psd.MissingTensorError)) as caught:
            psd.load(zipped(obj), root="auto")
        assert caught.value.code == "no-state-dict"
    whole = {"optimizer": optimizer.state_dict(), "net": model.state_dict()}
    assert list(psd.load(zipped(whole), root="auto")) == ["fc.weight", "fc.bias"]


def test_root_auto_looks_deeper() -> None:
    sd = Net().state_dict()
    deeper = {"checkpoint": {"weights": sd, "epoch": 1}, "optimizer": {"a": {"m": torch.ones(1)}}}
    assert list(psd.load(zipped(deeper), root="auto")) == list(sd)
    listed = {"models": [sd], "n": [1, 2]}
    assert list(psd.load(zipped(listed), root="auto")) == list(sd)
    several = {"models": [sd, Net().state_dict()]}
    with pytest.raises(psd.MissingTensorError, match=r"models\.0, models\.1"):
        psd.load(zipped(several), root="auto")
    assert list(psd.load(zipped(several), root="models.1")) == list(sd)


def test_parameters_without_names() -> None:
    """list(model.parameters()): values and flags, no names."""
    model = frozen()
    ours = psd.load(zipped(list(model.parameters())))
    assert [a.shape for a in ours] == [tuple(p.shape) for p in model.parameters()]
    again = torch.load(io.BytesIO(kit.saved(ours)), weights_only=True)
    assert [p.requires_grad for p in again] == [p.requires_grad for p in model.parameters()]


def test_a_plain_ordered_dict_has_no_metadata() -> None:
    sd = psd.load(zipped(collections.OrderedDict(w=torch.ones(1))))
    assert sd.metadata is None
