/* SPDX-License-Identifier: Apache-2.0
 *
 * Walking a pool by names, for those who look and make no arrays.  No container is
 * entered from within itself, so cycles end; shared parts are told under each of their
 * names until that would cost more than some times the pool.
 */
#include "py_module.h"

/* ---------------------------------------------------------------- parts */

/* The parts of a value in file order: a dict's pairs, a sequence's items, ... */
typedef struct {
    const psd_ref *items;
    uint32_t count; /* refs */
    bool pairs;     /* key, value, key, value */
} part;

/*
 * A call's parts are, in order: arguments, appended items, set items, state.
 * A dict as state (or the two dicts of a class with slots) is its attributes.
 */
#define PARTS_MOST 6

static part
part_of(const psd_pool *pool, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    switch (v->kind) {
    case PSD_KIND_DICT: return (part){v->as.items, v->count, true};
    case PSD_KIND_LIST:
    case PSD_KIND_TUPLE:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return (part){v->as.items, v->count, false};
    default: return (part){NULL, 0, false};
    }
}

static bool
is_attributes(const psd_pool *pool, psd_ref ref)
{
    psd_kind kind = psd_kind_of(pool, ref);
    return kind == PSD_KIND_DICT || kind == PSD_KIND_NONE;
}

static unsigned
add_state(const psd_pool *pool, const psd_call *call, part *parts, unsigned count)
{
    if (call->state == 0) {
        return count;
    }
    const psd_value *state = psd_value_at(pool, call->state);
    if (state->kind == PSD_KIND_TUPLE && state->count == 2 &&
        is_attributes(pool, state->as.items[0]) &&
        is_attributes(pool, state->as.items[1])) {
        parts[count++] = part_of(pool, state->as.items[0]);
        parts[count++] = part_of(pool, state->as.items[1]);
        return count;
    }
    if (state->kind == PSD_KIND_DICT || state->kind == PSD_KIND_TUPLE ||
        state->kind == PSD_KIND_LIST) {
        parts[count++] = part_of(pool, call->state);
    }
    else {
        parts[count++] = (part){&call->state, 1, false};
    }
    return count;
}

/* Returns how many parts there are; 0 for a leaf.  Of a whole module they are the
 * entries of its state_dict. */
static unsigned
parts_of(const py_archive *archive, psd_ref ref, part parts[PARTS_MOST])
{
    const psd_pool *pool = &archive->core.pool;
    const psd_module *module = psd_model_module(&archive->core.model, ref);
    if (module != NULL && module->state_dict != 0) {
        ref = module->state_dict;
    }
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind != PSD_KIND_CALL) {
        parts[0] = part_of(pool, ref);
        return v->kind == PSD_KIND_DICT || v->kind == PSD_KIND_LIST ||
               v->kind == PSD_KIND_TUPLE || v->kind == PSD_KIND_SET ||
               v->kind == PSD_KIND_FROZENSET;
    }
    const psd_call *call = v->as.call;
    unsigned count = 0;
    if (!py_is_ordered_dict(pool, call)) {
        parts[count++] = part_of(pool, call->args);
    }
    parts[count++] = (part){call->appends, call->append_count, false};
    parts[count++] = (part){call->items, call->item_count, true};
    return add_state(pool, call, parts, count);
}

/* ---------------------------------------------------------------- names */

/*
 * Longer than any model's names.  One long key can name n values, and n containers
 * can stand in each other: either would cost n * n characters.  So longer names are
 * made until they add up to some times the pickle; from then on numbers stand for them.
 */
#define NAME_MOST 1024

static uint64_t
long_names(const py_archive *archive)
{
    return 4 * (uint64_t)archive->core.program.size;
}

/* May a name of `size` characters be made?  A long one is taken from `left`. */
static bool
may_name(uint64_t size, uint64_t *left)
{
    if (size <= NAME_MOST) {
        return true;
    }
    bool may = size <= *left;
    *left -= may ? size : 0;
    return may;
}

