/* SPDX-License-Identifier: Apache-2.0
 *
 * Storages that stand as whole legacy streams within a pickle, as pickle.dump writes
 * them: in every spelling of bytes, each read once however often it is loaded.
 */
#include "archive_sweep.h"
#include "stream_kit.h"

static check_heap heap;

/* ---------------------------------------------------------------- streams */

/* A stream of one storage by itself. */
#define STREAM_OF(class, numel, view, count, bytes) \
    HEAD STORED(class, "k", numel, view) "." KEYS(KEY("k")) count bytes
#define SIX_STREAM STREAM_OF("FloatStorage", "6", "N", COUNT_6, SIX_FLOATS)

/* ---------------------------------------------------------------- programs */

#define LOADER "ctorch.storage\n_load_from_bytes\n"

/* B with four bytes of a count, as protocol 3 spells bytes. */
static void
put_bytes(psd_buffer *b, psd_span bytes)
{
    psd_put_u8(b, 'B');
    psd_put_u32(b, (uint32_t)bytes.size);
    psd_put_span(b, bytes);
}

/* _codecs.encode(text, 'latin1'), as protocol 2 does. */
static void
put_encoded(psd_buffer *b, psd_span bytes)
{
    psd_buffer text;
    psd_buffer_init(&text, b->alloc);
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t c = bytes.data[i];
        if (c >= 0x80) {
            psd_put_u8(&text, (uint8_t)(0xC0 | c >> 6));
            c = (uint8_t)(0x80 | (c & 0x3F));
        }
        psd_put_u8(&text, c);
    }
    psd_put_span(b, PSD_LITERAL("c_codecs\nencode\n(X"));
    psd_put_u32(b, (uint32_t)text.size);
    psd_put_span(b, psd_buffer_span(&text));
    psd_put_span(b, PSD_LITERAL("Vlatin1\ntR"));
    psd_buffer_clear(&text);
}

static void
put_text(psd_buffer *b, const char *text)
{
    psd_put(b, text, strlen(text));
}

#define BEFORE "ctorch._utils\n_rebuild_tensor_v2\n("
#define BEHIND "I0\n(I2\nI3\nt(I3\nI1\nt" FALSE_ HOOKS "tR"

/* How bytes are spelled. */
typedef enum { AS_BYTES, AS_ENCODED, AS_STRING, SPELLINGS } spelling;

/* A tensor of 2 by 3 over the storage in `stream`. */
static psd_buffer
tensor_program(psd_span stream, spelling as)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    put_text(&b, BEFORE LOADER "(");
    if (as == AS_ENCODED) {
        put_encoded(&b, stream);
    }
    else {
        size_t at = b.size;
        put_bytes(&b, stream);
        b.data[at] = as == AS_STRING ? 'T' : 'B'; /* Python 2 wrote a str */
    }
    put_text(&b, "tR" BEHIND ".");
    return b;
}

/* The storage in `stream` by itself. */
static psd_buffer
storage_program(psd_span stream)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    put_text(&b, LOADER "(");
    put_bytes(&b, stream);
    put_text(&b, "tR.");
    return b;
}

typedef struct {
    opening o;
    check_guarded g;
} trial;

/* Takes the program away. */
static void
try_program(trial *t, psd_buffer *program)
{
    psd_limits limits = psd_default_limits();
    t->g = check_guard(program->data, program->size);
    psd_buffer_clear(program);
    open_as(&t->o, over_map((psd_span){t->g.data, t->g.size}), PSD_OPEN_PICKLE, &limits,
            0);
    run_archive(&t->o);
}

static void
end(trial *t)
{
    close_archive(&t->o);
    check_unguard(&t->g);
}

static const psd_value *
root_value(const trial *t)
{
    return psd_value_at(&t->o.archive.pool, t->o.archive.pickle.root);
}

static void
check_memory(trial *t, uint32_t storage, psd_span expected)
{
    psd_location where;
    CHECK(psd_archive_locate(&t->o.archive, &t->o.input, storage, &where, &t->o.err) ==
          PSD_OK);
    CHECK(where.place == PSD_PLACE_MEMORY);
    CHECK_UINT(t->o.archive.model.storages[storage].size, expected.size);
    CHECK(where.place == PSD_PLACE_MEMORY &&
          (expected.size == 0 ||
           memcmp(where.memory, expected.data, expected.size) == 0));
}

