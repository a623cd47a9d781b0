# SPDX-License-Identifier: Apache-2.0
"""Trainable flags as the command line tells and changes them, by the names that `ls` prints.

A sidecar may speak of a state_dict inside the file; its names are then shorter.
"""

from __future__ import annotations

from ._checkpoint import window
from ._errors import MissingTensorError, SidecarError, UnsupportedError
from ._files import is_nothing, sidecar_of
from ._flags import joined, told_beside
from ._roots import find_root
from ._sidecar import (
    FORMAT,
    Sidecar,
    close_names,
    document_of,
    parse,
    read_sidecar,
    spread,
    unique_members,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._checkpoint import Checkpoint
    from ._core import TensorInfo


class FlagEditor:
    """The flags of a checkpoint, and what its sidecar is to say of them.

    Attributes:
        said: by name, what the sidecar says, for all tied tensors alike.
        state, trouble: of the sidecar as it stands, as `_summary.flags_of` tells them.
        path: of the sidecar; None of standard input, which has none.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._infos: dict[str, TensorInfo] = dict(checkpoint.items())
        self._buffers: list[str] = []
        self._root: str | None = None
        self._ties: dict[tuple[object, ...], list[str]] | None = None
        self.path = None if checkpoint.path is None else sidecar_of(checkpoint.path)
        self.said: dict[str, bool] = {}
        self.state = "none"
        self.trouble: SidecarError | str | None = None
        if self.path is not None and not is_nothing(self.path):
            found = told_beside(checkpoint.archive, checkpoint.root, self.path)
            said, self.state, self.trouble = found
            self.said = {name: said[name] for name in self._infos if name in said}

    def flag(self, name: str) -> bool | None:
        return self.said.get(name, self._infos[name].requires_grad)

    def source(self, name: str) -> str | None:
        """Who says it: "sidecar", "pickle", or nobody."""
        if name in self.said:
            return "sidecar"
        return None if self._infos[name].requires_grad is None else "pickle"

    # ---------------------------------------------------------------- changing

    def begin(self, clear: bool) -> None:
        """Before anything is changed: what there is must hold, or be given up."""
        if self.path is None:
            raise SidecarError(
                "standard input has no place for flags beside it",
                code="sidecar-nowhere",
                hint="give the checkpoint by its path",
            )
        if clear:
            self.said = {}
            return
        if isinstance(self.trouble, SidecarError):
            raise SidecarError(
                f"cannot be changed: {str(self.trouble).splitlines()[0]}",
                code=self.trouble.code,
                hint="--clear begins anew, without what it says",
            )
        sidecar = None if is_nothing(self.path) else read_sidecar(self.path)
        if sidecar is not None:
            self._root = sidecar.root
            prefix = "" if sidecar.root == "" else next(self._roots())[0]
            buffers = [joined(prefix, name) for name in sidecar.buffers]
            # It may name some that the checkpoint lacks; nobody is told of them.
            self._buffers = [name for name in buffers if name in self._infos]

    def set(self, names: Iterable[str], flag: bool | None) -> None:
        """None takes back what the sidecar says; tied tensors have one flag."""
        for name in names:
            for tied in self._tied(name):
                if flag is None:
                    self.said.pop(tied, None)
                else:
                    self.said[tied] = flag

    def take(self, data: bytes, path: str) -> None:
        """Set what a JSON document says: names and flags, or a sidecar."""
        flags, buffers, root = flags_of_json(data, path)
        self._root = root if root is not None else self._root
        names = [*flags, *buffers]
        # The names of ls come first: a sidecar's are longer only where it says so.
        prefixes = [prefix for prefix, _ in self._roots()]
        order = prefixes if root is not None else ["", *prefixes]
        prefix = next((prefix for prefix in order if self._fit(prefix, names)), None)
        if prefix is None:
            raise self._unknown(names, order, path)
        full = {joined(prefix, name): flag for name, flag in flags.items()}
        self.set([name for name, flag in full.items() if flag is None], None)
        known = {name: flag for name, flag in full.items() if flag is not None}
        self.said.update(spread(Sidecar(path, known, [], None, None, None), self._infos))
        self._buffers = [joined(prefix, name) for name in buffers] or self._buffers

    def document(self) -> dict[str, object]:
        """The sidecar to be written, checked."""
        checkpoint = self._checkpoint
        assert checkpoint.path is not None
        said = {name: self.said[name] for name in self._infos if name in self.said}
        prefix, names = next(
            (prefix, names)
            for prefix, names in self._roots()
            if all(full in names for full in [*said, *self._buffers])
        )
        return document_of(
            checkpoint.archive,
            checkpoint.path,
            {names[full]: flag for full, flag in said.items()},
            buffers=[names[full] for full in self._buffers] or None,
            names={short: self._infos[full] for full, short in names.items()},
            root=prefix,
        )

    def _roots(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(root of a sidecar, {name: what it is called there}): the likeliest first."""
        archive = self._checkpoint.archive
        for root in dict.fromkeys((self._root or None, "auto")):
            if root is None:
                continue
            try:
                ref, path = find_root(archive, root)
            except (MissingTensorError, UnsupportedError):
                continue
            prefix = joined(*path)
            names = {joined(prefix, short): short for short in archive.tensors(ref)}
            yield prefix, {full: short for full, short in names.items() if full in self._infos}
        yield "", {name: name for name in self._infos}

    def _fit(self, prefix: str, names: Iterable[str]) -> bool:
        return all(joined(prefix, name) in self._infos for name in names)

    def _tied(self, name: str) -> list[str]:
        if self._ties is None:
            self._ties = {}
            for other, info in self._infos.items():
                self._ties.setdefault(window(other, info), []).append(other)
        return self._ties[window(name, self._infos[name])]

    def _unknown(self, names: list[str], prefixes: list[str], path: str) -> MissingTensorError:
        def lost(prefix: str) -> list[str]:
            return [name for name in names if joined(prefix, name) not in self._infos]

        prefix = min(prefixes, key=lambda prefix: len(lost(prefix)))
        first, *more = lost(prefix)
        others = f" and {len(more):,} more that it names" if more else ""
        return MissingTensorError(
            f"the checkpoint has no tensor {first!r}{others}, so nothing was written",
            path=path,
            key=first,
            suggestions=close_names(joined(prefix, first), self._infos),
            hint="`pystatedict ls` lists the names of the checkpoint",
        )


def flags_of_json(data: bytes, path: str) -> tuple[dict[str, bool | None], list[str], str | None]:
    """(flags, names of buffers, the root they speak of): of a sidecar or {name: flag}."""
    import json

    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_members)
    except (ValueError, RecursionError):
        document = {"format": FORMAT}  # parse() says what is wrong with it
    if isinstance(document, dict) and isinstance(document.get("format"), str):
        sidecar = parse(data, path)
        return dict(sidecar.trainable), sidecar.buffers, sidecar.root
    if not isinstance(document, dict) or not all(
        flag is None or isinstance(flag, bool) for flag in document.values()
    ):
        raise SidecarError(
            "not trainable flags",
            code="sidecar-malformed",
            path=path,
            hint='write {"name": true, "other": false, ...}, or give a .trainable.json',
        )
    return document, [], None
