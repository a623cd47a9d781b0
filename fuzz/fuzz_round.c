/* SPDX-License-Identifier: Apache-2.0
 *
 * Round trips: a pickle is given storages of known bytes, written as an archive or a
 * stream, opened, and written again.  Values, identity, tensors and their bytes come
 * back, and from the second writing on the bytes are the same.
 */
#include "opcodes.h"

enum { BYTES_MOST = 1 << 16 };

/* What is opened and its file; of the first, which is made here, the file is empty. */
typedef struct {
    psd_archive archive;
    psd_buffer file;
    psd_span *bytes; /* of the storages, in the archive's arena */
    psd_error err;
} journey;

static psd_input
input_of(const journey *j)
{
    return (psd_input){.data = j->file.data, .size = j->file.size};
}

/* ------------------------------------------------------------------- the first */

/* Bytes that tell one storage from another, and one place from the next. */
static bool
make_bytes(journey *j)
{
    psd_model *model = &j->archive.model;
    uint64_t total = 0;
    for (uint32_t i = 0; i < model->storage_count; i++) {
        psd_storage *s = &model->storages[i];
        bool view = s->parent != PSD_NO_STORAGE;
        if (!view && (s->size > BYTES_MOST || (total += s->size) > BYTES_MOST)) {
            return false;
        }
    }
    j->bytes =
        psd_arena_take_array(&j->archive.arena, model->storage_count, sizeof *j->bytes);
    for (uint32_t i = 0; j->bytes != NULL && i < model->storage_count; i++) {
        psd_storage *s = &model->storages[i];
        size_t size = s->parent == PSD_NO_STORAGE ? (size_t)s->size : 0;
        uint8_t *made = psd_arena_take(&j->archive.arena, size);
        if (made == NULL) {
            return false;
        }
        for (size_t k = 0; k < size; k++) {
            made[k] = (uint8_t)(i * 89 + k * 7 + (k >> 8));
        }
        j->bytes[i] = (psd_span){made, size};
    }
    return j->bytes != NULL;
}

static bool
begin(journey *j, const psd_options *options, psd_span program, bool big_endian)
{
    psd_archive *a = &j->archive;
    psd_torch_source source = {.dialect = PSD_DIALECT_STREAM};
    psd_archive_init(a, options);
    psd_buffer_init(&j->file, options->alloc);
    a->big_endian = big_endian;
    return psd_pickle_read(program, 0, &options->limits, FUZZ_KEY, &a->pool, &a->pickle,
                           &j->err) == PSD_OK &&
           psd_torch_read(&a->pool, a->pickle.root, &source, &options->limits,
                          &a->model, &j->err) == PSD_OK &&
           !fuzz_has_ids(&a->pool) && make_bytes(j);
}

static void
end(journey *j)
{
    psd_archive_clear(&j->archive);
    psd_buffer_clear(&j->file);
}

/* ------------------------------------------------------------------- the next */

static bool
fetch_bytes(journey *j)
{
    psd_archive *a = &j->archive;
    psd_input input = input_of(j);
    j->bytes =
        psd_arena_take_array(&a->arena, a->model.storage_count, sizeof *j->bytes);
    for (uint32_t i = 0; j->bytes != NULL && i < a->model.storage_count; i++) {
        if (!fuzz_storage_bytes(a, &input, i, &a->arena, &j->bytes[i])) {
            return false;
        }
    }
    return j->bytes != NULL;
}

/* Write what `from` holds and open it; writing changes it, so it is not to be used
 * afterwards. */
static bool
travel(journey *from, journey *to, psd_dialect dialect)
{
    psd_archive *a = &from->archive;
    psd_write_options writing = {a->options.alloc, dialect, .checksum = true,
                                 .big_endian = a->big_endian};
    psd_buffer_init(&to->file, a->options.alloc);
    psd_archive_init(&to->archive, &a->options);
    psd_status status =
        psd_archive_write(&a->pool, a->pickle.root, &a->model, from->bytes, &writing,
                          (psd_sink){fuzz_gather, &to->file}, &to->err);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &to->err);
        PROMISE(to->file.size == 0);
        return false;
    }
    bool opened;
    psd_input input = input_of(to);
    status = fuzz_open(&to->archive, &a->options, &input, &opened, &to->err);
    if (dialect == PSD_DIALECT_STREAM && status == PSD_STORAGE) {
        return false; /* a storage that nothing leads to: hosts make none */
    }
    PROMISE(status == PSD_OK);
    PROMISE(fetch_bytes(to));
    return true;
}

