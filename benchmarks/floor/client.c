/*
 * client.c owns the floor's client, which obeys the lines of stdin: "run SIZE SECONDS PEER_PID" and
 * "open N", up to N connections.
 */
#include "peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

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
    settle(c);
    return count;
}

static void set_payload(size_t size) {
    work.payload = grow(work.payload, &work.payload_capacity, size + 1);
    for (size_t i = 0; i < size; i++) work.payload[i] = (uint8_t)(i * 131 + (i >> 8));
    work.size = size;
}

/* What is given back after an event: `bytes` of payload may be expected in one frame. */
static uint32_t take(conn *c, uint32_t events, size_t size) {
    size_t needed = header_size(size, false) + size, unused;
    uint32_t count = 0;
    if (events & EPOLLOUT) {
        if (!flush(c)) die("the server hung up");
        watch(c, false);
    }
    if (!(events & ~(uint32_t)EPOLLOUT)) return 0;
    do {
        if (!fill(c, needed)) die("the server hung up");
        count += take_frames(c, size, &unused);
    } while (c->more);
    return count;
}

/* Keeps `depth` messages in flight on each connection until the time is over, then lets them land.
 * With a window, as many are in flight on all of them together, and each goes to the next one. */
static uint64_t echo_for(conn **conns, const options *o, size_t size, double seconds) {
    static int turn;
    uint64_t received = 0, flying = (uint64_t)o->conns * (uint64_t)o->depth;
    set_payload(size);
    work.check_next = true;
    double deadline = now(CLOCK_MONOTONIC) + seconds;
    if (o->window > 0) flying = (uint64_t)o->window;
    for (int i = 0; i < o->window; i++) send_messages(conns[turn++ % o->conns], 1, OP_BINARY);
    for (int i = 0; i < o->conns && o->window == 0; i++)
        send_messages(conns[i], (uint32_t)o->depth, OP_BINARY);
    while (flying > 0) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 10000);
        if (n == 0) die("no echo for ten seconds");
        bool over = now(CLOCK_MONOTONIC) >= deadline;
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            uint32_t count = take(c, events[i].events, size);
            c->in_flight -= count;
            received += count;
            if (over) flying -= count;
            else if (o->window == 0 && count > 0) send_messages(c, count, OP_BINARY);
            else for (uint32_t j = 0; j < count; j++)
                send_messages(conns[turn++ % o->conns], 1, OP_BINARY);
        }
        turn %= o->conns;
    }
    return received;
}

/* One connection sends `depth` messages in one segment; when all have got all, again. */
static uint64_t broadcast_for(conn **conns, const options *o, size_t size, double seconds) {
    uint64_t received = 0, round = (uint64_t)o->conns * (uint64_t)o->depth;
    set_payload(size);
    double deadline = now(CLOCK_MONOTONIC) + seconds;
    do {
        work.check_next = true;
        send_messages(conns[0], (uint32_t)o->depth, OP_BINARY);
        for (uint64_t left = round; left > 0;) {
            struct epoll_event events[MAX_EVENTS];
            int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 10000);
            if (n == 0) die("no delivery for ten seconds");
            for (int i = 0; i < n; i++) left -= take(events[i].data.ptr, events[i].events, size);
        }
        received += round;
    } while (now(CLOCK_MONOTONIC) < deadline);
    return received;
}

static struct sockaddr_in server_address(const options *o) {
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)o->port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int connected_socket(const options *o) {
    struct sockaddr_in address = server_address(o);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die_errno("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) die_errno("connect");
    return fd;
}

/* Keeps `conns` opening handshakes under way; who has got its answer hangs up, and another comes. */
static uint64_t handshake_for(const options *o, double seconds) {
    uint64_t done = 0;
    char request[512], answer[HEAD_MAX];
    int size = upgrade_request(request, sizeof request, o, o->port, "AAECAwQFBgcICQoLDA0ODw==");
    double deadline = now(CLOCK_MONOTONIC) + seconds;
    for (int flying = 0, over = 0; flying > 0 || !over;) {
        for (; flying < o->conns && !over; flying++) {
            /* On the loopback a blocking connect returns at once: the kernel answers it. */
            int fd = connected_socket(o);
            if (send(fd, request, (size_t)size, MSG_NOSIGNAL) != size) die_errno("send");
            struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
            if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) die_errno("epoll_ctl");
        }
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 10000);
        if (n == 0) die("no answer for ten seconds");
        for (int i = 0; i < n; i++) {
            ssize_t got = recv(events[i].data.fd, answer, sizeof answer, 0);
            if (got < 16 || memcmp(answer, "HTTP/1.1 101 ", 13) != 0 ||
                memcmp(answer + got - 4, "\r\n\r\n", 4) != 0)
                die("the answer is %.*s", (int)(got < 0 ? 0 : got), answer);
            close(events[i].data.fd);
            flying--;
            done++;
        }
        over = now(CLOCK_MONOTONIC) >= deadline;
    }
    return done;
}

