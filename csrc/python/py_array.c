/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays: the only file that knows NumPy.  Its C API is imported when the first
 * array is made, so that listing a file never pays for it.
 */
#include "py_module.h"

#ifdef Py_GIL_DISABLED
#include <stdatomic.h>
#endif

#define NPY_NO_DEPRECATED_API NPY_1_25_API_VERSION
#include <numpy/arrayobject.h>

/* The bytes of one storage as arrays see them. */
typedef struct py_base {
    PyObject *source; /* the archive's, or one of our own; NULL until used */
    uint8_t *data;
    PyObject *bools; /* the source of bool tensors, once there was one */
    uint8_t *bool_data;
    uint8_t unit; /* of the tensors, in a file of foreign byte order; else 0 */
} py_base;

#ifndef Py_GIL_DISABLED

static bool
numpy_is_imported(void)
{
    return PyArray_API != NULL;
}

static bool
import_numpy(void)
{
    return PyArray_ImportNumPyAPI() == 0;
}

#else

/* The first arrays may be made in many threads at once, and NumPy's own check takes no
 * lock. */
static PyMutex importing;
static atomic_bool imported;

static bool
numpy_is_imported(void)
{
    return atomic_load_explicit(&imported, memory_order_acquire);
}

static bool
import_numpy(void)
{
    if (numpy_is_imported()) {
        return true;
    }
    PyMutex_Lock(&importing);
    bool done = PyArray_ImportNumPyAPI() == 0;
    atomic_store_explicit(&imported, done, memory_order_release);
    PyMutex_Unlock(&importing);
    return done;
}

#endif

bool
py_arrays_init(py_arrays *arrays, py_archive *archive, PyObject *values, bool copy,
               uint32_t first, uint32_t count)
{
    *arrays = (py_arrays){.archive = archive,
                          .values = values,
                          .copy = copy,
                          .first = first,
                          .count = count};
    arrays->source = py_archive_hold(archive, &arrays->input);
    if (arrays->source == NULL) {
        return false;
    }
    arrays->input.input =
        psd_input_for_pieces(&arrays->input.input, archive->core.zip.count);
    arrays->bases = calloc(count == 0 ? 1 : count, sizeof *arrays->bases);
    if (arrays->bases == NULL) {
        Py_CLEAR(arrays->source);
        PyErr_NoMemory();
        return false;
    }
    return true;
}

void
py_arrays_clear(py_arrays *arrays)
{
    for (int i = 0; i < PSD_DTYPE_COUNT; i++) {
        Py_CLEAR(arrays->dtypes[i]);
    }
    if (arrays->bases != NULL) {
        for (uint32_t i = 0; i < arrays->count; i++) {
            Py_CLEAR(arrays->bases[i].source);
            Py_CLEAR(arrays->bases[i].bools);
        }
        free(arrays->bases);
        arrays->bases = NULL;
    }
    Py_CLEAR(arrays->source);
}

/* ---------------------------------------------------------------- dtypes */

/* The NumPy dtype of one of torch's, by the Python side; borrowed. */
static PyObject *
numpy_dtype(py_arrays *arrays, psd_dtype dtype)
{
    if (arrays->dtypes[dtype] == NULL) {
        PyObject *found = PyObject_CallMethod(arrays->values, "numpy_dtype", "s",
                                              psd_dtype_row(dtype)->name);
        if (found != NULL && !PyArray_DescrCheck(found)) {
            PyErr_SetString(PyExc_TypeError, "numpy_dtype() gave no dtype");
            Py_CLEAR(found);
        }
        arrays->dtypes[dtype] = found;
    }
    return arrays->dtypes[dtype];
}

/* ---------------------------------------------------------------- storages */

bool
py_host_is_big_endian(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 0;
}

static void
swap(uint8_t *data, size_t size, size_t unit)
{
    for (size_t i = 0; i + unit <= size; i += unit) {
        for (size_t a = i, b = i + unit - 1; a < b; a++, b--) {
            uint8_t byte = data[a];
            data[a] = data[b];
            data[b] = byte;
        }
    }
}

/* Fresh memory of a storage's own, with its bytes or not yet; a new source. */
static PyObject *
own_memory(py_arrays *arrays, size_t size, const uint8_t *bytes, uint8_t **data)
{
    PyObject *source = py_source_of_new_bytes(arrays->archive->state, size, data);
    if (source != NULL && bytes != NULL && size > 0) {
        Py_BEGIN_ALLOW_THREADS
        memcpy(*data, bytes, size);
        Py_END_ALLOW_THREADS
    }
    return source;
}

