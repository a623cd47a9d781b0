"""Values of the standard library in a pickle: paths, dates, exact numbers, namespaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pystatedict._checks import Untold, expect, raw_bytes, tell, wrong
from pystatedict._opaque import Unbuilt

# Python itself spells and reads integers of so many digits, not of more.
_DIGITS_MOST = 4300


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

        tell(isinstance(state, (bytes, str)))
        data = raw_bytes(state, size, f"datetime.{kind}")
        # A zone of another library tells its offsets by code that nobody runs here.
        tell(tz is None or isinstance(tz, datetime.tzinfo))
        try:
            make_one = getattr(datetime, kind)
            made = make_one(data) if tz is None else make_one(data, tz)
            # Python believes the bytes; numbers it checks.
            told = {name: getattr(made, name) for name in _PARTS if hasattr(made, name)}
            return make_one(**told)
        except (TypeError, ValueError):
            raise wrong(f"datetime.{kind}", "a day or hour that does not exist") from None

    return make


_PARTS = ("year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo", "fold")


def make_timedelta(*parts: Any) -> Any:
    import datetime

    known = len(parts) <= 3 and all(type(p) in (int, float) for p in parts)
    expect(known, "datetime.timedelta")
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


def make_zone(key: Any = None, from_cache: Any = None) -> Any:
    """A zone by its name, out of this machine's own database of zones.

    Nothing is imported to find it, so one that is not on the database's paths stays an
    Opaque, as it does on a machine that has none.
    """
    import os
    import re
    import zoneinfo

    expect(isinstance(key, str) and type(from_cache) in (int, bool), "zoneinfo.ZoneInfo")
    tell(re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}", key, re.ASCII) is not None)
    tell(any(os.path.isfile(os.path.join(path, key)) for path in zoneinfo.TZPATH))
    try:
        return zoneinfo.ZoneInfo(key) if from_cache else zoneinfo.ZoneInfo.no_cache(key)
    except (OSError, ValueError, LookupError):
        raise Untold from None  # a file there that is no zone


def make_decimal(text: Any = "0") -> Any:
    import decimal

    expect(isinstance(text, str), "decimal.Decimal")
    try:
        return decimal.Decimal(text, decimal.Context(traps=[decimal.InvalidOperation]))
    except decimal.InvalidOperation:
        raise wrong("decimal.Decimal", "text that is no number") from None


def make_fraction(*parts: Any) -> Any:
    import fractions
    import re

    if len(parts) == 1 and isinstance(parts[0], str):
        found = re.fullmatch(r"(-?[0-9]+)(?:/([0-9]+))?", parts[0])
        expect(found is not None, "fractions.Fraction")
        digits = [digit for digit in found.groups() if digit] if found else []
        tell(all(len(digit) <= _DIGITS_MOST for digit in digits))
        parts = (*map(int, digits), 1)[:2]
    expect(len(parts) == 2 and all(type(p) is int for p in parts), "fractions.Fraction")
    expect(parts[1] != 0, "fractions.Fraction", "a denominator of zero")
    return fractions.Fraction(*parts)


def make_namespace(*args: Any) -> Any:
    import argparse

    expect(not args, "argparse.Namespace")
    return argparse.Namespace()


def make_simple_namespace(*args: Any) -> Any:
    import types

    expect(not args, "types.SimpleNamespace")
    return types.SimpleNamespace()


class UnbuiltUUID(Unbuilt):
    """A UUID until its state tells its number."""

    __slots__ = ()

    def build(self, state: Any) -> Any:
        import uuid

        number = state.get("int") if isinstance(state, dict) else None
        expect(type(number) is int and 0 <= number < 1 << 128, "uuid.UUID")
        safe = state.get("is_safe")
        tell(safe is None or type(safe) is int)
        try:
            return uuid.UUID(int=number, is_safe=uuid.SafeUUID(safe))
        except ValueError:
            raise wrong("uuid.UUID", "a safety that does not exist") from None


def make_uuid(*args: Any) -> Any:
    return UnbuiltUUID("uuid", "UUID", args)
