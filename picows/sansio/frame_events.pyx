# cython: language_level=3
"""The events that frames become, and that become frames.

They behave as frozen dataclasses do, and `dataclasses.fields`, `asdict` and `replace` work on them;
but making one takes a tenth of the time, and two are made for every message that is answered.

Always holds: an event does not change once it is made. Code in C may fill the fields of one that
nobody has seen yet.
"""

import dataclasses
import inspect
from types import GenericAlias

cimport cython

__all__ = ["BytesMessage", "CloseConnection", "Event", "Message", "Ping", "Pong", "TextMessage"]


# The same events as dataclasses, for all that describes them.
@dataclasses.dataclass(frozen=True)
class _Message:
    data: object
    frame_finished: bool = True
    message_finished: bool = True


@dataclasses.dataclass(frozen=True)
class _Payload:
    payload: bytes = b""


@dataclasses.dataclass(frozen=True)
class _CloseConnection:
    code: int
    reason: str | None = None


cdef class Event:
    """Base of all events."""


# no_gc, here and below: an event refers to what a frame holds, and to nothing that refers back.
@cython.no_gc
cdef class FrameEvent(Event):
    """What these events have in common."""

    __match_args__ = ()

    cdef tuple values(self):
        """The values of the fields, in order."""
        return ()

    def __repr__(self):
        fields = zip(type(self).__match_args__, self.values())
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return self.values() == (<FrameEvent>other).values()

    def __hash__(self):
        return hash(self.values())

    def __reduce__(self):
        return type(self), self.values()

    def __setattr__(self, name, value):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


@cython.no_gc
cdef class Message(FrameEvent):
    """
    A message, or a part of one. Sent, it becomes one frame: TEXT of a str, BINARY of bytes.

    :param data: the payload: str, or bytes-like
    :param frame_finished: does it end a frame? Nothing to senders
    :param message_finished: does it end the message (RFC 6455 section 5.4)?
    """

    __match_args__ = ("data", "frame_finished", "message_finished")
    __dataclass_fields__ = _Message.__dataclass_fields__
    __dataclass_params__ = _Message.__dataclass_params__
    __signature__ = inspect.signature(_Message)
    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, data, bint frame_finished=True, bint message_finished=True):
        self.data = data
        self.frame_finished = frame_finished
        self.message_finished = message_finished

    cdef tuple values(self):
        return self.data, self.frame_finished, self.message_finished


@cython.no_gc
cdef class TextMessage(Message):
    """A `Message` of text. ``data`` is a str that ends between two characters."""


@cython.no_gc
cdef class BytesMessage(Message):
    """A `Message` of bytes."""


@cython.no_gc
cdef class Ping(FrameEvent):
    """
    A PING (RFC 6455 section 5.5.2). Nothing answers by itself: send its `response`.

    :param payload: at most 125 bytes
    """

    __match_args__ = ("payload",)
    __dataclass_fields__ = _Payload.__dataclass_fields__
    __dataclass_params__ = _Payload.__dataclass_params__
    __signature__ = inspect.signature(_Payload)

    def __init__(self, payload=b""):
        self.payload = payload

    def response(self):
        """The `Pong` that answers it."""
        return Pong(self.payload)

    cdef tuple values(self):
        return (self.payload,)


@cython.no_gc
cdef class Pong(FrameEvent):
    """
    A PONG (RFC 6455 section 5.5.3).

    :param payload: at most 125 bytes
    """

    __match_args__ = ("payload",)
    __dataclass_fields__ = _Payload.__dataclass_fields__
    __dataclass_params__ = _Payload.__dataclass_params__
    __signature__ = inspect.signature(_Payload)

    def __init__(self, payload=b""):
        self.payload = payload

    cdef tuple values(self):
        return (self.payload,)


@cython.no_gc
cdef class CloseConnection(FrameEvent):
    """
    A CLOSE (RFC 6455 section 5.5.1); or that the connection ended without one (1006), or has to
    be closed for what the other side sent.

    :param code: a `CloseReason`, or an int where that has no such member; 1005 for a CLOSE without
        a code
    :param reason: text of at most 123 bytes in UTF-8, or None
    """

    __match_args__ = ("code", "reason")
    __dataclass_fields__ = _CloseConnection.__dataclass_fields__
    __dataclass_params__ = _CloseConnection.__dataclass_params__
    __signature__ = inspect.signature(_CloseConnection)

    def __init__(self, code, reason=None):
        self.code = code
        self.reason = reason

    def response(self):
        """The same again: what answers a CLOSE (RFC 6455 section 5.5.1)."""
        return CloseConnection(self.code, self.reason)

    cdef tuple values(self):
        return self.code, self.reason
