/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool: every value of one pickle, numbered as it was born.
 *
 * Tuples, calls' callables and arguments, and persistent ids refer only to
 * smaller numbers.  Lists, dicts, sets and the later parts of a call are filled
 * afterwards, and each filling is written down as an event; replaying births
 * and events in order gives what Python's own machine would have built, without
 * recursion.
 */
#ifndef PSD_VALUE_H
#define PSD_VALUE_H

#include "arena.h"
#include "error.h"

typedef uint32_t psd_ref; /* a value's number; 0 is none */

typedef enum {
    PSD_KIND_INVALID, /* number 0 */
    PSD_KIND_NONE,
    PSD_KIND_BOOL,
    PSD_KIND_INT,    /* as.integer */
    PSD_KIND_LONG,   /* count bytes at as.bytes: two's complement, little-endian */
    PSD_KIND_FLOAT,  /* as.real */
    PSD_KIND_TEXT,   /* count bytes of UTF-8 (surrogates possible), not yet validated */
    PSD_KIND_STRING, /* a str of Python 2: bytes of unknown encoding */
    PSD_KIND_BYTES,
    PSD_KIND_BYTEARRAY,
    PSD_KIND_TUPLE,     /* count refs at as.items */
    PSD_KIND_LIST,      /* count refs at as.items */
    PSD_KIND_DICT,      /* count refs at as.items: key, value, key, value */
    PSD_KIND_SET,       /* count refs */
    PSD_KIND_FROZENSET, /* count refs, all smaller */
    PSD_KIND_GLOBAL,    /* as.global */
    PSD_KIND_CALL,      /* as.call */
    PSD_KIND_PERSID,    /* as.ref: the id; count: the opcode's position */
    /* What the torch pass turns persistent ids and calls into, in place: */
    PSD_KIND_STORAGE, /* as.index into the model's storages */
    PSD_KIND_TENSOR,  /* as.index into the model's tensors */
} psd_kind;

/* A name in a module.  Nothing is ever imported. */
typedef struct psd_global {
    psd_span module;
    psd_span name;
    struct psd_global *previous; /* the one that was born before it */
    uint32_t position;           /* of the opcode, in the pickle */
    uint16_t tag;                /* free for the torch pass */
} psd_global;

typedef enum {
    PSD_CALL_REDUCE,    /* callable(*args) */
    PSD_CALL_NEWOBJ,    /* cls.__new__(cls, *args) */
    PSD_CALL_NEWOBJ_EX, /* with keyword arguments */
    PSD_CALL_INSTANCE,  /* INST and OBJ of protocols 0 and 1 */
} psd_call_form;

typedef struct {
    psd_ref callable;
    psd_ref args;   /* any value; a tuple in every honest file */
    psd_ref kwargs; /* a dict, with NEWOBJ_EX only */
    psd_ref state;  /* of the last BUILD, 0 if there was none */
    psd_ref *items; /* of SETITEMS: key, value, ... */
    psd_ref *appends;
    uint32_t item_count; /* refs, twice the pairs */
    uint32_t append_count;
    uint32_t position; /* of the opcode, in the pickle */
    uint8_t form;      /* psd_call_form */
} psd_call;

typedef struct {
    uint8_t kind;
    uint8_t flags; /* free for later passes */
    uint16_t unused;
    uint32_t count;
    union {
        bool boolean;
        int64_t integer;
        double real;
        const uint8_t *bytes;
        psd_ref *items;
        psd_global *global;
        psd_call *call;
        psd_ref ref;
        uint32_t index;
    } as;
} psd_value;

typedef enum {
    PSD_EVENT_APPEND, /* refs [first, first + count) of the target's list, set or appends */
    PSD_EVENT_ITEMS, /* refs [first, first + count) of the target's dict or items */
    PSD_EVENT_BUILD, /* first: the state */
} psd_event_kind;

/* A filling, after `when` values had been born and before the next one. */
typedef struct {
    uint32_t when;
    psd_ref target;
    uint32_t first;
    uint32_t count : 30;
    uint32_t kind : 2;
} psd_event;

typedef struct {
    psd_arena *arena;  /* texts, lists of refs, globals, calls */
    psd_value *values; /* values[1 .. count]; own memory, may move */
    uint32_t count;
    uint32_t capacity;
    psd_event *events;
    uint32_t event_count;
    uint32_t event_capacity;
    uint64_t max_values;
    psd_global *newest_global; /* or NULL */
    uint32_t persid_count;     /* persistent ids that were born */
} psd_pool;

void psd_pool_init(psd_pool *pool, psd_arena *arena, uint64_t max_values);
void psd_pool_clear(psd_pool *pool); /* the arena is the caller's */

