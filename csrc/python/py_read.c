/* SPDX-License-Identifier: Apache-2.0
 *
 * Pool to Python objects.  First a worklist from the root finds what is wanted
 * (the arguments of rebuilt tensors are not).  Then births and events are
 * replayed in the order of the program, so every object is at each moment just
 * as complete as Python's own machine would have it.  No recursion, and no name
 * of the file is ever imported: what is neither container nor leaf is given to
 * `values`, whose list is closed.
 */
#include "py_module.h"

/* ---------------------------------------------------------------- leaves */

static PyObject *
bad_text(py_archive *archive, psd_span text)
{
    const psd_archive *a = &archive->core;
    psd_error err;
    /* Decoded text lies in the arena; borrowed text tells where it is. */
    bool borrowed =
        text.data >= a->program.data && text.data < a->program.data + a->program.size;
    uint64_t offset = borrowed
                          ? a->program_offset + (uint64_t)(text.data - a->program.data)
                          : PSD_NOWHERE;
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        return NULL; /* no memory: nothing is known of the text */
    }
    PyErr_Clear();
    psd_fail(&err, PSD_PICKLE, offset, "a text is not UTF-8");
    psd_fail_entry(&err, a->pickle_name);
    return py_raise(&err);
}

static PyObject *
text_object(py_archive *archive, psd_span text)
{
    PyObject *object = PyUnicode_DecodeUTF8((const char *)text.data,
                                            (Py_ssize_t)text.size, "surrogatepass");
    return object != NULL ? object : bad_text(archive, text);
}

/* A str of Python 2: UTF-8 if it is that, else latin-1, which always is. */
static PyObject *
string_object(psd_span text)
{
    PyObject *object =
        PyUnicode_DecodeUTF8((const char *)text.data, (Py_ssize_t)text.size, NULL);
    if (object == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        object = PyUnicode_DecodeLatin1((const char *)text.data, (Py_ssize_t)text.size,
                                        NULL);
    }
    return object;
}

