# SPDX-License-Identifier: Apache-2.0
"""What a name in a pickle means for who loads it: one table, three verdicts.

    plain      the names that make tensors and plain values; all that torch.load with
               weights_only=True accepts is here
    dangerous  names that run code, start processes, open files or connections when called,
               or that lead to such names
    unknown    the rest: classes of somebody's own, mostly harmless, not ours to judge

Nothing is imported to find out.  Names are compared as text, after Python 2's spellings
have become Python 3's, as CPython's Lib/_compat_pickle.py maps them.
"""

from __future__ import annotations

from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Verdict = Literal["plain", "unknown", "dangerous"]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --------------------------------------------------------------- Python 2's spellings

_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "cPickle": "pickle",
    "_abcoll": "collections.abc",
    "_elementtree": "xml.etree.ElementTree",
    "_winreg": "winreg",
    "BaseHTTPServer": "http.server",
    "CGIHTTPServer": "http.server",
    "ConfigParser": "configparser",
    "Cookie": "http.cookies",
    "cookielib": "http.cookiejar",
    "cStringIO": "io",
    "commands": "subprocess",
    "DocXMLRPCServer": "xmlrpc.server",
    "dummy_thread": "_dummy_thread",
    "HTMLParser": "html.parser",
    "htmlentitydefs": "html.entities",
    "httplib": "http.client",
    "markupbase": "_markupbase",
    "Queue": "queue",
    "repr": "reprlib",
    "robotparser": "urllib.robotparser",
    "SimpleHTTPServer": "http.server",
    "SimpleXMLRPCServer": "xmlrpc.server",
    "SocketServer": "socketserver",
    "StringIO": "io",
    "test.test_support": "test.support",
    "thread": "_thread",
    "urllib2": "urllib.request",
    "urlparse": "urllib.parse",
    "UserDict": "collections",
    "UserList": "collections",
    "UserString": "collections",
    "xmlrpclib": "xmlrpc.client",
    # databases
    "anydbm": "dbm",
    "dbhash": "dbm.bsd",
    "dbm": "dbm.ndbm",
    "dumbdbm": "dbm.dumb",
    "gdbm": "dbm.gnu",
    "whichdb": "dbm",
    # windows and buttons
    "Dialog": "tkinter.dialog",
    "FileDialog": "tkinter.filedialog",
    "ScrolledText": "tkinter.scrolledtext",
    "SimpleDialog": "tkinter.simpledialog",
    "tkColorChooser": "tkinter.colorchooser",
    "tkCommonDialog": "tkinter.commondialog",
    "Tkconstants": "tkinter.constants",
    "Tkdnd": "tkinter.dnd",
    "tkFileDialog": "tkinter.filedialog",
    "tkFont": "tkinter.font",
    "Tkinter": "tkinter",
    "tkMessageBox": "tkinter.messagebox",
    "tkSimpleDialog": "tkinter.simpledialog",
    "ttk": "tkinter.ttk",
}

_EXCEPTIONS = words(
    "ArithmeticError AssertionError AttributeError BaseException BufferError BytesWarning "
    "DeprecationWarning EOFError EnvironmentError Exception FloatingPointError FutureWarning "
    "GeneratorExit IOError ImportError ImportWarning IndentationError IndexError KeyError "
    "KeyboardInterrupt LookupError MemoryError NameError NotImplementedError OSError "
    "OverflowError PendingDeprecationWarning ReferenceError RuntimeError RuntimeWarning "
    "StopIteration SyntaxError SyntaxWarning SystemError SystemExit TabError TypeError "
    "UnboundLocalError UnicodeDecodeError UnicodeEncodeError UnicodeError "
    "UnicodeTranslateError UnicodeWarning UserWarning ValueError Warning ZeroDivisionError"
)

