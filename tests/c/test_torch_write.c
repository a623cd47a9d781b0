/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors on their way out: what they are lowered to, byte for byte, and that
 * reading it again gives the same.
 */
#include "torch_kit.h"

/* ---------------------------------------------------------------- a model by hand */

enum { TENSORS_MOST = 8 };

/* What is to be written; storages and tensors are told before set_up(). */
typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_pool pool;
    psd_storage storages[TENSORS_MOST];
    psd_tensor tensors[TENSORS_MOST];
    psd_ref refs[TENSORS_MOST]; /* of the tensors */
    psd_model model;
    psd_ref root;
    psd_dialect dialect;
    psd_buffer program;
    psd_error err;
    psd_status status;
} writing;

static const int64_t two[] = {2, 1};                /* shape (2,), strides (1,) */
static const int64_t two_by_three[] = {2, 3, 3, 1}; /* (2, 3), (3, 1) */

static psd_storage
storage_of(psd_dtype dtype, uint64_t size)
{
    return (psd_storage){
        .size = size, .dtype = (uint8_t)dtype, .untyped = dtype == PSD_DTYPE_NONE};
}

static psd_tensor
tensor_of(psd_dtype dtype, uint32_t storage, const int64_t *numbers, unsigned rank)
{
    psd_tensor t = {.shape = numbers,
                    .strides = numbers + rank,
                    .storage = storage,
                    .dtype = (uint8_t)dtype,
                    .rank = (uint8_t)rank};
    t.numel = 1;
    for (unsigned i = 0; i < rank; i++) {
        t.numel *= (uint64_t)numbers[i];
    }
    return t;
}

/* Each tensor twice in one list, so that identity has something to keep. */
static void
set_up(writing *w, uint32_t storages, uint32_t tensors, uint64_t max_values,
       unsigned long fail_at)
{
    w->heap = (check_heap){.fail_at = fail_at};
    psd_arena_init(&w->arena, check_alloc(&w->heap));
    psd_pool_init(&w->pool, &w->arena, max_values);
    psd_buffer_init(&w->program, check_alloc(&w->heap));
    w->status = PSD_NO_MEMORY;
    psd_ref items[2 * TENSORS_MOST];
    for (uint32_t i = 0; i < tensors; i++) {
        w->refs[i] = psd_new_none(&w->pool);
        if (w->refs[i] == 0) {
            return;
        }
        psd_value *value = psd_value_at(&w->pool, w->refs[i]);
        value->kind = PSD_KIND_TENSOR;
        value->as.index = i;
        items[i] = items[tensors + i] = w->refs[i];
    }
    w->root = psd_new_items(&w->pool, PSD_KIND_LIST, items, 2 * tensors);
    w->model = (psd_model){.storages = w->storages,
                           .tensors = w->tensors,
                           .storage_count = storages,
                           .tensor_count = tensors};
    w->status = w->root == 0 ? PSD_NO_MEMORY : PSD_OK;
}

static void
write_all(writing *w)
{
    if (w->status == PSD_OK) {
        w->status = psd_torch_write(&w->pool, w->root, &w->model, w->dialect, &w->err);
    }
    if (w->status == PSD_OK) {
        w->status = psd_pickle_write(&w->pool, w->root, &w->program, &w->err);
    }
}

static void
tear_down(writing *w)
{
    psd_buffer_clear(&w->program);
    psd_pool_clear(&w->pool);
    psd_arena_clear(&w->arena);
    CHECK_UINT(w->heap.live, 0);
}

/* ---------------------------------------------------------------- and read again */

static void
check_same_tensor(const psd_tensor *t, const psd_tensor *e)
{
    CHECK_UINT(t->dtype, e->dtype);
    CHECK_UINT(t->rank, e->rank);
    CHECK_UINT(t->numel, e->numel);
    CHECK_UINT(t->flags, e->flags);
    CHECK(t->offset == e->offset);
    CHECK((t->state != 0) == (e->state != 0));
    for (unsigned i = 0; i < e->rank && i < t->rank; i++) {
        CHECK(t->shape[i] == e->shape[i]);
        CHECK(t->strides[i] == e->strides[i]);
    }
}

