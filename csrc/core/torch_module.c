/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole modules (torch.save(model, f)) and bound methods of them
 * (torch.save(model.state_dict, f)).  A module is a call with a state that holds
 * _parameters and _modules; what its state_dict() would give needs no class.
 * Source: torch/nn/modules/module.py, state_dict and _save_to_state_dict.
 *
 * Modules may share their children, and a hostile file may share them so that
 * names double at every level: what is made is bounded by the size of the pool,
 * and a module beyond the bound has no state_dict here.
 */
#include "torch_pass.h"

/* Of a module's attributes torch's own come first.  A dict may be the state of many
 * calls, so no more of it is looked at for each. */
#define LOOKED_AT 64u

/* ---------------------------------------------------------------- shapes */

/* The pairs of a dict: key, value, ...; or a list of lists of two. */
typedef struct {
    const psd_ref *items;
    uint32_t count; /* of pairs */
    bool apart;
} pairs;

/* OrderedDict() is filled; that of Python 2 was called with a list of its pairs. */
static pairs
pairs_of_call(const psd_pool *pool, const psd_call *call)
{
    const psd_value *args = psd_value_at(pool, call->args);
    if (call->item_count > 0 || args->kind != PSD_KIND_TUPLE || args->count != 1) {
        return (pairs){call->items, call->item_count / 2, false};
    }
    const psd_value *list = psd_value_at(pool, args->as.items[0]);
    bool is_list = list->kind == PSD_KIND_LIST;
    return (pairs){is_list ? list->as.items : NULL, is_list ? list->count : 0, true};
}

/* The pairs of a dict, or of a call that is one. */
static pairs
pairs_of(const psd_pool *pool, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    switch (v->kind) {
    case PSD_KIND_DICT: return (pairs){v->as.items, v->count / 2, false};
    case PSD_KIND_CALL: return pairs_of_call(pool, v->as.call);
    default: return (pairs){NULL, 0, false};
    }
}

/* One of them; false where something else stands in the list. */
static bool
pair_at(const psd_pool *pool, const pairs *p, uint32_t number, psd_ref *key,
        psd_ref *value)
{
    const psd_ref *two = p->apart ? NULL : p->items + 2 * (size_t)number;
    if (p->apart) {
        const psd_value *v = psd_value_at(pool, p->items[number]);
        bool is_pair =
            (v->kind == PSD_KIND_LIST || v->kind == PSD_KIND_TUPLE) && v->count == 2;
        two = is_pair ? v->as.items : NULL;
    }
    *key = two == NULL ? 0 : two[0];
    *value = two == NULL ? 0 : two[1];
    return two != NULL;
}

/* What the dict holds under this text, among the first of its pairs; 0 if nothing. */
static psd_ref
attribute(const psd_pool *pool, psd_ref dict, psd_span name)
{
    pairs all = pairs_of(pool, dict);
    for (uint32_t i = 0; i < all.count && i < LOOKED_AT; i++) {
        psd_ref key, value;
        if (pair_at(pool, &all, i, &key, &value) &&
            psd_text_is(psd_value_at(pool, key), name)) {
            return value;
        }
    }
    return 0;
}

/* The dict of a module's attributes; 0 when the value is none. */
static psd_ref
attributes_of(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    if (v->kind != PSD_KIND_CALL) {
        return 0;
    }
    psd_ref state = v->as.call->state;
    uint16_t tag = psd_torch_tag_at(p, v->as.call->callable);
    const psd_value *args = psd_value_at(p->pool, v->as.call->args);
    if (psd_known_of(tag) == PSD_KNOWN_GRAPH_MODULE && args->kind == PSD_KIND_TUPLE &&
        args->count > 0) {
        state = args->as.items[0];
    }
    const psd_value *s = psd_value_at(p->pool, state);
    if (state != 0 && s->kind == PSD_KIND_TUPLE && s->count == 2) {
        state = s->as.items[0]; /* of a class with slots: (attributes, slots) */
    }
    bool is_module = state != 0 && psd_kind_of(p->pool, state) == PSD_KIND_DICT &&
                     attribute(p->pool, state, PSD_LITERAL("_parameters")) != 0 &&
                     attribute(p->pool, state, PSD_LITERAL("_modules")) != 0;
    return is_module ? state : 0;
}

