/* SPDX-License-Identifier: Apache-2.0 */
#include "safetensors_json.h"
#include "text.h"

/* Values within values that are passed by; the reference allows as many. */
#define DEPTH_MOST 128u

bool
psd_json_fail(psd_json *json, const char *sentence)
{
    if (!json->failed) {
        json->failed = true;
        psd_fail(json->err, PSD_SAFETENSORS,
                 PSD_SAFETENSORS_LENGTH + (uint64_t)(json->next - json->start),
                 sentence);
    }
    return false;
}

bool
psd_json_unexpected(psd_json *json)
{
    return psd_json_fail(json, "the header is no JSON of the kind that is expected");
}

bool
psd_json_next(psd_json *json, uint8_t closing, bool first, bool *more)
{
    *more = psd_json_peek(json) != closing;
    if (!*more) {
        return psd_json_take(json, closing);
    }
    return first || psd_json_take(json, ',');
}

/* ---------------------------------------------------------------- texts */

/* Four digits at `from`; UINT32_MAX if they are not there. */
static uint32_t
hex4(const uint8_t *from, const uint8_t *end)
{
    uint32_t v = 0;
    if (end - from < 4) {
        return UINT32_MAX;
    }
    for (int i = 0; i < 4; i++) {
        int digit = psd_hex_digit(from[i]);
        if (digit < 0) {
            return UINT32_MAX;
        }
        v = v << 4 | (uint32_t)digit;
    }
    return v;
}

