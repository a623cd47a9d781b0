/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors whose bytes are fetched when they are written: of another file, or computed.
 * Their storage is an object with read(offset, size), which gives that many bytes; two
 * tensors of the same object share it.  Nothing of it is held but the piece that is being
 * written.
 */
#include "py_writer.h"

/* Offsets begin here, as addresses do: 0 is none, and elements stay aligned. */
#define BASE ((uintptr_t)64)

/* ---------------------------------------------------------------- tensors */

/* The number of a supply in `w->supplies`, + 1; 0 with an exception set. */
static uint32_t
number_of(py_writer *w, PyObject *supply)
{
    psd_ref known = py_memo_find(&w->supply_memo, supply);
    if (known != 0) {
        return known;
    }
    if (PyList_Append(w->supplies, supply) < 0) {
        return 0;
    }
    uint32_t number = (uint32_t)PyList_Size(w->supplies);
    return py_memo_put(&w->supply_memo, supply, number) ? number : 0;
}

static bool
check_window(psd_tensor *t, uint64_t size, uint64_t *reach)
{
    size_t itemsize = psd_dtype_row((psd_dtype)t->dtype)->size;
    const char *fault = psd_window_count(t, itemsize);
    if (fault == NULL) {
        fault = psd_window_reach(t, size / itemsize, reach);
    }
    if (fault == NULL && size > (uint64_t)PY_SSIZE_T_MAX - BASE) {
        fault = "a storage is larger than this machine can address";
    }
    if (fault != NULL) {
        PyErr_SetString(PyExc_ValueError, fault);
    }
    return fault == NULL;
}

bool
py_write_supplied(py_writer *w, PyObject *object, PyObject *told, psd_ref *slot)
{
    PyObject *supply, *shape, *stride, *state;
    const char *name, *mark; /* the last tells it from what else has eight parts */
    unsigned long long size;
    unsigned char flags;
    long long offset;
    if (!PyArg_ParseTuple(told, "OKsbO!O!LOs", &supply, &size, &name, &flags,
                          &PyTuple_Type, &shape, &PyTuple_Type, &stride, &offset,
                          &state, &mark)) {
        return false;
    }
    psd_tensor t = {.dtype = (uint8_t)psd_dtype_from_name(
                        (psd_span){(const uint8_t *)name, strlen(name)}),
                    .storage = PSD_NO_STORAGE,
                    .flags = (uint8_t)(flags & PY_WRITTEN_FLAGS & ~w->left_out),
                    .offset = offset};
    uint64_t reach = 0;
    if (t.dtype == PSD_DTYPE_NONE) {
        PyErr_SetString(PyExc_ValueError, "torch has no dtype of that name");
        return false;
    }
    if (!py_tensor_geometry(w, shape, stride, &t) || !check_window(&t, size, &reach)) {
        return false;
    }
    uint32_t number = number_of(w, supply);
    if (number == 0 || !py_tensor_state(w, state)) {
        return false;
    }
    size_t itemsize = psd_dtype_row((psd_dtype)t.dtype)->size;
    py_extent extent = {.supply = number};
    if (t.numel > 0) {
        extent.low = (const uint8_t *)(BASE + (size_t)offset * itemsize);
        extent.high = (const uint8_t *)(BASE + ((size_t)reach + 1) * itemsize);
    }
    if (w->kept_keys) {
        extent.low =
            (const uint8_t *)BASE; /* the storage is there, and is told whole */
        extent.high = (const uint8_t *)(BASE + (size_t)size);
    }
    else {
        t.offset = 0; /* told by the extent, as that of arrays is */
    }
    return py_enter_tensor(w, object, extent, t, slot);
}

/* The key that a storage has in its file, which the supply tells. */
static bool
keep_key(py_writer *w, uint32_t storage, uint32_t supply)
{
    PyObject *object = PyList_GetItem(w->supplies, (Py_ssize_t)supply - 1);
    PyObject *key = object == NULL ? NULL : PyObject_GetAttrString(object, "key");
    Py_ssize_t size = 0;
    if (key != NULL && !PyUnicode_Check(key)) {
        PyErr_SetString(PyExc_ValueError, "a tensor is not one of the file's");
        Py_CLEAR(key);
    }
    const char *text = key == NULL ? NULL : PyUnicode_AsUTF8AndSize(key, &size);
    if (text != NULL) {
        psd_span span = {(const uint8_t *)text, (size_t)size};
        w->model.storages[storage].key = psd_arena_copy(&w->arena, span);
    }
    Py_XDECREF(key);
    return text != NULL &&
           (w->model.storages[storage].key.data != NULL || py_no_memory());
}

/* ---------------------------------------------------------------- bytes */

static bool
fetch_with_gil(py_supplier *s, uint32_t storage, uint64_t offset, size_t size)
{
    const py_supplied *from = &s->writer->supplied[storage];
    PyObject *supply =
        PyList_GetItem(s->writer->supplies, (Py_ssize_t)from->supply - 1);
    PyObject *bytes = NULL, *source = NULL;
    if (supply != NULL && PyErr_CheckSignals() == 0) {
        bytes = PyObject_CallMethod(supply, "read", "Kn",
                                    (unsigned long long)(from->start + offset),
                                    (Py_ssize_t)size);
    }
    if (bytes != NULL) {
        source = py_source_new(s->sink->state, bytes);
    }
    Py_XDECREF(bytes);
    size_t found = source == NULL ? size : py_source_span(source).size;
    if (found != size) {
        PyErr_Format(PyExc_ValueError, "read() gave %zu bytes of a tensor, not %zu",
                     found, size);
        Py_CLEAR(source);
    }
    Py_XDECREF(s->sink->fetched);
    s->sink->fetched = source;
    return source != NULL;
}

static bool
fetch(void *ctx, uint32_t storage, uint64_t offset, size_t size, const uint8_t **bytes)
{
    py_supplier *s = ctx;
    PyEval_RestoreThread(s->sink->thread);
    bool fetched = fetch_with_gil(s, storage, offset, size);
    if (fetched) {
        *bytes = py_source_span(s->sink->fetched).data;
    }
    s->sink->thread = PyEval_SaveThread();
    return fetched;
}

psd_supply
py_supply_face(py_supplier *supplier)
{
    return (psd_supply){fetch, supplier};
}

bool
py_supply_base(py_writer *w, uint32_t storage, uint32_t supply, const uint8_t *low)
{
    w->supplied[storage] = (py_supplied){supply, (uintptr_t)low - BASE};
    return !w->kept_keys || keep_key(w, storage, supply);
}
