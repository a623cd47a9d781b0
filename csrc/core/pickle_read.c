/* SPDX-License-Identifier: Apache-2.0
 *
 * The stack machine: one switch in one loop.  Each opcode runs once; nothing
 * recurses and nothing is called.
 */
#include "pickle_machine.h"
#include "pickle_text.h"

#define PROTOCOL_MAX 5u

/* ------------------------------------------------------------------ failing */

psd_status
psd_machine_fail(psd_machine *m, psd_status status, const char *sentence)
{
    uint64_t offset = m->base + (uint64_t)(m->opcode - m->program.data);
    return psd_fail(m->err, status, offset, sentence);
}

psd_status
psd_machine_fail_memory(psd_machine *m)
{
    return psd_machine_fail(m, PSD_NO_MEMORY, "out of memory");
}

psd_status
psd_machine_fail_birth(psd_machine *m)
{
    if (!psd_pool_full(m->pool)) {
        return psd_machine_fail_memory(m);
    }
    psd_machine_fail(m, PSD_LIMIT, "a pickle has more values than allowed");
    return psd_fail_numbers(m->err, (uint64_t)m->pool->count + 1, m->pool->max_values);
}

psd_status
psd_machine_fail_operand(psd_machine *m)
{
    return psd_machine_fail(m, PSD_PICKLE_END, "the pickle ends within an operand");
}

psd_status
psd_machine_fail_stack(psd_machine *m, uint32_t needed)
{
    psd_machine_fail(m, PSD_PICKLE,
                     m->mark_count > 0 ? "too few values above the mark"
                                       : "too few values on the stack");
    return psd_fail_numbers(m->err, m->depth - m->fence, needed);
}

/* ------------------------------------------------------------ stack and marks */

psd_status
psd_machine_grow_stack(psd_machine *m)
{
    void *stack = m->stack;
    bool done = psd_grow(m->pool->arena->alloc, &stack, &m->stack_capacity,
                         (uint64_t)m->depth + 1, sizeof *m->stack);
    m->stack = stack;
    return done ? PSD_OK : psd_machine_fail_memory(m);
}

/* Have the pool grow by a value, and take that value back. */
psd_status
psd_machine_grow_pool(psd_machine *m)
{
    psd_pool *pool = m->pool;
    if (psd_new_none(pool) == 0) {
        return psd_machine_fail_birth(m);
    }
    pool->count--;
    uint64_t last = pool->capacity - 1;
    m->last_at_hand = (uint32_t)(last < pool->max_values ? last : pool->max_values);
    return PSD_OK;
}

static psd_status
push_mark(psd_machine *m)
{
    void *marks = m->marks;
    bool done = psd_grow(m->pool->arena->alloc, &marks, &m->mark_capacity,
                         (uint64_t)m->mark_count + 1, sizeof *m->marks);
    m->marks = marks;
    if (!done) {
        return psd_machine_fail_memory(m);
    }
    m->marks[m->mark_count++] = m->depth;
    m->fence = m->depth;
    return PSD_OK;
}

/* POP takes a mark away when that is what was put last. */
static psd_status
pop(psd_machine *m)
{
    uint32_t from = 0;
    if (m->depth > m->fence) {
        m->depth--;
        return PSD_OK;
    }
    return m->mark_count > 0 ? psd_machine_pop_mark(m, &from)
                             : psd_machine_fail_stack(m, 1);
}

static psd_status
pop_to_mark(psd_machine *m)
{
    uint32_t from = 0;
    psd_status status = psd_machine_pop_mark(m, &from);
    if (status == PSD_OK) {
        m->depth = from;
    }
    return status;
}

/* --------------------------------------------------------------- collections */

static inline psd_status
push_empty(psd_machine *m, psd_kind kind)
{
    return psd_machine_push_value(m,
                                  (psd_value){.kind = (uint8_t)kind, .as.items = NULL});
}

static inline psd_status
push_short_tuple(psd_machine *m, uint32_t count)
{
    return psd_machine_holds(m, count)
               ? psd_machine_push_items(m, PSD_KIND_TUPLE, m->depth - count)
               : psd_machine_fail_stack(m, count);
}

static psd_status
push_marked(psd_machine *m, psd_kind kind)
{
    uint32_t from = 0;
    psd_status status = psd_machine_pop_mark(m, &from);
    if (status != PSD_OK) {
        return status;
    }
    if (kind == PSD_KIND_DICT && (m->depth - from) % 2 != 0) {
        return psd_machine_fail(m, PSD_PICKLE, "a key without a value");
    }
    return psd_machine_push_items(m, kind, from);
}

