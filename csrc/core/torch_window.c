/* SPDX-License-Identifier: Apache-2.0
 *
 * A tensor's geometry: shape, strides and offset, held against the storage that
 * it looks at.  Nothing is multiplied or added before it is known to fit.
 */
#include "torch_pass.h"

/* The refs of a tuple or list, or of torch.Size((...),). */
bool
psd_torch_sequence(const psd_pool *pool, psd_ref ref, const psd_ref **items,
                   uint32_t *count)
{
    const psd_value *value = psd_value_at(pool, ref);
    if (value->kind == PSD_KIND_CALL) {
        const psd_value *callable = psd_value_at(pool, value->as.call->callable);
        const psd_value *args = psd_value_at(pool, value->as.call->args);
        if (callable->kind != PSD_KIND_GLOBAL ||
            psd_known_of(callable->as.global->tag) != PSD_KNOWN_SIZE ||
            args->kind != PSD_KIND_TUPLE || args->count != 1) {
            return false;
        }
        value = psd_value_at(pool, args->as.items[0]);
    }
    if (value->kind != PSD_KIND_TUPLE && value->kind != PSD_KIND_LIST) {
        return false;
    }
    *items = value->as.items;
    *count = value->count;
    return true;
}

/* Shape and strides into the tensor; their lengths and signs are checked here. */
psd_status
psd_torch_read_shape(psd_torch_pass *p, const psd_call *call, psd_ref size_ref,
                     psd_ref stride_ref, psd_tensor *t)
{
    const psd_ref *sizes, *strides;
    uint32_t rank, stride_count;
    if (!psd_torch_sequence(p->pool, size_ref, &sizes, &rank) ||
        !psd_torch_sequence(p->pool, stride_ref, &strides, &stride_count)) {
        return psd_torch_bad(p, call, "a tensor's size or stride is not a tuple");
    }
    if (rank != stride_count) {
        return psd_torch_bad(p, call, "a tensor has not as many strides as sizes");
    }
    if (rank > p->limits->rank || rank > 64) {
        psd_fail(p->err, PSD_LIMIT, p->source->base + call->position,
                 "a tensor has more dimensions than NumPy can hold");
        return psd_fail_numbers(p->err, rank,
                                p->limits->rank < 64 ? p->limits->rank : 64);
    }
    int64_t *numbers =
        psd_arena_take_array(p->pool->arena, 2 * (size_t)rank, sizeof *numbers);
    if (numbers == NULL) {
        return psd_torch_no_memory(p);
    }
    for (uint32_t i = 0; i < rank; i++) {
        const psd_value *size = psd_value_at(p->pool, sizes[i]);
        const psd_value *stride = psd_value_at(p->pool, strides[i]);
        if (size->kind != PSD_KIND_INT || stride->kind != PSD_KIND_INT) {
            return psd_torch_bad(p, call,
                                 "a tensor's size or stride is not a whole number");
        }
        if (size->as.integer < 0) {
            return psd_torch_bad(p, call, "a tensor's size is negative");
        }
        numbers[i] = size->as.integer;
        numbers[rank + i] = stride->as.integer;
    }
    t->rank = (uint8_t)rank;
    t->shape = numbers;
    t->strides = numbers + rank;
    return PSD_OK;
}

/*
 * The product of the sizes; 0 when any is 0, whatever the others.  In bytes it
 * must fit in 63 bits, as NumPy's own sizes do.
 */
const char *
psd_window_count(psd_tensor *t, size_t itemsize)
{
    uint64_t numel = 1, bytes;
    bool empty = false;
    t->numel = 0;
    for (unsigned i = 0; i < t->rank; i++) {
        if (t->shape[i] < 0) {
            return "a tensor's size is negative";
        }
        empty = empty || t->shape[i] == 0;
    }
    if (empty) {
        return NULL;
    }
    for (unsigned i = 0; i < t->rank; i++) {
        if (!psd_multiply(numel, (uint64_t)t->shape[i], &numel)) {
            return "a tensor's number of elements overflows";
        }
    }
    if (!psd_multiply(numel, itemsize, &bytes) || bytes > INT64_MAX) {
        return "a tensor's size in bytes overflows";
    }
    t->numel = numel;
    return NULL;
}

static const char beyond[] = "a tensor reaches beyond its storage";

