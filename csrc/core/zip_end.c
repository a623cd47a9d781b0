/* SPDX-License-Identifier: Apache-2.0
 *
 * A zip archive is read from its end: the end record, before it perhaps a
 * locator and a zip64 end record, and from them the place of the directory.
 */
#include "zip_format.h"

/* What may follow the end record: its comment, and bytes that others appended. */
enum { COMMENT_MAX = 0xffff, TRAILING_MAX = 64 * 1024 };

static psd_status
no_end(const psd_input *input, psd_error *err)
{
    uint8_t head[4] = {0}, signature[4];
    size_t size = input->size < sizeof head ? (size_t)input->size : sizeof head;
    psd_status status = psd_input_copy(input, 0, size, head, err);
    if (status != PSD_OK) {
        return status;
    }
    psd_store_le32(signature, PSD_ZIP_LOCAL_SIGNATURE);
    if (size > 0 && memcmp(head, signature, size) == 0) {
        return psd_fail(err, PSD_TRUNCATED, input->size,
                        "the file ends before the archive's end record");
    }
    return psd_fail(err, PSD_NOT_ZIP, 0, "no zip archive");
}

/*
 * Does an end record stand at `p`, which has `left` bytes up to the end of the
 * file?  `exact`: and does its comment end where the file ends?
 */
static bool
is_end(const uint8_t *p, size_t left, bool exact)
{
    if (left < PSD_ZIP_END_SIZE || psd_load_le32(p) != PSD_ZIP_END_SIGNATURE) {
        return false;
    }
    size_t after = left - PSD_ZIP_END_SIZE, comment = psd_load_le16(p + 20);
    return exact ? comment == after
                 : comment <= after && after - comment <= TRAILING_MAX;
}

/* The last end record in the file's last bytes, or SIZE_MAX. */
static size_t
search(const uint8_t *bytes, size_t size, bool exact)
{
    for (size_t at = size - PSD_ZIP_END_SIZE + 1; at-- > 0;) {
        if (is_end(bytes + at, size - at, exact)) {
            return at;
        }
    }
    return SIZE_MAX;
}

/*
 * Search the tail of the file.  A comment may hold the signature, and so may
 * bytes after the archive: a record whose comment ends with the file goes
 * before one that leaves bytes over, and a later one before an earlier one.
 */
static psd_status
search_tail(const psd_input *input, psd_alloc alloc, uint8_t *record, uint64_t *offset,
            psd_error *err)
{
    const uint64_t most = PSD_ZIP_END_SIZE + COMMENT_MAX + TRAILING_MAX;
    size_t size = (size_t)(input->size < most ? input->size : most);
    uint8_t *tail = alloc.resize(alloc.ctx, NULL, 0, size);
    if (tail == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, input->size - size, "out of memory");
    }
    psd_status status = psd_input_copy(input, input->size - size, size, tail, err);
    if (status == PSD_OK) {
        size_t at = search(tail, size, true);
        if (at == SIZE_MAX) {
            at = search(tail, size, false);
        }
        if (at == SIZE_MAX) {
            status = no_end(input, err);
        }
        else {
            memcpy(record, tail + at, PSD_ZIP_END_SIZE);
            *offset = input->size - size + at;
        }
    }
    alloc.resize(alloc.ctx, tail, size, 0);
    return status;
}

/* Nearly always the end record is the file's last bytes: look there first. */
static psd_status
find_record(const psd_input *input, psd_alloc alloc, uint8_t *record, uint64_t *offset,
            psd_error *err)
{
    if (input->size < PSD_ZIP_END_SIZE) {
        return no_end(input, err);
    }
    *offset = input->size - PSD_ZIP_END_SIZE;
    psd_status status = psd_input_copy(input, *offset, PSD_ZIP_END_SIZE, record, err);
    if (status != PSD_OK || is_end(record, PSD_ZIP_END_SIZE, true)) {
        return status;
    }
    return search_tail(input, alloc, record, offset, err);
}

/* The fields of either end record. */
typedef struct {
    uint64_t disk, directory_disk, count_here, count, size, offset;
} fields;

static fields
parse_end(const uint8_t *p)
{
    return (fields){psd_load_le16(p + 4),  psd_load_le16(p + 6),
                    psd_load_le16(p + 8),  psd_load_le16(p + 10),
                    psd_load_le32(p + 12), psd_load_le32(p + 16)};
}

static fields
parse_end64(const uint8_t *p)
{
    return (fields){psd_load_le32(p + 16), psd_load_le32(p + 20),
                    psd_load_le64(p + 24), psd_load_le64(p + 32),
                    psd_load_le64(p + 40), psd_load_le64(p + 48)};
}

/*
 * Where the zip64 end record is: where the locator says, or, in an archive that
 * was moved by a prefix, right before the locator.
 */
static psd_status
find_end64(const psd_input *input, uint64_t stated, uint64_t locator, uint8_t *record,
           uint64_t *offset, psd_error *err)
{
    const uint64_t places[] = {stated, locator - PSD_ZIP_END64_SIZE};
    for (size_t i = 0; i < 2; i++) {
        if (!psd_fits(places[i], PSD_ZIP_END64_SIZE, locator)) {
            continue;
        }
        psd_status status =
            psd_input_copy(input, places[i], PSD_ZIP_END64_SIZE, record, err);
        if (status != PSD_OK) {
            return status;
        }
        if (psd_load_le32(record) == PSD_ZIP_END64_SIGNATURE) {
            /* Its size field does not count itself and the signature, 4.3.14.1. */
            uint64_t size = psd_load_le64(record + 4);
            if (size < PSD_ZIP_END64_SIZE - 12 ||
                !psd_fits(places[i] + 12, size, locator)) {
                psd_fail(err, PSD_ZIP, places[i] + 4,
                         "the zip64 end record has an impossible size");
                return psd_fail_numbers(err, size, PSD_ZIP_END64_SIZE - 12);
            }
            *offset = places[i];
            return PSD_OK;
        }
    }
    psd_fail(err, PSD_ZIP, locator, "the locator points to no zip64 end record");
    return psd_fail_numbers(err, stated, locator - PSD_ZIP_END64_SIZE);
}

