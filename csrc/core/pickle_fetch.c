/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a pickle ends.  A pickle does not tell its size: it ends at its STOP, and
 * what follows is something else.  So its opcodes are walked, and only their
 * operands' sizes looked at.
 */
#include "pickle_machine.h"

const uint8_t psd_operand_sizes[256] = {
    [PSD_OP_PROTO] = 1,           [PSD_OP_FRAME] = 8,
    [PSD_OP_BININT] = 4,          [PSD_OP_BININT1] = 1,
    [PSD_OP_BININT2] = 2,         [PSD_OP_LONG1] = 1,
    [PSD_OP_LONG4] = 4,           [PSD_OP_BINFLOAT] = 8,
    [PSD_OP_BINUNICODE] = 4,      [PSD_OP_SHORT_BINUNICODE] = 1,
    [PSD_OP_BINUNICODE8] = 8,     [PSD_OP_BINSTRING] = 4,
    [PSD_OP_SHORT_BINSTRING] = 1, [PSD_OP_BINBYTES] = 4,
    [PSD_OP_SHORT_BINBYTES] = 1,  [PSD_OP_BINBYTES8] = 8,
    [PSD_OP_BYTEARRAY8] = 8,      [PSD_OP_BINPUT] = 1,
    [PSD_OP_LONG_BINPUT] = 4,     [PSD_OP_BINGET] = 1,
    [PSD_OP_LONG_BINGET] = 4,
};

/* Opcodes with more behind them than operands of a fixed size. */
static const bool has_more[256] = {
    [PSD_OP_SHORT_BINUNICODE] = true,
    [PSD_OP_BINUNICODE] = true,
    [PSD_OP_BINUNICODE8] = true,
    [PSD_OP_SHORT_BINSTRING] = true,
    [PSD_OP_BINSTRING] = true,
    [PSD_OP_SHORT_BINBYTES] = true,
    [PSD_OP_BINBYTES] = true,
    [PSD_OP_BINBYTES8] = true,
    [PSD_OP_BYTEARRAY8] = true,
    [PSD_OP_LONG1] = true,
    [PSD_OP_LONG4] = true,
    [PSD_OP_EXT1] = true,
    [PSD_OP_EXT2] = true,
    [PSD_OP_EXT4] = true,
    [PSD_OP_GLOBAL] = true,
    [PSD_OP_INST] = true,
    [PSD_OP_INT] = true,
    [PSD_OP_LONG] = true,
    [PSD_OP_FLOAT] = true,
    [PSD_OP_STRING] = true,
    [PSD_OP_UNICODE] = true,
    [PSD_OP_PERSID] = true,
    [PSD_OP_PUT] = true,
    [PSD_OP_GET] = true,
};

/* The first fetch of a pickle from afar, of which a tar may hold very many small ones;
 * each further one is twice as long. */
#define FIRST_WINDOW ((uint64_t)1 << 12)

/* What the operand itself counts beyond its own bytes. */
static uint64_t
counted_size(uint8_t opcode, const uint8_t *operand)
{
    switch (opcode) {
    case PSD_OP_SHORT_BINUNICODE:
    case PSD_OP_SHORT_BINSTRING:
    case PSD_OP_SHORT_BINBYTES:
    case PSD_OP_LONG1: return operand[0];
    case PSD_OP_BINUNICODE:
    case PSD_OP_BINSTRING:
    case PSD_OP_BINBYTES:
    case PSD_OP_LONG4: return psd_load_le32(operand);
    case PSD_OP_BINUNICODE8:
    case PSD_OP_BINBYTES8:
    case PSD_OP_BYTEARRAY8: return psd_load_le64(operand);
    /* The machine refuses these before it looks at an operand. */
    case PSD_OP_EXT1: return 1;
    case PSD_OP_EXT2: return 2;
    case PSD_OP_EXT4: return 4;
    default: return 0;
    }
}

static unsigned
line_count(uint8_t opcode)
{
    switch (opcode) {
    case PSD_OP_GLOBAL:
    case PSD_OP_INST: return 2;
    case PSD_OP_INT:
    case PSD_OP_LONG:
    case PSD_OP_FLOAT:
    case PSD_OP_STRING:
    case PSD_OP_UNICODE:
    case PSD_OP_PERSID:
    case PSD_OP_PUT:
    case PSD_OP_GET: return 1;
    default: return 0;
    }
}

