/* SPDX-License-Identifier: Apache-2.0
 *
 * A legacy stream on its way out, as torch.save writes it when it is told not to make a
 * zip archive.  Source: torch/serialization.py, _legacy_save.
 */
#include "stream.h"

/* The magic number, the version, and what torch tells of the machine: nobody reads it,
 * and on every machine the elements stand in little-endian order. */
static const char head[] =
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    "\x80\x02M\xe9\x03."
    "\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\x0d\0\0\0little_endian\x88"
    "X\x0a\0\0\0type_sizes}(X\x05\0\0\0shortK\x02X\x03\0\0\0intK\x04"
    "X\x04\0\0\0longK\x04uu.";

/* Bytes that are swapped at a time; a multiple of every unit. */
#define PIECE ((size_t)4096)

static psd_status
pour(psd_sink sink, psd_span bytes, psd_error *err)
{
    bool written = bytes.size == 0 || sink.write(sink.ctx, bytes.data, bytes.size);
    return written ? PSD_OK
                   : psd_fail(err, PSD_SINK, PSD_NOWHERE,
                              "the target could not be written");
}

/* The list of keys, as a pickle. */
static psd_status
list_keys(psd_buffer *buffer, const psd_stream_storage *storages, uint32_t count,
          psd_error *err)
{
    psd_arena arena;
    psd_pool pool;
    psd_arena_init(&arena, buffer->alloc);
    psd_pool_init(&pool, &arena, (uint64_t)count + 1);
    psd_ref *refs = psd_arena_take_array(&arena, count, sizeof *refs);
    bool done = refs != NULL && psd_pool_reserve(&pool, (uint64_t)count + 1);
    for (uint32_t i = 0; i < count && done; i++) {
        refs[i] = psd_new_text(&pool, PSD_KIND_TEXT, storages[i].key);
        done = refs[i] != 0;
    }
    psd_ref list = done ? psd_new_items(&pool, PSD_KIND_LIST, refs, count) : 0;
    psd_status status =
        list == 0 ? psd_fail_memory(err) : psd_pickle_write(&pool, list, buffer, err);
    psd_pool_clear(&pool);
    psd_arena_clear(&arena);
    return status;
}

/* Elements in the order of this machine, little-endian where it is not. */
static psd_status
pour_swapped(psd_sink sink, psd_span bytes, size_t unit, psd_error *err)
{
    uint8_t piece[PIECE];
    psd_status status = PSD_OK;
    for (size_t done = 0; done < bytes.size && status == PSD_OK;) {
        size_t size = bytes.size - done < PIECE ? bytes.size - done : PIECE;
        for (size_t i = 0; i < size; i++) {
            size_t within = i % unit, first = i - within;
            bool whole = size - first >= unit;
            piece[i] = bytes.data[done + (whole ? first + unit - 1 - within : i)];
        }
        status = pour(sink, (psd_span){piece, size}, err);
        done += size;
    }
    return status;
}

/* Bytes that are fetched at a time; a multiple of every unit, too. */
#define FETCHED ((size_t)512 << 10)

static psd_status
pour_elements(psd_sink sink, const psd_stream_storage *s, psd_error *err)
{
    size_t all = s->payload.bytes.size;
    size_t most = s->payload.bytes.data == NULL ? FETCHED : all;
    psd_status status = PSD_OK;
    for (size_t done = 0; done < all && status == PSD_OK;) {
        size_t size = all - done < most ? all - done : most;
        psd_span piece = {psd_payload_piece(&s->payload, done, size), size};
        if (piece.data == NULL) {
            return psd_fail(err, PSD_INPUT, PSD_NOWHERE,
                            "bytes that are to be written could not be fetched");
        }
        status = s->swap_unit > 1 ? pour_swapped(sink, piece, s->swap_unit, err)
                                  : pour(sink, piece, err);
        done += size;
    }
    return status;
}

static psd_status
pour_storage(psd_sink sink, const psd_stream_storage *s, psd_error *err)
{
    uint8_t count[8];
    psd_store_le64(count, s->numel);
    psd_status status = pour(sink, (psd_span){count, sizeof count}, err);
    return status == PSD_OK ? pour_elements(sink, s, err) : status;
}

psd_status
psd_stream_write(psd_alloc alloc, psd_span program, const psd_stream_storage *storages,
                 uint32_t count, psd_sink sink, psd_error *err)
{
    psd_buffer keys;
    psd_buffer_init(&keys, alloc);
    psd_status status = list_keys(&keys, storages, count, err);
    if (status == PSD_OK) {
        status = pour(sink, (psd_span){(const uint8_t *)head, sizeof head - 1}, err);
    }
    if (status == PSD_OK) {
        status = pour(sink, program, err);
    }
    if (status == PSD_OK) {
        status = pour(sink, psd_buffer_span(&keys), err);
    }
    for (uint32_t i = 0; i < count && status == PSD_OK; i++) {
        status = pour_storage(sink, &storages[i], err);
    }
    psd_buffer_clear(&keys);
    return status;
}
