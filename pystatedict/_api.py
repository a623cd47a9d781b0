"""load, open, items and save: policy and words; the work is done below."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from pystatedict import _core
from pystatedict._checkpoint import Checkpoint
from pystatedict._errors import UnsafePickleError, UnsupportedError
from pystatedict._files import open_source, sidecar_of
from pystatedict._opening import Naming, archive_of, open_at, open_checkpoint, warn_of_method
from pystatedict._roots import find_in, find_root
from pystatedict._targets import Ahead, reading, replacing, told, writer_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Literal

    from pystatedict._files import Access
    from pystatedict._opened import Archive

    Pattern = str | Sequence[str] | Callable[[str], bool]

__all__ = ["items", "load", "open", "save"]


# ------------------------------------------------------------------ opening


def _patterns(pattern: Pattern | None) -> Callable[[str], bool]:
    if pattern is None:
        return lambda _name: True
    if callable(pattern):
        return pattern
    from fnmatch import fnmatchcase

    globs = [pattern] if isinstance(pattern, str) else list(pattern)
    return lambda name: any(fnmatchcase(name, glob) for glob in globs)


def open(f: Any, *, root: str | None = None, limits: Mapping[str, int] | None = None) -> Checkpoint:
    """Open a checkpoint to look and pick: nothing is loaded, NumPy is not imported.

    Args:
        f: a path, a file opened in binary mode (read from its position), or bytes.  A path may
            also be an index (``*.index.json``) or a folder whose files are one checkpoint:
            shards, a distributed checkpoint, DeepSpeed's.
        root: None for all tensors of the file, "auto" for the one state_dict inside, or a
            dotted path such as "model.ema"; as load() takes it.
        limits: bounds on what a file may ask for, by name; see ``pystatedict.LIMITS``.

    Returns:
        A mapping from name to TensorInfo, in file order, and a context manager.

    Raises:
        NotACheckpointError: the file is something else; the message says what.
        CorruptError: it is damaged (TruncatedError: it ends early).
        UnsupportedError: it is sound, and of a kind that this version does not read.

    >>> with open("tutorial.pth") as checkpoint:
    ...     for name, info in checkpoint.items():
    ...         print(name, info.shape, info.dtype)
    fc1.0.weight (512, 6) float32
    fc1.0.bias (512,) float32
    fc2.0.weight (128, 512) float32
    fc2.0.bias (128,) float32
    fc_final.weight (1, 128) float32
    fc_final.bias (1,) float32
    """
    return open_checkpoint(f, root, limits=limits)


# ------------------------------------------------------------------ loading


def load(
    f: Any,
    map_location: Any = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
    copy: bool = False,
    root: str | None = None,
    verify: bool = False,
    trainable: bool | str | os.PathLike[str] | Mapping[str, bool] | None = None,
    unknown: Literal["opaque", "error"] = "opaque",
    dangerous: Literal["error", "opaque"] = "error",
    limits: Mapping[str, int] | None = None,
) -> Any:
    """Load the object that was saved, tensors as NumPy arrays; nothing is executed.

    Arrays are views of a private, copy-on-write map: writable, and the file never changes.
    Tensors that share a storage share memory.  The mapping that holds tensors is a
    :class:`StateDict`, a dict with a little more.

    Args:
        f: a path, a file opened in binary mode (read from its position), or bytes.  A path may
            also be an index (``*.index.json``) or a folder whose files are one checkpoint:
            shards, a distributed checkpoint, DeepSpeed's.
        map_location: None or "cpu"; "meta" gives TensorInfos in the place of arrays, but of
            those of a npz that are no tensors.
        weights_only: True; there is no other way here.
        mmap: False reads the file into memory of its own instead of mapping it.
        copy: give each storage memory of its own, and let go of the file.
        root: None for the whole object, "auto" for the one state_dict inside, or a dotted
            path such as "model.ema".  Of a package of torch.package it begins with a pickle's
            name, of an archive of torch.export with a program's, where there are several;
            "constants" is what a script or a program holds besides its state_dict.
        verify: check every record's CRC-32 before anything else; torch does not.
        trainable: flags by name, or the path of a sidecar; None looks for
            ``<file>.trainable.json``; False does not look.
        unknown: "opaque" keeps objects of unknown classes as inert Opaque values; "error"
            refuses them, naming every one.
        dangerous: "error" refuses a file that would run code in torch or pickle (nothing is
            run here anyway); "opaque" keeps such calls as inert values.
        limits: bounds on what a file may ask for, by name; see ``pystatedict.LIMITS``.

    Raises:
        NotACheckpointError, CorruptError, UnsupportedError, UnsafePickleError, LimitError:
            the message says what is wrong, where, and what to do.

    >>> state_dict = load("tutorial.pth")
    >>> for name, tensor in state_dict.items():
    ...     print(name, tensor.shape, state_dict.trainable[name])
    fc1.0.weight (512, 6) False
    fc1.0.bias (512,) False
    fc2.0.weight (128, 512) True
    fc2.0.bias (128,) True
    fc_final.weight (1, 128) True
    fc_final.bias (1,) True
    """
    with Naming(os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else None):
        meta = _check_load_options(map_location, weights_only, unknown, dangerous)
    held: list[_core.Source] = []
    access: Access = "map" if mmap is not False else "summed" if verify else "copy"
    archive, root = open_at(f, root, access=access, limits=limits, held=held)
    try:
        if verify:
            from pystatedict._recordcheck import verify_archive

            with Naming(archive.path):
                verify_archive(archive, alone=any(source.summed for source in held))
        obj = _object_in(archive, root, unknown, dangerous, trainable, copy=copy, meta=meta)
    finally:
        for source in held:
            source.settle()
    if archive.end and hasattr(f, "read"):
        _go_behind(f, archive.end)
    if copy:
        archive.close()
    return obj


def load_lazily(
    f: Any, root: str | None = None, *, trainable: Any = None, limits: Any = None
) -> Any:
    """load() with TensorInfos in the place of arrays, whose bytes are read, never mapped."""
    archive, root = open_at(f, root, access="read", limits=limits)
    return _object_in(archive, root, "opaque", "error", trainable, copy=False, meta=True)


def _object_in(
    archive: Archive,
    root: str | None,
    unknown: str,
    dangerous: str,
    trainable: Any,
    *,
    copy: bool,
    meta: bool,
) -> Any:
    """What load() gives of an opened file, which is closed when that fails."""
    from pystatedict import _values

    try:
        with Naming(archive.path):
            _check_globals(archive, unknown, dangerous)
            warn_of_method(archive)
            ref, path = find_root(archive, root)
            obj = archive.load(ref, _values, copy=copy, meta=meta)
            complete = getattr(archive.extra, "complete", None)
            if complete is not None and ref == archive.root:
                complete(archive, obj)  # with what is no tensor, and stands beside them
            if trainable is not False:
                _apply_flags(archive, obj, path, trainable)
    except BaseException:
        archive.close()  # whoever keeps the traceback keeps what it refers to
        raise
    return obj


def _go_behind(f: Any, size: int) -> None:
    """Legacy streams may stand one after another in a file, and are loaded one by one."""
    with suppress(AttributeError, OSError, ValueError):
        f.seek(size, os.SEEK_CUR)


def _check_load_options(map_location: Any, weights_only: Any, unknown: str, dangerous: str) -> bool:
    if weights_only is not True and weights_only is not None:
        raise UnsafePickleError(
            "weights_only=False would run what the file names; pystatedict never does",
            code="weights-only",
            hint="leave weights_only out; objects of unknown classes load as inert Opaque values",
        )
    if unknown not in ("opaque", "error") or dangerous not in ("opaque", "error"):
        raise ValueError('unknown and dangerous are "opaque" or "error"')
    if map_location is None:
        return False
    place = map_location if isinstance(map_location, str) else None
    if place is None and type(map_location).__name__ == "device":
        place = str(map_location)
    if place not in ("cpu", "meta"):
        raise UnsupportedError(
            f"map_location={map_location!r}: arrays live in the memory of the CPU",
            code="map-location",
            hint="leave map_location out; tensors saved on any device load here",
        )
    return place == "meta"


# What torch.fx modules are saved as; torch runs their source text to make them anew.
_GRAPHS = (
    "torch.fx.graph_module.reduce_graph_module",
    "torch.fx.graph_module.reduce_package_graph_module",
    "torch.fx.graph_module.reduce_deploy_graph_module",
)


def _check_globals(archive: Archive, unknown: str, dangerous: str) -> None:
    if archive.kind in ("torchscript", "package") and dangerous == "error":
        from pystatedict._scriptcheck import check_script

        check_script(archive)
    if unknown == "opaque" and dangerous == "opaque":
        return
    named = archive.globals(unknown_only=True)
    if not named:
        return
    from pystatedict._globals import verdict

    refused: list[str] = []
    worst = "unknown"
    for module, name, _, _ in named:
        said = verdict(module, name)
        if (said == "dangerous" and dangerous == "error") or (
            said != "plain" and unknown == "error"
        ):
            refused.append(f"{module}.{name}")
            worst = "dangerous" if said == "dangerous" else worst
    if not refused:
        return
    if worst == "dangerous" and all(name in _GRAPHS for name in refused):
        raise UnsafePickleError(
            "the file holds a graph module of torch.fx, whose source text torch would run",
            code="dangerous-global",
            globals=refused,
            hint='load(f, root="auto", dangerous="opaque") reads its tensors and runs nothing',
        )
    if worst == "dangerous":
        raise UnsafePickleError(
            "the pickle asks for code while loading; this is no mere data, and nothing was run",
            code="dangerous-global",
            globals=refused,
        )
    raise UnsafePickleError(
        f"the pickle needs {len(refused)} name{'s' if len(refused) > 1 else ''} that"
        " pystatedict does not know",
        code="unknown-global",
        globals=refused,
    )


def _apply_flags(archive: Archive, obj: Any, path: tuple[str, ...], trainable: Any) -> None:
    """Give the StateDicts in `obj` the flags of the sidecar, and then the argument's."""
    from pystatedict._statedict import StateDict

    given = trainable if isinstance(trainable, Mapping) else None
    if given is not None and not isinstance(obj, StateDict):
        raise TypeError("trainable flags need a state_dict; say which by root=")
    sidecar = _sidecar_path(archive.path, None if given is not None else trainable)
    if sidecar is not None:
        from pystatedict._flags import apply_sidecar

        apply_sidecar(archive, obj, path, sidecar)
    for name, flag in (given or {}).items():
        obj.trainable[name] = flag


