# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A stream socket between the event loop and a Connection: what carries plain TCP and Unix sockets.

    loop.add_reader ─> _read ─┐
    Poller (poller.pyx) ──────┴ read ─ recv ─> the receiver's buffer ─> Connection.bytes_came
    write ─ send ─> socket; what that does not take ─> queue ─ loop.add_writer ─> _write

It has the interface of asyncio.Transport, for one protocol only: a Connection, which is called in C
where it counts. TLS is not its business (backend.py).

Always holds:

* The socket is closed right behind connection_lost, which comes exactly once, from the loop, never
  inside another call.
* The loop, or a poller, watches the socket's number only as long as the socket is open.
* The number has one owner: this object, or the socket's Python object once there is one.
* What waits in the queue is memory of its own: a caller may change its bytes when write() returns.
"""

import os
from asyncio.trsock import TransportSocket
from collections import deque
from socket import AF_INET, SOCK_STREAM, inet_ntop, socket
from warnings import warn

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ECONNABORTED
from libc.stddef cimport size_t

from picows.aio.inbound cimport Inbound
from picows.aio.poller cimport Polled, Poller

__all__ = ["HAVE_KERNEL_TIMESTAMPS", "SocketTransport", "accept_stream", "open_stream"]


cdef extern from "Python.h":
    Py_buffer* PyMemoryView_GET_BUFFER(object view)


cdef extern from "epoll_calls.h":
    const bint PICOWS_HAVE_EPOLL


cdef extern from "socket_calls.h" nogil:
    const bint PICOWS_HAVE_TIMESTAMPS
    bint picows_is_ip(int family)
    int picows_socket_accept(int listener, picows_address* peer)
    void picows_socket_close(int fd)
    int picows_socket_shut(int fd)
    void picows_socket_sockname(int fd, picows_address* address)
    void picows_socket_peername(int fd, picows_address* address)
    Py_ssize_t picows_socket_read(int fd, char* data, size_t size)
    Py_ssize_t picows_socket_read_stamped(int fd, char* data, size_t size, long long* time_ns)
    void picows_socket_stamp(int fd)
    Py_ssize_t picows_socket_write(
        int fd, const char* head, size_t head_size, const char* body, size_t body_size
    )


cdef enum:
    # What is queued in pieces smaller than this is put together in larger ones.
    SMALL_PIECE = 16 * 1024
    LARGEST_HEAP = 64 * 1024
    # From here on a write lets other threads run.
    RELEASE_GIL_FROM = 64 * 1024
    # A poller is for loops that have more connections than these.
    FEW_CONNECTIONS = 8
    # asyncio's: pause_writing above `high` bytes, resume_writing at `low`.
    HIGH_WATER = 64 * 1024


# Does the system say when it received what is read?
HAVE_KERNEL_TIMESTAMPS = bool(PICOWS_HAVE_TIMESTAMPS)


@cython.final
cdef class SocketTransport(Polled):
    """Made by `open_stream` and `accept_stream`."""

    def __cinit__(self, loop, Inbound connection not None):
        self.fd = -1
        self.loop = loop
        self.connection = connection
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4

    def __dealloc__(self):
        # The loop was dropped, and has not told of the end.
        if self.owns_number:
            picows_socket_close(self.fd)
            warn_unclosed(self.fd)

    def __repr__(self):
        state = "closed" if self.fd < 0 else "closing" if self.closing else "open"
        return f"<SocketTransport {state} fd={self.fd} waiting={self.queued}>"

    cdef int know_socket(self) except -1:
        picows_socket_sockname(self.fd, &self.sockname)
        if not picows_is_ip(self.family):
            sock = self.open_socket()
            self.unix_names = name_of(sock.getpeername), name_of(sock.getsockname)
        elif self.connection.settings.kernel_timestamps:
            # Unix sockets have none, and a read that asks takes the files that the peer sends.
            self.has_timestamps = True
            picows_socket_stamp(self.fd)
        return 0

    cdef int start(self) except -1:
        self.connection.connection_made(self)
        if not (self.closing or self.paused):
            self.watch_for_bytes(True)
        return 0

    # What asyncio.Transport has

    def get_extra_info(self, name, default=None):
        if name == "socket":
            if self.wrapped_socket is None:
                self.wrapped_socket = TransportSocket(self.open_socket())
            return self.wrapped_socket
        if name == "peername":
            return python_address(&self.peername) if self.unix_names is None else self.unix_names[0]
        if name == "sockname":
            return python_address(&self.sockname) if self.unix_names is None else self.unix_names[1]
        return default

    def get_protocol(self):
        return self.connection

    def is_closing(self):
        return bool(self.closing)

    def is_reading(self):
        return not (self.closing or self.paused)

    def pause_reading(self):
        if not (self.closing or self.paused):
            self.paused = True
            self.watch_for_bytes(False)

    def resume_reading(self):
        if self.paused and not self.closing:
            self.paused = False
            self.watch_for_bytes(True)

    def get_write_buffer_size(self):
        return self.queued

    def get_write_buffer_limits(self):
        return self.low, self.high

    def set_write_buffer_limits(self, high=None, low=None):
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high = high
        self.low = low
        self.queue_has_grown()

    def can_write_eof(self):
        return True

    def write_eof(self):
        if not (self.closing or self.ends_writing):
            self.ends_writing = True
            if not self.queued:
                self.send_queued()

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def write(self, data):
        cdef:
            Py_buffer view
            Py_ssize_t n = 0
        if self.ends_writing:
            raise RuntimeError("write() behind write_eof()")
        if self.lost:
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not view.len:
                return
            if not self.queued:
                if view.len >= RELEASE_GIL_FROM:
                    with nogil:
                        n = picows_socket_write(
                            self.fd, <const char*>view.buf, <size_t>view.len, NULL, 0
                        )
                else:
                    n = picows_socket_write(
                        self.fd, <const char*>view.buf, <size_t>view.len, NULL, 0
                    )
                if n < 0:
                    self.lose(OSError(-n, os.strerror(-n)))
                    return
                if n == view.len:
                    return
            if n == 0 and type(data) is bytes:
                self.put_into_queue(data)
            else:
                self.put_into_queue(
                    PyBytes_FromStringAndSize(<const char*>view.buf + n, view.len - n)
                )
        except BaseException as exc:
            if n > 0:
                # A part of it is sent: nothing can follow.
                self.lose(exc)
            raise
        finally:
            PyBuffer_Release(&view)
        self.watch_for_room(True)
        self.queue_has_grown()

    def close(self):
        if self.closing:
            return
        self.closing = True
        self.watch_for_bytes(False)
        if not self.queued:
            self.lose(None)

    def abort(self):
        self.lose(None)

    # Called by the loop

    def _read(self):
        self.read()
        if (
            self.is_watched_for_bytes
            and self.poller is None
            and self.is_for_poller()
            and self.connection.state.crowd.has_one_more()
            and self.enter_poller()
        ):
            self.loop.remove_reader(self.fd)

    cdef int read(self) except -1:
        cdef:
            Inbound connection = self.connection
            Py_buffer* room
            Py_ssize_t n
        if self.closing or self.paused:
            # The loop was about to call this.
            return 0
        try:
            view = connection.receiver.get_buffer()
            room = PyMemoryView_GET_BUFFER(view)
            if self.has_timestamps:
                n = picows_socket_read_stamped(
                    self.fd, <char*>room.buf, <size_t>room.len, &connection.receiver.kernel_time_ns
                )
            else:
                n = picows_socket_read(self.fd, <char*>room.buf, <size_t>room.len)
            if n > 0:
                connection.bytes_came(n)
            elif n == 0:
                if not connection.eof_received():
                    self.close()
            elif n != -EAGAIN:
                self.lose(OSError(-n, os.strerror(-n)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._failed(exc)
        return 0

    def _write(self):
        if self.lost:
            return
        try:
            self.send_queued()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._failed(exc)

    def _end(self, exc):
        connection = self.connection
        self.connection = None
        try:
            connection.connection_lost(exc)
        finally:
            if self.owns_number:
                self.owns_number = False
                picows_socket_close(self.fd)
            else:
                self.sock.close()
            self.fd = -1

    def _failed(self, exc):
        """Of the connection, which lets nothing through but what nobody can go on after."""
        self.loop.call_exception_handler({
            "message": "Fatal error: a WebSocket connection failed",
            "exception": exc,
            "transport": self,
            "protocol": self.connection,
        })
        self.lose(exc)

    # Inside

    cdef object open_socket(self):
        """The Python object of the socket, which owns its number from here on."""
        if self.sock is None:
            if self.owns_number:
                self.sock = socket(self.family, SOCK_STREAM, fileno=self.fd)
                self.owns_number = False
                self.sock.setblocking(False)
            else:
                self.sock = socket(self.family, SOCK_STREAM)
                self.sock.close()
        return self.sock

    cdef int watch_for_bytes(self, bint wanted) except -1:
        if wanted != self.is_watched_for_bytes:
            self.is_watched_for_bytes = wanted
            if not wanted:
                if self.poller is None:
                    self.loop.remove_reader(self.fd)
                else:
                    self.poller.forget(self)
                    self.poller = None
            elif not (self.is_for_poller() and self.enter_poller()):
                self.loop.add_reader(self.fd, self._read)
        return 0

    cdef bint is_for_poller(self) noexcept:
        """One of many, and not a client's: there a microsecond counts for more."""
        return (
            PICOWS_HAVE_EPOLL
            and not self.connection.settings.is_client_side
            and self.connection.state.connections > FEW_CONNECTIONS
        )

    cdef bint enter_poller(self) except -1:
        cdef Poller poller = self.connection.state.open_poller()
        if not poller.watch(self):
            return False
        self.poller = poller
        return True

    cdef int leave_poller(self) except -1:
        self.loop.add_reader(self.fd, self._read)
        self.poller.forget(self)
        self.poller = None
        # Whether they come in crowds, is for the loop to find out again.
        self.connection.state.crowd.is_there = False
        return 0

    cdef int watch_for_room(self, bint wanted) except -1:
        if wanted != self.is_watched_for_room:
            self.is_watched_for_room = wanted
            if wanted:
                self.loop.add_writer(self.fd, self._write)
            else:
                self.loop.remove_writer(self.fd)
        return 0

    cdef int put_into_queue(self, bytes data) except -1:
        if self.queue is None:
            self.queue = deque()
        if self.queue and len(data) < SMALL_PIECE:
            last = self.queue[len(self.queue) - 1]
            if type(last) is bytearray and len(last) < LARGEST_HEAP:
                last += data
            else:
                self.queue.append(bytearray(data))
        else:
            self.queue.append(data)
        self.queued += <size_t>len(data)
        return 0

    cdef int send_queued(self) except -1:
        """Send what waits, as far as the socket takes it, and do what waited for that."""
        cdef:
            object first
            const char* data
            size_t size
            Py_ssize_t n
            int error
        while self.queued:
            first = self.queue[0]
            if type(first) is bytes:
                data = PyBytes_AS_STRING(first)
                size = <size_t>PyBytes_GET_SIZE(first)
            else:
                data = PyByteArray_AS_STRING(first)
                size = <size_t>PyByteArray_GET_SIZE(first)
            # With the GIL: a bytearray might grow meanwhile.
            n = picows_socket_write(
                self.fd, data + self.first_sent, size - self.first_sent, NULL, 0
            )
            if n < 0:
                self.lose(OSError(-n, os.strerror(-n)))
                return 0
            self.queued -= <size_t>n
            self.first_sent += <size_t>n
            if self.first_sent < size:
                break
            self.first_sent = 0
            self.queue.popleft()
        if self.queued == 0:
            self.queue = None
            self.watch_for_room(False)
        self.queue_has_shrunk()
        if self.queued == 0 and not self.lost:
            if self.closing:
                self.lose(None)
            elif self.ends_writing:
                error = picows_socket_shut(self.fd)
                if error:
                    self.lose(OSError(error, os.strerror(error)))
        return 0

    cdef int queue_has_grown(self) except -1:
        if not self.is_over_high and self.queued > self.high:
            self.is_over_high = True
            self.connection.pause_writing()
        return 0

    cdef int queue_has_shrunk(self) except -1:
        if self.is_over_high and self.queued <= self.low:
            self.is_over_high = False
            self.connection.resume_writing()
        return 0

    cdef int lose(self, object exc) except -1:
        """The end: connection_lost with the next iteration, and nothing until then."""
        if self.lost:
            return 0
        self.lost = self.closing = True
        self.watch_for_bytes(False)
        self.watch_for_room(False)
        self.queue = None
        self.queued = 0
        self.loop.call_soon(self._end, exc)
        return 0


