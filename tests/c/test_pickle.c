/* SPDX-License-Identifier: Apache-2.0
 *
 * The stack machine: what each opcode makes.
 * Programs end at a guard page, so reading one byte too many is a fault.
 */
#include <stdarg.h>

#include "pickle_kit.h"

/* ------------------------------------------------------ values as one line */

typedef struct {
    char text[4096];
    size_t size;
} line;

static void
add(line *to, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size =
        vsnprintf(to->text + to->size, sizeof to->text - to->size, format, arguments);
    va_end(arguments);
    size_t left = sizeof to->text - to->size - 1;
    to->size += (size_t)size < left ? (size_t)size : left;
}

static void
add_bytes(line *to, const char *prefix, psd_span bytes)
{
    add(to, "%s'", prefix);
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t c = bytes.data[i];
        add(to, c >= 0x20 && c < 0x7F ? "%c" : "<%02x>", c);
    }
    add(to, "'");
}

static void add_value(line *to, const psd_pool *pool, psd_ref ref, int depth);

static void
add_refs(line *to, const psd_pool *pool, const char *around, const psd_ref *refs,
         uint32_t count, int depth)
{
    add(to, "%c", around[0]);
    for (uint32_t i = 0; i < count; i++) {
        add(to, i == 0 ? "" : " ");
        add_value(to, pool, refs[i], depth + 1);
    }
    add(to, "%c", around[1]);
}

static void
add_call(line *to, const psd_pool *pool, const psd_call *call, int depth)
{
    static const char *forms[] = {"call", "new", "newex", "instance"};
    psd_ref parts[] = {call->callable, call->args, call->kwargs};
    add(to, "%s@%u", forms[call->form], call->position);
    add_refs(to, pool, "<>", parts, call->kwargs == 0 ? 2 : 3, depth);
    if (call->append_count > 0) {
        add_refs(to, pool, "[]", call->appends, call->append_count, depth);
    }
    if (call->item_count > 0) {
        add_refs(to, pool, "{}", call->items, call->item_count, depth);
    }
    if (call->state != 0) {
        add_refs(to, pool, "!!", &call->state, 1, depth);
    }
}

static void
add_value(line *to, const psd_pool *pool, psd_ref ref, int depth)
{
    const psd_value *v = psd_value_at(pool, ref);
    if (depth > 4) {
        add(to, "...");
        return;
    }
    switch (v->kind) {
    case PSD_KIND_NONE: add(to, "None"); break;
    case PSD_KIND_BOOL: add(to, v->as.boolean ? "True" : "False"); break;
    case PSD_KIND_INT: add(to, "%lld", (long long)v->as.integer); break;
    case PSD_KIND_FLOAT: add(to, "%.17g", v->as.real); break;
    case PSD_KIND_LONG: add_bytes(to, "long", psd_text_of(v)); break;
    case PSD_KIND_TEXT: add_bytes(to, "", psd_text_of(v)); break;
    case PSD_KIND_STRING: add_bytes(to, "s", psd_text_of(v)); break;
    case PSD_KIND_BYTES: add_bytes(to, "b", psd_text_of(v)); break;
    case PSD_KIND_BYTEARRAY: add_bytes(to, "a", psd_text_of(v)); break;
    case PSD_KIND_TUPLE: add_refs(to, pool, "()", v->as.items, v->count, depth); break;
    case PSD_KIND_LIST: add_refs(to, pool, "[]", v->as.items, v->count, depth); break;
    case PSD_KIND_DICT: add_refs(to, pool, "{}", v->as.items, v->count, depth); break;
    case PSD_KIND_SET: add_refs(to, pool, "<>", v->as.items, v->count, depth); break;
    case PSD_KIND_FROZENSET:
        add_refs(to, pool, "||", v->as.items, v->count, depth);
        break;
    case PSD_KIND_GLOBAL:
        add_bytes(to, "", v->as.global->module);
        add_bytes(to, ".", v->as.global->name);
        add(to, "@%u", v->as.global->position);
        break;
    case PSD_KIND_CALL: add_call(to, pool, v->as.call, depth); break;
    case PSD_KIND_PERSID: add_refs(to, pool, "^^", &v->as.ref, 1, depth); break;
    default: add(to, "?"); break;
    }
}

/* ------------------------------------------------------ opcodes that are read */

typedef struct {
    uint8_t opcode; /* that it is about */
    psd_span program;
    const char *value;
} good_case;

