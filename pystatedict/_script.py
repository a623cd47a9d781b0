# SPDX-License-Identifier: Apache-2.0
"""TorchScript archives (torch.jit.save): what their root module's state_dict() would be.

The objects stand in data.pkl; which of their attributes are parameters, buffers and modules
is said by the source texts alone.  Both are read, neither is run.
Sources: torch/jit/_script.py (RecursiveScriptModule), torch/csrc/jit/api/module.h (which
slots count) and torch/csrc/jit/serialization/import.cpp (how objects get their slots).
"""

from __future__ import annotations

import re

from pystatedict import _core
from pystatedict._errors import UnsupportedError
from pystatedict._printable import printable
from pystatedict._scriptcode import ScriptClass, ScriptCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._core import Archive, Source
    from pystatedict._opened import Archive as Opened

    Value = tuple[int, str]  # ref, kind
    Row = tuple[object, int, str]  # key, ref, kind
    Path = tuple[int, ...]
    Entry = tuple[str, int, bool]  # name, ref, is a parameter

# Modules may share their children, hostile ones so that names double at each level, or
# stand within themselves.
# An honest file has two bytes at least for each attribute of each object.
_STEPS_A_BYTE = 4
_STEPS_AT_LEAST = 4096
_NAME_BYTES_A_STEP = 64


class _Untold(Exception):
    """The state_dict cannot be told without running code."""


def note_script(archive: Archive) -> None:
    """Tell the archive what the state_dict of its root is, where that can be told."""
    try:
        entries = _Walk(archive).entries(archive.root)
    except _Untold:
        return
    archive.note_module(archive.root, entries)


def untold(archive: Opened) -> UnsupportedError:
    """The error of who asks for the state_dict all the same."""
    what = archive.called(archive.root)
    if what is None:
        return UnsupportedError(
            "the TorchScript archive holds no module", code="no-state-dict",
            hint="load() gives the object as it is",
        )  # fmt: skip
    return UnsupportedError(
        "the archive's source texts do not tell the state_dict: a class is missing there, or"
        " restores itself by code of its own",
        code="no-state-dict",
        key=".".join(what[:2]),
        hint="load() gives the objects as they stand in the file, unknown classes inert",
    )


# ------------------------------------------------------------------ the walk


class _Layout:
    """Of a class, once for all its objects: what a state_dict takes, in its order."""

    __slots__ = ("fitting", "modules", "restored", "size", "tensors", "what")

    def __init__(self, what: ScriptClass, code: ScriptCode) -> None:
        self.what = what
        listed = what.parameters
        self.tensors = [(name, True) for name in what.attributes if name in listed]
        for name in what.attributes:
            if name not in listed and what.is_buffer(name):
                self.tensors.append((name, False))
        self.modules = []
        for name, kind in what.attributes.items():
            found = code.find_type(kind)
            if found is not None and found.is_module:
                self.modules.append(name)
        self.size = 1 + len(self.tensors) + len(self.modules)
        self.restored = _restored(what) if what.restores_itself else None
        # None may stand where a tensor could; but not in a state that code may change.
        self.fitting = ("tensor", "value") if self.restored is None else ("tensor",)


class _Walk:
    """Depth first, parameters before buffers before modules: as state_dict() goes."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._code = ScriptCode(archive)
        self._layouts: dict[tuple[str, str], _Layout] = {}
        self._rows: dict[int, list[Row]] = {}
        self._dicts: dict[int, dict[str, Value]] = {}
        self._found: list[Entry] = []
        self._left = _STEPS_AT_LEAST + _STEPS_A_BYTE * archive.pickle_size
        self._left_bytes = _NAME_BYTES_A_STEP * self._left

    def entries(self, root: int) -> list[Entry]:
        todo = [(root, "")]
        while todo:
            ref, prefix = todo.pop()
            todo += self._enter(ref, prefix)
        return self._found

    def _enter(self, ref: int, prefix: str) -> list[tuple[int, str]]:
        """Note the module's own tensors; its modules and their prefixes, the first last."""
        layout, state = self._object(ref)
        self._pay(layout.size, 0)
        for name, is_parameter in layout.tensors:
            found = self._attribute(layout, state, name)
            if found is None and layout.restored is not None and layout.what.buffers is None:
                continue  # an old text: no buffer perhaps, and what it became is not told
            if found is None or found[1] not in layout.fitting:
                raise _Untold
            if found[1] == "tensor":
                self._pay(0, len(prefix) + len(name))
                self._found.append((prefix + name, found[0], is_parameter))
        children = []
        for name in reversed(layout.modules):
            found = self._attribute(layout, state, name)
            if found is None:
                raise _Untold
            self._pay(0, len(prefix) + len(name))
            children.append((found[0], f"{prefix}{name}."))
        return children

    def _pay(self, steps: int, size: int) -> None:
        self._left -= steps
        self._left_bytes -= size
        if self._left < 0 or self._left_bytes < 0:
            raise _Untold

    def _object(self, ref: int) -> tuple[_Layout, int]:
        """What its class tells of the module, and its state."""
        called = self._archive.called(ref)
        if called is None:
            raise _Untold
        module, name, _, state = called
        key = (module, name)
        if key not in self._layouts:
            what = self._code.find(module, name)
            if what is None or not what.is_module:
                raise _Untold
            self._layouts[key] = _Layout(what, self._code)
        return self._layouts[key], state

    def _attribute(self, layout: _Layout, state: int, name: str) -> Value | None:
        if layout.restored is None:
            if state not in self._dicts:
                rows = self._children(state)
                self._dicts[state] = {str(key): (ref, kind) for key, ref, kind in rows}
            return self._dicts[state].get(name)
        path = layout.restored.get(name)
        if path is None or state == 0:
            return None
        ref = state
        for index in path:
            rows = self._elements(ref)
            if index >= len(rows):
                return None
            ref = rows[index][1]
        return ref, self._archive.kind_of(ref)

    def _elements(self, ref: int) -> list[Row]:
        """Of a tuple or a list, which may stand in a call that tells its type."""
        kind = self._archive.kind_of(ref)
        called = self._archive.called(ref) if kind == "object" else None
        if called is not None and called[0] == "torch.jit._pickle":
            arguments = self._children(called[2])
            return self._elements_of(arguments[0][1]) if arguments else []
        return self._elements_of(ref)

    def _elements_of(self, ref: int) -> list[Row]:
        return self._children(ref) if self._archive.kind_of(ref) in ("tuple", "list") else []

    def _children(self, ref: int) -> list[Row]:
        if ref not in self._rows:
            self._rows[ref] = (self._archive.children(ref) if ref else None) or []
        return self._rows[ref]


