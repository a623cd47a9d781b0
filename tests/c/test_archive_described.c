/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors that the host tells of: held against the bytes that are there, and then
 * values like any other.
 */
#include "archive_sweep.h"

static const psd_span file = PSD_LITERAL("0123456789abcdefghijklmnopqrstuv");

static const int64_t two_by_two[] = {2, 2, 2, 1};

static psd_storage
stored(const char *storage_key, uint64_t offset, uint64_t size)
{
    return (psd_storage){.key = kit_text(storage_key),
                         .numel = size,
                         .size = size,
                         .dtype = PSD_DTYPE_UINT8,
                         .untyped = true,
                         .place = PSD_PLACE_FILE,
                         .at.offset = offset};
}

static psd_tensor
window(psd_dtype dtype, uint32_t storage, int64_t offset)
{
    return (psd_tensor){.shape = two_by_two,
                        .strides = two_by_two + 2,
                        .rank = 2,
                        .dtype = (uint8_t)dtype,
                        .storage = storage,
                        .offset = offset};
}

typedef struct {
    psd_storage storages[4];
    psd_tensor tensors[4];
    psd_span names[4];
    uint32_t storage_count, tensor_count;
    uint64_t values; /* 0: as many as there may be */
} told;

static told
sound(void)
{
    return (told){
        .storages = {stored("first", 0, 16), stored("second", 20, 8)},
        .tensors = {window(PSD_DTYPE_FLOAT32, 0, 0), window(PSD_DTYPE_INT16, 1, 0),
                    window(PSD_DTYPE_UINT8, 0, 12)},
        .names = {PSD_LITERAL("a"), PSD_LITERAL("b.c"), PSD_LITERAL("")},
        .storage_count = 2,
        .tensor_count = 3,
    };
}

static void
describe(opening *o, psd_input input, const told *t, unsigned long fail_at)
{
    psd_limits limits = psd_default_limits();
    limits.values = t->values == 0 ? limits.values : t->values;
    open_as(o, input, PSD_OPEN_BYTES, &limits, fail_at);
    psd_description d = {t->storages,      t->names,        t->tensors,
                         t->storage_count, t->tensor_count, false};
    if (o->status == PSD_OK) {
        o->status = psd_archive_describe(&o->archive, &o->input, &d, &o->err);
    }
}

static void
test_a_sound_description(void)
{
    told t = sound();
    opening o;
    describe(&o, over_map(file), &t, 0);
    CHECK(o.status == PSD_OK);
    CHECK(o.archive.kind == PSD_ARCHIVE_BYTES);
    CHECK_UINT(o.archive.model.storage_count, 2);
    CHECK_UINT(o.archive.model.tensor_count, 3);
    /* All is copied. */
    memset(&t, 0xee, sizeof t);
    const psd_value *root = psd_value_at(&o.archive.pool, o.archive.pickle.root);
    CHECK(root->kind == PSD_KIND_CALL);
    CHECK_UINT(root->as.call->item_count, 6);
    static const char *const names[] = {"a", "b.c", ""};
    for (unsigned i = 0; i < 3; i++) {
        const psd_value *name =
            psd_value_at(&o.archive.pool, root->as.call->items[2 * i]);
        psd_ref at = root->as.call->items[2 * i + 1];
        const psd_value *value = psd_value_at(&o.archive.pool, at);
        CHECK(about(name->as.bytes, name->count, names[i]));
        CHECK(value->kind == PSD_KIND_TENSOR && value->as.index == i);
        CHECK(o.archive.model.tensors[i].at == at);
        CHECK_UINT(o.archive.model.tensors[i].numel, 4);
        CHECK(o.archive.model.tensors[i].shape[0] == 2);
    }
    CHECK(about(o.archive.model.storages[1].key.data,
                o.archive.model.storages[1].key.size, "second"));
    psd_location where;
    CHECK(psd_archive_locate(&o.archive, &o.input, 1, &where, &o.err) == PSD_OK);
    CHECK(where.place == PSD_PLACE_FILE);
    CHECK_UINT(where.offset, 20);
    check_promises(&o);
    close_archive(&o);
}

static void
test_nothing_at_all(void)
{
    told t = {.storage_count = 0};
    opening o;
    describe(&o, over_map(file), &t, 0);
    CHECK(o.status == PSD_OK);
    CHECK(psd_kind_of(&o.archive.pool, o.archive.pickle.root) == PSD_KIND_CALL);
    close_archive(&o);
    /* By itself such a file has nothing to be run. */
    psd_limits limits = psd_default_limits();
    open_as(&o, over_map(file), PSD_OPEN_BYTES, &limits, 0);
    run_archive(&o);
    CHECK(
        says(&o, PSD_KIND, "an archive without a pickle that is to be run by itself"));
    close_archive(&o);
}

static void
refused(const told *t, psd_status status, const char *sentence, const char *subject,
        int line)
{
    opening o;
    describe(&o, over_map(file), t, 0);
    bool same = says(&o, status, sentence) && ABOUT_SUBJECT(&o, subject);
    CHECK(same);
    if (!same) {
        (void)fprintf(stderr, "  line %d\n", line);
    }
    close_archive(&o);
}

#define REFUSED(...) refused(&t, __VA_ARGS__, __LINE__)

