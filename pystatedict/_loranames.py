# SPDX-License-Identifier: Apache-2.0
"""Names of LoRA tensors: which belong together, and which weight of a model they change.

PEFT writes ``base_model.model.<module>.lora_A.weight``, kohya's scripts
``lora_unet_<module>.lora_down.weight`` with underscores for the module's dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PEFT = re.compile(
    r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.([^.]+))??(?:\.(weight|bias))?",
    re.DOTALL,
)
_KOHYA = re.compile(r"(.+)\.(?:lora_(down|up|mid)\.weight|(alpha|dora_scale))", re.DOTALL)
_ROLES = {
    "A": "down", "B": "up", "embedding_A": "embedding_down", "embedding_B": "embedding_up",
    "magnitude_vector": "magnitude", "down": "down", "up": "up", "mid": "mid", "alpha": "alpha",
    "dora_scale": "dora_scale",
}  # fmt: skip

#: What one program puts before the names of a model and another leaves away.
_WRAPPERS = (
    "base_model.model", "base_model", "model", "module", "unet", "transformer", "text_encoder",
    "text_encoder_2", "language_model", "diffusion_model", "model.diffusion_model",
)  # fmt: skip
_KOHYA_PREFIX = re.compile(r"lora_(?:[A-Za-z0-9]+_)?")


class Group:
    """The LoRA tensors of one module.

    Attributes:
        module: the module as the names spell it.
        peft: by PEFT's names, whose alpha stands in a file of its own.
        parts: {"down", "up", "mid", "alpha", ...: tensor}.
        keys: the names of those.
    """

    __slots__ = ("keys", "module", "parts", "peft")

    def __init__(self, module: str, peft: bool) -> None:
        self.module = module
        self.peft = peft
        self.parts: dict[str, Any] = {}
        self.keys: list[str] = []


def grouped(lora: Mapping[Any, Any]) -> tuple[list[Group], dict[Any, Any]]:
    """(the modules that LoRA tensors speak of, what is none of those)."""
    groups: dict[tuple[str, str | None], Group] = {}
    rest: dict[Any, Any] = {}
    extras: list[tuple[str, str, str, Any]] = []
    for key, value in lora.items():
        found = _PEFT.fullmatch(str(key))
        if found is not None and found[4] != "bias":
            module, role, peft, adapter = found[1], _ROLES[found[2]], True, found[3]
        else:
            found = _KOHYA.fullmatch(str(key))
            if found is None:
                rest[key] = value
                continue
            module, role, peft, adapter = found[1], _ROLES[found[2] or found[3]], False, None
            if found[3]:
                extras.append((module, role, str(key), value))
                continue
        group = groups.setdefault((module, adapter), Group(module, peft))
        group.parts[role] = value
        group.keys.append(str(key))
    by_module = {group.module: group for group in groups.values()}
    for module, role, key, value in extras:
        if module in by_module:
            by_module[module].parts[role] = value
            by_module[module].keys.append(key)
        else:
            rest[key] = value
    return list(groups.values()), rest


class Names:
    """The names of a model's tensors, to be found by what others call them."""

    def __init__(self, names: Iterable[Any]) -> None:
        self._names = [name for name in names if isinstance(name, str)]
        self._known = set(self._names)
        self._flat: dict[str, list[str]] = {}
        for name in self._names:
            for module in {name.removesuffix(".weight"), name.removesuffix(".base_layer.weight")}:
                self._flat.setdefault(module.replace(".", "_"), []).append(name)

    def of_module(self, module: str) -> list[str]:
        """The weights that a module of this name may have: one, none, or too many."""
        for form in _forms(module):
            for ending in (".weight", ".base_layer.weight", ""):
                if form + ending in self._known:
                    return [form + ending]
        if "." in module:
            return []
        for stem in (module, _KOHYA_PREFIX.sub("", module, count=1), module.removeprefix("lora_")):
            for form in (stem, *(f"{w}_{stem}".replace(".", "_") for w in _WRAPPERS)):
                if form in self._flat:
                    return self._flat[form]
        return []

    def of_tensor(self, name: str) -> str | None:
        """The tensor that a module saved as a whole replaces."""
        plain = re.sub(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)", "", name)
        return next((form for form in _forms(plain) if form in self._known), None)

    def close_to(self, module: str) -> list[str]:
        """Names that look like it, for a message."""
        from difflib import get_close_matches

        plain = _KOHYA_PREFIX.sub("", module, count=1) if "." not in module else module
        spelled = {name.removesuffix(".weight"): name for name in self._names[:2000]}
        if "." not in plain:
            spelled = {short.replace(".", "_"): name for short, name in spelled.items()}
        plain = plain.removeprefix("base_model.model.")
        return [spelled[short] for short in get_close_matches(plain, list(spelled), 2)]


def _forms(name: str) -> Iterator[str]:
    """A name as it is, without what a program put before it, and with it."""
    name = name.removeprefix("base_model.model.")
    yield name
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper + "."):
            yield name[len(wrapper) + 1 :]
    for wrapper in _WRAPPERS:
        yield f"{wrapper}.{name}"
