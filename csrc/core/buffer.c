/* SPDX-License-Identifier: Apache-2.0 */
#include "buffer.h"

void
psd_buffer_init(psd_buffer *buffer, psd_alloc alloc)
{
    *buffer = (psd_buffer){.alloc = alloc};
}

void
psd_buffer_clear(psd_buffer *buffer)
{
    if (buffer->data != NULL) {
        buffer->alloc.resize(buffer->alloc.ctx, buffer->data, buffer->capacity, 0);
    }
    psd_buffer_init(buffer, buffer->alloc);
}

uint8_t *
psd_buffer_reserve(psd_buffer *buffer, size_t size)
{
    if (buffer->failed || size > SIZE_MAX - buffer->size) {
        buffer->failed = true;
        return NULL;
    }
    size_t needed = buffer->size + size;
    if (needed > buffer->capacity) {
        size_t capacity = buffer->capacity < 256 ? 256 : buffer->capacity;
        while (capacity < needed) {
            capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
        }
        uint8_t *data = buffer->alloc.resize(buffer->alloc.ctx, buffer->data,
                                             buffer->capacity, capacity);
        if (data == NULL) {
            buffer->failed = true;
            return NULL;
        }
        buffer->data = data;
        buffer->capacity = capacity;
    }
    uint8_t *room = buffer->data + buffer->size;
    buffer->size = needed;
    return room;
}

void
psd_put(psd_buffer *buffer, const void *bytes, size_t size)
{
    uint8_t *room = size == 0 ? NULL : psd_buffer_reserve(buffer, size);
    if (room != NULL) {
        memcpy(room, bytes, size);
    }
}

void
psd_put_fill(psd_buffer *buffer, uint8_t byte, size_t count)
{
    uint8_t *room = count == 0 ? NULL : psd_buffer_reserve(buffer, count);
    if (room != NULL) {
        memset(room, byte, count);
    }
}
