# SPDX-License-Identifier: Apache-2.0
"""The include ladder of docs/architecture.md, held as a list.

A file includes only files of lower rungs, or of its own room.  A new file must
be given its place here before anything passes.
"""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"

# rung -> room -> the files of the room.  A header that is not the room's name
# belongs to the room alone.
LADDER: list[dict[str, list[str]]] = [
    {
        "base": ["base.h"],
    },
    {
        "error": ["error.h", "error.c"],
        "bounds": ["bounds.h"],
        "text": ["text.h"],
        "hash": ["hash.h", "hash.c"],
    },
    {
        "arena": ["arena.h", "arena.c"],
    },
    {
        "buffer": ["buffer.h", "buffer.c"],
        "input": ["input.h", "input.c"],
        "names": ["names.h", "names.c"],
    },
    {
        "value": ["value.h", "value.c"],
        "dtype": ["dtype.h", "dtype.c"],
        "crc32": ["crc32.h", "crc32.c", "crc32_blocks.c", "crc32_powers.h"],
    },
    {
        "pickle": [
            "pickle.h",
            "pickle_call.c",
            "pickle_emit.c",
            "pickle_emit.h",
            "pickle_fetch.c",
            "pickle_machine.h",
            "pickle_memo.c",
            "pickle_memo.h",
            "pickle_read.c",
            "pickle_rebuild.c",
            "pickle_scalar.c",
            "pickle_survey.c",
            "pickle_survey.h",
            "pickle_text.c",
            "pickle_text.h",
            "pickle_write.c",
        ],
        "zip": [
            "zip.h",
            "zip_end.c",
            "zip_format.h",
            "zip_index.c",
            "zip_locate.c",
            "zip_read.c",
            "zip_salvage.c",
            "zip_write.c",
        ],
        "tar": ["tar.h", "tar_read.c"],
        "safetensors": [
            "safetensors.h",
            "safetensors_json.c",
            "safetensors_json.h",
            "safetensors_read.c",
        ],
    },
    {
        "stream": ["stream.h", "stream_read.c", "stream_write.c"],
        "torch": [
            "torch.h",
            "torch_class.c",
            "torch_class.h",
            "torch_composite.c",
            "torch_embedded.c",
            "torch_known.c",
            "torch_known.h",
            "torch_model.c",
            "torch_module.c",
            "torch_packed.c",
            "torch_pass.h",
            "torch_quantized.c",
            "torch_read.c",
            "torch_storage.c",
            "torch_version.c",
            "torch_walk.c",
            "torch_walk.h",
            "torch_window.c",
            "torch_write.c",
        ],
    },
    {
        "archive": [
            "archive.h",
            "archive_described.c",
            "archive_parts.h",
            "archive_read.c",
            "archive_safetensors.c",
            "archive_stream.c",
            "archive_tar.c",
            "archive_write.c",
            "archive_zip.c",
        ],
    },
]

BINDING = [
    "py_archive.c",
    "py_array.c",
    "py_cost.c",
    "py_describe.c",
    "py_error.c",
    "py_file.c",
    "py_info.c",
    "py_look.c",
    "py_memo.c",
    "py_module.c",
    "py_module.h",
    "py_pages.c",
    "py_read.c",
    "py_scan.c",
    "py_sink.c",
    "py_source.c",
    "py_storage.c",
    "py_supply.c",
    "py_tree.c",
    "py_write.c",
    "py_write_array.c",
    "py_writer.h",
]

# Of the core, the binding sees the face, the pool, and the checksum it exports.
BINDING_SEES = {"archive.h", "value.h", "torch.h", "crc32.h", "error.h", "bounds.h", "hash.h"}

# What the core may ask of the host's C library: memory blocks, types, limits.
HOSTED = {
    "assert.h",
    "float.h",
    "locale.h",  # the decimal point that strtod expects
    "limits.h",
    "math.h",
    "stdbool.h",
    "stddef.h",
    "stdint.h",
    "stdlib.h",
    "string.h",
    # intrinsics, behind the processor's own macros
    "arm_acle.h",
    "asm/hwcap.h",
    "cpuid.h",
    "immintrin.h",
    "intrin.h",
    "sys/auxv.h",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)

