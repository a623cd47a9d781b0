# SPDX-License-Identifier: Apache-2.0
"""Archives of torch.package: which pickles there are, and one of them by root=."""

from __future__ import annotations

import io
import pathlib
import pickle
import zipfile

import kit
import numpy as np
import pytest
from test_script import DATA, ROWS, check

import pystatedict as psd

PACKAGES = [row for row in ROWS if row["file"].startswith("package")]
PACKAGE = DATA / "package.pt"


@pytest.mark.parametrize("row", PACKAGES, ids=lambda row: row["file"])
def test_state_dicts_are_what_torch_says(row: dict[str, object]) -> None:
    path = DATA / str(row["file"])
    check(psd.load(path, root=str(row["root"])), row)
    with psd.open(path, root=str(row["root"])) as checkpoint:
        assert list(checkpoint) == [entry["name"] for entry in row["tensors"]]  # type: ignore[attr-defined, index]
        for name, info in checkpoint.items():
            again = pickle.loads(pickle.dumps(info))
            assert np.array_equal(again.numpy(), info.numpy()), name


def test_without_a_root_the_pickles_are_named() -> None:
    for root in (None, "auto"):
        with pytest.raises(psd.UnsupportedError) as raised:
            psd.load(PACKAGE, root=root)
        assert "model/model.pkl, data/grid.pkl" in str(raised.value)
        assert raised.value.hint == "say which: root='model/model.pkl'"
    with pytest.raises(psd.MissingTensorError) as missing:
        psd.open(PACKAGE, root="data/other.pkl")
    assert missing.value.suggestions == ("model/model.pkl", "data/grid.pkl")


def test_a_resource_is_loaded_whole_or_in_part() -> None:
    found = psd.load(PACKAGE, root="data/grid.pkl")
    assert found["n"] == 3
    assert found["grid"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.may_share_memory(found["grid"], found["row"])
    assert psd.load(PACKAGE, root="data/grid.pkl.row").tolist() == [3, 4, 5]
    module = psd.load(PACKAGE, root="model/model.pkl")
    assert isinstance(module, psd.OpaqueModule)
    assert module.qualified_name == "packaged.Net"
    assert list(module.state_dict()) == ["count", "fc.weight", "fc.bias"]


def test_the_only_pickle_needs_no_name() -> None:
    rows = list(psd.items(DATA / "package_one.pt", trainable=True))
    assert [(name, flag) for name, _, flag in rows] == [
        ("count", False),
        ("fc.weight", True),
        ("fc.bias", False),
    ]


def test_scripts_within_are_inert_and_can_be_read() -> None:
    found = psd.load(DATA / "package_script.pt", root="model/model.pkl")
    assert found["script"].qualified_name == "torch.jit._script.unpackage_script_module"
    assert found["script"].args == ("0",)
    script = psd.load(DATA / "package_script.pt", root=".data/ts_code/0/data.pkl")
    assert isinstance(script, psd.OpaqueModule)
    assert list(script.state_dict()) == ["count", "fc.weight", "fc.bias"]


def test_a_graph_carries_code_and_weights() -> None:
    path = DATA / "package_graph.pt"
    with pytest.raises(psd.UnsafePickleError) as raised:
        psd.load(path, root="model/model.pkl")
    assert raised.value.globals == ("torch.fx.graph_module.reduce_package_graph_module",)
    found = psd.load(path, root="auto", dangerous="opaque")
    assert list(found) == ["fc.weight", "fc.bias"]
    assert list(psd.open(path, root="auto")) == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("row", [r for r in ROWS if r["file"] == "graph.pth"], ids=["graph.pth"])
def test_a_graph_outside_of_packages(row: dict[str, object]) -> None:
    with pytest.raises(psd.UnsafePickleError):
        psd.load(DATA / "graph.pth")
    check(psd.load(DATA / "graph.pth", root="auto", dangerous="opaque"), row)


# ------------------------------------------------------------------ by hand


def package(pickles: dict[str, bytes], **more: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("p/.data/extern_modules", "torch\n")
        out.writestr("p/.data/0.storage", np.arange(6, dtype="<f4").tobytes())
        for name, body in pickles.items():
            out.writestr(f"p/{name}", kit.program(body))
        for name, data in more.items():
            out.writestr(f"p/{name}", data)
    return file.getvalue()


def reduced(*parts: bytes) -> bytes:
    return kit.tuple_of(kit.text("reduce_package"), *parts) + b"Q"


def test_names_with_dots() -> None:
    data = package({"a.pkl": kit.integer(1), "a.pkl.b.pkl": kit.dict_of({"c": kit.integer(2)})})
    assert psd.load(data, root="a.pkl") == 1
    assert psd.load(data, root="a.pkl.b.pkl") == {"c": 2}
    assert psd.load(data, root="a.pkl.b.pkl.c") == 2


def test_a_package_without_pickles() -> None:
    with pytest.raises(psd.UnsupportedError, match="without a pickle"):
        psd.load(package({}))


def test_calls_of_the_package_are_inert() -> None:
    arguments = kit.tuple_of(kit.tensor(), kit.integer(1))
    body = reduced(kit.integer(5), kit.named("mine", "make"), arguments)
    found = psd.load(package({"a.pkl": body}), root="a.pkl")
    assert found.qualified_name == "mine.make"
    assert found.args[0].shape == (2, 3) and found.args[1] == 1
    bad = reduced(kit.integer(5), kit.named("os", "system"), kit.tuple_of(kit.text("true")))
    with pytest.raises(psd.UnsafePickleError):
        psd.load(package({"a.pkl": bad}), root="a.pkl")


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (kit.integer(1), kit.named("a", "b")),
        (kit.integer(1), kit.text("a"), kit.tuple_of()),
        (kit.integer(1), kit.named("a", "b"), b"]"),
        (kit.integer(1), kit.named("a", "b"), kit.tuple_of(), b"N"),
    ],
)
def test_calls_of_another_shape_are_corrupt(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(psd.CorruptError):
        psd.load(package({"a.pkl": reduced(*parts)}), root="a.pkl")


def test_a_script_within_is_checked_as_any() -> None:
    code = (
        "class M(Module):\n  w : Tensor\n  def __getstate__(self) -> Tensor:\n    return self.w\n"
    )
    code += "  def __setstate__(self, state: Tensor) -> NoneType:\n    torch.save(state, 'x')\n"
    body = kit.named("__torch__", "M") + b")\x81" + kit.tensor() + b"b"
    data = package(
        {".data/ts_code/0/data.pkl": body, ".data/ts_code/0/constants.pkl": b")"},
        **{".data/ts_code/code/__torch__.py": code.encode()},
    )
    with pytest.raises(psd.UnsafePickleError) as raised:
        psd.load(data, root=".data/ts_code/0/data.pkl")
    assert raised.value.globals == ("torch.save",)


def test_a_path_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "p.pt"
    path.write_bytes(package({"a.pkl": b"R"}))
    for root in (None, "a.pkl"):
        with pytest.raises(psd.StateDictError) as raised:
            psd.load(path, root=root)
        assert str(path) in str(raised.value)
