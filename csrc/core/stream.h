/* SPDX-License-Identifier: Apache-2.0
 *
 * The legacy stream of torch.save before 1.6: five pickles one after another,
 * then the storages' bytes.  Source: torch/serialization.py, _legacy_save.
 *
 *     1  the magic number     2  1001     3  facts about the writer
 *     4  the object           5  the keys of the storages, in the order in which
 *                                their bytes follow: a count of 8 bytes, then the
 *                                elements, little-endian on every machine
 */
#ifndef PSD_STREAM_H
#define PSD_STREAM_H

#include "buffer.h"
#include "pickle.h"

/* Bytes that tell a stream; see psd_stream_begins. */
#define PSD_STREAM_HEAD 32u

typedef struct {
    psd_span object; /* the fourth pickle, our own copy */
    uint64_t object_offset;
    bool whole;           /* false: the object has no end, and nothing follows */
    const psd_span *keys; /* borrowed from the arena */
    uint32_t key_count;
    uint64_t data_offset; /* of the first storage's count */
} psd_stream;

/* Do these bytes, the first of a file, begin with the magic number? */
bool psd_stream_begins(psd_span head);

/*
 * Find the five pickles of a stream at the start of `input`.  All but the fourth
 * must be mere data.  Where the object breaks off is for the machine to tell.
 *
 *   PSD_STREAM  another number than the magic one or 1001, or no list of keys
 *   PSD_CALL    something else than data where only data may stand
 *   and those of psd_pickle_fetch and psd_pickle_read
 */
PSD_CHECKED psd_status psd_stream_read(const psd_input *input, const psd_limits *limits,
                                       psd_hash_key key, psd_arena *arena,
                                       psd_stream *stream, psd_error *err);

/*
 * The storage whose count is at `*offset`: checks the count, moves `*offset`
 * behind the storage and gives where its bytes begin.
 *
 *   PSD_STORAGE    the count is another than the pickle's
 *   PSD_TRUNCATED  the file ends before the storage does
 */
PSD_CHECKED psd_status psd_stream_next(const psd_input *input, psd_span key,
                                       uint64_t numel, uint64_t size, uint64_t *offset,
                                       uint64_t *data, psd_error *err);

/* ---------------------------------------------------------------- writing */

/* A storage on its way out. */
typedef struct {
    psd_span key;
    psd_payload payload;
    uint64_t numel;
    uint8_t swap_unit; /* of bytes in the other byte order: how many swap together */
} psd_stream_storage;

/*
 * Pour a stream whose object is `program`, and whose storages stand in this order.  The
 * pickles around it are made before the first byte leaves; then it goes forward only.
 *
 *   PSD_SINK, PSD_INPUT, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_stream_write(psd_alloc alloc, psd_span program,
                                        const psd_stream_storage *storages,
                                        uint32_t count, psd_sink sink, psd_error *err);

#endif
