/* SPDX-License-Identifier: Apache-2.0
 *
 * Groups are the strongly connected components of the graph of references.
 * Source: R. Tarjan, "Depth-first search and linear graph algorithms" (1972),
 * here with a stack of its own instead of recursion.
 */
#include "pickle_survey.h"

/* Readers refuse more, and less. */
#define NAME_SIZE_MAX 1024u

/* The order of a value whose group is known. */
#define DONE UINT32_MAX

/* PLAIN values within one another, followed by recursion: a Parameter takes six. */
#define PLAIN_MOST 16u

typedef struct {
    psd_ref ref;
    uint64_t next;  /* the child to be looked at now */
    uint64_t count; /* of its children */
} visit;

typedef struct {
    psd_survey *survey;
    psd_error *err;
    visit *visits; /* from the root to where we are */
    uint32_t depth;
    uint32_t visit_capacity;
    psd_ref *waiting; /* met, and of no known group yet */
    uint32_t waiting_count;
    uint32_t waiting_capacity;
    uint32_t met;
    uint32_t within; /* so many PLAIN values */
} walk;

static psd_status
fail(const walk *w, const char *sentence)
{
    return psd_fail(w->err, PSD_ARGUMENT, PSD_NOWHERE, sentence);
}

static psd_status
fail_memory(const walk *w)
{
    return psd_fail_memory(w->err);
}

/* -------------------------------------------------------------------- checks */

static psd_status
check_name(const walk *w, psd_span name)
{
    if (name.size > 0 && name.size <= NAME_SIZE_MAX &&
        memchr(name.data, '\n', name.size) == NULL) {
        return PSD_OK;
    }
    fail(w, "the name of a global that cannot be written");
    return psd_fail_subject(w->err, name);
}

static psd_status
check_global(const walk *w, const psd_global *global)
{
    psd_status status = check_name(w, global->module);
    return status == PSD_OK ? check_name(w, global->name) : status;
}

static psd_status
check(const walk *w, const psd_value *value)
{
    switch (value->kind) {
    case PSD_KIND_GLOBAL: return check_global(w, value->as.global);
    case PSD_KIND_LONG:
    case PSD_KIND_STRING:
        return value->count <= INT32_MAX
                   ? PSD_OK
                   : fail(w, "too long for a pickle of protocol 2");
    case PSD_KIND_TEXT:
    case PSD_KIND_BYTES:
    case PSD_KIND_BYTEARRAY:
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET:
    case PSD_KIND_CALL:
    case PSD_KIND_PERSID: return PSD_OK;
    default: return fail(w, "a value that has no form in a pickle");
    }
}

/* --------------------------------------------------------------------- words */

static void
use(walk *w, psd_word word, bool *seen)
{
    w->survey->words[word] = seen[word] ? PSD_MEMO_OFTEN : PSD_MEMO_ONCE;
    seen[word] = true;
}

/* The writer's own words that this value takes. */
static void
use_words(walk *w, const psd_value *value, bool *seen)
{
    bool bytes = value->kind == PSD_KIND_BYTES;
    switch (value->kind) {
    case PSD_KIND_BYTEARRAY:
        use(w, PSD_WORD_BYTEARRAY, seen);
        bytes = value->count > 0;
        break;
    case PSD_KIND_SET: use(w, PSD_WORD_SET, seen); break;
    case PSD_KIND_FROZENSET: use(w, PSD_WORD_FROZENSET, seen); break;
    case PSD_KIND_CALL:
        if (value->as.call->form == PSD_CALL_NEWOBJ_EX) {
            use(w, PSD_WORD_NEWOBJ_EX, seen);
        }
        break;
    default: break;
    }
    if (bytes) {
        use(w, PSD_WORD_ENCODE, seen);
        use(w, PSD_WORD_LATIN1, seen);
    }
}

/* ---------------------------------------------------------------------- walk */

/* Room for one more of each. */
static bool
grow(walk *w)
{
    void *visits = w->visits;
    void *waiting = w->waiting;
    bool done = psd_grow(w->survey->alloc, &visits, &w->visit_capacity,
                         (uint64_t)w->depth + 1, sizeof *w->visits) &&
                psd_grow(w->survey->alloc, &waiting, &w->waiting_capacity,
                         (uint64_t)w->waiting_count + 1, sizeof *w->waiting);
    w->visits = visits;
    w->waiting = waiting;
    return done;
}

static psd_status
enter(walk *w, psd_ref ref, uint64_t children, psd_note *note)
{
    if (w->within > 0) {
        return fail(w, "a plain value that holds others");
    }
    if ((w->depth == w->visit_capacity || w->waiting_count == w->waiting_capacity) &&
        !grow(w)) {
        return fail_memory(w);
    }
    w->visits[w->depth++] = (visit){.ref = ref, .count = children};
    w->waiting[w->waiting_count++] = ref;
    /* Until its group is known, `group` is the earliest order it leads back to. */
    note->order = ++w->met;
    note->group = note->order;
    return PSD_OK;
}

static psd_status meet(walk *w, psd_ref ref, bool *seen);