/* Room for `count` values at once, which spares moving them while they grow in
 * number.  False when there is no memory. */
PSD_CHECKED bool psd_pool_reserve(psd_pool *pool, uint64_t count);

static inline psd_value *
psd_value_at(const psd_pool *pool, psd_ref ref)
{
    return &pool->values[ref];
}

static inline psd_kind
psd_kind_of(const psd_pool *pool, psd_ref ref)
{
    return ref == 0 ? PSD_KIND_INVALID : (psd_kind)pool->values[ref].kind;
}

/*
 * Constructors.  Each gives the number of the new value, or 0 when there is no
 * memory or max_values is reached (psd_pool_full tells which).  Texts are
 * borrowed: they must live as long as the pool.  Refs are copied.
 */
bool psd_pool_full(const psd_pool *pool);

/* Why a value was not born: PSD_LIMIT of a full pool, else PSD_NO_MEMORY. */
psd_status psd_pool_fail(const psd_pool *pool, psd_error *err);
psd_ref psd_new_none(psd_pool *pool);
psd_ref psd_new_bool(psd_pool *pool, bool v);
psd_ref psd_new_int(psd_pool *pool, int64_t v);
psd_ref psd_new_float(psd_pool *pool, double v);
/* LONG, TEXT, STRING, BYTES or BYTEARRAY; text.size must fit in 32 bits. */
psd_ref psd_new_text(psd_pool *pool, psd_kind kind, psd_span text);
/*
 * TUPLE, LIST, DICT, SET or FROZENSET with its first refs, which may be none.
 * Those of a list, dict or set are a filling, with an event like any other.
 */
psd_ref psd_new_items(psd_pool *pool, psd_kind kind, const psd_ref *refs,
                      uint32_t count);
psd_ref psd_new_global(psd_pool *pool, psd_span module, psd_span name,
                       uint32_t position);
psd_ref psd_new_call(psd_pool *pool, psd_call_form form, psd_ref callable, psd_ref args,
                     psd_ref kwargs, uint32_t position);
psd_ref psd_new_persid(psd_pool *pool, psd_ref id);

/*
 * Fillings; each writes its event down.  False when there is no memory.
 *   psd_append   target is a LIST, a SET or a CALL
 *   psd_set      target is a DICT or a CALL; refs are key, value, ...
 *   psd_build    target is a CALL
 */
PSD_CHECKED bool psd_append(psd_pool *pool, psd_ref target, const psd_ref *refs,
                            uint32_t count);
PSD_CHECKED bool psd_set(psd_pool *pool, psd_ref target, const psd_ref *refs,
                         uint32_t count);
PSD_CHECKED bool psd_build(psd_pool *pool, psd_ref target, psd_ref state);

/* The parts of a call that exist before it: callable, arguments, keywords. */
static inline uint32_t
psd_call_part_count(const psd_call *call)
{
    return call->form == PSD_CALL_NEWOBJ_EX ? 3 : 2;
}

static inline psd_ref
psd_call_part(const psd_call *call, uint64_t at)
{
    return at == 0 ? call->callable : at == 1 ? call->args : call->kwargs;
}

/*
 * The values that a value refers to, in the order in which a pickle writes them:
 * items, a persistent id's id, the parts of a call and what it was filled with.
 */
uint64_t psd_child_count(const psd_value *value);
psd_ref psd_child_at(const psd_value *value, uint64_t at);

/* What is done with a value. */
enum {
    PSD_USED_CALLED = 1, /* it is the callable of a call */
    PSD_USED_PASSED = 2, /* it stands within another value: an item, an argument, ... */
};

/* Tell of every value what is done with it: uses[0 .. pool->count], all 0 before.
 * States that a later BUILD replaced count as well. */
void psd_find_uses(const psd_pool *pool, uint8_t *uses);

/*
 * How many values deep `root` is: 1 of a text, 2 of a list of texts.  A way that
 * leads back to itself ends there.  False when there is no memory.
 */
PSD_CHECKED bool psd_find_depth(const psd_pool *pool, psd_ref root, psd_alloc alloc,
                                uint32_t *depth);

/* The bytes of a LONG, TEXT, STRING, BYTES or BYTEARRAY. */
static inline psd_span
psd_text_of(const psd_value *value)
{
    return (psd_span){value->as.bytes, value->count};
}

/* Is this a TEXT (or a Python 2 STRING) with just these bytes?  BYTES are no name, whatever
 * they spell: to Python they differ from any text. */
static inline bool
psd_text_is(const psd_value *value, psd_span text)
{
    return (value->kind == PSD_KIND_TEXT || value->kind == PSD_KIND_STRING) &&
           psd_span_equal(psd_text_of(value), text);
}

#endif
