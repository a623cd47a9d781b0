# SPDX-License-Identifier: Apache-2.0
"""What a file is, by its bytes, for the day it is not a checkpoint after all.

Nothing is unpacked, parsed or run: a few signatures, the names in a zip archive, the
first lines of a text.
"""

from __future__ import annotations

import os
import stat

from . import _archivelook as _look
from ._archivelook import number
from ._errors import (
    CorruptError,
    NotACheckpointError,
    StateDictError,
    TruncatedError,
    UnsupportedError,
)
from ._picklelook import is_legacy, looks_like_pickle
from ._printable import counted, printable
from ._signatures import FLATBUFFERS, SIGNATURES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from typing_extensions import Buffer

    from ._archivelook import ReadAt
    from ._core import Source

    Anything = str | os.PathLike[str] | BinaryIO | Buffer

HEAD = 4096
TAIL = 65536

_TAR_BLOCK = 512
_TAR_MEMBERS = {"sys_info", "pickle", "storages", "tensors"}

_AGAIN = "download or copy the file again, then compare its size or checksum with the source's"
_SCAN_FIRST = "`pystatedict scan {file}` lists what it would run; "


class Identification:
    """What a file is: a stable word, a phrase for people, and what to do about it."""

    __slots__ = ("entry", "evidence", "hint", "kind", "offset", "sentence")

    def __init__(
        self,
        kind: str,
        sentence: str,
        hint: str = "",
        *,
        evidence: tuple[str, ...] = (),
        entry: str | None = None,
        offset: int | None = None,
    ) -> None:
        self.kind = kind
        self.sentence = sentence
        self.hint = hint
        self.evidence = evidence
        self.entry = entry
        self.offset = offset

    def __repr__(self) -> str:
        return f"Identification({self.kind!r}, {self.sentence!r})"


# --------------------------------------------------------------------------- the doors


def identify(f: Anything) -> str:
    """Tell what a file is, from a few of its bytes, as a stable word.

    ``"torch-zip"`` is what torch.save writes.  Other words: ``"torch-legacy"``,
    ``"torch-tar"``, ``"torchscript"``, ``"torch-package"``, ``"torch-export"``,
    ``"torch-shards"``, ``"torch-dcp"``, ``"deepspeed"`` (folders), ``"pickle"``,
    ``"safetensors"``, ``"npz"``, ``"git-lfs"``, ``"html"``, ``"zip-truncated"``, ``"empty"``,
    ``"unknown"`` and more.

    `f` is a path, a file object (read from its position, which stays) or bytes.  Of a folder
    that holds one checkpoint, it is that file's.
    """
    return identification(f).kind


def identification(f: Anything) -> Identification:
    """The same, with the phrase and the hint."""
    if isinstance(f, (str, os.PathLike)):
        return _of_path(os.fspath(f))
    if hasattr(f, "read"):
        return _of_file(f)
    return identify_buffer(f)


def identify_bytes(head: bytes, tail: bytes, size: int) -> Identification:
    """Tell what a file of `size` bytes is from its first and last bytes.

    4 KiB and 64 KiB are enough, but for an archive whose directory is larger than that.
    """
    tail_start = size - len(tail)

    def at(offset: int, count: int) -> bytes:
        if offset < 0 or count <= 0:
            return b""
        if offset + count <= tail_start:
            return head[offset : offset + count]
        if offset < tail_start <= len(head):
            return (head[:tail_start] + tail)[offset : offset + count]
        gap = bytes(min(max(tail_start - offset, 0), count))
        return gap + tail[max(offset - tail_start, 0) :][: count - len(gap)]

    return _identify(at, size, whole=len(head) >= tail_start)


def identify_buffer(buffer: Buffer) -> Identification:
    """Tell what a file is whose bytes are all at hand, mapped or in memory."""
    with memoryview(buffer) as view, view.cast("B") as octets:
        return _identify(lambda offset, count: bytes(octets[offset : offset + count]), len(octets))


