"""Plain values of a pickle, made without importing or calling what the file names.

The lists here are closed: a name that stands in one has its own small function, which
checks its arguments; any other name becomes an Opaque.  The core calls in here while it
replays a pickle, so everything is kept cheap and nothing imports NumPy before an array
or a NumPy value is met.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pystatedict import _numpyvalues as _np
from pystatedict import _stdvalues as _std
from pystatedict._checks import Untold, check_hashes, expect, tell, wrong
from pystatedict._dtypes import numpy_dtype, resolve
from pystatedict._errors import CorruptError, NotACheckpointError, UnsafePickleError
from pystatedict._globals import normalise
from pystatedict._keys import as_key, hashable
from pystatedict._marks import mark
from pystatedict._opaque import Opaque, OpaqueModule, Unbuilt
from pystatedict._statedict import StateDict
from pystatedict._tensorkinds import (
    NestedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorObject,
    TensorSubclass,
)
from pystatedict._torchtypes import Device, Dtype, Layout, QScheme, Size

if TYPE_CHECKING:
    from pystatedict._core import Archive, TensorInfo

__all__ = [
    "append_items", "as_key", "attach_module", "attach_state", "build", "call", "composite",
    "global_value", "mark", "numpy_dtype", "persistent", "quantized", "resolve", "set_items",
    "state_dict",
]  # fmt: skip

# ------------------------------------------------------------------ containers


def _ordered_dict(pairs: Any = ()) -> Any:
    expect(isinstance(pairs, (list, tuple, dict)), "OrderedDict")
    found = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
    expect(all(isinstance(p, (list, tuple)) and len(p) == 2 for p in found), "OrderedDict")
    try:
        # Python 2 pickled the pairs as one argument, tensors and all.
        items = [(hashable(k), v) for k, v in found]
        check_hashes([k for k, _ in items], {})
        if any(hasattr(v, "__array__") for _, v in items):
            return StateDict(items)
        return OrderedDict(items)
    except TypeError:
        raise wrong("OrderedDict", "a key that cannot be hashed") from None


def _counter(counts: Any = None) -> Any:
    from collections import Counter

    expect(counts is None or isinstance(counts, dict), "Counter")
    return Counter(counts)


#: Types that may stand in a file as themselves, as in defaultdict(list).
PLAIN_TYPES = frozenset(
    {bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set,
     slice, str, tuple}
)  # fmt: skip


def _defaultdict(factory: Any = None) -> Any:
    from collections import defaultdict

    # A factory of unknown name would be called on a missing key.
    tell(factory is None or isinstance(factory, type))
    return defaultdict(factory)


def _deque(items: Any = (), maxlen: Any = None) -> Any:
    from collections import deque

    expect(isinstance(items, (list, tuple)), "deque")
    expect(maxlen is None or (type(maxlen) is int and 0 <= maxlen <= sys.maxsize), "deque")
    return deque(items, maxlen)


def _hashed(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        expect(isinstance(items, (list, tuple, set, frozenset)), kind.__name__)
        try:
            checked = [hashable(item) for item in items]
            check_hashes(checked, {})
            return kind(checked)
        except TypeError:
            raise wrong(kind.__name__, "an item that cannot be hashed") from None

    return make


def _sequence(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        expect(isinstance(items, (list, tuple)), kind.__name__)
        return kind(items)

    return make


# ------------------------------------------------------------------ small values


def _complex(real: Any = 0.0, imag: Any = 0.0) -> complex:
    expect(isinstance(real, (int, float)) and isinstance(imag, (int, float)), "complex")
    try:
        return complex(real, imag)
    except OverflowError:
        raise wrong("complex", "an integer that no float can hold") from None


def _slice(*parts: Any) -> slice:
    expect(1 <= len(parts) <= 3, "slice")
    return slice(*parts)


def _range(*parts: Any) -> range:
    expect(1 <= len(parts) <= 3 and all(isinstance(p, int) for p in parts), "range")
    expect(len(parts) < 3 or parts[2] != 0, "range", "a step of zero")
    return range(*parts)


def _bytes_like(kind: type) -> Callable[..., Any]:
    def make(data: Any = b"", encoding: Any = None) -> Any:
        if isinstance(data, str) and isinstance(encoding, str) and encoding in _LATIN1:
            return kind(_latin1(data, kind.__name__))  # bytearray of Python 2
        # A number would ask for that many zeros, of whatever size.
        expect(isinstance(data, (bytes, bytearray)) and encoding is None, kind.__name__)
        return kind(data)

    return make


_LATIN1 = ("latin1", "latin-1", "iso-8859-1")
_UTF8 = ("utf-8", "utf8")


def _latin1(text: str, name: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise wrong(name, "text that is not latin-1") from None


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """How protocol 2 spells bytes: ``_codecs.encode(text, 'latin1')``."""
    expect(isinstance(text, str) and isinstance(encoding, str), "_codecs.encode")
    if encoding not in (*_LATIN1, *_UTF8):
        raise UnsafePickleError(
            f"the pickle asks for the codec {encoding!r}; only latin1 writes bytes",
            code="pickle-codec",
        )
    if encoding in _UTF8:
        return str(text).encode("utf-8", "surrogatepass")
    return _latin1(text, "_codecs.encode")


def _size(sizes: Any = ()) -> Size:
    expect(isinstance(sizes, (tuple, list)), "torch.Size")
    expect(all(type(size) is int for size in sizes), "torch.Size")
    return Size(sizes)


def _device(kind: Any = None, index: Any = None) -> Device:
    known = index is None or (type(index) is int and abs(index) < 1 << 31)
    expect(isinstance(kind, str) and known, "torch.device")
    return Device(kind if index is None else f"{kind}:{index}")


def _layout(name: Any = None) -> Layout:
    expect(isinstance(name, str), "torch.serialization._get_layout")
    return Layout(name)


def _text(value: Any = "") -> str:
    expect(isinstance(value, str), "str")
    return str(value)


#: What stands before Tensor and Storage in the names of torch's classes
_CLASS_DTYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
    "": "float32", "Untyped": "uint8", "_Untyped": "uint8",
}  # fmt: skip


def _empty_class(name: str) -> Callable[..., Any] | None:
    """torch.FloatTensor(), torch.FloatStorage(): nothing, or sizes of which one is 0."""
    kind = name.removesuffix("Tensor").removesuffix("Storage")
    if kind == name or kind not in _CLASS_DTYPES:
        return None

    def make(*args: Any) -> Any:
        import numpy as np

        sizes = args[0] if len(args) == 1 and isinstance(args[0], tuple) else args
        tell(all(type(size) is int for size in sizes))
        # Another number would ask torch for that many elements, of any value.
        empty = len(sizes) <= 32 and (not sizes or 0 in sizes)
        expect(empty and all(0 <= size < 1 << 31 for size in sizes), name, "sizes of its own")
        try:
            return np.empty(sizes or (0,), numpy_dtype(_CLASS_DTYPES[kind]))
        except ValueError:
            raise wrong(name, "sizes of its own") from None

    return make


def _no_array(*_: Any) -> Any:
    raise wrong("numpy.ndarray", "a shape of its own choosing")


# ------------------------------------------------------------------ the lists


def _load_from_bytes(data: Any = b"") -> Any:
    """Bytes that hold no storage of a tensor: torch would load whatever they are."""
    from pystatedict._scan import scan

    name = "torch.storage._load_from_bytes"
    expect(isinstance(data, (bytes, bytearray)), name)
    try:
        named = [str(use) for use in scan(bytes(data)) if use.verdict == "dangerous"]
    except NotACheckpointError:
        raise wrong(name, "bytes that are no checkpoint") from None
    if named:
        raise UnsafePickleError(
            "a pickle within the pickle asks for code; nothing was run",
            code="dangerous-global",
            globals=named,
        )
    return _Scanned("torch.storage", "_load_from_bytes", (data,))


class _Scanned(Opaque):
    """An Opaque that took work to make: the core counts its argument as if it were copied."""

    __slots__ = ()


def _from_numpy(data: Any = None, dtype: Any = None, *_: Any) -> Any:
    """A tensor of a device that gives its values as a NumPy array: (array, dtype, device, flag)."""
    import numpy as np

    known = type(data) is np.ndarray and isinstance(dtype, Dtype)
    expect(known and data.dtype.kind in "biufcV" and data.dtype.names is None, "torch._utils")
    try:
        with np.errstate(all="ignore"):
            return data.astype(numpy_dtype(str(dtype).removeprefix("torch.")))
    except (TypeError, ValueError):
        raise wrong("torch._utils", "an array that is not of numbers") from None


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _attribute(owner: Any = None, name: Any = None, *default: Any) -> Any:
    """``getattr(Outer, "Inner")``, as protocols below 4 spell a class within a class."""
    known = isinstance(owner, Opaque) and owner.form == "global" and not default
    tell(known and type(name) is str and name.isidentifier())
    dotted = f"{owner.name}.{name}"
    tell(len(dotted) <= _DOTTED_MOST)
    return Opaque(owner.module, dotted)


# Each step would copy a longer name.
_DOTTED_MOST = 1000


_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")

_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "Counter"): _counter,
    ("collections", "defaultdict"): _defaultdict,
    ("collections", "deque"): _deque,
    ("builtins", "set"): _hashed(set),
    ("builtins", "frozenset"): _hashed(frozenset),
    ("builtins", "list"): _sequence(list),
    ("builtins", "tuple"): _sequence(tuple),
    ("builtins", "complex"): _complex,
    ("builtins", "slice"): _slice,
    ("builtins", "range"): _range,
    ("builtins", "bytes"): _bytes_like(bytes),
    ("builtins", "bytearray"): _bytes_like(bytearray),
    ("builtins", "getattr"): _attribute,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch.serialization", "_get_layout"): _layout,
    ("torch.torch_version", "TorchVersion"): _text,
    ("argparse", "Namespace"): _std.make_namespace,
    ("types", "SimpleNamespace"): _std.make_simple_namespace,
    ("datetime", "datetime"): _std.make_datetime("datetime", 10),
    ("datetime", "date"): _std.make_datetime("date", 4),
    ("datetime", "time"): _std.make_datetime("time", 6),
    ("datetime", "timedelta"): _std.make_timedelta,
    ("datetime", "timezone"): _std.make_timezone,
    ("zoneinfo", "ZoneInfo._unpickle"): _std.make_zone,
    ("decimal", "Decimal"): _std.make_decimal,
    ("fractions", "Fraction"): _std.make_fraction,
    ("uuid", "UUID"): _std.make_uuid,
    **{("pathlib", name): _std.make_path(name) for name in _PATHS},
    **{("pathlib._local", name): _std.make_path(name) for name in _PATHS},
    ("numpy", "dtype"): _np.dtype,
    ("numpy", "ndarray"): _no_array,
    ("numpy.ma.core", "_mareconstruct"): _np.masked_reconstruct,
    ("numpy._core._internal", "_convert_to_stringdtype_kwargs"): _np.string_dtype,
    ("torch._utils", "_rebuild_xla_tensor"): _from_numpy,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _from_numpy,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    **{
        ("torch.jit._pickle", f"build_{kind}list"): _sequence(list)
        for kind in ("int", "double", "bool", "tensor")
    },
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray", "_reconstruct"] = _np.reconstruct
    _CALLS[f"{_core}.multiarray", "scalar"] = _np.scalar
    _CALLS[f"{_core}.numeric", "_frombuffer"] = _np.frombuffer

_QSCHEMES = frozenset(
    {
        "per_tensor_affine",
        "per_tensor_symmetric",
        "per_channel_affine",
        "per_channel_symmetric",
        "per_channel_affine_float_qparams",
    }
)

_CONSTANTS: dict[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in PLAIN_TYPES},
    ("builtins", "Ellipsis"): Ellipsis,
    ("builtins", "NotImplemented"): NotImplemented,
}


# ------------------------------------------------------------------ what the core calls


def state_dict(archive: Archive, ordered: bool, ref: int) -> StateDict:
    """A mapping that is the root or holds tensors, empty as yet."""
    return StateDict._born(archive, ordered, ref)


def persistent(pid: Any) -> Any:
    """A persistent id of a kind that torch does not write."""
    return Opaque("pickle", "persistent_load", (pid,))


def quantized(
    info: TensorInfo, array: Any, scheme: str, scale: float, zero_point: int, scales: Any,
    zero_points: Any, axis: int,
) -> QuantizedTensor:  # fmt: skip
    """Integers with what makes reals of them."""
    packed = info.dtype in ("quint4x2", "quint2x4")
    shape = info.shape if packed else None
    if scheme == "per_tensor_affine":
        made = QuantizedTensor(array, info.dtype, scale=scale, zero_point=zero_point, shape=shape)
    else:
        scales = _numbers(scales, "f8", (int, float), info.shape[axis])
        zeros = _numbers(zero_points, "i8", (int,), info.shape[axis])
        made = QuantizedTensor(
            array, info.dtype, scales=scales, zero_points=zeros, axis=axis, shape=shape
        )
    if packed:
        made._offset, made._strides = info.storage_offset, info.stride
    _flag(made, info)
    return made


def _numbers(told: Any, dtype: str, kinds: tuple[type, ...], count: int) -> Any:
    """An array; old files tell lists, which could be filled only later."""
    import numpy as np

    if not isinstance(told, list):
        return told
    known = len(told) == count and all(type(number) in kinds for number in told)
    expect(known, "torch._utils._rebuild_qtensor", "scales that are no numbers")
    return np.array(told, dtype)


def composite(info: TensorInfo, parts: dict[str, Any], state: Any, coalesced: int) -> TensorObject:
    """A tensor that is made of others."""
    layout, shape = info.layout, info.shape
    made: TensorObject
    if layout == "subclass":
        made = TensorSubclass(info.type or "", info.dtype, shape, info.stride, parts, state)
    elif layout in ("nested", "jagged"):
        made = NestedTensor(layout, shape, parts, shape.index(-1) if -1 in shape else 1)
    else:
        said = None if coalesced < 0 else bool(coalesced)
        made = SparseTensor(layout, shape, coalesced=said, **parts)
        made.dtype = info.dtype
    _flag(made, info)
    return made


def _flag(made: TensorObject, info: TensorInfo) -> None:
    made.requires_grad = info.requires_grad
    made.is_parameter = info.kind == "parameter"


def attach_module(target: Any, state_dict: Any, untold: list[tuple[str, str, bool]]) -> None:
    """Let a whole module, or a bound method of one, tell its state_dict."""
    if isinstance(target, Opaque):
        target.__class__ = OpaqueModule
        target._state_dict = state_dict
        target._untold = untold


def attach_state(target: StateDict, name: Any, state: dict[Any, Any]) -> None:
    """Python attributes of one of the state_dict's tensors."""
    if state:
        target.tensor_attributes[name] = state


