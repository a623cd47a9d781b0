/* SPDX-License-Identifier: Apache-2.0
 *
 * Records without their directory, which stands at an archive's end and is what a write
 * or download that stopped has lost: found by their own headers, from the first on.
 */
#include "zip_format.h"

/* Bytes that are searched at a time. */
#define PIECE ((size_t)1 << 20)

/* How often the search goes on behind a record that is not whole: each time may cost the
 * whole file. */
enum { RESUMES_MOST = 16 };

typedef struct {
    const psd_input *input;
    const psd_limits *limits;
    psd_arena *arena;
    psd_zip_entry *entries; /* own memory while it grows */
    uint32_t count, capacity;
    psd_error *err;
} salvage;

/* One record as its own header tells it. */
typedef struct {
    psd_zip_entry entry;
    uint64_t data; /* where the payload starts */
    bool deferred; /* sizes and CRC follow the payload */
    bool usable;
} record;

/* ---------------------------------------------------------------- searching */

/* The first place from `from` on with this signature; NOWHERE if there is none. */
static psd_status
find(const salvage *s, uint64_t from, uint32_t signature, uint64_t *at)
{
    psd_arena scratch;
    psd_status status = PSD_OK;
    uint8_t wanted[4];
    psd_store_le32(wanted, signature);
    psd_arena_init(&scratch, s->arena->alloc);
    *at = PSD_NOWHERE;
    while (status == PSD_OK && *at == PSD_NOWHERE &&
           psd_fits(from, sizeof wanted, s->input->size)) {
        uint64_t left = s->input->size - from;
        size_t size = left < PIECE ? (size_t)left : PIECE;
        psd_span bytes;
        status = psd_input_view(s->input, from, size, &scratch, &bytes, s->err);
        for (size_t i = 0; status == PSD_OK && i + sizeof wanted <= size; i++) {
            const uint8_t *found =
                memchr(bytes.data + i, wanted[0], size - (sizeof wanted - 1) - i);
            if (found == NULL) {
                break;
            }
            i = (size_t)(found - bytes.data);
            if (memcmp(found, wanted, sizeof wanted) == 0) {
                *at = from + i;
                break;
            }
        }
        from += size - (sizeof wanted - 1);
        psd_arena_clear(&scratch);
    }
    psd_arena_clear(&scratch);
    return status;
}

/*
 * Sizes and CRC behind a payload, 4.3.9: the first descriptor that states just as many
 * bytes as lie before it, in 32 bits or in 64.  *found is false when there is none.
 */
static psd_status
find_descriptor(const salvage *s, record *r, bool *found)
{
    uint64_t from = r->data, at;
    psd_zip_entry *e = &r->entry;
    *found = false;
    for (;;) {
        uint8_t bytes[24];
        psd_status status = find(s, from, PSD_ZIP_DESCRIPTOR_SIGNATURE, &at);
        if (status != PSD_OK || at == PSD_NOWHERE) {
            return status;
        }
        uint64_t left = s->input->size - at;
        size_t size = left < sizeof bytes ? (size_t)left : sizeof bytes;
        memset(bytes, 0, sizeof bytes);
        status = psd_input_copy(s->input, at, size, bytes, s->err);
        if (status != PSD_OK) {
            return status;
        }
        uint64_t stored = at - r->data;
        bool narrow = size >= 16 && psd_load_le32(bytes + 8) == stored;
        bool wide = size >= 24 && psd_load_le64(bytes + 8) == stored;
        if (narrow || wide) {
            e->crc32 = psd_load_le32(bytes + 4);
            e->stored_size = stored;
            e->size = wide ? psd_load_le64(bytes + 16) : psd_load_le32(bytes + 12);
            *found = true;
            return PSD_OK;
        }
        from = at + 1;
    }
}

/* ---------------------------------------------------------------- headers */

/* True sizes of a header whose fields are all ones, from its zip64 extra field. */
static void
widen(psd_span extra, psd_zip_entry *e)
{
    while (extra.size >= PSD_ZIP_EXTRA_HEAD) {
        unsigned id = psd_load_le16(extra.data);
        size_t size = psd_load_le16(extra.data + 2);
        const uint8_t *body = extra.data + PSD_ZIP_EXTRA_HEAD;
        if (size > extra.size - PSD_ZIP_EXTRA_HEAD) {
            return;
        }
        if (id == PSD_ZIP_EXTRA_ZIP64 && size >= 16) {
            e->size = e->size == PSD_ZIP_ONES32 ? psd_load_le64(body) : e->size;
            e->stored_size = e->stored_size == PSD_ZIP_ONES32 ? psd_load_le64(body + 8)
                                                              : e->stored_size;
        }
        extra.data += PSD_ZIP_EXTRA_HEAD + size;
        extra.size -= PSD_ZIP_EXTRA_HEAD + size;
    }
}

/* The local header at `at`, 4.3.7; it is not usable when it is cut, or says what no
 * reader understands. */
