/* SPDX-License-Identifier: Apache-2.0
 *
 * Records are stored, aligned, and written in one pass: a record's header leaves
 * before its bytes have been seen, so its CRC and sizes follow the payload in a
 * data descriptor, as torch.save has it.
 */
#include "crc32.h"
#include "zip_format.h"

enum {
    VERSION = 20,       /* of the format that a reader must know, 4.4.3 */
    VERSION_ZIP64 = 45, /* the same with zip64 */
    DATE = 0x0021,      /* 1980-01-01, the first that MS-DOS knows: 0 is no date */
    PADDING_ID = 0x4246 /* "FB", the padding that torch writes */
};

/* Descriptors and the zip64 field of a local header, 4.3.9 and 4.5.3. */
enum { DESCRIPTOR = 16, DESCRIPTOR_WIDE = 24, LOCAL_ZIP64 = PSD_ZIP_EXTRA_HEAD + 16 };

/* Small enough to lie in the cache from the CRC until it is written. */
#define PIECE ((size_t)512 * 1024)

/* Does `value` overflow a field of 32 bits, all ones being taken? */
static bool
overflows(uint64_t value)
{
    return value >= PSD_ZIP_ONES32;
}

static uint16_t
flags_of(const psd_zip_plan_entry *entry)
{
    return entry->size > 0 ? PSD_ZIP_FLAG_UTF8 | PSD_ZIP_FLAG_DESCRIPTOR
                           : PSD_ZIP_FLAG_UTF8;
}

static uint64_t
descriptor_size(const psd_zip_plan_entry *entry)
{
    if (entry->size == 0) {
        return 0;
    }
    return entry->wide ? DESCRIPTOR_WIDE : DESCRIPTOR;
}

/* Bytes of the zip64 field in a record's directory entry. */
static unsigned
central_extra_size(const psd_zip_plan_entry *entry)
{
    unsigned fields =
        (entry->wide ? 2u : 0u) + (overflows(entry->header_offset) ? 1u : 0u);
    return fields == 0 ? 0 : PSD_ZIP_EXTRA_HEAD + 8 * fields;
}

/* ------------------------------------------------------------------ the plan */

void
psd_zip_plan_init(psd_zip_plan *plan, psd_alloc alloc, bool checksum)
{
    *plan = (psd_zip_plan){.alloc = alloc, .checksum = checksum};
}

void
psd_zip_plan_clear(psd_zip_plan *plan)
{
    if (plan->entries != NULL) {
        plan->alloc.resize(plan->alloc.ctx, plan->entries,
                           plan->capacity * sizeof *plan->entries, 0);
    }
    psd_zip_plan_init(plan, plan->alloc, plan->checksum);
}

static psd_status
too_large(psd_error *err, psd_span name)
{
    psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE, "the archive would be too large");
    return psd_fail_entry(err, name);
}

/* Place `entry` at `cursor`; false when offsets would wrap. */
static bool
place(psd_zip_plan_entry *entry, uint64_t *cursor)
{
    uint64_t start, end;
    uint64_t head = PSD_ZIP_LOCAL_SIZE + entry->name.size +
                    (entry->wide ? LOCAL_ZIP64 : 0) + PSD_ZIP_EXTRA_HEAD;
    entry->header_offset = *cursor;
    if (!psd_add(*cursor, head, &start)) {
        return false;
    }
    entry->padding = (uint16_t)((0 - start) % PSD_ZIP_ALIGNMENT);
    return psd_add(start, entry->padding, &entry->data_offset) &&
           psd_add(entry->data_offset, entry->size, &end) &&
           psd_add(end, descriptor_size(entry), cursor);
}

psd_status
psd_zip_plan_add(psd_zip_plan *plan, psd_span name, uint64_t size, psd_error *err)
{
    if (plan->total_size != 0) {
        return psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE, "the plan is closed");
    }
    if (name.size > PSD_ZIP_ONES16) {
        psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE, "a record's name is too long");
        psd_fail_entry(err, name);
        return psd_fail_numbers(err, name.size, PSD_ZIP_ONES16);
    }
    psd_zip_plan_entry entry = {.name = name, .size = size, .wide = overflows(size)};
    uint64_t cursor = plan->cursor;
    if (!place(&entry, &cursor) || plan->count == UINT32_MAX) {
        return too_large(err, name);
    }
    void *entries = plan->entries;
    bool grown = psd_grow(plan->alloc, &entries, &plan->capacity,
                          (uint64_t)plan->count + 1, sizeof entry);
    plan->entries = entries;
    if (!grown) {
        return psd_fail_memory(err);
    }
    plan->entries[plan->count++] = entry;
    plan->cursor = cursor;
    return PSD_OK;
}

