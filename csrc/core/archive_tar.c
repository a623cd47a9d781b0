/* SPDX-License-Identifier: Apache-2.0
 *
 * The tar of torch 0.1.  Storages and tensors stand in members of their own, each
 * as a small pickle and then raw numbers; the pickle names them by number.
 * Source: torch/serialization.py, legacy_load.
 */
#include "archive_parts.h"

psd_status
psd_archive_open_tar(psd_archive *archive, const psd_input *input, psd_error *err)
{
    const psd_options *o = &archive->options;
    archive->kind = PSD_ARCHIVE_TAR;
    psd_status status = psd_tar_read(input, &o->limits, &archive->tar, err);
    if (status != PSD_OK) {
        return status;
    }
    uint64_t offset = archive->tar.offset[PSD_TAR_PICKLE];
    archive->pickle_name = psd_tar_name(PSD_TAR_PICKLE);
    archive->program_offset = offset;
    return psd_pickle_fetch(input, offset, offset + archive->tar.size[PSD_TAR_PICKLE],
                            &o->limits, &archive->arena, &archive->program, err);
}

/* ---------------------------------------------------------------- a member */

/* A member that is read from its start to its end. */
typedef struct {
    psd_archive *archive;
    const psd_input *input;
    psd_error *err;
    psd_tar_member member;
    uint64_t next, end;
    uint64_t at;     /* of the pickle that was run last */
    psd_arena arena; /* of that pickle */
    psd_pool pool;
    psd_pickle pickle;
} member;

static void
begin(member *m, psd_archive *archive, const psd_input *input, psd_tar_member which,
      psd_error *err)
{
    *m = (member){.archive = archive, .input = input, .err = err, .member = which};
    m->next = archive->tar.offset[which];
    m->end = m->next + archive->tar.size[which];
    psd_arena_init(&m->arena, archive->options.alloc);
    psd_pool_init(&m->pool, &m->arena, archive->options.limits.values);
}

static void
forget_pickle(member *m)
{
    psd_pool_clear(&m->pool);
    psd_arena_clear(&m->arena);
}

static psd_status
fails(member *m, psd_status status, const char *sentence)
{
    psd_fail(m->err, status, m->at, sentence);
    return psd_fail_entry(m->err, psd_tar_name(m->member));
}

/* What failed below tells of no member. */
static psd_status
within(member *m, psd_status status)
{
    return m->err->entry_size > 0 ? status
                                  : psd_fail_entry(m->err, psd_tar_name(m->member));
}

static psd_status
no_memory(member *m)
{
    return fails(m, PSD_NO_MEMORY, "out of memory");
}

/* Run the next pickle; nothing but data and the names of classes may be in it. */
static psd_status
run_next(member *m)
{
    const psd_options *o = &m->archive->options;
    psd_span program;
    forget_pickle(m);
    m->at = m->next;
    psd_status status = psd_pickle_fetch(m->input, m->next, m->end, &o->limits,
                                         &m->arena, &program, m->err);
    if (status == PSD_OK) {
        status = psd_pickle_read(program, m->next, &o->limits, o->key, &m->pool,
                                 &m->pickle, m->err);
    }
    if (status == PSD_PICKLE_END) {
        return fails(m, PSD_TRUNCATED, "the member ends within a pickle");
    }
    if (status != PSD_OK) {
        return within(m, status);
    }
    for (psd_ref ref = 1; ref <= m->pool.count; ref++) {
        if (psd_kind_of(&m->pool, ref) > PSD_KIND_GLOBAL) {
            return fails(m, PSD_CALL, "a call in a pickle that holds only facts");
        }
    }
    m->next += m->pickle.size;
    return PSD_OK;
}

/* `size` raw bytes behind the last pickle, at most what a tensor's numbers take. */
static psd_status
take(member *m, size_t size, uint8_t *into)
{
    if (size > m->end - m->next) {
        return fails(m, PSD_TRUNCATED, "the member ends within its numbers");
    }
    psd_status status = psd_input_copy(m->input, m->next, size, into, m->err);
    m->next += size;
    return status;
}

/* A number, then as many storages or tensors. */
static psd_status
read_each(member *m, psd_status (*read_one)(member *))
{
    psd_status status = run_next(m);
    if (status != PSD_OK) {
        return status;
    }
    const psd_value *v = psd_value_at(&m->pool, m->pickle.root);
    if (v->kind != PSD_KIND_INT || v->as.integer < 0) {
        return fails(m, PSD_TAR, "the member does not begin with a number");
    }
    for (int64_t left = v->as.integer; left > 0 && status == PSD_OK; left--) {
        status = read_one(m);
    }
    return status;
}

/* The parts of a tuple of `count`, or NULL with an error. */
static const psd_ref *
parts_of(member *m, psd_ref ref, uint32_t count)
{
    const psd_value *v = psd_value_at(&m->pool, ref);
    if ((v->kind != PSD_KIND_TUPLE && v->kind != PSD_KIND_LIST) || v->count != count) {
        (void)fails(m, PSD_TAR,
                    "an entry of the member has not as many parts as it must");
        return NULL;
    }
    return v->as.items;
}

