/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a checkpoint: an archive, a legacy stream, a tar, else a pickle by itself
 * and a file that the host tells of.  The same file as a map and as a remote object must
 * be judged alike; what opens can be fetched, verified, written in both containers and
 * opened again.
 */
#include "fuzz.h"

typedef struct {
    const uint8_t *data;
    size_t size;
} fuzz_file;

static bool
read_range(void *ctx, uint64_t offset, size_t size, uint8_t *into)
{
    const fuzz_file *file = ctx;
    PROMISE(psd_fits(offset, size, file->size));
    if (size > 0) {
        memcpy(into, file->data + offset, size);
    }
    return true;
}

/* Stands for an inflater: what matters is where it is let to write. */
static psd_status
inflate_to_zeros(void *ctx, psd_span deflated, uint8_t *into, size_t size)
{
    (void)ctx;
    volatile uint8_t touched = 0;
    if (deflated.size > 0) {
        touched = (uint8_t)(deflated.data[0] ^ deflated.data[deflated.size - 1]);
    }
    (void)touched;
    if (size > 0) {
        memset(into, 0, size);
    }
    return PSD_OK;
}

static bool
gather(void *ctx, const uint8_t *data, size_t size)
{
    psd_buffer *buffer = ctx;
    psd_put(buffer, data, size);
    return !buffer->failed;
}

/* `opened` tells whether there is a directory to look into. */
static psd_status
open_and_run(psd_archive *archive, const psd_options *options, const psd_input *input,
             bool *opened, psd_error *err)
{
    psd_archive_init(archive, options);
    psd_status status = psd_archive_open(archive, input, err);
    *opened = status == PSD_OK;
    return *opened ? psd_archive_run(archive, input, err) : status;
}

static void
look_at_records(psd_archive *archive, const psd_input *input, psd_alloc alloc)
{
    for (uint32_t i = 0; i < archive->zip.count; i++) {
        const psd_zip_entry *entry = &archive->zip.entries[i];
        psd_error err = {0};
        psd_arena arena;
        psd_arena_init(&arena, alloc);
        bool checked = false;
        psd_status status = psd_archive_verify(archive, input, entry, &checked, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        psd_span bytes = {NULL, 0};
        uint64_t offset = 0;
        status =
            psd_archive_fetch(archive, input, entry, &arena, &bytes, &offset, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
        }
        else {
            PROMISE(bytes.size == entry->size);
        }
        psd_arena_clear(&arena);
    }
}

/* The bytes of a storage, wherever they are; false where there are none. */
static bool
storage_bytes(const psd_archive *archive, const psd_input *input, uint32_t storage,
              psd_arena *arena, psd_span *bytes)
{
    const psd_storage *s = &archive->model.storages[storage];
    psd_location where;
    psd_error err = {0};
    uint64_t offset;
    psd_status status = psd_archive_locate(archive, input, storage, &where, &err);
    *bytes = (psd_span){NULL, 0};
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
        return false;
    }
    switch (where.place) {
    case PSD_PLACE_FILE:
        PROMISE(psd_fits(where.offset, s->size, input->size));
        *bytes = (psd_span){input->data + where.offset, (size_t)s->size};
        return true;
    case PSD_PLACE_MEMORY:
        *bytes = (psd_span){where.memory, (size_t)s->size};
        return true;
    case PSD_PLACE_RECORD:
        return psd_archive_fetch(archive, input, where.entry, arena, bytes, &offset,
                                 &err) == PSD_OK;
    default: return s->size == 0 || s->parent != PSD_NO_STORAGE; /* a view */
    }
}

/* Persistent ids that nobody turned into anything mean nothing in another container. */
static bool
has_ids(const psd_pool *pool)
{
    bool found = false;
    for (psd_ref ref = 1; ref <= pool->count && !found; ref++) {
        found = psd_kind_of(pool, ref) == PSD_KIND_PERSID;
    }
    return found;
}

