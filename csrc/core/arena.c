/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

/* Tests make pages of nothing, so that every taking asks the host for memory. */
#ifndef PSD_ARENA_PAGE
#define PSD_ARENA_PAGE 4096
#endif

#define PAGE_MIN ((size_t)PSD_ARENA_PAGE)
#define PAGE_MAX (PAGE_MIN * 1024)
#define ALIGN ((size_t)8)

struct psd_page {
    psd_page *previous;
    size_t size; /* of the whole allocation, this header included */
};

/* The header, rounded so that what follows it is aligned. */
#define PAGE_HEADER ((sizeof(psd_page) + ALIGN - 1) / ALIGN * ALIGN)

void
psd_arena_init(psd_arena *arena, psd_alloc alloc)
{
    *arena = (psd_arena){.alloc = alloc};
}

static bool
add_page(psd_arena *arena, size_t room)
{
    /* Pages double, so a big pickle needs few of them and a small one little. */
    size_t size = PAGE_MIN;
    if (arena->page != NULL) {
        size = arena->page->size < PAGE_MAX / 2 ? arena->page->size * 2 : PAGE_MAX;
    }
    if (room > SIZE_MAX - PAGE_HEADER) {
        return false;
    }
    if (size < room + PAGE_HEADER) {
        size = room + PAGE_HEADER;
    }
    psd_page *page = arena->alloc.resize(arena->alloc.ctx, NULL, 0, size);
    if (page == NULL) {
        return false;
    }
    page->previous = arena->page;
    page->size = size;
    arena->page = page;
    arena->next = (uint8_t *)page + PAGE_HEADER;
    arena->end = (uint8_t *)page + size;
    return true;
}

void *
psd_arena_take(psd_arena *arena, size_t size)
{
    if (size > SIZE_MAX - ALIGN) {
        return NULL;
    }
    /* At least one unit, so that two takings never give the same address. */
    size_t rounded = size == 0 ? ALIGN : (size + ALIGN - 1) / ALIGN * ALIGN;
    if ((size_t)(arena->end - arena->next) < rounded && !add_page(arena, rounded)) {
        return NULL;
    }
    uint8_t *memory = arena->next;
    arena->next += rounded;
    return memory;
}

void *
psd_arena_take_array(psd_arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    return psd_arena_take(arena, count * size);
}

psd_span
psd_arena_copy(psd_arena *arena, psd_span text)
{
    uint8_t *copy = psd_arena_take(arena, text.size);
    if (copy == NULL) {
        return (psd_span){NULL, 0};
    }
    if (text.size > 0) {
        memcpy(copy, text.data, text.size);
    }
    return (psd_span){copy, text.size};
}

void
psd_arena_clear(psd_arena *arena)
{
    psd_page *page = arena->page;
    while (page != NULL) {
        psd_page *previous = page->previous;
        arena->alloc.resize(arena->alloc.ctx, page, page->size, 0);
        page = previous;
    }
    psd_arena_init(arena, arena->alloc);
}

bool
psd_grow(psd_alloc alloc, void **items, uint32_t *capacity, uint64_t needed,
         size_t item_size)
{
    if (needed <= *capacity) {
        return true;
    }
    uint64_t wanted = (uint64_t)*capacity * 2;
    if (wanted < 64) {
        wanted = 64;
    }
    if (wanted < needed) {
        wanted = needed;
    }
    if (wanted > UINT32_MAX) {
        wanted = UINT32_MAX;
    }
    if (wanted < needed || wanted > SIZE_MAX / item_size) {
        return false;
    }
    void *grown = alloc.resize(alloc.ctx, *items, *capacity * item_size,
                               (size_t)wanted * item_size);
    if (grown == NULL) {
        return false;
    }
    *items = grown;
    *capacity = (uint32_t)wanted;
    return true;
}
