/* SPDX-License-Identifier: Apache-2.0
 *
 * Archive: an opened checkpoint of whatever container, and the Source it looks into.
 */
#include "py_module.h"

/* ---------------------------------------------------------------- inflating */

/*
 * The interpreter's own zlib, called from inside the core: the GIL is taken
 * with the thread state that gave it up.  The size is known in advance and one
 * byte more is asked for, so a stream that gives more is noticed, not believed.
 */
static PyObject *
inflated(psd_span deflated, size_t size, PyObject **inflater, PyObject **error)
{
    PyObject *zlib = PyImport_ImportModule("zlib");
    PyObject *view = NULL, *bytes = NULL;
    if (zlib != NULL) {
        *error = PyObject_GetAttrString(zlib, "error");
    }
    if (*error != NULL) {
        *inflater = PyObject_CallMethod(zlib, "decompressobj", "i", -15);
    }
    if (*inflater != NULL) {
        view = PyMemoryView_FromMemory((char *)(uintptr_t)deflated.data,
                                       (Py_ssize_t)deflated.size, PyBUF_READ);
    }
    if (view != NULL) {
        bytes = PyObject_CallMethod(*inflater, "decompress", "On", view,
                                    (Py_ssize_t)size + 1);
    }
    Py_XDECREF(view);
    Py_XDECREF(zlib);
    return bytes;
}

/* Did the stream end just where its bytes do?  -1 with an exception set. */
static int
is_whole(PyObject *inflater)
{
    PyObject *eof = PyObject_GetAttrString(inflater, "eof");
    PyObject *rest =
        eof == NULL ? NULL : PyObject_GetAttrString(inflater, "unused_data");
    int whole = rest == NULL ? -1 : eof == Py_True && PyBytes_Size(rest) == 0;
    Py_XDECREF(rest);
    Py_XDECREF(eof);
    return whole;
}

/* zlib's own error is pending: is it the stream's fault?  By its number zlib tells of
 * want of memory (Z_MEM_ERROR), too; then MemoryError is pending. */
static psd_status
judge_error(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *text = value == NULL ? NULL : PyObject_Str(value);
    PyObject *memory = text == NULL ? NULL : PyUnicode_FromString("Error -4 ");
    Py_ssize_t found = -1;
    if (memory != NULL) {
        found = PyUnicode_Tailmatch(text, memory, 0, PY_SSIZE_T_MAX, -1);
    }
    Py_XDECREF(memory);
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    if (found == 1) {
        PyErr_NoMemory();
    }
    return found == 0 ? PSD_INFLATE : PSD_INPUT;
}

static psd_status
inflate_with_gil(psd_span deflated, uint8_t *into, size_t size)
{
    if (size >= PY_SSIZE_T_MAX) {
        PyErr_NoMemory();
        return PSD_INPUT;
    }
    PyObject *inflater = NULL, *error = NULL;
    PyObject *bytes = inflated(deflated, size, &inflater, &error);
    psd_status status = PSD_INPUT;
    if (bytes == NULL) {
        if (inflater != NULL && PyErr_ExceptionMatches(error)) {
            status = judge_error();
        }
    }
    else {
        char *data;
        Py_ssize_t count;
        int whole = is_whole(inflater);
        if (whole >= 0 && PyBytes_AsStringAndSize(bytes, &data, &count) == 0) {
            status = whole && (size_t)count == size ? PSD_OK : PSD_INFLATE;
        }
        if (status == PSD_OK && size > 0) {
            memcpy(into, data, size);
        }
    }
    Py_XDECREF(bytes);
    Py_XDECREF(inflater);
    Py_XDECREF(error);
    return status;
}

static psd_status
inflate(void *ctx, psd_span deflated, uint8_t *into, size_t size)
{
    py_gil *gil = ctx;
    PyEval_RestoreThread(gil->thread);
    psd_status status = inflate_with_gil(deflated, into, size);
    gil->thread = PyEval_SaveThread();
    return status;
}

psd_options
py_options(py_state *state, const psd_limits *limits, py_gil *gil)
{
    return (psd_options){
        .alloc = py_page_alloc(),
        .limits = *limits,
        .key = state->key,
        .inflate = inflate,
        .inflate_ctx = gil,
    };
}

/* ---------------------------------------------------------------- opening */

static py_archive *
archive_alloc(py_state *state)
{
    PyTypeObject *type = state->archive_type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    py_archive *self = (py_archive *)alloc(type, 0);
    if (self != NULL) {
        self->state = state;
    }
    return self;
}

/* Give the pending exception the names that the pickle had told before it went wrong:
 * damage must not hide what it would have run. */
