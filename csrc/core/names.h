/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers by name: a hash map that a stranger's names cannot slow down.
 */
#ifndef PSD_NAMES_H
#define PSD_NAMES_H

#include "arena.h"
#include "hash.h"

typedef struct {
    psd_span text; /* borrowed */
    uint32_t number;
} psd_name;

typedef struct {
    psd_alloc alloc;
    psd_hash_key key;
    psd_name *entries; /* in the order in which they were added */
    uint32_t count, capacity;
    psd_slot *slots;     /* of entries */
    uint32_t slot_count; /* a power of two, or 0 */
} psd_names;

void psd_names_init(psd_names *names, psd_alloc alloc, psd_hash_key key);
void psd_names_clear(psd_names *names);

/* Where the number of this name is kept; NULL if there is none. */
uint32_t *psd_names_find(const psd_names *names, psd_span text);

/* Room for so many names in all.  False when there is no memory. */
PSD_CHECKED bool psd_names_reserve(psd_names *names, uint32_t count);

/* Where the number of this name is kept, added if it is new; NULL: no memory. */
uint32_t *psd_names_put(psd_names *names, psd_span text, uint32_t number, bool *added);

/* Add a name, unless it is there.  False when there is no memory. */
PSD_CHECKED bool psd_names_add(psd_names *names, psd_span text, uint32_t number);

#endif
