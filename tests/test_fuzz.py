# SPDX-License-Identifier: Apache-2.0
"""Changed files of every kind give a result or a StateDictError, and what they gave can be saved.

PYSTATEDICT_FUZZ=seconds tries more of them than the suite does.
"""

from __future__ import annotations

import base64
import os
import pathlib
import pickle
import subprocess
import zlib

import kit
import numpy as np
import pytest
from isolated import run

import pystatedict as psd

SECONDS = float(os.environ.get("PYSTATEDICT_FUZZ", "0"))
BATCHES, COUNT = 4, 700


def told(done: subprocess.CompletedProcess[str], place: pathlib.Path) -> str:
    """What happened, and the input that did it, as text."""
    data = base64.b85encode(zlib.compress(place.read_bytes(), 9)).decode()
    return f"exit {done.returncode}\n{done.stderr[-4000:]}\nzlib in base85: {data}"


@pytest.mark.parametrize("seed", range(BATCHES))
def test_changed_files(seed: int, tmp_path: pathlib.Path) -> None:
    place = tmp_path / "input"
    script = run.HERE / "fuzzing.py"
    # More seconds bring other files than the suite has tried already.
    first = seed + (BATCHES if SECONDS else 0)
    each = SECONDS / BATCHES
    done = run.python(script, first, COUNT, each, place, timeout=300 + 2 * each)
    assert done.returncode == 0, told(done, place)


def test_the_fuzzer_sees_what_must_not_be(tmp_path: pathlib.Path) -> None:
    """A crash and a wrong exception end its process, and the input is there."""
    place = tmp_path / "input"
    for fault in ("raise KeyError", "import os; os.abort()"):
        code = (
            f"import sys; sys.path.insert(0, {str(run.HERE)!r}); import fuzzing, pathlib\n"
            f"def scan(data):\n    {fault}\n"
            f"fuzzing.psd.scan = scan\nfuzzing.run(1, 5, 0, pathlib.Path({str(place)!r}))"
        )
        place.unlink(missing_ok=True)
        done = run.python("-c", code)
        assert done.returncode != 0
        assert place.stat().st_size > 0
        assert "zlib in base85" in told(done, place)


# ------------------------------------------------------------------ what it has found


def test_a_persistent_id_that_is_a_tuple() -> None:
    """It is one argument, however many parts it has."""
    for parts in ((), (kit.integer(1),), (kit.integer(1), kit.text("a"))):
        loaded = psd.load(kit.program(kit.dict_of({"x": kit.tuple_of(*parts) + b"Q"})))
        assert loaded["x"].qualified_name == "pickle.persistent_load"
        assert loaded["x"].args == (pickle.loads(kit.program(kit.tuple_of(*parts))),)


def test_items_of_an_object_of_another_class() -> None:
    """A dict of somebody's own class holds the state_dict: its items are told."""
    own = kit.call("my", "Dict") + kit.text("w") + kit.tensor() + b"s"
    data = kit.archive(own, {"0": np.arange(6, dtype="<f4").tobytes()})
    assert [(name, array.shape) for name, array in psd.items(data)] == [("w", (2, 3))]
    assert [row[::2] for row in psd.items(data, trainable=True)] == [("w", None)]


def test_a_rebuild_function_whose_name_has_a_dot() -> None:
    """Saving spells such a name by getattr; what was saved loads."""
    args = (kit.named("torch._utils", "A.b"), kit.named("my", "Kind"), kit.tuple_of(), b"}")
    value = psd.load(kit.archive(kit.call("torch._tensor", "_rebuild_from_type_v2", *args)))
    again = psd.load(kit.saved(value, opaque=True))
    assert again.qualified_name == value.qualified_name == "torch._tensor._rebuild_from_type_v2"
