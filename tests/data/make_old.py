# SPDX-License-Identifier: Apache-2.0
"""Make example files with a torch of long ago, and say what it says of them.

    PYTHON tests/data/make_old.py        with each Python that has a torch of its own

Runs on Python 2.7 and torch 1.0 as on today's.  Files go to old/<version>/, what is in
them to old/<version>.json.
"""

import argparse
import collections
import os
import pickle
import sys

import torch
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from describe import describe, write  # noqa: E402

VERSION = torch.__version__.split("+")[0]
RELEASE = tuple(int(part) for part in VERSION.split(".")[:2])
FOLDER = os.path.join(HERE, "old", VERSION)
ROWS = []


class Net(nn.Module):
    """A model of a user's own, with all that a state_dict() tells and leaves out."""

    def __init__(self):
        super(Net, self).__init__()
        self.fc = nn.Linear(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2), requires_grad=False)
        self.twin = self.head  # shared
        self.register_buffer("steps", torch.tensor([1, 2]))
        self.register_buffer("nothing", None)
        self.note = "plain"
        self.kept = torch.ones(2)  # neither parameter nor buffer
        if RELEASE >= (1, 6):
            self.register_buffer("passing", torch.ones(1), persistent=False)

    def forward(self, x):
        return self.head(self.fc(x))


def keep(name, obj, **options):
    path = os.path.join(FOLDER, name)
    with open(path, "wb") as file:
        torch.save(obj, file, **options)
    ROWS.append({"file": name, "object": describe(obj)})


def keep_pickle(name, obj, protocol):
    """By pickle itself, which forgets what shares memory: told is what it loads."""
    with open(os.path.join(FOLDER, name), "wb") as file:
        pickle.dump(obj, file, protocol)
    with open(os.path.join(FOLDER, name), "rb") as file:
        ROWS.append({"file": name, "object": describe(pickle.load(file))})


def both(name, obj, **options):
    """In torch's default container, and in the other one where there are two."""
    keep(name + ".pth", obj, **options)
    if (1, 4) <= RELEASE < (1, 13):
        zipped = RELEASE < (1, 6)
        keep(name + "_other.pth", obj, _use_new_zipfile_serialization=zipped, **options)


def all_dtypes():
    names = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
    found = {name: torch.arange(3).to(getattr(torch, name)) for name in names}
    if RELEASE >= (1, 2):
        found["bool"] = torch.tensor([True, False])
        found["bfloat16"] = torch.tensor([1.5, -2.0, 3.0]).to(torch.bfloat16)
    if RELEASE >= (1, 6):
        found["complex64"] = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex64)
        found["complex128"] = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128)
    return collections.OrderedDict(sorted(found.items()))


def views():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return collections.OrderedDict(
        [
            ("base", base),
            ("turned", base.t()),
            ("part", base[1:3, 2:5]),
            ("steps", base[:, ::2]),
            ("wide", base[:1, :2].expand(3, 2)),
            ("one", base[2, 3]),
            ("none", base[:0]),
            ("other", torch.arange(3)),
        ]
    )


def training():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.25)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "best": 0.5,
        "name": "run",
        "args": argparse.Namespace(lr=0.25),
        "nested": [1, (2.5, None), {"size": torch.Size([2, 3])}],
    }


def parameters():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    leaf = torch.zeros(2, requires_grad=True)
    trained = nn.Parameter(torch.ones(2, 2))
    return {"trained": trained, "frozen": frozen, "leaf": leaf, "plain": torch.ones(1)}


def sparse():
    dense = torch.tensor([[0.0, 5.0, 0.0], [7.0, 0.0, 0.0]])
    twice = torch.LongTensor([[0, 0, 1], [1, 1, 2]])
    found = {
        "coo": dense.to_sparse(),
        "twice": torch.sparse_coo_tensor(twice, torch.tensor([1.0, 2.0, 4.0]), (2, 3)),
        "hybrid": torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.ones(2, 2), (3, 2)),
        "empty": torch.sparse_coo_tensor(torch.zeros(2, 0).long(), torch.zeros(0), (2, 3)),
    }
    if RELEASE >= (1, 13):  # 1.10 crashes
        found["csr"] = dense.to_sparse_csr()
    if RELEASE >= (2, 0):
        found["csc"] = dense.to_sparse_csc()
        found["bsr"] = torch.ones(4, 4).to_sparse_bsr((2, 2))
        found["bsc"] = torch.ones(4, 4).to_sparse_bsc((2, 2))
    return found


def quantized():
    x = torch.tensor([[-1.0, 0.0, 1.5], [2.0, 3.25, -4.0]])
    if RELEASE < (1, 3):
        return {"linear": torch.quantize_linear(x, 0.25, 8, torch.quint8)}
    found = {
        "u": torch.quantize_per_tensor(x, 0.25, 8, torch.quint8),
        "i": torch.quantize_per_tensor(x, 0.5, 0, torch.qint8),
        "w": torch.quantize_per_tensor(x, 0.125, 3, torch.qint32),
    }
    if RELEASE >= (1, 4):
        scales, zeros = torch.tensor([0.5, 0.25], dtype=torch.float64), torch.tensor([1, 2])
        found["channels"] = torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8)
    if RELEASE >= (1, 8):
        zeros = torch.tensor([1.5, 2.25])
        channels = (x, torch.tensor([0.5, 0.25]), zeros, 0)
        found["float"] = torch.quantize_per_channel(*channels, dtype=torch.quint8)
    if RELEASE >= (1, 9):
        found["packed"] = torch.quantize_per_channel(*channels, dtype=torch.quint4x2)
    return found


