from libc.stddef cimport size_t

from picows.aio.writer cimport Writer
from picows.wire.deflate cimport Deflater
from picows.wire.frame cimport WSMsgType


cdef inline size_t largest_frame(size_t size) noexcept nogil:
    """Header, and more than zlib makes of `size` bytes in the worst case."""
    return size + size // 4 + 64


cdef int view_payload(object message, Py_buffer* view) except -1


cdef class Outbound(Writer):
    cdef:
        bint masked
        # A message was begun by a frame without FIN.
        bint in_message

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

    # These return 1 for what is on its way, 0 for what is not sent.
    cdef int send_message(self, unsigned char first, object message, bint is_control) except -1
    cdef int send_deflated(
        self, WSMsgType msg_type, object message, bint fin, object compress
    ) except -1
    cdef int send_reused(self, unsigned char first, char* payload, size_t size) except -1

    cdef int send_compressible(
        self, unsigned char first, const char* payload, size_t size, object owner, object compress
    ) except -1
    cdef int send_frame(
        self, unsigned char first, const char* payload, size_t size, object owner
    ) except -1
    cdef int send_built(self, bytes frame, unsigned char first, size_t size) except -1
    cdef int send_in_place(self, unsigned char first, char* payload, size_t size) except -1

    cdef bint _gather(
        self, unsigned char first, const char* payload, size_t size
    ) except? True
    cdef int _send_large_masked(
        self, unsigned char first, const char* payload, size_t size
    ) except -1
    cdef int _send_as_bytes(
        self, unsigned char first, const char* payload, size_t size, object owner
    ) except -1
