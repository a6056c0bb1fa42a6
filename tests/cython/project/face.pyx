"""The same names by the short path, `picows`; and a call into a listener through its vtable."""

from picows cimport WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport


cdef class Counter(WSListener):
    cdef readonly int frames
    cdef readonly int pings
    cdef readonly bint writing_paused

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        self.frames += 1
        if frame.msg_type == WSMsgType.PING:
            self.pings += 1

    cpdef bint is_user_specific_pong(self, WSFrame frame) except? False:
        return False

    cpdef pause_writing(self):
        self.writing_paused = True

    cpdef resume_writing(self):
        self.writing_paused = False


def pause(WSListener listener):
    """As the engine calls it: by the static type."""
    listener.pause_writing()


def constants():
    return int(WSMsgType.BINARY), int(WSCloseCode.BAD_GATEWAY)
