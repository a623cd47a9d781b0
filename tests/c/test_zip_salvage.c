/* SPDX-License-Identifier: Apache-2.0
 *
 * Records whose directory was lost: found by their headers, whatever they state, and no
 * further than the bytes that are there.
 */
#include "zip_kit.h"

static check_heap heap;

static void
salvage_input(kit_read *r, psd_input input, unsigned long fail_at)
{
    memset(r, 0, sizeof *r);
    r->heap.fail_at = fail_at;
    r->limits = psd_default_limits();
    r->input = input;
    psd_arena_init(&r->arena, check_alloc(&r->heap));
    r->status =
        psd_zip_salvage(&r->input, &r->limits, KIT_KEY, &r->arena, &r->zip, &r->err);
}

static void
salvage(kit_read *r, psd_span bytes)
{
    salvage_input(r, (psd_input){.data = bytes.data, .size = bytes.size}, 0);
}

/* Where the payload lies, which must be possible for all that was found. */
static uint64_t
located(kit_read *r, uint32_t index)
{
    uint64_t offset = 0;
    CHECK_UINT(psd_zip_locate(&r->input, &r->zip.entries[index], &offset, &r->err),
               PSD_OK);
    return offset;
}

/* A data descriptor, 4.3.9, in 32 bits or 64. */
static void
put_descriptor(psd_buffer *b, psd_span data, bool wide)
{
    psd_put_u32(b, 0x08074b50);
    psd_put_u32(b, psd_crc32(0, data.data, data.size));
    if (wide) {
        psd_put_u64(b, data.size);
        psd_put_u64(b, data.size);
    }
    else {
        psd_put_u32(b, (uint32_t)data.size);
        psd_put_u32(b, (uint32_t)data.size);
    }
}

/* Three records whose sizes stand behind them, as torch writes them; no directory. */
static psd_buffer
deferred(kit_record *records, bool wide)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    kit_three(records);
    for (size_t i = 0; i < 3; i++) {
        records[i].deferred = true;
        records[i].flags = records[i].local_flags = 1 << 3;
        kit_local(&b, &records[i]);
        put_descriptor(&b, records[i].data, wide);
    }
    return b;
}

static void
check_three(kit_read *r, const uint8_t *bytes, const kit_record *records,
            uint32_t count)
{
    CHECK_UINT(r->status, PSD_OK);
    CHECK_UINT(r->zip.count, count);
    for (uint32_t i = 0; i < r->zip.count && i < count; i++) {
        const psd_zip_entry *e = &r->zip.entries[i];
        CHECK(psd_span_equal(e->name, records[i].name));
        CHECK_UINT(e->size, records[i].data.size);
        CHECK_UINT(e->stored_size, records[i].data.size);
        CHECK_UINT(e->crc32, psd_crc32(0, records[i].data.data, records[i].data.size));
        CHECK_UINT(e->header_offset, records[i].header_offset);
        CHECK(memcmp(bytes + located(r, i), records[i].data.data,
                     records[i].data.size) == 0);
        CHECK(psd_zip_find(&r->zip, records[i].name) == e);
    }
}

static void
test_stated_sizes(void)
{
    kit_record records[3];
    kit_three(records);
    kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
    /* Whole; without its end; without its directory. */
    for (size_t end = a.directory; end <= a.bytes.size; end++) {
        kit_read r;
        salvage(&r, (psd_span){a.bytes.data, end});
        check_three(&r, a.bytes.data, records, 3);
        kit_close(&r);
    }
    psd_buffer_clear(&a.bytes);
}

static void
test_sizes_behind_the_payload(void)
{
    for (int wide = 0; wide < 2; wide++) {
        kit_record records[3];
        psd_buffer b = deferred(records, wide == 1);
        kit_read r;
        salvage(&r, psd_buffer_span(&b));
        check_three(&r, b.data, records, 3);
        kit_close(&r);
        psd_buffer_clear(&b);
    }
}

/* At every length: what is whole is found, what is cut is not. */
static void
test_every_cut(void)
{
    for (int wide = 0; wide < 2; wide++) {
        kit_record records[3];
        psd_buffer b = deferred(records, wide == 1);
        for (size_t end = 0; end <= b.size; end++) {
            uint32_t whole = 0;
            for (uint32_t i = 0; i < 3; i++) {
                /* Zeros of 32 bits are the first half of zeros of 64. */
                size_t behind = wide && records[i].data.size > 0 ? 24 : 16;
                size_t last = records[i].header_offset + 30 + records[i].name.size +
                              records[i].data.size + behind;
                whole += last <= end;
            }
            check_guarded g = check_guard(b.data, end);
            kit_read r;
            salvage(&r, (psd_span){g.data, end});
            if (whole == 0) {
                CHECK_UINT(r.status, PSD_NOT_ZIP);
            }
            else {
                check_three(&r, g.data, records, whole);
            }
            kit_close(&r);
            check_unguard(&g);
        }
        psd_buffer_clear(&b);
    }
}

