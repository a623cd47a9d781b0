/* SPDX-License-Identifier: Apache-2.0 */
#include "pickle_text.h"
#include "text.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>

/* repr() needs 24; the rest is for writers that do not shorten. */
#define FLOAT_SIZE_MAX 128
#define POINT_SIZE_MAX 16

static bool
is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* ----------------------------------------------------------------- integers */

psd_integer
psd_integer_of(psd_span bytes)
{
    size_t size = bytes.size;
    /* A last byte that only repeats the sign of the one before says nothing. */
    while (size > 1 && (bytes.data[size - 1] == 0x00 || bytes.data[size - 1] == 0xFF) &&
           (bytes.data[size - 1] & 0x80) == (bytes.data[size - 2] & 0x80)) {
        size--;
    }
    psd_integer integer = {.bytes = {bytes.data, size}};
    if (size <= 8) {
        bool negative = size > 0 && (bytes.data[size - 1] & 0x80) != 0;
        uint64_t bits = negative ? UINT64_MAX : 0;
        for (size_t i = size; i-- > 0;) {
            bits = bits << 8 | bytes.data[i];
        }
        integer.is_small = true;
        memcpy(&integer.small, &bits, sizeof bits);
    }
    return integer;
}

/* Two's complement of the `size` bytes at `bytes`. */
static void
negate(uint8_t *bytes, size_t size)
{
    unsigned carry = 1;
    for (size_t i = 0; i < size; i++) {
        unsigned sum = (unsigned)(uint8_t)~bytes[i] + carry;
        bytes[i] = (uint8_t)sum;
        carry = sum >> 8;
    }
}

/* number = number * factor + term, 32 bits at a time; the new size. */
static size_t
multiply_add(uint8_t *number, size_t size, uint32_t factor, uint32_t term)
{
    uint64_t carry = term;
    for (size_t i = 0; i < size; i += 4) {
        carry += (uint64_t)psd_load_le32(number + i) * factor;
        psd_store_le32(number + i, (uint32_t)carry);
        carry >>= 32;
    }
    if (carry > 0) {
        psd_store_le32(number + size, (uint32_t)carry);
        size += 4;
    }
    return size;
}

/* `digits` are digits, and at least one. */
static psd_status
long_integer(psd_span digits, bool negative, psd_arena *arena, psd_integer *integer)
{
    /* Nine digits fit in four bytes; four more hold the sign. */
    uint8_t *number = digits.size > SIZE_MAX / 4
                          ? NULL
                          : psd_arena_take(arena, (digits.size / 9 + 2) * 4);
    if (number == NULL) {
        return PSD_NO_MEMORY;
    }
    size_t size = 0;
    for (size_t i = 0; i < digits.size;) {
        uint32_t factor = 1, term = 0;
        size_t last = i + 9 < digits.size ? i + 9 : digits.size;
        for (; i < last; i++) {
            factor *= 10;
            term = term * 10 + (uint32_t)(digits.data[i] - '0');
        }
        size = multiply_add(number, size, factor, term);
    }
    psd_store_le32(number + size, 0);
    size += 4;
    if (negative) {
        negate(number, size);
    }
    *integer = psd_integer_of((psd_span){number, size});
    return PSD_OK;
}

psd_status
psd_text_integer(psd_span line, uint64_t max_digits, psd_arena *arena,
                 psd_integer *integer)
{
    bool negative = line.size > 0 && line.data[0] == '-';
    size_t sign = line.size > 0 && (negative || line.data[0] == '+') ? 1 : 0;
    psd_span digits = {line.data + sign, line.size - sign};
    /* What a leading zero means, readers do not agree upon (octal, refused). */
    if (digits.size == 0 || (digits.size > 1 && digits.data[0] == '0')) {
        return PSD_PICKLE;
    }
    uint64_t small = 0;
    for (size_t i = 0; i < digits.size; i++) {
        if (!is_digit(digits.data[i])) {
            return PSD_PICKLE;
        }
        small = small * 10 + (uint64_t)(digits.data[i] - '0');
    }
    if (digits.size > max_digits) {
        return PSD_LIMIT;
    }
    if (digits.size > 18) {
        return long_integer(digits, negative, arena, integer);
    }
    *integer = (psd_integer){
        .is_small = true,
        .small = negative ? -(int64_t)small : (int64_t)small,
    };
    return PSD_OK;
}

