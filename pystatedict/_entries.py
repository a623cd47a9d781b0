# SPDX-License-Identifier: Apache-2.0
"""The tensors of anything by name: of a file, an opened checkpoint, or a mapping of arrays.

For what compares whole checkpoints.  A tensor's bytes are read when they are taken, by a
Source without a map, and one storage at a time is held.
"""

from __future__ import annotations

from collections.abc import Mapping

from pystatedict._checkpoint import Checkpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Shape = tuple[int, ...]


class Entry:
    """One tensor: what is known of it without its bytes.

    Attributes:
        name: dotted.
        dtype: torch's name, or NumPy's spelling where torch has none.
        shape: sizes; -1 where it is ragged.
        layout: "strided", "quantized", "sparse_coo", ..., "meta" of one without bytes.
        flag: whether it is trainable; None: nobody has said.
        storage: equal for those that are read together, or None.
    """

    __slots__ = ("_value", "dtype", "flag", "layout", "name", "shape", "storage")

    def __init__(
        self, name: str, dtype: str, shape: Shape, layout: str, flag: bool | None, value: Any
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.layout = layout
        self.flag = flag
        self.storage: tuple[int, int] | None = None
        self._value = value

    def value(self) -> Any:
        """An array, one of the kinds of tensors that an array cannot tell, or None of meta."""
        if self.layout == "meta":
            return None
        if hasattr(self._value, "storage_offset"):
            return self._value.numpy()
        return as_value(self._value, self.name)


class Entries(dict[str, Entry]):
    """Entries by name, in order, and where they come from; to be closed."""

    def __init__(self, path: str | None = None, opened: Checkpoint | None = None) -> None:
        super().__init__()
        self.path = path
        self._opened = opened

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *error: object) -> None:
        if self._opened is not None:
            self._opened.close()


def entries_of(f: Any, root: str | None, flags: bool = False) -> Entries:
    """The tensors of what load() takes, of a Checkpoint, or of a mapping.

    `root` says what of a file or mapping is meant, as open() takes it; a Checkpoint has its
    own.  `flags`: also read the sidecar.
    """
    if isinstance(f, Checkpoint):
        return _of_checkpoint(f, Entries(f.path), flags)
    if isinstance(f, Mapping):
        return _of_mapping(f, root)
    from pystatedict._opening import open_checkpoint
    from pystatedict._roots import holds_arrays

    checkpoint = open_checkpoint(f, root, access="read")
    try:
        if not len(checkpoint) and holds_arrays(checkpoint.archive):
            from pystatedict._api import load

            checkpoint.close()
            return _of_mapping(load(f, root=root, trainable=None if flags else False), None)
        return _of_checkpoint(checkpoint, Entries(checkpoint.path, checkpoint), flags)
    except BaseException:
        checkpoint.close()
        raise


def _of_checkpoint(checkpoint: Checkpoint, found: Entries, flags: bool) -> Entries:
    said = checkpoint.trainable if flags else {}
    for name, info in checkpoint.items():
        found[name] = entry = _of_info(name, info, said.get(name))
        if info._storage_index is not None:
            entry.storage = (id(info._archive), info._storage_index)
    return found


def _of_info(name: str, info: Any, flag: bool | None) -> Entry:
    layout = info.layout
    if info.is_meta:
        layout = "meta"
    elif layout == "strided" and info.dtype.startswith(("qint", "quint")):
        layout = "quantized"
    return Entry(name, info.dtype, info.shape, layout, flag, info)


# ------------------------------------------------------------------ mappings


def _of_mapping(mapping: Any, root: str | None) -> Entries:
    if root == "auto":
        from pystatedict._roots import find_in

        mapping = find_in(mapping)
    found = Entries(getattr(mapping, "source", None))
    for name, value, flag in _walk(mapping):
        if root not in (None, "auto"):
            if not name.startswith(f"{root}."):
                continue
            name = name[len(root or "") + 1 :]
        count, unique = 1, name
        while unique in found:  # of the keys 1 and "1", say
            count += 1
            unique = f"{name}#{count}"
        found[unique] = _of_value(unique, value, flag)
    if not found and root not in (None, "auto"):
        from pystatedict._errors import MissingTensorError

        raise MissingTensorError(
            f"there is no tensor below {root!r} in the mapping", code="no-such-root", key=root
        )
    return found