def _sidecar_path(path: str | None, trainable: Any) -> str | None:
    if isinstance(trainable, (str, os.PathLike)):
        return os.fsdecode(os.fspath(trainable))
    if path is None:
        return None
    sidecar = sidecar_of(path)
    return sidecar if os.path.exists(sidecar) else None


def items(
    f: Any, *, trainable: bool = False, pattern: Pattern | None = None
) -> Iterator[tuple[Any, ...]]:
    """Iterate over the state_dict in a file or mapping: (name, array), or with its flag.

    Meta tensors, which have no bytes, come as TensorInfo.

    Args:
        f: what load() takes, or a mapping: of names to arrays, or with such a one inside.
        trainable: also give True, False, or None (nobody has said).
        pattern: only names that match: a glob, several globs, or a function of the name.

    >>> for name, tensor, flag in items("tutorial.pth", trainable=True, pattern="*.bias"):
    ...     print(name, tensor.shape, flag)
    fc1.0.bias (512,) False
    fc2.0.bias (128,) True
    fc_final.bias (1,) True
    """
    from pystatedict._opaque import Opaque

    wanted = _patterns(pattern)
    mapping: Mapping[Any, Any] = load(f, root="auto") if not isinstance(f, Mapping) else f
    if isinstance(mapping, Opaque):  # a dict of a class that is not known here
        mapping = mapping.items
    if mapping is f and not isinstance(f, Checkpoint):
        mapping = find_in(mapping)
    flags: Mapping[Any, Any] = (getattr(mapping, "trainable", None) or {}) if trainable else {}
    for name, value in mapping.items():
        if not hasattr(value, "__array__") or not wanted(str(name)):
            continue
        listed = hasattr(value, "storage_offset") and not value.is_meta
        array = value.numpy() if listed else value
        yield (name, array, flags.get(name)) if trainable else (name, array)


