# SPDX-License-Identifier: Apache-2.0
"""Whole models in pickles made by hand: what is told of them, and hostile ones."""

from __future__ import annotations

import pathlib

import kit
import numpy as np
import pytest

import pystatedict as psd

W = np.arange(6, dtype="f4").reshape(2, 3)
STORED = {"0": W.tobytes()}


def call_of(module: str, name: str, state: bytes) -> bytes:
    return kit.named(module, name) + b")\x81" + state + b"b"


def attributes(
    parameters: dict[str, bytes] | None = None,
    modules: dict[str, bytes] | None = None,
    **others: bytes,
) -> bytes:
    own = {"_parameters": kit.dict_of(parameters or {}), "_modules": kit.dict_of(modules or {})}
    return kit.dict_of({**own, **others})


def net(module: str = "my.model", name: str = "Net") -> bytes:
    return call_of(module, name, attributes({"w": kit.parameter(kit.tensor())}))


def compiled(inner: bytes) -> bytes:
    return kit.call("torch._dynamo.eval_frame", "OptimizedModule", inner, b"N")


def loaded(body: bytes) -> psd.StateDict:
    found = psd.load(kit.archive(body, STORED), root="auto")
    assert isinstance(found, psd.StateDict)
    return found


# ------------------------------------------------------------------ whole models


def test_auto_gives_the_state_dict() -> None:
    sd = loaded(net())
    kit.same_array(W, sd["w"])
    assert sd.trainable["w"] is True
    assert sd.metadata == {"": {"version": 1}}


def test_a_path_to_a_model_gives_its_state_dict() -> None:
    data = kit.archive(kit.dict_of({"ema": net(), "epoch": kit.integer(1)}), STORED)
    for root in ("auto", "ema"):
        assert list(psd.load(data, root=root)) == ["w"]
        with psd.open(data, root=root) as checkpoint:
            assert list(checkpoint) == ["w"]
    assert isinstance(psd.load(data)["ema"], psd.OpaqueModule)


def test_methods_are_warned_of(tmp_path: pathlib.Path) -> None:
    body = kit.call("__builtin__", "getattr", net(), kit.text("state_dict"))
    path = tmp_path / "model.pth"
    path.write_bytes(kit.archive(body, STORED))
    for look in (psd.load, psd.open, lambda f: list(psd.items(f))):
        with pytest.warns(psd.StateDictWarning, match="parentheses") as warned:
            look(path)
        assert warned[0].filename == __file__
    other = kit.call("__builtin__", "getattr", net(), kit.text("parameters"))
    with pytest.warns(psd.StateDictWarning, match=r"torch\.save\(model\.parameters, f\)"):
        assert list(psd.load(kit.archive(other, STORED), root="auto")) == ["w"]


def test_compiled_models() -> None:
    assert list(loaded(compiled(net()))) == ["_orig_mod.w"]
    twice = loaded(compiled(compiled(net())))
    assert list(twice) == ["_orig_mod._orig_mod.w"]
    assert list(twice.metadata) == ["", "_orig_mod", "_orig_mod._orig_mod"]
    within = call_of("my.model", "Net", attributes(modules={"a": compiled(net()), "b": net()}))
    assert list(loaded(within)) == ["a._orig_mod.w", "b.w"]


def test_what_is_compiled_and_no_model() -> None:
    with pytest.warns(psd.StateDictWarning, match=r"_orig_mod \(my\.own\.Thing\)"):
        assert list(loaded(compiled(call_of("my.own", "Thing", b"}")))) == []


def test_children_that_are_none_are_named() -> None:
    thing = call_of("my.own", "Thing", kit.dict_of({"mine": kit.tensor()}))
    model = call_of("my.model", "Net", attributes(modules={"odd": thing, "gap": b"N", "a": net()}))
    with pytest.warns(psd.StateDictWarning, match=r": odd \(my\.own\.Thing\)\."):
        assert list(loaded(model)) == ["a.w"]


