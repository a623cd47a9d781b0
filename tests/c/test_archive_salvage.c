/* SPDX-License-Identifier: Apache-2.0
 *
 * Archives and streams that have lost bytes, opened for what is left of them.
 */
#include "archive_kit.h"
#include "stream_kit.h"

static check_heap kit_heap;

static void
open_salvaging(opening *o, psd_input input, unsigned long fail_at)
{
    memset(o, 0, sizeof *o);
    o->heap.fail_at = fail_at;
    o->input = input;
    psd_options options = {
        .alloc = check_alloc(&o->heap),
        .limits = psd_default_limits(),
        .key = KIT_KEY,
        .inflate = inflate_stored,
        .inflate_ctx = &o->inflater,
        .salvage = true,
    };
    psd_archive_init(&o->archive, &options);
    o->status = psd_archive_open(&o->archive, &o->input, &o->err);
    run_archive(o);
}

static void
salvage(opening *o, psd_span bytes)
{
    open_salvaging(o, (psd_input){.data = bytes.data, .size = bytes.size}, 0);
}

static bool
is_lost(const opening *o, uint32_t tensor)
{
    return (o->archive.model.tensors[tensor].flags & PSD_TENSOR_LOST) != 0;
}

/* A tensor that is lost has no bytes, and is meta to whoever asks. */
static unsigned
count_lost(const opening *o)
{
    unsigned lost = 0;
    for (uint32_t i = 0; i < o->archive.model.tensor_count; i++) {
        const psd_tensor *t = &o->archive.model.tensors[i];
        CHECK(!is_lost(o, i) || (t->flags & PSD_TENSOR_META) != 0);
        lost += is_lost(o, i);
    }
    return lost;
}

/* ---------------------------------------------------------------- archives */

/* Where the payload of a record ends. */
static size_t
end_of(const kit_record *r)
{
    return r->header_offset + 30 + r->name.size + r->data.size;
}

/* Cut anywhere behind the pickle: what lies before the cut is there. */
static void
test_an_archive_that_was_cut(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
    for (size_t end = end_of(&records[1]); end <= a.bytes.size; end++) {
        check_guarded g = check_guard(a.bytes.data, end);
        opening o;
        salvage(&o, (psd_span){g.data, g.size});
        CHECK_UINT(o.status, PSD_OK);
        CHECK_UINT(o.archive.model.tensor_count, 2);
        if (o.status == PSD_OK) {
            CHECK_UINT(is_lost(&o, 0), end < end_of(&records[2]));
            CHECK_UINT(is_lost(&o, 1), end < end_of(&records[3]));
            psd_location where;
            for (uint32_t i = 0; i < 2; i++) {
                CHECK_UINT(psd_archive_locate(&o.archive, &o.input, i, &where, &o.err),
                           PSD_OK);
                CHECK_UINT(where.place,
                           is_lost(&o, i) ? PSD_PLACE_LOST : PSD_PLACE_FILE);
                uint32_t crc = 1;
                CHECK_UINT(
                    psd_archive_storage_crc32(&o.archive, &o.input, i, &crc, &o.err),
                    PSD_OK);
                CHECK(!is_lost(&o, i) || crc == 0);
            }
        }
        close_archive(&o);
        check_unguard(&g);
    }
    psd_buffer_clear(&a.bytes);
}

/* A whole one stays as it is; a record of another size is a lost storage. */
static void
test_records_that_do_not_fit(void)
{
    for (unsigned which = 0; which < 4; which++) {
        kit_record records[SMALL_COUNT];
        small_records(records);
        if (which == 1) {
            records[2].data = PSD_LITERAL("sevenby");
        }
        if (which == 2) {
            records[3].name = PSD_LITERAL("m/data/7");
        }
        kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
        if (which == 3) { /* a header that is none: the directory leads nowhere */
            a.bytes.data[records[3].header_offset] ^= 1;
        }
        opening o;
        salvage(&o, psd_buffer_span(&a.bytes));
        CHECK_UINT(o.status, PSD_OK);
        CHECK_UINT(is_lost(&o, 0), which == 1);
        CHECK_UINT(is_lost(&o, 1), which >= 2);
        close_archive(&o);
        psd_buffer_clear(&a.bytes);
    }
}

/* Every allocation fails once. */
static void
test_without_memory(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
    for (size_t cut = 0; cut < 2; cut++) {
        psd_status status;
        unsigned long n = 0;
        size_t end = cut == 0 ? a.bytes.size : end_of(&records[2]);
        do {
            opening o;
            open_salvaging(&o, (psd_input){.data = a.bytes.data, .size = end}, ++n);
            status = o.status;
            CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
            close_archive(&o);
        } while (status != PSD_OK && n < 1000);
        CHECK(n > 3 && n < 1000);
    }
    psd_buffer_clear(&a.bytes);
}

/* ---------------------------------------------------------------- told by the host */

#define LONGS(key, numel, size) V2(STORAGE("LongStorage", key, numel) I("0") size)
#define COO                                                                  \
    CALL("_rebuild_sparse_tensor",                                           \
         "ctorch.serialization\n_get_layout\n(Vtorch.sparse_coo\ntR(" LONGS( \
             "i", "2", "(I1\nI2\nt(I2\nI1\nt")                               \
             V2(STORAGE("FloatStorage", "v", "2") I("0") "(I2\nt(I1\nt") "(I4\ntt")
#define CHANNELS                                                                    \
    CALL("_rebuild_qtensor", STORAGE("QUInt8Storage", "q", "6") I("0") TWO_BY_THREE \
         "(ctorch\nper_channel_affine\n" V2(STORAGE("DoubleStorage", "s", "2")      \
                                                I("0") "(I2\nt(I1\nt")              \
             LONGS("z", "2", "(I2\nt(I1\nt") "I0\nt" FALSE_ HOOKS)