static void
check_read_again(const writing *w)
{
    CHECK(w->status == PSD_OK);
    if (w->status != PSD_OK) {
        return;
    }
    modelling m;
    model(&m, psd_buffer_span(&w->program));
    CHECK(m.status == PSD_OK);
    const psd_value *root = root_of(&m);
    uint32_t count = w->model.tensor_count;
    CHECK_UINT(root->count, 2 * count);
    for (uint32_t i = 0; i < count && m.status == PSD_OK; i++) {
        CHECK(root->as.items[i] == root->as.items[count + i]);
        const psd_value *value = psd_value_at(&m.r.pool, root->as.items[i]);
        CHECK(value->kind == PSD_KIND_TENSOR);
        if (value->kind != PSD_KIND_TENSOR) {
            continue;
        }
        const psd_tensor *t = &m.model.tensors[value->as.index];
        check_same_tensor(t, &w->tensors[i]);
        if ((t->flags & PSD_TENSOR_META) != 0) {
            CHECK_UINT(t->storage, PSD_NO_STORAGE);
            continue;
        }
        const psd_storage *s = &m.model.storages[t->storage];
        const psd_storage *e = &w->storages[w->tensors[i].storage];
        char text[16];
        int size = snprintf(text, sizeof text, "%u", w->tensors[i].storage);
        CHECK(psd_span_equal(s->key, (psd_span){(uint8_t *)text, (size_t)size}));
        CHECK(psd_span_equal(s->location, PSD_LITERAL("cpu")));
        CHECK_UINT(s->size, e->size);
    }
    finish_model(&m);
}

static void
check_round(writing *w, uint32_t storages, uint32_t tensors)
{
    set_up(w, storages, tensors, 10000, 0);
    write_all(w);
    check_read_again(w);
    tear_down(w);
}

/* One tensor of two items, all else as given. */
static void
check_one(psd_dtype dtype, psd_storage storage, unsigned flags)
{
    writing w = {0};
    w.storages[0] = storage;
    w.tensors[0] = tensor_of(dtype, 0, two, 1);
    w.tensors[0].flags = (uint8_t)flags;
    check_round(&w, 1, 1);
}

static void
test_every_dtype(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        uint64_t size = 2u * psd_dtype_row((psd_dtype)i)->size;
        check_one((psd_dtype)i, storage_of((psd_dtype)i, size), 0);
        check_one((psd_dtype)i, storage_of(PSD_DTYPE_NONE, size), 0);
        check_one((psd_dtype)i, storage_of(PSD_DTYPE_UINT8, size + 1), 0);
    }
}

static void
test_every_flag(void)
{
    static const unsigned flags[] = {
        PSD_TENSOR_REQUIRES_GRAD,
        PSD_TENSOR_PARAMETER,
        PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD,
        PSD_TENSOR_CONJ,
        PSD_TENSOR_NEG,
        PSD_TENSOR_CONJ | PSD_TENSOR_NEG | PSD_TENSOR_PARAMETER,
    };
    for (size_t i = 0; i < LENGTH(flags); i++) {
        check_one(PSD_DTYPE_COMPLEX64, storage_of(PSD_DTYPE_COMPLEX64, 16), flags[i]);
        check_one(PSD_DTYPE_COMPLEX32, storage_of(PSD_DTYPE_COMPLEX32, 8), flags[i]);
    }
}

static void
test_shapes(void)
{
    static int64_t ones[128];
    static const int64_t numbers[] = {0, 5, 5, 1};     /* empty */
    static const int64_t expanded[] = {1000, 7, 0, 0}; /* strides 0 */
    static const int64_t turned[] = {3, 2, 1, 3};      /* transposed */
    for (size_t i = 0; i < LENGTH(ones); i++) {
        ones[i] = 1;
    }
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_INT64, 80);
    w.tensors[0] = tensor_of(PSD_DTYPE_INT64, 0, ones, 0);
    w.tensors[0].offset = 9;
    w.tensors[1] = tensor_of(PSD_DTYPE_INT64, 0, numbers, 2);
    w.tensors[2] = tensor_of(PSD_DTYPE_INT64, 0, expanded, 2);
    w.tensors[2].offset = 3;
    w.tensors[3] = tensor_of(PSD_DTYPE_INT64, 0, turned, 2);
    w.tensors[4] = tensor_of(PSD_DTYPE_INT64, 0, ones, 64);
    check_round(&w, 1, 5);
}