/* A key as part of a dotted name; a new reference. */
static PyObject *
key_name(py_archive *archive, psd_ref key, uint64_t *left)
{
    const psd_value *v = psd_value_at(&archive->core.pool, key);
    /* Containers and calls are no names, and Python spells no integer so long. */
    if (v->kind < PSD_KIND_NONE || v->kind > PSD_KIND_BYTEARRAY ||
        (v->kind == PSD_KIND_LONG && v->count > NAME_MOST) ||
        !may_name(v->count, left)) {
        return PyUnicode_FromFormat("<key %u>", (unsigned)key);
    }
    PyObject *leaf = py_leaf(archive, key);
    if (leaf == NULL || PyUnicode_Check(leaf)) {
        return leaf;
    }
    PyObject *text = PyObject_Str(leaf);
    Py_DECREF(leaf);
    return text;
}

static PyObject *
joined(PyObject *prefix, PyObject *name, psd_ref ref, uint64_t *left)
{
    if (prefix == NULL) {
        return Py_NewRef(name);
    }
    Py_ssize_t size = PyUnicode_GetLength(prefix) + PyUnicode_GetLength(name);
    if (!may_name((uint64_t)size, left)) {
        return PyUnicode_FromFormat("<value %u>", (unsigned)ref);
    }
    return PyUnicode_FromFormat("%U.%U", prefix, name);
}

/* ---------------------------------------------------------------- the walk */

typedef struct {
    PyObject *prefix; /* own reference; NULL at the root */
    psd_ref ref;
    uint8_t part;
    uint32_t item;  /* next ref within the part */
    uint32_t index; /* number of the next unnamed item */
} frame;

/* Shapes that were told lately: most tensors share theirs with many others. */
#define SHAPES_KEPT 64u

typedef struct walk walk;

/* What is told of a tensor. */
typedef PyObject *(*tell_function)(walk *w, uint32_t tensor, PyObject *name);

struct walk {
    py_archive *archive;
    tell_function tell;
    PyObject *found; /* dict */
    bool careful;    /* look for names that are taken, because some are */
    bool collided;   /* a name was, and nobody had looked */
    uint8_t *state;  /* of each value: */
    frame *frames;
    uint32_t depth, capacity;
    uint64_t left;                 /* characters of long names */
    uint64_t again;                /* steps that may go where the walk has been */
    PyObject *shapes[SHAPES_KEPT]; /* tuples, or NULL */
    uint32_t shaped[SHAPES_KEPT];  /* tensors that have them */
};

enum { NEVER_ENTERED, ENTERED, LEFT };

#define AGAIN_AT_LEAST 1000u

static bool
push(walk *w, psd_ref ref, PyObject *prefix)
{
    if (w->state[ref] == ENTERED || (w->state[ref] == LEFT && w->again == 0)) {
        return true;
    }
    w->state[ref] = ENTERED;
    if (!psd_grow(py_alloc(), (void **)&w->frames, &w->capacity, (uint64_t)w->depth + 1,
                  sizeof *w->frames)) {
        PyErr_NoMemory();
        return false;
    }
    w->frames[w->depth++] = (frame){.prefix = Py_XNewRef(prefix), .ref = ref};
    return true;
}

static PyObject *
tell_info(walk *w, uint32_t tensor, PyObject *name)
{
    return py_info_new(w->archive, tensor, name);
}

static bool
same_shape(const psd_tensor *a, const psd_tensor *b)
{
    return a->rank == b->rank &&
           (a->rank == 0 ||
            memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0);
}

static PyObject *
tell_shape(walk *w, uint32_t tensor, PyObject *Py_UNUSED(name))
{
    const psd_tensor *tensors = w->archive->core.model.tensors, *t = &tensors[tensor];
    uint64_t mixed = t->rank;
    for (unsigned i = 0; i < t->rank; i++) {
        mixed = (mixed ^ (uint64_t)t->shape[i]) * UINT64_C(0x9E3779B97F4A7C15);
    }
    unsigned at = (unsigned)(mixed >> 32) % SHAPES_KEPT;
    if (w->shapes[at] == NULL || !same_shape(t, &tensors[w->shaped[at]])) {
        PyObject *shape = py_numbers(t->shape, t->rank);
        if (shape == NULL) {
            return NULL;
        }
        Py_XDECREF(w->shapes[at]);
        w->shapes[at] = shape;
        w->shaped[at] = tensor;
    }
    return Py_NewRef(w->shapes[at]);
}

