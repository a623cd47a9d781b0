/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules that keep their weights in a way of their own: compiled and quantized ones;
 * and what of a module is not told, because only its code could tell it.
 */
#include "torch_kit.h"

/* ---------------------------------------------------------------- programs */

/* A module of this class with further attributes; all are dicts' items: key, value. */
#define MODULE(class, parameters, modules, more) \
    "c" class "\n)\x81(V_parameters\n(" parameters "dV_modules\n(" modules "d" more "db"
#define NET "models\nNet"
#define ITEM(name, value) "V" name "\n" value

#define FLOAT(key) V2(STORAGE("FloatStorage", key, "1") I("0") "(t(t")
#define PARAMETER(key) CALL("_rebuild_parameter", FLOAT(key) TRUE_ HOOKS)
#define SIMPLE MODULE(NET, ITEM("w", PARAMETER("0")), "", "")

#define COMPILED(inner) "ctorch._dynamo.eval_frame\nOptimizedModule\n(" inner "NtR"

#define QUANTIZED "torch.ao.nn.quantized.modules."
#define SETTINGS I("1") I("1") I("1") I("1") I("1") I("1") I("1") I("1") I("1") I("1")
#define CONV_OF(scale, zero) \
    "c" QUANTIZED "conv\nConv2d\n)\x81(" SETTINGS FLOAT("1") "N" scale zero "I00\ntb"
#define CONV CONV_OF("F0.5\n", I("7"))

#define SCRIPT(state) "ctorch\nScriptObject\n)\x81(" state "V__torch__.x\ntb"
#define PACKED_LINEAR                                      \
    MODULE(QUANTIZED "linear\nLinearPackedParams", "", "", \
           ITEM("dtype", "ctorch\nqint8\n")                \
               ITEM("_packed_params", SCRIPT("(" FLOAT("2") "Nt")))
#define LINEAR_OF(packed)                                                  \
    MODULE(QUANTIZED "linear\nLinear", "", ITEM("_packed_params", packed), \
           ITEM("scale", I("2")) ITEM("zero_point", I("0")))
/* Before torch 1.9: (weight, bias, training, dtype). */
#define OLD_PACKED                                                          \
    "ctorch.nn.quantized.modules.linear\nLinearPackedParams\n)\x81(" FLOAT( \
        "2") "N"                                                            \
             "I00\nctorch\nqint8\ntb"
#define EMBEDDING                                                    \
    MODULE(QUANTIZED "embedding_ops\nEmbeddingPackedParams", "", "", \
           ITEM("dtype", "ctorch\nquint8\n")                         \
               ITEM("_packed_weight", SCRIPT("(" I("1") "(" FLOAT("3") "l(l(lt")))
#define DYNAMIC "torch.ao.nn.quantized.dynamic.modules."
#define PACKED_PARAMETER \
    MODULE(DYNAMIC "rnn\nPackedParameter", "", "", ITEM("param", SCRIPT("(t")))
#define CELL                                       \
    MODULE(DYNAMIC "rnn\nLSTMCell", "", "",        \
           ITEM("_packed_weight_ih", SCRIPT("(t")) \
               ITEM("_packed_weight_hh", SCRIPT("(t")))

#define HOOKED(hook) \
    MODULE(NET, "", "", ITEM("_state_dict_hooks", "(" ITEM("0", hook) "d"))
#define SPECTRAL                                                            \
    "ctorch.nn.utils.spectral_norm\nSpectralNormStateDictHook\n)\x81(Vfn\n" \
    "ctorch.nn.utils.spectral_norm\nSpectralNorm\n)\x81(Vname\nVweight\ndbdb"
#define SAVE_PACKED "ctorch.ao.quantization.fx.graph_module\n_save_packed_weight\n"

/* ---------------------------------------------------------------- what it gives */

enum { ROOM = 1024 };

static void
add_text(const modelling *m, char *room, const char *format, psd_ref ref)
{
    const psd_value *v = psd_value_at(&m->r.pool, ref);
    CHECK(v->kind == PSD_KIND_TEXT);
    if (v->kind == PSD_KIND_TEXT) {
        size_t size = strlen(room);
        (void)snprintf(room + size, ROOM - size, format, (int)v->count,
                       (const char *)v->as.bytes);
    }
}

