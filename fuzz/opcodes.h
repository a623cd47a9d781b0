/* SPDX-License-Identifier: Apache-2.0
 *
 * Mutations of pickles that keep them pickles: opcode by opcode, by names and texts
 * that mean something, by whole calls of torch's rebuild functions.  Works on any bytes
 * in which pickles stand, one after another or among others.
 */
#ifndef PSD_FUZZ_OPCODES_H
#define PSD_FUZZ_OPCODES_H

#include "fuzz.h"

/* xorshift32: the engine gives the seed, so that a run can be repeated. */
typedef struct {
    uint32_t state;
} fuzz_dice;

static inline size_t
fuzz_below(fuzz_dice *dice, size_t bound)
{
    dice->state ^= dice->state << 13;
    dice->state ^= dice->state >> 17;
    dice->state ^= dice->state << 5;
    return bound == 0 ? 0 : (dice->state >> 3) % bound;
}

/* ------------------------------------------------------------------- reading */

static inline size_t
fuzz_lines(const uint8_t *data, size_t left, unsigned lines)
{
    size_t at = 1;
    while (lines > 0 && at < left) {
        lines -= data[at++] == '\n';
    }
    return lines == 0 ? at : 0;
}

/* The size of the opcode that begins here, with its operand; 0 if none does. */
static inline size_t
fuzz_opcode_size(const uint8_t *data, size_t left)
{
    static const uint8_t numbers[][2] = {
        {PSD_OP_BININT, 4},   {PSD_OP_BININT1, 1},     {PSD_OP_BININT2, 2},
        {PSD_OP_BINFLOAT, 8}, {PSD_OP_BINGET, 1},      {PSD_OP_LONG_BINGET, 4},
        {PSD_OP_BINPUT, 1},   {PSD_OP_LONG_BINPUT, 4}, {PSD_OP_PROTO, 1},
        {PSD_OP_FRAME, 8},    {PSD_OP_EXT1, 1},        {PSD_OP_EXT2, 2},
        {PSD_OP_EXT4, 4},
    };
    static const uint8_t counted[][2] = {
        {PSD_OP_BINBYTES, 4},   {PSD_OP_SHORT_BINBYTES, 1},   {PSD_OP_BINSTRING, 4},
        {PSD_OP_BINUNICODE, 4}, {PSD_OP_SHORT_BINSTRING, 1},  {PSD_OP_LONG1, 1},
        {PSD_OP_LONG4, 4},      {PSD_OP_SHORT_BINUNICODE, 1}, {PSD_OP_BINUNICODE8, 8},
        {PSD_OP_BINBYTES8, 8},  {PSD_OP_BYTEARRAY8, 8},
    };
    size_t size = 1;
    switch (data[0]) {
    case PSD_OP_FLOAT:
    case PSD_OP_INT:
    case PSD_OP_LONG:
    case PSD_OP_PERSID:
    case PSD_OP_STRING:
    case PSD_OP_UNICODE:
    case PSD_OP_GET:
    case PSD_OP_PUT: return fuzz_lines(data, left, 1);
    case PSD_OP_GLOBAL:
    case PSD_OP_INST: return fuzz_lines(data, left, 2);
    default: break;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i][0] == data[0]) {
            size = 1 + (size_t)numbers[i][1];
        }
    }
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
        if (counted[i][0] == data[0]) {
            uint64_t count = 0;
            size = 1 + (size_t)counted[i][1];
            for (size_t k = 1; k < size && k < left; k++) {
                count |= (uint64_t)data[k] << 8 * (k - 1);
            }
            if (size > left || count > left - size) {
                return 0;
            }
            size += (size_t)count;
        }
    }
    return size <= left ? size : 0;
}

enum { FUZZ_OPCODES_MOST = 2048 };

typedef struct {
    size_t begin[FUZZ_OPCODES_MOST + 1]; /* of each, and the end of the last */
    size_t count;
} fuzz_program;

static inline bool
fuzz_is_opcode(uint8_t byte)
{
    switch (byte) {
#define PSD_OPCODE_CASE(value, name) case value:
        PSD_OPCODES(PSD_OPCODE_CASE)
#undef PSD_OPCODE_CASE
        return true;
    default: return false;
    }
}

