# SPDX-License-Identifier: Apache-2.0
"""Archives of torch.package: pickles among source files, each of which can be picked.

The storages are shared by all pickles and stand under ``.data/``.  Source:
torch/package/package_exporter.py.
"""

from __future__ import annotations

from pystatedict import _core
from pystatedict._errors import MissingTensorError, UnsupportedError
from pystatedict._printable import printable
from pystatedict._script import note_script
from pystatedict._scriptcode import PACKAGED, is_packaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._core import Archive, Source

_SHOWN = 8


def resource_at(
    source: Source, path: str | None, limits: dict[str, int] | None, root: str | None
) -> tuple[Archive, str | None]:
    """The pickle that the first part of `root` names, and what is left of `root`.

    Raises UnsupportedError without a root, MissingTensorError for one that names none.
    """
    names, scripts = resources(_core.open_archive(source, path, limits, False))
    found, rest = _picked(names, scripts, root)
    archive = _core.open_archive(source, path, limits, record=found)
    archive.note_place(found)
    if is_packaged(archive):
        note_script(archive)
    return archive, rest


def resources(archive: Archive) -> tuple[list[str], list[str]]:
    """The pickles of a package, as its importer would call them, and scripts within it."""
    start = len(archive.prefix)
    names = [row[0][start:] for row in archive.records() if row[0].startswith(archive.prefix)]
    own = [name for name in names if name.endswith(".pkl") and not name.startswith(".data/")]
    scripts = [name for name in names if name.startswith(PACKAGED) and name.endswith("/data.pkl")]
    return own, scripts


def _picked(names: list[str], scripts: list[str], root: str | None) -> tuple[str, str | None]:
    """(resource, what is left of `root`); the longest name wins, as they may hold dots."""
    if root == "auto" and len(names) == 1:
        return names[0], root
    fitting = [name for name in names + scripts if f"{root}.".startswith(f"{name}.")]
    if root is not None and fitting:
        found = max(fitting, key=len)
        return found, root[len(found) + 1 :] or None
    shown = ", ".join(printable(name, 80) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    if not names:
        raise UnsupportedError("an archive of torch.package without a pickle", code="no-pickle")
    hint = f"say which: root={names[0]!r}"
    if root is None or root == "auto":
        raise UnsupportedError(
            f"an archive of torch.package, with {len(names)} pickle"
            f"{'' if len(names) == 1 else 's'}: {shown}{more}",
            code="several-pickles",
            hint=hint,
        )
    raise MissingTensorError(
        f"there is no {printable(root)!r} in the package: it has {shown}{more}",
        code="no-such-root",
        key=root,
        hint=hint,
        suggestions=names[:_SHOWN],
    )
