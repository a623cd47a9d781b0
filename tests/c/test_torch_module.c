/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole modules: what their state_dict() would be, name by name, in every way that a
 * pickle tells of one; and modules that lead in circles or share all too much.
 */
#include "torch_kit.h"

/* ---------------------------------------------------------------- programs */

/* A module of this class; all three are dicts' items: key, value, ... */
#define MODULE_WITH(class, parameters, buffers, modules, more)          \
    "c" class "\n)\x81(V_parameters\n" parameters "V_buffers\n" buffers \
    "V_modules\n" modules more "db"
#define MODULE(class, parameters, buffers, modules) \
    MODULE_WITH(class, "(" parameters "d", "(" buffers "d", "(" modules "d", "")
#define LINEAR "torch.nn.modules.linear\nLinear"
#define BATCH "torch.nn.modules.batchnorm\nBatchNorm1d"
#define NET "models\nNet"

#define FLOAT(key) V2(STORAGE("FloatStorage", key, "1") I("0") "(t(t")
#define PARAMETER(key) CALL("_rebuild_parameter", FLOAT(key) TRUE_ HOOKS)
#define ITEM(name, value) "V" name "\n" value
#define ORDERED(items) "ccollections\nOrderedDict\n)R(" items "u"

/* ---------------------------------------------------------------- what it gives */

enum { ROOM = 1024 };

static void
add_text(char *room, const char *format, psd_span text)
{
    size_t size = strlen(room);
    (void)snprintf(room + size, ROOM - size, format, (int)text.size,
                   (const char *)text.data);
}

static psd_span
text_at(const modelling *m, psd_ref ref)
{
    const psd_value *v = psd_value_at(&m->r.pool, ref);
    CHECK(v->kind == PSD_KIND_TEXT);
    return v->kind == PSD_KIND_TEXT ? psd_text_of(v) : PSD_LITERAL("?");
}

/* "name:p" of a Parameter, ":b" of a buffer, ":" of anything else. */
static void
tell_entries(const modelling *m, const psd_call *call, char *room)
{
    for (uint32_t i = 0; i < call->item_count; i += 2) {
        const psd_value *v = psd_value_at(&m->r.pool, call->items[i + 1]);
        unsigned flags =
            v->kind == PSD_KIND_TENSOR ? m->model.tensors[v->as.index].flags : 0;
        add_text(room, "%.*s:", text_at(m, call->items[i]));
        (void)strcat(room, (flags & PSD_TENSOR_PARAMETER) != 0 ? "p "
                           : (flags & PSD_TENSOR_BUFFER) != 0  ? "b "
                                                               : " ");
    }
}

/* "prefix=version" of each module. */
static void
tell_versions(const modelling *m, psd_ref state, char *room)
{
    const psd_value *dict = psd_value_at(&m->r.pool, state);
    CHECK(dict->kind == PSD_KIND_DICT && dict->count == 2);
    CHECK(psd_span_equal(text_at(m, dict->as.items[0]), PSD_LITERAL("_metadata")));
    const psd_call *metadata = psd_value_at(&m->r.pool, dict->as.items[1])->as.call;
    for (uint32_t i = 0; i < metadata->item_count; i += 2) {
        const psd_value *one = psd_value_at(&m->r.pool, metadata->items[i + 1]);
        CHECK(one->kind == PSD_KIND_DICT && one->count == 2);
        CHECK(psd_span_equal(text_at(m, one->as.items[0]), PSD_LITERAL("version")));
        add_text(room, "%.*s", text_at(m, metadata->items[i]));
        (void)snprintf(room + strlen(room), ROOM - strlen(room), "=%d ",
                       (int)psd_value_at(&m->r.pool, one->as.items[1])->as.integer);
    }
}

