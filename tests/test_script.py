# SPDX-License-Identifier: Apache-2.0
"""TorchScript archives: the state_dict that torch.jit.load would give, without torch.

tests/data/make_script.py made the files of many releases; each has beside it what the
release that wrote it reads in it.
"""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import random
import zipfile
from collections.abc import Callable
from typing import Any

import kit
import numpy as np
import pytest
from isolated import run

import pystatedict as psd
from pystatedict import _script, _scriptcheck, _scriptcode

DATA = pathlib.Path(__file__).resolve().parent / "data" / "script"
ROWS = [
    row
    for path in sorted(DATA.glob("expected-*.json"))
    for row in json.loads(path.read_text(encoding="utf-8"))
]
SCRIPTS = [row for row in ROWS if row["file"].endswith((".pt", ".ptl")) and row["root"] is None]


def dense(value: Any) -> np.ndarray[Any, Any]:
    for way in ("dequantize", "to_dense"):
        if hasattr(value, way):
            return np.asarray(getattr(value, way)())
    return np.asarray(value)


def check(found: psd.StateDict, row: dict[str, Any]) -> None:
    """Names, order, values, dtypes, flags and ties are what torch said."""
    assert list(found) == [entry["name"] for entry in row["tensors"]]
    for entry in row["tensors"]:
        name = entry["name"]
        array = dense(found[name])
        assert list(array.shape) == entry["shape"], name
        assert np.ascontiguousarray(array).tobytes().hex() == entry["bytes"], name
        assert found.trainable[name] is entry["trainable"], name
        if entry["kind"] == "dense":
            assert array.dtype.name == entry["dtype"], name
    for names in row["shared"]:
        first, *rest = (found[name] for name in names)
        for other in rest:
            assert np.may_share_memory(np.asarray(first), np.asarray(other)) or (
                # Resolved into memory of their own.
                {"conjugate", "negative"} & set(names) or not isinstance(first, np.ndarray)
            ), names


@pytest.mark.filterwarnings("ignore:.*the state_dict of this script is empty")
@pytest.mark.parametrize("row", SCRIPTS, ids=lambda row: row["file"])
def test_state_dict_is_what_torch_says(row: dict[str, Any]) -> None:
    path = DATA / row["file"]
    check(psd.load(path, root="auto"), row)
    whole = psd.load(path, verify=True)
    check(whole if isinstance(whole, psd.StateDict) else whole.state_dict(), row)
    with psd.open(path, root="auto") as checkpoint:
        assert checkpoint.kind == "torchscript"
        assert list(checkpoint) == [entry["name"] for entry in row["tensors"]]
        for entry in row["tensors"]:
            info = checkpoint[entry["name"]]
            assert list(info.shape) == entry["shape"]
            if entry["kind"] == "dense":
                assert info.dtype == entry["dtype"]
            assert info.kind == ("parameter" if entry["trainable"] else info.kind)


@pytest.mark.parametrize("row", SCRIPTS, ids=lambda row: row["file"])
def test_identified(row: dict[str, Any]) -> None:
    assert psd.identify(DATA / row["file"]) == "torchscript"


def test_items_tells_flags() -> None:
    rows = list(psd.items(DATA / "nested.pt", trainable=True, pattern="*alias"))
    assert [(name, flag) for name, _, flag in rows] == [("alias", False)]
    flags = {name: flag for name, _, flag in psd.items(DATA / "nested.pt", trainable=True)}
    assert flags["one.weight"] is True and flags["frozen"] is False


def test_kinds_of_attributes() -> None:
    module = psd.load(DATA / "kinds.pt")
    assert isinstance(module, psd.OpaqueModule)
    assert "plain" not in module.state_dict()
    assert module.plain.tolist() == [0, 1, 2]
    assert module.inside["a"].tolist() == [1.0]
    assert module.large == 2**40
    with psd.open(DATA / "kinds.pt", root="auto") as checkpoint:
        assert checkpoint["of_uint8"].kind == "buffer"
        assert checkpoint["coo"].layout == "sparse_coo"


def test_shared_modules_have_both_names() -> None:
    found = psd.load(DATA / "nested.pt", root="auto")
    assert found["one.weight"] is found["same.weight"]


