/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a pickle ends: found by its opcodes alone, and just where the machine stops;
 * fetched from afar by no more than it takes.
 */
#include "archive_model.h"

#define COUNT_ONE(byte, name) +1

/* ---------------------------------------------------------------- measuring */

/* One opcode with its operand, and what follows is not its own. */
static const psd_span opcodes[] = {
    PSD_LITERAL("("),
    PSD_LITERAL(")"),
    PSD_LITERAL("0"),
    PSD_LITERAL("1"),
    PSD_LITERAL("2"),
    PSD_LITERAL("B\x02\0\0\0.."),
    PSD_LITERAL("C\x02.."),
    PSD_LITERAL("F1.5\n"),
    PSD_LITERAL("G........"),
    PSD_LITERAL("I7.\n"),
    PSD_LITERAL("J...."),
    PSD_LITERAL("K."),
    PSD_LITERAL("L.L\n"),
    PSD_LITERAL("M.."),
    PSD_LITERAL("N"),
    PSD_LITERAL("P..\n"),
    PSD_LITERAL("Q"),
    PSD_LITERAL("R"),
    PSD_LITERAL("S'..'\n"),
    PSD_LITERAL("T\x03\0\0\0..."),
    PSD_LITERAL("U\x03..."),
    PSD_LITERAL("V..\n"),
    PSD_LITERAL("X\x03\0\0\0..."),
    PSD_LITERAL("]"),
    PSD_LITERAL("a"),
    PSD_LITERAL("b"),
    PSD_LITERAL("c..\n..\n"),
    PSD_LITERAL("d"),
    PSD_LITERAL("e"),
    PSD_LITERAL("g.\n"),
    PSD_LITERAL("h."),
    PSD_LITERAL("i..\n..\n"),
    PSD_LITERAL("j...."),
    PSD_LITERAL("l"),
    PSD_LITERAL("o"),
    PSD_LITERAL("p.\n"),
    PSD_LITERAL("q."),
    PSD_LITERAL("r...."),
    PSD_LITERAL("s"),
    PSD_LITERAL("t"),
    PSD_LITERAL("u"),
    PSD_LITERAL("}"),
    PSD_LITERAL("\x80."),
    PSD_LITERAL("\x81"),
    PSD_LITERAL("\x85"),
    PSD_LITERAL("\x86"),
    PSD_LITERAL("\x87"),
    PSD_LITERAL("\x88"),
    PSD_LITERAL("\x89"),
    PSD_LITERAL("\x8a\x02.."),
    PSD_LITERAL("\x8b\x02\0\0\0.."),
    PSD_LITERAL("\x8c\x02.."),
    PSD_LITERAL("\x8d\x02\0\0\0\0\0\0\0.."),
    PSD_LITERAL("\x8e\x02\0\0\0\0\0\0\0.."),
    PSD_LITERAL("\x8f"),
    PSD_LITERAL("\x90"),
    PSD_LITERAL("\x91"),
    PSD_LITERAL("\x92"),
    PSD_LITERAL("\x93"),
    PSD_LITERAL("\x94"),
    PSD_LITERAL("\x95........"),
    PSD_LITERAL("\x96\x02\0\0\0\0\0\0\0.."),
    PSD_LITERAL("\x97"),
    PSD_LITERAL("\x98"),
};

static size_t
measured(psd_span program)
{
    check_guarded g = check_guard(program.data, program.size);
    size_t size = psd_pickle_measure((psd_span){g.data, g.size});
    check_unguard(&g);
    return size;
}

/* The full stops in the operands are none of STOP. */
static void
test_every_opcode(void)
{
    for (size_t i = 0; i < LENGTH(opcodes); i++) {
        uint8_t program[64];
        size_t size = opcodes[i].size;
        memcpy(program, opcodes[i].data, size);
        memcpy(program + size, ".rest", 5);
        CHECK_UINT(measured((psd_span){program, size + 5}), size + 1);
        CHECK_UINT(measured((psd_span){program, size + 1}), size + 1);
        for (size_t cut = 0; cut <= size; cut++) {
            CHECK_UINT(measured((psd_span){program, cut}), 0);
        }
    }
    /* All that the format has, but for those that the machine refuses by name. */
    CHECK_UINT(LENGTH(opcodes) + 4, 0 PSD_OPCODES(COUNT_ONE));
}

