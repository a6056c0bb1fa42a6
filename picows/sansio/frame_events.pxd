cdef class Event:
    pass


cdef class FrameEvent(Event):
    cdef tuple values(self)


cdef class Message(FrameEvent):
    cdef:
        readonly object data
        readonly bint frame_finished
        readonly bint message_finished


cdef class TextMessage(Message):
    pass


cdef class BytesMessage(Message):
    pass


cdef class Ping(FrameEvent):
    cdef readonly object payload


cdef class Pong(FrameEvent):
    cdef readonly object payload


cdef class CloseConnection(FrameEvent):
    cdef:
        readonly object code
        readonly object reason
