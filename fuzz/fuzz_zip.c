/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a zip archive: the directory is read and every payload located.
 */
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    psd_arena arena;
    psd_arena_init(&arena, fuzz_alloc(&heap));
    psd_limits limits = fuzz_limits();
    psd_input input = {.data = data, .size = size};
    psd_zip zip = {0};
    psd_error err = {0};

    psd_status status = psd_zip_read(&input, &limits, FUZZ_KEY, &arena, &zip, &err);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    for (uint32_t i = 0; status == PSD_OK && i < zip.count; i++) {
        const psd_zip_entry *entry = &zip.entries[i];
        PROMISE(psd_zip_find(&zip, entry->name) == entry);
        uint64_t offset = 0;
        psd_status located = psd_zip_locate(&input, entry, &offset, &err);
        if (located != PSD_OK) {
            fuzz_expect_told(located, &err);
            continue;
        }
        PROMISE(psd_fits(offset, entry->stored_size, size));
        PROMISE(offset + entry->stored_size <= entry->limit);
        PROMISE(entry->method != PSD_ZIP_STORED || entry->size == entry->stored_size);
    }
    psd_arena_clear(&arena);
    PROMISE(heap.live == 0);
    return 0;
}