/* Tensors of one storage share one persistent id; of two dtypes, bytes. */
static void
test_shared_and_mixed_storages(void)
{
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
    w.storages[1] = storage_of(PSD_DTYPE_FLOAT32, 24);
    w.tensors[0] = tensor_of(PSD_DTYPE_FLOAT32, 0, two_by_three, 2);
    w.tensors[1] = tensor_of(PSD_DTYPE_FLOAT32, 0, two, 1);
    w.tensors[1].offset = 4;
    w.tensors[2] = tensor_of(PSD_DTYPE_FLOAT32, 1, two_by_three, 2);
    w.tensors[3] = tensor_of(PSD_DTYPE_INT16, 1, two, 1);
    w.tensors[3].offset = 10;
    set_up(&w, 2, 4, 10000, 0);
    write_all(&w);
    check_read_again(&w);
    modelling m;
    model(&m, psd_buffer_span(&w.program));
    CHECK_UINT(m.model.storage_count, 2);
    CHECK(!m.model.storages[0].untyped);
    CHECK(m.model.storages[1].untyped);
    unsigned persids = 0;
    for (psd_ref ref = 1; ref <= m.r.pool.count; ref++) {
        persids += psd_kind_of(&m.r.pool, ref) == PSD_KIND_STORAGE;
    }
    CHECK_UINT(persids, 2);
    finish_model(&m);
    tear_down(&w);
}

/* Bytes that no one gave a type are written as such, though uint8 would do. */
static void
test_an_untyped_storage_of_bytes(void)
{
    writing w = {0};
    w.storages[0] = (psd_storage){.size = 2, .dtype = PSD_DTYPE_UINT8, .untyped = true};
    w.tensors[0] = tensor_of(PSD_DTYPE_UINT8, 0, two, 1);
    set_up(&w, 1, 1, 10000, 0);
    write_all(&w);
    check_read_again(&w);
    modelling m;
    model(&m, psd_buffer_span(&w.program));
    CHECK(m.model.storages[0].untyped);
    finish_model(&m);
    tear_down(&w);
}

static void
test_a_tensor_by_itself(void)
{
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_INT8, 2);
    w.tensors[0] = tensor_of(PSD_DTYPE_INT8, 0, two, 1);
    psd_arena_init(&w.arena, check_alloc(&w.heap));
    psd_pool_init(&w.pool, &w.arena, 10000);
    psd_buffer_init(&w.program, check_alloc(&w.heap));
    w.root = psd_new_none(&w.pool);
    psd_value_at(&w.pool, w.root)->kind = PSD_KIND_TENSOR;
    psd_value_at(&w.pool, w.root)->as.index = 0;
    w.model = (psd_model){.storages = w.storages,
                          .tensors = w.tensors,
                          .storage_count = 1,
                          .tensor_count = 1};
    write_all(&w);
    CHECK(w.status == PSD_OK);
    modelling m;
    model(&m, psd_buffer_span(&w.program));
    CHECK(m.status == PSD_OK);
    CHECK(root_of(&m)->kind == PSD_KIND_TENSOR);
    finish_model(&m);
    tear_down(&w);
}

static void
test_meta_tensors(void)
{
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
    w.tensors[0] = tensor_of(PSD_DTYPE_FLOAT16, PSD_NO_STORAGE, two_by_three, 2);
    w.tensors[0].flags = PSD_TENSOR_META;
    w.tensors[1] = tensor_of(PSD_DTYPE_UINT16, PSD_NO_STORAGE, two, 1);
    w.tensors[1].flags =
        PSD_TENSOR_META | PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD;
    w.tensors[2] = tensor_of(PSD_DTYPE_FLOAT32, 0, two, 1);
    check_round(&w, 1, 3);
}

/* ---------------------------------------------------------------- attributes */

static void
check_attributes(unsigned flags)
{
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
    w.tensors[0] = tensor_of(PSD_DTYPE_FLOAT32, 0, two_by_three, 2);
    w.tensors[0].flags = (uint8_t)flags;
    set_up(&w, 1, 1, 10000, 0);
    psd_ref pair[2] = {
        psd_new_text(&w.pool, PSD_KIND_TEXT, PSD_LITERAL("_is_buffer")),
        psd_new_bool(&w.pool, (flags & PSD_TENSOR_BUFFER) != 0),
    };
    w.tensors[0].state = psd_new_items(&w.pool, PSD_KIND_DICT, pair, 2);
    write_all(&w);
    check_read_again(&w);
    tear_down(&w);
}

static void
test_attributes(void)
{
    check_attributes(0);
    check_attributes(PSD_TENSOR_REQUIRES_GRAD);
    check_attributes(PSD_TENSOR_BUFFER);
    check_attributes(PSD_TENSOR_PARAMETER);
    check_attributes(PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD);
}

