/* SPDX-License-Identifier: Apache-2.0
 *
 * The torch pass: each form that makes a storage or a tensor, and what stays a
 * call.  What is refused stands in test_torch_refused.c.
 */
#include "torch_expect.h"
#include "torch_known.h"

/* ---------------------------------------------------------------- one tensor */

static const expected two_by_three = {PSD_DTYPE_FLOAT32, 0, 0, 2, {2, 3}, {3, 1}};

/* The program's root is one tensor; gives its Python attributes. */
static psd_ref
check_root(psd_span program, const expected *e)
{
    modelling m;
    psd_ref state = 0;
    check_guarded g = check_guard(program.data, program.size);
    model(&m, (psd_span){g.data, g.size});
    CHECK(m.status == PSD_OK);
    if (m.status == PSD_OK) {
        check_tensor(&m, root_of(&m), e);
        if (root_of(&m)->kind == PSD_KIND_TENSOR) {
            state = m.model.tensors[root_of(&m)->as.index].state;
            CHECK(state <= m.r.pool.count);
        }
    }
    else {
        (void)fprintf(stderr, "  %s: %s\n", psd_status_code(m.status),
                      m.r.err.sentence);
    }
    finish_model(&m);
    check_unguard(&g);
    return state;
}

#define ROOT(program, ...) \
    check_root(PSD_LITERAL(program "."), &(expected){__VA_ARGS__})
#define ROOT_PLAIN(program) check_root(PSD_LITERAL(program "."), &two_by_three)

/* ---------------------------------------------------------------- rebuild functions */

static void
test_rebuild_tensor(void)
{
    CHECK(ROOT_PLAIN(CALL("_rebuild_tensor", SIX I("0") TWO_BY_THREE)) == 0);
    ROOT(CALL("_rebuild_tensor", SIX I("2") "(I2\nt(I2\nt"), PSD_DTYPE_FLOAT32, 0, 2, 1,
         {2}, {2});
}

static void
test_rebuild_tensor_v2(void)
{
    CHECK(ROOT_PLAIN(TENSOR) == 0);
    ROOT(CALL("_rebuild_tensor_v2", SIX I("0") TWO_BY_THREE TRUE_ HOOKS),
         PSD_DTYPE_FLOAT32, PSD_TENSOR_REQUIRES_GRAD, 0, 2, {2, 3}, {3, 1});
    /* Hooks may be anything: torch takes them as they come. */
    ROOT_PLAIN(CALL("_rebuild_tensor_v2", SIX I("0") TWO_BY_THREE FALSE_ "N"));
    ROOT_PLAIN(CALL("_rebuild_tensor_v2", SIX I("0") TWO_BY_THREE FALSE_ "Vjunk\n"));
}

#define WITH(metadata) \
    CALL("_rebuild_tensor_v2", SIX I("0") TWO_BY_THREE FALSE_ HOOKS metadata)
#define FLAGS_ARE(metadata, flags) \
    ROOT(WITH(metadata), PSD_DTYPE_FLOAT32, flags, 0, 2, {2, 3}, {3, 1})

static void
test_metadata(void)
{
    FLAGS_ARE("(Vconj\nI01\nd", PSD_TENSOR_CONJ);
    FLAGS_ARE("(Vneg\nI01\nd", PSD_TENSOR_NEG);
    FLAGS_ARE("(Vneg\nI01\nVconj\nI01\nd", PSD_TENSOR_CONJ | PSD_TENSOR_NEG);
    FLAGS_ARE("(Vneg\nI00\nVneg\nI01\nd", PSD_TENSOR_NEG); /* the last one counts */
    FLAGS_ARE("(Vother\nI01\nd", 0);
    FLAGS_ARE("(C\x04"
              "conjI01\nd",
              0); /* bytes are no name */
    FLAGS_ARE("(S'conj'\nI01\nd", PSD_TENSOR_CONJ);
    FLAGS_ARE("(d", 0);
    FLAGS_ARE("N", 0);
    FLAGS_ARE("Vconj\n", 0);
}

