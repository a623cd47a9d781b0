/* SPDX-License-Identifier: Apache-2.0
 *
 * Files that are damaged, memory that runs out, sources that fail: nothing may
 * crash, leak or read beyond the bytes, and what opens must keep its promises.
 */
#include "archive_model.h"

static check_heap heap;

/* Open, run, look at every record and storage; gives the first failure. */
static psd_status
explore(opening *o)
{
    run_archive(o);
    psd_status status = o->status;
    if (status != PSD_OK) {
        CHECK(o->err.status == status && o->err.sentence != NULL);
        return status;
    }
    check_promises(o);
    for (uint32_t i = 0; i < o->archive.zip.count; i++) {
        bool checked;
        psd_status found = psd_archive_verify(
            &o->archive, &o->input, &o->archive.zip.entries[i], &checked, &o->err);
        status = status == PSD_OK ? found : status;
    }
    return status;
}

static psd_status
explore_bytes(psd_span bytes)
{
    opening o;
    open_bytes(&o, bytes);
    psd_status status = explore(&o);
    close_archive(&o);
    return status;
}

/* ---------------------------------------------------------------- damage */

/* Every byte but those of paddings and of fields without a meaning is noticed. */
static void
sweep_mutations(psd_span file, unsigned step)
{
    check_guarded g = check_guard(file.data, file.size);
    unsigned noticed = 0, passed = 0;
    for (size_t i = 0; i < file.size; i++) {
        for (unsigned change = 1; change < 256; change += step) {
            g.data[i] = (uint8_t)(file.data[i] ^ change);
            if (explore_bytes((psd_span){g.data, g.size}) == PSD_OK) {
                passed++;
            }
            else {
                noticed++;
            }
        }
        g.data[i] = file.data[i];
    }
    CHECK(noticed > passed);
    CHECK(explore_bytes((psd_span){g.data, g.size}) == PSD_OK);
    check_unguard(&g);
}

/* The pickle's own bytes, with a checksum that says nothing of them. */
static kit_archive
small_file(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&heap), records, SMALL_COUNT, false);
    uint8_t *p = a.bytes.data + a.directory;
    for (size_t i = 0; i < SMALL_COUNT; i++) {
        psd_store_le32(p + 16, 0);
        psd_store_le32(a.bytes.data + records[i].header_offset + 14, 0);
        p += 46 + records[i].name.size;
    }
    return a;
}

static void
test_every_mutation_of_a_small_file(void)
{
    kit_archive a = small_file();
    sweep_mutations(psd_buffer_span(&a.bytes), 1);
    psd_buffer_clear(&a.bytes);
}

static void
test_mutations_of_a_written_file(void)
{
    psd_buffer file = document_file(&heap);
    sweep_mutations(psd_buffer_span(&file), 5);
    psd_buffer_clear(&file);
}

static void
sweep_truncations(psd_span file)
{
    for (size_t size = 0; size < file.size; size++) {
        check_guarded g = check_guard(file.data, size);
        psd_status status = explore_bytes((psd_span){g.data, g.size});
        CHECK(status == PSD_TRUNCATED || status == PSD_NOT_ZIP);
        CHECK(size < 4 || status == PSD_TRUNCATED);
        check_unguard(&g);
    }
}

static void
test_every_truncation(void)
{
    kit_archive a = small_file();
    sweep_truncations(psd_buffer_span(&a.bytes));
    psd_buffer_clear(&a.bytes);
    psd_buffer file = document_file(&heap);
    sweep_truncations(psd_buffer_span(&file));
    psd_buffer_clear(&file);
}

/* Everything is written, but for a piece that fell out. */
static void
test_pieces_that_are_missing(void)
{
    kit_archive a = small_file();
    size_t size = a.bytes.size;
    uint8_t *bytes = malloc(size);
    for (size_t at = 0; at < size; at += 3) {
        for (size_t piece = 1; piece < size - at; piece += 7) {
            memcpy(bytes, a.bytes.data, at);
            memcpy(bytes + at, a.bytes.data + at + piece, size - at - piece);
            check_guarded g = check_guard(bytes, size - piece);
            /* What is left may be an archive only if bytes in front are missing. */
            CHECK(explore_bytes((psd_span){g.data, g.size}) != PSD_OK || at < 64);
            check_unguard(&g);
        }
    }
    free(bytes);
    psd_buffer_clear(&a.bytes);
}

