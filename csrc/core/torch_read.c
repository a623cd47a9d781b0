/* SPDX-License-Identifier: Apache-2.0
 *
 * One pass over the pool: persistent ids become storages, calls of the rebuild
 * functions become tensors.  Both change in place; it is the only change of
 * kind that the pool sees, and it keeps every reference valid.
 *
 * A call's arguments have smaller numbers than the call, so going upwards they
 * are final when the call is met.  The exception are the earliest files, where
 * an empty tensor or Parameter is filled by BUILD: such tensors come first, for
 * others may be made of them, and such Parameters last.
 */
#include "torch_pass.h"

/* ---------------------------------------------------------------- arguments */

static bool
flag(const psd_pool *pool, psd_ref ref, bool *value)
{
    const psd_value *v = psd_value_at(pool, ref);
    *value = v->kind == PSD_KIND_BOOL && v->as.boolean;
    return v->kind == PSD_KIND_BOOL;
}

/* No honest dict of flags is longer, and a shared huge one must not be walked
 * once a tensor. */
#define FLAG_DICT_MOST 64u

/* Does the dict at `ref` say `name: True`? */
static bool
dict_says(const psd_pool *pool, psd_ref ref, psd_span name)
{
    const psd_value *dict = psd_value_at(pool, ref);
    if (dict->kind != PSD_KIND_DICT || dict->count > FLAG_DICT_MOST) {
        return false;
    }
    bool says = false;
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        const psd_value *value = psd_value_at(pool, dict->as.items[i + 1]);
        if (psd_text_is(psd_value_at(pool, dict->as.items[i]), name)) {
            says = value->kind == PSD_KIND_BOOL && value->as.boolean;
        }
    }
    return says;
}

static psd_dtype
dtype_of(const psd_pool *pool, psd_ref ref)
{
    const psd_value *value = psd_value_at(pool, ref);
    if (value->kind != PSD_KIND_GLOBAL ||
        psd_known_of(value->as.global->tag) != PSD_KNOWN_DTYPE) {
        return PSD_DTYPE_NONE;
    }
    return psd_known_dtype(value->as.global->tag);
}

static psd_status
add_tensor(psd_torch_pass *p, psd_ref ref, const psd_tensor *t)
{
    psd_model *model = p->model;
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    if (call->item_count > 0 || call->append_count > 0) {
        return psd_torch_bad(p, call, "a tensor is filled as if it were a container");
    }
    if (!psd_grow(p->alloc, (void **)&model->tensors, &model->tensor_capacity,
                  (uint64_t)model->tensor_count + 1, sizeof *t)) {
        return psd_torch_no_memory(p);
    }
    model->tensors[model->tensor_count] = *t;
    psd_value *value = psd_value_at(p->pool, ref);
    value->kind = PSD_KIND_TENSOR;
    value->as.index = model->tensor_count++;
    return PSD_OK;
}

/* ---------------------------------------------------------------- the forms */