def _walk(whole: Any) -> Iterator[tuple[str, Any, bool | None]]:
    """(dotted name, tensor, flag) of all in nested mappings, lists and tuples."""
    seen = {id(whole)}
    stack = [("", _children(whole))]
    while stack:
        prefix, children = stack[-1]
        for key, value, flag in children:
            name = prefix + key
            if _is_tensor(value):
                yield name, value, flag
            elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
                seen.add(id(value))  # all that is walked stays alive in `whole`
                stack.append((f"{name}.", _children(value)))
                break
        else:
            stack.pop()


def _children(value: Any) -> Iterator[tuple[str, Any, bool | None]]:
    if isinstance(value, Mapping):
        said = getattr(value, "trainable", None)
        flags: Mapping[Any, bool | None] = said if isinstance(said, Mapping) else {}
        for key, child in value.items():
            yield str(key), child, flags[key] if _is_tensor(child) and key in flags else None
    else:
        for index, child in enumerate(value):
            yield str(index), child, None


def _is_tensor(value: Any) -> bool:
    """Arrays and what says it can be one; scalars of NumPy are plain values, as in a file."""
    from pystatedict._roots import is_scalar

    if not hasattr(value, "__array__") or is_scalar(value):
        return False
    return not getattr(getattr(value, "dtype", None), "hasobject", False)


def _of_value(name: str, value: Any, flag: bool | None) -> Entry:
    if hasattr(value, "storage_offset") and hasattr(value, "is_meta") and hasattr(value, "parts"):
        return _of_info(name, value, flag)  # a TensorInfo
    from pystatedict._tensorkinds import QuantizedTensor, TensorObject

    if isinstance(value, TensorObject):
        layout = "quantized" if isinstance(value, QuantizedTensor) else value.layout
        return Entry(name, value.dtype, value.shape, layout, flag, value)
    array = as_value(value, name)
    return Entry(name, dtype_name(array), array.shape, "strided", flag, array)


def as_value(value: Any, name: str) -> Any:
    """The array of what has `__array__`; what is no array by itself, as it is."""
    import numpy as np

    from pystatedict._tensorkinds import TensorObject

    if isinstance(value, (np.ndarray, TensorObject)):
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        from pystatedict._printable import printable

        raise TypeError(
            f"'{printable(name, 200)}' cannot be made a NumPy array: {printable(str(error), 200)}"
        ) from None


def dtype_name(array: Any) -> str:
    """torch's name of an array's dtype; NumPy's, little-endian, where torch has none."""
    from pystatedict._dtypes import torch_dtype

    dtype = array.dtype
    name = torch_dtype(dtype)
    if name is not None:
        return name
    if dtype.names is not None:
        return str(dtype.newbyteorder("<"))
    return str(dtype.name) if dtype.isbuiltin == 2 else str(dtype.newbyteorder("<").str)


# ------------------------------------------------------------------ taking values


class Hand:
    """Takes values of entries; keeps the last, as its storage is shared by those that follow."""

    __slots__ = ("_last", "_storage")

    def __init__(self) -> None:
        self._storage: tuple[int, int] | None = None
        self._last: Any = None

    def take(self, entry: Entry) -> Any:
        if entry.storage is None or entry.storage != self._storage:
            self._last = None  # let go of it before the next is read
        self._storage = entry.storage
        value = entry.value()
        self._last = value
        return value


def together(entries: Iterator[Entry]) -> list[Entry]:
    """In their order, but those of one storage after each other."""
    groups: dict[object, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.storage or entry.name, []).append(entry)
    return [entry for group in groups.values() for entry in group]


def roots_of(root: Any) -> tuple[str | None, str | None]:
    """root= of two files: one for both, or a pair."""
    if root is None or isinstance(root, str):
        return root, root
    if isinstance(root, (tuple, list)) and len(root) == 2:
        first, second = root
        if all(part is None or isinstance(part, str) for part in (first, second)):
            return first, second
    raise TypeError('root is None, "auto", a dotted path, or a pair of these, one for each file')