/* Signatures within a payload are its own, as long as the record has an end. */
static void
test_archives_within_payloads(void)
{
    kit_record records[3], outer[2];
    psd_buffer inner = deferred(records, false);
    memset(outer, 0, sizeof outer);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    outer[0].name = kit_text("a/data/0");
    outer[0].data = psd_buffer_span(&inner);
    outer[1].name = kit_text("a/data/1");
    outer[1].data = kit_text("PK\3\4PK\7\010PK\1\2");
    for (size_t i = 0; i < 2; i++) {
        outer[i].deferred = true;
        outer[i].local_flags = 1 << 3;
        kit_local(&b, &outer[i]);
        put_descriptor(&b, outer[i].data, false);
    }
    kit_read r;
    salvage(&r, psd_buffer_span(&b));
    check_three(&r, b.data, outer, 2);
    kit_close(&r);
    psd_buffer_clear(&b);
    psd_buffer_clear(&inner);
}

/* A hole costs the record that it hits; those behind are found by their headers. */
static void
test_a_hole(void)
{
    kit_record records[3];
    psd_buffer b = deferred(records, false);
    memset(b.data + records[1].header_offset, 0, 30);
    kit_read r;
    salvage(&r, psd_buffer_span(&b));
    CHECK_UINT(r.zip.count, 2);
    CHECK(psd_span_equal(r.zip.entries[1].name, kit_text("a/version")));
    kit_close(&r);
    psd_buffer_clear(&b);
}

static void
test_wide_sizes(void)
{
    /* All ones, and the true sizes in a zip64 field. */
    static const uint8_t field[] = {1, 0, 16, 0, 5, 0, 0, 0, 0, 0,
                                    0, 0, 5,  0, 0, 0, 0, 0, 0, 0};
    kit_record record = {.name = kit_text("a/x"), .data = kit_text("five.")};
    record.local_extra = (psd_span){field, sizeof field};
    record.deferred = true;
    record.local_stored = record.local_size = 0xffffffff;
    record.local_crc32 = psd_crc32(0, record.data.data, 5);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    kit_local(&b, &record);
    kit_read r;
    salvage(&r, psd_buffer_span(&b));
    check_three(&r, b.data, &record, 1);
    kit_close(&r);
    psd_buffer_clear(&b);
}

/* An extra field that exceeds its room tells nothing: what the header states holds. */
static void
test_an_extra_field_beyond_its_room(void)
{
    static const uint8_t field[] = {1, 0, 17, 0, 5, 0, 0, 0, 0, 0,
                                    0, 0, 5,  0, 0, 0, 0, 0, 0, 0};
    for (int ones = 0; ones < 2; ones++) {
        kit_record record = {.name = kit_text("a/x"), .data = kit_text("five.")};
        record.local_extra = (psd_span){field, sizeof field};
        record.deferred = true;
        record.local_stored = record.local_size = ones == 1 ? 0xffffffff : 5;
        record.local_crc32 = psd_crc32(0, record.data.data, 5);
        psd_buffer b;
        psd_buffer_init(&b, check_alloc(&heap));
        kit_local(&b, &record);
        kit_read r;
        salvage(&r, psd_buffer_span(&b));
        CHECK_UINT(r.status, ones == 1 ? PSD_NOT_ZIP : PSD_OK);
        CHECK_UINT(r.zip.count, ones == 1 ? 0 : 1);
        CHECK(ones == 1 ||
              (r.zip.entries[0].size == 5 && r.zip.entries[0].stored_size == 5 &&
               psd_span_equal(r.zip.entries[0].name, record.name)));
        kit_close(&r);
        psd_buffer_clear(&b);
    }
}

/* What no reader could make sense of is left where it is. */
static void
test_unusable_headers(void)
{
    static const struct {
        size_t at;
        unsigned width;
        uint32_t value;
    } rows[] = {
        {6, 2, 1},           /* encrypted */
        {8, 2, 12},          /* an unknown method */
        {18, 4, 0xfffffff0}, /* a stored size beyond the file */
        {22, 4, 21},         /* two sizes */
        {26, 2, 0xffff},     /* a name beyond the file */
        {28, 2, 0xffff},     /* an extra field beyond it */
        {30, 1, 0},          /* a zero byte in the name */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kit_record records[3];
        kit_three(records);
        kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
        for (unsigned k = 0; k < rows[i].width; k++) {
            a.bytes.data[rows[i].at + k] = (uint8_t)(rows[i].value >> (8 * k));
        }
        kit_read r;
        salvage(&r, (psd_span){a.bytes.data, a.directory});
        CHECK_UINT(r.status, PSD_OK);
        CHECK_UINT(r.zip.count, 2);
        CHECK(psd_span_equal(r.zip.entries[0].name, records[1].name));
        kit_close(&r);
        psd_buffer_clear(&a.bytes);
    }
}

