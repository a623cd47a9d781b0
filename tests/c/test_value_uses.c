/* SPDX-License-Identifier: Apache-2.0
 *
 * What values hold, what is done with them, and how deep they lie in one another.
 */
#include "pickle_kit.h"

static void
check_children(psd_span program, const psd_kind *kinds, uint64_t count)
{
    reading r;
    run(&r, program);
    CHECK_UINT(r.status, PSD_OK);
    const psd_value *v = psd_value_at(&r.pool, r.pickle.root);
    CHECK_UINT(psd_child_count(v), count);
    for (uint64_t i = 0; i < count; i++) {
        CHECK_UINT(psd_kind_of(&r.pool, psd_child_at(v, i)), kinds[i]);
    }
    finish(&r);
}

static void
children_come_in_order(void)
{
    const psd_kind pair[] = {PSD_KIND_INT, PSD_KIND_TEXT};
    check_children(PSD_LITERAL("K\1X\1\0\0\0a\x86."), pair, 2);
    check_children(PSD_LITERAL("(K\1X\1\0\0\0al."), pair, 2);
    check_children(PSD_LITERAL("}K\1X\1\0\0\0as."), pair, 2);
    check_children(PSD_LITERAL("\x8F(K\1X\1\0\0\0a\x90."), pair, 2);
    check_children(PSD_LITERAL("(K\1X\1\0\0\0a\x91."), pair, 2);
    check_children(PSD_LITERAL("K\1Q."), pair, 1);
    check_children(PSD_LITERAL("K\1."), NULL, 0);
    const psd_kind call[] = {PSD_KIND_GLOBAL, PSD_KIND_TUPLE, PSD_KIND_DICT,
                             PSD_KIND_INT,    PSD_KIND_TEXT,  PSD_KIND_NONE,
                             PSD_KIND_LIST};
    check_children(PSD_LITERAL("cm\nn\n)}\x92K\1aX\1\0\0\0aNs]b."), call, 7);
    check_children(PSD_LITERAL("cm\nn\n)R."), call, 2);
}

/* The uses of the program's only global. */
static unsigned
uses_in(psd_span program)
{
    static uint8_t uses[64];
    reading r;
    run(&r, program);
    CHECK_UINT(r.status, PSD_OK);
    memset(uses, 0, sizeof uses);
    psd_find_uses(&r.pool, uses);
    unsigned found = 0;
    for (psd_ref ref = 1; ref <= r.pool.count; ref++) {
        found = psd_kind_of(&r.pool, ref) == PSD_KIND_GLOBAL ? uses[ref] : found;
    }
    finish(&r);
    return found;
}

static void
uses_are_told_apart(void)
{
    unsigned called = PSD_USED_CALLED, passed = PSD_USED_PASSED;
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\n.")), 0);
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\n0N.")), 0);
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\n)R.")), called);
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\n)\x81.")), called);
    CHECK_UINT(uses_in(PSD_LITERAL("(im\nn\n.")), called);
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\n\x85.")), passed);
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\nQ.")), passed);
    CHECK_UINT(uses_in(PSD_LITERAL("}Ncm\nn\ns.")), passed);
    CHECK_UINT(uses_in(PSD_LITERAL("cm\nn\nq\0h\0\x85R.")), called | passed);
    /* a state that another one replaces */
    CHECK_UINT(uses_in(PSD_LITERAL("K\1Q)Rcm\nn\nbNb.")), passed);
}

static uint32_t
depth_of(psd_span program, unsigned long fail_at, bool *done)
{
    reading r;
    run(&r, program);
    CHECK_UINT(r.status, PSD_OK);
    check_heap heap = {.fail_at = fail_at};
    uint32_t depth = 0;
    *done = psd_find_depth(&r.pool, r.pickle.root, check_alloc(&heap), &depth);
    CHECK_UINT(heap.live, 0);
    finish(&r);
    return depth;
}

static void
depths_are_found(void)
{
    bool done;
    CHECK_UINT(depth_of(PSD_LITERAL("N."), 0, &done), 1);
    CHECK_UINT(depth_of(PSD_LITERAL("]."), 0, &done), 1);
    CHECK_UINT(depth_of(PSD_LITERAL("]Na."), 0, &done), 2);
    CHECK_UINT(depth_of(PSD_LITERAL("N\x85\x85\x85."), 0, &done), 4);
    /* the longest way counts, also where it was found first */
    CHECK_UINT(depth_of(PSD_LITERAL("N\x85\x85N\x86."), 0, &done), 4);
    CHECK_UINT(depth_of(PSD_LITERAL("NN\x85\x85\x86."), 0, &done), 4);
    CHECK_UINT(depth_of(PSD_LITERAL("N\x85q\0h\0\x85\x86."), 0, &done), 4);
    CHECK_UINT(depth_of(PSD_LITERAL("N\x85q\0\x85h\0\x86."), 0, &done), 4);
    CHECK_UINT(depth_of(PSD_LITERAL("cm\nn\n)R]Na\x85"
                                    "b."),
                        0, &done),
               4);
    /* ways that lead back */
    CHECK_UINT(depth_of(PSD_LITERAL("]q\0h\0a."), 0, &done), 2);
    CHECK(done);
    psd_span deep =
        repeat(PSD_LITERAL("N"), PSD_LITERAL("\x85"), 100000, PSD_LITERAL("."));
    CHECK_UINT(depth_of(deep, 0, &done), 100001);
    for (unsigned long n = 1; n <= 4; n++) {
        (void)depth_of(deep, n, &done);
        CHECK(!done);
    }
    free((void *)deep.data);
}

int
main(void)
{
    RUN(children_come_in_order);
    RUN(uses_are_told_apart);
    RUN(depths_are_found);
    return check_report();
}
