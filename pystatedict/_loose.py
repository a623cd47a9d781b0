"""Flags of arrays that stand in no mapping, such as those of a list of Parameters.

An array itself has no place for them; a StateDict keeps those of its own.
"""

from __future__ import annotations

import weakref
from typing import Any

_FLAGS: dict[int, tuple[weakref.ref[Any], int]] = {}


def remember(array: Any, bits: int) -> None:
    """Keep the core's flag bits of an array for as long as it lives."""
    key = id(array)
    _FLAGS[key] = (weakref.ref(array, lambda _: _FLAGS.pop(key, None)), bits)


def recalled(array: Any) -> int:
    """The bits of an array; 0: nothing was said."""
    found = _FLAGS.get(id(array))
    return 0 if found is None else found[1]
