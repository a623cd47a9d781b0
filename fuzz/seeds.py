# SPDX-License-Identifier: Apache-2.0
"""Write the fuzzers' starting files: python fuzz/seeds.py FOLDER

Standard library only.  Four folders: zip (containers), pickle (programs), archive
(small checkpoints of every shape that the writers of this world give them), safetensors
(the JSON of headers).
"""

from __future__ import annotations

import collections
import datetime
import io
import json
import pathlib
import pickle
import struct
import sys
import zipfile


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def ints(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def storage(kind: str, key: str, numel: int, location: str = "cpu") -> bytes:
    module = "torch.storage" if kind == "UntypedStorage" else "torch"
    count = b"J" + struct.pack("<i", numel)
    name = glob(module, kind)
    return b"(" + text("storage") + name + text(key) + text(location) + count + b"tQ"


ORDERED = glob("collections", "OrderedDict") + b")R"


def tensor(
    kind: str,
    key: str,
    numel: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    tail: bytes = b"",
) -> bytes:
    """A call of _rebuild_tensor_v2, or with a tail (dtype, metadata) of v3."""
    function = "_rebuild_tensor_v3" if tail.startswith(b"c") else "_rebuild_tensor_v2"
    return (
        glob("torch._utils", function)
        + b"("
        + storage(kind, key, numel)
        + b"K\x00"
        + ints(*shape)
        + ints(*stride)
        + b"\x89"
        + ORDERED
        + tail
        + b"tR"
    )


def state_dict(*pairs: tuple[str, bytes]) -> bytes:
    body = b"".join(text(name) + value for name, value in pairs)
    metadata = text("_metadata") + ORDERED + b"s"
    return b"\x80\x02" + ORDERED + b"(" + body + b"u" + b"}" + metadata + b"b."


def parameter(value: bytes) -> bytes:
    return glob("torch._utils", "_rebuild_parameter") + b"(" + value + b"\x88" + ORDERED + b"tR"


def programs() -> dict[str, bytes]:
    plain = {
        "ints": [0, 1, -1, 255, 256, 65535, 2**31 - 1, -(2**31), 2**63, -(2**200)],
        "floats": (0.0, -0.0, 1.5, float("inf"), float("nan")),
        "texts": ["", "é", "x" * 300, "\ud800"],
        "bytes": [b"", b"\x00\xff", bytearray(b"abc")],
        "none": [None, True, False],
        "set": {1, 2},
        "frozen": frozenset({3}),
        "nested": [[[[]]], {"a": {"b": ()}}],
        "ordered": collections.OrderedDict(a=1),
        "counter": collections.Counter("aab"),
        "date": datetime.datetime(2024, 1, 2),
        "path": pathlib.PurePosixPath("a/b"),
        "complex": 1 + 2j,
        "slice": slice(1, 2),
    }
    loop: list[object] = []
    loop.append({"self": loop, "tuple": (loop,)})
    found = {f"plain{p}.pkl": pickle.dumps(plain, p) for p in range(6)}
    found |= {f"loop{p}.pkl": pickle.dumps(loop, p) for p in range(6)}
    f32 = tensor("FloatStorage", "0", 6, (2, 3), (3, 1))
    found |= {
        "one.pkl": state_dict(("w", f32)),
        "tied.pkl": state_dict(
            ("a", f32), ("b", f32), ("c", tensor("FloatStorage", "0", 6, (3, 2), (1, 3)))
        ),
        "scalar.pkl": state_dict(("s", tensor("LongStorage", "0", 1, (), ()))),
        "empty.pkl": state_dict(("e", tensor("BFloat16Storage", "0", 0, (0, 5), (5, 1)))),
        "expanded.pkl": state_dict(("x", tensor("HalfStorage", "0", 1, (4, 4), (0, 0)))),
        "conj.pkl": state_dict(
            ("z", tensor("ComplexFloatStorage", "0", 2, (2,), (1,), b"}" + text("conj") + b"\x88s"))
        ),
        "float8.pkl": state_dict(
            (
                "q",
                tensor("UntypedStorage", "0", 4, (4,), (1,), glob("torch", "float8_e4m3fn")),
            )
        ),
        "parameter.pkl": state_dict(("p", parameter(f32))),
        "twice.pkl": b"\x80\x02](" + f32 + b"q\x01h\x01h\x01e.",
        "object.pkl": b"\x80\x02" + glob("a.b", "C") + b")\x81}" + text("k") + f32 + b"sb.",
        "system.pkl": glob("posix", "system") + b"(" + text("true") + b"tR.",
        "old.pkl": b"(iposix\nstat\np0\n(dp1\nS'a'\nI1\nsb.",
    }
    return found


def checkpoint(program: bytes, payloads: list[bytes], **options: object) -> bytes:
    """A zip archive around a program; options as below."""
    method = zipfile.ZIP_DEFLATED if options.get("deflated") else zipfile.ZIP_STORED
    top = str(options.get("top", "archive/"))
    out = io.BytesIO()
    if options.get("before"):
        out.write(b"#!/bin/sh\n")
    sink: io.BytesIO = out
    if options.get("descriptors"):
        sink = type("Pipe", (io.BytesIO,), {"seekable": lambda _: False})()
    with zipfile.ZipFile(sink, "a" if options.get("before") else "w", method) as archive:
        records = [
            ("data.pkl", program),
            ("byteorder", str(options.get("order", "little")).encode()),
        ]
        records += [(f"data/{i}", payload) for i, payload in enumerate(payloads)]
        records += [("version", b"3\n")]
        if options.get("reversed"):
            records.reverse()
        for name, data in records:
            info = zipfile.ZipInfo(top + name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=bool(options.get("zip64"))) as record:
                record.write(data)
        archive.comment = bytes(options.get("comment", b""))  # type: ignore[call-overload]
    return sink.getvalue()


def archives() -> dict[str, bytes]:
    known = programs()
    six = [struct.pack("<6f", *range(6))]
    one, tied = known["one.pkl"], known["tied.pkl"]
    return {
        "one.pth": checkpoint(one, six),
        "tied.pth": checkpoint(tied, six),
        "two.pth": checkpoint(
            state_dict(
                ("a", tensor("FloatStorage", "0", 6, (6,), (1,))),
                ("b", tensor("ByteStorage", "1", 3, (3,), (1,))),
            ),
            [*six, b"abc"],
        ),
        "deflated.pth": checkpoint(one, six, deflated=True),
        "descriptors.pth": checkpoint(one, six, descriptors=True),
        "zip64.pth": checkpoint(one, six, zip64=True),
        "comment.pth": checkpoint(one, six, comment=b"PK\x05\x06 no"),
        "before.pth": checkpoint(one, six, before=True),
        "reversed.pth": checkpoint(one, six, reversed=True),
        "big.pth": checkpoint(one, [struct.pack(">6f", *range(6))], order="big"),
        "bare.pth": checkpoint(one, six, top=""),
        "empty.pth": checkpoint(known["empty.pkl"], [b""]),
        "parameter.pth": checkpoint(known["parameter.pkl"], six),
        "float8.pth": checkpoint(known["float8.pkl"], [b"\x38\x40\x00\x7e"]),
        "plain.pth": checkpoint(known["plain2.pkl"], []),
        "object.pth": checkpoint(known["object.pkl"], six),
    }


def header(**tensors: tuple[str, list[int], int]) -> str:
    """The JSON of tensors that lie one after another: (dtype, shape, bytes)."""
    entries, place = [], 0
    for name, (dtype, shape, size) in tensors.items():
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        entries.append(f"{json.dumps(name)}:{json.dumps(entry, separators=(',', ':'))}")
        place += size
    return "{" + ",".join(entries) + "}"


def headers() -> dict[str, bytes]:
    bits = {
        "BOOL": 8, "F4": 4, "F6_E2M3": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16,
        "BF16": 16, "F32": 32, "C64": 64, "I64": 64,
    }  # fmt: skip
    two = header(w=("F32", [2, 3], 24), b=("F32", [], 4))
    first, second = two[1:-1].split(',"b":')
    made = {
        "two": two,
        "empty": "{}",
        "notes": '{"__metadata__":{"format":"pt","x":""},' + two[1:],
        "null": '{"__metadata__":null,' + two[1:],
        "blanks": two.replace(",", " ,\n\t").replace(":", " : ") + "      ",
        "zero": header(z=("F64", [0, 9], 0), s=("U8", [1], 1)),
        "escapes": '{"a\\u00e9\\ud83d\\ude00\\n\\"é€😀":' + two.split(":", 1)[1],
        "extra": two.replace('"dtype"', '"more":[1,-2.5e3,{"x":[null,true]}],"dtype"'),
        "swapped": '{"b":' + second + "," + first + "}",
        **{name: header(t=(name, [4, 2], n)) for name, n in bits.items()},
    }
    return {f"{name}.json": text.encode() for name, text in made.items()}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    made = archives()
    folders = {"zip": made, "archive": made, "pickle": programs(), "safetensors": headers()}
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (root / folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
