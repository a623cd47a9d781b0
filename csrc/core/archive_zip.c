/* SPDX-License-Identifier: Apache-2.0
 *
 * The zip archives of torch: what kind one is, where its records are, and which
 * of them holds a storage.
 */
#include "archive_parts.h"
#include "crc32.h"

/* A CRC is computed in pieces: a remote record needs little memory, and what was read is
 * still in the cache. */
#define PIECE ((size_t)256 << 10)

/* ---------------------------------------------------------------- names */

static bool
is_separator(uint8_t c)
{
    return c == '/' || c == '\\';
}

static uint8_t
lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c - 'A' + 'a') : c;
}

/* Does `name` end with `ending`, ASCII case aside, as a whole path component? */
static bool
ends_with(psd_span name, psd_span ending)
{
    if (name.size < ending.size) {
        return false;
    }
    size_t start = name.size - ending.size;
    for (size_t i = 0; i < ending.size; i++) {
        if (lower(name.data[start + i]) != ending.data[i]) {
            return false;
        }
    }
    return start == 0 || is_separator(name.data[start - 1]);
}

/* No record that torch could have written has a longer name. */
#define NAME_MOST 2048

/* The record <prefix><folder><name><ending>, or NULL. */
static const psd_zip_entry *
find_in(const psd_archive *archive, psd_span folder, psd_span name, psd_span ending)
{
    const psd_span parts[] = {archive->prefix, folder, name, ending};
    uint8_t room[NAME_MOST];
    size_t size = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].size > sizeof room - size) {
            return NULL;
        }
        if (parts[i].size > 0) {
            memcpy(room + size, parts[i].data, parts[i].size);
        }
        size += parts[i].size;
    }
    return psd_zip_find(&archive->zip, (psd_span){room, size});
}

const psd_zip_entry *
psd_archive_find(const psd_archive *archive, psd_span name)
{
    const psd_span none = {NULL, 0};
    return find_in(archive, none, name, none);
}

/* ---------------------------------------------------------------- the kind */

/* How many folders stand before the last part of a name. */
static size_t
depth_of(psd_span name)
{
    size_t depth = 0;
    for (size_t i = 0; i < name.size; i++) {
        depth += is_separator(name.data[i]);
    }
    return depth;
}

/*
 * The prefix is the folder of the record by which a kind is known: the shallowest
 * one when tools have packed others besides, and two at the same depth cannot be
 * told apart.  *found is NULL when there is none.
 */
static psd_status
find_prefix(psd_archive *archive, psd_span record, const psd_zip_entry **found,
            psd_error *err)
{
    const psd_zip_entry *best = NULL;
    size_t best_depth = 0;
    bool twice = false;
    *found = NULL;
    for (uint32_t i = 0; i < archive->zip.count; i++) {
        const psd_zip_entry *entry = &archive->zip.entries[i];
        if (!ends_with(entry->name, record)) {
            continue;
        }
        size_t depth = depth_of(entry->name);
        twice = best != NULL && (depth == best_depth || (twice && depth > best_depth));
        if (best == NULL || depth < best_depth) {
            best = entry;
            best_depth = depth;
        }
    }
    if (twice) {
        psd_fail(err, PSD_DUPLICATE, best->header_offset,
                 "two checkpoints in one archive, under two top folders");
        return psd_fail_entry(err, best->name);
    }
    *found = best;
    if (best != NULL) {
        archive->prefix = (psd_span){best->name.data, best->name.size - record.size};
    }
    return PSD_OK;
}

/* Without data.pkl: the top folder of the first record, as torch takes it. */
static psd_span
top_folder(const psd_zip *zip)
{
    for (uint32_t i = 0; i < zip->count; i++) {
        psd_span name = zip->entries[i].name;
        for (size_t k = 0; k < name.size; k++) {
            if (is_separator(name.data[k])) {
                return (psd_span){name.data, k + 1};
            }
        }
    }
    return (psd_span){NULL, 0};
}

/* Records that torch.save writes besides data.pkl. */
static bool
is_torn(const psd_archive *archive)
{
    return psd_archive_find(archive, PSD_LITERAL("byteorder")) != NULL ||
           psd_archive_find(archive, PSD_LITERAL("version")) != NULL ||
           psd_archive_find(archive, PSD_LITERAL("data/0")) != NULL;
}

