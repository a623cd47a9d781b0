/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as what is left of a checkpoint.  Records that are salvaged are whole and lie
 * one after another; what opens as it is opens the same when salvage is allowed; what
 * has lost its bytes is a shape without any; the rest can be written, and opens again.
 */
#include "fuzz.h"

/* ------------------------------------------------------------------- records */

static void
check_records(const psd_zip *zip, const psd_input *input)
{
    uint64_t before = 0;
    for (uint32_t i = 0; i < zip->count; i++) {
        const psd_zip_entry *entry = &zip->entries[i];
        uint64_t offset = 0;
        psd_error err = {0};
        PROMISE(entry->header_offset >= before && entry->name.size > 0);
        PROMISE(psd_zip_find(zip, entry->name) == entry);
        psd_status status = psd_zip_locate(input, entry, &offset, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        else {
            PROMISE(psd_fits(offset, entry->stored_size, input->size));
            PROMISE(offset > entry->header_offset);
        }
        before = entry->header_offset + entry->stored_size;
    }
    PROMISE(before <= input->size);
}

static void
judge_records(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    psd_arena arena;
    psd_limits limits = fuzz_limits();
    fuzz_file file = {data, size};
    psd_input inputs[] = {{.data = data, .size = size},
                          {.size = size, .read = fuzz_read_range, .ctx = &file}};
    psd_status found[2];
    for (unsigned i = 0; i < 2; i++) {
        psd_zip zip = {0};
        psd_error err = {0};
        psd_arena_init(&arena, fuzz_alloc(&heap));
        found[i] = psd_zip_salvage(&inputs[i], &limits, FUZZ_KEY, &arena, &zip, &err);
        if (found[i] != PSD_OK) {
            fuzz_expect_told(found[i], &err);
        }
        else {
            check_records(&zip, &inputs[i]);
        }
        psd_arena_clear(&arena);
    }
    PROMISE(found[0] == found[1]);
    fuzz_expect_frugal(&heap, size);
}

/* ------------------------------------------------------------------- checkpoints */

static void
expect_same_bytes(const psd_archive *a, const psd_archive *b, const psd_input *input,
                  uint32_t storage)
{
    psd_arena arena;
    psd_span left, right;
    psd_arena_init(&arena, a->options.alloc);
    bool there = fuzz_storage_bytes(a, input, storage, &arena, &left);
    PROMISE(fuzz_storage_bytes(b, input, storage, &arena, &right) == there);
    PROMISE(!there || psd_span_equal(left, right));
    psd_arena_clear(&arena);
}

/* A whole file is none the worse for being salvaged. */
static void
expect_same(const psd_archive *a, const psd_archive *b, const psd_input *input)
{
    PROMISE(a->kind == b->kind && a->pool.count == b->pool.count);
    PROMISE(a->model.storage_count == b->model.storage_count);
    PROMISE(a->model.tensor_count == b->model.tensor_count);
    for (uint32_t i = 0; i < a->model.tensor_count; i++) {
        const psd_tensor *s = &a->model.tensors[i], *t = &b->model.tensors[i];
        PROMISE(s->dtype == t->dtype && s->rank == t->rank && s->flags == t->flags &&
                s->layout == t->layout && s->storage == t->storage &&
                s->offset == t->offset && s->numel == t->numel);
    }
    for (uint32_t i = 0; i < a->model.storage_count; i++) {
        expect_same_bytes(a, b, input, i);
    }
}

/* Are all records where the directory says?  If not, their own headers are believed. */
static bool
is_whole(const psd_archive *archive, const psd_input *input)
{
    for (uint32_t i = 0; i < archive->zip.count; i++) {
        uint64_t offset;
        psd_error err = {0};
        if (psd_zip_locate(input, &archive->zip.entries[i], &offset, &err) != PSD_OK) {
            return false;
        }
    }
    return true;
}

/* What is left can be written, and is then whole. */
static void
expect_journey(psd_archive *archive, const psd_input *input)
{
    psd_buffer out;
    psd_buffer_init(&out, archive->options.alloc);
    fuzz_expect_model(&archive->pool, &archive->model);
    fuzz_expect_lost(&archive->model);
    if (fuzz_write(archive, input, PSD_DIALECT_ZIP, &out)) {
        psd_archive again;
        psd_error err = {0};
        bool opened = false;
        psd_input written = {.data = out.data, .size = out.size};
        psd_options plain = archive->options;
        plain.mode = PSD_OPEN_CHECKPOINT;
        plain.salvage = false;
        PROMISE(fuzz_open(&again, &plain, &written, &opened, &err) == PSD_OK);
        for (uint32_t i = 0; i < again.model.tensor_count; i++) {
            PROMISE((again.model.tensors[i].flags & PSD_TENSOR_LOST) == 0);
        }
        psd_archive_clear(&again);
    }
    psd_buffer_clear(&out);
}

/* Some of the storages turn out to be damaged, as their numbers and the size have it. */
static void
lose_some(psd_archive *archive, size_t size)
{
    uint32_t lost[32], count = 0;
    for (uint32_t i = 0; i < archive->model.storage_count && count < 32; i++) {
        if (((size >> i % 5) & 1) != 0) {
            lost[count++] = i;
        }
    }
    psd_archive_lose(archive, lost, count);
    for (uint32_t i = 0; i < count; i++) {
        PROMISE(archive->model.storages[lost[i]].place == PSD_PLACE_LOST);
    }
}

static psd_status
judge(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    psd_options options = fuzz_options(&heap);
    psd_input map = {.data = data, .size = size};
    psd_archive whole, left;
    psd_error err = {0};
    bool opened = false;
    psd_status status = fuzz_open(&whole, &options, &map, &opened, &err);
    options.salvage = true;
    psd_status salvaged = fuzz_open(&left, &options, &map, &opened, &err);
    if (status == PSD_OK && is_whole(&whole, &map)) {
        PROMISE(salvaged == PSD_OK);
        expect_same(&whole, &left, &map);
    }
    if (status == PSD_OK) {
        lose_some(&whole, size);
        expect_journey(&whole, &map);
    }
    if (salvaged != PSD_OK) {
        fuzz_expect_told(salvaged, &err);
    }
    else {
        expect_journey(&left, &map);
    }
    psd_archive_clear(&whole);
    psd_archive_clear(&left);
    PROMISE(heap.live == 0);
    return salvaged;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    judge_records(data, size);
    if (judge(data, size) == PSD_CRC) {
        uint8_t *copy = malloc(size);
        if (copy != NULL) {
            memcpy(copy, data, size);
            fuzz_drop_checksums(copy, size);
            (void)judge(copy, size);
            free(copy);
        }
    }
    return 0;
}