def global_value(module: str, name: str, protocol: int) -> Any:
    """A name that is the value itself, such as a dtype."""
    from pystatedict._core import DTYPES

    module, name = normalise(module, name, protocol)
    if module == "torch":
        if name in DTYPES:
            return Dtype(f"torch.{name}")
        if name in _QSCHEMES:
            return QScheme(f"torch.{name}")
    found = _CONSTANTS.get((module, name))
    return Opaque(module, name) if found is None else found


def call(form: str, module: str | None, name: Any, args: Any, kwargs: Any, protocol: int) -> Any:
    """The result of REDUCE or NEWOBJ: a plain value, or an Opaque.

    A callable that is no plain name stands in `name`, and `module` is None.
    """
    if not isinstance(args, tuple):
        raise wrong(f"{module}.{name}" if module else "an object", "arguments that are no tuple")
    if module is not None:
        return _call(form, *normalise(module, name, protocol), args, kwargs)
    if isinstance(name, Opaque) and name.form == "global" and type(name.name) is str:
        return _call(form, str(name.module), name.name, args, kwargs)  # of a dotted name
    return Opaque(None, name, args, kwargs, form)


def _call(form: str, module: str, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    if module == "copyreg":
        spelled = _spelled_out(name, args)
        if spelled is not None:
            form, module, name, args, kwargs = ("newobj", args[0].module, args[0].name, *spelled)
    make = _CALLS.get((module, name))
    if make is None and module in _TORCH_CLASSES:
        make = _empty_class(name)
    if make is None:
        return Opaque(module, name, args, kwargs, form)
    full = f"{module}.{name}"
    try:
        expect(not kwargs, full)
        made = _made(make, full, args)
    except Untold:
        return Opaque(module, name, args, kwargs, form)
    except CorruptError:
        # A class of somebody's own may well be a text or a number; NumPy is given names.
        if module[:5] != "numpy" and any(isinstance(arg, Opaque) for arg in args):
            return Opaque(module, name, args, kwargs, form)
        raise
    if isinstance(made, Unbuilt):
        made.form = form
    return made


_TORCH_CLASSES = ("torch", "torch.cuda", "torch.storage")


def _made(make: Callable[..., Any], full: str, args: tuple[Any, ...]) -> Any:
    try:
        return make(*args)
    except TypeError:
        raise wrong(full, "a wrong number of arguments") from None


def _spelled_out(name: str, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any] | None:
    """``cls.__new__(cls, *args, **kwargs)`` as older protocols say it: (args, kwargs)."""
    known = len(args) > 0 and isinstance(args[0], Opaque)
    if not known or args[0].form != "global" or args[0].module == "copyreg":
        return None
    if name == "_reconstructor" and len(args) == 3 and args[1] is object and args[2] is None:
        return (), None
    if name == "__newobj__":
        return args[1:], None
    given = name == "__newobj_ex__" and len(args) == 3
    if given and isinstance(args[1], tuple) and isinstance(args[2], dict):
        return args[1], args[2]
    return None


def build(target: Any, state: Any) -> Any:
    """The object once BUILD has told its state; may be another object."""
    if isinstance(target, Unbuilt):
        try:
            return target.build(state)
        except Untold:
            opaque: Any = target
            opaque.__class__ = Opaque  # and nothing more is to be told of it
    if isinstance(target, Opaque):
        target.state = state
        return target
    if type(target) is OrderedDict:  # Python 2 told the pairs before the attributes
        target = StateDict(target)
    if isinstance(target, StateDict):
        target._set_attributes(state)
        return target
    return _built(target, state, f"{type(target).__module__}.{type(target).__name__}")


def _built(target: Any, state: Any, name: str) -> Any:
    if name in ("argparse.Namespace", "types.SimpleNamespace"):
        expect(isinstance(state, dict) and all(type(k) is str for k in state), name, "no state")
        if any(key.startswith("__") for key in state):
            # NumPy, for one, believes what an object's __array_interface__ says of memory.
            form = "newobj" if name == "argparse.Namespace" else "reduce"
            module, _, kind = name.partition(".")
            opaque = Opaque(module, kind, (), None, form)
            opaque.state = state
            return opaque
        target.__dict__.update(state)
        return target
    if name == "numpy.ndarray":
        return _np.build_array(target, state)
    if _np.is_dtype(target):
        return _np.built_dtype(target, state)
    if type(target) is str and isinstance(state, dict):
        return target  # attributes of a TorchVersion: none that is known
    raise wrong(name, "a state that it cannot have")


def set_items(target: Any, flat: list[Any]) -> None:
    """SETITEMS on something that is no dict: key, value, key, value, ..."""
    expect(isinstance(target, Opaque), type(target).__name__, "items that it cannot hold")
    try:
        keys = [hashable(key) for key in flat[::2]]
        check_hashes(keys, target._hashes)
        target.items.update(zip(keys, flat[1::2], strict=True))
    except TypeError:
        raise wrong(target.qualified_name, "a key that cannot be hashed") from None


def append_items(target: Any, items: list[Any]) -> None:
    """APPENDS or ADDITEMS on something that is neither list nor set."""
    from collections import deque

    if isinstance(target, deque):
        target.extend(items)
        return
    expect(isinstance(target, Opaque), type(target).__name__, "elements that it cannot hold")
    target.appends.extend(items)
