/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading: what is accepted, what is refused, and by which name.
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

/* ------------------------------------------------------------------ accepted */

static void
test_plain(void)
{
    for (int zip64 = 0; zip64 < 2; zip64++) {
        kit_archive a = three(zip64 == 1);
        kit_read r;
        kit_open(&r, psd_buffer_span(&a.bytes));
        CHECK_UINT(r.status, PSD_OK);
        CHECK_UINT(r.zip.count, 3);
        CHECK_UINT(r.zip.directory_offset, a.directory);
        CHECK_UINT(r.zip.end_offset, a.end);
        const psd_zip_entry *e = &r.zip.entries[1];
        uint64_t offset = 0;
        CHECK(psd_span_equal(e->name, kit_text("a/data/0")));
        CHECK_UINT(e->size, 33);
        CHECK_UINT(e->stored_size, 33);
        CHECK_UINT(e->method, PSD_ZIP_STORED);
        CHECK_UINT(e->limit, r.zip.entries[2].header_offset);
        CHECK_UINT(r.zip.entries[2].limit, a.directory);
        CHECK_UINT(psd_zip_locate(&r.input, e, &offset, &r.err), PSD_OK);
        CHECK(memcmp(a.bytes.data + offset, "thirty-three", 12) == 0);
        CHECK_UINT(e->crc32, psd_crc32(0, a.bytes.data + offset, 33));
        kit_close(&r);
        psd_buffer_clear(&a.bytes);
    }
}

static void
test_empty_archive(void)
{
    kit_archive a = kit_build(check_alloc(&heap), NULL, 0, false);
    kit_read r;
    kit_open(&r, psd_buffer_span(&a.bytes));
    CHECK_UINT(r.status, PSD_OK);
    CHECK_UINT(r.zip.count, 0);
    CHECK(psd_zip_find(&r.zip, kit_text("a")) == NULL);
    kit_close(&r);
    CHECK_UINT(kit_patched(&a, 16, 4, 1, NULL), PSD_ZIP); /* its directory's place */
    psd_zip none = {0};
    CHECK(psd_zip_find(&none, kit_text("a")) == NULL);
    psd_buffer_clear(&a.bytes);
}

static void
test_find(void)
{
    kit_archive a = three(false);
    kit_read r;
    kit_open(&r, psd_buffer_span(&a.bytes));
    CHECK(psd_zip_find(&r.zip, kit_text("a/data.pkl")) == &r.zip.entries[0]);
    CHECK(psd_zip_find(&r.zip, kit_text("A/DATA.pkl")) == &r.zip.entries[0]);
    CHECK(psd_zip_find(&r.zip, kit_text("a/version")) == &r.zip.entries[2]);
    CHECK(psd_zip_find(&r.zip, kit_text("a\\version")) == NULL);
    CHECK(psd_zip_find(&r.zip, kit_text("a/versio")) == NULL);
    CHECK(psd_zip_find(&r.zip, kit_text("a/versiom")) == NULL);
    CHECK(psd_zip_find(&r.zip, kit_text("")) == NULL);
    kit_close(&r);
    psd_buffer_clear(&a.bytes);
}

static void
test_unordered(void)
{
    enum { COUNT = 101 };
    static char names[COUNT][16];
    kit_record records[COUNT] = {0};
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(names[i], sizeof names[i], "r%d", i);
        records[i].name = kit_text(names[i]);
        records[i].data = kit_text(names[i]);
        kit_local(&b, &records[i]);
    }
    size_t directory = b.size;
    for (int i = 0; i < COUNT; i++) {
        kit_central(&b, &records[i * 37 % COUNT]);
    }
    kit_end(&b, COUNT, b.size - directory, directory, kit_text(""));
    kit_read r;
    kit_open(&r, psd_buffer_span(&b));
    CHECK_UINT(r.status, PSD_OK);
    CHECK(psd_span_equal(r.zip.stem, PSD_LITERAL("r")));
    for (int i = 0; i < COUNT; i++) {
        const psd_zip_entry *e = psd_zip_find(&r.zip, records[i].name);
        CHECK(e == &r.zip.entries[i * 71 % COUNT]); /* 37 * 71 is 1 modulo 101 */
        CHECK_UINT(e->limit, i + 1 < COUNT ? records[i + 1].header_offset : directory);
        uint64_t offset;
        CHECK_UINT(psd_zip_locate(&r.input, e, &offset, &r.err), PSD_OK);
    }
    kit_close(&r);
    psd_buffer_clear(&b);
}

