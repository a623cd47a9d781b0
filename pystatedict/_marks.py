# SPDX-License-Identifier: Apache-2.0
"""What a file told of an array that the array itself cannot hold.

A tensor becomes a plain ndarray, and with it goes whether it was a Parameter, whether it
requires grad, or that it was no tensor at all but a NumPy array in the pickle.  That is
noted here by the array's identity, for as long as the array lives, and save() writes it
back.  What is computed from such an array is another array, and nothing is noted of it.
"""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict._core import TensorInfo

    Kept = dict[Any, Any] | None

# Bits of a mark; the first ones are the core's tensor flags.
PARAMETER = 1 << 0
REQUIRES_GRAD = 1 << 1
BUFFER = 1 << 5
STORAGE = 1 << 6
NDARRAY = 1 << 7  # a NumPy array, and no tensor


class _Ref(weakref.ref):  # type: ignore[type-arg]
    __slots__ = ("key",)

    key: int


#: id of a living array -> (bits, Python attributes or None, weak reference).
MARKS: dict[int, tuple[int, Kept, _Ref]] = {}


def _forget(ref: _Ref) -> None:
    # The number may have gone to another array already.
    found = MARKS.get(ref.key)
    if found is not None and found[2] is ref:
        del MARKS[ref.key]


def mark(array: Any, bits: int, attributes: Any = None) -> None:
    """Note what an array is, in place of what was noted before.

    Attributes that could lead back to the array, and so keep it alive for ever, are left
    out; a StateDict keeps those of its own tensors.

    >>> import numpy as np
    >>> array = np.zeros(2)
    >>> mark(array, NDARRAY)
    >>> mark_of(array) == NDARRAY, mark_of(array + 1)
    (True, 0)
    """
    ref = _Ref(array, _forget)
    ref.key = id(array)
    kept = attributes if isinstance(attributes, dict) and _is_plain(attributes) else None
    MARKS[ref.key] = (bits, kept or None, ref)


def mark_of(array: Any) -> int:
    """The bits noted of an array; 0 if there are none."""
    found = MARKS.get(id(array))
    return 0 if found is None else found[0]


def _is_plain(attributes: dict[Any, Any]) -> bool:
    """Do they hold nothing that could lead back to the array, and so keep it alive?"""
    todo: list[Any] = [attributes]
    seen: set[int] = set()
    while todo:
        value = todo.pop()
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            continue
        if not isinstance(value, (dict, list, tuple)):
            return False
        if id(value) not in seen:
            seen.add(id(value))
            todo.extend(value.values() if isinstance(value, dict) else value)
    return True


def bits_of(info: TensorInfo) -> int:
    """What the pickle told of a tensor, as bits of a mark."""
    bits = {"parameter": PARAMETER, "buffer": BUFFER}.get(info.kind or "", 0)
    return bits | (REQUIRES_GRAD if info.requires_grad else 0)


def flag_of(bits: int) -> bool | None:
    """The trainable flag that bits tell: None when they say nothing."""
    return bool(bits & REQUIRES_GRAD) if bits & (PARAMETER | REQUIRES_GRAD | BUFFER) else None