def test_constants_of_a_frozen_module() -> None:
    path = DATA / "frozen.pt"
    with pytest.warns(psd.StateDictWarning, match="root='constants'"):
        assert dict(psd.load(path, root="auto")) == {}
    weight, bias = psd.load(path, root="constants")
    assert weight.shape == (2, 2) and bias.shape == (2,)
    assert np.array_equal(psd.load(path, root="constants.1"), bias)
    with psd.open(path, root="constants") as checkpoint:
        assert list(checkpoint) == ["0", "1"]
        again = pickle.loads(pickle.dumps(checkpoint["1"]))
        assert np.array_equal(again.numpy(), bias)


def test_a_state_that_code_changes_is_not_told() -> None:
    path = DATA / "counted.pt"
    with pytest.raises(psd.UnsupportedError, match="restores itself") as raised:
        psd.load(path, root="auto")
    assert raised.value.key == "__torch__.Counted"
    opaque = psd.load(path)
    assert opaque.state[0].tolist() == [0.0, 0.0, 0.0]
    assert not isinstance(opaque, psd.OpaqueModule)


def test_listing_imports_no_numpy() -> None:
    for name in ("kinds.pt", "traced-1.2.0.pt", "program.pt2"):
        code = (
            "import sys, pystatedict as psd;"
            f"list(psd.open({str(DATA / name)!r}, root='auto')); print('numpy' in sys.modules)"
        )
        done = run.python("-c", code)
        assert done.stdout.strip() == "False", done.stderr


def test_the_shell_lists_it() -> None:
    done = run.python("-m", "pystatedict", "ls", str(DATA / "traced-2.13.0.pt"))
    assert done.returncode == 0, done.stderr
    assert "2.running_mean" in done.stdout


# ------------------------------------------------------------------ scripts by hand

MODULE = "class M(Module):\n  __parameters__ = [{}]\n  __buffers__ = [{}]\n"


def obj(name: str, pairs: dict[str, bytes], module: str = "__torch__") -> bytes:
    return kit.named(module, name) + b")\x81" + kit.dict_of(pairs) + b"b"


def restored(name: str, state: bytes) -> bytes:
    return kit.named("__torch__", name) + b")\x81" + state + b"b"


def script(body: bytes, code: dict[str, str], constants: bytes = b")", **more: bytes) -> bytes:
    extra = {f"code/{name}": text.encode() for name, text in code.items()}
    extra["constants.pkl"] = kit.program(constants)
    extra.update({name.replace("__", "."): data for name, data in more.items()})
    storages = {"0": np.arange(6, dtype="<f4").tobytes()}
    return kit.archive(body, storages, extra=extra)


def simple(code: str, pairs: dict[str, bytes]) -> bytes:
    return script(obj("M", pairs), {"__torch__.py": code})


def names_of(data: bytes) -> list[str]:
    return list(psd.load(data, root="auto"))


def test_order_is_of_slots_and_of_kinds() -> None:
    code = MODULE.format('"p", "q", ', '"a", "b", ')
    code += "  b : Tensor\n  q : Tensor\n  a : Tensor\n  p : Tensor\n  c : Tensor\n"
    pairs = {name: kit.tensor() for name in "abcpq"}
    assert names_of(simple(code, pairs)) == ["q", "p", "b", "a"]


def test_only_tensors_are_buffers() -> None:
    code = MODULE.format('"p", ', '"a", "b", ')
    code += "  p : Tensor\n  a : Optional[Tensor]\n  b : NoneType\n"
    pairs = {"p": b"N", "a": kit.tensor(), "b": b"N"}
    assert names_of(simple(code, pairs)) == []


def test_before_1_6_every_tensor_was_a_buffer() -> None:
    code = "op_version_set = 1\nimport __torch__.x\nclass M(Module):\n"
    code += '  __parameters__ = ["p", ]\n  n : int\n  b : Tensor\n  p : Tensor\n'
    pairs = {"n": kit.integer(1), "b": kit.tensor(), "p": kit.tensor()}
    assert names_of(simple(code, pairs)) == ["p", "b"]


