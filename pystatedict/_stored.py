# SPDX-License-Identifier: Apache-2.0
"""Storages of a file as supplies: their bytes a piece at a time, checked as they pass.

A supply is what save() writes a tensor's bytes from: an object with ``read(offset, size)``.
Tensors of one supply share its storage.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pystatedict._core import Archive, Source, TensorInfo

    # (name, header offset, stored size, size, crc32, method)
    Record = tuple[str, int, int, int, int, int]

    class Supply(Protocol):
        @property
        def nbytes(self) -> int: ...
        def read(self, offset: int, size: int, /) -> Any: ...


def supplied(
    supply: Supply,
    dtype: str,
    bits: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
    attributes: Any = None,
) -> tuple[Any, ...]:
    """How the core is told of a tensor on a supply: strides and offset in elements."""
    return (supply, supply.nbytes, dtype, bits, shape, stride, offset, attributes, "supplied")


_PIECE = 1 << 20


class Stored:
    """One storage of a file.

    Read from its first byte to its last it is held against the checksum that the file states
    of it; a part of it is read as it is.
    """

    __slots__ = ("_archive", "_crc", "_kept", "_next", "_number", "_record", "key", "nbytes",
                 "partly")  # fmt: skip

    def __init__(
        self, archive: Archive, number: int, nbytes: int, key: str, record: Record | None
    ) -> None:
        #: by which the file's pickle names it.
        self.key = key
        self._archive = archive
        self._number = number
        self.nbytes = nbytes
        self._record = record  # of which it is all, or None
        self._next = self._crc = 0
        self._kept: Source | None = None
        #: whether a tensor is less than all of it, so that reading it would not check it.
        self.partly = False

    @property
    def place(self) -> tuple[str | None, int]:
        """(path of the file, number of the storage in it)."""
        return self._archive.path, self._number

    @staticmethod
    def with_attributes(info: TensorInfo) -> bool:
        """Has the tensor Python attributes, which stand in the pickle?"""
        return info._stored is not None and bool(info._stored[2])

    def read(self, offset: int, size: int) -> Any:
        """`size` bytes from `offset` on, a buffer.  Raises ChecksumError with the last ones."""
        if self.partly:
            self.partly = False
            self._check()
        piece = self._piece(offset, size)
        if self._record is not None and self._record[4] and offset == self._next:
            from pystatedict._core import crc32

            self._crc = crc32(piece, self._crc)
            self._next += size
            if self._next == self.nbytes:
                self._settle()
        return piece

    def _check(self) -> None:
        """Read all of it once, for its checksum."""
        if self._record is not None and self._record[4]:
            self._next = self._crc = 0
            for start in range(0, self.nbytes, _PIECE):
                self.read(start, min(_PIECE, self.nbytes - start))

    def _piece(self, offset: int, size: int) -> Source:
        if self._record is not None and self._record[5]:
            # Inflated once, and let go with its last byte.
            if self._kept is None:
                self._kept = self._archive.read_storage(self._number, 0, self.nbytes)
            piece = self._kept.slice(offset, size)
            if offset + size == self.nbytes:
                self._kept = None
            return piece
        return self._archive.read_storage(self._number, offset, size)

    def _settle(self) -> None:
        assert self._record is not None
        found, self._crc, self._next = self._crc, 0, 0
        if found != self._record[4]:
            from pystatedict._errors import ChecksumError

            raise ChecksumError(
                "a record's bytes do not match their checksum",
                path=self._archive.path,
                entry=self._record[0],
                stored=self._record[4],
                computed=found,
            )


class Storages:
    """The storages of files, each one supply however many tensors ask for it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Stored] = {}

    def of(self, info: TensorInfo, checked: bool = False) -> Stored | None:
        """The supply of a tensor; None where its bytes in the file are not an array's own:
        of a sparse or quantized one, a view that is conjugated, another byte order.
        """
        told: tuple[int, int, bool] | None = info._stored
        if told is None:
            return None
        archive, (number, nbytes, _) = info._archive, told
        key = (id(archive), number)
        if key not in self._known:
            record = archive.record_of(number)
            whole = record is not None and record[3] == nbytes
            self._known[key] = Stored(
                archive, number, nbytes, info.storage, record if whole else None
            )
        if checked and info.nbytes != nbytes:
            self._known[key].partly = True
        return self._known[key]

    def used(self) -> set[tuple[str | None, int]]:
        """(path of the file, number) of those that were asked for."""
        return {stored.place for stored in self._known.values()}
