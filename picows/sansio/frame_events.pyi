from dataclasses import dataclass
from inspect import Signature
from types import GenericAlias
from typing import Any, ClassVar, Generic, TypeVar

from typing_extensions import disjoint_base

__all__ = ["BytesMessage", "CloseConnection", "Event", "Message", "Ping", "Pong", "TextMessage"]

_T = TypeVar("_T", str, bytes | bytearray)

class Event: ...

@disjoint_base
@dataclass(frozen=True)
class Message(Event, Generic[_T]):
    __signature__: ClassVar[Signature]
    data: _T
    frame_finished: bool = ...
    message_finished: bool = ...
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

@dataclass(frozen=True)
class TextMessage(Message[str]): ...

@dataclass(frozen=True)
class BytesMessage(Message[bytes | bytearray]): ...

@disjoint_base
@dataclass(frozen=True)
class Ping(Event):
    __signature__: ClassVar[Signature]
    payload: bytes | bytearray = ...
    def response(self) -> Pong: ...

@disjoint_base
@dataclass(frozen=True)
class Pong(Event):
    __signature__: ClassVar[Signature]
    payload: bytes | bytearray = ...

@disjoint_base
@dataclass(frozen=True)
class CloseConnection(Event):
    __signature__: ClassVar[Signature]
    code: int
    reason: str | None = ...
    def response(self) -> CloseConnection: ...
