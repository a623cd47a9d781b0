/* SPDX-License-Identifier: Apache-2.0
 *
 * What the writer has met: numbers of values by the object's address.  A dict would do,
 * and would make an int of each address and of each number.
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

/* At most half of the slots are taken, so a search is short. */
static bool
grow(py_memo *memo)
{
    py_memo before = *memo;
    size_t count = before.slots == NULL ? 64 : 2 * (before.mask + 1);
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
