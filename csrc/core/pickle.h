/* SPDX-License-Identifier: Apache-2.0
 *
 * The pickle as data: a program in, a pool of values out, and back.  The one
 * list of opcodes.  Source: CPython's Lib/pickletools.py documents each.
 */
#ifndef PSD_PICKLE_H
#define PSD_PICKLE_H

#include "buffer.h"
#include "error.h"
#include "hash.h"
#include "input.h"
#include "bounds.h"
#include "value.h"

/* byte, name; protocols 0 to 5 */
#define PSD_OPCODES(X)        \
    X(0x28, MARK)             \
    X(0x29, EMPTY_TUPLE)      \
    X(0x2E, STOP)             \
    X(0x30, POP)              \
    X(0x31, POP_MARK)         \
    X(0x32, DUP)              \
    X(0x42, BINBYTES)         \
    X(0x43, SHORT_BINBYTES)   \
    X(0x46, FLOAT)            \
    X(0x47, BINFLOAT)         \
    X(0x49, INT)              \
    X(0x4A, BININT)           \
    X(0x4B, BININT1)          \
    X(0x4C, LONG)             \
    X(0x4D, BININT2)          \
    X(0x4E, NONE)             \
    X(0x50, PERSID)           \
    X(0x51, BINPERSID)        \
    X(0x52, REDUCE)           \
    X(0x53, STRING)           \
    X(0x54, BINSTRING)        \
    X(0x55, SHORT_BINSTRING)  \
    X(0x56, UNICODE)          \
    X(0x58, BINUNICODE)       \
    X(0x5D, EMPTY_LIST)       \
    X(0x61, APPEND)           \
    X(0x62, BUILD)            \
    X(0x63, GLOBAL)           \
    X(0x64, DICT)             \
    X(0x65, APPENDS)          \
    X(0x67, GET)              \
    X(0x68, BINGET)           \
    X(0x69, INST)             \
    X(0x6A, LONG_BINGET)      \
    X(0x6C, LIST)             \
    X(0x6F, OBJ)              \
    X(0x70, PUT)              \
    X(0x71, BINPUT)           \
    X(0x72, LONG_BINPUT)      \
    X(0x73, SETITEM)          \
    X(0x74, TUPLE)            \
    X(0x75, SETITEMS)         \
    X(0x7D, EMPTY_DICT)       \
    X(0x80, PROTO)            \
    X(0x81, NEWOBJ)           \
    X(0x82, EXT1)             \
    X(0x83, EXT2)             \
    X(0x84, EXT4)             \
    X(0x85, TUPLE1)           \
    X(0x86, TUPLE2)           \
    X(0x87, TUPLE3)           \
    X(0x88, NEWTRUE)          \
    X(0x89, NEWFALSE)         \
    X(0x8A, LONG1)            \
    X(0x8B, LONG4)            \
    X(0x8C, SHORT_BINUNICODE) \
    X(0x8D, BINUNICODE8)      \
    X(0x8E, BINBYTES8)        \
    X(0x8F, EMPTY_SET)        \
    X(0x90, ADDITEMS)         \
    X(0x91, FROZENSET)        \
    X(0x92, NEWOBJ_EX)        \
    X(0x93, STACK_GLOBAL)     \
    X(0x94, MEMOIZE)          \
    X(0x95, FRAME)            \
    X(0x96, BYTEARRAY8)       \
    X(0x97, NEXT_BUFFER)      \
    X(0x98, READONLY_BUFFER)

enum {
#define PSD_OPCODE_ENUM(byte, name) PSD_OP_##name = byte,
    PSD_OPCODES(PSD_OPCODE_ENUM)
#undef PSD_OPCODE_ENUM
};

/*
 * The bytes of the pickle that `program` begins with, up to and including its
 * STOP; 0 when it has none.  Nothing is run, and bytes that are no opcode are
 * passed by: the machine is who judges them.
 */
size_t psd_pickle_measure(psd_span program);

/*
 * Whether bytes, read as pickles one after another, can name anything: opcode by
 * opcode up to a byte that is none, is there one that names, or one with a text or
 * bytes that may be a pickle in their turn?  Nothing is run.
 */
