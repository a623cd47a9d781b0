/* SPDX-License-Identifier: Apache-2.0
 *
 * pickle.dump writes a tensor's storage as a call of _load_from_bytes, whose
 * argument is a whole legacy stream.  Here the call becomes the storage.
 */
#include "torch_pass.h"

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
 * The value itself if it is bytes, or the str that Python 2 had for them.  _codecs.encode(text, 'latin1'), by which
 * protocol 2 spells them, becomes bytes in place; anything else gives NULL.
 */
static psd_status
bytes_at(psd_torch_pass *p, psd_ref ref, const psd_value **bytes)
{
    psd_value *v = psd_value_at(p->pool, ref);
    bool is_bytes = v->kind == PSD_KIND_BYTES || v->kind == PSD_KIND_STRING;
    *bytes = is_bytes ? v : NULL;
    if (v->kind != PSD_KIND_CALL || is_filled(v->as.call)) {
        return PSD_OK;
    }
    const psd_value *callable = psd_value_at(p->pool, v->as.call->callable);
    const psd_value *args = psd_value_at(p->pool, v->as.call->args);
    if (callable->kind != PSD_KIND_GLOBAL ||
        psd_known_of(callable->as.global->tag) != PSD_KNOWN_ENCODE ||
        args->kind != PSD_KIND_TUPLE || args->count != 2) {
        return PSD_OK;
    }
    const psd_value *text = psd_value_at(p->pool, args->as.items[0]);
    const psd_value *codec = psd_value_at(p->pool, args->as.items[1]);
    if (text->kind != PSD_KIND_TEXT || !psd_text_is(codec, PSD_LITERAL("latin1"))) {
        return PSD_OK;
    }
    size_t size;
    uint8_t *decoded = psd_arena_take(p->pool->arena, text->count);
    if (decoded == NULL) {
        return psd_torch_no_memory(p);
    }
    if (decode_latin1(psd_text_of(text), decoded, &size)) {
        *v = (psd_value){
            .kind = PSD_KIND_BYTES, .count = (uint32_t)size, .as.bytes = decoded};
        *bytes = v;
    }
    return PSD_OK;
}

/* The same bytes may be loaded many times: their stream is read once. */
static psd_status
storage_in(psd_torch_pass *p, const psd_call *call, psd_ref ref, uint32_t *number)
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
    *number = p->embedded[ref] == 0 ? PSD_NO_STORAGE : p->embedded[ref] - 1;
    if (p->embedded[ref] != 0) {
        return PSD_OK;
    }
    psd_storage s = {.parent = PSD_NO_STORAGE, .position = call->position};
    bool is_storage;
    psd_status status = p->source->embedded(p->source->embedded_ctx,
                                            psd_text_of(psd_value_at(p->pool, ref)), &s,
                                            &is_storage, p->err);
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
    p->embedded[ref] = *number + 1;
    return PSD_OK;
}

psd_status
psd_torch_read_embedded(psd_torch_pass *p, psd_ref ref)
{
    const psd_call *call = psd_value_at(p->pool, ref)->as.call;
    const psd_value *args = psd_value_at(p->pool, call->args), *bytes;
    uint32_t number;
    if (p->source->embedded == NULL || args->kind != PSD_KIND_TUPLE ||
        args->count != 1 || is_filled(call)) {
        return PSD_OK;
    }
    psd_status status = bytes_at(p, args->as.items[0], &bytes);
    if (status == PSD_OK && bytes != NULL) {
        status = storage_in(p, call, args->as.items[0], &number);
    }
    if (status == PSD_OK && bytes != NULL && number != PSD_NO_STORAGE) {
        psd_value *value = psd_value_at(p->pool, ref);
        value->kind = PSD_KIND_STORAGE;
        value->as.index = number;
    }
    return status;
}
