# SPDX-License-Identifier: Apache-2.0
"""adapter_config.json: what PEFT keeps of a LoRA beside its tensors."""

from __future__ import annotations

import math
import os
import re
from typing import Any

from pystatedict._errors import UnsupportedError

_LARGEST = 1 << 20  # bytes of a file that is read
_PLAIN = re.compile(r"\^?([\w.\-]+)\$?")


# Ways to begin a LoRA that leave the base other than it was.
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterConfig:
    """lora_alpha and what changes it; all of it unknown where there is no such file.

    Attributes:
        fan_in_fan_out: are weights stored as (in, out), as GPT-2's are?
    """

    def __init__(self, told: dict[str, Any] | None = None, path: str | None = None) -> None:
        told = told or {}
        kind = told.get("peft_type") or "LORA"
        if kind != "LORA":
            raise UnsupportedError(
                f"an adapter of type {kind!r}, which is no LoRA",
                path=path,
                hint="merge it by the program that made it, and save the whole model",
            )
        if told.get("layer_replication"):
            raise UnsupportedError(
                "the adapter repeats layers of its model (layer_replication)",
                path=path,
                hint="merge it by the program that made it, and save the whole model",
            )
        begun = str(told.get("init_lora_weights")).lower()
        if begun.startswith(_CHANGES_THE_BASE):
            raise UnsupportedError(
                f"init_lora_weights={begun!r} took a part out of the base's own weights before"
                " the training, so the adapter does not fit the base as it was",
                path=path,
                hint="save it by PEFT with path_initial_model_for_weight_conversion=, or merge it"
                " there",
            )
        self._alpha = _number(told.get("lora_alpha"))
        self._root = bool(told.get("use_rslora"))
        self.fan_in_fan_out = bool(told.get("fan_in_fan_out"))
        pattern = told.get("alpha_pattern")
        self._pattern = [
            (_plain(str(key), path), str(key).startswith("^"), _number(value))
            for key, value in (pattern.items() if isinstance(pattern, dict) else ())
        ]

    def alpha_of(self, module: str) -> float | None:
        """alpha of a module, by the first name in alpha_pattern that is its end, or for all."""
        for name, whole, value in self._pattern:
            if module == name or (not whole and module.endswith("." + name)):
                return value
        return self._alpha

    def factor(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self._root else rank)


def config_beside(f: Any) -> AdapterConfig:
    """That of a folder, or of the folder in which a file stands."""
    if not isinstance(f, (str, os.PathLike)):
        return AdapterConfig()
    path = os.fsdecode(os.fspath(f))
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    beside = os.path.join(folder, "adapter_config.json")
    try:
        with open(beside, "rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return AdapterConfig()
    import json

    try:
        told = json.loads(data.decode("utf-8-sig")) if len(data) <= _LARGEST else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UnsupportedError(
            "this is no adapter_config.json of PEFT",
            path=beside,
            hint="get it again, or remove it and give alpha=",
        )
    return AdapterConfig(told, beside)


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _plain(key: str, path: str | None) -> str:
    """The name in a key of alpha_pattern, which may be any regular expression.

    Those of strangers are not run: some take for ever.
    """
    found = _PLAIN.fullmatch(key)
    if found is None:
        raise UnsupportedError(
            f"alpha_pattern has the regular expression {key!r}; only names are read",
            path=path,
            hint='give alpha={"*.q_proj.weight": 16, "*": 8}, by globs of the model\'s names',
        )
    return found[1]
