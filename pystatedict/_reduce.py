"""Objects as pickle calls, for save(): the way back from _values.

The core asks for what it has no kind of its own.  An answer is

- ``(form, module, name, args, kwargs, items, appends, state)``: a call; unused parts None,
- ``(module, name)``: a global,
- ``[other]``: write the other object instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pystatedict._core import TensorInfo
from pystatedict._dtypes import as_ndarray, compact, torch_dtype, without_metadata
from pystatedict._opaque import Opaque
from pystatedict._statedict import StateDict
from pystatedict._tensorkinds import (
    NestedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorObject,
    TensorSubclass,
)
from pystatedict._torchtypes import Device, Dtype, Layout, Size, TorchName
from pystatedict._values import PLAIN_TYPES

# Bits of the core's tensor flags.
_PARAMETER, _REQUIRES_GRAD = 1, 2

Call = tuple[str, "str | None", Any, tuple[Any, ...], Any, Any, Any, Any]


def _call(module: str, name: str, *args: Any, items: Any = None, state: Any = None) -> Call:
    return ("reduce", module, name, args, None, items, None, state)


def _new(module: str, name: str, *args: Any, state: Any = None) -> Call:
    return ("newobj", module, name, args, None, None, None, state)


# Protocol 2 spells the builtins as Python 2 did; torch and Python 3 map them back.
_PYTHON_2 = {"range": "xrange"}


def _builtin(name: str) -> tuple[str, str]:
    return ("__builtin__", _PYTHON_2.get(name, name))


class Reducer:
    """Answers the core's questions while one object is written.

    Args:
        opaque: write Opaque objects back as they were; torch would then import them.
    """

    def __init__(self, opaque: bool = False) -> None:
        self.opaque = opaque

    torch_dtype = staticmethod(torch_dtype)
    compact = staticmethod(compact)
    as_ndarray = staticmethod(as_ndarray)

    def sorted_items(self, items: set[Any] | frozenset[Any]) -> tuple[Any, ...]:
        """A set's items in an order that is the same in every process."""
        return tuple(sorted(items, key=lambda item: (type(item).__name__, repr(item))))

    def reduce(self, obj: Any) -> Any:
        """How to write an object that is no plain container, number, text or array."""
        if isinstance(obj, StateDict):
            return self._state_dict(obj)
        if isinstance(obj, _Own):
            where = (str(obj.module), str(obj.name))
            return where if obj.args is None else _call(*where, *obj.args)
        if isinstance(obj, Opaque):
            return self._opaque(obj)
        if isinstance(obj, TensorObject):
            return self._tensor_object(obj)
        if isinstance(obj, type):
            return self._type(obj)
        if isinstance(obj, TensorInfo):
            return _meta(obj) if obj.is_meta else [obj.numpy()]
        if obj is Ellipsis or obj is NotImplemented:
            return _builtin("Ellipsis" if obj is Ellipsis else "NotImplemented")
        if type(obj).__module__.split(".")[0] in ("numpy", "ml_dtypes"):
            return _numpy(obj)  # before float, complex and str, which some scalars are, too
        for kind in type(obj).__mro__:
            writer = _WRITERS.get(f"{kind.__module__}.{kind.__qualname__}")
            if writer is not None:
                return writer(obj)
        if isinstance(obj, Mapping):
            return [dict(obj.items())]
        self._refuse(obj)
        return None

    def _state_dict(self, obj: StateDict) -> Any:
        if not obj._ordered:
            return [dict(obj)]
        attributes = dict(obj.attributes)
        if obj.metadata is not None:
            attributes["_metadata"] = obj.metadata
        return _call("collections", "OrderedDict", items=dict(obj), state=attributes or None)

    def _opaque(self, obj: Opaque) -> Any:
        if not self.opaque:
            raise TypeError(
                f"the object holds an opaque {obj.qualified_name}, which torch would import when"
                " it loads the file; save(..., opaque=True) writes it back as it was"
            )
        if obj.form == "global":
            return (obj.module, obj.name)
        args = obj.args if isinstance(obj.args, tuple) else ()
        return (obj.form, obj.module, obj.name, args, obj.kwargs, obj.items or None,
                tuple(obj.appends) or None, obj.state)  # fmt: skip

    def _tensor_object(self, obj: TensorObject) -> Any:
        if isinstance(obj, QuantizedTensor):
            return _quantized(obj)
        if isinstance(obj, TensorSubclass):
            if not self.opaque and obj.type not in _SUBCLASSES:
                raise TypeError(
                    f"the object holds a tensor of the class {obj.type}, which torch would import"
                    " when it loads the file; save(..., opaque=True) writes it back as it was,"
                    " .inner are its tensors"
                )
            made = _subclass(obj)
        elif isinstance(obj, NestedTensor):
            made = _nested(obj)
        else:
            assert isinstance(obj, SparseTensor)
            made = _sparse(obj)
        if not obj.is_parameter or isinstance(obj, TensorSubclass):
            return made
        inner = _Own(made[1], made[2], made[3])
        return _call(
            "torch._utils", "_rebuild_parameter", inner, bool(obj.requires_grad), OrderedDict()
        )

    def _type(self, obj: type) -> Any:
        if obj in PLAIN_TYPES:
            return _builtin(obj.__name__)
        self._refuse(obj)
        return None

    def _refuse(self, obj: Any) -> None:
        kind = type(obj)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__.split(".")[0] == "torch":
            raise TypeError(
                f"cannot save a {name} without torch: give NumPy arrays, as in"
                " {name: tensor.detach().cpu().numpy()}"
            )
        if callable(obj):
            raise TypeError(
                f"cannot save {obj!r}: a function or method is no checkpoint; were the"
                " parentheses forgotten, as in save(model.state_dict(), f)?"
            )
        raise TypeError(
            f"cannot save a {name}: a checkpoint holds arrays, numbers, text and containers"
        )


