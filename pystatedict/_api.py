"""load, open, items and save: policy and words; the work is done below."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from pystatedict import _core
from pystatedict._checkpoint import Checkpoint, verify_archive
from pystatedict._errors import StateDictError, UnsafePickleError, UnsupportedError
from pystatedict._files import replacing, writer_of
from pystatedict._opening import open_archive
from pystatedict._roots import find_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

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
            dotted path such as "model.ema".
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
    archive = open_archive(f, limits=limits)
    with _Naming(archive.path):
        ref, path = find_root(archive, root)
    return Checkpoint(archive, ref, path)


class _Naming:
    """Put the file's path into errors that pass."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, StateDictError) and error.path is None:
            error.path = self.path


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
        map_location: None or "cpu"; "meta" gives TensorInfos in the place of arrays.
        weights_only: True; there is no other way here.
        mmap: False reads the file into memory of its own instead of mapping it.
        copy: give each storage memory of its own, and let go of the file.
        root: None for the whole object, "auto" for the one state_dict inside, or a dotted
            path such as "model.ema".
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
    from pystatedict import _values

    meta = _check_load_options(map_location, weights_only, unknown, dangerous)
    archive = open_archive(f, mmap=mmap is not False, limits=limits)
    with _Naming(archive.path):
        if verify:
            verify_archive(archive)
        _check_globals(archive, unknown, dangerous)
        ref, path = find_root(archive, root)
        obj = archive.load(ref, _values, copy=copy, meta=meta)
        complete = getattr(archive.extra, "complete", None)
        if complete is not None and ref == archive.root:
            complete(archive, obj)  # with what is no tensor, and stands beside them
        if trainable is not False:
            _apply_flags(archive, obj, path, trainable)
    if copy:
        archive.close()
    return obj


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


def _check_globals(archive: Archive, unknown: str, dangerous: str) -> None:
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
    """Give the state_dict in `obj` the flags of the argument or of the sidecar."""
    from pystatedict._statedict import StateDict

    if isinstance(trainable, Mapping):
        if not isinstance(obj, StateDict):
            raise TypeError("trainable flags need a state_dict; say which by root=")
        for name, flag in trainable.items():
            obj.trainable[name] = flag
        return
    sidecar = _sidecar_path(archive.path, trainable)
    if sidecar is None:
        return
    from pystatedict._sidecar import find_flags

    ref, where = _flagged_root(archive, path)
    flags = find_flags(archive, archive.tensors(ref), sidecar)
    target = obj
    for key in where[len(path) :]:
        target = target.get(key) if isinstance(target, dict) else None
    if flags and isinstance(target, StateDict):
        for name, flag in flags.items():
            if name in target:
                target.trainable[name] = flag


def _sidecar_path(path: str | None, trainable: Any) -> str | None:
    if isinstance(trainable, (str, os.PathLike)):
        return os.fsdecode(os.fspath(trainable))
    if path is None:
        return None
    sidecar = f"{path}.trainable.json"  # a folder's path ends without a separator
    return sidecar if os.path.exists(sidecar) else None


