/* SPDX-License-Identifier: Apache-2.0
 *
 * How scripts and packages speak: their persistent ids, and dicts that tell their type.
 */
#include "torch_kit.h"

static void
read_as(modelling *m, psd_span program, psd_dialect dialect, unsigned long fail_at)
{
    psd_limits limits = psd_default_limits();
    run_with(&m->r, program, &limits, fail_at);
    psd_model_init(&m->model, check_alloc(&m->r.heap), key);
    m->status = m->r.status;
    if (m->status == PSD_OK) {
        psd_torch_source source = {.dialect = dialect, .base = BASE};
        m->status = psd_torch_read(&m->r.pool, m->r.pickle.root, &source, &limits,
                                   &m->model, &m->r.err);
    }
}

#define SIX_PARTS(sixth) "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI6\n" sixth "tQ"
#define TENSOR_OF(storage) V2(storage I("0") TWO_BY_THREE) "."

static void
check_status(psd_span program, psd_dialect dialect, psd_status expected)
{
    modelling m;
    read_as(&m, program, dialect, 0);
    CHECK_UINT(m.status, expected);
    CHECK_UINT(m.model.tensor_count, expected == PSD_OK ? 1 : 0);
    finish_model(&m);
}

static void
test_a_sixth_part(void)
{
    psd_span none = PSD_LITERAL(TENSOR_OF(SIX_PARTS("N")));
    psd_span view = PSD_LITERAL(TENSOR_OF(SIX_PARTS("(V1\nI0\nI6\nt")));
    check_status(none, PSD_DIALECT_ZIP, PSD_STORAGE);
    check_status(none, PSD_DIALECT_SCRIPT, PSD_OK);
    check_status(none, PSD_DIALECT_PACKAGE, PSD_OK);
    check_status(none, PSD_DIALECT_STREAM, PSD_OK);
    check_status(view, PSD_DIALECT_ZIP, PSD_STORAGE);
    check_status(view, PSD_DIALECT_SCRIPT, PSD_STORAGE);
    check_status(PSD_LITERAL(TENSOR "."), PSD_DIALECT_SCRIPT, PSD_OK);
}

/* ---------------------------------------------------------------- ids of a tar */

/* Where a tar's pickle has only a number, the storage was told of before. */
static void
test_numbers_of_a_tar(void)
{
    psd_limits limits = psd_default_limits();
    psd_torch_source source = {.dialect = PSD_DIALECT_TAR, .base = BASE};
    const psd_storage told = {.key = PSD_LITERAL("77"),
                              .dtype = PSD_DTYPE_UINT8,
                              .numel = 5,
                              .size = 5,
                              .parent = PSD_NO_STORAGE};
    psd_status status = PSD_NO_MEMORY;
    for (unsigned long n = 1; status == PSD_NO_MEMORY && n < 100; n++) {
        modelling m;
        run_with(&m.r, PSD_LITERAL("I77\nQ."), &limits, 0);
        psd_model_init(&m.model, check_alloc(&m.r.heap), key);
        uint32_t number;
        CHECK(psd_model_find_or_name(&m.model, told.key, &number) &&
              psd_model_add_storage(&m.model, &told));
        /* What is left of the arena's page is spent, so that each taking asks. */
        size_t left = (size_t)(m.r.arena.end - m.r.arena.next) / 8 * 8;
        CHECK(left == 0 || psd_arena_take(&m.r.arena, left) != NULL);
        m.r.heap.fail_at = m.r.heap.requests + n;
        status = psd_torch_read(&m.r.pool, m.r.pickle.root, &source, &limits, &m.model,
                                &m.r.err);
        CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
        CHECK(status != PSD_NO_MEMORY || m.r.err.status == PSD_NO_MEMORY);
        if (status == PSD_OK) {
            CHECK(n > 1);
            CHECK_UINT(root_of(&m)->kind, PSD_KIND_TENSOR);
            CHECK_UINT(m.model.tensors[0].storage, 0);
            CHECK_UINT(m.model.tensors[0].numel, 5);
        }
        finish_model(&m);
    }
    CHECK_UINT(status, PSD_OK);
}

/* ---------------------------------------------------------------- windows on views */

#define VIEWED(class, numel, offset, part)                                         \
    "(Vstorage\nctorch\n" class "\nV0\nVcpu\nI" numel "\n(V1\nI" offset "\nI" part \
    "\nttQ"

