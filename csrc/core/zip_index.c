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

/* A name without the digits at its end. */
static psd_span
stem_of(psd_span name)
{
    while (name.size > 0 && name.data[name.size - 1] >= '0' &&
           name.data[name.size - 1] <= '9') {
        name.size--;
    }
    return name;
}

/* Where the entry of a name that is the stem and a number is told; NULL of others. */
static uint32_t *
find_numbered(const psd_zip *zip, psd_span name)
{
    uint32_t number;
    size_t size = zip->stem.size;
    if (name.size <= size ||
        !psd_span_is_number((psd_span){name.data + size, name.size - size}, zip->count,
                            &number) ||
        !is_taken(zip, zip->stem, (psd_span){name.data, size})) {
        return NULL;
    }
    return &zip->by_number[number];
}

/* The number of the entry that `name` may not stand beside + 1, or 0. */
static uint32_t
find_taken(const psd_zip *zip, psd_span name)
{
    uint32_t tag;
    const uint32_t *numbered = find_numbered(zip, name);
    return numbered != NULL ? *numbered : find_slot(zip, name, &tag)->number;
}

static psd_status
fail_twice(const psd_zip *zip, uint32_t first, uint32_t second, psd_error *err)
{
    psd_fail(err, PSD_DUPLICATE, zip->entries[second].header_offset,
             "two records have the same name");
    psd_fail_entry(err, zip->entries[second].name);
    return psd_fail_subject(err, zip->entries[first].name);
}

/* Most records of a checkpoint are "archive/data/0", "archive/data/1", ...  The numbers
 * of the entries with other names come into `others`. */
static psd_status
index_numbered(psd_zip *zip, uint32_t *others, uint32_t *other_count, psd_error *err)
{
    for (uint32_t i = 0; i < zip->count; i++) {
        uint32_t *numbered = find_numbered(zip, zip->entries[i].name);
        if (numbered == NULL) {
            others[(*other_count)++] = i;
        }
        else if (*numbered != 0) {
            return fail_twice(zip, *numbered - 1, i, err);
        }
        else {
            *numbered = i + 1;
        }
    }
    return PSD_OK;
}

static psd_status
index_others(psd_zip *zip, const uint32_t *others, uint32_t other_count, psd_error *err)
{
    for (uint32_t i = 0; i < other_count; i++) {
        uint32_t tag;
        psd_slot *slot = find_slot(zip, zip->entries[others[i]].name, &tag);
        if (slot->number != 0) {
            return fail_twice(zip, slot->number - 1, others[i], err);
        }
        *slot = (psd_slot){others[i] + 1, tag};
    }
    return PSD_OK;
}

psd_status
psd_zip_index_names(psd_zip *zip, psd_arena *arena, psd_error *err)
{
    size_t size = zip->count * sizeof *zip->by_number;
    uint32_t other_count = 0;
    uint32_t *others = psd_arena_take(arena, size);
    zip->by_number = psd_arena_take(arena, size);
    if (others == NULL || zip->by_number == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, zip->directory_offset, "out of memory");
    }
    memset(zip->by_number, 0, size);
    zip->stem = (psd_span){NULL, 0};
    if (zip->count > 0) {
        zip->stem = stem_of(zip->entries[zip->count / 2].name);
    }
    psd_status status = index_numbered(zip, others, &other_count, err);
    if (status != PSD_OK) {
        return status;
    }
    /* At most half of the slots are taken, so a search is short. */
    size_t room = 2;
    while (room / 2 < other_count) {
        room *= 2;
    }
    zip->slots = psd_arena_take_array(arena, room, sizeof *zip->slots);
    if (zip->slots == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, zip->directory_offset, "out of memory");
    }
    memset(zip->slots, 0, room * sizeof *zip->slots);
    zip->slot_mask = (uint32_t)(room - 1);
    return index_others(zip, others, other_count, err);
}

const psd_zip_entry *
psd_zip_find(const psd_zip *zip, psd_span name)
{
    uint32_t number = zip->count == 0 ? 0 : find_taken(zip, name);
    if (number == 0 || !same_name(zip->entries[number - 1].name, name, false)) {
        return NULL;
    }
    return &zip->entries[number - 1];
}
