# SPDX-License-Identifier: Apache-2.0
"""Trainable flags beside the checkpoint: `NAME.trainable.json`.

A state_dict does not say which of its tensors are trained: `model.state_dict()`
detaches them.  The sidecar says it, and is bound to the checkpoint by a digest, so that
flags written for another version of the file are noticed.  The layout is published as
`trainable.schema.json` in this package.

Two digests, either of which binds:

`records_sha256`
    SHA-256 over one line for each record of the zip archive, sorted by
    (name, crc, size): `name TAB crc TAB size NEWLINE`.  The name without all up to its
    first slash; crc: what the directory states, 8 hexadecimal digits; size: uncompressed.
    Costs no more than the directory, whatever the tensors weigh.  Not written when the
    archive states no checksums, for then it would not see a changed value, nor for files
    without records.

`tensors_sha256`
    SHA-256 over one line for each tensor of the file, sorted:
    `key TAB dtype TAB shape TAB crc NEWLINE`.  shape: sizes joined by `x`; crc: of the
    bytes of its storage, 8 hexadecimal digits, computed where the archive states none,
    `-` for a tensor without bytes.  A tensor that is not the whole of its storage in C
    order has two fields more: `TAB offset TAB strides`, in elements.
    Holds when the same tensors were saved again in another archive.
"""

from __future__ import annotations

import os
import stat

from ._checkpoint import window
from ._errors import SidecarError, StaleSidecarError, warn
from ._files import is_nothing, sidecar_of
from ._printable import listed, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Literal

    from ._core import TensorInfo
    from ._opened import Archive

    OnStale = Literal["raise", "warn", "ignore"]
    Record = tuple[str, int, int, int, int, int]

FORMAT = "pystatedict.trainable"
VERSION = 1
LIMIT = 256 << 20  # bytes of a sidecar that are read

_LISTED = 5  # unknown names that an error lists
_CANDIDATES = 2000  # names that are held against a misspelt one
_LONGEST = 200  # characters of a name that a similar one is looked for


class Sidecar:
    """What a sidecar says, its types checked."""

    __slots__ = ("buffers", "path", "records", "root", "size", "tensors", "trainable")

    def __init__(
        self,
        path: str,
        trainable: dict[str, bool],
        buffers: list[str],
        records: str | None,
        tensors: str | None,
        size: int | None,
        root: str | None = None,
    ) -> None:
        self.path = path
        self.root = root  # None: the one that root="auto" finds
        self.trainable = trainable
        self.buffers = buffers
        self.records = records
        self.tensors = tensors
        self.size = size


# ------------------------------------------------------------------ public


def save_trainable(
    f: str | os.PathLike[str],
    flags: Mapping[str, bool | None],
    *,
    buffers: Iterable[str] | None = None,
    root: str | None = "auto",
) -> str:
    """Write the trainable flags of the checkpoint `f` beside it; return the path.

    `flags` gives True, False or None for tensor names of the state_dict in the file
    (`root` picks it, as in `load`); None means that nobody knows and is left out, as are
    names that are not given.  `buffers` names the tensors that are no parameters.

        >>> save_trainable("model.pth", {"fc.weight": True, "emb.weight": False})
        'model.pth.trainable.json'

    An existing sidecar is replaced in one step.  Names that the checkpoint lacks, and
    tied tensors with contradicting flags, are a `SidecarError`.
    """
    path = os.fsdecode(f)
    from ._api import open as open_checkpoint

    with open_checkpoint(path, root=root) as checkpoint:
        path = checkpoint.path or path  # of a folder, what in it is the checkpoint
        document = document_of(
            checkpoint.archive,
            path,
            flags,
            buffers=buffers,
            names=checkpoint,
            root=".".join(checkpoint.root),
        )
    return write_document(path, document)


def load_trainable(
    f: str | os.PathLike[str],
    *,
    on_stale: OnStale = "raise",
    root: str | None = "auto",
) -> dict[str, bool]:
    """The trainable flags that the sidecar of the checkpoint `f` states.

    A flag found for one of several tied tensors holds for all of them.  Flags that were
    written for another version of the checkpoint are a `StaleSidecarError`; with
    `on_stale="warn"` a warning, with `"ignore"` nothing is compared, and in both cases
    the flags of names that the checkpoint has are returned.
    """
    if on_stale not in ("raise", "warn", "ignore"):
        raise ValueError(f"on_stale must be 'raise', 'warn' or 'ignore', not {on_stale!r}")
    path = os.fsdecode(f)
    from ._api import open as open_checkpoint
    from ._flags import joined, missing_sidecar, said_by

    target = sidecar_of(place_of(path))
    sidecar = read_sidecar(target)
    if root == "auto" and sidecar is not None and sidecar.root is not None:
        root = sidecar.root or None
    with open_checkpoint(path, root=root) as checkpoint:
        if sidecar is None:
            raise missing_sidecar(target)
        flags, trouble = said_by(checkpoint.archive, sidecar)
        if trouble is not None and on_stale != "ignore":
            if on_stale == "raise" and isinstance(trouble, SidecarError):
                raise trouble
            warn(trouble)
        prefix = joined(*checkpoint.root)
        return {name: flags[full] for name in checkpoint if (full := joined(prefix, name)) in flags}