/* The most entries that are looked at: the last of them counts as well. */
static void
test_metadata_of_many_entries(void)
{
    char program[2048] =
        "ctorch._utils\n_rebuild_tensor_v2\n(" SIX "I0\n" TWO_BY_THREE FALSE_ HOOKS "(";
    for (unsigned i = 0; i < 63; i++) {
        strcat(program, "K\x01K\x01");
    }
    strcat(program, "Vconj\nI01\ndtR.");
    check_root((psd_span){(uint8_t *)program, strlen(program)},
               &(expected){PSD_DTYPE_FLOAT32, PSD_TENSOR_CONJ, 0, 2, {2, 3}, {3, 1}});
}

static void
test_rebuild_tensor_v3(void)
{
    ROOT(CALL("_rebuild_tensor_v3",
              UNTYPED("0", "12") I("1") "(I2\nt(I2\nt" FALSE_ HOOKS "ctorch\nuint16\n"),
         PSD_DTYPE_UINT16, 0, 1, 1, {2}, {2});
    /* A typed storage is seen anew, and a rest of a storage is no harm. */
    ROOT(CALL("_rebuild_tensor_v3",
              SIX I("2") "(I1\nt(I1\nt" FALSE_ HOOKS "ctorch\nfloat64\n"),
         PSD_DTYPE_FLOAT64, 0, 2, 1, {1}, {1});
    ROOT(CALL("_rebuild_tensor_v3",
              UNTYPED("0", "13") I("0") "(I3\nt(I1\nt" FALSE_ HOOKS "ctorch\nfloat\n"),
         PSD_DTYPE_FLOAT32, 0, 0, 1, {3}, {1});
    ROOT(CALL("_rebuild_tensor_v3",
              UNTYPED("0", "8") I("0") "(I1\nt(I1\nt" TRUE_ HOOKS "ctorch\ncomplex64\n"
                                       "(Vconj\nI01\nd"),
         PSD_DTYPE_COMPLEX64, PSD_TENSOR_CONJ | PSD_TENSOR_REQUIRES_GRAD, 0, 1, {1},
         {1});
}

static void
test_every_dtype_by_v3(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)i);
        char program[512];
        int size = snprintf(program, sizeof program,
                            CALL("_rebuild_tensor_v3",
                                 UNTYPED("0", "%d") "I0\n(I2\nt(I1\nt" FALSE_ HOOKS
                                                    "ctorch\n%s\n") ".",
                            2 * row->size, row->name);
        check_root((psd_span){(uint8_t *)program, (size_t)size},
                   &(expected){(psd_dtype)i, 0, 0, 1, {2}, {1}});
    }
}

static void
test_every_storage_class(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)i);
        char program[512];
        int size = snprintf(program, sizeof program,
                            V2(STORAGE("%sStorage", "0", "2") "I1\n(I1\nt(I1\nt") ".",
                            row->scalar);
        check_root((psd_span){(uint8_t *)program, (size_t)size},
                   &(expected){(psd_dtype)i, 0, 1, 1, {1}, {1}});
    }
}

/* ---------------------------------------------------------------- Parameters */

enum {
    TRAINED = PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD,
    FROZEN = PSD_TENSOR_PARAMETER,
};

#define GIVES(program, flags) \
    ROOT(program, PSD_DTYPE_FLOAT32, flags, 0, 2, {2, 3}, {3, 1})

static void
test_rebuild_parameter(void)
{
    CHECK(GIVES(CALL("_rebuild_parameter", TENSOR TRUE_ HOOKS), TRAINED) == 0);
    CHECK(GIVES(CALL("_rebuild_parameter", TENSOR FALSE_ HOOKS), FROZEN) == 0);
    /* The Parameter's word counts, not its data's. */
    GIVES(CALL("_rebuild_parameter",
               CALL("_rebuild_tensor_v2", SIX I("0") TWO_BY_THREE TRUE_ HOOKS)
                   FALSE_ HOOKS),
          FROZEN);
}

static void
test_rebuild_parameter_with_state(void)
{
    CHECK(
        GIVES(CALL("_rebuild_parameter_with_state", TENSOR TRUE_ HOOKS "(Vtag\nI7\nd"),
              TRAINED) != 0);
    CHECK(GIVES(CALL("_rebuild_parameter_with_state", TENSOR FALSE_ HOOKS "(N(dt"),
                FROZEN) != 0);
}

#define PARAMETER "ctorch.nn.parameter\nParameter\n"

