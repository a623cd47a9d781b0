/* SPDX-License-Identifier: Apache-2.0
 *
 * The memo of one pickle.  Honest writers number from 0 without gaps, hostile
 * ones use any number; memory stays linear in the program either way.
 */
#ifndef PSD_PICKLE_MEMO_H
#define PSD_PICKLE_MEMO_H

#include "arena.h"
#include "hash.h"
#include "value.h"

typedef struct {
    uint64_t index;
    psd_ref ref; /* 0: the slot is free */
} psd_memo_slot;

/*
 * An index below the number of bytes that the program has spent so far lives in
 * an array, any other in a hash table.  An index may move from the table to the
 * array as the program goes on, never back, so the array is asked first.
 */
typedef struct {
    psd_alloc alloc;
    psd_hash_key key;
    psd_ref *near; /* 0: not there */
    uint32_t near_capacity;
    uint32_t count; /* distinct indices, which is what MEMOIZE counts */
    psd_memo_slot *far;
    uint32_t far_capacity; /* a power of two, or 0 */
    uint32_t far_count;
} psd_memo;

void psd_memo_init(psd_memo *memo, psd_alloc alloc, psd_hash_key key);
void psd_memo_clear(psd_memo *memo);

/* The long ways round of the two functions below. */
PSD_CHECKED bool psd_memo_put_slowly(psd_memo *memo, uint64_t index, uint64_t spent,
                                     psd_ref ref);
psd_ref psd_memo_get_far(const psd_memo *memo, uint64_t index);

/* Is there a place for the index at hand, and surely nothing of it elsewhere? */
static inline bool
psd_memo_is_near(const psd_memo *memo, uint64_t index)
{
    return index < memo->near_capacity && memo->far_count == 0;
}

/* Remember `ref` at such an index. */
static inline void
psd_memo_put_near(psd_memo *memo, uint64_t index, psd_ref ref)
{
    memo->count += memo->near[index] == 0;
    memo->near[index] = ref;
}

/* Remember `ref`; `spent` bytes of the program have been read.  False: no memory. */
PSD_CHECKED static inline bool
psd_memo_put(psd_memo *memo, uint64_t index, uint64_t spent, psd_ref ref)
{
    if (psd_memo_is_near(memo, index)) {
        psd_memo_put_near(memo, index, ref);
        return true;
    }
    return psd_memo_put_slowly(memo, index, spent, ref);
}

/* What was remembered last, or 0. */
static inline psd_ref
psd_memo_get(const psd_memo *memo, uint64_t index)
{
    psd_ref ref = index < memo->near_capacity ? memo->near[index] : 0;
    return ref != 0 || memo->far_count == 0 ? ref : psd_memo_get_far(memo, index);
}

#endif
