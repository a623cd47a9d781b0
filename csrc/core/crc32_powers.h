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

/* Row k: x^(65567-8k), x^(65566-8k), ..., x^(65560-8k): what bits 8k to 8k+7 of a register
 * become when a block of 65536 bits follows. */
#define PSD_CRC32_BLOCK_ROW_0 \
    0xb566f6e2u, 0xb1bceb85u, 0xb808d14bu, 0xab60a4d7u, \
    0x8db04fefu, 0xc011999fu, 0x5b52357fu, 0xb6a46afeu
#define PSD_CRC32_BLOCK_ROW_1 \
    0xb639d3bdu, 0xb702a13bu, 0xb5744437u, 0xb1998e2fu, \
    0xb8421a1fu, 0xabf5327fu, 0x8c9b62bfu, 0xc247c33fu
#define PSD_CRC32_BLOCK_ROW_2 \
    0x5ffe803fu, 0xbffd007eu, 0xa48b06bdu, 0x92670b3bu, \
    0xffbf1037u, 0x240f262fu, 0x481e4c5eu, 0x903c98bcu
#define PSD_CRC32_BLOCK_ROW_3 \
    0xfb083739u, 0x2d616833u, 0x5ac2d066u, 0xb585a0ccu, \
    0xb07a47d9u, 0xbb8589f3u, 0xac7a15a7u, 0x83852d0fu

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

/*
 * A remainder is linear in its bits, so a table's entry is the sum of the powers
 * of x that the bits of its index stand for.  The compiler does the sums.
 */
#define PSD_CRC32_ONE(n, p0, p1, p2, p3, p4, p5, p6, p7)                              \
    (((n) & 0x01 ? (p0) : 0u) ^ ((n) & 0x02 ? (p1) : 0u) ^ ((n) & 0x04 ? (p2) : 0u) ^ \
     ((n) & 0x08 ? (p3) : 0u) ^ ((n) & 0x10 ? (p4) : 0u) ^ ((n) & 0x20 ? (p5) : 0u) ^ \
     ((n) & 0x40 ? (p6) : 0u) ^ ((n) & 0x80 ? (p7) : 0u))
#define PSD_CRC32_FOUR(n, ...)                                            \
    PSD_CRC32_ONE((n), __VA_ARGS__), PSD_CRC32_ONE((n) + 1, __VA_ARGS__), \
        PSD_CRC32_ONE((n) + 2, __VA_ARGS__), PSD_CRC32_ONE((n) + 3, __VA_ARGS__)
#define PSD_CRC32_SIXTEEN(n, ...)                                           \
    PSD_CRC32_FOUR((n), __VA_ARGS__), PSD_CRC32_FOUR((n) + 4, __VA_ARGS__), \
        PSD_CRC32_FOUR((n) + 8, __VA_ARGS__), PSD_CRC32_FOUR((n) + 12, __VA_ARGS__)
#define PSD_CRC32_SIXTY_FOUR(n, ...)                                               \
    PSD_CRC32_SIXTEEN((n), __VA_ARGS__), PSD_CRC32_SIXTEEN((n) + 16, __VA_ARGS__), \
        PSD_CRC32_SIXTEEN((n) + 32, __VA_ARGS__),                                  \
        PSD_CRC32_SIXTEEN((n) + 48, __VA_ARGS__)
#define PSD_CRC32_TABLE(...)                                                      \
    {PSD_CRC32_SIXTY_FOUR(0, __VA_ARGS__), PSD_CRC32_SIXTY_FOUR(64, __VA_ARGS__), \
     PSD_CRC32_SIXTY_FOUR(128, __VA_ARGS__), PSD_CRC32_SIXTY_FOUR(192, __VA_ARGS__)}

#endif