/* The state_dict of a module as text; "" of one that was too large. */
static void
tell(const modelling *m, const psd_module *module, char *room)
{
    room[0] = '\0';
    if (module->state_dict == 0) {
        return;
    }
    const psd_value *v = psd_value_at(&m->r.pool, module->state_dict);
    CHECK(v->kind == PSD_KIND_CALL);
    CHECK_UINT(psd_value_at(&m->r.pool, v->as.call->args)->count, 0);
    tell_entries(m, v->as.call, room);
    (void)strcat(room, "| ");
    tell_versions(m, v->as.call->state, room);
}

/* The only module of the program, which is its root unless `at` says otherwise. */
static void
check_state_dict(psd_span program, bool is_root, const char *expected, int line)
{
    char found[ROOM] = "";
    modelling m;
    check_guarded g = check_guard(program.data, program.size);
    model(&m, (psd_span){g.data, g.size});
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.module_count, 1);
    if (m.status == PSD_OK && m.model.module_count == 1) {
        tell(&m, &m.model.modules[0], found);
        CHECK((m.model.modules[0].at == m.r.pickle.root) == is_root);
        CHECK(psd_model_module(&m.model, m.model.modules[0].at) == &m.model.modules[0]);
        CHECK(psd_model_module(&m.model, m.model.modules[0].state_dict) == NULL);
    }
    CHECK(strcmp(found, expected) == 0);
    if (strcmp(found, expected) != 0) {
        (void)fprintf(stderr, "  line %d: %s\n", line,
                      m.status == PSD_OK ? found : m.r.err.sentence);
    }
    finish_model(&m);
    check_unguard(&g);
}

#define GIVES(program, expected) \
    check_state_dict(PSD_LITERAL(program "."), true, expected, __LINE__)
#define GIVES_WITHIN(program, expected) \
    check_state_dict(PSD_LITERAL(program "."), false, expected, __LINE__)

/* ---------------------------------------------------------------- names and order */

#define SIMPLE MODULE(LINEAR, ITEM("weight", PARAMETER("0")) ITEM("bias", "N"), "", "")
#define NORM                                                                   \
    MODULE(BATCH, ITEM("weight", PARAMETER("1")) ITEM("bias", PARAMETER("2")), \
           ITEM("running_mean", FLOAT("3")) ITEM("running_var", "N"), "")

static void
test_one_module(void)
{
    GIVES(SIMPLE, "weight:p | =1 ");
    GIVES(NORM, "weight:p bias:p running_mean:b | =2 ");
    GIVES(MODULE(NET, "", "", ""), "| =1 ");
    /* A plain tensor among the parameters is no Parameter, and no buffer either. */
    GIVES(MODULE(NET, ITEM("w", FLOAT("0")), ITEM("b", PARAMETER("1")), ""),
          "w: b:p | =1 ");
    /* Values of any kind: extra state, dtypes. */
    GIVES(MODULE(NET, ITEM("w", I("7")), ITEM("b", "Vtext\n"), ""), "w: b: | =1 ");
}

static void
test_children(void)
{
    GIVES(MODULE(NET, ITEM("top", PARAMETER("9")), "",
                 ITEM("0", SIMPLE) ITEM("none", "N") ITEM("1", NORM)),
          "top:p 0.weight:p 1.weight:p 1.bias:p 1.running_mean:b | =1 0=1 1=2 ");
    GIVES(MODULE(NET, "", "",
                 ITEM("a", MODULE(NET, "", "",
                                  ITEM("b", MODULE(NET, "", "", ITEM("c", SIMPLE)))))),
          "a.b.c.weight:p | =1 a=1 a.b=1 a.b.c=1 ");
    /* Odd children are passed by: no text for a name, nothing that is a module. */
    GIVES(MODULE(NET, "", "",
                 I("3") SIMPLE ITEM("x", I("1")) ITEM("y", FLOAT("0"))
                     ITEM("", SIMPLE)),
          ".weight:p | =1 =1 ");
}