# Names that went another way than their module.
_NAMES = {
    ("__builtin__", "basestring"): ("builtins", "str"),
    ("__builtin__", "intern"): ("sys", "intern"),
    ("__builtin__", "long"): ("builtins", "int"),
    ("__builtin__", "reduce"): ("functools", "reduce"),
    ("__builtin__", "unichr"): ("builtins", "chr"),
    ("__builtin__", "unicode"): ("builtins", "str"),
    ("__builtin__", "xrange"): ("builtins", "range"),
    ("itertools", "ifilter"): ("builtins", "filter"),
    ("itertools", "ifilterfalse"): ("itertools", "filterfalse"),
    ("itertools", "imap"): ("builtins", "map"),
    ("itertools", "izip"): ("builtins", "zip"),
    ("itertools", "izip_longest"): ("itertools", "zip_longest"),
    ("UserDict", "IterableUserDict"): ("collections", "UserDict"),
    ("_multiprocessing", "Connection"): ("multiprocessing.connection", "Connection"),
    ("multiprocessing.forking", "Popen"): ("multiprocessing.popen_fork", "Popen"),
    ("multiprocessing.process", "Process"): ("multiprocessing.context", "Process"),
    **{
        ("multiprocessing", name): ("multiprocessing.context", name)
        for name in ("AuthenticationError", "BufferTooShort", "ProcessError", "TimeoutError")
    },
    ("_socket", "fromfd"): ("socket", "fromfd"),
    ("socket", "_socketobject"): ("socket", "SocketType"),
    ("urllib", "ContentTooShortError"): ("urllib.error", "ContentTooShortError"),
    **{
        ("urllib", name): ("urllib.request", name)
        for name in ("getproxies", "pathname2url", "url2pathname", "urlcleanup", "urlopen",
                     "urlretrieve")
    },
    **{
        ("urllib", name): ("urllib.parse", name)
        for name in ("quote", "quote_plus", "unquote", "unquote_plus", "urlencode")
    },
    ("urllib2", "HTTPError"): ("urllib.error", "HTTPError"),
    ("urllib2", "URLError"): ("urllib.error", "URLError"),
    **{("exceptions", name): ("builtins", name) for name in _EXCEPTIONS},
    ("exceptions", "StandardError"): ("builtins", "Exception"),
}  # fmt: skip

# From this protocol on names are Python 3's own.
_NAMES_OF_PYTHON_3 = 3


def normalise(module: str, name: str, protocol: int = 2) -> tuple[str, str]:
    """Python 3's spelling of a global, as its unpickler reads a pickle of that protocol.

    >>> normalise("__builtin__", "xrange"), normalise("UserDict", "UserDict", protocol=4)
    (('builtins', 'range'), ('UserDict', 'UserDict'))
    """
    if protocol >= _NAMES_OF_PYTHON_3:
        return module, name
    return _NAMES.get((module, name)) or (_MODULES.get(module, module), name)


def spelled(module: str, name: str) -> tuple[str, str] | None:
    """What names a global of Python 3 in a pickle of protocol 2; None where nothing does.

    Mostly its own name; but a module ``dbm`` is read as Python 2's, which is another now.

    >>> spelled("functools", "partial"), spelled("dbm", "error"), spelled("repr", "Thing")
    (('functools', 'partial'), ('anydbm', 'error'), None)
    """
    if normalise(module, name) == (module, name):
        return module, name
    olds = [(old, name) for old, new in _MODULES.items() if new == module]
    return next((old for old in olds if normalise(*old) == (module, name)), None)


# ------------------------------------------------------------------------------- plain

_KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TENSORS = frozenset(kind + "Tensor" for kind in _KINDS)
_STORAGES = frozenset(
    kind + "Storage" for kind in (*_KINDS, "ComplexFloat", "ComplexDouble", "Untyped")
)
_QUANTISED = frozenset(
    kind + "Storage" for kind in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
)
_DTYPES = words(
    "bool uint8 int8 int16 int32 int64 uint16 uint32 uint64 "
    "int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7 "
    "float16 bfloat16 float32 float64 complex32 complex64 complex128 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 bits8 bits16 bits1x8 bits2x4 bits4x2 "
    "qint8 quint8 qint32 quint4x2 quint2x4"
)

