# SPDX-License-Identifier: Apache-2.0
"""Make example files of whole models with today's torch, and say what state_dict() gives.

Run by hand: python tests/data/make_modules.py
"""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization as quantization
from torch import fx, nn
from torch.nn.utils import prune

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from describe import describe, write  # noqa: E402

FOLDER = HERE / "kinds" / "modules"
ROWS: list[dict[str, Any]] = []


def keep(name: str, obj: Any, *, legacy: bool = False, **facts: Any) -> None:
    options = {"_use_new_zipfile_serialization": False} if legacy else {}
    torch.save(obj, FOLDER / name, **options)
    ROWS.append({"file": name, "object": describe(obj), **facts})


def made(fill: Callable[[Any], None]) -> nn.Module:
    """A plain module, filled by a function that is not kept."""
    module = nn.Module()
    fill(module)
    return module


# ------------------------------------------------------------------ a user's own classes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.note = "plain"
        self.fc = nn.Linear(3, 2)
        self.lists = [nn.Linear(1, 1)]  # in a list: no child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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
        self.kept = nn.Buffer(torch.zeros(1))
        self.let_go = nn.Buffer(torch.zeros(1), persistent=False)


class Slots(nn.Module):
    __slots__ = ("number",)

    def __init__(self) -> None:
        super().__init__()
        self.number = 5
        self.fc = nn.Linear(1, 1)


class Norm(nn.BatchNorm2d):
    """A norm under a name of a user's own."""


class Reduced(nn.Module):
    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.fc = nn.Linear(size, 1)

    def __reduce__(self) -> Any:
        return (Reduced, (1,), self.__dict__)