/* The highest element, offset + sum of (size - 1) * stride, lies in the storage. */
const char *
psd_window_reach(const psd_tensor *t, uint64_t room, uint64_t *reach)
{
    *reach = 0;
    if (t->numel == 0) {
        return NULL; /* no element, so neither offset nor strides matter */
    }
    if (t->offset < 0) {
        return "a tensor's storage offset is negative";
    }
    *reach = (uint64_t)t->offset;
    bool fits = true;
    for (unsigned i = 0; i < t->rank; i++) {
        uint64_t step;
        if (t->shape[i] == 1) {
            continue; /* one index only, so the stride is never used */
        }
        if (t->strides[i] < 0) {
            return "a tensor's stride is negative";
        }
        fits =
            fits &&
            psd_multiply((uint64_t)t->shape[i] - 1, (uint64_t)t->strides[i], &step) &&
            psd_add(*reach, step, reach);
    }
    return fits && *reach < room ? NULL : beyond;
}

psd_status
psd_torch_count(psd_torch_pass *p, const psd_call *call, psd_tensor *t)
{
    const char *fault = psd_window_count(t, psd_dtype_row((psd_dtype)t->dtype)->size);
    return fault == NULL ? PSD_OK : psd_torch_bad(p, call, fault);
}

static psd_status
check_reach(psd_torch_pass *p, const psd_call *call, const psd_tensor *t)
{
    uint64_t reach;
    uint64_t room = p->model->storages[t->storage].size /
                    psd_dtype_row((psd_dtype)t->dtype)->size *
                    psd_dtype_per_byte((psd_dtype)t->dtype);
    const char *fault = psd_window_reach(t, room, &reach);
    if (fault == NULL) {
        return PSD_OK;
    }
    psd_torch_bad(p, call, fault);
    return fault == beyond ? psd_fail_numbers(p->err, reach, room) : PSD_TENSOR;
}

/* A window on a part of a storage is a window on the storage. */
static psd_status
look_at_parent(psd_torch_pass *p, const psd_call *call, psd_tensor *t)
{
    const psd_storage *s = &p->model->storages[t->storage];
    uint64_t item = psd_dtype_row((psd_dtype)t->dtype)->size;
    uint64_t before = s->parent_offset / item;
    t->storage = s->parent;
    if (t->numel == 0) {
        return PSD_OK; /* its offset means nothing */
    }
    if (s->parent_offset % item != 0) {
        return psd_torch_bad(p, call, "a tensor begins within an element");
    }
    if (!psd_multiply(before, psd_dtype_per_byte((psd_dtype)t->dtype), &before) ||
        before > (uint64_t)INT64_MAX - (uint64_t)t->offset) {
        return psd_torch_bad(p, call, "a tensor begins beyond all files");
    }
    t->offset += (int64_t)before;
    return PSD_OK;
}

/* Storage, offset, size and stride, which all dense forms begin with. */
psd_status
psd_torch_read_window(psd_torch_pass *p, const psd_call *call, const psd_ref *args,
                      psd_dtype dtype, psd_tensor *t)
{
    const psd_value *storage = psd_value_at(p->pool, args[0]);
    const psd_value *offset = psd_value_at(p->pool, args[1]);
    if (storage->kind != PSD_KIND_STORAGE) {
        return psd_torch_bad(p, call,
                             "a tensor is rebuilt from something that is no storage");
    }
    if (offset->kind != PSD_KIND_INT) {
        return psd_torch_bad(p, call,
                             "a tensor's storage offset is not a whole number");
    }
    if ((storage->flags & PSD_VALUE_SEEN) == 0) {
        psd_value_at(p->pool, args[0])->flags |= PSD_VALUE_SEEN;
        p->unseen--;
    }
    const psd_storage *s = &p->model->storages[storage->as.index];
    *t = (psd_tensor){
        .storage = storage->as.index,
        .offset = offset->as.integer,
        .dtype = dtype == PSD_DTYPE_NONE ? s->dtype : (uint8_t)dtype,
    };
    if (psd_span_equal(s->location, PSD_LITERAL("meta"))) {
        t->flags |= PSD_TENSOR_META;
    }
    psd_status status = psd_torch_read_shape(p, call, args[2], args[3], t);
    if (status == PSD_OK) {
        status = psd_torch_count(p, call, t);
    }
    if (status == PSD_OK) {
        status = check_reach(p, call, t);
    }
    return status == PSD_OK && s->parent != PSD_NO_STORAGE ? look_at_parent(p, call, t)
                                                           : status;
}
