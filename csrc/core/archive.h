/* SPDX-License-Identifier: Apache-2.0
 *
 * The public face: open a checkpoint, look into it, write one.  Joins the
 * containers, pickle and torch: whatever a file is, it becomes a pool of values
 * and a model of storages, each of which tells where its bytes are.
 */
#ifndef PSD_ARCHIVE_H
#define PSD_ARCHIVE_H

#include "pickle.h"
#include "safetensors.h"
#include "stream.h"
#include "tar.h"
#include "torch.h"
#include "zip.h"

/* What is looked for in a file. */
typedef enum {
    PSD_OPEN_CHECKPOINT, /* a zip archive, a legacy stream, ..., as its bytes tell */
    PSD_OPEN_PICKLE,     /* a pickle by itself */
    PSD_OPEN_RECORDS,    /* a zip archive of any content: its directory and no more */
    PSD_OPEN_EXACT,      /* the same; names that differ by case alone are two */
    PSD_OPEN_BYTES,      /* anything: the host describes what is in it */
} psd_open_mode;

/* What the host lends: memory, bounds, a secret, and its inflater. */
typedef struct {
    psd_alloc alloc;
    psd_limits limits;
    psd_hash_key key;
    psd_open_mode mode;
    bool salvage;    /* take what is whole of a file that has lost its end */
    psd_span record; /* the pickle to be run, below the top folder; empty: data.pkl */
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
    PSD_ARCHIVE_RECORDS,    /* any other zip archive */
    PSD_ARCHIVE_STREAM,     /* torch.save before 1.6 */
    PSD_ARCHIVE_TAR,        /* torch.save of torch 0.1 */
    PSD_ARCHIVE_SAFETENSORS,
    PSD_ARCHIVE_PICKLE, /* pickle.dump */
    PSD_ARCHIVE_BYTES,  /* whatever the host says */
} psd_archive_kind;

typedef struct {
    psd_options options;
    psd_arena arena; /* everything below lives in it or in the pool and model */
    psd_archive_kind kind;
    bool nested;     /* within a pickle of another */
    psd_zip zip;     /* these four, each of its kind of archive */
    psd_span prefix; /* top folder with its slash; empty if there is none */
    psd_stream stream;
    psd_tar tar;
    bool big_endian;
    bool has_byteorder;
    psd_span pickle_name;    /* the record or member that holds the pickle, or empty */
    psd_span program;        /* the pickle, or a header in its place; our own copy */
    uint64_t program_offset; /* of its first byte in the file */
    uint64_t end_offset;     /* behind a stream's last byte, once it was run */
    psd_pool pool;
    psd_pickle pickle;
    psd_model model;
    psd_ref notes; /* a DICT of texts that the container tells of itself, or 0 */
} psd_archive;

void psd_archive_init(psd_archive *archive, const psd_options *options);
void psd_archive_clear(psd_archive *archive);

/*
 * Tell the kind, read what tells where things are, fetch the pickle (a record is
 * checked against its CRC).  Nothing is borrowed from the input: directory and
 * pickle are copied, and judged by their copies.
 *
 *   PSD_NO_PICKLE    a zip archive, yet no checkpoint
 *   PSD_INTERRUPTED  torch.save died before it wrote data.pkl
 *   PSD_BYTEORDER, PSD_CRC, PSD_INFLATE, PSD_LIMIT, and those of psd_zip_read,
 *   psd_stream_read, psd_tar_read and psd_safetensors_fetch
 */
PSD_CHECKED psd_status psd_archive_open(psd_archive *archive, const psd_input *input,
                                        psd_error *err);

/*
 * Run the pickle, find storages and tensors, and join each storage with its
 * bytes, which must be just as many as the pickle tells.  A header is read instead,
 * where the container has one.
 *
 *   PSD_KIND  the archive holds no pickle that is to be run by itself
 */