def identify_source(source: Source) -> Identification:
    """Tell what a file is that is held open."""
    return _identify(source.read, source.size)


def not_a_checkpoint(found: Identification, path: str | None = None) -> StateDictError:
    """The error that says what the file is, and what to do about it."""
    if found.kind in _READ:
        return CorruptError(f"{found.sentence}, which cannot be read", path=path)
    sentence = found.sentence
    kind: type[StateDictError] = NotACheckpointError
    if found.kind in _TRUNCATED:
        kind = TruncatedError
    elif found.kind in _UNSUPPORTED:
        kind = UnsupportedError
        sentence += ", which pystatedict does not read"
    elif found.kind == "safetensors":
        sentence += ", which holds no pickle"  # asked for by those who look for pickles alone
    else:
        sentence += ", not a checkpoint"
    error = kind(
        sentence,
        code=found.kind,
        path=path,
        hint=found.hint,
        entry=found.entry,
        offset=found.offset,
        evidence=found.evidence,
    )
    if isinstance(error, NotACheckpointError):
        error.identified = found.kind
    return error


_READ = frozenset({"torch-zip", "torch-legacy", "torch-tar"})
_TRUNCATED = frozenset({"fragment", "tar-truncated", "torch-interrupted", "zip-truncated"})
_UNSUPPORTED = frozenset(
    {
        "torch-script-preview",
        "torchscript",
        "torch-package",
        "torch-export",
        "torch-dcp",
        "torch-shards",
        "executorch",
        "lua-torch",
        "pickle",
        "gzip",
        "bzip2",
        "xz",
        "zstd",
        "lz4",
    }
)


def _of_path(path: str) -> Identification:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return _folder_of(path)
    if not stat.S_ISREG(status.st_mode):
        return Identification("special", "a pipe or device", "copy it into a file first")
    with open(path, "rb") as file:
        return _of_file(file)


_FOLDERS = {
    "dcp": ("torch-dcp", "the folder of a distributed checkpoint"),
    "dcp-safetensors": ("torch-dcp", "the folder of a distributed checkpoint"),
    "index": ("torch-shards", "the folder of a checkpoint in several files"),
    "parts": ("torch-shards", "the folder of a checkpoint in several files"),
    "deepspeed": ("deepspeed", "the folder of a DeepSpeed checkpoint"),
}


def _folder_of(path: str) -> Identification:
    from ._sets import find

    try:
        found = find(path)
    except NotACheckpointError:
        found = None
    alone = found is not None and found.kind == "file"
    file = os.path.join(found.folder, found.names[0]) if found is not None else path
    if found is None or (alone and os.path.isdir(file)):
        return Identification("directory", "a folder", "name the file inside that you mean")
    if alone:
        return _of_path(file)
    return Identification(*_FOLDERS[found.kind], "pystatedict.load({file}) reads it")


def _of_file(file: Any) -> Identification:
    start = file.tell()
    try:
        size = max(file.seek(0, os.SEEK_END) - start, 0)

        def at(offset: int, count: int) -> bytes:
            if offset < 0 or count <= 0:
                return b""
            file.seek(start + offset)
            data: bytes = file.read(count)
            return data

        return _identify(at, size)
    finally:
        file.seek(start)


# ------------------------------------------------------------------------ the decision


def _identify(at: ReadAt, size: int, whole: bool = True) -> Identification:
    head = at(0, min(size, HEAD))
    if size == 0:
        return Identification(
            "empty", "an empty file", "the save or download did not begin; do it again"
        )
    if size <= 4 and (head[:2] == b"PK" or head == b"P") and not head.startswith(_look.END):
        return Identification(
            "fragment",
            f"ends early: no more than the first {_bytes(size)} of a zip archive",
            _AGAIN,
        )
    if head.startswith((_look.LOCAL, _look.END)):
        return _zip(at, size, whole) or _truncated(at, size, whole)
    if not head.strip(b"\0") and not at(max(size - TAIL, 0), TAIL).strip(b"\0"):
        return _zeros(size)
    found = _legacy(head)
    archive = None if found else _zip(at, size, whole)
    if archive is not None and archive.kind.startswith("torch"):
        return archive  # with bytes before it, such as a program that unpacks it
    found = found or _lfs(head, size) or _signature(head) or _safetensors(head, size)
    found = found or _tar(at, size) or _onnx(head)
    if found is None and looks_like_pickle(head, size <= len(head)):
        found = _pickle()
    return found or archive or _text(head, size) or _unknown(head, size)


