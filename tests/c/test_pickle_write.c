/* SPDX-License-Identifier: Apache-2.0
 *
 * The writer: exact bytes of small pickles, and that what is written reads back
 * as the same graph.  Pickles named on the command line go the same way round.
 */
#include "pickle_emit.h"
#include "pickle_round.h"

/* ----------------------------------------------------------------- exact bytes */

typedef struct {
    psd_span program, written; /* between PROTO and STOP */
} exact_case;

/* clang-format off */
#define EXACT(program, written) {PSD_LITERAL(program), PSD_LITERAL(written)}
static const exact_case exact_cases[] = {
    EXACT("N.", "N"),
    EXACT("(I00\nI01\nt.", "\x89\x88\x86"),
    EXACT("(I0\nI255\nI256\nI65535\nI65536\nI-1\nt.",
          "(K\0K\xFFM\0\x01M\xFF\xFFJ\0\0\x01\0J\xFF\xFF\xFF\xFFt"),
    EXACT("(I2147483647\nI-2147483648\nI2147483648\nI-2147483649\nt.",
          "(J\xFF\xFF\xFF\x7FJ\0\0\0\x80\x8A\x05\0\0\0\x80\0\x8A\x05\xFF\xFF\xFF\x7F\xFFt"),
    EXACT("L9223372036854775807L\n.", "\x8A\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"),
    EXACT("L-9223372036854775808L\n.", "\x8A\x08\0\0\0\0\0\0\0\x80"),
    EXACT("L-549755813888L\n.", "\x8A\x05\0\0\0\0\x80"),
    EXACT("L549755813888L\n.", "\x8A\x06\0\0\0\0\x80\0"),
    EXACT("L9223372036854775808L\n.", "\x8A\x09\0\0\0\0\0\0\0\x80\0"),
    EXACT("F-1.5\n.", "G\xBF\xF8\0\0\0\0\0\0"),
    EXACT("\x8C\x02hi.", "X\x02\0\0\0hi"),
    EXACT("S'hi'\n.", "U\x02hi"),
    EXACT("C\x03" "a\x80\xFF.",
          "c_codecs\nencode\nX\x05\0\0\0a\xC2\x80\xC3\xBFX\x06\0\0\0latin1\x86R"),
    EXACT("C\x00.", "c_codecs\nencode\nX\0\0\0\0X\x06\0\0\0latin1\x86R"),
    EXACT("\x96\0\0\0\0\0\0\0\0.", "c__builtin__\nbytearray\n)R"),
    EXACT("\x96\0\0\0\0\0\0\0\0C\x01" "a\x86.",
          "c__builtin__\nbytearray\n)Rc_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R\x86"),
    EXACT("\x96\x01\0\0\0\0\0\0\0z.",
          "c__builtin__\nbytearray\nc_codecs\nencode\nX\x01\0\0\0zX\x06\0\0\0latin1\x86R\x85R"),
    /* The writer's own words are memoized when they come again. */
    EXACT("C\x01" "aC\x01" "b\x86.",
          "c_codecs\nencode\nq\0X\x01\0\0\0aX\x06\0\0\0latin1q\1\x86R"
          "h\0X\x01\0\0\0bh\1\x86R\x86"),
    EXACT("\x8F\x8F\x86.", "c__builtin__\nset\nq\0]\x85Rh\0]\x85R\x86"),
    EXACT("\x8F(K\x01K\x02\x90.", "c__builtin__\nset\n](K\x01K\x02" "e\x85R"),
    EXACT("(K\x01\x91.", "c__builtin__\nfrozenset\n]K\x01" "a\x85R"),
    EXACT("(t.", ")"),
    EXACT("(NNNNt.", "(NNNNt"),
    EXACT("NNN\x87.", "NNN\x87"),
    EXACT("](NNe.", "](NNe"),
    EXACT("](Ne.", "]Na"),
    EXACT("}(NNu.", "}NNs"),
    EXACT("}NNsNNs.", "}(NNNNu"),
    /* Shared: a value that is referred to twice, and nothing else. */
    EXACT("]q\1h\1\x86.", "]q\0h\0\x86"),
    EXACT("]q\1]\x86.", "]]\x86"),
    EXACT("K\1q\1h\1\x86.", "K\1K\1\x86"),
    EXACT(")q\1h\1\x86.", "))\x86"),
    EXACT("X\1\0\0\0aq\1h\1\x86.", "X\1\0\0\0aq\0h\0\x86"),
    EXACT("X\1\0\0\0aX\1\0\0\0a\x86.", "X\1\0\0\0aX\1\0\0\0a\x86"),
    EXACT("N\x85q\1h\1\x86.", "N\x85q\0h\0\x86"),
    EXACT("L9223372036854775808L\nq\1h\1\x86.", "\x8A\x09\0\0\0\0\0\0\0\x80\0q\0h\0\x86"),
    EXACT("]q\1h\1a.", "]q\0h\0a"),
    EXACT("NQq\1h\1\x86.", "NQq\0h\0\x86"),
    /* Calls: parts, the call, and then what fills it, in one order. */
    EXACT("cm\nn\n)R.", "cm\nn\n)R"),
    EXACT("cm\nn\nN\x81.", "cm\nn\nN\x81"),
    EXACT("(im\nn\n.", "cm\nn\n)R"),
    EXACT("(cm\nn\nNo.", "cm\nn\nN\x85R"),
    EXACT("cm\nn\n)}\x92.", "ccopy_reg\n__newobj_ex__\ncm\nn\n)}\x87R"),
    EXACT("cm\nn\n)R}bNNsNaK\1b(NNe.", "cm\nn\n)R(NNNeNNsK\1b"),
    EXACT("cm\nn\nq\1)Rq\2h\2bh\1\x86.", "cm\nn\nq\0)Rq\1h\1bh\0\x86"),
    /* On a cycle, but nothing has to wait. */
    EXACT("cm\nn\n)Rq\1]h\1" "ab.", "cm\nn\n)Rq\0]h\0" "ab"),
    EXACT("]q\1h\1a]h\1a\x86.", "]q\0h\0a]h\0a\x86"),
    EXACT("]q\1cm\nn\nh\1\x85R\x86q\2" "0h\1h\2a0h\2.",
          "]q\0cm\nn\nh\0\x85R\x86q\1h\0h\1a0"),
    /* A tuple in its own list, from either side. */
    EXACT("]q\1h\1\x85q\2" "a0h\1.", "]q\0h\0\x85" "a"),
    EXACT("]q\1h\1\x85q\2" "a0h\2.", "]q\0\x85q\1h\0h\1" "a0"),
    /* An object in its own set: the set is made, then the object gets its state. */
    EXACT("\x8Fq\1(cm\nn\n)Rq\2h\1b\x90h\1.",
          "c__builtin__\nset\n]cm\nn\n)Rq\0a\x85Rq\1h\0h\1b0"),
};
/* clang-format on */

