# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A connection and its life cycle: the BufferedProtocol that the event loop drives.

Its reading half is inbound.pyx, its writing half outbound.pyx.

    connection_made ─> UPGRADING ── open() ──> OPEN ── connection_lost ──> CLOSED
                           └────────── connection_lost ─────────────────────^

Until `open` the bytes go to the *upgrade*, an object of connect.py or serve.py with data_received,
eof_received and connection_lost; it calls `open` (101) or closes the transport.

Always holds: one on_ws_connected and one on_ws_disconnected per open connection; nothing is called
after the latter, and the listener is let go then, so that nothing waits for the cycle collector.
"""

import sys
from asyncio import BufferedProtocol

from cpython.time cimport monotonic
from libc.stddef cimport size_t

from picows.aio.inbound cimport CLOSED, OPEN, UPGRADING, Inbound, is_overridden_in_python
from picows.aio.loop_state cimport state_of
from picows.aio.settings cimport Settings
from picows.aio.socket_transport cimport SocketTransport, picows_address
from picows.aio.transport cimport WSListener
from picows.aio.writer cimport OverflowPolicy
from picows.wire.deflate cimport Deflater, Inflater
from picows.wire.messages cimport MessageReader
from picows.wire.receiver cimport READ_VIOLATION, Receiver

from picows.aio.keepalive import AutoPing
from picows.aio.logs import PICOWS_DEBUG_LL

__all__ = ["CLOSE_TIMEOUT", "Connection"]

# Seconds that a graceful disconnect waits for a peer that does not read or does not end its TLS.
CLOSE_TIMEOUT = 10.0


cdef enum:
    # Nanoseconds that busy polling asks its socket at a time; in between, others have their turn.
    POLL_SLICE = 20_000


cdef object _nobody = BufferedProtocol()


cdef extern from "socket_calls.h":
    const bint PICOWS_DIRECT_WRITE
    void picows_socket_sockname(int fd, picows_address* address)
    void picows_socket_tune(int fd, int family)
    void picows_socket_busy_poll(int fd, int microseconds)
    bint picows_socket_has_error(int fd)
    int picows_socket_wait(int fd, long long nanoseconds) nogil


cdef class Connection(Inbound, BufferedProtocol):
    """One connection: protocol for the loop, transport for the listener."""

    cdef:
        # Who owns the bytes before `open`, and who wants to know of the end (the server).
        object upgrade
        object owner
        readonly object request
        readonly object response

        # connection_lost came; with which exception.
        object lost_by
        # The socket to look at for an unread error, or -1 where the loop tells of each.
        int look_fd
        # `_look` will be called; there was an error then, and bytes may be ahead of it.
        bint look_is_due
        bint has_failed

        # Busy polling: the socket, or -1; until when (seconds, monotonic); _poll is scheduled.
        int poll_fd
        double poll_until
        bint polling

        object close_timer
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
        self.coalesces = settings.coalesce_writes
        self.max_write_buffer = settings.max_write_buffer
        self.overflow_policy = <OverflowPolicy>settings.overflow_policy
        self.fd = -1
        self.look_fd = self.poll_fd = -1
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
        cdef:
            int fd = -1
            picows_address address
        if self.phase == CLOSED:
            # uvloop's start_tls takes a peer that ends in the middle for the end of the handshake.
            transport.abort()
            raise self.lost_by or ConnectionResetError("the connection was lost during TLS")
        self.underlying = transport
        self.state.connections += 1
        if isinstance(transport, SocketTransport):
            fd = (<SocketTransport>transport).fd
            address.family = (<SocketTransport>transport).family
        else:
            self.secure = transport.get_extra_info("sslcontext") is not None
            self.receiver.reads_whole = self.secure and not self.transport_copies
            sock = transport.get_extra_info("socket")
            if sock is not None:
                fd = sock.fileno()
                picows_socket_sockname(fd, &address)
        if fd >= 0:
            picows_socket_tune(fd, address.family)
            if PICOWS_DIRECT_WRITE and not self.secure:
                self.fd = fd
            if PICOWS_DIRECT_WRITE and self.settings.busy_poll:
                self.poll_fd = fd
                picows_socket_busy_poll(fd, <int>(self.settings.busy_poll * 1e6))
            if self.transport_copies and type(self.loop).__module__.startswith("uvloop"):
                # When bytes and a reset are there at the same time, libuv calls a reader (ours,
                # aiofastnet's) once and then never again: what is left of the bytes, and the reset,
                # would never be seen.
                self.look_fd = fd
        self.in_connection_made = True
        try:
            if self.owner is not None:
                self.owner._connection_made(self)
            self.upgrade.connection_made(self)
        finally:
            self.in_connection_made = False

    def get_buffer(self, Py_ssize_t sizehint):
        return self.receiver.get_buffer(sizehint)

    def buffer_updated(self, Py_ssize_t nbytes):
        self.bytes_came(nbytes)

    cdef int bytes_came(self, Py_ssize_t nbytes) except -1:
        if self.auto_ping is not None:
            self.last_heard = monotonic()
        if self.look_fd >= 0 and not self.look_is_due and self.phase != UPGRADING:
            self.look_is_due = True
            if self.has_failed:
                self.loop.call_soon(self._look)
            else:
                self.state.look_later(self)
        if self.phase == OPEN and not self.deaf:
            if self.receiver.received(nbytes, self.held or self.in_callback):
                self.work_off()
            elif self.messages is not None and not (self.held or self.in_callback):
                if self.messages.look_ahead(self.receiver) == READ_VIOLATION:
                    self.violated()
            if self.poll_fd >= 0:
                self.poll_until = monotonic() + self.settings.busy_poll
                if not self.polling:
                    self.polling = True
                    self.loop.call_soon(self._poll)
            return 0
        data = self.receiver.take_raw(nbytes)
        if self.phase == UPGRADING and not self.disconnected:
            self.upgrade.data_received(data)
            # In the handshake an error is told at once.
            self._look()
        return 0

    def _poll(self):
        """
        Keep the loop awake: it asks the system without sleeping as long as something is scheduled.
        """
        cdef bint has_bytes
        if (
            self.poll_fd < 0
            or self.paused
            or self.disconnected
            or monotonic() >= self.poll_until
        ):
            self.polling = False
            return
        with nogil:
            has_bytes = picows_socket_wait(self.poll_fd, POLL_SLICE)
        self.loop.call_soon(self._poll)
        if has_bytes and isinstance(self.underlying, SocketTransport):
            # Without the way through the loop, which would find out the same.
            (<SocketTransport>self.underlying).read()

    def _look(self):
        """Does the socket have an error of which the loop will not tell?"""
        self.look_is_due = False
        if self.look_fd >= 0 and not self.paused and picows_socket_has_error(self.look_fd):
            # To be told anew of what is there: bytes first, as long as there are some.
            self.has_failed = True
            self.underlying.pause_reading()
            self.underlying.resume_reading()

    def eof_received(self):
        if self.phase == UPGRADING and not self.disconnected:
            self.upgrade.eof_received()
        # False lets the transport close itself, once all that we wrote is sent.
        return False

    def connection_lost(self, exc):
        self.lost_by = exc
        if self.log_frames:
            self.logger.log(PICOWS_DEBUG_LL, "connection lost: %r", exc)
        self.sendable = False
        self.disconnected = True
        self.fd = -1
        # uvloop's transport does not take them any more.
        self.drop_outbox()
        self.postponed = None
        self.look_fd = self.poll_fd = -1
        if self.look_is_due:
            self.state.do_not_look(self)
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
            self.auto_ping = AutoPing(self.state.open_deadlines(), self, self.settings.auto_ping)
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
            self.deflate_agreed = True
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
                self.deliver_waiting()
                if self.phase == OPEN and not self.deaf and self.receiver.begin_held():
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
        self.waiting_frame = None
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
        self.waiting_frame = None
        self.drop_input()
        if not graceful:
            self.abort()
            return
        if was_disconnected:
            return
        try:
            self.flush_outbox()
        except OSError:
            return
        if self.aborted:
            # By what a callback of that did.
            return
        if self.paused_below:
            # A transport that ends its TLS has to hear the peer's part of that.
            self.paused_below = False
            self.underlying.resume_reading()
        if self.secure or self.bytes_queued():
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
