/* SPDX-License-Identifier: Apache-2.0 */
#include "safetensors_json.h"
#include "names.h"

/* The reference refuses longer ones. */
#define HEADER_MOST 100000000u

#define RANK_MOST 64u

void
psd_safetensors_init(psd_safetensors *header, psd_alloc alloc)
{
    *header = (psd_safetensors){.alloc = alloc};
}

void
psd_safetensors_clear(psd_safetensors *header)
{
    psd_alloc alloc = header->alloc;
    if (header->tensors != NULL) {
        alloc.resize(alloc.ctx, header->tensors,
                     header->capacity * sizeof *header->tensors, 0);
    }
    if (header->notes != NULL) {
        alloc.resize(alloc.ctx, header->notes,
                     header->note_capacity * sizeof *header->notes, 0);
    }
    psd_safetensors_init(header, alloc);
}

bool
psd_safetensors_begins(psd_span head)
{
    if (head.size < PSD_SAFETENSORS_HEAD || head.data[8] != '{') {
        return false;
    }
    /* Nothing that begins otherwise has four zeros there by accident. */
    uint8_t second = head.data[9];
    return psd_load_le32(head.data + 4) == 0 && psd_load_le32(head.data) >= 2 &&
           (second == '"' || second == '}' || second == ' ' || second == '\n' ||
            second == '\r' || second == '\t');
}

psd_status
psd_safetensors_fetch(const psd_input *input, const psd_limits *limits,
                      psd_arena *arena, uint8_t **json, size_t *size, psd_error *err)
{
    uint8_t prefix[PSD_SAFETENSORS_LENGTH];
    psd_status status = psd_input_copy(input, 0, sizeof prefix, prefix, err);
    if (status != PSD_OK) {
        return status;
    }
    uint64_t length = psd_load_le64(prefix);
    if (length > HEADER_MOST) {
        psd_fail(err, PSD_SAFETENSORS, 0,
                 "the header is longer than the format allows");
        return psd_fail_numbers(err, length, HEADER_MOST);
    }
    if (!psd_fits(sizeof prefix, length, input->size)) {
        psd_fail(err, PSD_TRUNCATED, sizeof prefix, "the file ends within its header");
        return psd_fail_numbers(err, input->size - sizeof prefix, length);
    }
    if (length > limits->pickle_size) {
        psd_fail(err, PSD_LIMIT, 0, "a record is larger than the limit");
        return psd_fail_numbers(err, length, limits->pickle_size);
    }
    *size = (size_t)length;
    *json = psd_arena_take(arena, *size);
    return *json == NULL ? psd_fail(err, PSD_NO_MEMORY, sizeof prefix, "out of memory")
                         : psd_input_copy(input, sizeof prefix, *size, *json, err);
}

/* ---------------------------------------------------------------- dtypes */

typedef struct {
    const char *name;
    uint8_t dtype; /* NONE: torch has none */
    uint8_t bits;  /* an element */
    const char *why;
} element;

static const element elements[] = {
    {"BOOL", PSD_DTYPE_BOOL, 8, NULL},
    {"F4", PSD_DTYPE_FLOAT4_E2M1FN_X2, 4, NULL},
    {"F6_E2M3", PSD_DTYPE_NONE, 6, "a tensor's dtype is F6_E2M3, which torch has not"},
    {"F6_E3M2", PSD_DTYPE_NONE, 6, "a tensor's dtype is F6_E3M2, which torch has not"},
    {"U8", PSD_DTYPE_UINT8, 8, NULL},
    {"I8", PSD_DTYPE_INT8, 8, NULL},
    {"F8_E5M2", PSD_DTYPE_FLOAT8_E5M2, 8, NULL},
    {"F8_E4M3", PSD_DTYPE_FLOAT8_E4M3FN, 8, NULL},
    {"F8_E8M0", PSD_DTYPE_FLOAT8_E8M0FNU, 8, NULL},
    {"F8_E4M3FNUZ", PSD_DTYPE_FLOAT8_E4M3FNUZ, 8, NULL},
    {"F8_E5M2FNUZ", PSD_DTYPE_FLOAT8_E5M2FNUZ, 8, NULL},
    {"I16", PSD_DTYPE_INT16, 16, NULL},
    {"U16", PSD_DTYPE_UINT16, 16, NULL},
    {"F16", PSD_DTYPE_FLOAT16, 16, NULL},
    {"BF16", PSD_DTYPE_BFLOAT16, 16, NULL},
    {"I32", PSD_DTYPE_INT32, 32, NULL},
    {"U32", PSD_DTYPE_UINT32, 32, NULL},
    {"F32", PSD_DTYPE_FLOAT32, 32, NULL},
    {"C64", PSD_DTYPE_COMPLEX64, 64, NULL},
    {"F64", PSD_DTYPE_FLOAT64, 64, NULL},
    {"I64", PSD_DTYPE_INT64, 64, NULL},
    {"U64", PSD_DTYPE_UINT64, 64, NULL},
};