static bool
agrees(uint64_t narrow, uint64_t ones, uint64_t wide)
{
    return narrow == ones || narrow == wide;
}

/*
 * If there is a locator, take the fields from the zip64 end record.  `limit` is
 * then that record's place, and `moved` how far it lies after the stated one.
 */
static psd_status
read_end64(const psd_input *input, fields *f, uint64_t *limit, uint64_t *moved,
           psd_error *err)
{
    uint8_t bytes[PSD_ZIP_END64_SIZE];
    if (*limit < PSD_ZIP_LOCATOR_SIZE + PSD_ZIP_END64_SIZE) {
        return PSD_OK;
    }
    uint64_t locator = *limit - PSD_ZIP_LOCATOR_SIZE;
    psd_status status =
        psd_input_copy(input, locator, PSD_ZIP_LOCATOR_SIZE, bytes, err);
    if (status != PSD_OK || psd_load_le32(bytes) != PSD_ZIP_LOCATOR_SIGNATURE) {
        return status;
    }
    if (psd_load_le32(bytes + 4) != 0 || psd_load_le32(bytes + 16) > 1) {
        return psd_fail(err, PSD_MULTI_DISK, locator, "an archive of several disks");
    }
    uint64_t stated = psd_load_le64(bytes + 8), found = 0;
    status = find_end64(input, stated, locator, bytes, &found, err);
    if (status != PSD_OK) {
        return status;
    }
    fields wide = parse_end64(bytes);
    if (!agrees(f->disk, PSD_ZIP_ONES16, wide.disk) ||
        !agrees(f->directory_disk, PSD_ZIP_ONES16, wide.directory_disk) ||
        !agrees(f->count_here, PSD_ZIP_ONES16, wide.count_here) ||
        !agrees(f->count, PSD_ZIP_ONES16, wide.count) ||
        !agrees(f->size, PSD_ZIP_ONES32, wide.size) ||
        !agrees(f->offset, PSD_ZIP_ONES32, wide.offset) || stated > found) {
        return psd_fail(err, PSD_ZIP, found,
                        "the archive's two end records contradict each other");
    }
    *f = wide;
    *limit = found;
    *moved = found - stated;
    return PSD_OK;
}

static psd_status
starts_directory(const psd_input *input, uint64_t offset, bool *starts, psd_error *err)
{
    uint8_t signature[4];
    psd_status status = psd_input_copy(input, offset, sizeof signature, signature, err);
    *starts = status == PSD_OK && psd_load_le32(signature) == PSD_ZIP_CENTRAL_SIGNATURE;
    return status;
}

/*
 * Where the directory is: at its offset, or else right before the end records,
 * when bytes were put before the archive and its offsets do not count them.
 */
static psd_status
place_directory(const psd_input *input, const fields *f, uint64_t limit,
                psd_zip_end *end, psd_error *err)
{
    uint64_t before_end = limit - f->size;
    bool starts = f->offset == before_end || f->size == 0;
    psd_status status = PSD_OK;
    end->directory_offset = f->offset;
    if (f->size >= PSD_ZIP_CENTRAL_SIZE && !starts && f->offset < before_end) {
        status = starts_directory(input, f->offset, &starts, err);
        if (status == PSD_OK && !starts) {
            end->directory_offset = before_end;
            status = starts_directory(input, before_end, &starts, err);
        }
    }
    if (status != PSD_OK) {
        return status;
    }
    end->shift = end->directory_offset - f->offset;
    if (!starts || end->directory_offset > before_end) {
        psd_fail(err, PSD_ZIP, end->end_offset,
                 "the directory is not where the end record says");
        return psd_fail_numbers(err, f->offset, before_end);
    }
    return PSD_OK;
}

psd_status
psd_zip_find_end(const psd_input *input, psd_alloc alloc, psd_zip_end *end,
                 psd_error *err)
{
    uint8_t record[PSD_ZIP_END_SIZE];
    psd_status status = find_record(input, alloc, record, &end->end_offset, err);
    if (status != PSD_OK) {
        return status;
    }
    fields f = parse_end(record);
    uint64_t limit = end->end_offset, moved = 0;
    status = read_end64(input, &f, &limit, &moved, err);
    if (status != PSD_OK) {
        return status;
    }
    if (f.disk != 0 || f.directory_disk != 0) {
        return psd_fail(err, PSD_MULTI_DISK, end->end_offset,
                        "an archive of several disks");
    }
    if (f.count_here != f.count) {
        psd_fail(err, PSD_ZIP, end->end_offset,
                 "the end record counts the entries in two ways");
        return psd_fail_numbers(err, f.count_here, f.count);
    }
    if (f.size > limit) {
        psd_fail(err, PSD_ZIP, end->end_offset,
                 "the directory is larger than the file before its end record");
        return psd_fail_numbers(err, f.size, limit);
    }
    end->count = f.count;
    end->directory_size = f.size;
    status = place_directory(input, &f, limit, end, err);
    if (status == PSD_OK && limit != end->end_offset && end->shift != moved) {
        psd_fail(err, PSD_ZIP, limit,
                 "the zip64 end record is not where its locator says");
        return psd_fail_numbers(err, limit - moved, limit - end->shift);
    }
    return status;
}
