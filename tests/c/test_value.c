/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool: births, fillings, events, and what happens when memory or numbers
 * run out.
 */
#include "check.h"
#include "value.h"

typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_pool pool;
} bench;

static void
set_up(bench *b, uint64_t max_values, unsigned long fail_at)
{
    b->heap = (check_heap){.fail_at = fail_at};
    psd_arena_init(&b->arena, check_alloc(&b->heap));
    psd_pool_init(&b->pool, &b->arena, max_values);
}

static void
tear_down(bench *b)
{
    psd_pool_clear(&b->pool);
    psd_arena_clear(&b->arena);
    CHECK_UINT(b->heap.live, 0);
}

static bool
event_is(const psd_pool *pool, uint32_t at, psd_event_kind kind, uint32_t when,
         psd_ref target, uint32_t first, uint32_t count)
{
    const psd_event *e = &pool->events[at];
    return at < pool->event_count && e->kind == (uint32_t)kind && e->when == when &&
           e->target == target && e->first == first && e->count == count;
}

static void
births_are_numbered_from_one(void)
{
    bench b;
    set_up(&b, 100, 0);
    psd_pool *pool = &b.pool;
    CHECK_UINT(psd_kind_of(pool, 0), PSD_KIND_INVALID);
    CHECK_UINT(psd_new_none(pool), 1);
    CHECK_UINT(psd_new_bool(pool, true), 2);
    CHECK_UINT(psd_new_int(pool, -7), 3);
    CHECK_UINT(psd_new_float(pool, 0.5), 4);
    CHECK_UINT(psd_new_text(pool, PSD_KIND_BYTES, PSD_LITERAL("ab")), 5);
    psd_ref both[] = {3, 4};
    CHECK_UINT(psd_new_items(pool, PSD_KIND_TUPLE, both, 2), 6);
    CHECK_UINT(psd_new_global(pool, PSD_LITERAL("m"), PSD_LITERAL("n"), 9), 7);
    CHECK_UINT(psd_new_call(pool, PSD_CALL_NEWOBJ_EX, 7, 6, 1, 11), 8);
    CHECK_UINT(psd_new_persid(pool, 6), 9);
    CHECK_UINT(pool->persid_count, 1);
    CHECK(pool->newest_global == psd_value_at(pool, 7)->as.global);
    CHECK(pool->newest_global->previous == NULL);

    CHECK_UINT(psd_kind_of(pool, 0), PSD_KIND_INVALID);
    CHECK_UINT(pool->values[0].kind, PSD_KIND_INVALID);
    CHECK_UINT(psd_kind_of(pool, 1), PSD_KIND_NONE);
    CHECK(psd_kind_of(pool, 2) == PSD_KIND_BOOL && psd_value_at(pool, 2)->as.boolean);
    CHECK(psd_kind_of(pool, 3) == PSD_KIND_INT &&
          psd_value_at(pool, 3)->as.integer == -7);
    CHECK(psd_kind_of(pool, 4) == PSD_KIND_FLOAT &&
          psd_value_at(pool, 4)->as.real == 0.5);
    CHECK(psd_span_equal(psd_text_of(psd_value_at(pool, 5)), PSD_LITERAL("ab")));
    CHECK(psd_value_at(pool, 6)->count == 2 && psd_value_at(pool, 6)->as.items[1] == 4);
    const psd_global *global = psd_value_at(pool, 7)->as.global;
    CHECK(psd_span_equal(global->module, PSD_LITERAL("m")) && global->position == 9 &&
          psd_span_equal(global->name, PSD_LITERAL("n")) && global->tag == 0);
    const psd_call *call = psd_value_at(pool, 8)->as.call;
    CHECK(call->form == PSD_CALL_NEWOBJ_EX && call->callable == 7 && call->args == 6 &&
          call->kwargs == 1 && call->position == 11);
    CHECK(call->state == 0 && call->items == NULL && call->append_count == 0);
    CHECK_UINT(psd_value_at(pool, 9)->as.ref, 6);
    CHECK_UINT(pool->event_count, 0);
    tear_down(&b);
}

