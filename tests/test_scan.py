# SPDX-License-Identifier: Apache-2.0
"""scan() names what a file would import, wherever it hides, and runs none of it."""

from __future__ import annotations

import _compat_pickle
import gzip
import io
import json
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import tarfile
from typing import Any

import pytest
from scan_kit import (
    CLEAN,
    HIDDEN,
    ID,
    KEYS,
    LEGACY,
    MAGIC,
    SYS_INFO,
    SYSTEM,
    TAR,
    array_file,
    hidden_record,
    payload,
    tarred,
    zipped,
)

from pystatedict._errors import NotACheckpointError, StateDictError, UnsupportedError
from pystatedict._globals import _MODULES, _NAMES, normalise, verdict
from pystatedict._scan import GlobalUse, ScanReport, scan


@pytest.mark.parametrize("place", HIDDEN)
def test_a_dangerous_name_is_found(place):
    report = scan(HIDDEN[place])
    assert report.verdict == "dangerous"
    systems = {use.verdict for use in report if re.search(r"\bsystem$|path\.os", use.name)}
    assert systems == {"dangerous"}


def test_tensors_own_bytes_are_not_taken_for_pickles():
    report = scan(zipped({"m/data.pkl": CLEAN, "m/data/0": SYSTEM, "m/.data/0.storage": SYSTEM}))
    assert report.verdict == "clean"


def test_a_use_tells_all():
    data = zipped({"m/data.pkl": CLEAN, "m/x.pkl": b"\x80\x02NcA\nB\n\x86."})
    report = scan(data)
    assert report.globals == (
        GlobalUse(True, "collections", "OrderedDict", 2, "m/data.pkl", "plain"),
        GlobalUse(False, "A", "B", 3, "m/x.pkl", "unknown"),
    )
    nested = scan(pickle.dumps([SYSTEM], 4))
    assert [use.record for use in nested] == ["pickle within"]
    assert [use.offset for use in nested] == [2]


def test_offsets_in_a_chain_count_from_the_file():
    (use,) = scan(MAGIC + ID + SYSTEM)
    assert use.offset == len(MAGIC + ID) + 2


def test_every_name_once_a_record():
    (use,) = scan(b"\x80\x02cA\nB\ncA\nB\n\x86.")
    assert (use.module, use.name) == ("A", "B")
    assert len(scan(MAGIC + ID + CLEAN + CLEAN)) == 1


# ------------------------------------------------------------------------------- verdicts


