# SPDX-License-Identifier: Apache-2.0
"""Every allocation fails once, each in its turn: MemoryError, nothing else, nothing lost.

The core's and the binding's own by a preloaded malloc that looks at who calls it; what
the binding asks of CPython by the interpreter's own test hook.
"""

from __future__ import annotations

import json
import pathlib
import sys

import pytest
from isolated import run
from isolated.scenarios import SCENARIOS, make_files

# identify() reads in Python alone.
WITHOUT_ALLOCATIONS = {"identify"}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    library = run.build_probe(tmp_path_factory.mktemp("probe"))
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    return library


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_own_allocations(name: str, folder: pathlib.Path, probe: pathlib.Path) -> None:
    told = json.loads(run.succeed(run.HERE / "nomemory.py", name, folder, preload=probe))
    count = told.pop("allocations")
    assert told == {"live": 0, "absorbed": [], "left": [], "other": [], "sound": True}
    assert (count == 0) if name in WITHOUT_ALLOCATIONS else (count >= 8), count


def test_allocations_of_the_interpreter(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("_testcapi", reason="CPython's own test module is not installed")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("the hook needs a GIL")
    told = json.loads(run.succeed(run.HERE / "nomemory_host.py", tmp_path))
    assert {name: said["wrong"] for name, said in told.items() if said["wrong"]} == {}
    assert all(said["tries"] > 0 for said in told.values()), told
    expected = 1000 if sys.version_info < (3, 12) else 300
    assert sum(said["tries"] for said in told.values()) > expected, told
