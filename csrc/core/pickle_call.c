/* SPDX-License-Identifier: Apache-2.0
 *
 * Opcodes that name, call and build.  Here they only write down what they were
 * told: a name is a text, and a call is a value like others.
 */
#include "pickle_machine.h"

/* Longer than any name that means something. */
#define NAME_SIZE_MAX 1024u

static inline uint32_t
position_of(const psd_machine *m)
{
    return (uint32_t)(m->opcode - m->program.data);
}

/* ------------------------------------------------------------------- globals */

/* Empty names are refused as CPython refuses them. */
static psd_status
check_name(psd_machine *m, psd_span name)
{
    if (name.size > NAME_SIZE_MAX) {
        return psd_machine_fail(m, PSD_PICKLE,
                                "the name of a global is longer than 1 KiB");
    }
    return name.size > 0 ? PSD_OK
                         : psd_machine_fail(m, PSD_PICKLE, "a global without a name");
}

static psd_status
take_name(psd_machine *m, psd_span *name)
{
    if (psd_machine_take_line(m, NAME_SIZE_MAX, name)) {
        return check_name(m, *name);
    }
    size_t left = (size_t)(m->end - m->next);
    return left <= NAME_SIZE_MAX ? psd_machine_fail_operand(m)
                                 : check_name(m, (psd_span){m->next, left});
}

psd_status
psd_machine_global(psd_machine *m)
{
    psd_span module, name;
    psd_status status = take_name(m, &module);
    if (status == PSD_OK) {
        status = take_name(m, &name);
    }
    if (status != PSD_OK) {
        return status;
    }
    return psd_machine_push_born(m,
                                 psd_new_global(m->pool, module, name, position_of(m)));
}

/* The text at `depth` as a name. */
static psd_status
name_at(psd_machine *m, uint32_t depth, psd_span *name)
{
    psd_kind kind = psd_machine_kind_at(m, depth);
    if (kind != PSD_KIND_TEXT && kind != PSD_KIND_STRING) {
        return psd_machine_fail(m, PSD_PICKLE, "the name of a global is no text");
    }
    *name = psd_text_of(psd_value_at(m->pool, m->stack[depth]));
    return check_name(m, *name);
}

psd_status
psd_machine_stack_global(psd_machine *m)
{
    psd_span module, name;
    if (!psd_machine_holds(m, 2)) {
        return psd_machine_fail_stack(m, 2);
    }
    psd_status status = name_at(m, m->depth - 2, &module);
    if (status == PSD_OK) {
        status = name_at(m, m->depth - 1, &name);
    }
    if (status != PSD_OK) {
        return status;
    }
    m->depth -= 2;
    return psd_machine_push_born(m,
                                 psd_new_global(m->pool, module, name, position_of(m)));
}

/* Cut where it is too long; "?" for one that is missing or was to be computed. */
static psd_span
doubtful_name(psd_span name)
{
    if (name.size == 0) {
        return PSD_LITERAL("?");
    }
    return (psd_span){name.data,
                      name.size <= NAME_SIZE_MAX ? name.size : NAME_SIZE_MAX};
}

static psd_span
text_at(const psd_machine *m, uint32_t depth)
{
    psd_kind kind = psd_machine_kind_at(m, depth);
    bool is_text = kind == PSD_KIND_TEXT || kind == PSD_KIND_STRING;
    return is_text ? psd_text_of(psd_value_at(m->pool, m->stack[depth]))
                   : (psd_span){NULL, 0};
}

/* The line at `*line`, which is known to end before `end`. */
static psd_span
pass_line(const uint8_t **line, const uint8_t *end)
{
    const uint8_t *start = *line;
    const uint8_t *newline = memchr(start, '\n', (size_t)(end - start));
    *line = newline + 1;
    return (psd_span){start, (size_t)(newline - start)};
}

psd_status
psd_machine_doubtful_global(psd_machine *m)
{
    psd_span module, name;
    if (*m->opcode != PSD_OP_STACK_GLOBAL) {
        const uint8_t *line = m->opcode + 1;
        module = pass_line(&line, m->next);
        name = pass_line(&line, m->next);
    }
    else if (psd_machine_holds(m, 2)) {
        module = text_at(m, m->depth - 2);
        name = text_at(m, m->depth - 1);
        m->depth -= 2;
    }
    else {
        module = name = (psd_span){NULL, 0};
    }
    return psd_machine_push_born(m,
                                 psd_new_global(m->pool, doubtful_name(module),
                                                doubtful_name(name), position_of(m)));
}