def test_quoted_names_and_constants() -> None:
    code = MODULE.format(r'"0", "a\"b", "w", ', "")
    code += '  __annotations__ = []\n  __annotations__["0"] = Tensor\n'
    code += '  __annotations__["a\\"b"] = Tensor\n  w : Final[Tensor] = CONSTANTS.c0\n'
    assert names_of(simple(code, {"0": kit.tensor(), 'a"b': kit.tensor()})) == ["0", 'a"b']


def test_interfaces_and_classes() -> None:
    code = MODULE.format("", "") + "  i : __torch__.I\n  c : __torch__.C\n  l : List[Tensor]\n"
    code += "class I(ModuleInterface):\n  def forward(self) -> Tensor:\n    pass\n"
    code += "class C:\n  w : Tensor\n"
    code += 'class N(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'
    pairs = {"i": obj("N", {"w": kit.tensor()}), "c": obj("C", {"w": kit.tensor()}), "l": b"]"}
    assert names_of(simple(code, pairs)) == ["i.w"]


def test_mangled_names_have_texts_of_their_own() -> None:
    texts = {
        "__torch__.py": MODULE.format("", "") + "  a : __torch__.x.___torch_mangle_3.L\n",
        "__torch__/x/___torch_mangle_3.py": MODULE.replace("M(", "L(").format('"w", ', "")
        + "  w : Tensor\n",
        "__torch__/x.py": "class L(Module):\n  v : Tensor\n",
    }
    inner = obj("L", {"w": kit.tensor()}, "__torch__.x.___torch_mangle_3")
    assert names_of(script(obj("M", {"a": inner}), texts)) == ["a.w"]


SETSTATE = (
    MODULE.format('"w", ', '"b", ')
    + "  w : Tensor\n  b : Tensor\n  n : int\n"
    + "  def __getstate__(self: __torch__.M) -> Tuple[Tensor, Tuple[int, Tensor]]:\n"
    + "    return ({})\n"
    + "  def __setstate__(self: __torch__.M,\n    state: Tuple[Tensor, Tuple[int, Tensor]])"
    + " -> NoneType:\n{}    return None\n  def forward(self) -> int:\n    return 3\n"
)
STATE = kit.tuple_of(
    kit.tensor(shape=(2,), count=6), kit.tuple_of(kit.integer(3), kit.tensor(shape=(3,), count=6))
)


def with_setstate(*lines: str) -> bytes:
    body = "".join(f"    {line}\n" for line in lines)
    return script(restored("M", STATE), {"__torch__.py": SETSTATE.format("", body)})


@pytest.mark.parametrize(
    "lines",
    [
        ("self.w = (state)[0]", "self.b = ((state)[1])[1]", "self.n = 3"),
        ("x, y, = state", "n, z, = y", "self.w = x", "self.b = z", "self.n = n"),
        ("s = state", "self.b = ((s)[1])[1]", "self.w = (s)[0]"),
    ],
)
def test_assignments_of_a_state_are_followed(lines: tuple[str, ...]) -> None:
    found = psd.load(with_setstate(*lines), root="auto")
    assert [(name, array.shape) for name, array in found.items()] == [("w", (2,)), ("b", (3,))]
    assert found.trainable["b"] is False


def test_a_state_may_hold_modules() -> None:
    text = "class L(Module):\n  __parameters__ = []\n  __buffers__ = []\n  m : __torch__.M\n"
    text += "  def __getstate__(self) -> Tuple[__torch__.M]:\n    return (self.m,)\n"
    text += "  def __setstate__(self: __torch__.L,\n    s: Tuple[__torch__.M]) -> NoneType:\n"
    text += "    self.m = (s)[0]\n    return None\n" + MODULE.format('"w", ', "") + "  w : Tensor\n"
    inner = obj("M", {"w": kit.tensor()})
    body = restored("L", kit.tuple_of(inner))
    assert names_of(script(body, {"__torch__.py": text})) == ["m.w"]


