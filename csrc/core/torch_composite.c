/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors that are made of others: sparse ones, nested ones, and wrappers whose
 * real tensors stand among their attributes.  What the numbers in the parts say
 * is for those who read them; here the parts' shapes are held against each other.
 * Sources: torch/_utils.py, torch/_tensor.py (_reduce_ex_internal), and for what
 * TorchScript writes torch/csrc/jit/serialization/pickler.cpp.
 */
#include "torch_pass.h"

const char *
psd_layout_name(psd_layout layout)
{
    static const char *const names[PSD_LAYOUT_COUNT] = {
        "strided",    "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr",
        "sparse_bsc", "nested",     "jagged",     "subclass",
    };
    return names[layout];
}

/* ---------------------------------------------------------------- parts */

#define PARTS_MOST PSD_ATTRIBUTES_MOST

typedef struct {
    psd_torch_pass *p;
    const psd_call *call;
    psd_call *origin;
    psd_tensor *t;
    psd_part parts[PARTS_MOST];
    uint32_t count;
} gathering;

static psd_status
bad(gathering *g, const char *sentence)
{
    return psd_torch_bad(g->p, g->call, sentence);
}

/* Add the dense tensor at `ref`; NULL with an error when there is none. */
static const psd_tensor *
add_part(gathering *g, psd_span name, psd_ref ref)
{
    const psd_tensor *part = psd_torch_tensor_at(g->p, ref);
    if (part == NULL || part->layout != PSD_LAYOUT_STRIDED ||
        (part->flags & PSD_TENSOR_META) != 0) {
        (void)bad(g, "a part of a tensor is not a dense tensor");
        return NULL;
    }
    g->parts[g->count++] = (psd_part){name, ref};
    return part;
}

static psd_status
finish(gathering *g, psd_composite more)
{
    psd_arena *arena = g->p->pool->arena;
    psd_part *parts = psd_arena_take_array(arena, g->count, sizeof *parts);
    psd_composite *composite = psd_arena_take(arena, sizeof *composite);
    if (parts == NULL || composite == NULL) {
        return psd_torch_no_memory(g->p);
    }
    if (g->count > 0) {
        memcpy(parts, g->parts, g->count * sizeof *parts);
    }
    *composite = more;
    composite->nbytes = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        const psd_tensor *part = psd_torch_tensor_at(g->p, parts[i].tensor);
        if (!psd_add(composite->nbytes, psd_tensor_nbytes(part), &composite->nbytes)) {
            composite->nbytes = UINT64_MAX; /* one part, told of many times */
        }
    }
    composite->parts = parts;
    composite->count = g->count;
    composite->origin = g->origin;
    g->t->more.composite = composite;
    return PSD_OK;
}

/* Shape from the file, strides of no meaning. */
static psd_status
read_size(gathering *g, psd_ref ref)
{
    psd_status status = psd_torch_read_shape(g->p, g->call, ref, ref, g->t);
    const char *fault = status == PSD_OK ? psd_window_count(g->t, 1) : NULL;
    return fault == NULL ? status : bad(g, fault);
}

static bool
is_index(const psd_tensor *t)
{
    return t->dtype == PSD_DTYPE_INT64 || t->dtype == PSD_DTYPE_INT32;
}

/* ---------------------------------------------------------------- sparse */

/* (indices, values, size[, is_coalesced]) */
static psd_status
read_coo(gathering *g, const psd_ref *data, uint32_t count)
{
    if (count != 3 && count != 4) {
        return bad(g, "a COO tensor has not three or four parts");
    }
    const psd_tensor *indices = add_part(g, PSD_LITERAL("indices"), data[0]);
    const psd_tensor *values =
        indices == NULL ? NULL : add_part(g, PSD_LITERAL("values"), data[1]);
    if (values == NULL) {
        return g->p->err->status;
    }
    psd_status status = read_size(g, data[2]);
    if (status != PSD_OK) {
        return status;
    }
    psd_tensor *t = g->t;
    t->dtype = values->dtype;
    if (!is_index(indices) || indices->rank != 2 || values->rank < 1 ||
        indices->shape[1] != values->shape[0] ||
        indices->shape[0] != (int64_t)t->rank + 1 - values->rank) {
        return bad(g, "indices, values and size of a COO tensor do not fit together");
    }
    for (unsigned i = 1; i < values->rank; i++) {
        if (values->shape[i] != t->shape[indices->shape[0] + i - 1]) {
            return bad(g, "the values of a COO tensor have another size than it has");
        }
    }
    bool coalesced;
    psd_composite more = {.coalesced = -1};
    if (count == 4 && psd_torch_flag_at(g->p, data[3], &coalesced)) {
        more.coalesced = coalesced;
    }
    return finish(g, more);
}