bool
psd_text_index(psd_span line, uint64_t *index)
{
    uint64_t n = 0;
    for (size_t i = 0; i < line.size; i++) {
        uint64_t digit = (uint64_t)line.data[i] - '0';
        if (digit > 9 || n > ((uint64_t)INT64_MAX - digit) / 10) {
            return false;
        }
        n = n * 10 + digit;
    }
    *index = n;
    return line.size > 0;
}

/* ------------------------------------------------------------------- floats */

/* What repr() wrote for those that are no numbers, over the years and systems. */
static bool
special_float(psd_span line, double *real)
{
    if (psd_span_equal(line, PSD_LITERAL("inf")) ||
        psd_span_equal(line, PSD_LITERAL("1.#INF"))) {
        *real = (double)INFINITY;
        return true;
    }
    if (psd_span_equal(line, PSD_LITERAL("-inf")) ||
        psd_span_equal(line, PSD_LITERAL("-1.#INF"))) {
        *real = -(double)INFINITY;
        return true;
    }
    if (psd_span_equal(line, PSD_LITERAL("nan")) ||
        psd_span_equal(line, PSD_LITERAL("-nan")) ||
        psd_span_equal(line, PSD_LITERAL("1.#QNAN")) ||
        psd_span_equal(line, PSD_LITERAL("-1.#IND"))) {
        *real = (double)NAN;
        return true;
    }
    return false;
}

static size_t
skip_digits(psd_span line, size_t at)
{
    while (at < line.size && is_digit(line.data[at])) {
        at++;
    }
    return at;
}

/* [sign] digits [. digits] [e [sign] digits]; with no point, `point` is the size. */
static bool
is_decimal(psd_span line, size_t *point)
{
    size_t first =
        line.size > 0 && (line.data[0] == '-' || line.data[0] == '+') ? 1 : 0;
    size_t at = skip_digits(line, first);
    size_t digits = at - first;
    *point = line.size;
    if (at < line.size && line.data[at] == '.') {
        *point = at;
        at = skip_digits(line, at + 1);
        digits += at - *point - 1;
    }
    if (digits > 0 && at < line.size && (line.data[at] | 0x20) == 'e') {
        at++;
        at += at < line.size && (line.data[at] == '-' || line.data[at] == '+') ? 1 : 0;
        size_t end = skip_digits(line, at);
        digits = end - at;
        at = end;
    }
    return digits > 0 && at == line.size;
}

/*
 * strtod rounds correctly but wants the locale's decimal point, so the point is
 * put in its place.
 */
bool
psd_text_float(psd_span line, double *real)
{
    char text[FLOAT_SIZE_MAX + POINT_SIZE_MAX + 1];
    size_t point;
    if (special_float(line, real)) {
        return true;
    }
    if (line.size > FLOAT_SIZE_MAX || !is_decimal(line, &point)) {
        return false;
    }
    size_t size = point;
    memcpy(text, line.data, point);
    if (point < line.size) {
        const char *local = localeconv()->decimal_point;
        size_t local_size = strlen(local);
        if (local_size > POINT_SIZE_MAX) {
            return false;
        }
        memcpy(text + size, local, local_size);
        size += local_size;
        memcpy(text + size, line.data + point + 1, line.size - point - 1);
        size += line.size - point - 1;
    }
    text[size] = '\0';
    char *end;
    *real = strtod(text, &end);
    /* No pickler writes digits for what is beyond the range. */
    return end == text + size && isfinite(*real);
}

/* ------------------------------------------------------------------ strings */

