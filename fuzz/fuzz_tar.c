/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the tar of torch 0.1, with checksums that fit.  A map and a remote object
 * are judged alike; the members lie in the file, apart from each other; storages
 * lie in theirs, and windows in storages.
 */
#include "opcodes.h"

static void
check_members(const psd_tar *tar, size_t size)
{
    for (unsigned i = 0; i < PSD_TAR_MEMBER_COUNT; i++) {
        PROMISE(psd_tar_name((psd_tar_member)i).size > 0);
        bool there = tar->offset[i] != 0;
        PROMISE(there ? tar->offset[i] >= PSD_TAR_BLOCK : i == PSD_TAR_SYS_INFO);
        PROMISE(psd_fits(tar->offset[i], tar->size[i], size));
        for (unsigned k = 0; k < i; k++) {
            PROMISE(!there || tar->offset[i] >= tar->offset[k] + tar->size[k] ||
                    tar->offset[k] >= tar->offset[i] + tar->size[i]);
        }
    }
}

static void
check_storages(const psd_archive *archive)
{
    const psd_model *model = &archive->model;
    uint64_t begin = archive->tar.offset[PSD_TAR_STORAGES];
    uint64_t end = begin + archive->tar.size[PSD_TAR_STORAGES], before = begin;
    for (uint32_t i = 0; i < model->storage_count; i++) {
        const psd_storage *s = &model->storages[i];
        if (s->parent != PSD_NO_STORAGE) {
            const psd_storage *whole = &model->storages[s->parent];
            PROMISE(whole->parent == PSD_NO_STORAGE && s->place == PSD_PLACE_NONE);
            PROMISE(psd_fits(s->parent_offset, s->size, whole->size));
            continue;
        }
        PROMISE(s->place == PSD_PLACE_FILE && s->at.offset >= before);
        before = s->at.offset + s->size;
        PROMISE(before <= end);
    }
}

static psd_status
judge(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    psd_options options = fuzz_options(&heap);
    fuzz_file file = {data, size};
    psd_input map = {.data = data, .size = size};
    psd_input remote = {.size = size, .read = fuzz_read_range, .ctx = &file};
    psd_span head = {data, size < PSD_TAR_BLOCK ? size : PSD_TAR_BLOCK};
    bool begins = false, apart = false, opened = false;
    psd_error err = {0}, remote_err = {0};
    PROMISE(psd_tar_begins(&map, head, &begins, &err) == PSD_OK);
    PROMISE(psd_tar_begins(&remote, head, &apart, &err) == PSD_OK && apart == begins);

    psd_tar tar = {0}, other = {0};
    psd_status status = psd_tar_read(&map, &options.limits, &tar, &err);
    PROMISE(psd_tar_read(&remote, &options.limits, &other, &remote_err) == status);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
        PROMISE(err.offset == remote_err.offset);
        return status;
    }
    PROMISE(memcmp(&tar, &other, sizeof tar) == 0);
    check_members(&tar, size);

    psd_archive archive;
    status = fuzz_open(&archive, &options, &map, &opened, &err);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    else if (archive.kind == PSD_ARCHIVE_TAR) {
        check_storages(&archive);
        fuzz_expect_model(&archive.pool, &archive.model);
    }
    psd_archive_clear(&archive);
    fuzz_expect_frugal(&heap, size);
    return status;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (judge(data, size) == PSD_TAR) {
        uint8_t *copy = malloc(size);
        if (copy != NULL) {
            memcpy(copy, data, size);
            fuzz_mend_tar(copy, size);
            (void)judge(copy, size);
            free(copy);
        }
    }
    return 0;
}

/* ------------------------------------------------------------------- mutating */

static size_t
padded(size_t size)
{
    return (size + PSD_TAR_BLOCK - 1) / PSD_TAR_BLOCK * PSD_TAR_BLOCK;
}

/* The size that a header states, in octal digits. */
static size_t
stated(const uint8_t *header)
{
    size_t size = 0;
    for (unsigned i = 124; i < 136 && header[i] >= '0' && header[i] <= '7'; i++) {
        size = size * 8 + (size_t)(header[i] - '0');
    }
    return size;
}

/* The header of one of the members whose contents are there; `size` if there is none. */
static size_t
find_member(const uint8_t *data, size_t size, fuzz_dice *dice)
{
    size_t found = size, seen = 0;
    for (size_t at = 0; at + PSD_TAR_BLOCK <= size; at += PSD_TAR_BLOCK) {
        if (memcmp(data + at + 257, "ustar", 5) == 0 && stated(data + at) > 0 &&
            padded(stated(data + at)) <= size - at - PSD_TAR_BLOCK &&
            fuzz_below(dice, ++seen) == 0) {
            found = at;
        }
    }
    return found;
}

/* Change one member's content, and let its header say how long it is now. */
static size_t
change_member(uint8_t *data, size_t size, size_t room, size_t at, unsigned seed)
{
    static uint8_t content[1 << 16];
    size_t begin = at + PSD_TAR_BLOCK, old = stated(data + at);
    size_t rest = size - begin - padded(old);
    size_t most = room - begin - rest;
    most = most < sizeof content ? most : sizeof content;
    most -= most % PSD_TAR_BLOCK;
    if (old > most) {
        return size;
    }
    memcpy(content, data + begin, old);
    size_t now = fuzz_mutate_program(content, old, most, seed);
    size_t end = begin + padded(now);
    memmove(data + end, data + begin + padded(old), rest);
    memset(data + begin, 0, padded(now));
    memcpy(data + begin, content, now);
    for (unsigned i = 135; i-- > 124; now >>= 3) {
        data[at + i] = (uint8_t)('0' + (now & 7));
    }
    return end + rest;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    fuzz_dice dice = {seed * 2654435761u | 1};
    (void)fuzz_below(&dice, 2);
    size_t at = find_member(data, size, &dice);
    size = at < size && fuzz_below(&dice, 4) != 0
               ? change_member(data, size, room, at, seed ^ 0x5bd1e995u)
               : LLVMFuzzerMutate(data, size, room);
    if (fuzz_below(&dice, 8) != 0) {
        fuzz_mend_tar(data, size);
    }
    return size;
}
