/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded before the C library's allocator.  Looks only at calls that come from
 * one range of code, the extension's own: counts them, keeps account of what they
 * got and did not give back, and makes the n-th of them fail.  Everybody else's
 * memory is none of its business.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The real ones; calls that come while they are looked up are served from `early`. */
static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void (*real_free)(void *);

static _Alignas(16) char early[16384];
static size_t early_used;

static uintptr_t low, high;
static long fail_at; /* 0: never */
static long count;   /* allocations since the last start */
static long failures;

/* Addresses given to the range and not yet given back: open addressing. */
#define SLOTS ((size_t)1 << 16)
static void *slots[SLOTS];
static long live;
static atomic_flag locked = ATOMIC_FLAG_INIT;

static void
look_up(void)
{
    static bool busy;
    if (real_free != NULL || busy) {
        return;
    }
    busy = true;
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_free = dlsym(RTLD_NEXT, "free");
    busy = false;
}

static void *
early_take(size_t size)
{
    size_t rounded = (size + 15) / 16 * 16;
    if (size > sizeof early || rounded > sizeof early - early_used) {
        return NULL;
    }
    void *memory = early + early_used;
    early_used += rounded;
    return memory;
}

static bool
is_early(const void *memory)
{
    return (uintptr_t)memory - (uintptr_t)early < sizeof early;
}

static void
lock(void)
{
    while (atomic_flag_test_and_set(&locked)) {
    }
}

static void
unlock(void)
{
    atomic_flag_clear(&locked);
}

static size_t
home_of(const void *memory)
{
    return ((uintptr_t)memory >> 4) * 2654435761u % SLOTS;
}

static void
note(void *memory)
{
    if (memory == NULL || live >= (long)(SLOTS / 2)) {
        return;
    }
    lock();
    size_t at = home_of(memory);
    while (slots[at] != NULL) {
        at = (at + 1) % SLOTS;
    }
    slots[at] = memory;
    live++;
    unlock();
}

/* Take an address out, and put those that stood behind it where they can be found. */
static bool
forget(void *memory)
{
    bool found = false;
    if (live == 0 || memory == NULL) {
        return false;
    }
    lock();
    size_t at = home_of(memory);
    while (slots[at] != NULL && slots[at] != memory) {
        at = (at + 1) % SLOTS;
    }
    if (slots[at] == memory) {
        found = true;
        live--;
        slots[at] = NULL;
        for (size_t i = (at + 1) % SLOTS; slots[i] != NULL; i = (i + 1) % SLOTS) {
            void *moved = slots[i];
            slots[i] = NULL;
            size_t to = home_of(moved);
            while (slots[to] != NULL) {
                to = (to + 1) % SLOTS;
            }
            slots[to] = moved;
        }
    }
    unlock();
    return found;
}

static bool
ours(const void *caller)
{
    return (uintptr_t)caller - low < high - low;
}

static bool
fails(void)
{
    lock();
    bool failing = ++count == fail_at;
    failures += failing;
    unlock();
    return failing;
}

#define CALLER __builtin_return_address(0)

void *
malloc(size_t size)
{
    look_up();
    if (real_malloc == NULL) {
        return early_take(size);
    }
    if (!ours(CALLER)) {
        return real_malloc(size);
    }
    void *memory = fails() ? NULL : real_malloc(size);
    note(memory);
    return memory;
}

void *
calloc(size_t number, size_t size)
{
    look_up();
    if (real_calloc == NULL) {
        return early_take(number * size); /* never used before, so zero */
    }
    if (!ours(CALLER)) {
        return real_calloc(number, size);
    }
    void *memory = fails() ? NULL : real_calloc(number, size);
    note(memory);
    return memory;
}

void *
realloc(void *memory, size_t size)
{
    look_up();
    if (real_realloc == NULL || is_early(memory)) {
        void *moved = real_malloc == NULL ? early_take(size) : real_malloc(size);
        if (moved != NULL && memory != NULL) {
            size_t most = sizeof early - (size_t)((char *)memory - early);
            memcpy(moved, memory, size < most ? size : most);
        }
        return moved;
    }
    bool our = ours(CALLER);
    if (our && fails()) {
        return NULL;
    }
    bool known = forget(memory);
    void *moved = real_realloc(memory, size);
    note(our || known ? (moved == NULL ? memory : moved) : NULL);
    return moved;
}

void
free(void *memory)
{
    look_up();
    if (memory == NULL || is_early(memory)) {
        return;
    }
    forget(memory);
    real_free(memory);
}

/* ------------------------------------------------------------------ for the test */

/* Watch [from, to); the n-th allocation from now on fails, none for 0. */
void
probe_start(uintptr_t from, uintptr_t to, long n)
{
    low = from;
    high = to;
    fail_at = n;
    count = 0;
    failures = 0;
}

long
probe_count(void)
{
    return count;
}

long
probe_failures(void)
{
    return failures;
}

long
probe_live(void)
{
    return live;
}
