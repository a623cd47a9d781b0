# SPDX-License-Identifier: Apache-2.0
"""Files for scan(): the same dangerous name in every place where one may hide, and sound ones."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from pystatedict._scan import scan

SYSTEM = b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R."
CLEAN = b"\x80\x02ccollections\nOrderedDict\n)R."
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
ID = pickle.dumps(1001, 2)
SYS_INFO = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
KEYS = pickle.dumps(["0"], 2)
RAW = (2).to_bytes(8, "little") + bytes(8)
TEXT_SYSTEM = b"cposix\nsystem\n(S'id'\ntR."  # protocol 0
STORAGE = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0000X\x03\0\0\0cpuK\x02NtQ."
LEGACY = MAGIC + ID + SYS_INFO + STORAGE + KEYS + RAW  # torch.save(a storage)


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


def stored(key: int) -> bytes:
    return b"\x80\x02K" + bytes([key]) + b"X\x03\0\0\0cpuctorch\nFloatStorage\n\x87." + RAW


def in_tar(key: int, storage: int) -> bytes:
    numbers = struct.pack("<iiqqq", 1, 99, 2, 1, 0)
    return b"\x80\x02K%cK%cctorch\nFloatTensor\n\x87." % (key, storage) + numbers


def tar_of(last: bytes = b"") -> bytes:
    """What torch 0.1 wrote for two tensors, and maybe one pickle more."""
    return tarred(
        {
            "sys_info": SYS_INFO,
            "pickle": b"\x80\x02](K\3QK\4Qe.",
            "tensors": pickle.dumps(2, 2) + in_tar(3, 1) + in_tar(4, 2) + last,
            "storages": pickle.dumps(2, 2) + stored(1) + stored(2) + pickle.dumps([], 2),
        }
    )


TAR = tar_of()


def found(data: bytes) -> set[str]:
    return {f"{use.module}.{use.name}" for use in scan(data)}


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def payload(data: bytes) -> bytes:
    """A pickle that asks torch to load these bytes."""
    counted = b"B" + struct.pack("<I", len(data)) + data
    return b"\x80\x04ctorch.storage\n_load_from_bytes\n" + counted + b"\x85R."


def encoded(value: str, codec: str = "latin1") -> bytes:
    """A pickle of protocol 2 that makes bytes of a text."""
    return b"\x80\x02c_codecs\nencode\n" + text(value) + text(codec) + b"\x86R."


def array_file(dtype: str, content: bytes) -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def with_wide_sizes(data: bytes) -> bytes:
    """A tar whose sizes are numbers as GNU writes those of large files."""
    file = bytearray(data)
    here = 0
    while file[here : here + 1].strip(b"\0"):
        size = int(bytes(file[here + 124 : here + 135]), 8)
        file[here + 124 : here + 136] = b"\x80" + size.to_bytes(11, "big")
        file[here + 148 : here + 156] = b" " * 8
        file[here + 148 : here + 156] = b"%06o\0 " % sum(file[here : here + 512])
        here += 512 + (size + 511) // 512 * 512
    return bytes(file)


def local_record(name: bytes, content: bytes) -> bytes:
    sizes = (zlib.crc32(content), len(content), len(content))
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, *sizes, len(name), 0)
    return head + name + content


def directory_entry(name: bytes, header: int, size: int) -> bytes:
    numbers = (20, 20, 0, 0, 0, 33, 0, size, size, len(name), 0, 0, 0, 0, 0, header)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *numbers) + name


def directory_end(count: int, size: int, offset: int) -> bytes:
    count = min(count, 0xFFFF)
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0)


def hidden_record(hidden: bytes) -> bytes:
    """An archive with a record between those that its directory names."""
    records = [(b"m/data.pkl", CLEAN), (b"m/other.pkl", hidden), (b"m/version", b"3\n")]
    data, entries = b"", b""
    for name, content in records:
        if name != b"m/other.pkl":
            entries += directory_entry(name, len(data), len(content))
        data += local_record(name, content)
    return data + entries + directory_end(2, len(entries), len(data))


def moved_archive() -> bytes:
    """A sound archive behind bytes that hold another record where its directory says, for
    a reader who does not count what comes before it.
    """
    sound = zipped({"m/version": b"3\n", "m/data.pkl": CLEAN})
    there = sound.index(b"PK\3\4", 1)
    return bytes(there) + local_record(b"m/data.pkl", SYSTEM) + bytes(100) + sound


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
    # names that are put together by the stack and the memo
    "by the memo of protocol 0": b"Vposix\np0\n0Vsystem\np1\n0g0\ng1\n\x93)R.",
    "memo overwritten": b"\x80\x04\x8c\4mathq\0\x8c\x05posixq\0\x8c\6systemq\1h\0h\1\x93.",
    "texts twice": b"\x80\x04\x8c\x05posix2\x8c\6system\x93)R.",
    "marks in between": b"\x80\x04\x8c\x05posix(1\x8c\6system(1\x93)R.",
    "a module within a name": b"\x80\x04\x8c\5torch\x8c\x09os.system\x93)R.",
    "a name after another's path": b"\x80\x04\x8c\2os\x8c\x0epath.os.system\x93)R.",
    "a long way round": b"\x80\x04\x8c\5torchX\xb8\x0b\0\0" + b"os.path." * 375 + b"\x93)R.",
    # what our machine refuses, and others do not
    "after an item of a list": b"\x80\x04]\x94\x8c\x05posix\x94\x8c\6system\x940K\0sh\1h\2\x93)R.",
    "after a class's state": b"\x80\x02cA\nB\n}b0" + SYSTEM[2:],
    "after an odd number": b"\x80\x02I1_0\n0" + SYSTEM[2:],
    "after a huge number": b"\x80\x02\x8b\x88\x13\0\0" + bytes(5000) + b"0" + SYSTEM[2:],
    "after the registry": b"\x80\x02\x82\x010" + SYSTEM[2:],
    # bytes of every form that hold pickles of every protocol
    "protocol 0 in bytes": pickle.dumps([TEXT_SYSTEM], 4),
    "protocol 0 in short bytes": b"\x80\x03C" + bytes([len(TEXT_SYSTEM)]) + TEXT_SYSTEM + b".",
    "protocol 0 in long bytes": b"\x80\x04\x8e"
    + struct.pack("<Q", len(TEXT_SYSTEM))
    + TEXT_SYSTEM
    + b".",
    "protocol 0 in a bytearray": pickle.dumps(bytearray(TEXT_SYSTEM), 5),
    "protocol 0 in a str": b"U" + bytes([len(TEXT_SYSTEM)]) + TEXT_SYSTEM + b".",
    "protocol 0 in a quoted str": b"S" + repr(TEXT_SYSTEM.decode()).encode() + b"\n.",
    "protocol 0 in bytes of protocol 2": pickle.dumps([TEXT_SYSTEM], 2),
    "protocol 0 in bytes of protocol 0": pickle.dumps([TEXT_SYSTEM], 0),
    "protocol 0 in a text to be encoded": encoded(TEXT_SYSTEM.decode(), "ascii"),
    "protocol 1 in bytes": pickle.dumps([SYSTEM[2:]], 4),
    "protocol 4 in bytes of protocol 2": pickle.dumps([pickle.dumps([SYSTEM], 4)], 2),
    "damaged, in bytes": pickle.dumps([SYSTEM[:-1] + b"\xff"], 4),
    "damaged, of protocol 0, in bytes": pickle.dumps([TEXT_SYSTEM[:-1]], 4),
    "several in bytes": pickle.dumps([CLEAN + SYSTEM], 4),
    "a text that holds one": pickle.dumps(["\x80\2cposix\nsystem\n)R."], 2),
    "an archive in bytes": pickle.dumps([zipped({"m/data.pkl": SYSTEM})], 4),
    "a gzip in bytes": pickle.dumps([gzip.compress(SYSTEM)], 4),
    "a zlib stream in bytes": pickle.dumps([zlib.compress(SYSTEM)], 4),
    "an array file in bytes": pickle.dumps([array_file("'|O'", SYSTEM)], 4),
    "a tar in bytes": pickle.dumps([tarred({"pickle": SYSTEM})], 4),
    "an object array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    b"K\0\x85U\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\n"
    b"U\2O8K\0K\1\x87R\x89]" + SYSTEM[2:-1] + b"atb.",
    # for torch to load
    "a payload, a pickle": payload(SYSTEM),
    "a payload, a legacy stream": payload(MAGIC + ID + SYS_INFO + SYSTEM + KEYS + RAW),
    "a payload, an archive": payload(zipped({"m/data.pkl": SYSTEM})),
    "a payload, a tar": payload(tarred({"pickle": SYSTEM})),
    "a payload in a payload": payload(payload(SYSTEM)),
    "a payload of protocol 2": b"\x80\x02ctorch.storage\n_load_from_bytes\n"
    + encoded(SYSTEM.decode("latin-1"))[2:-1]
    + b"\x85R.",
    # files of other kinds, and archives of every sort
    "gzip": gzip.compress(zipped({"m/data.pkl": SYSTEM})),
    "gzip, in two members": gzip.compress(SYSTEM[:9]) + gzip.compress(SYSTEM[9:]),
    "bzip2": bz2.compress(SYSTEM),
    "xz": lzma.compress(SYSTEM),
    "zlib": zlib.compress(SYSTEM),
    "gzip in an archive": zipped({"m.pth.gz": gzip.compress(SYSTEM)}),
    "gzip under a pickle's name": zipped({"m.pkl": gzip.compress(SYSTEM)}),
    "bzip2ed record": zipped({"m/data.pkl": SYSTEM}, compression=zipfile.ZIP_BZIP2),
    "record by LZMA": zipped({"m/data.pkl": SYSTEM}, compression=zipfile.ZIP_LZMA),
    "an array of objects": array_file("'|O'", SYSTEM),
    "a structured array": array_file("[('a', '<f4'), ('b', '|O')]", SYSTEM),
    "an array of objects in an archive": zipped({"x.npy": array_file("'|O'", SYSTEM)}),
    "a tar in an archive": zipped({"m.tar": tarred({"pickle": SYSTEM})}),
    "an archive in a tar": tarred({"m.pth": zipped({"m/data.pkl": SYSTEM})}),
    "a tar of anything": tarred({"a/b/model.bin": SYSTEM}),
    "the last of many in a tar": tarred({**{f"{i}": b"" for i in range(100)}, "x": SYSTEM}),
    "a tar with wide sizes": with_wide_sizes(tarred({"pickle": CLEAN, "x": SYSTEM})),
    "a tar's second pickle": tarred({"pickle": CLEAN, "tensors": TEXT_SYSTEM}),
    "a tar's storages of protocol 0": tarred({"storages": b"I1\n." + TEXT_SYSTEM}),
    "a tar, after a storage": tarred({"storages": ID + stored(1) + TEXT_SYSTEM}),
    "a tar, after tensors": tar_of(TEXT_SYSTEM),
    "a module of torch.package": zipped(
        {"p/.data/extern_modules": b"", "p/.data/0.storage": b"", "p/m/weights.bin": SYSTEM}
    ),
    "inputs of an exported program": zipped(
        {
            "m/archive_format": b"pt2",
            "m/data/sample_inputs/model.pt": zipped({"a/data.pkl": SYSTEM}),
        }
    ),
    "another file in a data folder": zipped({"m/data.pkl": CLEAN, "m/data/evil.bin": SYSTEM}),
    "a data folder of no checkpoint": zipped({"m/data/0": SYSTEM}),
    "a record that no directory names": hidden_record(SYSTEM),
    "a record where only some look": moved_archive(),
    "an archive before an archive": zipped({"a/data.pkl": SYSTEM}) + zipped({"b/data.pkl": CLEAN}),
    "an archive in a comment": zipped({"a/data.pkl": CLEAN})[:-2]
    + struct.pack("<H", len(zipped({"b/data.pkl": SYSTEM})))
    + zipped({"b/data.pkl": SYSTEM}),
    "a pickle before an archive": SYSTEM + zipped({"m/data.pkl": CLEAN}),
    "a text pickle before an archive": TEXT_SYSTEM + zipped({"m/data.pkl": CLEAN}),
    "a tar before an archive": tarred({"pickle": SYSTEM}) + zipped({"m/data.pkl": CLEAN}),
    "a tar whose name is a pickle": tarred({TEXT_SYSTEM.decode(): b""}),
    "a stream after a stream": LEGACY + MAGIC + ID + SYS_INFO + SYSTEM,
    "many archives": zipped({"a/data.pkl": SYSTEM}) + zipped({"b/data.pkl": CLEAN}) * 50,
}


def benign() -> Iterator[bytes]:
    yield LEGACY
    yield payload(LEGACY)
    yield zipped({"m/data.pkl": CLEAN, "m/data/0": bytes(64), "m/version": b"3\n"})
    yield zipped({"m/data.pkl": CLEAN}, compression=zipfile.ZIP_DEFLATED)
    yield TAR
    yield array_file("'<f4'", bytes(4))
    yield pickle.dumps({"a": [b"bytes", "text", 1.5, {2: (None, True)}]}, 0)
    yield pickle.dumps({"a": [b"bytes", "text", 1.5, {2: (None, True)}]}, 4)
