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
#include "bounds.h"
#include "names.h"
#include "value.h"

#define PSD_NO_STORAGE UINT32_MAX

/* Where the bytes of a storage are; the archive finds out. */
typedef enum {
    PSD_PLACE_NONE,   /* not known yet, or nowhere: a meta storage */
    PSD_PLACE_RECORD, /* in a zip archive's record, stored or deflated */
    PSD_PLACE_FILE,   /* in the file, as they are */
    PSD_PLACE_MEMORY, /* in the archive's memory: they stood within a pickle */
    PSD_PLACE_LOST,   /* not there, or damaged: only when a file is salvaged */
} psd_place;

/* Raw bytes with an element type, as persistent ids tell of them. */
typedef struct {
    psd_span key;           /* as text; integer keys in decimal */
    psd_span location;      /* "cpu", "cuda:0", ...; only remembered */
    uint64_t numel;         /* elements of `dtype` */
    uint64_t size;          /* bytes */
    uint64_t parent_offset; /* in bytes, of a view */
    uint32_t parent;        /* the storage that this is a view of, or PSD_NO_STORAGE */
    uint32_t position;      /* of the first persistent id, in the pickle */
    uint8_t dtype;          /* psd_dtype; UINT8 when untyped */
    bool untyped;
    bool big_endian; /* whatever the archive says of itself */
    uint8_t place;   /* psd_place, which tells what `at` holds: */
    uint32_t skip;   /* RECORD: bytes of it that come before the storage's */
    union {
        uint32_t entry;        /* RECORD */
        uint64_t offset;       /* FILE: absolute */
        const uint8_t *memory; /* MEMORY */
    } at;
} psd_storage;

/* What a tensor is made of. */
typedef enum {
    PSD_LAYOUT_STRIDED, /* a window on a storage; quantized ones with a psd_quantizer */
    /* These are made of other tensors, told by a psd_composite: */
    PSD_LAYOUT_SPARSE_COO,
    PSD_LAYOUT_SPARSE_CSR,
    PSD_LAYOUT_SPARSE_CSC,
    PSD_LAYOUT_SPARSE_BSR,
    PSD_LAYOUT_SPARSE_BSC,
    PSD_LAYOUT_NESTED,   /* ragged parts of one buffer */
    PSD_LAYOUT_JAGGED,   /* rows of ragged length, one after another */
    PSD_LAYOUT_SUBCLASS, /* a wrapper: its tensors stand in its attributes */
    PSD_LAYOUT_COUNT
} psd_layout;

/* "strided", "sparse_coo", ...: torch's own word where it has one. */
const char *psd_layout_name(psd_layout layout);

typedef struct {
    psd_span name;  /* "indices", "values", ...; an attribute's name */
    psd_ref tensor; /* a TENSOR */
} psd_part;

typedef struct {
    const psd_part *parts;
    uint32_t count;
    int8_t coalesced; /* of COO: 1, 0, or -1: the file does not say */
    uint64_t nbytes;  /* of all parts */
    psd_call *origin; /* the call that it was, which is how it is written back */
    psd_ref at;       /* where that stands; a Parameter of it stands elsewhere */
} psd_composite;

typedef enum {
    PSD_PER_TENSOR,
    PSD_PER_CHANNEL,
    PSD_PER_CHANNEL_FLOAT, /* zero points are floats: per_channel_affine_float_qparams */
} psd_qscheme;

/* How integers become reals: (integer - zero_point) * scale. */
typedef struct {
    uint8_t scheme;
    double scale; /* PER_TENSOR */
    int64_t zero_point;
    psd_ref scales; /* PER_CHANNEL: TENSORs, or lists of numbers in old files */
    psd_ref zero_points;
    int64_t axis;
} psd_quantizer;

enum {
    PSD_TENSOR_PARAMETER = 1 << 0,
    PSD_TENSOR_REQUIRES_GRAD = 1 << 1,
    PSD_TENSOR_CONJ = 1 << 2, /* values are to be conjugated, then ... */
    PSD_TENSOR_NEG = 1 << 3,  /* ... negated */
    PSD_TENSOR_META = 1 << 4, /* no bytes at all */
    PSD_TENSOR_BUFFER = 1 << 5,
    PSD_TENSOR_STORAGE = 1 << 6, /* it was a storage by itself that was saved */
    PSD_TENSOR_LOST = 1 << 7,    /* a META whose bytes were lost with the file's */
};

