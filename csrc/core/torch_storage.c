/* SPDX-License-Identifier: Apache-2.0
 *
 * Persistent ids become storages; one key is one storage.
 */
#include "torch_pass.h"

psd_status
psd_torch_no_memory(psd_torch_pass *p)
{
    return psd_fail_memory(p->err);
}

psd_status
psd_torch_bad(psd_torch_pass *p, const psd_call *call, const char *sentence)
{
    psd_status status =
        psd_fail(p->err, PSD_TENSOR, p->source->base + call->position, sentence);
    const psd_value *callable = psd_value_at(p->pool, call->callable);
    if (callable->kind == PSD_KIND_GLOBAL) {
        psd_fail_subject(p->err, callable->as.global->name);
    }
    return status;
}

/* ---------------------------------------------------------------- storages */

static psd_status
bad_storage(psd_torch_pass *p, const psd_storage *s, const char *sentence)
{
    psd_fail(p->err, PSD_STORAGE, p->source->base + s->position, sentence);
    return psd_fail_subject(p->err, s->key);
}

/* Longer than any record's name.  One huge text can be the key of many persistent
 * ids and would be hashed for each. */
#define TEXT_MOST 2048u

static bool
is_text(const psd_value *value)
{
    return value->kind == PSD_KIND_TEXT || value->kind == PSD_KIND_STRING;
}

psd_span
psd_torch_decimal(psd_arena *arena, int64_t v)
{
    uint8_t digits[20];
    size_t next = sizeof digits;
    uint64_t left = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        digits[--next] = (uint8_t)('0' + left % 10);
        left /= 10;
    } while (left != 0);
    if (v < 0) {
        digits[--next] = '-';
    }
    return psd_arena_copy(arena, (psd_span){digits + next, sizeof digits - next});
}

/* An integer key is formatted into the record's name, as torch does. */
static psd_status
read_key(psd_torch_pass *p, psd_ref ref, const psd_storage *s, psd_span *key)
{
    const psd_value *value = psd_value_at(p->pool, ref);
    if (is_text(value) && value->count <= TEXT_MOST) {
        *key = psd_text_of(value);
        return PSD_OK;
    }
    if (is_text(value)) {
        return bad_storage(p, s, "a storage's key is longer than 2 KiB");
    }
    if (value->kind != PSD_KIND_INT || value->as.integer < 0) {
        return bad_storage(p, s, "a storage's key is neither text nor a whole number");
    }
    *key = psd_torch_decimal(p->pool->arena, value->as.integer);
    return key->data == NULL ? psd_torch_no_memory(p) : PSD_OK;
}

/* A number of elements of the storage's dtype, and the bytes that they take. */
static psd_status
read_numel(psd_torch_pass *p, psd_ref ref, const psd_storage *s, uint64_t *numel,
           uint64_t *size)
{
    const psd_value *value = psd_value_at(p->pool, ref);
    if (value->kind != PSD_KIND_INT || value->as.integer < 0) {
        return bad_storage(p, s,
                           "a storage's number of elements is not a whole number");
    }
    *numel = (uint64_t)value->as.integer;
    if (!psd_multiply(*numel, psd_dtype_row((psd_dtype)s->dtype)->size, size) ||
        *size > INT64_MAX) {
        return bad_storage(p, s, "a storage's size in bytes overflows");
    }
    return PSD_OK;
}

static psd_status
read_class(psd_torch_pass *p, psd_ref ref, psd_storage *s)
{
    const psd_value *class = psd_value_at(p->pool, ref);
    uint16_t tag = class->kind == PSD_KIND_GLOBAL ? class->as.global->tag : 0;
    s->untyped = psd_known_of(tag) == PSD_KNOWN_UNTYPED_STORAGE;
    s->dtype = s->untyped ? PSD_DTYPE_UINT8 : (uint8_t)psd_known_dtype(tag);
    if (!s->untyped && psd_known_of(tag) != PSD_KNOWN_STORAGE) {
        return bad_storage(p, s, "a storage's class is not a storage class of torch");
    }
    return PSD_OK;
}

static psd_status
read_location(psd_torch_pass *p, psd_ref ref, psd_storage *s)
{
    const psd_value *location = psd_value_at(p->pool, ref);
    if (is_text(location) || location->kind == PSD_KIND_BYTES) {
        s->location = psd_text_of(location);
    }
    return s->location.size <= TEXT_MOST
               ? PSD_OK
               : bad_storage(p, s, "a storage's location is longer than 2 KiB");
}

/* The parts of ('storage', class, key, location, numel, ...), but the first. */
static psd_status
read_parts(psd_torch_pass *p, const psd_ref *parts, psd_storage *s)
{
    psd_status status = read_key(p, parts[2], s, &s->key);
    if (status == PSD_OK) {
        status = read_class(p, parts[1], s);
    }
    if (status == PSD_OK) {
        status = read_location(p, parts[3], s);
    }
    return status == PSD_OK ? read_numel(p, parts[4], s, &s->numel, &s->size) : status;
}