static const element unknown = {"", PSD_DTYPE_NONE, 0,
                                "a tensor's dtype is none that is known"};

static bool
is_named(const element *e, psd_span name)
{
    return strlen(e->name) == name.size && memcmp(e->name, name.data, name.size) == 0;
}

static const element *
element_named(psd_span name)
{
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++) {
        if (is_named(&elements[i], name)) {
            return &elements[i];
        }
    }
    return &unknown;
}

/* ---------------------------------------------------------------- one tensor */

typedef struct {
    psd_safetensors *header;
    psd_json json;
    const psd_limits *limits;
    psd_arena *arena;
    const element *last; /* the tensors of a file are mostly of one dtype */
    bool seen_notes;
} reader;

/* Fails for another reason than the JSON; always false. */
static bool
fails(reader *r, psd_status status, const char *sentence, psd_span name)
{
    uint64_t offset = PSD_SAFETENSORS_LENGTH + (uint64_t)(r->json.next - r->json.start);
    psd_fail(r->json.err, status, offset, sentence);
    psd_fail_subject(r->json.err, name);
    return false;
}

/* What stands in a tensor's object, as it stands there. */
typedef struct {
    uint64_t sizes[RANK_MOST];
    uint64_t begin, end;
    psd_span dtype;
    unsigned rank;
    bool has_dtype, has_shape, has_offsets;
} entry;

static bool
read_shape(reader *r, psd_span name, entry *e)
{
    unsigned most = r->limits->rank < RANK_MOST ? r->limits->rank : RANK_MOST;
    bool more;
    if (!psd_json_take(&r->json, '[')) {
        return false;
    }
    for (e->rank = 0;; e->rank++) {
        if (!psd_json_next(&r->json, ']', e->rank == 0, &more) || !more) {
            return !r->json.failed;
        }
        if (e->rank == most) {
            fails(r, PSD_LIMIT, "a tensor has more dimensions than NumPy can hold",
                  name);
            psd_fail_numbers(r->json.err, (uint64_t)most + 1, most);
            return false;
        }
        if (!psd_json_number(&r->json, &e->sizes[e->rank])) {
            return false;
        }
        if (e->sizes[e->rank] > INT64_MAX) {
            return psd_json_fail(&r->json, "a number in the header is too large");
        }
    }
}

static bool
read_offsets(psd_json *json, entry *e)
{
    return psd_json_take(json, '[') && psd_json_number(json, &e->begin) &&
           psd_json_take(json, ',') && psd_json_number(json, &e->end) &&
           psd_json_take(json, ']');
}

/* The first of its kind in this object? */
static bool
once(psd_json *json, bool *seen)
{
    bool first = !*seen;
    *seen = true;
    return first || psd_json_fail(json, "the header says something twice");
}

static bool
read_member(reader *r, psd_span name, psd_span key, entry *e)
{
    psd_json *json = &r->json;
    if (psd_span_equal(key, PSD_LITERAL("dtype"))) {
        return once(json, &e->has_dtype) && psd_json_text(json, &e->dtype);
    }
    if (psd_span_equal(key, PSD_LITERAL("shape"))) {
        return once(json, &e->has_shape) && read_shape(r, name, e);
    }
    if (psd_span_equal(key, PSD_LITERAL("data_offsets"))) {
        return once(json, &e->has_offsets) && read_offsets(json, e);
    }
    return psd_json_skip(json); /* as the reference does */
}

/* The bytes that such a shape takes; false when they overflow, or end within a byte. */
static bool
count_bytes(const entry *e, unsigned bits, uint64_t *bytes)
{
    uint64_t count = 1;
    for (unsigned i = 0; i < e->rank; i++) {
        if (!psd_multiply(count, e->sizes[i], &count)) {
            return false;
        }
    }
    if (!psd_multiply(count, bits, &count) || count % 8 != 0) {
        return false;
    }
    *bytes = count / 8;
    return true;
}

static bool
check_entry(reader *r, psd_span name, entry *e, const element *of)
{
    uint64_t bytes;
    if (!e->has_dtype || !e->has_shape || !e->has_offsets) {
        return fails(r, PSD_SAFETENSORS,
                     "a tensor's entry lacks its dtype, shape or data_offsets", name);
    }
    if (of->bits == 0) {
        return fails(r, PSD_ELEMENT, of->why, name);
    }
    if (e->begin > e->end || !count_bytes(e, of->bits, &bytes) ||
        bytes != e->end - e->begin) {
        return fails(r, PSD_SAFETENSORS, "a tensor's bytes do not fit its shape", name);
    }
    if (of->why != NULL) {
        return fails(r, PSD_ELEMENT, of->why, name);
    }
    if (of->bits == 4 && (e->rank == 0 || e->sizes[e->rank - 1] % 2 != 0)) {
        return fails(
            r, PSD_ELEMENT,
            "a tensor of F4 has rows of an odd length, which torch cannot pack", name);
    }
    return true;
}