/* Opening handshakes one by one: connect, upgrade, CLOSE and its echo, end. */
static uint64_t connect_for(const options *o, SSL_CTX *context, double seconds) {
    uint64_t done = 0;
    double deadline = now(CLOCK_MONOTONIC) + seconds;
    do {
        static const uint8_t close_frame[] = {0x80 | OP_CLOSE, 0x82, 0, 0, 0, 0, 0x03, 0xe8};
        conn *c = open_conn(connected_socket(o), context, o, o->port);
        if (c == NULL) die("the opening handshake failed");
        if (put(c, close_frame, sizeof close_frame) != sizeof close_frame) die("no CLOSE sent");
        for (;;) {
            struct epoll_event event;
            if (epoll_wait(epoll_fd, &event, 1, 10000) == 0) die("no CLOSE for ten seconds");
            if (!fill(c, 0)) break;
            c->in_pos = c->in_len = 0;
        }
        close_conn(c);
        done++;
    } while (now(CLOCK_MONOTONIC) < deadline);
    return done;
}

static void request_feed(conn *c, uint64_t count, size_t size) {
    char request[64];
    snprintf(request, sizeof request, "%llu %zu", (unsigned long long)count, size);
    set_payload(strlen(request));
    memcpy(work.payload, request, work.size);
    send_messages(c, 1, OP_TEXT);
    work.check_next = false;
}

static void wait_for_bytes(void) {
    struct epoll_event event;
    if (epoll_wait(epoll_fd, &event, 1, 10000) == 0) die("nothing for ten seconds");
}

/* Asks for `count` frames and takes them. */
static void feed_for(conn *c, size_t size, uint64_t count) {
    size_t needed = 0;
    request_feed(c, count, size);
    while (count > 0) {
        wait_for_bytes();
        do {
            if (!fill(c, needed)) die("the server hung up");
            count -= take_frames(c, size, &needed);
        } while (c->more);
    }
}

/* The same, of compressed messages. The connection lives as long as the process. */
static void inflate_for(conn *c, uint64_t count) {
    static size_t index;
    request_feed(c, count, 0);
    while (count > 0) {
        frame_head head;
        wait_for_bytes();
        if (!fill(c, 0)) die("the server hung up");
        while (parse_header(c->in + c->in_pos, c->in_len - c->in_pos, false, &head) &&
               c->in_len - c->in_pos >= head.header_size + head.payload_size) {
            const uint8_t *message;
            size_t size, right;
            size = inflate_message(c, c->in + c->in_pos + head.header_size,
                                   (size_t)head.payload_size, &message);
            if (tick(index, &right) == NULL || size != right) die("a tick of a wrong size");
            index = (index + 1) % tick_count();
            c->in_pos += head.header_size + (size_t)head.payload_size;
            count--;
        }
    }
}

static double deflate_ratio; /* of the last batch: how much smaller it became */

/* Compresses ticks and sends them, a batch at a time, each followed by a question. */
static void deflate_for(conn *c, uint64_t count) {
    enum { BATCH = 256, ROOM = 8 * 1024 };
    static size_t index;
    static uint8_t deflated[ROOM], frames[BATCH * (ROOM + HEADER_MAX)];
    while (count > 0) {
        uint8_t *p = frames;
        size_t raw = 0;
        for (int i = 0; i < BATCH && count > 0; i++, count--) {
            size_t plain, size = deflate_tick(index, deflated, sizeof deflated);
            tick(index, &plain);
            raw += plain;
            uint32_t key = next_key();
            p += write_header(p, 0x40 | OP_BINARY, size, true, key);
            xor_move(p, deflated, size, key);
            p += size;
            index = (index + 1) % tick_count();
        }
        if (!send_or_keep(c, frames, (size_t)(p - frames))) die("the server hung up");
        set_payload(1);
        send_messages(c, 1, OP_TEXT);
        for (bool answered = false; !answered;) {
            struct epoll_event event;
            if (epoll_wait(epoll_fd, &event, 1, 10000) == 0) die("no answer for ten seconds");
            if (event.events & EPOLLOUT) {
                if (!flush(c)) die("the server hung up");
                watch(c, false);
            }
            if (!(event.events & ~(uint32_t)EPOLLOUT)) continue;
            if (!fill(c, 0)) die("the server hung up");
            answered = true; /* in digits, behind a header of two bytes */
            c->in[c->in_len] = 0; /* fill leaves room behind what it receives */
            deflate_ratio = (double)raw / atof((char *)c->in + 2);
            c->in_pos = c->in_len = 0;
        }
    }
}

