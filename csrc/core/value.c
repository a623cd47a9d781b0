/* SPDX-License-Identifier: Apache-2.0 */
#include "value.h"

/* Values are numbered in 32 bits, and number 0 is none. */
#define VALUES_MAX ((uint64_t)UINT32_MAX - 1)

/* An event counts its refs in 30 bits. */
#define EVENT_REFS_MAX (((uint32_t)1 << 30) - 1)

void
psd_pool_init(psd_pool *pool, psd_arena *arena, uint64_t max_values)
{
    *pool = (psd_pool){
        .arena = arena,
        .max_values = max_values < VALUES_MAX ? max_values : VALUES_MAX,
    };
}

void
psd_pool_clear(psd_pool *pool)
{
    psd_alloc alloc = pool->arena->alloc;
    if (pool->values != NULL) {
        alloc.resize(alloc.ctx, pool->values, pool->capacity * sizeof *pool->values, 0);
    }
    if (pool->events != NULL) {
        alloc.resize(alloc.ctx, pool->events,
                     pool->event_capacity * sizeof *pool->events, 0);
    }
    psd_pool_init(pool, pool->arena, pool->max_values);
}

bool
psd_pool_reserve(psd_pool *pool, uint64_t count)
{
    bool first = pool->values == NULL;
    void *values = pool->values;
    bool done = psd_grow(pool->arena->alloc, &values, &pool->capacity, count + 1,
                         sizeof *pool->values);
    pool->values = values;
    if (done && first) {
        pool->values[0] = (psd_value){.kind = PSD_KIND_INVALID};
    }
    return done;
}

bool
psd_pool_full(const psd_pool *pool)
{
    return pool->count >= pool->max_values;
}

psd_status
psd_pool_fail(const psd_pool *pool, psd_error *err)
{
    if (!psd_pool_full(pool)) {
        return psd_fail_memory(err);
    }
    psd_fail(err, PSD_LIMIT, PSD_NOWHERE, "a pickle has more values than allowed");
    return psd_fail_numbers(err, (uint64_t)pool->count + 1, pool->max_values);
}

/* ------------------------------------------------------------------- births */

static psd_ref
bear(psd_pool *pool, psd_value value)
{
    if (psd_pool_full(pool)) {
        return 0;
    }
    if (pool->capacity < pool->count + 2 &&
        !psd_pool_reserve(pool, (uint64_t)pool->count + 1)) {
        return 0;
    }
    pool->values[++pool->count] = value;
    return pool->count;
}

psd_ref
psd_new_none(psd_pool *pool)
{
    return bear(pool, (psd_value){.kind = PSD_KIND_NONE});
}

psd_ref
psd_new_bool(psd_pool *pool, bool v)
{
    return bear(pool, (psd_value){.kind = PSD_KIND_BOOL, .as.boolean = v});
}

psd_ref
psd_new_int(psd_pool *pool, int64_t v)
{
    return bear(pool, (psd_value){.kind = PSD_KIND_INT, .as.integer = v});
}

psd_ref
psd_new_float(psd_pool *pool, double v)
{
    return bear(pool, (psd_value){.kind = PSD_KIND_FLOAT, .as.real = v});
}

psd_ref
psd_new_text(psd_pool *pool, psd_kind kind, psd_span text)
{
    return bear(pool, (psd_value){.kind = (uint8_t)kind,
                                  .count = (uint32_t)text.size,
                                  .as.bytes = text.data});
}

psd_ref
psd_new_global(psd_pool *pool, psd_span module, psd_span name, uint32_t position)
{
    psd_global *global =
        psd_pool_full(pool) ? NULL : psd_arena_take(pool->arena, sizeof *global);
    if (global == NULL) {
        return 0;
    }
    *global = (psd_global){.module = module,
                           .name = name,
                           .previous = pool->newest_global,
                           .position = position};
    psd_ref ref = bear(pool, (psd_value){.kind = PSD_KIND_GLOBAL, .as.global = global});
    pool->newest_global = ref == 0 ? pool->newest_global : global;
    return ref;
}

psd_ref
psd_new_call(psd_pool *pool, psd_call_form form, psd_ref callable, psd_ref args,
             psd_ref kwargs, uint32_t position)
{
    psd_call *call =
        psd_pool_full(pool) ? NULL : psd_arena_take(pool->arena, sizeof *call);
    if (call == NULL) {
        return 0;
    }
    *call = (psd_call){
        .callable = callable,
        .args = args,
        .kwargs = kwargs,
        .position = position,
        .form = (uint8_t)form,
    };
    return bear(pool, (psd_value){.kind = PSD_KIND_CALL, .as.call = call});
}

