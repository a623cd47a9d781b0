/* SPDX-License-Identifier: Apache-2.0
 *
 * Operands that protocols 0 and 1 write as lines of text, and the integers of
 * every protocol.  A line comes without its newline.
 *
 * Only what the picklers of Python 2 and 3 write is accepted: no spaces, no
 * underscores, no hexadecimal.  PSD_PICKLE tells that a line is anything else.
 */
#ifndef PSD_PICKLE_TEXT_H
#define PSD_PICKLE_TEXT_H

#include "arena.h"
#include "error.h"

/* Either `small`, or the bytes of a two's complement, little-endian, minimal. */
typedef struct {
    bool is_small;
    int64_t small;
    psd_span bytes;
} psd_integer;

/* `bytes` may have redundant sign bytes, or be none at all, which is 0. */
psd_integer psd_integer_of(psd_span bytes);

/* PSD_PICKLE, PSD_LIMIT (more digits than `max_digits`), PSD_NO_MEMORY */
PSD_CHECKED psd_status psd_text_integer(psd_span line, uint64_t max_digits,
                                        psd_arena *arena, psd_integer *integer);

/* A memo index: digits, below 2^63. */
PSD_CHECKED bool psd_text_index(psd_span line, uint64_t *index);

/* A float as repr() spells it, at most 128 characters. */
PSD_CHECKED bool psd_text_float(psd_span line, double *real);

/*
 * A quoted string with Python 2's escapes.  Borrowed when it has none.
 * PSD_PICKLE, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_text_string(psd_span line, psd_arena *arena, psd_span *text);

/*
 * raw-unicode-escape into UTF-8; surrogates stay single, as in CPython 3, and
 * are three bytes each.  PSD_PICKLE, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_text_unicode(psd_span line, psd_arena *arena,
                                        psd_span *text);

#endif