cdef int warn_unclosed(int fd) except -1:
    """As the object of a socket does."""
    warn(f"unclosed socket of a connection, fd={fd}", ResourceWarning, stacklevel=1)
    return 0


cdef name_of(ask):
    """What a socket says of itself; None when the peer is gone: the first read will tell."""
    try:
        return ask()
    except OSError:
        return None


cdef python_address(const picows_address* address):
    if not address.family:
        return None
    is_v4 = address.family == AF_INET
    host = inet_ntop(
        address.family, PyBytes_FromStringAndSize(address.bytes, 4 if is_v4 else 16)
    )
    if is_v4:
        return host, address.port
    return host, address.port, address.flow, address.scope


def open_stream(loop, sock, Inbound connection not None):
    """
    Make `sock`, a connected stream socket that does not block, the transport of `connection`, which
    is told so before this returns. From here on the socket belongs to the transport.
    """
    cdef SocketTransport transport = SocketTransport.__new__(SocketTransport, loop, connection)
    transport.sock = sock
    transport.fd = sock.fileno()
    transport.family = sock.family
    picows_socket_peername(transport.fd, &transport.peername)
    transport.know_socket()
    return start_stream(transport)


def accept_stream(loop, int listener, int family, connection_factory):
    """
    The same for the next connection to a listening socket, of this number and family. None when
    there is none.

    :raises OSError: accept(2) failed
    """
    cdef:
        SocketTransport transport
        picows_address peername
        int fd = picows_socket_accept(listener, &peername)
    if fd < 0:
        if fd in (-EAGAIN, -ECONNABORTED):
            return None
        raise OSError(-fd, os.strerror(-fd))
    try:
        connection = connection_factory()
        transport = SocketTransport.__new__(SocketTransport, loop, connection)
    except BaseException:
        picows_socket_close(fd)
        raise
    transport.fd = fd
    transport.family = family
    transport.owns_number = True
    transport.peername = peername
    transport.know_socket()
    return start_stream(transport)


cdef start_stream(SocketTransport transport):
    try:
        transport.start()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        transport._failed(exc)
    return transport
