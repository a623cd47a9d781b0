/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes on their way out: a growing buffer, and the sink it is poured into.
 */
#ifndef PSD_BUFFER_H
#define PSD_BUFFER_H

#include "arena.h"

/*
 * Failure is remembered: once there is no memory, nothing is put and `failed`
 * stays set, so a writer asks once, at its end.
 */
typedef struct {
    psd_alloc alloc;
    uint8_t *data;
    size_t size;
    size_t capacity;
    bool failed;
} psd_buffer;

void psd_buffer_init(psd_buffer *buffer, psd_alloc alloc);
void psd_buffer_clear(psd_buffer *buffer);

void psd_put(psd_buffer *buffer, const void *bytes, size_t size);

void psd_put_fill(psd_buffer *buffer, uint8_t byte, size_t count);

/* Room for `size` more bytes, or NULL. */
uint8_t *psd_buffer_reserve(psd_buffer *buffer, size_t size);

/* The same where it is at hand already, as it mostly is. */
static inline uint8_t *
psd_buffer_take(psd_buffer *buffer, size_t size)
{
    if (buffer->failed || size > buffer->capacity - buffer->size) {
        return psd_buffer_reserve(buffer, size);
    }
    buffer->size += size;
    return buffer->data + (buffer->size - size);
}

static inline void
psd_put_u8(psd_buffer *buffer, uint8_t v)
{
    uint8_t *room = psd_buffer_take(buffer, 1);
    if (room != NULL) {
        *room = v;
    }
}

static inline void
psd_put_u16(psd_buffer *buffer, uint16_t v)
{
    uint8_t *room = psd_buffer_take(buffer, 2);
    if (room != NULL) {
        psd_store_le16(room, v);
    }
}

static inline void
psd_put_u32(psd_buffer *buffer, uint32_t v)
{
    uint8_t *room = psd_buffer_take(buffer, 4);
    if (room != NULL) {
        psd_store_le32(room, v);
    }
}

static inline void
psd_put_u64(psd_buffer *buffer, uint64_t v)
{
    uint8_t *room = psd_buffer_take(buffer, 8);
    if (room != NULL) {
        psd_store_le64(room, v);
    }
}

static inline void
psd_put_span(psd_buffer *buffer, psd_span span)
{
    psd_put(buffer, span.data, span.size);
}

static inline psd_span
psd_buffer_span(const psd_buffer *buffer)
{
    return (psd_span){buffer->data, buffer->size};
}

/*
 * Where bytes go: sequential, never seeks.  write() takes all of `size` bytes
 * and returns true, or false when it failed; the host then knows why.
 */
typedef struct {
    bool (*write)(void *ctx, const uint8_t *data, size_t size);
    void *ctx;
} psd_sink;

/*
 * Bytes that are not at hand before they are to be written: numbered, and fetched piece by
 * piece, each of them once and in order.  fetch() tells where `size` of them lie from
 * `offset` on, which holds until the next call; or false when it failed; the host then
 * knows why.
 */
typedef struct {
    bool (*fetch)(void *ctx, uint32_t number, uint64_t offset, size_t size,
                  const uint8_t **bytes);
    void *ctx;
} psd_supply;

/* Bytes at hand, or, where `data` is NULL and there are any, number `number` of a supply. */
typedef struct {
    psd_span bytes;
    psd_supply supply;
    uint32_t number;
} psd_payload;

static inline psd_payload
psd_payload_of(psd_span bytes)
{
    return (psd_payload){.bytes = bytes};
}

/* `size` bytes of a payload from `offset` on; NULL when they could not be fetched. */
static inline const uint8_t *
psd_payload_piece(const psd_payload *payload, size_t offset, size_t size)
{
    const uint8_t *bytes = NULL;
    if (payload->bytes.data != NULL) {
        return payload->bytes.data + offset;
    }
    bool fetched = payload->supply.fetch != NULL &&
                   payload->supply.fetch(payload->supply.ctx, payload->number, offset,
                                         size, &bytes);
    return fetched ? bytes : NULL;
}

#endif
