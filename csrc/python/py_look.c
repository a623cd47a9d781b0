/* SPDX-License-Identifier: Apache-2.0
 *
 * A look into a pickle that was run: bytes in it that may be pickles or archives
 * themselves, and what watched names are called with.
 */
#include "py_module.h"

/* Longer texts are told by their kind only. */
#define TEXT_SIZE_MAX 64u
#define ARGUMENTS_MAX 4u
#define ITEMS_MAX 16u
#define STATE_MAX 8u

/* The number of a text that was looked at, and is none of those wanted. */
#define NOTHING_IN_IT UINT32_MAX

PyObject *
py_global_key(const psd_global *global)
{
    PyObject *module = py_text(global->module);
    PyObject *name = module == NULL ? NULL : py_text(global->name);
    PyObject *key = name == NULL ? NULL : PyTuple_Pack(2, module, name);
    Py_XDECREF(name);
    Py_XDECREF(module);
    return key;
}

/* ---------------------------------------------------------------- bytes within */

/* What archives, packed streams and arrays begin with: zip, gzip, bzip2, zlib, xz, npy. */
static bool
begins_other(uint8_t first)
{
    return first == 'P' || first == 0x1F || first == 'B' || first == 'x' ||
           first == 0xFD || first == 0x93;
}

static bool
may_hold(psd_span bytes)
{
    enum { USTAR = 257 }; /* where a tar's header says so */
    if (bytes.size < 3) {
        return false;
    }
    bool is_tar =
        bytes.size >= PSD_TAR_BLOCK && memcmp(bytes.data + USTAR, "ustar", 5) == 0;
    return is_tar || begins_other(bytes.data[0]) || psd_pickle_may_name(bytes);
}

/* The bytes of a text in Latin-1; where it has none, those of its UTF-8. */
static PyObject *
encoded(psd_span text)
{
    PyObject *str = py_text(text);
    PyObject *bytes = str == NULL ? NULL : PyUnicode_AsLatin1String(str);
    if (bytes == NULL && str != NULL && PyErr_ExceptionMatches(PyExc_UnicodeError)) {
        PyErr_Clear();
        bytes =
            PyBytes_FromStringAndSize((const char *)text.data, (Py_ssize_t)text.size);
    }
    Py_XDECREF(str);
    return bytes;
}

static bool
is_ascii(psd_span text)
{
    uint8_t high = 0;
    for (size_t i = 0; i < text.size; i++) {
        high |= text.data[i];
    }
    return high < 0x80;
}

/* Put an item into the list of what may hold something; steals it. */
static bool
add_item(py_look *l, psd_ref ref, PyObject *item)
{
    bool added = item != NULL && PyList_Append(l->nested, item) == 0;
    Py_XDECREF(item);
    if (added) {
        l->numbers[ref] = (uint32_t)PyList_Size(l->nested);
    }
    return added;
}

static bool
add_bytes(py_look *l, psd_ref ref, psd_span bytes)
{
    const uint8_t *start = l->program.data, *end = start + l->program.size;
    if (!may_hold(bytes)) {
        return true;
    }
    if (bytes.data < start || bytes.data >= end) { /* decoded from an escaped line */
        return add_item(l, ref,
                        PyBytes_FromStringAndSize((const char *)bytes.data,
                                                  (Py_ssize_t)bytes.size));
    }
    return add_item(l, ref,
                    Py_BuildValue("(nn)", (Py_ssize_t)(bytes.data - start),
                                  (Py_ssize_t)bytes.size));
}

/* The same of a text that is to be encoded. */
static bool
add_text(py_look *l, psd_ref ref, psd_span text)
{
    if (is_ascii(text)) {
        return add_bytes(l, ref, text);
    }
    PyObject *bytes = encoded(text);
    char *data;
    Py_ssize_t size;
    if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &data, &size) < 0) {
        Py_XDECREF(bytes);
        return false;
    }
    if (may_hold((psd_span){(const uint8_t *)data, (size_t)size})) {
        return add_item(l, ref, bytes);
    }
    Py_DECREF(bytes);
    return true;
}

/* The text of _codecs.encode(text, ...), which makes bytes of it; or 0. */
static psd_ref
text_to_encode(const psd_pool *pool, const psd_call *call)
{
    const psd_value *callable = psd_value_at(pool, call->callable);
    const psd_value *args = psd_value_at(pool, call->args);
    if (callable->kind != PSD_KIND_GLOBAL || args->kind != PSD_KIND_TUPLE ||
        args->count == 0 ||
        !psd_span_equal(callable->as.global->module, PSD_LITERAL("_codecs")) ||
        !psd_span_equal(callable->as.global->name, PSD_LITERAL("encode"))) {
        return 0;
    }
    psd_ref text = args->as.items[0];
    return psd_kind_of(pool, text) == PSD_KIND_TEXT ? text : 0;
}

