# SPDX-License-Identifier: Apache-2.0
"""A LoRA put into the weights that it was trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pystatedict._compared import FLOAT, kind_of
from pystatedict._errors import MismatchError
from pystatedict._flat import Flat
from pystatedict._loraconfig import AdapterConfig, config_beside
from pystatedict._loradelta import Pair
from pystatedict._loranames import Group, Names, grouped
from pystatedict._operands import by_name, finite, is_tensor, result_like, taken
from pystatedict._printable import printable
from pystatedict._rounding import check_accumulate
from pystatedict._statedict import StateDict
from pystatedict._weighted import weighted

if TYPE_CHECKING:
    from pystatedict._arithmetic import Accumulate

_LISTED = 8  # lines that a message gives


def apply_lora(
    base: Any,
    lora: Any,
    *,
    scale: float = 1.0,
    alpha: float | Mapping[str, float] | None = None,
    fan_in_fan_out: bool | None = None,
    accumulate: Accumulate = "float32",
) -> StateDict:
    """The model with a LoRA in its weights: W + scale · (alpha / r) · (B @ A).

    Reads the names of PEFT (``base_model.model.<module>.lora_A.weight`` and ``lora_B``, also
    with an adapter's name in them, ``lora_embedding_A`` and ``lora_embedding_B``, DoRA's
    ``lora_magnitude_vector``, modules saved as a whole) and those of kohya's scripts
    (``lora_unet_<module>.lora_down.weight``, ``lora_up``, ``lora_mid``, ``alpha``), whose
    underscores are held against the names of the base.  Weights of linear layers, embeddings
    and convolutions are changed; all is computed by rows when it is read.  A weight that is
    tied with one that the LoRA does not speak of is no longer tied with it.

    Args:
        base: an input, as those of :func:`average`.
        lora: likewise; of a path, or of a folder, ``adapter_config.json`` beside the tensors tells
            lora_alpha, alpha_pattern, use_rslora and fan_in_fan_out.
        scale: how much of the LoRA is applied; 1 is what it was trained for.
        alpha: lora_alpha, in the place of what the file or the config says; or numbers by
            globs of the base's names.  kohya's files without one have alpha = r.
        fan_in_fan_out: whether weights are (in, out), as those of GPT-2; by default as the
            config says.
        accumulate: dtype that is computed in, "float32" or "float64".

    Raises:
        MismatchError: LoRA tensors that found no place in the base, with the names that are
            close, or more than one; shapes that do not fit; all is told at once.
        UnsupportedError: the config speaks of another kind of adapter.

    >>> import numpy as np
    >>> base = {"fc.weight": np.zeros((2, 3), "f4")}
    >>> lora = {
    ...     "base_model.model.fc.lora_A.weight": np.ones((1, 3), "f4"),
    ...     "base_model.model.fc.lora_B.weight": np.float32([[1], [2]]),
    ... }
    >>> apply_lora(base, lora, alpha=2)["fc.weight"].numpy()
    array([[2., 2., 2.],
           [4., 4., 4.]], dtype=float32)
    """
    check_accumulate(accumulate)
    strength = finite(scale, "scale")
    config = config_beside(lora)
    if fan_in_fan_out is not None:
        config.fan_in_fan_out = fan_in_fan_out
    model, given = taken(base), taken(lora)
    plan = _Plan(model, config)
    groups, rest = grouped(given)
    if not groups:
        raise MismatchError(
            f"{_called(given, 'the LoRA')} holds no LoRA tensors",
            hint="its names end in .lora_A.weight and .lora_B.weight, or in .lora_down.weight"
            " and .lora_up.weight",
            unexpected_keys=map(str, given),
        )
    plan.place(groups, rest)
    alphas = None if alpha is None else by_name(alpha, plan.groups, "alpha")
    items: dict[Any, Any] = dict(model)
    for name, group in plan.groups.items():
        pair = plan.pair(name, group, strength, None if alphas is None else alphas(name))
        if pair is not None:
            items[name] = pair.changed(model[name], accumulate)
    plan.check(given)
    for name, value in plan.replaced.items():
        items[name] = weighted([(value, 1.0)], accumulate, dtype=Flat(model[name]).dtype)
    return result_like(model, items)


def _called(given: StateDict, otherwise: str) -> str:
    return otherwise if given.source is None else f"'{printable(given.source, 200)}'"


class _Plan:
    """Which tensors of a LoRA change which weight, and what stands against it."""

    def __init__(self, base: StateDict, config: AdapterConfig) -> None:
        self.base = base
        self.config = config
        self.groups: dict[str, Group] = {}
        self.replaced: dict[str, Any] = {}
        self._names = Names(name for name, value in base.items() if is_tensor(value))
        self._lost: list[str] = []
        self._wrong: dict[str, str] = {}
        self._close: list[str] = []

    def place(self, groups: list[Group], rest: Mapping[Any, Any]) -> None:
        """Find the weight of each group, and of each tensor that replaces one."""
        for group in groups:
            found = self._names.of_module(group.module)
            if len(found) != 1:
                self._lost += group.keys
                self._tell(group.module, found)
            elif found[0] in self.groups:
                self._wrong[group.module] = f"another pair for {found[0]}; split the adapters"
            else:
                self.groups[found[0]] = group
        for key, value in rest.items():
            name = self._names.of_tensor(str(key))
            if name is None or not is_tensor(value):
                self._lost.append(str(key))
            elif kind_of(value) != kind_of(self.base[name]) or kind_of(value) != FLOAT:
                self._wrong[str(key)] = f"{kind_of(value)}, in the base {kind_of(self.base[name])}"
            elif tuple(value.shape) != tuple(self.base[name].shape):
                shapes = tuple(value.shape), tuple(self.base[name].shape)
                self._wrong[str(key)] = f"shape {shapes[0]}, in the base {shapes[1]}"
            else:
                self.replaced[name] = value

    def _tell(self, module: str, found: list[str]) -> None:
        # Names that are close take a while to find: of those that a message shows only.
        close = self._names.close_to(module) if len(self._close) < _LISTED else []
        names = ", ".join(printable(name, 120) for name in (found or close)[:3])
        said = f"may be any of {names}" if found else f"close: {names}" if close else "no such name"
        self._close.append(f"{printable(module, 120)}: {said}")

    def pair(self, name: str, group: Group, strength: float, alpha: float | None) -> Pair | None:
        """What is added to the weight `name`; None with a line in the report."""
        said = self._unfit(name, group)
        if said is None and alpha is None:
            alpha = self._alpha(group)
            if alpha is None:
                said = "its alpha is not told; give alpha=, the lora_alpha of adapter_config.json"
        if said is not None:
            self._wrong[group.module] = said
            return None
        assert alpha is not None
        parts = group.parts
        embedding = "embedding_down" in parts
        up, magnitude = parts["embedding_up" if embedding else "up"], parts.get("magnitude")
        factor = self.config.factor(alpha, up.shape[1])
        return Pair(
            parts["embedding_down" if embedding else "down"],
            up,
            factor if magnitude is not None else factor * strength,
            mid=parts.get("mid"),
            transposed=self._is_transposed(name, group),
            magnitude=magnitude,
            strength=strength,
        )

    def _alpha(self, group: Group) -> float | None:
        told = group.parts.get("alpha")
        if told is not None:
            if is_tensor(told) and Flat(told).numel != 1:
                return None
            return finite(Flat(told).read(0, 1)[0] if is_tensor(told) else told, "alpha")
        if group.peft:
            return self.config.alpha_of(group.module)
        return float(group.parts["down"].shape[0])

    def _unfit(self, name: str, group: Group) -> str | None:
        """What is wrong with a group for its weight, in words."""
        parts, weight = group.parts, self.base[name]
        if "dora_scale" in parts:
            return "dora_scale is not read; merge it by the program that made it"
        two = [n for n in parts if n not in ("alpha", "magnitude", "mid")]
        if sorted(two) not in (["down", "up"], ["embedding_down", "embedding_up"]):
            return f"only {', '.join(group.keys)}; a pair is needed"
        tensors = [parts[part] for part in parts if part != "alpha"]
        if not all(is_tensor(t) and kind_of(t) == FLOAT for t in (weight, *tensors)):
            return f"{name} and its pair must be of floats, and {name} is {kind_of(weight)}"
        down, up = (tuple(parts[part].shape) for part in sorted(two))
        fits = self._fits(name, group)
        if not fits:
            return f"{down} and {up} do not fit {tuple(weight.shape)} of {name}"
        if "magnitude" in parts:
            if "embedding_down" in parts or fits == "transposed":
                return "DoRA of an embedding or a transposed weight is not read; merge it in PEFT"
            if math.prod(parts["magnitude"].shape) != weight.shape[0]:
                return f"a magnitude of {parts['magnitude'].shape} for {weight.shape[0]} rows"
        return None

    def _is_transposed(self, name: str, group: Group) -> bool:
        return self._fits(name, group) == "transposed"

    def _fits(self, name: str, group: Group) -> str:
        """ "straight" or "transposed", as the pair fits the weight; "" if it does not."""
        parts, shape = group.parts, tuple(self.base[name].shape)
        embedding = "embedding_down" in parts
        down = tuple(parts["embedding_down" if embedding else "down"].shape)
        up = tuple(parts["embedding_up" if embedding else "up"].shape)
        if min(map(len, (shape, down, up))) < 2 or not up[1] or math.prod(up[2:]) != 1:
            return ""
        out, rank, columns = up[0], up[1], math.prod(down[1:])
        if "mid" in parts:
            mid = tuple(parts["mid"].shape)
            if math.prod(down[2:]) != 1 or mid[:2] != (rank, down[0]):
                return ""
            columns *= math.prod(mid[2:])
        elif down[0] != rank:
            return ""
        ways = {
            "straight": shape[0] == out and math.prod(shape[1:]) == columns,
            "transposed": len(shape) == 2 and shape == (columns, out) and "mid" not in parts,
        }
        if embedding:
            return "transposed" if ways["transposed"] else ""
        if self.config.fan_in_fan_out and ways["transposed"]:
            return "transposed"
        return "straight" if ways["straight"] else ""

    def check(self, lora: StateDict) -> None:
        """Raise one error for all that found no place or does not fit."""
        if not (self._lost or self._wrong):
            return
        lines = [*self._close, *(f"{printable(n, 120)}: {s}" for n, s in self._wrong.items())]
        if len(lines) > _LISTED:
            lines[_LISTED:] = [f"and {len(lines) - _LISTED:,} more"]
        raise MismatchError(
            f"{_called(lora, 'the LoRA')} does not fit {_called(self.base, 'the base')};"
            " nothing was computed",
            evidence=lines,
            hint="rename what is called otherwise, and leave out what is of another model",
            unexpected_keys=self._lost,
            mismatched=self._wrong,
        )
