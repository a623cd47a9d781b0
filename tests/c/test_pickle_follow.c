/* SPDX-License-Identifier: Apache-2.0
 *
 * The stack machine for those who want to know all that a program names: what it
 * does after a failure, and that it ends whatever the program is.
 */
#include "pickle_kit.h"

typedef struct {
    reading r;
    size_t walked;
} following;

static void
follow_with(following *f, psd_span program, const psd_limits *limits,
            unsigned long fail_at)
{
    reading *r = &f->r;
    memset(f, 0, sizeof *f);
    r->heap.fail_at = fail_at;
    psd_arena_init(&r->arena, check_alloc(&r->heap));
    psd_pool_init(&r->pool, &r->arena, limits->values);
    r->status = psd_pickle_follow(program, BASE, limits, key, &r->pool, &r->pickle,
                                  &f->walked, &r->err);
}

static void
follow(following *f, psd_span program)
{
    psd_limits limits = psd_default_limits();
    follow_with(f, program, &limits, 0);
}

/* The n-th global of the pool, from 1; NULL if there are fewer. */
static const psd_global *
global_at(const psd_pool *pool, uint32_t n)
{
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        if (psd_kind_of(pool, ref) == PSD_KIND_GLOBAL && --n == 0) {
            return psd_value_at(pool, ref)->as.global;
        }
    }
    return NULL;
}

static bool
names(const psd_pool *pool, uint32_t n, const char *module, const char *name)
{
    const psd_global *global = global_at(pool, n);
    return global != NULL &&
           psd_span_equal(global->module,
                          (psd_span){(const uint8_t *)module, strlen(module)}) &&
           psd_span_equal(global->name,
                          (psd_span){(const uint8_t *)name, strlen(name)});
}

static void
sound_programs_are_read_as_ever(void)
{
    following f;
    follow(&f, PSD_LITERAL("\x80\x02"
                           "cm\nn\n)R\xFF"));
    CHECK_UINT(f.r.status, PSD_PICKLE);
    finish(&f.r);
    follow(&f, PSD_LITERAL("\x80\x02"
                           "cm\nn\n)R.rest"));
    CHECK_UINT(f.r.status, PSD_OK);
    CHECK_UINT(f.r.pickle.size, 10);
    CHECK_UINT(f.r.pickle.protocol, 2);
    CHECK_UINT(f.r.pickle.left, 0);
    CHECK_UINT(f.walked, 10);
    CHECK_UINT(psd_kind_of(&f.r.pool, f.r.pickle.root), PSD_KIND_CALL);
    finish(&f.r);
    follow(&f, PSD_LITERAL("NN]."));
    CHECK_UINT(f.r.pickle.left, 2);
    finish(&f.r);
}

/* What is refused, and then the name that is found all the same. */
static void
it_goes_on_after(psd_span program, psd_status status, uint64_t offset)
{
    following f;
    follow(&f, program);
    CHECK_UINT(f.r.status, status);
    CHECK_UINT(f.r.err.status, status);
    CHECK_UINT(f.r.err.offset, BASE + offset);
    CHECK(names(&f.r.pool, 1, "os", "system"));
    CHECK(global_at(&f.r.pool, 2) == NULL);
    CHECK_UINT(f.r.pickle.size, program.size);
    CHECK_UINT(f.walked, program.size);
    finish(&f.r);
}

#define SYSTEM "cos\nsystem\n"
#define STACKED "\x8C\x02os\x94\x8C\x06system\x94\x93"

