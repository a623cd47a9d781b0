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

/* A window lies within its storage, which is none of another's. */
static inline void
fuzz_expect_window(const psd_model *model, const psd_tensor *t)
{
    if (t->storage == PSD_NO_STORAGE) {
        PROMISE((t->flags & PSD_TENSOR_META) != 0 || t->numel == 0);
        return;
    }
    PROMISE(t->storage < model->storage_count);
    PROMISE(model->storages[t->storage].parent == PSD_NO_STORAGE);
    /* In floating point, where nothing wraps: a second opinion. */
    double reach = (double)t->offset, numel = 1;
    for (uint8_t d = 0; d < t->rank; d++) {
        PROMISE(t->shape[d] >= 0);
        numel *= (double)t->shape[d];
        reach +=
            t->shape[d] == 1 ? 0 : (double)(t->shape[d] - 1) * (double)t->strides[d];
    }
    if (numel > 0) {
        double room = (double)model->storages[t->storage].size;
        PROMISE(t->offset >= 0);
        PROMISE((reach + 1) * psd_dtype_row((psd_dtype)t->dtype)->size <=
                room * psd_tensor_per_byte(t));
    }
}

/* What a model promises of its tensors and modules. */
static inline void
fuzz_expect_model(const psd_pool *pool, const psd_model *model)
{
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        const psd_tensor *t = &model->tensors[i];
        if (t->layout == PSD_LAYOUT_STRIDED) {
            fuzz_expect_window(model, t);
            continue;
        }
        for (uint32_t k = 0; k < t->more.composite->count; k++) {
            psd_ref part = t->more.composite->parts[k].tensor;
            PROMISE(psd_kind_of(pool, part) == PSD_KIND_TENSOR);
        }
    }
    for (uint32_t i = 0; i < model->module_count; i++) {
        PROMISE(psd_model_module(model, model->modules[i].at) == &model->modules[i]);
        PROMISE(model->modules[i].state_dict <= pool->count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
