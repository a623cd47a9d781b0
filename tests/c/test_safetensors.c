/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors headers: what is accepted, what is refused and by which name; damage,
 * memory that runs out, and the archive that becomes of them.
 */
#include "archive_kit.h"

static check_heap heap;

/* ---------------------------------------------------------------- headers by hand */

/* A header that was read, with all it needs; the JSON ends at a guard page. */
typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_limits limits;
    psd_safetensors header;
    check_guarded json;
    psd_error err;
    psd_status status;
} header_read;

static void
read_json(header_read *r, const char *json, size_t size, uint64_t room,
          unsigned long fail_at)
{
    memset(&r->heap, 0, sizeof r->heap);
    memset(&r->err, 0, sizeof r->err);
    r->heap.fail_at = fail_at;
    psd_arena_init(&r->arena, check_alloc(&r->heap));
    psd_safetensors_init(&r->header, check_alloc(&r->heap));
    r->json = check_guard(json, size);
    r->status = psd_safetensors_read(&r->header, r->json.data, size, room, &r->limits,
                                     KIT_KEY, &r->arena, &r->err);
}

static void
end_reading(header_read *r)
{
    psd_safetensors_clear(&r->header);
    psd_arena_clear(&r->arena);
    check_unguard(&r->json);
    CHECK_UINT(r->heap.live, 0);
}

static psd_status
status_of(const char *json, uint64_t room)
{
    header_read r = {.limits = psd_default_limits()};
    read_json(&r, json, strlen(json), room, 0);
    CHECK(r.status == PSD_OK || r.err.status == r.status);
    CHECK(r.status == PSD_OK || r.err.sentence != NULL);
    psd_status status = r.status;
    end_reading(&r);
    return status;
}

#define ENTRY(dtype, shape, begin, end)                                               \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end \
    "]}"
#define TWO ENTRY("U8", "2", "0", "2") /* two bytes */

static bool
is_name(psd_span found, const char *expected)
{
    return psd_span_equal(found, kit_text(expected));
}

/* ---------------------------------------------------------------- accepted */

static void
test_one_header(void)
{
    static const char json[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\":\"\"},"
        "\"w\":" ENTRY("F32", "2,3", "0", "24") ",\n \"s\" : " ENTRY(
            "BF16", "", "24", "26") ",\"e\":" ENTRY("I64", "0,7", "26", "26") "}  ";
    header_read r = {.limits = psd_default_limits()};
    read_json(&r, json, sizeof json - 1, 26, 0);
    const psd_safetensor *t = r.header.tensors;
    CHECK_UINT(r.status, PSD_OK);
    CHECK_UINT(r.header.count, 3);
    CHECK(is_name(t[0].name, "w") && t[0].dtype == PSD_DTYPE_FLOAT32);
    CHECK(t[0].rank == 2 && t[0].shape[0] == 2 && t[0].shape[1] == 3);
    CHECK(t[0].shape[2] == 3 && t[0].shape[3] == 1);
    CHECK(is_name(t[1].name, "s") && t[1].dtype == PSD_DTYPE_BFLOAT16);
    CHECK(t[1].rank == 0 && t[1].begin == 24 && t[1].end == 26);
    CHECK(is_name(t[2].name, "e") && t[2].shape[0] == 0 && t[2].shape[2] == 7);
    CHECK(r.header.has_notes && r.header.note_count == 4);
    CHECK(is_name(r.header.notes[0], "format") && is_name(r.header.notes[1], "pt"));
    CHECK(is_name(r.header.notes[2], "\xc3\xa9") && is_name(r.header.notes[3], ""));
    end_reading(&r);
}

static void
test_every_dtype(void)
{
    static const struct {
        const char *name;
        psd_dtype dtype;
        unsigned bits;
    } all[] = {
        {"BOOL", PSD_DTYPE_BOOL, 8},
        {"F4", PSD_DTYPE_FLOAT4_E2M1FN_X2, 4},
        {"U8", PSD_DTYPE_UINT8, 8},
        {"I8", PSD_DTYPE_INT8, 8},
        {"F8_E5M2", PSD_DTYPE_FLOAT8_E5M2, 8},
        {"F8_E4M3", PSD_DTYPE_FLOAT8_E4M3FN, 8},
        {"F8_E8M0", PSD_DTYPE_FLOAT8_E8M0FNU, 8},
        {"F8_E4M3FNUZ", PSD_DTYPE_FLOAT8_E4M3FNUZ, 8},
        {"F8_E5M2FNUZ", PSD_DTYPE_FLOAT8_E5M2FNUZ, 8},
        {"I16", PSD_DTYPE_INT16, 16},
        {"U16", PSD_DTYPE_UINT16, 16},
        {"F16", PSD_DTYPE_FLOAT16, 16},
        {"BF16", PSD_DTYPE_BFLOAT16, 16},
        {"I32", PSD_DTYPE_INT32, 32},
        {"U32", PSD_DTYPE_UINT32, 32},
        {"F32", PSD_DTYPE_FLOAT32, 32},
        {"C64", PSD_DTYPE_COMPLEX64, 64},
        {"F64", PSD_DTYPE_FLOAT64, 64},
        {"I64", PSD_DTYPE_INT64, 64},
        {"U64", PSD_DTYPE_UINT64, 64},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char json[200];
        unsigned bytes = 12 * all[i].bits / 8;
        int size = snprintf(json, sizeof json,
                            "{\"t\":{\"data_offsets\":[0,%u],\"shape\":[3,4],"
                            "\"dtype\":\"%s\"}}",
                            bytes, all[i].name);
        header_read r = {.limits = psd_default_limits()};
        read_json(&r, json, (size_t)size, bytes, 0);
        CHECK_UINT(r.status, PSD_OK);
        CHECK_UINT(r.header.tensors[0].dtype, all[i].dtype);
        size_t item = psd_dtype_row(all[i].dtype)->size;
        const int64_t *shape = r.header.tensors[0].shape;
        CHECK_UINT((uint64_t)(shape[0] * shape[1]) * item, bytes);
        CHECK(shape[1] == (all[i].bits == 4 ? 2 : 4) && shape[2] == shape[1]);
        end_reading(&r);
    }
}

/* In the order of their bytes, whatever the order of the header. */
static void
test_order(void)
{
    enum { COUNT = 100 };
    psd_buffer json;
    psd_buffer_init(&json, check_alloc(&heap));
    for (int i = 0; i < COUNT; i++) {
        char entry[120];
        int at = i * 37 % COUNT; /* every one once */
        int size = snprintf(entry, sizeof entry,
                            "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[%d],"
                            "\"data_offsets\":[%d,%d]}",
                            i == 0 ? "{" : ",", at, at % 2, at / 2, (at + 1) / 2);
        psd_put(&json, entry, (size_t)size);
    }
    psd_put(&json, "}", 1);
    header_read r = {.limits = psd_default_limits()};
    read_json(&r, (const char *)json.data, json.size, COUNT / 2, 0);
    CHECK_UINT(r.status, PSD_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "t%u", i);
        CHECK(is_name(r.header.tensors[i].name, name));
    }
    end_reading(&r);
    psd_buffer_clear(&json);
}