def test_clean_and_unknown():
    assert scan(TAR).verdict == "clean"
    assert scan(LEGACY).verdict == "clean"
    assert scan(LEGACY + LEGACY).verdict == "clean"
    assert scan(gzip.compress(LEGACY)).verdict == "clean"
    assert scan(zipped({"a.npy": array_file("'<f4'", bytes(4))})).verdict == "clean"
    assert scan(array_file("'|O'", pickle.dumps([1], 2))).verdict == "clean"
    assert scan(zipped({"m/data.pkl": CLEAN})).verdict == "clean"
    assert scan(b"\x80\x02cmy.models\nNet\n)\x81.").verdict == "unknown"
    assert scan(pickle.dumps({"a": 1})).verdict == "clean"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (zipped({"m/data.pkl": CLEAN[:-1]}), "m/data.pkl"),
        (zipped({"m/data.pkl": CLEAN, "m/x.PKL": b"\0"}), "m/x.PKL"),
        (b"\x80\x02]\x82\x05a.", "registry"),
        (zipped({"m/data.pkl": CLEAN, "m/../../x": b""}), "leads out"),
        (zipped({"m/data.pkl": CLEAN, "/etc/x": b""}), "leads out"),
        (zipped({"m/data.pkl": CLEAN, "m/constants.pkl": b"\x80\x02)."}), "code"),
        (tarred({"pickle": CLEAN, "../x": b""}), "leads out"),
        (zipped({"m/data.pkl": CLEAN}).replace(b"OrderedDict", b"OrderedDicx", 1), "checksum"),
        (
            zipped({"m/data.pkl": CLEAN}).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
            "encrypted",
        ),
        (MAGIC, "1 of its five"),
        (MAGIC + ID + SYS_INFO, "3 of its five"),
        (LEGACY[:-1], "storage"),
        (CLEAN + b"junk that follows", "no pickle"),
        (b"\x80\x02](]" + b"N" * 20 + b".", "left on the stack"),
        (b"\x80\x02N" + b"\x85" * 20_000 + b".", "deep"),
        (b"\x80\x02\x8b\x88\x13\0\0" + bytes(5000) + b".", "longer than allowed"),
        (pickle.dumps([1], 2)[:-2], "ends"),
        (zipped({"m/data.pkl": CLEAN, "m/x.7z": b"7z\xbc\xaf\x27\x1c" + bytes(40)}), "7-Zip"),
        (zipped({"m/data.pkl": CLEAN, "m/x.zst": b"\x28\xb5\x2f\xfd" + bytes(40)}), "Zstandard"),
        (zipped({"m/data.pkl": CLEAN, "m/x.so": b"\x7fELF" + bytes(40)}), "program"),
        (zipped({"m/data.pkl": CLEAN, "m/x.gz": gzip.compress(CLEAN)[:-12]}), "too early"),
        (zipped({"m/data.pkl": CLEAN, "m/x.gz": b"\x1f\x8b\x08" + bytes(40)}), "damaged"),
        (zipped({"m/data.pkl": CLEAN, "p/.data/extern_modules": b""}), "code"),
        (zipped({"m/data.pkl": CLEAN}) + zipped({"n/data.pkl": CLEAN})[:-1], "end"),
        (tarred({"pickle": CLEAN})[:1024] + b"x" * 512, "read on"),
        (gzip.compress(zipped({"m/data.pkl": CLEAN}))[:-30], "unpacked"),
        (hidden_record(CLEAN), "does not name"),
    ],
)
def test_what_could_not_be_looked_at_is_never_clean(data, word):
    report = scan(data)
    assert report.verdict == "unknown"
    assert any(word in error for error in report.errors), report.errors


