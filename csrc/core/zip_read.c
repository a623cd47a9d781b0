/* SPDX-License-Identifier: Apache-2.0
 *
 * From the directory's bytes to entries, each checked by itself; zip_index.c
 * then holds them against each other.
 */
#include "zip_format.h"

/* Slack for tiny records, where deflate's blocks cost more than they save. */
enum { INFLATE_FLOOR = 64 };

/* Where in the directory we are, for errors. */
typedef struct {
    const psd_zip_end *end;
    const psd_limits *limits;
    psd_span bytes; /* our own copy of the directory */
    size_t next;
} reader;

static psd_status
entry_fails(const reader *r, const psd_zip_entry *entry, psd_status status, size_t at,
            const char *sentence, psd_error *err)
{
    psd_fail(err, status, r->end->directory_offset + at, sentence);
    return psd_fail_entry(err, entry->name);
}

/* ------------------------------------------------------------------ one entry */

/* Fields that are all ones in the entry, taken from its zip64 extra field, 4.5.3. */
typedef struct {
    uint64_t size, stored_size, header_offset, disk;
} wide_fields;

static bool
take_wide(psd_span *body, uint64_t ones, size_t width, uint64_t *field)
{
    if (*field != ones) {
        return true;
    }
    if (body->size < width) {
        return false;
    }
    *field = width == 8 ? psd_load_le64(body->data) : psd_load_le32(body->data);
    body->data += width;
    body->size -= width;
    return true;
}

/* The one zip64 field among the extra fields; false when there is none, or two. */
static bool
find_zip64(psd_span extra, psd_span *body)
{
    bool found = false;
    while (extra.size >= PSD_ZIP_EXTRA_HEAD) {
        unsigned id = psd_load_le16(extra.data);
        size_t size = psd_load_le16(extra.data + 2);
        extra.data += PSD_ZIP_EXTRA_HEAD;
        extra.size -= PSD_ZIP_EXTRA_HEAD;
        if (size > extra.size || (id == PSD_ZIP_EXTRA_ZIP64 && found)) {
            return false;
        }
        if (id == PSD_ZIP_EXTRA_ZIP64) {
            *body = (psd_span){extra.data, size};
            found = true;
        }
        extra.data += size;
        extra.size -= size;
    }
    return found;
}

static bool
widen(psd_span extra, wide_fields *f)
{
    if (f->size != PSD_ZIP_ONES32 && f->stored_size != PSD_ZIP_ONES32 &&
        f->header_offset != PSD_ZIP_ONES32 && f->disk != PSD_ZIP_ONES16) {
        return true;
    }
    psd_span body;
    return find_zip64(extra, &body) && take_wide(&body, PSD_ZIP_ONES32, 8, &f->size) &&
           take_wide(&body, PSD_ZIP_ONES32, 8, &f->stored_size) &&
           take_wide(&body, PSD_ZIP_ONES32, 8, &f->header_offset) &&
           take_wide(&body, PSD_ZIP_ONES16, 4, &f->disk);
}

static psd_status
check_sizes(const reader *r, const psd_zip_entry *entry, size_t at, psd_error *err)
{
    if (entry->method == PSD_ZIP_STORED && entry->size != entry->stored_size) {
        entry_fails(r, entry, PSD_ZIP, at, "a stored record has two different sizes",
                    err);
        return psd_fail_numbers(err, entry->stored_size, entry->size);
    }
    if (entry->method != PSD_ZIP_DEFLATED) {
        return PSD_OK;
    }
    uint64_t most;
    if (psd_multiply(entry->stored_size, PSD_INFLATE_RATIO, &most) &&
        psd_add(most, INFLATE_FLOOR, &most) && entry->size > most) {
        entry_fails(r, entry, PSD_ZIP, at,
                    "a deflated record claims more bytes than deflate can give", err);
        return psd_fail_numbers(err, entry->size, most);
    }
    if (entry->size > r->limits->inflated_size) {
        entry_fails(r, entry, PSD_LIMIT, at,
                    "a deflated record is larger than the limit", err);
        return psd_fail_numbers(err, entry->size, r->limits->inflated_size);
    }
    return PSD_OK;
}

