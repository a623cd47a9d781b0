# SPDX-License-Identifier: Apache-2.0
"""`pystatedict cat`: values as NumPy prints them, and what is said of many."""

import json
import math
import os
import subprocess
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from cli_kit import HOSTILE, SCRIPT, shell, unchanged

import pystatedict as psd
from pystatedict import _cli, _tensorvalues
from pystatedict._tensorstats import Stats
from pystatedict._tensorvalues import Plane, counted_planes, planes_of

RANDOM = np.random.default_rng(7)
BIG = RANDOM.normal(size=(40, 3, 50)).astype("f4")
COMPLEX32 = np.array([(1, -2), (0.5, 3)], dtype=[("real", "f2"), ("imag", "f2")])
FLOAT4 = np.array([[0x21, 0xF0]], np.dtype("u1", metadata={"torch_dtype": "float4_e2m1fn_x2"}))
BITS = np.array([3, 200], np.dtype("u1", metadata={"torch_dtype": "bits8"}))


def quantized(dtype, shape, **options):
    integers = RANDOM.integers(0, 100, shape).astype({"qint8": "i1", "quint8": "u1"}[dtype])
    return psd.QuantizedTensor(integers, dtype, **options)


KINDS = {
    "one": quantized("quint8", (3, 4), scale=0.5, zero_point=10),
    "each": quantized(
        "qint8", (3, 4), scales=np.array([0.5, 0.1, 2]), zero_points=np.array([1, 0, 9]), axis=0
    ),
    "floats": quantized(
        "quint8", (3, 2), scales=np.array([0.5, 2], "f4"), zero_points=np.array([0.5, 1], "f4"),
        axis=1,
    ),
    "large": quantized("quint8", (50, 60), scale=0.25, zero_point=3),
}  # fmt: skip


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    psd.save(
        {
            "w": np.arange(6, dtype="f4").reshape(2, 3),
            "big": BIG,
            "bf16": BIG.astype(ml_dtypes.bfloat16),
            "f8": np.array([1.5, -2], ml_dtypes.float8_e4m3fn),
            "f4": FLOAT4,
            "c32": COMPLEX32,
            "bits": BITS,
            "odd": np.array([np.nan, np.inf, -np.inf, 0, -0.0, 2]),
            "few": np.array([1, 3, 3], "i8"),
            "none": np.zeros((0, 3)),
            "scalar": np.array(4.5),
            "complex": np.array([3 + 4j, complex(np.inf, np.nan)]),
            HOSTILE: np.ones(1),
            "-x": np.ones(1),
            "sparse": psd.SparseTensor(
                "sparse_coo", (2, 3), indices=np.array([[0, 1], [2, 0]]), values=np.array([5.0, 7])
            ),
            **KINDS,
        },
        "m.pth",
        trainable=False,
    )
    return "m.pth"


