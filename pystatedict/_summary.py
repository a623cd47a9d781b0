# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds, counted, and whose flags are known."""

from __future__ import annotations

from ._checkpoint import window
from ._files import is_nothing, sidecar_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._checkpoint import Checkpoint
    from ._core import TensorInfo
    from ._errors import SidecarError

    Flags = dict[str, bool | None]
    # (flag of each tensor, state of the sidecar, what is wrong with the sidecar)
    Known = tuple[Flags, str, SidecarError | str | None]


# ------------------------------------------------------------------------- flags


def flags_of(checkpoint: Checkpoint) -> Known:
    """The trainable flags of all tensors of a checkpoint.

    A flag of the sidecar stands above one in the pickle.  The sidecar is "none", "current",
    "unsure" (nothing sure can be said), "stale" or "broken"; the last two are not applied.
    """
    flags: Flags = {name: info.requires_grad for name, info in checkpoint.items()}
    sidecar = None if checkpoint.path is None else sidecar_of(checkpoint.path)
    if sidecar is None or is_nothing(sidecar):
        return flags, "none", None
    from ._flags import put_over

    return flags, *put_over(flags, checkpoint.archive, checkpoint.root, sidecar)


# ------------------------------------------------------------------------ counts


class Total:
    """Tensors counted by name; parameters and bytes of tied ones counted once."""

    __slots__ = ("_seen", "bytes", "frozen", "parameters", "tensors", "trainable", "unknown")

    def __init__(self) -> None:
        self.tensors = self.parameters = self.bytes = 0
        self.trainable = self.frozen = self.unknown = 0  # of the parameters
        self._seen: set[tuple[object, ...]] = set()

    def add(self, name: str, info: TensorInfo, flag: bool | None) -> None:
        self.tensors += 1
        key = window(name, info)
        if key in self._seen:
            return
        self._seen.add(key)
        self.parameters += info.numel
        self.bytes += info.nbytes
        if flag is None:
            self.unknown += info.numel
        elif flag:
            self.trainable += info.numel
        else:
            self.frozen += info.numel

    def members(self) -> dict[str, int]:
        return {
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "trainable": self.trainable,
            "frozen": self.frozen,
            "unknown": self.unknown,
        }