/* ---------------------------------------------------------------- byte for byte */

/* The pickle of {'w': two floats}, as the format's description spells it out. */
static void
test_the_smallest_checkpoint(void)
{
    static const char expected[] =
        "\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n"
        "((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"
        "0X\x03\0\0\0cpuK\x02tQK\0(K\x02t(K\x01t\x89"
        "ccollections\nOrderedDict\n)RtRs.";
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 8);
    w.tensors[0] = tensor_of(PSD_DTYPE_FLOAT32, 0, two, 1);
    set_up(&w, 1, 1, 10000, 0);
    psd_ref pair[2] = {psd_new_text(&w.pool, PSD_KIND_TEXT, PSD_LITERAL("w")),
                       w.refs[0]};
    w.root = psd_new_items(&w.pool, PSD_KIND_DICT, pair, 2);
    write_all(&w);
    CHECK(w.status == PSD_OK);
    CHECK_UINT(sizeof expected - 1, 136);
    psd_span found = psd_buffer_span(&w.program);
    /* Tuples of one and two have opcodes of their own. */
    psd_span shortest =
        PSD_LITERAL("\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n"
                    "((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"
                    "0X\x03\0\0\0cpuK\x02tQK\0K\x02\x85K\x01\x85\x89"
                    "ccollections\nOrderedDict\n)RtRs.");
    CHECK(psd_span_equal(found, (psd_span){(const uint8_t *)expected, 136}) ||
          psd_span_equal(found, shortest));
    tear_down(&w);
}

/* Hooks belong to one tensor: torch keeps the very dict that it is given. */
static void
test_hooks_are_never_shared(void)
{
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
    for (unsigned i = 0; i < 3; i++) {
        w.tensors[i] = tensor_of(PSD_DTYPE_FLOAT32, 0, two, 1);
        w.tensors[i].flags = PSD_TENSOR_PARAMETER;
    }
    set_up(&w, 1, 3, 10000, 0);
    write_all(&w);
    modelling m;
    model(&m, psd_buffer_span(&w.program));
    CHECK(m.status == PSD_OK);
    unsigned dicts = 0;
    for (psd_ref ref = 1; ref <= m.r.pool.count; ref++) {
        dicts += psd_kind_of(&m.r.pool, ref) == PSD_KIND_CALL;
    }
    CHECK_UINT(dicts, 6); /* one for each tensor and one for each Parameter */
    finish_model(&m);
    tear_down(&w);
}

/* The same model gives the same bytes. */
static void
test_the_same_bytes_each_time(void)
{
    uint8_t first[4096];
    size_t size = 0;
    for (unsigned round = 0; round < 2; round++) {
        writing w = {0};
        w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
        w.storages[1] = storage_of(PSD_DTYPE_UINT16, 4);
        w.tensors[0] = tensor_of(PSD_DTYPE_FLOAT32, 0, two_by_three, 2);
        w.tensors[1] = tensor_of(PSD_DTYPE_UINT16, 1, two, 1);
        w.tensors[2] = tensor_of(PSD_DTYPE_FLOAT32, 0, two, 1);
        set_up(&w, 2, 3, 10000, 0);
        write_all(&w);
        CHECK(w.program.size < sizeof first);
        if (round == 0) {
            size = w.program.size;
            memcpy(first, w.program.data, size);
        }
        CHECK(psd_span_equal(psd_buffer_span(&w.program), (psd_span){first, size}));
        tear_down(&w);
    }
}

/* ---------------------------------------------------------------- what was read */

