/*
 * peer.h owns what both ends of the floor share: memory and errors, masking, and frames. Short and
 * inline, since they are the inner loops; the rest is declared here and stands in connection.c (a
 * connection's bytes, opening handshake and TLS), ticks.c (compression), server.c and client.c.
 *
 * Always true:
 *   - a connection that reached the event loop is past its opening handshake, which is done with a
 *     blocking socket;
 *   - c->in[in_pos, in_len) are bytes received and not yet worked off, c->out[out_pos, out_len) are
 *     bytes not yet taken by the kernel; the server does not read while the latter is not empty,
 *     the client always reads, so the two cannot wait for each other;
 *   - a protocol error ends the program: a benchmark with a wrong peer has no result.
 */
#ifndef FLOOR_PEER_H
#define FLOOR_PEER_H
#define _GNU_SOURCE
#include <errno.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/types.h>
#include <time.h>

enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { HEAD_MAX = 16 * 1024, READ_CHUNK = 256 * 1024, FEED_CHUNK = 256 * 1024 };
enum { HEADER_MAX = 14, MAX_EVENTS = 256, TLS_WRITE_BUFFER = 256 * 1024 };

/* What the two ends do with each other; both are told. */
typedef enum { ECHO, FEED, HANDSHAKE, BROADCAST, INFLATE, DEFLATE, CONNECT, IDLE, WORKS } work_kind;

typedef struct {
    int fd;
    SSL *ssl;
    bool flush_pending; /* TLS records wait in the write BIO */
    bool writable_wanted;
    bool more; /* OpenSSL may hold decrypted bytes, of which epoll knows nothing */
    uint32_t in_flight; /* client: messages sent and not echoed yet */
    uint64_t feed_left; /* feed server: frames still to be sent */
    size_t feed_offset; /* feed server: bytes of the current chunk already sent */
    size_t tick_index; /* inflate server: frames of the current pass already sent */
    bool second_pass; /* inflate server, see ticks.c */
    size_t chunk; /* bytes to receive at once */
    uint64_t sunk_messages, sunk_bytes; /* deflate server: since the last answer */
    uint8_t *first; /* deflate server: the first message, inflated; NULL when answered */
    size_t first_size;
    struct z_stream_s *inflater; /* NULL until a compressed message came */
    size_t index; /* server: its place among all connections */
    uint8_t *in, *out; /* `in` is the shared buffer while in_cap is 0 */
    size_t in_pos, in_len, in_cap;
    size_t out_pos, out_len, out_cap;
} conn;

typedef struct {
    uint8_t opcode;
    bool masked;
    uint32_t key; /* the wire's four bytes in native order */
    bool deflated;
    size_t header_size;
    uint64_t payload_size;
} frame_head;

typedef struct {
    bool is_server;
    work_kind work;
    int core, port, conns, depth, window;
    const char *cert, *key, *ca, *ticks;
} options;

extern int epoll_fd;

_Noreturn void die(const char *format, ...);
_Noreturn void die_errno(const char *what);

static inline double now(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) die_errno("clock_gettime");
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void *grow(void *memory, size_t *capacity, size_t needed) {
    if (needed <= *capacity) return memory;
    memory = realloc(memory, needed);
    if (memory == NULL) die("out of memory");
    *capacity = needed;
    return memory;
}

/* ---- Masking ---------------------------------------------------------------------------------- */

typedef uint8_t vec32 __attribute__((vector_size(32)));

/* XOR while moving. dst == src and dst < src with overlap are both right, because every load is done
 * before a store that could reach it; that lets the server close the gap of four bytes that a
 * removed mask key leaves, in the buffer that it received into. */
static inline void xor_move(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key) {
    uint32_t keys[8] = {key, key, key, key, key, key, key, key};
    vec32 wide;
    memcpy(&wide, keys, sizeof wide);
    while (n >= 32) {
        vec32 chunk;
        memcpy(&chunk, src, 32);
        chunk ^= wide;
        memcpy(dst, &chunk, 32);
        src += 32, dst += 32, n -= 32;
    }
    while (n >= 4) {
        uint32_t word;
        memcpy(&word, src, 4);
        word ^= key;
        memcpy(dst, &word, 4);
        src += 4, dst += 4, n -= 4;
    }
    uint8_t tail[4];
    memcpy(tail, &key, 4);
    for (size_t i = 0; i < n; i++) dst[i] = src[i] ^ tail[i];
}