psd_ref
psd_new_persid(psd_pool *pool, psd_ref id)
{
    psd_ref ref = bear(pool, (psd_value){.kind = PSD_KIND_PERSID, .as.ref = id});
    pool->persid_count += ref != 0;
    return ref;
}

/* ----------------------------------------------------------------- fillings */

/*
 * A growing list's room is implied by its count: the next power of two, at
 * least 2 (the arena's unit).  So no capacity is stored, a list of n refs holds
 * at most 2n, and the blocks it grew out of add up to at most 2n more.
 */
static uint64_t
room_for(uint32_t count)
{
    if (count <= 2) {
        return count == 0 ? 0 : 2;
    }
    uint32_t bits = count - 1;
    bits |= bits >> 1;
    bits |= bits >> 2;
    bits |= bits >> 4;
    bits |= bits >> 8;
    bits |= bits >> 16;
    return (uint64_t)bits + 1;
}

static bool
extend(psd_arena *arena, psd_ref **items, uint32_t *count, const psd_ref *refs,
       uint32_t more)
{
    if (more > UINT32_MAX - *count) {
        return false;
    }
    uint64_t room = room_for(*count + more);
    if (room != room_for(*count)) {
        psd_ref *moved = room > SIZE_MAX
                             ? NULL
                             : psd_arena_take_array(arena, (size_t)room, sizeof *moved);
        if (moved == NULL) {
            return false;
        }
        if (*count > 0) {
            memcpy(moved, *items, *count * sizeof *moved);
        }
        *items = moved;
    }
    memcpy(*items + *count, refs, more * sizeof *refs);
    *count += more;
    return true;
}

/* Room for one event more, so that writing it down cannot fail. */
static bool
reserve_event(psd_pool *pool)
{
    void *events = pool->events;
    bool done = psd_grow(pool->arena->alloc, &events, &pool->event_capacity,
                         (uint64_t)pool->event_count + 1, sizeof *pool->events);
    pool->events = events;
    return done;
}

static void
write_down(psd_pool *pool, psd_event_kind kind, psd_ref target, uint32_t first,
           uint32_t count)
{
    pool->events[pool->event_count++] = (psd_event){
        .when = pool->count,
        .target = target,
        .first = first,
        .count = count & EVENT_REFS_MAX,
        .kind = (uint32_t)kind & 3,
    };
}

static bool
fill(psd_pool *pool, psd_event_kind kind, psd_ref target, psd_ref **items,
     uint32_t *held, const psd_ref *refs, uint32_t count)
{
    uint32_t first = *held;
    if (count > EVENT_REFS_MAX || !reserve_event(pool) ||
        !extend(pool->arena, items, held, refs, count)) {
        return false;
    }
    write_down(pool, kind, target, first, count);
    return true;
}

bool
psd_append(psd_pool *pool, psd_ref target, const psd_ref *refs, uint32_t count)
{
    psd_value *value = psd_value_at(pool, target);
    if (count == 0) {
        return true;
    }
    if (value->kind == PSD_KIND_CALL) {
        psd_call *call = value->as.call;
        return fill(pool, PSD_EVENT_APPEND, target, &call->appends, &call->append_count,
                    refs, count);
    }
    return fill(pool, PSD_EVENT_APPEND, target, &value->as.items, &value->count, refs,
                count);
}

bool
psd_set(psd_pool *pool, psd_ref target, const psd_ref *refs, uint32_t count)
{
    psd_value *value = psd_value_at(pool, target);
    if (count == 0) {
        return true;
    }
    if (value->kind == PSD_KIND_CALL) {
        psd_call *call = value->as.call;
        return fill(pool, PSD_EVENT_ITEMS, target, &call->items, &call->item_count,
                    refs, count);
    }
    return fill(pool, PSD_EVENT_ITEMS, target, &value->as.items, &value->count, refs,
                count);
}

bool
psd_build(psd_pool *pool, psd_ref target, psd_ref state)
{
    if (!reserve_event(pool)) {
        return false;
    }
    psd_value_at(pool, target)->as.call->state = state;
    write_down(pool, PSD_EVENT_BUILD, target, state, 0);
    return true;
}

/*
 * A list, dict or set that is born with refs is born empty and filled at once,
 * so that its events tell all of its content.
 */
psd_ref
psd_new_items(psd_pool *pool, psd_kind kind, const psd_ref *refs, uint32_t count)
{
    psd_value value = {.kind = (uint8_t)kind, .as.items = NULL};
    if (kind == PSD_KIND_TUPLE || kind == PSD_KIND_FROZENSET) {
        if (count > 0) {
            value.as.items =
                psd_pool_full(pool)
                    ? NULL
                    : psd_arena_take_array(pool->arena, count, sizeof *refs);
            if (value.as.items == NULL) {
                return 0;
            }
            memcpy(value.as.items, refs, count * sizeof *refs);
            value.count = count;
        }
        return bear(pool, value);
    }
    psd_ref ref = bear(pool, value);
    bool filled =
        ref != 0 && (kind == PSD_KIND_DICT ? psd_set(pool, ref, refs, count)
                                           : psd_append(pool, ref, refs, count));
    if (ref != 0 && !filled) {
        pool->count--; /* not born after all */
    }
    return filled ? ref : 0;
}