static void
test_parameter_by_its_class(void)
{
    GIVES(PARAMETER "(" TENSOR "tR", TRAINED);
    GIVES(PARAMETER "(" TENSOR FALSE_ "tR", FROZEN);
    GIVES(PARAMETER "(" TENSOR "t\x81", TRAINED);
    /* BUILD (requires_grad, volatile, hooks) */
    GIVES(PARAMETER "(" TENSOR "tR(" FALSE_ FALSE_ HOOKS "tb", FROZEN);
    GIVES(PARAMETER "(" TENSOR FALSE_ "t\x81(" TRUE_ FALSE_ "Ntb", TRAINED);
    /* BUILD (data, gradient, hooks, requires_grad, volatile) */
    GIVES(PARAMETER ")\x81(" TENSOR "N" HOOKS FALSE_ FALSE_ "tb", FROZEN);
    GIVES(PARAMETER ")R(" TENSOR "N" HOOKS TRUE_ FALSE_ "tb", TRAINED);
}

/* ---------------------------------------------------------------- the earliest files */

#define WINDOW "(" SIX I("0") TWO_BY_THREE "t"

static void
test_tensors_filled_by_build(void)
{
    ROOT_PLAIN("ctorch\nFloatTensor\n)R" WINDOW "b");
    ROOT_PLAIN("ctorch\nFloatTensor\n)\x81" WINDOW "b");
    ROOT_PLAIN("ctorch\nTensor\n)R" WINDOW "b");
    ROOT_PLAIN("ctorch.cuda\nFloatTensor\n)R" WINDOW "b");
    /* A Parameter over one that is only filled after it was born. */
    GIVES(PARAMETER "(ctorch\nFloatTensor\n)R" WINDOW "btR", TRAINED);
}

/* ---------------------------------------------------------------- retyped */

#define RETYPED(type, state)                                                      \
    "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n" \
    "c" type "\n(" SIX I("0") TWO_BY_THREE FALSE_ HOOKS "t" state "tR"

static void
test_tensors_with_attributes(void)
{
    CHECK(GIVES(RETYPED("torch\nTensor", "(Va\nI1\nd"), 0) != 0);
    CHECK(GIVES(RETYPED("torch.nn.parameter\nParameter", "(d"), FROZEN) != 0);
    CHECK(GIVES(RETYPED("torch.nn.parameter\nBuffer", "(d"), PSD_TENSOR_BUFFER) != 0);
    CHECK(GIVES(RETYPED("torch\nTensor", "(V_is_buffer\nI01\nVpersistent\nI01\nd"),
                PSD_TENSOR_BUFFER) != 0);
    CHECK(GIVES(RETYPED("torch\nTensor", "(V_is_buffer\nI00\nd"), 0) != 0);
    /* torch 1.7 to 1.9 */
    CHECK(
        GIVES("ctorch.tensor\n_rebuild_from_type\n(ctorch._utils\n_rebuild_tensor_v2\n"
              "ctorch\nTensor\n(" SIX I("0") TWO_BY_THREE FALSE_ HOOKS "t(dtR",
              0) != 0);
}

static psd_kind
root_kind(psd_span program)
{
    modelling m;
    model(&m, program);
    CHECK(m.status == PSD_OK);
    psd_kind kind = m.status == PSD_OK ? (psd_kind)root_of(&m)->kind : PSD_KIND_INVALID;
    finish_model(&m);
    return kind;
}

#define STAYS_A_CALL(program) \
    CHECK(root_kind(PSD_LITERAL(program ".")) == PSD_KIND_CALL)

static void
test_what_stays_a_call(void)
{
    STAYS_A_CALL("ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n"
                 "_rebuild_from_type_v2\nctorch\nTensor\n)(dtR");
    /* What is made by a call is no function that is known here: saving spells so the
     * names of attributes that hold a dot. */
    STAYS_A_CALL("ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\ngetattr\n"
                 "(ctorch._utils\nA\nVb\ntRctorch\nTensor\n)(dtR");
    STAYS_A_CALL("cother._utils\n_rebuild_tensor_v2\n(" SIX "tR");
    STAYS_A_CALL("ctorch._utils\n_rebuild_tensor_v4\n(" SIX "tR");
    STAYS_A_CALL("ctorch\nSize\n((I2\ntt"
                 "R");
    STAYS_A_CALL("ctorch\nFloatTensor\n)R"); /* never filled: an empty one */
    STAYS_A_CALL("ctorch\nFloatStorage\n)R");
    STAYS_A_CALL("cos\nsystem\n(Vtrue\ntR");
}

