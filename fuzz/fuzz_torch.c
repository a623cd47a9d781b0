/* SPDX-License-Identifier: Apache-2.0
 *
 * The torch pass alone: the first byte chooses how persistent ids speak, the
 * second what is lost and how the rest is written; what follows is a pickle, changed by
 * whole calls.  What the pass accepts keeps every window within its
 * storage, every part a tensor; storages can be lost, and the rest be written.
 */
#include "opcodes.h"

typedef struct {
    psd_arena arena;
    psd_pool pool;
    psd_pickle pickle;
    psd_model model;
} fuzz_run;

/* Stands for a stream within a pickle: bytes that count themselves. */
static psd_status
embedded(void *ctx, psd_span stream, psd_storage *storage, bool *is_storage,
         psd_error *err)
{
    (void)ctx;
    if (stream.size > 0 && stream.data[0] == 0xff) {
        return psd_fail(err, PSD_STREAM, PSD_NOWHERE, "a stream that is none");
    }
    *is_storage = stream.size > 1 && (stream.data[0] & 1) != 0;
    if (*is_storage) {
        storage->dtype = PSD_DTYPE_UINT8;
        storage->numel = storage->size = stream.size - 1;
        storage->place = PSD_PLACE_MEMORY;
        storage->at.memory = stream.data + 1;
    }
    return PSD_OK;
}

/* What the other members of a tar have told before its pickle is run. */
static void
tell_of_tar(psd_model *model)
{
    static const int64_t numbers[2] = {8, 1};
    psd_storage storage = {.key = PSD_LITERAL("1"),
                           .numel = 8,
                           .size = 32,
                           .parent = PSD_NO_STORAGE,
                           .dtype = PSD_DTYPE_FLOAT32,
                           .place = PSD_PLACE_FILE};
    psd_tensor tensor = {.shape = numbers,
                         .strides = numbers + 1,
                         .numel = 8,
                         .dtype = PSD_DTYPE_FLOAT32,
                         .rank = 1};
    uint32_t number;
    PROMISE(psd_model_find_or_name(model, storage.key, &number) &&
            psd_model_add_storage(model, &storage));
    PROMISE(psd_model_add_tensor(model, &tensor) &&
            psd_names_add(&model->tensor_names, PSD_LITERAL("10"), 0));
}

static psd_status
start(fuzz_run *run, psd_alloc alloc, psd_dialect dialect, psd_span program,
      psd_error *err)
{
    psd_limits limits = fuzz_limits();
    psd_torch_source source = {.dialect = dialect, .embedded = embedded};
    psd_arena_init(&run->arena, alloc);
    psd_pool_init(&run->pool, &run->arena, limits.values);
    psd_model_init(&run->model, alloc, FUZZ_KEY);
    run->pickle = (psd_pickle){0};
    if (dialect == PSD_DIALECT_TAR) {
        tell_of_tar(&run->model);
    }
    psd_status status =
        psd_pickle_read(program, 0, &limits, FUZZ_KEY, &run->pool, &run->pickle, err);
    return status == PSD_OK ? psd_torch_read(&run->pool, run->pickle.root, &source,
                                             &limits, &run->model, err)
                            : status;
}

static void
finish(fuzz_run *run)
{
    psd_model_clear(&run->model);
    psd_pool_clear(&run->pool);
    psd_arena_clear(&run->arena);
}

static void
check_storages(const psd_model *model)
{
    for (uint32_t i = 0; i < model->storage_count; i++) {
        const psd_storage *s = &model->storages[i];
        uint64_t size = 0;
        PROMISE(s->dtype != PSD_DTYPE_NONE && s->dtype < PSD_DTYPE_COUNT);
        PROMISE(
            psd_multiply(s->numel, psd_dtype_row((psd_dtype)s->dtype)->size, &size));
        PROMISE(size == s->size);
        if (s->parent != PSD_NO_STORAGE) {
            PROMISE(s->parent < model->storage_count);
            const psd_storage *whole = &model->storages[s->parent];
            PROMISE(whole->parent == PSD_NO_STORAGE);
            PROMISE(psd_fits(s->parent_offset, s->size, whole->size));
        }
    }
}

/* Numbers that stand for storages and tensors are numbers of such. */
static void
check_values(const fuzz_run *run)
{
    for (psd_ref ref = 1; ref <= run->pool.count; ref++) {
        const psd_value *v = psd_value_at(&run->pool, ref);
        PROMISE(v->kind != PSD_KIND_STORAGE || v->as.index < run->model.storage_count);
        PROMISE(v->kind != PSD_KIND_TENSOR || v->as.index < run->model.tensor_count);
    }
}