def _flagged_root(archive: Archive, path: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """The state_dict that a sidecar speaks of: the one asked for, or the one inside."""
    if path:
        return find_root(archive, ".".join(path))
    try:
        return find_root(archive, "auto")
    except StateDictError:
        return archive.root, ()


def items(
    f: Any, *, trainable: bool = False, pattern: Pattern | None = None
) -> Iterator[tuple[Any, ...]]:
    """Iterate over the state_dict in a file or mapping: (name, array), or with its flag.

    Args:
        f: what load() takes, or a mapping of names to arrays.
        trainable: also give True, False, or None (nobody has said).
        pattern: only names that match: a glob, several globs, or a function of the name.

    >>> for name, tensor, flag in items("tutorial.pth", trainable=True, pattern="*.bias"):
    ...     print(name, tensor.shape, flag)
    fc1.0.bias (512,) False
    fc2.0.bias (128,) True
    fc_final.bias (1,) True
    """
    wanted = _patterns(pattern)
    mapping: Mapping[Any, Any] = f if isinstance(f, Mapping) else load(f, root="auto")
    flags: Mapping[Any, Any] = getattr(mapping, "trainable", None) or {}
    for name, value in mapping.items():
        if not hasattr(value, "__array__") or not wanted(str(name)):
            continue
        array = value.numpy() if hasattr(value, "storage_offset") else value
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
        format: "zip", torch's own; "safetensors" or "npz" for a mapping of names to arrays and
            nothing else.  None goes by the suffix of the path: ``.safetensors``, ``.npz``, else
            "zip".
        overwrite: False raises FileExistsError when the file is there.
        checksum: False leaves the CRC fields 0, as an option of torch does.
        opaque: write Opaque objects back as they were; torch would import them on loading.

    Raises:
        TypeError: the object, or something in it, is no checkpoint data.
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
    format = _format_of(f, format)
    pickled = format == "zip"
    if not pickled and (trainable == "parameters" or opaque or not checksum):
        raise ValueError(
            "trainable='parameters', opaque=True and checksum=False speak of torch's own format;"
            f" format={format!r} has no place for them"
        )
    if isinstance(obj, Checkpoint):
        obj = _as_state_dict(obj)
    write = _WRITERS[format](obj, _Options(trainable, checksum, opaque))
    if not isinstance(f, (str, os.PathLike)):
        if trainable == "sidecar":
            raise ValueError('trainable="sidecar" needs a path, for the sidecar to stand beside')
        write(writer_of(f))
        return
    path = os.fsdecode(os.fspath(f))
    with replacing(path, overwrite) as file:
        write(file.write)
    _write_sidecar(obj, path, trainable, inside=pickled)


class _Options:
    """What the writers of the formats need to know."""

    def __init__(self, trainable: Any, checksum: bool, opaque: bool) -> None:
        self.trainable = trainable
        self.checksum = checksum
        self.opaque = opaque


def _zip_writer(obj: Any, options: _Options) -> Callable[[Any], object]:
    from pystatedict._reduce import Reducer

    flags = _parameter_flags(obj, options.trainable)
    reducer = Reducer(options.opaque)
    return lambda write: _core.write(
        obj, write, reducer, checksum=options.checksum, parameters=flags
    )


def _safetensors_writer(obj: Any, _: _Options) -> Callable[[Any], object]:
    from pystatedict._safetensors import safetensors_writer

    return safetensors_writer(obj)


def _npz_writer(obj: Any, _: _Options) -> Callable[[Any], object]:
    from pystatedict._npz import npz_writer

    return npz_writer(obj)


#: (object, options) -> what pours it into a write(); refuses before anything is written.
_WRITERS: dict[str, Callable[[Any, _Options], Callable[[Any], object]]] = {
    "zip": _zip_writer,
    "safetensors": _safetensors_writer,
    "npz": _npz_writer,
}


def _format_of(f: Any, format: str | None) -> str:
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
        name = getattr(obj, "__name__", type(obj).__name__)
        owner = getattr(obj, "__self__", None)
        what = f"the method {name} of a {type(owner).__name__}" if owner is not None else repr(obj)
        raise TypeError(
            f"save(obj, f): got {what}, not what it returns.\n  hint: call it:"
            f" save(model.{name}(), f); saved without the parentheses, torch would pickle the"
            " method and the whole model with it."
        )


def _short(obj: Any) -> str:
    text = repr(obj)
    return text if len(text) < 60 else text[:57] + "..."


def _as_state_dict(checkpoint: Checkpoint) -> Any:
    """A Checkpoint's tensors under their names, flags as the pickle told."""
    from pystatedict._statedict import StateDict

    result = StateDict((name, info.numpy()) for name, info in checkpoint.items())
    result._pickled = {name: info.requires_grad for name, info in checkpoint.items()}
    return result


# Bits of the core's tensor flags.
_PARAMETER, _REQUIRES_GRAD = 1, 2


def _state_dicts(obj: Any) -> Iterator[Any]:
    """Every StateDict in a nest of dicts, lists and tuples, the outer before the inner."""
    from pystatedict._statedict import StateDict

    seen: set[int] = set()
    todo = [obj]
    while todo:
        part = todo.pop()
        if id(part) in seen or not isinstance(part, (dict, list, tuple)):
            continue
        seen.add(id(part))
        if isinstance(part, StateDict):
            yield part
        # Copied at one stroke: another thread may change it meanwhile.
        below = list(part.values() if isinstance(part, dict) else part)
        todo.extend(v for v in below if isinstance(v, (dict, list, tuple)))


def _parameter_flags(obj: Any, trainable: Any) -> dict[int, tuple[int, Any]] | None:
    """{id of an array: (flag bits, Python attributes)} of every StateDict in `obj`."""
    flags: dict[int, tuple[int, Any]] = {}
    for sd in _state_dicts(obj):
        _flags_of(sd, trainable, flags)
    return flags or None


def _flags_of(sd: Any, trainable: Any, flags: dict[int, tuple[int, Any]]) -> None:
    """With "parameters" all flags; else what the pickle had told, so Parameters stay such."""
    inside = trainable == "parameters"
    told = {} if trainable is False else sd._pickle_flags()
    names = list(sd) if inside else [*told, *sd.tensor_attributes]
    infos = sd._infos() if names else {}
    for name in dict.fromkeys(names):
        value = sd.get(name)
        attributes = sd.tensor_attributes.get(name)
        info = infos.get(name)
        said = sd.trainable[name] if name in sd and (inside or name in told) else None
        if said is None:
            if attributes:
                flags[id(value)] = (0, attributes)
            continue
        if said and getattr(getattr(value, "dtype", None), "kind", "f") in "iub":
            raise ValueError(
                f"{name!r} holds integers, and torch refuses a file in which they require grad;"
                " set its flag to False or None"
            )
        plain = not inside and info is not None and info.kind != "parameter"
        bits = (0 if plain else _PARAMETER) | (_REQUIRES_GRAD if said else 0)
        flags[id(value)] = (bits, attributes)


def _write_sidecar(obj: Any, path: str, trainable: Any, *, inside: bool) -> None:
    """Let the sidecar of `path` say what the StateDict in `obj` says, and no more.

    Flags of the file that stood there before may still be bound to the new one, when its
    tensors are the same; they must not win over what was said since.  `inside`: the file
    itself holds what its pickle told.
    """
    from pystatedict._sidecar import SUFFIX, save_trainable

    there = os.path.exists(path + SUFFIX)
    if not there and not any(sd._said or sd._pickle_flags() for sd in _state_dicts(obj)):
        return
    sd = _spoken_of(obj, path)
    if sd is None:
        return
    if trainable in (False, "parameters"):
        if there:
            os.unlink(path + SUFFIX)
        return
    told = sd._pickle_flags() if inside else {}
    flags = {k: v for k, v in sd.trainable.items() if v is not None}
    if trainable is None and not there:
        flags = {k: v for k, v in flags.items() if told.get(k) != v}
    if flags:
        save_trainable(path, flags)


def _spoken_of(obj: Any, path: str) -> Any:
    """The StateDict in `obj` whose names a sidecar of the file `path` uses."""
    from pystatedict._statedict import StateDict

    archive = open_archive(path)
    _, where = _flagged_root(archive, ())
    archive.close()
    for key in where:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj if isinstance(obj, StateDict) else None