/* ------------------------------------------------------------------- comparing */

typedef struct {
    psd_ref left, right;
} pair;

typedef struct {
    const journey *a, *b;
    psd_ref *twin; /* of each value of a, the one of b */
    pair *todo;    /* own memory */
    uint32_t count, capacity;
} comparison;

static void
push(comparison *c, psd_ref left, psd_ref right)
{
    void *todo = c->todo;
    PROMISE((left == 0) == (right == 0));
    if (left == 0) {
        return;
    }
    PROMISE(psd_grow(c->a->archive.options.alloc, &todo, &c->capacity,
                     (uint64_t)c->count + 1, sizeof *c->todo));
    c->todo = todo;
    c->todo[c->count++] = (pair){left, right};
}

static void
push_all(comparison *c, const psd_ref *left, uint32_t count, const psd_ref *right,
         uint32_t other)
{
    PROMISE(count == other);
    for (uint32_t i = 0; i < count; i++) {
        push(c, left[i], right[i]);
    }
}

static bool
is_global(const psd_pool *pool, psd_ref ref, psd_span name)
{
    return psd_kind_of(pool, ref) == PSD_KIND_GLOBAL &&
           psd_span_equal(psd_value_at(pool, ref)->as.global->name, name);
}

/* The arguments of a call of what has this name. */
static const psd_value *
arguments(const psd_pool *pool, const psd_value *v, psd_span name)
{
    PROMISE(v->kind == PSD_KIND_CALL && is_global(pool, v->as.call->callable, name));
    const psd_value *args = psd_value_at(pool, v->as.call->args);
    PROMISE(args->kind == PSD_KIND_TUPLE);
    return args;
}

/* Bytes are spelled as a call of encode. */
static void
same_spelled(const psd_pool *pool, psd_span bytes, const psd_value *v)
{
    const psd_value *args = arguments(pool, v, PSD_LITERAL("encode"));
    PROMISE(args->count == 2);
    psd_span text = psd_text_of(psd_value_at(pool, args->as.items[0]));
    size_t at = 0;
    for (size_t i = 0; i < bytes.size; i++, at++) {
        uint8_t byte = bytes.data[i];
        PROMISE(at < text.size);
        if (byte >= 0x80) {
            PROMISE(text.data[at++] == (0xC0 | byte >> 6) && at < text.size);
            byte &= 0xBF;
        }
        PROMISE(text.data[at] == byte);
    }
    PROMISE(at == text.size);
}

static void
same_bytearray(const psd_pool *pool, psd_span bytes, const psd_value *v)
{
    const psd_value *args = arguments(pool, v, PSD_LITERAL("bytearray"));
    PROMISE(args->count == (bytes.size > 0));
    if (bytes.size > 0) {
        same_spelled(pool, bytes, psd_value_at(pool, args->as.items[0]));
    }
}

/* A set is a call with the list of its items. */
static void
same_set(comparison *c, const psd_value *left, const psd_value *v)
{
    const psd_pool *pool = &c->b->archive.pool;
    bool frozen = left->kind == PSD_KIND_FROZENSET;
    const psd_value *args =
        arguments(pool, v, frozen ? PSD_LITERAL("frozenset") : PSD_LITERAL("set"));
    PROMISE(args->count == 1);
    const psd_value *list = psd_value_at(pool, args->as.items[0]);
    PROMISE(list->kind == PSD_KIND_LIST);
    push_all(c, left->as.items, left->count, list->as.items, list->count);
}

