# SPDX-License-Identifier: Apache-2.0
"""LoRA put into weights, and taken out of the difference of two models."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from test_growth import Sparse

import pystatedict as psd
from pystatedict import _loradelta
from pystatedict._lazy import LazyTensor
from pystatedict._lora import apply_lora
from pystatedict._loraconfig import AdapterConfig
from pystatedict._loraextract import extract_lora

PEFT = "base_model.model."


def some(seed: int, *shape: int, dtype: Any = "f4") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert kit.bits(a) == kit.bits(b)


def near(a: Any, b: Any, atol: float = 1e-5) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=1e-5, atol=atol)


def pair(module: str, down: np.ndarray, up: np.ndarray, form: str = PEFT) -> dict[str, Any]:
    if form == PEFT:
        return {f"{PEFT}{module}.lora_A.weight": down, f"{PEFT}{module}.lora_B.weight": up}
    stem = form + module.replace(".", "_")
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}


# ------------------------------------------------------------------ applying


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_a_linear_layer(dtype: Any) -> None:
    w, a, b = some(1, 30, 40).astype(dtype), some(2, 4, 40), some(3, 30, 4)
    base = {"l.q.weight": w, "l.q.bias": some(4, 30)}
    got = apply_lora(base, pair("l.q", a, b), alpha=8, scale=0.5)
    wide = "f8" if dtype == "f8" else "f4"
    expected = w.astype(wide) + (b.astype(wide) @ a.astype(wide)) * np.dtype(wide).type(1.0)
    same(got["l.q.weight"].numpy(), expected.astype(dtype))
    assert got["l.q.bias"] is base["l.q.bias"]
    assert list(got) == list(base)


def test_names_with_an_adapter_and_other_wrappers() -> None:
    w, a, b = some(1, 3, 4), some(2, 2, 4), some(3, 3, 2)
    expected = apply_lora({"m.fc.weight": w}, pair("m.fc", a, b), alpha=1)["m.fc.weight"].numpy()
    for base, key in (
        ("m.fc.weight", f"{PEFT}m.fc.lora_%s.default.weight"),
        ("m.fc.base_layer.weight", f"{PEFT}m.fc.lora_%s.weight"),
        ("m.fc.weight", "m.fc.lora_%s.weight"),
        ("m.fc.weight", "unet.m.fc.lora_%s.weight"),
        ("model.m.fc.weight", f"{PEFT}m.fc.lora_%s.weight"),
        ("module.m.fc.weight", f"{PEFT}m.fc.lora_%s.weight"),
    ):
        got = apply_lora({base: w}, {key % "A": a, key % "B": b}, alpha=1)
        same(got[base].numpy(), expected)


def write_adapter(folder: pathlib.Path, tensors: dict[str, Any], **config: Any) -> pathlib.Path:
    folder.mkdir()
    psd.save(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
    return folder


def test_the_config_beside_the_file(tmp_path: pathlib.Path) -> None:
    w = {"m.q.weight": some(1, 6, 6), "m.k.weight": some(2, 6, 6)}
    lora = {
        **pair("m.q", some(3, 4, 6), some(4, 6, 4)),
        **pair("m.k", some(5, 2, 6), some(6, 6, 2)),
    }

    def expected(name: str, factor: float, turned: bool = False) -> np.ndarray:
        a, b = lora[f"{PEFT}m.{name}.lora_A.weight"], lora[f"{PEFT}m.{name}.lora_B.weight"]
        delta = (b @ a) * np.float32(factor)
        return w[f"m.{name}.weight"] + (delta.T if turned else delta)

    told = {"r": 4, "lora_alpha": 16, "alpha_pattern": {"k": 3, "x.q": 5}, "rank_pattern": {"k": 2}}
    folder = write_adapter(tmp_path / "plain", lora, **told)
    for where in (folder, folder / "adapter_model.safetensors", str(folder)):
        got = apply_lora(w, where)
        near(got["m.q.weight"].numpy(), expected("q", 16 / 4))
        near(got["m.k.weight"].numpy(), expected("k", 3 / 2))
    near(apply_lora(w, folder, alpha=2)["m.k.weight"].numpy(), expected("k", 1))
    near(apply_lora(w, folder, alpha={"*.q.*": 2, "*": 4})["m.k.weight"].numpy(), expected("k", 2))
    folder = write_adapter(tmp_path / "root", lora, lora_alpha=16, use_rslora=True)
    near(apply_lora(w, folder)["m.q.weight"].numpy(), expected("q", 16 / 2))
    folder = write_adapter(tmp_path / "turned", lora, lora_alpha=4, fan_in_fan_out=True)
    near(apply_lora(w, folder)["m.q.weight"].numpy(), expected("q", 1, turned=True))
    got = apply_lora(w, folder, fan_in_fan_out=False)
    near(got["m.q.weight"].numpy(), expected("q", 1))


def test_names_in_alpha_pattern() -> None:
    config = AdapterConfig({"lora_alpha": 1, "alpha_pattern": {"k": 2, "^m.q": 3, "a.v$": 4}})
    told = {"m.k": 2, "m.kk": 1, "k": 2, "m.q": 3, "x.m.q": 1, "l.a.v": 4, "l.a.vv": 1}
    assert {module: config.alpha_of(module) for module in told} == told
    for odd in (float("nan"), 10**400, "8", None, [1]):
        assert AdapterConfig({"lora_alpha": odd}).alpha_of("m") is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "does not fit the base"),
        ({"layer_replication": [[0, 2]]}, "repeats layers"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "regular expression"),
        ("[1]", "no adapter_config.json"),
        ("[" * 100_000, "no adapter_config.json"),
    ],
)
def test_configs_that_are_refused(config: Any, said: str, tmp_path: pathlib.Path) -> None:
    folder = write_adapter(tmp_path / "a", pair("m", some(1, 1, 2), some(2, 2, 1)))
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(psd.UnsupportedError, match=said):
        apply_lora({"m.weight": some(3, 2, 2)}, folder)


def test_alpha_must_be_told_of_peft_and_is_the_rank_of_kohya() -> None:
    base = {"m.fc.weight": some(1, 4, 4)}
    a, b = some(2, 2, 4), some(3, 4, 2)
    with pytest.raises(psd.MismatchError, match="give alpha="):
        apply_lora(base, pair("m.fc", a, b))
    got = apply_lora(base, pair("m.fc", a, b, "lora_unet_"))
    near(got["m.fc.weight"].numpy(), base["m.fc.weight"] + b @ a)
    for alpha in (np.array(1, "f4"), np.array(1, "f2"), 1.0):
        lora = {**pair("m.fc", a, b, "lora_unet_"), "lora_unet_m_fc.alpha": alpha}
        near(apply_lora(base, lora)["m.fc.weight"].numpy(), base["m.fc.weight"] + b @ a / 2)
    lora["lora_unet_m_fc.alpha"] = np.ones(2, "f4")
    with pytest.raises(psd.MismatchError, match="give alpha="):
        apply_lora(base, lora)


def test_kohya_names() -> None:
    a, b = some(2, 2, 4), some(3, 4, 2)
    for name, form in (
        ("down_blocks.0.to_q.weight", "lora_unet_"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "lora_te_"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "lora_te2_"),
        ("model.diffusion_model.in_0.q_x.weight", "lora_unet_"),
    ):
        module = name.removesuffix(".weight").removeprefix("model.diffusion_model.")
        base = {name: np.zeros((4, 4), "f4"), "other.weight": np.zeros((4, 4), "f4")}
        near(apply_lora(base, pair(module, a, b, form))[name].numpy(), b @ a)
    base = {"a.b_c.weight": np.zeros((4, 4), "f4"), "a_b.c.weight": np.zeros((4, 4), "f4")}
    with pytest.raises(psd.MismatchError, match=r"may be any of a\.b_c\.weight, a_b\.c\.weight"):
        apply_lora(base, pair("a.b.c", a, b, "lora_unet_"))


def test_an_embedding() -> None:
    w, a, b = some(1, 50, 6), some(2, 3, 50), some(3, 6, 3)
    for ending in ("", ".default"):
        lora = {f"{PEFT}emb.lora_embedding_A{ending}": a, f"{PEFT}emb.lora_embedding_B{ending}": b}
        got = apply_lora({"emb.weight": w}, lora, alpha=6)
        near(got["emb.weight"].numpy(), w + (b @ a).T * 2)


@pytest.mark.oracle
@pytest.mark.parametrize("form", [PEFT, "lora_unet_"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_does_what_the_two_do(form: str, size: int) -> None:
    torch = pytest.importorskip("torch")
    w, a, b = some(1, 5, 4, size, size), some(2, 2, 4, size, size), some(3, 5, 2, 1, 1)
    got = apply_lora({"c.weight": w}, pair("c", a, b, form), alpha=4)["c.weight"].numpy()
    x = torch.from_numpy(some(4, 1, 4, 7, 7))
    conv = torch.nn.functional.conv2d
    expected = conv(x, torch.from_numpy(w)) + 2 * conv(
        conv(x, torch.from_numpy(a)), torch.from_numpy(b)
    )
    assert torch.allclose(conv(x, torch.from_numpy(got)), expected, atol=1e-4)
    if size == 1:  # pairs of matrices, as some programs write them
        flat = pair("c", a.reshape(2, 4), b.reshape(5, 2), form)
        near(apply_lora({"c.weight": w}, flat, alpha=4)["c.weight"].numpy(), got)


@pytest.mark.oracle
def test_a_convolution_in_three_parts() -> None:
    torch = pytest.importorskip("torch")
    w, down = some(1, 5, 4, 3, 3), some(2, 2, 4, 1, 1)
    mid, up = some(3, 3, 2, 3, 3), some(4, 5, 3, 1, 1)
    lora = {**pair("c", down, up, "lora_unet_"), "lora_unet_c.lora_mid.weight": mid}
    got = apply_lora({"c.weight": w}, lora, alpha=3)["c.weight"].numpy()
    x, conv = torch.from_numpy(some(5, 1, 4, 7, 7)), torch.nn.functional.conv2d
    inner = x
    for part in (down, mid, up):
        inner = conv(inner, torch.from_numpy(part))
    expected = conv(x, torch.from_numpy(w)) + inner
    assert torch.allclose(conv(x, torch.from_numpy(got)), expected, atol=1e-3)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3, 3)])
def test_dora(shape: tuple[int, ...]) -> None:
    """As PEFT merges it: the sum's rows, each of the length that was learned."""
    torch = pytest.importorskip("torch")
    ones = (1,) * len(shape[2:])
    w, a, b = some(1, *shape), some(2, 2, *shape[1:]), some(3, 6, 2, *ones)
    m = np.abs(some(4, 1, 6, *ones) if ones else some(4, 6))
    lora = {**pair("c", a, b), f"{PEFT}c.lora_magnitude_vector": m}
    got = apply_lora({"c.weight": w}, lora, alpha=4)["c.weight"].numpy()
    total = torch.from_numpy(w + 2 * (b.reshape(6, 2) @ a.reshape(2, -1)).reshape(shape))
    norm = total.flatten(1).norm(dim=1).reshape(6, *(1 for _ in shape[1:]))
    expected = (torch.from_numpy(m).reshape(norm.shape) / norm * total).numpy()
    near(got, expected)
    half = apply_lora({"c.weight": w}, lora, alpha=4, scale=0.5)["c.weight"].numpy()
    near(half, (w + expected) / 2)


