/* SPDX-License-Identifier: Apache-2.0
 *
 * What every kind of file goes through: each byte changed, each end cut off, each
 * request for memory and each reading refused once, a source that lies.  Nothing may
 * crash, leak or read beyond the bytes, and what opens must keep its promises.
 */
#ifndef PSD_ARCHIVE_SWEEP_H
#define PSD_ARCHIVE_SWEEP_H

#include "archive_model.h"

static inline psd_input
over_map(psd_span file)
{
    return (psd_input){.data = file.data, .size = file.size};
}

/* Open and run; the status is told in words, and what opened keeps its promises. */
static inline psd_status
sweep_one(psd_input input, psd_open_mode mode, unsigned long fail_at, psd_error *err)
{
    psd_limits limits = psd_default_limits();
    opening o;
    open_as(&o, input, mode, &limits, fail_at);
    run_archive(&o);
    if (o.status == PSD_OK) {
        check_promises(&o);
    }
    else {
        CHECK(o.err.status == o.status && o.err.sentence != NULL);
    }
    /* What went well did so since no request failed. */
    CHECK(fail_at == 0 || o.status != PSD_OK || o.heap.requests < fail_at);
    *err = o.err;
    close_archive(&o);
    return o.status;
}

/* A map and a source that is read by ranges are judged alike. */
static inline psd_status
sweep_both(psd_span file, psd_open_mode mode)
{
    psd_error err, far_err;
    remote r = {.file = file};
    psd_status status = sweep_one(over_map(file), mode, 0, &err);
    psd_status far = sweep_one(over_remote(&r), mode, 0, &far_err);
    CHECK_UINT(status, far);
    CHECK(status == PSD_OK || err.offset == far_err.offset);
    return status;
}

/* Gives how many of the changes went unnoticed. */
static inline unsigned
sweep_mutations(psd_span file, psd_open_mode mode, unsigned step)
{
    check_guarded g = check_guard(file.data, file.size);
    unsigned passed = 0;
    for (size_t i = 0; i < file.size; i++) {
        for (unsigned change = 1; change < 256; change += step) {
            g.data[i] = (uint8_t)(file.data[i] ^ change);
            passed += sweep_both((psd_span){g.data, g.size}, mode) == PSD_OK;
        }
        g.data[i] = file.data[i];
    }
    CHECK(sweep_both((psd_span){g.data, g.size}, mode) == PSD_OK);
    check_unguard(&g);
    return passed;
}

/* `whole`: from so many bytes on the file is one. */
static inline void
sweep_truncations(psd_span file, psd_open_mode mode, size_t whole)
{
    for (size_t size = 0; size <= file.size; size++) {
        check_guarded g = check_guard(file.data, size);
        psd_status status = sweep_both((psd_span){g.data, g.size}, mode);
        CHECK((status == PSD_OK) == (size >= whole));
        check_unguard(&g);
    }
}

static inline void
sweep_requests(psd_span file, psd_open_mode mode)
{
    for (unsigned far = 0; far < 2; far++) {
        psd_status status = PSD_NO_MEMORY;
        unsigned long n = 0;
        while (status == PSD_NO_MEMORY && n < 10000) {
            psd_error err;
            remote r = {.file = file};
            psd_input input = far != 0 ? over_remote(&r) : over_map(file);
            status = sweep_one(input, mode, ++n, &err);
        }
        CHECK(status == PSD_OK);
        CHECK(n > 3);
    }
}

static inline void
sweep_reads(psd_span file, psd_open_mode mode)
{
    psd_status status = PSD_INPUT;
    unsigned n = 0;
    while (status == PSD_INPUT && n < 10000) {
        psd_error err;
        remote r = {.file = file, .fail_at = ++n};
        status = sweep_one(over_remote(&r), mode, 0, &err);
    }
    CHECK(status == PSD_OK);
    CHECK(n > 1);
}

static inline void
sweep_lies(psd_span file, psd_open_mode mode)
{
    for (uint32_t seed = 0; seed < 500; seed++) {
        liar l = {file, seed, seed % 20};
        psd_error err;
        (void)sweep_one((psd_input){.size = file.size, .read = read_lies, .ctx = &l},
                        mode, 0, &err);
    }
}

#endif
