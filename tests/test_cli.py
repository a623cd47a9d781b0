# SPDX-License-Identifier: Apache-2.0
"""The command line, to the letter for small files."""

import csv
import io
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import pystatedict as psd
from pystatedict import _cli, _clils, _text
from pystatedict._printable import printable

W = np.arange(12, dtype=np.float32).reshape(3, 4)

LEGEND = "        ● trainable  ○ frozen  · unknown\n"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A file of four tensors, two of them tied, in the current folder; flags of three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    psd.save(
        {
            "layers.0.attn.weight": np.zeros((512, 600), np.float32),
            "layers.0.attn.bias": np.zeros(512, np.float64),
            "layers.1.weight": W,
            "layers.1.steps": np.array(7),
            "head": W,
        },
        "model.pth",
        trainable=False,
    )
    psd.save_trainable(
        "model.pth",
        {"layers.0.attn.weight": True, "layers.0.attn.bias": False, "layers.1.weight": False},
    )
    return "model.pth"


@pytest.fixture
def run(capsys):
    def run(*argv, code=0):
        assert _cli.main(argv) == code
        out, err = capsys.readouterr()
        return out if code == 0 else (out, err)

    return run


def shell(*argv, **options):
    """The command in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    # Buffered, as a shell's user has it: errors come at the last flush.
    environment = options.setdefault("env", dict(os.environ))
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run([sys.executable, "-m", "pystatedict", *argv], check=False, **options)


# ---------------------------------------------------------------------------- ls


def test_ls(model, run):
    assert run("ls", model) == (
        "  layers.0.attn.weight   [512, 600]   ●\n"
        "  layers.0.attn.bias     [512]        ○\n"
        "  layers.1.weight        [3, 4]       ○\n"
        "  layers.1.steps         []           ·\n"
        "  head                   [3, 4]       ○\n"
        "5 tensors · 307.7 K parameters · 1.2 MiB" + LEGEND
    )


def test_ls_long(model, run):
    assert run("ls", "-l", model) == (
        "  layers.0.attn.weight   f32   [512, 600]   1.2 MiB   0   0   ●\n"
        "  layers.0.attn.bias     f64   [512]        4.0 KiB   1   0   ○\n"
        "  layers.1.weight        f32   [3, 4]          48 B   2   0   ○\n"
        "  layers.1.steps         i64   []               8 B   3   0   ·\n"
        "  head                   f32   [3, 4]          48 B   2   0   ○\n"
        "5 tensors · 307.7 K parameters · 1.2 MiB" + LEGEND
    )


def names(out):
    return [line.split()[0] for line in out.splitlines()[:-1]]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["head"], ["head"]),
        (["layers.1"], ["layers.1.weight", "layers.1.steps"]),
        (["layers"], ["0.attn.weight", "0.attn.bias", "1.weight", "1.steps"]),
        (["*.weight"], ["layers.0.attn.weight", "layers.1.weight"]),
        (["h?ad", "layers.[1].s*"], ["layers.1.steps", "head"]),
        (["HEAD", "layer", "*.STEPS", "1.steps"], []),
    ],
)
def test_ls_patterns(model, run, patterns, expected):
    expected = ["layers." + name if name[0] in "01" else name for name in expected]
    if expected:
        assert names(run("ls", model, *patterns)) == expected
    else:
        out, err = run("ls", model, *patterns, code=1)
        assert out == "0 tensors · 0 parameters · 0 B" + LEGEND
        assert err == "pystatedict: no tensor matches\n"


def test_ls_sort(model, run):
    by_size = ["layers.0.attn.weight", "layers.0.attn.bias", "head", "layers.1.weight"]
    assert names(run("ls", model, "--sort", "size")) == [*by_size, "layers.1.steps"]
    assert names(run("ls", model, "--sort", "name"))[0] == "head"


def test_ls_says_that_arrays_are_not_listed(tmp_path, capsys):
    path = tmp_path / "zoo.pkl"
    for obj, said in (({"model": {"w": np.ones((2, 3))}}, True), ({"epoch": 3}, False)):
        path.write_bytes(pickle.dumps(obj, 4))
        assert _cli.main(["ls", str(path)]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("0 tensors")
        assert ("NumPy arrays, which are not listed" in err) == said


def test_ls_json(model, run):
    out = run("ls", model, "--json", "layers.1", "head")
    assert out.count("\n") == 1
    said = json.loads(out)
    assert [tensor["name"] for tensor in said.pop("tensors")][2] == "head"
    assert said == {
        "schema": 1,
        "command": "ls",
        "file": "model.pth",
        "total": {
            "tensors": 3,
            "parameters": 13,
            "bytes": 56,
            "trainable": 0,
            "frozen": 12,
            "unknown": 1,
        },
    }
    assert json.loads(run("ls", model, "--json", "layers.0.attn.weight"))["tensors"] == [
        {
            "name": "layers.0.attn.weight",
            "dtype": "float32",
            "shape": [512, 600],
            "parameters": 307200,
            "bytes": 1228800,
            "storage": "0",
            "offset": 0,
            "stride": [600, 1],
            "device": "cpu",
            "kind": None,
            "trainable": True,
        }
    ]
    flags = [tensor["trainable"] for tensor in json.loads(run("ls", model, "--json"))["tensors"]]
    assert flags == [True, False, False, None, False]


def test_ls_csv(model, run):
    rows = list(csv.reader(io.StringIO(run("ls", model, "--csv"))))
    assert rows == [
        ["name", "dtype", "shape", "parameters", "bytes", "storage", "offset", "trainable"],
        ["layers.0.attn.weight", "float32", "512x600", "307200", "1228800", "0", "0", "true"],
        ["layers.0.attn.bias", "float64", "512", "512", "4096", "1", "0", "false"],
        ["layers.1.weight", "float32", "3x4", "12", "48", "2", "0", "false"],
        ["layers.1.steps", "int64", "", "1", "8", "3", "0", ""],
        ["head", "float32", "3x4", "12", "48", "2", "0", "false"],
    ]


def test_nothing_at_all(tmp_path, run):
    psd.save({}, tmp_path / "m.pth")
    assert run("ls", str(tmp_path / "m.pth")) == "0 tensors · 0 parameters · 0 B" + LEGEND
    assert run("tree", str(tmp_path / "m.pth")) == (
        "  m.pth   0 tensors   0 parameters   0 B   ·\n"
    )
    stat = run("stat", str(tmp_path / "m.pth")).split("\n")
    assert ["tensors", "0"] in [line.split() for line in stat]


# -------------------------------------------------------------------------- tree


def test_tree(model, run):
    assert run("tree", model) == (
        "  model.pth       5 tensors   307.7 K parameters   1.2 MiB   >99% (<1% ·)\n"
        "  └─ layers       4 tensors   307.7 K parameters   1.2 MiB   >99% (<1% ·)\n"
        "     ├─ 0         2 tensors   307.7 K parameters   1.2 MiB   >99%\n"
        "     │  └─ attn   2 tensors   307.7 K parameters   1.2 MiB   >99%\n"
        "     └─ 1         2 tensors        13 parameters      56 B   0% (7% ·)\n"
    )


def test_tree_depth(model, run):
    def modules(*argv):
        return [module["name"] for module in json.loads(run("tree", *argv, "--json"))["modules"]]

    assert modules(model) == ["", "layers", "layers.0", "layers.0.attn", "layers.1"]
    assert modules(model, "--depth", "1") == ["", "layers"]
    assert modules(model, "--depth", "0") == [""]
    last = json.loads(run("tree", model, "--json"))["modules"][-1]
    assert last == {
        "name": "layers.1",
        "tensors": 2,
        "parameters": 13,
        "bytes": 56,
        "trainable": 0,
        "frozen": 12,
        "unknown": 1,
    }


def test_tree_of_very_deep_names(tmp_path, run):
    path = tmp_path / "m.pth"
    psd.save({".".join("ab" * 1_000): W, "..": W, "": W + 1}, path, trainable=False)
    out = run("tree", str(path))
    assert len(out.splitlines()) == 1 + 64 + 2
    assert "(empty name)" in out
    assert "(empty name)" in run("ls", str(path))


# -------------------------------------------------------------------------- stat


def test_stat(model, run):
    said = json.loads(run("stat", model, "--json"))
    size, pickled = said["size"], said["pickle"]["bytes"]
    assert size == pathlib.Path(model).stat().st_size
    with zipfile.ZipFile(model) as archive:
        count = len(archive.infolist())
        serial = [n for n in archive.namelist() if n.endswith(".data/serialization_id")]
        serial = [archive.read(n).decode() for n in serial]
    expected = [
        ("file", "model.pth"),
        ("size", f"1.2 MiB ({size:,} bytes)"),
        ("format", "zip, checkpoint"),
        ("byte order", "little"),
        ("pickle", f"protocol 2, {pickled} bytes"),
        ("records", str(count)),
        ("alignment", "64 bytes"),
        ("checksums", "stated"),
        *[("serialization id", text) for text in serial],
        ("tensors", "5"),
        ("parameters", "307,725"),
        ("tensor bytes", "1.2 MiB (1,232,952 bytes)"),
        ("dtypes", "float32: 3 tensors, 1.2 MiB"),
        ("", "float64: 1 tensor, 4.0 KiB"),
        ("", "int64: 1 tensor, 8 B"),
        ("storages", "4, 1 shared"),
        ("flags", "307,200 trainable · 524 frozen · 1 unknown"),
        ("sidecar", "current"),
    ]
    width = max(len(name) for name, _ in expected)
    assert run("stat", model) == "".join(
        f"  {name:{width}}   {value}\n" for name, value in expected
    )
    assert said["alignment"] == 64
    assert said["sidecar"] == "current"


def test_stat_tells_alignment_and_checksums(tmp_path, run):
    path = tmp_path / "m.pth"
    psd.save({"w": W}, path, trainable=False, checksum=False)
    assert json.loads(run("stat", str(path), "--json"))["checksums"] == "absent"
    again = tmp_path / "again.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        # The storage comes first, so that its bytes begin at 30 + 34 = 64.
        for info in sorted(old.infolist(), key=lambda info: "/data/" not in info.filename):
            name = "p" * 27 + "/" + info.filename.partition("/")[2]
            with old.open(info) as file:
                file._expected_crc = None  # zipfile does not know that 0 says nothing
                data = file.read()
            new.writestr(name, data, zipfile.ZIP_DEFLATED if "byte" in name else None)
    said = json.loads(run("stat", str(again), "--json"))
    assert said["checksums"] == "stated"
    assert said["compressed"] == 1
    assert said["alignment"] == 64


def test_stat_of_something_else(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("array.npy", W)
    out, err = run("stat", "array.npy", code=2)
    assert out == (
        "  file     array.npy\n"
        "  size     176 bytes\n"
        "  format   npy\n"
        "           a NumPy array file\n"
    )
    assert err.startswith("pystatedict: 'array.npy': a NumPy array file")
    out, _ = run("stat", "array.npy", "--json", code=2)
    assert json.loads(out) == {
        "schema": 1,
        "command": "stat",
        "file": "array.npy",
        "size": 176,
        "format": "npy",
        "error": "npy",
    }
    assert shell("stat", "-", input=b"?").stdout == b""


# ------------------------------------------------------------------------- flags


def test_flags_of_the_pickle(tmp_path, run):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pth"
    model = torch.nn.BatchNorm1d(2)
    model.bias.requires_grad_(False)
    torch.save(model.state_dict(keep_vars=True), path)
    marks = [line.split()[-1] for line in run("ls", str(path)).splitlines()[:-1]]
    assert marks == ["●", "○", "·", "·", "·"]
    psd.save_trainable(path, {"bias": True})
    marks = [line.split()[-1] for line in run("ls", str(path)).splitlines()[:-1]]
    assert marks == ["●", "●", "·", "·", "·"]


def test_a_stale_sidecar_is_a_note(model, run, capsys):
    psd.save({"head": W}, model)
    out = run_with_note(capsys, "ls", model)
    assert out[0] == "  head   [3, 4]   ·\n1 tensor · 12 parameters · 48 B" + LEGEND
    lines = out[1].splitlines()
    assert lines[0] == (
        "pystatedict: note: trainable flags not applied: 'model.pth.trainable.json': "
        "written for another version of the checkpoint"
    )
    assert json.loads(run("stat", model, "--json"))["sidecar"] == "stale"


def run_with_note(capsys, *argv):
    assert _cli.main(argv) == 0
    return capsys.readouterr()


def test_a_broken_or_weak_sidecar_is_a_note(model, run, capsys, tmp_path):
    (tmp_path / "model.pth.trainable.json").write_text("{")
    assert "no JSON text" in run_with_note(capsys, "tree", model)[1]
    assert json.loads(run("stat", model, "--json"))["sidecar"] == "broken"
    text = '{"format": "pystatedict.trainable", "version": 1, "trainable": {"head": true}}'
    (tmp_path / "model.pth.trainable.json").write_text(text)
    out, err = run_with_note(capsys, "ls", model, "head")
    assert "●" in out.splitlines()[0]
    assert "only the names were compared" in err
    assert json.loads(run("stat", model, "--json"))["sidecar"] == "unsure"


def test_flags_of_the_state_dict_inside(tmp_path, capsys):
    path = tmp_path / "ckpt.pth"
    psd.save({"epoch": 1, "model": {"a": W, "b": W + 1}, "more": [W + 2]}, path, trainable=False)
    psd.save_trainable(path, {"b": True})
    out, err = run_with_note(capsys, "ls", str(path))
    assert [line.split()[-1] for line in out.splitlines()[:-1]] == ["·", "●", "·"]
    assert err == ""


# -------------------------------------------------------------------------- scan


def test_scan(model, run):
    said = json.loads(run("scan", model, "--json"))
    assert said["verdict"] == "clean"
    assert said["errors"] == []
    use = said["globals"][0]
    assert set(use) == {"module", "name", "verdict", "called", "record", "offset"}
    last = run("scan", model).splitlines()[-1]
    assert last == f"clean: {len(said['globals'])} plain · 0 unknown · 0 dangerous; nothing was run"


class Evil:
    def __reduce__(self):
        return os.system, ("exit 3",)


def test_scan_of_a_dangerous_file(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil(), 2))
        archive.writestr("evil/version", "3\n")
    out, err = run("scan", "evil.pth", code=1)
    assert out == (
        "  posix.system   dangerous   called   at byte 2   evil/data.pkl\n"
        "dangerous: 0 plain · 0 unknown · 1 dangerous; nothing was run\n"
    )
    assert err == ""
    out, _ = run("scan", "evil.pth", "--json", code=1)
    assert json.loads(out)["globals"] == [
        {
            "module": "posix",
            "name": "system",
            "verdict": "dangerous",
            "called": True,
            "record": "evil/data.pkl",
            "offset": 2,
        }
    ]
    out, _ = run("scan", "evil.pth", "--color", "always", code=1)
    assert "\x1b[1;31mdangerous\x1b[0m   called" in out


def test_scan_tells_what_it_could_not_look_at(tmp_path, run):
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps({"a": 1}, 2)[:-2])
    said = run("scan", str(path))
    assert said == "unknown: 0 plain · 0 unknown · 0 dangerous · 1 note; nothing was run\n"
    said = json.loads(run("scan", str(path), "--json"))
    assert (said["verdict"], len(said["errors"])) == ("unknown", 1)
    said = json.loads(run("scan", str(tmp_path), "--json"))
    assert said["errors"][0].startswith("cut.pkl: ")


# ------------------------------------------------------- strangers, terminals, pipes


def test_names_are_escaped(tmp_path, run):
    path = tmp_path / "m.pth"
    psd.save({"a\n\x1b[31m\u202eb": W, "ö中": W + 1, "x\x1b.y": W + 2}, path, trainable=False)
    escaped = printable("a\n\x1b[31m\u202eb")
    assert escaped.isprintable()
    out = run("ls", str(path))
    assert out.splitlines()[0] == f"  {escaped}   [3, 4]   ·"
    assert out.splitlines()[1].startswith("  ö中" + " " * (len(escaped) - 3) + "   [3, 4]")
    assert escaped + ",float32" in run("ls", "--csv", str(path))
    assert json.loads(run("ls", "--json", str(path)))["tensors"][0]["name"] == "a\n\x1b[31m\u202eb"
    for command in ("tree", "stat", "ls"):
        assert all(c.isprintable() or c == "\n" for c in run(command, str(path)))


def test_ascii_where_the_encoding_has_no_more(model):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out = shell("ls", model, "head", env=environment).stdout
    assert out == (
        b"  head   [3, 4]   -\n1 tensor, 12 parameters, 48 B"
        b"        + trainable  - frozen  ? unknown\n"
    )
    psd.save({"ö.w": W}, model, trainable=False)
    assert not pathlib.Path(model + ".trainable.json").exists()
    out = shell("tree", model, env=environment).stdout.decode()
    assert "`- \\xf6" in out


def test_color(model, run):
    assert "\x1b" not in run("ls", model)
    out = run("ls", "--color", "always", model, "layers.0.attn.weight")
    assert out.splitlines()[0].endswith("   \x1b[32m●\x1b[0m")
    assert "\x1b" not in run("ls", "--color", "never", model)


class Terminal(io.TextIOWrapper):
    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self):
        return True

    def fileno(self):
        return 1


def on_terminal(monkeypatch, *argv, **environment):
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        terminal = Terminal()
        patch.setattr(sys, "stdout", terminal)
        assert _cli.main(argv) == 0
        return terminal.buffer.getvalue().decode()


def test_on_a_terminal(model, monkeypatch):
    assert "\x1b[32m●" in on_terminal(monkeypatch, "ls", model)
    assert "\x1b" not in on_terminal(monkeypatch, "ls", model, NO_COLOR="1")
    assert "\x1b" not in on_terminal(monkeypatch, "ls", model, TERM="dumb")
    assert "\x1b" not in on_terminal(monkeypatch, "ls", "--color", "never", model)
    out = on_terminal(monkeypatch, "ls", model, COLUMNS="37", NO_COLOR="")
    assert out.splitlines()[0] == "  layers.0…tn.weight   [512, 600]   \x1b[32m●\x1b[0m"
    out = on_terminal(monkeypatch, "ls", model, "head", COLUMNS="2", NO_COLOR="1")
    assert out.splitlines()[0] == "  head   [3, 4]   ○"


def test_not_cut_off_a_terminal(tmp_path, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    psd.save({"x" * 300: W}, tmp_path / "m.pth", trainable=False)
    assert "x" * 300 in run("ls", str(tmp_path / "m.pth"))


@pytest.mark.parametrize("piped", [False, True])
def test_standard_input(model, piped):
    expected = shell("ls", "-l", model).stdout.replace("●".encode(), "·".encode())
    expected = expected.replace("○".encode(), "·".encode())
    argv = ["ls", "-l", "-"]
    if piped:
        done = shell(*argv, input=pathlib.Path(model).read_bytes())
    else:
        with pathlib.Path(model).open("rb") as file:
            done = shell(*argv, stdin=file)
    assert done.stderr == b""
    assert done.stdout.decode().splitlines()[:-1] == expected.decode().splitlines()[:-1]
    for command in ("tree", "stat", "scan"):
        done = shell(command, "-", input=pathlib.Path(model).read_bytes())
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_leaves_is_no_error(tmp_path):
    path = tmp_path / "m.pth"
    psd.save({f"layer.{n}": W for n in range(20_000)}, path, trainable=False)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-m", "pystatedict", "ls", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_a_full_disk_is_an_error(model):
    with pathlib.Path("/dev/full").open("wb") as full:
        done = shell("ls", model, stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"pystatedict: No space left on device\n"


@pytest.mark.parametrize("closed", ["<", ">", "2>"])
def test_closed_streams(model, closed):
    """A service may start it without; the answer and the exit code are as ever."""
    command = f'exec {closed}&-; exec "$0" -m pystatedict ls "$1"'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, model], capture_output=True, check=False
    )
    if closed == ">":
        assert done.returncode == 2
        assert done.stderr == b"pystatedict: standard output is closed\n"
    else:
        assert done.returncode == 0
        assert done.stderr == b""
        assert b"head" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_messages_that_cannot_be_written(model):
    with pathlib.Path("/dev/full").open("wb") as full:
        assert shell("ls", "missing.pth", stderr=full).returncode == 2
        assert shell("ls", model, stderr=full).returncode == 0


def test_interrupted(model, monkeypatch):
    def interrupt(_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_clils, "run", interrupt)
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert _cli.main(["ls", model]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------ errors


def test_errors_are_short(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = run("ls", "none.pth", code=2)
    assert (out, err) == ("", "pystatedict: 'none.pth': No such file or directory\n")
    assert run("ls", "no\x1bne", code=2)[1].startswith("pystatedict: 'no\\x1bne': No such")
    (tmp_path / "text\x1b.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    for command in ("ls", "tree", "stat", "scan"):
        out, err = run(command, "text\x1b.pth", code=2)
        assert (out == "") is (command != "stat")
        assert err.startswith("pystatedict: 'text\\x1b.pth'")
        assert "hint: " in err
        assert "Traceback" not in err
    assert run("ls", str(tmp_path), code=2)[1].startswith("pystatedict: ")


def test_memory(model, run, monkeypatch):
    def exhausted(_):
        raise MemoryError

    monkeypatch.setattr(_clils, "run", exhausted)
    assert run("ls", model, code=2)[1] == "pystatedict: not enough memory\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["frob"],
        ["ls"],
        ["ls", "--json", "--csv", "x"],
        ["ls", "x", "--frob"],
        ["stat", "x", "y"],
        ["tree", "--depth", "-1", "x"],
        ["tree", "--depth", "z", "x"],
    ],
)
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        _cli.main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: pystatedict")


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        _cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pystatedict {psd.__version__}\n"


# ------------------------------------------------------------------------- costs


@pytest.mark.parametrize(
    "argv", [["ls", "-l"], ["ls", "--json"], ["tree"], ["stat"], ["scan"], ["ls", "*"]]
)
def test_no_numpy_and_nothing_else_that_is_slow(model, argv):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pystatedict", argv[0], model, *argv[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    bare = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ""], capture_output=True, text=True, check=True
    )
    imported = modules(done.stderr) - modules(bare.stderr)
    assert "pystatedict._cli" in imported
    slow = {"numpy", "ml_dtypes", "importlib.metadata", "pathlib", "shutil", "zipfile", "tempfile"}
    assert not slow & imported


def modules(log):
    return {line.rpartition("|")[2].strip() for line in log.splitlines() if "|" in line}


# ------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1048524, "1023.9 KiB"),
        (1048550, "1.0 MiB"),
        (46827520, "44.7 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 80, "1048576.0 EiB"),
    ],
)
def test_human_bytes(size, text):
    assert _text.human_bytes(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (1000, "1.0 K"),
        (999_949, "999.9 K"),
        (999_960, "1.0 M"),
        (1_234_567, "1.2 M"),
        (7 * 10**9, "7.0 B"),
        (10**18, "1000000.0 T"),
    ],
)
def test_human_count(count, text):
    assert _text.human_count(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0%"),
        (0, 9, "0%"),
        (1, 1000, "<1%"),
        (1, 2, "50%"),
        (98, 100, "98%"),
        (999, 1000, ">99%"),
        (9, 9, "100%"),
    ],
)
def test_percent(part, whole, text):
    assert _text.percent(part, whole) == text


@pytest.mark.parametrize(
    ("text", "columns", "cut"),
    [
        ("short", 5, "short"),
        ("layers.0.weight", 9, "laye…ight"),
        ("layers.0.weight", 10, "laye…eight"),
        ("中文中文中文", 7, "中…文"),
        ("abc", 0, "a…c"),
    ],
)
def test_cut_middle(text, columns, cut):
    assert _text.cut_middle(text, columns, "…") == cut
    assert _text.width_of(cut) <= max(columns, 3)


def test_width_of():
    assert _text.width_of("a中e\u0301") == 4