static void
bytes_are_exact(void)
{
    for (size_t i = 0; i < LENGTH(exact_cases); i++) {
        const exact_case *c = &exact_cases[i];
        reading r;
        writing w;
        run(&r, c->program);
        CHECK_UINT(r.status, PSD_OK);
        write_with(&w, &r.pool, r.pickle.root, 0);
        CHECK_UINT(w.status, PSD_OK);
        psd_span found = psd_buffer_span(&w.buffer);
        bool same = found.size == c->written.size + 3 &&
                    memcmp(found.data, "\x80\x02", 2) == 0 &&
                    memcmp(found.data + 2, c->written.data, c->written.size) == 0 &&
                    found.data[found.size - 1] == '.';
        if (!same) {
            fprintf(stderr, "case %zu:", i);
            for (size_t k = 0; k < found.size; k++) {
                fprintf(stderr,
                        found.data[k] > 0x20 && found.data[k] < 0x7F ? " %c" : " %02x",
                        found.data[k]);
            }
            fprintf(stderr, "\n");
        }
        CHECK(same);
        finish_writing(&w);
        finish(&r);
        CHECK_UINT(go_round(c->program), PSD_OK);
    }
}

/* What is already in the buffer stays there. */
static void
the_buffer_is_appended_to(void)
{
    reading r;
    writing w;
    run(&r, PSD_LITERAL("N."));
    write_with(&w, &r.pool, r.pickle.root, 0);
    CHECK_UINT(psd_pickle_write(&r.pool, r.pickle.root, &w.buffer, &w.err), PSD_OK);
    CHECK(psd_span_equal(psd_buffer_span(&w.buffer),
                         PSD_LITERAL("\x80\x02N.\x80\x02N.")));
    finish_writing(&w);
    finish(&r);
}