/* Shape and strides where they stay; of float4 the last size counts bytes. */
static int64_t *
keep_shape(reader *r, const entry *e, const element *of)
{
    int64_t *shape = psd_arena_take_array(r->arena, 2 * (size_t)e->rank, sizeof *shape);
    uint64_t step = 1;
    for (unsigned i = e->rank; shape != NULL && i-- > 0;) {
        uint64_t size = e->sizes[i] / (of->bits == 4 && i + 1 == e->rank ? 2 : 1);
        shape[i] = (int64_t)size;
        shape[e->rank + i] = (int64_t)(step & INT64_MAX);
        step *= size > 0 ? size : 1;
    }
    return shape;
}

static bool
add_tensor(reader *r, psd_span name, const entry *e, const element *of)
{
    psd_safetensors *h = r->header;
    if (h->count >= r->limits->entries || h->count >= UINT32_MAX / 2) {
        fails(r, PSD_LIMIT, "too many records", name);
        psd_fail_numbers(r->json.err, (uint64_t)h->count + 1, r->limits->entries);
        return false;
    }
    int64_t *shape = keep_shape(r, e, of);
    void *tensors = h->tensors;
    bool grown = shape != NULL && psd_grow(h->alloc, &tensors, &h->capacity,
                                           (uint64_t)h->count + 1, sizeof *h->tensors);
    h->tensors = tensors;
    if (!grown) {
        psd_fail_memory(r->json.err);
        return false;
    }
    h->tensors[h->count] = (psd_safetensor){.name = name,
                                            .shape = shape,
                                            .begin = e->begin,
                                            .end = e->end,
                                            .number = h->count,
                                            .dtype = of->dtype,
                                            .rank = (uint8_t)e->rank};
    h->count++;
    return true;
}