/* What a compressed sparse tensor is made of. */
typedef struct {
    const psd_tensor *compressed, *plain, *values;
    bool by_rows, blocks;
} compressed_parts;

/* Of batches each part has the same leading sizes. */
static bool
fit_together(const psd_tensor *t, const compressed_parts *c)
{
    if (!is_index(c->compressed) || c->compressed->dtype != c->plain->dtype ||
        c->compressed->rank < 1 || c->plain->rank != c->compressed->rank) {
        return false;
    }
    unsigned batch = c->compressed->rank - 1u;
    bool fits = t->rank >= batch + 2 &&
                c->values->rank == t->rank - 1u + (c->blocks ? 2u : 0u) &&
                c->values->shape[batch] == c->plain->shape[batch];
    for (unsigned i = 0; fits && i < batch; i++) {
        fits = t->shape[i] == c->compressed->shape[i] &&
               t->shape[i] == c->plain->shape[i] && t->shape[i] == c->values->shape[i];
    }
    return fits;
}

/* One index more than rows, or than rows of blocks. */
static bool
has_all_rows(const psd_tensor *t, const compressed_parts *c)
{
    unsigned batch = c->compressed->rank - 1u;
    int64_t rows = t->shape[batch + (c->by_rows ? 0u : 1u)], block = 1;
    if (c->blocks) {
        block = c->values->shape[batch + (c->by_rows ? 1u : 2u)];
    }
    return block > 0 && rows % block == 0 &&
           c->compressed->shape[batch] - 1 == rows / block;
}

/*
 * (compressed indices, plain indices, values, size).  Values of BSR and BSC are
 * blocks, and any may have dense sizes behind.
 */
static psd_status
read_compressed(gathering *g, psd_layout layout, const psd_ref *data, uint32_t count)
{
    compressed_parts c = {
        .by_rows = layout == PSD_LAYOUT_SPARSE_CSR || layout == PSD_LAYOUT_SPARSE_BSR,
        .blocks = layout == PSD_LAYOUT_SPARSE_BSR || layout == PSD_LAYOUT_SPARSE_BSC,
    };
    if (count != 4) {
        return bad(g, "a compressed sparse tensor has not four parts");
    }
    c.compressed = add_part(
        g, c.by_rows ? PSD_LITERAL("crow_indices") : PSD_LITERAL("ccol_indices"),
        data[0]);
    c.plain = c.compressed == NULL ? NULL
                                   : add_part(g,
                                              c.by_rows ? PSD_LITERAL("col_indices")
                                                        : PSD_LITERAL("row_indices"),
                                              data[1]);
    c.values = c.plain == NULL ? NULL : add_part(g, PSD_LITERAL("values"), data[2]);
    if (c.values == NULL) {
        return g->p->err->status;
    }
    psd_status status = read_size(g, data[3]);
    if (status != PSD_OK) {
        return status;
    }
    g->t->dtype = c.values->dtype;
    if (!fit_together(g->t, &c)) {
        return bad(g,
                   "indices, values and size of a sparse tensor do not fit together");
    }
    return has_all_rows(g->t, &c)
               ? finish(g, (psd_composite){.coalesced = -1})
               : bad(g, "a sparse tensor has not one index more than rows");
}