/* Opcodes from one of the pickles on, up to the first byte that is none. */
static inline void
fuzz_read_program(fuzz_program *p, const uint8_t *data, size_t size, size_t from)
{
    size_t at = from;
    p->count = 0;
    while (at < size && p->count < FUZZ_OPCODES_MOST && fuzz_is_opcode(data[at])) {
        size_t step = fuzz_opcode_size(data + at, size - at);
        if (step == 0) {
            break;
        }
        p->begin[p->count++] = at;
        at += step;
    }
    p->begin[p->count] = at;
}

/* One of the places where a pickle begins. */
static inline size_t
fuzz_find_pickle(const uint8_t *data, size_t size, fuzz_dice *dice)
{
    size_t found = 0, seen = 0;
    for (size_t at = 0; at + 2 < size; at++) {
        if (data[at] == PSD_OP_PROTO && data[at + 1] <= 5 &&
            fuzz_below(dice, ++seen) == 0) {
            found = at;
        }
    }
    return found;
}

/* ------------------------------------------------------------------- writing */

/* Bytes that are put together before they are set into the program. */
typedef struct {
    uint8_t data[4096];
    size_t size;
} fuzz_phrase;

static inline void
fuzz_say(fuzz_phrase *p, const void *bytes, size_t size)
{
    if (size <= sizeof p->data - p->size) {
        memcpy(p->data + p->size, bytes, size);
        p->size += size;
    }
}

static inline void
fuzz_say_op(fuzz_phrase *p, unsigned opcode)
{
    uint8_t byte = (uint8_t)opcode;
    fuzz_say(p, &byte, 1);
}

static inline void
fuzz_say_text(fuzz_phrase *p, const char *text)
{
    uint8_t head[5] = {PSD_OP_BINUNICODE};
    psd_store_le32(head + 1, (uint32_t)strlen(text));
    fuzz_say(p, head, sizeof head);
    fuzz_say(p, text, strlen(text));
}

static inline void
fuzz_say_int(fuzz_phrase *p, int64_t v)
{
    uint8_t bytes[10] = {PSD_OP_LONG1, 8};
    if (v >= 0 && v <= UINT8_MAX) {
        bytes[0] = PSD_OP_BININT1;
        bytes[1] = (uint8_t)v;
        fuzz_say(p, bytes, 2);
        return;
    }
    psd_store_le64(bytes + 2, (uint64_t)v);
    fuzz_say(p, bytes, sizeof bytes);
}

/* Numbers at which arithmetic breaks, among small ones. */
static inline int64_t
fuzz_number(fuzz_dice *dice)
{
    static const int64_t edges[] = {
        -1,        1 << 16,       INT32_MAX,     (int64_t)1 << 32,
        INT64_MAX, INT64_MAX / 8, INT64_MIN + 1, (int64_t)1 << 61,
    };
    return fuzz_below(dice, 8) == 0 ? edges[fuzz_below(dice, 8)]
                                    : (int64_t)fuzz_below(dice, 5);
}

#define FUZZ_PICK(dice, list) list[fuzz_below(dice, sizeof(list) / sizeof *(list))]

static const char *const fuzz_texts[] = {
    "storage",
    "cpu",
    "meta",
    "cuda:0",
    "0",
    "1",
    "2",
    "10",
    "conj",
    "neg",
    "_data",
    "values",
    "offsets",
    "lengths",
    "weight",
    "training",
    "module",
    "version",
    "state",
    "_modules",
    "_parameters",
    "_buffers",
    "a.b",
    "",
    "latin1",
    "_is_full_backward_hook",
    "_version",
    "_metadata",
    "_non_persistent_buffers_set",
    "_extra_state",
    "torch.strided",
    "torch.sparse_coo",
    "torch.sparse_csr",
    "_orig_mod",
    "state_dict",
    "reduce_package",
    "_min_seqlen_tensor",
    "_state_dict_hooks",
};

