/* SPDX-License-Identifier: Apache-2.0
 *
 * Python objects to a pool, and the pool to a sink.
 *
 * Every value is made before its parts, with empty slots that a worklist fills:
 * no recursion, and a cycle finds what it returns to.  Arrays that look at the
 * same memory become one storage, whoever owns it.
 */
#include "py_writer.h"

bool
py_no_memory(void)
{
    PyErr_NoMemory();
    return false;
}

bool
py_keep(py_writer *w, PyObject *object)
{
    return PyList_Append(w->kept, object) == 0;
}

/* Keep an object that was made for us, and let go of our own reference. */
static bool
keep_new(py_writer *w, PyObject *object)
{
    bool kept = object != NULL && py_keep(w, object);
    Py_XDECREF(object);
    return kept;
}

bool
py_put(py_writer *w, PyObject *object, psd_ref *slot)
{
    if (!psd_grow(py_alloc(), (void **)&w->tasks, &w->task_capacity,
                  (uint64_t)w->task_count + 1, sizeof *w->tasks)) {
        return py_no_memory();
    }
    w->tasks[w->task_count++] = (py_task){.object = object, .slots = slot};
    return true;
}

bool
py_put_items(py_writer *w, PyObject *tuple, psd_ref *slots, Py_ssize_t count)
{
    if (count == 0) {
        return true;
    }
    if (!py_put(w, tuple, slots)) {
        return false;
    }
    w->tasks[w->task_count - 1].count = count;
    return true;
}

/* The next object that waits, and its slot. */
static PyObject *
take(py_writer *w, psd_ref **slot)
{
    py_task *top = &w->tasks[w->task_count - 1];
    PyObject *object = top->object;
    *slot = &top->slots[top->next];
    if (top->count > 0) {
        object = PyTuple_GetItem(object, top->next++);
    }
    w->task_count -= top->next == top->count;
    return object;
}

/* The worklist is a stack; turned round, its newest part is met in order. */
static void
turn_round(py_writer *w, uint32_t from)
{
    for (uint32_t a = from, b = w->task_count; a + 1 < b; a++, b--) {
        py_task t = w->tasks[a];
        w->tasks[a] = w->tasks[b - 1];
        w->tasks[b - 1] = t;
    }
}

/* ---------------------------------------------------------------- memo */

/* The number of a global met before, 0 if new; -1: an exception is set. */
static int64_t
known(py_writer *w, PyObject *key)
{
    PyObject *number = PyDict_GetItemWithError(w->globals, key); /* borrowed */
    if (number == NULL) {
        return PyErr_Occurred() == NULL ? 0 : -1;
    }
    return (int64_t)PyLong_AsLongLong(number);
}

static bool
remember(py_writer *w, PyObject *key, psd_ref ref)
{
    PyObject *number = PyLong_FromUnsignedLong(ref);
    bool done = number != NULL && PyDict_SetItem(w->globals, key, number) == 0;
    Py_XDECREF(number);
    return done;
}

bool
py_made(py_writer *w, psd_ref ref, psd_ref *slot)
{
    if (ref == 0) {
        if (!psd_pool_full(&w->pool)) {
            return py_no_memory();
        }
        PyErr_SetString(PyExc_ValueError, "too many values for one pickle");
        return false;
    }
    *slot = ref;
    return true;
}

/* ---------------------------------------------------------------- leaves */

/* The bytes of a text, which live as long as it and the writer; `errors` says what lone
 * surrogates stand for. */
static bool
utf8_of(py_writer *w, PyObject *object, const char *errors, psd_span *text)
{
    Py_ssize_t size;
    const char *data = PyUnicode_AsUTF8AndSize(object, &size);
    if (data == NULL) {
        PyErr_Clear();
        PyObject *bytes = PyUnicode_AsEncodedString(object, "utf-8", errors);
        char *raw = NULL;
        if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &raw, &size) < 0 ||
            !py_keep(w, bytes)) {
            Py_XDECREF(bytes);
            return false;
        }
        Py_DECREF(bytes);
        data = raw;
    }
    *text = (psd_span){(const uint8_t *)data, (size_t)size};
    return true;
}

