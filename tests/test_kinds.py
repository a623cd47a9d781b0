# SPDX-License-Identifier: Apache-2.0
"""docs/kinds.md and docs/safety.md: the tests that they name exist, and each row names one."""

from __future__ import annotations

import ast
import pathlib
import pickle
import re

import pytest

import pystatedict as psd

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("kinds", "safety")
}


def named() -> list[tuple[str, str]]:
    pattern = r"`(tests/(?:c/)?test_\w+\.(?:py|c))(?:::(test_\w+))?`"
    return sorted({found for page in PAGES.values() for found in re.findall(pattern, page)})


def test_the_pages_name_tests() -> None:
    assert len(named()) > 30


@pytest.mark.parametrize(("path", "function"), named())
def test_a_test_that_is_named_exists(path: str, function: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    if function:
        functions = {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
        assert function in functions


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_a_test(page: str) -> None:
    for line in PAGES[page].splitlines():
        row = line.startswith("|") and not line.startswith("|---") and "shown by" not in line
        assert not row or "`tests/" in line, line


def test_protocol_0() -> None:
    """torch writes it and cannot read it: the tuple's text stands for each persistent id."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 0) + pickle.dumps(1001, 0)
    system = {"protocol_version": 1001, "little_endian": True}
    body = b"(dVw\nP('storage', <class 'torch.FloatStorage'>, '94', 'cpu', 2, None)\ns."
    data = head + pickle.dumps(system, 0) + body + pickle.dumps(["94"], 0) + bytes(16)
    for look in (psd.load, psd.open):
        with pytest.raises(psd.StateDictError) as caught:
            look(data)
        assert caught.value.hint
