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

psd_ref
psd_torch_lookup(const psd_torch_pass *p, psd_ref ref, psd_span name)
{
    const psd_value *dict = psd_value_at(p->pool, ref);
    psd_ref found = 0;
    if (ref == 0 || dict->kind != PSD_KIND_DICT ||
        dict->count > 2 * PSD_ATTRIBUTES_MOST) {
        return 0;
    }
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        if (psd_text_is(psd_value_at(p->pool, dict->as.items[i]), name)) {
            found = dict->as.items[i + 1];
        }
    }
    return found;
}

/* Does the dict at `ref` say `name: True`? */
static bool
dict_says(const psd_torch_pass *p, psd_ref ref, psd_span name)
{
    bool says = false;
    psd_ref found = psd_torch_lookup(p, ref, name);
    return found != 0 && psd_torch_flag_at(p, found, &says) && says;
}

/* Scripts wrap a dict in a call that tells its type: (dict, 'Dict[str, bool]'). */
static psd_ref
untagged(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    if (v->kind != PSD_KIND_CALL ||
        psd_known_of(psd_torch_tag_at(p, v->as.call->callable)) != PSD_KNOWN_TYPE_TAG) {
        return ref;
    }
    const psd_value *args = psd_value_at(p->pool, v->as.call->args);
    return args->kind == PSD_KIND_TUPLE && args->count > 0 ? args->as.items[0] : ref;
}

/*
 * The same of a bit that changes the values.  torch writes nothing else, and takes whatever
 * stands there for True, even False: what is neither absent nor True is refused.
 */
static psd_status
read_bit(psd_torch_pass *p, const psd_call *call, psd_ref ref, psd_span name,
         uint8_t flag, psd_tensor *t)
{
    bool says = false;
    psd_ref found = psd_torch_lookup(p, ref, name);
    if (found == 0) {
        return PSD_OK;
    }
    if (!psd_torch_flag_at(p, found, &says) || !says) {
        return psd_torch_bad(p, call, "a tensor's conj or neg bit is told as not set");
    }
    t->flags |= flag;
    return PSD_OK;
}

static psd_status
add_tensor(psd_torch_pass *p, psd_ref ref, const psd_tensor *t)
{
    psd_model *model = p->model;
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    if (call->item_count > 0 || call->append_count > 0) {
        return psd_torch_bad(p, call, "a tensor is filled as if it were a container");
    }
    if (!psd_model_add_tensor(model, t)) {
        return psd_torch_no_memory(p);
    }
    model->tensors[model->tensor_count - 1].at = ref;
    if (t->layout != PSD_LAYOUT_STRIDED && t->more.composite->at == 0) {
        t->more.composite->at = ref;
    }
    psd_value *value = psd_value_at(p->pool, ref);
    value->kind = PSD_KIND_TENSOR;
    value->as.index = model->tensor_count - 1;
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
        dtype = psd_torch_dtype_at(p, args[6]);
        if (dtype == PSD_DTYPE_NONE) {
            return psd_torch_bad(p, call, "a tensor's dtype is not a dtype of torch");
        }
    }
    psd_status status = psd_torch_read_window(p, call, args, dtype, t);
    if (status != PSD_OK || known == PSD_KNOWN_REBUILD_TENSOR) {
        return status;
    }
    bool requires_grad;
    if (!psd_torch_flag_at(p, args[4], &requires_grad)) {
        return psd_torch_bad(p, call, "a tensor's requires_grad is not a bool");
    }
    if (requires_grad) {
        t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    if (count == arity[form].most) {
        psd_ref metadata = untagged(p, args[count - 1]);
        const psd_value *dict = psd_value_at(p->pool, metadata);
        if (dict->kind == PSD_KIND_DICT && dict->count > 2 * PSD_ATTRIBUTES_MOST) {
            return psd_torch_bad(p, call, "a tensor's metadata has too many entries");
        }
        status = read_bit(p, call, metadata, PSD_LITERAL("conj"), PSD_TENSOR_CONJ, t);
        return status == PSD_OK
                   ? read_bit(p, call, metadata, PSD_LITERAL("neg"), PSD_TENSOR_NEG, t)
                   : status;
    }
    return PSD_OK;
}

