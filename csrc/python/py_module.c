/* SPDX-License-Identifier: Apache-2.0 */
#include "py_module.h"

#include "crc32.h"

/* ---------------------------------------------------------------- memory */

static void *
resize(void *Py_UNUSED(ctx), void *memory, size_t Py_UNUSED(old_size), size_t new_size)
{
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, new_size);
}

psd_alloc
py_alloc(void)
{
    return (psd_alloc){resize, NULL};
}

/* ---------------------------------------------------------------- text */

PyObject *
py_text(psd_span text)
{
    return PyUnicode_DecodeUTF8((const char *)text.data, (Py_ssize_t)text.size,
                                "surrogateescape");
}

/* ---------------------------------------------------------------- limits */

#define LIMITS(X) \
    X(entries)    \
    X(pickle_size) X(values) X(integer_size) X(inflated_size) X(inflation) X(rank)

bool
py_limits(PyObject *dict, psd_limits *limits)
{
    *limits = psd_default_limits();
    if (dict == Py_None) {
        return true;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    if (!PyDict_Check(dict)) {
        PyErr_SetString(PyExc_TypeError, "limits must be a dict of names and numbers");
        return false;
    }
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (!PyUnicode_Check(key)) {
            PyErr_Format(PyExc_TypeError, "there is no limit %R", key);
            return false;
        }
        unsigned long long number = PyLong_AsUnsignedLongLong(value);
        if (PyErr_Occurred() != NULL) {
            return false;
        }
        bool known = false;
#define SET(name)                                                        \
    if (PyUnicode_CompareWithASCIIString(key, #name) == 0) {             \
        limits->name = (uint64_t)number == number ? number : UINT64_MAX; \
        known = true;                                                    \
    }
        SET(entries)
        SET(pickle_size)
        SET(values)
        SET(integer_size)
        SET(inflated_size)
        SET(inflation)
#undef SET
        if (PyUnicode_CompareWithASCIIString(key, "rank") == 0) {
            limits->rank = number > 64 ? 64 : (uint32_t)number;
            known = true;
        }
        if (!known) {
            PyErr_Format(PyExc_TypeError, "there is no limit %R", key);
            return false;
        }
    }
    return true;
}

PyObject *
py_limits_as_dict(void)
{
    psd_limits limits = psd_default_limits();
    PyObject *dict = PyDict_New();
#define PUT(name)                                                              \
    if (dict != NULL) {                                                        \
        PyObject *number = PyLong_FromUnsignedLongLong(limits.name);           \
        if (number == NULL || PyDict_SetItemString(dict, #name, number) < 0) { \
            Py_CLEAR(dict);                                                    \
        }                                                                      \
        Py_XDECREF(number);                                                    \
    }
    LIMITS(PUT)
#undef PUT
    return dict;
}

/* ---------------------------------------------------------------- CRC-32 */

static PyObject *
crc32_result(unsigned kernel, PyObject *buffer, unsigned long seed)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    uint32_t crc;
    Py_BEGIN_ALLOW_THREADS
    crc = psd_crc32_by(kernel, (uint32_t)seed, view.buf, (size_t)view.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

static PyObject *
crc32_method(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *buffer;
    unsigned long seed = 0;
    if (!PyArg_ParseTuple(args, "O|k:crc32", &buffer, &seed)) {
        return NULL;
    }
    return crc32_result(psd_crc32_best(), buffer, seed);
}

static PyObject *
crc32_by_method(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    PyObject *buffer;
    unsigned long seed = 0;
    if (!PyArg_ParseTuple(args, "sO|k:crc32_by", &name, &buffer, &seed)) {
        return NULL;
    }
    for (unsigned i = 0; i < psd_crc32_kernel_count(); i++) {
        if (strcmp(psd_crc32_kernel_name(i), name) == 0 && psd_crc32_kernel_usable(i)) {
            return crc32_result(i, buffer, seed);
        }
    }
    PyErr_Format(PyExc_ValueError, "this processor has no CRC-32 kernel '%s'", name);
    return NULL;
}

static PyObject *
crc32_kernels_method(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    PyObject *list = PyList_New(0);
    for (unsigned i = 0; list != NULL && i < psd_crc32_kernel_count(); i++) {
        PyObject *row = Py_BuildValue("(sO)", psd_crc32_kernel_name(i),
                                      psd_crc32_kernel_usable(i) ? Py_True : Py_False);
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

/* ---------------------------------------------------------------- the module */

/* Every status's (code, family), so that the Python side can be held to it. */
static PyObject *
statuses(void)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < PSD_STATUS_COUNT; i++) {
        PyObject *row = Py_BuildValue("(ss)", psd_status_code((psd_status)i),
                                      py_family_name(psd_status_family((psd_status)i)));
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

/* torch's name of each dtype: (bytes an element, group). */
static PyObject *
dtypes(void)
{
    PyObject *dict = PyDict_New();
    for (int i = 1; dict != NULL && i < PSD_DTYPE_COUNT; i++) {
        const psd_dtype_info *info = psd_dtype_row((psd_dtype)i);
        PyObject *row = Py_BuildValue("(iC)", (int)info->size, (int)info->group);
        if (row == NULL || PyDict_SetItemString(dict, info->name, row) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(row);
    }
    return dict;
}

/* The interpreter's own hash of a text is keyed with a secret of this process. */
static bool
draw_key(psd_hash_key *key)
{
    PyObject *a = PyUnicode_FromString("pystatedict");
    PyObject *b = PyUnicode_FromString("state_dict");
    bool drawn = a != NULL && b != NULL;
    if (drawn) {
        key->a = (uint64_t)PyObject_Hash(a);
        key->b = (uint64_t)PyObject_Hash(b);
    }
    Py_XDECREF(a);
    Py_XDECREF(b);
    return drawn;
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int
add_object(PyObject *module, const char *name, PyObject *object)
{
    int result = object == NULL ? -1 : PyModule_AddObjectRef(module, name, object);
    Py_XDECREF(object);
    return result;
}

static int
exec(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if (!draw_key(&state->key) ||
        add_type(module, &py_source_spec, &state->source_type) < 0 ||
        add_type(module, &py_archive_spec, &state->archive_type) < 0 ||
        add_type(module, &py_info_spec, &state->info_type) < 0 ||
        add_object(module, "LIMITS", py_limits_as_dict()) < 0 ||
        add_object(module, "STATUSES", statuses()) < 0 ||
        add_object(module, "DTYPES", dtypes()) < 0 ||
        PyModule_AddIntConstant(module, "CRC_BLOCK", (long)PSD_CRC32_BLOCK) < 0) {
        return -1;
    }
    return 0;
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    py_state *state = PyModule_GetState(module);
    Py_VISIT(state->source_type);
    Py_VISIT(state->archive_type);
    Py_VISIT(state->info_type);
    return 0;
}

static int
clear(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    Py_CLEAR(state->source_type);
    Py_CLEAR(state->archive_type);
    Py_CLEAR(state->info_type);
    return 0;
}

static void
release(void *module)
{
    (void)clear(module);
}

py_state *
py_state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

py_state *
py_state_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

static PyMethodDef methods[] = {
    {"open_archive", (PyCFunction)(void (*)(void))py_open_archive,
     METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "open_archive($module, /, source, path=None, limits=None, run=True, *, "
         "mode='checkpoint', record='', salvage=False)\n--\n\n"
         "Open a checkpoint; run=False leaves its pickle alone.  mode is 'checkpoint', "
         "'pickle' for one by itself, 'records' for any zip archive, 'exact' for one "
         "whose "
         "names may differ by case alone, or 'bytes' for what describe() will tell of; "
         "record names the pickle within a zip archive.")},
    {"scan_pickle", py_scan_pickle, METH_VARARGS,
     PyDoc_STR("scan_pickle($module, program, limits=None, watched=None, /)\n--\n\n"
               "Globals, bytes within, size, error and calls of one pickle.")},
    {"write", (PyCFunction)(void (*)(void))py_write, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "write($module, /, obj, sink, values, *, checksum=True, "
         "parameters=None, flags=True, legacy=False, kept_keys=False)\n--\n\n"
         "Write a checkpoint through sink(memoryview); gives its size in bytes.  With "
         "kept_keys its pickle alone, whose storages are all of one file and keep "
         "their "
         "keys.")},
#ifndef _WIN32
    {"read_file", py_read_file, METH_VARARGS,
     PyDoc_STR(
         "read_file($module, into, fd, start, crcs=None, /)\n--\n\n"
         "Fill a buffer with a file's bytes from there on, and crcs with the CRC-32 "
         "of each whole block of CRC_BLOCK bytes; gives how many there were.")},
    {"begin_writeback", py_begin_writeback, METH_VARARGS,
     PyDoc_STR(
         "begin_writeback($module, fd, start, size, /)\n--\n\n"
         "Have the disk begin with these bytes of a file, where the system can.")},
#endif
    {"crc32", crc32_method, METH_VARARGS,
     PyDoc_STR("crc32($module, data, seed=0, /)\n--\n\nCRC-32 as zip uses it.")},
    {"crc32_by", crc32_by_method, METH_VARARGS,
     PyDoc_STR(
         "crc32_by($module, kernel, data, seed=0, /)\n--\n\nCRC-32 by one kernel.")},
    {"crc32_kernels", crc32_kernels_method, METH_NOARGS,
     PyDoc_STR(
         "crc32_kernels($module, /)\n--\n\n[(name, usable on this processor), ...].")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pystatedict._core",
    .m_doc = PyDoc_STR("The C core of pystatedict.  Private."),
    .m_size = sizeof(py_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
