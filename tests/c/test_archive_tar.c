/* SPDX-License-Identifier: Apache-2.0
 *
 * The tar of torch 0.1 as an archive: storages, views of them, tensors by number, and
 * members that do not say what they should.
 */
#include "tar_kit.h"

static check_heap heap;

/* ---------------------------------------------------------------- members */

/* Numbers of 8 bytes, little-endian; bytes behind must be a literal of their own. */
#define N(octal) octal "\0\0\0\0\0\0\0"
/* The rank and four bytes of whatever stood in the writer's memory. */
#define RANK(octal) \
    octal "\0\0\0"  \
          "junk"

#define COUNT(n) "I" n "\n."
#define STORAGE_IS(key, class) "(I" key "\nVcpu\nctorch\n" class "\nt."
#define NO_VIEWS "(l."
#define TENSOR_IS(key, storage, class) "(I" key "\n" storage "ctorch\n" class "\nt."

#define SIX_FLOATS                                           \
    "\0\0\0\0\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40" \
    "\0\0\xa0\x40"
#define ONE_STORAGE STORAGE_IS("1", "FloatStorage") N("\6") SIX_FLOATS
/* 2 by 3 on it; strides of 3 and 1, from its start. */
#define TWO_BY_THREE_IS(key)              \
    TENSOR_IS(key, "I1\n", "FloatTensor") \
    RANK("\2") N("\2") N("\3") N("\3") N("\1") N("\0")

typedef struct {
    psd_span storages, tensors, pickle;
} contents;

#define SOUND                                      \
    {PSD_LITERAL(COUNT("1") ONE_STORAGE NO_VIEWS), \
     PSD_LITERAL(COUNT("1") TWO_BY_THREE_IS("10")), PSD_LITERAL("(dVw\nP10\ns.")}

static psd_buffer
build(const contents *c)
{
    const tar_member members[] = {
        {.name = "sys_info", .data = PSD_LITERAL("(d.")},
        {.name = "pickle", .data = c->pickle},
        {.name = "tensors", .data = c->tensors},
        {.name = "storages", .data = c->storages},
    };
    return tar_build(&heap, members, LENGTH(members), true);
}

typedef struct {
    opening o;
    check_guarded g;
} trial;

static void
try_contents(trial *t, const contents *c)
{
    psd_buffer b = build(c);
    t->g = check_guard(b.data, b.size);
    psd_buffer_clear(&b);
    open_bytes(&t->o, (psd_span){t->g.data, t->g.size});
    run_archive(&t->o);
}

static void
end(trial *t)
{
    close_archive(&t->o);
    check_unguard(&t->g);
}

/* ---------------------------------------------------------------- sound ones */

static void
test_a_small_tar(void)
{
    const contents c = SOUND;
    trial t;
    try_contents(&t, &c);
    CHECK(t.o.status == PSD_OK);
    CHECK(t.o.archive.kind == PSD_ARCHIVE_TAR);
    CHECK(psd_span_equal(t.o.archive.pickle_name, PSD_LITERAL("pickle")));
    const psd_model *m = &t.o.archive.model;
    CHECK_UINT(m->storage_count, 1);
    CHECK_UINT(m->tensor_count, 1);
    CHECK(psd_span_equal(m->storages[0].key, PSD_LITERAL("1")));
    CHECK(psd_span_equal(m->storages[0].location, PSD_LITERAL("cpu")));
    CHECK_UINT(m->storages[0].dtype, PSD_DTYPE_FLOAT32);
    const psd_tensor *x = &m->tensors[0];
    CHECK_UINT(x->dtype, PSD_DTYPE_FLOAT32);
    CHECK(x->rank == 2 && x->shape[0] == 2 && x->shape[1] == 3);
    CHECK(x->strides[0] == 3 && x->strides[1] == 1 && x->offset == 0);
    psd_location where;
    CHECK(psd_archive_locate(&t.o.archive, &t.o.input, 0, &where, &t.o.err) == PSD_OK);
    CHECK(where.place == PSD_PLACE_FILE);
    CHECK(memcmp(t.g.data + where.offset, SIX_FLOATS, 24) == 0);
    const psd_value *root = psd_value_at(&t.o.archive.pool, t.o.archive.pickle.root);
    CHECK(root->kind == PSD_KIND_DICT && root->count == 2);
    CHECK(psd_kind_of(&t.o.archive.pool, root->as.items[1]) == PSD_KIND_TENSOR);
    check_promises(&t.o);
    end(&t);
}

