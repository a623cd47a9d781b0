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


def tensor(value, attributes=None):
    """The array itself where it says enough, else a Leaf."""
    if isinstance(value, np.ndarray) and not attributes:
        return leaf(value) if value.dtype.metadata or value.dtype.names else value
    result = leaf(value)
    if attributes and isinstance(result, Leaf):
        result.attrs = attributes
    return result


def convert(root):
    """Tensors that an array cannot fully tell become Leafs, in place; no recursion."""
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
                plain = (np.ndarray, psd.TensorInfo)
                value = tuple(tensor(v) if isinstance(v, plain) else v for v in value)
                part[key] = value
            if isinstance(value, (np.ndarray, psd.TensorInfo)):
                if not isinstance(part, tuple):
                    part[key] = tensor(value, attributes.get(key))
            elif isinstance(value, (dict, list, tuple)):
                todo.append(value)
    return box[0]


def load(path):
    return convert(psd.load(path, verify=True))


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
