/* SPDX-License-Identifier: Apache-2.0
 *
 * Archive.describe: rows of Python numbers and texts as the core's description.
 */
#include "py_module.h"

#define RANK_MOST 64

/* The rows while they are translated; texts are borrowed from the rows. */
typedef struct {
    psd_storage *storages;
    psd_tensor *tensors;
    psd_span *names;
    int64_t *numbers; /* shapes and strides, 2 * RANK_MOST a tensor */
} rows;

static void *
zeroed(Py_ssize_t count, size_t size)
{
    void *made = calloc(count == 0 ? 1 : (size_t)count, size);
    if (made == NULL) {
        PyErr_NoMemory();
    }
    return made;
}

static void
let_go(rows *r)
{
    free(r->storages);
    free(r->tensors);
    free(r->names);
    free(r->numbers);
}

/* (key, place in the file or number of the record, bytes, in a record, big-endian[, how
 * many bytes of the record come before[, the device that it was on]]) */
static bool
read_storage(PyObject *row, psd_storage *s)
{
    const char *key, *device = "cpu";
    Py_ssize_t key_size, device_size = 3;
    unsigned long long at, size;
    unsigned int skip = 0;
    int in_record, big_endian;
    if (!PyArg_ParseTuple(row, "s#KKpp|Is#", &key, &key_size, &at, &size, &in_record,
                          &big_endian, &skip, &device, &device_size)) {
        return false;
    }
    *s = (psd_storage){
        .key = {(const uint8_t *)key, (size_t)key_size},
        .location = {(const uint8_t *)device, (size_t)device_size},
        .numel = size,
        .size = size,
        .dtype = PSD_DTYPE_UINT8,
        .untyped = true,
        .big_endian = big_endian != 0,
        .place = in_record ? PSD_PLACE_RECORD : PSD_PLACE_FILE,
        .skip = skip,
    };
    if (in_record) {
        s->at.entry = at > UINT32_MAX ? UINT32_MAX : (uint32_t)at;
    }
    else {
        s->at.offset = at;
    }
    return true;
}

/* A tuple of whole numbers; their count, or -1 with an exception set. */
static Py_ssize_t
read_numbers(PyObject *tuple, int64_t *numbers)
{
    Py_ssize_t count = PyTuple_Size(tuple);
    if (count > RANK_MOST) {
        py_raise_named("LimitError",
                       "a tensor has more dimensions than NumPy can hold");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        long long v = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (v == -1 && PyErr_Occurred()) {
            return -1;
        }
        numbers[i] = v;
    }
    return count;
}

/* Strides of elements that lie one after another; wrong ones only where an overflow of
 * the shape will be found. */
static void
contiguous(const int64_t *shape, Py_ssize_t rank, int64_t *strides)
{
    uint64_t step = 1;
    for (Py_ssize_t i = rank; i-- > 0;) {
        strides[i] = (int64_t)(step & INT64_MAX);
        step *= shape[i] > 0 ? (uint64_t)shape[i] : 1;
    }
}

/* (name, torch's dtype, shape, strides or None, storage's number, offset), and perhaps
 * what is known of its training: PSD_TENSOR_PARAMETER and its like */
