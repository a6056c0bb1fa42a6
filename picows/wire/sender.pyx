# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames to bytes (RFC 6455 section 5.2): headers, and the rules that a frame of ours must keep.

Always holds: what is refused here is refused before a byte is written anywhere.
"""

from libc.string cimport memcpy

from picows.wire.frame cimport (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    WSMsgType,
    is_close_code_sendable,
    msg_type_object,
)

# RFC 6455 section 5.5: the payload of a control frame; a CLOSE spends two bytes of it on the code.
cdef enum:
    MAX_CONTROL_SIZE = 125
    MAX_REASON_SIZE = 123


cdef size_t write_header(
    char* target, unsigned char first, size_t payload_size, bint masked, uint32_t key
) noexcept nogil:
    """Write a frame header; returns its size, which is header_size(payload_size, masked)."""
    cdef:
        unsigned char* p = <unsigned char*>target
        unsigned char mask_bit = 0x80 if masked else 0
        size_t size = payload_size
        int i
    p[0] = first
    if payload_size < 126:
        p[1] = mask_bit | <unsigned char>payload_size
        p += 2
    elif payload_size < 65536:
        p[1] = mask_bit | 126
        p[2] = <unsigned char>(payload_size >> 8)
        p[3] = <unsigned char>(payload_size & 0xFF)
        p += 4
    else:
        p[1] = mask_bit | 127
        for i in range(9, 1, -1):
            p[i] = <unsigned char>(size & 0xFF)
            size >>= 8
        p += 10
    if masked:
        memcpy(p, &key, 4)
        p += 4
    return <size_t>(<char*>p - target)


cdef int check_data_frame(int msg_type, size_t payload_size, bint fin) except -1:
    """The rules of `send`: every type but CLOSE, and control frames short and whole."""
    if CONTINUATION <= msg_type <= 2:
        return 0
    if msg_type == CLOSE:
        raise ValueError("a CLOSE is sent with send_close(), which remembers that it was sent")
    if msg_type != PING and msg_type != PONG:
        raise ValueError(f"msg_type {msg_type} is not a WSMsgType")
    # RFC 6455 section 5.5.
    if payload_size > MAX_CONTROL_SIZE:
        raise ValueError(
            f"a {msg_type_object(<WSMsgType>msg_type).name} holds at most {MAX_CONTROL_SIZE} bytes,"
            f" not {payload_size}"
        )
    if not fin:
        raise ValueError(
            f"a {msg_type_object(<WSMsgType>msg_type).name} must not be fragmented (fin=False)"
        )
    return 0


def check_close_code(code):
    """
    Raise TypeError or ValueError unless a CLOSE of ours may carry `code` (RFC 6455 section 7.4).
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"close_code must be an int, not {type(code).__name__}")
    if not (0 <= code <= 4999) or not is_close_code_sendable(code):
        raise ValueError(
            f"close code {int(code)} must not be sent: use 0 (none), 1000 to 1003, 1007 to 1014"
            " or 3000 to 4999"
        )


cdef bytes close_payload(object code, object reason):
    """
    The payload of a CLOSE (RFC 6455 section 5.5.1). `reason` is bytes-like (UTF-8), str or None.

    Raises ValueError for a code that must not be sent, a reason over 123 bytes, one that is not
    UTF-8, or one without a code; TypeError for another type.
    """
    cdef bytes octets
    check_close_code(code)
    if reason is None:
        octets = b""
    elif isinstance(reason, str):
        octets = (<str>reason).encode("utf-8")
    elif isinstance(reason, bytes):
        octets = reason
    else:
        try:
            octets = memoryview(reason).tobytes()
        except TypeError:
            raise TypeError(
                f"close_message must be bytes-like, str or None, not {type(reason).__name__}"
            ) from None
    if len(octets) > MAX_REASON_SIZE:
        raise ValueError(
            f"a close reason holds at most {MAX_REASON_SIZE} bytes, not {len(octets)}"
        )
    if code == 0:
        if octets:
            raise ValueError("a close reason needs a close code")
        return b""
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"close reason {octets!r} is not UTF-8") from None
    return int(code).to_bytes(2, "big") + octets


cdef bytes cut_reason(str reason):
    """A reason that fits into a CLOSE, cut at a character."""
    cdef bytes octets = reason.encode("utf-8", "replace")[:MAX_REASON_SIZE]
    return octets.decode("utf-8", "ignore").encode("utf-8")
