# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames to messages (RFC 6455 section 5.4): the order of fragments, sizes and counts, UTF-8; and
what is compressed, inflated.

Always holds:

* What a message may gather is bounded in bytes and in fragments before it is gathered.
* Text is judged as its bytes arrive, also inside a frame that is not complete yet; each byte once.
* An unfragmented message is not copied.
"""

cimport cython
from libc.string cimport memcpy

from picows.wire.buffers cimport Block, BufferPool
from picows.wire.deflate cimport INFLATE_CORRUPT, INFLATE_TOO_BIG, Inflater
from picows.wire.frame cimport (
    CLOSE,
    CONTINUATION,
    INVALID_TEXT,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    TEXT,
    WSMsgType,
    msg_type_object,
)
from picows.wire.octets cimport picows_utf8_done, picows_utf8_feed, picows_utf8_init
from picows.wire.receiver cimport (
    READ_FRAME,
    READ_MORE,
    READ_PART,
    READ_VIOLATION,
    Frame,
    HalfFrame,
    Receiver,
)


@cython.final
cdef class MessageReader:
    """What one connection makes of its frames, where it asked for more than frames."""

    def __cinit__(
        self, bint assemble, size_t max_message_size, size_t max_fragments, Inflater inflater,
        size_t max_inflated_size
    ):
        self.assemble = assemble
        self.max_message_size = max_message_size
        self.max_fragments = max_fragments
        self.inflater = inflater
        self.max_inflated_size = max_inflated_size
        if assemble:
            self.max_inflated_size = min(max_inflated_size, max_message_size)
        self.msg_type = CONTINUATION
        picows_utf8_init(&self.utf8)

    cdef int take(self, Receiver receiver, Frame frame) except -1:
        """
        The next frame. READ_FRAME: `frame` is a message now, or an inflated or a control frame;
        READ_PART: it was taken in.
        """
        cdef:
            unsigned int opcode = <unsigned int>frame.msg_type
            size_t size = <size_t>frame.payload_size
            unsigned char first = (
                <unsigned char>opcode | frame.fin << 7 | frame.rsv1 << 6 | frame.rsv2 << 5
                | frame.rsv3 << 4
            )
        if self._check(receiver, first, opcode, size) == READ_VIOLATION:
            return READ_VIOLATION
        if opcode >= CLOSE:
            return READ_FRAME
        if opcode != CONTINUATION:
            self.msg_type = <int>opcode
            self.compressed = frame.rsv1
        self.fragments += 1
        if self.compressed:
            if self._inflate(receiver, frame) == READ_VIOLATION:
                return READ_VIOLATION
        elif self.assemble:
            if self.msg_type == TEXT and self._check_text(
                receiver, frame.payload_ptr + frame.checked, size - frame.checked
            ) == READ_VIOLATION:
                return READ_VIOLATION
            if not frame.fin or self.fragments > 1:
                memcpy(self.make_room(receiver.pool, size), frame.payload_ptr, size)
                self.size += size
        if self.assemble:
            if not frame.fin:
                return READ_PART
            # RFC 6455 section 8.1
            if self.msg_type == TEXT and not picows_utf8_done(&self.utf8):
                return receiver.violate(INVALID_TEXT, "a text ends inside a character")
            frame.msg_type = <WSMsgType>self.msg_type
        if self.body is not None:
            frame.rsv1 = False
            frame.payload_ptr = self.body.data
            frame.payload_size = <Py_ssize_t>self.size
            # The frame owns the body until `leave`.
            frame.block = self.body
            self.body = None
            self.size = 0
        if frame.fin:
            self.msg_type = CONTINUATION
            self.fragments = 0
            picows_utf8_init(&self.utf8)
        return READ_FRAME

    cdef int leave(self, Receiver receiver, Frame frame) except -1:
        """The callback is over, and nobody kept `frame`."""
        cdef Block body = frame.block
        if body is not None:
            frame.block = None
            receiver.pool.give_back_body(body)
        return 0

    cdef int drop(self) noexcept:
        """Nothing more will be delivered."""
        self.body = None
        return 0

    cdef int look_ahead(self, Receiver receiver) except -1:
        """Judge the frame of which only a part has arrived by that part."""
        cdef:
            HalfFrame half
            size_t arrived
            size_t new
        if not receiver.peek(&half):
            return READ_MORE
        if self._check(receiver, half.first, half.opcode, half.size) == READ_VIOLATION:
            return READ_VIOLATION
        if (
            not self.assemble or half.first & 0x40
            or self.compressed and half.opcode == CONTINUATION
        ):
            # What is compressed is judged as it is inflated.
            return READ_MORE
        if half.opcode == TEXT or (half.opcode == CONTINUATION and self.msg_type == TEXT):
            arrived = receiver.unmask_half(&half)
            new = arrived - half.checked
            return self._check_text(receiver, half.payload + half.checked, new)
        return READ_MORE

    # For a reader that takes payloads in parts, as they arrive. It keeps `size` itself.

    cdef int begin(
        self, Receiver receiver, unsigned char first, unsigned int opcode, size_t size
    ) except -1:
        """A data frame of `size` bytes begins. READ_VIOLATION: it must not."""
        if self._check(receiver, first, opcode, size) == READ_VIOLATION:
            return READ_VIOLATION
        if opcode != CONTINUATION:
            self.msg_type = <int>opcode
            self.compressed = (first & 0x40) != 0
        self.fragments += 1
        return READ_MORE

    cdef char* make_room(self, BufferPool pool, size_t size) except NULL:
        """Where `size` more bytes of the message go. _check has bounded the sum."""
        cdef size_t needed = self.size + size
        if self.body is None:
            self.body = pool.take_body(needed)
        elif needed > self.body.capacity:
            self.body.grow(
                self.size, min(max(needed, 2 * self.body.capacity), self.max_message_size)
            )
        return self.body.data + self.size

    cdef int check_text(
        self, Receiver receiver, const char* text, size_t size, bint is_last
    ) except -1:
        """Judge a part of a text; `is_last`: nothing of it follows."""
        if self._check_text(receiver, text, size) == READ_VIOLATION:
            return READ_VIOLATION
        # RFC 6455 section 8.1
        if is_last and not picows_utf8_done(&self.utf8):
            return receiver.violate(INVALID_TEXT, "a text ends inside a character")
        return READ_MORE

    cdef int end(self) noexcept:
        """The message is complete."""
        self.msg_type = CONTINUATION
        self.fragments = 0
        self.size = 0
        picows_utf8_init(&self.utf8)
        return 0

    cdef int _check(
        self, Receiver receiver, unsigned char first, unsigned int opcode, size_t size
    ) except -1:
        """What a header alone can break. Changes nothing, so that it may be asked again."""
        # RFC 6455 section 5.2: no extension was agreed on that would mean something by them; RFC
        # 7692 section 6: but for the first one, with the first frame of a message.
        if first & 0x70 and (
            first & 0x30 or self.inflater is None or opcode == CONTINUATION or opcode >= CLOSE
        ):
            return receiver.violate(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= CLOSE:
            return READ_MORE
        # RFC 6455 section 5.4
        if opcode == CONTINUATION:
            if self.msg_type == CONTINUATION:
                return receiver.violate(PROTOCOL_ERROR, "a continuation continues no message")
        elif self.msg_type != CONTINUATION:
            return receiver.violate(
                PROTOCOL_ERROR,
                f"a {msg_type_object(<WSMsgType>opcode).name} frame comes inside a fragmented"
                " message",
            )
        if not self.assemble:
            return READ_MORE
        if (
            size > self.max_message_size - self.size
            and not (first & 0x40 or self.compressed and opcode == CONTINUATION)
        ):
            return receiver.violate(
                MESSAGE_TOO_BIG,
                f"a message of at least {self.size + size} bytes is over max_message_size of"
                f" {self.max_message_size}",
            )
        if self.fragments >= self.max_fragments:
            return receiver.violate(
                MESSAGE_TOO_BIG, f"a message has more than {self.max_fragments} fragments"
            )
        return READ_MORE

    cdef int _check_text(self, Receiver receiver, const char* text, size_t size) except -1:
        """RFC 6455 section 8.1, up to the last byte that is here."""
        if size and picows_utf8_feed(&self.utf8, <const unsigned char*>text, size) < 0:
            return receiver.violate(INVALID_TEXT, "a text is not UTF-8")
        return READ_MORE

    cdef int _inflate(self, Receiver receiver, Frame frame) except -1:
        """Append to the body what the payload inflates to."""
        cdef:
            size_t before = self.size
            int result
        if self.body is None:
            self.body = receiver.pool.take_body()
        result = self.inflater.inflate(
            self.body, &self.size, self.max_inflated_size, frame.payload_ptr,
            <size_t>frame.payload_size, frame.fin
        )
        if result == INFLATE_TOO_BIG:
            return receiver.violate(
                MESSAGE_TOO_BIG,
                f"a message inflates to more than {self.max_inflated_size} bytes",
            )
        if result == INFLATE_CORRUPT:
            return receiver.violate(INVALID_TEXT, "a message is compressed wrongly")
        if self.assemble and self.msg_type == TEXT:
            return self._check_text(receiver, self.body.data + before, self.size - before)
        return READ_MORE