def test_lists_of_a_state_may_tell_their_type() -> None:
    body = "    self.w = ((state)[0])[0]\n    self.b = ((state)[0])[1]\n    self.n = 3\n"
    text = SETSTATE.format("", body)
    listed = b"](" + kit.tensor(shape=(2,), count=6) + kit.tensor(shape=(3,), count=6) + b"e"
    for made in (
        listed,
        kit.call("torch.jit._pickle", "restore_type_tag", listed, kit.text("List[Tensor]")),
        kit.call("torch.jit._pickle", "build_tensorlist", listed),
    ):
        data = script(restored("M", kit.tuple_of(made)), {"__torch__.py": text})
        found = psd.load(data, root="auto")
        assert [array.shape for array in found.values()] == [(2,), (3,)]
    other = kit.call("somebody", "list", listed)
    with pytest.raises(psd.UnsupportedError):
        names_of(script(restored("M", kit.tuple_of(other)), {"__torch__.py": text}))


@pytest.mark.parametrize(
    "lines",
    [
        ("self.w = (state)[0]", "self.b = ((state)[1])[0]"),  # no tensor
        ("self.w = (state)[0]",),  # b is not set
        ("self.w = torch.add((state)[0], 1)", "self.b = (state)[0]"),
        ("self.w = (state)[0]", "self.b = (state)[0]", "_0 = torch.add_((state)[0], 1)"),
        ("self.w = (state)[0]", "self.b = (state)[0]", "if True:", "  self.b = ((state)[1])[1]"),
        ("self.w = (state)[7]", "self.b = (state)[0]"),
        ("self.w = ((state)[1])[0]", "x = (self).set(state, )", "self.b = (state)[0]"),
    ],
)
def test_what_code_does_with_a_state_is_not_guessed(lines: tuple[str, ...]) -> None:
    data = with_setstate(*lines)
    with pytest.raises(psd.UnsupportedError, match="restores itself"):
        psd.load(data, root="auto")
    assert psd.load(data).state[0].shape == (2,)


def test_a_missing_attribute_is_no_state_dict() -> None:
    code = MODULE.format('"w", "v", ', "") + "  w : Tensor\n  v : Tensor\n"
    with pytest.raises(psd.UnsupportedError):
        names_of(simple(code, {"w": kit.tensor()}))


def test_a_script_without_its_pickle_is_corrupt() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("m/constants.pkl", kit.program(b")"))
        out.writestr("m/code/__torch__.py", "class M(Module):\n")
    with pytest.raises(psd.CorruptError, match=r"without its data\.pkl"):
        psd.load(file.getvalue())


def test_a_missing_class_is_no_state_dict() -> None:
    with pytest.raises(psd.UnsupportedError, match="a class is missing"):
        names_of(script(obj("Other", {"w": kit.tensor()}), {"__torch__.py": "class M(Module):\n"}))


def test_strings_of_many_lines_are_not_read() -> None:
    code = MODULE.format('"w", ', "") + '  d : Final[str] = """\n  w : Tensor\n"""\n'
    assert _scriptcode.classes_of(code) == {}


# ------------------------------------------------------------------ unsafe ones

HOOK = (
    "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  w : Tensor\n"
    "  def __getstate__(self: __torch__.M) -> Tensor:\n    return self.w\n"
    "  def __setstate__(self: __torch__.M,\n    state: Tensor) -> NoneType:\n{}    return None\n"
)
HELPERS = (
    "def helper(x: Tensor) -> NoneType:\n  torch.save(x, 'a')\n"
    "class K:\n  x : Tensor\n  def __init__(self, x: Tensor) -> NoneType:\n"
    "    self.x = torch.from_file('a', True, 4)\n    return None\n"
)


def hooked(*lines: str, helpers: str = "", forward: str = "") -> bytes:
    code = HOOK.format("".join(f"    {line}\n" for line in lines))
    code += "".join(f"  def forward(self, x: Tensor) -> Tensor:\n    {forward}\n" * bool(forward))
    texts = {"__torch__.py": code + helpers}
    return script(restored("M", kit.tensor()), texts)


