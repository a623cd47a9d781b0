/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized tensors: windows on a storage of integers, and how these become reals.
 * Source: torch/_utils.py, _rebuild_qtensor.
 */
#include "torch_pass.h"

/* By a stride of 0 few bytes can be any number of elements; torch makes quantized
 * tensors anew, so no honest one is larger than memory. */
#define ELEMENTS_MOST ((uint64_t)1 << 36)

static const char no_numbers[] =
    "a quantized tensor's scales or zero points are no numbers";

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

/* Does the list hold numbers, and only whole ones unless `real`?  One list may be the
 * scales of many tensors, so what was found is noted. */
static bool
are_numbers(const psd_torch_pass *p, psd_value *list, bool real)
{
    const uint8_t found = real ? PSD_VALUE_NUMBERS : PSD_VALUE_WHOLE_NUMBERS;
    bool so = (list->flags & found) != 0;
    for (uint32_t i = 0; i < list->count && !so; i++) {
        psd_kind kind = psd_kind_of(p->pool, list->as.items[i]);
        if (kind != PSD_KIND_INT && !(real && kind == PSD_KIND_FLOAT)) {
            return false;
        }
    }
    list->flags |= found;
    return true;
}

static bool
is_float(const psd_tensor *t)
{
    return t->dtype == PSD_DTYPE_FLOAT16 || t->dtype == PSD_DTYPE_FLOAT32 ||
           t->dtype == PSD_DTYPE_FLOAT64;
}

/* Dense, with bytes, and of floats, or of whole numbers unless `real`. */
static bool
has_numbers(const psd_tensor *t, bool real)
{
    char group = psd_dtype_row((psd_dtype)t->dtype)->group;
    bool right = is_float(t) ||
                 (real ? t->dtype == PSD_DTYPE_BFLOAT16 : group == 'i' || group == 'u');
    return right && t->layout == PSD_LAYOUT_STRIDED &&
           (t->flags & PSD_TENSOR_META) == 0;
}

/*
 * Numbers a channel each: a dense tensor, or a list.  PSD_TENSOR when they are none or
 * of another number.
 */
static psd_status
check_channels(psd_torch_pass *p, const psd_call *call, psd_ref ref, bool real,
               int64_t channels)
{
    psd_value *v = psd_value_at(p->pool, ref);
    const psd_tensor *t = psd_torch_tensor_at(p, ref);
    bool list = v->kind == PSD_KIND_LIST;
    if (t == NULL && !list) {
        return psd_torch_bad(p, call, no_numbers);
    }
    if ((list ? (int64_t)v->count : (int64_t)t->numel) != channels) {
        return psd_torch_bad(p, call,
                             "a quantized tensor has not one scale for each channel");
    }
    bool numbers = list ? are_numbers(p, v, real) : has_numbers(t, real);
    return numbers ? PSD_OK : psd_torch_bad(p, call, no_numbers);
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
        psd_status status =
            psd_torch_bad(p, call, "a quantized tensor's axis is none that it has");
        return q.axis < 0 ? status
                          : psd_fail_numbers(p->err, (uint64_t)q.axis, t->rank);
    }
    q.scales = parts[1];
    q.zero_points = parts[2];
    psd_status status = check_channels(p, call, q.scales, true, t->shape[q.axis]);
    if (status == PSD_OK) {
        status = check_channels(p, call, q.zero_points, false, t->shape[q.axis]);
    }
    if (status != PSD_OK) {
        return status;
    }
    /* The writer calls both schemes by one name; their zero points tell them apart. */
    const psd_tensor *zeros = psd_torch_tensor_at(p, q.zero_points);
    if (zeros != NULL && is_float(zeros)) {
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
