/* SPDX-License-Identifier: Apache-2.0
 *
 * A rebuilt tensor in one go.
 *
 * CPython's pickler and ours spell every tensor of a state_dict but the first with the
 * same opcodes, some thirty of them; puts into the memo may come between:
 *
 *     ((  'storage'  class  key  location  numel  t  BINPERSID
 *         offset  size  stride  requires_grad  OrderedDict  )R  t  R
 *
 * Here they are read without a stack.  What is born is what the machine would have borne,
 * in the same order, so nobody can tell which of the two it was; and whatever differs from
 * that spelling in the least is left to the machine.
 */
#include "pickle_machine.h"

/* Dimensions of a tensor that is read in one go. */
#define RANK_MOST 8u

/* No more bytes than this are looked at before the key and after it, and so many values
 * are born at the most. */
#define BYTES_MOST 256u
#define BIRTHS_MOST (2 * RANK_MOST + 16)

/* No index that the memo has a place at hand for. */
#define NO_PUT UINT32_MAX

/* Which opcode spelled a whole number decides whether the value is shared. */
typedef struct {
    int64_t value;
    bool is_small; /* by BININT1 */
} number;

typedef struct {
    number numbers[RANK_MOST];
    uint32_t count;
    uint32_t put;
} numbers;

/* What the opcodes say.  Memo indices that are put to, or NO_PUT; values that were got. */
typedef struct {
    const uint8_t *next;
    const psd_memo *memo;
    uint32_t lowest_put, highest_get;
    psd_ref storage, class, location, hooks;
    psd_ref key;       /* got, or 0: */
    psd_span key_text; /* ... told here, and put */
    uint32_t key_put;
    number numel;
    bool has_view; /* a sixth part of the persistent id, which is None */
    uint32_t id_put;
    const uint8_t *persid_at;
    number offset;
    numbers size, stride;
    bool requires_grad;
    const uint8_t *hooks_at;
    uint32_t hooks_put, args_put;
    const uint8_t *call_at;
    uint32_t call_put;
} spelling;

/* ---------------------------------------------------------------- looking */

static inline bool
look_byte(spelling *s, uint8_t byte)
{
    return *s->next++ == byte;
}

static inline bool
look_get(spelling *s, psd_ref *ref)
{
    uint32_t index;
    if (*s->next == PSD_OP_BINGET) {
        index = s->next[1];
        s->next += 2;
    }
    else if (*s->next == PSD_OP_LONG_BINGET) {
        index = psd_load_le32(s->next + 1);
        s->next += 5;
    }
    else {
        return false;
    }
    s->highest_get = index > s->highest_get ? index : s->highest_get;
    *ref = psd_memo_get(s->memo, index);
    return *ref != 0;
}

/* Writers that know what will be got again put nothing else.  False of an index that the
 * memo has no place at hand for. */
static inline bool
look_put(spelling *s, uint32_t *index)
{
    if (*s->next == PSD_OP_LONG_BINPUT) {
        *index = psd_load_le32(s->next + 1);
        s->next += 5;
    }
    else if (*s->next == PSD_OP_BINPUT) {
        *index = s->next[1];
        s->next += 2;
    }
    else {
        *index = NO_PUT;
        return true;
    }
    s->lowest_put = *index < s->lowest_put ? *index : s->lowest_put;
    return psd_memo_is_near(s->memo, *index);
}

static inline bool
look_number(spelling *s, number *n)
{
    switch (*s->next) {
    case PSD_OP_BININT1:
        *n = (number){s->next[1], true};
        s->next += 2;
        return true;
    case PSD_OP_BININT2:
        *n = (number){psd_load_le16(s->next + 1), false};
        s->next += 3;
        return true;
    case PSD_OP_BININT:
        *n = (number){psd_machine_signed32(s->next + 1), false};
        s->next += 5;
        return true;
    default: return false;
    }
}

/* A tuple of whole numbers; the empty one is one value for all, and not put. */
static inline bool
look_numbers(spelling *s, numbers *t)
{
    t->count = 0;
    if (*s->next == PSD_OP_EMPTY_TUPLE) {
        s->next++;
        return true;
    }
    bool marked = *s->next == PSD_OP_MARK;
    s->next += marked;
    while (t->count < RANK_MOST && look_number(s, &t->numbers[t->count])) {
        t->count++;
    }
    uint8_t end = *s->next++;
    bool ends = marked          ? end == PSD_OP_TUPLE && t->count > 0
                : t->count == 1 ? end == PSD_OP_TUPLE1
                : t->count == 2 ? end == PSD_OP_TUPLE2
                                : end == PSD_OP_TUPLE3 && t->count == 3;
    return ends && look_put(s, &t->put);
}

