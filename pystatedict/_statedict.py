"""StateDict: what a state_dict is in torch, as a dict of NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from pystatedict._errors import MissingTensorError
from pystatedict._marks import BUFFER, MARKS, bits_of, flag_of, mark_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from pystatedict._core import TensorInfo
    from pystatedict._opened import Archive


class Parameter:
    """One entry of :meth:`StateDict.named_parameters`: an array and what is known of it.

    Not an array itself: ``data`` is.  ``requires_grad`` is True, False, or None when
    nobody has said.
    """

    __slots__ = ("data", "name", "requires_grad")

    def __init__(self, name: str, data: npt.NDArray[Any], requires_grad: bool | None) -> None:
        self.name = name
        self.data = data
        self.requires_grad = requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def numel(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        from pystatedict._dtypes import converted

        return converted(self.data, dtype, copy)

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape}, requires_grad={self.requires_grad})"


class Trainable(MutableMapping[str, "bool | None"]):
    """Which entries of a StateDict are trainable: True, False, or None (nobody has said).

    A view: its keys are those of the StateDict, and setting None forgets what was said.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: StateDict) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> bool | None:
        owner = self._owner
        if name not in owner:
            raise MissingTensorError(
                f"no tensor {name!r} in the state_dict", path=owner.source, key=str(name)
            )
        if name in owner._said:
            return owner._said[name]
        told = owner._told()  # of names that are text or numbers; an array knows its own
        return flag_of(told[name] if name in told else mark_of(owner[name]))

    def __setitem__(self, name: str, flag: bool | None) -> None:
        owner = self._owner
        if name not in owner:
            raise MissingTensorError(
                f"no tensor {name!r} in the state_dict", path=owner.source, key=str(name)
            )
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"a trainable flag is True, False or None, not {flag!r}")
        owner._said[name] = flag

    def __delitem__(self, name: str) -> None:
        self[name] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)

    def __repr__(self) -> str:
        return repr({**dict.fromkeys(self._owner), **self._owner._spoken()})


