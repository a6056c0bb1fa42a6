/*
 * floor.c owns the least that a WebSocket peer can do on Linux: epoll, recv, send, and OpenSSL
 * when there is a certificate. Every contestant is compared with it, and it is the unchanging
 * other end of the connection while a contestant is measured.
 *
 *   floor server echo|feed --core N [--cert chain.pem --key key.pem]
 *   floor client echo|feed --core N --port P [--ca ca.pem] [--conns N] [--depth N]
 *
 * It speaks JSON lines on stdout. The server prints {"port": P, "pid": N} and ends when its stdin
 * does. The client prints {"pid": N} and then answers "run SIZE SECONDS PEER_PID" lines.
 *
 * Always true here:
 *   - a connection that reached the event loop is past its opening handshake, which is done with a
 *     blocking socket, since it is not measured;
 *   - c->in[in_pos, in_len) are bytes received and not yet worked off, c->out[out_pos, out_len) are
 *     bytes not yet taken by the kernel; the server does not read while the latter is not empty,
 *     the client always reads, so the two cannot wait for each other;
 *   - a protocol error ends the program: a benchmark with a wrong peer has no result.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { HEAD_MAX = 16 * 1024, READ_CHUNK = 256 * 1024, FEED_CHUNK = 256 * 1024 };
enum { HEADER_MAX = 14, MAX_EVENTS = 256, TLS_WRITE_BUFFER = 256 * 1024 };

static const char GUID[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455 section 1.3 */

typedef struct {
    int fd;
    SSL *ssl;
    bool flush_pending; /* TLS records wait in the write BIO */
    bool writable_wanted;
    bool more; /* OpenSSL may hold decrypted bytes, of which epoll knows nothing */
    uint32_t in_flight; /* client: messages sent and not echoed yet */
    uint64_t feed_left; /* feed server: frames still to be sent */
    size_t feed_offset; /* feed server: bytes of the current chunk already sent */
    uint8_t *in, *out;
    size_t in_pos, in_len, in_cap;
    size_t out_pos, out_len, out_cap;
} conn;

typedef struct {
    uint8_t opcode;
    bool masked;
    uint32_t key; /* the wire's four bytes in native order */
    size_t header_size;
    uint64_t payload_size;
} frame_head;

typedef struct {
    bool is_server, is_feed;
    int core, port, conns, depth;
    const char *cert, *key, *ca;
} options;

static int epoll_fd = -1;

static _Noreturn void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "floor: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static _Noreturn void die_errno(const char *what) { die("%s: %s", what, strerror(errno)); }

