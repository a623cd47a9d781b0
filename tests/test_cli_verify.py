# SPDX-License-Identifier: Apache-2.0
"""`pystatedict verify` and `repair`: what the library finds, as text, JSON and exit codes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from cli_kit import HOSTILE, SCRIPT, contents, damage, shell, unchanged

import pystatedict as psd
from pystatedict import _api, _cli

ONES = np.ones(300)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """whole.pth, and bad.pth, in which one of its two tensors is damaged."""
    monkeypatch.chdir(tmp_path)
    for name in ("whole.pth", "bad.pth"):
        psd.save({HOSTILE: ONES, "v": np.zeros(4000), "epoch": 3}, name, trainable=False)
    damage("bad.pth", ONES.tobytes())
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*argv, code=0):
        assert _cli.main(argv) == code
        return capsys.readouterr()

    return run


# ------------------------------------------------------------------------ verify


def test_verify(folder, run):
    with unchanged(folder):
        assert run("verify", "whole.pth").out == (
            "whole: 5 records checked · 0 without a checksum\n"
        )
        out, err = run("verify", "bad.pth", code=1)
    lines = out.splitlines()
    assert lines[0].split("   ")[0] == "  checksum"
    assert lines[0].endswith("at byte 512   a record's bytes do not match their checksum")
    assert lines[1:] == [
        r"  tensor a\n\x1b[31m\u202eb is damaged",
        "damaged: 1 problem · 1 tensor damaged · 5 records checked · 0 without a checksum",
    ]
    assert err == ""


@pytest.mark.parametrize("name", ["whole.pth", "bad.pth"])
def test_verify_json_is_what_the_library_says(folder, run, name):
    report = psd.verify(name)
    said = json.loads(run("verify", name, "--json", code=0 if report else 1).out)
    assert said.pop("problems") == [
        {
            "code": error.code,
            "file": name,
            "entry": error.entry,
            "key": None,
            "offset": error.offset,
            "message": error.args[0],
        }
        for error in report.problems
    ]
    assert said == {
        "schema": 1,
        "command": "verify",
        "file": name,
        "whole": name == "whole.pth",
        "kind": "checkpoint",
        "checked": report.checked,
        "unchecked": 0,
        "damaged": list(report.damaged),
    }


def test_verify_quiet(folder, run):
    assert run("verify", "whole.pth", "--quiet") == ("", "")
    assert run("verify", "-q", "bad.pth", code=1) == ("", "")
    assert run("verify", "-q", "none.pth", code=2).err.endswith("No such file or directory\n")


def test_damage_is_an_answer_and_no_checkpoint_is_trouble(folder, run):
    data = pathlib.Path("whole.pth").read_bytes()
    pathlib.Path("cut.pth").write_bytes(data[:-300])
    out, err = run("verify", "cut.pth", code=1)
    assert "zip-truncated" in out
    assert err == ""
    assert json.loads(run("verify", "cut.pth", "--json", code=1).out)["kind"] is None
    pathlib.Path("text.pth").write_text("nothing")
    out, err = run("verify", "text.pth", code=2)
    assert (out, err.startswith("pystatedict: 'text.pth': a text")) == ("", True)
    assert run("verify", str(folder), code=2).out == ""


def test_verify_of_standard_input(folder):
    for name, code in (("whole.pth", 0), ("bad.pth", 1)):
        done = shell("verify", "-", input=pathlib.Path(name).read_bytes())
        assert (done.returncode, done.stderr) == (code, b"")


# ------------------------------------------------------------------------ repair


def test_repair_of_a_whole_file(folder, run):
    assert run("repair", "whole.pth", "-o", "out.pth") == (
        "wrote out.pth: 2 tensors kept · 0 lost\n",
        "",
    )
    assert psd.load("out.pth")["epoch"] == 3


def test_repair_says_what_was_lost(folder, run):
    out, err = run("repair", "bad.pth", "-o", "out.pth", code=1)
    assert out.splitlines()[1:] == [
        r"  tensor a\n\x1b[31m\u202eb is lost",
        "wrote out.pth: 1 tensor kept · 1 lost",
    ]
    assert err == ""
    psd.repair("bad.pth", "again.pth")
    assert pathlib.Path("out.pth").read_bytes() == pathlib.Path("again.pth").read_bytes()
    said = json.loads(run("repair", "bad.pth", "-fo", "out.pth", "--json", code=1).out)
    (problem,) = said.pop("problems")
    assert problem["code"] == "checksum"
    assert said == {
        "schema": 1,
        "command": "repair",
        "file": "bad.pth",
        "output": "out.pth",
        "written": True,
        "kept": ["v"],
        "lost": [HOSTILE],
    }
    assert run("repair", "bad.pth", "-qfo", "out.pth", code=1) == ("", "")


def test_nothing_is_written_where_nothing_is_whole(folder, run):
    psd.save({"w": ONES}, "w.pth")
    damage("w.pth", ONES.tobytes())
    with unchanged(folder):
        out, err = run("repair", "w.pth", "-o", "out.pth", code=2)
        assert out.splitlines()[-1] == "nothing written: 0 tensors kept · 1 lost"
        assert err == "pystatedict: not one tensor is whole, so nothing was written\n"
        said = json.loads(run("repair", "w.pth", "-o", "out.pth", "--json", code=2).out)
        assert said["written"] is False


def test_a_dry_run_writes_nothing(folder, run):
    psd.save_trainable("bad.pth", {"v": True})
    pathlib.Path("out.pth").write_text("old")
    with unchanged(folder):
        out, _ = run("repair", "bad.pth", "-o", "new.pth", "--dry-run", code=1)
        assert out.splitlines()[-1] == "would write new.pth: 1 tensor kept · 1 lost"
        assert run("repair", "bad.pth", "-n", "-f", "-o", "out.pth", code=1).err == ""
        out, _ = run("repair", "bad.pth", "--json", "-no", "new.pth", code=1)
        assert json.loads(out)["written"] is False
        # What would fail fails.
        out, err = run("repair", "bad.pth", "-n", "-o", "new.safetensors", code=2)
        assert "'new.safetensors': cannot be written: a safetensors file holds" in err


def test_a_file_that_is_there_is_replaced_by_force_only(folder, run):
    pathlib.Path("out.pth").write_text("old")
    with unchanged(folder):
        for more in ([], ["--dry-run"]):
            out, err = run("repair", "whole.pth", "-o", "out.pth", *more, code=2)
            assert out == ""
            assert err == (
                "pystatedict: 'out.pth': is there already, and was not touched\n"
                "  hint: --force replaces it, or name another file\n"
            )
    run("repair", "whole.pth", "-o", "out.pth", "--force")
    assert psd.load("out.pth")["epoch"] == 3
    run("repair", "bad.pth", "-o", "bad.pth", "--force", code=1)  # in its own place
    assert psd.verify("bad.pth")
    before = sorted(os.listdir())
    run("repair", "whole.pth", "-o", "/dev/null")  # nothing of a device is lost
    assert sorted(os.listdir()) == before


def test_repair_into_standard_output_is_refused(folder, run):
    with unchanged(folder):
        out, err = run("repair", "whole.pth", "-o", "-", code=2)
    assert (out, "-o /dev/fd/3" in err) == ("", True)
    done = shell("repair", "-", "-o", "out.pth", input=pathlib.Path("whole.pth").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")


def test_interrupted_while_it_writes(folder, monkeypatch, capsys):
    """No half file is left, nor any debris, and the old one is whole."""
    pathlib.Path("out.pth").write_text("old")
    monkeypatch.setattr(_api.Ahead, "__call__", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with unchanged(folder):
            assert _cli.main(["repair", "whole.pth", "-o", "new.pth"]) == 130
            assert _cli.main(["repair", "whole.pth", "-fo", "out.pth"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", "")


def test_interrupted_while_it_waits(folder):
    """By a real signal to the real script, which waits for the rest of its input."""
    code = "import signal, os, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "os.execv(sys.argv[1], sys.argv[1:])"  # a shell's background ignores the signal
    with (
        unchanged(folder),
        subprocess.Popen(
            [sys.executable, "-c", code, SCRIPT, "repair", "-", "-o", "out.pth"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        # More than a pipe holds: when all is taken, the script is reading.
        process.stdin.write(pathlib.Path("whole.pth").read_bytes()[:-300].ljust(300_000, b"\0"))
        process.stdin.flush()
        for _ in range(10):  # Python defers one that comes between two reads
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)
                break
        assert process.returncode == 130
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_a_full_disk_and_a_missing_folder(folder, run):
    with unchanged(folder):
        out, err = run("repair", "whole.pth", "-o", "no/out.pth", code=2)
        assert (out, err) == ("", "pystatedict: 'no/out.pth': No such file or directory\n")
        if os.path.exists("/dev/full"):
            assert "No space" in run("repair", "whole.pth", "-o", "/dev/full", code=2).err


def test_streams_that_are_closed_or_full(folder):
    script = 'exec >&-; exec "$0" repair whole.pth -o out.pth'
    done = subprocess.run(["/bin/sh", "-c", script, SCRIPT], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (2, b"pystatedict: standard output is closed\n")
    assert "out.pth" not in contents(folder)
