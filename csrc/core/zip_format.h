/* SPDX-License-Identifier: Apache-2.0
 *
 * The fixed parts of a zip archive, shared by the rooms that read and write it.
 * Source: PKWARE's APPNOTE.TXT 6.3; the section is named at each.
 */
#ifndef PSD_ZIP_FORMAT_H
#define PSD_ZIP_FORMAT_H

#include "zip.h"

#define PSD_ZIP_LOCAL_SIGNATURE 0x04034b50u      /* 4.3.7 */
#define PSD_ZIP_DESCRIPTOR_SIGNATURE 0x08074b50u /* 4.3.9 */
#define PSD_ZIP_CENTRAL_SIGNATURE 0x02014b50u    /* 4.3.12 */
#define PSD_ZIP_END64_SIGNATURE 0x06064b50u      /* 4.3.14 */
#define PSD_ZIP_LOCATOR_SIGNATURE 0x07064b50u    /* 4.3.15 */
#define PSD_ZIP_END_SIGNATURE 0x06054b50u        /* 4.3.16 */

/* Sizes without names, extra fields and comments. */
enum {
    PSD_ZIP_LOCAL_SIZE = 30,
    PSD_ZIP_CENTRAL_SIZE = 46,
    PSD_ZIP_END64_SIZE = 56,
    PSD_ZIP_LOCATOR_SIZE = 20,
    PSD_ZIP_END_SIZE = 22,
};

/* General purpose flags, 4.4.4. */
enum {
    PSD_ZIP_FLAG_ENCRYPTED = 1 << 0,
    PSD_ZIP_FLAG_DESCRIPTOR = 1 << 3, /* sizes and CRC follow the payload */
    PSD_ZIP_FLAG_PATCH = 1 << 5,
    PSD_ZIP_FLAG_STRONG = 1 << 6,
    PSD_ZIP_FLAG_UTF8 = 1 << 11,
    PSD_ZIP_FLAG_MASKED = 1 << 13, /* the directory itself is encrypted */
    PSD_ZIP_FLAGS_SECRET = PSD_ZIP_FLAG_ENCRYPTED | PSD_ZIP_FLAG_STRONG |
        PSD_ZIP_FLAG_MASKED,
};

/* Extra fields: a head of id and size, then the body, 4.5. */
enum { PSD_ZIP_EXTRA_HEAD = 4, PSD_ZIP_EXTRA_ZIP64 = 0x0001 };

/* A field that is all ones has its value in the zip64 extra field or record. */
#define PSD_ZIP_ONES16 0xffffu
#define PSD_ZIP_ONES32 0xffffffffu

/* What the end records say, checked against each other and the file's size. */
typedef struct {
    uint64_t count;
    uint64_t directory_offset; /* absolute */
    uint64_t directory_size;
    uint64_t end_offset; /* of the end record, absolute */
    uint64_t shift;      /* bytes before the archive that its offsets do not count */
} psd_zip_end;

/*
 * Find the end record and what belongs to it.  Memory is borrowed from `alloc`
 * and given back before returning.  Errors as psd_zip_read's.
 */
PSD_CHECKED psd_status psd_zip_find_end(const psd_input *input, psd_alloc alloc,
                                        psd_zip_end *end, psd_error *err);

/* Set every entry's limit; PSD_OVERLAP when an entry does not end before it. */
PSD_CHECKED psd_status psd_zip_set_limits(psd_zip *zip, psd_alloc alloc,
                                          psd_error *err);

/* Build the index that psd_zip_find asks; PSD_DUPLICATE. */
PSD_CHECKED psd_status psd_zip_index_names(psd_zip *zip, psd_arena *arena,
                                           psd_error *err);

#endif
