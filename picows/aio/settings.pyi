from typing_extensions import disjoint_base

from picows.aio.keepalive import AutoPingSettings
from picows.aio.logs import AnyLogger
from picows.handshake.deflate import PerMessageDeflate

__all__ = ["Settings"]

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
        max_write_buffer: int,
        overflow_policy: int,
        busy_poll: float,
    ) -> None: ...
    @property
    def is_client_side(self) -> bool: ...
    @property
    def logger(self) -> AnyLogger: ...
    @property
    def deflate(self) -> PerMessageDeflate | None: ...
