/* SPDX-License-Identifier: Apache-2.0
 *
 * The ground floor: spans, little-endian access, arithmetic that tells when it
 * would wrap.  Every size, count and offset of a file passes through here.
 */
#ifndef PSD_BASE_H
#define PSD_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* C23 has [[nodiscard]]; until then the compilers' own word for it. */
#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L
#define PSD_CHECKED [[nodiscard]]
#elif defined(__GNUC__) || defined(__clang__)
#define PSD_CHECKED __attribute__((warn_unused_result))
#else
#define PSD_CHECKED
#endif

/* Bytes that somebody else owns. */
typedef struct {
    const uint8_t *data;
    size_t size;
} psd_span;

/* A span over a string literal, without its final zero. */
#define PSD_LITERAL(text) ((psd_span){(const uint8_t *)("" text), sizeof(text) - 1})

static inline bool
psd_span_equal(psd_span a, psd_span b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Is the text a whole number's one spelling in decimal, and the number below `end`? */
static inline bool
psd_span_is_number(psd_span text, uint32_t end, uint32_t *number)
{
    uint32_t found = 0;
    if (text.size == 0 || text.size > 9 || (text.data[0] == '0' && text.size > 1)) {
        return false;
    }
    for (size_t i = 0; i < text.size; i++) {
        unsigned digit = (unsigned)text.data[i] - '0';
        if (digit > 9) {
            return false;
        }
        found = 10 * found + digit;
    }
    *number = found;
    return found < end;
}

static inline uint16_t
psd_load_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t
psd_load_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static inline uint64_t
psd_load_le64(const uint8_t *p)
{
    return (uint64_t)psd_load_le32(p) | (uint64_t)psd_load_le32(p + 4) << 32;
}

static inline void
psd_store_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void
psd_store_le32(uint8_t *p, uint32_t v)
{
    psd_store_le16(p, (uint16_t)v);
    psd_store_le16(p + 2, (uint16_t)(v >> 16));
}

static inline void
psd_store_le64(uint8_t *p, uint64_t v)
{
    psd_store_le32(p, (uint32_t)v);
    psd_store_le32(p + 4, (uint32_t)(v >> 32));
}

/* a + b into *sum; false when it would wrap. */
static inline bool
psd_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    *sum = a + b;
    return *sum >= a;
}

/* a * b into *product; false when it would wrap. */
static inline bool
psd_multiply(uint64_t a, uint64_t b, uint64_t *product)
{
    *product = a * b;
    return a == 0 || *product / a == b;
}

/* Do `size` bytes at `offset` lie within `limit`?  No sum, so nothing wraps. */
static inline bool
psd_fits(uint64_t offset, uint64_t size, uint64_t limit)
{
    return offset <= limit && size <= limit - offset;
}

/* Does this path lead out of its folder?  An absolute one does, or one with a `..`. */
static inline bool
psd_leads_out(psd_span path)
{
    size_t start = 0;
    if (path.size > 0 && (path.data[0] == '/' || path.data[0] == '\\')) {
        return true;
    }
    for (size_t i = 0; i <= path.size; i++) {
        if (i == path.size || path.data[i] == '/' || path.data[i] == '\\') {
            if (i - start == 2 && memcmp(path.data + start, "..", 2) == 0) {
                return true;
            }
            start = i + 1;
        }
    }
    return false;
}

#endif
