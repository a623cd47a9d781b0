/* SPDX-License-Identifier: Apache-2.0
 *
 * From values to a program of protocol 2, with a stack of its own.
 *
 * A list, dict or call is memoized before it is filled, so it may lead back to
 * itself.  A tuple or set exists only when all its items do.  So while one is
 * being written, lists, dicts and calls of its own group (those which lead back
 * to it) are left empty, and filled as soon as it is complete: GET, fill, POP.
 * Every reference is thus followed once.
 */
#include "pickle.h"
#include "pickle_emit.h"

/* As many as CPython's pickler takes at a time. */
#define BATCH_SIZE 1000u

typedef struct {
    psd_ref ref;
    bool late;     /* fetched to be filled, to be dropped afterwards */
    uint64_t next; /* the part or item to be written now */
} frame;

/* Values that lead to one another. */
typedef struct {
    uint32_t open;  /* of them, being written and not yet complete */
    uint32_t calls; /* of these, calls and persistent ids */
    psd_ref late;   /* the first that waits to be filled; notes[].order is the next */
} group;

typedef struct {
    const psd_pool *pool;
    psd_buffer *buffer;
    psd_error *err;
    psd_survey survey;
    psd_emitter emitter;
    group *groups;
    frame *frames;
    uint32_t depth;
    uint32_t frame_capacity;
} writer;

static psd_status
fail(const writer *w, const char *sentence)
{
    return psd_fail(w->err, PSD_ARGUMENT, PSD_NOWHERE, sentence);
}

static psd_status
fail_memory(const writer *w)
{
    return psd_fail_memory(w->err);
}

/* -------------------------------------------------------------------- frames */

static psd_status
push_frame(writer *w, psd_ref ref, uint64_t next, bool late)
{
    if (w->depth == w->frame_capacity) {
        void *frames = w->frames;
        bool done = psd_grow(w->buffer->alloc, &frames, &w->frame_capacity,
                             (uint64_t)w->depth + 1, sizeof *w->frames);
        w->frames = frames;
        if (!done) {
            return fail_memory(w);
        }
    }
    w->frames[w->depth++] = (frame){.ref = ref, .late = late, .next = next};
    return PSD_OK;
}

/* What is written after a list, dict, set or call has its place in the memo. */
typedef struct {
    const psd_ref *appends;
    const psd_ref *items;
    uint32_t append_count;
    uint32_t item_count;
    psd_ref state;
} filling;

static filling
filling_of(const psd_value *value)
{
    if (value->kind == PSD_KIND_CALL) {
        const psd_call *call = value->as.call;
        return (filling){call->appends, call->items, call->append_count,
                         call->item_count, call->state};
    }
    if (value->kind == PSD_KIND_DICT) {
        return (filling){NULL, value->as.items, 0, value->count, 0};
    }
    return (filling){value->as.items, NULL, value->count, 0, 0};
}

static bool
has_filling(const psd_value *value)
{
    filling f = filling_of(value);
    return f.append_count > 0 || f.item_count > 0 || f.state != 0;
}

/* Where a frame's filling begins; a call's parts and the call itself come before. */
static uint32_t
filling_start(const psd_value *value)
{
    return value->kind == PSD_KIND_CALL ? psd_call_part_count(value->as.call) + 1 : 0;
}

/* ------------------------------------------------------- open, complete, late */

static bool
is_call(const psd_value *value)
{
    return value->kind == PSD_KIND_CALL || value->kind == PSD_KIND_PERSID;
}

/* A value begins that will be complete only after its parts. */
static psd_status
open_value(writer *w, psd_ref ref)
{
    psd_note *note = &w->survey.notes[ref];
    if (note->memo == PSD_MEMO_OFTEN) {
        note->memo = PSD_MEMO_OPEN;
    }
    if (note->group != 0) {
        group *g = &w->groups[note->group];
        g->open++;
        g->calls += is_call(psd_value_at(w->pool, ref));
    }
    return push_frame(w, ref, 0, false);
}

