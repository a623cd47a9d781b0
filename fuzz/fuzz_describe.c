/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that the host tells of: rows of 32 bytes say where its storages and tensors
 * are, and what comes behind the rows is the file, a zip archive or mere bytes.  What is
 * accepted lies within the file, and can be written and opened again.
 */
#include "fuzz.h"

enum { ROW = 32, ROWS = 3 };

typedef struct {
    psd_storage storages[ROWS];
    psd_tensor tensors[ROWS];
    psd_span names[ROWS];
    int64_t numbers[ROWS][4];
} rows;

static void
read_rows(rows *r, const uint8_t *data)
{
    for (unsigned i = 0; i < ROWS; i++) {
        const uint8_t *row = data + (size_t)i * ROW;
        unsigned place = row[24] % 3;
        r->names[i] = (psd_span){row, row[0] % ROW};
        r->storages[i] = (psd_storage){.key = r->names[i],
                                       .location = {row + 1, row[25] % 8u},
                                       .size = row[1] % 64u,
                                       .numel = row[1] % 64u,
                                       .dtype = PSD_DTYPE_UINT8,
                                       .untyped = true};
        psd_storage *s = &r->storages[i];
        if (place == 0) {
            s->place = PSD_PLACE_RECORD;
            s->at.entry = row[2];
            s->skip = row[3];
        }
        else {
            s->place = PSD_PLACE_FILE;
            s->at.offset =
                place == 1 ? psd_load_le16(row + 2) : psd_load_le64(row + 16);
            s->size = row[26] == 0xff ? psd_load_le64(row + 8) : s->size;
        }
        for (unsigned k = 0; k < 4; k++) {
            const uint8_t *number = row + 8 + 2 * (size_t)k;
            r->numbers[i][k] = row[27] == 0xff ? (int64_t)psd_load_le64(number)
                                               : (int16_t)psd_load_le16(number);
        }
        r->tensors[i] =
            (psd_tensor){.shape = r->numbers[i],
                         .strides = r->numbers[i] + 2,
                         .rank = row[4] % 3u,
                         .dtype = (uint8_t)(1 + row[5] % (PSD_DTYPE_COUNT - 1)),
                         .storage = row[6] % 4u,
                         .offset = (int8_t)row[7]};
    }
}

/* Every storage that was accepted has its bytes. */
static void
expect_bytes(const psd_archive *archive, const psd_input *input)
{
    for (uint32_t i = 0; i < archive->model.storage_count; i++) {
        psd_arena arena;
        psd_span bytes;
        psd_arena_init(&arena, archive->options.alloc);
        if (archive->model.storages[i].place == PSD_PLACE_FILE) {
            PROMISE(fuzz_storage_bytes(archive, input, i, &arena, &bytes));
        }
        else {
            (void)fuzz_storage_bytes(archive, input, i, &arena, &bytes);
        }
        psd_arena_clear(&arena);
    }
}

static void
expect_journey(psd_archive *archive, const psd_input *input, psd_options options)
{
    psd_buffer out;
    psd_buffer_init(&out, options.alloc);
    if (fuzz_write(archive, input, PSD_DIALECT_ZIP, &out)) {
        psd_archive again;
        psd_error err = {0};
        bool opened = false;
        psd_input written = {.data = out.data, .size = out.size};
        options.mode = PSD_OPEN_CHECKPOINT;
        PROMISE(fuzz_open(&again, &options, &written, &opened, &err) == PSD_OK);
        PROMISE(again.model.tensor_count == archive->model.tensor_count);
        psd_archive_clear(&again);
    }
    psd_buffer_clear(&out);
}

static psd_status
judge(const rows *r, psd_input input, psd_open_mode mode, bool lasting)
{
    fuzz_heap heap = {0};
    psd_options options = fuzz_options(&heap);
    psd_description told = {r->storages, r->names, r->tensors, ROWS, ROWS, lasting};
    psd_archive archive;
    psd_error err = {0};
    options.mode = mode;
    psd_archive_init(&archive, &options);
    psd_status status = psd_archive_open(&archive, &input, &err);
    PROMISE(mode != PSD_OPEN_BYTES || status == PSD_OK);
    if (status == PSD_OK) {
        status = psd_archive_describe(&archive, &input, &told, &err);
    }
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    else {
        fuzz_expect_model(&archive.pool, &archive.model);
        expect_bytes(&archive, &input);
        expect_journey(&archive, &input, options);
    }
    psd_archive_clear(&archive);
    PROMISE(heap.live == 0);
    return status;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rows r;
    if (size < (size_t)ROW * ROWS) {
        return 0;
    }
    read_rows(&r, data);
    psd_input file = {.data = data + (size_t)ROW * ROWS,
                      .size = size - (size_t)ROW * ROWS};
    psd_status copied = judge(&r, file, PSD_OPEN_BYTES, false);
    PROMISE(judge(&r, file, PSD_OPEN_BYTES, true) == copied);
    (void)judge(&r, file, PSD_OPEN_EXACT, false);
    return 0;
}
