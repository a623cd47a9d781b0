/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding the directory: comments, prefixes, bytes that follow, zip64, and end
 * records that lie.
 */
#include "zip_kit.h"

static check_heap heap;

static kit_archive
three(bool zip64)
{
    kit_record records[3];
    kit_three(records);
    return kit_build(check_alloc(&heap), records, 3, zip64);
}

static uint32_t last_count; /* of the archive that `wrapped` read */

/* Prefix, archive with its comment, trailing bytes. */
static psd_status
wrapped(bool zip64, size_t prefix, psd_span comment, size_t trailing, bool counted)
{
    kit_record records[3];
    kit_three(records);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_fill(&b, '#', prefix);
    size_t base = counted ? 0 : prefix;
    for (int i = 0; i < 3; i++) {
        kit_local(&b, &records[i]);
        records[i].header_offset -= (uint32_t)base;
    }
    size_t directory = b.size;
    for (int i = 0; i < 3; i++) {
        kit_central(&b, &records[i]);
    }
    size_t size = b.size - directory;
    if (zip64) {
        kit_end64(&b, 3, size, directory - base, b.size - base);
    }
    kit_end(&b, 3, size, directory - base, comment);
    psd_put_fill(&b, 0, trailing);
    kit_read r;
    kit_open(&r, psd_buffer_span(&b));
    psd_status status = r.status;
    last_count = r.zip.count;
    kit_close(&r);
    psd_buffer_clear(&b);
    return status;
}

static void
test_around(void)
{
    static const char spans[] = "PK\5\6 is no end record, and PK\5\6 neither ......";
    /* An end record of no entries, as it could stand in a comment, and more. */
    static const char nested[] = "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0 more";
    static const char commented[] = "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2\0xx";
    uint8_t *longest = malloc(65535);
    memset(longest, 'P', 65535);
    for (int zip64 = 0; zip64 < 2; zip64++) {
        bool z = zip64 == 1;
        CHECK_UINT(wrapped(z, 0, kit_text("a comment"), 0, true), PSD_OK);
        CHECK_UINT(wrapped(z, 0, kit_text(spans), 0, true), PSD_OK);
        CHECK_UINT(wrapped(z, 0, (psd_span){(const uint8_t *)nested, sizeof nested - 1},
                           0, true),
                   PSD_OK);
        CHECK_UINT(last_count, 3);
        /* A whole one whose comment ends with the file: the last one is taken. */
        CHECK_UINT(wrapped(z, 0, (psd_span){(const uint8_t *)nested, 22}, 0, true),
                   PSD_OK);
        CHECK_UINT(last_count, 0);
        CHECK_UINT(wrapped(z, 0, (psd_span){(const uint8_t *)commented, 24}, 0, true),
                   PSD_OK);
        CHECK_UINT(last_count, 0);
        CHECK_UINT(wrapped(z, 0, (psd_span){longest, 65535}, 0, true), PSD_OK);
        CHECK_UINT(wrapped(z, 0, (psd_span){longest, 65535}, 65536, true), PSD_OK);
        CHECK_UINT(wrapped(z, 0, kit_text(""), 1, true), PSD_OK);
        CHECK_UINT(wrapped(z, 0, kit_text("both"), 65536, true), PSD_OK);
        CHECK_UINT(wrapped(z, 0, kit_text(""), 65537, true), PSD_TRUNCATED);
        CHECK_UINT(wrapped(z, 99, kit_text(""), 0, true), PSD_OK);
        CHECK_UINT(wrapped(z, 99, kit_text(""), 0, false), PSD_OK);
        CHECK_UINT(wrapped(z, 99, kit_text("all"), 99, false), PSD_OK);
        CHECK_UINT(wrapped(z, 99, kit_text(""), 65537, false), PSD_NOT_ZIP);
    }
    free(longest);
}

/* A directory that lies later than stated, though the records do not. */
static void
test_false_prefix(void)
{
    kit_record records[3];
    kit_three(records);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    for (int i = 0; i < 3; i++) {
        kit_local(&b, &records[i]);
    }
    psd_put_fill(&b, 0, 50);
    size_t directory = b.size;
    for (int i = 0; i < 3; i++) {
        kit_central(&b, &records[i]);
    }
    size_t end = b.size;
    kit_end(&b, 3, end - directory, directory, kit_text(""));
    const kit_archive a = {b, directory, end};
    psd_error err;
    CHECK_UINT(kit_status(psd_buffer_span(&b), NULL), PSD_OK);
    CHECK_UINT(kit_patched(&a, end + 16, 4, directory - 1, &err), PSD_ZIP);
    CHECK_UINT(err.offset, end);
    CHECK_UINT(kit_patched(&a, end + 16, 4, directory - 50, &err), PSD_ZIP);
    CHECK_UINT(err.offset, end);
    CHECK_UINT(kit_patched(&a, end + 16, 4, directory + 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, end + 16, 4, UINT32_MAX, NULL), PSD_ZIP);
    psd_buffer_clear(&b);
}