/* A window on a storage.  Geometry is checked against the storage's size. */
typedef struct {
    const int64_t *shape;   /* rank numbers, then ... */
    const int64_t *strides; /* ... rank numbers, in elements */
    uint64_t numel;   /* product of shape; times the item size it fits in 63 bits */
    int64_t offset;   /* in elements of `dtype` */
    uint32_t storage; /* index; UINT32_MAX for a meta tensor without one */
    psd_ref state;    /* Python attributes, 0 if none */
    psd_ref type;     /* the GLOBAL of a subclass, or 0 */
    psd_ref at;       /* its own number in the pool, 0 of a tensor told elsewhere */
    uint8_t dtype;    /* psd_dtype; of a composite: of its values */
    uint8_t rank;
    uint8_t flags;
    uint8_t layout; /* psd_layout */
    union {
        psd_composite *composite;       /* of every layout but STRIDED */
        const psd_quantizer *quantizer; /* of STRIDED: NULL unless quantized */
    } more;
} psd_tensor;

/* A whole module, or a bound method of one, and what its state_dict() would give. */
typedef struct {
    psd_ref at;         /* the module's or method's call */
    psd_ref state_dict; /* an OrderedDict with _metadata; 0: too large to be made */
    psd_ref method;     /* a bound method's name; 0 of a module itself */
    psd_ref
        untold; /* what may be missing, a LIST of (path, what, is it a hook?); or 0 */
} psd_module;

typedef struct {
    psd_alloc alloc;
    psd_storage *storages;
    psd_tensor *tensors;
    uint32_t storage_count, storage_capacity;
    uint32_t tensor_count, tensor_capacity;
    psd_module *modules; /* in the order of `at`; none stands within another */
    uint32_t module_count, module_capacity;
    /* The keys of the first storages are their numbers, as torch counts them, and need
     * no table; those of the others are in one. */
    uint32_t numbered;
    psd_names storage_names;
    psd_names tensor_names; /* tar only: tensors by the number that names them */
} psd_model;

void psd_model_init(psd_model *model, psd_alloc alloc, psd_hash_key key);
void psd_model_clear(psd_model *model);

/* Room for so many in all, and one more; false when there is no memory. */
PSD_CHECKED bool psd_model_reserve(psd_model *model, uint64_t storages,
                                   uint64_t tensors);
PSD_CHECKED bool psd_model_add_storage(psd_model *model, const psd_storage *storage);
PSD_CHECKED bool psd_model_add_tensor(psd_model *model, const psd_tensor *tensor);

/* What the module at `at` would give; modules are mostly told in the order of `at`. */
PSD_CHECKED bool psd_model_set_module(psd_model *model, psd_ref at, psd_ref state_dict);

/* Elements that a byte holds; of the packed types more than one, but a storage by itself
 * counts bytes. */
unsigned psd_tensor_per_byte(const psd_tensor *tensor);

/* Bytes of all its elements, or of all its parts. */
uint64_t psd_tensor_nbytes(const psd_tensor *tensor);

/*
 * Note what the state_dict of the object at `at` would be: `count` refs of names
 * and values.  For hosts that know it from elsewhere; before anyone looks.  False when
 * there is no memory, or no room in the pool.
 */
PSD_CHECKED bool psd_torch_note_module(psd_pool *pool, psd_model *model, psd_ref at,
                                       const psd_ref *entries, uint32_t count);

/* An empty OrderedDict, or 0. */
psd_ref psd_torch_new_ordered_dict(psd_pool *pool);

/* Let tensors over storages that are LOST, and those made of such, be META and LOST. */
void psd_model_lose(psd_pool *pool, psd_model *model);

/* What is known of a module at `ref`, or NULL. */
const psd_module *psd_model_module(const psd_model *model, psd_ref ref);

/* The number of the storage with this key, or PSD_NO_STORAGE. */
uint32_t psd_model_find(const psd_model *model, psd_span key);

/*
 * The same; or name by this key the storage that the caller adds next, whose number is
 * model->storage_count.  False when there is no memory.
 */
PSD_CHECKED bool psd_model_find_or_name(psd_model *model, psd_span key,
                                        uint32_t *number);

/*
 * The geometry of a window whose shape, strides and offset are set.  NULL, or the
 * sentence of what is wrong.  The first sets numel, which in items of this size
 * must fit in 63 bits; the second holds the highest element, given in *reach,
 * against the `room` elements of a storage.
 */
