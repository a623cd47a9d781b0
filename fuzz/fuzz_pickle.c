/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a pickle.  What was read can be written and read again, and then
 * writes the same bytes; it does not matter whether a tensor was read in one go;
 * what torch's pass accepts keeps every window within its storage and survives the
 * same journey.
 */
#include "opcodes.h"
#include "pickle_machine.h"

typedef struct {
    psd_arena arena;
    psd_pool pool;
    psd_pickle pickle;
    psd_model model;
} fuzz_run;

static psd_status
start(fuzz_run *run, psd_alloc alloc, psd_span program, psd_error *err)
{
    psd_limits limits = fuzz_limits();
    psd_arena_init(&run->arena, alloc);
    psd_pool_init(&run->pool, &run->arena, limits.values);
    psd_model_init(&run->model, alloc, FUZZ_KEY);
    run->pickle = (psd_pickle){0};
    return psd_pickle_read(program, 0, &limits, FUZZ_KEY, &run->pool, &run->pickle,
                           err);
}

static psd_status
find_tensors(fuzz_run *run, psd_error *err)
{
    psd_limits limits = fuzz_limits();
    psd_torch_source source = {.dialect = PSD_DIALECT_ZIP};
    return psd_torch_read(&run->pool, run->pickle.root, &source, &limits, &run->model,
                          err);
}

static void
finish(fuzz_run *run)
{
    psd_model_clear(&run->model);
    psd_pool_clear(&run->pool);
    psd_arena_clear(&run->arena);
}

/* Immutable values refer to smaller numbers only: no walk can go in circles. */
static void
expect_birth_order(const psd_pool *pool)
{
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        const psd_value *value = psd_value_at(pool, ref);
        switch (value->kind) {
        case PSD_KIND_TUPLE:
        case PSD_KIND_FROZENSET:
            for (uint32_t i = 0; i < value->count; i++) {
                PROMISE(value->as.items[i] != 0 && value->as.items[i] < ref);
            }
            break;
        case PSD_KIND_LIST:
        case PSD_KIND_SET:
        case PSD_KIND_DICT:
            for (uint32_t i = 0; i < value->count; i++) {
                PROMISE(value->as.items[i] != 0 && value->as.items[i] <= pool->count);
            }
            break;
        case PSD_KIND_CALL:
            PROMISE(value->as.call->callable < ref && value->as.call->args < ref);
            PROMISE(value->as.call->state <= pool->count);
            break;
        case PSD_KIND_PERSID: PROMISE(value->as.ref < ref); break;
        default: break;
        }
    }
}

static bool
has_set(const psd_pool *pool)
{
    for (psd_ref ref = 1; ref <= pool->count; ref++) {
        psd_kind kind = psd_kind_of(pool, ref);
        if (kind == PSD_KIND_SET || kind == PSD_KIND_FROZENSET) {
            return true;
        }
    }
    return false;
}

/* Who only looks sees at least what the machine sees. */
static void
expect_followed(const fuzz_run *run, psd_alloc alloc, psd_span program)
{
    psd_limits limits = fuzz_limits();
    psd_error err = {0};
    fuzz_run other;
    size_t walked = 0;
    bool named = false;
    psd_arena_init(&other.arena, alloc);
    psd_pool_init(&other.pool, &other.arena, limits.values);
    psd_status status = psd_pickle_follow(program, 0, &limits, FUZZ_KEY, &other.pool,
                                          &other.pickle, &walked, &err);
    PROMISE(walked <= program.size);
    for (psd_ref ref = 1; ref <= other.pool.count; ref++) {
        named = named || psd_kind_of(&other.pool, ref) == PSD_KIND_GLOBAL;
    }
    PROMISE(!named || psd_pickle_may_name(program));
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    if (run->pickle.size > 0) { /* it was accepted */
        PROMISE(status == PSD_OK && other.pickle.size == run->pickle.size);
        PROMISE(other.pool.count == run->pool.count);
        PROMISE(psd_pickle_measure(program) == run->pickle.size);
    }
    psd_pool_clear(&other.pool);
    psd_arena_clear(&other.arena);
}

/* Put an opcode that does nothing between each two marks.  False of a program whose frames
 * or protocol that would change, or that is none. */