/* ------------------------------------------------------------------ entries */

static void
test_entry_fields(void)
{
    kit_archive a = three(false);
    size_t e = a.directory + 46 + 10; /* the second entry */
    psd_error err;
    CHECK_UINT(kit_patched(&a, e, 1, 'X', &err), PSD_ZIP);
    CHECK_UINT(err.offset, e);
    CHECK_UINT(kit_patched(&a, e + 8, 2, 1, &err), PSD_ENCRYPTED);
    CHECK(err.entry_size == 8 && memcmp(err.entry, "a/data/0", 8) == 0);
    CHECK_UINT(kit_patched(&a, e + 8, 2, 1 << 6, NULL), PSD_ENCRYPTED);
    CHECK_UINT(kit_patched(&a, e + 8, 2, 1 << 13, NULL), PSD_ENCRYPTED);
    CHECK_UINT(kit_patched(&a, e + 8, 2, 1 << 5, NULL), PSD_METHOD);
    CHECK_UINT(kit_patched(&a, e + 20, 4, 32, &err), PSD_ZIP);
    CHECK_UINT(err.offset, e);
    CHECK_UINT(kit_patched(&a, e + 24, 4, 34, &err), PSD_ZIP);
    CHECK_UINT(err.offset, e);
    CHECK_UINT(kit_patched(&a, e + 20, 8, 32 | (uint64_t)32 << 32, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, e + 20, 8, 34 | (uint64_t)34 << 32, NULL), PSD_OVERLAP);
    CHECK_UINT(kit_patched(&a, e + 28, 2, 0xffff, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, e + 30, 2, 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, e + 32, 2, 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, e + 34, 2, 1, NULL), PSD_MULTI_DISK);
    CHECK_UINT(kit_patched(&a, e + 34, 2, 0xffff, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, e + 42, 4, 0, NULL), PSD_OVERLAP);
    CHECK_UINT(kit_patched(&a, e + 42, 4, a.directory, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, e + 42, 4, a.directory - 40, NULL), PSD_OVERLAP);
    CHECK_UINT(kit_patched(&a, e + 46, 1, 0, NULL), PSD_ZIP);
    /* The last one: its payload must not reach, its end must be, the directory's. */
    size_t last = a.end - 9 - 46;
    CHECK_UINT(kit_patched(&a, last + 20, 8, 1 | (uint64_t)1 << 32, &err), PSD_OVERLAP);
    CHECK_UINT(err.offset, last);
    CHECK_UINT(kit_patched(&a, last + 32, 2, 1, NULL), PSD_ZIP);
    psd_buffer_clear(&a.bytes);
}

/* Sizes of a deflated record: stored, whole, what must come. */
static void
test_deflated(void)
{
    static const struct {
        size_t stored;
        uint32_t size;
        psd_status status;
    } cases[] = {
        {20, 22000 + 64, PSD_OK},     {20, 22000 + 65, PSD_ZIP},
        {2, UINT32_MAX - 1, PSD_ZIP}, {1000, 5000, PSD_OK},
        {1000, 5001, PSD_LIMIT},      {1000, 7, PSD_OK},
    };
    static const uint8_t zeros[1000];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_record record = {.name = kit_text("a/x"), .method = PSD_ZIP_DEFLATED};
        record.data = (psd_span){zeros, cases[i].stored};
        record.size = cases[i].size;
        kit_archive a = kit_build(check_alloc(&heap), &record, 1, false);
        kit_read r;
        kit_open(&r, psd_buffer_span(&a.bytes));
        if (cases[i].stored == 1000) {
            r.limits.inflated_size = 5000;
            psd_zip zip;
            r.status =
                psd_zip_read(&r.input, &r.limits, KIT_KEY, &r.arena, &zip, &r.err);
        }
        CHECK_UINT(r.status, cases[i].status);
        kit_close(&r);
        psd_buffer_clear(&a.bytes);
    }
}

