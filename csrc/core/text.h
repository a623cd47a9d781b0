/* SPDX-License-Identifier: Apache-2.0
 *
 * Digits and characters, as texts spell them.
 */
#ifndef PSD_TEXT_H
#define PSD_TEXT_H

#include "base.h"

/* The value of a hexadecimal digit, or -1. */
static inline int
psd_hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    uint8_t lower = c | 0x20;
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* UTF-8 of a code point below 0x110000, surrogates like any other; the new end, at most
 * four bytes on. */
static inline uint8_t *
psd_put_utf8(uint8_t *to, uint32_t code)
{
    if (code < 0x80) {
        *to++ = (uint8_t)code;
        return to;
    }
    if (code < 0x800) {
        *to++ = (uint8_t)(0xC0 | code >> 6);
    }
    else {
        if (code < 0x10000) {
            *to++ = (uint8_t)(0xE0 | code >> 12);
        }
        else {
            *to++ = (uint8_t)(0xF0 | code >> 18);
            *to++ = (uint8_t)(0x80 | (code >> 12 & 0x3F));
        }
        *to++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
    }
    *to++ = (uint8_t)(0x80 | (code & 0x3F));
    return to;
}

/* Does `part` stand anywhere in `text`?  For short texts. */
static inline bool
psd_span_holds(psd_span text, psd_span part)
{
    bool found = false;
    for (size_t i = 0; i + part.size <= text.size && !found; i++) {
        found = memcmp(text.data + i, part.data, part.size) == 0;
    }
    return found;
}

#endif