def test_only_so_many_are_named() -> None:
    thing = call_of("my.own", "Thing", b"}")
    model = call_of("my.model", "Net", attributes(modules={f"m{i}": thing for i in range(50)}))
    with pytest.warns(psd.StateDictWarning) as warned:
        loaded(model)
    assert str(warned[0].message).count("my.own.Thing") == 16


def test_hooks_are_named_and_not_run() -> None:
    hooks = kit.dict_of({"0": kit.named("my.hooks", "change")}, ordered=True)
    model = call_of("my.model", "Net", attributes(_state_dict_hooks=hooks))
    with pytest.warns(psd.StateDictWarning, match=r"the model \(my\.hooks\.change, a hook\)"):
        loaded(model)


# ------------------------------------------------------------------ quantized models


def convolution(parts: int = 15, scale: bytes = b"G?\xe0\x00\x00\x00\x00\x00\x00") -> bytes:
    settings = [kit.integer(1)] * 10
    state = [*settings, kit.tensor(), b"N", scale, kit.integer(7), b"\x89"][:parts]
    kind = "torch.ao.nn.quantized.modules.conv"
    return call_of(kind, "Conv2d", kit.tuple_of(*state))


def test_quantized_convolutions() -> None:
    model = call_of("my.model", "Net", attributes(modules={"c": convolution()}))
    sd = loaded(model)
    assert list(sd) == ["c.weight", "c.bias", "c.scale", "c.zero_point"]
    assert sd["c.bias"] is None
    assert (sd["c.scale"].dtype, sd["c.scale"].shape) == (np.dtype("f4"), ())
    assert (sd["c.zero_point"].dtype, int(sd["c.zero_point"])) == (np.dtype("i8"), 7)
    assert float(sd["c.scale"]) == 0.5
    again = kit.reloaded(sd)
    assert float(again["c.scale"]) == 0.5
    assert list(loaded(convolution())) == ["weight", "bias", "scale", "zero_point"]


def test_numbers_that_a_big_endian_file_tells() -> None:
    data = kit.archive(convolution(), {"0": W.byteswap().tobytes()}, byteorder=b"big")
    sd = psd.load(data, root="auto")
    kit.same_array(W, sd["weight"])
    assert float(sd["scale"]) == 0.5
    assert int(sd["zero_point"]) == 7


@pytest.mark.parametrize(
    "odd", [convolution(13), convolution(scale=kit.text("x"))], ids=["13", "x"]
)
def test_quantized_convolutions_of_another_form(odd: bytes) -> None:
    model = call_of("my.model", "Net", attributes(modules={"a": net(), "c": odd}))
    with pytest.warns(psd.StateDictWarning, match=r": c \(torch\.ao\.nn\.quantized"):
        assert next(iter(loaded(model))) == "a.w"


def packed(weight: bytes) -> bytes:
    inner = kit.tuple_of(kit.tuple_of(weight, b"N"), kit.text("__torch__.x"))
    return kit.named("torch", "ScriptObject") + b")\x81" + inner + b"b"


def test_packed_weights() -> None:
    kind = "torch.ao.nn.quantized.modules.linear"
    told = {"dtype": kit.named("torch", "qint8"), "_packed_params": packed(kit.tensor())}
    inner = call_of(kind, "LinearPackedParams", attributes(**told))
    numbers = {"scale": kit.integer(2), "zero_point": kit.integer(0)}
    linear = call_of(kind, "Linear", attributes(modules={"_packed_params": inner}, **numbers))
    sd = loaded(linear)
    names = ["scale", "zero_point", "_packed_params.dtype", "_packed_params._packed_params"]
    assert list(sd) == names
    assert sd.metadata == {"": {"version": 3}, "_packed_params": {"version": 3}}
    assert float(sd["scale"]) == 2.0
    weight, bias = sd["_packed_params._packed_params"]
    kit.same_array(W, weight)
    assert bias is None


