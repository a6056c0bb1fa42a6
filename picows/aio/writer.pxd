from picows.aio.loop_state cimport LoopState
from picows.aio.transport cimport WSTransport


cdef enum OverflowPolicy:
    OVERFLOW_CLOSE
    OVERFLOW_DROP
    OVERFLOW_RAISE


cdef enum GatherAnswer:
    # It leaves at once; nothing that was gathered is left.
    GATHER_NOT
    GATHER
    # Nothing may follow: the connection was ended meanwhile.
    GATHER_NOTHING


cdef class Writer(WSTransport):
    cdef:
        # The loop and what its connections share.
        object loop
        LoopState state
        object logger
        bint log_frames

        # The transport below; fd is its socket as long as we may write to that ourselves, else -1.
        object underlying
        int fd
        # It copies what it cannot send at once, so it may be given memory that changes later.
        bint transport_copies
        # Bytes went into the transport's own queue and may still be there.
        bint backlogged
        # Bytes that ever went to the socket or to that queue.
        unsigned long long sent
        # The queue is over the transport's high-water mark.
        bint writing_paused
        # The transport is calling pause_writing or resume_writing; or connection_made.
        bint in_flow_control
        bint in_connection_made
        # What the transport gets after that: a list of bytes, or None.
        list postponed

        # The limit on what waits, in bytes (0: none), and what happens beyond it; the rest of a
        # message that was not sent is not sent either.
        size_t max_write_buffer
        OverflowPolicy overflow_policy
        bint is_dropping

        # Frames may be sent: upgraded, no CLOSE sent, neither lost nor disconnected.
        bint sendable
        bint disconnected
        bint aborted
        bint secure

        # What is sent while a batch is worked off may be gathered. So many bytes of it were; they
        # are in the outbox of the loop or, unless this is the connection that is read, in `aside`.
        bint coalesces
        size_t gathered_size
        list aside

    cdef bint admits(self, unsigned char first, size_t size) except? True
    cdef int overflow(self, size_t size) except -1
    cdef bint is_over_limit(self, size_t size) except? True
    cdef size_t bytes_waiting(self) except? 0
    cdef size_t bytes_queued(self) except? 0

    cdef int gathers(self, size_t total, bint is_close) except -1
    cdef char* room_in_outbox(self) except NULL
    cdef bint has_outbox(self) noexcept
    cdef int gathered(self, size_t total) noexcept
    cdef int gather_aside(self, bytes frame) except -1
    cdef int make_room(self, size_t size) except -1
    cdef int flush_outbox(self) except -1
    cdef int drop_outbox(self) noexcept

    cdef bint _may_write_socket(self) except? True
    cdef int _emit(
        self, const char* head, size_t head_size, const char* body, size_t body_size
    ) except -1
    cdef int _queue_rest(
        self, const char* head, size_t head_size, const char* body, size_t body_size, size_t taken
    ) except -1
    cdef int _hand_over(self, object data) except -1
    cdef int _lose(self) except -1
    cdef int _write_failed(self, int error) except -1
    cdef int close_below(self, bint graceful) except -1


cdef int flush_gathered(LoopState state) except -1
