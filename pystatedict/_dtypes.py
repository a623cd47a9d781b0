"""torch's dtypes and NumPy's: the one place where they meet.

Every torch dtype that NumPy has is NumPy's own; bfloat16 and float8 are those of
ml_dtypes, imported when the first such array is made.  Dtypes that neither has are raw
integers which remember torch's name in the dtype's metadata, so that save() writes them
back as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pystatedict._errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NUMPY = {
    "uint8": "u1", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint16": "u2", "uint32": "u4", "uint64": "u8",
    "float16": "f2", "float32": "f4", "float64": "f8",
    "complex64": "c8", "complex128": "c16", "bool": "?",
}  # fmt: skip

_ML_DTYPES = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)

# Those that only NumPy arrays in a pickle have: torch's types of such names are others.
_ML_DTYPES_OF_ARRAYS = frozenset(
    {*_ML_DTYPES, "bcomplex32", "complex32", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn",
     "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "int1", "int2", "int4", "uint1", "uint2",
     "uint4"}
)  # fmt: skip

# Raw integers of the same size; float4_e2m1fn_x2 holds two numbers a byte, and its shape
# counts bytes, as torch's does.
_RAW = {
    "bits8": "u1", "bits1x8": "u1", "bits2x4": "u1", "bits4x2": "u1", "bits16": "u2",
    "float4_e2m1fn_x2": "u1",
    **{f"uint{n}": "u1" for n in range(1, 8)},
    **{f"int{n}": "i1" for n in range(1, 8)},
}  # fmt: skip

# The integers of quantized tensors; packed ones hold several a byte.
_QUANTIZED = {"qint8": "i1", "quint8": "u1", "qint32": "i4", "quint4x2": "u1", "quint2x4": "u1"}

_TORCH_KEY = "torch_dtype"

#: Notes in a dtype's metadata that this package makes, and that no file may make for it.
OWN_METADATA = frozenset({_TORCH_KEY})

_FROM_NUMPY = {spelling: name for name, spelling in _NUMPY.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype for torch's dtype of that name.

    >>> numpy_dtype("float32")
    dtype('float32')
    >>> numpy_dtype("bits8").metadata["torch_dtype"]
    'bits8'

    Of a quantized dtype it is that of its integers.  Raises UnsupportedError when ml_dtypes
    is needed and missing.
    """
    import numpy as np

    if name in _NUMPY or name in _QUANTIZED:
        return np.dtype(_NUMPY.get(name) or _QUANTIZED[name])
    if name in _ML_DTYPES:
        return _ml_dtype(name)
    if name in _RAW:
        return np.dtype(_RAW[name], metadata={_TORCH_KEY: name})
    if name == "complex32":
        return _complex32()
    raise UnsupportedError(
        f"tensors of dtype {name} are not read by this version",
        code="dtype",
        hint="open() lists them without making arrays",
    )


def pickled_ml_dtype(name: str) -> np.dtype[Any]:
    """The dtype of ml_dtypes by that name, for a NumPy array or scalar in the pickle.

    Raises UnsupportedError for a name that ml_dtypes has not.
    """
    if name not in _ML_DTYPES_OF_ARRAYS:
        raise UnsupportedError(f"the pickle holds a NumPy array of ml_dtypes.{name}", code="dtype")
    return _ml_dtype(name)


def _ml_dtype(name: str) -> np.dtype[Any]:
    import numpy as np

    try:
        import ml_dtypes
    except ImportError:
        raise UnsupportedError(
            f"an array of dtype {name} needs the package ml_dtypes, which is not installed",
            code="ml-dtypes-missing",
            hint="pip install ml_dtypes",
        ) from None
    kind = getattr(ml_dtypes, name, None)
    if kind is None:
        raise UnsupportedError(
            f"the installed ml_dtypes {ml_dtypes.__version__} has no {name}",
            code="ml-dtypes-old",
            hint="pip install --upgrade ml_dtypes",
        )
    dtype: np.dtype[Any] = np.dtype(kind)
    return dtype


