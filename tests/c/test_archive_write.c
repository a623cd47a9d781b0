/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing a checkpoint, and reading it again: from memory and by ranges.
 */
#include "archive_model.h"

static check_heap heap;

/* ---------------------------------------------------------------- read again */

static const psd_value *
value_of(const psd_archive *a, unsigned pair)
{
    const psd_value *root = psd_value_at(&a->pool, a->pickle.root);
    return psd_value_at(&a->pool, root->as.items[2 * pair + 1]);
}

static void
check_tensors(opening *o)
{
    document d;
    document_begin(&d, 0);
    const psd_archive *a = &o->archive;
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&o->heap));
    for (unsigned i = 0; i < TENSORS; i++) {
        CHECK(value_of(a, i)->kind == PSD_KIND_TENSOR);
        const psd_tensor *t = &a->model.tensors[value_of(a, i)->as.index];
        const psd_tensor *e = &d.tensors[i];
        CHECK_UINT(t->dtype, e->dtype);
        CHECK_UINT(t->flags, e->flags);
        CHECK_UINT(t->rank, e->rank);
        CHECK(t->offset == e->offset);
        for (unsigned k = 0; k < e->rank; k++) {
            CHECK(t->shape[k] == e->shape[k]);
            CHECK(t->strides[k] == e->strides[k]);
        }
        psd_span bytes;
        CHECK(storage_bytes(o, t->storage, &arena, &bytes) == PSD_OK);
        CHECK(psd_span_equal(bytes, d.bytes[e->storage]));
    }
    CHECK(a->model.tensors[value_of(a, 0)->as.index].storage ==
          a->model.tensors[value_of(a, 1)->as.index].storage);
    psd_arena_clear(&arena);
    document_end(&d);
}

static void
check_written(opening *o)
{
    CHECK(o->status == PSD_OK);
    if (o->status != PSD_OK) {
        return;
    }
    const psd_archive *a = &o->archive;
    CHECK(a->kind == PSD_ARCHIVE_CHECKPOINT);
    CHECK(psd_span_equal(a->prefix, PSD_LITERAL("archive/")));
    CHECK(a->has_byteorder && !a->big_endian);
    CHECK_UINT(a->pickle.protocol, 2);
    CHECK_UINT(a->pickle.size, a->program.size);
    CHECK_UINT(a->model.tensor_count, TENSORS + 1); /* a Parameter holds one */
    CHECK_UINT(a->model.storage_count, STORAGES);
    const psd_value *list = value_of(a, TENSORS);
    CHECK(list->kind == PSD_KIND_LIST && list->count == 2);
    check_tensors(o);
    check_promises(o);
}

static void
test_written_and_read_from_memory(void)
{
    psd_buffer file = document_file(&heap);
    check_guarded g = check_guard(file.data, file.size);
    opening o;
    open_bytes(&o, (psd_span){g.data, g.size});
    run_archive(&o);
    check_written(&o);
    close_archive(&o);
    check_unguard(&g);
    psd_buffer_clear(&file);
}

static void
test_written_and_read_by_ranges(void)
{
    psd_buffer file = document_file(&heap);
    remote r = {.file = psd_buffer_span(&file)};
    psd_limits limits = psd_default_limits();
    opening o;
    open_input(&o, over_remote(&r), &limits, 0);
    unsigned reads = r.reads;
    /* The tail, the directory, and header and payload of byteorder and data.pkl. */
    CHECK(reads <= 8);
    run_archive(&o);
    CHECK_UINT(r.reads, reads); /* running needs nothing more */
    check_written(&o);
    close_archive(&o);
    psd_buffer_clear(&file);
}

/* ---------------------------------------------------------------- the file itself */

static void
test_records_of_a_file(void)
{
    static const char *const names[] = {
        "archive/data.pkl", "archive/byteorder", "archive/data/0",  "archive/data/1",
        "archive/data/2",   "archive/data/3",    "archive/version",
    };
    psd_buffer file = document_file(&heap);
    opening o;
    open_bytes(&o, psd_buffer_span(&file));
    CHECK_UINT(o.archive.zip.count, LENGTH(names));
    for (uint32_t i = 0; i < LENGTH(names); i++) {
        const psd_zip_entry *entry = &o.archive.zip.entries[i];
        uint64_t offset;
        bool checked;
        CHECK(psd_span_equal(entry->name, kit_text(names[i])));
        CHECK_UINT(entry->method, PSD_ZIP_STORED);
        CHECK(psd_zip_locate(&o.input, entry, &offset, &o.err) == PSD_OK);
        CHECK_UINT(offset % PSD_ZIP_ALIGNMENT, 0);
        CHECK(psd_archive_verify(&o.archive, &o.input, entry, &checked, &o.err) ==
              PSD_OK);
        CHECK(checked);
    }
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&o.heap));
    psd_span bytes;
    uint64_t offset;
    CHECK(psd_archive_fetch(&o.archive, &o.input,
                            psd_archive_find(&o.archive, PSD_LITERAL("version")),
                            &arena, &bytes, &offset, &o.err) == PSD_OK);
    CHECK(psd_span_equal(bytes, PSD_LITERAL("3\n")));
    psd_arena_clear(&arena);
    close_archive(&o);
    psd_buffer_clear(&file);
}