/* Names, then after a bar the paths of what is not told, those of hooks with a !. */
static void
tell(const modelling *m, const psd_module *module, char *room)
{
    const psd_pool *pool = &m->r.pool;
    const psd_call *call = psd_value_at(pool, module->state_dict)->as.call;
    for (uint32_t i = 0; i < call->item_count; i += 2) {
        add_text(m, room, "%.*s ", call->items[i]);
    }
    (void)strcat(room, "|");
    if (module->untold == 0) {
        return;
    }
    const psd_value *list = psd_value_at(pool, module->untold);
    for (uint32_t i = 0; i < list->count; i++) {
        const psd_ref *part = psd_value_at(pool, list->as.items[i])->as.items;
        add_text(m, room, " '%.*s'", part[0]);
        (void)strcat(room, psd_value_at(pool, part[2])->as.boolean ? "!" : "");
    }
}

static void
check_told(psd_span program, const char *expected, int line)
{
    char found[ROOM] = "";
    modelling m;
    check_guarded g = check_guard(program.data, program.size);
    model(&m, (psd_span){g.data, g.size});
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.module_count, 1);
    if (m.status == PSD_OK && m.model.module_count == 1) {
        tell(&m, &m.model.modules[0], found);
    }
    CHECK(strcmp(found, expected) == 0);
    if (strcmp(found, expected) != 0) {
        (void)fprintf(stderr, "  line %d: %s\n", line,
                      m.status == PSD_OK ? found : m.r.err.sentence);
    }
    finish_model(&m);
    check_unguard(&g);
}

#define TELLS(program, expected) \
    check_told(PSD_LITERAL(program "."), expected, __LINE__)

/* ---------------------------------------------------------------- compiled */

static void
test_compiled(void)
{
    TELLS(COMPILED(SIMPLE), "_orig_mod.w |");
    TELLS(COMPILED(COMPILED(SIMPLE)), "_orig_mod._orig_mod.w |");
    TELLS(MODULE(NET, "", ITEM("a", COMPILED(SIMPLE)), ""), "a._orig_mod.w |");
    TELLS(COMPILED(I("7")), "| '_orig_mod'");
    TELLS(COMPILED("N"), "|");
}

/* ---------------------------------------------------------------- quantized */

static void
test_convolutions(void)
{
    TELLS(CONV, "weight bias scale zero_point |");
    TELLS(MODULE(NET, "", ITEM("c", CONV), ""),
          "c.weight c.bias c.scale c.zero_point |");
    TELLS(MODULE(NET, "", ITEM("c", CONV_OF("Vx\n", I("7"))), ""), "| 'c'");
    TELLS(MODULE(NET, "", ITEM("c", CONV_OF(I("1"), "F1.5\n")), ""),
          "c.weight c.bias | 'c'");
    /* Too few parts, a class of another name, attributes as others have. */
    TELLS(MODULE(NET, "", ITEM("c", "c" QUANTIZED "conv\nConv2d\n)\x81(" SETTINGS "tb"),
                 ""),
          "| 'c'");
    TELLS(MODULE(NET, "",
                 ITEM("c", "cmine\nConv2d\n)\x81(" SETTINGS FLOAT("1") "NF0.5\nI7\ntb"),
                 ""),
          "| 'c'");
    TELLS(MODULE(QUANTIZED "conv\nConv2d", ITEM("w", PARAMETER("0")), "", ""),
          "w | ''");
}