static bool
write_text(py_writer *w, PyObject *object, psd_ref *slot)
{
    psd_span text;
    /* Pickles hold lone surrogates as three bytes each. */
    if (!utf8_of(w, object, "surrogatepass", &text)) {
        return false;
    }
    psd_ref *known_as = py_texts_find(&w->texts, &w->pool, PyObject_Hash(object), text);
    if (known_as == NULL) {
        return false;
    }
    if (*known_as == 0) {
        *known_as = psd_new_text(&w->pool, PSD_KIND_TEXT, text);
    }
    return py_made(w, *known_as, slot);
}

/* Beyond 64 bits: as the shortest two's complement that holds it. */
static bool
write_long(py_writer *w, PyObject *object, psd_ref *slot)
{
    PyObject *bits = PyObject_CallMethod(object, "bit_length", NULL);
    Py_ssize_t size = bits == NULL ? -1 : PyLong_AsSsize_t(bits) / 8 + 1;
    PyObject *method = bits == NULL ? NULL : PyObject_GetAttrString(object, "to_bytes");
    PyObject *args = method == NULL ? NULL : Py_BuildValue("(ns)", size, "little");
    PyObject *kwargs = args == NULL ? NULL : Py_BuildValue("{sO}", "signed", Py_True);
    PyObject *bytes = kwargs == NULL ? NULL : PyObject_Call(method, args, kwargs);
    char *data;
    bool done = false;
    if (bytes != NULL && PyBytes_AsStringAndSize(bytes, &data, &size) == 0 &&
        py_keep(w, bytes)) {
        psd_span span = {(const uint8_t *)data, (size_t)size};
        done = py_made(w, psd_new_text(&w->pool, PSD_KIND_LONG, span), slot);
    }
    Py_XDECREF(bytes);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(method);
    Py_XDECREF(bits);
    return done;
}

static bool
write_int(py_writer *w, PyObject *object, psd_ref *slot)
{
    int overflow;
    long long v = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0) {
        return write_long(w, object, slot);
    }
    return (v != -1 || PyErr_Occurred() == NULL) &&
           py_made(w, psd_new_int(&w->pool, v), slot);
}

/* bytes and bytearray; the latter may change, so it is copied. */
static bool
write_bytes(py_writer *w, PyObject *object, psd_kind kind, psd_ref *slot)
{
    char *data;
    Py_ssize_t size;
    PyObject *copy =
        kind == PSD_KIND_BYTES ? Py_NewRef(object) : PyBytes_FromObject(object);
    bool done = copy != NULL && PyBytes_AsStringAndSize(copy, &data, &size) == 0 &&
                py_keep(w, copy);
    Py_XDECREF(copy);
    if (!done) {
        return false;
    }
    psd_span span = {(const uint8_t *)data, (size_t)size};
    return py_made(w, psd_new_text(&w->pool, kind, span), slot) &&
           py_memo_put(&w->memo, object, *slot);
}

/* ---------------------------------------------------------------- containers */

/* A container's value with `count` empty slots; *slots are where to fill. */
static bool
new_container(py_writer *w, PyObject *object, psd_kind kind, size_t count,
              psd_ref *slot, psd_ref **slots)
{
    if (count > UINT32_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "a container has too many items");
        return false;
    }
    psd_ref *zeros = calloc(count == 0 ? 1 : count, sizeof *zeros);
    if (zeros == NULL) {
        return py_no_memory();
    }
    psd_ref ref = psd_new_items(&w->pool, kind, zeros, (uint32_t)count);
    free(zeros);
    if (!py_made(w, ref, slot) || !py_memo_put(&w->memo, object, ref)) {
        return false;
    }
    *slots = psd_value_at(&w->pool, ref)->as.items;
    return true;
}