def quantized_models():
    """Whole models that torch has quantized: after training, and on the way."""
    if RELEASE >= (1, 13):
        import torch.ao.quantization as quantization
    else:
        from torch import quantization
    torch.manual_seed(0)

    torch.backends.quantized.engine = "fbgemm"
    dynamic = nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2))
    layers = {nn.Linear, nn.LSTM} if RELEASE >= (1, 4) else {nn.Linear}
    yield "dynamic", quantization.quantize_dynamic(dynamic, layers)
    parts = [quantization.QuantStub(), nn.Conv2d(1, 2, 2), nn.ReLU(), quantization.DeQuantStub()]
    static = nn.Sequential(*parts).eval()
    static.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(static, inplace=True)
    static(torch.ones(1, 1, 3, 3))
    quantization.convert(static, inplace=True)
    yield "static", static


def without_settings(model):
    """What cannot be pickled of it, and nobody needs any more."""
    for module in model.modules():
        module.qconfig = None
    return model


class Marked(torch.Tensor):
    """A subclass that adds nothing but its name and an attribute."""


def subclasses():
    marked = torch.arange(3.0).as_subclass(Marked)
    marked.note = "kept"
    return {"marked": marked, "plain": torch.ones(1)}


def modules():
    torch.manual_seed(0)
    yield "net", Net()
    norm = nn.Sequential(nn.BatchNorm1d(2), nn.InstanceNorm1d(2, affine=True), nn.LSTM(2, 1))
    yield "norm", norm
    yield "parallel", nn.DataParallel(nn.Linear(2, 1))
    yield "spectral", nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2)))
    yield "weight", nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    lists = nn.ParameterList([nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(2))])
    tables = nn.ParameterDict({"a": nn.Parameter(torch.ones(2), requires_grad=False)})
    yield "containers", nn.ModuleDict({"list": nn.ModuleList([lists]), "dict": tables})
    if RELEASE >= (1, 4):
        from torch.nn.utils import prune

        pruned = nn.Linear(2, 2)
        prune.l1_unstructured(pruned, "weight", 1)
        yield "pruned", nn.Sequential(pruned)


def few():
    """Of releases in between, what they wrote otherwise than those before and after."""
    keep("quantized.pth", quantized())
    if RELEASE >= (1, 7):
        keep("subclasses.pth", subclasses())
        keep("sparse.pth", sparse())
        keep("method.pth", Net().state_dict)
        for name, module in quantized_models():
            keep("model_%s.pth" % name, without_settings(module))


def many():
    both("dtypes", all_dtypes())
    both("views", views())
    both("training", training())
    both("parameters", parameters())
    keep("storage.pth", {"by itself": torch.arange(3.0).storage(), "plain": torch.ones(1)})
    legacy = {"_use_new_zipfile_serialization": False} if RELEASE >= (1, 4) else {}
    values = {"w": torch.ones(2), "n": 1 << 40, "t": True}
    protocols = {(1, 0): (1, 2), (1, 6): (1, 3, 4)}  # what other releases write is the same
    for protocol in protocols.get(RELEASE, ()):
        options = dict(legacy, pickle_protocol=protocol)
        keep("protocol%d.pth" % protocol, values, **options)
        keep_pickle("pickle%d.pkl" % protocol, views(), protocol)
    keep_pickle("pickled_parameters.pkl", parameters(), 2)
    keep_pickle("pickled_state_dict.pkl", Net().state_dict(), 2)
    if RELEASE >= (1, 4):
        keep("sparse.pth", sparse())
        keep_pickle("sparse.pkl", sparse(), 2)
    if RELEASE >= (1, 2):
        keep("quantized.pth", quantized())
    if RELEASE >= (1, 7):
        keep("subclasses.pth", subclasses())
    # In a legacy file whole modules bring their source text: two of them are enough.
    for name, module in modules() if RELEASE >= (1, 6) else list(modules())[:1]:
        keep("model_%s.pth" % name, module)
    if sys.version_info[0] > 2:  # Python 2 pickles no methods
        keep("method.pth", Net().state_dict)
    if RELEASE >= (1, 6):
        for name, module in quantized_models():
            keep("model_%s.pth" % name, without_settings(module))


def main():
    if not os.path.isdir(FOLDER):
        os.makedirs(FOLDER)
    (few if RELEASE in ((1, 2), (1, 8), (1, 10), (2, 0), (2, 4)) else many)()
    write(FOLDER + ".json", {"torch": VERSION, "python": sys.version.split()[0], "files": ROWS})


if __name__ == "__main__":
    main()
