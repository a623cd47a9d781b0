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
#include "torch_walk.h"

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
    psd_module_look found;
    return two && psd_walk_is_module(p, args->as.items[0], &found) ? args->as.items[0]
                                                                   : 0;
}

/* The name of a bound method, a TEXT; 0 when the value is none. */
static psd_ref
method_of(const psd_torch_pass *p, psd_ref ref)
{
    if (owner_of(p, ref) == 0) {
        return 0;
    }
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    return psd_value_at(p->pool, call->args)->as.items[1];
}

/* ---------------------------------------------------------------- one state_dict */

/* The names of a set, or of set([...]) of the older protocols. */
static bool
read_left_out(psd_walk *w, psd_ref set)
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
        bool named = psd_walk_name_at(pool, v->as.items[i], &name);
        if (!psd_walk_may_go_on(w, named ? name.size : 0)) {
            return false;
        }
        if (named) {
            w->failed = w->failed || !psd_names_add(&w->left_out, name, i);
        }
    }
    return true;
}

/* _parameters, or _buffers but those that are not to be saved. */
static bool
add_own(psd_walk *w, psd_span prefix, psd_pairs own, bool buffers)
{
    const psd_pool *pool = w->p->pool;
    for (uint32_t i = 0; i + 1 < own.count; i += 2) {
        psd_span name;
        psd_ref value = own.items[i + 1];
        bool saved = psd_walk_name_at(pool, own.items[i], &name) &&
                     psd_kind_of(pool, value) != PSD_KIND_NONE;
        /* What is passed by is a step as well: many modules may share one dict. */
        if (!psd_walk_may_go_on(w, saved ? prefix.size + name.size : 0)) {
            return false;
        }
        if (!saved || (buffers && psd_names_find(&w->left_out, name) != NULL)) {
            continue;
        }
        if (buffers) {
            psd_walk_mark_buffer(w, value);
        }
        psd_walk_add_entry(w, prefix, name, value);
    }
    return true;
}

/* ---------------------------------------------------------------- the walk */

/* Parameters, buffers and what else a module has of its own. */
static bool
add_all_own(psd_walk *w, psd_ref ref, psd_span prefix, const psd_module_look *m)
{
    const psd_span none = {NULL, 0};
    const psd_pool *pool = w->p->pool;
    if (m->attributes != 0) {
        psd_ref parameters =
            psd_walk_attribute(pool, m->attributes, PSD_LITERAL("_parameters"));
        psd_ref buffers =
            psd_walk_attribute(pool, m->attributes, PSD_LITERAL("_buffers"));
        psd_ref left_out = psd_walk_attribute(
            pool, m->attributes, PSD_LITERAL("_non_persistent_buffers_set"));
        if (!read_left_out(w, left_out) ||
            !add_own(w, prefix, psd_walk_pairs(pool, parameters), false) ||
            !add_own(w, prefix, psd_walk_pairs(pool, buffers), true)) {
            return false;
        }
    }
    if (!psd_walk_add_others(w, prefix, m)) {
        psd_span path = {prefix.data, prefix.size > 0 ? prefix.size - 1 : 0};
        psd_walk_note_untold(w, path, none, ref, false);
    }
    return !w->full && !w->failed;
}

/* The children of a module, in their order. */
static psd_pairs
children_of(psd_walk *w, const psd_module_look *m)
{
    const psd_pool *pool = w->p->pool;
    if (m->attributes != 0) {
        return psd_walk_pairs(
            pool, psd_walk_attribute(pool, m->attributes, PSD_LITERAL("_modules")));
    }
    psd_pairs p = {NULL, 0};
    psd_ref *pair = m->class.form != PSD_CLASS_COMPILED
                        ? NULL
                        : psd_arena_take_array(pool->arena, 2, sizeof *pair);
    if (pair != NULL) {
        pair[0] = psd_walk_text(w, PSD_LITERAL("_orig_mod"));
        pair[1] = psd_value_at(pool, m->parts)->as.items[0];
        p = (psd_pairs){pair, 2};
    }
    w->failed = w->failed || (pair == NULL && m->class.form == PSD_CLASS_COMPILED);
    return p;
}

