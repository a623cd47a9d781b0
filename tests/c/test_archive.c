/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening, running, fetching, verifying.  Writing stands in test_archive_write.c,
 * what goes wrong by itself in test_archive_hostile.c.
 */
#include "archive_kit.h"

static check_heap kit_heap;

/* Open and run what these records make up; the bytes end at a guard page. */
typedef struct {
    opening o;
    check_guarded bytes;
} trial;

static void
try_records(trial *t, kit_record *records, size_t count, bool run)
{
    kit_archive a = kit_build(check_alloc(&kit_heap), records, count, false);
    t->bytes = check_guard(a.bytes.data, a.bytes.size);
    psd_buffer_clear(&a.bytes);
    open_bytes(&t->o, (psd_span){t->bytes.data, t->bytes.size});
    if (run) {
        run_archive(&t->o);
    }
}

static void
end_trial(trial *t)
{
    close_archive(&t->o);
    check_unguard(&t->bytes);
}

/* ---------------------------------------------------------------- a sound one */

static void
check_small(opening *o)
{
    CHECK(o->status == PSD_OK);
    CHECK(o->archive.kind == PSD_ARCHIVE_CHECKPOINT);
    CHECK(psd_span_equal(o->archive.prefix, PSD_LITERAL("m/")));
    CHECK(o->archive.has_byteorder && !o->archive.big_endian);
    CHECK(psd_span_equal(o->archive.program, PSD_LITERAL(SMALL_PROGRAM)));
    CHECK_UINT(o->archive.program_offset, 30 + strlen("m/data.pkl"));
    CHECK_UINT(o->archive.model.tensor_count, 2);
    CHECK_UINT(o->archive.model.storage_count, 2);
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&o->heap));
    psd_span bytes;
    CHECK(storage_bytes(o, 0, &arena, &bytes) == PSD_OK);
    CHECK(psd_span_equal(bytes, PSD_LITERAL("eightby\xff")));
    CHECK(storage_bytes(o, 1, &arena, &bytes) == PSD_OK);
    CHECK(psd_span_equal(bytes, PSD_LITERAL("abc")));
    psd_arena_clear(&arena);
    check_promises(o);
}

static void
test_a_small_checkpoint(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    trial t;
    try_records(&t, records, SMALL_COUNT, true);
    check_small(&t.o);
    end_trial(&t);
}

/* Records in any order; deflated ones among them. */
static void
test_order_and_deflated_records(void)
{
    for (unsigned deflated = 0; deflated < 16; deflated++) {
        for (unsigned turn = 0; turn < SMALL_COUNT; turn++) {
            kit_record records[SMALL_COUNT], turned[SMALL_COUNT];
            uint8_t rooms[SMALL_COUNT][1024];
            small_records(records);
            for (unsigned i = 0; i < SMALL_COUNT; i++) {
                kit_record *r = &turned[(i + turn) % SMALL_COUNT];
                *r = records[i];
                if ((deflated >> i & 1) != 0) {
                    r->method = PSD_ZIP_DEFLATED;
                    r->size = (uint32_t)r->data.size;
                    r->data = deflate_stored(r->data, rooms[i]);
                }
            }
            trial t;
            kit_archive a =
                kit_build(check_alloc(&kit_heap), turned, SMALL_COUNT, false);
            open_bytes(&t.o, psd_buffer_span(&a.bytes));
            /* The kit states the CRC of what is stored, not of what was deflated. */
            CHECK((deflated & 3) == 0 ? t.o.status == PSD_OK : t.o.status == PSD_CRC);
            close_archive(&t.o);
            psd_buffer_clear(&a.bytes);
        }
    }
}

/* ---------------------------------------------------------------- deflated records */

/* Set the CRC of record `which` in both headers. */
static void
set_crc(kit_archive *a, const kit_record *records, size_t which, uint32_t crc)
{
    uint8_t *p = a->bytes.data + a->directory;
    for (size_t i = 0; i < which; i++) {
        p += 46 + records[i].name.size;
    }
    psd_store_le32(p + 16, crc);
    psd_store_le32(a->bytes.data + records[which].header_offset + 14, crc);
}