static void
refusals_are_gone_on_after(void)
{
    /* targets that other readers take */
    it_goes_on_after(PSD_LITERAL("])Na" SYSTEM "."), PSD_PICKLE, 3);
    it_goes_on_after(PSD_LITERAL("](NNu" SYSTEM "."), PSD_PICKLE, 4);
    it_goes_on_after(PSD_LITERAL("](Nd" SYSTEM "."), PSD_PICKLE, 3);
    it_goes_on_after(PSD_LITERAL("](NN\x90" SYSTEM "."), PSD_PICKLE, 4);
    it_goes_on_after(PSD_LITERAL("}Ns" SYSTEM "."), PSD_PICKLE, 2);
    it_goes_on_after(PSD_LITERAL("]Nb" SYSTEM "."), PSD_PICKLE, 2);
    it_goes_on_after(PSD_LITERAL("N)R" SYSTEM "."), PSD_PICKLE, 2);
    it_goes_on_after(PSD_LITERAL("N)N\x92" SYSTEM "."), PSD_PICKLE, 3);
    /* the stack, the marks and the memo */
    it_goes_on_after(PSD_LITERAL("0" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("1" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("q\x05" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("r\1\0\0\0" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("p1\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("\x94" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("h\x05" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("j\1\0\0\0" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("gx\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("2" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("t" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("e" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("Q" SYSTEM "."), PSD_PICKLE, 0);
    /* operands */
    it_goes_on_after(PSD_LITERAL("I1_0\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("Lx\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("Fx\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("Sx\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("V\\u1\n" SYSTEM "."), PSD_PICKLE, 0);
    it_goes_on_after(PSD_LITERAL("\x80\x09" SYSTEM "."), PSD_OPCODE, 0);
    it_goes_on_after(PSD_LITERAL("\x95\xFF\0\0\0\0\0\0\0" SYSTEM "."), PSD_PICKLE_END,
                     0);
    /* what lies outside of the file */
    it_goes_on_after(PSD_LITERAL("\x82." SYSTEM "."), PSD_EXTENSION, 0);
    it_goes_on_after(PSD_LITERAL("\x83.." SYSTEM "."), PSD_EXTENSION, 0);
    it_goes_on_after(PSD_LITERAL("\x84...." SYSTEM "."), PSD_EXTENSION, 0);
    it_goes_on_after(PSD_LITERAL("\x97" SYSTEM "."), PSD_OPCODE, 0);
    it_goes_on_after(PSD_LITERAL("\x98" SYSTEM "."), PSD_OPCODE, 0);
    /* names by the stack and by the memo, which counts as it would */
    it_goes_on_after(PSD_LITERAL("N\x94Nb" STACKED "."), PSD_PICKLE, 3);
    it_goes_on_after(
        PSD_LITERAL("]\x94\x8C\x02os\x94\x8C\x06system\x94Ns00h\1h\2\x93."), PSD_PICKLE,
        17);
}

/* A call that is refused takes from the stack what it would have taken, so that the
 * name after it is made of what other readers make it of. */
static void
refused_calls_take_their_operands(void)
{
    psd_span named =
        repeat(PSD_LITERAL("\x80\x04\x8C\x05posix(ios\n"), PSD_LITERAL("path.os."), 130,
               PSD_LITERAL("getcwd\n0\x8C\x06getpid\x93)R."));
    const psd_span programs[] = {
        /* keyword arguments that are a mapping, which CPython's slow reader takes */
        PSD_LITERAL("\x80\x04\x8C\x05posixccollections\nOrderedDict\n)"
                    "ccollections\nOrderedDict\n)R\x92"
                    "0\x8C\x06getpid\x93)R."),
        named, /* a name that is longer than a name may be */
    };
    for (size_t i = 0; i < LENGTH(programs); i++) {
        following f;
        follow(&f, programs[i]);
        CHECK_UINT(f.r.status, PSD_PICKLE);
        CHECK(names(&f.r.pool, i == 0 ? 3 : 2, "posix", "getpid"));
        CHECK_UINT(f.r.pickle.left, 0);
        finish(&f.r);
    }
    free((void *)named.data);
}

static void
the_first_failure_is_told(void)
{
    following f;
    follow(&f, PSD_LITERAL("Nb0I\n\xFF"));
    CHECK_UINT(f.r.status, PSD_PICKLE);
    CHECK_UINT(f.r.err.offset, BASE + 1);
    CHECK_UINT(f.walked, 6);
    CHECK_UINT(f.r.pickle.size, 0);
    finish(&f.r);
}

static void
it_ends_where_nothing_can_follow(void)
{
    static const psd_span programs[] = {
        PSD_LITERAL("\xFF" SYSTEM "."),        /* no opcode */
        PSD_LITERAL("X\xFF\0\0\0" SYSTEM "."), /* an operand beyond the end */
        PSD_LITERAL("\x82"),                   /* the same, of one that is refused */
        PSD_LITERAL("cos"),                    /* a line without an end */
        PSD_LITERAL("."),                      /* STOP, and nothing on the stack */
        PSD_LITERAL(""),
    };
    for (size_t i = 0; i < LENGTH(programs); i++) {
        following f;
        follow(&f, programs[i]);
        CHECK(f.r.status != PSD_OK);
        CHECK_UINT(f.r.pickle.size, 0);
        CHECK_UINT(f.r.pickle.root, 0);
        CHECK(f.walked <= programs[i].size);
        CHECK(global_at(&f.r.pool, 1) == NULL);
        finish(&f.r);
    }
}

static void
doubtful_names_are_kept(void)
{
    following f;
    follow(&f, PSD_LITERAL("K\x01\x8C\x06system\x93."));
    CHECK_UINT(f.r.status, PSD_PICKLE);
    CHECK(names(&f.r.pool, 1, "?", "system"));
    finish(&f.r);
    follow(&f, PSD_LITERAL("\x8C\x02osK\x01\x93."));
    CHECK(names(&f.r.pool, 1, "os", "?"));
    finish(&f.r);
    follow(&f, PSD_LITERAL("\x8C\x02os\x93."));
    CHECK(names(&f.r.pool, 1, "?", "?"));
    finish(&f.r);
    follow(&f, PSD_LITERAL("U\x02os\x8C\0\x93."));
    CHECK(names(&f.r.pool, 1, "os", "?"));
    finish(&f.r);
    follow(&f, PSD_LITERAL("c\nsystem\n."));
    CHECK(names(&f.r.pool, 1, "?", "system"));
    finish(&f.r);
    follow(&f, PSD_LITERAL("ios\n\n."));
    CHECK(names(&f.r.pool, 1, "os", "?"));
    finish(&f.r);

    /* too long a name is cut, and what it leads to stays to be seen */
    psd_span program = repeat(PSD_LITERAL("ctorch\nos"), PSD_LITERAL(".path.os"), 300,
                              PSD_LITERAL(".system\n."));
    follow(&f, program);
    const psd_global *global = global_at(&f.r.pool, 1);
    CHECK(global != NULL && global->name.size == 1024);
    CHECK(global != NULL && memcmp(global->name.data, "os.path.os", 10) == 0);
    CHECK_UINT(f.r.pickle.size, program.size);
    finish(&f.r);
    free((void *)program.data);
}

static void
limits_are_kept(void)
{
    following f;
    psd_limits limits = psd_default_limits();
    limits.pickle_size = 3;
    follow_with(&f, PSD_LITERAL("NNN."), &limits, 0);
    CHECK_UINT(f.r.status, PSD_LIMIT);
    CHECK_UINT(f.walked, 0);
    finish(&f.r);
    limits = psd_default_limits();
    limits.values = 3;
    follow_with(&f, PSD_LITERAL("]]]]]]]]."), &limits, 0);
    CHECK_UINT(f.r.status, PSD_LIMIT);
    CHECK_UINT(f.r.pool.count, 3);
    CHECK_UINT(f.walked, 4);
    finish(&f.r);
    limits.values = 2; /* the doubtful name itself is one too many */
    follow_with(&f, PSD_LITERAL("]K\x01K\x02\x93."), &limits, 0);
    CHECK_UINT(f.r.status, PSD_LIMIT);
    finish(&f.r);
}

static void
every_allocation_may_fail(void)
{
    psd_limits limits = psd_default_limits();
    psd_span program =
        repeat(PSD_LITERAL(""), PSD_LITERAL("](cm\nn\n)RNb}Na]NbK\1K\2\x93I\n(tNs"), 60,
               PSD_LITERAL("."));
    unsigned long n = 1;
    for (;; n++) {
        following f;
        follow_with(&f, program, &limits, n);
        bool done = f.r.heap.requests < n;
        CHECK(done == (f.r.status != PSD_NO_MEMORY));
        CHECK(f.r.err.status == f.r.status && f.r.err.sentence != NULL);
        finish(&f.r);
        if (done) {
            break;
        }
    }
    CHECK(n > 4);
    free((void *)program.data);
}

static void
bytes_that_can_name_are_told(void)
{
    static const psd_span can[] = {
        PSD_LITERAL("cm\nn\n."),
        PSD_LITERAL("(im\nn\n."),
        PSD_LITERAL("\x8C\1m\x8C\1n\x93."),
        PSD_LITERAL("\x82\1."),
        PSD_LITERAL("\x83\1\1."),
        PSD_LITERAL("\x84\1\1\1\1."),
        PSD_LITERAL("\x80\4]](K\1cm"),
        PSD_LITERAL("N.N.cm\nn\n."),
        PSD_LITERAL("C\3cm\n."),
        PSD_LITERAL("U\3cm\n."),
        PSD_LITERAL("S'x'\n."),
        PSD_LITERAL("B\3\0\0\0abc."),
        PSD_LITERAL("T\3\0\0\0abc."),
        PSD_LITERAL("\x8E\3\0\0\0\0\0\0\0abc."),
        PSD_LITERAL("\x96\3\0\0\0\0\0\0\0abc."),
    };
    static const psd_span cannot[] = {
        PSD_LITERAL(""),
        PSD_LITERAL("."),
        PSD_LITERAL("N.N."),
        PSD_LITERAL("C\2cm."), /* too short to do anything */
        PSD_LITERAL("X\4\0\0\0cm\nn."),
        PSD_LITERAL("\xFF"
                    "cm\nn\n."),
        PSD_LITERAL("Vcm\nF1\n\xFF"),
        PSD_LITERAL("X\xFF\0\0\0cm\nn\n."), /* runs past the end, as does the next */
        PSD_LITERAL("C\xFF"
                    "cm\nn\n."),
        PSD_LITERAL("Vcm"),
        PSD_LITERAL("J\1"),
    };
    for (size_t i = 0; i < LENGTH(can); i++) {
        check_guarded g = check_guard(can[i].data, can[i].size);
        CHECK(psd_pickle_may_name((psd_span){g.data, g.size}));
        check_unguard(&g);
    }
    for (size_t i = 0; i < LENGTH(cannot); i++) {
        check_guarded g = check_guard(cannot[i].data, cannot[i].size);
        CHECK(!psd_pickle_may_name((psd_span){g.data, g.size}));
        check_unguard(&g);
    }
}

/* Whatever a byte is changed to: nothing is read beyond the end, and it ends. */
static void
damaged_programs_do_no_harm(void)
{
    static const psd_span program =
        PSD_LITERAL("\x80\x04](K\x01M\x00\x01I5\nVx\nS'y'\ncm\nn\n)R}Nsb" STACKED
                    ")\x81(im\nn\n\x82\x01\x8C\x01xK\x01\x93p1\ng1\nPz\nQ0a.");
    check_guarded g = check_guard(program.data, program.size);
    for (size_t at = 0; at < program.size; at++) {
        uint8_t kept = g.data[at];
        for (unsigned byte = 0; byte < 256; byte++) {
            g.data[at] = (uint8_t)byte;
            following f;
            follow(&f, (psd_span){g.data, g.size});
            CHECK(f.walked <= g.size && f.r.pickle.size <= f.walked);
            CHECK((f.r.status == PSD_OK) == (f.r.err.status == PSD_OK) ||
                  f.r.status == PSD_OK);
            for (psd_ref ref = 1; ref <= f.r.pool.count; ref++) {
                const psd_value *v = psd_value_at(&f.r.pool, ref);
                for (uint64_t i = 0; i < psd_child_count(v); i++) {
                    CHECK(psd_child_at(v, i) <= f.r.pool.count);
                }
            }
            finish(&f.r);
        }
        g.data[at] = kept;
    }
    check_unguard(&g);
}

int
main(void)
{
    RUN(sound_programs_are_read_as_ever);
    RUN(refusals_are_gone_on_after);
    RUN(refused_calls_take_their_operands);
    RUN(the_first_failure_is_told);
    RUN(it_ends_where_nothing_can_follow);
    RUN(doubtful_names_are_kept);
    RUN(limits_are_kept);
    RUN(every_allocation_may_fail);
    RUN(bytes_that_can_name_are_told);
    RUN(damaged_programs_do_no_harm);
    return check_report();
}
