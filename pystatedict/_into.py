# SPDX-License-Identifier: Apache-2.0
"""Put weights into a model of NumPy arrays: `load_state_dict`.

The target is a mapping, a sequence, or any object; its arrays have dotted names.  One
part of a name is an attribute, a mapping's key or an index: `layers.0.weight` is
`target.layers[0].weight` or `target["layers.0.weight"]` alike.

Which arrays does a target have?  Those that are found by walking mappings, lists, tuples
and the instance attributes (`__dict__` and `__slots__`) of other objects, attributes with
a leading underscore left out.  What is reached twice is walked once, so cycles end and a
shared part is listed by its first name; only such names can be *missing*.  A name in the
state_dict that was not listed is looked up part by part, so properties, other names of a
shared part and underscored attributes can be filled too.
"""

from __future__ import annotations

from ._errors import MismatchError
from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Self

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_DEPTH = 200  # parts of a name that are followed
_LISTED = 4  # lines that a message gives to each kind of mismatch


class IncompatibleKeys(tuple[list[str], list[str]]):
    """(missing_keys, unexpected_keys), as torch's `load_state_dict` returns them."""

    __slots__ = ()

    def __new__(cls, missing_keys: list[str], unexpected_keys: list[str]) -> Self:
        return super().__new__(cls, (missing_keys, unexpected_keys))

    def __getnewargs__(self) -> tuple[list[str], list[str]]:
        return self[0], self[1]

    @property
    def missing_keys(self) -> list[str]:
        return self[0]

    @property
    def unexpected_keys(self) -> list[str]:
        return self[1]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys!r}, "
            f"unexpected_keys={self.unexpected_keys!r})"
        )


def load_state_dict(
    target: object,
    state_dict: Mapping[str, Any] | str | os.PathLike[str],
    strict: bool = True,
    *,
    cast: bool = False,
) -> IncompatibleKeys:
    """Copy the arrays of `state_dict` (a mapping or a path) into those of `target`.

    Copies in place, all or nothing: every problem is found first and one `MismatchError`
    lists them all.  Shapes must match, and dtypes too unless `cast=True`, which allows
    conversions within a kind or to a wider one (bool, integer, float, complex).  With
    `strict=False`, names that only one side has are returned and not refused.

        >>> import numpy as np
        >>> target = {"weight": np.zeros((2, 3), "f4"), "bias": np.zeros(2, "f4")}
        >>> weights = {"weight": np.ones((2, 3), "f4"), "bias": np.ones(2, "f4")}
        >>> load_state_dict(target, weights)
        <All keys matched successfully>
        >>> target["bias"]
        array([1., 1.], dtype=float32)
    """
    source, path = _opened(state_dict)
    known = _arrays_of(target)
    missing = [name for name in known if name not in source]
    unexpected: list[str] = []
    wrong = _Wrong()
    pairs: list[tuple[Array, Array]] = []
    for name, value in source.items():
        place: object = None
        if isinstance(name, str):
            place = known[name] if name in known else _look_up(target, name)
        if place is None:
            unexpected.append(name)
            continue
        pair = _checked(name, place, value, cast, wrong)
        if pair is not None:
            pairs.append(pair)
    if wrong or (strict and (missing or unexpected)):
        raise _mismatch(path, target, strict, missing, unexpected, wrong)
    _copy(pairs)
    return IncompatibleKeys(missing, unexpected)


# --------------------------------------------------------------- the state_dict


def _opened(state_dict: object) -> tuple[Mapping[str, Any], str | None]:
    if isinstance(state_dict, str) or hasattr(state_dict, "__fspath__"):
        import os

        from ._api import load

        path = os.fspath(state_dict)
        state_dict = load(path, root="auto")
    else:
        path = getattr(state_dict, "source", None) or getattr(state_dict, "path", None)
    from collections.abc import Mapping

    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "load_state_dict(target, state_dict): the second argument must be a mapping of "
            f"names to arrays or a path, got {type(state_dict).__name__}"
        )
    return state_dict, path if isinstance(path, str) else None


