/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory: one function given by the host, and on top of it pages that are
 * freed together.
 */
#ifndef PSD_ARENA_H
#define PSD_ARENA_H

#include "base.h"

/*
 * resize(ctx, NULL, 0, n) allocates, resize(ctx, p, old, n) moves, and
 * resize(ctx, p, old, 0) frees and returns NULL.  NULL for n > 0 means that
 * there is no memory; p then stays valid.  Memory is aligned for any type.
 */
typedef struct {
    void *(*resize)(void *ctx, void *memory, size_t old_size, size_t new_size);
    void *ctx;
} psd_alloc;

typedef struct psd_page psd_page;

typedef struct {
    psd_alloc alloc;
    psd_page *page; /* the newest; pages are chained */
    uint8_t *next;  /* free bytes of the newest page */
    uint8_t *end;
} psd_arena;

void psd_arena_init(psd_arena *arena, psd_alloc alloc);

/* `size` bytes, aligned to 8, never moved; NULL when there is no memory. */
void *psd_arena_take(psd_arena *arena, size_t size);

/* `count` items of `size` bytes each; NULL also when the product wraps. */
void *psd_arena_take_array(psd_arena *arena, size_t count, size_t size);

/* A copy of `text`; .data is NULL when there is no memory, never for an empty text. */
psd_span psd_arena_copy(psd_arena *arena, psd_span text);

void psd_arena_clear(psd_arena *arena);

/*
 * Make room in a growing array that lives outside the arena: at least
 * `needed` items of `item_size` bytes, doubling.  False when there is no
 * memory; the array then stays as it was.  Free with
 * alloc.resize(ctx, items, capacity * item_size, 0).
 */
bool psd_grow(psd_alloc alloc, void **items, uint32_t *capacity, uint64_t needed,
              size_t item_size);

#endif
