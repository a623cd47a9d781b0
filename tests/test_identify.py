# SPDX-License-Identifier: Apache-2.0
"""A file that is no checkpoint is named for what it is, from a few of its bytes."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import tarfile
import zipfile

import pytest

from pystatedict import _archivelook
from pystatedict._errors import (
    CorruptError,
    NotACheckpointError,
    TruncatedError,
    UnsupportedError,
)
from pystatedict._identify import (
    identification,
    identify,
    identify_buffer,
    identify_bytes,
    not_a_checkpoint,
)
from pystatedict._picklelook import looks_like_pickle

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
OID = "4d7a" * 16
LFS = (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 46827520\n").encode()


def zipped(*names: str, content: bytes = b"x", **options: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


class Seekless(io.RawIOBase):
    """What makes zipfile defer sizes into data descriptors, as torch.save does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, piece) -> int:
        self.data += piece
        return len(piece)


def deferred(names_and_sizes: list[tuple[str, int]]) -> bytes:
    file = Seekless()
    with zipfile.ZipFile(file, "w") as archive:
        for name, size in names_and_sizes:
            archive.writestr(name, os.urandom(size))
    return bytes(file.data)


def tarred(*names: str, folder: str | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        if folder:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
    return file.getvalue()


def safetensors(tensors: int) -> bytes:
    header = json.dumps(
        {
            f"layer.{i}.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
            for i in range(tensors)
        }
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4 * tensors)


CHECKPOINT = zipped("m/data.pkl", "m/data/0", "m/version")
UNSUPPORTED, FOREIGN, TRUNCATED = UnsupportedError, NotACheckpointError, TruncatedError

# What load() reads.
READ = {
    "torch-zip": CHECKPOINT,
    "torch-legacy": MAGIC + pickle.dumps(1001, 2) + b"\x80\x02}.",
    "torch-legacy 3": pickle.dumps(0x1950A86A20F9469CFC6C, 3) + b"\x80\x03}.",
    "torch-legacy 4": pickle.dumps(0x1950A86A20F9469CFC6C, 4) + b"\x80\x04}.",
    "torch-legacy 1": pickle.dumps(0x1950A86A20F9469CFC6C, 1) + b"}.",
    "torch-tar": tarred("sys_info", "pickle", "tensors", "storages"),
    "torch-tar folder": tarred("pickle", "storages", "tensors", folder="./"),
}

SAMPLES = {
    # torch's
    "torchscript": (zipped("m/data.pkl", "m/constants.pkl", "m/code/x.py"), UNSUPPORTED),
    "torch-package": (zipped("m/.data/extern_modules", "m/model/m.pkl"), UNSUPPORTED),
    "torch-export": (zipped("m/archive_format", "m/models/model.json"), UNSUPPORTED),
    "torch-interrupted": (zipped("m/version", "m/byteorder", "m/data/0"), TRUNCATED),
    "torch-script-preview": (b"PYTORCH1" + bytes(64), UNSUPPORTED),
    "torch-shards": (b'{"metadata": {}, "weight_map": {"w": "a.bin"}}', UNSUPPORTED),
    "lua-torch": (b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\x0b", UNSUPPORTED),
    "executorch": (b"\x20\0\0\0ET12" + bytes(64), UNSUPPORTED),
    "pickle": (pickle.dumps({"w": [1, 2, 3]}), UNSUPPORTED),
    "pickle 0": (pickle.dumps({"w": [1, 2.5, None, "x"]}, 0), UNSUPPORTED),
    "pickle system": (b"cposix\nsystem\n(S'id'\ntR.", UNSUPPORTED),
    # other people's
    "safetensors": (safetensors(2), FOREIGN),
    "safetensors cut": (safetensors(2)[:50], FOREIGN),
    "git-lfs": (LFS, FOREIGN),
    "html": (b"<!DOCTYPE html>\n<html><title>Access &amp; denied</title></html>", FOREIGN),
    "html late": (b"\n\n<!-- x -->\n<HTML lang=en><HEAD><TITLE>404</TITLE>", FOREIGN),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', FOREIGN),
    "json": (b'{"error": "not found"}', FOREIGN),
    "json list": (b"[1, 2, 3]", FOREIGN),
    "text": (b"Entry not found", FOREIGN),
    "text bom": (b"\xef\xbb\xbfhello", FOREIGN),
    "text blank": (b" \n\t\n" * 9, FOREIGN),
    "utf-16": ("a text".encode("utf-16"), FOREIGN),
    "gzip": (gzip.compress(CHECKPOINT), UNSUPPORTED),
    "bzip2": (b"BZh91AY&SY", UNSUPPORTED),
    "xz": (b"\xfd7zXZ\0\0\4", UNSUPPORTED),
    "zstd": (b"\x28\xb5\x2f\xfd\0\0", UNSUPPORTED),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", FOREIGN),
    "rar": (b"Rar!\x1a\x07\1\0", FOREIGN),
    "npz": (zipped("a.npy", "b.npy"), FOREIGN),
    "npy": (b"\x93NUMPY\1\0v\0{'descr': '<i8'}", FOREIGN),
    "gguf": (b"GGUF\3\0\0\0" + (291).to_bytes(8, "little") + bytes(32), FOREIGN),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(32), FOREIGN),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x032.1", FOREIGN),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(32), FOREIGN),
    "tar": (tarred("hello.txt"), FOREIGN),
    "zip": (zipped("readme.txt", "model.pth"), FOREIGN),
    "zip-empty": (zipped(), FOREIGN),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(32), FOREIGN),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(32), FOREIGN),
    "gif": (b"GIF89a" + bytes(32), FOREIGN),
    "pdf": (b"%PDF-1.7\n", FOREIGN),
    "elf": (b"\x7fELF\2\1\1" + bytes(64), FOREIGN),
    "exe": (b"MZ\x90\0" + bytes(64), FOREIGN),
    # nothing
    "empty": (b"", FOREIGN),
    "zeros": (bytes(4096), FOREIGN),
    "zeros many": (bytes(300_000), FOREIGN),
    "fragment": (b"PK\3\4", TRUNCATED),
    "fragment P": (b"P", TRUNCATED),
    "tar-truncated": (tarred("pickle")[:300], TRUNCATED),
    "unknown": (bytes(range(128, 256)) * 2, FOREIGN),
    "unknown safetensors": ((99).to_bytes(8, "little") + b"{" + b"\xff" * 20, FOREIGN),
    "unknown zeros": (bytes(4096) + b"x", FOREIGN),
    "zip-truncated": (CHECKPOINT[:60], TRUNCATED),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name, tmp_path):
    data, kind = READ[name], name.split()[0]
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    assert identify(path) == identify(data) == identify(io.BytesIO(data)) == kind
    assert identify_bytes(data[:4096], data[-65536:], len(data)).kind == kind
    error = not_a_checkpoint(identification(data), "p")
    assert type(error) is CorruptError
    assert error.hint


