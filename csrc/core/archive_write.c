/* SPDX-License-Identifier: Apache-2.0
 *
 * The records of a checkpoint, in the order in which torch 1.6 to 2.13 read
 * them happily.  The top folder is always "archive", so the same object gives
 * the same bytes whatever the file's name.
 */
#include "archive.h"

#define TOP "archive/"

/* "archive/data/<number>" in the arena. */
static psd_span
storage_name(psd_arena *arena, uint32_t number)
{
    static const char folder[] = TOP "data/";
    uint8_t name[sizeof folder + 10];
    size_t end = sizeof name, next = end;
    do {
        name[--next] = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    next -= sizeof folder - 1;
    memcpy(name + next, folder, sizeof folder - 1);
    return psd_arena_copy(arena, (psd_span){name + next, end - next});
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
        psd_span name = storage_name(arena, i);
        status = name.data == NULL
                     ? psd_fail(err, PSD_NO_MEMORY, PSD_NOWHERE, "out of memory")
                     : psd_zip_plan_add(plan, name, bytes[i].size, err);
    }
    if (status == PSD_OK) {
        status = psd_zip_plan_add(plan, PSD_LITERAL(TOP "version"), version.size, err);
    }
    return status == PSD_OK ? psd_zip_plan_close(plan, err) : status;
}

static psd_status
pour_records(psd_zip_plan *plan, psd_span program, psd_span byteorder, psd_span version,
             const psd_span *bytes, uint32_t count, psd_sink sink, psd_error *err)
{
    psd_status status = psd_zip_pour(plan, program, sink, err);
    if (status == PSD_OK) {
        status = psd_zip_pour(plan, byteorder, sink, err);
    }
    for (uint32_t i = 0; i < count && status == PSD_OK; i++) {
        status = psd_zip_pour(plan, bytes[i], sink, err);
    }
    if (status == PSD_OK) {
        status = psd_zip_pour(plan, version, sink, err);
    }
    return status == PSD_OK ? psd_zip_pour_end(plan, sink, err) : status;
}

psd_status
psd_archive_write(psd_pool *pool, psd_ref root, const psd_model *model,
                  const psd_span *bytes, const psd_write_options *options,
                  psd_sink sink, psd_error *err)
{
    const psd_span byteorder =
        options->big_endian ? PSD_LITERAL("big") : PSD_LITERAL("little");
    const psd_span version = PSD_LITERAL("3\n");
    psd_buffer program;
    psd_zip_plan plan;
    psd_buffer_init(&program, options->alloc);
    psd_zip_plan_init(&plan, options->alloc, options->checksum);
    psd_status status = psd_torch_write(pool, model, err);
    if (status == PSD_OK) {
        status = psd_pickle_write(pool, root, &program, err);
    }
    psd_span text = psd_buffer_span(&program);
    uint32_t count = model->storage_count;
    if (status == PSD_OK) {
        status = plan_records(&plan, pool->arena, text, byteorder, version, bytes,
                              count, err);
    }
    if (status == PSD_OK) {
        status = pour_records(&plan, text, byteorder, version, bytes, count, sink, err);
    }
    psd_zip_plan_clear(&plan);
    psd_buffer_clear(&program);
    return status;
}
