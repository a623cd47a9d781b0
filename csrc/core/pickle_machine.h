/* SPDX-License-Identifier: Apache-2.0
 *
 * The state of the stack machine and its few motions.  The machine keeps
 * numbers of values, never values.  What runs on every opcode is inline.
 *
 * An opcode's function returns PSD_OK, or fills the machine's error record;
 * all errors of an opcode are told at the opcode's own offset.
 */
#ifndef PSD_PICKLE_MACHINE_H
#define PSD_PICKLE_MACHINE_H

#include "pickle.h"
#include "pickle_memo.h"

/*
 * Constants that a program repeats all over: each is born once and shared, which
 * spares a third of a state_dict's values.  Small integers come first.
 */
enum {
    PSD_SHARED_NONE = 256,
    PSD_SHARED_FALSE,
    PSD_SHARED_TRUE,
    PSD_SHARED_EMPTY_TUPLE,
    PSD_SHARED_COUNT
};

/* Bytes that always follow an opcode; counted texts and lines come after these. */
extern const uint8_t psd_operand_sizes[256];

/* Where the opcode with its operand ends; NULL if that is beyond `end`. */
const uint8_t *psd_opcode_end(const uint8_t *opcode, const uint8_t *end);

typedef struct {
    psd_span program;
    uint64_t base; /* of the program, in the file */
    const psd_limits *limits;
    psd_pool *pool;
    psd_error *err;
    const uint8_t *opcode; /* the one being run */
    const uint8_t *next;
    const uint8_t *end;
    uint32_t last_at_hand; /* the last number that can be born without growing */
    psd_ref *stack;
    uint32_t depth;
    uint32_t stack_capacity;
    uint32_t fence;  /* depth at the newest mark, 0 if there is none */
    uint32_t *marks; /* depths */
    uint32_t mark_count;
    uint32_t mark_capacity;
    psd_memo memo;
    uint8_t protocol;
    bool follows;                     /* go on after a failure, see psd_pickle_follow */
    psd_error first;                  /* of the failures that were gone on after */
    psd_ref shared[PSD_SHARED_COUNT]; /* 0: not born yet */
} psd_machine;

/* ------------------------------------------------------------------ failing */

psd_status psd_machine_fail(psd_machine *m, psd_status status, const char *sentence);
psd_status psd_machine_fail_memory(psd_machine *m);
/* A value was not born: the pool is full, or there is no memory. */
psd_status psd_machine_fail_birth(psd_machine *m);
/* The program ends within an operand. */
psd_status psd_machine_fail_operand(psd_machine *m);
/* Fewer than `needed` values above the newest mark. */
psd_status psd_machine_fail_stack(psd_machine *m, uint32_t needed);

/* ------------------------------------------------------------ stack and marks */

PSD_CHECKED psd_status psd_machine_grow_stack(psd_machine *m);
PSD_CHECKED psd_status psd_machine_grow_pool(psd_machine *m);

/* Are `count` values on the stack, above the newest mark? */
static inline bool
psd_machine_holds(const psd_machine *m, uint32_t count)
{
    return m->depth - m->fence >= count;
}

static inline psd_status
psd_machine_push(psd_machine *m, psd_ref ref)
{
    if (m->depth == m->stack_capacity) {
        psd_status status = psd_machine_grow_stack(m);
        if (status != PSD_OK) {
            return status;
        }
    }
    m->stack[m->depth++] = ref;
    return PSD_OK;
}

/* Push what a constructor gave; 0 says that nothing was born. */
static inline psd_status
psd_machine_push_born(psd_machine *m, psd_ref ref)
{
    return ref == 0 ? psd_machine_fail_birth(m) : psd_machine_push(m, ref);
}

/* The constructors of value.h, for values that need nothing but their 16 bytes. */
static inline psd_status
psd_machine_push_value(psd_machine *m, psd_value value)
{
    if (m->pool->count >= m->last_at_hand) {
        psd_status status = psd_machine_grow_pool(m);
        if (status != PSD_OK) {
            return status;
        }
    }
    m->pool->values[++m->pool->count] = value;
    return psd_machine_push(m, m->pool->count);
}

static inline psd_status
psd_machine_push_shared(psd_machine *m, unsigned constant, psd_value value)
{
    if (m->shared[constant] != 0) {
        return psd_machine_push(m, m->shared[constant]);
    }
    psd_status status = psd_machine_push_value(m, value);
    m->shared[constant] = status == PSD_OK ? m->pool->count : 0;
    return status;
}

