/* SPDX-License-Identifier: Apache-2.0 */
#include "hash.h"

#define EACH_BYTE(b) ((uint64_t)(b) * 0x0101010101010101u)

typedef struct {
    uint64_t v0, v1, v2, v3;
} sip;

static inline uint64_t
rotate(uint64_t v, unsigned bits)
{
    return v << bits | v >> (64 - bits);
}

static inline void
mix(sip *s)
{
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

/*
 * Eight bytes folded at once.  In each byte, the top bit of a sum tells whether
 * the lower seven bits reach a bound; sums never carry into the next byte.
 */
static inline uint64_t
fold(uint64_t word)
{
    uint64_t low = word & EACH_BYTE(0x7f);
    uint64_t from_a = low + EACH_BYTE(0x80 - 'A');
    uint64_t after_z = low + EACH_BYTE(0x7f - 'Z');
    uint64_t upper = (from_a ^ after_z) & ~word & EACH_BYTE(0x80);
    uint64_t other = word ^ EACH_BYTE('\\');
    uint64_t differs = ((other & EACH_BYTE(0x7f)) + EACH_BYTE(0x7f)) | other;
    uint64_t backslash = ~differs & EACH_BYTE(0x80);
    return (word | upper >> 2) ^ (backslash >> 7) * ('\\' ^ '/');
}

static inline uint64_t
run(psd_hash_key key, psd_span text, bool folded)
{
    sip s = {key.a ^ 0x736f6d6570736575u, key.b ^ 0x646f72616e646f6du,
             key.a ^ 0x6c7967656e657261u, key.b ^ 0x7465646279746573u};
    size_t left = text.size;
    for (const uint8_t *p = text.data; left >= 8; p += 8, left -= 8) {
        uint64_t word = psd_load_le64(p);
        word = folded ? fold(word) : word;
        s.v3 ^= word;
        mix(&s);
        s.v0 ^= word;
    }
    uint64_t last = 0;
    if (left > 0 && text.size >= 8) {
        /* The last eight bytes, without those that were taken already. */
        last = psd_load_le64(text.data + text.size - 8) >> (8 * (8 - left));
        left = 0;
    }
    for (size_t i = 0; i < left; i++) {
        last |= (uint64_t)text.data[i] << (8 * i);
    }
    last = (folded ? fold(last) : last) | (uint64_t)text.size << 56;
    s.v3 ^= last;
    mix(&s);
    s.v0 ^= last;
    s.v2 ^= 0xff;
    mix(&s);
    mix(&s);
    mix(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

uint64_t
psd_hash(psd_hash_key key, psd_span text)
{
    return run(key, text, false);
}

uint64_t
psd_hash_folded(psd_hash_key key, psd_span text)
{
    return run(key, text, true);
}