/* --------------------------------------------------------------------- batches */

/* The lengths about a batch; MARK, APPENDS and APPEND as CPython puts them. */
static void
long_lists_come_in_batches(void)
{
    static const struct {
        size_t items, marks, many, one;
    } cases[] = {{999, 1, 1, 0},  {1000, 1, 1, 0}, {1001, 1, 1, 1},
                 {1002, 2, 2, 0}, {2000, 2, 2, 0}, {2001, 2, 2, 1}};
    for (size_t i = 0; i < LENGTH(cases); i++) {
        size_t items = cases[i].items;
        for (int pairs = 0; pairs < 2; pairs++) {
            psd_span program = pairs
                                   ? repeat(PSD_LITERAL("}("), PSD_LITERAL("\x88\x89"),
                                            items, PSD_LITERAL("u."))
                                   : repeat(PSD_LITERAL("]("), PSD_LITERAL("N"), items,
                                            PSD_LITERAL("e."));
            reading r;
            writing w;
            run(&r, program);
            write_with(&w, &r.pool, r.pickle.root, 0);
            CHECK_UINT(w.status, PSD_OK);
            CHECK_UINT(w.buffer.size, 4 + items * (pairs ? 2 : 1) + cases[i].marks +
                                          cases[i].many + cases[i].one);
            size_t marks = 0, many = 0, one = 0;
            for (size_t k = 2; k < w.buffer.size; k++) {
                marks += w.buffer.data[k] == '(';
                many += w.buffer.data[k] == (pairs ? 'u' : 'e');
                one += w.buffer.data[k] == (pairs ? 's' : 'a');
            }
            CHECK_UINT(marks, cases[i].marks);
            CHECK_UINT(many, cases[i].many);
            CHECK_UINT(one, cases[i].one);
            finish_writing(&w);
            finish(&r);
            CHECK_UINT(go_round(program), PSD_OK);
            free((void *)program.data);
        }
    }
}

/* More than 256 places in the memo, and texts and integers of the long forms. */
static void
long_forms_are_used_when_needed(void)
{
    psd_span program =
        repeat(PSD_LITERAL("("), PSD_LITERAL("]2"), 300, PSD_LITERAL("t."));
    CHECK_UINT(go_round(program), PSD_OK);
    free((void *)program.data);
    program = repeat(PSD_LITERAL("T\0\1\0\0"), PSD_LITERAL("x"), 256, PSD_LITERAL("."));
    CHECK_UINT(go_round(program), PSD_OK);
    free((void *)program.data);
    program =
        repeat(PSD_LITERAL("\x8B\x2C\1\0\0"), PSD_LITERAL("x"), 300, PSD_LITERAL("."));
    CHECK_UINT(go_round(program), PSD_OK);
    free((void *)program.data);
    for (size_t size = 250; size < 260; size++) {
        uint8_t head[] = {'B', 0, 0, 0, 0};
        psd_store_le32(head + 1, (uint32_t)size);
        program = repeat((psd_span){head, sizeof head}, PSD_LITERAL("\xE9"), size,
                         PSD_LITERAL("."));
        CHECK_UINT(go_round(program), PSD_OK);
        free((void *)program.data);
    }
}

/* ---------------------------------------------------------------------- cycles */