/*
 * Fill the value below depth `from` with those above.  It must be of `kind`, or
 * a call, which may give anything.
 */
static psd_status
fill(psd_machine *m, psd_kind kind, uint32_t from)
{
    if (from <= m->fence) {
        return psd_machine_fail_stack(m, m->depth - from + 1);
    }
    psd_ref target = m->stack[from - 1];
    psd_kind found = psd_kind_of(m->pool, target);
    const psd_ref *refs = m->stack + from;
    uint32_t count = m->depth - from;
    m->depth = from;
    if (found != kind && found != PSD_KIND_CALL) {
        return psd_machine_fail(m, PSD_PICKLE,
                                "items for a value that does not take them");
    }
    if (kind == PSD_KIND_DICT && count % 2 != 0) {
        return psd_machine_fail(m, PSD_PICKLE, "a key without a value");
    }
    bool done = kind == PSD_KIND_DICT ? psd_set(m->pool, target, refs, count)
                                      : psd_append(m->pool, target, refs, count);
    return done ? PSD_OK : psd_machine_fail_memory(m);
}

/* APPEND and SETITEM. */
static psd_status
fill_one(psd_machine *m, psd_kind kind, uint32_t count)
{
    return psd_machine_holds(m, count + 1) ? fill(m, kind, m->depth - count)
                                           : psd_machine_fail_stack(m, count + 1);
}

/* APPENDS, SETITEMS and ADDITEMS. */
static psd_status
fill_marked(psd_machine *m, psd_kind kind)
{
    uint32_t from = 0;
    psd_status status = psd_machine_pop_mark(m, &from);
    return status == PSD_OK ? fill(m, kind, from) : status;
}

/* ----------------------------------------------------------------------- memo */

static inline psd_status
put(psd_machine *m, uint64_t index)
{
    if (!psd_machine_holds(m, 1)) {
        return psd_machine_fail_stack(m, 1);
    }
    uint64_t spent = (uint64_t)(m->next - m->program.data);
    bool done = psd_memo_put(&m->memo, index, spent, m->stack[m->depth - 1]);
    return done ? PSD_OK : psd_machine_fail_memory(m);
}

static inline psd_status
get(psd_machine *m, uint64_t index)
{
    psd_ref ref = psd_memo_get(&m->memo, index);
    if (ref == 0) {
        psd_machine_fail(m, PSD_PICKLE, "nothing was put in the memo there");
        return psd_fail_numbers(m->err, index, 0);
    }
    return psd_machine_push(m, ref);
}

/* PUT and GET. */
static psd_status
with_index_line(psd_machine *m, psd_status (*run)(psd_machine *, uint64_t))
{
    psd_span line;
    uint64_t index;
    if (!psd_machine_take_line(m, UINT32_MAX, &line)) {
        return psd_machine_fail_operand(m);
    }
    if (!psd_text_index(line, &index)) {
        return psd_machine_fail(m, PSD_PICKLE, "a line that is no memo index");
    }
    return run(m, index);
}

/* ------------------------------------------------------------------- the loop */

static psd_status
set_protocol(psd_machine *m, uint8_t protocol)
{
    if (protocol > PROTOCOL_MAX) {
        psd_machine_fail(m, PSD_OPCODE, "a pickle protocol that is not known");
        return psd_fail_numbers(m->err, protocol, PROTOCOL_MAX);
    }
    m->protocol = protocol;
    return PSD_OK;
}

/* A frame tells how much to read ahead.  Everything is at hand, so nothing is to do. */
static psd_status
check_frame(psd_machine *m, uint64_t size)
{
    if (size > (uint64_t)(m->end - m->next)) {
        psd_machine_fail(m, PSD_PICKLE_END, "a frame runs past the end of the pickle");
        return psd_fail_numbers(m->err, (uint64_t)(m->end - m->next), size);
    }
    return PSD_OK;
}

static psd_status
stop(psd_machine *m, psd_pickle *out)
{
    if (!psd_machine_holds(m, 1)) {
        return psd_machine_fail_stack(m, 1);
    }
    *out = (psd_pickle){
        .root = m->stack[m->depth - 1],
        .size = (uint32_t)(m->next - m->program.data),
        .protocol = m->protocol,
        .left = m->depth - 1,
    };
    return PSD_OK;
}