/* clang-format off */
#define GOOD(name, program, value) {PSD_OP_##name, PSD_LITERAL(program), value}
static const good_case good_cases[] = {
    GOOD(STOP, "N.", "None"),
    GOOD(STOP, "NK\x01.rest", "1"), /* what is below and behind does not matter */
    GOOD(STOP, "(N.", "None"),
    GOOD(MARK, "(t.", "()"),
    GOOD(POP, "K\x01K\x02" "0.", "1"),
    GOOD(POP, "K\x01(0.", "1"),
    GOOD(POP, "(K\x01(0t.", "(1)"),
    GOOD(POP_MARK, "K\x01(K\x02K\x03" "1.", "1"),
    GOOD(DUP, "]2\x86.", "([] [])"),
    GOOD(PROTO, "\x80\x05N.", "None"),
    GOOD(PROTO, "N\x80\x00.", "None"),
    GOOD(FRAME, "\x95\x02\0\0\0\0\0\0\0N.", "None"),
    GOOD(FRAME, "\x95\x00\0\0\0\0\0\0\0N.", "None"),

    GOOD(NONE, "N.", "None"),
    GOOD(NEWTRUE, "\x88.", "True"),
    GOOD(NEWFALSE, "\x89.", "False"),
    GOOD(BININT, "J\x00\x00\x00\x80.", "-2147483648"),
    GOOD(BININT, "J\xFF\xFF\xFF\x7F.", "2147483647"),
    GOOD(BININT1, "K\xFF.", "255"),
    GOOD(BININT2, "M\x01\xFF.", "65281"),
    GOOD(INT, "I01\n.", "True"),
    GOOD(INT, "I00\n.", "False"),
    GOOD(INT, "I0\n.", "0"),
    GOOD(INT, "I-5\n.", "-5"),
    GOOD(INT, "I+5\n.", "5"),
    GOOD(INT, "I1099511627776\n.", "1099511627776"),
    GOOD(LONG, "L7L\n.", "7"),
    GOOD(LONG, "L7\n.", "7"),
    GOOD(LONG, "L999999999999999999L\n.", "999999999999999999"),
    GOOD(LONG, "L9223372036854775807L\n.", "9223372036854775807"),
    GOOD(LONG, "L-9223372036854775808L\n.", "-9223372036854775808"),
    GOOD(LONG, "L9223372036854775808L\n.", "long'<00><00><00><00><00><00><00><80><00>'"),
    GOOD(LONG, "L-9223372036854775809L\n.", "long'<ff><ff><ff><ff><ff><ff><ff><7f><ff>'"),
    GOOD(LONG, "L-340282366920938463463374607431768211456L\n.",
         "long'<00><00><00><00><00><00><00><00><00><00><00><00><00><00><00><00><ff>'"),
    GOOD(LONG1, "\x8A\x00.", "0"),
    GOOD(LONG1, "\x8A\x01\xFE.", "-2"),
    GOOD(LONG1, "\x8A\x02\xFF\x00.", "255"),
    GOOD(LONG1, "\x8A\x08\0\0\0\0\0\0\0\x80.", "-9223372036854775808"),
    GOOD(LONG1, "\x8A\x0A\x01\0\0\0\0\0\0\0\0\0.", "1"), /* redundant sign bytes */
    GOOD(LONG1, "\x8A\x09\0\0\0\0\0\0\0\x80\x00.",
         "long'<00><00><00><00><00><00><00><80><00>'"),
    GOOD(LONG1, "\x8A\x0B\0\0\0\0\0\0\0\x7F\xFF\xFF\xFF.",
         "long'<00><00><00><00><00><00><00><7f><ff>'"),
    GOOD(LONG4, "\x8B\x02\0\0\0\x01\x80.", "-32767"),
    GOOD(FLOAT, "F1.5\n.", "1.5"),
    GOOD(FLOAT, "F-inf\n.", "-inf"),
    GOOD(BINFLOAT, "G\x3F\xF8\0\0\0\0\0\0.", "1.5"),

    GOOD(BINUNICODE, "X\x02\0\0\0hi.", "'hi'"),
    GOOD(BINUNICODE, "X\0\0\0\0.", "''"),
    GOOD(SHORT_BINUNICODE, "\x8C\x01\xE9.", "'<e9>'"), /* judged by the host */
    GOOD(BINUNICODE8, "\x8D\x02\0\0\0\0\0\0\0hi.", "'hi'"),
    GOOD(UNICODE, "Vplain\n.", "'plain'"),
    GOOD(UNICODE, "V\n.", "''"),
    GOOD(UNICODE, "V\xE9\\u20ac\\U0001f600\n.",
         "'<c3><a9><e2><82><ac><f0><9f><98><80>'"),
    GOOD(UNICODE, "V\\ud83d\\ude00\n.", "'<ed><a0><bd><ed><b8><80>'"),
    GOOD(UNICODE, "V\\\\u0041\\n\\\n.", "'\\\\u0041\\n\\'"),
    GOOD(UNICODE, "V\\u007f\\u0080\\u07ff\\u0800\\uFFFF\n.",
         "'<7f><c2><80><df><bf><e0><a0><80><ef><bf><bf>'"),
    GOOD(STRING, "S'it'\n.", "s'it'"),
    GOOD(STRING, "S\"it's\"\n.", "s'it's'"),
    GOOD(STRING, "S''\n.", "s''"),
    GOOD(STRING, "S'\\a\\b\\f\\n\\r\\t\\v\\\\\\'\\\"'\n.",
         "s'<07><08><0c><0a><0d><09><0b>\\'\"'"),
    GOOD(STRING, "S'\\x41\\xfF\\101\\7\\18\\0'\n.", "s'A<ff>A<07><01>8<00>'"),
    GOOD(STRING, "S'\\1234\\09'\n.", "s'S4<00>9'"),
    GOOD(STRING, "S'\\q'\n.", "s'\\q'"),
    GOOD(BINSTRING, "T\x02\0\0\0hi.", "s'hi'"),
    GOOD(SHORT_BINSTRING, "U\x02hi.", "s'hi'"),
    GOOD(BINBYTES, "B\x02\0\0\0hi.", "b'hi'"),
    GOOD(SHORT_BINBYTES, "C\x02hi.", "b'hi'"),
    GOOD(BINBYTES8, "\x8E\x02\0\0\0\0\0\0\0hi.", "b'hi'"),
    GOOD(BYTEARRAY8, "\x96\x02\0\0\0\0\0\0\0hi.", "a'hi'"),

    GOOD(EMPTY_TUPLE, ").", "()"),
    GOOD(TUPLE1, "NK\x01\x85.", "(1)"),
    GOOD(TUPLE2, "NK\x01K\x02\x86.", "(1 2)"),
    GOOD(TUPLE3, "NK\x01K\x02K\x03\x87.", "(1 2 3)"),
    GOOD(TUPLE, "(K\x01(K\x02K\x03tK\x04t.", "(1 (2 3) 4)"),
    GOOD(EMPTY_LIST, "].", "[]"),
    GOOD(LIST, "(K\x01K\x02l.", "[1 2]"),
    GOOD(LIST, "(l.", "[]"),
    GOOD(APPEND, "]K\x01" "aK\x02" "a.", "[1 2]"),
    GOOD(APPEND, "]2a.", "[[[[[...]]]]]"),
    GOOD(APPEND, "cm\nn\n)RK\x01" "a.", "call@6<'m'.'n'@0 ()>[1]"),
    GOOD(APPENDS, "](K\x01K\x02" "e(K\x03" "e(e.", "[1 2 3]"),
    GOOD(APPENDS, "cm\nn\n)R(K\x01" "e.", "call@6<'m'.'n'@0 ()>[1]"),
    GOOD(EMPTY_DICT, "}.", "{}"),
    GOOD(DICT, "(K\x01Nd.", "{1 None}"),
    GOOD(SETITEM, "}K\x01Ns.", "{1 None}"),
    GOOD(SETITEM, "cm\nn\n)RK\x01Ns.", "call@6<'m'.'n'@0 ()>{1 None}"),
    GOOD(SETITEMS, "}(K\x01NK\x02Nu(u.", "{1 None 2 None}"),
    GOOD(EMPTY_SET, "\x8F.", "<>"),
    GOOD(ADDITEMS, "\x8F(K\x01K\x02\x90(\x90.", "<1 2>"),
    GOOD(ADDITEMS, "cm\nn\n)R(K\x01\x90.", "call@6<'m'.'n'@0 ()>[1]"),
    GOOD(FROZENSET, "(K\x01K\x02\x91.", "|1 2|"),

    GOOD(GLOBAL, "ca.b\nc d\n.", "'a.b'.'c d'@0"),
    GOOD(GLOBAL, "Nc\xE9\nn\r\n.", "'<e9>'.'n<0d>'@1"),
    GOOD(STACK_GLOBAL, "\x8C\x01m\x8C\x01n\x93.", "'m'.'n'@6"),
    GOOD(STACK_GLOBAL, "U\x01mU\x01n\x93.", "'m'.'n'@6"),
    GOOD(REDUCE, "cm\nn\nK\x01\x85R.", "call@8<'m'.'n'@0 (1)>"),
    GOOD(NEWOBJ, "cm\nn\n)\x81.", "new@6<'m'.'n'@0 ()>"),
    GOOD(NEWOBJ, "cm\nn\nN\x81.", "new@6<'m'.'n'@0 None>"),
    GOOD(NEWOBJ_EX, "cm\nn\n)}\x92.", "newex@7<'m'.'n'@0 () {}>"),
    GOOD(INST, "(K\x01im\nn\n.", "instance@3<'m'.'n'@3 (1)>"),
    GOOD(OBJ, "(cm\nn\nK\x01o.", "instance@8<'m'.'n'@1 (1)>"),
    GOOD(OBJ, "(cm\nn\no.", "instance@6<'m'.'n'@1 ()>"),
    GOOD(BUILD, "cm\nn\n)R}bNb.", "call@6<'m'.'n'@0 ()>!None!"),
    GOOD(PERSID, "Pid 7\n.", "^'id 7'^"),
    GOOD(PERSID, "P\n.", "^''^"),
    GOOD(BINPERSID, "K\x01\x85Q.", "^(1)^"),
    GOOD(BINPERSID, "NQ)R.", "call@3<^None^ ()>"),

    GOOD(PUT, "Np7\n0g7\n.", "None"),
    GOOD(PUT, "K\x05p9223372036854775807\n0g9223372036854775807\n.", "5"),
    GOOD(GET, "K\x05p007\n0g7\n.", "5"),
    GOOD(BINPUT, "]q\x00K\x01" "ah\x00\x86.", "([1] [1])"), /* the same list, filled later */
    GOOD(BINPUT, "Nq\x00K\x01q\x00h\x00.", "1"),           /* the last one counts */
    GOOD(BINGET, "K\x01q\xFF" "0h\xFF.", "1"),
    GOOD(LONG_BINPUT, "K\x01r\x00\x01\0\0" "0j\x00\x01\0\0.", "1"),
    GOOD(LONG_BINGET, "K\x01r\xFF\xFF\xFF\xFF" "0j\xFF\xFF\xFF\xFF.", "1"),
    GOOD(MEMOIZE, "K\x01\x94K\x02\x94K\x03\x94h\x01.", "2"),
    /* It counts indices: 0 twice, then a far one, so the next is 2. */
    GOOD(MEMOIZE, "Nq\x00Nq\x00Nr\0\0\xFF\0K\x07\x94" "0h\x02.", "7"),
    /* A far index that comes near is the same index. */
    GOOD(MEMOIZE, "K\x01q\x14" "K\x02" "Nq\x00" "000" "K\x02q\x0A" "0NNNNNNNNNNNNN"
         "K\x03q\x14" "0K\x04\x94" "0h\x14" "h\x03\x86.", "(3 4)"),
};
/* clang-format on */