static const char *const fuzz_functions[] = {
    "torch._utils\n_rebuild_tensor\n",
    "torch._utils\n_rebuild_tensor_v2\n",
    "torch._utils\n_rebuild_tensor_v3\n",
    "torch._utils\n_rebuild_parameter\n",
    "torch._utils\n_rebuild_parameter_with_state\n",
    "torch._utils\n_rebuild_meta_tensor_no_storage\n",
    "torch._utils\n_rebuild_device_tensor_from_cpu_tensor\n",
    "torch._utils\n_rebuild_qtensor\n",
    "torch._utils\n_rebuild_sparse_tensor\n",
    "torch._utils\n_rebuild_sparse_csr_tensor\n",
    "torch._utils\n_rebuild_nested_tensor\n",
    "torch._utils\n_rebuild_wrapper_subclass\n",
    "torch.nested._internal.nested_tensor\n_rebuild_njt\n",
    "torch._tensor\n_rebuild_from_type_v2\n",
    "torch.nn.parameter\nParameter\n",
    "torch.nn.parameter\nBuffer\n",
    "torch\nTensor\n",
    "torch\nSize\n",
    "torch\nFloatTensor\n",
    "torch.storage\n_load_from_bytes\n",
    "torch.storage\nUntypedStorage\n",
    "torch.serialization\n_get_layout\n",
    "torch.fx.graph_module\nreduce_graph_module\n",
    "torch._dynamo.eval_frame\nOptimizedModule\n",
    "torch.jit._pickle\nrestore_type_tag\n",
    "torch.nn.modules.linear\nLinear\n",
    "torch.nn.modules.batchnorm\nBatchNorm1d\n",
    "torch.ao.nn.quantized.modules.linear\nLinearPackedParams\n",
    "__builtin__\ngetattr\n",
    "__builtin__\nset\n",
    "_codecs\nencode\n",
    "collections\nOrderedDict\n",
    "posix\nsystem\n",
};

static const char *const fuzz_classes[] = {
    "torch\nFloatStorage\n",
    "torch\nLongStorage\n",
    "torch\nByteStorage\n",
    "torch\nBoolStorage\n",
    "torch\nComplexDoubleStorage\n",
    "torch\nBFloat16Storage\n",
    "torch\nQUInt8Storage\n",
    "torch\nQUInt4x2Storage\n",
    "torch.storage\nUntypedStorage\n",
    "torch\nfloat32\n",
    "torch\nfloat8_e4m3fn\n",
    "torch\nfloat4_e2m1fn_x2\n",
    "torch\nuint64\n",
    "torch\nqint8\n",
    "torch\nper_tensor_affine\n",
    "torch\nper_channel_affine\n",
    "torch\nper_channel_affine_float_qparams\n",
    "torch.nested._internal.nested_tensor\nNestedTensor\n",
    "my.tensors\nWrapped\n",
};

static inline void
fuzz_say_global(fuzz_phrase *p, const char *lines)
{
    fuzz_say_op(p, PSD_OP_GLOBAL);
    fuzz_say(p, lines, strlen(lines));
}

static inline void
fuzz_say_numbers(fuzz_phrase *p, fuzz_dice *dice, size_t rank)
{
    fuzz_say_op(p, PSD_OP_MARK);
    for (size_t i = 0; i < rank; i++) {
        fuzz_say_int(p, fuzz_number(dice));
    }
    fuzz_say_op(p, PSD_OP_TUPLE);
}

static inline void
fuzz_say_ordered(fuzz_phrase *p)
{
    fuzz_say_global(p, "collections\nOrderedDict\n");
    fuzz_say_op(p, PSD_OP_EMPTY_TUPLE);
    fuzz_say_op(p, PSD_OP_REDUCE);
}

/* The persistent id of a storage; one of few keys, each mostly of one class and size. */
static inline void
fuzz_say_storage(fuzz_phrase *p, fuzz_dice *dice)
{
    size_t key = fuzz_below(dice, 3);
    char text[2] = {(char)('0' + key), 0};
    bool odd = fuzz_below(dice, 8) == 0;
    fuzz_say_op(p, PSD_OP_MARK);
    fuzz_say_text(p, "storage");
    fuzz_say_global(p, odd ? FUZZ_PICK(dice, fuzz_classes) : fuzz_classes[key]);
    fuzz_say_text(p, text);
    fuzz_say_text(p, odd ? "meta" : "cpu");
    fuzz_say_int(p, odd ? fuzz_number(dice) : 8);
    if (fuzz_below(dice, 3) == 0) {
        fuzz_say_op(p, PSD_OP_NONE);
    }
    fuzz_say_op(p, PSD_OP_TUPLE);
    fuzz_say_op(p, PSD_OP_BINPERSID);
}