# ------------------------------------------------------------------ saving


def save(
    obj: Any,
    f: Any,
    *,
    trainable: Literal["sidecar", "parameters", False] | None = None,
    protocol: int = 2,
    format: str | None = None,
    overwrite: bool = True,
    checksum: bool = True,
    opaque: bool = False,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a checkpoint, mostly one that ``torch.load`` of 1.6 to today reads, in every mode.

    Arrays that share memory become one storage, as tied tensors are in torch.  The file
    appears whole or not at all, and an old one survives any failure.  The same object gives
    the same bytes, whatever the file's name.

    Args:
        obj: mostly a mapping of names to arrays; also any nest of containers, numbers and text.
        f: a path, or an object with write(); it need not be seekable.
        trainable: "sidecar" writes the flags of a StateDict to ``<f>.trainable.json``;
            "parameters" writes them into the file as Parameters, which torch restores;
            False leaves them out; with both, an older sidecar is removed.  None keeps them
            where they were: what the pickle told goes into the pickle, what was said since
            goes into the sidecar.  The other formats have no place for flags, so all that are
            known go into the sidecar.
        protocol: 2.
        format: "zip", torch's own; "legacy", the stream that torch before 1.6 reads, as do all
            since, which holds no dtype that torch cannot read from it, such as uint16 or
            float8; "safetensors" or "npz" for a mapping of names to arrays and nothing else.
            None goes by the suffix of the path: ``.safetensors``, ``.npz``, else "zip".
        overwrite: False raises FileExistsError when the file is there.
        checksum: False leaves the CRC fields 0, as an option of torch does.
        opaque: write Opaque objects back as they were; torch would import them on loading.
        progress: is called with the number of bytes, each time that some were written.

    Raises:
        TypeError: the object, or something in it, is no checkpoint data.
        UnsupportedError: a legacy file cannot hold a tensor; `key` is its name.
        OSError: the target could not be written; the old file is as it was.

    >>> import numpy as np
    >>> save({"w": np.zeros((2, 3), "f4")}, "small.pth")
    >>> load("small.pth")["w"].shape
    (2, 3)
    """
    _check_save_arguments(obj, f)
    if protocol != 2:
        raise UnsupportedError(
            f"protocol={protocol}: only 2 is read by torch.load(weights_only=True)",
            code="protocol",
        )
    if trainable not in (None, False, "sidecar", "parameters"):
        raise ValueError('trainable is None, "sidecar", "parameters" or False')
    format = format_of(f, format)
    torchs = format in ("zip", "legacy")
    if not torchs and (trainable == "parameters" or opaque or not checksum):
        raise ValueError(
            "trainable='parameters', opaque=True and checksum=False speak of torch's own format;"
            f" format={format!r} has no place for them"
        )
    if isinstance(obj, Checkpoint):
        obj = state_dict_of(obj)
    write = _WRITERS[format](obj, _Options(format, trainable, checksum, opaque))
    if not isinstance(f, (str, os.PathLike)):
        if trainable == "sidecar":
            raise ValueError('trainable="sidecar" needs a path, for the sidecar to stand beside')
        write(told(writer_of(f), progress))
        return
    path = os.fsdecode(os.fspath(f))
    document = None
    with replacing(path, overwrite) as file:
        write(told(Ahead(file), progress))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # beside a device no sidecar stands
            document = _sidecar_document(obj, path, file, trainable, inside=torchs)
    if document is not None:
        from pystatedict._sidecar import write_document

        if document["trainable"]:
            write_document(path, document)
        else:
            os.unlink(sidecar_of(path))


class _Options:
    """What the writers of the formats need to know."""

    def __init__(self, format: str, trainable: Any, checksum: bool, opaque: bool) -> None:
        self.format = format
        self.trainable = trainable
        self.checksum = checksum
        self.opaque = opaque


def _torch_writer(obj: Any, options: _Options) -> Callable[[Any], object]:
    from pystatedict._flags import flags_to_write
    from pystatedict._reduce import Reducer

    flags = flags_to_write(obj, options.trainable)
    keep, legacy = options.trainable is not False, options.format == "legacy"
    reducer = Reducer(options.opaque, flags, keep, legacy)
    return lambda write: _core.write(
        obj,
        write,
        reducer,
        checksum=options.checksum,
        parameters=flags,
        flags=keep,
        legacy=legacy,
    )


def _safetensors_writer(obj: Any, _: _Options) -> Callable[[Any], object]:
    from pystatedict._safetensors import safetensors_writer

    return safetensors_writer(obj)


def _npz_writer(obj: Any, _: _Options) -> Callable[[Any], object]:
    from pystatedict._npz import npz_writer

    return npz_writer(obj)


#: (object, options) -> what pours it into a write(); refuses before anything is written.
_WRITERS: dict[str, Callable[[Any, _Options], Callable[[Any], object]]] = {
    "zip": _torch_writer,
    "legacy": _torch_writer,
    "safetensors": _safetensors_writer,
    "npz": _npz_writer,
}


def format_of(f: Any, format: str | None) -> str:
    """The format that was asked for, or that the target's name tells."""
    if format is None:
        suffix = ""
        if isinstance(f, (str, os.PathLike)):
            suffix = os.path.splitext(os.fsdecode(os.fspath(f)))[1].lower()[1:]
        return suffix if suffix in ("safetensors", "npz") else "zip"
    if format not in _WRITERS:
        raise UnsupportedError(
            f"format={format!r}: this version writes {', '.join(map(repr, _WRITERS))}",
            code="format",
        )
    return format


def _sidecar_document(
    obj: Any, path: str, file: BinaryIO, trainable: Any, *, inside: bool
) -> dict[str, Any] | None:
    """What the sidecar of `path` is to say, checked before `file` takes its place.

    `inside`: the file itself holds what its pickle told.  Without flags the sidecar is to be
    removed; None: it is to be left as it is.
    """
    from pystatedict._flags import sidecar_to_write
    from pystatedict._sidecar import document_of

    told = sidecar_to_write(obj, path, trainable, inside=inside)
    if told is None or not told[1]:
        return None if told is None else {"trainable": {}}
    root, flags = told
    size = os.fstat(file.fileno()).st_size
    with reading(file) as whole:
        archive = archive_of(*open_source(whole))
    try:
        ref, _ = find_root(archive, root or None)
        return document_of(archive, path, flags, names=archive.tensors(ref), root=root, size=size)
    finally:
        archive.close()


def _check_save_arguments(obj: Any, f: Any) -> None:
    """The tutorial's classic mistakes, before anything is written."""
    where = isinstance(obj, (str, os.PathLike)) or hasattr(obj, "write")
    if where and not isinstance(f, (str, os.PathLike)) and not hasattr(f, "write"):
        raise TypeError(
            "save(obj, f): the first argument must be a mapping of names to arrays, got"
            f" {type(obj).__name__} {_short(obj)}; the second must be a path, got"
            f" {type(f).__name__}.\n  hint: you may have swapped them:"
            " save(state_dict, 'out.pth'), as in torch.save."
        )
    if not isinstance(f, (str, os.PathLike)) and not hasattr(f, "write"):
        raise TypeError(f"save(obj, f): f must be a path or have write(), got {type(f).__name__}")
    if callable(obj) and not isinstance(obj, type) and not isinstance(obj, Mapping):
        raise TypeError(f"save(obj, f): got {_callable(obj)}")


def _callable(obj: Any) -> str:
    """What was given in an object's place, and what was probably meant."""
    owner = getattr(obj, "__self__", None)
    name = getattr(obj, "__name__", None)
    if owner is not None and not isinstance(owner, type(os)):
        return (
            f"the method {name} of a {type(owner).__name__}, not what it returns.\n"
            f"  hint: call it: save(model.{name}(), f); saved without the parentheses, torch"
            " would pickle the method and the whole model with it."
        )
    if callable(getattr(obj, "state_dict", None)):
        return (
            f"a {type(obj).__name__}, which NumPy knows nothing of.\n"
            "  hint: save what is in it: save(model.state_dict(), f), with tensors as arrays"
        )
    return f"{_short(obj)}, which is no data.\n  hint: give a mapping of names to arrays"


def _short(obj: Any) -> str:
    text = repr(obj)
    return text if len(text) < 60 else text[:57] + "..."


def state_dict_of(checkpoint: Checkpoint) -> Any:
    """A Checkpoint's tensors under their names, and their flags."""
    from pystatedict._marks import bits_of, flag_of
    from pystatedict._statedict import StateDict

    result = StateDict(checkpoint.items())
    result.source = checkpoint.path
    bits = {name: bits_of(info) for name, info in checkpoint.items()}
    result._told_bits = {name: some for name, some in bits.items() if some}
    result._said.update(
        {name: flag for name, flag in checkpoint.trainable.items() if flag != flag_of(bits[name])}
    )
    return result
