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
    const psd_limits *limits;
    psd_alloc alloc;
    psd_hash_key key;
    uint64_t base;
    uint32_t *slots; /* storages by key: number + 1, or 0 */
    uint32_t slot_count;
    psd_error *err;
} psd_torch_pass;

psd_status psd_torch_no_memory(psd_torch_pass *p);

/* PSD_TENSOR at the call's place, naming the function that was called. */
psd_status psd_torch_bad(psd_torch_pass *p, const psd_call *call, const char *sentence);

/* Turn a persistent id into its storage, in place. */
PSD_CHECKED psd_status psd_torch_add_storage(psd_torch_pass *p, psd_ref ref);

/* Shape and strides of a tensor; their lengths and signs are checked here. */
PSD_CHECKED psd_status psd_torch_read_shape(psd_torch_pass *p, const psd_call *call,
                                            psd_ref size_ref, psd_ref stride_ref,
                                            psd_tensor *t);

/* The number of elements of a shape that was read. */
PSD_CHECKED psd_status psd_torch_count(psd_torch_pass *p, const psd_call *call,
                                       psd_tensor *t);

/* Storage, offset, size and stride at `args`, which all dense forms begin with. */
PSD_CHECKED psd_status psd_torch_read_window(psd_torch_pass *p, const psd_call *call,
                                             const psd_ref *args, psd_dtype dtype,
                                             psd_tensor *t);

#endif
