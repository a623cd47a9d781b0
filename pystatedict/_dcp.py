# SPDX-License-Identifier: Apache-2.0
"""Distributed checkpoints: a folder with a ``.metadata`` and files of pieces.

The ``.metadata`` is a pickle of the classes of ``torch.distributed.checkpoint``; it is read
as data, nothing of it is imported.  It tells of every tensor which boxes it was cut into,
and where each lies: a slice of a ``.distcp`` file that is a checkpoint by itself, or a
tensor of a safetensors file, where that format was asked for.  Files that Hugging Face's
form of it wrote without a ``.metadata`` tell the same in their own headers.

Source of the layout: torch/distributed/checkpoint (metadata.py, filesystem.py and
hf_storage.py), 1.13 to 2.13.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pystatedict import _core
from pystatedict._errors import (
    CorruptError,
    LimitError,
    StateDictError,
    TruncatedError,
    UnsupportedError,
)
from pystatedict._files import open_source, stamp_of
from pystatedict._fileset import (
    FileSet,
    How,
    member_of,
    open_member,
    path_within,
    require_files,
    tell_danger,
)
from pystatedict._printable import counted, listed, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from pystatedict._core import Archive, Source, TensorInfo
    from pystatedict._fileset import Limits, Member

    Numbers = tuple[int, ...]
    Box = tuple[Numbers, Numbers]  # offsets, sizes

_SHARDING = "DCP_SHARDING_INFO"  # the key of __metadata__ that tells where boxes lie
_OPEN_MOST = 128  # files held open at a time, where nothing is mapped
_AXES_MOST = 6  # along which one tensor is cut; its boxes have 2 to that many corners

#: Names that such a metadata is made of; they stand in no data, so they ask for nothing.
_CLASSES = frozenset(
    {"Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
     "TensorProperties", "_MEM_FORMAT_ENCODING", "MEM_FORMAT_ENCODING", "MetadataIndex",
     "StorageMeta", "_StorageInfo"}
)  # fmt: skip


class _Piece:
    """Where the bytes of one box, or of one value, are."""

    __slots__ = ("file", "length", "name", "offset")

    def __init__(self, file: str, offset: int, length: int, name: str | None = None) -> None:
        self.file = file
        self.offset = offset
        self.length = length
        self.name = name  # of a tensor within safetensors; None: the whole slice is its own


class _Tensor:
    """A tensor that was cut into boxes; without any, a value of another kind."""

    __slots__ = ("boxes", "dtype", "requires_grad", "size")

    def __init__(self, dtype: str, size: Numbers, requires_grad: bool) -> None:
        self.dtype = dtype
        self.size = size
        self.requires_grad = requires_grad
        self.boxes: dict[Box, _Piece | None] = {}


class _Contents:
    """What a metadata tells: {name: tensor, or the piece of a value}, and paths by name."""

    def __init__(self, size: int = 0) -> None:
        self.entries: dict[str, _Tensor | _Piece] = {}
        self.paths: dict[str, tuple[Any, ...]] = {}
        self.globals: list[tuple[str, str, int, bool]] = []
        self.stamps: dict[str, tuple[int, ...]] = {}  # of the files of pieces
        self._left = size  # of its bytes

    def take(self, count: int) -> None:
        """Of what a pickle spells out, each has a byte at least; it may refer to one list over
        and over, and nobody who writes such a metadata does.
        """
        self._left -= count
        if self._left < 0:
            raise _bad("tells of more parts than it has bytes for")


# ------------------------------------------------------------------ the metadata


def _bad(why: str, key: str | None = None) -> CorruptError:
    return CorruptError(
        f"the metadata of the distributed checkpoint {why}",
        code="dcp-metadata",
        key=key,
        hint="copy the folder again from its source; all its files are written together",
    )


def _state(obj: Any, name: str) -> dict[str, Any]:
    """The attributes of an object of this class."""
    from pystatedict._opaque import Opaque

    known = isinstance(obj, Opaque) and str(obj.module).startswith("torch.distributed.")
    if not known or obj.name != name:
        raise _bad(f"holds something else where a {name} must be")
    state = obj.state
    if state is None:
        return {}
    if not isinstance(state, dict):
        raise _bad(f"holds a {name} without attributes")
    return state


def _numbers(value: Any) -> Numbers:
    if not isinstance(value, (tuple, list)):
        raise _bad("holds sizes that are none")
    most = _core.LIMITS["rank"]
    if len(value) > most:
        raise LimitError(
            "a tensor has more dimensions than the limit", limit=most, value=len(value), name="rank"
        )
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in value):
        raise _bad("holds sizes that are none")
    return tuple(value)


def _properties(obj: Any) -> tuple[str, bool]:
    """(torch's dtype, requires_grad)."""
    from pystatedict._opaque import Opaque
    from pystatedict._torchtypes import Dtype

    state = obj.state if isinstance(obj, Opaque) and obj.name == "TensorProperties" else None
    if isinstance(state, tuple) and len(state) == 5:
        dtype, flag = state[0], state[2]
    elif isinstance(state, dict):
        dtype, flag = state.get("dtype"), state.get("requires_grad")
    else:
        raise _bad("holds a tensor without properties")
    # What is no Dtype may be a nest whose text has no end.
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, Dtype) else ""
    if name not in _core.DTYPES:
        raise _bad("holds a tensor of a dtype that torch has not")
    return name, flag is True