/* A number may be named twice, in digits or as a number, and a storage by itself. */
static void
test_what_a_pickle_names(void)
{
    contents c = SOUND;
    c.pickle = PSD_LITERAL("(P10\nP10\nI10\nQP1\nS'10'\nQt.");
    trial t;
    try_contents(&t, &c);
    CHECK(t.o.status == PSD_OK);
    const psd_value *root = psd_value_at(&t.o.archive.pool, t.o.archive.pickle.root);
    static const unsigned tensors[] = {0, 0, 0, 1, 0};
    for (unsigned i = 0; i < 5; i++) {
        const psd_value *v = psd_value_at(&t.o.archive.pool, root->as.items[i]);
        CHECK(v->kind == PSD_KIND_TENSOR);
        CHECK_UINT(v->as.index, tensors[i]);
    }
    CHECK_UINT(t.o.archive.model.tensors[1].flags, PSD_TENSOR_STORAGE);
    check_promises(&t.o);
    end(&t);
    /* A Parameter of a tensor, and a class with its source. */
    c.pickle =
        PSD_LITERAL("(ctorch.nn.parameter\nParameter\n(P10\ntR(cm\nN\nNNtQ)\x81t.");
    try_contents(&t, &c);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.archive.model.tensors[1].flags,
               PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD);
    end(&t);
}

static void
test_every_storage_class(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        char text[256];
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)i);
        contents c = SOUND;
        psd_buffer b;
        psd_buffer_init(&b, check_alloc(&heap));
        psd_put(&b, text,
                (size_t)snprintf(text, sizeof text,
                                 "I1\n.(I1\nVcuda:0\nctorch.cuda\n%sStorage\nt.",
                                 row->scalar));
        psd_put_u64(&b, 2);
        psd_put_fill(&b, 7, 2u * row->size);
        psd_put(&b, "(l.", 3);
        c.storages = psd_buffer_span(&b);
        c.tensors = PSD_LITERAL(COUNT("1") TENSOR_IS("10", "I1\n", "FloatTensor")
                                    RANK("\1") N("\2") N("\1") N("\0"));
        trial t;
        try_contents(&t, &c);
        CHECK(t.o.status == PSD_OK);
        CHECK_UINT(t.o.archive.model.tensors[0].dtype, i);
        check_promises(&t.o);
        end(&t);
        psd_buffer_clear(&b);
    }
}

/* (key, key of the storage, offset, numel) */
#define VIEWS(views) "(l" views "."
#define VIEW_IS(key, root, offset, numel) \
    "(I" key "\nI" root "\nI" offset "\nI" numel "\nta"

static void
test_views(void)
{
    contents c = SOUND;
    trial t;
    c.storages = PSD_LITERAL(COUNT("1") ONE_STORAGE VIEWS(VIEW_IS(
        "2", "1", "1", "5") VIEW_IS("3", "2", "2", "2") VIEW_IS("4", "3", "2", "0")));
    c.tensors =
        PSD_LITERAL(COUNT("2") TENSOR_IS("10", "I3\n", "FloatTensor") RANK("\1") N("\2")
                        N("\1") N("\0") TENSOR_IS("11", "I4\n", "FloatTensor")
                            RANK("\1") N("\0") N("\1") N("\7"));
    c.pickle = PSD_LITERAL("(P10\nP11\nP2\nt.");
    try_contents(&t, &c);
    CHECK(t.o.status == PSD_OK);
    const psd_model *m = &t.o.archive.model;
    CHECK_UINT(m->storage_count, 4);
    CHECK_UINT(m->storages[2].parent, 0);
    CHECK_UINT(m->storages[2].parent_offset, 12);
    CHECK_UINT(m->tensors[0].storage, 0);
    CHECK_UINT(m->tensors[0].offset, 3);
    CHECK_UINT(m->tensors[2].offset, 1);
    CHECK_UINT(m->tensors[2].numel, 5);
    check_promises(&t.o);
    end(&t);
}

