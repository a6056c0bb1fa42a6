# Public to Cython users (re-exported by picows.pxd). Enum and classes are ABI: WSTransport has
# methods and no fields, and every method of WSListener that may be overridden is here. See docs on
# the Cython interface.

from picows.wire.frame cimport WSCloseCode, WSFrame, WSMsgType


cdef enum WSAutoPingStrategy:
    PING_WHEN_IDLE = 1
    PING_PERIODICALLY = 2


cdef class WSTransport:
    cpdef send(
        self, WSMsgType msg_type, message,
        bint fin=*, bint rsv1=*, bint rsv2=*, bint rsv3=*, compress=*
    )
    cpdef send_reuse_external_bytearray(
        self, WSMsgType msg_type, bytearray buffer, Py_ssize_t msg_offset,
        bint fin=*, bint rsv1=*, bint rsv2=*, bint rsv3=*
    )
    # Writes the header into the 14 bytes ahead of msg_ptr and masks in place. Needs the GIL.
    # Returns 1 when the frame is on its way, 0 when it is not sent.
    cdef int send_reuse_external_buffer(
        self, WSMsgType msg_type, char* msg_ptr, Py_ssize_t msg_size,
        bint fin=*, bint rsv1=*, bint rsv2=*, bint rsv3=*
    ) except -1
    cpdef send_ping(self, message=*)
    cpdef send_pong(self, message=*)
    cpdef send_close(self, close_code=*, close_message=*)
    cpdef flush(self)
    cpdef disconnect(self, bint graceful=*)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef notify_user_specific_pong_received(self)


cdef class WSListener:
    cpdef on_ws_connected(self, WSTransport transport)
    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame)
    cpdef on_ws_disconnected(self, WSTransport transport)
    cpdef send_user_specific_ping(self, WSTransport transport)
    cpdef bint is_user_specific_pong(self, WSFrame frame) except? False
    cpdef pause_writing(self)
    cpdef resume_writing(self)
