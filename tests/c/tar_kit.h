/* SPDX-License-Identifier: Apache-2.0
 *
 * Tar archives by hand: every field of a header can be given, also a wrong one.
 */
#ifndef PSD_TAR_KIT_H
#define PSD_TAR_KIT_H

#include "archive_sweep.h"

/* One member; zeros mean what an ordinary one has. */
typedef struct {
    const char *name;
    psd_span data;
    char type;        /* '0' */
    const char *size; /* the field's text */
    const char *prefix;
    bool bad_sum;
} tar_member;

static inline void
tar_header(psd_buffer *b, const tar_member *m)
{
    uint8_t header[PSD_TAR_BLOCK] = {0};
    size_t name_size = strlen(m->name), prefix_size = 0;
    memcpy(header, m->name, name_size < 100 ? name_size : 100);
    if (m->prefix != NULL) {
        prefix_size = strlen(m->prefix);
        memcpy(header + 345, m->prefix, prefix_size);
    }
    memcpy(header + 100,
           "0000644\0"
           "0000000\0"
           "0000000",
           23);
    if (m->size != NULL) {
        memcpy(header + 124, m->size, 12);
    }
    else {
        (void)snprintf((char *)header + 124, 12, "%011o", (unsigned)m->data.size);
    }
    memcpy(header + 136, "00000000000", 11);
    header[156] = (uint8_t)(m->type == 0 ? '0' : m->type);
    memcpy(header + 257,
           "ustar\0"
           "00",
           8);
    memset(header + 148, ' ', 8);
    unsigned sum = m->bad_sum;
    for (size_t i = 0; i < sizeof header; i++) {
        sum += header[i];
    }
    (void)snprintf((char *)header + 148, 8, "%06o", sum);
    psd_put(b, header, sizeof header);
}

static inline void
tar_put(psd_buffer *b, const tar_member *m)
{
    tar_header(b, m);
    psd_put_span(b, m->data);
    psd_put_fill(b, 0, (PSD_TAR_BLOCK - m->data.size % PSD_TAR_BLOCK) % PSD_TAR_BLOCK);
}

/* All of them, and the zeros that end an archive. */
static inline psd_buffer
tar_build(check_heap *heap, const tar_member *members, size_t count, bool ended)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(heap));
    for (size_t i = 0; i < count; i++) {
        tar_put(&b, &members[i]);
    }
    psd_put_fill(&b, 0, ended ? 2 * PSD_TAR_BLOCK : 0);
    return b;
}

#endif