/* A number in decimal, as persistent ids spell it; kept with the archive. */
static psd_status
read_name(member *m, psd_ref ref, psd_span *name)
{
    const psd_value *v = psd_value_at(&m->pool, ref);
    if (v->kind != PSD_KIND_INT) {
        return fails(m, PSD_TAR, "a storage or tensor without a number");
    }
    *name = psd_torch_decimal(&m->archive->arena, v->as.integer);
    return name->data == NULL ? no_memory(m) : PSD_OK;
}

static bool
is_known(const psd_model *model, psd_span name)
{
    return psd_model_find(model, name) != PSD_NO_STORAGE ||
           psd_names_find(&model->tensor_names, name) != NULL;
}

/* ---------------------------------------------------------------- storages */

static psd_status
add_storage(member *m, const psd_storage *s)
{
    psd_model *model = &m->archive->model;
    uint32_t number;
    if (is_known(model, s->key)) {
        return fails(m, PSD_TAR, "two storages or tensors have one number");
    }
    return psd_model_find_or_name(model, s->key, &number) &&
                   psd_model_add_storage(model, s)
               ? PSD_OK
               : no_memory(m);
}

/* (key, location, class), a count, the elements. */
static psd_status
read_storage(member *m)
{
    uint8_t count[8];
    psd_storage s = {.parent = PSD_NO_STORAGE, .place = PSD_PLACE_FILE};
    psd_status status = run_next(m);
    const psd_ref *parts = status == PSD_OK ? parts_of(m, m->pickle.root, 3) : NULL;
    if (parts == NULL) {
        return m->err->status;
    }
    status = psd_torch_read_facts(&m->pool, m->at, parts[2], parts[1],
                                  &m->archive->arena, &s, m->err);
    status = status == PSD_OK ? read_name(m, parts[0], &s.key) : within(m, status);
    if (status == PSD_OK) {
        status = take(m, sizeof count, count);
    }
    if (status != PSD_OK) {
        return status;
    }
    s.numel = psd_load_le64(count);
    if (!psd_multiply(s.numel, psd_dtype_row((psd_dtype)s.dtype)->size, &s.size) ||
        s.size > m->end - m->next) {
        fails(m, PSD_TRUNCATED, "the member ends within a storage");
        return psd_fail_numbers(m->err, m->end - m->next, s.numel);
    }
    s.at.offset = m->next;
    m->next += s.size;
    return add_storage(m, &s);
}

/* (key, key of the storage, offset, numel): a storage that is a part of one. */
static psd_status
read_view(member *m, psd_ref ref)
{
    psd_span root;
    psd_storage s;
    const psd_ref *parts = parts_of(m, ref, 4);
    if (parts == NULL) {
        return m->err->status;
    }
    psd_status status = read_name(m, parts[1], &root);
    if (status != PSD_OK) {
        return status;
    }
    uint32_t number = psd_model_find(&m->archive->model, root);
    const psd_value *offset = psd_value_at(&m->pool, parts[2]);
    const psd_value *numel = psd_value_at(&m->pool, parts[3]);
    if (number == PSD_NO_STORAGE) {
        return fails(m, PSD_TAR, "a view of a storage that there is not");
    }
    s = m->archive->model.storages[number];
    if (offset->kind != PSD_KIND_INT || numel->kind != PSD_KIND_INT ||
        offset->as.integer < 0 || numel->as.integer < 0 ||
        !psd_fits((uint64_t)offset->as.integer, (uint64_t)numel->as.integer, s.numel)) {
        return fails(m, PSD_TAR, "a storage's view reaches beyond it");
    }
    uint64_t item = psd_dtype_row((psd_dtype)s.dtype)->size;
    s.parent_offset += (uint64_t)offset->as.integer * item;
    s.parent = s.parent == PSD_NO_STORAGE ? number : s.parent;
    s.numel = (uint64_t)numel->as.integer;
    s.size = s.numel * item;
    s.place = PSD_PLACE_NONE;
    status = read_name(m, parts[0], &s.key);
    return status == PSD_OK ? add_storage(m, &s) : status;
}

static psd_status
read_storages(member *m)
{
    psd_status status = read_each(m, read_storage);
    if (status == PSD_OK) {
        status = run_next(m);
    }
    if (status != PSD_OK) {
        return status;
    }
    const psd_value *views = psd_value_at(&m->pool, m->pickle.root);
    if (views->kind != PSD_KIND_LIST) {
        return fails(m, PSD_TAR, "the member does not end with a list of views");
    }
    for (uint32_t i = 0; i < views->count && status == PSD_OK; i++) {
        status = read_view(m, views->as.items[i]);
    }
    return status;
}