/* The numbers become tensors, with bytes in the archive's memory. */
static void
test_numbers_become_tensors(void)
{
    modelling m;
    model(&m, PSD_LITERAL(CONV "."));
    CHECK(m.status == PSD_OK && m.model.module_count == 1);
    const psd_call *call =
        psd_value_at(&m.r.pool, m.model.modules[0].state_dict)->as.call;
    const psd_dtype dtypes[] = {PSD_DTYPE_FLOAT32, PSD_DTYPE_INT64};
    const uint8_t bytes[2][8] = {{0, 0, 0, 0x3f}, {7}};
    for (unsigned i = 0; i < 2; i++) {
        const psd_value *v = psd_value_at(&m.r.pool, call->items[5 + 2 * i]);
        CHECK(v->kind == PSD_KIND_TENSOR);
        const psd_tensor *t = &m.model.tensors[v->as.index];
        const psd_storage *s = &m.model.storages[t->storage];
        CHECK(t->rank == 0 && t->numel == 1 && t->dtype == dtypes[i]);
        CHECK(t->flags == PSD_TENSOR_BUFFER);
        CHECK(s->place == PSD_PLACE_MEMORY && !s->big_endian);
        CHECK_UINT(s->size, i == 0 ? 4 : 8);
        CHECK(memcmp(s->at.memory, bytes[i], (size_t)s->size) == 0);
    }
    finish_model(&m);
}

static void
test_packed(void)
{
    TELLS(LINEAR_OF(PACKED_LINEAR),
          "scale zero_point _packed_params.dtype _packed_params._packed_params |");
    TELLS(LINEAR_OF(OLD_PACKED),
          "scale zero_point _packed_params.dtype _packed_params._packed_params |");
    TELLS(EMBEDDING, "dtype _packed_weight |");
    TELLS(PACKED_PARAMETER, "param |");
    TELLS(CELL, "_packed_weight_ih _packed_weight_hh |");
    TELLS(MODULE(QUANTIZED "functional_modules\nQFunctional", "", "",
                 ITEM("scale", "F1.0\n") ITEM("zero_point", I("0"))),
          "scale zero_point |");
    /* What is not as it should be is said. */
    TELLS(MODULE(QUANTIZED "linear\nLinear", "", "", ITEM("scale", I("2"))), "| ''");
    TELLS(MODULE(QUANTIZED "linear\nLinearPackedParams", "", "", ""), "| ''");
    TELLS(MODULE(QUANTIZED "linear\nLinearPackedParams", "", "",
                 ITEM("dtype", "N") ITEM("_packed_params", "N")),
          "| ''");
    TELLS(MODULE(QUANTIZED "embedding_ops\nEmbeddingPackedParams", "", "",
                 ITEM("dtype", "N") ITEM("_packed_weight", SCRIPT("(t"))),
          "| ''");
    TELLS(MODULE(DYNAMIC "rnn\nGRUCell", "", "", ""), "| ''");
    TELLS(MODULE(DYNAMIC "rnn\nPackedParameter", "", "", ""), "| ''");
    /* Of no such class: as all others. */
    TELLS(MODULE("torch.nn.quantized\nLinear", ITEM("w", PARAMETER("0")), "", ""),
          "w |");
    TELLS(MODULE(QUANTIZED "activation\nPReLU", "", "", ITEM("scale", I("2"))), "|");
}

/* ---------------------------------------------------------------- not told */

static void
test_children_and_hooks(void)
{
    TELLS(MODULE(NET, "", ITEM("a", "cmy\nThing\n)\x81") ITEM("b", SIMPLE), ""),
          "b.w | 'a'");
    TELLS(MODULE(NET, "", ITEM("a", I("1")) ITEM("b", "N"), ""), "| 'a'");
    TELLS(HOOKED("cmy\nhook\n"), "| ''!");
    TELLS(MODULE(NET, "", ITEM("a", HOOKED("cmy\nhook\n")), ""), "| 'a'!");
    TELLS(MODULE(NET, "", "", ITEM("_state_dict_pre_hooks", "(V0\nNd")), "| ''!");
    TELLS(HOOKED(SPECTRAL), "|");
    TELLS(HOOKED(SAVE_PACKED), "|");
    TELLS(MODULE(NET, "", "",
                 ITEM("_state_dict_hooks", "(" ITEM("0", SAVE_PACKED) "d")
                     ITEM("_packed_weight_0", SCRIPT("(t"))),
          "| ''!");
}