@pytest.mark.parametrize("name", SAMPLES)
def test_each_kind_by_every_door(name, tmp_path):
    data, error = SAMPLES[name]
    kind = name.split()[0]
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    assert identify(path) == kind
    assert identify(str(path)) == kind
    assert identify(data) == identify(bytearray(data)) == identify(memoryview(data)) == kind
    assert identify_bytes(data[:4096], data[-65536:], len(data)).kind == kind
    assert identify_buffer(data).kind == kind

    raised = not_a_checkpoint(identification(path), "model.pth")
    assert type(raised) is error
    assert raised.code == kind
    assert raised.hint
    lines = str(raised).splitlines()
    assert lines[0].startswith("'model.pth': ")
    assert lines[-1].startswith("  hint: ")
    assert len(lines) < 10
    assert "{file}" not in str(raised)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_object_counts_from_its_position_and_keeps_it(name):
    data, _ = SAMPLES[name]
    file = io.BytesIO(b"before" + data)
    file.seek(6)
    assert identify(file) == name.split()[0]
    assert file.tell() == 6


@pytest.mark.parametrize(
    "data",
    [
        CHECKPOINT,
        zipped("m/data.pkl", compression=zipfile.ZIP_DEFLATED),
        zipped("a/b/data.pkl", "__MACOSX/a/b/._data.pkl"),
        zipped("data.pkl", "data/0"),
        zipped(*[f"m/data/{i}" for i in range(3000)], "m/data.pkl"),
        deferred([("m/data.pkl", 100), ("m/data/0", 5000)]),
        b"MZ" + bytes(500) + CHECKPOINT,  # a program that unpacks itself
        CHECKPOINT[:-2] + b"\4\0PK\5\6",  # the end's signature in the comment
        CHECKPOINT + b"debris",
    ],
)
def test_a_checkpoint_is_torch_zip(data):
    assert identify(data) == "torch-zip"
    assert isinstance(not_a_checkpoint(identification(data), "p"), CorruptError)


def test_a_damaged_directory_is_replaced_by_the_local_headers():
    data = CHECKPOINT.replace(b"PK\1\2", b"PK\1\3", 1)
    assert identify(data) == "torch-zip"


def test_the_directory_may_be_larger_than_the_tail():
    names = [f"m/data/{'x' * 60}{i}" for i in range(3000)]
    data = zipped("m/data.pkl", *names)
    assert identify(data) == "torch-zip"
    # Of that, head and tail alone cannot tell the names; it must not be called empty.
    assert identify_bytes(data[:4096], data[-65536:], len(data)).kind in ("torch-zip", "zip")