def _read_metadata(path: str, limits: Limits) -> _Contents:
    """Of one ``.metadata`` file."""
    from pystatedict import _values

    source, _ = open_source(path, "copy")  # it is read whole
    contents = _Contents(memoryview(source).nbytes)
    archive = None
    try:
        archive = _core.open_archive(source, path, limits, True, mode="pickle")
        contents.globals = archive.globals(True)
        told = _state(archive.load(archive.root, _values), "Metadata")
        _read_entries(told, contents)
        _place(told.get("storage_data"), contents)
        _read_paths(told.get("planner_data"), contents)
    except StateDictError as error:
        error.path = error.path or path
        tell_danger(error, archive)
        raise
    return contents


def _read_paths(paths: Any, contents: _Contents) -> None:
    """The keys that each name was made of; what is no such table makes a flat checkpoint."""
    for name, way in paths.items() if isinstance(paths, dict) else ():
        if isinstance(way, (tuple, list)) and way:
            contents.take(len(way))
            if all(type(key) in (str, int) for key in way):
                contents.paths[name] = tuple(way)


def _read_entries(told: dict[str, Any], contents: _Contents) -> None:
    entries = told.get("state_dict_metadata")
    if not isinstance(entries, dict):
        raise _bad("has no table of tensors")
    for name, entry in entries.items():
        if not isinstance(name, str):
            raise _bad("names a tensor by something that is no text")
        if getattr(entry, "name", None) == "BytesStorageMetadata":
            _state(entry, "BytesStorageMetadata")
            contents.entries[name] = _Piece("", 0, -1)  # its place is told later
            continue
        state = _state(entry, "TensorStorageMetadata")
        dtype, flag = _properties(state.get("properties"))
        tensor = contents.entries[name] = _Tensor(dtype, _numbers(state.get("size")), flag)
        chunks = state.get("chunks")
        if not isinstance(chunks, list):
            raise _bad("tells of no chunks", name)
        contents.take(len(chunks))
        for chunk in chunks:
            box = _state(chunk, "ChunkStorageMetadata")
            offsets, sizes = _numbers(box.get("offsets")), _numbers(box.get("sizes"))
            if 0 not in sizes:
                tensor.boxes[offsets, sizes] = None


