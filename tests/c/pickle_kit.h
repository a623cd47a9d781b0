/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the pickle room share: a run of the machine with all that
 * belongs to it.
 */
#ifndef PSD_PICKLE_KIT_H
#define PSD_PICKLE_KIT_H

#include "check.h"
#include "pickle.h"

#define BASE 1000u /* programs lie here in an imagined file */

static const psd_hash_key key = {1, 2};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_pool pool;
    psd_pickle pickle;
    psd_error err;
    psd_status status;
} reading;

static inline void
run_with(reading *r, psd_span program, const psd_limits *limits, unsigned long fail_at)
{
    memset(r, 0, sizeof *r);
    r->heap.fail_at = fail_at;
    psd_arena_init(&r->arena, check_alloc(&r->heap));
    psd_pool_init(&r->pool, &r->arena, limits->values);
    r->status =
        psd_pickle_read(program, BASE, limits, key, &r->pool, &r->pickle, &r->err);
}

static inline void
run(reading *r, psd_span program)
{
    psd_limits limits = psd_default_limits();
    run_with(r, program, &limits, 0);
}

static inline void
finish(reading *r)
{
    psd_pool_clear(&r->pool);
    psd_arena_clear(&r->arena);
    CHECK_UINT(r->heap.live, 0);
}

/* `before`, `count` times `middle`, `after`; to be freed. */
static inline psd_span
repeat(psd_span before, psd_span middle, size_t count, psd_span after)
{
    size_t size = before.size + middle.size * count + after.size;
    uint8_t *bytes = malloc(size);
    uint8_t *to = bytes;
    if (bytes == NULL) {
        exit(2);
    }
    memcpy(to, before.data, before.size);
    to += before.size;
    for (size_t i = 0; i < count; i++, to += middle.size) {
        memcpy(to, middle.data, middle.size);
    }
    memcpy(to, after.data, after.size);
    return (psd_span){bytes, size};
}

#endif