/* Give the value its storage: the one of this key, which is `s` if it is new. */
static psd_status
enter(psd_torch_pass *p, const psd_storage *s, uint32_t *number)
{
    psd_model *model = p->model;
    if (!psd_model_find_or_name(model, s->key, number)) {
        return psd_torch_no_memory(p);
    }
    if (*number < model->storage_count) {
        const psd_storage *first = &model->storages[*number];
        if (first->size == s->size && first->dtype == s->dtype &&
            first->untyped == s->untyped && first->parent == s->parent &&
            first->parent_offset == s->parent_offset) {
            return PSD_OK;
        }
        /* Storages without bytes may have one address, which is the key. */
        if (first->size > 0 || s->size > 0) {
            return bad_storage(p, s,
                               "two persistent ids tell differently of one storage");
        }
    }
    *number = model->storage_count;
    return psd_model_add_storage(model, s) ? PSD_OK : psd_torch_no_memory(p);
}

/* (key, offset, numel) of a part of the storage `root`, in its elements. */
static psd_status
read_view(psd_torch_pass *p, psd_ref ref, const psd_storage *root, uint32_t *number)
{
    const psd_value *told = psd_value_at(p->pool, ref);
    psd_storage view = *root;
    uint64_t offset, numel, size;
    if (told->kind != PSD_KIND_TUPLE || told->count != 3) {
        return bad_storage(p, root, "a storage's view has not three parts");
    }
    psd_status status = read_key(p, told->as.items[0], root, &view.key);
    if (status == PSD_OK) {
        status = read_numel(p, told->as.items[1], root, &offset, &view.parent_offset);
    }
    if (status == PSD_OK) {
        status = read_numel(p, told->as.items[2], root, &numel, &size);
    }
    if (status != PSD_OK) {
        return status;
    }
    if (!psd_fits(offset, numel, root->numel)) {
        return bad_storage(p, root, "a storage's view reaches beyond it");
    }
    view.parent = *number;
    view.numel = numel;
    view.size = size;
    return enter(p, &view, number);
}

/* What stands for the value at `ref` from now on. */
static psd_status
replace(psd_torch_pass *p, psd_ref ref, psd_kind kind, uint32_t index)
{
    psd_value *value = psd_value_at(p->pool, ref);
    value->kind = (uint8_t)kind;
    value->as.index = index;
    p->unseen += kind == PSD_KIND_STORAGE;
    return PSD_OK;
}

/* A class that came with its source text is that class. */
static psd_status
read_module(psd_torch_pass *p, psd_ref ref, psd_ref class_ref)
{
    const psd_value *class = psd_value_at(p->pool, class_ref);
    if (class->kind != PSD_KIND_GLOBAL) {
        psd_value *persid = psd_value_at(p->pool, ref);
        return psd_fail(p->err, PSD_CALL, p->source->base + persid->count,
                        "a class that is not named but made");
    }
    *psd_value_at(p->pool, ref) = *class;
    return PSD_OK;
}

/* May a storage's id have a sixth part?  In streams it is a view or None; scripts of
 * torch 1.3 to 1.5 have None there. */
static bool
may_be_sixth(const psd_torch_pass *p, psd_ref part)
{
    psd_dialect dialect = p->source->dialect;
    bool script = dialect == PSD_DIALECT_SCRIPT || dialect == PSD_DIALECT_PACKAGE;
    return dialect == PSD_DIALECT_STREAM ||
           (script && psd_kind_of(p->pool, part) == PSD_KIND_NONE);
}

/* ('storage', class, key, location, numel), and perhaps a sixth part. */
static psd_status
read_storage(psd_torch_pass *p, psd_ref ref, const psd_value *id, psd_storage *s)
{
    const psd_ref *parts = id->as.items;
    uint32_t number = 0;
    if (id->count != 5 && !(id->count == 6 && may_be_sixth(p, parts[5]))) {
        return bad_storage(p, s,
                           p->source->dialect == PSD_DIALECT_STREAM
                               ? "a storage's persistent id does not have six parts"
                               : "a storage's persistent id does not have five parts");
    }
    psd_status status = read_parts(p, parts, s);
    if (status == PSD_OK) {
        status = enter(p, s, &number);
    }
    if (status == PSD_OK && id->count == 6 &&
        psd_kind_of(p->pool, parts[5]) != PSD_KIND_NONE) {
        psd_storage root = p->model->storages[number];
        status = read_view(p, parts[5], &root, &number);
    }
    return status == PSD_OK ? replace(p, ref, PSD_KIND_STORAGE, number) : status;
}

