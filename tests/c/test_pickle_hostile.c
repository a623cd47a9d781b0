/* SPDX-License-Identifier: Apache-2.0
 *
 * The stack machine against programs that want its memory, against an allocator
 * that fails, and against damage at every byte.
 */
#include "pickle_kit.h"
#include "pickle_memo.h"

static void
check_limit(psd_span program, const psd_limits *limits, psd_status status,
            uint64_t offset, const char *sentence)
{
    reading r;
    run_with(&r, program, limits, 0);
    CHECK_UINT(r.status, status);
    if (r.status != PSD_OK) {
        CHECK_UINT(r.err.offset, BASE + offset);
        CHECK(strcmp(r.err.sentence, sentence) == 0);
        CHECK(r.err.has_numbers && r.err.found > r.err.expected);
    }
    finish(&r);
}

static void
limits_are_kept(void)
{
    psd_limits limits = psd_default_limits();
    const char *size = "a pickle is larger than allowed";
    limits.pickle_size = 3;
    check_limit(PSD_LITERAL("NN."), &limits, PSD_OK, 0, size);
    check_limit(PSD_LITERAL("NNN."), &limits, PSD_LIMIT, 0, size);
    limits = psd_default_limits();
    limits.pickle_size = UINT64_MAX;
    /* The span is not looked at, so it need not be there. */
    if (sizeof(size_t) > 4) {
        psd_span huge = {(const uint8_t *)"", (size_t)UINT32_MAX + 1};
        check_limit(huge, &limits, PSD_LIMIT, 0, size);
    }

    const char *values = "a pickle has more values than allowed";
    limits.values = 3; /* lists, since constants are shared */
    check_limit(PSD_LITERAL("]]]."), &limits, PSD_OK, 0, values);
    check_limit(PSD_LITERAL("]]]]."), &limits, PSD_LIMIT, 3, values);
    check_limit(PSD_LITERAL("]]]X\0\0\0\0."), &limits, PSD_LIMIT, 3, values);
    check_limit(PSD_LITERAL("(]]]t."), &limits, PSD_LIMIT, 4, values);
    check_limit(PSD_LITERAL("(]]]l."), &limits, PSD_LIMIT, 4, values);
    check_limit(PSD_LITERAL("]]]cm\nn\n."), &limits, PSD_LIMIT, 3, values);
    check_limit(PSD_LITERAL("]]cm\nn\n]\x81."), &limits, PSD_LIMIT, 7, values);
    check_limit(PSD_LITERAL("]]]Vx\n."), &limits, PSD_LIMIT, 3, values);
    check_limit(PSD_LITERAL("]]Px\n."), &limits, PSD_LIMIT, 2, values);

    const char *digits = "an integer is longer than allowed";
    limits = psd_default_limits();
    limits.integer_size = 10;
    check_limit(PSD_LITERAL("L-1234567890L\n."), &limits, PSD_OK, 0, digits);
    check_limit(PSD_LITERAL("L12345678901L\n."), &limits, PSD_LIMIT, 0, digits);
    check_limit(PSD_LITERAL("NI12345678901\n."), &limits, PSD_LIMIT, 1, digits);
    check_limit(PSD_LITERAL("\x8A\x0A"
                            "abcdefghij."),
                &limits, PSD_OK, 0, digits);
    check_limit(PSD_LITERAL("\x8A\x0B"
                            "abcdefghijk."),
                &limits, PSD_LIMIT, 0, digits);
    check_limit(PSD_LITERAL("\x8B\x0B\0\0\0abcdefghijk."), &limits, PSD_LIMIT, 0,
                digits);
}

/* --------------------------------------------------------------------- memory */

/* An allocator that also knows the most that was ever held. */
typedef struct {
    check_heap heap;
    size_t peak;
} peak_heap;

