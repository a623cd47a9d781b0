/* SPDX-License-Identifier: Apache-2.0 */
#include "pickle_emit.h"

#include "pickle.h"

/* ---------------------------------------------------------------------- memo */

void
psd_emit_put(psd_emitter *e, uint32_t *memo)
{
    if (*memo == PSD_MEMO_ONCE) {
        return;
    }
    uint32_t number = e->memo_count++;
    *memo = number + 1;
    if (number <= UINT8_MAX) {
        psd_put_u8(e->buffer, PSD_OP_BINPUT);
        psd_put_u8(e->buffer, (uint8_t)number);
    }
    else {
        psd_put_u8(e->buffer, PSD_OP_LONG_BINPUT);
        psd_put_u32(e->buffer, number);
    }
}

void
psd_emit_get(psd_emitter *e, uint32_t memo)
{
    uint32_t number = memo - 1;
    if (number <= UINT8_MAX) {
        psd_put_u8(e->buffer, PSD_OP_BINGET);
        psd_put_u8(e->buffer, (uint8_t)number);
    }
    else {
        psd_put_u8(e->buffer, PSD_OP_LONG_BINGET);
        psd_put_u32(e->buffer, number);
    }
}

/* -------------------------------------------------------------------- leaves */

static void
put_counted(psd_emitter *e, uint8_t opcode, psd_span text)
{
    psd_put_u8(e->buffer, opcode);
    psd_put_u32(e->buffer, (uint32_t)text.size);
    psd_put_span(e->buffer, text);
}

/* By whichever of two opcodes its size takes: a byte, or four. */
static void
put_sized(psd_emitter *e, uint8_t short_opcode, uint8_t opcode, psd_span text)
{
    if (text.size > UINT8_MAX) {
        put_counted(e, opcode, text);
        return;
    }
    psd_put_u8(e->buffer, short_opcode);
    psd_put_u8(e->buffer, (uint8_t)text.size);
    psd_put_span(e->buffer, text);
}

static void
put_global(psd_emitter *e, psd_span module, psd_span name)
{
    psd_put_u8(e->buffer, PSD_OP_GLOBAL);
    psd_put_span(e->buffer, module);
    psd_put_u8(e->buffer, '\n');
    psd_put_span(e->buffer, name);
    psd_put_u8(e->buffer, '\n');
}

/* The spellings of Python 2, which readers of protocol 2 translate. */
void
psd_emit_word(psd_emitter *e, psd_word word)
{
    uint32_t *memo = &e->words[word];
    if (psd_is_memoized(*memo)) {
        psd_emit_get(e, *memo);
        return;
    }
    switch (word) {
    case PSD_WORD_ENCODE:
        put_global(e, PSD_LITERAL("_codecs"), PSD_LITERAL("encode"));
        break;
    case PSD_WORD_BYTEARRAY:
        put_global(e, PSD_LITERAL("__builtin__"), PSD_LITERAL("bytearray"));
        break;
    case PSD_WORD_SET:
        put_global(e, PSD_LITERAL("__builtin__"), PSD_LITERAL("set"));
        break;
    case PSD_WORD_FROZENSET:
        put_global(e, PSD_LITERAL("__builtin__"), PSD_LITERAL("frozenset"));
        break;
    case PSD_WORD_NEWOBJ_EX:
        put_global(e, PSD_LITERAL("copy_reg"), PSD_LITERAL("__newobj_ex__"));
        break;
    default: put_counted(e, PSD_OP_BINUNICODE, PSD_LITERAL("latin1")); break;
    }
    psd_emit_put(e, memo);
}

static void
put_int(psd_emitter *e, int64_t v)
{
    if (v >= 0 && v <= UINT8_MAX) {
        psd_put_u8(e->buffer, PSD_OP_BININT1);
        psd_put_u8(e->buffer, (uint8_t)v);
    }
    else if (v >= 0 && v <= UINT16_MAX) {
        psd_put_u8(e->buffer, PSD_OP_BININT2);
        psd_put_u16(e->buffer, (uint16_t)v);
    }
    else if (v >= INT32_MIN && v <= INT32_MAX) {
        psd_put_u8(e->buffer, PSD_OP_BININT);
        psd_put_u32(e->buffer, (uint32_t)v);
    }
    else {
        uint8_t bytes[8];
        psd_store_le64(bytes, (uint64_t)v);
        size_t size = sizeof bytes;
        uint8_t sign = v < 0 ? 0xFF : 0;
        while (bytes[size - 1] == sign && ((bytes[size - 2] ^ sign) & 0x80) == 0) {
            size--;
        }
        put_sized(e, PSD_OP_LONG1, PSD_OP_LONG4, (psd_span){bytes, size});
    }
}