# ------------------------------------------------- for load, save and the command line


def document_of(
    archive: Archive,
    path: str,
    flags: Mapping[str, bool | None],
    *,
    buffers: Iterable[str] | None = None,
    names: Mapping[str, TensorInfo] | None = None,
    root: str = "",
    size: int | None = None,
) -> dict[str, object]:
    """What the sidecar of `path`, opened as `archive`, is to say; all of it checked.

    `names` are the tensors of the state_dict `root`, of which the flags speak; `size` is
    that of the checkpoint, which may still stand under another name.
    """
    if names is None:
        names = archive.tensors()
    target = sidecar_of(path)
    trainable = _checked_flags(flags)
    named = None if buffers is None else sorted(set(_checked_buffers(buffers)))
    _refuse_unknown(path, target, [*trainable, *(named or ())], names)
    spread(Sidecar(target, trainable, [], None, None, None), names)

    from . import __version__

    checkpoint: dict[str, object] = {"name": os.path.basename(path)}
    if size is not None or not os.path.isdir(path):
        checkpoint["bytes"] = os.stat(path).st_size if size is None else size
    records = archive.records()
    if records and not _unstated(records):
        checkpoint["records_sha256"] = records_digest(records)
    checkpoint["tensors_sha256"] = tensors_digest(archive)
    document: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint": checkpoint,
        "root": root,
        "trainable": trainable,
        "writer": f"pystatedict {__version__}",
    }
    if named is not None:
        document["buffers"] = named
    return document


def write_document(path: str, document: dict[str, object]) -> str:
    """Write the sidecar of `path`; return the sidecar's path."""
    import json

    from ._targets import replacing

    # ASCII on purpose: names come from strangers and may hold what an editor would hide.
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    target = sidecar_of(path)
    with replacing(target) as file:
        rest = memoryview(text.encode("ascii"))
        while rest:
            rest = rest[file.write(rest) :]
    return target


def place_of(path: str) -> str:
    """The path of a checkpoint: of a folder, what in it is one."""
    if not os.path.isdir(path):
        return path
    from ._sets import path_of

    return path_of(path)


def read_sidecar(target: str) -> Sidecar | None:
    """The sidecar at the path `target`, or None when there is nothing."""
    if is_nothing(target):
        return None
    try:
        regular = stat.S_ISREG(os.stat(target).st_mode)
        if regular:
            with open(target, "rb") as file:
                data = file.read(LIMIT + 1)
    except FileNotFoundError:  # it was taken away just now
        return None
    except OSError as exc:
        raise SidecarError(
            f"cannot be read: {exc.strerror}",
            code="sidecar-unreadable",
            path=target,
        ) from exc
    if not regular:
        raise _malformed(target, "no regular file")
    if len(data) > LIMIT:
        raise _malformed(target, f"more than {LIMIT:,} bytes")
    return parse(data, target)


def records_digest(records: Iterable[Record]) -> str:
    """`records_sha256` of an archive's records."""
    lines = sorted((name.split("/", 1)[-1], crc, size) for name, _, _, size, crc, _ in records)
    return _sha256("".join(f"{name}\t{crc:08x}\t{size}\n" for name, crc, size in lines))


def tensors_digest(archive: Archive) -> str:
    """`tensors_sha256` of an archive; reads the storages whose CRC is not stated."""
    crcs: dict[tuple[int, int], str] = {}
    lines: list[str] = []
    todo = list(reversed(archive.tensors().items()))
    while todo:
        key, info = todo.pop()
        if info.layout != "strided":
            # Of several tensors: each by itself.
            todo += [(f"{key}.{name}", part) for name, part in reversed(info.parts.items())]
        line = f"{key}\t{info.dtype}\t{'x'.join(map(str, info.shape))}\t{_crc_of(info, crcs)}"
        if not _is_whole(info):
            line += f"\t{info.storage_offset}\t{'x'.join(map(str, info.stride))}"
        lines.append(line + "\n")
    return _sha256("".join(sorted(lines)))


def _crc_of(info: TensorInfo, crcs: dict[tuple[int, int], str]) -> str:
    """Of the bytes of its storage; each is computed once."""
    archive, number = info._archive, info._storage_index
    if info.is_meta or number is None:
        return "-"
    known = (id(archive), number)
    if known not in crcs:
        crcs[known] = f"{archive.storage_crc32(number):08x}"
    return crcs[known]