/* The same in every number, however it is spelled. */
static void
check_same(const modelling *a, const modelling *b, psd_ref left, psd_ref right)
{
    const psd_value *v = psd_value_at(&a->r.pool, left);
    const psd_value *w = psd_value_at(&b->r.pool, right);
    CHECK_UINT(v->kind, w->kind);
    if (v->kind != PSD_KIND_TENSOR || w->kind != PSD_KIND_TENSOR) {
        return;
    }
    const psd_tensor *t = &a->model.tensors[v->as.index];
    const psd_tensor *e = &b->model.tensors[w->as.index];
    check_same_tensor(t, e);
    CHECK_UINT(t->layout, e->layout);
    CHECK((t->type != 0) == (e->type != 0));
    if (t->layout == PSD_LAYOUT_STRIDED) {
        const psd_quantizer *q = t->more.quantizer, *p = e->more.quantizer;
        CHECK((q == NULL) == (p == NULL));
        CHECK(q == NULL || (q->scheme == p->scheme && q->axis == p->axis &&
                            q->zero_point == p->zero_point &&
                            memcmp(&q->scale, &p->scale, sizeof q->scale) == 0));
        if (q != NULL && q->scales != 0) {
            check_same(a, b, q->scales, p->scales);
            check_same(a, b, q->zero_points, p->zero_points);
        }
        return;
    }
    const psd_composite *c = t->more.composite, *d = e->more.composite;
    CHECK_UINT(c->count, d->count);
    CHECK_UINT(c->nbytes, d->nbytes);
    CHECK(c->coalesced == d->coalesced);
    for (uint32_t i = 0; i < c->count && i < d->count; i++) {
        CHECK(psd_span_equal(c->parts[i].name, d->parts[i].name));
        check_same(a, b, c->parts[i].tensor, d->parts[i].tensor);
    }
}

/* Read, written and read again: the root is the same tensor. */
static void
check_journey(psd_span program, int line)
{
    modelling first, before, after;
    psd_buffer written;
    psd_error err = {0};
    model(&first, program);
    model(&before, program); /* which keeps its tensors, to be compared with */
    psd_buffer_init(&written, check_alloc(&first.r.heap));
    psd_status status = first.status;
    CHECK(status == PSD_OK);
    CHECK(root_of(&first)->kind == PSD_KIND_TENSOR);
    if (status == PSD_OK) {
        status = psd_torch_write(&first.r.pool, first.r.pickle.root, &first.model,
                                 PSD_DIALECT_ZIP, &err);
    }
    if (status == PSD_OK) {
        status = psd_pickle_write(&first.r.pool, first.r.pickle.root, &written, &err);
    }
    CHECK(status == PSD_OK);
    model(&after, psd_buffer_span(&written));
    CHECK(after.status == PSD_OK);
    unsigned failed = check_failed;
    if (after.status == PSD_OK) {
        check_same(&before, &after, before.r.pickle.root, after.r.pickle.root);
    }
    if (status != PSD_OK || after.status != PSD_OK || failed != check_failed) {
        (void)fprintf(stderr, "  line %d: %s\n", line,
                      status != PSD_OK         ? err.sentence
                      : after.status != PSD_OK ? after.r.err.sentence
                                               : "another tensor");
    }
    finish_model(&after);
    finish_model(&before);
    psd_buffer_clear(&written);
    finish_model(&first);
}

#define JOURNEY(program) check_journey(PSD_LITERAL(program "."), __LINE__)

#define OF(class, key, numel, size, stride) \
    V2(STORAGE(class, key, numel) I("0") size stride)
#define ONE(n) "(I" n "\nt"
#define TWO(n, m) "(I" n "\nI" m "\nt"
#define LAYOUT(name) "ctorch.serialization\n_get_layout\n(Vtorch." name "\ntR"
#define INDICES OF("LongStorage", "i", "4", TWO("2", "2"), TWO("2", "1"))
#define VALUES OF("FloatStorage", "v", "2", ONE("2"), ONE("1"))
#define COO(more)                  \
    CALL("_rebuild_sparse_tensor", \
         LAYOUT("sparse_coo") TUPLE(INDICES VALUES TWO("3", "4") more))

static void
test_composites_that_were_read(void)
{
    JOURNEY(COO(""));
    JOURNEY(COO(TRUE_));
    JOURNEY(CALL(
        "_rebuild_sparse_tensor",
        LAYOUT("sparse_csr") TUPLE(OF("LongStorage", "c", "4", ONE("4"), ONE("1")) OF(
            "LongStorage", "p", "2", ONE("2"), ONE("1")) VALUES TWO("3", "4"))));
    /* As TorchScript wrote it. */
    JOURNEY(CALL("_rebuild_sparse_tensor",
                 I("1") TWO("3", "4") TRUE_ INDICES VALUES HOOKS));
    JOURNEY(CALL("_rebuild_nested_tensor",
                 OF("FloatStorage", "b", "6", ONE("6"), ONE("1"))
                     INDICES INDICES OF("LongStorage", "o", "2", ONE("2"), ONE("1"))));
    JOURNEY("ctorch.nested._internal.nested_tensor\n_rebuild_njt\n((Vvalues\n" VALUES
            "Voffsets\n" OF("LongStorage", "o", "2", ONE("2"), ONE("1")) "dtR");
    JOURNEY("ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n"
            "_rebuild_wrapper_subclass\nca.b\nC\n(ca.b\nC\nctorch\nfloat32\n" TWO(
                "3", "4") TWO("4", "1") "I0\nNN" FALSE_ "t(V_data\n" VALUES "dtR");
    JOURNEY(CALL("_rebuild_parameter", COO("") TRUE_ HOOKS));
    JOURNEY(CALL("_rebuild_parameter_with_state", COO("") FALSE_ HOOKS "(d"));
    /* On another device it is no Parameter. */
    JOURNEY(CALL("_rebuild_device_tensor_from_cpu_tensor",
                 COO("") "ctorch\nfloat32\nVxla\n" FALSE_));
}

