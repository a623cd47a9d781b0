/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors that are read in one go: nobody can tell them from those that the machine reads
 * opcode by opcode.  The same program is run twice, the second time with an opcode that
 * does nothing between the two marks, so that it is spelled otherwise.
 */
#include "pickle_kit.h"

/* PROTO tells the protocol, as often as one likes. */
static const uint8_t nothing[] = {0x80, 2};

#define FIRST                                                                        \
    "ctorch._utils\n_rebuild_tensor_v2\nq\x02(("                                     \
    "X\x07\0\0\0storageq\x03"                                                        \
    "ctorch\nFloatStorage\nq\x04X\x01\0\0\0"                                         \
    "0q\x05X\x03\0\0\0cpuq\x06K\x40tq\x07QK\0K\x08K\x08\x86q\x08K\x08K\x01\x86q\x09" \
    "\x89"                                                                           \
    "ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0d"

/* What stands after the two marks of a tensor, as it is mostly spelled. */
#define USUAL                                                                          \
    "h\x03h\x04X\x01\0\0\0"                                                            \
    "1q\x0fh\x06K\x40tq\x10QK\0K\x08K\x08\x86q\x11K\x08K\x01\x86q\x12\x89h\x0a)Rq\x13" \
    "tq\x14Rq\x15"

/* The same on a storage that another tensor has told of. */
#define GOT                                             \
    "h\3h\4h\5h\6K\1tq\x10QK\0K\1\x85q\x11K\1\x85q\x12" \
    "\x89h\x0a)Rq\x13tq\x14Rq\x15"

#define TEN "0123456789"
#define FIFTY TEN TEN TEN TEN TEN

/* The same with a key of 250 bytes. */
#define LONG_KEY                                      \
    "h\3h\4X\xfa\0\0\0" FIFTY FIFTY FIFTY FIFTY FIFTY \
    "q\x0fh\6K\1tq\x10QK\0K\1\x85q\x11"               \
    "K\1\x85q\x12\x89h\x0a)Rq\x13tq\x14Rq\x15"

#define ROOM 4096

typedef struct {
    uint8_t bytes[ROOM];
    size_t size;
    size_t at; /* where the two marks are followed by `tensor` */
} program;

static void
add(program *p, psd_span text)
{
    memcpy(p->bytes + p->size, text.data, text.size);
    p->size += text.size;
}

/* A list of a tensor, of `tensor`, of what the memo holds then, and of a long text. */
static program
program_of(psd_span tensor, bool in_one_go, uint8_t padding)
{
    program p = {.size = 0};
    add(&p, PSD_LITERAL("\x80\x02]q\0(" FIRST));
    if (in_one_go) {
        add(&p, (psd_span){nothing, sizeof nothing});
    }
    add(&p, PSD_LITERAL("h\x02("));
    if (!in_one_go) {
        add(&p, (psd_span){nothing, sizeof nothing});
    }
    add(&p, PSD_LITERAL("("));
    p.at = p.size;
    add(&p, tensor);
    for (uint8_t i = 0x0f; i <= 0x15; i++) {
        add(&p, (psd_span){(const uint8_t[]){'h', i}, 2});
    }
    add(&p, (psd_span){(const uint8_t[]){'X', padding, 0, 0, 0}, 5});
    memset(p.bytes + p.size, 'x', padding);
    p.size += padding;
    /* MEMOIZE counts what was put. */
    add(&p, PSD_LITERAL("\x94h\x14h\x15"
                        "e."));
    return p;
}

/* ---------------------------------------------------------------- comparing */

static bool
same_refs(const psd_ref *a, const psd_ref *b, uint32_t count)
{
    return count == 0 || memcmp(a, b, count * sizeof *a) == 0;
}

static bool
same_call(const psd_call *a, const psd_call *b)
{
    return a->callable == b->callable && a->args == b->args && a->kwargs == b->kwargs &&
           a->state == b->state && a->item_count == b->item_count &&
           a->append_count == b->append_count && a->position == b->position &&
           a->form == b->form;
}

