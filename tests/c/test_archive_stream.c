/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy streams as archives: storages in their order, views of them, classes with
 * source texts, and what a list of storages may not say.
 */
#include "archive_sweep.h"
#include "stream_kit.h"

/* ---------------------------------------------------------------- a sound one */

#define SIX_STORED STORED("FloatStorage", "a", "6", "N")
#define TWO_STORED STORED("ByteStorage", "b", "2", "N")
#define WINDOW_OF(stored, size, stride) V2(stored I("0") size stride)
#define W WINDOW_OF(SIX_STORED, "(I2\nI3\nt", "(I3\nI1\nt")
#define B WINDOW_OF(TWO_STORED, "(I2\nt", "(I1\nt")

/* {'w': 2 by 3 floats, 'b': two bytes} */
#define SOUND                                                    \
    HEAD "\x80\x02(Vw\n" W "Vb\n" B "d." KEYS(KEY("a") KEY("b")) \
        COUNT_6 SIX_FLOATS COUNT_2 "xy"

static void
open_stream(opening *o, check_guarded *g, psd_span file)
{
    *g = check_guard(file.data, file.size);
    open_bytes(o, (psd_span){g->data, g->size});
    run_archive(o);
}

static void
end(opening *o, check_guarded *g)
{
    close_archive(o);
    check_unguard(g);
}

/* The bytes of a storage in the file. */
static psd_span
bytes_of(opening *o, uint32_t storage)
{
    psd_location where;
    CHECK(psd_archive_locate(&o->archive, &o->input, storage, &where, &o->err) ==
          PSD_OK);
    CHECK(where.place == PSD_PLACE_FILE);
    if (where.place != PSD_PLACE_FILE) {
        return (psd_span){NULL, 0};
    }
    return (psd_span){o->input.data + where.offset,
                      (size_t)o->archive.model.storages[storage].size};
}

static void
test_a_small_stream(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g, PSD_LITERAL(SOUND));
    CHECK(o.status == PSD_OK);
    CHECK(o.archive.kind == PSD_ARCHIVE_STREAM);
    CHECK_UINT(o.archive.model.storage_count, 2);
    CHECK_UINT(o.archive.model.tensor_count, 2);
    CHECK(psd_span_equal(bytes_of(&o, 0), PSD_LITERAL(SIX_FLOATS)));
    CHECK(psd_span_equal(bytes_of(&o, 1), PSD_LITERAL("xy")));
    CHECK(psd_archive_storage_entry(&o.archive, 0) == NULL);
    CHECK_UINT(o.archive.end_offset, g.size);
    CHECK_UINT(o.archive.program_offset, sizeof(HEAD) - 1);
    CHECK_UINT(o.archive.program.data[0], 0x80);
    check_promises(&o);
    end(&o, &g);
}

/* What follows is another's: another stream, say. */
static void
test_bytes_behind(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g, PSD_LITERAL(SOUND SOUND));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.end_offset, sizeof(SOUND) - 1);
    end(&o, &g);
}