/* A view is a second name to each persistent id, for which no room was taken in advance. */
static void
test_many_views_without_memory(void)
{
    enum { MANY = 40 };
    psd_buffer b;
    check_heap heap = {0};
    psd_buffer_init(&b, check_alloc(&heap));
    for (unsigned i = 0; i < MANY; i++) {
        char text[128];
        int size = snprintf(text, sizeof text,
                            PERSID("Vstorage\nctorch\nFloatStorage\nVr%u\nVcpu\nI6\n"
                                   "(Vv%u\nI1\nI2\nt"),
                            i, i);
        psd_put(&b, text, (size_t)size);
    }
    psd_put_u8(&b, '.');
    modelling m;
    unsigned long n = 0;
    do {
        read_as(&m, psd_buffer_span(&b), PSD_DIALECT_STREAM, ++n);
        CHECK(m.status == PSD_OK || m.status == PSD_NO_MEMORY);
        if (m.status == PSD_OK) {
            CHECK_UINT(m.model.storage_count, 2 * MANY);
        }
        finish_model(&m);
    } while (m.status != PSD_OK && n < 10000);
    CHECK(m.status == PSD_OK);
    CHECK(n > 5);
    psd_buffer_clear(&b);
}

/* Of no elements the offset means nothing, wherever the view begins. */
static void
test_an_empty_window_on_a_view(void)
{
    modelling m;
    read_as(
        &m,
        PSD_LITERAL(CALL("_rebuild_tensor_v3",
                         VIEWED("ByteStorage", "6", "1", "4")
                             I("3") "(I0\nt(I1\nt" FALSE_ HOOKS "ctorch\nint16\n") "."),
        PSD_DIALECT_STREAM, 0);
    CHECK_UINT(m.status, PSD_OK);
    CHECK_UINT(m.model.tensor_count, 1);
    CHECK_UINT(m.model.tensors[0].storage, 0);
    CHECK_UINT(m.model.tensors[0].numel, 0);
    CHECK_UINT(m.model.tensors[0].dtype, PSD_DTYPE_INT16);
    finish_model(&m);
}

/* Elements of half a byte: their number is beyond that of any file's bytes. */
static void
test_a_window_beyond_all_files(void)
{
    static const struct {
        const char *program;
        bool beyond;
    } rows[] = {
#define HALVES(offset)                                               \
    V2(VIEWED("QUInt4x2Storage", "4611686018427387908", offset, "2") \
           I("3") "(I1\nt(I1\nt")                                    \
    "."
        {HALVES("4611686018427387902"), false},
        {HALVES("4611686018427387903"), true},
        {HALVES("4611686018427387904"), true},
#undef HALVES
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        modelling m;
        psd_span program = {(const uint8_t *)rows[i].program, strlen(rows[i].program)};
        read_as(&m, program, PSD_DIALECT_STREAM, 0);
        CHECK_UINT(m.status, rows[i].beyond ? PSD_TENSOR : PSD_OK);
        if (rows[i].beyond) {
            CHECK(strcmp(m.r.err.sentence, "a tensor begins beyond all files") == 0);
        }
        else {
            CHECK_UINT(m.model.tensors[0].offset, INT64_MAX);
        }
        finish_model(&m);
    }
}

#define REDUCE(parts) "(Vreduce_package\n" parts "tQ"
#define MADE REDUCE("I5\ncmine\nmake\n(" TENSOR "I1\nt")

static void
test_calls_of_a_package(void)
{
    modelling m;
    read_as(&m, PSD_LITERAL(MADE "."), PSD_DIALECT_PACKAGE, 0);
    CHECK_UINT(m.status, PSD_OK);
    const psd_value *root = root_of(&m);
    CHECK_UINT(root->kind, PSD_KIND_CALL);
    if (root->kind == PSD_KIND_CALL) {
        const psd_call *call = root->as.call;
        const psd_value *args = psd_value_at(&m.r.pool, call->args);
        CHECK_UINT(call->form, PSD_CALL_REDUCE);
        CHECK_UINT(psd_kind_of(&m.r.pool, call->callable), PSD_KIND_GLOBAL);
        CHECK_UINT(args->count, 2);
        CHECK_UINT(psd_kind_of(&m.r.pool, args->as.items[0]), PSD_KIND_TENSOR);
    }
    finish_model(&m);
}

