from typing import final

from typing_extensions import Self

from picows.handshake.extension import Extension
from picows.wire.deflate import Deflater

__all__ = ["Outbound"]

@final
class Outbound:
    def __new__(
        cls,
        client: bool,
        deflater: Deflater | None,
        deflate_from: int,
        hooks: list[Extension] | None,
        proto: object,
    ) -> Self: ...
    def data_frame(self, data: str | bytes | bytearray | memoryview, fin: bool) -> bytes: ...
    def control_frame(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes: ...
    def close_frame(self, code: int | None, reason: str | None) -> bytes: ...