/* ---------------------------------------------------------------- no bytes, other devices */

static void
test_meta_tensors(void)
{
    ROOT(CALL("_rebuild_meta_tensor_no_storage",
              "ctorch\nfloat32\n" TWO_BY_THREE FALSE_),
         PSD_DTYPE_FLOAT32, PSD_TENSOR_META, 0, 2, {2, 3}, {3, 1});
    ROOT(CALL("_rebuild_meta_tensor_no_storage",
              "ctorch\nbfloat16\n(I1000000\nI1000000\nt(I1000000\nI1\nt" TRUE_),
         PSD_DTYPE_BFLOAT16, PSD_TENSOR_META | PSD_TENSOR_REQUIRES_GRAD, 0, 2,
         {1000000, 1000000}, {1000000, 1});
    ROOT(V2(STORAGE_AT("torch", "FloatStorage", "0", "meta", "6") I("0") TWO_BY_THREE),
         PSD_DTYPE_FLOAT32, PSD_TENSOR_META, 0, 2, {2, 3}, {3, 1});
    /* A storage by itself. */
    ROOT(STORAGE_AT("torch", "FloatStorage", "0", "meta", "6"), PSD_DTYPE_FLOAT32,
         PSD_TENSOR_META | PSD_TENSOR_STORAGE, 0, 1, {6}, {1});
}

static void
test_device_tensors(void)
{
    GIVES(CALL("_rebuild_device_tensor_from_cpu_tensor",
               TENSOR "ctorch\nfloat32\nVxla:0\n" FALSE_),
          0);
    GIVES(CALL("_rebuild_device_tensor_from_cpu_tensor",
               TENSOR "ctorch\nfloat32\nVxla:0\n" TRUE_),
          PSD_TENSOR_REQUIRES_GRAD);
}

/* ---------------------------------------------------------------- geometry */

#define FLOATS(window) V2(SIX window)

static void
test_forms_of_sizes(void)
{
    ROOT_PLAIN(FLOATS(I("0") "(lI2\naI3\na(lI3\naI1\na"));
    ROOT_PLAIN(FLOATS(I("0") "ctorch\nSize\n((I2\nI3\nttR(I3\nI1\nt"));
    ROOT_PLAIN(FLOATS("\x8a\x01\x00"
                      "(\x8a\x01\x02\x8b\x01\x00\x00\x00\x03t(K\x03M\x01\x00t"));
}

static void
test_scalars_and_single_indices(void)
{
    ROOT(FLOATS(I("5") "(t(t"), PSD_DTYPE_FLOAT32, 0, 5, 0, {0}, {0});
    ROOT(FLOATS(I("5") "))"), PSD_DTYPE_FLOAT32, 0, 5, 0, {0}, {0});
    /* Of one index the stride is never used, whatever it is. */
    ROOT(FLOATS(I("5") "(I1\nI1\nt(I-7\nI9223372036854775807\nt"), PSD_DTYPE_FLOAT32, 0,
         5, 2, {1, 1}, {-7, INT64_MAX});
}

/* Without elements neither offset nor strides matter. */
static void
test_empty_tensors(void)
{
    ROOT(FLOATS(I("999") "(I0\nt(I1\nt"), PSD_DTYPE_FLOAT32, 0, 999, 1, {0}, {1});
    ROOT(FLOATS(I("-1") "(I2\nI0\nt(I-1\nI-1\nt"), PSD_DTYPE_FLOAT32, 0, -1, 2, {2, 0},
         {-1, -1});
    ROOT(FLOATS(I("0") "(I9223372036854775807\nI9223372036854775807\nI0\nt"
                       "(I1\nI1\nI1\nt"),
         PSD_DTYPE_FLOAT32, 0, 0, 3, {INT64_MAX, INT64_MAX, 0}, {1, 1, 1});
    ROOT(V2(STORAGE("FloatStorage", "0", "0") I("0") "(I0\nt(I1\nt"), PSD_DTYPE_FLOAT32,
         0, 0, 1, {0}, {1});
}

