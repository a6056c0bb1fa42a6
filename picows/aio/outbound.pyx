# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The sending half of a connection: from `send` to frames that are ready to leave.

    send ── rules ── limit ── deflate ── small or masked: header and payload in one pass ──> writer
                                         └─ large, unmasked: two buffers ──────────────────> writer

Always holds: what was compressed first leaves first; of a message that was begun nothing is left
out; a caller may change its memory as soon as a call returns.

Where frames go from here is writer.pyx's.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from picows.aio.loop_state cimport SCRATCH_SIZE, LoopState
from picows.aio.writer cimport GATHER, GATHER_NOTHING, Writer
from picows.wire.buffers cimport WARM_LIMIT, Block
from picows.wire.frame cimport (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_INFO,
    PING,
    PONG,
    WSMsgType,
    close_code_object,
    msg_type_object,
)
from picows.wire.octets cimport picows_mask, rotated_key
from picows.wire.sender cimport (
    MAX_HEADER_SIZE,
    build_frame,
    check_data_frame,
    close_payload,
    first_byte,
    header_size,
    write_header,
)

from asyncio import _get_running_loop

from picows.aio.close_handshake import CloseFrame, CloseHandshake
from picows.aio.logs import PICOWS_DEBUG_LL


cdef extern from "Python.h":
    enum:
        PyBUF_READ


cdef extern from "socket_calls.h" nogil:
    Py_ssize_t picows_socket_write(
        int fd, const char* head, size_t head_size, const char* body, size_t body_size
    )


cdef enum:
    # Up to here an unmasked payload is copied behind its header: cheaper than a second iovec.
    COPY_LIMIT = 8 * 1024


cdef int view_payload(object message, Py_buffer* view) except -1:
    """The bytes of what users send (bytes-like, str, None); the caller releases them."""
    cdef:
        const char* text
        Py_ssize_t size = 0
    if isinstance(message, str):
        text = PyUnicode_AsUTF8AndSize(message, &size)
        PyBuffer_FillInfo(view, message, <void*>text, size, 1, PyBUF_SIMPLE)
    elif message is None:
        PyBuffer_FillInfo(view, b"", <void*>b"", 0, 1, PyBUF_SIMPLE)
    elif PyObject_CheckBuffer(message):
        PyObject_GetBuffer(message, view, PyBUF_SIMPLE)
    else:
        raise TypeError(f"message must be bytes-like, str or None, not {type(message).__name__}")
    return 0