static void
test_sizes_that_are_lies(void)
{
    CHECK_UINT(measured(PSD_LITERAL("B\xff\xff\xff\xff.")), 0);
    CHECK_UINT(measured(PSD_LITERAL("X\xff\xff\xff\x7f.")), 0);
    CHECK_UINT(measured(PSD_LITERAL("\x8b\xff\xff\xff\xff.")), 0);
    CHECK_UINT(measured(PSD_LITERAL("\x8e\xff\xff\xff\xff\xff\xff\xff\xff.")), 0);
    CHECK_UINT(measured(PSD_LITERAL("\x8d\xf6\xff\xff\xff\xff\xff\xff\xff.")), 0);
    CHECK_UINT(measured(PSD_LITERAL("C\xff.")), 0);
    CHECK_UINT(measured(PSD_LITERAL("")), 0);
    CHECK_UINT(measured(PSD_LITERAL("N")), 0);
    /* Full stops in the operands of those that the machine refuses by name. */
    CHECK_UINT(measured(PSD_LITERAL("\x82..")), 3);
    CHECK_UINT(measured(PSD_LITERAL("\x83...")), 4);
    CHECK_UINT(measured(PSD_LITERAL("\x84.....")), 6);
    /* What is no opcode is passed by: the machine is who judges. */
    CHECK_UINT(measured(PSD_LITERAL("\xff\x01\x02.")), 4);
}

/* Whatever the machine runs to its end, it ends where it was measured to end. */
static void
test_the_machine_stops_there(void)
{
    static const psd_span programs[] = {
        PSD_LITERAL("N."),
        PSD_LITERAL("\x80\x02}q\x01(X\x01\0\0\0aK\x01X\x01\0\0\0.]u."),
        PSD_LITERAL("\x80\x04\x95\x0a\0\0\0\0\0\0\0\x8c\x03.a.\x94\x94\x85\x94."),
        PSD_LITERAL("(dp0\nS'a.'\np1\nI1\nsg0\n0."),
        PSD_LITERAL("cos.path\njoin.\n(V..\ntR."),
        PSD_LITERAL("(iposix\nstat.\nL12L\nF.5\n0."),
        PSD_LITERAL("\x8b\x04\0\0\0....\x8a\x01.0."),
    };
    for (size_t i = 0; i < LENGTH(programs); i++) {
        reading r;
        run(&r, programs[i]);
        CHECK(r.status == PSD_OK);
        if (r.status != PSD_OK) {
            (void)fprintf(stderr, "  %zu: %s\n", i, r.err.sentence);
        }
        CHECK_UINT(r.pickle.size, programs[i].size);
        CHECK_UINT(measured(programs[i]), programs[i].size);
        finish(&r);
    }
}

/* ---------------------------------------------------------------- fetching */

typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_span program;
    psd_error err;
    psd_status status;
} fetching;

static void
fetch(fetching *f, const psd_input *input, uint64_t offset, uint64_t end, uint64_t most,
      unsigned long fail_at)
{
    psd_limits limits = psd_default_limits();
    limits.pickle_size = most;
    *f = (fetching){.heap = {.fail_at = fail_at}};
    psd_arena_init(&f->arena, check_alloc(&f->heap));
    f->status =
        psd_pickle_fetch(input, offset, end, &limits, &f->arena, &f->program, &f->err);
}

static void
let_go(fetching *f)
{
    psd_arena_clear(&f->arena);
    CHECK_UINT(f->heap.live, 0);
}

/* From a map and from afar alike; `expected` bytes of the file at `offset`. */
static void
check_fetch(psd_span file, uint64_t offset, uint64_t end, size_t expected)
{
    check_guarded g = check_guard(file.data, file.size);
    remote far = {.file = {g.data, g.size}};
    const psd_input inputs[] = {{.data = g.data, .size = g.size}, over_remote(&far)};
    for (unsigned i = 0; i < 2; i++) {
        fetching f;
        fetch(&f, &inputs[i], offset, end, (uint64_t)1 << 30, 0);
        CHECK(f.status == PSD_OK);
        CHECK_UINT(f.program.size, expected);
        CHECK(expected == 0 ||
              memcmp(f.program.data, file.data + offset, expected) == 0);
        /* A copy: the file may change meanwhile. */
        CHECK(f.program.data < g.data || f.program.data >= g.data + g.size);
        let_go(&f);
    }
    check_unguard(&g);
}

static void
test_fetching(void)
{
    const psd_span file = PSD_LITERAL("..N.(lK..NN");
    check_fetch(file, 2, file.size, 2);
    check_fetch(file, 0, file.size, 1);
    check_fetch(file, 4, file.size, 5);
    /* Without an end, or with one beyond the bound: all there is. */
    check_fetch(file, 9, file.size, 2);
    check_fetch(file, 4, 8, 4);
    check_fetch(file, file.size, file.size, 0);
    check_fetch(file, 4, 4, 0);
    check_fetch(file, 5, 4, 0);
}

