# SPDX-License-Identifier: Apache-2.0
"""Write the fuzzers' starting files: python fuzz/seeds.py FOLDER

Standard library only.  A folder a target: zip (containers), pickle (programs), archive
(small checkpoints of every shape that the writers of this world give them: archives,
legacy streams, tars, pickles by themselves; tensors of every kind, whole modules), stream
and tar (those of them), salvage (the same, cut), safetensors (the JSON of headers), torch
and round (bytes that choose, then a program), describe (rows, then a file).
"""

from __future__ import annotations

import collections
import datetime
import io
import json
import math
import pathlib
import pickle
import struct
import sys
import tarfile
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


class Pickler:
    """Spells tensors as CPython's pickler does: what was told before is got from the memo."""

    def __init__(self) -> None:
        self._memo: dict[bytes, int] = {}
        self._next = 0

    def put(self) -> bytes:
        number, self._next = self._next, self._next + 1
        return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def once(self, spelled: bytes) -> bytes:
        known = self._memo.get(spelled)
        if known is None:
            self._memo[spelled] = self._next
            return spelled + self.put()
        return b"h" + bytes([known]) if known < 256 else b"j" + struct.pack("<I", known)

    @staticmethod
    def number(value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if value < 65536 else b"J" + struct.pack("<i", value)

    def numbers(self, values: tuple[int, ...]) -> bytes:
        if not values:
            return b")"
        told = b"".join(map(self.number, values))
        if len(values) > 3:
            return b"(" + told + b"t" + self.put()
        return told + bytes([0x84 + len(values)]) + self.put()

    def tensor(self, key: str, shape: tuple[int, ...], view: bytes = b"") -> bytes:
        stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        parts = [
            self.once(glob("torch._utils", "_rebuild_tensor_v2")) + b"((",
            self.once(text("storage")) + self.once(glob("torch", "FloatStorage")),
            self.once(text(key)) + self.once(text("cpu")),
            self.number(math.prod(shape)) + view + b"t" + self.put() + b"QK\x00",
            self.numbers(shape) + self.numbers(stride) + (b"\x88" if len(shape) == 1 else b"\x89"),
            self.once(glob("collections", "OrderedDict")) + b")R" + self.put(),
            b"t" + self.put() + b"R" + self.put(),
        ]
        return b"".join(parts)


def memoized(view: bytes = b"") -> bytes:
    """A state_dict as torch writes it, two of its tensors on one storage."""
    pickler = Pickler()
    shapes = [(2, 3), (6,), (), (1, 2, 3), (1, 1, 2, 3), (300,), (2, 3), (70000, 1)]
    told = b"\x80\x02}" + pickler.put() + b"("
    for i, shape in enumerate(shapes):
        name = text(f"layer.{i}.weight") + pickler.put()
        told += name + pickler.tensor(str(min(i, 6)), shape, view)
    return told + b"u."


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
        "memo.pkl": memoized(),
        "view.pkl": memoized(b"N"),
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
        # What was found once.
        "bare bits.pkl": b"\x80\x02" + storage("Bits16Storage", "0", 6) + b".",
        "bare meta.pkl": b"\x80\x02" + storage("FloatStorage", "0", 6, "meta") + b".",
        "bare mixed.pkl": b"\x80\x02("
        + storage("LongStorage", "0", 3)
        + tensor("LongStorage", "0", 3, (2,), (1,), glob("torch", "int32"))
        + b"t.",
        "dotted.pkl": b"\x80\x02"
        + glob("torch._tensor", "_rebuild_from_type_v2")
        + b"("
        + glob("__builtin__", "getattr")
        + b"("
        + glob("torch._utils", "A")
        + text("b")
        + b"tR"
        + glob("my", "Kind")
        + b")}tR.",
        "id.pkl": b"\x80\x02(K\x01K\x02tQ.",
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
        records += list(dict(options.get("extra", {})).items())  # type: ignore[call-overload]
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


# ------------------------------------------------------------------ other kinds of tensors

SIX = struct.pack("<6f", *range(6))


def over(kind: str, key: str, numel: int, shape: tuple[int, ...]) -> bytes:
    """A dense tensor over all of a storage."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tensor(kind, key, numel, shape, tuple(strides[: len(shape)]))


def call(module: str, name: str, *args: bytes) -> bytes:
    return glob(module, name) + b"(" + b"".join(args) + b"tR"


def utils(name: str, *args: bytes) -> bytes:
    return call("torch._utils", name, *args)


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_of(*pairs: tuple[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in pairs) + b"u"


def layout(name: str) -> bytes:
    return call("torch.serialization", "_get_layout", text(f"torch.{name}"))


def quantized(parameters: bytes, kind: str = "QUInt8Storage", numel: int = 6) -> bytes:
    window = storage(kind, "0", numel) + b"K\x00" + ints(2, 3) + ints(3, 1)
    return utils("_rebuild_qtensor", window, parameters, b"\x89", ORDERED)


def real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def kinds() -> dict[str, tuple[bytes, list[bytes]]]:
    """Programs of sparse, nested, quantized and wrapped tensors, with their storages."""
    values, indices = over("FloatStorage", "0", 2, (2,)), over("LongStorage", "1", 4, (2, 2))
    plain = over("LongStorage", "2", 2, (2,))
    two, four = struct.pack("<2f", 5, 7), struct.pack("<4q", 0, 1, 2, 0)
    ends = over("LongStorage", "1", 4, (4,))
    affine = tuple_of(glob("torch", "per_tensor_affine"), real(0.5), b"K\x02")
    channels = tuple_of(
        glob("torch", "per_channel_affine"),
        over("DoubleStorage", "1", 2, (2,)),
        over("LongStorage", "2", 2, (2,)),
        b"K\x00",
    )
    scales = [struct.pack("<2d", 0.5, 0.25), struct.pack("<2q", 1, 2)]
    where = "torch.nested._internal.nested_tensor"
    jagged = dict_of(("values", values), ("offsets", plain), ("lengths", b"N"))
    kind = glob("my.tensors", "Wrapped")
    about = (kind, glob("torch", "float32"), ints(3, 4), ints(4, 1), b"K\x00",
             layout("strided"), call("torch", "device", text("cpu")), b"\x89")  # fmt: skip
    sparse = [two, four, struct.pack("<2q", 0, 2)]
    coo = utils("_rebuild_sparse_tensor", layout("sparse_coo"),
                tuple_of(indices, values, ints(3, 4), b"\x88"))  # fmt: skip
    return {
        "coo": (coo, sparse[:2]),
        "script coo": (
            utils("_rebuild_sparse_tensor", b"K\x01", ints(3, 4), b"\x88", indices, values, b"N"),
            sparse[:2],
        ),
        "csr": (
            utils("_rebuild_sparse_tensor", layout("sparse_csr"),
                  tuple_of(ends, plain, values, ints(3, 4))),
            sparse,
        ),
        "sparse parameter": (parameter(coo), sparse[:2]),
        "nested": (
            utils("_rebuild_nested_tensor", values, over("LongStorage", "1", 4, (4, 1)),
                  over("LongStorage", "1", 4, (4, 1)), ends),
            sparse[:2],
        ),
        "jagged": (
            call("torch._tensor", "_rebuild_from_type_v2", glob(where, "_rebuild_njt"),
                 glob(where, "NestedTensor"), tuple_of(jagged), b"}"),
            [two, b"", struct.pack("<2q", 0, 2)],
        ),
        "wrapper": (
            call("torch._tensor", "_rebuild_from_type_v2",
                 glob("torch._utils", "_rebuild_wrapper_subclass"), kind, tuple_of(*about),
                 dict_of(("_data", values))),
            [two],
        ),
        "quantized": (quantized(affine), [bytes(6)]),
        "old quantized": (
            utils("_rebuild_qtensor", storage("QInt8Storage", "0", 6), b"K\x00", ints(2, 3),
                  ints(3, 1), real(0.5), b"K\x02", b"\x89", ORDERED),
            [bytes(6)],
        ),
        "channels": (quantized(channels), [bytes(6), *scales]),
        "listed channels": (
            quantized(tuple_of(glob("torch", "per_channel_affine"), b"](" + real(0.5) + b"K\x01e",
                               b"](K\x00K\x01e", b"K\x00")),
            [bytes(6)],
        ),
        "packed": (quantized(affine, "QUInt4x2Storage", 3), [bytes(3)]),
        "bare": (storage("LongStorage", "0", 2), [bytes(16)]),
        "meta": (
            utils("_rebuild_meta_tensor_no_storage", glob("torch", "float32"), ints(2, 3),
                  ints(3, 1), b"\x89"),
            [],
        ),
    }  # fmt: skip


# ------------------------------------------------------------------ whole modules


def module(name: str, parameters: bytes, buffers: bytes = b"}", children: bytes = b"}") -> bytes:
    left_out = call("__builtin__", "set", b"](" + text("cache") + b"e")
    state = dict_of(
        ("training", b"\x88"),
        ("_parameters", parameters),
        ("_buffers", buffers),
        ("_non_persistent_buffers_set", left_out),
        ("_modules", children),
    )
    return glob("torch.nn.modules.batchnorm", name) + b")\x81" + state + b"b"


def modules() -> dict[str, tuple[bytes, list[bytes]]]:
    weight = over("FloatStorage", "0", 6, (2, 3))
    leaf = module(
        "BatchNorm1d",
        ORDERED + b"(" + text("weight") + parameter(weight) + text("bias") + b"Nu",
        dict_of(("mean", weight), ("cache", weight)),
    )
    pair = dict_of(("a", leaf + b"q\x05"), ("b", b"h\x05"), ("none", b"N"))
    whole = module("Net", b"}", b"}", pair)
    graph = call("torch.fx.graph_module", "reduce_graph_module",
                 dict_of(("_parameters", dict_of(("w", weight))), ("_modules", b"}")),
                 text("import torch"))  # fmt: skip
    pairs = b"](](" + text("w") + weight + b"ee"
    return {
        "module": (whole, [SIX]),
        "method": (call("__builtin__", "getattr", whole, text("state_dict")), [SIX]),
        "graph": (graph, [SIX]),
        "python 2": (module("Net", call("collections", "OrderedDict", pairs)), [SIX]),
    }


# ------------------------------------------------------------------ streams, tars, pickles

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def stored(kind: str, key: str, numel: int, view: bytes = b"N") -> bytes:
    """The persistent id of a storage in a stream: with a sixth part."""
    return storage(kind, key, numel)[:-2] + view + b"tQ"


def stream(body: bytes, storages: dict[str, tuple[int, bytes]], protocol: int = 2) -> bytes:
    parts = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    head = b"".join(pickle.dumps(part, protocol) for part in parts)
    listed = pickle.dumps(list(storages), protocol)
    data = b"".join(struct.pack("<q", count) + raw for count, raw in storages.values())
    return head + body + b"." + listed + data


def as_stream(body: bytes) -> bytes:
    """The same program with the persistent ids of a stream."""
    return body.replace(b"tQ", b"NtQ")


def streams() -> dict[str, bytes]:
    six = {"0": (6, SIX)}
    window = b"K\x00" + ints(2) + ints(2) + b"\x89" + ORDERED
    view = stored("FloatStorage", "0", 6, tuple_of(text("v"), b"K\x02", b"K\x04"))
    one = as_stream(tensor("FloatStorage", "0", 6, (2, 3), (3, 1)))
    source = tuple_of(text("module"), glob("my", "Net"), text("net.py"), text("class Net: ..."))
    whole, _ = modules()["module"]
    old = b"(lp0\nS'x'\np1\naL12L\na(I1\nF2.5\ntp2\naI01\na"
    return {
        "stream.pth": stream(b"\x80\x02" + one, six),
        "stream view.pth": stream(utils("_rebuild_tensor_v2", view, window), six),
        "stream twice.pth": stream(b"\x80\x02" + one, six) * 2,
        "stream 4.pth": stream(b"\x80\x04" + one, six, 4),
        "stream 0.pth": stream(old, {}, 0),
        "stream source.pth": stream(source + b"Q)\x81", {}),
        "stream module.pth": stream(b"\x80\x02" + as_stream(whole), six),
        "stream bare.pth": stream(stored("FloatStorage", "0", 6), six),
    }


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()[:5120]


def tars() -> dict[str, bytes]:
    storages = (
        pickle.dumps(1, 2) + tuple_of(b"K\x01", text("cpu"), glob("torch", "FloatStorage")) + b"."
        + struct.pack("<q", 6) + SIX + pickle.dumps([(2, 1, 2, 4)], 2)
    )  # fmt: skip
    tensors = (
        pickle.dumps(1, 2) + tuple_of(b"K\x0a", b"K\x01", glob("torch", "FloatTensor")) + b"."
        + struct.pack("<i4x2q2qq", 2, 2, 3, 3, 1, 0)
    )  # fmt: skip
    members = {
        "sys_info": pickle.dumps({}, 2),
        "pickle": b"\x80\x02}(" + text("w") + text("10") + b"Q" + text("s") + text("2") + b"Qu.",
        "tensors": tensors,
        "storages": storages,
    }
    return {"tar.pth": tar(members), "tar odd.pth": tar({"./other": b"x", **members})}


def embedded() -> dict[str, bytes]:
    """Pickles by themselves: each storage is a stream of its own."""
    inner = stream(stored("FloatStorage", "0", 6), {"0": (6, SIX)})
    data = b"B" + struct.pack("<I", len(inner)) + inner
    encoded = call("_codecs", "encode", text(inner.decode("latin1")), text("latin1"))
    window = b"K\x00" + ints(2, 3) + ints(3, 1) + b"\x89" + ORDERED
    found = {}
    for name, spelled in (("bytes", data), ("text", encoded)):
        loaded = call("torch.storage", "_load_from_bytes", spelled)
        found[f"embedded {name}.pkl"] = utils("_rebuild_tensor_v2", loaded, window) + b"."
    # A storage whose bytes are not there.
    cut = stream(stored("FloatStorage", "0", 6), {"0": (6, b"")})
    loaded = call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(cut)) + cut)
    found["embedded cut.pkl"] = utils("_rebuild_tensor_v2", loaded, window) + b"."
    return found


def checkpoints() -> dict[str, bytes]:
    """Every kind of tensor and module, in an archive and in a stream."""
    found = streams() | tars() | embedded()
    for name, (body, payloads) in (kinds() | modules()).items():
        found[f"{name}.pth"] = checkpoint(b"\x80\x02" + body + b".", payloads)
        sizes = {"Float": 4, "Long": 8, "Double": 8}
        listed = {}
        for i, payload in enumerate(payloads):
            start = body.find(text(str(i)) + text("cpu"))
            kind = body[:start].rpartition(b"ctorch\n")[2].decode("latin1")
            item = next((n for k, n in sizes.items() if kind.startswith(k)), 1)
            if start >= 0:
                listed[str(i)] = (len(payload) // item, payload)
        found[f"stream {name}.pth"] = stream(b"\x80\x02" + as_stream(body), listed)
    one, _ = kinds()["bare"]
    found["script.pth"] = checkpoint(
        b"\x80\x02" + one + b".", [bytes(16)], extra={"constants.pkl": b"\x80\x02)."}
    )
    found["package.pth"] = checkpoint(
        b"\x80\x03N.", [], extra={".data/extern_modules": b"torch", "m/m.pkl": b"\x80\x03N."}
    )
    return found


def cut(files: dict[str, bytes]) -> dict[str, bytes]:
    """Whole, and without their ends."""
    found = dict(files)
    for name, data in files.items():
        found |= {f"{name} {part}": data[: len(data) * part // 4] for part in (1, 2, 3)}
    return found


DIALECTS = ("zip", "script", "package", "stream", "tar", "plain")


def chosen(shapes: dict[str, bytes]) -> dict[str, bytes]:
    """For the torch pass: each program as an archive's and as a stream's, losing nothing
    or something; and the ids of tars and packages."""
    found = {}
    for name, data in shapes.items():
        for how, dialect in ((0, "zip"), (5, "zip"), (2, "stream"), (7, "stream"), (0, "plain")):
            said = as_stream(data) if dialect == "stream" else data
            found[f"{name} {dialect} {how}"] = bytes([DIALECTS.index(dialect), how]) + said
    known = tuple_of(text("10") + b"Q", text("1") + b"Q", b"K\x01Q")
    found["tar"] = bytes([DIALECTS.index("tar"), 0]) + b"\x80\x02" + known + b"."
    one = tuple_of(*(over("FloatStorage", "0", 6, (2, 3)),))
    reduced = (
        tuple_of(text("reduce_package"), b"K\x00", glob("torch._utils", "_rebuild_parameter"), one)
        + b"Q"
    )
    found["package"] = bytes([DIALECTS.index("package"), 0]) + b"\x80\x02" + reduced + b"."
    return found


def rows(*told: tuple[int, ...]) -> bytes:
    """See fuzz_describe.c: size, place, offset, rank, dtype, storage, shape and strides."""
    found = b""
    for size, place, offset, rank, dtype, number, shape, stride in told:
        head = struct.pack("<BBHBBBb", 3, size, offset, rank, dtype, number, 0)
        found += head + struct.pack("<4h", shape, shape, stride, 1) + bytes(8)
        found += bytes([place, 2, 0, 0, 0, 0, 0, 0])
    return found


def descriptions() -> dict[str, bytes]:
    plain = (24, 1, 0, 2, 7, 0, 2, 3), (8, 1, 24, 1, 7, 1, 2, 1), (4, 1, 32, 0, 7, 2, 1, 1)
    small = zipfile_of({"a": bytes(24), "b": bytes(8), "c": bytes(4)})
    record = (24, 0, 0, 1, 7, 0, 2, 1), (8, 0, 1, 1, 7, 1, 2, 1), (4, 0, 2, 0, 7, 2, 1, 1)
    return {"file": rows(*plain) + bytes(40), "records": rows(*record) + small}


def zipfile_of(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return sink.getvalue()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    made = archives()
    shapes = {f"{name}.pkl": b"\x80\x02" + body + b"." for name, (body, _) in kinds().items()}
    shapes |= {f"{name}.pkl": b"\x80\x02" + body + b"." for name, (body, _) in modules().items()}
    folders = {
        "zip": made,
        "archive": made | checkpoints(),
        "pickle": programs() | shapes,
        "safetensors": headers(),
        "stream": streams(),
        "tar": tars(),
        "salvage": cut(made | streams()),
        "torch": chosen(programs() | shapes),
        "round": {name: b"\0" + data for name, data in (programs() | shapes).items()},
        "describe": descriptions(),
    }
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (root / folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
