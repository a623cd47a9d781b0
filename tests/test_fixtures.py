# SPDX-License-Identifier: Apache-2.0
"""Files that torch of many ages wrote, and what it said of them: no torch needed here.

tests/data/make_*.py make them; tests/fixtures.py says how they are compared.
"""

from __future__ import annotations

import pathlib
from typing import Any

import fixtures
import pytest

import pystatedict as psd

ROWS = fixtures.rows_in("old/*.json") + fixtures.rows_in("kinds/*.json")


@pytest.fixture(params=ROWS, ids=fixtures.name_of)
def row(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def options(row: dict[str, Any]) -> dict[str, Any]:
    return {"dangerous": "opaque"} if row.get("dangerous") else {}


def test_load(row: dict[str, Any]) -> None:
    with fixtures.expected_warning(row):
        obj = psd.load(row["path"], verify=True, **options(row))
        fixtures.check(obj, row["object"])


def test_load_from_memory_and_with_copies(row: dict[str, Any]) -> None:
    data = row["path"].read_bytes()
    with fixtures.expected_warning(row):
        fixtures.check(psd.load(data, copy=True, **options(row)), row["object"])
        fixtures.check(psd.load(row["path"], mmap=False, **options(row)), row["object"])


def test_there_and_back(row: dict[str, Any], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "again.pth"
    if row.get("circular"):
        with pytest.raises(ValueError, match="an argument of itself"):
            psd.save(psd.load(row["path"], **options(row)), path, opaque=True)
        return
    with fixtures.expected_warning(row):
        psd.save(psd.load(row["path"], **options(row)), path, opaque=True)
        fixtures.check(psd.load(path, verify=True, **options(row)), row["object"])


def test_open(row: dict[str, Any]) -> None:
    if row.get("odd_keys"):
        return  # a class as key has no name that a listing could tell
    with fixtures.expected_warning(row), psd.open(row["path"]) as checkpoint:
        fixtures.check_listing(checkpoint, row["object"])


MODULES = [row for row in ROWS if next(iter(row["object"])) in ("m", "method")]


@pytest.mark.parametrize("row", MODULES, ids=fixtures.name_of)
def test_the_state_dict_of_a_whole_model(row: dict[str, Any]) -> None:
    with fixtures.expected_warning(row):
        fixtures.check_state_dict(psd.load(row["path"], root="auto", **options(row)), row["object"])


FRAMEWORKS = [row for row in ROWS if "auto" in row]


@pytest.mark.parametrize("row", FRAMEWORKS, ids=fixtures.name_of)
def test_root_auto(row: dict[str, Any]) -> None:
    """The one state_dict that is meant; or an error that names several, or tells of none."""
    said = row["auto"]
    if isinstance(said, dict):
        fixtures.check_state_dict(psd.load(row["path"], root="auto"), said)
        with psd.open(row["path"], root="auto") as checkpoint:
            fixtures.check_listing(checkpoint, said)
        return
    kind = psd.MissingTensorError if said else (psd.MissingTensorError, psd.UnsupportedError)
    with pytest.raises(kind) as caught:
        psd.load(row["path"], root="auto")
    assert caught.value.code == ("ambiguous-root" if said else "no-state-dict")
    for name in said:
        assert name in str(caught.value)
        assert isinstance(psd.load(row["path"], root=name), psd.StateDict)


GROUPS = [(row, key) for row in ROWS if row.get("group") for key, _ in row["object"]["d"]]


@pytest.mark.parametrize(("row", "key"), GROUPS, ids=lambda part: getattr(part, "lower", dict)())
def test_the_state_dict_at_a_path(row: dict[str, Any], key: str) -> None:
    said = dict(row["object"]["d"])[key]
    fixtures.check_state_dict(psd.load(row["path"], root=key), said)


@pytest.mark.parametrize("row", MODULES, ids=fixtures.name_of)
def test_flags_of_a_whole_model(row: dict[str, Any]) -> None:
    told = row["object"].get("of", row["object"])["m"]
    if row.get("dangerous"):
        with pytest.raises(psd.UnsafePickleError, match="graph module"):
            list(psd.items(row["path"]))
        return
    with fixtures.expected_warning(row):
        found = {name: flag for name, _, flag in psd.items(row["path"], trainable=True)}
    arrays = {name for name, said in told["state_dict"]["d"] if "t" in said or "q" in said}
    assert {name: found[name] for name in arrays} == {
        name: told["trainable"][name] for name in arrays
    }


def test_there_is_enough() -> None:
    """What the folder must hold for the tests above to say something."""
    assert {row["torch"] for row in ROWS} >= {"1.0.0", "1.3.1", "1.4.0", "1.6.0", "1.13.1"}
    files = [path for name in ("old", "kinds") for path in (fixtures.DATA / name).rglob("*.*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 850_000
