# SPDX-License-Identifier: Apache-2.0
"""The first bytes of files that people take for checkpoints: a table."""

from __future__ import annotations

_PICTURE = "it is no checkpoint at all; look where it comes from"
_SAVE_AGAIN = "export the weights with the program that made it"

# offset, bytes, kind, phrase, hint.  {file} stands for the file's path.
SIGNATURES: tuple[tuple[int, bytes, str, str, str], ...] = (
    # single files, compressed
    (
        0,
        b"\x1f\x8b",
        "gzip",
        "a gzip file",
        "unpack it (`gunzip -k {file}`), or give load() the opened file: gzip.open({file})",
    ),
    (
        0,
        b"BZh",
        "bzip2",
        "a bzip2 file",
        "unpack it (`bunzip2 -k {file}`), or give load() the opened file: bz2.open({file})",
    ),
    (
        0,
        b"\xfd7zXZ\0",
        "xz",
        "an xz file",
        "unpack it (`xz -dk {file}`), or give load() the opened file: lzma.open({file})",
    ),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "a Zstandard file", "unpack it first: `unzstd {file}`"),
    (0, b"\x04\x22\x4d\x18", "lz4", "an LZ4 file", "unpack it first: `lz4 -d {file}`"),
    # archives
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "a 7-Zip archive", "unpack it first: `7z x {file}`"),
    (0, b"Rar!\x1a\x07", "rar", "a RAR archive", "unpack it first: `unrar x {file}`"),
    # arrays and models of others
    (0, b"\x93NUMPY", "npy", "a NumPy array file", "read it with numpy.load({file})"),
    (0, b"GGUF", "gguf", "a GGUF file", "the gguf package reads it: gguf.GGUFReader({file})"),
    *(
        (0, magic, "ggml", "a GGML file", "llama.cpp converts it to GGUF")
        for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")
    ),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "hdf5",
        "an HDF5 file",
        "the h5py package reads it: h5py.File({file})",
    ),
    (0, b"CDF\1", "netcdf", "a NetCDF file", "the netCDF4 package reads it"),
    (0, b"CDF\2", "netcdf", "a NetCDF file", "the netCDF4 package reads it"),
    (0, b"PAR1", "parquet", "a Parquet file", "the pyarrow package reads it"),
    (0, b"ARROW1", "arrow", "an Arrow file", "the pyarrow package reads it"),
    (0, b"SQLite format 3\0", "sqlite", "an SQLite database", _PICTURE),
    (
        0,
        b"PYTORCH1",
        "torch-script-preview",
        "a script file of a preview of PyTorch 1.0",
        "no released torch reads it; " + _SAVE_AGAIN,
    ),
    *(
        (0, magic, "lua-torch", "a file of Torch7, the older Torch in Lua", _SAVE_AGAIN)
        for magic in (b"\4\0\0\0\1\0\0\0\3\0\0\0V 1", b"4\n1\n3\nV 1\n")
    ),
    # pictures and documents
    (0, b"\x89PNG\r\n\x1a\n", "png", "a PNG picture", _PICTURE),
    (0, b"\xff\xd8\xff", "jpeg", "a JPEG picture", _PICTURE),
    (0, b"GIF87a", "gif", "a GIF picture", _PICTURE),
    (0, b"GIF89a", "gif", "a GIF picture", _PICTURE),
    (8, b"WEBP", "webp", "a WebP picture", _PICTURE),
    (4, b"ftyp", "mp4", "an MP4 film", _PICTURE),
    (0, b"%PDF-", "pdf", "a PDF document", _PICTURE),
    # programs
    (0, b"\x7fELF", "elf", "a program or library (ELF)", _PICTURE),
    (0, b"MZ", "exe", "a program of Windows", _PICTURE),
    *(
        (0, magic, "mach-o", "a program of macOS", _PICTURE)
        for magic in (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
    ),
)

# The same, for files whose identifier stands behind a root offset of four bytes.
FLATBUFFERS: tuple[tuple[bytes, str, str, str], ...] = (
    (b"TFL3", "tflite", "a TensorFlow Lite model", _SAVE_AGAIN),
    (b"ET12", "executorch", "an ExecuTorch program", _SAVE_AGAIN),
    (b"PTMF", "torchscript", "a TorchScript file for mobile devices", _SAVE_AGAIN),
)
