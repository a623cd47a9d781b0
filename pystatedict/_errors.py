# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as exceptions that say what to do.

Facts are attributes; the text is made from them when it is asked for, so `path` may
be filled in by whoever knows it.
"""

from __future__ import annotations

import os

from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypedDict, Unpack

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

    class _Facts(TypedDict, total=False):
        code: str | None
        path: Path | None
        hint: str | None
        entry: str | None
        offset: int | None
        key: str | None
        evidence: Iterable[str]


__all__ = [
    "ChecksumError",
    "ClosedError",
    "CorruptError",
    "LimitError",
    "MismatchError",
    "MissingTensorError",
    "NotACheckpointError",
    "SidecarError",
    "StaleSidecarError",
    "StateDictError",
    "StateDictWarning",
    "TruncatedError",
    "UnsafePickleError",
    "UnsupportedError",
]

_AGAIN = "download or copy the file again, then compare its size or checksum with the source's"
_SCAN = "`pystatedict scan {file}` lists what the file names, and runs none of it"

# One hint a code.  {file} stands for the file's path.
HINTS = {
    # of the core
    "not-zip": "`pystatedict stat {file}` tells what the file is",
    "no-data-pkl": "a torch.save file holds a record data.pkl; if this archive holds one"
    " as a file, unpack it first",
    "truncated": _AGAIN,
    "interrupted-save": "the program stopped while it saved, often at a value that cannot be"
    " pickled; save again, or use an older checkpoint",
    "zip-structure": _AGAIN,
    "zip-overlap": "no tool writes such an archive by accident; get the file from a source"
    " that you trust",
    "zip-duplicate": "readers differ in which of the two they take; unpack the archive and"
    " pack it again with each name once",
    "zip-inflate": _AGAIN,
    "checksum": _AGAIN,
    "pickle": _AGAIN,
    "pickle-truncated": _AGAIN,
    "storage": _AGAIN,
    "tensor": _AGAIN,
    "byteorder": _AGAIN,
    "legacy-stream": _AGAIN,
    "tar-structure": _AGAIN,
    "safetensors": _AGAIN,
    "npz": _AGAIN,
    "index": "get the index and its files again, all of one version",
    "missing-part": "copy or download the missing files to the folder of the others",
    "dcp-metadata": "copy the folder again from its source; all its files are written together",
    "dcp-chunks": "copy the folder again from its source; all its files are written together",
    "tar-members": "unpack the archive (`tar -xf`) and load the checkpoint inside",
    "tar-member-type": "torch writes plain files only; do not unpack it. " + _SCAN,
    "path-escape": "unpacking it would write elsewhere; do not. " + _SCAN,
    "pickle-call": "torch writes mere data there. " + _SCAN,
    "pickle-extension": "what such a code means is up to the program that reads it; save again"
    " without copyreg.add_extension",
    "zip-method": "unpack the archive and pack it again with stored or deflated records"
    " (`zip -0`); torch.save stores them",
    "zip-encrypted": "PyTorch never writes this; decrypt it with the tool that packed it,"
    " then load the file inside",
    "zip-multi-disk": "join the parts with the tool that split them (`zip -s 0 IN --out OUT`)",
    "pickle-opcode": "the pickle is newer than protocol 5, or damaged; torch writes protocol 2",
    "archive-kind": "`pystatedict stat {file}` tells what the archive is",
    "dtype": "cast the tensor to a dtype that torch has where it was made, and save again",
    "legacy-dtype": 'format="zip" holds it; or change the dtype before (`array.astype(...)`)',
    "legacy-layout": 'format="zip" holds it; or save the parts of the tensor',
    "tensor-layout": "make the tensor dense where it was made (`tensor.to_dense()`) and save again",
    "limit": "limits={...} raises the bound, for a file from a source that you trust",
    # of this package
    "corrupt": _AGAIN,
    "unsafe-pickle": _SCAN,
    "dangerous-global": "do not open it with pickle or torch.load(weights_only=False) either; "
    + _SCAN,
    "unknown-global": "unknown='opaque' keeps such values as inert objects; " + _SCAN,
    "closed": "read inside the `with` block; arrays taken before stay valid",
    "missing-tensor": "`pystatedict ls {file}` lists the names",
    "mismatch": "strict=False accepts missing and unexpected names; shapes must match",
    "stale-sidecar": "write the flags again with save_trainable()",
}

# Codes that say all: an allocation that failed, an exception of the caller's own, ...
NO_HINTS = frozenset({"ok", "no-memory", "input", "sink", "argument", "error", "sidecar"})

# What an error record's subject is, by code.
_SUBJECTS = {"zip-duplicate": "the other record", "storage": "storage", "legacy-dtype": "tensor"}

# The bound, as `limits=` calls it, that each of the core's sentences speaks of.
LIMIT_NAMES = {
    "too many records": "entries",
    "a pickle is larger than allowed": "pickle_size",
    "a pickle has more values than allowed": "values",
    "an integer is longer than allowed": "integer_size",
    "a deflated record is larger than the limit": "inflated_size",
    "the deflated storages are too large for a file of this size": "inflation",
    "a deflated record is too large for a file of this size": "inflation",
    "a record is larger than the limit": "pickle_size",
    # nothing in limits= raises these
    "a record is larger than this machine can address": "",
    "a tensor has more dimensions than NumPy can hold": "",
    "a key of a dict or set has too many parts": "",
    "too many keys have the same hash": "",
    "values are copied all too often": "",
    "too many values for one pickle": "",
}

_MAX_NAMES = 5  # names shown of a list
_MAX_NAME = 120  # characters shown of a name


class StateDictError(Exception):
    """The root of all errors of this package.

    Attributes:
        code: a stable word for the kind of error, such as ``"git-lfs"`` or ``"checksum"``.
        path: the file, where one is known.
        hint: what to do about it, or None.
        entry: the record of the archive, such as ``"archive/data.pkl"``, or None.
        offset: the position in the file, in bytes, or None.
        key: the tensor, storage or name that it is about, or None.
        evidence: further lines for people.
    """

    code: str = "error"

    def __init__(
        self,
        sentence: str = "",
        *,
        code: str | None = None,
        path: Path | None = None,
        hint: str | None = None,
        entry: str | None = None,
        offset: int | None = None,
        key: str | None = None,
        evidence: Iterable[str] = (),
    ) -> None:
        super().__init__(sentence)
        if code is not None:
            self.code = code
        self.path = path
        self.entry = entry
        self.offset = offset
        self.key = key
        self.evidence = tuple(evidence)
        #: rows of Archive.globals() that the pickle had told before it went wrong
        self.named: list[tuple[str, str, int, bool]] = []
        if hint is None:
            hint = HINTS.get(self.code) or HINTS.get(type(self).code)
        self._hint: str | None = hint

    @property
    def hint(self) -> str | None:
        """What to do about it; None where nothing sensible can be said."""
        if not self._hint:
            return None
        return self._hint.replace("{file}", _quoted(self.path) if self.path else "FILE")

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint

    @property
    def sentence(self) -> str:
        """What is wrong, in a line, without the file's name."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        first = printable(self.sentence) or type(self).__name__
        if self.path:
            first = f"{_quoted(self.path)}: {first}"
        lines = [first]
        lines += ["  " + printable(line) for line in self._facts()]
        if self.hint:
            lines.append("  hint: " + printable(self.hint))
        return "\n".join(lines)

    def _facts(self) -> list[str]:
        lines = []
        where = []
        if self.entry:
            where.append("record " + _quoted(self.entry))
        if self.offset is not None:
            where.append(f"at byte {self.offset:,}")
        if where:
            lines.append(", ".join(where))
        if self.key and f"'{self.key}'" not in self.sentence:
            lines.append(f"{_SUBJECTS.get(self.code, 'name')}: {_quoted(self.key)}")
        lines.extend(self.evidence)
        return lines


