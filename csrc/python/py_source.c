/* SPDX-License-Identifier: Apache-2.0
 *
 * Source: a buffer held open, the base of every array.  An array whose base
 * were the mmap itself could be made to read freed memory by an innocent
 * close(); as long as a Source lives, close() is refused.  It has no method
 * that lets go.
 *
 * Or a file that is read where bytes are wanted: what is told of it cannot kill
 * the process when somebody shortens the file, as a map would.
 *
 * Until it is settled, a map may have its file beside it, and bytes that were read
 * the checksums of their blocks: nobody else has seen them yet, and changed them.
 */
#include "py_module.h"

#include "crc32.h"

#include <errno.h>
#include <structmember.h>

#ifndef _WIN32
#include <fcntl.h>
#include <unistd.h>
#endif

typedef struct {
    PyObject_HEAD
    Py_buffer view; /* all zeros of a file */
    bool is_file;   /* read, and not held */
    int file;       /* a descriptor of our own + 1; 0: none */
    uint64_t start; /* where in the file the bytes begin */
    uint64_t size;
    Py_buffer crcs;  /* uint32_t of each whole block; all zeros without */
    PyObject *stamp; /* what the file looked like, or NULL */
    PyObject *weak;  /* references to it, kept by CPython */
} py_source;

static PyObject *
source_new(PyTypeObject *type, PyObject *buffer)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    py_source *self = (py_source *)alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    /* Ask for a writable view first: a private map is one, and its arrays too. */
    if (PyObject_GetBuffer(buffer, &self->view, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        if (PyObject_GetBuffer(buffer, &self->view, PyBUF_SIMPLE) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    self->size = (uint64_t)self->view.len;
    return (PyObject *)self;
}

static bool
take_crcs(py_source *self, PyObject *crcs)
{
    if (PyObject_GetBuffer(crcs, &self->crcs, PyBUF_SIMPLE) < 0) {
        return false;
    }
    if ((uint64_t)self->crcs.len / sizeof(uint32_t) < self->size / PSD_CRC32_BLOCK ||
        (uintptr_t)self->crcs.buf % sizeof(uint32_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "there are not as many checksums as blocks");
        return false;
    }
    return true;
}

static PyObject *
source_new_slot(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "stamp", "fd", "start", "crcs", NULL};
    PyObject *buffer, *stamp = Py_None, *crcs = Py_None;
    int fd = -1;
    unsigned long long start = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OiKO:Source", names, &buffer,
                                     &stamp, &fd, &start, &crcs)) {
        return NULL;
    }
    PyObject *object = source_new(type, buffer);
    if (object != NULL && crcs != Py_None && !take_crcs((py_source *)object, crcs)) {
        Py_CLEAR(object);
    }
    if (object != NULL) {
        py_source *self = (py_source *)object;
        self->stamp = Py_NewRef(stamp);
#ifndef _WIN32
        /* Without one, all comes from the map. */
        self->file = fd < 0 ? 0 : fcntl(fd, F_DUPFD_CLOEXEC, 0) + 1;
#endif
        self->start = start;
    }
    return object;
}

/* ---------------------------------------------------------------- files */

#ifndef _WIN32
static PyObject *
new_file(PyTypeObject *type, int fd, uint64_t start, uint64_t size, PyObject *stamp)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    py_source *self = (py_source *)alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->is_file = true;
    self->file = own + 1;
    self->start = start;
    self->size = size;
    self->stamp = Py_XNewRef(stamp);
    return (PyObject *)self;
}

static PyObject *
source_of_file(PyObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "start", "size", "stamp", NULL};
    int fd;
    unsigned long long start, size;
    PyObject *stamp = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iKK|O:of_file", names, &fd, &start,
                                     &size, &stamp)) {
        return NULL;
    }
    if (size > PY_SSIZE_T_MAX || start > (uint64_t)INT64_MAX - size) {
        PyErr_SetString(PyExc_OverflowError, "no file is as large");
        return NULL;
    }
    return new_file((PyTypeObject *)type, fd, start, size, stamp);
}

static bool
read_file(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    py_input *in = ctx;
    while (size > 0) {
        size_t piece = size < ((size_t)1 << 30) ? size : (size_t)1 << 30;
        ssize_t count = pread(in->fd, into, piece, (off_t)(in->start + offset));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            in->error = count < 0 ? errno : PY_ENDED;
            return false;
        }
        into += count;
        offset += (uint64_t)count;
        size -= (size_t)count;
    }
    return true;
}
#endif