/* The storage is the end of its record, most often all of it. */
static bool
inflate_storage(py_arrays *arrays, py_base *base, const psd_zip_entry *entry,
                uint32_t skip)
{
    base->source = own_memory(arrays, (size_t)entry->size, NULL, &base->data);
    if (base->source == NULL) {
        return false;
    }
    py_gil gil;
    psd_archive view = arrays->archive->core;
    view.options.inflate_ctx = &gil;
    psd_error err;
    gil.thread = PyEval_SaveThread();
    psd_status status =
        psd_archive_inflate(&view, &arrays->input.input, entry, base->data, &err);
    PyEval_RestoreThread(gil.thread);
    if (status != PSD_OK) {
        py_raise_input(&arrays->input, &err);
    }
    base->data += skip;
    return status == PSD_OK;
}

/* Bytes that swap together in this tensor; the storage's class says it, an
 * untyped storage leaves it to the tensor. */
static uint8_t
swap_unit(const psd_storage *s, const psd_tensor *t)
{
    return psd_dtype_row((psd_dtype)(s->untyped ? t->dtype : s->dtype))->swap_unit;
}

/* Take the bytes where they lie, or copy them.  Items may lie across alignment, as
 * they do in legacy files and re-zipped ones; NumPy knows how to read them. */
static bool
take_bytes(py_arrays *arrays, py_base *base, const uint8_t *data, size_t size,
           bool copy)
{
    if (copy) {
        base->source = own_memory(arrays, size, data, &base->data);
        return base->source != NULL;
    }
    base->source = Py_NewRef(arrays->source);
    base->data = (uint8_t *)(uintptr_t)data;
    return true;
}

/* Bytes of a file that is read. */
static bool
read_bytes(py_arrays *arrays, py_base *base, uint64_t offset, size_t size)
{
    psd_error err;
    psd_status status;
    base->source = own_memory(arrays, size, NULL, &base->data);
    if (base->source == NULL) {
        return false;
    }
    Py_BEGIN_ALLOW_THREADS
    status = psd_input_copy(&arrays->input.input, offset, size, base->data, &err);
    Py_END_ALLOW_THREADS
    if (status != PSD_OK) {
        py_raise_input(&arrays->input, &err);
    }
    return status == PSD_OK;
}

/* A meta storage has a size and no bytes: there is nothing to be made of it. */
static bool
fail_nowhere(void)
{
    py_raise_named("UnsupportedError", "a storage without bytes");
    return false;
}

/*
 * Copies that TensorInfos have made, by storage and by how the bytes were changed: as long
 * as an array on one lives, the next TensorInfo of that storage shares it.
 */
static PyObject *
made_key(uint32_t storage, unsigned change)
{
    return PyLong_FromUnsignedLongLong((unsigned long long)storage << 8 | change);
}

/* A new reference; NULL when there is none, perhaps with an exception set. */
static PyObject *
find_made(const py_arrays *arrays, uint32_t storage, unsigned change)
{
    PyObject *found = NULL;
    PyObject *key = arrays->shared ? made_key(storage, change) : NULL;
    if (key != NULL) {
        PyObject *weak = PyDict_GetItemWithError(arrays->archive->made, key);
        found = weak == NULL ? NULL : PyObject_CallNoArgs(weak);
        Py_DECREF(key);
    }
    if (found == Py_None) {
        Py_CLEAR(found);
    }
    return found;
}

static bool
keep_made(const py_arrays *arrays, uint32_t storage, unsigned change, PyObject *source)
{
    if (!arrays->shared) {
        return true;
    }
    PyObject *key = made_key(storage, change);
    PyObject *weak = key == NULL ? NULL : PyWeakref_NewRef(source, NULL);
    bool kept = weak != NULL && PyDict_SetItem(arrays->archive->made, key, weak) == 0;
    Py_XDECREF(weak);
    Py_XDECREF(key);
    return kept;
}

/* The change that makes bools of bytes, beside the units that are swapped. */
#define MADE_BOOLS 255

static bool
find_bytes(py_arrays *arrays, uint32_t storage, const psd_tensor *t, py_base *base)
{
    py_archive *archive = arrays->archive;
    const psd_storage *s = &archive->core.model.storages[storage];
    size_t size = (size_t)s->size;
    psd_location where;
    psd_error err;
    if (psd_archive_locate(&archive->core, &arrays->input.input, storage, &where,
                           &err) != PSD_OK) {
        py_raise_input(&arrays->input, &err);
        return false;
    }
    bool as_archive = archive->core.big_endian && s->place != PSD_PLACE_MEMORY;
    if ((as_archive || s->big_endian) != py_host_is_big_endian()) {
        base->unit = swap_unit(s, t);
    }
    bool swaps = base->unit > 1, done;
    base->source = find_made(arrays, storage, base->unit);
    if (base->source != NULL) {
        /* Of an inflated record all was kept, and where.skip is 0 of everything else. */
        size_t before = where.place == PSD_PLACE_RECORD ? where.skip : 0;
        base->data = (uint8_t *)(uintptr_t)py_source_span(base->source).data + before;
        return true;
    }
    if (PyErr_Occurred() != NULL) {
        return false;
    }
    switch (where.place) {
    case PSD_PLACE_FILE:
        /* Within the source: the place was held against the file's end. */
        done = arrays->input.input.data == NULL
                   ? read_bytes(arrays, base, where.offset, size)
                   : take_bytes(arrays, base, arrays->input.input.data + where.offset,
                                size, arrays->copy || swaps);
        break;
    case PSD_PLACE_MEMORY:
        /* The archive's own: each array that is made has a copy. */
        done = take_bytes(arrays, base, where.memory, size, true);
        break;
    case PSD_PLACE_RECORD:
        done = inflate_storage(arrays, base, where.entry, where.skip);
        break;
    default: done = fail_nowhere(); break;
    }
    if (done && swaps) {
        swap(base->data, size, base->unit);
    }
    return done && (base->source == arrays->source ||
                    keep_made(arrays, storage, base->unit, base->source));
}