static void
texts_are_compared_as_bytes(void)
{
    bench b;
    set_up(&b, 100, 0);
    psd_ref text = psd_new_text(&b.pool, PSD_KIND_TEXT, PSD_LITERAL("storage"));
    psd_ref string = psd_new_text(&b.pool, PSD_KIND_STRING, PSD_LITERAL("storage"));
    psd_ref array = psd_new_text(&b.pool, PSD_KIND_BYTEARRAY, PSD_LITERAL("storage"));
    CHECK(psd_text_is(psd_value_at(&b.pool, text), PSD_LITERAL("storage")));
    CHECK(psd_text_is(psd_value_at(&b.pool, string), PSD_LITERAL("storage")));
    CHECK(!psd_text_is(psd_value_at(&b.pool, array), PSD_LITERAL("storage")));
    CHECK(!psd_text_is(psd_value_at(&b.pool, text), PSD_LITERAL("storag")));
    tear_down(&b);
}

static void
fillings_leave_events(void)
{
    bench b;
    set_up(&b, 100, 0);
    psd_pool *pool = &b.pool;
    psd_ref refs[] = {1, 1, 1, 1};
    psd_ref one = psd_new_int(pool, 1);
    psd_ref list = psd_new_items(pool, PSD_KIND_LIST, NULL, 0);
    CHECK(psd_append(pool, list, refs, 3));
    psd_ref dict = psd_new_items(pool, PSD_KIND_DICT, NULL, 0);
    CHECK(psd_append(pool, list, refs, 1));
    CHECK(psd_set(pool, dict, refs, 4));
    CHECK(psd_append(pool, list, refs, 0));
    CHECK(psd_set(pool, dict, refs, 0));
    psd_ref call = psd_new_call(pool, PSD_CALL_REDUCE, one, one, 0, 0);
    CHECK(psd_append(pool, call, refs, 2));
    CHECK(psd_set(pool, call, refs, 2));
    CHECK(psd_build(pool, call, list));
    CHECK(psd_build(pool, call, dict));

    CHECK_UINT(pool->event_count, 7);
    CHECK(event_is(pool, 0, PSD_EVENT_APPEND, 2, list, 0, 3));
    CHECK(event_is(pool, 1, PSD_EVENT_APPEND, 3, list, 3, 1));
    CHECK(event_is(pool, 2, PSD_EVENT_ITEMS, 3, dict, 0, 4));
    CHECK(event_is(pool, 3, PSD_EVENT_APPEND, 4, call, 0, 2));
    CHECK(event_is(pool, 4, PSD_EVENT_ITEMS, 4, call, 0, 2));
    CHECK(event_is(pool, 5, PSD_EVENT_BUILD, 4, call, list, 0));
    CHECK(event_is(pool, 6, PSD_EVENT_BUILD, 4, call, dict, 0));
    CHECK_UINT(psd_value_at(pool, list)->count, 4);
    CHECK_UINT(psd_value_at(pool, dict)->count, 4);
    const psd_call *made = psd_value_at(pool, call)->as.call;
    CHECK(made->append_count == 2 && made->item_count == 2 && made->state == dict);
    tear_down(&b);
}

