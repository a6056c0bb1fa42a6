# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The receiving half of a connection without I/O: bytes to frames, in parts, as they arrive.

`receive` only queues bytes. `step` parses what is needed for the next thing to tell: a control
frame, or of a data frame as much as is here; or a whole message, where messages are assembled. So
nobody has to hold a large frame who does not want to, and what a connection is told to do between
two steps lies between them.

Always holds:

* Of what was parsed nothing is kept but the beginning of a character, and a message that is being
  assembled; of what was not, at most a header or a control frame (RFC 6455 section 5.5) besides
  what was queued since the last step.
* Bytes of a caller are never written to. A client's parser reads them where they are. A server's
  takes a copy and unmasks that; but large frames it reads where they are, too, and what is
  made of their payload is unmasked on the way there.
* What a message gathers, or says in parts, is bounded before it is made.
* After a CLOSE, or a violation, nothing more is parsed.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from picows.errors import WSProtocolError
from picows.handshake.extension import CloseReason, Opcode, RsvBits

from picows.wire.buffers cimport FIRST_BODY, Block, BufferPool, new_block
from picows.wire.deflate cimport INFLATE_CORRUPT, INFLATE_TOO_BIG, Inflater
from picows.wire.frame cimport (
    CLOSE,
    INVALID_TEXT,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    TEXT,
)
from picows.wire.messages cimport MessageReader
from picows.wire.octets cimport picows_mask, rotated_key
from picows.wire.receiver cimport (
    READ_FRAME,
    READ_MORE,
    READ_VIOLATION,
    Frame,
    HalfFrame,
    Receiver,
)

__all__ = ["Inbound"]


cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 max_character)
    void* PyUnicode_1BYTE_DATA(object text)


cdef enum:
    # Texts from here on are decoded in another way.
    LARGE_TEXT = 1024
    # Frames of which so much is here are not copied to where frames are unmasked.
    LARGE_FRAME = 1024
    # A multiple of a masking key's size.
    PIECE = 1024

# A frame is bounded as a part of its message. This bound no frame reaches, and no sum overflows.
cdef size_t MAX_FRAME_SIZE = (~<size_t>0) >> 1

# One for the process: with the GIL nobody sees it in the middle of anything.
cdef BufferPool _pool = BufferPool()

# The receiver's batch: pos and end point into memory that is not its own.
cdef Block _no_block = new_block(0)


cdef inline size_t cut_character(const char* data, size_t size) noexcept nogil:
    """How many bytes at the end are the beginning of a character. `data` begins a valid text."""
    cdef:
        size_t back = 1
        unsigned char octet
    while back <= 3 and back <= size:
        octet = <unsigned char>data[size - back]
        if octet >= 0xC0:
            return back if character_size(octet) > back else 0
        if octet < 0x80:
            return 0
        back += 1
    return 0


cdef inline int copy(
    char* to, const char* data, size_t size, bint masked, uint32_t key
) noexcept nogil:
    if masked:
        picows_mask(<unsigned char*>to, <const unsigned char*>data, size, key)
    else:
        memcpy(to, data, size)
    return 0


cdef bint copy_ascii(
    char* text, const char* data, size_t size, bint masked, uint32_t key
) noexcept nogil:
    """Copy up to the first piece that is not all ASCII. Was there none?"""
    cdef:
        size_t at = 0
        size_t end
        size_t octet
        unsigned char seen
    # In pieces that stay in the nearest cache: they are copied, then looked at. And what a compiler
    # vectorises does not stop in the middle. Each begins with the first byte of the key.
    while at < size:
        end = min(at + PIECE, size)
        copy(text + at, data + at, end - at, masked, key)
        seen = 0
        for octet in range(at, end):
            seen |= <unsigned char>text[octet]
        if seen >= 0x80:
            return False
        at = end
    return True


cdef bytes copied(const char* data, size_t size, bint masked, uint32_t key):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    copy(PyBytes_AS_STRING(made), data, size, masked, key)
    return made


cdef str decode(const char* data, size_t size, bint masked=False, uint32_t key=0):
    """A text. Raises UnicodeDecodeError where it is not UTF-8."""
    cdef:
        str text
        bytes made
    if size >= LARGE_TEXT:
        # Twice as fast as what CPython's decoder does for large texts, which nearly all are ASCII.
        text = PyUnicode_New(<Py_ssize_t>size, 127)
        if copy_ascii(<char*>PyUnicode_1BYTE_DATA(text), data, size, masked, key):
            return text
    if masked:
        made = copied(data, size, masked, key)
        data = PyBytes_AS_STRING(made)
    return PyUnicode_DecodeUTF8(data, <Py_ssize_t>size, NULL)


