/* SPDX-License-Identifier: Apache-2.0
 *
 * What a few bytes of pickle may cost.  Sharing makes a pickle of n bytes name the
 * same part n times, and where Python hashes, compares or copies that part each
 * time, n bytes take time or memory n * n.  Here that work is counted and bounded.
 */
#include "py_module.h"

/* Only the hashes of text and bytes are secret.  For numbers, and for all that is
 * made of them, anyone can write down any number of keys with one hash, and a dict
 * of n such keys takes time n * n; so does one long text that is compared with its
 * equal again and again.  Counted is by hash and container, in slots that nobody
 * can foresee; keys that share one by chance are far fewer. */
#define SLOTS_LEAST ((size_t)1 << 8)
#define SLOTS_MOST ((size_t)1 << 18)
#define SAME_MOST 500

/* A key takes two bytes of the pickle at least: no more than 16 a slot, by and large. */
static size_t
slots_for(size_t program_size)
{
    size_t slots = SLOTS_LEAST;
    while (slots < SLOTS_MOST && slots < program_size / 32) {
        slots *= 2;
    }
    return slots;
}

bool
py_cost_init(py_cost *cost, psd_hash_key key, size_t program_size)
{
    /* Of an honest pickle each part is copied about once. */
    *cost = (py_cost){.key = key, .left = 16 * (uint64_t)program_size + (1u << 20)};
    cost->slots = slots_for(program_size);
    cost->counts = calloc(cost->slots, sizeof *cost->counts);
    return cost->counts != NULL;
}

void
py_cost_clear(py_cost *cost)
{
    free(cost->counts);
    cost->counts = NULL;
}

/* ---------------------------------------------------------------- keys */

/* Python hashes a tuple by hashing all below it, each time anew, and a small
 * pickle can share its parts into a tree without end. */
#define PARTS_MOST 256

/* So many bytes of a long integer are hashed in the time of one part. */
#define LONG_PART 16

static bool
is_nest(const psd_value *v)
{
    return v->kind == PSD_KIND_TUPLE || v->kind == PSD_KIND_FROZENSET;
}

static bool
is_small(const psd_pool *pool, psd_ref ref)
{
    psd_ref stack[PARTS_MOST];
    uint32_t depth = 0, seen = 0;
    stack[depth++] = ref;
    while (depth > 0) {
        const psd_value *v = psd_value_at(pool, stack[--depth]);
        seen += 1 + (v->kind == PSD_KIND_LONG ? v->count / LONG_PART : 0);
        uint32_t count = is_nest(v) ? v->count : 0;
        if (seen > PARTS_MOST || count > PARTS_MOST - depth ||
            count > PARTS_MOST - seen) {
            return false;
        }
        for (uint32_t i = 0; i < count; i++) {
            stack[depth++] = v->as.items[i];
        }
    }
    return true;
}

/* A text so short is compared in no time. */
#define SHORT_TEXT 256

static bool
is_short_text(const psd_value *v)
{
    return (v->kind == PSD_KIND_TEXT || v->kind == PSD_KIND_STRING) &&
           v->count <= SHORT_TEXT;
}

const char *
py_cost_of_key(py_cost *cost, const psd_pool *pool, psd_ref target, psd_ref ref,
               PyObject *key)
{
    const psd_value *v = psd_value_at(pool, ref);
    if (is_short_text(v)) {
        return NULL;
    }
    if (is_nest(v) && !is_small(pool, ref)) {
        return "a key of a dict or set has too many parts";
    }
    Py_hash_t hash = PyObject_Hash(key);
    if (hash == -1) {
        PyErr_Clear(); /* who uses the key will meet the same failure */
        return NULL;
    }
    uint8_t bytes[12];
    psd_store_le64(bytes, (uint64_t)hash);
    psd_store_le32(bytes + 8, target);
    size_t slot = (size_t)psd_hash(cost->key, (psd_span){bytes, sizeof bytes}) &
                  (cost->slots - 1);
    return ++cost->counts[slot] > SAME_MOST ? "too many keys have the same hash" : NULL;
}

/* ---------------------------------------------------------------- copies */

/* How much there is to copy of a value itself, not of its parts. */
static uint64_t
size_of(const psd_value *v)
{
    switch (v->kind) {
    case PSD_KIND_LONG:
    case PSD_KIND_TEXT:
    case PSD_KIND_STRING:
    case PSD_KIND_BYTES:
    case PSD_KIND_BYTEARRAY:
    case PSD_KIND_TUPLE:
    case PSD_KIND_LIST:
    case PSD_KIND_DICT:
    case PSD_KIND_SET:
    case PSD_KIND_FROZENSET: return v->count;
    default: return 0;
    }
}

static const char *
spend(py_cost *cost, uint64_t size)
{
    if (size > cost->left) {
        return "values are copied all too often";
    }
    cost->left -= size;
    return NULL;
}

/* A row of numbers, texts and objects stands in a pickle in fewer bytes than in memory. */
#define ARRAY_BYTES 4

const char *
py_cost_of_array(py_cost *cost, uint64_t size)
{
    return spend(cost, size / ARRAY_BYTES);
}

const char *
py_cost_of_copy(py_cost *cost, const psd_pool *pool, psd_ref ref)
{
    const psd_value *v = psd_value_at(pool, ref);
    uint64_t size = size_of(v);
    bool has_items = v->kind == PSD_KIND_TUPLE || v->kind == PSD_KIND_LIST;
    for (uint32_t i = 0; has_items && i < v->count && size <= cost->left; i++) {
        size += size_of(psd_value_at(pool, v->as.items[i]));
    }
    return spend(cost, size);
}
