from libc.stddef cimport size_t

from picows.wire.buffers cimport Block


cdef enum InflateResult:
    INFLATED = 0
    INFLATE_CORRUPT = 1
    INFLATE_TOO_BIG = 2


cdef class Inflater:
    cdef:
        # Agreed on in the opening handshake.
        int window_bits
        bint context_takeover

        # A z_stream, made with the first compressed message. Of which zlib, the .pyx alone knows.
        void* z
        # The input so far ended with a block that has BFINAL set.
        bint is_ended
        # The same of Python's zlib module, where the C library was not there to build with; and
        # what came last, for the block behind one with BFINAL set.
        object fallback
        bytes window

    cdef int inflate(
        self, Block out, size_t* used, size_t limit, const char* data, size_t size, bint fin
    ) except -1
    cdef int _open(self) except -1
    cdef int _run(self, Block out, size_t* used, size_t limit, unsigned int tail) except -1
    cdef int _restart(self) except -1
    cdef int _inflate_by_module(
        self, Block out, size_t* used, size_t limit, const char* data, size_t size, bint fin
    ) except -1
    cdef int _take_by_module(self, Block out, size_t* used, size_t limit, bytes data) except -1
    cdef bint _is_inside_a_block(self) except? True


cdef class Deflater:
    cdef:
        int window_bits
        bint context_takeover
        int level
        int memory_level

        void* z
        # The next message begins with an empty window.
        bint is_forgotten
        object fallback

    cdef int forget(self) noexcept
    cdef size_t deflate(self, Block out, const char* data, size_t size, bint fin) except? 0
    cdef int _open(self) except -1
    cdef size_t _run(self, Block out, size_t used) except? 0
    cdef size_t _deflate_by_module(self, Block out, bytes data, bint fin) except? 0