static void *
peak_resize(void *ctx, void *memory, size_t old_size, size_t new_size)
{
    peak_heap *p = ctx;
    void *moved = check_resize(&p->heap, memory, old_size, new_size);
    p->peak = p->heap.live > p->peak ? p->heap.live : p->peak;
    return moved;
}

static size_t
peak_of(psd_span program, psd_status *status)
{
    psd_limits limits = psd_default_limits();
    peak_heap p = {{0}, 0};
    psd_arena arena;
    psd_pool pool;
    psd_pickle pickle;
    psd_error err;
    psd_arena_init(&arena, (psd_alloc){peak_resize, &p});
    psd_pool_init(&pool, &arena, limits.values);
    *status = psd_pickle_read(program, BASE, &limits, key, &pool, &pickle, &err);
    psd_pool_clear(&pool);
    psd_arena_clear(&arena);
    CHECK_UINT(p.heap.live, 0);
    return p.peak;
}

/* Bombs: whatever the program says, memory is in proportion to its bytes. */
static void
memory_is_linear_in_the_program(void)
{
    static const struct {
        psd_span before, middle;
        size_t count;
        psd_span after;
        psd_status status;
    } cases[] = {
        {PSD_LITERAL("N"), PSD_LITERAL("r\xFF\xFF\xFF\xFF"), 1, PSD_LITERAL("."),
         PSD_OK},
        {PSD_LITERAL("N"), PSD_LITERAL("p1152921504606846976\n"), 1, PSD_LITERAL("."),
         PSD_OK},
        {PSD_LITERAL(""), PSD_LITERAL("("), 300000, PSD_LITERAL("N."), PSD_OK},
        {PSD_LITERAL(""), PSD_LITERAL("("), 300000, PSD_LITERAL("."), PSD_PICKLE},
        {PSD_LITERAL(""), PSD_LITERAL("N"), 300000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("N"), PSD_LITERAL("\x85"), 300000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("N"), PSD_LITERAL("2\x86"), 150000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL(""), PSD_LITERAL("]"), 300000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("]"), PSD_LITERAL("2a"), 150000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("N"), PSD_LITERAL("2Q"), 150000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("cm\nn\n"), PSD_LITERAL(")R"), 150000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("cm\nn\n)R"), PSD_LITERAL("2b"), 150000, PSD_LITERAL("."), PSD_OK},
        {PSD_LITERAL("N"), PSD_LITERAL("\x94"), 300000, PSD_LITERAL("."), PSD_OK},
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        psd_span program =
            repeat(cases[i].before, cases[i].middle, cases[i].count, cases[i].after);
        psd_status status;
        size_t peak = peak_of(program, &status);
        CHECK_UINT(status, cases[i].status);
        CHECK(peak <= 16384 + 160 * program.size);
        free((void *)program.data);
    }
}

/* The line that grows most when it is decoded. */
static void
decoded_lines_fit_their_memory(void)
{
    enum { COUNT = 100000 };
    psd_span program =
        repeat(PSD_LITERAL("V"), PSD_LITERAL("\xE9"), COUNT, PSD_LITERAL("\n."));
    reading r;
    run(&r, program);
    CHECK_UINT(r.status, PSD_OK);
    const psd_value *text = psd_value_at(&r.pool, r.pickle.root);
    CHECK_UINT(text->count, 2 * COUNT);
    for (uint32_t i = 0; i < text->count; i++) {
        CHECK_UINT(text->as.bytes[i], i % 2 == 0 ? 0xC3 : 0xA9);
    }
    finish(&r);
    free((void *)program.data);
}

