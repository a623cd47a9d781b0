/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized tensors: windows on a storage of integers, and how these become reals.
 * Source: torch/_utils.py, _rebuild_qtensor.
 */
#include "torch_pass.h"

/* By a stride of 0 few bytes can be any number of elements; torch makes quantized
 * tensors anew, so no honest one is larger than memory. */
#define ELEMENTS_MOST ((uint64_t)1 << 36)

static bool
real_at(const psd_torch_pass *p, psd_ref ref, double *real)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    *real = v->kind == PSD_KIND_FLOAT ? v->as.real
            : v->kind == PSD_KIND_INT ? (double)v->as.integer
                                      : 0;
    return v->kind == PSD_KIND_FLOAT || v->kind == PSD_KIND_INT;
}

static bool
integer_at(const psd_torch_pass *p, psd_ref ref, int64_t *integer)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    *integer = v->kind == PSD_KIND_INT ? v->as.integer : 0;
    return v->kind == PSD_KIND_INT;
}

/* Numbers a channel each: a dense tensor, or in old files a list.  -1: neither. */
static int64_t
count_at(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    const psd_tensor *t = psd_torch_tensor_at(p, ref);
    if (t != NULL) {
        return t->layout == PSD_LAYOUT_STRIDED ? (int64_t)t->numel : -1;
    }
    return v->kind == PSD_KIND_LIST ? (int64_t)v->count : -1;
}

static bool
is_float(const psd_torch_pass *p, psd_ref ref)
{
    const psd_tensor *t = psd_torch_tensor_at(p, ref);
    return t != NULL && psd_dtype_row((psd_dtype)t->dtype)->group == 'f';
}

static psd_status
finish(psd_torch_pass *p, psd_quantizer q, psd_tensor *t)
{
    psd_quantizer *kept = psd_arena_take(p->pool->arena, sizeof *kept);
    if (kept == NULL) {
        return psd_torch_no_memory(p);
    }
    *kept = q;
    t->more.quantizer = kept;
    return PSD_OK;
}

/* (scheme, scale, zero_point) or (scheme, scales, zero_points, axis) */
static psd_status
read_parameters(psd_torch_pass *p, const psd_call *call, psd_ref ref, psd_tensor *t)
{
    const psd_value *tuple = psd_value_at(p->pool, ref);
    psd_quantizer q = {.scheme = PSD_PER_TENSOR};
    uint16_t tag = 0;
    if (tuple->kind == PSD_KIND_TUPLE && tuple->count > 0) {
        tag = psd_torch_tag_at(p, tuple->as.items[0]);
    }
    if (psd_known_of(tag) != PSD_KNOWN_QSCHEME) {
        return psd_torch_bad(p, call, "a quantized tensor of an unknown scheme");
    }
    const psd_ref *parts = tuple->as.items;
    q.scheme = (uint8_t)(tag & 0xFF);
    if (q.scheme == PSD_PER_TENSOR) {
        if (tuple->count != 3 || !real_at(p, parts[1], &q.scale) ||
            !integer_at(p, parts[2], &q.zero_point)) {
            return psd_torch_bad(p, call, "a quantized tensor has wrong parameters");
        }
        return finish(p, q, t);
    }
    if (tuple->count != 4 || !integer_at(p, parts[3], &q.axis)) {
        return psd_torch_bad(p, call, "a quantized tensor has wrong parameters");
    }
    if (q.axis < 0 || q.axis >= t->rank) {
        psd_torch_bad(p, call, "a quantized tensor's axis is none that it has");
        return psd_fail_numbers(p->err, (uint64_t)q.axis, t->rank);
    }
    q.scales = parts[1];
    q.zero_points = parts[2];
    if (count_at(p, q.scales) != t->shape[q.axis] ||
        count_at(p, q.zero_points) != t->shape[q.axis]) {
        return psd_torch_bad(p, call,
                             "a quantized tensor has not one scale for each channel");
    }
    /* The writer calls both schemes by one name; their zero points tell them apart. */
    if (is_float(p, q.zero_points)) {
        q.scheme = PSD_PER_CHANNEL_FLOAT;
    }
    return finish(p, q, t);
}

/*
 * torch 1.4 to today: (storage, offset, size, stride, parameters, requires_grad,
 * hooks).  1.2 and 1.3 had scale and zero point in the place of the parameters.
 */
psd_status
psd_torch_read_quantized(psd_torch_pass *p, const psd_call *call, const psd_ref *args,
                         uint32_t count, psd_tensor *t)
{
    bool requires_grad;
    if (count != 7 && count != 8) {
        psd_torch_bad(p, call, "a rebuild function has a wrong number of arguments");
        return psd_fail_numbers(p->err, count, 7);
    }
    psd_status status = psd_torch_read_window(p, call, args, PSD_DTYPE_NONE, t);
    if (status != PSD_OK) {
        return status;
    }
    if (t->numel > ELEMENTS_MOST && t->numel > p->model->storages[t->storage].size) {
        psd_torch_bad(p, call, "a quantized tensor has more elements than its storage");
        return psd_fail_numbers(p->err, t->numel, p->model->storages[t->storage].size);
    }
    if (psd_dtype_row((psd_dtype)t->dtype)->group != 'q') {
        return psd_torch_bad(p, call, "a quantized tensor on a storage that is not");
    }
    if (!psd_torch_flag_at(p, args[count - 2], &requires_grad)) {
        return psd_torch_bad(p, call, "a tensor's requires_grad is not a bool");
    }
    if (requires_grad) {
        t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    if (count == 7) {
        return read_parameters(p, call, args[4], t);
    }
    psd_quantizer q = {.scheme = PSD_PER_TENSOR};
    return real_at(p, args[4], &q.scale) && integer_at(p, args[5], &q.zero_point)
               ? finish(p, q, t)
               : psd_torch_bad(p, call, "a quantized tensor has wrong parameters");
}
