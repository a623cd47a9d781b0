/* SPDX-License-Identifier: Apache-2.0 */
#include "tar.h"
#include "text.h"

/* Where the fields of a header lie. */
enum {
    NAME = 0,
    NAME_SIZE = 100,
    SIZE = 124,
    SIZE_SIZE = 12,
    CHECKSUM = 148,
    CHECKSUM_SIZE = 8,
    TYPE = 156,
    MAGIC = 257,
    PREFIX = 345,
    PREFIX_SIZE = 155,
};

psd_span
psd_tar_name(psd_tar_member member)
{
    switch (member) {
    case PSD_TAR_SYS_INFO: return PSD_LITERAL("sys_info");
    case PSD_TAR_PICKLE: return PSD_LITERAL("pickle");
    case PSD_TAR_TENSORS: return PSD_LITERAL("tensors");
    default: return PSD_LITERAL("storages");
    }
}

/* ---------------------------------------------------------------- fields */

/* The text of a field, which ends at its first zero or at the field's end. */
static psd_span
text_at(const uint8_t *header, size_t at, size_t size)
{
    const uint8_t *zero = memchr(header + at, 0, size);
    return (psd_span){header + at, zero == NULL ? size : (size_t)(zero - header) - at};
}

/* Octal digits, with blanks or zeros around them; the longest field has 36 bits. */
static bool
octal(const uint8_t *field, size_t size, uint64_t *value)
{
    size_t i = 0;
    bool any = false;
    *value = 0;
    while (i < size && field[i] == ' ') {
        i++;
    }
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        *value = *value << 3 | (uint64_t)(field[i] - '0');
        any = true;
    }
    return any && (i == size || field[i] == ' ' || field[i] == 0);
}

/* Large sizes are binary, big-endian, behind a byte of 0x80: GNU's extension. */
static bool
size_of(const uint8_t *header, uint64_t *size)
{
    const uint8_t *field = header + SIZE;
    if ((field[0] & 0x80) == 0) {
        return octal(field, SIZE_SIZE, size);
    }
    if (field[0] != 0x80 || field[1] != 0 || field[2] != 0 || field[3] != 0) {
        return false;
    }
    *size = 0;
    for (size_t i = 4; i < SIZE_SIZE; i++) {
        *size = *size << 8 | field[i];
    }
    return true;
}

/* The sum of all bytes, those of the sum itself taken as blanks. */
static bool
checksum_holds(const uint8_t *header)
{
    uint64_t told, sum = 0;
    for (size_t i = 0; i < PSD_TAR_BLOCK; i++) {
        bool blank = i >= CHECKSUM && i < CHECKSUM + CHECKSUM_SIZE;
        sum += blank ? ' ' : header[i];
    }
    return octal(header + CHECKSUM, CHECKSUM_SIZE, &told) && told == sum;
}

static bool
is_zero(const uint8_t *block)
{
    for (size_t i = 0; i < PSD_TAR_BLOCK; i++) {
        if (block[i] != 0) {
            return false;
        }
    }
    return true;
}

/* One of the four, or PSD_TAR_MEMBER_COUNT. */
static psd_tar_member
member_named(psd_span name)
{
    if (name.size > 2 && name.data[0] == '.' && name.data[1] == '/') {
        name = (psd_span){name.data + 2, name.size - 2};
    }
    if (name.size > 0 && name.data[name.size - 1] == '/') {
        name.size--; /* as folders are spelled */
    }
    for (unsigned i = 0; i < PSD_TAR_MEMBER_COUNT; i++) {
        if (psd_span_equal(name, psd_tar_name((psd_tar_member)i))) {
            return (psd_tar_member)i;
        }
    }
    return PSD_TAR_MEMBER_COUNT;
}

/* ---------------------------------------------------------------- members */

typedef struct {
    const psd_input *input;
    psd_tar *tar;
    psd_error *err;
    uint64_t next; /* where the next header is */
    bool ended;    /* by the zeros that end an archive */
    uint8_t header[PSD_TAR_BLOCK];
} reader;

static psd_status
fails(reader *r, psd_status status, psd_span name, const char *sentence)
{
    psd_fail(r->err, status, r->next, sentence);
    return psd_fail_entry(r->err, name);
}

/* Larger than what writers put before their members: times with fractions. */
#define EXTENDED_MOST 4096u

/* More than writers put before the first: one for all members, and its own. */
#define EXTENDED_BEFORE 4u

/* An extended header must not give the next member another name or size: some
 * readers follow it, and some do not. */
static psd_status
check_extended(reader *r, psd_span name, uint64_t size)
{
    uint8_t room[EXTENDED_MOST];
    if (size > sizeof room) {
        return fails(r, PSD_TAR, name, "an extended header that is all too large");
    }
    psd_status status =
        psd_input_copy(r->input, r->next + PSD_TAR_BLOCK, (size_t)size, room, r->err);
    psd_span text = {room, (size_t)size};
    if (status == PSD_OK && (psd_span_holds(text, PSD_LITERAL("path=")) ||
                             psd_span_holds(text, PSD_LITERAL("size=")))) {
        return fails(r, PSD_TAR, name,
                     "an extended header gives a member another name or size");
    }
    return status;
}

/* What tells of a member, and stands before its header. */
static bool
is_extended(const uint8_t *header)
{
    return header[TYPE] == 'x' || header[TYPE] == 'g';
}

