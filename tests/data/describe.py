# SPDX-License-Identifier: Apache-2.0
"""What torch says of an object, as JSON: the expectations beside the example files.

Runs on every Python and torch from 2.7 and 1.0 on, for the makers of this folder; the
tests read what it wrote, and never import it.

A value is a JSON object of one key that tells its kind:

    {"v": value}                    None, bool, int, float, text
    {"d": [[key, value], ...]}      a dict, in order; with "metadata" of a state_dict
    {"l": [...]}, {"u": [...]}      a list, a tuple
    {"t": {...}}                    a dense tensor; what is usual is left out
    {"s": {...}}, {"q": {...}}, {"n": {...}}, {"w": {...}}
                                    a sparse, quantized, nested tensor, a wrapper subclass
    {"a": {...}}                    an array of NumPy
    {"m": {...}}                    a module, by its state_dict and flags
    {"r": text}                     a value that reads as this text: a dtype, a device, ...
    {"o": class}                    any other object
"""

import collections
import hashlib
import io
import json

import numpy as np
import torch

try:
    text_type = unicode
    LONG = long
except NameError:
    text_type, LONG = str, int

SHORT = 32  # bytes of a tensor that are written out; of longer ones a digest is


def plain_text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value


def name_of(dtype):
    return str(dtype).replace("torch.", "")


