from libc.stdint cimport uint32_t

from picows.wire.buffers cimport Block, BufferPool
from picows.wire.frame cimport WSFrame


cdef enum ReadResult:
    READ_MORE = 0
    READ_FRAME = 1
    READ_VIOLATION = 2
    # Of MessageReader: a fragment, taken in.
    READ_PART = 3


cdef enum Target:
    TARGET_NONE
    TARGET_SHARED
    TARGET_WARM
    TARGET_OWN
    TARGET_PRIVATE


cdef struct HalfFrame:
    # Where a frame stands of which the payload is not complete; how much of it is here, and how
    # much of that was unmasked and judged already.
    char* payload
    size_t size
    size_t arrived
    size_t checked
    uint32_t key
    unsigned int opcode
    unsigned char first


cdef struct ReadClock:
    # When the last read was (seconds, monotonic), or 0: nobody has asked yet. Once somebody has,
    # it is taken with each read.
    double time
    bint is_wanted
    # When the system had received what it brought (nanoseconds since 1970), or 0: not known.
    long long kernel_time_ns


cdef class Frame(WSFrame):
    cdef:
        # Once the frame is kept: a small payload moved to memory of its own, or the block it stays
        # in. A message that was gathered lies in a block from the first on.
        char* moved
        Block block
        # So many bytes of the payload were judged before the frame was complete.
        size_t checked
        # Memoryviews and arrays that are open on the payload.
        Py_ssize_t exports
        # The receiver's clock while the frame is in its callback; its time, when kept.
        ReadClock* clock
        double kept_time
        long long kept_kernel_time_ns


cdef class Receiver:
    cdef:
        # What the connection agreed on.
        BufferPool pool
        size_t max_frame_size
        size_t first_capacity
        bint expect_masked
        # A read never fills its buffer: see get_buffer.
        bint reads_whole
        # Any opening handshake is over: frames have come.
        bint reads_frames

        # Received and not yet parsed, in memory of the connection: own.data[own_start:own_end].
        Block own
        size_t own_start
        size_t own_end
        # Size, header included, of the half-received frame that goes straight into `own`; else 0.
        size_t frame_size
        # Where get_buffer sent the reader. A private block is held; the pool's are not: between
        # get_buffer and `received` may lie EAGAIN and a long silence.
        Target target
        Block private
        # The half-received frame lies in a block much larger than it, until the pool asks.
        bint oversized
        # The last batch was larger than the shared buffer: read into the pool's warm block.
        bint expect_large

        # The batch: bytes being parsed in place; pos <= end, both inside batch.data.
        Block batch
        char* start
        char* pos
        char* end
        # After READ_MORE: how many bytes the frame at pos has at least, as far as its header tells.
        size_t needed
        # So many bytes of its payload are unmasked already.
        size_t unmasked

        ReadClock clock
        # Of the read that comes next, where the transport knows it.
        long long kernel_time_ns

        # After READ_VIOLATION: close code (RFC 6455 section 7.4.1) and text.
        readonly unsigned int violation_code
        readonly str violation_text

    cdef object get_buffer(self, Py_ssize_t expected=*)
    cdef bytes take_raw(self, Py_ssize_t nbytes)
    cdef int received(self, Py_ssize_t nbytes, bint hold) except -1
    cdef int append(self, const char* data, size_t size) except -1
    cdef int extend(self, const char* data, size_t size) except -1
    cdef int prepend(self, const char* data, size_t size) except -1
    cdef int begin_held(self) noexcept
    cdef Frame take_frame(self)
    cdef int leave_frame(self, Frame frame) noexcept
    cdef int next_frame(self, Frame frame) except -1
    cdef bint is_kept(self, Frame frame) noexcept
    cdef double time_of_read(self) except? 0
    cdef int refill(self) except -1
    cdef int keep_frame(self, Frame frame) except -1
    cdef int end_batch(self, bint hold) except -1
    cdef int drop(self) noexcept
    cdef bint peek(self, HalfFrame* half) noexcept
    cdef size_t unmask_half(self, HalfFrame* half) noexcept
    cdef int violate(self, unsigned int code, str text) except -1
    cdef int shrink(self) except -1

    cdef Block _take_target(self, Py_ssize_t nbytes)
    cdef int _receive(self, const char* octets, size_t size, list frames) except -1
    cdef int _check_close(self, Frame frame) except -1
    cdef int _hold(self) except -1
    cdef int _stash(self) except -1
    cdef int _release_batch(self) except -1
