# SPDX-License-Identifier: Apache-2.0
"""save(): what comes out, for every target, and what stays when it fails."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from typing import Any

import kit
import numpy as np
import pytest
from hypothesis import given, settings

import pystatedict as psd

W = np.arange(6, dtype="f4").reshape(2, 3)


def names_in(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------ the archive


def test_layout_is_torchs() -> None:
    data = kit.saved({"a": W, "b": W.astype("f8")})
    assert kit.records_in(data) == ["data.pkl", "byteorder", "data/0", "data/1", "version"]
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        infos = file.infolist()
        assert len({info.filename.split("/")[0] for info in infos}) == 1
        assert all(info.compress_type == zipfile.ZIP_STORED for info in infos)
        top = infos[0].filename.split("/")[0]
        assert file.read(f"{top}/byteorder") == sys.byteorder.encode()
        assert file.read(f"{top}/version") == b"3\n"
        assert file.read(f"{top}/data/0") == W.tobytes()
        for info in infos:
            if "/data/" not in info.filename:
                continue
            name_size, extra_size = struct.unpack_from("<HH", data, info.header_offset + 26)
            assert (info.header_offset + 30 + name_size + extra_size) % 64 == 0, info.filename


def test_pickle_is_protocol_2() -> None:
    program = kit.pickle_in(kit.saved({"a": W, "b": b"x", "c": {1}, "d": 1 << 70}))
    assert program.startswith(b"\x80\x02")
    assert b"\x95" not in program[:12]  # no frames


def test_ties_become_one_storage() -> None:
    base = np.arange(12, dtype="f4")
    data = kit.saved({"a": base, "b": base[4:8], "c": base.reshape(3, 4).T, "d": base.copy()})
    assert [n for n in kit.records_in(data) if n.startswith("data/")] == ["data/0", "data/1"]
    sd = psd.load(bytearray(data))
    assert [sd.info(k).storage for k in "abcd"] == ["0", "0", "0", "1"]
    assert [sd.info(k).storage_offset for k in "abcd"] == [0, 4, 0, 0]
    sd["a"][4] = 99
    assert sd["b"][0] == 99
    assert sd["c"][0, 1] == 99
    assert sd["d"][4] == 4


def test_only_the_part_that_is_seen_is_written() -> None:
    base = np.zeros(1 << 20, "u1")
    data = kit.saved({"a": base[100:110], "b": base[500:510]})
    assert len(data) < 4096
    sd = psd.load(data)
    assert not np.may_share_memory(sd["a"], sd["b"])


def test_overlapping_views_of_any_owner_are_tied() -> None:
    held = bytearray(64)
    a, b = np.frombuffer(held, "f4", 8), np.frombuffer(held, "f4", 8, offset=16)
    a[:] = range(8)
    sd = kit.reloaded({"a": a, "b": b, "c": a[6:]})
    assert np.shares_memory(sd["a"], sd["b"])
    sd["b"][3] = -5
    assert sd["a"][7] == -5
    assert sd["c"][1] == -5


@pytest.mark.parametrize("order", ["ascending", "descending", "stretches", "random"])
def test_ties_are_found_in_any_order(order: str) -> None:
    rng = np.random.default_rng(0)
    bases = [np.arange(3000, dtype="f4") + n for n in range(3)]
    views = [base[at : at + 15] for base in bases for at in range(0, 2980, 10)]
    if order == "descending":
        views.reverse()
    elif order == "stretches":
        views = views[500:] + views[:300] + views[400:500] + views[300:400]
    elif order == "random":
        rng.shuffle(views)
    data = kit.saved(dict(enumerate(views)))
    assert len([n for n in kit.records_in(data) if n.startswith("data/")]) == 3
    for number, array in psd.load(data).items():
        kit.same_array(views[number], array, str(number))


def test_equal_texts_are_one_value() -> None:
    for text in ("a name that is long", "ü" * 20, "lone \ud800 surrogate"):
        twice = ["".join([*text]) for _ in range(2)]
        assert twice[0] is not twice[1]
        data = kit.saved({twice[0]: [twice[1], W]})
        written = text.encode("utf-8", "surrogatepass")
        assert kit.pickle_in(data).count(b"X" + struct.pack("<I", len(written)) + written) == 1
        ((name, (value, _)),) = psd.load(data).items()
        assert name == text
        assert value == text


def test_many_texts_and_arrays_each_twice() -> None:
    arrays = [np.full(3, i, "i4") for i in range(700)]
    obj = [{f"name {i}": array for i, array in enumerate(arrays)} for _ in range(2)]
    data = kit.saved(obj)
    program = kit.pickle_in(data)
    for i in range(100, 700):
        assert program.count(b"name %d" % i) == 1
    first, second = psd.load(data)
    assert list(first) == list(second) == list(obj[0])
    assert all(first[name] is second[name] for name in first)


def test_geometry_is_each_tensors_own() -> None:
    """Shapes and strides as the tensor before has them, or others, of every rank."""
    base = np.arange(720, dtype="f4")
    views = [base[:n].reshape(shape) for n, shape in (
        (6, (2, 3)), (6, (2, 3)), (6, (3, 2)), (6, (6,)), (1, ()), (1, ()), (0, (0, 3)),
        (0, (3, 0)), (720, (1, 2, 3, 4, 5, 6)), (720, (6, 5, 4, 3, 2, 1)), (4, (2, 1, 2)),
        (4, (1, 2, 1, 2, 1, 1, 1, 1, 1, 1)), (4, (1, 2, 1, 2, 1, 1, 1, 1, 1, 1)),
    )]  # fmt: skip
    views += [v.T for v in views] + [base[::2][:6].reshape(2, 3), base[:12].reshape(4, 3)[::2]]
    loaded = kit.reloaded(views)
    for view, array in zip(views, loaded, strict=True):
        kit.same_array(view, array)
        if view.size > 1:
            assert [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1] == [
                s for s, n in zip(view.strides, view.shape, strict=True) if n > 1
            ]


def test_an_odd_view_does_not_cut_the_ties_of_others() -> None:
    """A view that starts between two items has a storage of its own; the rest keep theirs."""
    raw = np.arange(64, dtype="u1")
    whole, tail = raw.view("f4"), raw.view("f4")[4:]
    odd = np.frombuffer(raw[2:], "f4", 8)
    sd = kit.reloaded({"whole": whole, "odd": odd, "tail": tail})
    kit.same_array(whole, sd["whole"])
    kit.same_array(odd, sd["odd"])
    kit.same_array(tail, sd["tail"])
    assert np.shares_memory(sd["whole"], sd["tail"])
    assert not np.may_share_memory(sd["whole"], sd["odd"])


def test_mixed_dtypes_over_one_buffer() -> None:
    raw = np.arange(32, dtype="u1")
    parts = {
        "bytes": raw,
        "halves": raw.view("f2")[3:7],
        "longs": raw.view("i8"),
        "u": raw.view("u2"),
    }
    data = kit.saved(parts)
    assert [n for n in kit.records_in(data) if n.startswith("data/")] == ["data/0"]
    assert b"_rebuild_tensor_v3" in kit.pickle_in(data)
    sd = psd.load(data)
    for name, array in parts.items():
        kit.same_array(array, sd[name], name)
        assert np.shares_memory(sd["bytes"], sd[name])


def test_what_torch_cannot_express_is_compacted() -> None:
    base = np.arange(24, dtype="f4").reshape(4, 6)
    pairs = np.zeros(5, np.dtype([("a", "u1"), ("b", "f4")], align=False))
    pairs["b"] = range(5)
    odd = {
        "backward": base[::-1],
        "mirrored": base[:, ::-2],
        "swapped": base.astype(">f4"),
        "field": pairs["b"],  # a stride of five bytes
        "real": (np.arange(4) + 1j).astype("c8").real,  # a stride of two items: fine as it is
    }
    sd = kit.reloaded(odd)
    for name, array in odd.items():
        kit.same_array(array, sd[name], name)
        assert sd[name].dtype.isnative
        assert all(stride >= 0 for stride in sd[name].strides)
    assert sd["real"].strides == (8,)
    assert sd["field"].strides == (4,)
    assert base[0, 0] == 0


def test_kept_as_they_are() -> None:
    base = np.arange(24, dtype="i4")
    base.flags.writeable = False
    view = np.lib.stride_tricks.as_strided
    parts = {
        "fortran": np.asfortranarray(base.reshape(4, 6)),
        "turned": base.reshape(2, 3, 4).transpose(2, 0, 1),
        "stepped": base[::5],
        "spread": np.broadcast_to(base[:3, None], (3, 7)),
        "sliding": view(base, (20, 3), (4, 4), writeable=False),
        "scalar": base[7, ...],
        "nothing": base[:0],
        "hollow": np.zeros((3, 0, 2), "i4"),
    }
    sd = kit.reloaded(parts)
    for name, array in parts.items():
        kit.same_array(array, sd[name], name)
    assert sd.info("hollow").stride == (2, 2, 1)  # as torch.zeros(3, 0, 2)
    assert sd["spread"].strides == (4, 0)
    assert sd["scalar"].shape == ()


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=str)
def test_every_dtype(dtype: np.dtype) -> None:
    array = kit.buffer_of(dtype, 64, 3).reshape(4, 16)
    data = kit.saved({"w": array})
    sd = psd.load(data)
    kit.same_array(array, sd["w"])
    assert sd["w"].dtype == dtype
    assert psd.load(data).info("w").dtype == ("bool" if dtype == bool else dtype.name)


def test_raw_dtypes_come_back_as_they_were() -> None:
    from pystatedict._dtypes import _RAW, numpy_dtype, torch_dtype

    for name in [*_RAW, "complex32"]:
        array = np.zeros(3, numpy_dtype(name))
        array.view("u1")[:3] = [1, 2, 3]
        sd = kit.reloaded({"w": array})
        assert torch_dtype(sd["w"].dtype) == name
        assert sd.info("w").dtype == name
        assert sd["w"].tobytes() == array.tobytes()


# ------------------------------------------------------------------ same object, same bytes


def many_kinds() -> dict[str, Any]:
    import datetime
    import pathlib
    from collections import Counter, OrderedDict, defaultdict

    base = np.arange(24, dtype="f4")
    shared = ["twice"]
    return {
        "w": base,
        "view": base[3:9],
        "names": {"b", "a", "c", "long name"},
        "mixed": {1, "1", 1.5, None, (1, "x"), frozenset({"p", "q"})},
        "frozen": frozenset("hashing"),
        "ordered": OrderedDict(z=1, a=shared),
        "counter": Counter("mississippi"),
        "default": defaultdict(list, a=[1]),
        "again": shared,
        "scalar": np.float64(2.5),
        "objects": np.array(["x", None, {"y": {"z"}}], dtype=object),
        "text": np.array(["abc", "d"]),
        "day": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        "path": pathlib.PurePosixPath("a/b"),
        "bytes": bytes(range(256)),
        "huge": -(1 << 200),
    }


DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import kit, test_save
print(hashlib.sha256(kit.saved(test_save.many_kinds())).hexdigest())
"""


