/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers by name: what was added is found, nothing else is, and a map that could not
 * grow is as it was.
 */
#include "check.h"
#include "names.h"

static const psd_hash_key key = {3, 4};

/* "0", "1", ... in `room`. */
static psd_span
name_of(unsigned number, char *room)
{
    return (psd_span){(const uint8_t *)room, (size_t)sprintf(room, "%u", number)};
}

static void
test_an_empty_map(void)
{
    check_heap heap = {0};
    psd_names names;
    psd_names_init(&names, check_alloc(&heap), key);
    CHECK(psd_names_find(&names, PSD_LITERAL("a")) == NULL);
    CHECK(psd_names_find(&names, PSD_LITERAL("")) == NULL);
    CHECK_UINT(heap.requests, 0);
    psd_names_clear(&names);
    CHECK_UINT(heap.live, 0);
}

static void
test_few_names(void)
{
    check_heap heap = {0};
    psd_names names;
    psd_names_init(&names, check_alloc(&heap), key);
    CHECK(psd_names_add(&names, PSD_LITERAL("a"), 7));
    CHECK(psd_names_add(&names, PSD_LITERAL(""), 8));
    CHECK(psd_names_add(&names, PSD_LITERAL("a\0"), 9));
    CHECK_UINT(*psd_names_find(&names, PSD_LITERAL("a")), 7);
    CHECK_UINT(*psd_names_find(&names, PSD_LITERAL("")), 8);
    CHECK_UINT(*psd_names_find(&names, (psd_span){NULL, 0}), 8);
    CHECK_UINT(*psd_names_find(&names, PSD_LITERAL("a\0")), 9);
    CHECK(psd_names_find(&names, PSD_LITERAL("b")) == NULL);
    /* The number may be changed where it is kept. */
    *psd_names_find(&names, PSD_LITERAL("a")) = 70;
    CHECK_UINT(*psd_names_find(&names, PSD_LITERAL("a")), 70);
    psd_names_clear(&names);
    CHECK_UINT(heap.live, 0);
    /* Cleared, it is ready for others. */
    CHECK(psd_names_find(&names, PSD_LITERAL("a")) == NULL);
    CHECK(psd_names_add(&names, PSD_LITERAL("a"), 1));
    CHECK_UINT(*psd_names_find(&names, PSD_LITERAL("a")), 1);
    psd_names_clear(&names);
    CHECK_UINT(heap.live, 0);
}

static void
test_many_names(void)
{
    enum { MANY = 20000 };
    static char rooms[MANY][8];
    check_heap heap = {0};
    psd_names names;
    char room[8];
    psd_names_init(&names, check_alloc(&heap), key);
    for (unsigned i = 0; i < MANY; i++) {
        CHECK(psd_names_add(&names, name_of(i, rooms[i]), i));
    }
    CHECK_UINT(names.count, MANY);
    CHECK(names.slot_count >= 2 * MANY);
    CHECK((names.slot_count & (names.slot_count - 1)) == 0);
    for (unsigned i = 0; i < MANY; i++) {
        CHECK_UINT(*psd_names_find(&names, name_of(i, room)), i);
        CHECK(psd_span_equal(names.entries[i].text, name_of(i, room)));
    }
    CHECK(psd_names_find(&names, name_of(MANY, room)) == NULL);
    /* Doubling, so few requests. */
    CHECK(heap.requests < 40);
    psd_names_clear(&names);
    CHECK_UINT(heap.live, 0);
}

/* Whichever request fails: the name is not there, the others are, and it can be added
 * later. */
static void
test_every_failing_request(void)
{
    enum { MANY = 200 };
    static char rooms[MANY][8];
    unsigned failures = 0;
    for (unsigned long fail_at = 1; fail_at < 12; fail_at++) {
        check_heap heap = {.fail_at = fail_at};
        psd_names names;
        psd_names_init(&names, check_alloc(&heap), key);
        for (unsigned i = 0; i < MANY; i++) {
            if (!psd_names_add(&names, name_of(i, rooms[i]), i)) {
                failures++;
                CHECK_UINT(names.count, i);
                CHECK(psd_names_find(&names, name_of(i, rooms[i])) == NULL);
                CHECK(psd_names_add(&names, name_of(i, rooms[i]), i));
            }
        }
        for (unsigned i = 0; i < MANY; i++) {
            CHECK_UINT(*psd_names_find(&names, name_of(i, rooms[i])), i);
        }
        psd_names_clear(&names);
        CHECK_UINT(heap.live, 0);
    }
    CHECK(failures >= 5);
}

/* More names than slots can be counted for are refused before any memory is asked. */
static void
test_too_many_names(void)
{
    check_heap heap = {0};
    psd_names names;
    psd_names_init(&names, check_alloc(&heap), key);
    CHECK(!psd_names_reserve(&names, ((uint32_t)1 << 30) + 1));
    CHECK(!psd_names_reserve(&names, UINT32_MAX));
    CHECK_UINT(heap.requests, 0);
    CHECK(psd_names_add(&names, PSD_LITERAL("a"), 1));
    CHECK(!psd_names_reserve(&names, UINT32_MAX));
    CHECK_UINT(*psd_names_find(&names, PSD_LITERAL("a")), 1);
    unsigned long requests = heap.requests;
    names.count = UINT32_MAX;
    CHECK(!psd_names_add(&names, PSD_LITERAL("b"), 2));
    names.count = 1;
    CHECK_UINT(heap.requests, requests);
    psd_names_clear(&names);
    CHECK_UINT(heap.live, 0);
}

int
main(void)
{
    RUN(test_an_empty_map);
    RUN(test_few_names);
    RUN(test_many_names);
    RUN(test_every_failing_request);
    RUN(test_too_many_names);
    return check_report();
}