def find_trouble(
    archive: Archive, sidecar: Sidecar, names: Mapping[str, TensorInfo] | None
) -> StaleSidecarError | str | None:
    """Why the flags might not be this checkpoint's.

    An error when they are known to be stale, a text when nothing sure can be said, None
    when all is well.  `names`: the tensors it may speak of; None leaves the names uncompared.
    """
    doubt: StaleSidecarError | str | None
    if sidecar.records is None and sidecar.tensors is None:
        doubt = (
            f"{_shown(sidecar.path)} does not say which version of the checkpoint it was "
            "written for; only the names were compared.\n"
            "  hint: save_trainable writes flags that are bound to their file"
        )
    else:
        doubt = _compare(archive, sidecar)
    if names is not None and not isinstance(doubt, StaleSidecarError):
        lost = [name for name in sidecar.trainable if name not in names]
        if lost:
            return stale(sidecar, "names tensors that the checkpoint lacks", listed(lost))
    return doubt


def spread(sidecar: Sidecar, names: Mapping[str, TensorInfo]) -> dict[str, bool]:
    """The flags for `names`, in their order, each held good for all tied tensors."""
    said: dict[tuple[object, ...], tuple[bool, str]] = {}
    for name, flag in sidecar.trainable.items():
        if name not in names:
            continue
        info = names[name]
        other = said.setdefault(window(name, info), (flag, name))
        if other[0] != flag:
            raise SidecarError(
                "tied tensors have different flags",
                code="sidecar-contradiction",
                path=sidecar.path,
                evidence=[
                    f"{_shown(other[1])} is {_word(other[0])}",
                    f"{_shown(name)} is {_word(flag)}, and is the same tensor",
                ],
                hint="give them the same flag",
            )
    flags: dict[str, bool] = {}
    for name, info in names.items():
        found = said.get(window(name, info))
        if found is not None:
            flags[name] = found[0]
    return flags


# ----------------------------------------------------------------- writing


def _checked_flags(flags: Mapping[str, bool | None]) -> dict[str, bool]:
    checked: dict[str, bool] = {}
    try:
        items = list(flags.items())
    except AttributeError:
        raise TypeError(
            f"flags must map tensor names to True, False or None, got {type(flags).__name__}"
        ) from None
    for name, flag in items:
        if not isinstance(name, str):
            raise TypeError(f"tensor names are str, got {type(name).__name__}")
        if flag is None:
            continue
        if not isinstance(flag, bool):
            raise TypeError(
                f"the flag of {_shown(name)} must be True, False or None, got {type(flag).__name__}"
            )
        checked[name] = flag
    return checked


def _checked_buffers(buffers: Iterable[str]) -> list[str]:
    if isinstance(buffers, str):
        raise TypeError("buffers must be several tensor names, not one str")
    names = list(buffers)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"tensor names are str, got {type(name).__name__}")
    return names


def _refuse_unknown(
    path: str, target: str, given: Sequence[str], names: Mapping[str, TensorInfo]
) -> None:
    unknown = [name for name in dict.fromkeys(given) if name not in names]
    if not unknown:
        return
    evidence: list[str] = []
    for name in unknown[:_LISTED]:
        close = close_names(name, names)
        evidence.append(
            _shown(name) + (f", close: {', '.join(map(_shown, close))}" if close else "")
        )
    if len(unknown) > _LISTED:
        evidence.append(f"and {len(unknown) - _LISTED:,} more")
    raise SidecarError(
        "the checkpoint has no tensors of these names, so nothing was written",
        code="sidecar-unknown-names",
        path=target,
        evidence=evidence,
        hint=f"`pystatedict ls {_shown(path)}` lists its names",
    )


def close_names(name: str, names: Iterable[str]) -> list[str]:
    if len(name) > _LONGEST:
        return []
    from difflib import get_close_matches

    end = name.rpartition(".")[2]
    candidates: list[str] = []
    for other in names:
        if len(other) <= _LONGEST and (other.endswith(end) or abs(len(other) - len(name)) <= 2):
            candidates.append(other)
            if len(candidates) == _CANDIDATES:
                break
    return get_close_matches(name, candidates, 2)


# ----------------------------------------------------------------- reading


