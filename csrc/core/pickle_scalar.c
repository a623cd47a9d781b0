/* SPDX-License-Identifier: Apache-2.0
 *
 * Opcodes whose operand is a number or a text in need of decoding.
 */
#include "pickle_machine.h"
#include "pickle_text.h"

/* The line that is the operand of an opcode of protocol 0. */
static psd_status
take_line(psd_machine *m, psd_span *line)
{
    return psd_machine_take_line(m, UINT32_MAX, line) ? PSD_OK
                                                      : psd_machine_fail_operand(m);
}

/* Sizes that are signed: LONG4's and BINSTRING's. */
static psd_status
take_size(psd_machine *m, const uint8_t *operand, uint32_t *size)
{
    *size = psd_load_le32(operand);
    return *size <= INT32_MAX ? PSD_OK
                              : psd_machine_fail(m, PSD_PICKLE, "a size below zero");
}

/* ------------------------------------------------------------------- numbers */

static psd_status
push_integer(psd_machine *m, psd_integer integer)
{
    if (integer.is_small) {
        return psd_machine_push_int(m, integer.small);
    }
    return psd_machine_push_born(m,
                                 psd_new_text(m->pool, PSD_KIND_LONG, integer.bytes));
}

static psd_status
fail_integer_size(psd_machine *m, uint64_t size)
{
    psd_machine_fail(m, PSD_LIMIT, "an integer is longer than allowed");
    return psd_fail_numbers(m->err, size, m->limits->integer_size);
}

psd_status
psd_machine_long(psd_machine *m, uint32_t size)
{
    psd_span bytes;
    if (!psd_machine_take(m, size, &bytes)) {
        return psd_machine_fail_operand(m);
    }
    if (size > m->limits->integer_size) {
        return fail_integer_size(m, size);
    }
    return push_integer(m, psd_integer_of(bytes));
}

psd_status
psd_machine_long4(psd_machine *m, const uint8_t *operand)
{
    uint32_t size;
    psd_status status = take_size(m, operand, &size);
    return status == PSD_OK ? psd_machine_long(m, size) : status;
}

static psd_status
push_decimal(psd_machine *m, psd_span line)
{
    psd_integer integer;
    switch (psd_text_integer(line, m->limits->integer_size, m->pool->arena, &integer)) {
    case PSD_OK: return push_integer(m, integer);
    case PSD_LIMIT: return fail_integer_size(m, line.size);
    case PSD_NO_MEMORY: return psd_machine_fail_memory(m);
    default: return psd_machine_fail(m, PSD_PICKLE, "a line that is no integer");
    }
}

/* Protocols 0 and 1 have no other form for bools. */
psd_status
psd_machine_int_line(psd_machine *m)
{
    psd_span line;
    psd_status status = take_line(m, &line);
    if (status != PSD_OK) {
        return status;
    }
    bool truth = psd_span_equal(line, PSD_LITERAL("01"));
    if (truth || psd_span_equal(line, PSD_LITERAL("00"))) {
        return psd_machine_push_value(
            m, (psd_value){.kind = PSD_KIND_BOOL, .as.boolean = truth});
    }
    return push_decimal(m, line);
}

psd_status
psd_machine_long_line(psd_machine *m)
{
    psd_span line;
    psd_status status = take_line(m, &line);
    if (status != PSD_OK) {
        return status;
    }
    if (line.size > 0 && line.data[line.size - 1] == 'L') {
        line.size--;
    }
    return push_decimal(m, line);
}

static psd_status
push_real(psd_machine *m, double v)
{
    return psd_machine_push_value(m, (psd_value){.kind = PSD_KIND_FLOAT, .as.real = v});
}

/* The one number of a pickle that is big-endian. */
psd_status
psd_machine_binfloat(psd_machine *m, const uint8_t *operand)
{
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) {
        bits = bits << 8 | operand[i];
    }
    double v;
    memcpy(&v, &bits, sizeof v);
    return push_real(m, v);
}

psd_status
psd_machine_float_line(psd_machine *m)
{
    psd_span line;
    double v;
    psd_status status = take_line(m, &line);
    if (status != PSD_OK) {
        return status;
    }
    if (!psd_text_float(line, &v)) {
        return psd_machine_fail(m, PSD_PICKLE, "a line that is no float");
    }
    return push_real(m, v);
}

/* --------------------------------------------------------------------- texts */

psd_status
psd_machine_binstring(psd_machine *m, const uint8_t *operand)
{
    uint32_t size;
    psd_status status = take_size(m, operand, &size);
    return status == PSD_OK ? psd_machine_push_text(m, PSD_KIND_STRING, size) : status;
}

psd_status
psd_machine_text_line(psd_machine *m, psd_kind kind)
{
    psd_span line, text = {NULL, 0};
    psd_status status = take_line(m, &line);
    if (status != PSD_OK) {
        return status;
    }
    psd_arena *arena = m->pool->arena;
    status = kind == PSD_KIND_STRING ? psd_text_string(line, arena, &text)
                                     : psd_text_unicode(line, arena, &text);
    if (status == PSD_NO_MEMORY) {
        return psd_machine_fail_memory(m);
    }
    if (status != PSD_OK) {
        return psd_machine_fail(m, PSD_PICKLE,
                                kind == PSD_KIND_STRING
                                    ? "a string with broken quotes or escapes"
                                    : "a text with broken escapes");
    }
    return psd_machine_push_born(m, psd_new_text(m->pool, kind, text));
}
