from typing import final

from typing_extensions import Self

from picows.wire.buffers import BufferPool
from picows.wire.frame import WSFrame

@final
class Frame(WSFrame): ...

@final
class Receiver:
    def __new__(
        cls,
        pool: BufferPool,
        expect_masked: bool,
        max_frame_size: int,
        first_capacity: int,
    ) -> Self: ...
    @property
    def violation_code(self) -> int: ...
    @property
    def violation_text(self) -> str | None: ...
    def receive_data(self, data: bytes | bytearray | memoryview) -> list[WSFrame]: ...