/* A package may hold pickles of any name, data.pkl too, so it is asked for first. */
static psd_status
tell_kind(psd_archive *archive, psd_error *err)
{
    const psd_zip_entry *found;
    psd_status status =
        find_prefix(archive, PSD_LITERAL(".data/extern_modules"), &found, err);
    archive->kind = PSD_ARCHIVE_PACKAGE;
    if (status != PSD_OK || found != NULL) {
        return status;
    }
    status = find_prefix(archive, PSD_LITERAL("archive_format"), &found, err);
    archive->kind = PSD_ARCHIVE_EXPORT;
    if (status != PSD_OK || found != NULL) {
        return status;
    }
    status = find_prefix(archive, PSD_LITERAL("data.pkl"), &found, err);
    if (status != PSD_OK) {
        return status;
    }
    if (found == NULL) {
        archive->prefix = top_folder(&archive->zip);
    }
    if (psd_archive_find(archive, PSD_LITERAL("constants.pkl")) != NULL ||
        psd_archive_find(archive, PSD_LITERAL("model.json")) != NULL) {
        archive->kind = PSD_ARCHIVE_SCRIPT;
        return PSD_OK;
    }
    archive->kind = PSD_ARCHIVE_CHECKPOINT;
    if (found != NULL) {
        return PSD_OK;
    }
    archive->kind = PSD_ARCHIVE_RECORDS;
    if (archive->options.mode == PSD_OPEN_RECORDS) {
        return PSD_OK;
    }
    return is_torn(archive)
               ? psd_fail(err, PSD_INTERRUPTED, archive->zip.directory_offset,
                          "the archive has no data.pkl: its saving was interrupted")
               : psd_fail(err, PSD_NO_PICKLE, PSD_NOWHERE,
                          "a zip archive without data.pkl");
}

/* ---------------------------------------------------------------- records */

psd_status
psd_archive_inflate(const psd_archive *archive, const psd_input *input,
                    const psd_zip_entry *entry, uint8_t *into, psd_error *err)
{
    const psd_options *o = &archive->options;
    uint64_t offset;
    psd_span deflated;
    psd_arena scratch; /* for a deflated record that must be fetched */
    psd_arena_init(&scratch, o->alloc);
    psd_status status = psd_zip_locate(input, entry, &offset, err);
    if (status == PSD_OK && entry->size > SIZE_MAX) {
        status = psd_fail(err, PSD_LIMIT, offset,
                          "a record is larger than this machine can address");
    }
    if (status == PSD_OK) {
        status =
            psd_input_view(input, offset, entry->stored_size, &scratch, &deflated, err);
    }
    if (status == PSD_OK) {
        status = o->inflate(o->inflate_ctx, deflated, into, (size_t)entry->size);
        if (status != PSD_OK) {
            psd_fail(err, status, offset,
                     status == PSD_INFLATE
                         ? "a deflated record is damaged or has another size"
                         : "a deflated record could not be inflated");
        }
    }
    psd_arena_clear(&scratch);
    return status == PSD_OK ? status : psd_fail_entry(err, entry->name);
}

static psd_status
crc_differs(const psd_zip_entry *entry, uint64_t offset, uint32_t found, psd_error *err)
{
    psd_fail(err, PSD_CRC, offset, "a record's bytes do not match their checksum");
    psd_fail_entry(err, entry->name);
    return psd_fail_numbers(err, found, entry->crc32);
}

/* 0 on a non-empty record: torch was told not to compute it. */
bool
psd_archive_states_crc(const psd_zip_entry *entry)
{
    return entry->crc32 != 0 || entry->size == 0;
}

/* A small file may not ask for all memory. */
static psd_status
check_inflated(const psd_archive *archive, const psd_input *input, uint64_t total,
               const char *sentence, psd_error *err)
{
    uint64_t most;
    if (!psd_multiply(input->size, archive->options.limits.inflation, &most)) {
        most = UINT64_MAX;
    }
    if (total <= PSD_INFLATED_FREE || total <= most) {
        return PSD_OK;
    }
    psd_fail(err, PSD_LIMIT, PSD_NOWHERE, sentence);
    return psd_fail_numbers(err, total, most);
}

static psd_status
check_inflation(const psd_archive *archive, const psd_input *input,
                const psd_zip_entry *entry, psd_error *err)
{
    psd_status status =
        check_inflated(archive, input, entry->size,
                       "a deflated record is too large for a file of this size", err);
    return status == PSD_OK ? PSD_OK : psd_fail_entry(err, entry->name);
}

