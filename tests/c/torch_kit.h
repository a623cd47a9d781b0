/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the torch room share: programs in the text forms of protocol 0,
 * which can be read as they stand, and a run of machine and torch pass together.
 */
#ifndef PSD_TORCH_KIT_H
#define PSD_TORCH_KIT_H

#include "pickle_kit.h"
#include "torch.h"

/* ---------------------------------------------------------------- programs */

#define PERSID(parts) "(" parts "tQ"
#define STORAGE_AT(module, class, key, location, numel) \
    PERSID("Vstorage\nc" module "\n" class "\nV" key "\nV" location "\nI" numel "\n")
#define STORAGE(class, key, numel) STORAGE_AT("torch", class, key, "cpu", numel)
#define UNTYPED(key, numel) \
    STORAGE_AT("torch.storage", "UntypedStorage", key, "cpu", numel)

#define HOOKS "ccollections\nOrderedDict\n)R"
#define FALSE_ "I00\n"
#define TRUE_ "I01\n"
#define I(n) "I" n "\n"
#define TUPLE(items) "(" items "t"

/* A function of torch._utils, called. */
#define CALL(name, args) "ctorch._utils\n" name "\n(" args "tR"
/* The same; the refusal must point at the call. */
#define BAD(name, args) "ctorch._utils\n" name "\n(" args "t^R"

/* Six floats as a tensor of 2 by 3. */
#define SIX STORAGE("FloatStorage", "0", "6")
#define TWO_BY_THREE "(I2\nI3\nt(I3\nI1\nt"
#define V2(window) CALL("_rebuild_tensor_v2", window FALSE_ HOOKS)
#define TENSOR V2(SIX I("0") TWO_BY_THREE)

/* ---------------------------------------------------------------- runs */

typedef struct {
    reading r;
    psd_model model;
    psd_status status;
} modelling;

static inline void
model_with(modelling *m, psd_span program, const psd_limits *limits,
           unsigned long fail_at)
{
    run_with(&m->r, program, limits, fail_at);
    psd_model_init(&m->model, check_alloc(&m->r.heap), key);
    m->status = m->r.status;
    if (m->status == PSD_OK) {
        psd_torch_source source = {.dialect = PSD_DIALECT_ZIP, .base = BASE};
        m->status = psd_torch_read(&m->r.pool, m->r.pickle.root, &source, limits,
                                   &m->model, &m->r.err);
    }
}

static inline void
model(modelling *m, psd_span program)
{
    psd_limits limits = psd_default_limits();
    model_with(m, program, &limits, 0);
}

static inline void
finish_model(modelling *m)
{
    psd_model_clear(&m->model);
    finish(&m->r);
}

static inline const psd_value *
root_of(const modelling *m)
{
    return psd_value_at(&m->r.pool, m->r.pickle.root);
}

/* The program without its ^, which stands before the guilty byte; *at is where. */
static inline psd_span
without_caret(psd_span program, uint8_t *room, uint64_t *at)
{
    size_t size = 0;
    *at = PSD_NOWHERE;
    for (size_t i = 0; i < program.size; i++) {
        if (program.data[i] == '^') {
            *at = BASE + size;
        }
        else {
            room[size++] = program.data[i];
        }
    }
    return (psd_span){room, size};
}

/*
 * The arena's pages are large: fill one so far that a taking of the torch pass is the
 * first of a new page, and let the host refuse a request of it, the `request`th.
 */
static inline void
model_at_page(modelling *m, psd_span program, unsigned words, unsigned request)
{
    psd_limits limits = psd_default_limits();
    run_with(&m->r, program, &limits, 0);
    psd_model_init(&m->model, check_alloc(&m->r.heap), key);
    CHECK(psd_arena_take(&m->r.arena, (size_t)words * 8) != NULL);
    m->r.heap.fail_at = m->r.heap.requests + request;
    psd_torch_source source = {.dialect = PSD_DIALECT_ZIP, .base = BASE};
    m->status = psd_torch_read(&m->r.pool, m->r.pickle.root, &source, &limits,
                               &m->model, &m->r.err);
    CHECK(m->status == PSD_OK || m->status == PSD_NO_MEMORY);
}

#endif