static psd_status
fail_opcode(psd_machine *m, psd_status status, const char *sentence)
{
    psd_machine_fail(m, status, sentence);
    return psd_fail_numbers(m->err, *m->opcode, 0);
}

/* Does the opcode leave a value of its own on the stack? */
static bool
gives_value(uint8_t opcode)
{
    switch (opcode) {
    case PSD_OP_MARK:
    case PSD_OP_POP:
    case PSD_OP_POP_MARK:
    case PSD_OP_PUT:
    case PSD_OP_BINPUT:
    case PSD_OP_LONG_BINPUT:
    case PSD_OP_MEMOIZE:
    case PSD_OP_APPEND:
    case PSD_OP_APPENDS:
    case PSD_OP_SETITEM:
    case PSD_OP_SETITEMS:
    case PSD_OP_ADDITEMS:
    case PSD_OP_BUILD:
    case PSD_OP_PROTO:
    case PSD_OP_FRAME:
    case PSD_OP_READONLY_BUFFER: return false;
    default: return true;
    }
}

/*
 * After the opcode failed: leave the stack as a machine that is less strict
 * would, None standing for what cannot be told, and go on behind the operand.
 * False when that cannot be: no memory, no room, or no end of the operand.
 */
static bool
go_on(psd_machine *m)
{
    uint8_t opcode = *m->opcode;
    const uint8_t *next = psd_opcode_end(m->opcode, m->end);
    if (m->first.status == PSD_OK) {
        m->first = *m->err;
    }
    if (m->err->status == PSD_NO_MEMORY || psd_pool_full(m->pool) || next == NULL) {
        return false;
    }
    m->next = next;
    switch (opcode) {
    case PSD_OP_GLOBAL:
    case PSD_OP_INST:
    case PSD_OP_STACK_GLOBAL: return psd_machine_doubtful_global(m) == PSD_OK;
    default:
        return !gives_value(opcode) ||
               psd_machine_push_shared(m, PSD_SHARED_NONE,
                                       (psd_value){.kind = PSD_KIND_NONE}) == PSD_OK;
    }
}

