# SPDX-License-Identifier: Apache-2.0
"""Programs of torch.export (.pt2): their weights, as names, shapes and places of bytes.

An archive holds programs by name.  The weights of each are told by a JSON text, and their
bytes stand in records of their own, or, of torch before 2.8, in a checkpoint within the
archive.  The program itself is not read.  Sources: torch/export/pt2_archive/_package.py and
torch/_export/serde/schema.py, torch/export/__init__.py for the files of torch 2.1 to 2.7.
"""

from __future__ import annotations

from collections.abc import Mapping

from pystatedict import _core
from pystatedict._errors import (
    CorruptError,
    MissingTensorError,
    NotACheckpointError,
    UnsupportedError,
)
from pystatedict._jsonrecords import Records, Told
from pystatedict._marks import BUFFER, PARAMETER, REQUIRES_GRAD
from pystatedict._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._core import Archive, Source

    Limits = dict[str, int] | None
    Row = tuple[str, str, tuple[int, ...], tuple[int, ...] | None, int, int, int]
    Storage = tuple[str, int, int, bool, bool, int, str]

# The numbers of the serialized schema.
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
    8: "float64", 9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16",
    28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
_STRIDED = 7

_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
# How the texts that tell of them are called; the second by torch before 2.9.
_ENDINGS = {
    _WEIGHTS: ("_weights_config.json", "_model_param_config.json"),
    _CONSTANTS: ("_constants_config.json", "_model_constants_config.json"),
}
# torch 2.1 to 2.7, whose archives have no folders; the second name was used at first.
_OLD = {
    _WEIGHTS: ("serialized_state_dict.pt", "serialized_state_dict.json"),
    _CONSTANTS: ("serialized_constants.pt", "serialized_constants.json"),
}


def program_at(
    source: Source, path: str | None, limits: Limits, root: str | None
) -> tuple[Archive, str | None]:
    """The weights that the first parts of `root` name, and what is left of it.

    ``None`` or "auto": of the one program.  Else the program's name, or "constants" for
    what it holds besides its weights, or both.
    """
    archive = _core.open_archive(source, path, limits, False, mode="records")
    if archive.kind == "export":
        archive = _core.open_archive(source, path, limits, False)
    records = Records(archive, archive.prefix if archive.kind == "export" else "")
    programs = _programs(records)
    name, rest = _picked(programs, root)
    folder = _WEIGHTS
    if rest is not None and rest.partition(".")[0] == "constants":
        folder, rest = _CONSTANTS, rest.partition(".")[2] or None
    config, checkpoint = programs[name].get(folder, (None, None))
    if checkpoint is not None:
        return _within(source, archive, records, checkpoint, limits), rest
    if config is None:
        raise UnsupportedError(
            f"the program {printable(name)!r} has no {folder.split('/')[1]} in the archive",
            code="no-state-dict",
            hint="",
        )
    table = _Table(records, folder)
    told = Told(records.json(config), archive.prefix + config)
    rows = [table.row(key, payload) for key, payload in _payloads(told)]
    archive.describe("export", table.storages, rows)
    return archive, rest


def _programs(records: Records) -> dict[str, dict[str, tuple[str | None, str | None]]]:
    """By program and folder: the text that tells of the tensors, or the checkpoint."""
    found: dict[str, dict[str, tuple[str | None, str | None]]] = {}
    for folder, names in _OLD.items():
        for record in names:
            if record in records.index and records.size[record] > 0:
                found.setdefault("model", {}).setdefault(folder, (None, record))
    for record in records.index:
        for folder, endings in _ENDINGS.items():
            inner = record.removeprefix(folder)
            if inner == record or "/" in inner:
                continue
            for ending in endings:
                if inner.endswith(ending):
                    name = inner.removesuffix(ending)
                    found.setdefault(name, {}).setdefault(folder, (record, None))
            if inner.endswith(".pt"):
                found.setdefault(inner.removesuffix(".pt"), {})[folder] = (None, record)
    return found


