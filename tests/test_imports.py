# SPDX-License-Identifier: Apache-2.0
"""What is imported when: looking at a file costs neither NumPy nor a slow start."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest
from isolated import run

import pystatedict as psd

#: Slow to import, or of no use to who only looks.
HEAVY = {
    "numpy",
    "ml_dtypes",
    "torch",
    "importlib.metadata",
    "inspect",
    "typing",
    "dataclasses",
    "asyncio",
    "email",
    "multiprocessing",
    "pathlib",
    "pickle",
    "subprocess",
    "tempfile",
    "urllib",
    "zipfile",
}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.pth"
    obj = {"w": np.ones((3, 4), np.float32), "h": np.ones(2, np.float16)}
    psd.save({"model": obj, "epoch": 3}, path)
    psd.save(psd.StateDict(obj, trainable={"w": True}), tmp_path / "flags.pth", trainable="sidecar")
    return path


def imported(*arguments: str | pathlib.Path) -> set[str]:
    """All modules that a fresh interpreter imports, as -X importtime tells them."""
    # Without site: packages of the environment may import what they like at start.
    site = next(p for p in map(pathlib.Path, sys.path) if (p / "numpy").is_dir())
    package = pathlib.Path(psd.__file__).parents[1]
    done = run.python("-S", "-X", "importtime", *arguments, PYTHONPATH=f"{package}:{site}")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    assert len(names) > 10
    return names


def heavy(*arguments: str | pathlib.Path) -> set[str]:
    return {n for n in imported(*arguments) if n in HEAVY or n.partition(".")[0] in HEAVY} - bare()


_BARE: set[str] = set()


def bare() -> set[str]:
    """What the interpreter itself imports."""
    if not _BARE:
        _BARE.update(imported("-c", "pass"))
    return _BARE


def test_the_scale_weighs() -> None:
    assert {"numpy", "pathlib"} <= heavy("-c", "import numpy, pathlib")
    assert heavy("-c", "pass") == set()


def test_importing_the_package() -> None:
    """Nothing at all beyond itself."""
    more = imported("-c", "import pystatedict") - bare()
    assert {n for n in more if not n.startswith("pystatedict")} <= {"__future__"}
    assert more & {"pystatedict._core", "pystatedict._api"} == set()


OPEN = (
    "import sys, pystatedict as psd\n"
    "with psd.open(sys.argv[1]) as checkpoint:\n"
    "    for name, info in checkpoint.items():\n"
    "        print(name, info.shape, info.dtype, info.nbytes, info)\n"
    "    checkpoint.verify()\n"
)


def test_opening_and_listing(path: pathlib.Path) -> None:
    assert heavy("-c", OPEN, path) == set()


@pytest.mark.parametrize(
    "code",
    [
        "psd.identify(sys.argv[1])",
        "psd.open(sys.argv[1], root='auto')",
        "psd.open(sys.argv[1]).archive.children()",
        "psd.StateDictError, psd.LIMITS, psd.TensorInfo",
    ],
)
def test_looking(path: pathlib.Path, code: str) -> None:
    assert heavy("-c", f"import sys, pystatedict as psd\n{code}", path) == set()


@pytest.mark.parametrize(
    "code", ["psd.scan(sys.argv[1])", "psd.load(sys.argv[1], 'meta')", "psd.StateDict().freeze()"]
)
def test_without_numpy(path: pathlib.Path, code: str) -> None:
    found = heavy("-c", f"import sys, pystatedict as psd\n{code}", path)
    assert found & {"numpy", "ml_dtypes", "importlib.metadata"} == set()


@pytest.mark.parametrize(
    "command", ["ls", "tree", "stat", "scan", "verify", "trainable", "--help", "--version"]
)
@pytest.mark.parametrize("name", ["model.pth", "flags.pth"])
def test_the_command_line(path: pathlib.Path, command: str, name: str) -> None:
    files = [] if command.startswith("-") else [path.with_name(name)]
    found = imported("-m", "pystatedict", command, *files)
    assert found & {"numpy", "ml_dtypes", "torch", "importlib.metadata", "asyncio"} == set()


@pytest.mark.parametrize("command", ["ls", "tree", "stat", "scan", "verify", "trainable"])
def test_a_command_without_options_needs_no_parser(path: pathlib.Path, command: str) -> None:
    code = f"import sys; from pystatedict._cli import main; main(['{command}', sys.argv[1]])"
    assert "argparse" not in imported("-c", code, path)
    assert "argparse" in imported(
        "-c", code.replace("sys.argv[1]", "'--color=never', sys.argv[1]"), path
    )


#: What of this package `ls FILE` may import; each more costs every listing its time.
LISTING = {
    "pystatedict",
    "pystatedict._checkpoint",
    "pystatedict._cli",
    "pystatedict._clils",
    "pystatedict._core",
    "pystatedict._errors",
    "pystatedict._files",
    "pystatedict._opening",
    "pystatedict._printable",
    "pystatedict._summary",
    "pystatedict._text",
}
#: And what of Python's it may not, though it is small.
SLOW = {
    "argparse", "contextlib", "enum", "errno", "fnmatch", "functools", "json", "mmap", "re",
    "shutil", "threading", "weakref",
}  # fmt: skip

LS = "import sys; from pystatedict._cli import main; main(['ls', sys.argv[1]])"


def test_listing_imports_what_it_needs_and_no_more(path: pathlib.Path) -> None:
    found = imported("-c", LS, path) - bare()
    assert {name for name in found if name.partition(".")[0] == "pystatedict"} == LISTING
    assert found & (SLOW | HEAVY) == set()


def test_a_sidecar_is_read_where_there_is_one(path: pathlib.Path) -> None:
    more = imported("-c", LS, path.with_name("flags.pth")) - imported("-c", LS, path)
    assert {"json", "pystatedict._flags", "pystatedict._sidecar"} <= more
    assert more & {"pystatedict._api", "pystatedict._targets"} == set()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_without_a_file_nothing_is_there_to_open_it(option: str) -> None:
    found = imported("-m", "pystatedict", option)
    assert found & {"pystatedict._core", "pystatedict._opening", "pystatedict._clils"} == set()


def test_numpy_with_the_first_array(path: pathlib.Path) -> None:
    code = (
        "import sys, pystatedict as psd\n"
        "checkpoint = psd.open(sys.argv[1])\n"
        "info = checkpoint['model.w']\n"
        "assert 'numpy' not in sys.modules\n"
        "assert info.numpy().sum() == 12\n"
        "assert 'numpy' in sys.modules and 'ml_dtypes' not in sys.modules\n"
        "import numpy\n"
        "assert numpy.asarray(info).shape == (3, 4)\n"
    )
    run.succeed("-c", code, path)


def test_ml_dtypes_with_the_first_of_theirs(tmp_path: pathlib.Path) -> None:
    import ml_dtypes

    path = tmp_path / "bf16.pth"
    psd.save({"w": np.ones(3, np.float32), "b": np.ones(3, ml_dtypes.bfloat16)}, path)
    code = (
        "import sys, pystatedict as psd\n"
        "checkpoint = psd.open(sys.argv[1])\n"
        "checkpoint['w'].numpy()\n"
        "assert checkpoint['b'].dtype == 'bfloat16'\n"
        "assert 'ml_dtypes' not in sys.modules\n"
        "assert checkpoint['b'].numpy().dtype.name == 'bfloat16'\n"
        "assert 'ml_dtypes' in sys.modules\n"
    )
    run.succeed("-c", code, path)


def test_plain_values_are_saved_without_numpy(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, pystatedict as psd\n"
        "psd.save({'epoch': 3, 'names': ['a', 'b']}, sys.argv[1])\n"
        "assert psd.load(sys.argv[1]) == {'epoch': 3, 'names': ['a', 'b']}\n"
        "assert 'numpy' not in sys.modules\n"
    )
    run.succeed("-c", code, tmp_path / "plain.pth")


def test_every_public_name_is_there() -> None:
    for name in psd.__all__:
        assert getattr(psd, name) is not None
    assert set(psd.__all__) <= set(dir(psd))
    with pytest.raises(AttributeError, match="no_such"):
        psd.no_such  # noqa: B018
    assert psd.__all__ == sorted(psd.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n))


def test_a_star_import() -> None:
    run.succeed("-c", "from pystatedict import *\nassert StateDict and load and LIMITS")


def test_a_missing_extension_is_told_of(tmp_path: pathlib.Path) -> None:
    """As from the source folder, where nothing is compiled."""
    import shutil

    package = pathlib.Path(psd.__file__).parent
    shutil.copytree(
        package,
        tmp_path / "pystatedict",
        ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"),
    )
    code = (
        "import pystatedict\ntry:\n    pystatedict.load\nexcept ImportError as e:\n    print(e)\n"
    )
    done = run.python("-S", "-c", code, PYTHONPATH=str(tmp_path))
    assert "compiled part is missing" in done.stdout, done.stderr