static bool
same_value(const psd_value *a, const psd_value *b)
{
    if (a->kind != b->kind || a->count != b->count || a->flags != b->flags) {
        return false;
    }
    switch (a->kind) {
    case PSD_KIND_BOOL: return a->as.boolean == b->as.boolean;
    case PSD_KIND_INT: return a->as.integer == b->as.integer;
    case PSD_KIND_LONG:
    case PSD_KIND_TEXT:
    case PSD_KIND_STRING:
    case PSD_KIND_BYTES:
    case PSD_KIND_BYTEARRAY: return psd_span_equal(psd_text_of(a), psd_text_of(b));
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return same_refs(a->as.items, b->as.items, a->count);
    case PSD_KIND_GLOBAL:
        return psd_span_equal(a->as.global->module, b->as.global->module) &&
               psd_span_equal(a->as.global->name, b->as.global->name) &&
               a->as.global->position == b->as.global->position;
    case PSD_KIND_CALL: return same_call(a->as.call, b->as.call);
    case PSD_KIND_PERSID: return a->as.ref == b->as.ref;
    default: return true;
    }
}

static bool
same_pool(const psd_pool *a, const psd_pool *b)
{
    bool same = a->count == b->count && a->event_count == b->event_count &&
                a->persid_count == b->persid_count;
    for (psd_ref ref = 1; same && ref <= a->count; ref++) {
        same = same_value(psd_value_at(a, ref), psd_value_at(b, ref));
    }
    for (uint32_t i = 0; same && i < a->event_count; i++) {
        const psd_event *x = &a->events[i], *y = &b->events[i];
        same = x->when == y->when && x->target == y->target && x->first == y->first &&
               x->count == y->count && x->kind == y->kind;
    }
    return same;
}

static bool
same_reading(const reading *a, const reading *b)
{
    if (a->status != b->status) {
        return false;
    }
    if (a->status != PSD_OK) {
        return a->err.offset == b->err.offset &&
               strcmp(a->err.sentence, b->err.sentence) == 0;
    }
    return a->pickle.root == b->pickle.root && a->pickle.left == b->pickle.left &&
           a->pickle.size == b->pickle.size && same_pool(&a->pool, &b->pool);
}

static const psd_limits *
limits_of(uint64_t values)
{
    static psd_limits limits;
    limits = psd_default_limits();
    limits.values = values == 0 ? limits.values : values;
    return &limits;
}

/* The two calls of a tensor that was read in one go stand side by side. */
static bool
was_in_one_go(const reading *r)
{
    const psd_pool *pool = &r->pool;
    psd_ref tensor = psd_value_at(pool, r->pickle.root)->as.items[1];
    const psd_call *call = psd_value_at(pool, tensor)->as.call;
    const psd_ref *args = psd_value_at(pool, call->args)->as.items;
    return psd_value_at(pool, args[5])->as.call + 1 == call;
}

/* Run both; are they the same? */
static void
check_alike(const program *one, const program *other, uint64_t values)
{
    reading a, b;
    run_with(&a, (psd_span){one->bytes, one->size}, limits_of(values), 0);
    run_with(&b, (psd_span){other->bytes, other->size}, limits_of(values), 0);
    CHECK(same_reading(&a, &b));
    finish(&a);
    finish(&b);
}

/* The same of both spellings of a program; and was the one read in one go? */
static void
check_both(psd_span tensor, bool in_one_go)
{
    program one = program_of(tensor, true, 255), other = program_of(tensor, false, 255);
    reading a, b;
    run(&a, (psd_span){one.bytes, one.size});
    run(&b, (psd_span){other.bytes, other.size});
    CHECK_UINT(a.status, PSD_OK);
    CHECK(same_reading(&a, &b));
    CHECK(a.status != PSD_OK || was_in_one_go(&a) == in_one_go);
    CHECK(b.status != PSD_OK || !was_in_one_go(&b));
    finish(&a);
    finish(&b);
}

/* ---------------------------------------------------------------- tests */

