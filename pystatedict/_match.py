# SPDX-License-Identifier: Apache-2.0
"""match: would the tensors of one checkpoint fit the names of another, and what would help."""

from __future__ import annotations

from pystatedict._printable import counted, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pystatedict._entries import Entries

    Shape = tuple[int, ...]
    Root = str | None | tuple[str | None, str | None]

_NAME = 200  # characters of a name that are shown
_SHOWN = 20  # lines of each kind that print shows


class Suggestion:
    """A change of names that makes some of them match.

    Attributes:
        kind: "strip" (a prefix), "add" (a prefix), "replace" (a path within names by another;
            an empty one is left out or put in), "pattern" (names with # for numbers) or
            "rename" (one name).
        old, new: what stands there, and what is to stand there.
        names: {name in a: name in b} of the names that it makes match.
    """

    __slots__ = ("kind", "names", "new", "old")

    def __init__(self, kind: str, old: str, new: str, names: dict[str, str]) -> None:
        self.kind = kind
        self.old = old
        self.new = new
        self.names = names

    @property
    def count(self) -> int:
        """How many names it makes match."""
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "old": self.old, "new": self.new, "count": self.count,
                "names": dict(self.names)}  # fmt: skip

    def __str__(self) -> str:
        old, new = (f"'{printable(text, _NAME)}'" for text in (self.old, self.new))
        if self.kind == "strip":
            return f"strip the prefix {old}"
        if self.kind == "add":
            return f"add the prefix {new}"
        if self.kind != "replace":
            return f"rename {old} to {new}"
        if not self.old:
            return f"put in {new}"
        return f"replace {old} by {new}" if self.new else f"leave out {old}"

    def __repr__(self) -> str:
        return f"<Suggestion: {self}, {counted(self.count, 'name')}>"


