# SPDX-License-Identifier: Apache-2.0
"""What a TorchScript archive would run while torch.jit.load reads it.

Objects whose class has a __setstate__ are restored by it, so what it can reach runs at
once: no method of the model need be called.  TorchScript itself reaches no module of
Python, but its operators can write and map files (aten::save, aten::from_file), and those
of libraries read files, open connections and more.  Names are compared as text, within
all that __setstate__ can reach; nothing is compiled or run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pystatedict import _core
from pystatedict._errors import LimitError, UnsafePickleError
from pystatedict._globals import verdict, words
from pystatedict._jsonrecords import Records
from pystatedict._scriptcode import TEXTS_MOST, ScriptCode, is_packaged, unescaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystatedict._opened import Archive

_HOOK = "__setstate__"


# Operators that reach files, processes or other machines, and Python's names for the same,
# which no program of torch's own has.
_DANGEROUS = words(
    "save load from_file read_file write_file rpc_async rpc_sync rpc_remote load_library "
    "os sys subprocess builtins eval exec system popen __import__"
)
# Libraries of operators that compute, and no more.
_COMPUTING = words(
    "aten prim quantized _quantized quantized_decomposed rnn sparse prepacked xnnpack mkldnn "
    "mkldnn_prepacked onednn mkl metal metal_prepack vulkan vulkan_prepack profiler "
    "static_runtime mobile"
)

_DEF = re.compile(
    r"^(?:class\s+(?P<owner>\w+)|(?P<indent>[^\S\n]*)def\s+(?P<name>\w+))", re.MULTILINE
)
_HEAD_END = re.compile(r":[^\S\n]*(?:#[^\n]*)?\n")
# A string that does not end takes the rest of its line, so that none is looked at twice.
_TOKEN = re.compile(
    r'"(?P<double>(?:[^"\\\n]|\\[\s\S])*)"?'
    r"|'(?P<single>(?:[^'\\\n]|\\[\s\S])*)'?"
    r"|#[^\n]*"
    r"|(?P<chain>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)"
)
_ANY_CHAIN = re.compile(r"(?P<chain>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)")


def check_script(archive: Archive) -> None:
    """Refuse a script that runs more than arithmetic while it is loaded; nothing else.

    Raises UnsafePickleError.
    """
    if archive.kind != "torchscript" and not is_packaged(archive):
        return
    code = ScriptCode(archive)
    if code.size > TEXTS_MOST:
        raise LimitError(
            "the script has more source text than is looked at: what it runs while it is loaded"
            " cannot be told",
            limit=TEXTS_MOST,
            value=code.size,
            hint='load(f, dangerous="opaque") reads its tensors and runs nothing',
        )
    records = Records(archive, archive.prefix)
    if code.empty and "model.json" not in records.index:
        raise UnsafePickleError(
            "constants.pkl sends torch.load to the reader of TorchScript, and the archive has"
            " no source texts: it is no script",
            code="dangerous-global",
            entry=archive.prefix + "constants.pkl",
        )
    beside = archive.record.removesuffix("data.pkl") if is_packaged(archive) else ""
    for record in ("constants.pkl", "attributes.pkl"):
        _check_pickle(records, beside + record)
    named = sorted(set(_reached_dangers(code)))
    if named:
        raise UnsafePickleError(
            "a class of the script runs code while it is loaded that reaches beyond its own"
            " tensors; nothing was run",
            code="dangerous-global",
            globals=named,
        )


def _check_pickle(records: Records, record: str) -> None:
    """What torch.jit.save writes there is plain, or an object of the script's classes."""
    archive, index = records.archive, records.index.get(record)
    if index is None:
        return
    named, _, _, error, *_ = _core.scan_pickle(archive.read(index))
    if error is not None:
        raise error
    refused = [
        f"{module}.{name}"
        for module, name, *_ in named
        if verdict(module, name) != "plain" and not f"{module}.".startswith("__torch__.")
    ]
    if refused:
        raise UnsafePickleError(
            f"{record} asks for code while loading; nothing was run",
            code="dangerous-global",
            entry=archive.prefix + record,
            globals=refused,
        )


# ------------------------------------------------------------------ what can be reached


def _reached_dangers(code: ScriptCode) -> Iterator[str]:
    """Names within reach of any __setstate__ that do more than compute."""
    texts = [text for _, text in code.texts()]
    if not any(_HOOK in text for text in texts):
        return
    units: dict[str, list[tuple[str, int, int]]] = {}
    owned: dict[str, list[str]] = {}
    for text in texts:
        for owner, name, start, end in _units(text):
            units.setdefault(name, []).append((text, start, end))
            owned.setdefault(owner, []).append(name)
    todo = [_HOOK]
    seen = {_HOOK, ""}
    while todo:
        reached = todo.pop()
        names = list(owned.get(reached, ()))
        for text, start, end in units.get(reached, ()):
            for chain in _chains(text, start, end):
                danger = _danger(chain)
                if danger is not None:
                    yield danger
                names += chain
        for name in names:
            if name not in seen and (name in units or name in owned):
                seen.add(name)
                todo.append(name)


def _units(text: str) -> Iterator[tuple[str, str, int, int]]:
    """(class or "", name, start, end) of each function or method, its head left out.

    A class is reached as a whole: who makes an object of it runs what it likes.
    """
    found = list(_DEF.finditer(text))
    if _many_lined(text) or any(match["indent"] not in (None, "", "  ") for match in found):
        yield "", _HOOK, 0, len(text)  # not as torch prints it: all may be within reach
        return
    owner = ""
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        if match["owner"] is not None:
            owner = match["owner"]
            continue
        owner = owner if match["indent"] else ""
        head = _HEAD_END.search(text, match.end(), end)
        # The head names types, its own class among them, and calls nothing.
        yield owner, match["name"], head.end() if head else match.end(), end


def _many_lined(text: str) -> bool:
    """Are there strings of many lines?  torch prints none, and they could hide code."""
    return '"""' in text or "'''" in text


def _chains(text: str, start: int, end: int) -> Iterator[list[str]]:
    """Dotted names as their parts; the contents of strings too, which getattr may take."""
    pattern = _ANY_CHAIN if _many_lined(text[start:end]) else _TOKEN
    for match in pattern.finditer(text, start, end):
        if match["chain"] is not None:
            yield [part.strip() for part in match["chain"].split(".")]
        elif match["double"] is not None or match["single"] is not None:
            content = unescaped(match["double"] or match["single"] or "")
            if content in _DANGEROUS or content.isidentifier():
                yield [content]


def _danger(chain: list[str]) -> str | None:
    """The name as it is to be told, where it does more than compute."""
    dotted = ".".join(chain)
    if not _DANGEROUS.isdisjoint(chain):
        return dotted
    first = chain[0]
    if chain in (["torch"], ["ops"], ["__torch__"], ["__torch__", "torch"]):
        return dotted  # under another name nobody sees what is taken from it
    if first == "ops" and chain[1] not in _COMPUTING:
        return dotted
    if chain[:3] == ["__torch__", "torch", "classes"] and (
        len(chain) < 4 or chain[3] not in _COMPUTING
    ):
        return dotted
    return None