static void
test_calls_of_a_package_that_are_none(void)
{
    static const char *const programs[] = {
        REDUCE("") ".",
        REDUCE("I5\ncmine\nmake\n") ".",
        REDUCE("I5\ncmine\nmake\n]") ".",
        REDUCE("I5\nVmake\n(t") ".",
        REDUCE("I5\ncmine\nmake\n(tN") ".",
    };
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        psd_span program = {(const uint8_t *)programs[i], strlen(programs[i])};
        check_status(program, PSD_DIALECT_PACKAGE, PSD_STORAGE);
    }
    check_status(PSD_LITERAL(REDUCE("I5\ncmine\nmake\n(t") "."), PSD_DIALECT_ZIP,
                 PSD_STORAGE);
    check_status(PSD_LITERAL(REDUCE("I5\ncmine\nmake\n(t") "."), PSD_DIALECT_SCRIPT,
                 PSD_STORAGE);
}

static void
test_calls_of_a_package_without_memory(void)
{
    modelling m;
    unsigned long n = 1;
    do {
        read_as(&m, PSD_LITERAL(MADE "."), PSD_DIALECT_PACKAGE, n++);
        CHECK(m.status == PSD_OK || m.status == PSD_NO_MEMORY);
        psd_status status = m.status;
        finish_model(&m);
        if (status == PSD_OK) {
            break;
        }
    } while (n < 1000);
    CHECK(n > 3 && n < 1000);
}

#define TAGGED(module, inside) \
    V2_WITH("c" module "\nrestore_type_tag\n(" inside "VDict[str, bool]\ntR")
#define V2_WITH(metadata) \
    CALL("_rebuild_tensor_v2", SIX I("0") TWO_BY_THREE FALSE_ HOOKS metadata) "."

static void
check_conj(psd_span program, bool expected)
{
    modelling m;
    read_as(&m, program, PSD_DIALECT_SCRIPT, 0);
    CHECK_UINT(m.status, PSD_OK);
    CHECK_UINT(m.model.tensor_count, 1);
    if (m.model.tensor_count == 1) {
        bool conj = (m.model.tensors[0].flags & PSD_TENSOR_CONJ) != 0;
        CHECK_UINT(conj, expected);
    }
    finish_model(&m);
}

static void
test_metadata_with_a_type(void)
{
    check_conj(PSD_LITERAL(V2_WITH("(Vconj\n" TRUE_ "d")), true);
    check_conj(PSD_LITERAL(TAGGED("torch.jit._pickle", "(Vconj\n" TRUE_ "d")), true);
    check_conj(PSD_LITERAL(TAGGED("torch.jit._pickle", "(d")), false);
    check_conj(PSD_LITERAL(TAGGED("mine", "(Vconj\n" TRUE_ "d")), false);
}

/* A module without a class: what GraphModules are reduced to. */
#define GRAPH(name)                                                  \
    "ctorch.fx.graph_module\n" name "\n((V_parameters\n(Vw\n" TENSOR \
    "dV_modules\n(ddVtext\ntR."

static void
test_graph_modules(void)
{
    static const struct {
        const char *program;
        bool is_module;
    } rows[] = {
        {GRAPH("reduce_graph_module"), true},
        {GRAPH("reduce_package_graph_module"), true},
        {GRAPH("reduce_deploy_graph_module"), true},
        {GRAPH("reduce_other_module"), false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        modelling m;
        psd_span program = {(const uint8_t *)rows[i].program, strlen(rows[i].program)};
        read_as(&m, program, PSD_DIALECT_ZIP, 0);
        CHECK_UINT(m.status, PSD_OK);
        CHECK_UINT(psd_model_module(&m.model, m.r.pickle.root) != NULL,
                   rows[i].is_module);
        finish_model(&m);
    }
}

int
main(void)
{
    RUN(test_a_sixth_part);
    RUN(test_numbers_of_a_tar);
    RUN(test_many_views_without_memory);
    RUN(test_an_empty_window_on_a_view);
    RUN(test_a_window_beyond_all_files);
    RUN(test_calls_of_a_package);
    RUN(test_calls_of_a_package_that_are_none);
    RUN(test_calls_of_a_package_without_memory);
    RUN(test_metadata_with_a_type);
    RUN(test_graph_modules);
    return check_report();
}
