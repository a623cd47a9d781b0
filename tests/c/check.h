/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest test harness that tells where a check failed, an allocator that
 * counts and can fail at the n-th request, and inputs that end at a guard page.
 *
 * A test program includes this file once, names its tests in main() by RUN(),
 * and ends with `return check_report();`.
 */
#ifndef PSD_CHECK_H
#define PSD_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena.h"
#include "error.h"

static unsigned check_passed, check_failed;
static const char *check_name = "";

#define CHECK(condition)                                                               \
    ((condition)                                                                       \
         ? (void)check_passed++                                                        \
         : (check_failed++, (void)fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, \
                                          __LINE__, check_name, #condition)))

#define CHECK_UINT(found, expected)                                              \
    do {                                                                         \
        unsigned long long f_ = (unsigned long long)(found);                     \
        unsigned long long e_ = (unsigned long long)(expected);                  \
        if (f_ != e_) {                                                          \
            (void)fprintf(stderr, "%s:%d: %s: %s is %llu, not %llu\n", __FILE__, \
                          __LINE__, check_name, #found, f_, e_);                 \
            check_failed++;                                                      \
        }                                                                        \
        else {                                                                   \
            check_passed++;                                                      \
        }                                                                        \
    } while (0)

#define RUN(test) (check_name = #test, test())

static inline int
check_report(void)
{
    printf("%u passed, %u failed\n", check_passed, check_failed);
    return check_failed != 0;
}

/* ---------------------------------------------------------------- allocation */

typedef struct {
    size_t live; /* bytes not yet given back */
    unsigned long requests;
    unsigned long fail_at; /* the request that fails, 0: none; all later ones succeed */
} check_heap;

static void *
check_resize(void *ctx, void *memory, size_t old_size, size_t new_size)
{
    check_heap *heap = ctx;
    if (new_size == 0) {
        heap->live -= old_size;
        free(memory);
        return NULL;
    }
    if (++heap->requests == heap->fail_at) {
        return NULL;
    }
    void *moved = realloc(memory, new_size);
    if (moved != NULL) {
        heap->live += new_size - old_size;
    }
    return moved;
}

static inline psd_alloc
check_alloc(check_heap *heap)
{
    return (psd_alloc){check_resize, heap};
}

/* ---------------------------------------------------------------- guard pages */

/*
 * A copy of `size` bytes whose last byte is the last one before an inaccessible
 * page: reading one too many is a fault, in any build.
 */
typedef struct {
    uint8_t *data;
    size_t size;
    void *map;
    size_t map_size;
} check_guarded;

static inline check_guarded
check_guard(const void *bytes, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (size + page - 1) / page * page;
    check_guarded g = {NULL, size, NULL, room + page};
    g.map = mmap(NULL, g.map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
    if (g.map == MAP_FAILED ||
        mprotect((uint8_t *)g.map + room, page, PROT_NONE) != 0) {
        perror("guard page");
        exit(2);
    }
    g.data = (uint8_t *)g.map + (room - size);
    if (size > 0) {
        memcpy(g.data, bytes, size);
    }
    return g;
}

static inline void
check_unguard(check_guarded *g)
{
    munmap(g->map, g->map_size);
}

#endif