/* Names are unique: a second tensor of one name is told by its number. */
static PyObject *
unique_name(const walk *w, psd_ref ref, PyObject *name)
{
    int taken = w->careful ? PyDict_Contains(w->found, name) : 0;
    return taken > 0    ? PyUnicode_FromFormat("%U#%u", name, (unsigned)ref)
           : taken == 0 ? Py_NewRef(name)
                        : NULL;
}

static bool
add_tensor(walk *w, psd_ref ref, PyObject *name)
{
    uint32_t tensor = psd_value_at(&w->archive->core.pool, ref)->as.index;
    Py_ssize_t before = PyDict_Size(w->found);
    PyObject *unique = unique_name(w, ref, name);
    PyObject *told = unique == NULL ? NULL : w->tell(w, tensor, unique);
    bool added = told != NULL && PyDict_SetItem(w->found, unique, told) == 0;
    Py_XDECREF(told);
    Py_XDECREF(unique);
    w->collided = added && !w->careful && PyDict_Size(w->found) == before;
    return added && !w->collided;
}

static bool
visit(walk *w, psd_ref ref, PyObject *prefix, PyObject *name)
{
    const psd_pool *pool = &w->archive->core.pool;
    part parts[PARTS_MOST];
    bool is_tensor = psd_kind_of(pool, ref) == PSD_KIND_TENSOR;
    if (!is_tensor && parts_of(w->archive, ref, parts) == 0) {
        return true;
    }
    PyObject *full = joined(prefix, name, ref, &w->left);
    bool done =
        full != NULL && (is_tensor ? add_tensor(w, ref, full) : push(w, ref, full));
    Py_XDECREF(full);
    return done;
}

/* Skip a leaf before its name is made: most values of a checkpoint's lists are. */
static bool
is_leaf(const psd_pool *pool, psd_ref ref)
{
    switch (psd_kind_of(pool, ref)) {
    case PSD_KIND_TENSOR:
    case PSD_KIND_DICT:
    case PSD_KIND_LIST:
    case PSD_KIND_TUPLE:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET:
    case PSD_KIND_CALL: return false;
    default: return true;
    }
}

/* The tensors of a dict that come next: mostly all of it. */
static bool
add_entries(walk *w, frame *top, const part *p)
{
    const psd_pool *pool = &w->archive->core.pool;
    bool done = true;
    while (done && top->item < p->count &&
           psd_kind_of(pool, p->items[top->item + 1]) == PSD_KIND_TENSOR) {
        psd_ref ref = p->items[top->item + 1];
        PyObject *key = key_name(w->archive, p->items[top->item], &w->left);
        PyObject *name = key == NULL ? NULL : joined(top->prefix, key, ref, &w->left);
        done = name != NULL && add_tensor(w, ref, name);
        Py_XDECREF(name);
        Py_XDECREF(key);
        top->item += 2;
        w->again -= w->again > 0 ? 1 : 0;
    }
    return done;
}

static bool
step(walk *w)
{
    const psd_pool *pool = &w->archive->core.pool;
    frame *top = &w->frames[w->depth - 1];
    part parts[PARTS_MOST];
    unsigned count = parts_of(w->archive, top->ref, parts);
    if (top->part < count && parts[top->part].pairs &&
        !add_entries(w, top, &parts[top->part])) {
        return false;
    }
    while (top->part < count && top->item >= parts[top->part].count) {
        top->part++;
        top->item = 0;
    }
    if (top->part >= count) {
        w->state[top->ref] = LEFT;
        Py_XDECREF(top->prefix);
        w->depth--;
        return true;
    }
    w->again -= w->again > 0 ? 1 : 0;
    const part *p = &parts[top->part];
    psd_ref ref = p->items[top->item + (p->pairs ? 1 : 0)];
    psd_ref key = p->pairs ? p->items[top->item] : 0;
    uint32_t index = top->index;
    top->item += p->pairs ? 2 : 1;
    top->index += p->pairs ? 0 : 1;
    if (is_leaf(pool, ref)) {
        return true;
    }
    PyObject *name = key != 0 ? key_name(w->archive, key, &w->left)
                              : PyUnicode_FromFormat("%u", (unsigned)index);
    PyObject *prefix = Py_XNewRef(top->prefix); /* top may move */
    bool done = name != NULL && visit(w, ref, prefix, name);
    Py_XDECREF(prefix);
    Py_XDECREF(name);
    return done;
}