/* A tensor without a storage is one of no elements; its class tells the dtype. */
static void
test_tensors_without_a_storage(void)
{
    contents c = SOUND;
    trial t;
    c.tensors = PSD_LITERAL(COUNT("1") TENSOR_IS("10", "N", "DoubleTensor") RANK("\1")
                                N("\0") N("\1") N("\0"));
    try_contents(&t, &c);
    CHECK(t.o.status == PSD_OK);
    CHECK_UINT(t.o.archive.model.tensors[0].dtype, PSD_DTYPE_FLOAT64);
    CHECK_UINT(t.o.archive.model.tensors[0].numel, 0);
    check_promises(&t.o);
    end(&t);
}

/* ---------------------------------------------------------------- refusals */

static void
refuse(const contents *c, psd_status status, const char *sentence, const char *entry,
       int line)
{
    trial t;
    try_contents(&t, c);
    bool same = says(&t.o, status, sentence) && ABOUT_ENTRY(&t.o, entry);
    CHECK(same);
    if (!same) {
        (void)fprintf(stderr, "  line %d: %.*s\n", line, (int)t.o.err.entry_size,
                      (const char *)t.o.err.entry);
    }
    CHECK(t.o.err.offset <= t.g.size);
    end(&t);
}

static void
refuse_storages(psd_span storages, psd_status status, const char *sentence, int line)
{
    contents c = SOUND;
    c.storages = storages;
    refuse(&c, status, sentence, "storages", line);
}

static void
refuse_tensors(psd_span tensors, psd_status status, const char *sentence, int line)
{
    contents c = SOUND;
    c.tensors = tensors;
    refuse(&c, status, sentence, "tensors", line);
}

#define BAD_STORAGES(text, ...) \
    refuse_storages(PSD_LITERAL(text), __VA_ARGS__, __LINE__)
#define BAD_TENSORS(text, ...) refuse_tensors(PSD_LITERAL(text), __VA_ARGS__, __LINE__)

static void
test_storages_that_are_refused(void)
{
    static const char first[] = "the member does not begin with a number";
    static const char parts[] =
        "an entry of the member has not as many parts as it must";
    static const char ends[] = "the member ends within a storage";
    static const char pickle[] = "the member ends within a pickle";
    static const char facts[] = "a call in a pickle that holds only facts";
    BAD_STORAGES("N.", PSD_TAR, first);
    BAD_STORAGES("I-1\n.", PSD_TAR, first);
    BAD_STORAGES("", PSD_TRUNCATED, pickle);
    BAD_STORAGES("I1\n", PSD_TRUNCATED, pickle);
    BAD_STORAGES(COUNT("1"), PSD_TRUNCATED, pickle);
    BAD_STORAGES(COUNT("9223372036854775807") ONE_STORAGE, PSD_TRUNCATED, pickle);
    BAD_STORAGES(COUNT("1") "N.", PSD_TAR, parts);
    BAD_STORAGES(COUNT("1") "(I1\nVcpu\nt.", PSD_TAR, parts);
    BAD_STORAGES(COUNT("1") "(NVcpu\nctorch\nFloatStorage\nt." N("\6") SIX_FLOATS,
                 PSD_TAR, "a storage or tensor without a number");
    BAD_STORAGES(COUNT("1") "(I1\nVcpu\nctorch\nFloat\nt." N("\6") SIX_FLOATS,
                 PSD_STORAGE, "a storage's class is not a storage class of torch");
    BAD_STORAGES(COUNT("1") "(I1\nVcpu\nNt." N("\6") SIX_FLOATS, PSD_STORAGE,
                 "a storage's class is not a storage class of torch");
    BAD_STORAGES(COUNT("1") STORAGE_IS("1", "FloatStorage") "\6\0\0", PSD_TRUNCATED,
                 "the member ends within its numbers");
    BAD_STORAGES(COUNT("1") STORAGE_IS("1", "FloatStorage") N("\7") SIX_FLOATS,
                 PSD_TRUNCATED, ends);
    BAD_STORAGES(COUNT("1") STORAGE_IS("1", "FloatStorage") "\0\0\0\0\0\0\0\x40",
                 PSD_TRUNCATED, ends);
    BAD_STORAGES(COUNT("1")
                     STORAGE_IS("1", "FloatStorage") "\xff\xff\xff\xff\xff\xff\xff\xff",
                 PSD_TRUNCATED, ends);
    BAD_STORAGES(COUNT("2") ONE_STORAGE ONE_STORAGE NO_VIEWS, PSD_TAR,
                 "two storages or tensors have one number");
    BAD_STORAGES(COUNT("1") ONE_STORAGE, PSD_TRUNCATED, pickle);
    BAD_STORAGES(COUNT("1") ONE_STORAGE "N.", PSD_TAR,
                 "the member does not end with a list of views");
    BAD_STORAGES(COUNT("1") "ca\nb\n)R.", PSD_CALL, facts);
    BAD_STORAGES(COUNT("1") "NQ.", PSD_CALL, facts);
    BAD_STORAGES(COUNT("1") "\x97.", PSD_OPCODE,
                 "an opcode that needs a buffer outside the file");
}

