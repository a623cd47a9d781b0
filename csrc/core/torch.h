/* SPDX-License-Identifier: Apache-2.0
 *
 * What the values of a pool mean to torch: storages, and tensors as windows on
 * them.  Knows no files; a storage is a key and a number of elements.  Sources:
 * torch/_utils.py (the rebuild functions), torch/serialization.py (persistent
 * ids), torch/_tensor.py.
 */
#ifndef PSD_TORCH_H
#define PSD_TORCH_H

#include "dtype.h"
#include "error.h"
#include "hash.h"
#include "bounds.h"
#include "value.h"

/* Raw bytes with an element type, as persistent ids tell of them. */
typedef struct {
    psd_span key;      /* as text; integer keys in decimal */
    psd_span location; /* "cpu", "cuda:0", ...; only remembered */
    uint64_t numel;    /* elements of `dtype` */
    uint64_t size;     /* bytes */
    uint32_t position; /* of the first persistent id, in the pickle */
    uint32_t entry;    /* free for the archive */
    uint8_t dtype;     /* psd_dtype; UINT8 when untyped */
    bool untyped;
} psd_storage;

enum {
    PSD_TENSOR_PARAMETER = 1 << 0,
    PSD_TENSOR_REQUIRES_GRAD = 1 << 1,
    PSD_TENSOR_CONJ = 1 << 2, /* values are to be conjugated, then ... */
    PSD_TENSOR_NEG = 1 << 3,  /* ... negated */
    PSD_TENSOR_META = 1 << 4, /* no bytes at all */
    PSD_TENSOR_BUFFER = 1 << 5,
};

/* A window on a storage.  Geometry is checked against the storage's size. */
typedef struct {
    const int64_t *shape;   /* rank numbers, then ... */
    const int64_t *strides; /* ... rank numbers, in elements */
    uint64_t numel;   /* product of shape; times the item size it fits in 63 bits */
    int64_t offset;   /* in elements of `dtype` */
    uint32_t storage; /* index; UINT32_MAX for a meta tensor without one */
    psd_ref state;    /* Python attributes, 0 if none */
    uint8_t dtype;    /* psd_dtype */
    uint8_t rank;
    uint8_t flags;
} psd_tensor;

#define PSD_NO_STORAGE UINT32_MAX

typedef struct {
    psd_storage *storages;
    psd_tensor *tensors;
    uint32_t storage_count, storage_capacity;
    uint32_t tensor_count, tensor_capacity;
} psd_model;

void psd_model_init(psd_model *model);
void psd_model_clear(psd_model *model, psd_alloc alloc);

/*
 * Find the storages and dense tensors of a pool.
 *
 * Persistent ids become STORAGE and calls of the known rebuild functions become
 * TENSOR, in place, so that every reference to them stays true.  Everything
 * else is left as it is.  `base` is the pickle's offset, for errors.
 *
 *   PSD_STORAGE  a persistent id that is none, or two that contradict
 *   PSD_TENSOR   a rebuild function with wrong arguments, or a window that
 *                reaches beyond its storage
 *   PSD_LIMIT, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_torch_read(psd_pool *pool, uint64_t base,
                                      const psd_limits *limits, psd_hash_key key,
                                      psd_model *model, psd_error *err);

/*
 * The way back: every TENSOR of the pool becomes a call with persistent ids, in
 * place.  Storages are keyed by their number, tensors of one storage share its
 * persistent id.  Dtypes without a typed storage class, and storages seen with
 * several dtypes, go through _rebuild_tensor_v3.  Meta tensors keep shape and
 * dtype, and no storage.
 */
PSD_CHECKED psd_status psd_torch_write(psd_pool *pool, const psd_model *model,
                                       psd_error *err);

#endif
