# SPDX-License-Identifier: Apache-2.0
"""What a plain name is asked for, by what a pickle calls it with.

A few names of the *plain* list make a plain value of honest arguments, and something else of
others: memory without end (`bytearray(10**12)`), whatever a codec does (`_codecs.encode`),
whatever lies in some bytes (`torch.storage._load_from_bytes`).  `getattr` does nothing by
itself, and leads to everything.  Arguments are as scan_pickle in _core.pyi tells them.
"""

from __future__ import annotations

import re

from ._globals import leads_on, normalise, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Name = tuple[str, str]
    Arguments = tuple[tuple[Any, ...], ...]
    Call = tuple[tuple[Name, Arguments | None], int]

    # ("unknown" or "dangerous", why), or None where nothing is wrong
    Finding = tuple[str, str] | None

__all__ = ["GETATTR", "MOST_ITEMS", "PAYLOAD", "WATCHED", "Asked"]

MOST_ITEMS = 1 << 28  # that the calls of one file may ask for

PAYLOAD = ("torch.storage", "_load_from_bytes")
GETATTR = ("builtins", "getattr")

_CODECS = words("latin1 latin-1 iso-8859-1 iso8859-1 8859 ascii us-ascii utf-8 utf8")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ARRAYS = {(core, "_reconstruct") for core in _MULTIARRAY} | {
    ("numpy", "ndarray"),
    ("numpy", "void"),
    ("numpy.ma.core", "_mareconstruct"),
}
_DTYPE = ("numpy", "dtype")

_KINDS = words("Double Float Half BFloat16 Long Int Short Char Byte Bool")
_MORE_KINDS = words(
    "ComplexFloat ComplexDouble QInt8 QUInt8 QInt32 QUInt4x2 QUInt2x4 Untyped _Untyped Typed _Typed"
)
_OF_TORCH = {kind + "Storage" for kind in _KINDS | _MORE_KINDS}
_OF_TORCH |= {kind + "Tensor" for kind in _KINDS} | {"Tensor"}

# Names that make as many items as a number among their arguments says.
_SIZED: frozenset[Name] = frozenset(
    [("builtins", name) for name in ("bytearray", "bytes", "range")]
    + [(m, name) for m in ("torch", "torch.cuda", "torch.storage") for name in sorted(_OF_TORCH)]
    + [*sorted(_ARRAYS), _DTYPE]
)
# Names that go through all that a value holds, as often as it stands there.
_THROUGH: frozenset[Name] = frozenset(
    [("builtins", "str")]
    + [("numpy", name) for name in words("str_ bytes_ object_ bool_ float64 float32 int64")]
)

# Names that call their first argument with others: those from a place on, or those in the
# tuple at that place.
_CALLERS: dict[Name, tuple[int, bool]] = {
    ("copyreg", "__newobj__"): (1, False),
    ("copyreg", "__newobj_ex__"): (1, True),
    ("torch._tensor", "_rebuild_from_type"): (2, True),
    ("torch._tensor", "_rebuild_from_type_v2"): (2, True),
    ("torch.tensor", "_rebuild_from_type"): (2, True),
    ("torch.tensor", "_rebuild_from_type_v2"): (2, True),
}


class Asked:
    """What the calls of one pickle ask for.

    Attributes:
        findings: (verdict, why) by name, as the file spells it: the gravest.
        payloads: places in the list of bytes within, from 1, of what torch is to load.
        items: how many all calls ask for together, what was asked `before` included.
    """

    def __init__(self, calls: Iterable[Call], before: int = 0) -> None:
        self.findings: dict[Name, tuple[str, str]] = {}
        self.payloads: set[int] = set()
        self.items = before
        told = [(*_callee(spelled, given), count) for (spelled, given), count in calls]
        self._unit = max(
            (_most(given) for spelled, given, _ in told if given and spelled == _DTYPE),
            default=1,
        )
        for spelled, given, count in told:
            self._judge(spelled, given, count)

    def _judge(self, spelled: Name, given: Arguments | None, count: int) -> None:
        name = normalise(*spelled)
        if given is None:
            self._note(spelled, ("unknown", "is called with what is no tuple"))
            return
        if name in _RULES:
            self._note(spelled, _RULES[name](given))
        if name in _SIZED:
            self._count(spelled, name, given, count)
        if name in _THROUGH and any(kind in ("items", "other") for kind, *_ in given):
            self._note(spelled, ("unknown", "goes through all that a value holds"))
        if name == PAYLOAD:
            self._payload(spelled, given)

    def _note(self, spelled: Name, finding: Finding) -> None:
        before = self.findings.get(spelled)
        if finding is not None and (before is None or before[0] == "unknown"):
            self.findings[spelled] = finding

    def _count(self, spelled: Name, name: Name, given: Arguments, count: int) -> None:
        of_torch = name[0].startswith("torch")
        if of_torch and any(kind in ("items", "other", "bytes") for kind, *_ in given):
            self._note(spelled, ("unknown", "is called with more than numbers"))
        items = _most(given) if name[1] in ("range", "dtype") else _product(given)
        self.items += count * items * (self._unit if name in _ARRAYS else 1)
        if self.items > MOST_ITEMS:
            self._note(spelled, ("unknown", f"asks for more than {MOST_ITEMS:,} items"))
        if name in _ARRAYS and _claims(given):
            self._note(spelled, ("unknown", "asks for more items than it is given"))

    def _payload(self, spelled: Name, given: Arguments) -> None:
        if given and given[0][0] == "bytes" and given[0][1] > 0:
            self.payloads.add(given[0][1])
        else:
            self._note(spelled, ("unknown", "is given nothing that torch could load"))


