# SPDX-License-Identifier: Apache-2.0
"""The package under atheris, which is guided by the coverage of its Python code.

    pip install atheris
    python fuzz/seeds.py seeds
    python fuzz/fuzz_python.py -max_total_time=600 -dict=fuzz/pickle.dict corpus seeds/archive

The promises are those of tests/test_fuzz.py: see judge() in tests/isolated/fuzzing.py.  What
is found is left in crash-*, and `python tests/isolated/fuzzing.py crash-...` tries it again.
"""

from __future__ import annotations

import pathlib
import random
import sys

import atheris

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "isolated"))

with atheris.instrument_imports(include=["pystatedict"]):
    import fuzzing

    from pystatedict import (  # noqa: F401 (these are imported when they are first used)
        _api,
        _checkpoint,
        _core,
        _identify,
        _integrity,
        _scan,
        _values,
    )

WHOLE = fuzzing.files()


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Records change within their archives, else the engine does as it likes."""
    chance = random.Random(seed)
    found = fuzzing.changed_records(data, chance, WHOLE) if chance.randrange(2) else None
    if found is None or len(found) > most:
        return atheris.Mutate(data, most)  # type: ignore[no-any-return]
    return found


def main() -> None:
    atheris.Setup([*sys.argv, "-max_len=49152"], fuzzing.judge, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