psd_status
psd_archive_fetch(const psd_archive *archive, const psd_input *input,
                  const psd_zip_entry *entry, psd_arena *arena, psd_span *bytes,
                  uint64_t *offset, psd_error *err)
{
    psd_status status = psd_zip_locate(input, entry, offset, err);
    if (status != PSD_OK) {
        return status;
    }
    if (entry->size > archive->options.limits.pickle_size || entry->size > SIZE_MAX) {
        psd_fail(err, PSD_LIMIT, *offset, "a record is larger than the limit");
        psd_fail_entry(err, entry->name);
        return psd_fail_numbers(err, entry->size, archive->options.limits.pickle_size);
    }
    if (entry->method != PSD_ZIP_STORED) {
        status = check_inflation(archive, input, entry, err);
        if (status != PSD_OK) {
            return status;
        }
    }
    uint8_t *copy = psd_arena_take(arena, (size_t)entry->size);
    if (copy == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, *offset, "out of memory");
    }
    status = entry->method == PSD_ZIP_STORED
                 ? psd_input_copy(input, *offset, (size_t)entry->size, copy, err)
                 : psd_archive_inflate(archive, input, entry, copy, err);
    if (status != PSD_OK) {
        return status;
    }
    *bytes = (psd_span){copy, (size_t)entry->size};
    uint32_t crc = psd_crc32(0, copy, bytes->size);
    return psd_archive_states_crc(entry) && crc != entry->crc32
               ? crc_differs(entry, *offset, crc, err)
               : PSD_OK;
}

psd_status
psd_archive_crc_of_deflated(const psd_archive *archive, const psd_input *input,
                            const psd_zip_entry *entry, uint32_t skip, uint32_t *crc,
                            psd_error *err)
{
    psd_status status = check_inflation(archive, input, entry, err);
    if (status != PSD_OK) {
        return status;
    }
    psd_alloc alloc = archive->options.alloc;
    size_t size = (size_t)entry->size;
    uint8_t *bytes = alloc.resize(alloc.ctx, NULL, 0, size == 0 ? 1 : size);
    if (bytes == NULL) {
        return psd_fail_memory(err);
    }
    status = psd_archive_inflate(archive, input, entry, bytes, err);
    if (status == PSD_OK) {
        *crc = psd_crc32(0, bytes + skip, size - skip);
    }
    alloc.resize(alloc.ctx, bytes, size == 0 ? 1 : size, 0);
    return status;
}

psd_status
psd_archive_crc_of_range(const psd_archive *archive, const psd_input *input,
                         uint64_t offset, uint64_t size, uint32_t *crc, psd_error *err)
{
    psd_alloc alloc = archive->options.alloc;
    size_t room = size < PIECE ? (size_t)size : PIECE;
    *crc = 0;
    if (size == 0) {
        return PSD_OK;
    }
    if (input->data != NULL) {
        psd_span bytes;
        psd_status found = psd_input_view(input, offset, size, NULL, &bytes, err);
        if (found == PSD_OK) {
            *crc = input->crcs == NULL ? psd_crc32(0, bytes.data, bytes.size)
                                       : psd_crc32_of_range(input->data, input->crcs,
                                                            (size_t)offset, bytes.size);
        }
        return found;
    }
    uint8_t *scratch = alloc.resize(alloc.ctx, NULL, 0, room);
    if (scratch == NULL) {
        return psd_fail_memory(err);
    }
    psd_status status = PSD_OK;
    for (uint64_t done = 0; done < size && status == PSD_OK;) {
        uint64_t left = size - done;
        size_t piece = left < room ? (size_t)left : room;
        status = psd_input_copy(input, offset + done, piece, scratch, err);
        if (status == PSD_OK) {
            *crc = psd_crc32(*crc, scratch, piece);
            done += piece;
        }
    }
    alloc.resize(alloc.ctx, scratch, room, 0);
    return status;
}

psd_status
psd_archive_crc32(const psd_archive *archive, const psd_input *input,
                  const psd_zip_entry *entry, uint32_t *crc32, psd_error *err)
{
    uint64_t offset;
    psd_status status = psd_zip_locate(input, entry, &offset, err);
    if (status != PSD_OK) {
        return status;
    }
    return entry->method == PSD_ZIP_STORED
               ? psd_archive_crc_of_range(archive, input, offset, entry->size, crc32,
                                          err)
               : psd_archive_crc_of_deflated(archive, input, entry, 0, crc32, err);
}

