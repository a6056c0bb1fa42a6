"""permessage-deflate as it is negotiated (RFC 7692 sections 5 and 7.1), and as an `Extension`.

`PerMessageDeflate` is settings, as asyncio's entry points use it: `agree` and `confirm` change
nothing, one instance serves any number of connections. With `accept` or `finalize` it becomes an
extension of one connection without I/O and remembers what was agreed on there. Such a connection
compresses in C; the methods on frames do it for connections that have other extensions besides.

Always holds: what a peer sends makes an offer be declined, or raises the one exception that is
named; and what is agreed on is something that both of our halves can do.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from picows.errors import WSInvalidHeaderError
from picows.wire.deflate import Deflater, Inflater

from .extension import CloseReason, Extension, Opcode, RsvBits
from .negotiate import Parameters, extensions

__all__ = ["DeflateAgreement", "PerMessageDeflate"]

# RFC 7692 section 7.1.2.1: "a decimal integer value without leading zeroes between 8 to 15".
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")

# The names of the parameters, by side: takeover, window.
_SERVER = ("server_no_context_takeover", "server_max_window_bits")
_CLIENT = ("client_no_context_takeover", "client_max_window_bits")


class DeflateAgreement(NamedTuple):
    """What both sides keep to on one connection; window bits are 8 to 15."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int