class Match:
    """What :func:`match` found.  True when every name of b is in a as it is, and no other.

    Attributes:
        paths: of both sides, None of what has none.
        matched: how many names are in both with the same shape and dtype.
        missing: {name: (shape, dtype)} of what only b has: the model would be without.
        unexpected: {name: (shape, dtype)} of what only a has: nothing would take it.
        reshaped: {name: (shape in a, shape in b)} of names in both.
        retyped: {name: (dtype in a, dtype in b)} of names in both, of any shapes.
        suggestions: Suggestions, those with the most names of each kind first; no name is in
            two of them.
    """

    __slots__ = ("matched", "missing", "paths", "reshaped", "retyped", "suggestions", "unexpected")

    def __init__(self, a: Entries, b: Entries) -> None:
        from pystatedict._renaming import suggest

        self.paths = a.path, b.path
        self.missing = {n: (e.shape, e.dtype) for n, e in b.items() if n not in a}
        self.unexpected = {n: (e.shape, e.dtype) for n, e in a.items() if n not in b}
        both = [(n, e, b[n]) for n, e in a.items() if n in b]
        self.reshaped = {n: (e.shape, f.shape) for n, e, f in both if e.shape != f.shape}
        self.retyped = {n: (e.dtype, f.dtype) for n, e, f in both if e.dtype != f.dtype}
        wrong = len(self.reshaped.keys() | self.retyped.keys())
        self.matched = len(both) - wrong
        rules = suggest(
            {name: shape for name, (shape, _) in self.unexpected.items()},
            {name: shape for name, (shape, _) in self.missing.items()},
        )
        self.suggestions = tuple(Suggestion(*rule, dict(pairs)) for rule, pairs in rules)

    def __bool__(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped or self.retyped)

    @property
    def rename(self) -> dict[str, str]:
        """{name in a: name in b} by all suggestions; no two get the same name."""
        found: dict[str, str] = {}
        for suggestion in self.suggestions:
            found.update(suggestion.names)
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON; the same files give the same."""

        def facts(rows: dict[str, tuple[Shape, str]]) -> dict[str, Any]:
            return {name: {"shape": list(s), "dtype": dtype} for name, (s, dtype) in rows.items()}

        return {
            "a": self.paths[0],
            "b": self.paths[1],
            "fits": bool(self),
            "matched": self.matched,
            "missing": facts(self.missing),
            "unexpected": facts(self.unexpected),
            "reshaped": {n: [list(a), list(b)] for n, (a, b) in self.reshaped.items()},
            "retyped": {name: list(pair) for name, pair in self.retyped.items()},
            "suggestions": [suggestion.to_dict() for suggestion in self.suggestions],
        }

    def report(self, most: int | None = None) -> str:
        """What print shows; `most` lines of each kind, or all."""
        from pystatedict._text import shape_text

        a, b = ("memory" if path is None else printable(path) for path in self.paths)
        lines = [f"a: {a}", f"b: {b}"]
        if self:
            return "\n".join([*lines, f"all {counted(self.matched, 'name')} match"])
        kinds = ("missing", "unexpected", "reshaped", "retyped")
        told = [f"{len(getattr(self, kind)):,} {kind}" for kind in kinds if getattr(self, kind)]
        lines.append(f"{counted(self.matched, 'name')} match; {', '.join(told)}")
        for title, facts in (
            ("missing (only in b)", self.missing),
            ("unexpected (only in a)", self.unexpected),
        ):
            lines += _section(title, [(n, shape_text(s), d) for n, (s, d) in facts.items()], most)
        shapes = [(n, shape_text(s), f"-> {shape_text(t)}") for n, (s, t) in self.reshaped.items()]
        lines += _section("reshaped", shapes, most)
        dtypes = [(n, first, f"-> {second}") for n, (first, second) in self.retyped.items()]
        lines += _section("retyped", dtypes, most)
        rows = [(str(s), counted(s.count, "name")) for s in self.suggestions]
        lines += _section("suggestions", rows, most)
        if rows:
            count = self.matched + sum(s.count for s in self.suggestions)
            lines += ["", f"with all suggestions {counted(count, 'name')} match in name and shape"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report(_SHOWN)

    def __repr__(self) -> str:
        return (
            f"<Match: {self.matched:,} match, {len(self.missing):,} missing,"
            f" {len(self.unexpected):,} unexpected, {len(self.reshaped):,} reshaped,"
            f" {len(self.retyped):,} retyped>"
        )


def _section(title: str, rows: Sequence[Sequence[str]], most: int | None) -> Iterable[str]:
    from pystatedict._text import GAP, INDENT, table

    if not rows:
        return
    yield ""
    yield f"{title}: {len(rows):,}"
    shown = [(printable(first, 3 * _NAME), *rest) for first, *rest in rows[:most]]
    for cells in table(shown, "<" * len(rows[0])):
        yield (INDENT + GAP.join(cells)).rstrip(" ")
    if len(rows) > len(shown):
        yield f"{INDENT}and {len(rows) - len(shown):,} more"


def match(a: Any, b: Any, *, root: Root = "auto") -> Match:
    """Tell whether the tensors of `a` fit where those of `b` are: load_state_dict without a model.

    All at once: names that are missing or unexpected, shapes and dtypes that differ; and changes
    of names that would help, such as a prefix to strip.  No tensor is read.

    Args:
        a: the checkpoint: what open() takes, a Checkpoint, or a mapping of names to arrays.
        b: the model's side, likewise: a checkpoint that the model saved.
        root: "auto" for the one state_dict inside each, None for all tensors, a dotted path
            for those below it; a pair gives each file its own.  A Checkpoint has its own.

    Returns:
        A Match, which is true when all is as it should be.

    Raises:
        TypeError: a value of a mapping that NumPy cannot make an array of.
        What open() raises, of a file that cannot be opened.

    >>> from pystatedict import load
    >>> model = load("tutorial.pth")
    >>> wrapped = {f"module.{name}": tensor for name, tensor in model.items()}
    >>> found = match(wrapped, model)
    >>> found
    <Match: 0 match, 6 missing, 6 unexpected, 0 reshaped, 0 retyped>
    >>> found.suggestions
    (<Suggestion: strip the prefix 'module.', 6 names>,)
    >>> bool(match({found.rename.get(n, n): t for n, t in wrapped.items()}, model))
    True
    """
    from pystatedict._entries import entries_of, roots_of

    roots = roots_of(root)
    with entries_of(a, roots[0]) as first, entries_of(b, roots[1]) as second:
        return Match(first, second)
