/* SPDX-License-Identifier: Apache-2.0
 *
 * From an entry to its payload.  The directory has been believed only as far as
 * it agrees with itself; here the record's own header must tell the same story,
 * so that no two readers can see two different archives in one file.
 */
#include "zip_format.h"

/*
 * A window on the file, which moves forward.  One fetch holds the whole header
 * of an ordinary record: 30 bytes, a name, and a padding of at most 67.  Of a map
 * no more than that is copied; a fetch from afar costs the same for more.
 */
typedef struct {
    const psd_input *input;
    const psd_zip_entry *entry;
    uint64_t offset; /* of bytes[0] */
    size_t size;
    size_t most; /* at once */
    uint8_t bytes[512];
} window;

enum { PIECE = 128, NEAR = 128, FAR = 512 };

static psd_status
fails(const window *w, psd_status status, uint64_t offset, const char *sentence,
      psd_error *err)
{
    psd_fail(err, status, offset, sentence);
    return psd_fail_entry(err, w->entry->name);
}

/* `size` bytes at `offset`, at most PIECE of them; they stay until the next look. */
static psd_status
look(window *w, uint64_t offset, size_t size, const uint8_t **bytes, psd_error *err)
{
    *bytes = w->bytes;
    if (!psd_fits(offset, size, w->entry->limit)) {
        return fails(w, PSD_OVERLAP, offset,
                     "a record's header reaches into the next one", err);
    }
    if (offset < w->offset || !psd_fits(offset - w->offset, size, w->size)) {
        uint64_t left = w->entry->limit - offset;
        w->size = left < w->most ? (size_t)left : w->most;
        w->offset = offset;
        psd_status status = psd_input_copy(w->input, offset, w->size, w->bytes, err);
        if (status != PSD_OK) {
            w->size = 0;
            return psd_fail_entry(err, w->entry->name);
        }
    }
    *bytes = w->bytes + (offset - w->offset);
    return PSD_OK;
}

/* The local header, 4.3.7. */
typedef struct {
    uint64_t offset;
    uint16_t flags;
    uint32_t crc32;
    uint64_t size, stored_size;
    size_t name_size, extra_size;
} header;

static psd_status
read_header(window *w, header *h, psd_error *err)
{
    const psd_zip_entry *entry = w->entry;
    const uint8_t *p;
    psd_status status = look(w, h->offset, PSD_ZIP_LOCAL_SIZE, &p, err);
    if (status != PSD_OK) {
        return status;
    }
    if (psd_load_le32(p) != PSD_ZIP_LOCAL_SIGNATURE) {
        return fails(w, PSD_ZIP, h->offset, "no record where the directory says", err);
    }
    h->flags = psd_load_le16(p + 6);
    h->crc32 = psd_load_le32(p + 14);
    h->stored_size = psd_load_le32(p + 18);
    h->size = psd_load_le32(p + 22);
    h->name_size = psd_load_le16(p + 26);
    h->extra_size = psd_load_le16(p + 28);
    uint16_t method = psd_load_le16(p + 8);
    if (method != entry->method) {
        fails(w, PSD_ZIP, h->offset + 8, "record and directory name different methods",
              err);
        return psd_fail_numbers(err, method, entry->method);
    }
    if ((h->flags & PSD_ZIP_FLAGS_SECRET) != 0) {
        return fails(w, PSD_ZIP, h->offset + 6,
                     "the record claims encryption, the directory does not", err);
    }
    if (h->name_size != entry->name.size) {
        fails(w, PSD_ZIP, h->offset + 26, "record and directory have different names",
              err);
        return psd_fail_numbers(err, h->name_size, entry->name.size);
    }
    return PSD_OK;
}

static psd_status
check_name(window *w, const header *h, psd_error *err)
{
    uint64_t start = h->offset + PSD_ZIP_LOCAL_SIZE;
    for (size_t done = 0, size; done < h->name_size; done += size) {
        const uint8_t *p;
        size = h->name_size - done < PIECE ? h->name_size - done : PIECE;
        psd_status status = look(w, start + done, size, &p, err);
        if (status != PSD_OK) {
            return status;
        }
        if (memcmp(p, w->entry->name.data + done, size) != 0) {
            return fails(w, PSD_ZIP, start, "record and directory have different names",
                         err);
        }
    }
    return PSD_OK;
}

/*
 * The sizes of a local zip64 field.  torch writes there the true size, then a
 * zero for the stored size, then the header's offset, each only if it overflows.
 */
static psd_status
take_zip64(window *w, header *h, uint64_t offset, size_t size, psd_error *err)
{
    uint64_t *const places[] = {&h->size, &h->stored_size};
    for (size_t i = 0; i < 2; i++) {
        if (*places[i] != PSD_ZIP_ONES32 || size < 8) {
            continue;
        }
        const uint8_t *p;
        psd_status status = look(w, offset, 8, &p, err);
        if (status != PSD_OK) {
            return status;
        }
        *places[i] = psd_load_le64(p);
        offset += 8;
        size -= 8;
    }
    return PSD_OK;
}

