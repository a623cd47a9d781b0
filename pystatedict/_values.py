"""Plain values of a pickle, made without importing or calling what the file names.

The lists here are closed: a name that stands in one has its own small function, which
checks its arguments; any other name becomes an Opaque.  The core calls in here while it
replays a pickle, so everything is kept cheap and nothing imports NumPy before an array
or a NumPy value is met.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pystatedict import _numpyvalues as _np
from pystatedict import _stdvalues as _std
from pystatedict._checks import check_hashes, check_key, expect, wrong
from pystatedict._dtypes import numpy_dtype, resolve
from pystatedict._errors import UnsafePickleError, UnsupportedError
from pystatedict._globals import normalise
from pystatedict._opaque import Opaque, OpaqueModule
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
    from pystatedict._core import TensorInfo
    from pystatedict._opened import Archive

__all__ = [
    "append_items", "attach_module", "attach_state", "build", "call", "composite", "global_value",
    "numpy_dtype", "persistent", "quantized", "resolve", "set_items", "state_dict",
]  # fmt: skip

# ------------------------------------------------------------------ containers


def _ordered_dict(pairs: Any = ()) -> Any:
    from collections import OrderedDict

    expect(isinstance(pairs, (list, tuple, dict)), "OrderedDict")
    found = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
    expect(all(isinstance(p, (list, tuple)) and len(p) == 2 for p in found), "OrderedDict")
    try:
        # Python 2 pickled the pairs as one argument, tensors and all.
        items = [(check_key(k), v) for k, v in found]
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

    if isinstance(factory, Opaque) or not (factory is None or isinstance(factory, type)):
        # A factory of unknown name would be called on a missing key: leave it out.
        return Opaque("collections", "defaultdict", (factory,))
    return defaultdict(factory)


def _deque(items: Any = (), maxlen: Any = None) -> Any:
    from collections import deque

    expect(isinstance(items, (list, tuple)), "deque")
    expect(maxlen is None or (isinstance(maxlen, int) and maxlen >= 0), "deque")
    return deque(items, maxlen)


def _hashed(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        expect(isinstance(items, (list, tuple, set, frozenset)), kind.__name__)
        try:
            checked = [check_key(item) for item in items]
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
    return complex(real, imag)


def _slice(*parts: Any) -> slice:
    expect(1 <= len(parts) <= 3, "slice")
    return slice(*parts)


def _range(*parts: Any) -> range:
    expect(1 <= len(parts) <= 3 and all(isinstance(p, int) for p in parts), "range")
    expect(len(parts) < 3 or parts[2] != 0, "range", "a step of zero")
    return range(*parts)


def _bytes_like(kind: type) -> Callable[..., Any]:
    def make(data: Any = b"", encoding: Any = None) -> Any:
        if isinstance(data, str) and encoding in ("latin-1", "latin1"):
            return kind(_latin1(data, kind.__name__))  # bytearray of Python 2
        # A number would ask for that many zeros, of whatever size.
        expect(isinstance(data, (bytes, bytearray)) and encoding is None, kind.__name__)
        return kind(data)

    return make


def _latin1(text: str, name: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise wrong(name, "text that is not latin-1") from None


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """How protocol 2 spells bytes: ``_codecs.encode(text, 'latin1')``."""
    expect(isinstance(text, str), "_codecs.encode")
    if encoding not in ("latin1", "latin-1", "iso-8859-1", "utf-8", "utf8"):
        raise UnsafePickleError(
            f"the pickle asks for the codec {encoding!r}; only latin1 writes bytes",
            code="pickle-codec",
        )
    if encoding in ("utf-8", "utf8"):
        return str(text).encode("utf-8", "surrogatepass")
    return _latin1(text, "_codecs.encode")


def _size(sizes: Any = ()) -> Size:
    expect(isinstance(sizes, (tuple, list)), "torch.Size")
    expect(all(type(size) is int for size in sizes), "torch.Size")
    return Size(sizes)


def _device(kind: Any = None, index: Any = None) -> Device:
    expect(isinstance(kind, str) and (index is None or type(index) is int), "torch.device")
    return Device(kind if index is None else f"{kind}:{index}")


def _layout(name: Any = None) -> Layout:
    expect(isinstance(name, str), "torch.serialization._get_layout")
    return Layout(name)


def _text(value: Any = "") -> str:
    expect(isinstance(value, str), "str")
    return str(value)


def _no_arguments_class(name: str) -> Callable[..., Any]:
    def make(*args: Any) -> Any:
        # A number would ask torch for a tensor or storage of that many elements.
        expect(not args, name, "a size of its own choosing")
        raise UnsupportedError(
            f"an empty {name} without a state is not read by this version", code="tensor-layout"
        )

    return make


# ------------------------------------------------------------------ the lists


def _load_from_bytes(data: Any = b"") -> Any:
    """Bytes that hold no storage of a tensor: torch would load whatever they are."""
    from pystatedict._scan import scan

    expect(isinstance(data, (bytes, bytearray)), "torch.storage._load_from_bytes")
    named = [str(use) for use in scan(bytes(data)) if use.verdict == "dangerous"]
    if named:
        raise UnsafePickleError(
            "a pickle within the pickle asks for code; nothing was run",
            code="dangerous-global",
            globals=named,
        )
    return Opaque("torch.storage", "_load_from_bytes", (data,))


def _from_numpy(data: Any = None, dtype: Any = None, *_: Any) -> Any:
    """A tensor of a device that gives its values as a NumPy array: (array, dtype, device, flag)."""
    expect(hasattr(data, "__array__") and isinstance(dtype, Dtype), "torch._utils", "no array")
    return data.astype(numpy_dtype(str(dtype).removeprefix("torch.")))


def _first(value: Any = None, *_: Any) -> Any:
    return value


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
    ("decimal", "Decimal"): _std.make_decimal,
    ("fractions", "Fraction"): _std.make_fraction,
    **{("pathlib", name): _std.make_path(name) for name in _PATHS},
    **{("pathlib._local", name): _std.make_path(name) for name in _PATHS},
    ("numpy", "dtype"): _np.dtype,
    ("numpy", "ndarray"): _no_arguments_class("numpy.ndarray"),
    ("torch", "Tensor"): _no_arguments_class("torch.Tensor"),
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


def _torch_class(name: str) -> bool:
    return name.endswith(("Tensor", "Storage"))


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
    import numpy as np

    packed = info.dtype in ("quint4x2", "quint2x4")
    shape = info.shape if packed else None
    if scheme == "per_tensor_affine":
        made = QuantizedTensor(array, info.dtype, scale=scale, zero_point=zero_point, shape=shape)
    else:
        # Old files tell them as lists.
        scales = np.array(scales, "f8") if isinstance(scales, list) else scales
        zeros = np.array(zero_points, "i8") if isinstance(zero_points, list) else zero_points
        made = QuantizedTensor(
            array, info.dtype, scales=scales, zero_points=zeros, axis=axis, shape=shape
        )
    if packed:
        made._offset, made._strides = info.storage_offset, info.stride
    _flag(made, info)
    return made


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


def attach_module(target: Any, state_dict: Any) -> None:
    """Let a whole module, or a bound method of one, tell its state_dict."""
    if isinstance(target, Opaque):
        target.__class__ = OpaqueModule
        target._state_dict = state_dict


def attach_state(target: StateDict, name: Any, state: dict[Any, Any]) -> None:
    """Python attributes of one of the state_dict's tensors."""
    if state:
        target.tensor_attributes[name] = state