psd_status
psd_archive_verify(const psd_archive *archive, const psd_input *input,
                   const psd_zip_entry *entry, bool *checked, psd_error *err)
{
    uint64_t offset;
    uint32_t crc;
    *checked = psd_archive_states_crc(entry);
    psd_status status = psd_zip_locate(input, entry, &offset, err);
    /* A stored record without a CRC has nothing to be read for; a deflated one
     * can still be damaged. */
    if (status != PSD_OK || (!*checked && entry->method == PSD_ZIP_STORED)) {
        return status;
    }
    status = psd_archive_crc32(archive, input, entry, &crc, err);
    if (status == PSD_OK && *checked && crc != entry->crc32) {
        return crc_differs(entry, offset, crc, err);
    }
    return status;
}

/* ---------------------------------------------------------------- opening */

static psd_status
read_byteorder(psd_archive *archive, const psd_input *input, psd_error *err)
{
    const psd_zip_entry *entry = psd_archive_find(archive, PSD_LITERAL("byteorder"));
    if (entry == NULL) {
        return PSD_OK; /* before torch 2.1: little-endian */
    }
    archive->has_byteorder = true;
    psd_span text = {NULL, 0};
    uint64_t offset = entry->header_offset;
    if (entry->size <= 6) {
        psd_status status = psd_archive_fetch(archive, input, entry, &archive->arena,
                                              &text, &offset, err);
        if (status != PSD_OK) {
            return status;
        }
    }
    archive->big_endian = psd_span_equal(text, PSD_LITERAL("big"));
    if (archive->big_endian || psd_span_equal(text, PSD_LITERAL("little"))) {
        return PSD_OK;
    }
    psd_fail(err, PSD_BYTEORDER, offset,
             "the byteorder record says neither little nor big");
    psd_fail_entry(err, entry->name);
    return psd_fail_subject(err, text);
}

/* The record that holds the pickle: the one asked for, or the kind's own. */
static const psd_zip_entry *
pickle_entry(const psd_archive *archive)
{
    psd_span record = archive->options.record;
    if (record.size == 0) {
        bool none =
            archive->kind == PSD_ARCHIVE_PACKAGE || archive->kind == PSD_ARCHIVE_EXPORT;
        return none ? NULL : psd_archive_find(archive, PSD_LITERAL("data.pkl"));
    }
    return psd_archive_find(archive, record);
}

/* Is there a record wherever the directory says? */
static psd_status
locate_all(const psd_archive *archive, const psd_input *input, psd_error *err)
{
    psd_status status = PSD_OK;
    for (uint32_t i = 0; i < archive->zip.count && status == PSD_OK; i++) {
        uint64_t offset;
        status = psd_zip_locate(input, &archive->zip.entries[i], &offset, err);
    }
    return status;
}

psd_status
psd_archive_open_zip(psd_archive *archive, const psd_input *input, psd_error *err)
{
    const psd_options *o = &archive->options;
    if (o->mode == PSD_OPEN_EXACT) {
        archive->kind = PSD_ARCHIVE_RECORDS;
        return psd_zip_read_exact(input, &o->limits, o->key, &archive->arena,
                                  &archive->zip, err);
    }
    psd_status status =
        psd_zip_read(input, &o->limits, o->key, &archive->arena, &archive->zip, err);
    if (o->salvage && status == PSD_OK) {
        status = locate_all(archive, input, err);
    }
    if (o->salvage && (status == PSD_TRUNCATED || status == PSD_ZIP ||
                       status == PSD_OVERLAP || status == PSD_NOT_ZIP)) {
        status = psd_zip_salvage(input, &o->limits, o->key, &archive->arena,
                                 &archive->zip, err);
    }
    if (status == PSD_OK) {
        status = tell_kind(archive, err);
    }
    if (status != PSD_OK || o->mode == PSD_OPEN_RECORDS) {
        return status;
    }
    status = read_byteorder(archive, input, err);
    const psd_zip_entry *entry = pickle_entry(archive);
    if (status == PSD_OK && entry != NULL) {
        archive->pickle_name = entry->name;
        status = psd_archive_fetch(archive, input, entry, &archive->arena,
                                   &archive->program, &archive->program_offset, err);
    }
    return status;
}

/* ---------------------------------------------------------------- joining */

/*
 * The record <prefix>data/<key> if it is that of this number: archives mostly hold their
 * storages in the order in which the pickle tells of them, so the next is soon found.
 */
