"""What an extension of the protocol is (RFC 6455 section 9), for whoever writes one.

`Extension` is negotiated in the opening handshake and then sees every frame of a connection without
I/O; it stands here, below `picows.sansio`, because `PerMessageDeflate` is one. With it come the
words that its methods speak: `Opcode`, `RsvBits`, `CloseReason`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Any, NamedTuple

__all__ = ["CloseReason", "Extension", "Opcode", "RsvBits"]


class Opcode(IntEnum):
    """The types of frames (RFC 6455 section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    def iscontrol(self) -> bool:
        """Is it a control frame's (RFC 6455 section 5.5)?"""
        return self >= Opcode.CLOSE


class CloseReason(IntEnum):
    """Close codes (RFC 6455 section 7.4.1); 1005, 1006 and 1015 never stand in a frame."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_FRAME_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXT = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TLS_HANDSHAKE_FAILED = 1015


class RsvBits(NamedTuple):
    """The reserved bits of a frame."""

    rsv1: bool
    rsv2: bool
    rsv3: bool


class Extension(ABC):
    """One extension on one connection. Subclasses have a ``name``, and override what they need.

    The ``proto`` that the frame methods get is the `picows.sansio.frame_protocol.FrameProtocol` of
    the connection: ``proto.client`` says whose side it is. Inbound, extensions are asked in the
    order of the connection's list, each gets what the one before it made; outbound in the opposite
    order. Where a `CloseReason` is returned, the connection fails with that code.
    """

    name: str

    def enabled(self) -> bool:
        """Was it agreed on? Asked once, when the connection begins."""
        return False

    @abstractmethod
    def offer(self) -> bool | str:
        """What a client offers: the parameters, True where there are none, False not to offer."""

    def accept(self, offer: str) -> bool | str | None:
        """
        A client's offer, ``name; parameter=value``, reaches a server. Returns the parameters of the
        answer, True where there are none; None or False to decline.
        """
        return None

    def finalize(self, offer: str) -> None:  # noqa: B027 - most have nothing to do
        """A server's answer reaches the client that offered. Raises a `WSError` if it is none."""

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """
        A frame begins. Returns the reserved bits that mean something to this extension; a bit that
        is set and means nothing to any fails the connection.
        """
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        """A part of its payload, as much as has arrived. Returns what it becomes."""
        return data

    def frame_inbound_complete(self, proto: Any, fin: bool) -> bytes | CloseReason | None:
        """The frame is complete; ``fin``: its message, too. Returns what is put behind it."""
        return None

    def frame_outbound(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """A frame is about to be sent. Returns its reserved bits and its payload."""
        return rsv, data
