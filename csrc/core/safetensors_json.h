/* SPDX-License-Identifier: Apache-2.0
 *
 * Just enough of JSON (RFC 8259) for such a header, strictly.  A reader remembers its
 * first failure, as a cursor does.
 */
#ifndef PSD_SAFETENSORS_JSON_H
#define PSD_SAFETENSORS_JSON_H

#include "safetensors.h"

typedef struct {
    uint8_t *start;
    uint8_t *next;
    uint8_t *end;
    psd_error *err;
    bool failed;
} psd_json;

/* Note the failure, unless there was one; always false. */
bool psd_json_fail(psd_json *json, const char *sentence);

/* It is not what must come next; always false. */
bool psd_json_unexpected(psd_json *json);

/* The next byte that is no blank; 0 at the end. */
static inline uint8_t
psd_json_peek(psd_json *json)
{
    while (json->next < json->end && (*json->next == ' ' || *json->next == '\n' ||
                                      *json->next == '\r' || *json->next == '\t')) {
        json->next++;
    }
    return json->next < json->end ? *json->next : 0;
}

/* Take this byte, which must be the next that is no blank. */
static inline bool
psd_json_take(psd_json *json, uint8_t byte)
{
    if (psd_json_peek(json) != byte) {
        return psd_json_unexpected(json);
    }
    json->next++;
    return true;
}

/*
 * Before each member or item but for the first, and at the end: *more tells whether
 * another follows.  `first` says that the opening bracket was just taken.
 */
bool psd_json_next(psd_json *json, uint8_t closing, bool first, bool *more);

/* A text, unescaped in place. */
bool psd_json_text(psd_json *json, psd_span *text);

/* A text and the colon behind it. */
bool psd_json_key(psd_json *json, psd_span *key);

/* A whole number without a sign. */
bool psd_json_number(psd_json *json, uint64_t *number);

/* The word null, if it comes next. */
bool psd_json_null(psd_json *json);

/* Any value, to be passed by. */
bool psd_json_skip(psd_json *json);

#endif