static void
cycles_come_back(void)
{
    static const psd_span programs[] = {
        PSD_LITERAL("]q\0h\0a."),
        PSD_LITERAL("}q\0h\0h\0s."),
        PSD_LITERAL("cm\nn\n)Rq\0h\0ah\0h\0sh\0b."),
        PSD_LITERAL("cm\nn\n)R(]q\0lq\1h\0ah\1ab."),
        /* Tuples in tuples, all on one cycle, from each member. */
        PSD_LITERAL("]q\0\x85q\1\x85q\2\x85q\3"
                    "0h\0h\3a."),
        PSD_LITERAL("]q\0\x85q\1\x85q\2\x85q\3"
                    "0h\0h\3a0h\1."),
        PSD_LITERAL("]q\0\x85q\1\x85q\2\x85q\3"
                    "0h\0h\3a0h\3."),
        /* One tuple, many lists that lead back to it. */
        PSD_LITERAL("(]q\0]q\1]q\2]q\3tq\4"
                    "0h\0h\4ah\1h\4ah\2h\4ah\3h\4a0000h\4."),
        /* Lists that lead to other tuples of the same group. */
        PSD_LITERAL("]q\0]q\1h\0\x85q\2"
                    "0h\1h\2ah\0h\1\x86q\3"
                    "0h\0h\3ah\1h\3ah\3."),
        PSD_LITERAL("]q\0]q\1h\0\x85q\2"
                    "0h\1h\2ah\0h\1\x86q\3"
                    "0h\0h\3ah\1h\3ah\2."),
        /* An object whose state is a tuple that leads back. */
        PSD_LITERAL("cm\nn\n)\x81q\0h\0]\x86q\1b."),
        PSD_LITERAL("cm\nn\n)\x81q\0h\0]\x86q\1b0h\1."),
        PSD_LITERAL("cm\nn\n)\x81q\0h\0(h\0\x91q\1b0h\1."),
        /* A tuple with an empty list and an object without state: nothing is late. */
        PSD_LITERAL("]q\0}cm\nn\n)Rh\0(tq\1"
                    "0h\0(h\1e(h\0]})Nt\x85."),
    };
    for (size_t i = 0; i < LENGTH(programs); i++) {
        psd_status status = go_round(programs[i]);
        if (status != PSD_OK) {
            fprintf(stderr, "cycle %zu\n", i);
        }
        CHECK_UINT(status, PSD_OK);
    }
}

/* n lists that all lead back to one tuple: each reference is followed once. */
static void
cycles_cost_their_size(void)
{
    enum { COUNT = 20000 };
    static uint8_t program[COUNT * 16];
    size_t size = 0;
    program[size++] = '(';
    for (uint32_t i = 0; i < COUNT; i++) {
        program[size++] = ']';
        program[size++] = 'r';
        psd_store_le32(program + size, i + 1);
        size += 4;
    }
    memcpy(program + size, "tr\0\0\0\0", 6);
    size += 6;
    for (uint32_t i = 0; i < COUNT; i++) {
        program[size++] = 'j';
        psd_store_le32(program + size, i + 1);
        memcpy(program + size + 4, "h\0a0", 4);
        size += 8;
    }
    program[size++] = '.';
    psd_span whole = {program, size};
    reading r;
    writing w;
    run(&r, whole);
    write_with(&w, &r.pool, r.pickle.root, 0);
    CHECK_UINT(w.status, PSD_OK);
    CHECK(w.buffer.size < 20 * COUNT);
    finish_writing(&w);
    finish(&r);
    CHECK_UINT(go_round(whole), PSD_OK);
}

/* Deep, and shared so often that a tree of it would not end. */
static void
depth_and_sharing_are_harmless(void)
{
    static const struct {
        psd_span before, middle, after;
    } cases[] = {
        {PSD_LITERAL("N"), PSD_LITERAL("\x85"), PSD_LITERAL(".")},
        {PSD_LITERAL("N"), PSD_LITERAL("2\x86"), PSD_LITERAL(".")},
        {PSD_LITERAL("]2"), PSD_LITERAL("]2"), PSD_LITERAL(".")},
        {PSD_LITERAL("N"), PSD_LITERAL("Q"), PSD_LITERAL(".")},
        {PSD_LITERAL("cm\nn\n"), PSD_LITERAL(")R"), PSD_LITERAL(".")},
        {PSD_LITERAL("cm\nn\n)R"), PSD_LITERAL("cm\nn\n)R\x94"), PSD_LITERAL("b.")},
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        psd_span program =
            repeat(cases[i].before, cases[i].middle, 100000, cases[i].after);
        CHECK_UINT(go_round(program), PSD_OK);
        free((void *)program.data);
    }
    /* Lists in lists, closed from within. */
    psd_span open = repeat(PSD_LITERAL(""), PSD_LITERAL("]"), 100000, PSD_LITERAL("N"));
    psd_span program = repeat(open, PSD_LITERAL("a"), 100000, PSD_LITERAL("."));
    CHECK_UINT(go_round(program), PSD_OK);
    free((void *)open.data);
    free((void *)program.data);
}

/* ---------------------------------------------------------------- plain values */

/* Mark all values of this kind; of tuples those that are not empty. */
static void
mark(psd_pool *pool, psd_kind kind, unsigned flags)
{
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        psd_value *value = psd_value_at(pool, ref);
        if (value->kind == kind && (kind != PSD_KIND_TUPLE || value->count > 0)) {
            value->flags |= (uint8_t)flags;
        }
    }
}