/* Names of Python 2 are bytes. */
static void
test_names_of_python_2(void)
{
    GIVES(MODULE_WITH(NET, "(S'w'\n" PARAMETER("0") "d", "(d", "(S'child'\n" SIMPLE "d",
                      ""),
          "w:p child.weight:p | =1 child=1 ");
    GIVES("c" NET "\n)\x81(S'_parameters'\n(S'w'\n" PARAMETER(
              "0") "dS'_buffers'\n(dS'_modules'\n(ddb",
          "w:p | =1 ");
    /* Its OrderedDict is called with a list of lists. */
    GIVES(MODULE_WITH(NET,
                      "ccollections\nOrderedDict\n((l(lS'w'\na" PARAMETER(
                          "0") "aa(lS'none'\naNaatR",
                      "ccollections\nOrderedDict\n((ltR",
                      "ccollections\nOrderedDict\n((l(lS'0'\na" SIMPLE "aatR", ""),
          "w:p 0.weight:p | =1 0=1 ");
}

static void
test_forms_of_dicts(void)
{
    GIVES(MODULE_WITH(NET, ORDERED(ITEM("w", PARAMETER("0"))),
                      ORDERED(ITEM("b", FLOAT("1"))), ORDERED(ITEM("0", SIMPLE)), ""),
          "w:p b:b 0.weight:p | =1 0=1 ");
    /* In the order of the keys, each as often as it was set; the host keeps the last. */
    GIVES(MODULE_WITH(
              NET, ORDERED(ITEM("w", PARAMETER("0"))) "(" ITEM("v", PARAMETER("1")) "u",
              "(d", "(d", ""),
          "w:p v:p | =1 ");
}

static void
test_versions(void)
{
    static const struct {
        const char *class, *expected;
    } rows[] = {
        {"torch.nn.modules.batchnorm\nSyncBatchNorm", "| =2 "},
        {"torch.nn.modules.instancenorm\nInstanceNorm3d", "| =2 "},
        {"torch.nn.modules.normalization\nLayerNorm", "| =1 "},
        {"other.batchnorm\nBatchNorm1d", "| =1 "},
        {"torch.ao.quantization.observer\nMinMaxObserver", "| =3 "},
        {"torch.ao.quantization.observer\nMovingAveragePerChannelMinMaxObserver",
         "| =3 "},
        {"torch.ao.quantization.observer\nHistogramObserver", "| =3 "},
        {"torch.ao.quantization.observer\nPlaceholderObserver", "| =1 "},
        {"torch.ao.quantization.fake_quantize\nFakeQuantize", "| =1 "},
        {"torch.ao.nn.intrinsic.qat.modules.conv_fused\nConvBnReLU2d", "| =2 "},
        {"torch.ao.nn.intrinsic.qat.modules.conv_fused\nConvReLU2d", "| =1 "},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        char program[512];
        int size = snprintf(program, sizeof program, MODULE("%s", "", "", "") ".",
                            rows[i].class);
        check_state_dict((psd_span){(uint8_t *)program, (size_t)size}, true,
                         rows[i].expected, __LINE__);
    }
    /* A class that is no name. */
    GIVES("cx\ny\n)R)\x81(V_parameters\n(dV_modules\n(ddb", "| =1 ");
}

/* ---------------------------------------------------------------- left out */

#define LEAVING_OUT(set)                                                              \
    MODULE_WITH(NET, "(d", "(" ITEM("a", FLOAT("0")) ITEM("b", FLOAT("1")) "d", "(d", \
                "V_non_persistent_buffers_set\n" set)

static void
test_buffers_that_are_not_saved(void)
{
    GIVES(LEAVING_OUT("c__builtin__\nset\n((lVa\natR"), "b:b | =1 ");
    GIVES(LEAVING_OUT("c__builtin__\nset\n((ltR"), "a:b b:b | =1 ");
    GIVES(LEAVING_OUT("c__builtin__\nset\n)R"), "a:b b:b | =1 ");
    GIVES(LEAVING_OUT("\x8f(Va\nVb\n\x90"), "| =1 ");
    GIVES(LEAVING_OUT("\x8f"), "a:b b:b | =1 ");
    GIVES(LEAVING_OUT("N"), "a:b b:b | =1 ");
}

