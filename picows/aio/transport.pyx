# cython: language_level=3, boundscheck=False, wraparound=False
"""What users see of a connection: `WSListener`, which they subclass, and `WSTransport`, which they
call.

    WSTransport                 the face: names, signatures, docstrings; no state, no code
      Outbound  (outbound.pyx)  the writing half
        Connection (connection.pyx)   the reading half, the life cycle

Always holds: the C layout and the order of methods of the two classes here change with a major
version only, because users' compiled extensions call through them.
"""

from enum import IntEnum

from picows.wire.frame cimport NO_INFO, PONG, WSFrame, WSMsgType

__all__ = ["WSAutoPingStrategy", "WSListener", "WSTransport"]

# As in wire/frame.pyx: here the name means the C enum.
globals()["WSAutoPingStrategy"] = IntEnum("WSAutoPingStrategy", {
    "PING_WHEN_IDLE": PING_WHEN_IDLE,
    "PING_PERIODICALLY": PING_PERIODICALLY,
}, module=__name__)
globals()["WSAutoPingStrategy"].__doc__ = """When auto ping sends a ping.

PING_WHEN_IDLE: after auto_ping_idle_timeout seconds in which nothing was received.
PING_PERIODICALLY: every auto_ping_idle_timeout seconds.
"""


cdef object face_only():
    # Unreachable through an instance: only the private subclass can be made.
    return TypeError("WSTransport is made by ws_connect and ws_create_server only")


cdef class WSTransport:
    """
    A WebSocket connection after its upgrade, as a listener gets it.

    Its methods are called from the thread of its event loop; from another they raise RuntimeError
    (``loop.call_soon_threadsafe(transport.send, ...)`` is the way over). No send blocks. After
    `send_close`, and on a connection that is lost or was disconnected, every send is a no-op that
    is logged at debug level. An error of the operating system in an immediate write is raised
    (OSError), and the connection is then lost.
    """

    def __init__(self):
        raise face_only()

    @property
    def underlying_transport(self):
        """The asyncio transport below (``get_extra_info("socket")`` and the like)."""
        raise face_only()

    @property
    def request(self):
        """The `WSUpgradeRequest` of the opening handshake."""
        raise face_only()

    @property
    def response(self):
        """The `WSUpgradeResponse` of the opening handshake."""
        raise face_only()

    @property
    def close_handshake(self):
        """
        None before any CLOSE; then an object with ``recv`` and ``sent`` (each None, or with
        ``code`` and ``reason``) and ``recv_then_sent`` (bool, None while one is missing).
        """
        raise face_only()

    @property
    def is_client_side(self):
        """Did `ws_connect` make this connection?"""
        raise face_only()

    @property
    def is_secure(self):
        """Is there TLS below?"""
        raise face_only()

    @property
    def is_close_frame_sent(self):
        """Was a CLOSE sent?"""
        raise face_only()

    @property
    def is_disconnected(self):
        """Is the connection lost, or was `disconnect` called?"""
        raise face_only()

    cpdef send(
        self, WSMsgType msg_type, message,
        bint fin=True, bint rsv1=False, bint rsv2=False, bint rsv3=False, compress=None
    ):
        """
        Send a frame.

        :param msg_type: a `WSMsgType`; CLOSE goes through `send_close`
        :param message: the payload: bytes-like, str (sent as UTF-8) or None (empty). It may be
            changed as soon as this returns.
        :param fin: is this the last frame of its message (RFC 6455 section 5.4)?
        :param rsv1: reserved bits, for extensions (section 5.2); likewise rsv2, rsv3
        :param compress: where permessage-deflate was agreed on: True and False compress the message
            or not, None goes by its size (`PerMessageDeflate`, threshold). Said with its first
            frame.
        :returns: True when the frame is on its way: taken by the system, or waiting for it. False
            when it is not sent: the connection is closed, or ``max_write_buffer`` is reached; of a
            message whose first frame was not sent, no other is.
        :raises WSWriteBufferFullError: ``max_write_buffer`` is reached and ``overflow_policy`` is
            "raise"
        :raises ValueError: a CLOSE, an unknown type, a control frame over 125 bytes or with
            fin=False, a reserved bit where permessage-deflate was agreed on
        :raises TypeError: a message of another type
        :raises RuntimeError: called from another thread than the loop's
        :raises OSError: the system refused an immediate write; the connection is lost
        """
        raise face_only()

    cpdef send_reuse_external_bytearray(
        self, WSMsgType msg_type, bytearray buffer, Py_ssize_t msg_offset,
        bint fin=True, bint rsv1=False, bint rsv2=False, bint rsv3=False
    ):
        """
        Send ``buffer[msg_offset:]`` without copying it: the header is written in front of it and a
        client masks it in place, so the content of `buffer` is undefined afterwards. Returns what
        `send` returns; `buffer` is untouched where that is False.

        :param msg_offset: bytes in front of the payload, at least 14
        :raises ValueError: `buffer` is None, `msg_offset` is under 14 or beyond the buffer, and as
            in `send`
        """
        raise face_only()

    cdef int send_reuse_external_buffer(
        self, WSMsgType msg_type, char* msg_ptr, Py_ssize_t msg_size,
        bint fin=True, bint rsv1=False, bint rsv2=False, bint rsv3=False
    ) except -1:
        raise face_only()

    cpdef send_ping(self, message=None):
        """
        Send a PING (RFC 6455 section 5.5.2) with at most 125 bytes of payload. Returns and raises
        as `send` does; ``max_write_buffer`` is not for control frames.
        """
        raise face_only()

    cpdef send_pong(self, message=None):
        """
        Send a PONG (RFC 6455 section 5.5.3) with at most 125 bytes of payload. Returns and raises
        as `send_ping` does.
        """
        raise face_only()

    cpdef send_close(self, close_code=NO_INFO, close_message=None):
        """
        Send a CLOSE (RFC 6455 section 5.5.1). It is the last frame: every later send is a no-op.

        :param close_code: 1000 to 1003, 1007 to 1014, 3000 to 4999; ``WSCloseCode.NO_INFO`` (0)
            sends no code
        :param close_message: the reason: str, or UTF-8 in bytes; at most 123 bytes
        :raises ValueError: another code, a longer reason, one that is not UTF-8, or one without a
            code
        :raises TypeError: a value of another type
        """
        raise face_only()

    cpdef flush(self):
        """
        Send now what coalescing holds back until the end of the current read. Raises OSError as
        `send` does.
        """
        raise face_only()

    cpdef disconnect(self, bint graceful=True):
        """
        Close the connection below. No `WSListener.on_ws_frame` is called after this returned. It
        sends no CLOSE.

        :param graceful: True sends first what was accepted before (for at most 10 seconds); False
            drops it.

        Calling it again does nothing, but for graceful=False after graceful=True, which cuts the
        wait short.
        """
        raise face_only()

    cpdef pause_reading(self):
        """
        Stop `WSListener.on_ws_frame`, also for frames that were already read, and stop reading from
        the socket, so that TCP makes the peer wait. Calling it again does nothing.
        """
        raise face_only()

    cpdef resume_reading(self):
        """
        Undo `pause_reading`. Frames that wait are delivered from the event loop, not inside this
        call.
        """
        raise face_only()

    cpdef notify_user_specific_pong_received(self):
        """
        Tell auto ping that its ping was answered, where `WSListener.on_ws_frame` finds that out
        itself, after `WSListener.is_user_specific_pong` said False. Does nothing while no pong is
        awaited.
        """
        raise face_only()

    async def measure_roundtrip_time(self, rounds):
        """
        Send a PING, wait for its PONG, `rounds` times one after the other.

        :param rounds: int, at least 1
        :returns: a list with the seconds of each
        :raises ConnectionResetError: the connection is closed, or was before the last PONG
        :raises TypeError, ValueError: `rounds` is no int, or less than 1

        The PONGs do not reach `WSListener.on_ws_frame`. Several calls at once are fine; cancelling
        one disturbs nobody else. It waits as long as the peer takes: see ``asyncio.timeout``.
        """
        raise face_only()

    async def wait_disconnected(self):
        """
        Wait until the connection is closed and `WSListener.on_ws_disconnected` has run.

        On the client side raises the first exception that a callback raised, or the
        `WSProtocolError` of a violation that was found here. Cancelling it disturbs nobody else.
        """
        raise face_only()