/* Once a group has no incomplete value, its empty ones can be filled. */
static psd_status
fill_late(writer *w, uint32_t number)
{
    group *g = &w->groups[number];
    if (number == 0 || g->open > 0 || g->late == 0) {
        return PSD_OK;
    }
    psd_ref ref = g->late;
    psd_note *note = &w->survey.notes[ref];
    g->late = note->order;
    psd_emit_get(&w->emitter, note->memo);
    return push_frame(w, ref, filling_start(psd_value_at(w->pool, ref)), true);
}

/* The value of the top frame is on the stack, complete. */
static void
complete(writer *w, psd_ref ref)
{
    psd_note *note = &w->survey.notes[ref];
    w->depth--;
    psd_emit_put(&w->emitter, &note->memo);
    if (note->group != 0) {
        group *g = &w->groups[note->group];
        g->open--;
        g->calls -= is_call(psd_value_at(w->pool, ref));
    }
}

/*
 * Must the filling of this list, dict or call wait?  `own` is 1 if it is itself
 * counted as open.  What waits has to be fetched again.
 */
static bool
is_late(writer *w, psd_ref ref, uint32_t own)
{
    psd_note *note = &w->survey.notes[ref];
    bool late = note->group != 0 && w->groups[note->group].open > own &&
                has_filling(psd_value_at(w->pool, ref));
    if (late && note->memo == PSD_MEMO_ONCE) {
        note->memo = PSD_MEMO_OFTEN;
    }
    return late;
}

/* A list, dict or call is on the stack, memoized, and empty as yet. */
static psd_status
begin_filling(writer *w, psd_ref ref, bool late)
{
    const psd_value *value = psd_value_at(w->pool, ref);
    if (!has_filling(value)) {
        return PSD_OK;
    }
    if (!late) {
        return push_frame(w, ref, filling_start(value), false);
    }
    psd_note *note = &w->survey.notes[ref];
    group *g = &w->groups[note->group];
    /*
     * What is called, or asked for by its id, would see the value empty.  So
     * nothing waits for a call or an id, only for tuples and sets.
     */
    if (g->calls > 0) {
        return fail(w, "a call that is an argument of itself");
    }
    note->order = g->late;
    g->late = ref;
    return PSD_OK;
}

/* --------------------------------------------------------------------- steps */

static uint8_t
tuple_opcode(const psd_value *tuple)
{
    static const uint8_t opcodes[] = {PSD_OP_TUPLE1, PSD_OP_TUPLE2, PSD_OP_TUPLE3};
    return tuple->count > 3 ? PSD_OP_TUPLE : opcodes[tuple->count - 1];
}

static psd_status meet(writer *w, psd_ref ref);

/* A PLAIN value whole; how deep it goes was looked at by the survey. */
static psd_status
write_plain(writer *w, const psd_value *value, psd_note *note)
{
    psd_status status = PSD_OK;
    uint8_t last = PSD_OP_REDUCE;
    switch (value->kind) {
    case PSD_KIND_CALL:
        status = meet(w, value->as.call->callable);
        if (status == PSD_OK) {
            status = meet(w, value->as.call->args);
        }
        break;
    case PSD_KIND_PERSID:
        status = meet(w, value->as.ref);
        last = PSD_OP_BINPERSID;
        break;
    default:
        if (value->count > 3) {
            psd_put_u8(w->buffer, PSD_OP_MARK);
        }
        for (uint32_t i = 0; i < value->count && status == PSD_OK; i++) {
            status = meet(w, value->as.items[i]);
        }
        last = tuple_opcode(value);
    }
    psd_put_u8(w->buffer, last);
    psd_emit_put(&w->emitter, &note->memo);
    return status;
}

