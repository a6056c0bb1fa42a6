from typing import final

from typing_extensions import Self

from picows.wire.deflate import Inflater

@final
class MessageReader:
    def __new__(
        cls,
        assemble: bool,
        max_message_size: int,
        max_fragments: int,
        inflater: Inflater | None,
        max_inflated_size: int,
    ) -> Self: ...