/* What all dense tensors begin with: storage, offset, sizes, strides. */
static inline void
fuzz_say_window(fuzz_phrase *p, fuzz_dice *dice)
{
    size_t rank = fuzz_below(dice, 4);
    fuzz_say_storage(p, dice);
    fuzz_say_int(p, fuzz_number(dice));
    fuzz_say_numbers(p, dice, rank);
    fuzz_say_numbers(p, dice, fuzz_below(dice, 8) == 0 ? rank + 1 : rank);
}

static inline void
fuzz_say_tensor(fuzz_phrase *p, fuzz_dice *dice)
{
    bool v3 = fuzz_below(dice, 3) == 0;
    fuzz_say_global(p, fuzz_functions[v3 ? 2 : 1]);
    fuzz_say_op(p, PSD_OP_MARK);
    fuzz_say_window(p, dice);
    fuzz_say_op(p, PSD_OP_NEWFALSE);
    fuzz_say_ordered(p);
    if (v3) {
        fuzz_say_global(p, FUZZ_PICK(dice, fuzz_classes));
    }
    fuzz_say_op(p, PSD_OP_TUPLE);
    fuzz_say_op(p, PSD_OP_REDUCE);
}

/* Any one value, small. */
static inline void
fuzz_say_value(fuzz_phrase *p, fuzz_dice *dice)
{
    static const uint8_t constants[] = {
        PSD_OP_NONE,       PSD_OP_NEWTRUE,    PSD_OP_NEWFALSE,  PSD_OP_EMPTY_TUPLE,
        PSD_OP_EMPTY_DICT, PSD_OP_EMPTY_LIST, PSD_OP_EMPTY_SET,
    };
    static const uint8_t real[] = {PSD_OP_BINFLOAT, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0};
    switch (fuzz_below(dice, 12)) {
    case 0: fuzz_say_int(p, fuzz_number(dice)); break;
    case 1: fuzz_say_text(p, FUZZ_PICK(dice, fuzz_texts)); break;
    case 2: fuzz_say_global(p, FUZZ_PICK(dice, fuzz_classes)); break;
    case 3: fuzz_say_numbers(p, dice, fuzz_below(dice, 4)); break;
    case 4: fuzz_say_storage(p, dice); break;
    case 5: fuzz_say_ordered(p); break;
    case 6: fuzz_say(p, real, sizeof real); break;
    case 7: fuzz_say_window(p, dice); break;
    case 8:
        fuzz_say_op(p, PSD_OP_BINGET);
        fuzz_say_op(p, (unsigned)fuzz_below(dice, 4));
        break;
    case 9: fuzz_say_op(p, FUZZ_PICK(dice, constants)); break;
    default: fuzz_say_tensor(p, dice);
    }
}

/* A call of a function that means something, with a few arguments, and perhaps a state. */
static inline void
fuzz_say_call(fuzz_phrase *p, fuzz_dice *dice)
{
    bool object = fuzz_below(dice, 6) == 0;
    fuzz_say_global(p, FUZZ_PICK(dice, fuzz_functions));
    fuzz_say_op(p, PSD_OP_MARK);
    for (size_t n = fuzz_below(dice, 6); n > 0; n--) {
        fuzz_say_value(p, dice);
    }
    fuzz_say_op(p, PSD_OP_TUPLE);
    fuzz_say_op(p, object ? PSD_OP_NEWOBJ : PSD_OP_REDUCE);
    if (object) {
        fuzz_say_op(p, PSD_OP_EMPTY_DICT);
        fuzz_say_text(p, FUZZ_PICK(dice, fuzz_texts));
        fuzz_say_value(p, dice);
        fuzz_say_op(p, PSD_OP_SETITEM);
        fuzz_say_op(p, PSD_OP_BUILD);
    }
}

/* ------------------------------------------------------------------- mutating */

