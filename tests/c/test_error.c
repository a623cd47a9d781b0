/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

/* A record as psd_fail may find it: full of something else. */
static psd_error
used_record(void)
{
    psd_error err;
    memset(&err, 0xa5, sizeof err);
    return err;
}

static void
test_a_failure_starts_from_nothing(void)
{
    psd_error err = used_record();
    CHECK(psd_fail(&err, PSD_ZIP, 77, "a sentence") == PSD_ZIP);
    CHECK(err.status == PSD_ZIP);
    CHECK(strcmp(err.sentence, "a sentence") == 0);
    CHECK_UINT(err.offset, 77);
    CHECK(!err.has_numbers);
    CHECK_UINT(err.found, 0);
    CHECK_UINT(err.expected, 0);
    CHECK_UINT(err.entry_size, 0);
    CHECK_UINT(err.subject_size, 0);
}

static void
test_additions_give_the_status_back(void)
{
    psd_error err = used_record();
    (void)psd_fail(&err, PSD_TENSOR, PSD_NOWHERE, "s");
    CHECK(psd_fail_entry(&err, PSD_LITERAL("archive/data.pkl")) == PSD_TENSOR);
    CHECK(psd_fail_subject(&err, PSD_LITERAL("os.system")) == PSD_TENSOR);
    CHECK(psd_fail_numbers(&err, 3, 4) == PSD_TENSOR);
    CHECK_UINT(err.entry_size, 16);
    CHECK(memcmp(err.entry, "archive/data.pkl", 16) == 0);
    CHECK_UINT(err.subject_size, 9);
    CHECK(memcmp(err.subject, "os.system", 9) == 0);
    CHECK(err.has_numbers);
    CHECK_UINT(err.found, 3);
    CHECK_UINT(err.expected, 4);
    CHECK_UINT(err.offset, PSD_NOWHERE);
}

/* Of a long name the end is kept: records differ there. */
static void
test_long_texts_keep_their_end(void)
{
    uint8_t text[1000];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (uint8_t)(i % 251);
    }
    psd_error err;
    (void)psd_fail(&err, PSD_ZIP, 0, "s");
    for (size_t size = 0; size <= sizeof text; size++) {
        check_guarded g = check_guard(text, size);
        size_t entry = size < sizeof err.entry ? size : sizeof err.entry;
        size_t subject = size < sizeof err.subject ? size : sizeof err.subject;
        (void)psd_fail_entry(&err, (psd_span){g.data, size});
        (void)psd_fail_subject(&err, (psd_span){g.data, size});
        CHECK(err.entry_size == entry);
        CHECK(err.subject_size == subject);
        CHECK(memcmp(err.entry, text + size - entry, entry) == 0);
        CHECK(memcmp(err.subject, text + size - subject, subject) == 0);
        check_unguard(&g);
    }
}

static void
test_an_empty_text_needs_no_address(void)
{
    psd_error err;
    (void)psd_fail(&err, PSD_ZIP, 0, "s");
    (void)psd_fail_entry(&err, PSD_LITERAL("before"));
    (void)psd_fail_entry(&err, (psd_span){NULL, 0});
    CHECK_UINT(err.entry_size, 0);
}

/* ---------------------------------------------------------------- the table */

static void
test_codes_are_told_apart(void)
{
    for (int a = 0; a < PSD_STATUS_COUNT; a++) {
        const char *code = psd_status_code((psd_status)a);
        CHECK(code != NULL && code[0] != 0);
        for (const char *c = code; *c != 0; c++) {
            CHECK((*c >= 'a' && *c <= 'z') || *c == '-');
        }
        for (int b = 0; b < a; b++) {
            CHECK(strcmp(code, psd_status_code((psd_status)b)) != 0);
        }
    }
}

