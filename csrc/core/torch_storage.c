/* SPDX-License-Identifier: Apache-2.0
 *
 * Persistent ids become storages; one key is one storage.
 */
#include "torch_pass.h"

psd_status
psd_torch_no_memory(psd_torch_pass *p)
{
    return psd_fail(p->err, PSD_NO_MEMORY, PSD_NOWHERE, "out of memory");
}

psd_status
psd_torch_bad(psd_torch_pass *p, const psd_call *call, const char *sentence)
{
    psd_status status =
        psd_fail(p->err, PSD_TENSOR, p->base + call->position, sentence);
    const psd_value *callable = psd_value_at(p->pool, call->callable);
    if (callable->kind == PSD_KIND_GLOBAL) {
        psd_fail_subject(p->err, callable->as.global->name);
    }
    return status;
}

/* ---------------------------------------------------------------- storages */

static uint32_t *
find_slot(psd_torch_pass *p, psd_span key)
{
    uint32_t mask = p->slot_count - 1;
    uint32_t i = (uint32_t)psd_hash(p->key, key) & mask;
    while (p->slots[i] != 0 &&
           !psd_span_equal(p->model->storages[p->slots[i] - 1].key, key)) {
        i = (i + 1) & mask;
    }
    return &p->slots[i];
}

/* Keep the index at most half full. */
static bool
grow_index(psd_torch_pass *p)
{
    if (p->model->storage_count < p->slot_count / 2) {
        return true;
    }
    uint32_t old_count = p->slot_count;
    uint32_t count = old_count == 0 ? 64 : old_count * 2;
    if (count < old_count) {
        return false;
    }
    uint32_t *slots =
        p->alloc.resize(p->alloc.ctx, NULL, 0, (size_t)count * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    memset(slots, 0, (size_t)count * sizeof *slots);
    if (p->slots != NULL) {
        p->alloc.resize(p->alloc.ctx, p->slots, (size_t)old_count * sizeof *slots, 0);
    }
    p->slots = slots;
    p->slot_count = count;
    for (uint32_t i = 0; i < p->model->storage_count; i++) {
        *find_slot(p, p->model->storages[i].key) = i + 1;
    }
    return true;
}

static psd_status
bad_storage(psd_torch_pass *p, const psd_storage *s, const char *sentence)
{
    psd_fail(p->err, PSD_STORAGE, p->base + s->position, sentence);
    return psd_fail_subject(p->err, s->key);
}

/* Longer than any record's name.  One huge text can be the key of many persistent
 * ids and would be hashed for each. */
#define TEXT_MOST 2048u

static bool
is_text(const psd_value *value)
{
    return value->kind == PSD_KIND_TEXT || value->kind == PSD_KIND_STRING;
}

/* An integer key is formatted into the record's name, as torch does. */
static psd_status
read_key(psd_torch_pass *p, psd_ref ref, psd_storage *s)
{
    const psd_value *value = psd_value_at(p->pool, ref);
    if (is_text(value) && value->count <= TEXT_MOST) {
        s->key = psd_text_of(value);
        return PSD_OK;
    }
    if (is_text(value)) {
        return bad_storage(p, s, "a storage's key is longer than 2 KiB");
    }
    if (value->kind != PSD_KIND_INT || value->as.integer < 0) {
        return bad_storage(p, s, "a storage's key is neither text nor a whole number");
    }
    uint8_t digits[20];
    size_t next = sizeof digits;
    uint64_t v = (uint64_t)value->as.integer;
    do {
        digits[--next] = (uint8_t)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    s->key =
        psd_arena_copy(p->pool->arena, (psd_span){digits + next, sizeof digits - next});
    return s->key.data == NULL ? psd_torch_no_memory(p) : PSD_OK;
}

/* The tuple ('storage', class, key, location, numel). */
static psd_status
read_persid(psd_torch_pass *p, psd_ref ref, psd_storage *s)
{
    const psd_value *persid = psd_value_at(p->pool, ref);
    const psd_value *id = psd_value_at(p->pool, persid->as.ref);
    *s = (psd_storage){.position = persid->count};
    if (id->kind != PSD_KIND_TUPLE || id->count < 1 ||
        !psd_text_is(psd_value_at(p->pool, id->as.items[0]), PSD_LITERAL("storage"))) {
        return bad_storage(p, s, "a persistent id that does not name a storage");
    }
    if (id->count != 5) {
        return bad_storage(p, s, "a storage's persistent id does not have five parts");
    }
    psd_status status = read_key(p, id->as.items[2], s);
    if (status != PSD_OK) {
        return status;
    }
    const psd_value *class = psd_value_at(p->pool, id->as.items[1]);
    uint16_t tag = class->kind == PSD_KIND_GLOBAL ? class->as.global->tag : 0;
    if (psd_known_of(tag) == PSD_KNOWN_UNTYPED_STORAGE) {
        s->untyped = true;
        s->dtype = PSD_DTYPE_UINT8;
    }
    else if (psd_known_of(tag) == PSD_KNOWN_STORAGE) {
        s->dtype = (uint8_t)psd_known_dtype(tag);
    }
    else {
        return bad_storage(p, s, "a storage's class is not a storage class of torch");
    }
    const psd_value *location = psd_value_at(p->pool, id->as.items[3]);
    if (is_text(location) || location->kind == PSD_KIND_BYTES) {
        s->location = psd_text_of(location);
    }
    if (s->location.size > TEXT_MOST) {
        return bad_storage(p, s, "a storage's location is longer than 2 KiB");
    }
    const psd_value *numel = psd_value_at(p->pool, id->as.items[4]);
    if (numel->kind != PSD_KIND_INT || numel->as.integer < 0) {
        return bad_storage(p, s,
                           "a storage's number of elements is not a whole number");
    }
    s->numel = (uint64_t)numel->as.integer;
    if (!psd_multiply(s->numel, psd_dtype_row((psd_dtype)s->dtype)->size, &s->size) ||
        s->size > INT64_MAX) {
        return bad_storage(p, s, "a storage's size in bytes overflows");
    }
    return PSD_OK;
}

psd_status
psd_torch_add_storage(psd_torch_pass *p, psd_ref ref)
{
    psd_storage s;
    psd_status status = read_persid(p, ref, &s);
    if (status != PSD_OK) {
        return status;
    }
    if (!grow_index(p)) {
        return psd_torch_no_memory(p);
    }
    psd_model *model = p->model;
    uint32_t *slot = find_slot(p, s.key);
    if (*slot == 0) {
        if (!psd_grow(p->alloc, (void **)&model->storages, &model->storage_capacity,
                      (uint64_t)model->storage_count + 1, sizeof s)) {
            return psd_torch_no_memory(p);
        }
        model->storages[model->storage_count++] = s;
        *slot = model->storage_count;
    }
    else {
        const psd_storage *first = &model->storages[*slot - 1];
        if (first->size != s.size || first->dtype != s.dtype ||
            first->untyped != s.untyped) {
            return bad_storage(p, &s,
                               "two persistent ids tell differently of one storage");
        }
    }
    psd_value *value = psd_value_at(p->pool, ref);
    value->kind = PSD_KIND_STORAGE;
    value->as.index = *slot - 1;
    return PSD_OK;
}
