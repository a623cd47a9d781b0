/* SPDX-License-Identifier: Apache-2.0
 *
 * What a module's state_dict() would give, while it is made.  Private to the torch
 * room.
 */
#ifndef PSD_TORCH_WALK_H
#define PSD_TORCH_WALK_H

#include "torch_class.h"
#include "torch_pass.h"

/* Of a module's attributes torch's own come first.  A dict may be the state of many
 * calls, so no more of it is looked at for each. */
#define PSD_LOOKED_AT 64u

typedef struct {
    const psd_ref *items; /* key, value, ... */
    uint32_t count;
} psd_pairs;

/* What a class without attributes is told by: of torch.compile's (module, context),
 * of quantized convolutions a state of ten settings, weight, bias, scale, zero point,
 * of packed linear weights before torch 1.9 (weight, bias, training, dtype). */
#define PSD_CONV_WEIGHT 10u
#define PSD_CONV_PARTS 14u
#define PSD_LINEAR_PARTS 4u

/* A module as its pickle tells of it. */
typedef struct {
    psd_class class;
    psd_ref attributes; /* a dict; 0 of a class that has none here */
    psd_ref parts;      /* a TUPLE in its place: its state or its arguments */
} psd_module_look;

typedef struct {
    psd_ref *refs;
    uint32_t count, capacity;
} psd_walk_list;

/* A module being walked: its own entries are done, its children go on. */
typedef struct {
    psd_ref module;
    psd_span prefix; /* "" or ends with a dot */
    psd_pairs children;
    uint32_t next;
} psd_walk_frame;

typedef struct {
    psd_torch_pass *p;
    psd_alloc alloc;
    bool *open; /* by value: the module is being walked */
    psd_walk_frame *frames;
    uint32_t depth, capacity;
    psd_walk_list entries;  /* name, value, ... */
    psd_walk_list versions; /* prefix, {"version": n}, ... */
    psd_walk_list untold;   /* (path, what, is it a hook?), ... */
    psd_names left_out;     /* buffers of the module at hand that are not to be saved */
    psd_ref version_word, numbers[5];
    uint64_t left;       /* steps that may still be taken */
    uint64_t left_bytes; /* of names */
    bool full;           /* too much to be made */
    bool failed;         /* no memory */
} psd_walk;

/* The pairs of a dict, or of a call that is one: OrderedDict(). */
psd_pairs psd_walk_pairs(const psd_pool *pool, psd_ref ref);

/* What the dict holds under this text, among the first of its pairs; 0 if nothing. */
psd_ref psd_walk_attribute(const psd_pool *pool, psd_ref dict, psd_span name);

/* The text of a key; modules and tensors have no other keys. */
bool psd_walk_name_at(const psd_pool *pool, psd_ref ref, psd_span *name);

/* Is it a module, by what it was built with? */
bool psd_walk_is_module(const psd_torch_pass *p, psd_ref ref, psd_module_look *found);

bool psd_walk_add(psd_alloc alloc, psd_walk_list *l, psd_ref ref);
void psd_walk_let_go(psd_alloc alloc, psd_walk_list *l);

/* A step of the walk that makes names of so many bytes; false when there were too many. */
bool psd_walk_may_go_on(psd_walk *w, size_t bytes);

/* A value that was made, or 0 with the walk failed. */
psd_ref psd_walk_born(psd_walk *w, psd_ref ref);
psd_ref psd_walk_text(psd_walk *w, psd_span text);

/* `prefix` + `name` + `ending` in the arena. */
psd_span psd_walk_joined(psd_walk *w, psd_span prefix, psd_span name, psd_span ending);

/* An entry of the state_dict. */
void psd_walk_add_entry(psd_walk *w, psd_span prefix, psd_span name, psd_ref value);

/* Parameters keep the flags that they have; a buffer is known not to be trained. */
void psd_walk_mark_buffer(psd_walk *w, psd_ref ref);

/* Note that what stands at `prefix` + `name` is not told: a child that is no module
 * here, or what a hook would have done. */
void psd_walk_note_untold(psd_walk *w, psd_span prefix, psd_span name, psd_ref what,
                          bool is_hook);

/* The entry of _metadata for a module, whose hooks are looked at. */
void psd_walk_add_version(psd_walk *w, const psd_walk_frame *f,
                          const psd_module_look *m);

/* What torch's own classes keep elsewhere than in _parameters and _buffers; false
 * when they do not keep it as they should. */
bool psd_walk_add_others(psd_walk *w, psd_span prefix, const psd_module_look *m);

#endif
