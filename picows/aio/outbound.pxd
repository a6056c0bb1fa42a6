from picows.aio.loop_state cimport LoopState
from picows.aio.transport cimport WSTransport
from picows.wire.deflate cimport Deflater
from picows.wire.frame cimport WSMsgType


cdef class Outbound(WSTransport):
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

        # Frames may be sent: upgraded, no CLOSE sent, neither lost nor disconnected.
        bint sendable
        bint disconnected
        bint aborted
        bint masked
        bint secure

        # A batch is worked off and more complete frames wait: gather what is sent.
        bint gathering

        # permessage-deflate was agreed on. What compresses, unless nothing we send may be; messages
        # of how many bytes; the one under way is compressed.
        bint deflate_agreed
        Deflater deflater
        size_t deflate_from
        bint deflating

        # The two CLOSE frames, as CloseFrame or None; which came first.
        object close_sent
        object close_received
        bint received_first

    cdef int check_thread(self) except -1
    cdef int check_rsv(self, bint any_rsv) except -1
    cdef int check_reuse(self, WSMsgType msg_type, bint any_rsv) except -1
    cdef bint refuses(self, str what) except? True
    cdef int send_message(self, unsigned char first, object message, bint is_control) except -1
    cdef int send_frame(
        self, unsigned char first, const char* payload, size_t size, object owner
    ) except -1
    cdef int send_deflated(
        self, WSMsgType msg_type, object message, bint fin, object compress
    ) except -1
    cdef int send_in_place(self, unsigned char first, char* payload, size_t size) except -1
    cdef int make_room(self, size_t size) except -1
    cdef int flush_outbox(self) except -1
    cdef int drop_outbox(self) noexcept

    cdef bint _gather(
        self, unsigned char first, const char* payload, size_t size
    ) except? True
    cdef int _send_large_masked(
        self, unsigned char first, const char* payload, size_t size
    ) except -1
    cdef int _send_as_bytes(
        self, unsigned char first, const char* payload, size_t size, object owner
    ) except -1
    cdef int _emit(
        self, const char* head, size_t head_size, const char* body, size_t body_size
    ) except -1
    cdef int _hand_over(self, object data) except -1
    cdef bint _may_write_socket(self) except? True
    cdef int _queue_rest(
        self, const char* head, size_t head_size, const char* body, size_t body_size, size_t taken
    ) except -1
    cdef int _lose(self) except -1
    cdef int _write_failed(self, int error) except -1
    cdef int close_below(self, bint graceful) except -1