# ------------------------------------------------------------------ tensors of other kinds

# Classes that torch's safe loader knows once their module has been imported.
_SUBCLASSES = frozenset({"torch.distributed.tensor.DTensor"})


def _quantized(obj: QuantizedTensor) -> Any:
    packed = obj.packed is not None
    bits = (_PARAMETER if obj.is_parameter else 0) | (_REQUIRES_GRAD if obj.requires_grad else 0)
    return (
        obj._array, obj.dtype, bits,
        obj.shape if packed else None, obj._strides if packed else None, obj._offset,
        obj.qscheme, obj.scale or 0.0, obj.zero_point or 0,
        obj.scales, obj.zero_points, obj.axis or 0,
    )  # fmt: skip


def _sparse(obj: SparseTensor) -> Call:
    layout = _Own("torch.serialization", "_get_layout", (f"torch.{obj.layout}",))
    parts = (*obj.parts.values(), Size(obj.shape))
    if obj.layout == "sparse_coo":
        parts = (obj.indices, obj.values, Size(obj.shape), bool(obj.coalesced))
    return _call("torch._utils", "_rebuild_sparse_tensor", layout, parts)


def _nested(obj: NestedTensor) -> Call:
    parts = obj.parts
    if obj.layout == "nested":
        names = ("buffer", "sizes", "strides", "offsets")
        return _call("torch._utils", "_rebuild_nested_tensor", *(parts[name] for name in names))
    where = "torch.nested._internal.nested_tensor"
    told: dict[str, Any] = {
        "values": parts["values"],
        "offsets": parts["offsets"],
        "lengths": parts.get("lengths"),
        "_ragged_idx": obj.ragged_axis,
        "_metadata_cache": {},
        "requires_grad": bool(obj.requires_grad),
    }
    state = {
        "_ragged_idx": obj.ragged_axis,
        "_values": parts["values"],
        "_offsets": parts["offsets"],
        "_lengths": parts.get("lengths"),
        "_metadata_cache": {},
    }
    function, kind = _Own(where, "_rebuild_njt"), _Own(where, "NestedTensor")
    return _call("torch._tensor", "_rebuild_from_type_v2", function, kind, (told,), state)


def _subclass(obj: TensorSubclass) -> Call:
    module, _, name = obj.type.rpartition(".")
    kind = _Own(module, name)
    args = (kind, Dtype(f"torch.{obj.dtype}"), obj.shape, obj.stride, 0, Layout("torch.strided"),
            Device("cpu"), bool(obj.requires_grad))  # fmt: skip
    function = _Own("torch._utils", "_rebuild_wrapper_subclass")
    return _call("torch._tensor", "_rebuild_from_type_v2", function, kind, args, obj.state)


def _torch_name(obj: TorchName) -> Any:
    if isinstance(obj, Device):
        kind, _, index = str(obj).partition(":")
        return _call("torch", "device", kind, *([int(index)] if index.isdigit() else []))
    if isinstance(obj, Layout):
        return _call("torch.serialization", "_get_layout", str(obj))
    module, _, name = str(obj).rpartition(".")
    return (module, name)


def _meta(info: TensorInfo) -> Any:
    """A tensor without bytes: its dtype, shape, strides and flag."""
    function = "_rebuild_meta_tensor_no_storage"
    dtype, flag = Dtype(f"torch.{info.dtype}"), bool(info.requires_grad)
    if info.kind != "parameter":
        return _call("torch._utils", function, dtype, info.shape, info.stride, flag)
    inner = _Own("torch._utils", function, (dtype, info.shape, info.stride, False))
    return _call("torch._utils", "_rebuild_parameter", inner, flag, OrderedDict())


def _numpy(obj: Any) -> Any:
    """Arrays whose dtype torch lacks, scalars and dtypes, as NumPy itself pickles them."""
    import numpy as np

    if isinstance(obj, np.dtype):
        return _numpy_dtype(obj)
    if isinstance(obj, np.ndarray):
        return _numpy_array(obj)
    if isinstance(obj, np.generic):
        array = np.asarray(obj)
        return _call("numpy.core.multiarray", "scalar", array.dtype, array.tobytes())
    raise TypeError(f"cannot save a {type(obj).__name__} of NumPy")


