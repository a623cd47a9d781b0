/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy streams on their way out: byte for byte, read again by the reader, and refused
 * before the first byte where torch could not read them.
 */
#include "stream_kit.h"

static check_heap heap;

/* ---------------------------------------------------------------- the container */

static psd_status
pour(collector *c, psd_span program, const psd_stream_storage *storages, uint32_t count,
     psd_error *err)
{
    psd_buffer_init(&c->bytes, check_alloc(&heap));
    return psd_stream_write(check_alloc(&heap), program, storages, count,
                            (psd_sink){collect, c}, err);
}

static void
test_byte_for_byte(void)
{
    const psd_stream_storage storages[] = {
        {PSD_LITERAL("07"), psd_payload_of(PSD_LITERAL(SIX_FLOATS)), 6, 1},
        {PSD_LITERAL("10"), psd_payload_of((psd_span){NULL, 0}), 0, 1},
        {PSD_LITERAL("11"), psd_payload_of(PSD_LITERAL("xy")), 2, 1},
    };
    collector c = {.writes = 0};
    psd_error err;
    CHECK(pour(&c, PSD_LITERAL("\x80\x02N."), storages, 3, &err) == PSD_OK);
    const psd_span expected =
        PSD_LITERAL(HEAD "\x80\x02N."
                         "\x80\x02](X\x02\0\0\0"
                         "07X\x02\0\0\0"
                         "10X\x02\0\0\0"
                         "11e." COUNT_6 SIX_FLOATS COUNT_0 COUNT_2 "xy");
    CHECK(psd_span_equal(psd_buffer_span(&c.bytes), expected));
    psd_buffer_clear(&c.bytes);
    /* One key, and none. */
    c.writes = 0;
    CHECK(pour(&c, PSD_LITERAL("N."), storages, 1, &err) == PSD_OK);
    CHECK(psd_span_equal(psd_buffer_span(&c.bytes),
                         PSD_LITERAL(HEAD "N.\x80\x02]X\x02\0\0\0"
                                          "07a." COUNT_6 SIX_FLOATS)));
    psd_buffer_clear(&c.bytes);
    c.writes = 0;
    CHECK(pour(&c, PSD_LITERAL("N."), NULL, 0, &err) == PSD_OK);
    CHECK(psd_span_equal(psd_buffer_span(&c.bytes), PSD_LITERAL(HEAD "N.\x80\x02].")));
    psd_buffer_clear(&c.bytes);
}

/* On machines of the other byte order: in whole elements, however long a storage is. */
static void
test_swapped_elements(void)
{
    enum { SIZE = 3 * 4096 + 16 };
    static const uint8_t units[] = {1, 2, 4, 8};
    uint8_t bytes[SIZE];
    for (unsigned i = 0; i < SIZE; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    }
    for (unsigned k = 0; k < LENGTH(units); k++) {
        unsigned unit = units[k];
        for (size_t size = 0; size <= SIZE; size += size < 64 ? unit : 1008) {
            psd_stream_storage s = {PSD_LITERAL("0"),
                                    psd_payload_of((psd_span){bytes, size}),
                                    size / unit, (uint8_t)unit};
            collector c = {.writes = 0};
            psd_error err;
            CHECK(pour(&c, PSD_LITERAL("N."), &s, 1, &err) == PSD_OK);
            const uint8_t *out = c.bytes.data + c.bytes.size - size;
            unsigned wrong = 0;
            for (size_t i = 0; i < size; i++) {
                wrong += out[i] != bytes[i / unit * unit + unit - 1 - i % unit];
            }
            CHECK_UINT(wrong, 0);
            psd_buffer_clear(&c.bytes);
        }
    }
}

/* ---------------------------------------------------------------- documents */

static void
write_legacy(document *d, collector *c, unsigned long fail_at, psd_dtype fourth)
{
    psd_buffer_init(&c->bytes, check_alloc(&heap));
    document_begin(d, fail_at);
    d->storages[2].dtype = (uint8_t)fourth;
    d->tensors[3].dtype = (uint8_t)fourth;
    document_write(d, (psd_write_options){.dialect = PSD_DIALECT_STREAM}, c);
}