cdef inline size_t character_size(unsigned char lead) noexcept nogil:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


@cython.final
cdef class Inbound:
    """What one connection makes of the bytes that come for it."""

    def __cinit__(
        self, bint client, bint assemble, size_t max_message_size, size_t max_fragments,
        Inflater inflater, size_t max_inflated_size, list hooks, object proto
    ):
        self.masked = not client
        self.assemble = assemble
        self.hooks = hooks
        self.proto = proto
        self.waiting = []
        self.receiver = Receiver(_pool, self.masked, MAX_FRAME_SIZE, FIRST_BODY)
        self.receiver.batch = _no_block
        self.frame = Frame.__new__(Frame)
        self.reader = MessageReader(
            True, max_message_size, max_fragments, inflater, max_inflated_size
        )
        self.trailing_data = b""

    cpdef int receive(self, data) except -1:
        """Bytes have come. Raises TypeError for what is not bytes-like."""
        cdef Py_buffer octets
        if not PyBytes_CheckExact(data):
            PyObject_GetBuffer(data, &octets, PyBUF_SIMPLE)
            try:
                data = PyBytes_FromStringAndSize(<char*>octets.buf, octets.len)
            finally:
                PyBuffer_Release(&octets)
        # What comes behind a CLOSE is discarded (RFC 6455 section 1.4).
        if not self.over and PyBytes_GET_SIZE(data):
            self.waiting.append(data)
        return 0

    def read(self):
        """
        The next thing to tell, (opcode, payload, frame_finished, message_finished), or None. The
        opcode of a continuation is that of its message; payloads are str for TEXT, else bytes.

        Raises WSProtocolError, once, for what the other side must not send.
        """
        cdef int result = self.step()
        if result == STEP_NOTHING:
            return None
        if result == STEP_VIOLATION:
            raise WSProtocolError(self.receiver.violation_code, self.receiver.violation_text)
        payload = self.payload
        self.payload = None
        return self.opcode, payload, self.frame_finished, self.message_finished

    cdef int step(self) except -1:
        """Parse up to the next thing to tell."""
        if self.busy:
            raise RuntimeError(
                "a connection is read by one at a time: not by two threads, nor by an extension"
                " that it has just asked"
            )
        self.busy = True
        try:
            return self._step()
        finally:
            self.busy = False

    cdef int _step(self) except -1:
        cdef:
            int result
            unsigned int opcode
            unsigned char first
        while not self.over:
            result = self._next_part()
            if result == READ_MORE:
                return STEP_NOTHING
            opcode = self.first & 0x0F
            if result != READ_VIOLATION and self.begins:
                first = self.first
                if self.hooks is not None:
                    result = self._ask_header(opcode)
                    # These bits have been judged.
                    first &= 0x8F
                if result == READ_VIOLATION:
                    pass
                elif opcode >= CLOSE:
                    result = self.reader._check(self.receiver, first, opcode, self.frame_size)
                else:
                    result = self.reader.begin(self.receiver, first, opcode, self.frame_size)
            if result != READ_VIOLATION:
                if opcode >= CLOSE:
                    result = self._take_control(opcode)
                elif self.part_size or self.ends:
                    result = self._take_part()
                else:
                    # A header, and nothing behind it.
                    result = READ_MORE
            if result == READ_FRAME:
                return STEP_FRAME
            if result == READ_VIOLATION:
                self.over = True
                self.reader.drop()
                self._release()
                self.waiting.clear()
                return STEP_VIOLATION
        return STEP_NOTHING

    # Bytes to parts of frames

    cdef int _next_part(self) except -1:
        """The next part of a frame, as much as is here, unmasked. A control frame comes whole."""
        cdef:
            Receiver receiver = self.receiver
            Frame frame = self.frame
            HalfFrame half
            size_t available
            int result
        while True:
            available = <size_t>(receiver.end - receiver.pos)
            self.part_is_masked = False
            if self.left:
                if available:
                    self.part = receiver.pos
                    self.part_size = min(available, self.left)
                    receiver.pos += self.part_size
                    self.left -= self.part_size
                    self.begins = False
                    self.ends = self.left == 0
                    self._unmask()
                    return READ_FRAME
            elif available:
                if self.masked and self.chunk is not None and not self._is_large():
                    self._copy_rest()
                # Also when the frame is not filled, as the next lines have to know.
                frame.fin = False
                result = receiver.next_frame(frame)
                if (
                    result == READ_VIOLATION and self.hooks is not None and frame.fin
                    and frame.msg_type == CLOSE
                ):
                    # The payload of a CLOSE is judged when the extensions have seen it.
                    receiver.violation_code = 0
                    receiver.violation_text = None
                    result = READ_FRAME
                if result == READ_FRAME:
                    self.first = (
                        <unsigned char>frame.msg_type | frame.fin << 7 | frame.rsv1 << 6
                        | frame.rsv2 << 5 | frame.rsv3 << 4
                    )
                    self.part = frame.payload_ptr
                    self.part_size = self.frame_size = <size_t>frame.payload_size
                    self.begins = self.ends = True
                    if self.masked and self.chunk is not None:
                        self.part_is_masked = True
                        self.part_key = self.key
                if result != READ_MORE:
                    return result
                if receiver.peek(&half):
                    if half.opcode >= CLOSE:
                        if self.hooks is None and self.reader._check(
                            receiver, half.first, half.opcode, half.size
                        ) == READ_VIOLATION:
                            return READ_VIOLATION
                    else:
                        self.first = half.first
                        self.frame_size = half.size
                        self.part = half.payload
                        self.part_size = half.arrived
                        receiver.pos = receiver.end
                        self.left = half.size - half.arrived
                        self.key = half.key
                        self.begins = True
                        self.ends = False
                        self._unmask()
                        return READ_FRAME
            if not self._refill():
                return READ_MORE

    cdef int _unmask(self) noexcept:
        """The part at hand, of a frame that is not complete; but what is large stays masked."""
        cdef unsigned char* part = <unsigned char*>self.part
        if not self.masked:
            return 0
        if self.chunk is not None:
            self.part_is_masked = True
            self.part_key = self.key
        else:
            picows_mask(part, part, self.part_size, self.key)
        self.key = rotated_key(self.key, self.part_size)
        return 0

    cdef bint _is_large(self) noexcept:
        """Is it a large frame that begins here, in the caller's bytes? It stays masked."""
        cdef HalfFrame half
        if not self.receiver.peek(&half) or half.arrived < LARGE_FRAME:
            return False
        # The parser writes nothing to it, and refuses a control frame of that size.
        self.receiver.unmasked = half.size if half.arrived == half.size else 0
        self.key = half.key
        return True

    cdef int _refill(self) except -1:
        """Go on with what waits. Returns 0 when nothing does."""
        cdef:
            Receiver receiver = self.receiver
            Py_ssize_t rest_size = receiver.end - receiver.pos
            bytes rest = b""
            bytes data
        if rest_size:
            rest = PyBytes_FromStringAndSize(receiver.pos, rest_size)
        if not self.waiting:
            # Hold the rest, not all that it came with.
            if rest_size == 0 or receiver.pos != receiver.start:
                self._load(rest, b"")
            return 0
        data = self.waiting[0] if len(self.waiting) == 1 else b"".join(self.waiting)
        self.waiting.clear()
        self._load(rest, data)
        return 1

    cdef int _load(self, bytes rest, bytes data) except -1:
        """Put bytes under the parser, in place of those that are there."""
        cdef:
            Receiver receiver = self.receiver
            size_t rest_size = <size_t>PyBytes_GET_SIZE(rest)
            size_t size = rest_size + <size_t>PyBytes_GET_SIZE(data)
            char* start
        self._release()
        if size == 0:
            return 0
        if self.masked and (rest_size or size < LARGE_FRAME):
            self.block = _pool.take_body(size)
            start = self.block.data
            memcpy(start, PyBytes_AS_STRING(rest), rest_size)
            memcpy(start + rest_size, PyBytes_AS_STRING(data), size - rest_size)
        else:
            self.chunk = rest + data if rest_size else data
            start = PyBytes_AS_STRING(self.chunk)
        receiver.start = receiver.pos = start
        receiver.end = start + size
        return 0

    cdef int _copy_rest(self) except -1:
        """Go on in a copy, in which frames are unmasked."""
        cdef:
            Receiver receiver = self.receiver
            size_t size = <size_t>(receiver.end - receiver.pos)
            Block block = _pool.take_body(size)
        memcpy(block.data, receiver.pos, size)
        self._release()
        self.block = block
        receiver.start = receiver.pos = block.data
        receiver.end = block.data + size
        return 0

    cdef int _unmask_part(self) except -1:
        """Have the part at hand in memory of our own, unmasked."""
        cdef Block block = self.block
        if not self.part_is_masked:
            return 0
        if block is None or block.capacity < self.part_size:
            self.block = None
            block = _pool.take_body(self.part_size)
            self.block = block
        copy(block.data, self.part, self.part_size, True, self.part_key)
        self.part = block.data
        self.part_is_masked = False
        return 0

    cdef int _release(self) except -1:
        cdef Block block = self.block
        self.receiver.start = self.receiver.pos = self.receiver.end = NULL
        self.chunk = None
        if block is not None:
            self.block = None
            _pool.give_back_body(block)
        return 0

    # Parts to what is told

    cdef int _take_control(self, unsigned int opcode) except -1:
        cdef bytes payload
        if self.hooks is None:
            payload = PyBytes_FromStringAndSize(self.part, <Py_ssize_t>self.part_size)
        else:
            payload = self._run_hooks()
            if payload is None:
                return READ_VIOLATION
            if opcode == CLOSE:
                self.frame.payload_ptr = PyBytes_AS_STRING(payload)
                self.frame.payload_size = PyBytes_GET_SIZE(payload)
                if self.receiver._check_close(self.frame) == READ_VIOLATION:
                    return READ_VIOLATION
        if opcode == CLOSE:
            self.over = True
            self.trailing_data = b"".join([
                PyBytes_FromStringAndSize(
                    self.receiver.pos, self.receiver.end - self.receiver.pos
                ),
                *self.waiting,
            ])
            self.waiting.clear()
            self.reader.drop()
            self._release()
        self.opcode = opcode
        self.payload = payload
        self.frame_finished = self.message_finished = True
        return READ_FRAME

    cdef int _take_part(self) except -1:
        """A part of a data frame. READ_MORE: it was taken in."""
        cdef:
            MessageReader reader = self.reader
            const char* data = self.part
            size_t size = self.part_size
            bint is_last = self.ends and self.first & 0x80
            bytes made
            char* room
        if self.hooks is not None:
            made = self._run_hooks()
            if made is None:
                return READ_VIOLATION
            data = PyBytes_AS_STRING(made)
            size = <size_t>PyBytes_GET_SIZE(made)
            if size > reader.max_message_size - reader.size:
                return self.receiver.violate(
                    MESSAGE_TOO_BIG,
                    f"a message is over max_message_size of {reader.max_message_size}",
                )
        elif reader.compressed:
            self._unmask_part()
            return self._inflate(self.part, size, is_last)
        if not self.assemble or (is_last and reader.size == 0):
            return self._deliver(data, size, is_last)
        room = reader.make_room(_pool, size)
        copy(room, data, size, self.part_is_masked, self.part_key)
        reader.size += size
        if reader.msg_type == TEXT and reader.check_text(
            self.receiver, room, size, is_last
        ) == READ_VIOLATION:
            return READ_VIOLATION
        return self._deliver_body() if is_last else READ_MORE

    cdef int _inflate(self, const char* data, size_t size, bint is_last) except -1:
        """A part of a compressed message (RFC 7692 section 7.2.2)."""
        cdef:
            MessageReader reader = self.reader
            Block out
            size_t before = reader.size if self.assemble else 0
            size_t used = before
            size_t said = 0 if self.assemble else reader.size
            int result
        if self.assemble:
            if reader.body is None:
                reader.body = _pool.take_body()
            out = reader.body
        else:
            out = _pool.take_body()
        result = reader.inflater.inflate(
            out, &used, reader.max_inflated_size - said, data, size, is_last
        )
        if result == INFLATE_TOO_BIG:
            return self.receiver.violate(
                MESSAGE_TOO_BIG,
                f"a message inflates to more than {reader.max_inflated_size} bytes",
            )
        if result == INFLATE_CORRUPT:
            return self.receiver.violate(INVALID_TEXT, "a message is compressed wrongly")
        if not self.assemble:
            result = self._deliver(out.data, used, is_last)
            _pool.give_back_body(out)
            return result
        reader.size = used
        if reader.msg_type == TEXT and reader.check_text(
            self.receiver, out.data + before, used - before, is_last
        ) == READ_VIOLATION:
            return READ_VIOLATION
        return self._deliver_body() if is_last else READ_MORE

    cdef int _deliver_body(self) except -1:
        """The message that was gathered, and judged meanwhile."""
        cdef:
            Block body = self.reader.body
            Py_ssize_t size = <Py_ssize_t>self.reader.size
        self.opcode = <unsigned int>self.reader.msg_type
        if self.opcode == TEXT:
            self.payload = decode(body.data, <size_t>size)
        else:
            self.payload = PyBytes_FromStringAndSize(body.data, size)
        self.frame_finished = self.message_finished = True
        self.reader.body = None
        _pool.give_back_body(body)
        self.reader.end()
        return READ_FRAME

    cdef int _deliver(self, const char* data, size_t size, bint is_last) except -1:
        """Tell of a part; or of a message that is all here, which need not be gathered."""
        cdef MessageReader reader = self.reader
        self.opcode = <unsigned int>reader.msg_type
        if self.opcode != TEXT:
            self.payload = copied(data, size, self.part_is_masked, self.part_key)
        elif is_last and reader.size == 0:
            # Nothing of it came before: the decoder may judge it, too.
            try:
                self.payload = decode(data, size, self.part_is_masked, self.part_key)
            except UnicodeDecodeError:
                return self.receiver.violate(INVALID_TEXT, "a text is not UTF-8")
        else:
            if self.part_is_masked:
                self._unmask_part()
                data = self.part
            if reader.check_text(self.receiver, data, size, is_last) == READ_VIOLATION:
                return READ_VIOLATION
            self.payload = self._decode_part(data, size)
        self.frame_finished = self.ends
        self.message_finished = is_last
        if is_last:
            reader.end()
        else:
            reader.size += size
        return READ_FRAME

    cdef str _decode_part(self, const char* data, size_t size):
        """What is whole of a text that was judged up to here; the rest waits in `cut`."""
        cdef:
            str character = ""
            size_t missing
        if self.cut_size:
            missing = character_size(<unsigned char>self.cut[0]) - self.cut_size
            if size < missing:
                memcpy(self.cut + self.cut_size, data, size)
                self.cut_size += size
                return ""
            memcpy(self.cut + self.cut_size, data, missing)
            data += missing
            size -= missing
            character = decode(self.cut, self.cut_size + missing)
        self.cut_size = cut_character(data, size)
        size -= self.cut_size
        memcpy(self.cut, data + size, self.cut_size)
        return character + decode(data, size)

    # Extensions of users

    cdef int _ask_header(self, unsigned int opcode) except -1:
        """RFC 6455 section 5.2: a reserved bit must mean something to one of the extensions."""
        rsv = RsvBits(
            (self.first & 0x40) != 0, (self.first & 0x20) != 0, (self.first & 0x10) != 0
        )
        left_1, left_2, left_3 = rsv
        word = Opcode(opcode)
        for extension in self.hooks:
            taken = extension.frame_inbound_header(self.proto, word, rsv, self.frame_size)
            if isinstance(taken, CloseReason):
                return self._refuse(taken)
            taken_1, taken_2, taken_3 = taken
            left_1 = left_1 and not taken_1
            left_2 = left_2 and not taken_2
            left_3 = left_3 and not taken_3
        if left_1 or left_2 or left_3:
            return self.receiver.violate(PROTOCOL_ERROR, "a reserved bit is set")
        return READ_MORE

    cdef bytes _run_hooks(self):
        """What the extensions make of the part at hand; None where one refused it."""
        cdef:
            bint ends = self.ends
            bint fin = self.first & 0x80
        data = copied(self.part, self.part_size, self.part_is_masked, self.part_key)
        self.part_is_masked = False
        for extension in self.hooks:
            data = extension.frame_inbound_payload_data(self.proto, data)
            if isinstance(data, CloseReason):
                self._refuse(data)
                return None
        if ends:
            for extension in self.hooks:
                more = extension.frame_inbound_complete(self.proto, fin)
                if isinstance(more, CloseReason):
                    self._refuse(more)
                    return None
                if more is not None:
                    data += more
        return bytes(memoryview(data))

    cdef int _refuse(self, object reason) except -1:
        return self.receiver.violate(<unsigned int>reason, "an extension refuses a frame")