/* ---------------------------------------------------------------- sound ones */

static void
test_every_spelling(void)
{
    for (int as = 0; as < SPELLINGS; as++) {
        trial t;
        psd_buffer b = tensor_program(PSD_LITERAL(SIX_STREAM), (spelling)as);
        try_program(&t, &b);
        CHECK(t.o.status == PSD_OK);
        CHECK(t.o.archive.kind == PSD_ARCHIVE_PICKLE);
        CHECK_UINT(t.o.archive.model.storage_count, 1);
        CHECK_UINT(t.o.archive.model.tensor_count, 1);
        CHECK(root_value(&t)->kind == PSD_KIND_TENSOR);
        CHECK_UINT(t.o.archive.model.tensors[0].dtype, PSD_DTYPE_FLOAT32);
        CHECK(
            psd_span_equal(t.o.archive.model.storages[0].location, PSD_LITERAL("cpu")));
        check_memory(&t, 0, PSD_LITERAL(SIX_FLOATS));
        check_promises(&t.o);
        end(&t);
    }
}

static void
test_kinds_of_storages(void)
{
    static const struct {
        psd_span stream, bytes;
        psd_dtype dtype;
        bool untyped;
    } rows[] = {
        {PSD_LITERAL(STREAM_OF("LongStorage", "0", "N", COUNT_0, "")),
         {NULL, 0},
         PSD_DTYPE_INT64,
         false},
        {PSD_LITERAL(STREAM_OF("ByteStorage", "3", "N", COUNT_3, "abc")),
         PSD_LITERAL("abc"), PSD_DTYPE_UINT8, false},
        /* A view is its part of the root. */
        {PSD_LITERAL(
             STREAM_OF("ShortStorage", "3", VIEW("v", "1", "2"), COUNT_3, "aabbcc")),
         PSD_LITERAL("bbcc"), PSD_DTYPE_INT16, false},
        {PSD_LITERAL(
             HEAD PERSID("Vstorage\nctorch.storage\nUntypedStorage\nVk\nVcpu\nI3\n"
                         "N") "." KEYS(KEY("k")) COUNT_3 "abc"),
         PSD_LITERAL("abc"), PSD_DTYPE_UINT8, true},
        /* What follows is not looked at. */
        {PSD_LITERAL(STREAM_OF("ByteStorage", "3", "N", COUNT_3, "abc") "more"),
         PSD_LITERAL("abc"), PSD_DTYPE_UINT8, false},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        trial t;
        psd_buffer b = storage_program(rows[i].stream);
        try_program(&t, &b);
        CHECK(t.o.status == PSD_OK);
        CHECK_UINT(t.o.archive.model.storage_count, 1);
        CHECK(root_value(&t)->kind == PSD_KIND_TENSOR);
        CHECK_UINT(t.o.archive.model.tensors[0].flags, PSD_TENSOR_STORAGE);
        CHECK_UINT(t.o.archive.model.storages[0].dtype, rows[i].dtype);
        CHECK(t.o.archive.model.storages[0].untyped == rows[i].untyped);
        check_memory(&t, 0, rows[i].bytes);
        check_promises(&t.o);
        end(&t);
    }
}

/* ---------------------------------------------------------------- what stays a call */

static void
stays_a_call(psd_span program, int line)
{
    trial t;
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_span(&b, program);
    try_program(&t, &b);
    bool so = t.o.status == PSD_OK && root_value(&t)->kind == PSD_KIND_CALL;
    CHECK(so);
    if (!so) {
        (void)fprintf(stderr, "  line %d: %s\n", line,
                      t.o.status == PSD_OK ? "another kind" : t.o.err.sentence);
    }
    CHECK_UINT(t.o.archive.model.storage_count, 0);
    end(&t);
}

#define STAYS_A_CALL(program) stays_a_call(PSD_LITERAL(program "."), __LINE__)