static void
test_deflated_sizes(void)
{
    kit_record record = {
        .name = kit_text("a/x"), .data = kit_text("12345"), .method = 8};
    for (int i = 0; i < 2; i++) {
        record.size = i == 0 ? 5 * PSD_INFLATE_RATIO : 5 * PSD_INFLATE_RATIO + 1;
        psd_buffer b;
        psd_buffer_init(&b, check_alloc(&heap));
        kit_local(&b, &record);
        kit_read r;
        salvage(&r, psd_buffer_span(&b));
        CHECK_UINT(r.status, i == 0 ? PSD_OK : PSD_NOT_ZIP);
        kit_close(&r);
        psd_buffer_clear(&b);
    }
}

/* Headers by the thousand whose descriptors never come: the search gives up early. */
static uint64_t bytes_read;

static bool
counted(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    const psd_span *all = ctx;
    bytes_read += size;
    memcpy(into, all->data + offset, size);
    return true;
}

static void
test_work_is_bounded(void)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    kit_record record = {.name = kit_text("a/x"), .data = kit_text("")};
    record.deferred = true;
    record.local_flags = 1 << 3;
    for (unsigned i = 0; i < 20000; i++) {
        kit_local(&b, &record);
    }
    psd_span all = psd_buffer_span(&b);
    bytes_read = 0;
    kit_read r;
    salvage_input(&r, (psd_input){.size = all.size, .read = counted, .ctx = &all}, 0);
    CHECK_UINT(r.status, PSD_NOT_ZIP);
    CHECK(bytes_read < 40 * (uint64_t)all.size);
    kit_close(&r);
    psd_buffer_clear(&b);
}

static void
test_limit(void)
{
    kit_record records[3];
    psd_buffer b = deferred(records, false);
    kit_read r;
    memset(&r, 0, sizeof r);
    r.limits = psd_default_limits();
    r.limits.entries = 2;
    r.input = (psd_input){.data = b.data, .size = b.size};
    psd_arena_init(&r.arena, check_alloc(&r.heap));
    CHECK_UINT(psd_zip_salvage(&r.input, &r.limits, KIT_KEY, &r.arena, &r.zip, &r.err),
               PSD_LIMIT);
    CHECK_UINT(r.err.found, 3);
    CHECK_UINT(r.err.expected, 2);
    kit_close(&r);
    psd_buffer_clear(&b);
}

static void
test_names_that_come_twice(void)
{
    kit_record records[3];
    psd_buffer b = deferred(records, false);
    kit_local(&b, &records[1]);
    put_descriptor(&b, records[1].data, false);
    kit_read r;
    salvage(&r, psd_buffer_span(&b));
    CHECK_UINT(r.status, PSD_DUPLICATE);
    kit_close(&r);
    psd_buffer_clear(&b);
}

static bool
failing(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    const psd_span *all = ctx;
    if (bytes_read-- == 0) {
        return false;
    }
    memcpy(into, all->data + offset, size);
    return true;
}

static void
test_every_failing_read_and_request(void)
{
    kit_record records[3];
    psd_buffer b = deferred(records, true);
    psd_span all = psd_buffer_span(&b);
    psd_status status = PSD_INPUT;
    for (uint64_t n = 0; status == PSD_INPUT; n++) {
        kit_read r;
        bytes_read = n;
        salvage_input(&r, (psd_input){.size = all.size, .read = failing, .ctx = &all},
                      0);
        status = r.status;
        CHECK(status == PSD_INPUT || status == PSD_OK);
        kit_close(&r);
    }
    status = PSD_NO_MEMORY;
    for (unsigned long n = 1; status == PSD_NO_MEMORY; n++) {
        kit_read r;
        salvage_input(&r, (psd_input){.data = all.data, .size = all.size}, n);
        status = r.status;
        CHECK(status == PSD_NO_MEMORY || status == PSD_OK);
        kit_close(&r);
    }
    psd_buffer_clear(&b);
}

int
main(void)
{
    RUN(test_stated_sizes);
    RUN(test_sizes_behind_the_payload);
    RUN(test_every_cut);
    RUN(test_archives_within_payloads);
    RUN(test_a_hole);
    RUN(test_wide_sizes);
    RUN(test_an_extra_field_beyond_its_room);
    RUN(test_unusable_headers);
    RUN(test_deflated_sizes);
    RUN(test_work_is_bounded);
    RUN(test_limit);
    RUN(test_names_that_come_twice);
    RUN(test_every_failing_read_and_request);
    CHECK(heap.live == 0);
    return check_report();
}
