/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing: the bytes are the planned ones, the reader gets back what was
 * poured, and every field that may overflow does so at its own boundary.
 */
#include "zip_kit.h"

static check_heap heap;

/*
 * A sink that keeps what it is given, but for the zeros of one great payload,
 * of which it only remembers how many they were.
 */
typedef struct {
    psd_buffer bytes;
    uint64_t size;
    struct {
        uint64_t offset; /* in the file, of the first byte kept after zeros */
        size_t at;       /* in bytes */
    } parts[64];
    unsigned part_count;
    psd_span zeros;
    unsigned long writes, fail_at;
    bool after_zeros;
} keeper;

static bool
keep(void *ctx, const uint8_t *data, size_t size)
{
    keeper *k = ctx;
    CHECK(size > 0);
    if (++k->writes == k->fail_at) {
        return false;
    }
    bool zeros = k->zeros.data != NULL && data >= k->zeros.data &&
                 data < k->zeros.data + k->zeros.size;
    if (!zeros) {
        if (k->part_count == 0 || k->after_zeros) {
            k->parts[k->part_count].offset = k->size;
            k->parts[k->part_count++].at = k->bytes.size;
        }
        psd_put(&k->bytes, data, size);
    }
    k->after_zeros = zeros;
    k->size += size;
    return true;
}

static bool
fetch(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    const keeper *k = ctx;
    memset(into, 0, size);
    for (unsigned i = 0; i < k->part_count; i++) {
        size_t end = i + 1 < k->part_count ? k->parts[i + 1].at : k->bytes.size;
        for (size_t at = k->parts[i].at; at < end; at++) {
            uint64_t place = k->parts[i].offset + (at - k->parts[i].at);
            if (place >= offset && place - offset < size) {
                into[place - offset] = k->bytes.data[at];
            }
        }
    }
    return true;
}

static keeper
new_keeper(void)
{
    keeper k = {0};
    psd_buffer_init(&k.bytes, check_alloc(&heap));
    return k;
}

/* Write records, whose names and bytes are given, into `k`. */
static psd_status
write_all(psd_zip_plan *plan, const psd_span *names, const psd_span *data,
          uint32_t count, keeper *k, psd_error *err)
{
    psd_sink sink = {keep, k};
    psd_status status = PSD_OK;
    for (uint32_t i = 0; status == PSD_OK && i < count; i++) {
        status = psd_zip_plan_add(plan, names[i], data[i].size, err);
    }
    status = status == PSD_OK ? psd_zip_plan_close(plan, err) : status;
    for (uint32_t i = 0; status == PSD_OK && i < count; i++) {
        CHECK_UINT(k->size, plan->entries[i].header_offset);
        status = psd_zip_pour(plan, psd_payload_of(data[i]), sink, err);
    }
    status = status == PSD_OK ? psd_zip_pour_end(plan, sink, err) : status;
    if (status == PSD_OK) {
        CHECK_UINT(k->size, plan->total_size);
    }
    return status;
}

static void
check_read_back(const psd_zip_plan *plan, const psd_span *data, keeper *k)
{
    psd_input input = {.size = k->size, .read = fetch, .ctx = k};
    if (k->part_count == 1) {
        input = (psd_input){.data = k->bytes.data, .size = k->size};
    }
    kit_read r;
    kit_open_input(&r, input, 0);
    CHECK_UINT(r.status, PSD_OK);
    CHECK_UINT(r.zip.count, plan->count);
    for (uint32_t i = 0; i < r.zip.count; i++) {
        const psd_zip_entry *e = &r.zip.entries[i];
        const psd_zip_plan_entry *p = &plan->entries[i];
        uint64_t offset = 0;
        bool same = psd_zip_locate(&r.input, e, &offset, &r.err) == PSD_OK &&
                    psd_span_equal(e->name, p->name) && e->size == p->size &&
                    e->stored_size == p->size && e->header_offset == p->header_offset &&
                    e->crc32 == p->crc32 && e->method == PSD_ZIP_STORED &&
                    offset == p->data_offset && offset % PSD_ZIP_ALIGNMENT == 0 &&
                    e->flags == (p->size > 0 ? 0x0808 : 0x0800) &&
                    psd_zip_find(&r.zip, p->name) == e;
        CHECK(same);
        if (k->part_count == 1) {
            uint32_t crc = psd_crc32(0, data[i].data, data[i].size);
            CHECK_UINT(e->crc32, plan->checksum ? crc : 0);
            CHECK(psd_span_equal((psd_span){k->bytes.data + offset, data[i].size},
                                 data[i]));
        }
    }
    kit_close(&r);
}