#define QUINT STORAGE("QUInt8Storage", "q", "6") I("0") TWO_BY_THREE
#define CHANNELS(scales, zeros) "(ctorch\nper_channel_affine\n" scales zeros "I0\nt"

static void
test_quantized_ones_that_were_read(void)
{
    JOURNEY(CALL("_rebuild_qtensor",
                 QUINT "(ctorch\nper_tensor_affine\nF0.5\nI3\nt" TRUE_ HOOKS));
    JOURNEY(CALL("_rebuild_qtensor",
                 QUINT CHANNELS(OF("DoubleStorage", "s", "2", ONE("2"), ONE("1")),
                                OF("LongStorage", "z", "2", ONE("2"), ONE("1")))
                     FALSE_ HOOKS));
    JOURNEY(CALL("_rebuild_qtensor",
                 QUINT CHANNELS(OF("FloatStorage", "s", "2", ONE("2"), ONE("1")),
                                OF("FloatStorage", "z", "2", ONE("2"), ONE("1")))
                     FALSE_ HOOKS));
    JOURNEY(CALL("_rebuild_qtensor",
                 QUINT CHANNELS("(F0.5\nI2\nl", "(I0\nI-1\nl") FALSE_ HOOKS));
    /* The eight parts of torch 1.2. */
    JOURNEY(CALL("_rebuild_qtensor", QUINT "F0.5\nI3\n" FALSE_ HOOKS));
    JOURNEY(CALL("_rebuild_qtensor",
                 STORAGE("QUInt4x2Storage", "q", "4") I("1") ONE("6")
                     ONE("1") "(ctorch\nper_tensor_affine\nF0.5\nI3\nt" FALSE_ HOOKS));
    JOURNEY(CALL("_rebuild_parameter",
                 CALL("_rebuild_qtensor",
                      QUINT "(ctorch\nper_tensor_affine\nF0.5\nI3\nt" FALSE_ HOOKS)
                     FALSE_ HOOKS));
}

static void
test_storages_that_were_read(void)
{
    JOURNEY(STORAGE("LongStorage", "0", "5"));
    JOURNEY(STORAGE("QUInt4x2Storage", "0", "5"));
    JOURNEY(STORAGE("FloatStorage", "0", "0"));
    JOURNEY(UNTYPED("0", "7"));
}

/* Without bytes there is no storage that could be named: shape and dtype are kept. */
static void
check_bare_without_bytes(psd_span program, bool lose)
{
    modelling m, after;
    psd_buffer written;
    psd_error err = {0};
    model(&m, program);
    CHECK(m.status == PSD_OK);
    if (lose) {
        m.model.storages[0].place = PSD_PLACE_LOST;
        psd_model_lose(&m.r.pool, &m.model);
    }
    psd_buffer_init(&written, check_alloc(&m.r.heap));
    CHECK(psd_torch_write(&m.r.pool, m.r.pickle.root, &m.model, PSD_DIALECT_ZIP,
                          &err) == PSD_OK);
    CHECK(psd_pickle_write(&m.r.pool, m.r.pickle.root, &written, &err) == PSD_OK);
    model(&after, psd_buffer_span(&written));
    CHECK(after.status == PSD_OK && root_of(&after)->kind == PSD_KIND_TENSOR);
    CHECK_UINT(after.model.storage_count, 0);
    CHECK_UINT(after.model.tensors[0].flags, PSD_TENSOR_META);
    CHECK_UINT(after.model.tensors[0].numel, 5);
    finish_model(&after);
    psd_buffer_clear(&written);
    finish_model(&m);
}

