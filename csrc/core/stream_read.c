/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

/* 0x1950a86a20f9469cfc6c, as LONG1 holds it. */
static const uint8_t magic[10] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                  0x20, 0x6a, 0xa8, 0x50, 0x19};
#define MAGIC_DECIMAL "119547037146038801333356"
#define STREAM_VERSION 1001

static bool
starts_with(psd_span bytes, size_t at, psd_span what)
{
    return bytes.size >= at + what.size &&
           memcmp(bytes.data + at, what.data, what.size) == 0;
}

/* PROTO, from protocol 4 on a FRAME, then LONG1 with the number; or as text. */
bool
psd_stream_begins(psd_span head)
{
    const psd_span number = {magic, sizeof magic};
    const psd_span long1 = PSD_LITERAL("\x8a\x0a");
    if (starts_with(head, 0, PSD_LITERAL("L" MAGIC_DECIMAL "L\n"))) {
        return true;
    }
    if (head.size < 2 || head.data[0] != PSD_OP_PROTO) {
        return false;
    }
    size_t at = head.size > 2 && head.data[2] == PSD_OP_FRAME ? 11 : 2;
    return starts_with(head, at, long1) && starts_with(head, at + 2, number);
}

/* ---------------------------------------------------------------- the small pickles */

typedef struct {
    const psd_input *input;
    const psd_limits *limits;
    psd_hash_key key;
    psd_arena *arena;
    psd_error *err;
    uint64_t next; /* where the next pickle begins */
} reader;

/* One small pickle, run by itself; its pool is to be cleared. */
typedef struct {
    psd_pool pool;
    psd_pickle pickle;
    psd_span program;
} small;

/* Nothing but data: numbers, texts and their containers. */
static psd_status
check_data(reader *r, const small *s)
{
    for (psd_ref ref = 1; ref <= s->pool.count; ref++) {
        psd_kind kind = psd_kind_of(&s->pool, ref);
        if (kind < PSD_KIND_GLOBAL) {
            continue;
        }
        uint64_t position = 0;
        const psd_value *v = psd_value_at(&s->pool, ref);
        if (kind == PSD_KIND_GLOBAL) {
            position = v->as.global->position;
        }
        psd_fail(r->err, PSD_CALL, r->next + position,
                 "a name or call in a pickle that holds only facts");
        return kind == PSD_KIND_GLOBAL ? psd_fail_subject(r->err, v->as.global->module)
                                       : PSD_CALL;
    }
    return PSD_OK;
}

static psd_status
run_small(reader *r, small *s)
{
    psd_pool_init(&s->pool, r->arena, r->limits->values);
    psd_status status = psd_pickle_fetch(r->input, r->next, r->input->size, r->limits,
                                         r->arena, &s->program, r->err);
    if (status == PSD_OK) {
        status = psd_pickle_read(s->program, r->next, r->limits, r->key, &s->pool,
                                 &s->pickle, r->err);
    }
    if (status == PSD_PICKLE_END) {
        status = psd_fail(r->err, PSD_TRUNCATED, r->err->offset,
                          "the file ends within its first pickles");
    }
    if (status == PSD_OK) {
        status = check_data(r, s);
    }
    if (status == PSD_OK) {
        r->next += s->pickle.size;
    }
    return status;
}

static psd_status
check_magic(reader *r)
{
    small s;
    psd_status status = run_small(r, &s);
    if (status == PSD_OK) {
        const psd_value *v = psd_value_at(&s.pool, s.pickle.root);
        if (v->kind != PSD_KIND_LONG ||
            !psd_span_equal(psd_text_of(v), (psd_span){magic, sizeof magic})) {
            status = psd_fail(r->err, PSD_STREAM, 0,
                              "the file does not begin with torch's magic number");
        }
    }
    psd_pool_clear(&s.pool);
    return status;
}

static psd_status
check_version(reader *r)
{
    small s;
    uint64_t at = r->next;
    psd_status status = run_small(r, &s);
    if (status == PSD_OK) {
        const psd_value *v = psd_value_at(&s.pool, s.pickle.root);
        if (v->kind != PSD_KIND_INT || v->as.integer != STREAM_VERSION) {
            status =
                psd_fail(r->err, PSD_STREAM, at, "a legacy file of an unknown version");
            if (v->kind == PSD_KIND_INT && v->as.integer >= 0) {
                psd_fail_numbers(r->err, (uint64_t)v->as.integer, STREAM_VERSION);
            }
        }
    }
    psd_pool_clear(&s.pool);
    return status;
}

