# SPDX-License-Identifier: Apache-2.0
"""docs/kinds.md: the tests that it names exist, and it names every case it must."""

from __future__ import annotations

import ast
import pathlib
import pickle
import re

import pytest

import pystatedict as psd

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "kinds.md").read_text(encoding="utf-8")


def named() -> list[tuple[str, str]]:
    found = re.findall(r"`(tests/test_\w+\.py)(?:::(test_\w+))?`", PAGE)
    return sorted(set(found))


def test_the_page_names_tests() -> None:
    assert len(named()) > 30


@pytest.mark.parametrize(("path", "function"), named())
def test_a_test_that_is_named_exists(path: str, function: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    functions = {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    assert not function or function in functions


def test_every_row_names_a_test() -> None:
    tables = PAGE.split("## Where the corpus")[0]
    for line in tables.splitlines():
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