static void
test_escapes(void)
{
    static const char json[] = "{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u007F\\u07ff"
                               "\\uFfFf\\ud83D\\uDe00 \xf0\x9f\x98\x80\":" TWO "}";
    static const char name[] = "\"\\/\b\f\n\r\t\0\x7f\xdf\xbf\xef\xbf\xbf"
                               "\xf0\x9f\x98\x80 \xf0\x9f\x98\x80";
    header_read r = {.limits = psd_default_limits()};
    read_json(&r, json, sizeof json - 1, 2, 0);
    CHECK_UINT(r.status, PSD_OK);
    CHECK(psd_span_equal(r.header.tensors[0].name,
                         (psd_span){(const uint8_t *)name, sizeof name - 1}));
    end_reading(&r);
}

static void
test_more_that_is_accepted(void)
{
    static const char *const two[] = {
        "{\"a\":" TWO "}\n\t\r ",
        "{\"__metadata__\":null,\"a\":" TWO "}",
        "{\"a\":" TWO ",\"__metadata__\":{}}",
        "{\"a\":{\"dtype\":\"U8\",\"more\":[1,-2.5e+3,{\"x\":[null,true,false,\"\\\"\"]"
        ",\"y\":{}},[]],\"shape\":[2],\"data_offsets\":[0,2],\"0\":0.1}}",
        "{\"\":" TWO "}",
        "{\"__metadata__\":{\"a\":\"b\"},\"a\":" TWO "}",
    };
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) {
        CHECK_UINT(status_of(two[i], 2), PSD_OK);
    }
    CHECK_UINT(status_of("{}", 0), PSD_OK);
    CHECK_UINT(
        status_of("{\"z\":" ENTRY("F64", "0,9223372036854775807,2", "0", "0") "}", 0),
        PSD_OK);
    CHECK_UINT(
        status_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],"
                  "\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]}}",
                  2),
        PSD_OK);
}

/* ---------------------------------------------------------------- refused */