/* Indices far apart, each put and fetched: the table grows, and finds all. */
static void
sparse_memos_hold_everything(void)
{
    enum { COUNT = 5000 };
    static uint8_t program[COUNT * 24];
    size_t size = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t piece[] = {'M', 0, 0, 'r', 0, 0, 0, 0, '0'};
        psd_store_le16(piece + 1, (uint16_t)i);
        psd_store_le32(piece + 4, 0x10000000 + i * 4096);
        memcpy(program + size, piece, sizeof piece);
        size += sizeof piece;
    }
    program[size++] = '(';
    for (uint32_t i = 0; i < COUNT; i++) {
        program[size++] = 'j';
        psd_store_le32(program + size, 0x10000000 + i * 4096);
        size += 4;
    }
    memcpy(program + size, "t\x94.", 3);
    size += 3;
    reading r;
    run(&r, (psd_span){program, size});
    CHECK_UINT(r.status, PSD_OK);
    const psd_value *tuple = psd_value_at(&r.pool, r.pickle.root);
    CHECK_UINT(tuple->count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_UINT(psd_value_at(&r.pool, tuple->as.items[i])->as.integer, i);
    }
    finish(&r);
}

/* A program that makes every kind of thing grow; to be freed. */
static psd_span
rich_program(size_t count)
{
    return repeat(PSD_LITERAL("\x80\x04](N"),
                  PSD_LITERAL("(NNNt\x94"
                              "V\\u1234\n"
                              "S'\\n'\n"
                              "L12345678901234567890123L\n"
                              "}(NNu(NNl(NNd(N\x91\x8F(N\x90"
                              "cm\nn\n)RNb"
                              "NQ"
                              "Nr\xFF\xFF\xFF\xFF"
                              "Np99999999999\n"
                              "((11"),
                  count, PSD_LITERAL("e."));
}

static void
every_allocation_may_fail(void)
{
    psd_limits limits = psd_default_limits();
    psd_span program = rich_program(40);
    unsigned long n = 1;
    for (;; n++) {
        reading r;
        run_with(&r, program, &limits, n);
        bool done = r.status == PSD_OK;
        CHECK(done == (r.heap.requests < n));
        if (!done) {
            CHECK_UINT(r.status, PSD_NO_MEMORY);
            CHECK(r.err.status == PSD_NO_MEMORY && r.err.sentence != NULL);
            CHECK(r.err.offset >= BASE && r.err.offset < BASE + program.size);
        }
        finish(&r);
        if (done) {
            break;
        }
    }
    CHECK(n > 10);
    free((void *)program.data);
}

/* --------------------------------------------------------------------- sweeps */

static void
check_sane(const reading *r, size_t size)
{
    if (r->status == PSD_OK) {
        CHECK(r->pickle.root >= 1 && r->pickle.root <= r->pool.count);
        CHECK(r->pickle.size <= size);
    }
    else {
        CHECK(r->err.status == r->status && r->err.sentence != NULL);
        CHECK(r->err.offset >= BASE && r->err.offset <= BASE + size);
        CHECK(r->status == PSD_PICKLE || r->status == PSD_PICKLE_END ||
              r->status == PSD_OPCODE || r->status == PSD_EXTENSION ||
              r->status == PSD_CALL || r->status == PSD_LIMIT);
    }
}

/* Refs point to what exists; those of immutable values backwards. */
static void
check_refs(const psd_pool *pool)
{
    bool sane = true;
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        const psd_value *v = psd_value_at(pool, ref);
        bool items = v->kind >= PSD_KIND_TUPLE && v->kind <= PSD_KIND_FROZENSET;
        bool fixed = v->kind == PSD_KIND_TUPLE || v->kind == PSD_KIND_FROZENSET;
        for (uint32_t i = 0; items && i < v->count; i++) {
            sane = sane && v->as.items[i] >= 1 &&
                   v->as.items[i] <= (fixed ? ref - 1 : pool->count);
        }
        if (v->kind == PSD_KIND_CALL) {
            const psd_call *call = v->as.call;
            sane = sane && call->callable >= 1 && call->callable < ref &&
                   call->args >= 1 && call->args < ref && call->kwargs < ref &&
                   call->state <= pool->count &&
                   (call->kwargs != 0) == (call->form == PSD_CALL_NEWOBJ_EX);
        }
        if (v->kind == PSD_KIND_PERSID) {
            sane = sane && v->as.ref >= 1 && v->as.ref < ref;
        }
    }
    CHECK(sane);
}