def test_modules_that_are_saved_whole() -> None:
    base = {"fc.weight": some(1, 4, 4, dtype="f2"), "head.weight": some(2, 2, 4, dtype="f2"),
            "head.bias": some(3, 2, dtype="f2"), "fc.bias": some(8, 4, dtype="f2")}  # fmt: skip
    head, bias = some(4, 2, 4), some(5, 2)
    lora = {
        **pair("fc", some(6, 1, 4), some(7, 4, 1)),
        f"{PEFT}head.weight": head,
        f"{PEFT}head.modules_to_save.default.bias": bias,
        f"{PEFT}fc.base_layer.bias": bias.repeat(2),
    }
    got = apply_lora(base, lora, alpha=1)
    same(got["head.weight"].numpy(), head.astype("f2"))
    same(got["head.bias"].numpy(), bias.astype("f2"))
    same(got["fc.bias"].numpy(), bias.repeat(2).astype("f2"))


def test_all_that_found_no_place_is_told_at_once() -> None:
    base = {"m.q_proj.weight": some(1, 4, 4), "m.k_proj.weight": some(2, 4, 4), "n": np.zeros(2)}
    a, b = some(3, 2, 4), some(4, 4, 2)
    lora = {
        **pair("m.q_prj", a, b),
        **pair("m.k_proj", some(5, 2, 5), b),
        f"{PEFT}m.q_proj.lora_A.weight": a,
        f"{PEFT}other.weight": a,
        f"{PEFT}m.q_proj.lora_B.bias": b,
        f"{PEFT}n": np.zeros(3),
    }
    with pytest.raises(psd.MismatchError) as caught:
        apply_lora(base, lora, alpha=1)
    error = caught.value
    assert error.unexpected_keys == [
        f"{PEFT}m.q_prj.lora_A.weight", f"{PEFT}m.q_prj.lora_B.weight", f"{PEFT}other.weight",
        f"{PEFT}m.q_proj.lora_B.bias",
    ]  # fmt: skip
    assert error.mismatched == [f"{PEFT}n", f"{PEFT}m.k_proj", f"{PEFT}m.q_proj"]
    text = str(error)
    assert "close: m.q_proj.weight" in text
    assert "(2, 5) and (4, 2) do not fit (4, 4) of m.k_proj.weight" in text
    assert "a pair is needed" in text
    assert f"{PEFT}n: shape (3,), in the base (2,)" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({f"{PEFT}m.lora_A.b.weight": 0, f"{PEFT}m.lora_B.b.weight": 1}, "another pair"),
        ({"m.dora_scale": 2}, "dora_scale|does not fit"),
        ({f"{PEFT}m.lora_magnitude_vector": 2}, "magnitude"),
    ],
)
def test_what_is_not_read_is_refused(more: dict[str, int], said: str) -> None:
    parts = [some(1, 2, 4), some(2, 4, 2), np.ones(3, "f4")]
    lora = {**pair("m", parts[0], parts[1]), **{key: parts[i] for key, i in more.items()}}
    with pytest.raises(psd.MismatchError, match=said):
        apply_lora({"m.weight": some(3, 4, 4)}, lora, alpha=1)


