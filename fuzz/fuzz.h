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
    size_t live, peak;
} fuzz_heap;

static inline void *
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
        heap->peak = heap->live > heap->peak ? heap->live : heap->peak;
    }
    return moved;
}

/* Nothing is kept, and no byte of the input has cost more than so many. */
static inline void
fuzz_expect_frugal(const fuzz_heap *heap, size_t size)
{
    PROMISE(heap->live == 0);
    PROMISE(heap->peak <= ((size_t)4 << 20) + size * 2048);
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

/* ------------------------------------------------------------------- files */

/* A file that is read from afar, which must be judged as its map is. */
typedef struct {
    const uint8_t *data;
    size_t size;
} fuzz_file;

static inline bool
fuzz_read_range(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    const fuzz_file *file = ctx;
    PROMISE(psd_fits(offset, size, file->size));
    if (size > 0) {
        memcpy(into, file->data + offset, size);
    }
    return true;
}

/* Stands for an inflater: what matters is where it is let to write. */
static inline psd_status
fuzz_inflate(void *ctx, psd_span deflated, uint8_t *into, size_t size)
{
    (void)ctx;
    volatile uint8_t touched = 0;
    if (deflated.size > 0) {
        touched = (uint8_t)(deflated.data[0] ^ deflated.data[deflated.size - 1]);
    }
    (void)touched;
    if (size > 0) {
        memset(into, 0, size);
    }
    return PSD_OK;
}

static inline bool
fuzz_gather(void *ctx, const uint8_t *data, size_t size)
{
    psd_buffer *buffer = ctx;
    psd_put(buffer, data, size);
    return !buffer->failed;
}

static inline psd_options
fuzz_options(fuzz_heap *heap)
{
    return (psd_options){
        .alloc = fuzz_alloc(heap),
        .limits = fuzz_limits(),
        .key = FUZZ_KEY,
        .inflate = fuzz_inflate,
    };
}

/* `opened` tells whether there is a directory to look into. */
static inline psd_status
fuzz_open(psd_archive *archive, const psd_options *options, const psd_input *input,
          bool *opened, psd_error *err)
{
    psd_archive_init(archive, options);
    psd_status status = psd_archive_open(archive, input, err);
    *opened = status == PSD_OK;
    return *opened ? psd_archive_run(archive, input, err) : status;
}

/* The bytes of a storage, wherever they are; false where there are none. */
static inline bool
fuzz_storage_bytes(const psd_archive *archive, const psd_input *input, uint32_t storage,
                   psd_arena *arena, psd_span *bytes)
{
    const psd_storage *s = &archive->model.storages[storage];
    psd_location where;
    psd_error err = {0};
    uint64_t offset;
    psd_status status = psd_archive_locate(archive, input, storage, &where, &err);
    *bytes = (psd_span){NULL, 0};
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
        return false;
    }
    switch (where.place) {
    case PSD_PLACE_FILE:
        PROMISE(psd_fits(where.offset, s->size, input->size));
        *bytes = (psd_span){input->data + where.offset, (size_t)s->size};
        return true;
    case PSD_PLACE_MEMORY:
        *bytes = (psd_span){where.memory, (size_t)s->size};
        return true;
    case PSD_PLACE_RECORD:
        status =
            psd_archive_fetch(archive, input, where.entry, arena, bytes, &offset, &err);
        if (status != PSD_OK) {
            return false;
        }
        PROMISE(psd_fits(where.skip, s->size, bytes->size));
        *bytes = (psd_span){bytes->data + where.skip, (size_t)s->size};
        return true;
    default: return s->size == 0 || s->parent != PSD_NO_STORAGE; /* a view */
    }
}

/* Persistent ids that nobody turned into anything mean nothing in another container. */
static inline bool
fuzz_has_ids(const psd_pool *pool)
{
    bool found = false;
    for (psd_ref ref = 1; ref <= pool->count && !found; ref++) {
        found = psd_kind_of(pool, ref) == PSD_KIND_PERSID;
    }
    return found;
}