#define BEFORE_NUMEL        \
    "h\x03h\x04X\x01\0\0\0" \
    "1q\x0fh\x06"
#define AFTER_NUMEL "tq\x10QK\0"
#define AFTER_STRIDE "\x89h\x0a)Rq\x13tq\x14Rq\x15"
#define SHAPED(shape, stride)                                         \
    PSD_LITERAL(BEFORE_NUMEL "K\x40" AFTER_NUMEL shape "q\x11" stride \
                             "q\x12" AFTER_STRIDE)

static void
test_spellings(void)
{
    check_both(PSD_LITERAL(USUAL), true);
    check_both(SHAPED("K\x40\x85", "K\x01\x85"), true);
    check_both(SHAPED("K\x02K\x04K\x08\x87", "K\x20K\x08K\x01\x87"), true);
    check_both(SHAPED("(K\x02K\x04K\x04K\x02t", "(K\x20K\x08K\x02K\x01t"), true);
    check_both(SHAPED("(K\x40t", "(K\x01t"), true);
    check_both(SHAPED("(K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1t"),
               true);
    /* Whole numbers of two and of four bytes, one of them negative. */
    check_both(SHAPED("M\x01\x02J\x01\0\1\0\x86", "J\xff\xff\xff\xffM\1\0\x86"), true);
    check_both(PSD_LITERAL(BEFORE_NUMEL "M\0\1" AFTER_NUMEL
                                        "K\1\x85q\x11K\1\x85q\x12" AFTER_STRIDE),
               true);
    /* No dimension: two more indices are put to elsewhere. */
    check_both(PSD_LITERAL(BEFORE_NUMEL "K\1" AFTER_NUMEL "))" AFTER_STRIDE
                                        "K\1q\x11q\x12"
                                        "0"),
               true);
    /* What is trained; a key that another tensor has told; None as a sixth part. */
    check_both(PSD_LITERAL(BEFORE_NUMEL
                           "K\1" AFTER_NUMEL
                           "K\1\x85q\x11K\1\x85q\x12\x88h\x0a)Rq\x13tq\x14Rq\x15"),
               true);
    check_both(PSD_LITERAL("h\3h\4h\5h\6K\1tq\x10QK\0K\1\x85q\x11K\1\x85q\x12"
                           "\x89h\x0a)Rq\x13tq\x14Rq\x15K\1q\x0f"
                           "0"),
               true);
    check_both(PSD_LITERAL(BEFORE_NUMEL "K\1N" AFTER_NUMEL
                                        "K\1\x85q\x11K\1\x85q\x12" AFTER_STRIDE),
               true);
    /* Indices of four bytes. */
    check_both(PSD_LITERAL("j\3\0\0\0h\4X\1\0\0\0"
                           "1r\x0f\0\0\0h\6K\1tq\x10QK\0"
                           "K\1\x85q\x11K\1\x85q\x12\x89h\x0a)Rq\x13tq\x14Rq\x15"),
               true);
}

/* Without puts, which leaves the last indices to be put to by hand; and with one of them. */
static void
test_without_puts(void)
{
#define PUT_BY_HAND "K\1q\x0fq\x10q\x11q\x12q\x13q\x14q\x15"
    check_both(PSD_LITERAL(
                   "h\3h\4X\1\0\0\0"
                   "1h\6K\x40tQK\0K\x08K\x08\x86K\x08K\x01\x86\x89h\x0a)RtR" PUT_BY_HAND
                   "0"),
               true);
    check_both(PSD_LITERAL(
                   "h\3h\4h\5h\6K\1NtQK\0)(K\1K\1K\1K\1t\x88h\x0a)RtR" PUT_BY_HAND "0"),
               true);
    check_both(PSD_LITERAL("h\3h\4h\5h\6K\1tQK\0K\1\x85q\x11K\1\x85\x89h\x0a)RtR"
                           "K\1q\x0fq\x10q\x12q\x13q\x14q\x15"
                           "0"),
               true);
}

