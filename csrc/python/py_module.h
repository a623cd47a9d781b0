/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the binding offer one another.  They translate: arguments
 * in, the GIL released around byte loops, statuses to exceptions, owners kept
 * alive.  Policy lives in the Python package.
 */
#ifndef PSD_PY_MODULE_H
#define PSD_PY_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "archive.h"

typedef struct {
    PyTypeObject *source_type;
    PyTypeObject *archive_type;
    PyTypeObject *info_type;
    psd_hash_key key; /* drawn from the interpreter's own hash secret */
} py_state;

py_state *py_state_of(PyObject *module);
py_state *py_state_of_type(PyTypeObject *type);

/* ------------------------------------------------------------------ py_module.c */

/* malloc and friends: the core works without the GIL.  What it gives, free() takes. */
psd_alloc py_alloc(void);

/* Bytes of a file as a str; what is no UTF-8 is escaped, not refused. */
PyObject *py_text(psd_span text);

/* Limits from None or a dict of names; false with an exception set. */
bool py_limits(PyObject *dict, psd_limits *limits);
PyObject *py_limits_as_dict(void);

/* ------------------------------------------------------------------- py_pages.c */

/* The same, for what may be large: only the alloc itself can let it go. */
psd_alloc py_page_alloc(void);

/* Zeros from there, and back; NULL when there is no memory, and no exception set. */
void *py_take_zeros(size_t size);
void py_free_zeros(void *memory, size_t size);

/* ------------------------------------------------------------------- py_error.c */

/* "corrupt", "unsupported", ... */
const char *py_family_name(psd_family family);

/* Set the exception of a failed call; returns NULL.  A pending one stays. */
PyObject *py_raise(const psd_error *err);

/* The exception of a failed call as an object; NULL with an exception set. */
PyObject *py_exception(const psd_error *err);

/* One of the package's own exceptions, by name; returns NULL. */
PyObject *py_raise_named(const char *class_name, const char *message);

/* ------------------------------------------------------------------ py_source.c */

extern PyType_Spec py_source_spec;

/* What a source gives: bytes at hand, or a file's, read as they are wanted.  Stays where
 * it is while the input is in use. */
typedef struct {
    psd_input input;
    int fd;
    uint64_t start;
    int error; /* errno of a read that failed, or PY_ENDED */
} py_input;

#define PY_ENDED (-1) /* the file ended where it had bytes before */

void py_source_input(PyObject *source, py_input *input);

/* py_raise() of what went wrong with this input; returns NULL. */
PyObject *py_raise_input(const py_input *input, const psd_error *err);

/* A buffer held open; steals nothing.  NULL with an exception set. */
PyObject *py_source_new(py_state *state, PyObject *buffer);
psd_span py_source_span(PyObject *source);
bool py_source_readonly(PyObject *source);

/* What the file looked like when it was opened, as it was given, or None; a new
 * reference. */
PyObject *py_source_stamp(PyObject *source);

/* A source over `size` fresh bytes, and where they are. */
PyObject *py_source_of_new_bytes(py_state *state, size_t size, uint8_t **bytes);

/* A read-only source over bytes that `owner` keeps alive; it must have no
 * bf_releasebuffer, since it never exported anything. */
PyObject *py_source_window(py_state *state, PyObject *owner, psd_span bytes);

/* -------------------------------------------------------------------- py_file.c */

/* Not on Windows, which has no pread. */
PyObject *py_read_file(PyObject *module, PyObject *args);
PyObject *py_begin_writeback(PyObject *module, PyObject *args);

/* ----------------------------------------------------------------- py_archive.c */

/* The inflater's context: how to take the GIL back inside the core. */
typedef struct {
    PyThreadState *thread;
} py_gil;

typedef struct {
    PyObject_HEAD
    psd_archive core;
    PyObject *source; /* NULL once closed */
    PyObject *path;   /* str or None */
    PyObject *stamp;  /* the source's */
    PyObject *kind;   /* what describe() says; else NULL */
    PyObject *extra;  /* what describe() gives with it; else NULL */
    PyObject
        *place; /* what of root= led here, in a file of several archives; else NULL */
    PyObject *made; /* {number: weak Source} of storages that TensorInfos had to copy */
    py_state *state;
    bool ran; /* data.pkl was run: pool and model are there */
} py_archive;