class StateDict(dict[Any, Any]):
    """A mapping of names to arrays, in file order, with what torch keeps beside them.

    A real ``dict``: every array in it is there, nothing is made on access.

    >>> import numpy as np
    >>> sd = StateDict({"fc.weight": np.zeros((2, 3), "f4"), "fc.bias": np.zeros(2, "f4")})
    >>> sd.freeze("*.bias")
    ['fc.bias']
    >>> sd.trainable["fc.bias"], sd.trainable["fc.weight"]
    (False, None)
    """

    __slots__ = ("__weakref__", "_archive", "_info_of", "_ordered", "_ref", "_said", "_told_bits",
                 "attributes", "metadata", "source", "tensor_attributes")  # fmt: skip

    _archive: Archive | None

    def __init__(
        self,
        items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        /,
        *,
        metadata: Any = None,
        trainable: Mapping[str, bool | None] | None = None,
    ) -> None:
        super().__init__(items)
        #: torch's ``_metadata`` (module versions by prefix), or None; written back by save().
        self.metadata: Any = metadata
        #: other attributes that the mapping had when it was saved.
        self.attributes: dict[str, Any] = {}
        #: Python attributes of tensors, by name: what Parameters and Buffers carried.
        self.tensor_attributes: dict[Any, dict[Any, Any]] = {}
        #: the file it came from, or None.
        self.source: str | None = None
        self._archive = None
        self._ref = 0
        self._ordered = True  # written as an OrderedDict, as model.state_dict() is
        self._info_of: dict[Any, TensorInfo] | None = None
        self._said: dict[Any, bool | None] = {}
        self._told_bits: dict[Any, int] | None = None
        if isinstance(items, StateDict):
            self.metadata = items.metadata if metadata is None else metadata
            self.attributes.update(items.attributes)
            self.tensor_attributes.update(items.tensor_attributes)
            self.source = items.source
            self._archive, self._ref, self._info_of = items._archive, items._ref, items._info_of
            self._ordered = items._ordered
            self._said.update(items._said)
            self._told_bits = items._told_bits
        for name, flag in (trainable or {}).items():
            self.trainable[name] = flag

    @classmethod
    def _born(cls, archive: Archive, ordered: bool, ref: int) -> StateDict:
        """An empty one of an archive's value `ref`; the core fills it."""
        self = cls()
        self._archive = archive
        self._ref = ref
        self._ordered = ordered
        self.source = archive.path
        return self

    def _set_attributes(self, state: Any) -> None:
        """What BUILD tells: the attributes of an OrderedDict."""
        if isinstance(state, dict):
            attributes = dict(state)
            self.metadata = attributes.pop("_metadata", self.metadata)
            self.attributes.update(attributes)

    @property
    def _metadata(self) -> Any:
        """By torch's own name, so that ``Module.load_state_dict`` finds it."""
        return self.metadata

    # -------------------------------------------------------------- what the file told

    def _infos(self) -> dict[Any, TensorInfo]:
        if self._info_of is None:
            self._info_of = {} if self._archive is None else self._archive.direct(self._ref)
        return self._info_of

    def _told(self) -> dict[Any, int]:
        """By name, what the pickle told: bits as in `_marks`, where there are any."""
        if self._told_bits is None:
            bits = {name: bits_of(info) for name, info in self._infos().items()}
            self._told_bits = {name: some for name, some in bits.items() if some}
        return self._told_bits

    def info(self, name: str) -> TensorInfo:
        """What the file tells of the tensor `name`: dtype, stride, storage, device, ...

        Raises MissingTensorError for a name that the file had not.
        """
        infos = self._infos()
        if name not in infos:
            from difflib import get_close_matches

            close = get_close_matches(str(name), [str(k) for k in infos][:2000], 3)
            raise MissingTensorError(
                f"the file tells of no tensor {name!r}",
                path=self.source,
                key=str(name),
                suggestions=close,
            )
        return infos[name]

    # -------------------------------------------------------------- trainable flags

    @property
    def trainable(self) -> Trainable:
        """Which tensors are trainable, by name; see :class:`Trainable`."""
        return Trainable(self)

    def _spoken(self) -> dict[Any, bool]:
        """What `trainable` says, without the entries of which nobody has said anything."""
        flags: dict[Any, bool | None] = {}
        if MARKS:
            flags = {key: flag_of(mark_of(value)) for key, value in self.items()}
        flags.update((key, flag_of(bits)) for key, bits in self._told().items())
        flags.update(self._said)
        if not flags:
            return {}
        spoken = {key: flags.get(key) for key in self}
        return {key: flag for key, flag in spoken.items() if flag is not None}

    def _set_matching(self, pattern: str, flag: bool) -> list[str]:
        from fnmatch import fnmatchcase

        names = [
            key
            for key, value in self.items()
            if isinstance(key, str) and fnmatchcase(key, pattern) and hasattr(value, "__array__")
        ]
        for name in names:
            self._said[name] = flag
        return names

    def freeze(self, pattern: str = "*") -> list[str]:
        """Say that the tensors whose names match the glob are not trained; gives the names."""
        return self._set_matching(pattern, False)

    def unfreeze(self, pattern: str = "*") -> list[str]:
        """Say that the tensors whose names match the glob are trained; gives the names."""
        return self._set_matching(pattern, True)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) for every tensor but those known to be buffers.

        The tutorial's second method, without the model:

        >>> import numpy as np
        >>> sd = StateDict({"w": np.zeros(2, "f4")}, trainable={"w": True})
        >>> [(name, p.shape, p.requires_grad) for name, p in sd.named_parameters()]
        [('w', (2,), True)]
        """
        told, flags = self._told(), self.trainable
        for name, value in self.items():
            if hasattr(value, "__array__") and not told.get(name, 0) & BUFFER:
                yield name, Parameter(name, value, flags[name])

    # -------------------------------------------------------------- as a dict

    def copy(self) -> StateDict:
        """A shallow copy that keeps metadata, attributes, flags and origin."""
        return StateDict(self)

    __copy__ = copy

    def __reduce__(self) -> Any:
        state = (self.metadata, self.attributes, dict(self._said), self.source, self._ordered,
                 self.tensor_attributes, self._told())  # fmt: skip
        return _rebuild, (dict(self), state)

    def __repr__(self) -> str:
        where = "" if self.source is None else f" from {self.source!r}"
        count = len(self)
        return f"<StateDict of {count} entr{'y' if count == 1 else 'ies'}{where}>"


def _rebuild(items: dict[Any, Any], state: tuple[Any, ...]) -> StateDict:
    """Unpickle, as multiprocessing and copy.deepcopy do."""
    self = StateDict(items)
    self.metadata, self.attributes, self._said, self.source, self._ordered = state[:5]
    self.tensor_attributes, self._told_bits = state[5:]
    return self