static void
test_expanded_tensors(void)
{
    /* 2^40 elements over four bytes. */
    ROOT(FLOATS(I("5") "(I1048576\nI1048576\nt(I0\nI0\nt"), PSD_DTYPE_FLOAT32, 0, 5, 2,
         {1048576, 1048576}, {0, 0});
    ROOT(FLOATS(I("0") "(I3\nI4\nt(I1\nI1\nt"), PSD_DTYPE_FLOAT32, 0, 0, 2, {3, 4},
         {1, 1});
    /* The most bytes that a size may tell: 2^63 - 4. */
    ROOT(FLOATS(I("0") "(I2305843009213693951\nt(I0\nt"), PSD_DTYPE_FLOAT32, 0, 0, 1,
         {2305843009213693951}, {0});
}

static void
test_the_last_element_of_a_storage(void)
{
    ROOT(FLOATS(I("0") "(I6\nt(I1\nt"), PSD_DTYPE_FLOAT32, 0, 0, 1, {6}, {1});
    ROOT(FLOATS(I("1") "(I2\nt(I4\nt"), PSD_DTYPE_FLOAT32, 0, 1, 1, {2}, {4});
    ROOT(FLOATS(I("5") "(I1\nt(I1\nt"), PSD_DTYPE_FLOAT32, 0, 5, 1, {1}, {1});
    ROOT(FLOATS(I("0") "(I2\nI3\nt(I1\nI2\nt"), PSD_DTYPE_FLOAT32, 0, 0, 2, {2, 3},
         {1, 2});
}

static void
test_rank_64(void)
{
    char program[1024] = CALL("_rebuild_tensor", SIX "I0\n(%s%s%s%st(%s%s%s%st") ".";
    char filled[2048];
    const char *ones =
        "I1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\nI1\n";
    int size = snprintf(filled, sizeof filled, program, ones, ones, ones, ones, ones,
                        ones, ones, ones);
    modelling m;
    model(&m, (psd_span){(uint8_t *)filled, (size_t)size});
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.tensors[0].rank, 64);
    CHECK_UINT(m.model.tensors[0].numel, 1);
    finish_model(&m);
}

/* ---------------------------------------------------------------- storages */

static bool
key_is(const psd_storage *s, const char *text)
{
    return s->key.size == strlen(text) && memcmp(s->key.data, text, s->key.size) == 0;
}

static void
test_what_a_storage_tells(void)
{
    modelling m;
    model(&m, PSD_LITERAL(
                  "(" STORAGE("LongStorage", "weights/1", "5") STORAGE_AT(
                      "torch.cuda", "HalfStorage", "1", "cuda:0", "3") UNTYPED("2", "7")
                      STORAGE_AT("torch.storage", "_UntypedStorage", "3", "cpu", "0")
                          STORAGE_AT("torch", "UntypedStorage", "4", "cpu", "1") "t."));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.storage_count, 5);
    CHECK_UINT(m.model.tensor_count, 5);
    const psd_storage *s = m.model.storages;
    CHECK(key_is(&s[0], "weights/1"));
    CHECK_UINT(s[0].dtype, PSD_DTYPE_INT64);
    CHECK_UINT(s[0].numel, 5);
    CHECK_UINT(s[0].size, 40);
    CHECK(!s[0].untyped);
    CHECK(psd_span_equal(s[0].location, PSD_LITERAL("cpu")));
    CHECK(psd_span_equal(s[1].location, PSD_LITERAL("cuda:0")));
    CHECK_UINT(s[1].dtype, PSD_DTYPE_FLOAT16);
    CHECK_UINT(s[1].size, 6);
    CHECK(!s[1].untyped);
    for (unsigned i = 2; i < 5; i++) {
        CHECK(s[i].untyped);
        CHECK_UINT(s[i].dtype, PSD_DTYPE_UINT8);
        CHECK_UINT(s[i].size, s[i].numel);
    }
    CHECK_UINT(s[2].size, 7);
    CHECK_UINT(s[3].size, 0);
    for (unsigned i = 0; i < 5; i++) {
        const psd_value *v = psd_value_at(&m.r.pool, root_of(&m)->as.items[i]);
        /* A storage by itself is a tensor of all its elements. */
        CHECK(v->kind == PSD_KIND_TENSOR);
        const psd_tensor *t = &m.model.tensors[v->as.index];
        CHECK_UINT(t->storage, i);
        CHECK_UINT(t->flags, PSD_TENSOR_STORAGE);
        CHECK_UINT(t->rank, 1);
        CHECK_UINT(t->shape[0], s[i].numel);
        CHECK_UINT(t->dtype, s[i].dtype);
    }
    finish_model(&m);
}

