/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the JSON of a safetensors header, with as many bytes behind it as it asks
 * for; then the whole as a file, with the length put right.
 */
#include "fuzz.h"

static void
expect_inside(psd_span text, const uint8_t *json, size_t size)
{
    PROMISE(text.data >= json && text.data <= json + size);
    PROMISE(text.size <= (size_t)(json + size - text.data));
}

/* One after another, without gaps, and as many bytes as the shapes take. */
static void
check_tensors(const psd_safetensors *header, const uint8_t *json, size_t size,
              uint64_t room)
{
    uint64_t place = 0;
    for (uint32_t i = 0; i < header->count; i++) {
        const psd_safetensor *t = &header->tensors[i];
        expect_inside(t->name, json, size);
        uint64_t bytes = psd_dtype_row((psd_dtype)t->dtype)->size;
        for (unsigned k = 0; k < t->rank; k++) {
            PROMISE(t->shape[k] >= 0);
            PROMISE(psd_multiply(bytes, (uint64_t)t->shape[k], &bytes));
        }
        PROMISE(t->begin == place && t->end - t->begin == bytes);
        PROMISE(i == 0 || !psd_span_equal(t->name, header->tensors[i - 1].name));
        place = t->end;
    }
    PROMISE(place == room);
    for (uint32_t i = 0; i < header->note_count; i++) {
        expect_inside(header->notes[i], json, size);
    }
}

/* The JSON by itself; gives the bytes that its tensors need, 0 if it is refused. */
static uint64_t
judge_json(const uint8_t *data, size_t size, uint64_t room, psd_status *status)
{
    fuzz_heap heap = {0};
    psd_arena arena;
    psd_safetensors header;
    psd_error err = {0};
    psd_limits limits = fuzz_limits();
    psd_arena_init(&arena, fuzz_alloc(&heap));
    psd_safetensors_init(&header, fuzz_alloc(&heap));
    uint8_t *json = malloc(size == 0 ? 1 : size); /* its end is the sanitizer's */
    PROMISE(json != NULL);
    if (size > 0) {
        memcpy(json, data, size);
    }
    *status = psd_safetensors_read(&header, json, size, room, &limits, FUZZ_KEY, &arena,
                                   &err);
    if (*status == PSD_OK) {
        check_tensors(&header, json, size, room);
    }
    else {
        fuzz_expect_told(*status, &err);
    }
    psd_safetensors_clear(&header);
    psd_arena_clear(&arena);
    free(json);
    PROMISE(heap.live == 0);
    return *status == PSD_TRUNCATED ? err.expected : 0;
}

/* As a file: what the JSON promised, the archive keeps. */
static void
judge_file(const uint8_t *data, size_t size, size_t length, psd_status expected)
{
    fuzz_heap heap = {0};
    psd_options options = {
        .alloc = fuzz_alloc(&heap), .limits = fuzz_limits(), .key = FUZZ_KEY};
    psd_input input = {.data = data, .size = size};
    psd_archive archive;
    psd_error err = {0};
    psd_archive_init(&archive, &options);
    psd_status status = psd_archive_open(&archive, &input, &err);
    bool one = status == PSD_OK && archive.kind == PSD_ARCHIVE_SAFETENSORS;
    if (one) {
        PROMISE(archive.program.size == length);
        status = psd_archive_run(&archive, &input, &err);
        PROMISE(status == expected);
    }
    for (uint32_t i = 0; one && status == PSD_OK && i < archive.model.tensor_count;
         i++) {
        const psd_tensor *t = &archive.model.tensors[i];
        psd_location where;
        PROMISE(psd_archive_locate(&archive, &input, t->storage, &where, &err) ==
                PSD_OK);
        PROMISE(psd_fits(where.offset, archive.model.storages[t->storage].size, size));
    }
    psd_archive_clear(&archive);
    PROMISE(heap.live == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    psd_status status;
    uint64_t room = judge_json(data, size, 0, &status);
    if (room > 0) {
        (void)judge_json(data, size, room, &status);
    }
    uint8_t *file = room <= 4096 ? calloc(1, 8 + size + (size_t)room) : NULL;
    if (file != NULL) {
        psd_store_le64(file, size);
        if (size > 0) {
            memcpy(file + 8, data, size);
        }
        judge_file(file, 8 + size + (size_t)room, size, status);
        free(file);
    }
    return 0;
}
