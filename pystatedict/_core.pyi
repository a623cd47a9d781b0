"""The extension as a type checker sees it.  Private: users go through pystatedict."""

from collections.abc import Callable, Sequence, Set
from typing import Any, Final, Literal, final

import numpy.typing as npt
from typing_extensions import Buffer

@final
class Source:
    """A buffer held open: the base of every array.  Never lets go while it lives."""

    def __new__(
        cls,
        buffer: Buffer,
        /,
        *,
        stamp: tuple[int, ...] | None = None,
        fd: int = -1,
        start: int = 0,
        crcs: Buffer | None = None,
    ) -> Source:
        """`fd`: the file that is mapped from `start` on; what is copied is read from it.

        `crcs`: what read_file() gave of these bytes; believed until settle().
        """
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @classmethod
    def of_file(
        cls, fd: int, start: int, size: int, stamp: tuple[int, ...] | None = None
    ) -> Source:
        """The bytes of an open file, read when they are wanted; there is no buffer of them."""
    @property
    def size(self) -> int: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def summed(self) -> bool: ...
    def read(self, offset: int, size: int, /) -> bytes:
        """A copy of these bytes; fewer at the end."""
    def settle(self) -> None:
        """Close the file beside a map, forget checksums of blocks: before others may use the
        Source or change its bytes.
        """
    def slice(self, start: int, size: int, /) -> Source:
        """The same bytes from there on, so many, as a Source; fewer at the end."""

