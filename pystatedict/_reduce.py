"""Objects as pickle calls, for save(): the way back from _values.

The core asks for what it has no kind of its own.  An answer is

- ``(form, module, name, args, kwargs, items, appends, state)``: a call; unused parts None,
- ``(module, name)``: a global,
- ``[other]``: write the other object instead,
- what `_stored.supplied` gives: a tensor whose bytes are fetched when they are written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pystatedict._core import TensorInfo
from pystatedict._dtypes import as_ndarray, compact, torch_dtype
from pystatedict._errors import UnsupportedError
from pystatedict._globals import spelled
from pystatedict._keys import TensorKey, is_array
from pystatedict._lazy import Computed, LazyTensor
from pystatedict._marks import MARKS, NDARRAY, PARAMETER, REQUIRES_GRAD, bits_of, mark, mark_of
from pystatedict._opaque import Opaque, Own
from pystatedict._reducenumpy import Call, call
from pystatedict._reducenumpy import reduce as reduce_numpy
from pystatedict._statedict import StateDict
from pystatedict._stored import Storages, supplied
from pystatedict._tensorkinds import (
    NestedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorObject,
    TensorSubclass,
)
from pystatedict._torchtypes import Device, Dtype, Layout, Size, TorchName
from pystatedict._values import PLAIN_TYPES


def _new(module: str, name: str, *args: Any, state: Any = None) -> Call:
    return ("newobj", module, name, args, None, None, None, state)


def _kind_name(obj: Any) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


# Protocol 2 spells the builtins as Python 2 did; torch and Python 3 map them back.
_PYTHON_2 = {"range": "xrange"}


def _builtin(name: str) -> tuple[str, str]:
    return ("__builtin__", _PYTHON_2.get(name, name))


class Reducer:
    """Answers the core's questions while one object is written.

    Args:
        opaque: write Opaque objects back as they were; torch would then import them.
        flags: {id of a tensor: (bits of a mark, attributes)}, where they are not what the
            tensor says itself.
        keep: whether anything is said of what requires grad.
        legacy: for a legacy stream, of which torch reads the tensors' bytes last.
    """

    #: What is noted of arrays by their identity.
    marks = MARKS

    def __init__(
        self,
        opaque: bool = False,
        flags: Mapping[int, tuple[int, Any]] | None = None,
        keep: bool = True,
        legacy: bool = False,
    ) -> None:
        self.opaque = opaque
        self._flags = flags or {}
        self._keep = keep
        self.legacy = legacy
        self._names: dict[tuple[str, str], Any] = {}
        self._storages = Storages()
        self._infos: dict[tuple[int, int, int, int], TensorInfo] = {}

    def used_storages(self) -> set[tuple[str | None, int]]:
        """(path of the file, number) of every storage that a tensor was written of."""
        return self._storages.used()

    torch_dtype = staticmethod(torch_dtype)
    compact = staticmethod(compact)
    as_ndarray = staticmethod(as_ndarray)

    def sorted_items(self, items: set[Any] | frozenset[Any]) -> tuple[Any, ...]:
        """A set's items in an order that is the same in every process."""
        from pystatedict._ordering import in_order

        return in_order(items, self.reduce)

    def reduce(self, obj: Any) -> Any:
        """How to write an object that is no plain container, number, text or array."""
        if isinstance(obj, StateDict):
            return self._state_dict(obj)
        if isinstance(obj, Own):
            where = (str(obj.module), str(obj.name))
            return where if obj.args is None else call(*where, *obj.args)
        if isinstance(obj, Opaque):
            return self._opaque(obj)
        if isinstance(obj, TensorKey):
            return self._key(obj)
        if isinstance(obj, TensorObject):
            return self._tensor_object(obj)
        if isinstance(obj, type):
            return self._type(obj)
        if isinstance(obj, TensorInfo):
            return self._info(obj)
        if isinstance(obj, LazyTensor):
            return self._lazy(obj)
        if obj is Ellipsis or obj is NotImplemented:
            return _builtin("Ellipsis" if obj is Ellipsis else "NotImplemented")
        if type(obj).__module__.split(".")[0] in ("numpy", "ml_dtypes") or is_array(obj):
            # Before float, complex and str, which some scalars are, too.
            return reduce_numpy(obj)
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
        return call("collections", "OrderedDict", items=dict(obj), state=attributes or None)

    def _opaque(self, obj: Opaque) -> Any:
        if not self.opaque and not _is_known_to_torch(obj):
            raise TypeError(
                f"the object holds an opaque {obj.qualified_name}, which torch would import when"
                " it loads the file; save(..., opaque=True) writes it back as it was"
            )
        module, name = obj.module, obj.name
        if module is not None:
            named = self._named(module, str(name))
            module, name = named if isinstance(named, tuple) else (None, named)
        if obj.form == "global":
            return (module, name) if module is not None else call(*_GETATTR, *name.args)
        if not isinstance(obj.args, tuple):
            raise TypeError(f"the arguments of an opaque {obj.qualified_name} are no tuple")
        if module is None and not callable(name) and not isinstance(name, Opaque):
            raise TypeError(f"the object holds a call of a {_kind_name(name)}")
        return (obj.form, module, name, obj.args, obj.kwargs, obj.items or None,
                tuple(obj.appends) or None, obj.state)  # fmt: skip

    def _named(self, module: str, name: str) -> Any:
        """(module, name), or for a class within a class the calls that fetch it.

        A pickle of protocol 2 reads some names as Python 2's.
        """
        found = self._names.get((module, name))
        if found is None:
            first, *below = name.split(".")
            found = spelled(module, first)
            if found is None:
                raise TypeError(
                    f"the object holds an opaque {module}.{name}, and a pickle of protocol 2"
                    f" has no way to name it: {module} was a module of Python 2"
                )
            for part in below:
                owner = Own(*found) if isinstance(found, tuple) else found
                found = Own(*_GETATTR, (owner, part))
            self._names[module, name] = found
        return found

    def _key(self, obj: TensorKey) -> Any:
        if torch_dtype(obj.array.dtype) is None or mark_of(obj.array) & NDARRAY:
            raise TypeError(
                f"a TensorKey of dtype {obj.array.dtype} cannot be saved: torch has no such"
                " tensor, and NumPy's arrays are no keys"
            )
        return [obj.array]

    def _bits(self, obj: Any, own: int) -> int:
        """What is to be said of a tensor that is no array: flags, or its own bits."""
        bits = self._flags[id(obj)][0] if id(obj) in self._flags else own
        return bits if self._keep else 0

    def _info(self, info: TensorInfo) -> Any:
        bits = self._bits(info, bits_of(info))
        if info.is_meta:
            return _meta(info, bits)
        supply = self._storages.of(info, checked=True)
        attributes = self._flags[id(info)][1] if id(info) in self._flags else None
        # What was one object when it was saved is one again.
        key = (id(info._archive), info._index, bits, id(attributes))
        first = self._infos.setdefault(key, info)
        if first is not info:
            return [first]
        # Attributes that nobody has told by the tensor's name come with the array.
        if supply is not None and (attributes is not None or not supply.with_attributes(info)):
            return supplied(supply, info.dtype, bits, info.shape, info.stride,
                            info.storage_offset, attributes)  # fmt: skip
        array = info.numpy()
        if id(info) in self._flags and not isinstance(array, TensorObject):
            mark(array, *self._flags[id(info)])
        return [array]

    def _lazy(self, obj: LazyTensor) -> Any:
        bits, attributes = self._flags.get(id(obj), (0, None))
        bits = bits if self._keep else 0
        return supplied(Computed(obj), obj.dtype, bits, obj.shape, obj.stride, 0, attributes)

    def _tensor_object(self, obj: TensorObject) -> Any:
        own = (PARAMETER if obj.is_parameter else 0) | (REQUIRES_GRAD if obj.requires_grad else 0)
        bits = self._bits(obj, own)
        if isinstance(obj, QuantizedTensor):
            return _quantized(obj, bits, *self._channels(obj))
        if isinstance(obj, TensorSubclass):
            if not self.opaque and obj.type not in _SUBCLASSES:
                raise TypeError(
                    f"the object holds a tensor of the class {obj.type}, which torch would import"
                    " when it loads the file; save(..., opaque=True) writes it back as it was,"
                    " .inner are its tensors"
                )
            made = _subclass(obj, bits)
        elif isinstance(obj, NestedTensor):
            self._check_nested(obj)
            made = _nested(obj, bits)
        else:
            assert isinstance(obj, SparseTensor)
            made = _sparse(obj)
        if not bits & PARAMETER or isinstance(obj, TensorSubclass):
            return made
        inner = Own(made[1], made[2], made[3])
        flag = bool(bits & REQUIRES_GRAD)
        return call("torch._utils", "_rebuild_parameter", inner, flag, OrderedDict())

    def _channels(self, obj: QuantizedTensor) -> tuple[Any, Any]:
        """Scales and zero points; those that torch would convert before their bytes are read."""
        if not self.legacy or obj.scales is None or obj.zero_points is None:
            return obj.scales, obj.zero_points
        if obj.qscheme == "per_channel_affine":
            return obj.scales.astype("f8", copy=False), obj.zero_points.astype("i8", copy=False)
        return obj.scales.astype("f4", copy=False), obj.zero_points.astype("f4", copy=False)

    def _check_nested(self, obj: NestedTensor) -> None:
        """torch needs the sizes of strided parts to make the tensor; it reads them later."""
        if self.legacy and obj.layout == "nested":
            raise UnsupportedError(
                "torch cannot read a nested tensor of strided parts from a legacy file",
                code="legacy-layout",
            )

    def _type(self, obj: type) -> Any:
        if obj in PLAIN_TYPES:
            return _builtin(obj.__name__)
        self._refuse(obj)
        return None

    def _refuse(self, obj: Any) -> None:
        kind, name = type(obj), _kind_name(obj)
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