#define EMPTY V2(STORAGE("FloatStorage", "e", "0") I("0") "(I0\nt(I1\nt")
#define KINDS_PROGRAM                          \
    "(Vcoo\n" COO "Vq\n" CHANNELS "Ve\n" EMPTY \
    "Vi\n" LONGS("i", "2", "(I2\nt(I1\nt") "d."

enum { KINDS_COUNT = 7 };

static void
kinds_records(kit_record *records)
{
    static const char sixteen[] = "sixteen bytes ..";
    const char *names[] = {"m/data/i", "m/data/v", "m/data/q",
                           "m/data/s", "m/data/z", "m/data/e"};
    const size_t sizes[] = {16, 8, 6, 16, 16, 0};
    records[0] = record("m/data.pkl", PSD_LITERAL(KINDS_PROGRAM));
    for (unsigned i = 0; i < KINDS_COUNT - 1; i++) {
        records[i + 1] =
            record(names[i], (psd_span){(const uint8_t *)sixteen, sizes[i]});
    }
}

/* A tensor is lost with each of its parts, and with what makes reals of its integers. */
static void
test_storages_that_are_taken_for_lost(void)
{
    kit_record records[KINDS_COUNT];
    kinds_records(records);
    kit_archive a = kit_build(check_alloc(&kit_heap), records, KINDS_COUNT, false);
    for (uint32_t storage = 0; storage < KINDS_COUNT - 1; storage++) {
        opening o;
        open_bytes(&o, psd_buffer_span(&a.bytes));
        run_archive(&o);
        CHECK_UINT(o.status, PSD_OK);
        CHECK_UINT(count_lost(&o), 0);
        psd_span key = o.archive.model.storages[storage].key;
        psd_archive_lose(&o.archive, &storage, 1);
        /* Those on the storage themselves, and what they are parts of. */
        unsigned expected = psd_span_equal(key, PSD_LITERAL("i"))   ? 3
                            : psd_span_equal(key, PSD_LITERAL("q")) ? 1
                            : psd_span_equal(key, PSD_LITERAL("e")) ? 0
                                                                    : 2;
        CHECK_UINT(count_lost(&o), expected);
        close_archive(&o);
    }
    psd_buffer_clear(&a.bytes);
}

/* ---------------------------------------------------------------- streams */

#define FLOATS_OF(key, numel) \
    V2(STORED("FloatStorage", key, numel, "N") I("0") "(I" numel "\nt(I1\nt")

/* Cut in the raw storages: the whole ones are there. */
static void
test_a_stream_that_was_cut(void)
{
    static const char stream[] =
        HEAD "\x80\x02(Va\n" FLOATS_OF("0", "2") "Vb\n" FLOATS_OF("1", "3") "d." KEYS(
            KEY("0") KEY("1")) COUNT_2 "eightby\xff" COUNT_3 "twelve bytes";
    const size_t whole = sizeof stream - 1;
    for (size_t end = whole - 12 - 8 - 8; end <= whole; end++) {
        check_guarded g = check_guard((const uint8_t *)stream, end);
        opening o;
        salvage(&o, (psd_span){g.data, g.size});
        CHECK_UINT(o.status, PSD_OK);
        CHECK_UINT(count_lost(&o), (end < whole - 12 - 8) + (end < whole));
        close_archive(&o);
        check_unguard(&g);
    }
    /* Not even the list of keys has them. */
    static const char unlisted[] =
        HEAD "\x80\x02(Va\n" FLOATS_OF("0", "2") "d." KEYS("");
    opening o;
    salvage(&o, (psd_span){(const uint8_t *)unlisted, sizeof unlisted - 1});
    CHECK_UINT(o.status, PSD_OK);
    CHECK_UINT(count_lost(&o), 1);
    close_archive(&o);
}

/* A stream within a pickle is a part of it: cut, the pickle is damaged. */
static void
test_a_stream_within_a_pickle(void)
{
    static const char inner[] =
        HEAD "\x80\x02" STORED("FloatStorage", "0", "2", "N") "." KEYS(KEY("0")) COUNT_2
        "eightby\xff";
    for (size_t size = sizeof inner - 1 - 8; size <= sizeof inner - 1; size++) {
        psd_buffer program;
        psd_buffer_init(&program, check_alloc(&kit_heap));
        psd_put_span(&program, PSD_LITERAL("ctorch._utils\n_rebuild_tensor_v2\n("
                                           "ctorch.storage\n_load_from_bytes\n(B"));
        psd_put_u32(&program, (uint32_t)size);
        psd_put(&program, (const uint8_t *)inner, size);
        psd_put_span(&program, PSD_LITERAL("tRI0\n(I2\nt(I1\nt" FALSE_ HOOKS "tR."));
        kit_record records[] = {record("m/data.pkl", psd_buffer_span(&program))};
        kit_archive a = kit_build(check_alloc(&kit_heap), records, 1, false);
        opening o;
        salvage(&o, psd_buffer_span(&a.bytes));
        CHECK(size == sizeof inner - 1
                  ? o.status == PSD_OK
                  : o.status == PSD_STREAM || o.status == PSD_TRUNCATED);
        close_archive(&o);
        psd_buffer_clear(&a.bytes);
        psd_buffer_clear(&program);
    }
}

int
main(void)
{
    test_an_archive_that_was_cut();
    test_records_that_do_not_fit();
    test_without_memory();
    test_storages_that_are_taken_for_lost();
    test_a_stream_that_was_cut();
    test_a_stream_within_a_pickle();
    CHECK_UINT(kit_heap.live, 0);
    return check_report();
}