/* _rebuild_parameter(data, requires_grad, hooks) and _with_state(..., state);
 * also Parameter(data[, requires_grad]) and its BUILD forms. */
static psd_status
read_parameter(psd_torch_pass *p, const psd_call *call, psd_ref data,
               psd_ref requires_grad, psd_tensor *t)
{
    const psd_tensor *inner = psd_torch_tensor_at(p, data);
    if (inner == NULL) {
        return psd_torch_bad(p, call, "a Parameter's data is not a tensor");
    }
    bool trains = true;
    if (requires_grad != 0 && !psd_torch_flag_at(p, requires_grad, &trains)) {
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
    if (count != 4 || !psd_torch_flag_at(p, args[3], &requires_grad)) {
        return psd_torch_bad(p, call, "a meta tensor has wrong arguments");
    }
    psd_dtype dtype = psd_torch_dtype_at(p, args[0]);
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
    const psd_tensor *inner = count == 4 ? psd_torch_tensor_at(p, args[0]) : NULL;
    bool requires_grad;
    if (inner == NULL || !psd_torch_flag_at(p, args[3], &requires_grad)) {
        return psd_torch_bad(p, call, "a device tensor has wrong arguments");
    }
    if (psd_torch_dtype_at(p, args[1]) != (psd_dtype)inner->dtype) {
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
read_function(psd_torch_pass *p, psd_call *call, psd_known known, const psd_ref *args,
              uint32_t count, psd_tensor *t, bool *is_tensor)
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
    case PSD_KNOWN_REBUILD_QTENSOR:
        return psd_torch_read_quantized(p, call, args, count, t);
    case PSD_KNOWN_REBUILD_SPARSE:
    case PSD_KNOWN_REBUILD_NESTED:
    case PSD_KNOWN_REBUILD_JAGGED:
    case PSD_KNOWN_REBUILD_WRAPPER:
        return psd_torch_read_composite(p, call, known, args, count, t);
    default: *is_tensor = false; return PSD_OK;
    }
}

/*
 * _rebuild_from_type_v2(function, type, args, state): a rebuild function, retyped,
 * with Python attributes.  A type that torch does not know is remembered beside the
 * tensor; what stands in a wrapper's attributes are its parts.
 */
static psd_status
read_from_type(psd_torch_pass *p, psd_call *call, const psd_ref *args, uint32_t count,
               psd_tensor *t, bool *is_tensor)
{
    *is_tensor = false;
    if (count != 4) {
        return psd_torch_bad(p, call, "_rebuild_from_type has not four arguments");
    }
    if (psd_kind_of(p->pool, args[0]) == PSD_KIND_CALL) {
        return PSD_OK; /* getattr() of a name with dots, and none of those below has any */
    }
    const psd_value *inner = psd_value_at(p->pool, args[2]);
    if (psd_kind_of(p->pool, args[0]) != PSD_KIND_GLOBAL ||
        psd_kind_of(p->pool, args[1]) != PSD_KIND_GLOBAL ||
        inner->kind != PSD_KIND_TUPLE) {
        return psd_torch_bad(p, call, "_rebuild_from_type has wrong arguments");
    }
    psd_known what = psd_known_of(psd_torch_tag_at(p, args[0]));
    psd_known who = psd_known_of(psd_torch_tag_at(p, args[1]));
    if (what == PSD_KNOWN_REBUILD_FROM_TYPE) {
        return PSD_OK;
    }
    psd_status status =
        read_function(p, call, what, inner->as.items, inner->count, t, is_tensor);
    if (status != PSD_OK || !*is_tensor) {
        return status;
    }
    t->state = args[3];
    if (who == PSD_KNOWN_PARAMETER || dict_says(p, args[3], PSD_LITERAL("_is_param"))) {
        t->flags |= PSD_TENSOR_PARAMETER;
    }
    else if (who == PSD_KNOWN_BUFFER ||
             dict_says(p, args[3], PSD_LITERAL("_is_buffer"))) {
        t->flags |= PSD_TENSOR_BUFFER;
    }
    else if (who != PSD_KNOWN_TENSOR) {
        t->type = args[1];
    }
    return t->layout == PSD_LAYOUT_SUBCLASS ? psd_torch_read_attributes(p, args[3], t)
                                            : PSD_OK;
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

/* The two parts of a pair, a list or tuple; NULL when it is none. */
static const psd_ref *
pair_at(const psd_pool *pool, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    bool is_pair =
        (v->kind == PSD_KIND_LIST || v->kind == PSD_KIND_TUPLE) && v->count == 2;
    return is_pair ? v->as.items : NULL;
}

/*
 * Python 2 pickled OrderedDict([[key, value], ...]): the pairs become items, by which
 * Python 3 tells them.  A list may be told of many times, so that no more pairs are
 * made than there are values.
 */
static psd_status
spell_out(psd_torch_pass *p, psd_ref ref, const psd_call *call)
{
    psd_pool *pool = p->pool;
    const psd_value *args = psd_value_at(pool, call->args);
    if (call->item_count > 0 || args->kind != PSD_KIND_TUPLE || args->count != 1) {
        return PSD_OK;
    }
    const psd_value *list = psd_value_at(pool, args->as.items[0]);
    bool plain = list->kind == PSD_KIND_LIST && p->spelled + list->count <= pool->count;
    for (uint32_t i = 0; i < list->count && plain; i++) {
        plain = pair_at(pool, list->as.items[i]) != NULL;
    }
    if (!plain || list->count == 0) {
        return PSD_OK;
    }
    p->spelled += list->count;
    psd_ref *items = psd_arena_take_array(pool->arena, list->count, 2 * sizeof *items);
    for (uint32_t i = 0; i < list->count && items != NULL; i++) {
        memcpy(items + 2 * i, pair_at(pool, list->as.items[i]), 2 * sizeof *items);
    }
    return items != NULL && psd_set(pool, ref, items, 2 * list->count)
               ? PSD_OK
               : psd_torch_no_memory(p);
}

static psd_status
read_call(psd_torch_pass *p, psd_ref ref)
{
    psd_call *call = psd_value_at(p->pool, ref)->as.call;
    psd_known known = callee(p->pool, call);
    if (known < PSD_KNOWN_FIRST_FUNCTION) {
        return known == PSD_KNOWN_ORDERED_DICT      ? spell_out(p, ref, call)
               : known == PSD_KNOWN_LOAD_FROM_BYTES ? psd_torch_read_embedded(p, ref)
                                                    : PSD_OK;
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

/* A storage that no tensor looks at is what was saved: a tensor of one dimension. */
static psd_status
read_bare_storage(psd_torch_pass *p, psd_ref ref)
{
    psd_value *value = psd_value_at(p->pool, ref);
    const psd_storage *s = &p->model->storages[value->as.index];
    if ((value->flags & PSD_VALUE_SEEN) != 0) {
        return PSD_OK;
    }
    int64_t *numbers = psd_arena_take_array(p->pool->arena, 2, sizeof *numbers);
    if (numbers == NULL) {
        return psd_torch_no_memory(p);
    }
    numbers[0] = (int64_t)s->numel;
    numbers[1] = 1;
    psd_tensor t = {
        .shape = numbers,
        .strides = numbers + 1,
        .numel = s->numel,
        .storage = value->as.index,
        .dtype = s->dtype,
        .rank = 1,
        .flags = PSD_TENSOR_STORAGE,
        .at = ref,
    };
    if (s->parent != PSD_NO_STORAGE) {
        t.storage = s->parent;
        t.offset =
            (int64_t)(s->parent_offset / psd_dtype_row((psd_dtype)s->dtype)->size);
    }
    if (psd_span_equal(s->location, PSD_LITERAL("meta"))) {
        t.flags |= PSD_TENSOR_META;
    }
    if (!psd_model_add_tensor(p->model, &t)) {
        return psd_torch_no_memory(p);
    }
    value->kind = PSD_KIND_TENSOR;
    value->as.index = p->model->tensor_count - 1;
    return PSD_OK;
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

static void
recognise_globals(psd_torch_pass *p)
{
    for (psd_global *g = p->pool->newest_global; g != NULL; g = g->previous) {
        psd_torch_recognise(g);
        p->named |= (uint64_t)1 << psd_known_of(g->tag);
    }
}

/* Room for as many storages and tensors as there are persistent ids, mostly one a tensor:
 * growing step by step would move them all again and again. */
static psd_status
make_room(psd_torch_pass *p)
{
    psd_model *model = p->model;
    uint64_t count = p->pool->persid_count;
    return psd_model_reserve(model, model->storage_count + count,
                             model->tensor_count + count)
               ? PSD_OK
               : psd_torch_no_memory(p);
}

/* What a persistent id is, and what a call has made, which may be of that. */
static psd_status
read_value(psd_torch_pass *p, psd_ref ref)
{
    psd_status status = PSD_OK;
    if (psd_kind_of(p->pool, ref) == PSD_KIND_PERSID) {
        status = psd_torch_read_persid(p, ref);
    }
    return status == PSD_OK && psd_kind_of(p->pool, ref) == PSD_KIND_CALL
               ? read_call(p, ref)
               : status;
}

static psd_status
read_values(psd_torch_pass *p)
{
    psd_status status = PSD_OK;
    for (psd_ref ref = 1; ref <= p->pool->count && status == PSD_OK; ref++) {
        status = read_value(p, ref);
    }
    return status;
}

/* Tensors that are filled by BUILD, of before torch 0.2 and of few files since, refer to
 * what was born after them, and others may be made of them. */
static psd_status
read_built_and_other_values(psd_torch_pass *p)
{
    psd_status status = each(p, PSD_KIND_PERSID, psd_torch_read_persid);
    if (status == PSD_OK) {
        status = each(p, PSD_KIND_CALL, read_built_tensor);
    }
    return status == PSD_OK ? each(p, PSD_KIND_CALL, read_call) : status;
}

static psd_status
read_parameter_classes(psd_torch_pass *p)
{
    bool any = psd_torch_names(p, PSD_KNOWN_PARAMETER);
    return any ? each(p, PSD_KIND_CALL, read_parameter_class) : PSD_OK;
}

psd_status
psd_torch_read(psd_pool *pool, psd_ref root, const psd_torch_source *source,
               const psd_limits *limits, psd_model *model, psd_error *err)
{
    psd_torch_pass p = {
        .pool = pool, .model = model, .source = source, .limits = limits, .err = err};
    recognise_globals(&p);
    bool built = source->dialect == PSD_DIALECT_TAR ||
                 psd_torch_names(&p, PSD_KNOWN_TENSOR) ||
                 psd_torch_names(&p, PSD_KNOWN_TENSOR_CLASS);
    psd_status status = make_room(&p);
    if (status == PSD_OK) {
        status = built ? read_built_and_other_values(&p) : read_values(&p);
    }
    if (status == PSD_OK) {
        status = read_parameter_classes(&p);
    }
    psd_torch_forget_embedded(&p);
    if (status == PSD_OK && p.unseen > 0) {
        status = each(&p, PSD_KIND_STORAGE, read_bare_storage);
    }
    return status == PSD_OK ? psd_torch_find_modules(&p, root) : status;
}
