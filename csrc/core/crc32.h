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

#endif
