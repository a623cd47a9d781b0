/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a checkpoint.  The same file as a map and as a remote object must
 * be judged alike; what opens can be fetched, verified, written and opened again.
 */
#include "fuzz.h"

typedef struct {
    const uint8_t *data;
    size_t size;
} fuzz_file;

static bool
read_range(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    const fuzz_file *file = ctx;
    PROMISE(psd_fits(offset, size, file->size));
    if (size > 0) {
        memcpy(into, file->data + offset, size);
    }
    return true;
}

/* Stands for an inflater: what matters is where it is let to write. */
static psd_status
inflate_to_zeros(void *ctx, psd_span deflated, uint8_t *into, size_t size)
{
    (void)ctx;
    volatile uint8_t touched = 0;
    if (deflated.size > 0) {
        touched = (uint8_t)(deflated.data[0] ^ deflated.data[deflated.size - 1]);
    }
    (void)touched;
    if (size > 0) {
        memset(into, 0, size);
    }
    return PSD_OK;
}

static bool
gather(void *ctx, const uint8_t *data, size_t size)
{
    psd_buffer *buffer = ctx;
    psd_put(buffer, data, size);
    return !buffer->failed;
}

/* `opened` tells whether there is a directory to look into. */
static psd_status
open_and_run(psd_archive *archive, const psd_options *options, const psd_input *input,
             bool *opened, psd_error *err)
{
    psd_archive_init(archive, options);
    psd_status status = psd_archive_open(archive, input, err);
    *opened = status == PSD_OK;
    return *opened ? psd_archive_run(archive, input, err) : status;
}

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

/* What was opened can be written, and what was written opens. */
static void
journey(psd_archive *archive, const psd_input *input, const psd_options *options)
{
    psd_alloc alloc = options->alloc;
    psd_model *model = &archive->model;
    psd_arena arena;
    psd_arena_init(&arena, alloc);
    psd_buffer out;
    psd_buffer_init(&out, alloc);
    psd_error err = {0};
    psd_span *bytes =
        psd_arena_take_array(&arena, model->storage_count, sizeof(psd_span));
    bool whole = bytes != NULL;
    for (uint32_t i = 0; whole && i < model->storage_count; i++) {
        const psd_zip_entry *entry = psd_archive_storage_entry(archive, i);
        uint64_t offset = 0;
        whole = entry != NULL && psd_archive_fetch(archive, input, entry, &arena,
                                                   &bytes[i], &offset, &err) == PSD_OK;
    }
    if (whole) {
        psd_write_options writing = {
            .alloc = alloc, .checksum = true, .big_endian = archive->big_endian};
        uint32_t tensors = model->tensor_count;
        psd_status status =
            psd_archive_write(&archive->pool, archive->pickle.root, model, bytes,
                              &writing, (psd_sink){gather, &out}, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        else {
            psd_archive again;
            bool opened = false;
            psd_input written = {.data = out.data, .size = out.size};
            status = open_and_run(&again, options, &written, &opened, &err);
            PROMISE(status == PSD_OK);
            PROMISE(again.model.tensor_count <= tensors);
            PROMISE(again.big_endian == archive->big_endian);
            psd_archive_clear(&again);
        }
    }
    psd_buffer_clear(&out);
    psd_arena_clear(&arena);
}

static psd_status
judge(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    fuzz_file file = {data, size};
    psd_options options = {
        .alloc = fuzz_alloc(&heap),
        .limits = fuzz_limits(),
        .key = FUZZ_KEY,
        .inflate = inflate_to_zeros,
    };
    psd_input map = {.data = data, .size = size};
    psd_input remote = {.size = size, .read = read_range, .ctx = &file};
    psd_archive archive;
    psd_error err = {0}, remote_err = {0};
    bool opened = false;

    psd_status apart = open_and_run(&archive, &options, &remote, &opened, &remote_err);
    psd_archive_clear(&archive);
    psd_status status = open_and_run(&archive, &options, &map, &opened, &err);
    PROMISE(status == apart && err.offset == remote_err.offset);
    if (opened) {
        look_at_records(&archive, &map, options.alloc);
    }
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    else {
        journey(&archive, &map, &options);
    }
    psd_archive_clear(&archive);
    PROMISE(heap.live == 0);
    return status;
}

/* Say "not computed" in every record, so that a changed pickle is run at all. */
static void
drop_checksums(uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 20 <= size; i++) {
        uint32_t signature = psd_load_le32(data + i);
        if (signature == 0x04034b50u) {
            psd_store_le32(data + i + 14, 0);
        }
        else if (signature == 0x02014b50u) {
            psd_store_le32(data + i + 16, 0);
        }
        else if (signature == 0x08074b50u) {
            psd_store_le32(data + i + 4, 0);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (judge(data, size) == PSD_CRC) {
        uint8_t *copy = malloc(size);
        if (copy != NULL) {
            memcpy(copy, data, size);
            drop_checksums(copy, size);
            (void)judge(copy, size);
            free(copy);
        }
    }
    return 0;
}