/* Any order of the list, and any text for a key. */
static void
test_keys(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g,
                PSD_LITERAL(HEAD "(" W B "l." KEYS(KEY("b") KEY("a")) COUNT_2
                            "xy" COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    CHECK(psd_span_equal(bytes_of(&o, 0), PSD_LITERAL(SIX_FLOATS)));
    CHECK(psd_span_equal(bytes_of(&o, 1), PSD_LITERAL("xy")));
    end(&o, &g);
    open_stream(
        &o, &g,
        PSD_LITERAL(HEAD WINDOW_OF(STORED("ByteStorage", "../x", "2", "N"), "(I2\nt",
                                   "(I1\nt") "." KEYS(KEY("../x")) COUNT_2 "xy"));
    CHECK(o.status == PSD_OK);
    end(&o, &g);
}

/* ---------------------------------------------------------------- ties and views */

static void
test_ties(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g,
                PSD_LITERAL(HEAD "(" W WINDOW_OF(SIX_STORED, "(I3\nI2\nt",
                                                 "(I1\nI3\nt") "t." KEYS(KEY("a"))
                                COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.storage_count, 1);
    CHECK_UINT(o.archive.model.tensors[0].storage, 0);
    CHECK_UINT(o.archive.model.tensors[1].storage, 0);
    end(&o, &g);
}

#define VIEWED(offset, numel) \
    STORED("FloatStorage", "a", "6", VIEW("v" offset, offset, numel))

/* A view is a part of its root, in elements; tensors on it look at the root. */
static void
test_views(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g,
                PSD_LITERAL(HEAD "(" WINDOW_OF(VIEWED("2", "4"), "(I2\nt", "(I2\nt") W
                            "t." KEYS(KEY("a")) COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    const psd_model *m = &o.archive.model;
    CHECK_UINT(m->storage_count, 2);
    CHECK_UINT(m->tensors[0].storage, 0);
    CHECK_UINT(m->tensors[0].offset, 2);
    CHECK_UINT(m->tensors[1].offset, 0);
    CHECK_UINT(m->storages[1].parent, 0);
    CHECK_UINT(m->storages[1].parent_offset, 8);
    CHECK_UINT(m->storages[1].size, 16);
    check_promises(&o);
    end(&o, &g);
    /* A view by itself, and one of nothing. */
    open_stream(&o, &g,
                PSD_LITERAL(HEAD "(" VIEWED("1", "3") VIEWED("6", "0") "t." KEYS(
                    KEY("a")) COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.tensor_count, 2);
    CHECK_UINT(o.archive.model.tensors[0].offset, 1);
    CHECK_UINT(o.archive.model.tensors[0].numel, 3);
    CHECK_UINT(o.archive.model.tensors[0].flags, PSD_TENSOR_STORAGE);
    CHECK_UINT(o.archive.model.tensors[1].numel, 0);
    check_promises(&o);
    end(&o, &g);
    /* A view seen in another dtype. */
    open_stream(&o, &g,
                PSD_LITERAL(HEAD CALL("_rebuild_tensor_v3",
                                      VIEWED("1", "5")
                                          I("0") "(I2\nt(I1\nt" FALSE_ HOOKS
                                                 "ctorch\nint16\n") "." KEYS(KEY("a"))
                                COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.tensors[0].offset, 2);
    check_promises(&o);
    end(&o, &g);
}

static void
refuse(psd_span file, psd_status status, const char *sentence, const char *subject,
       int line)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g, file);
    bool same = says(&o, status, sentence) && ABOUT_SUBJECT(&o, subject);
    CHECK(same);
    if (!same) {
        (void)fprintf(stderr, "  line %d\n", line);
    }
    CHECK(o.err.offset <= file.size);
    end(&o, &g);
}

#define REFUSE(file, ...) refuse(PSD_LITERAL(file), __VA_ARGS__, __LINE__)
#define OF_VIEW(view) \
    HEAD STORED("FloatStorage", "a", "6", view) "." KEYS(KEY("a")) COUNT_6 SIX_FLOATS

static void
test_views_that_are_none(void)
{
    static const char parts[] = "a storage's view has not three parts";
    static const char beyond[] = "a storage's view reaches beyond it";
    static const char whole[] = "a storage's number of elements is not a whole number";
    static const char twice[] = "two persistent ids tell differently of one storage";
    REFUSE(OF_VIEW("I1\n"), PSD_STORAGE, parts, "a");
    REFUSE(OF_VIEW("(Vv\nI0\nt"), PSD_STORAGE, parts, "a");
    REFUSE(OF_VIEW("(Vv\nI0\nI1\nNt"), PSD_STORAGE, parts, "a");
    REFUSE(OF_VIEW("(NI0\nI1\nt"), PSD_STORAGE,
           "a storage's key is neither text nor a whole number", "a");
    REFUSE(OF_VIEW("(Vv\nNI1\nt"), PSD_STORAGE, whole, "a");
    REFUSE(OF_VIEW("(Vv\nI0\nI-1\nt"), PSD_STORAGE, whole, "a");
    REFUSE(OF_VIEW("(Vv\nI4\nI3\nt"), PSD_STORAGE, beyond, "a");
    REFUSE(OF_VIEW("(Vv\nI7\nI0\nt"), PSD_STORAGE, beyond, "a");
    REFUSE(OF_VIEW("(Vv\nI2305843009213693951\nI2\nt"), PSD_STORAGE, beyond, "a");
    REFUSE(OF_VIEW("(Vv\nI4611686018427387904\nI2\nt"), PSD_STORAGE,
           "a storage's size in bytes overflows", "a");
    REFUSE(OF_VIEW("(Va\nI1\nI2\nt"), PSD_STORAGE, twice, "a");
    REFUSE(HEAD "(" VIEWED("1", "2")
               STORED("FloatStorage", "a", "6", "(Vv1\nI1\nI3\nt") "t." KEYS(KEY("a"))
                   COUNT_6 SIX_FLOATS,
           PSD_STORAGE, twice, "v1");
    /* Within an element of another dtype. */
    REFUSE(HEAD CALL("_rebuild_tensor_v3",
                     STORED("ByteStorage", "a", "6", VIEW("v", "1", "4"))
                         I("0") "(I2\nt(I1\nt" FALSE_ HOOKS
                                "ctorch\nint16\n") "." KEYS(KEY("a")) COUNT_6 "sixbyt",
           PSD_TENSOR, "a tensor begins within an element", "_rebuild_tensor_v3");
    /* Only streams have six parts. */
    REFUSE(HEAD PERSID("Vstorage\nctorch\nFloatStorage\nVa\nVcpu\nI6\nNN") "." KEYS(""),
           PSD_STORAGE, "a storage's persistent id does not have six parts", "");
}

/* ---------------------------------------------------------------- the list of storages */

static void
test_lists_that_do_not_fit(void)
{
    REFUSE(HEAD W "." KEYS(""), PSD_STORAGE, "a storage is missing in the file's list",
           "a");
    REFUSE(HEAD W "." KEYS(KEY("b")) COUNT_6 SIX_FLOATS, PSD_STORAGE,
           "a storage is listed that the pickle does not know", "b");
    REFUSE(HEAD W "." KEYS(KEY("a") KEY("a")) COUNT_6 SIX_FLOATS COUNT_6 SIX_FLOATS,
           PSD_STORAGE, "a storage is listed twice", "a");
    REFUSE(HEAD VIEWED("1", "2") "." KEYS(KEY("v1")) COUNT_2 "12345678", PSD_STORAGE,
           "a view of a storage is listed", "v1");
    REFUSE(HEAD W "." KEYS(KEY("a")) COUNT_3 SIX_FLOATS, PSD_STORAGE,
           "a storage has not as many elements as the pickle tells", "a");
    REFUSE(HEAD W "." KEYS(KEY("a")) COUNT_6 "short", PSD_TRUNCATED,
           "the file ends within a storage", "a");
    REFUSE(HEAD W "." KEYS(KEY("a")) "\6", PSD_TRUNCATED,
           "the file ends before a storage", "a");
    REFUSE(HEAD W "." KEYS(KEY("a")), PSD_TRUNCATED, "the file ends before a storage",
           "a");
}

/* A storage without bytes need not be listed, and may share its key with others. */
static void
test_empty_storages(void)
{
    opening o;
    check_guarded g;
#define EMPTY(class) WINDOW_OF(STORED(class, "0", "0", "N"), "(I0\nt", "(I1\nt")
    open_stream(&o, &g,
                PSD_LITERAL(HEAD "(" EMPTY("FloatStorage")
                                EMPTY("LongStorage") "t." KEYS(KEY("0")) COUNT_0));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.tensors[0].dtype, PSD_DTYPE_FLOAT32);
    CHECK_UINT(o.archive.model.tensors[1].dtype, PSD_DTYPE_INT64);
    check_promises(&o);
    end(&o, &g);
    open_stream(&o, &g, PSD_LITERAL(HEAD EMPTY("FloatStorage") "." KEYS("")));
    CHECK(o.status == PSD_OK);
    end(&o, &g);
#undef EMPTY
}

/* Untyped storages count bytes, and torch itself cannot read them back. */
static void
test_untyped_storages(void)
{
    opening o;
    check_guarded g;
    open_stream(
        &o, &g,
        PSD_LITERAL(HEAD CALL(
            "_rebuild_tensor_v3",
            PERSID("Vstorage\nctorch.storage\nUntypedStorage\nVa\nVcpu\nI6\nN")
                I("1") "(I2\nt(I1\nt" FALSE_ HOOKS
                       "ctorch\nuint16\n") "." KEYS(KEY("a")) COUNT_6 "abcdef"));
    CHECK(o.status == PSD_OK);
    CHECK(o.archive.model.storages[0].untyped);
    CHECK(psd_span_equal(bytes_of(&o, 0), PSD_LITERAL("abcdef")));
    check_promises(&o);
    end(&o, &g);
}

/* ---------------------------------------------------------------- classes */

#define CLASS(class, file, source) PERSID("Vmodule\nc" class "\n" file source)

/* A class that came with its source is the class; the text is nobody's. */
static void
test_classes_with_source(void)
{
    opening o;
    check_guarded g;
    open_stream(
        &o, &g,
        PSD_LITERAL(HEAD CLASS("models\nNet", "Vnet.py\n",
                               "Vclass Net: pass\n") ")\x81(V_parameters\n(Vw\n" W
                                                     "dV_modules\n(ddb." KEYS(KEY("a"))
                                                         COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.module_count, 1);
    const psd_pool *pool = &o.archive.pool;
    const psd_call *call = psd_value_at(pool, o.archive.pickle.root)->as.call;
    const psd_value *class = psd_value_at(pool, call->callable);
    CHECK(class->kind == PSD_KIND_GLOBAL);
    CHECK(psd_span_equal(class->as.global->name, PSD_LITERAL("Net")));
    end(&o, &g);
    open_stream(&o, &g, PSD_LITERAL(HEAD CLASS("a\nB", "N", "N") "." KEYS("")));
    CHECK(o.status == PSD_OK);
    CHECK(psd_kind_of(&o.archive.pool, o.archive.pickle.root) == PSD_KIND_GLOBAL);
    end(&o, &g);
    REFUSE(HEAD PERSID("Vmodule\nVNet\nNN") "." KEYS(""), PSD_CALL,
           "a class that is not named but made", "");
    REFUSE(HEAD PERSID("Vmodule\nca\nB\n)RNN") "." KEYS(""), PSD_CALL,
           "a class that is not named but made", "");
    REFUSE(HEAD PERSID("Vmodule\nca\nB\nN") "." KEYS(""), PSD_STORAGE,
           "a persistent id that does not name a storage", "");
}

/* ---------------------------------------------------------------- other writers */

#define OLD_HEAD "L119547037146038801333356L\n.I1001\n.(d."

/* Python 2 and protocols 0 and 1. */
static void
test_old_pickles(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g,
                PSD_LITERAL(OLD_HEAD "(dp0\nS'w'\n" CALL(
                    "_rebuild_tensor",
                    PERSID("S'storage'\nctorch\nFloatStorage\nS'a'\nS'cpu'\nL6L\nN")
                        I("0") "(I6\nt(I1\nt") "s.(lS'a'\na." COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.pickle.protocol, 0);
    CHECK_UINT(o.archive.model.tensors[0].numel, 6);
    end(&o, &g);
    /* Protocol 0 writes a tuple as its text: nothing can be made of it. */
    REFUSE(OLD_HEAD "P('storage', torch.FloatStorage, 'a')\n.(l.", PSD_STORAGE,
           "a persistent id that does not name a storage", "");
    /* Five parts, as nobody wrote them, yet plain enough. */
    open_stream(&o, &g,
                PSD_LITERAL(HEAD WINDOW_OF(SIX, "(I6\nt", "(I1\nt") "." KEYS(KEY("0"))
                                COUNT_6 SIX_FLOATS));
    CHECK(o.status == PSD_OK);
    end(&o, &g);
}

/* Counts in the byte order of a machine that wrote its elements in the other. */
static void
test_counts_of_big_endian_machines(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g,
                PSD_LITERAL(HEAD B "." KEYS(KEY("b")) "\0\0\0\0\0\0\0\2"
                                                      "xy"));
    CHECK(o.status == PSD_OK);
    CHECK(psd_span_equal(bytes_of(&o, 0), PSD_LITERAL("xy")));
    end(&o, &g);
}

/* ---------------------------------------------------------------- damage */

static void
test_what_breaks_off(void)
{
    opening o;
    check_guarded g;
    open_stream(&o, &g, PSD_LITERAL(HEAD "\x80\x02(VN\n"));
    CHECK(says(&o, PSD_TRUNCATED, "the file ends within its pickle"));
    end(&o, &g);
    /* Damage within it is told as such. */
    open_stream(&o, &g, PSD_LITERAL(HEAD "\x80\x02R(VN\n"));
    CHECK(o.status == PSD_PICKLE);
    end(&o, &g);
    /* The first bytes alone tell what it is. */
    open_stream(&o, &g, PSD_LITERAL(MAGIC));
    CHECK(says(&o, PSD_TRUNCATED, "the file ends within its first pickles"));
    CHECK(o.archive.kind == PSD_ARCHIVE_STREAM);
    end(&o, &g);
}

static const psd_span sound = PSD_LITERAL(SOUND);

static void
test_every_mutation(void)
{
    unsigned passed = sweep_mutations(sound, PSD_OPEN_CHECKPOINT, 7);
    /* Floats, bytes, facts and names may be any: most of the file is not checked. */
    CHECK(passed < sound.size * 37 / 2);
}

static void
test_every_truncation(void)
{
    sweep_truncations(sound, PSD_OPEN_CHECKPOINT, sound.size);
}

static void
test_every_failing_request(void)
{
    const psd_span views = PSD_LITERAL(HEAD "(" VIEWED("1", "3") W CLASS(
        "a\nB", "N", "N") "t." KEYS(KEY("a")) COUNT_6 SIX_FLOATS);
    sweep_requests(sound, PSD_OPEN_CHECKPOINT);
    sweep_requests(views, PSD_OPEN_CHECKPOINT);
    sweep_reads(sound, PSD_OPEN_CHECKPOINT);
}

static void
test_a_source_that_lies(void)
{
    sweep_lies(sound, PSD_OPEN_CHECKPOINT);
}

/* Everything is judged by copies: the file may change after it was opened. */
static void
test_a_file_that_changes(void)
{
    opening o;
    check_guarded g = check_guard(sound.data, sound.size);
    open_bytes(&o, (psd_span){g.data, g.size});
    memset(g.data, 0xee, g.size);
    run_archive(&o);
    CHECK(says(&o, PSD_STORAGE,
               "a storage has not as many elements as the pickle tells"));
    end(&o, &g);
}

/* Many storages cost what they take. */
static void
test_many_storages(void)
{
    enum { MANY = 20000 };
    check_heap heap = {0};
    psd_buffer b, keys;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_buffer_init(&keys, check_alloc(&heap));
    psd_put_span(&b, PSD_LITERAL(HEAD "("));
    psd_put_u8(&keys, '(');
    for (unsigned i = 0; i < MANY; i++) {
        char text[160];
        psd_put(&b, text,
                (size_t)snprintf(text, sizeof text,
                                 STORED("ByteStorage", "%u", "0", "N"), i));
        psd_put(&keys, text, (size_t)snprintf(text, sizeof text, "V%u\n", i));
    }
    psd_put_span(&b, PSD_LITERAL("t."));
    psd_put_span(&keys, PSD_LITERAL("l."));
    psd_put_span(&b, psd_buffer_span(&keys));
    psd_put_fill(&b, 0, 8 * (size_t)MANY);
    opening o;
    open_bytes(&o, psd_buffer_span(&b));
    run_archive(&o);
    CHECK(o.status == PSD_OK);
    CHECK_UINT(o.archive.model.storage_count, MANY);
    CHECK_UINT(o.archive.end_offset, b.size);
    CHECK(o.heap.live < (size_t)MANY * 1000);
    close_archive(&o);
    psd_buffer_clear(&b);
    psd_buffer_clear(&keys);
    CHECK_UINT(heap.live, 0);
}

int
main(void)
{
    RUN(test_a_small_stream);
    RUN(test_bytes_behind);
    RUN(test_keys);
    RUN(test_ties);
    RUN(test_views);
    RUN(test_views_that_are_none);
    RUN(test_lists_that_do_not_fit);
    RUN(test_empty_storages);
    RUN(test_untyped_storages);
    RUN(test_classes_with_source);
    RUN(test_old_pickles);
    RUN(test_counts_of_big_endian_machines);
    RUN(test_what_breaks_off);
    RUN(test_every_mutation);
    RUN(test_every_truncation);
    RUN(test_every_failing_request);
    RUN(test_a_source_that_lies);
    RUN(test_a_file_that_changes);
    RUN(test_many_storages);
    return check_report();
}