# Storages that torch.jit.save names, one for every element type.
_SCRIPT_STORAGES = frozenset(
    kind + "Storage"
    for kind in words(
        "ComplexHalf Float8_e4m3fn Float8_e4m3fnuz Float8_e5m2 Float8_e5m2fnuz Float8_e8m0fnu "
        "Float4_e2m1fn_x2 UInt16 UInt32 UInt64 Bits8 Bits16 Bits1x8 Bits2x4 Bits4x2"
    )
)

_NUMPY_SCALARS = words(
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc longlong ulonglong "
    "int_ uint float16 float32 float64 longdouble complex64 complex128 clongdouble str_ bytes_ "
    "void object_ datetime64 timedelta64"
)

_NUMPY_MULTIARRAY = frozenset({"_reconstruct", "scalar"})
_NUMPY_DTYPES = frozenset(
    kind + "DType"
    for kind in words(
        "Bool Byte UByte Short UShort Int UInt Long ULong LongLong ULongLong Int8 UInt8 Int16 "
        "UInt16 Int32 UInt32 Int64 UInt64 Float16 Float32 Float64 LongDouble Complex64 "
        "Complex128 CLongDouble Object Bytes Str String Void DateTime64 TimeDelta64"
    )
)
_ML_DTYPES = words(
    "bfloat16 bcomplex32 complex32 float4_e2m1fn float6_e2m3fn float6_e3m2fn float8_e3m4 "
    "float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu int1 int2 int4 uint1 uint2 uint4"
)


