/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two files of the writing side share.  Private to them.
 */
#ifndef PSD_PY_WRITER_H
#define PSD_PY_WRITER_H

#include "py_module.h"

/* Slots waiting for the numbers of the values of objects: one object's, or those of the
 * items of a tuple, which are taken one by one. */
typedef struct {
    PyObject *object; /* kept alive by the writer */
    psd_ref *slots;
    Py_ssize_t next, count; /* of the items; count 0: it is the object that is meant */
} py_task;

/* An array met on the way: its tensor has the same number. */
typedef struct {
    const uint8_t *low, *high; /* the bytes it reaches, [low, high) */
    uint32_t tensor;
    uint32_t
        supply; /* of what has no bytes yet: whose, + 1; low and high are offsets */
} py_extent;

/* Where the bytes of a storage are fetched from. */
typedef struct {
    uint32_t supply; /* 0: they are at hand */
    uint64_t start;
} py_supplied;

/* Numbers by the address of an object that the writer keeps alive. */
typedef struct {
    PyObject *object; /* NULL: the slot is free */
    psd_ref ref;
} py_memo_slot;

typedef struct {
    py_memo_slot *slots; /* NULL until there is one */
    size_t mask;         /* one less than their number, a power of two */
    size_t count;
} py_memo;

/* Numbers of texts by what they say. */
typedef struct {
    psd_ref ref;   /* 0: the slot is free */
    uint32_t hash; /* as much of it as places the text in any table */
} py_text_slot;

typedef struct {
    py_text_slot *slots; /* NULL until there is one */
    size_t mask;         /* one less than their number, a power of two */
    size_t count;
} py_texts;

typedef struct {
    PyObject *values;     /* the Python side */
    PyObject *parameters; /* {id of an array: (flags, attributes)} or None */
    PyObject *marks;      /* the same of all arrays, as files told */
    unsigned left_out;    /* flags that are not written, whoever says them */
    py_memo memo;         /* what was met */
    py_texts texts;       /* equal ones are one value */
    PyObject *globals;    /* {(module, name): number} */
    PyObject *dtypes;     /* {id of a NumPy dtype: torch's name or None} */
    PyObject *last_dtype; /* the one that was asked for last, and ... */
    int last_found;       /* ... what torch_dtype() gave */
    PyObject *kept;       /* everything whose address or bytes are in use */
    psd_arena arena;
    psd_pool pool;
    psd_model model;
    py_extent *extents; /* by tensor, then sorted by address */
    uint32_t extent_capacity;
    psd_span *bytes;       /* by storage; NULL where they are fetched */
    PyObject *supplies;    /* a list of what has read(offset, size) */
    py_memo supply_memo;   /* their numbers + 1 */
    py_supplied *supplied; /* by storage; NULL where there are no supplies */
    struct py_pending *states;
    py_task *tasks;
    uint32_t task_count, task_capacity;
    bool kept_keys; /* storages are those of a file, whole, and keep their keys */
    bool instead;   /* writing what the Python side gave in an object's place */
} py_writer;

/* A tensor's Python attributes, to be told once its slot is filled. */
struct py_pending {
    psd_ref ref;
    uint32_t tensor;
    struct py_pending *previous;
};

/* Set MemoryError; always false. */
bool py_no_memory(void);

/* Hold a reference until all is written. */
bool py_keep(py_writer *w, PyObject *object);

/* Put an object on the worklist; *slot gets its number.  Whatever is put there is kept
 * alive already: in the object that is saved, or by py_keep. */
bool py_put(py_writer *w, PyObject *object, psd_ref *slot);

/* The same of the `count` items of a tuple. */
bool py_put_items(py_writer *w, PyObject *tuple, psd_ref *slots, Py_ssize_t count);

/* Fill the slot with a value just made; false with an exception set when ref is 0. */
bool py_made(py_writer *w, psd_ref ref, psd_ref *slot);

/* The number of an object met before, 0 if it is new; and to remember one, which fails
 * with an exception set. */
psd_ref py_memo_find(const py_memo *memo, const PyObject *object);
bool py_memo_put(py_memo *memo, PyObject *object, psd_ref ref);
void py_memo_clear(py_memo *memo);

/* Where the number of a text with this hash is kept: 0 of a new one, which has to be set
 * before the next text is asked for.  NULL with an exception set. */
psd_ref *py_texts_find(py_texts *texts, const psd_pool *pool, Py_hash_t hash,
                       psd_span text);
void py_texts_clear(py_texts *texts);

/* 1: written as a tensor, 0: no array that torch has a dtype for, -1: failed. */
int py_write_array(py_writer *w, PyObject *object, psd_ref *slot);

/*
 * Write a quantized tensor, as the Python side tells of it, which the writer keeps:
 * (array of its integers, 1-D where several stand in a byte; torch's dtype; flags; shape,
 * stride and offset of packed ones, else None; scheme; scale; zero point; scales; zero
 * points; axis).
 */
bool py_write_quantized(py_writer *w, PyObject *object, PyObject *told, psd_ref *slot);

/* Bits of a mark that are the core's flags of a tensor that is written. */
#define PY_WRITTEN_FLAGS \
    (PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD | PSD_TENSOR_STORAGE)

/* Enter a tensor of the model; *slot gets its number. */
bool py_enter_tensor(py_writer *w, PyObject *object, py_extent extent, psd_tensor t,
                     psd_ref *slot);

/* Its shape and strides, from tuples of numbers; a ValueError where they are no geometry. */
bool py_tensor_geometry(py_writer *w, PyObject *shape, PyObject *stride, psd_tensor *t);

/* The Python attributes of the tensor that is entered next, or None. */
bool py_tensor_state(py_writer *w, PyObject *state);

/* ------------------------------------------------------------------ py_supply.c */

/*
 * Write a tensor whose bytes are fetched later, as the Python side tells of it, which the
 * writer keeps: (supply, bytes of the storage, torch's dtype, flags, shape, stride, offset,
 * attributes or None, "supplied").
 */
bool py_write_supplied(py_writer *w, PyObject *object, PyObject *told, psd_ref *slot);

/* Note that a storage begins at `low` of a supply, and which key it has where keys are
 * kept; false with an exception set. */
bool py_supply_base(py_writer *w, uint32_t storage, uint32_t supply,
                    const uint8_t *low);

/* What fetches, while `sink` pours. */
typedef struct {
    const py_writer *writer;
    py_sink *sink;
} py_supplier;

psd_supply py_supply_face(py_supplier *supplier);

/* Give every tensor its storage and offset, once all arrays are known. */
bool py_find_storages(py_writer *w);

#endif
