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

uint64_t psd_hash(psd_hash_key key, psd_span text);

/* The same with ASCII letters folded to lower case and `\` to `/`. */
uint64_t psd_hash_folded(psd_hash_key key, psd_span text);

#endif
