/* SPDX-License-Identifier: Apache-2.0
 *
 * TensorInfo: one tensor of an archive, all that the pickle tells and none of
 * its bytes.
 */
#include "py_module.h"

typedef struct {
    PyObject_HEAD
    py_archive *archive;
    PyObject *name;
    uint32_t tensor;
} py_info;

PyObject *
py_info_new(py_archive *archive, uint32_t tensor, PyObject *name)
{
    PyTypeObject *type = archive->state->info_type;
    py_info *self = PyObject_New(py_info, type);
    if (self == NULL) {
        return NULL;
    }
    self->archive = (py_archive *)Py_NewRef((PyObject *)archive);
    self->name = Py_NewRef(name);
    self->tensor = tensor;
    return (PyObject *)self;
}

static void
info_dealloc(PyObject *object)
{
    py_info *self = (py_info *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_DECREF(self->archive);
    Py_DECREF(self->name);
    PyObject_Free(object);
    Py_DECREF(type);
}

static const psd_tensor *
tensor_of(PyObject *object)
{
    const py_info *self = (py_info *)object;
    return &self->archive->core.model.tensors[self->tensor];
}

/* NULL for a meta tensor that has none. */
static const psd_storage *
storage_of(PyObject *object)
{
    uint32_t storage = tensor_of(object)->storage;
    return storage == PSD_NO_STORAGE
               ? NULL
               : &((py_info *)object)->archive->core.model.storages[storage];
}

static const psd_dtype_info *
dtype_of(PyObject *object)
{
    return psd_dtype_row((psd_dtype)tensor_of(object)->dtype);
}

PyObject *
py_numbers(const int64_t *v, unsigned count)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (unsigned i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromLongLong(v[i]);
        if (number == NULL || PyTuple_SetItem(tuple, (Py_ssize_t)i, number) < 0) {
            Py_CLEAR(tuple);
        }
    }
    return tuple;
}

static PyObject *
info_name(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((py_info *)self)->name);
}

static PyObject *
info_shape(PyObject *self, void *Py_UNUSED(closure))
{
    return py_numbers(tensor_of(self)->shape, tensor_of(self)->rank);
}

static PyObject *
info_stride(PyObject *self, void *Py_UNUSED(closure))
{
    return py_numbers(tensor_of(self)->strides, tensor_of(self)->rank);
}

static PyObject *
info_dtype(PyObject *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(dtype_of(self)->name);
}

static PyObject *
info_storage_offset(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(tensor_of(self)->offset);
}

static PyObject *
text_or(const psd_storage *storage, psd_span text, const char *otherwise)
{
    if (storage == NULL || text.size == 0) {
        return PyUnicode_FromString(otherwise);
    }
    return py_text(text);
}

static bool
is_dense(PyObject *self)
{
    return tensor_of(self)->layout == PSD_LAYOUT_STRIDED;
}

/* A tensor made of others is where the first of them is. */
static const psd_storage *
storage_or_part(PyObject *self)
{
    const psd_archive *a = &((py_info *)self)->archive->core;
    const psd_tensor *t = tensor_of(self);
    while (t->layout != PSD_LAYOUT_STRIDED && t->more.composite->count > 0) {
        psd_ref part = t->more.composite->parts[0].tensor; /* smaller than t's own */
        t = &a->model.tensors[psd_value_at(&a->pool, part)->as.index];
    }
    return t->storage == PSD_NO_STORAGE ? NULL : &a->model.storages[t->storage];
}

static PyObject *
info_storage(PyObject *self, void *Py_UNUSED(closure))
{
    const psd_storage *s = storage_of(self);
    return text_or(s, s == NULL ? (psd_span){NULL, 0} : s->key, "");
}

static PyObject *
info_storage_nbytes(PyObject *self, void *Py_UNUSED(closure))
{
    const psd_storage *s = storage_of(self);
    return PyLong_FromUnsignedLongLong(s == NULL ? 0 : s->size);
}

