/* SPDX-License-Identifier: Apache-2.0
 *
 * What _metadata says of a module, and what its hooks would have done.
 * Sources: torch/nn/modules/module.py, torch/nn/utils/spectral_norm.py,
 * torch/ao/quantization/fx/graph_module.py.
 */
#include "torch_walk.h"
#include "text.h"

static psd_ref
number(psd_walk *w, unsigned version)
{
    if (w->numbers[version] == 0 && !w->failed) {
        w->numbers[version] =
            psd_walk_born(w, psd_new_int(w->p->pool, (int64_t)version));
    }
    return w->numbers[version];
}

static psd_ref
new_dict(psd_walk *w, const psd_ref *items, uint32_t count)
{
    return w->failed ? 0
                     : psd_walk_born(
                           w, psd_new_items(w->p->pool, PSD_KIND_DICT, items, count));
}

/* Classes of a model's own are taken to have what torch gives them, 1; those that
 * count batches are made of torch's, which normalise: 2. */
static unsigned
version_of(const psd_walk *w, const psd_module_look *m)
{
    const psd_pool *pool = w->p->pool;
    psd_ref buffers = m->attributes == 0 ? 0
                                         : psd_walk_attribute(pool, m->attributes,
                                                              PSD_LITERAL("_buffers"));
    bool counts =
        buffers != 0 &&
        psd_walk_attribute(pool, buffers, PSD_LITERAL("num_batches_tracked")) != 0;
    return counts && m->class.version < 2 ? 2 : m->class.version;
}

/* What torch's own hook of spectral_norm() is called with, the name of a weight. */
static bool
spectral_name(const psd_walk *w, psd_ref hook, psd_span *name)
{
    const psd_pool *pool = w->p->pool;
    const psd_value *v = psd_value_at(pool, hook);
    const psd_value *class =
        v->kind == PSD_KIND_CALL ? psd_value_at(pool, v->as.call->callable) : v;
    if (class->kind != PSD_KIND_GLOBAL || v->kind != PSD_KIND_CALL ||
        v->as.call->state == 0 ||
        !psd_span_equal(class->as.global->module,
                        PSD_LITERAL("torch.nn.utils.spectral_norm")) ||
        !psd_span_equal(class->as.global->name,
                        PSD_LITERAL("SpectralNormStateDictHook"))) {
        return false;
    }
    psd_ref function = psd_walk_attribute(pool, v->as.call->state, PSD_LITERAL("fn"));
    const psd_value *f = psd_value_at(pool, function);
    psd_ref text =
        function != 0 && f->kind == PSD_KIND_CALL && f->as.call->state != 0
            ? psd_walk_attribute(pool, f->as.call->state, PSD_LITERAL("name"))
            : 0;
    return text != 0 && psd_walk_name_at(pool, text, name);
}

/* The hook of quantized graphs tells script objects among the attributes; mostly
 * there are none. */
static bool
finds_nothing(psd_walk *w, psd_ref hook, psd_ref attributes)
{
    const psd_pool *pool = w->p->pool;
    const psd_value *function = psd_value_at(pool, hook);
    const psd_span part = PSD_LITERAL("_packed_weight");
    bool nothing =
        function->kind == PSD_KIND_GLOBAL &&
        psd_span_equal(function->as.global->name, PSD_LITERAL("_save_packed_weight"));
    psd_pairs all = nothing ? psd_walk_pairs(pool, attributes) : (psd_pairs){NULL, 0};
    for (uint32_t i = 0; i + 1 < all.count && nothing && psd_walk_may_go_on(w, 0);
         i += 2) {
        psd_span name = {NULL, 0};
        nothing = !psd_walk_name_at(pool, all.items[i], &name) ||
                  !psd_walk_may_go_on(w, name.size) || !psd_span_holds(name, part);
    }
    return nothing;
}

/* Hooks are not run: those that are not known are noted, and of spectral_norm()'s
 * the {"<name>.version": 1, ...} is made that they leave; 0: there are none. */
static psd_ref
look_at_hooks(psd_walk *w, psd_span prefix, psd_ref attributes, psd_span kind)
{
    const psd_pool *pool = w->p->pool;
    psd_ref dict = psd_walk_attribute(pool, attributes, kind), items[2 * PSD_LOOKED_AT];
    psd_pairs hooks = dict == 0 ? (psd_pairs){NULL, 0} : psd_walk_pairs(pool, dict);
    uint32_t count = 0;
    for (uint32_t i = 0;
         i + 1 < hooks.count && i < 2 * PSD_LOOKED_AT && psd_walk_may_go_on(w, 0);
         i += 2) {
        const psd_span none = {NULL, 0};
        psd_span name, path = {prefix.data, prefix.size > 0 ? prefix.size - 1 : 0};
        psd_ref hook = hooks.items[i + 1];
        if (finds_nothing(w, hook, attributes)) {
            continue;
        }
        if (!spectral_name(w, hook, &name)) {
            psd_walk_note_untold(w, path, none, hook, true);
        }
        else if (psd_walk_may_go_on(w, name.size)) {
            psd_span key = psd_walk_joined(w, none, name, PSD_LITERAL(".version"));
            items[count++] = psd_walk_text(w, key);
            items[count++] = number(w, 1);
        }
    }
    return count == 0 ? 0 : new_dict(w, items, count);
}

/* An entry of _metadata: the prefix without its dot, {"version": n}. */
void
psd_walk_add_version(psd_walk *w, const psd_walk_frame *f, const psd_module_look *m)
{
    psd_span prefix = {f->prefix.data, f->prefix.size > 0 ? f->prefix.size - 1 : 0};
    psd_ref version[4], spectral = 0;
    uint32_t count = 2;
    if (m->attributes != 0) {
        spectral = look_at_hooks(w, f->prefix, m->attributes,
                                 PSD_LITERAL("_state_dict_hooks"));
        (void)look_at_hooks(w, f->prefix, m->attributes,
                            PSD_LITERAL("_state_dict_pre_hooks"));
    }
    if (w->version_word == 0) {
        w->version_word = psd_walk_text(w, PSD_LITERAL("version"));
    }
    version[0] = w->version_word;
    version[1] = number(w, version_of(w, m));
    if (spectral != 0) {
        version[2] = psd_walk_text(w, PSD_LITERAL("spectral_norm"));
        version[3] = spectral;
        count = 4;
    }
    psd_ref key = psd_walk_text(w, prefix);
    psd_ref dict = new_dict(w, version, count);
    w->failed = w->failed || !psd_walk_add(w->alloc, &w->versions, key) ||
                !psd_walk_add(w->alloc, &w->versions, dict);
}
