from asyncio import AbstractEventLoop, BufferedProtocol
from typing import Any

from typing_extensions import disjoint_base

from picows.aio.keepalive import AutoPingSettings
from picows.aio.logs import AnyLogger
from picows.aio.transport import WSListener, WSTransport
from picows.handshake.deflate import DeflateAgreement, PerMessageDeflate
from picows.handshake.http11 import WSUpgradeRequest, WSUpgradeResponse

__all__ = ["CLOSE_TIMEOUT", "Connection", "Settings"]

CLOSE_TIMEOUT: float

@disjoint_base
class Settings:
    def __init__(
        self,
        *,
        is_client_side: bool,
        logger: AnyLogger,
        disconnect_on_exception: bool,
        auto_ping: AutoPingSettings | None,
        enable_auto_pong: bool,
        coalesce_writes: bool,
        transport_copies: bool,
        max_frame_size: int,
        read_buffer_init_size: int,
        assemble_messages: bool,
        max_message_size: int,
        max_fragments: int,
        deflate: PerMessageDeflate | None,
    ) -> None: ...
    @property
    def is_client_side(self) -> bool: ...
    @property
    def logger(self) -> AnyLogger: ...
    @property
    def deflate(self) -> PerMessageDeflate | None: ...

@disjoint_base
class Connection(WSTransport, BufferedProtocol):
    def __init__(
        self, loop: AbstractEventLoop, settings: Settings, upgrade: Any, owner: Any
    ) -> None: ...
    def open(
        self,
        listener: WSListener,
        request: WSUpgradeRequest,
        response: WSUpgradeResponse,
        trailing: bytes,
        deflate_agreement: DeflateAgreement | None = None,
    ) -> None: ...
    def abort(self) -> None: ...
    def forget(self) -> None: ...
    def shut_down(self, code: int) -> None: ...
    async def wait_closed(self) -> None: ...
    last_heard: float
    @property
    def can_send(self) -> bool: ...
    @property
    def is_frame_under_way(self) -> bool: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_taken(self) -> int: ...
    def send_auto_ping(self) -> None: ...
    def give_up_peer(self, why: str) -> None: ...