static void
test_the_same_bytes_each_time(void)
{
    psd_buffer a = document_file(&heap), b = document_file(&heap);
    CHECK(psd_span_equal(psd_buffer_span(&a), psd_buffer_span(&b)));
    psd_buffer_clear(&a);
    psd_buffer_clear(&b);
}

static void
test_big_endian_and_without_checksums(void)
{
    document d;
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    document_begin(&d, 0);
    document_write(&d, (psd_write_options){.big_endian = true}, &c);
    CHECK(d.status == PSD_OK);
    document_end(&d);
    opening o;
    open_bytes(&o, psd_buffer_span(&c.bytes));
    CHECK(o.status == PSD_OK);
    CHECK(o.archive.big_endian);
    for (uint32_t i = 0; i < o.archive.zip.count; i++) {
        CHECK_UINT(o.archive.zip.entries[i].crc32, 0);
    }
    close_archive(&o);
    psd_buffer_clear(&c.bytes);
}

/* What has no checksum is not even read. */
static void
test_verifying_without_checksums(void)
{
    document d;
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    document_begin(&d, 0);
    document_write(&d, (psd_write_options){.checksum = false}, &c);
    document_end(&d);
    remote r = {.file = psd_buffer_span(&c.bytes)};
    psd_limits limits = psd_default_limits();
    opening o;
    open_input(&o, over_remote(&r), &limits, 0);
    CHECK(o.status == PSD_OK);
    for (uint32_t i = 0; i < o.archive.zip.count; i++) {
        const psd_zip_entry *entry = &o.archive.zip.entries[i];
        bool checked;
        unsigned reads = r.reads;
        CHECK(psd_archive_verify(&o.archive, &o.input, entry, &checked, &o.err) ==
              PSD_OK);
        CHECK(checked == (entry->size == 0));
        CHECK(checked || r.reads == reads + 1); /* the header */
    }
    close_archive(&o);
    psd_buffer_clear(&c.bytes);
}

/* Numbers of more than one digit, in names and keys alike. */
static void
test_many_storages(void)
{
    enum { MANY = 1100 };
    static const int64_t one[] = {1, 1};
    static psd_storage storages[MANY];
    static psd_tensor tensors[MANY];
    static psd_span bytes[MANY];
    static psd_ref refs[MANY];
    static uint8_t data[MANY];
    document d;
    document_begin(&d, 0);
    for (uint32_t i = 0; i < MANY; i++) {
        data[i] = (uint8_t)(i % 251);
        storages[i] = (psd_storage){.size = 1, .dtype = PSD_DTYPE_UINT8};
        bytes[i] = (psd_span){&data[i], 1};
        tensors[i] = document_tensor(PSD_DTYPE_UINT8, i, one, 1);
        refs[i] = psd_new_int(&d.pool, 0);
        psd_value_at(&d.pool, refs[i])->kind = PSD_KIND_TENSOR;
        psd_value_at(&d.pool, refs[i])->as.index = i;
    }
    psd_model model = {.storages = storages,
                       .tensors = tensors,
                       .storage_count = MANY,
                       .tensor_count = MANY};
    d.pool.max_values = 100000;
    psd_ref root = psd_new_items(&d.pool, PSD_KIND_LIST, refs, MANY);
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    psd_write_options options = {.alloc = check_alloc(&d.heap), .checksum = true};
    CHECK(psd_archive_write(&d.pool, root, &model, bytes, &options,
                            (psd_sink){collect, &c}, &d.err) == PSD_OK);
    document_end(&d);
    opening o;
    open_bytes(&o, psd_buffer_span(&c.bytes));
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.storage_count, MANY);
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&o.heap));
    for (uint32_t i = 0; i < MANY; i++) {
        psd_span found;
        CHECK(storage_bytes(&o, i, &arena, &found) == PSD_OK);
        CHECK(found.size == 1 && found.data[0] == i % 251);
    }
    psd_arena_clear(&arena);
    close_archive(&o);
    psd_buffer_clear(&c.bytes);
}

/* What was read can be written, and reading that gives the same again. */
static void
test_read_written_and_read(void)
{
    psd_buffer file = document_file(&heap), again;
    opening o;
    open_bytes(&o, psd_buffer_span(&file));
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&o.heap));
    psd_span bytes[STORAGES];
    for (uint32_t i = 0; i < STORAGES; i++) {
        CHECK(storage_bytes(&o, i, &arena, &bytes[i]) == PSD_OK);
    }
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    psd_write_options options = {.alloc = check_alloc(&o.heap), .checksum = true};
    CHECK(psd_archive_write(&o.archive.pool, o.archive.pickle.root, &o.archive.model,
                            bytes, &options, (psd_sink){collect, &c},
                            &o.err) == PSD_OK);
    again = c.bytes;
    CHECK(psd_span_equal(psd_buffer_span(&file), psd_buffer_span(&again)));
    psd_arena_clear(&arena);
    close_archive(&o);
    open_bytes(&o, psd_buffer_span(&again));
    run_archive(&o);
    check_written(&o);
    close_archive(&o);
    psd_buffer_clear(&file);
    psd_buffer_clear(&again);
}

