from picows.wire.buffers cimport Block, BufferPool
from picows.wire.deflate cimport Inflater
from picows.wire.octets cimport picows_utf8
from picows.wire.receiver cimport Frame, Receiver


cdef class MessageReader:
    cdef:
        # What the connection agreed on. Without `assemble` frames stay frames, inflated.
        bint assemble
        size_t max_message_size
        size_t max_fragments
        Inflater inflater
        size_t max_inflated_size

        # The message under way: its type (CONTINUATION where there is none), how many of its frames
        # have come, and what they said, in memory of its own.
        int msg_type
        bint compressed
        size_t fragments
        Block body
        size_t size
        picows_utf8 utf8

    cdef int take(self, Receiver receiver, Frame frame) except -1
    cdef int look_ahead(self, Receiver receiver) except -1
    cdef int leave(self, Receiver receiver, Frame frame) except -1
    cdef int drop(self) noexcept
    cdef int begin(
        self, Receiver receiver, unsigned char first, unsigned int opcode, size_t size
    ) except -1
    cdef char* make_room(self, BufferPool pool, size_t size) except NULL
    cdef int check_text(
        self, Receiver receiver, const char* text, size_t size, bint is_last
    ) except -1
    cdef int end(self) noexcept

    cdef int _check(
        self, Receiver receiver, unsigned char first, unsigned int opcode, size_t size
    ) except -1
    cdef int _check_text(
        self, Receiver receiver, const char* text, size_t size
    ) except -1
    cdef int _inflate(self, Receiver receiver, Frame frame) except -1
