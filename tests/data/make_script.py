# SPDX-License-Identifier: Apache-2.0
"""Make the scripts, packages and exported programs of tests/data/script with real torch.

Run by hand, with any torch since 1.0: python tests/data/make_script.py

Writes what that release can write, and beside it expected-<release>.json: what its own
reader says of the state_dicts.  Nothing here uses pystatedict.
"""

import io
import json
import pathlib
import re
import sys
import warnings
import zipfile
from collections import OrderedDict

import torch
from torch import nn

warnings.simplefilter("ignore")
HERE = pathlib.Path(__file__).resolve().parent / "script"
VERSION = torch.__version__.split("+")[0]
RELEASE = tuple(int(part) for part in VERSION.split(".")[:2])
OLD = RELEASE < (1, 2)  # scripted modules are of a class of their own
Base = torch.jit.ScriptModule if OLD else nn.Module


def unscripted(function):
    return torch.jit.script_method(function) if OLD else function


class Small(Base):
    """What every release can script."""

    def __init__(self):
        super(Small, self).__init__()  # noqa: UP008
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.second.weight.requires_grad = False
        self.register_buffer("view", torch.arange(4).float()[1:3])
        self.register_buffer("whole", torch.arange(3))
        if not OLD:
            self.register_buffer("none", None)
            self.tied = self.first.bias
        self.short = nn.Parameter(torch.ones(2).half())

    @unscripted
    def forward(self, x):
        return self.norm(self.second(self.first(x))) + self.view


# ------------------------------------------------------------------ what torch says


def values_of(tensor):
    """(dtype, shape, bytes) of a dense tensor, resolved."""
    tensor = tensor.detach()
    name = str(tensor.dtype).split(".")[-1]
    for resolve in ("resolve_conj", "resolve_neg"):
        if hasattr(tensor, resolve):
            tensor = getattr(tensor, resolve)()
    shape = list(tensor.shape)
    tensor = tensor.contiguous()
    if name == "bfloat16" or name.startswith("float8"):
        tensor = tensor.view(torch.int16 if name == "bfloat16" else torch.uint8)
    return name, shape, tensor.numpy().tobytes().hex()


def entry_of(name, tensor, parameters):
    kind = "dense"
    if getattr(tensor, "is_quantized", False):
        kind, tensor = "quantized", tensor.dequantize()
    elif "sparse" in str(tensor.layout):
        kind, tensor = "sparse", tensor.to_dense()
    dtype, shape, data = values_of(tensor)
    entry = OrderedDict(name=name, kind=kind, dtype=dtype, shape=shape, bytes=data)
    entry["trainable"] = parameters.get(name, False)
    return entry


def storages_of(state_dict):
    """Which names look at one storage, as a number for each."""
    seen = {}
    for name, tensor in state_dict.items():
        if tensor.layout == torch.strided and tensor.numel() > 0:
            storage = tensor.storage()
            place = storage.data_ptr()
            seen.setdefault(place, []).append(name)
    return [names for names in seen.values() if len(names) > 1]


def flags_of(module):
    """requires_grad of each parameter, under every name that it has."""
    found = {}
    for prefix, part in module.named_modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                found[(prefix + "." if prefix else "") + name] = bool(parameter.requires_grad)
    if OLD:
        found = {name: bool(p.requires_grad) for name, p in module.named_parameters()}
    return found


ROWS = []


