# Public to Cython users (re-exported by picows.pxd): WSFrame and the two enums are ABI. See docs on
# the Cython interface.

cdef enum WSMsgType:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


cdef enum WSCloseCode:
    NO_INFO = 0
    OK = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL_CLOSURE = 1006
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


cdef class WSFrame:
    cdef:
        # The payload and at least 64 readable bytes behind it. Valid during the callback;
        # from a frame that is kept longer, read it anew.
        char* payload_ptr
        readonly Py_ssize_t payload_size
        # Bytes that follow this frame in the read buffer.
        readonly Py_ssize_t tail_size
        # The header (RFC 6455 section 5.2).
        readonly WSMsgType msg_type
        readonly bint fin
        readonly bint rsv1
        readonly bint rsv2
        readonly bint rsv3
        # No further complete frame is in the read buffer, as far as the next header's length tells.
        readonly bint last_in_buffer

    cpdef bytes get_payload_as_bytes(self)
    cpdef str get_payload_as_utf8_text(self)
    cpdef str get_payload_as_ascii_text(self)
    cpdef object get_payload_as_memoryview(self)
    cpdef object get_close_code(self)
    cpdef bytes get_close_message(self)
    cpdef str get_close_reason(self)


# Rules for close codes (RFC 6455 section 7.4), shared by receiver and sender.
cdef bint is_close_code_receivable(unsigned int code) noexcept nogil
cdef bint is_close_code_sendable(unsigned int code) noexcept nogil
cdef object msg_type_object(WSMsgType msg_type)
cdef object close_code_object(unsigned int code)
