cdef enum:
    # Readable bytes behind every payload (api.md section 5): every block has them behind its
    # capacity.
    PADDING = 64
    # The shared read buffer: reads start at FRONT_SIZE, the rest of a half-received frame rides in
    # front.
    FRONT_SIZE = 16 * 1024
    READ_SIZE = 256 * 1024
    # Until frames come, the shared buffer of an event loop is a small one without a front: what an
    # opening handshake takes, and not worth a mapping.
    HANDSHAKE_READ_SIZE = 16 * 1024
    # A reader that finds the shared buffer busy gets one of its own of this size.
    PRIVATE_READ_SIZE = 64 * 1024
    # Blocks from here on are mapped, not allocated.
    MAP_FROM = 128 * 1024
    # The room that a gathered message gets at least.
    FIRST_BODY = 4 * 1024
    # A block up to here waits for the next message to gather.
    SPARE_BODY_LIMIT = 64 * 1024
    # A block up to here stays warm in the pool for a while.
    WARM_LIMIT = 2 * 1024 * 1024


cdef class Block:
    cdef:
        # Owned memory: capacity + PADDING bytes.
        char* data
        size_t capacity
        # Size of the mapping, or 0 when the memory came from malloc.
        size_t mapped
        # What the buffer protocol exports next: the part of `data` that a read may fill.
        char* window
        Py_ssize_t window_size
        # Buffers exported and not yet released; a block does not move while there are any.
        Py_ssize_t exports
        # A kept frame lives here: nobody writes to the block again.
        bint pinned

    cdef object open_window(self, size_t offset, size_t size)
    cdef int grow(self, size_t used, size_t capacity) except -1


cdef Block new_block(size_t capacity)


cdef class BufferPool:
    cdef:
        # The shared read buffer and the memoryview of its window; None until the first read.
        Block shared
        object shared_view
        # A connection's first bytes are those of its opening handshake.
        bint reads_handshakes
        # A batch is being parsed in the shared buffer.
        bint shared_busy
        # Who asked for the shared buffer last (identity only, never followed).
        void* shared_reader
        # One large block that is worth more than the page faults of the next one.
        Block warm
        # A small block for the next message that is gathered from fragments.
        Block spare_body
        # A frame that nobody kept, for the next batch.
        object spare_frame

    cdef int open_shared(self, bint for_frames) except -1
    cdef void close_shared(self) noexcept
    cdef Block take_block(self, size_t capacity, size_t expected)
    cdef int give_back(self, Block block) except -1
    cdef Block take_body(self, size_t capacity=*)
    cdef int give_back_body(self, Block block) except -1
    cdef int warm_kept(self) except -1
    cdef int block_oversized(self, object receiver) except -1
