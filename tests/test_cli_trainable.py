# SPDX-License-Identifier: Apache-2.0
"""`pystatedict trainable`: what the library reads is what was said, and nothing else is written."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from cli_kit import HOSTILE, shell, unchanged

import pystatedict as psd
from pystatedict import _cli, _sidecar, _targets

SIDECAR = pathlib.Path("m.pth.trainable.json")
LEGEND = "        ● trainable  ○ frozen  · unknown\n"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Six tensors, `head` tied to `emb.w`; no sidecar."""
    monkeypatch.chdir(tmp_path)
    w = np.ones((2, 3), "f4")
    psd.save(
        {"emb.w": w, "fc.w": w + 1, "fc.b": w[0] + 2, "fc2.w": w + 3, HOSTILE: w + 4, "head": w},
        "m.pth",
        trainable=False,
    )
    return "m.pth"


@pytest.fixture
def run(capsys):
    def run(*argv, code=0):
        assert _cli.main(["trainable", *argv]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else (out, err)

    return run


def flags():
    return json.loads(SIDECAR.read_text())["trainable"]


# --------------------------------------------------------------------- telling


def test_who_says_what(model, run, tmp_path):
    psd.save_trainable(model, {"fc.w": True, "emb.w": False})
    with unchanged(tmp_path):
        said = json.loads(run(model, "--json"))
        assert [(t["name"], t["trainable"], t["from"]) for t in said.pop("tensors")] == [
            ("emb.w", False, "sidecar"),
            ("fc.w", True, "sidecar"),
            ("fc.b", None, None),
            ("fc2.w", None, None),
            (HOSTILE, None, None),
            ("head", False, "sidecar"),
        ]
        assert said == {
            "schema": 1,
            "command": "trainable",
            "file": model,
            "sidecar": str(SIDECAR),
            "state": "current",
        }
        assert [t["name"] for t in json.loads(run(model, "fc", "--json"))["tensors"]] == [
            "fc.w",
            "fc.b",
        ]
        _, err = run(model, "nope", code=1)
        assert err == "pystatedict: no tensor matches\n"


def test_text(model, run):
    psd.save_trainable(model, {"fc.w": True, "emb.w": False})
    assert run(model, "fc", "head") == (
        "  fc.w   [2, 3]   ●   sidecar\n"
        "  fc.b   [3]      ·   nobody\n"
        "  head   [2, 3]   ○   sidecar\n"
        "1 trainable · 1 frozen · 1 unknown" + LEGEND
    )
    assert run(model).splitlines()[4].startswith(r"  a\n\x1b[31m\u202eb   [2, 3]   ·   nobody")


def test_flags_of_the_pickle(tmp_path, run):
    torch = pytest.importorskip("torch")
    path = str(tmp_path / "bn.pth")
    norm = torch.nn.BatchNorm1d(2)
    norm.bias.requires_grad_(False)
    torch.save(norm.state_dict(keep_vars=True), path)
    run(path, "--set", "weight=false")
    said = json.loads(run(path, "--json"))["tensors"]
    assert [(t["trainable"], t["from"]) for t in said] == [
        (False, "sidecar"),
        (False, "pickle"),
        (None, None),
        (None, None),
        (None, None),
    ]
    run(path, "--set", "weight=none")  # what the pickle says holds again
    assert json.loads(run(path, "--json"))["tensors"][0]["trainable"] is True
    assert not os.path.exists(path + ".trainable.json")


def test_a_stale_sidecar_is_a_note(model, capsys):
    psd.save_trainable(model, {"fc.w": True})
    psd.save({"fc.w": np.zeros(5)}, "other.pth", trainable=False)
    os.replace("other.pth", model)
    assert _cli.main(["trainable", model]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("  fc.w   [5]   ·   nobody\n")
    assert "trainable flags not applied" in err
    # It can only be given up.
    before = SIDECAR.read_bytes()
    assert _cli.main(["trainable", model, "--freeze", "fc.w"]) == 2
    assert "--clear begins anew" in capsys.readouterr().err
    assert SIDECAR.read_bytes() == before
    assert _cli.main(["trainable", model, "--clear", "--freeze", "fc.w"]) == 0
    assert psd.load_trainable(model) == {"fc.w": False}


# -------------------------------------------------------------------- changing


def test_changes_are_made_in_their_order(model, run):
    out = run(model, "--freeze", "*", "--unfreeze", "fc*.w", "--set", "fc.w=none")
    assert out.splitlines()[-1] == (
        "wrote m.pth.trainable.json: 1 trainable · 4 frozen · 1 unknown"
    )
    assert psd.load_trainable(model) == {
        "emb.w": False, "fc.b": False, "fc2.w": True, HOSTILE: False, "head": False
    }  # fmt: skip
    assert run(model, "--set=fc=true").splitlines()[:-1] == [
        "  fc.w   [2, 3]   ●   sidecar",
        "  fc.b   [3]      ●   sidecar",
    ]


def test_globs_are_those_of_the_state_dict(model, run):
    for pattern in ("*", "fc*", "fc.?", "*.[wb]", "a*b", "emb.w"):
        run(model, "--clear", "--freeze", pattern)
        state_dict = psd.load(model, trainable=False)
        frozen = set(state_dict.freeze(pattern))
        if frozen & {"emb.w", "head"}:  # they are one tensor
            frozen |= {"emb.w", "head"}
        assert set(psd.load_trainable(model)) == frozen
        assert set(psd.load_trainable(model).values()) == {False}


def test_tied_tensors_have_one_flag(model, run):
    run(model, "--unfreeze", "emb.w")
    run(model, "--freeze", "head")
    assert psd.load_trainable(model) == {"emb.w": False, "head": False}


def test_a_pattern_that_matches_nothing(model, run, tmp_path):
    with unchanged(tmp_path):
        out, err = run(model, "--freeze", "fc.w", "--freeze", "fcc.b", code=1)
    assert out == ""
    assert err.startswith("pystatedict: 'm.pth': no tensor matches 'fcc.b', so nothing was written")
    assert "close: 'fc.b'" in err


def test_a_dry_run_writes_nothing(model, run, tmp_path):
    with unchanged(tmp_path):
        out = run(model, "--freeze", "fc", "--dry-run")
        assert out.splitlines() == [
            "  fc.w   [2, 3]   ○   sidecar",
            "  fc.b   [3]      ○   sidecar",
            "would write m.pth.trainable.json: 0 trainable · 2 frozen · 4 unknown",
        ]
        said = json.loads(run(model, "--freeze", "fc", "-n", "--json"))
        assert (said["written"], said["removed"]) == (False, False)
    run(model, "-q", "--freeze", "fc")
    with unchanged(tmp_path):
        assert run(model, "--clear", "-n").splitlines()[-1].startswith("would remove m.pth.")


def test_clear(model, run):
    assert run(model, "--clear").startswith("there is no m.pth.trainable.json")
    assert run(model, "--freeze", "fc", "--quiet") == ""
    said = json.loads(run(model, "--clear", "--json"))
    assert (said["written"], said["removed"], len(said["tensors"])) == (False, True, 2)
    assert not SIDECAR.exists()
    run(model, "--freeze", "fc")
    run(model, "--clear", "--unfreeze", "head")
    assert psd.load_trainable(model) == {"emb.w": True, "head": True}


def test_what_stands_there_is_kept(model, run):
    psd.save_trainable(model, {"fc.w": True, "fc2.w": False}, buffers=["fc.b"])
    run(model, "--unfreeze", "fc2.w")
    assert flags() == {"fc.w": True, "fc2.w": True}
    document = json.loads(SIDECAR.read_text())
    assert document["buffers"] == ["fc.b"]
    document["buffers"] = ["gone", "fc2.w"]
    SIDECAR.write_text(json.dumps(document))
    run(model, "--unfreeze", "fc2.w")
    assert json.loads(SIDECAR.read_text())["buffers"] == ["fc2.w"]


def test_buffers_inside_a_training_checkpoint(tmp_path, run):
    w = np.ones(3)
    path = str(tmp_path / "run.pth")
    psd.save({"model": {"w": w, "mean": w + 1}, "more": [w + 2]}, path, trainable=False)
    psd.save_trainable(path, {"w": True}, buffers=["mean"])
    sidecar = pathlib.Path(path + ".trainable.json")
    run(path, "--freeze", "model.w")
    assert json.loads(sidecar.read_text())["buffers"] == ["mean"]
    for _ in range(2):
        run(path, "--freeze", "more")
        document = json.loads(sidecar.read_text())
        assert (document["root"], document["buffers"]) == ("", ["model.mean"])


def test_inside_a_training_checkpoint(model, run):
    """Names are those of ls; the sidecar's are those of the model, as long as they suffice."""
    w = np.ones(3)
    nest = {"model": {"fc.w": w, "fc.b": w + 1}, "optimizer": {"state": [w + 2]}}
    psd.save(nest, "run.pth", trainable=False)
    sidecar = pathlib.Path("run.pth.trainable.json")
    run("run.pth", "--freeze", "model.fc.w")
    document = json.loads(sidecar.read_text())
    assert (document["root"], document["trainable"]) == ("model", {"fc.w": False})
    assert psd.load("run.pth")["model"].trainable["fc.w"] is False
    pathlib.Path("f.json").write_text('{"fc.b": true}')  # as model.named_parameters() has them
    run("run.pth", "--from-json", "f.json")
    assert psd.load_trainable("run.pth") == {"fc.w": False, "fc.b": True}
    run("run.pth", "--freeze", "optimizer")
    document = json.loads(sidecar.read_text())
    assert (document["root"], set(document["trainable"])) == (
        "",
        {"model.fc.w", "model.fc.b", "optimizer.state.0"},
    )
    said = json.loads(run("run.pth", "--json"))["tensors"]
    assert [t["trainable"] for t in said] == [False, True, False]


# ------------------------------------------------------------------- from JSON


def test_from_json(model, run):
    pathlib.Path("f.json").write_text('{"fc.w": true, "fc.b": false, "fc2.w": null}')
    run(model, "--freeze", "fc2.w")
    run(model, "--from-json", "f.json", "--unfreeze", "fc.b")
    assert flags() == {"fc.w": True, "fc.b": True}
    # A sidecar of another version of the file.
    SIDECAR.rename("old.json")
    psd.save(dict(psd.load(model, copy=True), more=np.ones(2)), model, trainable=False)
    run(model, "--from-json", "old.json")
    assert psd.load_trainable(model) == {"fc.w": True, "fc.b": True}


def test_from_json_by_standard_input(model):
    done = shell("trainable", model, "-q", "--from-json", "-", input=b'{"fc.w": true}')
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert flags() == {"fc.w": True}


@pytest.mark.oracle
def test_from_what_torch_has_written(model, run):
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(2, 3)
    linear.bias.requires_grad_(False)
    torch.save(linear.state_dict(), "lin.pth")
    said = {n: p.requires_grad for n, p in linear.named_parameters()}
    pathlib.Path("f.json").write_text(json.dumps(said))
    run("lin.pth", "--from-json", "f.json")
    assert psd.load_trainable("lin.pth") == said == {"weight": True, "bias": False}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('{"fc.q": true}', 1, "'f.json': the checkpoint has no tensor 'fc.q', so nothing"),
        ('{"fc.q": true, "x": true}', 1, "'fc.q' and 1 more that it names"),
        ('{"fc.w": 1}', 2, "'f.json': not trainable flags"),
        ("[]", 2, "not trainable flags"),
        ("{", 2, "no JSON text"),
        ('{"fc.w": true, "fc.w": false}', 2, "stands twice"),
        ('{"emb.w": true, "head": false}', 2, "tied tensors have different flags"),
        ('{"format": "pystatedict.trainable", "version": 9, "trainable": {}}', 2, "version 9"),
    ],
)
def test_json_that_cannot_be_taken(model, run, tmp_path, text, code, said):
    pathlib.Path("f.json").write_text(text)
    with unchanged(tmp_path):
        out, err = run(model, "--from-json", "f.json", code=code)
    assert out == ""
    assert said in err