static void
check_again(opening *o)
{
    const psd_archive *a = &o->archive;
    static const int64_t shapes[][2] = {{2, 3}, {2, 0}, {5, 0}, {5, 0}, {0, 4}};
    static const uint32_t storages[] = {0, 0, 1, 2, 3};
    CHECK(o->status == PSD_OK);
    CHECK(a->kind == PSD_ARCHIVE_STREAM);
    CHECK_UINT(a->end_offset, o->input.size);
    CHECK_UINT(a->model.storage_count, STORAGES);
    const psd_value *root = psd_value_at(&a->pool, a->pickle.root);
    CHECK(root->kind == PSD_KIND_DICT && root->count == 2 * TENSORS + 2);
    for (unsigned i = 0; i < TENSORS; i++) {
        const psd_value *v = psd_value_at(&a->pool, root->as.items[2 * i + 1]);
        CHECK(v->kind == PSD_KIND_TENSOR);
        const psd_tensor *t = &a->model.tensors[v->as.index];
        CHECK_UINT(t->shape[0], shapes[i][0]);
        CHECK(t->rank < 2 || t->shape[1] == shapes[i][1]);
        CHECK_UINT(t->storage, storages[i]);
        CHECK((t->flags != 0) == (i == 2)); /* the Parameter */
        psd_location where;
        CHECK(psd_archive_locate(a, &o->input, t->storage, &where, &o->err) == PSD_OK);
        CHECK(where.place == PSD_PLACE_FILE);
    }
    check_promises(o);
}

static void
test_written_and_read_again(void)
{
    document d;
    collector c = {.writes = 0};
    write_legacy(&d, &c, 0, PSD_DTYPE_INT16);
    CHECK(d.status == PSD_OK);
    document_end(&d);
    opening o;
    check_guarded g = check_guard(c.bytes.data, c.bytes.size);
    open_bytes(&o, (psd_span){g.data, g.size});
    run_archive(&o);
    check_again(&o);
    psd_location where;
    CHECK(psd_archive_locate(&o.archive, &o.input, 1, &where, &o.err) == PSD_OK);
    CHECK(memcmp(g.data + where.offset, "ten bytes.", 10) == 0);
    close_archive(&o);
    check_unguard(&g);
    /* And the same bytes each time. */
    collector again = {.writes = 0};
    write_legacy(&d, &again, 0, PSD_DTYPE_INT16);
    document_end(&d);
    CHECK(psd_span_equal(psd_buffer_span(&c.bytes), psd_buffer_span(&again.bytes)));
    psd_buffer_clear(&again.bytes);
    psd_buffer_clear(&c.bytes);
}

/* Keys sort as texts in the order of their storages. */
static void
test_keys(void)
{
    static const struct {
        uint32_t storage, count;
        const char *stream, *zip;
    } rows[] = {
        {0, 1, "0", "0"},
        {9, 10, "9", "9"},
        {9, 11, "09", "9"},
        {10, 11, "10", "10"},
        {7, 1001, "0007", "7"},
        {0, 1000, "000", "0"},
        {4294967294, 4294967295, "4294967294", "4294967294"},
        {0, 4294967295, "0000000000", "0"},
    };
    psd_arena arena;
    psd_arena_init(&arena, check_alloc(&heap));
    for (size_t i = 0; i < LENGTH(rows); i++) {
        psd_span stream = psd_torch_storage_key(&arena, PSD_DIALECT_STREAM,
                                                rows[i].storage, rows[i].count);
        psd_span zip = psd_torch_storage_key(&arena, PSD_DIALECT_ZIP, rows[i].storage,
                                             rows[i].count);
        CHECK(about(stream.data, stream.size, rows[i].stream));
        CHECK(about(zip.data, zip.size, rows[i].zip));
    }
    psd_arena_clear(&arena);
}

