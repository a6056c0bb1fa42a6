/* The system calls that a connection makes on its socket by itself.
 *
 * picows_socket_write: one non-blocking write of one or two buffers. Returns the bytes taken, 0 when the
 * socket takes none now, or minus errno. Never raises SIGPIPE.
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

#if defined(_WIN32)

/* Windows' transports write for us: see PICOWS_DIRECT_WRITE. */
#define PICOWS_DIRECT_WRITE 0

static inline ptrdiff_t picows_socket_write(
    int fd, const char *head, size_t head_size, const char *body, size_t body_size)
{
    (void)fd, (void)head, (void)head_size, (void)body, (void)body_size;
    return 0;
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

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#define PICOWS_DIRECT_WRITE 1

/* macOS has no MSG_NOSIGNAL; Python ignores SIGPIPE there. */
#ifdef MSG_NOSIGNAL
#define PICOWS_SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)
#else
#define PICOWS_SEND_FLAGS MSG_DONTWAIT
#endif

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