static void
same_call(comparison *c, const psd_call *left, const psd_call *right)
{
    if (left->form == PSD_CALL_NEWOBJ_EX) {
        const psd_pool *pool = &c->b->archive.pool;
        const psd_value *args = psd_value_at(pool, right->args);
        PROMISE(is_global(pool, right->callable, PSD_LITERAL("__newobj_ex__")));
        PROMISE(args->kind == PSD_KIND_TUPLE && args->count == 3);
        for (uint32_t i = 0; i < 3; i++) {
            push(c, psd_call_part(left, i), args->as.items[i]);
        }
    }
    else {
        push(c, left->callable, right->callable);
        push(c, left->args, right->args);
        PROMISE((left->form == PSD_CALL_NEWOBJ) == (right->form == PSD_CALL_NEWOBJ));
    }
    push(c, left->state, right->state);
    push_all(c, left->items, left->item_count, right->items, right->item_count);
    push_all(c, left->appends, left->append_count, right->appends, right->append_count);
}

/* The same bytes; each number's the other way round where a stream has swapped them. */
static void
same_bytes(const comparison *c, uint32_t s, uint32_t t)
{
    psd_span left = c->a->bytes[s], right = c->b->bytes[t];
    const psd_storage *storage = &c->a->archive.model.storages[s];
    bool swapped = c->a->archive.big_endian != c->b->archive.big_endian;
    size_t unit = swapped ? psd_dtype_row((psd_dtype)storage->dtype)->swap_unit : 1;
    PROMISE(left.size == right.size && left.size % unit == 0);
    for (size_t i = 0; i < left.size; i++) {
        size_t within = i % unit;
        PROMISE(left.data[i] == right.data[i - within + unit - 1 - within]);
    }
}

static void
same_window(const comparison *c, const psd_tensor *s, const psd_tensor *t)
{
    PROMISE(s->offset == t->offset);
    same_bytes(c, s->storage, t->storage);
    const psd_quantizer *p = s->more.quantizer, *q = t->more.quantizer;
    PROMISE((p == NULL) == (q == NULL));
    if (p != NULL) {
        PROMISE((p->scheme == PSD_PER_TENSOR) == (q->scheme == PSD_PER_TENSOR));
        PROMISE(p->scheme != PSD_PER_TENSOR ||
                (memcmp(&p->scale, &q->scale, sizeof p->scale) == 0 &&
                 p->zero_point == q->zero_point));
        PROMISE(p->scheme == PSD_PER_TENSOR || p->axis == q->axis);
    }
}

static void
same_tensor(comparison *c, const psd_tensor *s, const psd_tensor *t)
{
    /* A buffer is told by its attributes, a storage by itself only if it is whole. */
    const unsigned kept = PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD |
                          PSD_TENSOR_CONJ | PSD_TENSOR_NEG | PSD_TENSOR_META;
    PROMISE(s->layout == t->layout && s->dtype == t->dtype && s->rank == t->rank);
    bool meta = (s->flags & PSD_TENSOR_META) != 0;
    unsigned differ = s->flags ^ t->flags;
    PROMISE((differ & (meta ? PSD_TENSOR_META : kept)) == 0);
    for (unsigned d = 0; d < s->rank; d++) {
        PROMISE(s->shape[d] == t->shape[d]);
        PROMISE(s->layout != PSD_LAYOUT_STRIDED || s->strides[d] == t->strides[d]);
    }
    if (s->layout == PSD_LAYOUT_STRIDED) {
        if (!meta) {
            same_window(c, s, t);
        }
        push(c, s->state, t->state);
        return;
    }
    const psd_composite *p = s->more.composite, *q = t->more.composite;
    PROMISE(p->count == q->count && p->coalesced == q->coalesced);
    for (uint32_t i = 0; i < p->count; i++) {
        PROMISE(psd_span_equal(p->parts[i].name, q->parts[i].name));
        push(c, p->parts[i].tensor, q->parts[i].tensor);
    }
}

static bool
has_identity(const psd_value *v)
{
    return v->kind > PSD_KIND_INT && v->kind != PSD_KIND_FLOAT &&
           !(v->kind == PSD_KIND_TUPLE && v->count == 0);
}

/* Is this told by a call in what was written? */
static bool
is_spelled(psd_kind kind)
{
    return kind == PSD_KIND_BYTES || kind == PSD_KIND_BYTEARRAY ||
           kind == PSD_KIND_SET || kind == PSD_KIND_FROZENSET;
}