static double now(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) die_errno("clock_gettime");
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *grow(void *memory, size_t *capacity, size_t needed) {
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
static void xor_move(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key) {
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
static uint32_t next_key(void) {
    static uint32_t state;
    if (state == 0 && getrandom(&state, sizeof state, 0) != sizeof state) die_errno("getrandom");
    state |= state == 0;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* ---- Frames, RFC 6455 section 5.2 ------------------------------------------------------------- */

static size_t header_size(size_t payload_size, bool masked) {
    size_t size = payload_size < 126 ? 2 : payload_size < 65536 ? 4 : 10;
    return size + (masked ? 4 : 0);
}

static size_t write_header(uint8_t *p, uint8_t opcode, uint64_t size, bool masked, uint32_t key) {
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
static bool parse_header(const uint8_t *p, size_t n, bool from_client, frame_head *head) {
    if (n < 2) return false;
    head->masked = (p[1] & 0x80) != 0;
    uint8_t length = p[1] & 0x7f;
    size_t size = 2 + (length == 126 ? 2 : length == 127 ? 8 : 0);
    head->header_size = size + (head->masked ? 4 : 0);
    if (n < head->header_size) return false;
    if ((p[0] & 0xf0) != 0x80) die("fragment or reserved bit: first byte 0x%02x", p[0]);
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

/* ---- Bytes in and out ------------------------------------------------------------------------- */

static void watch(conn *c, bool server) {
    bool wanted = c->out_pos < c->out_len || c->flush_pending || c->feed_left > 0;
    if (wanted == c->writable_wanted) return;
    c->writable_wanted = wanted;
    struct epoll_event event = {.data.ptr = c};
    event.events = wanted ? (server ? EPOLLOUT : EPOLLIN | EPOLLOUT) : EPOLLIN;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0) die_errno("epoll_ctl");
}

static bool flush_tls(conn *c) {
    BIO *bio = SSL_get_wbio(c->ssl);
    c->flush_pending = false;
    if (BIO_flush(bio) > 0) return true;
    if (!BIO_should_retry(bio)) return false;
    c->flush_pending = true;
    return true;
}

/* Bytes taken (0 when the socket is full), -1 when the connection is gone. */
static ssize_t put(conn *c, const uint8_t *data, size_t n) {
    if (c->ssl == NULL) {
        ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent >= 0) return sent;
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
    }
    size_t done = 0;
    while (done < n) {
        int sent = SSL_write(c->ssl, data + done, (int)(n - done));
        if (sent <= 0) {
            if (SSL_get_error(c->ssl, sent) != SSL_ERROR_WANT_WRITE) return -1;
            break;
        }
        done += (size_t)sent;
    }
    return flush_tls(c) ? (ssize_t)done : -1;
}

/* Bytes received (0 when there are none now), -1 when the connection is gone. */
static ssize_t get(conn *c, uint8_t *data, size_t n) {
    if (c->ssl == NULL) {
        ssize_t got = recv(c->fd, data, n, 0);
        if (got > 0) return got;
        return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
    }
    size_t done = 0;
    while (done < n) {
        int got = SSL_read(c->ssl, data + done, (int)(n - done));
        if (got <= 0) {
            int error = SSL_get_error(c->ssl, got);
            if (error == SSL_ERROR_WANT_READ) break;
            if (done > 0) break;
            return -1;
        }
        done += (size_t)got;
        /* A recv that only says EAGAIN would cost a system call a message; epoll is level-triggered. */
        if (!SSL_has_pending(c->ssl)) break;
    }
    return (ssize_t)done;
}

static bool flush(conn *c) {
    if (c->flush_pending && !flush_tls(c)) return false;
    if (c->out_pos < c->out_len && !c->flush_pending) {
        ssize_t sent = put(c, c->out + c->out_pos, c->out_len - c->out_pos);
        if (sent < 0) return false;
        c->out_pos += (size_t)sent;
    }
    if (c->out_pos == c->out_len) c->out_pos = c->out_len = 0;
    return true;
}

/* Sends now what the kernel takes and keeps the rest. The data is not in c->out. */
static bool send_or_keep(conn *c, const uint8_t *data, size_t n) {
    size_t sent = 0;
    if (c->out_len == 0 && !c->flush_pending) {
        ssize_t taken = put(c, data, n);
        if (taken < 0) return false;
        sent = (size_t)taken;
    }
    if (sent < n) {
        c->out = grow(c->out, &c->out_cap, c->out_len + n - sent);
        memcpy(c->out + c->out_len, data + sent, n - sent);
        c->out_len += n - sent;
    }
    return true;
}

/* Receives once, behind what is there. `needed` is the size of the frame under way, 0 if unknown. */
static bool fill(conn *c, size_t needed) {
    if (c->in_pos > 0) {
        memmove(c->in, c->in + c->in_pos, c->in_len - c->in_pos);
        c->in_len -= c->in_pos;
        c->in_pos = 0;
    }
    size_t capacity = needed > READ_CHUNK ? needed : READ_CHUNK;
    c->in = grow(c->in, &c->in_cap, capacity + 64);
    size_t room = c->in_cap - c->in_len;
    ssize_t got = get(c, c->in + c->in_len, room);
    if (got < 0) return false;
    c->more = c->ssl != NULL && (size_t)got == room;
    c->in_len += (size_t)got;
    return true;
}

static void close_conn(conn *c) {
    if (c->ssl != NULL) SSL_free(c->ssl);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* ---- Opening handshake, RFC 6455 section 4; blocking ------------------------------------------ */

static void accept_value(const char *key, char out[29]) {
    char text[128];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    snprintf(text, sizeof text, "%s%s", key, GUID);
    if (!EVP_Digest(text, strlen(text), digest, &size, EVP_sha1(), NULL)) die("SHA-1");
    EVP_EncodeBlock((unsigned char *)out, digest, (int)size);
}

/* The value of a field, without the spaces around it; false when there is none or it is too long. */
static bool field(const char *head, const char *name, char *out, size_t out_size) {
    size_t name_size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, name_size) != 0 || line[name_size] != ':') continue;
        const char *value = line + name_size + 1;
        value += strspn(value, " \t");
        size_t size = strcspn(value, "\r\n");
        while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t')) size--;
        if (size >= out_size) return false;
        memcpy(out, value, size);
        out[size] = '\0';
        return true;
    }
    return false;
}

static bool put_all(conn *c, const char *text) {
    size_t size = strlen(text), done = 0;
    while (done < size) {
        ssize_t sent = put(c, (const uint8_t *)text + done, size - done);
        if (sent <= 0) return false;
        done += (size_t)sent;
    }
    return true;
}

/* Reads up to the empty line; what follows it stays in c->in. */
static bool read_head(conn *c, char head[HEAD_MAX]) {
    for (;;) {
        uint8_t *end = memmem(c->in + c->in_pos, c->in_len - c->in_pos, "\r\n\r\n", 4);
        if (end != NULL) {
            size_t size = (size_t)(end + 4 - (c->in + c->in_pos));
            if (size >= HEAD_MAX) return false;
            memcpy(head, c->in + c->in_pos, size);
            head[size] = '\0';
            c->in_pos += size;
            return true;
        }
        size_t before = c->in_len;
        if (before >= HEAD_MAX || !fill(c, 0) || c->in_len == before) return false;
    }
}

static bool handshake_as_server(conn *c) {
    char head[HEAD_MAX], key[64], value[64], accept[29], response[256];
    if (!read_head(c, head)) return false;
    bool good = strncmp(head, "GET ", 4) == 0 && field(head, "Upgrade", value, sizeof value) &&
                strcasecmp(value, "websocket") == 0 &&
                field(head, "Sec-WebSocket-Version", value, sizeof value) &&
                strcmp(value, "13") == 0 && field(head, "Sec-WebSocket-Key", key, sizeof key) &&
                strlen(key) == 24;
    if (!good) {
        put_all(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        return false;
    }
    accept_value(key, accept);
    snprintf(response, sizeof response,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    return put_all(c, response);
}

static bool handshake_as_client(conn *c, int port) {
    char head[HEAD_MAX], value[64], key[25], accept[29], request[256];
    unsigned char nonce[16];
    if (getrandom(nonce, sizeof nonce, 0) != sizeof nonce) die_errno("getrandom");
    EVP_EncodeBlock((unsigned char *)key, nonce, sizeof nonce);
    accept_value(key, accept);
    snprintf(request, sizeof request,
             "GET / HTTP/1.1\r\nHost: localhost:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", port, key);
    return put_all(c, request) && read_head(c, head) && strncmp(head, "HTTP/1.1 101 ", 13) == 0 &&
           field(head, "Sec-WebSocket-Accept", value, sizeof value) && strcmp(value, accept) == 0;
}

static SSL_CTX *tls_context(const options *o) {
    if (o->cert == NULL && o->ca == NULL) return NULL;
    SSL_CTX *context = SSL_CTX_new(o->is_server ? TLS_server_method() : TLS_client_method());
    if (context == NULL) die("SSL_CTX_new");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1); /* else two reads a record: header, then body */
    SSL_CTX_set_default_read_buffer_len(context, READ_CHUNK);
    if (o->is_server) {
        if (SSL_CTX_use_certificate_chain_file(context, o->cert) != 1) die("%s", o->cert);
        if (SSL_CTX_use_PrivateKey_file(context, o->key, SSL_FILETYPE_PEM) != 1) die("%s", o->key);
    } else {
        if (SSL_CTX_load_verify_locations(context, o->ca, NULL) != 1) die("%s", o->ca);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    }
    return context;
}

static bool start_tls(conn *c, SSL_CTX *context, bool server) {
    c->ssl = SSL_new(context);
    if (c->ssl == NULL || SSL_set_fd(c->ssl, c->fd) != 1) die("SSL_new");
    if (!server && SSL_set1_host(c->ssl, "localhost") != 1) die("SSL_set1_host");
    if ((server ? SSL_accept(c->ssl) : SSL_connect(c->ssl)) != 1) return false;
    /* Records of one message leave in one send instead of one each. SSL_set0_wbio drops the
     * reference to the BIO that it replaces, which the chain still needs. */
    BIO *socket_bio = SSL_get_wbio(c->ssl), *buffer = BIO_new(BIO_f_buffer());
    if (buffer == NULL || BIO_set_write_buffer_size(buffer, TLS_WRITE_BUFFER) != 1) die("BIO");
    BIO_up_ref(socket_bio);
    SSL_set0_wbio(c->ssl, BIO_push(buffer, socket_bio));
    return true;
}

/* From a connected, blocking socket to a connection in the event loop; NULL when refused. */
static conn *open_conn(int fd, SSL_CTX *context, bool server, int port) {
    conn *c = calloc(1, sizeof *c);
    if (c == NULL) die("out of memory");
    c->fd = fd;
    int on = 1;
    struct timeval limit = {.tv_sec = 10};
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) die_errno("TCP_NODELAY");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if ((context != NULL && !start_tls(c, context, server)) ||
        !(server ? handshake_as_server(c) : handshake_as_client(c, port))) {
        close_conn(c);
        return NULL;
    }
    int flags = 1;
    if (ioctl(fd, FIONBIO, &flags) != 0) die_errno("FIONBIO");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) die_errno("epoll_ctl");
    return c;
}

