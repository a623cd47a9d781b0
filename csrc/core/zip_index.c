/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries held against each other: put in the order of the file, to see what
 * overlaps, and indexed by name, to see what comes twice.
 */
#include "zip_format.h"

/* ------------------------------------------------------------------ order */

/* A heap's sift: the record at `root` sinks until none below starts later. */
static void
sink(const psd_zip_entry *entries, uint32_t *order, size_t root, size_t count)
{
    uint32_t moving = order[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && entries[order[child]].header_offset <
                                     entries[order[child + 1]].header_offset) {
            child++;
        }
        if (entries[order[child]].header_offset <= entries[moving].header_offset) {
            break;
        }
        order[root] = order[child];
    }
    order[root] = moving;
}

/* Heapsort: no worst case, no recursion, no second array. */
static void
sort_by_offset(const psd_zip_entry *entries, uint32_t *order, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        order[i] = i;
    }
    for (size_t root = count / 2; root-- > 0;) {
        sink(entries, order, root, count);
    }
    for (size_t last = count; last-- > 1;) {
        uint32_t latest = order[0];
        order[0] = order[last];
        order[last] = latest;
        sink(entries, order, 0, last);
    }
}

static bool
is_ascending(const psd_zip *zip)
{
    for (uint32_t i = 1; i < zip->count; i++) {
        if (zip->entries[i].header_offset < zip->entries[i - 1].header_offset) {
            return false;
        }
    }
    return true;
}

/* Each record ends where the next one starts, at the latest; `order` may be NULL. */
static psd_status
set_limits(psd_zip *zip, const uint32_t *order, psd_error *err)
{
    for (uint32_t i = 0; i < zip->count; i++) {
        psd_zip_entry *entry = &zip->entries[order == NULL ? i : order[i]];
        entry->limit = zip->directory_offset;
        if (i + 1 < zip->count) {
            entry->limit =
                zip->entries[order == NULL ? i + 1 : order[i + 1]].header_offset;
        }
        uint64_t size = PSD_ZIP_LOCAL_SIZE + entry->name.size + entry->stored_size;
        if (!psd_fits(entry->header_offset, size, entry->limit)) {
            psd_fail(err, PSD_OVERLAP, entry->header_offset,
                     "a record reaches into the next one");
            psd_fail_entry(err, entry->name);
            return psd_fail_numbers(err, entry->header_offset + size, entry->limit);
        }
    }
    return PSD_OK;
}

psd_status
psd_zip_set_limits(psd_zip *zip, psd_alloc alloc, psd_error *err)
{
    if (is_ascending(zip)) {
        return set_limits(zip, NULL, err);
    }
    size_t size = zip->count * sizeof(uint32_t);
    uint32_t *order = alloc.resize(alloc.ctx, NULL, 0, size);
    if (order == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, zip->directory_offset, "out of memory");
    }
    sort_by_offset(zip->entries, order, zip->count);
    psd_status status = set_limits(zip, order, err);
    alloc.resize(alloc.ctx, order, size, 0);
    return status;
}

/* ------------------------------------------------------------------ names */

static inline uint8_t
fold(uint8_t byte, bool slashes)
{
    if (byte >= 'A' && byte <= 'Z') {
        return (uint8_t)(byte + ('a' - 'A'));
    }
    return byte == '\\' && slashes ? '/' : byte;
}

/* Compared from the end, where the names of one archive differ. */
static bool
same_name(psd_span a, psd_span b, bool slashes)
{
    if (a.size != b.size || psd_span_equal(a, b)) {
        return a.size == b.size;
    }
    for (size_t i = a.size; i-- > 0;) {
        if (a.data[i] != b.data[i] &&
            fold(a.data[i], slashes) != fold(b.data[i], slashes)) {
            return false;
        }
    }
    return true;
}

static bool
is_taken(const psd_zip *zip, psd_span a, psd_span b)
{
    return zip->exact ? psd_span_equal(a, b) : same_name(a, b, true);
}

/* The slot of an entry that `name` may not stand beside, or a free one. */
static psd_slot *
find_slot(const psd_zip *zip, psd_span name, uint32_t *tag)
{
    uint64_t hash =
        zip->exact ? psd_hash(zip->key, name) : psd_hash_folded(zip->key, name);
    *tag = psd_slot_tag(hash);
    for (size_t i = (size_t)hash & zip->slot_mask;; i = (i + 1) & zip->slot_mask) {
        psd_slot *slot = &zip->slots[i];
        if (slot->number == 0 ||
            (slot->tag == *tag &&
             is_taken(zip, zip->entries[slot->number - 1].name, name))) {
            return slot;
        }
    }
}

/* At most half of the slots are taken, so a search is short. */
psd_status
psd_zip_index_names(psd_zip *zip, psd_arena *arena, psd_error *err)
{
    size_t room = 2;
    while (room / 2 < zip->count) {
        room *= 2;
    }
    zip->slots = psd_arena_take_array(arena, room, sizeof *zip->slots);
    if (zip->slots == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, zip->directory_offset, "out of memory");
    }
    memset(zip->slots, 0, room * sizeof *zip->slots);
    zip->slot_mask = (uint32_t)(room - 1);
    for (uint32_t i = 0; i < zip->count; i++) {
        psd_span name = zip->entries[i].name;
        uint32_t tag;
        psd_slot *slot = find_slot(zip, name, &tag);
        if (slot->number != 0) {
            psd_fail(err, PSD_DUPLICATE, zip->entries[i].header_offset,
                     "two records have the same name");
            psd_fail_entry(err, name);
            return psd_fail_subject(err, zip->entries[slot->number - 1].name);
        }
        *slot = (psd_slot){i + 1, tag};
    }
    return PSD_OK;
}

const psd_zip_entry *
psd_zip_find(const psd_zip *zip, psd_span name)
{
    if (zip->count == 0) {
        return NULL;
    }
    uint32_t tag, number = find_slot(zip, name, &tag)->number;
    if (number == 0 || !same_name(zip->entries[number - 1].name, name, false)) {
        return NULL;
    }
    return &zip->entries[number - 1];
}