_PLAIN: dict[str, frozenset[str]] = {
    # torch
    "torch": _TENSORS
    | _STORAGES
    | _QUANTISED
    | _SCRIPT_STORAGES
    | _DTYPES
    | {
        *("Tensor", "Size", "device", "Generator"),
        *("per_tensor_affine", "per_tensor_symmetric"),
        *("per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams"),
        *("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"),
        *("contiguous_format", "preserve_format", "channels_last", "channels_last_3d"),
    },
    "torch.cuda": _TENSORS | _STORAGES,
    "torch.sparse": _TENSORS,
    "torch.cuda.sparse": _TENSORS,
    "torch.storage": frozenset(
        {"TypedStorage", "UntypedStorage", "_TypedStorage", "_UntypedStorage"}
    ),
    "torch.nn.parameter": frozenset(
        {"Parameter", "Buffer", "UninitializedParameter", "UninitializedBuffer"}
    ),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch.torch_version": frozenset({"TorchVersion"}),
    "torch._C": frozenset({"Generator"}),
    "torch._tensor": frozenset({"_rebuild_from_type", "_rebuild_from_type_v2"}),
    "torch.tensor": frozenset({"_rebuild_from_type", "_rebuild_from_type_v2"}),
    "torch._utils": frozenset(
        {
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_qtensor",
            "_rebuild_sparse_tensor",
            "_rebuild_sparse_csr_tensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_nested_tensor",
            "_rebuild_wrapper_subclass",
            "_rebuild_xla_tensor",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_device_tensor_from_cpu_tensor",
        }
    ),
    "torch.jit._pickle": frozenset(
        {
            "build_intlist",
            "build_doublelist",
            "build_boollist",
            "build_tensorlist",
            "build_tensor_from_id",
            "restore_type_tag",
        }
    ),
    # what torch's own modules add to its list when they are imported
    "torch.nested._internal.nested_tensor": frozenset({"NestedTensor", "_rebuild_njt"}),
    "torch._dynamo.decorators": frozenset({"_DimRange"}),
    "torch.distributed._mesh_layout": frozenset({"_FlatLayout", "_MeshLayout"}),
    "torch.distributed._serialization": frozenset({"_Entry"}),
    # facts about tensors in the .metadata of a distributed checkpoint
    "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo"}),
    "torch.distributed.checkpoint.metadata": words(
        "Metadata MetadataIndex StorageMeta TensorStorageMetadata BytesStorageMetadata "
        "ChunkStorageMetadata TensorProperties _MEM_FORMAT_ENCODING"
    ),
    "torch.distributed.device_mesh": frozenset({"DeviceMesh"}),
    "torch.distributed.tensor": frozenset({"DTensor", "Partial", "Replicate", "Shard"}),
    "torch.distributed.tensor._api": frozenset({"DTensor"}),
    "torch.distributed.tensor._dtensor_spec": frozenset(
        {"DTensorSpec", "ShardOrderEntry", "TensorMeta"}
    ),
    "torch.distributed.tensor.placement_types": frozenset(
        {"Partial", "Replicate", "Shard", "_StridedShard"}
    ),
    # Python
    "builtins": words(
        "set frozenset complex slice range bytes bytearray int float bool str list tuple dict "
        "object Ellipsis NotImplemented"
    ),
    "collections": frozenset({"OrderedDict", "Counter", "defaultdict", "deque"}),
    "_codecs": frozenset({"encode"}),
    "copyreg": frozenset({"_reconstructor", "__newobj__", "__newobj_ex__"}),
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace"}),
    "datetime": frozenset({"datetime", "date", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "_decimal": frozenset({"Decimal"}),
    "_pydecimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID", "SafeUUID"}),
    "zoneinfo": frozenset({"ZoneInfo", "ZoneInfo._unpickle"}),
    "io": frozenset({"BytesIO"}),
    "_io": frozenset({"BytesIO"}),
    # NumPy
    "numpy": _NUMPY_SCALARS | {"dtype", "ndarray", "record", "recarray", "matrix", "chararray"},
    "numpy.rec": frozenset({"record", "recarray"}),
    "numpy.core.records": frozenset({"record", "recarray"}),
    "numpy._core.records": frozenset({"record", "recarray"}),
    "numpy.matrixlib.defmatrix": frozenset({"matrix"}),
    "numpy.char": frozenset({"chararray"}),
    "numpy.core.defchararray": frozenset({"chararray"}),
    "numpy._core.defchararray": frozenset({"chararray"}),
    "numpy._core._internal": frozenset({"_convert_to_stringdtype_kwargs"}),
    "numpy.ma": frozenset({"MaskedArray"}),
    "numpy.core.multiarray": _NUMPY_MULTIARRAY,
    "numpy._core.multiarray": _NUMPY_MULTIARRAY,
    "numpy.core.numeric": frozenset({"_frombuffer"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "numpy.dtypes": _NUMPY_DTYPES,
    "numpy.ma.core": frozenset({"_mareconstruct", "MaskedArray"}),
    "numpy.random._pickle": frozenset(
        {"__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"}
    ),
    "numpy.random._mt19937": frozenset({"MT19937"}),
    "numpy.random._pcg64": frozenset({"PCG64", "PCG64DXSM"}),
    "numpy.random._philox": frozenset({"Philox"}),
    "numpy.random._sfc64": frozenset({"SFC64"}),
    "ml_dtypes": _ML_DTYPES,
}

_PATHS = words("Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath")
# Python 3.13 moved the classes; its pickles name the place inside.
for _module in ("pathlib", "pathlib._local"):
    _PLAIN[_module] = _PATHS


# --------------------------------------------------------------------------- dangerous
#
# What the public scanners (picklescan, modelscan, fickling) flag, by what it does, and
# what else does the same.  Modules whose every name counts, with all below them:

_MODULES_AT_ALL = words(
    # processes and the system
    "os posix nt posixpath ntpath subprocess _posixsubprocess _winapi sys pty tty termios fcntl "
    "shutil signal _signal multiprocessing multiprocess pexpect ptyprocess paramiko fabric invoke "
    "sh plumbum psutil docker winreg msvcrt resource syslog pwd grp spwd nis crypt atexit mmap "
    "_posixshmem tempfile faulthandler concurrent.futures.process concurrent.futures.thread "
    "concurrent.interpreters _osx_support _aix_support _android_support _apple_support "
    "_ios_support "
    # code
    "runpy importlib imp _imp _frozen_importlib _frozen_importlib_external pkgutil zipimport "
    "zipapp codeop pdb bdb cProfile pstats timeit doctest unittest idlelib lib2to3 pydoc "
    "pydoc_data _pyrepl pyrepl rlcompleter readline antigravity turtledemo turtle tkinter "
    "_tkinter modulefinder py_compile compileall gc site sitecustomize usercustomize sysconfig "
    "_sitebuiltins annotationlib gettext _interpreters _interpchannels _interpqueues "
    "_xxsubinterpreters _xxinterpchannels _testcapi _testinternalcapi _testlimitedcapi cffi "
    "_cffi_backend ctypes _ctypes numexpr pyximport Cython IPython execnet "
    "test.support test.libregrtest test.regrtest test.script_helper test.test_support "
    # pickles within pickles
    "pickle _pickle _pickle_compat pickle5 marshal dill cloudpickle pathos shelve jsonpickle "
    "joblib.externals "
    # packages
    "pip ensurepip venv virtualenv distutils setuptools pkg_resources "
    # connections
    "socket _socket ssl _ssl select selectors socketserver http.client http.server "
    "http.cookiejar urllib.request urllib.robotparser urllib3 requests aiohttp httpx xmlrpc "
    "ftplib smtplib smtpd imaplib poplib nntplib telnetlib netrc webbrowser asyncio _asyncio "
    "asyncore asynchat wsgiref cgi cgitb "
    # files
    "glob linecache filecmp mailbox mailcap tarfile zipfile fileinput sqlite3 _sqlite3 dbm _dbm "
    "_gdbm logging.handlers logging.config "
    # torch and NumPy
    "torch.hub torch.package torch.multiprocessing torch.onnx.utils torch._weights_only_unpickler "
    "torch.distributed.elastic torch.distributed.launch torch.distributed.launcher "
    "torch.distributed.nn.jit torch.distributed.rpc torch.distributed.run "
    "torch.testing._internal torch.utils.benchmark.utils.cpp_jit "
    "torch.utils.benchmark.utils.timer torch.utils.benchmark.utils.valgrind_wrapper "
    "torch.utils.bottleneck "
    "torch.utils.collect_env torch.utils.cpp_extension torch.utils.hipify "
    "torch.utils.model_dump torch.utils.model_zoo torch.utils.tensorboard "
    "torch.utils._config_module torch.utils._cpp_extension_versioner "
    "torch.utils.data.datapipes.utils.decoder torch._inductor "
    "torch._dynamo.bytecode_transformation torch._dynamo.codegen "
    "torch._dynamo.debug_utils torch._dynamo.guards torch._dynamo.package "
    "torch._dynamo.precompile_context torch._dynamo.repro torch._dynamo.test_case "
    "torch._dynamo.testing "
    "torch._export.serde torch.export.pt2_archive torch.fx.experimental.symbolic_shapes "
    "numpy.compat numpy.ctypeslib numpy.distutils numpy.f2py numpy.testing numpy._pytesttester "
    "numpy.lib.npyio numpy.lib._npyio_impl numpy.lib.format numpy.lib._format_impl "
    "numpy.lib._datasource pandas.io pandas.core.computation scipy.io "
    "sympy.parsing sympy.utilities.autowrap sympy.utilities.codegen sympy.utilities.lambdify"
)

# Modules of which only these are harmless.
_ALL_BUT: dict[str, frozenset[str]] = {
    "inspect": words(
        "Signature Parameter BoundArguments _ParameterKind _empty _void ArgSpec FullArgSpec "
        "ArgInfo Arguments Attribute"
    ),
    # parts of compiled modules, which compile nothing by being made
    "torch._dynamo.convert_frame": words(
        "CatchErrorsWrapper ConvertFrame ConvertFrameAssert ConvertFrameBox"
    ),
    "torch._dynamo.repro.after_dynamo": frozenset({"WrapBackendDebug"}),
}

# Modules with harmless names too, or that people also call their own modules.  A name
# counts whole or as the first part of a dotted one: Profile is Profile.run too.
_NAMES_OF: dict[str, frozenset[str]] = {
    # getattr is not here: torch.save(model.state_dict, f), without the parentheses, writes
    # it, and it does nothing alone.  What it is asked for is judged by _arguments.py.
    "builtins": words(
        "eval exec execfile compile open file input raw_input apply reload breakpoint __import__ "
        "__build_class__ __loader__ __spec__ globals locals vars setattr delattr "
        "exit quit help license credits copyright"
    ),
    "operator": frozenset({"attrgetter", "methodcaller"}),
    "code": frozenset(
        {"InteractiveInterpreter", "InteractiveConsole", "interact", "compile_command"}
    ),
    "codecs": frozenset({"open"}),
    "concurrent.futures": frozenset({"ProcessPoolExecutor", "ThreadPoolExecutor"}),
    # an opcode of its own calls what was added to the registry
    "copyreg": frozenset(
        {"add_extension", "remove_extension", "clear_extension_cache", "constructor", "pickle"}
        | {"_extension_registry", "_extension_cache", "_inverted_registry", "dispatch_table"}
    ),
    # these run the source text that they are given
    "dataclasses": frozenset({"_create_fn", "_FuncBuilder", "make_dataclass"}),
    "typing": frozenset({"get_type_hints", "_eval_type", "evaluate_forward_ref"}),
    "profile": frozenset({"Profile", "run", "runctx", "main"}),
    "trace": frozenset({"Trace", "main"}),
    "types": frozenset({"CodeType", "FunctionType", "LambdaType"}),
    "_thread": frozenset(
        {"start_new_thread", "start_new", "start_joinable_thread", "interrupt_main"}
    ),
    "threading": frozenset({"Thread", "Timer", "_start_new_thread", "setprofile", "settrace"}),
    "weakref": frozenset({"finalize"}),
    "warnings": frozenset({"_getcategory", "_setoption", "_processoptions"}),
    "platform": words(
        "popen architecture libc_ver freedesktop_os_release _syscmd_ver _syscmd_file "
        "_syscmd_uname _node"
    ),
    "uuid": frozenset({"_get_command_stdout", "_popen", "_find_mac", "getnode"}),
    "pipes": frozenset({"Template"}),
    "logging": frozenset({"FileHandler", "basicConfig"}),
    "io": frozenset({"open", "open_code", "FileIO"}),
    "tokenize": frozenset({"open"}),
    "wave": frozenset({"open"}),
    "aifc": frozenset({"open"}),
    "sunau": frozenset({"open"}),
    "gzip": frozenset({"open", "GzipFile"}),
    "bz2": frozenset({"open", "BZ2File"}),
    "lzma": frozenset({"open", "LZMAFile"}),
    "xml.dom.minidom": frozenset({"parse"}),
    "xml.etree.ElementTree": frozenset({"parse", "iterparse"}),
    "xml.sax": frozenset({"parse", "make_parser", "_create_parser"}),
    "joblib": frozenset({"load", "dump", "Memory", "Parallel", "wrap_non_picklable_objects"}),
    "joblib.numpy_pickle": frozenset({"load", "dump", "_unpickle"}),
    "joblib.numpy_pickle_compat": frozenset({"load_compatibility", "ZNDArrayWrapper"}),
    "yaml": frozenset({"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load"}),
    "ruamel.yaml": frozenset({"YAML", "load", "load_all", "round_trip_load"}),
    "pandas": frozenset(
        {"eval", "HDFStore", "ExcelFile", "ExcelWriter"}
        | {f"read_{kind}" for kind in ("pickle", "csv", "table", "fwf", "json", "html", "xml")}
        | {f"read_{kind}" for kind in ("excel", "hdf", "feather", "parquet", "orc", "sas")}
        | {f"read_{kind}" for kind in ("spss", "stata", "sql", "sql_query", "sql_table")}
    ),
    "sympy": frozenset({"sympify", "parse_expr", "lambdify", "preview"}),
    "sympy.core.sympify": frozenset({"sympify"}),
    "keras.models": frozenset({"load_model", "model_from_json"}),
    "tensorflow.keras.models": frozenset({"load_model", "model_from_json"}),
    "numpy": words(
        "load loads save savez savez_compressed savetxt loadtxt genfromtxt fromfile fromregex "
        "memmap DataSource lookfor safe_eval"
    ),
    "numpy.core.multiarray": frozenset({"fromfile"}),
    "numpy.core.memmap": frozenset({"memmap"}),
    "numpy.core.records": frozenset({"fromfile"}),
    "numpy.core._methods": frozenset({"_dump", "_dumps"}),
    "numpy.lib.utils": frozenset({"lookfor", "safe_eval", "source"}),
    "torch": frozenset({"load", "save", "from_file", "compile"}),
    "torch.serialization": words(
        "load save _legacy_load _legacy_save _load _save _open_file _open_file_like "
        "_open_zipfile_reader _open_zipfile_writer _open_zipfile_writer_file add_safe_globals "
        "register_package get_unsafe_globals_in_checkpoint"
    ),
    "torch.jit": frozenset(
        {"load", "save", "CompilationUnit", "script", "jit_module_from_flatbuffer"}
    ),
    "torch.jit._serialization": frozenset(
        {"load", "save", "jit_module_from_flatbuffer", "save_jit_module_to_flatbuffer"}
    ),
    "torch.jit._script": frozenset({"CompilationUnit", "script"}),
    "torch.jit.mobile": frozenset({"_load_for_lite_interpreter"}),
    "torch.jit.unsupported_tensor_ops": frozenset({"execWrapper"}),
    "torch.compiler": frozenset({"load_cache_artifacts", "load_compiled_function"}),
    "torch.distributed": words(
        "init_process_group TCPStore FileStore HashStore PrefixStore launch"
    ),
    "torch._C._distributed_c10d": words("TCPStore FileStore HashStore PrefixStore"),
    "torch.export": frozenset({"load", "save"}),
    "torch.onnx": frozenset({"export", "dynamo_export"}),
    "torch.utils.benchmark": frozenset({"Timer"}),
    "torch._C": words(
        "PyTorchFileReader PyTorchFileWriter import_ir_module import_ir_module_from_buffer "
        "_import_ir_module_from_package _load_for_lite_interpreter "
        "_load_for_lite_interpreter_from_buffer _load_jit_module_from_file "
        "_load_jit_module_from_bytes _load_mobile_module_from_file "
        "_load_mobile_module_from_bytes _jit_script_compile CompilationUnit ScriptModule"
    ),
    "torch.ops": frozenset({"load_library"}),
    "torch.classes": frozenset({"load_library"}),
    # these run the source text that the pickle carries
    "torch.fx.graph_module": frozenset(
        {
            "_exec_with_source",
            "_forward_from_src",
            "_deserialize_graph_module",
            "reduce_graph_module",
            "reduce_package_graph_module",
            "reduce_deploy_graph_module",
        }
    ),
}
# The same modules under their other names.
_NAMES_OF["__builtins__"] = _NAMES_OF["builtins"]
_NAMES_OF["_operator"] = _NAMES_OF["operator"]
_NAMES_OF["_io"] = _NAMES_OF["_pyio"] = _NAMES_OF["io"]
for _module in ("numpy._core.multiarray", "numpy._core._multiarray_umath"):
    _NAMES_OF[_module] = _NAMES_OF["numpy.core.multiarray"]
_NAMES_OF["numpy.core._multiarray_umath"] = _NAMES_OF["numpy.core.multiarray"]
for _module in ("memmap", "records", "_methods"):
    _NAMES_OF[f"numpy._core.{_module}"] = _NAMES_OF[f"numpy.core.{_module}"]
_NAMES_OF["numpy.lib._utils_impl"] = _NAMES_OF["numpy.lib.utils"]

# Whatever the module, a name that leads to one of these modules (`torch`, `os.system`; a
# private `_os` leads there too) or to one of these attributes (`numpy`, `ndarray.tofile`).
_REACHED_MODULES = words(
    "os posix nt sys subprocess socket shutil runpy importlib pty builtins __builtin__ "
    "__builtins__ ctypes pickle cPickle marshal operator"
)
_REACHED_ATTRIBUTES = words(
    "system popen eval exec exec_ execfile compile __import__ loads load_library load_module "
    "exec_module import_module runcode runcommand runsource runctx open_code "
    "read_text read_bytes write_text write_bytes unlink rmdir rmtree symlink_to hardlink_to "
    "tofile fromfile from_file memmap from_pretrained "
    "func_globals f_globals f_builtins gi_frame cr_frame ag_frame tb_frame"
)
# Of names in double underscores, only these lead nowhere.
_HARMLESS_DUNDERS = words(
    "__call__ __getitem__ __contains__ __len__ __iter__ __next__ __eq__ __ne__ __lt__ __le__ "
    "__gt__ __ge__ __hash__ __str__ __repr__ __add__ __sub__ __mul__ __truediv__ __neg__ "
    "__version__ __name__ __doc__"
)

# Libraries that carry the standard library's modules under names of their own:
# `six.moves.builtins`, `gevent.subprocess`, `eventlet.green.os`.
_CARRIED = words(
    "os posix subprocess socket shutil runpy importlib pty builtins __builtin__ ctypes pickle "
    "cPickle _pickle cloudpickle dill marshal"
)

_COMPUTED = "?"  # a part of a name that the pickle does not state, but computes


def leads_on(attribute: str) -> bool:
    """Whether an attribute of whatever object leads to code, files or whole modules."""
    if attribute[:2] == attribute[-2:] == "__" and attribute not in _HARMLESS_DUNDERS:
        return True
    return attribute in _REACHED_ATTRIBUTES or attribute.lstrip("_") in _REACHED_MODULES


@lru_cache(maxsize=1024)  # of a process that loads many files alike
def verdict(module: str, name: str) -> Verdict:
    """Judge the global `module`.`name` of a pickle: plain, unknown or dangerous."""
    pairs = {(module, name), normalise(module, name)}
    # A line end of another system does not make another module of it to a reader's eye.
    pairs.add((module.strip(), name.strip()))
    if any(_dangerous(*pair) for pair in pairs):
        return "dangerous"
    return "plain" if is_plain(module, name) else "unknown"


def is_plain(module: str, name: str) -> bool:
    """Whether a global is one of the names that make tensors and plain values."""
    module, name = normalise(module, name)
    return name in _PLAIN.get(module, ())


def _dangerous(module: str, name: str) -> bool:
    if is_plain(module, name):
        return False
    if _COMPUTED in (module, name):
        return True
    parts = name.split(".")
    if parts[0] in _NAMES_OF.get(module, ()):
        return True
    harmless = _ALL_BUT.get(module)
    if harmless is not None:
        return parts[0] not in harmless or any(leads_on(part) for part in parts)
    if not _CARRIED.isdisjoint(module.split(".")[1:]):
        return True
    while module:
        if module in _MODULES_AT_ALL:
            return True
        module = module.rpartition(".")[0]
    return any(leads_on(part) for part in parts)
