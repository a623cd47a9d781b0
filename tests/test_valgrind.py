# SPDX-License-Identifier: Apache-2.0
"""A whole session under valgrind: no invalid access and no lost memory of ours.

CPython, NumPy and the loader have their own noise: an error counts when a frame of the
extension stands in its stack.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from isolated import run
from isolated.scenarios import make_files

from pystatedict import _core

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
    pytest.mark.skipif(run.SANITIZED, reason="a sanitizer watches already"),
]


#: From 3.12 on an interned text lives for ever, and at the end nobody knows it any more.
INTERNING = (
    {"PyUnicode_InternFromString", "PyDict_SetItemString", "PyObject_GetAttrString"}
    if sys.version_info >= (3, 12)
    else set()
)
MAKING_TEXT = {
    None,  # without symbols
    *("malloc", "PyUnicode_New", "unicode_decode_utf8", "descr_new", "PyDescr_NewMethod"),
    *("PyDescr_NewGetSet", "type_add_method", "type_add_methods", "type_add_getset"),
    *(
        "type_ready",
        "type_ready_fill_dict",
        "_PyType_FromMetaclass_impl",
        "PyType_FromModuleAndSpec",
    ),
}

#: Something lost through the extension on purpose.
LEAK = """
import ctypes, pathlib, sys
from pystatedict import _core
archive = _core.open_archive(_core.Source(pathlib.Path(sys.argv[1], "weights.pth").read_bytes()))
ctypes.pythonapi.Py_IncRef(ctypes.py_object(archive))
print("done")
"""


def watch(folder: pathlib.Path, *script: str) -> list[str]:
    """The errors that valgrind tells of with the extension in their stack, as text."""
    make_files(folder)
    report = folder / "report.xml"
    command = ["valgrind", "--leak-check=full", "--show-leak-kinds=definite", "--num-callers=40",
               "--xml=yes", f"--xml-file={report}"]  # fmt: skip
    done = subprocess.run(
        [*command, sys.executable, *script, str(folder)],
        # Each object is a block of its own, so that none hides another's end.
        env=run.environment(PYTHONMALLOC="malloc"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"
    return [told for error in ET.parse(report).iter("error") if (told := describe(error))]


def describe(error: ET.Element) -> str | None:
    """Kind and frames of an error of ours; None of others'."""
    ours = os.path.realpath(_core.__file__)
    frames = list(error.iter("frame"))
    mine = [os.path.realpath(frame.findtext("obj", "")) == ours for frame in frames]
    if True not in mine:
        return None
    inner = {frame.findtext("fn") for frame in frames[: mine.index(True)]}
    if inner & INTERNING and inner <= INTERNING | MAKING_TEXT:
        return None
    stack = (f"{f.findtext('fn', '?')} ({f.findtext('file', '?')}:{f.findtext('line', '?')})"
             for f in frames[:20])  # fmt: skip
    return "\n  ".join((error.findtext("kind", "?"), *stack))


def test_a_session(tmp_path: pathlib.Path) -> None:
    assert watch(tmp_path, str(run.HERE / "session.py")) == []


def test_a_leak_is_seen(tmp_path: pathlib.Path) -> None:
    told = watch(tmp_path, "-c", LEAK)
    assert told
    assert all(text.startswith("Leak_DefinitelyLost") for text in told)