def test_same_bytes_in_every_process() -> None:
    tests = str(pathlib.Path(__file__).parent)
    digests = set()
    for seed in ("0", "1", "2", "777"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST, tests],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        digests.add(done.stdout)
    digests.add(hashlib.sha256(kit.saved(many_kinds())).hexdigest() + "\n")
    assert len(digests) == 1


def test_same_bytes_whatever_the_name(tmp_path: pathlib.Path) -> None:
    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def write(self, data: Any) -> int:
            self.parts.append(bytes(data[:1000]))
            return len(self.parts[-1])

    for name in ("a.pth", "a much longer name.bin", "ünïcode.pt"):
        psd.save(many_kinds(), tmp_path / name)
    slow = Slow()
    psd.save(many_kinds(), slow)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    assert digests == {hashlib.sha256(b"".join(slow.parts)).hexdigest()}


def test_equal_objects_at_other_addresses_give_the_same_bytes() -> None:
    first, second = (
        {name: np.arange(n, n + 5, dtype="f4") for n, name in enumerate(order)}
        for order in ("abcdefgh", "abcdefgh")
    )
    names = list(second)
    # Allocated in another order, so that addresses do not follow names.
    second = {name: value.copy() for name, value in reversed(second.items())}
    second = {name: second[name] for name in names}
    assert kit.saved(first) == kit.saved(second)


