# cython: language_level=3
"""The Cython listener of the feed: counts frames and bytes, touches a byte of each payload.

Built by run.py against the picows of each environment.
"""

from picows.picows cimport WSFrame, WSListener, WSTransport


cdef class CythonFeedListener(WSListener):
    cdef public Py_ssize_t left
    cdef public Py_ssize_t received_bytes
    cdef public object done
    cdef unsigned char last_byte

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        self.received_bytes += frame.payload_size
        self.last_byte = <unsigned char>frame.payload_ptr[frame.payload_size - 1]
        self.left -= 1
        if self.left == 0:
            self.done.set_result(None)

    cpdef on_ws_disconnected(self, WSTransport transport):
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionResetError("the peer hung up"))
