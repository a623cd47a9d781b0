/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

static const struct {
    const char *code;
    psd_family family;
} status_table[PSD_STATUS_COUNT] = {
#define PSD_STATUS_ROW(name, code, family) {code, PSD_FAMILY_##family},
    PSD_STATUSES(PSD_STATUS_ROW)
#undef PSD_STATUS_ROW
};

psd_status
psd_fail(psd_error *err, psd_status status, uint64_t offset, const char *sentence)
{
    memset(err, 0, sizeof *err);
    err->status = status;
    err->offset = offset;
    err->sentence = sentence;
    return status;
}

/* As much of `text` as fits; a long name keeps its end, which tells records apart. */
static uint8_t
copy_text(uint8_t *to, size_t room, psd_span text)
{
    size_t size = text.size < room ? text.size : room;
    if (size > 0) {
        memcpy(to, text.data + (text.size - size), size);
    }
    return (uint8_t)size;
}

psd_status
psd_fail_entry(psd_error *err, psd_span entry)
{
    err->entry_size = copy_text(err->entry, sizeof err->entry, entry);
    return err->status;
}

psd_status
psd_fail_subject(psd_error *err, psd_span subject)
{
    err->subject_size = copy_text(err->subject, sizeof err->subject, subject);
    return err->status;
}

psd_status
psd_fail_numbers(psd_error *err, uint64_t found, uint64_t expected)
{
    err->found = found;
    err->expected = expected;
    err->has_numbers = true;
    return err->status;
}

psd_status
psd_fail_memory(psd_error *err)
{
    return psd_fail(err, PSD_NO_MEMORY, PSD_NOWHERE, "out of memory");
}

const char *
psd_status_code(psd_status status)
{
    return (unsigned)status < PSD_STATUS_COUNT ? status_table[status].code : "unknown";
}

psd_family
psd_status_family(psd_status status)
{
    return (unsigned)status < PSD_STATUS_COUNT ? status_table[status].family
                                               : PSD_FAMILY_NONE;
}