static const psd_zip_entry *
guess_storage(const psd_archive *archive, uint32_t number, psd_span key)
{
    const psd_span folder = PSD_LITERAL("data/");
    psd_span prefix = archive->prefix;
    if (number >= archive->zip.count) {
        return NULL;
    }
    const psd_zip_entry *entry = &archive->zip.entries[number];
    const uint8_t *name = entry->name.data;
    if (entry->name.size != prefix.size + folder.size + key.size ||
        memcmp(name + prefix.size + folder.size, key.data, key.size) != 0 ||
        memcmp(name + prefix.size, folder.data, folder.size) != 0 ||
        (prefix.size > 0 && memcmp(name, prefix.data, prefix.size) != 0)) {
        return NULL;
    }
    return entry;
}

/* Where the kinds keep their storages; constants of scripts have a folder of their
 * own, named as their pickle is. */
static const psd_zip_entry *
find_storage(const psd_archive *archive, psd_span key)
{
    const psd_span none = {NULL, 0};
    if (archive->kind == PSD_ARCHIVE_PACKAGE) {
        const psd_zip_entry *entry =
            find_in(archive, PSD_LITERAL(".data/"), key, PSD_LITERAL(".storage"));
        /* Scripts within packages name the whole record. */
        return entry != NULL ? entry
                             : find_in(archive, PSD_LITERAL(".data/"), key, none);
    }
    if (psd_span_equal(archive->options.record, PSD_LITERAL("constants.pkl"))) {
        return find_in(archive, PSD_LITERAL("constants/"), key, none);
    }
    const psd_zip_entry *entry = find_in(archive, PSD_LITERAL("data/"), key, none);
    /* Of torch 1.4 and 1.5, whose zip files were an experiment. */
    return entry != NULL ? entry : find_in(archive, PSD_LITERAL("tensors/"), key, none);
}

const psd_zip_entry *
psd_archive_storage_entry(const psd_archive *archive, uint32_t storage)
{
    const psd_storage *s = &archive->model.storages[storage];
    return s->place == PSD_PLACE_RECORD ? &archive->zip.entries[s->at.entry] : NULL;
}

psd_status
psd_archive_check_inflated(const psd_archive *archive, const psd_input *input,
                           psd_error *err)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < archive->model.storage_count; i++) {
        const psd_zip_entry *entry = psd_archive_storage_entry(archive, i);
        if (entry != NULL && entry->method != PSD_ZIP_STORED) {
            total += entry->size; /* at most deflate's ceiling times the file */
        }
    }
    return check_inflated(archive, input, total,
                          "the deflated storages are too large for a file of this size",
                          err);
}

/* Every storage has its record, and the record just the storage's size. */
psd_status
psd_archive_join_zip(psd_archive *archive, psd_error *err)
{
    bool plain =
        archive->kind != PSD_ARCHIVE_PACKAGE && archive->options.record.size == 0;
    uint32_t next = 0; /* the record after that of the storage before */
    for (uint32_t i = 0; i < archive->model.storage_count; i++) {
        psd_storage *s = &archive->model.storages[i];
        if (s->place != PSD_PLACE_NONE) {
            continue; /* embedded in the pickle */
        }
        const psd_zip_entry *entry =
            plain ? guess_storage(archive, next, s->key) : NULL;
        if (entry == NULL) {
            entry = find_storage(archive, s->key);
        }
        uint64_t position = archive->program_offset + s->position;
        if (archive->options.salvage && (entry == NULL || entry->size != s->size)) {
            s->place = PSD_PLACE_LOST;
            continue;
        }
        if (entry == NULL) {
            bool out = psd_leads_out(s->key);
            psd_fail(err, out ? PSD_PATH : PSD_STORAGE, position,
                     out ? "a storage's key is a path out of the archive"
                         : "a storage has no record in the archive");
            return psd_fail_subject(err, s->key);
        }
        if (entry->size != s->size) {
            psd_fail(err, PSD_STORAGE, entry->header_offset,
                     "a storage's record has not the size that the pickle tells");
            psd_fail_entry(err, entry->name);
            return psd_fail_numbers(err, entry->size, s->size);
        }
        s->place = PSD_PLACE_RECORD;
        s->at.entry = (uint32_t)(entry - archive->zip.entries);
        next = s->at.entry + 1;
    }
    return PSD_OK;
}
