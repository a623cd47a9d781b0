# SPDX-License-Identifier: Apache-2.0
"""What the source texts of a TorchScript archive say of its classes: which attributes there
are, which of them are parameters, buffers and modules.

torch prints these texts itself, one statement a line and two blanks a level, so lines are
all that is looked at.  Nothing is compiled; work is linear in the texts that are needed.
Sources: torch/csrc/jit/serialization/python_print.cpp and import_source.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._opened import Archive

# A class, or a member of one: a line that is indented by no blanks or by two.
_LINES = re.compile(r"^(?:  )?[^ \n][^\n]*", re.MULTILINE)
_CLASS = re.compile(r"class (\w+)(?:\((\w+)\))?:")
_METHOD = re.compile(r"  def (\w+)\((\w*)")
_LIST = re.compile(r"  (__parameters__|__buffers__) = \[(.*)\]")
_NAMED = re.compile(r"  (\w+) : (.*)")
_QUOTED = re.compile(r'  __annotations__\["((?:[^"\\]|\\.)*)"\] = (.*)')
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_PLAIN_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "v": "\v", "t": "\t", "r": "\r"}

_MODULES = frozenset({"Module", "ModuleInterface"})

#: No model has as much source text, in bytes; a small archive could inflate to more.
TEXTS_MOST = 1 << 26


#: Where torch.package keeps scripts, each in a folder of its number.
PACKAGED = ".data/ts_code/"


def is_packaged(archive: Archive) -> bool:
    """Is this the module of a script within a package?"""
    return archive.kind == "package" and archive.record.startswith(PACKAGED)


def unescaped(text: str) -> str:
    """The content of a string literal."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x":
            return chr(int(code[1:], 16))
        return chr(int(code, 8) & 255) if code.isdigit() else _PLAIN_ESCAPES.get(code, code)

    return _ESCAPE.sub(one, text) if "\\" in text else text


class ScriptClass:
    """A class as its text tells it.

    Attributes:
        base: "Module", "NamedTuple", ... or "".
        attributes: types by name, in the order of the slots.
        parameters: the names that are listed as such.
        buffers: likewise; None in the texts of torch before 1.6, which do not list them.
        methods: where in the text each begins, by name.
    """

    __slots__ = ("attributes", "base", "buffers", "methods", "parameters", "text")

    def __init__(self, base: str, text: str) -> None:
        self.base = base
        self.text = text
        self.attributes: dict[str, str] = {}
        self.parameters: frozenset[str] = frozenset()
        self.buffers: frozenset[str] | None = None
        self.methods: dict[str, int] = {}

    @property
    def is_module(self) -> bool:
        return self.base in _MODULES

    @property
    def restores_itself(self) -> bool:
        """Does torch call its __setstate__ instead of setting its attributes?"""
        return "__setstate__" in self.methods and "__getstate__" in self.methods

    def is_buffer(self, name: str) -> bool:
        """Of an attribute that is no parameter: does state_dict() give it?

        Before 1.6 all attributes of type Tensor were buffers.
        """
        listed = self.buffers is None or name in self.buffers
        return listed and self.attributes[name] == "Tensor"

    def body(self, method: str) -> Iterator[str]:
        """The lines below a method's head, blanks and all."""
        start = self.text.find(":\n", self.methods[method]) + 2
        while start > 1 and self.text.startswith("    ", start):
            end = self.text.find("\n", start)
            end = len(self.text) if end < 0 else end
            yield self.text[start:end]
            start = end + 1

    def _add(self, line: str, position: int) -> None:
        method = _METHOD.match(line)
        listed = _LIST.match(line)
        if method is not None:
            self.methods.setdefault(method[1], position)
        elif listed is not None:
            names = frozenset(unescaped(name) for name in _TEXT.findall(listed[2]))
            if listed[1] == "__parameters__":
                self.parameters = names
            else:
                self.buffers = names
        else:
            self._add_attribute(line)

    def _add_attribute(self, line: str) -> None:
        named, quoted = _NAMED.match(line), _QUOTED.match(line)
        if quoted is not None:
            self.attributes.setdefault(unescaped(quoted[1]), quoted[2].strip())
        elif named is not None and not named[2].startswith("Final["):
            self.attributes.setdefault(named[1], named[2].strip())


def classes_of(text: str) -> dict[str, ScriptClass]:
    """The classes of one source text, by name; none of a text that torch did not print."""
    found: dict[str, ScriptClass] = {}
    if '"""' in text or "'''" in text:
        return found  # lines within such a string are no lines of the program
    current: ScriptClass | None = None
    for match in _LINES.finditer(text):
        line = match[0]
        if line[0] == " ":
            if current is not None:
                current._add(line, match.start())
            continue
        head = _CLASS.match(line)
        current = None
        if head is not None and head[1] not in found:
            current = found[head[1]] = ScriptClass(head[2] or "", text)
    return found


class ScriptCode:
    """The source texts of an archive, read when they are asked for."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        # Scripts within a package of torch.package share their texts.
        prefix = archive.prefix + (PACKAGED + "code/" if is_packaged(archive) else "code/")
        self._records: dict[str, int] = {}
        self.size = 0  # of all texts
        for index, (name, _, _, size, _, _) in enumerate(archive.records()):
            if name.startswith(prefix) and name.endswith(".py"):
                self._records[name[len(prefix) :]] = index
                self.size += size
        self._classes: dict[str, dict[str, ScriptClass]] = {}

    @property
    def empty(self) -> bool:
        return not self._records

    def texts(self) -> Iterator[tuple[str, str]]:
        """(module, text) of every source."""
        for name in self._records:
            yield name.removesuffix(".py").replace("/", "."), self._text(name)

    def _text(self, record: str) -> str:
        # Bytes that are no UTF-8 may stand in a text that nobody needs.
        data = self._archive.read(self._records[record])
        return data.decode("utf-8", "backslashreplace")

    def find(self, module: str, name: str) -> ScriptClass | None:
        """The class `module`.`name`, or None when no text tells of it."""
        if module not in self._classes:
            record = module.replace(".", "/") + ".py"
            there = record in self._records and self.size <= TEXTS_MOST
            self._classes[module] = classes_of(self._text(record)) if there else {}
        return self._classes[module].get(name)

    def find_type(self, name: str) -> ScriptClass | None:
        """The class that a type's text names, if it names one."""
        if not name.startswith("__torch__."):
            return None
        module, _, last = name.rpartition(".")
        return self.find(module, last)