/* The small checkpoint with data.pkl and the first storage deflated. */
static void
try_deflated(trial *t, uint32_t storage_crc)
{
    kit_record records[SMALL_COUNT];
    uint8_t rooms[2][1024];
    uint32_t crcs[2];
    small_records(records);
    for (unsigned i = 0; i < 2; i++) {
        kit_record *r = &records[2 * i];
        crcs[i] = psd_crc32(0, r->data.data, r->data.size);
        r->method = PSD_ZIP_DEFLATED;
        r->size = (uint32_t)r->data.size;
        r->data = deflate_stored(r->data, rooms[i]);
    }
    kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
    set_crc(&a, records, 0, crcs[0]);
    set_crc(&a, records, 2, storage_crc == 1 ? crcs[1] : storage_crc);
    t->bytes = check_guard(a.bytes.data, a.bytes.size);
    psd_buffer_clear(&a.bytes);
    open_bytes(&t->o, (psd_span){t->bytes.data, t->bytes.size});
    run_archive(&t->o);
}

static void
test_deflated_records(void)
{
    trial t;
    try_deflated(&t, 1);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.inflater.calls, 1);
    const psd_zip_entry *entry = psd_archive_storage_entry(&t.o.archive, 0);
    uint8_t into[8];
    CHECK(psd_archive_inflate(&t.o.archive, &t.o.input, entry, into, &t.o.err) ==
          PSD_OK);
    CHECK(memcmp(into, "eightby\xff", 8) == 0);
    bool checked;
    CHECK(psd_archive_verify(&t.o.archive, &t.o.input, entry, &checked, &t.o.err) ==
          PSD_OK);
    CHECK(checked);
    check_promises(&t.o);
    /* The host's failure and the stream's damage are told apart. */
    t.o.inflater.fails = true;
    t.o.status =
        psd_archive_verify(&t.o.archive, &t.o.input, entry, &checked, &t.o.err);
    CHECK(says(&t.o, PSD_INPUT, "a deflated record could not be inflated"));
    CHECK(ABOUT_ENTRY(&t.o, "m/data/0"));
    t.o.inflater.fails = false;
    t.bytes.data[t.o.archive.zip.entries[2].header_offset + 30 + 8] = 7;
    t.o.status = psd_archive_inflate(&t.o.archive, &t.o.input, entry, into, &t.o.err);
    CHECK(says(&t.o, PSD_INFLATE, "a deflated record is damaged or has another size"));
    end_trial(&t);
}

/* 64 MiB ask for no leave; a byte more may be as much as the file's size times a bound. */
static void
test_storages_that_inflate_to_very_much(void)
{
    static const uint8_t packed[62000];
#define MANY(n) V2(STORAGE("ByteStorage", "0", n) I("0") "(I" n "\nt(I1\nt")
    static const struct {
        const char *program;
        uint32_t size;
        uint64_t inflation;
        bool refused;
    } rows[] = {
        {MANY("67108864") ".", 67108864, 1, false},
        {MANY("67108865") ".", 67108865, 256, true},
        {MANY("67108865") ".", 67108865, 2000, false},
        {MANY("67108865") ".", 67108865, UINT64_MAX, false},
    };
#undef MANY
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kit_record records[] = {
            record("m/data.pkl", kit_text(rows[i].program)),
            {.name = PSD_LITERAL("m/data/0"),
             .data = {packed, sizeof packed},
             .method = PSD_ZIP_DEFLATED,
             .size = rows[i].size},
        };
        kit_archive a = kit_build(check_alloc(&kit_heap), records, 2, false);
        psd_span bytes = psd_buffer_span(&a.bytes);
        psd_limits limits = psd_default_limits();
        opening o;
        limits.inflation = rows[i].inflation;
        open_input(&o, (psd_input){.data = bytes.data, .size = bytes.size}, &limits, 0);
        run_archive(&o);
        if (rows[i].refused) {
            CHECK(says(&o, PSD_LIMIT,
                       "the deflated storages are too large for a file of this size"));
            CHECK_UINT(o.err.found, 67108865);
            CHECK_UINT(o.err.expected, bytes.size * 256);
        }
        else {
            CHECK_UINT(o.status, PSD_OK);
        }
        close_archive(&o);
        psd_buffer_clear(&a.bytes);
    }
}