@final
class TensorInfo:
    """One tensor of a checkpoint: all that the pickle tells, none of its bytes."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def storage_offset(self) -> int: ...
    @property
    def storage(self) -> str: ...
    @property
    def storage_nbytes(self) -> int: ...
    @property
    def numel(self) -> int: ...
    @property
    def itemsize(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def ndim(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def requires_grad(self) -> bool | None: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def is_meta(self) -> bool: ...
    @property
    def layout(self) -> str: ...
    @property
    def parts(self) -> dict[str, TensorInfo]: ...
    @property
    def type(self) -> str | None: ...
    @property
    def path(self) -> str | None: ...
    @property
    def _archive(self) -> Archive: ...
    @property
    def _index(self) -> int: ...
    @property
    def _is_lost(self) -> bool: ...
    @property
    def _storage_index(self) -> int | None: ...
    @property
    def _stored(self) -> Any:
        """(number of the storage, its bytes, whether the tensor has Python attributes), or None
        where the bytes in the file are not those of an array.
        """
    def numpy(self) -> npt.NDArray[Any]: ...
    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]: ...
    def __getitem__(self, key: Any, /) -> Any: ...

@final
class Archive:
    """An opened checkpoint, of whatever container."""

    @property
    def kind(self) -> str:
        """ "checkpoint", "legacy", "tar", "pickle", "torchscript", "package", "export",
        "safetensors", "records" (any other zip archive), or what describe() says.
        """
    @property
    def stamp(self) -> tuple[int, ...] | None: ...  # what the file looked like
    @property
    def extra(self) -> Any:
        """What describe() was given with the tensors; a safetensors file's __metadata__."""
    @property
    def place(self) -> str | None: ...  # what note_place() was told
    @property
    def byteorder(self) -> str: ...  # "little" or "big"
    @property
    def has_byteorder(self) -> bool: ...
    @property
    def prefix(self) -> str: ...  # top folder with its slash
    @property
    def record(self) -> str: ...  # what open_archive() was asked for
    @property
    def end(self) -> int: ...  # of a legacy stream, in bytes; 0 of other kinds
    @property
    def protocol(self) -> int: ...  # of the pickle
    @property
    def pickle_size(self) -> int: ...
    @property
    def tensor_count(self) -> int: ...
    @property
    def storage_count(self) -> int: ...
    @property
    def root(self) -> int: ...  # ref of the object that was saved
    @property
    def closed(self) -> bool: ...
    @property
    def path(self) -> str | None: ...
    def close(self) -> None: ...
    def records(self) -> list[tuple[str, int, int, int, int, int]]:
        """(name, header offset, stored size, size, crc32, method), in file order."""
    def read(self, index: int, /) -> bytes:
        """The bytes of a record by number, inflated, its CRC checked."""
    def verify(self, index: int, /) -> bool:
        """Check one record; False when it states no CRC.  Raises ChecksumError."""
    def crc32(self, index: int, /) -> int: ...
    def locate(self, index: int, /) -> int | None:
        """Where the bytes of a stored record begin, by number; None of a deflated one."""
    def storage_crc32(self, storage: int, /) -> int:
        """The CRC-32 of a storage's bytes, by number: what the file states, else computed."""
    def read_storage(self, storage: int, offset: int, size: int, /) -> Source:
        """So many bytes of a storage as they stand in the file, in memory of their own."""
    def record_of(self, storage: int, /) -> tuple[str, int, int, int, int, int] | None:
        """The row of records() in which a storage stands; None where in none."""
    def storage_records(self) -> list[str | None]:
        """The record of each storage, by number; None of one that stands elsewhere."""
    def lose(self, storages: list[int], /) -> None:
        """Take storages for lost, by number, before the archive is given to anyone."""
    def globals(self, unknown_only: bool = False) -> list[tuple[str, str, int, bool]]:
        """Distinct (module, name, first position in the file, called) of the pickle."""
    def children(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        """(key, ref, kind) of a dict, list, tuple or unknown object; None of a leaf.

        kind is "tensor", "dict", "list", "tuple", "module", "method" (bound to a module),
        "object" or "value".
        """
    def holding(self, ref: int = 0, /) -> list[tuple[object, int, str]] | None:
        """What children() tells, without tensors and plain values."""
    def called(self, ref: int = 0, /) -> tuple[str, str, int, int] | None:
        """(module, name, ref of the arguments, ref of the state or 0) of an object that a
        call of a global makes; None of anything else.
        """
    def kind_of(self, ref: int = 0, /) -> str:
        """The kind of a value, as children() tells it."""
    def has_direct(self, ref: int = 0, /) -> bool:
        """Whether a tensor is among a dict's own values."""
    def tensors(self, ref: int = 0, /) -> dict[str, TensorInfo]:
        """Every tensor below `ref` (0: the root) by dotted name, in file order."""
    def shapes(self, ref: int = 0, /) -> dict[str, tuple[int, ...]]:
        """The shape of each, by the same names in the same order."""
    def state_dict(self, ref: int = 0, /) -> int | None:
        """The ref of a whole module's state_dict; 0 of what is no module, None: too large."""
    def untold(self, ref: int = 0, /) -> list[tuple[str, str, bool]]:
        """(path, what, is it a hook?) of what a whole module's state_dict may lack."""
    def methods(self) -> list[str]:
        """The names of the bound methods of whole modules in the file."""
    def note_module(self, ref: int, entries: list[tuple[str, int, bool]], /) -> None:
        """Say what the state_dict of `ref` is, before the archive is given to anyone."""
    def note_place(self, place: str, /) -> None:
        """Say what of ``root=`` led to this archive, in a file that holds several."""
    def describe(
        self,
        kind: str,
        storages: Sequence[tuple[str, int, int, bool, bool]]
        | Sequence[tuple[str, int, int, bool, bool, int]]
        | Sequence[tuple[str, int, int, bool, bool, int, str]],
        tensors: list[tuple[str, str, tuple[int, ...], tuple[int, ...] | None, int, int]]
        | list[tuple[str, str, tuple[int, ...], tuple[int, ...] | None, int, int, int]],
        extra: object = None,
        /,
    ) -> None:
        """Say what tensors are in the bytes, before the archive is given to anyone.

        storages: (key, place in the file or number of the record, bytes, whether it is a
        record, whether its bytes are big-endian[, how many bytes of the record come before[,
        device]]); tensors: (name, torch's dtype, shape, strides or None, number of the
        storage, offset[, flags]), in elements; flags are 1 for a parameter, 2 for one that
        requires grad, 32 for a buffer.  The root becomes an OrderedDict of them.
        """
    def info(self, index: int, name: str, /) -> TensorInfo:
        """The TensorInfo of a tensor, by number."""
    def direct(self, ref: int = 0, /) -> dict[object, TensorInfo]:
        """The tensors that are values of the dict `ref` itself."""
    def load(
        self,
        ref: int,
        values: object,
        *,
        copy: bool = False,
        meta: bool = False,
    ) -> Any:
        """The object at `ref`, tensors as arrays; `values` makes the plain values."""

def open_archive(
    source: Source,
    path: str | None = None,
    limits: dict[str, int] | None = None,
    run: bool = True,
    *,
    mode: Literal["checkpoint", "pickle", "records", "exact", "bytes"] = "checkpoint",
    record: str = "",
    salvage: bool = False,
) -> Archive: ...
def scan_pickle(
    program: Buffer,
    limits: dict[str, int] | None = None,
    watched: Set[tuple[str, str]] | None = None,
    /,
) -> tuple[
    list[tuple[str, str, int, bool, bool]],
    list[tuple[int, int] | bytes],
    int,
    Exception | None,
    list[tuple[tuple[tuple[str, str], tuple[tuple[Any, ...], ...] | None], int]],
    int,
    int,
    int,
]:
    """(globals, bytes within, size, the error or None, calls, bytes walked, depth, left).

    globals: (module, name, position, whether it is called, whether it is passed on).
    Bytes within are those that may be a pickle or an archive: (position, size), or by
    themselves where they do not stand so in the program.  size is up to and including
    STOP, 0 where none was reached.

    calls: ((name, arguments), how often) of the `watched` names, each a pair of module and
    name.  Arguments are the first four, keywords as items, and ("state", a tuple of such):
    ("int", n between 0 and 2**60), ("text", it, or None where it is long), ("plain", None) of
    None, a bool or a float, ("bytes", place in the list of bytes within, from 1, or 0),
    ("global", its name), ("items", how many, the first of them), ("other", None).

    depth is that of the values in one another, left are those that remain on the stack.
    Nothing is raised for a bad pickle.
    """

def write(
    obj: object,
    sink: Callable[[memoryview], object],
    values: object,
    *,
    checksum: bool = True,
    parameters: object = None,
    flags: bool = True,
    legacy: bool = False,
    kept_keys: bool = False,
) -> int:
    """Write the object, as a zip archive or a legacy stream; returns the bytes written.

    `kept_keys`: its pickle alone, for a file that has the storages: all are supplies, whose
    `key` is that of the storage.
    """

def read_file(into: Buffer, fd: int, start: int, crcs: Buffer | None = None, /) -> int:
    """Fill `into` with a file's bytes from `start` on; returns how many there were.

    `crcs` gets the CRC-32 of each whole block of CRC_BLOCK bytes, four bytes each in the
    machine's order.  Not on Windows.
    """

def begin_writeback(fd: int, start: int, size: int, /) -> None:
    """Have the disk begin with these bytes of a file, and wait for nothing.  Not on Windows."""

def crc32(data: Buffer, seed: int = 0, /) -> int: ...
def crc32_kernels() -> list[tuple[str, bool]]: ...
def crc32_by(kernel: str, data: Buffer, seed: int = 0, /) -> int: ...

LIMITS: Final[dict[str, int]]
STATUSES: Final[Sequence[tuple[str, str]]]  # (code, family)
CRC_BLOCK: Final[int]
DTYPES: Final[dict[str, tuple[int, str]]]  # torch's name -> (bytes, group)