/* Tuples and frozensets are whole at birth; the others are filled at once. */
static void
first_refs_are_fillings(void)
{
    bench b;
    set_up(&b, 100, 0);
    psd_pool *pool = &b.pool;
    psd_ref refs[] = {1, 1};
    psd_new_none(pool);
    psd_new_items(pool, PSD_KIND_TUPLE, refs, 2);
    psd_new_items(pool, PSD_KIND_FROZENSET, refs, 2);
    CHECK_UINT(pool->event_count, 0);
    psd_ref list = psd_new_items(pool, PSD_KIND_LIST, refs, 2);
    psd_ref dict = psd_new_items(pool, PSD_KIND_DICT, refs, 2);
    psd_ref set = psd_new_items(pool, PSD_KIND_SET, refs, 1);
    CHECK_UINT(pool->event_count, 3);
    CHECK(event_is(pool, 0, PSD_EVENT_APPEND, list, list, 0, 2));
    CHECK(event_is(pool, 1, PSD_EVENT_ITEMS, dict, dict, 0, 2));
    CHECK(event_is(pool, 2, PSD_EVENT_APPEND, set, set, 0, 1));
    CHECK(psd_value_at(pool, list)->count == 2 &&
          psd_value_at(pool, set)->as.items[0] == 1);
    refs[0] = 99; /* refs were copied */
    CHECK_UINT(psd_value_at(pool, 2)->as.items[0], 1);
    CHECK_UINT(psd_value_at(pool, dict)->as.items[0], 1);
    tear_down(&b);
}

/* By steps of every size, content stays and memory is linear. */
static void
lists_grow_by_doubling(void)
{
    enum { COUNT = 20000 };
    static psd_ref refs[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        refs[i] = i + 1;
    }
    static const uint32_t steps[] = {1, 2, 3, 7, 1000, COUNT};
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        bench b;
        set_up(&b, 100, 0);
        psd_ref list = psd_new_items(&b.pool, PSD_KIND_LIST, NULL, 0);
        for (uint32_t i = 0; i < COUNT; i += steps[s]) {
            uint32_t more = COUNT - i < steps[s] ? COUNT - i : steps[s];
            CHECK(psd_append(&b.pool, list, refs + i, more));
        }
        const psd_value *value = psd_value_at(&b.pool, list);
        CHECK_UINT(value->count, COUNT);
        CHECK(memcmp(value->as.items, refs, sizeof refs) == 0);
        /* At most 2n refs and 2n more left behind, whole pages, and the events. */
        size_t events = b.pool.event_capacity * sizeof(psd_event);
        CHECK(b.heap.live - events < 4 * sizeof refs * 2);
        tear_down(&b);
    }
}

static void
the_number_of_values_is_bounded(void)
{
    bench b;
    set_up(&b, 3, 0);
    psd_pool *pool = &b.pool;
    psd_ref refs[] = {1};
    CHECK(!psd_pool_full(pool));
    CHECK(psd_new_none(pool) == 1 && psd_new_none(pool) == 2 && !psd_pool_full(pool));
    CHECK(psd_new_none(pool) == 3 && psd_pool_full(pool));
    CHECK_UINT(psd_new_int(pool, 1), 0);
    CHECK_UINT(psd_new_text(pool, PSD_KIND_TEXT, PSD_LITERAL("x")), 0);
    CHECK_UINT(psd_new_items(pool, PSD_KIND_TUPLE, refs, 1), 0);
    CHECK_UINT(psd_new_items(pool, PSD_KIND_LIST, refs, 1), 0);
    CHECK_UINT(psd_new_global(pool, PSD_LITERAL("m"), PSD_LITERAL("n"), 0), 0);
    CHECK_UINT(psd_new_call(pool, PSD_CALL_REDUCE, 1, 1, 0, 0), 0);
    CHECK_UINT(psd_new_persid(pool, 1), 0);
    CHECK_UINT(pool->count, 3);
    CHECK_UINT(pool->event_count, 0);
    tear_down(&b);

    set_up(&b, UINT64_MAX, 0);
    CHECK_UINT(b.pool.max_values, (uint64_t)UINT32_MAX - 1);
    tear_down(&b);
}