const char *psd_window_count(psd_tensor *t, size_t itemsize);
const char *psd_window_reach(const psd_tensor *t, uint64_t room, uint64_t *reach);

/* How persistent ids speak, which differs by container. */
typedef enum {
    /* ('storage', class, key, location, numel) */
    PSD_DIALECT_ZIP,
    /* The same, and of torch 1.3 to 1.5 None as a sixth */
    PSD_DIALECT_SCRIPT,
    /* As those, and ('reduce_package', number, function, arguments): a call */
    PSD_DIALECT_PACKAGE,
    /* The same as the first and, as a sixth, None or (key, offset, numel) of a view of it;
     * ('module', class, file, source) stands for the class */
    PSD_DIALECT_STREAM,
    /* The number of a storage or tensor that was told of before, in decimal;
     * (class, file, source) stands for the class */
    PSD_DIALECT_TAR,
    /* A pickle by itself has none: they stay what they are */
    PSD_DIALECT_PLAIN,
    /* As the first, written: storages keep the keys that the model tells */
    PSD_DIALECT_KEPT,
} psd_dialect;

/* What the torch pass has to know of a pickle, and its host's help. */
typedef struct {
    psd_dialect dialect;
    uint64_t base; /* the pickle's offset, for errors */
    /*
     * The storage that a legacy stream within the pickle holds, as pickle.dump
     * writes tensors.  *is_storage false leaves the call as it is.
     */
    psd_status (*embedded)(void *ctx, psd_span stream, psd_storage *storage,
                           bool *is_storage, psd_error *err);
    void *embedded_ctx;
} psd_torch_source;

/*
 * Find the storages and tensors of a pool.
 *
 * Persistent ids become STORAGE and calls of the known rebuild functions become
 * TENSOR, in place, so that every reference to them stays true.  Everything
 * else is left as it is.  Of whole modules that are reached from `root`, what
 * state_dict() would give is added to the pool: names, order and values as torch's,
 * without the classes.
 *
 *   PSD_STORAGE  a persistent id that is none, or two that contradict
 *   PSD_TENSOR   a rebuild function with wrong arguments, or a window that
 *                reaches beyond its storage
 *   PSD_LIMIT, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_torch_read(psd_pool *pool, psd_ref root,
                                      const psd_torch_source *source,
                                      const psd_limits *limits, psd_model *model,
                                      psd_error *err);

/* Is this global one of those that make tensors and their parts?  Names that could
 * fetch or load anything are not, though the pass knows them; `called`: calls of it
 * are left, which the pass could not make anything of. */
bool psd_torch_is_plain(const psd_global *global, bool called);

/*
 * A storage's class and location where they stand by themselves, as in a tar; the
 * location is copied to `arena`.
 */
PSD_CHECKED psd_status psd_torch_read_facts(psd_pool *pool, uint64_t base,
                                            psd_ref class_ref, psd_ref location,
                                            psd_arena *arena, psd_storage *s,
                                            psd_error *err);

/* The dtype of a tensor class such as torch.FloatTensor; NONE if it is none. */
psd_dtype psd_torch_class_dtype(psd_pool *pool, psd_ref class_ref);

/* A number as persistent ids spell it; .data is NULL when there is no memory. */
psd_span psd_torch_decimal(psd_arena *arena, int64_t v);

/*
 * The way back: every TENSOR of the pool becomes a call with persistent ids of the
 * dialect (ZIP or STREAM), in place; `root` is what will be written.  Storages are keyed
 * by their number, tensors of one storage share its persistent id.  Dtypes without a
 * typed storage class, and storages seen with several dtypes, go through
 * _rebuild_tensor_v3.  Meta tensors keep shape and dtype, and no storage.  What is made
 * of other tensors is written as it was read.
 *
 *   PSD_LEGACY    a tensor that torch could not read from a stream
 *   PSD_ARGUMENT  a tensor without a storage, or a quantized one on a storage that is
 *                 seen with another dtype
 *   PSD_LIMIT, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_torch_write(psd_pool *pool, psd_ref root,
                                       const psd_model *model, psd_dialect dialect,
                                       psd_error *err);

/* The key of one of `count` storages: its number, in streams with zeros in front, so that
 * keys sort as their storages stand.  .data is NULL when there is no memory. */
psd_span psd_torch_storage_key(psd_arena *arena, psd_dialect dialect, uint32_t storage,
                               uint32_t count);

#endif