/* A layout as _get_layout('torch.sparse_coo'), or as TorchScript's number. */
static psd_layout
layout_at(gathering *g, psd_ref ref)
{
    static const psd_layout by_number[] = {
        PSD_LAYOUT_STRIDED,    PSD_LAYOUT_SPARSE_COO, PSD_LAYOUT_SPARSE_CSR,
        PSD_LAYOUT_STRIDED,    PSD_LAYOUT_SPARSE_CSC, PSD_LAYOUT_SPARSE_BSR,
        PSD_LAYOUT_SPARSE_BSC,
    };
    const psd_value *v = psd_value_at(g->p->pool, ref);
    if (v->kind == PSD_KIND_INT) {
        bool known = v->as.integer >= 0 &&
                     (size_t)v->as.integer < sizeof by_number / sizeof *by_number;
        return known ? by_number[v->as.integer] : PSD_LAYOUT_STRIDED;
    }
    psd_span name = {NULL, 0};
    if (v->kind == PSD_KIND_CALL) {
        const psd_value *args = psd_value_at(g->p->pool, v->as.call->args);
        uint16_t tag = psd_torch_tag_at(g->p, v->as.call->callable);
        if (psd_known_of(tag) == PSD_KNOWN_GET_LAYOUT && args->kind == PSD_KIND_TUPLE &&
            args->count == 1) {
            const psd_value *text = psd_value_at(g->p->pool, args->as.items[0]);
            name = text->kind == PSD_KIND_TEXT ? psd_text_of(text) : name;
        }
    }
    const psd_span prefix = PSD_LITERAL("torch.");
    for (int i = PSD_LAYOUT_SPARSE_COO; i <= PSD_LAYOUT_SPARSE_BSC; i++) {
        const char *word = psd_layout_name((psd_layout)i);
        psd_span tail = {(const uint8_t *)word, strlen(word)};
        if (name.size == prefix.size + tail.size &&
            memcmp(name.data, prefix.data, prefix.size) == 0 &&
            memcmp(name.data + prefix.size, tail.data, tail.size) == 0) {
            return (psd_layout)i;
        }
    }
    return PSD_LAYOUT_STRIDED;
}

/*
 * Python: (layout, (parts..., size[, is_coalesced])).
 * TorchScript: (layout, size, requires_grad, parts..., hooks).
 */
static psd_status
read_sparse(gathering *g, const psd_ref *args, uint32_t count)
{
    psd_ref parts[4];
    const psd_ref *data = NULL;
    uint32_t data_count = 0;
    psd_layout layout = count > 0 ? layout_at(g, args[0]) : PSD_LAYOUT_STRIDED;
    if (layout == PSD_LAYOUT_STRIDED) {
        return bad(g, "a sparse tensor of a layout that is not known");
    }
    if (count == 2) {
        if (!psd_torch_sequence(g->p->pool, args[1], &data, &data_count)) {
            return bad(g, "the parts of a sparse tensor are no tuple");
        }
    }
    else if (count == 6 || count == 7) {
        bool requires_grad;
        data_count = count - 3;
        memcpy(parts, args + 3, (data_count - 1) * sizeof *parts);
        parts[data_count - 1] = args[1];
        data = parts;
        if (psd_torch_flag_at(g->p, args[2], &requires_grad) && requires_grad) {
            g->t->flags |= PSD_TENSOR_REQUIRES_GRAD;
        }
    }
    else {
        return bad(g, "a sparse tensor has a wrong number of arguments");
    }
    g->t->layout = (uint8_t)layout;
    return layout == PSD_LAYOUT_SPARSE_COO
               ? read_coo(g, data, data_count)
               : read_compressed(g, layout, data, data_count);
}

/* ---------------------------------------------------------------- nested */

static int64_t *
new_shape(gathering *g, unsigned rank)
{
    int64_t *numbers =
        psd_arena_take_array(g->p->pool->arena, 2 * (size_t)rank, sizeof *numbers);
    if (numbers != NULL) {
        memset(numbers, 0, 2 * (size_t)rank * sizeof *numbers);
        g->t->rank = (uint8_t)rank;
        g->t->shape = numbers;
        g->t->strides = numbers + rank;
    }
    return numbers;
}

