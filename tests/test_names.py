# SPDX-License-Identifier: Apache-2.0
"""Names in pickles: Python 2's, those of classes within classes, and how both are written."""

from __future__ import annotations

import _compat_pickle
import enum
import io
import pickle
import sys
import types
from typing import Any

import kit
import pytest
from test_values import raw_archive

import pystatedict as psd
from pystatedict._globals import _MODULES, _NAMES, normalise, spelled

# Python 3.13 has no tkinter.tix any more, nor its row.
GONE = {"Tix"}


def as_cpython_maps(module: str, name: str) -> tuple[str, str]:
    """What the unpickler of Python 3 looks for, asked of itself."""

    class Asked(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__(io.BytesIO(), fix_imports=True)
            self.proto = 2

    found: list[tuple[str, str]] = []

    class Modules(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            class Any_:
                def __getattr__(self, attribute: str) -> None:
                    found.append((key, attribute))

            return Any_()

    asked = Asked()
    find = types.FunctionType(
        pickle._Unpickler.find_class.__code__,  # type: ignore[attr-defined,unused-ignore]
        {
            **vars(pickle),
            "__import__": lambda *_, **__: None,
            "sys": types.SimpleNamespace(modules=Modules(), audit=lambda *_: None),
        },
    )
    find(asked, module, name)
    return found[0]


# ------------------------------------------------------------------ Python 2's names


@pytest.mark.parametrize("module", sorted(set(_compat_pickle.IMPORT_MAPPING) - GONE))
def test_modules_that_have_other_names(module: str) -> None:
    expected = (_compat_pickle.IMPORT_MAPPING[module], "AnyName")
    assert normalise(module, "AnyName") == expected == as_cpython_maps(module, "AnyName")
    assert normalise(module, "AnyName", protocol=3) == (module, "AnyName")


@pytest.mark.parametrize("pair", sorted(_compat_pickle.NAME_MAPPING), ids=".".join)
def test_names_that_have_other_names(pair: tuple[str, str]) -> None:
    expected = _compat_pickle.NAME_MAPPING[pair]
    assert normalise(*pair) == expected == as_cpython_maps(*pair)
    assert normalise(*pair, protocol=4) == pair


def test_no_row_of_our_own() -> None:
    assert set(_MODULES) <= set(_compat_pickle.IMPORT_MAPPING)
    assert set(_NAMES) <= set(_compat_pickle.NAME_MAPPING)
    for pair in (("torch", "Size"), ("exceptions", "MyError"), ("os", "getcwd"), ("dbm.x", "y")):
        assert normalise(*pair) == pair == as_cpython_maps(*pair)


@pytest.mark.parametrize(
    "pair",
    sorted({*_compat_pickle.REVERSE_NAME_MAPPING} - {("_functools", "reduce")}),
    ids=".".join,
)
def test_python_3_names_are_read_as_they_were_meant(pair: tuple[str, str]) -> None:
    """What is written in protocol 2 comes back as what it was, or is not written."""
    written = spelled(*pair)
    if written is not None:
        assert as_cpython_maps(*written) == pair


@pytest.mark.parametrize("module", sorted(_compat_pickle.REVERSE_IMPORT_MAPPING))
def test_python_3_modules_are_read_as_they_were_meant(module: str) -> None:
    written = spelled(module, "AnyName")
    assert written is not None
    assert as_cpython_maps(*written) == (module, "AnyName")


def opaque_in(protocol: int, module: str, name: str) -> Any:
    named = f"c{module}\n{name}\n".encode()
    program = b"\x80" + bytes([protocol]) + kit.dict_of({"o": named + b")R"}) + b"."
    return psd.load(raw_archive(program))["o"]


def test_names_of_python_2_are_those_of_their_protocols() -> None:
    for protocol in (0, 1, 2):
        found = opaque_in(protocol, "UserDict", "UserDict")
        assert found.qualified_name == "collections.UserDict"
        assert opaque_in(protocol, "exceptions", "KeyError").module == "builtins"
        assert opaque_in(protocol, "itertools", "izip").qualified_name == "builtins.zip"
        assert opaque_in(protocol, "__builtin__", "set") == set()
    for protocol in (3, 4, 5):
        found = opaque_in(protocol, "UserDict", "UserDict")
        assert found.qualified_name == "UserDict.UserDict"
        assert isinstance(opaque_in(protocol, "__builtin__", "set"), psd.Opaque)


def test_modules_of_ones_own_that_python_2_had() -> None:
    """A module `Queue` of somebody's own would be read as another."""
    found = opaque_in(4, "Queue", "Job")
    assert found.qualified_name == "Queue.Job"
    with pytest.raises(TypeError, match=r"Queue\.Job.*no way to name it"):
        kit.saved(found, opaque=True)
    found = psd.Opaque("dbm", "error", ())
    assert b"anydbm\nerror\n" in kit.pickle_in(kit.saved(found, opaque=True))


# ------------------------------------------------------------------ names with dots


class Outer:
    class Inner:
        class Deep:
            pass

        def __init__(self, x: int = 0) -> None:
            self.x = x

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Outer.Inner) and other.x == self.x

        __hash__ = None  # type: ignore[assignment]

    class Color(enum.Enum):
        RED = 1

    @classmethod
    def make(cls) -> int:
        return 3


WITHIN = {
    "class": Outer.Inner,
    "class in a class": Outer.Inner.Deep,
    "instance": Outer.Inner(5),
    "member": Outer.Color.RED,
    "method": Outer.make,
    "several": [Outer.Inner(1), Outer.Inner(2), Outer.Inner, Outer.Inner.Deep],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", sorted(WITHIN))
def test_classes_within_classes(name: str, protocol: int) -> None:
    value = WITHIN[name]
    found = psd.load(raw_archive(pickle.dumps({"v": value}, protocol)))
    saved = kit.saved(found, opaque=True)
    assert pickle.loads(kit.pickle_in(saved))["v"] == value
    again = psd.load(saved)
    assert repr(again["v"]) == repr(found["v"])
    assert kit.saved(again, opaque=True) == saved


@pytest.mark.parametrize("protocol", [2, 4])
def test_both_spellings_are_one_name(protocol: int) -> None:
    """Below protocol 4 a class within a class is fetched by getattr."""
    found = psd.load(raw_archive(pickle.dumps([Outer.Inner, Outer.Inner(5)], protocol)))
    kind, one = found
    assert (kind.module, kind.name, kind.form) == (__name__, "Outer.Inner", "global")
    assert (one.module, one.name, one.form) == (__name__, "Outer.Inner", "newobj")
    assert one.x == 5
    assert repr(kind) == f"<Opaque {__name__}.Outer.Inner>"


def test_names_are_fetched_once() -> None:
    found = psd.load(raw_archive(pickle.dumps([Outer.Inner(i) for i in range(100)], 4)))
    assert kit.pickle_in(kit.saved(found, opaque=True)).count(b"getattr") == 1


def test_a_name_that_is_fetched_from_something_else_is_a_call() -> None:
    method = kit.call("__builtin__", "getattr", kit.call("my.mod", "make"), kit.text("run"))
    odd = kit.call("__builtin__", "getattr", kit.named("my.mod", "Kind"), kit.text("a.b"))
    default = kit.call("__builtin__", "getattr", kit.named("my.mod", "K"), kit.text("a"), b"N")
    for body in (method, odd, default):
        found = psd.load(kit.archive(body))
        assert found.qualified_name == "builtins.getattr"
        assert seen(kit.saved(found, opaque=True)) == seen(kit.archive(body))


def seen(data: bytes) -> Any:
    return repr(psd.load(data)), psd.load(data).args[1:]


def test_names_do_not_grow_without_end() -> None:
    """Each step would copy a longer name: from a length on they are calls."""
    steps = (kit.text("a" * 50) + b"\x86R") * 3000
    body = kit.named("__builtin__", "getattr") * 3000 + kit.named("my.mod", "Kind") + steps
    part = psd.load(kit.archive(body))
    length = 0
    while part.form != "global":
        length += 1
        part = part.args[0]
    assert 2900 < length < 3000
    assert len(part.name) <= 1000


def test_torchs_names_with_dots() -> None:
    """A memory format in protocol 4 is a name with a dot in some module of torch's."""
    program = b"\x80\x04\x8c\x0ctorch._utils\x8c\x13torch.channels_last\x93\x85."
    (found,) = psd.load(raw_archive(program))
    assert found.qualified_name == "torch._utils.torch.channels_last"
    again = kit.saved([found], opaque=True)
    assert b"ctorch._utils\ntorch\n" in kit.pickle_in(again)
    torch = pytest.importorskip("torch")
    (value,) = torch.load(io.BytesIO(again), weights_only=False)
    assert value is torch.channels_last


def test_this_module_is_the_one_that_pickle_finds() -> None:
    assert sys.modules[__name__].Outer is Outer  # type: ignore[attr-defined]