# ------------------------------------------------------------------- the target


def _children(node: object) -> Iterator[tuple[str, object]]:
    from collections.abc import Mapping

    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(key, (str, int)):
                yield str(key), value
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield str(index), value
    else:
        for name, value in getattr(node, "__dict__", {}).items():
            if not name.startswith("_"):
                yield name, value
        for cls in type(node).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if not name.startswith("_") and hasattr(node, name):
                    yield name, getattr(node, name)


def _is_leaf(value: object) -> bool:
    """Things that hold no arrays of a model, and that can be vast."""
    kind = type(value)
    return (
        value is None
        or isinstance(value, (str, bytes, bytearray, int, float, complex, type))
        or kind.__name__ in ("module", "function", "builtin_function_or_method", "method")
        or kind.__module__.partition(".")[0] == "numpy"
    )


def _arrays_of(target: object) -> dict[str, Array]:
    """The arrays of the target by dotted name, in the order of a depth-first walk."""
    import numpy as np

    if isinstance(target, np.ndarray) or _is_leaf(target):
        raise TypeError(
            "load_state_dict(target, state_dict): the target must be a mapping of names to "
            f"arrays or an object with arrays as attributes, got {type(target).__name__}"
        )
    found: dict[str, Array] = {}
    seen = {id(target)}
    stack = [("", _children(target))]
    while stack:
        prefix, children = stack[-1]
        for part, value in children:
            name = prefix + part
            if isinstance(value, np.ndarray):
                if value.dtype.hasobject:
                    continue
                if found.setdefault(name, value) is not value:
                    raise ValueError(f"the target has two arrays named '{printable(name, 200)}'")
            elif not _is_leaf(value) and id(value) not in seen and len(stack) < _DEPTH:
                # Safe though ids are reused: all that is walked stays alive in the target.
                seen.add(id(value))
                stack.append((name + ".", _children(value)))
                break
        else:
            stack.pop()
    return found


def _look_up(target: object, name: str) -> object:
    """What `name` is in the target, looked up part by part; None when there is nothing."""
    from collections.abc import Mapping

    parts = name.split(".", _DEPTH)
    node: Any = target
    for position, part in enumerate(parts):
        if isinstance(node, Mapping):
            rest = ".".join(parts[position:])
            if rest in node:
                found: object = node[rest]
                return found
            key: object = part if part in node else _index(part)
            if key is None or key not in node:
                return None
            node = node[key]
        elif isinstance(node, (list, tuple)):
            index = _index(part)
            if index is None or index >= len(node):
                return None
            node = node[index]
        else:
            try:
                node = getattr(node, part)
            except AttributeError:
                return None
    return node


def _index(part: str) -> int | None:
    return int(part) if len(part) <= 18 and part.isascii() and part.isdigit() else None


# ---------------------------------------------------------------------- checking


class _Wrong:
    """What stands against the copy, by kind; each line ready to be shown."""

    __slots__ = ("dtypes", "others", "shapes")

    def __init__(self) -> None:
        self.shapes: dict[str, str] = {}
        self.dtypes: dict[str, str] = {}
        self.others: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.shapes or self.dtypes or self.others)


def _checked(
    name: str, place: object, value: object, cast: bool, wrong: _Wrong
) -> tuple[Array, Array] | None:
    """(destination, source of the same shape and dtype), or None and a line in `wrong`."""
    import numpy as np

    if not isinstance(place, np.ndarray):
        wrong.others[name] = f"the target has {_kind(place)} there, no array"
        return None
    source = _as_array(value)
    if source is None:
        wrong.others[name] = f"the state_dict has {_kind(value)} there, no array"
        return None
    if source.shape != place.shape:
        wrong.shapes[name] = f"file {source.shape}, target {place.shape}"
        return None
    same = source.dtype.newbyteorder("=") == place.dtype.newbyteorder("=")
    if not same and not cast:
        wrong.dtypes[name] = f"file {source.dtype}, target {place.dtype}"
        return None
    if not same and not _can_cast(source.dtype, place.dtype):
        wrong.dtypes[name] = f"file {source.dtype}, target {place.dtype}, another kind"
        return None
    if not place.flags.writeable:
        wrong.others[name] = "the target's array is read-only"
        return None
    repeats = any(n > 1 and s == 0 for n, s in zip(place.shape, place.strides, strict=True))
    if repeats and place.size:
        wrong.others[name] = "the target's array repeats one element (stride 0)"
        return None
    # Convert before the first copy: a warning turned into an error must leave all as it was.
    return place, source if same else source.astype(place.dtype)