def test_zip64():
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w") as archive,
        archive.open("m/data.pkl", "w", force_zip64=True) as f,
    ):
        f.write(b"x")
    data = file.getvalue()
    end = data.rindex(b"PK\5\6")
    size, start = data[end + 12 : end + 16], data[end + 16 : end + 20]
    wide = (
        b"PK\6\6"
        + (44).to_bytes(8, "little")
        + bytes(12)
        + (1).to_bytes(8, "little") * 2
        + size
        + bytes(4)
        + start
        + bytes(4)
        + b"PK\6\7"
        + bytes(4)
        + end.to_bytes(8, "little")
        + (1).to_bytes(4, "little")
    )
    data = data[:end] + wide + data[end : end + 12] + b"\xff" * 8 + bytes(2)
    assert identify(data) == "torch-zip"


def test_zip64_sizes_and_offsets(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 0)
    data = zipped("m/data.pkl", "m/data/0", content=b"content")
    assert data.count(b"\xff\xff\xff\xff") > 4

    def at(offset, count):
        return data[offset : offset + count]

    entries = _archivelook.directory(at, len(data))
    assert [(entry.name, entry.stored) for entry in entries] == [
        ("m/data.pkl", 7),
        ("m/data/0", 7),
    ]
    assert [_archivelook.payload(at, entry, 100) for entry in entries] == [b"content"] * 2


# --------------------------------------------------------------------------- the texts


def said(data: bytes) -> str:
    return str(not_a_checkpoint(identification(data), "m.pth"))


def test_lfs_pointer_tells_the_real_size_and_digest():
    text = said(LFS)
    assert f"a Git LFS pointer ({len(LFS)} bytes of text)" in text
    assert "46,827,520 bytes" in text
    assert OID in text
    assert "git lfs pull" in text


def test_lfs_pointer_with_nonsense_does_not_fail():
    assert "Git LFS" in said(b"version https://git-lfs.github.com/spec/v1\nsize 9z\noid \x1b\n")
    assert "Git LFS" in said(b"version https://git-lfs.github.com/spec/v1\nsize " + b"9" * 500)


def test_web_page_shows_its_title_escaped():
    assert "('Access & denied')" in said(SAMPLES["html"][0])
    text = said("<html><title>a\x0b\u202eb\x1b[31m</title>".encode())
    assert "\\u202e" in text and "\\x1b[31m" in text and "\x1b" not in text


def test_xml_shows_its_code():
    assert "('AccessDenied')" in said(SAMPLES["xml"][0])


def test_safetensors_counts():
    header = len(safetensors(1)) - 12
    assert f"(header {header:,} bytes, 1 tensor)" in said(safetensors(1))
    big = said(safetensors(1000))  # its header is longer than what is read
    assert "safetensors" in big and "tensor)" not in big


def test_gguf_counts():
    assert "(version 3, 291 tensors)" in said(SAMPLES["gguf"][0])


def test_gzip_tells_what_is_inside():
    assert "with a zip archive inside" in said(gzip.compress(CHECKPOINT))
    assert "with a torch file inside" in said(gzip.compress(MAGIC))
    assert "inside" not in said(b"\x1f\x8b\x08garbage")


def test_zip_with_a_checkpoint_in_it_says_which():
    assert "then load 'model.pth'" in said(SAMPLES["zip"][0])


def test_names_in_a_zip_are_escaped():
    assert "\x1b" not in said(zipped("\x1b[31mred.txt"))


def test_unknown_shows_its_first_bytes():
    assert "80 81 82 83" in said(SAMPLES["unknown"][0])


def test_hints_run_nothing_unasked():
    for name, (data, _) in SAMPLES.items():
        hint = identification(data).hint
        assert "weights_only=False" not in hint, name
        if "torch.jit.load" in hint or "PackageImporter" in hint:
            assert "trust" in hint, name


# ------------------------------------------------------------------------- cut archives


@pytest.mark.parametrize("make", [deferred, None])
def test_a_cut_zip_tells_the_last_whole_record(make):
    records = [("m/data.pkl", 300), ("m/data/0", 20_000), ("m/data/1", 70_000)]
    if make is None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, size in records:
                archive.writestr(name, os.urandom(size))
        data = file.getvalue()
    else:
        data = make(records)
    third = data.index(b"PK\3\4", data.index(b"m/data/1") - 40)
    cut = data[: third + 9000]
    error = not_a_checkpoint(identification(cut), "m.pth")
    assert type(error) is TruncatedError
    assert (error.entry, error.offset) == ("m/data/1", third)
    text = str(error)
    assert f"{len(cut):,} bytes" in text
    assert "2 records whole so far, the last of them 'm/data/0' (20,000 bytes)" in text
    assert "9,000 bytes are here" in text