def tidy(file):
    """Leave out what names folders of this machine: tables for debugging, stack traces."""
    path = str(HERE / file)
    with zipfile.ZipFile(path) as old:
        records = [(info, old.read(info.filename)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for info, data in records:
            if info.filename.endswith(".debug_pkl") or "/debug/" in info.filename:
                continue
            if info.filename.endswith(".json"):
                data = re.sub(rb'File \\"[^"]*\\"', b'File \\"model.py\\"', data)
            kept = zipfile.ZipInfo(info.filename)
            kept.compress_type = info.compress_type
            if "/models/" in info.filename or "exported_program" in info.filename:
                kept.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(kept, data)


def expect(file, state_dict, parameters, root=None):
    entries = [entry_of(name, tensor, parameters) for name, tensor in state_dict.items()]
    ROWS.append(OrderedDict(file=file, root=root, tensors=entries, shared=storages_of(state_dict)))


def expect_script(file):
    module = torch.jit.load(str(HERE / file))
    expect(file, module.state_dict(), flags_of(module))
    tidy(file)


def scripted(module, file):
    module = module if OLD else torch.jit.script(module)
    torch.jit.save(module, str(HERE / file))
    expect_script(file)
    return module


def every_release():
    torch.manual_seed(0)
    scripted(Small().eval(), f"scripted-{VERSION}.pt")
    layers = [nn.Linear(3, 2), nn.ReLU(), nn.BatchNorm1d(2)]
    model = nn.Sequential(*layers).eval()
    traced = torch.jit.trace(model, torch.ones(2, 3))
    torch.jit.save(traced, str(HERE / f"traced-{VERSION}.pt"))
    expect_script(f"traced-{VERSION}.pt")


# ------------------------------------------------------------------ mobile, quantized


class Holder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.last = nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.inner(x))


def mobile():
    torch.manual_seed(1)
    embedding, linear = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
    linear.weight = embedding.weight
    module = torch.jit.script(nn.Sequential(embedding, linear))
    module._save_for_lite_interpreter(str(HERE / f"mobile-{VERSION}.ptl"))
    expect_script(f"mobile-{VERSION}.ptl")


def quantized():
    torch.manual_seed(2)
    quantize = torch.quantization.quantize_dynamic
    inner = quantize(nn.Sequential(nn.Linear(2, 2)), {nn.Linear}, dtype=torch.qint8)
    scripted(Holder(inner), f"quantized-{VERSION}.pt")


# ------------------------------------------------------------------ of today

exported = getattr(torch.jit, "export", lambda function: function)


class Kinds(nn.Module):
    """Buffers of many kinds, and attributes that are no part of the state_dict."""

    def __init__(self):
        super().__init__()
        names = "uint8 int8 int16 int32 float64 bfloat16 complex64 bool uint16 float8_e4m3fn"
        for name in names.split():
            self.register_buffer("of_" + name, torch.arange(4).to(getattr(torch, name)))
        base = torch.arange(24.0).reshape(4, 6)
        self.register_buffer("rows", base[1:, ::2])
        self.register_buffer("turned", base.t())
        self.register_buffer("wide", torch.ones(1).expand(5))
        self.register_buffer("empty", torch.ones(0, 3))
        self.register_buffer("scalar", torch.tensor(3.0))
        self.register_buffer("coo", torch.eye(3).to_sparse())
        self.register_buffer("csr", torch.eye(3).to_sparse_csr())
        self.register_buffer("conjugate", torch.tensor([1 + 2j]).conj())
        self.register_buffer("negative", torch.tensor([1 + 2j]).conj().imag)
        steps = torch.arange(4.0)
        self.register_buffer("steps", torch.quantize_per_tensor(steps, 0.5, 1, torch.quint8))
        scales, zeros = torch.tensor([0.5, 0.25]), torch.tensor([0, 1])
        channels = torch.quantize_per_channel(steps.reshape(2, 2), scales, zeros, 0, torch.qint8)
        self.register_buffer("channels", channels)
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("none", None)
        self.plain = torch.arange(3)
        self.inside = {"a": torch.ones(1)}
        self.pair = (1, torch.ones(1))
        self.large = 2**40

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(1, 1)
        self.same = self.one
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.alias = self.frozen
        self.register_parameter("none", None)
        self.list = nn.ParameterList([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))])
        self.dict = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 1, bias=False)})
        self.deep = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(1, 1))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deep(self.one(x))


class OddNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("\u00e9", torch.ones(1))
        self.register_parameter("a b", nn.Parameter(torch.ones(1)))
        self.register_parameter("a|b", nn.Parameter(torch.ones(2)))
        self.add_module("0", nn.Linear(1, 1))

    def forward(self, x):
        return x


