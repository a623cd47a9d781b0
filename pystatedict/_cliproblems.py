# SPDX-License-Identifier: Apache-2.0
"""What `verify` and `repair` found, as rows and as JSON."""

from __future__ import annotations

import os

from ._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._errors import StateDictError


def problem_row(error: StateDictError) -> tuple[str, str, str, str]:
    """(code, the record or tensor, where it stands, what is wrong)."""
    subject = error.entry if error.entry is not None else error.key
    place = "" if error.offset is None else f"at byte {error.offset:,}"
    return error.code or "", printable(subject or ""), place, printable(_sentence(error))


def problem_members(error: StateDictError) -> dict[str, object]:
    return {
        "code": error.code,
        "file": None if error.path is None else os.fsdecode(error.path),
        "entry": error.entry,
        "key": error.key,
        "offset": error.offset,
        "message": _sentence(error),
    }


def _sentence(error: StateDictError) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