static PyObject *
long_object(psd_span bytes)
{
    const char *data = bytes.size == 0 ? "" : (const char *)bytes.data;
    PyObject *method = PyObject_GetAttrString((PyObject *)&PyLong_Type, "from_bytes");
    PyObject *args =
        method == NULL ? NULL
                       : Py_BuildValue("(y#s)", data, (Py_ssize_t)bytes.size, "little");
    PyObject *kwargs = args == NULL ? NULL : Py_BuildValue("{sO}", "signed", Py_True);
    PyObject *number = kwargs == NULL ? NULL : PyObject_Call(method, args, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(method);
    return number;
}

PyObject *
py_leaf(py_archive *archive, psd_ref ref)
{
    const psd_value *v = psd_value_at(&archive->core.pool, ref);
    psd_span text = {NULL, 0};
    if (v->kind >= PSD_KIND_TEXT && v->kind <= PSD_KIND_BYTEARRAY) {
        text = psd_text_of(v);
    }
    switch (v->kind) {
    case PSD_KIND_NONE: return Py_NewRef(Py_None);
    case PSD_KIND_BOOL: return PyBool_FromLong(v->as.boolean);
    case PSD_KIND_INT: return PyLong_FromLongLong(v->as.integer);
    case PSD_KIND_LONG: return long_object(psd_text_of(v));
    case PSD_KIND_FLOAT: return PyFloat_FromDouble(v->as.real);
    case PSD_KIND_TEXT: return text_object(archive, text);
    case PSD_KIND_STRING: return string_object(text);
    case PSD_KIND_BYTES:
        return PyBytes_FromStringAndSize((const char *)text.data,
                                         (Py_ssize_t)text.size);
    case PSD_KIND_BYTEARRAY:
        return PyByteArray_FromStringAndSize((const char *)text.data,
                                             (Py_ssize_t)text.size);
    default: PyErr_SetString(PyExc_SystemError, "not a leaf"); return NULL;
    }
}

/* ---------------------------------------------------------------- the reader */

typedef struct {
    py_archive *archive;
    const psd_pool *pool;
    PyObject *values;
    PyObject **objects; /* by number; NULL until born, or unwanted */
    bool *wanted;
    bool *holds; /* dicts that are the root or hold tensors: StateDicts */
    psd_ref root;
    bool meta;
    py_arrays arrays;
    PyTypeObject *opaque; /* values.Opaque, which copies nothing; or NULL */
    py_cost cost;
} reader;

static PyObject *
corrupt(reader *r, uint32_t position, psd_status status, const char *sentence)
{
    const psd_archive *a = &r->archive->core;
    psd_error err;
    psd_fail(&err, status, a->program_offset + position, sentence);
    psd_fail_entry(&err, a->pickle_name);
    return py_raise(&err);
}

/* ---------------------------------------------------------------- marking */

typedef struct {
    psd_ref *refs;
    uint32_t count, capacity;
} worklist;

static bool
want(reader *r, worklist *list, psd_ref ref)
{
    if (ref == 0 || r->wanted[ref]) {
        return true;
    }
    r->wanted[ref] = true;
    if (!psd_grow(py_alloc(), (void **)&list->refs, &list->capacity,
                  (uint64_t)list->count + 1, sizeof *list->refs)) {
        PyErr_NoMemory();
        return false;
    }
    list->refs[list->count++] = ref;
    return true;
}

static bool
want_all(reader *r, worklist *list, const psd_ref *refs, uint32_t count)
{
    bool done = true;
    for (uint32_t i = 0; i < count && done; i++) {
        done = want(r, list, refs[i]);
    }
    return done;
}

/* Attributes of the tensor, what it is made of, and what makes its integers reals. */
static bool
want_of_tensor(reader *r, worklist *list, uint32_t tensor)
{
    const psd_tensor *t = &r->archive->core.model.tensors[tensor];
    bool dense = t->layout == PSD_LAYOUT_STRIDED;
    bool done = want(r, list, t->state);
    if (done && dense && t->more.quantizer != NULL) {
        done = want(r, list, t->more.quantizer->scales) &&
               want(r, list, t->more.quantizer->zero_points);
    }
    for (uint32_t i = 0; done && !dense && i < t->more.composite->count; i++) {
        done = want(r, list, t->more.composite->parts[i].tensor);
    }
    return done;
}

static bool
want_parts(reader *r, worklist *list, psd_ref ref)
{
    const psd_value *v = psd_value_at(r->pool, ref);
    switch (v->kind) {
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return want_all(r, list, v->as.items, v->count);
    case PSD_KIND_TENSOR: return want_of_tensor(r, list, v->as.index);
    case PSD_KIND_PERSID: return want(r, list, v->as.ref);
    case PSD_KIND_CALL: {
        const psd_call *call = v->as.call;
        const psd_module *module = psd_model_module(&r->archive->core.model, ref);
        /* A plain name is handed over as such, it needs no object. */
        bool named = psd_kind_of(r->pool, call->callable) == PSD_KIND_GLOBAL;
        return want(r, list, module == NULL ? 0 : module->state_dict) &&
               (named || want(r, list, call->callable)) && want(r, list, call->args) &&
               want(r, list, call->kwargs) && want(r, list, call->state) &&
               want_all(r, list, call->items, call->item_count) &&
               want_all(r, list, call->appends, call->append_count);
    }
    default: return true;
    }
}

static bool
mark(reader *r)
{
    worklist list = {NULL, 0, 0};
    bool done = want(r, &list, r->root);
    while (done && list.count > 0) {
        done = want_parts(r, &list, list.refs[--list.count]);
    }
    free(list.refs);
    return done;
}

/* ---------------------------------------------------------------- which StateDicts */

static bool
any_tensor(const psd_pool *pool, const psd_ref *items, uint32_t count)
{
    for (uint32_t i = 1; i < count; i += 2) {
        if (psd_kind_of(pool, items[i]) == PSD_KIND_TENSOR) {
            return true;
        }
    }
    return false;
}

/* Is the call collections.OrderedDict(), whose items are told afterwards?  Of Python 2
 * they stand in its argument, too. */
bool
py_is_ordered_dict(const psd_pool *pool, const psd_call *call)
{
    const psd_value *callable = psd_value_at(pool, call->callable);
    const psd_value *args = psd_value_at(pool, call->args);
    return callable->kind == PSD_KIND_GLOBAL && args->kind == PSD_KIND_TUPLE &&
           (args->count == 0 || (args->count == 1 && call->item_count > 0)) &&
           psd_span_equal(callable->as.global->module, PSD_LITERAL("collections")) &&
           psd_span_equal(callable->as.global->name, PSD_LITERAL("OrderedDict"));
}

static void
find_state_dicts(reader *r)
{
    for (psd_ref ref = 1; ref <= r->pool->count; ref++) {
        const psd_value *v = psd_value_at(r->pool, ref);
        if (!r->wanted[ref]) {
            continue;
        }
        if (v->kind == PSD_KIND_DICT) {
            r->holds[ref] =
                ref == r->root || any_tensor(r->pool, v->as.items, v->count);
        }
        else if (v->kind == PSD_KIND_CALL && py_is_ordered_dict(r->pool, v->as.call)) {
            const psd_call *call = v->as.call;
            /* Attributes (_metadata) need a place, too. */
            r->holds[ref] = ref == r->root || call->state != 0 ||
                            any_tensor(r->pool, call->items, call->item_count);
        }
    }
}

/* ---------------------------------------------------------------- births */

static PyObject *
state_dict(reader *r, psd_ref ref, bool ordered)
{
    return PyObject_CallMethod(r->values, "state_dict", "OOk", r->archive,
                               ordered ? Py_True : Py_False, (unsigned long)ref);
}

static PyObject *
object_at(const reader *r, psd_ref ref)
{
    return ref == 0 || r->objects[ref] == NULL ? Py_None : r->objects[ref];
}

static PyObject *
make_tuple(reader *r, const psd_value *v)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)v->count);
    for (uint32_t i = 0; tuple != NULL && i < v->count; i++) {
        PyObject *item = Py_NewRef(object_at(r, v->as.items[i]));
        if (PyTuple_SetItem(tuple, (Py_ssize_t)i, item) < 0) {
            Py_CLEAR(tuple);
        }
    }
    return tuple;
}

