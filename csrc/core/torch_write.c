/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors and storages become calls and persistent ids again.  What is written
 * is what torch.save writes, so torch.load(weights_only=True) reads it.
 */
#include "pickle.h"
#include "torch.h"

/* Numbers that were made a tuple of; mostly the next tensor has the same. */
typedef struct {
    const int64_t *numbers;
    unsigned count;
    psd_ref tuple;
} shape;

typedef struct {
    psd_pool *pool;
    const psd_model *model;
    psd_dialect dialect;
    psd_ref *persids;     /* by storage */
    bool *mixed;          /* by storage: seen with a dtype that is not its own */
    psd_ref functions[7]; /* the rebuild functions' globals, made on first use */
    psd_ref dtypes[PSD_DTYPE_COUNT];
    psd_ref ordered_dict, empty_tuple, text_storage, text_cpu, none;
    psd_ref hooks;
    shape last_shape, last_strides;
    psd_ref truth[2];     /* False and True */
    psd_ref numbers[256]; /* small ones; all of these are written out each time */
    bool failed;
} pass;

enum {
    REBUILD_V2,
    REBUILD_V3,
    REBUILD_PARAMETER,
    REBUILD_WITH_STATE,
    REBUILD_FROM_TYPE,
    REBUILD_META,
    REBUILD_QTENSOR
};

/* Every constructor goes through here, so that failure is asked for once. */
static psd_ref
made(pass *p, psd_ref ref)
{
    if (ref == 0) {
        p->failed = true;
    }
    return ref;
}

static psd_ref
text(pass *p, const char *literal)
{
    psd_span span = {(const uint8_t *)literal, strlen(literal)};
    return made(p, psd_new_text(p->pool, PSD_KIND_TEXT, span));
}

static psd_ref
global(pass *p, const char *module, const char *name)
{
    return made(p, psd_new_global(p->pool,
                                  (psd_span){(const uint8_t *)module, strlen(module)},
                                  (psd_span){(const uint8_t *)name, strlen(name)}, 0));
}

static psd_ref
tuple(pass *p, const psd_ref *refs, uint32_t count)
{
    return p->failed ? 0 : made(p, psd_new_items(p->pool, PSD_KIND_TUPLE, refs, count));
}

/* Tell the writer of the pickle what it would find out. */
static psd_ref
flagged(pass *p, psd_ref ref, unsigned flags)
{
    if (ref != 0) {
        psd_value_at(p->pool, ref)->flags |= (uint8_t)flags;
    }
    return ref;
}

static psd_ref
plain_tuple(pass *p, const psd_ref *refs, uint32_t count)
{
    return flagged(p, tuple(p, refs, count), PSD_VALUE_PLAIN);
}

static psd_ref
call(pass *p, psd_ref callable, psd_ref args)
{
    if (p->failed) {
        return 0;
    }
    return made(p, psd_new_call(p->pool, PSD_CALL_REDUCE, callable, args, 0, 0));
}

static psd_ref
function(pass *p, int which)
{
    static const char *const names[][2] = {
        {"torch._utils", "_rebuild_tensor_v2"},
        {"torch._utils", "_rebuild_tensor_v3"},
        {"torch._utils", "_rebuild_parameter"},
        {"torch._utils", "_rebuild_parameter_with_state"},
        {"torch._tensor", "_rebuild_from_type_v2"},
        {"torch._utils", "_rebuild_meta_tensor_no_storage"},
        {"torch._utils", "_rebuild_qtensor"},
    };
    if (p->functions[which] == 0) {
        p->functions[which] = global(p, names[which][0], names[which][1]);
    }
    return p->functions[which];
}

/* torch.<name of the dtype> */
static psd_ref
dtype_global(pass *p, psd_dtype dtype)
{
    if (p->dtypes[dtype] == 0) {
        p->dtypes[dtype] = global(p, "torch", psd_dtype_row(dtype)->name);
    }
    return p->dtypes[dtype];
}

/* torch.<scalar type>Storage */
static psd_ref
storage_class(pass *p, psd_dtype dtype)
{
    const char *scalar = psd_dtype_row(dtype)->scalar;
    size_t size = strlen(scalar);
    uint8_t *name = psd_arena_take(p->pool->arena, size + 7);
    if (name == NULL) {
        p->failed = true;
        return 0;
    }
    memcpy(name, scalar, size);
    memcpy(name + size, "Storage", 7);
    return made(p, psd_new_global(p->pool, PSD_LITERAL("torch"),
                                  (psd_span){name, size + 7}, 0));
}

