/* SPDX-License-Identifier: Apache-2.0
 *
 * Storages whose bytes are fetched while they are written: each byte once, in order, and the
 * file is the same as of bytes at hand.
 */
#include "archive_model.h"

static check_heap heap;

#define LARGE \
    ((size_t)1300000) /* several pieces of either container, and a part of one */

typedef struct {
    psd_span bytes[STORAGES];
    uint64_t fetched[STORAGES];
    unsigned calls, fail_at;
    bool in_order, nothing;
    uint8_t *piece; /* fresh for each call, so that an old one is not read again */
    uint32_t last;
} larder;

static bool
fetch(void *ctx, uint32_t number, uint64_t offset, size_t size, const uint8_t **bytes)
{
    larder *l = ctx;
    free(l->piece);
    l->piece = NULL;
    if (++l->calls == l->fail_at) {
        return false;
    }
    if (l->nothing) {
        return true; /* a host that says it did, and tells of no bytes */
    }
    l->in_order = l->in_order && number >= l->last && offset == l->fetched[number] &&
                  psd_fits(offset, size, l->bytes[number].size) && size > 0;
    l->last = number;
    l->fetched[number] += size;
    l->piece = malloc(size);
    memcpy(l->piece, l->bytes[number].data + offset, size);
    *bytes = l->piece;
    return true;
}

/* A document whose first storage is large; `absent` are fetched, by their bits. */
static void
write_document(collector *c, psd_write_options options, const uint8_t *large,
               unsigned absent, larder *l, psd_status *status, psd_error *err)
{
    document d;
    document_begin(&d, 0);
    if (options.dialect == PSD_DIALECT_STREAM) {
        d.storages[2].dtype = d.tensors[3].dtype = PSD_DTYPE_INT16;
    }
    d.storages[0].size = LARGE;
    d.bytes[0] = (psd_span){large, LARGE};
    memcpy(l->bytes, d.bytes, sizeof l->bytes);
    for (unsigned i = 0; i < STORAGES; i++) {
        if ((absent >> i & 1) != 0) {
            d.bytes[i].data = NULL;
        }
    }
    l->in_order = true;
    options.supply = (psd_supply){absent == 0 ? NULL : fetch, l};
    psd_buffer_init(&c->bytes, check_alloc(&heap));
    document_write(&d, options, c);
    *status = d.status;
    *err = d.err;
    free(l->piece);
    l->piece = NULL;
    document_end(&d);
}

static uint8_t *
large_bytes(void)
{
    uint8_t *large = malloc(LARGE);
    for (size_t i = 0; i < LARGE; i++) {
        large[i] = (uint8_t)(i * 7 + i / 251);
    }
    return large;
}

static const psd_write_options ways[] = {
    {.checksum = true},
    {.checksum = false},
    {.dialect = PSD_DIALECT_STREAM},
    {.dialect = PSD_DIALECT_STREAM, .big_endian = true},
};
enum { WAYS = sizeof ways / sizeof ways[0] };

static void
test_same_bytes(void)
{
    uint8_t *large = large_bytes();
    for (unsigned way = 0; way < WAYS; way++) {
        collector at_hand = {.writes = 0};
        larder none = {.calls = 0};
        psd_status status;
        psd_error err;
        write_document(&at_hand, ways[way], large, 0, &none, &status, &err);
        CHECK(status == PSD_OK);
        CHECK_UINT(none.calls, 0);
        for (unsigned absent = 1; absent < 1u << STORAGES; absent++) {
            collector c = {.writes = 0};
            larder l = {.calls = 0};
            write_document(&c, ways[way], large, absent, &l, &status, &err);
            CHECK(status == PSD_OK);
            CHECK(l.in_order);
            for (unsigned i = 0; i < STORAGES; i++) {
                CHECK_UINT(l.fetched[i], (absent >> i & 1) != 0 ? l.bytes[i].size : 0);
            }
            CHECK(psd_span_equal(psd_buffer_span(&c.bytes),
                                 psd_buffer_span(&at_hand.bytes)));
            psd_buffer_clear(&c.bytes);
        }
        psd_buffer_clear(&at_hand.bytes);
    }
    free(large);
}

static void
test_every_failing_fetch(void)
{
    uint8_t *large = large_bytes();
    for (unsigned way = 0; way < WAYS; way++) {
        unsigned n = 0;
        psd_status status;
        do {
            collector c = {.writes = 0};
            larder l = {.fail_at = ++n};
            psd_error err;
            write_document(&c, ways[way], large, 0xf, &l, &status, &err);
            CHECK(status == PSD_OK || status == PSD_INPUT);
            CHECK(status == PSD_OK || err.status == PSD_INPUT);
            CHECK(status == PSD_OK || l.calls == n); /* nobody asks again */
            psd_buffer_clear(&c.bytes);
        } while (status != PSD_OK && n < 100);
        CHECK(n > 4 && n < 100);
    }
    free(large);
}

static void
test_no_bytes_and_no_supply(void)
{
    uint8_t *large = large_bytes();
    for (unsigned way = 0; way < WAYS; way++) {
        collector c = {.writes = 0};
        larder l = {.nothing = true};
        psd_status status;
        psd_error err;
        write_document(&c, ways[way], large, 1, &l, &status, &err);
        CHECK_UINT(status, PSD_INPUT);
        CHECK_UINT(l.calls, 1);
        psd_buffer_clear(&c.bytes);
    }
    /* No supply at all. */
    document d;
    collector c = {.writes = 0};
    psd_buffer_init(&c.bytes, check_alloc(&heap));
    document_begin(&d, 0);
    d.bytes[1].data = NULL;
    document_write(&d, ways[0], &c);
    CHECK_UINT(d.status, PSD_INPUT);
    document_end(&d);
    psd_buffer_clear(&c.bytes);
    free(large);
}

int
main(void)
{
    RUN(test_same_bytes);
    RUN(test_every_failing_fetch);
    RUN(test_no_bytes_and_no_supply);
    return check_report();
}