/* ---- Server ----------------------------------------------------------------------------------- */

static struct {
    uint8_t *bytes;
    size_t capacity, payload_size, frame_size, frames;
} chunk; /* frames of the feed, ready to be sent over and over */

static void prepare_chunk(size_t payload_size) {
    if (chunk.frames > 0 && chunk.payload_size == payload_size) return;
    chunk.payload_size = payload_size;
    chunk.frame_size = header_size(payload_size, false) + payload_size;
    chunk.frames = FEED_CHUNK / chunk.frame_size + 1;
    chunk.bytes = grow(chunk.bytes, &chunk.capacity, chunk.frames * chunk.frame_size);
    uint8_t *p = chunk.bytes;
    for (size_t i = 0; i < chunk.frames; i++) {
        p += write_header(p, OP_BINARY, payload_size, false, 0);
        memset(p, 'x', payload_size);
        p += payload_size;
    }
}

static bool feed(conn *c) {
    while (c->feed_left > 0 && !c->flush_pending) {
        uint64_t left = c->feed_left * chunk.frame_size - c->feed_offset % chunk.frame_size;
        size_t size = chunk.frames * chunk.frame_size - c->feed_offset;
        if (size > left) size = left;
        ssize_t sent = put(c, chunk.bytes + c->feed_offset, size);
        if (sent < 0) return false;
        size_t end = c->feed_offset + (size_t)sent;
        c->feed_left -= end / chunk.frame_size - c->feed_offset / chunk.frame_size;
        c->feed_offset = end == chunk.frames * chunk.frame_size ? 0 : end;
        if ((size_t)sent < size) break;
    }
    if (c->feed_left == 0) c->feed_offset = 0;
    return true;
}