static PyObject *
info_device(PyObject *self, void *Py_UNUSED(closure))
{
    const psd_storage *s = storage_or_part(self);
    bool meta = (tensor_of(self)->flags & PSD_TENSOR_META) != 0;
    return text_or(s, s == NULL ? (psd_span){NULL, 0} : s->location,
                   meta ? "meta" : "cpu");
}

static PyObject *
info_numel(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(tensor_of(self)->numel);
}

static PyObject *
info_itemsize(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(dtype_of(self)->size);
}

static PyObject *
info_nbytes(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(psd_tensor_nbytes(tensor_of(self)));
}

static PyObject *
info_ndim(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(tensor_of(self)->rank);
}

static PyObject *
info_requires_grad(PyObject *self, void *Py_UNUSED(closure))
{
    unsigned flags = tensor_of(self)->flags;
    if ((flags & PSD_TENSOR_REQUIRES_GRAD) != 0) {
        Py_RETURN_TRUE;
    }
    if ((flags & (PSD_TENSOR_PARAMETER | PSD_TENSOR_BUFFER)) != 0) {
        Py_RETURN_FALSE;
    }
    Py_RETURN_NONE; /* a plain tensor was detached: nobody has said */
}

static PyObject *
info_kind(PyObject *self, void *Py_UNUSED(closure))
{
    unsigned flags = tensor_of(self)->flags;
    if ((flags & PSD_TENSOR_PARAMETER) != 0) {
        return PyUnicode_FromString("parameter");
    }
    if ((flags & PSD_TENSOR_BUFFER) != 0) {
        return PyUnicode_FromString("buffer");
    }
    Py_RETURN_NONE;
}

static PyObject *
info_is_meta(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong((tensor_of(self)->flags & PSD_TENSOR_META) != 0);
}

static PyObject *
info_layout(PyObject *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(psd_layout_name((psd_layout)tensor_of(self)->layout));
}

/* {name: TensorInfo} of the tensors that this one is made of. */
static PyObject *
info_parts(PyObject *self, void *Py_UNUSED(closure))
{
    py_archive *archive = ((py_info *)self)->archive;
    const psd_tensor *t = tensor_of(self);
    uint32_t count = is_dense(self) ? 0 : t->more.composite->count;
    PyObject *dict = PyDict_New();
    for (uint32_t i = 0; dict != NULL && i < count; i++) {
        const psd_part *part = &t->more.composite->parts[i];
        uint32_t tensor = psd_value_at(&archive->core.pool, part->tensor)->as.index;
        PyObject *name = py_text(part->name);
        PyObject *full =
            name == NULL ? NULL
                         : PyUnicode_FromFormat("%U.%U", ((py_info *)self)->name, name);
        PyObject *info = full == NULL ? NULL : py_info_new(archive, tensor, full);
        if (info == NULL || PyDict_SetItem(dict, name, info) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(info);
        Py_XDECREF(full);
        Py_XDECREF(name);
    }
    return dict;
}

/* The class as "module.name"; torch.Tensor's own is not told. */
static PyObject *
info_type(PyObject *self, void *Py_UNUSED(closure))
{
    const psd_pool *pool = &((py_info *)self)->archive->core.pool;
    psd_ref type = tensor_of(self)->type;
    if (type == 0) {
        Py_RETURN_NONE;
    }
    const psd_global *g = psd_value_at(pool, type)->as.global;
    PyObject *module = py_text(g->module), *name = py_text(g->name);
    PyObject *text = module == NULL || name == NULL
                         ? NULL
                         : PyUnicode_FromFormat("%U.%U", module, name);
    Py_XDECREF(module);
    Py_XDECREF(name);
    return text;
}

static PyObject *
info_path(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((py_info *)self)->archive->path);
}

static PyObject *
info_archive(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)((py_info *)self)->archive);
}

static PyObject *
info_index(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((py_info *)self)->tensor);
}

/* Were its bytes lost with those of a damaged file? */
static PyObject *
info_is_lost(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong((tensor_of(self)->flags & PSD_TENSOR_LOST) != 0);
}

