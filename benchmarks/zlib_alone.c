/* What the library alone takes for the messages of compression.py, in C: its floor.
 *
 *     zlib_alone TICKS WINDOW_BITS MEMORY_LEVEL LEVEL
 *
 * TICKS holds a message a line. Prints microseconds of CPU time to deflate and to inflate one.
 */
#include "zlib_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 100000, ROOM = 4096 };

static struct {
    Bytef *bytes;
    uInt size;
} plain[MOST], deflated[MOST];

static void die(const char *why) {
    fprintf(stderr, "zlib_alone: %s\n", why);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static size_t read_ticks(const char *path) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t count = 0, room = 0;
    ssize_t size;
    if (file == NULL) die(path);
    while (count < MOST && (size = getline(&line, &room, file)) > 1) {
        if (size > ROOM) die("a message is too long");
        plain[count].size = (uInt)size - 1;
        plain[count].bytes = malloc((size_t)size);
        /* Touched, so that no page fault is counted; and a line is longer than what becomes of it. */
        deflated[count].bytes = malloc((size_t)size);
        if (plain[count].bytes == NULL || deflated[count].bytes == NULL) die("out of memory");
        memcpy(plain[count].bytes, line, (size_t)size - 1);
        memcpy(deflated[count].bytes, line, (size_t)size);
        count++;
    }
    if (count == 0) die("no messages");
    return count;
}

int main(int argc, char **argv) {
    static Bytef out[ROOM];
    z_stream deflating, inflating;
    if (argc != 5) die("usage: zlib_alone TICKS WINDOW_BITS MEMORY_LEVEL LEVEL");
    size_t count = read_ticks(argv[1]);
    int bits = -atoi(argv[2]);
    memset(&deflating, 0, sizeof deflating);
    memset(&inflating, 0, sizeof inflating);
    if (PICOWS_Z(deflateInit2)(&deflating, atoi(argv[4]), Z_DEFLATED, bits, atoi(argv[3]),
                               Z_DEFAULT_STRATEGY) != Z_OK ||
        PICOWS_Z(inflateInit2)(&inflating, bits) != Z_OK)
        die("the library does not take these settings");
    double start = now();
    for (size_t i = 0; i < count; i++) {
        deflating.next_in = plain[i].bytes;
        deflating.avail_in = plain[i].size;
        deflating.next_out = deflated[i].bytes;
        deflating.avail_out = plain[i].size;
        PICOWS_Z(deflate)(&deflating, Z_SYNC_FLUSH);
        if (deflating.avail_out == 0) die("a message that does not become smaller");
        deflated[i].size = plain[i].size - deflating.avail_out;
    }
    double middle = now();
    for (size_t i = 0; i < count; i++) {
        inflating.next_in = deflated[i].bytes;
        inflating.avail_in = deflated[i].size;
        inflating.next_out = out;
        inflating.avail_out = ROOM;
        PICOWS_Z(inflate)(&inflating, Z_SYNC_FLUSH);
    }
    double end = now();
    if (inflating.avail_out != ROOM - plain[count - 1].size ||
        memcmp(out, plain[count - 1].bytes, plain[count - 1].size) != 0)
        die("the last message came out otherwise");
    printf("%f %f\n", (middle - start) / (double)count, (end - middle) / (double)count);
}
