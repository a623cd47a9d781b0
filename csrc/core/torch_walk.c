/* SPDX-License-Identifier: Apache-2.0
 *
 * What modules look like in a pickle, and the steps of a walk over them.
 */
#include "torch_walk.h"

/* ---------------------------------------------------------------- shapes */

/* The pairs of a dict, or of a call that is one: OrderedDict(). */
psd_pairs
psd_walk_pairs(const psd_pool *pool, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind == PSD_KIND_DICT) {
        return (psd_pairs){v->as.items, v->count};
    }
    if (v->kind == PSD_KIND_CALL) {
        return (psd_pairs){v->as.call->items, v->as.call->item_count};
    }
    return (psd_pairs){NULL, 0};
}

/* What the dict holds under this text, among the first of its pairs; 0 if nothing. */
psd_ref
psd_walk_attribute(const psd_pool *pool, psd_ref dict, psd_span name)
{
    psd_pairs p = psd_walk_pairs(pool, dict);
    psd_ref found = 0;
    for (uint32_t i = 0; i + 1 < p.count && i < 2 * PSD_LOOKED_AT; i += 2) {
        if (psd_text_is(psd_value_at(pool, p.items[i]), name)) {
            found = p.items[i + 1]; /* of a key that comes twice the later counts */
        }
    }
    return found;
}

static bool
is_without_attributes(const psd_pool *pool, const psd_call *call,
                      psd_module_look *found)
{
    const psd_value *callable = psd_value_at(pool, call->callable);
    if (callable->kind != PSD_KIND_GLOBAL) {
        return false;
    }
    found->class = psd_torch_class(callable->as.global);
    found->attributes = 0;
    if (found->class.form == PSD_CLASS_COMPILED) {
        found->parts = call->args;
        const psd_value *args = psd_value_at(pool, call->args);
        return args->kind == PSD_KIND_TUPLE && args->count >= 1;
    }
    found->parts = call->state;
    const psd_value *state = psd_value_at(pool, call->state);
    uint32_t least = found->class.form == PSD_CLASS_CONV            ? PSD_CONV_PARTS
                     : found->class.form == PSD_CLASS_PACKED_LINEAR ? PSD_LINEAR_PARTS
                                                                    : UINT32_MAX;
    return state->kind == PSD_KIND_TUPLE && state->count >= least;
}

/* A call whose attributes are those of a module. */
bool
psd_walk_is_module(const psd_torch_pass *p, psd_ref ref, psd_module_look *found)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    if (v->kind != PSD_KIND_CALL) {
        return false;
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
    if (state == 0 || psd_kind_of(p->pool, state) != PSD_KIND_DICT ||
        psd_walk_attribute(p->pool, state, PSD_LITERAL("_parameters")) == 0 ||
        psd_walk_attribute(p->pool, state, PSD_LITERAL("_modules")) == 0) {
        return is_without_attributes(p->pool, v->as.call, found);
    }
    const psd_value *callable = psd_value_at(p->pool, v->as.call->callable);
    *found = (psd_module_look){.class = {PSD_CLASS_PLAIN, 1}, .attributes = state};
    if (callable->kind == PSD_KIND_GLOBAL) {
        found->class = psd_torch_class(callable->as.global);
    }
    return true;
}

/* ---------------------------------------------------------------- growing lists */

bool
psd_walk_add(psd_alloc alloc, psd_walk_list *l, psd_ref ref)
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

void
psd_walk_let_go(psd_alloc alloc, psd_walk_list *l)
{
    if (l->refs != NULL) {
        alloc.resize(alloc.ctx, l->refs, l->capacity * sizeof *l->refs, 0);
    }
    *l = (psd_walk_list){NULL, 0, 0};
}

/* ---------------------------------------------------------------- steps */

/* A step of the walk; false when there were too many. */
bool
psd_walk_may_go_on(psd_walk *w, size_t bytes)
{
    bool may = w->left > 0 && w->left_bytes >= bytes;
    w->left -= may ? 1 : 0;
    w->left_bytes -= may ? bytes : 0;
    w->full = w->full || !may;
    return may && !w->failed;
}

psd_ref
psd_walk_born(psd_walk *w, psd_ref ref)
{
    w->full = w->full || (ref == 0 && psd_pool_full(w->p->pool));
    w->failed = w->failed || ref == 0;
    return ref;
}

/* `prefix` + `name` + `ending` in the arena. */
psd_span
psd_walk_joined(psd_walk *w, psd_span prefix, psd_span name, psd_span ending)
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
bool
psd_walk_name_at(const psd_pool *pool, psd_ref ref, psd_span *name)
{
    const psd_value *v = psd_value_at(pool, ref);
    if (v->kind != PSD_KIND_TEXT && v->kind != PSD_KIND_STRING) {
        return false;
    }
    *name = psd_text_of(v);
    return true;
}

void
psd_walk_add_entry(psd_walk *w, psd_span prefix, psd_span name, psd_ref value)
{
    const psd_span none = {NULL, 0};
    psd_span full = psd_walk_joined(w, prefix, name, none);
    psd_ref key =
        w->failed ? 0 : psd_walk_born(w, psd_new_text(w->p->pool, PSD_KIND_TEXT, full));
    w->failed = w->failed || !psd_walk_add(w->alloc, &w->entries, key) ||
                !psd_walk_add(w->alloc, &w->entries, value);
}

/* Parameters keep the flags that they have; a buffer is known not to be trained. */
void
psd_walk_mark_buffer(psd_walk *w, psd_ref ref)
{
    const psd_value *v = psd_value_at(w->p->pool, ref);
    psd_tensor *t =
        v->kind == PSD_KIND_TENSOR ? &w->p->model->tensors[v->as.index] : NULL;
    if (t != NULL && (t->flags & PSD_TENSOR_PARAMETER) == 0) {
        t->flags |= PSD_TENSOR_BUFFER;
    }
}

psd_ref
psd_walk_text(psd_walk *w, psd_span text)
{
    return w->failed ? 0
                     : psd_walk_born(w, psd_new_text(w->p->pool, PSD_KIND_TEXT, text));
}

/* So many things are told of that are missing. */
#define UNTOLD_MOST 16u

/* Note that what stands at `prefix` and `name` is not told: a child that is no module here, or
 * what a hook would have done. */
void
psd_walk_note_untold(psd_walk *w, psd_span prefix, psd_span name, psd_ref what,
                     bool is_hook)
{
    const psd_span none = {NULL, 0};
    psd_pool *pool = w->p->pool;
    if (w->untold.count >= UNTOLD_MOST ||
        !psd_walk_may_go_on(w, prefix.size + name.size)) {
        return;
    }
    psd_span text = psd_walk_joined(w, prefix, name, none);
    psd_ref parts[3] = {0, what, 0};
    parts[0] =
        w->failed ? 0 : psd_walk_born(w, psd_new_text(pool, PSD_KIND_TEXT, text));
    parts[2] = w->failed ? 0 : psd_walk_born(w, psd_new_bool(pool, is_hook));
    psd_ref tuple =
        w->failed ? 0 : psd_walk_born(w, psd_new_items(pool, PSD_KIND_TUPLE, parts, 3));
    w->failed = w->failed || !psd_walk_add(w->alloc, &w->untold, tuple);
}
