/* SPDX-License-Identifier: Apache-2.0
 *
 * The names that a pickle holds, for those who want to know before they load.
 */
#include "py_module.h"

/* Which values are called, by number; NULL without memory. */
static bool *
called_values(const psd_pool *pool)
{
    bool *called = calloc((size_t)pool->count + 1, sizeof *called);
    for (psd_ref ref = 1; called != NULL && ref <= pool->count; ref++) {
        if (pool->values[ref].kind == PSD_KIND_CALL) {
            called[pool->values[ref].as.call->callable] = true;
        }
    }
    return called;
}

/* Put one global into the dict {(module, name): (module, name, position, called)}. */
static bool
add_global(PyObject *dict, const psd_global *global, uint64_t base, bool called)
{
    PyObject *module = py_text(global->module);
    PyObject *name = py_text(global->name);
    PyObject *key =
        module == NULL || name == NULL ? NULL : PyTuple_Pack(2, module, name);
    PyObject *row = NULL;
    bool added = false;
    if (key != NULL) {
        PyObject *known = PyDict_GetItemWithError(dict, key); /* borrowed */
        if (known == NULL && PyErr_Occurred() == NULL) {
            row = Py_BuildValue("(OOKO)", module, name,
                                (unsigned long long)(base + global->position),
                                called ? Py_True : Py_False);
        }
        else if (known != NULL && called) {
            row = Py_BuildValue("(OOOO)", module, name, PyTuple_GetItem(known, 2),
                                Py_True);
        }
        else {
            added = known != NULL;
        }
    }
    if (row != NULL) {
        added = PyDict_SetItem(dict, key, row) == 0;
    }
    Py_XDECREF(row);
    Py_XDECREF(key);
    Py_XDECREF(name);
    Py_XDECREF(module);
    return added;
}

PyObject *
py_globals(const psd_pool *pool, uint64_t base, bool unknown_only)
{
    bool *called = called_values(pool);
    if (called == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *dict = PyDict_New();
    for (psd_ref ref = 1; dict != NULL && ref <= pool->count; ref++) {
        const psd_value *value = psd_value_at(pool, ref);
        if (value->kind != PSD_KIND_GLOBAL ||
            (unknown_only && psd_torch_is_plain(value->as.global, called[ref]))) {
            continue;
        }
        if (!add_global(dict, value->as.global, base, called[ref])) {
            Py_CLEAR(dict);
        }
    }
    free(called);
    PyObject *list = dict == NULL ? NULL : PyDict_Values(dict);
    Py_XDECREF(dict);
    return list;
}

/* Does a byte string begin as a pickle of protocol 2 to 5 does? */
static bool
looks_like_pickle(psd_span bytes)
{
    return bytes.size > 2 && bytes.data[0] == PSD_OP_PROTO && bytes.data[1] >= 2 &&
           bytes.data[1] <= 5;
}

static PyObject *
nested_pickles(const psd_pool *pool)
{
    PyObject *list = PyList_New(0);
    for (psd_ref ref = 1; list != NULL && ref <= pool->count; ref++) {
        const psd_value *v = psd_value_at(pool, ref);
        if (v->kind != PSD_KIND_BYTES && v->kind != PSD_KIND_BYTEARRAY &&
            v->kind != PSD_KIND_STRING) {
            continue;
        }
        psd_span text = psd_text_of(v);
        if (!looks_like_pickle(text)) {
            continue;
        }
        PyObject *bytes =
            PyBytes_FromStringAndSize((const char *)text.data, (Py_ssize_t)text.size);
        if (bytes == NULL || PyList_Append(list, bytes) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(bytes);
    }
    return list;
}

PyObject *
py_scan_pickle(PyObject *module, PyObject *args)
{
    PyObject *buffer, *limit_dict = Py_None;
    psd_limits limits;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "O|O:scan_pickle", &buffer, &limit_dict) ||
        !py_limits(limit_dict, &limits) ||
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    psd_arena arena;
    psd_pool pool;
    psd_pickle pickle = {.root = 0};
    psd_error err;
    psd_arena_init(&arena, py_alloc());
    psd_pool_init(&pool, &arena, limits.values);
    psd_span program = {view.buf, (size_t)view.len};
    psd_hash_key key = py_state_of(module)->key;
    psd_status status;
    Py_BEGIN_ALLOW_THREADS
    status = psd_pickle_read(program, 0, &limits, key, &pool, &pickle, &err);
    Py_END_ALLOW_THREADS
    PyObject *error = NULL;
    if (status == PSD_NO_MEMORY) {
        py_raise(&err); /* tells nothing of the pickle: no finding, a failure */
    }
    else {
        error = status == PSD_OK ? Py_NewRef(Py_None) : py_exception(&err);
    }
    PyObject *globals = error == NULL ? NULL : py_globals(&pool, 0, false);
    PyObject *nested = globals == NULL ? NULL : nested_pickles(&pool);
    PyObject *result = NULL;
    if (nested != NULL) {
        result = Py_BuildValue("(OOKO)", globals, nested,
                               (unsigned long long)(status == PSD_OK ? pickle.size : 0),
                               error);
    }
    Py_XDECREF(nested);
    Py_XDECREF(globals);
    Py_XDECREF(error);
    psd_pool_clear(&pool);
    psd_arena_clear(&arena);
    PyBuffer_Release(&view);
    return result;
}