@pytest.mark.parametrize(
    "lines",
    [
        ("self.w = torch.from_file('x', True, 4)",),
        ("torch.save(state, 'x')",),
        ("torch . save(state, 'x')",),
        ("ops.aten.save(state, 'x')",),
        ("_0 = torch", "_0.save(state, 'x')"),
        ("_0 = ops", "_0.aten.save(state, 'x')"),
        ("getattr(torch, 'save')(state, 'x')",),
        ("getattr(torch, 's\\x61ve')(state, 'x')",),
        ("ops.image.write_file('x', state)",),
        ("ops.evil.run('x')",),
        ("s = __torch__.torch.classes.dist_c10d.FileStore('x', 1)",),
        ("c = getattr(__torch__.torch, 'classes')",),
        ("__torch__.helper(state)",),
        ("f = __torch__.helper", "f(state)"),
        ("k = __torch__.K(state)",),
        ("(self).forward(state, )",),
        ("os.system('x')",),
        ("'''\n\"''' torch.save(state, 'x') #\"",),
        ("_0 = 'a\\\n' ; torch.save(state, 'x') #'",),
    ],
)
def test_code_that_runs_on_loading_is_refused(lines: tuple[str, ...]) -> None:
    data = hooked(*lines, helpers=HELPERS, forward="return torch.save(x, 'y')")
    with pytest.raises(psd.UnsafePickleError) as raised:
        psd.load(data)
    assert raised.value.code == "dangerous-global" and raised.value.globals
    assert psd.load(data, dangerous="opaque").state.shape == (2, 3)
    list(psd.open(data))


@pytest.mark.parametrize(
    "lines",
    [
        ("s = '''", "\"''' torch.save(state, 'x') #\""),
        ("s = '''\n  def x(self):\n'''", "torch.save(state, 'x')"),
        ("x = getattr(y, 's\\x61ve')",),
        ("x = getattr(y, 'sa' # 'save", "  \"ve\", 'from_file')"),
    ],
)
def test_strings_and_comments_hide_no_code(lines: tuple[str, ...]) -> None:
    with pytest.raises(psd.UnsafePickleError):
        psd.load(hooked(*lines))


def test_code_of_another_shape_is_all_looked_at() -> None:
    text = HOOK.format("    def inner(x: Tensor):\n      pass\n    inner(torch.save(state, 'x'))\n")
    with pytest.raises(psd.UnsafePickleError):
        psd.load(script(restored("M", kit.tensor()), {"__torch__.py": text}))


@pytest.mark.parametrize(
    "lines",
    [
        ("self.w = state",),
        ("w = ops.quantized.linear_prepack(state, None)", "self.w = state"),
        ('ops.prim.RaiseException("os", "builtins.ValueError")', "self.w = state")[1:],
        ("self.w = torch.contiguous(state)",),
    ],
)
def test_code_that_computes_is_not_refused(lines: tuple[str, ...]) -> None:
    data = hooked(*lines, helpers=HELPERS, forward="return torch.save(x, 'y')")
    assert psd.load(data).state.shape == (2, 3)


def test_methods_that_nobody_calls_on_loading_are_not_refused() -> None:
    code = MODULE.format('"w", ', "") + "  w : Tensor\n  def forward(self, x: Tensor):\n"
    code += "    torch.save(x, 'y')\n"
    assert names_of(simple(code, {"w": kit.tensor()})) == ["w"]


@pytest.mark.parametrize("path", sorted(DATA.glob("quantized-*.pt")), ids=lambda path: path.name)
def test_quantized_states_are_told(path: pathlib.Path) -> None:
    module = psd.load(path)
    assert list(module.state_dict()) == ["last.weight", "last.bias"]
    packed = getattr(module.inner, "0")._packed_params.state
    packed = packed["_packed_params"].state if isinstance(packed, dict) else packed
    found: list[Any] = []
    todo = [packed]
    while todo:
        part = todo.pop()
        if isinstance(part, (list, tuple)):
            todo.extend(part)
        found += [part] * isinstance(part, psd.QuantizedTensor)
    assert [weight.shape for weight in found] == [(2, 2)]


def test_constants_that_call_are_refused() -> None:
    code = {"__torch__.py": MODULE.format("", "")}
    for module, name in (("os", "system"), ("somebody", "thing"), ("__torch__x", "y")):
        data = script(obj("M", {}), code, kit.call(module, name, kit.text("x")))
        with pytest.raises(psd.UnsafePickleError, match=r"constants\.pkl"):
            psd.load(data)
        psd.load(data, dangerous="opaque")
    psd.load(script(obj("M", {}), code, obj("C", {})))