# ------------------------------------------------------------------ __setstate__
#
# A class may take its state apart by code of its own.  Mostly that is mere assignment of the
# state's parts, of which the text tells all; of any other code nothing is told.

_HEAD = re.compile(r"  def __setstate__\((\w+)[^,\n]*,\s*(\w+)")
_ASSIGNMENT = re.compile(r"    (\w+(?:\.\w+)?(?:, \w+(?:\.\w+)?)*),? = (.*)")
_ELEMENT = re.compile(r"\((.*)\)\[(\d{1,9})\]")
_DEEPEST = 8
_ENDS = frozenset({"    return None", "    pass"})


def _restored(what: ScriptClass) -> dict[str, Path]:
    """Which part of the state __setstate__ makes an attribute of, by the attribute's name."""
    head = _HEAD.match(what.text, what.methods["__setstate__"])
    if head is None:
        return {}
    known: dict[str, Path] = {head[2]: ()}
    for line in what.body("__setstate__"):
        match = _ASSIGNMENT.fullmatch(line)
        if match is None and line not in _ENDS:
            return {}
        if match is None:
            continue
        path = _path(match[2], known)
        if path is None and "(" in match[2]:
            return {}  # whatever is called may change what was set before
        targets = match[1].split(", ")
        for index, target in enumerate(targets):
            known.pop(target, None)
            if path is not None and len(path) < _DEEPEST:
                known[target] = path if len(targets) == 1 else (*path, index)
    myself = head[1] + "."
    return {n[len(myself) :]: path for n, path in known.items() if n.startswith(myself)}


def _path(text: str, known: dict[str, Path]) -> Path | None:
    """The part of the state that an expression means, `((state)[1])[0]` or a name of it."""
    path: list[int] = []
    while (element := _ELEMENT.fullmatch(text)) is not None and len(path) < _DEEPEST:
        path.append(int(element[2]))
        text = element[1]
    return (*known[text], *reversed(path)) if text in known else None


# ------------------------------------------------------------------ constants

CONSTANTS = "constants"


def script_at(
    archive: Archive, source: Source, limits: dict[str, int] | None, root: str | None
) -> tuple[Archive, str | None]:
    """The archive in which ``root=`` is to be followed: the module's, or its constants'."""
    note_script(archive)
    if root is None or root.partition(".")[0] != CONSTANTS:
        if archive.state_dict(archive.root) and not archive.children(archive.root):
            _warn_of_constants(archive)
        return archive, root
    names = {str(key).partition(".")[0] for key, _, _ in archive.children(archive.root) or ()}
    if CONSTANTS in names:
        return archive, root
    constants = _core.open_archive(source, archive.path, limits, record="constants.pkl")
    return constants, root.partition(".")[2] or None


def _warn_of_constants(archive: Archive) -> None:
    """Tell who finds nothing in a frozen module where its weights are."""
    if any(row[0].startswith(f"{archive.prefix}{CONSTANTS}/") for row in archive.records()):
        from pystatedict._errors import warn

        where = "" if archive.path is None else f"'{printable(archive.path)}': "
        warn(
            f"{where}the state_dict of this script is empty, as torch.jit.freeze leaves it; its"
            f" weights are constants, which root={CONSTANTS!r} gives"
        )