/* What comes after the records. */
typedef struct {
    uint64_t size; /* of the directory */
    bool zip64;    /* are the zip64 end record and its locator needed? */
} closing;

/* Fewer than 2^32 entries of less than 2^17 bytes each: their sum cannot wrap. */
static closing
measure(const psd_zip_plan *plan)
{
    /* A wide record brings the cursor, where the directory starts, to overflow. */
    closing c = {0, plan->count >= PSD_ZIP_ONES16 || overflows(plan->cursor)};
    for (uint32_t i = 0; i < plan->count; i++) {
        const psd_zip_plan_entry *entry = &plan->entries[i];
        c.size += PSD_ZIP_CENTRAL_SIZE + entry->name.size + central_extra_size(entry);
    }
    c.zip64 = c.zip64 || overflows(c.size);
    return c;
}

psd_status
psd_zip_plan_close(psd_zip_plan *plan, psd_error *err)
{
    closing c = measure(plan);
    uint64_t total;
    if (!psd_add(plan->cursor, c.size, &total) ||
        !psd_add(total, c.zip64 ? PSD_ZIP_END64_SIZE + PSD_ZIP_LOCATOR_SIZE : 0,
                 &total) ||
        !psd_add(total, PSD_ZIP_END_SIZE, &total)) {
        return too_large(err, (psd_span){NULL, 0});
    }
    plan->total_size = total;
    return PSD_OK;
}

/* ------------------------------------------------------------------ one record */

static psd_status
write_bytes(psd_sink sink, uint64_t offset, const uint8_t *bytes, size_t size,
            psd_error *err)
{
    if (size > 0 && !sink.write(sink.ctx, bytes, size)) {
        return psd_fail(err, PSD_SINK, offset, "the destination could not be written");
    }
    return PSD_OK;
}

/* The fields of a local header in front of its name, 4.3.7. */
static void
store_header(uint8_t *head, const psd_zip_plan_entry *entry, size_t extra_size)
{
    memset(head, 0, PSD_ZIP_LOCAL_SIZE);
    psd_store_le32(head, PSD_ZIP_LOCAL_SIGNATURE);
    psd_store_le16(head + 4, entry->wide ? VERSION_ZIP64 : VERSION);
    psd_store_le16(head + 6, flags_of(entry));
    psd_store_le16(head + 12, DATE);
    psd_store_le16(head + 26, (uint16_t)entry->name.size);
    psd_store_le16(head + 28, (uint16_t)extra_size);
}

/* The zip64 field, whose zeros are placeholders, and the padding; gives their size. */
static size_t
store_extra(uint8_t *extra, const psd_zip_plan_entry *entry)
{
    uint8_t *p = extra;
    if (entry->wide) {
        memset(p, 0, LOCAL_ZIP64);
        psd_store_le16(p, PSD_ZIP_EXTRA_ZIP64);
        psd_store_le16(p + 2, LOCAL_ZIP64 - PSD_ZIP_EXTRA_HEAD);
        p += LOCAL_ZIP64;
    }
    psd_store_le16(p, PADDING_ID);
    psd_store_le16(p + 2, entry->padding);
    memset(p + PSD_ZIP_EXTRA_HEAD, 'Z', entry->padding);
    return (size_t)(p - extra) + PSD_ZIP_EXTRA_HEAD + entry->padding;
}

/* Names of records that hold storages are short, and go out together with the rest. */
#define SHORT_NAME 64u