class NotACheckpointError(StateDictError, ValueError):
    """The file is something else: a web page, a Git LFS pointer, a picture, nothing at all.

    `identified` names what it is, as `identify` would.  The hint says how to get at the
    real file.
    """

    code = "not-a-checkpoint"

    def __init__(
        self,
        sentence: str = "",
        *,
        identified: str | None = None,
        **facts: Unpack[_Facts],
    ) -> None:
        super().__init__(sentence, **facts)
        self.identified = identified


class CorruptError(StateDictError, ValueError):
    """The file contradicts itself: records, pickle and tensors do not fit together.

    `entry` and `offset` say where.  Get the file again from its source.
    """

    code = "corrupt"


class TruncatedError(CorruptError, EOFError):
    """The file ends before its content does: half a download, a full disk, a killed save.

    `expected` and `actual` are sizes in bytes where they are known.  Get the file again.
    """

    code = "truncated"

    def __init__(
        self,
        sentence: str = "",
        *,
        expected: int | None = None,
        actual: int | None = None,
        **facts: Unpack[_Facts],
    ) -> None:
        super().__init__(sentence, **facts)
        self.expected = expected
        self.actual = actual

    def _facts(self) -> list[str]:
        lines = super()._facts()
        if self.expected is not None and self.actual is not None:
            lines.append(f"found {self.actual:,} bytes, expected {self.expected:,}")
        return lines