/* ---------------------------------------------------------------- memory */

static void
test_every_failing_request(void)
{
    psd_buffer file = document_file(&heap);
    psd_limits limits = psd_default_limits();
    unsigned long n = 0;
    psd_status status;
    do {
        opening o;
        open_input(&o, (psd_input){.data = file.data, .size = file.size}, &limits, ++n);
        run_archive(&o);
        status = o.status;
        CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
        CHECK(status == PSD_OK || o.err.status == PSD_NO_MEMORY);
        close_archive(&o);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 5 && n < 1000);
    psd_buffer_clear(&file);
}

/* The same by ranges, where payloads are fetched into memory, and for fetching,
 * verifying and inflating. */
static void
test_every_failing_request_by_ranges(void)
{
    psd_buffer file = document_file(&heap);
    psd_limits limits = psd_default_limits();
    unsigned long n = 0;
    psd_status status;
    do {
        remote r = {.file = psd_buffer_span(&file)};
        opening o;
        open_input(&o, over_remote(&r), &limits, ++n);
        status = explore(&o);
        psd_arena arena;
        psd_arena_init(&arena, check_alloc(&o.heap));
        psd_span bytes;
        for (uint32_t i = 0; i < STORAGES && status == PSD_OK; i++) {
            status = storage_bytes(&o, i, &arena, &bytes);
        }
        CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
        psd_arena_clear(&arena);
        close_archive(&o);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 7 && n < 1000);
    psd_buffer_clear(&file);
}

/* ---------------------------------------------------------------- sources */

static void
test_every_failing_read(void)
{
    psd_buffer file = document_file(&heap);
    psd_limits limits = psd_default_limits();
    unsigned n = 0;
    psd_status status;
    do {
        remote r = {.file = psd_buffer_span(&file), .fail_at = ++n};
        opening o;
        open_input(&o, over_remote(&r), &limits, 0);
        status = explore(&o);
        CHECK(status == PSD_OK || status == PSD_INPUT);
        close_archive(&o);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 7 && n < 1000);
    psd_buffer_clear(&file);
}

static void
test_a_source_that_changes(void)
{
    psd_buffer file = document_file(&heap);
    psd_limits limits = psd_default_limits();
    for (uint32_t seed = 0; seed < 500; seed++) {
        liar l = {psd_buffer_span(&file), seed, seed % 20};
        opening o;
        open_input(&o, (psd_input){.size = file.size, .read = read_lies, .ctx = &l},
                   &limits, 0);
        (void)explore(&o);
        close_archive(&o);
    }
    psd_buffer_clear(&file);
}

/* ---------------------------------------------------------------- work */

/* Many tensors that share one argument tuple cost what they take, no more. */
static void
test_a_shared_window(void)
{
    enum { MANY = 200000 };
    psd_buffer program;
    psd_buffer_init(&program, check_alloc(&heap));
    static const char start[] = "](ctorch._utils\n_rebuild_tensor_v2\nq\x01(" STORAGE(
        "FloatStorage", "0", "2") "I0\n(I2\nt(I1\nt" FALSE_ HOOKS "tq\x02R";
    psd_put(&program, start, sizeof start - 1);
    for (unsigned i = 1; i < MANY; i++) {
        psd_put(&program, "h\x01h\x02R", 5);
    }
    psd_put(&program, "e.", 2);
    kit_record records[] = {
        record("m/data.pkl", psd_buffer_span(&program)),
        record("m/data/0", PSD_LITERAL("eightbyt")),
    };
    kit_archive a = kit_build(check_alloc(&heap), records, 2, false);
    opening o;
    open_bytes(&o, psd_buffer_span(&a.bytes));
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.tensor_count, MANY);
    CHECK_UINT(o.archive.model.storage_count, 1);
    CHECK(o.heap.live < (size_t)MANY * 400);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
    psd_buffer_clear(&program);
}

int
main(void)
{
    RUN(test_every_mutation_of_a_small_file);
    RUN(test_mutations_of_a_written_file);
    RUN(test_every_truncation);
    RUN(test_pieces_that_are_missing);
    RUN(test_every_failing_request);
    RUN(test_every_failing_request_by_ranges);
    RUN(test_every_failing_read);
    RUN(test_a_source_that_changes);
    RUN(test_a_shared_window);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