def _is_known_to_torch(obj: Opaque) -> bool:
    """Is it what a DTensor tells of its mesh and its places, by names of torch's own?"""
    from pystatedict._globals import verdict

    module, name = str(obj.module), str(obj.name)
    return module.startswith("torch.distributed.") and verdict(module, name) == "plain"


def _quantized(obj: QuantizedTensor, bits: int, scales: Any, zero_points: Any) -> Any:
    packed = obj.packed is not None
    return (
        obj._array, obj.dtype, bits,
        obj.shape if packed else None, obj._strides if packed else None, obj._offset,
        obj.qscheme, obj.scale or 0.0, obj.zero_point or 0,
        scales, zero_points, obj.axis or 0,
    )  # fmt: skip


def _sparse(obj: SparseTensor) -> Call:
    layout = Own("torch.serialization", "_get_layout", (f"torch.{obj.layout}",))
    parts = (*obj.parts.values(), Size(obj.shape))
    if obj.layout == "sparse_coo":
        # Whether it is coalesced is told since torch 2.1; older ones read three parts only.
        told = () if obj.coalesced is None else (obj.coalesced,)
        parts = (obj.indices, obj.values, Size(obj.shape), *told)
    return call("torch._utils", "_rebuild_sparse_tensor", layout, parts)


