/* SPDX-License-Identifier: Apache-2.0 */
#include "torch.h"

void
psd_model_init(psd_model *model, psd_alloc alloc, psd_hash_key key)
{
    *model = (psd_model){.alloc = alloc};
    psd_names_init(&model->storage_names, alloc, key);
    psd_names_init(&model->tensor_names, alloc, key);
}

void
psd_model_clear(psd_model *model)
{
    psd_alloc alloc = model->alloc;
    if (model->storages != NULL) {
        alloc.resize(alloc.ctx, model->storages,
                     model->storage_capacity * sizeof *model->storages, 0);
    }
    if (model->tensors != NULL) {
        alloc.resize(alloc.ctx, model->tensors,
                     model->tensor_capacity * sizeof *model->tensors, 0);
    }
    if (model->modules != NULL) {
        alloc.resize(alloc.ctx, model->modules,
                     model->module_capacity * sizeof *model->modules, 0);
    }
    psd_names_clear(&model->storage_names);
    psd_names_clear(&model->tensor_names);
    psd_model_init(model, alloc, model->storage_names.key);
}

bool
psd_model_reserve(psd_model *model, uint64_t storages, uint64_t tensors)
{
    void *s = model->storages, *t = model->tensors;
    bool done = psd_grow(model->alloc, &s, &model->storage_capacity, storages,
                         sizeof *model->storages) &&
                psd_grow(model->alloc, &t, &model->tensor_capacity, tensors,
                         sizeof *model->tensors);
    model->storages = s;
    model->tensors = t;
    return done;
}

bool
psd_model_add_storage(psd_model *model, const psd_storage *storage)
{
    if (!psd_model_reserve(model, (uint64_t)model->storage_count + 1, 0)) {
        return false;
    }
    model->storages[model->storage_count++] = *storage;
    return true;
}

bool
psd_model_add_tensor(psd_model *model, const psd_tensor *tensor)
{
    if (!psd_model_reserve(model, 0, (uint64_t)model->tensor_count + 1)) {
        return false;
    }
    model->tensors[model->tensor_count++] = *tensor;
    return true;
}

unsigned
psd_tensor_per_byte(const psd_tensor *tensor)
{
    bool counts_bytes = (tensor->flags & PSD_TENSOR_STORAGE) != 0;
    return counts_bytes ? 1 : psd_dtype_per_byte((psd_dtype)tensor->dtype);
}

uint64_t
psd_tensor_nbytes(const psd_tensor *tensor)
{
    unsigned per_byte = psd_tensor_per_byte(tensor);
    if (tensor->layout != PSD_LAYOUT_STRIDED) {
        return tensor->more.composite->nbytes;
    }
    uint64_t size = tensor->numel * psd_dtype_row((psd_dtype)tensor->dtype)->size;
    return (size + per_byte - 1) / per_byte;
}

/* ---------------------------------------------------------------- storages by key */

uint32_t
psd_model_find(const psd_model *model, psd_span key)
{
    uint32_t number;
    if (psd_span_is_number(key, model->numbered, &number)) {
        return number;
    }
    const uint32_t *found = psd_names_find(&model->storage_names, key);
    return found == NULL ? PSD_NO_STORAGE : *found;
}

bool
psd_model_find_or_name(psd_model *model, psd_span key, uint32_t *number)
{
    psd_names *names = &model->storage_names;
    uint32_t count = model->storage_count;
    if (psd_span_is_number(key, model->numbered, number)) {
        return true;
    }
    if (model->numbered == count && psd_span_is_number(key, count + 1, number)) {
        model->numbered++;
        return true;
    }
    bool added;
    uint32_t most =
        model->storage_capacity > count ? model->storage_capacity : count + 1;
    const uint32_t *known = psd_names_reserve(names, most)
                                ? psd_names_put(names, key, count, &added)
                                : NULL;
    *number = known == NULL ? PSD_NO_STORAGE : *known;
    return known != NULL;
}

/* Where the module at `ref` stands in their list, or would. */
static uint32_t
place_of(const psd_model *model, psd_ref ref)
{
    uint32_t low = 0, high = model->module_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (model->modules[middle].at < ref) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

static bool
is_at(const psd_model *model, uint32_t place, psd_ref ref)
{
    return place < model->module_count && model->modules[place].at == ref;
}

bool
psd_model_set_module(psd_model *model, psd_ref at, psd_ref state_dict)
{
    uint32_t place = place_of(model, at);
    if (!is_at(model, place, at)) {
        void *modules = model->modules;
        bool grown =
            psd_grow(model->alloc, &modules, &model->module_capacity,
                     (uint64_t)model->module_count + 1, sizeof *model->modules);
        model->modules = modules;
        if (!grown) {
            return false;
        }
        memmove(model->modules + place + 1, model->modules + place,
                (model->module_count - place) * sizeof *model->modules);
        model->module_count++;
    }
    model->modules[place] = (psd_module){.at = at, .state_dict = state_dict};
    return true;
}

const psd_module *
psd_model_module(const psd_model *model, psd_ref ref)
{
    uint32_t place = place_of(model, ref);
    return is_at(model, place, ref) ? &model->modules[place] : NULL;
}

/* ---------------------------------------------------------------- what was lost */

static bool
is_lost(const psd_pool *pool, const psd_model *model, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    return ref != 0 && v->kind == PSD_KIND_TENSOR &&
           (model->tensors[v->as.index].flags & PSD_TENSOR_LOST) != 0;
}

/* Is anything lost that the tensor is made of? */
static bool
has_lost(const psd_pool *pool, const psd_model *model, const psd_tensor *t)
{
    if (t->layout == PSD_LAYOUT_STRIDED) {
        const psd_quantizer *q = t->more.quantizer;
        return q != NULL && (is_lost(pool, model, q->scales) ||
                             is_lost(pool, model, q->zero_points));
    }
    for (uint32_t i = 0; i < t->more.composite->count; i++) {
        if (is_lost(pool, model, t->more.composite->parts[i].tensor)) {
            return true;
        }
    }
    return false;
}

void
psd_model_lose(psd_pool *pool, psd_model *model)
{
    const uint8_t lost = PSD_TENSOR_META | PSD_TENSOR_LOST;
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        psd_tensor *t = &model->tensors[i];
        if (t->layout == PSD_LAYOUT_STRIDED && t->storage != PSD_NO_STORAGE &&
            model->storages[t->storage].place == PSD_PLACE_LOST && t->numel > 0) {
            t->flags |= lost;
        }
    }
    /* Parts mostly come before what is made of them; twice, for the others. */
    for (unsigned pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < model->tensor_count; i++) {
            psd_tensor *t = &model->tensors[i];
            t->flags |= has_lost(pool, model, t) ? lost : 0;
        }
    }
}