/* A file could tell of any number of them. */
static void
test_only_so_many(void)
{
    check_heap heap = {0};
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_span(&b, PSD_LITERAL("c" NET "\n)\x81(V_parameters\n(dV_modules\n("));
    for (char c = 'A'; c < 'z'; c++) {
        char item[] = {'V', c, '\n', 'I', '1', '\n'};
        psd_put(&b, item, sizeof item);
    }
    psd_put_span(&b, PSD_LITERAL("ddb."));
    modelling m;
    model(&m, psd_buffer_span(&b));
    CHECK(m.status == PSD_OK && m.model.module_count == 1);
    CHECK_UINT(psd_value_at(&m.r.pool, m.model.modules[0].untold)->count, 16);
    finish_model(&m);
    psd_buffer_clear(&b);
}

static void
test_methods_have_names(void)
{
    modelling m;
    model(&m, PSD_LITERAL("c__builtin__\ngetattr\n(" SIMPLE "Vstate_dict\ntR."));
    CHECK(m.status == PSD_OK && m.model.module_count == 1);
    const psd_value *name = psd_value_at(&m.r.pool, m.model.modules[0].method);
    CHECK(psd_span_equal(psd_text_of(name), PSD_LITERAL("state_dict")));
    finish_model(&m);
    model(&m, PSD_LITERAL(SIMPLE "."));
    CHECK_UINT(m.model.modules[0].method, 0);
    finish_model(&m);
}

/* ---------------------------------------------------------------- running out */

#define ALL                                                                      \
    "(" COMPILED(SIMPLE) CONV LINEAR_OF(PACKED_LINEAR) LINEAR_OF(OLD_PACKED)     \
        EMBEDDING PACKED_PARAMETER CELL HOOKED(SPECTRAL) HOOKED("cmy\nhook\n")   \
            MODULE(NET, "", ITEM("a", I("1")), "") "ccollections\nOrderedDict\n" \
                                                   "((l(lVa\naNaatRt."

static void
test_every_failing_request(void)
{
    psd_limits limits = psd_default_limits();
    modelling m;
    unsigned long n = 0;
    do {
        model_with(&m, PSD_LITERAL(ALL), &limits, ++n);
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
    psd_limits limits = psd_default_limits();
    unsigned failed = 0;
    for (unsigned trial = 0; trial < 12 * 512; trial++) {
        modelling m;
        run_with(&m.r, PSD_LITERAL(ALL), &limits, 0);
        psd_model_init(&m.model, check_alloc(&m.r.heap), key);
        CHECK(psd_arena_take(&m.r.arena, trial / 12 * 8) != NULL);
        m.r.heap.fail_at = m.r.heap.requests + 1 + trial % 12;
        psd_torch_source source = {.dialect = PSD_DIALECT_ZIP, .base = BASE};
        m.status = psd_torch_read(&m.r.pool, m.r.pickle.root, &source, &limits,
                                  &m.model, &m.r.err);
        CHECK(m.status == PSD_OK || m.status == PSD_NO_MEMORY);
        failed += m.status != PSD_OK;
        finish_model(&m);
    }
    CHECK(failed > 512);
}

/* A pool that is full is no fault: the modules stand there, without a state_dict. */
static void
test_a_pool_that_is_full(void)
{
    psd_limits limits = psd_default_limits();
    modelling m;
    model_with(&m, PSD_LITERAL(ALL), &limits, 0);
    uint32_t all = m.r.pool.count;
    finish_model(&m);
    unsigned without = 0;
    for (uint64_t most = 1; most <= all; most++) {
        limits.values = most;
        model_with(&m, PSD_LITERAL(ALL), &limits, 0);
        CHECK(m.status == PSD_OK || m.r.status == PSD_LIMIT);
        for (uint32_t i = 0; m.status == PSD_OK && i < m.model.module_count; i++) {
            const psd_module *module = &m.model.modules[i];
            without += module->state_dict == 0;
            CHECK(module->state_dict != 0 || module->untold == 0);
        }
        finish_model(&m);
    }
    CHECK(without > 10);
}

int
main(void)
{
    RUN(test_compiled);
    RUN(test_convolutions);
    RUN(test_numbers_become_tensors);
    RUN(test_packed);
    RUN(test_children_and_hooks);
    RUN(test_only_so_many);
    RUN(test_methods_have_names);
    RUN(test_every_failing_request);
    RUN(test_every_failing_page);
    RUN(test_a_pool_that_is_full);
    return check_report();
}
