/* SPDX-License-Identifier: Apache-2.0 */
#include "input.h"

static psd_status
check_range(const psd_input *input, uint64_t offset, uint64_t size, psd_error *err)
{
    if (!psd_fits(offset, size, input->size)) {
        psd_fail(err, PSD_TRUNCATED, offset, "the file ends before these bytes");
        return psd_fail_numbers(err, offset < input->size ? input->size - offset : 0,
                                size);
    }
    if (size > SIZE_MAX) {
        return psd_fail(err, PSD_LIMIT, offset,
                        "a record is larger than this machine can address");
    }
    return PSD_OK;
}

/* What Linux maps around a page that is asked for. */
#define CLOSE ((uint64_t)64 << 10)

psd_input
psd_input_for_pieces(const psd_input *input, uint64_t pieces)
{
    psd_input found = *input;
    if (input->data != NULL && input->size / CLOSE < pieces) {
        found.read = NULL;
    }
    return found;
}

psd_status
psd_input_copy(const psd_input *input, uint64_t offset, size_t size, uint8_t *into,
               psd_error *err)
{
    psd_status status = check_range(input, offset, size, err);
    if (status != PSD_OK) {
        return status;
    }
    if (size == 0) {
        return PSD_OK;
    }
    if (input->read == NULL) {
        memcpy(into, input->data + offset, size);
    }
    else if (!input->read(input->ctx, offset, size, into)) {
        return psd_fail(err, PSD_INPUT, offset, "the source could not be read");
    }
    return PSD_OK;
}

psd_status
psd_input_view(const psd_input *input, uint64_t offset, uint64_t size, psd_arena *arena,
               psd_span *span, psd_error *err)
{
    psd_status status = check_range(input, offset, size, err);
    if (status != PSD_OK) {
        return status;
    }
    if (input->data != NULL) {
        *span = (psd_span){input->data + offset, (size_t)size};
        return PSD_OK;
    }
    uint8_t *bytes = psd_arena_take(arena, (size_t)size);
    if (bytes == NULL) {
        return psd_fail(err, PSD_NO_MEMORY, offset, "out of memory");
    }
    *span = (psd_span){bytes, (size_t)size};
    return psd_input_copy(input, offset, (size_t)size, bytes, err);
}