def test_a_link_in_a_tar_is_told():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("storages")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
        entry = tarfile.TarInfo("pickle")
        entry.size = len(CLEAN)
        archive.addfile(entry, io.BytesIO(CLEAN))
    report = scan(file.getvalue())
    assert report.verdict == "unknown"
    assert "link" in report.errors[0]


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        # tensors and plain values
        ("torch._utils", "_rebuild_tensor_v2", "plain"),
        ("torch", "FloatStorage", "plain"),
        ("torch.cuda", "HalfStorage", "plain"),
        ("torch", "bfloat16", "plain"),
        ("torch.nn.parameter", "Parameter", "plain"),
        ("torch.torch_version", "TorchVersion", "plain"),
        ("torch.jit._pickle", "build_intlist", "plain"),
        ("collections", "OrderedDict", "plain"),
        ("__builtin__", "set", "plain"),
        ("__builtin__", "xrange", "plain"),
        ("__builtin__", "long", "plain"),
        ("copy_reg", "_reconstructor", "plain"),
        ("_codecs", "encode", "plain"),
        ("numpy.core.multiarray", "_reconstruct", "plain"),
        ("numpy._core.multiarray", "scalar", "plain"),
        ("numpy", "dtype", "plain"),
        ("numpy.dtypes", "Float32DType", "plain"),
        ("ml_dtypes", "bfloat16", "plain"),
        ("argparse", "Namespace", "plain"),
        ("pathlib", "PosixPath", "plain"),
        ("datetime", "datetime", "plain"),
        ("uuid", "UUID", "plain"),
        ("numpy.random._pickle", "__randomstate_ctor", "plain"),
        # classes of somebody's own, and what only helps others
        ("__main__", "Net", "unknown"),
        ("torch.nn.modules.linear", "Linear", "unknown"),
        ("torch._utilsx", "_rebuild_tensor_v2", "unknown"),
        ("os2", "system2", "unknown"),
        ("builtins", "getattr", "unknown"),
        ("__builtin__", "getattr", "unknown"),
        ("functools", "partial", "unknown"),
        ("torch.storage", "_load_from_bytes", "unknown"),  # by itself; see below
        ("logging", "getLogger", "unknown"),
        ("collections", "OrderedDict.fromkeys", "unknown"),
        ("numpy.dtypes", "a.b", "unknown"),
        ("numpy.dtypes", "private", "unknown"),
        ("inspect", "Signature", "unknown"),
        ("torch._dynamo.eval_frame", "OptimizedModule", "unknown"),
        ("my.ops", "load", "unknown"),
        ("code", "Encoder", "unknown"),
        ("trace", "Config", "unknown"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper", "unknown"),
        ("", "", "unknown"),
        # code, processes, files, connections
        ("os", "system", "dangerous"),
        ("posix", "system", "dangerous"),
        ("nt", "system", "dangerous"),
        ("os", "OrderedDict", "dangerous"),
        ("os.path", "join", "dangerous"),
        ("os\r", "system", "dangerous"),
        ("subprocess\r", "Popen", "dangerous"),
        (" os", "system", "dangerous"),
        ("os", " system", "dangerous"),
        ("subprocess", "Popen", "dangerous"),
        ("commands", "getoutput", "dangerous"),
        ("builtins", "eval", "dangerous"),
        ("__builtin__", "eval", "dangerous"),
        ("__builtin__", "apply", "dangerous"),
        ("builtins", "exec", "dangerous"),
        ("builtins", "open", "dangerous"),
        ("builtins", "__import__", "dangerous"),
        ("builtins", "breakpoint", "dangerous"),
        ("builtins", "eval.__call__", "dangerous"),
        ("importlib", "import_module", "dangerous"),
        ("importlib.util", "find_spec", "dangerous"),
        ("runpy", "_run_code", "dangerous"),
        ("operator", "attrgetter", "dangerous"),
        ("_operator", "methodcaller", "dangerous"),
        ("pickle", "loads", "dangerous"),
        ("cPickle", "loads", "dangerous"),
        ("_pickle", "loads", "dangerous"),
        ("dill._dill", "_create_function", "dangerous"),
        ("cloudpickle.cloudpickle", "_make_function", "dangerous"),
        ("joblib", "load", "dangerous"),
        ("marshal", "loads", "dangerous"),
        ("types", "CodeType", "dangerous"),
        ("types", "FunctionType", "dangerous"),
        ("socket", "create_connection", "dangerous"),
        ("urllib2", "urlopen", "dangerous"),
        ("urllib", "urlopen", "dangerous"),
        ("httplib", "HTTPSConnection", "dangerous"),
        ("requests.api", "get", "dangerous"),
        ("aiohttp.client", "ClientSession", "dangerous"),
        ("webbrowser", "open", "dangerous"),
        ("imaplib", "IMAP4_stream", "dangerous"),
        ("ctypes", "CDLL", "dangerous"),
        ("pip", "main", "dangerous"),
        ("pty", "spawn", "dangerous"),
        ("bdb", "Bdb", "dangerous"),
        ("pydoc", "pipepager", "dangerous"),
        ("_pyrepl.pager", "pipe_pager", "dangerous"),
        ("venv", "create", "dangerous"),
        ("timeit", "timeit", "dangerous"),
        ("profile", "Profile.run", "dangerous"),
        ("trace", "Trace.runctx", "dangerous"),
        ("idlelib.run", "Executive.runcode", "dangerous"),
        ("code", "InteractiveInterpreter.runcode", "dangerous"),
        ("asyncio.unix_events", "_UnixSubprocessTransport._start", "dangerous"),
        ("multiprocessing.context", "Process", "dangerous"),
        ("uuid", "_get_command_stdout", "dangerous"),
        ("logging", "FileHandler", "dangerous"),
        ("io", "open", "dangerous"),
        ("_io", "FileIO", "dangerous"),
        ("gzip", "open", "dangerous"),
        ("tempfile", "TemporaryDirectory", "dangerous"),
        ("shutil", "rmtree", "dangerous"),
        ("pathlib", "Path.write_text", "dangerous"),
        ("pathlib", "PosixPath.unlink", "dangerous"),
        ("numpy", "memmap", "dangerous"),
        ("numpy", "save", "dangerous"),
        ("numpy", "ndarray.tofile", "dangerous"),
        ("numpy.testing._private.utils", "runstring", "dangerous"),
        ("numpy.f2py.crackfortran", "getlincoef", "dangerous"),
        ("torch", "load", "dangerous"),
        ("torch", "save", "dangerous"),
        ("torch", "from_file", "dangerous"),
        ("torch", "UntypedStorage.from_file", "dangerous"),
        ("torch", "os.system", "dangerous"),
        ("torch.serialization", "os", "dangerous"),
        ("torch.serialization", "load", "dangerous"),
        ("torch.hub", "load", "dangerous"),
        ("torch.jit", "load", "dangerous"),
        ("torch.utils.collect_env", "run", "dangerous"),
        ("torch.utils.bottleneck.__main__", "run_cprofile", "dangerous"),
        ("torch._dynamo.guards", "GuardBuilder.get", "dangerous"),
        ("torch._inductor.codecache", "compile_file", "dangerous"),
        ("torch.fx.graph_module", "reduce_graph_module", "dangerous"),
        ("torch.jit.unsupported_tensor_ops", "execWrapper", "dangerous"),
        ("my.module", "Class.__init__.__globals__", "dangerous"),
        ("my.module", "Class.__subclasses__", "dangerous"),
        ("my.module", "__builtins__", "dangerous"),
        ("numpy.dtypes", "__builtins__", "dangerous"),
        ("ml_dtypes", "__loader__", "dangerous"),
        ("collections", "_sys", "dangerous"),
        ("collections", "_sys.modules", "dangerous"),
        ("uuid", "os", "dangerous"),
        ("six.moves.builtins", "eval", "dangerous"),
        ("six", "exec_", "dangerous"),
        ("gevent.subprocess", "Popen", "dangerous"),
        ("copyreg", "add_extension", "dangerous"),
        ("copy_reg", "add_extension", "dangerous"),
        ("dataclasses", "_create_fn", "dangerous"),
        ("typing", "get_type_hints", "dangerous"),
        ("rlcompleter", "Completer.attr_matches", "dangerous"),
        ("inspect", "getattr_static", "dangerous"),
        ("unittest.mock", "_importer", "dangerous"),
        ("concurrent.futures", "ProcessPoolExecutor", "dangerous"),
        ("_sitebuiltins", "_Printer", "dangerous"),
        ("linecache", "getlines", "dangerous"),
        ("glob", "glob", "dangerous"),
        ("warnings", "_getcategory", "dangerous"),
        ("pandas", "read_pickle", "dangerous"),
        ("pandas.io.common", "get_handle", "dangerous"),
        ("joblib.externals.loky", "wrap_non_picklable_objects", "dangerous"),
        ("transformers", "AutoModel.from_pretrained", "dangerous"),
        ("torch._weights_only_unpickler", "load", "dangerous"),
        ("torch.distributed.run", "main", "dangerous"),
        ("torch.serialization", "add_safe_globals", "dangerous"),
        ("torch.onnx", "export", "dangerous"),
        ("?", "system", "dangerous"),
    ],
)
def test_verdicts(module, name, expected):
    assert verdict(module, name) == expected


