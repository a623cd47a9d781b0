/* SPDX-License-Identifier: Apache-2.0
 *
 * One opening of a checkpoint, and with "save" one writing of it into nothing, for
 * callgrind to count: see instructions.py.
 *
 *     count_core FILE [save]
 */
#define _DEFAULT_SOURCE

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive.h"
#include "host.h"

static bool
swallow(void *ctx, const uint8_t *data, size_t size)
{
    (void)data;
    *(uint64_t *)ctx += size;
    return true;
}

static psd_status
write_again(psd_archive *archive, const psd_input *input, psd_error *err)
{
    uint32_t count = archive->model.storage_count;
    psd_span *bytes = calloc(count == 0 ? 1 : count, sizeof *bytes);
    psd_status status = bytes == NULL ? psd_fail_memory(err) : PSD_OK;
    for (uint32_t i = 0; i < count && status == PSD_OK; i++) {
        psd_location where;
        status = psd_archive_locate(archive, input, i, &where, err);
        bytes[i] = (psd_span){input->data + where.offset,
                              (size_t)archive->model.storages[i].size};
    }
    uint64_t total = 0;
    psd_write_options options = {
        .alloc = {host_resize, NULL}, .dialect = PSD_DIALECT_ZIP, .checksum = true};
    if (status == PSD_OK) {
        status =
            psd_archive_write(&archive->pool, archive->pickle.root, &archive->model,
                              bytes, &options, (psd_sink){swallow, &total}, err);
    }
    free(bytes);
    return status;
}

int
main(int argc, char **argv)
{
    int file = argc > 1 ? open(argv[1], O_RDONLY) : -1;
    struct stat st;
    if (file < 0 || fstat(file, &st) != 0) {
        perror(argc > 1 ? argv[1] : "count_core FILE [save]");
        return 2;
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (map == MAP_FAILED) {
        perror(argv[1]);
        return 2;
    }
    psd_options options = {
        .alloc = {host_resize, NULL}, .limits = psd_default_limits(), .key = {1, 2}};
    psd_input input = {.data = map, .size = (uint64_t)st.st_size};
    psd_archive archive;
    psd_error err = {0};
    psd_archive_init(&archive, &options);
    psd_status status = psd_archive_open(&archive, &input, &err);
    if (status == PSD_OK) {
        status = psd_archive_run(&archive, &input, &err);
    }
    if (status == PSD_OK && argc > 2) {
        status = write_again(&archive, &input, &err);
    }
    if (status != PSD_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], err.sentence);
    }
    psd_archive_clear(&archive);
    munmap(map, (size_t)st.st_size);
    return status == PSD_OK ? 0 : 1;
}
