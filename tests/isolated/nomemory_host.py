# SPDX-License-Identifier: Apache-2.0
"""As nomemory.py, with the interpreter's allocator: what the extension asks of CPython
(lists, numbers, text) fails once at every place.

    python nomemory_host.py FOLDER

Only calls of the extension are tried, on things made before: CPython and NumPy have
failures of their own.  From 3.12 on a generator expression for which there is no memory
crashes the interpreter, so calls that run the package's Python code are left out there.
Prints {call: {"tries": n, "wrong": [...]}}.
"""

from __future__ import annotations

import _testcapi
import gc
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from scenarios import make_files, training, weights

from pystatedict import _core, _errors, _values
from pystatedict._reduce import Reducer

ENOUGH = 30  # successes in a row: no allocation is left to fail


def calls(folder: pathlib.Path) -> dict[str, Callable[[], Any]]:
    """What is tried; each gives something to compare, or None."""

    def source(name: str) -> Any:
        return _core.Source((folder / name).read_bytes())

    names = ("weights", "training", "meeting", "deflated", "broken")
    files = {name: source(f"{name}.pth") for name in names}
    archives = {name: _core.open_archive(held) for name, held in files.items() if name != "broken"}
    big = _core.open_archive(source("big.pth"))
    reducer = Reducer()
    plain, nested = weights(), training()
    nested["words"] = nested["scalar"] = None  # what NumPy itself pickles
    flags = {id(array): (3, None) for array in plain.values()}
    info = archives["weights"].info(0, "name")
    program = b"\x80\x02cos\nsystem\nC\x04\x80\x02K\x01\x85R."

    def shapes(obj: Any) -> Any:
        return [getattr(value, "shape", None) for value in obj.values()]

    def write(obj: Any, **options: Any) -> Callable[[], Any]:
        return lambda: _core.write(obj, taken, reducer, **options)

    def taken(_: memoryview) -> None:
        return None

    def failing() -> Any:
        try:
            return _core.open_archive(files["broken"])
        except _errors.CorruptError as error:
            return error.code

    def closed() -> Any:
        archive = _core.open_archive(files["weights"])
        archive.close()
        try:
            return archive.read(0)
        except _errors.ClosedError:
            return "closed"

    return {
        "open": lambda: _core.open_archive(files["weights"]).tensor_count,
        "open deflated": lambda: _core.open_archive(files["deflated"]).tensor_count,
        "open broken": failing,
        "closed": closed,
        "load": lambda: shapes(archives["weights"].load(0, _values)),
        "load copy": lambda: shapes(archives["weights"].load(0, _values, copy=True)),
        "load meta": lambda: shapes(archives["weights"].load(0, _values, meta=True)),
        "load deflated": lambda: shapes(archives["deflated"].load(0, _values)),
        "load big-endian": lambda: shapes(big.load(0, _values)),
        "load training": lambda: len(archives["training"].load(0, _values)),
        "tensors": lambda: list(archives["training"].tensors()),
        "shapes": archives["training"].shapes,
        "names that meet": lambda: list(archives["meeting"].tensors()),
        "direct": lambda: list(archives["weights"].direct()),
        "children": lambda: len(archives["training"].children()),
        "globals": archives["training"].globals,
        "records": archives["training"].records,
        "read": lambda: archives["deflated"].read(0),
        "verify": lambda: archives["deflated"].verify(0),
        "crc32": lambda: archives["deflated"].crc32(0),
        "info": lambda: (info.shape, info.stride, info.dtype, info.device, repr(info)),
        "numpy": lambda: info.numpy().shape,
        "scan_pickle": lambda: _core.scan_pickle(program)[:3],
        "write": write(plain),
        "write parameters": write(plain, parameters=flags),
        "write training": write(nested),
        "crc32_kernels": _core.crc32_kernels,
    }


def sweep(call: Callable[[], Any]) -> dict[str, Any]:
    expected = call()
    call()
    n, quiet = 0, 0
    wrong: list[Any] = []
    while quiet < ENOUGH and len(wrong) < 20:
        n += 1
        print(n, file=sys.stderr, flush=True)
        problem: BaseException | None = None
        result: Any = None
        _testcapi.set_nomemory(n - 1, n)  # the n-th from now
        try:
            result = call()
        except BaseException as error:
            problem = error
        finally:
            _testcapi.remove_mem_hooks()
        if problem is None:
            quiet += 1
            if result != expected:
                wrong.append([n, repr(result)])
        else:
            quiet = 0
            if not isinstance(problem, MemoryError):
                wrong.append([n, repr(problem)])
    if call() != expected:
        wrong.append([0, "another result afterwards"])
    return {"tries": n - quiet, "wrong": wrong}


def main(folder: pathlib.Path) -> None:
    make_files(folder)
    told = {}
    for name, call in calls(folder).items():
        if sys.version_info >= (3, 12) and name.startswith(("load", "write")):
            continue
        print(name, file=sys.stderr, flush=True)
        told[name] = sweep(call)
        gc.collect()
    print(json.dumps(told))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
