/* SPDX-License-Identifier: Apache-2.0
 *
 * No bytes whatever make the reader look outside of them or believe them too
 * far; a source that fails and a heap that is empty are told, and nothing leaks.
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

/* An input that is fetched piece by piece, and may fail at the n-th fetch. */
typedef struct {
    psd_span bytes;
    unsigned long fetches, fail_at;
} remote;

static bool
fetch(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    remote *r = ctx;
    if (++r->fetches == r->fail_at) {
        return false;
    }
    CHECK(size > 0 && psd_fits(offset, size, r->bytes.size));
    memcpy(into, r->bytes.data + offset, size);
    return true;
}

static void
test_fetched(void)
{
    kit_archive a = three(true);
    remote source = {psd_buffer_span(&a.bytes), 0, 0};
    psd_input input = {.size = a.bytes.size, .read = fetch, .ctx = &source};
    kit_read r;
    uint64_t offset;
    kit_open_input(&r, input, 0);
    CHECK_UINT(r.status, PSD_OK);
    unsigned long fetches = source.fetches;
    CHECK(fetches <= 4); /* end record, locator, zip64 record, directory */
    CHECK_UINT(psd_zip_locate(&r.input, &r.zip.entries[0], &offset, &r.err), PSD_OK);
    CHECK_UINT(source.fetches, fetches + 1);
    source.fail_at = source.fetches + 1;
    CHECK_UINT(psd_zip_locate(&r.input, &r.zip.entries[0], &offset, &r.err), PSD_INPUT);
    kit_close(&r);
    for (unsigned long n = 1; n <= fetches; n++) {
        source.fetches = 0;
        source.fail_at = n;
        kit_open_input(&r, input, 0);
        CHECK_UINT(r.status, PSD_INPUT);
        kit_close(&r);
    }
    psd_buffer_clear(&a.bytes);
}

/* The directory and every record's header are read; the n-th fetch fails. */
static psd_status
fetched(psd_span bytes, unsigned long fail_at, unsigned long *fetches)
{
    remote source = {bytes, 0, fail_at};
    kit_read r;
    kit_open_input(&r, (psd_input){.size = bytes.size, .read = fetch, .ctx = &source},
                   0);
    psd_status status = r.status;
    for (uint32_t i = 0; status == PSD_OK && i < r.zip.count; i++) {
        uint64_t offset;
        status = psd_zip_locate(&r.input, &r.zip.entries[i], &offset, &r.err);
    }
    CHECK(status != PSD_INPUT ||
          (strcmp(r.err.sentence, "the source could not be read") == 0 &&
           r.err.offset < bytes.size));
    kit_close(&r);
    *fetches = source.fetches;
    return status;
}

/* Whichever fails, it is told, and none is asked for after it. */
static void
check_each_fetch(psd_span bytes, psd_status whole, unsigned long expected)
{
    unsigned long fetches, done;
    CHECK_UINT(fetched(bytes, 0, &fetches), whole);
    CHECK_UINT(fetches, expected);
    for (unsigned long n = 1; n <= fetches; n++) {
        CHECK_UINT(fetched(bytes, n, &done), PSD_INPUT);
        CHECK_UINT(done, n);
    }
}

static void
test_every_failing_fetch(void)
{
    check_each_fetch(kit_text("a text of more than twenty-two bytes"), PSD_NOT_ZIP, 3);
    /* A prefix that the offsets do not count, and a header of many windows. */
    uint8_t *extra = calloc(1, 1000);
    kit_record records[3];
    kit_three(records);
    psd_store_le16(extra, 0x4246);
    psd_store_le16(extra + 2, 976);
    psd_store_le16(extra + 980, 1); /* zip64, in a window of its own */
    psd_store_le16(extra + 982, 16);
    psd_store_le64(extra + 984, records[1].data.size);
    psd_store_le64(extra + 992, records[1].data.size);
    records[1].local_extra = (psd_span){extra, 1000};
    records[1].deferred = true;
    records[1].local_size = records[1].local_stored = UINT32_MAX;
    records[1].local_crc32 = psd_crc32(0, records[1].data.data, 33);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_fill(&b, '#', 700);
    for (int i = 0; i < 3; i++) {
        kit_local(&b, &records[i]);
        records[i].header_offset -= 700;
    }
    size_t directory = b.size;
    for (int i = 0; i < 3; i++) {
        kit_central(&b, &records[i]);
    }
    kit_end(&b, 3, b.size - directory, directory - 700, kit_text(""));
    check_each_fetch(psd_buffer_span(&b), PSD_OK, 10);
    psd_buffer_clear(&b);
    free(extra);
}

/* A zip64 field whose body would lie in what comes next. */
static void
test_an_extra_field_that_reaches_on(void)
{
    static const uint8_t head[] = {1, 0, 16, 0};
    kit_record records[3];
    kit_three(records);
    records[2].local_extra = (psd_span){head, sizeof head};
    records[2].deferred = true;
    records[2].local_size = records[2].local_stored = UINT32_MAX;
    kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
    psd_error err;
    size_t local = records[2].header_offset;
    CHECK_UINT(kit_patched(&a, local + 28, 2, 20, &err), PSD_OVERLAP);
    CHECK(strcmp(err.sentence, "a record's header reaches into the next one") == 0);
    CHECK_UINT(err.offset, a.directory);
    CHECK(psd_span_equal((psd_span){err.entry, err.entry_size}, records[2].name));
    psd_buffer_clear(&a.bytes);
}