void
py_source_input(PyObject *source, py_input *input)
{
    const py_source *self = (const py_source *)source;
    *input = (py_input){
        .input = {.data = self->view.buf, .size = self->size, .crcs = self->crcs.buf}};
#ifndef _WIN32
    if (self->file != 0) {
        input->fd = self->file - 1;
        input->start = self->start;
        input->input.read = read_file;
        input->input.ctx = input;
    }
#endif
}

PyObject *
py_raise_input(const py_input *input, const psd_error *err)
{
    if (input->error == PY_ENDED) {
        return py_raise_named("TruncatedError",
                              "the file became shorter while it was read");
    }
    if (input->error != 0) {
        errno = input->error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return py_raise(err);
}

/* (start, size) as slicing takes them: numbers of a file, of any size, are cut to the bytes
 * that are there; before the first there are none.  False with an exception set. */
static bool
window_of(PyObject *source, PyObject *args, uint64_t *start, uint64_t *size)
{
    uint64_t all = ((const py_source *)source)->size;
    PyObject *first, *count;
    if (!PyArg_ParseTuple(args, "OO", &first, &count)) {
        return false;
    }
    /* Without an exception to raise, these give the nearest that fits. */
    Py_ssize_t from = PyNumber_AsSsize_t(first, NULL);
    Py_ssize_t many = PyErr_Occurred() == NULL ? PyNumber_AsSsize_t(count, NULL) : 0;
    if (PyErr_Occurred() != NULL) {
        return false;
    }
    *start = from < 0 || (uint64_t)from > all ? all : (uint64_t)from;
    *size = many < 0 ? 0 : (uint64_t)many;
    *size = *size < all - *start ? *size : all - *start;
    return true;
}

static PyObject *
source_read(PyObject *self, PyObject *args)
{
    uint64_t offset, count;
    py_input in;
    if (!window_of(self, args, &offset, &count)) {
        return NULL;
    }
    py_source_input(self, &in);
    Py_ssize_t size = (Py_ssize_t)count;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes == NULL || size == 0) {
        return bytes;
    }
    uint8_t *into = (uint8_t *)PyBytes_AsString(bytes);
    psd_error err;
    psd_status status;
    Py_BEGIN_ALLOW_THREADS
    status = psd_input_copy(&in.input, offset, (size_t)size, into, &err);
    Py_END_ALLOW_THREADS
    if (status != PSD_OK) {
        Py_DECREF(bytes);
        return py_raise_input(&in, &err);
    }
    return bytes;
}

/* What is wanted from now on comes from the bytes. */
static PyObject *
source_settle(PyObject *object, PyObject *Py_UNUSED(none))
{
    py_source *self = (py_source *)object;
    PyBuffer_Release(&self->crcs);
    self->crcs.buf = NULL;
#ifndef _WIN32
    if (!self->is_file && self->file != 0) {
        (void)close(self->file - 1);
        self->file = 0;
    }
#endif
    Py_RETURN_NONE;
}

static PyObject *
source_slice(PyObject *object, PyObject *args)
{
    const py_source *self = (const py_source *)object;
    uint64_t start, size;
    if (!window_of(object, args, &start, &size)) {
        return NULL;
    }
#ifndef _WIN32
    if (self->is_file) {
        return new_file(Py_TYPE(object), self->file - 1, self->start + start, size,
                        self->stamp);
    }
#endif
    allocfunc alloc = (allocfunc)PyType_GetSlot(Py_TYPE(object), Py_tp_alloc);
    py_source *slice = (py_source *)alloc(Py_TYPE(object), 0);
    uint8_t *data = self->view.buf;
    if (slice != NULL &&
        PyBuffer_FillInfo(&slice->view, object, data + start, (Py_ssize_t)size,
                          self->view.readonly, PyBUF_SIMPLE) < 0) {
        Py_CLEAR(slice);
    }
    if (slice != NULL) {
        slice->size = size;
        slice->stamp = Py_XNewRef(self->stamp);
    }
    return (PyObject *)slice;
}

/* ---------------------------------------------------------------- buffers */

PyObject *
py_source_new(py_state *state, PyObject *buffer)
{
    return source_new(state->source_type, buffer);
}