/* What lost its bytes is shown as what it is: a shape without any. */
static inline void
fuzz_expect_lost(const psd_model *model)
{
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        const psd_tensor *t = &model->tensors[i];
        bool lost = t->layout == PSD_LAYOUT_STRIDED && t->numel > 0 &&
                    t->storage != PSD_NO_STORAGE &&
                    model->storages[t->storage].place == PSD_PLACE_LOST;
        PROMISE(!lost || (t->flags & PSD_TENSOR_META) != 0);
        PROMISE((t->flags & PSD_TENSOR_LOST) == 0 || (t->flags & PSD_TENSOR_META) != 0);
    }
}

/* Zeros for a storage that is lost: only tensors without elements look at it. */
static inline bool
fuzz_no_bytes(const psd_storage *s, psd_arena *arena, psd_span *bytes)
{
    bool small = s->place == PSD_PLACE_LOST && s->size <= 1 << 16;
    uint8_t *zeros = small ? psd_arena_take(arena, (size_t)s->size) : NULL;
    if (zeros != NULL) {
        memset(zeros, 0, (size_t)s->size);
        *bytes = (psd_span){zeros, (size_t)s->size};
    }
    return zeros != NULL;
}

/* Write what was opened; false when its bytes are not all there, or it has no form. */
static inline bool
fuzz_write(psd_archive *archive, const psd_input *input, psd_dialect dialect,
           psd_buffer *out)
{
    psd_arena arena;
    psd_error err = {0};
    psd_arena_init(&arena, archive->options.alloc);
    const psd_model *model = &archive->model;
    psd_span *bytes =
        psd_arena_take_array(&arena, model->storage_count, sizeof(psd_span));
    bool whole = bytes != NULL && !fuzz_has_ids(&archive->pool);
    for (uint32_t i = 0; whole && i < model->storage_count; i++) {
        whole = fuzz_storage_bytes(archive, input, i, &arena, &bytes[i]) ||
                fuzz_no_bytes(&model->storages[i], &arena, &bytes[i]);
    }
    if (whole) {
        psd_write_options writing = {.alloc = archive->options.alloc,
                                     .dialect = dialect,
                                     .checksum = true,
                                     .big_endian = archive->big_endian};
        psd_status status =
            psd_archive_write(&archive->pool, archive->pickle.root, model, bytes,
                              &writing, (psd_sink){fuzz_gather, out}, &err);
        whole = status == PSD_OK;
        if (!whole) {
            fuzz_expect_told(status, &err);
            PROMISE(out->size == 0);
        }
    }
    psd_arena_clear(&arena);
    return whole;
}

/* Say "not computed" in every record, so that a changed pickle is run at all. */
static inline void
fuzz_drop_checksums(uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 20 <= size; i++) {
        uint32_t signature = psd_load_le32(data + i);
        if (signature == 0x04034b50u) {
            psd_store_le32(data + i + 14, 0);
        }
        else if (signature == 0x02014b50u) {
            psd_store_le32(data + i + 16, 0);
        }
        else if (signature == 0x08074b50u) {
            psd_store_le32(data + i + 4, 0);
        }
    }
}

/* Let the headers of a tar be what they would have to be. */
static inline void
fuzz_mend_tar(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + PSD_TAR_BLOCK <= size; at += PSD_TAR_BLOCK) {
        if (memcmp(data + at + 257, "ustar", 5) == 0) {
            unsigned sum = 0;
            memset(data + at + 148, ' ', 8);
            for (size_t i = 0; i < PSD_TAR_BLOCK; i++) {
                sum += data[at + i];
            }
            for (unsigned i = 6; i-- > 0; sum >>= 3) {
                data[at + 148 + i] = (uint8_t)('0' + (sum & 7));
            }
            data[at + 154] = 0;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The engine's own mutations, and a target's own if it has any: see opcodes.h. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed);

#endif