def _numpy_array(array: Any) -> Any:
    import numpy as np

    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    dtype = without_metadata(array.dtype)
    data = list(array.flat) if dtype.hasobject else array.tobytes(order="F" if fortran else "C")
    if dtype.hasobject:
        if dtype != np.dtype(object):
            raise TypeError("cannot save a structured array that holds Python objects")
        fortran = False
    state = (1, array.shape, dtype, bool(fortran), data)
    array_type = _Own("numpy", "ndarray")
    return _call("numpy.core.multiarray", "_reconstruct", array_type, (0,), b"b", state=state)


class _Own(Opaque):
    """A name or call that this package itself writes, so it needs no leave."""

    __slots__ = ()


def _numpy_dtype(dtype: Any) -> Any:
    import numpy as np

    if dtype.type.__module__ == "ml_dtypes":
        return _call("numpy", "dtype", _Own("ml_dtypes", dtype.name), False, True)
    spec = dtype.str.lstrip("<>|=") if dtype.kind not in "mM" else f"{dtype.kind}8"
    order = dtype.str[0]
    state: tuple[Any, ...]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        state = (3, "|", (base, shape), None, None, dtype.itemsize, dtype.alignment, 0)
        spec = f"V{dtype.itemsize}"
    elif dtype.names is not None:
        fields = {name: tuple(dtype.fields[name][:2]) for name in dtype.names}
        flags = 0x80 if dtype.isalignedstruct else 0
        state = (3, "|", None, dtype.names, fields, dtype.itemsize, dtype.alignment, flags)
        spec = f"V{dtype.itemsize}"
    elif dtype.kind in "mM":
        unit, count = np.datetime_data(dtype)
        state = (4, order, None, None, None, -1, -1, 0, ({}, (unit.encode(), count, 1, 1)))
    elif dtype.kind in "SUV":
        size = dtype.itemsize
        state = (3, order, None, None, None, size, dtype.alignment, 8 if dtype.kind == "U" else 0)
    else:
        flags = 63 if dtype.hasobject else 0
        state = (3, order, None, None, None, -1, -1, flags)
    return _call("numpy", "dtype", spec, False, True, state=state)


def _datetime(obj: Any) -> Any:
    # The packed bytes, and the time zone if there is one; from protocol 4 on with the
    # fold, which every Python 3 reads.
    parts = obj.__reduce_ex__(4)[1]
    return _call("datetime", type(obj).__name__, *parts)


def _timezone(obj: Any) -> Any:
    return _call("datetime", "timezone", *obj.__getinitargs__())


def _path(obj: Any) -> Any:
    name = type(obj).__name__
    return _call("pathlib", name, *obj.parts)


def _counter(obj: Any) -> Any:
    return _call("collections", "Counter", dict(obj))


def _defaultdict(obj: Any) -> Any:
    factory = obj.default_factory
    return _call("collections", "defaultdict", *([] if factory is None else [factory]),
                 items=dict(obj))  # fmt: skip


def _deque(obj: Any) -> Any:
    args = () if obj.maxlen is None else ((), obj.maxlen)
    return ("reduce", "collections", "deque", args, None, None, tuple(obj), None)


# Looked up by name, so that nothing is imported to compare with.
_WRITERS: dict[str, Any] = {
    "pystatedict._dcp.ChunkedInfo": lambda o: [o.numpy()],
    "pystatedict._torchtypes.Size": lambda o: _call("torch", "Size", tuple(o)),
    "pystatedict._torchtypes.TorchName": _torch_name,
    "builtins.complex": lambda o: _call("__builtin__", "complex", o.real, o.imag),
    "builtins.slice": lambda o: _call("__builtin__", "slice", o.start, o.stop, o.step),
    "builtins.range": lambda o: _call("__builtin__", "xrange", o.start, o.stop, o.step),
    "collections.OrderedDict": lambda o: _call("collections", "OrderedDict", items=o),
    "collections.Counter": _counter,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "datetime.datetime": _datetime,
    "datetime.date": _datetime,
    "datetime.time": _datetime,
    "datetime.timedelta": lambda o: _call("datetime", "timedelta", o.days, o.seconds,
                                          o.microseconds),
    "datetime.timezone": _timezone,
    "decimal.Decimal": lambda o: _call("decimal", "Decimal", str(o)),
    "fractions.Fraction": lambda o: _call("fractions", "Fraction", str(o)),
    "uuid.UUID": lambda o: _new("uuid", "UUID", state={"int": o.int}),
    "argparse.Namespace": lambda o: _new("argparse", "Namespace", state=dict(vars(o))),
    "types.SimpleNamespace": lambda o: _call("types", "SimpleNamespace", state=dict(vars(o))),
    "pathlib.PurePath": _path,
    "pathlib._local.PurePath": _path,
    # By the base's own methods: an Enum of str, say, has another text than its value.
    "builtins.str": lambda o: [str.__str__(o)],
    "builtins.int": lambda o: [int.__int__(o)],
    "builtins.float": lambda o: [float.__float__(o)],
    "builtins.dict": lambda o: [dict(o)],
    "builtins.list": lambda o: [list(o)],
    "builtins.tuple": lambda o: [tuple(o)],
    "builtins.bytes": lambda o: [bytes(memoryview(o))],
}  # fmt: skip
