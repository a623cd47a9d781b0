/* SPDX-License-Identifier: Apache-2.0
 *
 * Source: a buffer held open, the base of every array.  An array whose base
 * were the mmap itself could be made to read freed memory by an innocent
 * close(); as long as a Source lives, close() is refused.  It has no method
 * that lets go.
 */
#include "py_module.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    Py_buffer view;
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
    return (PyObject *)self;
}

static PyObject *
source_new_slot(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "stamp", NULL};
    PyObject *buffer, *stamp = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$O:Source", names, &buffer,
                                     &stamp)) {
        return NULL;
    }
    PyObject *self = source_new(type, buffer);
    if (self != NULL) {
        ((py_source *)self)->stamp = Py_NewRef(stamp);
    }
    return self;
}

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
    Py_XDECREF(((py_source *)self)->stamp);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int
source_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    const Py_buffer *held = &((py_source *)self)->view;
    return PyBuffer_FillInfo(view, self, held->buf, held->len, held->readonly, flags);
}

static PyObject *
source_size(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(((py_source *)self)->view.len);
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

static PyGetSetDef source_getset[] = {
    {"size", source_size, NULL, PyDoc_STR("Bytes held."), NULL},
    {"readonly", source_readonly, NULL,
     PyDoc_STR("Whether arrays on these bytes are read-only."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef source_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(py_source, weak), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot source_slots[] = {
    {Py_tp_doc, "Source(buffer, /, *, stamp=None)\n--\n\n"
                "A buffer held open: the base of every array."},
    {Py_tp_new, source_new_slot},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_getset, source_getset},
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