static void
test_views_that_are_refused(void)
{
    static const char parts[] =
        "an entry of the member has not as many parts as it must";
    static const char beyond[] = "a storage's view reaches beyond it";
#define BAD_VIEWS(views, ...) \
    BAD_STORAGES(COUNT("1") ONE_STORAGE VIEWS(views), __VA_ARGS__)
    BAD_VIEWS("Na", PSD_TAR, parts);
    BAD_VIEWS("(I2\nI1\nI0\nta", PSD_TAR, parts);
    BAD_VIEWS("(NI1\nI0\nI1\nta", PSD_TAR, "a storage or tensor without a number");
    BAD_VIEWS("(I2\nNI0\nI1\nta", PSD_TAR, "a storage or tensor without a number");
    BAD_VIEWS(VIEW_IS("2", "7", "0", "1"), PSD_TAR,
              "a view of a storage that there is not");
    BAD_VIEWS(VIEW_IS("2", "2", "0", "1"), PSD_TAR,
              "a view of a storage that there is not");
    BAD_VIEWS(VIEW_IS("1", "1", "0", "1"), PSD_TAR,
              "two storages or tensors have one number");
    BAD_VIEWS(VIEW_IS("2", "1", "6", "1"), PSD_TAR, beyond);
    BAD_VIEWS(VIEW_IS("2", "1", "7", "0"), PSD_TAR, beyond);
    BAD_VIEWS(VIEW_IS("2", "1", "-1", "1"), PSD_TAR, beyond);
    BAD_VIEWS(VIEW_IS("2", "1", "1", "-1"), PSD_TAR, beyond);
    BAD_VIEWS(VIEW_IS("2", "1", "1", "9223372036854775807"), PSD_TAR, beyond);
    BAD_VIEWS("(I2\nI1\nNI1\nta", PSD_TAR, beyond);
    BAD_VIEWS(VIEW_IS("2", "1", "1", "2") VIEW_IS("3", "2", "1", "2"), PSD_TAR, beyond);
#undef BAD_VIEWS
}

