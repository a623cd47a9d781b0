/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy streams: by themselves, and within the pickles of others.
 */
#include "archive_parts.h"

psd_status
psd_archive_open_stream(psd_archive *archive, const psd_input *input, psd_error *err)
{
    const psd_options *o = &archive->options;
    archive->kind = PSD_ARCHIVE_STREAM;
    psd_status status = psd_stream_read(input, &o->limits, o->key, &archive->arena,
                                        &archive->stream, err);
    archive->program = archive->stream.object;
    archive->program_offset = archive->stream.object_offset;
    if (status == PSD_OK && !archive->stream.whole) {
        /* Damage within the pickle is told by running it; what is left of a write or
         * download that stopped has nothing behind it either. */
        archive->end_offset = input->size;
    }
    return status;
}

/* ---------------------------------------------------------------- joining */

static psd_status
fails(psd_error *err, psd_status status, uint64_t offset, psd_span key,
      const char *sentence)
{
    psd_fail(err, status, offset, sentence);
    return psd_fail_subject(err, key);
}

/* Give the listed storages their places, in the order of the list. */
static psd_status
walk_list(psd_archive *archive, const psd_input *input, psd_error *err)
{
    const psd_stream *stream = &archive->stream;
    const psd_input counts = psd_input_for_pieces(input, stream->key_count);
    uint64_t offset = stream->data_offset;
    for (uint32_t i = 0; i < stream->key_count; i++) {
        psd_span key = stream->keys[i];
        uint32_t number = psd_model_find(&archive->model, key);
        if (number == PSD_NO_STORAGE) {
            return fails(err, PSD_STORAGE, offset, key,
                         "a storage is listed that the pickle does not know");
        }
        psd_storage *s = &archive->model.storages[number];
        if (s->parent != PSD_NO_STORAGE || s->place != PSD_PLACE_NONE) {
            return fails(err, PSD_STORAGE, offset, key,
                         s->place == PSD_PLACE_NONE ? "a view of a storage is listed"
                                                    : "a storage is listed twice");
        }
        psd_status status = psd_stream_next(&counts, key, s->numel, s->size, &offset,
                                            &s->at.offset, err);
        if (status == PSD_TRUNCATED && archive->options.salvage) {
            break; /* it and all behind it */
        }
        if (status != PSD_OK) {
            return status;
        }
        s->place = PSD_PLACE_FILE;
    }
    archive->end_offset = offset;
    return PSD_OK;
}

psd_status
psd_archive_join_stream(psd_archive *archive, const psd_input *input, psd_error *err)
{
    psd_status status = walk_list(archive, input, err);
    for (uint32_t i = 0; i < archive->model.storage_count && status == PSD_OK; i++) {
        psd_storage *s = &archive->model.storages[i];
        /* Bytes that nobody has written are nobody's to see: torch gives what its
         * memory happens to hold. */
        bool missing =
            s->place == PSD_PLACE_NONE && s->parent == PSD_NO_STORAGE && s->size > 0;
        if (missing && archive->options.salvage) {
            s->place = PSD_PLACE_LOST;
        }
        else if (missing) {
            status = fails(err, PSD_STORAGE, archive->program_offset + s->position,
                           s->key, "a storage is missing in the file's list");
        }
    }
    return status;
}

/* ---------------------------------------------------------------- embedded */

/* The stream's bytes live as long as the archive that holds the pickle. */
static psd_status
storage_in(psd_archive *inner, psd_span stream, psd_storage *storage, bool *is_storage,
           psd_error *err)
{
    psd_input input = {.data = stream.data, .size = stream.size};
    psd_status status = psd_archive_open_stream(inner, &input, err);
    if (status == PSD_OK) {
        status = psd_archive_run(inner, &input, err);
    }
    if (status != PSD_OK) {
        return status;
    }
    const psd_value *root = psd_value_at(&inner->pool, inner->pickle.root);
    const psd_tensor *t =
        root->kind == PSD_KIND_TENSOR ? &inner->model.tensors[root->as.index] : NULL;
    *is_storage = t != NULL && (t->flags & PSD_TENSOR_STORAGE) != 0;
    if (*is_storage) {
        const psd_storage *s = &inner->model.storages[t->storage];
        size_t item = psd_dtype_row((psd_dtype)s->dtype)->size;
        storage->dtype = s->dtype;
        storage->untyped = s->untyped;
        storage->numel = t->numel;
        storage->size = t->numel * item;
        storage->location = s->location;
        storage->place = PSD_PLACE_MEMORY;
        storage->at.memory = stream.data;
        if (t->numel > 0) { /* joined, so it has its place in the stream */
            storage->at.memory += s->at.offset + (uint64_t)t->offset * item;
        }
    }
    return PSD_OK;
}

psd_status
psd_archive_embedded(void *ctx, psd_span stream, psd_storage *storage, bool *is_storage,
                     psd_error *err)
{
    psd_archive *archive = ctx;
    size_t head = stream.size < PSD_STREAM_HEAD ? stream.size : PSD_STREAM_HEAD;
    *is_storage = false;
    /* A stream in a stream in a pickle is nobody's: one level, and no recursion. */
    if (archive->nested || !psd_stream_begins((psd_span){stream.data, head})) {
        return PSD_OK;
    }
    psd_archive inner;
    psd_archive_init(&inner, &archive->options);
    inner.nested = true;
    /* A part of the pickle is whole, or the pickle is not. */
    inner.options.salvage = false;
    psd_status status = storage_in(&inner, stream, storage, is_storage, err);
    if (status == PSD_OK && *is_storage) {
        storage->location = psd_arena_copy(&archive->arena, storage->location);
        if (storage->location.data == NULL) {
            status = psd_fail_memory(err);
        }
    }
    psd_archive_clear(&inner);
    return status;
}