static void
test_storages_beyond_the_file(void)
{
    static const struct {
        uint64_t offset, size;
    } rows[] = {
        {17, 16}, {33, 0}, {0, 33}, {UINT64_MAX, 1}, {1, UINT64_MAX}, {UINT64_MAX, 0},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        told t = sound();
        t.storages[0].at.offset = rows[i].offset;
        t.storages[0].size = rows[i].size;
        REFUSED(PSD_TRUNCATED, "the file ends within a tensor", "first");
    }
    told t = sound();
    t.storages[0].at.offset = 16;
    opening o;
    describe(&o, over_map(file), &t, 0);
    CHECK(o.status == PSD_OK);
    close_archive(&o);
}

static void
test_windows_that_do_not_fit(void)
{
    static const int64_t negative[] = {2, -2, 2, 1};
    static const int64_t endless[] = {INT64_MAX, 2, 2, 1};
    static const int64_t backward[] = {2, 2, -1, 1};
    told t = sound();
    t.tensors[1].offset = 1;
    REFUSED(PSD_TENSOR, "a tensor reaches beyond its storage", "b.c");
    t = sound();
    t.tensors[1].offset = -1;
    REFUSED(PSD_TENSOR, "a tensor's storage offset is negative", "b.c");
    t = sound();
    t.tensors[0].shape = negative;
    REFUSED(PSD_TENSOR, "a tensor's size is negative", "a");
    static const int64_t behind_nothing[] = {0, -2, 2, 1};
    t = sound();
    t.tensors[0].shape = behind_nothing;
    REFUSED(PSD_TENSOR, "a tensor's size is negative", "a");
    t = sound();
    t.tensors[0].shape = endless;
    REFUSED(PSD_TENSOR, "a tensor's size in bytes overflows", "a");
    t = sound();
    t.tensors[0].strides = backward + 2;
    REFUSED(PSD_TENSOR, "a tensor's stride is negative", "a");
    /* The host's own faults. */
    t = sound();
    t.tensors[0].storage = 2;
    REFUSED(PSD_ARGUMENT, "a tensor of a storage that was not told", "a");
    t = sound();
    t.tensors[0].storage = PSD_NO_STORAGE;
    REFUSED(PSD_ARGUMENT, "a tensor of a storage that was not told", "a");
    /* One without elements may be anywhere on it. */
    static const int64_t empty[] = {2, 0, 7, -1};
    t = sound();
    t.tensors[0].shape = empty;
    t.tensors[0].strides = empty + 2;
    t.tensors[0].offset = -5;
    opening o;
    describe(&o, over_map(file), &t, 0);
    CHECK(o.status == PSD_OK);
    close_archive(&o);
}

/* Storages in the records of a zip archive of another kind. */
static void
test_storages_in_records(void)
{
    check_heap heap = {0};
    kit_record records[] = {record("a.npy", PSD_LITERAL("sixteen bytes!!!")),
                            record("b.npy", PSD_LITERAL("abc"))};
    kit_archive a = kit_build(check_alloc(&heap), records, 2, false);
    psd_limits limits = psd_default_limits();
    for (unsigned i = 0; i < 4; i++) {
        told t = sound();
        opening o;
        t.storages[0].place = PSD_PLACE_RECORD;
        t.storages[0].at.entry = i == 2 ? UINT32_MAX : i;
        psd_description d = {t.storages, t.names, t.tensors, 1, 1, false};
        open_as(&o, over_map(psd_buffer_span(&a.bytes)), PSD_OPEN_RECORDS, &limits, 0);
        CHECK(o.status == PSD_OK);
        o.status = psd_archive_describe(&o.archive, &o.input, &d, &o.err);
        CHECK(i == 0 ? o.status == PSD_OK
                     : says(&o, PSD_STORAGE,
                            "a storage's record has another size than was told"));
        if (i == 0) {
            check_promises(&o);
        }
        close_archive(&o);
    }
    psd_buffer_clear(&a.bytes);
    CHECK_UINT(heap.live, 0);
}

static void
test_every_failing_request(void)
{
    told t = sound();
    psd_status status = PSD_NO_MEMORY;
    unsigned long n = 0;
    while (status == PSD_NO_MEMORY && n < 100) {
        opening o;
        describe(&o, over_map(file), &t, ++n);
        status = o.status;
        CHECK(status == PSD_OK || o.err.status == PSD_NO_MEMORY);
        close_archive(&o);
    }
    CHECK(status == PSD_OK && n > 4);
}

/* Between too few values and enough. */
static void
test_too_many_values(void)
{
    told t = sound();
    psd_status status = PSD_LIMIT;
    while (status == PSD_LIMIT && t.values < 100) {
        opening o;
        t.values++;
        describe(&o, over_map(file), &t, 0);
        status = o.status;
        CHECK(status == PSD_OK ||
              says(&o, PSD_LIMIT, "a pickle has more values than allowed"));
        close_archive(&o);
    }
    CHECK(status == PSD_OK);
    CHECK_UINT(t.values, 3 + 6);
}

int
main(void)
{
    RUN(test_a_sound_description);
    RUN(test_nothing_at_all);
    RUN(test_storages_beyond_the_file);
    RUN(test_windows_that_do_not_fit);
    RUN(test_storages_in_records);
    RUN(test_every_failing_request);
    RUN(test_too_many_values);
    return check_report();
}
