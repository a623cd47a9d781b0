/* SPDX-License-Identifier: Apache-2.0
 *
 * The tar container of torch 0.1: four files, found by name and read in place.
 * Source: POSIX.1-2017, pax, "ustar Interchange Format".
 */
#ifndef PSD_TAR_H
#define PSD_TAR_H

#include "bounds.h"
#include "error.h"
#include "input.h"

#define PSD_TAR_BLOCK 512u

typedef enum {
    PSD_TAR_SYS_INFO,
    PSD_TAR_PICKLE,
    PSD_TAR_TENSORS,
    PSD_TAR_STORAGES,
    PSD_TAR_MEMBER_COUNT
} psd_tar_member;

typedef struct {
    uint64_t offset[PSD_TAR_MEMBER_COUNT]; /* of the content; 0: there is none */
    uint64_t size[PSD_TAR_MEMBER_COUNT];
} psd_tar;

/*
 * Is this a tar whose first member torch may have written?  `head` are the file's first
 * bytes; more are read only where a header in between tells of the member.
 */
PSD_CHECKED psd_status psd_tar_begins(const psd_input *input, psd_span head,
                                      bool *begins, psd_error *err);

/*
 * Find the four members.  Others are passed by, unless their names lead out of
 * the folder in which somebody might unpack them.
 *
 *   PSD_TAR          a header that contradicts itself, a member that comes twice
 *   PSD_TAR_TYPE     a member that is a link or a device
 *   PSD_PATH         a name that leads out of the folder
 *   PSD_TAR_MEMBERS  an archive that has not all four
 *   PSD_TRUNCATED    the file ends before they came
 *   PSD_LIMIT        more members than limits->entries
 */
PSD_CHECKED psd_status psd_tar_read(const psd_input *input, const psd_limits *limits,
                                    psd_tar *tar, psd_error *err);

/* The member's name, a constant. */
psd_span psd_tar_name(psd_tar_member member);

#endif
