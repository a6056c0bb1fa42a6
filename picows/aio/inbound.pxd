from picows.aio.outbound cimport Outbound
from picows.aio.settings cimport Settings
from picows.aio.transport cimport WSListener
from picows.wire.messages cimport MessageReader
from picows.wire.receiver cimport Frame, Receiver


cdef enum Phase:
    UPGRADING
    OPEN
    CLOSED


cdef class Inbound(Outbound):
    cdef:
        Settings settings
        Phase phase
        WSListener listener
        bint listener_is_python
        Receiver receiver
        unsigned long long frames
        # What makes messages of frames; None where the listener gets frames.
        MessageReader messages

        # A callback or a batch is running; connection_lost came inside one.
        bint in_callback
        bint lost_in_callback
        # No on_ws_frame for now, paused or about to resume; no on_ws_frame ever again.
        bint paused
        bint held
        bint deaf
        # The transport below does not read.
        bint paused_below
        # Server.shutdown: the peer's CLOSE ends the connection.
        bint closing_down

        # The listener was told to pause writing.
        bint pause_told
        # The newest PONG that the full queue below has no room for.
        bytes pending_pong

        # The AutoPing of this connection, or None; when bytes came last (seconds, monotonic);
        # whether frames are to be asked if they are its pong.
        object auto_ping
        public double last_heard
        bint pong_awaited
        # A frame that was about to be delivered when is_user_specific_pong paused reading.
        Frame waiting_frame
        # The RoundTrips, once one was measured.
        object roundtrips
        # How many of its PINGs were sent ahead of auto ping's last one.
        long long measured_before

        # The first exception of a callback, or a violation; for wait_disconnected on the client
        # side.
        object failure

    # Of the connection
    cdef int bytes_came(self, Py_ssize_t nbytes) except -1
    cdef int finish(self) except -1

    cdef int leave_callback(self) except -1
    cdef int drop_input(self) except -1
    cdef int work_off(self) except -1
    cdef int deliver(self) except -1
    cdef int deliver_waiting(self) except -1
    cdef bint control_frame(self, Frame frame) except? True
    cdef int send_pong_now(self, const char* payload, size_t size) except -1
    cdef bint is_measured_pong(self, Frame frame) except? True
    cdef bint is_awaited_pong(self, Frame frame) except? True
    cdef int stop_pings(self) except -1
    cdef int violated(self) except -1
    cdef int callback_failed(self, object exc, str where) except -1
    cdef int failed(self, object exc, str where) except -1
    cdef int remember(self, object exc, str where) except -1
    cdef int close_with(self, object code, object reason) except -1


cdef bint is_overridden_in_python(object listener) except? True
