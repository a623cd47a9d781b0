# SPDX-License-Identifier: Apache-2.0
"""Every error says what, where and what to do; and is an old friend too."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest

from pystatedict import _errors
from pystatedict._core import LIMITS
from pystatedict._errors import (
    HINTS,
    LIMIT_NAMES,
    NO_HINTS,
    ChecksumError,
    ClosedError,
    CorruptError,
    LimitError,
    MismatchError,
    MissingTensorError,
    NotACheckpointError,
    SidecarError,
    StaleSidecarError,
    StateDictError,
    StateDictWarning,
    TruncatedError,
    UnsafePickleError,
    UnsupportedError,
    from_core,
)
from pystatedict._printable import printable

SOURCES = Path(__file__).parents[1] / "csrc"
HEADER = next(SOURCES.rglob("error.h")).read_text()
STATUSES = re.findall(r'X\((\w+), "([\w-]+)", (\w+)\)', HEADER)
CLASSES = [
    getattr(_errors, name)
    for name in _errors.__all__
    if issubclass(getattr(_errors, name), StateDictError)
]
FRIENDS = [
    (NotACheckpointError, ValueError),
    (CorruptError, ValueError),
    (TruncatedError, (CorruptError, EOFError)),
    (ChecksumError, CorruptError),
    (UnsafePickleError, ValueError),
    (UnsupportedError, NotImplementedError),
    (LimitError, ValueError),
    (ClosedError, ValueError),
    (MissingTensorError, KeyError),
    (MismatchError, ValueError),
    (SidecarError, ValueError),
    (StaleSidecarError, SidecarError),
]
# A terminal's escape, a line break, a right-to-left override, a lone surrogate.
HOSTILE = "a\x1b[31m\nb\u202ec\udc80"
ESCAPED = "a\\x1b[31m\\nb\\u202ec\\udc80"


@pytest.mark.parametrize(("error", "friends"), FRIENDS)
def test_each_is_an_old_friend(error, friends):
    friends = friends if isinstance(friends, tuple) else (friends,)
    assert all(issubclass(error, friend) for friend in (StateDictError, *friends))


def test_friends_of_all_classes_are_tested():
    assert {error for error, _ in FRIENDS} == set(CLASSES) - {StateDictError}
    assert issubclass(StateDictWarning, UserWarning)


@pytest.mark.parametrize("error", [*CLASSES, StateDictWarning])
def test_docstrings_say_when_and_what_to_do(error):
    assert error.__doc__ and len(error.__doc__) > 40
    assert error.__doc__ is not error.__mro__[1].__doc__


def test_text_names_the_file_then_evidence_then_one_hint():
    error = CorruptError(
        "the directory contradicts itself",
        entry="archive/data/0",
        offset=1234567,
        key="fc.weight",
        evidence=["found 1, expected 2"],
        hint="get it again",
    )
    assert str(error).splitlines()[0] == "the directory contradicts itself"
    error.path = Path("model.pth")
    assert str(error).splitlines() == [
        "'model.pth': the directory contradicts itself",
        "  record 'archive/data/0', at byte 1,234,567",
        "  name: 'fc.weight'",
        "  found 1, expected 2",
        "  hint: get it again",
    ]


def test_an_error_without_facts_is_one_line():
    assert str(StateDictError("it did not work")) == "it did not work"
    assert str(SidecarError()) == "SidecarError"
    assert str(CorruptError("bad", hint="")) == "bad"


def test_numbers_are_readable():
    assert "found 9,768 bytes, expected 16,384" in str(
        TruncatedError("short", expected=16384, actual=9768)
    )
    assert "stored 00000001, computed 9b02c1aa" in str(
        ChecksumError("bits", stored=1, computed=0x9B02C1AA)
    )
    assert "found 1,000, allowed 64" in str(LimitError("many", limit=64, value=1000))


def test_a_missing_name_is_printed_without_the_quotes_of_keyerror():
    error = MissingTensorError("no tensor 'a.mpl'", key="a.mpl", suggestions=["a.mlp", "b.mlp"])
    assert str(error).splitlines()[:2] == ["no tensor 'a.mpl'", "  close: 'a.mlp', 'b.mlp'"]
    assert isinstance(error, KeyError)


@pytest.mark.parametrize(
    "error",
    [
        CorruptError(HOSTILE),
        CorruptError("x", path=HOSTILE),
        CorruptError("x", entry=HOSTILE),
        CorruptError("x", key=HOSTILE),
        CorruptError("x", hint=HOSTILE),
        CorruptError("x", evidence=[HOSTILE]),
        UnsafePickleError("x", globals=[HOSTILE]),
        MissingTensorError("x", suggestions=[HOSTILE]),
        MismatchError("x", missing_keys=[HOSTILE]),
        MismatchError("x", unexpected_keys=[HOSTILE]),
        MismatchError("x", mismatched=[HOSTILE]),
        from_core("pickle", "corrupt", "x", None, HOSTILE.encode("utf-8", "replace"), b"", 1, 2),
        from_core("storage", "corrupt", "x", None, b"", b"\xff\x1b", 1, 2),
    ],
)
def test_what_comes_from_the_file_is_escaped(error):
    text = str(error)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "\\x1b" in text
    assert len(text.splitlines()) <= 4


def test_printable():
    assert printable("layers.0.weight ∑ 重み") == "layers.0.weight ∑ 重み"
    assert printable(HOSTILE) == ESCAPED
    assert printable(printable(HOSTILE)) == ESCAPED
    assert printable(b"ok\xff\x00") == "ok\\xff\\x00"
    assert printable("\U000e0041\u2066\x85") == "\\U000e0041\\u2066\\x85"
    assert printable("abcdefghij", 5) == "ab…ij"
    assert printable("abcde", 5) == "abcde"
    assert len(printable("\x1b" * 100, 20)) == 20


def test_thousands_of_names_stay_below_ten_lines():
    names = [f"layer.{i}.{'x' * 500}" for i in range(10_000)]
    for error in (
        MismatchError("x", missing_keys=names, unexpected_keys=names, mismatched=names),
        UnsafePickleError("x", globals=names),
        MissingTensorError("x", suggestions=names),
    ):
        assert len(str(error).splitlines()) < 10
        assert len(str(error)) < 5000
        assert "9,995 more" in str(error)


def _samples():
    common = {
        "code": "code",
        "path": "p",
        "hint": "h",
        "entry": "e",
        "offset": 7,
        "key": "k",
        "evidence": ("v",),
    }
    special = {
        NotACheckpointError: {"identified": "html"},
        TruncatedError: {"expected": 1, "actual": 2},
        ChecksumError: {"stored": 1, "computed": 2},
        UnsafePickleError: {"globals": ("os.system",)},
        LimitError: {"limit": 1, "value": 2, "name": "rank"},
        MissingTensorError: {"suggestions": ("a",)},
        MismatchError: {
            "missing_keys": ["a"],
            "unexpected_keys": ["b"],
            "mismatched": ["c"],
        },
    }
    for error in CLASSES:
        yield error("sentence", **common, **special.get(error, {}))


@pytest.mark.parametrize("error", list(_samples()), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_errors_cross_processes_with_all_attributes(error, again):
    error.add_note("a note")
    twin = again(error)
    assert type(twin) is type(error)
    assert twin.__dict__ == error.__dict__
    assert twin.args == error.args
    assert str(twin) == str(error)
    assert (twin.code, twin.path, twin.hint) == ("code", "p", "h")
    assert (twin.entry, twin.offset, twin.key, twin.evidence) == ("e", 7, "k", ("v",))


# ---------------------------------------------------------------------------- the core


def test_the_table_of_statuses_was_found():
    assert len(STATUSES) > 20
    assert ("CRC", "checksum", "CHECKSUM") in STATUSES


@pytest.mark.parametrize(("name", "code", "family"), STATUSES)
def test_every_status_becomes_its_exception(name, code, family):
    error = from_core(code, family.lower(), "a sentence", 12, b"a/data.pkl", b"k", 3, 4)
    expected = {
        "MEMORY": MemoryError,
        "ARGUMENT": ValueError,
        "FOREIGN": NotACheckpointError,
        "CORRUPT": CorruptError,
        "TRUNCATED": TruncatedError,
        "CHECKSUM": ChecksumError,
        "UNSAFE": UnsafePickleError,
        "UNSUPPORTED": UnsupportedError,
        "LIMIT": LimitError,
    }.get(family, StateDictError)
    assert type(error) is expected
    if not isinstance(error, StateDictError):
        return
    assert (error.code, error.entry, error.offset) == (code, "a/data.pkl", 12)
    assert (error.hint is not None) == (code not in NO_HINTS), f"a hint for {name}?"
    assert re.search(r"0*3\b.*0*4\b|0*4\b.*0*3\b", str(error).replace("'a/data.pkl'", ""))


def test_every_status_has_a_hint_or_is_known_to_need_none():
    for _, code, _ in STATUSES:
        assert (code in HINTS) != (code in NO_HINTS), code


def test_facts_of_the_core_reach_their_attributes():
    error = from_core("checksum", "checksum", "x", None, b"", b"", 5, 6)
    assert (error.stored, error.computed) == (6, 5)
    error = from_core("truncated", "truncated", "x", None, b"", b"", 5, 6)
    assert (error.actual, error.expected) == (5, 6)
    error = from_core("limit", "limit", "too many records", None, b"", b"", 5, 6)
    assert (error.value, error.limit, error.name) == (5, 6, "entries")
    assert "'entries'" in error.hint
    fixed = next(sentence for sentence, name in LIMIT_NAMES.items() if not name)
    assert from_core("limit", "limit", fixed, None, b"", b"", 5, 6).hint is None
    error = from_core("storage", "corrupt", "x", None, b"", b"12", None, None)
    assert (error.key, error.entry, error.offset, error.evidence) == ("12", None, None, ())
    error = from_core("x", "unsafe", "x", None, b"", b"os.system", None, None)
    assert error.globals == ("os.system",)


def test_every_sentence_about_a_limit_names_its_bound():
    said = set()
    for source in SOURCES.rglob("*.c"):
        said |= set(re.findall(r'PSD_LIMIT,[^;"]*"([^"]+)"', source.read_text()))
    assert said, "no sentence found"
    assert said == said & LIMIT_NAMES.keys()
    assert {name for name in LIMIT_NAMES.values() if name} <= set(LIMITS)


# ------------------------------------------------------------------------------- hints


def test_hints_name_the_file_once_it_is_known():
    error = UnsafePickleError("x", code="dangerous-global")
    assert "`pystatedict scan FILE`" in error.hint
    error.path = "w.pth"
    assert "`pystatedict scan 'w.pth'`" in error.hint
    error.hint = None
    assert error.hint is None


def test_an_own_code_falls_back_on_the_hint_of_its_class():
    assert CorruptError("x", code="of-my-own").hint == HINTS["corrupt"]
    assert CorruptError("x", code="of-my-own", hint="").hint is None


def test_no_hint_advises_to_lower_the_guard():
    for code, hint in HINTS.items():
        if "weights_only=False" in hint:
            assert "do not" in hint, code
        assert len(hint) < 160, code