/* Answers every complete frame in the buffer, in place, with one send for all. */
static bool serve_frames(conn *c, bool is_feed, size_t *needed) {
    uint8_t *answer = NULL, *end = NULL;
    bool closing = false;
    frame_head head;
    *needed = 0;
    while (!closing && parse_header(c->in + c->in_pos, c->in_len - c->in_pos, true, &head)) {
        uint8_t *start = c->in + c->in_pos, *payload = start + head.header_size;
        size_t size = (size_t)head.payload_size;
        if (c->in_len - c->in_pos < head.header_size + size) {
            *needed = head.header_size + size;
            break;
        }
        c->in_pos += head.header_size + size;
        if (is_feed && head.opcode == OP_TEXT) {
            char text[64] = {0};
            unsigned long long count = 0, payload_size = 0;
            if (size >= sizeof text) die("feed request of %zu bytes", size);
            xor_move((uint8_t *)text, payload, size, head.key);
            if (sscanf(text, "%llu %llu", &count, &payload_size) != 2) die("feed: %s", text);
            prepare_chunk(payload_size);
            c->feed_left = count;
            continue;
        }
        if (head.opcode == OP_PONG) continue;
        closing = head.opcode == OP_CLOSE; /* answered with the same code and reason */
        uint8_t opcode = head.opcode == OP_PING ? OP_PONG : head.opcode;
        if (answer == NULL) {
            /* The first answer ends where its frame ended: a large payload is unmasked in place. */
            answer = payload - header_size(size, false);
            end = answer;
        }
        end += write_header(end, opcode, size, false, 0);
        xor_move(end, payload, size, head.key);
        end += size;
    }
    if (answer != NULL && !send_or_keep(c, answer, (size_t)(end - answer))) return false;
    if (c->in_pos == c->in_len) c->in_pos = c->in_len = 0;
    return !closing;
}