static PyObject *key_at(reader *r, psd_ref target, psd_ref ref);

static PyObject *
make_frozenset(reader *r, psd_ref ref)
{
    const psd_value *v = psd_value_at(r->pool, ref);
    PyObject *tuple = PyTuple_New((Py_ssize_t)v->count);
    for (uint32_t i = 0; tuple != NULL && i < v->count; i++) {
        PyObject *item = key_at(r, ref, v->as.items[i]);
        if (item == NULL || PyTuple_SetItem(tuple, (Py_ssize_t)i, item) < 0) {
            Py_CLEAR(tuple);
        }
    }
    PyObject *set = tuple == NULL ? NULL : PyFrozenSet_New(tuple);
    Py_XDECREF(tuple);
    return set;
}

static PyObject *
make_global(reader *r, const psd_global *g)
{
    PyObject *module = py_text(g->module), *name = py_text(g->name);
    PyObject *object = NULL;
    if (module != NULL && name != NULL) {
        object = PyObject_CallMethod(r->values, "global_value", "OOi", module, name,
                                     (int)r->archive->core.pickle.protocol);
    }
    Py_XDECREF(module);
    Py_XDECREF(name);
    return object;
}

/* Count what the call copied of the value at `ref` to make `object`; steals `object`,
 * and gives it back unless that was too much. */
static PyObject *
charged(reader *r, const psd_call *call, PyObject *object, psd_ref ref)
{
    if (object == NULL || Py_TYPE(object) == r->opaque) {
        return object;
    }
    const char *sentence = py_cost_of_copy(&r->cost, r->pool, ref);
    if (sentence == NULL) {
        return object;
    }
    Py_DECREF(object);
    return corrupt(r, call->position, PSD_LIMIT, sentence);
}

/* Count the memory of an array that was made of a state: the rows of a structured one
 * can be far larger than what the pickle tells of them.  Steals `object` likewise. */
static PyObject *
charged_array(reader *r, const psd_call *call, PyObject *object)
{
    py_array_view view;
    int looked = object == NULL ? 0 : py_array_look(object, &view);
    if (looked <= 0) {
        if (looked < 0) {
            Py_CLEAR(object);
        }
        return object;
    }
    uint64_t size = (uint64_t)view.itemsize;
    for (int i = 0; i < view.rank; i++) {
        size *= (uint64_t)view.shape[i]; /* NumPy has allocated it: it fits */
    }
    const char *sentence = py_cost_of_array(&r->cost, size);
    if (sentence == NULL) {
        return object;
    }
    Py_DECREF(object);
    return corrupt(r, call->position, PSD_LIMIT, sentence);
}