/* The module of getattr(module, name), a bound method; 0 when the value is none. */
static psd_ref
owner_of(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    if (v->kind != PSD_KIND_CALL ||
        psd_known_of(psd_torch_tag_at(p, v->as.call->callable)) != PSD_KNOWN_GETATTR) {
        return 0;
    }
    const psd_value *args = psd_value_at(p->pool, v->as.call->args);
    bool two = args->kind == PSD_KIND_TUPLE && args->count == 2 &&
               psd_kind_of(p->pool, args->as.items[1]) == PSD_KIND_TEXT;
    return two && attributes_of(p, args->as.items[0]) != 0 ? args->as.items[0] : 0;
}

/* ---------------------------------------------------------------- growing lists */

typedef struct {
    psd_ref *refs;
    uint32_t count, capacity;
} list;

static bool
add(psd_alloc alloc, list *l, psd_ref ref)
{
    void *refs = l->refs;
    bool grown =
        psd_grow(alloc, &refs, &l->capacity, (uint64_t)l->count + 1, sizeof *l->refs);
    l->refs = refs;
    if (grown) {
        l->refs[l->count++] = ref;
    }
    return grown;
}

static void
let_go(psd_alloc alloc, list *l)
{
    if (l->refs != NULL) {
        alloc.resize(alloc.ctx, l->refs, l->capacity * sizeof *l->refs, 0);
    }
    *l = (list){NULL, 0, 0};
}

/* ---------------------------------------------------------------- one state_dict */

/* Of the versions that torch's own classes have. */
#define VERSION_MOST 3u

/* A module being walked: its own entries are done, its children go on. */
typedef struct {
    psd_ref module;
    psd_span prefix; /* "" or ends with a dot */
    pairs children;
    uint32_t next;
} frame;

typedef struct {
    psd_torch_pass *p;
    psd_alloc alloc;
    bool *open; /* by value: the module is being walked */
    frame *frames;
    uint32_t depth, capacity;
    list entries;       /* name, value, ... */
    list versions;      /* prefix, {"version": n}, ... */
    psd_names left_out; /* buffers of the module at hand that are not to be saved */
    psd_ref version_word, numbers[VERSION_MOST];
    uint64_t left;       /* steps that may still be taken */
    uint64_t left_bytes; /* of names */
    bool full;           /* too much to be made */
    bool failed;         /* no memory */
} walk;

/* A step of the walk; false when there were too many. */
static bool
may_go_on(walk *w, size_t bytes)
{
    bool may = w->left > 0 && w->left_bytes >= bytes;
    w->left -= may ? 1 : 0;
    w->left_bytes -= may ? bytes : 0;
    w->full = w->full || !may;
    return may && !w->failed;
}

static psd_ref
born(walk *w, psd_ref ref)
{
    w->full = w->full || (ref == 0 && psd_pool_full(w->p->pool));
    w->failed = w->failed || ref == 0;
    return ref;
}

/* `prefix` + `name` + `ending` in the arena. */
static psd_span
joined(walk *w, psd_span prefix, psd_span name, psd_span ending)
{
    size_t size = prefix.size + name.size + ending.size;
    uint8_t *text = psd_arena_take(w->p->pool->arena, size);
    if (text == NULL) {
        w->failed = true;
        return (psd_span){NULL, 0};
    }
    if (prefix.size > 0) {
        memcpy(text, prefix.data, prefix.size);
    }
    if (name.size > 0) {
        memcpy(text + prefix.size, name.data, name.size);
    }
    if (ending.size > 0) {
        memcpy(text + prefix.size + name.size, ending.data, ending.size);
    }
    return (psd_span){text, size};
}

/* The text of a key; modules and tensors have no other keys. */
static bool
name_at(const psd_pool *pool, psd_ref ref, psd_span *name)
{
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind != PSD_KIND_TEXT && v->kind != PSD_KIND_STRING) {
        return false;
    }
    *name = psd_text_of(v);
    return true;
}

