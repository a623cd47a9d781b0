# SPDX-License-Identifier: Apache-2.0
"""The core alone: built by the system's compiler, tested plain and sanitized, looked into."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORE = ROOT / "csrc" / "core"
SOURCES = sorted(CORE.glob("*.c"))
TESTS = sorted((ROOT / "tests" / "c").glob("test_*.c"))

CC = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = shlex.split(
    "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wvla -Wundef"
    " -Wcast-align -Werror"
)
OF_TESTS = ["-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g"]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which(CC[0]) is None,
    reason="no C compiler of the POSIX kind",
)


def environment(**extra: str) -> dict[str, str]:
    """Ours, without a sanitizer that was loaded into Python itself."""
    env = {k: v for k, v in os.environ.items() if k not in {"LD_PRELOAD", "ASAN_OPTIONS"}}
    return env | extra


def run(
    command: list[str], cwd: pathlib.Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment() if env is None else env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeed(command: list[str], cwd: pathlib.Path, env: Mapping[str, str] | None = None) -> str:
    done = run(command, cwd, env)
    if done.returncode != 0:
        said = done.stdout[-4000:] + done.stderr[-8000:]
        pytest.fail(f"{shlex.join(command)}\nexit {done.returncode}\n{said}", pytrace=False)
    return done.stdout


def compile_objects(folder: pathlib.Path, *flags: str) -> list[str]:
    """Every source of the core by one line, as a user without our build would."""
    command = [*CC, "-std=c11", *flags, f"-I{CORE}", "-c", *map(str, SOURCES)]
    succeed(command, folder)
    return sorted(str(p) for p in folder.glob("*.o"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return compile_objects(tmp_path_factory.mktemp("plain"), "-O2", *WARNINGS)


def compile_sanitized(folder: pathlib.Path, *flags: str) -> list[str]:
    (folder / "probe.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
    if run([*CC, *SANITIZE, "probe.c", "-o", "probe"], folder).returncode != 0:
        pytest.skip("this compiler has no sanitizers")
    (folder / "probe").unlink()
    return compile_objects(folder, *SANITIZE, *flags)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return compile_sanitized(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(scope="module")
def without_pages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sanitized, and each taking from an arena is an allocation of its own.

    So each fails in its turn, and reading beyond one is noticed.
    """
    return compile_sanitized(tmp_path_factory.mktemp("pages"), "-DPSD_ARENA_PAGE=0")


def build_test(test: pathlib.Path, objects: list[str], out: pathlib.Path, *flags: str) -> str:
    program = str(out / test.stem)
    command = [*CC, "-std=c11", *OF_TESTS, *flags, f"-I{CORE}", f"-I{test.parent}"]
    succeed([*command, str(test), *objects, "-lm", "-o", program], out)
    return program


def expect_all_passed(output: str) -> None:
    last = output.strip().splitlines()[-1]
    found = re.fullmatch(r"(\d+) passed, 0 failed", last)
    assert found is not None, output[-4000:]
    assert int(found[1]) > 0


def test_there_are_tests() -> None:
    assert len(TESTS) >= 8


@pytest.mark.parametrize("test", TESTS, ids=lambda t: t.stem)
def test_plain(test: pathlib.Path, plain: list[str], tmp_path: pathlib.Path) -> None:
    expect_all_passed(succeed([build_test(test, plain, tmp_path, "-O1", "-g")], tmp_path))


def check_sanitized(test: pathlib.Path, objects: list[str], out: pathlib.Path) -> None:
    program = build_test(test, objects, out, *SANITIZE)
    env = environment(ASAN_OPTIONS="detect_leaks=1:allocator_may_return_null=1")
    expect_all_passed(succeed([program], out, env))


@pytest.mark.parametrize("test", TESTS, ids=lambda t: t.stem)
def test_sanitized(test: pathlib.Path, sanitized: list[str], tmp_path: pathlib.Path) -> None:
    check_sanitized(test, sanitized, tmp_path)


#: All but the one that tells how large an arena's pages are.
WITHOUT_PAGES = [t for t in TESTS if t.stem != "test_arena"]


@pytest.mark.parametrize("test", WITHOUT_PAGES, ids=lambda t: t.stem)
def test_without_pages(
    test: pathlib.Path, without_pages: list[str], tmp_path: pathlib.Path
) -> None:
    check_sanitized(test, without_pages, tmp_path)


@pytest.mark.valgrind
@pytest.mark.skipif(
    os.environ.get("PYSTATEDICT_VALGRIND") != "1" or shutil.which("valgrind") is None,
    reason="slow: set PYSTATEDICT_VALGRIND=1 where valgrind is installed",
)
@pytest.mark.parametrize("test", TESTS, ids=lambda t: t.stem)
def test_valgrind(test: pathlib.Path, plain: list[str], tmp_path: pathlib.Path) -> None:
    program = build_test(test, plain, tmp_path, "-O1", "-g")
    command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full"]
    expect_all_passed(succeed([*command, program], tmp_path))


