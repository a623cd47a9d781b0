/* SPDX-License-Identifier: Apache-2.0
 *
 * Facts become exceptions: the sentence is made in pystatedict._errors.
 */
#include "py_module.h"

const char *
py_family_name(psd_family family)
{
    switch (family) {
    case PSD_FAMILY_NONE: return "none";
    case PSD_FAMILY_MEMORY: return "memory";
    case PSD_FAMILY_HOST: return "host";
    case PSD_FAMILY_ARGUMENT: return "argument";
    case PSD_FAMILY_FOREIGN: return "foreign";
    case PSD_FAMILY_CORRUPT: return "corrupt";
    case PSD_FAMILY_TRUNCATED: return "truncated";
    case PSD_FAMILY_CHECKSUM: return "checksum";
    case PSD_FAMILY_UNSAFE: return "unsafe";
    case PSD_FAMILY_UNSUPPORTED: return "unsupported";
    case PSD_FAMILY_LIMIT: return "limit";
    }
    return "none";
}

/* None, or a number. */
static PyObject *
number_or_none(bool is_number, uint64_t v)
{
    return is_number ? PyLong_FromUnsignedLongLong(v) : Py_NewRef(Py_None);
}

PyObject *
py_exception(const psd_error *err)
{
    PyObject *module = PyImport_ImportModule("pystatedict._errors");
    if (module == NULL) {
        return NULL;
    }
    PyObject *offset = number_or_none(err->offset != PSD_NOWHERE, err->offset);
    PyObject *found = number_or_none(err->has_numbers, err->found);
    PyObject *expected = number_or_none(err->has_numbers, err->expected);
    PyObject *exception = NULL;
    if (offset != NULL && found != NULL && expected != NULL) {
        exception = PyObject_CallMethod(
            module, "from_core", "sssOy#y#OO", psd_status_code(err->status),
            py_family_name(psd_status_family(err->status)), err->sentence, offset,
            (const char *)err->entry, (Py_ssize_t)err->entry_size,
            (const char *)err->subject, (Py_ssize_t)err->subject_size, found, expected);
    }
    Py_XDECREF(offset);
    Py_XDECREF(found);
    Py_XDECREF(expected);
    Py_DECREF(module);
    return exception;
}

PyObject *
py_raise(const psd_error *err)
{
    if (PyErr_Occurred() != NULL) {
        return NULL; /* a callback failed and knows better */
    }
    if (err->status == PSD_NO_MEMORY) {
        return PyErr_NoMemory();
    }
    PyObject *exception = py_exception(err);
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}

PyObject *
py_raise_named(const char *class_name, const char *message)
{
    PyObject *module = PyImport_ImportModule("pystatedict._errors");
    PyObject *class =
        module == NULL ? NULL : PyObject_GetAttrString(module, class_name);
    if (class != NULL) {
        PyErr_SetString(class, message);
    }
    Py_XDECREF(class);
    Py_XDECREF(module);
    return NULL;
}
