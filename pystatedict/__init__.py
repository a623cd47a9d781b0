"""Read, show, change and write PyTorch checkpoints with NumPy alone.

>>> import pystatedict as psd
>>> sd = psd.load("tutorial.pth")
>>> {name: tensor.shape for name, tensor in sd.items()}["fc1.0.weight"]
(512, 6)
"""

from __future__ import annotations

__version__ = "0.1.0"

# Where each name lives.  Imported on first use, so that `import pystatedict` costs next to
# nothing and a program that only lists never pays for arrays.
_HOMES = {
    "_api": ("items", "load", "open", "save"),
    "_checkpoint": ("Checkpoint",),
    "_contenthash": ("content_hash",),
    "_core": ("LIMITS", "TensorInfo"),
    "_diff": ("diff",),
    "_difference": ("Diff", "Distance"),
    "_dtypes": ("widen",),
    "_errors": (
        "AmbiguousRootError", "ChecksumError", "ClosedError", "CorruptError", "LimitError",
        "MismatchError", "MissingTensorError", "NotACheckpointError", "SidecarError",
        "StaleSidecarError", "StateDictError", "StateDictWarning", "TruncatedError",
        "UnsafePickleError", "UnsupportedError",
    ),
    "_identify": ("identify",),
    "_integrity": ("Repair", "Verification", "repair", "verify"),
    "_into": ("IncompatibleKeys", "load_state_dict"),
    "_keys": ("TensorKey",),
    "_lazy": ("LazyTensor",),
    "_match": ("Match", "Suggestion", "match"),
    "_opaque": ("Opaque", "OpaqueModule"),
    "_scan": ("GlobalUse", "ScanReport", "scan"),
    "_sidecar": ("load_trainable", "save_trainable"),
    "_statedict": ("Parameter", "StateDict"),
    "_tensorkinds": ("NestedTensor", "QuantizedTensor", "SparseTensor", "TensorSubclass"),
    "_torchtypes": ("Device", "Dtype", "Layout", "QScheme", "Size"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LIMITS", "AmbiguousRootError", "Checkpoint", "ChecksumError", "ClosedError", "CorruptError",
    "Device", "Diff", "Distance", "Dtype", "GlobalUse", "IncompatibleKeys", "Layout", "LazyTensor",
    "LimitError", "Match", "MismatchError", "MissingTensorError", "NestedTensor",
    "NotACheckpointError", "Opaque", "OpaqueModule", "Parameter", "QScheme", "QuantizedTensor",
    "Repair", "ScanReport", "SidecarError", "Size", "SparseTensor", "StaleSidecarError",
    "StateDict", "StateDictError", "StateDictWarning", "Suggestion", "TensorInfo", "TensorKey",
    "TensorSubclass", "TruncatedError", "UnsafePickleError", "UnsupportedError", "Verification",
    "content_hash", "diff", "identify", "items", "load", "load_state_dict", "load_trainable",
    "match", "open", "ops", "repair", "save", "save_trainable", "scan", "verify", "widen",
]  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pystatedict import ops
    from pystatedict._api import items, load, open, save
    from pystatedict._checkpoint import Checkpoint
    from pystatedict._contenthash import content_hash
    from pystatedict._core import LIMITS, TensorInfo
    from pystatedict._diff import diff
    from pystatedict._difference import Diff, Distance
    from pystatedict._dtypes import widen
    from pystatedict._errors import (
        AmbiguousRootError,
        ChecksumError,
        ClosedError,
        CorruptError,
        LimitError,
        MismatchError,
        MissingTensorError,
        NotACheckpointError,
        SidecarError,
        StaleSidecarError,
        StateDictError,
        StateDictWarning,
        TruncatedError,
        UnsafePickleError,
        UnsupportedError,
    )
    from pystatedict._identify import identify
    from pystatedict._integrity import Repair, Verification, repair, verify
    from pystatedict._into import IncompatibleKeys, load_state_dict
    from pystatedict._keys import TensorKey
    from pystatedict._lazy import LazyTensor
    from pystatedict._match import Match, Suggestion, match
    from pystatedict._opaque import Opaque, OpaqueModule
    from pystatedict._scan import GlobalUse, ScanReport, scan
    from pystatedict._sidecar import load_trainable, save_trainable
    from pystatedict._statedict import Parameter, StateDict
    from pystatedict._tensorkinds import (
        NestedTensor,
        QuantizedTensor,
        SparseTensor,
        TensorSubclass,
    )
    from pystatedict._torchtypes import Device, Dtype, Layout, QScheme, Size


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        home = "ops" if name == "ops" else _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'pystatedict' has no attribute {name!r}")
        from importlib import import_module

        try:
            module = import_module(f"pystatedict.{home}")
        except ImportError as error:
            if error.name == "pystatedict._core" or "name '_core'" in str(error):
                raise ImportError(
                    "pystatedict's compiled part is missing: this is the source folder, not the"
                    " installed package; run `pip install -e .` in it, or start Python elsewhere"
                ) from None
            raise
        value = module if name == "ops" else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
