# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Many sockets that the event loop watches as one: an epoll instance of ours inside of its own.

    loop.add_reader(epoll) ─> _ready ─ epoll_wait ─> Polled.read of each that has bytes, in C

A loop makes a handle for each socket that it watches, and calls it by way of Python for each read.
Where many sockets have bytes at once, that is much of what a short message costs; and of a
connection that soon ends, to begin and to end watching is more than all else. But where one socket
alone has bytes, one more system call is more than what is saved. So a server's sockets begin here;
when they always come alone, the loop itself watches them; and when it finds a Crowd there, they
come back.

Always holds: what is watched is open, and is kept by `watched`; the epoll instance exists, and the
loop watches it, only while there is something to watch.
"""

from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit

__all__ = ["Crowd", "Poller"]


cdef extern from "epoll_calls.h" nogil:
    int picows_epoll_open()
    int picows_epoll_add(int epoll, int fd)
    int picows_epoll_remove(int epoll, int fd)
    int picows_epoll_wait(int epoll, int* ready, int size)
    void picows_epoll_close(int epoll)


cdef enum:
    # How many sockets are read in one call of the loop: others come first then.
    BATCH = 64
    # When one socket alone had bytes so often in a row, those that now have some alone leave.
    SINGLES = 32
    # At each so-manieth read a Crowd counts how many more follow before the loop's next iteration;
    # from so many on it is one.
    COUNT_EACH = 64
    CROWD = 4


cdef class Polled:

    cdef int read(self) except -1:
        """There are bytes, an end or an error; there may be none of them any more."""
        raise NotImplementedError

    cdef int leave_poller(self) except -1:
        """Have the loop watch the socket by itself."""
        raise NotImplementedError


cdef class Poller:
    """Of one loop."""

    def __cinit__(self):
        self.fd = -1

    def __init__(self, loop):
        self.loop = loop
        self.watched = {}

    def __dealloc__(self):
        # A loop that was closed, or forgotten, under its connections.
        if self.fd >= 0:
            picows_epoll_close(self.fd)

    cdef bint watch(self, Polled socket) except -1:
        """Read `socket` in the context of now. False if the system has no room for that."""
        if self.fd < 0 and not self.open():
            return False
        socket.context = PyContext_CopyCurrent()
        self.watched[socket.fd] = socket
        if picows_epoll_add(self.fd, socket.fd):
            self.forget(socket)
            return False
        return True

    cdef int forget(self, Polled socket) except -1:
        del self.watched[socket.fd]
        socket.context = None
        picows_epoll_remove(self.fd, socket.fd)
        return self.close_idle()

    cdef bint open(self) except -1:
        cdef int fd = picows_epoll_open()
        if fd < 0:
            return False
        try:
            self.loop.add_reader(fd, self._ready)
        except BaseException as exc:
            picows_epoll_close(fd)
            if isinstance(exc, Exception):
                return False
            raise
        self.fd = fd
        return True

    cdef int close_idle(self) except -1:
        if not self.watched:
            if not self.loop.is_closed():
                self.loop.remove_reader(self.fd)
            picows_epoll_close(self.fd)
            self.fd = -1
        return 0

    def _ready(self):
        cdef:
            int ready[BATCH]
            int n = picows_epoll_wait(self.fd, ready, BATCH)
            int i
            Polled socket
        if n != 1:
            self.singles = 0
        elif self.singles < SINGLES:
            self.singles += 1
        for i in range(n):
            # Who was read before may have closed it; its number may be another one's by now, who
            # then reads for nothing.
            socket = self.watched.get(ready[i])
            if socket is not None:
                read_in_context(socket, self.singles == SINGLES)


cdef int read_in_context(Polled socket, bint shall_leave) except -1:
    """The loop, too, calls each of its readers in the context that it was added in."""
    context = socket.context
    PyContext_Enter(context)
    try:
        socket.read()
        # With the context as it is now; if it is still watched.
        if shall_leave and socket.context is context:
            socket.leave_poller()
    finally:
        PyContext_Exit(context)
    return 0


cdef class Crowd:
    """Do many of the sockets that a loop itself watches have bytes at once? Counted at times."""

    def __init__(self, loop_ref):
        self.loop_ref = loop_ref

    cdef bint has_one_more(self) except -1:
        """One of them has bytes. Had it better be watched by a poller?"""
        if self.reads + 1 == COUNT_EACH:
            self.loop_ref().call_soon(self._count)
        self.reads += 1
        return self.is_there

    def _count(self):
        """Ahead of all reads of the next iteration."""
        self.is_there = self.reads - COUNT_EACH >= CROWD
        self.reads = 0