static void
check_good(const good_case *c)
{
    check_guarded g = check_guard(c->program.data, c->program.size);
    reading r;
    run(&r, (psd_span){g.data, g.size});
    line found = {{0}, 0};
    if (r.status == PSD_OK) {
        add_value(&found, &r.pool, r.pickle.root, 0);
    }
    else {
        add(&found, "%s at %llu", r.err.sentence, (unsigned long long)r.err.offset);
    }
    if (strcmp(found.text, c->value) != 0) {
        fprintf(stderr, "opcode %02x gives %s, not %s\n", c->opcode, found.text,
                c->value);
    }
    CHECK(strcmp(found.text, c->value) == 0);
    CHECK(memchr(c->program.data, c->opcode, c->program.size) != NULL);
    finish(&r);
    check_unguard(&g);
}

static void
every_opcode_is_read_or_refused(void)
{
    bool told[256] = {false};
    for (size_t i = 0; i < LENGTH(good_cases); i++) {
        check_good(&good_cases[i]);
        told[good_cases[i].opcode] = true;
    }
    static const uint8_t refused[] = {PSD_OP_EXT1, PSD_OP_EXT2, PSD_OP_EXT4,
                                      PSD_OP_NEXT_BUFFER, PSD_OP_READONLY_BUFFER};
    for (size_t i = 0; i < LENGTH(refused); i++) {
        CHECK(!told[refused[i]]);
        told[refused[i]] = true;
    }
#define ROW(byte, name) CHECK(told[byte]);
    PSD_OPCODES(ROW)
#undef ROW
}

