# SPDX-License-Identifier: Apache-2.0
"""Records of an archive that are JSON: read within bounds, and checked as they are used."""

from __future__ import annotations

from pystatedict._errors import CorruptError, LimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pystatedict._opened import Archive

#: Bytes of one text.  A program of torch.export takes some hundred for an operation.
MOST = 1 << 28
#: A deflated one may have so many, and so many times its stored bytes: those of torch.export
#: pack to a fortieth, and what is read of a text takes up to twenty times its bytes.
_INFLATED_FREE = 8 << 20
_INFLATED = 64
_INT64_MOST = (1 << 63) - 1


class Records:
    """The records of an archive by their names below its top folder, `prefix`."""

    def __init__(self, archive: Archive, prefix: str) -> None:
        self.archive = archive
        self.prefix = prefix
        self.index: dict[str, int] = {}
        self.size: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        for index, (name, _, stored, size, _, _) in enumerate(archive.records()):
            if name.startswith(prefix):
                inner = name[len(prefix) :]
                self.index[inner], self.size[inner], self._stored[inner] = index, size, stored

    def json(self, record: str) -> Any:
        """The record's content; raises CorruptError for what is no JSON."""
        import json

        most = min(MOST, _INFLATED_FREE + _INFLATED * self._stored[record])
        if self.size[record] > most:
            raise LimitError(
                "a description of tensors is larger than the limit",
                entry=self.prefix + record,
                value=self.size[record],
                limit=most,
                hint="",
            )
        data = self.archive.read(self.index[record])
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise CorruptError(
                "a record that should be JSON is not", entry=self.prefix + record
            ) from None


class Told:
    """A part of a JSON text, asked for what it must hold."""

    def __init__(self, value: Any, entry: str) -> None:
        self.value = value
        self.entry = entry

    def _wrong(self, what: str) -> NoReturn:
        raise CorruptError(f"a description of tensors without {what}", entry=self.entry)

    def part(self, name: str) -> Told:
        """The member of that name, None if there is none."""
        if not isinstance(self.value, dict):
            self._wrong("its parts")
        return Told(self.value.get(name), self.entry)

    def parts(self) -> list[Told]:
        """The elements of a list; none where nothing is told."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self._wrong("its lists")
        return [Told(value, self.entry) for value in self.value]

    def members(self) -> list[tuple[str, Told]]:
        if not isinstance(self.value, dict):
            self._wrong("its parts")
        return [(name, Told(value, self.entry)) for name, value in self.value.items()]

    def text(self) -> str:
        if not isinstance(self.value, str):
            self._wrong("its names")
        try:
            self.value.encode()
        except UnicodeEncodeError:
            self._wrong("its names")
        return self.value

    def flag(self) -> bool:
        if self.value is not None and not isinstance(self.value, bool):
            self._wrong("its flags")
        return bool(self.value)

    def whole(self) -> int:
        """A number from 0 to the largest offset; protobuf spells it as text."""
        value = self.value
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if type(value) is not int or not 0 <= value <= _INT64_MOST:
            self._wrong("its numbers")
        return value
