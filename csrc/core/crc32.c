/* SPDX-License-Identifier: Apache-2.0
 *
 * A CRC is the remainder of a long polynomial.  Three ways to get it: eight
 * bytes at a time through tables (any machine), 128-bit lanes that are folded
 * onto later ones by carry-less multiplication (x86-64; the idea is Gopal et
 * al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", 2009),
 * or the instructions for it that ARMv8 has.
 *
 * Kernels work on the bare register; psd_crc32_by does the two inversions that
 * zip's CRC has around it.
 */
#include "crc32.h"
#include "crc32_powers.h"

/* clang-format off */
/* gcc 10 is the first that knows all the intrinsics below. */
#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))
#define WITH_PCLMUL 1
#include <immintrin.h>
#else
#define WITH_PCLMUL 0
#endif

#if defined(__GNUC__) && defined(__aarch64__) && defined(__AARCH64EL__) && \
    (defined(__linux__) || defined(__APPLE__))
#define WITH_ARMV8 1
#else
#define WITH_ARMV8 0
#endif

#if WITH_ARMV8 && defined(__linux__)
#include <sys/auxv.h>
#endif
/* clang-format on */

enum {
    SLICE8,
#if WITH_PCLMUL
    PCLMUL,
    VPCLMUL,
#elif WITH_ARMV8
    ARMV8,
#endif
    KERNEL_COUNT
};

/* Below this no kernel is faster than the tables. */
#define SMALL ((size_t)64)

/* ------------------------------------------------------------------ portable */

/* tables[k][b]: what byte b leaves behind when it and k more bytes are shifted out. */
static const uint32_t tables[8][256] = {
    PSD_CRC32_TABLE(PSD_CRC32_ROW_0), PSD_CRC32_TABLE(PSD_CRC32_ROW_1),
    PSD_CRC32_TABLE(PSD_CRC32_ROW_2), PSD_CRC32_TABLE(PSD_CRC32_ROW_3),
    PSD_CRC32_TABLE(PSD_CRC32_ROW_4), PSD_CRC32_TABLE(PSD_CRC32_ROW_5),
    PSD_CRC32_TABLE(PSD_CRC32_ROW_6), PSD_CRC32_TABLE(PSD_CRC32_ROW_7),
};

static uint32_t
run_slice8(uint32_t state, const uint8_t *p, size_t size)
{
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t a = psd_load_le32(p) ^ state;
        uint32_t b = psd_load_le32(p + 4);
        state = tables[7][a & 0xff] ^ tables[6][a >> 8 & 0xff] ^
                tables[5][a >> 16 & 0xff] ^ tables[4][a >> 24] ^ tables[3][b & 0xff] ^
                tables[2][b >> 8 & 0xff] ^ tables[1][b >> 16 & 0xff] ^
                tables[0][b >> 24];
    }
    for (; size > 0; p++, size--) {
        state = state >> 8 ^ tables[0][(state ^ *p) & 0xff];
    }
    return state;
}

/* ------------------------------------------------------------------ x86-64 */

#if WITH_PCLMUL

#define TARGET_PCLMUL __attribute__((target("pclmul")))
#define TARGET_VPCLMUL __attribute__((target("avx512f,vpclmulqdq")))

/* Loads take void pointers, so no cast raises the alignment. */
TARGET_PCLMUL static inline __m128i
load128(const void *p)
{
    return _mm_loadu_si128(p);
}

/* The lane moved over the bits that `k` stands for, added to what lies there. */
TARGET_PCLMUL static inline __m128i
fold128(__m128i lane, __m128i k, __m128i there)
{
    __m128i first = _mm_clmulepi64_si128(lane, k, 0x00);
    __m128i last = _mm_clmulepi64_si128(lane, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(first, last), there);
}

/*
 * Eight lanes at once, as a multiplication takes several cycles and one can be
 * begun in each.  Written out, as -O2 keeps an array of lanes in memory.
 */