# --------------------------------------------------------------------- trouble


@pytest.mark.parametrize("word", ["fc.w", "fc.w=yes", "=true", "fc.w=True"])
def test_wrong_settings(model, word, capsys):
    with pytest.raises(SystemExit) as caught:
        _cli.main(["trainable", model, "--set", word])
    assert caught.value.code == 2
    assert "not PATTERN=true, =false or =none" in capsys.readouterr().err


def test_standard_input_has_no_sidecar(model):
    data = pathlib.Path(model).read_bytes()
    done = shell("trainable", "-", "--json", input=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["sidecar"] is None
    done = shell("trainable", "-", "--freeze", "fc", input=data)
    assert done.returncode == 2
    assert b"standard input has no place for flags" in done.stderr


def test_interrupted_while_it_writes(model, monkeypatch, tmp_path, capsys):
    psd.save_trainable(model, {"fc.w": True})
    monkeypatch.setattr(_targets, "_keep_mode", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with unchanged(tmp_path):
            assert _cli.main(["trainable", model, "--freeze", "fc"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_needs_no_numpy(model):
    code = (
        "import sys; from pystatedict._cli import main\n"
        "assert main(['trainable', sys.argv[1], '-q', '--freeze', 'fc']) == 0\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, model], check=True)
    assert _sidecar.read_sidecar(str(SIDECAR)).trainable == {"fc.w": False, "fc.b": False}
