# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Bytes to frames (RFC 6455 section 5.2): the frame parser and the memory that half-received frames
wait in.

How bytes travel: `get_buffer` says where the next read goes, `received` says how much came and
opens a *batch*, `next_frame` parses the batch in place, frame by frame, `end_batch` puts the rest
of a half-received frame away.

* Normally a read goes to the pool's shared buffer. A short rest waits in a small block of the
  connection and rides in front of the next read. A frame that misses more than REST_MISSING bytes
  is received straight into a block of the connection, which grows as data arrives, never by what
  the header declares, and is not copied back.
* While large frames come one after the other, reads go straight to the block that the pool keeps
  warm.
* A reader that finds the shared buffer busy (a callback re-entered the loop's read path) gets a
  private block. What arrives for a connection in the middle of its own batch queues behind the
  batch, never inside it.

Always holds:

* Every length is compared as uint64_t against max_frame_size before it becomes a size or a pointer
  offset.
* A block in which a kept frame lives is marked `pinned`: nobody writes to it again, it goes when
  its frames go.
* A rest leaves its block in `received` only: after get_buffer may come end of file, EAGAIN or
  another get_buffer.
* The parser has no state between calls but the position: a frame is parsed when all of it is there.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.time cimport monotonic
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from picows.wire.buffers cimport (
    FRONT_SIZE,
    MAP_FROM,
    PADDING,
    PRIVATE_READ_SIZE,
    READ_SIZE,
    Block,
    BufferPool,
    new_block,
)
from picows.wire.frame cimport (
    CLOSE,
    INVALID_TEXT,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    WSFrame,
    WSMsgType,
    is_close_code_receivable,
    msg_type_object,
)
from picows.wire.octets cimport picows_mask, picows_utf8_valid, rotated_key


cdef extern from *:
    """
    #ifndef PICOWS_POISON
    #define PICOWS_POISON 0
    #endif
    #ifdef Py_GIL_DISABLED
    #define PICOWS_REUSE_FRAMES 0
    #else
    #define PICOWS_REUSE_FRAMES 1
    #endif

    static int picows_add_getter(PyObject *type, PyGetSetDef *getter)
    {
        PyTypeObject *t = (PyTypeObject *)type;
        PyObject *descriptor = PyDescr_NewGetSet(t, getter);
        int failed;
        if (descriptor == NULL)
            return -1;
        failed = PyDict_SetItemString(t->tp_dict, getter->name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(t);
        return failed;
    }
    """
    const bint PICOWS_POISON
    const bint PICOWS_REUSE_FRAMES
    ctypedef struct PyGetSetDef:
        const char* name
        object (*get)(object, void*)
        int (*set)(object, object, void*) except -1
        const char* doc
        void* closure
    int picows_add_getter(object type, PyGetSetDef* getter) except -1
    Py_ssize_t Py_REFCNT(object ob)


cdef enum:
    # A frame that misses up to this many bytes waits in a small block; beyond, it gets a buffer.
    REST_MISSING = 4 * 1024
    # More than a TLS record holds (RFC 8446 section 5.1).
    TLS_RECORD = 32 * 1024
    # A kept frame up to this size moves to memory of its own; a larger one keeps its block.
    MOVE_LIMIT = 16 * 1024
    # One bit for each opcode that RFC 6455 section 5.2 defines.
    KNOWN_OPCODES = 0b0000011100000111


cdef inline uint64_t load_be16(const unsigned char* p) noexcept nogil:
    return (<uint64_t>p[0] << 8) | p[1]


cdef inline uint64_t load_be64(const unsigned char* p) noexcept nogil:
    cdef:
        uint64_t value = 0
        int i
    for i in range(8):
        value = (value << 8) | p[i]
    return value


cdef inline bint has_whole_frame(const unsigned char* p, size_t available) noexcept nogil:
    """Is a complete frame at p, judged from its length alone?"""
    cdef:
        uint64_t size
        size_t header
    if available < 2:
        return False
    size = p[1] & 0x7F
    header = 6 if p[1] & 0x80 else 2
    if size == 126:
        if available < 4:
            return False
        size = load_be16(p + 2)
        header += 2
    elif size == 127:
        if available < 10:
            return False
        size = load_be64(p + 2)
        header += 8
    return available >= header and size <= available - header


@cython.final
@cython.no_gc  # holds a Block and plain memory, neither of which refers to anything
cdef class Frame(WSFrame):
    """A WSFrame and its claim on the memory behind it."""

    def __dealloc__(self):
        free(self.moved)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        # The view owns a reference to the frame (buffer.obj), and the frame, once its callback is
        # over, owns the bytes or the block: so the view never outlives its memory.
        PyBuffer_FillInfo(buffer, self, self.payload_ptr, self.payload_size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.exports -= 1

    @property
    def recv_time(self):
        if self.clock == NULL:
            return self.kept_time or None
        if self.clock.time == 0:
            self.clock.time = monotonic()
            self.clock.is_wanted = True
        return self.clock.time

    @property
    def kernel_time_ns(self):
        if self.clock == NULL:
            return self.kept_kernel_time_ns or None
        return self.clock.kernel_time_ns or None


# `frame.msg_type` is read in nearly every callback. Cython's own getter for a C enum makes an int;
# this one hands out the WSMsgType member, without building anything.
cdef object get_msg_type(object frame, void* closure):
    return msg_type_object((<Frame>frame).msg_type)


cdef PyGetSetDef msg_type_getter
msg_type_getter.name = b"msg_type"
msg_type_getter.get = get_msg_type
msg_type_getter.doc = b"The WSMsgType of the frame."
picows_add_getter(Frame, &msg_type_getter)


@cython.final
cdef class Receiver:
    """The receiving half of one connection."""

    def __cinit__(
        self, BufferPool pool not None, bint expect_masked, size_t max_frame_size, size_t
        first_capacity
    ):
        self.pool = pool
        self.reads_frames = not pool.reads_handshakes
        self.expect_masked = expect_masked
        self.max_frame_size = max_frame_size
        self.first_capacity = first_capacity

    # Reading

    cdef object get_buffer(self, Py_ssize_t expected=0):
        """
        Where the next read goes: a writable memoryview.

        With `reads_whole` it is larger than what can come. Where the TLS of asyncio and uvloop
        fills the buffer, it goes on in the next iteration of the loop, and when the end of the
        connection comes first, the rest is lost. It decrypts the `expected` bytes, and what it had
        of the record before, at a time.
        """
        cdef:
            BufferPool pool = self.pool
            Block block
            size_t capacity = PRIVATE_READ_SIZE
        if self.frame_size and not self.reads_whole:
            block = self.own
            if self.own_end == block.capacity:
                capacity = min(self.own_start + self.frame_size, 2 * block.capacity)
                if block.exports == 0:
                    block.grow(self.own_end, capacity)
                else:
                    # A reader still holds the last memoryview: the memory under it must not move.
                    block = new_block(capacity)
                    memcpy(block.data, self.own.data, self.own_end)
                    self.own = block
            self.target = TARGET_OWN
            return block.open_window(
                self.own_end,
                min(block.capacity, self.own_start + self.frame_size) - self.own_end,
            )
        if self.reads_whole:
            capacity = READ_SIZE
            if expected > READ_SIZE - TLS_RECORD:
                capacity = <size_t>expected + TLS_RECORD
        if pool.shared_busy or capacity > READ_SIZE:
            self.target = TARGET_PRIVATE
            self.private = new_block(FRONT_SIZE + capacity)
            return self.private.open_window(FRONT_SIZE, capacity)
        pool.shared_reader = <void*>self
        if (
            self.expect_large
            and self.own is None
            and pool.warm is not None
            and not self.reads_whole
        ):
            self.target = TARGET_WARM
            return pool.warm.open_window(0, pool.warm.capacity)
        if pool.shared is None or pool.shared.capacity < READ_SIZE:
            pool.open_shared(self.reads_frames or self.reads_whole)
        self.target = TARGET_SHARED
        return pool.shared_view

    cdef Block _take_target(self, Py_ssize_t nbytes):
        """The block of the last get_buffer, into which the reader says it has put nbytes."""
        cdef:
            Target target = self.target
            Block block = self.private
            BufferPool pool = self.pool
        self.target = TARGET_NONE
        self.private = None
        if target == TARGET_OWN:
            block = self.own
        elif target == TARGET_SHARED or target == TARGET_WARM:
            if pool.shared_reader != <void*>self:
                raise RuntimeError(
                    "another connection has read between get_buffer and buffer_updated"
                )
            if target == TARGET_SHARED:
                block = pool.shared
            else:
                block = pool.warm
                pool.warm = None
        if block is None:
            raise RuntimeError("buffer_updated() without get_buffer()")
        if nbytes < 0 or nbytes > block.window_size:
            raise RuntimeError(
                f"buffer_updated({nbytes}) for a buffer of {block.window_size} bytes"
            )
        return block

    cdef bytes take_raw(self, Py_ssize_t nbytes):
        """What was received, copied: for bytes that are no frames (the opening handshake)."""
        return PyBytes_FromStringAndSize(self._take_target(nbytes).window, nbytes)

    cdef int received(self, Py_ssize_t nbytes, bint hold) except -1:
        """
        nbytes have been read. Returns 1 when a batch is open; with `hold`, keeps them for later.
        """
        cdef:
            Block block = self._take_target(nbytes)
            char* data = block.window
            size_t rest
        self.reads_frames = True
        if hold or self.batch is not None:
            # Of frames that wait already it is the first read's. It is taken now, since asking
            # comes with the delivery.
            self.time_of_read()
            if self.clock.kernel_time_ns == 0:
                self.clock.kernel_time_ns = self.kernel_time_ns
        else:
            self.clock.time = 0
            self.clock.kernel_time_ns = self.kernel_time_ns
            if self.clock.is_wanted:
                self.time_of_read()
        if block is self.own:
            self.own_end += <size_t>nbytes
            if self.own_end - self.own_start < self.frame_size:
                return 0
            self.frame_size = 0
            return 0 if hold else self.begin_held()
        if hold or self.batch is not None:
            self.append(data, <size_t>nbytes)
            return 0
        if self.own is not None:
            rest = self.own_end - self.own_start
            if self.frame_size and self.reads_whole:
                return self.extend(data, <size_t>nbytes)
            if self.frame_size or rest > <size_t>(data - block.data):
                self.append(data, <size_t>nbytes)
                return self.begin_held()
            memcpy(data - rest, self.own.data + self.own_start, rest)
            self.own = None
            self.start = data - rest
        else:
            self.start = data
        self.batch = block
        self.pos = self.start
        self.end = data + nbytes
        if block is self.pool.shared:
            self.pool.shared_busy = True
        return 1

    cdef int extend(self, const char* data, size_t size) except -1:
        """
        More of the frame that is received into memory of the connection, and perhaps of what
        follows it, was read elsewhere. Returns 1 when a batch is open.
        """
        cdef:
            Block block = self.own
            size_t capacity
        if block.pinned or size > block.capacity - self.own_end:
            capacity = max(
                self.own_end + size, min(self.own_start + self.frame_size, 2 * block.capacity)
            )
            if block.exports == 0 and not block.pinned:
                block.grow(self.own_end, capacity)
            else:
                block = new_block(capacity)
                memcpy(block.data, self.own.data, self.own_end)
                self.own = block
        memcpy(block.data + self.own_end, data, size)
        self.own_end += size
        if self.own_end - self.own_start < self.frame_size:
            return 0
        return self.begin_held()

    cdef int append(self, const char* data, size_t size) except -1:
        """Queue bytes behind those that wait. Rare, so it copies into a block that just fits."""
        cdef:
            size_t have = self.own_end - self.own_start if self.own is not None else 0
            Block block = new_block(have + size)
        if have:
            memcpy(block.data, self.own.data + self.own_start, have)
        memcpy(block.data + have, data, size)
        self.own = block
        self.own_start = 0
        self.own_end = have + size
        self.frame_size = 0
        return 0

    cdef int prepend(self, const char* data, size_t size) except -1:
        """Put bytes ahead of those that wait: the last read has brought them."""
        cdef Block later = self.own
        cdef size_t start = self.own_start
        cdef size_t end = self.own_end
        self.own = None
        self.clock.kernel_time_ns = self.kernel_time_ns
        self.append(data, size)
        return 0 if later is None else self.append(later.data + start, end - start)

    cdef int begin_held(self) noexcept:
        """Open a batch on the bytes that wait. Returns 0 when there are none."""
        cdef Block block = self.own
        if block is None or self.batch is not None:
            return 0
        self.own = None
        self.frame_size = 0
        self.batch = block
        self.start = block.data + self.own_start
        self.pos = self.start
        self.end = block.data + self.own_end
        return 1

    # Parsing

    cdef Frame take_frame(self):
        """A frame for next_frame to fill: the pool's spare one, if nobody kept that."""
        cdef Frame frame = <Frame>self.pool.spare_frame
        if frame is None:
            frame = Frame.__new__(Frame)
        else:
            self.pool.spare_frame = None
        frame.clock = &self.clock
        return frame

    cdef int leave_frame(self, Frame frame) noexcept:
        """The batch is over and nobody kept `frame`: it serves the next one."""
        self.pool.spare_frame = frame
        return 0

    cdef int next_frame(self, Frame frame) except -1:
        """Parse the frame at pos into `frame`. Returns a ReadResult."""
        cdef:
            unsigned char* p = <unsigned char*>self.pos
            size_t available = <size_t>(self.end - self.pos)
            unsigned int opcode
            unsigned int length
            size_t header
            uint64_t size
            uint32_t key
        if available < 2:
            self.needed = 2
            return READ_MORE

        # RFC 6455 section 5.2: an opcode that is not defined fails the connection.
        opcode = p[0] & 0x0F
        if not (KNOWN_OPCODES >> opcode) & 1:
            return self.violate(PROTOCOL_ERROR, f"opcode {opcode} is not defined")
        # RFC 6455 section 5.1: a client masks every frame, a server none.
        if (p[1] >> 7) != self.expect_masked:
            return self.violate(
                PROTOCOL_ERROR,
                "a frame from a client is not masked" if self.expect_masked
                else "a frame from a server is masked",
            )
        length = p[1] & 0x7F
        header = 6 if self.expect_masked else 2
        size = length
        if opcode >= CLOSE:
            # RFC 6455 section 5.5: control frames are short and not fragmented.
            if length > 125:
                return self.violate(PROTOCOL_ERROR, "a control frame declares more than 125 bytes")
            if not p[0] & 0x80:
                return self.violate(PROTOCOL_ERROR, "a control frame is fragmented")
        elif length == 126:
            if available < 4:
                self.needed = 4
                return READ_MORE
            size = load_be16(p + 2)
            header += 2
            # RFC 6455 section 5.2: the minimal number of bytes encodes the length.
            if size < 126:
                return self.violate(PROTOCOL_ERROR, f"length {size} is not encoded minimally")
        elif length == 127:
            if available < 10:
                self.needed = 10
                return READ_MORE
            size = load_be64(p + 2)
            header += 8
            # RFC 6455 section 5.2: the most significant bit is 0.
            if size >> 63:
                return self.violate(PROTOCOL_ERROR, "the top bit of a 64-bit length is set")
            if size < 65536:
                return self.violate(PROTOCOL_ERROR, f"length {size} is not encoded minimally")
        if size > self.max_frame_size:
            return self.violate(
                MESSAGE_TOO_BIG,
                f"a frame of {size} bytes is over max_frame_size of {self.max_frame_size}",
            )
        # size <= max_frame_size, which leaves room for a header: neither sum overflows.
        if available < header + <size_t>size:
            self.needed = header + <size_t>size
            return READ_MORE

        frame.msg_type = <WSMsgType>opcode
        frame.fin = p[0] >> 7
        frame.rsv1 = (p[0] >> 6) & 1
        frame.rsv2 = (p[0] >> 5) & 1
        frame.rsv3 = (p[0] >> 4) & 1
        if self.expect_masked:
            memcpy(&key, p + header - 4, 4)
            if self.unmasked:
                key = rotated_key(key, self.unmasked)
            picows_mask(
                p + header + self.unmasked, p + header + self.unmasked,
                <size_t>size - self.unmasked, key,
            )
        frame.checked = self.unmasked
        self.unmasked = 0
        p += header
        frame.payload_ptr = <char*>p
        frame.payload_size = <Py_ssize_t>size
        p += size
        self.pos = <char*>p
        available -= header + <size_t>size
        frame.tail_size = <Py_ssize_t>available
        frame.last_in_buffer = not has_whole_frame(p, available)
        if opcode == CLOSE:
            return self._check_close(frame)
        return READ_FRAME

    cdef int _check_close(self, Frame frame) except -1:
        """RFC 6455 section 5.5.1: nothing, or a code and a reason in UTF-8."""
        cdef:
            const unsigned char* p = <const unsigned char*>frame.payload_ptr
            unsigned int code
        if frame.payload_size == 0:
            return READ_FRAME
        if frame.payload_size == 1:
            return self.violate(PROTOCOL_ERROR, "a close payload of 1 byte holds no code")
        code = <unsigned int>load_be16(p)
        if not is_close_code_receivable(code):
            return self.violate(PROTOCOL_ERROR, f"close code {code} must not be sent")
        if not picows_utf8_valid(p + 2, <size_t>frame.payload_size - 2):
            return self.violate(INVALID_TEXT, "the reason of a CLOSE is not UTF-8")
        return READ_FRAME

    cdef int violate(self, unsigned int code, str text) except -1:
        self.violation_code = code
        self.violation_text = text
        return READ_VIOLATION

    # Half a frame

    cdef bint peek(self, HalfFrame* half) noexcept:
        """The frame of which only a part is here; False where not even its header is."""
        cdef:
            unsigned char* p
            size_t available
            size_t header
            uint64_t size
        if self.batch is not None:
            p = <unsigned char*>self.pos
            available = <size_t>(self.end - self.pos)
        elif self.own is not None:
            p = <unsigned char*>self.own.data + self.own_start
            available = self.own_end - self.own_start
        else:
            return False
        if available < 2:
            return False
        size = p[1] & 0x7F
        header = 6 if self.expect_masked else 2
        if size == 126:
            if available < 4:
                return False
            size = load_be16(p + 2)
            header += 2
        elif size == 127:
            if available < 10:
                return False
            size = load_be64(p + 2)
            header += 8
        if available < header or size > self.max_frame_size:
            return False
        half.first = p[0]
        half.opcode = p[0] & 0x0F
        half.payload = <char*>p + header
        half.size = <size_t>size
        half.arrived = min(available - header, <size_t>size)
        half.checked = self.unmasked
        if self.expect_masked:
            memcpy(&half.key, p + header - 4, 4)
        return True

    cdef size_t unmask_half(self, HalfFrame* half) noexcept:
        """
        Unmask what has arrived of the payload, so that it can be judged. Returns how much that is.
        """
        cdef unsigned char* p = <unsigned char*>half.payload + half.checked
        if self.expect_masked:
            picows_mask(p, p, half.arrived - half.checked, rotated_key(half.key, half.checked))
        self.unmasked = half.arrived
        return half.arrived

    # The end of a batch

    cdef bint is_kept(self, Frame frame) noexcept:
        """
        After the callback: does anybody but the caller's one variable hold `frame`?

        With the GIL the count is exact here: the caller owns one reference, arguments were borrowed
        from it, and whatever else refers to the frame (a list, a memoryview, a traceback, another
        thread) has counted itself. Without the GIL counts are split among threads, so there a frame
        never serves twice.
        """
        return Py_REFCNT(frame) > 1 or not PICOWS_REUSE_FRAMES

    cdef int keep_frame(self, Frame frame) except -1:
        """Somebody holds `frame`: make it independent of this batch."""
        cdef:
            size_t size = <size_t>frame.payload_size
            Block block = frame.block if frame.block is not None else self.batch
        if frame.clock != NULL:
            frame.kept_time = self.time_of_read()
            frame.kept_kernel_time_ns = self.clock.kernel_time_ns
            # It may live longer than the receiver.
            frame.clock = NULL
        if frame.exports == 0 and size <= MOVE_LIMIT:
            frame.moved = <char*>malloc(size + PADDING)
            if frame.moved != NULL:
                memcpy(frame.moved, frame.payload_ptr, size)
                memset(frame.moved + size, 0, PADDING)
                frame.payload_ptr = frame.moved
                if frame.block is not None:
                    frame.block = None
                    self.pool.give_back_body(block)
                return 0
        # Exported memory must not move, and a large payload is not worth copying.
        frame.block = block
        block.pinned = True
        return 0

    cdef double time_of_read(self) except? 0:
        if self.clock.time == 0:
            self.clock.time = monotonic()
        return self.clock.time

    cdef int refill(self) except -1:
        """
        In a batch that has run dry: go on with what arrived meanwhile. Returns 0 when nothing did.
        """
        if self.own is None:
            return 0
        self._hold()
        self._release_batch()
        return self.begin_held()

    cdef int end_batch(self, bint hold) except -1:
        """
        Close the batch. With `hold` all that is left waits as it is; otherwise it is half a frame.
        """
        if hold:
            self.time_of_read()
        else:
            # What is left is no frame yet.
            self.clock.time = 0
            self.clock.kernel_time_ns = 0
        try:
            if self.pos < self.end:
                if hold or self.own is not None:
                    self._hold()
                else:
                    self._stash()
        finally:
            # Also when there is no memory: the shared buffer is the loop's.
            self._release_batch()
        return 0

    cdef int drop(self) noexcept:
        """Forget what waits and what is left of the batch: nothing more will be parsed."""
        self.own = None
        self.unmasked = 0
        self.frame_size = 0
        self.pos = self.end
        return 0

    cdef int shrink(self) except -1:
        """Some time has passed: a frame that is still not there gives up what it does not need."""
        cdef:
            Block block
            size_t rest
        self.oversized = False
        if self.own is None or not self.frame_size:
            return 0
        rest = self.own_end - self.own_start
        if 4 * rest < self.own.capacity:
            block = new_block(min(self.frame_size, max(self.first_capacity, 2 * rest)))
            memcpy(block.data, self.own.data + self.own_start, rest)
            self.own = block
            self.own_start = 0
            self.own_end = rest
        return 0

    cdef int _hold(self) except -1:
        """What is left of the batch waits, ahead of what arrived during it."""
        cdef:
            size_t rest = <size_t>(self.end - self.pos)
            size_t have
            Block block
        if self.own is None and self.batch is not self.pool.shared:
            self.own = self.batch
            self.own_start = <size_t>(self.pos - self.batch.data)
            self.own_end = <size_t>(self.end - self.batch.data)
            self.batch = None
            return 0
        have = self.own_end - self.own_start if self.own is not None else 0
        block = new_block(rest + have)
        memcpy(block.data, self.pos, rest)
        if have:
            memcpy(block.data + rest, self.own.data + self.own_start, have)
        self.own = block
        self.own_start = 0
        self.own_end = rest + have
        return 0

    cdef int _stash(self) except -1:
        """Half a frame is left: put it where its other half can follow."""
        cdef:
            size_t rest = <size_t>(self.end - self.pos)
            Block block = self.batch
        if self.needed - rest <= REST_MISSING and rest <= FRONT_SIZE:
            block = new_block(rest)
        elif (
            block is not self.pool.shared
            and not block.pinned
            and (self.needed >= MAP_FROM or 4 * rest >= block.capacity)
        ):
            # It lies well where it is; take_block would hand out this very block.
            if 4 * rest < block.capacity and not self.oversized:
                self.oversized = True
                self.pool.block_oversized(self)
            self.own = block
            self.own_start = <size_t>(self.pos - block.data)
            self.own_end = <size_t>(self.end - block.data)
            self.frame_size = self.needed
            self.batch = None
            return 0
        else:
            # By what has arrived, not by what the header declares.
            block = self.pool.take_block(
                min(self.needed, max(self.first_capacity, 2 * rest)), self.needed
            )
            self.frame_size = self.needed
        memcpy(block.data, self.pos, rest)
        self.own = block
        self.own_start = 0
        self.own_end = rest
        return 0

    cdef int _release_batch(self) except -1:
        cdef Block block = self.batch
        if block is None:
            return 0
        self.batch = None
        self.expect_large = <size_t>(self.end - self.start) > FRONT_SIZE + READ_SIZE
        if PICOWS_POISON and not block.pinned:
            # ASan sees freed memory, not memory that was overwritten: make a stale pointer obvious.
            memset(self.start, 0xDB, <size_t>(self.end - self.start))
        if block is self.pool.shared:
            self.pool.shared_busy = False
            if block.pinned:
                self.pool.close_shared()
        elif not block.pinned:
            self.pool.give_back(block)
        return 0

    # Without I/O

    def receive_data(self, data):
        """
        Take bytes from anywhere and return the list of frames that they complete, each of which may
        be kept.

        After a violation `violation_code` and `violation_text` say what it was; bytes behind it are
        dropped.
        """
        cdef:
            Py_buffer octets
            list frames = []
        PyObject_GetBuffer(data, &octets, PyBUF_SIMPLE)
        try:
            self._receive(<const char*>octets.buf, <size_t>octets.len, frames)
        finally:
            PyBuffer_Release(&octets)
        return frames

    cdef int _receive(self, const char* octets, size_t size, list frames) except -1:
        cdef:
            size_t pos = 0
            size_t n
            Block block
            Frame frame
            int result
        while pos < size and not self.violation_code:
            self.get_buffer()
            block = (
                self.own if self.target == TARGET_OWN
                else self.pool.warm if self.target == TARGET_WARM
                else self.pool.shared if self.target == TARGET_SHARED
                else self.private
            )
            n = min(size - pos, <size_t>block.window_size)
            memcpy(block.window, octets + pos, n)
            pos += n
            if not self.received(<Py_ssize_t>n, False):
                continue
            while True:
                frame = Frame.__new__(Frame)
                result = self.next_frame(frame)
                if result != READ_FRAME:
                    break
                frames.append(frame)
                self.keep_frame(frame)
            if result == READ_VIOLATION:
                self.drop()
            self.end_batch(False)
        return 0