/*
 * Walk over the extra fields.  They say nothing that is wanted but the zip64
 * sizes; yet a length that is wrong moves the payload, and then the fields no
 * longer fill their room.  Fewer than four bytes left over are padding, which
 * must be zeros.
 */
static psd_status
check_extra(window *w, header *h, psd_error *err)
{
    uint64_t at = h->offset + PSD_ZIP_LOCAL_SIZE + h->name_size;
    uint64_t end = at + h->extra_size;
    bool zip64 = false;
    while (end - at >= PSD_ZIP_EXTRA_HEAD) {
        const uint8_t *p;
        psd_status status = look(w, at, PSD_ZIP_EXTRA_HEAD, &p, err);
        if (status != PSD_OK) {
            return status;
        }
        unsigned id = psd_load_le16(p);
        size_t size = psd_load_le16(p + 2);
        if (!psd_fits(at + PSD_ZIP_EXTRA_HEAD, size, end)) {
            return fails(w, PSD_ZIP, at, "a record's extra field exceeds its room",
                         err);
        }
        if (id == PSD_ZIP_EXTRA_ZIP64) {
            if (zip64) {
                return fails(w, PSD_ZIP, at, "a record has two zip64 extra fields",
                             err);
            }
            zip64 = true;
            status = take_zip64(w, h, at + PSD_ZIP_EXTRA_HEAD, size, err);
            if (status != PSD_OK) {
                return status;
            }
        }
        at += PSD_ZIP_EXTRA_HEAD + size;
    }
    if (at < end) {
        static const uint8_t zeros[PSD_ZIP_EXTRA_HEAD];
        const uint8_t *p;
        psd_status status = look(w, at, (size_t)(end - at), &p, err);
        if (status != PSD_OK) {
            return status;
        }
        if (memcmp(p, zeros, (size_t)(end - at)) != 0) {
            return fails(w, PSD_ZIP, at,
                         "a record's extra fields do not fill their room", err);
        }
    }
    return PSD_OK;
}

/* A header whose values follow the payload may state them, leave 0, or all ones. */
static bool
agrees(uint64_t stated, uint64_t truth, bool deferred)
{
    return stated == truth || (deferred && (stated == 0 || stated == PSD_ZIP_ONES32));
}

static psd_status
check_values(const window *w, const header *h, psd_error *err)
{
    const psd_zip_entry *entry = w->entry;
    bool deferred = (h->flags & PSD_ZIP_FLAG_DESCRIPTOR) != 0;
    if (!agrees(h->stored_size, entry->stored_size, deferred)) {
        fails(w, PSD_ZIP, h->offset + 18, "record and directory state different sizes",
              err);
        return psd_fail_numbers(err, h->stored_size, entry->stored_size);
    }
    if (!agrees(h->size, entry->size, deferred)) {
        fails(w, PSD_ZIP, h->offset + 22, "record and directory state different sizes",
              err);
        return psd_fail_numbers(err, h->size, entry->size);
    }
    if (h->crc32 != entry->crc32 && !(deferred && h->crc32 == 0)) {
        fails(w, PSD_ZIP, h->offset + 14,
              "record and directory state different checksums", err);
        return psd_fail_numbers(err, h->crc32, entry->crc32);
    }
    return PSD_OK;
}

static psd_status
check_method(const window *w, psd_error *err)
{
    const psd_zip_entry *entry = w->entry;
    if (entry->method != PSD_ZIP_STORED && entry->method != PSD_ZIP_DEFLATED) {
        fails(w, PSD_METHOD, entry->header_offset,
              "the record is compressed by an unknown method", err);
        return psd_fail_numbers(err, entry->method, PSD_ZIP_STORED);
    }
    if ((entry->flags & PSD_ZIP_FLAG_PATCH) != 0) {
        return fails(w, PSD_METHOD, entry->header_offset, "the record is a patch", err);
    }
    return PSD_OK;
}

psd_status
psd_zip_locate(const psd_input *input, const psd_zip_entry *entry, uint64_t *offset,
               psd_error *err)
{
    window w;
    w.input = input;
    w.entry = entry;
    w.offset = 0;
    w.size = 0;
    w.most = input->data != NULL ? NEAR : FAR;
    header h = {.offset = entry->header_offset};
    psd_status status = read_header(&w, &h, err);
    if (status == PSD_OK) {
        status = check_name(&w, &h, err);
    }
    if (status == PSD_OK) {
        status = check_method(&w, err);
    }
    if (status == PSD_OK) {
        status = check_extra(&w, &h, err);
    }
    if (status == PSD_OK) {
        status = check_values(&w, &h, err);
    }
    if (status != PSD_OK) {
        return status;
    }
    *offset = h.offset + PSD_ZIP_LOCAL_SIZE + h.name_size + h.extra_size;
    if (!psd_fits(*offset, entry->stored_size, entry->limit)) {
        fails(&w, PSD_OVERLAP, *offset, "a record's payload reaches into the next one",
              err);
        return psd_fail_numbers(err, entry->stored_size,
                                entry->limit - entry->header_offset);
    }
    return PSD_OK;
}
