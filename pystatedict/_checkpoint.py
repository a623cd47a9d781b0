"""Checkpoint: the lazy door.  Lists and picks; makes an array only when one is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from pystatedict._core import Archive as CoreArchive
from pystatedict._errors import ClosedError, CorruptError, MissingTensorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from pystatedict._core import TensorInfo
    from pystatedict._opened import Archive


class Checkpoint(Mapping[str, "TensorInfo"]):
    """A read-only mapping from tensor name to TensorInfo, in file order.

    What :func:`pystatedict.open` gives.  Names are the keys on the way from the root,
    joined by dots.  Use it as a context manager, or close() it; arrays that were taken from
    it stay valid.

    Attributes:
        path: the file's path, or None.
        root: the path of keys to what is listed, a tuple; empty for the whole object.
        archive: the opened archive, for tools.
    """

    def __init__(self, archive: Archive, ref: int, root: tuple[str, ...]) -> None:
        self.archive = archive
        self.root = root
        self.path = archive.path
        self._ref = ref
        self._infos: dict[str, TensorInfo] | None = None

    def _tensors(self) -> dict[str, TensorInfo]:
        if self._infos is None:
            self._infos = self.archive.tensors(self._ref)
        return self._infos

    def __getitem__(self, name: str) -> TensorInfo:
        try:
            return self._tensors()[name]
        except KeyError:
            raise self._missing(name) from None

    def _missing(self, name: str) -> MissingTensorError:
        from difflib import get_close_matches

        names = list(self._tensors())
        return MissingTensorError(
            f"no tensor {name!r} among {len(names):,}",
            path=self.path,
            key=str(name),
            suggestions=get_close_matches(str(name), names[:2000], 3),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._tensors()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors())

    def __len__(self) -> int:
        return len(self._tensors())

    # The dict's own views: a mapping's would look every name up anew.
    def keys(self) -> Any:
        return self._tensors().keys()

    def values(self) -> Any:
        return self._tensors().values()

    def items(self) -> Any:
        return self._tensors().items()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of every tensor, in file order: what is asked for most, at once.

        >>> import pystatedict
        >>> with pystatedict.open("tutorial.pth") as checkpoint:
        ...     checkpoint.shapes()["fc1.0.weight"]
        (512, 6)
        """
        if self._infos is None and isinstance(self.archive, CoreArchive):
            return self.archive.shapes(self._ref)
        return {name: info.shape for name, info in self._tensors().items()}

    @property
    def trainable(self) -> dict[str, bool | None]:
        """The trainable flag of each tensor: of the sidecar, else of the pickle, else None.

        A sidecar that is damaged, or was written for another version, is a warning.
        """
        from pystatedict._summary import flags_of

        flags, _, trouble = flags_of(self)
        if trouble is not None:
            from pystatedict._errors import warn

            warn(trouble)
        return flags

    @property
    def kind(self) -> str:
        """What the archive is: "checkpoint" for what torch.save writes."""
        return self.archive.kind

    @property
    def byteorder(self) -> str:
        """Of the bytes in the file, "little" or "big"; arrays are native anyway."""
        return self.archive.byteorder

    @property
    def closed(self) -> bool:
        return self.archive.closed

    def records(self) -> list[tuple[str, int, int, int, int, int]]:
        """(name, header offset, stored size, size, crc32, method) of every record."""
        return self.archive.records()

    def verify(self) -> tuple[int, int]:
        """Check every record against its CRC-32; (records checked, records without one).

        Raises ChecksumError, or another CorruptError, at the first bad record.
        """
        from pystatedict._recordcheck import verify_archive

        return verify_archive(self.archive)

    def close(self) -> None:
        """Let go of the file.  Arrays that were taken stay valid; new ones cannot be."""
        self.archive.close()

    def __enter__(self) -> Self:
        if self.closed:
            raise ClosedError("the checkpoint was closed", path=self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "bytes" if self.path is None else repr(self.path)
        return f"<Checkpoint {where}: {len(self):,} tensors{', closed' if self.closed else ''}>"


# ------------------------------------------------------------------ handles as values


def window(name: str, info: TensorInfo) -> tuple[object, ...]:
    """Equal for tied tensors: one storage, seen through the same window."""
    if info.is_meta or not info.numel:
        return (name,)
    storage = (id(info._archive), info.storage)  # a checkpoint may be in several files
    return (storage, info.storage_offset, info.shape, info.stride, info.dtype)


def reduce_info(info: TensorInfo) -> tuple[Any, tuple[Any, ...]]:
    """How a TensorInfo pickles: where its file stood, what it looked like, which tensor."""
    archive = info._archive
    if info.path is None or archive.stamp is None:
        raise TypeError("only a TensorInfo of a file with a path can be pickled")
    told = (info.name, info.dtype, info.shape, archive.kind, archive.tensor_count)
    return _reopen, (os.path.abspath(info.path), archive.stamp, info._index, told, archive.place)


_LAST: list[tuple[tuple[str, tuple[int, ...], str | None], Archive]] = []


def _reopen(
    path: str,
    stamp: tuple[int, ...],
    index: int,
    told: tuple[Any, ...],
    root: str | None = None,
) -> TensorInfo:
    from pystatedict._files import stamp_of
    from pystatedict._opening import open_at

    if stamp_of(path, stamp[-1]) != stamp:
        raise _changed(path)
    key = (path, stamp, root)
    # A worker is sent many tensors of one file: the last archive is kept open.
    if not _LAST or _LAST[0][0] != key:
        if os.path.isdir(path):
            archive, _ = open_at(path, root)
        else:
            with open(path, "rb") as file:
                file.seek(stamp[-1])
                archive, _ = open_at(file, root)
        if archive.stamp != stamp:
            raise _changed(path)
        _LAST[:] = [(key, archive)]
    archive = _LAST[0][1]
    name, dtype, shape, kind, count = told
    if (archive.kind, archive.tensor_count) != (kind, count):
        raise _changed(path)
    info = archive.info(index, name)
    if (info.dtype, info.shape) != (dtype, shape):
        raise _changed(path)
    return info


def _changed(path: str) -> CorruptError:
    return CorruptError(
        "the file has changed since this TensorInfo was made",
        path=path,
        code="file-changed",
        hint="open the file again and take new TensorInfos from it",
    )