/* Put the phrase in the place of data[from, to); the new size. */
static inline size_t
fuzz_splice(uint8_t *data, size_t size, size_t room, size_t from, size_t to,
            const fuzz_phrase *p)
{
    size_t rest = size - to;
    if (p->size > room - from || rest > room - from - p->size) {
        return size;
    }
    memmove(data + from + p->size, data + to, rest);
    memcpy(data + from, p->data, p->size);
    return from + p->size + rest;
}

static inline bool
fuzz_is_bare(uint8_t opcode)
{
    uint8_t bytes[2] = {opcode, 0};
    return fuzz_is_opcode(opcode) && opcode != PSD_OP_STOP &&
           fuzz_opcode_size(bytes, 1) == 1;
}

static inline bool
fuzz_is_text(uint8_t opcode)
{
    return opcode == PSD_OP_BINUNICODE || opcode == PSD_OP_SHORT_BINUNICODE ||
           opcode == PSD_OP_UNICODE;
}

static inline bool
fuzz_is_number(uint8_t opcode)
{
    return opcode == PSD_OP_BININT || opcode == PSD_OP_BININT1 ||
           opcode == PSD_OP_BININT2 || opcode == PSD_OP_LONG1;
}

/* Another opcode or operand of the same sort in the place of this one. */
static inline void
fuzz_say_other(fuzz_phrase *p, uint8_t opcode, fuzz_dice *dice)
{
    if (opcode == PSD_OP_GLOBAL) {
        fuzz_say_global(p, fuzz_below(dice, 2) != 0 ? FUZZ_PICK(dice, fuzz_functions)
                                                    : FUZZ_PICK(dice, fuzz_classes));
    }
    else if (fuzz_is_text(opcode)) {
        fuzz_say_text(p, FUZZ_PICK(dice, fuzz_texts));
    }
    else if (fuzz_is_number(opcode)) {
        fuzz_say_int(p, fuzz_number(dice));
    }
    else if (fuzz_is_bare(opcode)) {
        uint8_t other;
        do {
            other = (uint8_t)fuzz_below(dice, 256);
        } while (!fuzz_is_bare(other));
        fuzz_say_op(p, other);
    }
    else {
        fuzz_say_value(p, dice);
    }
}

static inline size_t
fuzz_mutate_once(uint8_t *data, size_t size, size_t room, fuzz_dice *dice)
{
    static fuzz_program p;
    fuzz_phrase phrase = {.size = 0};
    fuzz_read_program(&p, data, size, fuzz_find_pickle(data, size, dice));
    if (p.count == 0) {
        return LLVMFuzzerMutate(data, size, room);
    }
    size_t one = fuzz_below(dice, p.count);
    size_t begin = p.begin[one], end = p.begin[one + 1];
    size_t last = one + fuzz_below(dice, 16);
    last = last < p.count ? last : p.count - 1;
    switch (fuzz_below(dice, 11)) {
    case 0: break; /* leave it out */
    case 1: end = p.begin[last + 1]; break;
    case 2:
    case 3: fuzz_say_value(&phrase, dice); break;
    case 4: fuzz_say_call(&phrase, dice); break;
    case 5:
        end = begin; /* insert */
        fuzz_say_call(&phrase, dice);
        break;
    case 6:
        end = begin;
        fuzz_say_value(&phrase, dice);
        break;
    case 7: { /* a piece of the same program */
        size_t first = fuzz_below(dice, p.count), after = first + fuzz_below(dice, 24);
        after = after < p.count ? after : p.count;
        end = begin;
        fuzz_say(&phrase, data + p.begin[first], p.begin[after] - p.begin[first]);
        break;
    }
    default: fuzz_say_other(&phrase, data[begin], dice);
    }
    return fuzz_splice(data, size, room, begin, end, &phrase);
}

/* A few changes to the pickles in these bytes, now and then to any bytes. */
static inline size_t
fuzz_mutate_program(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    fuzz_dice dice = {seed * 2654435761u | 1};
    (void)fuzz_below(&dice, 2);
    if (fuzz_below(&dice, 4) == 0) {
        return LLVMFuzzerMutate(data, size, room);
    }
    for (size_t n = 1 + fuzz_below(&dice, 4); n > 0; n--) {
        size = fuzz_mutate_once(data, size, room, &dice);
    }
    return size;
}

#endif