/* A reference to `ref`: fetch it, write it, or begin to. */
static psd_status
meet(writer *w, psd_ref ref)
{
    const psd_value *value = psd_value_at(w->pool, ref);
    psd_note *note = &w->survey.notes[ref];
    if (psd_is_inline(value)) {
        psd_emit_inline(&w->emitter, value);
        return PSD_OK;
    }
    if (psd_is_memoized(note->memo)) {
        psd_emit_get(&w->emitter, note->memo);
        return PSD_OK;
    }
    if (psd_is_plain(value)) {
        return write_plain(w, value, note);
    }
    if (note->memo == PSD_MEMO_OPEN) {
        return fail(w, "a value that is a part of itself");
    }
    bool late;
    switch (value->kind) {
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
        late = is_late(w, ref, 0);
        psd_put_u8(w->buffer, value->kind == PSD_KIND_LIST ? PSD_OP_EMPTY_LIST
                                                           : PSD_OP_EMPTY_DICT);
        psd_emit_put(&w->emitter, &note->memo);
        return begin_filling(w, ref, late);
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET:
        psd_emit_word(&w->emitter,
                      value->kind == PSD_KIND_SET ? PSD_WORD_SET : PSD_WORD_FROZENSET);
        psd_put_u8(w->buffer, PSD_OP_EMPTY_LIST);
        return open_value(w, ref);
    case PSD_KIND_TUPLE:
        if (value->count > 3) {
            psd_put_u8(w->buffer, PSD_OP_MARK);
        }
        if (psd_is_flat_tuple(w->pool, value)) {
            for (uint32_t i = 0; i < value->count; i++) {
                psd_emit_inline(&w->emitter, psd_value_at(w->pool, value->as.items[i]));
            }
            psd_put_u8(w->buffer, tuple_opcode(value));
            psd_emit_put(&w->emitter, &note->memo);
            return PSD_OK;
        }
        return open_value(w, ref);
    case PSD_KIND_CALL:
        if (value->as.call->form == PSD_CALL_NEWOBJ_EX) {
            psd_emit_word(&w->emitter, PSD_WORD_NEWOBJ_EX);
        }
        return open_value(w, ref);
    case PSD_KIND_PERSID: return open_value(w, ref);
    default: return psd_emit_leaf(&w->emitter, value, &note->memo);
    }
}

/*
 * What stands between items: the end of a batch, the mark of the next.  True if
 * item `next` of `count` is to be written now, false after the last.
 */
static bool
batch(writer *w, uint64_t next, uint32_t count, bool pairs)
{
    uint32_t width = pairs ? 2 : 1;
    uint64_t place = next % (width * BATCH_SIZE);
    if (next > 0 && (place == 0 || next == count)) {
        bool single = place == width;
        uint8_t one = pairs ? PSD_OP_SETITEM : PSD_OP_APPEND;
        uint8_t many = pairs ? PSD_OP_SETITEMS : PSD_OP_APPENDS;
        psd_put_u8(w->buffer, single ? one : many);
    }
    if (next < count && place == 0 && count - next > width) {
        psd_put_u8(w->buffer, PSD_OP_MARK);
    }
    return next < count;
}

/* The ref at `at` of a filling, after what stands before it; 0 after the last. */
static psd_ref
next_of(writer *w, const filling *f, uint64_t at)
{
    if (at <= f->append_count && batch(w, at, f->append_count, false)) {
        return f->appends[at];
    }
    at -= f->append_count;
    if (at <= f->item_count && batch(w, at, f->item_count, true)) {
        return f->items[at];
    }
    at -= f->item_count;
    if (at == 1) {
        psd_put_u8(w->buffer, PSD_OP_BUILD);
    }
    return at == 0 ? f->state : 0;
}

static psd_status
step_tuple(writer *w, frame *top, const psd_value *value)
{
    if (top->next < value->count) {
        return meet(w, value->as.items[top->next++]);
    }
    psd_put_u8(w->buffer, tuple_opcode(value));
    psd_ref ref = top->ref;
    complete(w, ref);
    return fill_late(w, w->survey.notes[ref].group);
}

static psd_status
step_persid(writer *w, frame *top, const psd_value *value)
{
    if (top->next++ == 0) {
        return meet(w, value->as.ref);
    }
    psd_put_u8(w->buffer, PSD_OP_BINPERSID);
    complete(w, top->ref);
    return PSD_OK;
}