/* The same of a record by itself, such as the pickle. */
static void
test_a_pickle_that_inflates_to_very_much(void)
{
    static const uint8_t packed[62000];
    kit_record records[] = {{.name = PSD_LITERAL("m/data.pkl"),
                             .data = {packed, sizeof packed},
                             .method = PSD_ZIP_DEFLATED,
                             .size = 67108865}};
    kit_archive a = kit_build(check_alloc(&kit_heap), records, 1, false);
    opening o;
    open_bytes(&o, psd_buffer_span(&a.bytes));
    CHECK(
        says(&o, PSD_LIMIT, "a deflated record is too large for a file of this size"));
    CHECK(ABOUT_ENTRY(&o, "m/data.pkl"));
    CHECK_UINT(o.err.found, 67108865);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

/* And of one that only somebody who verifies looks at. */
static void
test_a_record_that_inflates_to_very_much(void)
{
    static const uint8_t packed[62000];
    kit_record records[SMALL_COUNT + 1];
    small_records(records);
    records[SMALL_COUNT] = (kit_record){.name = PSD_LITERAL("m/extra/x"),
                                        .data = {packed, sizeof packed},
                                        .method = PSD_ZIP_DEFLATED,
                                        .size = 67108865};
    trial t;
    try_records(&t, records, SMALL_COUNT + 1, true);
    check_small(&t.o);
    unsigned calls = t.o.inflater.calls;
    const psd_zip_entry *entry = &t.o.archive.zip.entries[SMALL_COUNT];
    uint32_t crc;
    bool checked;
    for (unsigned again = 0; again < 2; again++) {
        t.o.status = again == 0 ? psd_archive_verify(&t.o.archive, &t.o.input, entry,
                                                     &checked, &t.o.err)
                                : psd_archive_crc32(&t.o.archive, &t.o.input, entry,
                                                    &crc, &t.o.err);
        CHECK(says(&t.o, PSD_LIMIT,
                   "a deflated record is too large for a file of this size"));
        CHECK(ABOUT_ENTRY(&t.o, "m/extra/x"));
        CHECK_UINT(t.o.err.found, 67108865);
    }
    CHECK_UINT(t.o.inflater.calls, calls);
    end_trial(&t);
}

/* Without a CRC a deflated record is inflated all the same, for damage shows there. */
static void
test_verifying_a_deflated_record_without_crc(void)
{
    trial t;
    bool checked;
    try_deflated(&t, 0);
    CHECK(t.o.status == PSD_OK);
    const psd_zip_entry *entry = psd_archive_storage_entry(&t.o.archive, 0);
    unsigned calls = t.o.inflater.calls;
    CHECK(psd_archive_verify(&t.o.archive, &t.o.input, entry, &checked, &t.o.err) ==
          PSD_OK);
    CHECK(!checked);
    CHECK_UINT(t.o.inflater.calls, calls + 1);
    t.bytes.data[entry->header_offset + 30 + 8] = 7;
    CHECK(psd_archive_verify(&t.o.archive, &t.o.input, entry, &checked, &t.o.err) ==
          PSD_INFLATE);
    end_trial(&t);
}

/* ---------------------------------------------------------------- checksums */

static void
test_verifying(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    trial t;
    try_records(&t, records, SMALL_COUNT, true);
    bool checked;
    for (uint32_t i = 0; i < t.o.archive.zip.count; i++) {
        const psd_zip_entry *entry = &t.o.archive.zip.entries[i];
        uint32_t crc;
        CHECK(psd_archive_verify(&t.o.archive, &t.o.input, entry, &checked, &t.o.err) ==
              PSD_OK);
        CHECK(checked);
        CHECK(psd_archive_crc32(&t.o.archive, &t.o.input, entry, &crc, &t.o.err) ==
              PSD_OK);
        CHECK_UINT(crc, psd_crc32(0, records[i].data.data, records[i].data.size));
    }
    /* One bit of a storage. */
    const psd_zip_entry *entry = psd_archive_storage_entry(&t.o.archive, 1);
    uint64_t offset = entry->header_offset + 30 + entry->name.size;
    t.bytes.data[offset + 2] ^= 0x20;
    t.o.status =
        psd_archive_verify(&t.o.archive, &t.o.input, entry, &checked, &t.o.err);
    CHECK(says(&t.o, PSD_CRC, "a record's bytes do not match their checksum"));
    CHECK(ABOUT_ENTRY(&t.o, "m/data/1"));
    CHECK_UINT(t.o.err.offset, offset);
    CHECK(t.o.err.has_numbers);
    CHECK_UINT(t.o.err.found, psd_crc32(0, (const uint8_t *)"abC", 3));
    CHECK_UINT(t.o.err.expected, psd_crc32(0, (const uint8_t *)"abc", 3));
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&t.o.heap));
    psd_span bytes;
    CHECK(storage_bytes(&t.o, 1, &arena, &bytes) == PSD_CRC);
    psd_arena_clear(&arena);
    end_trial(&t);
}

static bool
read_bytes(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    memcpy(into, (const uint8_t *)ctx + offset, size);
    return true;
}

