"""permessage-deflate as it is negotiated (RFC 7692 sections 5 and 7.1).

Always holds: what a peer sends makes an offer be declined, or raises the one exception that is
named; and what is agreed on is something that both of our halves can do.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .negotiate import Parameters

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


class PerMessageDeflate:
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
        self.client_no_context_takeover = client_no_context_takeover
        self.client_max_window_bits = client_max_window_bits
        self.server_no_context_takeover = server_no_context_takeover
        self.server_max_window_bits = server_max_window_bits
        self.level = level
        self.memory_level = memory_level
        self.threshold = threshold
        self.max_inflated_size = max_inflated_size

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
        parameters = [
            f"client_max_window_bits={self.client_max_window_bits}",
            f"server_max_window_bits={self.server_max_window_bits}",
        ]
        if self.client_no_context_takeover:
            parameters.append("client_no_context_takeover")
        if self.server_no_context_takeover:
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
        flags = {name: name in values or getattr(self, name) for name in (_SERVER[0], _CLIENT[0])}
        response = [name for name, is_set in flags.items() if is_set]
        server_bits = self.server_max_window_bits
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
            client_bits = min(self.client_max_window_bits, values[_CLIENT[1]] or 15)
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
        server_bits = values.get(_SERVER[1], 15)
        client_bits = values.get(_CLIENT[1], self.client_max_window_bits)
        # In a response both have values.
        if server_bits is None or client_bits is None:
            return None
        if server_bits > self.server_max_window_bits:
            return None
        if self.server_no_context_takeover and _SERVER[0] not in values:
            return None
        return DeflateAgreement(
            _SERVER[0] in values,
            # RFC 7692 section 7.1.1.2: what a client offers it keeps to, confirmed or not.
            _CLIENT[0] in values or self.client_no_context_takeover,
            server_bits,
            min(client_bits, self.client_max_window_bits),
        )


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
