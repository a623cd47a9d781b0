/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel that this machine has, against a CRC computed bit by bit; and
 * the constants of crc32_powers.h, computed again.
 */
#include "check.h"
#include "crc32.h"
#include "crc32_powers.h"

/* The definition: one bit after the other. */
static uint32_t
slow_crc(uint32_t seed, const uint8_t *data, size_t size)
{
    uint32_t state = ~seed;
    for (size_t i = 0; i < size; i++) {
        state ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            uint32_t out = state & 1;
            state >>= 1;
            if (out != 0) {
                state ^= 0xedb88320u;
            }
        }
    }
    return ~state;
}

/* x^n mod P in the usual order of bits, then mirrored. */
static uint32_t
power(unsigned n)
{
    uint64_t v = 1;
    while (n-- > 0) {
        v <<= 1;
        if ((v >> 32) != 0) {
            v ^= 0x104c11db7u;
        }
    }
    uint32_t mirrored = 0;
    for (int bit = 0; bit < 32; bit++) {
        mirrored |= (uint32_t)(v >> bit & 1) << (31 - bit);
    }
    return mirrored;
}

static void
fill(uint8_t *data, size_t size, uint32_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (uint8_t)(seed >> 24);
    }
}

static void
test_constants(void)
{
    static const uint32_t rows[8][8] = {
        {PSD_CRC32_ROW_0}, {PSD_CRC32_ROW_1}, {PSD_CRC32_ROW_2}, {PSD_CRC32_ROW_3},
        {PSD_CRC32_ROW_4}, {PSD_CRC32_ROW_5}, {PSD_CRC32_ROW_6}, {PSD_CRC32_ROW_7},
    };
    for (unsigned k = 0; k < 8; k++) {
        for (unsigned i = 0; i < 8; i++) {
            CHECK_UINT(rows[k][i], power(8 * k + 39 - i));
        }
    }
    static const uint32_t block_rows[4][8] = {
        {PSD_CRC32_BLOCK_ROW_0},
        {PSD_CRC32_BLOCK_ROW_1},
        {PSD_CRC32_BLOCK_ROW_2},
        {PSD_CRC32_BLOCK_ROW_3},
    };
    for (unsigned k = 0; k < 4; k++) {
        for (unsigned i = 0; i < 8; i++) {
            CHECK_UINT(block_rows[k][i],
                       power(8 * (unsigned)PSD_CRC32_BLOCK + 31 - 8 * k - i));
        }
    }
    CHECK_UINT(PSD_CRC32_POLYNOMIAL, power(32));
    CHECK_UINT(PSD_CRC32_X_32768, power(32768));
    CHECK_UINT(PSD_CRC32_X_65536, power(65536));
    CHECK_UINT(PSD_CRC32_FOLD_128_FIRST, (uint64_t)power(128 + 32) << 1);
    CHECK_UINT(PSD_CRC32_FOLD_128_LAST, (uint64_t)power(128 - 32) << 1);
    CHECK_UINT(PSD_CRC32_FOLD_1024_FIRST, (uint64_t)power(1024 + 32) << 1);
    CHECK_UINT(PSD_CRC32_FOLD_1024_LAST, (uint64_t)power(1024 - 32) << 1);
    CHECK_UINT(PSD_CRC32_FOLD_2048_FIRST, (uint64_t)power(2048 + 32) << 1);
    CHECK_UINT(PSD_CRC32_FOLD_2048_LAST, (uint64_t)power(2048 - 32) << 1);
}

static void
test_known_values(void)
{
    const uint8_t *digits = (const uint8_t *)"123456789";
    for (unsigned k = 0; k < psd_crc32_kernel_count(); k++) {
        if (psd_crc32_kernel_usable(k)) {
            CHECK_UINT(psd_crc32_by(k, 0, digits, 9), 0xcbf43926u);
            CHECK_UINT(psd_crc32_by(k, 0, NULL, 0), 0);
            CHECK_UINT(psd_crc32_by(k, 0x12345678u, NULL, 0), 0x12345678u);
        }
    }
    CHECK_UINT(psd_crc32(0, digits, 9), 0xcbf43926u);
}

