/* SPDX-License-Identifier: Apache-2.0
 *
 * A main() for the targets that needs no fuzzing engine: it replays every file it
 * is given, then mutates them for some seconds.  The same seed gives the same
 * inputs on every machine.
 *
 *     driver [-t SECONDS] [-s SEED] [-m MAX_BYTES] [-d DICTIONARY] [FILE|FOLDER]...
 *
 * When the target dies, the input that did it is left in crash-SEED-NUMBER.
 */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);

/* A target may have mutations of its own, where the linker knows how to do without. */
#if defined(__GNUC__)
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size,
                                                     size_t room, unsigned seed);
#endif

/* An input may take this long; then it counts as a hang. */
#define HANG_SECONDS 20

typedef struct {
    uint8_t *data;
    size_t size;
} blob;

typedef struct {
    blob *items;
    size_t count, capacity;
} blobs;

static blobs corpus, tokens;
static uint64_t seed = 1, state, executions;

/* What the signal handler needs to know. */
static const uint8_t *volatile current;
static volatile size_t current_size;

static void *
take(size_t size)
{
    void *memory = malloc(size == 0 ? 1 : size);
    if (memory == NULL) {
        perror("malloc");
        exit(2);
    }
    return memory;
}

static void
add(blobs *list, const uint8_t *data, size_t size)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        list->items = realloc(list->items, list->capacity * sizeof(blob));
        if (list->items == NULL) {
            perror("realloc");
            exit(2);
        }
    }
    blob b = {take(size), size};
    memcpy(b.data, data, size);
    list->items[list->count++] = b;
}

/* ------------------------------------------------------------------- reading */

static void
read_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = take(size);
    if (file == NULL || fread(data, 1, size, file) != size) {
        perror(path);
        exit(2);
    }
    fclose(file);
    add(&corpus, data, size);
    free(data);
}

static int
by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Folders in order of name, so that a run can be repeated; explicit stack. */
static void
read_path(const char *path)
{
    char **stack = NULL;
    size_t count = 0, capacity = 0;
    char *next = strdup(path);
    for (;;) {
        struct stat st;
        if (next == NULL || stat(next, &st) != 0) {
            perror(path);
            exit(2);
        }
        if (S_ISREG(st.st_mode)) {
            read_file(next, (size_t)st.st_size);
        }
        else if (S_ISDIR(st.st_mode)) {
            size_t first = count;
            DIR *folder = opendir(next);
            for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) {
                if (e->d_name[0] == '.') {
                    continue;
                }
                if (count == capacity) {
                    capacity = capacity == 0 ? 64 : capacity * 2;
                    stack = realloc(stack, capacity * sizeof(char *));
                    if (stack == NULL) {
                        perror("realloc");
                        exit(2);
                    }
                }
                size_t length = strlen(next) + strlen(e->d_name) + 2;
                stack[count] = take(length);
                snprintf(stack[count++], length, "%s/%s", next, e->d_name);
            }
            if (folder != NULL) {
                closedir(folder);
                qsort(stack + first, count - first, sizeof(char *), by_name);
            }
        }
        free(next);
        if (count == 0) {
            break;
        }
        next = stack[--count];
    }
    free(stack);
}

static int
hex(char c)
{
    const char *digits = "0123456789abcdef";
    const char *found = c == '\0' ? NULL : strchr(digits, c | 0x20);
    return found == NULL ? -1 : (int)(found - digits);
}

/* Lines of the form name="text", as fuzzing engines know them. */
static void
read_dictionary(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    char line[1024];
    while (fgets(line, sizeof line, file) != NULL) {
        char *p = strchr(line, '"'), *end = strrchr(line, '"');
        if (line[0] == '#' || p == NULL || end == p) {
            continue;
        }
        uint8_t token[1024];
        size_t size = 0;
        for (p++; p < end; p++) {
            if (p[0] == '\\' && p[1] == 'x' && hex(p[2]) >= 0 && hex(p[3]) >= 0) {
                token[size++] = (uint8_t)(hex(p[2]) << 4 | hex(p[3]));
                p += 3;
            }
            else if (p[0] == '\\' && p + 1 < end) {
                token[size++] = (uint8_t)*++p;
            }
            else {
                token[size++] = (uint8_t)*p;
            }
        }
        add(&tokens, token, size);
    }
    fclose(file);
}

/* ------------------------------------------------------------------ mutating */

/* xorshift64* */
static uint64_t
draw(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545F4914F6CDD1Du;
}

static size_t
below(size_t bound)
{
    return bound == 0 ? 0 : (size_t)(draw() >> 11) % bound;
}

/* Numbers at which arithmetic breaks. */
static const uint64_t edges[] = {
    0,          1,          2,          0x7f,        0x80,      0xff,
    0x100,      0x7fff,     0x8000,     0xffff,      0x10000,   0x7fffffff,
    0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, INT64_MAX, UINT64_MAX - 1,
    UINT64_MAX,
};

static size_t
insert(uint8_t *data, size_t size, size_t room, size_t at, const uint8_t *what,
       size_t n)
{
    if (n > room - size) {
        return size;
    }
    memmove(data + at + n, data + at, size - at);
    memcpy(data + at, what, n);
    return size + n;
}

