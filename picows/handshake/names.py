"""Names of the opening handshake's header fields, in the form that a CIMultiDict need not fold."""

from __future__ import annotations

from multidict import istr

__all__ = [
    "CONNECTION",
    "CONTENT_LENGTH",
    "HOST",
    "SEC_WEBSOCKET_ACCEPT",
    "SEC_WEBSOCKET_EXTENSIONS",
    "SEC_WEBSOCKET_KEY",
    "SEC_WEBSOCKET_PROTOCOL",
    "SEC_WEBSOCKET_VERSION",
    "TRANSFER_ENCODING",
    "UPGRADE",
]

CONNECTION = istr("Connection")
CONTENT_LENGTH = istr("Content-Length")
HOST = istr("Host")
SEC_WEBSOCKET_ACCEPT = istr("Sec-WebSocket-Accept")
SEC_WEBSOCKET_EXTENSIONS = istr("Sec-WebSocket-Extensions")
SEC_WEBSOCKET_KEY = istr("Sec-WebSocket-Key")
SEC_WEBSOCKET_PROTOCOL = istr("Sec-WebSocket-Protocol")
SEC_WEBSOCKET_VERSION = istr("Sec-WebSocket-Version")
TRANSFER_ENCODING = istr("Transfer-Encoding")
UPGRADE = istr("Upgrade")
