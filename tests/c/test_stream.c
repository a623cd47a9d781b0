/* SPDX-License-Identifier: Apache-2.0
 *
 * The legacy stream's own parts: its five pickles, and the counts before its storages.
 */
#include "stream_kit.h"

/* ---------------------------------------------------------------- the magic number */

static bool
begins(psd_span head)
{
    check_guarded g = check_guard(head.data, head.size);
    bool so = psd_stream_begins((psd_span){g.data, g.size});
    check_unguard(&g);
    return so;
}

static void
test_what_begins_a_stream(void)
{
    static const psd_span heads[] = {
        PSD_LITERAL(MAGIC),
        PSD_LITERAL("\x80\x03\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"),
        PSD_LITERAL("\x80\x04\x95\x0d\0\0\0\0\0\0\0"
                    "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"),
        PSD_LITERAL("\x80\x05\x95\x0d\0\0\0\0\0\0\0"
                    "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"),
        PSD_LITERAL("L119547037146038801333356L\n"),
    };
    for (size_t i = 0; i < LENGTH(heads); i++) {
        CHECK(begins(heads[i]));
        CHECK(heads[i].size <= PSD_STREAM_HEAD);
        bool has_dot = heads[i].data[heads[i].size - 1] == '.';
        for (size_t cut = 0; cut < heads[i].size - has_dot; cut++) {
            CHECK(!begins((psd_span){heads[i].data, cut}));
        }
        for (size_t at = 0; at < heads[i].size - has_dot; at++) {
            uint8_t other[64];
            memcpy(other, heads[i].data, heads[i].size);
            other[at] ^= 0x40;
            /* The protocol's number and the frame's size are not looked at. */
            bool free_byte = heads[i].data[0] == 0x80 &&
                             (at == 1 || (heads[i].size > 20 && at > 2 && at < 11));
            CHECK(begins((psd_span){other, heads[i].size}) == free_byte);
        }
    }
    CHECK(!begins(PSD_LITERAL("L119547037146038801333356\n")));
    CHECK(!begins(PSD_LITERAL("PK\x03\x04")));
}

/* ---------------------------------------------------------------- five pickles */

typedef struct {
    check_heap heap;
    psd_arena arena;
    psd_stream stream;
    psd_error err;
    psd_status status;
} reading_stream;

static void
read_stream_with(reading_stream *r, psd_span file, const psd_limits *limits)
{
    *r = (reading_stream){.heap = {0}};
    psd_input input = {.data = file.data, .size = file.size};
    psd_arena_init(&r->arena, check_alloc(&r->heap));
    r->status =
        psd_stream_read(&input, limits, KIT_KEY, &r->arena, &r->stream, &r->err);
}

static void
end_stream(reading_stream *r)
{
    psd_arena_clear(&r->arena);
    CHECK_UINT(r->heap.live, 0);
}

static void
sound(psd_span file, psd_span object, uint64_t object_offset, const char *keys,
      uint64_t data_offset)
{
    char found[64] = "";
    psd_limits limits = psd_default_limits();
    reading_stream r;
    check_guarded g = check_guard(file.data, file.size);
    read_stream_with(&r, (psd_span){g.data, g.size}, &limits);
    CHECK(r.status == PSD_OK);
    if (r.status != PSD_OK) {
        (void)fprintf(stderr, "  %s\n", r.err.sentence);
    }
    CHECK(r.stream.whole);
    CHECK(psd_span_equal(r.stream.object, object));
    CHECK_UINT(r.stream.object_offset, object_offset);
    CHECK_UINT(r.stream.data_offset, data_offset);
    for (uint32_t i = 0; i < r.stream.key_count; i++) {
        (void)snprintf(found + strlen(found), sizeof found - strlen(found), "%.*s ",
                       (int)r.stream.keys[i].size, (const char *)r.stream.keys[i].data);
    }
    CHECK(strcmp(found, keys) == 0);
    end_stream(&r);
    check_unguard(&g);
}

#define OBJECT "\x80\x02N."
#define HEAD_SIZE (sizeof(HEAD) - 1)