static void
test_broken_json(void)
{
    static const char *const broken[] = {
        "",
        "{",
        "[]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":" TWO,
        "{\"a\":" TWO ",}",
        "{,\"a\":" TWO "}",
        "{\"a\":" TWO "}x",
        "{\"a\":" TWO "}{}",
        "{\"a\" " TWO "}",
        "{a:" TWO "}",
        "{\"a\":null}",
        "{\"a\":[\"U8\",[2],[0,2]]}",
        "{\"__metadata__\":[],\"a\":" TWO "}",
        "{\"__metadata__\":{\"a\":1},\"a\":" TWO "}",
        "{\"__metadata__\":{\"a\":null},\"a\":" TWO "}",
        "{\"__metadata__\":nul,\"a\":" TWO "}",
        "{\"__metadata__\":{},\"__metadata__\":{},\"a\":" TWO "}",
        "{\"__metadata__\":null,\"__metadata__\":null,\"a\":" TWO "}",
        "{\"__metadata__\":{\"x\":\"1\",\"\\u0078\":\"1\"},\"a\":" TWO "}",
        "{\"a\":" TWO ",\"a\":" ENTRY("U8", "0", "2", "2") "}",
        "{\"a\":" TWO ",\"\\u0061\":" ENTRY("U8", "0", "2", "2") "}",
        "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2]}}",
        "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,2]}}",
        "{\"a\":{\"shape\":[2],\"data_offsets\":[0,2]}}",
        "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]"
        "}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,2]}}",
        "{\"a\":{\"dtype\":8,\"shape\":[2],\"data_offsets\":[0,2]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2,2]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":01}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":1.}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":1e}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":-}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":[1}}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":[1 2]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":{1:2}}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":nope}}",
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        psd_status status = status_of(broken[i], 2);
        CHECK_UINT(status, PSD_SAFETENSORS);
        if (status != PSD_SAFETENSORS) {
            (void)fprintf(stderr, "    %s\n", broken[i]);
        }
    }
}

static void
test_broken_numbers(void)
{
    static const char *const sizes[] = {
        "2.0",
        "2e0",
        "-2",
        "+2",
        "02",
        "",
        "0x2",
        "18446744073709551616",
        "2,",
        "\"2\"",
        "null",
        "9223372036854775808,0",
        "99999999999999999999999",
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char json[200];
        (void)snprintf(json, sizeof json,
                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[%s],"
                       "\"data_offsets\":[0,2]}}",
                       sizes[i]);
        CHECK_UINT(status_of(json, 2), PSD_SAFETENSORS);
    }
}

static void
test_broken_texts(void)
{
    static const char *const names[] = {
        "\\x",
        "\\",
        "\\u12",
        "\\u12g4",
        "\\ud800",
        "\\udc00",
        "\\ud800\\u0041",
        "\\ud800x",
        "\n",
        "\x1f",
        "\x80",
        "\xc0\x80",
        "\xc3",
        "\xe0\x80\x80",
        "\xed\xa0\x80",
        "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xff",
        "\xe2\x82",
        "\xf0\x9f\x98",
        "\xe2\x28\xa1",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char json[200];
        (void)snprintf(json, sizeof json, "{\"%s\":" TWO "}", names[i]);
        CHECK_UINT(status_of(json, 2), PSD_SAFETENSORS);
    }
    /* The end of the JSON within a character, an escape, a pair. */
    static const char *const ends[] = {"{\"\xe2\x82", "{\"\\", "{\"\\u00",
                                       "{\"\\ud83d\\u", "{\"abc"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        CHECK_UINT(status_of(ends[i], 2), PSD_SAFETENSORS);
    }
}

static void
test_places(void)
{
    CHECK_UINT(status_of("{\"a\":" ENTRY("U8", "2", "1", "3") "}", 3), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" ENTRY("U8", "2", "2", "0") "}", 2), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" ENTRY("U8", "2", "0", "3") "}", 3), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" TWO ",\"b\":" TWO "}", 2), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" TWO ",\"b\":" ENTRY("U8", "2", "1", "3") "}", 3),
               PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" TWO ",\"b\":" ENTRY("U8", "0", "1", "1") "}", 2),
               PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" TWO "}", 3), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{}", 1), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" TWO "}", 1), PSD_TRUNCATED);
    /* Products that wrap, and sizes that end within a byte. */
    CHECK_UINT(
        status_of("{\"a\":" ENTRY("U8", "4294967296,4294967296,2", "0", "0") "}", 0),
        PSD_SAFETENSORS);
    CHECK_UINT(
        status_of("{\"a\":" ENTRY("F64", "2305843009213693952", "0", "0") "}", 0),
        PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" ENTRY("F4", "3", "0", "1") "}", 1), PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" ENTRY("F4", "", "0", "0") "}", 0), PSD_SAFETENSORS);
}