static psd_status
pour_header(const psd_zip_plan_entry *entry, psd_sink sink, psd_error *err)
{
    uint8_t bytes[PSD_ZIP_LOCAL_SIZE + SHORT_NAME + LOCAL_ZIP64 + PSD_ZIP_EXTRA_HEAD +
                  PSD_ZIP_ALIGNMENT];
    uint64_t offset = entry->header_offset;
    psd_span name = entry->name;
    bool is_short = name.size > 0 && name.size <= SHORT_NAME;
    uint8_t *extra = bytes + PSD_ZIP_LOCAL_SIZE + (is_short ? name.size : 0);
    size_t extra_size = store_extra(extra, entry);
    store_header(bytes, entry, extra_size);
    if (is_short) {
        memcpy(bytes + PSD_ZIP_LOCAL_SIZE, name.data, name.size);
        return write_bytes(sink, offset, bytes,
                           PSD_ZIP_LOCAL_SIZE + name.size + extra_size, err);
    }
    psd_status status = write_bytes(sink, offset, bytes, PSD_ZIP_LOCAL_SIZE, err);
    if (status == PSD_OK) {
        status = write_bytes(sink, offset, name.data, name.size, err);
    }
    return status == PSD_OK ? write_bytes(sink, offset, extra, extra_size, err)
                            : status;
}

/* 4.3.9 */
static psd_status
pour_descriptor(const psd_zip_plan_entry *entry, psd_sink sink, psd_error *err)
{
    uint8_t bytes[DESCRIPTOR_WIDE];
    psd_store_le32(bytes, PSD_ZIP_DESCRIPTOR_SIGNATURE);
    psd_store_le32(bytes + 4, entry->crc32);
    if (entry->wide) {
        psd_store_le64(bytes + 8, entry->size);
        psd_store_le64(bytes + 16, entry->size);
    }
    else {
        psd_store_le32(bytes + 8, (uint32_t)entry->size);
        psd_store_le32(bytes + 12, (uint32_t)entry->size);
    }
    return write_bytes(sink, entry->data_offset + entry->size, bytes,
                       (size_t)descriptor_size(entry), err);
}

psd_status
psd_zip_pour(psd_zip_plan *plan, psd_payload payload, psd_sink sink, psd_error *err)
{
    if (plan->total_size == 0 || plan->next >= plan->count) {
        return psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE,
                        "no record of a closed plan is left to be poured");
    }
    psd_zip_plan_entry *entry = &plan->entries[plan->next];
    if (payload.bytes.size != entry->size) {
        psd_fail(err, PSD_ARGUMENT, entry->data_offset,
                 "a record is not of the size that was planned");
        psd_fail_entry(err, entry->name);
        return psd_fail_numbers(err, payload.bytes.size, entry->size);
    }
    entry->crc32 = 0;
    psd_status status = pour_header(entry, sink, err);
    for (size_t done = 0, all = payload.bytes.size; status == PSD_OK && done < all;) {
        size_t size = all - done < PIECE ? all - done : PIECE;
        const uint8_t *piece = psd_payload_piece(&payload, done, size);
        if (piece == NULL) {
            status = psd_fail(err, PSD_INPUT, PSD_NOWHERE,
                              "bytes that are to be written could not be fetched");
            break;
        }
        if (plan->checksum) {
            entry->crc32 = psd_crc32(entry->crc32, piece, size);
        }
        status = write_bytes(sink, entry->data_offset + done, piece, size, err);
        done += size;
    }
    if (status == PSD_OK) {
        status = pour_descriptor(entry, sink, err);
    }
    if (status != PSD_OK) {
        return psd_fail_entry(err, entry->name);
    }
    plan->next++;
    return PSD_OK;
}

/* ------------------------------------------------------------------ the directory */

