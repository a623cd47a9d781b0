# SPDX-License-Identifier: Apache-2.0
"""Fixtures: tiny archives, each kind of damage by its name, and the example's files."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import kit
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Programs that tests start must find the installed package too, not the source folder
# that lies in the current one when pytest is started at the root.
os.environ["PYTHONSAFEPATH"] = "1"

ROOT = pathlib.Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "examples" / "tutorial.pth"

FLOATS = np.arange(6, dtype="<f4")


@pytest.fixture(scope="session")
def tutorial() -> pathlib.Path:
    """The example of real torch, in its place: not to be written to."""
    return TUTORIAL


@pytest.fixture
def tutorial_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of its own with the example and its flags, and the working directory."""
    for name in (TUTORIAL.name, f"{TUTORIAL.name}.trainable.json"):
        shutil.copy(TUTORIAL.with_name(name), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small() -> bytes:
    """{"w": 2 by 3 of float32, "n": 7}, made by hand."""
    return kit.archive(
        kit.dict_of({"w": kit.tensor(), "n": kit.integer(7)}), {"0": FLOATS.tobytes()}
    )


@pytest.fixture
def small_path(small: bytes, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "small.pth"
    path.write_bytes(small)
    return path


def _flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def _without(data: bytes, name: bytes) -> bytes:
    """The record renamed, in both places, so that nobody finds it."""
    return data.replace(name, name[:-1] + b"_")


#: name -> (what is done to the archive `small`, the error's class, its code)
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "cut in half": (lambda d: d[: len(d) // 2], "TruncatedError", "zip-truncated"),
    "end cut off": (lambda d: d[:-30], "TruncatedError", "zip-truncated"),
    "empty": (lambda _: b"", "NotACheckpointError", "empty"),
    "storage lost": (lambda d: _without(d, b"model/data/0"), "CorruptError", "storage"),
    "storage too short": (
        lambda _: kit.archive(kit.dict_of({"w": kit.tensor()}), {"0": bytes(20)}),
        "CorruptError",
        "storage",
    ),
    "reaches beyond its storage": (
        lambda _: kit.archive(kit.dict_of({"w": kit.tensor(offset=1, count=6)}), {"0": bytes(24)}),
        "CorruptError",
        "tensor",
    ),
    "pickle ends early": (
        lambda _: kit.archive(kit.text("abc")[:-1]),
        "CorruptError",
        "pickle-truncated",
    ),
    "pickle takes from nothing": (lambda _: kit.archive(b"R"), "CorruptError", "pickle"),
    "unknown opcode": (lambda _: kit.archive(b"\xff"), "CorruptError", "pickle"),
    "byte order of no kind": (
        lambda _: kit.archive(
            kit.dict_of({"w": kit.tensor()}), {"0": bytes(24)}, byteorder=b"middle"
        ),
        "CorruptError",
        "byteorder",
    ),
    "a bit of the pickle": (
        lambda d: _flip(d, d.index(b"model/data.pkl") + 14 + 20),
        "ChecksumError",
        "checksum",
    ),
}


@pytest.fixture(params=sorted(DAMAGES))
def damage(request: pytest.FixtureRequest, small: bytes) -> tuple[bytes, str, str]:
    """(damaged archive, the error's class, its code), each kind in turn."""
    change, kind, code = DAMAGES[request.param]
    return change(small), kind, code


@pytest.fixture
def flipped(small: bytes) -> bytes:
    """The archive `small` with one bit of its tensor flipped."""
    return _flip(small, small.index(FLOATS.tobytes()) + 5)


# A slow or sanitized machine is no fault of the code: nothing here is judged by the clock.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