/* Equal keys are one storage, however they are spelled. */
static void
test_equal_keys_are_one_storage(void)
{
    modelling m;
    model(&m, PSD_LITERAL("(" STORAGE("IntStorage", "12", "3") PERSID(
                  "Vstorage\nctorch\nIntStorage\nI12\nVcpu\nI3\n")
                              PERSID("S'storage'\nctorch\nIntStorage\nS'12'\nS'cpu'\n"
                                     "I3\n") STORAGE("IntStorage", "012", "3") "t."));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.storage_count, 2);
    const psd_ref *items = root_of(&m)->as.items;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t tensor = psd_value_at(&m.r.pool, items[i])->as.index;
        CHECK_UINT(m.model.tensors[tensor].storage, i == 3);
    }
    CHECK(key_is(&m.model.storages[0], "12"));
    finish_model(&m);
}

/* The most bytes that a storage may claim, and a tensor over one of them. */
static void
test_the_largest_sizes(void)
{
    modelling m;
    model(&m, PSD_LITERAL(STORAGE("ByteStorage", "0", "9223372036854775807") "."));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.storages[0].size, INT64_MAX);
    finish_model(&m);
    ROOT(V2(STORAGE("ByteStorage", "0", "1") I("0") "(I9223372036854775807\nt(I0\nt"),
         PSD_DTYPE_UINT8, 0, 0, 1, {INT64_MAX}, {0});
}

static void
test_forms_of_locations(void)
{
    static const struct {
        psd_span program;
        const char *location;
    } rows[] = {
        {PSD_LITERAL(PERSID("Vstorage\nctorch\nByteStorage\nV0\nVmps\nI1\n") "."),
         "mps"},
        {PSD_LITERAL(PERSID("Vstorage\nctorch\nByteStorage\nV0\nS'mps'\nI1\n") "."),
         "mps"},
        {PSD_LITERAL(PERSID("Vstorage\nctorch\nByteStorage\nV0\nC\x03mpsI1\n") "."),
         "mps"},
        {PSD_LITERAL(PERSID("Vstorage\nctorch\nByteStorage\nV0\nNI1\n") "."), ""},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        modelling m;
        model(&m, rows[i].program);
        CHECK(m.status == PSD_OK);
        psd_span found = m.model.storages[0].location;
        CHECK(
            found.size == strlen(rows[i].location) &&
            (found.size == 0 || memcmp(found.data, rows[i].location, found.size) == 0));
        finish_model(&m);
    }
}

static void
test_integer_keys(void)
{
    modelling m;
    model(&m, PSD_LITERAL("(" PERSID("Vstorage\nctorch\nByteStorage\nI0\nVcpu\nI1\n")
                              PERSID("Vstorage\nctorch\nByteStorage\n"
                                     "I9223372036854775807\nVcpu\nI1\n") "t."));
    CHECK(m.status == PSD_OK);
    CHECK(key_is(&m.model.storages[0], "0"));
    CHECK(key_is(&m.model.storages[1], "9223372036854775807"));
    finish_model(&m);
}

static void
test_many_storages(void)
{
    enum { MANY = 5000 };
    psd_buffer b;
    check_heap heap = {0};
    psd_buffer_init(&b, check_alloc(&heap));
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < MANY; i++) {
            char text[128];
            int size = snprintf(text, sizeof text, STORAGE("ByteStorage", "%u", "%u"),
                                i, i % 7);
            psd_put(&b, text, (size_t)size);
        }
    }
    psd_put_u8(&b, '.');
    modelling m;
    model(&m, psd_buffer_span(&b));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.storage_count, MANY);
    for (unsigned i = 0; i < MANY && i < m.model.storage_count; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "%u", i);
        CHECK(key_is(&m.model.storages[i], text));
        CHECK_UINT(m.model.storages[i].numel, i % 7);
    }
    finish_model(&m);
    psd_buffer_clear(&b);
}