class PerMessageDeflate(Extension):
    """
    How messages are compressed (RFC 7692). Since 0.1.

    What the other side must agree to:

    :param client_no_context_takeover: does the client compress each message by itself?
    :param client_max_window_bits: 9 to 15, of the client's window; a window takes 2 to the power of
        it bytes on the receiving side and four times as much on the sending one
    :param server_no_context_takeover, server_max_window_bits: the same of the server

    What this side does alone:

    :param level: 1 (fastest) to 9 (smallest)
    :param memory_level: 1 to 9; the sending side takes 2 to the power of it + 9 bytes
    :param threshold: bytes; a message that is smaller goes out as it is
    :param max_inflated_size: bytes; a message, or a frame where messages are not assembled, that
        would inflate to more closes the connection (1009)
    """

    name = "permessage-deflate"
    DEFAULT_CLIENT_MAX_WINDOW_BITS = 15
    DEFAULT_SERVER_MAX_WINDOW_BITS = 15

    def __init__(
        self,
        client_no_context_takeover: bool = False,
        client_max_window_bits: int | None = None,
        server_no_context_takeover: bool = False,
        server_max_window_bits: int | None = None,
        *,
        level: int = 1,
        memory_level: int = 5,
        threshold: int = 64,
        max_inflated_size: int = 64 * 1024 * 1024,
    ) -> None:
        if client_max_window_bits is None:
            client_max_window_bits = self.DEFAULT_CLIENT_MAX_WINDOW_BITS
        if server_max_window_bits is None:
            server_max_window_bits = self.DEFAULT_SERVER_MAX_WINDOW_BITS
        for name, flag in (
            ("client_no_context_takeover", client_no_context_takeover),
            ("server_no_context_takeover", server_no_context_takeover),
        ):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, not {flag!r}")
        for name, value, least, most in (
            # zlib deflates nothing with a window of 8.
            ("client_max_window_bits", client_max_window_bits, 9, 15),
            ("server_max_window_bits", server_max_window_bits, 9, 15),
            ("level", level, 1, 9),
            ("memory_level", memory_level, 1, 9),
            ("threshold", threshold, 0, 2**48),
            ("max_inflated_size", max_inflated_size, 1, 2**48),
        ):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}, not {value}")
        self._settings = DeflateAgreement(
            server_no_context_takeover,
            client_no_context_takeover,
            server_max_window_bits,
            client_max_window_bits,
        )
        self.level = level
        self.memory_level = memory_level
        self.threshold = threshold
        self.max_inflated_size = max_inflated_size
        self.reset()

    # What was agreed on, once it was; until then what was asked for.

    @property
    def client_no_context_takeover(self) -> bool:
        """Does the client compress each message by itself?"""
        return (self.agreement or self._settings).client_no_context_takeover

    @property
    def client_max_window_bits(self) -> int:
        """Of the client's window: 8 to 15."""
        return (self.agreement or self._settings).client_max_window_bits

    @property
    def server_no_context_takeover(self) -> bool:
        """Does the server compress each message by itself?"""
        return (self.agreement or self._settings).server_no_context_takeover

    @property
    def server_max_window_bits(self) -> int:
        """Of the server's window: 8 to 15."""
        return (self.agreement or self._settings).server_max_window_bits

    def __repr__(self) -> str:
        parameters = [f"client_max_window_bits={self.client_max_window_bits}"]
        if self.client_no_context_takeover:
            parameters.append("client_no_context_takeover")
        parameters.append(f"server_max_window_bits={self.server_max_window_bits}")
        if self.server_no_context_takeover:
            parameters.append("server_no_context_takeover")
        return f"<{type(self).__name__} {'; '.join(parameters)}>"

    def offer_parameters(self) -> str:
        """What a client offers, without the name of the extension."""
        asked = self._settings
        parameters = [
            f"client_max_window_bits={asked.client_max_window_bits}",
            f"server_max_window_bits={asked.server_max_window_bits}",
        ]
        if asked.client_no_context_takeover:
            parameters.append("client_no_context_takeover")
        if asked.server_no_context_takeover:
            parameters.append("server_no_context_takeover")
        return "; ".join(parameters)

    def agree(self, offer: Parameters) -> tuple[DeflateAgreement, str] | None:
        """
        The server's answer to an offer: what is agreed on, and the parameters of the response.

        None declines: a parameter is unknown, repeated, out of its range, or cannot be kept here
        (RFC 7692 section 7.1).
        """
        values = _values(offer)
        if values is None:
            return None
        asked = self._settings
        flags = {name: name in values or getattr(asked, name) for name in (_SERVER[0], _CLIENT[0])}
        response = [name for name, is_set in flags.items() if is_set]
        server_bits = asked.server_max_window_bits
        if _SERVER[1] in values:
            offered = values[_SERVER[1]]
            # RFC 7692 section 7.1.2.1: in an offer it has a value. 8 is more than zlib can do.
            if offered is None or offered == 8:
                return None
            server_bits = min(server_bits, offered)
        if _SERVER[1] in values or server_bits < 15:
            response.append(f"{_SERVER[1]}={server_bits}")
        client_bits = 15
        # RFC 7692 section 7.1.2.2: only a client that offered it can be told.
        if _CLIENT[1] in values:
            client_bits = min(asked.client_max_window_bits, values[_CLIENT[1]] or 15)
            response.append(f"{_CLIENT[1]}={client_bits}")
        agreement = DeflateAgreement(flags[_SERVER[0]], flags[_CLIENT[0]], server_bits, client_bits)
        return agreement, "; ".join(response)

    def confirm(self, response: Parameters) -> DeflateAgreement | None:
        """
        What a client's offer and the server's response agree on; None where the response is no
        answer to the offer (RFC 7692 section 7.1), which fails the connection.
        """
        values = _values(response)
        if values is None:
            return None
        asked = self._settings
        server_bits = values.get(_SERVER[1], 15)
        client_bits = values.get(_CLIENT[1], asked.client_max_window_bits)
        # In a response both have values.
        if server_bits is None or client_bits is None:
            return None
        if server_bits > asked.server_max_window_bits:
            return None
        if asked.server_no_context_takeover and _SERVER[0] not in values:
            return None
        return DeflateAgreement(
            _SERVER[0] in values,
            # RFC 7692 section 7.1.1.2: what a client offers it keeps to, confirmed or not.
            _CLIENT[0] in values or asked.client_no_context_takeover,
            server_bits,
            min(client_bits, asked.client_max_window_bits),
        )

    # As an extension of one connection without I/O

    def reset(self) -> None:
        """Forget what was agreed on: it is settings again."""
        self.agreement: DeflateAgreement | None = None
        self._inflater: Inflater | None = None
        self._deflater: Deflater | None = None
        # Of the frame under way: is its payload compressed? Of the message: is it, and how large.
        self._inflates = False
        self._inbound_is_compressed = False
        self._inflated_size = 0
        self._outbound_is_compressed = False

    def enabled(self) -> bool:
        """Was it agreed on?"""
        return self.agreement is not None

    def offer(self) -> str:
        """What a client offers, without the name of the extension."""
        return self.offer_parameters()

    def accept(self, offer: str) -> str | None:
        """
        A client's offer, as in ``permessage-deflate; client_max_window_bits``. Returns the
        parameters of the answer, which may be empty; None to decline (`agree` says when).
        """
        parameters = self._parameters(offer)
        agreed = None if parameters is None else self.agree(parameters)
        if agreed is None:
            return None
        self.reset()
        self.agreement, answer = agreed
        return answer

    def finalize(self, offer: str) -> None:
        """A server's answer. Raises `WSInvalidHeaderError` if it is none (`confirm` says when)."""
        parameters = self._parameters(offer)
        agreement = None if parameters is None else self.confirm(parameters)
        if agreement is None:
            raise WSInvalidHeaderError("Sec-WebSocket-Extensions", offer)
        self.reset()
        self.agreement = agreement

    def _parameters(self, text: str) -> Parameters | None:
        """Those of the one extension that `text` names, if it is this one."""
        try:
            members = extensions([text])
        except ValueError:
            return None
        if len(members) != 1 or members[0][0] != self.name:
            return None
        return members[0][1]

    def codecs(self, client: bool) -> tuple[Inflater, Deflater | None]:
        """
        The two halves of one side of a connection, by what was agreed on. There is no `Deflater`
        for a window of 8 bits, with which zlib deflates nothing: then nothing is compressed.
        """
        if self.agreement is None:
            raise RuntimeError("permessage-deflate was not agreed on")
        server_alone, client_alone, server_bits, client_bits = self.agreement
        if client:
            inflater = Inflater(server_bits, not server_alone)
            alone, bits = client_alone, client_bits
        else:
            inflater = Inflater(client_bits, not client_alone)
            alone, bits = server_alone, server_bits
        if bits == 8:
            return inflater, None
        return inflater, Deflater(bits, not alone, self.level, self.memory_level)

    def _codecs_once(self, client: bool) -> tuple[Inflater, Deflater | None]:
        if self._inflater is None:
            self._inflater, self._deflater = self.codecs(client)
        return self._inflater, self._deflater

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """RFC 7692 section 6: the first bit is set with the first frame of a message only."""
        if self.agreement is None:
            return RsvBits(False, False, False)
        if rsv.rsv1 and (opcode == Opcode.CONTINUATION or opcode.iscontrol()):
            return CloseReason.PROTOCOL_ERROR
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._inbound_is_compressed = rsv.rsv1
            self._inflated_size = 0
        self._inflates = self._inbound_is_compressed and not opcode.iscontrol()
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        """Inflated, where the message is compressed."""
        if not self._inflates:
            return data
        return self._inflate(proto.client, data, False)

    def frame_inbound_complete(self, proto: Any, fin: bool) -> bytes | CloseReason | None:
        """What is left in the inflater at the end of a message."""
        if not self._inflates or not fin:
            return None
        return self._inflate(proto.client, b"", True)

    def _inflate(self, client: bool, data: bytes, fin: bool) -> bytes | CloseReason:
        inflater, _ = self._codecs_once(client)
        try:
            inflated = inflater.inflate_bytes(
                bytes(data), fin, self.max_inflated_size - self._inflated_size
            )
        except OverflowError:
            return CloseReason.MESSAGE_TOO_BIG
        except ValueError:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated_size += len(inflated)
        return inflated

    def frame_outbound(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """Deflated, unless the message is below ``threshold``."""
        if self.agreement is None or opcode.iscontrol():
            return rsv, data
        _, deflater = self._codecs_once(proto.client)
        if opcode != Opcode.CONTINUATION:
            # A message is compressed as a whole, or not at all.
            self._outbound_is_compressed = deflater is not None and (
                not fin or len(data) >= self.threshold
            )
        if deflater is None or not self._outbound_is_compressed:
            return rsv, data
        if opcode != Opcode.CONTINUATION:
            rsv = RsvBits(True, rsv.rsv2, rsv.rsv3)
        return rsv, deflater.deflate_bytes(bytes(data), fin)


def _values(parameters: Parameters) -> dict[str, int | None] | None:
    """By name: the window's bits, None where there is no value. None for what is not allowed."""
    values: dict[str, int | None] = {}
    for name, value in parameters:
        if name in values:
            return None
        if name in (_SERVER[0], _CLIENT[0]):
            if value is not None:
                return None
            values[name] = None
        elif name in (_SERVER[1], _CLIENT[1]):
            if value is not None and not _WINDOW_BITS.fullmatch(value):
                return None
            values[name] = None if value is None else int(value)
        else:
            return None
    return values