/* The key of a storage that another tensor looks at as well is got. */
static inline bool
look_key(spelling *s, const uint8_t *end)
{
    s->key = 0;
    if (*s->next != PSD_OP_BINUNICODE) {
        return look_get(s, &s->key);
    }
    uint32_t size = psd_load_le32(s->next + 1);
    s->next += 5;
    uint64_t left = (uint64_t)(end - s->next);
    if (left < size || left - size < BYTES_MOST) {
        return false;
    }
    s->key_text = (psd_span){s->next, size};
    s->next += size;
    return look_put(s, &s->key_put);
}

/* ((  'storage'  class  key  location  numel  [None]  t  BINPERSID */
static inline bool
look_storage(spelling *s, const uint8_t *end)
{
    if (!(look_byte(s, PSD_OP_MARK) && look_byte(s, PSD_OP_MARK) &&
          look_get(s, &s->storage) && look_get(s, &s->class) && look_key(s, end) &&
          look_get(s, &s->location) && look_number(s, &s->numel))) {
        return false;
    }
    s->has_view = *s->next == PSD_OP_NONE;
    s->next += s->has_view;
    bool done = look_byte(s, PSD_OP_TUPLE) && look_put(s, &s->id_put);
    s->persid_at = s->next;
    return done && look_byte(s, PSD_OP_BINPERSID);
}

/* offset  size  stride  requires_grad  OrderedDict  )R  t  R */
static inline bool
look_window(spelling *s)
{
    if (!(look_number(s, &s->offset) && look_numbers(s, &s->size) &&
          look_numbers(s, &s->stride))) {
        return false;
    }
    uint8_t flag = *s->next++;
    s->requires_grad = flag == PSD_OP_NEWTRUE;
    if (!((flag == PSD_OP_NEWTRUE || flag == PSD_OP_NEWFALSE) &&
          look_get(s, &s->hooks) && look_byte(s, PSD_OP_EMPTY_TUPLE))) {
        return false;
    }
    s->hooks_at = s->next;
    if (!(look_byte(s, PSD_OP_REDUCE) && look_put(s, &s->hooks_put) &&
          look_byte(s, PSD_OP_TUPLE) && look_put(s, &s->args_put))) {
        return false;
    }
    s->call_at = s->next;
    return look_byte(s, PSD_OP_REDUCE) && look_put(s, &s->call_put);
}

/* ---------------------------------------------------------------- births */

static inline psd_ref
bear(psd_machine *m, psd_value value)
{
    m->pool->values[++m->pool->count] = value;
    return m->pool->count;
}

static inline psd_ref
bear_shared(psd_machine *m, unsigned constant, psd_value value)
{
    if (m->shared[constant] == 0) {
        m->shared[constant] = bear(m, value);
    }
    return m->shared[constant];
}

static inline psd_ref
bear_number(psd_machine *m, number n)
{
    psd_value value = {.kind = PSD_KIND_INT, .as.integer = n.value};
    return n.is_small ? bear_shared(m, (unsigned)n.value, value) : bear(m, value);
}

static inline psd_ref
bear_empty_tuple(psd_machine *m)
{
    return bear_shared(m, PSD_SHARED_EMPTY_TUPLE,
                       (psd_value){.kind = PSD_KIND_TUPLE, .as.items = NULL});
}

static inline psd_ref
bear_tuple(psd_machine *m, psd_ref *items, uint32_t count)
{
    return bear(m,
                (psd_value){.kind = PSD_KIND_TUPLE, .count = count, .as.items = items});
}

static inline psd_ref
bear_call(psd_machine *m, psd_call *call, psd_ref callable, psd_ref args,
          const uint8_t *at)
{
    *call = (psd_call){.callable = callable,
                       .args = args,
                       .position = (uint32_t)(at - m->program.data),
                       .form = PSD_CALL_REDUCE};
    return bear(m, (psd_value){.kind = PSD_KIND_CALL, .as.call = call});
}