/* Put the values above depth `from` into one. */
static inline psd_status
psd_machine_push_items(psd_machine *m, psd_kind kind, uint32_t from)
{
    uint32_t count = m->depth - from;
    m->depth = from;
    psd_ref ref =
        psd_new_items(m->pool, kind, count == 0 ? NULL : m->stack + from, count);
    return psd_machine_push_born(m, ref);
}

/* Take the newest mark away; `*from` is the depth where it stood. */
static inline psd_status
psd_machine_pop_mark(psd_machine *m, uint32_t *from)
{
    if (m->mark_count == 0) {
        return psd_machine_fail(m, PSD_PICKLE, "no mark was set");
    }
    *from = m->marks[--m->mark_count];
    m->fence = m->mark_count > 0 ? m->marks[m->mark_count - 1] : 0;
    return PSD_OK;
}

static inline psd_kind
psd_machine_kind_at(const psd_machine *m, uint32_t depth)
{
    return psd_kind_of(m->pool, m->stack[depth]);
}

/* ------------------------------------------------------------------ operands */

/* Of BININT. */
static inline int64_t
psd_machine_signed32(const uint8_t *operand)
{
    uint32_t bits = psd_load_le32(operand);
    return (int64_t)bits - (bits > INT32_MAX ? (int64_t)1 << 32 : 0);
}

/* The next `size` bytes, borrowed; false if the program ends before. */
static inline bool
psd_machine_take(psd_machine *m, uint64_t size, psd_span *bytes)
{
    if (size > (uint64_t)(m->end - m->next)) {
        return false;
    }
    *bytes = (psd_span){m->next, (size_t)size};
    m->next += size;
    return true;
}

/*
 * The bytes up to the next newline, which is skipped; false if there is none
 * within the next `most` + 1 bytes.
 */
static inline bool
psd_machine_take_line(psd_machine *m, size_t most, psd_span *line)
{
    size_t left = (size_t)(m->end - m->next);
    size_t window = left <= most ? left : most + 1;
    const uint8_t *newline = window == 0 ? NULL : memchr(m->next, '\n', window);
    if (newline == NULL) {
        return false;
    }
    *line = (psd_span){m->next, (size_t)(newline - m->next)};
    m->next = newline + 1;
    return true;
}

/* A text of `size` bytes that follows in the program. */
static inline psd_status
psd_machine_push_text(psd_machine *m, psd_kind kind, uint64_t size)
{
    psd_span text;
    if (!psd_machine_take(m, size, &text)) {
        return psd_machine_fail_operand(m);
    }
    return psd_machine_push_value(m, (psd_value){.kind = (uint8_t)kind,
                                                 .count = (uint32_t)text.size,
                                                 .as.bytes = text.data});
}

static inline psd_status
psd_machine_push_int(psd_machine *m, int64_t v)
{
    return psd_machine_push_value(m,
                                  (psd_value){.kind = PSD_KIND_INT, .as.integer = v});
}

/* ---------------------------------------------- opcodes, in pickle_scalar.c */

psd_status psd_machine_long(psd_machine *m, uint32_t size); /* LONG1 */
psd_status psd_machine_long4(psd_machine *m, const uint8_t *operand);
psd_status psd_machine_int_line(psd_machine *m);  /* INT */
psd_status psd_machine_long_line(psd_machine *m); /* LONG */
psd_status psd_machine_binfloat(psd_machine *m, const uint8_t *operand);
psd_status psd_machine_float_line(psd_machine *m); /* FLOAT */
psd_status psd_machine_binstring(psd_machine *m, const uint8_t *operand);
/* STRING and UNICODE */
psd_status psd_machine_text_line(psd_machine *m, psd_kind kind);

/* --------------------------------------------- many at once, in pickle_rebuild.c */

/*
 * At two marks: read the arguments of a rebuild function, its call included, if they are
 * spelled as CPython's pickler does.  False: they are not, and nothing was changed.
 */
bool psd_machine_rebuild(psd_machine *m);

/* ------------------------------------------------ opcodes, in pickle_call.c */

psd_status psd_machine_global(psd_machine *m);
psd_status psd_machine_stack_global(psd_machine *m);
/* After one of these two or INST failed: what it names, as far as that can be told. */
psd_status psd_machine_doubtful_global(psd_machine *m);
psd_status psd_machine_call(psd_machine *m, psd_call_form form); /* REDUCE, NEWOBJ */
psd_status psd_machine_newobj_ex(psd_machine *m);
psd_status psd_machine_inst(psd_machine *m);
psd_status psd_machine_obj(psd_machine *m);
psd_status psd_machine_build(psd_machine *m);
psd_status psd_machine_persid_line(psd_machine *m); /* PERSID */
psd_status psd_machine_binpersid(psd_machine *m);

#endif