static void
test_what_stays_a_call(void)
{
    STAYS_A_CALL(LOADER ")R");
    STAYS_A_CALL(LOADER "NR");
    STAYS_A_CALL(LOADER "(NtR");
    STAYS_A_CALL(LOADER "(C\x03"
                        "abctR");
    STAYS_A_CALL(LOADER "(C\0tR");
    STAYS_A_CALL(LOADER "(C\0NtR");
    STAYS_A_CALL(LOADER "(Vtext\ntR");
    STAYS_A_CALL(LOADER "(c_codecs\nencode\n(Vabc\nVlatin1\ntRtR");
    STAYS_A_CALL(LOADER "(c_codecs\nencode\n(Vabc\nVutf8\ntRtR");
    STAYS_A_CALL(LOADER "(c_codecs\nencode\n(Vabc\ntRtR");
    STAYS_A_CALL(LOADER "(c_codecs\nencode\nNRtR");
    STAYS_A_CALL(LOADER "(c_codecs\nencode\n(C\x03"
                        "abcVlatin1\ntRtR");
    STAYS_A_CALL(LOADER "(c_codecs\ndecode\n(Vabc\nVlatin1\ntRtR");
    STAYS_A_CALL(LOADER "(c_codecs\nencode\n(Vabc\nVlatin1\ntRNbtR");
    STAYS_A_CALL("ctorch.storage\n_load\n(C\0tR");
}

/* The stream is sound, but what was called for is another thing. */
static void
test_streams_of_something_else(void)
{
    static const psd_span streams[] = {
        PSD_LITERAL(HEAD "N." KEYS("")),
        PSD_LITERAL(HEAD V2(STORED("FloatStorage", "k", "6", "N") I("0")
                                TWO_BY_THREE) "." KEYS(KEY("k")) COUNT_6 SIX_FLOATS),
        PSD_LITERAL(HEAD "ca\nb\n." KEYS("")),
    };
    for (size_t i = 0; i < LENGTH(streams); i++) {
        trial t;
        psd_buffer b = storage_program(streams[i]);
        try_program(&t, &b);
        CHECK(t.o.status == PSD_OK);
        CHECK(root_value(&t)->kind == PSD_KIND_CALL);
        CHECK_UINT(t.o.archive.model.storage_count, 0);
        end(&t);
    }
}

/* One level: a stream in a stream in a pickle is nobody's. */
static void
test_a_stream_within_a_stream(void)
{
    psd_buffer inner = storage_program(PSD_LITERAL(SIX_STREAM)), outer;
    psd_buffer_init(&outer, check_alloc(&heap));
    put_text(&outer, LOADER "(");
    psd_buffer stream;
    psd_buffer_init(&stream, check_alloc(&heap));
    psd_put_span(&stream, PSD_LITERAL(HEAD));
    psd_put_span(&stream, psd_buffer_span(&inner));
    psd_put_span(&stream, PSD_LITERAL("]."));
    put_bytes(&outer, psd_buffer_span(&stream));
    put_text(&outer, "tR.");
    psd_buffer_clear(&inner);
    psd_buffer_clear(&stream);
    trial t;
    try_program(&t, &outer);
    CHECK(t.o.status == PSD_OK);
    CHECK(root_value(&t)->kind == PSD_KIND_CALL);
    end(&t);
}

/* What is filled after its birth is not what it was born as. */
static void
test_calls_that_are_filled(void)
{
    static const char *const fillings[] = {"Nb", "(Na", "(Vk\nNu", "Na"};
    for (size_t i = 0; i < LENGTH(fillings); i++) {
        trial t;
        psd_buffer b;
        psd_buffer_init(&b, check_alloc(&heap));
        put_text(&b, LOADER "(");
        put_bytes(&b, PSD_LITERAL(SIX_STREAM));
        put_text(&b, "tR");
        put_text(&b, fillings[i]);
        put_text(&b, ".");
        try_program(&t, &b);
        CHECK(t.o.status != PSD_OK || root_value(&t)->kind == PSD_KIND_CALL);
        CHECK_UINT(t.o.archive.model.storage_count, 0);
        end(&t);
    }
}

/* ---------------------------------------------------------------- faults within */