def test_python_2_spellings_are_those_of_cpython():
    for module, renamed in _MODULES.items():
        assert _compat_pickle.IMPORT_MAPPING[module] == renamed
    for pair, renamed in _NAMES.items():
        assert _compat_pickle.NAME_MAPPING[pair] == renamed
    assert normalise("exceptions", "ValueError") == ("builtins", "ValueError")
    assert normalise("copy_reg", "_reconstructor") == ("copyreg", "_reconstructor")
    assert normalise("torch", "Size") == ("torch", "Size")


@pytest.mark.oracle
def test_all_that_torch_allows_is_plain():
    pytest.importorskip("torch")
    from torch._weights_only_unpickler import _get_allowed_globals

    allowed = [tuple(name.rsplit(".", 1)) for name in _get_allowed_globals()]
    assert len(allowed) > 100
    assert [name for name in allowed if verdict(*name) != "plain"] == []


# ------------------------------------------------------------------------------ the report


def test_the_report_is_a_sequence_of_names_that_cannot_change():
    report = scan(HIDDEN["another pickle"])
    assert list(report) == list(report.globals)
    assert len(report) == 2
    with pytest.raises(TypeError, match="verdict"):
        bool(report)
    with pytest.raises(AttributeError):
        report.globals = ()
    with pytest.raises(AttributeError):
        report.globals[0].verdict = "plain"
    with pytest.raises(AttributeError):
        del report.errors
    assert report == scan(HIDDEN["another pickle"])
    assert hash(report) == hash(scan(HIDDEN["another pickle"]))
    assert pickle.loads(pickle.dumps(report)) == report
    assert report != scan(HIDDEN["data.pkl"])