def _unknown(head: bytes, size: int) -> Identification:
    first = head[:16].hex(" ")
    return Identification(
        "unknown",
        f"{_bytes(size)} of no known kind (they begin with {first})",
        "check where the file comes from, and whether it is encrypted or damaged",
    )


def _bytes(size: int) -> str:
    return "1 byte" if size == 1 else f"{size:,} bytes"


def _legacy(head: bytes) -> Identification | None:
    if not is_legacy(head):
        return None
    return Identification("torch-legacy", "a checkpoint in torch's old format, usual before 1.6")


def _lfs(head: bytes, size: int) -> Identification | None:
    if not head.startswith((b"version https://git-lfs", b"version https://hawser")):
        return None
    facts = dict(line.split(" ", 1) for line in _lines(head) if " " in line)
    evidence = []
    if facts.get("size", "").isdecimal() and len(facts["size"]) < 20:
        evidence.append(f"the real file has {int(facts['size']):,} bytes")
    if facts.get("oid"):
        evidence.append(facts["oid"].replace(":", " ", 1))
    return Identification(
        "git-lfs",
        f"a Git LFS pointer ({_bytes(size)} of text)",
        "run `git lfs install && git lfs pull` in that repository, then load again",
        evidence=(", ".join(evidence),) if evidence else (),
    )


def _lines(head: bytes) -> list[str]:
    return head.decode("utf-8", "replace").splitlines()


def _zeros(size: int) -> Identification:
    what = "all of them zero" if size <= TAIL else "zeros at both ends"
    return Identification(
        "zeros",
        f"{_bytes(size)}, {what}",
        "an interrupted download or a full disk leaves such files; " + _AGAIN,
    )


def _signature(head: bytes) -> Identification | None:
    for offset, magic, kind, phrase, hint in SIGNATURES:
        if head.startswith(magic, offset):
            if kind == "gguf" and len(head) >= 16:
                version, tensors = number(head, 4, 4), number(head, 8, 8)
                phrase = f"{phrase} (version {version}, {counted(tensors, 'tensor')})"
            if kind == "gzip":
                phrase += _inside(head)
            return Identification(kind, phrase, hint)
    for magic, kind, phrase, hint in FLATBUFFERS:
        if head.startswith(magic, 4):
            return Identification(kind, phrase, hint)
    return None


def _inside(head: bytes) -> str:
    import zlib

    try:
        first = zlib.decompressobj(31).decompress(head, 64)
    except zlib.error:
        return ""
    if first.startswith(_look.LOCAL):
        return " with a zip archive inside"
    return " with a torch file inside" if _legacy(first) else ""


def _safetensors(head: bytes, size: int) -> Identification | None:
    # As the core tells them: four zeros before a brace are no accident.
    length = number(head, 0, 8)
    if len(head) < 10 or head[8:9] != b"{" or not 2 <= length < 1 << 32:
        return None
    if head[9:10] not in (b'"', b"}", b" ", b"\n", b"\r", b"\t"):
        return None
    facts = f"header {length:,} bytes"
    if len(head) >= 8 + length:
        tensors = head[8 : 8 + length].count(b'"data_offsets"')
        facts += f", {counted(tensors, 'tensor')}"
    return Identification(
        "safetensors",
        f"a safetensors file ({facts})",
        "pystatedict.load({file}) reads it",
    )