/* What torch writes of the writer's machine is not believed, nor is it by torch. */
static psd_status
skip_facts(reader *r)
{
    small s;
    psd_status status = run_small(r, &s);
    psd_pool_clear(&s.pool);
    return status;
}

static psd_status
copy_keys(reader *r, const small *s, uint64_t at, psd_stream *stream)
{
    const psd_value *list = psd_value_at(&s->pool, s->pickle.root);
    if (list->kind != PSD_KIND_LIST) {
        return psd_fail(r->err, PSD_STREAM, at,
                        "the file's list of storages is no list");
    }
    psd_span *keys = psd_arena_take_array(r->arena, list->count, sizeof *keys);
    if (keys == NULL) {
        return psd_fail(r->err, PSD_NO_MEMORY, at, "out of memory");
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const psd_value *key = psd_value_at(&s->pool, list->as.items[i]);
        if (key->kind != PSD_KIND_TEXT && key->kind != PSD_KIND_STRING) {
            return psd_fail(r->err, PSD_STREAM, at,
                            "a key in the file's list of storages is no text");
        }
        keys[i] = psd_text_of(key);
    }
    stream->keys = keys;
    stream->key_count = list->count;
    return PSD_OK;
}

static psd_status
read_keys(reader *r, psd_stream *stream)
{
    small s;
    uint64_t at = r->next;
    psd_status status = run_small(r, &s);
    if (status == PSD_OK) {
        status = copy_keys(r, &s, at, stream);
    }
    psd_pool_clear(&s.pool);
    return status;
}

psd_status
psd_stream_read(const psd_input *input, const psd_limits *limits, psd_hash_key key,
                psd_arena *arena, psd_stream *stream, psd_error *err)
{
    reader r = {input, limits, key, arena, err, 0};
    *stream = (psd_stream){.key_count = 0};
    psd_status status = check_magic(&r);
    if (status == PSD_OK) {
        status = check_version(&r);
    }
    if (status == PSD_OK) {
        status = skip_facts(&r);
    }
    if (status == PSD_OK) {
        stream->object_offset = r.next;
        status = psd_pickle_fetch(input, r.next, input->size, limits, arena,
                                  &stream->object, err);
    }
    /* Bytes without an end are all that there are; others were measured already. */
    if (status == PSD_OK && (stream->object.size != input->size - r.next ||
                             psd_pickle_measure(stream->object) > 0)) {
        r.next += stream->object.size;
        status = read_keys(&r, stream);
        stream->whole = status == PSD_OK;
        stream->data_offset = r.next;
    }
    return status;
}

/* ---------------------------------------------------------------- storages */

static uint64_t
swapped(uint64_t v)
{
    uint64_t other = 0;
    for (int i = 0; i < 8; i++, v >>= 8) {
        other = other << 8 | (v & 0xFF);
    }
    return other;
}

psd_status
psd_stream_next(const psd_input *input, psd_span key, uint64_t numel, uint64_t size,
                uint64_t *offset, uint64_t *data, psd_error *err)
{
    uint8_t bytes[8];
    uint64_t left = *offset <= input->size ? input->size - *offset : 0;
    if (left < sizeof bytes) {
        psd_fail(err, PSD_TRUNCATED, *offset, "the file ends before a storage");
        psd_fail_subject(err, key);
        return psd_fail_numbers(err, left, sizeof bytes + size);
    }
    psd_status status = psd_input_copy(input, *offset, sizeof bytes, bytes, err);
    if (status != PSD_OK) {
        return status;
    }
    uint64_t count = psd_load_le64(bytes);
    /* Writers on big-endian machines swapped the elements, not the count. */
    if (count != numel && swapped(count) != numel) {
        psd_fail(err, PSD_STORAGE, *offset,
                 "a storage has not as many elements as the pickle tells");
        psd_fail_subject(err, key);
        return psd_fail_numbers(err, count, numel);
    }
    left -= sizeof bytes;
    if (size > left) {
        psd_fail(err, PSD_TRUNCATED, *offset + sizeof bytes,
                 "the file ends within a storage");
        psd_fail_subject(err, key);
        return psd_fail_numbers(err, left, size);
    }
    *data = *offset + sizeof bytes;
    *offset = *data + size;
    return PSD_OK;
}