static void
test_dtypes_that_torch_has_not(void)
{
    CHECK_UINT(status_of("{\"a\":" ENTRY("F6_E2M3", "4", "0", "3") "}", 3),
               PSD_ELEMENT);
    CHECK_UINT(status_of("{\"a\":" ENTRY("F6_E3M2", "4", "0", "3") "}", 3),
               PSD_ELEMENT);
    CHECK_UINT(status_of("{\"a\":" ENTRY("F6_E3M2", "3", "0", "3") "}", 3),
               PSD_SAFETENSORS);
    CHECK_UINT(status_of("{\"a\":" ENTRY("F128", "4", "0", "3") "}", 3), PSD_ELEMENT);
    CHECK_UINT(status_of("{\"a\":" ENTRY("", "4", "0", "3") "}", 3), PSD_ELEMENT);
    CHECK_UINT(status_of("{\"a\":" ENTRY("F4", "2,3", "0", "3") "}", 3), PSD_ELEMENT);
}

static void
test_errors_tell_where(void)
{
    static const char json[] = "{\"a\":" TWO ",\"broken\":{\"dtype\":\"U8\"}}";
    header_read r = {.limits = psd_default_limits()};
    read_json(&r, json, sizeof json - 1, 2, 0);
    CHECK_UINT(r.status, PSD_SAFETENSORS);
    CHECK_UINT(r.err.subject_size, 6);
    CHECK(memcmp(r.err.subject, "broken", 6) == 0);
    CHECK_UINT(r.err.offset, 8 + sizeof json - 1 - 1);
    end_reading(&r);
    static const char twice[] = "{\"a\":" TWO ",\"a\":" TWO "}";
    read_json(&r, twice, sizeof twice - 1, 2, 0);
    CHECK_UINT(r.err.offset, 8 + sizeof "{'a':" TWO ",'" - 1);
    end_reading(&r);
}

static void
test_limits(void)
{
    static const char json[] = "{\"a\":" TWO ",\"b\":" ENTRY("U8", "1,1", "2", "3") "}";
    header_read r = {.limits = psd_default_limits()};
    r.limits.entries = 2;
    r.limits.rank = 2;
    read_json(&r, json, sizeof json - 1, 3, 0);
    CHECK_UINT(r.status, PSD_OK);
    end_reading(&r);
    r.limits.rank = 1;
    read_json(&r, json, sizeof json - 1, 3, 0);
    CHECK_UINT(r.status, PSD_LIMIT);
    CHECK(r.err.found == 2 && r.err.expected == 1);
    end_reading(&r);
    r.limits.rank = 64;
    r.limits.entries = 1;
    read_json(&r, json, sizeof json - 1, 3, 0);
    CHECK_UINT(r.status, PSD_LIMIT);
    CHECK(r.err.found == 2 && r.err.expected == 1);
    end_reading(&r);
    char deep[600], wide[600] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1";
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":{\"x\":", 10);
    deep[sizeof deep - 1] = 0;
    CHECK_UINT(status_of(deep, 0), PSD_SAFETENSORS);
    for (int i = 0; i < 64; i++) {
        strcat(wide, ",1");
    }
    strcat(wide, "],\"data_offsets\":[0,1]}}");
    CHECK_UINT(status_of(wide, 1), PSD_LIMIT);
}

/* ---------------------------------------------------------------- whole files */

static const char small_json[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"a\":\"\\n\"},\"w\":" ENTRY(
        "F32", "2", "0", "8") ",\"b\":" ENTRY("U8", "3", "8", "11") "}   ";

static psd_buffer
file_of(const char *json, uint64_t length, psd_span data)
{
    psd_buffer b;
    psd_buffer_init(&b, check_alloc(&heap));
    psd_put_u64(&b, length);
    psd_put_span(&b, kit_text(json));
    psd_put_span(&b, data);
    return b;
}

static psd_buffer
small_file(void)
{
    return file_of(small_json, sizeof small_json - 1,
                   PSD_LITERAL("eightby\xff"
                               "abc"));
}

static void
check_model(opening *o)
{
    const psd_model *m = &o->archive.model;
    for (uint32_t i = 0; i < m->storage_count; i++) {
        psd_location where;
        CHECK_UINT(psd_archive_locate(&o->archive, &o->input, i, &where, &o->err),
                   PSD_OK);
        CHECK_UINT(where.place, PSD_PLACE_FILE);
        CHECK(psd_fits(where.offset, m->storages[i].size, o->input.size));
    }
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        const psd_tensor *t = &m->tensors[i];
        size_t item = psd_dtype_row((psd_dtype)t->dtype)->size;
        CHECK(t->numel * item == m->storages[t->storage].size);
    }
}