/* The header, the name and the payload must lie before the directory. */
static psd_status
check_place(const reader *r, const psd_zip_entry *entry, size_t at, psd_error *err)
{
    uint64_t limit = r->end->directory_offset, size;
    if (!psd_fits(entry->header_offset, PSD_ZIP_LOCAL_SIZE, limit)) {
        entry_fails(r, entry, PSD_ZIP, at,
                    "a record does not start before the directory", err);
        return psd_fail_numbers(err, entry->header_offset, limit);
    }
    if (!psd_add(entry->stored_size, PSD_ZIP_LOCAL_SIZE + entry->name.size, &size) ||
        !psd_fits(entry->header_offset, size, limit)) {
        entry_fails(r, entry, PSD_OVERLAP, at, "a record reaches into the directory",
                    err);
        return psd_fail_numbers(err, entry->stored_size, limit - entry->header_offset);
    }
    return PSD_OK;
}

static psd_status
check_entry(const reader *r, const psd_zip_entry *entry, uint64_t disk, size_t at,
            psd_error *err)
{
    psd_span name = entry->name;
    if (name.size > 0 && memchr(name.data, 0, name.size) != NULL) {
        return entry_fails(r, entry, PSD_ZIP, at, "a record's name holds a zero byte",
                           err);
    }
    if (disk != 0) {
        return entry_fails(r, entry, PSD_MULTI_DISK, at, "a record on another disk",
                           err);
    }
    if ((entry->flags & PSD_ZIP_FLAGS_SECRET) != 0) {
        return entry_fails(r, entry, PSD_ENCRYPTED, at, "a record is encrypted", err);
    }
    psd_status status = check_sizes(r, entry, at, err);
    return status == PSD_OK ? check_place(r, entry, at, err) : status;
}

/* 4.3.12 */
static psd_status
read_entry(reader *r, psd_zip_entry *entry, psd_error *err)
{
    size_t at = r->next, left = r->bytes.size - at;
    const uint8_t *p = r->bytes.data + at;
    if (left < PSD_ZIP_CENTRAL_SIZE || psd_load_le32(p) != PSD_ZIP_CENTRAL_SIGNATURE) {
        return psd_fail(err, PSD_ZIP, r->end->directory_offset + at,
                        "no directory entry where one must be");
    }
    size_t name = psd_load_le16(p + 28), extra = psd_load_le16(p + 30);
    size_t comment = psd_load_le16(p + 32);
    if (name + extra + comment > left - PSD_ZIP_CENTRAL_SIZE) {
        psd_fail(err, PSD_ZIP, r->end->directory_offset + at,
                 "a directory entry reaches past the directory");
        return psd_fail_numbers(err, PSD_ZIP_CENTRAL_SIZE + name + extra + comment,
                                left);
    }
    *entry = (psd_zip_entry){
        .name = {p + PSD_ZIP_CENTRAL_SIZE, name},
        .crc32 = psd_load_le32(p + 16),
        .flags = psd_load_le16(p + 8),
        .method = psd_load_le16(p + 10),
    };
    wide_fields f = {.size = psd_load_le32(p + 24),
                     .stored_size = psd_load_le32(p + 20),
                     .header_offset = psd_load_le32(p + 42),
                     .disk = psd_load_le16(p + 34)};
    if (!widen((psd_span){p + PSD_ZIP_CENTRAL_SIZE + name, extra}, &f) ||
        !psd_add(f.header_offset, r->end->shift, &f.header_offset)) {
        return entry_fails(r, entry, PSD_ZIP, at,
                           "a directory entry lacks its zip64 extra field", err);
    }
    entry->size = f.size;
    entry->stored_size = f.stored_size;
    entry->header_offset = f.header_offset;
    r->next = at + PSD_ZIP_CENTRAL_SIZE + name + extra + comment;
    return check_entry(r, entry, f.disk, at, err);
}

/* ------------------------------------------------------------------ the directory */