RUNG = {
    name: number for number, rung in enumerate(LADDER) for files in rung.values() for name in files
}
ROOM = {name: room for rung in LADDER for room, files in rung.items() for name in files}


def includes(path: pathlib.Path) -> list[tuple[str, str]]:
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def faults_of_core(name: str, found: list[tuple[str, str]]) -> list[str]:
    """What is wrong with the includes of one file of the core."""
    faults = []
    for quote, target in found:
        if quote == "<":
            if target not in HOSTED:
                faults.append(f"{name} includes <{target}>")
        elif target not in RUNG:
            faults.append(f"{name} includes {target}, which has no place on the ladder")
        elif ROOM[target] == ROOM[name]:
            continue
        elif RUNG[target] >= RUNG[name]:
            faults.append(f"{name} (rung {RUNG[name]}) looks up to {target} ({RUNG[target]})")
        elif target != ROOM[target] + ".h":
            faults.append(f"{name} includes {target}, private to {ROOM[target]}")
    return faults


def names(folder: pathlib.Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix in {".c", ".h"}}


def test_every_file_has_its_place() -> None:
    assert names(CSRC / "core") == set(RUNG)
    assert names(CSRC / "python") == set(BINDING)


@pytest.mark.parametrize("name", sorted(RUNG))
def test_core_looks_only_down(name: str) -> None:
    assert faults_of_core(name, includes(CSRC / "core" / name)) == []


@pytest.mark.parametrize("name", BINDING)
def test_binding_sees_the_face_of_the_core(name: str) -> None:
    seen = {t for quote, t in includes(CSRC / "python" / name) if quote == '"'}
    assert seen - BINDING_SEES <= {"py_module.h", "py_writer.h"}


def test_numpy_in_one_file() -> None:
    knowing = [
        path.name
        for path in sorted((CSRC / "python").iterdir())
        if any("numpy" in target for _, target in includes(path))
    ]
    assert knowing == ["py_array.c"]


@pytest.mark.parametrize(
    "line",
    [
        '#include "archive.h"',  # up
        '#include "crc32.h"',  # beside: a neighbour of value
        '#include "crc32_powers.h"',
        '#include "nowhere.h"',
        "#include <stdio.h>",
        "  # include <Python.h>",
        "#include <numpy/arrayobject.h>",
    ],
)
def test_a_wrong_include_is_found(line: str) -> None:
    assert faults_of_core("value.h", INCLUDE.findall(line)) != []


def test_another_rooms_private_header_is_found() -> None:
    assert faults_of_core("archive.h", [('"', "pickle_memo.h")]) != []
    assert faults_of_core("archive.h", [('"', "pickle.h")]) == []


def test_setup_names_every_source() -> None:
    """The lists of setup.py are written by hand; none may be forgotten."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in {"CORE", "BINDING"}
    }
    assert {n + ".c" for n in lists["CORE"]} == {n for n in RUNG if n.endswith(".c")}
    assert {n + ".c" for n in lists["BINDING"]} == {n for n in BINDING if n.endswith(".c")}


def test_every_c_source_names_its_licence() -> None:
    for folder in ("csrc/core", "csrc/python", "tests/c", "fuzz", "benchmarks"):
        for path in sorted((ROOT / folder).glob("*.[ch]")):
            head = path.read_text(encoding="utf-8")
            assert head.startswith("/* SPDX-License-Identifier: Apache-2.0"), path


@pytest.mark.parametrize("path", sorted((CSRC / "core").glob("*.c")), ids=lambda p: p.name)
def test_no_pointer_is_taken_for_another(path: pathlib.Path) -> None:
    """A T * is no void *: psd_grow() is given a void * of its own, never `(void **)&items`."""
    assert "(void **)" not in path.read_text(encoding="utf-8")
