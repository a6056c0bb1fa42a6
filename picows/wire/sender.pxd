from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from picows.wire.octets cimport picows_mask


cdef enum:
    # Room that a header takes at most: two bytes, a 64-bit length, a mask key (RFC 6455 section
    # 5.2).
    MAX_HEADER_SIZE = 14


cdef inline size_t header_size(size_t payload_size, bint masked) noexcept nogil:
    """Bytes in front of a payload of this size."""
    return (
        (2 if payload_size < 126 else 4 if payload_size < 65536 else 10)
        + (4 if masked else 0)
    )


cdef size_t write_header(
    char* target, unsigned char first, size_t payload_size, bint masked, uint32_t key
) noexcept nogil


cdef inline size_t build_frame(
    char* target, unsigned char first, const char* payload, size_t size, bint masked, uint32_t key
) noexcept nogil:
    """Header and payload, masked if need be, in one pass; returns the frame's size."""
    cdef size_t header = write_header(target, first, size, masked, key)
    if size:
        if masked:
            picows_mask(
                <unsigned char*>target + header, <const unsigned char*>payload, size, key
            )
        else:
            memcpy(target + header, payload, size)
    return header + size


cdef inline unsigned char first_byte(
    unsigned int opcode, bint fin, bint rsv1, bint rsv2, bint rsv3
) noexcept nogil:
    return <unsigned char>(
        (0x80 if fin else 0) | (0x40 if rsv1 else 0) | (0x20 if rsv2 else 0)
        | (0x10 if rsv3 else 0) | opcode
    )


cdef int check_data_frame(int msg_type, size_t payload_size, bint fin) except -1
cdef bytes close_payload(object code, object reason)
cdef bytes cut_reason(str reason)