TARGET_PCLMUL static uint32_t
run_pclmul(uint32_t state, const uint8_t *p, size_t size)
{
    enum { BLOCK = 8 * 16 };
    const __m128i by_one = _mm_set_epi64x((int64_t)PSD_CRC32_FOLD_128_LAST,
                                          (int64_t)PSD_CRC32_FOLD_128_FIRST);
    if (size < SMALL) {
        return run_slice8(state, p, size);
    }
    __m128i sum = _mm_xor_si128(load128(p), _mm_cvtsi32_si128((int)state));
    if (size < BLOCK) {
        p += 16;
        size -= 16;
    }
    else {
        const __m128i k = _mm_set_epi64x((int64_t)PSD_CRC32_FOLD_1024_LAST,
                                         (int64_t)PSD_CRC32_FOLD_1024_FIRST);
        __m128i a = sum, b = load128(p + 16), c = load128(p + 32), d = load128(p + 48);
        __m128i e = load128(p + 64), f = load128(p + 80), g = load128(p + 96);
        __m128i h = load128(p + 112);
        for (p += BLOCK, size -= BLOCK; size >= BLOCK; p += BLOCK, size -= BLOCK) {
            a = fold128(a, k, load128(p));
            b = fold128(b, k, load128(p + 16));
            c = fold128(c, k, load128(p + 32));
            d = fold128(d, k, load128(p + 48));
            e = fold128(e, k, load128(p + 64));
            f = fold128(f, k, load128(p + 80));
            g = fold128(g, k, load128(p + 96));
            h = fold128(h, k, load128(p + 112));
        }
        const __m128i lanes[] = {b, c, d, e, f, g, h};
        sum = a;
        for (int i = 0; i < 7; i++) {
            sum = fold128(sum, by_one, lanes[i]);
        }
    }
    for (; size >= 16; p += 16, size -= 16) {
        sum = fold128(sum, by_one, load128(p));
    }
    /* The last lane is a message with the same remainder. */
    uint8_t rest[16];
    _mm_storeu_si128((void *)rest, sum);
    return run_slice8(run_slice8(0, rest, sizeof rest), p, size);
}

TARGET_VPCLMUL static inline __m512i
fold512(__m512i lane, __m512i k, __m512i there)
{
    __m512i first = _mm512_clmulepi64_epi128(lane, k, 0x00);
    __m512i last = _mm512_clmulepi64_epi128(lane, k, 0x11);
    return _mm512_ternarylogic_epi64(first, last, there, 0x96); /* all three added */
}

TARGET_VPCLMUL static uint32_t
run_vpclmul(uint32_t state, const uint8_t *p, size_t size)
{
    enum { BLOCK = 4 * 64 };
    if (size < 2 * BLOCK) {
        return run_pclmul(state, p, size);
    }
    const __m512i k = _mm512_broadcast_i32x4(_mm_set_epi64x(
        (int64_t)PSD_CRC32_FOLD_2048_LAST, (int64_t)PSD_CRC32_FOLD_2048_FIRST));
    __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64);
    __m512i c = _mm512_loadu_si512(p + 128), d = _mm512_loadu_si512(p + 192);
    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state)));
    for (p += BLOCK, size -= BLOCK; size >= BLOCK; p += BLOCK, size -= BLOCK) {
        a = fold512(a, k, _mm512_loadu_si512(p));
        b = fold512(b, k, _mm512_loadu_si512(p + 64));
        c = fold512(c, k, _mm512_loadu_si512(p + 128));
        d = fold512(d, k, _mm512_loadu_si512(p + 192));
    }
    /* The lanes are a message with the same remainder. */
    uint8_t rest[BLOCK];
    _mm512_storeu_si512(rest, a);
    _mm512_storeu_si512(rest + 64, b);
    _mm512_storeu_si512(rest + 128, c);
    _mm512_storeu_si512(rest + 192, d);
    /* gcc 12 forgets this at -O3; all later SSE code would then run at half speed. */
    _mm256_zeroupper();
    return run_pclmul(run_pclmul(0, rest, sizeof rest), p, size);
}

#endif

/* ------------------------------------------------------------------ ARMv8 */

#if WITH_ARMV8

#if defined(__clang__)
#define TARGET_CRC __attribute__((target("crc")))
#define STEP8(state, v) __builtin_arm_crc32d((state), (v))
#define STEP1(state, v) __builtin_arm_crc32b((state), (v))
#else
#define TARGET_CRC __attribute__((target("+crc")))
#define STEP8(state, v) __builtin_aarch64_crc32x((state), (v))
#define STEP1(state, v) __builtin_aarch64_crc32b((state), (v))
#endif