def test_dora_of_kohya_is_refused() -> None:
    lora = {**pair("m", some(1, 2, 4), some(2, 4, 2), "lora_unet_"),
            "lora_unet_m.dora_scale": np.ones((4, 1), "f4")}  # fmt: skip
    with pytest.raises(psd.MismatchError, match="dora_scale"):
        apply_lora({"m.weight": some(3, 4, 4)}, lora)


def test_no_lora_at_all() -> None:
    with pytest.raises(psd.MismatchError, match="no LoRA tensors"):
        apply_lora({"m.weight": some(3, 4, 4)}, {"m.weight": some(3, 4, 4)})
    with pytest.raises(psd.MismatchError, match="must be of floats"):
        lora = pair("m", some(1, 2, 4), some(2, 4, 2))
        apply_lora({"m.weight": np.zeros((4, 4), "i4")}, lora, alpha=1)


@pytest.mark.parametrize("turned", [False, True])
def test_it_does_not_matter_how_it_is_read(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loradelta, "_BLOCK", 1000)
    a, b = some(2, 8, 300), some(3, 90, 8)
    w = some(1, 300, 90) if turned else some(1, 90, 300)

    def make() -> LazyTensor:
        lora = pair("m", a, b)
        return apply_lora({"m.weight": w}, lora, alpha=8, fan_in_fan_out=turned)["m.weight"]

    whole = make().read(0, 27_000)
    near(whole.reshape(w.shape), w + ((b @ a).T if turned else b @ a), 1e-4)
    again = make()
    pieces = [again.read(s, min(777, 27_000 - s)) for s in range(0, 27_000, 777)]
    same(np.concatenate(pieces), whole)
    same(make().read(20_001, 5), whole[20_001:20_006])
    same(again.read(5, 1), whole[5:6])  # once more, after it was let go
    same(again.read(20_001, 5), whole[20_001:20_006])
    same(again.read(5, 1), whole[5:6])  # and back