static psd_ref
number(pass *p, int64_t v)
{
    if (v < 0 || v >= (int64_t)(sizeof p->numbers / sizeof *p->numbers)) {
        return made(p, psd_new_int(p->pool, v));
    }
    if (p->numbers[v] == 0) {
        p->numbers[v] = made(p, psd_new_int(p->pool, v));
    }
    return p->numbers[v];
}

static psd_ref
truth(pass *p, bool v)
{
    if (p->truth[v] == 0) {
        p->truth[v] = made(p, psd_new_bool(p->pool, v));
    }
    return p->truth[v];
}

/* Digits of the last number of so many. */
static size_t
width_of(uint32_t count)
{
    size_t width = 1;
    for (uint32_t last = count == 0 ? 0 : count - 1; last >= 10; last /= 10) {
        width++;
    }
    return width;
}

psd_span
psd_torch_storage_key(psd_arena *arena, psd_dialect dialect, uint32_t storage,
                      uint32_t count)
{
    uint8_t digits[10];
    size_t least = dialect == PSD_DIALECT_STREAM ? width_of(count) : 1;
    size_t next = sizeof digits;
    while (storage != 0 || sizeof digits - next < least) {
        digits[--next] = (uint8_t)('0' + storage % 10);
        storage /= 10;
    }
    return psd_arena_copy(arena, (psd_span){digits + next, sizeof digits - next});
}

static psd_ref
key(pass *p, uint32_t storage)
{
    psd_span name = p->model->storages[storage].key;
    if (p->dialect != PSD_DIALECT_KEPT) {
        name = psd_torch_storage_key(p->pool->arena, p->dialect, storage,
                                     p->model->storage_count);
    }
    if (name.data == NULL) {
        p->failed = true;
        return 0;
    }
    return made(p, psd_new_text(p->pool, PSD_KIND_TEXT, name));
}

static bool
needs_v3(const pass *p, uint32_t storage)
{
    const psd_storage *s = &p->model->storages[storage];
    return p->mixed[storage] || s->untyped ||
           !psd_dtype_row((psd_dtype)s->dtype)->typed;
}

/* ('storage', class, key, 'cpu', numel), one for all tensors of the storage; in streams a
 * sixth part tells of a view, which no storage of ours is. */
static psd_ref
persid(pass *p, uint32_t storage, psd_ref classes[PSD_DTYPE_COUNT])
{
    if (p->persids[storage] != 0 || p->failed) {
        return p->persids[storage];
    }
    const psd_storage *s = &p->model->storages[storage];
    psd_dtype dtype = needs_v3(p, storage) ? PSD_DTYPE_NONE : (psd_dtype)s->dtype;
    if (classes[dtype] == 0) {
        classes[dtype] = dtype == PSD_DTYPE_NONE
                             ? global(p, "torch.storage", "UntypedStorage")
                             : storage_class(p, dtype);
    }
    uint64_t numel =
        dtype == PSD_DTYPE_NONE ? s->size : s->size / psd_dtype_row(dtype)->size;
    psd_ref parts[6] = {p->text_storage, classes[dtype], key(p, storage), p->text_cpu,
                        number(p, (int64_t)numel)};
    uint32_t count = 5;
    if (p->dialect == PSD_DIALECT_STREAM) {
        p->none = p->none != 0 ? p->none : made(p, psd_new_none(p->pool));
        parts[count++] = p->none;
    }
    psd_ref id = plain_tuple(p, parts, count);
    if (!p->failed) {
        p->persids[storage] =
            flagged(p, made(p, psd_new_persid(p->pool, id)), PSD_VALUE_PLAIN);
    }
    return p->persids[storage];
}

/* Each tensor has a tuple of its own in torch, so it is written anew. */
static psd_ref
numbers(pass *p, const int64_t *v, unsigned count, shape *last)
{
    psd_ref refs[64];
    if (count == 0) {
        return p->empty_tuple;
    }
    if (last->count == count && memcmp(last->numbers, v, count * sizeof *v) == 0) {
        return last->tuple;
    }
    for (unsigned i = 0; i < count; i++) {
        refs[i] = number(p, v[i]);
    }
    psd_ref ref = flagged(p, tuple(p, refs, count), PSD_VALUE_PLAIN | PSD_VALUE_ANEW);
    *last = (shape){v, count, ref};
    return ref;
}

/* Hooks belong to one tensor: torch keeps the dict it is given, so never shared. */
static psd_ref
hooks(pass *p)
{
    if (p->hooks == 0) {
        p->hooks = flagged(p, call(p, p->ordered_dict, p->empty_tuple),
                           PSD_VALUE_PLAIN | PSD_VALUE_ANEW);
    }
    return p->hooks;
}