PSD_CHECKED psd_status psd_archive_run(psd_archive *archive, const psd_input *input,
                                       psd_error *err);

/* Take these storages for lost, since their bytes are damaged; before anything is loaded. */
void psd_archive_lose(psd_archive *archive, const uint32_t *storages, size_t count);

/* Tensors that the host has found in a file of another kind. */
typedef struct {
    const psd_storage *storages; /* key, size, dtype, location, place */
    const psd_span *names;
    const psd_tensor *tensors; /* dtype, rank, shape, strides, storage, offset */
    uint32_t storage_count, tensor_count;
    bool lasting; /* texts and numbers live as long as the archive */
} psd_description;

/*
 * Instead of running a pickle: let the root be an OrderedDict of these tensors.  All is
 * checked, and copied unless it lasts; rank is at most 64.
 *
 *   PSD_TRUNCATED  a storage reaches beyond the file
 *   PSD_STORAGE    a record has not the storage's size, and what comes before it
 *   PSD_TENSOR     a window that reaches beyond its storage
 *   PSD_ARGUMENT   a tensor of a storage that was not told
 */
PSD_CHECKED psd_status psd_archive_describe(psd_archive *archive,
                                            const psd_input *input,
                                            const psd_description *told,
                                            psd_error *err);

/* Where a storage's bytes are. */
typedef struct {
    psd_place place;            /* FILE, MEMORY, or RECORD of one that is deflated */
    uint64_t offset;            /* FILE */
    const uint8_t *memory;      /* MEMORY */
    const psd_zip_entry *entry; /* RECORD; inflated, the storage begins ... */
    uint32_t skip;              /* ... after so many bytes */
} psd_location;

PSD_CHECKED psd_status psd_archive_locate(const psd_archive *archive,
                                          const psd_input *input, uint32_t storage,
                                          psd_location *location, psd_error *err);

/*
 * The CRC-32 of a storage's bytes: the directory's word where there is one, else computed.
 * A storage without bytes has that of none.
 */
PSD_CHECKED psd_status psd_archive_storage_crc32(const psd_archive *archive,
                                                 const psd_input *input,
                                                 uint32_t storage, uint32_t *crc,
                                                 psd_error *err);

/* ------------------------------------------------------------ a zip's records */

/* The record `<prefix><name>`, or NULL. */
const psd_zip_entry *psd_archive_find(const psd_archive *archive, psd_span name);

/* Bytes of a record, inflated if need be, in `arena`; CRC checked where stated. */
PSD_CHECKED psd_status psd_archive_fetch(const psd_archive *archive,
                                         const psd_input *input,
                                         const psd_zip_entry *entry, psd_arena *arena,
                                         psd_span *bytes, uint64_t *offset,
                                         psd_error *err);

/* The record of a storage; NULL if its bytes stand elsewhere. */
const psd_zip_entry *psd_archive_storage_entry(const psd_archive *archive,
                                               uint32_t storage);

/* Inflate a record into `into`, entry->size bytes. */
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
    psd_dialect dialect; /* ZIP: an archive; STREAM: a legacy stream; KEPT: the pickle
                          * alone, for an archive that has its storages already */
    bool checksum;       /* of an archive; false: CRC fields stay 0 */
    bool big_endian;     /* byte order of the storages' bytes */
    psd_supply supply;   /* of those that are not at hand, by the storage's number */
} psd_write_options;

/*
 * Write `root`, whose TENSOR values speak of `model`, whose storages' bytes are
 * bytes[0 .. model->storage_count); where `data` is NULL they are fetched.  Into a stream
 * go the storages of all dense tensors, so `root` must lead to each.  The pool is lowered in place.  Nothing is poured before
 * all is known to be written.
 */
PSD_CHECKED psd_status psd_archive_write(psd_pool *pool, psd_ref root,
                                         const psd_model *model, const psd_span *bytes,
                                         const psd_write_options *options,
                                         psd_sink sink, psd_error *err);

#endif