def test_the_report_prints_aligned_and_escaped():
    data = zipped({"m/data.pkl": CLEAN, "m/x\x1b.pkl": b"\x80\x04\x8c\x02os\x8c\x03a\x1bb\x93."})
    lines = str(scan(data)).splitlines()
    assert lines[0] == "dangerous: 2 names; nothing was run"
    assert "\x1b" not in "".join(lines)
    assert "os.a\\x1bb" in lines[2]
    columns = {line.index(" at byte ") for line in lines[1:]}
    assert len(columns) == 1
    assert str(ScanReport(("x",), ())).splitlines() == [
        "unknown: 0 names; nothing was run",
        "  note: x",
    ]


# --------------------------------------------------------------------------------- doors


def test_paths_files_and_buffers(tmp_path):
    data = HIDDEN["data.pkl"]
    path = tmp_path / "m.pth"
    path.write_bytes(data)
    expected = scan(data)
    assert scan(path) == scan(str(path)) == scan(bytearray(data)) == expected
    assert scan(io.BytesIO(data)) == expected
    with path.open("rb") as file:
        assert scan(file) == expected


def test_a_folder_is_scanned_file_by_file(tmp_path):
    (tmp_path / ".metadata").write_bytes(SYSTEM)
    (tmp_path / "a.pth").write_bytes(zipped({"m/data.pkl": CLEAN}))
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    report = scan(tmp_path)
    assert report.verdict == "dangerous"
    assert [use.record for use in report] == [".metadata", "a.pth: m/data.pkl"]


def test_an_index_leads_to_its_shards(tmp_path):
    index = tmp_path / "model.bin.index.json"
    index.write_text('{"weight_map": {"w": "a.bin", "v": "../b.bin", "u": "gone.bin"}}')
    (tmp_path / "a.bin").write_bytes(HIDDEN["data.pkl"])
    report = scan(index)
    assert [use.record for use in report] == ["a.bin: m/data.pkl"]
    # The shard outside was left out in silence once; not to have looked is to be told.
    assert len(report.errors) == 2
    assert any("gone.bin" in error for error in report.errors)
    assert any("../b.bin" in error for error in report.errors)


def test_what_holds_no_pickle_is_named_for_what_it_is(tmp_path):
    path = tmp_path / "picture.pth"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with pytest.raises(NotACheckpointError, match="PNG") as info:
        scan(path)
    assert str(info.value.path) == str(path)
    with pytest.raises(UnsupportedError, match="gzip"):
        scan(b"\x1f\x8b\x08" + bytes(32))
    with pytest.raises(NotACheckpointError, match="empty"):
        scan(b"")
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "none.pth")


# ---------------------------------------------------------------------------------- costs


