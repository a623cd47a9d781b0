/* SPDX-License-Identifier: Apache-2.0
 *
 * The zip container, both ways.  Source: PKWARE's APPNOTE.TXT 6.3, sections
 * 4.3 and 4.4; what PyTorch writes and accepts of it is told in docs/format.md.
 */
#ifndef PSD_ZIP_H
#define PSD_ZIP_H

#include "buffer.h"
#include "hash.h"
#include "input.h"
#include "bounds.h"

enum { PSD_ZIP_STORED = 0, PSD_ZIP_DEFLATED = 8 };

/* Every payload starts at a multiple of this, as torch.save aligns them. */
#define PSD_ZIP_ALIGNMENT 64u

/* One record, as the central directory tells it.  Names bytes by offset. */
typedef struct {
    psd_span name;          /* borrowed from the directory's own copy */
    uint64_t header_offset; /* of the local header, absolute */
    uint64_t stored_size;   /* bytes in the file */
    uint64_t size;          /* after inflating; equals stored_size when stored */
    uint64_t limit; /* absolute: where the next record or the directory starts */
    uint32_t crc32; /* 0 on a non-empty record: not computed */
    uint16_t method;
    uint16_t flags;
} psd_zip_entry;

typedef struct {
    psd_zip_entry *entries; /* in the order of the directory */
    uint32_t count;
    bool exact; /* names that differ by case alone are two */
    /* The index.  Of the names that are the stem and a number: by that number, the
     * entry's number + 1, or 0.  Of the others: by the hash of the folded name. */
    psd_span stem;
    uint32_t *by_number; /* count */
    psd_slot *slots;
    uint32_t slot_mask;
    psd_hash_key key;
    uint64_t directory_offset; /* absolute */
    uint64_t directory_size;
    uint64_t end_offset; /* of the end record */
} psd_zip;

/*
 * Read the directory.  Only the end records and the directory itself are
 * looked at, and both are copied first, so that a file which changes under us
 * is judged by the bytes that were read.
 *
 * Refused: two entries whose names differ at most in ASCII case or by `\` for
 * `/`, stored records that overlap or reach into the directory, stored sizes
 * that differ, sizes that no deflate stream can have, encryption, several
 * disks.  Other methods than stored and deflated are refused by psd_zip_locate.
 * An archive comment, bytes after the end record (at most 64 KiB) and bytes
 * before the first record are accepted; when offsets do not count the latter,
 * they are shifted, if the directory's first record is then where it must be.
 *
 *   PSD_NOT_ZIP    neither a local header at the start nor an end record
 *   PSD_TRUNCATED  it starts as a zip archive and has no end record
 *   PSD_ZIP, PSD_OVERLAP, PSD_DUPLICATE, PSD_ENCRYPTED, PSD_MULTI_DISK,
 *   PSD_LIMIT, PSD_NO_MEMORY, PSD_INPUT
 */
PSD_CHECKED psd_status psd_zip_read(const psd_input *input, const psd_limits *limits,
                                    psd_hash_key key, psd_arena *arena, psd_zip *zip,
                                    psd_error *err);

/* The same of an archive whose names count as they are written: by case, and by `\`. */
PSD_CHECKED psd_status psd_zip_read_exact(const psd_input *input,
                                          const psd_limits *limits, psd_hash_key key,
                                          psd_arena *arena, psd_zip *zip,
                                          psd_error *err);

/*
 * The records that are whole, by their own headers: for archives whose directory was
 * lost.  Of one that states no sizes the end is where its data descriptor stands.
 *
 *   PSD_NOT_ZIP  there is none
 *   and those of psd_zip_read that concern names
 */
PSD_CHECKED psd_status psd_zip_salvage(const psd_input *input, const psd_limits *limits,
                                       psd_hash_key key, psd_arena *arena, psd_zip *zip,
                                       psd_error *err);

/* The entry of this name, ASCII case aside as torch looks it up; NULL if none. */
const psd_zip_entry *psd_zip_find(const psd_zip *zip, psd_span name);

/*
 * Where an entry's payload lies.  Reads the local header, takes from it only
 * the lengths of name and extra field, and requires that its signature, name,
 * method, and (where it states them) sizes and checksum agree with the
 * directory, and that the payload ends before `entry->limit`.
 *
 * Changes nothing, so many threads may locate at once.
 */
PSD_CHECKED psd_status psd_zip_locate(const psd_input *input,
                                      const psd_zip_entry *entry, uint64_t *offset,
                                      psd_error *err);

/* ------------------------------------------------------------------ writing */

/* A planned record. */
typedef struct {
    psd_span name;
    uint64_t size;
    uint64_t header_offset;
    uint64_t data_offset; /* multiple of PSD_ZIP_ALIGNMENT */
    uint32_t crc32;       /* set while pouring */
    uint16_t padding;     /* bytes in the FB extra field */
    bool wide;            /* has a zip64 extra field in its local header */
} psd_zip_plan_entry;

/*
 * A layout decided before the first byte leaves: offsets, paddings, total size.
 * Records are poured in the order in which they were added.
 */
typedef struct {
    psd_alloc alloc;
    psd_zip_plan_entry *entries;
    uint32_t count, capacity;
    uint32_t next;       /* the record to be poured now */
    uint64_t cursor;     /* planned so far */
    uint64_t total_size; /* set by psd_zip_plan_close */
    bool checksum;       /* false: CRC fields stay 0, as torch's option does */
} psd_zip_plan;

void psd_zip_plan_init(psd_zip_plan *plan, psd_alloc alloc, bool checksum);
void psd_zip_plan_clear(psd_zip_plan *plan);

/* Plan one record.  `name` is borrowed until the plan is cleared. */
PSD_CHECKED psd_status psd_zip_plan_add(psd_zip_plan *plan, psd_span name,
                                        uint64_t size, psd_error *err);

/* Nothing more will be added: total_size is now true. */
PSD_CHECKED psd_status psd_zip_plan_close(psd_zip_plan *plan, psd_error *err);

/*
 * Pour the next record: header, padding, payload of exactly the planned size,
 * data descriptor.  The CRC is computed piece by piece on the way, while the
 * bytes are in the cache.
 */
PSD_CHECKED psd_status psd_zip_pour(psd_zip_plan *plan, psd_payload payload,
                                    psd_sink sink, psd_error *err);

/* After the last record: directory, zip64 end record where needed, end record. */
PSD_CHECKED psd_status psd_zip_pour_end(psd_zip_plan *plan, psd_sink sink,
                                        psd_error *err);

#endif