/* Does the tensor itself require a gradient?  Of a Parameter the wrapping says it. */
static psd_ref
own_grad(pass *p, const psd_tensor *t)
{
    bool grad = (t->flags & PSD_TENSOR_REQUIRES_GRAD) != 0 &&
                (t->flags & PSD_TENSOR_PARAMETER) == 0;
    return truth(p, grad);
}

/* {'conj': True, 'neg': True}, as far as they hold. */
static psd_ref
metadata(pass *p, const psd_tensor *t)
{
    psd_ref refs[4];
    uint32_t count = 0;
    if ((t->flags & PSD_TENSOR_CONJ) != 0) {
        refs[count++] = text(p, "conj");
        refs[count++] = truth(p, true);
    }
    if ((t->flags & PSD_TENSOR_NEG) != 0) {
        refs[count++] = text(p, "neg");
        refs[count++] = truth(p, true);
    }
    return p->failed ? 0 : made(p, psd_new_items(p->pool, PSD_KIND_DICT, refs, count));
}

/* What a call is made of before it takes the place of its tensor. */
typedef struct {
    psd_ref callable, args;
    bool plain; /* none of its parts is the host's */
} lowered;

/* A call of one of torch's functions that takes nothing but what is made here. */
static lowered
plain_call(pass *p, int which, const psd_ref *args, uint32_t count)
{
    return (lowered){function(p, which), plain_tuple(p, args, count), true};
}

static lowered
other_call(pass *p, int which, const psd_ref *args, uint32_t count)
{
    return (lowered){function(p, which), tuple(p, args, count), false};
}

static lowered
lower_meta(pass *p, const psd_tensor *t)
{
    psd_ref args[4] = {
        dtype_global(p, (psd_dtype)t->dtype),
        numbers(p, t->shape, t->rank, &p->last_shape),
        numbers(p, t->strides, t->rank, &p->last_strides),
        own_grad(p, t),
    };
    return plain_call(p, REBUILD_META, args, 4);
}

/* (scheme, scale, zero_point) or (scheme, scales, zero_points, axis).  Float zero
 * points go by the name of the scheme of whole ones, as torch writes them. */
static psd_ref
quantizer(pass *p, const psd_quantizer *q)
{
    bool tensor = q->scheme == PSD_PER_TENSOR;
    psd_ref scheme =
        global(p, "torch", tensor ? "per_tensor_affine" : "per_channel_affine");
    psd_ref parts[4] = {scheme, q->scales, q->zero_points, 0};
    if (tensor) {
        parts[1] = made(p, psd_new_float(p->pool, q->scale));
        parts[2] = number(p, q->zero_point);
        return tuple(p, parts, 3);
    }
    parts[3] = number(p, q->axis);
    return tuple(p, parts, 4);
}

/* (storage, offset, size, stride, quantizer, requires_grad, hooks) */
static lowered
lower_quantized(pass *p, const psd_tensor *t, psd_ref classes[PSD_DTYPE_COUNT])
{
    psd_ref args[7] = {
        persid(p, t->storage, classes),
        number(p, t->offset),
        numbers(p, t->shape, t->rank, &p->last_shape),
        numbers(p, t->strides, t->rank, &p->last_strides),
        quantizer(p, t->more.quantizer),
        own_grad(p, t),
        hooks(p),
    };
    return other_call(p, REBUILD_QTENSOR, args, 7);
}

static lowered
lower_dense(pass *p, const psd_tensor *t, psd_ref classes[PSD_DTYPE_COUNT])
{
    if ((t->flags & PSD_TENSOR_META) != 0) {
        return lower_meta(p, t);
    }
    if (t->more.quantizer != NULL) {
        return lower_quantized(p, t, classes);
    }
    bool v3 = needs_v3(p, t->storage);
    psd_ref args[8] = {
        persid(p, t->storage, classes),
        number(p, t->offset),
        numbers(p, t->shape, t->rank, &p->last_shape),
        numbers(p, t->strides, t->rank, &p->last_strides),
        own_grad(p, t),
        hooks(p),
    };
    uint32_t count = 6;
    if (v3) {
        args[count++] = dtype_global(p, (psd_dtype)t->dtype);
    }
    int which = v3 ? REBUILD_V3 : REBUILD_V2;
    if ((t->flags & (PSD_TENSOR_CONJ | PSD_TENSOR_NEG)) != 0) {
        args[count++] = metadata(p, t);
        return other_call(p, which, args, count);
    }
    return plain_call(p, which, args, count);
}