static bool
spell_otherwise(psd_span program, psd_buffer *other)
{
    static const uint8_t nothing[] = {PSD_OP_PROTO, 2};
    const uint8_t *at = program.data, *end = program.data + program.size;
    while (at < end && *at != PSD_OP_STOP) {
        const uint8_t *next = psd_opcode_end(at, end);
        if (next == NULL || *at == PSD_OP_FRAME) {
            return false;
        }
        psd_put(other, at, (size_t)(next - at));
        if (*at == PSD_OP_MARK && next < end && *next == PSD_OP_MARK) {
            psd_put(other, nothing, sizeof nothing);
        }
        at = next;
    }
    psd_put_u8(other, PSD_OP_STOP);
    return at < end && !other->failed;
}

/* Tensors that are read in one go are what the machine makes of them opcode by opcode. */
static void
expect_same_values(const fuzz_run *run, psd_alloc alloc, psd_span program)
{
    psd_error err = {0};
    psd_buffer other, first, second;
    psd_buffer_init(&other, alloc);
    psd_buffer_init(&first, alloc);
    psd_buffer_init(&second, alloc);
    if (spell_otherwise(program, &other) && other.size <= fuzz_limits().pickle_size) {
        fuzz_run again;
        psd_status status = start(&again, alloc, psd_buffer_span(&other), &err);
        PROMISE((status == PSD_OK) == (run->pickle.size > 0));
        PROMISE(again.pool.count == run->pool.count);
        PROMISE(again.pool.event_count == run->pool.event_count);
        PROMISE(again.pool.persid_count == run->pool.persid_count);
        for (psd_ref ref = 1; ref <= run->pool.count; ref++) {
            const psd_value *a = psd_value_at(&run->pool, ref);
            const psd_value *b = psd_value_at(&again.pool, ref);
            uint64_t count = psd_child_count(a);
            PROMISE(a->kind == b->kind && count == psd_child_count(b));
            for (uint64_t i = 0; i < count; i++) {
                PROMISE(psd_child_at(a, i) == psd_child_at(b, i));
            }
        }
        if (status == PSD_OK &&
            psd_pickle_write(&run->pool, run->pickle.root, &first, &err) == PSD_OK) {
            status = psd_pickle_write(&again.pool, again.pickle.root, &second, &err);
            PROMISE(status == PSD_OK);
            PROMISE(psd_span_equal(psd_buffer_span(&first), psd_buffer_span(&second)));
        }
        finish(&again);
    }
    psd_buffer_clear(&other);
    psd_buffer_clear(&first);
    psd_buffer_clear(&second);
}

/* Write, read what was written, write again: the same bytes. */
static void
journey(const fuzz_run *run, psd_alloc alloc)
{
    psd_error err = {0};
    psd_buffer first, second;
    psd_buffer_init(&first, alloc);
    psd_buffer_init(&second, alloc);
    psd_status status = psd_pickle_write(&run->pool, run->pickle.root, &first, &err);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
        PROMISE(status == PSD_ARGUMENT || status == PSD_NO_MEMORY);
    }
    else if (first.size <= fuzz_limits().pickle_size) {
        fuzz_run again;
        status = start(&again, alloc, psd_buffer_span(&first), &err);
        PROMISE(status == PSD_OK);
        PROMISE(again.pickle.size == first.size);
        status = psd_pickle_write(&again.pool, again.pickle.root, &second, &err);
        /* A set has become a call, which may not lead back to itself. */
        PROMISE(status == PSD_OK || (status == PSD_ARGUMENT && has_set(&run->pool)));
        PROMISE(status != PSD_OK ||
                psd_span_equal(psd_buffer_span(&first), psd_buffer_span(&second)));
        finish(&again);
    }
    psd_buffer_clear(&first);
    psd_buffer_clear(&second);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    psd_alloc alloc = fuzz_alloc(&heap);
    psd_error err = {0};
    fuzz_run run;

    psd_status status = start(&run, alloc, (psd_span){data, size}, &err);
    expect_birth_order(&run.pool);
    expect_followed(&run, alloc, (psd_span){data, size});
    expect_same_values(&run, alloc, (psd_span){data, size});
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    else {
        PROMISE(run.pickle.root != 0 && run.pickle.root <= run.pool.count);
        PROMISE(run.pickle.size <= size && data[run.pickle.size - 1] == PSD_OP_STOP);
        journey(&run, alloc);
        status = find_tensors(&run, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        else {
            fuzz_expect_model(&run.pool, &run.model);
            status = psd_torch_write(&run.pool, run.pickle.root, &run.model,
                                     PSD_DIALECT_ZIP, &err);
            if (status != PSD_OK) {
                fuzz_expect_told(status, &err);
            }
            else {
                journey(&run, alloc);
            }
        }
    }
    finish(&run);
    fuzz_expect_frugal(&heap, size);
    return 0;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_mutate_program(data, size, room, seed);
}