def test_texts_that_are_too_long_to_be_looked_at_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One text that nobody looked at could run anything."""
    code = HOOK.format("    torch.save(state, 'x')\n" + "\n" * 300_000)
    for module in ("pystatedict._scriptcode", "pystatedict._scriptcheck"):
        monkeypatch.setattr(f"{module}.TEXTS_MOST", 200_000)
    data = script(restored("M", kit.tensor()), {"__torch__.py": code, "other.py": "class A:\n"})
    with pytest.raises(psd.LimitError, match="source text"):
        psd.load(data)
    psd.load(data, dangerous="opaque")
    parts = {f"part{i}.py": "class A:\n" + "\n" * 50_000 for i in range(5)}
    with pytest.raises(psd.LimitError, match="source text"):
        psd.load(script(obj("M", {}), {"__torch__.py": MODULE.format("", ""), **parts}))


def test_a_checkpoint_dressed_as_a_script_is_refused() -> None:
    body = kit.dict_of({"w": kit.tensor()})
    with pytest.raises(psd.UnsafePickleError, match="no source texts"):
        psd.load(script(body, {}))
    assert psd.load(script(body, {}), dangerous="opaque")["w"].shape == (2, 3)


# ------------------------------------------------------------------ torch 1.0 to 1.2


def model(tensors: Any, main: Any, **more: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("m/version", "1\n")
        out.writestr("m/code/m.py", "op_version_set = 0\n")
        out.writestr("m/tensors/0", np.arange(6, dtype="<f4").tobytes())
        for name, data in more.items():
            out.writestr(f"m/{name.replace('__', '.')}", data)
        text = {"protoVersion": "1", "mainModule": main, "tensors": tensors}
        out.writestr("m/model.json", main if isinstance(main, str) else json.dumps(text))
    return file.getvalue()


def row_of(**changes: Any) -> dict[str, Any]:
    row = {"dims": ["2", "3"], "offset": "0", "strides": ["3", "1"], "requiresGrad": True}
    row |= {"dataType": "FLOAT", "data": {"key": "tensors/0"}, "device": "cuda:1"}
    return row | changes


def parameter_of(name: str = "w", number: Any = "0", is_buffer: bool = False) -> dict[str, Any]:
    return {"isBuffer": is_buffer, "tensorId": number, "name": name}


def test_models_of_old_releases() -> None:
    main = {
        "name": "m",
        "parameters": [parameter_of("b", "1", True), parameter_of("w")],
        "submodules": [{"name": "s", "parameters": [parameter_of("w")]}, {"name": "t"}],
    }
    scalar = {"offset": "5", "requiresGrad": True, "dataType": "FLOAT", "device": "cpu"}
    scalar["data"] = {"key": "tensors/0"}
    found = psd.load(model([row_of(), scalar], main))
    assert [(n, a.shape) for n, a in found.items()] == [("w", (2, 3)), ("b", ()), ("s.w", (2, 3))]
    assert found["b"] == 5.0
    assert dict(found.trainable) == {"w": True, "b": False, "s.w": True}
    assert found.info("w").device == "cuda:1"
    assert np.may_share_memory(found["w"], found["b"])


BAD_MODELS: dict[str, Callable[[], bytes]] = {
    "no json": lambda: model([], "{"),
    "deep json": lambda: model([], "[" * 100_000),
    "a list": lambda: model([], "[]"),
    "long number": lambda: model([], '{"tensors": [' + "1" * 5000 + "]}"),
    "no such tensor": lambda: model([row_of()], {"parameters": [parameter_of(number="1")]}),
    "negative number": lambda: model([row_of()], {"parameters": [parameter_of(number="-1")]}),
    "no name": lambda: model([row_of()], {"parameters": [{"tensorId": "0"}]}),
    "half a name": lambda: model([row_of()], {"parameters": [parameter_of("\ud800")]}),
    "one name twice": lambda: model([row_of()], {"parameters": [parameter_of()] * 2}),
    "no storage": lambda: model(
        [row_of(data={"key": "tensors/9"})], {"parameters": [parameter_of()]}
    ),
    "too large": lambda: model([row_of(dims=["9", "3"])], {"parameters": [parameter_of()]}),
    "overflow": lambda: model([row_of(dims=[str(1 << 63), "3"])], {"parameters": [parameter_of()]}),
    "few strides": lambda: model([row_of(strides=["1"])], {"parameters": [parameter_of()]}),
    "no dtype": lambda: model([row_of(dataType="STRING")], {"parameters": [parameter_of()]}),
    "attribute": lambda: model(
        [row_of()], {"attributes": [{"type": "Tensor", "name": "a", "id": "0"}]}
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_corrupt(name: str) -> None:
    with pytest.raises(psd.CorruptError):
        psd.load(BAD_MODELS[name]())


def test_attributes_of_old_models() -> None:
    told = [
        {"type": "Tensor", "name": "made", "id": "-1"},
        {"type": "Tensor", "name": "a", "id": "1"},
        {"type": "int", "name": "n", "id": "0"},
    ]
    pickled = kit.integer(7) + kit.call("torch.jit._pickle", "build_tensor_from_id", kit.integer(0))
    pickled = kit.program(b"(" + pickled + b"t")
    data = model([row_of()], {"attributes": told}, attributes__pkl=pickled)
    found = psd.load(data)
    assert list(found) == ["a"] and found.trainable["a"] is False


def test_old_models_that_are_not_read() -> None:
    main = {"parameters": [parameter_of()]}
    with pytest.raises(psd.UnsupportedError):
        psd.load(model([row_of(isQuantized=True)], main))
    deep: dict[str, Any] = {"name": "x", **main}
    text = json.dumps(deep)
    for _ in range(300):
        text = '{"name": "x", "submodules": [' + text + "]}"
    data = model([], '{"mainModule": ' + text + ', "tensors": [' + json.dumps(row_of()) + "]}")
    assert list(psd.load(data)) == ["x." * 300 + "w"]


# ------------------------------------------------------------------ hostile ones


def test_names_do_not_multiply() -> None:
    """Each level has its module twice: forty of them would be 2 ** 40 names."""
    code = MODULE.format('"w", ', "") + "  w : Tensor\n"
    code += "class D(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    code += "  a : __torch__.M\n  b : __torch__.M\n"
    data = script(_stacked(40), {"__torch__.py": code})
    with pytest.raises(psd.UnsupportedError):
        names_of(data)
    assert psd.load(data).name == "D"


def _stacked(levels: int) -> bytes:
    body = obj("M", {"w": kit.tensor()}) + b"q\x00"
    for level in range(levels):
        shared = b"h" + bytes([level])
        made = kit.named("__torch__", "D") + b")\x81}(" + kit.text("a") + shared
        body += b"0" + made + kit.text("b") + shared + b"ub" + b"q" + bytes([level + 1])
    return body


def test_a_module_within_itself_ends() -> None:
    code = MODULE.format("", "") + "  m : __torch__.M\n"
    body = kit.named("__torch__", "M") + b")\x81q\x00" + kit.dict_of({"m": b"h\x00"}) + b"b"
    data = script(body, {"__torch__.py": code})
    with pytest.raises(psd.UnsupportedError):
        names_of(data)


def test_a_deep_tree_is_no_recursion() -> None:
    depth = 3000
    code = MODULE.format("", "") + "  m : __torch__.M\n  n : __torch__.L\n"
    code += 'class L(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'
    code += "class N(Module):\n  __parameters__ = []\n  __buffers__ = []\n  m : __torch__.M\n"
    leaf = obj("L", {"w": kit.tensor()})
    start = kit.named("__torch__", "N") + b")\x81}(" + kit.text("m")
    data = script(start * depth + leaf + b"ub" * depth, {"__torch__.py": code})
    assert names_of(data) == ["m." * depth + "w"]


def test_work_is_linear_in_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class, many objects: each pays for what it takes, and the text is read once."""
    counts = []
    real = _scriptcode.classes_of
    monkeypatch.setattr(_scriptcode, "classes_of", lambda t: counts.append(len(t)) or real(t))
    code = MODULE.format('"w", ', "") + "  w : Tensor\n"
    code += "class T(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    many = 500
    code += "".join(f"  m{i} : __torch__.M\n" for i in range(many))
    pairs = {f"m{i}": obj("M", {"w": kit.tensor()}) for i in range(many)}
    data = script(obj("T", pairs), {"__torch__.py": code})
    assert len(names_of(data)) == many
    assert len(counts) == 1


