/* An epoll instance for sockets that are watched for bytes (epoll(7)); level-triggered.
 *
 * picows_epoll_open: its number, or minus errno.
 * picows_epoll_add, picows_epoll_remove: 0, or errno.
 * picows_epoll_wait: the numbers of what is ready now, at most `size` (64) of them; returns how many.
 */
#ifndef PICOWS_EPOLL_CALLS_H
#define PICOWS_EPOLL_CALLS_H

#if defined(__linux__)

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define PICOWS_HAVE_EPOLL 1

static inline int picows_epoll_open(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    return epoll >= 0 ? epoll : -errno;
}

static inline int picows_epoll_add(int epoll, int fd)
{
    struct epoll_event event;
    memset(&event, 0, sizeof(event));
    event.events = EPOLLIN;
    event.data.fd = fd;
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}

static inline int picows_epoll_remove(int epoll, int fd)
{
    struct epoll_event event;
    memset(&event, 0, sizeof(event));
    return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event) == 0 ? 0 : errno;
}

static inline int picows_epoll_wait(int epoll, int *ready, int size)
{
    struct epoll_event events[64];
    int n = epoll_wait(epoll, events, size < 64 ? size : 64, 0);
    for (int i = 0; i < n; i++)
        ready[i] = events[i].data.fd;
    return n;
}

static inline void picows_epoll_close(int epoll)
{
    (void)close(epoll);
}

#else

#define PICOWS_HAVE_EPOLL 0

static inline int picows_epoll_open(void)
{
    return -1;
}

static inline int picows_epoll_add(int epoll, int fd)
{
    (void)epoll, (void)fd;
    return 0;
}

static inline int picows_epoll_remove(int epoll, int fd)
{
    (void)epoll, (void)fd;
    return 0;
}

static inline int picows_epoll_wait(int epoll, int *ready, int size)
{
    (void)epoll, (void)ready, (void)size;
    return 0;
}

static inline void picows_epoll_close(int epoll)
{
    (void)epoll;
}

#endif
#endif
