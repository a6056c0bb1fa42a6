# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From frames that are built to the system call: the outbox, the socket, the transport's queue.

    frame ── gathering? ── yes ──> outbox ── end of the batch, flush(), 64 KiB ──┐
      └─────── no ───────────────────────────────────────────────────────────────┴─> socket
                                             TLS, or bytes of ours are queued below ─> transport

What the socket does not take at once goes to the transport's queue as well.

Always holds:

* Bytes leave in the order of the calls: while the transport below still queues some of ours,
  everything goes through it; while something of ours is gathered, everything goes behind it.
* The socket is written to only between connection_made and connection_lost: loops close it after
  the latter.
* What a transport keeps is immutable (from Python 3.12 on asyncio and uvloop keep the caller's
  memory) unless the transport copies by itself (aiofastnet).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from picows.aio.loop_state cimport OUTBOX_SIZE, LoopState
from picows.aio.transport cimport WSTransport
from picows.wire.frame cimport CONTINUATION

import os
from logging import INFO

from picows.aio.logs import PICOWS_DEBUG_LL
from picows.errors import WSWriteBufferFullError


cdef extern from "socket_calls.h" nogil:
    Py_ssize_t picows_socket_write(
        int fd, const char* head, size_t head_size, const char* body, size_t body_size
    )


cdef enum:
    # From here on a write lets other threads run.
    RELEASE_GIL_FROM = 64 * 1024
    # All that connections gather beside the one that is read: more is not kept from the sockets.
    ASIDE_LIMIT = 16 * 1024 * 1024


cdef int flush_gathered(LoopState state) except -1:
    """Send what connections have gathered that are not being read, each with one write."""
    cdef Writer writer
    fatal = None
    while state.gatherers is not None:
        gatherers = state.gatherers
        state.gatherers = None
        state.aside_size = 0
        for writer in gatherers:
            # Whatever happens to one of them, the others are not to wait.
            try:
                try:
                    writer.flush_outbox()
                except OSError as exc:
                    writer.logger.log(PICOWS_DEBUG_LL, "writing failed: %s", exc)
            except BaseException as exc:
                fatal = exc
    if fatal is not None:
        raise fatal
    return 0


def _flush_late(LoopState state):
    """A callback runs the loop again, and perhaps waits there for the answer to what it sent."""
    flush_gathered(state)


