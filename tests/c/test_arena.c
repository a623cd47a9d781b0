/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

static void
test_taken_memory_is_aligned_and_apart(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    uint8_t *taken[200];
    for (size_t i = 0; i < 200; i++) {
        taken[i] = psd_arena_take(&arena, i);
        CHECK(taken[i] != NULL);
        CHECK((uintptr_t)taken[i] % 8 == 0);
        memset(taken[i], (int)i, i);
    }
    for (size_t i = 0; i < 200; i++) {
        for (size_t k = 0; k < i; k++) {
            CHECK(taken[i][k] == i);
        }
        CHECK(i == 0 || taken[i] != taken[i - 1]);
    }
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

/* Nothing is asked of the host before something is asked of the arena. */
static void
test_an_unused_arena_costs_nothing(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    psd_arena_clear(&arena);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.requests, 0);
    CHECK_UINT(heap.live, 0);
}

static void
test_pages_double_up_to_a_bound(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    for (size_t i = 0; i < ((size_t)8 << 20) / 64; i++) {
        CHECK(psd_arena_take(&arena, 64) != NULL);
    }
    /* 4 KiB, 8 KiB, ... 4 MiB, then 4 MiB each. */
    CHECK(heap.requests >= 11 && heap.requests <= 13);
    CHECK(heap.live <= ((size_t)8 << 20) + ((size_t)4 << 20) + 4096);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

static void
test_a_large_taking_gets_a_page_of_its_own(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    size_t size = (size_t)5 << 20;
    uint8_t *large = psd_arena_take(&arena, size);
    CHECK(large != NULL);
    memset(large, 7, size);
    /* The page after it is an ordinary one again. */
    CHECK(psd_arena_take(&arena, 8) != NULL);
    CHECK(heap.live < size + ((size_t)4 << 20) + 4096);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

static void
test_sizes_that_wrap_are_refused(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    /* Rounding up would wrap, and so would the page's header. */
    for (size_t i = 0; i < 2 * sizeof(void *); i++) {
        CHECK(psd_arena_take(&arena, SIZE_MAX - i) == NULL);
    }
    CHECK(psd_arena_take_array(&arena, SIZE_MAX / 2, 3) == NULL);
    CHECK(psd_arena_take_array(&arena, 3, SIZE_MAX / 2) == NULL);
    CHECK(psd_arena_take_array(&arena, SIZE_MAX, SIZE_MAX) == NULL);
    CHECK_UINT(heap.requests, 0);
    CHECK(psd_arena_take_array(&arena, SIZE_MAX, 0) != NULL);
    CHECK(psd_arena_take_array(&arena, 0, SIZE_MAX) != NULL);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

static void
test_copies(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    uint8_t text[] = "to be copied";
    psd_span copy = psd_arena_copy(&arena, (psd_span){text, sizeof text});
    memset(text, 0, sizeof text);
    CHECK_UINT(copy.size, sizeof text);
    CHECK(memcmp(copy.data, "to be copied", sizeof text) == 0);
    /* An empty text has an address all the same: NULL means that memory failed. */
    psd_span empty = psd_arena_copy(&arena, (psd_span){NULL, 0});
    CHECK(empty.data != NULL);
    CHECK_UINT(empty.size, 0);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

/* What was taken before a failure stays, and so does the arena's use. */
static void
test_every_failing_request(void)
{
    for (unsigned long fail_at = 1; fail_at < 20; fail_at++) {
        check_heap heap = {.fail_at = fail_at};
        psd_arena arena;
        psd_arena_init(&arena, check_alloc(&heap));
        unsigned failed = 0;
        uint8_t *last = NULL;
        for (unsigned i = 0; i < 40; i++) {
            size_t size = (size_t)1 << (i % 20);
            uint8_t *memory = psd_arena_take(&arena, size);
            failed += memory == NULL;
            if (memory != NULL) {
                CHECK(memory != last);
                memset(memory, 1, size);
                last = memory;
            }
        }
        CHECK_UINT(failed, heap.requests >= fail_at);
        psd_arena_clear(&arena);
        CHECK_UINT(heap.live, 0);
    }
}

static void
test_copy_without_memory(void)
{
    check_heap heap = {.fail_at = 1};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    psd_span copy = psd_arena_copy(&arena, PSD_LITERAL("text"));
    CHECK(copy.data == NULL);
    CHECK_UINT(copy.size, 0);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

/* ---------------------------------------------------------------- growing arrays */

static void
test_growing(void)
{
    check_heap heap = {0};
    psd_alloc alloc = check_alloc(&heap);
    void *items = NULL;
    uint32_t capacity = 0;
    CHECK(psd_grow(alloc, &items, &capacity, 0, 8));
    CHECK(items == NULL);
    for (uint32_t count = 1; count <= 100000; count++) {
        CHECK(psd_grow(alloc, &items, &capacity, count, sizeof(uint64_t)));
        CHECK(capacity >= count);
        ((uint64_t *)items)[count - 1] = count;
    }
    for (uint32_t count = 1; count <= 100000; count++) {
        CHECK(((uint64_t *)items)[count - 1] == count);
    }
    CHECK(heap.requests < 20); /* it doubles */
    CHECK(psd_grow(alloc, &items, &capacity, 1000000, sizeof(uint64_t)));
    CHECK_UINT(capacity, 1000000);
    CHECK_UINT(heap.live, 8000000);
    alloc.resize(alloc.ctx, items, capacity * sizeof(uint64_t), 0);
    CHECK_UINT(heap.live, 0);
}

static void
test_growing_beyond_all_bounds(void)
{
    check_heap heap = {0};
    psd_alloc alloc = check_alloc(&heap);
    void *items = NULL;
    uint32_t capacity = 0;
    CHECK(!psd_grow(alloc, &items, &capacity, (uint64_t)UINT32_MAX + 1, 1));
    CHECK(!psd_grow(alloc, &items, &capacity, UINT64_MAX, 1));
    CHECK(!psd_grow(alloc, &items, &capacity, 2, SIZE_MAX / 2));
    CHECK(items == NULL);
    CHECK_UINT(capacity, 0);
    CHECK_UINT(heap.requests, 0);
}

/* The array stays as it was. */
static void
test_growing_without_memory(void)
{
    check_heap heap = {.fail_at = 2};
    psd_alloc alloc = check_alloc(&heap);
    void *items = NULL;
    uint32_t capacity = 0;
    CHECK(psd_grow(alloc, &items, &capacity, 1, 4));
    memset(items, 0x5a, 4);
    void *before = items;
    uint32_t held = capacity;
    CHECK(!psd_grow(alloc, &items, &capacity, (uint64_t)held + 1, 4));
    CHECK(items == before);
    CHECK_UINT(capacity, held);
    CHECK(*(uint8_t *)items == 0x5a);
    alloc.resize(alloc.ctx, items, (size_t)capacity * 4, 0);
    CHECK_UINT(heap.live, 0);
}

int
main(void)
{
    RUN(test_taken_memory_is_aligned_and_apart);
    RUN(test_an_unused_arena_costs_nothing);
    RUN(test_pages_double_up_to_a_bound);
    RUN(test_a_large_taking_gets_a_page_of_its_own);
    RUN(test_sizes_that_wrap_are_refused);
    RUN(test_copies);
    RUN(test_every_failing_request);
    RUN(test_copy_without_memory);
    RUN(test_growing);
    RUN(test_growing_beyond_all_bounds);
    RUN(test_growing_without_memory);
    return check_report();
}