/* What is not at hand is fetched into memory, which may be wanting. */
static void
test_verifying_from_afar(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    trial t;
    try_records(&t, records, SMALL_COUNT, true);
    psd_input afar = {.size = t.o.input.size, .read = read_bytes, .ctx = t.bytes.data};
    const psd_zip_entry *entry = psd_archive_storage_entry(&t.o.archive, 1);
    bool checked;
    CHECK(psd_archive_verify(&t.o.archive, &afar, entry, &checked, &t.o.err) == PSD_OK);
    CHECK(checked);
    t.o.heap.fail_at = t.o.heap.requests + 1;
    CHECK(psd_archive_verify(&t.o.archive, &afar, entry, &checked, &t.o.err) ==
          PSD_NO_MEMORY);
    t.bytes.data[entry->header_offset + 30 + entry->name.size + 2] ^= 1;
    CHECK(psd_archive_verify(&t.o.archive, &afar, entry, &checked, &t.o.err) ==
          PSD_CRC);
    end_trial(&t);
}

/* 0 on a record that is not empty says that nothing was computed. */
static void
test_a_checksum_of_zero(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
    for (size_t i = 0; i < SMALL_COUNT; i++) {
        set_crc(&a, records, i, 0);
    }
    opening o;
    open_bytes(&o, psd_buffer_span(&a.bytes));
    run_archive(&o);
    check_small(&o);
    bool checked;
    CHECK(psd_archive_verify(&o.archive, &o.input, &o.archive.zip.entries[2], &checked,
                             &o.err) == PSD_OK);
    CHECK(!checked);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

static void
test_damage_in_data_pkl(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
    a.bytes.data[30 + 10 + 3] ^= 1;
    opening o;
    open_bytes(&o, psd_buffer_span(&a.bytes));
    CHECK(says(&o, PSD_CRC, "a record's bytes do not match their checksum"));
    CHECK(ABOUT_ENTRY(&o, "m/data.pkl"));
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

/* ---------------------------------------------------------------- which archive it is */

static psd_status
kind_of(kit_record *records, size_t count, psd_archive_kind *kind, const char *prefix)
{
    trial t;
    try_records(&t, records, count, false);
    psd_status status = t.o.status;
    *kind = t.o.archive.kind;
    if (status == PSD_OK) {
        CHECK(about(t.o.archive.prefix.data, t.o.archive.prefix.size, prefix));
        run_archive(&t.o);
        /* Packages and exports hold several pickles, or none. */
        bool runs = *kind == PSD_ARCHIVE_CHECKPOINT ||
                    (*kind == PSD_ARCHIVE_SCRIPT && count > SMALL_COUNT);
        CHECK(t.o.status == (runs ? PSD_OK : PSD_KIND));
    }
    end_trial(&t);
    return status;
}

static void
test_kinds(void)
{
    static const struct {
        const char *extra;
        psd_archive_kind kind;
    } rows[] = {
        {"m/version", PSD_ARCHIVE_CHECKPOINT},
        {"m/.data/serialization_id", PSD_ARCHIVE_CHECKPOINT},
        {"m/constants.pkl", PSD_ARCHIVE_SCRIPT},
        {"m/archive_format", PSD_ARCHIVE_EXPORT},
        {"m/.data/extern_modules", PSD_ARCHIVE_PACKAGE},
        {"constants.pkl", PSD_ARCHIVE_CHECKPOINT}, /* in another folder */
        {"other/constants.pkl", PSD_ARCHIVE_CHECKPOINT},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        kit_record records[SMALL_COUNT + 1];
        psd_archive_kind kind;
        small_records(records);
        records[SMALL_COUNT] = record(rows[i].extra, PSD_LITERAL("x"));
        CHECK(kind_of(records, SMALL_COUNT + 1, &kind, "m/") == PSD_OK);
        CHECK(kind == rows[i].kind);
    }
}

static void
test_kinds_without_data_pkl(void)
{
    psd_archive_kind kind;
    kit_record package[] = {record("p/a.py", PSD_LITERAL("")),
                            record("p/.data/extern_modules", PSD_LITERAL("x"))};
    CHECK(kind_of(package, 2, &kind, "p/") == PSD_OK);
    CHECK(kind == PSD_ARCHIVE_PACKAGE);
    kit_record script[] = {record("s/constants.pkl", PSD_LITERAL("x"))};
    CHECK(kind_of(script, 1, &kind, "s/") == PSD_OK);
    CHECK(kind == PSD_ARCHIVE_SCRIPT);
    kit_record export[] = {record("e/archive_format", PSD_LITERAL("pt2"))};
    CHECK(kind_of(export, 1, &kind, "e/") == PSD_OK);
    CHECK(kind == PSD_ARCHIVE_EXPORT);
}

static void
test_no_checkpoint_at_all(void)
{
    static const struct {
        const char *name;
        psd_status status;
        const char *sentence;
    } rows[] = {
        {"word/document.xml", PSD_NO_PICKLE, "a zip archive without data.pkl"},
        {"document.xml", PSD_NO_PICKLE, "a zip archive without data.pkl"},
        {"m/mydata.pkl", PSD_NO_PICKLE, "a zip archive without data.pkl"},
        {"m/byteorder", PSD_INTERRUPTED,
         "the archive has no data.pkl: its saving was interrupted"},
        {"m/version", PSD_INTERRUPTED,
         "the archive has no data.pkl: its saving was interrupted"},
        {"m/data/0", PSD_INTERRUPTED,
         "the archive has no data.pkl: its saving was interrupted"},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        kit_record records[] = {record(rows[i].name, PSD_LITERAL("x"))};
        trial t;
        try_records(&t, records, 1, false);
        CHECK(says(&t.o, rows[i].status, rows[i].sentence));
        end_trial(&t);
    }
}

/* ---------------------------------------------------------------- top folders */

static psd_status
with_name(const char *pickle, const char *extra, const char *prefix)
{
    kit_record records[] = {record(extra, PSD_LITERAL(".")),
                            record(pickle, PSD_LITERAL("N."))};
    psd_archive_kind kind;
    return kind_of(records, 2, &kind, prefix);
}

static void
test_top_folders(void)
{
    CHECK(with_name("data.pkl", "x", "") == PSD_OK);
    CHECK(with_name("a/data.pkl", "x", "a/") == PSD_OK);
    CHECK(with_name("a/b c/data.pkl", "x", "a/b c/") == PSD_OK);
    CHECK(with_name("A/DATA.PKL", "x", "A/") == PSD_OK); /* as torch looks it up */
    CHECK(with_name("a\\data.pkl", "x", "a\\") == PSD_OK);
    CHECK(with_name("./data.pkl", "x", "./") == PSD_OK);
    /* The shallowest counts, in whatever order they come. */
    CHECK(with_name("a/data.pkl", "a/b/data.pkl", "a/") == PSD_OK);
    CHECK(with_name("a/data.pkl", "c/b/data.pkl", "a/") == PSD_OK);
    CHECK(with_name("data.pkl", "a/data.pkl", "") == PSD_OK);
    CHECK(with_name("a/data.pkl", "a/mydata.pkl", "a/") == PSD_OK);
}

static void
test_two_top_folders(void)
{
    static const char *const names[][3] = {
        {"a/data.pkl", "b/data.pkl", "x"},
        {"a/data.pkl", "b/c/data.pkl", "b/data.pkl"},
        {"b/c/data.pkl", "a/data.pkl", "b/data.pkl"},
        {"a/data.pkl", "b\\data.pkl", "x"},
    };
    for (size_t i = 0; i < LENGTH(names); i++) {
        kit_record records[3];
        for (unsigned k = 0; k < 3; k++) {
            records[k] = record(names[i][k], PSD_LITERAL("N."));
        }
        trial t;
        try_records(&t, records, 3, false);
        CHECK(says(&t.o, PSD_DUPLICATE,
                   "two checkpoints in one archive, under two top folders"));
        end_trial(&t);
    }
    /* Two deep ones and one above them are told apart. */
    kit_record records[] = {record("a/x/data.pkl", PSD_LITERAL("N.")),
                            record("b/x/data.pkl", PSD_LITERAL("N.")),
                            record("c/data.pkl", PSD_LITERAL("N."))};
    psd_archive_kind kind;
    CHECK(kind_of(records, 3, &kind, "c/") == PSD_OK);
}

static void
test_finding_records(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    trial t;
    try_records(&t, records, SMALL_COUNT, false);
    psd_archive *a = &t.o.archive;
    CHECK(psd_archive_find(a, PSD_LITERAL("data/0")) == &a->zip.entries[2]);
    CHECK(psd_archive_find(a, PSD_LITERAL("DATA/0")) == &a->zip.entries[2]);
    CHECK(psd_archive_find(a, PSD_LITERAL("data/2")) == NULL);
    CHECK(psd_archive_find(a, PSD_LITERAL("m/data/0")) == NULL);
    CHECK(psd_archive_find(a, PSD_LITERAL("")) == NULL);
    static uint8_t name[5000];
    for (size_t size = 2040; size < 2060; size++) {
        CHECK(psd_archive_find(a, (psd_span){name, size}) == NULL);
    }
    CHECK(psd_archive_find(a, (psd_span){name, sizeof name}) == NULL);
    end_trial(&t);
}

/* Names are joined in a room of 2 KiB; a folder may be longer than that by itself. */
static void
test_long_names(void)
{
    static char names[4][4096];
    static const int sizes[] = {2046, 2047, 1000, 3000};
    for (unsigned i = 0; i < 4; i++) {
        (void)snprintf(names[i], sizeof names[i], "m/%0*u", sizes[i], i);
    }
    kit_record records[] = {
        record("m/data.pkl", PSD_LITERAL("N.")), record(names[0], PSD_LITERAL("x")),
        record(names[1], PSD_LITERAL("x")),      record(names[2], PSD_LITERAL("x")),
        record(names[3], PSD_LITERAL("x")),
    };
    trial t;
    try_records(&t, records, LENGTH(records), true);
    CHECK(t.o.status == PSD_OK);
    for (unsigned i = 0; i < 4; i++) {
        const psd_zip_entry *entry =
            psd_archive_find(&t.o.archive, kit_text(names[i] + 2));
        CHECK(entry == (i == 0 || i == 2 ? &t.o.archive.zip.entries[i + 1] : NULL));
    }
    end_trial(&t);
    (void)snprintf(names[3], sizeof names[3], "%03000u/data.pkl", 7u);
    kit_record deep[] = {record(names[3], PSD_LITERAL(SMALL_PROGRAM))};
    try_records(&t, deep, 1, true);
    /* torch's own room for a name is smaller still: not even the pickle is found. */
    CHECK(says(&t.o, PSD_KIND,
               "an archive without a pickle that is to be run by itself"));
    CHECK_UINT(t.o.archive.prefix.size, 3001);
    end_trial(&t);
}

/* ---------------------------------------------------------------- byte order */

static void
test_byte_order(void)
{
    static const struct {
        const char *text;
        psd_status status;
        bool big;
    } rows[] = {
        {"little", PSD_OK, false},          {"big", PSD_OK, true},
        {"", PSD_BYTEORDER, false},         {"LITTLE", PSD_BYTEORDER, false},
        {"little\n", PSD_BYTEORDER, false}, {"bi", PSD_BYTEORDER, false},
        {"bigger", PSD_BYTEORDER, false},   {"middle-endian", PSD_BYTEORDER, false},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        kit_record records[SMALL_COUNT];
        trial t;
        small_records(records);
        records[1].data = kit_text(rows[i].text);
        try_records(&t, records, SMALL_COUNT, false);
        CHECK(t.o.status == rows[i].status);
        CHECK(t.o.archive.has_byteorder);
        if (t.o.status == PSD_OK) {
            CHECK(t.o.archive.big_endian == rows[i].big);
        }
        else {
            CHECK(says(&t.o, PSD_BYTEORDER,
                       "the byteorder record says neither little nor big"));
            CHECK(ABOUT_ENTRY(&t.o, "m/byteorder"));
        }
        end_trial(&t);
    }
}

static void
test_no_byte_order(void)
{
    kit_record records[SMALL_COUNT];
    trial t;
    small_records(records);
    records[1].name = kit_text("m/order");
    try_records(&t, records, SMALL_COUNT, true);
    CHECK(t.o.status == PSD_OK);
    CHECK(!t.o.archive.has_byteorder && !t.o.archive.big_endian);
    end_trial(&t);
}

/* ---------------------------------------------------------------- a pickle of one's choice */

/* Open and run the pickle of this name, below the top folder. */
static void
try_pickle(trial *t, kit_record *records, size_t count, psd_span name)
{
    kit_archive a = kit_build(check_alloc(&kit_heap), records, count, false);
    t->bytes = check_guard(a.bytes.data, a.bytes.size);
    psd_buffer_clear(&a.bytes);
    memset(&t->o, 0, sizeof t->o);
    t->o.input = (psd_input){.data = t->bytes.data, .size = t->bytes.size};
    psd_options options = {
        .alloc = check_alloc(&t->o.heap),
        .limits = psd_default_limits(),
        .key = KIT_KEY,
        .record = name,
        .inflate = inflate_stored,
        .inflate_ctx = &t->o.inflater,
    };
    psd_archive_init(&t->o.archive, &options);
    t->o.status = psd_archive_open(&t->o.archive, &t->o.input, &t->o.err);
    run_archive(&t->o);
}

#define ONE_BYTE(key) V2(STORAGE("ByteStorage", key, "1") I("0") "(I1\nt(I1\nt") "."

/* Each kind keeps its storages in a place of its own. */
static void
test_pickles_of_ones_choice(void)
{
    static const struct {
        const char *kind, *pickle, *storage;
    } rows[] = {
        {"m/.data/extern_modules", "a/b.pkl", "m/.data/7.storage"},
        {"m/constants.pkl", "constants.pkl", "m/constants/7"},
        {"m/constants.pkl", "data.pkl", "m/data/7"},
        {"m/version", "extra/x.pkl", "m/data/7"},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        char name[64];
        trial t;
        (void)snprintf(name, sizeof name, "m/%s", rows[i].pickle);
        kit_record records[] = {
            record(rows[i].storage, PSD_LITERAL("x")),
            record(name, PSD_LITERAL(ONE_BYTE("7"))),
            record(strcmp(name, rows[i].kind) == 0 ? "m/other" : rows[i].kind,
                   PSD_LITERAL("x")),
            record(strcmp(name, "m/data.pkl") == 0 ? "m/another" : "m/data.pkl",
                   PSD_LITERAL("N.")),
        };
        try_pickle(&t, records, LENGTH(records), kit_text(rows[i].pickle));
        CHECK(t.o.status == PSD_OK);
        CHECK_UINT(t.o.archive.model.tensor_count, 1);
        CHECK(about(t.o.archive.pickle_name.data, t.o.archive.pickle_name.size, name));
        const psd_zip_entry *entry = psd_archive_storage_entry(&t.o.archive, 0);
        CHECK(entry != NULL && psd_span_equal(entry->name, kit_text(rows[i].storage)));
        check_promises(&t.o);
        end_trial(&t);
    }
}

static void
test_pickles_that_are_not_there(void)
{
    kit_record records[SMALL_COUNT];
    trial t;
    small_records(records);
    try_pickle(&t, records, SMALL_COUNT, PSD_LITERAL("other.pkl"));
    CHECK(says(&t.o, PSD_KIND,
               "an archive without a pickle that is to be run by itself"));
    end_trial(&t);
    /* Looked up by name alone, wherever that would lead. */
    try_pickle(&t, records, SMALL_COUNT, PSD_LITERAL("../m/data.pkl"));
    CHECK(t.o.status == PSD_KIND);
    end_trial(&t);
}

/* ---------------------------------------------------------------- storages and records */

static void
test_a_storage_without_record(void)
{
    kit_record records[SMALL_COUNT];
    trial t;
    small_records(records);
    records[3].name = kit_text("m/data/2");
    try_records(&t, records, SMALL_COUNT, true);
    CHECK(says(&t.o, PSD_STORAGE, "a storage has no record in the archive"));
    CHECK(ABOUT_SUBJECT(&t.o, "1"));
    CHECK_UINT(t.o.err.offset,
               t.o.archive.program_offset + t.o.archive.model.storages[1].position);
    end_trial(&t);
}

static void
test_a_record_of_another_size(void)
{
    static const char *const texts[] = {"", "ab", "abcd"};
    for (size_t i = 0; i < LENGTH(texts); i++) {
        kit_record records[SMALL_COUNT];
        trial t;
        small_records(records);
        records[3].data = kit_text(texts[i]);
        try_records(&t, records, SMALL_COUNT, true);
        CHECK(says(&t.o, PSD_STORAGE,
                   "a storage's record has not the size that the pickle tells"));
        CHECK(ABOUT_ENTRY(&t.o, "m/data/1"));
        CHECK_UINT(t.o.err.found, strlen(texts[i]));
        CHECK_UINT(t.o.err.expected, 3);
        CHECK_UINT(t.o.err.offset, records[3].header_offset);
        end_trial(&t);
    }
}

/*
 * A key that ends with a slash makes its record look like a folder.  That is no
 * reason to believe a stored record of two different sizes, or a storage would
 * reach beyond the file.
 */
static void
test_a_storage_that_looks_like_a_folder(void)
{
    kit_record records[] = {
        record("m/data.pkl", PSD_LITERAL(V2(STORAGE("ByteStorage", "0/", "100000")
                                                I("0") "(I100000\nt(I1\nt") ".")),
        record("m/data/0/", PSD_LITERAL("abcd")),
    };
    records[1].size = 100000;
    trial t;
    try_records(&t, records, 2, true);
    CHECK(says(&t.o, PSD_ZIP, "a stored record has two different sizes"));
    CHECK(ABOUT_ENTRY(&t.o, "m/data/0/"));
    end_trial(&t);
    records[0].data =
        PSD_LITERAL(V2(STORAGE("ByteStorage", "0/", "4") I("0") "(I4\nt(I1\nt") ".");
    records[1].size = 0;
    try_records(&t, records, 2, true);
    CHECK(t.o.status == PSD_OK);
    check_promises(&t.o);
    end_trial(&t);
}

static void
test_an_empty_storage(void)
{
    kit_record records[] = {
        record("m/data.pkl", PSD_LITERAL(V2(STORAGE("FloatStorage", "0", "0")
                                                I("7") "(I0\nI5\nt(I5\nI1\nt") ".")),
        record("m/data/0", PSD_LITERAL("")),
    };
    trial t;
    try_records(&t, records, 2, true);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.archive.model.tensors[0].numel, 0);
    end_trial(&t);
}

/* What is wrong in the pickle is told with its record and its place in the file. */
static void
test_faults_of_the_pickle(void)
{
    static const struct {
        psd_span program;
        psd_status status;
        unsigned at;
    } rows[] = {
        {PSD_LITERAL("K\x01K"), PSD_PICKLE_END, 2},
        {PSD_LITERAL("K\x01"), PSD_PICKLE_END, 2},
        {PSD_LITERAL("\x86."), PSD_PICKLE, 0},
        {PSD_LITERAL("N\x97."), PSD_OPCODE, 1},
        {PSD_LITERAL("NQ."), PSD_STORAGE, 1},
        {PSD_LITERAL("ctorch._utils\n_rebuild_tensor\n)R."), PSD_TENSOR, 31},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        kit_record records[SMALL_COUNT];
        trial t;
        small_records(records);
        records[0].data = rows[i].program;
        try_records(&t, records, SMALL_COUNT, true);
        CHECK(t.o.status == rows[i].status);
        CHECK(ABOUT_ENTRY(&t.o, "m/data.pkl"));
        CHECK_UINT(t.o.err.offset, 30 + 10 + rows[i].at);
        end_trial(&t);
    }
}

static void
test_a_pickle_beyond_the_limit(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&kit_heap), records, SMALL_COUNT, false);
    psd_limits limits = psd_default_limits();
    limits.pickle_size = records[0].data.size - 1;
    opening o;
    open_input(&o, (psd_input){.data = a.bytes.data, .size = a.bytes.size}, &limits, 0);
    CHECK(says(&o, PSD_LIMIT, "a record is larger than the limit"));
    CHECK(ABOUT_ENTRY(&o, "m/data.pkl"));
    CHECK_UINT(o.err.found, records[0].data.size);
    CHECK_UINT(o.err.expected, limits.pickle_size);
    close_archive(&o);
    limits.pickle_size++;
    open_input(&o, (psd_input){.data = a.bytes.data, .size = a.bytes.size}, &limits, 0);
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