/* Where the persistent id stands, so that a hex editor opens there. */
/* The number under which `name` is found or will be; added if it is new. */
static uint32_t
entered(psd_model *m, psd_span name)
{
    uint32_t number = 0;
    psd_storage s = {.key = name};
    CHECK(psd_model_find_or_name(m, name, &number));
    if (number == m->storage_count) {
        CHECK(psd_model_add_storage(m, &s));
    }
    CHECK_UINT(psd_model_find(m, name), number);
    return number;
}

/* Keys that count the storages need no table; from the first other one on they do. */
static void
test_keys_that_count(void)
{
    check_heap heap = {0};
    psd_model m;
    psd_model_init(&m, check_alloc(&heap), key);
    CHECK_UINT(psd_model_find(&m, PSD_LITERAL("0")), PSD_NO_STORAGE);
    CHECK_UINT(entered(&m, PSD_LITERAL("0")), 0);
    CHECK_UINT(entered(&m, PSD_LITERAL("1")), 1);
    CHECK_UINT(entered(&m, PSD_LITERAL("0")), 0);
    CHECK_UINT(m.storage_names.count, 0);
    CHECK_UINT(psd_model_find(&m, PSD_LITERAL("2")), PSD_NO_STORAGE);
    /* Other spellings, and a number that is not the next. */
    CHECK_UINT(entered(&m, PSD_LITERAL("01")), 2);
    CHECK_UINT(entered(&m, PSD_LITERAL("3")), 3);
    CHECK_UINT(entered(&m, PSD_LITERAL("2")), 4);
    CHECK_UINT(entered(&m, PSD_LITERAL("")), 5);
    CHECK_UINT(entered(&m, PSD_LITERAL("1")), 1);
    CHECK_UINT(entered(&m, PSD_LITERAL("2")), 4);
    CHECK_UINT(entered(&m, PSD_LITERAL("3")), 3);
    CHECK_UINT(entered(&m, PSD_LITERAL("4294967296")), 6);
    CHECK_UINT(m.numbered, 2);
    CHECK_UINT(m.storage_names.count, 5);
    psd_model_clear(&m);
    CHECK_UINT(m.numbered, 0);
    /* What comes first decides. */
    CHECK_UINT(entered(&m, PSD_LITERAL("1")), 0);
    CHECK_UINT(entered(&m, PSD_LITERAL("0")), 1);
    CHECK_UINT(entered(&m, PSD_LITERAL("1")), 0);
    CHECK_UINT(m.numbered, 0);
    psd_model_clear(&m);
    CHECK_UINT(heap.live, 0);
}

static void
test_where_a_storage_is_named(void)
{
    modelling m;
    uint8_t room[128];
    uint64_t at;
    model(&m, without_caret(PSD_LITERAL("(Vstorage\nctorch\nByteStorage\nV0\nVcpu\nI1\n"
                                        "t^Q."),
                            room, &at));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(BASE + m.model.storages[0].position, at);
    finish_model(&m);
}

/* ---------------------------------------------------------------- in place */

/* Every reference to the call is one to the tensor. */
static void
test_references_stay(void)
{
    modelling m;
    model(&m, PSD_LITERAL("(" TENSOR "q\x01h\x01(lh\x01"
                          "a" TENSOR "t."));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.tensor_count, 2);
    CHECK_UINT(m.model.storage_count, 1);
    const psd_value *root = root_of(&m);
    CHECK_UINT(root->count, 4);
    CHECK(root->as.items[0] == root->as.items[1]);
    const psd_value *list = psd_value_at(&m.r.pool, root->as.items[2]);
    CHECK(list->as.items[0] == root->as.items[0]);
    CHECK(root->as.items[3] != root->as.items[0]);
    for (unsigned i = 0; i < 4; i += 3) {
        check_tensor(&m, psd_value_at(&m.r.pool, root->as.items[i]), &two_by_three);
    }
    finish_model(&m);
}

static void
test_a_pool_without_torch(void)
{
    modelling m;
    model(&m, PSD_LITERAL("(Va\n(lI1\naI2\nad."));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.storage_count, 0);
    CHECK_UINT(m.model.tensor_count, 0);
    CHECK(root_of(&m)->kind == PSD_KIND_DICT);
    finish_model(&m);
}