/* A list may be changed by others while we write: its items are copied once. */
static bool
write_sequence(py_writer *w, PyObject *object, psd_kind kind, PyObject *items,
               psd_ref *slot)
{
    psd_ref *slots = NULL;
    Py_ssize_t count = PyTuple_Size(items);
    return count >= 0 && py_keep(w, items) &&
           new_container(w, object, kind, (size_t)count, slot, &slots) &&
           py_put_items(w, items, slots, count);
}

static bool
write_items_of(py_writer *w, PyObject *object, psd_kind kind, psd_ref *slot)
{
    PyObject *items = PySequence_Tuple(object);
    bool done = items != NULL && write_sequence(w, object, kind, items, slot);
    Py_XDECREF(items);
    return done;
}

#ifndef Py_GIL_DISABLED
/* Of a dict at one stroke: nothing runs meanwhile that could change it.  Only the making of
 * the tuple may have collected garbage, whose finalizers may do anything. */
static PyObject *
flat_pairs_of_dict(PyObject *dict)
{
    PyObject *flat = NULL;
    Py_ssize_t count;
    do {
        Py_XDECREF(flat);
        count = PyDict_Size(dict);
        flat = PyTuple_New(2 * count);
    } while (flat != NULL && count != PyDict_Size(dict));
    PyObject *key, *value; /* borrowed */
    Py_ssize_t place = 0, i = 0;
    while (flat != NULL && PyDict_Next(dict, &place, &key, &value)) {
        if (PyTuple_SetItem(flat, i, Py_NewRef(key)) < 0 ||
            PyTuple_SetItem(flat, i + 1, Py_NewRef(value)) < 0) {
            Py_CLEAR(flat);
        }
        i += 2;
    }
    return flat;
}
#endif

/* The pairs of a mapping as a flat tuple: key, value, key, value. */
static PyObject *
flat_pairs(PyObject *mapping)
{
#ifndef Py_GIL_DISABLED
    if (PyDict_CheckExact(mapping)) {
        return flat_pairs_of_dict(mapping);
    }
#endif
    PyObject *pairs = PyMapping_Items(mapping); /* a list of tuples, copied once */
    Py_ssize_t count = pairs == NULL ? -1 : PyList_Size(pairs);
    PyObject *flat = count < 0 ? NULL : PyTuple_New(2 * count);
    for (Py_ssize_t i = 0; flat != NULL && i < count; i++) {
        PyObject *pair = PyList_GetItem(pairs, i); /* borrowed */
        for (Py_ssize_t k = 0; flat != NULL && k < 2; k++) {
            PyObject *part = PyTuple_GetItem(pair, k); /* borrowed */
            if (part == NULL || PyTuple_SetItem(flat, 2 * i + k, Py_NewRef(part)) < 0) {
                Py_CLEAR(flat);
            }
        }
    }
    Py_XDECREF(pairs);
    return flat;
}

static bool
write_dict(py_writer *w, PyObject *object, psd_ref *slot)
{
    PyObject *flat = flat_pairs(object);
    bool done = flat != NULL && write_sequence(w, object, PSD_KIND_DICT, flat, slot);
    Py_XDECREF(flat);
    return done;
}

/* A set's order is that of this process's hashes: the Python side sorts it. */
static bool
write_set(py_writer *w, PyObject *object, psd_kind kind, psd_ref *slot)
{
    PyObject *sorted = PyObject_CallMethod(w->values, "sorted_items", "O", object);
    bool done = sorted != NULL && write_sequence(w, object, kind, sorted, slot);
    Py_XDECREF(sorted);
    return done;
}

/* ---------------------------------------------------------------- everything else */