/* What was opened can be written, in either container, and what was written opens. */
static void
journey(psd_archive *archive, const psd_input *input, const psd_options *options,
        psd_dialect dialect)
{
    psd_alloc alloc = options->alloc;
    psd_model *model = &archive->model;
    psd_arena arena;
    psd_arena_init(&arena, alloc);
    psd_buffer out;
    psd_buffer_init(&out, alloc);
    psd_error err = {0};
    psd_span *bytes =
        psd_arena_take_array(&arena, model->storage_count, sizeof(psd_span));
    bool whole = bytes != NULL && !has_ids(&archive->pool);
    for (uint32_t i = 0; whole && i < model->storage_count; i++) {
        whole = storage_bytes(archive, input, i, &arena, &bytes[i]);
    }
    if (whole) {
        psd_write_options writing = {.alloc = alloc,
                                     .dialect = dialect,
                                     .checksum = true,
                                     .big_endian = archive->big_endian};
        uint32_t tensors = model->tensor_count;
        psd_status status =
            psd_archive_write(&archive->pool, archive->pickle.root, model, bytes,
                              &writing, (psd_sink){gather, &out}, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
            PROMISE(out.size == 0);
        }
        else {
            psd_archive again;
            bool opened = false;
            psd_input written = {.data = out.data, .size = out.size};
            psd_options plain = *options;
            plain.mode = PSD_OPEN_CHECKPOINT;
            plain.record = (psd_span){NULL, 0};
            status = open_and_run(&again, &plain, &written, &opened, &err);
            PROMISE(again.model.tensor_count <= tensors);
            if (dialect == PSD_DIALECT_ZIP) {
                PROMISE(status == PSD_OK);
                PROMISE(again.big_endian == archive->big_endian);
            }
            else if (status != PSD_OK || again.end_offset != out.size) {
                /* A tensor that nothing leads to: hosts make none. */
                PROMISE(status == PSD_STORAGE && again.stream.whole);
            }
            psd_archive_clear(&again);
        }
    }
    psd_buffer_clear(&out);
    psd_arena_clear(&arena);
}

/* The same bytes by a map and from afar, then all that can be done with them. */
static psd_status
judge_as(const uint8_t *data, size_t size, psd_options options)
{
    fuzz_file file = {data, size};
    psd_input map = {.data = data, .size = size};
    psd_input remote = {.size = size, .read = read_range, .ctx = &file};
    psd_archive archive;
    psd_error err = {0}, remote_err = {0};
    bool opened = false;
    psd_status apart = open_and_run(&archive, &options, &remote, &opened, &remote_err);
    psd_archive_clear(&archive);
    psd_status status = open_and_run(&archive, &options, &map, &opened, &err);
    PROMISE(status == apart && err.offset == remote_err.offset);
    if (opened) {
        look_at_records(&archive, &map, options.alloc);
    }
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
        psd_archive_clear(&archive);
        return status;
    }
    fuzz_expect_model(&archive.pool, &archive.model);
    journey(&archive, &map, &options, PSD_DIALECT_ZIP);
    psd_archive_clear(&archive);
    /* Writing changes the pool, so the other container gets one of its own. */
    PROMISE(open_and_run(&archive, &options, &map, &opened, &err) == PSD_OK);
    journey(&archive, &map, &options, PSD_DIALECT_STREAM);
    psd_archive_clear(&archive);
    return status;
}

/* The first pickle of an archive that has none to be run by itself, in `name`. */
static psd_span
a_pickle_in(const uint8_t *data, size_t size, psd_options options, uint8_t *name,
            size_t most)
{
    psd_span found = {name, 0};
    psd_input map = {.data = data, .size = size};
    psd_archive archive;
    psd_error err = {0};
    psd_archive_init(&archive, &options);
    if (psd_archive_open(&archive, &map, &err) == PSD_OK) {
        for (uint32_t i = 0; i < archive.zip.count && found.size == 0; i++) {
            psd_span entry = archive.zip.entries[i].name;
            size_t prefix = archive.prefix.size;
            bool is_pickle = entry.size > prefix + 4 && entry.size - prefix <= most &&
                             memcmp(entry.data + entry.size - 4, ".pkl", 4) == 0;
            if (is_pickle) {
                found.size = entry.size - prefix;
                memcpy(name, entry.data + prefix, found.size);
            }
        }
    }
    psd_archive_clear(&archive);
    return found;
}

