/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the torch pass share.  Private to the torch room.
 */
#ifndef PSD_TORCH_PASS_H
#define PSD_TORCH_PASS_H

#include "torch_known.h"

/* All that the pass needs at hand. */
typedef struct {
    psd_pool *pool;
    psd_model *model;
    const psd_torch_source *source;
    const psd_limits *limits;
    uint32_t *embedded; /* by value: what was found in these bytes; or NULL */
    uint64_t spelled;   /* pairs of OrderedDicts that were spelled out */
    uint64_t named;     /* one bit for each psd_known that the pickle names */
    uint32_t unseen;    /* values that are storages and that no tensor looks at yet */
    psd_error *err;
} psd_torch_pass;

/* Flags of values: tensors look at this storage; this list holds numbers, or whole ones,
 * which need be found out only once. */
#define PSD_VALUE_SEEN 1u
#define PSD_VALUE_NUMBERS 2u
#define PSD_VALUE_WHOLE_NUMBERS 4u

psd_status psd_torch_no_memory(psd_torch_pass *p);

/* PSD_TENSOR at the call's place, naming the function that was called. */
psd_status psd_torch_bad(psd_torch_pass *p, const psd_call *call, const char *sentence);

/* The tensor at `ref`, or NULL when something else is there. */
static inline const psd_tensor *
psd_torch_tensor_at(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *value = psd_value_at(p->pool, ref);
    return value->kind == PSD_KIND_TENSOR ? &p->model->tensors[value->as.index] : NULL;
}

/* The tag of the global at `ref`; 0 when something else is there. */
static inline uint16_t
psd_torch_tag_at(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *value = psd_value_at(p->pool, ref);
    return value->kind == PSD_KIND_GLOBAL ? value->as.global->tag : 0;
}

/* The dtype that the global at `ref` is; NONE when it is none. */
static inline psd_dtype
psd_torch_dtype_at(const psd_torch_pass *p, psd_ref ref)
{
    uint16_t tag = psd_torch_tag_at(p, ref);
    return psd_known_of(tag) == PSD_KNOWN_DTYPE ? psd_known_dtype(tag) : PSD_DTYPE_NONE;
}

/* The bool at `ref`; false when something else is there. */
static inline bool
psd_torch_flag_at(const psd_torch_pass *p, psd_ref ref, bool *value)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    *value = v->kind == PSD_KIND_BOOL && v->as.boolean;
    return v->kind == PSD_KIND_BOOL;
}

/* No honest dict of flags or attributes that torch writes is longer, and a huge one
 * that is shared must not be walked once a tensor. */
#define PSD_ATTRIBUTES_MOST 64u

/* What the dict at `ref` holds under this text last; 0 if nothing. */
psd_ref psd_torch_lookup(const psd_torch_pass *p, psd_ref ref, psd_span name);

_Static_assert(PSD_KNOWN_COUNT <= 64, "`named` has a bit for each");

/* Does the pickle name it at all?  If not, there is no call of it to look for. */
static inline bool
psd_torch_names(const psd_torch_pass *p, psd_known known)
{
    return (p->named >> known & 1) != 0;
}

/* Turn a persistent id into what it names, in place. */
PSD_CHECKED psd_status psd_torch_read_persid(psd_torch_pass *p, psd_ref ref);

/* The storage of torch.storage._load_from_bytes(bytes), in place of the call. */
PSD_CHECKED psd_status psd_torch_read_embedded(psd_torch_pass *p, psd_ref ref);
void psd_torch_forget_embedded(psd_torch_pass *p);

/* Shape and strides of a tensor; their lengths and signs are checked here. */
PSD_CHECKED psd_status psd_torch_read_shape(psd_torch_pass *p, const psd_call *call,
                                            psd_ref size_ref, psd_ref stride_ref,
                                            psd_tensor *t);

/* The number of elements of a shape that was read. */
PSD_CHECKED psd_status psd_torch_count(psd_torch_pass *p, const psd_call *call,
                                       psd_tensor *t);

/* A tuple or list of whole numbers, or a torch.Size of one. */
PSD_CHECKED bool psd_torch_sequence(const psd_pool *pool, psd_ref ref,
                                    const psd_ref **items, uint32_t *count);

/* Tensors made of others; `call` is one of the function that `known` is. */
PSD_CHECKED psd_status psd_torch_read_composite(psd_torch_pass *p, psd_call *call,
                                                psd_known known, const psd_ref *args,
                                                uint32_t count, psd_tensor *t);

/* A wrapper's parts: the tensors among its attributes, known only now. */
PSD_CHECKED psd_status psd_torch_read_attributes(psd_torch_pass *p, psd_ref state,
                                                 psd_tensor *t);

/* _rebuild_qtensor, of torch 1.2 to today. */
PSD_CHECKED psd_status psd_torch_read_quantized(psd_torch_pass *p, const psd_call *call,
                                                const psd_ref *args, uint32_t count,
                                                psd_tensor *t);

/* Whole modules and bound methods of them: what their state_dicts would be. */
PSD_CHECKED psd_status psd_torch_find_modules(psd_torch_pass *p, psd_ref root);

/* Storage, offset, size and stride at `args`, which all dense forms begin with. */
PSD_CHECKED psd_status psd_torch_read_window(psd_torch_pass *p, const psd_call *call,
                                             const psd_ref *args, psd_dtype dtype,
                                             psd_tensor *t);

#endif
