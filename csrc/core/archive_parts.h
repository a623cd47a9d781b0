/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the archive room offer one another: each container is opened
 * by one function, and its storages joined with their bytes by another.
 */
#ifndef PSD_ARCHIVE_PARTS_H
#define PSD_ARCHIVE_PARTS_H

#include "archive.h"

PSD_CHECKED psd_status psd_archive_open_zip(psd_archive *archive,
                                            const psd_input *input, psd_error *err);
PSD_CHECKED psd_status psd_archive_join_zip(psd_archive *archive, psd_error *err);

/* A small file may not ask for all memory: PSD_LIMIT, where its storages inflate to more
 * than limits.inflation times its size. */
PSD_CHECKED psd_status psd_archive_check_inflated(const psd_archive *archive,
                                                  const psd_input *input,
                                                  psd_error *err);

/* Does the directory state a CRC?  0 on a non-empty record states none. */
bool psd_archive_states_crc(const psd_zip_entry *entry);

/* The CRC-32 of bytes of the file, read piece by piece. */
PSD_CHECKED psd_status psd_archive_crc_of_range(const psd_archive *archive,
                                                const psd_input *input, uint64_t offset,
                                                uint64_t size, uint32_t *crc,
                                                psd_error *err);

/* Of a deflated record, but for its first `skip` bytes. */
PSD_CHECKED psd_status psd_archive_crc_of_deflated(const psd_archive *archive,
                                                   const psd_input *input,
                                                   const psd_zip_entry *entry,
                                                   uint32_t skip, uint32_t *crc,
                                                   psd_error *err);

PSD_CHECKED psd_status psd_archive_open_stream(psd_archive *archive,
                                               const psd_input *input, psd_error *err);
PSD_CHECKED psd_status psd_archive_join_stream(psd_archive *archive,
                                               const psd_input *input, psd_error *err);

PSD_CHECKED psd_status psd_archive_open_tar(psd_archive *archive,
                                            const psd_input *input, psd_error *err);
/* The storages and tensors that the pickle's persistent ids will name; before it is
 * run. */
PSD_CHECKED psd_status psd_archive_read_tar(psd_archive *archive,
                                            const psd_input *input, psd_error *err);

PSD_CHECKED psd_status psd_archive_open_safetensors(psd_archive *archive,
                                                    const psd_input *input,
                                                    psd_error *err);
/* The storages and tensors that the header tells of. */
PSD_CHECKED psd_status psd_archive_read_safetensors(psd_archive *archive,
                                                    const psd_input *input,
                                                    psd_error *err);

/* See psd_torch_source: the storage in a stream that stands within a pickle. */
psd_status psd_archive_embedded(void *ctx, psd_span stream, psd_storage *storage,
                                bool *is_storage, psd_error *err);

#endif