/* Texts that nobody encodes hold pickles only where they begin like one of protocol 2. */
static bool
is_signed_text(psd_span text)
{
    return text.size > 2 && text.data[0] == 0xC2 && text.data[1] == PSD_OP_PROTO &&
           text.data[2] <= 5;
}

/* Each text is looked at once, however often it is encoded. */
static bool
find_in_text(py_look *l, psd_ref ref)
{
    if (ref == 0 || l->numbers[ref] != 0) {
        return true;
    }
    l->numbers[ref] = NOTHING_IN_IT;
    return add_text(l, ref, psd_text_of(psd_value_at(l->pool, ref)));
}

static bool
find_nested_at(py_look *l, psd_ref ref)
{
    const psd_value *v = psd_value_at(l->pool, ref);
    switch (v->kind) {
    case PSD_KIND_BYTES:
    case PSD_KIND_BYTEARRAY:
    case PSD_KIND_STRING: return add_bytes(l, ref, psd_text_of(v));
    case PSD_KIND_TEXT: return !is_signed_text(psd_text_of(v)) || find_in_text(l, ref);
    case PSD_KIND_CALL: return find_in_text(l, text_to_encode(l->pool, v->as.call));
    default: return true;
    }
}

static bool
find_nested(py_look *l)
{
    bool done = true;
    for (psd_ref ref = 1; done && ref <= l->pool->count; ref++) {
        done = find_nested_at(l, ref);
    }
    return done;
}

/* ---------------------------------------------------------------------- calls */

/* A kind of argument, as a text that is made but once. */
static PyObject *
word(const char *text)
{
    return PyUnicode_InternFromString(text);
}

static PyObject *
told_bytes(const py_look *l, psd_ref ref)
{
    uint32_t number = l->numbers[ref] == NOTHING_IN_IT ? 0 : l->numbers[ref];
    return Py_BuildValue("(NI)", word("bytes"), (unsigned)number);
}

static PyObject *
told_text(psd_span text)
{
    return text.size <= TEXT_SIZE_MAX
               ? Py_BuildValue("(NN)", word("text"), py_text(text))
               : Py_BuildValue("(NO)", word("text"), Py_None);
}

static PyObject *
told_global(const psd_global *global)
{
    return Py_BuildValue("(NN)", word("global"), py_global_key(global));
}

/* Between 0 and 2^60: as sizes go that says all, and Python hashes no two alike. */
static PyObject *
told_int(int64_t n)
{
    int64_t most = (int64_t)1 << 60;
    return Py_BuildValue("(NL)", word("int"),
                         (long long)(n < 0      ? 0
                                     : n < most ? n
                                                : most));
}

/* An argument as (kind, what is to be known of it), see _core.pyi. */
static PyObject *
told(const py_look *l, psd_ref ref)
{
    const psd_value *v = psd_value_at(l->pool, ref);
    switch (v->kind) {
    case PSD_KIND_NONE:
    case PSD_KIND_BOOL:
    case PSD_KIND_FLOAT: return Py_BuildValue("(NO)", word("plain"), Py_None);
    case PSD_KIND_INT: return told_int(v->as.integer);
    case PSD_KIND_LONG: return told_int(INT64_MAX);
    case PSD_KIND_TEXT:
    case PSD_KIND_STRING: return told_text(psd_text_of(v));
    case PSD_KIND_GLOBAL: return told_global(v->as.global);
    case PSD_KIND_BYTES:
    case PSD_KIND_BYTEARRAY: return told_bytes(l, ref);
    case PSD_KIND_CALL: {
        psd_ref text = text_to_encode(l->pool, v->as.call);
        if (text != 0) {
            return told_bytes(l, text);
        }
        break;
    }
    default: break;
    }
    return Py_BuildValue("(NO)", word("other"), Py_None);
}

/* The same of every item, up to `most` of them. */
static PyObject *
told_items(const py_look *l, const psd_value *v, uint32_t most,
           PyObject *(*tell)(const py_look *, psd_ref))
{
    uint32_t count = v->count < most ? v->count : most;
    PyObject *tuple = PyTuple_New(count);
    for (uint32_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *item = tell(l, v->as.items[i]);
        if (item == NULL || PyTuple_SetItem(tuple, i, item) < 0) {
            Py_CLEAR(tuple);
        }
    }
    return tuple;
}

/* The same, and of what holds items these too, one level deep. */
static PyObject *
told_deep(const py_look *l, psd_ref ref)
{
    const psd_value *v = psd_value_at(l->pool, ref);
    bool holds = v->kind == PSD_KIND_TUPLE || v->kind == PSD_KIND_LIST ||
                 v->kind == PSD_KIND_DICT;
    return holds ? Py_BuildValue("(NIN)", word("items"), (unsigned)v->count,
                                 told_items(l, v, ITEMS_MAX, told))
                 : told(l, ref);
}

