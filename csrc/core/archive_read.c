/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and running, whatever the container: what differs stands in a file of
 * its own for each.
 */
#include "archive_parts.h"
#include "crc32.h"

void
psd_archive_init(psd_archive *archive, const psd_options *options)
{
    memset(archive, 0, sizeof *archive);
    archive->options = *options;
    psd_arena_init(&archive->arena, options->alloc);
    psd_pool_init(&archive->pool, &archive->arena, options->limits.values);
    psd_model_init(&archive->model, options->alloc, options->key);
}

void
psd_archive_clear(psd_archive *archive)
{
    psd_model_clear(&archive->model);
    psd_pool_clear(&archive->pool);
    psd_arena_clear(&archive->arena);
}

/* ---------------------------------------------------------------- opening */

/* The first bytes of the file, as many as there are. */
static psd_status
read_head(const psd_input *input, uint8_t *room, size_t size, psd_span *head,
          psd_error *err)
{
    *head = (psd_span){room, input->size < size ? (size_t)input->size : size};
    return psd_input_copy(input, 0, head->size, room, err);
}

static psd_status
open_pickle(psd_archive *archive, const psd_input *input, psd_error *err)
{
    archive->kind = PSD_ARCHIVE_PICKLE;
    return psd_pickle_fetch(input, 0, input->size, &archive->options.limits,
                            &archive->arena, &archive->program, err);
}

psd_status
psd_archive_open(psd_archive *archive, const psd_input *input, psd_error *err)
{
    uint8_t room[PSD_TAR_BLOCK];
    psd_span head;
    archive->options.record = psd_arena_copy(&archive->arena, archive->options.record);
    if (archive->options.record.data == NULL) {
        return psd_fail_memory(err);
    }
    if (archive->options.mode == PSD_OPEN_PICKLE) {
        return open_pickle(archive, input, err);
    }
    if (archive->options.mode == PSD_OPEN_BYTES) {
        archive->kind = PSD_ARCHIVE_BYTES;
        return PSD_OK;
    }
    psd_status status = read_head(input, room, sizeof room, &head, err);
    if (status != PSD_OK) {
        return status;
    }
    if (archive->options.mode != PSD_OPEN_CHECKPOINT) {
        return psd_archive_open_zip(archive, input, err);
    }
    if (psd_stream_begins(head)) {
        return psd_archive_open_stream(archive, input, err);
    }
    if (psd_safetensors_begins(head)) {
        return psd_archive_open_safetensors(archive, input, err);
    }
    bool is_tar;
    status = psd_tar_begins(input, head, &is_tar, err);
    if (status != PSD_OK || is_tar) {
        return status == PSD_OK ? psd_archive_open_tar(archive, input, err) : status;
    }
    return psd_archive_open_zip(archive, input, err);
}

/* ---------------------------------------------------------------- running */

static psd_dialect
dialect_of(psd_archive_kind kind)
{
    switch (kind) {
    case PSD_ARCHIVE_STREAM: return PSD_DIALECT_STREAM;
    case PSD_ARCHIVE_TAR: return PSD_DIALECT_TAR;
    case PSD_ARCHIVE_PICKLE: return PSD_DIALECT_PLAIN;
    case PSD_ARCHIVE_SCRIPT: return PSD_DIALECT_SCRIPT;
    case PSD_ARCHIVE_PACKAGE: return PSD_DIALECT_PACKAGE;
    default: return PSD_DIALECT_ZIP;
    }
}

static psd_status
run_pickle(psd_archive *archive, psd_error *err)
{
    const psd_limits *limits = &archive->options.limits;
    psd_torch_source source = {
        .dialect = dialect_of(archive->kind),
        .base = archive->program_offset,
        .embedded = psd_archive_embedded,
        .embedded_ctx = archive,
    };
    psd_status status =
        psd_pickle_read(archive->program, archive->program_offset, limits,
                        archive->options.key, &archive->pool, &archive->pickle, err);
    if (status == PSD_OK) {
        status = psd_torch_read(&archive->pool, archive->pickle.root, &source, limits,
                                &archive->model, err);
    }
    return status == PSD_OK || err->entry_size > 0
               ? status
               : psd_fail_entry(err, archive->pickle_name);
}

