/* connection.c owns a connection's bytes, in and out, and how it comes about: TLS and upgrade. */
#include "peer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static const char GUID[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455 section 1.3 */

/* ---- Bytes in and out ------------------------------------------------------------------------- */

void watch(conn *c, bool server) {
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
ssize_t put(conn *c, const uint8_t *data, size_t n) {
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

bool flush(conn *c) {
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
bool send_or_keep(conn *c, const uint8_t *data, size_t n) {
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

/* Ends the work on what was received: an incomplete frame moves to a buffer of the connection's own,
 * before another connection receives into the shared one. */
void settle(conn *c) {
    if (c->in_pos == c->in_len) {
        c->in_pos = c->in_len = 0;
    } else if (c->in_cap == 0) {
        size_t rest = c->in_len - c->in_pos;
        uint8_t *own = grow(NULL, &c->in_cap, (rest > c->chunk ? rest : c->chunk) + 64);
        memcpy(own, c->in + c->in_pos, rest);
        c->in = own;
        c->in_pos = 0;
        c->in_len = rest;
    }
}

/* Receives once, behind what is there. `needed` is the size of the frame under way, 0 if unknown.
 * Connections share a buffer, which so stays in the cache, until they need one of their own. */
bool fill(conn *c, size_t needed) {
    static uint8_t *shared;
    static size_t shared_cap;
    size_t capacity = (needed > c->chunk ? needed : c->chunk) + 64;
    settle(c);
    if (c->in_cap == 0) {
        c->in = shared = grow(shared, &shared_cap, capacity);
    } else {
        memmove(c->in, c->in + c->in_pos, c->in_len - c->in_pos);
        c->in_len -= c->in_pos;
        c->in_pos = 0;
        c->in = grow(c->in, &c->in_cap, capacity);
    }
    size_t room = (c->in_cap == 0 ? shared_cap : c->in_cap) - 64 - c->in_len;
    ssize_t got = get(c, c->in + c->in_len, room);
    if (got < 0) return false;
    c->more = c->ssl != NULL && (size_t)got == room;
    c->in_len += (size_t)got;
    return true;
}

void close_conn(conn *c) {
    if (c->ssl != NULL) SSL_free(c->ssl);
    close(c->fd);
    if (c->in_cap > 0) free(c->in);
    free(c->out);
    free(c->first);
    end_inflater(c);
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
        size_t there = c->in_len - c->in_pos;
        uint8_t *end = there == 0 ? NULL : memmem(c->in + c->in_pos, there, "\r\n\r\n", 4);
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

/* Both windows have 12 bits, as far as the client has offered to speak of them (RFC 7692 7.1.2). */
static const char *extension_of(const options *o, const char *head) {
    static char text[128];
    char offer[512];
    if (o->work != INFLATE && o->work != DEFLATE) return "";
    if (!field(head, "Sec-WebSocket-Extensions", offer, sizeof offer) ||
        strstr(offer, "permessage-deflate") == NULL)
        die("the client does not offer permessage-deflate");
    snprintf(text, sizeof text, "Sec-WebSocket-Extensions: permessage-deflate%s%s\r\n",
             strstr(offer, "server_max_window_bits") ? "; server_max_window_bits=12" : "",
             strstr(offer, "client_max_window_bits") ? "; client_max_window_bits=12" : "");
    return text;
}

static bool handshake_as_server(conn *c, const options *o) {
    char head[HEAD_MAX], key[64], value[64], accept[29], response[512];
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
             "Sec-WebSocket-Accept: %s\r\n%s\r\n", accept, extension_of(o, head));
    return put_all(c, response);
}

int upgrade_request(char *request, size_t size, const options *o, int port, const char key[25]) {
    bool deflates = o->work == INFLATE || o->work == DEFLATE;
    return snprintf(request, size,
                    "GET / HTTP/1.1\r\nHost: localhost:%d\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                    port, key,
                    deflates ? "Sec-WebSocket-Extensions: permessage-deflate; "
                               "server_max_window_bits=12; client_max_window_bits=12\r\n" : "");
}

static bool handshake_as_client(conn *c, const options *o, int port) {
    char head[HEAD_MAX], value[64], key[25], accept[29], request[512];
    unsigned char nonce[16];
    if (getrandom(nonce, sizeof nonce, 0) != sizeof nonce) die_errno("getrandom");
    EVP_EncodeBlock((unsigned char *)key, nonce, sizeof nonce);
    accept_value(key, accept);
    upgrade_request(request, sizeof request, o, port, key);
    return put_all(c, request) && read_head(c, head) && strncmp(head, "HTTP/1.1 101 ", 13) == 0 &&
           field(head, "Sec-WebSocket-Accept", value, sizeof value) && strcmp(value, accept) == 0;
}

SSL_CTX *tls_context(const options *o) {
    if (o->cert == NULL && o->ca == NULL) return NULL;
    SSL_CTX *context = SSL_CTX_new(o->is_server ? TLS_server_method() : TLS_client_method());
    if (context == NULL) die("SSL_CTX_new");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (o->work == IDLE) {
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    } else {
        SSL_CTX_set_read_ahead(context, 1); /* else two reads a record: header, then body */
        SSL_CTX_set_default_read_buffer_len(context, READ_CHUNK);
    }
    if (o->is_server) {
        if (SSL_CTX_use_certificate_chain_file(context, o->cert) != 1) die("%s", o->cert);
        if (SSL_CTX_use_PrivateKey_file(context, o->key, SSL_FILETYPE_PEM) != 1) die("%s", o->key);
    } else {
        if (SSL_CTX_load_verify_locations(context, o->ca, NULL) != 1) die("%s", o->ca);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    }
    return context;
}

static bool start_tls(conn *c, SSL_CTX *context, const options *o) {
    bool server = o->is_server;
    c->ssl = SSL_new(context);
    if (c->ssl == NULL || SSL_set_fd(c->ssl, c->fd) != 1) die("SSL_new");
    if (!server && SSL_set1_host(c->ssl, "localhost") != 1) die("SSL_set1_host");
    if ((server ? SSL_accept(c->ssl) : SSL_connect(c->ssl)) != 1) return false;
    if (o->work == IDLE) return true;
    /* Records of one message leave in one send instead of one each. SSL_set0_wbio drops the
     * reference to the BIO that it replaces, which the chain still needs. */
    BIO *socket_bio = SSL_get_wbio(c->ssl), *buffer = BIO_new(BIO_f_buffer());
    if (buffer == NULL || BIO_set_write_buffer_size(buffer, TLS_WRITE_BUFFER) != 1) die("BIO");
    BIO_up_ref(socket_bio);
    SSL_set0_wbio(c->ssl, BIO_push(buffer, socket_bio));
    return true;
}

/* From a connected, blocking socket to a connection in the event loop; NULL when refused. */
conn *open_conn(int fd, SSL_CTX *context, const options *o, int port) {
    conn *c = calloc(1, sizeof *c);
    if (c == NULL) die("out of memory");
    c->fd = fd;
    c->chunk = HEAD_MAX;
    int on = 1;
    struct timeval limit = {.tv_sec = 10};
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) die_errno("TCP_NODELAY");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if ((context != NULL && !start_tls(c, context, o)) ||
        !(o->is_server ? handshake_as_server(c, o) : handshake_as_client(c, o, port))) {
        close_conn(c);
        return NULL;
    }
    /* Where connections hardly speak, mapping much memory would be what is measured. */
    if (o->work != HANDSHAKE && o->work != CONNECT && o->work != IDLE) c->chunk = READ_CHUNK;
    settle(c);
    int flags = 1;
    if (ioctl(fd, FIONBIO, &flags) != 0) die_errno("FIONBIO");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) die_errno("epoll_ctl");
    return c;
}