@pytest.mark.parametrize("missing", ["dtype", "_packed_params"])
def test_packed_weights_of_another_form(missing: str) -> None:
    told = {"dtype": kit.named("torch", "qint8"), "_packed_params": packed(kit.tensor())}
    told[missing] = b"N" if missing == "_packed_params" else told.pop("dtype")
    if missing == "dtype":
        del told["dtype"]
    kind = "torch.ao.nn.quantized.modules.linear"
    model = call_of(kind, "LinearPackedParams", attributes(**told))
    with pytest.warns(psd.StateDictWarning, match="LinearPackedParams"):
        loaded(call_of("my.model", "Net", attributes(modules={"a": net(), "p": model})))


# ------------------------------------------------------------------ Python 2's OrderedDict


def pairs(items: dict[str, bytes]) -> bytes:
    rows = b"".join(b"](" + kit.text(k) + v + b"e" for k, v in items.items())
    return kit.call("collections", "OrderedDict", b"](" + rows + b"e")


def test_pairs_of_python_2() -> None:
    data = kit.archive(pairs({"w": kit.tensor(), "n": kit.parameter(kit.tensor())}), STORED)
    sd = psd.load(data)
    assert isinstance(sd, psd.StateDict)
    assert dict(sd.trainable) == {"w": None, "n": True}
    assert sd.info("w").shape == (2, 3)
    with psd.open(data) as checkpoint:
        assert list(checkpoint) == ["w", "n"]
    assert list(psd.load(kit.archive(kit.dict_of({"model": pairs({"w": kit.tensor()})}), STORED),
                         root="auto")) == ["w"]  # fmt: skip
    model = call_of("my.model", "Net", kit.dict_of({
        "_parameters": pairs({"w": kit.tensor()}), "_modules": pairs({"inner": net()}),
    }))  # fmt: skip
    assert list(loaded(model)) == ["w", "inner.w"]


def test_one_list_of_pairs_told_of_many_times() -> None:
    """Each call would have as many items as the list: no more are made than there are values."""
    many = 400
    row = b"".join(b"](" + kit.text(f"k{i}") + b"Ne" for i in range(many))
    memo = b"q\x00"
    first = b"](" + row + b"e" + memo
    calls = b"".join(kit.call("collections", "OrderedDict", b"h\x00") for _ in range(many))
    body = b"(" + first + calls + b"t"
    archive = psd.open(kit.archive(body)).archive
    told = [child for child in archive.children() if child[2] == "dict"]
    assert len(told) == many
    items = sum(len(archive.children(ref)) for _, ref, _ in told)
    assert items <= 8 * many  # of 160,000


# ------------------------------------------------------------------ hostile


def test_a_model_compiled_of_itself() -> None:
    """A call cannot be an argument of itself; a module can be its own child by its state."""
    inner = kit.named("my.model", "Net") + b")\x81q\x00"
    state = attributes(modules={"self": b"h\x00"}, parameters={"w": kit.tensor()})
    assert list(loaded(inner + state + b"b")) == ["w"]


def test_a_deep_chain_of_compiled_models() -> None:
    body = net()
    for _ in range(2000):
        body = compiled(body)
    try:
        sd = loaded(body)
    except psd.LimitError:
        return
    assert len(sd) == 1


def test_a_name_of_a_hook_that_many_modules_share() -> None:
    """Long keys of attributes that many modules share cost no more than the file's bytes."""
    long = kit.text("x" * 3000)
    hook = kit.named("torch.ao.quantization.fx.graph_module", "_save_packed_weight")
    shared = attributes(_state_dict_hooks=kit.dict_of({"0": hook}))
    shared = shared[:-1] + long + b"Nu"
    children = b"}(" + kit.text("a0") + kit.named("my", "M") + b")\x81" + shared + b"q\x07b"
    for i in range(1, 300):
        children += kit.text(f"a{i}") + kit.named("my", "M") + b")\x81h\x07b"
    model = call_of("my.model", "Net", kit.dict_of({
        "_parameters": b"}", "_modules": children + b"u",
    }))  # fmt: skip
    found = psd.load(kit.archive(model))
    assert isinstance(found, psd.OpaqueModule)