/* From the root to the end; false with an exception, or without when names collided. */
static bool
go(walk *w, psd_ref ref)
{
    const psd_pool *pool = &w->archive->core.pool;
    w->left = long_names(w->archive);
    w->again = AGAIN_AT_LEAST + 4 * (uint64_t)pool->count;
    w->state = calloc((size_t)pool->count + 1, sizeof *w->state);
    w->found = PyDict_New();
    bool going = w->state != NULL && w->found != NULL;
    if (going && psd_kind_of(pool, ref) == PSD_KIND_TENSOR) {
        PyObject *name = PyUnicode_FromString("");
        going = name != NULL && add_tensor(w, ref, name);
        Py_XDECREF(name);
    }
    else if (going && !is_leaf(pool, ref)) {
        going = push(w, ref, NULL);
    }
    while (going && w->depth > 0) {
        going = step(w);
    }
    if (!going && !w->collided && PyErr_Occurred() == NULL) {
        PyErr_NoMemory();
    }
    return going;
}

static void
let_go(walk *w)
{
    while (w->depth > 0) {
        Py_XDECREF(w->frames[--w->depth].prefix);
    }
    for (unsigned i = 0; i < SHAPES_KEPT; i++) {
        Py_XDECREF(w->shapes[i]);
    }
    free(w->frames);
    free(w->state);
}

/* Names hardly ever collide, so nobody looks at first. */
static PyObject *
tell_all(py_archive *archive, psd_ref ref, tell_function tell)
{
    walk w = {.archive = archive, .tell = tell};
    bool done = go(&w, ref);
    let_go(&w);
    if (w.collided) {
        Py_XDECREF(w.found);
        w = (walk){.archive = archive, .tell = tell, .careful = true};
        done = go(&w, ref);
        let_go(&w);
    }
    if (!done) {
        Py_CLEAR(w.found);
    }
    return w.found;
}

PyObject *
py_tree_tensors(py_archive *archive, psd_ref ref)
{
    return tell_all(archive, ref, tell_info);
}

PyObject *
py_tree_shapes(py_archive *archive, psd_ref ref)
{
    return tell_all(archive, ref, tell_shape);
}

/* ---------------------------------------------------------------- one level */

/* The pairs of a dict, or of a call that is one (OrderedDict, defaultdict, ...). */
static part
pairs_of(const py_archive *archive, psd_ref ref)
{
    const psd_pool *pool = &archive->core.pool;
    const psd_module *module = psd_model_module(&archive->core.model, ref);
    if (module != NULL && module->state_dict != 0) {
        ref = module->state_dict;
    }
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind == PSD_KIND_CALL) {
        return (part){v->as.call->items, v->as.call->item_count, true};
    }
    part p = part_of(pool, ref);
    return p.pairs ? p : (part){NULL, 0, true};
}

PyObject *
py_tree_direct(py_archive *archive, psd_ref ref)
{
    const psd_pool *pool = &archive->core.pool;
    part p = pairs_of(archive, ref);
    uint64_t left = long_names(archive);
    PyObject *dict = PyDict_New();
    for (uint32_t i = 0; dict != NULL && i + 1 < p.count; i += 2) {
        psd_kind key_kind = psd_kind_of(pool, p.items[i]);
        if (psd_kind_of(pool, p.items[i + 1]) != PSD_KIND_TENSOR ||
            (key_kind != PSD_KIND_TEXT && key_kind != PSD_KIND_STRING &&
             key_kind != PSD_KIND_INT) ||
            !may_name(psd_value_at(pool, p.items[i])->count, &left)) {
            continue;
        }
        PyObject *key = py_leaf(archive, p.items[i]);
        PyObject *name = key == NULL ? NULL : PyObject_Str(key);
        uint32_t tensor = psd_value_at(pool, p.items[i + 1])->as.index;
        PyObject *info = name == NULL ? NULL : py_info_new(archive, tensor, name);
        if (info == NULL || PyDict_SetItem(dict, key, info) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(info);
        Py_XDECREF(name);
        Py_XDECREF(key);
    }
    return dict;
}

bool
py_tree_has_direct(py_archive *archive, psd_ref ref)
{
    part p = pairs_of(archive, ref);
    bool found = false;
    for (uint32_t i = 0; i + 1 < p.count && !found; i += 2) {
        found = psd_kind_of(&archive->core.pool, p.items[i + 1]) == PSD_KIND_TENSOR;
    }
    return found;
}

/* A whole module, or getattr(module, name): the method that was bound to it. */
static const char *
module_kind(const psd_pool *pool, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind != PSD_KIND_CALL ||
        psd_kind_of(pool, v->as.call->callable) != PSD_KIND_GLOBAL) {
        return "module";
    }
    const psd_global *named = psd_value_at(pool, v->as.call->callable)->as.global;
    return psd_span_equal(named->name, PSD_LITERAL("getattr")) ? "method" : "module";
}

