/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays as tensors, and the storages that they share: what overlaps in memory
 * becomes one, whoever owns it.
 */
#include "py_writer.h"

/* ---------------------------------------------------------------- arrays */

/* torch's dtype that NumPy's is; NONE when torch has none, -1 with an exception. */
static int
find_dtype(py_writer *w, PyObject *dtype)
{
    /* By identity: dtypes that compare equal may differ in what they carry. */
    PyObject *key = PyLong_FromVoidPtr(dtype);
    PyObject *name = key == NULL ? NULL : PyDict_GetItemWithError(w->dtypes, key);
    int result = -1;
    Py_XINCREF(name);
    if (name == NULL && key != NULL && PyErr_Occurred() == NULL) {
        name = PyObject_CallMethod(w->values, "torch_dtype", "O", dtype);
        if (name != NULL &&
            (PyDict_SetItem(w->dtypes, key, name) < 0 || !py_keep(w, dtype))) {
            Py_CLEAR(name);
        }
    }
    if (name == Py_None) {
        result = PSD_DTYPE_NONE;
    }
    else if (name != NULL) {
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        if (text != NULL) {
            result = (int)psd_dtype_from_name(
                (psd_span){(const uint8_t *)text, (size_t)size});
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(key);
    return result;
}

/* The same of an array; mostly the next has the dtype of the one before it. */
static int
torch_dtype(py_writer *w, PyObject *array)
{
    PyObject *dtype = py_array_dtype(array);
    if (dtype != w->last_dtype) {
        int found = find_dtype(w, dtype); /* which keeps it */
        w->last_dtype = found < 0 ? NULL : dtype;
        w->last_found = found;
    }
    Py_DECREF(dtype);
    return w->last_found;
}

/* How far a plain array's elements reach, in bytes; false when nothing is there. */
static bool
reach_of(const py_array_view *view, size_t *reach)
{
    size_t last = 0;
    for (int i = 0; i < view->rank; i++) {
        if (view->shape[i] == 0) {
            return false;
        }
        if (view->shape[i] > 1) {
            last += (size_t)(view->shape[i] - 1) * (size_t)view->strides[i];
        }
    }
    *reach = last + (size_t)view->itemsize;
    return true;
}

/* NumPy's own limit, NPY_MAXDIMS of NumPy 2; it was less before. */
#define RANK_MOST 64

/* Shape and strides into the arena, unless the tensor before has the same. */
static bool
keep_geometry(py_writer *w, const int64_t *numbers, size_t rank, psd_tensor *t)
{
    const psd_model *m = &w->model;
    const psd_tensor *last =
        m->tensor_count == 0 ? NULL : &m->tensors[m->tensor_count - 1];
    const size_t size = 2 * rank * sizeof *numbers;
    const int64_t *kept = NULL;
    if (last != NULL && last->rank == rank && memcmp(last->shape, numbers, size) == 0) {
        kept = last->shape;
    }
    else {
        kept = (const int64_t *)(const void *)psd_arena_copy(
                   &w->arena, (psd_span){(const uint8_t *)numbers, size})
                   .data;
    }
    if (kept == NULL) {
        return py_no_memory();
    }
    t->rank = (uint8_t)rank;
    t->shape = kept;
    t->strides = kept + rank;
    return true;
}

/* Shape and strides in elements; where no second index exists the stride is free,
 * and torch's own choice is that of a contiguous array.  NumPy's for an array of
 * no elements is 0 or anything. */
static bool
fill_geometry(py_writer *w, const py_array_view *view, psd_tensor *t)
{
    size_t rank = (size_t)view->rank;
    int64_t numbers[2 * RANK_MOST];
    if (rank > RANK_MOST) {
        PyErr_SetString(PyExc_ValueError, "an array has more than 64 dimensions");
        return false;
    }
    int64_t contiguous = 1;
    t->numel = 1;
    for (size_t i = 0; i < rank; i++) {
        t->numel *= (uint64_t)view->shape[i];
    }
    for (size_t i = rank; i-- > 0;) {
        numbers[i] = view->shape[i];
        bool divides = t->numel > 0 && view->strides[i] >= 0 &&
                       view->strides[i] % view->itemsize == 0;
        numbers[rank + i] = divides ? view->strides[i] / view->itemsize : contiguous;
        contiguous *= view->shape[i] > 0 ? view->shape[i] : 1;
    }
    return keep_geometry(w, numbers, rank, t);
}

/* (flags, attributes or None, ...) of this very array: what the caller says, else what
 * is noted of it; a new reference.  NULL, without an exception, when there is neither. */
static PyObject *
told_of(py_writer *w, PyObject *array)
{
    PyObject *told = NULL;
    if (w->parameters == Py_None && PyDict_Size(w->marks) == 0) {
        return NULL;
    }
    PyObject *key = PyLong_FromVoidPtr(array);
    if (key != NULL && w->parameters != Py_None) {
        told = PyDict_GetItemWithError(w->parameters, key);
    }
    if (told == NULL && PyErr_Occurred() == NULL) {
        told = PyDict_GetItemWithError(w->marks, key);
    }
    Py_XINCREF(told);
    Py_XDECREF(key);
    return told;
}

/* The one that is not: a NumPy array in the pickle, whatever torch calls its dtype. */
#define NDARRAY_MARK (1u << 7)

/* Is this array to be written as NumPy does it?  -1: an exception is set. */
static int
is_marked_ndarray(py_writer *w, PyObject *array)
{
    PyObject *told = told_of(w, array);
    if (told == NULL) {
        return PyErr_Occurred() == NULL ? 0 : -1;
    }
    unsigned long bits = PyLong_AsUnsignedLong(PyTuple_GetItem(told, 0));
    Py_DECREF(told);
    return PyErr_Occurred() != NULL ? -1 : (bits & NDARRAY_MARK) != 0;
}

bool
py_tensor_state(py_writer *w, PyObject *state)
{
    if (state == Py_None) {
        return true;
    }
    struct py_pending *pending = psd_arena_take(&w->arena, sizeof *pending);
    if (pending == NULL) {
        return py_no_memory();
    }
    *pending = (struct py_pending){0, w->model.tensor_count, w->states};
    w->states = pending;
    return py_keep(w, state) && py_put(w, state, &pending->ref);
}

static bool
fill_flags(py_writer *w, PyObject *array, psd_tensor *t)
{
    PyObject *told = told_of(w, array);
    if (told == NULL) {
        return PyErr_Occurred() == NULL;
    }
    unsigned long bits = PyLong_AsUnsignedLong(PyTuple_GetItem(told, 0));
    PyObject *state = PyTuple_GetItem(told, 1);
    bool done = state != NULL && PyErr_Occurred() == NULL;
    t->flags = (uint8_t)(bits & PY_WRITTEN_FLAGS & ~w->left_out);
    done = done && py_tensor_state(w, state);
    Py_DECREF(told);
    return done;
}

bool
py_enter_tensor(py_writer *w, PyObject *object, py_extent extent, psd_tensor t,
                psd_ref *slot)
{
    psd_model *m = &w->model;
    if (!psd_grow(m->alloc, (void **)&m->tensors, &m->tensor_capacity,
                  (uint64_t)m->tensor_count + 1, sizeof t) ||
        !psd_grow(m->alloc, (void **)&w->extents, &w->extent_capacity,
                  (uint64_t)m->tensor_count + 1, sizeof *w->extents)) {
        return py_no_memory();
    }
    extent.tensor = m->tensor_count;
    w->extents[m->tensor_count] = extent;
    m->tensors[m->tensor_count] = t;
    /* A placeholder of the right kind; numbers of tensors are never memoized by value. */
    psd_ref ref = psd_new_none(&w->pool);
    if (!py_made(w, ref, slot) || !py_memo_put(&w->memo, object, ref)) {
        return false;
    }
    psd_value *value = psd_value_at(&w->pool, ref);
    value->kind = PSD_KIND_TENSOR;
    value->as.index = m->tensor_count++;
    return true;
}

/* A tensor of the model over the bytes of `view`; *slot gets its number. */
static bool
enter(py_writer *w, PyObject *object, const py_array_view *view, psd_tensor t,
      psd_ref *slot)
{
    py_extent extent = {NULL, NULL, 0, 0};
    size_t reach = 0;
    if (reach_of(view, &reach)) {
        extent.low = view->data;
        extent.high = view->data + reach;
    }
    return py_enter_tensor(w, object, extent, t, slot);
}

static bool
add_array(py_writer *w, PyObject *object, PyObject *array, const py_array_view *view,
          psd_dtype dtype, psd_ref *slot)
{
    psd_tensor t = {.dtype = (uint8_t)dtype, .storage = PSD_NO_STORAGE};
    return (array == object || py_keep(w, array)) && fill_geometry(w, view, &t) &&
           fill_flags(w, object, &t) && enter(w, object, view, t, slot);
}

/* ---------------------------------------------------------------- quantized */

/* Numbers of a tuple of Python's; false with an exception set. */
static bool
numbers_of(PyObject *tuple, Py_ssize_t count, int64_t *numbers)
{
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) {
        PyErr_SetString(PyExc_TypeError, "not as many numbers as dimensions");
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        numbers[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (numbers[i] == -1 && PyErr_Occurred() != NULL) {
            return false;
        }
    }
    return true;
}

bool
py_tensor_geometry(py_writer *w, PyObject *shape, PyObject *stride, psd_tensor *t)
{
    int64_t numbers[2 * RANK_MOST];
    Py_ssize_t rank = PyTuple_Check(shape) ? PyTuple_Size(shape) : -1;
    if (rank < 0 || rank > RANK_MOST) {
        PyErr_SetString(PyExc_TypeError, "a shape is a tuple of at most 64 numbers");
        return false;
    }
    return numbers_of(shape, rank, numbers) &&
           numbers_of(stride, rank, numbers + rank) &&
           keep_geometry(w, numbers, (size_t)rank, t);
}

/* Shape, stride and offset as told, of elements of which a byte holds several. */
static bool
packed_geometry(py_writer *w, PyObject *shape, PyObject *stride, psd_tensor *t)
{
    if (!py_tensor_geometry(w, shape, stride, t)) {
        return false;
    }
    const char *fault = psd_window_count(t, 1);
    if (fault != NULL) {
        PyErr_SetString(PyExc_ValueError, fault);
    }
    return fault == NULL;
}

/* A packed tensor must lie within the bytes that it is given. */
static bool
check_packed(const psd_tensor *t, const py_array_view *view)
{
    uint64_t reach;
    uint64_t room = (uint64_t)view->shape[0] * psd_dtype_per_byte((psd_dtype)t->dtype);
    const char *fault = psd_window_reach(t, room, &reach);
    if (fault != NULL) {
        PyErr_SetString(PyExc_ValueError, fault);
    }
    return fault == NULL;
}

bool
py_write_quantized(py_writer *w, PyObject *object, PyObject *told, psd_ref *slot)
{
    PyObject *array, *shape, *stride, *scales, *zero_points;
    const char *name, *scheme;
    unsigned char flags;
    long long offset, zero_point, axis;
    double scale;
    py_array_view view;
    if (!PyArg_ParseTuple(told, "OsbOOLsdLOOL", &array, &name, &flags, &shape, &stride,
                          &offset, &scheme, &scale, &zero_point, &scales, &zero_points,
                          &axis)) {
        return false;
    }
    psd_quantizer *q = psd_arena_take(&w->arena, sizeof *q);
    if (q == NULL) {
        return py_no_memory();
    }
    *q = (psd_quantizer){
        .scheme =
            strcmp(scheme, "per_tensor_affine") == 0 ? PSD_PER_TENSOR : PSD_PER_CHANNEL,
        .scale = scale,
        .zero_point = zero_point,
        .axis = axis,
    };
    psd_tensor t = {.dtype = (uint8_t)psd_dtype_from_name(
                        (psd_span){(const uint8_t *)name, strlen(name)}),
                    .storage = PSD_NO_STORAGE,
                    .flags = flags,
                    .offset = offset,
                    .more.quantizer = q};
    int looked = py_array_look(array, &view);
    if (looked <= 0 || !view.plain || t.dtype == PSD_DTYPE_NONE) {
        if (looked >= 0) {
            PyErr_SetString(PyExc_TypeError, "a quantized tensor's array is not plain");
        }
        return false;
    }
    bool packed = shape != Py_None;
    return (packed ? packed_geometry(w, shape, stride, &t) && check_packed(&t, &view)
                   : fill_geometry(w, &view, &t)) &&
           enter(w, object, &view, t, slot) &&
           (scales == Py_None || py_put(w, scales, &q->scales)) &&
           (zero_points == Py_None || py_put(w, zero_points, &q->zero_points));
}

/* Negative strides, foreign byte order: torch cannot say it, so a copy does. */
static bool
write_copy(py_writer *w, PyObject *object, PyObject *array, psd_dtype dtype,
           psd_ref *slot)
{
    py_array_view view;
    PyObject *copy = PyObject_CallMethod(w->values, "compact", "O", array);
    bool done = copy != NULL && py_array_look(copy, &view) > 0 && view.plain &&
                add_array(w, object, copy, &view, dtype, slot);
    Py_XDECREF(copy);
    if (!done && PyErr_Occurred() == NULL) {
        PyErr_SetString(PyExc_TypeError, "compact() gave no plain array");
    }
    return done;
}

/* A memmap or a matrix is its array; a masked array is refused by the Python side. */
static bool
write_subclass(py_writer *w, PyObject *object, psd_dtype dtype, psd_ref *slot)
{
    py_array_view view;
    PyObject *array = PyObject_CallMethod(w->values, "as_ndarray", "O", object);
    bool done = array != NULL && py_array_look(array, &view) > 0;
    if (done) {
        done = view.plain ? add_array(w, object, array, &view, dtype, slot)
                          : write_copy(w, object, array, dtype, slot);
    }
    Py_XDECREF(array);
    if (!done && PyErr_Occurred() == NULL) {
        PyErr_SetString(PyExc_TypeError, "as_ndarray() gave no array");
    }
    return done;
}

/* 1: written as a tensor, 0: no array that torch has a dtype for, -1: failed. */
int
py_write_array(py_writer *w, PyObject *object, psd_ref *slot)
{
    py_array_view view;
    int looked = py_array_look(object, &view);
    if (looked <= 0) {
        return looked;
    }
    int marked = is_marked_ndarray(w, object);
    int dtype = marked == 0 ? torch_dtype(w, object) : 0;
    if (marked < 0 || dtype <= 0) {
        return marked < 0 ? -1 : dtype;
    }
    if (view.plain && view.exact) {
        return add_array(w, object, object, &view, (psd_dtype)dtype, slot) ? 1 : -1;
    }
    if (!view.exact) {
        return write_subclass(w, object, (psd_dtype)dtype, slot) ? 1 : -1;
    }
    return write_copy(w, object, object, (psd_dtype)dtype, slot) ? 1 : -1;
}

/* ---------------------------------------------------------------- storages */

static bool
is_before(const py_extent *a, const py_extent *b)
{
    if (a->supply != b->supply) {
        return a->supply < b->supply;
    }
    return a->low != b->low ? (uintptr_t)a->low < (uintptr_t)b->low
                            : a->tensor < b->tensor;
}

/* Where the stretch ends that begins at `first` and stands in order. */
static size_t
end_of_stretch(const py_extent *extents, size_t first, size_t count)
{
    size_t end = first + 1;
    while (end < count && is_before(&extents[end - 1], &extents[end])) {
        end++;
    }
    return end < count ? end : count;
}

/* Merge [first, middle) and [middle, end). */
static void
merge(const py_extent *from, py_extent *to, size_t first, size_t middle, size_t end)
{
    size_t a = first, b = middle;
    for (size_t i = first; i < end; i++) {
        bool take_a = b == end || (a < middle && is_before(&from[a], &from[b]));
        to[i] = take_a ? from[a++] : from[b++];
    }
}

/*
 * Sort by address.  Arrays that came from one file, or were made one after another, stand
 * in order but for a few places: merging what is in order costs them little.
 */
static bool
sort_extents(py_extent *extents, size_t count)
{
    if (end_of_stretch(extents, 0, count) == count) {
        return true;
    }
    py_extent *other = py_take_zeros(count * sizeof *other);
    if (other == NULL) {
        return py_no_memory();
    }
    py_extent *from = extents, *to = other;
    while (end_of_stretch(from, 0, count) < count) {
        for (size_t first = 0; first < count;) {
            size_t middle = end_of_stretch(from, first, count);
            size_t end = end_of_stretch(from, middle, count);
            merge(from, to, first, middle, end);
            first = end;
        }
        py_extent *turn = from;
        from = to;
        to = turn;
    }
    if (from != extents) {
        memcpy(extents, from, count * sizeof *extents);
    }
    py_free_zeros(other, count * sizeof *other);
    return true;
}

/* A storage found by address; storages are numbered by first use later. */
typedef struct {
    const uint8_t *low, *high;
    uint32_t supply;
    uint32_t number; /* + 1, or 0: not numbered yet */
    uint8_t dtype;
    bool mixed;
} group;

/* The largest item, and a multiple of every other's size. */
#define LARGEST_ITEM 16

/*
 * The group that an array joins: the first that reaches it and of whose start it
 * is whole items away.  Of two groups with one remainder the older ends before
 * the newer begins, so no more than one of each is open.
 */
static group *
open_group(group *groups, const uint32_t *open, const py_extent *e, size_t itemsize)
{
    group *found = NULL;
    for (unsigned i = 0; i < LARGEST_ITEM; i++) {
        group *g = open[i] == 0 ? NULL : &groups[open[i] - 1];
        if (g != NULL && (uintptr_t)e->low < (uintptr_t)g->high &&
            (size_t)(e->low - g->low) % itemsize == 0 && (found == NULL || g < found)) {
            found = g;
        }
    }
    return found;
}

/*
 * Arrays whose bytes overlap share a storage that spans them all.  An array
 * that does not lie on whole items of its storage cannot be told so, and gets
 * another.  *group_of gives each tensor's group.
 */
static uint32_t
find_groups(py_writer *w, group *groups, uint32_t *group_of)
{
    /* By the remainder of their start; + 1.  Quantized ones apart: only its storage
     * tells what such a tensor is of. */
    uint32_t opened[2][LARGEST_ITEM] = {{0}};
    uint32_t count = 0, supply = 0;
    for (uint32_t i = 0; i < w->model.tensor_count; i++) {
        const py_extent *e = &w->extents[i];
        const psd_tensor *t = &w->model.tensors[e->tensor];
        if (e->supply != supply) {
            memset(opened, 0, sizeof opened);
            supply = e->supply;
        }
        size_t itemsize = psd_dtype_row((psd_dtype)t->dtype)->size;
        uint32_t *open = opened[t->more.quantizer != NULL];
        group *g = e->low == NULL ? NULL : open_group(groups, open, e, itemsize);
        if (g != NULL && t->more.quantizer != NULL && g->dtype != t->dtype) {
            g = NULL;
        }
        if (g == NULL) {
            g = &groups[count++];
            *g = (group){e->low, e->high, e->supply, 0, t->dtype, false};
            if (e->low != NULL) {
                open[(uintptr_t)e->low % LARGEST_ITEM] = count;
            }
        }
        else if ((uintptr_t)e->high > (uintptr_t)g->high) {
            g->high = e->high;
        }
        g->mixed = g->mixed || g->dtype != t->dtype;
        group_of[e->tensor] = (uint32_t)(g - groups);
    }
    return count;
}

static bool
number_storages(py_writer *w, group *groups, const uint32_t *group_of, uint32_t count)
{
    psd_model *m = &w->model;
    m->storages = py_take_zeros(count * sizeof *m->storages);
    w->bytes = py_take_zeros(count * sizeof *w->bytes);
    m->storage_capacity = count;
    if (w->supply_memo.count > 0) {
        w->supplied = py_take_zeros(count * sizeof *w->supplied);
    }
    if (m->storages == NULL || w->bytes == NULL ||
        (w->supply_memo.count > 0 && w->supplied == NULL)) {
        return py_no_memory();
    }
    /* In the order of the tensors, which is that of the object. */
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        group *g = &groups[group_of[i]];
        psd_tensor *t = &m->tensors[i];
        size_t size = g->low == NULL ? 0 : (size_t)(g->high - g->low);
        if (g->number == 0) {
            psd_storage *s = &m->storages[m->storage_count];
            bool fetched = g->supply != 0 && (size > 0 || w->kept_keys);
            if (w->kept_keys && !fetched) {
                PyErr_SetString(PyExc_ValueError, "a tensor is not one of the file's");
                return false;
            }
            if (fetched && !py_supply_base(w, m->storage_count, g->supply, g->low)) {
                return false;
            }
            w->bytes[m->storage_count++] = (psd_span){fetched ? NULL : g->low, size};
            g->number = m->storage_count;
            s->dtype = g->dtype;
            s->size = size;
            s->untyped =
                g->mixed || size % psd_dtype_row((psd_dtype)g->dtype)->size != 0;
        }
        t->storage = g->number - 1;
    }
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        const py_extent *e = &w->extents[i];
        psd_tensor *t = &m->tensors[e->tensor];
        const group *g = &groups[group_of[e->tensor]];
        size_t itemsize = psd_dtype_row((psd_dtype)t->dtype)->size;
        if (e->low != NULL) {
            /* Of packed elements the offset within the first byte is there already. */
            t->offset += (int64_t)((size_t)(e->low - g->low) / itemsize *
                                   psd_dtype_per_byte((psd_dtype)t->dtype));
        }
    }
    return true;
}

bool
py_find_storages(py_writer *w)
{
    size_t count = w->model.tensor_count;
    group *groups = py_take_zeros(count * sizeof *groups);
    uint32_t *group_of = py_take_zeros(count * sizeof *group_of);
    bool done = false;
    if (groups == NULL || group_of == NULL) {
        py_no_memory();
    }
    else {
        done = sort_extents(w->extents, count) &&
               number_storages(w, groups, group_of, find_groups(w, groups, group_of));
    }
    py_free_zeros(group_of, count * sizeof *group_of);
    py_free_zeros(groups, count * sizeof *groups);
    return done;
}