def test_one_state_for_many_objects_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide dict that is the state of many objects must not cost their product."""
    seen = []
    real = _script._Walk._children

    def counted(self: Any, ref: int) -> Any:
        seen.append(ref)
        return real(self, ref)

    monkeypatch.setattr(_script._Walk, "_children", counted)
    code = MODULE.format('"w", ', "") + "  w : Tensor\n"
    code += "class T(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    code += "".join(f"  m{i} : __torch__.M\n" for i in range(100))
    wide = kit.dict_of({"w": kit.tensor(), **{f"x{i}": b"N" for i in range(1000)}}) + b"q\x00"
    first = kit.named("__torch__", "M") + b")\x81" + wide + b"b"
    other = kit.named("__torch__", "M") + b")\x81h\x00b"
    pairs = {f"m{i}": other if i else first for i in range(100)}
    assert len(names_of(script(obj("T", pairs), {"__torch__.py": code}))) == 100
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("name", ["nested.pt", "restored.pt", "quantized-2.13.0.pt"])
def test_mutated_texts_and_pickles(name: str) -> None:
    """Whatever is in them: an error of ours, or tensors that are there."""
    with zipfile.ZipFile(DATA / name) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    chosen = [n for n in records if n.endswith((".py", "data.pkl"))]
    made = random.Random(name)
    for _ in range(300):
        changed = dict(records)
        for record in made.sample(chosen, made.randint(1, 2)):
            changed[record] = mutated(changed[record], made)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as out:
            for record, data in changed.items():
                out.writestr(record, data)
        for root in (None, "auto", "constants"):
            try:
                psd.load(file.getvalue(), root=root)
                list(psd.open(file.getvalue(), root=root))
            except psd.StateDictError:
                pass


def mutated(data: bytes, made: random.Random) -> bytes:
    at, end = sorted(made.randrange(len(data) + 1) for _ in range(2))
    way = made.randrange(5)
    if way == 0:
        return data[:at] + bytes([made.randrange(256)]) + data[at + 1 :]
    if way == 1:
        return data[:at] + data[end:]
    if way == 2:
        return data[:end] + data[at:end] + data[end:]
    lines = data.split(b"\n")
    if way == 3:
        made.shuffle(lines)
    else:
        lines[made.randrange(len(lines))] = made.choice(lines) * made.randrange(3)
    return b"\n".join(lines)


def test_texts_that_would_be_slow() -> None:
    """Runs of all that the patterns repeat; a quadratic one would not come to an end."""
    for text in (
        "class M(Module):\n  " + "a" * 2_000_000,
        "class M(Module):\n  __parameters__ = [" + '"a", ' * 400_000,
        "class M(Module):\n" + '  __annotations__["' + "\\" * 2_000_001,
        "class M(Module):\n" + "  def f(\n" * 200_000,
        " " * 2_000_000 + "\n" * 100_000,
        'class M(Module):\n  __annotations__["' + 'a"] = ' * 400_000,
    ):
        _scriptcode.classes_of(text)
    for line in (
        "a, " * 500_000,
        "a." * 500_000,
        "(" * 1_000_000,
        "(x)[0]" * 200_000,
        "a " * 500_000,
    ):
        code = SETSTATE.format("", f"    {line}\n    self.w = {line}\n")
        _script._restored(_scriptcode.classes_of(code)["M"])
        list(_scriptcheck._chains(code, 0, len(code)))
        list(_scriptcheck._units(code))
    for text in ("a" + " " * 1_000_000 + "." + " " * 1_000_000, ('"' + "\\" * 11) * 100_000):
        list(_scriptcheck._chains(text, 0, len(text)))


# ------------------------------------------------------------------ real torch


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_against_torch() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8).eval()
    models = [nn.LSTM(2, 3), layer, nn.Conv2d(1, 2, 3), nn.Embedding(3, 2).half(), nn.Identity()]
    for module in models:
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(module), file)
        theirs = torch.jit.load(io.BytesIO(file.getvalue())).state_dict()
        ours = psd.load(file.getvalue(), root="auto")
        assert list(ours) == list(theirs)
        for name, tensor in theirs.items():
            assert np.array_equal(ours[name], tensor.numpy())
