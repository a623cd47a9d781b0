# SPDX-License-Identifier: Apache-2.0
"""The stub tells the truth about the extension, and a type checker can use the package."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
import subprocess
import sys
import sysconfig
import types
from typing import Any

import pytest
from isolated import run

import pystatedict as psd
from pystatedict import _core

STUB = pathlib.Path(_core.__file__).with_name("_core.pyi")
TREE = ast.parse(STUB.read_text(encoding="utf-8"))

# What a stub writes as a method of that name stands in another slot of the type.
SLOTS = {"__new__", "__buffer__", "__getitem__"}


def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef)}


def functions(body: list[ast.stmt]) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)


def constants() -> set[str]:
    found = (node.target for node in TREE.body if isinstance(node, ast.AnnAssign))
    return {target.id for target in found if isinstance(target, ast.Name)}


def spelled(node: ast.FunctionDef) -> list[tuple[str, str, Any]]:
    """(name, kind, default) of each argument as the stub writes them."""
    args = node.args
    assert args.vararg is None
    assert args.kwarg is None
    positional = [(a, "positional") for a in args.posonlyargs] + [(a, "any") for a in args.args]
    none: list[Any] = [inspect.Parameter.empty] * (len(positional) - len(args.defaults))
    defaults = none + [ast.literal_eval(d) for d in args.defaults]
    rows = [(a.arg, kind, d) for (a, kind), d in zip(positional, defaults, strict=True)]
    for a, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        value = inspect.Parameter.empty if default is None else ast.literal_eval(default)
        rows.append((a.arg, "keyword", value))
    if rows and rows[0][0] in ("self", "cls"):
        rows = rows[1:]
    return rows


def real(function: Any) -> list[tuple[str, str, Any]]:
    """The same as the running extension tells them."""
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
    }
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    return [(p.name, kinds[p.kind], p.default) for p in parameters]


# ------------------------------------------------------------------ names


def test_names_of_the_module() -> None:
    told = {*classes(), *functions(TREE.body), *constants()}
    assert {n for n in dir(_core) if not n.startswith("__")} == told


@pytest.mark.parametrize("name", sorted(classes()))
def test_names_of_a_class(name: str) -> None:
    told = functions(classes()[name].body)
    members = {n: m for n, m in vars(getattr(_core, name)).items() if n != "__doc__"}
    properties = {n for n, m in members.items() if isinstance(m, types.GetSetDescriptorType)}
    kinds = (types.MethodDescriptorType, types.ClassMethodDescriptorType)
    methods = {n for n, m in members.items() if isinstance(m, kinds)}
    assert properties == {n for n, node in told.items() if is_property(node)}
    written = {n for n, node in told.items() if not is_property(node)}
    assert methods - {"__reduce__"} == written - SLOTS
    for slot in written & SLOTS:
        # Python tells of __buffer__ from 3.12 on.
        assert slot in members or (slot == "__buffer__" and sys.version_info < (3, 12)), slot


def test_the_classes_are_final() -> None:
    for name, node in classes().items():
        assert any(isinstance(d, ast.Name) and d.id == "final" for d in node.decorator_list)
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Derived", (getattr(_core, name),), {})
        with pytest.raises(TypeError, match="immutable type"):
            getattr(_core, name).something = 1


@pytest.mark.parametrize("name", ["Archive", "TensorInfo"])
def test_what_cannot_be_made_by_hand(name: str) -> None:
    assert "__new__" not in functions(classes()[name].body)
    with pytest.raises(TypeError, match="cannot create"):
        getattr(_core, name)()


# ------------------------------------------------------------------ signatures


@pytest.mark.parametrize("name", sorted(functions(TREE.body)))
def test_signature_of_a_function(name: str) -> None:
    function = getattr(_core, name)
    assert function.__doc__
    assert real(function) == spelled(functions(TREE.body)[name])


METHODS = [
    (name, method)
    for name, node in classes().items()
    for method, written in functions(node.body).items()
    if not is_property(written) and method not in SLOTS
]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_signature_of_a_method(name: str, method: str) -> None:
    function = getattr(getattr(_core, name), method)
    assert function.__doc__
    assert real(function) == spelled(functions(classes()[name].body)[method])


def test_signature_of_source() -> None:
    assert real(_core.Source) == spelled(functions(classes()["Source"].body)["__new__"])


def test_arguments_are_taken_as_they_are_written(tmp_path: pathlib.Path) -> None:
    """Text signatures are only text: each name is tried as a keyword, too."""
    path = tmp_path / "m.pth"
    psd.save({"a": [1, 2]}, path)
    source = _core.Source(path.read_bytes())
    archive = _core.open_archive(source=source, path="p", limits={"entries": 9}, run=True)
    assert archive.globals(unknown_only=True) == []
    from pystatedict import _values

    assert archive.load(ref=0, values=_values, copy=True, meta=False) == {"a": [1, 2]}
    for call in (
        lambda: _core.Source(buffer=b""),  # type: ignore[call-arg]
        lambda: _core.open_archive(source, "p", None, True, 1),  # type: ignore[call-arg]
        lambda: archive.load(0, _values, True),  # type: ignore[misc]
        lambda: archive.read(index=0),  # type: ignore[call-arg]
        lambda: archive.tensors(ref=0),  # type: ignore[call-arg]
        lambda: _core.crc32(data=b""),  # type: ignore[call-arg]
        lambda: _core.scan_pickle(program=b""),  # type: ignore[call-arg]
        lambda: archive.load(values=_values),  # type: ignore[call-arg]
        lambda: _core.open_archive(b"bytes"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()


# ------------------------------------------------------------------ types of what is given


def test_types_of_attributes(tmp_path: pathlib.Path) -> None:
    """What a property is said to give, it gives."""
    path = tmp_path / "m.pth"
    import numpy as np

    psd.save({"w": np.ones((2, 3), np.float32)}, path)
    archive = psd.open(path).archive
    objects = {
        "Archive": archive,
        "TensorInfo": archive.tensors()["w"],
        "Source": _core.Source(b""),
    }
    names = {
        "Archive": _core.Archive,
        "bool": bool,
        "int": int,
        "str": str,
        "dict[str, TensorInfo]": dict,
        "tuple[int, ...]": tuple,
    }
    for name, node in classes().items():
        for attribute, written in functions(node.body).items():
            if not is_property(written):
                continue
            assert written.returns is not None
            kinds = re.split(r" \| ", ast.unparse(written.returns))
            value = getattr(objects[name], attribute)
            if kinds == ["tuple[int, ...]"]:
                assert type(value) is tuple
                assert all(type(v) is int for v in value)
            elif value is None:
                assert {"None", "Any"} & set(kinds), (name, attribute)
            elif kinds != ["Any"]:
                assert any(type(value) is names.get(kind) for kind in kinds), (name, attribute)
            with pytest.raises(AttributeError):
                setattr(objects[name], attribute, value)


def test_types_of_constants() -> None:
    assert all(type(k) is str and type(v) is int for k, v in _core.LIMITS.items())
    assert all(len(row) == 2 and all(type(t) is str for t in row) for row in _core.STATUSES)
    assert all(type(size) is int and len(group) == 1 for size, group in _core.DTYPES.values())


# ------------------------------------------------------------------ mypy

EXAMPLE = '''
"""What a user may write; the comments are what a type checker should say."""
import os
from pathlib import Path
from typing import Any

import numpy as np

import pystatedict as psd


def summary(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    with psd.open(path, root="auto") as checkpoint:
        for name, info in checkpoint.items():
            size: int = info.nbytes
            flag: bool | None = info.requires_grad
            print(name, info.dtype.upper(), size, flag, checkpoint.kind)
        return {name: info.shape for name, info in checkpoint.items()}


def freeze(path: Path, pattern: str = "*.bias") -> list[str]:
    state_dict = psd.load(path)
    assert isinstance(state_dict, psd.StateDict)
    names = state_dict.freeze(pattern)
    state_dict.trainable["fc.weight"] = True
    for name, parameter in state_dict.named_parameters():
        print(name, parameter.shape, parameter.requires_grad)
    psd.save(state_dict, path, trainable="sidecar")
    return names


def check(path: str) -> str:
    try:
        psd.load(path, verify=True, limits={"entries": 10})
    except psd.UnsafePickleError as error:
        return f"{error.path!r}: {error}"
    except psd.StateDictError as error:
        return str(error.offset)
    return psd.scan(path).verdict


psd.save({"w": np.zeros((2, 3), np.float32)}, "m.pth", overwrite=False)
array: np.ndarray[Any, Any] = psd.open("m.pth")["w"].numpy()
reveal_type(psd.open("m.pth"))  # Checkpoint
reveal_type(psd.open("m.pth")["w"])  # TensorInfo
reveal_type(psd.open("m.pth")["w"].shape)  # tuple[int, ...]
reveal_type(psd.open("m.pth").verify())  # tuple[int, int]
reveal_type(psd.load("m.pth"))  # Any
reveal_type(psd.StateDict().trainable["w"])  # bool | None
'''

WRONG = """
import pystatedict as psd

