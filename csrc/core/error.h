/* SPDX-License-Identifier: Apache-2.0
 *
 * What went wrong, where, and about whom.  Facts only: sentences for people
 * are made by the host.
 */
#ifndef PSD_ERROR_H
#define PSD_ERROR_H

#include "base.h"

/* The families, by which a host chooses its exception. */
typedef enum {
    PSD_FAMILY_NONE,
    PSD_FAMILY_MEMORY,
    PSD_FAMILY_HOST,     /* a callback failed; the host knows why */
    PSD_FAMILY_ARGUMENT, /* the caller broke a promise */
    PSD_FAMILY_FOREIGN,  /* not a checkpoint at all */
    PSD_FAMILY_CORRUPT,
    PSD_FAMILY_TRUNCATED,
    PSD_FAMILY_CHECKSUM,
    PSD_FAMILY_UNSAFE,
    PSD_FAMILY_UNSUPPORTED,
    PSD_FAMILY_LIMIT,
} psd_family;

/* name, stable code that users may rely on, family */
#define PSD_STATUSES(X)                           \
    X(OK, "ok", NONE)                             \
    X(NO_MEMORY, "no-memory", MEMORY)             \
    X(INPUT, "input", HOST)                       \
    X(SINK, "sink", HOST)                         \
    X(ARGUMENT, "argument", ARGUMENT)             \
    X(NOT_ZIP, "not-zip", FOREIGN)                \
    X(NO_PICKLE, "no-data-pkl", FOREIGN)          \
    X(TRUNCATED, "truncated", TRUNCATED)          \
    X(INTERRUPTED, "interrupted-save", TRUNCATED) \
    X(ZIP, "zip-structure", CORRUPT)              \
    X(OVERLAP, "zip-overlap", CORRUPT)            \
    X(DUPLICATE, "zip-duplicate", CORRUPT)        \
    X(INFLATE, "zip-inflate", CORRUPT)            \
    X(CRC, "checksum", CHECKSUM)                  \
    X(PICKLE, "pickle", CORRUPT)                  \
    X(PICKLE_END, "pickle-truncated", CORRUPT)    \
    X(STORAGE, "storage", CORRUPT)                \
    X(TENSOR, "tensor", CORRUPT)                  \
    X(BYTEORDER, "byteorder", CORRUPT)            \
    X(STREAM, "legacy-stream", CORRUPT)           \
    X(TAR, "tar-structure", CORRUPT)              \
    X(SAFETENSORS, "safetensors", CORRUPT)        \
    X(TAR_MEMBERS, "tar-members", UNSUPPORTED)    \
    X(TAR_TYPE, "tar-member-type", UNSAFE)        \
    X(PATH, "path-escape", UNSAFE)                \
    X(CALL, "pickle-call", UNSAFE)                \
    X(EXTENSION, "pickle-extension", UNSAFE)      \
    X(METHOD, "zip-method", UNSUPPORTED)          \
    X(ENCRYPTED, "zip-encrypted", UNSUPPORTED)    \
    X(MULTI_DISK, "zip-multi-disk", UNSUPPORTED)  \
    X(OPCODE, "pickle-opcode", CORRUPT)           \
    X(KIND, "archive-kind", UNSUPPORTED)          \
    X(ELEMENT, "dtype", UNSUPPORTED)              \
    X(LEGACY, "legacy-dtype", UNSUPPORTED)        \
    X(LIMIT, "limit", LIMIT)

typedef enum {
#define PSD_STATUS_ENUM(name, code, family) PSD_##name,
    PSD_STATUSES(PSD_STATUS_ENUM)
#undef PSD_STATUS_ENUM
        PSD_STATUS_COUNT
} psd_status;

#define PSD_NOWHERE UINT64_MAX

/*
 * The record of one failure.  Texts are cut copies, so a record outlives the
 * archive it speaks of.  `entry` and `subject` are bytes of the file: not
 * validated, not terminated.
 */
typedef struct {
    psd_status status;
    const char *sentence; /* constant; lower case, no full stop */
    uint64_t offset;      /* in the file, or PSD_NOWHERE */
    uint64_t found;       /* evidence, when has_numbers */
    uint64_t expected;
    bool has_numbers;
    uint8_t entry_size;
    uint8_t subject_size;
    uint8_t entry[120];   /* the record of the archive at fault */
    uint8_t subject[160]; /* the global, storage key, ... at fault */
} psd_error;

/* Fill `err` and return `status`, so that `return psd_fail(...)` reads well. */
psd_status psd_fail(psd_error *err, psd_status status, uint64_t offset,
                    const char *sentence);

/* Add to a record that psd_fail has filled; each returns err->status. */
psd_status psd_fail_entry(psd_error *err, psd_span entry);
psd_status psd_fail_subject(psd_error *err, psd_span subject);
psd_status psd_fail_numbers(psd_error *err, uint64_t found, uint64_t expected);

/* PSD_NO_MEMORY, which is about no place; returned too. */
psd_status psd_fail_memory(psd_error *err);

const char *psd_status_code(psd_status status);
psd_family psd_status_family(psd_status status);

#endif