/* What follows `\u`: one character, of two such escapes where it needs them. */
static bool
unicode_escape(psd_json *json, uint8_t **to)
{
    uint32_t c = hex4(json->next, json->end);
    if (c == UINT32_MAX) {
        return psd_json_fail(json, "a text in the header has a broken escape");
    }
    json->next += 4;
    if (c >= 0xD800 && c < 0xE000) {
        uint32_t low = UINT32_MAX;
        if (json->end - json->next >= 6 && json->next[0] == '\\' &&
            json->next[1] == 'u') {
            low = hex4(json->next + 2, json->end);
        }
        if (c >= 0xDC00 || low < 0xDC00 || low >= 0xE000) {
            return psd_json_fail(json, "a text in the header has half a character");
        }
        json->next += 6;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    *to = psd_put_utf8(*to, c);
    return true;
}

static bool
escape(psd_json *json, uint8_t **to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    uint8_t c = json->next < json->end ? *json->next : 0;
    const char *found = c == 0 ? NULL : strchr(from, c);
    if (c != 'u' && found == NULL) {
        return psd_json_fail(json, "a text in the header has a broken escape");
    }
    json->next++;
    if (c == 'u') {
        return unicode_escape(json, to);
    }
    *(*to)++ = (uint8_t)into[found - from];
    return true;
}

/* The bytes of the character at `at`, by the table of RFC 3629, section 4; 0: none. */
static size_t
utf8_size(const uint8_t *at, const uint8_t *end)
{
    uint8_t first = at[0], low = 0x80, high = 0xBF;
    size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (first < 0xC2 || first > 0xF4 || (size_t)(end - at) < size) {
        return 0;
    }
    low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : low;
    high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : high;
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return size;
}

/* Does a byte stand for itself in a text: ASCII but for controls, quote and backslash? */
static bool
is_plain(uint8_t c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Move the plain bytes that come next to `to`; gives where they end there. */
static uint8_t *
plain_run(psd_json *json, uint8_t *to)
{
    uint8_t *from = json->next, *at = from;
    while (at < json->end && is_plain(*at)) {
        at++;
    }
    size_t size = (size_t)(at - from);
    if (to != from && size > 0) {
        memmove(to, from, size);
    }
    json->next = at;
    return to + size;
}

bool
psd_json_text(psd_json *json, psd_span *text)
{
    if (!psd_json_take(json, '"')) {
        return false;
    }
    uint8_t *start = json->next, *to = start;
    while (json->next < json->end) {
        to = plain_run(json, to);
        if (json->next == json->end) {
            break;
        }
        uint8_t c = *json->next;
        if (c == '"') {
            *text = (psd_span){start, (size_t)(to - start)};
            json->next++;
            return true;
        }
        if (c == '\\') {
            json->next++;
            if (!escape(json, &to)) {
                return false;
            }
            continue;
        }
        size_t size = c < 0x80 ? 0 : utf8_size(json->next, json->end);
        if (size == 0) {
            return psd_json_fail(json, c < 0x80
                                           ? "a text in the header holds a control "
                                             "character"
                                           : "a text in the header is not UTF-8");
        }
        memmove(to, json->next, size);
        to += size;
        json->next += size;
    }
    return psd_json_fail(json, "a text in the header does not end");
}

bool
psd_json_key(psd_json *json, psd_span *key)
{
    return psd_json_text(json, key) && psd_json_take(json, ':');
}

/* ---------------------------------------------------------------- other values */

bool
psd_json_number(psd_json *json, uint64_t *number)
{
    uint8_t first = psd_json_peek(json);
    uint8_t *start = json->next;
    uint64_t v = 0;
    if (first < '0' || first > '9') {
        return psd_json_fail(json, "a number in the header is no whole number");
    }
    while (json->next < json->end && *json->next >= '0' && *json->next <= '9') {
        uint64_t digit = (uint64_t)(*json->next - '0');
        if (v >= UINT64_MAX / 10 && (v > UINT64_MAX / 10 || digit > UINT64_MAX % 10)) {
            return psd_json_fail(json, "a number in the header is too large");
        }
        v = v * 10 + digit;
        json->next++;
    }
    if (first == '0' && json->next - start > 1) {
        return psd_json_fail(json, "a number in the header begins with a zero");
    }
    *number = v;
    return true;
}

static bool
word(psd_json *json, const char *expected)
{
    size_t size = strlen(expected);
    if ((size_t)(json->end - json->next) < size ||
        memcmp(json->next, expected, size) != 0) {
        return false;
    }
    json->next += size;
    return true;
}

bool
psd_json_null(psd_json *json)
{
    return psd_json_peek(json) == 'n' && word(json, "null");
}

static size_t
skip_digits(psd_json *json)
{
    uint8_t *start = json->next;
    while (json->next < json->end && *json->next >= '0' && *json->next <= '9') {
        json->next++;
    }
    return (size_t)(json->next - start);
}

/* Any number, with sign, fraction and exponent. */
static bool
skip_number(psd_json *json)
{
    (void)word(json, "-");
    uint8_t *start = json->next;
    size_t digits = skip_digits(json);
    bool good = digits == 1 || (digits > 1 && *start != '0');
    if (good && word(json, ".")) {
        good = skip_digits(json) > 0;
    }
    if (good && (word(json, "e") || word(json, "E"))) {
        (void)(word(json, "+") || word(json, "-"));
        good = skip_digits(json) > 0;
    }
    return good || psd_json_unexpected(json);
}

static bool
skip_leaf(psd_json *json)
{
    psd_span text;
    uint8_t c = psd_json_peek(json);
    if (c == '"') {
        return psd_json_text(json, &text);
    }
    if (word(json, "null") || word(json, "true") || word(json, "false")) {
        return true;
    }
    return skip_number(json);
}

/* The containers that are open, as their closing brackets. */
typedef struct {
    uint8_t closing[DEPTH_MOST];
    unsigned depth;
} nest;

/* At a value: pass by a leaf, or enter a container. */
static bool
skip_one(psd_json *json, nest *open, bool *entered)
{
    uint8_t c = psd_json_peek(json);
    *entered = c == '{' || c == '[';
    if (!*entered) {
        return skip_leaf(json);
    }
    if (open->depth == DEPTH_MOST) {
        return psd_json_fail(json, "the header is nested too deeply");
    }
    open->closing[open->depth++] = c == '{' ? '}' : ']';
    json->next++;
    return true;
}

bool
psd_json_skip(psd_json *json)
{
    nest open = {{0}, 0};
    bool first, more;
    if (!skip_one(json, &open, &first)) {
        return false;
    }
    while (open.depth > 0) {
        uint8_t closing = open.closing[open.depth - 1];
        psd_span key;
        if (!psd_json_next(json, closing, first, &more)) {
            return false;
        }
        first = false;
        if (!more) {
            open.depth--;
        }
        else if ((closing == '}' && !psd_json_key(json, &key)) ||
                 !skip_one(json, &open, &first)) {
            return false;
        }
    }
    return true;
}