def raw_bytes(tensor):
    """The elements in C order, little-endian."""
    name = name_of(tensor.dtype)
    if getattr(tensor, "is_conj", lambda: False)():
        tensor = tensor.resolve_conj()
    if getattr(tensor, "is_neg", lambda: False)():
        tensor = tensor.resolve_neg()
    tensor = tensor.contiguous()
    if tensor.numel() == 0:
        return b""
    if name == "bfloat16":
        wide = tensor.float().numpy().view(np.uint32) >> 16
        return wide.astype("<u2").tobytes()
    if name.startswith(("float8", "float4", "bits", "complex32", "uint")) and name != "uint8":
        return bytes(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    if name == "int8":
        return tensor.short().numpy().astype("i1").tobytes()  # torch 1.0 has no way
    array = tensor.numpy()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def content(data):
    if len(data) > SHORT:
        return {"sha256": hashlib.sha256(data).hexdigest()}
    return {"hex": "".join("%02x" % byte for byte in bytearray(data))}


def contiguous(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides


class Describer(object):
    def __init__(self):
        self.storages = {}

    def storage(self, tensor):
        """The number of the storage that it looks at; None of an empty one."""
        address = tensor.storage().data_ptr() if tensor.numel() else 0
        return self.storages.setdefault(address, len(self.storages)) if address else None

    def flags(self, tensor):
        parameter = isinstance(tensor, torch.nn.Parameter)
        told = tensor.requires_grad if parameter or tensor.requires_grad else None
        if getattr(tensor, "_is_buffer", False):
            told = False
        said = {} if told is None else {"requires_grad": bool(told)}
        if parameter:
            said["parameter"] = True
        return said

    def dense(self, tensor):
        said = {"dtype": name_of(tensor.dtype), "shape": list(tensor.shape)}
        if list(tensor.stride()) != contiguous(tensor.shape):
            said["stride"] = list(tensor.stride())
        if tensor.storage_offset():
            said["offset"] = tensor.storage_offset()
        said.update(self.flags(tensor))
        data = tensor.detach()
        if type(data) is not torch.Tensor and hasattr(data, "as_subclass"):
            data = data.as_subclass(torch.Tensor)
        if data.device.type == "meta":
            said["meta"] = True
            return said
        lazy = [getattr(data, name, lambda: False)() for name in ("is_conj", "is_neg")]
        said["storage"] = None if any(lazy) else self.storage(data)
        said.update(content(raw_bytes(data)))
        return said

    def quantized(self, tensor):
        said = {
            "dtype": name_of(tensor.dtype),
            "shape": list(tensor.shape),
            "scheme": name_of(tensor.qscheme()),
            "values": content(raw_bytes(tensor.dequantize())),
        }
        if said["dtype"] in ("qint8", "quint8", "qint32"):
            said["integers"] = content(raw_bytes(tensor.int_repr()))
        return said

    def sparse(self, tensor):
        detached = tensor.detach()
        layout = name_of(tensor.layout)
        said = {"dtype": name_of(tensor.dtype), "shape": list(tensor.shape), "layout": layout}
        said.update(self.flags(tensor))
        names = {
            "sparse_csr": ("crow_indices", "col_indices"),
            "sparse_bsr": ("crow_indices", "col_indices"),
            "sparse_csc": ("ccol_indices", "row_indices"),
            "sparse_bsc": ("ccol_indices", "row_indices"),
        }.get(layout, ("indices",))
        parts = {name: getattr(detached, "_" + name, None) for name in names}
        for name in names:
            parts[name] = parts[name]() if parts[name] else getattr(detached, name)()
        values = getattr(detached, "_values" if layout == "sparse_coo" else "values")()
        parts["values"] = values
        said["parts"] = {name: self.dense(part) for name, part in parts.items()}
        said["dense"] = content(raw_bytes(detached.to_dense()))
        return said

    def nested(self, tensor):
        layout = "jagged" if tensor.layout == getattr(torch, "jagged", None) else "nested"
        said = {"dtype": name_of(tensor.dtype), "layout": layout}
        said["parts"] = [self.dense(part) for part in tensor.detach().unbind()]
        for part in said["parts"]:
            part["storage"] = None  # what is seen of it is made anew
        return said

    def wrapper(self, tensor, names):
        said = {"class": "%s.%s" % (type(tensor).__module__, type(tensor).__name__)}
        said["shape"] = list(tensor.shape)
        said["dtype"] = name_of(tensor.dtype)
        said["inner"] = {name: self.one(getattr(tensor, name)) for name in names}
        return said

    def tensor(self, tensor):
        inner = getattr(tensor, "INNER", None)
        if inner is None and type(tensor).__name__ == "DTensor":
            inner = ("_local_tensor",)
        if inner is not None:
            return {"w": self.wrapper(tensor, inner)}
        if getattr(tensor, "is_nested", False):
            return {"n": self.nested(tensor)}
        if getattr(tensor, "is_quantized", False):
            return {"q": self.quantized(tensor)}
        if getattr(tensor, "layout", torch.strided) != torch.strided:
            return {"s": self.sparse(tensor)}
        return {"t": self.dense(tensor)}

    def module(self, module):
        kept = module.state_dict(keep_vars=True)
        flags = {
            name: bool(value.requires_grad) if isinstance(value, torch.nn.Parameter) else False
            for name, value in kept.items()
            if isinstance(value, torch.Tensor)
        }
        said = {"class": "%s.%s" % (type(module).__module__, type(module).__name__)}
        said["state_dict"] = self.one(module.state_dict())
        said["trainable"] = flags
        return said

    def storage_by_itself(self, storage):
        name = type(storage).__name__
        if name == "UntypedStorage":
            dtype = torch.uint8
        elif hasattr(storage, "dtype"):
            dtype = storage.dtype
        else:
            dtype = getattr(torch, name.replace("Storage", "Tensor"))().dtype
        return {"t": self.dense(torch.tensor([], dtype=dtype).set_(storage))}

    def mapping(self, obj):
        said = {"d": [[self.key(key), self.one(value)] for key, value in obj.items()]}
        if hasattr(obj, "_metadata"):
            said["metadata"] = obj._metadata
        return said

    def key(self, key):
        if isinstance(key, type):
            return "%s.%s" % (key.__module__, key.__name__)
        return plain_text(key) if isinstance(key, (bytes, text_type)) else key

    def one(self, obj):
        uninitialized = getattr(torch.nn.parameter, "UninitializedTensorMixin", ())
        if uninitialized and isinstance(obj, uninitialized):
            return {"o": "%s.%s" % (type(obj).__module__, type(obj).__name__)}
        if isinstance(obj, torch.Tensor):
            return self.tensor(obj)
        if isinstance(obj, torch.nn.Module):
            return {"m": self.module(obj)}
        if torch.is_storage(obj):
            return self.storage_by_itself(obj)
        if isinstance(obj, torch.Size):
            return {"r": str(tuple(obj))}
        if type(obj) in (dict, collections.OrderedDict):
            return self.mapping(obj)
        if isinstance(obj, dict):
            return {"o": "%s.%s" % (type(obj).__module__, type(obj).__name__)}
        if type(obj) in (list, tuple):
            return {"l" if isinstance(obj, list) else "u": [self.one(part) for part in obj]}
        if isinstance(obj, np.ndarray):
            return {"a": {"dtype": obj.dtype.name, "values": obj.tolist()}}
        if obj is None or type(obj) in (bool, int, float, LONG):
            return {"v": obj}
        if type(obj) in (bytes, text_type):
            return {"v": plain_text(obj)}
        if isinstance(obj, (torch.dtype, torch.device, torch.layout)):
            return {"r": str(obj)}
        return {"o": "%s.%s" % (type(obj).__module__, type(obj).__name__)}


def describe(obj):
    method = getattr(obj, "__func__", None)
    if method is not None and isinstance(obj.__self__, torch.nn.Module):
        return {"method": method.__name__, "of": Describer().one(obj.__self__)}
    return Describer().one(obj)


def write(path, rows):
    text = json.dumps(rows, indent=None, sort_keys=True, separators=(",", ":"))
    with io.open(path, "w", encoding="utf-8") as file:
        file.write(plain_text(text.replace('{"file"', '\n{"file"')) + "\n")
