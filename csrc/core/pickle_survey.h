/* SPDX-License-Identifier: Apache-2.0
 *
 * What the writer must know before its first byte: which values are referred to
 * more than once, and which lead back to themselves.
 */
#ifndef PSD_PICKLE_SURVEY_H
#define PSD_PICKLE_SURVEY_H

#include "error.h"
#include "pickle.h"

/* A value's place in the memo: a number + 1, or one of these. */
#define PSD_MEMO_ONCE 0u                         /* referred to once: not memoized */
#define PSD_MEMO_OFTEN UINT32_MAX                /* to be memoized when it is written */
#define PSD_MEMO_OPEN ((uint32_t)UINT32_MAX - 1) /* the same; it is being written */

/* Globals and one text that the writer itself needs. */
typedef enum {
    PSD_WORD_ENCODE,
    PSD_WORD_LATIN1,
    PSD_WORD_BYTEARRAY,
    PSD_WORD_SET,
    PSD_WORD_FROZENSET,
    PSD_WORD_NEWOBJ_EX,
    PSD_WORD_COUNT
} psd_word;

typedef struct {
    uint32_t order; /* of the survey; free for the writer afterwards */
    uint32_t group; /* values that lead to one another; 0: a group of one */
    uint32_t memo;
} psd_note;

typedef struct {
    const psd_pool *pool;
    psd_alloc alloc;
    psd_note *notes; /* by number */
    uint32_t group_count;
    uint32_t words[PSD_WORD_COUNT]; /* PSD_MEMO_ONCE or PSD_MEMO_OFTEN */
} psd_survey;

/*
 * Walk all that `root` refers to.  Clear `survey` in any case.
 *
 *   PSD_ARGUMENT   a value that has no form in a pickle
 *   PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_survey_run(psd_survey *survey, const psd_pool *pool,
                                      psd_ref root, psd_alloc alloc, psd_error *err);
void psd_survey_clear(psd_survey *survey);

/* Values that are written again each time: nobody can tell copies apart. */
static inline bool
psd_is_inline(const psd_value *value)
{
    return (value->kind > PSD_KIND_INVALID && value->kind <= PSD_KIND_INT) ||
           value->kind == PSD_KIND_FLOAT ||
           (value->kind == PSD_KIND_TUPLE && value->count == 0);
}

static inline bool
psd_is_plain(const psd_value *value)
{
    return (value->flags & PSD_VALUE_PLAIN) != 0;
}

#define PSD_FLAT_MOST 8u

/* A few inline values in a tuple, such as a shape: it leads nowhere, and is neither
 * followed nor written step by step. */
static inline bool
psd_is_flat_tuple(const psd_pool *pool, const psd_value *value)
{
    bool flat = value->kind == PSD_KIND_TUPLE && value->count > 0 &&
                value->count <= PSD_FLAT_MOST;
    for (uint32_t i = 0; flat && i < value->count; i++) {
        psd_ref ref = value->as.items[i];
        flat = ref != 0 && ref <= pool->count && psd_is_inline(psd_value_at(pool, ref));
    }
    return flat;
}

#endif
