/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a checkpoint: an archive, a legacy stream, a tar, else a pickle by
 * itself.  The same file as a map and as a remote object must be judged alike; what
 * opens can be fetched, verified, written in both containers and opened again.
 */
#include "fuzz.h"

static void
look_at_records(psd_archive *archive, const psd_input *input, psd_alloc alloc)
{
    for (uint32_t i = 0; i < archive->zip.count; i++) {
        const psd_zip_entry *entry = &archive->zip.entries[i];
        psd_error err = {0};
        psd_arena arena;
        psd_arena_init(&arena, alloc);
        bool checked = false;
        psd_status status = psd_archive_verify(archive, input, entry, &checked, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        psd_span bytes = {NULL, 0};
        uint64_t offset = 0;
        status =
            psd_archive_fetch(archive, input, entry, &arena, &bytes, &offset, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        else {
            PROMISE(bytes.size == entry->size);
        }
        psd_arena_clear(&arena);
    }
}

/* What was opened can be written, in either container, and what was written opens. */
static void
journey(psd_archive *archive, const psd_input *input, const psd_options *options,
        psd_dialect dialect)
{
    psd_buffer out;
    psd_buffer_init(&out, options->alloc);
    if (fuzz_write(archive, input, dialect, &out)) {
        psd_archive again;
        psd_error err = {0};
        bool opened = false;
        psd_input written = {.data = out.data, .size = out.size};
        psd_options plain = *options;
        plain.mode = PSD_OPEN_CHECKPOINT;
        plain.record = (psd_span){NULL, 0};
        psd_status status = fuzz_open(&again, &plain, &written, &opened, &err);
        PROMISE(again.model.tensor_count <= archive->model.tensor_count);
        if (dialect == PSD_DIALECT_ZIP) {
            PROMISE(status == PSD_OK);
            PROMISE(again.big_endian == archive->big_endian);
        }
        else if (status != PSD_OK || again.end_offset != out.size) {
            /* A tensor that nothing leads to: hosts make none. */
            PROMISE(status == PSD_STORAGE && again.stream.whole);
        }
        psd_archive_clear(&again);
    }
    psd_buffer_clear(&out);
}

/* The same bytes by a map and from afar, then all that can be done with them. */
static psd_status
judge_as(const uint8_t *data, size_t size, psd_options options)
{
    fuzz_file file = {data, size};
    psd_input map = {.data = data, .size = size};
    psd_input remote = {.size = size, .read = fuzz_read_range, .ctx = &file};
    psd_archive archive;
    psd_error err = {0}, remote_err = {0};
    bool opened = false;
    psd_status apart = fuzz_open(&archive, &options, &remote, &opened, &remote_err);
    psd_archive_clear(&archive);
    psd_status status = fuzz_open(&archive, &options, &map, &opened, &err);
    PROMISE(status == apart && err.offset == remote_err.offset);
    if (opened) {
        look_at_records(&archive, &map, options.alloc);
    }
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
        psd_archive_clear(&archive);
        return status;
    }
    fuzz_expect_model(&archive.pool, &archive.model);
    journey(&archive, &map, &options, PSD_DIALECT_ZIP);
    psd_archive_clear(&archive);
    /* Writing changes the pool, so the other container gets one of its own. */
    PROMISE(fuzz_open(&archive, &options, &map, &opened, &err) == PSD_OK);
    journey(&archive, &map, &options, PSD_DIALECT_STREAM);
    psd_archive_clear(&archive);
    return status;
}

/* The first pickle of an archive that has none to be run by itself, in `name`. */
static psd_span
a_pickle_in(const uint8_t *data, size_t size, psd_options options, uint8_t *name,
            size_t most)
{
    psd_span found = {name, 0};
    psd_input map = {.data = data, .size = size};
    psd_archive archive;
    psd_error err = {0};
    psd_archive_init(&archive, &options);
    if (psd_archive_open(&archive, &map, &err) == PSD_OK) {
        for (uint32_t i = 0; i < archive.zip.count && found.size == 0; i++) {
            psd_span entry = archive.zip.entries[i].name;
            size_t prefix = archive.prefix.size;
            bool is_pickle = entry.size > prefix + 4 && entry.size - prefix <= most &&
                             memcmp(entry.data + entry.size - 4, ".pkl", 4) == 0;
            if (is_pickle) {
                found.size = entry.size - prefix;
                memcpy(name, entry.data + prefix, found.size);
            }
        }
    }
    psd_archive_clear(&archive);
    return found;
}

static psd_status
judge(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    uint8_t name[256];
    psd_options options = fuzz_options(&heap);
    psd_status status = judge_as(data, size, options);
    if (status == PSD_KIND) {
        options.record = a_pickle_in(data, size, options, name, sizeof name);
        status = options.record.size > 0 ? judge_as(data, size, options) : status;
    }
    else if (status == PSD_NOT_ZIP) {
        options.mode = PSD_OPEN_PICKLE;
        status = judge_as(data, size, options);
    }
    PROMISE(heap.live == 0);
    return status;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    psd_status status = judge(data, size);
    if (status == PSD_CRC || status == PSD_TAR) {
        uint8_t *copy = malloc(size);
        if (copy != NULL) {
            memcpy(copy, data, size);
            fuzz_drop_checksums(copy, size);
            fuzz_mend_tar(copy, size);
            (void)judge(copy, size);
            free(copy);
        }
    }
    return 0;
}
