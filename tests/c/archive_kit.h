/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the archive share: small checkpoints built record by record, an
 * inflater that knows stored blocks only, and an archive that was opened and run.
 */
#ifndef PSD_ARCHIVE_KIT_H
#define PSD_ARCHIVE_KIT_H

#include "archive.h"
#include "torch_kit.h"
#include "zip_kit.h"

/* ---------------------------------------------------------------- inflating */

typedef struct {
    unsigned calls;
    bool fails; /* as a host that has no memory, say */
} inflater;

/* Deflate's stored block: 1, the length, its complement, the bytes (RFC 1951, 3.2.4). */
static inline psd_status
inflate_stored(void *ctx, psd_span deflated, uint8_t *into, size_t size)
{
    inflater *i = ctx;
    i->calls++;
    if (i->fails) {
        return PSD_INPUT;
    }
    if (deflated.size < 5 || deflated.data[0] != 1 ||
        psd_load_le16(deflated.data + 1) != size || deflated.size != size + 5) {
        return PSD_INFLATE;
    }
    if (size > 0) {
        memcpy(into, deflated.data + 5, size);
    }
    return PSD_OK;
}

/* `data` as such a block, in `room`. */
static inline psd_span
deflate_stored(psd_span data, uint8_t *room)
{
    room[0] = 1;
    psd_store_le16(room + 1, (uint16_t)data.size);
    psd_store_le16(room + 3, (uint16_t)~data.size);
    memcpy(room + 5, data.data, data.size);
    return (psd_span){room, data.size + 5};
}

/* ---------------------------------------------------------------- opened archives */

typedef struct {
    check_heap heap;
    inflater inflater;
    psd_input input;
    psd_archive archive;
    psd_error err;
    psd_status status;
} opening;

static inline void
open_input(opening *o, psd_input input, const psd_limits *limits, unsigned long fail_at)
{
    memset(o, 0, sizeof *o);
    o->heap.fail_at = fail_at;
    o->input = input;
    psd_options options = {
        .alloc = check_alloc(&o->heap),
        .limits = *limits,
        .key = KIT_KEY,
        .inflate = inflate_stored,
        .inflate_ctx = &o->inflater,
    };
    psd_archive_init(&o->archive, &options);
    o->status = psd_archive_open(&o->archive, &o->input, &o->err);
}

static inline void
open_bytes(opening *o, psd_span bytes)
{
    psd_limits limits = psd_default_limits();
    open_input(o, (psd_input){bytes.data, bytes.size, NULL, NULL}, &limits, 0);
}

static inline void
run_archive(opening *o)
{
    if (o->status == PSD_OK) {
        o->status = psd_archive_run(&o->archive, &o->input, &o->err);
    }
}

static inline void
close_archive(opening *o)
{
    psd_archive_clear(&o->archive);
    CHECK_UINT(o->heap.live, 0);
}

/* The bytes of a storage, in `arena`. */
static inline psd_status
storage_bytes(opening *o, uint32_t storage, psd_arena *arena, psd_span *bytes)
{
    uint64_t offset;
    const psd_zip_entry *entry = psd_archive_storage_entry(&o->archive, storage);
    return psd_archive_fetch(&o->archive, &o->input, entry, arena, bytes, &offset,
                             &o->err);
}

/*
 * What every opened archive promises, whatever its file says: stored bytes lie
 * within the input, and every tensor within its storage.
 */
static inline void
check_promises(opening *o)
{
    const psd_model *model = &o->archive.model;
    for (uint32_t i = 0; i < model->storage_count; i++) {
        const psd_zip_entry *entry = psd_archive_storage_entry(&o->archive, i);
        uint64_t offset;
        CHECK(entry->size == model->storages[i].size);
        CHECK(entry->method != PSD_ZIP_STORED || entry->stored_size == entry->size);
        if (psd_zip_locate(&o->input, entry, &offset, &o->err) == PSD_OK) {
            CHECK(psd_fits(offset, entry->stored_size, o->input.size));
        }
    }
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        const psd_tensor *t = &model->tensors[i];
        if (t->numel == 0 || t->storage == PSD_NO_STORAGE) {
            continue;
        }
        uint64_t last = (uint64_t)t->offset;
        for (unsigned k = 0; k < t->rank; k++) {
            last += t->shape[k] > 1
                        ? (uint64_t)(t->shape[k] - 1) * (uint64_t)t->strides[k]
                        : 0;
        }
        uint64_t item = psd_dtype_row((psd_dtype)t->dtype)->size;
        CHECK(psd_fits(last * item, item, model->storages[t->storage].size));
    }
}

/* ---------------------------------------------------------------- checkpoints by hand */

#define W2 V2(STORAGE("FloatStorage", "0", "2") I("0") "(I2\nt(I1\nt")
#define B3 V2(STORAGE("ByteStorage", "1", "3") I("0") "(I3\nt(I1\nt")

/* {'w': two floats, 'b': three bytes} */
#define SMALL_PROGRAM "(Vw\n" W2 "Vb\n" B3 "d."

static inline kit_record
record(const char *name, psd_span data)
{
    return (kit_record){.name = kit_text(name), .data = data};
}

enum { SMALL_COUNT = 4 };

/* data.pkl, byteorder and two storages, of which one test changes this or that. */
static inline void
small_records(kit_record *records)
{
    records[0] = record("m/data.pkl", PSD_LITERAL(SMALL_PROGRAM));
    records[1] = record("m/byteorder", PSD_LITERAL("little"));
    records[2] = record("m/data/0", PSD_LITERAL("eightby\xff"));
    records[3] = record("m/data/1", PSD_LITERAL("abc"));
}

#endif
