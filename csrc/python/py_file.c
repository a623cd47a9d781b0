/* SPDX-License-Identifier: Apache-2.0
 *
 * What Python's files do not do.  A file's bytes come into memory, and where they are to
 * be checked, the checksum of each block is computed while the block is in the cache: to
 * fetch it from memory once more takes longer than to compute it.  And the disk can be told
 * to begin with what was written, while the rest is.
 */
#include "py_module.h"

#ifndef _WIN32

#include "crc32.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Bytes that are read at once: with checksums, what the cache next to a core holds. */
#define AT_ONCE ((size_t)1 << 30)
#define IN_CACHE (64 * PSD_CRC32_BLOCK)

typedef struct {
    int fd;
    off_t start;
    uint8_t *into;
    size_t size, done;
    uint32_t *crcs; /* room for one of each whole block, or NULL */
} filling;

/* Exactly the next bytes; false at the end of the file, and with `errno` when it fails. */
static bool
read_on(filling *f, size_t size)
{
    size_t end = f->done + size;
    errno = 0;
    while (f->done < end) {
        ssize_t count =
            pread(f->fd, f->into + f->done, end - f->done, f->start + (off_t)f->done);
        if (count <= 0) {
            return false;
        }
        f->done += (size_t)count;
    }
    return true;
}

/* Up to AT_ONCE bytes more. */
static bool
fill_some(filling *f)
{
    size_t end = f->size - f->done < AT_ONCE ? f->size : f->done + AT_ONCE;
    size_t most = f->crcs == NULL ? AT_ONCE : IN_CACHE;
    bool whole = true;
    while (whole && f->done < end) {
        /* At a block's edge: an interrupted read is gone on with up to the next. */
        size_t from = f->done - f->done % PSD_CRC32_BLOCK;
        size_t piece = end - f->done < most ? end - f->done : most;
        whole = read_on(f, piece);
        if (f->crcs != NULL) {
            psd_crc32_each_block(f->into + from, f->done - from,
                                 f->crcs + from / PSD_CRC32_BLOCK);
        }
    }
    return whole;
}

static bool
fill(filling *f)
{
    while (f->done < f->size) {
        bool whole;
        int error;
        Py_BEGIN_ALLOW_THREADS
        whole = fill_some(f);
        error = errno;
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return false;
        }
        if (!whole && error != EINTR) {
            errno = error;
            return error == 0 || PyErr_SetFromErrno(PyExc_OSError) != NULL;
        }
    }
    return true;
}

static bool
has_room(const Py_buffer *crcs, size_t size)
{
    if ((size_t)crcs->len / sizeof(uint32_t) >= size / PSD_CRC32_BLOCK &&
        (uintptr_t)crcs->buf % sizeof(uint32_t) == 0) {
        return true;
    }
    PyErr_SetString(PyExc_ValueError, "there is no room for the checksums");
    return false;
}

PyObject *
py_read_file(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer into, crcs = {NULL};
    int fd;
    unsigned long long start;
    if (!PyArg_ParseTuple(args, "w*iK|w*:read_file", &into, &fd, &start, &crcs)) {
        return NULL;
    }
    filling f = {.fd = fd, .start = (off_t)start, .into = into.buf};
    f.size = (size_t)into.len;
    f.crcs = crcs.buf;
    bool done = (crcs.buf == NULL || has_room(&crcs, f.size)) && fill(&f);
    PyBuffer_Release(&into);
    if (crcs.buf != NULL) {
        PyBuffer_Release(&crcs);
    }
    return done ? PyLong_FromSize_t(f.done) : NULL;
}

PyObject *
py_begin_writeback(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    unsigned long long start, size;
    if (!PyArg_ParseTuple(args, "iKK:begin_writeback", &fd, &start, &size)) {
        return NULL;
    }
#ifdef SYNC_FILE_RANGE_WRITE
    Py_BEGIN_ALLOW_THREADS
        /* What comes of it, fsync() will tell. */
        (void)
    sync_file_range(fd, (off_t)start, (off_t)size, SYNC_FILE_RANGE_WRITE);
    Py_END_ALLOW_THREADS
#endif
    Py_RETURN_NONE;
}

#endif