/*
 * Any byte but 0 and 1 reads as True in torch; NumPy counts on 0 and 1.  Where
 * there are others, bool tensors get a copy: tensors of another dtype on the same
 * storage see the bytes as they are.
 */
static bool
find_bools(py_arrays *arrays, py_base *base, uint32_t storage, size_t size)
{
    bool clean = true;
    if (base->bools == NULL) {
        base->bools = find_made(arrays, storage, MADE_BOOLS);
        base->bool_data = base->bools == NULL
                              ? NULL
                              : (uint8_t *)(uintptr_t)py_source_span(base->bools).data;
    }
    if (base->bools != NULL || PyErr_Occurred() != NULL) {
        return base->bools != NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < size && clean; i++) {
        clean = base->data[i] <= 1;
    }
    Py_END_ALLOW_THREADS
    if (clean) {
        base->bools = Py_NewRef(base->source);
        base->bool_data = base->data;
        return true;
    }
    base->bools = own_memory(arrays, size, base->data, &base->bool_data);
    for (size_t i = 0; base->bools != NULL && i < size; i++) {
        base->bool_data[i] = base->bool_data[i] != 0;
    }
    return base->bools != NULL && keep_made(arrays, storage, MADE_BOOLS, base->bools);
}

static py_base *
base_of(py_arrays *arrays, const psd_tensor *t)
{
    py_base *base = &arrays->bases[t->storage - arrays->first];
    const psd_storage *s = &arrays->archive->core.model.storages[t->storage];
    if (base->source == NULL && !find_bytes(arrays, t->storage, t, base)) {
        Py_CLEAR(base->source);
        return NULL;
    }
    if (base->unit != 0 && base->unit != swap_unit(s, t)) {
        py_raise_named("UnsupportedError",
                       "a big-endian storage is seen with two item sizes");
        return NULL;
    }
    if (t->dtype == PSD_DTYPE_BOOL &&
        !find_bools(arrays, base, t->storage, (size_t)s->size)) {
        return NULL;
    }
    return base;
}

/* ---------------------------------------------------------------- arrays */

/* Several elements a byte: no strides can say it, so all bytes up to the last. */
static PyObject *
packed_array(const py_base *base, const psd_tensor *t, PyObject *dtype)
{
    unsigned per_byte = psd_tensor_per_byte(t);
    uint64_t last = 0;
    (void)psd_window_reach(t, UINT64_MAX, &last);
    npy_intp size = (npy_intp)(last / per_byte + 1);
    int flags = py_source_readonly(base->source) ? 0 : NPY_ARRAY_WRITEABLE;
    Py_INCREF(dtype); /* stolen below */
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, (PyArray_Descr *)dtype, 1,
                                           &size, NULL, base->data, flags, NULL);
    if (array != NULL &&
        PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(base->source)) < 0) {
        Py_CLEAR(array);
    }
    return array;
}

/* Byte strides; where only one index exists torch allows any number.  False when they are
 * just those of a contiguous array, which NumPy knows by itself. */
static bool
byte_strides(const psd_tensor *t, npy_intp itemsize, npy_intp *strides)
{
    bool differ = false;
    npy_intp contiguous = itemsize;
    int64_t most = INT64_MAX / itemsize;
    for (unsigned i = t->rank; i-- > 0;) {
        bool used = t->shape[i] > 1;
        bool fits = t->strides[i] >= 0 && t->strides[i] <= most;
        strides[i] = used || fits ? (npy_intp)(t->strides[i] * itemsize) : itemsize;
        differ = differ || strides[i] != contiguous;
        contiguous *= (npy_intp)t->shape[i];
    }
    return differ;
}

