/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for what the core reads: malloc's, and of large blocks pages of their own, huge
 * ones where the system has them.  A fresh page costs more than what is then written to
 * it; a checkpoint of 20,000 tensors takes thousands of them, or ten huge ones.
 *
 * A few blocks that were let go are kept for who opens the next, as malloc keeps its own:
 * to have the system clear them anew takes a third of the time of opening.  They are the
 * system's as soon as it needs them.
 */
#include "py_module.h" /* Python.h asks for all that Linux has, mremap too */

/* Sanitizers and valgrind watch what malloc gives, and the first take its place. */
#if defined __linux__ && !defined __SANITIZE_ADDRESS__
#include <stdatomic.h>
#include <sys/mman.h>
#ifdef MADV_HUGEPAGE
#define HAS_HUGE_PAGES
#endif
#endif

#ifdef HAS_HUGE_PAGES

/* What a huge page is on the machines that have them; elsewhere merely a round number. */
#define HUGE_PAGE ((size_t)2 << 20)
#define LARGE (HUGE_PAGE / 2)

/* A large block's own size: half of a huge page is little to lose. */
static size_t
rounded(size_t size)
{
    return (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/* How many blocks of one, two, ... huge pages are kept: as many as two times 20,000 tensors
 * need, 36 MiB at the most. */
static const unsigned char kept_most[] = {5, 3, 1, 1};

#define KEPT_SIZES (sizeof kept_most)
#define KEPT_MOST 5

/* One process, one memory: no module's state.  NULL: nothing is kept there. */
static _Atomic(void *) kept[KEPT_SIZES][KEPT_MOST];

/* A block of so many huge pages that was kept, or NULL.  It holds anything. */
static void *
take_kept(size_t pages)
{
    void *memory = NULL;
    for (unsigned i = 0;
         pages <= KEPT_SIZES && i < kept_most[pages - 1] && memory == NULL; i++) {
        memory = atomic_exchange(&kept[pages - 1][i], NULL);
    }
    return memory;
}

/* False where there is no place for it. */
static bool
keep(void *memory, size_t pages)
{
    if (pages > KEPT_SIZES) {
        return false;
    }
#ifdef MADV_FREE
    /* From now on the system may take the pages, which then read as zeros. */
    (void)madvise(memory, pages * HUGE_PAGE, MADV_FREE);
#endif
    for (unsigned i = 0; i < kept_most[pages - 1]; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&kept[pages - 1][i], &none, memory)) {
            return true;
        }
    }
    return false;
}

static void *
take_fresh(size_t size)
{
    void *memory = mmap(NULL, rounded(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    (void)madvise(memory, rounded(size), MADV_HUGEPAGE); /* a wish, no need */
    return memory;
}

static void *
take_pages(size_t size, bool zeros)
{
    if (size > SIZE_MAX - HUGE_PAGE) {
        return NULL;
    }
    void *memory = take_kept(rounded(size) / HUGE_PAGE);
    if (memory == NULL) {
        return take_fresh(size); /* the system's pages are zeros */
    }
    return zeros ? memset(memory, 0, size) : memory;
}

static void *
resize_pages(void *memory, size_t old_size, size_t new_size)
{
    if (new_size > SIZE_MAX - HUGE_PAGE) {
        return NULL;
    }
    if (rounded(old_size) == rounded(new_size)) {
        return memory;
    }
    void *moved = mremap(memory, rounded(old_size), rounded(new_size), MREMAP_MAYMOVE);
    return moved == MAP_FAILED ? NULL : moved;
}

static void
let_go(void *memory, size_t size)
{
    if (size < LARGE) {
        free(memory);
    }
    else if (!keep(memory, rounded(size) / HUGE_PAGE)) {
        (void)munmap(memory, rounded(size));
    }
}

static void *
resize(void *Py_UNUSED(ctx), void *memory, size_t old_size, size_t new_size)
{
    if (memory != NULL && old_size >= LARGE && new_size >= LARGE) {
        return resize_pages(memory, old_size, new_size);
    }
    if (old_size < LARGE && new_size < LARGE && new_size > 0) {
        return realloc(memory, new_size);
    }
    void *moved = NULL;
    if (new_size > 0) {
        moved = new_size >= LARGE ? take_pages(new_size, false) : malloc(new_size);
        if (moved == NULL) {
            return NULL; /* the old block stays */
        }
    }
    if (memory != NULL) {
        if (new_size > 0) {
            memcpy(moved, memory, old_size < new_size ? old_size : new_size);
        }
        let_go(memory, old_size);
    }
    return moved;
}

psd_alloc
py_page_alloc(void)
{
    return (psd_alloc){resize, NULL};
}

void *
py_take_zeros(size_t size)
{
    return size >= LARGE ? take_pages(size, true) : calloc(size == 0 ? 1 : size, 1);
}

void
py_free_zeros(void *memory, size_t size)
{
    if (memory != NULL) {
        let_go(memory, size);
    }
}

#else

psd_alloc
py_page_alloc(void)
{
    return py_alloc();
}

void *
py_take_zeros(size_t size)
{
    return calloc(size == 0 ? 1 : size, 1);
}

void
py_free_zeros(void *memory, size_t Py_UNUSED(size))
{
    free(memory);
}

#endif
