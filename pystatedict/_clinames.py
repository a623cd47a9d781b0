# SPDX-License-Identifier: Apache-2.0
"""Options that change names and choose tensors, which `rename` and `edit` have in common."""

from __future__ import annotations

from ._errors import StateDictError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ._clioptions import Parser


class NameArguments:
    """Defaults of what add_names() adds; steps are done in the order in which they are given."""

    steps: Sequence[tuple[str, str]] = ()


def add_names(parser: Parser) -> None:
    import argparse

    class Step(argparse.Action):
        def __call__(self, _: Any, namespace: Any, values: Any, option: str | None = None) -> None:
            namespace.steps = [*namespace.steps, (self.const, values)]

    for option, metavar, text in (
        ("--strip", "PREFIX", "take a prefix away, such as module."),
        ("--add", "PREFIX", "put a prefix before every name"),
        ("--replace", "PATTERN=TEXT", "a regular expression, and what its matches become"),
        ("--name", "OLD=NEW", "give one tensor another name"),
    ):
        parser.add_argument(
            option,
            action=Step,
            dest="steps",
            const=option,
            metavar=metavar,
            help=text + "; may be repeated",
        )


def renaming(arguments: NameArguments) -> Callable[[Any], Any]:
    """What does the steps, one after another."""
    from . import ops

    def change(sd: Any) -> Any:
        for option, value in arguments.steps:
            if option == "--strip":
                sd = ops.strip_prefix(sd, value)
            elif option == "--add":
                sd = ops.add_prefix(sd, value)
            else:
                old, new = _pair(option, value)
                sd = (
                    ops.rename(sd, old, new)
                    if option == "--replace"
                    else ops.rename(sd, {old: new})
                )
        return sd

    return change


def _pair(option: str, text: str) -> tuple[str, str]:
    old, sign, new = text.partition("=")
    if not sign or not old:
        raise StateDictError(f"{option} takes two texts with = between them", code="usage")
    if option == "--replace":
        import re

        try:
            re.compile(old)
        except re.error as error:
            raise StateDictError(
                f"{option}: no regular expression: {error}", code="usage"
            ) from None
    return old, new
