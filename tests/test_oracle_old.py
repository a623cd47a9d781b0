# SPDX-License-Identifier: Apache-2.0
"""What we write is read by torch of long ago, too.

PYSTATEDICT_OLD_TORCH names Pythons that have one, separated as in PATH, such as
`/somewhere/py36/bin/python`; torch 1.0 to 2.4 have been tried.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections import OrderedDict
from typing import Any

import fixtures
import ml_dtypes
import numpy as np
import pytest

import pystatedict as psd

PYTHONS = [p for p in os.environ.get("PYSTATEDICT_OLD_TORCH", "").split(os.pathsep) if p]

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not PYTHONS, reason="PYSTATEDICT_OLD_TORCH names no Python"),
]

#: Loads files and says what is in them, in the words of data/describe.py.
READER = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import torch
from describe import describe
release = [int(part) for part in torch.__version__.split("+")[0].split(".")[:2]]
found = {}
for path in sys.argv[2:]:
    try:
        found[path] = describe(torch.load(path))
    except Exception as error:
        found[path] = {"error": "%s: %s" % (type(error).__name__, error)}
print(json.dumps({"release": release, "found": found}))
"""


def read_by(python: str, paths: list[pathlib.Path]) -> dict[str, Any]:
    command = [python, "-c", READER, str(fixtures.DATA), *map(str, paths)]
    ran = subprocess.run(command, capture_output=True, check=True, text=True)
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def state_dict() -> psd.StateDict:
    base = np.arange(24, dtype="f4").reshape(4, 6)
    return psd.StateDict(
        {
            "w": base,
            "turned": base.T,
            "part": base[1:3, 2:5],
            "wide": np.broadcast_to(base[:1, :2], (3, 2)),
            "one": base[2, 3, ...],
            "none": base[:0],
            "long": np.arange(3),
            "half": np.arange(3, dtype="f2"),
        },
        metadata=OrderedDict({"": {"version": 1}}),
        trainable={"w": False, "half": True},
    )


def kinds() -> dict[str, tuple[Any, tuple[int, int]]]:
    """name: (object, the first release that reads it)."""
    from pystatedict import QuantizedTensor, SparseTensor

    entries = {"indices": np.array([[0, 1], [2, 0]]), "values": np.array([5.0, 7.0], "f4")}
    coo = SparseTensor("sparse_coo", (2, 3), **entries)
    coalesced = SparseTensor("sparse_coo", (2, 3), coalesced=True, **entries)
    csr = SparseTensor(
        "sparse_csr", (2, 3), crow_indices=np.array([0, 1, 2]), col_indices=np.array([2, 0]),
        values=np.array([5.0, 7.0], "f4"),
    )  # fmt: skip
    whole = QuantizedTensor(np.array([0, 10, 20], "u1"), "quint8", scale=0.5, zero_point=10)
    channels = QuantizedTensor(
        np.array([[0, 10], [20, 30]], "i1"), "qint8",
        scales=np.array([0.5, 0.25]), zero_points=np.array([1, 2]), axis=0,
    )  # fmt: skip
    training = {"epoch": 3, "model": state_dict(), "loss": 0.5, "n": [1, (2.5, None)]}
    return {
        "state_dict": (state_dict(), (1, 6)),
        "training": (training, (1, 6)),
        "bfloat16": ({"w": np.arange(3).astype(ml_dtypes.bfloat16)}, (1, 6)),
        "bool": ({"w": np.array([True, False])}, (1, 6)),
        "complex": ({"w": np.array([1 + 2j], "c8")}, (1, 6)),
        "quantized": ({"q": whole, "c": channels}, (1, 6)),
        "coo": ({"s": coo}, (1, 6)),
        "coalesced": ({"s": coalesced}, (2, 1)),
        "csr": ({"s": csr}, (2, 0)),
        "float8": ({"w": np.arange(3).astype(ml_dtypes.float8_e5m2)}, (2, 4)),
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_read_by(python: str, tmp_path: pathlib.Path) -> None:
    written = kinds()
    paths = []
    for name, (obj, _) in written.items():
        path = tmp_path / f"{name}.pth"
        psd.save(obj, path, trainable="parameters")
        paths.append(path)
    told = read_by(python, paths)
    for path in paths:
        obj, first = written[path.stem]
        said = told["found"][str(path)]
        if told["release"] < list(first):
            assert "error" in said, (path.stem, told["release"])
            continue
        assert "error" not in said, (path.stem, said)
        fixtures.check(psd.load(path), said)
