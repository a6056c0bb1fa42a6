# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Where received bytes live: `Block`, counted memory, and `BufferPool`, what the connections of one
loop share.

Always holds:

* A block's memory is freed by the block alone, when nobody holds it any more: a pool, a receiver, a
  frame or a memoryview.
* Behind `capacity` stand PADDING more bytes that may be read.
* A pool belongs to one event loop and so to one thread; there is no lock.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy


cdef extern from "pages.h" nogil:
    void* picows_pages_map(size_t size)
    void picows_pages_unmap(void* pages, size_t size)
    void* picows_pages_grow(void* pages, size_t size, size_t used, size_t new_size)


@cython.final
@cython.no_gc  # owns plain memory only
cdef class Block:
    """
    Memory with an owner count; exports its window, writable, to whoever reads from the network.
    """

    def __dealloc__(self):
        if self.data != NULL:
            if self.mapped:
                picows_pages_unmap(self.data, self.mapped)
            else:
                free(self.data)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.window, self.window_size, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.exports -= 1

    cdef object open_window(self, size_t offset, size_t size):
        """A writable memoryview of data[offset:offset + size]; it holds the block."""
        self.window = self.data + offset
        self.window_size = <Py_ssize_t>size
        return PyMemoryView_FromObject(self)

    cdef int grow(self, size_t used, size_t capacity) except -1:
        """Make room for `capacity` bytes, keeping the first `used`. Never while exported."""
        cdef:
            char* data
            size_t size = capacity + PADDING
        if self.mapped:
            data = <char*>picows_pages_grow(self.data, self.mapped, used, size)
        elif size < MAP_FROM:
            data = <char*>realloc(self.data, size)
        else:
            data = <char*>picows_pages_map(size)
            if data != NULL:
                memcpy(data, self.data, used)
                free(self.data)
        if data == NULL:
            raise MemoryError(f"no memory for a read buffer of {capacity} bytes")
        self.mapped = size if self.mapped or size >= MAP_FROM else 0
        self.data = data
        self.capacity = capacity
        return 0


cdef Block new_block(size_t capacity):
    """
    A block of `capacity` bytes, not initialised. Bounded by the caller: PADDING must not overflow
    it.
    """
    cdef:
        Block block = Block.__new__(Block)
        size_t size = capacity + PADDING
    if size >= MAP_FROM:
        block.data = <char*>picows_pages_map(size)
        block.mapped = size if block.data != NULL else 0
    else:
        block.data = <char*>malloc(size)
    if block.data == NULL:
        raise MemoryError(f"no memory for a read buffer of {capacity} bytes")
    block.capacity = capacity
    return block


cdef class BufferPool:
    """The read buffers that the connections of one event loop share."""

    cdef int open_shared(self, bint for_frames) except -1:
        """Make sure that there is a shared buffer, one of the full size where it is for frames."""
        if for_frames:
            # Mapped; its pages become real as the kernel writes to them.
            self.shared = new_block(FRONT_SIZE + READ_SIZE)
            self.shared_view = self.shared.open_window(FRONT_SIZE, READ_SIZE)
        elif self.shared is None:
            self.shared = new_block(HANDSHAKE_READ_SIZE)
            self.shared_view = self.shared.open_window(0, HANDSHAKE_READ_SIZE)
        return 0

    cdef void close_shared(self) noexcept:
        """Part from the shared buffer: kept frames own it from now on, or nobody."""
        self.shared = None
        self.shared_view = None

    cdef Block take_block(self, size_t capacity, size_t expected):
        """
        A block of at least `capacity` bytes; the warm one if as much as `expected` would be mapped
        anyway.
        """
        cdef Block block
        if self.warm is not None and expected >= MAP_FROM and self.warm.capacity >= capacity:
            block = self.warm
            self.warm = None
            return block
        return new_block(capacity)

    cdef int give_back(self, Block block) except -1:
        """The receiver is done with `block` and no frame was kept in it."""
        if (
            block.mapped
            and block.capacity <= WARM_LIMIT
            and (self.warm is None or self.warm.capacity < block.capacity)
        ):
            self.warm = block
            self.warm_kept()
        return 0

    cdef Block take_body(self, size_t capacity=0):
        """
        A block for a message that is gathered, inflated or compressed, which may stay half as long
        as its peer likes.
        """
        cdef Block block = self.spare_body
        capacity = max(capacity, <size_t>FIRST_BODY)
        if block is not None and block.capacity >= capacity:
            self.spare_body = None
            return block
        if self.warm is not None and self.warm.capacity / 2 > capacity:
            # What is real of the warm block would stay so.
            return new_block(capacity)
        return self.take_block(capacity, capacity)

    cdef int give_back_body(self, Block block) except -1:
        """The message was delivered, and nobody kept it."""
        if block.capacity <= SPARE_BODY_LIMIT:
            self.spare_body = block
            return 0
        return self.give_back(block)

    cdef int warm_kept(self) except -1:
        """Hook: a block was kept warm. Who owns a clock drops it after a while."""
        return 0

    cdef int block_oversized(self, object receiver) except -1:
        """
        Hook: `receiver` has begun a frame in a block much larger than what arrived of it. Who owns
        a clock calls its `shrink` after a while.
        """
        return 0