class ChecksumError(CorruptError):
    """The bytes of a record are not those that were written: a bit flipped on the way.

    `stored` is the CRC-32 that the archive states, `computed` that of the bytes.  Get the
    file again; reading without ``verify=True`` gives the bytes as they are.
    """

    code = "checksum"

    def __init__(
        self,
        sentence: str = "",
        *,
        stored: int | None = None,
        computed: int | None = None,
        **facts: Unpack[_Facts],
    ) -> None:
        super().__init__(sentence, **facts)
        self.stored = stored
        self.computed = computed

    def _facts(self) -> list[str]:
        lines = super()._facts()
        if self.stored is not None and self.computed is not None:
            lines.append(f"stored {self.stored:08x}, computed {self.computed:08x}")
        return lines


class UnsafePickleError(StateDictError, ValueError):
    """Loading would have to import or call something, which is never done.

    `globals` lists every name that was refused, as ``module.name``.  Nothing was run.
    """

    code = "unsafe-pickle"

    def __init__(
        self,
        sentence: str = "",
        *,
        globals: Iterable[str] = (),
        **facts: Unpack[_Facts],
    ) -> None:
        super().__init__(sentence, **facts)
        self.globals = tuple(globals)

    def _facts(self) -> list[str]:
        lines = super()._facts()
        if self.globals:
            lines.append("names: " + _listed(self.globals))
        return lines


class UnsupportedError(StateDictError, NotImplementedError):
    """The file is sound, and of a kind that this package does not read.

    Also raised for arguments that ask for what cannot be given, such as a device.
    The hint says how to convert the file, or what to pass instead.
    """

    code = "unsupported"


class LimitError(StateDictError, ValueError):
    """The file asks for more than the bounds allow.

    `value` is what it asks for, `limit` the bound, `name` what ``limits=`` calls that bound.
    Raise the bound only for a file from a source that you trust.
    """

    code = "limit"

    def __init__(
        self,
        sentence: str = "",
        *,
        limit: int | None = None,
        value: int | None = None,
        name: str | None = None,
        **facts: Unpack[_Facts],
    ) -> None:
        if name:
            facts.setdefault(
                "hint", f"limits={{'{name}': ...}} raises the bound, for a file that you trust"
            )
        super().__init__(sentence, **facts)
        self.limit = limit
        self.value = value
        self.name = name

    def _facts(self) -> list[str]:
        lines = super()._facts()
        if self.value is not None and self.limit is not None:
            lines.append(f"found {self.value:,}, allowed {self.limit:,}")
        return lines


class ClosedError(StateDictError, ValueError):
    """The checkpoint was closed, and then asked for more.

    Arrays that were taken before stay valid.  Read inside the ``with`` block.
    """

    code = "closed"