static void
test_round_trip(void)
{
    enum { COUNT = 140 };
    static uint8_t bytes[3 << 20];
    static char names[COUNT][24];
    psd_span name[COUNT], data[COUNT];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * i >> 7);
    }
    for (int i = 0; i < COUNT; i++) { /* every padding comes up */
        (void)snprintf(names[i], sizeof names[i], "a/data/%d", i);
        name[i] = kit_text(names[i]);
        data[i] = (psd_span){bytes + i, i == 70 ? sizeof bytes - 70 : (size_t)(i * 5)};
    }
    for (int checksum = 0; checksum < 2; checksum++) {
        psd_zip_plan plan;
        psd_error err;
        keeper k = new_keeper();
        psd_zip_plan_init(&plan, check_alloc(&heap), checksum == 1);
        CHECK_UINT(write_all(&plan, name, data, COUNT, &k, &err), PSD_OK);
        check_read_back(&plan, data, &k);
        psd_zip_plan_clear(&plan);
        psd_buffer_clear(&k.bytes);
    }
}

/* The bytes of a small archive, one by one. */
static void
test_bytes(void)
{
    /* clang-format off */
    static const uint8_t expected[] = {
        'P', 'K', 3, 4, 20, 0, 0x08, 0x08, 0, 0, 0, 0, 0x21, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 31, 0,
        'a', '/', 'b', 0x46, 0x42, 27, 0,
        'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z',
        'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z', 'Z',
        '1', '2', '3', '4', '5', '6', '7', '8', '9',
        'P', 'K', 7, 8, 0x26, 0x39, 0xf4, 0xcb, 9, 0, 0, 0, 9, 0, 0, 0,
        'P', 'K', 3, 4, 20, 0, 0x00, 0x08, 0, 0, 0, 0, 0x21, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0,
        'e', 0x46, 0x42, 4, 0, 'Z', 'Z', 'Z', 'Z',
        'P', 'K', 1, 2, 20, 0, 20, 0, 0x08, 0x08, 0, 0, 0, 0, 0x21, 0,
        0x26, 0x39, 0xf4, 0xcb, 9, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'a', '/', 'b',
        'P', 'K', 1, 2, 20, 0, 20, 0, 0x00, 0x08, 0, 0, 0, 0, 0x21, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 89, 0, 0, 0, 'e',
        'P', 'K', 5, 6, 0, 0, 0, 0, 2, 0, 2, 0, 96, 0, 0, 0, 128, 0, 0, 0, 0, 0,
    };
    /* clang-format on */
    psd_span names[] = {kit_text("a/b"), kit_text("e")};
    psd_span data[] = {kit_text("123456789"), kit_text("")};
    psd_zip_plan plan;
    psd_error err;
    keeper k = new_keeper();
    psd_zip_plan_init(&plan, check_alloc(&heap), true);
    CHECK_UINT(write_all(&plan, names, data, 2, &k, &err), PSD_OK);
    CHECK_UINT(k.bytes.size, sizeof expected);
    for (size_t i = 0; i < sizeof expected && i < k.bytes.size; i++) {
        if (k.bytes.data[i] != expected[i]) {
            printf("  byte %zu\n", i);
            CHECK_UINT(k.bytes.data[i], expected[i]);
            break;
        }
    }
    psd_zip_plan_clear(&plan);
    psd_buffer_clear(&k.bytes);
}

