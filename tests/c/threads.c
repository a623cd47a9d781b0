/* SPDX-License-Identifier: Apache-2.0
 *
 * threads FILE: one opened archive is read by many threads, and many archives are opened,
 * read and written at once.  For ThreadSanitizer, which tests/test_core.py builds it with.
 */
#include "archive.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 8, ROUNDS = 50 };

static void *
host_resize(void *ctx, void *memory, size_t before, size_t size)
{
    (void)ctx;
    (void)before;
    if (size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, size);
}

static bool
count_bytes(void *ctx, const uint8_t *data, size_t size)
{
    (void)data;
    *(uint64_t *)ctx += size;
    return true;
}

typedef struct {
    psd_archive *shared;
    psd_input input;
    psd_options options;
    uint32_t sum; /* of all that was read */
    bool failed;
} reader;

static void
read_all(reader *r, const psd_archive *archive)
{
    for (uint32_t i = 0; i < archive->model.storage_count; i++) {
        psd_location where;
        psd_error err;
        uint32_t crc = 0;
        r->failed |=
            psd_archive_locate(archive, &r->input, i, &where, &err) != PSD_OK ||
            psd_archive_storage_crc32(archive, &r->input, i, &crc, &err) != PSD_OK;
        r->sum ^= crc;
    }
    for (uint32_t i = 0; i < archive->zip.count; i++) {
        const psd_zip_entry *entry = &archive->zip.entries[i];
        psd_error err;
        bool checked;
        r->failed |=
            psd_zip_find(&archive->zip, entry->name) != entry ||
            psd_archive_verify(archive, &r->input, entry, &checked, &err) != PSD_OK;
    }
    for (psd_ref ref = 1; ref <= archive->pool.count; ref++) {
        r->sum ^= (uint32_t)psd_kind_of(&archive->pool, ref) * ref;
    }
}

static void
write_again(reader *r, psd_archive *archive)
{
    uint32_t count = archive->model.storage_count;
    psd_span *bytes = calloc(count == 0 ? 1 : count, sizeof *bytes);
    psd_error err;
    uint64_t written = 0;
    for (uint32_t i = 0; bytes != NULL && i < count; i++) {
        psd_location where;
        r->failed |=
            psd_archive_locate(archive, &r->input, i, &where, &err) != PSD_OK ||
            where.place != PSD_PLACE_FILE;
        if (!r->failed) {
            bytes[i] = (psd_span){r->input.data + where.offset,
                                  (size_t)archive->model.storages[i].size};
        }
    }
    psd_write_options options = {.alloc = r->options.alloc, .checksum = true};
    r->failed |= bytes == NULL ||
                 psd_archive_write(&archive->pool, archive->pickle.root,
                                   &archive->model, bytes, &options,
                                   (psd_sink){count_bytes, &written}, &err) != PSD_OK ||
                 written == 0;
    free(bytes);
}

static void *
work(void *ctx)
{
    reader *r = ctx;
    for (int round = 0; round < ROUNDS && !r->failed; round++) {
        read_all(r, r->shared);
        psd_archive own;
        psd_error err;
        psd_archive_init(&own, &r->options);
        r->failed |= psd_archive_open(&own, &r->input, &err) != PSD_OK ||
                     psd_archive_run(&own, &r->input, &err) != PSD_OK;
        if (!r->failed) {
            read_all(r, &own); /* cancels what the shared one gave */
            write_again(r, &own);
        }
        psd_archive_clear(&own);
    }
    return NULL;
}

static uint8_t *
read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) {
        *size = (size_t)ftell(file);
        data = malloc(*size);
        if (data != NULL &&
            (fseek(file, 0, SEEK_SET) != 0 || fread(data, 1, *size, file) != *size)) {
            free(data);
            data = NULL;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return data;
}

int
main(int argc, char **argv)
{
    size_t size = 0;
    uint8_t *data = argc == 2 ? read_file(argv[1], &size) : NULL;
    if (data == NULL) {
        (void)fprintf(stderr, "threads FILE\n");
        return 2;
    }
    psd_options options = {
        .alloc = {host_resize, NULL}, .limits = psd_default_limits(), .key = {1, 2}};
    psd_input input = {.data = data, .size = size};
    psd_archive shared;
    psd_error err;
    psd_archive_init(&shared, &options);
    bool failed = psd_archive_open(&shared, &input, &err) != PSD_OK ||
                  psd_archive_run(&shared, &input, &err) != PSD_OK;
    reader readers[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS && !failed; i++) {
        readers[i] = (reader){&shared, input, options, 0, false};
        failed |= pthread_create(&threads[i], NULL, work, &readers[i]) != 0;
    }
    for (int i = 0; i < THREADS && !failed; i++) {
        failed |= pthread_join(threads[i], NULL) != 0 || readers[i].failed ||
                  readers[i].sum != 0;
    }
    psd_archive_clear(&shared);
    free(data);
    (void)printf("%d threads, %s\n", THREADS, failed ? "failed" : "all the same");
    return failed;
}