static size_t
mutate_once(uint8_t *data, size_t size, size_t room)
{
    size_t at = below(size + 1);
    size_t left = size - at;
    switch (below(10)) {
    case 0: /* one bit */
        if (left > 0) {
            data[at] ^= (uint8_t)(1u << below(8));
        }
        break;
    case 1: /* one byte */
        if (left > 0) {
            data[at] = (uint8_t)draw();
        }
        break;
    case 2: /* a number at an edge, little-endian */
    case 3: {
        uint64_t edge = edges[below(sizeof edges / sizeof edges[0])];
        size_t width = (size_t)1 << below(4);
        for (size_t i = 0; i < width && i < left; i++) {
            data[at + i] = (uint8_t)(edge >> 8 * i);
        }
        break;
    }
    case 4: /* a small step */
        if (left > 0) {
            data[at] = (uint8_t)(data[at] + below(9) - 4);
        }
        break;
    case 5: { /* cut a piece out */
        size_t n = below(left + 1);
        n = n > 64 && below(4) != 0 ? below(64) : n;
        memmove(data + at, data + at + n, left - n);
        return size - n;
    }
    case 6: { /* repeat a piece */
        uint8_t piece[64];
        size_t n = below(left < sizeof piece ? left + 1 : sizeof piece);
        memcpy(piece, data + at, n);
        return insert(data, size, room, below(size + 1), piece, n);
    }
    case 7: /* a word of the dictionary */
    case 8:
        if (tokens.count > 0) {
            const blob *token = &tokens.items[below(tokens.count)];
            if (below(2) != 0) {
                return insert(data, size, room, at, token->data, token->size);
            }
            memcpy(data + at, token->data, token->size < left ? token->size : left);
        }
        break;
    default: { /* a piece of another file */
        const blob *other = &corpus.items[below(corpus.count)];
        size_t from = below(other->size + 1);
        size_t n = below(other->size - from + 1);
        if (below(2) != 0) {
            n = n > 256 ? below(256) : n;
            return insert(data, size, room, at, other->data + from, n);
        }
        memcpy(data + at, other->data + from, n < left ? n : left);
    }
    }
    return size;
}

size_t
LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room)
{
    for (size_t n = 1 + below(8); n > 0; n--) {
        size = mutate_once(data, size, room);
    }
    return size;
}

static size_t
mutate(uint8_t *data, size_t size, size_t room)
{
#if defined(__GNUC__)
    if (LLVMFuzzerCustomMutator != NULL) {
        return LLVMFuzzerCustomMutator(data, size, room, (unsigned)(draw() >> 32));
    }
#endif
    return LLVMFuzzerMutate(data, size, room);
}

/* ------------------------------------------------------------------- running */

static void
leave_input(int signal_number)
{
    char name[64];
    snprintf(name, sizeof name, "crash-%" PRIu64 "-%" PRIu64, seed, executions);
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (file >= 0 && current != NULL) {
        size_t done = 0;
        while (done < current_size) {
            ssize_t n = write(file, current + done, current_size - done);
            if (n <= 0) {
                break;
            }
            done += (size_t)n;
        }
        close(file);
    }
    const char *what = signal_number == SIGALRM ? "hangs" : "dies";
    dprintf(STDERR_FILENO, "the target %s; its input is in %s\n", what, name);
    signal(signal_number, SIG_DFL);
    raise(signal_number == SIGALRM ? SIGKILL : signal_number);
}

/* On a block of just its size, so that a sanitizer sees one byte too many. */
static void
execute(const uint8_t *data, size_t size)
{
    uint8_t *exact = take(size);
    memcpy(exact, data, size);
    current = exact;
    current_size = size;
    executions++;
    LLVMFuzzerTestOneInput(exact, size);
    current = NULL;
    free(exact);
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void
usage(const char *name)
{
    fprintf(
        stderr,
        "usage: %s [-t SECONDS] [-s SEED] [-m MAX_BYTES] [-d DICTIONARY] [PATH]...\n",
        name);
    exit(2);
}

int
main(int argc, char **argv)
{
    double seconds = 0;
    size_t room = 16384;
    for (int option; (option = getopt(argc, argv, "t:s:m:d:")) != -1;) {
        switch (option) {
        case 't': seconds = strtod(optarg, NULL); break;
        case 's': seed = strtoull(optarg, NULL, 10); break;
        case 'm': room = (size_t)strtoull(optarg, NULL, 10); break;
        case 'd': read_dictionary(optarg); break;
        default: usage(argv[0]);
        }
    }
    for (int i = optind; i < argc; i++) {
        read_path(argv[i]);
    }
    const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        signal(signals[i], leave_input);
    }

    alarm(HANG_SECONDS);
    for (size_t i = 0; i < corpus.count; i++) {
        execute(corpus.items[i].data, corpus.items[i].size);
        alarm(HANG_SECONDS);
    }
    printf("%zu files replayed\n", corpus.count);
    fflush(stdout);
    if (corpus.count == 0) {
        add(&corpus, (const uint8_t *)"", 0);
    }

    state = seed * 0x9E3779B97F4A7C15u + 1;
    uint8_t *data = take(room);
    double start = now();
    uint64_t replayed = executions;
    while (seconds > 0) {
        if (executions % 64 == 0) {
            if (now() - start >= seconds) {
                break;
            }
            alarm(HANG_SECONDS);
        }
        const blob *chosen = &corpus.items[below(corpus.count)];
        size_t size = chosen->size < room ? chosen->size : room;
        memcpy(data, chosen->data, size);
        for (size_t n = 1 + below(3); n > 0; n--) {
            size = mutate(data, size, room);
        }
        execute(data, size);
    }
    printf("%" PRIu64 " executions in %.0f s\n", executions - replayed, now() - start);
    free(data);
    for (size_t i = 0; i < corpus.count; i++) {
        free(corpus.items[i].data);
    }
    for (size_t i = 0; i < tokens.count; i++) {
        free(tokens.items[i].data);
    }
    free(corpus.items);
    free(tokens.items);
    return 0;
}