static void
test_many_storages(void)
{
    enum { MANY = 1234 };
    static psd_storage storages[MANY];
    static psd_tensor tensors[MANY];
    static psd_span bytes[MANY];
    static psd_ref refs[MANY];
    static uint8_t data[MANY];
    static const int64_t one[] = {1, 1};
    document d;
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    document_begin(&d, 0);
    d.pool.max_values = 100 * MANY;
    for (uint32_t i = 0; i < MANY; i++) {
        data[i] = (uint8_t)i;
        bytes[i] = (psd_span){&data[i], 1};
        storages[i] = (psd_storage){.dtype = PSD_DTYPE_UINT8, .size = 1};
        tensors[i] = document_tensor(PSD_DTYPE_UINT8, i, one, 1);
        refs[i] = psd_new_none(&d.pool);
        psd_value_at(&d.pool, refs[i])->kind = PSD_KIND_TENSOR;
        psd_value_at(&d.pool, refs[i])->as.index = i;
    }
    psd_ref root = psd_new_items(&d.pool, PSD_KIND_LIST, refs, MANY);
    psd_model model = {.storages = storages,
                       .tensors = tensors,
                       .storage_count = MANY,
                       .tensor_count = MANY};
    psd_write_options options = {.alloc = check_alloc(&d.heap),
                                 .dialect = PSD_DIALECT_STREAM};
    CHECK(psd_archive_write(&d.pool, root, &model, bytes, &options,
                            (psd_sink){collect, &c}, &d.err) == PSD_OK);
    document_end(&d);
    opening o;
    open_bytes(&o, psd_buffer_span(&c.bytes));
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    const psd_stream *stream = &o.archive.stream;
    CHECK_UINT(stream->key_count, MANY);
    for (uint32_t i = 1; i < stream->key_count; i++) {
        CHECK_UINT(stream->keys[i].size, 4);
        CHECK(memcmp(stream->keys[i - 1].data, stream->keys[i].data, 4) < 0);
    }
    psd_location where;
    CHECK(psd_archive_locate(&o.archive, &o.input, 1000, &where, &o.err) == PSD_OK);
    CHECK_UINT(c.bytes.data[where.offset], (uint8_t)1000);
    close_archive(&o);
    psd_buffer_clear(&c.bytes);
}

/* A storage that no persistent id tells of must not be listed. */
static void
test_storages_of_nobody(void)
{
    document d;
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    document_begin(&d, 0);
    d.storages[2].dtype = d.tensors[3].dtype = PSD_DTYPE_INT16;
    d.tensors[2].flags = PSD_TENSOR_META; /* the only one on its storage */
    document_write(&d, (psd_write_options){.dialect = PSD_DIALECT_STREAM}, &c);
    CHECK(d.status == PSD_OK);
    document_end(&d);
    opening o;
    open_bytes(&o, psd_buffer_span(&c.bytes));
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.stream.key_count, STORAGES - 1);
    close_archive(&o);
    psd_buffer_clear(&c.bytes);
}

/* ---------------------------------------------------------------- refusals */

static void
test_every_dtype(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)i);
        char sentence[128];
        document d;
        collector c = {.writes = 0};
        static const int64_t one[] = {1, 1};
        psd_buffer_init(&c.bytes, check_alloc(&heap));
        document_begin(&d, 0);
        d.storages[2].dtype = d.tensors[3].dtype = (uint8_t)i;
        d.tensors[3].shape = one;
        d.tensors[3].strides = one + 1;
        d.storages[2].size = d.bytes[2].size = row->size;
        d.bytes[2].data = d.bytes[0].data;
        document_write(&d, (psd_write_options){.dialect = PSD_DIALECT_STREAM}, &c);
        (void)snprintf(sentence, sizeof sentence,
                       "torch reads no %s from a legacy file", row->name);
        CHECK(d.status == (row->typed ? PSD_OK : PSD_LEGACY));
        CHECK(row->typed || strcmp(d.err.sentence, sentence) == 0);
        /* The tensor's name, and not one byte was poured. */
        CHECK(row->typed || about(d.err.subject, d.err.subject_size, "d"));
        CHECK((c.writes > 0) == row->typed);
        document_end(&d);
        psd_buffer_clear(&c.bytes);
    }
}