/* pickletools knows 68 of them. */
static void
the_list_of_opcodes_is_whole(void)
{
    static const uint8_t bytes[] = {
#define ROW(byte, name) byte,
        PSD_OPCODES(ROW)
#undef ROW
    };
    bool seen[256] = {false};
    CHECK_UINT(sizeof bytes, 68);
    for (size_t i = 0; i < sizeof bytes; i++) {
        CHECK(!seen[bytes[i]]);
        seen[bytes[i]] = true;
    }
    /* And every other byte is none. */
    for (unsigned byte = 0; byte < 256; byte++) {
        if (!seen[byte]) {
            uint8_t program[] = {'N', (uint8_t)byte, '.'};
            reading r;
            run(&r, (psd_span){program, sizeof program});
            CHECK_UINT(r.status, PSD_PICKLE);
            CHECK_UINT(r.err.offset, BASE + 1);
            CHECK(r.err.has_numbers && r.err.found == byte);
            finish(&r);
        }
    }
}

static void
the_outcome_tells_size_and_protocol(void)
{
    reading r;
    run(&r, PSD_LITERAL("\x80\x02\x80\x04N.rest"));
    CHECK_UINT(r.status, PSD_OK);
    CHECK_UINT(r.pickle.size, 6);
    CHECK_UINT(r.pickle.protocol, 4);
    finish(&r);
    run(&r, PSD_LITERAL("N."));
    CHECK_UINT(r.pickle.protocol, 0);
    finish(&r);
    run(&r, PSD_LITERAL("]]"));
    CHECK_UINT(r.pickle.root, 0);
    CHECK_UINT(r.pool.count, 2); /* what was born stays */
    finish(&r);
}

