/* The system calls that a connection makes on its socket by itself.
 *
 * picows_socket_accept: the number of the next connection of a listening socket, which does not block and
 * is not inherited, or minus errno: -EAGAIN when there is none.
 *
 * picows_socket_close: from here on the number may be another socket's.
 *
 * picows_socket_shut: nothing more will be written. 0, or errno.
 *
 * picows_is_ip: is it the family of IPv4 or IPv6?
 *
 * picows_socket_sockname, picows_socket_peername: the addresses of its ends. Their family is 0 for all else
 * than IP, and where the system does not tell: when the peer is gone, for one.
 *
 * picows_socket_tune: ask TCP for low latency; other kinds of sockets are left alone. Failures do not
 * matter: when the peer is gone already, the next read or write will tell.
 *
 * picows_socket_busy_poll: ask the system to poll the network card that long as well, where it can
 * (socket(7)); more than the system's default is for CAP_NET_ADMIN, and old kernels know none.
 *
 * picows_socket_write: one non-blocking write of one or two buffers. Returns the bytes taken, 0 when the
 * socket takes none now, or minus errno. Never raises SIGPIPE.
 *
 * picows_socket_read: one non-blocking read. Returns the bytes that came, 0 at the end of the stream, or
 * minus errno: -EAGAIN when nothing is there.
 *
 * picows_socket_stamp, picows_socket_read_stamped: ask the system for the time at which it received what
 * is read, and read with it: nanoseconds since 1970, 0 where it does not say (SO_TIMESTAMPNS, socket(7)).
 *
 * picows_socket_has_error: does an error (a reset) wait to be read? Leaves it where it is.
 *
 * picows_socket_wait: ask for bytes, an end or an error, again and again, for so many nanoseconds. True when
 * there is something.
 *
 * picows_socket_unacknowledged: how many bytes the peer's machine has not taken yet; 0 where the system
 * does not tell.
 */
#ifndef PICOWS_SOCKET_CALLS_H
#define PICOWS_SOCKET_CALLS_H

#include <stddef.h>

typedef struct {
    int family;
    unsigned port, flow, scope;
    /* As inet_ntop takes it. */
    char bytes[16];
} picows_address;

#if defined(_WIN32)

/* Windows' transports write for us: see PICOWS_DIRECT_WRITE. */
#define PICOWS_DIRECT_WRITE 0

static inline int picows_is_ip(int family)
{
    (void)family;
    return 1;
}

static inline int picows_socket_accept(int listener, picows_address *peer)
{
    (void)listener, (void)peer;
    return -1;
}

static inline void picows_socket_close(int fd)
{
    (void)fd;
}

static inline int picows_socket_shut(int fd)
{
    (void)fd;
    return 0;
}

static inline void picows_socket_sockname(int fd, picows_address *address)
{
    (void)fd;
    address->family = 0;
}

static inline void picows_socket_peername(int fd, picows_address *address)
{
    (void)fd;
    address->family = 0;
}

static inline void picows_socket_tune(int fd, int family)
{
    /* asyncio sets TCP_NODELAY itself. */
    (void)fd, (void)family;
}

static inline void picows_socket_busy_poll(int fd, int microseconds)
{
    (void)fd, (void)microseconds;
}

static inline ptrdiff_t picows_socket_write(
    int fd, const char *head, size_t head_size, const char *body, size_t body_size)
{
    (void)fd, (void)head, (void)head_size, (void)body, (void)body_size;
    return 0;
}

static inline ptrdiff_t picows_socket_read(int fd, char *data, size_t size)
{
    (void)fd, (void)data, (void)size;
    return 0;
}

#define PICOWS_HAVE_TIMESTAMPS 0

static inline void picows_socket_stamp(int fd)
{
    (void)fd;
}

static inline ptrdiff_t picows_socket_read_stamped(int fd, char *data, size_t size, long long *time_ns)
{
    *time_ns = 0;
    return picows_socket_read(fd, data, size);
}

static inline int picows_socket_has_error(int fd)
{
    (void)fd;
    return 0;
}

static inline int picows_socket_wait(int fd, long long nanoseconds)
{
    (void)fd, (void)nanoseconds;
    return 0;
}

static inline size_t picows_socket_unacknowledged(int fd)
{
    (void)fd;
    return 0;
}

#else

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PICOWS_DIRECT_WRITE 1

/* macOS has no MSG_NOSIGNAL; Python ignores SIGPIPE there. */
#ifdef MSG_NOSIGNAL
#define PICOWS_SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)
#else
#define PICOWS_SEND_FLAGS MSG_DONTWAIT
#endif

static inline int picows_is_ip(int family)
{
    return family == AF_INET || family == AF_INET6;
}

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage longest;
} picows_any_address;

static inline void picows_address_read(picows_address *address, const picows_any_address *from)
{
    memset(address, 0, sizeof(*address));
    if (from->any.sa_family == AF_INET) {
        address->family = AF_INET;
        address->port = ntohs(from->v4.sin_port);
        memcpy(address->bytes, &from->v4.sin_addr, 4);
    } else if (from->any.sa_family == AF_INET6) {
        address->family = AF_INET6;
        address->port = ntohs(from->v6.sin6_port);
        address->flow = ntohl(from->v6.sin6_flowinfo);
        address->scope = from->v6.sin6_scope_id;
        memcpy(address->bytes, &from->v6.sin6_addr, 16);
    }
}