static void
same_content(comparison *c, const psd_value *v, const psd_value *w)
{
    const psd_pool *right = &c->b->archive.pool;
    switch (v->kind) {
    case PSD_KIND_BOOL: PROMISE(v->as.boolean == w->as.boolean); break;
    case PSD_KIND_INT: PROMISE(v->as.integer == w->as.integer); break;
    case PSD_KIND_FLOAT:
        PROMISE(memcmp(&v->as.real, &w->as.real, sizeof v->as.real) == 0);
        break;
    case PSD_KIND_LONG:
    case PSD_KIND_TEXT:
    case PSD_KIND_STRING:
        PROMISE(psd_span_equal(psd_text_of(v), psd_text_of(w)));
        break;
    case PSD_KIND_BYTES: same_spelled(right, psd_text_of(v), w); break;
    case PSD_KIND_BYTEARRAY: same_bytearray(right, psd_text_of(v), w); break;
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: same_set(c, v, w); break;
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
        push_all(c, v->as.items, v->count, w->as.items, w->count);
        break;
    case PSD_KIND_GLOBAL:
        PROMISE(psd_span_equal(v->as.global->module, w->as.global->module) &&
                psd_span_equal(v->as.global->name, w->as.global->name));
        break;
    case PSD_KIND_CALL: same_call(c, v->as.call, w->as.call); break;
    case PSD_KIND_TENSOR:
        same_tensor(c, &c->a->archive.model.tensors[v->as.index],
                    &c->b->archive.model.tensors[w->as.index]);
        break;
    default: PROMISE(v->kind == PSD_KIND_NONE); break;
    }
}

/* Walks both from their roots; two references to one value stay two to one. */
static void
expect_same(const journey *a, const journey *b)
{
    psd_alloc alloc = a->archive.options.alloc;
    size_t size = ((size_t)a->archive.pool.count + 1) * sizeof(psd_ref);
    comparison c = {.a = a, .b = b, .twin = alloc.resize(alloc.ctx, NULL, 0, size)};
    PROMISE(c.twin != NULL);
    memset(c.twin, 0, size);
    push(&c, a->archive.pickle.root, b->archive.pickle.root);
    while (c.count > 0) {
        pair p = c.todo[--c.count];
        const psd_value *v = psd_value_at(&a->archive.pool, p.left);
        const psd_value *w = psd_value_at(&b->archive.pool, p.right);
        PROMISE(v->kind == w->kind ||
                (is_spelled((psd_kind)v->kind) && w->kind == PSD_KIND_CALL));
        if (has_identity(v)) {
            PROMISE(c.twin[p.left] == 0 || c.twin[p.left] == p.right);
            if (c.twin[p.left] != 0) {
                continue;
            }
            c.twin[p.left] = p.right;
        }
        same_content(&c, v, w);
    }
    if (c.todo != NULL) {
        alloc.resize(alloc.ctx, c.todo, c.capacity * sizeof *c.todo, 0);
    }
    alloc.resize(alloc.ctx, c.twin, size, 0);
}

/* ------------------------------------------------------------------- the trip */

static void
judge(psd_span program, psd_dialect dialect, bool big_endian)
{
    fuzz_heap heap = {0};
    psd_options options = fuzz_options(&heap);
    options.limits.pickle_size *=
        4; /* what is written may be longer than what was read */
    journey first = {.bytes = NULL}, kept = {.bytes = NULL}, second, third, fourth;
    if (begin(&first, &options, program, big_endian)) {
        PROMISE(begin(&kept, &options, program, big_endian));
        if (travel(&first, &second, dialect)) {
            expect_same(&kept, &second);
            if (travel(&second, &third, dialect)) {
                PROMISE(travel(&third, &fourth, dialect));
                PROMISE(psd_span_equal(psd_buffer_span(&third.file),
                                       psd_buffer_span(&fourth.file)));
                end(&fourth);
            }
            else {
                /* A frozenset that holds itself, as no Python's can, came back as the
                 * call that spells it. */
                PROMISE(third.err.status == PSD_ARGUMENT);
            }
            end(&third);
        }
        end(&second);
        end(&kept);
    }
    end(&first);
    PROMISE(heap.live == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1) {
        psd_span program = {data + 1, size - 1};
        judge(program, PSD_DIALECT_ZIP, (data[0] & 1) != 0);
        judge(program, PSD_DIALECT_STREAM, (data[0] & 1) != 0);
    }
    return 0;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_mutate_program(data, size, room, seed);
}