/* The storage's number; None of a tensor without one. */
static PyObject *
info_storage_index(PyObject *self, void *Py_UNUSED(closure))
{
    uint32_t storage = tensor_of(self)->storage;
    if (!is_dense(self) || storage == PSD_NO_STORAGE) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(storage);
}

/* Are the bytes of the file the tensor's own, and no other words said of it? */
static bool
is_as_stored(PyObject *self)
{
    const psd_archive *a = &((py_info *)self)->archive->core;
    const psd_tensor *t = tensor_of(self);
    const psd_storage *s = storage_of(self);
    const unsigned other = PSD_TENSOR_CONJ | PSD_TENSOR_NEG | PSD_TENSOR_META |
                           PSD_TENSOR_STORAGE | PSD_TENSOR_LOST;
    if (!is_dense(self) || t->more.quantizer != NULL || t->type != 0 ||
        (t->flags & other) != 0 || s == NULL) {
        return false;
    }
    bool as_archive = a->big_endian && s->place != PSD_PLACE_MEMORY;
    return dtype_of(self)->size == 1 ||
           (as_archive || s->big_endian) == py_host_is_big_endian();
}

/* (number of the storage, its bytes, whether the tensor has Python attributes) where its
 * bytes in the file are those of an array; else None. */
static PyObject *
info_stored(PyObject *self, void *Py_UNUSED(closure))
{
    if (!is_as_stored(self)) {
        Py_RETURN_NONE;
    }
    const psd_tensor *t = tensor_of(self);
    return Py_BuildValue("(kKO)", (unsigned long)t->storage,
                         (unsigned long long)storage_of(self)->size,
                         t->state != 0 ? Py_True : Py_False);
}

/* ---------------------------------------------------------------- arrays */

PyObject *
py_info_array(PyObject *object)
{
    py_info *self = (py_info *)object;
    if ((tensor_of(object)->flags & PSD_TENSOR_META) != 0) {
        return py_raise_named("UnsupportedError",
                              "a meta tensor has a shape and a dtype, and no bytes");
    }
    PyObject *values = PyImport_ImportModule("pystatedict._values");
    if (values == NULL) {
        return NULL;
    }
    const psd_tensor *t = tensor_of(object);
    bool plain = is_dense(object) && t->more.quantizer == NULL &&
                 (t->flags & PSD_TENSOR_STORAGE) == 0;
    if (!plain) {
        PyObject *made = py_read(self->archive, t->at, values, false, false);
        Py_DECREF(values);
        return made;
    }
    py_arrays arrays;
    PyObject *array = NULL;
    if (py_arrays_init(&arrays, self->archive, values, false,
                       tensor_of(object)->storage, 1)) {
        arrays.shared = true;
        array = py_arrays_make(&arrays, self->tensor);
        py_arrays_clear(&arrays);
    }
    PyObject *state = NULL;
    if (array != NULL && t->state != 0) {
        state = py_read(self->archive, t->state, values, false, false);
    }
    if (array != NULL &&
        ((t->state != 0 && state == NULL) ||
         !py_mark(self->archive, self->tensor, values, array, state))) {
        Py_CLEAR(array);
    }
    Py_XDECREF(state);
    Py_DECREF(values);
    return array;
}

static PyObject *
info_numpy(PyObject *self, PyObject *Py_UNUSED(none))
{
    return py_info_array(self);
}

/* As NumPy's protocol asks: dtype and copy may be given. */
static PyObject *
info_array(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"dtype", "copy", NULL};
    PyObject *dtype = Py_None, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:__array__", names, &dtype,
                                     &copy)) {
        return NULL;
    }
    PyObject *array = py_info_array(self);
    if (array == NULL || (dtype == Py_None && copy != Py_True)) {
        return array;
    }
    PyObject *helper = PyImport_ImportModule("pystatedict._dtypes");
    PyObject *result = helper == NULL ? NULL
                                      : PyObject_CallMethod(helper, "converted", "OOO",
                                                            array, dtype, copy);
    Py_XDECREF(helper);
    Py_DECREF(array);
    return result;
}

