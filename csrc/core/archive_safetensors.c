/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors: what the header tells becomes a description like a host's own.
 */
#include "archive_parts.h"

psd_status
psd_archive_open_safetensors(psd_archive *archive, const psd_input *input,
                             psd_error *err)
{
    uint8_t *json = NULL;
    size_t size = 0;
    archive->kind = PSD_ARCHIVE_SAFETENSORS;
    psd_status status = psd_safetensors_fetch(input, &archive->options.limits,
                                              &archive->arena, &json, &size, err);
    archive->program = (psd_span){json, size};
    archive->program_offset = PSD_SAFETENSORS_LENGTH;
    return status;
}

/* Every tensor has a storage of its own, by its name. */
static psd_status
describe(psd_archive *archive, const psd_input *input, const psd_safetensors *header,
         psd_arena *scratch, psd_error *err)
{
    uint32_t count = header->count;
    psd_storage *storages = psd_arena_take_array(scratch, count, sizeof *storages);
    psd_tensor *tensors = psd_arena_take_array(scratch, count, sizeof *tensors);
    psd_span *names = psd_arena_take_array(scratch, count, sizeof *names);
    if (storages == NULL || tensors == NULL || names == NULL) {
        return psd_fail_memory(err);
    }
    uint64_t data = archive->program_offset + archive->program.size;
    for (uint32_t i = 0; i < count; i++) {
        const psd_safetensor *t = &header->tensors[i];
        names[i] = t->name;
        storages[i] = (psd_storage){
            .key = t->name,
            .location = PSD_LITERAL("cpu"),
            .numel = t->end - t->begin,
            .size = t->end - t->begin,
            .dtype = PSD_DTYPE_UINT8,
            .untyped = true,
            .place = PSD_PLACE_FILE,
            .at.offset = data + t->begin,
        };
        tensors[i] = (psd_tensor){
            .shape = t->shape,
            .strides = t->shape + t->rank,
            .storage = i,
            .dtype = t->dtype,
            .rank = t->rank,
        };
    }
    psd_description told = {storages, names, tensors, count, count, true};
    return psd_archive_describe(archive, input, &told, err);
}

/* {"__metadata__": {...}} becomes the state of the root. */
static bool
add_notes(psd_archive *archive, const psd_safetensors *header)
{
    psd_pool *pool = &archive->pool;
    uint32_t count = header->note_count;
    psd_ref *refs = psd_arena_take_array(&archive->arena, count, sizeof *refs);
    bool done = refs != NULL;
    for (uint32_t i = 0; i < count && done; i++) {
        refs[i] = psd_new_text(pool, PSD_KIND_TEXT, header->notes[i]);
        done = refs[i] != 0;
    }
    psd_ref key =
        !done ? 0 : psd_new_text(pool, PSD_KIND_TEXT, PSD_LITERAL("__metadata__"));
    archive->notes = key == 0 ? 0 : psd_new_items(pool, PSD_KIND_DICT, refs, count);
    psd_ref pair[] = {key, archive->notes};
    psd_ref state =
        archive->notes == 0 ? 0 : psd_new_items(pool, PSD_KIND_DICT, pair, 2);
    return state != 0 && psd_build(pool, archive->pickle.root, state);
}

psd_status
psd_archive_read_safetensors(psd_archive *archive, const psd_input *input,
                             psd_error *err)
{
    const psd_options *o = &archive->options;
    psd_safetensors header;
    psd_arena scratch;
    psd_safetensors_init(&header, o->alloc);
    psd_arena_init(&scratch, o->alloc);
    /* The copy is the archive's own, and unescaped in place. */
    uint8_t *json = (uint8_t *)(uintptr_t)archive->program.data;
    size_t size = archive->program.size;
    psd_status status = psd_safetensors_read(
        &header, json, size, input->size - archive->program_offset - size, &o->limits,
        o->key, &archive->arena, err);
    if (status == PSD_OK) {
        status = describe(archive, input, &header, &scratch, err);
    }
    if (status == PSD_OK && header.has_notes && !add_notes(archive, &header)) {
        status = psd_pool_fail(&archive->pool, err);
    }
    psd_arena_clear(&scratch);
    psd_safetensors_clear(&header);
    return status;
}
