/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32 as zip uses it (reflected polynomial 0xEDB88320).  The fastest kernel
 * that the processor has is found at run time; all of them can be asked for by
 * number, so that tests walk every one on every machine.
 */
#ifndef PSD_CRC32_H
#define PSD_CRC32_H

#include "base.h"

/* The CRC of `data` appended to bytes whose CRC is `seed`; start with 0. */
uint32_t psd_crc32(uint32_t seed, const uint8_t *data, size_t size);

/* Kernels are numbered from 0, the portable one, which is always there. */
unsigned psd_crc32_kernel_count(void);

/* A short name such as "slice8", "pclmul", "vpclmul", "armv8"; NULL past the end. */
const char *psd_crc32_kernel_name(unsigned kernel);

/* Can this processor run it? */
bool psd_crc32_kernel_usable(unsigned kernel);

/* As psd_crc32, by one kernel, which must be usable. */
uint32_t psd_crc32_by(unsigned kernel, uint32_t seed, const uint8_t *data, size_t size);

/* The number of the kernel that psd_crc32 uses. */
unsigned psd_crc32_best(void);

/* ------------------------------------------------------------------ in blocks */

/* Bytes of a block: so few that of a record between two of its edges little is left over. */
#define PSD_CRC32_BLOCK ((size_t)8 << 10)

/* The CRC of each whole block of `data`, from its first byte on. */
void psd_crc32_each_block(const uint8_t *data, size_t size, uint32_t *crcs);

/*
 * The CRC of `size` bytes from `offset` on, where `crcs` has those of the whole blocks of
 * `data`: only what stands between them is looked at.  What was checked while it was in the
 * cache need not come from memory again.
 */
uint32_t psd_crc32_of_range(const uint8_t *data, const uint32_t *crcs, size_t offset,
                            size_t size);

#endif