static void
add_entry(walk *w, psd_span prefix, psd_span name, psd_ref value)
{
    const psd_span none = {NULL, 0};
    psd_span full = joined(w, prefix, name, none);
    psd_ref key =
        w->failed ? 0 : born(w, psd_new_text(w->p->pool, PSD_KIND_TEXT, full));
    w->failed = w->failed || !add(w->alloc, &w->entries, key) ||
                !add(w->alloc, &w->entries, value);
}

/* Parameters keep the flags that they have; a buffer is known not to be trained. */
static void
mark_buffer(walk *w, psd_ref ref)
{
    const psd_value *v = psd_value_at(w->p->pool, ref);
    psd_tensor *t =
        v->kind == PSD_KIND_TENSOR ? &w->p->model->tensors[v->as.index] : NULL;
    if (t != NULL && (t->flags & PSD_TENSOR_PARAMETER) == 0) {
        t->flags |= PSD_TENSOR_BUFFER;
    }
}

/* The names of a set, or of set([...]) of the older protocols. */
static bool
read_left_out(walk *w, psd_ref set)
{
    const psd_pool *pool = w->p->pool;
    const psd_value *v = psd_value_at(pool, set);
    psd_names_clear(&w->left_out);
    if (v->kind == PSD_KIND_CALL) {
        v = psd_value_at(pool, v->as.call->args);
        if (v->kind == PSD_KIND_TUPLE && v->count == 1) {
            v = psd_value_at(pool, v->as.items[0]);
        }
    }
    if (v->kind != PSD_KIND_SET && v->kind != PSD_KIND_LIST) {
        return true;
    }
    for (uint32_t i = 0; i < v->count; i++) {
        psd_span name;
        bool named = name_at(pool, v->as.items[i], &name);
        if (!may_go_on(w, named ? name.size : 0)) {
            return false;
        }
        if (named && psd_names_find(&w->left_out, name) == NULL) {
            w->failed = w->failed || !psd_names_add(&w->left_out, name, i);
        }
    }
    return true;
}

/* _parameters, or _buffers but those that are not to be saved. */
static bool
add_own(walk *w, psd_span prefix, pairs own, bool buffers)
{
    const psd_pool *pool = w->p->pool;
    for (uint32_t i = 0; i < own.count; i++) {
        psd_ref key, value;
        psd_span name;
        bool saved = pair_at(pool, &own, i, &key, &value) &&
                     name_at(pool, key, &name) &&
                     psd_kind_of(pool, value) != PSD_KIND_NONE;
        /* What is passed by is a step as well: many modules may share one dict. */
        if (!may_go_on(w, saved ? prefix.size + name.size : 0)) {
            return false;
        }
        if (!saved || (buffers && psd_names_find(&w->left_out, name) != NULL)) {
            continue;
        }
        if (buffers) {
            mark_buffer(w, value);
        }
        add_entry(w, prefix, name, value);
    }
    return true;
}

static bool
begins(psd_span text, psd_span start)
{
    return text.size >= start.size && memcmp(text.data, start.data, start.size) == 0;
}

static bool
ends(psd_span text, psd_span end)
{
    return text.size >= end.size &&
           memcmp(text.data + (text.size - end.size), end.data, end.size) == 0;
}

/*
 * The version of the state of torch's own classes, by where they are defined and how
 * their names begin and end; of all others it is 1.  Those with a state_dict of their own
 * making (quantized modules) are not told.
 */
