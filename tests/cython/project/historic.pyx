"""A user's listeners by the historic path, `picows.picows`."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy

from picows.picows cimport WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

cdef enum:
    HEADER_SPACE = 14
    CAPACITY = 70000


cdef class Echo(WSListener):
    """Sends every frame back out of its own memory."""

    cdef readonly int frames
    cdef char memory[HEADER_SPACE + CAPACITY]

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        self.frames += 1
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.GOING_AWAY, b"bye")
            transport.disconnect()
            return
        assert frame.payload_size <= CAPACITY
        cdef char* payload = self.memory + HEADER_SPACE
        memcpy(payload, frame.payload_ptr, frame.payload_size)
        transport.send_reuse_external_buffer(
            WSMsgType.BINARY, payload, frame.payload_size, True, False, False, False
        )


cdef class Collect(WSListener):
    """A client's listener; keeps the payloads and reads the bytes that are promised behind them."""

    cdef readonly list payloads
    cdef readonly object close_code
    cdef readonly int padding_sum
    cdef readonly list events

    def __init__(self):
        self.payloads = []
        self.events = []
        self.close_code = None

    cpdef on_ws_connected(self, WSTransport transport):
        self.events.append("connected")

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.events.append("disconnected")

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        cdef Py_ssize_t i
        for i in range(64):
            self.padding_sum += frame.payload_ptr[frame.payload_size + i] & 1
        if frame.msg_type == WSMsgType.CLOSE:
            self.close_code = frame.get_close_code()
            transport.disconnect()
        else:
            self.payloads.append(
                PyBytes_FromStringAndSize(frame.payload_ptr, frame.payload_size)
            )
