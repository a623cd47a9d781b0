/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "input.h"

/* A source that is read by ranges, counts, and can fail at the n-th reading. */
typedef struct {
    const uint8_t *data;
    uint64_t size;
    unsigned reads, fail_at;
    uint64_t offset; /* of the last reading */
    size_t asked;
} remote;

static bool
read_remote(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    remote *r = ctx;
    r->offset = offset;
    r->asked = size;
    if (++r->reads == r->fail_at || !psd_fits(offset, size, r->size)) {
        return false;
    }
    memcpy(into, r->data + offset, size);
    return true;
}

static psd_input
over(remote *r)
{
    return (psd_input){.size = r->size, .read = read_remote, .ctx = r};
}

static const uint8_t bytes[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

/* ---------------------------------------------------------------- at hand */

static void
test_a_view_of_memory_is_borrowed(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    check_guarded g = check_guard(bytes, sizeof bytes);
    psd_input input = {.data = g.data, .size = g.size};
    psd_span span;
    psd_error err;
    for (uint64_t offset = 0; offset <= 10; offset++) {
        for (uint64_t size = 0; size <= 10 - offset; size++) {
            CHECK(psd_input_view(&input, offset, size, &arena, &span, &err) == PSD_OK);
            CHECK(span.data == g.data + offset);
            CHECK_UINT(span.size, size);
        }
    }
    CHECK_UINT(heap.requests, 0);
    check_unguard(&g);
    psd_arena_clear(&arena);
}

static void
test_a_copy_of_memory(void)
{
    check_guarded g = check_guard(bytes, sizeof bytes);
    psd_input input = {.data = g.data, .size = g.size};
    psd_error err;
    for (uint64_t offset = 0; offset <= 10; offset++) {
        for (size_t size = 0; size <= 10 - offset; size++) {
            check_guarded into = check_guard("          ", size);
            CHECK(psd_input_copy(&input, offset, size, into.data, &err) == PSD_OK);
            CHECK(size == 0 || memcmp(into.data, bytes + offset, size) == 0);
            check_unguard(&into);
        }
    }
    check_unguard(&g);
}

/* ---------------------------------------------------------------- by ranges */

static void
test_a_view_of_ranges_is_fetched(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    remote r = {.data = bytes, .size = sizeof bytes};
    psd_input input = over(&r);
    psd_span span;
    psd_error err;
    CHECK(psd_input_view(&input, 3, 4, &arena, &span, &err) == PSD_OK);
    CHECK_UINT(span.size, 4);
    CHECK(memcmp(span.data, bytes + 3, 4) == 0);
    CHECK_UINT(r.reads, 1);
    CHECK_UINT(r.offset, 3);
    CHECK_UINT(r.asked, 4);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

/* Nothing is nothing, wherever; the host is not asked for it. */
static void
test_no_bytes_are_not_fetched(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    remote r = {.data = bytes, .size = sizeof bytes, .fail_at = 1};
    psd_input input = over(&r);
    psd_span span = {NULL, 7};
    psd_error err;
    CHECK(psd_input_view(&input, 10, 0, &arena, &span, &err) == PSD_OK);
    CHECK_UINT(span.size, 0);
    CHECK(psd_input_copy(&input, 0, 0, NULL, &err) == PSD_OK);
    CHECK_UINT(r.reads, 0);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

static void
test_a_failing_fetch(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    remote r = {.data = bytes, .size = sizeof bytes, .fail_at = 1};
    psd_input input = over(&r);
    psd_span span;
    uint8_t into[10];
    psd_error err;
    CHECK(psd_input_view(&input, 2, 5, &arena, &span, &err) == PSD_INPUT);
    CHECK(err.status == PSD_INPUT);
    CHECK_UINT(err.offset, 2);
    r.fail_at = 2;
    CHECK(psd_input_copy(&input, 4, 6, into, &err) == PSD_INPUT);
    CHECK(strcmp(err.sentence, "the source could not be read") == 0);
    CHECK_UINT(err.offset, 4);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

static void
test_a_fetch_without_memory(void)
{
    check_heap heap = {.fail_at = 1};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    remote r = {.data = bytes, .size = sizeof bytes};
    psd_input input = over(&r);
    psd_span span;
    psd_error err;
    CHECK(psd_input_view(&input, 2, 5, &arena, &span, &err) == PSD_NO_MEMORY);
    CHECK_UINT(r.reads, 0);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

/* ---------------------------------------------------------------- ranges that lie */

static void
check_refused(const psd_input *input, uint64_t offset, uint64_t size, uint64_t left)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    psd_span span;
    psd_error err;
    CHECK(psd_input_view(input, offset, size, &arena, &span, &err) == PSD_TRUNCATED);
    CHECK(strcmp(err.sentence, "the file ends before these bytes") == 0);
    CHECK_UINT(err.offset, offset);
    CHECK(err.has_numbers);
    CHECK_UINT(err.found, left);
    CHECK_UINT(err.expected, size);
    uint8_t into[1];
    if (size <= SIZE_MAX) {
        CHECK(psd_input_copy(input, offset, (size_t)size, into, &err) == PSD_TRUNCATED);
    }
    CHECK_UINT(heap.requests, 0);
    psd_arena_clear(&arena);
}

static void
test_ranges_past_the_end(void)
{
    check_guarded g = check_guard(bytes, sizeof bytes);
    remote r = {.data = bytes, .size = sizeof bytes};
    const psd_input inputs[] = {{.data = g.data, .size = g.size}, over(&r)};
    for (size_t i = 0; i < 2; i++) {
        check_refused(&inputs[i], 0, 11, 10);
        check_refused(&inputs[i], 10, 1, 0);
        check_refused(&inputs[i], 11, 0, 0);
        check_refused(&inputs[i], 3, 8, 7);
        check_refused(&inputs[i], UINT64_MAX, 1, 0);
        check_refused(&inputs[i], 1, UINT64_MAX, 9);
        check_refused(&inputs[i], UINT64_MAX, UINT64_MAX, 0);
        check_refused(&inputs[i], UINT64_MAX - 4, 10, 0);
    }
    CHECK_UINT(r.reads, 0);
    check_unguard(&g);
}

/* A file larger than memory can be named; a range of it that is not, cannot. */
static void
test_a_range_beyond_the_address_space(void)
{
    remote r = {.data = bytes, .size = UINT64_MAX};
    psd_input input = over(&r);
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    psd_span span;
    psd_error err;
    psd_status status = psd_input_view(&input, 0, UINT64_MAX, &arena, &span, &err);
    CHECK(status == PSD_LIMIT || status == PSD_NO_MEMORY);
    CHECK_UINT(r.reads, 0);
    psd_arena_clear(&arena);
    CHECK_UINT(heap.live, 0);
}

/* ---------------------------------------------------------------- both */

/* Of a map with its file beside it, views are borrowed and copies are read. */
static void
test_a_map_with_its_file(void)
{
    check_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    remote r = {bytes, sizeof bytes, 0, 0, 0, 0};
    psd_input input = {
        .data = bytes, .size = sizeof bytes, .read = read_remote, .ctx = &r};
    psd_span span;
    psd_error err;
    uint8_t into[4];
    CHECK(psd_input_view(&input, 2, 4, &arena, &span, &err) == PSD_OK);
    CHECK(span.data == bytes + 2);
    CHECK_UINT(r.reads, 0);
    CHECK(psd_input_copy(&input, 3, 4, into, &err) == PSD_OK);
    CHECK_UINT(r.reads, 1);
    CHECK(memcmp(into, bytes + 3, 4) == 0);
    r.fail_at = 2;
    CHECK(psd_input_copy(&input, 3, 4, into, &err) == PSD_INPUT);
    CHECK_UINT(heap.requests, 0);
    psd_arena_clear(&arena);
}

/* Small pieces are read where they stand far apart, as far as there is a choice. */
static void
test_inputs_for_pieces(void)
{
    remote r = {bytes, sizeof bytes, 0, 0, 0, 0};
    psd_input both = {
        .data = bytes, .size = (uint64_t)1 << 20, .read = read_remote, .ctx = &r};
    CHECK(psd_input_for_pieces(&both, 16).read == read_remote);
    CHECK(psd_input_for_pieces(&both, 17).read == NULL);
    CHECK(psd_input_for_pieces(&both, 17).data == bytes);
    psd_input remote_only = over(&r), map_only = {.data = bytes, .size = sizeof bytes};
    CHECK(psd_input_for_pieces(&remote_only, 1000).read == read_remote);
    CHECK(psd_input_for_pieces(&map_only, 1000).data == bytes);
    CHECK(psd_input_for_pieces(&map_only, 0).read == NULL);
}

int
main(void)
{
    RUN(test_a_map_with_its_file);
    RUN(test_inputs_for_pieces);
    RUN(test_a_view_of_memory_is_borrowed);
    RUN(test_a_copy_of_memory);
    RUN(test_a_view_of_ranges_is_fetched);
    RUN(test_no_bytes_are_not_fetched);
    RUN(test_a_failing_fetch);
    RUN(test_a_fetch_without_memory);
    RUN(test_ranges_past_the_end);
    RUN(test_a_range_beyond_the_address_space);
    return check_report();
}