static bool
enter(psd_walk *w, psd_ref ref, psd_span prefix, const psd_module_look *m)
{
    if (w->open[ref]) {
        return true; /* a module within itself */
    }
    if (!psd_walk_may_go_on(w, prefix.size)) {
        return false;
    }
    psd_walk_frame f = {ref, prefix, {NULL, 0}, 0};
    psd_walk_add_version(w, &f, m);
    if (!add_all_own(w, ref, prefix, m)) {
        return false;
    }
    f.children = children_of(w, m);
    void *frames = w->frames;
    w->failed =
        !psd_grow(w->alloc, &frames, &w->capacity, (uint64_t)w->depth + 1, sizeof f) ||
        w->failed;
    w->frames = frames;
    if (w->failed) {
        return false;
    }
    w->open[ref] = true;
    w->frames[w->depth++] = f;
    return true;
}

/* One child of the module on top. */
static bool
step(psd_walk *w, psd_walk_frame *top)
{
    psd_ref key = top->children.items[top->next];
    psd_ref child = top->children.items[top->next + 1];
    psd_span name, top_prefix = top->prefix;
    psd_module_look m;
    top->next += 2;
    if (!psd_walk_name_at(w->p->pool, key, &name) ||
        psd_kind_of(w->p->pool, child) == PSD_KIND_NONE) {
        return psd_walk_may_go_on(w, 0);
    }
    if (!psd_walk_is_module(w->p, child, &m)) {
        psd_walk_note_untold(w, top_prefix, name, child, false);
        return psd_walk_may_go_on(w, 0);
    }
    if (!psd_walk_may_go_on(w, top_prefix.size + name.size + 1)) {
        return false;
    }
    psd_span prefix = psd_walk_joined(w, top_prefix, name, PSD_LITERAL("."));
    return !w->failed && enter(w, child, prefix, &m);
}

/* Depth first, children in their order: just as state_dict() goes. */
static bool
walk_module(psd_walk *w, psd_ref ref)
{
    const psd_span none = {NULL, 0};
    psd_module_look m;
    bool going = psd_walk_is_module(w->p, ref, &m) && enter(w, ref, none, &m);
    while (going && w->depth > 0) {
        psd_walk_frame *top = &w->frames[w->depth - 1];
        if (top->next + 1 < top->children.count) {
            going = step(w, top);
        }
        else {
            w->open[top->module] = false;
            w->depth--;
        }
    }
    return going && !w->failed;
}

psd_ref
psd_torch_new_ordered_dict(psd_pool *pool)
{
    psd_ref function =
        psd_new_global(pool, PSD_LITERAL("collections"), PSD_LITERAL("OrderedDict"), 0);
    psd_ref no_args = function == 0 ? 0 : psd_new_items(pool, PSD_KIND_TUPLE, NULL, 0);
    return no_args == 0 ? 0
                        : psd_new_call(pool, PSD_CALL_REDUCE, function, no_args, 0, 0);
}

/* An OrderedDict with these items and, if `state` is not 0, attributes. */
static psd_ref
ordered_dict(psd_walk *w, const psd_walk_list *items, psd_ref state)
{
    psd_pool *pool = w->p->pool;
    psd_ref ref = w->failed ? 0 : psd_walk_born(w, psd_torch_new_ordered_dict(pool));
    w->failed = w->failed || !psd_set(pool, ref, items->refs, items->count) ||
                (state != 0 && !psd_build(pool, ref, state));
    return ref;
}

static psd_ref
make_state_dict(psd_walk *w)
{
    psd_pool *pool = w->p->pool;
    psd_ref versions = ordered_dict(w, &w->versions, 0);
    psd_ref word = w->failed ? 0
                             : psd_walk_born(w, psd_new_text(pool, PSD_KIND_TEXT,
                                                             PSD_LITERAL("_metadata")));
    psd_ref metadata[2] = {word, versions};
    psd_ref state =
        w->failed ? 0
                  : psd_walk_born(w, psd_new_items(pool, PSD_KIND_DICT, metadata, 2));
    return ordered_dict(w, &w->entries, state);
}

