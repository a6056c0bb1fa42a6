from picows.wire.deflate cimport Deflater


cdef class Outbound:
    cdef:
        # What the connection agreed on. `hooks` are extensions of users, None where there are none;
        # they get `proto`.
        bint masked
        Deflater deflater
        size_t deflate_from
        list hooks
        object proto

        # The message under way: its opcode, CONTINUATION where there is none; is it compressed?
        unsigned int message
        bint deflating
        # A message could not be compressed: the other side's window is no longer known.
        bint broken
        bint busy

    cpdef bytes data_frame(self, data, bint fin)
    cpdef bytes control_frame(self, unsigned int opcode, payload)
    cpdef bytes close_frame(self, code, reason)

    cdef bytes _frame(self, unsigned int opcode, const char* payload, size_t size, bint fin)
    cdef bytes _deflated_frame(
        self, unsigned char first, const char* payload, size_t size, bint fin
    )
    cdef bytes _build(self, unsigned char first, const char* payload, size_t size)
    cdef bytes _run_hooks(self, unsigned int opcode, bytes payload, bint fin)