static psd_status
explore(psd_span bytes)
{
    opening o;
    open_bytes(&o, bytes);
    run_archive(&o);
    psd_status status = o.status;
    if (status == PSD_OK && o.archive.kind == PSD_ARCHIVE_SAFETENSORS) {
        check_model(&o);
    }
    else {
        CHECK(o.err.status == status && o.err.sentence != NULL);
    }
    close_archive(&o);
    return status;
}

static void
test_a_file(void)
{
    psd_buffer file = small_file();
    opening o;
    open_bytes(&o, psd_buffer_span(&file));
    CHECK_UINT(o.status, PSD_OK);
    CHECK_UINT(o.archive.kind, PSD_ARCHIVE_SAFETENSORS);
    CHECK_UINT(o.archive.program.size, sizeof small_json - 1);
    run_archive(&o);
    CHECK_UINT(o.status, PSD_OK);
    check_model(&o);
    const psd_model *m = &o.archive.model;
    CHECK(m->storage_count == 2 && m->tensor_count == 2);
    CHECK(is_name(m->storages[1].key, "b") && is_name(m->storages[0].location, "cpu"));
    const psd_pool *pool = &o.archive.pool;
    const psd_call *root = psd_value_at(pool, o.archive.pickle.root)->as.call;
    CHECK_UINT(root->item_count, 4);
    CHECK(psd_text_is(psd_value_at(pool, root->items[2]), PSD_LITERAL("b")));
    CHECK_UINT(psd_value_at(pool, root->items[3])->kind, PSD_KIND_TENSOR);
    const psd_value *state = psd_value_at(pool, root->state);
    CHECK(state->kind == PSD_KIND_DICT && state->count == 2);
    CHECK(state->as.items[1] == o.archive.notes);
    const psd_value *notes = psd_value_at(pool, o.archive.notes);
    CHECK(notes->count == 4 &&
          psd_text_is(psd_value_at(pool, notes->as.items[3]), PSD_LITERAL("\n")));
    uint32_t crc;
    CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 1, &crc, &o.err),
               PSD_OK);
    CHECK_UINT(crc, psd_crc32(0, (const uint8_t *)"abc", 3));
    close_archive(&o);
    psd_buffer_clear(&file);
}

static void
test_lengths(void)
{
    const psd_span data = PSD_LITERAL("ab");
    static const char json[] = "{\"a\":" TWO "}";
    static const struct {
        uint64_t length;
        psd_status status;
    } rows[] = {
        {sizeof json - 1, PSD_OK},
        {sizeof json, PSD_SAFETENSORS}, /* one byte of the data is taken for JSON */
        {sizeof json + 2, PSD_TRUNCATED},
        {100000000, PSD_TRUNCATED},
        {100000001, PSD_SAFETENSORS},
        {UINT32_MAX, PSD_SAFETENSORS},
        {(uint64_t)UINT32_MAX + 1, PSD_NOT_ZIP},
        {UINT64_MAX, PSD_NOT_ZIP},
        {2, PSD_SAFETENSORS},
        {1, PSD_NOT_ZIP},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        psd_buffer file = file_of(json, rows[i].length, data);
        CHECK_UINT(explore(psd_buffer_span(&file)), rows[i].status);
        psd_buffer_clear(&file);
    }
    psd_buffer file = file_of(json, sizeof json - 1, data);
    psd_limits limits = psd_default_limits();
    limits.pickle_size = sizeof json - 2;
    opening o;
    open_input(&o, (psd_input){.data = file.data, .size = file.size}, &limits, 0);
    CHECK_UINT(o.status, PSD_LIMIT);
    close_archive(&o);
    limits = psd_default_limits();
    limits.values = 3;
    open_input(&o, (psd_input){.data = file.data, .size = file.size}, &limits, 0);
    run_archive(&o);
    CHECK_UINT(o.status, PSD_LIMIT);
    close_archive(&o);
    psd_buffer_clear(&file);
}

static void
test_every_truncation(void)
{
    psd_buffer file = small_file();
    for (size_t size = 0; size < file.size; size++) {
        check_guarded g = check_guard(file.data, size);
        psd_status status = explore((psd_span){g.data, g.size});
        CHECK_UINT(status, size < PSD_SAFETENSORS_HEAD ? PSD_NOT_ZIP : PSD_TRUNCATED);
        check_unguard(&g);
    }
    psd_buffer_clear(&file);
}

/* Any byte of the header may be any other: what is then still accepted keeps its
 * promises. */