static unsigned
version_of(const walk *w, psd_ref module)
{
    const struct {
        psd_span where, start, end;
        unsigned version;
    } rows[] = {
        {PSD_LITERAL("torch.nn.modules.batchnorm"), PSD_LITERAL(""), PSD_LITERAL(""),
         2},
        {PSD_LITERAL("torch.nn.modules.instancenorm"), PSD_LITERAL(""), PSD_LITERAL(""),
         2},
        {PSD_LITERAL("torch.ao.nn.intrinsic.qat.modules.conv_fused"),
         PSD_LITERAL("ConvBn"), PSD_LITERAL(""), 2},
        {PSD_LITERAL("torch.ao.quantization.observer"), PSD_LITERAL(""),
         PSD_LITERAL("MinMaxObserver"), 3},
        {PSD_LITERAL("torch.ao.quantization.observer"),
         PSD_LITERAL("HistogramObserver"), PSD_LITERAL(""), 3},
    };
    const psd_call *call = psd_value_at(w->p->pool, module)->as.call;
    const psd_value *class = psd_value_at(w->p->pool, call->callable);
    for (size_t i = 0; class->kind == PSD_KIND_GLOBAL && i < sizeof rows / sizeof *rows;
         i++) {
        const psd_global *g = class->as.global;
        if (psd_span_equal(g->module, rows[i].where) &&
            begins(g->name, rows[i].start) && ends(g->name, rows[i].end)) {
            return rows[i].version;
        }
    }
    return 1;
}

/* An entry of _metadata: the prefix without its dot, {"version": n}. */
static void
add_version(walk *w, const frame *f)
{
    psd_pool *pool = w->p->pool;
    psd_span prefix = {f->prefix.data, f->prefix.size > 0 ? f->prefix.size - 1 : 0};
    unsigned version = version_of(w, f->module);
    psd_ref *number = &w->numbers[version - 1];
    if (w->version_word == 0) {
        w->version_word =
            born(w, psd_new_text(pool, PSD_KIND_TEXT, PSD_LITERAL("version")));
    }
    if (*number == 0) {
        *number = born(w, psd_new_int(pool, (int64_t)version));
    }
    psd_ref pair[2] = {w->version_word, *number};
    psd_ref key = w->failed ? 0 : born(w, psd_new_text(pool, PSD_KIND_TEXT, prefix));
    psd_ref dict = w->failed ? 0 : born(w, psd_new_items(pool, PSD_KIND_DICT, pair, 2));
    w->failed = w->failed || !add(w->alloc, &w->versions, key) ||
                !add(w->alloc, &w->versions, dict);
}

/* Its Parameters, then its buffers. */
static bool
add_tensors(walk *w, psd_ref attributes, psd_span prefix)
{
    const psd_pool *pool = w->p->pool;
    psd_ref parameters = attribute(pool, attributes, PSD_LITERAL("_parameters"));
    psd_ref buffers = attribute(pool, attributes, PSD_LITERAL("_buffers"));
    psd_ref set =
        attribute(pool, attributes, PSD_LITERAL("_non_persistent_buffers_set"));
    return read_left_out(w, set) &&
           add_own(w, prefix, pairs_of(pool, parameters), false) &&
           add_own(w, prefix, pairs_of(pool, buffers), true);
}

static bool
enter(walk *w, psd_ref module, psd_span prefix)
{
    const psd_pool *pool = w->p->pool;
    psd_ref dict = attributes_of(w->p, module);
    if (dict == 0 || w->open[module]) {
        return true; /* None, or something odd; a module within itself */
    }
    if (!may_go_on(w, prefix.size)) {
        return false;
    }
    psd_ref children = attribute(pool, dict, PSD_LITERAL("_modules"));
    frame f = {module, prefix, pairs_of(pool, children), 0};
    add_version(w, &f);
    if (!add_tensors(w, dict, prefix)) {
        return false;
    }
    void *frames = w->frames;
    w->failed =
        !psd_grow(w->alloc, &frames, &w->capacity, (uint64_t)w->depth + 1, sizeof f) ||
        w->failed;
    w->frames = frames;
    if (w->failed) {
        return false;
    }
    w->open[module] = true;
    w->frames[w->depth++] = f;
    return true;
}