static void
test_tensors_that_are_refused(void)
{
    static const char numbers[] = "the member ends within its numbers";
    static const char rank[] = "a tensor has a rank that none has";
    static const char beyond[] = "a tensor reaches beyond its storage";
#define FLOATS(storage) TENSOR_IS("10", storage, "FloatTensor")
    BAD_TENSORS("N.", PSD_TAR, "the member does not begin with a number");
    BAD_TENSORS(COUNT("2") TWO_BY_THREE_IS("10"), PSD_TRUNCATED,
                "the member ends within a pickle");
    BAD_TENSORS(COUNT("1") "(I10\nI1\nt.", PSD_TAR,
                "an entry of the member has not as many parts as it must");
    BAD_TENSORS(COUNT("1") TENSOR_IS("10", "I2\n", "FloatTensor"), PSD_TAR,
                "a tensor of a storage that there is not");
    BAD_TENSORS(COUNT("1") TENSOR_IS("10", "V1\n", "FloatTensor"), PSD_TAR,
                "a storage or tensor without a number");
    BAD_TENSORS(COUNT("1") "(NI1\nctorch\nFloatTensor\nt.", PSD_TAR,
                "a storage or tensor without a number");
    BAD_TENSORS(COUNT("1") TENSOR_IS("10", "N", "FloatStorage"), PSD_TAR,
                "a tensor without a storage and without a dtype");
    BAD_TENSORS(COUNT("1") "(I10\nNNt.", PSD_TAR,
                "a tensor without a storage and without a dtype");
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") "\1\0\0", PSD_TRUNCATED, numbers);
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\1") N("\6") N("\1"), PSD_TRUNCATED,
                numbers);
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\x41"), PSD_TENSOR, rank);
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") "\xff\xff\xff\xffjunk", PSD_TENSOR, rank);
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\1") N("\7") N("\1") N("\0"),
                PSD_TENSOR, beyond);
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\1") N("\6") N("\1") N("\1"),
                PSD_TENSOR, beyond);
    BAD_TENSORS(COUNT("1") FLOATS("N") RANK("\1") N("\1") N("\1") N("\0"), PSD_TENSOR,
                beyond);
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\1") N("\1")
                    N("\1") "\xff\xff\xff\xff\xff\xff\xff\xff",
                PSD_TENSOR, "a tensor's storage offset is negative");
    BAD_TENSORS(COUNT("1") FLOATS("I1\n")
                    RANK("\1") "\xff\xff\xff\xff\xff\xff\xff\xff" N("\1") N("\0"),
                PSD_TENSOR, "a tensor's size is negative");
    /* Behind a size of nothing as well. */
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\2")
                    N("\0") "\xff\xff\xff\xff\xff\xff\xff\xff" N("\1") N("\1") N("\0"),
                PSD_TENSOR, "a tensor's size is negative");
    BAD_TENSORS(COUNT("1") FLOATS("I1\n") RANK("\1")
                    N("\2") "\xff\xff\xff\xff\xff\xff\xff\xff" N("\0"),
                PSD_TENSOR, "a tensor's stride is negative");
    BAD_TENSORS(COUNT("1") FLOATS("I1\n")
                    RANK("\2") "\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0" N("\0") N("\0")
                        N("\0"),
                PSD_TENSOR, "a tensor's number of elements overflows");
    BAD_TENSORS(COUNT("2") TWO_BY_THREE_IS("10") TWO_BY_THREE_IS("10"), PSD_TAR,
                "two storages or tensors have one number");
    BAD_TENSORS(COUNT("1") TWO_BY_THREE_IS("1"), PSD_TAR,
                "two storages or tensors have one number");
#undef FLOATS
}

static void
test_names_that_are_refused(void)
{
    static const char none[] = "a persistent id that names no storage and no tensor";
    static const psd_span pickles[] = {
        PSD_LITERAL("P11\n."), PSD_LITERAL("P010\n."),  PSD_LITERAL("P\n."),
        PSD_LITERAL("NQ."),    PSD_LITERAL("I-10\nQ."), PSD_LITERAL("(I1\ntQ."),
        PSD_LITERAL(")Q."),
    };
    for (size_t i = 0; i < LENGTH(pickles); i++) {
        contents c = SOUND;
        c.pickle = pickles[i];
        refuse(&c, PSD_STORAGE, none, "pickle", __LINE__);
    }
    contents c = SOUND;
    c.pickle = PSD_LITERAL("(VN\nNNtQ.");
    refuse(&c, PSD_CALL, "a class that is not named but made", "pickle", __LINE__);
    c.pickle = PSD_LITERAL("(P10\n");
    refuse(&c, PSD_PICKLE_END, "the pickle ends before its STOP", "pickle", __LINE__);
}

static void
test_the_highest_rank(void)
{
    for (unsigned rank = 63; rank <= 65; rank++) {
        psd_buffer b;
        contents c = SOUND;
        trial t;
        psd_buffer_init(&b, check_alloc(&heap));
        const psd_span start =
            PSD_LITERAL(COUNT("1") TENSOR_IS("10", "I1\n", "FloatTensor"));
        psd_put_span(&b, start);
        psd_put_u32(&b, rank);
        psd_put_u32(&b, 0xffffffff);
        for (unsigned i = 0; i < 2 * rank; i++) {
            psd_put_u64(&b, 1);
        }
        psd_put_u64(&b, 5);
        c.tensors = psd_buffer_span(&b);
        try_contents(&t, &c);
        CHECK((t.o.status == PSD_OK) == (rank <= 64));
        CHECK(rank > 64 || t.o.archive.model.tensors[0].offset == 5);
        end(&t);
        psd_buffer_clear(&b);
    }
}