PyObject *
py_source_of_new_bytes(py_state *state, size_t size, uint8_t **bytes)
{
    if (size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    PyObject *owner = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (owner == NULL) {
        return NULL;
    }
    PyObject *source = py_source_new(state, owner);
    Py_DECREF(owner);
    if (source != NULL) {
        *bytes = ((py_source *)source)->view.buf;
    }
    return source;
}

PyObject *
py_source_window(py_state *state, PyObject *owner, psd_span bytes)
{
    PyTypeObject *type = state->source_type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    py_source *self = (py_source *)alloc(type, 0);
    if (self != NULL &&
        PyBuffer_FillInfo(&self->view, owner, (void *)(uintptr_t)bytes.data,
                          (Py_ssize_t)bytes.size, 1, PyBUF_SIMPLE) < 0) {
        Py_CLEAR(self);
    }
    if (self != NULL) {
        self->size = bytes.size;
    }
    return (PyObject *)self;
}

psd_span
py_source_span(PyObject *source)
{
    const Py_buffer *view = &((py_source *)source)->view;
    return (psd_span){view->buf, (size_t)view->len};
}

bool
py_source_readonly(PyObject *source)
{
    return ((py_source *)source)->view.readonly != 0;
}

static void
source_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_ClearWeakRefs(self);
    PyBuffer_Release(&((py_source *)self)->view);
    PyBuffer_Release(&((py_source *)self)->crcs);
#ifndef _WIN32
    if (((py_source *)self)->file != 0) {
        (void)close(((py_source *)self)->file - 1);
    }
#endif
    Py_XDECREF(((py_source *)self)->stamp);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int
source_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    const Py_buffer *held = &((py_source *)self)->view;
    if (((py_source *)self)->is_file) {
        PyErr_SetString(PyExc_BufferError, "the bytes of this file are read, not held");
        return -1;
    }
    return PyBuffer_FillInfo(view, self, held->buf, held->len, held->readonly, flags);
}

static PyObject *
source_size(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((py_source *)self)->size);
}

static PyObject *
source_readonly(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(py_source_readonly(self));
}

PyObject *
py_source_stamp(PyObject *self)
{
    PyObject *stamp = ((py_source *)self)->stamp;
    return Py_NewRef(stamp == NULL ? Py_None : stamp);
}

static PyObject *
source_summed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((const py_source *)self)->crcs.buf != NULL);
}

static PyGetSetDef source_getset[] = {
    {"size", source_size, NULL, PyDoc_STR("How many bytes."), NULL},
    {"readonly", source_readonly, NULL,
     PyDoc_STR("Whether arrays on these bytes are read-only."), NULL},
    {"summed", source_summed, NULL,
     PyDoc_STR("Whether the checksums of blocks stand beside these bytes."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef source_methods[] = {
#ifndef _WIN32
    {"of_file", (PyCFunction)(void (*)(void))source_of_file,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     PyDoc_STR("of_file($type, /, fd, start, size, stamp=None)\n--\n\n"
               "The bytes of an open file, read when they are wanted.")},
#endif
    {"read", source_read, METH_VARARGS,
     PyDoc_STR("read($self, offset, size, /)\n--\n\n"
               "A copy of these bytes; fewer at the end.")},
    {"settle", source_settle, METH_NOARGS,
     PyDoc_STR(
         "settle($self, /)\n--\n\n"
         "Close the file beside a map, forget checksums of blocks: before others may "
         "use the Source or change its bytes.")},
    {"slice", source_slice, METH_VARARGS,
     PyDoc_STR(
         "slice($self, start, size, /)\n--\n\n"
         "The same bytes from there on, so many, as a Source; fewer at the end.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef source_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(py_source, weak), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot source_slots[] = {
    {Py_tp_doc, "Source(buffer, /, *, stamp=None, fd=-1, start=0, crcs=None)\n--\n\n"
                "A buffer held open: the base of every array."},
    {Py_tp_new, source_new_slot},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_getset, source_getset},
    {Py_tp_methods, source_methods},
    {Py_tp_members, source_members},
    {Py_bf_getbuffer, source_getbuffer},
    {0, NULL},
};

PyType_Spec py_source_spec = {
    .name = "pystatedict._core.Source",
    .basicsize = sizeof(py_source),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = source_slots,
};