cdef class Writer(WSTransport):

    # The limit on what waits

    cdef bint admits(self, unsigned char first, size_t size) except? True:
        """
        May a data frame of `size` bytes be sent, as far as max_write_buffer goes? What was begun is
        finished: it is asked at the first frame of a message, and holds for all of it.
        """
        cdef bint fin = first >= 0x80
        if first & 0x0F == CONTINUATION:
            if self.is_dropping:
                self.is_dropping = not fin
                return False
            return True
        self.is_dropping = False
        if not self.is_over_limit(size):
            return True
        self.is_dropping = not fin
        if self.overflow_policy == OVERFLOW_RAISE:
            raise WSWriteBufferFullError(self.bytes_waiting(), size, self.max_write_buffer)
        self.overflow(size)
        return False

    cdef int overflow(self, size_t size) except -1:
        """A message of `size` bytes is not sent; with the policy "close" none will be."""
        cdef size_t waiting = self.bytes_waiting()
        closes = self.overflow_policy == OVERFLOW_CLOSE
        if closes:
            # Not gracefully: that would wait for a peer that does not read.
            self.disconnect(False)
        self.logger.log(
            INFO if closes else PICOWS_DEBUG_LL,
            "%s: %d bytes wait for the peer, and max_write_buffer is %d",
            "disconnected" if closes else f"message of {size} bytes not sent",
            waiting, self.max_write_buffer,
        )
        return 0

    cdef bint is_over_limit(self, size_t size) except? True:
        """Would `size` bytes more be too many? Where nothing waits they never are."""
        cdef size_t waiting
        if not self.backlogged or not self.max_write_buffer:
            return False
        waiting = self.bytes_waiting()
        return waiting != 0 and (
            waiting >= self.max_write_buffer or size > self.max_write_buffer - waiting
        )

    cdef size_t bytes_waiting(self) except? 0:
        """What the system has not taken; with what is gathered behind it, if there is something."""
        cdef size_t waiting = self.bytes_queued()
        return waiting + self.gathered_size if waiting else 0

    cdef size_t bytes_queued(self) except? 0:
        """What has left the outbox and not reached the system: below, or postponed."""
        cdef size_t queued
        try:
            queued = self.underlying.get_write_buffer_size()
        except AttributeError:
            # asyncio's TLS of Python 3.10, closed, has let go of what it would ask.
            queued = 0
        if self.postponed is not None:
            queued += sum([len(each) for each in self.postponed])
        return queued

    # Coalescing

    cdef int gathers(self, size_t total, bint is_close) except -1:
        """
        Is a frame of `total` bytes to be gathered? It makes room for it, and returns a
        GatherAnswer.
        """
        if not (self.gathered_size or self.coalesces):
            return GATHER_NOT
        self.make_room(total)
        if self.disconnected or not (self.sendable or is_close):
            # A callback of that has ended the connection, or sent a CLOSE.
            return GATHER_NOTHING
        if total > OUTBOX_SIZE or not (self.gathered_size or self.state.gathering):
            return GATHER_NOT
        return GATHER

    cdef char* room_in_outbox(self) except NULL:
        """
        Where the next gathered frame is built: in the outbox of the loop, if this connection is the
        one that is read; `gathered` says that it is there.
        """
        cdef LoopState state = self.state
        if state.outbox is None:
            state.open_outbox()
        return state.outbox.data + state.outbox_size

    cdef bint has_outbox(self) noexcept:
        """May this connection gather in the outbox of the loop?"""
        cdef LoopState state = self.state
        return self.aside is None and (
            state.outbox_owner == <void*>self
            or (state.outbox_owner == NULL and state.reader == <void*>self)
        )

    cdef int gathered(self, size_t total) noexcept:
        """A frame of `total` bytes was built in the outbox."""
        self.state.outbox_owner = <void*>self
        self.state.outbox_size += total
        self.gathered_size += total
        return 0

    cdef int gather_aside(self, bytes frame) except -1:
        """Gather for a connection that is not the one being read."""
        cdef LoopState state = self.state
        if self.aside is None:
            if state.gatherers is None:
                state.gatherers = []
                self.loop.call_soon(_flush_late, state)
            state.gatherers.append(self)
            self.aside = []
        self.aside.append(frame)
        self.gathered_size += <size_t>len(frame)
        state.aside_size += <size_t>len(frame)
        if state.aside_size > ASIDE_LIMIT:
            flush_gathered(state)
        return 0

    cdef int make_room(self, size_t size) except -1:
        """Send what was gathered, unless `size` bytes more fit behind it."""
        # `while`: the transport's pause_writing may call back into `send`, which fills it again.
        while self.gathered_size and size > OUTBOX_SIZE - self.gathered_size:
            self.flush_outbox()
        return 0

    cdef int flush_outbox(self) except -1:
        """Send what was gathered, if anything was."""
        cdef:
            LoopState state = self.state
            size_t size = self.gathered_size
            list aside = self.aside
            bytes data
        if not size:
            return 0
        # Dropped first: what this calls may gather anew.
        self.drop_outbox()
        try:
            if aside is not None:
                data = aside[0] if len(aside) == 1 else b"".join(aside)
                if self._may_write_socket():
                    return self._emit(PyBytes_AS_STRING(data), size, NULL, 0)
            else:
                if self._may_write_socket():
                    return self._emit(state.outbox.data, size, NULL, 0)
                data = PyBytes_FromStringAndSize(state.outbox.data, <Py_ssize_t>size)
            return self._hand_over(data)
        except BaseException:
            # Frames are missing that were told as sent: nothing can follow them.
            if not self.aborted:
                self._lose()
            raise

    cdef int drop_outbox(self) noexcept:
        self.gathered_size = 0
        self.aside = None
        if self.state.outbox_owner == <void*>self:
            self.state.outbox_owner = NULL
            self.state.outbox_size = 0
        return 0

    # Bytes

    cdef bint _may_write_socket(self) except? True:
        """May bytes go to the socket directly, ahead of nothing?"""
        if self.fd < 0:
            return False
        if self.backlogged:
            if self.bytes_queued():
                return False
            self.backlogged = False
        return True

    cdef int _emit(
        self, const char* head, size_t head_size, const char* body, size_t body_size
    ) except -1:
        """
        Write to the socket; what it does not take waits in the transport's queue, as bytes of ours.
        """
        cdef:
            size_t total = head_size + body_size
            size_t taken
            Py_ssize_t n
        if total >= RELEASE_GIL_FROM:
            with nogil:
                n = picows_socket_write(self.fd, head, head_size, body, body_size)
        else:
            n = picows_socket_write(self.fd, head, head_size, body, body_size)
        if n < 0:
            return self._write_failed(<int>-n)
        taken = <size_t>n
        self.sent += taken
        if taken == total:
            return 0
        try:
            return self._queue_rest(head, head_size, body, body_size, taken)
        except BaseException:
            # Half a frame is on the wire: nothing can follow it.
            self._lose()
            raise

    cdef int _queue_rest(
        self, const char* head, size_t head_size, const char* body, size_t body_size, size_t taken
    ) except -1:
        """The socket took `taken` bytes of the two buffers; the rest goes to the transport."""
        cdef:
            size_t total = head_size + body_size
            bytes rest
            char* p
        rest = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(total - taken))
        p = PyBytes_AS_STRING(rest)
        if taken < head_size:
            memcpy(p, head + taken, head_size - taken)
            p += head_size - taken
            taken = head_size
        if body_size:
            taken -= head_size
            memcpy(p, body + taken, body_size - taken)
        return self._hand_over(rest)

    cdef int _hand_over(self, object data) except -1:
        """Give bytes to the transport below, which sends or queues them."""
        self.backlogged = True
        self.sent += <size_t>len(data)
        if self.in_flow_control or self.postponed is not None:
            if self.postponed is None:
                self.postponed = []
                self.loop.call_soon(self._write_postponed)
            self.postponed.append(bytes(data))
            return 0
        self.underlying.write(data)
        return 0

    def _write_postponed(self):
        """
        What pause_writing or resume_writing sent. The transport calls them while it writes: another
        TLS record in the middle of that would break the stream, and asyncio's transport, where a
        write inside its resume_writing fails, loses its connection twice.
        """
        postponed = self.postponed
        self.postponed = None
        if postponed is not None and not self.aborted:
            self.underlying.write(b"".join(postponed))

    cdef int _write_failed(self, int error) except -1:
        """The system refused a write: the connection is lost, the caller is told."""
        self._lose()
        raise OSError(error, os.strerror(error))

    cdef int _lose(self) except -1:
        self.sendable = False
        self.disconnected = True
        self.fd = -1
        self.drop_outbox()
        return self.close_below(False)

    cdef int close_below(self, bint graceful) except -1:
        """Close the transport below, or abort it."""
        close = self.underlying.close if graceful else self.underlying.abort
        self.aborted = not graceful
        if self.in_flow_control or self.in_connection_made:
            # asyncio's transport goes on with itself after resume_writing, and loses its connection
            # twice if it was closed there. aiofastnet's begins to read after connection_made, also
            # when it was closed there; then the loop waits for the closed socket's number for ever,
            # and the next socket of that number is not heard.
            self.loop.call_soon(close)
        else:
            if graceful and self.postponed is not None:
                self._write_postponed()
            close()
        return 0
