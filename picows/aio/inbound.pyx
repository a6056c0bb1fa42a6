# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The reading half of a connection: frames to callbacks, and what becomes of those that fail.

Always holds:

* Frames are delivered one after the other, each before the next is parsed, never inside another
  callback of the same connection (`in_callback`); what a re-entered loop brings meanwhile waits.
* No on_ws_frame while `held` (paused) and none once `deaf`: after disconnect, a CLOSE (RFC 6455
  section 1.4) or a violation.
* No exception of a callback reaches the transport below, but KeyboardInterrupt and SystemExit.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t

from picows.aio.loop_state cimport LoopState
from picows.aio.outbound cimport Outbound
from picows.aio.transport cimport WSListener
from picows.aio.writer cimport flush_gathered
from picows.wire.frame cimport (
    CLOSE,
    GOING_AWAY,
    INTERNAL_ERROR,
    PING,
    PONG,
    is_close_code_sendable,
)
from picows.wire.messages cimport MessageReader
from picows.wire.receiver cimport (
    READ_FRAME,
    READ_MORE,
    READ_PART,
    READ_VIOLATION,
    Frame,
    Receiver,
)
from picows.wire.sender cimport cut_reason, first_byte

from picows.aio.close_handshake import CloseFrame
from picows.aio.keepalive import RoundTrips
from picows.aio.logs import PICOWS_DEBUG_LL
from picows.errors import WSProtocolError

__all__ = ["Inbound"]


cdef extern from "Python.h":
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    object PyObject_VectorcallMethod(object name, PyObject** args, size_t nargsf, PyObject* kwnames)


cdef extern from "socket_calls.h":
    size_t picows_socket_unacknowledged(int fd)


cdef bint is_overridden_in_python(listener) except? True:
    """
    Is on_ws_frame a Python override? A Cython one is called through the vtable instead.

    A cdef class with virtual methods carries __pyx_vtable__, so what stands before the first of
    them is Python.
    """
    # Put on the instance. Asked this way, because looking into __dict__ would make CPython build
    # one and lose the fast access to the listener's attributes.
    if getattr(listener.on_ws_frame, "__self__", None) is not listener:
        return True
    for cls in type(listener).__mro__:
        if "__pyx_vtable__" in cls.__dict__:
            return False
        if "on_ws_frame" in cls.__dict__:
            return True
    return False


def _raise(exc):
    raise exc