def parse(data: bytes, path: str) -> Sidecar:
    import json

    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_members)
    except RecursionError:
        raise _malformed(path, "nested too deeply") from None
    except ValueError as exc:  # JSONDecodeError, UnicodeDecodeError, a number too long
        raise _malformed(path, f"no JSON text: {exc}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _malformed(path, f'"format" is not "{FORMAT}"')
    version = document.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise SidecarError(
            f"layout version {_json_word(version)}; only version {VERSION} is known",
            code="sidecar-version",
            path=path,
            hint="a newer pystatedict may read it, or write it again with save_trainable",
        )
    trainable = document.get("trainable")
    if not isinstance(trainable, dict):
        raise _malformed(path, '"trainable" must map names to true or false')
    for name, flag in trainable.items():
        if not isinstance(flag, bool):
            raise _malformed(
                path, f"the flag of {_shown(name)} is {_json_word(flag)}, not true or false"
            )
    buffers = document.get("buffers", [])
    if not (
        isinstance(buffers, list)
        and all(isinstance(name, str) for name in buffers)
        and len(set(buffers)) == len(buffers)
    ):
        raise _malformed(path, '"buffers" must be a list of different names')
    if not isinstance(document.get("writer", ""), str):
        raise _malformed(path, '"writer" must be a text')
    root = document.get("root")
    if root is not None and not isinstance(root, str):
        raise _malformed(path, '"root" must be a text')
    records, tensors, size = _binding(document, path)
    return Sidecar(path, trainable, buffers, records, tensors, size, root)


def _binding(document: dict[str, Any], path: str) -> tuple[str | None, str | None, int | None]:
    if "checkpoint" not in document:
        return None, None, None
    checkpoint = document["checkpoint"]
    if not isinstance(checkpoint, dict):
        raise _malformed(path, '"checkpoint" must be an object')
    digests: list[str | None] = []
    for member in ("records_sha256", "tensors_sha256"):
        digest = checkpoint.get(member)
        if member in checkpoint and not _is_sha256(digest):
            raise _malformed(path, f'"{member}" must be 64 lower-case hexadecimal digits')
        digests.append(digest)
    if digests == [None, None]:
        raise _malformed(path, '"checkpoint" has neither "records_sha256" nor "tensors_sha256"')
    size = checkpoint.get("bytes")
    if "bytes" in checkpoint and not (type(size) is int and size >= 0):
        raise _malformed(path, '"bytes" must be a number of bytes')
    if not isinstance(checkpoint.get("name", ""), str):
        raise _malformed(path, '"name" must be a text')
    return digests[0], digests[1], size


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {_shown(name)} stands twice in one object")
            seen.add(name)
    return members


def _compare(archive: Archive, sidecar: Sidecar) -> StaleSidecarError | str | None:
    """The digests: an error, a doubt, or None."""
    records = archive.records()
    what, then, now = "records", sidecar.records, None
    if sidecar.records is not None:
        now = records_digest(records)
        if now == sidecar.records and not _unstated(records):
            return None
    if sidecar.tensors is not None:
        what, then, now = "tensors", sidecar.tensors, tensors_digest(archive)
    if now == then:
        if what == "tensors":
            return None
        return (
            f"{_shown(sidecar.path)} is bound to names and sizes only, since the "
            "checkpoint states no checksums: a changed value would not be noticed.\n"
            "  hint: save_trainable computes the checksums"
        )
    return stale(
        sidecar,
        "written for another version of the checkpoint",
        [f"{what} {_short(then)} then, {_short(now)} now"],
    )


def stale(sidecar: Sidecar, sentence: str, evidence: list[str]) -> StaleSidecarError:
    return StaleSidecarError(
        sentence,
        path=sidecar.path,
        evidence=evidence,
        hint="write it again with save_trainable(f, flags), or load_trainable(f, "
        "on_stale='ignore') if you know that the names still hold",
    )


def _unstated(records: Sequence[Record]) -> bool:
    """Are there none, or does one state no CRC?  torch can switch them off: they are 0 then."""
    return not records or any(size and not crc for _, _, _, size, crc, _ in records)


def _is_whole(info: TensorInfo) -> bool:
    if info.storage_offset or info.nbytes != info.storage_nbytes:
        return False
    expected = 1
    for size, stride in zip(reversed(info.shape), reversed(info.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


# ------------------------------------------------------------------- texts


def _sha256(text: str) -> str:
    from hashlib import sha256

    # Names may hold lone surrogates: pickles and JSON can both spell them.
    return sha256(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _malformed(path: str, why: str) -> SidecarError:
    return SidecarError(
        "not a file of trainable flags",
        code="sidecar-malformed",
        path=path,
        evidence=[why],
        hint="remove it, or write it again with save_trainable(f, flags)",
    )


def _shown(text: str) -> str:
    return f"'{printable(text, 200)}'"


def _short(digest: str | None) -> str:
    return f"{digest[:8]}…" if digest else "-"


def _word(flag: bool) -> str:
    return "trainable" if flag else "frozen"


def _json_word(value: object) -> str:
    """A wrong value as its JSON kind, or itself when it is small."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return printable(str(value).lower() if isinstance(value, bool) else repr(value), 40)
