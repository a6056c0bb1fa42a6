from picows.aio.inbound cimport Inbound


cdef class SocketTransport:
    cdef:
        object loop
        object sock
        # The number of the socket until it is closed, then -1.
        int fd
        # Who gets what comes in; None once it was told of the end.
        Inbound connection
        object peername
        object sockname
        object wrapped_socket

        # The loop watches the socket for bytes; for room.
        bint is_watched_for_bytes
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

    cdef int start(self) except -1
    cdef int read(self) except -1
    cdef int watch_for_bytes(self, bint wanted) except -1
    cdef int watch_for_room(self, bint wanted) except -1
    cdef int put_into_queue(self, bytes data) except -1
    cdef int send_queued(self) except -1
    cdef int queue_has_grown(self) except -1
    cdef int queue_has_shrunk(self) except -1
    cdef int lose(self, object exc) except -1