def _place(storage: Any, contents: _Contents) -> None:
    """Give every box and value its piece; what has none is told of later."""
    if not isinstance(storage, dict):
        raise _bad("does not say where the bytes are")
    pieces: dict[tuple[str, Numbers], _Piece] = {}
    for index, info in storage.items():
        key, place = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
        name, offset = key.get("fqn"), key.get("offset")
        file, start, length = (place.get(k) for k in ("relative_path", "offset", "length"))
        if not isinstance(name, str) or not isinstance(file, str):
            raise _bad("places bytes without a name")
        if type(start) is not int or type(length) is not int or start < 0 or length < 0:
            raise _bad("places bytes at something that is no number", name)
        told = place.get("transform_descriptors")
        if told:
            steps = [step for step in told if type(step) is str] if type(told) is list else []
            raise UnsupportedError(
                f"the bytes of {name!r} were transformed when they were written"
                f" ({printable(', '.join(steps), 80) or 'it does not say how'})",
                code="dcp-transform",
                hint="where torch is installed, load it and save it again without extensions",
            )
        pieces[name, () if offset is None else _numbers(offset)] = _Piece(file, start, length)
    for name, entry in contents.entries.items():
        if isinstance(entry, _Piece):
            if (name, ()) in pieces:
                contents.entries[name] = pieces[name, ()]
            continue
        for box in entry.boxes:
            found = pieces.get((name, box[0]))
            if found is None and not any(box[0]):
                found = pieces.get((name, ()))  # the first needs no offset
            entry.boxes[box] = found


# ------------------------------------------------------------------ is all of it there?


def _check_boxes(name: str, tensor: _Tensor) -> str | None:
    """What is wrong with the boxes that a tensor was cut into, or None."""
    size = tensor.size
    for offsets, sizes in tensor.boxes:
        within = len(offsets) == len(sizes) == len(size) and all(
            o + s <= n for o, s, n in zip(offsets, sizes, size, strict=True)
        )
        if not within:
            return f"{name!r}: a piece lies outside of the tensor"
    if 0 in size or _tiles(tensor.boxes, size):
        return None
    held = sum(_volume(sizes) for _, sizes in tensor.boxes)
    whole = _volume(size)
    if held < whole:
        return f"{name!r}: pieces hold {held:,} of {whole:,} elements"
    return f"{name!r}: pieces overlap"


def _volume(sizes: Numbers) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _tiles(boxes: dict[Box, _Piece | None], size: Numbers) -> bool:
    """Do the boxes fill the whole, each point once?

    They do just when their corners, counted with alternating signs, leave those of the
    whole: a sum of boxes is told by its corners as a function is by its derivative.
    """
    axes = [d for d in range(len(size)) if any(sizes[d] != size[d] for _, sizes in boxes)]
    if len(axes) > _AXES_MOST:
        raise LimitError("a tensor is cut along too many axes", hint="")
    left: dict[Numbers, int] = {}
    origin = tuple(0 for _ in size)
    for sign, (offsets, sizes) in [(-1, (origin, size)), *((1, box) for box in boxes)]:
        for point, parity in _corners(axes, offsets, sizes):
            left[point] = left.get(point, 0) + sign * parity
    return not any(left.values())


def _corners(axes: list[int], offsets: Numbers, sizes: Numbers) -> Iterator[tuple[Numbers, int]]:
    for bits in range(1 << len(axes)):
        far = [bits >> i & 1 for i in range(len(axes))]
        point = tuple(offsets[d] + sizes[d] * f for d, f in zip(axes, far, strict=True))
        yield point, -1 if sum(far) % 2 else 1


def _pieces(contents: _Contents) -> Iterator[tuple[str, _Piece]]:
    for name, entry in contents.entries.items():
        if isinstance(entry, _Piece):
            yield name, entry
        else:
            for piece in entry.boxes.values():
                if piece is not None:
                    yield name, piece


def _check_contents(contents: _Contents) -> None:
    unplaced, faults = [], []
    for name, entry in contents.entries.items():
        if isinstance(entry, _Piece):
            if entry.length < 0:
                unplaced.append(name)
            continue
        unplaced += [f"{name} at {list(box[0])}" for box, p in entry.boxes.items() if p is None]
        fault = _check_boxes(name, entry)
        if fault is not None:
            faults.append(fault)
    if unplaced:
        raise CorruptError(
            f"the metadata does not say where {counted(len(unplaced), 'piece')} of the distributed"
            " checkpoint are",
            code="dcp-chunks",
            evidence=listed(unplaced),
            hint="the save was interrupted, or not all ranks took part in it; save again",
        )
    if faults:
        raise CorruptError(
            f"the pieces of {counted(len(faults), 'tensor')} do not make it up",
            code="dcp-chunks",
            evidence=faults[:5],
            hint="the save was interrupted, or not all ranks took part in it; save again",
        )


