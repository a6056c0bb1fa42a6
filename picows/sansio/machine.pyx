# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An open connection without I/O: frames to events, events to frames, and its state.

Always holds: the state changes when an event is told, not when its bytes come; so what was received
before a CLOSE can be answered before the CLOSE is looked at.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8

from picows.errors import WSProtocolError
from picows.handshake.extension import CloseReason
from picows.sansio.utilities import LocalProtocolError

from picows.sansio.frame_events cimport (
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    TextMessage,
)
from picows.sansio.inbound cimport STEP_FRAME, STEP_NOTHING, Inbound
from picows.sansio.outbound cimport Outbound
from picows.wire.frame cimport BINARY, PING, PONG, TEXT

__all__ = ["Machine"]


cdef enum:
    # The values of ConnectionState.
    OPEN = 1
    REMOTE_CLOSING = 2
    LOCAL_CLOSING = 3
    CLOSED = 4

cdef tuple _STATE_NAMES = ("CONNECTING", "OPEN", "REMOTE_CLOSING", "LOCAL_CLOSING", "CLOSED")
cdef dict _close_reasons = {int(member): member for member in CloseReason}


@cython.final
cdef class Machine:
    """
    The state machine. Iterating over it tells what has come since, as far as it was received.
    """

    cdef:
        Inbound inbound
        Outbound outbound
        readonly int state
        # The stream has ended, which is told behind all that came before.
        bint ended

    def __cinit__(self, Inbound inbound not None, Outbound outbound not None):
        self.inbound = inbound
        self.outbound = outbound
        self.state = OPEN

    def receive_data(self, data):
        """Bytes have come; None: the stream has ended. Raises LocalProtocolError once closed."""
        if data is None:
            # RFC 6455 section 7.1.5
            self.ended = True
            self.state = CLOSED
            return
        if self.state == CLOSED:
            raise LocalProtocolError("Connection already closed.")
        self.inbound.receive(data)

    def send(self, event):
        """
        The bytes of an event. Raises LocalProtocolError for one that cannot be sent now or at all.
        """
        if isinstance(event, Message):
            if self.state != OPEN:
                raise self._cannot_send(event)
            return self.outbound.data_frame(
                (<Message>event).data, (<Message>event).message_finished
            )
        if isinstance(event, Ping):
            if self.state != OPEN:
                raise self._cannot_send(event)
            return self.outbound.control_frame(PING, (<Ping>event).payload)
        if isinstance(event, Pong):
            if self.state != OPEN:
                raise self._cannot_send(event)
            return self.outbound.control_frame(PONG, (<Pong>event).payload)
        if isinstance(event, CloseConnection):
            return self._send_close(event)
        raise self._cannot_send(event)

    cdef bytes _send_close(self, CloseConnection event):
        cdef bytes frame
        if self.state != OPEN and self.state != REMOTE_CLOSING:
            raise self._cannot_send(event)
        try:
            frame = self.outbound.close_frame(event.code, event.reason)
        except WSProtocolError as exc:
            raise LocalProtocolError(str(exc)) from None
        self.state = CLOSED if self.state == REMOTE_CLOSING else LOCAL_CLOSING
        return frame

    cdef object _cannot_send(self, event):
        return LocalProtocolError(
            f"Event {event} cannot be sent in state ConnectionState.{_STATE_NAMES[self.state]}."
        )

    @property
    def trailing_data(self):
        return self.inbound.trailing_data

    def __iter__(self):
        return self

    def __next__(self):
        cdef:
            Inbound inbound = self.inbound
            Message message
            Ping ping
            Pong pong
            int result = inbound.step()
        if result == STEP_FRAME:
            if inbound.opcode == TEXT:
                message = TextMessage.__new__(TextMessage)
            elif inbound.opcode == BINARY:
                message = BytesMessage.__new__(BytesMessage)
            elif inbound.opcode == PING:
                ping = Ping.__new__(Ping)
                ping.payload = inbound.payload
                inbound.payload = None
                return ping
            elif inbound.opcode == PONG:
                pong = Pong.__new__(Pong)
                pong.payload = inbound.payload
                inbound.payload = None
                return pong
            else:
                return self._close_received()
            message.data = inbound.payload
            inbound.payload = None
            message.frame_finished = inbound.frame_finished
            message.message_finished = inbound.message_finished
            return message
        if result == STEP_NOTHING:
            if not self.ended:
                raise StopIteration
            self.ended = False
            return CloseConnection(CloseReason.ABNORMAL_CLOSURE, None)
        # What the other side must not send: the code and the reason to close with.
        return CloseConnection(
            _close_reasons[inbound.receiver.violation_code], inbound.receiver.violation_text
        )

    cdef object _close_received(self):
        """RFC 6455 section 5.5.1; what stands in it has been checked."""
        cdef:
            bytes payload = self.inbound.payload
            const unsigned char* octets = <const unsigned char*>PyBytes_AS_STRING(payload)
            Py_ssize_t size = PyBytes_GET_SIZE(payload)
            object code = CloseReason.NO_STATUS_RCVD
            str reason = ""
        self.inbound.payload = None
        if size:
            code = octets[0] << 8 | octets[1]
            code = _close_reasons.get(code, code)
            reason = PyUnicode_DecodeUTF8(<const char*>octets + 2, size - 2, NULL)
        if self.state == OPEN:
            self.state = REMOTE_CLOSING
        elif self.state == LOCAL_CLOSING:
            self.state = CLOSED
        return CloseConnection(code, reason)