static void
test_storages_without_bytes(void)
{
    check_bare_without_bytes(
        PSD_LITERAL(STORAGE_AT("torch", "FloatStorage", "0", "meta", "5") "."), false);
    check_bare_without_bytes(PSD_LITERAL(STORAGE("LongStorage", "0", "5") "."), true);
}

/* Its class would tell another dtype's tensors wrongly, so it becomes a tensor as well. */
static void
test_a_storage_that_a_tensor_sees_otherwise(void)
{
    modelling m, after;
    psd_buffer written;
    psd_error err = {0};
    model(&m,
          PSD_LITERAL(TUPLE(STORAGE("LongStorage", "0", "8") CALL(
              "_rebuild_tensor_v3", STORAGE("LongStorage", "0", "8") I("3") ONE("2")
                                        ONE("1") FALSE_ HOOKS "ctorch\nint32\n")) "."));
    CHECK(m.status == PSD_OK);
    psd_buffer_init(&written, check_alloc(&m.r.heap));
    CHECK(psd_torch_write(&m.r.pool, m.r.pickle.root, &m.model, PSD_DIALECT_ZIP,
                          &err) == PSD_OK);
    CHECK(psd_pickle_write(&m.r.pool, m.r.pickle.root, &written, &err) == PSD_OK);
    model(&after, psd_buffer_span(&written));
    CHECK(after.status == PSD_OK && root_of(&after)->count == 2);
    for (uint32_t i = 0; i < 2 && after.status == PSD_OK; i++) {
        const psd_value *v = psd_value_at(&after.r.pool, root_of(&after)->as.items[i]);
        CHECK(v->kind == PSD_KIND_TENSOR);
        const psd_tensor *t = &after.model.tensors[v->as.index];
        CHECK_UINT(t->dtype, i == 0 ? PSD_DTYPE_INT64 : PSD_DTYPE_INT32);
        CHECK_UINT(t->numel, i == 0 ? 8 : 2);
    }
    finish_model(&after);
    psd_buffer_clear(&written);
    finish_model(&m);
}

static void
test_dense_ones_that_were_read(void)
{
    JOURNEY(TENSOR);
    JOURNEY(CALL("_rebuild_tensor", SIX I("0") TWO_BY_THREE));
    JOURNEY("ctorch\nFloatTensor\n)R(" SIX I("0") TWO_BY_THREE "tb");
    JOURNEY("ctorch.nn.parameter\nParameter\n(" TENSOR "tR");
    JOURNEY("ctorch.nn.parameter\nParameter\n(" TENSOR "tR(" FALSE_ FALSE_ "Ntb");
    JOURNEY(CALL("_rebuild_device_tensor_from_cpu_tensor",
                 TENSOR "ctorch\nfloat32\nVxla\n" TRUE_));
    JOURNEY(
        "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n"
        "ca.b\nC\n(" SIX I("0") TWO_BY_THREE FALSE_ HOOKS "t(Vk\nI1\ndtR");
    JOURNEY(CALL("_rebuild_meta_tensor_no_storage",
                 "ctorch\nfloat32\n" TWO_BY_THREE FALSE_));
}

/* ---------------------------------------------------------------- faults of the host */

static void
check_argument(writing *w, uint32_t storages, uint32_t tensors, const char *sentence)
{
    set_up(w, storages, tensors, 10000, 0);
    write_all(w);
    CHECK(w->status == PSD_ARGUMENT);
    CHECK(strcmp(w->err.sentence, sentence) == 0);
    tear_down(w);
}

static void
test_tensors_without_a_storage(void)
{
    static const char none[] = "a tensor without a storage";
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
    w.tensors[0] = tensor_of(PSD_DTYPE_FLOAT32, PSD_NO_STORAGE, two, 1);
    check_argument(&w, 1, 1, none);
    w.tensors[0].storage = 1;
    check_argument(&w, 1, 1, none);
}

/* Its storage's class is all that tells a quantized tensor's dtype. */
static void
test_quantized_tensors_on_shared_storages(void)
{
    const psd_quantizer q = {.scheme = PSD_PER_TENSOR, .scale = 1};
    writing w = {0};
    w.storages[0] = storage_of(PSD_DTYPE_QUINT8, 2);
    w.tensors[0] = tensor_of(PSD_DTYPE_QUINT8, 0, two, 1);
    w.tensors[0].more.quantizer = &q;
    w.tensors[1] = tensor_of(PSD_DTYPE_UINT8, 0, two, 1);
    check_argument(&w, 1, 2,
                   "a quantized tensor shares its storage with one of another dtype");
}