static void
check_written(const psd_pool *pool, psd_ref root, psd_span expected)
{
    writing w;
    write_with(&w, pool, root, 0);
    CHECK_UINT(w.status, PSD_OK);
    psd_span found = psd_buffer_span(&w.buffer);
    CHECK(found.size == expected.size + 3 &&
          memcmp(found.data + 2, expected.data, expected.size) == 0);
    finish_writing(&w);
}

/* To say that a value is plain saves work, and changes no byte. */
static void
plain_values_are_written_as_others(void)
{
    /* clang-format off */
    static const exact_case cases[] = {
        EXACT("NN\x86.", "NN\x86"),
        EXACT("](NN\x86]Nae.", "](NN\x86]Nae"),
        EXACT("cm\nn\nVa\nK\1K\2\x86N\x87\x85R.", "cm\nn\nX\1\0\0\0aK\1K\2\x86N\x87\x85R"),
        EXACT("cm\nn\nVa\nq\1h\1\x86Qq\2\x85Rq\3h\2h\3\x87.",
              "cm\nn\nX\1\0\0\0aq\0h\0\x86Qq\1\x85Rq\2h\1h\2\x87"),
        EXACT("cm\nn\nq\1(NNNNtRh\1)R\x86.", "cm\nn\nq\0(NNNNtRh\0)R\x86"),
        EXACT("](cm\nn\nq\1NQ\x85Rq\2h\2h\1e.", "](cm\nn\nq\0NQ\x85Rq\1h\1h\0e"),
    };
    /* clang-format on */
    static const psd_kind kinds[] = {PSD_KIND_TUPLE, PSD_KIND_PERSID, PSD_KIND_CALL};
    for (size_t i = 0; i < LENGTH(cases); i++) {
        reading r;
        run(&r, cases[i].program);
        CHECK_UINT(r.status, PSD_OK);
        check_written(&r.pool, r.pickle.root, cases[i].written);
        for (size_t k = 0; k < LENGTH(kinds); k++) {
            mark(&r.pool, kinds[k], PSD_VALUE_PLAIN);
        }
        check_written(&r.pool, r.pickle.root, cases[i].written);
        finish(&r);
    }
}

/* What nobody may share comes again, where another would be fetched. */
static void
some_values_are_made_anew(void)
{
    reading r;
    run(&r, PSD_LITERAL("cm\nn\n)Rq\1h\1h\1\x87."));
    mark(&r.pool, PSD_KIND_CALL, PSD_VALUE_PLAIN | PSD_VALUE_ANEW);
    check_written(&r.pool, r.pickle.root, PSD_LITERAL("cm\nn\nq\0)Rh\0)Rh\0)R\x87"));
    finish(&r);
    run(&r, PSD_LITERAL("](K\1K\2\x86q\1h\1e."));
    mark(&r.pool, PSD_KIND_TUPLE, PSD_VALUE_PLAIN | PSD_VALUE_ANEW);
    check_written(&r.pool, r.pickle.root,
                  PSD_LITERAL("](K\1K\2\x86K\1K\2\x86"
                              "e"));
    finish(&r);
}

/* -------------------------------------------------------------------- refusals */

static void
check_refused(const psd_pool *pool, psd_ref root, const char *sentence)
{
    writing w;
    write_with(&w, pool, root, 0);
    CHECK_UINT(w.status, PSD_ARGUMENT);
    CHECK_UINT(w.err.status, PSD_ARGUMENT);
    CHECK_UINT(w.err.offset, PSD_NOWHERE);
    CHECK(w.err.sentence != NULL && strcmp(w.err.sentence, sentence) == 0);
    finish_writing(&w);
}

static void
check_program_refused(psd_span program, const char *sentence)
{
    reading r;
    run(&r, program);
    CHECK_UINT(r.status, PSD_OK);
    check_refused(&r.pool, r.pickle.root, sentence);
    finish(&r);
}

