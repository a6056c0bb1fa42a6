from libc.stdint cimport uint32_t

from picows.wire.buffers cimport Block
from picows.wire.messages cimport MessageReader
from picows.wire.receiver cimport Frame, Receiver


cdef enum Step:
    STEP_NOTHING
    STEP_FRAME
    STEP_VIOLATION


cdef class Inbound:
    cdef:
        # What the connection agreed on. `hooks` are extensions of users, None where there are none;
        # they get `proto`.
        bint masked
        bint assemble
        list hooks
        object proto

        # Bytes under the parser, which knows them as pos and end: a caller's, or a copy in a block
        # for a server's reader to unmask. Where it reads a caller's, the block is for the part at
        # hand. Behind them wait others.
        bytes chunk
        Block block
        list waiting
        Receiver receiver
        Frame frame

        # The data frame of which a part is still missing: so much, and with this key.
        size_t left
        uint32_t key

        # The part at hand.
        unsigned char first
        size_t frame_size
        char* part
        size_t part_size
        bint part_is_masked
        uint32_t part_key
        bint begins
        bint ends

        # The message under way; the beginning of a character that was cut.
        MessageReader reader
        char cut[4]
        size_t cut_size

        # A CLOSE came, or a violation: nothing more is read.
        bint over
        # In the middle of a step.
        bint busy

        # What `step` found.
        unsigned int opcode
        object payload
        bint frame_finished
        bint message_finished

        # What came behind the CLOSE.
        readonly bytes trailing_data

    cpdef int receive(self, data) except -1
    cdef int step(self) except -1

    cdef int _step(self) except -1
    cdef int _next_part(self) except -1
    cdef int _unmask(self) noexcept
    cdef int _refill(self) except -1
    cdef int _load(self, bytes rest, bytes data) except -1
    cdef bint _is_large(self) noexcept
    cdef int _copy_rest(self) except -1
    cdef int _unmask_part(self) except -1
    cdef int _release(self) except -1
    cdef int _take_control(self, unsigned int opcode) except -1
    cdef int _take_part(self) except -1
    cdef int _inflate(self, const char* data, size_t size, bint is_last) except -1
    cdef int _deliver_body(self) except -1
    cdef int _deliver(self, const char* data, size_t size, bint is_last) except -1
    cdef str _decode_part(self, const char* data, size_t size)
    cdef int _ask_header(self, unsigned int opcode) except -1
    cdef bytes _run_hooks(self)
    cdef int _refuse(self, object reason) except -1