static psd_status
step_set(writer *w, frame *top, const psd_value *value)
{
    filling f = filling_of(value);
    psd_ref child = next_of(w, &f, top->next);
    if (child != 0) {
        top->next++;
        return meet(w, child);
    }
    psd_put_u8(w->buffer, PSD_OP_TUPLE1);
    psd_put_u8(w->buffer, PSD_OP_REDUCE);
    psd_ref ref = top->ref;
    complete(w, ref);
    return fill_late(w, w->survey.notes[ref].group);
}

/* The filling of a list, dict or call. */
static psd_status
step_filling(writer *w, frame *top, const psd_value *value)
{
    filling f = filling_of(value);
    psd_ref child = next_of(w, &f, top->next - filling_start(value));
    if (child != 0) {
        top->next++;
        return meet(w, child);
    }
    w->depth--;
    if (!top->late) {
        return PSD_OK;
    }
    psd_put_u8(w->buffer, PSD_OP_POP);
    return fill_late(w, w->survey.notes[top->ref].group);
}

static psd_status
step_call(writer *w, frame *top, const psd_value *value)
{
    const psd_call *call = value->as.call;
    uint32_t parts = psd_call_part_count(call);
    if (top->next > parts) {
        return step_filling(w, top, value);
    }
    if (top->next < parts) {
        return meet(w, psd_call_part(call, top->next++));
    }
    /* Protocol 2 has no NEWOBJ_EX, and INST and OBJ make what REDUCE makes. */
    if (call->form == PSD_CALL_NEWOBJ_EX) {
        psd_put_u8(w->buffer, PSD_OP_TUPLE3);
    }
    psd_put_u8(w->buffer,
               call->form == PSD_CALL_NEWOBJ ? PSD_OP_NEWOBJ : PSD_OP_REDUCE);
    psd_ref ref = top->ref;
    bool late = is_late(w, ref, 1);
    complete(w, ref);
    return begin_filling(w, ref, late);
}

static psd_status
step(writer *w)
{
    frame *top = &w->frames[w->depth - 1];
    const psd_value *value = psd_value_at(w->pool, top->ref);
    switch (value->kind) {
    case PSD_KIND_TUPLE: return step_tuple(w, top, value);
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return step_set(w, top, value);
    case PSD_KIND_PERSID: return step_persid(w, top, value);
    case PSD_KIND_CALL: return step_call(w, top, value);
    default: return step_filling(w, top, value);
    }
}

static psd_status
write_all(writer *w, psd_ref root)
{
    psd_alloc alloc = w->buffer->alloc;
    size_t count = (size_t)w->survey.group_count + 1;
    w->groups = count > SIZE_MAX / sizeof *w->groups
                    ? NULL
                    : alloc.resize(alloc.ctx, NULL, 0, count * sizeof *w->groups);
    if (w->groups == NULL) {
        return fail_memory(w);
    }
    memset(w->groups, 0, count * sizeof *w->groups);
    psd_put_u8(w->buffer, PSD_OP_PROTO);
    psd_put_u8(w->buffer, 2);
    psd_status status = meet(w, root);
    while (status == PSD_OK && w->depth > 0 && !w->buffer->failed) {
        status = step(w);
    }
    psd_put_u8(w->buffer, PSD_OP_STOP);
    alloc.resize(alloc.ctx, w->groups, count * sizeof *w->groups, 0);
    if (w->frames != NULL) {
        alloc.resize(alloc.ctx, w->frames, w->frame_capacity * sizeof *w->frames, 0);
    }
    return status == PSD_OK && w->buffer->failed ? fail_memory(w) : status;
}

psd_status
psd_pickle_write(const psd_pool *pool, psd_ref root, psd_buffer *buffer, psd_error *err)
{
    writer w = {.pool = pool, .buffer = buffer, .err = err};
    psd_status status = psd_survey_run(&w.survey, pool, root, buffer->alloc, err);
    if (status == PSD_OK) {
        w.emitter = (psd_emitter){.buffer = buffer, .err = err};
        memcpy(w.emitter.words, w.survey.words, sizeof w.emitter.words);
        status = write_all(&w, root);
    }
    psd_survey_clear(&w.survey);
    return status;
}
