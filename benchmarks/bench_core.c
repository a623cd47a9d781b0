/* SPDX-License-Identifier: Apache-2.0
 *
 * The core without Python: checksum kernels, and what opening a checkpoint costs
 * room by room.
 *
 *     bench_core [FILE.pth]...
 *
 * README.md has the line that builds it.
 */
#define _DEFAULT_SOURCE

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "archive.h"
#include "crc32.h"
#include "host.h"

#define ROUNDS 9

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int
by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double
median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, by_size);
    return values[ROUNDS / 2];
}

/* ----------------------------------------------------------------- checksums */

static void
bench_crc32(void)
{
    static const size_t sizes[] = {64, 1024, 65536, (size_t)256 << 20};
    size_t most = sizes[3];
    uint8_t *data = malloc(most);
    if (data == NULL) {
        return;
    }
    for (size_t i = 0; i < most; i++) {
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    printf("CRC-32, GB/s        64 B     1 KiB    64 KiB   256 MiB\n");
    for (unsigned k = 0; k < psd_crc32_kernel_count(); k++) {
        printf("%-14s%s", psd_crc32_kernel_name(k), k == psd_crc32_best() ? "*" : " ");
        if (!psd_crc32_kernel_usable(k)) {
            printf(" not on this processor\n");
            continue;
        }
        for (size_t s = 0; s < 4; s++) {
            size_t repeat = most / 4 / sizes[s] + 1;
            double rates[ROUNDS];
            uint32_t crc = 0;
            for (int round = 0; round < ROUNDS; round++) {
                double start = now();
                for (size_t i = 0; i < repeat; i++) {
                    crc = psd_crc32_by(k, crc, data, sizes[s]);
                }
                rates[round] = (double)(repeat * sizes[s]) / (now() - start) / 1e9;
            }
            printf(" %9.2f", crc == 1 ? 0 : median(rates));
        }
        printf("\n");
    }
    free(data);
}

/* ------------------------------------------------------------------- opening */

static bool
bench_file(const char *path)
{
    int file = open(path, O_RDONLY);
    struct stat st;
    if (file < 0 || fstat(file, &st) != 0) {
        perror(path);
        return false;
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (map == MAP_FAILED) {
        perror(path);
        return false;
    }
    psd_options options = {
        .alloc = {host_resize, NULL}, .limits = psd_default_limits(), .key = {1, 2}};
    psd_input input = {.data = map, .size = (uint64_t)st.st_size};
    double opening[ROUNDS], pickle[ROUNDS], running[ROUNDS];
    psd_error err = {0};
    psd_status status = PSD_OK;
    uint32_t tensors = 0, records = 0;
    for (int round = 0; round < ROUNDS && status == PSD_OK; round++) {
        psd_archive archive;
        psd_archive_init(&archive, &options);
        double start = now();
        status = psd_archive_open(&archive, &input, &err);
        opening[round] = now() - start;
        if (status == PSD_OK) {
            psd_arena arena;
            psd_pool pool;
            psd_pickle out;
            psd_arena_init(&arena, options.alloc);
            psd_pool_init(&pool, &arena, options.limits.values);
            start = now();
            status = psd_pickle_read(archive.program, archive.program_offset,
                                     &options.limits, options.key, &pool, &out, &err);
            pickle[round] = now() - start;
            psd_pool_clear(&pool);
            psd_arena_clear(&arena);
        }
        if (status == PSD_OK) {
            start = now();
            status = psd_archive_run(&archive, &input, &err);
            running[round] = now() - start;
            tensors = archive.model.tensor_count;
            records = archive.zip.count;
        }
        psd_archive_clear(&archive);
    }
    munmap(map, (size_t)st.st_size);
    if (status != PSD_OK) {
        fprintf(stderr, "%s: %s: %s\n", path, psd_status_code(status), err.sentence);
        return false;
    }
    double run = median(running), machine = median(pickle);
    printf("%s: %u records, %u tensors\n", path, records, tensors);
    printf("  directory, byteorder, data.pkl  %9.1f us\n", median(opening) * 1e6);
    printf("  stack machine                   %9.1f us\n", machine * 1e6);
    printf("  tensors and their records       %9.1f us\n", (run - machine) * 1e6);
    return true;
}

int
main(int argc, char **argv)
{
    bench_crc32();
    bool fine = true;
    for (int i = 1; i < argc; i++) {
        fine = bench_file(argv[i]) && fine;
    }
    return fine ? 0 : 1;
}