psd_status
psd_archive_run(psd_archive *archive, const psd_input *input, psd_error *err)
{
    psd_status status = PSD_OK;
    if (archive->program.data == NULL) {
        return psd_fail(err, PSD_KIND, PSD_NOWHERE,
                        "an archive without a pickle that is to be run by itself");
    }
    if (archive->kind == PSD_ARCHIVE_SAFETENSORS) {
        return psd_archive_read_safetensors(archive, input, err);
    }
    if (archive->kind == PSD_ARCHIVE_TAR) {
        status = psd_archive_read_tar(archive, input, err);
    }
    if (status == PSD_OK) {
        status = run_pickle(archive, err);
    }
    if (status == PSD_PICKLE_END && archive->kind == PSD_ARCHIVE_STREAM &&
        archive->end_offset != 0) {
        return psd_fail(err, PSD_TRUNCATED, err->offset,
                        "the file ends within its pickle");
    }
    if (status != PSD_OK) {
        return status;
    }
    switch (archive->kind) {
    case PSD_ARCHIVE_STREAM:
        status = psd_archive_join_stream(archive, input, err);
        break;
    case PSD_ARCHIVE_TAR:
    case PSD_ARCHIVE_PICKLE: break;
    default:
        status = psd_archive_join_zip(archive, err);
        if (status == PSD_OK) {
            status = psd_archive_check_inflated(archive, input, err);
        }
        break;
    }
    if (archive->options.salvage) {
        psd_model_lose(&archive->pool, &archive->model);
    }
    return status;
}

void
psd_archive_lose(psd_archive *archive, const uint32_t *storages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        archive->model.storages[storages[i]].place = PSD_PLACE_LOST;
    }
    psd_model_lose(&archive->pool, &archive->model);
}

psd_status
psd_archive_locate(const psd_archive *archive, const psd_input *input, uint32_t storage,
                   psd_location *location, psd_error *err)
{
    const psd_storage *s = &archive->model.storages[storage];
    *location = (psd_location){.place = (psd_place)s->place};
    if (s->place == PSD_PLACE_FILE) {
        location->offset = s->at.offset;
    }
    else if (s->place == PSD_PLACE_MEMORY) {
        location->memory = s->at.memory;
    }
    else if (s->place == PSD_PLACE_RECORD) {
        location->entry = &archive->zip.entries[s->at.entry];
        location->skip = s->skip;
        if (location->entry->method == PSD_ZIP_STORED) {
            location->place = PSD_PLACE_FILE;
            psd_status status =
                psd_zip_locate(input, location->entry, &location->offset, err);
            location->offset += s->skip; /* within the record, as its size is */
            return status;
        }
    }
    return PSD_OK;
}

psd_status
psd_archive_storage_crc32(const psd_archive *archive, const psd_input *input,
                          uint32_t storage, uint32_t *crc, psd_error *err)
{
    const psd_storage *s = &archive->model.storages[storage];
    psd_location where;
    psd_status status = psd_archive_locate(archive, input, storage, &where, err);
    *crc = 0;
    if (status != PSD_OK) {
        return status;
    }
    if (where.place == PSD_PLACE_RECORD && s->skip > 0) {
        return psd_archive_crc_of_deflated(archive, input, where.entry, s->skip, crc,
                                           err);
    }
    if (s->place == PSD_PLACE_RECORD && s->skip == 0) {
        const psd_zip_entry *entry = &archive->zip.entries[s->at.entry];
        *crc = entry->crc32;
        return psd_archive_states_crc(entry)
                   ? PSD_OK
                   : psd_archive_crc32(archive, input, entry, crc, err);
    }
    if (where.place == PSD_PLACE_MEMORY) {
        *crc = psd_crc32(0, where.memory, (size_t)s->size);
    }
    return where.place == PSD_PLACE_FILE
               ? psd_archive_crc_of_range(archive, input, where.offset, s->size, crc,
                                          err)
               : PSD_OK;
}