/* The number of something that was told of before, or a class. */
static psd_status
read_number(psd_torch_pass *p, psd_ref ref, const psd_value *id, psd_storage *s)
{
    if (id->kind == PSD_KIND_TUPLE && id->count == 3) {
        return read_module(p, ref, id->as.items[0]);
    }
    psd_span text = {NULL, 0};
    if (is_text(id) && id->count <= TEXT_MOST) {
        text = psd_text_of(id);
    }
    else if (id->kind == PSD_KIND_INT) {
        text = psd_torch_decimal(p->pool->arena, id->as.integer);
        if (text.data == NULL) {
            return psd_torch_no_memory(p);
        }
    }
    const uint32_t *tensor = psd_names_find(&p->model->tensor_names, text);
    if (tensor != NULL) {
        return replace(p, ref, PSD_KIND_TENSOR, *tensor);
    }
    uint32_t storage = psd_model_find(p->model, text);
    if (storage == PSD_NO_STORAGE) {
        s->key = text;
        return bad_storage(p, s, "a persistent id that names no storage and no tensor");
    }
    return replace(p, ref, PSD_KIND_STORAGE, storage);
}

/* ('reduce_package', number, function, arguments): how torch.package spells a call whose
 * function is to be given the package besides. */
static psd_status
read_reduce(psd_torch_pass *p, psd_ref ref, const psd_value *id, psd_storage *s)
{
    bool is_call = id->count == 4 &&
                   psd_kind_of(p->pool, id->as.items[2]) == PSD_KIND_GLOBAL &&
                   psd_kind_of(p->pool, id->as.items[3]) == PSD_KIND_TUPLE;
    if (!is_call) {
        return bad_storage(p, s, "a call of torch.package that is none");
    }
    psd_call *call = psd_arena_take(p->pool->arena, sizeof *call);
    if (call == NULL) {
        return psd_torch_no_memory(p);
    }
    psd_value *value = psd_value_at(p->pool, ref);
    *call = (psd_call){.callable = id->as.items[2],
                       .args = id->as.items[3],
                       .position = value->count,
                       .form = PSD_CALL_REDUCE};
    *value = (psd_value){.kind = PSD_KIND_CALL, .as.call = call};
    return PSD_OK;
}

psd_status
psd_torch_read_persid(psd_torch_pass *p, psd_ref ref)
{
    const psd_value *persid = psd_value_at(p->pool, ref);
    const psd_value *id = psd_value_at(p->pool, persid->as.ref);
    psd_storage s = {.position = persid->count, .parent = PSD_NO_STORAGE};
    if (p->source->dialect == PSD_DIALECT_PLAIN) {
        return PSD_OK;
    }
    if (p->source->dialect == PSD_DIALECT_TAR) {
        return read_number(p, ref, id, &s);
    }
    if (id->kind == PSD_KIND_TUPLE && id->count > 0) {
        const psd_value *what = psd_value_at(p->pool, id->as.items[0]);
        if (psd_text_is(what, PSD_LITERAL("storage"))) {
            return read_storage(p, ref, id, &s);
        }
        if (p->source->dialect == PSD_DIALECT_STREAM && id->count == 4 &&
            psd_text_is(what, PSD_LITERAL("module"))) {
            return read_module(p, ref, id->as.items[1]);
        }
        if (p->source->dialect == PSD_DIALECT_PACKAGE &&
            psd_text_is(what, PSD_LITERAL("reduce_package"))) {
            return read_reduce(p, ref, id, &s);
        }
    }
    return bad_storage(p, &s, "a persistent id that does not name a storage");
}

/* ---------------------------------------------------------------- outside the pass */

psd_status
psd_torch_read_facts(psd_pool *pool, uint64_t base, psd_ref class_ref, psd_ref location,
                     psd_arena *arena, psd_storage *s, psd_error *err)
{
    psd_torch_source source = {.dialect = PSD_DIALECT_TAR, .base = base};
    psd_torch_pass p = {.pool = pool, .source = &source, .err = err};
    psd_value *class = psd_value_at(pool, class_ref);
    if (class->kind == PSD_KIND_GLOBAL) {
        psd_torch_recognise(class->as.global);
    }
    psd_status status = read_class(&p, class_ref, s);
    if (status == PSD_OK) {
        status = read_location(&p, location, s);
    }
    if (status == PSD_OK && s->location.size > 0) {
        s->location = psd_arena_copy(arena, s->location);
        status = s->location.data == NULL ? psd_torch_no_memory(&p) : PSD_OK;
    }
    return status;
}

psd_dtype
psd_torch_class_dtype(psd_pool *pool, psd_ref class_ref)
{
    psd_value *class = psd_value_at(pool, class_ref);
    if (class->kind != PSD_KIND_GLOBAL) {
        return PSD_DTYPE_NONE;
    }
    psd_torch_recognise(class->as.global);
    return psd_known_of(class->as.global->tag) == PSD_KNOWN_TENSOR_CLASS
               ? psd_known_dtype(class->as.global->tag)
               : PSD_DTYPE_NONE;
}
