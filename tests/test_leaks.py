# SPDX-License-Identifier: Apache-2.0
"""Nothing is left behind: not by loads and saves, not by what is refused half-way.

Each scenario of isolated/scenarios.py is repeated in a process of its own.
"""

from __future__ import annotations

import json
import pathlib
import sys

import pytest
from isolated import run
from isolated.scenarios import SCENARIOS, make_files

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(sys, "getallocatedblocks"),
    reason="counts by what Linux and CPython tell",
)

# What leaks.py itself leaves behind, so that the scale is seen to weigh.
ON_PURPOSE = {
    "leak_object": {"objects"},
    "leak_map": {"objects", "bytes", "maps", "references to Source"},
    "leak_archive": {"objects", "references to Archive", "blocks"},
    "leak_reference": {"references to TensorInfo"},
    "leak_backwards": {"references to TensorInfo"},
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path | None:
    return run.build_probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


def leaked(
    name: str, folder: pathlib.Path, probe: pathlib.Path | None, times: int = 16
) -> dict[str, list[int]]:
    script = run.HERE / "leaks.py"
    said = run.succeed("-X", "tracemalloc=1", script, name, folder, str(times), preload=probe)
    return json.loads(said)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_nothing_is_left(name: str, folder: pathlib.Path, probe: pathlib.Path | None) -> None:
    assert leaked(name, folder, probe) == {}


@pytest.mark.parametrize("name", ["load", "load_copy", "bad_files"])
def test_nothing_is_left_of_a_thousand(
    name: str, folder: pathlib.Path, probe: pathlib.Path | None
) -> None:
    """What leaks only now and then, too: at most one thing in a hundred times."""
    assert leaked(name, folder, probe, 1000) == {}


def test_a_leak_now_and_then_is_seen(folder: pathlib.Path, probe: pathlib.Path | None) -> None:
    assert "objects" in leaked("leak_seldom", folder, probe, 1000)


@pytest.mark.parametrize("name", ON_PURPOSE)
def test_a_leak_is_seen(name: str, folder: pathlib.Path, probe: pathlib.Path | None) -> None:
    expected = ON_PURPOSE[name] - (set() if probe else {"blocks"})
    found = leaked(name, folder, probe)
    assert expected <= set(found), found
