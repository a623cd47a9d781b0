# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: the files, interleaved rounds, and the table."""

from __future__ import annotations

import gc
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

# One measurement takes at least this long, by repetition.
LEAST_SECONDS = 0.02


def models(big: bool) -> dict[str, dict[str, torch.Tensor]]:
    """name -> state_dict; the shapes of small, middling and large checkpoints."""
    torch.manual_seed(0)
    found = {
        "6 tensors, 0.3 MB": {
            "fc1.0.weight": torch.randn(512, 6),
            "fc1.0.bias": torch.randn(512),
            "fc2.0.weight": torch.randn(128, 512),
            "fc2.0.bias": torch.randn(128),
            "fc_final.weight": torch.randn(1, 128),
            "fc_final.bias": torch.randn(1),
        },
        "320 tensors, 102 MB": {
            f"layers.{i // 2}.{'bias' if i % 2 else 'weight'}": torch.randn(
                *([400] if i % 2 else [398, 400])
            )
            for i in range(320)
        },
        "20,000 tensors, 5 MB": {f"blocks.{i}.weight": torch.randn(8, 8) for i in range(20000)},
    }
    if big:
        found["290 tensors bf16, 2.2 GB"] = {
            f"layers.{i}.weight": torch.randn(1024, 3700).to(torch.bfloat16) for i in range(290)
        }
    return found


def once(call: Callable[[], object]) -> float:
    """Seconds of one call; the result is let go within the time, as a user would."""
    repeat = 1
    while True:
        gc.collect()
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        spent = time.perf_counter() - start
        if spent >= LEAST_SECONDS:
            return spent / repeat
        repeat = max(repeat * 2, int(repeat * LEAST_SECONDS / max(spent, 1e-9)) + 1)


def compare(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float] | None]:
    """Seconds of each way, round by round, so that all share the machine's moods.

    A way that cannot do it at all has None.
    """
    found: dict[str, list[float] | None] = {}
    for name, call in ways.items():
        try:
            call()  # warms the page cache too
            found[name] = []
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
            found[name] = None
    for _ in range(rounds):
        for name, call in ways.items():
            seconds = found[name]
            if seconds is not None:
                seconds.append(once(call))
    return found


def amount(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def show(title: str, found: dict[str, list[float] | None], against: str) -> None:
    """A table: median, range, and how many times as fast as `against`."""
    base = found[against]
    print(f"\n{title}\n")
    print(f"| way | median | range | times as fast as `{against}` |")
    print("|---|---|---|---|")
    for name, seconds in found.items():
        if not seconds:
            print(f"| `{name}` | – | – | – |")
            continue
        middle = statistics.median(seconds)
        ratio = f"{statistics.median(base) / middle:.3g}" if base else "–"
        spread = f"{amount(min(seconds))} to {amount(max(seconds))}"
        print(f"| `{name}` | {amount(middle)} | {spread} | {ratio} |")


def describe() -> None:
    """The machine and the versions, for the record."""
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    packages = ("pystatedict", "numpy", "torch", "safetensors")
    print(f"{cpu}; {platform.system()} {platform.release()}; Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in packages))