static psd_status
read_header(const salvage *s, uint64_t at, record *r)
{
    uint8_t p[PSD_ZIP_LOCAL_SIZE];
    *r = (record){.usable = false};
    if (!psd_fits(at, sizeof p, s->input->size)) {
        return PSD_OK;
    }
    psd_status status = psd_input_copy(s->input, at, sizeof p, p, s->err);
    size_t name = psd_load_le16(p + 26), extra = psd_load_le16(p + 28);
    if (status != PSD_OK || !psd_fits(at + sizeof p, name + extra, s->input->size)) {
        return status;
    }
    uint8_t *text = psd_arena_take(s->arena, name + extra);
    if (text == NULL) {
        return psd_fail(s->err, PSD_NO_MEMORY, at, "out of memory");
    }
    status = psd_input_copy(s->input, at + sizeof p, name + extra, text, s->err);
    if (status != PSD_OK) {
        return status;
    }
    r->entry = (psd_zip_entry){
        .name = {text, name},
        .header_offset = at,
        .stored_size = psd_load_le32(p + 18),
        .size = psd_load_le32(p + 22),
        .crc32 = psd_load_le32(p + 14),
        .flags = psd_load_le16(p + 6),
        .method = psd_load_le16(p + 8),
    };
    widen((psd_span){text + name, extra}, &r->entry);
    r->data = at + sizeof p + name + extra;
    r->deferred = (r->entry.flags & PSD_ZIP_FLAG_DESCRIPTOR) != 0;
    bool known =
        r->entry.method == PSD_ZIP_STORED || r->entry.method == PSD_ZIP_DEFLATED;
    r->usable = known && (r->entry.flags & PSD_ZIP_FLAGS_SECRET) == 0 && name > 0 &&
                memchr(text, 0, name) == NULL;
    return PSD_OK;
}

/* Is the whole payload there, and is what it says of itself possible? */
static psd_status
judge(const salvage *s, record *r)
{
    psd_zip_entry *e = &r->entry;
    if (r->usable && r->deferred) {
        psd_status status = find_descriptor(s, r, &r->usable);
        if (status != PSD_OK) {
            return status;
        }
    }
    uint64_t most;
    bool possible = e->method == PSD_ZIP_STORED
                        ? e->size == e->stored_size
                        : !psd_multiply(e->stored_size, PSD_INFLATE_RATIO, &most) ||
                              e->size <= most || e->size <= PSD_INFLATE_RATIO;
    r->usable = r->usable && possible &&
                (e->method == PSD_ZIP_STORED || e->size <= s->limits->inflated_size) &&
                psd_fits(r->data, e->stored_size, s->input->size);
    return PSD_OK;
}

/* ---------------------------------------------------------------- the archive */

static psd_status
keep(salvage *s, const record *r)
{
    if (s->count >= s->limits->entries || s->count >= 1u << 30) {
        psd_fail(s->err, PSD_LIMIT, r->entry.header_offset, "too many records");
        return psd_fail_numbers(s->err, (uint64_t)s->count + 1, s->limits->entries);
    }
    void *entries = s->entries;
    bool grown = psd_grow(s->arena->alloc, &entries, &s->capacity,
                          (uint64_t)s->count + 1, sizeof *s->entries);
    s->entries = entries;
    if (!grown) {
        return psd_fail_memory(s->err);
    }
    s->entries[s->count++] = r->entry;
    return PSD_OK;
}

static psd_status
collect(salvage *s, uint64_t *end)
{
    unsigned resumes = 0;
    *end = 0;
    for (uint64_t from = 0, at; resumes <= RESUMES_MOST;) {
        record r;
        psd_status status = find(s, from, PSD_ZIP_LOCAL_SIGNATURE, &at);
        if (status != PSD_OK || at == PSD_NOWHERE) {
            return status;
        }
        status = read_header(s, at, &r);
        if (status == PSD_OK) {
            status = judge(s, &r);
        }
        if (status == PSD_OK && r.usable) {
            status = keep(s, &r);
            *end = r.data + r.entry.stored_size;
        }
        if (status != PSD_OK) {
            return status;
        }
        resumes += r.usable ? 0 : 1;
        from = r.usable ? *end : at + 4;
    }
    return PSD_OK;
}

psd_status
psd_zip_salvage(const psd_input *input, const psd_limits *limits, psd_hash_key key,
                psd_arena *arena, psd_zip *zip, psd_error *err)
{
    salvage s = {.input = input, .limits = limits, .arena = arena, .err = err};
    uint64_t end;
    *zip = (psd_zip){.key = key};
    psd_status status = collect(&s, &end);
    if (status == PSD_OK && s.count == 0) {
        status = psd_fail(err, PSD_NOT_ZIP, PSD_NOWHERE, "no record is whole");
    }
    if (status == PSD_OK) {
        zip->entries = psd_arena_take_array(arena, s.count, sizeof *zip->entries);
        zip->count = s.count;
        zip->directory_offset = end;
        zip->end_offset = end;
        status = zip->entries == NULL ? psd_fail_memory(err) : PSD_OK;
    }
    if (status == PSD_OK) {
        memcpy(zip->entries, s.entries, s.count * sizeof *zip->entries);
        status = psd_zip_set_limits(zip, arena->alloc, err);
    }
    if (s.entries != NULL) {
        arena->alloc.resize(arena->alloc.ctx, s.entries, s.capacity * sizeof *s.entries,
                            0);
    }
    return status == PSD_OK ? psd_zip_index_names(zip, arena, err) : status;
}
