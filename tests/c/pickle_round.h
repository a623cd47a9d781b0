/* SPDX-License-Identifier: Apache-2.0
 *
 * Read, write, read again: are both the same graph?
 */
#ifndef PSD_PICKLE_ROUND_H
#define PSD_PICKLE_ROUND_H

#include "pickle_kit.h"

/* --------------------------------------------------------------- the same graph */

/*
 * Two graphs are compared pair by pair.  Every value that is memoized must
 * answer to one value on the other side, each way, so shared stays shared.
 * Where protocol 2 has no form of its own, the call that stands for it is
 * compared with what it stands for.
 */
typedef struct {
    psd_ref a, b;
} pair;

typedef struct {
    const psd_pool *before, *after;
    psd_ref *answer, *back; /* 0: not met */
    pair *pairs;
    size_t count, capacity;
    bool same;
} comparison;

static void
expect(comparison *c, psd_ref a, psd_ref b)
{
    if (c->count == c->capacity) {
        c->capacity = c->capacity * 2 + 64;
        c->pairs = realloc(c->pairs, c->capacity * sizeof *c->pairs);
    }
    c->pairs[c->count++] = (pair){a, b};
}

static bool
expect_all(comparison *c, const psd_ref *a, uint32_t a_count, const psd_ref *b,
           uint32_t b_count)
{
    for (uint32_t i = 0; a_count == b_count && i < a_count; i++) {
        expect(c, a[i], b[i]);
    }
    return a_count == b_count;
}

static bool
names_are(const psd_pool *pool, psd_ref ref, const char *module, const char *name)
{
    const psd_value *v = psd_value_at(pool, ref);
    psd_span m = {(const uint8_t *)module, strlen(module)};
    psd_span n = {(const uint8_t *)name, strlen(name)};
    return v->kind == PSD_KIND_GLOBAL && psd_span_equal(v->as.global->module, m) &&
           psd_span_equal(v->as.global->name, n);
}

/* The arguments of the call of module.name that `v` is, or NULL. */
static const psd_value *
args_of(const psd_pool *pool, const psd_value *v, const char *module, const char *name)
{
    if (v->kind != PSD_KIND_CALL || v->as.call->form != PSD_CALL_REDUCE ||
        !names_are(pool, v->as.call->callable, module, name)) {
        return NULL;
    }
    const psd_value *args = psd_value_at(pool, v->as.call->args);
    return args->kind == PSD_KIND_TUPLE ? args : NULL;
}

static bool
is_latin1_of(psd_span text, psd_span bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t c = bytes.data[i];
        if (c >= 0x80) {
            if (at == text.size || text.data[at++] != (0xC0 | c >> 6)) {
                return false;
            }
            c = (uint8_t)(0x80 | (c & 0x3F));
        }
        if (at == text.size || text.data[at++] != c) {
            return false;
        }
    }
    return at == text.size;
}

static bool
same_bytes(const psd_pool *pool, psd_span bytes, const psd_value *b)
{
    const psd_value *args = args_of(pool, b, "_codecs", "encode");
    return args != NULL && args->count == 2 &&
           is_latin1_of(psd_text_of(psd_value_at(pool, args->as.items[0])), bytes) &&
           psd_text_is(psd_value_at(pool, args->as.items[1]), PSD_LITERAL("latin1"));
}

static bool
same_bytearray(const psd_pool *pool, psd_span bytes, const psd_value *b)
{
    const psd_value *args = args_of(pool, b, "__builtin__", "bytearray");
    if (args == NULL || args->count != (bytes.size > 0)) {
        return false;
    }
    return bytes.size == 0 ||
           same_bytes(pool, bytes, psd_value_at(pool, args->as.items[0]));
}

static bool
same_set(comparison *c, const psd_value *a, const psd_value *b)
{
    const char *name = a->kind == PSD_KIND_SET ? "set" : "frozenset";
    const psd_value *args = args_of(c->after, b, "__builtin__", name);
    const psd_value *list = args != NULL && args->count == 1
                                ? psd_value_at(c->after, args->as.items[0])
                                : b;
    return list->kind == PSD_KIND_LIST &&
           expect_all(c, a->as.items, a->count, list->as.items, list->count);
}

static bool
same_call(comparison *c, const psd_call *a, const psd_value *v)
{
    if (v->kind != PSD_KIND_CALL) {
        return false;
    }
    const psd_call *b = v->as.call;
    psd_call_form form = a->form == PSD_CALL_NEWOBJ ? PSD_CALL_NEWOBJ : PSD_CALL_REDUCE;
    if (a->form == PSD_CALL_NEWOBJ_EX) {
        const psd_value *args = args_of(c->after, v, "copy_reg", "__newobj_ex__");
        const psd_ref parts[] = {a->callable, a->args, a->kwargs};
        if (args == NULL || !expect_all(c, parts, 3, args->as.items, args->count)) {
            return false;
        }
    }
    else {
        expect(c, a->callable, b->callable);
        expect(c, a->args, b->args);
    }
    if (a->state != 0) {
        expect(c, a->state, b->state);
    }
    return b->form == form && (a->state != 0) == (b->state != 0) &&
           expect_all(c, a->items, a->item_count, b->items, b->item_count) &&
           expect_all(c, a->appends, a->append_count, b->appends, b->append_count);
}

