# SPDX-License-Identifier: Apache-2.0
"""Do several inputs fit together?  All that stands against it is told in one error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pystatedict._errors import MismatchError
from pystatedict._operands import dtype_of, is_own, is_tensor
from pystatedict._printable import printable
from pystatedict._statedict import StateDict
from pystatedict._tensorkinds import TensorObject

#: Kinds of tensors: those that are computed with, those that are taken as they are.
FLOAT, COMPLEX, TAKEN = "a float", "a complex number", "an integer"

_FLOATS = re.compile(r"float(16|32|64|8_\w+)|bfloat16")
_INTEGERS = re.compile(r"u?int\d+|bool|bits\w+")

_LISTED = 6  # lines that a message gives to each sort of mismatch


def kind_of(value: Any) -> str:
    """FLOAT, COMPLEX or TAKEN; else what the tensor is instead, in words."""
    name = dtype_of(value)
    if not is_own(value):
        return f"a {type(value).__module__}.{type(value).__qualname__}, and no array"
    if isinstance(value, TensorObject):
        return f"a {type(value).__name__}"
    if getattr(value, "is_meta", False):
        return "a meta tensor, which has no elements"
    if getattr(value, "layout", "strided") != "strided":
        return f"a tensor of layout {value.layout}"
    if _FLOATS.fullmatch(name):
        return FLOAT
    if name.startswith("complex"):
        return COMPLEX
    if _INTEGERS.fullmatch(name):
        return TAKEN
    return f"a tensor of dtype {name}"


def is_computed(value: Any) -> bool:
    """Is it a tensor of floats or complex numbers?"""
    return is_tensor(value) and kind_of(value) in (FLOAT, COMPLEX)


def is_float(dtype: str) -> bool:
    """Is it a name of torch's for floats that are computed with?"""
    return _FLOATS.fullmatch(dtype) is not None


def label(number: int, state_dict: StateDict) -> str:
    """How a message calls an input: by its file, or by its place counted from 0."""
    if state_dict.source is not None:
        return f"'{printable(state_dict.source, 200)}'"
    return f"input {number}"


def check_alike(inputs: Sequence[StateDict], *, names: bool = True) -> None:
    """Raise one MismatchError for all that differs between the first input and the others.

    With names=False, a name that an input lacks is no difference.
    """
    first = inputs[0]
    known = dict(first)
    lines: list[str] = []
    missing: dict[str, None] = {}
    unexpected: dict[str, None] = {}
    wrong: dict[str, list[str]] = {}
    _check_kinds(inputs, wrong)
    for number, other in enumerate(inputs[1:], 1):
        where = label(number, other)
        if names:
            lacks = [str(n) for n, v in first.items() if is_tensor(v) and n not in other]
            more = [str(n) for n, v in other.items() if is_tensor(v) and n not in first]
            missing.update(dict.fromkeys(lacks))
            unexpected.update(dict.fromkeys(more))
            if lacks or more:
                lines.append(f"{where}: {len(lacks):,} missing, {len(more):,} unexpected")
        for name, value in other.items():
            if name not in known and not names:
                known[name] = value  # and held against those that come later
            if name in known:
                said = _difference(known[name], value, where)
                if said is not None:
                    wrong.setdefault(str(name), []).append(said)
    if not (missing or unexpected or wrong):
        return
    found = [f"{printable(name, 200)}: {'; '.join(said)}" for name, said in wrong.items()]
    lines += found[:_LISTED]
    if len(found) > _LISTED:
        lines.append(f"and {len(found) - _LISTED:,} more names")
    raise MismatchError(
        f"the weights do not fit those of {label(0, first)}; nothing was computed",
        evidence=lines,
        hint="names, shapes and kinds of numbers must be the same; rename or leave out what"
        " differs, or make it dense",
        missing_keys=missing,
        unexpected_keys=unexpected,
        mismatched=wrong,
    )


def _check_kinds(inputs: Sequence[StateDict], wrong: dict[str, list[str]]) -> None:
    """Tensors that cannot be computed with, such as sparse ones: they are not passed over."""
    for number, each in enumerate(inputs):
        for name, value in each.items():
            if is_tensor(value) and kind_of(value) not in (FLOAT, COMPLEX, TAKEN):
                said = f"{kind_of(value)} in {label(number, each)}"
                wrong.setdefault(str(name), []).append(said)


def _difference(value: Any, other: Any, where: str) -> str | None:
    if not is_tensor(value):
        return f"no tensor, in {where} one" if is_tensor(other) else None
    if not is_tensor(other):
        return f"a tensor, in {where} a {type(other).__name__}"
    if tuple(value.shape) != tuple(other.shape):
        return f"shape {tuple(value.shape)}, in {where} {tuple(other.shape)}"
    kinds = kind_of(value), kind_of(other)
    if kinds[0] != kinds[1] and {*kinds} <= {FLOAT, COMPLEX, TAKEN}:
        return f"dtype {dtype_of(value)}, in {where} {dtype_of(other)}"
    return None