/* `tuple` with one item more; takes both. */
static PyObject *
with_last(PyObject *tuple, PyObject *item)
{
    PyObject *last = Py_BuildValue("(N)", item);
    PyObject *both =
        tuple == NULL || last == NULL ? NULL : PySequence_Concat(tuple, last);
    Py_XDECREF(last);
    Py_XDECREF(tuple);
    return both;
}

/* The arguments of a call, keywords and the state; None where they are no tuple. */
static PyObject *
told_arguments(const py_look *l, const psd_call *call)
{
    const psd_value *args = psd_value_at(l->pool, call->args);
    if (args->kind != PSD_KIND_TUPLE) {
        return Py_NewRef(Py_None);
    }
    PyObject *tuple = told_items(l, args, ARGUMENTS_MAX, told_deep);
    if (call->kwargs != 0) {
        tuple = with_last(tuple, told_deep(l, call->kwargs));
    }
    const psd_value *state = psd_value_at(l->pool, call->state);
    if (state->kind == PSD_KIND_TUPLE) {
        PyObject *items = told_items(l, state, STATE_MAX, told_deep);
        tuple = with_last(tuple, Py_BuildValue("(NN)", word("state"), items));
    }
    return tuple;
}

/* 1, 0, or -1 with an exception set.  Asked once of each value, and kept. */
static int
is_watched(py_look *l, psd_ref ref)
{
    const psd_value *callable = psd_value_at(l->pool, ref);
    if (callable->kind != PSD_KIND_GLOBAL) {
        return 0;
    }
    if (l->numbers[ref] == 0) {
        PyObject *key = py_global_key(callable->as.global);
        int contains = key == NULL ? -1 : PySet_Contains(l->watched, key);
        Py_XDECREF(key);
        if (contains < 0) {
            return -1;
        }
        l->numbers[ref] = contains ? 1 : 2;
    }
    return l->numbers[ref] == 1;
}

/* py_global_key(), but one object for all that are equal. */
static PyObject *
shared_key(py_look *l, const psd_global *global)
{
    PyObject *key = py_global_key(global);
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(l->keys, key);
    if (known != NULL) {
        Py_INCREF(known);
        Py_DECREF(key);
        return known;
    }
    if (key != NULL &&
        (PyErr_Occurred() != NULL || PyDict_SetItem(l->keys, key, key) < 0)) {
        Py_CLEAR(key);
    }
    return key;
}

static bool
add_call(py_look *l, const psd_call *call)
{
    PyObject *key = shared_key(l, psd_value_at(l->pool, call->callable)->as.global);
    PyObject *row = Py_BuildValue("(NN)", key, told_arguments(l, call));
    PyObject *known = row == NULL ? NULL : PyDict_GetItemWithError(l->calls, row);
    PyObject *count = NULL;
    if (row != NULL && PyErr_Occurred() == NULL) {
        count = PyLong_FromLong(known == NULL ? 1 : PyLong_AsLong(known) + 1);
    }
    bool added = count != NULL && PyDict_SetItem(l->calls, row, count) == 0;
    Py_XDECREF(count);
    Py_XDECREF(row);
    return added;
}

static bool
find_calls(py_look *l)
{
    for (psd_ref ref = 1; ref <= l->pool->count; ref++) {
        const psd_value *v = psd_value_at(l->pool, ref);
        int watched =
            v->kind == PSD_KIND_CALL ? is_watched(l, v->as.call->callable) : 0;
        if (watched < 0 || (watched == 1 && !add_call(l, v->as.call))) {
            return false;
        }
    }
    return true;
}

/* ------------------------------------------------------------------------- a look */

bool
py_look_init(py_look *look, const psd_pool *pool, psd_span program, PyObject *watched)
{
    *look = (py_look){
        .pool = pool,
        .program = program,
        .numbers = calloc((size_t)pool->count + 1, sizeof(uint32_t)),
        .nested = PyList_New(0),
        .watched = watched,
        .calls = PyDict_New(),
        .keys = PyDict_New(),
    };
    if (look->numbers == NULL) {
        PyErr_NoMemory();
    }
    return look->numbers != NULL && look->nested != NULL && look->calls != NULL &&
           look->keys != NULL;
}

void
py_look_clear(py_look *look)
{
    free(look->numbers);
    Py_XDECREF(look->nested);
    Py_XDECREF(look->calls);
    Py_XDECREF(look->keys);
}

bool
py_look_find(py_look *look)
{
    return find_nested(look) && (look->watched == Py_None || find_calls(look));
}
