/* SPDX-License-Identifier: Apache-2.0
 *
 * The tar container: its four members found among others, headers that say what cannot
 * be, and members that would trick somebody who unpacks them.
 */
#include "tar_kit.h"

static check_heap heap;

#define MEMBER(title, text) {.name = (title), .data = PSD_LITERAL(text)}

enum { SOUND_COUNT = 4 };

static void
sound_members(tar_member *members)
{
    static const char *const names[] = {"sys_info", "pickle", "tensors", "storages"};
    for (unsigned i = 0; i < SOUND_COUNT; i++) {
        members[i] =
            (tar_member){.name = names[i], .data = {(const uint8_t *)names[i], 3 + i}};
    }
}

typedef struct {
    psd_tar tar;
    psd_error err;
    psd_status status;
} reading_tar;

static void
read_tar(reading_tar *r, psd_span file, uint64_t entries)
{
    psd_limits limits = psd_default_limits();
    check_guarded g = check_guard(file.data, file.size);
    remote far = {.file = {g.data, g.size}};
    psd_input input = over_map((psd_span){g.data, g.size}), apart = over_remote(&far);
    psd_tar tar;
    psd_error err;
    limits.entries = entries;
    r->status = psd_tar_read(&input, &limits, &r->tar, &r->err);
    CHECK_UINT(psd_tar_read(&apart, &limits, &tar, &err), r->status);
    CHECK(r->status == PSD_OK ||
          (r->err.status == r->status && r->err.sentence != NULL));
    check_unguard(&g);
}

static void
read_members(reading_tar *r, const tar_member *members, size_t count)
{
    psd_buffer b = tar_build(&heap, members, count, true);
    read_tar(r, psd_buffer_span(&b), 1000);
    psd_buffer_clear(&b);
}

/* ---------------------------------------------------------------- sound ones */

static void
test_names_of_members(void)
{
    CHECK(psd_span_equal(psd_tar_name(PSD_TAR_SYS_INFO), PSD_LITERAL("sys_info")));
    CHECK(psd_span_equal(psd_tar_name(PSD_TAR_PICKLE), PSD_LITERAL("pickle")));
    CHECK(psd_span_equal(psd_tar_name(PSD_TAR_TENSORS), PSD_LITERAL("tensors")));
    CHECK(psd_span_equal(psd_tar_name(PSD_TAR_STORAGES), PSD_LITERAL("storages")));
}

static void
test_where_members_are(void)
{
    tar_member members[SOUND_COUNT];
    reading_tar r;
    sound_members(members);
    members[1].data = (psd_span){NULL, 0};
    read_members(&r, members, SOUND_COUNT);
    CHECK(r.status == PSD_OK);
    CHECK_UINT(r.tar.offset[PSD_TAR_SYS_INFO], 512);
    CHECK_UINT(r.tar.size[PSD_TAR_SYS_INFO], 3);
    CHECK_UINT(r.tar.offset[PSD_TAR_PICKLE], 3 * 512);
    CHECK_UINT(r.tar.size[PSD_TAR_PICKLE], 0);
    CHECK_UINT(r.tar.offset[PSD_TAR_TENSORS], 4 * 512);
    CHECK_UINT(r.tar.offset[PSD_TAR_STORAGES], 6 * 512);
    CHECK_UINT(r.tar.size[PSD_TAR_STORAGES], 6);
}

/* Any order, others between, names as tools spell them, and no zeros at the end. */
static void
test_other_members(void)
{
    const tar_member members[] = {
        MEMBER("storages", "s"),
        {.name = "folder/", .type = '5'},
        MEMBER("folder/pickle", "other"),
        MEMBER("./tensors", "t"),
        {.name = "pickle", .data = PSD_LITERAL("deep"), .prefix = "a"},
        {.name = "link", .type = '2'},
        {.name = "pickle", .data = PSD_LITERAL("p"), .type = '7'},
    };
    reading_tar r;
    read_members(&r, members, LENGTH(members));
    CHECK(r.status == PSD_OK);
    CHECK_UINT(r.tar.offset[PSD_TAR_SYS_INFO], 0);
    CHECK_UINT(r.tar.size[PSD_TAR_PICKLE], 1);
    psd_buffer b = tar_build(&heap, members, LENGTH(members), false);
    read_tar(&r, psd_buffer_span(&b), 1000);
    CHECK(r.status == PSD_OK);
    /* Without the last member's filling, as a careless writer leaves it. */
    read_tar(&r, (psd_span){b.data, b.size - 511}, 1000);
    CHECK(r.status == PSD_OK);
    psd_buffer_clear(&b);
}

