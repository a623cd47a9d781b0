# SPDX-License-Identifier: Apache-2.0
"""List the layers of a checkpoint, their shapes, and which of them are trainable.

    python examples/tutorial.py [FILE]

Needs no torch.  Without FILE it reads tutorial.pth, which real torch wrote; the
flags come from tutorial.pth.trainable.json beside it.
"""

import sys

import pystatedict as psd

path = sys.argv[1] if len(sys.argv) > 1 else __file__.removesuffix(".py") + ".pth"

# The first method: what is in the file.
for layer_name, tensor in psd.load(path).items():
    print(f"layer_name = {layer_name}, tensor shape = {tensor.shape}")

# The second method: what is trainable.  True, False, or None: nobody has said.
for name, tensor, trainable in psd.items(path, trainable=True):
    print(f"{name:16} {tensor.shape!s:12} trainable = {trainable}")