def test_nothing_is_imported_or_run(tmp_path):
    (tmp_path / "trap.py").write_text("import os; os.environ['SPRUNG'] = '1'")
    data = zipped({"m/data.pkl": b"\x80\x02ctrap\nf\n)Rcantigravity\nx\n\x86."})
    (tmp_path / "m.pth").write_bytes(data)
    code = (
        "import sys, os; sys.path.insert(0, '.');"
        "from pystatedict import scan; report = scan('m.pth');"
        "assert len(report) == 2, report; assert 'SPRUNG' not in os.environ;"
        "bad = {'trap', 'antigravity', 'numpy', 'pickle', '_pickle', 'dataclasses'};"
        "assert not bad & set(sys.modules), bad & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_nesting_is_bounded_and_told():
    data = SYSTEM
    for _ in range(30):
        data = pickle.dumps(data, 4)
    report = scan(data)
    assert report.verdict == "unknown"
    assert "not all were looked at" in report.errors[0]
    archive = zipped({"m/data.pkl": SYSTEM})
    for _ in range(30):
        archive = zipped({"m.pth": archive})
    assert "archives within archives" in scan(archive).errors[0]


# ------------------------------------------------------------ what torch is to load


def test_a_payload_of_tensors_is_plain():
    report = scan(payload(LEGACY))
    assert report.verdict == "clean"
    assert [(str(use), use.verdict) for use in report] == [
        ("torch.storage._load_from_bytes", "plain"),
        ("torch.FloatStorage", "plain"),
    ]
    archive = zipped({"m/data.pkl": CLEAN, "m/version": b"3\n"})
    assert scan(payload(archive)).verdict == "clean"
    many = b"\x80\2](" + payload(LEGACY)[2:-1] * 2000 + b"e."
    assert scan(many).verdict == "clean"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (payload(SYSTEM), "dangerous"),
        (payload(MAGIC + ID + SYS_INFO + SYSTEM + KEYS), "dangerous"),
        (payload(payload(SYSTEM)), "dangerous"),
        (payload(b"\x80\2cmy.models\nNet\n)\x81."), "unknown"),
        (payload(MAGIC + ID + SYS_INFO + b"\x80\2cmy\nNet\n)\x81." + KEYS), "unknown"),
        (payload(CLEAN), "unknown"),  # no checkpoint: torch fails, having run it
        (payload(LEGACY[:-1]), "unknown"),
        (payload(b"not a pickle at all"), "unknown"),
        (payload(b""), "unknown"),
        (payload(zipped({"m/data.pkl": CLEAN, "m/constants.pkl": CLEAN})), "unknown"),
        (b"\x80\4ctorch.storage\n_load_from_bytes\nX\1\0\0\0a\x85R.", "unknown"),
        (b"\x80\4ctorch.storage\n_load_from_bytes\n)R.", "unknown"),
        (b"\x80\4ctorch.storage\n_load_from_bytes\nN\x85R.", "unknown"),
        (b"\x80\4ctorch.storage\n_load_from_bytes\n.", "unknown"),
        # called by another: _rebuild_from_type_v2(_load_from_bytes, ...)
        (
            b"\x80\4ctorch._tensor\n_rebuild_from_type_v2\n(ctorch.storage\n_load_from_bytes\n"
            b"ctorch\nTensor\nB" + struct.pack("<I", len(LEGACY)) + LEGACY + b"\x85}tR.",
            "unknown",
        ),
    ],
)
def test_a_payload_is_judged_by_what_it_holds(data, expected):
    report = scan(data)
    (use,) = [use for use in report if use.name == "_load_from_bytes"][:1]
    assert use.verdict == expected
    assert report.verdict == expected


def test_a_payload_that_lies_too_deep_is_not_plain():
    data = payload(LEGACY)
    for _ in range(10):
        data = pickle.dumps(data, 4)
    assert scan(data).verdict == "unknown"
    data = LEGACY
    for _ in range(12):
        data = payload(data)
        report = scan(data)
    assert report.verdict == "unknown"


# ------------------------------------------------------------------------ folders and doors


def test_a_folder_is_scanned_with_the_folders_in_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "m.pth").write_bytes(HIDDEN["data.pkl"])
    (tmp_path / "a" / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(40))
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    report = scan(tmp_path)
    assert [use.record for use in report] == ["a/b/m.pth: m/data.pkl"]
    assert [error.partition(":")[0] for error in report.errors] == ["a/x.7z"]