/* An index that has a place at hand, as look_put() found, or none. */
static inline void
put(psd_machine *m, uint32_t index, psd_ref ref)
{
    if (index != NO_PUT) {
        psd_memo_put_near(&m->memo, index, ref);
    }
}

static inline psd_ref
bear_numbers(psd_machine *m, const numbers *t, psd_ref *items)
{
    if (t->count == 0) {
        return bear_empty_tuple(m);
    }
    for (uint32_t i = 0; i < t->count; i++) {
        items[i] = bear_number(m, t->numbers[i]);
    }
    psd_ref tuple = bear_tuple(m, items, t->count);
    put(m, t->put, tuple);
    return tuple;
}

/* What the values refer to, which is taken at once. */
typedef struct {
    psd_call hooks, call;
    psd_ref id[6];
    psd_ref args[6];
    psd_ref numbers[]; /* of the size, then of the stride */
} parts;

static psd_ref
bear_storage(psd_machine *m, const spelling *s, parts *p)
{
    psd_ref key = s->key;
    if (key == 0) {
        key = bear(m, (psd_value){.kind = PSD_KIND_TEXT,
                                  .count = (uint32_t)s->key_text.size,
                                  .as.bytes = s->key_text.data});
        put(m, s->key_put, key);
    }
    p->id[0] = s->storage;
    p->id[1] = s->class;
    p->id[2] = key;
    p->id[3] = s->location;
    p->id[4] = bear_number(m, s->numel);
    if (s->has_view) {
        p->id[5] = bear_shared(m, PSD_SHARED_NONE, (psd_value){.kind = PSD_KIND_NONE});
    }
    psd_ref id = bear_tuple(m, p->id, 5 + s->has_view);
    put(m, s->id_put, id);
    m->pool->persid_count++;
    return bear(m, (psd_value){.kind = PSD_KIND_PERSID,
                               .count = (uint32_t)(s->persid_at - m->program.data),
                               .as.ref = id});
}

static psd_ref
bear_tensor(psd_machine *m, const spelling *s, parts *p)
{
    p->args[0] = bear_storage(m, s, p);
    p->args[1] = bear_number(m, s->offset);
    p->args[2] = bear_numbers(m, &s->size, p->numbers);
    p->args[3] = bear_numbers(m, &s->stride, p->numbers + s->size.count);
    p->args[4] =
        bear_shared(m, s->requires_grad ? PSD_SHARED_TRUE : PSD_SHARED_FALSE,
                    (psd_value){.kind = PSD_KIND_BOOL, .as.boolean = s->requires_grad});
    psd_ref none = bear_empty_tuple(m);
    p->args[5] = bear_call(m, &p->hooks, s->hooks, none, s->hooks_at);
    put(m, s->hooks_put, p->args[5]);
    psd_ref args = bear_tuple(m, p->args, 6);
    put(m, s->args_put, args);
    return bear_call(m, &p->call, m->stack[m->depth - 1], args, s->call_at);
}

bool
psd_machine_rebuild(psd_machine *m)
{
    if ((size_t)(m->end - m->opcode) < BYTES_MOST ||
        (uint64_t)m->pool->count + BIRTHS_MOST > m->last_at_hand ||
        !psd_machine_holds(m, 1) ||
        psd_machine_kind_at(m, m->depth - 1) != PSD_KIND_GLOBAL) {
        return false;
    }
    spelling s;
    s.next = m->opcode;
    s.memo = &m->memo;
    s.lowest_put = UINT32_MAX;
    s.highest_get = 0;
    /* The gets were looked up before the puts are made: none may be of one of those. */
    if (!look_storage(&s, m->end) || !look_window(&s) ||
        s.highest_get >= s.lowest_put ||
        psd_kind_of(m->pool, s.hooks) != PSD_KIND_GLOBAL) {
        return false;
    }
    size_t count = (size_t)s.size.count + s.stride.count;
    parts *p = psd_arena_take(m->pool->arena, sizeof *p + count * sizeof *p->numbers);
    if (p == NULL) {
        return false; /* the machine will tell */
    }
    psd_ref tensor = bear_tensor(m, &s, p);
    put(m, s.call_put, tensor);
    m->stack[m->depth - 1] = tensor;
    m->next = s.next;
    return true;
}