/* Directory and pickle are judged by their copies: the file may change meanwhile. */
static void
test_a_file_that_changes_after_opening(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    trial t;
    try_records(&t, records, SMALL_COUNT, false);
    memset(t.bytes.data, 0xee, t.bytes.size);
    run_archive(&t.o);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.archive.model.tensor_count, 2);
    uint64_t offset;
    const psd_zip_entry *entry = psd_archive_storage_entry(&t.o.archive, 0);
    CHECK(psd_zip_locate(&t.o.input, entry, &offset, &t.o.err) == PSD_ZIP);
    end_trial(&t);
}

int
main(void)
{
    RUN(test_a_small_checkpoint);
    RUN(test_order_and_deflated_records);
    RUN(test_deflated_records);
    RUN(test_storages_that_inflate_to_very_much);
    RUN(test_a_pickle_that_inflates_to_very_much);
    RUN(test_a_record_that_inflates_to_very_much);
    RUN(test_verifying_a_deflated_record_without_crc);
    RUN(test_verifying);
    RUN(test_verifying_from_afar);
    RUN(test_a_checksum_of_zero);
    RUN(test_damage_in_data_pkl);
    RUN(test_kinds);
    RUN(test_kinds_without_data_pkl);
    RUN(test_no_checkpoint_at_all);
    RUN(test_top_folders);
    RUN(test_two_top_folders);
    RUN(test_finding_records);
    RUN(test_long_names);
    RUN(test_byte_order);
    RUN(test_no_byte_order);
    RUN(test_pickles_of_ones_choice);
    RUN(test_pickles_that_are_not_there);
    RUN(test_a_storage_without_record);
    RUN(test_a_record_of_another_size);
    RUN(test_a_storage_that_looks_like_a_folder);
    RUN(test_an_empty_storage);
    RUN(test_faults_of_the_pickle);
    RUN(test_a_pickle_beyond_the_limit);
    RUN(test_a_file_that_changes_after_opening);
    CHECK_UINT(kit_heap.live, 0);
    return check_report();
}
