from typing import final

from typing_extensions import Self

from picows.handshake.extension import Extension
from picows.wire.deflate import Inflater

__all__ = ["Inbound"]

@final
class Inbound:
    def __new__(
        cls,
        client: bool,
        assemble: bool,
        max_message_size: int,
        max_fragments: int,
        inflater: Inflater | None,
        max_inflated_size: int,
        hooks: list[Extension] | None,
        proto: object,
    ) -> Self: ...
    def receive(self, data: bytes | bytearray | memoryview) -> int: ...
    def read(self) -> tuple[int, str | bytes, bool, bool] | None: ...
    @property
    def trailing_data(self) -> bytes: ...
