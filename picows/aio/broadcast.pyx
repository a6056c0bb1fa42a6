# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One message to many connections: framed once, compressed once, written to each.

Always holds: nothing is sent before all parameters were checked; what goes wrong with one
connection disturbs no other.
"""

from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from picows.aio.loop_state cimport LoopState
from picows.aio.outbound cimport Outbound, largest_frame, view_payload
from picows.aio.writer cimport OVERFLOW_RAISE
from picows.wire.buffers cimport Block
from picows.wire.deflate cimport Deflater
from picows.wire.frame cimport BINARY, CONTINUATION, WSMsgType
from picows.wire.sender cimport build_frame, check_data_frame, first_byte, header_size

from picows.aio.broadcast_result import BroadcastResult
from picows.aio.logs import PICOWS_DEBUG_LL

__all__ = ["broadcast"]


cdef bytes built_frame(unsigned char first, const char* payload, size_t size):
    """A server's frame: not masked, so the same for all."""
    cdef:
        size_t total = header_size(size, False) + size
        bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
    build_frame(PyBytes_AS_STRING(frame), first, payload, size, False, 0)
    return frame


cdef bytes deflated_frame(
    Outbound each, dict frames, unsigned char first, const char* payload, size_t size
):
    """
    The message as `each` and those that agreed on the same get it: compressed with an empty window,
    which any of them can inflate.
    """
    cdef:
        LoopState state = each.state
        Deflater deflater = each.deflater
        Block out
        size_t deflated
        bytes frame
    key = (deflater.window_bits, deflater.level, deflater.memory_level)
    frame = frames.get(key)
    if frame is None:
        if state.broadcast_deflaters is None:
            state.broadcast_deflaters = {}
        shared = state.broadcast_deflaters.get(key)
        if shared is None:
            shared = Deflater(deflater.window_bits, False, deflater.level, deflater.memory_level)
            state.broadcast_deflaters[key] = shared
        out = state.take_body()
        try:
            deflated = (<Deflater>shared).deflate(out, payload, size, True)
        except BaseException:
            # Half of the message may be in it, and come with the next one.
            del state.broadcast_deflaters[key]
            raise
        frame = built_frame(first | 0x40, out.data, deflated)
        state.give_back_body(out)
        frames[key] = frame
    return frame


cdef int send_to(
    Outbound each, unsigned char first, Py_buffer* view, object message, object compress,
    list plain, dict deflated
) except -1:
    """Send it on one connection, in the form that this one takes."""
    cdef:
        size_t size = <size_t>view.len
        bint is_data = first & 0x0F <= BINARY
    if each.masked:
        # RFC 6455 section 5.3: a new mask key for each frame, so nothing can be shared.
        if is_data and each.deflater is not None:
            return each.send_compressible(
                first, <const char*>view.buf, size, message, compress
            )
        return each.send_frame(first, <const char*>view.buf, size, message)
    if is_data and each.deflater is not None and (
        compress if compress is not None else size >= each.deflate_from
    ):
        frame = deflated_frame(each, deflated, first, <const char*>view.buf, size)
        # Ahead of sending it: pause_writing may send something behind it.
        each.deflater.forget()
        return each.send_built(frame, first | 0x40, size)
    if not plain:
        plain.append(built_frame(first, <const char*>view.buf, size))
    return each.send_built(plain[0], first, size)


def broadcast(transports, WSMsgType msg_type, message, *, compress=None):
    """
    Send a message on many connections. It is framed once and, where permessage-deflate was agreed
    on, compressed once for all that agreed on the same; nothing is copied for those that take it
    at once.

    :param transports: an iterable of `WSTransport` of this thread's loop; it may change meanwhile
    :param msg_type: TEXT, BINARY, PING or PONG
    :param message: bytes-like, str (sent as UTF-8) or None (empty)
    :param compress: as in `WSTransport.send`
    :returns: a `BroadcastResult`: how many got it, and who did not. It never raises for one
        connection's sake: one that is closed is skipped, an error of the system on one does not
        keep it from the others, and "raise" of ``overflow_policy`` is only told
    :raises ValueError: a fragment (CONTINUATION), a CLOSE, an unknown type, a PING or PONG over 125
        bytes
    :raises TypeError: a message of another type; something that is no `WSTransport`
    :raises RuntimeError: a connection of another thread's loop
    """
    cdef:
        Outbound each
        Py_buffer view
        Py_ssize_t sent = 0
        unsigned char first = first_byte(<unsigned int>msg_type, True, False, False, False)
        bint is_data = <int>msg_type <= BINARY
        list plain = []
        dict deflated = {}
        list closed = []
        list overflowed = []
        list busy = []
        tuple everybody = tuple(transports)
    if compress is not None and not isinstance(compress, bool):
        raise TypeError(f"compress must be True, False or None, not {compress!r}")
    if msg_type == CONTINUATION:
        raise ValueError("a broadcast is a whole message: no CONTINUATION")
    for transport in everybody:
        if not isinstance(transport, Outbound):
            raise TypeError(f"transports must be WSTransport objects, not {transport!r}")
        (<Outbound>transport).check_thread()
    view_payload(message, &view)
    try:
        if not is_data:
            check_data_frame(<int>msg_type, <size_t>view.len, True)
        for transport in everybody:
            each = <Outbound>transport
            try:
                # Ahead of the rules: pause_writing may send, or end the connection.
                each.make_room(largest_frame(<size_t>view.len))
                if not each.sendable:
                    closed.append(each)
                elif is_data and each.in_message:
                    busy.append(each)
                elif is_data and each.is_over_limit(<size_t>view.len):
                    overflowed.append(each)
                    if each.overflow_policy != OVERFLOW_RAISE:
                        each.overflow(<size_t>view.len)
                else:
                    send_to(each, first, &view, message, compress, plain, deflated)
                    sent += 1
            except OSError as exc:
                closed.append(each)
                each.logger.log(PICOWS_DEBUG_LL, "writing failed: %s", exc)
    finally:
        PyBuffer_Release(&view)
    return BroadcastResult(sent, closed, overflowed, busy)