cdef class Inbound(Outbound):

    # Frames

    cdef int bytes_came(self, Py_ssize_t nbytes) except -1:
        """So many bytes were read into the receiver's buffer."""
        raise NotImplementedError

    cdef int finish(self) except -1:
        """The transport below is gone."""
        raise NotImplementedError

    cdef int leave_callback(self) except -1:
        self.in_callback = False
        if self.lost_in_callback:
            self.lost_in_callback = False
            self.finish()
        return 0

    cdef int drop_input(self) except -1:
        """Nothing more will be delivered: neither frames nor half a message stay."""
        self.receiver.drop()
        if self.messages is not None:
            self.messages.drop()
        return 0

    cdef int work_off(self) except -1:
        """Deliver the frames of the open batch, and close it whatever happens."""
        cdef:
            LoopState state = self.state
            # A callback may make the loop read another connection.
            void* outer = state.reader
        self.in_callback = True
        state.reader = <void*>self
        try:
            self.deliver()
            if self.deaf:
                self.drop_input()
            self.receiver.end_batch(self.held)
        except BaseException:
            # No exception of a callback, but of what is between them: no memory, Ctrl-C, a logging
            # handler. The loop gets it, and closes the transport. The shared buffer is not ours.
            self.deaf = True
            self.drop_input()
            self.receiver.end_batch(False)
            raise
        finally:
            state.reader = outer
            state.gathering = False
            try:
                if self.gathered_size:
                    self.flush_outbox()
            except OSError as exc:
                self.logger.log(PICOWS_DEBUG_LL, "writing failed: %s", exc)
            finally:
                try:
                    if state.gatherers is not None:
                        flush_gathered(state)
                finally:
                    self.leave_callback()
        return 0

    cdef int deliver(self) except -1:
        cdef:
            Receiver receiver = self.receiver
            MessageReader messages = self.messages
            WSListener listener = self.listener
            Frame frame = receiver.take_frame()
            LoopState state = self.state
            bint calling = False
            int result = READ_MORE
            PyObject* args[4]
        failure = None
        fatal = None
        args[1] = <PyObject*>listener
        args[2] = <PyObject*>self
        while True:
            # One `try` for many frames: entering it costs as much as parsing a frame.
            try:
                while not (self.deaf or self.held):
                    result = receiver.next_frame(frame)
                    if messages is not None and result == READ_FRAME:
                        result = messages.take(receiver, frame)
                        if result == READ_PART:
                            continue
                    if result != READ_FRAME:
                        if result == READ_MORE and receiver.refill():
                            continue
                        break
                    self.frames += 1
                    state.gathering = not frame.last_in_buffer
                    if self.log_frames:
                        self.logger.log(PICOWS_DEBUG_LL, "< %s", frame)
                    if <int>frame.msg_type >= CLOSE and self.control_frame(frame):
                        pass
                    elif self.pong_awaited and self.is_awaited_pong(frame):
                        pass
                    elif self.listener_is_python:
                        calling = True
                        args[3] = <PyObject*>frame
                        PyObject_VectorcallMethod(
                            "on_ws_frame", args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL
                        )
                    else:
                        calling = True
                        listener.on_ws_frame(self, frame)
                    calling = False
                    if receiver.is_kept(frame):
                        receiver.keep_frame(frame)
                        frame = receiver.take_frame()
                    elif frame.block is not None:
                        messages.leave(receiver, frame)
                    if self.close_received is not None:
                        self.deaf = True
            except BaseException as exc:
                if not calling:
                    # Of another callback, a logging handler, or for want of memory.
                    if receiver.is_kept(frame):
                        receiver.keep_frame(frame)
                    raise
                failure = exc
            if failure is None:
                break
            calling = False
            if isinstance(failure, (KeyboardInterrupt, SystemExit)):
                fatal = failure
            if self.settings.disconnect_on_exception or fatal is not None:
                self.failed(failure, "on_ws_frame")
            else:
                self.logger.error("exception in on_ws_frame", exc_info=failure)
            failure = None
            if self.close_received is not None:
                self.deaf = True
            # The traceback holds the frame, as long as somebody holds the exception.
            if receiver.is_kept(frame):
                receiver.keep_frame(frame)
                frame = receiver.take_frame()
            elif frame.block is not None:
                messages.leave(receiver, frame)
        if messages is not None and result == READ_MORE and not (self.deaf or self.held):
            result = messages.look_ahead(receiver)
        state.gathering = False
        if result == READ_VIOLATION and not self.deaf:
            self.violated()
        if self.closing_down and self.close_received is not None:
            self.disconnect()
        receiver.leave_frame(frame)
        if fatal is not None:
            raise fatal
        return 0

    cdef int deliver_waiting(self) except -1:
        """The frame that waits alone: is_user_specific_pong has paused reading."""
        cdef Frame frame = self.waiting_frame
        if frame is None or self.deaf:
            return 0
        self.waiting_frame = None
        self.in_callback = True
        try:
            self.listener.on_ws_frame(self, frame)
        except BaseException as exc:
            is_fatal = isinstance(exc, (KeyboardInterrupt, SystemExit))
            if self.settings.disconnect_on_exception or is_fatal:
                self.callback_failed(exc, "on_ws_frame")
            else:
                self.logger.error("exception in on_ws_frame", exc_info=exc)
        finally:
            self.leave_callback()
        return 0

    cdef bint control_frame(self, Frame frame) except? True:
        """
        What a control frame means to the connection itself. True: the listener does not see it.
        """
        if frame.msg_type == PING and self.settings.enable_auto_pong:
            # RFC 6455 section 5.5.3: answering the most recent PING alone is enough.
            if self.writing_paused:
                self.pending_pong = frame.get_payload_as_bytes()
            else:
                self.send_pong_now(frame.payload_ptr, <size_t>frame.payload_size)
            return True
        if frame.msg_type == PONG:
            return self.roundtrips is not None and self.is_measured_pong(frame)
        if frame.msg_type == CLOSE:
            self.close_received = CloseFrame(frame.get_close_code(), frame.get_close_reason())
            if self.roundtrips is not None:
                # No PONG is taken in any more.
                self.roundtrips.fail()
        return False

    cdef int send_pong_now(self, const char* payload, size_t size) except -1:
        if not self.sendable:
            return 0
        try:
            self.send_frame(first_byte(PONG, True, False, False, False), payload, size, None)
        except OSError as exc:
            self.logger.log(PICOWS_DEBUG_LL, "writing failed: %s", exc)
        return 0

    # Auto ping and round-trip times: what AutoPing and RoundTrips call, and who calls them

    @property
    def can_send(self):
        """Does a send go out?"""
        return bool(self.sendable)

    @property
    def frames_received(self):
        """How many frames have come, whole."""
        return self.frames

    @property
    def is_frame_under_way(self):
        """Is there a frame that has not arrived as a whole?"""
        return self.receiver.own is not None and self.receiver.own_end > self.receiver.own_start

    @property
    def bytes_sent(self):
        """Bytes that were sent or queued since the upgrade."""
        return self.sent

    @property
    def bytes_taken(self):
        """
        How many of these the peer's machine has, about: TLS adds to them. It moves as long as the
        peer reads what waits.
        """
        cdef size_t waiting = self.bytes_queued()
        sock = self.underlying.get_extra_info("socket")
        if sock is not None:
            waiting += picows_socket_unacknowledged(sock.fileno())
        return <long long>self.sent - <long long>waiting

    def send_auto_ping(self):
        """It is time for a ping. After a CLOSE was sent none goes out; life is judged all the same.
        """
        if self.phase != OPEN or not self.sendable:
            return
        self.pong_awaited = True
        self.measured_before = 0 if self.roundtrips is None else self.roundtrips.sent
        self.in_callback = True
        try:
            self.listener.send_user_specific_ping(self)
        except OSError as exc:
            if not self.disconnected:
                self.callback_failed(exc, "send_user_specific_ping")
        except BaseException as exc:
            self.callback_failed(exc, "send_user_specific_ping")
        finally:
            self.leave_callback()
        if self.phase == OPEN and not self.deaf and not self.held and self.receiver.begin_held():
            self.work_off()

    def give_up_peer(self, why):
        """The peer shows no life."""
        self.logger.info("disconnecting: %s", why)
        if self.sendable:
            try:
                self.send_close(GOING_AWAY, why)
            except OSError:
                pass
        self.disconnect(False)

    cdef bint is_awaited_pong(self, Frame frame) except? True:
        """Is `frame` what auto ping waits for? Then the listener does not see it."""
        cdef bint is_pong
        if frame.msg_type == CLOSE:
            return False
        try:
            is_pong = self.listener.is_user_specific_pong(frame)
        except BaseException as exc:
            self.callback_failed(exc, "is_user_specific_pong")
            return True
        if is_pong:
            if frame.msg_type == PONG and self.roundtrips is not None:
                self.roundtrips.answered_before(self.measured_before)
            self.notify_user_specific_pong_received()
        elif self.held:
            # The listener has just paused: this frame waits, too.
            self.waiting_frame = frame
        # Where it has disconnected, it sees nothing any more.
        return is_pong or self.held or self.deaf

    cdef bint is_measured_pong(self, Frame frame) except? True:
        """Is `frame` what measure_roundtrip_time waits for? Then the listener does not see it."""
        cdef long long number = self.roundtrips.pong_received(frame.get_payload_as_bytes())
        if number < 0:
            return False
        if self.pong_awaited and number >= self.measured_before:
            # It may stand for the answer to an earlier PING, too.
            self.is_awaited_pong(frame)
            self.waiting_frame = None
        return True

    cpdef notify_user_specific_pong_received(self):
        self.check_thread()
        if self.pong_awaited:
            self.pong_awaited = False
            self.auto_ping.pong_received()

    async def measure_roundtrip_time(self, rounds):
        self.check_thread()
        if isinstance(rounds, bool) or not isinstance(rounds, int):
            raise TypeError(f"rounds must be an int, not {rounds!r}")
        if rounds < 1:
            raise ValueError("rounds must be at least 1")
        if self.roundtrips is None:
            self.roundtrips = RoundTrips()
        times = []
        for _ in range(rounds):
            times.append(await self.roundtrips.measure(self, self.loop))
        return times

    cdef int stop_pings(self) except -1:
        self.pong_awaited = False
        if self.auto_ping is not None:
            self.auto_ping.stop()
            self.auto_ping = None
        if self.roundtrips is not None:
            self.roundtrips.fail()
        return 0

    # Back-pressure on the peer

    cpdef pause_reading(self):
        self.check_thread()
        if self.paused or self.phase != OPEN or self.deaf or self.disconnected:
            return
        self.paused = True
        self.held = True
        if self.auto_ping is not None:
            self.auto_ping.freeze()
        if self.in_callback and self.secure and self.transport_copies:
            # aiofastnet 1.2, paused inside buffer_updated, keeps what it has decrypted until the
            # peer sends again. What it brings instead waits with the rest.
            self.loop.call_soon(self._pause_below)
        else:
            self._pause_below()

    def _pause_below(self):
        if self.paused and not self.paused_below and not self.disconnected:
            self.paused_below = True
            self.underlying.pause_reading()

    cpdef resume_reading(self):
        self.check_thread()
        if not self.paused or self.phase != OPEN:
            return
        self.paused = False
        self.loop.call_soon(self._resume)

    def _resume(self):
        if self.paused or not self.held or self.phase != OPEN:
            return
        self.held = False
        self.deliver_waiting()
        if not (self.deaf or self.held) and self.receiver.begin_held():
            self.work_off()
        if self.phase == OPEN and not self.paused and not self.disconnected:
            if self.paused_below:
                self.paused_below = False
                self.underlying.resume_reading()
            if self.auto_ping is not None:
                self.auto_ping.thaw()

    # Back-pressure of the peer

    def pause_writing(self):
        cdef bint nested = self.in_flow_control
        self.writing_paused = True
        if self.phase != OPEN:
            return
        self.in_flow_control = True
        self.pause_told = True
        try:
            self.listener.pause_writing()
        except BaseException as exc:
            self.callback_failed(exc, "pause_writing")
        finally:
            self.in_flow_control = nested

    def resume_writing(self):
        cdef:
            bytes pong = self.pending_pong
            bint nested = self.in_flow_control
        self.writing_paused = False
        if self.phase != OPEN:
            return
        self.in_flow_control = True
        try:
            if pong is not None:
                self.pending_pong = None
                self.send_pong_now(<const char*>pong, <size_t>len(pong))
            if self.pause_told:
                self.pause_told = False
                self.listener.resume_writing()
        except BaseException as exc:
            self.callback_failed(exc, "resume_writing")
        finally:
            self.in_flow_control = nested

    # Failures

    cdef int violated(self) except -1:
        """The peer broke RFC 6455: say so and close (section 7.1.7)."""
        cdef unsigned int code = self.receiver.violation_code
        text = self.receiver.violation_text
        self.deaf = True
        self.logger.info("the peer violated the protocol: %s (%d)", text, code)
        if self.failure is None:
            self.failure = (WSProtocolError(code, text), None)
        return self.close_with(code, text)

    cdef int callback_failed(self, object exc, str where) except -1:
        """A callback other than on_ws_frame raised."""
        self.failed(exc, where)
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            if not self.in_flow_control:
                raise exc
            # Not through the transport, which is writing.
            self.loop.call_soon(_raise, exc)
        return 0

    cdef int failed(self, object exc, str where) except -1:
        """A callback raised, and that ends the connection."""
        self.remember(exc, where)
        if isinstance(exc, WSProtocolError):
            # None in a subclass that never called this one's __init__.
            code = getattr(exc, "code", None)
            if isinstance(code, int) and 0 < code < 5000 and is_close_code_sendable(code):
                try:
                    reason = cut_reason(str(exc))
                except Exception:
                    # A subclass whose text cannot be had.
                    reason = b""
                return self.close_with(code, reason)
        # Nothing of the exception's text: it may hold secrets.
        return self.close_with(INTERNAL_ERROR, b"")

    cdef int remember(self, object exc, str where) except -1:
        """The first failure of a client belongs to wait_disconnected; others to the log."""
        if self.masked and self.failure is None:
            self.failure = (exc, exc.__traceback__)
        else:
            self.logger.error("exception in %s", where, exc_info=exc)
        return 0

    cdef int close_with(self, object code, object reason) except -1:
        if self.sendable:
            try:
                self.send_close(code, reason)
            except OSError:
                pass
        self.disconnect()
        return 0