def _nested(obj: NestedTensor, bits: int) -> Call:
    parts = obj.parts
    if obj.layout == "nested":
        names = ("buffer", "sizes", "strides", "offsets")
        return call("torch._utils", "_rebuild_nested_tensor", *(parts[name] for name in names))
    where = "torch.nested._internal.nested_tensor"
    told: dict[str, Any] = {
        "values": parts["values"],
        "offsets": parts["offsets"],
        "lengths": parts.get("lengths"),
        "_ragged_idx": obj.ragged_axis,
        "_metadata_cache": {},
        "requires_grad": bool(bits & REQUIRES_GRAD),
    }
    state = {
        "_ragged_idx": obj.ragged_axis,
        "_values": parts["values"],
        "_offsets": parts["offsets"],
        "_lengths": parts.get("lengths"),
        "_metadata_cache": {},
    }
    function, kind = Own(where, "_rebuild_njt"), Own(where, "NestedTensor")
    return call("torch._tensor", "_rebuild_from_type_v2", function, kind, (told,), state)


def _subclass(obj: TensorSubclass, bits: int) -> Call:
    module, _, name = obj.type.rpartition(".")
    kind = Own(module, name)
    args = (kind, Dtype(f"torch.{obj.dtype}"), obj.shape, obj.stride, 0, Layout("torch.strided"),
            Device("cpu"), bool(bits & REQUIRES_GRAD))  # fmt: skip
    function = Own("torch._utils", "_rebuild_wrapper_subclass")
    return call("torch._tensor", "_rebuild_from_type_v2", function, kind, args, obj.state)


def _torch_name(obj: TorchName) -> Any:
    if isinstance(obj, Device):
        kind, _, index = str(obj).partition(":")
        return call("torch", "device", kind, *([int(index)] if index.isdigit() else []))
    if isinstance(obj, Layout):
        return call("torch.serialization", "_get_layout", str(obj))
    module, _, name = str(obj).rpartition(".")
    return (module, name)


def _meta(info: TensorInfo, bits: int) -> Any:
    """A tensor without bytes: its dtype, shape, strides and flag."""
    function = "_rebuild_meta_tensor_no_storage"
    dtype, flag = Dtype(f"torch.{info.dtype}"), bool(bits & REQUIRES_GRAD)
    if not bits & PARAMETER:
        return call("torch._utils", function, dtype, info.shape, info.stride, flag)
    inner = Own("torch._utils", function, (dtype, info.shape, info.stride, False))
    return call("torch._utils", "_rebuild_parameter", inner, flag, OrderedDict())


# ------------------------------------------------------------------ the standard library

_GETATTR = ("__builtin__", "getattr")


def _as_standard(obj: Any, made: Any) -> None:
    """Refuse to save a subclass as its standard class where that says less."""
    if type(made) is not type(obj) and not made == obj:
        raise TypeError(
            f"cannot save a {_kind_name(obj)}: as a {_kind_name(made)} it would lose something"
        )


