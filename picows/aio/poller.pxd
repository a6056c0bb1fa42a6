cdef class Polled:
    """A socket that a Poller may watch."""
    cdef:
        # The number of the socket until it is closed, then -1.
        int fd
        # In which `read` is called: a contextvars.Context, or None while no poller watches.
        object context

    cdef int read(self) except -1
    cdef int leave_poller(self) except -1


cdef class Poller:
    cdef:
        object loop
        # The number of the epoll instance; -1 while it watches nothing.
        int fd
        # What it watches, by number.
        dict watched
        # How often in a row one socket alone had bytes.
        int singles
        object __weakref__

    cdef bint watch(self, Polled socket) except -1
    cdef int forget(self, Polled socket) except -1
    cdef bint open(self) except -1
    cdef int close_idle(self) except -1


cdef class Crowd:
    cdef:
        # The running loop, weakly.
        object loop_ref
        # Reads since it counted.
        int reads
        # What came of it.
        bint is_there

    cdef bint has_one_more(self) except -1
