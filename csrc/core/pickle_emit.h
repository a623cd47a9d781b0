/* SPDX-License-Identifier: Apache-2.0
 *
 * The opcodes of values that have no parts, and the writer's memo.
 */
#ifndef PSD_PICKLE_EMIT_H
#define PSD_PICKLE_EMIT_H

#include "buffer.h"
#include "pickle_survey.h"

typedef struct {
    psd_buffer *buffer;
    psd_error *err;
    uint32_t memo_count;
    uint32_t words[PSD_WORD_COUNT]; /* places in the memo, as surveyed */
} psd_emitter;

/* Is the value in the memo already? */
static inline bool
psd_is_memoized(uint32_t memo)
{
    return memo != PSD_MEMO_ONCE && memo < PSD_MEMO_OPEN;
}

/* Memoize the value on the stack, unless `memo` says that once is all. */
void psd_emit_put(psd_emitter *e, uint32_t *memo);
void psd_emit_get(psd_emitter *e, uint32_t memo);

void psd_emit_word(psd_emitter *e, psd_word word);

/* A value for which psd_is_inline is true. */
void psd_emit_inline(psd_emitter *e, const psd_value *value);

/* LONG, TEXT, STRING, BYTES, BYTEARRAY or GLOBAL.  PSD_ARGUMENT: too long */
PSD_CHECKED psd_status psd_emit_leaf(psd_emitter *e, const psd_value *value,
                                     uint32_t *memo);

#endif
