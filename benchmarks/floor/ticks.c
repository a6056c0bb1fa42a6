/*
 * ticks.c owns compression (RFC 7692): the messages of a file, one a line, and zlib over them, with
 * windows of 12 bits, memory level 5 and level 1.
 *
 * Always true here: the feed is one deflate stream a connection, though it is compressed once for
 * all. The first pass through the ticks is compressed from nothing, the second behind the first.
 * Whoever has just inflated all ticks has the same window each time, so the first pass is sent once
 * and then the second over and over.
 */
#include "peer.h"

#include <zlib.h>

enum { WINDOW_BITS = 12, MEMORY_LEVEL = 5, LEVEL = 1, TAIL = 4 };
static const uint8_t tail[TAIL] = {0x00, 0x00, 0xff, 0xff}; /* RFC 7692 section 7.2.1 */

static struct {
    uint8_t *text;
    size_t *ends; /* of each tick; its newline is not part of it */
    size_t count, longest;
} ticks;

static struct {
    uint8_t *bytes;
    size_t *ends; /* of each frame */
} passes[2];

static z_stream deflating;

static z_stream *deflater(void) {
    if (deflating.state == NULL &&
        deflateInit2(&deflating, LEVEL, Z_DEFLATED, -WINDOW_BITS, MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        die("deflateInit2");
    return &deflating;
}

void load_ticks(const char *path) {
    FILE *file = path == NULL ? NULL : fopen(path, "rb");
    if (file == NULL) die("--ticks: no file");
    size_t capacity = 0, limit = 0, room = 0, size = 0;
    char *line = NULL;
    ssize_t got;
    while ((got = getline(&line, &room, file)) > 0) {
        size_t length = (size_t)got - 1;
        ticks.text = grow(ticks.text, &capacity, (size + length) * 2);
        memcpy(ticks.text + size, line, length);
        size += length;
        ticks.ends = grow(ticks.ends, &limit, (ticks.count + 1) * 2 * sizeof *ticks.ends);
        ticks.ends[ticks.count++] = size;
        if (length > ticks.longest) ticks.longest = length;
    }
    free(line);
    fclose(file);
    if (ticks.count == 0) die("--ticks: an empty file");
}

size_t tick_count(void) { return ticks.count; }

const uint8_t *tick(size_t index, size_t *size) {
    size_t start = index == 0 ? 0 : ticks.ends[index - 1];
    *size = ticks.ends[index] - start;
    return ticks.text + start;
}

/* The bytes of the next message of this process's one outgoing stream. */
size_t deflate_tick(size_t index, uint8_t *target, size_t room) {
    z_stream *z = deflater();
    size_t size;
    z->next_in = (uint8_t *)tick(index, &size);
    z->avail_in = (uInt)size;
    z->next_out = target;
    z->avail_out = (uInt)room;
    if (deflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in > 0 || z->avail_out == 0) die("deflate");
    return room - z->avail_out - TAIL;
}

void prepare_passes(void) {
    if (passes[0].bytes != NULL) return;
    size_t room = ticks.longest + 64;
    uint8_t *deflated = malloc(room);
    for (int pass = 0; pass < 2; pass++) {
        uint8_t *p = passes[pass].bytes = malloc(ticks.count * (room + HEADER_MAX));
        passes[pass].ends = malloc(ticks.count * sizeof *passes[pass].ends);
        if (p == NULL || passes[pass].ends == NULL || deflated == NULL) die("out of memory");
        for (size_t i = 0; i < ticks.count; i++) {
            size_t size = deflate_tick(i, deflated, room);
            p += write_header(p, 0x40 | OP_TEXT, size, false, 0);
            memcpy(p, deflated, size);
            p += size;
            passes[pass].ends[i] = (size_t)(p - passes[pass].bytes);
        }
    }
    free(deflated);
}

/* Sends what the kernel takes of c->feed_left frames. False when the connection is gone. */
bool feed_ticks(conn *c) {
    while (c->feed_left > 0 && !c->flush_pending) {
        const uint8_t *bytes = passes[c->second_pass].bytes;
        const size_t *ends = passes[c->second_pass].ends;
        size_t last = c->tick_index + c->feed_left - 1;
        if (last >= ticks.count) last = ticks.count - 1;
        size_t size = ends[last] - c->feed_offset;
        ssize_t sent = put(c, bytes + c->feed_offset, size);
        if (sent < 0) return false;
        c->feed_offset += (size_t)sent;
        while (c->tick_index <= last && ends[c->tick_index] <= c->feed_offset) {
            c->tick_index++;
            c->feed_left--;
        }
        if (c->tick_index == ticks.count) {
            c->second_pass = true;
            c->tick_index = c->feed_offset = 0;
        }
        if ((size_t)sent < size) break;
    }
    return true;
}

/* Inflates the connection's next message. The result lives until the next call. */
size_t inflate_message(conn *c, const uint8_t *data, size_t n, const uint8_t **inflated) {
    static uint8_t target[64 * 1024];
    z_stream *z = c->inflater;
    if (z == NULL) {
        z = c->inflater = calloc(1, sizeof *z);
        if (z == NULL || inflateInit2(z, -15) != Z_OK) die("inflateInit2");
    }
    z->next_out = target;
    z->avail_out = sizeof target;
    z->next_in = (uint8_t *)data;
    z->avail_in = (uInt)n;
    int result = inflate(z, Z_SYNC_FLUSH);
    z->next_in = (uint8_t *)tail;
    z->avail_in = TAIL;
    if (result == Z_OK) result = inflate(z, Z_SYNC_FLUSH);
    if (result != Z_OK && result != Z_BUF_ERROR) die("inflate: %d", result);
    *inflated = target;
    return sizeof target - z->avail_out;
}

void end_inflater(conn *c) {
    if (c->inflater != NULL) inflateEnd(c->inflater);
    free(c->inflater);
}
