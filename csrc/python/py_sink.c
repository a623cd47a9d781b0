/* SPDX-License-Identifier: Apache-2.0
 *
 * A sink over any object with write().  The core pours without the GIL; it is
 * taken for each write() only, with the very thread state that gave it up, so a
 * failing write() leaves its exception where it belongs.  What write() is given
 * holds its bytes alive: a writer that keeps a view reads no freed memory.
 */
#include "py_module.h"

/* Small pieces (headers, little tensors) gathered into one write(). */
#define GATHER ((size_t)256 << 10)

static bool
new_room(py_sink *sink)
{
    Py_CLEAR(sink->room);
    sink->room = py_source_of_new_bytes(sink->state, GATHER, &sink->gathered);
    return sink->room != NULL;
}

bool
py_sink_init(py_sink *sink, py_state *state, PyObject *write, PyObject *owner,
             const psd_span *storages, uint32_t storage_count)
{
    *sink = (py_sink){.state = state,
                      .write = write,
                      .owner = owner,
                      .storages = storages,
                      .storage_count = storage_count};
    return new_room(sink);
}

void
py_sink_clear(py_sink *sink)
{
    Py_CLEAR(sink->room);
    Py_CLEAR(sink->fetched);
}

/* What write() said it took of `size` bytes; 0 with an exception set.  Raw files
 * may take fewer than they were given; None is all. */
static size_t
count_taken(PyObject *taken, size_t size)
{
    if (taken == Py_None) {
        return size;
    }
    if (!PyIndex_Check(taken) || PyBool_Check(taken)) {
        PyErr_Format(PyExc_TypeError,
                     "write() must give the number of bytes it took, or None, not %R",
                     taken);
        return 0;
    }
    /* Beyond all bounds is out of bounds, too: no exception but ours. */
    Py_ssize_t count = PyNumber_AsSsize_t(taken, NULL);
    if (count == -1 && PyErr_Occurred() != NULL) {
        return 0;
    }
    if (count <= 0 || (size_t)count > size) {
        PyErr_Format(PyExc_OSError, "write() says it took %R of %zu bytes", taken,
                     size);
        return 0;
    }
    return (size_t)count;
}

/* Call write() once; gives what it took, 0 with an exception set. */
static size_t
write_once(py_sink *sink, PyObject *window)
{
    PyObject *view = PyMemoryView_FromObject(window);
    PyObject *taken =
        view == NULL ? NULL : PyObject_CallFunctionObjArgs(sink->write, view, NULL);
    Py_XDECREF(view);
    size_t count = taken == NULL ? 0 : count_taken(taken, py_source_span(window).size);
    Py_XDECREF(taken);
    return count;
}

/* Hand bytes of `owner` to write(), which may take fewer at a time. */
static bool
write_all(py_sink *sink, PyObject *owner, const uint8_t *data, size_t size)
{
    while (size > 0) {
        /* Some systems take no more than 2 GiB in one call. */
        size_t piece = size < ((size_t)1 << 30) ? size : (size_t)1 << 30;
        PyObject *window =
            py_source_window(sink->state, owner, (psd_span){data, piece});
        size_t count = window == NULL ? 0 : write_once(sink, window);
        Py_XDECREF(window);
        if (count == 0) {
            return false;
        }
        data += count;
        size -= count;
        sink->total += count;
    }
    return true;
}

static bool
write_with_gil(py_sink *sink, PyObject *owner, const uint8_t *data, size_t size)
{
    PyEval_RestoreThread(sink->thread);
    /* Ctrl-C must end a long save. */
    bool written = PyErr_CheckSignals() == 0 && write_all(sink, owner, data, size);
    /* Whoever kept a view of the room keeps the room. */
    if (written && owner == sink->room && Py_REFCNT(owner) > 1) {
        written = new_room(sink);
    }
    sink->thread = PyEval_SaveThread();
    return written;
}

bool
py_sink_flush(py_sink *sink)
{
    size_t size = sink->size;
    sink->size = 0;
    return size == 0 || write_with_gil(sink, sink->room, sink->gathered, size);
}

/* Is the piece of a storage, and so of `owner`?  All else (headers, the pickle, the
 * directory) is the core's own, and gone when the save ends. */
static bool
is_of_storage(py_sink *sink, const uint8_t *data, size_t size)
{
    while (sink->next < sink->storage_count &&
           (sink->storages[sink->next].size == 0 ||
            sink->storages[sink->next].data == NULL)) {
        sink->next++;
    }
    if (sink->next < sink->storage_count && data == sink->storages[sink->next].data) {
        sink->current = sink->storages[sink->next++];
    }
    uintptr_t low = (uintptr_t)sink->current.data;
    return (uintptr_t)data >= low &&
           psd_fits((uintptr_t)data - low, size, sink->current.size);
}

/* Is the piece of what was fetched last? */
static bool
is_fetched(const py_sink *sink, const uint8_t *data, size_t size)
{
    if (sink->fetched == NULL) {
        return false;
    }
    psd_span all = py_source_span(sink->fetched);
    return (uintptr_t)data >= (uintptr_t)all.data &&
           psd_fits((uintptr_t)data - (uintptr_t)all.data, size, all.size);
}

static bool
gather(py_sink *sink, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t left = GATHER - sink->size;
        size_t piece = size < left ? size : left;
        memcpy(sink->gathered + sink->size, data, piece);
        sink->size += piece;
        data += piece;
        size -= piece;
        if (sink->size == GATHER && !py_sink_flush(sink)) {
            return false;
        }
    }
    return true;
}

static bool
pour(void *ctx, const uint8_t *data, size_t size)
{
    py_sink *sink = ctx;
    if (size >= GATHER / 2 && is_fetched(sink, data, size)) {
        return py_sink_flush(sink) && write_with_gil(sink, sink->fetched, data, size);
    }
    if (is_of_storage(sink, data, size) && size >= GATHER / 2) {
        return py_sink_flush(sink) && write_with_gil(sink, sink->owner, data, size);
    }
    return gather(sink, data, size);
}

psd_sink
py_sink_face(py_sink *sink)
{
    return (psd_sink){pour, sink};
}