static void
refuse(document *d, const char *sentence, const char *subject)
{
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    d->storages[2].dtype = d->tensors[3].dtype = PSD_DTYPE_INT16;
    document_write(d, (psd_write_options){.dialect = PSD_DIALECT_STREAM}, &c);
    CHECK(d->status == PSD_LEGACY);
    CHECK(strcmp(d->err.sentence, sentence) == 0);
    CHECK(about(d->err.subject, d->err.subject_size, subject));
    CHECK_UINT(c.writes, 0);
    document_end(d);
    psd_buffer_clear(&c.bytes);
}

static void
test_storages_that_are_refused(void)
{
    document d;
    document_begin(&d, 0);
    d.tensors[1].dtype = PSD_DTYPE_INT32;
    refuse(&d, "arrays of several dtypes share memory, which a legacy file cannot tell",
           "a");
    document_begin(&d, 0);
    d.storages[1].untyped = true;
    refuse(&d, "torch reads no storage without a dtype from a legacy file", "c");
}

/* ---------------------------------------------------------------- failures */

static void
test_every_failing_write(void)
{
    psd_status status = PSD_SINK;
    unsigned n = 0;
    while (status == PSD_SINK && n < 1000) {
        document d;
        collector c = {.fail_at = ++n};
        write_legacy(&d, &c, 0, PSD_DTYPE_INT16);
        status = d.status;
        CHECK(status == PSD_OK || c.writes == n); /* and nothing is poured after it */
        document_end(&d);
        psd_buffer_clear(&c.bytes);
    }
    CHECK(status == PSD_OK && n > 7);
}

static void
test_every_failing_request(void)
{
    psd_status status = PSD_NO_MEMORY;
    unsigned long n = 0;
    while (status == PSD_NO_MEMORY && n < 1000) {
        document d;
        collector c = {.writes = 0};
        write_legacy(&d, &c, ++n, PSD_DTYPE_INT16);
        status = d.status;
        CHECK(status == PSD_OK || c.writes == 0);
        document_end(&d);
        psd_buffer_clear(&c.bytes);
    }
    CHECK(status == PSD_OK && n > 5);
}

/* The arena's pages are large: each taking is once the first of a new one. */
static void
test_every_failing_page(void)
{
    unsigned failed = 0;
    for (size_t waste = 0; waste < 4096; waste += 8) {
        document d;
        collector c = {.writes = 0};
        psd_buffer_init(&c.bytes, check_alloc(&heap));
        document_begin(&d, 0);
        d.storages[2].dtype = d.tensors[3].dtype = PSD_DTYPE_INT16;
        CHECK(document_fill(&d));
        CHECK(psd_arena_take(&d.arena, waste) != NULL);
        d.heap.fail_at = d.heap.requests + 1 + waste / 8 % 4;
        psd_write_options options = {.alloc = check_alloc(&d.heap),
                                     .dialect = PSD_DIALECT_STREAM};
        d.status = psd_archive_write(&d.pool, d.root, &d.model, d.bytes, &options,
                                     (psd_sink){collect, &c}, &d.err);
        CHECK(d.status == PSD_OK || d.status == PSD_NO_MEMORY);
        failed += d.status != PSD_OK;
        document_end(&d);
        psd_buffer_clear(&c.bytes);
    }
    CHECK(failed > 100);
}

int
main(void)
{
    RUN(test_byte_for_byte);
    RUN(test_swapped_elements);
    RUN(test_written_and_read_again);
    RUN(test_keys);
    RUN(test_many_storages);
    RUN(test_storages_of_nobody);
    RUN(test_every_dtype);
    RUN(test_storages_that_are_refused);
    RUN(test_every_failing_write);
    RUN(test_every_failing_request);
    RUN(test_every_failing_page);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