static bool
read_tensor(reader *r, psd_span name)
{
    entry e;
    bool more;
    e.has_dtype = e.has_shape = e.has_offsets = false;
    if (!psd_json_take(&r->json, '{')) {
        return false;
    }
    for (bool first = true;; first = false) {
        psd_span key;
        if (!psd_json_next(&r->json, '}', first, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (!psd_json_key(&r->json, &key) || !read_member(r, name, key, &e)) {
            return false;
        }
    }
    if (e.has_dtype && !is_named(r->last, e.dtype)) {
        r->last = element_named(e.dtype);
    }
    const element *of = r->last;
    return check_entry(r, name, &e, of) && add_tensor(r, name, &e, of);
}

/* ---------------------------------------------------------------- __metadata__ */

static bool
add_note(reader *r, psd_span key, psd_span value)
{
    psd_safetensors *h = r->header;
    void *notes = h->notes;
    bool grown = h->note_count < UINT32_MAX / 4 &&
                 psd_grow(h->alloc, &notes, &h->note_capacity,
                          (uint64_t)h->note_count + 2, sizeof *h->notes);
    h->notes = notes;
    if (!grown) {
        psd_fail_memory(r->json.err);
        return false;
    }
    h->notes[h->note_count++] = key;
    h->notes[h->note_count++] = value;
    return true;
}

static bool
read_notes(reader *r)
{
    bool more;
    if (!once(&r->json, &r->seen_notes)) {
        return false;
    }
    if (psd_json_null(&r->json)) {
        return true;
    }
    if (!psd_json_take(&r->json, '{')) {
        return false;
    }
    r->header->has_notes = true;
    for (bool first = true;; first = false) {
        psd_span key, value;
        if (!psd_json_next(&r->json, '}', first, &more) || !more) {
            return !r->json.failed;
        }
        if (!psd_json_key(&r->json, &key) || !psd_json_text(&r->json, &value) ||
            !add_note(r, key, value)) {
            return false;
        }
    }
}

/* ---------------------------------------------------------------- the whole */

static bool
read_header(reader *r)
{
    bool more;
    if (!psd_json_take(&r->json, '{')) {
        return false;
    }
    for (bool first = true;; first = false) {
        psd_span name;
        if (!psd_json_next(&r->json, '}', first, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (!psd_json_key(&r->json, &name)) {
            return false;
        }
        bool notes = psd_span_equal(name, PSD_LITERAL("__metadata__"));
        if (notes ? !read_notes(r) : !read_tensor(r, name)) {
            return false;
        }
    }
    (void)psd_json_peek(&r->json);
    return r->json.next == r->json.end ||
           psd_json_fail(&r->json, "something follows the header's JSON");
}

/* One kind of names at a time: `stride` bytes lie between two of them. */
static psd_status
check_unique(psd_names *names, const psd_span *first, size_t stride, uint32_t count,
             const uint8_t *json, psd_error *err)
{
    if (!psd_names_reserve(names, count)) {
        return psd_fail_memory(err);
    }
    for (uint32_t i = 0; i < count; i++) {
        const psd_span *name =
            (const psd_span *)(const void *)((const uint8_t *)first + i * stride);
        bool added;
        if (psd_names_put(names, *name, i, &added) == NULL) {
            return psd_fail_memory(err);
        }
        if (!added) {
            psd_fail(err, PSD_SAFETENSORS,
                     PSD_SAFETENSORS_LENGTH + (uint64_t)(name->data - json),
                     "a name comes twice in the header");
            return psd_fail_subject(err, *name);
        }
    }
    return PSD_OK;
}

static psd_status
check_names(const psd_safetensors *h, const uint8_t *json, psd_hash_key key,
            psd_error *err)
{
    psd_names names;
    psd_names_init(&names, h->alloc, key);
    psd_status status = PSD_OK;
    if (h->count > 0) {
        status = check_unique(&names, &h->tensors[0].name, sizeof *h->tensors, h->count,
                              json, err);
    }
    psd_names_clear(&names);
    if (status == PSD_OK && h->note_count > 0) {
        status = check_unique(&names, &h->notes[0], 2 * sizeof *h->notes,
                              h->note_count / 2, json, err);
    }
    psd_names_clear(&names);
    return status;
}

static bool
is_before(const psd_safetensor *a, const psd_safetensor *b)
{
    if (a->begin != b->begin || a->end != b->end) {
        return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
    }
    return a->number < b->number;
}

static void
sink(psd_safetensor *tensors, size_t root, size_t count)
{
    psd_safetensor moving = tensors[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && is_before(&tensors[child], &tensors[child + 1])) {
            child++;
        }
        if (is_before(&tensors[child], &moving)) {
            break;
        }
        tensors[root] = tensors[child];
    }
    tensors[root] = moving;
}

/* Heapsort, unless they stand in the order of their bytes, as most writers put them. */
static void
sort_by_place(psd_safetensor *tensors, size_t count)
{
    size_t sorted = 1;
    while (sorted < count && is_before(&tensors[sorted - 1], &tensors[sorted])) {
        sorted++;
    }
    if (sorted >= count) {
        return;
    }
    for (size_t root = count / 2; root-- > 0;) {
        sink(tensors, root, count);
    }
    for (size_t last = count; last-- > 1;) {
        psd_safetensor latest = tensors[0];
        tensors[0] = tensors[last];
        tensors[last] = latest;
        sink(tensors, 0, last);
    }
}

/* Each begins where the one before it ends, and the last one ends the file. */
static psd_status
check_places(const psd_safetensors *h, size_t size, uint64_t room, psd_error *err)
{
    uint64_t data = PSD_SAFETENSORS_LENGTH + (uint64_t)size, place = 0;
    for (uint32_t i = 0; i < h->count; i++) {
        const psd_safetensor *t = &h->tensors[i];
        if (t->begin != place) {
            psd_fail(err, PSD_SAFETENSORS, data + place,
                     t->begin > place ? "bytes between the tensors belong to none"
                                      : "two tensors overlap");
            psd_fail_subject(err, t->name);
            return psd_fail_numbers(err, t->begin, place);
        }
        place = t->end;
    }
    if (place > room) {
        psd_fail(err, PSD_TRUNCATED, data + room,
                 "the file ends before its tensors do");
        return psd_fail_numbers(err, room, place);
    }
    if (place < room) {
        psd_fail(err, PSD_SAFETENSORS, data + place,
                 "bytes behind the tensors belong to none");
        return psd_fail_numbers(err, room, place);
    }
    return PSD_OK;
}

psd_status
psd_safetensors_read(psd_safetensors *header, uint8_t *json, size_t size, uint64_t room,
                     const psd_limits *limits, psd_hash_key key, psd_arena *arena,
                     psd_error *err)
{
    reader r = {.header = header,
                .json = {json, json, json + size, err, false},
                .limits = limits,
                .arena = arena,
                .last = &unknown};
    if (!read_header(&r)) {
        return err->status;
    }
    psd_status status = check_names(header, json, key, err);
    if (status != PSD_OK) {
        return status;
    }
    sort_by_place(header->tensors, header->count);
    return check_places(header, size, room, err);
}
