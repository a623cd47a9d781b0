"""The small values of torch that stand in checkpoints beside tensors, without torch."""

from __future__ import annotations


class Size(tuple[int, ...]):
    """A ``torch.Size``: a tuple of int that is written back as what it was.

    >>> Size((2, 3))
    Size([2, 3])
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Size({list(self)})"

    def numel(self) -> int:
        """The product of the sizes."""
        product = 1
        for size in self:
            product *= size
        return product


class TorchName(str):
    """A value of torch that is no more than its name; equal to that text.

    >>> Dtype("torch.float32") == "torch.float32"
    True
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class Dtype(TorchName):
    """A ``torch.dtype``, such as ``torch.float32``."""

    __slots__ = ()


class Device(TorchName):
    """A ``torch.device``, such as ``cuda:1``."""

    __slots__ = ()


class Layout(TorchName):
    """A ``torch.layout``, such as ``torch.sparse_csr``."""

    __slots__ = ()


class QScheme(TorchName):
    """A ``torch.qscheme``, such as ``torch.per_tensor_affine``."""

    __slots__ = ()