static bool
begins(psd_span file)
{
    check_guarded g = check_guard(file.data, file.size);
    remote far = {.file = {g.data, g.size}};
    psd_input input = over_map((psd_span){g.data, g.size}), apart = over_remote(&far);
    psd_span head = {g.data, g.size < PSD_TAR_BLOCK ? g.size : PSD_TAR_BLOCK};
    bool so, again;
    psd_error err;
    CHECK(psd_tar_begins(&input, head, &so, &err) == PSD_OK);
    CHECK(psd_tar_begins(&apart, head, &again, &err) == PSD_OK);
    CHECK(so == again);
    check_unguard(&g);
    return so;
}

#define TIMES \
    {.name = "././@PaxHeader", .type = 'x', .data = PSD_LITERAL("20 mtime=1.5\n")}

static void
test_what_begins_a_tar(void)
{
    static const struct {
        tar_member members[6];
        bool begins;
    } rows[] = {
        {{MEMBER("sys_info", "x")}, true},
        {{MEMBER("./pickle", "x")}, true},
        {{MEMBER("storages", "x")}, true},
        {{MEMBER("tensors/", "x")}, true},
        {{MEMBER("model.pth", "x")}, false},
        {{MEMBER("sys_info2", "x")}, false},
        {{MEMBER("", "x")}, false},
        {{{.name = "sys_info", .bad_sum = true}}, false},
        /* Times with fractions stand before a member, as tarfile of Python 3 writes. */
        {{TIMES, MEMBER("sys_info", "x")}, true},
        {{{.name = "all", .type = 'g'}, TIMES, MEMBER("pickle", "x")}, true},
        {{TIMES, TIMES, TIMES, TIMES, MEMBER("pickle", "x")}, true},
        {{TIMES, TIMES, TIMES, TIMES, TIMES, MEMBER("pickle", "x")}, false},
        {{TIMES, MEMBER("model.pth", "x")}, false},
        {{TIMES, {.name = "pickle", .bad_sum = true}}, false},
        {{TIMES}, false},
        {{{.name = "pickle", .type = 'x'}}, false},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        size_t count = 0;
        while (count < 6 && rows[i].members[count].name != NULL) {
            count++;
        }
        psd_buffer b = tar_build(&heap, rows[i].members, count, true);
        CHECK(begins(psd_buffer_span(&b)) == rows[i].begins);
        CHECK(!begins((psd_span){b.data, 511}));
        /* The last header is enough, and is needed. */
        size_t last = (2 * count - 2) * 512 - (i == 9 ? 512 : 0);
        CHECK(begins((psd_span){b.data, last + 512}) == rows[i].begins);
        CHECK(count < 2 || !begins((psd_span){b.data, last + 511}));
        psd_buffer_clear(&b);
    }
}

static void
test_a_source_that_fails(void)
{
    const tar_member members[] = {TIMES, MEMBER("sys_info", "x")};
    psd_buffer b = tar_build(&heap, members, 2, true);
    remote far = {.file = psd_buffer_span(&b), .fail_at = 1};
    psd_input apart = over_remote(&far);
    bool so;
    psd_error err;
    CHECK(psd_tar_begins(&apart, (psd_span){b.data, 512}, &so, &err) == PSD_INPUT);
    psd_buffer_clear(&b);
}

/* ---------------------------------------------------------------- sizes */