static psd_status
run(psd_machine *m, psd_pickle *out)
{
    for (;;) {
        psd_status status;
        const uint8_t *at = m->next;
        m->opcode = at;
        if (at == m->end) {
            return psd_machine_fail(m, PSD_PICKLE_END,
                                    "the pickle ends before its STOP");
        }
        uint8_t opcode = *at;
        const uint8_t *operand = at + 1;
        if (psd_operand_sizes[opcode] > m->end - operand) {
            m->next = operand;
            return psd_machine_fail_operand(m);
        }
        m->next = operand + psd_operand_sizes[opcode];
        switch (opcode) {
        case PSD_OP_STOP: return stop(m, out);
        case PSD_OP_PROTO: status = set_protocol(m, operand[0]); break;
        case PSD_OP_FRAME: status = check_frame(m, psd_load_le64(operand)); break;

        case PSD_OP_MARK:
            status =
                operand < m->end && *operand == PSD_OP_MARK && psd_machine_rebuild(m)
                    ? PSD_OK
                    : push_mark(m);
            break;
        case PSD_OP_POP: status = pop(m); break;
        case PSD_OP_POP_MARK: status = pop_to_mark(m); break;
        case PSD_OP_DUP:
            status = psd_machine_holds(m, 1)
                         ? psd_machine_push(m, m->stack[m->depth - 1])
                         : psd_machine_fail_stack(m, 1);
            break;

        case PSD_OP_BINPUT: status = put(m, operand[0]); break;
        case PSD_OP_LONG_BINPUT: status = put(m, psd_load_le32(operand)); break;
        case PSD_OP_PUT: status = with_index_line(m, put); break;
        case PSD_OP_MEMOIZE: status = put(m, m->memo.count); break;
        case PSD_OP_BINGET: status = get(m, operand[0]); break;
        case PSD_OP_LONG_BINGET: status = get(m, psd_load_le32(operand)); break;
        case PSD_OP_GET: status = with_index_line(m, get); break;

        case PSD_OP_NONE:
            status = psd_machine_push_shared(m, PSD_SHARED_NONE,
                                             (psd_value){.kind = PSD_KIND_NONE});
            break;
        case PSD_OP_NEWTRUE:
        case PSD_OP_NEWFALSE:
            status = psd_machine_push_shared(
                m, opcode == PSD_OP_NEWTRUE ? PSD_SHARED_TRUE : PSD_SHARED_FALSE,
                (psd_value){.kind = PSD_KIND_BOOL,
                            .as.boolean = opcode == PSD_OP_NEWTRUE});
            break;
        case PSD_OP_BININT:
            status = psd_machine_push_int(m, psd_machine_signed32(operand));
            break;
        case PSD_OP_BININT1:
            status = psd_machine_push_shared(
                m, operand[0],
                (psd_value){.kind = PSD_KIND_INT, .as.integer = operand[0]});
            break;
        case PSD_OP_BININT2:
            status = psd_machine_push_int(m, psd_load_le16(operand));
            break;
        case PSD_OP_INT: status = psd_machine_int_line(m); break;
        case PSD_OP_LONG: status = psd_machine_long_line(m); break;
        case PSD_OP_LONG1: status = psd_machine_long(m, operand[0]); break;
        case PSD_OP_LONG4: status = psd_machine_long4(m, operand); break;
        case PSD_OP_FLOAT: status = psd_machine_float_line(m); break;
        case PSD_OP_BINFLOAT: status = psd_machine_binfloat(m, operand); break;

        case PSD_OP_BINUNICODE:
            status = psd_machine_push_text(m, PSD_KIND_TEXT, psd_load_le32(operand));
            break;
        case PSD_OP_SHORT_BINUNICODE:
            status = psd_machine_push_text(m, PSD_KIND_TEXT, operand[0]);
            break;
        case PSD_OP_BINUNICODE8:
            status = psd_machine_push_text(m, PSD_KIND_TEXT, psd_load_le64(operand));
            break;
        case PSD_OP_UNICODE: status = psd_machine_text_line(m, PSD_KIND_TEXT); break;
        case PSD_OP_STRING: status = psd_machine_text_line(m, PSD_KIND_STRING); break;
        case PSD_OP_BINSTRING: status = psd_machine_binstring(m, operand); break;
        case PSD_OP_SHORT_BINSTRING:
            status = psd_machine_push_text(m, PSD_KIND_STRING, operand[0]);
            break;
        case PSD_OP_BINBYTES:
            status = psd_machine_push_text(m, PSD_KIND_BYTES, psd_load_le32(operand));
            break;
        case PSD_OP_SHORT_BINBYTES:
            status = psd_machine_push_text(m, PSD_KIND_BYTES, operand[0]);
            break;
        case PSD_OP_BINBYTES8:
            status = psd_machine_push_text(m, PSD_KIND_BYTES, psd_load_le64(operand));
            break;
        case PSD_OP_BYTEARRAY8:
            status =
                psd_machine_push_text(m, PSD_KIND_BYTEARRAY, psd_load_le64(operand));
            break;

        case PSD_OP_EMPTY_TUPLE:
            status = psd_machine_push_shared(m, PSD_SHARED_EMPTY_TUPLE,
                                             (psd_value){.kind = PSD_KIND_TUPLE});
            break;
        case PSD_OP_TUPLE1: status = push_short_tuple(m, 1); break;
        case PSD_OP_TUPLE2: status = push_short_tuple(m, 2); break;
        case PSD_OP_TUPLE3: status = push_short_tuple(m, 3); break;
        case PSD_OP_TUPLE: status = push_marked(m, PSD_KIND_TUPLE); break;
        case PSD_OP_EMPTY_LIST: status = push_empty(m, PSD_KIND_LIST); break;
        case PSD_OP_LIST: status = push_marked(m, PSD_KIND_LIST); break;
        case PSD_OP_APPEND: status = fill_one(m, PSD_KIND_LIST, 1); break;
        case PSD_OP_APPENDS: status = fill_marked(m, PSD_KIND_LIST); break;
        case PSD_OP_EMPTY_DICT: status = push_empty(m, PSD_KIND_DICT); break;
        case PSD_OP_DICT: status = push_marked(m, PSD_KIND_DICT); break;
        case PSD_OP_SETITEM: status = fill_one(m, PSD_KIND_DICT, 2); break;
        case PSD_OP_SETITEMS: status = fill_marked(m, PSD_KIND_DICT); break;
        case PSD_OP_EMPTY_SET: status = push_empty(m, PSD_KIND_SET); break;
        case PSD_OP_ADDITEMS: status = fill_marked(m, PSD_KIND_SET); break;
        case PSD_OP_FROZENSET: status = push_marked(m, PSD_KIND_FROZENSET); break;

        case PSD_OP_GLOBAL: status = psd_machine_global(m); break;
        case PSD_OP_STACK_GLOBAL: status = psd_machine_stack_global(m); break;
        case PSD_OP_REDUCE: status = psd_machine_call(m, PSD_CALL_REDUCE); break;
        case PSD_OP_NEWOBJ: status = psd_machine_call(m, PSD_CALL_NEWOBJ); break;
        case PSD_OP_NEWOBJ_EX: status = psd_machine_newobj_ex(m); break;
        case PSD_OP_INST: status = psd_machine_inst(m); break;
        case PSD_OP_OBJ: status = psd_machine_obj(m); break;
        case PSD_OP_BUILD: status = psd_machine_build(m); break;
        case PSD_OP_PERSID: status = psd_machine_persid_line(m); break;
        case PSD_OP_BINPERSID: status = psd_machine_binpersid(m); break;

        case PSD_OP_EXT1:
        case PSD_OP_EXT2:
        case PSD_OP_EXT4:
            status = fail_opcode(m, PSD_EXTENSION,
                                 "an opcode that needs a registry outside the file");
            break;
        case PSD_OP_NEXT_BUFFER:
        case PSD_OP_READONLY_BUFFER:
            status = fail_opcode(m, PSD_OPCODE,
                                 "an opcode that needs a buffer outside the file");
            break;
        default: return fail_opcode(m, PSD_PICKLE, "a byte that is no opcode");
        }
        if (status != PSD_OK && (!m->follows || !go_on(m))) {
            return m->err->status; /* what kept it from going on, if that was another */
        }
    }
}