def global_value(module: str, name: str) -> Any:
    """A name that is the value itself, such as a dtype."""
    from pystatedict._core import DTYPES

    module, name = normalise(module, name)
    if module == "torch":
        if name in DTYPES:
            return Dtype(f"torch.{name}")
        if name in _QSCHEMES:
            return QScheme(f"torch.{name}")
    found = _CONSTANTS.get((module, name))
    return Opaque(module, name) if found is None else found


def call(form: str, module: str | None, name: Any, args: Any, kwargs: Any) -> Any:
    """The result of REDUCE or NEWOBJ: a plain value, or an Opaque."""
    if module is None:
        return Opaque(None, name, args, kwargs, form)
    where = normalise(module, str(name))
    make = _CALLS.get(where)
    if where[0] == "copyreg":
        spelled = _spelled_out(where[1], args)
        if spelled is not None:
            return call("newobj", args[0].module, args[0].name, *spelled)
    if make is None:
        if where[0] in ("torch", "torch.cuda", "torch.storage") and _torch_class(where[1]):
            make = _no_arguments_class(".".join(where))
        elif where == ("uuid", "UUID"):
            return Opaque("uuid", "UUID", args, kwargs, form)
        else:
            return Opaque(*where, args, kwargs, form)
    expect(isinstance(args, tuple) and not kwargs, ".".join(where))
    try:
        return make(*args)
    except TypeError:
        raise wrong(".".join(where), "a wrong number of arguments") from None


def _spelled_out(name: str, args: Any) -> tuple[tuple[Any, ...], Any] | None:
    """``cls.__new__(cls, *args, **kwargs)`` as older protocols say it: (args, kwargs)."""
    known = isinstance(args, tuple) and len(args) > 0 and isinstance(args[0], Opaque)
    if not known or args[0].form != "global" or args[0].module == "copyreg":
        return None
    if name == "_reconstructor" and args[1:] == (object, None):
        return (), None
    if name == "__newobj__":
        return args[1:], None
    given = name == "__newobj_ex__" and len(args) == 3
    if given and isinstance(args[1], tuple) and isinstance(args[2], dict):
        return args[1], args[2]
    return None


def build(target: Any, state: Any) -> Any:
    """The object once BUILD has told its state; may be another object."""
    if isinstance(target, Opaque):
        if target.name == "_reconstruct" and target.module == "numpy._core.multiarray":
            return _np.build_array(state)
        if (target.module, target.name) == ("uuid", "UUID"):
            return _std.build_uuid(state)
        target.state = state
        return target
    if isinstance(target, StateDict):
        target._set_attributes(state)
        return target
    kind = type(target).__name__
    if kind in ("Namespace", "SimpleNamespace"):
        expect(isinstance(state, dict) and all(type(k) is str for k in state), kind, "no state")
        target.__dict__.update(state)
        return target
    if kind.endswith("dtype") or kind.startswith("dtype[") or "DType" in kind:
        return _np.build_dtype(target, state)
    if isinstance(target, str) and isinstance(state, dict):
        return target  # attributes of a TorchVersion: none that is known
    opaque = Opaque(type(target).__module__, kind, ())
    opaque.state = state
    if isinstance(target, dict):
        opaque.items = dict(target)
    return opaque


def set_items(target: Any, flat: list[Any]) -> None:
    """SETITEMS on something that is no dict: key, value, key, value, ..."""
    expect(isinstance(target, Opaque), type(target).__name__, "items that it cannot hold")
    try:
        keys = [check_key(key) for key in flat[::2]]
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
