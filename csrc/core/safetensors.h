/* SPDX-License-Identifier: Apache-2.0
 *
 * The header of a safetensors file: its length in eight bytes, then JSON that tells
 * name, dtype, shape and place of every tensor; their bytes follow, little-endian and
 * without gaps.  Source: the format's description in the README of safetensors, and
 * what version 0.8 of that package accepts.
 */
#ifndef PSD_SAFETENSORS_H
#define PSD_SAFETENSORS_H

#include "arena.h"
#include "bounds.h"
#include "dtype.h"
#include "error.h"
#include "hash.h"
#include "input.h"

/* Bytes before the JSON; and how many are needed to tell such a file. */
#define PSD_SAFETENSORS_LENGTH 8u
#define PSD_SAFETENSORS_HEAD 10u

typedef struct {
    psd_span name; /* UTF-8, in the header's own copy */
    int64_t
        *shape; /* rank numbers, then the strides of rows that lie one after another */
    uint64_t begin, end; /* of its bytes, from the first byte behind the header */
    uint32_t number;     /* in the order of the header */
    uint8_t dtype;       /* psd_dtype */
    uint8_t rank;
} psd_safetensor;

typedef struct {
    psd_alloc alloc;
    psd_safetensor *tensors; /* in the order of their bytes */
    psd_span *notes;         /* of __metadata__: key, value, key, value, ... */
    uint32_t count, capacity;
    uint32_t note_count, note_capacity; /* spans, twice the pairs */
    bool has_notes;
} psd_safetensors;

void psd_safetensors_init(psd_safetensors *header, psd_alloc alloc);
void psd_safetensors_clear(psd_safetensors *header);

/* Do these bytes, the first of a file, begin such a header? */
bool psd_safetensors_begins(psd_span head);

/*
 * A copy of the JSON, in `arena`.
 *
 *   PSD_TRUNCATED    the file ends within it
 *   PSD_SAFETENSORS  it is longer than the format allows
 *   PSD_LIMIT        it is longer than limits->pickle_size
 */
PSD_CHECKED psd_status psd_safetensors_fetch(const psd_input *input,
                                             const psd_limits *limits, psd_arena *arena,
                                             uint8_t **json, size_t *size,
                                             psd_error *err);

/*
 * Read the JSON, whose texts are unescaped where they stand; `room` bytes follow it
 * in the file, and the tensors must fill them.  Names are borrowed from it, and the
 * shapes are in `arena`.
 *
 * float4 is told as torch has it: two numbers a byte, the last size counts bytes.
 *
 *   PSD_SAFETENSORS  no JSON, or none of this kind; tensors that overlap, leave gaps,
 *                    or whose bytes do not fit their shape; a name that comes twice
 *   PSD_ELEMENT      a dtype that torch has not
 *   PSD_TRUNCATED    the file ends before its tensors do
 *   PSD_LIMIT        more than limits->entries tensors, more than limits->rank sizes
 */
PSD_CHECKED psd_status psd_safetensors_read(psd_safetensors *header, uint8_t *json,
                                            size_t size, uint64_t room,
                                            const psd_limits *limits, psd_hash_key key,
                                            psd_arena *arena, psd_error *err);

#endif
