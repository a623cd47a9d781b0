# SPDX-License-Identifier: Apache-2.0
"""Every scenario twice, for a memory checker to watch.

python session.py FOLDER
"""

from __future__ import annotations

import gc
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from scenarios import SCENARIOS

if __name__ == "__main__":
    for _ in range(2):
        for scenario in SCENARIOS.values():
            scenario(pathlib.Path(sys.argv[1]))
    gc.collect()
    print("done")