static void
test_forms_of_sizes(void)
{
    static const struct {
        const char *size;
        bool right;
    } rows[] = {
        {"00000000003", true},
        {"3          ", true},
        {"          3", true},
        {"0000000003 ", true},
        {"000000000003", true},
        {"\x80\0\0\0\0\0\0\0\0\0\0\3", true},
        {"\0\0\0\0\0\0\0\0\0\0\0", false},
        {"           ", false},
        {"0000000000x", false},
        {"00000000008", false},
        {"-0000000003", false},
        {"\x81\0\0\0\0\0\0\0\0\0\0\3", false},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", false},
        {"\x80\0\1\0\0\0\0\0\0\0\0\3", false},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        tar_member members[SOUND_COUNT];
        reading_tar r;
        sound_members(members);
        members[0].size = rows[i].size;
        members[0].data = PSD_LITERAL("abc");
        read_members(&r, members, SOUND_COUNT);
        CHECK((r.status == PSD_OK) == rows[i].right);
        if (!rows[i].right) {
            CHECK(r.status == PSD_TAR);
            CHECK(strcmp(r.err.sentence,
                         "a tar header whose checksum or size is wrong") == 0);
            CHECK(about(r.err.entry, r.err.entry_size, "sys_info"));
        }
    }
}

static void
test_sizes_beyond_the_file(void)
{
    static const char *const sizes[] = {
        "77777777777",
        "00000010000",
        "777777777777",
        "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
        "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xfe\1",
    };
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        tar_member members[SOUND_COUNT];
        reading_tar r;
        sound_members(members);
        members[2].size = sizes[i];
        read_members(&r, members, SOUND_COUNT);
        CHECK(r.status == PSD_TRUNCATED);
        CHECK(about(r.err.entry, r.err.entry_size, "tensors"));
        CHECK(r.err.has_numbers && r.err.found < r.err.expected);
    }
}

/* ---------------------------------------------------------------- refusals */

static void
refuse(const tar_member *more, psd_status status, const char *sentence, int line)
{
    tar_member members[SOUND_COUNT + 1];
    reading_tar r;
    sound_members(members);
    members[SOUND_COUNT] = *more;
    read_members(&r, members, SOUND_COUNT + 1);
    bool same = r.status == status && strcmp(r.err.sentence, sentence) == 0 &&
                r.err.offset == 8 * 512;
    CHECK(same);
    if (!same) {
        (void)fprintf(stderr, "  line %d: %s at %llu\n", line, r.err.sentence,
                      (unsigned long long)r.err.offset);
    }
}

#define REFUSE(status, sentence, ...) \
    refuse(&(tar_member){__VA_ARGS__}, status, sentence, __LINE__)

static void
test_members_that_are_refused(void)
{
    static const char leads_out[] = "a member whose name leads out of the folder";
    static const char link[] = "a member that is a link or a device";
    static const char twice[] = "a member of this name comes twice";
    static const char renamed[] =
        "an extended header gives a member another name or size";
    char long_name[101];
    memset(long_name, 'n', 100);
    long_name[100] = 0;
    REFUSE(PSD_PATH, leads_out, .name = "../x");
    REFUSE(PSD_PATH, leads_out, .name = "a/../../x");
    REFUSE(PSD_PATH, leads_out, .name = "..");
    REFUSE(PSD_PATH, leads_out, .name = "/etc/passwd");
    REFUSE(PSD_PATH, leads_out, .name = "..\\x");
    REFUSE(PSD_PATH, leads_out, .name = "x", .prefix = "a/../..");
    REFUSE(PSD_PATH, leads_out, .name = "pickle", .prefix = "..");
    REFUSE(PSD_TAR_TYPE, link, .name = "pickle", .type = '1');
    REFUSE(PSD_TAR_TYPE, link, .name = "storages", .type = '2');
    REFUSE(PSD_TAR_TYPE, link, .name = "./tensors", .type = '3');
    REFUSE(PSD_TAR_TYPE, link, .name = "sys_info", .type = 'S');
    REFUSE(PSD_TAR, "a member that is a folder", .name = "pickle/", .type = '5');
    REFUSE(PSD_TAR, twice, .name = "pickle");
    REFUSE(PSD_TAR, twice, .name = "./storages/");
    REFUSE(PSD_TAR, "a member with a name of more than 100 bytes", .name = long_name,
           .type = 'L');
    REFUSE(PSD_TAR, "a member with a name of more than 100 bytes", .name = "x",
           .type = 'K');
    REFUSE(PSD_TAR, renamed, .name = "x", .type = 'x',
           .data = PSD_LITERAL("20 path=pickle\n"));
    REFUSE(PSD_TAR, renamed, .name = "x", .type = 'g',
           .data = PSD_LITERAL("20 size=7\n"));
    REFUSE(PSD_TAR, "a tar header whose checksum or size is wrong", .name = "x",
           .bad_sum = true);
}