/* (buffer, sizes [n, rank], strides [n, rank], offsets [n]); ragged sizes are -1. */
static psd_status
read_nested(gathering *g, const psd_ref *args, uint32_t count)
{
    static const char *const names[] = {"buffer", "sizes", "strides", "offsets"};
    const psd_tensor *part[4];
    if (count != 4) {
        return bad(g, "a nested tensor has not four parts");
    }
    for (unsigned i = 0; i < 4; i++) {
        psd_span name = {(const uint8_t *)names[i], strlen(names[i])};
        part[i] = add_part(g, name, args[i]);
        if (part[i] == NULL) {
            return g->p->err->status;
        }
    }
    if (part[0]->rank != 1 || part[1]->rank != 2 || part[2]->rank != 2 ||
        part[3]->rank != 1 || part[1]->dtype != PSD_DTYPE_INT64 ||
        part[2]->dtype != PSD_DTYPE_INT64 || part[3]->dtype != PSD_DTYPE_INT64 ||
        part[1]->shape[0] != part[2]->shape[0] || part[1]->shape[1] > 63 ||
        part[1]->shape[1] != part[2]->shape[1] ||
        part[1]->shape[0] != part[3]->shape[0]) {
        return bad(g, "the parts of a nested tensor do not fit together");
    }
    unsigned rank = (unsigned)part[1]->shape[1] + 1;
    int64_t *shape = new_shape(g, rank);
    if (shape == NULL) {
        return psd_torch_no_memory(g->p);
    }
    shape[0] = part[1]->shape[0];
    for (unsigned i = 1; i < rank; i++) {
        shape[i] = -1;
    }
    g->t->layout = PSD_LAYOUT_NESTED;
    g->t->dtype = part[0]->dtype;
    g->t->numel = part[0]->numel;
    return finish(g, (psd_composite){.coalesced = -1});
}

/* Values and offsets, and lengths where there are some; false with an error. */
static bool
gather_jagged(gathering *g, psd_ref dict)
{
    const psd_torch_pass *p = g->p;
    psd_ref values = psd_torch_lookup(p, dict, PSD_LITERAL("values"));
    psd_ref offsets = psd_torch_lookup(p, dict, PSD_LITERAL("offsets"));
    psd_ref lengths = psd_torch_lookup(p, dict, PSD_LITERAL("lengths"));
    if (values == 0 || offsets == 0) {
        (void)bad(g, "a jagged tensor has no values or no offsets");
        return false;
    }
    bool has_lengths = lengths != 0 && psd_kind_of(p->pool, lengths) != PSD_KIND_NONE;
    return add_part(g, PSD_LITERAL("values"), values) != NULL &&
           add_part(g, PSD_LITERAL("offsets"), offsets) != NULL &&
           (!has_lengths || add_part(g, PSD_LITERAL("lengths"), lengths) != NULL);
}

/* The dimension of ragged length, 1 if the file does not say. */
static int64_t
ragged_axis(const gathering *g, psd_ref dict)
{
    psd_ref axis = psd_torch_lookup(g->p, dict, PSD_LITERAL("_ragged_idx"));
    const psd_value *v = psd_value_at(g->p->pool, axis);
    return axis != 0 && v->kind == PSD_KIND_INT ? v->as.integer : 1;
}

