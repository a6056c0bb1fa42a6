# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The frame as users see it: `WSMsgType`, `WSCloseCode`, the rules for close codes, `WSFrame`.

Always holds: a WSFrame is a window on memory that somebody else fills and owns (the private Frame
in receiver.pyx says who); here it is only read.
"""

from enum import IntEnum

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8

__all__ = ["WSCloseCode", "WSFrame", "WSMsgType"]

# In this module the two names mean the C enums of frame.pxd, so the Python enums are put in by
# hand. Not `cpdef enum`: that makes an IntFlag, for which 9 is "BINARY | TEXT | ..." and every
# number is a member.
globals()["WSMsgType"] = IntEnum("WSMsgType", {
    "CONTINUATION": CONTINUATION,
    "TEXT": TEXT,
    "BINARY": BINARY,
    "CLOSE": CLOSE,
    "PING": PING,
    "PONG": PONG,
}, module=__name__)

globals()["WSCloseCode"] = IntEnum("WSCloseCode", {
    "NO_INFO": NO_INFO,
    "OK": OK,
    "GOING_AWAY": GOING_AWAY,
    "PROTOCOL_ERROR": PROTOCOL_ERROR,
    "UNSUPPORTED_DATA": UNSUPPORTED_DATA,
    "ABNORMAL_CLOSURE": ABNORMAL_CLOSURE,
    "INVALID_TEXT": INVALID_TEXT,
    "POLICY_VIOLATION": POLICY_VIOLATION,
    "MESSAGE_TOO_BIG": MESSAGE_TOO_BIG,
    "MANDATORY_EXTENSION": MANDATORY_EXTENSION,
    "INTERNAL_ERROR": INTERNAL_ERROR,
    "SERVICE_RESTART": SERVICE_RESTART,
    "TRY_AGAIN_LATER": TRY_AGAIN_LATER,
    "BAD_GATEWAY": BAD_GATEWAY,
}, module=__name__)

cdef dict _msg_types = {int(member): member for member in globals()["WSMsgType"]}
cdef dict _close_codes = {int(member): member for member in globals()["WSCloseCode"]}


cdef object msg_type_object(WSMsgType msg_type):
    """The WSMsgType member; a plain int where there is none."""
    return _msg_types.get(<int>msg_type, <int>msg_type)


cdef object close_code_object(unsigned int code):
    """
    The WSCloseCode member; a plain int for codes of applications and libraries (3000 to 4999).
    """
    return _close_codes.get(code, code)


cdef bint is_close_code_receivable(unsigned int code) noexcept nogil:
    """RFC 6455 section 7.4: which codes may stand in a CLOSE frame from the peer."""
    # 1004 is reserved; 1005, 1006 and 1015 are never sent; 1012 to 1014 are registered with IANA.
    return (
        1000 <= code <= 1003
        or 1007 <= code <= 1014
        or 3000 <= code <= 4999
    )


cdef bint is_close_code_sendable(unsigned int code) noexcept nogil:
    """
    The same rule for our own CLOSE; 0 stands for a CLOSE without a code (RFC 6455 section 5.5.1).
    """
    return code == NO_INFO or is_close_code_receivable(code)


cdef int check_is_close(WSFrame frame) except -1:
    if frame.msg_type != CLOSE:
        raise ValueError(f"only a CLOSE frame has a close code and a reason, this is {frame}")
    return 0


cdef class WSFrame:
    """
    A received frame, as `WSListener.on_ws_frame` gets it.

    It is a window on the read buffer: nothing is copied until one of the methods is called. It may
    be kept after the callback; then it owns its bytes, or keeps the buffer, and reads the same for
    ever. The buffer protocol works on it (read-only): ``memoryview(frame)``, ``bytes(frame)``,
    ``array.frombytes(frame)``.

    Attributes: ``msg_type`` (`WSMsgType`), ``fin``, ``rsv1``, ``rsv2``, ``rsv3`` (bool, RFC 6455
    section 5.2), ``payload_size`` (bytes), ``tail_size`` (bytes that follow this frame in the read
    buffer), ``last_in_buffer`` (no further complete frame is in the read buffer, judged from the
    next header's length alone).
    """

    def __init__(self):
        raise TypeError("WSFrame is made by the receiver only")

    @property
    def recv_time(self):
        """
        When the frame was received: seconds of ``time.monotonic()``, the same for all frames of one
        read. Once a connection's listener has asked, the clock is taken with each read, before the
        first callback; where nobody asks, never. None for a frame that no connection has received.
        """
        return None

    @property
    def kernel_time_ns(self):
        """
        When the system had received the last packet of the read that brought the frame: nanoseconds
        since 1970 (``time.time_ns()``). None without ``kernel_timestamps=True``, and where the
        system did not say.
        """
        return None

    cpdef bytes get_payload_as_bytes(self):
        """The payload, copied."""
        return PyBytes_FromStringAndSize(self.payload_ptr, self.payload_size)

    cpdef str get_payload_as_utf8_text(self):
        """The payload as text. Raises UnicodeDecodeError where it is not UTF-8."""
        return PyUnicode_DecodeUTF8(self.payload_ptr, self.payload_size, NULL)

    cpdef str get_payload_as_ascii_text(self):
        """The payload as text. Raises UnicodeDecodeError where it is not ASCII."""
        return PyUnicode_DecodeASCII(self.payload_ptr, self.payload_size, NULL)

    cpdef object get_payload_as_memoryview(self):
        """
        The payload as a read-only memoryview, not copied; it holds the frame (``view.obj is
        frame``).
        """
        return PyMemoryView_FromObject(self)

    cpdef object get_close_code(self):
        """
        The code of a CLOSE frame: a `WSCloseCode`, an int where that has no such member (3000 to
        4999), and ``WSCloseCode.NO_INFO`` for a CLOSE without a code. Raises ValueError for another
        type of frame.
        """
        check_is_close(self)
        if self.payload_size < 2:
            return close_code_object(NO_INFO)
        return close_code_object(
            (<unsigned int><unsigned char>self.payload_ptr[0] << 8)
            | <unsigned int><unsigned char>self.payload_ptr[1]
        )

    cpdef bytes get_close_message(self):
        """
        The reason of a CLOSE frame as bytes; None for a CLOSE without a code. Raises ValueError for
        another type of frame.
        """
        check_is_close(self)
        if self.payload_size < 2:
            return None
        return PyBytes_FromStringAndSize(self.payload_ptr + 2, self.payload_size - 2)

    cpdef str get_close_reason(self):
        """
        The reason of a CLOSE frame as text; None for a CLOSE without a code. Raises ValueError for
        another type of frame.
        """
        check_is_close(self)
        if self.payload_size < 2:
            return None
        return PyUnicode_DecodeUTF8(self.payload_ptr + 2, self.payload_size - 2, NULL)

    def __str__(self):
        name = getattr(msg_type_object(self.msg_type), "name", self.msg_type)
        return (
            f"WSFrame({name}, fin={self.fin}, rsv1={self.rsv1}, rsv2={self.rsv2}, "
            f"rsv3={self.rsv3}, last_in_buffer={self.last_in_buffer}, "
            f"payload_sz={self.payload_size}, tail_sz={self.tail_size})"
        )

    def __repr__(self):
        return str(self)
