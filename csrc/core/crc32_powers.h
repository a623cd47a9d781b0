/* SPDX-License-Identifier: Apache-2.0
 *
 * Powers of x modulo the CRC polynomial
 *
 *   P = x^32 + x^26 + x^23 + x^22 + x^16 + x^12 + x^11 + x^10 + x^8 + x^7 +
 *       x^5 + x^4 + x^2 + x + 1,
 *
 * from which every table and every folding constant comes.  They are written
 * as the CRC register holds them: bit 31 is the coefficient of x^0, so that
 * 0x80000000 is 1 and a multiplication by x shifts right.  tests/c/test_crc32.c
 * computes all of them again.
 */
#ifndef PSD_CRC32_POWERS_H
#define PSD_CRC32_POWERS_H

#define PSD_CRC32_POLYNOMIAL 0xedb88320u

/* clang-format off */

/* Row k: x^(8k+39), x^(8k+38), ..., x^(8k+32): what bits 0 to 7 of a byte become
 * when 8(k+1) bits follow them. */
#define PSD_CRC32_ROW_0 \
    0x77073096u, 0xee0e612cu, 0x076dc419u, 0x0edb8832u, \
    0x1db71064u, 0x3b6e20c8u, 0x76dc4190u, 0xedb88320u
#define PSD_CRC32_ROW_1 \
    0x191b3141u, 0x32366282u, 0x646cc504u, 0xc8d98a08u, \
    0x4ac21251u, 0x958424a2u, 0xf0794f05u, 0x3b83984bu
#define PSD_CRC32_ROW_2 \
    0x01c26a37u, 0x0384d46eu, 0x0709a8dcu, 0x0e1351b8u, \
    0x1c26a370u, 0x384d46e0u, 0x709a8dc0u, 0xe1351b80u
#define PSD_CRC32_ROW_3 \
    0xb8bc6765u, 0xaa09c88bu, 0x8f629757u, 0xc5b428efu, \
    0x5019579fu, 0xa032af3eu, 0x9b14583du, 0xed59b63bu
#define PSD_CRC32_ROW_4 \
    0x3d6029b0u, 0x7ac05360u, 0xf580a6c0u, 0x30704bc1u, \
    0x60e09782u, 0xc1c12f04u, 0x58f35849u, 0xb1e6b092u
#define PSD_CRC32_ROW_5 \
    0xcb5cd3a5u, 0x4dc8a10bu, 0x9b914216u, 0xec53826du, \
    0x03d6029bu, 0x07ac0536u, 0x0f580a6cu, 0x1eb014d8u
#define PSD_CRC32_ROW_6 \
    0xa6770bb4u, 0x979f1129u, 0xf44f2413u, 0x33ef4e67u, \
    0x67de9cceu, 0xcfbd399cu, 0x440b7579u, 0x8816eaf2u
#define PSD_CRC32_ROW_7 \
    0xccaa009eu, 0x4225077du, 0x844a0efau, 0xd3e51bb5u, \
    0x7cbb312bu, 0xf9766256u, 0x299dc2edu, 0x533b85dau

/* Powers by which separate stretches of a message are brought together. */
#define PSD_CRC32_X_32768 0x09fe548fu
#define PSD_CRC32_X_65536 0x83852d0fu

/*
 * For folding by carry-less multiplication over n bits: x^(n+32) for the first
 * eight bytes of a lane, x^(n-32) for the last eight.  Shifted left by one: the
 * product of two mirrored 64-bit numbers is mirrored in 127 bits, not 128.
 */
#define PSD_CRC32_FOLD_128_FIRST  0x1751997d0u
#define PSD_CRC32_FOLD_128_LAST   0x0ccaa009eu
#define PSD_CRC32_FOLD_1024_FIRST 0x1e88ef372u
#define PSD_CRC32_FOLD_1024_LAST  0x14a7fe880u
#define PSD_CRC32_FOLD_2048_FIRST 0x11542778au
#define PSD_CRC32_FOLD_2048_LAST  0x1322d1430u

/* clang-format on */

#endif