def _as_array(value: object) -> Array | None:
    import numpy as np

    if not isinstance(value, np.ndarray):
        if isinstance(value, (dict, list, tuple, set, str, bytes)) or value is None:
            return None
        try:
            value = np.asarray(value)
        except (TypeError, ValueError):
            return None
    return None if value.dtype.hasobject else value


def _can_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """NumPy's "same_kind"; the types of ml_dtypes count as the kind that they are.

    NumPy itself would let complex64 become bfloat16, and refuse float16 from bfloat16.
    """
    import numpy as np

    if source.isbuiltin == 1 and target.isbuiltin == 1:
        return np.can_cast(source, target, "same_kind")
    ranks = _rank(source), _rank(target)
    return -1 not in ranks and ranks[0] <= ranks[1]


def _rank(dtype: np.dtype[Any]) -> int:
    if dtype.isbuiltin != 2:
        return "buifc".find(dtype.kind) if dtype.isbuiltin == 1 else -1
    name = dtype.name
    for start, kind in (("uint", "u"), ("int", "i"), ("float", "f"), ("bfloat", "f")):
        if name.startswith(start):
            return "buifc".find(kind)
    return -1


# ----------------------------------------------------------------------- copying


def _bounds(array: Array) -> tuple[int, int]:
    """First and last-plus-one address of the array's bytes; strides may be negative."""
    low = high = array.__array_interface__["data"][0]
    for size, stride in zip(array.shape, array.strides, strict=True):
        if size == 0:
            return low, low
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return low, high + array.itemsize


def _copy(pairs: Iterable[tuple[Array, Array]]) -> None:
    """Fill each destination; a source that lies in any destination is copied aside first."""
    from bisect import bisect_right

    pairs = list(pairs)
    starts: list[int] = []
    ends: list[int] = []
    for low, high in sorted(_bounds(place) for place, _ in pairs):
        if ends and low < ends[-1]:
            ends[-1] = max(ends[-1], high)
        elif low < high:
            starts.append(low)
            ends.append(high)
    safe: list[tuple[Array, Array]] = []
    for place, source in pairs:
        low, high = _bounds(source)
        before = bisect_right(starts, high - 1) - 1
        if before >= 0 and ends[before] > low:
            source = source.copy()
        safe.append((place, source))
    for place, source in safe:
        place[...] = source


# ------------------------------------------------------------------------- texts


def _mismatch(
    path: str | None,
    target: object,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    wrong: _Wrong,
) -> MismatchError:
    evidence: list[str] = []
    for sentence, kind in (
        ("size mismatch for", wrong.shapes),
        ("dtype mismatch for", wrong.dtypes),
        ("cannot copy", wrong.others),
    ):
        for shown, (name, text) in enumerate(kind.items()):
            if shown == _LISTED:
                evidence.append(f"{sentence} {len(kind) - shown:,} more")
                break
            evidence.append(f"{sentence} {printable(name, 200)}: {text}")
    hints = []
    if strict and (missing or unexpected):
        hints.append("strict=False ignores missing and unexpected keys")
    if wrong.shapes:
        hints.append("shapes must match")
    if wrong.dtypes:
        hints.append("cast=True converts dtypes within a kind")
    return MismatchError(
        f"does not fit the {type(target).__name__} target; nothing was copied",
        path=path,
        evidence=evidence,
        hint="; ".join(hints),
        missing_keys=missing if strict else (),
        unexpected_keys=map(str, unexpected) if strict else (),
        mismatched=[*wrong.shapes, *wrong.dtypes, *wrong.others],
    )


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
