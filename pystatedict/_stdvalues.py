"""Values of the standard library in a pickle: paths, dates, exact numbers, namespaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pystatedict._checks import expect, raw_bytes, wrong


def make_path(name: str) -> Callable[..., Any]:
    def make(*parts: Any) -> Any:
        import pathlib

        expect(all(isinstance(part, str) for part in parts), f"pathlib.{name}")
        windows = "Windows" in name
        pure = pathlib.PureWindowsPath if windows else pathlib.PurePosixPath
        here = (pathlib.WindowsPath if windows else pathlib.PosixPath) if _native(windows) else pure
        return (pure if name.startswith("Pure") else here)(*parts)

    return make


def _native(windows: bool) -> bool:
    import os

    return (os.name == "nt") == windows


def make_datetime(kind: str, size: int) -> Callable[..., Any]:
    def make(state: Any = None, tz: Any = None) -> Any:
        import datetime

        data = raw_bytes(state) if isinstance(state, str) else state
        expect(isinstance(data, bytes) and len(data) == size, f"datetime.{kind}")
        expect(tz is None or isinstance(tz, datetime.tzinfo), f"datetime.{kind}")
        try:
            make_one = getattr(datetime, kind)
            return make_one(data) if tz is None else make_one(data, tz)
        except (TypeError, ValueError):
            raise wrong(f"datetime.{kind}", "a day or hour that does not exist") from None

    return make


def make_timedelta(*parts: Any) -> Any:
    import datetime

    expect(len(parts) <= 3 and all(isinstance(p, (int, float)) for p in parts), "timedelta")
    try:
        return datetime.timedelta(*parts)
    except (OverflowError, ValueError):
        raise wrong("datetime.timedelta", "a span that is too long") from None


def make_timezone(offset: Any = None, name: Any = None) -> Any:
    import datetime

    expect(isinstance(offset, datetime.timedelta), "datetime.timezone")
    expect(name is None or isinstance(name, str), "datetime.timezone")
    try:
        return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)
    except ValueError:
        raise wrong("datetime.timezone", "an offset of more than a day") from None


def make_decimal(text: Any = "0") -> Any:
    import decimal

    expect(isinstance(text, str) and len(text) < 5000, "decimal.Decimal")
    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise wrong("decimal.Decimal", "text that is no number") from None


def make_fraction(*parts: Any) -> Any:
    import fractions

    if len(parts) == 1 and isinstance(parts[0], str) and len(parts[0]) < 5000:
        top, _, bottom = parts[0].partition("/")
        digits = top.lstrip("-").isdigit() and (not bottom or bottom.isdigit())
        expect(digits, "fractions.Fraction")
        parts = (int(top), int(bottom or 1))
    expect(len(parts) == 2 and all(isinstance(p, int) for p in parts), "fractions.Fraction")
    expect(parts[1] != 0, "fractions.Fraction", "a denominator of zero")
    return fractions.Fraction(*parts)


def make_namespace(*args: Any) -> Any:
    import argparse

    expect(not args, "Namespace")
    return argparse.Namespace()


def make_simple_namespace(*args: Any) -> Any:
    import types

    expect(not args, "SimpleNamespace")
    return types.SimpleNamespace()


def build_uuid(state: Any) -> Any:
    import uuid

    number = state.get("int") if isinstance(state, dict) else None
    expect(type(number) is int and 0 <= number < 1 << 128, "uuid.UUID")
    return uuid.UUID(int=number)