/* Bytes that are no file of torch's, told of by their own numbers. */
static void
describe(const uint8_t *data, size_t size, psd_options options)
{
    enum { ROW = 32, ROWS = 3 };
    psd_storage storages[ROWS];
    psd_tensor tensors[ROWS];
    psd_span names[ROWS];
    int64_t numbers[ROWS][4];
    if (size < (size_t)ROW * ROWS) {
        return;
    }
    for (unsigned i = 0; i < ROWS; i++) {
        const uint8_t *row = data + (size_t)i * ROW;
        names[i] = (psd_span){row, row[0] % ROW};
        storages[i] = (psd_storage){.key = names[i],
                                    .size = row[1] % 64u,
                                    .numel = row[1] % 64u,
                                    .dtype = PSD_DTYPE_UINT8,
                                    .untyped = true,
                                    .place = PSD_PLACE_FILE,
                                    .at.offset = psd_load_le16(row + 2)};
        for (unsigned k = 0; k < 4; k++) {
            numbers[i][k] = (int16_t)psd_load_le16(row + 8 + 2 * (size_t)k);
        }
        tensors[i] =
            (psd_tensor){.shape = numbers[i],
                         .strides = numbers[i] + 2,
                         .rank = row[4] % 3u,
                         .dtype = (uint8_t)(1 + row[5] % (PSD_DTYPE_COUNT - 1)),
                         .storage = row[6] % 4u,
                         .offset = (int8_t)row[7]};
    }
    psd_description told = {storages, names, tensors, ROWS, ROWS};
    psd_input map = {.data = data, .size = size};
    psd_archive archive;
    psd_error err = {0};
    options.mode = PSD_OPEN_BYTES;
    psd_archive_init(&archive, &options);
    PROMISE(psd_archive_open(&archive, &map, &err) == PSD_OK);
    psd_status status = psd_archive_describe(&archive, &map, &told, &err);
    if (status != PSD_OK) {
        fuzz_expect_told(status, &err);
    }
    else {
        fuzz_expect_model(&archive.pool, &archive.model);
        journey(&archive, &map, &options, PSD_DIALECT_ZIP);
    }
    psd_archive_clear(&archive);
}

static psd_status
judge(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    uint8_t name[256];
    psd_options options = {
        .alloc = fuzz_alloc(&heap),
        .limits = fuzz_limits(),
        .key = FUZZ_KEY,
        .inflate = inflate_to_zeros,
    };
    psd_status status = judge_as(data, size, options);
    if (status == PSD_KIND) {
        options.record = a_pickle_in(data, size, options, name, sizeof name);
        status = options.record.size > 0 ? judge_as(data, size, options) : status;
    }
    else if (status == PSD_NOT_ZIP) {
        describe(data, size, options);
        options.mode = PSD_OPEN_PICKLE;
        status = judge_as(data, size, options);
    }
    PROMISE(heap.live == 0);
    return status;
}

/* Say "not computed" in every record, so that a changed pickle is run at all. */
static void
drop_checksums(uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 20 <= size; i++) {
        uint32_t signature = psd_load_le32(data + i);
        if (signature == 0x04034b50u) {
            psd_store_le32(data + i + 14, 0);
        }
        else if (signature == 0x02014b50u) {
            psd_store_le32(data + i + 16, 0);
        }
        else if (signature == 0x08074b50u) {
            psd_store_le32(data + i + 4, 0);
        }
    }
    /* And let the headers of a tar be what they would have to be. */
    for (size_t at = 0; at + PSD_TAR_BLOCK <= size; at += PSD_TAR_BLOCK) {
        if (memcmp(data + at + 257, "ustar", 5) == 0) {
            unsigned sum = 0;
            memset(data + at + 148, ' ', 8);
            for (size_t i = 0; i < PSD_TAR_BLOCK; i++) {
                sum += data[at + i];
            }
            for (unsigned i = 6; i-- > 0; sum >>= 3) {
                data[at + 148 + i] = (uint8_t)('0' + (sum & 7));
            }
            data[at + 154] = 0;
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    psd_status status = judge(data, size);
    if (status == PSD_CRC || status == PSD_TAR) {
        uint8_t *copy = malloc(size);
        if (copy != NULL) {
            memcpy(copy, data, size);
            drop_checksums(copy, size);
            (void)judge(copy, size);
            free(copy);
        }
    }
    return 0;
}
