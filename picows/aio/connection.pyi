from asyncio import AbstractEventLoop, BufferedProtocol
from typing import Any

from typing_extensions import disjoint_base

from picows.aio.inbound import Inbound
from picows.aio.settings import Settings
from picows.aio.transport import WSListener
from picows.handshake.deflate import DeflateAgreement
from picows.handshake.http11 import WSUpgradeRequest, WSUpgradeResponse

__all__ = ["CLOSE_TIMEOUT", "Connection"]

CLOSE_TIMEOUT: float

@disjoint_base
class Connection(Inbound, BufferedProtocol):
    def __init__(
        self, loop: AbstractEventLoop, settings: Settings, upgrade: Any, owner: Any
    ) -> None: ...
    def open(
        self,
        listener: WSListener,
        request: WSUpgradeRequest | None,
        response: WSUpgradeResponse | None,
        trailing: bytes,
        deflate_agreement: DeflateAgreement | None = None,
    ) -> None: ...
    def abort(self) -> None: ...
    def forget(self) -> None: ...
    def shut_down(self, code: int) -> None: ...
    async def wait_closed(self) -> None: ...