@pytest.fixture
def run(capsys):
    def run(*argv, code=0):
        assert _cli.main(["cat", *argv]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else (out, err)

    return run


# ------------------------------------------------------------------------ values


def test_values(model, run):
    assert run(model, "w") == "w   float32   [2, 3]\n[[0. 1. 2.]\n [3. 4. 5.]]\n"
    assert run(model, "scalar") == "scalar   float64   []\n4.5\n"
    assert run(model, "none") == "none   float64   [0, 3]\n[]\n"
    assert run(model, "--", "-x").startswith("-x   float64   [1]\n")


@pytest.mark.parametrize("name", ["big", "bf16"])
def test_abbreviated_as_numpy_does(model, run, name):
    """From the corners alone, to the letter what it prints of the whole."""
    whole = psd.widen(psd.load(model)[name])
    with np.printoptions(threshold=1000, linewidth=75):
        expected = str(whole)
    assert "..." in expected
    head, _, rest = run(model, name).partition("\n")
    assert rest == expected + "\n"
    assert (
        head
        == name
        + {
            "big": "   float32   [40, 3, 50]",
            "bf16": "   bfloat16   [40, 3, 50]   shown as float32",
        }[name]
    )
    full = run(model, name, "--full").partition("\n")[2]
    assert "..." not in full
    assert len(full.replace("[", " ").replace("]", " ").split()) == whole.size


def test_wide_dtypes(model, run):
    assert run(model, "f8") == ("f8   float8_e4m3fn   [2]   shown as float32\n[ 1.5 -2. ]\n")
    assert run(model, "c32").splitlines()[1] == "[1. -2.j 0.5+3.j]"
    out = run(model, "f4").splitlines()
    assert out[0] == "f4   float4_e2m1fn_x2   [1, 2]   shown as float32, two numbers a byte"
    assert out[1] == "[[ 0.5  1.   0.  -6. ]]"
    out = run(model, "bits").splitlines()
    assert out[0].endswith("raw integers: the dtype does not say what its bits mean")
    assert out[1] == "[  3 200]"


def test_stats_of_wide_dtypes(monkeypatch):
    monkeypatch.setattr(_tensorvalues, "PIECE", 3)
    for array in (FLOAT4, FLOAT4[:, ::-1], COMPLEX32, BITS, BIG.astype(ml_dtypes.bfloat16)[0]):
        (plane,) = counted_planes(array)
        whole = plane.whole()
        stats = Stats(plane.pieces)
        assert stats.count == whole.size
        largest = (np.abs(whole) if whole.dtype.kind == "c" else whole).max()
        assert stats.max == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_quantized_is_dequantized(model, run, name):
    expected = KINDS[name].dequantize()
    ((_, plane),) = planes_of(KINDS[name])
    assert plane.whole().dtype == expected.dtype
    assert np.array_equal(plane.whole(), expected)
    with np.printoptions(linewidth=75):
        assert run(model, name).partition("\n")[2] == f"{expected}\n"
    if name == "one":
        assert "dequantized with scale 0.5 and zero point 10" in run(model, name)


def test_sparse_is_told_by_its_parts(model, run):
    assert run(model, "sparse") == (
        "sparse   float64   [2, 3]   sparse_coo, 2 values stored\n"
        "indices   [2, 2]\n[[0 1]\n [2 0]]\nvalues   [2]\n[5. 7.]\n"
    )
    said = json.loads(run(model, "sparse", "--json"))
    assert said["values"] == {"indices": [[0, 1], [2, 0]], "values": [5.0, 7.0]}
    assert json.loads(run(model, "sparse", "--json", "--stats"))["stats"]["count"] == 2


def test_nested_of_many_parts():
    parts = {"values": np.arange(20), "offsets": np.arange(21)}
    nested = psd.NestedTensor("jagged", (20, -1), parts)
    assert [name for name, _ in planes_of(nested)][:2] == ["[0]", "[1]"]
    assert Stats(lambda: (p for plane in counted_planes(nested) for p in plane.pieces())).max == 19


def test_json(model, run):
    said = json.loads(run(model, "w", "--json"))
    assert said == {
        "schema": 1,
        "command": "cat",
        "file": model,
        "name": "w",
        "dtype": "float32",
        "shape": [2, 3],
        "values": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    }
    odd = json.loads(run(model, "odd", "--json"))["values"]
    assert odd[:3] == ["nan", "inf", "-inf"]
    assert json.loads(run(model, "c32", "--json"))["values"] == [[1.0, -2.0], [0.5, 3.0]]
    assert json.loads(run(model, "big", "--json"))["values"] is None
    full = json.loads(run(model, "big", "--json", "--full"))["values"]
    assert np.array_equal(np.array(full, "f4"), BIG)


# ------------------------------------------------------------------------- names


def test_a_name_that_there_is_not(model, run):
    out, err = run(model, "bif16", code=1)
    assert out == ""
    assert err.startswith(f"pystatedict: 'm.pth': no tensor 'bif16' among {15 + len(KINDS)}\n")
    assert "close: 'bf16'" in err
    out, err = run(model, HOSTILE + "x", code=1)
    assert all(c.isprintable() or c == "\n" for c in err)


def test_hostile_names(model, run):
    out = run(model, HOSTILE)
    assert out.splitlines()[0] == r"a\n\x1b[31m\u202eb   float64   [1]"
    assert json.loads(run(model, HOSTILE, "--json"))["name"] == HOSTILE


def test_a_meta_tensor_has_no_values(tmp_path, run):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "meta.pth")
    out, err = run(str(tmp_path / "meta.pth"), "w", code=1)
    assert (out, "has a shape, and no values" in err) == ("", True)


# ------------------------------------------------------------------------- stats


def test_stats_text(model, run):
    assert run(model, "few", "--stats") == (
        "few   int64   [3]\n"
        "  count   3\n"
        "  min     1\n"
        "  max     3\n"
        "  mean    2.33333\n"
        "  std     0.942809\n"
        "  zeros   0\n"
        "  NaN     0\n"
        "  Inf     0\n"
        "  histogram\n"
        f"  1      1   {'█' * 16}\n"
        "  2      0\n"
        f"  3      2   {'█' * 32}\n"
    )
    assert run(model, "none", "--stats").endswith("  no finite values\n")
    assert "  of      magnitudes\n" in run(model, "complex", "--stats")