static PyObject *
make_call(reader *r, const psd_call *call)
{
    static const char *const forms[] = {
        [PSD_CALL_REDUCE] = "reduce",
        [PSD_CALL_NEWOBJ] = "newobj",
        [PSD_CALL_NEWOBJ_EX] = "newobj",
        [PSD_CALL_INSTANCE] = "reduce",
    };
    const psd_value *callable = psd_value_at(r->pool, call->callable);
    PyObject *module = NULL, *name = NULL, *object = NULL;
    if (callable->kind == PSD_KIND_GLOBAL) {
        module = py_text(callable->as.global->module);
        name = py_text(callable->as.global->name);
    }
    else {
        module = Py_NewRef(Py_None);
        name = Py_NewRef(object_at(r, call->callable));
    }
    if (module != NULL && name != NULL) {
        object = PyObject_CallMethod(r->values, "call", "sOOOOi", forms[call->form],
                                     module, name, object_at(r, call->args),
                                     object_at(r, call->kwargs),
                                     (int)r->archive->core.pickle.protocol);
    }
    Py_XDECREF(module);
    Py_XDECREF(name);
    return charged(r, call, object, call->args);
}

/* {name: object} of what a tensor is made of; they were born before it. */
static PyObject *
parts_of(reader *r, const psd_composite *composite)
{
    PyObject *parts = PyDict_New();
    for (uint32_t i = 0; parts != NULL && i < composite->count; i++) {
        PyObject *name = py_text(composite->parts[i].name);
        PyObject *part = object_at(r, composite->parts[i].tensor);
        if (name == NULL || PyDict_SetItem(parts, name, part) < 0) {
            Py_CLEAR(parts);
        }
        Py_XDECREF(name);
    }
    return parts;
}

static PyObject *
make_composite(reader *r, const psd_tensor *t, PyObject *info)
{
    PyObject *parts = parts_of(r, t->more.composite);
    PyObject *object = parts == NULL
                           ? NULL
                           : PyObject_CallMethod(r->values, "composite", "OOOi", info,
                                                 parts, object_at(r, t->state),
                                                 (int)t->more.composite->coalesced);
    Py_XDECREF(parts);
    return object;
}

/* Lists of scales are copied into arrays, for every tensor that has them. */
static bool
charge_list(reader *r, psd_ref ref)
{
    const char *sentence = psd_kind_of(r->pool, ref) == PSD_KIND_LIST
                               ? py_cost_of_copy(&r->cost, r->pool, ref)
                               : NULL;
    if (sentence != NULL) {
        corrupt(r, 0, PSD_LIMIT, sentence);
    }
    return sentence == NULL;
}

static PyObject *
make_quantized(reader *r, const psd_tensor *t, PyObject *info, PyObject *array)
{
    static const char *const schemes[] = {
        [PSD_PER_TENSOR] = "per_tensor_affine",
        [PSD_PER_CHANNEL] = "per_channel_affine",
        [PSD_PER_CHANNEL_FLOAT] = "per_channel_affine_float_qparams",
    };
    const psd_quantizer *q = t->more.quantizer;
    if (!charge_list(r, q->scales) || !charge_list(r, q->zero_points)) {
        return NULL;
    }
    return PyObject_CallMethod(r->values, "quantized", "OOsdLOOL", info, array,
                               schemes[q->scheme], q->scale, (long long)q->zero_point,
                               object_at(r, q->scales), object_at(r, q->zero_points),
                               (long long)q->axis);
}

