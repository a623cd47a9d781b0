/* SPDX-License-Identifier: Apache-2.0
 *
 * One road out, and two containers at its end.  Of a zip archive the records stand in
 * the order in which torch 1.6 to 2.13 read them happily; the top folder is always
 * "archive", so the same object gives the same bytes whatever the file's name.
 */
#include "archive.h"

#define TOP "archive/"

/* ---------------------------------------------------------------- zip archives */

/* "archive/data/<key>" in the arena. */
static psd_span
storage_name(psd_arena *arena, uint32_t number, uint32_t count)
{
    static const char folder[] = TOP "data/";
    const size_t size = sizeof folder - 1;
    psd_span key = psd_torch_storage_key(arena, PSD_DIALECT_ZIP, number, count);
    uint8_t *name = key.data == NULL ? NULL : psd_arena_take(arena, size + key.size);
    if (name == NULL) {
        return (psd_span){NULL, 0};
    }
    memcpy(name, folder, size);
    memcpy(name + size, key.data, key.size);
    return (psd_span){name, size + key.size};
}

static psd_status
plan_records(psd_zip_plan *plan, psd_arena *arena, psd_span program, psd_span byteorder,
             psd_span version, const psd_span *bytes, uint32_t count, psd_error *err)
{
    psd_status status =
        psd_zip_plan_add(plan, PSD_LITERAL(TOP "data.pkl"), program.size, err);
    if (status == PSD_OK) {
        status =
            psd_zip_plan_add(plan, PSD_LITERAL(TOP "byteorder"), byteorder.size, err);
    }
    for (uint32_t i = 0; i < count && status == PSD_OK; i++) {
        psd_span name = storage_name(arena, i, count);
        status = name.data == NULL ? psd_fail_memory(err)
                                   : psd_zip_plan_add(plan, name, bytes[i].size, err);
    }
    if (status == PSD_OK) {
        status = psd_zip_plan_add(plan, PSD_LITERAL(TOP "version"), version.size, err);
    }
    return status == PSD_OK ? psd_zip_plan_close(plan, err) : status;
}

static psd_status
pour_records(psd_zip_plan *plan, psd_span program, psd_span byteorder, psd_span version,
             const psd_span *bytes, uint32_t count, psd_supply supply, psd_sink sink,
             psd_error *err)
{
    psd_status status = psd_zip_pour(plan, psd_payload_of(program), sink, err);
    if (status == PSD_OK) {
        status = psd_zip_pour(plan, psd_payload_of(byteorder), sink, err);
    }
    for (uint32_t i = 0; i < count && status == PSD_OK; i++) {
        status = psd_zip_pour(plan, (psd_payload){bytes[i], supply, i}, sink, err);
    }
    if (status == PSD_OK) {
        status = psd_zip_pour(plan, psd_payload_of(version), sink, err);
    }
    return status == PSD_OK ? psd_zip_pour_end(plan, sink, err) : status;
}

static psd_status
write_zip(psd_arena *arena, psd_span program, const psd_model *model,
          const psd_span *bytes, const psd_write_options *options, psd_sink sink,
          psd_error *err)
{
    const psd_span byteorder =
        options->big_endian ? PSD_LITERAL("big") : PSD_LITERAL("little");
    const psd_span version = PSD_LITERAL("3\n");
    uint32_t count = model->storage_count;
    psd_zip_plan plan;
    psd_zip_plan_init(&plan, options->alloc, options->checksum);
    psd_status status =
        plan_records(&plan, arena, program, byteorder, version, bytes, count, err);
    if (status == PSD_OK) {
        status = pour_records(&plan, program, byteorder, version, bytes, count,
                              options->supply, sink, err);
    }
    psd_zip_plan_clear(&plan);
    return status;
}

/* ---------------------------------------------------------------- legacy streams */

/* The storages that some tensor's persistent id tells of. */
static void
find_named(const psd_model *model, bool *named)
{
    memset(named, 0, model->storage_count * sizeof *named);
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        const psd_tensor *t = &model->tensors[i];
        if (t->layout == PSD_LAYOUT_STRIDED && (t->flags & PSD_TENSOR_META) == 0) {
            named[t->storage] = true;
        }
    }
}

static psd_status
write_stream(psd_arena *arena, psd_span program, const psd_model *model,
             const psd_span *bytes, const psd_write_options *options, psd_sink sink,
             psd_error *err)
{
    uint32_t count = model->storage_count, listed = 0;
    psd_stream_storage *storages = psd_arena_take_array(arena, count, sizeof *storages);
    bool *named = psd_arena_take_array(arena, count, sizeof *named);
    if (storages == NULL || named == NULL) {
        return psd_fail_memory(err);
    }
    find_named(model, named);
    for (uint32_t i = 0; i < count; i++) {
        if (!named[i]) {
            continue; /* what the pickle does not know must not be listed */
        }
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)model->storages[i].dtype);
        psd_span key = psd_torch_storage_key(arena, PSD_DIALECT_STREAM, i, count);
        if (key.data == NULL) {
            return psd_fail_memory(err);
        }
        storages[listed++] = (psd_stream_storage){
            .key = key,
            .payload = {bytes[i], options->supply, i},
            .numel = bytes[i].size / row->size,
            .swap_unit = options->big_endian ? row->swap_unit : 1,
        };
    }
    return psd_stream_write(options->alloc, program, storages, listed, sink, err);
}

/* ---------------------------------------------------------------- both */

psd_status
psd_archive_write(psd_pool *pool, psd_ref root, const psd_model *model,
                  const psd_span *bytes, const psd_write_options *options,
                  psd_sink sink, psd_error *err)
{
    psd_buffer program;
    psd_buffer_init(&program, options->alloc);
    psd_status status = psd_torch_write(pool, root, model, options->dialect, err);
    if (status == PSD_OK) {
        status = psd_pickle_write(pool, root, &program, err);
    }
    if (status == PSD_OK && options->dialect == PSD_DIALECT_KEPT) {
        bool written = sink.write(sink.ctx, program.data, program.size);
        status = written ? PSD_OK
                         : psd_fail(err, PSD_SINK, PSD_NOWHERE,
                                    "the target could not be written");
    }
    else if (status == PSD_OK) {
        psd_span text = psd_buffer_span(&program);
        status = options->dialect == PSD_DIALECT_STREAM
                     ? write_stream(pool->arena, text, model, bytes, options, sink, err)
                     : write_zip(pool->arena, text, model, bytes, options, sink, err);
    }
    psd_buffer_clear(&program);
    return status;
}