/* None, the bools, small integers and () are born once, and all else each time. */
static void
constants_are_shared(void)
{
    static const char *const shared[] = {"NN.", "\x88\x88.", "\x89\x89.", "K\x07K\x07.",
                                         "))."};
    static const char *const fresh[] = {"]].", "}}.", "J\7\1\1\1J\7\1\1\1.",
                                        "\x88\x89."};
    reading r;
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        run(&r, (psd_span){(const uint8_t *)shared[i], strlen(shared[i])});
        CHECK_UINT(r.status, PSD_OK);
        CHECK_UINT(r.pool.count, 1);
        finish(&r);
    }
    for (size_t i = 0; i < sizeof fresh / sizeof *fresh; i++) {
        run(&r, (psd_span){(const uint8_t *)fresh[i], strlen(fresh[i])});
        CHECK_UINT(r.status, PSD_OK);
        CHECK_UINT(r.pool.count, 2);
        finish(&r);
    }
}

/* Programs may share a pool: numbers go on. */
static void
a_pool_takes_several_programs(void)
{
    psd_limits limits = psd_default_limits();
    reading r;
    run(&r, PSD_LITERAL("K\x01q\x00."));
    psd_status status = psd_pickle_read(PSD_LITERAL("K\x02\x85."), 0, &limits, key,
                                        &r.pool, &r.pickle, &r.err);
    CHECK_UINT(status, PSD_OK);
    CHECK_UINT(r.pickle.root, 3);
    CHECK_UINT(psd_value_at(&r.pool, 3)->as.items[0], 2);
    status = psd_pickle_read(PSD_LITERAL("h\x00."), 0, &limits, key, &r.pool, &r.pickle,
                             &r.err);
    CHECK_UINT(status, PSD_PICKLE); /* but each begins with an empty memo */
    finish(&r);
}

int
main(void)
{
    RUN(every_opcode_is_read_or_refused);
    RUN(the_list_of_opcodes_is_whole);
    RUN(the_outcome_tells_size_and_protocol);
    RUN(constants_are_shared);
    RUN(a_pool_takes_several_programs);
    return check_report();
}