def _onnx(head: bytes) -> Identification | None:
    # A protobuf: field 1 is ir_version, field 2 or 3 the producer's name and version.
    if len(head) < 8 or head[0] != 0x08 or not 1 <= head[1] <= 32 or head[2] not in b"\x12\x1a":
        return None
    name = head[4 : 4 + head[3]]
    if not name.isascii() or not name.decode("ascii").isprintable():
        return None
    return Identification(
        "onnx",
        f"what looks like an ONNX model (made by '{name.decode('ascii')}')",
        "the onnx package reads it: onnx.load({file})",
    )


def _pickle() -> Identification:
    return Identification(
        "pickle",
        "a Python pickle that torch.save did not make",
        _SCAN_FIRST + "the program that wrote it can save again with torch.save",
    )


# ------------------------------------------------------------------------- zip and tar


def _zip(at: ReadAt, size: int, whole: bool) -> Identification | None:
    entries = _look.directory(at, size)
    if entries is None:
        return None
    names = [entry.name for entry in entries if not entry.name.endswith("/")]
    folders = {name.rpartition("/")[0] for name in names if _last(name) == "data.pkl"}
    if any(_last(name) == "archive_format" for name in names) or _OLD_EXPORT in names:
        return Identification(
            "torch-export",
            "a program of torch.export",
            "pystatedict.load({file}) gives its weights",
        )
    beside = {name.rpartition("/")[0] for name in names if _last(name) == "version"}
    if any(
        name.rpartition("/")[0] in (folders if _last(name) == "constants.pkl" else beside)
        for name in names
        if _last(name) in ("constants.pkl", "model.json")
    ):
        return Identification(
            "torchscript",
            "a TorchScript archive (torch.jit.save)",
            "pystatedict.load({file}, root='auto') gives its weights and runs nothing; "
            "torch.jit.load is for files that you trust",
        )
    if folders:
        return Identification("torch-zip", "a checkpoint of torch.save")
    if any(name.endswith(".data/extern_modules") for name in names):
        return Identification(
            "torch-package",
            "an archive of torch.package",
            "pystatedict.load({file}, root=...) gives one of its pickles and runs nothing; "
            "torch.package.PackageImporter is for files that you trust",
        )
    if names and all(_last(name) in _AROUND or _folder(name) == "data" for name in names):
        return Identification(
            "torch-interrupted",
            "a checkpoint without its data.pkl: torch.save did not finish",
            "often a value could not be pickled; save again, or use an older checkpoint",
        )
    if names and all(name.endswith(".npy") for name in names):
        return Identification(
            "npz",
            f"an archive of NumPy ({counted(len(names), 'array')})",
            "pystatedict.load({file}) reads it",
        )
    if not names and (whole or not entries):
        return Identification("zip-empty", "an empty zip archive", _AGAIN)
    return _other_zip(names)


# The program, in files of torch.export before torch 2.8.
_OLD_EXPORT = "serialized_exported_program.json"

# What torch.save writes around the pickle.
_AROUND = frozenset(
    {"version", "byteorder", ".format_version", ".storage_alignment", "serialization_id"}
)
_CHECKPOINTS = (".pth", ".pt", ".ckpt", "model.bin", ".pth.tar")


def _other_zip(names: list[str]) -> Identification:
    inside = [name for name in names if name.lower().endswith(_CHECKPOINTS)]
    shown = ", ".join(f"'{printable(name, 60)}'" for name in (inside or names)[:3])
    hint = "get the checkpoint itself, not an archive of other files"
    if inside:
        hint = f"unpack it (`unzip {{file}}`), then load '{printable(inside[0], 60)}'"
    more = "" if len(inside or names) <= 3 else ", ..."
    return Identification(
        "zip", f"a zip archive of {counted(len(names), 'file')} ({shown}{more})", hint
    )