/* ---------------------------------------------------------------- damage, memory */

static psd_buffer
with_views(void)
{
    const contents c = {
        PSD_LITERAL(COUNT("1") ONE_STORAGE VIEWS(VIEW_IS("2", "1", "1", "5"))),
        PSD_LITERAL(COUNT("2") TWO_BY_THREE_IS("10") TENSOR_IS("11", "N", "IntTensor")
                        RANK("\1") N("\0") N("\1") N("\0")),
        PSD_LITERAL("(P10\nP11\nP2\nt."),
    };
    return build(&c);
}

/* The members' own bytes; their headers have checksums. */
static void
test_every_mutation(void)
{
    psd_buffer b = with_views();
    check_guarded g = check_guard(b.data, b.size);
    unsigned passed = 0;
    for (size_t i = 0; i < g.size; i++) {
        if (b.data[i] == 0 && i % 512 > 256) {
            continue; /* fillings */
        }
        for (unsigned change = 1; change < 256; change += 7) {
            g.data[i] = (uint8_t)(b.data[i] ^ change);
            passed +=
                sweep_both((psd_span){g.data, g.size}, PSD_OPEN_CHECKPOINT) == PSD_OK;
        }
        g.data[i] = b.data[i];
    }
    CHECK(passed > 0);
    check_unguard(&g);
    psd_buffer_clear(&b);
}

static void
test_every_truncation(void)
{
    psd_buffer b = with_views();
    for (size_t size = 0; size < b.size; size += size % 512 > 200 ? 56 : 1) {
        check_guarded g = check_guard(b.data, size);
        psd_status status = sweep_both((psd_span){g.data, g.size}, PSD_OPEN_CHECKPOINT);
        CHECK(size < 512 || status == PSD_OK || status == PSD_TRUNCATED);
        CHECK(status != PSD_OK || size > 7 * 512);
        check_unguard(&g);
    }
    psd_buffer_clear(&b);
}

static void
test_every_failing_request(void)
{
    psd_buffer b = with_views();
    sweep_requests(psd_buffer_span(&b), PSD_OPEN_CHECKPOINT);
    sweep_reads(psd_buffer_span(&b), PSD_OPEN_CHECKPOINT);
    sweep_lies(psd_buffer_span(&b), PSD_OPEN_CHECKPOINT);
    psd_buffer_clear(&b);
}

/* Very many small pickles: from afar each is asked for by little. */
static void
test_many_storages(void)
{
    enum { MANY = 3000 };
    char text[128];
    contents c = SOUND;
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put(&b, text, (size_t)snprintf(text, sizeof text, "I%d\n.", MANY));
    for (unsigned i = 0; i < MANY; i++) {
        psd_put(&b, text,
                (size_t)snprintf(text, sizeof text,
                                 "(I%u\nVcpu\nctorch\nByteStorage\nt.", i));
        psd_put_u64(&b, 1);
        psd_put_u8(&b, (uint8_t)i);
    }
    psd_put(&b, "(l.", 3);
    c.storages = psd_buffer_span(&b);
    c.tensors = PSD_LITERAL(COUNT("0"));
    c.pickle = PSD_LITERAL("P7\n.");
    psd_buffer file = build(&c);
    remote far = {.file = psd_buffer_span(&file)};
    opening o;
    psd_limits limits = psd_default_limits();
    open_input(&o, over_remote(&far), &limits, 0);
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.storage_count, MANY);
    CHECK(far.bytes < (uint64_t)MANY * 5000);
    CHECK(o.heap.live < (size_t)MANY * 400);
    close_archive(&o);
    psd_buffer_clear(&file);
    psd_buffer_clear(&b);
}

int
main(void)
{
    RUN(test_a_small_tar);
    RUN(test_what_a_pickle_names);
    RUN(test_every_storage_class);
    RUN(test_views);
    RUN(test_tensors_without_a_storage);
    RUN(test_storages_that_are_refused);
    RUN(test_views_that_are_refused);
    RUN(test_tensors_that_are_refused);
    RUN(test_names_that_are_refused);
    RUN(test_the_highest_rank);
    RUN(test_every_mutation);
    RUN(test_every_truncation);
    RUN(test_every_failing_request);
    RUN(test_many_storages);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