/* Depth first, children in their order: just as state_dict() goes. */
static bool
walk_module(walk *w, psd_ref module)
{
    const psd_span none = {NULL, 0};
    bool going = enter(w, module, none);
    while (going && w->depth > 0) {
        frame *top = &w->frames[w->depth - 1];
        psd_ref key, child;
        psd_span name;
        if (top->next >= top->children.count) {
            w->open[top->module] = false;
            w->depth--;
            continue;
        }
        if (!pair_at(w->p->pool, &top->children, top->next++, &key, &child) ||
            !name_at(w->p->pool, key, &name) || attributes_of(w->p, child) == 0) {
            going = may_go_on(w, 0);
            continue;
        }
        going = may_go_on(w, top->prefix.size + name.size + 1);
        psd_span prefix = going ? joined(w, top->prefix, name, PSD_LITERAL(".")) : none;
        going = going && !w->failed && enter(w, child, prefix);
    }
    return going && !w->failed;
}

/* collections.OrderedDict() with these items and, if `state` is not 0, attributes. */
static psd_ref
ordered_dict(walk *w, psd_ref function, psd_ref no_args, const list *items,
             psd_ref state)
{
    psd_pool *pool = w->p->pool;
    psd_ref ref =
        w->failed
            ? 0
            : born(w, psd_new_call(pool, PSD_CALL_REDUCE, function, no_args, 0, 0));
    w->failed = w->failed || !psd_set(pool, ref, items->refs, items->count) ||
                (state != 0 && !psd_build(pool, ref, state));
    return ref;
}

static psd_ref
make_state_dict(walk *w)
{
    psd_pool *pool = w->p->pool;
    psd_ref function = born(w, psd_new_global(pool, PSD_LITERAL("collections"),
                                              PSD_LITERAL("OrderedDict"), 0));
    psd_ref no_args =
        w->failed ? 0 : born(w, psd_new_items(pool, PSD_KIND_TUPLE, NULL, 0));
    psd_ref versions = ordered_dict(w, function, no_args, &w->versions, 0);
    psd_ref word =
        w->failed
            ? 0
            : born(w, psd_new_text(pool, PSD_KIND_TEXT, PSD_LITERAL("_metadata")));
    psd_ref metadata[2] = {word, versions};
    psd_ref state =
        w->failed ? 0 : born(w, psd_new_items(pool, PSD_KIND_DICT, metadata, 2));
    return ordered_dict(w, function, no_args, &w->entries, state);
}

/* ---------------------------------------------------------------- finding them */

enum { SEEN = 1, MODULE = 2 };

typedef struct {
    psd_torch_pass *p;
    psd_alloc alloc;
    uint8_t *marks; /* by value */
    list todo;
} search;

static bool
want(search *s, psd_ref ref)
{
    if (ref == 0 || s->marks[ref] != 0) {
        return true;
    }
    s->marks[ref] = SEEN;
    return add(s->alloc, &s->todo, ref);
}

static bool
want_all(search *s, const psd_ref *refs, uint32_t count)
{
    bool done = true;
    for (uint32_t i = 0; i < count && done; i++) {
        done = want(s, refs[i]);
    }
    return done;
}

/* Note a module, and go no further; else look at all that the value holds. */
static bool
visit(search *s, psd_ref ref)
{
    const psd_value *v = psd_value_at(s->p->pool, ref);
    if (attributes_of(s->p, ref) != 0 || owner_of(s->p, ref) != 0) {
        s->marks[ref] |= MODULE;
        return true;
    }
    switch (v->kind) {
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return want_all(s, v->as.items, v->count);
    case PSD_KIND_CALL: {
        const psd_call *call = v->as.call;
        return want(s, call->args) && want(s, call->kwargs) && want(s, call->state) &&
               want_all(s, call->items, call->item_count) &&
               want_all(s, call->appends, call->append_count);
    }
    default: return true;
    }
}

/* The modules that are reached from the root, none of them through another. */
static bool
find_all(search *s, psd_ref root)
{
    psd_model *m = s->p->model;
    bool done = want(s, root);
    while (done && s->todo.count > 0) {
        done = visit(s, s->todo.refs[--s->todo.count]);
    }
    for (psd_ref ref = 1; ref <= s->p->pool->count && done; ref++) {
        if ((s->marks[ref] & MODULE) != 0) {
            done = psd_model_set_module(m, ref, 0);
        }
    }
    return done;
}