/* ---------------------------------------------------------------- plain names */

/* What `globals` leaves out of its list: names that only make tensors and their parts. */
static void
test_plain_names(void)
{
    static const struct {
        const char *module, *name;
        bool plain, when_called;
    } rows[] = {
        {"torch._utils", "_rebuild_tensor_v2", true, true},
        {"torch", "FloatStorage", true, true},
        {"torch", "float32", true, true},
        {"torch.nn.parameter", "Parameter", true, true},
        {"_codecs", "encode", true, true},
        {"torch.storage", "_load_from_bytes", true, false},
        {"collections", "OrderedDict", true, true},
        {"builtins", "getattr", false, false},
        {"torch._dynamo.eval_frame", "OptimizedModule", false, false},
        {"torch.fx.graph_module", "reduce_graph_module", false, false},
        {"os", "system", false, false},
        {"torch", "no_such_name", false, false},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        psd_global global = {
            .module = {(const uint8_t *)rows[i].module, strlen(rows[i].module)},
            .name = {(const uint8_t *)rows[i].name, strlen(rows[i].name)}};
        psd_torch_recognise(&global);
        CHECK_UINT(psd_torch_is_plain(&global, false), rows[i].plain);
        CHECK_UINT(psd_torch_is_plain(&global, true), rows[i].when_called);
    }
}

/* ---------------------------------------------------------------- memory */

static void
test_every_failing_request(void)
{
    const psd_span program =
        PSD_LITERAL("(" TENSOR CALL("_rebuild_parameter", TENSOR TRUE_ HOOKS) PARAMETER
                    "(" TENSOR "tR(" FALSE_ FALSE_ "Ntb"
                    "ctorch\nFloatTensor\n)R" WINDOW
                    "b" PERSID("Vstorage\nctorch\nByteStorage\nI77\nVcpu\nI1\n") "t.");
    check_every_failing_request(program);
    /* Room is taken for 64 tensors at first; the storage by itself is one more. */
    psd_span many =
        repeat(PSD_LITERAL("(" PERSID("Vstorage\nctorch\nByteStorage\nI77\nVcpu\nI1\n")
                               SIX "q\x01"),
               PSD_LITERAL(V2("h\x01" I("0") TWO_BY_THREE)), 64, PSD_LITERAL("t."));
    modelling m;
    model(&m, many);
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.tensor_count, 65);
    CHECK_UINT(m.model.tensors[64].flags, PSD_TENSOR_STORAGE);
    finish_model(&m);
    check_every_failing_request(many);
    free((void *)many.data);
}

static void
test_every_failing_page(void)
{
    check_every_failing_page(PSD_LITERAL(
        "(" PERSID("Vstorage\nctorch\nByteStorage\nI77\nVcpu\nI1\n") TENSOR "t."));
}

int
main(void)
{
    RUN(test_rebuild_tensor);
    RUN(test_rebuild_tensor_v2);
    RUN(test_metadata);
    RUN(test_metadata_of_many_entries);
    RUN(test_rebuild_tensor_v3);
    RUN(test_every_dtype_by_v3);
    RUN(test_every_storage_class);
    RUN(test_rebuild_parameter);
    RUN(test_rebuild_parameter_with_state);
    RUN(test_parameter_by_its_class);
    RUN(test_tensors_filled_by_build);
    RUN(test_tensors_with_attributes);
    RUN(test_what_stays_a_call);
    RUN(test_meta_tensors);
    RUN(test_device_tensors);
    RUN(test_forms_of_sizes);
    RUN(test_scalars_and_single_indices);
    RUN(test_empty_tensors);
    RUN(test_expanded_tensors);
    RUN(test_the_last_element_of_a_storage);
    RUN(test_rank_64);
    RUN(test_what_a_storage_tells);
    RUN(test_equal_keys_are_one_storage);
    RUN(test_the_largest_sizes);
    RUN(test_forms_of_locations);
    RUN(test_integer_keys);
    RUN(test_many_storages);
    RUN(test_keys_that_count);
    RUN(test_where_a_storage_is_named);
    RUN(test_references_stay);
    RUN(test_a_pool_without_torch);
    RUN(test_plain_names);
    RUN(test_every_failing_request);
    RUN(test_every_failing_page);
    return check_report();
}
