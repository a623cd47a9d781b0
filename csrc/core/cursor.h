/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded reading of fixed records.  A cursor remembers the first failure and
 * gives zeros from then on, so a whole header is read and then asked once.
 */
#ifndef PSD_CURSOR_H
#define PSD_CURSOR_H

#include "base.h"

typedef struct {
    const uint8_t *start;
    const uint8_t *next;
    const uint8_t *end;
    bool failed;
} psd_cursor;

static inline psd_cursor
psd_cursor_over(psd_span span)
{
    return (psd_cursor){span.data, span.data, span.data + span.size, false};
}

static inline size_t
psd_remaining(const psd_cursor *c)
{
    return (size_t)(c->end - c->next);
}

/* `size` bytes, or NULL for ever after. */
static inline const uint8_t *
psd_read_bytes(psd_cursor *c, size_t size)
{
    if (c->failed || size > psd_remaining(c)) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *bytes = c->next;
    c->next += size;
    return bytes;
}

static inline psd_span
psd_read_span(psd_cursor *c, size_t size)
{
    const uint8_t *bytes = psd_read_bytes(c, size);
    return bytes == NULL ? (psd_span){NULL, 0} : (psd_span){bytes, size};
}

static inline uint8_t
psd_read_u8(psd_cursor *c)
{
    const uint8_t *p = psd_read_bytes(c, 1);
    return p == NULL ? 0 : p[0];
}

static inline uint16_t
psd_read_u16(psd_cursor *c)
{
    const uint8_t *p = psd_read_bytes(c, 2);
    return p == NULL ? 0 : psd_load_le16(p);
}

static inline uint32_t
psd_read_u32(psd_cursor *c)
{
    const uint8_t *p = psd_read_bytes(c, 4);
    return p == NULL ? 0 : psd_load_le32(p);
}

static inline uint64_t
psd_read_u64(psd_cursor *c)
{
    const uint8_t *p = psd_read_bytes(c, 8);
    return p == NULL ? 0 : psd_load_le64(p);
}

#endif
