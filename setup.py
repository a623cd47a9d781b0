# SPDX-License-Identifier: Apache-2.0
"""The one extension.  All metadata is in pyproject.toml.

Switches, read from the environment:

    PYSTATEDICT_DEBUG=1             no optimisation, symbols, assertions on
    PYSTATEDICT_SANITIZE=LIST       as for -fsanitize=, e.g. address,undefined
    PYSTATEDICT_COVERAGE=1          counters for gcov
    PYSTATEDICT_WERROR=1            many warnings, each an error
"""

import os
import sys
import sysconfig

import numpy
from setuptools import Extension, setup

CORE = [
    "archive_described",
    "archive_read",
    "archive_safetensors",
    "archive_stream",
    "archive_tar",
    "archive_write",
    "archive_zip",
    "arena",
    "buffer",
    "crc32",
    "crc32_blocks",
    "dtype",
    "error",
    "hash",
    "input",
    "names",
    "pickle_call",
    "pickle_emit",
    "pickle_fetch",
    "pickle_memo",
    "pickle_read",
    "pickle_rebuild",
    "pickle_scalar",
    "pickle_survey",
    "pickle_text",
    "pickle_write",
    "safetensors_json",
    "safetensors_read",
    "stream_read",
    "stream_write",
    "tar_read",
    "torch_class",
    "torch_composite",
    "torch_embedded",
    "torch_known",
    "torch_model",
    "torch_module",
    "torch_packed",
    "torch_quantized",
    "torch_read",
    "torch_storage",
    "torch_version",
    "torch_walk",
    "torch_window",
    "torch_write",
    "value",
    "zip_end",
    "zip_index",
    "zip_locate",
    "zip_read",
    "zip_salvage",
    "zip_write",
]

BINDING = [
    "py_archive",
    "py_array",
    "py_cost",
    "py_describe",
    "py_error",
    "py_file",
    "py_info",
    "py_look",
    "py_memo",
    "py_module",
    "py_pages",
    "py_read",
    "py_scan",
    "py_sink",
    "py_source",
    "py_storage",
    "py_supply",
    "py_tree",
    "py_write",
    "py_write_array",
]

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wvla",
    "-Wcast-align",
    "-Wpointer-arith",
    "-Werror",
]


def switch(name: str) -> str:
    value = os.environ.get("PYSTATEDICT_" + name, "")
    return "" if value == "0" else value


# The stable ABI of 3.11, which buffers entered: one wheel for all later versions.
# Free-threaded builds refuse the limited API up to 3.14.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

macros: list[tuple[str, str | None]] = [
    # Built on NumPy 2, running on 1.26 too.
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    ("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION"),
]
if abi3:
    macros.append(("Py_LIMITED_API", "0x030b0000"))

undefine: list[str] = []
compile_args: list[str] = []
link_args: list[str] = []

if sys.platform == "win32":
    compile_args += ["/std:c11"]
else:
    compile_args += ["-std=c11", "-fvisibility=hidden"]
    if switch("DEBUG"):
        compile_args += ["-O0", "-g3"]
        undefine += ["NDEBUG"]
    elif switch("COVERAGE"):
        compile_args += ["-O0", "-g", "--coverage"]
        link_args += ["--coverage"]
    elif switch("SANITIZE"):
        compile_args += ["-O1", "-g"]
    else:
        compile_args += ["-O3", "-g0"]
    if switch("SANITIZE"):
        sanitize = "-fsanitize=" + switch("SANITIZE")
        compile_args += [sanitize, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        link_args += [sanitize]
    if switch("WERROR"):
        compile_args += WARNINGS

core = Extension(
    "pystatedict._core",
    sources=[f"csrc/core/{name}.c" for name in CORE]
    + [f"csrc/python/{name}.c" for name in BINDING],
    include_dirs=["csrc/core", "csrc/python", numpy.get_include()],
    define_macros=macros,
    undef_macros=undefine,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    py_limited_api=abi3,
)

# Compiled anew each time: setuptools looks neither at headers nor at switches.
options: dict[str, dict[str, object]] = {"build_ext": {"force": True}}
if abi3:
    options["bdist_wheel"] = {"py_limited_api": "cp311"}

setup(ext_modules=[core], options=options)