/* 0xFFFE entries need no zip64 record, 0xFFFF do. */
static void
test_many(void)
{
    static const uint32_t counts[] = {65534, 65535, 70000};
    for (int n = 0; n < 3; n++) {
        uint32_t count = counts[n];
        char (*texts)[16] = calloc(count, sizeof *texts);
        psd_span *names = calloc(count, sizeof *names),
                 *data = calloc(count, sizeof *data);
        uint64_t directory = 0;
        for (uint32_t i = 0; i < count; i++) {
            (void)snprintf(texts[i], sizeof texts[i], "a/%u", (unsigned)i);
            names[i] = data[i] = kit_text(texts[i]);
            directory += 46 + names[i].size;
        }
        psd_zip_plan plan;
        psd_error err;
        keeper k = new_keeper();
        psd_zip_plan_init(&plan, check_alloc(&heap), true);
        CHECK_UINT(write_all(&plan, names, data, count, &k, &err), PSD_OK);
        CHECK_UINT(plan.total_size - plan.cursor - directory, n == 0 ? 22 : 22 + 76);
        CHECK_UINT(psd_load_le16(k.bytes.data + k.bytes.size - 12),
                   n == 0 ? 65534 : 65535);
        check_read_back(&plan, data, &k);
        psd_zip_plan_clear(&plan);
        psd_buffer_clear(&k.bytes);
        free(names);
        free(data);
        free(texts);
    }
}