/* Harmless ones are passed by, whatever stands in them. */
static void
test_extended_headers(void)
{
    static uint8_t large[4097];
    memset(large, 'x', sizeof large);
    tar_member members[SOUND_COUNT + 2];
    reading_tar r;
    sound_members(members);
    members[4] = (tar_member){
        .name = "x", .type = 'x', .data = PSD_LITERAL("20 mtime=1.5\n20 uid=5\n")};
    members[5] = (tar_member){.name = "x", .type = 'x', .data = {large, 4096}};
    read_members(&r, members, SOUND_COUNT + 2);
    CHECK(r.status == PSD_OK);
    members[5].data.size = 4097;
    read_members(&r, members, SOUND_COUNT + 2);
    CHECK(r.status == PSD_TAR);
    CHECK(strcmp(r.err.sentence, "an extended header that is all too large") == 0);
    members[5].data.size = 0;
    read_members(&r, members, SOUND_COUNT + 2);
    CHECK(r.status == PSD_OK);
}

static void
test_members_that_are_missing(void)
{
    for (unsigned missing = 0; missing < SOUND_COUNT; missing++) {
        tar_member members[SOUND_COUNT];
        reading_tar r;
        sound_members(members);
        const char *name = members[missing].name;
        members[missing].name = "other";
        read_members(&r, members, SOUND_COUNT);
        /* Nobody reads sys_info. */
        CHECK(r.status == (missing == 0 ? PSD_OK : PSD_TAR_MEMBERS));
        CHECK(missing == 0 || about(r.err.entry, r.err.entry_size, name));
        /* Without the zeros at its end, the file may have broken off. */
        psd_buffer b = tar_build(&heap, members, SOUND_COUNT, false);
        read_tar(&r, psd_buffer_span(&b), 1000);
        CHECK(r.status == (missing == 0 ? PSD_OK : PSD_TRUNCATED));
        psd_buffer_clear(&b);
    }
}

static void
test_too_many_members(void)
{
    tar_member members[SOUND_COUNT];
    reading_tar r;
    sound_members(members);
    psd_buffer b = tar_build(&heap, members, SOUND_COUNT, true);
    read_tar(&r, psd_buffer_span(&b), 4);
    CHECK(r.status == PSD_OK);
    read_tar(&r, psd_buffer_span(&b), 3);
    CHECK(r.status == PSD_LIMIT);
    CHECK_UINT(r.err.expected, 3);
    psd_buffer_clear(&b);
}

static void
test_every_truncation(void)
{
    tar_member members[SOUND_COUNT];
    sound_members(members);
    psd_buffer b = tar_build(&heap, members, SOUND_COUNT, true);
    size_t whole = 7 * 512 + members[3].data.size;
    for (size_t size = 0; size < b.size; size++) {
        reading_tar r;
        read_tar(&r, (psd_span){b.data, size}, 1000);
        /* Once all members came, only a torn header is missed. */
        bool torn = size > 8 * 512 && (size - 8 * 512) % 512 != 0 && size < 9 * 512;
        CHECK(r.status == (size >= whole && !torn ? PSD_OK : PSD_TRUNCATED));
    }
    psd_buffer_clear(&b);
}

int
main(void)
{
    RUN(test_names_of_members);
    RUN(test_where_members_are);
    RUN(test_other_members);
    RUN(test_what_begins_a_tar);
    RUN(test_a_source_that_fails);
    RUN(test_forms_of_sizes);
    RUN(test_sizes_beyond_the_file);
    RUN(test_members_that_are_refused);
    RUN(test_extended_headers);
    RUN(test_members_that_are_missing);
    RUN(test_too_many_members);
    RUN(test_every_truncation);
    CHECK_UINT(heap.live, 0);
    return check_report();
}