static void
test_sound_streams(void)
{
    const uint64_t at = HEAD_SIZE;
    sound(PSD_LITERAL(HEAD OBJECT KEYS(KEY("b") KEY("a")) "rest"), PSD_LITERAL(OBJECT),
          at, "b a ", at + 4 + 11);
    sound(PSD_LITERAL(HEAD OBJECT "]."), PSD_LITERAL(OBJECT), at, "", at + 6);
    /* Strings of Python 2, and the older protocols. */
    sound(PSD_LITERAL(HEAD "N.(lS'7'\na."), PSD_LITERAL("N."), at, "7 ", at + 2 + 9);
    sound(PSD_LITERAL("L119547037146038801333356L\n.I1001\n.(d.(dp0\n.(lp0\n."),
          PSD_LITERAL("(dp0\n."), 27 + 7 + 4, "", 27 + 7 + 4 + 6 + 6);
    sound(
        PSD_LITERAL("\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a"
                    "\xa8\x50\x19."
                    "\x80\x04M\xe9\x03.\x80\x04}.\x80\x04N.\x80\x04]\x94."),
        PSD_LITERAL("\x80\x04N."), 24 + 6 + 4, "", 24 + 6 + 4 + 4 + 5);
    /* Facts may be anything that is mere data: torch does not look. */
    sound(PSD_LITERAL(MAGIC VERSION "Vx\n." OBJECT "]."), PSD_LITERAL(OBJECT),
          15 + 6 + 4, "", 15 + 6 + 4 + 4 + 2);
}

/* A pickle of the object without an end is the object's own fault. */
static void
test_an_object_without_end(void)
{
    psd_limits limits = psd_default_limits();
    reading_stream r;
    read_stream_with(&r, PSD_LITERAL(HEAD "\x80\x02(N"), &limits);
    CHECK(r.status == PSD_OK);
    CHECK(!r.stream.whole);
    CHECK(psd_span_equal(r.stream.object, PSD_LITERAL("\x80\x02(N")));
    CHECK_UINT(r.stream.key_count, 0);
    end_stream(&r);
}

static void
unsound(psd_span file, psd_status status, const char *sentence, uint64_t offset,
        const char *subject, int line)
{
    psd_limits limits = psd_default_limits();
    reading_stream r;
    check_guarded g = check_guard(file.data, file.size);
    read_stream_with(&r, (psd_span){g.data, g.size}, &limits);
    bool same = r.status == status && strcmp(r.err.sentence, sentence) == 0 &&
                r.err.offset == offset &&
                about(r.err.subject, r.err.subject_size, subject);
    CHECK(same);
    if (!same) {
        (void)fprintf(stderr, "  line %d: %s at %lld: %s\n", line,
                      psd_status_code(r.status), (long long)r.err.offset,
                      r.status == PSD_OK ? "" : r.err.sentence);
    }
    end_stream(&r);
    check_unguard(&g);
}

#define UNSOUND(file, ...) unsound(PSD_LITERAL(file), __VA_ARGS__, __LINE__)

static void
test_unsound_streams(void)
{
    static const char magic[] = "the file does not begin with torch's magic number";
    static const char version[] = "a legacy file of an unknown version";
    static const char facts[] = "a name or call in a pickle that holds only facts";
    static const char list[] = "the file's list of storages is no list";
    static const char text[] = "a key in the file's list of storages is no text";
    const uint64_t at = HEAD_SIZE;
    UNSOUND("N.", PSD_STREAM, magic, 0, "");
    UNSOUND("I7\n.", PSD_STREAM, magic, 0, "");
    UNSOUND("L119547037146038801333357L\n.", PSD_STREAM, magic, 0, "");
    UNSOUND(MAGIC "N.", PSD_STREAM, version, 15, "");
    UNSOUND(MAGIC "M\xe8\x03.", PSD_STREAM, version, 15, "");
    UNSOUND(MAGIC "I-1\n.", PSD_STREAM, version, 15, "");
    UNSOUND(MAGIC VERSION "Ncos\nsystem\n.", PSD_CALL, facts, 22, "os");
    UNSOUND(MAGIC VERSION "cos\nsystem\n)R.", PSD_CALL, facts, 21, "os");
    UNSOUND(MAGIC VERSION "NQ.", PSD_CALL, facts, 21, "");
    UNSOUND(MAGIC VERSION "\x97.", PSD_OPCODE,
            "an opcode that needs a buffer outside the file", 21, "");
    UNSOUND(HEAD OBJECT "N.", PSD_STREAM, list, at + 4, "");
    UNSOUND(HEAD OBJECT ").", PSD_STREAM, list, at + 4, "");
    UNSOUND(HEAD OBJECT "(NK", PSD_TRUNCATED, "the file ends within its first pickles",
            at + 6, "");
    UNSOUND(HEAD OBJECT "(Nl.", PSD_STREAM, text, at + 4, "");
    UNSOUND(HEAD OBJECT "(I1\nl.", PSD_STREAM, text, at + 4, "");
    UNSOUND(HEAD OBJECT "(ca\nb\nl.", PSD_CALL, facts, at + 5, "a");
}