/* Records on both sides of 2^32 - 1; 8 GiB that nobody has to hold. */
static void
test_huge(void)
{
#if SIZE_MAX > UINT32_MAX
    const size_t most = (size_t)UINT32_MAX + 2;
    void *map =
        mmap(NULL, most, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(map != MAP_FAILED);
    if (map == MAP_FAILED) {
        return;
    }
    psd_span names[] = {kit_text("a"), kit_text("b"), kit_text("c"), kit_text("d"),
                        kit_text("e")};
    psd_span data[] = {kit_text("first"),
                       {map, UINT32_MAX - 1},
                       {map, UINT32_MAX},
                       kit_text("small and far"),
                       kit_text("")};
    psd_zip_plan plan;
    psd_error err;
    keeper k = new_keeper();
    k.zeros = (psd_span){map, most};
    psd_zip_plan_init(&plan, check_alloc(&heap), false);
    CHECK_UINT(write_all(&plan, names, data, 5, &k, &err), PSD_OK);
    CHECK(!plan.entries[1].wide && plan.entries[2].wide && !plan.entries[3].wide);
    CHECK(plan.entries[2].header_offset > UINT32_MAX);
    uint64_t directory = 5 * 47 + (4 + 24) + (4 + 8) + (4 + 8);
    CHECK_UINT(plan.total_size, plan.cursor + directory + 76 + 22);
    check_read_back(&plan, data, &k);
    /* The wide record: a zip64 field of zeros before it, 64-bit sizes after it. */
    const uint8_t *local = k.bytes.data + k.parts[1].at + 16;
    CHECK_UINT(psd_load_le32(local), 0x04034b50);
    CHECK_UINT(psd_load_le16(local + 4), 45);
    CHECK_UINT(psd_load_le64(local + 18), (uint64_t)0);
    CHECK_UINT(psd_load_le32(local + 31), 1 | 16 << 16);
    CHECK_UINT(psd_load_le64(local + 35) | psd_load_le64(local + 43), 0);
    const uint8_t *descriptor = k.bytes.data + k.parts[2].at;
    CHECK_UINT(psd_load_le32(descriptor), 0x08074b50);
    CHECK_UINT(psd_load_le64(descriptor + 8), UINT32_MAX);
    CHECK_UINT(psd_load_le64(descriptor + 16), UINT32_MAX);
    CHECK_UINT(psd_load_le32(descriptor + 24), 0x04034b50);
    psd_zip_plan_clear(&plan);
    psd_buffer_clear(&k.bytes);
    munmap(map, most);
#endif
}

/* Any one wide record, or a far directory, brings the zip64 end record. */
static void
test_zip64_boundaries(void)
{
    static const struct {
        uint64_t size;
        bool zip64;
    } cases[] = {
        {UINT32_MAX - 64 - 16 - 1, false}, /* the directory at 0xFFFFFFFE */
        {UINT32_MAX - 64 - 16, true},      /* at 0xFFFFFFFF */
        {UINT32_MAX - 1, true},
        {UINT32_MAX, true},
    };
    for (size_t i = 0; i < 4; i++) {
        psd_zip_plan plan;
        psd_error err;
        psd_zip_plan_init(&plan, check_alloc(&heap), false);
        CHECK_UINT(psd_zip_plan_add(&plan, kit_text("a"), cases[i].size, &err), PSD_OK);
        CHECK_UINT(psd_zip_plan_close(&plan, &err), PSD_OK);
        CHECK_UINT(plan.entries[0].data_offset, 64);
        uint64_t directory = 47 + (cases[i].size == UINT32_MAX ? 20 : 0);
        CHECK_UINT(plan.total_size,
                   plan.cursor + directory + 22 + (cases[i].zip64 ? 76 : 0));
        psd_zip_plan_clear(&plan);
    }
}

static void
test_arguments(void)
{
    psd_zip_plan plan;
    psd_error err;
    keeper k = new_keeper();
    psd_sink sink = {keep, &k};
    uint8_t *name = calloc(1, 65536);
    psd_zip_plan_init(&plan, check_alloc(&heap), true);
    CHECK_UINT(psd_zip_plan_add(&plan, (psd_span){name, 65536}, 0, &err), PSD_ARGUMENT);
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"), UINT64_MAX, &err), PSD_ARGUMENT);
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"), UINT64_MAX - 80, &err),
               PSD_ARGUMENT);
    CHECK_UINT(plan.count, 0);
    CHECK_UINT(plan.cursor, 0);
    CHECK_UINT(psd_zip_plan_add(&plan, (psd_span){name, 65535}, 3, &err), PSD_OK);
    CHECK_UINT(psd_zip_pour(&plan, psd_payload_of(kit_text("abc")), sink, &err),
               PSD_ARGUMENT);
    CHECK_UINT(psd_zip_pour_end(&plan, sink, &err), PSD_ARGUMENT);
    CHECK_UINT(psd_zip_plan_close(&plan, &err), PSD_OK);
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("y"), 1, &err), PSD_ARGUMENT);
    CHECK_UINT(psd_zip_pour_end(&plan, sink, &err), PSD_ARGUMENT);
    CHECK_UINT(psd_zip_pour(&plan, psd_payload_of(kit_text("ab")), sink, &err),
               PSD_ARGUMENT);
    CHECK_UINT(err.found, 2);
    CHECK_UINT(err.expected, 3);
    CHECK_UINT(k.writes, 0);
    CHECK_UINT(psd_zip_pour(&plan, psd_payload_of(kit_text("abc")), sink, &err),
               PSD_OK);
    CHECK_UINT(psd_zip_pour(&plan, psd_payload_of(kit_text("abc")), sink, &err),
               PSD_ARGUMENT);
    CHECK_UINT(psd_zip_pour_end(&plan, sink, &err), PSD_OK);
    CHECK_UINT(k.size, plan.total_size);
    psd_zip_plan_clear(&plan);

    /* Offsets that wrap: in the padding, in the payload, in the descriptor. */
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"), UINT64_MAX - 127, &err), PSD_OK);
    CHECK_UINT(plan.cursor, UINT64_MAX - 39);
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("y"), 0, &err), PSD_ARGUMENT);
    CHECK_UINT(plan.count, 1);
    /* In the header. */
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("yyyyyy"), 0, &err), PSD_ARGUMENT);
    CHECK(strcmp(err.sentence, "the archive would be too large") == 0);
    CHECK(psd_span_equal((psd_span){err.entry, err.entry_size}, kit_text("yyyyyy")));
    CHECK_UINT(plan.count, 1);
    CHECK_UINT(plan.cursor, UINT64_MAX - 39);
    psd_zip_plan_clear(&plan);
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"), UINT64_MAX - 63, &err),
               PSD_ARGUMENT);
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"), UINT64_MAX - 80, &err),
               PSD_ARGUMENT);

    /* A plan that only its directory makes too large. */
    CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"), UINT64_MAX - 100, &err), PSD_OK);
    CHECK_UINT(psd_zip_plan_close(&plan, &err), PSD_ARGUMENT);
    psd_zip_plan_clear(&plan);
    psd_buffer_clear(&k.bytes);
    free(name);

    /* Just so large, and by a byte too large in each part that follows the records:
     * the directory of 47 + 28 bytes, the zip64 records of 76, the end of 22. */
    static const uint64_t rests[] = {47 + 28 + 76 + 22, 47 + 28 + 76 + 21, 47 + 28 + 75,
                                     47 + 27};
    for (unsigned i = 0; i < 4; i++) {
        /* One record that ends, with its descriptor, at the place that leaves `rest`. */
        psd_zip_plan_init(&plan, check_alloc(&heap), true);
        CHECK_UINT(psd_zip_plan_add(&plan, kit_text("x"),
                                    UINT64_MAX - rests[i] - 128 - 24, &err),
                   PSD_OK);
        CHECK(plan.cursor <= UINT64_MAX - rests[i]);
        plan.cursor = UINT64_MAX - rests[i];
        plan.entries[0].header_offset = UINT64_MAX / 2;
        CHECK_UINT(psd_zip_plan_close(&plan, &err), i == 0 ? PSD_OK : PSD_ARGUMENT);
        CHECK(i == 0 || strcmp(err.sentence, "the archive would be too large") == 0);
        CHECK_UINT(plan.total_size, i == 0 ? UINT64_MAX : 0);
        psd_zip_plan_clear(&plan);
    }
}