def _check_files(folder: str, contents: _Contents) -> None:
    """Every slice lies in its file, and no two have bytes in common: else a few bytes could
    be read over and over.  Slices of safetensors files become tensors by name.
    """
    files: dict[str, list[tuple[str, _Piece]]] = {}
    for name, piece in _pieces(contents):
        files.setdefault(piece.file, []).append((name, piece))
    paths = {file: path_within(folder, file, "the metadata") for file in files}
    require_files(paths.values(), "the metadata")
    for file, rows in files.items():
        contents.stamps[file] = stamp_of(paths[file])
        size = os.stat(paths[file]).st_size
        rows.sort(key=lambda row: (row[1].offset, row[1].length))
        plain = _name_tensors(contents, paths[file], size, rows)
        end = 0
        for name, piece in plain:
            if piece.offset + piece.length > size:
                raise TruncatedError(
                    f"'{file}' ends before a piece of {name!r} does",
                    path=paths[file],
                    key=name,
                    expected=piece.offset + piece.length,
                    actual=size,
                )
            if piece.offset < end:
                raise _bad("lets two pieces overlap in their file", name)
            end = piece.offset + piece.length


def _name_tensors(
    contents: _Contents, path: str, size: int, rows: list[tuple[str, _Piece]]
) -> list[tuple[str, _Piece]]:
    """The rows that are slices.  A safetensors file is written at one stroke behind them:
    its tensors all begin at the same offset, and go by their names.
    """
    plain = []
    heads: dict[int, bytes] = {}
    with open(path, "rb") as file:
        for name, piece in rows:
            if isinstance(contents.entries[name], _Piece):
                plain.append((name, piece))
                continue
            if piece.offset not in heads and len(heads) < 2 and piece.offset < size:
                file.seek(piece.offset)
                heads[piece.offset] = file.read(9)
            head = heads.get(piece.offset, b"")
            if head[4:] == b"\0\0\0\0{":
                piece.name = name
            else:
                plain.append((name, piece))
    return plain


# ------------------------------------------------------------------ the set


class _Safetensors:
    """A file of tensors by name: their numbers, and the places of their boxes."""

    __slots__ = ("archive", "offsets", "refs")

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.refs = {str(key): ref for key, ref, _ in archive.children(archive.root) or ()}
        self.offsets = _saved_offsets(archive)


def _saved_offsets(archive: Archive) -> dict[str, Numbers]:
    import json

    if archive.kind != "safetensors":
        raise _bad("places tensors by name in a file that is no safetensors file")
    try:
        told = json.loads((archive.extra or {}).get(_SHARDING, "{}"))
    except (ValueError, RecursionError):
        raise _bad("in a header is no JSON") from None
    found = {}
    for name, entry in told.items() if isinstance(told, dict) else ():
        found[name] = _numbers(entry.get("saved_offsets") if isinstance(entry, dict) else None)
    return found


class _Node:
    """A place in the nest that was flattened: children by key, or a name."""

    __slots__ = ("children", "depth", "name", "path")

    def __init__(self, depth: int, name: str | None, path: tuple[Any, ...] = ()) -> None:
        self.depth = depth
        self.name = name  # None: a dict or list
        self.path = path  # of keys, to what has a name
        self.children: dict[Any, int] = {}


class _Opener:
    """Opens the archive that a piece is in, or several are, and knows of what they are."""

    __slots__ = ("owner", "parts", "piece")

    def __init__(self, owner: Distributed, piece: _Piece) -> None:
        self.owner = owner
        self.piece = piece
        self.parts: list[tuple[str, _Piece, Box | None]] = []  # name, piece, and box of a tensor

    def __call__(self) -> Archive:
        return self.owner._open(self.piece)[0]