/* ---------------------------------------------------------------- finding them */

enum { SEEN = 1, MODULE = 2 };

typedef struct {
    psd_torch_pass *p;
    psd_alloc alloc;
    uint8_t *marks; /* by value */
    psd_walk_list todo;
} search;

static bool
want(search *s, psd_ref ref)
{
    if (ref == 0 || s->marks[ref] != 0) {
        return true;
    }
    s->marks[ref] = SEEN;
    return psd_walk_add(s->alloc, &s->todo, ref);
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
    psd_module_look found;
    if (psd_walk_is_module(s->p, ref, &found) || owner_of(s->p, ref) != 0) {
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
            if (done) {
                m->modules[m->module_count - 1].method = method_of(s->p, ref);
            }
        }
    }
    return done;
}

/* Ordinary checkpoints have no module, which is told by what is given a state; but for two
 * classes that are known by their names. */
static bool
may_have_modules(const psd_torch_pass *p)
{
    psd_module_look m;
    bool found = psd_torch_names(p, PSD_KNOWN_COMPILED) ||
                 psd_torch_names(p, PSD_KNOWN_GRAPH_MODULE);
    for (uint32_t i = 0; i < p->pool->event_count && !found; i++) {
        const psd_event *event = &p->pool->events[i];
        found =
            event->kind == PSD_EVENT_BUILD && psd_walk_is_module(p, event->target, &m);
    }
    return found;
}

/* Steps and bytes of names that modules may share: some for each value of the file. */
#define STEPS_A_VALUE 4u
#define BYTES_A_VALUE 64u
#define STEPS_AT_LEAST 4096u

/* Make what one module's state_dict() would give; leaves the walk ready for another. */
static void
make_one(psd_walk *w, psd_module *m)
{
    psd_ref owner = owner_of(w->p, m->at);
    w->entries.count = w->versions.count = w->untold.count = 0;
    w->full = false;
    bool walked = walk_module(w, owner != 0 ? owner : m->at);
    while (w->depth > 0) {
        w->open[w->frames[--w->depth].module] = false;
    }
    psd_ref made = walked ? make_state_dict(w) : 0, untold = 0;
    if (w->untold.count > 0 && !w->failed) {
        untold = psd_walk_born(w, psd_new_items(w->p->pool, PSD_KIND_LIST,
                                                w->untold.refs, w->untold.count));
    }
    m->state_dict = w->failed || w->full ? 0 : made;
    m->untold = w->failed || w->full ? 0 : untold;
}

static psd_status
make_all(psd_torch_pass *p, bool *open, psd_ref last)
{
    psd_model *m = p->model;
    psd_walk w = {.p = p, .alloc = m->alloc, .open = open};
    psd_names_init(&w.left_out, m->alloc, m->storage_names.key);
    w.left = STEPS_AT_LEAST + (uint64_t)last * STEPS_A_VALUE;
    w.left_bytes = BYTES_A_VALUE * w.left;
    for (uint32_t i = 0; i < m->module_count && !w.failed; i++) {
        make_one(&w, &m->modules[i]);
    }
    psd_walk_let_go(w.alloc, &w.entries);
    psd_walk_let_go(w.alloc, &w.versions);
    psd_walk_let_go(w.alloc, &w.untold);
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
    if (!may_have_modules(p)) {
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
        psd_walk_let_go(alloc, &s.todo);
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

bool
psd_torch_note_module(psd_pool *pool, psd_model *model, psd_ref at,
                      const psd_ref *entries, uint32_t count)
{
    psd_ref dict = psd_torch_new_ordered_dict(pool);
    return dict != 0 && psd_set(pool, dict, entries, count) &&
           psd_model_set_module(model, at, dict);
}