/* ---------------------------------------------------------------- running out */

static void
fill_all_kinds(writing *w)
{
    w->storages[0] = storage_of(PSD_DTYPE_FLOAT32, 24);
    w->storages[1] = storage_of(PSD_DTYPE_UINT16, 4);
    w->tensors[0] = tensor_of(PSD_DTYPE_FLOAT32, 0, two_by_three, 2);
    w->tensors[1] = tensor_of(PSD_DTYPE_UINT16, 1, two, 1);
    w->tensors[1].flags = PSD_TENSOR_PARAMETER | PSD_TENSOR_NEG;
    w->tensors[2] = tensor_of(PSD_DTYPE_INT8, PSD_NO_STORAGE, two, 1);
    w->tensors[2].flags = PSD_TENSOR_META;
}

static void
test_every_failing_request(void)
{
    unsigned long n = 0;
    psd_status status;
    do {
        writing w = {0};
        fill_all_kinds(&w);
        set_up(&w, 2, 3, 10000, ++n);
        write_all(&w);
        status = w.status;
        CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
        tear_down(&w);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 3 && n < 1000);
}

/* The arena's pages are large: fill them so far that each taking is once the first
 * of a new page, which the host then refuses. */
static void
test_every_failing_page(void)
{
    unsigned failed = 0;
    for (size_t waste = 0; waste < 4096; waste += 8) {
        writing w = {0};
        fill_all_kinds(&w);
        set_up(&w, 2, 3, 10000, 0);
        CHECK(psd_arena_take(&w.arena, waste) != NULL);
        w.heap.fail_at = w.heap.requests + 1;
        w.status = psd_torch_write(&w.pool, w.root, &w.model, PSD_DIALECT_ZIP, &w.err);
        CHECK(w.status == PSD_OK || w.status == PSD_NO_MEMORY);
        failed += w.status != PSD_OK;
        /* Either it failed or all of it is there. */
        w.heap.fail_at = 0;
        if (w.status == PSD_OK) {
            w.status = psd_pickle_write(&w.pool, w.root, &w.program, &w.err);
            check_read_again(&w);
        }
        tear_down(&w);
    }
    CHECK(failed > 50);
}

/* With every bound between too few values and enough. */
static void
test_too_many_values(void)
{
    psd_status status = PSD_LIMIT;
    uint64_t most = 4; /* the tensors and their list */
    for (; status != PSD_OK && most < 1000; most++) {
        writing w = {0};
        fill_all_kinds(&w);
        set_up(&w, 2, 3, most, 0);
        write_all(&w);
        status = w.status;
        CHECK(status == PSD_OK || status == PSD_LIMIT);
        CHECK(status == PSD_OK ||
              strcmp(w.err.sentence, "too many values for one pickle") == 0);
        tear_down(&w);
    }
    CHECK(status == PSD_OK && most > 20);
}

static void
test_no_tensors_at_all(void)
{
    writing w = {0};
    set_up(&w, 0, 0, 10000, 0);
    write_all(&w);
    CHECK(w.status == PSD_OK);
    CHECK(psd_span_equal(psd_buffer_span(&w.program), PSD_LITERAL("\x80\x02].")));
    tear_down(&w);
}

int
main(void)
{
    RUN(test_every_dtype);
    RUN(test_every_flag);
    RUN(test_shapes);
    RUN(test_shared_and_mixed_storages);
    RUN(test_an_untyped_storage_of_bytes);
    RUN(test_a_tensor_by_itself);
    RUN(test_meta_tensors);
    RUN(test_attributes);
    RUN(test_the_smallest_checkpoint);
    RUN(test_hooks_are_never_shared);
    RUN(test_the_same_bytes_each_time);
    RUN(test_composites_that_were_read);
    RUN(test_quantized_ones_that_were_read);
    RUN(test_storages_that_were_read);
    RUN(test_storages_without_bytes);
    RUN(test_a_storage_that_a_tensor_sees_otherwise);
    RUN(test_dense_ones_that_were_read);
    RUN(test_tensors_without_a_storage);
    RUN(test_quantized_tensors_on_shared_storages);
    RUN(test_every_failing_request);
    RUN(test_every_failing_page);
    RUN(test_too_many_values);
    RUN(test_no_tensors_at_all);
    return check_report();
}