/* Answers PING until the time is over. */
static uint64_t pong_for(double seconds) {
    uint64_t answered = 0;
    double left, deadline = now(CLOCK_MONOTONIC) + seconds;
    while ((left = deadline - now(CLOCK_MONOTONIC)) > 0) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, (int)(left * 1000) + 1);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            frame_head head;
            if (!fill(c, 0)) die("the server hung up");
            while (parse_header(c->in + c->in_pos, c->in_len - c->in_pos, false, &head)) {
                const uint8_t *payload = c->in + c->in_pos + head.header_size;
                uint8_t pong[HEADER_MAX + 125];
                size_t size = (size_t)head.payload_size;
                c->in_pos += head.header_size + size;
                if (head.opcode != OP_PING) continue;
                size_t n = write_header(pong, OP_PONG, size, true, 0);
                memcpy(pong + n, payload, size);
                if (!send_or_keep(c, pong, n + size)) die("the server hung up");
                answered++;
            }
            c->in_pos = c->in_len = 0;
        }
    }
    return answered;
}

/* ---- Commands --------------------------------------------------------------------------------- */

static struct {
    conn **all;
    int count;
    size_t capacity;
} conns;

static void open_up_to(int count, const options *o, SSL_CTX *context) {
    conns.all = grow(conns.all, &conns.capacity, (size_t)count * sizeof *conns.all);
    while (conns.count < count) {
        conn *c = open_conn(connected_socket(o), context, o, o->port);
        if (c == NULL) die("the opening handshake failed");
        conns.all[conns.count++] = c;
    }
}

/* The kinds of work that are told how many. */
static uint64_t counted(const options *o, size_t size, uint64_t count) {
    if (o->work == FEED) feed_for(conns.all[0], size, count);
    else if (o->work == INFLATE) inflate_for(conns.all[0], count);
    else deflate_for(conns.all[0], count);
    return count;
}

/* Messages a second, from a run that is long enough. */
static double calibrate(const options *o, size_t size) {
    for (uint64_t count = 256;; count *= 4) {
        double start = now(CLOCK_MONOTONIC);
        counted(o, size, count);
        double elapsed = now(CLOCK_MONOTONIC) - start;
        if (elapsed >= 0.03) return (double)count / elapsed;
    }
}

static uint64_t timed(const options *o, SSL_CTX *context, size_t size, double seconds) {
    switch (o->work) {
        case ECHO: return echo_for(conns.all, o, size, seconds);
        case BROADCAST: return broadcast_for(conns.all, o, size, seconds);
        case HANDSHAKE: return handshake_for(o, seconds);
        case CONNECT: return connect_for(o, context, seconds);
        case IDLE: return pong_for(seconds);
        default: die("no such work");
    }
}

/* "run SIZE SECONDS PEER_PID": does the work, after a warm-up; says how much, and what it took. */
static void run(const options *o, SSL_CTX *context, size_t size, double seconds, int peer) {
    static double rate;
    static size_t rate_size;
    bool told = o->work == FEED || o->work == INFLATE || o->work == DEFLATE;
    clockid_t peer_clock;
    uint64_t count = 0;
    if (clock_getcpuclockid(peer, &peer_clock) != 0) die("no process %d", peer);
    if (told) {
        if (size != rate_size) rate = calibrate(o, size);
        rate_size = size;
        counted(o, size, (uint64_t)(rate * seconds / 20) + 1);
        count = (uint64_t)(rate * seconds) + 1;
    } else if (o->work != IDLE) {
        timed(o, context, size, seconds / 20);
    }
    double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    double peer_cpu = now(peer_clock);
    if (told) counted(o, size, count);
    else count = timed(o, context, size, seconds);
    wall = now(CLOCK_MONOTONIC) - wall;
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    peer_cpu = now(peer_clock) - peer_cpu;
    rate = (double)count / wall;
    printf("{\"count\": %llu, \"wall\": %.9f, \"cpu\": %.9f, \"peer_cpu\": %.9f",
           (unsigned long long)count, wall, cpu, peer_cpu);
    if (o->work == DEFLATE) printf(", \"ratio\": %.4f", deflate_ratio);
    puts("}");
}

int run_client(const options *o) {
    SSL_CTX *context = tls_context(o);
    char line[128];
    size_t size;
    double seconds;
    int number;
    if (o->work != HANDSHAKE && o->work != CONNECT && o->work != IDLE)
        open_up_to(o->conns, o, context);
    printf("{\"pid\": %d}\n", (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "run %zu %lf %d", &size, &seconds, &number) == 3) {
            run(o, context, size, seconds, number);
        } else if (sscanf(line, "open %d", &number) == 1) {
            open_up_to(number, o, context);
            printf("{\"connections\": %d}\n", conns.count);
        } else {
            die("command %s", line);
        }
        fflush(stdout);
    }
    return 0;
}