static bool
read_tensor(PyObject *row, Py_ssize_t storage_count, psd_span *name, psd_tensor *t,
            int64_t *numbers)
{
    const char *text, *dtype;
    Py_ssize_t text_size, dtype_size;
    PyObject *shape, *strides;
    Py_ssize_t storage;
    long long offset;
    unsigned char flags = 0;
    if (!PyArg_ParseTuple(row, "s#s#O!OnL|b", &text, &text_size, &dtype, &dtype_size,
                          &PyTuple_Type, &shape, &strides, &storage, &offset, &flags)) {
        return false;
    }
    Py_ssize_t rank = read_numbers(shape, numbers);
    if (rank < 0) {
        return false;
    }
    if (strides == Py_None) {
        contiguous(numbers, rank, numbers + RANK_MOST);
    }
    else if (!PyTuple_Check(strides) || PyTuple_Size(strides) != rank) {
        PyErr_SetString(PyExc_ValueError, "as many strides as sizes");
        return false;
    }
    else if (read_numbers(strides, numbers + RANK_MOST) < 0) {
        return false;
    }
    psd_dtype found =
        psd_dtype_from_name((psd_span){(const uint8_t *)dtype, (size_t)dtype_size});
    if (found == PSD_DTYPE_NONE || storage < 0 || storage >= storage_count) {
        PyErr_SetString(PyExc_ValueError, "no such dtype or storage");
        return false;
    }
    *name = (psd_span){(const uint8_t *)text, (size_t)text_size};
    *t = (psd_tensor){.shape = numbers,
                      .strides = numbers + RANK_MOST,
                      .offset = offset,
                      .storage = (uint32_t)storage,
                      .dtype = (uint8_t)found,
                      .rank = (uint8_t)rank,
                      .flags = flags & (PSD_TENSOR_PARAMETER | PSD_TENSOR_BUFFER |
                                        PSD_TENSOR_REQUIRES_GRAD)};
    return true;
}

static bool
read_rows(rows *r, PyObject *storages, PyObject *tensors)
{
    Py_ssize_t storage_count = PyList_Size(storages), count = PyList_Size(tensors);
    if ((size_t)storage_count > UINT32_MAX / 2 || (size_t)count > UINT32_MAX / 2) {
        py_raise_named("LimitError", "too many values for one pickle");
        return false;
    }
    r->storages = zeroed(storage_count, sizeof *r->storages);
    r->tensors = zeroed(count, sizeof *r->tensors);
    r->names = zeroed(count, sizeof *r->names);
    r->numbers = zeroed(count, 2 * RANK_MOST * sizeof *r->numbers);
    bool done = r->storages != NULL && r->tensors != NULL && r->names != NULL &&
                r->numbers != NULL;
    for (Py_ssize_t i = 0; done && i < storage_count; i++) {
        done = read_storage(PyList_GetItem(storages, i), &r->storages[i]);
    }
    for (Py_ssize_t i = 0; done && i < count; i++) {
        done = read_tensor(PyList_GetItem(tensors, i), storage_count, &r->names[i],
                           &r->tensors[i], r->numbers + 2 * RANK_MOST * i);
    }
    return done;
}

PyObject *
py_describe(PyObject *object, PyObject *args)
{
    py_archive *self = (py_archive *)object;
    PyObject *kind, *storages, *tensors, *extra = Py_None;
    if (!PyArg_ParseTuple(args, "UO!O!|O:describe", &kind, &PyList_Type, &storages,
                          &PyList_Type, &tensors, &extra)) {
        return NULL;
    }
    if (self->ran) {
        PyErr_SetString(PyExc_ValueError, "the archive has its values already");
        return NULL;
    }
    py_input in;
    PyObject *source = py_archive_hold(self, &in);
    if (source == NULL) {
        return NULL;
    }
    rows r = {0};
    bool done = read_rows(&r, storages, tensors);
    if (done) {
        psd_description told = {.storages = r.storages,
                                .names = r.names,
                                .tensors = r.tensors,
                                .storage_count = (uint32_t)PyList_Size(storages),
                                .tensor_count = (uint32_t)PyList_Size(tensors)};
        psd_error err;
        done = psd_archive_describe(&self->core, &in.input, &told, &err) == PSD_OK;
        if (!done) {
            py_raise(&err);
        }
    }
    let_go(&r);
    Py_DECREF(source);
    if (!done) {
        return NULL;
    }
    self->ran = true;
    self->kind = Py_NewRef(kind); /* there were none: it runs once */
    self->extra = Py_NewRef(extra);
    Py_RETURN_NONE;
}
