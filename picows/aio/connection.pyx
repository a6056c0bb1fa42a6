# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The reading half of a connection and its life cycle: the BufferedProtocol that the event loop
drives.

    connection_made ─> UPGRADING ── open() ──> OPEN ── connection_lost ──> CLOSED
                           └────────── connection_lost ─────────────────────^

Until `open` the bytes go to the *upgrade*, an object of connect.py or serve.py with data_received,
eof_received and connection_lost; it calls `open` (101) or closes the transport.

Always holds:

* One on_ws_connected and one on_ws_disconnected per open connection; nothing is called after the
  latter, and the listener is let go then, so that nothing waits for the cycle collector.
* Frames are delivered one after the other, each before the next is parsed, never inside another
  callback of the same connection (`in_callback`); what a re-entered loop brings meanwhile waits.
* No on_ws_frame while `held` (paused) and none once `deaf`: after disconnect, a CLOSE (RFC 6455
  section 1.4) or a violation.
* No exception of a callback reaches the transport below, but KeyboardInterrupt and SystemExit.
"""

import sys
from asyncio import BufferedProtocol

from cpython.object cimport PyObject
from cpython.time cimport monotonic
from libc.stddef cimport size_t

from picows.aio.loop_state cimport state_of
from picows.aio.outbound cimport Outbound
from picows.aio.transport cimport WSListener
from picows.wire.deflate cimport Deflater, Inflater
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

from picows.aio.backend import tune_socket
from picows.aio.close_handshake import CloseFrame
from picows.aio.keepalive import AutoPing, RoundTrips
from picows.aio.logs import PICOWS_DEBUG_LL
from picows.errors import WSProtocolError

__all__ = ["CLOSE_TIMEOUT", "Connection", "Settings"]

# Seconds that a graceful disconnect waits for a peer that does not read or does not end its TLS.
CLOSE_TIMEOUT = 10.0

# Seconds between a read and a look for an error behind it, where the loop does not tell.
LOOK_INTERVAL = 1.0


cdef object _nobody = BufferedProtocol()


cdef extern from "Python.h":
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    object PyObject_VectorcallMethod(object name, PyObject** args, size_t nargsf, PyObject* kwnames)


cdef extern from "socket_calls.h":
    const bint PICOWS_DIRECT_WRITE
    bint picows_socket_has_error(int fd)
    size_t picows_socket_unacknowledged(int fd)


cdef enum Phase:
    UPGRADING
    OPEN
    CLOSED


cdef class Settings:
    """What all connections of one entry point have in common."""

    cdef:
        readonly bint is_client_side
        readonly object logger
        bint disconnect_on_exception
        object auto_ping
        bint enable_auto_pong
        bint coalesce_writes
        bint transport_copies
        size_t max_frame_size
        size_t read_buffer_init_size
        bint assemble_messages
        size_t max_message_size
        size_t max_fragments
        readonly object deflate

    def __init__(
        self, *, bint is_client_side, logger, bint disconnect_on_exception, auto_ping,
        bint enable_auto_pong, bint coalesce_writes, bint transport_copies, size_t max_frame_size,
        size_t read_buffer_init_size, bint assemble_messages, size_t max_message_size,
        size_t max_fragments, deflate
    ):
        self.is_client_side = is_client_side
        self.logger = logger
        self.disconnect_on_exception = disconnect_on_exception
        # An AutoPingSettings, or None.
        self.auto_ping = auto_ping
        self.enable_auto_pong = enable_auto_pong
        self.coalesce_writes = coalesce_writes
        self.transport_copies = transport_copies
        self.max_frame_size = max_frame_size
        self.read_buffer_init_size = read_buffer_init_size
        self.assemble_messages = assemble_messages
        self.max_message_size = max_message_size
        self.max_fragments = max_fragments
        # A PerMessageDeflate, or None.
        self.deflate = deflate


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


cdef class Connection(Outbound, BufferedProtocol):
    """One connection: protocol for the loop, transport for the listener."""

    cdef:
        Settings settings
        Phase phase
        # Who owns the bytes before `open`, and who wants to know of the end (the server).
        object upgrade
        object owner
        readonly object request
        readonly object response

        WSListener listener
        bint listener_is_python
        Receiver receiver
        # What makes messages of frames; None where the listener gets frames.
        MessageReader messages

        # A callback or a batch is running.
        bint in_callback
        # No on_ws_frame for now, paused or about to resume; no on_ws_frame ever again.
        bint paused
        bint held
        bint deaf
        # The transport below does not read.
        bint paused_below
        # connection_lost came inside a callback; with which exception.
        bint lost_in_callback
        object lost_by
        # Server.shutdown: the peer's CLOSE ends the connection.
        bint closing_down

        # The socket to look at for an unread error, or -1 where the loop tells of each; the timer.
        int look_fd
        double look_delay
        object look_timer

        # The listener was told to pause writing.
        bint pause_told

        # The AutoPing of this connection, or None; when bytes came last (seconds, monotonic);
        # whether frames are to be asked if they are its pong.
        object auto_ping
        public double last_heard
        bint pong_awaited
        # The RoundTrips, once one was measured.
        object roundtrips

        # The newest PONG that the full queue below has no room for.
        bytes pending_pong
        object close_timer

        # The first exception of a callback, or a violation; for wait_disconnected on the client
        # side.
        object failure
        list waiters

    def __init__(self, loop, Settings settings not None, upgrade, owner):
        self.loop = loop
        self.settings = settings
        self.upgrade = upgrade
        self.owner = owner
        self.logger = settings.logger
        self.log_frames = settings.logger.isEnabledFor(PICOWS_DEBUG_LL)
        self.masked = settings.is_client_side
        self.transport_copies = settings.transport_copies
        self.fd = -1
        self.look_fd = -1
        self.look_delay = LOOK_INTERVAL
        # Already here: asyncio's start_tls asks for a buffer before it hands out the transport.
        self.state = state_of(loop)
        self.receiver = Receiver(
            self.state,
            not self.masked,
            settings.max_frame_size,
            settings.read_buffer_init_size,
        )

    # Called by the loop

    def connection_made(self, transport):
        self.underlying = transport
        self.state.connections += 1
        self.secure = transport.get_extra_info("sslcontext") is not None
        sock = transport.get_extra_info("socket")
        if sock is not None:
            tune_socket(sock)
            if PICOWS_DIRECT_WRITE and not self.secure:
                self.fd = sock.fileno()
            if self.transport_copies and type(self.loop).__module__.startswith("uvloop"):
                # When bytes and a reset are there at the same time, libuv calls aiofastnet's reader
                # once and then never again: what is left of the bytes, and the reset, would never
                # be seen.
                self.look_fd = sock.fileno()
        if self.owner is not None:
            self.owner._connection_made(self)
        self.upgrade.connection_made(self)

    def get_buffer(self, Py_ssize_t sizehint):
        return self.receiver.get_buffer()

    def buffer_updated(self, Py_ssize_t nbytes):
        if self.auto_ping is not None:
            self.last_heard = monotonic()
        if self.look_fd >= 0 and self.look_timer is None:
            self.look_timer = self.loop.call_later(self.look_delay, self._look)
        if self.phase == OPEN and not self.deaf:
            if self.receiver.received(nbytes, self.held or self.in_callback):
                self.work_off()
            elif self.messages is not None and not (self.held or self.in_callback):
                if self.messages.look_ahead(self.receiver) == READ_VIOLATION:
                    self.violated()
            return
        data = self.receiver.take_raw(nbytes)
        if self.phase == UPGRADING and not self.disconnected:
            self.upgrade.data_received(data)
            if self.look_timer is not None:
                # In the handshake an error is told at once.
                self.look_timer.cancel()
                self._look()

    def _look(self):
        self.look_timer = None
        if self.look_fd >= 0 and not self.paused and picows_socket_has_error(self.look_fd):
            # To be told anew of what is there: bytes first, as long as there are some.
            self.look_delay = 0.0
            self.underlying.pause_reading()
            self.underlying.resume_reading()

    def eof_received(self):
        if self.phase == UPGRADING and not self.disconnected:
            self.upgrade.eof_received()
        # False lets the transport close itself, once all that we wrote is sent.
        return False

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

    def connection_lost(self, exc):
        self.lost_by = exc
        if self.log_frames:
            self.logger.log(PICOWS_DEBUG_LL, "connection lost: %r", exc)
        self.sendable = False
        self.disconnected = True
        self.fd = -1
        self.look_fd = -1
        if self.look_timer is not None:
            self.look_timer.cancel()
            self.look_timer = None
        if self.in_callback:
            self.lost_in_callback = True
        else:
            self.finish()

    # The life cycle

    def open(self, listener, request, response, bytes trailing, deflate_agreement=None):
        """The upgrade is done: `listener` takes over, `trailing` came behind the upgrade."""
        if not isinstance(listener, WSListener):
            raise TypeError(
                f"ws_listener_factory must return a WSListener, not {type(listener).__name__}"
            )
        if self.disconnected:
            return
        self.upgrade = None
        self.listener = listener
        self.listener_is_python = is_overridden_in_python(listener)
        self.request = request
        self.response = response
        self.agree(deflate_agreement)
        self.phase = OPEN
        self.sendable = True
        # The upgrade was written through the transport, and may still be there in part.
        self.backlogged = True
        if self.settings.auto_ping is not None:
            self.auto_ping = AutoPing(self.loop, self, self.settings.auto_ping)
        self.in_callback = True
        try:
            self.listener.on_ws_connected(self)
        except BaseException as exc:
            self.callback_failed(exc, "on_ws_connected")
        finally:
            self.leave_callback()
        if self.phase != OPEN or self.deaf:
            return
        if self.auto_ping is not None:
            self.auto_ping.start()
        if trailing:
            # Ahead of anything that a re-entered loop brought meanwhile.
            self.receiver.prepend(<const char*>trailing, <size_t>len(trailing))
        if not self.held and self.receiver.begin_held():
            self.work_off()

    cdef int agree(self, deflate_agreement) except -1:
        """Set up what makes messages of frames, and what compresses them."""
        cdef:
            Settings settings = self.settings
            Inflater inflater = None
            size_t max_inflated_size = settings.max_message_size
        if deflate_agreement is not None:
            server_alone, client_alone, server_bits, client_bits = deflate_agreement
            if not self.masked:
                server_alone, client_alone = client_alone, server_alone
                server_bits, client_bits = client_bits, server_bits
            # From here on "server" is the other side.
            inflater = Inflater(server_bits, not server_alone)
            max_inflated_size = settings.deflate.max_inflated_size
            # zlib deflates nothing with a window of 8.
            if client_bits > 8:
                self.deflater = Deflater(
                    client_bits, not client_alone, settings.deflate.level,
                    settings.deflate.memory_level,
                )
                self.deflate_from = settings.deflate.threshold
        if settings.assemble_messages or inflater is not None:
            self.messages = MessageReader(
                settings.assemble_messages, settings.max_message_size, settings.max_fragments,
                inflater, max_inflated_size,
            )
        return 0

    def abort(self):
        """Close the connection below at once, whatever its phase."""
        self.sendable = False
        self.disconnected = True
        self.deaf = True
        self.stop_pings()
        if self.underlying is not None and self.phase != CLOSED and not self.aborted:
            self.drop_outbox()
            self.close_below(False)

    def forget(self):
        """Whatever becomes of the transport below, this is the end."""
        if self.underlying is not None and self.phase != CLOSED:
            self.connection_lost(None)

    cdef int leave_callback(self) except -1:
        self.in_callback = False
        if self.lost_in_callback:
            self.lost_in_callback = False
            self.finish()
        return 0

    cdef int finish(self) except -1:
        """The transport below is gone: deliver what waited, say goodbye, let everything go."""
        cdef WSListener listener = self.listener
        fatal = None
        if self.phase == CLOSED:
            return 0
        if self.phase == OPEN:
            self.held = False
            self.paused = True
            try:
                if not self.deaf and self.receiver.begin_held():
                    self.work_off()
            except BaseException as exc:
                fatal = exc
            if self.phase == CLOSED:
                return 0
            self.phase = CLOSED
            try:
                listener.on_ws_disconnected(self)
            except BaseException as exc:
                if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                    fatal = exc
                self.remember(exc, "on_ws_disconnected")
        self.phase = CLOSED
        self.stop_pings()
        self.listener = None
        self.pending_pong = None
        self.receiver.drop()
        self.messages = None
        self.deflater = None
        self.drop_outbox()
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
        if self.underlying is not None:
            self.state.connection_closed()
            if self.secure and not self.transport_copies:
                # The TLS of asyncio and uvloop keeps bound methods of its protocol: without this, a
                # connection would wait for the cycle collector.
                if sys.version_info < (3, 11):
                    # There it calls itself unclosed, when the peer was the one to end it.
                    self.underlying.close()
                try:
                    self.underlying.set_protocol(_nobody)
                except AttributeError:
                    # asyncio's transport has let go already, in close().
                    pass
        if self.upgrade is not None:
            upgrade = self.upgrade
            self.upgrade = None
            upgrade.connection_lost(self.lost_by)
        if self.owner is not None:
            self.owner._connection_lost(self)
            self.owner = None
        if self.waiters is not None:
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self.waiters = None
        if fatal is not None:
            raise fatal
        return 0

    cpdef disconnect(self, bint graceful=True):
        self.check_thread()
        if self.phase == CLOSED:
            return
        was_disconnected = self.disconnected
        self.sendable = False
        self.disconnected = True
        self.deaf = True
        self.stop_pings()
        self.pending_pong = None
        self.receiver.drop()
        if self.messages is not None:
            self.messages.drop()
        if not graceful:
            self.abort()
            return
        if was_disconnected:
            return
        try:
            self.flush_outbox()
        except OSError:
            return
        except BaseException:
            self._lose()
            raise
        if self.paused_below:
            # A transport that ends its TLS has to hear the peer's part of that.
            self.paused_below = False
            self.underlying.resume_reading()
        if self.secure or self.underlying.get_write_buffer_size():
            self.close_timer = self.loop.call_later(CLOSE_TIMEOUT, self._close_is_overdue)
        self.close_below(True)

    def _close_is_overdue(self):
        self.close_timer = None
        self.logger.log(
            PICOWS_DEBUG_LL, "not closed after %s seconds, aborting", CLOSE_TIMEOUT
        )
        self.abort()

    def shut_down(self, code):
        """Tell the peer that the server goes; its CLOSE, or its end, closes the connection."""
        if self.phase != OPEN:
            self.abort()
            return
        self.closing_down = True
        if self.close_received is not None:
            self.close_with(code, b"")
            return
        try:
            self.send_close(code)
        except OSError:
            pass

    async def wait_closed(self):
        """Wait for the end, whichever it is."""
        if self.phase == CLOSED or self.underlying is None:
            return
        waiter = self.loop.create_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if self.waiters is not None:
                self.waiters.remove(waiter)

    async def wait_disconnected(self):
        await self.wait_closed()
        if self.masked and self.failure is not None:
            exc, traceback = self.failure
            # The traceback as it was: raising adds to it, and several may wait.
            raise exc.with_traceback(traceback)

    # Frames

    cdef int work_off(self) except -1:
        """Deliver the frames of the open batch, and close it whatever happens."""
        self.in_callback = True
        try:
            self.deliver()
            if self.deaf:
                self.receiver.drop()
            self.receiver.end_batch(self.held)
        except BaseException:
            # No exception of a callback, but of what is between them: no memory, Ctrl-C, a logging
            # handler. The loop gets it, and closes the transport. The shared buffer is not ours.
            self.deaf = True
            self.receiver.drop()
            self.receiver.end_batch(False)
            raise
        finally:
            self.gathering = False
            try:
                if self.state.outbox_owner == <void*>self:
                    self.flush_outbox()
            except OSError as exc:
                self.logger.log(PICOWS_DEBUG_LL, "writing failed: %s", exc)
            finally:
                self.leave_callback()
        return 0

    cdef int deliver(self) except -1:
        cdef:
            Receiver receiver = self.receiver
            MessageReader messages = self.messages
            WSListener listener = self.listener
            Frame frame = receiver.take_frame()
            bint coalesce = self.settings.coalesce_writes
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
                    self.gathering = coalesce and not frame.last_in_buffer
                    if <int>frame.msg_type >= CLOSE and self.control_frame(frame):
                        continue
                    if self.log_frames:
                        self.logger.log(PICOWS_DEBUG_LL, "< %s", frame)
                    if self.pong_awaited and self.is_awaited_pong(frame):
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
        self.gathering = False
        if result == READ_VIOLATION and not self.deaf:
            self.violated()
        if self.closing_down and self.close_received is not None:
            self.disconnect()
        receiver.leave_frame(frame)
        if fatal is not None:
            raise fatal
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
            return (
                self.roundtrips is not None
                and self.roundtrips.pong_received(frame.get_payload_as_bytes())
            )
        if frame.msg_type == CLOSE:
            self.close_received = CloseFrame(frame.get_close_code(), frame.get_close_reason())
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
        waiting = self.underlying.get_write_buffer_size()
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
                self.roundtrips.answered_until(self.auto_ping.pinged_at)
            self.notify_user_specific_pong_received()
        return is_pong

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
            raise ValueError(f"rounds must be at least 1, not {rounds}")
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
        self.paused_below = True
        if self.auto_ping is not None:
            self.auto_ping.freeze()
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
        if not self.deaf and self.receiver.begin_held():
            self.work_off()
        if self.phase == OPEN and not self.paused and not self.disconnected:
            self.paused_below = False
            self.underlying.resume_reading()
            if self.auto_ping is not None:
                self.auto_ping.thaw()

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
            code = exc.code
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