static void
test_every_mutation(void)
{
    psd_buffer file = small_file();
    check_guarded g = check_guard(file.data, file.size);
    unsigned noticed = 0, passed = 0;
    for (size_t i = 0; i < file.size - 11; i++) {
        for (unsigned change = 1; change < 256; change++) {
            g.data[i] = (uint8_t)(file.data[i] ^ change);
            if (explore((psd_span){g.data, g.size}) == PSD_OK) {
                passed++;
            }
            else {
                noticed++;
            }
        }
        g.data[i] = file.data[i];
    }
    CHECK(noticed > 4 * passed && passed > 0);
    check_unguard(&g);
    psd_buffer_clear(&file);
}

/* Pieces that fell out, or came twice. */
static void
test_pieces(void)
{
    psd_buffer file = small_file();
    uint8_t *bytes = malloc(2 * file.size);
    for (size_t at = 0; at < file.size; at++) {
        for (size_t piece = 1; piece < file.size - at; piece += 5) {
            memcpy(bytes, file.data, at);
            memcpy(bytes + at, file.data + at + piece, file.size - at - piece);
            check_guarded g = check_guard(bytes, file.size - piece);
            (void)explore((psd_span){g.data, g.size});
            check_unguard(&g);
            memcpy(bytes + at, file.data + at, piece);
            memcpy(bytes + at + piece, file.data + at, file.size - at);
            g = check_guard(bytes, file.size + piece);
            (void)explore((psd_span){g.data, g.size});
            check_unguard(&g);
        }
    }
    free(bytes);
    psd_buffer_clear(&file);
}

/* ---------------------------------------------------------------- memory and work */

static void
test_every_failing_request(void)
{
    psd_buffer file = small_file();
    psd_limits limits = psd_default_limits();
    unsigned long n = 0;
    psd_status status;
    do {
        opening o;
        open_input(&o, (psd_input){.data = file.data, .size = file.size}, &limits, ++n);
        run_archive(&o);
        status = o.status;
        CHECK(status == PSD_OK || status == PSD_NO_MEMORY);
        CHECK(status == PSD_OK || o.err.status == PSD_NO_MEMORY);
        close_archive(&o);
    } while (status != PSD_OK && n < 1000);
    CHECK(n > 8 && n < 1000);
    psd_buffer_clear(&file);
}

/* A header of n tensors: what it takes, counted in memory, grows as n does. */
static size_t
memory_of(unsigned count)
{
    psd_buffer json;
    psd_buffer_init(&json, check_alloc(&heap));
    for (unsigned i = 0; i < count; i++) {
        char entry[120];
        int size = snprintf(entry, sizeof entry,
                            "%s\"layer.%08u\":{\"dtype\":\"U8\",\"shape\":[1],"
                            "\"data_offsets\":[%08u,%08u]}",
                            i == 0 ? "{" : ",", i, i + 10000000, i + 10000001);
        psd_put(&json, entry, (size_t)size);
    }
    psd_put(&json, "}", 1);
    header_read r = {.limits = psd_default_limits()};
    read_json(&r, (const char *)json.data, json.size, count, 0);
    CHECK_UINT(r.status, PSD_SAFETENSORS); /* the first has a gap before it */
    CHECK_UINT(r.header.count, count);
    size_t live = r.heap.live;
    end_reading(&r);
    psd_buffer_clear(&json);
    return live;
}

static void
test_growth(void)
{
    size_t one = memory_of(1 << 12), eight = memory_of(1 << 15);
    CHECK(eight <= 9 * one && one < (size_t)200 << 12);
}

/* ---------------------------------------------------------------- described archives */

static psd_status
describe_record(opening *o, uint64_t size, uint32_t skip, uint32_t entry, bool lasting)
{
    static const int64_t numbers[] = {4, 1};
    const psd_storage storage = {.key = PSD_LITERAL("k"),
                                 .size = size,
                                 .dtype = PSD_DTYPE_UINT8,
                                 .place = PSD_PLACE_RECORD,
                                 .skip = skip,
                                 .at.entry = entry};
    const psd_tensor tensor = {
        .shape = numbers, .strides = numbers + 1, .dtype = PSD_DTYPE_UINT8, .rank = 1};
    const psd_span name = PSD_LITERAL("t");
    psd_description told = {.storages = &storage,
                            .names = &name,
                            .tensors = &tensor,
                            .storage_count = 1,
                            .tensor_count = 1,
                            .lasting = lasting};
    return psd_archive_describe(&o->archive, &o->input, &told, &o->err);
}