/* One escape after its backslash: the byte, and `*at` moved past it. */
static bool
read_escape(psd_span text, size_t *at, uint8_t *byte)
{
    static const char letters[] = "abfnrtv\\'\"";
    static const char meanings[] = "\a\b\f\n\r\t\v\\'\"";
    uint8_t c = text.data[(*at)++];
    const char *letter = c == 0 ? NULL : strchr(letters, c);
    if (letter != NULL) {
        *byte = (uint8_t)meanings[letter - letters];
        return true;
    }
    unsigned n = 0;
    if (c == 'x') {
        int high = *at < text.size ? psd_hex_digit(text.data[*at]) : -1;
        int low = *at + 1 < text.size ? psd_hex_digit(text.data[*at + 1]) : -1;
        if (high < 0 || low < 0) {
            return false;
        }
        *at += 2;
        *byte = (uint8_t)(high << 4 | low);
        return true;
    }
    if (c >= '0' && c <= '7') {
        (*at)--;
        for (int i = 0; i < 3 && *at < text.size; i++) {
            if (text.data[*at] < '0' || text.data[*at] > '7') {
                break;
            }
            n = n * 8 + (unsigned)(text.data[(*at)++] - '0');
        }
        *byte = (uint8_t)n;
        return n <= UINT8_MAX;
    }
    /* Python keeps the backslash of an escape that it does not know. */
    (*at)--;
    *byte = '\\';
    return true;
}

psd_status
psd_text_string(psd_span line, psd_arena *arena, psd_span *text)
{
    if (line.size < 2 || (line.data[0] != '\'' && line.data[0] != '"') ||
        line.data[line.size - 1] != line.data[0]) {
        return PSD_PICKLE;
    }
    psd_span inner = {line.data + 1, line.size - 2};
    if (inner.size == 0 || memchr(inner.data, '\\', inner.size) == NULL) {
        *text = inner;
        return PSD_OK;
    }
    uint8_t *bytes = psd_arena_take(arena, inner.size);
    if (bytes == NULL) {
        return PSD_NO_MEMORY;
    }
    size_t size = 0;
    for (size_t at = 0; at < inner.size;) {
        uint8_t c = inner.data[at++];
        if (c == '\\' && (at == inner.size || !read_escape(inner, &at, &c))) {
            return PSD_PICKLE;
        }
        bytes[size++] = c;
    }
    *text = (psd_span){bytes, size};
    return PSD_OK;
}

/* Four or eight hexadecimal digits at `at`. */
static bool
read_code(psd_span line, size_t at, size_t count, uint32_t *code)
{
    if (count > line.size - at) {
        return false;
    }
    uint32_t n = 0;
    for (size_t i = 0; i < count; i++) {
        int digit = psd_hex_digit(line.data[at + i]);
        if (digit < 0) {
            return false;
        }
        n = n << 4 | (uint32_t)digit;
    }
    *code = n;
    return n < 0x110000;
}

psd_status
psd_text_unicode(psd_span line, psd_arena *arena, psd_span *text)
{
    size_t high = 0, escapes = 0;
    for (size_t i = 0; i < line.size; i++) {
        high += line.data[i] >> 7;
        escapes += line.data[i] == '\\';
    }
    if (high + escapes == 0) {
        *text = line;
        return PSD_OK;
    }
    /* A Latin-1 byte above 0x7F takes two, an escape less than its spelling. */
    uint8_t *bytes = psd_arena_take(arena, line.size + high);
    if (bytes == NULL) {
        return PSD_NO_MEMORY;
    }
    uint8_t *end = bytes;
    for (size_t at = 0; at < line.size;) {
        uint8_t c = line.data[at++];
        uint8_t next = c == '\\' && at < line.size ? line.data[at] : 0;
        if (next == 'u' || next == 'U') {
            uint32_t code;
            size_t count = next == 'u' ? 4 : 8;
            if (!read_code(line, at + 1, count, &code)) {
                return PSD_PICKLE;
            }
            end = psd_put_utf8(end, code);
            at += 1 + count;
            continue;
        }
        end = psd_put_utf8(end, c);
        if (next == '\\') { /* the second of two does not begin an escape */
            *end++ = next;
            at++;
        }
    }
    *text = (psd_span){bytes, (size_t)(end - bytes)};
    return PSD_OK;
}
