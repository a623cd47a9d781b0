# SPDX-License-Identifier: Apache-2.0
"""What diff() found: Diff and Distance."""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Shape = tuple[int, ...]


class Distance:
    """How far two tensors of one shape are apart.

    Attributes:
        count: elements that were compared.
        differing: elements whose values are not equal.  NaN equals NaN at the same place, and
            0.0 equals -0.0.
        beyond: those of them that are further apart than ``atol + rtol * |b|``, as
            ``numpy.isclose`` has it: all of them where both are 0.
        nans: elements that are NaN on one side only.  They count as differing and beyond, and
            are left out of the numbers below.
        max_abs: the largest ``|a - b|``: an exact int of integers and bools, else a float.
        max_rel: the largest ``|a - b| / |b|`` of elements that differ; inf where b is 0.
        rms: the root of the mean of ``|a - b|**2``.
        cosine: cosine of the angle between both as vectors, of their finite elements; None
            where one of them is all zeros.
        note: why nothing was compared, or what else differs, or "".
        parts: by name, of tensors that are made of several arrays; their numbers are above None.

    `max_abs`, `max_rel`, `rms` and `cosine` are None of what are no numbers, such as bits8.
    """

    __slots__ = ("beyond", "cosine", "count", "differing", "max_abs", "max_rel", "nans", "note",
                 "parts", "rms")  # fmt: skip

    def __init__(
        self,
        count: int = 0,
        differing: int = 0,
        beyond: int = 0,
        nans: int = 0,
        max_abs: int | float | None = None,
        max_rel: float | None = None,
        rms: float | None = None,
        cosine: float | None = None,
        note: str = "",
        parts: dict[str, Distance] | None = None,
    ) -> None:
        self.count = count
        self.differing = differing
        self.beyond = beyond
        self.nans = nans
        self.max_abs = max_abs
        self.max_rel = max_rel
        self.rms = rms
        self.cosine = cosine
        self.note = note
        self.parts = parts or {}

    def __bool__(self) -> bool:
        """True when the tensors differ beyond the tolerance."""
        return bool(self.beyond or self.note or any(self.parts.values()))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: infinite numbers are the texts "inf" and "-inf"."""
        told: dict[str, Any] = {
            "count": self.count,
            "differing": self.differing,
            "beyond": self.beyond,
            "nans": self.nans,
            "max_abs": _json(self.max_abs),
            "max_rel": _json(self.max_rel),
            "rms": _json(self.rms),
            "cosine": _json(self.cosine),
        }
        if self.note:
            told["note"] = self.note
        if self.parts:
            told["parts"] = {name: part.to_dict() for name, part in self.parts.items()}
        return told

    def __repr__(self) -> str:
        if self.note:
            return f"<Distance: {self.note}>"
        return f"<Distance: {self.differing:,} of {self.count:,} differ, max_abs={self.max_abs}>"


def _json(number: int | float | None) -> int | float | str | None:
    if isinstance(number, float) and not math.isfinite(number):
        return str(number)
    return number


class Diff:
    """What :func:`diff` found.  True when there is a difference; ``print`` it to read it.

    Names are those of `a`, but in ``added``; each mapping is in the order of its file.

    Attributes:
        paths: of both sides, None of what has none.
        added, removed: {name: (shape, dtype)} of tensors that only b, only a has.
        renamed: {name in a: name in b} of tensors with the same dtype, shape and bytes.
        reshaped: {name: (shape in a, shape in b)}.
        retyped: {name: (dtype in a, dtype in b)}.
        trainable: {name: (flag in a, flag in b)} where they differ; None: nobody has said.
        changed: {name: Distance} of tensors of one shape whose values differ beyond the
            tolerance.
        close: {name: Distance} of those whose bytes or dtypes differ, but not their values
            beyond the tolerance: no difference by themselves.
        shapes: {name: shape} of what is in changed and close.
        compared: how many tensors both have.
        values: whether values were looked at.
        rtol, atol: the tolerance.
    """

    __slots__ = ("added", "atol", "changed", "close", "compared", "paths", "removed", "renamed",
                 "reshaped", "retyped", "rtol", "shapes", "trainable", "values")  # fmt: skip

    def __init__(self, paths: tuple[str | None, str | None], rtol: float, atol: float) -> None:
        self.paths = paths
        self.rtol, self.atol = rtol, atol
        self.values = True
        self.compared = 0
        self.added: dict[str, tuple[Shape, str]] = {}
        self.removed: dict[str, tuple[Shape, str]] = {}
        self.renamed: dict[str, str] = {}
        self.reshaped: dict[str, tuple[Shape, Shape]] = {}
        self.retyped: dict[str, tuple[str, str]] = {}
        self.trainable: dict[str, tuple[bool | None, bool | None]] = {}
        self.changed: dict[str, Distance] = {}
        self.close: dict[str, Distance] = {}
        self.shapes: dict[str, Shape] = {}

    def __bool__(self) -> bool:
        return not self.equal

    @property
    def equal(self) -> bool:
        """True when nothing differs: names, shapes, dtypes, flags, or values beyond tolerance."""
        return not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """How many there are of each kind of difference."""
        kinds = ("added", "removed", "renamed", "reshaped", "retyped", "trainable", "changed")
        return {kind: len(getattr(self, kind)) for kind in kinds}

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON: dicts, lists, texts, ints, finite floats, bools and None.

        The order of keys is fixed, and the same files give the same.
        """

        def facts(rows: dict[str, tuple[Shape, str]]) -> dict[str, Any]:
            return {name: {"shape": list(s), "dtype": dtype} for name, (s, dtype) in rows.items()}

        return {
            "a": self.paths[0],
            "b": self.paths[1],
            "equal": self.equal,
            "rtol": _json(self.rtol),
            "atol": _json(self.atol),
            "values": self.values,
            "compared": self.compared,
            "counts": self.counts(),
            "added": facts(self.added),
            "removed": facts(self.removed),
            "renamed": dict(self.renamed),
            "reshaped": {n: [list(a), list(b)] for n, (a, b) in self.reshaped.items()},
            "retyped": {name: list(pair) for name, pair in self.retyped.items()},
            "trainable": {name: list(pair) for name, pair in self.trainable.items()},
            "changed": {name: found.to_dict() for name, found in self.changed.items()},
            "close": {name: found.to_dict() for name, found in self.close.items()},
        }

    def report(self, most: int | None = None) -> str:
        """What print shows; `most` lines of each kind, or all."""
        from pystatedict._difftext import report

        return report(self, most)

    def __str__(self) -> str:
        return self.report(_SHOWN)

    def __repr__(self) -> str:
        counted = [f"{count:,} {kind}" for kind, count in self.counts().items() if count]
        return f"<Diff: {', '.join(counted) or 'no difference'}>"


_SHOWN = 100  # lines of each kind