def test_files_flags_and_ties(tmp_path: pathlib.Path) -> None:
    w = some(1, 4, 4)
    base = psd.StateDict({"m.weight": w, "t.weight": w, "n": np.int64([3]), "step": 7},
                         metadata={"": {"version": 1}}, trainable={"m.weight": False})  # fmt: skip
    psd.save(base, tmp_path / "base.pth", trainable="sidecar")
    lora = pair("m", some(2, 1, 4), some(3, 4, 1))
    psd.save(lora, tmp_path / "lora.pth")
    got = apply_lora(tmp_path / "base.pth", tmp_path / "lora.pth", alpha=1)
    psd.save(got, tmp_path / "merged.pth")
    back = psd.load(tmp_path / "merged.pth")
    same(back["m.weight"], apply_lora(base, lora, alpha=1)["m.weight"].numpy())
    same(back["t.weight"], w)
    assert (back["n"].tolist(), back["step"], back.metadata) == ([3], 7, {"": {"version": 1}})
    assert got.trainable["m.weight"] is False


# ------------------------------------------------------------------ extracting


@pytest.mark.parametrize("names", ["peft", "kohya"])
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_what_was_extracted_can_be_applied(names: Any, alpha: float | None) -> None:
    base = {"a.fc.weight": some(1, 12, 9), "c.weight": some(2, 6, 4, 3, 3),
            "s.weight": some(3, 2, 9), "n.weight": some(4, 5), "a.fc.bias": some(5, 12),
            "i": np.int64([1])}  # fmt: skip
    tuned = dict(base)
    tuned["a.fc.weight"] = base["a.fc.weight"] + some(6, 12, 3) @ some(7, 3, 9)
    tuned["c.weight"] = base["c.weight"] + (some(8, 6, 3) @ some(9, 3, 36)).reshape(6, 4, 3, 3)
    tuned["s.weight"] = base["s.weight"] + some(10, 2, 9)
    tuned["n.weight"] = base["n.weight"] + 1
    tuned["i"] = np.int64([2])
    lora = extract_lora(tuned, base, 3, names=names, alpha=alpha)
    assert lora.config["r"] == 3
    assert lora.config["lora_alpha"] == (alpha or 3)
    down = "base_model.model.c.lora_A.weight" if names == "peft" else "lora_unet_c.lora_down.weight"
    assert lora[down].shape == (3, 4, 3, 3)
    assert len(lora) == (6 if names == "peft" else 9)
    given = lora.config["lora_alpha"] if names == "peft" else None
    got = apply_lora(base, lora, alpha=given)
    for name in ("a.fc.weight", "c.weight", "s.weight"):
        near(got[name].numpy(), tuned[name], 1e-4)
    assert set(lora.energy()) == {"a.fc.weight", "c.weight", "s.weight"}
    assert all(part == pytest.approx(1) for part in lora.energy().values())
    assert lora.left_out() == ["n.weight", "i"]


