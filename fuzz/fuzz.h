/* SPDX-License-Identifier: Apache-2.0
 *
 * What the targets share: memory that is counted and bounded, tight limits, and
 * a promise that stops the program when it is broken.
 */
#ifndef PSD_FUZZ_H
#define PSD_FUZZ_H

#include <stdio.h>
#include <stdlib.h>

#include "archive.h"

#define PROMISE(condition)                                                         \
    ((condition) ? (void)0                                                         \
                 : ((void)fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, \
                                  __LINE__, #condition),                           \
                    abort()))

/* More than any honest treatment of an input of this size can want. */
#define FUZZ_MEMORY ((size_t)256 << 20)

typedef struct {
    size_t live;
} fuzz_heap;

static void *
fuzz_resize(void *ctx, void *memory, size_t old_size, size_t new_size)
{
    fuzz_heap *heap = ctx;
    if (new_size == 0) {
        heap->live -= old_size;
        free(memory);
        return NULL;
    }
    if (new_size > FUZZ_MEMORY - (heap->live - old_size)) {
        return NULL;
    }
    void *moved = realloc(memory, new_size);
    if (moved != NULL) {
        heap->live += new_size - old_size;
    }
    return moved;
}

static inline psd_alloc
fuzz_alloc(fuzz_heap *heap)
{
    return (psd_alloc){fuzz_resize, heap};
}

static inline psd_limits
fuzz_limits(void)
{
    psd_limits limits = psd_default_limits();
    limits.entries = 10000;
    limits.pickle_size = 1 << 20;
    limits.values = 1 << 20;
    limits.inflated_size = 1 << 20;
    return limits;
}

#define FUZZ_KEY ((psd_hash_key){0x0706050403020100u, 0x0f0e0d0c0b0a0908u})

/* A failure must say which one it is, and in words. */
static inline void
fuzz_expect_told(psd_status status, const psd_error *err)
{
    PROMISE(err->status == status && status != PSD_OK && status < PSD_STATUS_COUNT);
    PROMISE(err->sentence != NULL && err->sentence[0] != '\0');
    PROMISE(psd_status_code(status) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