static void
test_failures(void)
{
    enum { COUNT = 70 };
    psd_span names[COUNT], data[COUNT];
    static char texts[COUNT][16];
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%d", i);
        names[i] = data[i] = kit_text(texts[i]);
    }
    psd_status status;
    unsigned long n = 0;
    do {
        check_heap own = {.fail_at = ++n};
        psd_zip_plan plan;
        psd_error err;
        keeper k = new_keeper();
        psd_zip_plan_init(&plan, check_alloc(&own), true);
        status = write_all(&plan, names, data, COUNT, &k, &err);
        CHECK(status == PSD_NO_MEMORY || own.requests < n);
        psd_zip_plan_clear(&plan);
        psd_buffer_clear(&k.bytes);
        CHECK(own.live == 0);
    } while (status != PSD_OK);
    CHECK(n > 3);

    n = 0;
    do {
        psd_zip_plan plan;
        psd_error err;
        keeper k = new_keeper();
        k.fail_at = ++n;
        psd_zip_plan_init(&plan, check_alloc(&heap), true);
        status = write_all(&plan, names, data, COUNT, &k, &err);
        CHECK(status == PSD_SINK || (status == PSD_OK && k.writes < n));
        CHECK(status == PSD_OK || err.offset <= plan.total_size);
        psd_zip_plan_clear(&plan);
        psd_buffer_clear(&k.bytes);
    } while (status != PSD_OK);
    CHECK(n > COUNT * 3);
}

int
main(void)
{
    RUN(test_round_trip);
    RUN(test_bytes);
    RUN(test_many);
    RUN(test_huge);
    RUN(test_zip64_boundaries);
    RUN(test_arguments);
    RUN(test_failures);
    CHECK(heap.live == 0);
    return check_report();
}