static void
what_has_no_form_is_refused(void)
{
    const char *form = "a value that has no form in a pickle";
    reading r;
    run(&r, PSD_LITERAL("]]]]\x85]."));
    check_refused(&r.pool, 0, "a reference to a value that does not exist");
    check_refused(&r.pool, 99, "a reference to a value that does not exist");
    psd_value_at(&r.pool, 4)->kind = PSD_KIND_TENSOR;
    check_refused(&r.pool, 4, form);
    check_refused(&r.pool, 5, form);
    psd_value_at(&r.pool, 4)->kind = PSD_KIND_STORAGE;
    check_refused(&r.pool, 5, form);
    psd_value_at(&r.pool, 4)->kind = PSD_KIND_INVALID;
    check_refused(&r.pool, 5, form);
    psd_value_at(&r.pool, 4)->kind = PSD_KIND_TEXT + 100;
    check_refused(&r.pool, 5, form);
    finish(&r);
}

static void
names_that_cannot_be_read_are_not_written(void)
{
    const char *name = "the name of a global that cannot be written";
    check_program_refused(PSD_LITERAL("\x8C\x03m\nn\x8C\x01n\x93."), name);
    check_program_refused(PSD_LITERAL("\x8C\x01m\x8C\x01\n\x93."), name);
    reading r;
    run(&r, PSD_LITERAL("N."));
    psd_ref empty = psd_new_global(&r.pool, PSD_LITERAL("m"), PSD_LITERAL(""), 0);
    check_refused(&r.pool, empty, name);
    psd_span text = repeat(PSD_LITERAL(""), PSD_LITERAL("n"), 1025, PSD_LITERAL(""));
    psd_ref longest = psd_new_global(&r.pool, (psd_span){text.data, 1024},
                                     (psd_span){text.data, 1024}, 0);
    psd_ref longer = psd_new_global(&r.pool, PSD_LITERAL("m"), text, 0);
    check_refused(&r.pool, longer, name);
    writing w;
    write_with(&w, &r.pool, longest, 0);
    CHECK_UINT(w.status, PSD_OK);
    CHECK_UINT(go_round(psd_buffer_span(&w.buffer)), PSD_OK);
    finish_writing(&w);
    finish(&r);
    free((void *)text.data);
}

static void
what_needs_itself_is_refused(void)
{
    const char *call = "a call that is an argument of itself";
    /* Its argument is a list, or an object, that leads back to the call. */
    check_program_refused(PSD_LITERAL("cm\nn\n]q\0\x85Rq\1h\0h\1a0."), call);
    check_program_refused(PSD_LITERAL("cm\nn\ncm\nn\n)Rq\0\x85Rq\1h\0h\1b0."), call);
    check_program_refused(PSD_LITERAL("]q\0Qq\1h\0h\1a0."), call);
    /* From the list, the same cycle can be written. */
    CHECK_UINT(go_round(PSD_LITERAL("cm\nn\n]q\0\x85Rq\1h\0h\1a.")), PSD_OK);
    /* A set in its own tuple. */
    const char *part = "a value that is a part of itself";
    check_program_refused(PSD_LITERAL("\x8Fq\0(h\0\x85\x90."), part);
    check_program_refused(PSD_LITERAL("\x8Fq\0(h\0\x90."), part);
}

/* ------------------------------------------------------------ memory and damage */

/* clang-format off */
#define RICH "\x80\x04](NX\1\0\0\0a\x94h\0C\2xy\x96\1\0\0\0\0\0\0\0z"                 \
             "\x8F(h\0\x90(N\x91" "cm\nn\n)Rq\5}bq\6h\5NQcm\nn\n)}\x92"                 \
             "]q\7h\7\x85q\x08h\7h\x08" "a0h\x08(NNNNte."
/* clang-format on */
static const psd_span rich = {(const uint8_t *)RICH, sizeof RICH - 1};

static void
what_is_not_plain_is_refused(void)
{
    static const char *const programs[] = {"]N\x86.", "cm\nn\n]R.", "]Q."};
    for (size_t i = 0; i < LENGTH(programs); i++) {
        reading r;
        run(&r, (psd_span){(const uint8_t *)programs[i], strlen(programs[i])});
        CHECK_UINT(r.status, PSD_OK);
        /* A list that holds something. */
        for (psd_ref ref = 1; ref <= r.pool.count; ref++) {
            psd_value *value = psd_value_at(&r.pool, ref);
            if (value->kind == PSD_KIND_LIST) {
                CHECK(psd_append(&r.pool, ref, &r.pickle.root, 1));
            }
        }
        psd_value_at(&r.pool, r.pickle.root)->flags |= PSD_VALUE_PLAIN;
        check_refused(&r.pool, r.pickle.root, "a plain value that holds others");
        finish(&r);
    }
    for (unsigned deep = 16; deep <= 17; deep++) {
        psd_span program =
            repeat(PSD_LITERAL("N"), PSD_LITERAL("\x85"), deep, PSD_LITERAL("."));
        reading r;
        run(&r, program);
        mark(&r.pool, PSD_KIND_TUPLE, PSD_VALUE_PLAIN);
        if (deep > 16) {
            check_refused(&r.pool, r.pickle.root,
                          "too many plain values within one another");
        }
        else {
            check_written(&r.pool, r.pickle.root,
                          (psd_span){program.data, program.size - 1});
        }
        finish(&r);
        free((void *)program.data);
    }
}