def _callee(spelled: Name, given: Arguments | None) -> tuple[Name, Arguments | None]:
    """What is called in the end, and with what."""
    name = normalise(*spelled)
    if not given:
        return spelled, given
    if name == ("copyreg", "_reconstructor") and len(given) > 2 and given[1][0] == "global":
        return given[1][1], given[2:3]
    if name not in _CALLERS or given[0][0] != "global":
        return spelled, given
    place, within = _CALLERS[name]
    if not within:
        return given[0][1], given[place:]
    whole = given[place] if len(given) > place else ("other", None)
    return given[0][1], whole[2] if whole[0] == "items" else None


# ------------------------------------------------------------------------------- numbers


def _flat(given: Arguments) -> Iterator[tuple[Any, ...]]:
    for argument in given:
        if argument[0] == "items":
            yield from argument[2]
        elif argument[0] != "state":
            yield argument


def _product(given: Arguments) -> int:
    if any(argument[0] == "items" and argument[1] > len(argument[2]) for argument in given):
        return MOST_ITEMS + 1  # more dimensions than are told
    product = 1
    for kind, value, *_ in _flat(given):
        if kind == "int" and product <= MOST_ITEMS:
            product *= max(value, 1)
    return product


def _most(given: Arguments) -> int:
    """The largest number, also of those in a text such as 'V100'."""
    numbers = [1]
    for kind, value, *_ in _flat(given):
        if kind == "int":
            numbers.append(value)
        elif kind == "text":
            digits = re.findall(r"[0-9]+", value) if value is not None else ["9" * 18]
            numbers += [int(number) for number in digits]
    return max(numbers)


def _claims(given: Arguments) -> bool:
    """Whether the state of an array claims more objects than it holds."""
    state: Arguments = given[-1][1] if given and given[-1][0] == "state" else ()
    shapes = [item[2] for item in state[:2] if item[0] == "items"]
    if not shapes or state[-1][0] != "items":
        return False
    product = 1
    for kind, value, *_ in shapes[0]:
        product *= value if kind == "int" else 1
    held: int = state[-1][1]
    return product > held


# --------------------------------------------------------------------------------- rules


def _encode(given: Arguments) -> Finding:
    kinds = [argument[0] for argument in given]
    if kinds[:1] != ["text"] or kinds[1:2] not in ([], ["text"]):
        return "unknown", "is given something else than texts"
    codec = given[1][1] if len(given) > 1 else "utf-8"
    if codec is None or codec.lower().replace("_", "-") not in _CODECS:
        return "unknown", f"is asked for the codec {str(codec)!r}"
    return None


def _getattr(given: Arguments) -> Finding:
    if len(given) < 2 or given[1][0] != "text" or given[1][1] is None:
        return "dangerous", "is asked for an attribute that is not told"
    attribute = given[1][1]
    if given[0][0] != "global" and attribute in ("eval", "compile"):
        return None  # methods of every torch.nn.Module
    if any(leads_on(part) for part in attribute.split(".")):
        return "dangerous", f"is asked for {attribute!r}"
    return None


def _scalar(given: Arguments) -> Finding:
    if len(given) < 2 or given[1][0] != "bytes":
        return "unknown", "is given no bytes"
    return None


def _fraction(given: Arguments) -> Finding:
    for kind, value, *_ in given:
        if kind == "text" and (value is None or "e" in value.lower()):
            return "unknown", "is asked for a power of ten"
    return None


def _nothing(given: Arguments) -> Finding:
    if any(argument[0] != "state" for argument in given):
        return "unknown", "is called with arguments"
    return None


_RULES: dict[Name, Callable[[Arguments], Finding]] = {
    ("_codecs", "encode"): _encode,
    GETATTR: _getattr,
    ("fractions", "Fraction"): _fraction,
    ("torch.distributed.device_mesh", "DeviceMesh"): _nothing,
    **{(core, "scalar"): _scalar for core in _MULTIARRAY},
}

_NAMES = frozenset(_RULES) | _SIZED | _THROUGH | frozenset(_CALLERS)
_NAMES |= {PAYLOAD, ("copyreg", "_reconstructor")}
_OLD = {"builtins": "__builtin__", "copyreg": "copy_reg"}

# What the core is to tell the calls of, in every spelling.
WATCHED = _NAMES | {(_OLD[module], name) for module, name in _NAMES if module in _OLD}
