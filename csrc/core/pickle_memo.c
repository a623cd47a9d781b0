/* SPDX-License-Identifier: Apache-2.0 */
#include "pickle_memo.h"

#define FAR_CAPACITY_MIN 16u

void
psd_memo_init(psd_memo *memo, psd_alloc alloc, psd_hash_key key)
{
    *memo = (psd_memo){.alloc = alloc, .key = key};
}

void
psd_memo_clear(psd_memo *memo)
{
    psd_alloc alloc = memo->alloc;
    if (memo->near != NULL) {
        alloc.resize(alloc.ctx, memo->near, memo->near_capacity * sizeof *memo->near,
                     0);
    }
    if (memo->far != NULL) {
        alloc.resize(alloc.ctx, memo->far, memo->far_capacity * sizeof *memo->far, 0);
    }
    psd_memo_init(memo, alloc, memo->key);
}

/* The slot that holds `index`, or the free one where it belongs. */
static psd_memo_slot *
slot_of(psd_memo_slot *slots, uint32_t capacity, psd_hash_key key, uint64_t index)
{
    uint8_t bytes[8];
    psd_store_le64(bytes, index);
    uint32_t at = (uint32_t)psd_hash(key, (psd_span){bytes, sizeof bytes});
    for (;; at++) {
        psd_memo_slot *slot = &slots[at & (capacity - 1)];
        if (slot->ref == 0 || slot->index == index) {
            return slot;
        }
    }
}

psd_ref
psd_memo_get_far(const psd_memo *memo, uint64_t index)
{
    return slot_of(memo->far, memo->far_capacity, memo->key, index)->ref;
}

/* At most half full, so a search is short. */
static bool
grow_far(psd_memo *memo)
{
    if (memo->far_count < memo->far_capacity / 2) {
        return true;
    }
    if (memo->far_capacity > UINT32_MAX / 2 ||
        (uint64_t)memo->far_capacity * 2 > SIZE_MAX / sizeof *memo->far) {
        return false;
    }
    uint32_t capacity =
        memo->far_capacity == 0 ? FAR_CAPACITY_MIN : memo->far_capacity * 2;
    psd_alloc alloc = memo->alloc;
    psd_memo_slot *slots = alloc.resize(alloc.ctx, NULL, 0, capacity * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    memset(slots, 0, capacity * sizeof *slots);
    for (uint32_t i = 0; i < memo->far_capacity; i++) {
        const psd_memo_slot *old = &memo->far[i];
        if (old->ref != 0) {
            *slot_of(slots, capacity, memo->key, old->index) = *old;
        }
    }
    if (memo->far != NULL) {
        alloc.resize(alloc.ctx, memo->far, memo->far_capacity * sizeof *slots, 0);
    }
    memo->far = slots;
    memo->far_capacity = capacity;
    return true;
}

static bool
put_far(psd_memo *memo, uint64_t index, psd_ref ref)
{
    if (!grow_far(memo)) {
        return false;
    }
    psd_memo_slot *slot = slot_of(memo->far, memo->far_capacity, memo->key, index);
    if (slot->ref == 0) {
        memo->far_count++;
        memo->count++;
    }
    *slot = (psd_memo_slot){index, ref};
    return true;
}

bool
psd_memo_put_slowly(psd_memo *memo, uint64_t index, uint64_t spent, psd_ref ref)
{
    if (index >= memo->near_capacity) {
        if (index >= spent) {
            return put_far(memo, index, ref);
        }
        uint32_t before = memo->near_capacity;
        void *near = memo->near;
        if (!psd_grow(memo->alloc, &near, &memo->near_capacity, index + 1,
                      sizeof *memo->near)) {
            return false;
        }
        memo->near = near;
        memset(memo->near + before, 0,
               (memo->near_capacity - before) * sizeof *memo->near);
    }
    /* It counts once, though it may be in the table too. */
    memo->count += psd_memo_get(memo, index) == 0;
    memo->near[index] = ref;
    return true;
}