static bool
is_plain(const psd_value *v)
{
    return v->kind <= PSD_KIND_INT || v->kind == PSD_KIND_FLOAT ||
           (v->kind == PSD_KIND_TUPLE && v->count == 0);
}

static bool
same_content(comparison *c, const psd_value *a, const psd_value *b)
{
    psd_span text = {NULL, 0};
    switch (a->kind) {
    case PSD_KIND_BYTES: return same_bytes(c->after, psd_text_of(a), b);
    case PSD_KIND_BYTEARRAY: return same_bytearray(c->after, psd_text_of(a), b);
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return same_set(c, a, b);
    case PSD_KIND_CALL: return same_call(c, a->as.call, b);
    default: break;
    }
    if (a->kind != b->kind) {
        return false;
    }
    switch (a->kind) {
    case PSD_KIND_NONE: return true;
    case PSD_KIND_BOOL: return a->as.boolean == b->as.boolean;
    case PSD_KIND_INT: return a->as.integer == b->as.integer;
    case PSD_KIND_FLOAT: return memcmp(&a->as.real, &b->as.real, sizeof(double)) == 0;
    case PSD_KIND_LONG:
    case PSD_KIND_TEXT:
    case PSD_KIND_STRING:
        text = psd_text_of(b);
        return psd_span_equal(psd_text_of(a), text);
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
        return expect_all(c, a->as.items, a->count, b->as.items, b->count);
    case PSD_KIND_GLOBAL:
        return psd_span_equal(a->as.global->module, b->as.global->module) &&
               psd_span_equal(a->as.global->name, b->as.global->name);
    case PSD_KIND_PERSID: expect(c, a->as.ref, b->as.ref); return true;
    default: return false;
    }
}

static bool
same_graph(const psd_pool *before, psd_ref root, const psd_pool *after, psd_ref again)
{
    comparison c = {.before = before, .after = after, .same = true};
    c.answer = calloc((size_t)before->count + 1, sizeof *c.answer);
    c.back = calloc((size_t)after->count + 1, sizeof *c.back);
    expect(&c, root, again);
    while (c.same && c.count > 0) {
        pair p = c.pairs[--c.count];
        const psd_value *a = psd_value_at(before, p.a);
        const psd_value *b = psd_value_at(after, p.b);
        if (is_plain(a)) {
            c.same = same_content(&c, a, b);
        }
        else if (c.answer[p.a] != 0 || c.back[p.b] != 0) {
            c.same = c.answer[p.a] == p.b && c.back[p.b] == p.a;
        }
        else {
            c.answer[p.a] = p.b;
            c.back[p.b] = p.a;
            c.same = same_content(&c, a, b);
        }
    }
    free(c.answer);
    free(c.back);
    free(c.pairs);
    return c.same;
}

/* ------------------------------------------------------------------ round trips */

typedef struct {
    psd_buffer buffer;
    check_heap heap;
    psd_error err;
    psd_status status;
} writing;

static void
write_with(writing *w, const psd_pool *pool, psd_ref root, unsigned long fail_at)
{
    memset(w, 0, sizeof *w);
    w->heap.fail_at = fail_at;
    psd_buffer_init(&w->buffer, check_alloc(&w->heap));
    w->status = psd_pickle_write(pool, root, &w->buffer, &w->err);
}

static void
finish_writing(writing *w)
{
    psd_buffer_clear(&w->buffer);
    CHECK_UINT(w->heap.live, 0);
}

/* Read, write, read, compare; and what was written is written the same again. */
static psd_status
go_round(psd_span program)
{
    reading first;
    run(&first, program);
    psd_status status = first.status;
    if (status == PSD_OK) {
        writing w;
        write_with(&w, &first.pool, first.pickle.root, 0);
        status = w.status;
        if (status == PSD_OK) {
            reading second;
            writing again;
            run(&second, psd_buffer_span(&w.buffer));
            CHECK_UINT(second.status, PSD_OK);
            CHECK_UINT(second.pickle.size, w.buffer.size);
            CHECK_UINT(second.pickle.protocol, 2);
            CHECK(same_graph(&first.pool, first.pickle.root, &second.pool,
                             second.pickle.root));
            write_with(&again, &first.pool, first.pickle.root, 0);
            CHECK(psd_span_equal(psd_buffer_span(&again.buffer),
                                 psd_buffer_span(&w.buffer)));
            finish_writing(&again);
            finish(&second);
        }
        else {
            CHECK_UINT(w.status, PSD_ARGUMENT);
            CHECK(w.err.offset == PSD_NOWHERE && w.err.sentence != NULL);
        }
        finish_writing(&w);
    }
    finish(&first);
    return status;
}

#endif
