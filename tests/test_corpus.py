# SPDX-License-Identifier: Apache-2.0
"""The corpus beside the project, where there is one: its scorer on our adapter."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
CORPUS = TESTS.parents[1] / "shared" / "corpus"

pytestmark = pytest.mark.skipif(
    not (CORPUS / "score.py").exists(), reason="no ../shared/corpus beside the project"
)

FAILS = {"wrong", "refused", "accepted", "crash", "timeout", "memory", "canary", "exit"}

#: Faults whatever one's policy; nothing of any kind may come to one of these.
FAULTS = {"crash", "timeout", "memory", "canary", "exit", "accepted"}

#: Refused in words of another class, for a reason of ours.
OTHERWISE = {
    # cut like its neighbours, which are expected to be called so
    "not-a-checkpoint/pk.pth": "truncated",
    "not-a-checkpoint/pk34.pth": "truncated",
    # a registry outside the file: whatever it holds there would be called
    "pickle-malformed/ext_unknown.pth": "unsafe",
    "pickle-malformed/ext4_negative.pth": "unsafe",
    # the same trick as malicious/storage_key_path.pth
    "bounds/persid_key_path.pth": "unsafe",
    # damaged, or encrypted, before anything unsafe is reached
    "real/mmaitre314_picklescan/data_malicious1_0x1.zip": "unsupported",
    "real/mmaitre314_picklescan/data_malicious1_0x40.zip": "unsupported",
    "real/mmaitre314_picklescan/data2_malicious1_crc.zip": "corrupt",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("corpus") / "scores.json"
    adapter = str(TESTS / "corpus_adapter.py")
    done = subprocess.run(
        [sys.executable, str(CORPUS / "score.py"), adapter, "--json", str(out)],
        cwd=out.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    manifest = json.loads((CORPUS / "open" / "manifest.json").read_text(encoding="utf-8"))
    return {case["path"]: case for case in manifest["cases"]}


def told(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['status']} {row['path']}: {row.get('why') or row.get('notes') or row.get('text')}"
        for row in rows
    ]


def test_every_case_was_tried(
    results: list[dict[str, Any]], cases: dict[str, dict[str, Any]]
) -> None:
    assert {row["path"] for row in results} == set(cases)


def test_nothing_is_run_and_nothing_crashes(results: list[dict[str, Any]]) -> None:
    assert told([row for row in results if row["status"] in FAULTS]) == []


def test_every_case_comes_out_as_expected(results: list[dict[str, Any]]) -> None:
    assert len(results) > 1000
    bad = [row for row in results if row["status"] in FAILS or row["status"] == "part"]
    assert told(bad) == []


def test_errors_are_of_the_expected_class(
    results: list[dict[str, Any]], cases: dict[str, dict[str, Any]]
) -> None:
    """Corrupt and truncated are held for one, as by the scorer."""
    counts: collections.Counter[str] = collections.Counter()
    other = []
    for row in results:
        case = cases[row["path"]]
        if case["expect"] != "error" or row["status"] != "pass" or not row.get("class"):
            continue
        counts["all"] += 1
        pair = {row["class"], case["error"]["class"]}
        if row["class"] == OTHERWISE.get(row["path"]):
            continue
        if len(pair) > 1 and pair != {"corrupt", "truncated"}:
            other.append(f"{row['path']}: {row['class']}, not {case['error']['class']}")
    assert counts["all"] > 450
    assert other == []


def test_allowed_alternatives_are_explained(results: list[dict[str, Any]]) -> None:
    """Each case in which we give the second answer stands in corpus.md, with why."""
    page = (TESTS / "corpus.md").read_text(encoding="utf-8")
    others = [row["path"] for row in results if row["status"] == "alt"]
    assert [path for path in others if f"`{path}`" not in page] == []


def test_no_case_takes_long(results: list[dict[str, Any]]) -> None:
    slow = [row for row in results if (row.get("ms") or 0) > 5000]
    assert told(slow) == []


#: Groups of files that try to do harm.
HOSTILE = ("malicious", "truncated", "bitflip", "bombs", "bounds", "overlap", "sizes", "malformed")


def test_no_hostile_case_takes_much_memory(results: list[dict[str, Any]]) -> None:
    rows = [row for row in results if any(word in row["group"] for word in HOSTILE)]
    assert len(rows) > 300
    assert told([row for row in rows if (row.get("rss_mib") or 0) > 256]) == []