/* The pickle alone, for an archive that has the storages: by the keys that they have there. */
static void
test_kept_keys(void)
{
    static const char *const keys[2][STORAGES] = {{"0", "1", "2", "3"},
                                                  {"17", "x.y", "2", "forty"}};
    psd_buffer programs[2];
    for (unsigned way = 0; way < 2; way++) {
        document d;
        collector c = {.writes = 0};
        psd_buffer_init(&c.bytes, check_alloc(&heap));
        document_begin(&d, 0);
        for (unsigned i = 0; i < STORAGES; i++) {
            const char *key = keys[way][i];
            d.storages[i].key = (psd_span){(const uint8_t *)key, strlen(key)};
            d.bytes[i].data = NULL; /* nobody asks for them */
        }
        document_write(&d, (psd_write_options){.dialect = PSD_DIALECT_KEPT}, &c);
        CHECK(d.status == PSD_OK);
        CHECK_UINT(c.writes, 1);
        programs[way] = c.bytes;
        document_end(&d);
    }
    psd_buffer file = document_file(&heap);
    opening o;
    open_bytes(&o, psd_buffer_span(&file));
    CHECK(psd_span_equal(o.archive.program, psd_buffer_span(&programs[0])));
    CHECK(!psd_span_equal(o.archive.program, psd_buffer_span(&programs[1])));
    close_archive(&o);
    psd_buffer_clear(&file);
    psd_arena arena;
    psd_pool pool;
    psd_pickle pickle;
    psd_error err;
    psd_limits limits = psd_default_limits();
    psd_arena_init(&arena, check_alloc(&heap));
    psd_pool_init(&pool, &arena, limits.values);
    CHECK(psd_pickle_read(psd_buffer_span(&programs[1]), 0, &limits,
                          (psd_hash_key){1, 2}, &pool, &pickle, &err) == PSD_OK);
    unsigned found = 0;
    for (psd_ref ref = 1; ref <= pool.count; ref++) {
        const psd_value *value = psd_value_at(&pool, ref);
        for (unsigned i = 0; value->kind == PSD_KIND_TEXT && i < STORAGES; i++) {
            const char *key = keys[1][i];
            psd_span span = {(const uint8_t *)key, strlen(key)};
            found += psd_text_is(value, span);
        }
    }
    CHECK_UINT(found, STORAGES);
    psd_pool_clear(&pool);
    psd_arena_clear(&arena);
    psd_buffer_clear(&programs[0]);
    psd_buffer_clear(&programs[1]);
    /* A target that takes nothing. */
    document d;
    collector c = {.fail_at = 1};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    document_begin(&d, 0);
    for (unsigned i = 0; i < STORAGES; i++) {
        d.storages[i].key = PSD_LITERAL("k");
    }
    document_write(&d, (psd_write_options){.dialect = PSD_DIALECT_KEPT}, &c);
    CHECK_UINT(d.status, PSD_SINK);
    document_end(&d);
    psd_buffer_clear(&c.bytes);
}

/* ---------------------------------------------------------------- failures */

static void
test_every_failing_write(void)
{
    unsigned n = 0;
    psd_status status;
    do {
        document d;
        collector c = {.fail_at = ++n};
        psd_buffer_init(&c.bytes, check_alloc(&heap));
        document_begin(&d, 0);
        document_write(&d, (psd_write_options){.checksum = true}, &c);
        status = d.status;
        CHECK(status == PSD_OK || status == PSD_SINK);
        CHECK(status == PSD_OK || d.err.status == PSD_SINK);
        CHECK(status == PSD_OK || c.writes == n); /* and nothing is poured after it */
        document_end(&d);
        psd_buffer_clear(&c.bytes);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 7 && n < 1000);
}

static void
test_every_failing_request(void)
{
    unsigned long n = 0;
    psd_status status;
    do {
        document d;
        collector c = {.writes = 0};
        psd_buffer_init(&c.bytes, check_alloc(&heap));
        document_begin(&d, ++n);
        document_write(&d, (psd_write_options){.checksum = true}, &c);
        status = d.status;
        CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
        document_end(&d);
        psd_buffer_clear(&c.bytes);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 5 && n < 1000);
}

int
main(void)
{
    RUN(test_written_and_read_from_memory);
    RUN(test_written_and_read_by_ranges);
    RUN(test_records_of_a_file);
    RUN(test_the_same_bytes_each_time);
    RUN(test_big_endian_and_without_checksums);
    RUN(test_verifying_without_checksums);
    RUN(test_many_storages);
    RUN(test_read_written_and_read);
    RUN(test_kept_keys);
    RUN(test_every_failing_write);
    RUN(test_every_failing_request);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