static PyObject *
make_tensor(reader *r, uint32_t tensor)
{
    const psd_tensor *t = &r->archive->core.model.tensors[tensor];
    bool dense = t->layout == PSD_LAYOUT_STRIDED;
    bool quantized = dense && t->more.quantizer != NULL;
    bool meta = r->meta || (t->flags & PSD_TENSOR_META) != 0;
    if (!meta && dense && !quantized) {
        return py_arrays_make(&r->arrays, tensor);
    }
    PyObject *name = PyUnicode_FromString("");
    PyObject *info = name == NULL ? NULL : py_info_new(r->archive, tensor, name);
    Py_XDECREF(name);
    if (info == NULL || meta) {
        return info;
    }
    PyObject *object = NULL;
    if (quantized) {
        PyObject *array = py_arrays_make(&r->arrays, tensor);
        object = array == NULL ? NULL : make_quantized(r, t, info, array);
        Py_XDECREF(array);
    }
    else {
        object = make_composite(r, t, info);
    }
    Py_DECREF(info);
    return object;
}

static PyObject *
make(reader *r, psd_ref ref)
{
    const psd_value *v = psd_value_at(r->pool, ref);
    switch (v->kind) {
    case PSD_KIND_TUPLE: return make_tuple(r, v);
    case PSD_KIND_LIST: return PyList_New(0);
    case PSD_KIND_DICT: return r->holds[ref] ? state_dict(r, ref, false) : PyDict_New();
    case PSD_KIND_SET: return PySet_New(NULL);
    case PSD_KIND_FROZENSET: return make_frozenset(r, ref);
    case PSD_KIND_GLOBAL: return make_global(r, v->as.global);
    case PSD_KIND_CALL:
        return r->holds[ref] ? state_dict(r, ref, true) : make_call(r, v->as.call);
    case PSD_KIND_TENSOR: return make_tensor(r, v->as.index);
    case PSD_KIND_STORAGE:
        /* One that tensors look at as well is no tensor of its own; only a pickle that
         * was made by hand refers to one value for both. */
        return py_raise_named("UnsupportedError",
                              "the file holds a storage by itself and its tensors too");
    case PSD_KIND_PERSID:
        /* In parentheses: a tuple alone would be taken for all the arguments. */
        return PyObject_CallMethod(r->values, "persistent", "(O)",
                                   object_at(r, v->as.ref));
    default: return py_leaf(r->archive, ref);
    }
}

/* ---------------------------------------------------------------- keys */

/* An unhashable key is the file's fault, not the caller's. */
static PyObject *
key_failed(reader *r)
{
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        corrupt(r, 0, PSD_PICKLE, "a key of a dict or set cannot be hashed");
    }
    return NULL;
}

/* The object as a key of `target`, a new reference.  torch hashes tensors by identity;
 * NumPy hashes no arrays, so the Python side gives something that stands for them. */
static PyObject *
key_at(reader *r, psd_ref target, psd_ref ref)
{
    PyObject *key = object_at(r, ref);
    const char *sentence = py_cost_of_key(&r->cost, r->pool, target, ref, key);
    if (sentence != NULL) {
        return corrupt(r, 0, PSD_LIMIT, sentence);
    }
    if (PyObject_Hash(key) != -1) {
        return Py_NewRef(key);
    }
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
        return NULL;
    }
    PyErr_Clear();
    PyObject *instead = PyObject_CallMethod(r->values, "as_key", "(O)", key);
    if (instead != NULL && PyObject_Hash(instead) == -1) {
        Py_CLEAR(instead);
    }
    return instead != NULL ? instead : key_failed(r);
}

/* ---------------------------------------------------------------- events */

static const psd_ref *
event_refs(const reader *r, const psd_event *e)
{
    const psd_value *v = psd_value_at(r->pool, e->target);
    if (v->kind == PSD_KIND_CALL) {
        return (e->kind == PSD_EVENT_ITEMS ? v->as.call->items : v->as.call->appends) +
               e->first;
    }
    return v->as.items + e->first;
}

/* Tell a StateDict of the Python attributes that one of its tensors had. */
static bool
attach_state(reader *r, psd_ref ref, PyObject *target, PyObject *key)
{
    const psd_value *v = psd_value_at(r->pool, ref);
    if (v->kind != PSD_KIND_TENSOR) {
        return true;
    }
    psd_ref state = r->archive->core.model.tensors[v->as.index].state;
    if (psd_kind_of(r->pool, state) != PSD_KIND_DICT) {
        return true;
    }
    PyObject *done = PyObject_CallMethod(r->values, "attach_state", "OOO", target, key,
                                         object_at(r, state));
    Py_XDECREF(done);
    return done != NULL;
}

