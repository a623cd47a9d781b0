/* SPDX-License-Identifier: Apache-2.0
 *
 * How much of a stranger's file we are ready to believe.  Each bound is
 * generous for real checkpoints; a host may change any of them.
 */
#ifndef PSD_BOUNDS_H
#define PSD_BOUNDS_H

#include "base.h"

typedef struct {
    uint64_t entries;       /* records in an archive */
    uint64_t pickle_size;   /* bytes of one pickle; never above UINT32_MAX */
    uint64_t values;        /* values of one pickle; never above UINT32_MAX - 1 */
    uint64_t integer_size;  /* bytes of one integer, digits of one written in text */
    uint64_t inflated_size; /* bytes of one deflated record once inflated */
    uint64_t inflation; /* times a file's size that its inflated storages may have */
    uint32_t rank;      /* dimensions of a tensor; never above 64 */
} psd_limits;

/* So many bytes of inflated storages ask for no leave, however small the file. */
#define PSD_INFLATED_FREE ((uint64_t)64 << 20)

/* Deflate cannot shrink by more than 1032 to 1 (zlib's technical notes). */
#define PSD_INFLATE_RATIO 1100u

static inline psd_limits
psd_default_limits(void)
{
    return (psd_limits){
        .entries = 10u * 1000 * 1000,
        .pickle_size = (uint64_t)1 << 30,
        .values = (uint64_t)200 * 1000 * 1000,
        .integer_size = 4096,
        .inflated_size = (uint64_t)64 << 30,
        .inflation = 256,
        .rank = 64,
    };
}

#endif