/* A pickle of `size` bytes: a text, which is dropped, and None. */
static psd_buffer
long_pickle(check_heap *heap, size_t size)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(heap));
    psd_put_u8(&b, 'X');
    psd_put_u32(&b, (uint32_t)(size - 8));
    psd_put_fill(&b, '.', size - 8);
    psd_put(&b, "0N.", 3);
    return b;
}

static void
test_fetching_long_pickles(void)
{
    static const size_t sizes[] = {65535, 65536, 65537, 131072, 300000};
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        check_heap heap = {0};
        psd_buffer b = long_pickle(&heap, sizes[i]);
        check_fetch(psd_buffer_span(&b), 0, b.size, sizes[i]);
        psd_put_fill(&b, 'N', 1000000);
        check_fetch(psd_buffer_span(&b), 0, b.size, sizes[i]);
        /* From afar no more is asked for than twice what it takes, and half as much
         * again for what came before. */
        remote far = {.file = psd_buffer_span(&b)};
        psd_input input = over_remote(&far);
        fetching f;
        fetch(&f, &input, 0, b.size, (uint64_t)1 << 30, 0);
        CHECK(far.bytes <= 4 * sizes[i] + 65536);
        let_go(&f);
        psd_buffer_clear(&b);
        CHECK_UINT(heap.live, 0);
    }
}

/* Small ones are asked for by little: a file may hold very many. */
static void
test_fetching_small_pickles(void)
{
    check_heap heap = {0};
    psd_buffer b = long_pickle(&heap, 100);
    psd_put_fill(&b, 'N', 1000000);
    remote far = {.file = psd_buffer_span(&b)};
    psd_input input = over_remote(&far);
    fetching f;
    fetch(&f, &input, 0, b.size, (uint64_t)1 << 30, 0);
    CHECK(f.status == PSD_OK);
    CHECK(far.bytes <= 4096);
    let_go(&f);
    psd_buffer_clear(&b);
}

static void
test_fetching_beyond_the_limit(void)
{
    check_heap heap = {0};
    psd_buffer b = long_pickle(&heap, 200000);
    remote far = {.file = psd_buffer_span(&b)};
    const psd_input inputs[] = {{.data = b.data, .size = b.size}, over_remote(&far)};
    static const uint64_t limits[] = {0, 1, 65535, 65536, 131072, 199999};
    for (unsigned i = 0; i < 2; i++) {
        fetching f;
        for (size_t k = 0; k < LENGTH(limits); k++) {
            fetch(&f, &inputs[i], 0, b.size, limits[k], 0);
            CHECK(f.status == PSD_LIMIT);
            CHECK(strcmp(f.err.sentence, "a pickle is larger than allowed") == 0);
            CHECK_UINT(f.err.found, b.size);
            CHECK_UINT(f.err.expected, limits[k]);
            let_go(&f);
        }
        fetch(&f, &inputs[i], 0, b.size, b.size, 0);
        CHECK(f.status == PSD_OK);
        let_go(&f);
        fetch(&f, &inputs[i], 0, b.size, UINT64_MAX, 0);
        CHECK(f.status == PSD_OK);
        let_go(&f);
    }
    psd_buffer_clear(&b);
}

static void
test_every_failing_request_and_read(void)
{
    check_heap heap = {0};
    psd_buffer b = long_pickle(&heap, 200000);
    remote far = {.file = psd_buffer_span(&b)};
    psd_input input = over_remote(&far);
    fetching f;
    psd_status status = PSD_NO_MEMORY;
    unsigned long n = 0;
    while (status == PSD_NO_MEMORY && n < 100) {
        fetch(&f, &input, 0, b.size, (uint64_t)1 << 30, ++n);
        status = f.status;
        let_go(&f);
    }
    CHECK(status == PSD_OK && n > 2);
    status = PSD_INPUT;
    far.fail_at = 0;
    while (status == PSD_INPUT && far.fail_at < 100) {
        far.fail_at++;
        far.reads = 0;
        fetch(&f, &input, 0, b.size, (uint64_t)1 << 30, 0);
        status = f.status;
        let_go(&f);
    }
    CHECK(status == PSD_OK && far.fail_at > 2);
    /* The file is shorter than was told. */
    psd_input shorter = {.data = b.data, .size = 1000};
    fetch(&f, &shorter, 0, 2000, (uint64_t)1 << 30, 0);
    CHECK(f.status == PSD_TRUNCATED);
    let_go(&f);
    psd_buffer_clear(&b);
}

int
main(void)
{
    RUN(test_every_opcode);
    RUN(test_sizes_that_are_lies);
    RUN(test_the_machine_stops_there);
    RUN(test_fetching);
    RUN(test_fetching_long_pickles);
    RUN(test_fetching_small_pickles);
    RUN(test_fetching_beyond_the_limit);
    RUN(test_every_failing_request_and_read);
    return check_report();
}
