/* SPDX-License-Identifier: Apache-2.0
 *
 * What the writer has met: numbers of values by the object's address, and those of texts
 * by what they say.  Dicts would do, and would make an int of each address and number.
 */
#include "py_writer.h"

/* Objects lie on 16 bytes; what is left of an address is spread over the upper bits. */
static size_t
slot_of(const py_memo *memo, const PyObject *object)
{
    uint64_t spread = (uint64_t)((uintptr_t)object >> 4) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(spread >> 32) & memo->mask;
    while (memo->slots[at].object != NULL && memo->slots[at].object != object) {
        at = (at + 1) & memo->mask;
    }
    return at;
}

/* At most half of the slots are taken, so a search is short; and they grow so that each
 * object is moved less than once on average. */
#define FIRST_SLOTS ((size_t)64)
#define GROWTH 4

static bool
grow(py_memo *memo)
{
    py_memo before = *memo;
    size_t count = before.slots == NULL ? FIRST_SLOTS : GROWTH * (before.mask + 1);
    if (count > SIZE_MAX / sizeof *memo->slots) {
        return py_no_memory();
    }
    memo->slots = py_take_zeros(count * sizeof *memo->slots);
    if (memo->slots == NULL) {
        *memo = before;
        return py_no_memory();
    }
    memo->mask = count - 1;
    for (size_t i = 0; before.slots != NULL && i <= before.mask; i++) {
        if (before.slots[i].object != NULL) {
            memo->slots[slot_of(memo, before.slots[i].object)] = before.slots[i];
        }
    }
    py_memo_clear(&before);
    return true;
}

psd_ref
py_memo_find(const py_memo *memo, const PyObject *object)
{
    return memo->slots == NULL ? 0 : memo->slots[slot_of(memo, object)].ref;
}

bool
py_memo_put(py_memo *memo, PyObject *object, psd_ref ref)
{
    if ((memo->slots == NULL || memo->count > memo->mask / 2) && !grow(memo)) {
        return false;
    }
    py_memo_slot *slot = &memo->slots[slot_of(memo, object)];
    memo->count += slot->object == NULL;
    *slot = (py_memo_slot){object, ref};
    return true;
}

void
py_memo_clear(py_memo *memo)
{
    if (memo->slots != NULL) {
        py_free_zeros(memo->slots, (memo->mask + 1) * sizeof *memo->slots);
    }
    *memo = (py_memo){.slots = NULL};
}

/* ---------------------------------------------------------------- texts */

/* The slot of the text, or the free one where it belongs.  Python's hashes of texts are
 * keyed by a secret of the process. */
static py_text_slot *
slot_of_text(const py_texts *texts, const psd_pool *pool, uint32_t hash, psd_span text)
{
    size_t at = hash & texts->mask;
    for (;; at = (at + 1) & texts->mask) {
        py_text_slot *slot = &texts->slots[at];
        if (slot->ref == 0 ||
            (slot->hash == hash &&
             psd_span_equal(psd_text_of(psd_value_at(pool, slot->ref)), text))) {
            return slot;
        }
    }
}

static bool
grow_texts(py_texts *texts)
{
    py_texts before = *texts;
    size_t count = before.slots == NULL ? FIRST_SLOTS : GROWTH * (before.mask + 1);
    py_text_slot *slots =
        count > SIZE_MAX / sizeof *slots ? NULL : py_take_zeros(count * sizeof *slots);
    if (slots == NULL) {
        return py_no_memory();
    }
    for (size_t i = 0; before.slots != NULL && i <= before.mask; i++) {
        size_t at = before.slots[i].hash & (count - 1);
        while (slots[at].ref != 0) {
            at = (at + 1) & (count - 1);
        }
        slots[at] = before.slots[i];
    }
    texts->slots = slots;
    texts->mask = count - 1;
    py_texts_clear(&before);
    return true;
}

psd_ref *
py_texts_find(py_texts *texts, const psd_pool *pool, Py_hash_t hash, psd_span text)
{
    if ((texts->slots == NULL || texts->count > texts->mask / 2) &&
        !grow_texts(texts)) {
        return NULL;
    }
    py_text_slot *slot = slot_of_text(texts, pool, (uint32_t)hash, text);
    texts->count += slot->ref == 0;
    slot->hash = (uint32_t)hash;
    return &slot->ref;
}

void
py_texts_clear(py_texts *texts)
{
    if (texts->slots != NULL) {
        py_free_zeros(texts->slots, (texts->mask + 1) * sizeof *texts->slots);
    }
    *texts = (py_texts){.slots = NULL};
}
