# SPDX-License-Identifier: Apache-2.0
"""What an operation is given, as a StateDict; and a new one made of the parts of another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pystatedict._checkpoint import Checkpoint
from pystatedict._core import TensorInfo
from pystatedict._lazy import LazyTensor
from pystatedict._marks import BUFFER, PARAMETER, REQUIRES_GRAD, mark_of
from pystatedict._printable import printable
from pystatedict._roots import is_scalar
from pystatedict._statedict import StateDict

if TYPE_CHECKING:
    Row = tuple[Any, Any, Any]  # the name, the name it had, the tensor


#: Bits of a mark that a tensor keeps which is made of another.
_FLAGS = PARAMETER | REQUIRES_GRAD | BUFFER


def taken(f: Any) -> StateDict:
    """The state_dict that an operation is to change; it is not changed itself.

    `f`: a path, of which the one state_dict in the file is meant, with TensorInfos that read
    their bytes when they are wanted; a Checkpoint; or a mapping of names to tensors.
    """
    from pystatedict._api import load_lazily, state_dict_of
    from pystatedict._opaque import Opaque

    if isinstance(f, (str, os.PathLike)):
        f = load_lazily(f, "auto")
        f = f.items if isinstance(f, Opaque) else f  # a dict of a class that is not known here
    if isinstance(f, Checkpoint):
        return _checked(state_dict_of(f))
    if isinstance(f, StateDict):
        return _checked(f)
    if isinstance(f, Mapping):
        made = StateDict(f)
        made._ordered = type(f) is not dict
        return _checked(made)
    raise TypeError(
        f"a {type(f).__name__} holds no weights; expected a path, a Checkpoint, or a mapping of"
        " names to tensors"
    )


def _checked(sd: StateDict) -> StateDict:
    """Refuse a nest, whose names are not those of tensors."""
    for name, value in sd.items():
        if isinstance(value, (dict, list)) and not is_tensor(value) and _holds_tensors(value):
            raise TypeError(
                f"{printable(repr(name), 60)} is a {type(value).__name__} with tensors in it, and"
                " the operation is for a state_dict: one mapping of names to tensors.\n  hint: give"
                f" obj[{printable(repr(name), 60)}], or ops.open(f, root='auto'), or"
                " ops.flatten(obj)"
            )
    return sd


def _holds_tensors(value: Any) -> bool:
    todo, seen = [value], set()
    while todo:
        part = todo.pop()
        if is_tensor(part):
            return True
        if isinstance(part, (dict, list, tuple)) and id(part) not in seen:
            seen.add(id(part))
            todo += part.values() if isinstance(part, dict) else part
    return False


def is_tensor(value: Any) -> bool:
    """Is it an array, or what stands for one?  NumPy's scalars are numbers."""
    if isinstance(value, (TensorInfo, LazyTensor)):
        return True
    return hasattr(value, "__array__") and not is_scalar(value)


def named_tensors(obj: Any) -> dict[str, Any]:
    """The tensors of a nest by their joined names, as a file lists them; for who checks and
    counts.

    Each container is visited once, wherever it stands; names that two tensors have, and keys
    that are no text, are left out.
    """
    found: dict[str, Any] = {}
    twice: set[str] = set()
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", obj)]
    while todo:
        name, value = todo.pop()
        if is_tensor(value):
            if name in found:
                twice.add(name)
            found[name] = value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
            todo += [
                (f"{name}.{key}" if name else str(key), part)
                for key, part in inner
                if isinstance(key, str) or not isinstance(value, Mapping)
            ]
    return {name: value for name, value in found.items() if name not in twice}


def is_info(value: Any) -> bool:
    """Is it a TensorInfo, or what is one of a tensor in several files?"""
    return isinstance(value, TensorInfo) or hasattr(value, "_storage_index")


def remade(
    sd: StateDict,
    rows: Iterable[Row],
    module: Callable[[str], str | None] | None = None,
) -> StateDict:
    """A StateDict of these rows, with what `sd` knows of the names that they had.

    `module`: what a module's name becomes in torch's ``_metadata``, None: it is left out.
    """
    made = StateDict()
    told: dict[Any, int] = {}
    known = sd._told()
    for name, old, value in rows:
        dict.__setitem__(made, name, value)
        if old in sd._said:
            made._said[name] = sd._said[old]
        if old in sd.tensor_attributes:
            made.tensor_attributes[name] = sd.tensor_attributes[old]
        # An array knows its own where no name tells, and what is made of it does not.
        bits = known[old] if old in known else mark_of(sd.get(old)) & _FLAGS
        if bits:
            told[name] = bits
    made._told_bits = told
    made._ordered = sd._ordered
    made.source = sd.source
    made.attributes.update(sd.attributes)
    made.metadata = _metadata(sd.metadata, module)
    return made


def _metadata(metadata: Any, module: Callable[[str], str | None] | None) -> Any:
    if not isinstance(metadata, dict) or module is None:
        return metadata
    made = type(metadata)()
    for name, facts in metadata.items():
        new = module(name) if isinstance(name, str) else name
        if new is not None:
            made.setdefault(new, facts)
    return made


def changed(sd: StateDict, change: Callable[[Any, Any], Any]) -> StateDict:
    """The same names with `change(name, tensor)` for each; tied tensors stay tied.

    Where it gives the very tensor, that is untouched.
    """
    done: dict[Any, Any] = {}

    def once(name: Any, value: Any) -> Any:
        if not is_tensor(value):
            return value
        key = tie(value)
        if key not in done:
            done[key] = (change(name, value), value)  # the value, so that its id stays its own
        made, first = done[key]
        return value if made is first else made

    return remade(sd, [(name, name, once(name, value)) for name, value in sd.items()])


def tie(value: Any) -> Any:
    """Equal for tensors that are one: the same storage seen through the same window."""
    if is_info(value):
        number = value._storage_index
        if value._stored is None and value._archive is not None:
            # Conjugated, say: of one storage, and others than its elements.
            return (id(value._archive), "tensor", value._index)
        if number is None or not value.numel:
            return id(value)
        return (id(value._archive), number, value.storage_offset, value.shape, value.stride,
                value.dtype)  # fmt: skip
    interface = getattr(value, "__array_interface__", None)
    if isinstance(interface, dict) and value.size:
        address = interface["data"][0]
        return (address, value.shape, value.strides, value.dtype.str, value.dtype.name)
    return id(value)
