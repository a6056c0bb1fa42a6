from typing_extensions import disjoint_base

from picows.aio.logs import AnyLogger
from picows.aio.parameters import OverflowPolicy
from picows.aio.transport import WSAutoPingStrategy
from picows.handshake.deflate import PerMessageDeflate

__all__ = [
    "MAX_SECONDS",
    "Settings",
    "check_count",
    "check_flag",
    "check_seconds",
    "check_text",
    "check_timeout",
    "make_settings",
]

MAX_SECONDS: float

@disjoint_base
class Settings:
    @property
    def is_client_side(self) -> bool: ...
    @property
    def logger(self) -> AnyLogger: ...
    @property
    def deflate(self) -> PerMessageDeflate | None: ...

def make_settings(
    *,
    is_client_side: bool,
    logger_name: str | AnyLogger | None,
    disconnect_on_exception: bool,
    enable_auto_ping: bool,
    auto_ping_idle_timeout: float,
    auto_ping_reply_timeout: float,
    auto_ping_strategy: WSAutoPingStrategy,
    enable_auto_pong: bool,
    coalesce_writes: bool,
    use_aiofastnet: bool | None,
    max_frame_size: int,
    read_buffer_init_size: int,
    assemble_messages: bool,
    max_message_size: int,
    max_fragments: int,
    permessage_deflate: bool | PerMessageDeflate | None,
    max_write_buffer: int | None,
    overflow_policy: OverflowPolicy,
    busy_poll: float = 0.0,
    kernel_timestamps: bool = False,
) -> Settings: ...
def check_flag(name: str, value: object) -> bool: ...
def check_text(name: str, value: object) -> str: ...
def check_seconds(name: str, value: object) -> float: ...
def check_timeout(name: str, value: object) -> float | None: ...
def check_count(
    name: str, value: object, least: int = 0, most: int = ..., unit: str = ""
) -> int: ...
