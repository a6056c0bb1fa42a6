"""WebSocket client and server for asyncio, accelerated with Cython.

`ws_connect` and `ws_create_server` are the two doors; a `WSListener` says what happens on a
connection, its `WSTransport` sends. `from picows cimport ...` gives the same names to Cython.
"""

from picows._version import __version__
from picows.aio.attach import ws_attach
from picows.aio.broadcast import broadcast
from picows.aio.broadcast_result import BroadcastResult
from picows.aio.connect import ws_connect
from picows.aio.logs import PICOWS_DEBUG_LL
from picows.aio.serve import WSServer, ws_create_server
from picows.aio.transport import WSAutoPingStrategy, WSListener, WSTransport
from picows.errors import (
    WSError,
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidMessageError,
    WSInvalidStatusError,
    WSInvalidUpgradeError,
    WSInvalidURL,
    WSProtocolError,
    WSWriteBufferFullError,
)
from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.http11 import (
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.urls import WSParsedURL
from picows.wire.frame import WSCloseCode, WSFrame, WSMsgType

__all__ = [
    "PICOWS_DEBUG_LL",
    "BroadcastResult",
    "PerMessageDeflate",
    "WSAutoPingStrategy",
    "WSCloseCode",
    "WSError",
    "WSFrame",
    "WSHandshakeError",
    "WSInvalidHeaderError",
    "WSInvalidMessageError",
    "WSInvalidStatusError",
    "WSInvalidURL",
    "WSInvalidUpgradeError",
    "WSListener",
    "WSMsgType",
    "WSParsedURL",
    "WSProtocolError",
    "WSServer",
    "WSTransport",
    "WSUpgradeRequest",
    "WSUpgradeResponse",
    "WSUpgradeResponseWithListener",
    "WSWriteBufferFullError",
    "__version__",
    "broadcast",
    "ws_attach",
    "ws_connect",
    "ws_create_server",
]
