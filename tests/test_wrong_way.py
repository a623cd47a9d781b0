# SPDX-License-Identifier: Apache-2.0
"""The classic mistakes: each gets an error that says what happened and what to do."""

from __future__ import annotations

import functools
import io
import pathlib
from typing import Any

import kit
import numpy as np
import pytest

import pystatedict as psd

W = np.arange(6, dtype="f4").reshape(2, 3)


class Model:
    def __init__(self) -> None:
        self.weights = {"w": W}

    def state_dict(self) -> dict[str, Any]:
        return self.weights

    def __call__(self) -> None:
        raise AssertionError("nobody calls the model")


# ------------------------------------------------------------------ saving


def test_forgotten_parentheses(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(TypeError) as caught:
        psd.save(Model().state_dict, path)
    text = str(caught.value)
    assert "the method state_dict of a Model" in text
    assert "save(model.state_dict(), f)" in text
    assert list(tmp_path.iterdir()) == []
    psd.save(Model().state_dict(), path)
    assert list(psd.load(path)) == ["w"]


@pytest.mark.parametrize("where", ["path", "file"])
def test_forgotten_parentheses_further_in(where: str, tmp_path: pathlib.Path) -> None:
    target: Any = tmp_path / "a.pth" if where == "path" else io.BytesIO()
    for obj in ({"model": Model().state_dict, "epoch": 1}, [Model().state_dict], (len,)):
        with pytest.raises(TypeError, match="parentheses"):
            psd.save(obj, target)
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TypeError, match="Model"):
        psd.save(Model(), tmp_path / "a.pth")
    with pytest.raises(TypeError, match="Model"):
        psd.save({"model": Model()}, tmp_path / "a.pth")
    with pytest.raises(TypeError, match=r"hint: save .*save\(model\.state_dict\(\), f\)"):
        psd.save(Model(), tmp_path / "a.pth")
    for odd in (lambda: None, functools.partial(dict), print):
        with pytest.raises(TypeError, match="no data") as caught:
            psd.save(odd, tmp_path / "a.pth")
        assert "parentheses" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", ["out.pth", pathlib.Path("out.pth"), io.BytesIO()], ids=repr)
def test_swapped_arguments(first: Any, tmp_path: pathlib.Path) -> None:
    for second in ({"w": W}, psd.StateDict({"w": W}), [W], W):
        with pytest.raises(TypeError) as caught:
            psd.save(first, second)
        text = str(caught.value)
        assert "swapped" in text
        assert "save(state_dict, 'out.pth')" in text
    if isinstance(first, io.BytesIO):
        assert first.getvalue() == b""
    assert list(tmp_path.iterdir()) == []


def test_text_is_an_object_like_another(tmp_path: pathlib.Path) -> None:
    """torch.save("text", f) is odd and allowed; so it is here."""
    psd.save("text", tmp_path / "a.pth")
    assert psd.load(tmp_path / "a.pth") == "text"


@pytest.mark.parametrize("target", [7, None, ["out.pth"], 1.5, object()], ids=repr)
def test_no_target(target: Any) -> None:
    with pytest.raises(TypeError, match="must be a path or have"):
        psd.save({"w": W}, target)


def test_text_mode_file(tmp_path: pathlib.Path) -> None:
    with open(tmp_path / "a.pth", "w", encoding="utf-8") as file, pytest.raises(TypeError):
        psd.save({"w": W}, file)
    with open(tmp_path / "a.pth", "rb") as file, pytest.raises(OSError, match="write"):
        psd.save({"w": W}, file)


def test_tensors_of_torch_are_named() -> None:
    class Tensor:
        pass

    Tensor.__module__ = "torch"
    with pytest.raises(TypeError, match=r"detach\(\)\.cpu\(\)\.numpy\(\)"):
        kit.saved({"w": Tensor()})


# ------------------------------------------------------------------ loading


FOREIGN = {
    "html": (b"<!DOCTYPE html><html>404</html>", "html"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "git-lfs",
    ),
    "empty": (b"", "empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "png"),
    "text": (b"hello, this is a readme\n", "text"),
}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_what_is_no_checkpoint_is_named(name: str, tmp_path: pathlib.Path) -> None:
    data, code = FOREIGN[name]
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    for look in (psd.load, psd.open, psd.items):
        for f in (path, data):
            with pytest.raises(psd.NotACheckpointError) as caught:
                found = look(f)
                list(found)
            error = caught.value
            assert error.code == code
            assert error.identified == code
            assert error.hint
            assert isinstance(error, ValueError)
            if f is path:
                assert str(error).startswith(f"{str(path)!r}: ")
    assert psd.identify(path) == code


def test_ordinary_archive_is_named(tmp_path: pathlib.Path) -> None:
    import zipfile

    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(psd.NotACheckpointError):
        psd.load(path)


def test_whole_model_loads_inert() -> None:
    """torch.save(model, f): the tensors are there, its classes are not."""
    module = kit.named("my.model", "Net") + b")\x81"
    state = kit.dict_of({"_parameters": kit.dict_of({"w": kit.parameter(kit.tensor())}, True)})
    model = psd.load(kit.archive(module + state + b"b", {"0": W.tobytes()}))
    assert isinstance(model, psd.Opaque)
    assert model.qualified_name == "my.model.Net"
    kit.same_array(W, model._parameters["w"])
    assert model._parameters.trainable["w"] is True


def test_bound_method_loads_inert() -> None:
    """torch.save(model.state_dict, f): getattr is named, and not called."""
    module = kit.named("my.model", "Net") + b")\x81" + kit.dict_of({"w": kit.tensor()}) + b"b"
    body = kit.call("__builtin__", "getattr", module, kit.text("state_dict"))
    method = psd.load(kit.archive(body, {"0": W.tobytes()}))
    assert isinstance(method, psd.Opaque)
    assert method.qualified_name == "builtins.getattr"
    kit.same_array(W, method.args[0].w)