psd.open("m.pth", rot="auto")  # error
psd.save({}, "m.pth", trainable="sidecars")  # error
psd.open("m.pth")["w"].shap  # error
psd.open("m.pth")["w"] = 1  # error
psd.load("m.pth", unknown="refuse")  # error
psd.loadd("m.pth")  # error
"""


def where_mypy_looks() -> dict[str, str]:
    """So that the package is checked as its user's is: as an installed one, by py.typed.

    mypy knows where packages are installed and refuses to be told; of an editable
    installation it must be.
    """
    package = pathlib.Path(psd.__file__).parents[1]
    installed = package in [pathlib.Path(sysconfig.get_path(k)) for k in ("purelib", "platlib")]
    return {} if installed else {"MYPYPATH": str(package)}


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("mypy", reason="mypy is not installed")
    folder = tmp_path_factory.mktemp("mypy")

    def check(name: str, text: str) -> tuple[int, list[str]]:
        (folder / name).write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--no-error-summary",
             "--cache-dir", str(folder / "cache"), name],
            cwd=folder,
            env=run.environment(**where_mypy_looks(), LD_PRELOAD=""),
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    return check


def test_an_example_for_mypy(mypy: Any) -> None:
    status, said = mypy("example.py", EXAMPLE)
    lines = EXAMPLE.splitlines()
    revealed = 0
    for line in said:
        found = re.fullmatch(r'example\.py:(\d+): note: Revealed type is "(.*)"', line)
        assert found is not None, line
        expected = lines[int(found[1]) - 1].rpartition("# ")[2]
        # Newer ones shorten builtins and write unions with a stroke.
        told = re.sub(r"builtins\.|pystatedict\.\w+\.", "", found[2])
        told = re.sub(r"Union\[(.*)\]", lambda m: m[1].replace(", ", " | "), told)
        assert told == expected
        revealed += 1
    assert revealed == 6
    assert status in (0, 1)


def test_mistakes_that_mypy_finds(mypy: Any) -> None:
    status, said = mypy("wrong.py", WRONG)
    expected = {n for n, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# error")}
    found = {int(m[1]) for line in said if (m := re.match(r"wrong\.py:(\d+): error:", line))}
    assert status == 1
    assert found == expected, said


def test_stubtest(mypy: Any, tmp_path: pathlib.Path) -> None:
    """mypy's own comparison of the stub with the running module."""
    allowed = tmp_path / "allowed"
    # Python tells of the slot from 3.12 on.
    allowed.write_text("" if sys.version_info >= (3, 12) else "pystatedict._core.Source.__buffer__")
    command = ["-m", "mypy.stubtest", "pystatedict._core", "--ignore-disjoint-bases"]
    done = subprocess.run(
        [sys.executable, *command, "--allowlist", str(allowed)],
        cwd=tmp_path,
        env=run.environment(**where_mypy_looks()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
