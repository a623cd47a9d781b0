/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs that measure the core give it.
 */
#ifndef PSD_BENCH_HOST_H
#define PSD_BENCH_HOST_H

#include <stdlib.h>

/* A psd_alloc's resize over malloc. */
static inline void *
host_resize(void *ctx, void *memory, size_t old_size, size_t new_size)
{
    (void)ctx;
    (void)old_size;
    if (new_size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, new_size);
}

#endif