static inline int picows_socket_accept(int listener, picows_address *peer)
{
    picows_any_address from;
    socklen_t size = sizeof(from);
    int fd;
    memset(&from, 0, sizeof(from));
    do {
#ifdef __linux__
        fd = accept4(listener, &from.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        fd = accept(listener, &from.any, &size);
#endif
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
#ifndef __linux__
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
#endif
    picows_address_read(peer, &from);
    return fd;
}

static inline void picows_socket_close(int fd)
{
    /* On Linux the number is free even where this is interrupted. */
    (void)close(fd);
}

static inline int picows_socket_shut(int fd)
{
    return shutdown(fd, SHUT_WR) == 0 ? 0 : errno;
}

static inline void picows_socket_sockname(int fd, picows_address *address)
{
    picows_any_address of;
    socklen_t size = sizeof(of);
    memset(&of, 0, sizeof(of));
    (void)getsockname(fd, &of.any, &size);
    picows_address_read(address, &of);
}

static inline void picows_socket_peername(int fd, picows_address *address)
{
    picows_any_address of;
    socklen_t size = sizeof(of);
    memset(&of, 0, sizeof(of));
    (void)getpeername(fd, &of.any, &size);
    picows_address_read(address, &of);
}

static inline void picows_socket_tune(int fd, int family)
{
    int on = 1;
    if (!picows_is_ip(family))
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
#ifdef TCP_QUICKACK
    /* Acknowledge at once. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
#endif
}

static inline void picows_socket_busy_poll(int fd, int microseconds)
{
#ifdef SO_BUSY_POLL
    (void)setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &microseconds, sizeof(microseconds));
#else
    (void)fd, (void)microseconds;
#endif
}

static inline ptrdiff_t picows_socket_write(
    int fd, const char *head, size_t head_size, const char *body, size_t body_size)
{
    ptrdiff_t n;
    do {
        if (body_size == 0) {
            n = send(fd, head, head_size, PICOWS_SEND_FLAGS);
        } else {
            struct iovec parts[2];
            struct msghdr message;
            parts[0].iov_base = (void *)head;
            parts[0].iov_len = head_size;
            parts[1].iov_base = (void *)body;
            parts[1].iov_len = body_size;
            memset(&message, 0, sizeof(message));
            message.msg_iov = parts;
            message.msg_iovlen = 2;
            n = sendmsg(fd, &message, PICOWS_SEND_FLAGS);
        }
    } while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return 0;
    return -(ptrdiff_t)errno;
}

static inline ptrdiff_t picows_socket_read(int fd, char *data, size_t size)
{
    ptrdiff_t n;
    do {
        n = recv(fd, data, size, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    return errno == EWOULDBLOCK ? -EAGAIN : -(ptrdiff_t)errno;
}

#if defined(__linux__) && defined(SO_TIMESTAMPNS)

#define PICOWS_HAVE_TIMESTAMPS 1

static inline void picows_socket_stamp(int fd)
{
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on));
}

static inline ptrdiff_t picows_socket_read_stamped(int fd, char *data, size_t size, long long *time_ns)
{
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec)) + 64];
        struct cmsghdr align;
    } control;
    struct iovec part = {data, size};
    struct msghdr message;
    struct cmsghdr *each;
    ptrdiff_t n;
    *time_ns = 0;
    do {
        memset(&message, 0, sizeof(message));
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        n = recvmsg(fd, &message, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -(ptrdiff_t)errno;
    for (each = CMSG_FIRSTHDR(&message); each != NULL; each = CMSG_NXTHDR(&message, each)) {
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_TIMESTAMPNS
            && each->cmsg_len >= CMSG_LEN(sizeof(struct timespec))) {
            struct timespec time;
            memcpy(&time, CMSG_DATA(each), sizeof(time));
            *time_ns = (long long)time.tv_sec * 1000000000LL + time.tv_nsec;
        }
    }
    return n;
}

#else

#define PICOWS_HAVE_TIMESTAMPS 0

static inline void picows_socket_stamp(int fd)
{
    (void)fd;
}

static inline ptrdiff_t picows_socket_read_stamped(int fd, char *data, size_t size, long long *time_ns)
{
    *time_ns = 0;
    return picows_socket_read(fd, data, size);
}

#endif

static inline int picows_socket_has_error(int fd)
{
    struct pollfd entry = {fd, 0, 0};
    return poll(&entry, 1, 0) == 1 && (entry.revents & POLLERR) != 0;
}

static inline int picows_socket_wait(int fd, long long nanoseconds)
{
    struct pollfd entry = {fd, POLLIN, 0};
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        if (poll(&entry, 1, 0) != 0)
            return 1;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000000000LL + (now.tv_nsec - start.tv_nsec) < nanoseconds);
    return 0;
}

static inline size_t picows_socket_unacknowledged(int fd)
{
#ifdef __linux__
    /* Linux calls it SIOCOUTQ for sockets, which is the same number (tcp(7), unix(7)). */
    int bytes = 0;
    if (ioctl(fd, TIOCOUTQ, &bytes) == 0 && bytes > 0)
        return (size_t)bytes;
#else
    (void)fd;
#endif
    return 0;
}

#endif
#endif