const char *
py_tree_kind(const py_archive *archive, psd_ref ref)
{
    const psd_pool *pool = &archive->core.pool;
    if (psd_model_module(&archive->core.model, ref) != NULL) {
        return module_kind(pool, ref);
    }
    switch (psd_kind_of(pool, ref)) {
    case PSD_KIND_TENSOR: return "tensor";
    case PSD_KIND_DICT: return "dict";
    case PSD_KIND_LIST: return "list";
    case PSD_KIND_TUPLE: return "tuple";
    case PSD_KIND_CALL: {
        const psd_value *callable =
            psd_value_at(pool, psd_value_at(pool, ref)->as.call->callable);
        bool ordered =
            callable->kind == PSD_KIND_GLOBAL &&
            psd_span_equal(callable->as.global->module, PSD_LITERAL("collections")) &&
            psd_span_equal(callable->as.global->name, PSD_LITERAL("OrderedDict"));
        return ordered ? "dict" : "object";
    }
    default: return "value";
    }
}

/* Append (key, ref, kind) for each item of a part, or for those that hold something. */
static bool
list_part(py_archive *archive, const part *p, bool holding, PyObject *list,
          uint32_t *index, uint64_t *left)
{
    for (uint32_t i = 0; i < p->count; i += p->pairs ? 2 : 1) {
        psd_ref ref = p->items[i + (p->pairs ? 1 : 0)];
        const char *kind = py_tree_kind(archive, ref);
        uint32_t number = *index;
        *index += p->pairs ? 0 : 1;
        if (holding && (strcmp(kind, "tensor") == 0 || strcmp(kind, "value") == 0)) {
            continue;
        }
        PyObject *key = p->pairs ? key_name(archive, p->items[i], left)
                                 : PyLong_FromUnsignedLong(number);
        PyObject *row =
            key == NULL ? NULL : Py_BuildValue("(Nks)", key, (unsigned long)ref, kind);
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_XDECREF(row);
            return false;
        }
        Py_DECREF(row);
    }
    return true;
}

static PyObject *
list_parts(py_archive *archive, psd_ref ref, bool holding)
{
    part parts[PARTS_MOST];
    unsigned count = parts_of(archive, ref, parts);
    if (count == 0) {
        Py_RETURN_NONE;
    }
    PyObject *list = PyList_New(0);
    uint32_t index = 0;
    uint64_t left = long_names(archive);
    for (unsigned i = 0; list != NULL && i < count; i++) {
        if (!list_part(archive, &parts[i], holding, list, &index, &left)) {
            Py_CLEAR(list);
        }
    }
    return list;
}

PyObject *
py_tree_children(py_archive *archive, psd_ref ref)
{
    return list_parts(archive, ref, false);
}

PyObject *
py_tree_holding(py_archive *archive, psd_ref ref)
{
    return list_parts(archive, ref, true);
}

PyObject *
py_tree_called(py_archive *archive, psd_ref ref)
{
    const psd_pool *pool = &archive->core.pool;
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind != PSD_KIND_CALL ||
        psd_kind_of(pool, v->as.call->callable) != PSD_KIND_GLOBAL) {
        Py_RETURN_NONE;
    }
    const psd_call *call = v->as.call;
    const psd_global *class = psd_value_at(pool, call->callable)->as.global;
    PyObject *module = py_text(class->module);
    PyObject *name = module == NULL ? NULL : py_text(class->name);
    PyObject *row =
        name == NULL ? NULL
                     : Py_BuildValue("(OOkk)", module, name, (unsigned long)call->args,
                                     (unsigned long)call->state);
    Py_XDECREF(name);
    Py_XDECREF(module);
    return row;
}
