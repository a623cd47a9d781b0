/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized modules: their state_dict() tells weights that stand in script objects
 * or tuples, and numbers as tensors.
 * Sources: torch/ao/nn/quantized/modules/{conv,linear,embedding_ops,
 * functional_modules}.py, torch/ao/nn/quantized/dynamic/modules/rnn.py.
 */
#include "torch_walk.h"

/* A number of the pickle as the tensor of no dimensions that state_dict() makes of it. */
static psd_ref
scalar_tensor(psd_walk *w, psd_ref from, psd_dtype dtype)
{
    psd_torch_pass *p = w->p;
    const psd_value *v = psd_value_at(p->pool, from);
    size_t size = psd_dtype_row(dtype)->size;
    uint8_t *bytes = psd_arena_take(p->pool->arena, 8);
    psd_span key = psd_torch_decimal(p->pool->arena, p->model->storage_count);
    if (bytes == NULL || key.data == NULL) {
        w->failed = true;
        return 0;
    }
    if (dtype == PSD_DTYPE_FLOAT32) {
        float real =
            (float)(v->kind == PSD_KIND_FLOAT ? v->as.real : (double)v->as.integer);
        uint32_t bits;
        memcpy(&bits, &real, sizeof bits);
        psd_store_le32(bytes, bits);
    }
    else {
        psd_store_le64(bytes, (uint64_t)v->as.integer);
    }
    psd_storage s = {
        .key = psd_walk_joined(w, PSD_LITERAL("made "), key, (psd_span){NULL, 0}),
        .location = PSD_LITERAL("cpu"),
        .numel = 1,
        .size = size,
        .parent = PSD_NO_STORAGE,
        .dtype = (uint8_t)dtype,
        .place = PSD_PLACE_MEMORY,
        .at.memory = bytes};
    psd_tensor t = {.numel = 1,
                    .storage = p->model->storage_count,
                    .dtype = (uint8_t)dtype,
                    .flags = PSD_TENSOR_BUFFER};
    psd_ref ref = w->failed ? 0 : psd_walk_born(w, psd_new_int(p->pool, 0));
    t.at = ref;
    if (ref == 0 || !psd_model_add_storage(p->model, &s) ||
        !psd_model_add_tensor(p->model, &t)) {
        w->failed = true;
        return 0;
    }
    psd_value *value = psd_value_at(p->pool, ref);
    value->kind = PSD_KIND_TENSOR;
    value->as.index = p->model->tensor_count - 1;
    return ref;
}

static bool
is_number(const psd_walk *w, psd_ref ref)
{
    psd_kind kind = psd_kind_of(w->p->pool, ref);
    return kind == PSD_KIND_INT || kind == PSD_KIND_FLOAT;
}

/* scale and zero_point; false when they are no numbers. */
static bool
add_scale(psd_walk *w, psd_span prefix, psd_ref scale, psd_ref zero_point)
{
    if (!is_number(w, scale) || psd_kind_of(w->p->pool, zero_point) != PSD_KIND_INT ||
        !psd_walk_may_go_on(w, 16)) {
        return false;
    }
    psd_walk_add_entry(w, prefix, PSD_LITERAL("scale"),
                       scalar_tensor(w, scale, PSD_DTYPE_FLOAT32));
    psd_walk_add_entry(w, prefix, PSD_LITERAL("zero_point"),
                       scalar_tensor(w, zero_point, PSD_DTYPE_INT64));
    return true;
}

/* The tuple that a script object of torch is made of; NULL when it is none. */
static const psd_value *
script_object(const psd_walk *w, psd_ref ref, psd_ref *tuple)
{
    const psd_pool *pool = w->p->pool;
    const psd_value *v = psd_value_at(pool, ref);
    psd_ref state = v->kind == PSD_KIND_CALL ? v->as.call->state : 0;
    const psd_value *s = psd_value_at(pool, state);
    bool told = state != 0 && s->kind == PSD_KIND_TUPLE && s->count == 2 &&
                psd_kind_of(pool, s->as.items[0]) == PSD_KIND_TUPLE;
    *tuple = told ? s->as.items[0] : 0;
    return told ? psd_value_at(pool, *tuple) : NULL;
}

/* The weight in (version, [weight], ...). */
static psd_ref
embedding_weight(const psd_walk *w, const psd_value *tuple)
{
    const psd_value *inner = tuple != NULL && tuple->count >= 2
                                 ? psd_value_at(w->p->pool, tuple->as.items[1])
                                 : psd_value_at(w->p->pool, 0);
    return inner->kind == PSD_KIND_LIST && inner->count == 1 ? inner->as.items[0] : 0;
}