static void
check_quantizer(const fuzz_run *run, const psd_tensor *t)
{
    const psd_quantizer *q = t->more.quantizer;
    if (q->scheme != PSD_PER_TENSOR) {
        const psd_ref told[] = {q->scales, q->zero_points};
        for (unsigned i = 0; i < 2; i++) {
            psd_kind kind = psd_kind_of(&run->pool, told[i]);
            PROMISE(kind == PSD_KIND_TENSOR || kind == PSD_KIND_LIST ||
                    kind == PSD_KIND_TUPLE);
        }
        PROMISE(q->axis >= 0 && q->axis < t->rank);
    }
}

static void
check_tensors(const fuzz_run *run)
{
    for (uint32_t i = 0; i < run->model.tensor_count; i++) {
        const psd_tensor *t = &run->model.tensors[i];
        PROMISE(t->layout < PSD_LAYOUT_COUNT && t->rank <= 64);
        PROMISE(t->dtype < PSD_DTYPE_COUNT);
        PROMISE(t->at <= run->pool.count && t->state <= run->pool.count);
        PROMISE(t->type == 0 || psd_kind_of(&run->pool, t->type) == PSD_KIND_GLOBAL);
        uint64_t bytes = psd_tensor_nbytes(t);
        if (t->layout == PSD_LAYOUT_STRIDED) {
            size_t item = psd_dtype_row((psd_dtype)t->dtype)->size;
            unsigned shared = psd_tensor_per_byte(t);
            PROMISE(shared == 1 ? bytes == t->numel * item : bytes <= t->numel);
            if (t->more.quantizer != NULL) {
                check_quantizer(run, t);
            }
        }
    }
}

/* Names are texts, in the order of modules; see psd_module. */
static void
check_modules(const fuzz_run *run)
{
    const psd_model *model = &run->model;
    for (uint32_t i = 0; i < model->module_count; i++) {
        const psd_module *m = &model->modules[i];
        PROMISE(i == 0 || model->modules[i - 1].at < m->at);
        if (m->state_dict == 0) {
            continue;
        }
        const psd_value *v = psd_value_at(&run->pool, m->state_dict);
        PROMISE(v->kind == PSD_KIND_CALL);
        const psd_call *call = v->as.call;
        for (uint32_t k = 0; k < call->item_count; k += 2) {
            psd_kind kind = psd_kind_of(&run->pool, call->items[k]);
            PROMISE(kind == PSD_KIND_TEXT || kind == PSD_KIND_STRING);
        }
    }
}

/* Bytes that turn out to be damaged: every other storage, or another half. */
static void
lose(fuzz_run *run, unsigned which)
{
    for (uint32_t i = 0; i < run->model.storage_count; i++) {
        if ((which >> i % 8 & 1) != 0) {
            run->model.storages[i].place = PSD_PLACE_LOST;
        }
    }
    psd_model_lose(&run->pool, &run->model);
    fuzz_expect_lost(&run->model);
    check_tensors(run);
}

static void
write(fuzz_run *run, psd_alloc alloc, psd_dialect dialect)
{
    psd_error err = {0};
    psd_buffer out;
    psd_buffer_init(&out, alloc);
    psd_status status =
        psd_torch_write(&run->pool, run->pickle.root, &run->model, dialect, &err);
    if (status == PSD_OK) {
        for (psd_ref ref = 1; ref <= run->pool.count; ref++) {
            PROMISE(psd_kind_of(&run->pool, ref) != PSD_KIND_TENSOR);
        }
        status = psd_pickle_write(&run->pool, run->pickle.root, &out, &err);
        PROMISE(status == PSD_OK || status == PSD_ARGUMENT || status == PSD_NO_MEMORY);
    }
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    psd_buffer_clear(&out);
}

static void
judge(psd_dialect dialect, unsigned how, psd_span program)
{
    fuzz_heap heap = {0};
    psd_alloc alloc = fuzz_alloc(&heap);
    psd_error err = {0};
    fuzz_run run;
    psd_status status = start(&run, alloc, dialect, program, &err);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    else {
        fuzz_expect_model(&run.pool, &run.model);
        check_storages(&run.model);
        check_values(&run);
        check_tensors(&run);
        check_modules(&run);
        if ((how & 1) != 0) {
            lose(&run, how >> 2);
        }
        write(&run, alloc, (how & 2) != 0 ? PSD_DIALECT_STREAM : PSD_DIALECT_ZIP);
    }
    finish(&run);
    fuzz_expect_frugal(&heap, program.size);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 2) {
        psd_dialect dialect = (psd_dialect)(data[0] % (PSD_DIALECT_PLAIN + 1));
        judge(dialect, data[1], (psd_span){data + 2, size - 2});
    }
    return 0;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_mutate_program(data, size, room, seed);
}