/* While it feeds, the server asks instead of waiting: it shall never be asleep when the client has
 * made room, since then the client would measure how long waking up takes. */
static int feeding;

static bool serve_event(conn *c, uint32_t events, bool is_feed, size_t *needed) {
    feeding -= c->feed_left > 0;
    if (events & EPOLLOUT) {
        if (!flush(c) || (c->feed_left > 0 && !feed(c))) return false;
    } else {
        do {
            if (!fill(c, *needed) || !serve_frames(c, is_feed, needed)) return false;
        } while (c->more);
        if (c->feed_left > 0 && !feed(c)) return false;
    }
    feeding += c->feed_left > 0;
    watch(c, true);
    return true;
}

static int listen_on_loopback(int *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (fd < 0) die_errno("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) != 0) die_errno("bind");
    if (listen(fd, 1024) != 0) die_errno("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) die_errno("getsockname");
    *port = ntohs(address.sin_port);
    return fd;
}

static int run_server(const options *o) {
    SSL_CTX *context = tls_context(o);
    int port, listener = listen_on_loopback(&port);
    static int listener_tag, stdin_tag;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener_tag};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) != 0) die_errno("epoll_ctl");
    event.data.ptr = &stdin_tag;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0) die_errno("stdin");
    printf("{\"port\": %d, \"pid\": %d}\n", port, (int)getpid());
    fflush(stdout);
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, feeding > 0 ? 0 : -1);
        if (n < 0 && errno != EINTR) die_errno("epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &stdin_tag) return 0;
            if (events[i].data.ptr == &listener_tag) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                conn *c = fd < 0 ? NULL : open_conn(fd, context, true, port);
                size_t needed;
                /* A frame may ride behind the request's head; a feed's request never does. */
                if (c != NULL && c->in_pos < c->in_len) {
                    if (!serve_frames(c, false, &needed)) close_conn(c);
                    else watch(c, true);
                }
                continue;
            }
            conn *c = events[i].data.ptr;
            frame_head head;
            size_t needed = 0;
            if (parse_header(c->in + c->in_pos, c->in_len - c->in_pos, true, &head))
                needed = head.header_size + (size_t)head.payload_size;
            if (!serve_event(c, events[i].events, o->is_feed, &needed)) close_conn(c);
        }
    }
}

