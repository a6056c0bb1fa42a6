from enum import IntEnum

from typing_extensions import disjoint_base

__all__ = ["WSCloseCode", "WSFrame", "WSMsgType"]

class WSMsgType(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10

class WSCloseCode(IntEnum):
    NO_INFO = 0
    OK = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL_CLOSURE = 1006
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014

@disjoint_base
class WSFrame:
    @property
    def msg_type(self) -> WSMsgType: ...
    @property
    def fin(self) -> bool: ...
    @property
    def rsv1(self) -> bool: ...
    @property
    def rsv2(self) -> bool: ...
    @property
    def rsv3(self) -> bool: ...
    @property
    def last_in_buffer(self) -> bool: ...
    @property
    def payload_size(self) -> int: ...
    @property
    def tail_size(self) -> int: ...
    @property
    def recv_time(self) -> float | None: ...
    @property
    def kernel_time_ns(self) -> int | None: ...
    def get_payload_as_bytes(self) -> bytes: ...
    def get_payload_as_utf8_text(self) -> str: ...
    def get_payload_as_ascii_text(self) -> str: ...
    def get_payload_as_memoryview(self) -> memoryview: ...
    def get_close_code(self) -> WSCloseCode | int: ...
    def get_close_message(self) -> bytes | None: ...
    def get_close_reason(self) -> str | None: ...
    # PEP 688: at run time the private subclass has the C slot, on every Python.
    def __buffer__(self, flags: int, /) -> memoryview: ...