def test_stats_of_odd_values(model, run):
    stats = json.loads(run(model, "odd", "--stats", "--json"))["stats"]
    assert stats.pop("histogram") == {
        "edges": [i / 8 for i in range(17)],
        "counts": [2] + [0] * 14 + [1],
    }
    std = stats.pop("std")
    assert std == pytest.approx(np.std([0, 0, 2]))
    assert stats == {
        "of": "values", "count": 6, "finite": 3, "nan": 1, "inf": 2, "zeros": 2,
        "min": 0.0, "max": 2.0, "mean": pytest.approx(2 / 3),
    }  # fmt: skip
    stats = json.loads(run(model, "complex", "--stats", "--json"))["stats"]
    assert (stats["finite"], stats["nan"], stats["inf"], stats["max"]) == (1, 1, 0, 5.0)
    stats = json.loads(run(model, "none", "--stats", "--json"))["stats"]
    assert (stats["count"], stats["mean"], stats["histogram"]["counts"]) == (0, None, [])


@pytest.mark.parametrize(
    "array",
    [
        BIG,
        BIG.T[::2],
        RANDOM.normal(1e9, 1, 5000),
        RANDOM.integers(-(1 << 62), 1 << 62, 3000),
        RANDOM.integers(0, 2, 3000).astype(bool),
        np.broadcast_to(np.arange(5.0), (300, 5)),
        (BIG * 100).astype("f2"),
    ],
)
def test_stats_are_numpys(array, monkeypatch):
    monkeypatch.setattr(_tensorvalues, "PIECE", 700)
    stats = Stats(Plane([array], _tensorvalues.widened).pieces)
    wide = array.astype("f8")
    assert (stats.count, stats.min, stats.max) == (array.size, array.min(), array.max())
    assert stats.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert stats.std == pytest.approx(wide.std(), rel=1e-9)
    assert stats.zeros == np.count_nonzero(array == 0)
    assert sum(stats.counts) == array.size
    assert stats.edges == sorted(stats.edges)
    if len(stats.counts) == 16:
        assert stats.counts == np.histogram(wide, stats.edges)[0].tolist()


def test_stats_at_the_ends_of_float64():
    stats = Stats(lambda: iter([np.array([-1.7e308, 1.7e308])]))
    assert (stats.min, stats.max, sum(stats.counts)) == (-1.7e308, 1.7e308, 2)
    assert stats.counts[0] == stats.counts[-1] == 1
    assert all(map(math.isfinite, stats.edges))
    json.dumps(stats.members(), allow_nan=False)
    tiny = np.array([5e-324, 1e-323])
    assert sum(Stats(lambda: iter([tiny])).counts) == 2
    many = np.array([1 << 60, (1 << 60) + 1, (1 << 60) + 1])
    assert Stats(lambda: iter([many])).counts == [1, 2]


def test_stats_in_bounded_memory():
    array = np.zeros(1 << 23, ml_dtypes.bfloat16)  # 64 MiB as float64
    tracemalloc.start()
    Stats(Plane([array], _tensorvalues.widened).pieces)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20


def test_bars_in_ascii(model):
    out = shell("cat", model, "few", "--stats", env={"PYTHONIOENCODING": "ascii"}).stdout
    assert out.endswith(
        b"  1      1   ################\n  2      0\n  3      2   " + b"#" * 32 + b"\n"
    )


# ------------------------------------------------------------------------- pipes


def test_the_script(model, tmp_path):
    with unchanged(tmp_path):
        done = shell("cat", model, "w")
        assert (done.returncode, done.stderr) == (0, b"")
        with open(model, "rb") as file:
            assert shell("cat", "-", "w", input=file.read()).stdout == done.stdout
        assert shell("cat", model).returncode == 2  # NAME is wanting
        assert shell("cat", "none.pth", "w").returncode == 2


def test_a_reader_that_leaves(model):
    with subprocess.Popen(
        [SCRIPT, "cat", model, "big", "--full"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(model):
    with open("/dev/full", "wb") as full:
        done = shell("cat", model, "w", stdout=full)
    assert (done.returncode, done.stderr) == (2, b"pystatedict: No space left on device\n")
