# SPDX-License-Identifier: Apache-2.0
"""What a tensor is made of: a few facts, and arrays by name; and the SHA-256 of it.

The layout of what is hashed is told in docs/format.md; whoever changes it changes every
hash that anyone has written down.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

from pystatedict._entries import as_value, dtype_name
from pystatedict._errors import LimitError
from pystatedict._pieces import bytes_of, pieces
from pystatedict._tensorkinds import (
    NestedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorObject,
    TensorSubclass,
)

if TYPE_CHECKING:
    from pystatedict._pieces import Work

    Facts = dict[str, str]

_DEPTH = 50  # subclasses within one another


def parts_of(value: TensorObject) -> tuple[Facts, dict[str, Any]]:
    """(what is told of it beside dtype and shape, the values that it is made of by name)."""
    facts: Facts = {"layout": value.layout}
    if isinstance(value, QuantizedTensor):
        facts = {"layout": "quantized", "qscheme": value.qscheme}
        parts: dict[str, Any] = {"array": value.array}
        if value.scales is None:
            facts["scale"] = float(value.scale or 0.0).hex()
            facts["zero_point"] = str(int(value.zero_point or 0))
        else:
            facts["axis"] = str(value.axis)
            parts |= {"scales": value.scales, "zero_points": value.zero_points}
        return facts, parts
    if isinstance(value, SparseTensor):
        return facts, dict(value.parts)
    if isinstance(value, NestedTensor):
        if value.layout == "jagged":
            facts["ragged_axis"] = str(value.ragged_axis)
        return facts, dict(value.parts)
    if isinstance(value, TensorSubclass):
        facts["type"] = value.type
        return facts, dict(value.inner)
    return facts, {}


def is_meta(value: Any) -> bool:
    """A TensorInfo without bytes, as it stands within a subclass, or nothing."""
    return value is None or (hasattr(value, "storage_offset") and bool(value.is_meta))


def digest(name: str, value: Any, work: Work, depth: int = 0) -> bytes:
    """SHA-256 of one tensor's dtype, shape and content, 32 bytes."""
    if depth > _DEPTH:
        raise LimitError("tensors stand within one another too deeply", code="limit", hint="")
    if isinstance(value, TensorObject):
        facts, parts = parts_of(value)
        head = _head(value.dtype, value.shape, facts["layout"])
        inner = hashlib.sha256(struct.pack("<Q", len(facts)))
        for key in sorted(facts):
            inner.update(framed(key) + framed(facts[key]))
        inner.update(struct.pack("<Q", len(parts)))
        for key in sorted(parts, key=encoded):
            inner.update(framed(key) + digest(f"{name}.{key}", parts[key], work, depth + 1))
        return hashlib.sha256(head + inner.digest()).digest()
    if is_meta(value):
        dtype, shape = ("", ()) if value is None else (value.dtype, value.shape)
        return meta_digest(dtype, shape)
    array = as_value(value, name)
    work.add(array)
    inner = hashlib.sha256()
    for index in pieces(array.shape):
        inner.update(bytes_of(array[index]).data)
    return hashlib.sha256(
        _head(dtype_name(array), array.shape, "strided") + inner.digest()
    ).digest()


def meta_digest(dtype: str, shape: tuple[int, ...]) -> bytes:
    """That of a tensor which has no bytes."""
    return hashlib.sha256(_head(dtype, shape, "meta") + hashlib.sha256().digest()).digest()


def _head(dtype: str, shape: tuple[int, ...], layout: str) -> bytes:
    sizes = struct.pack(f"<Q{len(shape)}q", len(shape), *shape)
    return framed(layout) + framed(dtype) + sizes


def encoded(text: str) -> bytes:
    """A name as it is sorted and hashed; names of hostile files may be no Unicode."""
    return text.encode("utf-8", "surrogatepass")


def framed(text: str) -> bytes:
    """Its length before it, so that no two sequences of texts give the same bytes."""
    data = encoded(text)
    return struct.pack("<Q", len(data)) + data