def _picked(programs: Mapping[str, object], root: str | None) -> tuple[str, str | None]:
    """(program, what is left of `root`)"""
    names = list(programs)
    if not names:
        raise UnsupportedError(
            "an archive of torch.export that holds no weights of a program",
            code="no-state-dict",
            hint="a compiled program (AOTInductor, ExecuTorch) keeps them in its own form",
        )
    fitting = [name for name in names if f"{root}.".startswith(f"{name}.")]
    if root is not None and fitting:
        found = max(fitting, key=len)
        return found, root[len(found) + 1 :] or None
    if len(names) == 1:
        return names[0], root
    shown = ", ".join(printable(name, 80) for name in names[:8])
    if root is None or root == "auto":
        raise UnsupportedError(
            f"an archive of torch.export with {len(names)} programs: {shown}",
            code="several-programs",
            hint=f"say which: root={names[0]!r}",
        )
    raise MissingTensorError(
        f"there is no {printable(root)!r} among the programs {shown}",
        code="no-such-root",
        key=root,
        hint=f"say which: root={names[0]!r}",
        suggestions=names[:8],
    )


def _payloads(told: Told) -> list[tuple[str, Told]]:
    inner = told.part("config")
    return (told if inner.value is None else inner).members()


class _Table:
    """Rows for describe(), and the storages that they use."""

    def __init__(self, records: Records, folder: str) -> None:
        self._records = records
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self.storages: list[Storage] = []

    def row(self, name: str, payload: Told) -> Row:
        if payload.part("use_pickle").flag():
            raise UnsupportedError(
                "a weight of a tensor subclass, pickled within the archive",
                code="tensor-layout",
                key=name,
                hint="load the program with torch.export.load, and save its state_dict",
            )
        meta = payload.part("tensor_meta")
        kind, layout = meta.part("dtype").value, meta.part("layout").value
        if layout != _STRIDED or type(kind) is not int or kind not in _DTYPES:
            raise UnsupportedError(
                f"a tensor of dtype {_shown(kind)} and layout {_shown(layout)}, by the numbers of"
                " the serialized schema",
                code="tensor-layout",
                key=name,
                hint="load the program with torch.export.load, and save its state_dict",
            )
        shape, strides = _numbers(meta.part("sizes")), _numbers(meta.part("strides"))
        if len(strides) != len(shape):
            raise CorruptError("a tensor with more or fewer strides than sizes", key=name)
        flags = BUFFER
        if payload.part("is_param").flag():
            flags = PARAMETER
            if meta.part("requires_grad").flag():
                flags |= REQUIRES_GRAD
        offset = _number(meta.part("storage_offset"))
        return name, _DTYPES[kind], shape, strides, self._storage(payload, meta), offset, flags

    def _storage(self, payload: Told, meta: Told) -> int:
        key = payload.part("path_name").text()
        record = self._folder + key
        if key not in self._numbers:
            if record not in self._records.index:
                raise CorruptError("a storage has no record in the archive", key=key)
            self._numbers[key] = len(self.storages)
            index, size = self._records.index[record], self._records.size[record]
            device = _device(meta.part("device"))
            # Of big-endian bytes the archive's own record tells.
            self.storages.append((key, index, size, True, False, 0, device))
        return self._numbers[key]


def _shown(told: object) -> str:
    return printable(repr(told), 40) if isinstance(told, (int, str)) else "unknown"


def _number(told: Told) -> int:
    """A number that might have been an expression, but not of a weight."""
    return told.part("as_int").whole()


def _numbers(told: Told) -> tuple[int, ...]:
    return tuple(_number(part) for part in told.parts())


def _device(told: Told) -> str:
    kind, index = told.part("type").text(), told.part("index").value
    return f"{kind}:{index}" if type(index) is int else kind


def _within(
    source: Source, archive: Archive, records: Records, record: str, limits: Limits
) -> Archive:
    """The checkpoint that is a record of the archive; its bytes are not copied."""
    index = records.index[record]
    start = archive.locate(index)
    if start is None:
        inner = _core.Source(archive.read(index), stamp=archive.stamp)
    else:
        inner = source.slice(start, archive.records()[index][3])
    try:
        return _core.open_archive(inner, archive.path, limits)
    except NotACheckpointError:
        raise CorruptError(
            "a record of the archive should be a checkpoint, and is none",
            entry=archive.prefix + record,
        ) from None