static PyObject *
info_subscript(PyObject *self, PyObject *key)
{
    PyObject *array = py_info_array(self);
    PyObject *item = array == NULL ? NULL : PyObject_GetItem(array, key);
    Py_XDECREF(array);
    return item;
}

static PyObject *
info_repr(PyObject *self)
{
    PyObject *shape = info_shape(self, NULL);
    PyObject *text = shape == NULL
                         ? NULL
                         : PyUnicode_FromFormat("TensorInfo(%R, shape=%R, dtype='%s')",
                                                ((py_info *)self)->name, shape,
                                                dtype_of(self)->name);
    Py_XDECREF(shape);
    return text;
}

/* A value for other processes: path, name and what the file looked like. */
static PyObject *
info_reduce(PyObject *self, PyObject *Py_UNUSED(none))
{
    PyObject *helper = PyImport_ImportModule("pystatedict._checkpoint");
    PyObject *result =
        helper == NULL ? NULL : PyObject_CallMethod(helper, "reduce_info", "O", self);
    Py_XDECREF(helper);
    return result;
}

#define GETTER(name, doc) {#name, info_##name, NULL, PyDoc_STR(doc), NULL}

static PyGetSetDef info_getset[] = {
    GETTER(name, "Dotted name within the file."),
    GETTER(shape, "Sizes, a tuple of int; () for a scalar; -1 where it is ragged."),
    GETTER(stride, "Strides in elements, a tuple of int."),
    GETTER(dtype, "torch's name of the dtype, such as \"bfloat16\"."),
    GETTER(storage, "Key of the storage; equal keys share memory."),
    GETTER(storage_nbytes, "Bytes of the whole storage."),
    GETTER(storage_offset, "Offset within the storage, in elements."),
    GETTER(device, "Where the tensor lived when it was saved, such as \"cuda:0\"."),
    GETTER(numel, "Number of elements."),
    GETTER(itemsize, "Bytes an element."),
    GETTER(nbytes, "Bytes of all elements."),
    GETTER(ndim, "Number of dimensions."),
    GETTER(requires_grad, "True, False, or None: nobody has said."),
    GETTER(kind, "\"parameter\", \"buffer\" or None: nobody has said."),
    GETTER(is_meta, "Whether the tensor has no bytes at all."),
    GETTER(layout, "\"strided\", \"sparse_coo\", ..., \"nested\", \"jagged\" or "
                   "\"subclass\"."),
    GETTER(parts, "{name: TensorInfo} of what it is made of; empty of a strided one."),
    GETTER(type, "The class of a tensor subclass, \"module.name\"; else None."),
    GETTER(path, "The file's path, or None."),
    {"_archive", info_archive, NULL, NULL, NULL},
    {"_index", info_index, NULL, NULL, NULL},
    {"_is_lost", info_is_lost, NULL, NULL, NULL},
    {"_storage_index", info_storage_index, NULL, NULL, NULL},
    {"_stored", info_stored, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef info_methods[] = {
    {"numpy", info_numpy, METH_NOARGS,
     PyDoc_STR("numpy($self, /)\n--\n\nThe tensor as an array, mapped from the file.")},
    {"__array__", (PyCFunction)(void (*)(void))info_array, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("__array__($self, /, dtype=None, copy=None)\n--\n\nNumPy's protocol.")},
    {"__reduce__", info_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot info_slots[] = {
    {Py_tp_doc,
     "One tensor of a checkpoint: all that the pickle tells, none of its bytes."},
    {Py_tp_dealloc, info_dealloc},
    {Py_tp_repr, info_repr},
    {Py_tp_methods, info_methods},
    {Py_tp_getset, info_getset},
    {Py_mp_subscript, info_subscript},
    {0, NULL},
};

PyType_Spec py_info_spec = {
    .name = "pystatedict.TensorInfo",
    .basicsize = sizeof(py_info),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = info_slots,
};