static void
every_allocation_may_fail(void)
{
    psd_span lists =
        repeat(PSD_LITERAL("(("), PSD_LITERAL("]2"), 300, PSD_LITERAL("tl."));
    psd_span deep =
        repeat(PSD_LITERAL("N"), PSD_LITERAL("\x85"), 300, PSD_LITERAL("."));
    psd_span programs[] = {rich, lists, deep};
    for (size_t i = 0; i < LENGTH(programs); i++) {
        reading r;
        run(&r, programs[i]);
        CHECK_UINT(r.status, PSD_OK);
        unsigned long n = 1;
        for (bool done = false; !done; n++) {
            writing w;
            write_with(&w, &r.pool, r.pickle.root, n);
            done = w.status == PSD_OK;
            CHECK(done == (w.heap.requests < n));
            if (!done) {
                CHECK_UINT(w.status, PSD_NO_MEMORY);
                CHECK_UINT(w.err.status, PSD_NO_MEMORY);
            }
            finish_writing(&w);
        }
        CHECK(n > 5);
        finish(&r);
    }
    free((void *)lists.data);
    free((void *)deep.data);
}

/* Whatever still reads after a byte has changed goes round, or is refused. */
static void
damaged_programs_go_round(void)
{
    size_t written = 0;
    check_guarded g = check_guard(rich.data, rich.size);
    CHECK_UINT(go_round((psd_span){g.data, g.size}), PSD_OK);
    for (size_t at = 0; at < g.size; at++) {
        uint8_t kept = g.data[at];
        for (unsigned byte = 0; byte < 256; byte++) {
            g.data[at] = (uint8_t)byte;
            written += go_round((psd_span){g.data, g.size}) == PSD_OK;
        }
        g.data[at] = kept;
    }
    CHECK(written > 1000);
    check_unguard(&g);
}

static uint64_t random_state = 0x2545F4914F6CDD1Du;

static uint32_t
random_below(uint32_t limit)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % limit;
}

/* Append a piece of a program; `?` is one of the first places in the memo. */
static size_t
add_piece(uint8_t *program, size_t size)
{
    static const char *const pieces[] = {
        "]",        "}",       ")",       "N",     "\x85", "\x86",      "(",
        "t",        "l",       "a",       "e",     "NNs",  "2",         "0",
        "\x94",     "\x94",    "h?",      "h?",    "h?",   "h?",        "h?a",
        "h?h?\x86", "cm\nn\n", ")R",      "R",     "\x81", "b",         "Q",
        "\x8F",     "(h?\x90", "(h?\x91", "h?h?s", "h?b",  "\x85R\x94", "h?\x85\x94",
    };
    const char *piece = pieces[random_below(LENGTH(pieces))];
    for (const char *c = piece; *c != '\0'; c++) {
        program[size++] = *c == '?' ? (uint8_t)random_below(6) : (uint8_t)*c;
    }
    return size;
}

/* Few values that refer to one another a lot. */
static void
random_graphs_go_round(void)
{
    size_t written = 0, refused = 0;
    for (int i = 0; i < 5000; i++) {
        uint8_t program[100];
        size_t size = 0;
        while (size < 60) {
            size_t longer = add_piece(program, size);
            /* Keep what the machine can run so far. */
            reading r;
            run(&r, (psd_span){program, longer});
            size = r.status == PSD_PICKLE_END ? longer : size;
            finish(&r);
        }
        for (uint8_t root = 0; root < 5; root++) {
            uint8_t end[] = {'h', root, '.'};
            memcpy(program + size, end, sizeof end);
            psd_status status = go_round((psd_span){program, size + sizeof end});
            written += status == PSD_OK;
            refused += status == PSD_ARGUMENT;
        }
    }
    CHECK(written > 1000 && refused > 10);
    printf("random graphs: %zu written, %zu refused\n", written, refused);
}