def test_the_energy_that_is_kept() -> None:
    base = {"m.weight": np.zeros((4, 4), "f4"), "z.weight": np.zeros((2, 2), "f4")}
    tuned = {"m.weight": np.diag(np.float32([4, 2, 1, 0])), "z.weight": np.zeros((2, 2), "f4")}
    lora = extract_lora(tuned, base, 1)
    assert lora.energy() == {"m.weight": pytest.approx(16 / 21), "z.weight": 1.0}
    got = apply_lora(base, lora, alpha=1)
    near(got["m.weight"].numpy(), np.diag(np.float32([4, 0, 0, 0])))
    near(got["z.weight"].numpy(), base["z.weight"])
    assert lora.left_out() == []


def test_a_matrix_is_decomposed_once_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    true = np.linalg.svd

    def counted(array: Any, **named: Any) -> Any:
        calls.append(array.dtype)
        return true(array, **named)

    monkeypatch.setattr(np.linalg, "svd", counted)
    base = {name: some(i, 8, 8) for i, name in enumerate(("a.weight", "b.weight"))}
    tuned = {name: w + 1 for name, w in base.items()}
    lora = extract_lora(tuned, base, 2, dtype="bfloat16", accumulate="float64")
    assert calls == []
    data = kit.saved(lora)
    assert [str(dtype) for dtype in calls] == ["float64", "float64"]
    assert lora._work._kept is None
    back = psd.load(bytearray(data))
    assert back["base_model.model.a.lora_A.weight"].dtype == ml_dtypes.bfloat16
    assert lora.energy()["a.weight"] == pytest.approx(1)
    assert len(calls) == 2


