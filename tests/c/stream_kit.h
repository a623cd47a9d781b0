/* SPDX-License-Identifier: Apache-2.0
 *
 * Legacy streams as literals: five pickles, then a count of 8 bytes and the elements of
 * each storage.
 */
#ifndef PSD_STREAM_KIT_H
#define PSD_STREAM_KIT_H

#include "archive_model.h"

#define MAGIC "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#define VERSION "\x80\x02M\xe9\x03."
#define FACTS                                                                    \
    "\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\x0d\0\0\0little_endian\x88" \
    "X\x0a\0\0\0type_sizes}(X\x05\0\0\0shortK\x02X\x03\0\0\0intK\x04"            \
    "X\x04\0\0\0longK\x04uu."
#define HEAD MAGIC VERSION FACTS

/* The list of the storages' keys, each KEY("..."). */
#define KEYS(keys) "\x80\x02(" keys "l."
#define KEY(text) "V" text "\n"

/* The persistent id of a storage; `view` is N or VIEW(key, offset, numel). */
#define STORED(class, key, numel, view) \
    PERSID("Vstorage\nctorch\n" class "\nV" key "\nVcpu\nI" numel "\n" view)
#define VIEW(key, offset, numel) "(V" key "\nI" offset "\nI" numel "\nt"

/* Counts, little-endian in 8 bytes.  The bytes behind must be a literal of their own, or
 * digits would be taken for the count's. */
#define COUNT_0 "\0\0\0\0\0\0\0\0"
#define COUNT_2 "\2\0\0\0\0\0\0\0"
#define COUNT_3 "\3\0\0\0\0\0\0\0"
#define COUNT_6 "\6\0\0\0\0\0\0\0"

/* The floats 0 to 5. */
#define SIX_FLOATS                                           \
    "\0\0\0\0\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40" \
    "\0\0\xa0\x40"

#endif