/* ----------------------------------------------------------------------- files */

static void
check_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    (void)fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL || fread(bytes, 1, size, file) != size) {
        perror(path);
        exit(2);
    }
    (void)fclose(file);
    unsigned failed = check_failed;
    reading r;
    run(&r, (psd_span){bytes, size});
    bool reads = r.status == PSD_OK;
    psd_error err = r.err;
    finish(&r);
    psd_status status = go_round((psd_span){bytes, size});
    printf("%s: %s%s%s%s\n", path, psd_status_code(status), reads ? "" : ": ",
           reads ? "" : err.sentence, check_failed > failed ? " FAILED" : "");
    free(bytes);
}

/* As UTF-8 these bytes would be longer than protocol 2 can say; it is found out at the
 * first that takes two, before the rest is read. */
static void
bytes_that_are_too_long(void)
{
    static const psd_kind kinds[] = {PSD_KIND_BYTES, PSD_KIND_BYTEARRAY};
    for (size_t i = 0; i < LENGTH(kinds); i++) {
        check_heap heap = {0};
        psd_buffer buffer;
        psd_error err = {0};
        check_guarded g = check_guard("\x80", 1);
        psd_buffer_init(&buffer, check_alloc(&heap));
        psd_emitter e = {.buffer = &buffer, .err = &err};
        for (size_t k = 0; k < PSD_WORD_COUNT; k++) {
            e.words[k] = PSD_MEMO_ONCE;
        }
        const psd_value value = {
            .kind = (uint8_t)kinds[i], .count = UINT32_MAX, .as.bytes = g.data};
        uint32_t memo = PSD_MEMO_ONCE;
        CHECK_UINT(psd_emit_leaf(&e, &value, &memo), PSD_ARGUMENT);
        CHECK_UINT(err.status, PSD_ARGUMENT);
        CHECK(strcmp(err.sentence, "too long for a pickle of protocol 2") == 0);
        psd_buffer_clear(&buffer);
        check_unguard(&g);
        CHECK_UINT(heap.live, 0);
    }
}

/* Numbers and texts of Python 2 have 31 bits for their length. */
static void
numbers_that_are_too_long(void)
{
    static const psd_kind kinds[] = {PSD_KIND_LONG, PSD_KIND_STRING};
    for (size_t i = 0; i < LENGTH(kinds); i++) {
        reading r;
        writing w;
        run(&r, PSD_LITERAL("N."));
        *psd_value_at(&r.pool, r.pickle.root) =
            (psd_value){.kind = (uint8_t)kinds[i],
                        .count = (uint32_t)INT32_MAX + 1,
                        .as.bytes = (const uint8_t *)""};
        write_with(&w, &r.pool, r.pickle.root, 0);
        CHECK_UINT(w.status, PSD_ARGUMENT);
        CHECK(strcmp(w.err.sentence, "too long for a pickle of protocol 2") == 0);
        finish_writing(&w);
        finish(&r);
    }
}

int
main(int count, char **paths)
{
    for (int i = 1; i < count; i++) {
        check_name = paths[i];
        check_file(paths[i]);
    }
    if (count > 1) {
        RUN(bytes_that_are_too_long);
        RUN(numbers_that_are_too_long);
        return check_report();
    }
    RUN(bytes_are_exact);
    RUN(the_buffer_is_appended_to);
    RUN(long_lists_come_in_batches);
    RUN(long_forms_are_used_when_needed);
    RUN(cycles_come_back);
    RUN(cycles_cost_their_size);
    RUN(depth_and_sharing_are_harmless);
    RUN(plain_values_are_written_as_others);
    RUN(some_values_are_made_anew);
    RUN(what_has_no_form_is_refused);
    RUN(what_is_not_plain_is_refused);
    RUN(names_that_cannot_be_read_are_not_written);
    RUN(what_needs_itself_is_refused);
    RUN(every_allocation_may_fail);
    RUN(damaged_programs_go_round);
    RUN(random_graphs_go_round);
    RUN(bytes_that_are_too_long);
    RUN(numbers_that_are_too_long);
    return check_report();
}
