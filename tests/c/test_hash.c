/* SPDX-License-Identifier: Apache-2.0
 *
 * SipHash-1-3 against a second implementation, which is first held against the
 * vector that the paper prints for SipHash-2-4, and against values that another
 * implementation gave.
 */
#include <ctype.h>

#include "check.h"
#include "hash.h"

/* Written from the paper's description: words on a padded copy of the text. */
static uint64_t
model(psd_hash_key key, const uint8_t *text, size_t size, int rounds, int last_rounds)
{
    static const char start[] = "uespemosmodnarodarenegylsetybdet"; /* four words */
    uint8_t padded[1024] = {0};
    size_t words = size / 8 + 1;
    if (size > 0) {
        memcpy(padded, text, size);
    }
    padded[words * 8 - 1] = (uint8_t)size;
    uint64_t v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = psd_load_le64((const uint8_t *)start + 8 * i) ^ (i % 2 ? key.b : key.a);
    }
    for (size_t w = 0; w <= words; w++) {
        uint64_t m = w < words ? psd_load_le64(padded + 8 * w) : 0;
        if (w < words) {
            v[3] ^= m;
        }
        else {
            v[2] ^= 0xff;
        }
        int n = w < words ? rounds : last_rounds;
        while (n-- > 0) {
            static const int steps[6][3] = {/* which, with which, rotated by */
                                            {0, 1, 13}, {2, 3, 16}, {0, 3, 21},
                                            {2, 1, 17}, {0, 0, 32}, {2, 2, 32}};
            /* Order of the paper's figure: two halves, each followed by a half turn. */
            for (int half = 0; half < 2; half++) {
                for (int s = 2 * half; s < 2 * half + 2; s++) {
                    uint64_t *a = &v[steps[s][0]], *b = &v[steps[s][1]];
                    *a += *b;
                    *b = (*b << steps[s][2] | *b >> (64 - steps[s][2])) ^ *a;
                }
                uint64_t *turned = &v[half == 0 ? 0 : 2];
                *turned = *turned << 32 | *turned >> 32;
            }
        }
        v[0] ^= m;
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static psd_span
text_span(const char *text)
{
    return (psd_span){(const uint8_t *)text, strlen(text)};
}

static void
test_model(void)
{
    uint8_t bytes[16];
    for (int i = 0; i < 16; i++) {
        bytes[i] = (uint8_t)i;
    }
    psd_hash_key key = {psd_load_le64(bytes), psd_load_le64(bytes + 8)};
    CHECK_UINT(model(key, bytes, 15, 2, 4), 0xa129ca6149be45e5u); /* appendix A */
}

/* From CPython 3.11: hash(bytes), PYTHONHASHSEED 0 and 12345, whose key is the
 * first 16 bytes of CPython's generator for that seed. */
static void
test_vectors(void)
{
    uint8_t bytes[64];
    for (int i = 0; i < 64; i++) {
        bytes[i] = (uint8_t)i;
    }
    psd_span all = {bytes, sizeof bytes};
    psd_hash_key zero = {0, 0};
    psd_hash_key key = {0x25556dc46dc3dca0u, 0xfc3ee4dbd06f6c90u};
    CHECK_UINT(psd_hash(zero, text_span("a")), 0x407448d2b89b1813u);
    CHECK_UINT(psd_hash(zero, text_span("archive")), 0xa95942469f0fbfa1u);
    CHECK_UINT(psd_hash(zero, text_span("archive/")), 0xa750ceee34d0e85du);
    CHECK_UINT(psd_hash(zero, text_span("archive/data.pkl")), 0x31696fbd239e5ff7u);
    CHECK_UINT(psd_hash(zero, all), 0x75e05fd5bbc870c6u);
    CHECK_UINT(psd_hash(key, text_span("a")), 0x83a33d688c5cf68fu);
    CHECK_UINT(psd_hash(key, text_span("archive")), 0xaf08fc32756fdf7cu);
    CHECK_UINT(psd_hash(key, text_span("archive/")), 0x7952d6d435779709u);
    CHECK_UINT(psd_hash(key, text_span("archive/data.pkl")), 0xaf75de10a05065cfu);
    CHECK_UINT(psd_hash(key, all), 0x02bf7cdeb211db1cu);
}

static void
test_sizes(void)
{
    uint8_t bytes[600];
    psd_hash_key key = {0x0123456789abcdefu, 0xfedcba9876543210u};
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 37 + 11);
    }
    check_guarded g = check_guard(bytes, sizeof bytes);
    for (size_t size = 0; size <= sizeof bytes; size++) {
        psd_span text = {g.data + (sizeof bytes - size), size};
        CHECK_UINT(psd_hash(key, text), model(key, text.data, size, 1, 3));
    }
    CHECK_UINT(psd_hash(key, (psd_span){NULL, 0}), model(key, NULL, 0, 1, 3));
    check_unguard(&g);
}

static uint8_t
fold_byte(uint8_t byte)
{
    return (uint8_t)(byte == '\\' ? '/' : byte < 0x80 ? tolower(byte) : byte);
}

/* Every byte value at every place of a word, beside every kind of neighbour. */
static void
test_folded(void)
{
    static const uint8_t neighbours[] = {0x00, '@', 'A',  'Z', '[',
                                         '\\', '/', 0x7f, 0xff};
    psd_hash_key key = {1, 2};
    bool same = true;
    for (size_t n = 0; n < sizeof neighbours; n++) {
        for (size_t place = 0; place < 11; place++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                uint8_t text[11], folded[11];
                memset(text, neighbours[n], sizeof text);
                text[place] = (uint8_t)byte;
                for (size_t i = 0; i < sizeof text; i++) {
                    folded[i] = fold_byte(text[i]);
                }
                same = same && psd_hash_folded(key, (psd_span){text, 11}) ==
                                   psd_hash(key, (psd_span){folded, 11});
            }
        }
    }
    CHECK(same);
    CHECK_UINT(psd_hash_folded(key, text_span("A\\Data.PKL")),
               psd_hash(key, text_span("a/data.pkl")));
}

static void
test_key_matters(void)
{
    psd_span text = text_span("archive/data/0");
    psd_hash_key keys[] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < i; j++) {
            CHECK(psd_hash(keys[i], text) != psd_hash(keys[j], text));
        }
    }
    CHECK(psd_hash(keys[0], text_span("")) !=
          psd_hash(keys[0], (psd_span){(const uint8_t *)"", 1}));
}

int
main(void)
{
    RUN(test_model);
    RUN(test_vectors);
    RUN(test_sizes);
    RUN(test_folded);
    RUN(test_key_matters);
    return check_report();
}
