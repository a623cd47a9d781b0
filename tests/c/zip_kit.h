/* SPDX-License-Identifier: Apache-2.0
 *
 * Archives for tests, put together by hand: every field of the format can be
 * given, also a wrong one.  And what reads them.
 */
#ifndef PSD_ZIP_KIT_H
#define PSD_ZIP_KIT_H

#include "check.h"
#include "crc32.h"
#include "zip.h"

#define KIT_KEY ((psd_hash_key){0x1234, 0x5678})

static inline psd_span
kit_text(const char *text)
{
    return (psd_span){(const uint8_t *)text, strlen(text)};
}

/* One record; zeros mean what an ordinary one has. */
typedef struct {
    psd_span name;
    psd_span data;
    psd_span local_extra, extra, comment;
    uint16_t flags, local_flags, method;
    uint32_t local_crc32, local_stored, local_size; /* taken if `deferred` */
    bool deferred;
    uint32_t header_offset; /* set by kit_local */
    uint32_t size;          /* if not 0, for a deflated record */
} kit_record;

static inline void
kit_local(psd_buffer *b, kit_record *r)
{
    uint32_t size = (uint32_t)r->data.size;
    r->header_offset = (uint32_t)b->size;
    psd_put_u32(b, 0x04034b50);
    psd_put_u16(b, 20);
    psd_put_u16(b, r->local_flags);
    psd_put_u16(b, r->method);
    psd_put_u32(b, 0);
    psd_put_u32(b, r->deferred ? r->local_crc32 : psd_crc32(0, r->data.data, size));
    psd_put_u32(b, r->deferred ? r->local_stored : size);
    psd_put_u32(b, r->deferred ? r->local_size : r->size != 0 ? r->size : size);
    psd_put_u16(b, (uint16_t)r->name.size);
    psd_put_u16(b, (uint16_t)r->local_extra.size);
    psd_put_span(b, r->name);
    psd_put_span(b, r->local_extra);
    psd_put_span(b, r->data);
}

static inline void
kit_central(psd_buffer *b, const kit_record *r)
{
    uint32_t size = (uint32_t)r->data.size;
    psd_put_u32(b, 0x02014b50);
    psd_put_u16(b, 20);
    psd_put_u16(b, 20);
    psd_put_u16(b, r->flags);
    psd_put_u16(b, r->method);
    psd_put_u32(b, 0);
    psd_put_u32(b, psd_crc32(0, r->data.data, size));
    psd_put_u32(b, size);
    psd_put_u32(b, r->size != 0 ? r->size : size);
    psd_put_u16(b, (uint16_t)r->name.size);
    psd_put_u16(b, (uint16_t)r->extra.size);
    psd_put_u16(b, (uint16_t)r->comment.size);
    psd_put_fill(b, 0, 8);
    psd_put_u32(b, r->header_offset);
    psd_put_span(b, r->name);
    psd_put_span(b, r->extra);
    psd_put_span(b, r->comment);
}

static inline void
kit_end(psd_buffer *b, uint64_t count, uint64_t size, uint64_t offset, psd_span comment)
{
    psd_put_u32(b, 0x06054b50);
    psd_put_u32(b, 0);
    psd_put_u16(b, (uint16_t)count);
    psd_put_u16(b, (uint16_t)count);
    psd_put_u32(b, (uint32_t)size);
    psd_put_u32(b, (uint32_t)offset);
    psd_put_u16(b, (uint16_t)comment.size);
    psd_put_span(b, comment);
}

static inline void
kit_end64(psd_buffer *b, uint64_t count, uint64_t size, uint64_t offset,
          uint64_t record_offset)
{
    psd_put_u32(b, 0x06064b50);
    psd_put_u64(b, 44);
    psd_put_u16(b, 45);
    psd_put_u16(b, 45);
    psd_put_u64(b, 0);
    psd_put_u64(b, count);
    psd_put_u64(b, count);
    psd_put_u64(b, size);
    psd_put_u64(b, offset);
    psd_put_u32(b, 0x07064b50);
    psd_put_u32(b, 0);
    psd_put_u64(b, record_offset);
    psd_put_u32(b, 1);
}

/* A whole archive.  Where its directory is, so that tests can damage it. */
typedef struct {
    psd_buffer bytes;
    size_t directory, end;
} kit_archive;

static inline kit_archive
kit_build(psd_alloc alloc, kit_record *records, size_t count, bool zip64)
{
    kit_archive a;
    psd_buffer_init(&a.bytes, alloc);
    for (size_t i = 0; i < count; i++) {
        kit_local(&a.bytes, &records[i]);
    }
    a.directory = a.bytes.size;
    for (size_t i = 0; i < count; i++) {
        kit_central(&a.bytes, &records[i]);
    }
    size_t size = a.bytes.size - a.directory;
    if (zip64) {
        kit_end64(&a.bytes, count, size, a.directory, a.bytes.size);
    }
    a.end = a.bytes.size;
    kit_end(&a.bytes, count, size, a.directory, kit_text(""));
    return a;
}

/* Three records of a small checkpoint, sizes 20, 33 and 0. */
static inline void
kit_three(kit_record *records)
{
    memset(records, 0, 3 * sizeof *records);
    records[0].name = kit_text("a/data.pkl");
    records[0].data = kit_text("not really a pickle.");
    records[1].name = kit_text("a/data/0");
    records[1].data = kit_text("thirty-three bytes of raw storage");
    records[2].name = kit_text("a/version");
    records[2].data = kit_text("");
}

/* A directory that was read, with all it needs. */
typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_input input;
    psd_limits limits;
    psd_zip zip;
    psd_error err;
    psd_status status;
} kit_read;

static inline void
kit_open_input(kit_read *r, psd_input input, unsigned long fail_at)
{
    memset(r, 0, sizeof *r);
    r->heap.fail_at = fail_at;
    r->limits = psd_default_limits();
    r->input = input;
    psd_arena_init(&r->arena, check_alloc(&r->heap));
    r->status =
        psd_zip_read(&r->input, &r->limits, KIT_KEY, &r->arena, &r->zip, &r->err);
}

static inline void
kit_open(kit_read *r, psd_span bytes)
{
    kit_open_input(r, (psd_input){.data = bytes.data, .size = bytes.size}, 0);
}

static inline void
kit_close(kit_read *r)
{
    psd_arena_clear(&r->arena);
    CHECK(r->heap.live == 0);
}

/* What reading these bytes gives: the directory's status, then each record's. */
static inline psd_status
kit_status(psd_span bytes, psd_error *err)
{
    kit_read r;
    kit_open(&r, bytes);
    psd_status status = r.status;
    for (uint32_t i = 0; status == PSD_OK && i < r.zip.count; i++) {
        uint64_t offset;
        status = psd_zip_locate(&r.input, &r.zip.entries[i], &offset, &r.err);
    }
    if (status != PSD_OK) {
        CHECK(r.err.status == status && r.err.sentence != NULL);
    }
    if (err != NULL) {
        *err = r.err;
    }
    kit_close(&r);
    return status;
}

/* The status after `width` bytes at `at` have been changed to `value`. */
static inline psd_status
kit_patched(const kit_archive *a, size_t at, unsigned width, uint64_t value,
            psd_error *err)
{
    uint8_t *bytes = malloc(a->bytes.size);
    memcpy(bytes, a->bytes.data, a->bytes.size);
    for (unsigned i = 0; i < width; i++) {
        bytes[at + i] = (uint8_t)(value >> (8 * i));
    }
    psd_status status = kit_status((psd_span){bytes, a->bytes.size}, err);
    free(bytes);
    return status;
}

#endif
