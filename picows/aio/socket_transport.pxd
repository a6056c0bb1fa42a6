from picows.aio.inbound cimport Inbound
from picows.aio.poller cimport Polled, Poller


cdef extern from "socket_calls.h" nogil:
    ctypedef struct picows_address:
        # AF_INET, AF_INET6, or 0: what is neither.
        int family
        unsigned int port
        unsigned int flow
        unsigned int scope
        char* bytes


cdef class SocketTransport(Polled):
    cdef:
        object loop
        # The Python object of the socket, which then owns the number; None until it is asked for.
        object sock
        bint owns_number
        # Who gets what comes in; None once it was told of the end.
        Inbound connection
        # Of the socket: socket.AF_INET, ...
        int family
        picows_address peername
        picows_address sockname
        # The same of a Unix socket.
        object unix_names
        object wrapped_socket

        # The loop watches the socket for bytes, or this poller does; the loop watches it for room.
        bint is_watched_for_bytes
        Poller poller
        bint is_watched_for_room
        bint paused
        # The system is asked when it received what is read.
        bint has_timestamps
        # close() or abort() was called, or the peer has ended; connection_lost is on its way.
        bint closing
        bint lost
        # write_eof() was called.
        bint ends_writing

        # What the socket has not taken: bytes, or bytearrays that grow; how much of the first of
        # them is sent; how much there is in all.
        object queue
        size_t first_sent
        size_t queued
        size_t low
        size_t high
        bint is_over_high

    cdef int know_socket(self) except -1
    cdef int start(self) except -1
    cdef object open_socket(self)
    cdef int watch_for_bytes(self, bint wanted) except -1
    cdef bint is_for_poller(self) noexcept
    cdef bint enter_poller(self) except -1
    cdef int watch_for_room(self, bint wanted) except -1
    cdef int put_into_queue(self, bytes data) except -1
    cdef int send_queued(self) except -1
    cdef int queue_has_grown(self) except -1
    cdef int queue_has_shrunk(self) except -1
    cdef int lose(self, object exc) except -1