/* What looks alike and is something else is left to the machine. */
static void
test_other_spellings(void)
{
    /* More dimensions than are read in one go; a number that is longer than four bytes. */
    check_both(SHAPED("(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"),
               false);
    check_both(SHAPED("\x8a\1\x40\x85", "K\1\x85"), false);
    /* A tuple with a mark and nothing in it is no shared one. */
    check_both(SHAPED("(t", "(t"), false);
    /* More numbers than the tuple takes. */
    check_both(SHAPED("K\1K\1K\1K\1\x87", "K\1K\1K\1\x87"), false);
    check_both(SHAPED("K\1K\1\x85", "K\1K\1\x85"), false);
    /* An index that was put to in the midst is got again. */
    check_both(PSD_LITERAL("h\3h\4X\1\0\0\0"
                           "1q\x06h\6K\1tq\x10QK\0K\1\x85q\x11K\1\x85"
                           "q\x12\x89h\x0a)Rq\x13tq\x14Rq\x15K\1q\x0f"
                           "0"),
               false);
    /* An index far away, which the memo keeps elsewhere. */
    check_both(PSD_LITERAL("h\3h\4X\1\0\0\0"
                           "1r\xff\xff\xff\x7fh\6K\1tq\x10QK\0K\1\x85"
                           "q\x11K\1\x85q\x12\x89h\x0a)Rq\x13tq\x14Rq\x15K\1q\x0f"
                           "0"),
               false);
}

/* Every byte of the usual spelling as each other one. */
static void
test_each_byte(void)
{
    program one = program_of(PSD_LITERAL(USUAL), true, 255);
    program other = program_of(PSD_LITERAL(USUAL), false, 255);
    unsigned same = 0, tried = 0, accepted = 0;
    CHECK_UINT(one.at, other.at);
    for (size_t at = one.at; at < one.at + sizeof USUAL - 1; at++) {
        uint8_t before = one.bytes[at];
        for (unsigned byte = 0; byte < 256; byte++, tried++) {
            reading a, b;
            one.bytes[at] = other.bytes[at] = (uint8_t)byte;
            run(&a, (psd_span){one.bytes, one.size});
            run(&b, (psd_span){other.bytes, other.size});
            same += same_reading(&a, &b);
            accepted += a.status == PSD_OK && byte != before;
            finish(&a);
            finish(&b);
        }
        one.bytes[at] = other.bytes[at] = before;
    }
    CHECK_UINT(same, tried);
    CHECK(accepted > 1000);
}

/* However near the program's end it stands, which is a guard page. */
static void
test_each_end(void)
{
    unsigned in_one_go = 0;
    for (unsigned padding = 0; padding < 256; padding++) {
        program one = program_of(PSD_LITERAL(USUAL), true, (uint8_t)padding);
        program other = program_of(PSD_LITERAL(USUAL), false, (uint8_t)padding);
        check_guarded x = check_guard(one.bytes, one.size);
        check_guarded y = check_guard(other.bytes, other.size);
        reading a, b;
        run(&a, (psd_span){x.data, x.size});
        run(&b, (psd_span){y.data, y.size});
        CHECK_UINT(a.status, PSD_OK);
        CHECK(same_reading(&a, &b));
        in_one_go += was_in_one_go(&a);
        finish(&a);
        finish(&b);
        check_unguard(&x);
        check_unguard(&y);
    }
    CHECK(in_one_go > 20 && in_one_go < 250);
}

/* Programs that are cut anywhere, at a guard page. */
static void
test_each_cut(void)
{
    static const psd_span tensors[] = {
        {(const uint8_t *)USUAL, sizeof USUAL - 1},
        {(const uint8_t *)GOT, sizeof GOT - 1},
        {(const uint8_t *)LONG_KEY, sizeof LONG_KEY - 1},
    };
    for (size_t t = 0; t < LENGTH(tensors); t++) {
        program one = program_of(tensors[t], true, 255);
        program other = program_of(tensors[t], false, 255);
        for (size_t size = one.at; size < one.size; size++) {
            check_guarded x = check_guard(one.bytes, size);
            check_guarded y = check_guard(other.bytes, size);
            reading a, b;
            run(&a, (psd_span){x.data, x.size});
            run(&b, (psd_span){y.data, y.size});
            CHECK(a.status != PSD_OK);
            CHECK(same_reading(&a, &b));
            finish(&a);
            finish(&b);
            check_unguard(&x);
            check_unguard(&y);
        }
    }
}