def _of_datetime(name: str) -> Any:
    def write(obj: Any) -> Call:
        import datetime

        kind = getattr(datetime, name)
        # The packed bytes, and the time zone if there is one; from protocol 4 on with the
        # fold, which every Python 3 reads.  By the class's own method: a subclass may have
        # another.
        parts = kind.__reduce_ex__(obj, 4)[1] if name != "date" else kind.__reduce__(obj)[1]
        _as_standard(obj, kind(*parts))
        return call("datetime", name, *parts)

    return write


def _timedelta(obj: Any) -> Call:
    import datetime

    parts = (obj.days, obj.seconds, obj.microseconds)
    _as_standard(obj, datetime.timedelta(*parts))
    return call("datetime", "timedelta", *parts)


def _timezone(obj: Any) -> Call:
    return call("datetime", "timezone", *obj.__getinitargs__())


def _zone(obj: Any) -> Any:
    if obj.key is None:
        raise TypeError("cannot save a ZoneInfo that was read from a file: it has no name")
    _, (key, from_cache) = obj.__reduce__()
    fetch = Own(*_GETATTR, (Own("zoneinfo", "ZoneInfo"), "_unpickle"))
    return ("reduce", None, fetch, (key, from_cache), None, None, None, None)


def _path(obj: Any) -> Call:
    standard = next(k for k in type(obj).__mro__ if k.__module__.partition(".")[0] == "pathlib")
    _as_standard(obj, standard(*obj.parts))
    return call("pathlib", standard.__name__, *obj.parts)


def _decimal(obj: Any) -> Call:
    import decimal

    return call("decimal", "Decimal", decimal.Decimal.__str__(obj))


def _uuid(obj: Any) -> Call:
    state = {"int": obj.int}
    safe = obj.is_safe.value
    return _new("uuid", "UUID", state=state if safe is None else {**state, "is_safe": safe})


def _counter(obj: Any) -> Any:
    return call("collections", "Counter", dict(obj))


def _defaultdict(obj: Any) -> Any:
    factory = obj.default_factory
    return call("collections", "defaultdict", *([] if factory is None else [factory]),
                 items=dict(obj))  # fmt: skip


def _deque(obj: Any) -> Any:
    args = () if obj.maxlen is None else ((), obj.maxlen)
    return ("reduce", "collections", "deque", args, None, None, tuple(obj), None)


def _chunked(info: Any) -> Any:
    """Put together when it is written, and let go then."""
    from pystatedict._flat import Flat

    return [LazyTensor(info.shape, info.dtype, Flat(info).read)]


# Looked up by name, so that nothing is imported to compare with.
_WRITERS: dict[str, Any] = {
    "pystatedict._dcp.ChunkedInfo": _chunked,
    "pystatedict._torchtypes.Size": lambda o: call("torch", "Size", tuple(o)),
    "pystatedict._torchtypes.TorchName": _torch_name,
    "builtins.complex": lambda o: call("__builtin__", "complex", o.real, o.imag),
    "builtins.slice": lambda o: call("__builtin__", "slice", o.start, o.stop, o.step),
    "builtins.range": lambda o: call("__builtin__", "xrange", o.start, o.stop, o.step),
    "collections.OrderedDict": lambda o: call("collections", "OrderedDict", items=o),
    "collections.Counter": _counter,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "datetime.datetime": _of_datetime("datetime"),
    "datetime.date": _of_datetime("date"),
    "datetime.time": _of_datetime("time"),
    "datetime.timedelta": _timedelta,
    "datetime.timezone": _timezone,
    "zoneinfo.ZoneInfo": _zone,
    "decimal.Decimal": _decimal,
    # As integers: Python spells none of more than some thousand digits.
    "fractions.Fraction": lambda o: call("fractions", "Fraction", int(o.numerator),
                                          int(o.denominator)),
    "uuid.UUID": _uuid,
    "argparse.Namespace": lambda o: _new("argparse", "Namespace", state=dict(vars(o))),
    "types.SimpleNamespace": lambda o: call("types", "SimpleNamespace", state=dict(vars(o))),
    "pathlib.PurePath": _path,
    "pathlib._local.PurePath": _path,
    # By the base's own methods: an Enum of str, say, has another text than its value.
    "builtins.str": lambda o: [str.__str__(o)],
    "builtins.int": lambda o: [int.__int__(o)],
    "builtins.float": lambda o: [float.__float__(o)],
    "builtins.dict": lambda o: [dict(o)],
    "builtins.list": lambda o: [list(o)],
    "builtins.tuple": lambda o: [tuple(o)],
    "builtins.set": lambda o: [set(o)],
    "builtins.frozenset": lambda o: [frozenset(o)],
    "builtins.bytes": lambda o: [bytes(memoryview(o))],
    "builtins.bytearray": lambda o: [bytearray(memoryview(o))],
}  # fmt: skip
