# SPDX-License-Identifier: Apache-2.0
"""Legacy streams against real torch: what it reads of ours, what we read of its own."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import kit
import numpy as np
import pytest
from hypothesis import given
from test_legacy_save import HELD, NOT_HELD, SOME, legacy

import pystatedict as psd

torch = pytest.importorskip("torch")
from test_oracle import _expressible, same_nest, to_torch  # noqa: E402

pytestmark = pytest.mark.oracle


def torch_loaded(data: bytes, **options: Any) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True, **options)


def torch_legacy(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file, _use_new_zipfile_serialization=False, **options)
    return file.getvalue()


@SOME
@given(kit.nests(HELD))
def test_torch_reads_what_we_write(obj: Any) -> None:
    same_nest(obj, torch_loaded(legacy(obj)))


def test_torch_reads_files_that_we_write(tmp_path: pathlib.Path) -> None:
    """From a real file torch reads storages on a way of its own."""
    path = tmp_path / "m.pth"
    arrays = {str(i): np.arange(i * 1000, dtype="f4") for i in range(12)}
    psd.save(arrays, path, format="legacy")
    for safe in (True, False):
        theirs = torch.load(path, weights_only=safe)
        assert list(theirs) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(theirs[name].numpy(), array)


@SOME
@given(kit.nests(HELD))
def test_we_read_what_torch_writes(obj: Any) -> None:
    theirs = to_torch(_expressible(obj))
    same_nest(psd.load(torch_legacy(theirs)), theirs)


KINDS = [
    "quint8", "qint32", "per channel", "packed", "coo", "coalesced", "csr", "csc", "bsr", "bsc",
    "jagged", "meta", "conj", "neg", "parameter", "tagged", "buffer", "scalar", "empty",
    "expanded",
]  # fmt: skip


def kinds() -> dict[str, Any]:
    """A tensor of each kind that torch reads back from a stream of its own."""
    six = torch.arange(6.0).reshape(2, 3)
    scales, zeros = torch.tensor([0.5, 0.25]), torch.tensor([1, 2])
    tagged = torch.nn.Parameter(six.clone(), requires_grad=False)
    tagged.tag = "a tag"
    return {
        "quint8": torch.quantize_per_tensor(six, 0.5, 2, torch.quint8),
        "qint32": torch.quantize_per_tensor(six, 0.5, 2, torch.qint32),
        "per channel": torch.quantize_per_channel(six, scales, zeros, 0, torch.qint8),
        "packed": torch.quantize_per_channel(six, scales, zeros.float(), 0, torch.quint4x2),
        "coo": torch.eye(3).to_sparse(),
        "coalesced": torch.eye(3).to_sparse().coalesce(),
        "csr": torch.eye(3).to_sparse_csr(),
        "csc": torch.eye(4).to_sparse_csc(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
        "bsc": torch.eye(4).to_sparse_bsc((2, 2)),
        "jagged": torch.nested.nested_tensor(
            [torch.ones(2, 3), torch.zeros(1, 3)], layout=torch.jagged
        ),
        "meta": torch.empty(2, 3, dtype=torch.uint16, device="meta"),
        "conj": torch.ones(3, dtype=torch.complex64).conj(),
        "neg": torch.ones(3, dtype=torch.complex64).conj().imag,
        "parameter": torch.nn.Parameter(six.clone()),
        "tagged": tagged,
        "buffer": torch.nn.Buffer(six.clone()),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(5),
    }


def same_kind(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    assert mine.dtype == theirs.dtype
    assert mine.layout == theirs.layout
    assert mine.requires_grad == theirs.requires_grad
    if theirs.is_nested:
        pairs = zip(mine.unbind(), theirs.unbind(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        return
    assert mine.shape == theirs.shape
    if theirs.is_quantized:
        assert mine.qscheme() == theirs.qscheme()
        assert torch.equal(mine.dequantize(), theirs.dequantize())
        if "channel" in str(theirs.qscheme()):
            assert torch.equal(mine.q_per_channel_scales(), theirs.q_per_channel_scales())
    elif theirs.layout != torch.strided:
        assert torch.equal(mine.to_dense(), theirs.to_dense())
    elif not theirs.is_meta:
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_tensor(name: str) -> None:
    """torch's stream, read and written by us as a stream, is to torch what it was."""
    assert sorted(kinds()) == sorted(KINDS)
    theirs = {"t": kinds()[name]}
    ours = psd.load(torch_legacy(theirs))
    same_kind(torch_loaded(legacy(ours))["t"], theirs["t"])
    # From an archive as well, and through both.
    archived = kit.saved(ours)
    same_kind(torch_loaded(legacy(psd.load(archived)))["t"], theirs["t"])


@pytest.mark.filterwarnings("ignore")
def test_scales_of_another_precision() -> None:
    """torch converts them before their bytes are read, so they are written as it keeps them."""
    integers = np.arange(6, dtype="i1").reshape(2, 3)
    tensor = psd.QuantizedTensor(
        integers, "qint8", scales=np.array([0.5, 0.25], "f4"), zero_points=np.array([1, 2], "i4"),
        axis=0,
    )  # fmt: skip
    theirs = torch_loaded(legacy({"q": tensor}))["q"]
    assert theirs.q_per_channel_scales().tolist() == [0.5, 0.25]
    assert np.array_equal(theirs.dequantize().numpy(), tensor.dequantize())


def test_state_dict_of_a_module() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    theirs = torch_loaded(legacy(psd.load(torch_legacy(model.state_dict()))))
    assert theirs._metadata == model.state_dict()._metadata
    model.load_state_dict(theirs)


def test_refusals_are_those_of_torch() -> None:
    """What is refused is what torch writes and does not read, or does not write at all."""
    for dtype in NOT_HELD:
        tensor = torch.zeros(4, dtype=getattr(torch, dtype.name))
        with pytest.raises(AttributeError):
            torch_loaded(torch_legacy(tensor))
    for dtype in HELD:
        name = "bool" if dtype == bool else dtype.name
        tensor = torch.zeros(4, dtype=getattr(torch, name))
        assert torch_loaded(torch_legacy(tensor)).dtype == tensor.dtype


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_of_strided_parts() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    file = io.BytesIO()
    torch.save({"n": nested}, file)
    ours = psd.load(file.getvalue())
    assert psd.load(kit.saved(ours))["n"].layout == "nested"
    with pytest.raises(psd.UnsupportedError, match="nested tensor") as caught:
        legacy(ours)
    assert caught.value.code == "legacy-layout"
    assert 'format="zip"' in str(caught.value)