/* ---------------------------------------------------------------- tensors */

/* The rank, four bytes of garbage, sizes, strides, and the offset in the storage. */
static psd_status
read_geometry(member *m, psd_tensor *t)
{
    uint8_t numbers[64 * 16 + 8];
    psd_status status = take(m, 8, numbers);
    if (status != PSD_OK) {
        return status;
    }
    uint32_t rank = psd_load_le32(numbers);
    if (rank > 64 || rank > m->archive->options.limits.rank) {
        fails(m, PSD_TENSOR, "a tensor has a rank that none has");
        return psd_fail_numbers(m->err, rank, 64);
    }
    int64_t *geometry =
        psd_arena_take_array(&m->archive->arena, 2 * (size_t)rank, sizeof *geometry);
    if (geometry == NULL) {
        return no_memory(m);
    }
    status = take(m, (size_t)rank * 16 + 8, numbers);
    for (uint32_t i = 0; status == PSD_OK && i < 2 * rank; i++) {
        geometry[i] = (int64_t)psd_load_le64(numbers + (size_t)i * 8);
    }
    t->rank = (uint8_t)rank;
    t->shape = geometry;
    t->strides = geometry + rank;
    t->offset =
        status == PSD_OK ? (int64_t)psd_load_le64(numbers + (size_t)rank * 16) : 0;
    return status;
}

static psd_status
check_window(member *m, psd_tensor *t)
{
    uint64_t reach;
    uint64_t item = psd_dtype_row((psd_dtype)t->dtype)->size;
    const psd_storage *s =
        t->storage == PSD_NO_STORAGE ? NULL : &m->archive->model.storages[t->storage];
    const char *fault = psd_window_count(t, (size_t)item);
    if (fault == NULL) {
        fault = psd_window_reach(t, s == NULL ? 0 : s->size / item, &reach);
    }
    if (fault != NULL) {
        return fails(m, PSD_TENSOR, fault);
    }
    if (s != NULL && s->parent != PSD_NO_STORAGE) {
        t->storage = s->parent;
        t->offset += t->numel == 0 ? 0 : (int64_t)(s->parent_offset / item);
    }
    return PSD_OK;
}

/* The storage that a tensor names, and with it the dtype.  The tensor's class is looked
 * at only where it names none: torch, too, goes by the storage. */
static psd_status
read_storage_of(member *m, psd_ref storage, psd_ref class, psd_tensor *t)
{
    psd_span key;
    const psd_model *model = &m->archive->model;
    if (psd_kind_of(&m->pool, storage) == PSD_KIND_NONE) {
        t->dtype = (uint8_t)psd_torch_class_dtype(&m->pool, class);
        return t->dtype != PSD_DTYPE_NONE
                   ? PSD_OK
                   : fails(m, PSD_TAR,
                           "a tensor without a storage and without a dtype");
    }
    psd_status status = read_name(m, storage, &key);
    if (status != PSD_OK) {
        return status;
    }
    t->storage = psd_model_find(model, key);
    if (t->storage == PSD_NO_STORAGE) {
        return fails(m, PSD_TAR, "a tensor of a storage that there is not");
    }
    t->dtype = model->storages[t->storage].dtype;
    return PSD_OK;
}

static psd_status
add_tensor(member *m, psd_span name, const psd_tensor *t)
{
    psd_model *model = &m->archive->model;
    if (is_known(model, name)) {
        return fails(m, PSD_TAR, "two storages or tensors have one number");
    }
    return psd_model_add_tensor(model, t) &&
                   psd_names_add(&model->tensor_names, name, model->tensor_count - 1)
               ? PSD_OK
               : no_memory(m);
}

/* (key, storage key or None, class), then numbers. */
static psd_status
read_tensor(member *m)
{
    psd_span name;
    psd_tensor t = {.storage = PSD_NO_STORAGE};
    psd_status status = run_next(m);
    const psd_ref *parts = status == PSD_OK ? parts_of(m, m->pickle.root, 3) : NULL;
    if (parts == NULL) {
        return m->err->status;
    }
    status = read_name(m, parts[0], &name);
    if (status == PSD_OK) {
        status = read_storage_of(m, parts[1], parts[2], &t);
    }
    if (status == PSD_OK) {
        status = read_geometry(m, &t);
    }
    if (status == PSD_OK) {
        status = check_window(m, &t);
    }
    return status == PSD_OK ? add_tensor(m, name, &t) : status;
}

psd_status
psd_archive_read_tar(psd_archive *archive, const psd_input *input, psd_error *err)
{
    member m;
    begin(&m, archive, input, PSD_TAR_STORAGES, err);
    psd_status status = read_storages(&m);
    forget_pickle(&m);
    if (status == PSD_OK) {
        begin(&m, archive, input, PSD_TAR_TENSORS, err);
        status = read_each(&m, read_tensor);
        forget_pickle(&m);
    }
    return status;
}