static bool
fill_dict(reader *r, const psd_event *e, PyObject *target)
{
    const psd_ref *refs = event_refs(r, e);
    /* OrderedDict keeps an order of its own, which PyDict_SetItem would pass by. */
    bool direct = PyDict_CheckExact(target) || r->holds[e->target];
    for (uint32_t i = 0; i + 1 < e->count; i += 2) {
        PyObject *key = key_at(r, e->target, refs[i]);
        PyObject *value = object_at(r, refs[i + 1]);
        bool done = key != NULL && (direct ? PyDict_SetItem(target, key, value)
                                           : PyObject_SetItem(target, key, value)) == 0;
        done =
            done && (!r->holds[e->target] || attach_state(r, refs[i + 1], target, key));
        Py_XDECREF(key);
        if (!done) {
            return false;
        }
    }
    return true;
}

static bool
fill_set(reader *r, const psd_event *e, PyObject *target)
{
    const psd_ref *refs = event_refs(r, e);
    for (uint32_t i = 0; i < e->count; i++) {
        PyObject *key = key_at(r, e->target, refs[i]);
        bool done = key != NULL && PySet_Add(target, key) == 0;
        Py_XDECREF(key);
        if (!done) {
            return false;
        }
    }
    return true;
}

static bool
fill_list(reader *r, const psd_event *e, PyObject *target)
{
    const psd_ref *refs = event_refs(r, e);
    for (uint32_t i = 0; i < e->count; i++) {
        if (PyList_Append(target, object_at(r, refs[i])) < 0) {
            return false;
        }
    }
    return true;
}

/* An object that is no container of ours gets its parts as a list. */
static bool
fill_other(reader *r, const psd_event *e, PyObject *target)
{
    const psd_ref *refs = event_refs(r, e);
    PyObject *list = PyList_New((Py_ssize_t)e->count);
    for (uint32_t i = 0; list != NULL && i < e->count; i++) {
        if (PyList_SetItem(list, (Py_ssize_t)i, Py_NewRef(object_at(r, refs[i]))) < 0) {
            Py_CLEAR(list);
        }
    }
    const char *method = e->kind == PSD_EVENT_ITEMS ? "set_items" : "append_items";
    PyObject *result = list == NULL
                           ? NULL
                           : PyObject_CallMethod(r->values, method, "OO", target, list);
    Py_XDECREF(list);
    Py_XDECREF(result);
    return result != NULL;
}

/* BUILD may give another object in the place of the first: an ndarray is only
 * known when its state is. */
static bool
build(reader *r, const psd_event *e, PyObject *target)
{
    const psd_call *call = psd_value_at(r->pool, e->target)->as.call;
    if (call->state != e->first) {
        corrupt(r, call->position, PSD_PICKLE, "an object is given its state twice");
        return false;
    }
    PyObject *built =
        PyObject_CallMethod(r->values, "build", "OO", target, object_at(r, e->first));
    built = charged_array(r, call, charged(r, call, built, e->first));
    if (built == NULL) {
        return false;
    }
    PyObject *before = r->objects[e->target];
    r->objects[e->target] = built;
    Py_DECREF(before);
    return true;
}

static bool
apply(reader *r, const psd_event *e)
{
    PyObject *target = r->objects[e->target];
    if (target == NULL || psd_value_at(r->pool, e->target)->kind == PSD_KIND_TENSOR) {
        return true; /* unwanted, or a tensor whose state the torch pass has read */
    }
    switch (e->kind) {
    case PSD_EVENT_BUILD: return build(r, e, target);
    case PSD_EVENT_ITEMS:
        return PyDict_Check(target) ? fill_dict(r, e, target)
                                    : fill_other(r, e, target);
    default:
        if (PyList_CheckExact(target)) {
            return fill_list(r, e, target);
        }
        return Py_IS_TYPE(target, &PySet_Type) ? fill_set(r, e, target)
                                               : fill_other(r, e, target);
    }
}

static bool
replay(reader *r)
{
    const psd_pool *pool = r->pool;
    uint32_t next = 0;
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        for (; next < pool->event_count && pool->events[next].when < ref; next++) {
            if (!apply(r, &pool->events[next])) {
                return false;
            }
        }
        if (r->wanted[ref]) {
            r->objects[ref] = make(r, ref);
            if (r->objects[ref] == NULL) {
                return false;
            }
        }
    }
    for (; next < pool->event_count; next++) {
        if (!apply(r, &pool->events[next])) {
            return false;
        }
    }
    return true;
}

