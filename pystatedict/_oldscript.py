# SPDX-License-Identifier: Apache-2.0
"""TorchScript archives of torch 1.0 to 1.2: a tree of modules in model.json, tensors beside.

Their attributes that are no parameters stand in attributes.pkl; tensors among them are told
by number.  Sources: caffe2/proto/torch.proto and torch/csrc/jit/import.cpp of those releases.
"""

from __future__ import annotations

from pystatedict import _core
from pystatedict._errors import CorruptError, LimitError, UnsupportedError
from pystatedict._jsonrecords import Records, Told
from pystatedict._marks import BUFFER, PARAMETER, REQUIRES_GRAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._core import Archive, Source

    Row = tuple[str, str, tuple[int, ...], tuple[int, ...] | None, int, int, int]
    Storage = tuple[str, int, int, bool, bool, int, str]

_MODEL = "model.json"
_ATTRIBUTES = "attributes.pkl"

# caffe2's names of torch's dtypes.
_DTYPES = {
    "FLOAT": "float32",
    "INT32": "int32",
    "BYTE": "uint8",
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT64": "int64",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
}
_DEEPEST = 1000


def read_model(source: Source, path: str | None, limits: dict[str, int] | None) -> Archive:
    """The archive, described: an OrderedDict of what its module's state_dict() gives."""
    archive = _core.open_archive(source, path, limits, False)
    records = Records(archive, archive.prefix)
    if _MODEL not in records.index:
        raise CorruptError("a TorchScript archive without its data.pkl", code="interrupted-save")
    model = Told(records.json(_MODEL), archive.prefix + _MODEL)
    attributes: list[int | None] = []
    if _ATTRIBUTES in records.index:
        attributes = _tensor_numbers(source, path, limits)
    table = _Table(records, model.part("tensors").parts())
    named = _named_tensors(model.part("mainModule"), attributes)
    rows = [table.row(name, number, flags) for name, (number, flags) in named.items()]
    archive.describe("torchscript", table.storages, rows)
    return archive


def _tensor_numbers(
    source: Source, path: str | None, limits: dict[str, int] | None
) -> list[int | None]:
    """Which tensor each attribute is; None of one that is no tensor."""
    from pystatedict import _values

    archive = _core.open_archive(source, path, limits, record=_ATTRIBUTES)
    numbers: list[int | None] = []
    for _, ref, kind in archive.children(archive.root) or ():
        called = archive.called(ref) if kind == "object" else None
        numbers.append(None)
        if called is not None and called[1] == "build_tensor_from_id":
            arguments = archive.load(called[2], _values)
            if type(arguments) is tuple and len(arguments) == 1 and type(arguments[0]) is int:
                numbers[-1] = arguments[0]
    return numbers


class _Table:
    """The tensors of the model by number, and the storages that are used."""

    def __init__(self, records: Records, tensors: list[Told]) -> None:
        self._records = records
        self._tensors = tensors
        self._numbers: dict[str, int] = {}
        self.storages: list[Storage] = []

    def row(self, name: str, number: int, flags: int) -> Row:
        """A row for describe()."""
        if not 0 <= number < len(self._tensors):
            raise CorruptError("a tensor that the model's table has not", key=name)
        tensor = self._tensors[number]
        if tensor.part("isQuantized").flag():
            raise UnsupportedError(
                "a quantized tensor of TorchScript before 1.3", code="tensor-layout", key=name
            )
        kind = tensor.part("dataType").value
        if not isinstance(kind, str) or kind not in _DTYPES:
            raise CorruptError("a tensor of a type that torch did not have", key=name)
        shape = tuple(part.whole() for part in tensor.part("dims").parts())
        strides = tuple(part.whole() for part in tensor.part("strides").parts())
        if len(strides) != len(shape):
            raise CorruptError("a tensor with more or fewer strides than sizes", key=name)
        if flags & PARAMETER and tensor.part("requiresGrad").flag():
            flags |= REQUIRES_GRAD
        offset = tensor.part("offset")
        at = offset.whole() if offset.value is not None else 0
        return name, _DTYPES[kind], shape, strides, self._storage(tensor, name), at, flags

    def _storage(self, tensor: Told, name: str) -> int:
        key = tensor.part("data").part("key").text()
        if key not in self._numbers:
            if key not in self._records.index:
                raise CorruptError("a storage has no record in the archive", key=key)
            self._numbers[key] = len(self.storages)
            index, size = self._records.index[key], self._records.size[key]
            told = tensor.part("device").value
            device = told if isinstance(told, str) and told.isascii() else "cpu"
            self.storages.append((key, index, size, True, False, 0, device))
        return self._numbers[key]


def _named_tensors(main: Told, attributes: list[int | None]) -> dict[str, tuple[int, int]]:
    """(tensor's number, flags) by name, in the order of state_dict()."""
    found: dict[str, tuple[int, int]] = {}
    todo = [(main, "")]
    while todo:
        module, prefix = todo.pop()
        for name, number, flags in _own_tensors(module, attributes):
            if prefix + name in found:
                raise CorruptError("two tensors of one name", key=prefix + name)
            found[prefix + name] = (number, flags)
        inner = []
        for below in module.part("submodules").parts():
            name = below.part("name").text()
            inner.append((below, f"{prefix}{name}."))
        todo += reversed(inner)
        if prefix.count(".") > _DEEPEST:
            raise LimitError("modules stand in each other all too deeply", hint="")
    return found


def _own_tensors(module: Told, attributes: list[int | None]) -> list[tuple[str, int, int]]:
    parameters, buffers = [], []
    for told in module.part("parameters").parts():
        name, number = told.part("name").text(), told.part("tensorId").whole()
        if told.part("isBuffer").flag():
            buffers.append((name, number, BUFFER))
        else:
            parameters.append((name, number, PARAMETER))
    for told in module.part("attributes").parts():
        if told.part("type").value != "Tensor":
            continue
        name, place = told.part("name").text(), told.part("id").value
        # An attribute that its module makes anew has no place: what it is, is not told.
        if str(place).startswith("-"):
            continue
        index = told.part("id").whole()
        found = attributes[index] if index < len(attributes) else None
        if found is None:
            raise CorruptError("an attribute that is said to be a tensor is none", key=name)
        buffers.append((name, found, BUFFER))
    return parameters + buffers
