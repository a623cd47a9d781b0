# SPDX-License-Identifier: Apache-2.0
"""Run the fuzz targets under libFuzzer: python fuzz/run.py [options] [TARGET]...

Builds every target with clang, runs it for some seconds of CPU over a corpus that is kept,
makes the corpus small, and prints a table: seconds, executions, features, how much of the
core is covered by the corpus, and what was found.  Exits 1 if anything was found.  A run
that was cut short goes on where it was: what earlier ones took counts.

    apt-get install clang libclang-rt-14-dev llvm-14
    python fuzz/run.py --seconds 3600 --work ~/fuzzing
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FUZZ, CORE = ROOT / "fuzz", ROOT / "csrc" / "core"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))

FLAGS = ["-std=c11", "-O1", "-g", f"-I{CORE}"]
CHECKED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COUNTED = ["-fprofile-instr-generate", "-fcoverage-mapping"]

#: Seconds after which a run is noted, so that it may be cut short.
TURN = 300


def tool(name: str) -> str:
    """A tool of LLVM, which Debian names with a version."""
    for candidate in (name, *(f"{name}-{version}" for version in range(22, 13, -1))):
        if shutil.which(candidate):
            return candidate
    sys.exit(f"{name} is missing: apt-get install clang libclang-rt-14-dev llvm-14")


def call(*command: str | pathlib.Path, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", **options
    )  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return str(done.stdout)


def build(work: pathlib.Path, targets: list[str]) -> None:
    """Each target twice: to find faults, and to count what the corpus reaches."""
    clang = tool("clang")
    for kind, core, main in (
        ("find", [*CHECKED, "-fsanitize=fuzzer-no-link"], ["-fsanitize=fuzzer"]),
        ("count", COUNTED, [str(FUZZ / "driver.c")]),
    ):
        objects = work / kind
        objects.mkdir(parents=True, exist_ok=True)
        sources = [str(path) for path in sorted(CORE.glob("*.c"))]
        call(clang, *FLAGS, *core, "-c", *sources, cwd=objects)
        made = sorted(map(str, objects.glob("*.o")))
        for target in targets:
            source = str(FUZZ / f"fuzz_{target}.c")
            call(clang, *FLAGS, *core, *main, source, *made, "-o", objects / f"fuzz_{target}")


def total_of(work: pathlib.Path, target: str) -> pathlib.Path:
    """Where it stands what a run took so far; gone when all its targets are done."""
    return work / "totals" / f"{target}.json"


def spent() -> float:
    """Seconds of CPU of all children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def turn(work: pathlib.Path, target: str, seconds: int) -> tuple[int, int]:
    """Run a target for some seconds of the clock: (executions, features)."""
    corpus, found = work / "corpus" / target, work / "found"
    words = FUZZ / f"{target}.dict"
    words = words if words.exists() else FUZZ / "pickle.dict"
    command = [
        work / "find" / f"fuzz_{target}", f"-max_total_time={seconds}", "-max_len=16384",
        "-timeout=20", "-rss_limit_mb=4096", f"-dict={words}",
        f"-artifact_prefix={found}/{target}-", "-print_final_stats=1", corpus,
        work / "seeds" / target,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
    (work / f"{target}.log").write_text(done.stderr, encoding="utf-8")
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    features = re.findall(r"\bft: (\d+)", done.stderr)
    return int(executions[-1]) if executions else 0, int(features[-1]) if features else 0


def fuzz(work: pathlib.Path, target: str, seconds: int) -> dict[str, object]:
    """Run a target until it took its seconds, then keep the smallest corpus that reaches as
    much.
    """
    corpus, found = work / "corpus" / target, work / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    kept = total_of(work, target)
    kept.parent.mkdir(exist_ok=True)
    total = {"seconds": 0.0, "executions": 0, "features": 0}
    if kept.exists():
        total = json.loads(kept.read_text(encoding="utf-8"))
    while (left := seconds - total["seconds"]) > 0 and not any(found.glob(f"{target}-*")):
        before = spent()
        executions, features = turn(work, target, min(int(left) + 1, TURN))
        if executions == 0 and not any(found.glob(f"{target}-*")):
            sys.exit(f"{target} did not run: {work / f'{target}.log'}")
        total["seconds"] += spent() - before
        total["executions"] += executions
        total["features"] = max(total["features"], features)
        kept.write_text(json.dumps(total), encoding="utf-8")
    program, small = work / "find" / f"fuzz_{target}", work / "small" / target
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    subprocess.run(
        [str(program), "-merge=1", str(small), str(corpus), str(work / "seeds" / target)],
        capture_output=True,
    )
    if any(small.iterdir()):
        shutil.rmtree(corpus)
        small.rename(corpus)
    return {
        **total,
        "inputs": sum(1 for _ in corpus.iterdir()),
        "found": sorted(path.name for path in found.glob(f"{target}-*")),
    }


def profile(work: pathlib.Path, target: str) -> pathlib.Path:
    """What the corpus of a target reaches, as LLVM counts it."""
    raw = work / "count" / f"{target}.profraw"
    call(
        work / "count" / f"fuzz_{target}", work / "corpus" / target,
        env={**os.environ, "LLVM_PROFILE_FILE": str(raw)},
    )  # fmt: skip
    return raw


def covered(work: pathlib.Path, targets: list[str], raw: list[pathlib.Path]) -> str:
    """The share of the core's lines and branches, as "lines / branches"."""
    data = work / "count" / "all.profdata"
    call(tool("llvm-profdata"), "merge", "-sparse", *raw, "-o", data)
    programs = [str(work / "count" / f"fuzz_{target}") for target in targets]
    objects = [part for program in programs[1:] for part in ("-object", program)]
    told = json.loads(
        call(
            tool("llvm-cov"), "export", "-summary-only", f"-instr-profile={data}",
            programs[0], *objects, *sorted(CORE.glob("*.c")), *sorted(CORE.glob("*.h")),
        )
    )  # fmt: skip
    total = told["data"][0]["totals"]
    return f"{total['lines']['percent']:.1f} / {total['branches']['percent']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=180, help="of CPU, of each target (180)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("fuzzing"),
                        help="where the corpus is kept (./fuzzing)")  # fmt: skip
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    targets = options.targets or TARGETS
    if not set(targets) <= set(TARGETS):
        parser.error(f"no such target; there are {', '.join(TARGETS)}")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    call(sys.executable, FUZZ / "seeds.py", work / "seeds")
    build(work, targets)
    print(
        "| target | seconds | executions | features | corpus | lines / branches of the core, % "
        "| found |"
    )
    print("|---|---|---|---|---|---|---|")
    raw: list[pathlib.Path] = []
    found: list[str] = []
    for target in targets:
        told = fuzz(work, target, options.seconds)
        raw.append(profile(work, target))
        found += told["found"]  # type: ignore[operator]
        share = covered(work, [target], raw[-1:])
        print(
            f"| {target} | {told['seconds']:,.0f} | {told['executions']:,} "
            f"| {told['features']:,} | {told['inputs']:,} | {share} | {len(told['found'])} |",  # type: ignore[arg-type]
            flush=True,
        )
    print(f"| together | | | | | {covered(work, targets, raw)} | {len(found)} |")
    for target in targets:
        total_of(work, target).unlink(missing_ok=True)
    for name in found:
        print(f"found: {work / 'found' / name}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
