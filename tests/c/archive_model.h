/* SPDX-License-Identifier: Apache-2.0
 *
 * A small model to be written, a sink that remembers and can fail, and a source
 * that is read by ranges and can fail.
 */
#ifndef PSD_ARCHIVE_MODEL_H
#define PSD_ARCHIVE_MODEL_H

#include "archive_kit.h"

/* ---------------------------------------------------------------- sink and source */

typedef struct {
    psd_buffer bytes;
    unsigned writes, fail_at;
} collector;

static inline bool
collect(void *ctx, const uint8_t *data, size_t size)
{
    collector *c = ctx;
    if (++c->writes == c->fail_at) {
        return false;
    }
    psd_put(&c->bytes, data, size);
    return true;
}

typedef struct {
    psd_span file;
    unsigned reads, fail_at;
    uint64_t bytes; /* that were asked for */
} remote;

static inline bool
read_remote(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    remote *r = ctx;
    if (++r->reads == r->fail_at || !psd_fits(offset, size, r->file.size)) {
        return false;
    }
    memcpy(into, r->file.data + offset, size);
    r->bytes += size;
    return true;
}

static inline psd_input
over_remote(remote *r)
{
    return (psd_input){.size = r->file.size, .read = read_remote, .ctx = r};
}

/* ---------------------------------------------------------------- the model */

enum { STORAGES = 4, TENSORS = 5 };

/* {'a': 2 by 3 floats, 'b': a window on them, 'c': a Parameter of bfloat16,
 *  'd': uint16, 'e': empty, 'n': [7, None]} */
typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_pool pool;
    psd_storage storages[STORAGES];
    psd_tensor tensors[TENSORS];
    psd_span bytes[STORAGES];
    psd_model model;
    psd_ref root;
    psd_error err;
    psd_status status;
} document;

static const int64_t numbers_a[] = {2, 3, 3, 1};
static const int64_t numbers_b[] = {2, 3};
static const int64_t numbers_c[] = {5, 1};
static const int64_t numbers_e[] = {0, 4, 4, 1};

static inline psd_tensor
document_tensor(psd_dtype dtype, uint32_t storage, const int64_t *numbers,
                unsigned rank)
{
    return (psd_tensor){.shape = numbers,
                        .strides = numbers + rank,
                        .storage = storage,
                        .dtype = (uint8_t)dtype,
                        .rank = (uint8_t)rank};
}

static inline psd_ref
document_text(document *d, const char *text)
{
    return psd_new_text(&d->pool, PSD_KIND_TEXT, kit_text(text));
}

static inline void
document_begin(document *d, unsigned long fail_at)
{
    static const struct {
        psd_dtype dtype;
        psd_span bytes;
    } rows[STORAGES] = {
        {PSD_DTYPE_FLOAT32, {(const uint8_t *)"abcdefghijklmnopqrstuvwx", 24}},
        {PSD_DTYPE_BFLOAT16, {(const uint8_t *)"ten bytes.", 10}},
        {PSD_DTYPE_UINT16, {(const uint8_t *)"1234567890", 10}},
        {PSD_DTYPE_INT64, {NULL, 0}},
    };
    memset(d, 0, sizeof *d);
    d->heap.fail_at = fail_at;
    psd_arena_init(&d->arena, check_alloc(&d->heap));
    psd_pool_init(&d->pool, &d->arena, 10000);
    for (unsigned i = 0; i < STORAGES; i++) {
        d->storages[i].dtype = (uint8_t)rows[i].dtype;
        d->storages[i].size = rows[i].bytes.size;
        d->bytes[i] = rows[i].bytes;
    }
    d->tensors[0] = document_tensor(PSD_DTYPE_FLOAT32, 0, numbers_a, 2);
    d->tensors[1] = document_tensor(PSD_DTYPE_FLOAT32, 0, numbers_b, 1);
    d->tensors[1].offset = 1;
    d->tensors[2] = document_tensor(PSD_DTYPE_BFLOAT16, 1, numbers_c, 1);
    d->tensors[2].flags = PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD;
    d->tensors[3] = document_tensor(PSD_DTYPE_UINT16, 2, numbers_c, 1);
    d->tensors[4] = document_tensor(PSD_DTYPE_INT64, 3, numbers_e, 2);
    d->model = (psd_model){.storages = d->storages,
                           .tensors = d->tensors,
                           .storage_count = STORAGES,
                           .tensor_count = TENSORS};
}

/* False when there is no memory. */
static inline bool
document_fill(document *d)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    psd_ref items[2 * TENSORS + 2], parts[2];
    bool done = true;
    for (unsigned i = 0; i < TENSORS && done; i++) {
        items[2 * i] = document_text(d, names[i]);
        items[2 * i + 1] = psd_new_int(&d->pool, 0);
        done = items[2 * i] != 0 && items[2 * i + 1] != 0;
        if (done) {
            psd_value *value = psd_value_at(&d->pool, items[2 * i + 1]);
            value->kind = PSD_KIND_TENSOR;
            value->as.index = i;
        }
    }
    if (done) {
        parts[0] = psd_new_int(&d->pool, 7);
        parts[1] = psd_new_none(&d->pool);
        items[2 * TENSORS] = document_text(d, "n");
        done = parts[0] != 0 && parts[1] != 0 && items[2 * TENSORS] != 0;
    }
    if (done) {
        items[2 * TENSORS + 1] = psd_new_items(&d->pool, PSD_KIND_LIST, parts, 2);
        done = items[2 * TENSORS + 1] != 0;
    }
    d->root = done ? psd_new_items(&d->pool, PSD_KIND_DICT, items, 2 * TENSORS + 2) : 0;
    return d->root != 0;
}

static inline void
document_write(document *d, psd_write_options options, collector *c)
{
    options.alloc = check_alloc(&d->heap);
    psd_sink sink = {collect, c};
    d->status = document_fill(d) ? psd_archive_write(&d->pool, d->root, &d->model,
                                                     d->bytes, &options, sink, &d->err)
                                 : PSD_NO_MEMORY;
}

static inline void
document_end(document *d)
{
    psd_pool_clear(&d->pool);
    psd_arena_clear(&d->arena);
    CHECK_UINT(d->heap.live, 0);
}

/* The whole of it as a file, to be freed with psd_buffer_clear(). */
static inline psd_buffer
document_file(check_heap *heap)
{
    document d;
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(heap));
    document_begin(&d, 0);
    document_write(&d, (psd_write_options){.checksum = true}, &c);
    CHECK(d.status == PSD_OK);
    document_end(&d);
    return c.bytes;
}

/* A source that gives other bytes each time: it may fail, and must not crash. */
typedef struct {
    psd_span file;
    uint32_t state;
    unsigned spared; /* readings that are still honest */
} liar;

static inline bool
read_lies(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    liar *l = ctx;
    memcpy(into, l->file.data + offset, size);
    if (l->spared > 0) {
        l->spared--;
        return true;
    }
    for (size_t i = 0; i < size; i++) {
        l->state = l->state * 1664525u + 1013904223u;
        if (l->state >> 28 == 0) {
            into[i] ^= (uint8_t)(l->state >> 16);
        }
    }
    return true;
}

#endif
