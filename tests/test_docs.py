# SPDX-License-Identifier: Apache-2.0
"""The examples in the package's own help, each run where the tutorial's file stands.

Those of README.md and docs/ run in test_readme.py.
"""

from __future__ import annotations

import doctest
import importlib
import pathlib
import pkgutil
import shutil
import types

import pytest

import pystatedict as psd

FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    """All but `python -m pystatedict` itself, which would run on import."""
    names = [m.name for m in pkgutil.iter_modules(psd.__path__) if m.name != "__main__"]
    return ["pystatedict", *(f"pystatedict.{name}" for name in sorted(names))]


def examples_of(module: types.ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", modules())
def test_examples(name: str, tutorial_folder: pathlib.Path) -> None:
    # Some examples speak of model.pth; it is a file like the tutorial's, of two layers.
    import numpy as np

    layers = {"fc.weight": np.ones((2, 3), "f4"), "emb.weight": np.ones((4, 2), "f4")}
    psd.save(layers, "model.pth")
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    for test in examples_of(importlib.import_module(name)):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_public_names_show_examples() -> None:
    """What a user reaches for first has an example in its help, and it is found."""
    found = {
        test.name.rpartition(".")[2]
        for name in modules()
        for test in examples_of(importlib.import_module(name))
    }
    assert {"load", "open", "items", "save", "StateDict", "Opaque", "Size"} <= found


def test_every_public_name_has_help() -> None:
    for name in psd.__all__:
        value = getattr(psd, name)
        if isinstance(value, dict):
            continue  # LIMITS
        text = value.__doc__ or ""
        assert len(text) > 20, name
        assert not text.startswith("dict("), name


def test_public_names_are_in_the_reference() -> None:
    page = pathlib.Path(__file__).resolve().parents[1] / "docs" / "api.md"
    text = page.read_text(encoding="utf-8")
    missing = [n for n in psd.__all__ if n not in text]
    assert missing == []


def test_the_tutorial_files_are_a_pair(tutorial: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for suffix in ("", ".trainable.json"):
        shutil.copy(f"{tutorial}{suffix}", tmp_path)
    assert set(psd.load_trainable(tmp_path / tutorial.name)) == set(psd.load(tutorial))