cdef class WSListener:
    """
    What happens on one connection; subclass it in Python, or in Cython as a ``cdef class``.

    The methods are plain functions that the event loop calls as data arrives. An exception in any
    of them closes the connection (CLOSE 1011, or what a raised `WSProtocolError` says).
    """

    cpdef on_ws_connected(self, WSTransport transport):
        """The upgrade is done. Called once, before any frame."""

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        """
        A frame has arrived. `frame` may be kept.

        A PING that is answered automatically is not delivered, nor is a PONG that auto ping or
        `WSTransport.measure_roundtrip_time` waits for.
        """

    cpdef on_ws_disconnected(self, WSTransport transport):
        """The connection is gone. Called once per `on_ws_connected`; nothing is called after it."""

    cpdef send_user_specific_ping(self, WSTransport transport):
        """Send what serves as a ping; by default a PING frame."""
        transport.send_ping()

    cpdef bint is_user_specific_pong(self, WSFrame frame) except? False:
        """
        Is `frame` the answer to `send_user_specific_ping`? By default: is it a PONG?

        Asked for each frame while auto ping awaits an answer, ahead of `on_ws_frame`, which does
        not see a frame for which this is True.
        """
        return frame.msg_type == PONG

    cpdef pause_writing(self):
        """The transport's write buffer is over its high-water mark: the peer reads too slowly."""

    cpdef resume_writing(self):
        """The transport's write buffer is below its low-water mark again."""


cdef extern from *:
    """
    static void *picows_listener_vtable;

    /* Cython's own tp_new calls tp_alloc, after which CPython 3.11 and 3.12 give a Python subclass
     * a dict of the slow kind. object.__new__ prepares the fast one (inline values), for which
     * attribute access is specialised: `self.x` in a callback costs half. The only field of a
     * WSListener is its vtable; a cdef subclass puts its own there, after this returned. */
    static PyObject *picows_listener_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
    {
        static PyObject *nothing;
        PyObject *listener;
        (void)args, (void)kwargs;
        if (nothing == NULL && (nothing = PyTuple_New(0)) == NULL)
            return NULL;
        listener = PyBaseObject_Type.tp_new(type, nothing, NULL);
        if (listener != NULL)
            *(void **)((char *)listener + sizeof(PyObject)) = picows_listener_vtable;
        return listener;
    }

    static int picows_listener_install(PyObject *type, PyObject *listener)
    {
        PyTypeObject *t = (PyTypeObject *)type;
        if (t->tp_basicsize != sizeof(PyObject) + sizeof(void *)) {
            PyErr_SetString(PyExc_SystemError, "WSListener must have no field but its vtable");
            return -1;
        }
        picows_listener_vtable = *(void **)((char *)listener + sizeof(PyObject));
        t->tp_new = picows_listener_new;
        return 0;
    }
    """
    int picows_listener_install(object type, object listener) except -1


picows_listener_install(WSListener, WSListener())