static void
test_names(void)
{
    unsigned count = psd_crc32_kernel_count();
    CHECK(count >= 1);
    CHECK(strcmp(psd_crc32_kernel_name(0), "slice8") == 0);
    CHECK(psd_crc32_kernel_usable(0));
    for (unsigned k = 0; k < count; k++) {
        CHECK(psd_crc32_kernel_name(k) != NULL);
        printf("  %s: %s\n", psd_crc32_kernel_name(k),
               psd_crc32_kernel_usable(k) ? "checked" : "not on this machine");
    }
    CHECK(psd_crc32_kernel_name(count) == NULL);
    CHECK(!psd_crc32_kernel_usable(count));
    CHECK(psd_crc32_kernel_usable(psd_crc32_best()));
    for (unsigned k = psd_crc32_best() + 1; k < count; k++) {
        CHECK(!psd_crc32_kernel_usable(k));
    }
}

/* Every size up to a few of the widest blocks, ending at a guard page. */
static void
test_sizes(void)
{
    enum { MOST = 1400 };
    uint8_t bytes[MOST];
    fill(bytes, sizeof bytes, 1);
    check_guarded g = check_guard(bytes, sizeof bytes);
    for (size_t size = 0; size <= MOST; size++) {
        const uint8_t *data = g.data + (MOST - size);
        uint32_t seed = (uint32_t)size * 2654435761u;
        uint32_t expected = slow_crc(seed, data, size);
        bool same = psd_crc32(seed, data, size) == expected;
        for (unsigned k = 0; k < psd_crc32_kernel_count(); k++) {
            same = same && (!psd_crc32_kernel_usable(k) ||
                            psd_crc32_by(k, seed, data, size) == expected);
        }
        CHECK(same);
    }
    check_unguard(&g);
}

/* Every alignment, and messages long enough for every kernel's widest loop. */
static void
test_alignments(void)
{
    enum { SIZE = 40000 };
    uint8_t *bytes = malloc(SIZE + 64);
    fill(bytes, SIZE + 64, 2);
    for (size_t shift = 0; shift < 64; shift++) {
        uint32_t expected = slow_crc(7, bytes + shift, SIZE);
        for (unsigned k = 0; k < psd_crc32_kernel_count(); k++) {
            if (psd_crc32_kernel_usable(k)) {
                CHECK_UINT(psd_crc32_by(k, 7, bytes + shift, SIZE), expected);
            }
        }
    }
    free(bytes);
}

static void
test_pieces(void)
{
    enum { SIZE = 6000 };
    uint8_t bytes[SIZE];
    fill(bytes, sizeof bytes, 3);
    uint32_t whole = slow_crc(0, bytes, SIZE);
    for (size_t cut = 0; cut <= SIZE; cut += 7) {
        uint32_t a = psd_crc32(0, bytes, cut);
        CHECK_UINT(psd_crc32(a, bytes + cut, SIZE - cut), whole);
    }
}

/* Each way in which a range can lie among blocks, with a guard page behind. */
static void
test_blocks(void)
{
    enum { BLOCK = (int)PSD_CRC32_BLOCK, SIZE = 4 * BLOCK + 77 };
    static const size_t edges[] = {0,         1,         BLOCK - 1,     BLOCK,
                                   BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 9, 3 * BLOCK,
                                   4 * BLOCK, SIZE - 1,  SIZE};
    enum { EDGES = sizeof edges / sizeof edges[0] };
    uint8_t *bytes = malloc(SIZE);
    fill(bytes, SIZE, 5);
    check_guarded g = check_guard(bytes, SIZE);
    uint32_t crcs[5] = {0, 0, 0, 0, 0xdeadbeefu};
    psd_crc32_each_block(g.data, SIZE, crcs);
    CHECK_UINT(crcs[4], 0xdeadbeefu); /* of whole blocks only */
    for (size_t from = 0; from < EDGES; from++) {
        for (size_t to = from; to < EDGES; to++) {
            size_t size = edges[to] - edges[from];
            CHECK_UINT(psd_crc32_of_range(g.data, crcs, edges[from], size),
                       psd_crc32(0, g.data + edges[from], size));
        }
    }
    /* What was computed is believed, and not computed again. */
    crcs[1] ^= 1;
    CHECK(psd_crc32_of_range(g.data, crcs, 5, 2 * BLOCK) !=
          psd_crc32(0, g.data + 5, 2 * BLOCK));
    check_unguard(&g);
    free(bytes);
}

int
main(void)
{
    RUN(test_constants);
    RUN(test_known_values);
    RUN(test_names);
    RUN(test_sizes);
    RUN(test_alignments);
    RUN(test_pieces);
    RUN(test_blocks);
    return check_report();
}