/* ---- Client ----------------------------------------------------------------------------------- */

static struct {
    uint8_t *payload; /* what every message says */
    size_t payload_capacity, size;
    uint8_t *scratch; /* masked frames on their way to send */
    size_t scratch_capacity;
    uint64_t received;
    bool check_next; /* compare the next echo byte by byte */
} work;

static void send_messages(conn *c, uint32_t count, uint8_t opcode) {
    size_t frame_size = header_size(work.size, true) + work.size;
    work.scratch = grow(work.scratch, &work.scratch_capacity, frame_size * count);
    uint8_t *p = work.scratch;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = next_key();
        p += write_header(p, opcode, work.size, true, key);
        xor_move(p, work.payload, work.size, key);
        p += work.size;
    }
    if (!send_or_keep(c, work.scratch, (size_t)(p - work.scratch))) die("the server hung up");
    c->in_flight += count;
    watch(c, false);
}

/* Data frames among what has been received. */
static uint32_t take_frames(conn *c, size_t expected, size_t *needed) {
    uint32_t count = 0;
    frame_head head;
    *needed = 0;
    while (parse_header(c->in + c->in_pos, c->in_len - c->in_pos, false, &head)) {
        size_t total = head.header_size + (size_t)head.payload_size;
        if (c->in_len - c->in_pos < total) {
            *needed = total;
            break;
        }
        if (head.opcode == OP_CLOSE) die("the server sent CLOSE");
        if (head.opcode == OP_BINARY) {
            if (head.payload_size != expected) die("echo of a wrong size");
            if (work.check_next) {
                const uint8_t *payload = c->in + c->in_pos + head.header_size;
                if (memcmp(payload, work.payload, expected) != 0) die("echo differs");
                work.check_next = false;
            }
            count++;
        }
        c->in_pos += total;
    }
    if (c->in_pos == c->in_len) c->in_pos = c->in_len = 0;
    return count;
}

static void set_payload(size_t size) {
    work.payload = grow(work.payload, &work.payload_capacity, size + 1);
    for (size_t i = 0; i < size; i++) work.payload[i] = (uint8_t)(i * 131 + (i >> 8));
    work.size = size;
}

/* Keeps `depth` messages in flight on each connection until the time is over, then lets them land. */
static uint64_t echo_for(conn **conns, const options *o, size_t size, double seconds) {
    uint64_t received = 0, flying = (uint64_t)o->conns * (uint64_t)o->depth;
    set_payload(size);
    work.check_next = true;
    double deadline = now(CLOCK_MONOTONIC) + seconds;
    for (int i = 0; i < o->conns; i++) send_messages(conns[i], (uint32_t)o->depth, OP_BINARY);
    size_t needed = header_size(size, false) + size;
    while (flying > 0) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 10000);
        if (n == 0) die("no echo for ten seconds");
        bool over = now(CLOCK_MONOTONIC) >= deadline;
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                if (!flush(c)) die("the server hung up");
                watch(c, false);
            }
            if (!(events[i].events & ~(uint32_t)EPOLLOUT)) continue;
            size_t unused;
            uint32_t count = 0;
            do {
                if (!fill(c, needed)) die("the server hung up");
                count += take_frames(c, size, &unused);
            } while (c->more);
            c->in_flight -= count;
            received += count;
            if (over) flying -= count;
            else if (count > 0) send_messages(c, count, OP_BINARY);
        }
    }
    return received;
}

