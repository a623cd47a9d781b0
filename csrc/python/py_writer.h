/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two files of the writing side share.  Private to them.
 */
#ifndef PSD_PY_WRITER_H
#define PSD_PY_WRITER_H

#include "py_module.h"

/* A slot waiting for the number of an object's value. */
typedef struct {
    PyObject *object; /* kept alive by the writer */
    psd_ref *slot;
} py_task;

/* An array met on the way: its tensor has the same number. */
typedef struct {
    const uint8_t *low, *high; /* the bytes it reaches, [low, high) */
    uint32_t tensor;
} py_extent;

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

typedef struct {
    PyObject *values;     /* the Python side */
    PyObject *parameters; /* {id of an array: (flags, attributes)} or None */
    PyObject *marks;      /* the same of all arrays, as files told */
    unsigned left_out;    /* flags that are not written, whoever says them */
    py_memo memo;         /* what was met */
    PyObject *texts;      /* {str: number}: equal texts are one value */
    PyObject *dtypes;     /* {NumPy dtype: torch's name or None} */
    PyObject *kept;       /* everything whose address or bytes are in use */
    psd_arena arena;
    psd_pool pool;
    psd_model model;
    py_extent *extents; /* by tensor, then sorted by address */
    uint32_t extent_capacity;
    psd_span *bytes; /* by storage */
    struct py_pending *states;
    py_task *tasks;
    uint32_t task_count, task_capacity;
    bool instead; /* writing what the Python side gave in an object's place */
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

/* Put an object on the worklist; *slot gets its number. */
bool py_put(py_writer *w, PyObject *object, psd_ref *slot);

/* Fill the slot with a value just made; false with an exception set when ref is 0. */
bool py_made(py_writer *w, psd_ref ref, psd_ref *slot);

/* The number of an object met before, 0 if it is new; and to remember one, which fails
 * with an exception set. */
psd_ref py_memo_find(const py_memo *memo, const PyObject *object);
bool py_memo_put(py_memo *memo, PyObject *object, psd_ref ref);
void py_memo_clear(py_memo *memo);

/* 1: written as a tensor, 0: no array that torch has a dtype for, -1: failed. */
int py_write_array(py_writer *w, PyObject *object, psd_ref *slot);

/*
 * Write a quantized tensor, as the Python side tells of it: (array of its integers,
 * 1-D where several stand in a byte; torch's dtype; flags; shape, stride and offset of
 * packed ones, else None; scheme; scale; zero point; scales; zero points; axis).
 */
bool py_write_quantized(py_writer *w, PyObject *object, PyObject *told, psd_ref *slot);

/* Give every tensor its storage and offset, once all arrays are known. */
bool py_find_storages(py_writer *w);

#endif