static void
tell_globals(py_archive *self)
{
    PyObject *type, *value, *traceback;
    if (self->core.pool.count == 0 || PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return;
    }
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *named = py_globals(&self->core.pool, self->core.program_offset, true);
    bool told = named != NULL && PyObject_SetAttrString(value, "named", named) == 0;
    Py_XDECREF(named);
    if (told) {
        PyErr_Restore(type, value, traceback);
        return;
    }
    /* No memory even for that: the pending MemoryError is what happened. */
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

static bool
mode_named(const char *name, psd_open_mode *mode)
{
    static const char *const names[] = {
        [PSD_OPEN_CHECKPOINT] = "checkpoint", [PSD_OPEN_PICKLE] = "pickle",
        [PSD_OPEN_RECORDS] = "records",       [PSD_OPEN_EXACT] = "exact",
        [PSD_OPEN_BYTES] = "bytes",
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *mode = (psd_open_mode)i;
            return true;
        }
    }
    PyErr_Format(PyExc_ValueError, "there is no mode '%s'", name);
    return false;
}

PyObject *
py_open_archive(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"source", "path",   "limits",  "run",
                            "mode",   "record", "salvage", NULL};
    py_state *state = py_state_of(module);
    PyObject *source, *path = Py_None, *limit_dict = Py_None;
    const char *mode_name = "checkpoint", *record = "";
    Py_ssize_t record_size = 0;
    int run = 1, salvage = 0;
    psd_limits limits;
    psd_open_mode mode;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|OOp$ss#p:open_archive", names,
                                     state->source_type, &source, &path, &limit_dict,
                                     &run, &mode_name, &record, &record_size,
                                     &salvage) ||
        !py_limits(limit_dict, &limits) || !mode_named(mode_name, &mode)) {
        return NULL;
    }
    py_archive *self = archive_alloc(state);
    if (self == NULL) {
        return NULL;
    }
    py_gil gil;
    psd_options options = py_options(state, &limits, &gil);
    options.mode = mode;
    options.salvage = salvage != 0;
    options.record = (psd_span){(const uint8_t *)record, (size_t)record_size};
    psd_archive_init(&self->core, &options);
    self->source = Py_NewRef(source);
    self->path = Py_NewRef(path);
    self->stamp = py_source_stamp(source);
    self->made = PyDict_New();
    if (self->made == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    py_input in;
    py_source_input(source, &in);
    psd_error err;
    gil.thread = PyEval_SaveThread();
    psd_status status = psd_archive_open(&self->core, &in.input, &err);
    if (status == PSD_OK && run) {
        status = psd_archive_run(&self->core, &in.input, &err);
    }
    PyEval_RestoreThread(gil.thread);
    self->core.options.inflate_ctx = NULL; /* it was this function's own */
    self->ran = run != 0;
    if (status != PSD_OK) {
        py_raise_input(&in, &err);
        tell_globals(self);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
archive_dealloc(PyObject *object)
{
    py_archive *self = (py_archive *)object;
    PyTypeObject *type = Py_TYPE(object);
    psd_archive_clear(&self->core);
    Py_XDECREF(self->source);
    Py_XDECREF(self->path);
    Py_XDECREF(self->stamp);
    Py_XDECREF(self->kind);
    Py_XDECREF(self->extra);
    Py_XDECREF(self->place);
    Py_XDECREF(self->made);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Without a GIL a close() could come between looking at the source and holding it. */
#ifndef Py_GIL_DISABLED
#define BEGIN_ALONE(object) {
#define END_ALONE() }
#else
#define BEGIN_ALONE(object) Py_BEGIN_CRITICAL_SECTION(object)
#define END_ALONE() Py_END_CRITICAL_SECTION()
#endif

/* ClosedError with the file's path; returns NULL. */
static PyObject *
raise_closed(py_archive *self)
{
    PyObject *module = PyImport_ImportModule("pystatedict._errors");
    PyObject *error = module == NULL ? NULL
                                     : PyObject_CallMethod(module, "ClosedError", "s",
                                                           "the checkpoint was closed");
    Py_XDECREF(module);
    if (error != NULL && PyObject_SetAttrString(error, "path", self->path) == 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    return NULL;
}

PyObject *
py_archive_hold(py_archive *self, py_input *input)
{
    PyObject *source;
    BEGIN_ALONE(self);
    source = Py_XNewRef(self->source);
    END_ALONE();
    if (source == NULL) {
        return raise_closed(self);
    }
    py_source_input(source, input);
    return source;
}

/* ---------------------------------------------------------------- records */

static PyObject *
record_row(const psd_zip_entry *e)
{
    PyObject *name = py_text(e->name);
    return name == NULL
               ? NULL
               : Py_BuildValue("(NKKKkH)", name, (unsigned long long)e->header_offset,
                               (unsigned long long)e->stored_size,
                               (unsigned long long)e->size, (unsigned long)e->crc32,
                               (unsigned short)e->method);
}

static PyObject *
archive_records(PyObject *object, PyObject *Py_UNUSED(none))
{
    const psd_zip *zip = &((py_archive *)object)->core.zip;
    PyObject *list = PyList_New((Py_ssize_t)zip->count);
    for (uint32_t i = 0; list != NULL && i < zip->count; i++) {
        PyObject *row = record_row(&zip->entries[i]);
        if (row == NULL || PyList_SetItem(list, (Py_ssize_t)i, row) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* What the three methods over one record have in common. */
typedef struct {
    py_archive *self;
    const psd_zip_entry *entry;
    py_input in;
    PyObject *source; /* held, so that a close() elsewhere cannot let go */
    psd_archive view; /* the archive with an inflater of this call */
    py_gil gil;
} record_call;

static bool
begin_record(record_call *c, PyObject *object, PyObject *index)
{
    c->self = (py_archive *)object;
    unsigned long number = PyLong_AsUnsignedLong(index);
    c->source = PyErr_Occurred() == NULL ? py_archive_hold(c->self, &c->in) : NULL;
    if (c->source == NULL) {
        return false;
    }
    if (number >= c->self->core.zip.count) {
        PyErr_SetString(PyExc_IndexError, "there is no record of that number");
        Py_DECREF(c->source);
        return false;
    }
    c->entry = &c->self->core.zip.entries[number];
    c->view = c->self->core;
    c->view.options.inflate_ctx = &c->gil;
    return true;
}

static PyObject *
archive_read(PyObject *object, PyObject *index)
{
    record_call c;
    if (!begin_record(&c, object, index)) {
        return NULL;
    }
    psd_arena arena;
    psd_span bytes;
    uint64_t offset;
    psd_error err;
    psd_arena_init(&arena, py_page_alloc());
    c.gil.thread = PyEval_SaveThread();
    psd_status status =
        psd_archive_fetch(&c.view, &c.in.input, c.entry, &arena, &bytes, &offset, &err);
    PyEval_RestoreThread(c.gil.thread);
    Py_DECREF(c.source);
    PyObject *result = status == PSD_OK
                           ? PyBytes_FromStringAndSize((const char *)bytes.data,
                                                       (Py_ssize_t)bytes.size)
                           : py_raise_input(&c.in, &err);
    psd_arena_clear(&arena);
    return result;
}

static PyObject *
archive_verify(PyObject *object, PyObject *index)
{
    record_call c;
    if (!begin_record(&c, object, index)) {
        return NULL;
    }
    bool checked;
    psd_error err;
    c.gil.thread = PyEval_SaveThread();
    psd_status status =
        psd_archive_verify(&c.view, &c.in.input, c.entry, &checked, &err);
    PyEval_RestoreThread(c.gil.thread);
    Py_DECREF(c.source);
    return status == PSD_OK ? PyBool_FromLong(checked) : py_raise_input(&c.in, &err);
}

static PyObject *
archive_crc32(PyObject *object, PyObject *index)
{
    record_call c;
    if (!begin_record(&c, object, index)) {
        return NULL;
    }
    uint32_t crc;
    psd_error err;
    c.gil.thread = PyEval_SaveThread();
    psd_status status = psd_archive_crc32(&c.view, &c.in.input, c.entry, &crc, &err);
    PyEval_RestoreThread(c.gil.thread);
    Py_DECREF(c.source);
    return status == PSD_OK ? PyLong_FromUnsignedLong(crc)
                            : py_raise_input(&c.in, &err);
}

static PyObject *
archive_locate(PyObject *object, PyObject *index)
{
    record_call c;
    if (!begin_record(&c, object, index)) {
        return NULL;
    }
    PyObject *result = Py_None;
    if (c.entry->method == PSD_ZIP_STORED) {
        uint64_t offset;
        psd_error err;
        result = psd_zip_locate(&c.in.input, c.entry, &offset, &err) == PSD_OK
                     ? PyLong_FromUnsignedLongLong(offset)
                     : py_raise_input(&c.in, &err);
    }
    Py_DECREF(c.source);
    return result == Py_None ? Py_NewRef(Py_None) : result;
}

static PyObject *
archive_storage_crc32(PyObject *object, PyObject *args)
{
    py_archive *self = (py_archive *)object;
    unsigned long storage;
    if (!PyArg_ParseTuple(args, "k:storage_crc32", &storage)) {
        return NULL;
    }
    if (storage >= self->core.model.storage_count) {
        PyErr_SetString(PyExc_IndexError, "there is no storage of that number");
        return NULL;
    }
    py_input in;
    PyObject *source = py_archive_hold(self, &in);
    if (source == NULL) {
        return NULL;
    }
    py_gil gil;
    psd_archive view = self->core;
    view.options.inflate_ctx = &gil;
    uint32_t crc;
    psd_error err;
    gil.thread = PyEval_SaveThread();
    psd_status status =
        psd_archive_storage_crc32(&view, &in.input, (uint32_t)storage, &crc, &err);
    PyEval_RestoreThread(gil.thread);
    Py_DECREF(source);
    return status == PSD_OK ? PyLong_FromUnsignedLong(crc) : py_raise_input(&in, &err);
}

static PyObject *
archive_storage_records(PyObject *object, PyObject *Py_UNUSED(none))
{
    const psd_archive *core = &((py_archive *)object)->core;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < core->model.storage_count; i++) {
        const psd_zip_entry *entry = psd_archive_storage_entry(core, i);
        PyObject *name = entry == NULL ? Py_NewRef(Py_None) : py_text(entry->name);
        if (name == NULL || PyList_Append(list, name) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *
archive_record_of(PyObject *object, PyObject *args)
{
    const psd_archive *core = &((py_archive *)object)->core;
    unsigned long storage;
    if (!PyArg_ParseTuple(args, "k:record_of", &storage)) {
        return NULL;
    }
    if (storage >= core->model.storage_count) {
        PyErr_SetString(PyExc_IndexError, "there is no storage of that number");
        return NULL;
    }
    const psd_zip_entry *entry = psd_archive_storage_entry(core, (uint32_t)storage);
    return entry == NULL ? Py_NewRef(Py_None) : record_row(entry);
}

static PyObject *
archive_lose(PyObject *object, PyObject *args)
{
    py_archive *self = (py_archive *)object;
    PyObject *list;
    if (!PyArg_ParseTuple(args, "O!:lose", &PyList_Type, &list)) {
        return NULL;
    }
    Py_ssize_t count = PyList_Size(list);
    uint32_t *storages = calloc(count == 0 ? 1 : (size_t)count, sizeof *storages);
    if (storages == NULL) {
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long number = PyLong_AsUnsignedLong(PyList_GetItem(list, i));
        if (PyErr_Occurred() == NULL && number >= self->core.model.storage_count) {
            PyErr_SetString(PyExc_IndexError, "there is no storage of that number");
        }
        storages[i] = (uint32_t)number;
    }
    bool sound = PyErr_Occurred() == NULL;
    if (sound) {
        psd_archive_lose(&self->core, storages, (size_t)count);
    }
    free(storages);
    return sound ? Py_NewRef(Py_None) : NULL;
}

/* ---------------------------------------------------------------- globals */

static bool
require_run(py_archive *self)
{
    if (!self->ran) {
        PyErr_SetString(PyExc_ValueError, "the archive was opened with run=False");
        return false;
    }
    return true;
}

static PyObject *
archive_globals(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"unknown_only", NULL};
    py_archive *self = (py_archive *)object;
    int unknown_only = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:globals", names,
                                     &unknown_only) ||
        !require_run(self)) {
        return NULL;
    }
    return py_globals(&self->core.pool, self->core.program_offset, unknown_only != 0);
}

/* ---------------------------------------------------------------- values */

/* A ref given from Python: 0 is the root.  0 with an exception set if wrong. */
static psd_ref
ref_of(py_archive *self, unsigned long number)
{
    if (!require_run(self)) {
        return 0;
    }
    psd_ref ref = number == 0 ? self->core.pickle.root : (psd_ref)number;
    if (number > self->core.pool.count || ref == 0) {
        PyErr_SetString(PyExc_IndexError, "there is no value of that number");
        return 0;
    }
    return ref;
}

typedef PyObject *(*ref_function)(py_archive *, psd_ref);

static PyObject *
over_ref(PyObject *object, PyObject *args, const char *format, ref_function function)
{
    unsigned long number = 0;
    if (!PyArg_ParseTuple(args, format, &number)) {
        return NULL;
    }
    psd_ref ref = ref_of((py_archive *)object, number);
    return ref == 0 ? NULL : function((py_archive *)object, ref);
}

static PyObject *
archive_tensors(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:tensors", py_tree_tensors);
}

static PyObject *
archive_shapes(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:shapes", py_tree_shapes);
}

static PyObject *
archive_direct(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:direct", py_tree_direct);
}

static PyObject *
archive_children(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:children", py_tree_children);
}

static PyObject *
archive_holding(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:holding", py_tree_holding);
}

static PyObject *
archive_called(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:called", py_tree_called);
}

static PyObject *
has_direct(py_archive *self, psd_ref ref)
{
    return PyBool_FromLong(py_tree_has_direct(self, ref));
}

static PyObject *
archive_has_direct(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:has_direct", has_direct);
}

static PyObject *
kind_of(py_archive *self, psd_ref ref)
{
    return PyUnicode_FromString(py_tree_kind(self, ref));
}

static PyObject *
archive_kind_of(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:kind_of", kind_of);
}

/* 0 when the value is no module; None when its state_dict would be too large. */
static PyObject *
state_dict_of(py_archive *self, psd_ref ref)
{
    const psd_module *module = psd_model_module(&self->core.model, ref);
    if (module != NULL && module->state_dict == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(module == NULL ? 0 : module->state_dict);
}

static PyObject *
archive_state_dict(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:state_dict", state_dict_of);
}

static PyObject *
archive_methods_of_modules(PyObject *object, PyObject *Py_UNUSED(none))
{
    py_archive *self = (py_archive *)object;
    const psd_model *model = &self->core.model;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < model->module_count; i++) {
        if (model->modules[i].method == 0) {
            continue;
        }
        PyObject *name = py_leaf(self, model->modules[i].method);
        if (name == NULL || PyList_Append(list, name) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    return list;
}

/* The name of a function or class, of what calls it, or nothing. */
static PyObject *
name_of(py_archive *self, psd_ref ref)
{
    const psd_value *v = psd_value_at(&self->core.pool, ref);
    if (v->kind == PSD_KIND_CALL) {
        v = psd_value_at(&self->core.pool, v->as.call->callable);
    }
    if (v->kind != PSD_KIND_GLOBAL) {
        return PyUnicode_FromString("");
    }
    PyObject *module = py_text(v->as.global->module);
    PyObject *name = py_text(v->as.global->name);
    PyObject *text = module == NULL || name == NULL
                         ? NULL
                         : PyUnicode_FromFormat("%U.%U", module, name);
    Py_XDECREF(module);
    Py_XDECREF(name);
    return text;
}

/* [(path, what, is it a hook?), ...] of a list that the torch pass has made. */
PyObject *
py_untold(py_archive *self, psd_ref ref)
{
    const psd_pool *pool = &self->core.pool;
    const psd_module *module = psd_model_module(&self->core.model, ref);
    PyObject *list = PyList_New(0);
    psd_ref made = module == NULL ? 0 : module->untold;
    const psd_value *rows = psd_value_at(pool, made);
    for (uint32_t i = 0; made != 0 && list != NULL && i < rows->count; i++) {
        const psd_ref *part = psd_value_at(pool, rows->as.items[i])->as.items;
        bool is_hook = psd_value_at(pool, part[2])->as.boolean;
        PyObject *path = py_leaf(self, part[0]);
        PyObject *what = path == NULL ? NULL : name_of(self, part[1]);
        PyObject *row = what == NULL
                            ? NULL
                            : PyTuple_Pack(3, path, what, is_hook ? Py_True : Py_False);
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
        Py_XDECREF(what);
        Py_XDECREF(path);
    }
    return list;
}

static PyObject *
archive_untold(PyObject *object, PyObject *args)
{
    return over_ref(object, args, "|k:untold", py_untold);
}

static void
raise_unborn(const psd_pool *pool)
{
    psd_error err;
    if (psd_pool_fail(pool, &err) != PSD_OK) {
        py_raise(&err);
    }
}

/* One (name, value, is a parameter) as two refs; false with an exception set. */
static bool
note_entry(py_archive *self, PyObject *row, psd_ref *refs)
{
    const char *name;
    Py_ssize_t size;
    unsigned long number;
    int parameter;
    if (!PyArg_ParseTuple(row, "s#kp", &name, &size, &number, &parameter)) {
        return false;
    }
    psd_pool *pool = &self->core.pool;
    if (number == 0 || number > pool->count) {
        PyErr_SetString(PyExc_IndexError, "there is no value of that number");
        return false;
    }
    psd_span text =
        psd_arena_copy(pool->arena, (psd_span){(const uint8_t *)name, (size_t)size});
    refs[0] = text.data == NULL ? 0 : psd_new_text(pool, PSD_KIND_TEXT, text);
    refs[1] = (psd_ref)number;
    const psd_value *v = psd_value_at(pool, refs[1]);
    if (v->kind == PSD_KIND_TENSOR) {
        self->core.model.tensors[v->as.index].flags |=
            (uint8_t)(parameter ? PSD_TENSOR_PARAMETER : PSD_TENSOR_BUFFER);
    }
    if (refs[0] == 0) {
        raise_unborn(pool);
    }
    return refs[0] != 0;
}

static PyObject *
archive_note_module(PyObject *object, PyObject *args)
{
    py_archive *self = (py_archive *)object;
    unsigned long number;
    PyObject *entries;
    if (!PyArg_ParseTuple(args, "kO!:note_module", &number, &PyList_Type, &entries)) {
        return NULL;
    }
    psd_ref at = ref_of(self, number);
    Py_ssize_t count = PyList_Size(entries);
    if (at == 0 || (size_t)count > UINT32_MAX / 2) {
        return at == 0 ? NULL : PyErr_NoMemory();
    }
    psd_ref *refs = calloc(count == 0 ? 1 : (size_t)count * 2, sizeof *refs);
    bool done = refs != NULL;
    if (!done) {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count && done; i++) {
        done = note_entry(self, PyList_GetItem(entries, i), refs + 2 * i);
    }
    if (done && !psd_torch_note_module(&self->core.pool, &self->core.model, at, refs,
                                       (uint32_t)count * 2)) {
        raise_unborn(&self->core.pool);
        done = false;
    }
    free(refs);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
archive_info(PyObject *object, PyObject *args)
{
    py_archive *self = (py_archive *)object;
    unsigned long tensor;
    PyObject *name;
    if (!PyArg_ParseTuple(args, "kU:info", &tensor, &name)) {
        return NULL;
    }
    if (tensor >= self->core.model.tensor_count) {
        PyErr_SetString(PyExc_IndexError, "there is no tensor of that number");
        return NULL;
    }
    return py_info_new(self, (uint32_t)tensor, name);
}

static PyObject *
archive_load(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ref", "values", "copy", "meta", NULL};
    unsigned long number;
    PyObject *values;
    int copy = 0, meta = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "kO|$pp:load", names, &number,
                                     &values, &copy, &meta)) {
        return NULL;
    }
    psd_ref ref = ref_of((py_archive *)object, number);
    return ref == 0 ? NULL
                    : py_read((py_archive *)object, ref, values, copy != 0, meta != 0);
}

static PyObject *
archive_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    py_archive *self = (py_archive *)object;
    PyObject *source;
    BEGIN_ALONE(self);
    source = self->source;
    self->source = NULL;
    END_ALONE();
    Py_XDECREF(source); /* arrays hold it themselves */
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- attributes */

static PyObject *
archive_kind(PyObject *object, void *Py_UNUSED(closure))
{
    static const char *const names[] = {
        [PSD_ARCHIVE_CHECKPOINT] = "checkpoint",
        [PSD_ARCHIVE_SCRIPT] = "torchscript",
        [PSD_ARCHIVE_PACKAGE] = "package",
        [PSD_ARCHIVE_EXPORT] = "export",
        [PSD_ARCHIVE_RECORDS] = "records",
        [PSD_ARCHIVE_STREAM] = "legacy",
        [PSD_ARCHIVE_TAR] = "tar",
        [PSD_ARCHIVE_SAFETENSORS] = "safetensors",
        [PSD_ARCHIVE_PICKLE] = "pickle",
        [PSD_ARCHIVE_BYTES] = "bytes",
    };
    py_archive *self = (py_archive *)object;
    if (self->kind != NULL) {
        return Py_NewRef(self->kind);
    }
    return PyUnicode_FromString(names[self->core.kind]);
}

/* The container's own texts, a new dict. */
static PyObject *
notes_of(py_archive *self)
{
    const psd_value *v = psd_value_at(&self->core.pool, self->core.notes);
    PyObject *dict = PyDict_New();
    for (uint32_t i = 0; dict != NULL && i + 1 < v->count; i += 2) {
        PyObject *key = py_leaf(self, v->as.items[i]);
        PyObject *value = key == NULL ? NULL : py_leaf(self, v->as.items[i + 1]);
        if (value == NULL || PyDict_SetItem(dict, key, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
        Py_XDECREF(key);
    }
    return dict;
}

static PyObject *
archive_extra(PyObject *object, void *Py_UNUSED(closure))
{
    py_archive *self = (py_archive *)object;
    if (self->extra == NULL && self->core.notes != 0) {
        return notes_of(self);
    }
    return Py_NewRef(self->extra == NULL ? Py_None : self->extra);
}

static PyObject *
archive_place(PyObject *object, void *Py_UNUSED(closure))
{
    PyObject *place = ((py_archive *)object)->place;
    return Py_NewRef(place == NULL ? Py_None : place);
}

/* Once, before the archive is given to anyone. */
static PyObject *
archive_note_place(PyObject *object, PyObject *place)
{
    py_archive *self = (py_archive *)object;
    if (!PyUnicode_Check(place) || self->place != NULL) {
        PyErr_SetString(PyExc_ValueError, "a place is a text, and noted once");
        return NULL;
    }
    self->place = Py_NewRef(place);
    Py_RETURN_NONE;
}

static PyObject *
archive_byteorder(PyObject *object, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((py_archive *)object)->core.big_endian ? "big"
                                                                        : "little");
}

static PyObject *
archive_has_byteorder(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((py_archive *)object)->core.has_byteorder);
}

static PyObject *
archive_prefix(PyObject *object, void *Py_UNUSED(closure))
{
    return py_text(((py_archive *)object)->core.prefix);
}

static PyObject *
archive_record(PyObject *object, void *Py_UNUSED(closure))
{
    return py_text(((py_archive *)object)->core.options.record);
}

static PyObject *
archive_end(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((py_archive *)object)->core.end_offset);
}

static PyObject *
archive_protocol(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((py_archive *)object)->core.pickle.protocol);
}

static PyObject *
archive_pickle_size(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((py_archive *)object)->core.program.size);
}

static PyObject *
archive_tensor_count(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((py_archive *)object)->core.model.tensor_count);
}

static PyObject *
archive_storage_count(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((py_archive *)object)->core.model.storage_count);
}

static PyObject *
archive_root(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((py_archive *)object)->core.pickle.root);
}

static PyObject *
archive_closed(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((py_archive *)object)->source == NULL);
}