/* Asks for `count` frames and takes them. */
static void feed_for(conn *c, size_t size, uint64_t count) {
    char request[64];
    snprintf(request, sizeof request, "%llu %zu", (unsigned long long)count, size);
    set_payload(strlen(request));
    memcpy(work.payload, request, work.size);
    send_messages(c, 1, OP_TEXT);
    work.check_next = false;
    size_t needed = 0;
    while (count > 0) {
        struct epoll_event event;
        if (epoll_wait(epoll_fd, &event, 1, 10000) == 0) die("no frame for ten seconds");
        do {
            if (!fill(c, needed)) die("the server hung up");
            count -= take_frames(c, size, &needed);
        } while (c->more);
    }
}

static conn *connect_to(const options *o, SSL_CTX *context) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)o->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die_errno("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) die_errno("connect");
    conn *c = open_conn(fd, context, false, o->port);
    if (c == NULL) die("the opening handshake failed");
    return c;
}

static int run_client(const options *o) {
    SSL_CTX *context = tls_context(o);
    conn **conns = calloc((size_t)o->conns, sizeof *conns);
    if (conns == NULL) die("out of memory");
    for (int i = 0; i < o->conns; i++) conns[i] = connect_to(o, context);
    printf("{\"pid\": %d}\n", (int)getpid());
    fflush(stdout);
    char line[128];
    double feed_rate = 0;
    size_t feed_size = 0;
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t size;
        double seconds;
        int peer;
        clockid_t peer_clock;
        if (sscanf(line, "run %zu %lf %d", &size, &seconds, &peer) != 3) die("command %s", line);
        if (clock_getcpuclockid(peer, &peer_clock) != 0) die("no process %d", peer);
        uint64_t count = 0;
        if (o->is_feed) {
            if (size != feed_size) feed_rate = 1e6;
            feed_size = size;
            double start = now(CLOCK_MONOTONIC);
            uint64_t warm_up = (uint64_t)(feed_rate * seconds / 10) + 1;
            feed_for(conns[0], size, warm_up);
            feed_rate = (double)warm_up / (now(CLOCK_MONOTONIC) - start);
            count = (uint64_t)(feed_rate * seconds) + 1;
        } else {
            echo_for(conns, o, size, seconds / 20);
        }
        double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
        double peer_cpu = now(peer_clock);
        if (o->is_feed) feed_for(conns[0], size, count);
        else count = echo_for(conns, o, size, seconds);
        wall = now(CLOCK_MONOTONIC) - wall;
        cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        peer_cpu = now(peer_clock) - peer_cpu;
        printf("{\"count\": %llu, \"wall\": %.9f, \"cpu\": %.9f, \"peer_cpu\": %.9f}\n",
               (unsigned long long)count, wall, cpu, peer_cpu);
        fflush(stdout);
    }
    return 0;
}

/* ---- Command line ----------------------------------------------------------------------------- */

static const char *text_option(int argc, char **argv, const char *name) {
    for (int i = 3; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return NULL;
}

static int number_option(int argc, char **argv, const char *name, int otherwise) {
    const char *text = text_option(argc, argv, name);
    return text == NULL ? otherwise : atoi(text);
}

int main(int argc, char **argv) {
    if (argc < 3) die("usage: floor server|client echo|feed [--option value]...");
    options o = {
        .is_server = strcmp(argv[1], "server") == 0,
        .is_feed = strcmp(argv[2], "feed") == 0,
        .core = number_option(argc, argv, "--core", -1),
        .port = number_option(argc, argv, "--port", 0),
        .conns = number_option(argc, argv, "--conns", 1),
        .depth = number_option(argc, argv, "--depth", 1),
        .cert = text_option(argc, argv, "--cert"),
        .key = text_option(argc, argv, "--key"),
        .ca = text_option(argc, argv, "--ca"),
    };
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    if (o.core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(o.core, &cores);
        if (sched_setaffinity(0, sizeof cores, &cores) != 0) die_errno("sched_setaffinity");
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) die_errno("epoll_create1");
    return o.is_server ? run_server(&o) : run_client(&o);
}
