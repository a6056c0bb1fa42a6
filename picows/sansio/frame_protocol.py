"""Frames without I/O, without the state of a connection: below `Connection`.

What always holds: one `FrameProtocol` is one side of one connection, and its extensions are those
that were agreed on there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from picows.errors import WSProtocolError
from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.extension import CloseReason, Extension, Opcode, RsvBits

from .inbound import Inbound
from .outbound import Outbound
from .utilities import LocalProtocolError

__all__ = [
    "DEFAULT_MAX_FRAGMENTS",
    "DEFAULT_MAX_MESSAGE_SIZE",
    "CloseReason",
    "Frame",
    "FrameProtocol",
    "Opcode",
    "ParseFailed",
    "RsvBits",
]

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024  # bytes
DEFAULT_MAX_FRAGMENTS = 65_536


class ParseFailed(Exception):
    """The other side sent what it must not. ``code`` is what to close the connection with."""

    code: CloseReason

    def __init__(self, msg: str, code: CloseReason = CloseReason.PROTOCOL_ERROR) -> None:
        super().__init__(msg)
        self.code = code


class Frame(NamedTuple):
    """A frame, or the part of a data frame that has arrived.

    A continuation has the opcode of its message. The payload is str for TEXT, bytes for BINARY,
    PING and PONG, and code and reason for CLOSE (1005 and "" where it has none).
    """

    opcode: Opcode
    payload: bytes | str | tuple[int, str]
    frame_finished: bool
    message_finished: bool


class FrameProtocol:
    """Both halves of one side: bytes to frames, payloads to bytes.

    :param client: is this side the client, which masks?
    :param extensions: those that are not enabled are left out. An extension of a class of your own
        sees every frame
    :param max_message_size: bytes; a received message of more fails (1009)
    :param max_inflated_size: bytes; the same for what was compressed. None: as the
        `PerMessageDeflate` says, as also where it stands beside extensions of your own
    :param max_fragments: frames; a received message of more fails (1009)
    :param assemble_messages: whole messages instead of what arrives of them

    Raises TypeError for parameters of other types, ValueError for sizes below 1.
    """

    client: bool
    extensions: list[Extension]

    def __init__(
        self,
        client: bool,
        extensions: Sequence[Extension] | None,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_inflated_size: int | None = None,
        max_fragments: int = DEFAULT_MAX_FRAGMENTS,
        assemble_messages: bool = False,
    ) -> None:
        check_limit("max_message_size", max_message_size)
        check_limit("max_fragments", max_fragments)
        if max_inflated_size is not None:
            check_limit("max_inflated_size", max_inflated_size)
        if not isinstance(assemble_messages, bool):
            raise TypeError(f"assemble_messages must be True or False, not {assemble_messages!r}")
        self.client = client
        self.extensions = enabled_extensions(extensions)
        inflater = deflater = None
        hooks: list[Extension] | None = None
        threshold = 0
        if len(self.extensions) == 1 and type(self.extensions[0]) is PerMessageDeflate:
            deflate = self.extensions[0]
            inflater, deflater = deflate.codecs(client)
            threshold = deflate.threshold
            if max_inflated_size is None:
                max_inflated_size = deflate.max_inflated_size
        elif self.extensions:
            hooks = self.extensions
        # What extensions get; the others need no cycle of references.
        proto = None if hooks is None else self
        self._inbound = Inbound(
            client,
            assemble_messages,
            max_message_size,
            max_fragments,
            inflater,
            max_message_size if max_inflated_size is None else max_inflated_size,
            hooks,
            proto,
        )
        self._outbound = Outbound(client, deflater, threshold, hooks, proto)

    def receive_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes have come; `received_frames` tells what they say."""
        self._inbound.receive(data)

    def received_frames(self) -> Iterator[Frame]:
        """
        What has come since, up to a CLOSE. Raises `ParseFailed` for what the other side must not
        send; nothing comes after that.
        """
        while True:
            try:
                part = self._inbound.read()
            except WSProtocolError as exc:
                raise ParseFailed(str(exc), CloseReason(exc.code)) from None
            if part is None:
                return
            opcode, payload, frame_finished, message_finished = part
            if opcode == Opcode.CLOSE:
                assert isinstance(payload, bytes)
                yield Frame(Opcode.CLOSE, _code_and_reason(payload), True, True)
            else:
                yield Frame(Opcode(opcode), payload, frame_finished, message_finished)

    def ping(self, payload: bytes = b"") -> bytearray:
        """A PING. Raises ValueError for more than 125 bytes (RFC 6455 section 5.5)."""
        return bytearray(self._outbound.control_frame(Opcode.PING, payload))

    def pong(self, payload: bytes = b"") -> bytearray:
        """A PONG. Raises ValueError for more than 125 bytes (RFC 6455 section 5.5)."""
        return bytearray(self._outbound.control_frame(Opcode.PONG, payload))

    def close(self, code: int | None = None, reason: str | None = None) -> bytearray:
        """
        A CLOSE; a reason of more than 123 bytes is cut. Raises `LocalProtocolError` for a code that
        must not be sent (RFC 6455 section 7.4), and for a reason without a code.
        """
        try:
            return bytearray(self._outbound.close_frame(code, reason))
        except WSProtocolError as exc:
            raise LocalProtocolError(str(exc)) from None

    def send_data(self, payload: bytes | bytearray | str = b"", fin: bool = True) -> bytearray:
        """
        The next frame of a message, TEXT for a str; `fin`: the last one. Raises TypeError for data
        of another type than the message began with.
        """
        return bytearray(self._outbound.data_frame(payload, fin))


def check_limit(name: str, value: object) -> None:
    """An int from 1 on, and small enough for the sums that are made with it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if not 1 <= value <= 2**48:
        raise ValueError(f"{name} must be from 1 to 2**48, not {value}")


def enabled_extensions(extensions: Sequence[Extension] | None) -> list[Extension]:
    """Those that were agreed on. Raises TypeError for what are no extensions."""
    given: object = [] if extensions is None else extensions
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise TypeError(f"extensions must be a list of Extension objects, not {extensions!r}")
    for extension in given:
        if not isinstance(extension, Extension):
            raise TypeError(f"extensions must hold Extension objects, not {extension!r}")
    return [extension for extension in given if extension.enabled()]


def _code_and_reason(payload: bytes) -> tuple[int, str]:
    """What a CLOSE says, whose payload has been checked (RFC 6455 section 5.5.1)."""
    if not payload:
        return CloseReason.NO_STATUS_RCVD, ""
    code = int.from_bytes(payload[:2], "big")
    reason = payload[2:].decode("utf-8")
    try:
        return CloseReason(code), reason
    except ValueError:
        return code, reason
