from typing import final

__all__ = ["ZLIB", "Deflater", "Inflater"]

ZLIB: str

@final
class Inflater:
    def __init__(self, window_bits: int, context_takeover: bool) -> None: ...
    def inflate_bytes(self, data: bytes, fin: bool, limit: int) -> bytes: ...

@final
class Deflater:
    def __init__(
        self, window_bits: int, context_takeover: bool, level: int, memory_level: int
    ) -> None: ...
    def deflate_bytes(self, data: bytes, fin: bool) -> bytes: ...