def _folder(name: str) -> str:
    return _last(name.rpartition("/")[0])


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _truncated(at: ReadAt, size: int, whole: bool) -> Identification:
    evidence = []
    entry = None
    offset = None
    records, cut = _look.walk(at, size) if whole else ([], None)
    if records:
        last = records[-1]
        evidence.append(
            f"{counted(len(records), 'record')} whole so far, the last of them "
            f"'{printable(last.name, 80)}' ({last.stored or 0:,} bytes)"
        )
    if cut is not None:
        entry, offset = cut.name, cut.header
        evidence.append(f"{size - cut.header:,} bytes are here from where that record begins")
    elif not records:
        first = _look.local(at, 0)
        if first is not None:
            evidence.append(f"the first record is '{printable(first[0].name, 80)}'")
    if size > TAIL and not at(size - TAIL, TAIL).strip(b"\0"):
        evidence.append("the last 64 KiB are zero bytes, as in a download that stopped")
    return Identification(
        "zip-truncated",
        f"ends early: a zip archive of {size:,} bytes with no directory at its end",
        _AGAIN,
        evidence=tuple(evidence),
        entry=entry,
        offset=offset,
    )


def _tar(at: ReadAt, size: int) -> Identification | None:
    if size < _TAR_BLOCK and at(0, 100).rstrip(b"\0").decode("latin-1") in _TAR_MEMBERS:
        return Identification(
            "tar-truncated", "ends early: the first bytes of torch's first format, a tar", _AGAIN
        )
    names = [name for name, *_ in _look.tar_members(at, size) if not name.endswith("/")]
    if not names:
        return None
    if {_last(name) for name in names} <= _TAR_MEMBERS:
        return Identification(
            "torch-tar",
            "a checkpoint in torch's first format, a tar archive of 2016 to 2017",
        )
    shown = ", ".join(f"'{printable(name, 60)}'" for name in names[:3])
    return Identification(
        "tar",
        f"a tar archive ({shown}{', ...' if len(names) > 3 else ''})",
        "unpack it (`tar -xf {file}`), then load the checkpoint inside",
    )


# ------------------------------------------------------------------------------- texts


def _text(head: bytes, size: int) -> Identification | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Identification(
            "utf-16", "a text in UTF-16", "a checkpoint is no text; look where it comes from"
        )
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if size <= len(head) or error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8-sig")
    if any((c < " " and c not in "\t\n\v\f\r\x1b") or c == "\x7f" for c in text):
        return None
    start = text.lstrip()[:1024]
    lower = start.lower()
    if lower.startswith(("<!doctype html", "<html")) or "<html" in lower or "<head" in lower:
        return _web_page(text)
    if lower.startswith("<?xml"):
        code = _between(text, "<code", "</code>") or _between(text, "<message", "</message>")
        said = f" ('{printable(code, 80)}')" if code else ""
        return Identification("xml", f"an XML text{said}", _LINK)
    if start[:1] == "{" and start[1:].lstrip()[:1] in ('"', "}"):
        return _json(text)
    if start[:1] == "[" and start[1:].lstrip()[:1] in tuple('[{"]-0123456789tfn'):
        return _json(text)
    if not start:
        return Identification("text", f"{_bytes(size)} of blanks", _AGAIN)
    line = printable(start.splitlines()[0], 60)
    return Identification(
        "text", f"a text ('{line}')", "a checkpoint is no text; look where it comes from"
    )


_LINK = (
    'the link needs a login, or is not the "raw" one; '
    "open the file in a browser to see what it says"
)


def _web_page(text: str) -> Identification:
    title = _between(text, "<title", "</title>")
    if title:
        from html import unescape

        title = " ".join(unescape(title).split())
    said = f" ('{printable(title, 80)}')" if title else ""
    return Identification("html", f"a web page{said}", _LINK)


def _between(text: str, start: str, stop: str) -> str:
    lower = text.lower()
    begin = lower.find(start)
    begin = lower.find(">", begin) + 1 if begin >= 0 else 0
    end = lower.find(stop, begin)
    return text[begin:end].strip() if begin > 0 and end > 0 else ""


def _json(text: str) -> Identification:
    if '"weight_map"' in text:
        return Identification(
            "torch-shards",
            "the index of a checkpoint in several files",
            "load it by its path, beside the files that its weight_map names",
        )
    return Identification("json", "a JSON text", "a checkpoint is no text; " + _LINK)
