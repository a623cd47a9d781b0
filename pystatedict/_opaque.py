"""What a pickle names and nobody runs: an inert stand-in for an object of unknown class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pystatedict._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BIRTHS = itertools.count()


class Opaque:
    """An object whose class is not known here, kept as the pickle tells of it.

    Nothing is imported or called to make one.  The tensors inside stay reachable, and
    ``save(..., opaque=True)`` writes it back as it was.

    Attributes:
        module, name: the class or function that the pickle names; for the result of
            something that is itself opaque, ``module`` is None and ``name`` is that.
        args: the arguments of the call, a tuple; None when the name itself is the value.
        kwargs: keyword arguments, a dict, or None.
        state: what BUILD would have set: mostly a dict of attributes, or None.
        items: what SETITEMS would have set, a dict.
        appends: what APPENDS would have appended, a list.
        form: "global", "reduce" (a call) or "newobj" (``cls.__new__(cls, *args)``).

    Entries of a dict in ``state`` can be read as attributes, items and elements by
    subscript:

    >>> o = Opaque("argparse2", "Options", args=())
    >>> o.state = {"lr": 0.1}
    >>> o.lr
    0.1
    >>> o
    <Opaque argparse2.Options(): 1 attribute>
    """

    __slots__ = (
        "__weakref__", "_birth", "_hashes", "_state_dict", "_untold", "appends", "args", "form",
        "items", "kwargs", "module", "name", "state",
    )  # fmt: skip

    def __init__(
        self,
        module: str | None,
        name: Any,
        args: Any = None,
        kwargs: dict[Any, Any] | None = None,
        form: str = "reduce",
    ) -> None:
        self.module = module
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        self.appends: list[Any] = []
        self._hashes: dict[int, int] = {}  # how many keys of each hash were set
        self._state_dict: Any = None
        self._untold: Any = ()
        self._birth = next(_BIRTHS)  # orders those of one set that are told alike
        self.form = "global" if args is None else form

    @property
    def qualified_name(self) -> str:
        """``module.name``, or the name alone of something that has no module."""
        if self.module is None:
            return f"{type(self.name).__name__} object"
        return f"{self.module}.{self.name}"

    def _attributes(self) -> dict[Any, Any]:
        state = self.state
        if isinstance(state, dict):
            return state
        if isinstance(state, tuple) and len(state) == 2:
            merged: dict[Any, Any] = {}
            for part in state:
                if isinstance(part, dict):
                    merged.update(part)
            return merged
        return {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            attributes = self._attributes()
            if name in attributes:
                return attributes[name]
        raise AttributeError(f"{self.qualified_name} (opaque) has no attribute {name!r}")

    def __getitem__(self, key: Any) -> Any:
        # A slice cannot be hashed before CPython 3.12, so it is no question for `items`.
        if isinstance(key, slice):
            return self.appends[key]
        if key in self.items:
            return self.items[key]
        if isinstance(key, int) and self.appends:
            return self.appends[key]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        # Arrays are not asked whether they equal something: each element would answer.
        found = any(
            part is key or (not hasattr(type(part), "__array__") and part == key)
            for part in self.appends
        )
        return found or (bool(self.items) and key in self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items or self.appends)

    def __len__(self) -> int:
        return len(self.items) + len(self.appends)

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(k for k in self._attributes() if isinstance(k, str))]

    def __repr__(self) -> str:
        text = printable(self.qualified_name)
        if self.form == "global":
            return f"<Opaque {text}>"
        told = []
        for count, what in (
            (len(self._attributes()), "attribute"),
            (len(self.items), "item"),
            (len(self.appends), "element"),
        ):
            if count:
                told.append(f"{count} {what}{'s' if count > 1 else ''}")
        call = "()" if isinstance(self.args, tuple) and not self.args else "(...)"
        return f"<Opaque {text}{call}{': ' if told else ''}{', '.join(told)}>"


class Unbuilt(Opaque):
    """A call whose result is known once BUILD tells its state; until then an Opaque as any."""

    __slots__ = ()

    def build(self, state: Any) -> Any:
        """What it becomes; Untold where it stays an Opaque."""
        raise NotImplementedError


class Own(Opaque):
    """A name or call that this package itself writes, so it needs no leave."""

    __slots__ = ()


class OpaqueModule(Opaque):
    """A whole ``torch.nn.Module`` (or a bound method of one) that stood in a pickle.

    No class is imported; its attributes can be read, and :meth:`state_dict` gives its
    weights.
    """

    __slots__ = ()

    def state_dict(self) -> Any:
        """What the module's own ``state_dict()`` would give: names, values and order.

        A :class:`StateDict` with the trainable flags, whose arrays are those of this object.
        Code is not run: of hooks that change a state_dict, and of children whose class tells
        its weights in a way of its own, a StateDictWarning says that they are missing.
        Raises LimitError when modules share their children so that names multiply.
        """
        if self._state_dict is None:
            from pystatedict._errors import LimitError

            raise LimitError("the state_dict of this module would be too large", hint="")
        warn_of_untold(self._untold)
        return self._state_dict


def warn_of_untold(untold: Any) -> None:
    """Warn of (path, what, is it a hook?) that the state_dict of a module may lack."""
    if not untold:
        return
    from pystatedict._errors import warn

    told = [
        f"{printable(path) or 'the model'} ({printable(what) or 'unknown'}"
        f"{', a hook' if is_hook else ''})"
        for path, what, is_hook in untold
    ]
    warn(
        "the state_dict of the model is told without what only its code could tell, and no code"
        f" is run here: {', '.join(told)}. The tensors that are there are right; save it with"
        " torch.save(model.state_dict(), f) to have all."
    )
