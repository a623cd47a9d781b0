/* SPDX-License-Identifier: Apache-2.0
 *
 * Files whose tensors the host has found by its own reading: what it tells is held
 * against the bytes that are there, and becomes values like any other.
 */
#include "archive_parts.h"

static psd_status
check_storage(const psd_archive *archive, const psd_input *input, const psd_storage *s,
              psd_error *err)
{
    if (s->place == PSD_PLACE_FILE && !psd_fits(s->at.offset, s->size, input->size)) {
        uint64_t left = s->at.offset < input->size ? input->size - s->at.offset : 0;
        psd_fail(err, PSD_TRUNCATED, s->at.offset, "the file ends within a tensor");
        psd_fail_subject(err, s->key);
        return psd_fail_numbers(err, left, s->size);
    }
    if (s->place == PSD_PLACE_RECORD &&
        (s->at.entry >= archive->zip.count ||
         !psd_fits(s->skip, s->size, archive->zip.entries[s->at.entry].size) ||
         archive->zip.entries[s->at.entry].size - s->skip != s->size)) {
        psd_fail(err, PSD_STORAGE, PSD_NOWHERE,
                 "a storage's record has another size than was told");
        return psd_fail_subject(err, s->key);
    }
    return PSD_OK;
}

static bool
copy_texts(psd_archive *archive, psd_storage *s)
{
    s->key = psd_arena_copy(&archive->arena, s->key);
    s->location = psd_arena_copy(&archive->arena, s->location);
    return s->key.data != NULL && s->location.data != NULL;
}

static psd_status
add_storages(psd_archive *archive, const psd_input *input, const psd_description *told,
             psd_error *err)
{
    for (uint32_t i = 0; i < told->storage_count; i++) {
        psd_storage s = told->storages[i];
        psd_status status = check_storage(archive, input, &s, err);
        if (status != PSD_OK) {
            return status;
        }
        s.parent = PSD_NO_STORAGE;
        if ((!told->lasting && !copy_texts(archive, &s)) ||
            !psd_model_add_storage(&archive->model, &s)) {
            return psd_fail_memory(err);
        }
    }
    return PSD_OK;
}

static bool
copy_numbers(psd_archive *archive, psd_tensor *t)
{
    int64_t *numbers =
        psd_arena_take_array(&archive->arena, 2 * (size_t)t->rank, sizeof *numbers);
    for (unsigned i = 0; numbers != NULL && i < t->rank; i++) {
        numbers[i] = t->shape[i];
        numbers[t->rank + i] = t->strides[i];
    }
    t->shape = numbers;
    t->strides = numbers == NULL ? NULL : numbers + t->rank;
    return numbers != NULL;
}

/* The window of a tensor on its storage. */
static psd_status
check_window(const psd_archive *archive, psd_tensor *t, psd_error *err)
{
    if (t->storage >= archive->model.storage_count) {
        return psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE,
                        "a tensor of a storage that was not told");
    }
    size_t itemsize = psd_dtype_row((psd_dtype)t->dtype)->size;
    const char *fault = psd_window_count(t, itemsize);
    if (fault == NULL) {
        uint64_t reach, room = archive->model.storages[t->storage].size / itemsize;
        fault = psd_window_reach(t, room, &reach);
    }
    return fault == NULL ? PSD_OK : psd_fail(err, PSD_TENSOR, PSD_NOWHERE, fault);
}

static psd_status
add_tensor(psd_archive *archive, psd_span name, const psd_tensor *told, bool lasting,
           psd_ref *refs, psd_error *err)
{
    psd_pool *pool = &archive->pool;
    psd_tensor t = *told;
    if (!lasting && !copy_numbers(archive, &t)) {
        return psd_fail_memory(err);
    }
    psd_status status = check_window(archive, &t, err);
    if (status != PSD_OK) {
        return psd_fail_subject(err, name);
    }
    if (!lasting) {
        name = psd_arena_copy(&archive->arena, name);
    }
    refs[0] = name.data == NULL ? 0 : psd_new_text(pool, PSD_KIND_TEXT, name);
    refs[1] = refs[0] == 0 ? 0 : psd_new_none(pool);
    if (refs[1] == 0) {
        return psd_pool_fail(&archive->pool, err);
    }
    psd_value *v = psd_value_at(pool, refs[1]);
    v->kind = PSD_KIND_TENSOR;
    v->as.index = archive->model.tensor_count;
    t.at = refs[1];
    return psd_model_add_tensor(&archive->model, &t) ? PSD_OK : psd_fail_memory(err);
}

psd_status
psd_archive_describe(psd_archive *archive, const psd_input *input,
                     const psd_description *told, psd_error *err)
{
    psd_pool *pool = &archive->pool;
    psd_status status = add_storages(archive, input, told, err);
    if (status == PSD_OK) {
        status = psd_archive_check_inflated(archive, input, err);
    }
    if (status != PSD_OK) {
        return status;
    }
    psd_ref *refs = psd_arena_take_array(&archive->arena,
                                         2 * (size_t)told->tensor_count, sizeof *refs);
    psd_ref dict = psd_torch_new_ordered_dict(pool);
    if (refs == NULL || told->tensor_count > UINT32_MAX / 2) {
        return psd_fail_memory(err);
    }
    if (dict == 0) {
        return psd_pool_fail(&archive->pool, err);
    }
    for (uint32_t i = 0; i < told->tensor_count && status == PSD_OK; i++) {
        status = add_tensor(archive, told->names[i], &told->tensors[i], told->lasting,
                            refs + 2 * (size_t)i, err);
    }
    if (status == PSD_OK && !psd_set(pool, dict, refs, 2 * told->tensor_count)) {
        return psd_fail_memory(err);
    }
    archive->pickle.root = dict;
    return status;
}
