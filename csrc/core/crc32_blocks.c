/* SPDX-License-Identifier: Apache-2.0
 *
 * The CRC of a message from those of its parts.  The remainder of a message with n bits
 * behind it is its own times x^n, to which that of the n bits is added; the inversions
 * around zip's CRC cancel each other.
 */
#include "crc32.h"
#include "crc32_powers.h"

/* behind[k][b]: what byte k of a register becomes when it is b and a block follows. */
static const uint32_t behind[4][256] = {
    PSD_CRC32_TABLE(PSD_CRC32_BLOCK_ROW_0),
    PSD_CRC32_TABLE(PSD_CRC32_BLOCK_ROW_1),
    PSD_CRC32_TABLE(PSD_CRC32_BLOCK_ROW_2),
    PSD_CRC32_TABLE(PSD_CRC32_BLOCK_ROW_3),
};

static uint32_t
shift_by_block(uint32_t crc)
{
    return behind[0][crc & 0xff] ^ behind[1][crc >> 8 & 0xff] ^
           behind[2][crc >> 16 & 0xff] ^ behind[3][crc >> 24];
}

void
psd_crc32_each_block(const uint8_t *data, size_t size, uint32_t *crcs)
{
    for (; size >= PSD_CRC32_BLOCK; data += PSD_CRC32_BLOCK, size -= PSD_CRC32_BLOCK) {
        *crcs++ = psd_crc32(0, data, PSD_CRC32_BLOCK);
    }
}

uint32_t
psd_crc32_of_range(const uint8_t *data, const uint32_t *crcs, size_t offset,
                   size_t size)
{
    size_t past = offset % PSD_CRC32_BLOCK;
    size_t before = past == 0 ? 0 : PSD_CRC32_BLOCK - past;
    if (size < before) {
        return psd_crc32(0, data + offset, size);
    }
    uint32_t crc = psd_crc32(0, data + offset, before);
    for (offset += before, size -= before; size >= PSD_CRC32_BLOCK;
         offset += PSD_CRC32_BLOCK, size -= PSD_CRC32_BLOCK) {
        crc = shift_by_block(crc) ^ crcs[offset / PSD_CRC32_BLOCK];
    }
    return psd_crc32(crc, data + offset, size);
}