/* ----------------------------------------------------------------- children */

uint64_t
psd_child_count(const psd_value *value)
{
    switch (value->kind) {
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return value->count;
    case PSD_KIND_PERSID: return 1;
    case PSD_KIND_CALL: {
        const psd_call *call = value->as.call;
        return (uint64_t)psd_call_part_count(call) + call->append_count +
               call->item_count + (call->state != 0);
    }
    default: return 0;
    }
}

static psd_ref
call_child(const psd_call *call, uint64_t at)
{
    uint32_t parts = psd_call_part_count(call);
    if (at < parts) {
        return psd_call_part(call, at);
    }
    at -= parts;
    if (at < call->append_count) {
        return call->appends[at];
    }
    at -= call->append_count;
    return at < call->item_count ? call->items[at] : call->state;
}

psd_ref
psd_child_at(const psd_value *value, uint64_t at)
{
    switch (value->kind) {
    case PSD_KIND_PERSID: return value->as.ref;
    case PSD_KIND_CALL: return call_child(value->as.call, at);
    default: return value->as.items[at];
    }
}

void
psd_find_uses(const psd_pool *pool, uint8_t *uses)
{
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        const psd_value *value = psd_value_at(pool, ref);
        bool is_call = value->kind == PSD_KIND_CALL;
        uint64_t count = psd_child_count(value);
        for (uint64_t at = 0; at < count; at++) {
            /* A call's first part is what it calls. */
            uses[psd_child_at(value, at)] |=
                is_call && at == 0 ? PSD_USED_CALLED : PSD_USED_PASSED;
        }
    }
    for (uint32_t i = 0; i < pool->event_count; i++) {
        if (pool->events[i].kind == PSD_EVENT_BUILD) {
            uses[pool->events[i].first] |= PSD_USED_PASSED;
        }
    }
}

/* --------------------------------------------------------------------- depth */

/* A value on the way from the root, and its child that comes next. */
typedef struct {
    psd_ref ref;
    uint64_t next;
} step;

typedef struct {
    const psd_pool *pool;
    uint32_t *depths; /* by number; 0: not met, 1: met */
    step *steps;
    uint32_t count;
    uint32_t capacity;
} descent;

static bool
enter(descent *d, psd_ref ref, psd_alloc alloc)
{
    void *steps = d->steps;
    bool done =
        psd_grow(alloc, &steps, &d->capacity, (uint64_t)d->count + 1, sizeof *d->steps);
    d->steps = steps;
    if (done) {
        d->depths[ref] = 1;
        d->steps[d->count++] = (step){.ref = ref};
    }
    return done;
}

static void
leave(descent *d)
{
    uint32_t depth = d->depths[d->steps[--d->count].ref];
    if (d->count > 0) {
        uint32_t *above = &d->depths[d->steps[d->count - 1].ref];
        *above = *above > depth ? *above : depth + 1;
    }
}

static bool
descend(descent *d, psd_ref root, psd_alloc alloc)
{
    bool done = enter(d, root, alloc);
    while (done && d->count > 0) {
        step *top = &d->steps[d->count - 1];
        const psd_value *value = psd_value_at(d->pool, top->ref);
        if (top->next == psd_child_count(value)) {
            leave(d);
            continue;
        }
        psd_ref child = psd_child_at(value, top->next++);
        uint32_t *above = &d->depths[top->ref], below = d->depths[child];
        if (below == 0) {
            done = enter(d, child, alloc);
        }
        else {
            *above = *above > below ? *above : below + 1;
        }
    }
    return done;
}

bool
psd_find_depth(const psd_pool *pool, psd_ref root, psd_alloc alloc, uint32_t *depth)
{
    descent d = {.pool = pool};
    size_t size = ((size_t)pool->count + 1) * sizeof *d.depths;
    d.depths = alloc.resize(alloc.ctx, NULL, 0, size);
    if (d.depths == NULL) {
        return false;
    }
    memset(d.depths, 0, size);
    bool done = descend(&d, root, alloc);
    *depth = done ? d.depths[root] : 0;
    if (d.steps != NULL) {
        alloc.resize(alloc.ctx, d.steps, d.capacity * sizeof *d.steps, 0);
    }
    alloc.resize(alloc.ctx, d.depths, size, 0);
    return done;
}
