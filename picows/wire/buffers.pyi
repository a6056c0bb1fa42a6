from typing import final

from typing_extensions import disjoint_base

@final
class Block:
    # The C slot; Python sees it from 3.12 on (PEP 688).
    def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class BufferPool: ...