/* ---------------------------------------------------------------- old and odd ones */

static void
test_attributes_that_are_missing(void)
{
    /* torch 0.1 had no sets, and some subclasses have no buffers. */
    GIVES("c" NET
          "\n)\x81(V_parameters\n(" ITEM("w", PARAMETER("0")) "dV_modules\n(ddb",
          "w:p | =1 ");
    /* With slots: (attributes, slots). */
    GIVES("c" NET "\n)\x81((V_parameters\n(" ITEM("w", PARAMETER("0")) "dV_modules\n(dd"
                                                                       "(Vslot\nNdtb",
          "w:p | =1 ");
    /* Of a key that comes twice the later counts; bytes are another key. */
    GIVES(
        "c" NET
        "\n)\x81(V_parameters\n(" ITEM("old", PARAMETER("0")) "dV_parameters\n(" ITEM(
            "w", PARAMETER("0")) "dC\x0b_parameters(" ITEM("x",
                                                           PARAMETER(
                                                               "0")) "dV_modules\n(ddb",
        "w:p | =1 ");
    /* By REDUCE, as the earliest did. */
    GIVES("c" NET "\n)R(V_parameters\n(" ITEM("w", PARAMETER("0")) "dV_modules\n(ddb",
          "w:p | =1 ");
}

static void
no_module(psd_span program)
{
    modelling m;
    model(&m, program);
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.module_count, 0);
    finish_model(&m);
}

#define NO_MODULE(program) no_module(PSD_LITERAL(program "."))

static void
test_what_is_no_module(void)
{
    NO_MODULE("(V_parameters\n(dV_modules\n(dd");
    NO_MODULE("c" NET "\n)\x81");
    NO_MODULE("c" NET "\n)\x81Nb");
    NO_MODULE("c" NET "\n)\x81(V_parameters\n(ddb");
    NO_MODULE("c" NET "\n)\x81(V_modules\n(ddb");
    NO_MODULE("c" NET "\n)\x81(N(V_parameters\n(dV_modules\n(ddtb");
    NO_MODULE("cbuiltins\ngetattr\n(NVstate_dict\ntR");
    NO_MODULE("cbuiltins\ngetattr\n(tR");
    NO_MODULE("ctorch.fx.graph_module\nreduce_graph_module\n)R");
    NO_MODULE("ctorch.fx.graph_module\nreduce_graph_module\nNR");
    /* One that nothing leads to from the root. */
    NO_MODULE(SIMPLE "0N");
}

/* ---------------------------------------------------------------- around modules */

static void
test_bound_methods(void)
{
    GIVES("cbuiltins\ngetattr\n(" NORM "Vstate_dict\ntR",
          "weight:p bias:p running_mean:b | =2 ");
    GIVES("c__builtin__\ngetattr\n(" SIMPLE "Vstate_dict\ntR", "weight:p | =1 ");
    /* What is no method of a module by its form is but what it holds. */
    GIVES_WITHIN("cbuiltins\ngetattr\n(" SIMPLE "I1\ntR", "weight:p | =1 ");
    GIVES_WITHIN("cos\ngetattr\n(" SIMPLE "Vx\ntR", "weight:p | =1 ");
}

#define GRAPH "ctorch.fx.graph_module\nreduce_graph_module\n"

static void
test_graph_modules(void)
{
    GIVES(GRAPH
          "((V_graph\nNV_parameters\n(" ITEM("w", PARAMETER("0")) "dV_modules\n(" ITEM(
              "0", SIMPLE) "ddVimport torch\ntR",
          "w:p 0.weight:p | =1 0=1 ");
}

