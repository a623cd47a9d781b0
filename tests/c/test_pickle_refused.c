/* SPDX-License-Identifier: Apache-2.0
 *
 * The stack machine: how each refusal is told, and at which byte.
 */
#include "pickle_kit.h"

static void
check_fails(int at_line, psd_span program, uint64_t offset, psd_status status,
            const char *sentence)
{
    check_guarded g = check_guard(program.data, program.size);
    reading r;
    run(&r, (psd_span){g.data, g.size});
    bool as_told = r.status == status && r.err.status == status &&
                   r.err.offset == BASE + offset && r.err.sentence != NULL &&
                   strcmp(r.err.sentence, sentence) == 0;
    if (!as_told) {
        fprintf(stderr, "line %d: %s \"%s\" at %lld\n", at_line,
                psd_status_code(r.status), r.err.sentence,
                (long long)r.err.offset - BASE);
    }
    CHECK(as_told);
    CHECK(r.status == PSD_OK || r.pickle.root == 0);
    finish(&r);
    check_unguard(&g);
}

#define CHECK_PICKLE_FAILS(program, offset, status, sentence) \
    check_fails(__LINE__, PSD_LITERAL(program), offset, status, sentence)

/* clang-format off */
static void
the_end_comes_too_early(void)
{
    const char *stop = "the pickle ends before its STOP";
    CHECK_PICKLE_FAILS("",
                    /*  ^ */ 0, PSD_PICKLE_END, stop);
    CHECK_PICKLE_FAILS("\x80\x02" "N",
                    /*              ^ */ 3, PSD_PICKLE_END, stop);
    const char *operand = "the pickle ends within an operand";
    CHECK_PICKLE_FAILS("\x80",
                    /*  ^ */ 0, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NJ\x01\x02\x03",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NG1234567",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NX\x05\0\0\0four",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NX\xFF\xFF\xFF\xFF.",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("N\x8D\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF.",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("N\x8E\x00\x00\x00\x00\x00\x01\x00\x00.",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NC\x02.",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("N\x8A\x02.",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("N\x8B\xFF\xFF\xFF\x7F.",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NI5",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NL5L",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NF5",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NS'x'",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NVx",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("NPx",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("Np0",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("Ng0",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("Ncm",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("Ncm\nn",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    CHECK_PICKLE_FAILS("(im\nn",
                    /*   ^ */ 1, PSD_PICKLE_END, operand);
    const char *frame = "a frame runs past the end of the pickle";
    CHECK_PICKLE_FAILS("\x95\x03\0\0\0\0\0\0\0N.",
                    /*  ^ */ 0, PSD_PICKLE_END, frame);
    CHECK_PICKLE_FAILS("\x95\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFN.",
                    /*  ^ */ 0, PSD_PICKLE_END, frame);
}

static void
the_stack_holds_too_little(void)
{
    const char *stack = "too few values on the stack";
    CHECK_PICKLE_FAILS(".",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("0",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("2",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("\x85",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    /* A tuple of two wants two values, the stack holds one. */
    CHECK_PICKLE_FAILS("\x80\x02" "K\x01" "\x86" ".",
                    /*                       ^ */ 4, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("NN\x87.",
                    /*    ^ */ 2, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("Na.",
                    /*   ^ */ 1, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("NNs.",
                    /*    ^ */ 2, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("(Ne.",
                    /*    ^ */ 2, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("(NNu.",
                    /*     ^ */ 3, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("(\x90.",
                    /*   ^ */ 1, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("NR.",
                    /*   ^ */ 1, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("N\x81.",
                    /*   ^ */ 1, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("NN\x92.",
                    /*    ^ */ 2, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("Nb.",
                    /*   ^ */ 1, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("Q",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("N\x93.",
                    /*   ^ */ 1, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("q\0N.",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("r\0\0\0\0N.",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("p0\nN.",
                    /*  ^ */ 0, PSD_PICKLE, stack);
    CHECK_PICKLE_FAILS("\x94N.",
                    /*  ^ */ 0, PSD_PICKLE, stack);
}

/* A mark may not be taken for a value, nor reached across. */
static void
a_mark_is_in_the_way(void)
{
    const char *mark = "too few values above the mark";
    CHECK_PICKLE_FAILS("N((.",
                    /*     ^ */ 3, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("N(2",
                    /*    ^ */ 2, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("N(N\x86.",
                    /*     ^ */ 3, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("](Na.",
                    /*     ^ */ 3, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("]((Ne.",
                    /*      ^ */ 4, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("}N(Ns.",
                    /*      ^ */ 4, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("cm\nn\n()R.",
                    /*           ^ */ 7, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("cm\nn\n)R(}b.",
                    /*             ^ */ 9, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("cm\nn\n(o.",
                    /*          ^ */ 6, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("N(q\0.",
                    /*    ^ */ 2, PSD_PICKLE, mark);
    CHECK_PICKLE_FAILS("N(Q.",
                    /*    ^ */ 2, PSD_PICKLE, mark);
    const char *none = "no mark was set";
    CHECK_PICKLE_FAILS("Nt.",
                    /*   ^ */ 1, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("Nl.",
                    /*   ^ */ 1, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("Nd.",
                    /*   ^ */ 1, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("]Ne.",
                    /*    ^ */ 2, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("}NNu.",
                    /*     ^ */ 3, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("\x8FN\x90.",
                    /*       ^ */ 2, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("N\x91.",
                    /*   ^ */ 1, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("N1.",
                    /*   ^ */ 1, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("(tim\nn\n.",
                    /*    ^ */ 2, PSD_PICKLE, none);
    CHECK_PICKLE_FAILS("(to.",
                    /*    ^ */ 2, PSD_PICKLE, none);
}

static void
the_target_is_of_another_kind(void)
{
    const char *items = "items for a value that does not take them";
    CHECK_PICKLE_FAILS("NNa.",
                    /*    ^ */ 2, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("}Na.",
                    /*    ^ */ 2, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("\x8FNa.",
                    /*      ^ */ 2, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS(")(Ne.",
                    /*     ^ */ 3, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("N(e.", /* even without items */
                    /*    ^ */ 2, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("]NNs.",
                    /*     ^ */ 3, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("K\x01(NNu.",
                    /*          ^ */ 5, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("](N\x90.",
                    /*     ^ */ 3, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("cm\nn\nNa.",
                    /*          ^ */ 6, PSD_PICKLE, items);
    CHECK_PICKLE_FAILS("NQNa.",
                    /*     ^ */ 3, PSD_PICKLE, items);
    const char *state = "a state for a value that no call has made";
    CHECK_PICKLE_FAILS("K\x01}b.",
                    /*       ^ */ 3, PSD_PICKLE, state);
    CHECK_PICKLE_FAILS("cm\nn\n}b.",
                    /*          ^ */ 6, PSD_CALL,
                       "a state for a global, which changes what it names");
    CHECK_PICKLE_FAILS("NQ}b.",
                    /*     ^ */ 3, PSD_PICKLE, state);
    const char *odd = "a key without a value";
    CHECK_PICKLE_FAILS("}(NNNu.",
                    /*       ^ */ 5, PSD_PICKLE, odd);
    CHECK_PICKLE_FAILS("(Nd.",
                    /*    ^ */ 2, PSD_PICKLE, odd);
    const char *data = "a call of a value that is data";
    CHECK_PICKLE_FAILS("K\x01)R.",
                    /*       ^ */ 3, PSD_PICKLE, data);
    CHECK_PICKLE_FAILS("N)\x81.",
                    /*    ^ */ 2, PSD_PICKLE, data);
    CHECK_PICKLE_FAILS("](])}\x92.",
                    /*       ^ */ 5, PSD_PICKLE, data);
    CHECK_PICKLE_FAILS("(No.",
                    /*    ^ */ 2, PSD_PICKLE, data);
    CHECK_PICKLE_FAILS("cm\nn\n)N\x92.",
                    /*           ^ */ 7, PSD_PICKLE, "keyword arguments that are no dict");
}

static void
an_operand_is_nonsense(void)
{
    const char *size = "a size below zero";
    CHECK_PICKLE_FAILS("N\x8B\xFF\xFF\xFF\xFF.",
                    /*   ^ */ 1, PSD_PICKLE, size);
    CHECK_PICKLE_FAILS("NT\x00\x00\x00\x80.",
                    /*   ^ */ 1, PSD_PICKLE, size);
    const char *integer = "a line that is no integer";
    CHECK_PICKLE_FAILS("I\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("I-\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("I1_0\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("I 1\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("I0x10\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("I010\n.", /* octal to one reader, refused by another */
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("I1L\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("LL\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("L\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("L5\r\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("L1234567890123456789012x45L\n.",
                    /*  ^ */ 0, PSD_PICKLE, integer);
    CHECK_PICKLE_FAILS("NF1.5x\n.",
                    /*   ^ */ 1, PSD_PICKLE, "a line that is no float");
    const char *quotes = "a string with broken quotes or escapes";
    CHECK_PICKLE_FAILS("Sbare\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'x\"\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'\\x4'\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'\\xg0'\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'\\x'\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'\\'\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    CHECK_PICKLE_FAILS("S'\\400'\n.",
                    /*  ^ */ 0, PSD_PICKLE, quotes);
    const char *escapes = "a text with broken escapes";
    CHECK_PICKLE_FAILS("V\\u12\n.",
                    /*  ^ */ 0, PSD_PICKLE, escapes);
    CHECK_PICKLE_FAILS("V\\u12g4\n.",
                    /*  ^ */ 0, PSD_PICKLE, escapes);
    CHECK_PICKLE_FAILS("V\\U00110000\n.",
                    /*  ^ */ 0, PSD_PICKLE, escapes);
    CHECK_PICKLE_FAILS("V\\U\n.",
                    /*  ^ */ 0, PSD_PICKLE, escapes);
    const char *index = "a line that is no memo index";
    CHECK_PICKLE_FAILS("Np-1\n.",
                    /*   ^ */ 1, PSD_PICKLE, index);
    CHECK_PICKLE_FAILS("Ng-1\n.",
                    /*   ^ */ 1, PSD_PICKLE, index);
    CHECK_PICKLE_FAILS("Np\n.",
                    /*   ^ */ 1, PSD_PICKLE, index);
    CHECK_PICKLE_FAILS("Npx\n.",
                    /*   ^ */ 1, PSD_PICKLE, index);
    CHECK_PICKLE_FAILS("Np9223372036854775808\n.",
                    /*   ^ */ 1, PSD_PICKLE, index);
    CHECK_PICKLE_FAILS("Np99999999999999999999\n.",
                    /*   ^ */ 1, PSD_PICKLE, index);
    const char *unset = "nothing was put in the memo there";
    CHECK_PICKLE_FAILS("h\x00.",
                    /*  ^ */ 0, PSD_PICKLE, unset);
    CHECK_PICKLE_FAILS("Nq\x00h\x01.",
                    /*     ^ */ 3, PSD_PICKLE, unset);
    CHECK_PICKLE_FAILS("Nr\xFF\xFF\xFF\xFFj\xFE\xFF\xFF\xFF.",
                    /*                    ^ */ 6, PSD_PICKLE, unset);
    CHECK_PICKLE_FAILS("Ng5\n.",
                    /*   ^ */ 1, PSD_PICKLE, unset);
}

static void
a_name_is_nonsense(void)
{
    const char *empty = "a global without a name";
    CHECK_PICKLE_FAILS("c\nn\n.",
                    /*  ^ */ 0, PSD_PICKLE, empty);
    CHECK_PICKLE_FAILS("cm\n\n.",
                    /*  ^ */ 0, PSD_PICKLE, empty);
    CHECK_PICKLE_FAILS("\x8C\x00\x8C\x01n\x93.",
                    /*                   ^ */ 5, PSD_PICKLE, empty);
    const char *kind = "the name of a global is no text";
    CHECK_PICKLE_FAILS("K\x01\x8C\x01n\x93.",
                    /*                ^ */ 5, PSD_PICKLE, kind);
    CHECK_PICKLE_FAILS("\x8C\x01nC\x01n\x93.",
                    /*                 ^ */ 6, PSD_PICKLE, kind);
}

static void
an_opcode_is_not_for_us(void)
{
    const char *registry = "an opcode that needs a registry outside the file";
    CHECK_PICKLE_FAILS("N\x82\x01.",
                    /*   ^ */ 1, PSD_EXTENSION, registry);
    CHECK_PICKLE_FAILS("N\x83\x01\x01.",
                    /*   ^ */ 1, PSD_EXTENSION, registry);
    CHECK_PICKLE_FAILS("N\x84",
                    /*   ^ */ 1, PSD_EXTENSION, registry);
    const char *buffer = "an opcode that needs a buffer outside the file";
    CHECK_PICKLE_FAILS("\x97",
                    /*  ^ */ 0, PSD_OPCODE, buffer);
    CHECK_PICKLE_FAILS("N\x98.",
                    /*   ^ */ 1, PSD_OPCODE, buffer);
    CHECK_PICKLE_FAILS("\x80\x06N.",
                    /*  ^ */ 0, PSD_OPCODE, "a pickle protocol that is not known");
    CHECK_PICKLE_FAILS("N\xFF",
                    /*   ^ */ 1, PSD_PICKLE, "a byte that is no opcode");
}
/* clang-format on */

static void
failures_bring_evidence(void)
{
    static const struct {
        psd_span program;
        uint64_t found, expected;
    } cases[] = {
        {PSD_LITERAL("N\x82\x01."), 0x82, 0},
        {PSD_LITERAL("\x98"), 0x98, 0},
        {PSD_LITERAL("\x80\x09"), 9, 5},
        {PSD_LITERAL("\x7F"), 0x7F, 0},
        {PSD_LITERAL("NN\x87."), 2, 3},
        {PSD_LITERAL("N(NR."), 1, 2},
        {PSD_LITERAL("j\x01\x02\x03\xFF."), 0xFF030201, 0},
        {PSD_LITERAL("g1152921504606846976\n."), (uint64_t)1 << 60, 0},
        {PSD_LITERAL("\x95\xFF\0\0\0\0\0\0\0N."), 2, 255},
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        reading r;
        run(&r, cases[i].program);
        CHECK(r.status != PSD_OK && r.err.has_numbers);
        CHECK_UINT(r.err.found, cases[i].found);
        CHECK_UINT(r.err.expected, cases[i].expected);
        finish(&r);
    }
}

static void
names_have_a_greatest_length(void)
{
    static const struct {
        psd_span before;
        size_t count;
        psd_span after;
        psd_status status;
    } cases[] = {
        {PSD_LITERAL("c"), 1024, PSD_LITERAL("\nn\n."), PSD_OK},
        {PSD_LITERAL("c"), 1025, PSD_LITERAL("\nn\n."), PSD_PICKLE},
        {PSD_LITERAL("cm\n"), 1024, PSD_LITERAL("\n."), PSD_OK},
        {PSD_LITERAL("cm\n"), 1025, PSD_LITERAL("\n."), PSD_PICKLE},
        {PSD_LITERAL("cm\n"), 1025, PSD_LITERAL(""), PSD_PICKLE},
        {PSD_LITERAL("cm\n"), 1024, PSD_LITERAL(""), PSD_PICKLE_END},
        {PSD_LITERAL("X\x00\x04\0\0"), 1024, PSD_LITERAL("X\1\0\0\0n\x93."), PSD_OK},
        {PSD_LITERAL("X\x01\x04\0\0"), 1025, PSD_LITERAL("X\1\0\0\0n\x93."),
         PSD_PICKLE},
        {PSD_LITERAL("X\1\0\0\0mX\x01\x04\0\0"), 1025, PSD_LITERAL("\x93."),
         PSD_PICKLE},
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        psd_span program =
            repeat(cases[i].before, PSD_LITERAL("a"), cases[i].count, cases[i].after);
        check_guarded g = check_guard(program.data, program.size);
        reading r;
        run(&r, (psd_span){g.data, g.size});
        CHECK_UINT(r.status, cases[i].status);
        if (r.status == PSD_PICKLE) {
            CHECK(strcmp(r.err.sentence, "the name of a global is longer than 1 KiB") ==
                  0);
        }
        finish(&r);
        check_unguard(&g);
        free((void *)program.data);
    }
}

int
main(void)
{
    RUN(the_end_comes_too_early);
    RUN(the_stack_holds_too_little);
    RUN(a_mark_is_in_the_way);
    RUN(the_target_is_of_another_kind);
    RUN(an_operand_is_nonsense);
    RUN(a_name_is_nonsense);
    RUN(an_opcode_is_not_for_us);
    RUN(failures_bring_evidence);
    RUN(names_have_a_greatest_length);
    return check_report();
}