def test_saved_twice_is_the_same(tutorial: pathlib.Path) -> None:
    once = kit.saved(psd.load(tutorial))
    assert kit.saved(psd.load(once)) == once
    assert kit.saved(psd.load(tutorial, copy=True)) == once


# ------------------------------------------------------------------ targets


def test_targets(tmp_path: pathlib.Path) -> None:
    expected = kit.saved({"w": W})
    for target in (tmp_path / "a.pth", str(tmp_path / "b.pth")):
        psd.save({"w": W}, target)
        assert pathlib.Path(target).read_bytes() == expected
    with open(tmp_path / "c", "wb") as file:
        file.write(b"head")
        psd.save({"w": W}, file)
        file.write(b"tail")
    assert (tmp_path / "c").read_bytes() == b"head" + expected + b"tail"


def test_seekless_targets(tmp_path: pathlib.Path) -> None:
    expected = kit.saved({"w": np.zeros(300_000, "f4")})
    reading, writing = os.pipe()
    got: list[bytes] = []

    def drain() -> None:
        with os.fdopen(reading, "rb") as source:
            got.append(source.read())

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(writing, "wb") as sink:
        assert not sink.seekable()
        psd.save({"w": np.zeros(300_000, "f4")}, sink)
    thread.join()
    assert got == [expected]

    class Sink:
        """No more than write(), which gives nothing back, as some do."""

        def __init__(self) -> None:
            self.data = b""

        def write(self, data: Any) -> None:
            self.data += bytes(data)

    sink = Sink()
    psd.save({"w": np.zeros(300_000, "f4")}, sink)
    assert sink.data == expected