def test_a_signature_within_a_record_does_not_end_it():
    data = deferred([("m/data.pkl", 300)])
    payload = data[40:340]
    assert payload in data
    data = data.replace(payload[100:124], b"PK\7\x08" + bytes(20))
    error = not_a_checkpoint(identification(data[:300]), "m.pth")
    assert error.entry == "m/data.pkl"
    assert "whole" not in str(error)


def test_a_cut_zip_seen_by_head_and_tail_claims_no_more_than_it_saw():
    data = deferred([("m/data.pkl", 300), ("m/data/0", 500_000), ("m/data/1", 70_000)])
    cut = data[:400_000]
    error = not_a_checkpoint(identify_bytes(cut[:4096], cut[-65536:], len(cut)), "m.pth")
    assert type(error) is TruncatedError
    assert error.entry is None
    assert "whole" not in str(error)


def test_every_cut_of_a_small_checkpoint_is_named():
    data = deferred([("m/data.pkl", 40), ("m/data/0", 90), ("m/version", 2)])
    kinds = {identify(data[:size]) for size in range(1, len(data))}
    assert kinds <= {"fragment", "zip-truncated"}
    assert identify(data) == "torch-zip"


def test_a_cut_zip_with_reserved_space_says_so():
    data = deferred([("m/data.pkl", 40), ("m/data/0", 90_000)])[:50_000] + bytes(200_000)
    assert "zero bytes" in said(data)


def test_cut_inside_the_first_header():
    error = not_a_checkpoint(identification(CHECKPOINT[:32]), "m.pth")
    assert type(error) is TruncatedError
    assert error.entry is None


# ------------------------------------------------------------------------- paths, costs


def test_folders(tmp_path):
    assert identify(tmp_path) == "directory"
    (tmp_path / ".metadata").write_bytes(b"\x80\x04.")
    assert identify(tmp_path) == "torch-dcp"


def test_a_missing_file_is_filenotfounderror(tmp_path):
    with pytest.raises(FileNotFoundError):
        identify(tmp_path / "none.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert identify(tmp_path / "pipe") == "special"


def test_little_is_read_of_a_large_file():
    class Counting(io.BytesIO):
        total = 0

        def read(self, size=-1):
            data = super().read(size)
            self.total += len(data)
            return data

    for data in (
        zipped("m/data.pkl", "m/data/0", content=bytes(20_000_000)),
        b"\x80\x02}q\0." + bytes(20_000_000),
        os.urandom(20_000_000),
    ):
        file = Counting(data)
        identify(file)
        assert file.total < 500_000


def test_damage_never_makes_it_fail():
    generator = random.Random(7)
    for data, _ in SAMPLES.values():
        for _ in range(40):
            damaged = bytearray(data or b"\0")
            for _ in range(generator.randrange(1, 5)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            kept = bytes(damaged[: generator.randrange(len(damaged) + 1)])
            found = identification(kept)
            assert str(not_a_checkpoint(found, "x"))
            identify_bytes(kept[:64], kept[-64:], len(kept))


# ----------------------------------------------------------------------------- pickles


def test_a_damaged_pickle_is_still_one_if_it_is_signed():
    assert looks_like_pickle(b"\x80\x02)\xff\xff", True)
    assert not looks_like_pickle(b")\xff\xff", True)


VALUES = [
    None, True, 0, 255, 70000, 1 << 70, -1.5, "text", b"bytes", bytearray(b"x"), (), (1, 2),
    [], [1, [2]], {}, {"a": 1}, {1, 2}, frozenset({1}), 1j, range(3), slice(1), "ünï", "x" * 5000,
    [list(range(500))], {str(i): i for i in range(500)},
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_seen(protocol):
    for value in VALUES:
        data = pickle.dumps(value, protocol)
        if protocol < 2 and len(data) > 4096 and isinstance(value, str):
            continue  # one opcode is all that is seen of it
        assert looks_like_pickle(data[:4096], len(data) <= 4096), (protocol, value)
        assert looks_like_pickle((data + data)[:4096], len(data) <= 2048), (protocol, value)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"I", b"This is a text.", b"I am here.\nSo it is.", b"N", b"Not found\n",
        b"(see below)", b"Model weights", b"K", b"}", b"Forbidden", b"Error: 404\n",
        b"GET / HTTP/1.1\r\n", b"import os\n", b"Sorry.", b"Ja.", b"Later.", b"\x80", b"\x80\x09]",
        bytes(100), b"\x80\x02\0\0\0\0", b"# a comment\n", b"N. B. this is a text",
        b"N.s.s.", b"(cnot a name\nx y\n.",
    ],
)  # fmt: skip
def test_texts_are_no_pickles(text):
    assert not looks_like_pickle(text, True)