/* Ordinary checkpoints have no module: one look at the calls tells. */
static bool
has_modules(const psd_torch_pass *p)
{
    bool found = false;
    for (psd_ref ref = 1; ref <= p->pool->count && !found; ref++) {
        found = attributes_of(p, ref) != 0;
    }
    return found;
}

/* Steps and bytes of names that modules may share: some for each value of the file. */
#define STEPS_A_VALUE 4u
#define BYTES_A_VALUE 64u
#define STEPS_AT_LEAST 4096u

/* Make what one module's state_dict() would give; leaves the walk ready for another. */
static psd_ref
make_one(walk *w, psd_ref at)
{
    psd_ref owner = owner_of(w->p, at);
    w->entries.count = w->versions.count = 0;
    bool walked = walk_module(w, owner != 0 ? owner : at);
    while (w->depth > 0) {
        w->open[w->frames[--w->depth].module] = false;
    }
    psd_ref made = walked ? make_state_dict(w) : 0;
    return w->failed || w->full ? 0 : made;
}

static psd_status
make_all(psd_torch_pass *p, bool *open, psd_ref last)
{
    psd_model *m = p->model;
    walk w = {.p = p, .alloc = m->alloc, .open = open};
    psd_names_init(&w.left_out, m->alloc, m->storage_names.key);
    w.left = STEPS_AT_LEAST + (uint64_t)last * STEPS_A_VALUE;
    w.left_bytes = BYTES_A_VALUE * w.left;
    for (uint32_t i = 0; i < m->module_count && !w.failed; i++) {
        w.full = false;
        m->modules[i].state_dict = make_one(&w, m->modules[i].at);
    }
    let_go(w.alloc, &w.entries);
    let_go(w.alloc, &w.versions);
    psd_names_clear(&w.left_out);
    if (w.frames != NULL) {
        w.alloc.resize(w.alloc.ctx, w.frames, w.capacity * sizeof *w.frames, 0);
    }
    /* A pool that is full is no want of memory: the rest is there all the same. */
    return w.failed && !w.full ? psd_torch_no_memory(p) : PSD_OK;
}

psd_status
psd_torch_find_modules(psd_torch_pass *p, psd_ref root)
{
    psd_alloc alloc = p->model->alloc;
    psd_ref last = p->pool->count;
    size_t size = (size_t)last + 1;
    if (!has_modules(p)) {
        return PSD_OK;
    }
    uint8_t *marks = alloc.resize(alloc.ctx, NULL, 0, size);
    bool *open = alloc.resize(alloc.ctx, NULL, 0, size * sizeof *open);
    bool done = marks != NULL && open != NULL;
    if (done) {
        memset(marks, 0, size);
        memset(open, 0, size * sizeof *open);
        search s = {.p = p, .alloc = alloc, .marks = marks};
        done = find_all(&s, root);
        let_go(alloc, &s.todo);
    }
    psd_status status = done ? make_all(p, open, last) : psd_torch_no_memory(p);
    if (marks != NULL) {
        alloc.resize(alloc.ctx, marks, size, 0);
    }
    if (open != NULL) {
        alloc.resize(alloc.ctx, open, size * sizeof *open, 0);
    }
    return status;
}

/* ---------------------------------------------------------------- from elsewhere */

psd_ref
psd_torch_new_ordered_dict(psd_pool *pool)
{
    psd_ref function =
        psd_new_global(pool, PSD_LITERAL("collections"), PSD_LITERAL("OrderedDict"), 0);
    psd_ref no_args = function == 0 ? 0 : psd_new_items(pool, PSD_KIND_TUPLE, NULL, 0);
    return no_args == 0 ? 0
                        : psd_new_call(pool, PSD_CALL_REDUCE, function, no_args, 0, 0);
}

bool
psd_torch_note_module(psd_pool *pool, psd_model *model, psd_ref at,
                      const psd_ref *entries, uint32_t count)
{
    psd_ref dict = psd_torch_new_ordered_dict(pool);
    return dict != 0 && psd_set(pool, dict, entries, count) &&
           psd_model_set_module(model, at, dict);
}