/* Names and extra fields longer than any window. */
static void
test_long_header(void)
{
    uint8_t *name = malloc(65535), *extra = calloc(1, 65535);
    memset(name, 'n', 65535);
    kit_record records[3];
    kit_three(records);
    records[1].name = (psd_span){name, 65535};
    records[1].local_extra = (psd_span){extra, 65535};
    for (int form = 0; form < 2; form++) {
        if (form == 1) { /* one field that fills the room */
            psd_store_le16(extra, 0x4246);
            psd_store_le16(extra + 2, 65531);
        }
        kit_archive a = kit_build(check_alloc(&heap), records, 3, false);
        CHECK_UINT(kit_status(psd_buffer_span(&a.bytes), NULL), PSD_OK);
        size_t local = records[1].header_offset + 30;
        CHECK_UINT(kit_patched(&a, local + 65534, 1, 'm', NULL), PSD_ZIP);
        CHECK_UINT(kit_patched(&a, local + 65535 + 2, 2, 65532, NULL), PSD_ZIP);
        psd_buffer_clear(&a.bytes);
    }
    free(name);
    free(extra);
}

/* ------------------------------------------------------------------ hostile bytes */

static void
test_cut(void)
{
    for (int zip64 = 0; zip64 < 2; zip64++) {
        kit_archive a = three(zip64 == 1);
        for (size_t size = 0; size < a.bytes.size; size++) {
            check_guarded g = check_guard(a.bytes.data, size);
            CHECK_UINT(kit_status((psd_span){g.data, size}, NULL),
                       size == 0 ? PSD_NOT_ZIP : PSD_TRUNCATED);
            check_unguard(&g);
        }
        psd_buffer_clear(&a.bytes);
    }
    CHECK_UINT(kit_status(kit_text("PL"), NULL), PSD_NOT_ZIP);
    CHECK_UINT(kit_status(kit_text("a text of more than twenty-two bytes"), NULL),
               PSD_NOT_ZIP);
}

/* Whatever is accepted lies within the file, apart from all else. */
static void
check_sound(psd_span bytes)
{
    kit_read r;
    kit_open(&r, bytes);
    uint64_t last = 0;
    for (uint32_t i = 0; r.status == PSD_OK && i < r.zip.count; i++) {
        const psd_zip_entry *e = &r.zip.entries[i];
        uint64_t offset;
        if (psd_zip_locate(&r.input, e, &offset, &r.err) == PSD_OK) {
            CHECK(offset >= last && e->limit <= r.zip.directory_offset &&
                  psd_fits(offset, e->stored_size, e->limit) &&
                  psd_fits(r.zip.directory_offset, r.zip.directory_size, bytes.size));
            last = offset + e->stored_size;
        }
        CHECK(psd_zip_find(&r.zip, e->name) == e);
    }
    kit_close(&r);
}

/* Every byte changed to every other value, then pairs of bytes. */
static void
test_mutations(void)
{
    for (int zip64 = 0; zip64 < 2; zip64++) {
        kit_archive a = three(zip64 == 1);
        check_guarded g = check_guard(a.bytes.data, a.bytes.size);
        psd_span bytes = {g.data, a.bytes.size};
        for (size_t at = 0; at < bytes.size; at++) {
            uint8_t was = g.data[at];
            for (unsigned flip = 1; flip < 256; flip++) {
                g.data[at] = (uint8_t)(was ^ flip);
                check_sound(bytes);
            }
            g.data[at] = was;
        }
        uint64_t random = 88172645463325252u;
        for (int n = 0; n < 20000; n++) {
            size_t at[4];
            for (int k = 0; k < 4; k++) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                at[k] = (size_t)(random >> 20) % bytes.size;
                g.data[at[k]] = k % 2 == 0 ? 0xff : (uint8_t)random;
            }
            check_sound(bytes);
            for (int k = 0; k < 4; k++) {
                g.data[at[k]] = a.bytes.data[at[k]];
            }
        }
        check_unguard(&g);
        psd_buffer_clear(&a.bytes);
    }
}

static void
test_no_memory(void)
{
    /* A comment, for the search of the tail; an unordered directory, for the sort. */
    kit_record records[3];
    kit_three(records);
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    for (int i = 0; i < 3; i++) {
        kit_local(&b, &records[i]);
    }
    size_t directory = b.size;
    for (int i = 2; i >= 0; i--) {
        kit_central(&b, &records[i]);
    }
    kit_end(&b, 3, b.size - directory, directory, kit_text("comment"));
    psd_input input = {.data = b.data, .size = b.size};
    kit_read r;
    unsigned long n = 0;
    do {
        kit_open_input(&r, input, ++n);
        CHECK(r.status == PSD_NO_MEMORY || r.heap.requests < n);
        kit_close(&r);
    } while (r.status != PSD_OK);
    CHECK(n > 3);
    psd_buffer_clear(&b);

    /* Many entries, so that each array is asked for by itself. */
    enum { COUNT = 2000 };
    kit_record *many = calloc(COUNT, sizeof *many);
    char (*names)[16] = calloc(COUNT, sizeof *names);
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(names[i], sizeof names[i], "%d", i);
        many[i].name = kit_text(names[i]);
    }
    kit_archive a = kit_build(check_alloc(&heap), many, COUNT, false);
    for (n = 1, r.status = PSD_NO_MEMORY; r.status != PSD_OK; n++) {
        kit_open_input(&r, (psd_input){.data = a.bytes.data, .size = a.bytes.size}, n);
        CHECK(r.status == PSD_NO_MEMORY || r.heap.requests < n);
        kit_close(&r);
    }
    CHECK(n > 3);
    psd_buffer_clear(&a.bytes);
    free(names);
    free(many);
}

int
main(void)
{
    RUN(test_fetched);
    RUN(test_every_failing_fetch);
    RUN(test_an_extra_field_that_reaches_on);
    RUN(test_long_header);
    RUN(test_cut);
    RUN(test_mutations);
    RUN(test_no_memory);
    CHECK(heap.live == 0);
    return check_report();
}