class Distributed(FileSet):
    """A distributed checkpoint as one flat state_dict of full tensors.

    Names are those of the metadata (``"model.fc.weight"``).  The nest that they were
    flattened from is known too, so that ``root="model"`` and ``root="auto"`` find what they
    would in a single file.
    """

    kind = "dcp"

    def __init__(self, path: str, contents: _Contents, how: How) -> None:
        super().__init__(path)
        self._entries = contents.entries
        self._globals = contents.globals
        self._stamps = contents.stamps
        self._how = How(how.access, how.limits)  # of damaged pieces none is kept
        self._lost: set[str] = set()
        self._sources: dict[str, Source] = {}
        self._named: dict[tuple[str, int], _Safetensors] = {}
        self._nodes = _nest(contents)
        self._names = list(self._entries)
        self.numbers = {name: number for number, name in enumerate(self._names)}
        self.extra = {"files": sorted({piece.file for _, piece in _pieces(contents)})}

    # ---------------------------------------------------------------- looking

    def members(self) -> list[Member]:
        found: dict[tuple[str, int, str | None], _Opener] = {}
        for name, entry in self._entries.items():
            if name in self._lost:
                continue
            boxes: dict[Any, _Piece | None] = (
                {None: entry} if isinstance(entry, _Piece) else {**entry.boxes}
            )
            for box, piece in boxes.items():
                assert piece is not None
                # Of a safetensors file the pieces go by their names.
                place = (piece.file, piece.offset, None if piece.name is None else "")
                opener = found.setdefault(place, _Opener(self, piece))
                opener.parts.append((name, piece, box))
        return [(opener.piece.file, opener) for opener in found.values()]

    def globals(self, unknown_only: bool = False) -> list[tuple[str, str, int, bool]]:
        ours = [
            row
            for row in self._globals
            if not (row[0].startswith("torch.distributed.") and row[1] in _CLASSES)
        ]
        return [*ours, *super().globals(unknown_only)]

    def children(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        node = self._nodes[ref or self.root]
        if node.name is not None:
            return None
        return [(key, child, self._kind(child)) for key, child in node.children.items()]

    def _kind(self, ref: int) -> str:
        name = self._nodes[ref].name
        if name is None:
            return "dict"
        return "tensor" if isinstance(self._entries[name], _Tensor) else "value"

    def _below(self, ref: int) -> Iterator[tuple[str, str]]:
        """(name seen from `ref`, full name) of all below it, in order."""
        if ref == self.root:
            yield from ((name, name) for name in self._entries)
            return
        depth = self._nodes[ref].depth
        seen: set[str] = set()
        todo = [ref]
        while todo:
            number = todo.pop()
            node = self._nodes[number]
            if node.name is None:
                todo.extend(reversed(list(node.children.values())))
                continue
            name = ".".join(map(str, node.path[depth:]))
            yield (name if name not in seen else f"{name}#{number}"), node.name
            seen.add(name)

    def tensors(self, ref: int = 0, /) -> dict[str, TensorInfo]:
        self.check_open()
        found: dict[str, Any] = {}
        for name, full in self._below(ref or self.root):
            entry = self._entries[full]
            if isinstance(entry, _Tensor):
                found[name] = ChunkedInfo(self, full, name, entry)
        return found

    def info(self, index: int, name: str, /) -> TensorInfo:
        full = self._names[index]
        entry = self._entries[full]
        assert isinstance(entry, _Tensor)
        info: Any = ChunkedInfo(self, full, name, entry)  # with the attributes of TensorInfo
        return info  # type: ignore[no-any-return]

    def storage_crc32(self, number: int, /) -> int:
        """Of the checksums of a tensor's pieces: each tensor is a storage of its own."""
        entry = self._entries[self._names[number]]
        assert isinstance(entry, _Tensor)
        texts = []
        for (offsets, _), piece in entry.boxes.items():
            assert piece is not None
            archive, ref = self._open(piece)
            info = archive.tensors(ref).get("")
            if info is not None and info._storage_index is not None:
                crc = info._archive.storage_crc32(info._storage_index)
                texts.append(f"{offsets}{crc:08x}")
        return _core.crc32("".join(texts).encode())

    def lose(self, member: Member) -> None:
        self._lost.update(name for name, _, _ in _parts_of(member))

    def misfits(self, member: Member, archive: Archive) -> list[StateDictError]:
        found: list[StateDictError] = []
        for name, piece, box in _parts_of(member):
            entry = self._entries[name]
            if box is None or isinstance(entry, _Piece):
                continue
            try:
                ref = archive.root if piece.name is None else self._open(piece)[1]
                self._check_part(name, entry, box, piece, archive, ref)
            except CorruptError as error:
                found.append(error)
                self._lost.add(name)
        return found

    def lost(self) -> list[str]:
        return [name for name in self._entries if name in self._lost]

    # ---------------------------------------------------------------- loading

    def load(self, ref: int, values: object, *, copy: bool = False, meta: bool = False) -> Any:
        self.check_open()
        node = self._nodes[ref or self.root]
        if node.name is not None:
            return self._value(node.name, node.name, values, copy, meta)
        from pystatedict._statedict import StateDict

        whole = StateDict._born(self, True, ref or self.root)
        for name, full in self._below(ref or self.root):
            if full not in self._lost:
                whole[name] = self._value(full, name, values, copy, meta)
        return whole

    def _value(self, full: str, name: str, values: object, copy: bool, meta: bool) -> Any:
        entry = self._entries[full]
        if isinstance(entry, _Piece):
            archive, ref = self._open(entry)
            return archive.load(ref, values, copy=copy, meta=meta)
        if meta:
            return ChunkedInfo(self, full, name, entry)
        return self.assemble(full, entry, values, copy)

    def assemble(self, name: str, tensor: _Tensor, values: object, copy: bool) -> Any:
        """The full tensor: mapped where it is one piece, else put together."""
        self.check_open()
        whole = (tuple(0 for _ in tensor.size), tensor.size)
        if whole in tensor.boxes:
            piece = tensor.boxes[whole]
            assert piece is not None
            return self._part(name, tensor, whole, piece, values, copy)
        self._check_bytes(name, tensor)
        import numpy as np

        from pystatedict._dtypes import numpy_dtype

        try:
            array = np.empty(tensor.size, numpy_dtype(tensor.dtype))
        except ValueError:
            raise UnsupportedError(
                "NumPy cannot hold a tensor of this shape", key=name, hint=""
            ) from None
        for (offsets, sizes), piece in tensor.boxes.items():
            assert piece is not None
            part = self._part(name, tensor, (offsets, sizes), piece, values, False)
            if not isinstance(part, np.ndarray):
                raise UnsupportedError(
                    f"{name!r} was cut into pieces that are no plain arrays", code="tensor-layout"
                )
            array[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] = part
        return array

    def _check_bytes(self, name: str, tensor: _Tensor) -> None:
        """A few bytes may stand for many elements where they are mapped, not where they are
        copied: memory is asked for by what the files hold.
        """
        itemsize = _core.DTYPES[tensor.dtype][0]
        files: set[str] = set()
        for (_, sizes), piece in tensor.boxes.items():
            assert piece is not None
            held = piece.length if piece.name is None else self._source(piece.file).size
            # By its name a tensor has one box in a file.
            twice = piece.name is not None and piece.file in files
            files.add(piece.file)
            if twice or _volume(sizes) * itemsize > held:
                raise _bad("has a piece that is larger than its bytes", name)

    def _part(
        self, name: str, tensor: _Tensor, box: Box, piece: _Piece, values: object, copy: bool
    ) -> Any:
        archive, ref = self._open(piece)
        try:
            part = archive.load(ref, values, copy=copy)
        except StateDictError as error:
            error.path, error.key = error.path or archive.path, error.key or name
            raise
        self._check_part(name, tensor, box, piece, archive, ref)
        return part

    def _check_part(
        self, name: str, tensor: _Tensor, box: Box, piece: _Piece, archive: Archive, ref: int
    ) -> None:
        info = archive.tensors(ref).get("")
        same = info is not None and info.dtype == tensor.dtype and info.shape == box[1]
        if same and piece.name is not None:
            # By name there is one of a tensor, and a rank may have had two boxes of it.
            found = self._safetensors(piece, archive.path or "")
            same = found.offsets.get(name, box[0]) == box[0]
        if not same:
            raise CorruptError(
                f"a piece of {name!r} is another tensor than the metadata tells",
                code="dcp-chunks",
                path=archive.path,
                key=name,
                hint="the files are of different saves; copy the whole folder again",
            )

    def _open(self, piece: _Piece) -> tuple[Archive, int]:
        """The archive that a piece is, or is in, and the number of its value there."""
        self.check_open()
        path = os.path.join(self.path or "", piece.file)
        if piece.name is not None:
            found = self._safetensors(piece, path)
            if piece.name not in found.refs:
                raise CorruptError(
                    f"'{piece.file}' lacks a tensor that the metadata places in it",
                    code="dcp-chunks",
                    path=path,
                    key=piece.name,
                    hint="the files are of different saves; copy the whole folder again",
                )
            return found.archive, found.refs[piece.name]
        archive = self._slice(piece.file, path, piece.offset, piece.length)
        return archive, archive.root

    def _safetensors(self, piece: _Piece, path: str) -> _Safetensors:
        place = (piece.file, piece.offset)
        if place not in self._named:
            self._named[place] = _Safetensors(self._slice(piece.file, path, piece.offset, None))
        return self._named[place]

    def _source(self, file: str) -> Source:
        if file not in self._sources:
            if len(self._sources) >= _OPEN_MOST and self._how.access == "read":
                self._sources.clear()
                self._named.clear()
            path = os.path.join(self.path or "", file)
            source, _ = open_source(path, self._how.access)
            if stamp_of(path) != self._stamps[file]:
                raise CorruptError(
                    "the file has changed since the checkpoint was opened",
                    path=path,
                    code="file-changed",
                    hint="open the checkpoint again, when all of its files are written",
                )
            self._sources[file] = source
        return self._sources[file]

    def _slice(self, file: str, path: str, start: int, length: int | None) -> Archive:
        source = self._source(file)
        part = source.slice(start, source.size if length is None else length)
        return member_of(part, path, self._how)

    def close(self) -> None:
        super().close()
        self._sources.clear()
        self._named.clear()


def _parts_of(member: Member) -> list[tuple[str, _Piece, Box | None]]:
    opener = member[1]
    assert isinstance(opener, _Opener)
    return opener.parts


def _nest(contents: _Contents) -> list[_Node]:
    """The nest that the names were flattened from; flat where that makes no sense."""
    nodes = [_Node(0, None), _Node(0, None)]  # 0 is nobody's
    for name in contents.entries:
        way = contents.paths.get(name, (name,))
        at = 1
        for depth, key in enumerate(way, 1):
            leaf = depth == len(way)
            node = nodes[at]
            if node.name is not None or (leaf and key in node.children):
                return _flat(contents)
            if key not in node.children:
                node.children[key] = len(nodes)
                nodes.append(_Node(depth, name, way) if leaf else _Node(depth, None))
            at = node.children[key]
    return nodes


def _flat(contents: _Contents) -> list[_Node]:
    nodes = [_Node(0, None), _Node(0, None)]
    for name in contents.entries:
        nodes[1].children[name] = len(nodes)
        nodes.append(_Node(1, name, (name,)))
    return nodes


# ------------------------------------------------------------------ one tensor


class ChunkedInfo:
    """What TensorInfo is of a file, of a tensor in a distributed checkpoint.

    Its attributes are those of TensorInfo.  Strides are those of the array that it gives;
    the storage is its own, by its name.
    """

    __slots__ = ("_archive", "_full", "_tensor", "name")

    _stored = None  # in pieces, and not as an array has them
    device = "cpu"
    kind = None
    is_meta = False
    _is_lost = False
    layout = "strided"
    storage_offset = 0
    type = None

    def __init__(self, archive: Distributed, full: str, name: str, tensor: _Tensor) -> None:
        self._archive = archive
        self._full = full
        self._tensor = tensor
        self.name = name

    @property
    def shape(self) -> Numbers:
        return self._tensor.size

    @property
    def dtype(self) -> str:
        return self._tensor.dtype

    @property
    def stride(self) -> Numbers:
        strides, step = [], 1
        for size in reversed(self.shape):
            strides.append(step)
            step *= max(size, 1)
        return tuple(reversed(strides))

    @property
    def storage(self) -> str:
        return self._full

    @property
    def requires_grad(self) -> bool | None:
        return True if self._tensor.requires_grad else None

    @property
    def numel(self) -> int:
        return _volume(self.shape)

    @property
    def itemsize(self) -> int:
        return _core.DTYPES[self.dtype][0]

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize

    storage_nbytes = nbytes

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def parts(self) -> dict[str, TensorInfo]:
        return {}

    @property
    def path(self) -> str | None:
        return self._archive.path

    @property
    def _index(self) -> int:
        return self._archive.numbers[self._full]

    _storage_index = _index

    def numpy(self) -> npt.NDArray[Any]:
        """The full tensor as an array: mapped where it is one piece."""
        from pystatedict import _values

        array: npt.NDArray[Any] = self._archive.assemble(self._full, self._tensor, _values, False)
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        from pystatedict._dtypes import converted

        return converted(self.numpy(), dtype, copy)

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __reduce__(self) -> tuple[Any, ...]:
        from pystatedict._checkpoint import reduce_info

        return reduce_info(self)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"TensorInfo({self.name!r}, shape={self.shape!r}, dtype='{self.dtype}')"


# ------------------------------------------------------------------ opening


def open_distributed(folder: str, metadata: list[str], how: How) -> Distributed:
    """The checkpoint whose ``.metadata`` file, or files of the ranks, are these."""
    require_files((os.path.join(folder, name) for name in metadata), "the folder")
    merged = _Contents()
    for name in metadata:
        _merge(merged, _read_metadata(os.path.join(folder, name), how.limits))
    try:
        _check_contents(merged)
        _check_files(folder, merged)
    except StateDictError as error:
        error.path = error.path or os.path.join(folder, metadata[0])
        raise
    return Distributed(folder, merged, how)


def _merge(whole: _Contents, part: _Contents) -> None:
    """Ranks that wrote metadata of their own tell of the same tensors; the first that tells
    of a box or a value is believed, as they are replicas.
    """
    for name, entry in part.entries.items():
        before = whole.entries.setdefault(name, entry)
        if isinstance(before, _Tensor) and isinstance(entry, _Tensor):
            if (before.size, before.dtype) != (entry.size, entry.dtype):
                raise _bad("of two ranks tells of different tensors", name)
            for box, piece in entry.boxes.items():
                before.boxes[box] = before.boxes.get(box) or piece
        elif type(before) is not type(entry):
            raise _bad("of two ranks tells of a tensor and of a value", name)
    whole.paths.update(part.paths)
    whole.globals += part.globals


def open_sharded_safetensors(folder: str, names: list[str], how: How) -> Distributed:
    """Files of Hugging Face's form that were not put together: each tells of its boxes."""
    contents = _Contents()
    sizes: dict[str, list[int]] = {}
    require_files((os.path.join(folder, file) for file in names), "the folder")
    for file in names:
        contents.stamps[file] = stamp_of(os.path.join(folder, file))
        archive = open_member(os.path.join(folder, file), how)
        try:
            _read_boxes(file, archive, contents, sizes)
        except StateDictError as error:
            error.path = os.path.join(folder, file)
            raise
        archive.close()
    for name, entry in contents.entries.items():
        assert isinstance(entry, _Tensor)
        entry.size = tuple(sizes[name])
    try:
        _check_contents(contents)
    except StateDictError as error:
        error.path = folder
        raise
    return Distributed(folder, contents, how)


def _read_boxes(
    file: str, archive: Archive, contents: _Contents, sizes: dict[str, list[int]]
) -> None:
    told = _saved_offsets(archive)
    for name, info in archive.tensors().items():
        offsets = told.get(name)
        if offsets is None or len(offsets) != info.ndim:
            raise _bad("in a header does not fit its tensor", name)
        tensor = contents.entries.setdefault(name, _Tensor(info.dtype, (), False))
        assert isinstance(tensor, _Tensor)
        ends = [o + s for o, s in zip(offsets, info.shape, strict=True)]
        before = sizes.setdefault(name, ends)
        if tensor.dtype != info.dtype or len(before) != len(ends):
            raise _bad("of two files tells of different tensors", name)
        sizes[name] = [max(a, b) for a, b in zip(before, ends, strict=True)]
        if info.numel:
            tensor.boxes[offsets, info.shape] = _Piece(file, 0, 0, name)