class OwnState(nn.Module):
    """Tells its state in a way of its own, so that nobody can look into it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def __getstate__(self) -> Any:
        return {"mine": self.__dict__}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state["mine"])


class Trainer:
    """No module, and holds one."""

    def __init__(self) -> None:
        self.epoch = 3
        self.model = Net()


def forward_hook(module: Any, args: Any, out: Any) -> None:
    return None


def change(module: Any, state_dict: Any, prefix: str, metadata: Any) -> None:
    state_dict[prefix + "more"] = torch.ones(1)


# ------------------------------------------------------------------ groups


def layers() -> dict[str, nn.Module]:
    return {
        "batch norm": nn.BatchNorm2d(2),
        "untracked": nn.BatchNorm1d(2, track_running_stats=False),
        "instance norm": nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        "bare instance norm": nn.InstanceNorm2d(2),
        "group norm": nn.GroupNorm(1, 2),
        "layer norm": nn.LayerNorm(3),
        "rms norm": nn.RMSNorm(3),
        "sync norm": nn.SyncBatchNorm(2),
        "lstm": nn.LSTM(2, 1, 2, bidirectional=True),
        "gru": nn.GRU(2, 1),
        "rnn cell": nn.RNNCell(2, 1),
        "projected": nn.LSTM(2, 3, proj_size=2),
        "attention": nn.MultiheadAttention(4, 2),
        "other keys": nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True),
        "embedding": nn.Embedding(3, 2, padding_idx=1),
        "bag": nn.EmbeddingBag(3, 2),
        "bilinear": nn.Bilinear(1, 2, 3),
        "softmax": nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3, 6]),
        "loss": nn.CrossEntropyLoss(weight=torch.ones(3)),
        "lazy": nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(1, 1)),
        "identity": nn.Sequential(nn.Identity(), nn.Dropout(0.1)),
        "complex": nn.Linear(1, 2, dtype=torch.complex64),
        "half": nn.Linear(1, 2).half(),
        "bfloat16": nn.Linear(1, 2, dtype=torch.bfloat16),
        "meta": nn.Linear(1, 2, device="meta"),
        "channels last": nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    }


def containers() -> dict[str, nn.Module]:
    one = nn.Parameter(torch.ones(1))
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    shared = nn.Linear(2, 2)
    embedding = nn.Embedding(4, 3)
    head = nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    half_frozen = nn.Linear(2, 2)
    half_frozen.bias.requires_grad_(False)
    gap = nn.Sequential(collections.OrderedDict(first=nn.Linear(1, 1)))
    gap.add_module("none", None)
    quantized = nn.Linear(1, 2)
    to_eight = quantized.weight.detach().to(torch.float8_e4m3fn)
    quantized.weight = nn.Parameter(to_eight, requires_grad=False)
    return {
        "modules": nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1), nn.Conv2d(1, 1, 1)])}),
        "parameters": nn.ParameterList([one, frozen]),
        "mixed": nn.ParameterList([torch.ones(2), "text", 3, one]),
        "named": nn.ParameterDict({"x": one, "y": torch.zeros(1)}),
        "shared": nn.ModuleDict({"a": shared, "b": shared}),
        "tied": nn.ModuleDict({"in": embedding, "out": head}),
        "frozen": half_frozen,
        "parallel": nn.DataParallel(Net()),
        "average": torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1)),
        "gap": gap,
        "float8": quantized,
        "sparse": made(lambda m: setattr(m, "w", nn.Parameter(torch.eye(3).to_sparse()))),
        "view": made(lambda m: setattr(m, "w", nn.Parameter(torch.ones(4, 6)[1:3, 1:4]))),
    }


def wrapped() -> dict[str, nn.Module]:
    once = nn.Linear(2, 2)
    prune.l1_unstructured(once, "weight", 1)
    prune.random_unstructured(once, "bias", 1)
    twice = nn.Linear(4, 4)
    prune.l1_unstructured(twice, "weight", 1)
    prune.ln_structured(twice, "weight", 1, n=2, dim=0)
    hooked = Net()
    hooked.register_forward_hook(forward_hook)
    hooked.register_forward_pre_hook(forward_hook, with_kwargs=True)
    hooked.fc.register_load_state_dict_post_hook(forward_hook)
    marked = Net()
    marked.fc.weight.note = "kept"
    return {
        "weight norm": nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))),
        "spectral norm": nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2))),
        "pruned": nn.Sequential(once),
        "pruned twice": nn.Sequential(twice),
        "hooks": hooked,
        "attributes": marked,
        "own": Own(),
        "slots": Slots(),
        "norm": nn.Sequential(Norm(2)),
        "reduced": Reduced(),
    }


# ------------------------------------------------------------------ quantized


class Quantizable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = quantization.QuantStub()
        self.conv = nn.Conv2d(1, 2, 2)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2, 3)
        self.leave = quantization.DeQuantStub()
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.conv(self.enter(x))))
        return self.leave(self.fc(self.sum.add(x, x).mean([2, 3])))


def static(fuse: bool) -> nn.Module:
    model = Quantizable().eval()
    if fuse:
        model = quantization.fuse_modules(model, [["conv", "bn", "relu"]])
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)
    model(torch.randn(2, 1, 4, 4))
    return quantization.convert(model)


def dynamic(dtype: torch.dtype) -> nn.Module:
    layers = {"fc": nn.Linear(4, 3), "lstm": nn.LSTM(2, 3), "gru": nn.GRU(2, 3)}
    layers |= {"cell": nn.LSTMCell(2, 2), "bag": nn.EmbeddingBag(4, 4)}
    kinds = {nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell}
    return quantization.quantize_dynamic(nn.ModuleDict(layers), kinds, dtype=dtype)


def embedding(layer: nn.Module, settings: Any) -> nn.Module:
    model = nn.Sequential(layer)
    model[0].qconfig = settings
    quantization.prepare(model, inplace=True)
    quantization.convert(model, inplace=True)
    return model


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.fc = nn.Linear(2, 3)

    def forward(self, x):  # fx would take the text of a type for one
        return self.fc(self.conv(x).relu().mean([2, 3]))


def quantized_graph() -> nn.Module:
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    x = torch.randn(2, 1, 4, 4)
    mapping = quantization.get_default_qconfig_mapping("fbgemm")
    prepared = prepare_fx(Graph().eval(), mapping, (x,))
    prepared(x)
    return convert_fx(prepared)


def quantized() -> dict[str, nn.Module]:
    torch.backends.quantized.engine = "fbgemm"
    wide = quantization.float_qparams_weight_only_qconfig
    narrow = quantization.float_qparams_weight_only_qconfig_4bit
    found = {
        "static": static(True),
        "unfused": static(False),
        "dynamic": dynamic(torch.qint8),
        "dynamic half": dynamic(torch.float16),
        "bag": embedding(nn.EmbeddingBag(4, 4, mode="sum"), wide),
        "embedding": embedding(nn.Embedding(4, 4), narrow),
    }
    for model in found.values():
        for module in model.modules():
            module.qconfig = None
    return found


def main() -> None:
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    keep("layers.pth", layers(), group=True)
    keep("containers.pth", containers(), group=True)
    keep("wrapped.pth", wrapped(), group=True)
    keep("quantized.pth", quantized(), group=True)
    keep("net.pth", Net())
    keep("own.pth", Own())
    keep("own_legacy.pth", Own(), legacy=True)
    keep("method.pth", Own().state_dict)
    keep("method_legacy.pth", Own().state_dict, legacy=True)
    keep("parallel.pth", nn.DataParallel(Net()))
    keep("graph.pth", fx.symbolic_trace(Graph()), dangerous=True)
    keep("quantized_graph.pth", quantized_graph(), dangerous=True, circular=True)
    keep("parameters.pth", list(Net().parameters()))
    # What cannot be told without code: the tests say how we say so.
    hooked = nn.Sequential(Own())
    torch.save(hooked, FOLDER / "without_hook.pth")
    hooked[0].register_state_dict_post_hook(change)
    torch.save(hooked, FOLDER / "hook.pth")
    torch.save(nn.Sequential(nn.Linear(1, 1), OwnState()), FOLDER / "own_state_within.pth")
    torch.save({"model": OwnState(), "other": {"w": torch.ones(1)}}, FOLDER / "own_state.pth")
    torch.save(Trainer(), FOLDER / "trainer.pth")
    told = {"torch": torch.__version__.split("+")[0], "files": ROWS}
    write(str(HERE / "kinds" / "modules.json"), told)


if __name__ == "__main__":
    main()