/* The one number of a pickle that is big-endian. */
static void
put_float(psd_emitter *e, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    psd_put_u8(e->buffer, PSD_OP_BINFLOAT);
    for (int shift = 56; shift >= 0; shift -= 8) {
        psd_put_u8(e->buffer, (uint8_t)(bits >> shift));
    }
}

/* Bytes as a text whose code points they are. */
static psd_status
put_latin1(psd_emitter *e, psd_span bytes)
{
    uint64_t size = bytes.size;
    for (size_t i = 0; i < bytes.size && size <= UINT32_MAX; i++) {
        size += bytes.data[i] >> 7;
    }
    if (size > UINT32_MAX) {
        return psd_fail(e->err, PSD_ARGUMENT, PSD_NOWHERE,
                        "too long for a pickle of protocol 2");
    }
    psd_put_u8(e->buffer, PSD_OP_BINUNICODE);
    psd_put_u32(e->buffer, (uint32_t)size);
    uint8_t piece[256];
    size_t used = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t byte = bytes.data[i];
        if (used > sizeof piece - 2) {
            psd_put(e->buffer, piece, used);
            used = 0;
        }
        if (byte >= 0x80) {
            piece[used++] = (uint8_t)(0xC0 | byte >> 6);
            byte = byte & 0xBF;
        }
        piece[used++] = byte;
    }
    psd_put(e->buffer, piece, used);
    return PSD_OK;
}

/* Protocol 2 has no bytes; weights_only knows this call for them. */
static psd_status
put_bytes(psd_emitter *e, psd_span bytes)
{
    psd_emit_word(e, PSD_WORD_ENCODE);
    psd_status status = put_latin1(e, bytes);
    if (status == PSD_OK) {
        psd_emit_word(e, PSD_WORD_LATIN1);
        psd_put_u8(e->buffer, PSD_OP_TUPLE2);
        psd_put_u8(e->buffer, PSD_OP_REDUCE);
    }
    return status;
}

static psd_status
put_bytearray(psd_emitter *e, psd_span bytes)
{
    psd_status status = PSD_OK;
    psd_emit_word(e, PSD_WORD_BYTEARRAY);
    if (bytes.size > 0) {
        status = put_bytes(e, bytes);
    }
    psd_put_u8(e->buffer, bytes.size > 0 ? PSD_OP_TUPLE1 : PSD_OP_EMPTY_TUPLE);
    psd_put_u8(e->buffer, PSD_OP_REDUCE);
    return status;
}

psd_status
psd_emit_leaf(psd_emitter *e, const psd_value *value, uint32_t *memo)
{
    psd_status status = PSD_OK;
    psd_span text = psd_text_of(value);
    switch (value->kind) {
    case PSD_KIND_TEXT: put_counted(e, PSD_OP_BINUNICODE, text); break;
    case PSD_KIND_LONG: put_sized(e, PSD_OP_LONG1, PSD_OP_LONG4, text); break;
    case PSD_KIND_STRING:
        put_sized(e, PSD_OP_SHORT_BINSTRING, PSD_OP_BINSTRING, text);
        break;
    case PSD_KIND_BYTES: status = put_bytes(e, text); break;
    case PSD_KIND_BYTEARRAY: status = put_bytearray(e, text); break;
    default: put_global(e, value->as.global->module, value->as.global->name); break;
    }
    psd_emit_put(e, memo);
    return status;
}

void
psd_emit_inline(psd_emitter *e, const psd_value *value)
{
    switch (value->kind) {
    case PSD_KIND_NONE: psd_put_u8(e->buffer, PSD_OP_NONE); break;
    case PSD_KIND_BOOL:
        psd_put_u8(e->buffer, value->as.boolean ? PSD_OP_NEWTRUE : PSD_OP_NEWFALSE);
        break;
    case PSD_KIND_INT: put_int(e, value->as.integer); break;
    case PSD_KIND_FLOAT: put_float(e, value->as.real); break;
    default: psd_put_u8(e->buffer, PSD_OP_EMPTY_TUPLE); break;
    }
}
