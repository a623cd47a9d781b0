# SPDX-License-Identifier: Apache-2.0
"""Writing safetensors files; the core reads them.

The layout is that of the reference, byte for byte: tensors in the order of their dtypes,
those of the widest elements first, then by name; the header padded with blanks to a
multiple of eight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pystatedict._dtypes import torch_dtype
from pystatedict._named import Pouring, arrays_of, pieces
from pystatedict._printable import printable

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystatedict._named import Later

    Array = npt.NDArray[Any] | Later

#: torch's names and the format's, in the order in which the reference sorts them.
_DTYPES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64", "float32": "F32",
    "uint32": "U32", "int32": "I32", "bfloat16": "BF16", "float16": "F16", "uint16": "U16",
    "int16": "I16", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int8": "I8", "uint8": "U8", "float4_e2m1fn_x2": "F4", "bool": "BOOL",
}  # fmt: skip
_ORDER = {name: number for number, name in enumerate(_DTYPES)}

_HEADER_MOST = 100_000_000  # readers refuse longer ones
_METADATA = "__metadata__"


def safetensors_writer(obj: Any) -> Callable[[Callable[[memoryview], object]], None]:
    """What pours a mapping of names to arrays into a write().

    Tensors that share memory are written in full under each name: the format has no ties.
    ``__metadata__`` is what ``obj.attributes`` of a StateDict says, or ``{"format": "pt"}``.

    Raises TypeError for what the format cannot hold, before anything is written.
    """
    rows = sorted(
        ((_ORDER[dtype], name, dtype, array) for name, dtype, array in _typed(obj)),
        key=lambda row: row[:2],
    )
    header = _header(rows, _metadata(obj))

    def pour(write: Callable[[memoryview], object]) -> None:
        target = Pouring(write)
        target.write(len(header).to_bytes(8, "little") + header)
        for *_, array in rows:
            for piece in pieces(array):
                target.write(piece)
        target.flush()

    return pour


def _typed(obj: Any) -> list[tuple[str, str, Array]]:
    found = []
    known: dict[int, str | None] = {}  # by identity: arrays share their dtypes
    arrays = arrays_of(obj, "safetensors")
    for name, array in arrays:
        if id(array.dtype) not in known:
            known[id(array.dtype)] = torch_dtype(array.dtype)
        dtype = known[id(array.dtype)]
        if dtype not in _DTYPES:
            raise TypeError(
                f"{printable(repr(name), 80)} is an array of dtype {dtype or array.dtype}, which"
                f" safetensors has not; {_instead(dtype, array)}"
            )
        if dtype == "float4_e2m1fn_x2" and not array.shape:
            raise TypeError(f"{printable(repr(name), 80)} holds two numbers of float4 and no axis")
        if name == _METADATA:
            raise TypeError(f"no tensor of a safetensors file can be named {_METADATA!r}")
        found.append((name, dtype, array))
    return found


def _instead(dtype: str | None, array: Array) -> str:
    if array.dtype.kind == "c":
        return "save array.astype('complex64'), or array.real and array.imag by themselves"
    if dtype == "complex32":
        return "save array['real'] and array['imag'] by themselves"
    if dtype is not None:
        return "save array.view('u1') under a name that tells, or a .pth file"
    return "convert it to a dtype that torch has, or leave it out"


def _metadata(obj: Any) -> dict[str, str]:
    attributes = getattr(obj, "attributes", None)
    told = attributes.get(_METADATA) if isinstance(attributes, Mapping) else None
    if told is None:
        return {"format": "pt"}
    if not isinstance(told, Mapping):
        raise TypeError(f"attributes[{_METADATA!r}] must map str to str, not be {told!r}")
    for key, value in told.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"attributes[{_METADATA!r}] must map str to str; one entry is"
                f" {printable(repr(key), 60)}: {printable(repr(value), 60)}"
            )
    return dict(told)


def _header(rows: list[tuple[int, str, str, Array]], metadata: dict[str, str]) -> bytes:
    from json.encoder import encode_basestring as quoted

    notes = ",".join(f"{quoted(key)}:{quoted(value)}" for key, value in metadata.items())
    entries = [f'"{_METADATA}":{{{notes}}}']
    place = 0
    for _, name, dtype, array in rows:
        shape = list(array.shape)
        if dtype == "float4_e2m1fn_x2":
            shape[-1] *= 2  # of numbers, where torch and the array count bytes
        end = place + array.nbytes
        entries.append(
            f'{quoted(name)}:{{"dtype":"{_DTYPES[dtype]}","shape":[{",".join(map(str, shape))}],'
            f'"data_offsets":[{place},{end}]}}'
        )
        place = end
    try:
        text = f"{{{','.join(entries)}}}".encode()
    except UnicodeEncodeError as error:
        raise TypeError(
            "a name or a text of the metadata holds half a surrogate pair, which no UTF-8 can"
            f" spell: {printable(error.object[error.start - 20 : error.end + 20], 60)}"
        ) from None
    if len(text) > _HEADER_MOST:
        raise ValueError(
            f"the header would have {len(text):,} bytes, and readers of safetensors refuse more"
            f" than {_HEADER_MOST:,}; save the tensors in several files"
        )
    return text + b" " * (-len(text) % 8)
