# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""permessage-deflate (RFC 7692): the two halves of a connection's compression.

Always holds:

* Output is bounded before it is made: a budget of nothing is never handed to zlib, whose callers
  take 0 for "no limit".
* A message that cannot be deflated for want of memory has not advanced the compressor; one that
  fails later says so by an exception, after which the connection must not go on.
* zlib's state belongs to its object, and is made with the first message that needs it.
* The libraries that can be chosen (zlib_calls.h) differ in nothing that is said here.
"""

import zlib

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.limits cimport UINT_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from picows.wire.buffers cimport Block, new_block

__all__ = ["ZLIB", "Deflater", "Inflater"]


cdef extern from "zlib_calls.h" nogil:
    const bint PICOWS_HAVE_ZLIB
    const char* PICOWS_ZLIB_NAME
    ctypedef unsigned char Bytef
    ctypedef unsigned int uInt
    ctypedef unsigned long uLong
    ctypedef struct z_stream:
        const Bytef* next_in
        uInt avail_in
        Bytef* next_out
        uInt avail_out
        int data_type
    int Z_OK
    int Z_STREAM_END
    int Z_BUF_ERROR
    int Z_MEM_ERROR
    int Z_SYNC_FLUSH
    int Z_DEFLATED
    int Z_DEFAULT_STRATEGY
    int inflateInit2 "PICOWS_Z(inflateInit2)"(z_stream* z, int window_bits)
    int zlib_inflate "PICOWS_Z(inflate)"(z_stream* z, int flush)
    int inflateReset "PICOWS_Z(inflateReset)"(z_stream* z)
    int inflateEnd "PICOWS_Z(inflateEnd)"(z_stream* z)
    int inflateGetDictionary "PICOWS_Z(inflateGetDictionary)"(
        z_stream* z, Bytef* dictionary, uInt* size
    )
    int inflateSetDictionary "PICOWS_Z(inflateSetDictionary)"(
        z_stream* z, const Bytef* dictionary, uInt size
    )
    int deflateInit2 "PICOWS_Z(deflateInit2)"(
        z_stream* z, int level, int method, int window_bits, int memory_level, int strategy
    )
    int zlib_deflate "PICOWS_Z(deflate)"(z_stream* z, int flush)
    int deflateReset "PICOWS_Z(deflateReset)"(z_stream* z)
    int deflateEnd "PICOWS_Z(deflateEnd)"(z_stream* z)
    uLong deflateBound "PICOWS_Z(deflateBound)"(z_stream* z, uLong size)


cdef enum:
    # From here on other threads may run meanwhile.
    RELEASE_GIL_FROM = 16 * 1024
    # The room that output gets at first.
    FIRST_OUTPUT = 1024
    # What a sync flush may add to zlib's own bound: block header and empty block.
    FLUSH_SIZE = 16
    # In z_stream.data_type (zlib.h, inflate): the next thing is the header of a block.
    BETWEEN_BLOCKS = 128
    # A payload up to here is copied together with its tail.
    JOIN_UP_TO = 1024
    TAIL_SIZE = 4
    # The largest window of deflate.
    WINDOW_SIZE = 32 * 1024
    # What Python's zlib module takes and makes at once.
    MODULE_PIECE = 8 * 1024

# What this was built with (PICOWS_ZLIB): "zlib", "zlib-ng", or "python" for Python's zlib module.
ZLIB = PICOWS_ZLIB_NAME.decode()

# RFC 7692 section 7.2.1: cut off the end of each message, and section 7.2.2: put back there.
cdef bytes _TAIL = b"\x00\x00\xff\xff"
# RFC 1951 section 3.2.4: a stored block of nothing, with BFINAL set.
cdef bytes _LAST_BLOCK = b"\x01\x00\x00\xff\xff"


@cython.final
cdef class Inflater:
    """The receiving half."""

    def __init__(self, int window_bits, bint context_takeover):
        """`window_bits` is 8 to 15."""
        self.window_bits = window_bits
        self.context_takeover = context_takeover

    def __dealloc__(self):
        if self.z != NULL:
            inflateEnd(<z_stream*>self.z)
            free(self.z)

    def inflate_bytes(self, bytes data, bint fin, size_t limit):
        """
        A piece of a message; `fin` with the last one. Returns bytes.

        Raises OverflowError where they would be more than `limit`, ValueError where `data` is no
        deflate.
        """
        cdef:
            Block out = new_block(FIRST_OUTPUT)
            size_t used = 0
            int result = self.inflate(
                out, &used, limit, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), fin
            )
        if result == INFLATE_TOO_BIG:
            raise OverflowError(f"more than {limit} bytes")
        if result == INFLATE_CORRUPT:
            raise ValueError("corrupt deflate data")
        return PyBytes_FromStringAndSize(out.data, <Py_ssize_t>used)

    cdef int inflate(
        self, Block out, size_t* used, size_t limit, const char* data, size_t size, bint fin
    ) except -1:
        """
        Append to `out`, of which `used` bytes are taken, what `size` bytes of a message inflate to;
        up to `limit` bytes in all, which is less than a Py_ssize_t holds. Returns an InflateResult.
        """
        cdef:
            z_stream* z
            int result = INFLATED
            size_t part
            unsigned int tail = 0
            char joined[JOIN_UP_TO + TAIL_SIZE]
        if not PICOWS_HAVE_ZLIB:
            return self._inflate_by_module(out, used, limit, data, size, fin)
        if self.z == NULL:
            self._open()
        z = <z_stream*>self.z
        if fin and 0 < size <= JOIN_UP_TO:
            # A second call of zlib's, for the tail, would take longer than the copy.
            memcpy(joined, data, size)
            memcpy(joined + size, PyBytes_AS_STRING(_TAIL), TAIL_SIZE)
            tail = TAIL_SIZE
            data = joined
            size += tail
        while size and result == INFLATED:
            part = min(size, <size_t>UINT_MAX)
            z.next_in = <const Bytef*>data
            z.avail_in = <uInt>part
            data += part
            size -= part
            result = self._run(out, used, limit, tail)
        if fin and result == INFLATED:
            if not tail and not self.is_ended:
                z.next_in = <const Bytef*>PyBytes_AS_STRING(_TAIL)
                z.avail_in = tail = TAIL_SIZE
                result = self._run(out, used, limit, tail)
            if (
                result == INFLATED
                and not self.is_ended
                and not z.data_type & BETWEEN_BLOCKS
            ):
                # The tail was read as something else: the message ends inside a block.
                return INFLATE_CORRUPT
            self.is_ended = False
            if result == INFLATED and not self.context_takeover:
                inflateReset(z)
        return result

    cdef int _open(self) except -1:
        cdef z_stream* z = <z_stream*>calloc(1, sizeof(z_stream))
        if z == NULL or inflateInit2(z, -self.window_bits) != Z_OK:
            free(z)
            raise MemoryError("no memory to inflate messages with")
        self.z = z
        return 0

    cdef int _run(self, Block out, size_t* used, size_t limit, unsigned int tail) except -1:
        """
        Take all that is in z.next_in, of which the last `tail` bytes are the tail. RFC 7692 section
        7.2.3.4 wants an empty byte behind a last block, for the tail to be put to; where it is
        missing the message is complete all the same.
        """
        cdef:
            z_stream* z = <z_stream*>self.z
            int status
            size_t end
            uInt room
        while True:
            # One byte more than may be: whether there is more can be seen in no other way.
            end = min(out.capacity, limit + 1)
            if used[0] == end:
                if end == limit + 1:
                    return INFLATE_TOO_BIG
                out.grow(used[0], min(max(2 * out.capacity, <size_t>FIRST_OUTPUT), limit + 1))
                continue
            room = <uInt>min(end - used[0], <size_t>UINT_MAX)
            z.next_out = <Bytef*>out.data + used[0]
            z.avail_out = room
            if z.avail_in >= RELEASE_GIL_FROM:
                with nogil:
                    status = zlib_inflate(z, Z_SYNC_FLUSH)
            else:
                status = zlib_inflate(z, Z_SYNC_FLUSH)
            used[0] += room - z.avail_out
            if used[0] > limit:
                return INFLATE_TOO_BIG
            self.is_ended = status == Z_STREAM_END
            if self.is_ended:
                self._restart()
                if z.avail_in == 0 or z.avail_in == tail:
                    return INFLATED
            elif status == Z_MEM_ERROR:
                raise MemoryError("no memory to inflate a message")
            elif status != Z_OK and status != Z_BUF_ERROR:
                return INFLATE_CORRUPT
            elif z.avail_out or (z.avail_in == 0 and z.data_type & BETWEEN_BLOCKS):
                # It had room for more, so there is no more; nor is there between blocks. (Another
                # call would make zlib forget that it is there.)
                return INFLATED

    cdef int _restart(self) except -1:
        """
        Behind a block with BFINAL set (RFC 7692 section 7.2.3.4) the stream goes on, and with it
        the window.
        """
        cdef:
            z_stream* z = <z_stream*>self.z
            Bytef window[WINDOW_SIZE]
            uInt size = 0
        inflateGetDictionary(z, window, &size)
        inflateReset(z)
        inflateSetDictionary(z, window, size)
        return 0

    # By Python's zlib module

    cdef int _inflate_by_module(
        self, Block out, size_t* used, size_t limit, const char* data, size_t size, bint fin
    ) except -1:
        cdef:
            int result
            size_t part
        while size:
            part = min(size, <size_t>MODULE_PIECE)
            result = self._take_by_module(
                out, used, limit, PyBytes_FromStringAndSize(data, <Py_ssize_t>part)
            )
            if result != INFLATED:
                return result
            data += part
            size -= part
        if fin:
            if not self.is_ended:
                result = self._take_by_module(out, used, limit, _TAIL)
                if result != INFLATED:
                    return result
                if self._is_inside_a_block():
                    return INFLATE_CORRUPT
            self.is_ended = False
            if not self.context_takeover:
                self.fallback = self.window = None
        return INFLATED

    cdef int _take_by_module(self, Block out, size_t* used, size_t limit, bytes data) except -1:
        cdef:
            bytes more
            size_t size
        while True:
            if self.fallback is None:
                self.fallback = zlib.decompressobj(-self.window_bits, zdict=self.window or b"")
                self.is_ended = False
            size = min(limit - used[0] + 1, <size_t>MODULE_PIECE)
            try:
                # Never 0, which would be no limit.
                more = self.fallback.decompress(data, size)
            except zlib.error:
                return INFLATE_CORRUPT
            if <size_t>len(more) > limit - used[0]:
                return INFLATE_TOO_BIG
            if used[0] + <size_t>len(more) > out.capacity:
                out.grow(
                    used[0], min(max(2 * out.capacity, used[0] + <size_t>len(more)), limit + 1)
                )
            memcpy(out.data + used[0], PyBytes_AS_STRING(more), <size_t>len(more))
            used[0] += <size_t>len(more)
            self.window = ((self.window or b"") + more)[-(1 << self.window_bits):]
            data = self.fallback.unconsumed_tail
            if self.fallback.eof:
                # Behind a block with BFINAL set the stream goes on.
                data = self.fallback.unused_data
                self.fallback = None
                self.is_ended = True
            if not data and (self.fallback is None or <size_t>len(more) < size):
                # It had room for more, so there is no more.
                return INFLATED

    cdef bint _is_inside_a_block(self) except? True:
        """The tail was read as something else, unless a last block of nothing can follow."""
        if self.fallback is None:
            return False
        probe = self.fallback.copy()
        try:
            return bool(probe.decompress(_LAST_BLOCK)) or not probe.eof or probe.unused_data
        except zlib.error:
            return True


@cython.final
cdef class Deflater:
    """The sending half."""

    def __init__(self, int window_bits, bint context_takeover, int level, int memory_level):
        """`window_bits` is 9 to 15: zlib deflates nothing with a window of 8."""
        self.window_bits = window_bits
        self.context_takeover = context_takeover
        self.level = level
        self.memory_level = memory_level

    def __dealloc__(self):
        if self.z != NULL:
            deflateEnd(<z_stream*>self.z)
            free(self.z)

    def deflate_bytes(self, bytes data, bint fin):
        """A piece of a message, as it goes into one frame; `fin` with the last one."""
        cdef:
            Block out = new_block(FIRST_OUTPUT)
            size_t used = self.deflate(
                out, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), fin
            )
        return PyBytes_FromStringAndSize(out.data, <Py_ssize_t>used)

    cdef size_t deflate(self, Block out, const char* data, size_t size, bint fin) except? 0:
        """
        Put into `out`, which nobody else uses, what `size` bytes of a message deflate to. Returns
        how much that is.
        """
        cdef:
            z_stream* z
            size_t bound
            size_t used = 0
            size_t part
        if self.is_forgotten:
            self.is_forgotten = False
            self.fallback = None
            if self.z != NULL:
                deflateReset(<z_stream*>self.z)
        if not PICOWS_HAVE_ZLIB:
            return self._deflate_by_module(
                out, PyBytes_FromStringAndSize(data, <Py_ssize_t>size), fin
            )
        if self.z == NULL:
            self._open()
        z = <z_stream*>self.z
        # All the memory before the first byte is taken, so that nothing fails half way.
        bound = <size_t>deflateBound(z, <uLong>size) + FLUSH_SIZE
        if bound > out.capacity:
            out.grow(0, bound)
        while True:
            part = min(size, <size_t>UINT_MAX)
            z.next_in = <const Bytef*>data
            z.avail_in = <uInt>part
            data += part
            size -= part
            used = self._run(out, used)
            if size == 0:
                break
        if not fin:
            return used
        if used >= TAIL_SIZE:
            # A sync flush ends with the tail, always.
            used -= TAIL_SIZE
        if used == 0:
            # Nothing since the last flush. RFC 7692 section 7.2.3.6: an empty block, without tail.
            out.data[0] = 0
            used = 1
        if not self.context_takeover:
            deflateReset(z)
        return used

    cdef int forget(self) noexcept:
        """
        The peer inflates a message that was not deflated here: its window is no longer ours, so
        what comes next must not refer to what came before (RFC 7692 section 7.1.1 lets every
        message begin anew).
        """
        self.is_forgotten = True
        return 0

    cdef int _open(self) except -1:
        cdef z_stream* z = <z_stream*>calloc(1, sizeof(z_stream))
        if z == NULL or deflateInit2(
            z, self.level, Z_DEFLATED, -self.window_bits, self.memory_level, Z_DEFAULT_STRATEGY
        ) != Z_OK:
            free(z)
            raise MemoryError("no memory to deflate messages with")
        self.z = z
        return 0

    cdef size_t _run(self, Block out, size_t used) except? 0:
        cdef:
            z_stream* z = <z_stream*>self.z
            int status
            uInt room
        while True:
            if used == out.capacity:
                out.grow(used, 2 * out.capacity)
            room = <uInt>min(out.capacity - used, <size_t>UINT_MAX)
            z.next_out = <Bytef*>out.data + used
            z.avail_out = room
            if z.avail_in >= RELEASE_GIL_FROM:
                with nogil:
                    status = zlib_deflate(z, Z_SYNC_FLUSH)
            else:
                status = zlib_deflate(z, Z_SYNC_FLUSH)
            used += room - z.avail_out
            if status != Z_OK and status != Z_BUF_ERROR:
                raise RuntimeError(f"zlib's deflate returned {status}")
            if z.avail_out:
                return used

    cdef size_t _deflate_by_module(self, Block out, bytes data, bint fin) except? 0:
        cdef size_t used
        if self.fallback is None:
            self.fallback = zlib.compressobj(
                self.level, zlib.DEFLATED, -self.window_bits, self.memory_level
            )
        data = self.fallback.compress(data) + self.fallback.flush(zlib.Z_SYNC_FLUSH)
        if fin:
            data = data[:len(data) - TAIL_SIZE] or b"\0"
            if not self.context_takeover:
                self.fallback = None
        used = <size_t>len(data)
        if used > out.capacity:
            out.grow(0, used)
        memcpy(out.data, PyBytes_AS_STRING(data), used)
        return used