static void
test_where_modules_are_found(void)
{
    GIVES_WITHIN("(Vmodel\n" SIMPLE "Vepoch\nI3\nd", "weight:p | =1 ");
    GIVES_WITHIN("(l(" SIMPLE "ta", "weight:p | =1 ");
    GIVES_WITHIN("\x8f(" SIMPLE "\x90", "weight:p | =1 ");
    GIVES_WITHIN("(" SIMPLE "\x91", "weight:p | =1 ");
    GIVES_WITHIN("cx\ny\n(" SIMPLE "tR", "weight:p | =1 ");
    GIVES_WITHIN("cx\ny\n)R" SIMPLE "a", "weight:p | =1 ");
    GIVES_WITHIN("cx\ny\n)RVk\n" SIMPLE "s", "weight:p | =1 ");
    GIVES_WITHIN("cx\ny\n)R(Vk\n" SIMPLE "db", "weight:p | =1 ");
    GIVES_WITHIN("cx\ny\n)(Vk\n" SIMPLE "d\x92", "weight:p | =1 ");
}

/* Each by itself, in the order of their numbers; a child is none of its own. */
static void
test_several_modules(void)
{
    modelling m;
    char found[ROOM];
    model(&m, PSD_LITERAL("(" SIMPLE NORM "cbuiltins\ngetattr\n(" MODULE(
                  NET, "", "", ITEM("0", NORM)) "Vforward\ntRt."));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.module_count, 3);
    const char *const expected[] = {
        "weight:p | =1 ",
        "weight:p bias:p running_mean:b | =2 ",
        "0.weight:p 0.bias:p 0.running_mean:b | =1 0=2 ",
    };
    for (unsigned i = 0; i < 3 && i < m.model.module_count; i++) {
        tell(&m, &m.model.modules[i], found);
        CHECK(strcmp(found, expected[i]) == 0);
        CHECK(i == 0 || m.model.modules[i].at > m.model.modules[i - 1].at);
        CHECK(m.model.modules[i].at == root_of(&m)->as.items[i]);
    }
    CHECK(psd_model_module(&m.model, 0) == NULL);
    CHECK(psd_model_module(&m.model, UINT32_MAX) == NULL);
    finish_model(&m);
}

/* ---------------------------------------------------------------- circles, sharing */

static void
test_a_module_within_itself(void)
{
    GIVES("c" NET "\n)\x81q\x01(V_parameters\n(" ITEM(
              "w", PARAMETER("0")) "dV_modules\n(" ITEM("me", "h\x01") "ddb",
          "w:p | =1 ");
    /* Through a child. */
    GIVES(
        "c" NET "\n)\x81q\x01(V_parameters\n(dV_modules\n(" ITEM(
            "0", MODULE(NET, ITEM("w", PARAMETER("0")), "", ITEM("up", "h\x01"))) "ddb",
        "0.w:p | =1 0=1 ");
}

/* One layer under two names has both, and one tensor. */
static void
test_a_module_under_two_names(void)
{
    modelling m;
    char found[ROOM];
    model(&m, PSD_LITERAL(MODULE(NET, "", "",
                                 ITEM("a", SIMPLE "q\x01") ITEM("b", "h\x01")) "."));
    CHECK(m.status == PSD_OK && m.model.module_count == 1);
    tell(&m, &m.model.modules[0], found);
    CHECK(strcmp(found, "a.weight:p b.weight:p | =1 a=1 b=1 ") == 0);
    const psd_call *call =
        psd_value_at(&m.r.pool, m.model.modules[0].state_dict)->as.call;
    CHECK(call->items[1] == call->items[3]);
    finish_model(&m);
}

/* `levels` modules, each twice the child of the one before. */
static psd_buffer
doubling(check_heap *heap, unsigned levels)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(heap));
    const psd_span leaf = PSD_LITERAL(SIMPLE "q\x01"
                                             "0");
    const psd_span level =
        PSD_LITERAL(MODULE(NET, "", "", ITEM("a", "h\x01") ITEM("b", "h\x01")) "q\x01"
                                                                               "0");
    psd_put_span(&b, leaf);
    for (unsigned i = 0; i < levels; i++) {
        psd_put_span(&b, level);
    }
    psd_put_span(&b, PSD_LITERAL("h\x01."));
    return b;
}