/* Give each whole module the state_dict that it would have. */
static bool
attach_modules(reader *r)
{
    const psd_model *model = &r->archive->core.model;
    bool done = true;
    for (uint32_t i = 0; i < model->module_count && done; i++) {
        const psd_module *m = &model->modules[i];
        if (r->objects[m->at] == NULL) {
            continue;
        }
        PyObject *untold = py_untold(r->archive, m->at);
        PyObject *attached =
            untold == NULL ? NULL
                           : PyObject_CallMethod(r->values, "attach_module", "OOO",
                                                 r->objects[m->at],
                                                 object_at(r, m->state_dict), untold);
        Py_XDECREF(untold);
        Py_XDECREF(attached);
        done = attached != NULL;
    }
    return done;
}

/* Is there more to the tensor than its bytes, and is it an array that cannot say it? */
static bool
needs_mark(const psd_tensor *t)
{
    const unsigned more = PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD |
                          PSD_TENSOR_BUFFER | PSD_TENSOR_STORAGE;
    bool is_array = t->layout == PSD_LAYOUT_STRIDED && t->more.quantizer == NULL &&
                    (t->flags & PSD_TENSOR_META) == 0;
    return is_array && ((t->flags & more) != 0 || t->state != 0);
}

bool
py_mark(py_archive *archive, uint32_t tensor, PyObject *values, PyObject *array,
        PyObject *state)
{
    const psd_tensor *t = &archive->core.model.tensors[tensor];
    if (!needs_mark(t)) {
        return true;
    }
    PyObject *marked =
        PyObject_CallMethod(values, "mark", "OIO", array, (unsigned)t->flags,
                            state == NULL ? Py_None : state);
    Py_XDECREF(marked);
    return marked != NULL;
}

/* What tensors were besides their bytes is noted by the arrays' identity. */
static bool
mark_tensors(reader *r)
{
    const psd_model *model = &r->archive->core.model;
    bool done = true;
    for (uint32_t i = 0; !r->meta && done && i < model->tensor_count; i++) {
        const psd_tensor *t = &model->tensors[i];
        if (t->at != 0 && r->objects[t->at] != NULL) {
            done = py_mark(r->archive, i, r->values, r->objects[t->at],
                           r->objects[t->state]);
        }
    }
    return done;
}

/* ---------------------------------------------------------------- the face */

PyObject *
py_read(py_archive *archive, psd_ref ref, PyObject *values, bool copy, bool meta)
{
    size_t count = (size_t)archive->core.pool.count + 1;
    reader r = {.archive = archive,
                .pool = &archive->core.pool,
                .values = values,
                .root = ref,
                .meta = meta};
    if (!py_arrays_init(&r.arrays, archive, values, copy, 0,
                        archive->core.model.storage_count)) {
        return NULL;
    }
    r.opaque = (PyTypeObject *)PyObject_GetAttrString(values, "Opaque");
    PyErr_Clear(); /* of no use without it, and of no harm */
    PyObject *result = NULL;
    size_t size = count * (sizeof *r.objects + sizeof *r.wanted + sizeof *r.holds);
    r.objects = py_take_zeros(size);
    if (r.objects != NULL) {
        r.wanted = (bool *)(r.objects + count);
        r.holds = r.wanted + count;
    }
    if (r.objects == NULL ||
        !py_cost_init(&r.cost, archive->state->key, archive->core.program.size)) {
        PyErr_NoMemory();
    }
    else if (mark(&r)) {
        find_state_dicts(&r);
        if (replay(&r) && attach_modules(&r) && mark_tensors(&r)) {
            result = Py_NewRef(r.objects[ref]);
        }
    }
    for (size_t i = 0; r.objects != NULL && i < count; i++) {
        Py_XDECREF(r.objects[i]);
    }
    py_free_zeros(r.objects, size);
    Py_XDECREF((PyObject *)r.opaque);
    py_cost_clear(&r.cost);
    py_arrays_clear(&r.arrays);
    return result;
}