bool psd_pickle_may_name(psd_span program);

/*
 * A copy of the pickle at `offset`, of which nobody has told the size, in
 * `arena`.  Where it has no STOP before `end`, the copy is all up to there.
 *
 *   PSD_LIMIT  no end within limits->pickle_size
 *   PSD_INPUT, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_pickle_fetch(const psd_input *input, uint64_t offset,
                                        uint64_t end, const psd_limits *limits,
                                        psd_arena *arena, psd_span *program,
                                        psd_error *err);

/* What a run of the machine gave. */
typedef struct {
    psd_ref root;
    uint32_t size;    /* bytes up to and including STOP */
    uint8_t protocol; /* of the last PROTO, 0 if there was none */
    uint32_t left; /* values on the stack below the root, which honest ones have not */
} psd_pickle;

/*
 * Run `program` up to its STOP.  Values go to `pool`; texts are borrowed from
 * `program` (escaped ones are decoded into the pool's arena).  `base` is the
 * program's offset in the file, for errors.  On failure the pool keeps what was
 * born until then, which scan() wants.
 *
 * Every opcode of protocols 0 to 5 is understood but EXT1, EXT2, EXT4
 * (PSD_EXTENSION), NEXT_BUFFER and READONLY_BUFFER (PSD_OPCODE).  Targets are checked: APPEND(S)
 * fills a list or a call, SETITEM(S) a dict or a call, ADDITEMS a set or a
 * call, BUILD a call.  Bytes after STOP are left alone.
 *
 *   PSD_PICKLE_END  the program ends before STOP or within an operand
 *   PSD_PICKLE      it contradicts itself
 *   PSD_OPCODE, PSD_EXTENSION, PSD_CALL, PSD_LIMIT, PSD_NO_MEMORY
 */
PSD_CHECKED psd_status psd_pickle_read(psd_span program, uint64_t base,
                                       const psd_limits *limits, psd_hash_key key,
                                       psd_pool *pool, psd_pickle *out, psd_error *err);

/*
 * The same for those who want to know all that a program names, whatever is wrong
 * with it: after what psd_pickle_read refuses this goes on, as readers do that are
 * less strict.  A name that the program computes, leaves empty or draws out beyond
 * 1 KiB becomes a global all the same, "?" for what cannot be told, cut where it is
 * too long.  It ends at STOP, at a byte that is no opcode, or at the end.
 *
 * `*walked` is how far it came, in bytes.  The result and `err` are those of the
 * first failure; out->size is 0 where no STOP was reached.
 */
PSD_CHECKED psd_status psd_pickle_follow(psd_span program, uint64_t base,
                                         const psd_limits *limits, psd_hash_key key,
                                         psd_pool *pool, psd_pickle *out,
                                         size_t *walked, psd_error *err);

/*
 * What the writer may be told of a value by the flags of psd_value.
 *
 * PLAIN: a tuple that is not empty, a persistent id, or a call by REDUCE that nothing was
 * filled into; its parts are leaves, tuples of a few numbers, or PLAIN themselves.  So no
 * way leads from it back to it, and it is written in one go.
 *
 * ANEW: a PLAIN value that each reference makes again, where others would be fetched; of
 * tuples only those of a few numbers.
 */
enum { PSD_VALUE_PLAIN = 1 << 6, PSD_VALUE_ANEW = 1 << 7 };

/*
 * Write `root` and all it refers to as a protocol 2 pickle, with opcodes that
 * torch.load(weights_only=True) accepts wherever the values allow it.
 *
 * Values that are referred to more than once are memoized and fetched, so
 * identity and cycles survive; values referred to once are not memoized.  The
 * bytes depend on the pool's content and order of reference alone.
 * STORAGE and TENSOR values must have been lowered to persistent ids and calls
 * before (psd_torch_write).
 *
 *   PSD_ARGUMENT  a call that is an argument of itself; a kind that has no form; a
 *                 PLAIN value that holds others, or too many within one another
 */
PSD_CHECKED psd_status psd_pickle_write(const psd_pool *pool, psd_ref root,
                                        psd_buffer *buffer, psd_error *err);

#endif