static void
open_records(opening *o, psd_span bytes, psd_open_mode mode)
{
    memset(o, 0, sizeof *o);
    o->input = (psd_input){.data = bytes.data, .size = bytes.size};
    psd_options options = {.alloc = check_alloc(&o->heap),
                           .limits = psd_default_limits(),
                           .key = KIT_KEY,
                           .mode = mode,
                           .inflate = inflate_stored,
                           .inflate_ctx = &o->inflater};
    psd_archive_init(&o->archive, &options);
    o->status = psd_archive_open(&o->archive, &o->input, &o->err);
}

/* A storage that is the end of its record, stored or deflated. */
static void
test_the_end_of_a_record(void)
{
    uint8_t room[32];
    kit_record records[] = {
        record("a", PSD_LITERAL("head:data")),
        {.name = PSD_LITERAL("A"),
         .data = deflate_stored(PSD_LITERAL("head:data"), room),
         .method = 8,
         .size = 9},
    };
    kit_archive a = kit_build(check_alloc(&heap), records, 2, false);
    for (uint32_t i = 0; i < 2; i++) {
        opening o;
        psd_location where;
        open_records(&o, psd_buffer_span(&a.bytes), PSD_OPEN_EXACT);
        CHECK_UINT(o.status, PSD_OK);
        CHECK_UINT(describe_record(&o, 4, 5, i, i == 1), PSD_OK);
        CHECK_UINT(psd_archive_locate(&o.archive, &o.input, 0, &where, &o.err), PSD_OK);
        CHECK_UINT(where.place, i == 0 ? PSD_PLACE_FILE : PSD_PLACE_RECORD);
        CHECK_UINT(where.skip, 5);
        CHECK(i == 1 || memcmp(a.bytes.data + where.offset, "data", 4) == 0);
        uint32_t crc;
        CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 0, &crc, &o.err),
                   PSD_OK);
        CHECK_UINT(crc, psd_crc32(0, (const uint8_t *)"data", 4));
        /* What is deflated takes memory for a while. */
        o.heap.fail_at = o.heap.requests + 1;
        psd_status status =
            psd_archive_storage_crc32(&o.archive, &o.input, 0, &crc, &o.err);
        CHECK_UINT(status, i == 0 ? PSD_OK : PSD_NO_MEMORY);
        CHECK(i == 0 || (o.err.status == PSD_NO_MEMORY && crc == 0));
        close_archive(&o);
    }
    static const struct {
        uint64_t size;
        uint32_t skip, entry;
    } wrong[] = {{9, 5, 0},          {4, 6, 0},           {4, 4, 0},
                 {4, UINT32_MAX, 0}, {UINT64_MAX, 10, 0}, {4, 5, 2}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        opening o;
        open_records(&o, psd_buffer_span(&a.bytes), PSD_OPEN_EXACT);
        CHECK_UINT(
            describe_record(&o, wrong[i].size, wrong[i].skip, wrong[i].entry, false),
            PSD_STORAGE);
        close_archive(&o);
    }
    /* Where case does not count, the two names are one. */
    opening o;
    open_records(&o, psd_buffer_span(&a.bytes), PSD_OPEN_RECORDS);
    CHECK_UINT(o.status, PSD_DUPLICATE);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

/* Fewer bytes than the length takes, whoever asks; nothing is asked of the host. */
static void
test_a_file_without_a_length(void)
{
    psd_limits limits = psd_default_limits();
    for (size_t size = 0; size < 8; size++) {
        check_guarded g = check_guard("\2\0\0\0\0\0\0", size);
        check_heap own = {0};
        psd_arena arena;
        psd_arena_init(&arena, check_alloc(&own));
        psd_input input = {.data = g.data, .size = size};
        psd_error err;
        uint8_t *json = NULL;
        size_t json_size = 0;
        CHECK_UINT(
            psd_safetensors_fetch(&input, &limits, &arena, &json, &json_size, &err),
            PSD_TRUNCATED);
        CHECK(strcmp(err.sentence, "the file ends before these bytes") == 0);
        CHECK_UINT(err.found, size);
        CHECK_UINT(err.expected, 8);
        CHECK(json == NULL);
        CHECK_UINT(own.requests, 0);
        check_unguard(&g);
    }
}

static void
test_exact_names(void)
{
    kit_record records[] = {record("x\\y", PSD_LITERAL("1")),
                            record("x/y", PSD_LITERAL("2"))};
    for (unsigned same = 0; same < 2; same++) {
        records[1].name = same == 1 ? records[0].name : PSD_LITERAL("x/y");
        kit_archive a = kit_build(check_alloc(&heap), records, 2, false);
        opening o;
        open_records(&o, psd_buffer_span(&a.bytes), PSD_OPEN_EXACT);
        CHECK_UINT(o.status, same == 1 ? PSD_DUPLICATE : PSD_OK);
        if (same == 0) {
            CHECK(psd_zip_find(&o.archive.zip, PSD_LITERAL("x/y")) ==
                  &o.archive.zip.entries[1]);
            CHECK(psd_zip_find(&o.archive.zip, PSD_LITERAL("X/y")) == NULL);
        }
        close_archive(&o);
        psd_buffer_clear(&a.bytes);
    }
}

