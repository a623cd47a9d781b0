"""The public API as the corpus' scorer wants it: loads with verify=True, and converts."""

import sys
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "shared" / "corpus"))

import numpy as np
from leaf import Leaf

import pystatedict as psd

NAME = f"pystatedict {psd.__version__}"
warnings.simplefilter("ignore")

KINDS = (psd.QuantizedTensor, psd.SparseTensor, psd.NestedTensor, psd.TensorSubclass)


def leaf(array):
    """A tensor by torch's name of its dtype."""
    if isinstance(array, psd.TensorInfo):
        return Leaf(array.dtype, None, shape=array.shape, device="meta")
    name = (array.dtype.metadata or {}).get("torch_dtype", array.dtype.name)
    if array.dtype.names == ("real", "imag"):
        name = "complex32"
    if array.dtype.kind in "USOmM" or (array.dtype.kind == "V" and name != "complex32"):
        return array
    return Leaf(name, array)


def of_kind(value):
    """A tensor that is no array: its parts, or its integers and what makes them reals."""
    if isinstance(value, psd.QuantizedTensor):
        array = value.array if value.packed is None else value.packed
        quant = {"scale": value.scale, "zero_point": value.zero_point}
        if value.scales is not None:
            quant = {"scales": value.scales, "zero_points": value.zero_points, "axis": value.axis}
        return Leaf(value.dtype, array, shape=value.shape, quant=quant)
    parts = value.inner if isinstance(value, psd.TensorSubclass) else value.parts
    shape = None if isinstance(value, psd.NestedTensor) else value.shape
    return Leaf(value.dtype, None, shape=shape, parts={k: tensor(v) for k, v in parts.items()})


def tensor(value, attributes=None):
    """The array itself where it says enough, else a Leaf."""
    if isinstance(value, KINDS):
        return of_kind(value)
    if isinstance(value, np.ndarray) and not attributes:
        return leaf(value) if value.dtype.metadata or value.dtype.names else value
    result = leaf(value)
    if attributes and isinstance(result, Leaf):
        result.attrs = attributes
    return result


PLAIN = (np.ndarray, psd.TensorInfo, *KINDS)


def convert(root, modules=False):
    """Tensors that an array cannot fully tell become Leafs, in place; no recursion.

    With `modules`, whole modules and their bound methods become their state_dicts, whose
    tensors tell whether they are trained.
    """
    box = [root]
    todo, seen = [box], set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        attributes = getattr(part, "tensor_attributes", {})
        for key, value in list(part.items() if isinstance(part, dict) else enumerate(part)):
            if isinstance(value, tuple) and type(value) is tuple and not isinstance(part, tuple):
                value = tuple(tensor(v) if isinstance(v, PLAIN) else v for v in value)
                part[key] = value
            if modules and isinstance(value, psd.OpaqueModule) and not isinstance(part, tuple):
                part[key] = flagged(value.state_dict())
            elif isinstance(value, PLAIN):
                if not isinstance(part, tuple):
                    part[key] = tensor(value, attributes.get(key))
            elif isinstance(value, (dict, list, tuple)):
                todo.append(value)
    return box[0]


def flagged(state_dict):
    result = {}
    for name, value in state_dict.items():
        result[name] = tensor(value, {"state_dict": True})
        result[name].requires_grad = state_dict.trainable[name]
    return result


def load(path):
    return convert(psd.load(path, verify=True))


def recover(path):
    return convert(psd.load(path, verify=True), modules=True)


def classify(error):
    if isinstance(error, psd.TruncatedError):
        return "truncated"
    if isinstance(error, (psd.CorruptError, psd.LimitError)):
        return "corrupt"
    if isinstance(error, psd.UnsafePickleError):
        return "unsafe"
    if isinstance(error, (psd.UnsupportedError, psd.NotACheckpointError)):
        return "unsupported"
    return None