static void
test_faults_within(void)
{
    static const struct {
        psd_span stream;
        psd_status status;
        const char *sentence;
    } rows[] = {
        {PSD_LITERAL(STREAM_OF("FloatStorage", "6", "N", COUNT_6, "short")),
         PSD_TRUNCATED, "the file ends within a storage"},
        {PSD_LITERAL(MAGIC), PSD_TRUNCATED, "the file ends within its first pickles"},
        {PSD_LITERAL(HEAD "N"), PSD_TRUNCATED, "the file ends within its pickle"},
        {PSD_LITERAL(STREAM_OF("FloatStorage", "7", "N", COUNT_6, SIX_FLOATS)),
         PSD_STORAGE, "a storage has not as many elements as the pickle tells"},
        {PSD_LITERAL(HEAD STORED("NoStorage", "k", "6", "N") "." KEYS("")), PSD_STORAGE,
         "a storage's class is not a storage class of torch"},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        trial t;
        psd_buffer b = storage_program(rows[i].stream);
        size_t at = b.size - 2;
        try_program(&t, &b);
        CHECK(says(&t.o, rows[i].status, rows[i].sentence));
        /* Where the call is, for offsets in the stream are none of the file. */
        CHECK_UINT(t.o.err.offset, at);
        end(&t);
    }
}

/* ---------------------------------------------------------------- again and again */

enum { TIMES = 500 };

/* One stream, loaded often, is one storage. */
static void
test_one_stream_often(void)
{
    trial t;
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    put_text(&b, LOADER "q\x01"
                        "0(");
    put_bytes(&b, PSD_LITERAL(SIX_STREAM));
    put_text(&b, "tq\x02"
                 "0(");
    for (unsigned i = 0; i < TIMES; i++) {
        put_text(&b, "h\x01h\x02R");
    }
    put_text(&b, "t.");
    try_program(&t, &b);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.archive.model.storage_count, 1);
    CHECK_UINT(t.o.archive.model.tensor_count, TIMES);
    end(&t);
}

/* How often the host was asked for a stream. */
typedef struct {
    unsigned calls;
    bool is_storage;
} asked;

static psd_status
count_asking(void *ctx, psd_span stream, psd_storage *storage, bool *is_storage,
             psd_error *err)
{
    asked *a = ctx;
    (void)err;
    a->calls++;
    *is_storage = a->is_storage;
    storage->numel = storage->size = stream.size;
    storage->dtype = PSD_DTYPE_UINT8;
    storage->place = PSD_PLACE_MEMORY;
    storage->at.memory = stream.data;
    return PSD_OK;
}

/* The host reads a stream once, whatever it finds. */
static void
test_the_host_is_asked_once(void)
{
    static const psd_span programs[] = {
        PSD_LITERAL("(" LOADER "q\x01"
                    "0C\x05"
                    "bytes\x85q\x02"
                    "0h\x01h\x02Rh\x01h\x02Rh\x01h\x02Rt."),
        /* One text, encoded again and again. */
        PSD_LITERAL(
            "(" LOADER "q\x01"
            "0c_codecs\nencode\nq\x02"
            "0(Vbytes\nVlatin1\ntq\x03"
            "0"
            "h\x01h\x02h\x03R\x85Rh\x01h\x02h\x03R\x85Rh\x01h\x02h\x03R\x85Rt."),
    };
    for (size_t i = 0; i < 2 * LENGTH(programs); i++) {
        asked a = {.is_storage = i % 2 == 0};
        modelling m;
        psd_limits limits = psd_default_limits();
        run(&m.r, programs[i / 2]);
        CHECK(m.r.status == PSD_OK);
        psd_model_init(&m.model, check_alloc(&m.r.heap), key);
        psd_torch_source source = {
            .dialect = PSD_DIALECT_PLAIN, .embedded = count_asking, .embedded_ctx = &a};
        m.status = psd_torch_read(&m.r.pool, m.r.pickle.root, &source, &limits,
                                  &m.model, &m.r.err);
        CHECK(m.status == PSD_OK);
        CHECK_UINT(a.calls, 1);
        CHECK_UINT(m.model.storage_count, a.is_storage);
        for (unsigned k = 0; k < 3; k++) {
            CHECK(psd_kind_of(&m.r.pool, root_of(&m)->as.items[k]) ==
                  (a.is_storage ? PSD_KIND_TENSOR : PSD_KIND_CALL));
        }
        finish_model(&m);
    }
}

/* One text, decoded once: memory is that of the pickle, not of its calls. */
static void
test_one_text_encoded_often(void)
{
    enum { SIZE = 100000 };
    trial t;
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    put_text(&b, LOADER "q\x01"
                        "0c_codecs\nencode\nq\x02"
                        "0(V");
    psd_put_fill(&b, 'x', SIZE);
    put_text(&b, "\nVlatin1\ntq\x03"
                 "0(");
    for (unsigned i = 0; i < TIMES; i++) {
        put_text(&b, "h\x01h\x02h\x03R\x85R");
    }
    put_text(&b, "t.");
    try_program(&t, &b);
    CHECK(t.o.status == PSD_OK);
    CHECK(t.o.heap.live < 20 * (size_t)SIZE);
    end(&t);
}

