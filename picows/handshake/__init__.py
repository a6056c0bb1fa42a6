"""The opening handshake, bytes <-> upgrade (RFC 6455 section 4), without I/O.

    headers    what may be sent in a field, what a log may show of it
    http11     request, response, their heads, a bounded body
    negotiate  key and answer, subprotocols, extensions
    client     ClientHandshake
    server     ServerHandshake

Here is no asyncio, no socket, no clock and no logging: whoever drives a handshake owns these, and
the deadline with them.
"""

from .client import ClientHandshake
from .http11 import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener
from .server import ServerHandshake, ServerRefusal, encode_response

__all__ = [
    "ClientHandshake",
    "ServerHandshake",
    "ServerRefusal",
    "WSUpgradeRequest",
    "WSUpgradeResponse",
    "WSUpgradeResponseWithListener",
    "encode_response",
]