/* torch._utils._rebuild_tensor, _v2 and _v3. */
static psd_status
read_dense(psd_torch_pass *p, const psd_call *call, psd_known known,
           const psd_ref *args, uint32_t count, psd_tensor *t)
{
    static const struct {
        uint8_t least, most;
    } arity[] = {{4, 4}, {6, 7}, {7, 8}};
    unsigned form = (unsigned)(known - PSD_KNOWN_REBUILD_TENSOR);
    if (count < arity[form].least || count > arity[form].most) {
        psd_torch_bad(p, call, "a rebuild function has a wrong number of arguments");
        return psd_fail_numbers(p->err, count, arity[form].least);
    }
    psd_dtype dtype = PSD_DTYPE_NONE;
    if (known == PSD_KNOWN_REBUILD_TENSOR_V3) {
        dtype = dtype_of(p->pool, args[6]);
        if (dtype == PSD_DTYPE_NONE) {
            return psd_torch_bad(p, call, "a tensor's dtype is not a dtype of torch");
        }
    }
    psd_status status = psd_torch_read_window(p, call, args, dtype, t);
    if (status != PSD_OK || known == PSD_KNOWN_REBUILD_TENSOR) {
        return status;
    }
    bool requires_grad;
    if (!flag(p->pool, args[4], &requires_grad)) {
        return psd_torch_bad(p, call, "a tensor's requires_grad is not a bool");
    }
    if (requires_grad) {
        t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    if (count == arity[form].most) {
        psd_ref metadata = args[count - 1];
        const psd_value *dict = psd_value_at(p->pool, metadata);
        if (dict->kind == PSD_KIND_DICT && dict->count > FLAG_DICT_MOST) {
            return psd_torch_bad(p, call, "a tensor's metadata has too many entries");
        }
        if (dict_says(p->pool, metadata, PSD_LITERAL("conj"))) {
            t->flags |= PSD_TENSOR_CONJ;
        }
        if (dict_says(p->pool, metadata, PSD_LITERAL("neg"))) {
            t->flags |= PSD_TENSOR_NEG;
        }
    }
    return PSD_OK;
}

/* A tensor that is already one, to be wrapped. */
static const psd_tensor *
tensor_at(psd_torch_pass *p, psd_ref ref)
{
    const psd_value *value = psd_value_at(p->pool, ref);
    return value->kind == PSD_KIND_TENSOR ? &p->model->tensors[value->as.index] : NULL;
}

/* _rebuild_parameter(data, requires_grad, hooks) and _with_state(..., state);
 * also Parameter(data[, requires_grad]) and its BUILD forms. */
static psd_status
read_parameter(psd_torch_pass *p, const psd_call *call, psd_ref data,
               psd_ref requires_grad, psd_tensor *t)
{
    const psd_tensor *inner = tensor_at(p, data);
    if (inner == NULL) {
        return psd_torch_bad(p, call, "a Parameter's data is not a tensor");
    }
    bool trains = true;
    if (requires_grad != 0 && !flag(p->pool, requires_grad, &trains)) {
        return psd_torch_bad(p, call, "a Parameter's requires_grad is not a bool");
    }
    *t = *inner;
    t->flags &= (uint8_t)~PSD_TENSOR_REQUIRES_GRAD;
    t->flags |= PSD_TENSOR_PARAMETER;
    if (trains) {
        t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    return PSD_OK;
}

/* _rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad) */
static psd_status
read_meta(psd_torch_pass *p, const psd_call *call, const psd_ref *args, uint32_t count,
          psd_tensor *t)
{
    bool requires_grad;
    if (count != 4 || !flag(p->pool, args[3], &requires_grad)) {
        return psd_torch_bad(p, call, "a meta tensor has wrong arguments");
    }
    psd_dtype dtype = dtype_of(p->pool, args[0]);
    if (dtype == PSD_DTYPE_NONE) {
        return psd_torch_bad(p, call, "a tensor's dtype is not a dtype of torch");
    }
    *t = (psd_tensor){.storage = PSD_NO_STORAGE, .dtype = (uint8_t)dtype};
    t->flags =
        (uint8_t)(PSD_TENSOR_META | (requires_grad ? PSD_TENSOR_REQUIRES_GRAD : 0));
    psd_status status = psd_torch_read_shape(p, call, args[1], args[2], t);
    return status == PSD_OK ? psd_torch_count(p, call, t) : status;
}

/* _rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad) */
static psd_status
read_device(psd_torch_pass *p, const psd_call *call, const psd_ref *args,
            uint32_t count, psd_tensor *t)
{
    const psd_tensor *inner = count == 4 ? tensor_at(p, args[0]) : NULL;
    bool requires_grad;
    if (inner == NULL || !flag(p->pool, args[3], &requires_grad)) {
        return psd_torch_bad(p, call, "a device tensor has wrong arguments");
    }
    if (dtype_of(p->pool, args[1]) != (psd_dtype)inner->dtype) {
        return psd_torch_bad(p, call,
                             "a device tensor's dtype is not that of its data");
    }
    *t = *inner;
    if (requires_grad) {
        t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    return PSD_OK;
}

/* *is_tensor: whether `known` is a function that gives a dense tensor. */
static psd_status
read_function(psd_torch_pass *p, const psd_call *call, psd_known known,
              const psd_ref *args, uint32_t count, psd_tensor *t, bool *is_tensor)
{
    *is_tensor = true;
    switch (known) {
    case PSD_KNOWN_REBUILD_TENSOR:
    case PSD_KNOWN_REBUILD_TENSOR_V2:
    case PSD_KNOWN_REBUILD_TENSOR_V3: return read_dense(p, call, known, args, count, t);
    case PSD_KNOWN_REBUILD_PARAMETER:
        if (count != 3) {
            return psd_torch_bad(p, call, "_rebuild_parameter has not three arguments");
        }
        return read_parameter(p, call, args[0], args[1], t);
    case PSD_KNOWN_REBUILD_PARAMETER_WITH_STATE: {
        if (count != 4) {
            return psd_torch_bad(
                p, call, "_rebuild_parameter_with_state has not four arguments");
        }
        psd_status status = read_parameter(p, call, args[0], args[1], t);
        t->state = args[3];
        return status;
    }
    case PSD_KNOWN_REBUILD_META: return read_meta(p, call, args, count, t);
    case PSD_KNOWN_REBUILD_DEVICE: return read_device(p, call, args, count, t);
    default: *is_tensor = false; return PSD_OK;
    }
}

/*
 * _rebuild_from_type_v2(function, type, args, state): an ordinary rebuild
 * function, retyped, with Python attributes.  Only the types that add nothing
 * but attributes are tensors to us; true subclasses stay calls.
 */
static psd_status
read_from_type(psd_torch_pass *p, const psd_call *call, const psd_ref *args,
               uint32_t count, psd_tensor *t, bool *is_tensor)
{
    *is_tensor = false;
    if (count != 4) {
        return psd_torch_bad(p, call, "_rebuild_from_type has not four arguments");
    }
    const psd_value *function = psd_value_at(p->pool, args[0]);
    const psd_value *type = psd_value_at(p->pool, args[1]);
    const psd_value *inner = psd_value_at(p->pool, args[2]);
    if (function->kind != PSD_KIND_GLOBAL || type->kind != PSD_KIND_GLOBAL ||
        inner->kind != PSD_KIND_TUPLE) {
        return psd_torch_bad(p, call, "_rebuild_from_type has wrong arguments");
    }
    psd_known what = psd_known_of(function->as.global->tag);
    psd_known who = psd_known_of(type->as.global->tag);
    bool plain = who == PSD_KNOWN_TENSOR || who == PSD_KNOWN_PARAMETER ||
                 who == PSD_KNOWN_BUFFER;
    if (!plain || what == PSD_KNOWN_REBUILD_FROM_TYPE) {
        return PSD_OK;
    }
    psd_status status =
        read_function(p, call, what, inner->as.items, inner->count, t, is_tensor);
    if (status == PSD_OK && *is_tensor) {
        t->state = args[3];
        if (who == PSD_KNOWN_PARAMETER) {
            t->flags |= PSD_TENSOR_PARAMETER;
        }
        else if (who == PSD_KNOWN_BUFFER ||
                 dict_says(p->pool, args[3], PSD_LITERAL("_is_buffer"))) {
            t->flags |= PSD_TENSOR_BUFFER;
        }
    }
    return status;
}

static psd_known
callee(const psd_pool *pool, const psd_call *call)
{
    const psd_value *callable = psd_value_at(pool, call->callable);
    return callable->kind == PSD_KIND_GLOBAL ? psd_known_of(callable->as.global->tag)
                                             : PSD_KNOWN_NOTHING;
}

/*
 * The earliest form: torch.FloatTensor() filled by BUILD with
 * (storage, offset, size, stride).  Its state was born after it.
 */
static psd_status
read_built_tensor(psd_torch_pass *p, psd_ref ref)
{
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    psd_known known = callee(p->pool, call);
    if ((known != PSD_KNOWN_TENSOR && known != PSD_KNOWN_TENSOR_CLASS) ||
        call->state == 0) {
        return PSD_OK;
    }
    const psd_value *state = psd_value_at(p->pool, call->state);
    if (state->kind != PSD_KIND_TUPLE || state->count != 4) {
        return psd_torch_bad(p, call,
                             "a tensor is filled with something else than four parts");
    }
    psd_tensor t;
    psd_status status =
        psd_torch_read_window(p, call, state->as.items, PSD_DTYPE_NONE, &t);
    if (status != PSD_OK) {
        return status;
    }
    if (known == PSD_KNOWN_TENSOR_CLASS) {
        const psd_value *class = psd_value_at(p->pool, call->callable);
        if (psd_known_dtype(class->as.global->tag) != (psd_dtype)t.dtype) {
            return psd_torch_bad(p, call,
                                 "a tensor's class is not that of its storage");
        }
    }
    return add_tensor(p, ref, &t);
}

/* The arguments of a call of a known function, which are a tuple. */
static psd_status
read_arguments(psd_torch_pass *p, const psd_call *call, const psd_value **args)
{
    *args = psd_value_at(p->pool, call->args);
    return (*args)->kind == PSD_KIND_TUPLE
               ? PSD_OK
               : psd_torch_bad(p, call, "a rebuild function's arguments are no tuple");
}

/*
 * torch.nn.parameter.Parameter by itself: (data[, requires_grad]), then perhaps
 * BUILD with (requires_grad, volatile, hooks) or
 * (data, grad, hooks, requires_grad, volatile).  The data may be born after the
 * Parameter, so these come last.
 */
static psd_status
read_parameter_class(psd_torch_pass *p, psd_ref ref)
{
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    if (callee(p->pool, call) != PSD_KNOWN_PARAMETER) {
        return PSD_OK;
    }
    const psd_value *args;
    psd_status status = read_arguments(p, call, &args);
    if (status != PSD_OK) {
        return status;
    }
    psd_ref data = args->count > 0 ? args->as.items[0] : 0;
    psd_ref requires_grad = args->count > 1 ? args->as.items[1] : 0;
    if (call->state != 0) {
        const psd_value *state = psd_value_at(p->pool, call->state);
        if (state->kind == PSD_KIND_TUPLE && state->count == 3) {
            requires_grad = state->as.items[0];
        }
        else if (state->kind == PSD_KIND_TUPLE && state->count == 5) {
            data = state->as.items[0];
            requires_grad = state->as.items[3];
        }
        else {
            return psd_torch_bad(p, call,
                                 "a Parameter's state has not three or five parts");
        }
    }
    psd_tensor t;
    status = data == 0 ? psd_torch_bad(p, call, "a Parameter has no data")
                       : read_parameter(p, call, data, requires_grad, &t);
    return status == PSD_OK ? add_tensor(p, ref, &t) : status;
}

static psd_status
read_call(psd_torch_pass *p, psd_ref ref)
{
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    psd_known known = callee(p->pool, call);
    if (known < PSD_KNOWN_FIRST_FUNCTION) {
        return PSD_OK;
    }
    const psd_value *args;
    psd_status status = read_arguments(p, call, &args);
    if (status != PSD_OK) {
        return status;
    }
    psd_tensor t;
    bool is_tensor;
    if (known == PSD_KNOWN_REBUILD_FROM_TYPE) {
        status = read_from_type(p, call, args->as.items, args->count, &t, &is_tensor);
    }
    else {
        status =
            read_function(p, call, known, args->as.items, args->count, &t, &is_tensor);
    }
    if (status != PSD_OK || !is_tensor) {
        return status;
    }
    /* torch would make it a window on another storage, without a word. */
    if (call->state != 0) {
        return psd_torch_bad(p, call, "a tensor that is complete is given a state");
    }
    return add_tensor(p, ref, &t);
}

/* ---------------------------------------------------------------- the pass */

static psd_status
each(psd_torch_pass *p, psd_kind kind, psd_status (*visit)(psd_torch_pass *, psd_ref))
{
    psd_status status = PSD_OK;
    for (psd_ref ref = 1; ref <= p->pool->count && status == PSD_OK; ref++) {
        if (p->pool->values[ref].kind == kind) {
            status = visit(p, ref);
        }
    }
    return status;
}

static psd_status
recognise(psd_torch_pass *p, psd_ref ref)
{
    psd_global *global = psd_value_at(p->pool, ref)->as.global;
    global->tag = psd_known_find(global->module, global->name);
    return PSD_OK;
}

/* Room for as many storages and tensors as there are persistent ids, mostly one a
 * tensor: growing step by step would move them all again and again. */
static bool
reserve(psd_torch_pass *p)
{
    uint64_t count = 0;
    for (psd_ref ref = 1; ref <= p->pool->count; ref++) {
        count += p->pool->values[ref].kind == PSD_KIND_PERSID;
    }
    void *storages = p->model->storages, *tensors = p->model->tensors;
    bool done = psd_grow(p->alloc, &storages, &p->model->storage_capacity, count,
                         sizeof *p->model->storages) &&
                psd_grow(p->alloc, &tensors, &p->model->tensor_capacity, count,
                         sizeof *p->model->tensors);
    p->model->storages = storages;
    p->model->tensors = tensors;
    return done;
}

void
psd_model_init(psd_model *model)
{
    *model = (psd_model){.storages = NULL};
}

void
psd_model_clear(psd_model *model, psd_alloc alloc)
{
    if (model->storages != NULL) {
        alloc.resize(alloc.ctx, model->storages,
                     model->storage_capacity * sizeof *model->storages, 0);
    }
    if (model->tensors != NULL) {
        alloc.resize(alloc.ctx, model->tensors,
                     model->tensor_capacity * sizeof *model->tensors, 0);
    }
    psd_model_init(model);
}

psd_status
psd_torch_read(psd_pool *pool, uint64_t base, const psd_limits *limits,
               psd_hash_key key, psd_model *model, psd_error *err)
{
    psd_torch_pass p = {.pool = pool,
                        .model = model,
                        .limits = limits,
                        .alloc = pool->arena->alloc,
                        .key = key,
                        .base = base,
                        .err = err};
    psd_status status = reserve(&p) ? PSD_OK : psd_torch_no_memory(&p);
    if (status == PSD_OK) {
        status = each(&p, PSD_KIND_GLOBAL, recognise);
    }
    if (status == PSD_OK) {
        status = each(&p, PSD_KIND_PERSID, psd_torch_add_storage);
    }
    if (status == PSD_OK) {
        status = each(&p, PSD_KIND_CALL, read_built_tensor);
    }
    if (status == PSD_OK) {
        status = each(&p, PSD_KIND_CALL, read_call);
    }
    if (status == PSD_OK) {
        status = each(&p, PSD_KIND_CALL, read_parameter_class);
    }
    if (p.slots != NULL) {
        p.alloc.resize(p.alloc.ctx, p.slots, (size_t)p.slot_count * sizeof *p.slots, 0);
    }
    return status;
}