class Restored(nn.Module):
    """Takes its state apart by itself, with mere assignments."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("steps", torch.zeros(3))
        self.count = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @exported
    def __getstate__(self):
        return (self.steps, self.count, self.training, (self.weight, 7))

    @exported
    def __setstate__(self, state: "tuple[torch.Tensor, int, bool, tuple[torch.Tensor, int]]"):
        steps, count, training, inner = state
        self.weight = inner[0]
        self.steps = steps
        self.count = count
        self.training = training


class Counted(Restored):
    """Takes its state apart and changes it: what becomes of it only running it tells."""

    @exported
    def __setstate__(self, state: "tuple[torch.Tensor, int, bool, tuple[torch.Tensor, int]]"):
        self.weight = state[3][0] + 1
        self.steps = state[0]
        self.count = state[1]
        self.training = state[2]


def modern_scripts():
    torch.manual_seed(3)
    scripted(Kinds(), "kinds.pt")
    scripted(Nested(), "nested.pt")
    scripted(nn.Sequential(Restored(), nn.Linear(1, 1)), "restored.pt")
    torch.jit.save(torch.jit.script(Counted()), str(HERE / "counted.pt"))
    tidy("counted.pt")
    odd = torch.jit.trace(OddNames(), torch.ones(1))
    torch.jit.save(odd, str(HERE / "odd_names.pt"))
    expect_script("odd_names.pt")
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(2, 2)).eval()))
    torch.jit.save(frozen, str(HERE / "frozen.pt"))
    expect_script("frozen.pt")


# ------------------------------------------------------------------ torch.export


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.first.bias.requires_grad = False
        self.tied = nn.Linear(3, 2, bias=False)
        self.tied.weight = self.first.weight
        base = torch.arange(12.0).reshape(3, 4)
        self.register_buffer("view", base[1:, ::2])
        self.register_buffer("base", base)
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.short = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("empty", torch.ones(0, 3))
        self.register_buffer("scalar", torch.tensor(True))
        self.constant = torch.full((2,), 3.0)

    def forward(self, x):
        y = self.first(x) + self.tied(x) + self.passing + self.constant
        return y + self.view.sum() + self.base.sum()


def expect_program(file):
    tidy(file)
    program = torch.export.load(str(HERE / file))
    tensors = program.state_dict
    flags = {n: t.requires_grad for n, t in tensors.items() if isinstance(t, nn.Parameter)}
    expect(file, tensors, flags)
    expect(file, program.constants, {}, root="constants")


def programs():
    from torch._export.serde.schema import SCHEMA_VERSION
    from torch._export.serde.serialize import serialize
    from torch.export.pt2_archive import _package

    torch.manual_seed(4)
    program = torch.export.export(Program().eval(), (torch.ones(2, 3),))
    torch.export.save(program, str(HERE / "program.pt2"))
    expect_program("program.pt2")
    # As torch 2.1 to 2.7 laid it out; today's torch still reads it.
    parts = serialize(program)
    with zipfile.ZipFile(str(HERE / "program_old.pt2"), "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("extra_files/note.txt", "1")
        out.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        out.writestr("serialized_exported_program.json", parts.exported_program)
        stored = zipfile.ZIP_STORED
        out.writestr("serialized_state_dict.pt", parts.state_dict, stored)
        out.writestr("serialized_constants.pt", parts.constants)
        out.writestr("serialized_example_inputs.pt", parts.example_inputs)
    expect_program("program_old.pt2")
    file = io.BytesIO()
    small = torch.export.export(nn.Linear(2, 1), (torch.ones(2, 2),))
    _package.package_pt2(file, exported_programs={"one": program, "two.b": small})
    (HERE / "programs.pt2").write_bytes(file.getvalue())
    tidy("programs.pt2")
    flags = dict.fromkeys(("weight", "bias"), True)
    expect("programs.pt2", small.state_dict, flags, root="two.b")


# ------------------------------------------------------------------ torch.package


def packages():
    from torch.package import PackageExporter, package_exporter

    sys.path.insert(0, str(HERE))
    import packaged

    torch.manual_seed(5)
    model, grid = packaged.Net(), torch.arange(6.0).reshape(2, 3)
    flags = flags_of(model)
    with PackageExporter(str(HERE / "package.pt")) as out:
        out.extern(["torch.**", "numpy.**"])
        out.intern("packaged")
        out.save_pickle("model", "model.pkl", model)
        out.save_pickle("data", "grid.pkl", {"grid": grid, "row": grid[1], "n": 3})
        out.save_text("data", "note.txt", "hi")
    expect("package.pt", model.state_dict(), flags, root="model/model.pkl.auto")
    with PackageExporter(str(HERE / "package_one.pt")) as out:
        out.extern("torch.**")
        out.intern("packaged")
        out.save_pickle("model", "model.pkl", model)
    expect("package_one.pt", model.state_dict(), flags, root="auto")
    package_exporter._gate_torchscript_serialization = False
    with PackageExporter(str(HERE / "package_script.pt")) as out:
        out.extern("torch.**")
        out.save_pickle("model", "model.pkl", {"script": torch.jit.script(model), "grid": grid})
    tidy("package_script.pt")
    root = ".data/ts_code/0/data.pkl.auto"
    expect("package_script.pt", torch.jit.script(model).state_dict(), flags, root=root)
    with PackageExporter(str(HERE / "package_graph.pt")) as out:
        out.extern("torch.**")
        out.intern("**")
        out.save_pickle("model", "model.pkl", torch.fx.symbolic_trace(model))
    traced = torch.fx.symbolic_trace(model)
    torch.save(traced, str(HERE / "graph.pth"))
    expect("graph.pth", traced.state_dict(), flags, root="auto")


def main():
    HERE.mkdir(exist_ok=True)
    every_release()
    if RELEASE >= (1, 6):
        mobile()
        quantized()
    if RELEASE >= (2, 13):
        modern_scripts()
        programs()
        packages()
    with open(str(HERE / f"expected-{VERSION}.json"), "w") as out:
        out.write("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n")


if __name__ == "__main__":
    main()