static PyObject *
archive_path(PyObject *object, void *Py_UNUSED(closure))
{
    return Py_NewRef(((py_archive *)object)->path);
}

static PyObject *
archive_stamp(PyObject *object, void *Py_UNUSED(closure))
{
    return Py_NewRef(((py_archive *)object)->stamp);
}

#define GETTER(name, doc) {#name, archive_##name, NULL, PyDoc_STR(doc), NULL}

static PyGetSetDef archive_getset[] = {
    GETTER(kind, "\"checkpoint\", \"legacy\", \"tar\", \"pickle\", \"torchscript\", "
                 "\"package\", \"export\", \"records\", \"safetensors\", or what "
                 "describe() says."),
    GETTER(stamp, "What the file looked like when it was opened, or None."),
    GETTER(extra, "What describe() was given with the tensors; of a safetensors file "
                  "its __metadata__."),
    GETTER(place, "What of root= led to this archive, in a file of several; or None."),
    GETTER(byteorder, "Byte order of the storages: \"little\" or \"big\"."),
    GETTER(has_byteorder, "Whether the archive states it."),
    GETTER(prefix, "The top folder with its slash."),
    GETTER(record, "The record that was asked for, or an empty text."),
    GETTER(end, "Where a legacy stream ends; 0 of other kinds."),
    GETTER(protocol, "Pickle protocol of the object."),
    GETTER(pickle_size, "Bytes of the object's pickle."),
    GETTER(tensor_count, "Tensors found in it."),
    GETTER(storage_count, "Storages found in it."),
    GETTER(root, "The number of the object that was saved."),
    GETTER(closed, "Whether close() was called."),
    GETTER(path, "The file's path, or None."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef archive_methods[] = {
    {"records", archive_records, METH_NOARGS,
     PyDoc_STR("records($self, /)\n--\n\n"
               "[(name, header offset, stored size, size, crc32, method), ...].")},
    {"read", archive_read, METH_O,
     PyDoc_STR("read($self, index, /)\n--\n\n"
               "The bytes of a record, by number.")},
    {"verify", archive_verify, METH_O,
     PyDoc_STR("verify($self, index, /)\n--\n\n"
               "Check a record's CRC-32; False when the archive states none.")},
    {"crc32", archive_crc32, METH_O,
     PyDoc_STR("crc32($self, index, /)\n--\n\n"
               "The CRC-32 of a record's bytes.")},
    {"locate", archive_locate, METH_O,
     PyDoc_STR("locate($self, index, /)\n--\n\n"
               "Where the bytes of a stored record begin; None of a deflated one.")},
    {"storage_crc32", archive_storage_crc32, METH_VARARGS,
     PyDoc_STR("storage_crc32($self, storage, /)\n--\n\n"
               "The CRC-32 of a storage's bytes, by number: stated or computed.")},
    {"read_storage", py_read_storage, METH_VARARGS,
     PyDoc_STR("read_storage($self, storage, offset, size, /)\n--\n\n"
               "So many bytes of a storage as they stand in the file, as a Source.")},
    {"record_of", archive_record_of, METH_VARARGS,
     PyDoc_STR("record_of($self, storage, /)\n--\n\n"
               "The row of records() in which a storage stands; None where in none.")},
    {"storage_records", archive_storage_records, METH_NOARGS,
     PyDoc_STR("storage_records($self, /)\n--\n\n"
               "The record of each storage by number, None where there is none.")},
    {"lose", archive_lose, METH_VARARGS,
     PyDoc_STR(
         "lose($self, storages, /)\n--\n\n"
         "Take storages for lost, by number; before the archive is given to anyone.")},
    {"globals", (PyCFunction)(void (*)(void))archive_globals,
     METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("globals($self, /, unknown_only=False)\n--\n\n"
               "[(module, name, position, called), ...] of the pickle, each once.")},
    {"tensors", archive_tensors, METH_VARARGS,
     PyDoc_STR("tensors($self, ref=0, /)\n--\n\n"
               "{dotted name: TensorInfo} below a value, in file order.")},
    {"shapes", archive_shapes, METH_VARARGS,
     PyDoc_STR("shapes($self, ref=0, /)\n--\n\n"
               "{dotted name: shape} of what tensors() tells.")},
    {"direct", archive_direct, METH_VARARGS,
     PyDoc_STR("direct($self, ref=0, /)\n--\n\n"
               "{key: TensorInfo} of the tensors that are a dict's own values.")},
    {"has_direct", archive_has_direct, METH_VARARGS,
     PyDoc_STR("has_direct($self, ref=0, /)\n--\n\n"
               "Whether a tensor is among a dict's own values.")},
    {"kind_of", archive_kind_of, METH_VARARGS,
     PyDoc_STR("kind_of($self, ref=0, /)\n--\n\n"
               "The kind of a value, as children() tells it.")},
    {"children", archive_children, METH_VARARGS,
     PyDoc_STR("children($self, ref=0, /)\n--\n\n"
               "[(key, ref, kind), ...] of a container, None of a leaf.")},
    {"holding", archive_holding, METH_VARARGS,
     PyDoc_STR("holding($self, ref=0, /)\n--\n\n"
               "What children() tells, without tensors and plain values.")},
    {"called", archive_called, METH_VARARGS,
     PyDoc_STR(
         "called($self, ref=0, /)\n--\n\n"
         "(module, name, ref of the arguments, ref of the state or 0) of an object "
         "that a call of a global makes; None of anything else.")},
    {"state_dict", archive_state_dict, METH_VARARGS,
     PyDoc_STR("state_dict($self, ref=0, /)\n--\n\n"
               "The ref of what a whole module's state_dict() would give; 0 of what is "
               "no module, None where it would be too large.")},
    {"untold", archive_untold, METH_VARARGS,
     PyDoc_STR(
         "untold($self, ref=0, /)\n--\n\n"
         "[(path, what, is it a hook?), ...] that a module's state_dict may lack.")},
    {"methods", archive_methods_of_modules, METH_NOARGS,
     PyDoc_STR("methods($self, /)\n--\n\n"
               "The names of the bound methods of whole modules in the file.")},
    {"note_module", archive_note_module, METH_VARARGS,
     PyDoc_STR(
         "note_module($self, ref, entries, /)\n--\n\n"
         "Say that the state_dict of `ref` is [(name, ref, is a parameter), ...]; "
         "before the archive is given to anyone.")},
    {"note_place", archive_note_place, METH_O,
     PyDoc_STR("note_place($self, place, /)\n--\n\n"
               "Say what of root= led to this archive; before it is given to anyone.")},
    {"describe", py_describe, METH_VARARGS,
     PyDoc_STR("describe($self, kind, storages, tensors, extra=None, /)\n--\n\n"
               "Say what tensors are in the bytes; before the archive is given to "
               "anyone.")},
    {"info", archive_info, METH_VARARGS,
     PyDoc_STR(
         "info($self, index, name, /)\n--\n\nThe TensorInfo of a tensor, by number.")},
    {"load", (PyCFunction)(void (*)(void))archive_load, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("load($self, /, ref, values, *, copy=False, meta=False)\n--\n\n"
               "The object of that number, tensors as arrays.")},
    {"close", archive_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\n"
               "Let go of the file's bytes.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot archive_slots[] = {
    {Py_tp_doc, "An opened checkpoint."},
    {Py_tp_dealloc, archive_dealloc},
    {Py_tp_methods, archive_methods},
    {Py_tp_getset, archive_getset},
    {0, NULL},
};

PyType_Spec py_archive_spec = {
    .name = "pystatedict._core.Archive",
    .basicsize = sizeof(py_archive),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = archive_slots,
};