/* Parts that lead nowhere need no order, and no way back. */
static psd_status
follow_plain(walk *w, const psd_value *value, bool *seen)
{
    if (w->within == PLAIN_MOST) {
        return fail(w, "too many plain values within one another");
    }
    w->within++;
    psd_status status = PSD_OK;
    switch (value->kind) {
    case PSD_KIND_CALL:
        status = meet(w, value->as.call->callable, seen);
        if (status == PSD_OK) {
            status = meet(w, value->as.call->args, seen);
        }
        break;
    case PSD_KIND_PERSID: status = meet(w, value->as.ref, seen); break;
    default:
        for (uint32_t i = 0; i < value->count && status == PSD_OK; i++) {
            status = meet(w, value->as.items[i], seen);
        }
    }
    w->within--;
    return status;
}

/* A reference to `ref`, from the value being visited. */
static psd_status
meet(walk *w, psd_ref ref, bool *seen)
{
    const psd_pool *pool = w->survey->pool;
    if (ref == 0 || ref > pool->count) {
        return fail(w, "a reference to a value that does not exist");
    }
    const psd_value *value = psd_value_at(pool, ref);
    if (psd_is_inline(value)) {
        return PSD_OK;
    }
    if ((value->flags & PSD_VALUE_ANEW) != 0) {
        return value->kind == PSD_KIND_TUPLE ? PSD_OK : follow_plain(w, value, seen);
    }
    psd_note *note = &w->survey->notes[ref];
    if (note->order == DONE) {
        note->memo = PSD_MEMO_OFTEN;
        return PSD_OK;
    }
    if (note->order != 0) {
        psd_note *from = &w->survey->notes[w->visits[w->depth - 1].ref];
        note->memo = PSD_MEMO_OFTEN;
        from->group = from->group < note->order ? from->group : note->order;
        return PSD_OK;
    }
    if (value->kind == PSD_KIND_TEXT) {
        /* Most values: nothing is to be checked, and they lead nowhere. */
        note->order = DONE;
        return PSD_OK;
    }
    if (psd_is_plain(value)) {
        note->order = DONE;
        return follow_plain(w, value, seen);
    }
    psd_status status = check(w, value);
    if (status != PSD_OK) {
        return status;
    }
    use_words(w, value, seen);
    uint64_t children = psd_child_count(value);
    if (children > 0 && !psd_is_flat_tuple(pool, value)) {
        return enter(w, ref, children, note);
    }
    note->order = DONE;
    return PSD_OK;
}

/* All children have been visited. */
static void
leave(walk *w)
{
    psd_note *notes = w->survey->notes;
    psd_ref ref = w->visits[--w->depth].ref;
    uint32_t earliest = notes[ref].group;
    if (earliest == notes[ref].order) {
        bool alone = w->waiting[w->waiting_count - 1] == ref;
        uint32_t group = alone ? 0 : ++w->survey->group_count;
        psd_ref member;
        do {
            member = w->waiting[--w->waiting_count];
            notes[member].order = DONE;
            notes[member].group = group;
        } while (member != ref);
    }
    else {
        psd_note *parent = &notes[w->visits[w->depth - 1].ref];
        parent->group = parent->group < earliest ? parent->group : earliest;
    }
}

static psd_status
visit_all(walk *w, psd_ref root)
{
    bool seen[PSD_WORD_COUNT] = {false};
    psd_status status = meet(w, root, seen);
    while (status == PSD_OK && w->depth > 0) {
        visit *top = &w->visits[w->depth - 1];
        if (top->next == top->count) {
            leave(w);
        }
        else {
            const psd_value *value = psd_value_at(w->survey->pool, top->ref);
            status = meet(w, psd_child_at(value, top->next++), seen);
        }
    }
    return status;
}

psd_status
psd_survey_run(psd_survey *survey, const psd_pool *pool, psd_ref root, psd_alloc alloc,
               psd_error *err)
{
    walk w = {.survey = survey, .err = err};
    *survey = (psd_survey){.pool = pool, .alloc = alloc};
    size_t count = (size_t)pool->count + 1;
    if (count <= SIZE_MAX / sizeof *survey->notes) {
        survey->notes = alloc.resize(alloc.ctx, NULL, 0, count * sizeof *survey->notes);
    }
    if (survey->notes == NULL) {
        return fail_memory(&w);
    }
    memset(survey->notes, 0, count * sizeof *survey->notes);
    psd_status status = visit_all(&w, root);
    if (w.visits != NULL) {
        alloc.resize(alloc.ctx, w.visits, w.visit_capacity * sizeof *w.visits, 0);
    }
    if (w.waiting != NULL) {
        alloc.resize(alloc.ctx, w.waiting, w.waiting_capacity * sizeof *w.waiting, 0);
    }
    return status;
}

void
psd_survey_clear(psd_survey *survey)
{
    if (survey->notes != NULL) {
        size_t size = ((size_t)survey->pool->count + 1) * sizeof *survey->notes;
        survey->alloc.resize(survey->alloc.ctx, survey->notes, size, 0);
        survey->notes = NULL;
    }
}