/* The end of an opcode of which has_more is true, its operand's end at hand. */
static const uint8_t *
end_of_more(const uint8_t *opcode, const uint8_t *next, const uint8_t *end)
{
    const uint8_t *operand = opcode + 1;
    uint64_t counted = counted_size(*opcode, operand);
    if (counted > (uint64_t)(end - next)) {
        return NULL;
    }
    next += counted;
    for (unsigned lines = line_count(*opcode); lines > 0; lines--) {
        const uint8_t *newline = memchr(next, '\n', (size_t)(end - next));
        if (newline == NULL) {
            return NULL;
        }
        next = newline + 1;
    }
    return next;
}

static inline const uint8_t *
opcode_end(const uint8_t *opcode, const uint8_t *end)
{
    const uint8_t *next = opcode + 1;
    if (psd_operand_sizes[*opcode] > end - next) {
        return NULL;
    }
    next += psd_operand_sizes[*opcode];
    return has_more[*opcode] ? end_of_more(opcode, next, end) : next;
}

const uint8_t *
psd_opcode_end(const uint8_t *opcode, const uint8_t *end)
{
    return opcode_end(opcode, end);
}

size_t
psd_pickle_measure(psd_span program)
{
    const uint8_t *next = program.data, *end = program.data + program.size;
    while (next < end) {
        if (*next == PSD_OP_STOP) {
            return (size_t)(next + 1 - program.data);
        }
        next = opcode_end(next, end);
        if (next == NULL) {
            return 0;
        }
    }
    return 0;
}

/* Texts and bytes shorter than this hold no pickle that does anything. */
#define PICKLE_SIZE_MIN 3u

static bool
is_opcode(uint8_t byte)
{
    switch (byte) {
#define CASE(opcode, name) case opcode:
        PSD_OPCODES(CASE)
#undef CASE
        return true;
    default: return false;
    }
}

bool
psd_pickle_may_name(psd_span program)
{
    const uint8_t *next = program.data, *end = program.data + program.size;
    while (next != NULL && next < end && is_opcode(*next)) {
        const uint8_t *opcode = next;
        next = opcode_end(opcode, end);
        switch (*opcode) {
        case PSD_OP_GLOBAL:
        case PSD_OP_INST:
        case PSD_OP_STACK_GLOBAL:
        case PSD_OP_EXT1:
        case PSD_OP_EXT2:
        case PSD_OP_EXT4:
        case PSD_OP_STRING: return true;
        case PSD_OP_BINSTRING:
        case PSD_OP_SHORT_BINSTRING:
        case PSD_OP_BINBYTES:
        case PSD_OP_SHORT_BINBYTES:
        case PSD_OP_BINBYTES8:
        case PSD_OP_BYTEARRAY8:
            if (next != NULL && counted_size(*opcode, opcode + 1) >= PICKLE_SIZE_MIN) {
                return true;
            }
            break;
        default: break;
        }
    }
    return false;
}

psd_status
psd_pickle_fetch(const psd_input *input, uint64_t offset, uint64_t end,
                 const psd_limits *limits, psd_arena *arena, psd_span *program,
                 psd_error *err)
{
    uint64_t left = offset <= end ? end - offset : 0;
    uint64_t most = left < limits->pickle_size ? left : limits->pickle_size;
    most = most < SIZE_MAX ? most : SIZE_MAX;
    psd_arena scratch;
    psd_arena_init(&scratch, arena->alloc);
    psd_status status = PSD_OK;
    psd_span window = {NULL, 0};
    size_t size = 0;
    /* The whole rest at once where it is at hand anyway. */
    for (uint64_t w = input->data != NULL ? most : FIRST_WINDOW; size == 0; w *= 2) {
        psd_arena_clear(&scratch);
        status =
            psd_input_view(input, offset, w < most ? w : most, &scratch, &window, err);
        if (status != PSD_OK || most == 0) {
            break;
        }
        size = psd_pickle_measure(window);
        if (w >= most) {
            break;
        }
    }
    if (status == PSD_OK && size == 0 && left > most) {
        psd_fail(err, PSD_LIMIT, offset, "a pickle is larger than allowed");
        status = psd_fail_numbers(err, left, limits->pickle_size);
    }
    if (status == PSD_OK) {
        /* Without an end, all there is: the machine tells where it goes wrong. */
        window.size = size == 0 ? (size_t)most : size;
        *program = psd_arena_copy(arena, window);
        if (program->data == NULL) {
            status = psd_fail(err, PSD_NO_MEMORY, offset, "out of memory");
        }
    }
    psd_arena_clear(&scratch);
    return status;
}
