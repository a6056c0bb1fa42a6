from collections.abc import Iterable

from typing_extensions import Buffer

from picows.aio.broadcast_result import BroadcastResult
from picows.aio.transport import WSTransport
from picows.wire.frame import WSMsgType

__all__ = ["broadcast"]

def broadcast(
    transports: Iterable[WSTransport],
    msg_type: WSMsgType,
    message: Buffer | str | None,
    *,
    compress: bool | None = None,
) -> BroadcastResult: ...
