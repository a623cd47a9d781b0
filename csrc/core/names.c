/* SPDX-License-Identifier: Apache-2.0 */
#include "names.h"

#define FIRST_SLOTS 64u

void
psd_names_init(psd_names *names, psd_alloc alloc, psd_hash_key key)
{
    *names = (psd_names){.alloc = alloc, .key = key};
}

void
psd_names_clear(psd_names *names)
{
    psd_alloc alloc = names->alloc;
    if (names->entries != NULL) {
        alloc.resize(alloc.ctx, names->entries,
                     names->capacity * sizeof *names->entries, 0);
    }
    if (names->slots != NULL) {
        alloc.resize(alloc.ctx, names->slots, names->slot_count * sizeof *names->slots,
                     0);
    }
    psd_names_init(names, alloc, names->key);
}

/* The slot of the name, or the free one where it belongs. */
static psd_slot *
slot_of(const psd_names *names, psd_span text, uint32_t *tag)
{
    uint64_t hash = psd_hash(names->key, text);
    uint32_t mask = names->slot_count - 1, at = (uint32_t)hash & mask;
    *tag = psd_slot_tag(hash);
    for (;; at = (at + 1) & mask) {
        psd_slot *slot = &names->slots[at];
        if (slot->number == 0 ||
            (slot->tag == *tag &&
             psd_span_equal(names->entries[slot->number - 1].text, text))) {
            return slot;
        }
    }
}

uint32_t *
psd_names_find(const psd_names *names, psd_span text)
{
    uint32_t tag;
    uint32_t entry = names->slot_count == 0 ? 0 : slot_of(names, text, &tag)->number;
    return entry == 0 ? NULL : &names->entries[entry - 1].number;
}

/* At most half of the slots are taken, so a search is short. */
static bool
grow_slots(psd_names *names, uint32_t names_in_all)
{
    uint32_t before = names->slot_count, count = before == 0 ? FIRST_SLOTS : before;
    while (count / 2 < names_in_all) {
        if (count > UINT32_MAX / 2) {
            return false;
        }
        count *= 2;
    }
    uint64_t size = (uint64_t)count * sizeof *names->slots;
    if (count == before || size > SIZE_MAX) {
        return count == before;
    }
    psd_alloc alloc = names->alloc;
    psd_slot *slots = alloc.resize(alloc.ctx, NULL, 0, (size_t)size);
    if (slots == NULL) {
        return false;
    }
    memset(slots, 0, (size_t)size);
    if (names->slots != NULL) {
        alloc.resize(alloc.ctx, names->slots, before * sizeof *slots, 0);
    }
    names->slots = slots;
    names->slot_count = count;
    for (uint32_t i = 0; i < names->count; i++) {
        uint32_t tag;
        psd_slot *slot = slot_of(names, names->entries[i].text, &tag);
        *slot = (psd_slot){i + 1, tag};
    }
    return true;
}

bool
psd_names_reserve(psd_names *names, uint32_t count)
{
    void *entries = names->entries;
    bool done =
        grow_slots(names, count) && psd_grow(names->alloc, &entries, &names->capacity,
                                             count, sizeof *names->entries);
    names->entries = entries;
    return done;
}

uint32_t *
psd_names_put(psd_names *names, psd_span text, uint32_t number, bool *added)
{
    if (names->count == UINT32_MAX || !psd_names_reserve(names, names->count + 1)) {
        return NULL;
    }
    uint32_t tag;
    psd_slot *slot = slot_of(names, text, &tag);
    *added = slot->number == 0;
    if (*added) {
        names->entries[names->count++] = (psd_name){text, number};
        *slot = (psd_slot){names->count, tag};
    }
    return &names->entries[slot->number - 1].number;
}

bool
psd_names_add(psd_names *names, psd_span text, uint32_t number)
{
    bool added;
    return psd_names_put(names, text, number, &added) != NULL;
}