static PyObject *
empty_array(const psd_tensor *t, PyObject *dtype)
{
    npy_intp shape[64];
    for (unsigned i = 0; i < t->rank; i++) {
        shape[i] = (npy_intp)t->shape[i];
    }
    Py_INCREF(dtype); /* stolen below */
    return PyArray_NewFromDescr(&PyArray_Type, (PyArray_Descr *)dtype, t->rank, shape,
                                NULL, NULL, 0, NULL);
}

static PyObject *
view_array(const py_base *base, const psd_tensor *t, PyObject *dtype)
{
    npy_intp itemsize = (npy_intp)psd_dtype_row((psd_dtype)t->dtype)->size;
    npy_intp shape[64], strides[64];
    for (unsigned i = 0; i < t->rank; i++) {
        shape[i] = (npy_intp)t->shape[i];
    }
    bool given = byte_strides(t, itemsize, strides);
    bool is_bool = t->dtype == PSD_DTYPE_BOOL;
    PyObject *source = is_bool ? base->bools : base->source;
    uint8_t *data = is_bool ? base->bool_data : base->data;
    int flags = py_source_readonly(source) ? 0 : NPY_ARRAY_WRITEABLE;
    Py_INCREF(dtype); /* stolen below */
    PyObject *array = PyArray_NewFromDescr(
        &PyArray_Type, (PyArray_Descr *)dtype, t->rank, shape, given ? strides : NULL,
        data + (size_t)t->offset * (size_t)itemsize, flags, NULL);
    if (array != NULL &&
        PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(source)) < 0) {
        Py_CLEAR(array);
    }
    return array;
}

PyObject *
py_arrays_make(py_arrays *arrays, uint32_t tensor)
{
    const psd_tensor *t = &arrays->archive->core.model.tensors[tensor];
    if (!import_numpy()) {
        return NULL;
    }
    PyObject *dtype = numpy_dtype(arrays, (psd_dtype)t->dtype);
    if (dtype == NULL) {
        return NULL;
    }
    if (PyDataType_ELSIZE((PyArray_Descr *)dtype) !=
        (npy_intp)psd_dtype_row((psd_dtype)t->dtype)->size) {
        PyErr_SetString(PyExc_TypeError,
                        "numpy_dtype() gave a dtype of another item size");
        return NULL;
    }
    py_base *base = t->numel == 0 ? NULL : base_of(arrays, t);
    if (base == NULL && t->numel > 0) {
        return NULL;
    }
    bool packed = psd_tensor_per_byte(t) > 1;
    PyObject *array = base == NULL ? empty_array(t, dtype)
                      : packed     ? packed_array(base, t, dtype)
                                   : view_array(base, t, dtype);
    if (array == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
        /* More dimensions than this NumPy has, or empty ones whose product overflows. */
        PyErr_Clear();
        return py_raise_named("UnsupportedError",
                              "NumPy cannot hold a tensor of this shape");
    }
    if (array == NULL || (t->flags & (PSD_TENSOR_CONJ | PSD_TENSOR_NEG)) == 0) {
        return array;
    }
    PyObject *resolved =
        PyObject_CallMethod(arrays->values, "resolve", "OOO", array,
                            (t->flags & PSD_TENSOR_CONJ) != 0 ? Py_True : Py_False,
                            (t->flags & PSD_TENSOR_NEG) != 0 ? Py_True : Py_False);
    Py_DECREF(array);
    return resolved;
}

/* ---------------------------------------------------------------- looking */

/* Where NumPy is not imported there are no arrays: 1 it is, 0 it is not. */
static int
numpy_is_there(void)
{
    PyObject *modules = PySys_GetObject("modules"); /* borrowed */
    PyObject *numpy =
        modules == NULL ? NULL : PyMapping_GetItemString(modules, "numpy");
    if (numpy == NULL) {
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(numpy);
    return import_numpy() ? 1 : -1;
}

int
py_array_look(PyObject *object, py_array_view *view)
{
    if (!numpy_is_imported()) {
        int there = numpy_is_there();
        if (there <= 0) {
            return there;
        }
    }
    if (!PyArray_Check(object)) {
        return 0;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    *view = (py_array_view){
        .data = PyArray_DATA(array),
        .shape = PyArray_DIMS(array),
        .strides = PyArray_STRIDES(array),
        .itemsize = PyArray_ITEMSIZE(array),
        .rank = PyArray_NDIM(array),
        .exact = PyArray_CheckExact(object),
        .plain = PyArray_ISNOTSWAPPED(array) && PyArray_ITEMSIZE(array) > 0,
    };
    for (int i = 0; i < view->rank && view->plain; i++) {
        bool used = view->shape[i] > 1;
        view->plain =
            !used || (view->strides[i] >= 0 && view->strides[i] % view->itemsize == 0);
    }
    return 1;
}

PyObject *
py_array_dtype(PyObject *array)
{
    return Py_NewRef((PyObject *)PyArray_DESCR((PyArrayObject *)array));
}
