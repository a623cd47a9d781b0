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
open_as(opening *o, psd_input input, psd_open_mode mode, const psd_limits *limits,
        unsigned long fail_at)
{
    memset(o, 0, sizeof *o);
    o->heap.fail_at = fail_at;
    o->input = input;
    psd_options options = {
        .mode = mode,
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
open_input(opening *o, psd_input input, const psd_limits *limits, unsigned long fail_at)
{
    open_as(o, input, PSD_OPEN_CHECKPOINT, limits, fail_at);
}

static inline void
open_bytes(opening *o, psd_span bytes)
{
    psd_limits limits = psd_default_limits();
    open_input(o, (psd_input){.data = bytes.data, .size = bytes.size}, &limits, 0);
}

static inline void
run_archive(opening *o)
{
    if (o->status == PSD_OK) {
        o->status = psd_archive_run(&o->archive, &o->input, &o->err);
    }
}

/* Did it go wrong in just these words? */
static inline bool
says(const opening *o, psd_status status, const char *sentence)
{
    bool same = o->status == status && o->err.status == status &&
                strcmp(o->err.sentence, sentence) == 0;
    if (!same) {
        (void)fprintf(stderr, "  %s: %s\n", psd_status_code(o->status),
                      o->status == PSD_OK ? "" : o->err.sentence);
    }
    return same;
}

static inline bool
about(const uint8_t *text, size_t size, const char *expected)
{
    return size == strlen(expected) && memcmp(text, expected, size) == 0;
}

#define ABOUT_ENTRY(o, name) about((o)->err.entry, (o)->err.entry_size, name)
#define ABOUT_SUBJECT(o, name) about((o)->err.subject, (o)->err.subject_size, name)

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

/* Stored bytes lie within the input, or in memory that may be read. */
static inline void
check_place(opening *o, uint32_t storage)
{
    const psd_storage *s = &o->archive.model.storages[storage];
    psd_location where;
    if (psd_archive_locate(&o->archive, &o->input, storage, &where, &o->err) !=
        PSD_OK) {
        return;
    }
    volatile uint8_t seen = 0;
    switch (where.place) {
    case PSD_PLACE_FILE: CHECK(psd_fits(where.offset, s->size, o->input.size)); break;
    case PSD_PLACE_MEMORY:
        for (uint64_t i = 0; i < s->size; i++) {
            seen = (uint8_t)(seen ^ where.memory[i]);
        }
        break;
    case PSD_PLACE_RECORD:
        CHECK(where.entry == psd_archive_storage_entry(&o->archive, storage));
        CHECK(where.entry->method != PSD_ZIP_STORED);
        CHECK_UINT(where.entry->size, s->size);
        break;
    default:
        CHECK(s->size == 0 || s->parent != PSD_NO_STORAGE ||
              psd_span_equal(s->location, PSD_LITERAL("meta")));
        break;
    }
    (void)seen;
}

/* A window lies within its storage, which is none of another's. */
static inline void
check_window(const psd_model *model, const psd_tensor *t)
{
    if (t->layout != PSD_LAYOUT_STRIDED || t->numel == 0 ||
        t->storage == PSD_NO_STORAGE) {
        return;
    }
    uint64_t last = (uint64_t)t->offset;
    for (unsigned k = 0; k < t->rank; k++) {
        last +=
            t->shape[k] > 1 ? (uint64_t)(t->shape[k] - 1) * (uint64_t)t->strides[k] : 0;
    }
    uint64_t item = psd_dtype_row((psd_dtype)t->dtype)->size;
    const psd_storage *s = &model->storages[t->storage];
    CHECK(psd_fits(last / psd_tensor_per_byte(t) * item, item, s->size));
    CHECK_UINT(s->parent, PSD_NO_STORAGE);
}

/* What every opened archive promises, whatever its file says. */
static inline void
check_promises(opening *o)
{
    const psd_model *model = &o->archive.model;
    for (uint32_t i = 0; i < model->storage_count; i++) {
        check_place(o, i);
    }
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        check_window(model, &model->tensors[i]);
    }
    for (uint32_t i = 0; i < model->module_count; i++) {
        CHECK(i == 0 || model->modules[i].at > model->modules[i - 1].at);
        CHECK(model->modules[i].state_dict <= o->archive.pool.count);
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