def torch_dtype(dtype: np.dtype[Any]) -> str | None:
    """torch's name for a NumPy dtype in either byte order; None where torch has none.

    >>> import numpy as np
    >>> torch_dtype(np.dtype("<f4")), torch_dtype(np.dtype("U3"))
    ('float32', None)
    """
    metadata = dtype.metadata
    if metadata:
        noted = metadata.get(_TORCH_KEY)
        if type(noted) is str and _RAW.get(noted) == _spelling(dtype):
            return noted
    if dtype.names is not None:
        plain = dtype.type.__name__ == "void" and dtype == _complex32()
        return "complex32" if plain else None
    if dtype.name in _ML_DTYPES:
        return dtype.name
    if dtype.kind in "iufcb" and dtype.hasobject is False:
        return _FROM_NUMPY.get(_spelling(dtype))
    return None


def _spelling(dtype: np.dtype[Any]) -> str:
    """As in the tables: kind and size, whatever the byte order."""
    return dtype.str.lstrip("<>|=").replace("b1", "?")


def _complex32() -> np.dtype[Any]:
    """Pairs of halves in native order, packed, and nothing between or behind them."""
    import numpy as np

    return np.dtype([("real", "f2"), ("imag", "f2")])


def without_metadata(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype without what was noted in it; of fields it is kept."""
    import numpy as np

    return np.dtype(dtype.str) if dtype.metadata and dtype.names is None else dtype


def foreign_metadata(dtype: np.dtype[Any]) -> dict[Any, Any] | None:
    """What others noted in a dtype's metadata; None if nothing."""
    noted: Mapping[str, Any] = dtype.metadata or {}
    return {key: value for key, value in noted.items() if key not in OWN_METADATA} or None


def resolve(array: npt.NDArray[Any], conj: bool, neg: bool) -> npt.NDArray[Any]:
    """The values of a lazily conjugated and negated tensor: conj first, then neg."""
    import numpy as np

    if array.dtype.names is not None:  # complex32 as pairs of float16
        out = array.copy()
        if conj:
            out["imag"] = -out["imag"]
        if neg:
            out["real"], out["imag"] = -out["real"], -out["imag"]
        return out
    if conj:
        array = np.conjugate(array)
    return np.negative(array) if neg else array


def as_ndarray(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The plain array of a subclass; TypeError where the subclass means more than that."""
    import numpy as np

    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "cannot save a masked array: torch has none; save array.filled(...), and"
            " array.mask beside it"
        )
    return np.asarray(array)


def compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A C-contiguous copy in native byte order, for what torch's strides cannot say."""
    import numpy as np

    dtype = array.dtype
    return np.array(array, dtype=dtype.newbyteorder("="), order="C", copy=True)


def converted(array: npt.NDArray[Any], dtype: Any, copy: bool | None) -> npt.NDArray[Any]:
    """The tail of ``TensorInfo.__array__``: another dtype, or a copy."""
    import numpy as np

    if dtype is not None and np.dtype(dtype) != array.dtype:
        if copy is False:
            raise ValueError(f"a copy is needed to get {np.dtype(dtype)} from {array.dtype}")
        return array.astype(dtype)
    return array.copy() if copy else array


# The eight magnitudes of float4 e2m1, by their lower three bits.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def widen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers in a dtype that NumPy computes with; exact.

    complex32, which load() gives as pairs of float16, becomes complex64; bfloat16 and
    float8 become float32; float4_e2m1fn_x2, two numbers a byte with the first in the lower
    bits, becomes float32 with a last dimension twice as long.  Other arrays stay as they are.
    Raises TypeError for bits8 and its kin, which are no numbers.

    >>> import numpy as np
    >>> pairs = np.array([(1, -2)], dtype=[("real", "f2"), ("imag", "f2")])
    >>> widen(pairs)
    array([1.-2.j], dtype=complex64)
    """
    import numpy as np

    name = torch_dtype(array.dtype)
    if name == "complex32":
        whole = np.empty(array.shape, "c8")
        whole.real, whole.imag = array["real"], array["imag"]
        return whole
    if name == "float4_e2m1fn_x2":
        table = np.array([*_E2M1, *(-value for value in _E2M1)], "f4")
        bytes_ = array.view(np.ndarray).astype("u1")
        both = np.stack([table[bytes_ & 15], table[bytes_ >> 4]], axis=-1)
        # Said in full: of an array without elements NumPy cannot tell what -1 stands for.
        return both.reshape(*array.shape[:-1], 2 * (array.shape or (1,))[-1])
    if name is not None and name.startswith("bits"):
        raise TypeError(f"{name} says nothing about what its bits mean")
    return array.astype("f4") if name in _ML_DTYPES else array