/* A zip64 field of the directory: the fields that are all ones, and no others. */
static void
test_zip64_entries(void)
{
    kit_record records[3];
    uint8_t extra[128];
    psd_status expected[] = {PSD_OK,  PSD_OK,  PSD_OK,  PSD_OK,        PSD_ZIP,
                             PSD_ZIP, PSD_ZIP, PSD_ZIP, PSD_MULTI_DISK};
    for (int form = 0; form < 9; form++) {
        kit_three(records);
        size_t size = 0;
        psd_store_le16(extra, 0xcafe); /* a stranger's field comes first */
        psd_store_le16(extra + 2, 1);
        extra[4] = 'x';
        uint8_t *field = extra + 5;
        psd_store_le16(field, 1);
        psd_store_le64(field + 4, 33);
        psd_store_le64(field + 12, 33);
        psd_store_le64(field + 20,
                       form == 7 ? UINT64_MAX : 58 + 2); /* offset of a/data/0 */
        psd_store_le32(field + 28, form == 8);
        size = form == 0 ? 28 : form == 1 ? 8 : form == 4 ? 20 : 28;
        psd_store_le16(field + 2, (uint16_t)size);
        records[1].extra = (psd_span){extra, 9 + size};
        if (form == 5) { /* its size exceeds the room */
            psd_store_le16(field + 2, (uint16_t)(size + 1));
        }
        if (form == 6) { /* twice */
            memcpy(field + 32, field, 32);
            records[1].extra.size += 32;
        }
        kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
        size_t e = a.directory + 46 + 10;
        uint8_t *p = a.bytes.data + e;
        if (form != 2) { /* 2: there, and not needed */
            psd_store_le32(p + 24, UINT32_MAX);
        }
        if (form != 1 && form != 2) {
            psd_store_le32(p + 20, UINT32_MAX);
            psd_store_le32(p + 42, UINT32_MAX);
        }
        if (form == 8 || form == 3) {
            psd_store_le16(p + 34, 0xffff);
        }
        if (form == 3) {
            psd_store_le32(field + 28, 0);
            memcpy(p + 46 + 8, extra, 9 + size);
        }
        psd_error err;
        psd_status status = kit_status(psd_buffer_span(&a.bytes), &err);
        CHECK_UINT(status, expected[form]);
        CHECK(form < 4 || form > 6 || (!err.has_numbers && err.offset == e));
        psd_buffer_clear(&a.bytes);
    }
}

static psd_status
second_name(const char *first, const char *second)
{
    kit_record records[3];
    kit_three(records);
    records[0].name = kit_text(first);
    records[1].name = kit_text(second);
    kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
    psd_error err;
    psd_status status = kit_status(psd_buffer_span(&a.bytes), &err);
    if (status == PSD_DUPLICATE) {
        CHECK(err.entry_size == strlen(second) && err.subject_size == strlen(first));
    }
    psd_buffer_clear(&a.bytes);
    return status;
}

static void
test_duplicates(void)
{
    CHECK_UINT(second_name("a/b", "a/b"), PSD_DUPLICATE);
    CHECK_UINT(second_name("a/b", "A/B"), PSD_DUPLICATE);
    CHECK_UINT(second_name("a/b", "a\\b"), PSD_DUPLICATE);
    CHECK_UINT(second_name("", ""), PSD_DUPLICATE);
    CHECK_UINT(second_name("a/b", "a/b/"), PSD_OK);
    CHECK_UINT(second_name("a//b", "a/b"), PSD_OK);
    CHECK_UINT(second_name("\xc3\x84", "\xc3\xa4"), PSD_OK); /* not ASCII: not folded */
    CHECK_UINT(second_name("@", "`"), PSD_OK);
    CHECK_UINT(second_name("[", "{"), PSD_OK);
}