/* 4.3.12 */
static void
put_entry(psd_buffer *b, const psd_zip_plan_entry *entry)
{
    unsigned extra = central_extra_size(entry);
    uint16_t version = extra > 0 ? VERSION_ZIP64 : VERSION;
    uint32_t size = entry->wide ? PSD_ZIP_ONES32 : (uint32_t)entry->size;
    bool far = overflows(entry->header_offset);
    uint8_t head[PSD_ZIP_CENTRAL_SIZE] = {0};
    psd_store_le32(head, PSD_ZIP_CENTRAL_SIGNATURE);
    psd_store_le16(head + 4, version); /* made by this version, on MS-DOS */
    psd_store_le16(head + 6, version); /* needed */
    psd_store_le16(head + 8, flags_of(entry));
    psd_store_le16(head + 10, PSD_ZIP_STORED);
    psd_store_le16(head + 14, DATE);
    psd_store_le32(head + 16, entry->crc32);
    psd_store_le32(head + 20, size);
    psd_store_le32(head + 24, size);
    psd_store_le16(head + 28, (uint16_t)entry->name.size);
    psd_store_le16(head + 30, (uint16_t)extra);
    psd_store_le32(head + 42, far ? PSD_ZIP_ONES32 : (uint32_t)entry->header_offset);
    psd_put(b, head, sizeof head);
    psd_put_span(b, entry->name);
    if (extra > 0) {
        psd_put_u16(b, PSD_ZIP_EXTRA_ZIP64);
        psd_put_u16(b, (uint16_t)(extra - PSD_ZIP_EXTRA_HEAD));
    }
    if (entry->wide) {
        psd_put_u64(b, entry->size);
        psd_put_u64(b, entry->size);
    }
    if (far) {
        psd_put_u64(b, entry->header_offset);
    }
}

/* 4.3.14, 4.3.15 */
static void
put_end64(psd_buffer *b, const psd_zip_plan *plan, uint64_t directory_size)
{
    psd_put_u32(b, PSD_ZIP_END64_SIGNATURE);
    psd_put_u64(b, PSD_ZIP_END64_SIZE - 12); /* without the two fields up to here */
    psd_put_u16(b, VERSION_ZIP64);
    psd_put_u16(b, VERSION_ZIP64);
    psd_put_u32(b, 0); /* disk */
    psd_put_u32(b, 0); /* disk of the directory */
    psd_put_u64(b, plan->count);
    psd_put_u64(b, plan->count);
    psd_put_u64(b, directory_size);
    psd_put_u64(b, plan->cursor);

    psd_put_u32(b, PSD_ZIP_LOCATOR_SIGNATURE);
    psd_put_u32(b, 0); /* disk */
    psd_put_u64(b, plan->cursor + directory_size);
    psd_put_u32(b, 1); /* disks in all */
}

/* 4.3.16; what does not fit is all ones and stands in the zip64 record. */
static void
put_end(psd_buffer *b, const psd_zip_plan *plan, uint64_t directory_size)
{
    uint16_t count =
        plan->count < PSD_ZIP_ONES16 ? (uint16_t)plan->count : PSD_ZIP_ONES16;
    psd_put_u32(b, PSD_ZIP_END_SIGNATURE);
    psd_put_u16(b, 0); /* disk */
    psd_put_u16(b, 0); /* disk of the directory */
    psd_put_u16(b, count);
    psd_put_u16(b, count);
    psd_put_u32(b,
                overflows(directory_size) ? PSD_ZIP_ONES32 : (uint32_t)directory_size);
    psd_put_u32(b, overflows(plan->cursor) ? PSD_ZIP_ONES32 : (uint32_t)plan->cursor);
    psd_put_u16(b, 0); /* comment */
}

/* Room for all that comes after the records, which spares moving it while it grows. */
static void
reserve_directory(psd_buffer *b, const psd_zip_plan *plan)
{
    uint64_t size = plan->total_size - plan->cursor;
    if (size <= SIZE_MAX && psd_buffer_reserve(b, (size_t)size) != NULL) {
        b->size = 0;
    }
}

psd_status
psd_zip_pour_end(psd_zip_plan *plan, psd_sink sink, psd_error *err)
{
    if (plan->total_size == 0 || plan->next != plan->count) {
        psd_fail(err, PSD_ARGUMENT, PSD_NOWHERE, "not all planned records were poured");
        return psd_fail_numbers(err, plan->next, plan->count);
    }
    closing c = measure(plan);
    psd_buffer b;
    psd_buffer_init(&b, plan->alloc);
    reserve_directory(&b, plan);
    for (uint32_t i = 0; i < plan->count; i++) {
        put_entry(&b, &plan->entries[i]);
    }
    if (c.zip64) {
        put_end64(&b, plan, c.size);
    }
    put_end(&b, plan, c.size);
    psd_status status =
        b.failed ? psd_fail(err, PSD_NO_MEMORY, plan->cursor, "out of memory")
                 : write_bytes(sink, plan->cursor, b.data, b.size, err);
    psd_buffer_clear(&b);
    return status;
}