def test_which_weights_and_what_is_refused() -> None:
    base = {"a.weight": some(1, 4, 4), "b.weight": some(2, 4, 4)}
    tuned = {"a.weight": some(3, 4, 4), "b.weight": np.full((4, 4), np.inf, "f4")}
    lora = extract_lora(tuned, base, 1, pattern="a.*", prefix="")
    assert list(lora) == ["a.lora_A.weight", "a.lora_B.weight"]
    assert lora.left_out() == ["b.weight"]
    with pytest.raises(ValueError, match=r"'b\.weight' is not finite"):
        extract_lora(tuned, base, 1).energy()
    for named, said in (
        ({"rank": 0}, "rank"), ({"rank": 1, "names": "x"}, "names"),
        ({"rank": 1, "alpha": 0}, "alpha"), ({"rank": 1, "dtype": "int8"}, "float"),
        ({"rank": 1, "pattern": "z*"}, "matrix of floats"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            extract_lora(tuned, base, **named)  # type: ignore[arg-type]
    with pytest.raises(psd.MismatchError):
        extract_lora(tuned, {"a.weight": some(1, 4, 4)}, 1)
    clash = {"a.b_c.weight": some(1, 2, 2), "a_b.c.weight": some(1, 2, 2)}
    with pytest.raises(ValueError, match="two weights get the name"):
        extract_lora(clash, clash, 1, names="kohya")


# ------------------------------------------------------------------ memory

PEAK = """
import sys
import pystatedict as psd
from pystatedict._lora import apply_lora
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
small, large, out = sys.argv[1:]
psd.save(apply_lora(small + ".base", small, alpha=1), out)
before = peak()
psd.save(apply_lora(large + ".base", large, alpha=1), out)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="nothing tells the peak")
def test_a_large_weight_is_never_whole_in_memory(tmp_path: pathlib.Path) -> None:
    for name, rows in (("small", 64), ("large", 51_200)):
        file = Sparse(tmp_path / f"{name}.base")
        program = kit.program(kit.dict_of({"m.weight": kit.tensor("0", (rows, 1024))}))
        file.add("huge/data.pkl", len(program), program)
        file.add("huge/data/0", rows * 4096)
        file.close()
        psd.save(pair("m", np.ones((2, 1024), "f4"), np.ones((rows, 2), "f4")), tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *(str(tmp_path / n) for n in ("small", "large", "out"))],
        env=kit.letting_go(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 30 << 10  # KiB, of 200 MiB
    with psd.open(tmp_path / "out") as checkpoint:
        assert checkpoint["m.weight"].shape == (51_200, 1024)
        assert checkpoint["m.weight"][-1, -1] == 1


# ------------------------------------------------------------------ PEFT itself


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["fc", "k"], "rank_pattern": {"k": 2}, "alpha_pattern": {"k": 3}},
        {"target_modules": ["fc", "k"], "use_rslora": True, "bias": "all"},
        {"target_modules": ["fc", "conv"], "use_dora": True, "modules_to_save": ["k"]},
        {"target_modules": ["emb", "fc", "conv"]},
    ],
)
def test_peft_merges_the_same(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    torch.manual_seed(0)
    parts = {"emb": torch.nn.Embedding(9, 8), "fc": torch.nn.Linear(8, 6),
             "k": torch.nn.Linear(6, 8), "conv": torch.nn.Conv2d(3, 4, 3)}  # fmt: skip
    model = torch.nn.ModuleDict(parts)
    torch.save(model.state_dict(), tmp_path / "base.pth")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **options))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 10
    tuned.save_pretrained(tmp_path / "adapter")
    got = apply_lora(tmp_path / "base.pth", tmp_path / "adapter")
    expected = tuned.merge_and_unload().state_dict()
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        near(got[name].numpy(), tensor.numpy(), 1e-6)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_peft_reads_what_was_extracted(tmp_path: pathlib.Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(8, 6), "conv": torch.nn.Conv2d(3, 4, 3)})
    base = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    tuned = {**base, "fc.weight": base["fc.weight"] + some(1, 6, 2) @ some(2, 2, 8)}
    lora = extract_lora(tuned, base, 5, alpha=10)
    folder = write_adapter(tmp_path / "a", {n: t.numpy() for n, t in lora.items()}, **lora.config)
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    for name, tensor in merged.items():
        near(tensor.numpy(), tuned[name])