/* The names of most records differ by a number alone, by which they are found. */
static psd_status
third_name(const char *first, const char *second, const char *third)
{
    kit_record records[3];
    kit_three(records);
    records[0].name = kit_text(first);
    records[1].name = kit_text(second);
    records[2].name = kit_text(third);
    kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
    kit_read r;
    kit_open(&r, psd_buffer_span(&a.bytes));
    psd_status status = r.status;
    for (unsigned i = 0; i < 3 && status == PSD_OK; i++) {
        CHECK(psd_zip_find(&r.zip, records[i].name) == &r.zip.entries[i]);
    }
    kit_close(&r);
    psd_buffer_clear(&a.bytes);
    return status;
}

static void
test_numbered(void)
{
    CHECK_UINT(third_name("a/0", "a/1", "a/2"), PSD_OK);
    CHECK_UINT(third_name("a/2", "a/0", "a/1"), PSD_OK);
    CHECK_UINT(third_name("0", "1", "2"), PSD_OK);
    CHECK_UINT(third_name("1", "a", "2"), PSD_OK);
    CHECK_UINT(third_name("a/1", "a/2", "b"), PSD_OK);
    /* Other spellings of a number are other names, and so are larger numbers. */
    CHECK_UINT(third_name("a/1", "a/2", "a/01"), PSD_OK);
    CHECK_UINT(third_name("a/0", "a/1", "a/00"), PSD_OK);
    CHECK_UINT(third_name("a/3", "a/1", "a/4294967297"), PSD_OK);
    CHECK_UINT(third_name("a/1", "a/2", "a/"), PSD_OK);
    CHECK_UINT(third_name("a/1", "a/2", "b/1"), PSD_OK);
    CHECK_UINT(third_name("a/1", "a/2", "a/1x"), PSD_OK);
    /* Twice by the number, however the rest is spelled, and twice without. */
    CHECK_UINT(third_name("a/1", "a/2", "a/1"), PSD_DUPLICATE);
    CHECK_UINT(third_name("a/1", "a/2", "A/1"), PSD_DUPLICATE);
    CHECK_UINT(third_name("A\\2", "a/1", "a/2"), PSD_DUPLICATE);
    CHECK_UINT(third_name("a/7", "a/1", "A/7"), PSD_DUPLICATE);
    CHECK_UINT(third_name("a/01", "a/1", "A/01"), PSD_DUPLICATE);
}

/* Found in any case, but not by another separator; in exact mode as they stand alone. */
static void
test_find_numbered(void)
{
    kit_record records[3];
    kit_three(records);
    records[0].name = kit_text("a/1");
    records[1].name = kit_text("a/2");
    records[2].name = kit_text("A/2");
    kit_archive a = kit_build(check_alloc(&heap), records, 2, false);
    kit_read r;
    kit_open(&r, psd_buffer_span(&a.bytes));
    CHECK_UINT(r.status, PSD_OK);
    CHECK(psd_zip_find(&r.zip, kit_text("A/1")) == &r.zip.entries[0]);
    CHECK(psd_zip_find(&r.zip, kit_text("a\\1")) == NULL);
    CHECK(psd_zip_find(&r.zip, kit_text("a/0")) == NULL);
    CHECK(psd_zip_find(&r.zip, kit_text("a/01")) == NULL);
    CHECK(psd_zip_find(&r.zip, kit_text("a/5")) == NULL);
    kit_close(&r);
    psd_buffer_clear(&a.bytes);
    kit_three(records);
    records[0].name = kit_text("a/1");
    records[1].name = kit_text("a/2");
    records[2].name = kit_text("A/2");
    a = kit_build(check_alloc(&heap), records, 3, false);
    CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL), PSD_DUPLICATE);
    psd_input input = {.data = a.bytes.data, .size = a.bytes.size};
    psd_limits limits = psd_default_limits();
    psd_arena arena;
    psd_zip zip;
    psd_error err;
    psd_arena_init(&arena, check_alloc(&heap));
    CHECK_UINT(psd_zip_read_exact(&input, &limits, KIT_KEY, &arena, &zip, &err),
               PSD_OK);
    CHECK(psd_zip_find(&zip, kit_text("a/2")) == &zip.entries[1]);
    CHECK(psd_zip_find(&zip, kit_text("A/2")) == &zip.entries[2]);
    CHECK(psd_zip_find(&zip, kit_text("A/1")) == NULL);
    psd_arena_clear(&arena);
    psd_buffer_clear(&a.bytes);
}

