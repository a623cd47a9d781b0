/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of storages as they stand in the file, a piece at a time: for who copies them
 * or computes with them, and holds no more than that.
 */
#include "py_module.h"

/* Bytes of a storage into fresh memory; of a deflated record all are inflated. */
static psd_status
read_piece(const psd_archive *archive, const psd_input *input, uint32_t storage,
           uint64_t offset, size_t size, uint8_t *into, psd_error *err)
{
    psd_location where;
    psd_status status = psd_archive_locate(archive, input, storage, &where, err);
    if (status != PSD_OK) {
        return status;
    }
    switch (where.place) {
    case PSD_PLACE_FILE:
        return psd_input_copy(input, where.offset + offset, size, into, err);
    case PSD_PLACE_MEMORY: memcpy(into, where.memory + offset, size); return PSD_OK;
    case PSD_PLACE_RECORD: break;
    default: return psd_fail(err, PSD_INPUT, PSD_NOWHERE, "a storage without bytes");
    }
    psd_arena arena;
    psd_arena_init(&arena, archive->options.alloc);
    uint8_t *all = psd_arena_take(&arena, (size_t)where.entry->size);
    status = all == NULL ? psd_fail_memory(err)
                         : psd_archive_inflate(archive, input, where.entry, all, err);
    if (status == PSD_OK) {
        memcpy(into, all + where.skip + offset, size);
    }
    psd_arena_clear(&arena);
    return status;
}

PyObject *
py_read_storage(PyObject *object, PyObject *args)
{
    py_archive *self = (py_archive *)object;
    unsigned long storage;
    unsigned long long offset, size;
    if (!PyArg_ParseTuple(args, "kKK:read_storage", &storage, &offset, &size)) {
        return NULL;
    }
    if (storage >= self->core.model.storage_count) {
        PyErr_SetString(PyExc_IndexError, "there is no storage of that number");
        return NULL;
    }
    const psd_storage *s = &self->core.model.storages[storage];
    if (!psd_fits(offset, size, s->size) || size > PY_SSIZE_T_MAX) {
        PyErr_SetString(PyExc_IndexError, "the storage has no such bytes");
        return NULL;
    }
    py_input in;
    PyObject *held = py_archive_hold(self, &in);
    uint8_t *into = NULL;
    PyObject *bytes =
        held == NULL ? NULL : py_source_of_new_bytes(self->state, (size_t)size, &into);
    if (bytes != NULL) {
        py_gil gil;
        psd_archive view = self->core;
        psd_error err;
        view.options.inflate_ctx = &gil;
        gil.thread = PyEval_SaveThread();
        psd_status status = read_piece(&view, &in.input, (uint32_t)storage, offset,
                                       (size_t)size, into, &err);
        PyEval_RestoreThread(gil.thread);
        if (status != PSD_OK) {
            Py_CLEAR(bytes);
            py_raise_input(&in, &err);
        }
    }
    Py_XDECREF(held);
    return bytes;
}
