# SPDX-License-Identifier: Apache-2.0
"""scan() names what a file would import, wherever it hides, and runs none of it."""

from __future__ import annotations

import _compat_pickle
import contextlib
import io
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile

import pytest

from pystatedict._errors import NotACheckpointError, TruncatedError, UnsupportedError
from pystatedict._globals import _MODULES, _NAMES, normalise, verdict
from pystatedict._picklelook import latin_texts, names
from pystatedict._scan import GlobalUse, ScanReport, scan

SYSTEM = b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R."
CLEAN = b"\x80\x02ccollections\nOrderedDict\n)R."
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
ID = pickle.dumps(1001, 2)
SYS_INFO = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
KEYS = pickle.dumps(["0"], 2)
RAW = (2).to_bytes(8, "little") + bytes(8)


def zipped(records: dict[str, bytes], **options: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in records.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def found(data: bytes) -> set[str]:
    return {f"{use.module}.{use.name}" for use in scan(data)}


# ------------------------------------------------------------------------ where it hides

HIDDEN = {
    "data.pkl": zipped({"m/data.pkl": SYSTEM}),
    "deflated": zipped({"m/data.pkl": SYSTEM}, compression=zipfile.ZIP_DEFLATED),
    "another pickle": zipped({"m/data.pkl": CLEAN, "m/other.pkl": SYSTEM}),
    "an upper-case name": zipped({"m/data.pkl": CLEAN, "m/other.PKL": SYSTEM}),
    "a record of no such name": zipped({"m/data.pkl": CLEAN, "m/version": SYSTEM}),
    "text pickle of no such name": zipped({"m/data.pkl": CLEAN, "m/note": b"cos\nsystem\n(tR."}),
    "after STOP": zipped({"m/data.pkl": CLEAN + SYSTEM}),
    "constants.pkl": zipped({"m/data.pkl": CLEAN, "m/constants.pkl": SYSTEM}),
    "a package": zipped({"m/.data/extern_modules": b"", "m/model/model.pkl": SYSTEM}),
    "an archive without data.pkl": zipped({"m/config.pkl": SYSTEM}),
    "an archive within": zipped({"model.pth": zipped({"m/data.pkl": SYSTEM})}),
    "no top folder": zipped({"data.pkl": SYSTEM}),
    "bytes before": b"MZ" + bytes(100) + zipped({"m/data.pkl": SYSTEM}),
    "cut off": zipped({"m/data.pkl": SYSTEM, "m/data/0": bytes(9000)})[:5000],
    "cut within the pickle": zipped({"m/data.pkl": SYSTEM})[:65],
    "wrong checksum": zipped({"m/data.pkl": SYSTEM}).replace(b"\x02\0\0\0id", b"\x02\0\0\0xx", 1),
    "encrypted flag": zipped({"m/data.pkl": SYSTEM}).replace(
        b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"
    ),
    "encrypted flag and bytes before": b"MZ"
    + bytes(99)
    + zipped({"m/data.pkl": SYSTEM}).replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"),
    "plain pickle": SYSTEM,
    "protocol 0": b"cposix\nsystem\n(S'id'\ntR.",
    "legacy magic": SYSTEM[:-1] + b"0" + MAGIC[2:] + ID + SYS_INFO + CLEAN + KEYS + RAW,
    "legacy version": MAGIC + SYSTEM + SYS_INFO + CLEAN + KEYS + RAW,
    "legacy sys_info": MAGIC + ID + SYSTEM + CLEAN + KEYS + RAW,
    "legacy object": MAGIC + ID + SYS_INFO + SYSTEM + KEYS + RAW,
    "legacy keys": MAGIC + ID + SYS_INFO + CLEAN + SYSTEM + RAW,
    "legacy protocol 4": pickle.dumps(0x1950A86A20F9469CFC6C, 4) + ID + SYS_INFO + SYSTEM,
    "legacy protocol 1": pickle.dumps(0x1950A86A20F9469CFC6C, 1) + SYSTEM[2:],
    "tar": tarred({"sys_info": CLEAN, "pickle": SYSTEM, "tensors": CLEAN, "storages": CLEAN}),
    "tar, after raw bytes": tarred(
        {"pickle": CLEAN, "tensors": CLEAN, "storages": CLEAN + RAW + b"\x80\xff" + SYSTEM}
    ),
    "bytes in a pickle": pickle.dumps([SYSTEM], 4),
    "bytearray in a pickle": pickle.dumps([bytearray(SYSTEM)], 5),
    "bytes of protocol 2": pickle.dumps([SYSTEM + b"\xff\xfe"], 2),
    "bytes in bytes in bytes": pickle.dumps(pickle.dumps(pickle.dumps(SYSTEM, 4), 2), 4),
    "legacy stream in bytes": pickle.dumps(MAGIC + ID + SYS_INFO + SYSTEM, 2),
    "before damage": SYSTEM[:-1] + b"\xff\xff",
    "after damage": b"\x80\x02)s" + SYSTEM[2:],
    "after damage, of protocol 4": b"\x80\x04)s\x8c\x05posix\x94\x8c\x06system\x93)R.",
    "no STOP": SYSTEM[:-1],
    "INST": b"\x80\x02(X\x02\0\0\0idiposix\nsystem\n.",
    "popped": b"\x80\x02cposix\nsystem\n0N.",
    "a dict's key": b"\x80\x02}cposix\nsystem\nNs.",
    "STACK_GLOBAL by the memo": b"\x80\x04\x8c\x05posix\x940\x8c\x06system\x94h\0h\1\x93.",
}


@pytest.mark.parametrize("place", HIDDEN)
def test_a_dangerous_name_is_found(place):
    report = scan(HIDDEN[place])
    assert report.verdict == "dangerous"
    assert {use.verdict for use in report if "system" in use.name} == {"dangerous"}


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
        ("torch.storage", "_load_from_bytes", "unknown"),
        ("logging", "getLogger", "unknown"),
        ("collections", "OrderedDict.fromkeys", "unknown"),
        ("numpy.dtypes", "a.b", "unknown"),
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
    assert ["gone.bin" in error for error in report.errors] == [True]


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


def test_many_nested_pickles_are_bounded_and_told():
    many = pickle.dumps([pickle.dumps((i, "x"), 4) for i in range(3000)], 4)
    assert "not all were looked at" in scan(many).errors[0]


def test_a_long_chain_is_bounded_and_told():
    assert "pickles" in scan(b"\x80\x02N." * 5000).errors[0]


def test_damage_never_makes_it_fail():
    generator = random.Random(11)
    for data in HIDDEN.values():
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(generator.randrange(1, 4)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            with contextlib.suppress(NotACheckpointError, TruncatedError, UnsupportedError):
                str(scan(bytes(damaged[: generator.randrange(len(damaged) + 1)])))


# --------------------------------------------------------------------- pickles as opcodes


def test_names_reads_on_where_a_machine_would_stop():
    assert names(b"\x80\x02)scA\nB\n.") == [("A", "B", 4)]
    assert names(b"\x80\x04\x8c\x01A\x94\x8c\x01B\x93.") == [("A", "B", 9)]
    assert names(b"(iA b\nB\n.") == [("A b", "B", 1)]
    assert names(b"\xff") == []
    assert names(b"cA\nB") == []


def test_latin_texts_finds_the_bytes_of_protocol_2():
    inner = b"\x80\x04" + bytes(range(256))
    assert latin_texts(pickle.dumps([inner], 2)) == [inner]
    assert latin_texts(pickle.dumps([inner[:100]], 2)) == [inner[:100]]
    assert latin_texts(pickle.dumps("\x80\x02" + "x" * 70_000, 2)) == [b"\x80\x02" + b"x" * 70_000]
    assert latin_texts(b"\xc2\x80\x02") == []
    assert latin_texts(b"X\xff\xff\xff\xff\xc2\x80\x02") == []