static void
test_zero_in_name(void)
{
    kit_record records[3];
    kit_three(records);
    records[1].name = (psd_span){(const uint8_t *)"a/x\0y", 5};
    kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
    CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL), PSD_ZIP);
    psd_buffer_clear(&a.bytes);
}

/* An offset that only wraps to a record, which lies in what is taken as a prefix. */
static void
test_shift_wraps(void)
{
    kit_record records[3];
    uint8_t extra[12] = {1, 0, 8, 0};
    kit_three(records);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    records[0].extra = (psd_span){extra, sizeof extra};
    for (int i = 0; i < 3; i++) {
        kit_local(&b, &records[i]);
    }
    uint32_t shift = records[1].header_offset;
    psd_store_le64(extra + 4, 0 - (uint64_t)shift);
    records[0].header_offset = UINT32_MAX;
    records[1].header_offset -= shift;
    records[2].header_offset -= shift;
    size_t directory = b.size;
    for (int i = 1; i <= 3; i++) {
        kit_central(&b, &records[i % 3]);
    }
    kit_end(&b, 3, b.size - directory, directory - shift, kit_text(""));
    CHECK_UINT(kit_status(psd_buffer_span(&b), NULL), PSD_ZIP);
    psd_buffer_clear(&b);
}

/* ------------------------------------------------------------------ local headers */

static void
test_local_fields(void)
{
    kit_archive a = three(false);
    size_t h = 30 + 10 + 20; /* the second record */
    psd_error err;
    CHECK_UINT(kit_patched(&a, h, 1, 'X', &err), PSD_ZIP);
    CHECK_UINT(err.offset, h);
    CHECK(err.entry_size == 8);
    CHECK_UINT(kit_patched(&a, h + 6, 2, 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 6, 2, 1 << 11, NULL), PSD_OK);
    CHECK_UINT(kit_patched(&a, h + 8, 2, 8, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 14, 4, 0, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 18, 4, 0, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 22, 4, 0, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 18, 4, UINT32_MAX, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 26, 2, 7, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 26, 2, 9, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 28, 2, 1, NULL), PSD_ZIP);
    CHECK_UINT(kit_patched(&a, h + 28, 2, 0xffff, NULL), PSD_OVERLAP);
    CHECK_UINT(kit_patched(&a, h + 30, 1, 'A', NULL), PSD_ZIP); /* name: case too */
    psd_buffer_clear(&a.bytes);

    /* An unknown method is only met at the record that has it. */
    kit_record records[3];
    kit_three(records);
    records[1].method = 99;
    a = kit_build(check_alloc(&heap), records, 3, false);
    kit_read r;
    kit_open(&r, psd_buffer_span(&a.bytes));
    uint64_t offset;
    CHECK_UINT(r.status, PSD_OK);
    CHECK_UINT(psd_zip_locate(&r.input, &r.zip.entries[0], &offset, &r.err), PSD_OK);
    CHECK_UINT(psd_zip_locate(&r.input, &r.zip.entries[1], &offset, &r.err),
               PSD_METHOD);
    CHECK_UINT(r.err.found, 99);
    kit_close(&r);
    psd_buffer_clear(&a.bytes);
}