def test_threads(tmp_path: pathlib.Path) -> None:
    """One archive read by many threads, and many archives at once, under ThreadSanitizer."""
    (tmp_path / "probe.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
    # Without a fixed layout of the address space this sanitizer may not find its place.
    start = ["setarch", "-R"] if shutil.which("setarch") else []
    flags = ["-fsanitize=thread", "-O1", "-g", "-std=c11", *OF_TESTS, f"-I{CORE}"]
    if (
        run([*CC, *flags, "probe.c", "-o", "probe"], tmp_path).returncode != 0
        or run([*start, "./probe"], tmp_path).returncode != 0
    ):
        pytest.skip("this compiler has no ThreadSanitizer")
    source = ROOT / "tests" / "c" / "threads.c"
    objects = [str(path) for path in SOURCES]
    succeed([*CC, *flags, str(source), *objects, "-lm", "-pthread", "-o", "threads"], tmp_path)
    said = succeed([*start, "./threads", str(ROOT / "examples" / "tutorial.pth")], tmp_path)
    assert said == "8 threads, all the same\n"


#: Big-endian; another of 64 bits; one of 32.  What qemu calls them, and Debian's compiler.
MACHINES = {
    "s390x": "s390x-linux-gnu-gcc",
    "aarch64": "aarch64-linux-gnu-gcc",
    "i386": "i686-linux-gnu-gcc",
}


@pytest.mark.skipif(
    os.environ.get("PYSTATEDICT_MACHINES") != "1",
    reason="slow: set PYSTATEDICT_MACHINES=1 where qemu-user and Debian's cross compilers are",
)
@pytest.mark.parametrize("machine", MACHINES)
def test_other_machines(machine: str, tmp_path: pathlib.Path) -> None:
    compiler = [MACHINES[machine], "-std=c11", "-O2", "-g", "-static", f"-I{CORE}"]
    succeed([*compiler, *WARNINGS, "-c", *map(str, SOURCES)], tmp_path)
    objects = sorted(str(path) for path in tmp_path.glob("*.o"))
    for test in TESTS:
        command = [*compiler, *OF_TESTS, f"-I{test.parent}", str(test), *objects]
        succeed([*command, "-lm", "-o", test.stem], tmp_path)
        expect_all_passed(succeed([f"qemu-{machine}", f"./{test.stem}"], tmp_path))


def test_compiles_by_one_plain_line(tmp_path: pathlib.Path) -> None:
    command = "cc -std=c11 -Icsrc/core -c csrc/core/*.c"
    for path in sorted(CORE.iterdir()):
        (tmp_path / "csrc" / "core").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "csrc" / "core")
    if shutil.which("cc") is None:
        pytest.skip("no cc by that name")
    succeed(["sh", "-c", command], tmp_path)
    assert len(list(tmp_path.glob("*.o"))) == len(SOURCES)


@pytest.mark.parametrize("header", sorted(CORE.glob("*.h")), ids=lambda h: h.name)
def test_header_stands_alone(header: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "alone.c").write_text(f'#include "{header.name}"\n', encoding="utf-8")
    flags = [w for w in WARNINGS if w != "-Wpedantic"] + ["-Wno-unused-function"]
    succeed([*CC, "-std=c11", *flags, f"-I{CORE}", "-fsyntax-only", "alone.c"], tmp_path)


def symbols(objects: list[str], *flags: str) -> list[tuple[str, str]]:
    """(type letter, name) of each symbol."""
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    listing = succeed(["nm", *flags, *objects], ROOT)
    rows = (line.split() for line in listing.splitlines())
    # Mach-O puts an underscore before every name.
    prefix = "_" if sys.platform == "darwin" else ""
    return [(row[-2], row[-1].removeprefix(prefix)) for row in rows if len(row) >= 2]


def test_names_begin_with_psd(plain: list[str]) -> None:
    defined = symbols(plain, "-g", "--defined-only")
    names = {name for letter, name in defined if letter.isupper()}
    assert len(names) > 30
    assert [n for n in sorted(names) if not n.startswith("psd_")] == []


def test_no_writable_data(tmp_path: pathlib.Path) -> None:
    """No state: b, d, c and their global forms are variables.

    At fixed addresses, since in code that can be moved the loader fills in constant
    tables of pointers, and nm then calls them data.
    """
    defined = symbols(compile_objects(tmp_path, "-fno-pic", "-fno-pie"), "--defined-only")
    assert len(defined) > 100
    assert [(t, n) for t, n in defined if t in "bBdDcCsSgG"] == []


def test_core_asks_little_of_its_host(plain: list[str]) -> None:
    """No files, no printing, no exit, no malloc behind the host's back."""
    allowed = {
        "abort",
        "memchr",
        "memcmp",
        "memcpy",
        "memmove",
        "memset",
        "strchr",
        "strlen",
        "localeconv",
        "strtod",
        "qsort",
        "getauxval",
        "__assert_fail",
        "__stack_chk_fail",
        "_GLOBAL_OFFSET_TABLE_",
    }
    wanted = {name for _, name in symbols(plain, "-u")}
    foreign = {n for n in wanted if not n.startswith(("psd_", "__cpu_", "__mem", "__aarch64"))}
    assert sorted(foreign - allowed) == []


def test_extension_exports_only_its_init() -> None:
    core = pytest.importorskip("pystatedict._core")
    if sys.platform != "linux":
        pytest.skip("the linker's names differ")
    exported = {name for letter, name in symbols([core.__file__], "-D", "--defined-only")}
    # gcov and the sanitizers leave names of their own in such builds.
    ours = {n for n in exported if not n.startswith(("__gcov", "mangle_path", "__asan", "__odr"))}
    assert ours == {"PyInit__core"}