/* What was found in place of 1001. */
static void
test_other_versions(void)
{
    static const struct {
        psd_span file;
        bool has_numbers;
        uint64_t found;
    } rows[] = {
        {PSD_LITERAL(MAGIC "M\xe8\x03."), true, 1000},
        {PSD_LITERAL(MAGIC "I-1\n."), false, 0},
        {PSD_LITERAL(MAGIC "N."), false, 0},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        psd_limits limits = psd_default_limits();
        reading_stream r;
        read_stream_with(&r, rows[i].file, &limits);
        CHECK(r.status == PSD_STREAM);
        CHECK(r.err.has_numbers == rows[i].has_numbers);
        CHECK_UINT(r.err.found, rows[i].found);
        CHECK(!rows[i].has_numbers || r.err.expected == 1001);
        end_stream(&r);
    }
}

/* The object may break off, the others may not. */
static void
test_every_truncation(void)
{
    const psd_span file = PSD_LITERAL(HEAD OBJECT KEYS(KEY("b") KEY("a")));
    psd_limits limits = psd_default_limits();
    for (size_t size = 0; size < file.size; size++) {
        reading_stream r;
        check_guarded g = check_guard(file.data, size);
        read_stream_with(&r, (psd_span){g.data, g.size}, &limits);
        bool in_object = size >= HEAD_SIZE && size < HEAD_SIZE + 4;
        CHECK(r.status == (in_object ? PSD_OK : PSD_TRUNCATED));
        CHECK(in_object || r.err.offset <= size);
        CHECK(!r.stream.whole);
        end_stream(&r);
        check_unguard(&g);
    }
}

static void
test_limits(void)
{
    psd_limits limits = psd_default_limits();
    reading_stream r;
    limits.pickle_size = 14;
    read_stream_with(&r, PSD_LITERAL(HEAD OBJECT "]."), &limits);
    CHECK(r.status == PSD_LIMIT);
    end_stream(&r);
    limits = psd_default_limits();
    limits.values = 3;
    read_stream_with(&r, PSD_LITERAL(HEAD OBJECT "]."), &limits);
    CHECK(r.status == PSD_LIMIT);
    end_stream(&r);
}

/* ---------------------------------------------------------------- storages */

static psd_status
next(psd_span file, uint64_t numel, uint64_t size, uint64_t *offset, uint64_t *data,
     psd_error *err)
{
    check_guarded g = check_guard(file.data, file.size);
    psd_input input = {.data = g.data, .size = g.size};
    psd_status status =
        psd_stream_next(&input, PSD_LITERAL("key"), numel, size, offset, data, err);
    CHECK(status == PSD_OK || about(err->subject, err->subject_size, "key"));
    check_unguard(&g);
    return status;
}

static void
test_counts(void)
{
    const psd_span file = PSD_LITERAL("xx\3\0\0\0\0\0\0\0abcdef");
    const psd_span turned = PSD_LITERAL("\0\0\0\0\0\0\0\3abcdef");
    uint64_t offset = 2, data = 0;
    psd_error err;
    CHECK(next(file, 3, 6, &offset, &data, &err) == PSD_OK);
    CHECK_UINT(data, 10);
    CHECK_UINT(offset, 16);
    /* As machines of the other byte order wrote it. */
    offset = 0;
    CHECK(next(turned, 3, 6, &offset, &data, &err) == PSD_OK);
    CHECK_UINT(data, 8);
    offset = 2;
    CHECK(next(file, 4, 8, &offset, &data, &err) == PSD_STORAGE);
    CHECK_UINT(err.offset, 2);
    CHECK_UINT(err.found, 3);
    CHECK_UINT(err.expected, 4);
    CHECK(next(file, 3, 7, &offset, &data, &err) == PSD_TRUNCATED);
    CHECK_UINT(err.offset, 10);
    CHECK_UINT(err.found, 6);
    CHECK_UINT(err.expected, 7);
    CHECK(next(file, 3, INT64_MAX, &offset, &data, &err) == PSD_TRUNCATED);
    offset = 9;
    CHECK(next(file, 3, 6, &offset, &data, &err) == PSD_TRUNCATED);
    CHECK_UINT(err.found, 7);
    CHECK_UINT(err.expected, 14);
    offset = 17;
    CHECK(next(file, 0, 0, &offset, &data, &err) == PSD_TRUNCATED);
    CHECK_UINT(err.found, 0);
    offset = UINT64_MAX;
    CHECK(next(file, 0, 0, &offset, &data, &err) == PSD_TRUNCATED);
}

int
main(void)
{
    RUN(test_what_begins_a_stream);
    RUN(test_sound_streams);
    RUN(test_an_object_without_end);
    RUN(test_unsound_streams);
    RUN(test_other_versions);
    RUN(test_every_truncation);
    RUN(test_limits);
    RUN(test_counts);
    return check_report();
}