/* One of everything; false at the first that fails. */
static bool
make_all(psd_pool *pool)
{
    psd_ref refs[600];
    for (uint32_t i = 0; i < 600; i++) {
        refs[i] = psd_new_int(pool, i);
        if (refs[i] == 0) {
            return false;
        }
    }
    psd_ref list = psd_new_items(pool, PSD_KIND_LIST, refs, 600);
    psd_ref dict = psd_new_items(pool, PSD_KIND_DICT, refs, 600);
    psd_ref tuple = psd_new_items(pool, PSD_KIND_TUPLE, refs, 600);
    psd_ref global = psd_new_global(pool, PSD_LITERAL("m"), PSD_LITERAL("n"), 0);
    psd_ref call = psd_new_call(pool, PSD_CALL_REDUCE, global, tuple, 0, 0);
    if (list == 0 || dict == 0 || tuple == 0 || global == 0 || call == 0) {
        return false;
    }
    for (int i = 0; i < 50; i++) {
        if (!psd_append(pool, list, refs, 600) || !psd_append(pool, call, refs, 600) ||
            !psd_set(pool, call, refs, 600) || !psd_build(pool, call, dict)) {
            return false;
        }
    }
    return true;
}

static void
every_allocation_may_fail(void)
{
    unsigned long n = 1;
    for (;; n++) {
        bench b;
        set_up(&b, 10000, n);
        bool made = make_all(&b.pool);
        if (!made) {
            CHECK(!psd_pool_full(&b.pool));
        }
        CHECK(made == (b.heap.requests < n));
        /* What failed left nothing half done. */
        uint64_t told = 0, held = 0;
        for (uint32_t i = 0; i < b.pool.event_count; i++) {
            told += b.pool.events[i].count;
        }
        for (psd_ref ref = 1; ref <= b.pool.count; ref++) {
            const psd_value *value = psd_value_at(&b.pool, ref);
            bool call = value->kind == PSD_KIND_CALL;
            held += call ? (uint64_t)value->as.call->append_count +
                               value->as.call->item_count
                         : 0;
            held += value->kind == PSD_KIND_LIST || value->kind == PSD_KIND_DICT
                        ? value->count
                        : 0;
        }
        CHECK_UINT(told, held);
        tear_down(&b);
        if (made) {
            break;
        }
    }
    CHECK(n > 10);
}

/* A list that could not be filled was not born. */
static void
half_a_list_is_none(void)
{
    psd_ref refs[3000] = {0};
    unsigned long n = 1;
    for (psd_ref list = 0; list == 0; n++) {
        bench b;
        set_up(&b, 10, n);
        list = psd_new_items(&b.pool, PSD_KIND_LIST, refs, 3000);
        CHECK_UINT(b.pool.count, list);
        tear_down(&b);
    }
    CHECK_UINT(n, 5); /* the values, an event, a block of the arena */
}

/* Counts have 32 bits, those of events 30. */
static void
no_count_wraps(void)
{
    bench b;
    psd_ref refs[] = {1, 1};
    set_up(&b, 10, 0);
    psd_ref list = psd_new_items(&b.pool, PSD_KIND_LIST, NULL, 0);
    CHECK(!psd_append(&b.pool, list, refs, (uint32_t)1 << 30));
    psd_value_at(&b.pool, list)->count = UINT32_MAX - 1;
    CHECK(!psd_append(&b.pool, list, refs, 2));
    CHECK_UINT(b.pool.event_count, 0);
    tear_down(&b);
}

static void
a_cleared_pool_is_as_new(void)
{
    bench b;
    set_up(&b, 10, 0);
    psd_pool_clear(&b.pool);
    CHECK_UINT(psd_new_none(&b.pool), 1);
    psd_pool_clear(&b.pool);
    CHECK(b.pool.count == 0 && b.pool.max_values == 10 && b.pool.values == NULL);
    CHECK_UINT(psd_new_none(&b.pool), 1);
    tear_down(&b);
}

int
main(void)
{
    RUN(births_are_numbered_from_one);
    RUN(texts_are_compared_as_bytes);
    RUN(fillings_leave_events);
    RUN(first_refs_are_fillings);
    RUN(lists_grow_by_doubling);
    RUN(the_number_of_values_is_bounded);
    RUN(every_allocation_may_fail);
    RUN(half_a_list_is_none);
    RUN(no_count_wraps);
    RUN(a_cleared_pool_is_as_new);
    return check_report();
}
