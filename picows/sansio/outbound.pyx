# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The sending half of a connection without I/O: payloads to frames.

Always holds: what is refused here has changed nothing; a frame that was made is to be sent, since
the compressor counts on it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from picows.errors import WSProtocolError
from picows.handshake.extension import CloseReason, Opcode, RsvBits

from picows.wire.buffers cimport Block, BufferPool
from picows.wire.deflate cimport Deflater
from picows.wire.frame cimport BINARY, CLOSE, CONTINUATION, TEXT, is_close_code_receivable
from picows.wire.octets cimport MaskKeyPool, picows_mask
from picows.wire.sender cimport cut_reason, first_byte, header_size, write_header

__all__ = ["Outbound"]


cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyUnicode_IS_ASCII(object text)


cdef enum:
    # RFC 6455 section 5.5
    MAX_CONTROL_SIZE = 125
    NO_STATUS_RECEIVED = 1005

# One each for the process: with the GIL nobody sees them in the middle of anything.
cdef BufferPool _pool = BufferPool()
cdef MaskKeyPool _mask_keys = MaskKeyPool()


@cython.final
cdef class Outbound:
    """What one connection says."""

    def __cinit__(
        self, bint client, Deflater deflater, size_t deflate_from, list hooks, object proto
    ):
        self.masked = client
        self.deflater = deflater
        self.deflate_from = deflate_from
        self.hooks = hooks
        self.proto = proto
        self.message = CONTINUATION

    cpdef bytes data_frame(self, data, bint fin):
        """
        The next frame of a message: of text for a str, of bytes for what is bytes-like.

        Raises TypeError for anything else, and where a message that began with the one goes on
        with the other; UnicodeEncodeError for half a surrogate pair.
        """
        cdef:
            Py_buffer octets
            Py_ssize_t size
            const char* text
            bytes frame
            unsigned int kind = TEXT if isinstance(data, str) else BINARY
        if self.message != CONTINUATION and self.message != kind:
            raise TypeError(
                f"a message of {'text' if self.message == TEXT else 'bytes'} goes on with the same,"
                f" not with {type(data).__name__}"
            )
        if kind == TEXT:
            if not PyUnicode_IS_ASCII(data):
                # The text itself would keep its UTF-8 for as long as it lives.
                data = (<str>data).encode("utf-8")
            else:
                text = PyUnicode_AsUTF8AndSize(data, &size)
                frame = self._frame(kind, text, <size_t>size, fin)
                self.message = CONTINUATION if fin else kind
                return frame
        try:
            PyObject_GetBuffer(data, &octets, PyBUF_SIMPLE)
        except TypeError:
            raise TypeError(
                f"the data of a message are str or bytes-like, not {type(data).__name__}"
            ) from None
        try:
            frame = self._frame(kind, <const char*>octets.buf, <size_t>octets.len, fin)
        finally:
            PyBuffer_Release(&octets)
        self.message = CONTINUATION if fin else kind
        return frame

    cpdef bytes control_frame(self, unsigned int opcode, payload):
        """
        A PING or a PONG. Raises ValueError for more than 125 bytes (RFC 6455 section 5.5),
        TypeError for what is not bytes-like.
        """
        cdef Py_buffer octets
        PyObject_GetBuffer(payload, &octets, PyBUF_SIMPLE)
        try:
            if octets.len > MAX_CONTROL_SIZE:
                raise ValueError(
                    f"a {Opcode(opcode).name} holds at most {MAX_CONTROL_SIZE} bytes,"
                    f" not {octets.len}"
                )
            return self._frame(opcode, <const char*>octets.buf, <size_t>octets.len, True)
        finally:
            PyBuffer_Release(&octets)

    cpdef bytes close_frame(self, code, reason):
        """
        A CLOSE (RFC 6455 section 5.5.1). `code` None or 1005: without a code; a `reason` of more
        than 123 bytes is cut.

        Raises WSProtocolError for a code that must not be sent and a reason without one, TypeError
        for other types.
        """
        cdef bytes payload = b""
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"the reason of a CLOSE is a str or None, not {type(reason).__name__}")
        if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
            raise TypeError(f"a close code is an int, not {type(code).__name__}")
        if code is None or code == NO_STATUS_RECEIVED:
            if reason:
                raise WSProtocolError(
                    CloseReason.PROTOCOL_ERROR, "a CLOSE without a code has no reason either"
                )
        elif not (1000 <= code <= 4999 and is_close_code_receivable(code)):
            # RFC 6455 section 7.4
            raise WSProtocolError(
                CloseReason.PROTOCOL_ERROR,
                f"close code {int(code)} must not be sent: use 1000 to 1003, 1007 to 1014, 3000 to"
                " 4999, or 1005 for a CLOSE without a code",
            )
        else:
            payload = int(code).to_bytes(2, "big") + cut_reason(reason or "")
        return self._frame(
            CLOSE, PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload), True
        )

    cdef bytes _frame(self, unsigned int opcode, const char* payload, size_t size, bint fin):
        """A frame that the rules allow; of a message, the first or a further one."""
        cdef:
            bint starts = opcode < CLOSE and self.message == CONTINUATION
            unsigned char first
        if opcode < CLOSE:
            if self.broken:
                raise RuntimeError("a message that failed to be compressed ends the connection")
            if not starts:
                opcode = CONTINUATION
        if self.hooks is not None:
            return self._run_hooks(
                opcode, PyBytes_FromStringAndSize(payload, <Py_ssize_t>size), fin
            )
        first = first_byte(opcode, fin, False, False, False)
        if opcode >= CLOSE or self.deflater is None:
            return self._build(first, payload, size)
        if starts:
            # A message is compressed as a whole, or not at all (RFC 7692 section 6).
            self.deflating = not fin or size >= self.deflate_from
            if self.deflating:
                first |= 0x40
        if not self.deflating:
            return self._build(first, payload, size)
        return self._deflated_frame(first, payload, size, fin)

    cdef bytes _deflated_frame(
        self, unsigned char first, const char* payload, size_t size, bint fin
    ):
        cdef:
            Block out
            size_t used
            bytes frame
        # zlib works without the GIL on much at a time, and on one thing at a time.
        if self.busy:
            raise RuntimeError("a connection is sent on by one thread at a time")
        self.busy = True
        out = _pool.take_body()
        try:
            used = self.deflater.deflate(out, payload, size, fin)
            frame = self._build(first, out.data, used)
        except BaseException:
            self.broken = True
            raise
        finally:
            self.busy = False
        _pool.give_back_body(out)
        return frame

    cdef bytes _build(self, unsigned char first, const char* payload, size_t size):
        cdef:
            size_t header = header_size(size, self.masked)
            bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(header + size))
            char* target = PyBytes_AS_STRING(frame)
            uint32_t key
        if not self.masked:
            write_header(target, first, size, False, 0)
            memcpy(target + header, payload, size)
            return frame
        # RFC 6455 section 5.3
        key = _mask_keys.next()
        write_header(target, first, size, True, key)
        picows_mask(
            <unsigned char*>target + header, <const unsigned char*>payload, size, key
        )
        return frame

    cdef bytes _run_hooks(self, unsigned int opcode, bytes payload, bint fin):
        """What the extensions of users make of a frame, the last one first."""
        word = Opcode(opcode)
        rsv = RsvBits(False, False, False)
        data = payload
        try:
            for extension in reversed(self.hooks):
                rsv, data = extension.frame_outbound(self.proto, word, rsv, data, fin)
            made = bytes(memoryview(data))
            return self._build(
                first_byte(opcode, fin, rsv[0], rsv[1], rsv[2]),
                PyBytes_AS_STRING(made),
                <size_t>PyBytes_GET_SIZE(made),
            )
        except BaseException:
            # One of them has made something of it, which the other side's half will never see.
            if opcode < CLOSE and data is not payload:
                self.broken = True
            raise