/* Values that follow the payload: stated, zero or all ones, else a lie. */
static void
test_deferred(void)
{
    static const struct {
        uint32_t crc32, stored, size;
        uint64_t wide_size, wide_stored;
        psd_status status;
    } cases[] = {
        {0, 0, 0, 0, 0, PSD_OK},
        {0, 33, 33, 0, 0, PSD_OK},
        {0, UINT32_MAX, UINT32_MAX, 33, 33, PSD_OK},
        {0, UINT32_MAX, UINT32_MAX, 33, 0, PSD_OK},
        {0, UINT32_MAX, UINT32_MAX, 0, 0, PSD_OK},
        {0, UINT32_MAX, UINT32_MAX, 34, 33, PSD_ZIP},
        {0, UINT32_MAX, UINT32_MAX, 33, 34, PSD_ZIP},
        {0, 34, 0, 0, 0, PSD_ZIP},
        {0, 0, 34, 0, 0, PSD_ZIP},
        {1, 0, 0, 0, 0, PSD_ZIP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t extra[20 + 3] = {1, 0, 16, 0}; /* and three zeros of padding */
        kit_record records[3];
        kit_three(records);
        psd_store_le64(extra + 4, cases[i].wide_size);
        psd_store_le64(extra + 12, cases[i].wide_stored);
        records[1].local_extra = (psd_span){extra, sizeof extra};
        records[1].deferred = true;
        records[1].local_flags = 1 << 3;
        records[1].local_crc32 = cases[i].crc32;
        records[1].local_stored = cases[i].stored;
        records[1].local_size = cases[i].size;
        kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
        CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL), cases[i].status);
        /* Without the flag, the zip64 field must state the truth. */
        bool stated = cases[i].stored != 0 && cases[i].wide_stored == 33 &&
                      cases[i].wide_size == 33;
        uint32_t crc = psd_crc32(0, records[1].data.data, 33);
        psd_store_le16(a.bytes.data + records[1].header_offset + 6, 0);
        psd_store_le32(a.bytes.data + records[1].header_offset + 14, crc);
        CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL),
                   stated || (cases[i].stored == 33 && cases[i].size == 33) ? PSD_OK
                                                                            : PSD_ZIP);
        size_t at = records[1].header_offset + 30 + 8;
        CHECK_UINT(kit_patched(&a, at + 22, 1, 1, NULL), PSD_ZIP); /* padding */
        CHECK_UINT(kit_patched(&a, at + 2, 1, 20, NULL), PSD_ZIP);
        psd_buffer_clear(&a.bytes);
    }
}

/* Local zip64 fields that are too short, or there twice. */
static void
test_local_zip64(void)
{
    uint8_t extra[40] = {1, 0, 4, 0, 9, 9, 9, 9};
    for (int form = 0; form < 2; form++) {
        kit_record records[3];
        kit_three(records);
        records[1].local_extra = (psd_span){extra, form == 0 ? 8 : 40};
        records[1].deferred = true;
        records[1].local_flags = 1 << 3;
        records[1].local_stored = records[1].local_size = UINT32_MAX;
        if (form == 1) {
            psd_store_le16(extra + 2, 16);
            psd_store_le64(extra + 4, 33);
            psd_store_le64(extra + 12, 33);
            memcpy(extra + 20, extra, 20);
        }
        kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
        CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL),
                   form == 0 ? PSD_OK : PSD_ZIP);
        psd_buffer_clear(&a.bytes);
    }
}

/* The directory does not know the local extra field, which takes the room. */
static void
test_extra_takes_room(void)
{
    kit_record records[3];
    static const uint8_t extra[20] = {0x46, 0x42, 16, 0};
    kit_three(records);
    records[1].data.size = 13;
    records[1].local_extra = (psd_span){extra, sizeof extra};
    records[1].deferred = true;
    records[1].local_flags = 1 << 3;
    kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
    size_t e = a.directory + 46 + 10;
    CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL), PSD_OK);
    CHECK_UINT(kit_patched(&a, e + 20, 8, 14 | (uint64_t)14 << 32, NULL), PSD_OVERLAP);
    CHECK_UINT(kit_patched(&a, e + 20, 8, 33 | (uint64_t)33 << 32, NULL), PSD_OVERLAP);
    psd_buffer_clear(&a.bytes);
}

int
main(void)
{
    RUN(test_plain);
    RUN(test_empty_archive);
    RUN(test_find);
    RUN(test_unordered);
    RUN(test_entry_fields);
    RUN(test_deflated);
    RUN(test_zip64_entries);
    RUN(test_duplicates);
    RUN(test_numbered);
    RUN(test_find_numbered);
    RUN(test_zero_in_name);
    RUN(test_shift_wraps);
    RUN(test_local_fields);
    RUN(test_deferred);
    RUN(test_local_zip64);
    RUN(test_extra_takes_room);
    CHECK(heap.live == 0);
    return check_report();
}
