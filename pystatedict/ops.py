# SPDX-License-Identifier: Apache-2.0
"""Change checkpoints, also those larger than memory.

Each function takes a path, a Checkpoint, or a mapping of names to tensors (arrays,
TensorInfos, LazyTensors), leaves it as it is, and gives a new StateDict.  Nothing is read or
computed until a tensor is asked for or ``pystatedict.save`` writes it, a stretch at a time, so
that a file of any size is changed in the memory of a small one:

>>> import pystatedict
>>> from pystatedict import ops
>>> sd = ops.select("tutorial.pth", "fc2.*")
>>> sd = ops.cast(ops.add_prefix(sd, "model."), "bfloat16")
>>> pystatedict.save(sd, "part.pth")
>>> pystatedict.load("part.pth")["model.fc2.0.weight"].dtype
dtype(bfloat16)

Names, flags, metadata and ties are kept: two names of one tensor are one tensor after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pystatedict._arithmetic import add, average, ema, scale, subtract, task_arithmetic
from pystatedict._convert import convert
from pystatedict._edit import edit, undo
from pystatedict._interpolate import interpolate
from pystatedict._lora import apply_lora
from pystatedict._loraextract import extract_lora
from pystatedict._opnames import (
    add_prefix,
    drop,
    drop_optimizer,
    flatten,
    merge,
    only_trainable,
    rename,
    select,
    strip_prefix,
    unflatten,
    update,
    within,
)
from pystatedict._opvalues import cast, compact, map
from pystatedict._running import RunningAverage

if TYPE_CHECKING:
    from pystatedict._statedict import StateDict

__all__ = [
    "RunningAverage", "add", "add_prefix", "apply_lora", "arrays", "average", "cast", "compact",
    "convert", "drop", "drop_optimizer", "edit", "ema", "extract_lora", "flatten", "freeze",
    "interpolate", "map", "merge", "only_trainable", "open", "rename", "scale", "select",
    "strip_prefix", "subtract", "task_arithmetic", "undo", "unflatten", "unfreeze", "update",
    "within",
]  # fmt: skip


def open(f: Any, root: str | None = None, *, limits: Any = None) -> Any:
    """The object in a file, as load() gives it, with TensorInfos in the place of arrays.

    Their bytes are read when they are wanted, and never mapped: what streams from it holds no
    more than it is writing.  `root` and `limits` are those of load().

    >>> open("tutorial.pth")["fc1.0.weight"].shape
    (512, 6)
    """
    from pystatedict._api import load_lazily

    return load_lazily(f, root, limits=limits)


def arrays(f: Any) -> StateDict:
    """The same with every tensor read or computed now, as an array; tied ones share memory.

    >>> arrays(cast("tutorial.pth", "float16"))["fc_final.bias"].dtype
    dtype('float16')
    """
    from pystatedict._taken import changed, taken

    def array(_: Any, value: Any) -> Any:
        whole = hasattr(value, "numpy") and not getattr(value, "is_meta", False)
        return value.numpy() if whole else value

    return changed(taken(f), array)


def freeze(f: Any, pattern: str = "*") -> StateDict:
    """The same, with the tensors whose names match the glob said to be frozen.

    Raises MissingTensorError when none matches.

    >>> sd = freeze("tutorial.pth", "fc1.*")
    >>> sd.trainable["fc1.0.weight"], sd.trainable["fc2.0.weight"]
    (False, True)
    """
    return _said(f, pattern, False)


def unfreeze(f: Any, pattern: str = "*") -> StateDict:
    """The same, with the tensors whose names match the glob said to be trained.

    Raises MissingTensorError when none matches.
    """
    return _said(f, pattern, True)


def _said(f: Any, pattern: str, flag: bool) -> StateDict:
    from pystatedict._opnames import matching
    from pystatedict._taken import remade, taken

    sd = taken(f)
    names = matching(sd, [pattern])
    made = remade(sd, [(name, name, value) for name, value in sd.items()])
    for name in names:
        made.trainable[name] = flag
    return made