/* The folder before a member's name; a field of POSIX, which old headers may use else. */
static psd_span
prefix_of(const uint8_t *header)
{
    return memcmp(header + MAGIC, "ustar", 5) == 0
               ? text_at(header, PREFIX, PREFIX_SIZE)
               : (psd_span){header, 0};
}

static psd_status
enter(reader *r, psd_span name, uint8_t type, uint64_t size)
{
    psd_tar_member member = member_named(name);
    if (is_extended(r->header)) {
        return check_extended(r, name, size);
    }
    if (type == 'L' || type == 'K') {
        return fails(r, PSD_TAR, name, "a member with a name of more than 100 bytes");
    }
    psd_span prefix = prefix_of(r->header);
    if (psd_leads_out(name) || psd_leads_out(prefix)) {
        return fails(r, PSD_PATH, name, "a member whose name leads out of the folder");
    }
    if (member == PSD_TAR_MEMBER_COUNT || prefix.size > 0) {
        return PSD_OK;
    }
    if (type == '5') {
        return fails(r, PSD_TAR, name, "a member that is a folder");
    }
    if (type != '0' && type != 0 && type != '7') {
        return fails(r, PSD_TAR_TYPE, name, "a member that is a link or a device");
    }
    if (r->tar->offset[member] != 0) {
        return fails(r, PSD_TAR, name, "a member of this name comes twice");
    }
    r->tar->offset[member] = r->next + PSD_TAR_BLOCK;
    r->tar->size[member] = size;
    return PSD_OK;
}

/* One header and its content; *done after the last. */
static psd_status
step(reader *r, bool *done)
{
    uint64_t left = r->input->size - r->next, size;
    if (left == 0) {
        *done = true; /* without the zeros that should follow */
        return PSD_OK;
    }
    if (left < PSD_TAR_BLOCK) {
        psd_fail(r->err, PSD_TRUNCATED, r->next, "the file ends within a tar header");
        return psd_fail_numbers(r->err, left, PSD_TAR_BLOCK);
    }
    psd_status status =
        psd_input_copy(r->input, r->next, PSD_TAR_BLOCK, r->header, r->err);
    if (status != PSD_OK) {
        return status;
    }
    *done = r->ended = is_zero(r->header);
    if (*done) {
        return PSD_OK;
    }
    psd_span name = text_at(r->header, NAME, NAME_SIZE);
    if (!checksum_holds(r->header) || !size_of(r->header, &size)) {
        return fails(r, PSD_TAR, name, "a tar header whose checksum or size is wrong");
    }
    if (size > left - PSD_TAR_BLOCK) {
        fails(r, PSD_TRUNCATED, name, "the file ends within a member");
        return psd_fail_numbers(r->err, left - PSD_TAR_BLOCK, size);
    }
    status = enter(r, name, r->header[TYPE], size);
    uint64_t blocks = size / PSD_TAR_BLOCK + (size % PSD_TAR_BLOCK != 0);
    uint64_t room = (left - PSD_TAR_BLOCK) / PSD_TAR_BLOCK;
    r->next += PSD_TAR_BLOCK +
               (blocks <= room ? blocks * PSD_TAR_BLOCK : left - PSD_TAR_BLOCK);
    return status;
}

psd_status
psd_tar_begins(const psd_input *input, psd_span head, bool *begins, psd_error *err)
{
    uint8_t header[PSD_TAR_BLOCK];
    uint64_t next = 0, size;
    *begins = false;
    if (head.size < PSD_TAR_BLOCK) {
        return PSD_OK;
    }
    memcpy(header, head.data, PSD_TAR_BLOCK);
    for (unsigned i = 0;
         i < EXTENDED_BEFORE && checksum_holds(header) && is_extended(header) &&
         size_of(header, &size) && size <= EXTENDED_MOST;
         i++) {
        next +=
            PSD_TAR_BLOCK + (size + PSD_TAR_BLOCK - 1) / PSD_TAR_BLOCK * PSD_TAR_BLOCK;
        if (!psd_fits(next, PSD_TAR_BLOCK, input->size)) {
            return PSD_OK;
        }
        psd_status status = psd_input_copy(input, next, PSD_TAR_BLOCK, header, err);
        if (status != PSD_OK) {
            return status;
        }
    }
    *begins = checksum_holds(header) && !is_extended(header) &&
              member_named(text_at(header, NAME, NAME_SIZE)) != PSD_TAR_MEMBER_COUNT;
    return PSD_OK;
}

psd_status
psd_tar_read(const psd_input *input, const psd_limits *limits, psd_tar *tar,
             psd_error *err)
{
    reader r = {.input = input, .tar = tar, .err = err};
    *tar = (psd_tar){.offset = {0}};
    bool done = false;
    psd_status status = PSD_OK;
    for (uint64_t count = 0; status == PSD_OK && !done; count++) {
        if (count > limits->entries) {
            psd_fail(err, PSD_LIMIT, r.next, "too many records");
            return psd_fail_numbers(err, count, limits->entries);
        }
        status = step(&r, &done);
    }
    for (unsigned i = PSD_TAR_PICKLE; status == PSD_OK && i < PSD_TAR_MEMBER_COUNT;
         i++) {
        if (tar->offset[i] == 0) {
            psd_fail(err, r.ended ? PSD_TAR_MEMBERS : PSD_TRUNCATED, r.next,
                     "a member of the archive is missing");
            status = psd_fail_entry(err, psd_tar_name((psd_tar_member)i));
        }
    }
    return status;
}
