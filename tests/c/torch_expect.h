/* SPDX-License-Identifier: Apache-2.0
 *
 * What a test of the torch pass says of a program: that its root is this tensor, or that
 * it is refused in these words at the byte before which ^ stands.
 */
#ifndef PSD_TORCH_EXPECT_H
#define PSD_TORCH_EXPECT_H

#include "torch_kit.h"

/* ---------------------------------------------------------------- one tensor */

/* What a tensor is expected to be. */
typedef struct {
    psd_dtype dtype;
    unsigned flags;
    int64_t offset;
    unsigned rank;
    int64_t shape[4], strides[4];
} expected;

static inline void
check_tensor(const modelling *m, const psd_value *value, const expected *e)
{
    CHECK(value->kind == PSD_KIND_TENSOR);
    if (value->kind != PSD_KIND_TENSOR) {
        return;
    }
    CHECK(value->as.index < m->model.tensor_count);
    const psd_tensor *t = &m->model.tensors[value->as.index];
    uint64_t numel = 1;
    CHECK_UINT(t->dtype, e->dtype);
    CHECK_UINT(t->flags, e->flags);
    CHECK(t->offset == e->offset);
    CHECK_UINT(t->rank, e->rank);
    for (unsigned i = 0; i < e->rank && i < t->rank && i < 4; i++) {
        CHECK(t->shape[i] == e->shape[i]);
        CHECK(t->strides[i] == e->strides[i]);
        numel *= (uint64_t)e->shape[i];
    }
    CHECK_UINT(t->numel, numel);
}

/* ---------------------------------------------------------------- refusals */

/* What a refusal is expected to say beside its status. */
typedef struct {
    psd_status status;
    const char *sentence;
    const char *subject;
    bool has_numbers;
    uint64_t found, limit;
} refusal;

static inline void
check_refused(psd_span marked, const psd_limits *limits, const refusal *e, int line)
{
    uint8_t room[8192];
    uint64_t at;
    psd_span program = without_caret(marked, room, &at);
    check_guarded g = check_guard(program.data, program.size);
    modelling m;
    model_with(&m, (psd_span){g.data, g.size}, limits, 0);
    const psd_error *err = &m.r.err;
    bool same = m.status == e->status && err->status == e->status &&
                strcmp(err->sentence, e->sentence) == 0 && err->offset == at &&
                err->has_numbers == e->has_numbers && err->found == e->found &&
                err->expected == e->limit && err->subject_size == strlen(e->subject) &&
                memcmp(err->subject, e->subject, err->subject_size) == 0;
    CHECK(same);
    if (!same) {
        (void)fprintf(
            stderr, "  line %d: %s, \"%s\" about \"%.*s\" at %lld, not %lld\n", line,
            psd_status_code(m.status), m.status == PSD_OK ? "" : err->sentence,
            (int)err->subject_size, (const char *)err->subject, (long long)err->offset,
            (long long)at);
    }
    finish_model(&m);
    check_unguard(&g);
}

static inline void
refused(psd_span marked, const refusal *e, int line)
{
    psd_limits limits = psd_default_limits();
    check_refused(marked, &limits, e, line);
}

#define REFUSED(program, ...) \
    refused(PSD_LITERAL(program "."), &(refusal){__VA_ARGS__}, __LINE__)

/* ---------------------------------------------------------------- running out */

/* Of every request for memory the first that fails is told, and nothing leaks. */
static inline void
check_every_failing_request(psd_span program)
{
    psd_limits limits = psd_default_limits();
    modelling m;
    unsigned long n = 0;
    do {
        model_with(&m, program, &limits, ++n);
        finish_model(&m);
    } while (m.status == PSD_NO_MEMORY && m.r.err.status == PSD_NO_MEMORY && n < 10000);
    CHECK(m.status == PSD_OK);
    CHECK(m.r.heap.requests < n); /* it went well since none failed */
    CHECK(n > 3);
}

/* A request of the torch pass fails at each place of a page of the arena. */
static inline void
check_every_failing_page(psd_span program)
{
    unsigned failed = 0;
    for (unsigned trial = 0; trial < 8 * 512; trial++) {
        modelling m;
        model_at_page(&m, program, trial / 8, trial % 8 + 1);
        failed += m.status != PSD_OK;
        finish_model(&m);
    }
    CHECK(failed > 0);
}

#endif
