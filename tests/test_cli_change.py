# SPDX-License-Identifier: Apache-2.0
"""`pystatedict rename|select|cast|merge|convert|shard|edit|diff|match|hash`."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import kit
import numpy as np
import pytest
from cli_kit import HOSTILE, damage, shell, unchanged

import pystatedict as psd
from pystatedict import _cli

W = np.arange(12, dtype="f4").reshape(3, 4)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    sd = psd.StateDict(
        {
            "module.fc.weight": W,
            "module.fc.bias": W[0],
            "module.head.weight": W,
            "module.n": np.array(3),
        },
        trainable={"module.fc.bias": False},
    )
    psd.save(sd, tmp_path / "m.pth")
    return tmp_path / "m.pth"


@pytest.fixture
def nest(tmp_path: pathlib.Path) -> pathlib.Path:
    """A training checkpoint: the state_dict is one of its entries."""
    psd.save(
        {
            "epoch": 3,
            "state_dict": {"module.w": W, "module.b": W[0]},
            "optimizer": {"m": W * 2},
            "note": "kept",
        },
        tmp_path / "train.ckpt",
    )
    return tmp_path / "train.ckpt"


@pytest.fixture
def out(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "out.pth")


def run(*argv: Any) -> int:
    return _cli.main([str(word) for word in argv])


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    return found


# ------------------------------------------------------------------ names and choice


def test_rename(path: pathlib.Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--strip", "module.", "--add", "net.", "--replace", r"^net\.fc=x"]
    assert run("rename", path, "-o", out, *steps, "--name", "net.n=count") == 0
    found = psd.load(out)
    assert list(found) == ["x.weight", "x.bias", "net.head.weight", "count"]
    assert np.shares_memory(found["x.weight"], found["net.head.weight"])
    assert found.trainable["x.bias"] is False
    said = capsys.readouterr()
    assert said.out.startswith(f"wrote {out}: 4 tensors")
    assert said.err == ""


def test_the_rest_of_the_file_is_kept(nest: pathlib.Path, out: str) -> None:
    assert run("rename", nest, "-o", out, "--strip", "module.", "-q") == 0
    found = psd.load(out)
    assert (found["epoch"], found["note"], list(found["state_dict"])) == (3, "kept", ["w", "b"])
    assert (
        run("rename", nest, "-o", out, "--strip", "module.", "--root", "state_dict", "-f", "-q")
        == 0
    )
    assert list(psd.load(out)) == ["w", "b"]


def test_select(path: pathlib.Path, nest: pathlib.Path, out: str) -> None:
    assert run("select", path, "*.weight", "--drop", "*head*", "-o", out) == 0
    assert list(psd.load(out)) == ["module.fc.weight"]
    assert run("select", nest, "--no-optimizer", "-o", out, "-f") == 0
    assert list(psd.load(out)) == ["epoch", "state_dict", "note"]
    assert run("select", nest, "*.w", "--no-optimizer", "-o", out, "-f") == 0
    assert list(psd.load(out)["state_dict"]) == ["module.w"]
    sd = psd.load(path)
    sd.unfreeze("*head*")
    psd.save(sd, path)
    assert run("select", path, "--trainable", "-o", out, "-f") == 0
    assert "module.head.weight" in psd.load(out)


def test_cast(path: pathlib.Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cast", path, "--dtype", "bfloat16", "--rule", "*.bias=", "-o", out, "--json") == 0
    told = document(capsys)
    assert (told["command"], told["tensors"], told["written"], told["output"]) == (
        "cast",
        4,
        True,
        out,
    )
    found = {name: array.dtype.name for name, array in psd.load(out).items()}
    assert found == {"module.fc.weight": "bfloat16", "module.fc.bias": "float32",
                     "module.head.weight": "bfloat16", "module.n": "int64"}  # fmt: skip
    assert run("cast", path, "--dtype", "float7", "-o", out, "-f") == 2
    psd.save({"w": np.array([1e9])}, path)
    assert run("cast", path, "--dtype", "float16", "-o", out, "-f") == 0
    assert "note: 'w': 1 of" in capsys.readouterr().err
    assert run("cast", path, "--dtype", "float16", "--overflow", "error", "-o", out, "-f") == 2
    assert "beyond the range" in capsys.readouterr().err


def test_merge(
    path: pathlib.Path, tmp_path: pathlib.Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    psd.save({"x": W, "module.n": np.array(9)}, other)
    assert run("merge", path, other, "-o", out) == 2
    assert "'module.n'" in capsys.readouterr().err
    assert not os.path.exists(out)
    assert run("merge", path, other, "--update", "-o", out) == 0
    found = psd.load(out)
    assert (int(found["module.n"]), len(found)) == (9, 5)


def test_average(path: pathlib.Path, tmp_path: pathlib.Path, out: str) -> None:
    other = tmp_path / "other.pth"
    psd.save({name: np.asarray(array + 2) for name, array in psd.load(path).items()}, other)
    assert run("average", path, other, "-o", out) == 0
    found = psd.load(out)
    kit.same_array(W + 1, found["module.fc.weight"])
    assert found["module.n"] == 3
    assert (
        run("average", path, other, "--weights", "1,3", "--integers", "last", "-o", out, "-f") == 0
    )
    assert psd.load(out)["module.n"] == 5
    kit.same_array(W + np.float32(1.5), psd.load(out)["module.head.weight"])
    for wrong in ("1", "a,b", ""):
        assert run("average", path, other, "--weights", wrong, "-o", out, "-f") == 2


def test_lora(path: pathlib.Path, tmp_path: pathlib.Path, out: str) -> None:
    given = words("lora", path, out)
    assert run(*given, "--scale", "0.5") == 0
    kit.same_array(W + 2, psd.load(out)["module.fc.weight"])
    lora = tmp_path / "made.safetensors"
    assert run("lora", out, path, "--extract", "1", "-o", lora) == 0
    assert any("lora_A" in name for name in psd.open(lora))


# ------------------------------------------------------------------ formats


def test_convert(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    assert run("convert", path, "-o", out, "--verify") == 0
    assert "4 tensors" in capsys.readouterr().out
    assert run("convert", out, "-o", tmp_path / "back.pt", "--format", "legacy", "-q") == 0
    assert capsys.readouterr().out == ""
    found = psd.load(tmp_path / "back.pt")
    assert np.shares_memory(found["module.fc.weight"], found["module.head.weight"])
    assert run("convert", path, "-o", tmp_path / "m.npz") == 0
    assert set(np.load(tmp_path / "m.npz")) == set(found)


def test_shard(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    assert run("shard", path, "-o", folder, "--size", "60", "--dry-run", "--json") == 0
    assert document(capsys)["files"] == 2
    assert not folder.exists()
    assert run("shard", path, "-o", folder, "--size", "60", "--verify") == 0
    assert len(list(folder.glob("*.safetensors"))) == 2
    kit.same_array(W, psd.load(folder)["module.head.weight"], strides=False)
    assert run("shard", path, "-o", folder, "--size", "60") == 2
    assert run("shard", path, "-o", folder, "--size", "60", "--force") == 2
    assert run("shard", path, "-o", tmp_path / "x", "--size", "many") == 2
    assert run("ls", folder) == 0


# ------------------------------------------------------------------ in the file


def test_edit(path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    assert (
        run(
            "edit",
            path,
            "--strip",
            "module.",
            "--drop",
            "*.n",
            "--freeze",
            "*",
            "--unfreeze",
            "*.weight",
        )
        == 0
    )
    assert path.read_bytes().startswith(before)
    found = psd.load(path)
    assert dict(found.trainable)["head.weight"] is True
    assert list(found) == ["fc.weight", "fc.bias", "head.weight"]
    assert f"{path}: edited" in capsys.readouterr().out
    assert run("edit", path, "--add", "x.", "--compact", "--json") == 0
    assert document(capsys)["edited"] is True
    assert list(psd.load(path)) == ["x.fc.weight", "x.fc.bias", "x.head.weight"]
    assert path.stat().st_size <= len(before)
    assert run("edit", path, "--undo") == 0
    assert "nothing to take back" in capsys.readouterr().out


def test_edit_within_a_nest(nest: pathlib.Path) -> None:
    assert run("edit", nest, "--no-optimizer", "--strip", "module.") == 0
    found = psd.load(nest)
    assert list(found) == ["epoch", "state_dict", "note"]
    assert list(found["state_dict"]) == ["w", "b"]
    assert run("edit", nest, "--add", "y.", "--root", "state_dict") == 0
    assert list(psd.load(nest)["state_dict"]) == ["y.w", "y.b"]
    assert run("edit", nest, "--add", "y.", "--root", "nothing") == 1


# ------------------------------------------------------------------ comparing


def test_diff(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "o.safetensors"
    assert run("convert", path, "-o", other, "-q") == 0
    assert run("diff", path, other) == 0
    assert "no difference" in capsys.readouterr().out
    sd = psd.load(path)
    sd["module.fc.bias"] = sd["module.fc.bias"] + np.float32(1e-3)
    psd.save(sd, other)
    assert run("diff", path, other, "-q") == 1
    assert capsys.readouterr().out == ""
    assert run("diff", path, other, "--json") == 1
    assert document(capsys)["other"] == str(other)
    assert run("diff", path, other, "--atol", "0.01") == 0
    assert run("diff", path, other, "--no-values") == 0
    assert run("diff", path, tmp_path / "none") == 2


def test_match(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "model.pth"
    assert run("match", path, path) == 0
    assert run("rename", path, "-o", other, "--strip", "module.", "-q") == 0
    capsys.readouterr()
    assert run("match", path, other) == 1
    assert "strip the prefix 'module.'" in capsys.readouterr().out
    assert run("match", path, other, "--json") == 1
    document(capsys)


def test_hash(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "o.safetensors"
    assert run("convert", path, "-o", other, "-q") == 0
    assert run("hash", path, other) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{psd.content_hash(path)}  {path}"
    assert first.split()[0] == second.split()[0]
    assert run("hash", path, other, "--json") == 0
    assert set(document(capsys)["hashes"]) == {str(path), str(other)}


# ------------------------------------------------------------------ all of them

WRITING: dict[str, list[str]] = {
    "rename": ["--strip", "module."],
    "select": ["*.weight"],
    "cast": ["--dtype", "float16"],
    "merge": [],
    "average": [],
    "lora": ["--alpha", "4"],
    "convert": [],
    "shard": ["--size", "50"],
}


def words(command: str, path: pathlib.Path, out: Any) -> list[str]:
    files = [str(path)]
    if command == "average":
        files.append(str(path))
    if command == "lora":
        other = path.with_name("lora.pth")
        if not other.exists():
            pair = {"lora_A": np.ones((2, 4), "f4"), "lora_B": np.ones((3, 2), "f4")}
            name = "base_model.model.module.fc.{}.weight"
            psd.save({name.format(part): array for part, array in pair.items()}, other)
        files.append(str(other))
    if command == "merge":
        other = path.with_name("second.pth")
        if not other.exists():
            psd.save({"second": W}, other)
        files.append(str(other))
    return [command, *files, "-o", str(out), *WRITING[command]]


@pytest.mark.parametrize("command", WRITING)
def test_what_is_there_is_not_replaced_unasked(command: str, path: pathlib.Path, out: str) -> None:
    pathlib.Path(out).write_bytes(b"old")
    given = words(command, path, out)
    with unchanged(path.parent):
        assert run(*given) == 2
    assert run(*given, "--force") == (2 if command == "shard" else 0)


@pytest.mark.parametrize("command", WRITING)
def test_a_dry_run_writes_nothing(
    command: str, path: pathlib.Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(command, path, out)
    with unchanged(path.parent):
        assert run(*given, "--dry-run") == 0
    assert "would write" in capsys.readouterr().out


@pytest.mark.parametrize("command", WRITING)
def test_damage_is_an_error_and_leaves_nothing(command: str, path: pathlib.Path, out: str) -> None:
    given = words(command, path, out)
    damage(path, W.tobytes())
    with unchanged(path.parent):
        assert run(*given) == 2


@pytest.mark.parametrize("command", WRITING)
def test_wrong_usage(command: str, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = shell(command, str(path))
    assert done.returncode == 2
    assert b"-o" in done.stderr
    assert shell(command, "-", "-o", str(tmp_path / "x"), *WRITING[command]).returncode == 2
    given = words(command, path, tmp_path / "x")
    given[1] = str(tmp_path / "none.pth")
    done = shell(*given)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"none.pth" in done.stderr


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (["rename"], 2),
        (["rename", "--strip", "nothing."], 2),
        (["rename", "--name", "a"], 2),
        (["rename", "--replace", "(=x"], 2),
        (["rename", "--name", "module.fc.wieght=x"], 1),
        (["rename", "--replace", ".*=x"], 2),
        (["select"], 2),
        (["select", "nothing*"], 1),
        (["select", "--trainable"], 2),
        (["select", "--no-optimizer"], 2),
        (["cast"], 2),
        (["cast", "--rule", "float16"], 2),
        (["convert", "--root", "nothing"], 1),
        (["convert", "--format", "zap"], 2),
    ],
)
def test_what_cannot_be_done(given: list[str], code: int, path: pathlib.Path, out: str) -> None:
    with unchanged(path.parent):
        done = shell(given[0], str(path), "-o", out, *given[1:])
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_names_that_a_terminal_would_obey(tmp_path: pathlib.Path) -> None:
    path, other = tmp_path / "m.pth", tmp_path / "o.pth"
    psd.save({f"module.{HOSTILE}": W}, path)
    psd.save({HOSTILE: W + 1}, other)
    for given in (
        ["rename", path, "-o", tmp_path / HOSTILE, "--strip", "module."],
        ["rename", path, "-o", tmp_path / "x", "--strip", HOSTILE],
        ["merge", path, path, "-o", tmp_path / "y"],
        ["select", path, HOSTILE, "-o", tmp_path / "z"],
        ["diff", path, other], ["match", path, other], ["hash", path],
        ["edit", path, "--drop", HOSTILE],
    ):  # fmt: skip
        done = shell(*map(str, given))
        assert not {b"\x1b[31m", "\u202e".encode()} & {
            piece
            for piece in (b"\x1b[31m", "\u202e".encode())
            if piece in done.stdout + done.stderr
        }, given


@pytest.mark.parametrize("command", ["diff", "match", "hash", "edit", "rename"])
def test_none_is_imported_that_is_not_needed(command: str) -> None:
    """--help, which completes words in a shell, imports no NumPy."""
    import subprocess
    import sys

    text = (
        "import sys\nfrom pystatedict import _cli\n"
        f"try: _cli.main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "assert 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_convert_into_a_pipe(path: pathlib.Path) -> None:
    done = shell("convert", str(path), "-o", "/dev/stdout", "--quiet", timeout=60)
    assert done.returncode == 0
    kit.same_array(W, psd.load(done.stdout)["module.head.weight"], strides=False)
    assert shell("convert", str(path), "-o", "/dev/stdout", "--verify").returncode == 2