/* Names that double at every level: as many as the pickle has values for, or none. */
static void
test_modules_that_double(void)
{
    for (unsigned levels = 1; levels <= 40; levels += 3) {
        check_heap heap = {0};
        psd_buffer b = doubling(&heap, levels);
        modelling m;
        model(&m, psd_buffer_span(&b));
        CHECK(m.status == PSD_OK);
        CHECK_UINT(m.model.module_count, 1);
        psd_ref made = m.model.modules[0].state_dict;
        CHECK((made != 0) == (levels <= 7));
        if (made != 0) {
            CHECK_UINT(psd_value_at(&m.r.pool, made)->as.call->item_count,
                       2u << levels);
        }
        CHECK(m.r.pool.count < 40000);
        finish_model(&m);
        psd_buffer_clear(&b);
    }
}

static void
put_times(psd_buffer *b, psd_span text, unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        psd_put_span(b, text);
    }
}

/* Modules that share one large dict of which nothing is saved: each look at it is
 * counted, so that one of them is the last. */
static void
check_shared_dict(const char *before, psd_span item, const char *after, unsigned most)
{
    enum { ITEMS = 3000, MODULES = 3000 };
    check_heap heap = {0};
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put(&b, before, strlen(before));
    put_times(&b, item, ITEMS);
    psd_put(&b, after, strlen(after));
    put_times(&b,
              PSD_LITERAL("h\x03)\x81h\x02"
                          "b"),
              MODULES);
    psd_put(&b, "t.", 2);
    modelling m;
    model(&m, psd_buffer_span(&b));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.module_count, MODULES);
    unsigned made = 0;
    for (uint32_t i = 0; i < m.model.module_count; i++) {
        made += m.model.modules[i].state_dict != 0;
    }
    CHECK(made > 0 && made < most);
    finish_model(&m);
    psd_buffer_clear(&b);
}

#define SHARED_START  \
    "c" NET "\nq\x03" \
    "0Vw\nq\x01"      \
    "0"

static void
test_modules_that_share_a_dict(void)
{
    const psd_span none = PSD_LITERAL("h\x01N"), number = PSD_LITERAL("I1\nN");
    check_shared_dict(SHARED_START "(V_parameters\n(", none,
                      "dV_modules\n(ddq\x02"
                      "0(",
                      100);
    check_shared_dict(SHARED_START "(V_parameters\n(", number,
                      "dV_modules\n(ddq\x02"
                      "0(",
                      100);
    check_shared_dict(SHARED_START "(V_parameters\n(dV_buffers\n(", none,
                      "dV_modules\n(ddq\x02"
                      "0(",
                      100);
    check_shared_dict(SHARED_START "(V_parameters\n(dV_modules\n(", none,
                      "ddq\x02"
                      "0(",
                      100);
    /* A set that every buffer is looked up in. */
    check_shared_dict(SHARED_START "(V_parameters\n(dV_modules\n(dV_buffers\n(Vb\nI1\nd"
                                   "V_non_persistent_buffers_set\n(l(",
                      PSD_LITERAL("h\x01"),
                      "edq\x02"
                      "0(",
                      100);
    /* Hooks, of which no more than the first are looked at. */
    check_shared_dict(
        SHARED_START "(V_parameters\n(dV_modules\n(dV_state_dict_pre_hooks\n(", none,
        "ddq\x02"
        "0(",
        300);
    check_shared_dict(
        SHARED_START "(V_parameters\n(dV_modules\n(dV_state_dict_hooks\n(", none,
        "ddq\x02"
        "0(",
        300);
}