/* One dict: values, offsets, lengths or None, _ragged_idx, ..., requires_grad. */
static psd_status
read_jagged(gathering *g, const psd_ref *args, uint32_t count)
{
    psd_torch_pass *p = g->p;
    if (count != 1 || psd_kind_of(p->pool, args[0]) != PSD_KIND_DICT) {
        return bad(g, "a jagged tensor is not made of a dict");
    }
    if (!gather_jagged(g, args[0])) {
        return p->err->status;
    }
    const psd_tensor *values = psd_torch_tensor_at(p, g->parts[0].tensor);
    const psd_tensor *offsets = psd_torch_tensor_at(p, g->parts[1].tensor);
    int64_t axis = ragged_axis(g, args[0]);
    if (!is_index(offsets) || offsets->rank != 1 || offsets->shape[0] < 1 ||
        values->rank < 1 || values->rank > 63 || axis < 1 || axis > values->rank) {
        return bad(g, "values and offsets of a jagged tensor do not fit together");
    }
    if (g->count > 2) {
        const psd_tensor *lengths = psd_torch_tensor_at(p, g->parts[2].tensor);
        if (!is_index(lengths) || lengths->rank != 1 ||
            lengths->shape[0] != offsets->shape[0] - 1) {
            return bad(g, "lengths and offsets of a jagged tensor do not fit together");
        }
    }
    int64_t *shape = new_shape(g, values->rank + 1u);
    if (shape == NULL) {
        return psd_torch_no_memory(p);
    }
    shape[0] = offsets->shape[0] - 1;
    for (unsigned i = 1; i <= values->rank; i++) {
        shape[i] = (int64_t)i == axis ? -1 : values->shape[i - 1];
    }
    bool requires_grad;
    psd_ref grad = psd_torch_lookup(p, args[0], PSD_LITERAL("requires_grad"));
    if (grad != 0 && psd_torch_flag_at(p, grad, &requires_grad) && requires_grad) {
        g->t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    g->t->layout = PSD_LAYOUT_JAGGED;
    g->t->dtype = values->dtype;
    g->t->numel = values->numel;
    return finish(g, (psd_composite){.coalesced = -1});
}

/* ---------------------------------------------------------------- wrappers */

/* (class, dtype, size, stride, storage offset, layout, device, requires_grad) */
static psd_status
read_wrapper(gathering *g, const psd_ref *args, uint32_t count)
{
    bool requires_grad;
    if (count != 8 || !psd_torch_flag_at(g->p, args[7], &requires_grad)) {
        return bad(g, "a tensor subclass has wrong arguments");
    }
    psd_dtype dtype = psd_torch_dtype_at(g->p, args[1]);
    if (dtype == PSD_DTYPE_NONE ||
        psd_kind_of(g->p->pool, args[0]) != PSD_KIND_GLOBAL) {
        return bad(g, "a tensor subclass without a class or a dtype");
    }
    psd_status status = psd_torch_read_shape(g->p, g->call, args[2], args[3], g->t);
    const char *fault = status == PSD_OK ? psd_window_count(g->t, 1) : NULL;
    if (status != PSD_OK || fault != NULL) {
        return fault == NULL ? status : bad(g, fault);
    }
    g->t->layout = PSD_LAYOUT_SUBCLASS;
    g->t->dtype = (uint8_t)dtype;
    if (requires_grad) {
        g->t->flags |= PSD_TENSOR_REQUIRES_GRAD;
    }
    g->t->type = args[0];
    return finish(g, (psd_composite){.coalesced = -1});
}

static void
gather_attributes(gathering *g, psd_ref ref)
{
    const psd_value *dict = psd_value_at(g->p->pool, ref);
    if (dict->kind != PSD_KIND_DICT || dict->count > 2 * PSD_ATTRIBUTES_MOST) {
        return;
    }
    for (uint32_t i = 0; i + 1 < dict->count && g->count < PARTS_MOST; i += 2) {
        const psd_value *key = psd_value_at(g->p->pool, dict->as.items[i]);
        psd_ref value = dict->as.items[i + 1];
        if (key->kind == PSD_KIND_TEXT &&
            psd_kind_of(g->p->pool, value) == PSD_KIND_TENSOR) {
            g->parts[g->count++] = (psd_part){psd_text_of(key), value};
        }
    }
}

/* A dict, or of a class with slots a dict or None and a dict. */
psd_status
psd_torch_read_attributes(psd_torch_pass *p, psd_ref state, psd_tensor *t)
{
    gathering g = {.p = p, .t = t, .origin = t->more.composite->origin};
    const psd_value *v = psd_value_at(p->pool, state);
    psd_composite more = *t->more.composite;
    gather_attributes(&g, state);
    if (v->kind == PSD_KIND_TUPLE && v->count == 2) {
        gather_attributes(&g, v->as.items[0]);
        gather_attributes(&g, v->as.items[1]);
    }
    return finish(&g, more);
}

psd_status
psd_torch_read_composite(psd_torch_pass *p, psd_call *call, psd_known known,
                         const psd_ref *args, uint32_t count, psd_tensor *t)
{
    gathering g = {.p = p, .call = call, .origin = call, .t = t};
    *t = (psd_tensor){.storage = PSD_NO_STORAGE};
    switch (known) {
    case PSD_KNOWN_REBUILD_SPARSE: return read_sparse(&g, args, count);
    case PSD_KNOWN_REBUILD_NESTED: return read_nested(&g, args, count);
    case PSD_KNOWN_REBUILD_JAGGED: return read_jagged(&g, args, count);
    default: return read_wrapper(&g, args, count);
    }
}