class MissingTensorError(StateDictError, KeyError):
    """No tensor of that name; `key` is the name, `suggestions` the names close to it."""

    code = "missing-tensor"

    def __init__(
        self,
        sentence: str = "",
        *,
        suggestions: Iterable[str] = (),
        **facts: Unpack[_Facts],
    ) -> None:
        super().__init__(sentence, **facts)
        self.suggestions = tuple(suggestions)

    def _facts(self) -> list[str]:
        lines = super()._facts()
        if self.suggestions:
            lines.append("close: " + _listed([f"'{name}'" for name in self.suggestions]))
        return lines


class AmbiguousRootError(MissingTensorError):
    """Several state_dicts are candidates for ``root="auto"``."""


class MismatchError(StateDictError, ValueError):
    """Weights and target do not fit; nothing was copied.

    All differences at once, in torch's words: `missing_keys` (in the target only),
    `unexpected_keys` (in the weights only), `mismatched` (shapes or dtypes that differ).
    """

    code = "mismatch"

    def __init__(
        self,
        sentence: str = "",
        *,
        missing_keys: Iterable[str] = (),
        unexpected_keys: Iterable[str] = (),
        mismatched: Iterable[object] = (),
        **facts: Unpack[_Facts],
    ) -> None:
        super().__init__(sentence, **facts)
        self.missing_keys = list(missing_keys)
        self.unexpected_keys = list(unexpected_keys)
        self.mismatched = list(mismatched)

    def _facts(self) -> list[str]:
        lines = super()._facts()
        if self.missing_keys:
            lines.append("missing:    " + _listed(self.missing_keys))
        if self.unexpected_keys:
            lines.append("unexpected: " + _listed(self.unexpected_keys))
        if self.mismatched:
            lines.append("mismatched: " + _listed([str(item) for item in self.mismatched]))
        return lines


class SidecarError(StateDictError, ValueError):
    """The file of trainable flags beside a checkpoint cannot be read or written.

    `path` is the sidecar's.  Write it again with `save_trainable`.
    """

    code = "sidecar"


class StaleSidecarError(SidecarError):
    """The trainable flags were written for another version of the checkpoint.

    Check that the names still mean the same layers, then write the flags again.
    """

    code = "stale-sidecar"


class StateDictWarning(UserWarning):
    """Something was left out or repaired; the text says what, and what to do."""


def warn(trouble: object) -> None:
    """Warn, at the line that called into this package."""
    import sys
    import warnings

    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(str(trouble), StateDictWarning, stacklevel=level)


def _quoted(path: Path) -> str:
    return "'" + printable(os.fsdecode(path)) + "'"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(printable(name, _MAX_NAME) for name in names[:_MAX_NAMES])
    rest = len(names) - _MAX_NAMES
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def from_core(
    code: str,
    family: str,
    sentence: str,
    offset: int | None,
    entry: bytes,
    subject: bytes,
    found: int | None,
    expected: int | None,
) -> Exception:
    """The exception for an error record of the core, whose texts come from the file."""
    if family == "memory":
        return MemoryError()
    if family == "argument":
        return ValueError(sentence)
    record = entry.decode("utf-8", "backslashreplace") or None
    key = subject.decode("utf-8", "backslashreplace") or None
    facts: _Facts = {"code": code, "entry": record, "offset": offset, "key": key}
    if family == "truncated":
        return TruncatedError(sentence, expected=expected, actual=found, **facts)
    if family == "checksum":
        return ChecksumError(sentence, stored=expected, computed=found, **facts)
    if family == "limit":
        name = LIMIT_NAMES.get(sentence)
        if name == "":
            facts["hint"] = ""
        return LimitError(sentence, limit=expected, value=found, name=name or None, **facts)
    if found is not None and expected is not None:
        facts["evidence"] = (f"found {found:,}, expected {expected:,}",)
    if family == "unsafe":
        facts["key"] = None
        return UnsafePickleError(sentence, globals=() if key is None else (key,), **facts)
    return _BY_FAMILY.get(family, StateDictError)(sentence, **facts)


_BY_FAMILY: dict[str, type[StateDictError]] = {
    "foreign": NotACheckpointError,
    "corrupt": CorruptError,
    "unsupported": UnsupportedError,
}