/* Long names count by their bytes. */
static void
test_one_long_name(void)
{
    enum { SIZE = 100000, MODULES = 1000 };
    check_heap heap = {0};
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_span(&b, PSD_LITERAL("c" NET "\nq\x03"
                                 "0V"));
    psd_put_fill(&b, 'n', SIZE);
    psd_put_span(&b, PSD_LITERAL("\nq\x01"
                                 "0(V_parameters\n(h\x01I1\ndV_modules\n(ddq\x02"
                                 "0("));
    put_times(&b,
              PSD_LITERAL("h\x03)\x81h\x02"
                          "b"),
              MODULES);
    psd_put(&b, "t.", 2);
    modelling m;
    model(&m, psd_buffer_span(&b));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.module_count, MODULES);
    CHECK(m.model.modules[0].state_dict != 0);
    CHECK(m.model.modules[MODULES - 1].state_dict == 0);
    /* Names take no more than some bytes for each of the pickle's. */
    CHECK(m.r.heap.live < 30 * b.size);
    finish_model(&m);
    psd_buffer_clear(&b);
}

/* The last step of the walk may be the one to a child: its name counts, and then the
 * prefix that it has become. */
static void
test_one_long_name_of_a_child(void)
{
    enum { SIZE = 20000, MODULES = 1000 };
    for (unsigned more = 0; more < 160; more += 20) {
        check_heap heap = {0};
        psd_buffer b;
        psd_buffer_init(&b, check_alloc(&heap));
        put_times(&b, PSD_LITERAL("I1\n0"), more); /* a step for each */
        psd_put_span(&b, PSD_LITERAL("c" NET "\nq\x03"
                                     "0V"));
        psd_put_fill(&b, 'n', SIZE);
        psd_put_span(&b,
                     PSD_LITERAL("\nq\x01"
                                 "0(V_parameters\n(dV_modules\n(h\x01" SIMPLE "ddq\x02"
                                 "0("));
        put_times(&b,
                  PSD_LITERAL("h\x03)\x81h\x02"
                              "b"),
                  MODULES);
        psd_put(&b, "t.", 2);
        modelling m;
        model(&m, psd_buffer_span(&b));
        CHECK(m.status == PSD_OK);
        CHECK_UINT(m.model.module_count, MODULES);
        CHECK(m.model.modules[0].state_dict != 0);
        CHECK(m.model.modules[MODULES - 1].state_dict == 0);
        CHECK(m.r.heap.live < 60 * b.size);
        finish_model(&m);
        psd_buffer_clear(&b);
    }
}

/* ---------------------------------------------------------------- running out */

#define SOME                                               \
    MODULE_WITH(NET, ORDERED(ITEM("top", PARAMETER("9"))), \
                "(" ITEM("b", FLOAT("8")) "d",             \
                "(" ITEM("0", SIMPLE) ITEM("1", NORM) "d", \
                "V_non_persistent_buffers_set\nc__builtin__\nset\n((lVx\natR")

static void
test_every_failing_request(void)
{
    const psd_span program = PSD_LITERAL("(" SOME SIMPLE "t.");
    psd_limits limits = psd_default_limits();
    modelling m;
    unsigned long n = 0;
    do {
        model_with(&m, program, &limits, ++n);
        finish_model(&m);
    } while (m.status == PSD_NO_MEMORY && m.r.err.status == PSD_NO_MEMORY && n < 10000);
    CHECK(m.status == PSD_OK);
    CHECK(m.r.heap.requests < n); /* it went well since none failed */
    CHECK(n > 10);
}

/* The arena fails once at each of its pages. */
static void
test_every_failing_page(void)
{
    const psd_span program = PSD_LITERAL("(" SOME SIMPLE "t.");
    unsigned failed = 0;
    for (unsigned trial = 0; trial < 12 * 512; trial++) {
        modelling m;
        model_at_page(&m, program, trial / 12, trial % 12 + 1);
        CHECK(m.status != PSD_OK || m.model.modules[0].state_dict != 0);
        failed += m.status != PSD_OK;
        finish_model(&m);
    }
    CHECK(failed > 512);
}