/* A Parameter of the tensor at `data`. */
static lowered
lower_parameter(pass *p, const psd_tensor *t, psd_ref data)
{
    bool grad = (t->flags & PSD_TENSOR_REQUIRES_GRAD) != 0;
    psd_ref args[4] = {data, truth(p, grad), hooks(p), t->state};
    if (t->state != 0) {
        return other_call(p, REBUILD_WITH_STATE, args, 4);
    }
    bool plain = (psd_value_at(p->pool, data)->flags & PSD_VALUE_PLAIN) != 0;
    return plain ? plain_call(p, REBUILD_PARAMETER, args, 3)
                 : other_call(p, REBUILD_PARAMETER, args, 3);
}

static psd_ref
call_of(pass *p, lowered l)
{
    return flagged(p, call(p, l.callable, l.args), l.plain ? PSD_VALUE_PLAIN : 0);
}

static lowered
lower_tensor(pass *p, const psd_tensor *t, psd_ref classes[PSD_DTYPE_COUNT])
{
    lowered dense = lower_dense(p, t, classes);
    if ((t->flags & PSD_TENSOR_PARAMETER) != 0) {
        return lower_parameter(p, t, call_of(p, dense));
    }
    if (t->state != 0) {
        psd_ref type = t->type != 0 ? t->type : global(p, "torch", "Tensor");
        psd_ref args[4] = {dense.callable, type, dense.args, t->state};
        return other_call(p, REBUILD_FROM_TYPE, args, 4);
    }
    return dense;
}

/* Was a storage saved by itself, and is it still all of one, with its bytes and dtype? */
static bool
is_whole_storage(const pass *p, const psd_tensor *t)
{
    if ((t->flags & (PSD_TENSOR_STORAGE | PSD_TENSOR_META)) != PSD_TENSOR_STORAGE ||
        t->storage == PSD_NO_STORAGE) {
        return false;
    }
    if (needs_v3(p, t->storage) && !p->model->storages[t->storage].untyped) {
        return false; /* written without a dtype, which only a tensor can tell then */
    }
    return t->offset == 0 && t->numel * psd_dtype_row((psd_dtype)t->dtype)->size ==
                                 p->model->storages[t->storage].size;
}

/* The name of the tensor in the dict that is written, if it has one there. */
static psd_span
name_of(const pass *p, psd_ref root, uint32_t tensor)
{
    const psd_value *v = psd_value_at(p->pool, root);
    bool is_call = v->kind == PSD_KIND_CALL, is_dict = v->kind == PSD_KIND_DICT;
    const psd_ref *items = is_call ? v->as.call->items : v->as.items;
    uint32_t count = is_call ? v->as.call->item_count : is_dict ? v->count : 0;
    for (uint32_t i = 0; i + 1 < count; i += 2) {
        const psd_value *name = psd_value_at(p->pool, items[i]);
        const psd_value *value = psd_value_at(p->pool, items[i + 1]);
        if (value->kind == PSD_KIND_TENSOR && value->as.index == tensor &&
            name->kind == PSD_KIND_TEXT) {
            return psd_text_of(name);
        }
    }
    return (psd_span){NULL, 0};
}

/*
 * What stands in a storage without a class of its own needs torch.UntypedStorage, which
 * torch writes into streams and cannot read there.
 */
static const char *
unfit_for_streams(const pass *p, const psd_tensor *t)
{
    static const char *const sentences[PSD_DTYPE_COUNT] = {
#define PSD_SENTENCE(id, name, scalar, size, unit, group, typed) \
    [PSD_DTYPE_##id] = "torch reads no " name " from a legacy file",
        PSD_DTYPES(PSD_SENTENCE)
#undef PSD_SENTENCE
    };
    if (p->dialect != PSD_DIALECT_STREAM || !needs_v3(p, t->storage)) {
        return NULL;
    }
    if (!psd_dtype_row((psd_dtype)t->dtype)->typed) {
        return sentences[t->dtype];
    }
    return p->mixed[t->storage]
               ? "arrays of several dtypes share memory, which a legacy file cannot "
                 "tell"
               : "torch reads no storage without a dtype from a legacy file";
}

/* What the host promised: every tensor that has bytes has a storage, and a quantized one
 * is alone with its dtype there, for its storage's class is all that tells it. */
static psd_status
check_tensors(const pass *p, psd_ref root, psd_error *err)
{
    for (uint32_t i = 0; i < p->model->tensor_count; i++) {
        const psd_tensor *t = &p->model->tensors[i];
        if (t->layout != PSD_LAYOUT_STRIDED || (t->flags & PSD_TENSOR_META) != 0) {
            continue;
        }
        if (t->storage >= p->model->storage_count) {
            return psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE,
                            "a tensor without a storage");
        }
        if (t->more.quantizer != NULL && needs_v3(p, t->storage)) {
            return psd_fail(
                err, PSD_ARGUMENT, PSD_NOWHERE,
                "a quantized tensor shares its storage with one of another dtype");
        }
        const char *sentence = unfit_for_streams(p, t);
        if (sentence != NULL) {
            psd_fail(err, PSD_LEGACY, PSD_NOWHERE, sentence);
            return psd_fail_subject(err, name_of(p, root, i));
        }
    }
    return PSD_OK;
}