static psd_status
check_size(const psd_machine *m)
{
    uint64_t most =
        m->limits->pickle_size < UINT32_MAX ? m->limits->pickle_size : UINT32_MAX;
    if (m->program.size <= most) {
        return PSD_OK;
    }
    psd_fail(m->err, PSD_LIMIT, m->base, "a pickle is larger than allowed");
    return psd_fail_numbers(m->err, m->program.size, most);
}

/* Values made room for in advance, at the most: 16 MiB. */
#define RESERVE_MOST ((uint64_t)1 << 20)

static psd_status
run_all(psd_machine *m, psd_hash_key key, psd_pickle *out)
{
    psd_alloc alloc = m->pool->arena->alloc;
    uint64_t size = m->program.size;
    psd_status status = check_size(m);
    if (status != PSD_OK) {
        return status;
    }
    /* A state_dict needs about a value for ten bytes of program. */
    uint64_t guess = size / 8 < RESERVE_MOST ? size / 8 : RESERVE_MOST;
    if (m->pool->values == NULL && !psd_pool_reserve(m->pool, guess)) {
        return psd_machine_fail_memory(m);
    }
    psd_memo_init(&m->memo, alloc, key);
    status = run(m, out);
    psd_memo_clear(&m->memo);
    if (m->stack != NULL) {
        alloc.resize(alloc.ctx, m->stack, m->stack_capacity * sizeof *m->stack, 0);
    }
    if (m->marks != NULL) {
        alloc.resize(alloc.ctx, m->marks, m->mark_capacity * sizeof *m->marks, 0);
    }
    return status;
}

static psd_machine
machine_for(psd_span program, uint64_t base, const psd_limits *limits, psd_pool *pool,
            psd_error *err)
{
    return (psd_machine){
        .program = program,
        .base = base,
        .limits = limits,
        .pool = pool,
        .err = err,
        .opcode = program.data,
        .next = program.data,
        .end = program.data + program.size,
    };
}

psd_status
psd_pickle_read(psd_span program, uint64_t base, const psd_limits *limits,
                psd_hash_key key, psd_pool *pool, psd_pickle *out, psd_error *err)
{
    psd_machine m = machine_for(program, base, limits, pool, err);
    *out = (psd_pickle){.root = 0};
    return run_all(&m, key, out);
}

psd_status
psd_pickle_follow(psd_span program, uint64_t base, const psd_limits *limits,
                  psd_hash_key key, psd_pool *pool, psd_pickle *out, size_t *walked,
                  psd_error *err)
{
    psd_machine m = machine_for(program, base, limits, pool, err);
    m.follows = true;
    *out = (psd_pickle){.root = 0};
    psd_status status = run_all(&m, key, out);
    *walked = (size_t)(m.next - m.program.data);
    /* The failure that matters is the first; but for one that is the host's. */
    if (m.first.status != PSD_OK && status != PSD_NO_MEMORY) {
        *err = m.first;
        status = m.first.status;
    }
    return status;
}
