/* server.c owns the floor's server: it answers, feeds, hands on to all, or takes and counts. */
#include "peer.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

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

static struct {
    conn **all;
    size_t count, capacity;
} conns;

static void enter(conn *c) {
    conns.all = grow(conns.all, &conns.capacity, (conns.count + 1) * 2 * sizeof *conns.all);
    c->index = conns.count;
    conns.all[conns.count++] = c;
}

static void leave(conn *c) {
    conn *last = conns.all[--conns.count];
    last->index = c->index;
    conns.all[c->index] = last;
    close_conn(c);
}

static void hand_on(const uint8_t *data, size_t n) {
    for (size_t i = 0; i < conns.count; i++) {
        conn *c = conns.all[i];
        if (send_or_keep(c, data, n)) watch(c, true); /* else its own event says so */
    }
}

static void start_feed(conn *c, const options *o, uint8_t *payload, const frame_head *head) {
    char text[64] = {0};
    unsigned long long count = 0, size = 0;
    if (head->payload_size >= sizeof text) die("feed request of %zu bytes", head->payload_size);
    if (head->deflated) { /* from a client that compresses all that it sends, so this as well */
        const uint8_t *inflated;
        xor_move(payload, payload, (size_t)head->payload_size, head->key);
        size_t n = inflate_message(c, payload, (size_t)head->payload_size, &inflated);
        memcpy(text, inflated, n < sizeof text ? n : sizeof text - 1);
    } else {
        xor_move((uint8_t *)text, payload, (size_t)head->payload_size, head->key);
    }
    if (sscanf(text, "%llu %llu", &count, &size) != 2) die("feed: %s", text);
    if (o->work == INFLATE) prepare_passes();
    else prepare_chunk(size);
    c->feed_left = count;
}

/* Takes a message of the DEFLATE work. A TEXT asks how many bytes there were since the last answer,
 * or, as the second message of a connection, what the first one said. */
static bool sink(conn *c, uint8_t *payload, const frame_head *head) {
    size_t size = (size_t)head->payload_size;
    if (head->opcode == OP_BINARY) {
        if (++c->sunk_messages == 1 && c->sunk_bytes == 0 && c->first == NULL) {
            const uint8_t *data = payload;
            xor_move(payload, payload, size, head->key);
            if (head->deflated) size = inflate_message(c, payload, size, &data);
            c->first = malloc(size + 1);
            if (c->first == NULL) die("out of memory");
            memcpy(c->first, data, size);
            c->first_size = size;
        }
        c->sunk_bytes += head->payload_size;
        return true;
    }
    static uint8_t answer[HEADER_MAX + 4096];
    char text[32];
    bool check = c->first_size > 0 && c->sunk_messages == 1;
    size = check ? c->first_size : (size_t)sprintf(text, "%llu", (unsigned long long)c->sunk_bytes);
    if (size > 4096) die("a tick of %zu bytes", size);
    size_t n = write_header(answer, OP_TEXT, size, false, 0);
    memcpy(answer + n, check ? c->first : (uint8_t *)text, size);
    c->first_size = c->sunk_messages = c->sunk_bytes = 0;
    return send_or_keep(c, answer, n + size);
}

/* Works off every complete frame in the buffer. Answers are built in place and sent at once. */
static bool serve_frames(conn *c, const options *o, size_t *needed) {
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
        if ((o->work == FEED || o->work == INFLATE) && head.opcode == OP_TEXT) {
            start_feed(c, o, payload, &head);
            continue;
        }
        if (o->work == DEFLATE && (head.opcode == OP_BINARY || head.opcode == OP_TEXT)) {
            if (!sink(c, payload, &head)) return false;
            continue;
        }
        if (head.deflated) die("a compressed frame");
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
    if (answer != NULL) {
        if (o->work == BROADCAST && !closing) hand_on(answer, (size_t)(end - answer));
        else if (!send_or_keep(c, answer, (size_t)(end - answer))) return false;
    }
    settle(c);
    return !closing;
}

/* While it feeds, the server asks instead of waiting: it shall never be asleep when the client has
 * made room, since then the client would measure how long waking up takes. */
static int feeding;

static bool feed_on(conn *c, const options *o) {
    return o->work == INFLATE ? feed_ticks(c) : feed(c);
}

static bool serve_event(conn *c, uint32_t events, const options *o, size_t *needed) {
    feeding -= c->feed_left > 0;
    if (events & EPOLLOUT) {
        if (!flush(c) || (c->feed_left > 0 && !feed_on(c, o))) return false;
    } else {
        do {
            if (!fill(c, *needed) || !serve_frames(c, o, needed)) return false;
        } while (c->more);
        if (c->feed_left > 0 && !feed_on(c, o)) return false;
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

/* Answers a line of stdin, which is "memory"; false at its end. */
static bool obey(void) {
    char line[64];
    if (read(STDIN_FILENO, line, sizeof line) <= 0) return false;
    struct mallinfo2 info = mallinfo2();
    printf("{\"malloc\": %zu}\n", info.uordblks + info.hblkhd);
    fflush(stdout);
    return true;
}

int run_server(const options *o) {
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
            if (events[i].data.ptr == &stdin_tag) {
                if (!obey()) return 0;
                continue;
            }
            if (events[i].data.ptr == &listener_tag) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                conn *c = fd < 0 ? NULL : open_conn(fd, context, o, port);
                size_t needed;
                if (c == NULL) continue;
                enter(c);
                /* A frame may ride behind the request's head; a feed's request never does. */
                if (c->in_pos < c->in_len) {
                    if (!serve_frames(c, o, &needed)) leave(c);
                    else watch(c, true);
                }
                continue;
            }
            conn *c = events[i].data.ptr;
            frame_head head;
            size_t needed = 0;
            if (parse_header(c->in + c->in_pos, c->in_len - c->in_pos, true, &head))
                needed = head.header_size + (size_t)head.payload_size;
            if (!serve_event(c, events[i].events, o, &needed)) leave(c);
        }
    }
}
