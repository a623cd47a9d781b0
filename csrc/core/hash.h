/* SPDX-License-Identifier: Apache-2.0
 *
 * SipHash-1-3: a keyed hash, so that names chosen by a stranger cannot be made
 * to collide.  Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF".
 */
#ifndef PSD_HASH_H
#define PSD_HASH_H

#include "base.h"

/* Secret of one process; the host draws it. */
typedef struct {
    uint64_t a, b;
} psd_hash_key;

/*
 * A slot of a hash table.  Part of the hash stands beside the number, so that others that
 * share the place are passed by without a look at what they are.
 */
typedef struct {
    uint32_t number; /* of what is there + 1; 0: free */
    uint32_t tag;
} psd_slot;

static inline uint32_t
psd_slot_tag(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

uint64_t psd_hash(psd_hash_key key, psd_span text);

/* The same with ASCII letters folded to lower case and `\` to `/`. */
uint64_t psd_hash_folded(psd_hash_key key, psd_span text);

#endif