/* Two programs that do the same, padded with opcodes that do nothing. */
static void
check_same(psd_span head_of_one, psd_span head_of_other, psd_span tensor)
{
    program whole = program_of(tensor, true, 255);
    program one = {.size = 0}, other = {.size = 0};
    psd_span rest = {whole.bytes + whole.at, whole.size - whole.at};
    CHECK_UINT(head_of_one.size, head_of_other.size);
    add(&one, head_of_one);
    add(&one, rest);
    add(&other, head_of_other);
    add(&other, rest);
    check_alike(&one, &other, 0);
}

/* The callable stands below another mark, out of the call's reach; an index was put to far
 * away before there was a place for it nearby. */
static void
test_what_comes_before(void)
{
    check_same(PSD_LITERAL("\x80\2]q\0(" FIRST "\x80\2\x80\2h\2((("),
               PSD_LITERAL("\x80\2]q\0(" FIRST "h\2(\x80\2(\x80\2("),
               PSD_LITERAL(USUAL));
#define FAR               \
    "\x80\2K\1q\x3cq\x15" \
    "0]q\0(" FIRST
    check_same(PSD_LITERAL(FAR "\x80\2h\2(("), PSD_LITERAL(FAR "h\2(\x80\2("),
               PSD_LITERAL(USUAL));
    /* What is far away is got, and where nothing is put it does not matter otherwise. */
    check_same(PSD_LITERAL(FAR "\x80\2h\2(("), PSD_LITERAL(FAR "h\2(\x80\2("),
               PSD_LITERAL("h\x3ch\4h\5h\6K\1tQK\0))\x89h\x0a)RtR" PUT_BY_HAND "0"));
}

/* Whichever bound the number of values meets. */
static void
test_each_limit(void)
{
    program one = program_of(PSD_LITERAL(USUAL), true, 255);
    program other = program_of(PSD_LITERAL(USUAL), false, 255);
    for (uint64_t values = 1; values < 60; values++) {
        check_alike(&one, &other, values);
    }
}

/* Whichever request for memory fails, it is told or made up for. */
static void
test_each_request(void)
{
    program p = program_of(PSD_LITERAL(USUAL), true, 255);
    reading whole;
    run(&whole, (psd_span){p.bytes, p.size});
    for (unsigned long fail_at = 1; fail_at <= whole.heap.requests; fail_at++) {
        reading r;
        run_with(&r, (psd_span){p.bytes, p.size}, limits_of(0), fail_at);
        CHECK(r.status == PSD_NO_MEMORY ||
              (r.status == PSD_OK && same_reading(&r, &whole)));
        finish(&r);
    }
    finish(&whole);
}

/* Whatever of the memo is called in the place of the rebuild function. */
static void
test_each_callable(void)
{
    for (unsigned i = 2; i < 0x0e; i++) {
        program one = program_of(PSD_LITERAL(USUAL), true, 255);
        program other = program_of(PSD_LITERAL(USUAL), false, 255);
        one.bytes[one.at - 3] = (uint8_t)i;
        other.bytes[other.at - 3 - sizeof nothing] = (uint8_t)i;
        check_alike(&one, &other, 0);
    }
}

int
main(void)
{
    RUN(test_spellings);
    RUN(test_without_puts);
    RUN(test_other_spellings);
    RUN(test_each_byte);
    RUN(test_each_end);
    RUN(test_each_cut);
    RUN(test_what_comes_before);
    RUN(test_each_limit);
    RUN(test_each_request);
    RUN(test_each_callable);
    return check_report();
}
