/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for what the core reads: malloc's, and of large blocks pages of their own, huge
 * ones where the system has them.  A fresh page costs more than what is then written to
 * it; a checkpoint of 20,000 tensors takes thousands of them, or ten huge ones.
 */
#include "py_module.h" /* Python.h asks for all that Linux has, mremap too */

/* Sanitizers and valgrind watch what malloc gives, and the first take its place. */
#if defined __linux__ && !defined __SANITIZE_ADDRESS__
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

static void *
take_pages(size_t size)
{
    if (size > SIZE_MAX - HUGE_PAGE) {
        return NULL;
    }
    void *memory = mmap(NULL, rounded(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    (void)madvise(memory, rounded(size), MADV_HUGEPAGE); /* a wish, no need */
    return memory;
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
    if (size >= LARGE) {
        (void)munmap(memory, rounded(size));
    }
    else {
        free(memory);
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
        moved = new_size >= LARGE ? take_pages(new_size) : malloc(new_size);
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
    return size >= LARGE ? take_pages(size) : calloc(size == 0 ? 1 : size, 1);
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
