/* SPDX-License-Identifier: Apache-2.0
 *
 * pickle.dump writes a tensor's storage as a call of _load_from_bytes, whose
 * argument is a whole legacy stream.  Here the call becomes the storage.
 */
#include "torch_pass.h"

/* Beside the numbers of storages, + 1: these bytes were read, and no storage found. */
#define NONE_IN_IT UINT32_MAX

void
psd_torch_forget_embedded(psd_torch_pass *p)
{
    psd_alloc alloc = p->model->alloc;
    if (p->embedded != NULL) {
        alloc.resize(alloc.ctx, p->embedded,
                     ((size_t)p->pool->count + 1) * sizeof *p->embedded, 0);
        p->embedded = NULL;
    }
}

/* latin-1 out of UTF-8: characters below 256, in one byte or two. */
static bool
decode_latin1(psd_span text, uint8_t *bytes, size_t *size)
{
    *size = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c >= 0x80) {
            bool two = (c == 0xC2 || c == 0xC3) && i + 1 < text.size &&
                       (text.data[i + 1] & 0xC0) == 0x80;
            if (!two) {
                return false;
            }
            c = (uint8_t)(c << 6 | (text.data[++i] & 0x3F));
        }
        bytes[(*size)++] = c;
    }
    return true;
}

/* What was filled after its birth stays the call that it is. */
static bool
is_filled(const psd_call *call)
{
    return call->state != 0 || call->item_count > 0 || call->append_count > 0;
}

/*
 * The value whose bytes these are: itself (of Python 2 a str), or the text of _codecs.encode(text,
 * 'latin1'), by which protocol 2 spells them; 0 of anything else.
 */
static psd_ref
source_of(const psd_torch_pass *p, psd_ref ref)
{
    const psd_value *v = psd_value_at(p->pool, ref);
    if (v->kind == PSD_KIND_BYTES || v->kind == PSD_KIND_STRING) {
        return ref;
    }
    if (v->kind != PSD_KIND_CALL || is_filled(v->as.call) ||
        psd_known_of(psd_torch_tag_at(p, v->as.call->callable)) != PSD_KNOWN_ENCODE) {
        return 0;
    }
    const psd_value *args = psd_value_at(p->pool, v->as.call->args);
    bool plain =
        args->kind == PSD_KIND_TUPLE && args->count == 2 &&
        psd_kind_of(p->pool, args->as.items[0]) == PSD_KIND_TEXT &&
        psd_text_is(psd_value_at(p->pool, args->as.items[1]), PSD_LITERAL("latin1"));
    return plain ? args->as.items[0] : 0;
}

/* The bytes of such a value, decoded if it is text; .data is NULL when it cannot be. */
static psd_status
bytes_of(psd_torch_pass *p, psd_ref source, psd_span *bytes)
{
    const psd_value *v = psd_value_at(p->pool, source);
    *bytes = psd_text_of(v);
    if (v->kind != PSD_KIND_TEXT) {
        return PSD_OK;
    }
    uint8_t *decoded = psd_arena_take(p->pool->arena, bytes->size);
    if (decoded == NULL) {
        return psd_torch_no_memory(p);
    }
    size_t size;
    bool done = decode_latin1(*bytes, decoded, &size);
    *bytes = (psd_span){done ? decoded : NULL, done ? size : 0};
    return PSD_OK;
}

/* The storage in the stream in these bytes; PSD_NO_STORAGE where there is none. */
static psd_status
storage_in(psd_torch_pass *p, const psd_call *call, psd_ref source, uint32_t *number)
{
    psd_storage s = {.parent = PSD_NO_STORAGE, .position = call->position};
    psd_span bytes;
    bool is_storage;
    *number = PSD_NO_STORAGE;
    psd_status status = bytes_of(p, source, &bytes);
    if (status != PSD_OK || bytes.data == NULL) {
        return status;
    }
    status =
        p->source->embedded(p->source->embedded_ctx, bytes, &s, &is_storage, p->err);
    if (status != PSD_OK) {
        p->err->offset = p->source->base + call->position; /* not in the stream */
        return status;
    }
    if (!is_storage) {
        return PSD_OK;
    }
    s.key = psd_torch_decimal(p->pool->arena, p->model->storage_count);
    if (s.key.data == NULL || !psd_model_add_storage(p->model, &s)) {
        return psd_torch_no_memory(p);
    }
    *number = p->model->storage_count - 1;
    return PSD_OK;
}

/* What was found in these bytes, which are read once however often they are loaded. */
static psd_status
find_storage(psd_torch_pass *p, const psd_call *call, psd_ref source, uint32_t *number)
{
    psd_alloc alloc = p->model->alloc;
    size_t size = ((size_t)p->pool->count + 1) * sizeof *p->embedded;
    if (p->embedded == NULL) {
        p->embedded = alloc.resize(alloc.ctx, NULL, 0, size);
        if (p->embedded == NULL) {
            return psd_torch_no_memory(p);
        }
        memset(p->embedded, 0, size);
    }
    if (p->embedded[source] == 0) {
        psd_status status = storage_in(p, call, source, number);
        if (status != PSD_OK) {
            return status;
        }
        p->embedded[source] = *number == PSD_NO_STORAGE ? NONE_IN_IT : *number + 1;
    }
    bool none = p->embedded[source] == NONE_IN_IT;
    *number = none ? PSD_NO_STORAGE : p->embedded[source] - 1;
    return PSD_OK;
}

psd_status
psd_torch_read_embedded(psd_torch_pass *p, psd_ref ref)
{
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    const psd_value *args = psd_value_at(p->pool, call->args);
    uint32_t number = PSD_NO_STORAGE;
    if (p->source->embedded == NULL || args->kind != PSD_KIND_TUPLE ||
        args->count != 1 || is_filled(call)) {
        return PSD_OK;
    }
    psd_ref source = source_of(p, args->as.items[0]);
    psd_status status = source == 0 ? PSD_OK : find_storage(p, call, source, &number);
    if (status == PSD_OK && number != PSD_NO_STORAGE) {
        psd_value *value = psd_value_at(p->pool, ref);
        value->kind = PSD_KIND_STORAGE;
        p->unseen++;
        value->as.index = number;
    }
    return status;
}