cdef class Outbound(Writer):

    # What users call

    cpdef send(
        self, WSMsgType msg_type, message,
        bint fin=True, bint rsv1=False, bint rsv2=False, bint rsv3=False, compress=None
    ):
        self.check_thread()
        if compress is not None and not isinstance(compress, bool):
            raise TypeError(f"compress must be True, False or None, not {compress!r}")
        if self.deflate_agreed:
            self.check_rsv(rsv1 or rsv2 or rsv3)
        if <int>msg_type > BINARY:
            check_data_frame(<int>msg_type, 0, fin)
        elif self.deflater is not None:
            return self.send_deflated(msg_type, message, fin, compress) != 0
        return self.send_message(
            first_byte(<unsigned int>msg_type, fin, rsv1, rsv2, rsv3),
            message,
            <int>msg_type > BINARY,
        ) != 0

    cpdef send_ping(self, message=None):
        self.check_thread()
        return self.send_message(
            first_byte(PING, True, False, False, False), message, True
        ) != 0

    cpdef send_pong(self, message=None):
        self.check_thread()
        return self.send_message(
            first_byte(PONG, True, False, False, False), message, True
        ) != 0

    cpdef send_reuse_external_bytearray(
        self, WSMsgType msg_type, bytearray buffer, Py_ssize_t msg_offset,
        bint fin=True, bint rsv1=False, bint rsv2=False, bint rsv3=False
    ):
        cdef:
            Py_buffer view
            Py_ssize_t size
        self.check_thread()
        if buffer is None:
            raise ValueError("buffer must be a bytearray, not None")
        size = PyByteArray_GET_SIZE(buffer)
        if msg_offset < MAX_HEADER_SIZE:
            raise ValueError(
                f"msg_offset must leave {MAX_HEADER_SIZE} bytes for the header, not {msg_offset}"
            )
        if msg_offset > size:
            raise ValueError(f"msg_offset {msg_offset} is beyond the buffer of {size} bytes")
        if <int>msg_type > BINARY:
            check_data_frame(<int>msg_type, <size_t>(size - msg_offset), fin)
        if self.deflate_agreed:
            self.check_reuse(msg_type, rsv1 or rsv2 or rsv3)
        # Exported, so that nobody resizes it while a write lets other threads run.
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            return self.send_reused(
                first_byte(<unsigned int>msg_type, fin, rsv1, rsv2, rsv3),
                <char*>view.buf + msg_offset,
                <size_t>(size - msg_offset),
            ) != 0
        finally:
            PyBuffer_Release(&view)

    cdef int send_reuse_external_buffer(
        self, WSMsgType msg_type, char* msg_ptr, Py_ssize_t msg_size,
        bint fin=True, bint rsv1=False, bint rsv2=False, bint rsv3=False
    ) except -1:
        self.check_thread()
        if msg_ptr == NULL:
            raise ValueError("msg_ptr must not be NULL")
        if msg_size < 0:
            raise ValueError(f"msg_size must not be negative: {msg_size}")
        if <int>msg_type > BINARY:
            check_data_frame(<int>msg_type, <size_t>msg_size, fin)
        if self.deflate_agreed:
            self.check_reuse(msg_type, rsv1 or rsv2 or rsv3)
        return self.send_reused(
            first_byte(<unsigned int>msg_type, fin, rsv1, rsv2, rsv3), msg_ptr, <size_t>msg_size
        )

    cpdef send_close(self, close_code=NO_INFO, close_message=None):
        cdef bytes payload
        self.check_thread()
        payload = close_payload(close_code, close_message)
        if self.refuses("CLOSE"):
            return
        self.close_sent = CloseFrame(
            close_code_object(int(close_code)),
            payload[2:].decode("utf-8") if payload else None,
        )
        self.received_first = self.close_received is not None
        # RFC 6455 section 5.5.1: nothing is sent after a CLOSE.
        self.sendable = False
        self.send_frame(
            first_byte(CLOSE, True, False, False, False),
            PyBytes_AS_STRING(payload),
            <size_t>PyBytes_GET_SIZE(payload),
            payload,
        )

    cpdef flush(self):
        self.check_thread()
        self.flush_outbox()

    @property
    def underlying_transport(self):
        return self.underlying

    @property
    def is_secure(self):
        return self.secure

    @property
    def is_client_side(self):
        return self.masked

    @property
    def is_close_frame_sent(self):
        return self.close_sent is not None

    @property
    def is_disconnected(self):
        return self.disconnected

    @property
    def close_handshake(self):
        if self.close_sent is None and self.close_received is None:
            return None
        return CloseHandshake(
            self.close_received,
            self.close_sent,
            None if self.close_sent is None or self.close_received is None
            else bool(self.received_first),
        )

    # Rules

    cdef int check_thread(self) except -1:
        if PyThread_get_thread_ident() != self.state.thread_id:
            if _get_running_loop() is not self.loop:
                raise RuntimeError(
                    "a WSTransport is called from the thread of its event loop only;"
                    " use loop.call_soon_threadsafe(transport.send, ...) from others"
                )
            # It was run by another thread before.
            self.state.thread_id = PyThread_get_thread_ident()
        return 0

    cdef bint refuses(self, str what) except? True:
        """Nothing is sent any more: say so, quietly."""
        if self.sendable:
            return False
        if self.logger.isEnabledFor(PICOWS_DEBUG_LL):
            self.logger.log(
                PICOWS_DEBUG_LL, "%s not sent: %s", what,
                "a CLOSE was sent before" if self.close_sent is not None
                else "the connection is closed",
            )
        return True

    cdef int check_rsv(self, bint any_rsv) except -1:
        """The rule of what sends where permessage-deflate was agreed on (RFC 7692 section 6)."""
        if any_rsv:
            raise ValueError("permessage-deflate was agreed on: reserved bits are its own")
        return 0

    cdef int check_reuse(self, WSMsgType msg_type, bint any_rsv) except -1:
        """As check_rsv; the `reuse` calls compress nothing."""
        self.check_rsv(any_rsv)
        if self.deflating and <int>msg_type <= BINARY:
            raise ValueError("a message that is being compressed is continued with send()")
        return 0

    # Frames

    cdef int send_deflated(
        self, WSMsgType msg_type, object message, bint fin, object compress
    ) except -1:
        """A data frame where permessage-deflate was agreed on (RFC 7692 section 6)."""
        cdef:
            Py_buffer view
            unsigned char first = first_byte(<unsigned int>msg_type, fin, False, False, False)
        view_payload(message, &view)
        try:
            # Ahead of compressing: pause_writing may send as well, and what leaves first has to be
            # compressed first.
            self.make_room(largest_frame(<size_t>view.len))
            if self.refuses("frame"):
                return 0
            if self.max_write_buffer and not self.admits(first, <size_t>view.len):
                return 0
            self.in_message = not fin
            self.send_compressible(
                first, <const char*>view.buf, <size_t>view.len, message, compress
            )
            return 1
        finally:
            PyBuffer_Release(&view)

    cdef int send_compressible(
        self, unsigned char first, const char* payload, size_t size, object owner, object compress
    ) except -1:
        """Send a data frame, compressed or as it is. There is room for it in the outbox."""
        cdef:
            bint fin = first >= 0x80
            size_t deflated
            Block out
        # A message is compressed as a whole, or not at all.
        if first & 0x0F != CONTINUATION:
            self.deflating = (
                bool(compress) if compress is not None else not fin or size >= self.deflate_from
            )
        if not self.deflating:
            return self.send_frame(first, payload, size, owner)
        if first & 0x0F != CONTINUATION:
            first |= 0x40
        self.deflating = not fin
        out = self.state.take_body()
        try:
            deflated = self.deflater.deflate(out, payload, size, fin)
            # From memory that is ours until it is sent.
            self.send_frame(first, out.data, deflated, None)
        except BaseException:
            # The peer would inflate what follows with another window.
            if not self.aborted:
                self._lose()
            raise
        self.state.give_back_body(out)
        return 0

    cdef int send_message(self, unsigned char first, object message, bint is_control) except -1:
        """Send a frame with `message` (bytes-like, str, None) as its payload."""
        cdef:
            Py_buffer view
            const char* payload = NULL
            Py_ssize_t size = 0
        if isinstance(message, bytes):
            payload = PyBytes_AS_STRING(message)
            size = PyBytes_GET_SIZE(message)
        elif isinstance(message, str):
            payload = PyUnicode_AsUTF8AndSize(message, &size)
        elif message is not None:
            if not PyObject_CheckBuffer(message):
                raise TypeError(
                    f"message must be bytes-like, str or None, not {type(message).__name__}"
                )
            PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
            try:
                if is_control:
                    check_data_frame(first & 0x0F, <size_t>view.len, True)
                if self.gathered_size:
                    self.make_room(largest_frame(<size_t>view.len))
                if self.refuses("frame"):
                    return 0
                if not is_control:
                    if self.max_write_buffer and not self.admits(first, <size_t>view.len):
                        return 0
                    self.in_message = first < 0x80
                self.send_frame(first, <const char*>view.buf, <size_t>view.len, message)
            finally:
                PyBuffer_Release(&view)
            return 1
        if is_control:
            check_data_frame(first & 0x0F, <size_t>size, True)
        if self.gathered_size:
            # Ahead of the rules: a callback of that may end the connection.
            self.make_room(largest_frame(<size_t>size))
        if not self.sendable and self.refuses("frame"):
            return 0
        if not is_control:
            if self.max_write_buffer and not self.admits(first, <size_t>size):
                return 0
            self.in_message = first < 0x80
        self.send_frame(first, payload, <size_t>size, message)
        return 1

    cdef int send_reused(self, unsigned char first, char* payload, size_t size) except -1:
        """Send a frame from memory that may be overwritten, also in front of the payload."""
        if self.gathered_size:
            self.make_room(largest_frame(size))
        if self.refuses(msg_type_object(<WSMsgType>(first & 0x0F)).name):
            return 0
        if first & 0x0F <= BINARY:
            if self.max_write_buffer and not self.admits(first, size):
                return 0
            self.in_message = first < 0x80
        self.send_in_place(first, payload, size)
        return 1

    cdef int send_frame(
        self, unsigned char first, const char* payload, size_t size, object owner
    ) except -1:
        """Send a frame of ours; `owner` is the object whose memory `payload` is."""
        cdef:
            LoopState state = self.state
            uint32_t key = 0
            char header[MAX_HEADER_SIZE]
            size_t total
        if self.log_frames:
            self._log_frame(first, size)
        if state.gathering or self.gathered_size:
            if self._gather(first, payload, size):
                return 0
        if not self._may_write_socket():
            return self._send_as_bytes(first, payload, size, owner)
        if not self.masked and size > COPY_LIMIT:
            total = write_header(header, first, size, False, 0)
            return self._emit(header, total, payload, size)
        if size > SCRATCH_SIZE - MAX_HEADER_SIZE:
            return self._send_large_masked(first, payload, size)
        if state.scratch is None or state.scratch.capacity < size + MAX_HEADER_SIZE:
            state.open_scratch(size + MAX_HEADER_SIZE)
        if self.masked:
            key = state.mask_keys.next()
        total = build_frame(state.scratch.data, first, payload, size, self.masked, key)
        return self._emit(state.scratch.data, total, NULL, 0)

    cdef int send_in_place(self, unsigned char first, char* payload, size_t size) except -1:
        """Send a frame whose payload has room for the header in front and may be overwritten."""
        cdef:
            size_t header = header_size(size, self.masked)
            uint32_t key = 0
        if self.log_frames:
            self._log_frame(first, size)
        if self.state.gathering or self.gathered_size:
            if self._gather(first, payload, size):
                return 0
        if self.masked:
            key = self.state.mask_keys.next()
            picows_mask(<unsigned char*>payload, <const unsigned char*>payload, size, key)
        write_header(payload - header, first, size, self.masked, key)
        if self._may_write_socket():
            return self._emit(payload - header, header + size, NULL, 0)
        if self.transport_copies:
            return self._hand_over(
                PyMemoryView_FromMemory(
                    payload - header, <Py_ssize_t>(header + size), PyBUF_READ
                )
            )
        return self._hand_over(
            PyBytes_FromStringAndSize(payload - header, <Py_ssize_t>(header + size))
        )

    cdef int _send_large_masked(
        self, unsigned char first, const char* payload, size_t size
    ) except -1:
        """
        A message larger than the scratch buffer normally is; one that is larger than it may become
        leaves in parts.

        In as few parts as that: a peer on the same core takes turns with us at each system call.
        """
        cdef:
            LoopState state = self.state
            uint32_t key = state.mask_keys.next()
            char* scratch
            size_t capacity = WARM_LIMIT
            size_t done = 0
            size_t filled
            size_t part
            Py_ssize_t taken
            char* p
            bytes rest
        if size < capacity - MAX_HEADER_SIZE:
            capacity = size + MAX_HEADER_SIZE
        state.open_scratch(capacity)
        scratch = state.scratch.data
        filled = write_header(scratch, first, size, True, key)
        while True:
            part = min(capacity - filled, size - done)
            picows_mask(
                <unsigned char*>scratch + filled, <const unsigned char*>payload + done, part,
                rotated_key(key, done),
            )
            done += part
            filled += part
            with nogil:
                taken = picows_socket_write(self.fd, scratch, filled, NULL, 0)
            if taken < 0:
                return self._write_failed(<int>-taken)
            self.sent += <size_t>taken
            if <size_t>taken < filled or done == size:
                break
            filled = 0
        if <size_t>taken == filled:
            return 0
        # The socket is full. The rest goes to the transport in one piece: its pause_writing may
        # call back into `send`, which must not come between two parts of a frame.
        try:
            filled -= <size_t>taken
            rest = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(filled + size - done))
            p = PyBytes_AS_STRING(rest)
            memcpy(p, scratch + taken, filled)
            picows_mask(
                <unsigned char*>p + filled, <const unsigned char*>payload + done, size - done,
                rotated_key(key, done),
            )
            return self._hand_over(rest)
        except BaseException:
            # Half a frame is on the wire: nothing can follow it.
            self._lose()
            raise

    cdef int _send_as_bytes(
        self, unsigned char first, const char* payload, size_t size, object owner
    ) except -1:
        """The transport below writes for us (TLS, or it still queues bytes of ours)."""
        cdef:
            size_t header = header_size(size, self.masked)
            uint32_t key = 0
            bytes data
        # Not for TCP: the writelines of asyncio in Python 3.12.0 and .1 forgets pause_writing.
        if self.secure and not self.masked and size > COPY_LIMIT:
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>header)
            write_header(PyBytes_AS_STRING(data), first, size, False, 0)
            if isinstance(owner, bytes):
                body = owner
            elif self.transport_copies:
                body = PyMemoryView_FromMemory(<char*>payload, <Py_ssize_t>size, PyBUF_READ)
            else:
                body = PyBytes_FromStringAndSize(payload, <Py_ssize_t>size)
            if self.in_flow_control or self.postponed is not None:
                return self._hand_over(data + bytes(body))
            self.backlogged = True
            self.sent += header + size
            self.underlying.writelines((data, body))
            return 0
        if self.masked:
            key = self.state.mask_keys.next()
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(header + size))
        build_frame(PyBytes_AS_STRING(data), first, payload, size, self.masked, key)
        return self._hand_over(data)

    cdef bint _gather(
        self, unsigned char first, const char* payload, size_t size
    ) except? True:
        """Gather a frame. False when it has to leave at once."""
        cdef:
            size_t total = header_size(size, self.masked) + size
            uint32_t key = 0
            int answer = self.gathers(total, (first & 0x0F) == CLOSE)
            bytes frame
        if answer != GATHER:
            return answer == GATHER_NOTHING
        if self.masked:
            key = self.state.mask_keys.next()
        if self.has_outbox():
            build_frame(self.room_in_outbox(), first, payload, size, self.masked, key)
            self.gathered(total)
        else:
            frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
            build_frame(PyBytes_AS_STRING(frame), first, payload, size, self.masked, key)
            self.gather_aside(frame)
        return True

    cdef int send_built(self, bytes frame, unsigned char first, size_t size) except -1:
        """Send a frame, payload of `size` bytes, that was built for several connections."""
        cdef:
            size_t total = <size_t>PyBytes_GET_SIZE(frame)
            int answer
        if self.log_frames:
            self._log_frame(first, size)
        if self.state.gathering or self.gathered_size:
            answer = self.gathers(total, False)
            if answer == GATHER:
                if self.has_outbox():
                    memcpy(self.room_in_outbox(), PyBytes_AS_STRING(frame), total)
                    return self.gathered(total)
                return self.gather_aside(frame)
            if answer == GATHER_NOTHING:
                return 0
        if self._may_write_socket():
            return self._emit(PyBytes_AS_STRING(frame), total, NULL, 0)
        return self._hand_over(frame)

    def _log_frame(self, unsigned char first, size_t size):
        self.logger.log(
            PICOWS_DEBUG_LL, "> %s, fin=%s, %d bytes",
            msg_type_object(<WSMsgType>(first & 0x0F)).name, bool(first & 0x80), size,
        )