extern PyType_Spec py_archive_spec;

PyObject *py_open_archive(PyObject *module, PyObject *args, PyObject *kwargs);

/* The source of an open archive, a new reference, and its bytes as input; NULL with
 * ClosedError set.  While it is held a close() elsewhere lets nothing go. */
PyObject *py_archive_hold(py_archive *archive, py_input *input);

/* Options whose inflater uses `gil` for its thread state. */
psd_options py_options(py_state *state, const psd_limits *limits, py_gil *gil);

/* ----------------------------------------------------------------- py_storage.c */

/* The method Archive.read_storage. */
PyObject *py_read_storage(PyObject *object, PyObject *args);

/* ---------------------------------------------------------------- py_describe.c */

/* The method Archive.describe. */
PyObject *py_describe(PyObject *object, PyObject *args);

/* -------------------------------------------------------------------- py_scan.c */

PyObject *py_scan_pickle(PyObject *module, PyObject *args);

/* [(module, name, position, called), ...] of a pool, each once. */
PyObject *py_globals(const psd_pool *pool, uint64_t base, bool unknown_only);

/* -------------------------------------------------------------------- py_look.c */

/* (module, name), a new reference. */
PyObject *py_global_key(const psd_global *global);

/* A look into a pickle that was run. */
typedef struct {
    const psd_pool *pool;
    psd_span program;
    uint32_t *numbers; /* by value: its place in `nested` + 1, or 0; see is_watched */
    PyObject *nested;  /* [(offset, size) within the program, or bytes, ...] */
    PyObject *watched; /* {(module, name), ...}, or None */
    PyObject *keys;    /* of the calls: {(module, name): the same} */
    PyObject *calls;   /* {((module, name), arguments): how many} */
} py_look;

/* False with an exception set; clear it in any case. */
bool py_look_init(py_look *look, const psd_pool *pool, psd_span program,
                  PyObject *watched);
void py_look_clear(py_look *look);

/* Fill `nested`, and `calls` if anything is watched; false with an exception set. */
bool py_look_find(py_look *look);

/* -------------------------------------------------------------------- py_tree.c */

/* {dotted name: TensorInfo} below a value, in file order. */
PyObject *py_tree_tensors(py_archive *archive, psd_ref ref);
/* {name: shape} of the same. */
PyObject *py_tree_shapes(py_archive *archive, psd_ref ref);

/* {key: TensorInfo} of a dict's own tensors. */
PyObject *py_tree_direct(py_archive *archive, psd_ref ref);

/* Is there a tensor among a dict's own values? */
bool py_tree_has_direct(py_archive *archive, psd_ref ref);

/* "tensor", "dict", "list", "tuple", "module", "method", "object" or "value". */
const char *py_tree_kind(const py_archive *archive, psd_ref ref);

/* Is it collections.OrderedDict(), whose parts are its items? */
bool py_is_ordered_dict(const psd_pool *pool, const psd_call *call);

/* [(path, what, is it a hook?), ...] of what a module's state_dict may lack. */
PyObject *py_untold(py_archive *archive, psd_ref ref);

/* [(key, ref, kind), ...] or None. */
PyObject *py_tree_children(py_archive *archive, psd_ref ref);

/* The same of those children that are neither tensors nor values. */
PyObject *py_tree_holding(py_archive *archive, psd_ref ref);

/* (module, name, ref of the arguments, ref of the state or 0) of a call of a global;
 * None of anything else. */
PyObject *py_tree_called(py_archive *archive, psd_ref ref);

/* -------------------------------------------------------------------- py_info.c */

extern PyType_Spec py_info_spec;

PyObject *py_info_new(py_archive *archive, uint32_t tensor, PyObject *name);
/* A tuple of whole numbers. */
PyObject *py_numbers(const int64_t *v, unsigned count);

/* The tensor of a TensorInfo as an array. */
PyObject *py_info_array(PyObject *info);

/* -------------------------------------------------------------------- py_read.c */

/* A leaf, tuple or text as a Python object; NULL with an exception set. */
PyObject *py_leaf(py_archive *archive, psd_ref ref);

/* The object at `ref`; see Archive.load. */
PyObject *py_read(py_archive *archive, psd_ref ref, PyObject *values, bool copy,
                  bool meta);