/* Can a directory of this size hold so many entries, and can we? */
static psd_status
check_count(const psd_zip_end *end, const psd_limits *limits, psd_error *err)
{
    const uint64_t entry_max = PSD_ZIP_CENTRAL_SIZE + 3 * (uint64_t)PSD_ZIP_ONES16;
    uint64_t size = end->directory_size, count = end->count;
    if (count > size / PSD_ZIP_CENTRAL_SIZE || size / entry_max > count ||
        (count == 0 && size > 0)) {
        psd_fail(err, PSD_ZIP, end->end_offset,
                 "the directory's size does not fit its number of entries");
        return psd_fail_numbers(err, count, size);
    }
    /* Slots are numbered in 32 bits, and there are twice as many as entries. */
    uint64_t most = limits->entries < (uint64_t)1 << 30 ? limits->entries : 1u << 30;
    if (count > most || size > SIZE_MAX) {
        psd_fail(err, PSD_LIMIT, end->end_offset, "too many records");
        return psd_fail_numbers(err, count, most);
    }
    return PSD_OK;
}

static psd_status
read_entries(reader *r, psd_zip *zip, psd_error *err)
{
    for (uint32_t i = 0; i < zip->count; i++) {
        psd_status status = read_entry(r, &zip->entries[i], err);
        if (status != PSD_OK) {
            return status;
        }
    }
    if (r->next != r->bytes.size) {
        psd_fail(err, PSD_ZIP, r->end->directory_offset + r->next,
                 "the directory goes on after its last entry");
        return psd_fail_numbers(err, r->next, r->bytes.size);
    }
    return PSD_OK;
}

/*
 * Offsets were shifted because the directory lies later than stated.  That is
 * only right if the records lie later by as much.
 */
static psd_status
check_shift(const psd_input *input, const psd_zip *zip, psd_error *err)
{
    const psd_zip_entry *entry = &zip->entries[0];
    uint8_t signature[4];
    psd_status status =
        psd_input_copy(input, entry->header_offset, sizeof signature, signature, err);
    if (status == PSD_OK && psd_load_le32(signature) != PSD_ZIP_LOCAL_SIGNATURE) {
        psd_fail(err, PSD_ZIP, zip->end_offset,
                 "the directory is not where the end record says");
        return psd_fail_entry(err, entry->name);
    }
    return status;
}

static psd_status
read_directory(const psd_input *input, const psd_limits *limits, psd_arena *arena,
               psd_zip *zip, psd_error *err)
{
    psd_zip_end end = {0};
    psd_status status = psd_zip_find_end(input, arena->alloc, &end, err);
    if (status == PSD_OK) {
        status = check_count(&end, limits, err);
    }
    if (status != PSD_OK) {
        return status;
    }
    size_t size = (size_t)end.directory_size;
    uint8_t *bytes = psd_arena_take(arena, size);
    zip->entries = psd_arena_take_array(arena, (size_t)end.count, sizeof *zip->entries);
    if (bytes == NULL || zip->entries == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, end.directory_offset, "out of memory");
    }
    status = psd_input_copy(input, end.directory_offset, size, bytes, err);
    if (status != PSD_OK) {
        return status;
    }
    zip->directory_offset = end.directory_offset;
    zip->directory_size = end.directory_size;
    zip->end_offset = end.end_offset;
    zip->count = (uint32_t)end.count;
    reader r = {&end, limits, {bytes, size}, 0};
    status = read_entries(&r, zip, err);
    if (status == PSD_OK && end.shift != 0) {
        status = check_shift(input, zip, err);
    }
    if (status == PSD_OK) {
        status = psd_zip_set_limits(zip, arena->alloc, err);
    }
    return status == PSD_OK ? psd_zip_index_names(zip, arena, err) : status;
}

psd_status
psd_zip_read(const psd_input *input, const psd_limits *limits, psd_hash_key key,
             psd_arena *arena, psd_zip *zip, psd_error *err)
{
    *zip = (psd_zip){.key = key};
    return read_directory(input, limits, arena, zip, err);
}

psd_status
psd_zip_read_exact(const psd_input *input, const psd_limits *limits, psd_hash_key key,
                   psd_arena *arena, psd_zip *zip, psd_error *err)
{
    *zip = (psd_zip){.key = key, .exact = true};
    return read_directory(input, limits, arena, zip, err);
}