/* ---------------------------------------------------------------- within archives */

/* A zip archive's pickle may hold streams beside its own storages. */
static void
test_within_a_zip_archive(void)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    put_text(&b, "(" W2);
    put_text(&b, BEFORE LOADER "(");
    put_bytes(&b, PSD_LITERAL(SIX_STREAM));
    put_text(&b, "tR" BEHIND "t.");
    kit_record records[] = {
        record("m/data.pkl", psd_buffer_span(&b)),
        record("m/data/0", PSD_LITERAL("eightbyt")),
    };
    kit_archive a = kit_build(check_alloc(&heap), records, 2, false);
    trial t;
    t.g = check_guard(a.bytes.data, a.bytes.size);
    open_bytes(&t.o, (psd_span){t.g.data, t.g.size});
    run_archive(&t.o);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.archive.model.storage_count, 2);
    CHECK(psd_archive_storage_entry(&t.o.archive, 0) != NULL);
    CHECK(psd_archive_storage_entry(&t.o.archive, 1) == NULL);
    check_memory(&t, 1, PSD_LITERAL(SIX_FLOATS));
    check_promises(&t.o);
    end(&t);
    psd_buffer_clear(&a.bytes);
    psd_buffer_clear(&b);
}

/* A pickle by itself knows no persistent ids. */
static void
test_persistent_ids_of_a_plain_pickle(void)
{
    trial t;
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    put_text(&b, SIX ".");
    try_program(&t, &b);
    CHECK(t.o.status == PSD_OK);
    CHECK(root_value(&t)->kind == PSD_KIND_PERSID);
    end(&t);
}

/* ---------------------------------------------------------------- damage, memory */

static void
test_damage(void)
{
    for (int as = 0; as < SPELLINGS; as++) {
        psd_buffer b = tensor_program(
            PSD_LITERAL(STREAM_OF("FloatStorage", "6", "N", COUNT_6, SIX_FLOATS)),
            (spelling)as);
        (void)sweep_mutations(psd_buffer_span(&b), PSD_OPEN_PICKLE, 11);
        sweep_truncations(psd_buffer_span(&b), PSD_OPEN_PICKLE, b.size);
        sweep_requests(psd_buffer_span(&b), PSD_OPEN_PICKLE);
        sweep_reads(psd_buffer_span(&b), PSD_OPEN_PICKLE);
        psd_buffer_clear(&b);
    }
}

/* The arena's pages are large: each taking is once the first of a new one. */
static void
test_every_failing_page(void)
{
    psd_buffer b = tensor_program(PSD_LITERAL(SIX_STREAM), AS_ENCODED);
    psd_limits limits = psd_default_limits();
    unsigned failed = 0;
    for (size_t waste = 0; waste < 4096; waste += 8) {
        for (unsigned ahead = 1; ahead < 12; ahead++) {
            opening o;
            open_as(&o, over_map(psd_buffer_span(&b)), PSD_OPEN_PICKLE, &limits, 0);
            CHECK(psd_arena_take(&o.archive.arena, waste) != NULL);
            o.heap.fail_at = o.heap.requests + ahead;
            run_archive(&o);
            CHECK(o.status == PSD_OK || o.status == PSD_NO_MEMORY);
            failed += o.status != PSD_OK;
            close_archive(&o);
        }
    }
    CHECK(failed > 1000);
    psd_buffer_clear(&b);
}

int
main(void)
{
    RUN(test_every_spelling);
    RUN(test_kinds_of_storages);
    RUN(test_what_stays_a_call);
    RUN(test_streams_of_something_else);
    RUN(test_a_stream_within_a_stream);
    RUN(test_calls_that_are_filled);
    RUN(test_faults_within);
    RUN(test_one_stream_often);
    RUN(test_the_host_is_asked_once);
    RUN(test_one_text_encoded_often);
    RUN(test_within_a_zip_archive);
    RUN(test_persistent_ids_of_a_plain_pickle);
    RUN(test_damage);
    RUN(test_every_failing_page);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
