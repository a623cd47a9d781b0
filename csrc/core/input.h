/* SPDX-License-Identifier: Apache-2.0
 *
 * Where bytes come from.  Everything above names bytes by (offset, size) in
 * the file and asks here at the last step, so a map, a buffer and a remote
 * object go the same road.
 */
#ifndef PSD_INPUT_H
#define PSD_INPUT_H

#include "arena.h"
#include "error.h"

/*
 * Either `data` is the whole file at hand, or `read` fetches a range into
 * memory of the caller's: exactly `size` bytes and true, or false when it
 * failed; the host then knows why.  Where there are both, what is to be copied
 * is read: a few bytes of a large map cost a page of it each.  Beside `data` there may be
 * what psd_crc32_each_block() gives of it.
 */
typedef struct {
    const uint8_t *data;
    uint64_t size;
    bool (*read)(void *ctx, uint64_t offset, size_t size, uint8_t *into);
    void *ctx;
    const uint32_t *crcs;
} psd_input;

/* The input for so many small pieces all over it: where they stand close together, a page of
 * the map tells of many, and there is nothing to be read. */
psd_input psd_input_for_pieces(const psd_input *input, uint64_t pieces);

/*
 * The bytes [offset, offset + size).  Borrowed from the input when the whole
 * file is at hand, else fetched into `arena`.
 *
 *   PSD_TRUNCATED  the range runs past the end of the file
 *   PSD_INPUT      the fetch failed
 */
PSD_CHECKED psd_status psd_input_view(const psd_input *input, uint64_t offset,
                                      uint64_t size, psd_arena *arena, psd_span *span,
                                      psd_error *err);

/* The same bytes copied to `into`: judged once, they can no longer change. */
PSD_CHECKED psd_status psd_input_copy(const psd_input *input, uint64_t offset,
                                      size_t size, uint8_t *into, psd_error *err);

#endif