static void
test_end_records(void)
{
    kit_archive a = three(true);
    size_t record = a.end - 76, locator = a.end - 20;
    CHECK_UINT(kit_patched(&a, a.end + 4, 2, 1, NULL), PSD_ZIP); /* disk */
    CHECK_UINT(kit_patched(&a, a.end + 8, 2, 2, NULL), PSD_ZIP); /* counts */
    CHECK_UINT(kit_patched(&a, a.end + 10, 2, 2, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, a.end + 12, 1, 0, NULL), PSD_ZIP); /* size */
    CHECK_UINT(kit_patched(&a, a.end + 16, 1, 0, NULL), PSD_ZIP); /* offset */
    CHECK_UINT(kit_patched(&a, a.end + 4, 4, UINT32_MAX, NULL), PSD_OK);
    CHECK_UINT(kit_patched(&a, a.end + 8, 4, UINT32_MAX, NULL), PSD_OK);
    CHECK_UINT(kit_patched(&a, a.end + 12, 8, UINT64_MAX, NULL), PSD_OK);
    CHECK_UINT(kit_patched(&a, locator, 1, 'X', NULL), PSD_OK); /* no locator at all */
    CHECK_UINT(kit_patched(&a, locator + 4, 4, 1, NULL), PSD_MULTI_DISK);
    CHECK_UINT(kit_patched(&a, locator + 16, 4, 2, NULL), PSD_MULTI_DISK);
    CHECK_UINT(kit_patched(&a, locator + 8, 8, record - 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, locator + 8, 8, record + 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, locator + 8, 8, UINT64_MAX, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, record, 1, 'X', NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, record + 4, 8, 43, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, record + 4, 8, 45, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, record + 4, 8, UINT64_MAX, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, record + 16, 4, 1, NULL), PSD_ZIP);
    psd_buffer_clear(&a.bytes);

    a = three(false);
    CHECK_UINT(kit_patched(&a, a.end + 4, 2, 1, NULL), PSD_MULTI_DISK);
    CHECK_UINT(kit_patched(&a, a.end + 6, 2, 1, NULL), PSD_MULTI_DISK);
    CHECK_UINT(kit_patched(&a, a.end + 8, 2, 2, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, a.end + 8, 4, 2 | 2 << 16, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, a.end + 8, 4, 4 | 4 << 16, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, a.end + 8, 4, 0, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, a.end + 12, 4, UINT32_MAX, NULL), PSD_ZIP);
    psd_buffer_clear(&a.bytes);
}

/* A lie about the count costs no memory. */
static void
test_count_lies(void)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_fill(&b, 'x', 100);
    kit_end64(&b, (uint64_t)1 << 40, 100, 0, 100);
    kit_end(&b, 0xffff, 100, 0, kit_text(""));
    kit_read r;
    kit_open(&r, psd_buffer_span(&b));
    CHECK_UINT(r.status, PSD_ZIP);
    CHECK_UINT(r.heap.requests, 0);
    CHECK_UINT(r.err.found, (uint64_t)1 << 40);
    kit_close(&r);
    psd_buffer_clear(&b);

    /* A directory that the file cannot hold, at the place that wraps to fit. */
    psd_buffer_init(&b, check_alloc(&heap));
    kit_end64(&b, (uint64_t)1 << 46, (uint64_t)1 << 63, (uint64_t)1 << 63, 0);
    kit_end(&b, 0xffff, UINT32_MAX, UINT32_MAX, kit_text(""));
    CHECK_UINT(kit_status(psd_buffer_span(&b), NULL), PSD_ZIP);
    psd_buffer_clear(&b);

    /* One entry in a directory that only several could fill. */
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_fill(&b, 'x', 500000);
    kit_end(&b, 1, 500000, 0, kit_text(""));
    kit_open(&r, psd_buffer_span(&b));
    CHECK_UINT(r.status, PSD_ZIP);
    CHECK_UINT(r.heap.requests, 0);
    kit_close(&r);
    psd_buffer_clear(&b);

    kit_archive a = three(false);
    kit_open(&r, psd_buffer_span(&a.bytes));
    for (uint64_t most = 2; most < 4; most++) {
        psd_zip zip;
        r.limits.entries = most;
        CHECK_UINT(psd_zip_read(&r.input, &r.limits, KIT_KEY, &r.arena, &zip, &r.err),
                   most == 2 ? PSD_LIMIT : PSD_OK);
    }
    kit_close(&r);
    psd_buffer_clear(&a.bytes);
}

/* 65,535 entries fill the field with ones, and need no zip64 record. */
static void
test_all_ones_count(void)
{
    enum { COUNT = 65535 };
    kit_record *records = calloc(COUNT, sizeof *records);
    char (*names)[16] = calloc(COUNT, sizeof *names);
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(names[i], sizeof names[i], "%d", i);
        records[i].name = kit_text(names[i]);
    }
    kit_archive a = kit_build(check_alloc(&heap), records, COUNT, false);
    CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL), PSD_OK);
    psd_buffer_clear(&a.bytes);
    free(names);
    free(records);
}

int
main(void)
{
    RUN(test_around);
    RUN(test_false_prefix);
    RUN(test_end_records);
    RUN(test_count_lies);
    RUN(test_all_ones_count);
    CHECK(heap.live == 0);
    return check_report();
}