/* A floor may take its keys from a cheap generator; a library may not (RFC 6455 section 10.3). */
static inline uint32_t next_key(void) {
    static uint32_t state;
    if (state == 0 && getrandom(&state, sizeof state, 0) != sizeof state) die_errno("getrandom");
    state |= state == 0;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* ---- Frames, RFC 6455 section 5.2 ------------------------------------------------------------- */

static inline size_t header_size(size_t payload_size, bool masked) {
    size_t size = payload_size < 126 ? 2 : payload_size < 65536 ? 4 : 10;
    return size + (masked ? 4 : 0);
}

static inline size_t write_header(uint8_t *p, uint8_t opcode, uint64_t size, bool masked, uint32_t key) {
    uint8_t *start = p, mask_bit = masked ? 0x80 : 0;
    *p++ = 0x80 | opcode;
    if (size < 126) {
        *p++ = mask_bit | (uint8_t)size;
    } else if (size < 65536) {
        *p++ = mask_bit | 126;
        *p++ = (uint8_t)(size >> 8);
        *p++ = (uint8_t)size;
    } else {
        *p++ = mask_bit | 127;
        for (int shift = 56; shift >= 0; shift -= 8) *p++ = (uint8_t)(size >> shift);
    }
    if (masked) {
        memcpy(p, &key, 4);
        p += 4;
    }
    return (size_t)(p - start);
}

/* False when the header is not there as a whole. */
static inline bool parse_header(const uint8_t *p, size_t n, bool from_client, frame_head *head) {
    if (n < 2) return false;
    head->masked = (p[1] & 0x80) != 0;
    uint8_t length = p[1] & 0x7f;
    size_t size = 2 + (length == 126 ? 2 : length == 127 ? 8 : 0);
    head->header_size = size + (head->masked ? 4 : 0);
    if (n < head->header_size) return false;
    if ((p[0] & 0xb0) != 0x80) die("fragment or reserved bit: first byte 0x%02x", p[0]);
    head->deflated = (p[0] & 0x40) != 0;
    if (head->masked != from_client) die("frame %s a mask", head->masked ? "with" : "without");
    head->opcode = p[0] & 0x0f;
    if (size == 2) {
        head->payload_size = length;
    } else {
        head->payload_size = 0;
        for (size_t i = 2; i < size; i++) head->payload_size = head->payload_size << 8 | p[i];
    }
    head->key = 0;
    if (head->masked) memcpy(&head->key, p + size, 4);
    return true;
}

/* ---- connection.c ----------------------------------------------------------------------------- */

void watch(conn *c, bool server);
ssize_t put(conn *c, const uint8_t *data, size_t n);
bool flush(conn *c);
bool send_or_keep(conn *c, const uint8_t *data, size_t n);
bool fill(conn *c, size_t needed);
void settle(conn *c);
void close_conn(conn *c);
SSL_CTX *tls_context(const options *o);
conn *open_conn(int fd, SSL_CTX *context, const options *o, int port);
int upgrade_request(char *request, size_t size, const options *o, int port, const char key[25]);

/* ---- ticks.c ---------------------------------------------------------------------------------- */

void load_ticks(const char *path);
size_t tick_count(void);
const uint8_t *tick(size_t index, size_t *size);
void prepare_passes(void);
bool feed_ticks(conn *c);
size_t deflate_tick(size_t index, uint8_t *target, size_t room);
size_t inflate_message(conn *c, const uint8_t *data, size_t n, const uint8_t **inflated);
void end_inflater(conn *c);

/* ---- server.c, client.c ----------------------------------------------------------------------- */

int run_server(const options *o);
int run_client(const options *o);

#endif