/* The call takes the tensor's place: a value's number is all that its referrers know. */
static void
put_call(pass *p, psd_ref ref, lowered l)
{
    psd_call *c = p->failed ? NULL : psd_arena_take(p->pool->arena, sizeof *c);
    if (c == NULL) {
        p->failed = true;
        return;
    }
    *c = (psd_call){.callable = l.callable, .args = l.args, .form = PSD_CALL_REDUCE};
    *psd_value_at(p->pool, ref) = (psd_value){
        .kind = PSD_KIND_CALL, .flags = l.plain ? PSD_VALUE_PLAIN : 0, .as.call = c};
}

static void
replace(pass *p, psd_ref ref, const psd_tensor *t, psd_ref classes[PSD_DTYPE_COUNT])
{
    bool composite = t->layout != PSD_LAYOUT_STRIDED;
    bool wraps = composite && (t->flags & PSD_TENSOR_PARAMETER) != 0 &&
                 t->more.composite->at != ref;
    if (composite && !wraps) {
        psd_value *value = psd_value_at(p->pool, ref);
        value->kind = PSD_KIND_CALL;
        value->as.call = t->more.composite->origin;
        return;
    }
    if (is_whole_storage(p, t)) {
        psd_ref id = persid(p, t->storage, classes);
        if (!p->failed) {
            *psd_value_at(p->pool, ref) = *psd_value_at(p->pool, id);
        }
        return;
    }
    put_call(p, ref,
             wraps ? lower_parameter(p, t, t->more.composite->at)
                   : lower_tensor(p, t, classes));
}

static void
find_mixed(pass *p)
{
    for (uint32_t i = 0; i < p->model->tensor_count; i++) {
        const psd_tensor *t = &p->model->tensors[i];
        bool dense =
            t->layout == PSD_LAYOUT_STRIDED && (t->flags & PSD_TENSOR_META) == 0;
        if (dense && t->storage < p->model->storage_count &&
            t->dtype != p->model->storages[t->storage].dtype) {
            p->mixed[t->storage] = true;
        }
    }
}

psd_status
psd_torch_write(psd_pool *pool, psd_ref root, const psd_model *model,
                psd_dialect dialect, psd_error *err)
{
    pass p = {.pool = pool, .model = model, .dialect = dialect};
    psd_ref classes[PSD_DTYPE_COUNT] = {0};
    size_t count = model->storage_count;
    p.persids = psd_arena_take_array(pool->arena, count, sizeof *p.persids);
    p.mixed = psd_arena_take_array(pool->arena, count, sizeof *p.mixed);
    if (p.persids == NULL || p.mixed == NULL) {
        return psd_fail_memory(err);
    }
    memset(p.persids, 0, count * sizeof *p.persids);
    memset(p.mixed, 0, count * sizeof *p.mixed);
    find_mixed(&p);
    psd_status status = check_tensors(&p, root, err);
    if (status != PSD_OK) {
        return status;
    }
    p.ordered_dict = global(&p, "collections", "OrderedDict");
    p.empty_tuple = tuple(&p, NULL, 0);
    p.text_storage = text(&p, "storage");
    p.text_cpu = text(&p, "cpu");
    /* Only what was there before: the pass adds values of its own. */
    psd_ref last = pool->count;
    for (psd_ref ref = 1; ref <= last && !p.failed; ref++) {
        if (pool->values[ref].kind == PSD_KIND_TENSOR) {
            replace(&p, ref, &model->tensors[pool->values[ref].as.index], classes);
        }
    }
    if (p.failed) {
        return psd_pool_full(pool) ? psd_fail(err, PSD_LIMIT, PSD_NOWHERE,
                                              "too many values for one pickle")
                                   : psd_fail_memory(err);
    }
    return PSD_OK;
}