/* Users may rely on these. */
static void
test_codes_and_families_stay(void)
{
    static const struct {
        psd_status status;
        const char *code;
        psd_family family;
    } rows[] = {
        {PSD_OK, "ok", PSD_FAMILY_NONE},
        {PSD_NO_MEMORY, "no-memory", PSD_FAMILY_MEMORY},
        {PSD_INPUT, "input", PSD_FAMILY_HOST},
        {PSD_SINK, "sink", PSD_FAMILY_HOST},
        {PSD_ARGUMENT, "argument", PSD_FAMILY_ARGUMENT},
        {PSD_NOT_ZIP, "not-zip", PSD_FAMILY_FOREIGN},
        {PSD_NO_PICKLE, "no-data-pkl", PSD_FAMILY_FOREIGN},
        {PSD_TRUNCATED, "truncated", PSD_FAMILY_TRUNCATED},
        {PSD_INTERRUPTED, "interrupted-save", PSD_FAMILY_TRUNCATED},
        {PSD_ZIP, "zip-structure", PSD_FAMILY_CORRUPT},
        {PSD_OVERLAP, "zip-overlap", PSD_FAMILY_CORRUPT},
        {PSD_DUPLICATE, "zip-duplicate", PSD_FAMILY_CORRUPT},
        {PSD_INFLATE, "zip-inflate", PSD_FAMILY_CORRUPT},
        {PSD_CRC, "checksum", PSD_FAMILY_CHECKSUM},
        {PSD_PICKLE, "pickle", PSD_FAMILY_CORRUPT},
        {PSD_PICKLE_END, "pickle-truncated", PSD_FAMILY_CORRUPT},
        {PSD_STORAGE, "storage", PSD_FAMILY_CORRUPT},
        {PSD_TENSOR, "tensor", PSD_FAMILY_CORRUPT},
        {PSD_BYTEORDER, "byteorder", PSD_FAMILY_CORRUPT},
        {PSD_METHOD, "zip-method", PSD_FAMILY_UNSUPPORTED},
        {PSD_ENCRYPTED, "zip-encrypted", PSD_FAMILY_UNSUPPORTED},
        {PSD_MULTI_DISK, "zip-multi-disk", PSD_FAMILY_UNSUPPORTED},
        {PSD_STREAM, "legacy-stream", PSD_FAMILY_CORRUPT},
        {PSD_TAR, "tar-structure", PSD_FAMILY_CORRUPT},
        {PSD_TAR_MEMBERS, "tar-members", PSD_FAMILY_UNSUPPORTED},
        {PSD_TAR_TYPE, "tar-member-type", PSD_FAMILY_UNSAFE},
        {PSD_PATH, "path-escape", PSD_FAMILY_UNSAFE},
        {PSD_CALL, "pickle-call", PSD_FAMILY_UNSAFE},
        {PSD_EXTENSION, "pickle-extension", PSD_FAMILY_UNSAFE},
        {PSD_OPCODE, "pickle-opcode", PSD_FAMILY_CORRUPT},
        {PSD_SAFETENSORS, "safetensors", PSD_FAMILY_CORRUPT},
        {PSD_ELEMENT, "dtype", PSD_FAMILY_UNSUPPORTED},
        {PSD_KIND, "archive-kind", PSD_FAMILY_UNSUPPORTED},
        {PSD_LEGACY, "legacy-dtype", PSD_FAMILY_UNSUPPORTED},
        {PSD_LIMIT, "limit", PSD_FAMILY_LIMIT},
    };
    CHECK_UINT(sizeof rows / sizeof *rows, PSD_STATUS_COUNT);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK(strcmp(psd_status_code(rows[i].status), rows[i].code) == 0);
        CHECK(psd_status_family(rows[i].status) == rows[i].family);
    }
}

static void
test_numbers_that_are_no_status(void)
{
    CHECK(strcmp(psd_status_code(PSD_STATUS_COUNT), "unknown") == 0);
    CHECK(strcmp(psd_status_code((psd_status)-1), "unknown") == 0);
    CHECK(psd_status_family(PSD_STATUS_COUNT) == PSD_FAMILY_NONE);
    CHECK(psd_status_family((psd_status)-1) == PSD_FAMILY_NONE);
}

int
main(void)
{
    RUN(test_a_failure_starts_from_nothing);
    RUN(test_additions_give_the_status_back);
    RUN(test_long_texts_keep_their_end);
    RUN(test_an_empty_text_needs_no_address);
    RUN(test_codes_are_told_apart);
    RUN(test_codes_and_families_stay);
    RUN(test_numbers_that_are_no_status);
    return check_report();
}