static bool
add_attribute(psd_walk *w, psd_span prefix, psd_ref attributes, psd_span name)
{
    psd_ref value = psd_walk_attribute(w->p->pool, attributes, name);
    if (value != 0 && psd_walk_may_go_on(w, prefix.size + name.size)) {
        psd_walk_add_entry(w, prefix, name, value);
    }
    return value != 0;
}

/* A packed weight, under the name that it has among the attributes. */
static bool
add_packed(psd_walk *w, psd_span prefix, psd_ref attributes, psd_class_form form)
{
    const psd_pool *pool = w->p->pool;
    psd_span name = form == PSD_CLASS_PACKED_LINEAR ? PSD_LITERAL("_packed_params")
                                                    : PSD_LITERAL("_packed_weight");
    psd_ref tuple;
    const psd_value *object =
        script_object(w, psd_walk_attribute(pool, attributes, name), &tuple);
    psd_ref value =
        form == PSD_CLASS_PACKED_LINEAR ? tuple : embedding_weight(w, object);
    if (value == 0 || !add_attribute(w, prefix, attributes, PSD_LITERAL("dtype")) ||
        !psd_walk_may_go_on(w, prefix.size + name.size)) {
        return false;
    }
    psd_walk_mark_buffer(w, value);
    psd_walk_add_entry(w, prefix, name, value);
    return true;
}

static bool
add_convolution(psd_walk *w, psd_span prefix, psd_ref parts)
{
    const psd_ref *items = psd_value_at(w->p->pool, parts)->as.items + PSD_CONV_WEIGHT;
    if (!is_number(w, items[2]) || !is_number(w, items[3]) ||
        !psd_walk_may_go_on(w, 2 * prefix.size)) {
        return false;
    }
    psd_walk_mark_buffer(w, items[0]);
    psd_walk_mark_buffer(w, items[1]);
    psd_walk_add_entry(w, prefix, PSD_LITERAL("weight"), items[0]);
    psd_walk_add_entry(w, prefix, PSD_LITERAL("bias"), items[1]);
    return add_scale(w, prefix, items[2], items[3]);
}

/* The same of a state that is a tuple: (weight, bias, training, dtype). */
static bool
add_unpacked(psd_walk *w, psd_span prefix, psd_ref parts)
{
    psd_pool *pool = w->p->pool;
    const psd_ref *items = psd_value_at(pool, parts)->as.items;
    if (!psd_walk_may_go_on(w, 2 * prefix.size)) {
        return false;
    }
    psd_ref dtype = items[3];
    psd_ref both = psd_walk_born(w, psd_new_items(pool, PSD_KIND_TUPLE, items, 2));
    psd_walk_add_entry(w, prefix, PSD_LITERAL("dtype"), dtype);
    psd_walk_add_entry(w, prefix, PSD_LITERAL("_packed_params"), both);
    return true;
}

/* What stands elsewhere than in _parameters and _buffers. */
bool
psd_walk_add_others(psd_walk *w, psd_span prefix, const psd_module_look *m)
{
    const psd_pool *pool = w->p->pool;
    psd_ref attributes = m->attributes;
    switch ((psd_class_form)m->class.form) {
    case PSD_CLASS_CONV: return m->parts != 0 && add_convolution(w, prefix, m->parts);
    case PSD_CLASS_SCALED:
        return add_scale(
            w, prefix, psd_walk_attribute(pool, attributes, PSD_LITERAL("scale")),
            psd_walk_attribute(pool, attributes, PSD_LITERAL("zero_point")));
    case PSD_CLASS_PACKED_LINEAR:
        if (attributes == 0) {
            return add_unpacked(w, prefix, m->parts);
        }
        return add_packed(w, prefix, attributes, PSD_CLASS_PACKED_LINEAR);
    case PSD_CLASS_PACKED_EMBEDDING:
        return add_packed(w, prefix, attributes, PSD_CLASS_PACKED_EMBEDDING);
    case PSD_CLASS_PACKED_PARAMETER:
        return add_attribute(w, prefix, attributes, PSD_LITERAL("param"));
    case PSD_CLASS_CELL:
        return add_attribute(w, prefix, attributes, PSD_LITERAL("_packed_weight_ih")) &&
               add_attribute(w, prefix, attributes, PSD_LITERAL("_packed_weight_hh"));
    default: return true;
    }
}
