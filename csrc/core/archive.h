/* SPDX-License-Identifier: Apache-2.0
 *
 * The public face: open a checkpoint, look into it, write one.  Joins zip,
 * pickle and torch.
 */
#ifndef PSD_ARCHIVE_H
#define PSD_ARCHIVE_H

#include "pickle.h"
#include "torch.h"
#include "zip.h"

/* What the host lends: memory, bounds, a secret, and its inflater. */
typedef struct {
    psd_alloc alloc;
    psd_limits limits;
    psd_hash_key key;
    /*
     * Inflate a raw deflate stream into exactly `size` bytes.  PSD_OK, PSD_INFLATE
     * when the stream is damaged or gives another number of bytes, PSD_INPUT
     * when the host failed and knows why.
     */
    psd_status (*inflate)(void *ctx, psd_span deflated, uint8_t *into, size_t size);
    void *inflate_ctx;
} psd_options;

typedef enum {
    PSD_ARCHIVE_CHECKPOINT, /* torch.save */
    PSD_ARCHIVE_SCRIPT,     /* torch.jit.save: constants.pkl beside data.pkl */
    PSD_ARCHIVE_PACKAGE,    /* torch.package */
    PSD_ARCHIVE_EXPORT,     /* torch.export.save */
} psd_archive_kind;

typedef struct {
    psd_options options;
    psd_arena arena; /* everything below lives in it or in the pool and model */
    psd_zip zip;
    psd_archive_kind kind;
    psd_span prefix; /* top folder with its slash; empty if there is none */
    bool big_endian;
    bool has_byteorder;
    const psd_zip_entry *pickle_entry;
    psd_span program;        /* data.pkl, our own copy */
    uint64_t program_offset; /* of its payload in the file */
    psd_pool pool;
    psd_pickle pickle;
    psd_model model;
} psd_archive;

void psd_archive_init(psd_archive *archive, const psd_options *options);
void psd_archive_clear(psd_archive *archive);

/*
 * Read the directory, tell the kind, fetch byteorder and data.pkl (checked
 * against its CRC).  Nothing is borrowed from the input: directory and pickle
 * are copied, and judged by their copies.
 *
 *   PSD_NO_PICKLE    a zip archive, yet no checkpoint
 *   PSD_INTERRUPTED  torch.save died before it wrote data.pkl
 *   PSD_BYTEORDER, PSD_CRC, PSD_INFLATE, PSD_LIMIT, and those of psd_zip_read
 */
PSD_CHECKED psd_status psd_archive_open(psd_archive *archive, const psd_input *input,
                                        psd_error *err);

/*
 * Run data.pkl, find storages and tensors, and join each storage with its
 * record, whose size must be just the storage's.
 *
 *   PSD_KIND  the archive is no torch.save checkpoint
 */
PSD_CHECKED psd_status psd_archive_run(psd_archive *archive, psd_error *err);

/* The record `<prefix><name>`, or NULL. */
const psd_zip_entry *psd_archive_find(const psd_archive *archive, psd_span name);

/* Bytes of a record, inflated if need be, in `arena`; CRC checked where stated. */
PSD_CHECKED psd_status psd_archive_fetch(const psd_archive *archive,
                                         const psd_input *input,
                                         const psd_zip_entry *entry, psd_arena *arena,
                                         psd_span *bytes, uint64_t *offset,
                                         psd_error *err);

/* The record of a storage; its `method` tells whether it can be mapped. */
const psd_zip_entry *psd_archive_storage_entry(const psd_archive *archive,
                                               uint32_t storage);

/* Inflate a storage's record into `into`, entry->size bytes. */
PSD_CHECKED psd_status psd_archive_inflate(const psd_archive *archive,
                                           const psd_input *input,
                                           const psd_zip_entry *entry, uint8_t *into,
                                           psd_error *err);

/*
 * Compare a record's bytes with its CRC.  *checked is false when the archive
 * states none (0 on a non-empty record).
 *
 *   PSD_CRC  they differ: found and expected are in the record
 */
PSD_CHECKED psd_status psd_archive_verify(const psd_archive *archive,
                                          const psd_input *input,
                                          const psd_zip_entry *entry, bool *checked,
                                          psd_error *err);

/* The CRC-32 of a record's bytes, whatever the directory says. */
PSD_CHECKED psd_status psd_archive_crc32(const psd_archive *archive,
                                         const psd_input *input,
                                         const psd_zip_entry *entry, uint32_t *crc32,
                                         psd_error *err);

/* ------------------------------------------------------------------ writing */

typedef struct {
    psd_alloc alloc;
    bool checksum;   /* false: CRC fields stay 0 */
    bool big_endian; /* byte order of the storages' bytes */
} psd_write_options;

/*
 * Write `root`, whose TENSOR values speak of `model`, whose storages' bytes are
 * bytes[0 .. model->storage_count).  The pool is lowered in place.
 */
PSD_CHECKED psd_status psd_archive_write(psd_pool *pool, psd_ref root,
                                         const psd_model *model, const psd_span *bytes,
                                         const psd_write_options *options,
                                         psd_sink sink, psd_error *err);

#endif