static void
sweep(psd_span program)
{
    for (size_t size = 0; size < program.size; size++) {
        check_guarded g = check_guard(program.data, size);
        reading r;
        run(&r, (psd_span){g.data, g.size});
        CHECK_UINT(r.status, PSD_PICKLE_END);
        check_sane(&r, size);
        finish(&r);
        check_unguard(&g);
    }
    check_guarded g = check_guard(program.data, program.size);
    for (size_t at = 0; at < program.size; at++) {
        uint8_t kept = g.data[at];
        for (unsigned byte = 0; byte < 256; byte++) {
            g.data[at] = (uint8_t)byte;
            reading r;
            run(&r, (psd_span){g.data, g.size});
            check_sane(&r, program.size);
            check_refs(&r.pool);
            finish(&r);
        }
        g.data[at] = kept;
    }
    check_unguard(&g);
}

static void
damaged_programs_do_no_harm(void)
{
    /* What torch writes for {'w': float32[2]}, and one of every opcode but those lines. */
    static const psd_span programs[] = {
        PSD_LITERAL(
            "\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0"
            "storagectorch\nFloatStorage\nX\x01\0\0\0"
            "0X\x03\0\0\0cpuK\x02tQK\0"
            "(K\x02t(K\x01t\x89"
            "ccollections\nOrderedDict\n)RtRs."),
        PSD_LITERAL(
            "\x80\x04\x95\x52\0\0\0\0\0\0\0}\x94(\x8C\x01"
            "a\x94]\x94(K\x01M\x00\x01"
            "J\0\0\xFF\xFF\x8A\x09\0\0\0\0\0\0\0\0\x01G\0\0\0\0\0\0\0\0\x88\x89Neh\x01"
            "C\x02xy\x8F(h\x01\x90(N\x91\x96\x01\0\0\0\0\0\0\0z"
            "NNu\x86\x85\x94"
            "2\x86."),
        PSD_LITERAL(
            "(lp0\nI01\naI-5\naL123456789012345678901L\naF1.5e3\naS'a\\x41\\n'\na"
            "V\\u20ac\\U0001f600\xE9\na(dp1\ng0\nI1\nsa(I1\nI2\ntaPid\na(I1\nim\nn\n"
            "(dba(cm\nn\nI1\no0."),
    };
    for (size_t i = 0; i < LENGTH(programs); i++) {
        sweep(programs[i]);
    }
    psd_span rich = rich_program(1);
    sweep(rich);
    free((void *)rich.data);
}

/* A table of 2^31 slots cannot double: it says so before it asks for memory. */
static void
a_memo_has_an_end(void)
{
    check_heap heap = {0};
    psd_memo memo;
    psd_memo_init(&memo, check_alloc(&heap), key);
    memo.far_capacity = (uint32_t)1 << 31;
    memo.far_count = memo.far_capacity / 2;
    CHECK(!psd_memo_put_slowly(&memo, UINT64_MAX, 0, 1));
    CHECK_UINT(heap.requests, 0);
    CHECK_UINT(memo.count, 0);
    memo.far_capacity = memo.far_count = 0;
    CHECK(psd_memo_put(&memo, UINT64_MAX, 0, 1));
    CHECK_UINT(psd_memo_get(&memo, UINT64_MAX), 1);
    psd_memo_clear(&memo);
    CHECK_UINT(heap.live, 0);
}

int
main(void)
{
    RUN(limits_are_kept);
    RUN(memory_is_linear_in_the_program);
    RUN(decoded_lines_fit_their_memory);
    RUN(sparse_memos_hold_everything);
    RUN(a_memo_has_an_end);
    RUN(every_allocation_may_fail);
    RUN(damaged_programs_do_no_harm);
    return check_report();
}