/* Note, by the array's identity, what the tensor was besides its bytes.  `state`: its
 * attributes, or NULL.  False with an exception set. */
bool py_mark(py_archive *archive, uint32_t tensor, PyObject *values, PyObject *array,
             PyObject *state);

/* -------------------------------------------------------------------- py_cost.c */

/* What one reading has spent, and may still spend. */
typedef struct {
    psd_hash_key key;
    uint16_t *counts; /* keys, by hash and container */
    size_t slots;     /* of them, a power of two */
    uint64_t left;    /* items and bytes that may still be copied */
} py_cost;

/* False when there is no memory, and no exception set. */
bool py_cost_init(py_cost *cost, psd_hash_key key, size_t program_size);
void py_cost_clear(py_cost *cost);

/* Count a key of the container `target`: NULL, or the sentence of a LimitError. */
const char *py_cost_of_key(py_cost *cost, const psd_pool *pool, psd_ref target,
                           psd_ref ref, PyObject *key);

/* Count the bytes of an array that was made: NULL, or such a sentence. */
const char *py_cost_of_array(py_cost *cost, uint64_t size);

/* Count the copying of a value and of what it holds: NULL, or such a sentence. */
const char *py_cost_of_copy(py_cost *cost, const psd_pool *pool, psd_ref ref);

/* ------------------------------------------------------------------- py_array.c */

/* Makes the arrays of the storages [first, first + count) of one archive; what had
 * to be copied is kept, so that sharing stays. */
typedef struct {
    py_archive *archive;
    PyObject *source; /* the archive's, held until all are made */
    py_input input;
    PyObject *values; /* the Python side: dtypes, conj and neg */
    bool copy;
    bool shared; /* copies are looked up, and kept, in archive->made */
    PyObject *dtypes[PSD_DTYPE_COUNT];
    uint32_t first, count;
    struct py_base *bases; /* bases[storage - first] */
} py_arrays;

/* False with an exception set, ClosedError for one. */
bool py_arrays_init(py_arrays *arrays, py_archive *archive, PyObject *values, bool copy,
                    uint32_t first, uint32_t count);
void py_arrays_clear(py_arrays *arrays);
PyObject *py_arrays_make(py_arrays *arrays, uint32_t tensor);

/* An array as the writer sees it; strides in bytes. */
typedef struct {
    const uint8_t *data;
    const Py_ssize_t *shape;
    const Py_ssize_t *strides;
    Py_ssize_t itemsize;
    int rank;
    bool exact; /* no subclass, which may mean more than its bytes */
    bool plain; /* native byte order, strides >= 0 and whole items */
} py_array_view;

/* 1: an ndarray, looked into; 0: something else; -1: an exception is set.
 * Never imports NumPy: where it is not imported, there are no arrays. */
int py_array_look(PyObject *object, py_array_view *view);

bool py_host_is_big_endian(void);

/* The array's dtype object, a new reference. */
PyObject *py_array_dtype(PyObject *array);

/* ------------------------------------------------------------------- py_write.c */

PyObject *py_write(PyObject *module, PyObject *args, PyObject *kwargs);

/* -------------------------------------------------------------------- py_sink.c */

/* A psd_sink over a Python callable.  Pieces are gathered; long ones of storages are
 * handed on as they lie. */
typedef struct {
    py_state *state;
    PyObject *write;
    PyObject *owner; /* keeps the storages' bytes alive */
    const psd_span *storages;
    uint32_t storage_count, next; /* the storage that comes next */
    psd_span current;             /* the one that is being poured */
    PyObject *fetched;            /* a Source of what a supply gave last, or NULL */
    PyObject *room;               /* a Source over `gathered` */
    PyThreadState *thread;
    uint8_t *gathered;
    size_t size;
    uint64_t total;
} py_sink;

/* `storages` are poured in this order, and `owner` keeps them alive. */
bool py_sink_init(py_sink *sink, py_state *state, PyObject *write, PyObject *owner,
                  const psd_span *storages, uint32_t storage_count);
void py_sink_clear(py_sink *sink);
psd_sink py_sink_face(py_sink *sink);

/* Pour what is gathered; to be called without the GIL, as the core calls it. */
bool py_sink_flush(py_sink *sink);

#endif
