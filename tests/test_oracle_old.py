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


Release = tuple[int, int]


def kinds() -> dict[str, tuple[Any, Release, Release | None]]:
    """name: (object, the first releases that read it from a zip, and from a stream if any)."""
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
    parts = [("epoch", 3), ("model", state_dict()), ("loss", 0.5), ("n", [1, (2.5, None)])]
    training = OrderedDict(parts)  # dicts of Python 2 have no order
    return {
        "state_dict": (state_dict(), (1, 6), (1, 0)),
        "training": (training, (1, 6), (1, 0)),
        "bfloat16": ({"w": np.arange(3).astype(ml_dtypes.bfloat16)}, (1, 6), (1, 2)),
        "bool": ({"w": np.array([True, False])}, (1, 6), (1, 2)),
        "complex": ({"w": np.array([1 + 2j], "c8")}, (1, 6), (1, 6)),
        "quantized": ({"q": whole}, (1, 6), (1, 4)),
        "channels": ({"q": channels}, (1, 6), (1, 6)),
        # Of a stream older torch looks at the indices before it has read them.
        "coo": ({"s": coo}, (1, 6), (2, 0)),
        "coalesced": ({"s": coalesced}, (2, 1), (2, 1)),
        "csr": ({"s": csr}, (2, 0), (2, 0)),
        "float8": ({"w": np.arange(3).astype(ml_dtypes.float8_e5m2)}, (2, 4), None),
    }


@pytest.mark.parametrize("format", ["zip", "legacy"])
@pytest.mark.parametrize("python", PYTHONS)
def test_read_by(python: str, format: str, tmp_path: pathlib.Path) -> None:
    paths = []
    firsts = {}
    for name, (obj, from_zip, from_stream) in kinds().items():
        first = from_zip if format == "zip" else from_stream
        if first is None:
            continue
        firsts[name] = list(first)
        path = tmp_path / f"{name}.pth"
        psd.save(obj, path, trainable="parameters", format=format)
        paths.append(path)
    told = read_by(python, paths)
    for path in paths:
        said = told["found"][str(path)]
        if told["release"] < firsts[path.stem]:
            # Of a stream older torch may take memory as it finds it, or fail.
            assert format == "legacy" or "error" in said, (path.stem, told["release"])
            continue
        assert "error" not in said, (path.stem, said)
        fixtures.check(psd.load(path), said)