/* A pool that is full is no fault: the module stands there, without a state_dict. */
static void
test_a_pool_that_is_full(void)
{
    const psd_span program = PSD_LITERAL("(" SOME SIMPLE "t.");
    psd_limits limits = psd_default_limits();
    modelling m;
    model_with(&m, program, &limits, 0);
    uint32_t all = m.r.pool.count;
    finish_model(&m);
    unsigned without = 0;
    for (uint64_t most = 1; most <= all; most++) {
        limits.values = most;
        model_with(&m, program, &limits, 0);
        if (m.r.status != PSD_OK) {
            CHECK(m.r.status == PSD_LIMIT);
        }
        else {
            CHECK(m.status == PSD_OK);
            CHECK_UINT(m.model.module_count, 2);
            without += m.model.modules[1].state_dict == 0;
        }
        finish_model(&m);
    }
    CHECK(without > 10);
}

/* ---------------------------------------------------------------- from elsewhere */

static void
test_modules_noted_by_the_host(void)
{
    modelling m;
    model(&m, PSD_LITERAL("(" SIMPLE "(d(dt."));
    CHECK(m.status == PSD_OK);
    const psd_ref *items = root_of(&m)->as.items;
    psd_ref entries[2] = {psd_new_text(&m.r.pool, PSD_KIND_TEXT, PSD_LITERAL("name")),
                          items[1]};
    CHECK(psd_torch_note_module(&m.r.pool, &m.model, items[2], entries, 2));
    CHECK(psd_torch_note_module(&m.r.pool, &m.model, items[1], entries, 0));
    CHECK_UINT(m.model.module_count, 3);
    for (unsigned i = 0; i < 3; i++) {
        const psd_module *found = psd_model_module(&m.model, items[i]);
        CHECK(found != NULL && found->at == items[i]);
        const psd_value *v = psd_value_at(&m.r.pool, found->state_dict);
        CHECK(v->kind == PSD_KIND_CALL);
        CHECK_UINT(v->as.call->item_count, i == 1 ? 0 : 2);
    }
    /* Noted again, the last word counts. */
    CHECK(psd_torch_note_module(&m.r.pool, &m.model, items[1], entries, 2));
    CHECK_UINT(m.model.module_count, 3);
    psd_ref made = psd_model_module(&m.model, items[1])->state_dict;
    CHECK_UINT(psd_value_at(&m.r.pool, made)->as.call->item_count, 2);
    finish_model(&m);
}

static void
test_noting_without_memory(void)
{
    unsigned failed = 0;
    for (unsigned ahead = 1; ahead <= 6; ahead++) {
        for (size_t waste = 0; waste < 4096; waste += 8) {
            modelling m;
            model(&m, PSD_LITERAL("(d."));
            psd_ref entries[2] = {m.r.pickle.root, m.r.pickle.root};
            CHECK(psd_arena_take(&m.r.arena, waste) != NULL);
            m.r.heap.fail_at = m.r.heap.requests + ahead;
            bool noted =
                psd_torch_note_module(&m.r.pool, &m.model, m.r.pickle.root, entries, 2);
            CHECK_UINT(m.model.module_count, noted);
            failed += !noted;
            finish_model(&m);
        }
    }
    CHECK(failed > 100);
}

int
main(void)
{
    RUN(test_one_module);
    RUN(test_children);
    RUN(test_names_of_python_2);
    RUN(test_forms_of_dicts);
    RUN(test_versions);
    RUN(test_buffers_that_are_not_saved);
    RUN(test_attributes_that_are_missing);
    RUN(test_what_is_no_module);
    RUN(test_bound_methods);
    RUN(test_graph_modules);
    RUN(test_where_modules_are_found);
    RUN(test_several_modules);
    RUN(test_a_module_within_itself);
    RUN(test_a_module_under_two_names);
    RUN(test_modules_that_double);
    RUN(test_modules_that_share_a_dict);
    RUN(test_one_long_name);
    RUN(test_one_long_name_of_a_child);
    RUN(test_every_failing_request);
    RUN(test_every_failing_page);
    RUN(test_a_pool_that_is_full);
    RUN(test_modules_noted_by_the_host);
    RUN(test_noting_without_memory);
    return check_report();
}