def test_target_that_fails(tmp_path: pathlib.Path) -> None:
    class Full:
        def __init__(self, room: int) -> None:
            self.room = room

        def write(self, data: Any) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return len(data)

    size = len(kit.saved({"w": W}))
    psd.save({"w": W}, Full(size))
    for room in (0, 10, size - 1):
        with pytest.raises(OSError, match="No space left") as caught:
            psd.save({"w": W}, Full(room))
        assert caught.value.errno == 28

    class Stuck:
        def write(self, _: Any) -> int:
            return 0

    class Liar:
        def write(self, data: Any) -> int:
            return len(data) + 1

    for target in (Stuck(), Liar()):
        with pytest.raises((OSError, ValueError)):
            psd.save({"w": W}, target)
    with pytest.raises(TypeError):
        psd.save({"w": W}, io.StringIO())
    with pytest.raises(FileNotFoundError):
        psd.save({"w": W}, tmp_path / "no such folder" / "a.pth")
    assert names_in(tmp_path) == set()


# ------------------------------------------------------------------ whole or not at all


def test_old_file_survives_a_failure(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    psd.save({"w": W}, path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="cannot save"):
        psd.save({"w": W, "bad": object()}, path)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == {"a.pth"}
    with pytest.raises(TypeError):
        psd.save({"bad": object()}, tmp_path / "new.pth")
    assert names_in(tmp_path) == {"a.pth"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file sizes")
def test_full_disk_leaves_no_debris(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    psd.save({"w": W}, path)
    before = path.read_bytes()
    program = (
        "import resource, signal, sys\n"
        "import numpy as np, pystatedict as psd\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    psd.save({'w': np.zeros(100_000)}, sys.argv[1])\n"
        "except OSError as error:\n"
        "    sys.exit(0 if error.errno == 27 else 2)\n"
        "sys.exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == {"a.pth"}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL here")
def test_killed_save_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    psd.save({"w": W}, path)
    before = path.read_bytes()
    program = (
        "import os, signal, sys\n"
        "import numpy as np, pystatedict as psd\n"
        "from pystatedict import _files\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "psd.save({'w': np.zeros(100_000)}, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=60)
    assert done.returncode == -9
    assert path.read_bytes() == before


def test_overwrite(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    psd.save({"w": W}, path, overwrite=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        psd.save({"w": W * 2}, path, overwrite=False)
    with pytest.raises(FileExistsError):  # said at once, before anything is made
        psd.save({"w": object()}, path, overwrite=False)
    assert path.read_bytes() == before
    psd.save({"w": W * 2}, path)
    kit.same_array(W * 2, psd.load(path)["w"])
    assert names_in(tmp_path) == {"a.pth"}


@pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(tmp_path: pathlib.Path) -> None:
    path, link = tmp_path / "real.pth", tmp_path / "link.pth"
    psd.save({"w": W}, path)
    os.chmod(path, 0o640)
    link.symlink_to(path.name)
    psd.save({"w": W * 2}, link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    kit.same_array(W * 2, psd.load(path)["w"])
    mask = os.umask(0o027)
    try:
        psd.save({"w": W}, tmp_path / "new.pth")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.pth").stat().st_mode) == 0o640


@pytest.mark.parametrize("mmap", [True, False])
def test_saving_over_the_loaded_file(tutorial_folder: pathlib.Path, mmap: bool) -> None:
    path = tutorial_folder / "tutorial.pth"
    sd = psd.load(path, mmap=mmap)
    before = {name: array.copy() for name, array in sd.items()}
    sd["fc_final.bias"] += 1
    psd.save(sd, path)
    changed = psd.load(path)
    for name, array in before.items():
        expected = array + 1 if name == "fc_final.bias" else array
        kit.same_array(expected, changed[name], name)
        kit.same_array(expected, sd[name], name)  # the old map is whole, too
    assert names_in(tutorial_folder) == {"tutorial.pth", "tutorial.pth.trainable.json"}


# ------------------------------------------------------------------ options


def test_checksum_false() -> None:
    data = kit.saved({"w": W}, checksum=False)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert {info.CRC for info in file.infolist()} == {0}
    kit.same_array(W, psd.load(data, verify=True)["w"])


def test_what_this_version_does_not_write() -> None:
    for options in ({"format": "tar"}, {"format": ""}, {"protocol": 4}, {"protocol": 0}):
        with pytest.raises(psd.UnsupportedError):
            kit.saved({"w": W}, **options)
    with pytest.raises(ValueError, match="trainable is"):
        kit.saved({"w": W}, trainable="inside")


def test_checkpoint_as_object(tutorial: pathlib.Path) -> None:
    with psd.open(tutorial) as checkpoint:
        sd = kit.reloaded(checkpoint)
    kit.same(dict(psd.load(tutorial)), dict(sd))


def test_read_only_and_subclass_arrays(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "a.npy", W)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    frozen = W.copy()
    frozen.flags.writeable = False
    sd = kit.reloaded({"mapped": mapped, "frozen": frozen, "view": frozen[1]})
    kit.same_array(W, sd["mapped"])
    kit.same_array(W, sd["frozen"])
    assert np.shares_memory(sd["frozen"], sd["view"])


def test_arrays_changed_by_others_while_saving_do_not_crash() -> None:
    """A list that loses its items inside write() is none of ours to follow."""
    items: list[Any] = [np.full(1000, i, "f4") for i in range(50)]
    obj = {"items": items}

    class Sink:
        def write(self, data: Any) -> int:
            items.clear()
            obj.clear()
            return len(data)

    psd.save(obj, Sink())


# ------------------------------------------------------------------ size


def test_more_than_65535_records(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "many.pth"
    base = np.arange(70_000 * 2, dtype="i4")
    psd.save({str(i): base[2 * i : 2 * i + 1] for i in range(70_000)}, path)
    sd = psd.load(path)
    assert len(sd) == 70_000
    assert all(sd[str(i)][0] == 2 * i for i in range(0, 70_000, 71))
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == 70_003


class Sparse:
    """Writes to a file; zeros become a hole, so nothing is really written."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        piece = np.frombuffer(data, "u1")
        if piece.max(initial=0) == 0:
            self.file.seek(piece.size, 1)
        else:
            self.file.write(piece)
        return int(piece.size)


def sparse_archive(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A file of more than four GiB that takes next to no room."""
    if sys.platform != "linux":
        pytest.skip("needs sparse files")
    count = (1 << 32) + 64
    path = folder / "large.pth"
    hole = np.zeros(count, "u1")
    hole[-1], hole[5] = 7, 6
    with open(path, "wb") as file:
        psd.save({"large": hole, "after": W}, Sparse(file), checksum=False)
    return path, count


def test_beyond_four_gib(tmp_path: pathlib.Path) -> None:
    """Zip64: a record and offsets that 32 bits cannot hold."""
    path, count = sparse_archive(tmp_path)
    sd = psd.load(path)
    assert sd["large"].shape == (count,)
    assert (sd["large"][-1], sd["large"][5], sd["large"][1 << 31]) == (7, 6, 0)
    kit.same_array(W, sd["after"])
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[-1].header_offset > 1 << 32
        assert max(info.file_size for info in archive.infolist()) == count


# ------------------------------------------------------------------ generated


@settings(max_examples=40, deadline=None)
@given(kit.nests())
def test_bytes_depend_on_the_object_alone(obj: Any) -> None:
    first = kit.saved(obj)
    padding = [bytearray(n * 100) for n in range(50)]  # other addresses for what comes next
    assert kit.saved(psd.load(first, copy=True)) == kit.saved(psd.load(bytearray(first)))
    assert kit.saved(obj) == first
    del padding


def test_write_sizes_are_reasonable() -> None:
    """Large arrays are handed over in large pieces, not byte by byte."""
    sizes: list[int] = []

    class Sink:
        def write(self, data: Any) -> int:
            sizes.append(len(data))
            return len(data)

    psd.save({"w": np.zeros(1 << 20, "f8"), "b": list(range(1000))}, Sink())
    assert sum(sizes) > 8 << 20
    assert len(sizes) < 40


def test_masked_arrays_are_refused(tmp_path) -> None:
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    with pytest.raises(TypeError, match="masked array"):
        psd.save({"w": masked}, tmp_path / "m.pth")
    assert not (tmp_path / "m.pth").exists()


def test_subclasses_are_their_arrays(tmp_path) -> None:
    base = np.arange(6, dtype="f4")
    mapped = np.memmap(tmp_path / "raw", dtype="f4", mode="w+", shape=(6,))
    mapped[:] = base
    psd.save({"m": np.zeros((1, 2)).view(np.recarray), "mapped": mapped, "back": mapped[::-1]},
             tmp_path / "m.pth")  # fmt: skip
    found = psd.load(tmp_path / "m.pth")
    assert found["m"].tolist() == [[0.0, 0.0]]
    assert found["mapped"].tolist() == base.tolist()
    assert found["back"].tolist() == base[::-1].tolist()
    assert {type(v) for v in found.values()} == {np.ndarray}


def test_names_of_globals_that_are_no_utf_8() -> None:
    """They go back as they came."""
    body = b"cmod\xdde\nna\xedm\xe9\n)R"
    obj = psd.load(kit.archive(body))
    assert kit.pickle_in(kit.saved(obj, opaque=True)) == kit.program(body)