/* --------------------------------------------------------------------- calls */

static psd_status
push_call(psd_machine *m, psd_call_form form, psd_ref callable, psd_ref args,
          psd_ref kwargs)
{
    /* A global, what a call gave and a persistent id may be callable; data is not. */
    if (psd_kind_of(m->pool, callable) < PSD_KIND_GLOBAL) {
        return psd_machine_fail(m, PSD_PICKLE, "a call of a value that is data");
    }
    return psd_machine_push_born(
        m, psd_new_call(m->pool, form, callable, args, kwargs, position_of(m)));
}

psd_status
psd_machine_call(psd_machine *m, psd_call_form form)
{
    if (!psd_machine_holds(m, 2)) {
        return psd_machine_fail_stack(m, 2);
    }
    m->depth -= 2;
    return push_call(m, form, m->stack[m->depth], m->stack[m->depth + 1], 0);
}

psd_status
psd_machine_newobj_ex(psd_machine *m)
{
    if (!psd_machine_holds(m, 3)) {
        return psd_machine_fail_stack(m, 3);
    }
    m->depth -= 3;
    const psd_ref *refs = m->stack + m->depth;
    if (psd_kind_of(m->pool, refs[2]) != PSD_KIND_DICT) {
        return psd_machine_fail(m, PSD_PICKLE, "keyword arguments that are no dict");
    }
    return push_call(m, PSD_CALL_NEWOBJ_EX, refs[0], refs[1], refs[2]);
}

/* INST: the class is in the program, the arguments are above the mark. */
psd_status
psd_machine_inst(psd_machine *m)
{
    uint32_t from = 0;
    psd_status status = psd_machine_pop_mark(m, &from);
    if (status == PSD_OK) {
        status = psd_machine_push_items(m, PSD_KIND_TUPLE, from);
    }
    if (status != PSD_OK) {
        return status;
    }
    status = psd_machine_global(m);
    if (status != PSD_OK) {
        m->depth--; /* what goes on after a failure finds no tuple of a half call */
        return status;
    }
    m->depth -= 2;
    const psd_ref *refs = m->stack + m->depth;
    return push_call(m, PSD_CALL_INSTANCE, refs[1], refs[0], 0);
}

/* OBJ: the class and then the arguments are above the mark. */
psd_status
psd_machine_obj(psd_machine *m)
{
    uint32_t from = 0;
    if (m->mark_count > 0 && !psd_machine_holds(m, 1)) {
        return psd_machine_fail_stack(m, 1);
    }
    psd_status status = psd_machine_pop_mark(m, &from);
    if (status == PSD_OK) {
        status = psd_machine_push_items(m, PSD_KIND_TUPLE, from + 1);
    }
    if (status != PSD_OK) {
        return status;
    }
    m->depth -= 2;
    const psd_ref *refs = m->stack + m->depth;
    return push_call(m, PSD_CALL_INSTANCE, refs[0], refs[1], 0);
}

psd_status
psd_machine_build(psd_machine *m)
{
    if (!psd_machine_holds(m, 2)) {
        return psd_machine_fail_stack(m, 2);
    }
    m->depth--;
    psd_kind target = psd_machine_kind_at(m, m->depth - 1);
    if (target == PSD_KIND_GLOBAL) {
        return psd_machine_fail(m, PSD_CALL,
                                "a state for a global, which changes what it names");
    }
    if (target != PSD_KIND_CALL) {
        return psd_machine_fail(m, PSD_PICKLE,
                                "a state for a value that no call has made");
    }
    bool done = psd_build(m->pool, m->stack[m->depth - 1], m->stack[m->depth]);
    return done ? PSD_OK : psd_machine_fail_memory(m);
}

/* ------------------------------------------------------------- persistent ids */

psd_status
psd_machine_binpersid(psd_machine *m)
{
    if (!psd_machine_holds(m, 1)) {
        return psd_machine_fail_stack(m, 1);
    }
    m->depth--;
    m->pool->persid_count++;
    return psd_machine_push_value(m, (psd_value){.kind = PSD_KIND_PERSID,
                                                 .count = position_of(m),
                                                 .as.ref = m->stack[m->depth]});
}

psd_status
psd_machine_persid_line(psd_machine *m)
{
    psd_span line;
    if (!psd_machine_take_line(m, UINT32_MAX, &line)) {
        return psd_machine_fail_operand(m);
    }
    psd_status status =
        psd_machine_push_born(m, psd_new_text(m->pool, PSD_KIND_TEXT, line));
    return status == PSD_OK ? psd_machine_binpersid(m) : status;
}
