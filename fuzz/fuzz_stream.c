/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a legacy stream, the container alone: five pickles, then storages.  A map
 * and a remote object are judged alike; what was found can be poured again, and then
 * holds the same object, keys and bytes.
 */
#include "opcodes.h"

typedef struct {
    psd_arena arena;
    psd_stream stream;
    psd_error err;
} fuzz_run;

static psd_status
start(fuzz_run *run, const psd_input *input, psd_alloc alloc)
{
    psd_limits limits = fuzz_limits();
    psd_arena_init(&run->arena, alloc);
    run->err = (psd_error){0};
    return psd_stream_read(input, &limits, FUZZ_KEY, &run->arena, &run->stream,
                           &run->err);
}

/* The storages as their own counts tell of them; how many there are. */
static uint32_t
walk(const fuzz_run *run, const psd_input *input, psd_stream_storage *storages)
{
    const psd_stream *stream = &run->stream;
    uint64_t offset = stream->data_offset;
    for (uint32_t i = 0; i < stream->key_count; i++) {
        psd_span key = stream->keys[i];
        psd_error err = {0};
        uint64_t before = offset, data = 0, numel = 0, size = 0;
        if (psd_fits(offset, 8, input->size)) {
            numel = psd_load_le64(input->data + offset);
        }
        unsigned item = 1u << (key.size + i) % 4;
        if (!psd_multiply(numel, item, &size)) {
            return i;
        }
        /* Another number of elements is never taken. */
        psd_status status =
            psd_stream_next(input, key, numel ^ 1, size, &offset, &data, &err);
        PROMISE(status != PSD_OK);
        fuzz_expect_told(status, &err);
        PROMISE(offset == before);
        status = psd_stream_next(input, key, numel, size, &offset, &data, &err);
        if (status != PSD_OK) {
            fuzz_expect_told(status, &err);
            PROMISE(offset == before);
            return i;
        }
        PROMISE(data == before + 8 && offset == data + size && offset <= input->size);
        storages[i] = (psd_stream_storage){
            key, psd_payload_of((psd_span){input->data + data, (size_t)size}), numel,
            1};
    }
    return stream->key_count;
}

/* What was poured is found again. */
static void
expect_same(const fuzz_run *run, const psd_stream_storage *storages, uint32_t count,
            psd_alloc alloc)
{
    psd_span program = run->stream.object;
    psd_buffer out;
    psd_error err = {0};
    psd_buffer_init(&out, alloc);
    psd_status status = psd_stream_write(alloc, program, storages, count,
                                         (psd_sink){fuzz_gather, &out}, &err);
    PROMISE(status == PSD_OK);
    fuzz_run again;
    psd_input written = {.data = out.data, .size = out.size};
    status = start(&again, &written, alloc);
    PROMISE(status == PSD_OK && again.stream.whole);
    PROMISE(psd_span_equal(again.stream.object, program));
    PROMISE(again.stream.key_count == count);
    PROMISE(psd_stream_begins(
        (psd_span){out.data, out.size < PSD_STREAM_HEAD ? out.size : PSD_STREAM_HEAD}));
    uint64_t offset = again.stream.data_offset, data;
    for (uint32_t i = 0; i < count; i++) {
        psd_span bytes = storages[i].payload.bytes;
        PROMISE(psd_span_equal(again.stream.keys[i], storages[i].key));
        PROMISE(psd_stream_next(&written, storages[i].key, storages[i].numel,
                                bytes.size, &offset, &data, &err) == PSD_OK);
        PROMISE(psd_span_equal(bytes, (psd_span){out.data + data, bytes.size}));
    }
    PROMISE(offset == out.size);
    psd_arena_clear(&again.arena);
    psd_buffer_clear(&out);
}

static void
check(const fuzz_run *run, const psd_input *input, psd_alloc alloc)
{
    const psd_stream *stream = &run->stream;
    PROMISE(psd_fits(stream->object_offset, stream->object.size, input->size));
    PROMISE(stream->object.size == 0 ||
            memcmp(stream->object.data, input->data + stream->object_offset,
                   stream->object.size) == 0);
    if (!stream->whole) {
        PROMISE(stream->key_count == 0);
        return;
    }
    PROMISE(stream->data_offset <= input->size);
    PROMISE(stream->object_offset + stream->object.size <= stream->data_offset);
    psd_arena arena;
    psd_arena_init(&arena, alloc);
    psd_stream_storage *storages =
        psd_arena_take_array(&arena, stream->key_count, sizeof *storages);
    if (storages != NULL) {
        expect_same(run, storages, walk(run, input, storages), alloc);
    }
    psd_arena_clear(&arena);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_heap heap = {0};
    psd_alloc alloc = fuzz_alloc(&heap);
    fuzz_file file = {data, size};
    psd_input map = {.data = data, .size = size};
    psd_input remote = {.size = size, .read = fuzz_read_range, .ctx = &file};
    fuzz_run run, apart;
    psd_status status = start(&run, &map, alloc);
    PROMISE(start(&apart, &remote, alloc) == status);
    PROMISE(apart.err.offset == run.err.offset);
    psd_arena_clear(&apart.arena);
    if (status == PSD_OK) {
        check(&run, &map, alloc);
    }
    else {
        fuzz_expect_told(status, &run.err);
    }
    psd_arena_clear(&run.arena);
    fuzz_expect_frugal(&heap, size);
    return 0;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_mutate_program(data, size, room, seed);
}