static bool
write_global(py_writer *w, PyObject *module, PyObject *name, psd_ref *slot)
{
    PyObject *key = PyTuple_Pack(2, module, name);
    int64_t number = key == NULL ? -1 : known(w, key);
    if (number != 0) {
        Py_XDECREF(key);
        *slot = number > 0 ? (psd_ref)number : 0;
        return number > 0;
    }
    /* Names were read by py_text: what is no UTF-8 goes back as it came. */
    psd_span module_text, name_text;
    bool done = utf8_of(w, module, "surrogateescape", &module_text) &&
                utf8_of(w, name, "surrogateescape", &name_text) && py_keep(w, key) &&
                py_made(w, psd_new_global(&w->pool, module_text, name_text, 0), slot) &&
                remember(w, key, *slot);
    Py_DECREF(key);
    return done;
}

/* Slots for the parts of a call, in the arena. */
static psd_ref *
call_slots(py_writer *w, PyObject *parts, uint32_t *count)
{
    Py_ssize_t size = PyTuple_Size(parts);
    if (size < 0 || (size_t)size > UINT32_MAX / 2) {
        return NULL;
    }
    psd_ref *slots = psd_arena_take_array(&w->arena, (size_t)size, sizeof *slots);
    if (slots == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(slots, 0, (size_t)size * sizeof *slots);
    *count = (uint32_t)size;
    return slots;
}

/* (form, module, name, args, kwargs, items, appends, state); a callable that is
 * no plain name stands in `name`, with None as module. */
typedef struct {
    const char *form;
    PyObject *module, *name, *args, *kwargs, *items, *appends, *state;
} description;

static bool
put_call(py_writer *w, psd_call *call, const description *d)
{
    uint32_t from = w->task_count;
    bool done = (d->module != Py_None || py_put(w, d->name, &call->callable)) &&
                py_put(w, d->args, &call->args) &&
                (d->kwargs == Py_None || py_put(w, d->kwargs, &call->kwargs));
    if (done && d->appends != Py_None) {
        call->appends = call_slots(w, d->appends, &call->append_count);
        done = call->appends != NULL &&
               py_put_items(w, d->appends, call->appends, call->append_count);
    }
    if (done && d->items != Py_None) {
        PyObject *flat = flat_pairs(d->items);
        done = keep_new(w, flat);
        call->items = done ? call_slots(w, flat, &call->item_count) : NULL;
        done = done && call->items != NULL &&
               py_put_items(w, flat, call->items, call->item_count);
    }
    done = done && (d->state == Py_None || py_put(w, d->state, &call->state));
    turn_round(w, from);
    return done && PyErr_Occurred() == NULL;
}

static bool
write_call(py_writer *w, PyObject *object, PyObject *tuple, psd_ref *slot)
{
    description d;
    if (!PyArg_ParseTuple(tuple, "sOOO!OOOO", &d.form, &d.module, &d.name,
                          &PyTuple_Type, &d.args, &d.kwargs, &d.items, &d.appends,
                          &d.state)) {
        return false;
    }
    psd_call_form form = strcmp(d.form, "newobj") != 0 ? PSD_CALL_REDUCE
                         : d.kwargs != Py_None         ? PSD_CALL_NEWOBJ_EX
                                                       : PSD_CALL_NEWOBJ;
    psd_ref callable = 0;
    if (d.module != Py_None && !write_global(w, d.module, d.name, &callable)) {
        return false;
    }
    psd_ref ref = psd_new_call(&w->pool, form, callable, 0, 0, 0);
    return py_made(w, ref, slot) && py_keep(w, tuple) &&
           py_memo_put(&w->memo, object, ref) &&
           put_call(w, psd_value_at(&w->pool, ref)->as.call, &d);
}

static bool write_object(py_writer *w, PyObject *object, psd_ref *slot);

/*
 * What the Python side makes of an object: a tuple that describes a call or a
 * global, or another object, of a kind known here, to be written in its place.
 */
static bool
write_other(py_writer *w, PyObject *object, psd_ref *slot)
{
    /* In parentheses: a lone tuple would be taken for all the arguments. */
    PyObject *form = PyObject_CallMethod(w->values, "reduce", "(O)", object);
    bool done = false;
    if (form != NULL && PyTuple_CheckExact(form) && PyTuple_Size(form) == 8) {
        done = write_call(w, object, form, slot);
    }
    else if (form != NULL && PyTuple_CheckExact(form) && PyTuple_Size(form) == 2) {
        done =
            write_global(w, PyTuple_GetItem(form, 0), PyTuple_GetItem(form, 1), slot);
    }
    else if (form != NULL && PyTuple_CheckExact(form) && PyTuple_Size(form) == 12) {
        done = py_keep(w, form) && py_write_quantized(w, object, form, slot);
    }
    else if (form != NULL && PyTuple_CheckExact(form) && PyTuple_Size(form) == 9) {
        done = py_keep(w, form) && py_write_supplied(w, object, form, slot);
    }
    else if (form != NULL && !w->instead && PyList_CheckExact(form) &&
             PyList_Size(form) == 1) {
        /* At once, not later: whoever meets the object again finds it.  Only once:
         * what stands in a place has none of its own. */
        PyObject *instead = PyList_GetItem(form, 0); /* borrowed, kept with its list */
        w->instead = true;
        done = py_keep(w, form) && write_object(w, instead, slot) &&
               py_memo_put(&w->memo, object, *slot);
        w->instead = false;
    }
    else if (form != NULL) {
        PyErr_SetString(PyExc_TypeError, "reduce() gave no description");
    }
    Py_XDECREF(form);
    return done;
}

static bool
write_object(py_writer *w, PyObject *object, psd_ref *slot)
{
    if (object == Py_None) {
        return py_made(w, psd_new_none(&w->pool), slot);
    }
    if (PyBool_Check(object)) {
        return py_made(w, psd_new_bool(&w->pool, object == Py_True), slot);
    }
    if (PyLong_CheckExact(object)) {
        return write_int(w, object, slot);
    }
    if (PyFloat_CheckExact(object)) {
        return py_made(w, psd_new_float(&w->pool, PyFloat_AsDouble(object)), slot);
    }
    if (PyUnicode_CheckExact(object)) {
        return write_text(w, object, slot);
    }
    *slot = py_memo_find(&w->memo, object);
    if (*slot != 0) {
        return true;
    }
    int array = py_write_array(w, object, slot);
    if (array != 0) {
        return array > 0;
    }
    if (PyBytes_CheckExact(object)) {
        return write_bytes(w, object, PSD_KIND_BYTES, slot);
    }
    if (PyByteArray_CheckExact(object)) {
        return write_bytes(w, object, PSD_KIND_BYTEARRAY, slot);
    }
    if (PyTuple_CheckExact(object)) {
        return write_items_of(w, object, PSD_KIND_TUPLE, slot);
    }
    if (PyList_CheckExact(object)) {
        return write_items_of(w, object, PSD_KIND_LIST, slot);
    }
    if (PyDict_CheckExact(object)) {
        return write_dict(w, object, slot);
    }
    if (PyAnySet_CheckExact(object)) {
        return write_set(
            w, object,
            PyFrozenSet_CheckExact(object) ? PSD_KIND_FROZENSET : PSD_KIND_SET, slot);
    }
    return write_other(w, object, slot);
}

static bool
fill_pool(py_writer *w, PyObject *root, psd_ref *root_ref)
{
    bool done = py_keep(w, root) && py_put(w, root, root_ref);
    while (done && w->task_count > 0) {
        psd_ref *slot;
        PyObject *object = take(w, &slot);
        done = write_object(w, object, slot);
    }
    for (struct py_pending *s = w->states; done && s != NULL; s = s->previous) {
        w->model.tensors[s->tensor].state = s->ref;
    }
    return done;
}

/* ---------------------------------------------------------------- the face */

static bool
writer_init(py_writer *w, PyObject *values, PyObject *parameters, bool flags,
            bool kept_keys)
{
    *w =
        (py_writer){.values = values, .parameters = parameters, .kept_keys = kept_keys};
    w->left_out = flags ? 0 : PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD;
    psd_arena_init(&w->arena, py_page_alloc());
    psd_pool_init(&w->pool, &w->arena, psd_default_limits().values);
    const psd_hash_key none = {0, 0}; /* no names will be in it */
    psd_model_init(&w->model, py_page_alloc(), none);
    w->globals = PyDict_New();
    w->dtypes = PyDict_New();
    w->kept = PyList_New(0);
    w->supplies = PyList_New(0);
    w->marks = PyObject_GetAttrString(values, "marks");
    return w->marks != NULL && w->globals != NULL && w->dtypes != NULL &&
           w->kept != NULL && w->supplies != NULL;
}

static void
writer_clear(py_writer *w)
{
    free(w->tasks);
    py_free_zeros(w->extents, w->extent_capacity * sizeof *w->extents);
    py_free_zeros(w->bytes, w->model.storage_capacity * sizeof *w->bytes);
    py_free_zeros(w->supplied, w->model.storage_capacity * sizeof *w->supplied);
    psd_model_clear(&w->model);
    psd_pool_clear(&w->pool);
    psd_arena_clear(&w->arena);
    py_memo_clear(&w->memo);
    py_memo_clear(&w->supply_memo);
    py_texts_clear(&w->texts);
    Py_XDECREF(w->globals);
    Py_XDECREF(w->dtypes);
    Py_XDECREF(w->kept);
    Py_XDECREF(w->supplies);
    Py_XDECREF(w->marks);
}

static PyObject *
pour(py_writer *w, py_state *state, psd_ref root, PyObject *write, bool checksum,
     bool legacy)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    psd_write_options options = {
        .alloc = py_page_alloc(),
        .dialect = w->kept_keys ? PSD_DIALECT_KEPT
                   : legacy     ? PSD_DIALECT_STREAM
                                : PSD_DIALECT_ZIP,
        .checksum = checksum,
        .big_endian = first == 0,
    };
    py_sink sink;
    psd_error err;
    py_supplier supplier = {w, &sink};
    if (w->supplied != NULL) {
        options.supply = py_supply_face(&supplier);
    }
    if (!py_sink_init(&sink, state, write, w->kept, w->bytes, w->model.storage_count)) {
        return NULL;
    }
    sink.thread = PyEval_SaveThread();
    psd_status status = psd_archive_write(&w->pool, root, &w->model, w->bytes, &options,
                                          py_sink_face(&sink), &err);
    if (status == PSD_OK && !py_sink_flush(&sink)) {
        status =
            psd_fail(&err, PSD_SINK, PSD_NOWHERE, "the target could not be written");
    }
    PyEval_RestoreThread(sink.thread);
    uint64_t total = sink.total;
    py_sink_clear(&sink);
    return status == PSD_OK ? PyLong_FromUnsignedLongLong(total) : py_raise(&err);
}

PyObject *
py_write(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"obj",   "sink",   "values",    "checksum", "parameters",
                            "flags", "legacy", "kept_keys", NULL};
    PyObject *root, *write, *values, *parameters = Py_None;
    int checksum = 1, flags = 1, legacy = 0, kept_keys = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|$pOppp:write", names, &root,
                                     &write, &values, &checksum, &parameters, &flags,
                                     &legacy, &kept_keys)) {
        return NULL;
    }
    py_writer w;
    psd_ref root_ref = 0;
    PyObject *result = NULL;
    if (writer_init(&w, values, parameters, flags != 0, kept_keys != 0) &&
        fill_pool(&w, root, &root_ref) && py_find_storages(&w)) {
        result =
            pour(&w, py_state_of(module), root_ref, write, checksum != 0, legacy != 0);
    }
    writer_clear(&w);
    return result;
}