def test_an_index_that_leads_astray(tmp_path):
    index = tmp_path / "model.bin.index.json"
    index.write_text('{"weight_map": {"w": 5, "v": "model.bin.index.json", "u": null}}')
    report = scan(index)
    assert report.verdict == "unknown"
    assert len(report.errors) == 2
    index.write_text('{"weight_map": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "cannot be read" in scan(index).errors[0]


def test_files_of_a_distributed_checkpoint(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(
        zipped({"a/data.pkl": CLEAN})
        + zipped({"a/data.pkl": SYSTEM})
        + zipped({"a/data.pkl": CLEAN})
    )
    assert scan(tmp_path).verdict == "dangerous"
    (tmp_path / "__0_0.distcp").write_bytes(zipped({"a/data.pkl": CLEAN}) * 3)
    assert scan(tmp_path).verdict == "clean"


# ---------------------------------------------------------------------------- the corpus

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "corpus" / "open"
PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "scan.md"


def cases() -> list[dict[str, Any]]:
    manifest = json.loads((SHARED / "manifest.json").read_text(encoding="utf-8"))
    return list(manifest["cases"])


def verdict_of(case: dict[str, Any]) -> str:
    try:
        return scan(SHARED / case["path"]).verdict
    except StateDictError:
        return "no pickle"


@pytest.fixture(scope="module")
def verdicts() -> dict[str, tuple[str, str, str]]:
    """Of each file of the corpus: its group, what is expected of it, and our verdict."""
    if not SHARED.exists():
        pytest.skip("no ../shared/corpus beside the project")
    return {case["path"]: (case["group"], case["expect"], verdict_of(case)) for case in cases()}


# Files of a malicious kind that ask for no code: they are odd, and said to be.
ODD = {
    "malicious/ext1_legacy.pth",  # the registry of copyreg, which is empty
    "malicious/prefix_of_allowed_plain.pkl",  # torch._utilsx
    "malicious/traversal.pth",
    "malicious/storage_key_path.pth",
    "malicious-tar/symlink.pth",
    "malicious-tar/fifo.pth",
    "malicious-tar/directory.pth",
    "malicious-tar/traversal.pth",
    "malicious-script/setstate.pt",  # the code of TorchScript is not looked at
    "malicious-script/constants_added.pth",
}


def test_nothing_malicious_is_missed(verdicts):
    missed = {
        path
        for path, (group, _, said) in verdicts.items()
        if "malicious" in group and said != "dangerous"
    }
    assert missed == ODD
    assert {verdicts[path][2] for path in ODD} == {"unknown"}


def test_ordinary_checkpoints_are_clean(verdicts):
    """Whole models, objects of somebody's own and programs are unknown; the rest is clean."""
    groups = {"custom-module", "library-checkpoints", "objects", "recover-1.13", "real-script"}
    groups |= {"torchscript", "whole-module", "wrong-way"}
    for path, (group, expected, said) in verdicts.items():
        if expected in ("load", "recover"):
            assert said == "clean" or (group in groups and said == "unknown"), path
    objects = {path for path, (group, _, _) in verdicts.items() if group == "objects"}
    assert {path for path in objects if verdicts[path][2] != "clean"} == {
        "objects/functions.pth",
        "objects/optimizer_object.pth",
        "objects/exception.pth",
        "objects/named_tuple.pth",
    }


def test_what_is_cut_or_overlaps_is_never_clean(verdicts):
    groups = {"truncated", "overlap", "duplicates", "bounds", "bitflip-pickle", "malicious-tar"}
    clean = [p for p, (group, _, said) in verdicts.items() if group in groups and said == "clean"]
    assert clean == []


def test_the_table_of_the_page_is_true(verdicts):
    """Our own columns of docs/scan.md; those of others are as of the day that it names."""
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([^`|]+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE
    )
    assert len(rows) > 10
    for groups, *numbers in rows:
        said = [verdict for group, _, verdict in verdicts.values() if group in groups.split(", ")]
        counts = [said.count(word) for word in ("dangerous", "unknown", "clean", "no pickle")]
        assert [int(n) for n in numbers] == [len(said), *counts], groups