/* a * b modulo P. */
static uint32_t
multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (; a != 0; a <<= 1) {
        /* Masks, not branches: nobody can foretell the bits of a checksum. */
        product ^= b & (0u - (a >> 31));
        b = b >> 1 ^ (PSD_CRC32_POLYNOMIAL & (0u - (b & 1)));
    }
    return product;
}

/*
 * Three stretches side by side, as each step waits for the one before it; they
 * are brought together by moving the first over two stretches, the second over one.
 */
TARGET_CRC static uint32_t
run_armv8(uint32_t state, const uint8_t *p, size_t size)
{
    enum { STRETCH = 4096 };
    for (; size >= 3 * STRETCH; p += 3 * STRETCH, size -= 3 * STRETCH) {
        uint32_t second = 0, third = 0;
        for (size_t i = 0; i < STRETCH; i += 8) {
            state = STEP8(state, psd_load_le64(p + i));
            second = STEP8(second, psd_load_le64(p + STRETCH + i));
            third = STEP8(third, psd_load_le64(p + 2 * STRETCH + i));
        }
        state = multiply(state, PSD_CRC32_X_65536) ^
                multiply(second, PSD_CRC32_X_32768) ^ third;
    }
    for (; size >= 8; p += 8, size -= 8) {
        state = STEP8(state, psd_load_le64(p));
    }
    for (; size > 0; p++, size--) {
        state = STEP1(state, *p);
    }
    return state;
}

static bool
has_armv8_crc(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & (1ul << 7)) != 0; /* HWCAP_CRC32 */
#else
    return true;
#endif
}

#endif

/* ------------------------------------------------------------------ choice */

unsigned
psd_crc32_kernel_count(void)
{
    return KERNEL_COUNT;
}

const char *
psd_crc32_kernel_name(unsigned kernel)
{
    switch (kernel) {
    case SLICE8: return "slice8";
#if WITH_PCLMUL
    case PCLMUL: return "pclmul";
    case VPCLMUL: return "vpclmul";
#elif WITH_ARMV8
    case ARMV8: return "armv8";
#endif
    default: return NULL;
    }
}

/*
 * Asked anew at each large call, and cached nowhere here: CPUID is slow, in a
 * virtual machine very slow, but __builtin_cpu_supports only tests a word that
 * the compiler's run-time library filled when the program was loaded.  That
 * library has also asked XGETBV whether the system saves the wide registers.
 */
bool
psd_crc32_kernel_usable(unsigned kernel)
{
    switch (kernel) {
    case SLICE8: return true;
#if WITH_PCLMUL
    case PCLMUL: return __builtin_cpu_supports("pclmul") != 0;
    case VPCLMUL:
        return __builtin_cpu_supports("pclmul") != 0 &&
               __builtin_cpu_supports("avx512f") != 0 &&
               __builtin_cpu_supports("vpclmulqdq") != 0;
#elif WITH_ARMV8
    case ARMV8: return has_armv8_crc();
#endif
    default: return false;
    }
}

unsigned
psd_crc32_best(void)
{
    unsigned best = SLICE8;
    for (unsigned kernel = SLICE8; kernel < KERNEL_COUNT; kernel++) {
        best = psd_crc32_kernel_usable(kernel) ? kernel : best;
    }
    return best;
}

uint32_t
psd_crc32_by(unsigned kernel, uint32_t seed, const uint8_t *data, size_t size)
{
    switch (kernel) {
#if WITH_PCLMUL
    case PCLMUL: return ~run_pclmul(~seed, data, size);
    case VPCLMUL: return ~run_vpclmul(~seed, data, size);
#elif WITH_ARMV8
    case ARMV8: return ~run_armv8(~seed, data, size);
#endif
    default: return ~run_slice8(~seed, data, size);
    }
}

uint32_t
psd_crc32(uint32_t seed, const uint8_t *data, size_t size)
{
    return psd_crc32_by(size < SMALL ? SLICE8 : psd_crc32_best(), seed, data, size);
}