/* Names that differ by case alone are all there, and may not crowd one place of the
 * index: whoever makes up such a file would make it slow to open. */
static void
test_exact_names_stand_apart(void)
{
    enum { COUNT = 4096, LENGTH_OF_NAME = 12 };
    static uint8_t texts[COUNT][LENGTH_OF_NAME];
    static kit_record records[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        for (unsigned bit = 0; bit < LENGTH_OF_NAME; bit++) {
            texts[i][bit] = (uint8_t)((i >> bit & 1) != 0 ? 'A' : 'a');
        }
        records[i] = record("", PSD_LITERAL(""));
        records[i].name = (psd_span){texts[i], LENGTH_OF_NAME};
    }
    kit_archive a = kit_build(check_alloc(&heap), records, COUNT, false);
    opening o;
    open_records(&o, psd_buffer_span(&a.bytes), PSD_OPEN_EXACT);
    CHECK_UINT(o.status, PSD_OK);
    const psd_zip *zip = &o.archive.zip;
    uint32_t run = 0, longest = 0;
    for (uint32_t i = 0; i <= zip->slot_mask; i++) {
        run = zip->slots[i].number == 0 ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    CHECK(longest < COUNT / 8);
    CHECK(psd_zip_find(zip, records[COUNT - 1].name) == &zip->entries[COUNT - 1]);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

/* Of a record that states no CRC it is computed, and of memory; none of no bytes. */
static void
test_storage_crc32(void)
{
    kit_record records[SMALL_COUNT];
    small_records(records);
    kit_archive a = kit_build(check_alloc(&heap), records, SMALL_COUNT, false);
    uint8_t *p = a.bytes.data + a.directory;
    for (size_t i = 0; i < SMALL_COUNT; i++) {
        psd_store_le32(p + 16, i == 2 ? 7 : 0); /* stated wrongly, or not at all */
        psd_store_le32(a.bytes.data + records[i].header_offset + 14, i == 2 ? 7 : 0);
        p += 46 + records[i].name.size;
    }
    opening o;
    uint32_t crc;
    open_bytes(&o, psd_buffer_span(&a.bytes));
    run_archive(&o);
    CHECK_UINT(o.status, PSD_OK);
    CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 0, &crc, &o.err),
               PSD_OK);
    CHECK_UINT(crc, 7);
    CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 1, &crc, &o.err),
               PSD_OK);
    CHECK_UINT(crc, psd_crc32(0, (const uint8_t *)"abc", 3));
    psd_storage *s = &o.archive.model.storages[1];
    s->place = PSD_PLACE_MEMORY;
    s->at.memory = (const uint8_t *)"xyz";
    CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 1, &crc, &o.err),
               PSD_OK);
    CHECK_UINT(crc, psd_crc32(0, (const uint8_t *)"xyz", 3));
    s->place = PSD_PLACE_NONE;
    CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 1, &crc, &o.err),
               PSD_OK);
    CHECK_UINT(crc, 0);
    /* Of one whose header is damaged there is none. */
    a.bytes.data[records[2].header_offset] = 'X';
    CHECK_UINT(psd_archive_storage_crc32(&o.archive, &o.input, 0, &crc, &o.err),
               PSD_ZIP);
    CHECK(strcmp(o.err.sentence, "no record where the directory says") == 0);
    CHECK(ABOUT_ENTRY(&o, "m/data/0"));
    CHECK_UINT(crc, 0);
    close_archive(&o);
    psd_buffer_clear(&a.bytes);
}

int
main(void)
{
    RUN(test_one_header);
    RUN(test_every_dtype);
    RUN(test_order);
    RUN(test_escapes);
    RUN(test_more_that_is_accepted);
    RUN(test_broken_json);
    RUN(test_broken_numbers);
    RUN(test_broken_texts);
    RUN(test_places);
    RUN(test_dtypes_that_torch_has_not);
    RUN(test_errors_tell_where);
    RUN(test_limits);
    RUN(test_a_file);
    RUN(test_lengths);
    RUN(test_every_truncation);
    RUN(test_every_mutation);
    RUN(test_pieces);
    RUN(test_every_failing_request);
    RUN(test_growth);
    RUN(test_the_end_of_a_record);
    RUN(test_a_file_without_a_length);
    RUN(test_exact_names);
    RUN(test_exact_names_stand_apart);
    RUN(test_storage_crc32);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
